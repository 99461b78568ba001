package zksync

import (
	"cmp"
	"context"
	"errors"
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
	t     *tree.Tree    // what the engine was given
	zxid  int64
	// oneShot is set when the server refused a recursive watch.
	oneShot bool
	watch   *zk.Watch

	mu    sync.Mutex
	dirty map[string]bool
	lost  bool // events may be missing: everything is to be read
	wake  chan struct{}
}

func newWatcher(f *follower, c *zk.Client, root string, every time.Duration) *watcher {
	w := &watcher{f: f, c: c, root: root, every: every, dirty: map[string]bool{}, wake: make(chan struct{}, 1)}
	w.watch = zk.NewWatch(w.event)
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

// everything reads the whole source. The first time it is given as a snapshot, later what differs from what was given.
func (w *watcher) everything(ctx context.Context) error {
	if w.t == nil {
		w.t = tree.New()
		for p := zk.Parent(w.root); p != "/" && w.t.Get(p) == nil; p = zk.Parent(p) {
			// The way down to the root is not ours to follow; the tree needs it to hold what is below.
			if err := w.way(p); err != nil {
				return err
			}
		}
		if _, err := w.read(ctx, map[string]bool{w.root: true}, true); err != nil {
			w.t = nil
			return err
		}
		own, err := copyTree(w.t)
		if err != nil {
			return err
		}
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
	patch, err := w.read(ctx, dirty, false)
	if err != nil || len(patch) == 0 {
		return err
	}
	return w.f.patch(patch, w.zxid)
}

// lookAt is one node's answers on their way.
type lookAt struct {
	reading
	children []string
	creation int32
}

// read reads nodes and whatever new hangs below them into the tree, and returns what is different now, parents before
// children, what is gone last, children before parents. A node that is not known yet counts only when its parent's list has it,
// so that a parent's counter always covers its children.
func (w *watcher) read(ctx context.Context, dirty map[string]bool, fresh bool) ([]reading, error) {
	var changed, gone []reading
	var level []string
	for p := range dirty {
		if zk.Within(p, w.root) && !zk.Within(p, "/zookeeper") && (w.t.Get(p) != nil || p == w.root) {
			level = append(level, p)
		}
	}
	slices.Sort(level)
	seen, listedNew := map[string]bool{}, map[string]bool{w.root: true}
	for len(level) > 0 {
		nodes, err := w.ask(ctx, level)
		if err != nil {
			return nil, err
		}
		level = nil
		for i := range nodes {
			n := &nodes[i]
			seen[n.path] = true
			if n.gone {
				gone = w.remove(n.path, gone)
				continue
			}
			parent := w.t.Get(zk.Parent(n.path))
			if parent == nil {
				continue // went with what is above it
			}
			have := w.t.Get(n.path)
			if have == nil && !listedNew[n.path] {
				continue // its parent's list did not have it: it was made anew since, and the next reading counts it
			}
			listed := map[string]bool{}
			for _, name := range n.children {
				p := zk.Join(n.path, name)
				listed[name] = true
				if w.t.Get(p) == nil && !seen[p] && !zk.Within(p, "/zookeeper") {
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
					gone = w.remove(p, gone)
				}
			}
			if fresh || have == nil || !same(w.t, have, &n.reading) {
				if err := w.t.Put(n.path, n.data, n.acl, n.stat); err != nil {
					return nil, err
				}
				changed = append(changed, n.reading)
			}
		}
	}
	slices.SortStableFunc(changed, func(a, b reading) int { return cmp.Compare(a.path, b.path) })
	return append(changed, gone...), nil
}

// remove takes a node and all below it out of the tree.
func (w *watcher) remove(path string, gone []reading) []reading {
	var below []string
	for n := range w.t.Walk(path) {
		below = append(below, n.Path)
	}
	for _, p := range slices.Backward(below) {
		w.t.Remove(p)
		gone = append(gone, reading{path: p, gone: true})
	}
	return gone
}

func same(t *tree.Tree, n *tree.Node, r *reading) bool {
	return n.Czxid == r.stat.Czxid && n.Version == r.stat.Version && n.Aversion == r.stat.Aversion && n.Creations == r.stat.Creations &&
		string(n.Data) == string(r.data) && slices.Equal(t.ACL(n), r.acl)
}

// ask reads nodes, pipelined; each answer is consistent in itself and leaves a watch where those are one-shot.
func (w *watcher) ask(ctx context.Context, paths []string) ([]lookAt, error) {
	nodes := make([]lookAt, len(paths))
	win := w.c.NewWindow(1000)
	one := func(op zk.Op) zk.Op {
		if w.oneShot {
			return op.Watched(w.watch)
		}
		return op
	}
	if err := win.Send(ctx, zk.Sync("/"), func(r zk.Result, err error) error { w.zxid = max(w.zxid, r.Zxid); return err }); err != nil {
		return nil, err
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
				}
				return err
			}
		}
		list := take(func(r zk.Result) { n.children, n.creation = r.Children, (r.Stat.Cversion+r.Stat.NumChildren)/2 })
		acl := take(func(r zk.Result) { n.acl, n.stat.Aversion = r.ACL, r.Stat.Aversion })
		data := take(func(r zk.Result) {
			n.data = r.Data
			n.stat = tree.Stat{
				Czxid: r.Stat.Czxid, Mzxid: r.Stat.Mzxid, Pzxid: r.Stat.Pzxid, Ctime: r.Stat.Ctime, Mtime: r.Stat.Mtime,
				Version: r.Stat.Version, Aversion: n.stat.Aversion, Creations: n.creation, Owner: r.Stat.EphemeralOwner,
			}
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

// patched makes the target what a patch says: the shadow as it was is what the target holds.
func (e *Engine) patched(ctx context.Context, ev event) error {
	if err := e.w.drain(ctx); err != nil {
		return err
	}
	before := View{Tree: tree.New()}
	var paths []string
	keep := func(path string) error {
		n := e.shadow.Get(path)
		target := e.cfg.Scope.ToTarget(path)
		if n == nil || path == "/" || before.Tree.Get(target) != nil {
			return nil
		}
		st := n.Stat
		st.Version += e.ahead[target]
		if n.Kind() == zk.KindEphemeral {
			st.Owner = 0 // its mirror is persistent
		}
		return before.Tree.Put(target, n.Data, e.shadow.ACL(n), st)
	}
	for p := e.cfg.Scope.Target; p != "/"; p = zk.Parent(p) {
		if err := wayTo(before.Tree, zk.Parent(p)); err != nil {
			return err
		}
	}
	for i := range ev.patch {
		p := ev.patch[i].path
		if !e.cfg.Scope.Has(p) {
			continue
		}
		var way []string
		for q := p; zk.Within(q, e.cfg.Scope.Source); q = zk.Parent(q) {
			way = append(way, q)
			if q == "/" || q == e.cfg.Scope.Source {
				break
			}
		}
		for _, q := range slices.Backward(way) {
			if err := keep(q); err != nil {
				return err
			}
		}
		if p != "/" {
			paths = append(paths, e.cfg.Scope.ToTarget(p))
		}
	}
	e.applyPatch(ev)
	slices.Sort(paths)
	err := e.reconciler(before).some(ctx, slices.Compact(paths), e.shadow.Zxid())
	var m *mismatch
	if errors.As(err, &m) {
		m.paths = append(m.paths, paths...)
	}
	e.st.Txns += int64(len(ev.patch))
	return err
}

func wayTo(t *tree.Tree, path string) error {
	if path == "/" || t.Get(path) != nil {
		return nil
	}
	if err := wayTo(t, zk.Parent(path)); err != nil {
		return err
	}
	return t.Put(path, nil, zk.OpenACL(), tree.Stat{})
}

// applyPatch takes a patch into the shadow. A node whose parent is not there went with it.
func (e *Engine) applyPatch(ev event) {
	for i := range ev.patch {
		r := &ev.patch[i]
		switch {
		case r.gone:
			e.shadow.Remove(r.path)
		case e.shadow.Get(zk.Parent(r.path)) != nil:
			_ = e.shadow.Put(r.path, r.data, r.acl, r.stat) // fails without a parent only
		}
	}
	e.shadow.SetZxid(max(e.shadow.Zxid(), ev.zxid))
}
