package zookeeper_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/store"
	"github.com/orchestrator/orchestrator/internal/store/storetest"
	"github.com/orchestrator/orchestrator/internal/store/zookeeper"
	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

func open(t testing.TB, cfg zookeeper.Config) *zookeeper.Store {
	t.Helper()
	s, err := zookeeper.Open(cfg, zookeeper.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	storetest.Run(t, storetest.Fixture{Open: func(t testing.TB, name string) store.Store {
		path := "/" + strings.NewReplacer("/", "_").Replace(t.Name()) + "/" + name
		return open(t, zookeeper.Config{Servers: e.Servers(), Path: path, User: "master", Password: "secret"})
	}})
}

// The connection breaks again and again while many transactions are under way: each one that was acknowledged is there
// once, none took effect twice, and the order held. The counter's checks make any doubling or loss a conflict.
func TestNothingLostOrDoubledWhileConnectionsBreak(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	path := e.Base(t) + "/registry"
	p := zktest.NewProxy(t, e.Nodes[0].Client)
	s := open(t, zookeeper.Config{Servers: []string{p.Addr()}, Path: path})
	w, err := s.Claim(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	const n = 4000
	rng := rand.New(rand.NewPCG(1, 2))
	var wg sync.WaitGroup
	var mu sync.Mutex
	answered := 0
	breaks := 0
	for i := range n {
		txn := store.Txn{
			Checks: []store.Check{{Key: "counter", Version: uint64(i)}},
			Puts:   []store.Put{{Key: "counter", Value: fmt.Append(nil, i+1)}, {Key: fmt.Sprintf("agents/%d", i), Value: fmt.Append(nil, i)}},
		}
		if i%3 == 0 && i > 0 {
			txn.Deletes = []string{fmt.Sprintf("agents/%d", i-1)}
		}
		wg.Add(1)
		w.Submit(txn, func(err error) {
			defer wg.Done()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Errorf("transaction %d: %v", i, err)
			}
			if answered != i {
				t.Errorf("transaction %d was answered as number %d", i, answered)
			}
			answered++
		})
		if rng.IntN(200) == 0 {
			zktest.Eventually(t, 20*time.Second, "half of what was submitted is answered", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return answered > i/2
			})
			p.Break()
			breaks++
		}
	}
	wg.Wait()
	other := open(t, zookeeper.Config{Servers: e.Servers(), Path: path})
	entries, err := other.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if want := 1 + n - (n-1)/3; len(entries) != want {
		t.Errorf("%d entries, want %d", len(entries), want)
	}
	if c, err := other.Get(t.Context(), "counter"); err != nil || c.Version != n || string(c.Value) != fmt.Sprint(n) {
		t.Errorf("counter %+v, %v", c, err)
	}
	if breaks < 5 {
		t.Errorf("only %d breaks", breaks)
	}
}

// A leader that was cut off keeps its queue and learns, when it comes back, that another one has claimed the registry.
func TestCutOffLeaderIsFenced(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	path := e.Base(t) + "/registry"
	p := zktest.NewProxy(t, e.Nodes[0].Client)
	old := open(t, zookeeper.Config{Servers: []string{p.Addr()}, Path: path, SessionTimeout: 5 * time.Second})
	w, err := old.Claim(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Txn(t.Context(), store.Txn{Puts: []store.Put{{Key: "k", Value: []byte("1")}}}); err != nil {
		t.Fatal(err)
	}
	p.Stall(true)
	late := make(chan error, 2)
	for range 2 {
		w.Submit(store.Txn{Puts: []store.Put{{Key: "k", Value: []byte("late")}}}, func(err error) { late <- err })
	}
	next := open(t, zookeeper.Config{Servers: e.Servers(), Path: path})
	if _, err := next.Claim(t.Context(), 7); !errors.Is(err, store.ErrFenced) {
		t.Errorf("the same epoch again: %v", err)
	}
	w2, err := next.Claim(t.Context(), 8)
	if err != nil {
		t.Fatal(err)
	}
	p.Stall(false)
	for range 2 {
		if err := <-late; !errors.Is(err, store.ErrFenced) {
			t.Errorf("the old leader's write: %v", err)
		}
	}
	if err := w2.Txn(t.Context(), store.Txn{Checks: []store.Check{{Key: "k", Version: 1}}, Puts: []store.Put{{Key: "k", Value: []byte("2")}}}); err != nil {
		t.Error(err)
	}
}

// What something else did to the registry is noticed, not overwritten.
func TestForeignHands(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	path := e.Base(t) + "/registry"
	s := open(t, zookeeper.Config{Servers: e.Servers(), Path: path})
	w, err := s.Claim(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Txn(t.Context(), store.Txn{Puts: []store.Put{{Key: "a!b/ü%", Value: []byte("1")}}}); err != nil {
		t.Fatal(err)
	}
	c := e.Client(t, zk.Config{})
	found := ""
	for i := range 256 {
		dir := fmt.Sprintf("%s/kv/%02x", path, i)
		names, _, err := c.Children(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			found = dir + "/" + n
		}
	}
	if !strings.HasSuffix(found, "/a%21b!ü%25") {
		t.Errorf("the node is %q", found)
	}
	if _, err := c.Set(t.Context(), found, []byte("mine"), -1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "a!b/ü%"); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("get of a damaged value: %v", err)
	}
	if err := w.Txn(t.Context(), store.Txn{Puts: []store.Put{{Key: "a!b/ü%", Value: []byte("2")}}}); !errors.Is(err, store.ErrFenced) {
		t.Errorf("writing over a foreign write: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	p := zktest.NewProxy(t, "127.0.0.1:1")
	p.Refuse(true)
	s := open(t, zookeeper.Config{Servers: []string{p.Addr()}, Path: "/x"})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.Claim(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("claim: %v", err)
	}
	for _, path := range []string{"", "/", "x", "/a/"} {
		if _, err := zookeeper.Open(zookeeper.Config{Servers: []string{"h:1"}, Path: path}, zookeeper.Deps{}); err == nil {
			t.Errorf("path %q was taken", path)
		}
	}
}

// Row 16 of the goals: 50,000 agents admitted, 1 KB each, as single transactions.
func BenchmarkAdmit50k(b *testing.B) {
	e := zktest.Start(b, zktest.Options{HeapMB: 1024})
	for i := range b.N {
		s := open(b, zookeeper.Config{Servers: e.Servers(), Path: fmt.Sprintf("/registry%d", i)})
		w, err := s.Claim(b.Context(), 0)
		if err != nil {
			b.Fatal(err)
		}
		value := make([]byte, 1000)
		var wg sync.WaitGroup
		for j := range 50_000 {
			wg.Add(1)
			w.Submit(store.Txn{Puts: []store.Put{{Key: fmt.Sprintf("agents/%d", j), Value: value}}}, func(err error) {
				if err != nil {
					b.Error(err)
				}
				wg.Done()
			})
		}
		wg.Wait()
	}
}

// The suite's random histories each open several registries: thirty of them are enough of ZooKeeper's time.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("rapid.checks", "30"); err != nil {
		panic(err)
	}
	os.Exit(zktest.Tests{M: m}.Run())
}
