package learner_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/jute"
	"github.com/orchestrator/orchestrator/internal/zk/learner"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/txn"
	"github.com/orchestrator/orchestrator/internal/zk/zkfile"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

// shadow replays the stream and checks every digest that it carries.
type shadow struct {
	mu        sync.Mutex
	t         *tree.Tree
	live      bool
	snapshots int
	diffs     int
	matched   int
	wrong     []string
	odd       int
}

func (s *shadow) Begin(t *tree.Tree) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = false
	if t == nil {
		s.diffs++
		return nil
	}
	s.snapshots++
	s.t = t
	return nil
}

func (s *shadow) Txn(x *txn.Txn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	odd := s.t.Apply(x)
	if !s.live && s.snapshots > 0 {
		return nil
	}
	s.odd += odd
	if equal, known := s.t.Verify(x); known && equal {
		s.matched++
	} else if known {
		s.wrong = append(s.wrong, fmt.Sprintf("0x%x type %d", x.Zxid, x.Type))
	}
	return nil
}

func (s *shadow) Live() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = true
	return nil
}
func (s *shadow) Idle() error { return nil }

func (s *shadow) at() (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.t.Zxid(), s.live
}

func follow(t *testing.T, addrs []string, s *shadow) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	last, _ := s.at()
	done := make(chan error, 1)
	go func() {
		err := learner.Run(ctx, learner.Config{Addrs: addrs, Last: last}, learner.Deps{}, s)
		if ctx.Err() == nil {
			t.Error(err)
		}
		done <- err
	}()
	zktest.Eventually(t, 20*time.Second, "the learner is live", func() bool {
		select {
		case err := <-done:
			t.Fatal(err)
		default:
		}
		_, live := s.at()
		return live
	})
	return func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		s.mu.Lock()
		s.live = false
		s.mu.Unlock()
	}
}

// caughtUp waits until the shadow has everything that was committed before.
func caughtUp(t *testing.T, c *zk.Client, s *shadow) {
	t.Helper()
	// A create's zxid is a transaction of which the shadow must know.
	r, err := c.Do(t.Context(), zk.Create2("/mark-", nil, zk.OpenACL(), zk.PersistentSequential))
	if err != nil {
		t.Fatal(err)
	}
	zktest.Eventually(t, 30*time.Second, "the shadow has caught up", func() bool {
		z, _ := s.at()
		return z >= r.Zxid
	})
}

// The whole circle with a real server: from the first transaction, under load, again by DIFF and by SNAP, every digest equal;
// the server's own files hold the same; a server started from a file of ours has the same tree.
func TestShadowIsExact(t *testing.T) {
	t.Parallel()
	e := zktest.Start(t, zktest.Options{})
	n := e.Nodes[0]
	c := e.Client(t, zk.Config{})
	addrs, err := learner.Discover(t.Context(), c)
	if err != nil || len(addrs) != 1 || addrs[0] != n.Quorum {
		t.Fatalf("quorum ports %q, %v; want %s", addrs, err, n.Quorum)
	}
	do := func(path string) {
		if _, err := c.Create(t.Context(), path, nil, zk.OpenACL(), zk.Persistent); err != nil {
			t.Fatal(err)
		}
	}
	s := &shadow{t: tree.New()}
	stop := follow(t, addrs, s)
	do("/one")
	e.Churn(t, "/one", 1, 1500)
	caughtUp(t, c, s)
	stop()
	if s.odd != 0 {
		t.Errorf("%d operations found the shadow not as they expected", s.odd)
	}
	// Missed transactions come as DIFF.
	e.Churn(t, "/one", 2, 300)
	stop = follow(t, addrs, s)
	caughtUp(t, c, s)
	stop()
	if s.snapshots > 1 || s.diffs == 0 {
		t.Errorf("%d snapshots, %d diffs; want the second time to be by diff", s.snapshots, s.diffs)
	}
	// A learner of a foreign past gets a snapshot, in the middle of load.
	do("/two")
	var wg sync.WaitGroup
	wg.Go(func() { e.Churn(t, "/two", 3, 1500) })
	fresh := &shadow{t: tree.New()}
	fresh.t.SetZxid(-2)
	stop = follow(t, addrs, fresh)
	wg.Wait()
	stopOld := follow(t, addrs, s)
	caughtUp(t, c, fresh)
	caughtUp(t, c, s)
	stop()
	stopOld()
	if fresh.snapshots != 1 {
		t.Errorf("%d snapshots; want 1", fresh.snapshots)
	}
	t.Logf("digests: %d and %d equal; %v", s.matched, fresh.matched, fresh.t)
	s.wrong, fresh.wrong = s.wrong[:min(5, len(s.wrong))], fresh.wrong[:min(5, len(fresh.wrong))]
	if len(s.wrong)+len(fresh.wrong) > 0 || s.matched < 400 || fresh.matched < 50 {
		t.Errorf("digests differ: %v %v; equal: %d, %d", s.wrong, fresh.wrong, s.matched, fresh.matched)
	}
	same := func(what string, a, b *tree.Tree) {
		t.Helper()
		a.Get("/").Data, b.Get("/").Data = nil, nil
		skip := func(n *tree.Node) bool { return zk.Within(n.Path, "/zookeeper") }
		if diff := cmp.Diff([]tree.Difference(nil), tree.Compare(a, "/", b, "/", tree.AllAspects, skip, 10)); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
		if a.Digest() != b.Digest() {
			t.Errorf("%s: digest %x, want %x", what, b.Digest(), a.Digest())
		}
	}
	// "/mark" nodes were made after s was caught up: let fresh's tree be the measure once both have all.
	stop = follow(t, addrs, s)
	stopOld = follow(t, addrs, fresh)
	caughtUp(t, c, s)
	z, _ := s.at()
	zktest.Eventually(t, 10*time.Second, "both have all", func() bool { f, _ := fresh.at(); return f == z })
	stop()
	stopOld()
	same("by snapshot against from the beginning", s.t, fresh.t)
	c.Abandon()
	n.Kill()
	files, err := zkfile.Load(filepath.Join(n.Dir, "data", "version-2"))
	if err != nil {
		t.Fatal(err)
	}
	if files.Zxid() == s.t.Zxid() { // the abandoned session may have been closed meanwhile
		same("the server's files", s.t, files)
	} else if files.Zxid() < s.t.Zxid() {
		t.Errorf("files end at 0x%x, the stream at 0x%x", files.Zxid(), s.t.Zxid())
	}

	// A server that starts from our file.
	data := filepath.Join(n.Dir, "data", "version-2")
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := zkfile.WriteSnapshot(data, s.t); err != nil {
		t.Fatal(err)
	}
	if err := zkfile.WriteEpoch(data, s.t.Zxid()>>32+1000); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	n.Await(t)
	again := &shadow{t: tree.New()}
	again.t.SetZxid(-2)
	stop = follow(t, addrs, again)
	stop()
	skip := func(n *tree.Node) bool { return zk.Within(n.Path, "/zookeeper") || n.Kind() == zk.KindEphemeral }
	if diff := cmp.Diff([]tree.Difference(nil), tree.Compare(s.t, "/", again.t, "/", tree.AllAspects, skip, 10)); diff != "" {
		t.Errorf("a server started from our snapshot: %s", diff)
	}
	if z, _ := again.at(); z>>32 <= s.t.Zxid()>>32+999 {
		t.Errorf("the new server's epoch is %d", z>>32)
	}
	kinds := map[zk.Kind]int{}
	for n := range s.t.Walk("/") {
		kinds[n.Kind()]++
	}
	if kinds[zk.KindContainer] == 0 || kinds[zk.KindTTL] == 0 {
		t.Errorf("kinds in the tree: %v", kinds)
	}
}

func TestSnapshotFile(t *testing.T) {
	t.Parallel()
	tr := tree.New()
	for i := range 100 {
		tr.Apply(&txn.Txn{Header: txn.Header{ClientID: int64(i % 3), Zxid: int64(i + 1), Time: int64(i), Type: zk.OpCreate}, Ops: []txn.Op{{
			Type: zk.OpCreate, Path: fmt.Sprintf("/n%d", i), Data: []byte("x"), ACL: zk.ReadACL(), Ephemeral: i%2 == 0, ParentCVersion: int32(i + 1),
		}}})
	}
	var b bytes.Buffer
	if err := zkfile.EncodeSnapshot(&b, tr); err != nil {
		t.Fatal(err)
	}
	back, err := zkfile.DecodeSnapshot(bytes.NewReader(b.Bytes()))
	if err != nil || back.Digest() != tr.Digest() || back.Len() != tr.Len() {
		t.Fatalf("%v, %v, want %v", err, back, tr)
	}
	for i := 0; i < b.Len()-50; i += 97 { // any one byte changed is noticed
		bad := bytes.Clone(b.Bytes())
		bad[i] ^= 1
		if _, err := zkfile.DecodeSnapshot(bytes.NewReader(bad)); err == nil && i > 16 {
			t.Errorf("a change at byte %d was not noticed", i)
		}
		if _, err := zkfile.DecodeSnapshot(bytes.NewReader(b.Bytes()[:i])); err == nil {
			t.Errorf("a file cut at %d was taken", i)
		}
	}
	dir := t.TempDir()
	w, err := zkfile.CreateLog(dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if err := w.Append(&txn.Txn{Header: txn.Header{Zxid: int64(i + 1), Type: zk.OpCreate}, Ops: []txn.Op{{Type: zk.OpCreate, Path: fmt.Sprintf("/n%d", i), ParentCVersion: int32(i + 1)}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	loaded, err := zkfile.Load(dir)
	if err != nil || loaded.Zxid() != 10 || loaded.Get("/n9") == nil {
		t.Fatal(loaded, err)
	}
}

func FuzzSnapshot(f *testing.F) {
	var b bytes.Buffer
	_ = zkfile.EncodeSnapshot(&b, tree.New())
	f.Add(b.Bytes()[16:])
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := tree.Read(jute.NewStream(bytes.NewReader(b), 1<<16))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := tr.Write(&out); err != nil {
			t.Fatal(err)
		}
		again, err := tree.Read(jute.NewStream(&out, 1<<16))
		if err != nil || again.Digest() != tr.Digest() {
			t.Fatal(again, err)
		}
	})
}

// Whatever a quorum port sends, the learner ends with an error and does not panic.
func FuzzLearner(f *testing.F) {
	hello := func(kinds ...int32) []byte {
		var b []byte
		for _, k := range kinds {
			b = jute.AppendInt(jute.AppendBuffer(jute.AppendLong(jute.AppendInt(b, k), 5), []byte("x")), -1)
		}
		return b
	}
	f.Add(hello(17, 13, 2, 4, 8, 9, 19, 10, 12, 5))
	f.Add(hello(17, 15))
	f.Fuzz(func(t *testing.T, b []byte) {
		dial := func(context.Context, string, string) (net.Conn, error) {
			mine, yours := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, mine) }()
			go func() {
				_, _ = mine.Write(b)
				mine.Close()
			}()
			return yours, nil
		}
		if err := learner.Run(t.Context(), learner.Config{Addrs: []string{"x:1"}}, learner.Deps{Dial: dial}, &shadow{t: tree.New()}); err == nil {
			t.Fatal("no error at the end")
		}
	})
}

func TestQuorumAddrs(t *testing.T) {
	t.Parallel()
	got := learner.QuorumAddrs("server.1=a:1:2:participant;0.0.0.0:9\nserver.2=[::1]:3:4:observer;x\nserver.3=b:5:6|c:7:8;9\nversion=1\nserver.4=broken\n")
	if diff := cmp.Diff([]string{"a:1", "[::1]:3", "b:5", "c:7"}, got); diff != "" {
		t.Error(diff)
	}
}
