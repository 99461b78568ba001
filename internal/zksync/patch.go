package zksync

import (
	"context"
	"errors"
	"math"
	"slices"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
)

// patched makes the target what a patch says: the shadow as it was is what the target holds.
func (e *Engine) patched(ctx context.Context, ev event) error {
	if err := e.w.drain(ctx); err != nil {
		return err
	}
	before := View{Tree: tree.New()}
	var paths []string
	gone, renewed := map[string]bool{}, map[string]bool{}
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
		if ev.patch[i].gone {
			gone[p] = true
		} else if gone[p] {
			renewed[p] = true
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
	r := e.reconciler(before)
	r.since, r.renewed = math.MaxInt64, renewed
	err := r.some(ctx, slices.Compact(paths), e.shadow.Zxid())
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
