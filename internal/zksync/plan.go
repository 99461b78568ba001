package zksync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/txn"
)

// plan replays one transaction and gives the writer what has the same effect in the target.
func (e *Engine) plan(ctx context.Context, ev event) error {
	if ev.txn == nil {
		e.replay(ev, nil)
		return nil
	}
	var ops []zk.Op
	var acl *txn.Op
	e.replay(ev, func(op *txn.Op) {
		if e.onChange != nil {
			e.onChange(op, ev.txn, e.shadow.Get(op.Path))
		}
		switch {
		case e.held[op.Path]:
		case op.Type == zk.OpSetACL:
			if e.cfg.Scope.Has(op.Path) && e.shadow.Get(op.Path) != nil {
				acl = op
			}
		default:
			ops = append(ops, e.translate(op, ev.txn)...)
		}
	})
	err := error(nil)
	if acl != nil {
		// ACLs cannot be set in a multi.
		if err = e.w.drain(ctx); err == nil {
			err = e.setACL(ctx, acl)
		}
	}
	if err == nil {
		parts := e.parts(ops, ev.txn)
		for i, part := range parts {
			position := int64(0)
			if i == len(parts)-1 {
				position = ev.txn.Zxid
			}
			if err = e.w.add(ctx, part, position, ev.arrived, ev.txn.Time); err != nil {
				break
			}
		}
	}
	var m *mismatch
	if errors.As(err, &m) { // what this transaction wanted did not happen either
		for i := range ops {
			m.paths = append(m.paths, ops[i].Path)
		}
		if acl != nil {
			m.paths = append(m.paths, e.cfg.Scope.ToTarget(acl.Path))
		}
	}
	return err
}

// parts divides what ends a session with very many ephemeral nodes, which need not go in one moment, into requests that the target
// takes. Everything else is one part.
func (e *Engine) parts(ops []zk.Op, x *txn.Txn) [][]zk.Op {
	if x.Type != zk.OpCloseSession || len(ops) <= batchOps {
		return [][]zk.Op{ops}
	}
	return slices.Collect(slices.Chunk(ops, batchOps))
}

// translate makes the target's operations of one change; the shadow is as the change finds it.
func (e *Engine) translate(op *txn.Op, x *txn.Txn) []zk.Op {
	path := e.cfg.Scope.ToTarget(op.Path)
	node := e.shadow.Get(op.Path)
	switch {
	case op.Creates():
		parent := e.shadow.Get(zk.Parent(op.Path))
		if node != nil || parent == nil {
			return nil
		}
		if e.cfg.Scope.Has(op.Path) {
			delete(e.ahead, path)
			return []zk.Op{createOp(path, op.Data, op.ACL, op.Owner(x.ClientID))}
		}
		// A child that is left out raises its parent's counter all the same.
		if e.cfg.Scope.Has(parent.Path) && parent.Path != "/" && !e.cfg.Scope.comes(op.Path) {
			child := zk.Join(e.cfg.Scope.ToTarget(parent.Path), bump)
			return []zk.Op{zk.Create(child, nil, zk.OpenACL(), zk.Persistent), zk.Delete(child, 0)}
		}
	case node == nil || !e.cfg.Scope.Has(op.Path):
	case op.Type == zk.OpDelete || op.Type == zk.OpDeleteContainer:
		v := node.Version + e.ahead[path]
		delete(e.ahead, path)
		return []zk.Op{zk.Delete(path, v)}
	case op.Type == zk.OpSet:
		return []zk.Op{zk.Set(path, op.Data, op.Version-1+e.ahead[path])}
	}
	return nil
}

// setACL sets an ACL whose version says whether it was set already.
func (e *Engine) setACL(ctx context.Context, op *txn.Op) error {
	path := e.cfg.Scope.ToTarget(op.Path)
	err := retry(ctx, func() error {
		_, err := e.c.SetACL(ctx, path, op.ACL, op.Version-1)
		if errors.Is(err, zk.ErrBadVersion) {
			acl, st, gerr := e.c.GetACL(ctx, path)
			if gerr == nil && st.Aversion == op.Version && slices.Equal(acl, op.ACL) {
				return nil // done before, and the answer was lost
			}
		}
		return err
	})
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case repairable(err):
		return &mismatch{path: path, op: "setACL", err: err, paths: []string{path}}
	}
	return explain(&batch{}, err)
}

// reconcileAll makes the whole target right, whatever it holds.
func (e *Engine) reconcileAll(ctx context.Context) error {
	var problem error
	for range 20 {
		var old *mismatch
		if err := e.w.drain(ctx); err != nil && !errors.As(err, &old) {
			return err
		}
		began := time.Now()
		view, err := Side{Client: e.c, Quorum: e.cfg.Target.Quorum, Learner: e.cfg.Target.learner(e.deps.Learner)}.Read(ctx, e.cfg.Scope.Target)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			e.log.Warn("target cannot be read", "error", err)
			problem = err
			if !e.pause(ctx, time.Second) {
				return context.Cause(ctx)
			}
			continue
		}
		if !e.seeded && !e.begun && !e.cfg.Overwrite {
			if path, full := occupied(view, e.cfg.Scope); full {
				return fmt.Errorf("the target holds %s already and was never synchronized by this link: choose an empty target or another path, or permit to make it equal to the source, deleting what the source does not have, with --overwrite", path)
			}
		}
		if !e.begun {
			// From here on it is ours that is there, and the state node says so before anything else is written.
			e.begun = true
			e.w.current.zxid = max(e.planned, 1)
			if err := e.w.drain(ctx); err != nil {
				return err
			}
		}
		clear(e.ahead)
		if e.noteLate != "" { // a flip: what the copy has beside the new home's is somebody's late write
			late := Scope{Source: e.noteLate, Target: e.noteLate}
			e.noteLate = ""
			diffs, err := Diff(View{e.shadow, true}, View{view.Tree, false}, late, maxConflicts)
			if err != nil {
				return err
			}
			for _, d := range diffs {
				e.record(Conflict{Path: e.cfg.Scope.ToTarget(d.Path), Op: "flip", Error: "written in the old home after the flip: " + d.What, Source: d.A, Target: d.B})
			}
		}
		r := e.reconciler(view)
		err = r.all(ctx, e.shadow.Zxid())
		var m *mismatch
		if errors.As(err, &m) {
			problem = m // somebody writes there meanwhile: look again
			continue
		}
		if err != nil {
			return err
		}
		e.st.Reconciles++
		if !e.seeded {
			e.seeded = true
			e.w.current.zxid = e.shadow.Zxid()
			if err := e.w.drain(ctx); err != nil {
				return err
			}
		}
		e.audit("reconciled", "what", r.describe(), "position", zxidText(e.shadow.Zxid()))
		e.log.Info("reconciled", "nodes", e.shadow.Len(), "took", time.Since(began).Round(time.Millisecond), "what", r.describe(), "position", zxidText(e.shadow.Zxid()))
		if len(r.foreign) > 0 {
			e.log.Warn("nodes of the target's own sessions stay", "count", len(r.foreign), "first", r.foreign[0])
		}
		return nil
	}
	return fmt.Errorf("the target could not be made equal in 20 attempts, because something else writes to it: %w", problem)
}

func (e *Engine) reconciler(view View) *reconciler {
	r := &reconciler{scope: e.cfg.Scope, shadow: e.shadow, have: view, w: e.w, ahead: e.ahead, done: func(int) { e.publish() }, since: freshStart}
	if e.seeded {
		r.since = e.position
	}
	return r
}

func (e *Engine) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// repairLimit is how many nodes are mended one by one; for more the whole target is read.
const repairLimit = 2000

// repair mends the nodes that a mismatch concerns; the source's state wins. whole says that everything has to be looked at.
func (e *Engine) repair(ctx context.Context, m *mismatch) (whole bool, err error) {
	e.conflict(m)
	for range 20 {
		slices.Sort(m.paths)
		paths := slices.Compact(m.paths)
		if len(paths) > repairLimit {
			return true, nil
		}
		r := e.reconciler(View{})
		list, err := look(ctx, e.c, r, paths)
		if err != nil {
			return false, err
		}
		err = r.some(ctx, list, e.shadow.Zxid())
		var again *mismatch
		if errors.As(err, &again) {
			m.paths = append(paths, again.paths...)
			continue
		}
		return false, err
	}
	return true, nil
}

// conflict records that the target was not as the source's history made it.
func (e *Engine) conflict(m *mismatch) {
	if m.op == "delete" && errors.Is(m.err, zk.ErrNoNode) {
		return // gone there already: containers and TTL nodes go by the target's own clock
	}
	if transient(m.err) {
		return // an answer was lost: what the target has is looked at, nobody else wrote
	}
	c := Conflict{Path: m.path, Op: m.op, Error: m.err.Error(), Source: "absent", Target: "absent"}
	if n := e.shadow.Get(e.cfg.Scope.ToSource(m.path)); n != nil {
		c.Source = summary(n)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if data, st, err := e.c.Get(ctx, m.path); err == nil {
		c.Target = fmt.Sprintf("version %d, %d bytes: %.200q", st.Version, len(data), data)
	}
	e.record(c)
}

// record keeps a conflict and tells of it.
func (e *Engine) record(c Conflict) {
	c.Time = time.Now()
	e.mu.Lock()
	e.conflicts = append(e.conflicts, c)
	if len(e.conflicts) > maxConflicts {
		e.conflicts = e.conflicts[1:]
	}
	e.mu.Unlock()
	e.st.Conflicts++
	e.audit("conflict", "path", c.Path, "operation", c.Op, "error", c.Error, "home", c.Source, "copy", c.Target, "policy", string(c.Policy), "pending", c.Pending)
	e.metrics.conflicts.Inc()
	e.log.Warn("conflict: the copy was changed by somebody else", "path", c.Path, "operation", c.Op, "error", c.Error, "home", c.Source, "copy", c.Target)
}

func summary(n *tree.Node) string {
	return fmt.Sprintf("version %d, %d bytes: %.200q", n.Version, len(n.Data), n.Data)
}
