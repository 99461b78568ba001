package zksync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
)

// reading is a node of the source as it was read through a client port.
type reading struct {
	path string
	gone bool
	data []byte
	acl  []zk.ACL
	stat tree.Stat
}

// watcher follows a source whose quorum port can't be reached, through its client port: by a recursive watch where the server has
// those (3.6+), by one-shot watches on every node where it does not (3.4, 3.5). It gives the engine the nodes that changed, as
// they were read. What is weaker than the stream: changes of a node that come close together are seen as one, multis fall
// apart, kinds are not told, ACL changes, which have no event, are seen at the next full reading only, and nothing
// proves the shadow. What was read is exact: data, version, children and counter of one moment for each node.
type watcher struct {
	f     *follower
	c     *zk.Client
	root  string
	every time.Duration // between full readings
	t     *tree.Tree    // what was read
	zxid  int64         // everything that was committed up to here has been read
	// had is what the engine was given of the nodes that have changed in t since.
	had map[string]given
	// owed are the counters of nodes that the engine was given lower, or higher, than they were read.
	owed map[string]int32
	// oneShot is set when the server refused a recursive watch.
	oneShot bool
	watch   *zk.Watch
	ask     func(ctx context.Context, paths []string) ([]lookAt, error)

	mu    sync.Mutex
	dirty map[string]bool
	lost  bool // events may be missing: everything is to be read
	wake  chan struct{}
}

func newWatcher(f *follower, c *zk.Client, root string, every time.Duration) *watcher {
	w := &watcher{f: f, c: c, root: root, every: every, dirty: map[string]bool{}, wake: make(chan struct{}, 1)}
	w.watch = zk.NewWatch(w.event)
	w.ask = w.askServer
	return w
}

// event runs on the client's callback goroutine.
func (w *watcher) event(e zk.Event) {
	w.mu.Lock()
	if e.Type == zk.EventSession {
		w.lost = true
	} else {
		w.dirty[e.Path] = true
		if e.Type == zk.EventCreated || e.Type == zk.EventDeleted {
			w.dirty[zk.Parent(e.Path)] = true
		}
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run follows until ctx ends.
func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		w.f.fail(err)
		if errors.Is(err, zk.ErrNoAuth) || errors.Is(err, zk.ErrAuthFailed) {
			_ = w.f.push(event{refused: fmt.Errorf("source: %w; --watches must be able to read everything below %s: --source-auth digest:super:PASSWORD, or an identity that the ACLs there permit to read, or --source-sasl", err, w.root)}, 0) // fails for transactions only
			return
		}
		w.f.log.Info("source connection lost", "error", err)
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// errLost says that events may be missing.
var errLost = errors.New("the connection was interrupted: everything is read anew")

// follow reads everything, then what events name, until something may have been missed.
func (w *watcher) follow(ctx context.Context) error {
	if err := w.c.WaitConnected(ctx); err != nil {
		return err
	}
	w.mu.Lock()
	w.lost, w.dirty = false, map[string]bool{}
	w.mu.Unlock()
	// The watch comes first, so that nothing happens unseen between the reading and it.
	if !w.oneShot {
		_, err := w.c.Do(ctx, zk.AddWatch(w.root, zk.WatchPersistentRecursive, w.watch))
		if errors.Is(err, zk.ErrUnimplemented) {
			w.oneShot = true
			w.f.log.Warn("the source has no recursive watches (3.6+): every node gets watches of its own", "path", w.root)
			return err // such a server closes the connection as well
		}
		if err != nil {
			return err
		}
	}
	if err := w.everything(ctx); err != nil {
		return err
	}
	full := time.NewTicker(w.every)
	defer full.Stop()
	for {
		select {
		case <-w.wake:
		case <-full.C:
			if err := w.everything(ctx); err != nil {
				return err
			}
			continue
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		// One patch at a time: what happens while the target works on it is read once, later.
		if err := w.f.empty(ctx); err != nil {
			return err
		}
		if err := w.sync(ctx); err != nil {
			return err
		}
		w.mu.Lock()
		dirty, lost := w.dirty, w.lost
		w.dirty = map[string]bool{}
		w.mu.Unlock()
		if lost {
			return errLost
		}
		if len(dirty) == 0 {
			continue
		}
		if err := w.some(ctx, dirty); err != nil {
			return err
		}
	}
}

// sync learns how far the server is: the events of everything up to there have come before the answer.
func (w *watcher) sync(ctx context.Context) error {
	r, err := w.c.Do(ctx, zk.Sync("/"))
	if err == nil {
		w.zxid = max(w.zxid, r.Zxid)
	}
	return err
}

// everything reads the whole source. The first time it is given as a snapshot, later what differs from what was given.
func (w *watcher) everything(ctx context.Context) error {
	if w.t == nil {
		w.t, w.had, w.owed = tree.New(), map[string]given{}, map[string]int32{}
		for p := zk.Parent(w.root); p != "/" && w.t.Get(p) == nil; p = zk.Parent(p) {
			// The way down to the root is not ours to follow; the tree needs it to hold what is below.
			if err := w.way(p); err != nil {
				return err
			}
		}
		err := w.sync(ctx)
		if err == nil {
			err = w.read(ctx, map[string]bool{w.root: true})
		}
		if err != nil {
			w.t = nil
			return err
		}
		own, err := copyTree(w.t)
		if err != nil {
			return err
		}
		clear(w.had)
		own.SetZxid(w.zxid)
		return errors.Join(w.f.Begin(own), w.f.Live())
	}
	if err := w.f.empty(ctx); err != nil {
		return err
	}
	all := map[string]bool{w.root: true}
	for n := range w.t.Walk(w.root) {
		all[n.Path] = true
	}
	w.f.fail(nil)
	if err := w.sync(ctx); err != nil {
		return err
	}
	if err := w.some(ctx, all); err != nil {
		return err
	}
	return w.f.Live()
}

func (w *watcher) way(path string) error {
	if w.t.Get(zk.Parent(path)) == nil {
		if err := w.way(zk.Parent(path)); err != nil {
			return err
		}
	}
	return w.t.Put(path, nil, zk.OpenACL(), tree.Stat{})
}

func copyTree(t *tree.Tree) (*tree.Tree, error) {
	own := tree.New()
	for n := range t.Walk("/") {
		if n.Path == "/" || zk.Within(n.Path, "/zookeeper") {
			continue
		}
		if err := own.Put(n.Path, n.Data, t.ACL(n), n.Stat); err != nil {
			return nil, err
		}
	}
	own.SetZxid(t.Zxid())
	return own, nil
}

func (w *watcher) some(ctx context.Context, dirty map[string]bool) error {
	// What was read before an error is kept in had, so that it is given with the next reading.
	if err := w.read(ctx, dirty); err != nil {
		return err
	}
	patch := w.patch()
	if len(patch) == 0 {
		return nil
	}
	return w.f.patch(patch, w.zxid)
}

// given is what the engine knows about a node that has changed since.
type given struct {
	known   bool  // it was given
	renewed bool  // it was deleted since, and may have been created again
	counter int32 // that was given
}

// lookAt is one node's answers on their way.
type lookAt struct {
	reading
	children []string
	creation int32
	czxid    [3]int64 // of the node that each of the three answers is about
}

// torn reports whether the node was deleted and created again between its three answers.
func (n *lookAt) torn() bool { return n.czxid[0] != n.czxid[1] || n.czxid[1] != n.czxid[2] }

// read reads nodes and whatever new hangs below them into the tree. A node that is not known yet counts only when its parent's
// list has it. A node with another czxid was deleted, with all below it, and created again.
func (w *watcher) read(ctx context.Context, dirty map[string]bool) error {
	var level []string
	for p := range dirty {
		if zk.Within(p, w.root) && !zk.Within(p, "/zookeeper") && (w.t.Get(p) != nil || p == w.root) {
			level = append(level, p)
		}
	}
	slices.Sort(level) // parents first: a child is never read before the list that has it
	listedNew := map[string]bool{w.root: true}
	for len(level) > 0 {
		nodes, err := w.ask(ctx, level)
		if err != nil {
			return err
		}
		level = nil
		for i := range nodes {
			n := &nodes[i]
			if n.gone {
				w.remove(n.path)
				continue
			}
			have := w.t.Get(n.path)
			if w.t.Get(zk.Parent(n.path)) == nil || have == nil && !listedNew[n.path] {
				continue // went with what is above it, or made anew since its parent's list: the next reading counts it
			}
			if n.torn() {
				level = append(level, n.path)
				continue
			}
			if have != nil && have.Czxid != n.stat.Czxid {
				w.remove(n.path)
				have = nil
			}
			listed := make(map[string]bool, len(n.children))
			for _, name := range n.children {
				p := zk.Join(n.path, name)
				listed[name] = true
				if w.t.Get(p) == nil && !zk.Within(p, "/zookeeper") {
					level, listedNew[p] = append(level, p), true
				}
			}
			if have != nil {
				var lost []string
				for c := range have.Children() {
					if !listed[c.Name()] && !zk.Within(c.Path, "/zookeeper") {
						lost = append(lost, c.Path)
					}
				}
				for _, p := range lost {
					w.remove(p)
				}
			}
			if have == nil || !same(w.t, have, &n.reading) {
				w.touch(n.path)
				if err := w.t.Put(n.path, n.data, n.acl, n.stat); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// touch notes what the engine was given of a node before that is changed in the tree.
func (w *watcher) touch(path string) {
	if _, ok := w.had[path]; ok {
		return
	}
	g := given{}
	if n := w.t.Get(path); n != nil {
		g = given{known: true, counter: w.counter(n)}
	}
	w.had[path] = g
}

// counter is a node's counter as it was given.
func (w *watcher) counter(n *tree.Node) int32 {
	if c, ok := w.owed[n.Path]; ok {
		return c
	}
	return n.Creations
}

// remove takes a node and all below it out of the tree.
func (w *watcher) remove(path string) {
	for n := range w.t.Walk(path) {
		w.touch(n.Path)
		g := w.had[n.Path]
		g.renewed = true
		w.had[n.Path] = g
		delete(w.owed, n.Path)
	}
	w.t.Remove(path)
}

// patch is the difference between the tree and what the engine was given: first what is gone or was deleted and created again,
// children before parents, then what is there, parents before children.
//
// A creation must not count twice in its parent's counter: once because the counter was read, and again when the new node is seen.
// So as long as events of a node's children wait, the node is given with a counter that covers only the creations that were seen;
// when none waits, all that was not seen can only be of nodes that have come and gone.
func (w *watcher) patch() []reading {
	created := map[string]int32{} // children, by parent
	counters := map[string]bool{}
	var gone, there []string
	for p, g := range w.had {
		n := w.t.Get(p)
		if g.known && (n == nil || g.renewed) {
			gone = append(gone, p)
		}
		if n == nil {
			continue
		}
		counters[p] = true
		if !g.known || g.renewed {
			created[zk.Parent(p)]++
			counters[zk.Parent(p)] = true
		}
	}
	for p := range w.owed {
		counters[p] = true
	}
	waiting := map[string]bool{}
	w.mu.Lock()
	for p := range w.dirty {
		waiting[zk.Parent(p)] = true
	}
	w.mu.Unlock()
	for p := range counters {
		n := w.t.Get(p)
		if n == nil || !zk.Within(p, w.root) {
			continue
		}
		g, touched := w.had[p]
		before := w.counter(n)
		switch {
		case touched && (!g.known || g.renewed):
			before = 0
		case touched:
			before = g.counter
		}
		now := before + created[p]
		if !waiting[p] {
			now = max(now, n.Creations)
		}
		if now != n.Creations {
			w.owed[p] = now
		} else {
			delete(w.owed, p)
		}
		if touched || now != before {
			there = append(there, p)
		}
	}
	clear(w.had)
	slices.Sort(gone)
	slices.Sort(there)
	list := make([]reading, 0, len(gone)+len(there))
	for _, p := range slices.Backward(gone) {
		list = append(list, reading{path: p, gone: true})
	}
	for _, p := range there {
		n := w.t.Get(p)
		st := n.Stat
		st.Creations = w.counter(n)
		list = append(list, reading{path: p, data: n.Data, acl: w.t.ACL(n), stat: st})
	}
	return list
}

func same(t *tree.Tree, n *tree.Node, r *reading) bool {
	return n.Version == r.stat.Version && n.Aversion == r.stat.Aversion && n.Creations == r.stat.Creations &&
		string(n.Data) == string(r.data) && slices.Equal(t.ACL(n), r.acl)
}

// askServer reads nodes, pipelined; each answer is consistent in itself and leaves a watch where those are one-shot.
func (w *watcher) askServer(ctx context.Context, paths []string) ([]lookAt, error) {
	nodes := make([]lookAt, len(paths))
	win := w.c.NewWindow(1000)
	one := func(op zk.Op) zk.Op {
		if w.oneShot {
			return op.Watched(w.watch)
		}
		return op
	}
	for i, p := range paths {
		n := &nodes[i]
		n.path = p
		take := func(f func(zk.Result)) func(zk.Result, error) error {
			return func(r zk.Result, err error) error { // one callback at a time
				if errors.Is(err, zk.ErrNoNode) {
					n.gone = true
					return nil
				}
				if err == nil {
					f(r)
					return nil
				}
				return fmt.Errorf("reading %s: %w", p, err)
			}
		}
		list := take(func(r zk.Result) {
			n.children, n.creation, n.czxid[0] = r.Children, tree.StatOf(&r.Stat).Creations, r.Stat.Czxid
		})
		acl := take(func(r zk.Result) { n.acl, n.stat.Aversion, n.czxid[1] = r.ACL, r.Stat.Aversion, r.Stat.Czxid })
		data := take(func(r zk.Result) {
			n.data, n.czxid[2] = r.Data, r.Stat.Czxid
			// Each answer is of another moment: children and their counter, and the ACL and its version, go together.
			aversion := n.stat.Aversion
			n.stat = tree.StatOf(&r.Stat)
			n.stat.Aversion, n.stat.Creations = aversion, n.creation
		})
		if err := win.Send(ctx, one(zk.Children(p)), list); err != nil {
			return nil, err
		}
		if err := win.Send(ctx, zk.GetACL(p), acl); err != nil {
			return nil, err
		}
		if err := win.Send(ctx, one(zk.Get(p)), data); err != nil {
			return nil, err
		}
	}
	return nodes, win.Wait(ctx)
}
