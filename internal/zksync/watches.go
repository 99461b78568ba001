package zksync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/txn"
)

// watcher follows a source whose quorum port can't be reached, through its client port: by a recursive watch where the server
// knows it (3.6+), otherwise by reading everything at intervals. It feeds the same queue as the learner, with transactions
// made up from what it reads. What is weaker: several changes of one node may be seen as one (the versions still agree), multis
// fall apart, kinds are taken for persistent, ACL changes are seen at the next full reading, and nothing proves the shadow.
type watcher struct {
	f     *follower
	c     *zk.Client
	root  string
	every time.Duration // between full readings
	t     *tree.Tree    // what was told so far

	mu    sync.Mutex
	dirty map[string]bool
	lost  bool // events may be missing: everything is to be read
	wake  chan struct{}
}

func newWatcher(f *follower, c *zk.Client, root string, every time.Duration) *watcher {
	return &watcher{f: f, c: c, root: root, every: every, dirty: map[string]bool{}, wake: make(chan struct{}, 1)}
}

func (w *watcher) event(e zk.Event) {
	w.mu.Lock()
	if e.Type == zk.EventSession {
		w.lost = true
	} else {
		w.dirty[e.Path] = true
		w.dirty[zk.Parent(e.Path)] = true
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run follows until ctx ends.
func (w *watcher) run(ctx context.Context) {
	delay := 100 * time.Millisecond
	for ctx.Err() == nil {
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		w.f.mu.Lock()
		w.f.err = err
		w.f.mu.Unlock()
		w.f.log.Info("source connection lost", "error", err)
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// follow reads everything, then what events name, until something may have been missed.
func (w *watcher) follow(ctx context.Context) error {
	if err := w.c.WaitConnected(ctx); err != nil {
		return err
	}
	w.mu.Lock()
	w.lost, w.dirty = false, map[string]bool{}
	w.mu.Unlock()
	// The watch comes first, so that nothing happens unseen between the reading and it.
	watch := zk.NewWatch(w.event)
	_, err := w.c.Do(ctx, zk.AddWatch(w.root, zk.WatchPersistentRecursive, watch))
	polling := errors.Is(err, zk.ErrUnimplemented) || errors.Is(err, zk.ErrMarshalling)
	if err != nil && !polling {
		return err
	}
	if !polling {
		defer func() {
			rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			_, _ = w.c.Do(rctx, zk.RemoveWatches(w.root, zk.WatchAny))
		}()
	}
	if err := w.everything(ctx); err != nil {
		return err
	}
	every := w.every
	if polling {
		every = min(every, 2*time.Second)
		w.f.log.Warn("the source has no recursive watches (3.6+): it is read whole at intervals", "interval", every)
	}
	full := time.NewTicker(every)
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
		w.mu.Lock()
		dirty, lost := w.dirty, w.lost
		w.dirty = map[string]bool{}
		w.mu.Unlock()
		if lost {
			return errors.New("the connection was interrupted: everything is read anew")
		}
		if err := w.some(ctx, slices.Sorted(maps.Keys(dirty))); err != nil {
			return err
		}
	}
}

// everything reads the whole source; when it differs from what was told it is told as a snapshot.
func (w *watcher) everything(ctx context.Context) error {
	z, err := settled(ctx, w.c)
	if err != nil {
		return err
	}
	t, err := walk(ctx, w.c, w.root)
	if err != nil {
		return err
	}
	t.SetZxid(z)
	if w.t != nil {
		diffs, err := Diff(View{w.t, false}, View{t, false}, Scope{Source: w.root}, 1)
		if err == nil && len(diffs) == 0 {
			return nil
		}
	}
	w.t = t
	// The engine gets a copy: trees are not shared between goroutines.
	own := tree.New()
	for n := range t.Walk("/") {
		if err := own.Put(n.Path, n.Data, t.ACL(n), n.Stat); err != nil && own.Get(n.Path) == nil {
			return fmt.Errorf("copying the tree: %w", err)
		}
	}
	own.SetZxid(z)
	return errors.Join(w.f.Begin(own), w.f.Live())
}

// some reads the named nodes and tells how they differ from what was told.
func (w *watcher) some(ctx context.Context, paths []string) error {
	type reading struct {
		data []byte
		acl  []zk.ACL
		stat zk.Stat
		gone bool
		zxid int64
	}
	readings := make([]reading, len(paths))
	win := w.c.NewWindow(500)
	for i, p := range paths {
		r := &readings[i]
		take := func(f func(zk.Result)) func(zk.Result, error) error {
			return func(res zk.Result, err error) error {
				if errors.Is(err, zk.ErrNoNode) {
					r.gone, r.zxid = true, max(r.zxid, res.Zxid)
					return nil
				}
				if err == nil {
					f(res)
				}
				return err
			}
		}
		err := errors.Join(
			win.Send(ctx, zk.GetACL(p), take(func(res zk.Result) { r.acl = res.ACL })),
			win.Send(ctx, zk.Get(p), take(func(res zk.Result) { r.data, r.stat, r.zxid = res.Data, res.Stat, res.Zxid })))
		if err != nil {
			return err
		}
	}
	if err := win.Wait(ctx); err != nil {
		return err
	}
	// Deletions first, children before parents; then creations and sets, parents before children.
	for i, p := range slices.Backward(paths) {
		r := &readings[i]
		have := w.t.Get(p)
		if have == nil || !zk.Within(p, w.root) {
			continue
		}
		if r.gone || r.stat.Czxid != have.Czxid {
			if have.NumChildren() > 0 {
				return errors.New("events are missing: everything is read anew")
			}
			if err := w.tell(r.zxid, txn.Op{Type: zk.OpDelete, Path: p}); err != nil {
				return err
			}
		}
	}
	for i, p := range paths {
		r := &readings[i]
		if r.gone || !zk.Within(p, w.root) {
			continue
		}
		if w.t.Get(p) == nil {
			parent := w.t.Get(zk.Parent(p))
			if parent == nil {
				return errors.New("events are missing: everything is read anew")
			}
			data := r.data
			if r.stat.Version > 0 {
				data = nil
			}
			if err := w.tell(r.stat.Czxid, txn.Op{Type: zk.OpCreate, Path: p, Data: data, ACL: r.acl, ParentCVersion: -1}); err != nil {
				return err
			}
			n := w.t.Get(p)
			n.Czxid = r.stat.Czxid
		}
		n := w.t.Get(p)
		for n.Version < r.stat.Version {
			data := []byte(nil)
			if n.Version+1 == r.stat.Version {
				data = r.data
			}
			if err := w.tell(r.stat.Mzxid, txn.Op{Type: zk.OpSet, Path: p, Data: data, Version: n.Version + 1}); err != nil {
				return err
			}
		}
		for n.Aversion < r.stat.Aversion {
			if err := w.tell(r.zxid, txn.Op{Type: zk.OpSetACL, Path: p, ACL: r.acl, Version: n.Aversion + 1}); err != nil {
				return err
			}
		}
	}
	// Children that came and went unseen have raised their parents' counters.
	for i, p := range paths {
		r := &readings[i]
		n := w.t.Get(p)
		if r.gone || n == nil || p == "/" {
			continue
		}
		for creations := (r.stat.Cversion + r.stat.NumChildren) / 2; n.Creations < creations && n.NumChildren() >= int(r.stat.NumChildren); {
			child := zk.Join(p, bump)
			if err := w.tell(r.zxid, txn.Op{Type: zk.OpCreate, Path: child, ACL: zk.OpenACL(), ParentCVersion: -1}, txn.Op{Type: zk.OpDelete, Path: child}); err != nil {
				return err
			}
		}
	}
	return nil
}

// tell queues a made-up transaction and replays it in the watcher's own tree.
func (w *watcher) tell(zxid int64, ops ...txn.Op) error {
	x := &txn.Txn{Header: txn.Header{Zxid: max(zxid, w.t.Zxid()), Time: time.Now().UnixMilli(), Type: zk.OpMulti}, Ops: ops}
	if err := w.f.push(event{txn: x, arrived: time.Now()}, 300); err != nil {
		return err
	}
	w.t.Apply(x)
	return nil
}
