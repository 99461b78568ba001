package zksync

import (
	"testing"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
)

// A creation counts once in its parent's counter, in whatever order the counter and the new node are read: once the parent's reading
// was the first, and the node's was still to come; once the node's was, and the parent's reading is old.
func TestPatchCountsCreationsOnce(t *testing.T) {
	t.Parallel()
	newTree := func() *watcher {
		w := &watcher{root: "/p", t: tree.New(), had: map[string]given{}, owed: map[string]int32{}, dirty: map[string]bool{}}
		for p, st := range map[string]tree.Stat{"/p": {Czxid: 1, Creations: 1}} {
			if err := w.t.Put(p, nil, zk.OpenACL(), st); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.t.Put("/p/x", nil, zk.OpenACL(), tree.Stat{Czxid: 2, Version: 7}); err != nil {
			t.Fatal(err)
		}
		return w
	}
	put := func(w *watcher, path string, st tree.Stat) {
		if n := w.t.Get(path); n != nil && n.Czxid != st.Czxid {
			w.remove(path)
		}
		w.touch(path)
		if err := w.t.Put(path, nil, zk.OpenACL(), st); err != nil {
			t.Fatal(err)
		}
	}
	want := func(w *watcher, list ...reading) {
		t.Helper()
		got := w.patch()
		if len(got) != len(list) {
			t.Fatalf("patch %+v, want %+v", got, list)
		}
		for i, r := range list {
			if got[i].path != r.path || got[i].gone != r.gone || got[i].stat.Creations != r.stat.Creations {
				t.Errorf("patch %d is %+v, want %+v", i, got[i], r)
			}
		}
	}
	gone := func(p string) reading { return reading{path: p, gone: true} }
	there := func(p string, counter int32) reading { return reading{path: p, stat: tree.Stat{Creations: counter}} }

	w := newTree()
	put(w, "/p", tree.Stat{Czxid: 1, Creations: 2}) // x was created again, which its own event tells that waits
	w.dirty["/p/x"] = true
	want(w, there("/p", 1))
	w.dirty = map[string]bool{}
	put(w, "/p/x", tree.Stat{Czxid: 3})
	want(w, gone("/p/x"), there("/p", 2), there("/p/x", 0))
	want(w)

	w = newTree()
	put(w, "/p/x", tree.Stat{Czxid: 3}) // x is read first
	w.dirty["/p"] = true
	want(w, gone("/p/x"), there("/p", 2), there("/p/x", 0))
	w.dirty = map[string]bool{}
	put(w, "/p", tree.Stat{Czxid: 1, Creations: 2})
	want(w, there("/p", 2))
	put(w, "/p", tree.Stat{Czxid: 1, Creations: 5}) // three came and went unseen
	want(w, there("/p", 5))

	w = newTree()
	put(w, "/p", tree.Stat{Czxid: 9, Creations: 1}) // the parent itself is another
	put(w, "/p/x", tree.Stat{Czxid: 9})
	want(w, gone("/p/x"), gone("/p"), there("/p", 1), there("/p/x", 0))
}
