package zksync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/learner"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
)

// fakeSource is a tree that changes between any two answers to a watcher, and tells it events in order with them as a server does.
type fakeSource struct {
	rng     *rand.Rand
	t       *tree.Tree
	w       *watcher
	zxid    int64
	oneShot bool
	data    map[string]bool // watches that are set, when they are one-shot
	child   map[string]bool
	busy    bool // it goes on changing
	broken  bool // answers may be lost
}

var (
	fakePaths = []string{"/r", "/r/a", "/r/b", "/r/a/x", "/r/a/y", "/r/a/x/1", "/r/a/x/2", "/r/b/z"}
	errBroken = errors.New("connection broken")
)

func (s *fakeSource) event(t zk.EventType, path string) { s.w.event(zk.Event{Type: t, Path: path}) }

func (s *fakeSource) tellCreated(path string) {
	switch parent := zk.Parent(path); {
	case !s.oneShot:
		s.event(zk.EventCreated, path)
	case s.child[parent]:
		delete(s.child, parent)
		s.event(zk.EventChildrenChanged, parent)
	}
}

func (s *fakeSource) tellDeleted(path string) {
	if !s.oneShot {
		s.event(zk.EventDeleted, path)
		return
	}
	if s.data[path] || s.child[path] {
		delete(s.data, path)
		delete(s.child, path)
		s.event(zk.EventDeleted, path)
	}
	if parent := zk.Parent(path); s.child[parent] {
		delete(s.child, parent)
		s.event(zk.EventChildrenChanged, parent)
	}
}

func (s *fakeSource) create(path string) {
	parent := s.t.Get(zk.Parent(path))
	if parent == nil || s.t.Get(path) != nil {
		return
	}
	s.zxid++
	st := parent.Stat
	st.Creations, st.Pzxid = st.Creations+1, s.zxid
	_ = s.t.Put(parent.Path, parent.Data, zk.OpenACL(), st)
	_ = s.t.Put(path, fmt.Append(nil, s.zxid), zk.OpenACL(), tree.Stat{Czxid: s.zxid})
	s.tellCreated(path)
}

// remove deletes a node, after everything below it.
func (s *fakeSource) remove(path string) {
	var below []string
	for n := range s.t.Walk(path) {
		below = append(below, n.Path)
	}
	for _, p := range slices.Backward(below) {
		s.zxid++
		s.t.Remove(p)
		s.tellDeleted(p)
	}
}

// change does something, or several things at once.
func (s *fakeSource) change() {
	path := fakePaths[s.rng.IntN(len(fakePaths))]
	switch s.rng.IntN(5) {
	case 0:
		s.create(path)
	case 1:
		if path != "/r" {
			s.remove(path)
		}
	case 2, 3: // made anew, with some of what was below it
		if path == "/r" {
			return
		}
		s.remove(path)
		for _, p := range fakePaths {
			if zk.Within(p, path) && (p == path || s.rng.IntN(2) == 0) {
				s.create(p)
			}
		}
	default:
		n := s.t.Get(path)
		if n == nil {
			return
		}
		s.zxid++
		st := n.Stat
		st.Version++
		_ = s.t.Put(path, fmt.Append(nil, s.zxid), zk.OpenACL(), st)
		if !s.oneShot || s.data[path] {
			delete(s.data, path)
			s.event(zk.EventDataChanged, path)
		}
	}
}

func (s *fakeSource) between() error {
	for s.busy && s.rng.IntN(3) == 0 {
		s.change()
	}
	if s.broken && s.rng.IntN(40) == 0 {
		return errBroken
	}
	return nil
}

// ask answers as askServer: children, ACL and data of each node, one after the other.
func (s *fakeSource) ask(_ context.Context, paths []string) ([]lookAt, error) {
	nodes := make([]lookAt, len(paths))
	for i, p := range paths {
		n := &nodes[i]
		n.path = p
		for part := range 3 {
			if err := s.between(); err != nil {
				return nil, err
			}
			have := s.t.Get(p)
			if have == nil {
				n.gone = true
				continue
			}
			n.czxid[part] = have.Czxid
			switch part {
			case 0:
				for c := range have.Children() {
					n.children = append(n.children, c.Name())
				}
				n.creation = have.Creations
				s.child[p] = true
			case 1:
				n.acl = zk.OpenACL()
			default:
				n.data, n.stat = have.Data, have.Stat
				n.stat.Creations = n.creation
				s.data[p] = true
			}
		}
	}
	return nodes, s.between()
}

// fakeTarget holds what patches make of a target. Its counters only rise, as real ones.
type fakeTarget struct {
	nodes    map[string]*tree.Node
	counters map[string]int32
}

func (f *fakeTarget) apply(patch []reading) error {
	for _, r := range patch {
		if r.gone {
			if f.nodes[r.path] == nil {
				return fmt.Errorf("%s is deleted and was not there", r.path)
			}
			for p := range f.nodes {
				if p != r.path && zk.Within(p, r.path) {
					return fmt.Errorf("%s is deleted before %s", r.path, p)
				}
			}
			delete(f.nodes, r.path)
			delete(f.counters, r.path)
		}
	}
	created := map[string]int32{}
	for _, r := range patch {
		if r.gone {
			continue
		}
		have := f.nodes[r.path]
		switch {
		case have == nil:
			if f.nodes[zk.Parent(r.path)] == nil && r.path != "/r" {
				return fmt.Errorf("%s is created before its parent", r.path)
			}
			created[zk.Parent(r.path)]++
			f.counters[zk.Parent(r.path)]++
		case have.Version > r.stat.Version:
			return fmt.Errorf("%s: version %d cannot become %d", r.path, have.Version, r.stat.Version)
		}
		f.nodes[r.path] = &tree.Node{Path: r.path, Data: r.data, Stat: r.stat}
	}
	for _, r := range patch {
		if r.gone {
			continue
		}
		if f.counters[r.path] > r.stat.Creations {
			return fmt.Errorf("%s: counter %d cannot become %d", r.path, f.counters[r.path], r.stat.Creations)
		}
		f.counters[r.path] = r.stat.Creations
	}
	for p := range created {
		if n := f.nodes[p]; n != nil && f.counters[p] != n.Creations {
			return fmt.Errorf("%s: counter %d, though it was given with %d", p, f.counters[p], n.Creations)
		}
	}
	return nil
}

// Whatever happens between any two answers, in whatever order answers and events come, and when connections break: no patch asks for
// what a target cannot do (a lower version or counter), and when the source rests, the target is equal. A thousand histories
// of either mode, fifty thousand with ZK_LONG; the seed of one that fails is told.
func TestWatcherModel(t *testing.T) {
	t.Parallel()
	histories := uint64(1000)
	if os.Getenv("ZK_LONG") != "" {
		histories = 50_000
	}
	for _, oneShot := range []bool{false, true} {
		t.Run(fmt.Sprintf("one-shot=%v", oneShot), func(t *testing.T) {
			t.Parallel()
			for seed := range histories {
				if err := history(t.Context(), seed, oneShot); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		})
	}
}

func history(ctx context.Context, seed uint64, oneShot bool) error {
	f := newFollower(nil, learner.Deps{}, 1, 1<<20, slog.New(slog.DiscardHandler))
	s := &fakeSource{rng: rand.New(rand.NewPCG(seed, 11)), t: tree.New(), oneShot: oneShot, data: map[string]bool{}, child: map[string]bool{}, zxid: 1}
	w := newWatcher(f, nil, "/r", 0)
	w.ask = s.ask
	w.t, w.had, w.owed = tree.New(), map[string]given{}, map[string]int32{}
	s.w = w
	for _, p := range fakePaths {
		s.create(p)
	}
	w.dirty = map[string]bool{}
	// The first reading is a snapshot.
	s.busy = true
	if err := w.read(ctx, map[string]bool{"/r": true}); err != nil {
		return err
	}
	clear(w.had)
	target := &fakeTarget{nodes: map[string]*tree.Node{}, counters: map[string]int32{}}
	for n := range w.t.Walk("/r") {
		target.nodes[n.Path] = &tree.Node{Path: n.Path, Data: n.Data, Stat: n.Stat}
		target.counters[n.Path] = n.Creations
	}
	round := func(dirty map[string]bool) error {
		err := w.some(ctx, dirty)
		for _, ev := range f.take() {
			if err := target.apply(ev.patch); err != nil {
				return err
			}
		}
		return err
	}
	s.broken = true
	for i := range 60 {
		if i == 30 {
			s.busy, s.broken = false, false
		}
		w.mu.Lock()
		dirty := w.dirty
		w.dirty = map[string]bool{}
		w.mu.Unlock()
		if len(dirty) == 0 && !s.busy {
			break
		}
		err := round(dirty)
		for errors.Is(err, errBroken) { // as follow does it
			w.mu.Lock()
			w.dirty = map[string]bool{}
			w.mu.Unlock()
			s.data, s.child = map[string]bool{}, map[string]bool{}
			all := map[string]bool{"/r": true}
			for n := range w.t.Walk("/r") {
				all[n.Path] = true
			}
			for s.rng.IntN(2) == 0 { // what happened meanwhile was told to nobody
				s.change()
				w.dirty = map[string]bool{}
			}
			err = round(all)
		}
		if err != nil {
			return err
		}
	}
	want := map[string]string{}
	for n := range s.t.Walk("/r") {
		want[n.Path] = fmt.Sprintf("%s version %d counter %d", n.Data, n.Version, n.Creations)
	}
	got := map[string]string{}
	for p, n := range target.nodes {
		got[p] = fmt.Sprintf("%s version %d counter %d", n.Data, n.Version, target.counters[p])
	}
	if !maps.Equal(want, got) {
		return fmt.Errorf("the source has %v, the target %v", want, got)
	}
	return nil
}
