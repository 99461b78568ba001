package zksync

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

// The source deletes nodes with children and creates them again, with lower versions and counters, while no engine runs, and in the
// same batch as something that has to be mended; a target that held something else is overwritten. Nothing can lower a version, so
// the copies are made anew, and all is equal.
func TestRecreatedMeanwhile(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	ctx := t.Context()
	src, tgt := a.Client(t, zk.Config{}), b.Client(t, zk.Config{Auth: super()})
	make1 := func(c *zk.Client, top string, versions, kids, size int) {
		t.Helper()
		w := c.NewWindow(50)
		send := func(op zk.Op) {
			if err := w.Send(ctx, op, nil); err != nil {
				t.Fatal(err)
			}
		}
		send(zk.Create(top, nil, zk.OpenACL(), zk.Persistent))
		for i := range kids {
			p := fmt.Sprintf("%s/k%d", top, i)
			send(zk.Create(p, make([]byte, size), zk.OpenACL(), zk.Persistent))
			send(zk.Create(p+"/deep", nil, zk.OpenACL(), zk.Persistent))
		}
		for i := range versions {
			send(zk.Set(top, fmt.Append(nil, i), zk.AnyVersion))
			send(zk.Set(top+"/k0", fmt.Append(nil, i), zk.AnyVersion))
		}
		for range versions {
			send(zk.Create(top+"/gone", nil, zk.OpenACL(), zk.Persistent))
			send(zk.Delete(top+"/gone", 0))
		}
		if err := w.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(top string) {
		t.Helper()
		kids, _, err := src.Children(ctx, top)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range kids {
			for _, p := range []string{top + "/" + k + "/deep", top + "/" + k} {
				if err := src.Delete(ctx, p, -1); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := src.Delete(ctx, top, -1); err != nil {
			t.Fatal(err)
		}
	}
	czxid := func(path string) int64 {
		t.Helper()
		_, st, err := tgt.Get(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		return st.Czxid
	}
	// The target holds the same paths, with higher versions: to be overwritten.
	make1(tgt, "/over", 9, 3, 10)
	make1(src, "/over", 2, 2, 10)
	make1(src, "/app", 9, 3, 10)
	make1(src, "/big", 9, 12, 200_000) // does not fit into one request
	make1(src, "/same", 3, 2, 10)
	cfg := config(a, b)
	cfg.Overwrite = true
	e, stop := start(t, cfg)
	ready(t, e)
	equal(t, a, b, cfg.Scope)
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	same := czxid("/same")
	for _, top := range []string{"/app", "/big"} {
		remove(top)
	}
	make1(src, "/app", 1, 2, 10)
	make1(src, "/big", 2, 10, 200_000)
	make1(src, "/same/below", 1, 1, 10)
	old := czxid("/app")
	e, stop = start(t, cfg)
	ready(t, e)
	equal(t, a, b, cfg.Scope)
	if czxid("/app") == old {
		t.Error("/app was not made anew")
	}
	if czxid("/same") != same {
		t.Error("/same was made anew though nothing had happened to it")
	}
	// In one transaction with everything below it: nobody saw it without.
	if czxid("/app") != czxid("/app/k1/deep") {
		t.Error("/app was made anew in pieces")
	}

	// Together with a conflict the batch fails, and what was in it is mended from the state, not from the changes.
	if _, err := src.Create(ctx, "/c", nil, zk.OpenACL(), zk.Persistent); err != nil {
		t.Fatal(err)
	}
	make1(src, "/late", 9, 2, 10)
	equal(t, a, b, cfg.Scope)
	if err := tgt.Delete(ctx, "/c", -1); err != nil {
		t.Fatal(err)
	}
	ops := []zk.Op{zk.Set("/c", []byte("conflict"), -1)}
	for _, p := range []string{"/late/k0/deep", "/late/k0", "/late/k1/deep", "/late/k1", "/late"} {
		ops = append(ops, zk.Delete(p, -1))
	}
	for _, p := range []string{"/late", "/late/k0", "/late/k0/deep"} {
		ops = append(ops, zk.Create(p, []byte("new"), zk.OpenACL(), zk.Persistent))
	}
	if _, err := src.Do(ctx, zk.Multi(ops...)); err != nil {
		t.Fatal(err)
	}
	// Somebody's deletion of /c has cost nothing but its making again, which counts in "/" alone.
	equal(t, a, b, cfg.Scope)
	if len(e.Conflicts()) == 0 {
		t.Error("no conflict was recorded")
	}
	// What others raised, of a node that is still the one it was, is not made anew: there may be clients below it.
	late := czxid("/late")
	if _, err := tgt.Set(ctx, "/late", []byte("foreign"), -1); err != nil {
		t.Fatal(err)
	}
	if _, err := src.Set(ctx, "/late", []byte("mine"), -1); err != nil {
		t.Fatal(err)
	}
	equalBut(t, a, b, cfg.Scope, "version")
	if czxid("/late") != late {
		t.Error("a node with children was made anew because of a stranger's write")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// A target with any other history of the same paths, of every kind, ACL and version, is overwritten, and is equal; then the source goes
// on by itself, and is caught up with.
func TestOverwriteAnything(t *testing.T) {
	t.Parallel()
	links := uint64(3)
	if os.Getenv("ZK_LONG") != "" {
		links = 40
	}
	a, b := pair(t)
	for seed := range links {
		root := a.Base(t)
		if err := b.Client(t, zk.Config{}).MakePath(t.Context(), root, zk.OpenACL()); err != nil {
			t.Fatal(err)
		}
		live := func(e *zktest.Ensemble, seed uint64) {
			e.Churn(t, root, seed, 400)
			e.Storm(t, root, seed, 150)
		}
		var wg sync.WaitGroup
		wg.Go(func() { live(b, 100+seed) })
		live(a, seed)
		wg.Wait()
		cfg := config(a, b)
		cfg.Name, cfg.Scope, cfg.Overwrite = fmt.Sprintf("link%d", seed), Scope{Source: root}, true
		e, stop := start(t, cfg)
		ready(t, e)
		equal(t, a, b, cfg.Scope)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		live(a, 200+seed)
		e, stop = start(t, cfg)
		ready(t, e)
		equal(t, a, b, cfg.Scope)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}
