package zksync

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

func super() []zk.Auth {
	return []zk.Auth{{Scheme: "digest", Data: []byte("super:" + zktest.SuperPassword)}}
}

func config(a, b *zktest.Ensemble) Config {
	cfg := Config{SessionTimeout: 2 * time.Second}
	cfg.Source.Servers, cfg.Target.Servers = a.Servers(), b.Servers()
	cfg.Target.Auth = super()
	return cfg
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type logWriter struct{ t testing.TB }

func (w logWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// start runs an engine until the returned function is called, which returns what Run returned.
func start(t testing.TB, cfg Config) (*Engine, func() error) {
	t.Helper()
	e, err := New(cfg, Deps{Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stop := sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	return e, stop
}

func ready(t testing.TB, e *Engine) {
	t.Helper()
	select {
	case <-e.Ready():
	case <-time.After(4 * time.Minute):
		t.Fatalf("the engine is not ready: %+v", e.Status())
	}
}

// equal waits until the target has everything that the source had committed, and compares both by snapshots of their own.
func equal(t testing.TB, a, b *zktest.Ensemble, s Scope) {
	t.Helper()
	equalBut(t, a, b, s, "")
}

func equalBut(t testing.TB, a, b *zktest.Ensemble, s Scope, but string) {
	t.Helper()
	var diffs []tree.Difference
	deadline := time.Now().Add(3 * time.Minute)
	for {
		va, err := Side{Quorum: quorum(a)}.Read(context.Background(), "/")
		if err != nil {
			t.Fatal(err)
		}
		vb, err := Side{Quorum: quorum(b)}.Read(context.Background(), "/")
		if err != nil {
			t.Fatal(err)
		}
		diffs, err = Diff(va, vb, s, 20)
		if err != nil {
			t.Fatal(err)
		}
		diffs = slices.DeleteFunc(diffs, func(d tree.Difference) bool { return d.What == but })
		if len(diffs) == 0 {
			t.Logf("equal: %d nodes", va.Tree.Len())
			return
		}
		if time.Now().After(deadline) {
			break
		}
		time.Sleep(100 * time.Millisecond) // between polls of a condition with a deadline
	}
	t.Fatalf("source and target differ: %s", cmp.Diff([]tree.Difference(nil), diffs))
}

func quorum(e *zktest.Ensemble) []string {
	var q []string
	for _, n := range e.Nodes {
		q = append(q, n.Quorum)
	}
	return q
}

func pair(t testing.TB) (a, b *zktest.Ensemble) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() { a = zktest.Start(t, zktest.Options{}) })
	b = zktest.Start(t, zktest.Options{})
	wg.Wait()
	return a, b
}

// Seed, stream, stop, restart, source and target connections that break, somebody else's writes in the target: after each,
// everything is equal: data, ACLs, versions, kinds, counters.
func TestOneWay(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.Churn(t, a.Base(t), 1, 800)
	cfg := config(a, b)
	proxy := zktest.NewProxy(t, b.Nodes[0].Client)
	cfg.Target.Servers = []string{proxy.Addr()}
	cfg.Target.Quorum = quorum(b)
	source := zktest.NewProxy(t, a.Nodes[0].Quorum)
	cfg.Source.Quorum = []string{source.Addr()}
	e, stop := start(t, cfg)
	ready(t, e)
	equal(t, a, b, cfg.Scope)
	t.Log("live churn")
	a.Churn(t, a.Base(t), 2, 800)
	equal(t, a, b, cfg.Scope)

	t.Log("connections break")
	var wg sync.WaitGroup
	base := a.Base(t)
	wg.Go(func() { a.Churn(t, base, 3, 1500) })
	for i := range 10 {
		time.Sleep(50 * time.Millisecond) // faults at intervals
		if i%2 == 0 {
			proxy.Break()
		} else {
			source.Break()
		}
	}
	// At a barrier, in the middle of it all, both are equal.
	proof, err := Compare(t.Context(), Side{Quorum: quorum(a)}, Side{Quorum: quorum(b)}, Scope{}, "default", 20)
	if err != nil || proof.Barrier == 0 || len(proof.Differences) != 0 {
		t.Errorf("at a barrier under load: %+v, %v", proof, err)
	}
	wg.Wait()
	equal(t, a, b, cfg.Scope)
	// Read node by node, through client ports, they are equal as far as clients can see.
	proof, err = Compare(t.Context(), Side{Client: a.Client(t, zk.Config{Auth: super()})}, Side{Client: b.Client(t, zk.Config{Auth: super()})}, Scope{}, "", 20)
	if err != nil || proof.Exact || len(proof.Differences) != 0 {
		t.Errorf("read by clients: %+v, %v", proof, err)
	}
	srv := httptest.NewServer(Handler(e, nil))
	defer srv.Close()
	for path, want := range map[string]string{"/api/v1/sync/status": `"phase": "live"`, "/conflicts": "[]", "/healthz": "live"} {
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	st := e.Status()
	if st.DigestsBad != 0 || st.Digests < 200 || st.Conflicts != 0 {
		t.Errorf("status %+v", st)
	}
	t.Logf("%+v", st)

	t.Log("stopped and started")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	a.Churn(t, a.Base(t), 4, 300)
	e, stop = start(t, cfg)
	ready(t, e)
	equal(t, a, b, cfg.Scope)

	t.Log("foreign writes in the target")
	src, tgt := a.Client(t, zk.Config{}), b.Client(t, zk.Config{Auth: super()})
	ctx := t.Context()
	for _, p := range []string{"/leaf", "/dir", "/dir/x", "/gone", "/kept"} {
		if _, err := src.Create(ctx, p, []byte("1"), zk.OpenACL(), zk.Persistent); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, a, b, cfg.Scope)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(tgt.Set(ctx, "/leaf", []byte("foreign"), -1))
	must(nil, tgt.Delete(ctx, "/gone", -1))
	must(tgt.Create(ctx, "/new", []byte("foreign"), zk.OpenACL(), zk.Persistent))
	must(src.Set(ctx, "/leaf", []byte("2"), -1))
	must(src.Set(ctx, "/gone", []byte("2"), -1))
	must(src.Create(ctx, "/new", []byte("mine"), zk.OpenACL(), zk.Persistent))
	must(src.Set(ctx, "/kept", []byte("2"), -1))
	equal(t, a, b, cfg.Scope)
	if c := e.Conflicts(); len(c) == 0 {
		t.Error("no conflict was recorded")
	} else {
		t.Logf("conflicts: %+v", c)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	src, tgt := a.Client(t, zk.Config{}), b.Client(t, zk.Config{})
	for _, c := range []*zk.Client{src, tgt} {
		if _, err := c.Create(t.Context(), "/x", []byte(fmt.Sprint(c == src)), zk.OpenACL(), zk.Persistent); err != nil {
			t.Fatal(err)
		}
	}
	cfg := config(a, b)
	e, _ := start(t, cfg)
	run := func(e *Engine) string {
		zktest.Eventually(t, 30*time.Second, "the engine stops", func() bool { return e.Status().Phase == PhaseStopped })
		return e.Status().Error
	}
	if err := run(e); !strings.Contains(err, "/x") || !strings.Contains(err, "--overwrite") {
		t.Errorf("a target that is not empty: %s", err)
	}
	if d, _, err := tgt.Get(t.Context(), "/x"); err != nil || string(d) != "false" {
		t.Errorf("the target was touched: %q %v", d, err)
	}
	// What an engine that was killed in the middle of its seed has left is not a stranger's.
	killed := cfg
	killed.Name, killed.Scope = "killed", Scope{Source: "/x"}
	if err := tgt.MakePath(t.Context(), stateRoot+"/killed", zk.OpenACL()); err != nil {
		t.Fatal(err)
	}
	half := `{"position":"0x1","begun":true,"seeded":false,"scope":{"Source":"/x","Target":"/x"}}`
	if _, err := tgt.Create(t.Context(), stateRoot+"/killed/state", []byte(half), zk.OpenACL(), zk.Persistent); err != nil {
		t.Fatal(err)
	}
	if _, err := tgt.Create(t.Context(), "/x/half", nil, zk.OpenACL(), zk.Persistent); err != nil {
		t.Fatal(err)
	}
	e, stop := start(t, killed)
	ready(t, e)
	equal(t, a, b, killed.Scope)
	if err := stop(); err != nil {
		t.Error(err)
	}
	// Without super, a node of somebody else's cannot be kept.
	cfg.Overwrite = true
	cfg.Target.Auth = nil
	if _, err := src.Create(t.Context(), "/locked", nil, zk.ReadACL(), zk.Persistent); err != nil {
		t.Fatal(err)
	}
	cfg.Scope.Source, cfg.Name = "/locked", "locked"
	e, _ = start(t, cfg)
	ready(t, e)
	super := a.Client(t, zk.Config{Auth: super()})
	if _, err := super.Create(t.Context(), "/locked/child", nil, zk.ReadACL(), zk.Persistent); err != nil {
		t.Fatal(err)
	}
	if err := run(e); !strings.Contains(err, "super") {
		t.Errorf("without permission: %s", err)
	}
	// Another root in the target, with an excluded subtree.
	must := func(p string) {
		if _, err := src.Create(t.Context(), p, nil, zk.OpenACL(), zk.PersistentSequential); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{"/app", "/app/in", "/app/in/seq-", "/app/out", "/app/out/x"} {
		if strings.HasSuffix(p, "-") {
			for range 5 {
				must(p)
			}
			continue
		}
		if _, err := src.Create(t.Context(), p, nil, zk.OpenACL(), zk.Persistent); err != nil {
			t.Fatal(err)
		}
	}
	cfg = config(a, b)
	cfg.Name, cfg.Scope = "app", Scope{Source: "/app", Target: "/copy/of/app", Exclude: []string{"/app/out"}}
	e, _ = start(t, cfg)
	ready(t, e)
	must("/app/in/seq-")
	if _, err := src.Create(t.Context(), "/app/out/y", nil, zk.OpenACL(), zk.Persistent); err != nil {
		t.Fatal(err)
	}
	equal(t, a, b, cfg.Scope)
	// The next sequential name is what it would be in the source, where six were made.
	p, err := tgt.Create(t.Context(), "/copy/of/app/in/next-", nil, zk.OpenACL(), zk.EphemeralSequential)
	if err != nil || zk.Name(p) != "next-0000000006" {
		t.Errorf("%q %v", p, err)
	}
	if ok, _, _ := tgt.Exists(t.Context(), "/copy/of/app/out"); ok {
		t.Error("the excluded subtree is in the target")
	}
}
