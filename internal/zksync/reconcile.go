package zksync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
)

// reconciler makes the target equal to the shadow. Its operations carry expected versions, so that a target that changes
// meanwhile makes it fail rather than lie; it is then begun again with a fresh view.
type reconciler struct {
	scope  Scope
	shadow *tree.Tree
	have   View
	w      *writer
	ahead  map[string]int32 // by how much a node's version in the target is ahead of the source's, where that can't be mended
	done   func(n int)      // progress: nodes looked at
	// since is the source's transaction that the target was equal to. What the source created later and the target has nevertheless
	// was deleted in the source meanwhile, with all below it, and created again.
	since int64
	// renewed are nodes of the source of which that is known.
	renewed map[string]bool
	made    map[string]bool     // nodes of the target that were made anew with all below them
	crowded map[*tree.Node]bool // nodes of the target whose counter will be too high once their children are right
	group   *group              // what is to be done in one transaction, when something is
	// What was found and done.
	created, deleted, changed, padded int
	foreign                           []string // nodes of the target left alone: ephemeral nodes of its own clients
}

// bump is the name of the child that is made and removed to raise a parent's counter.
const bump = "zksync-counter"

// all reconciles everything in scope and leaves the target at position zxid.
func (r *reconciler) all(ctx context.Context, zxid int64) error {
	if err := r.way(ctx); err != nil {
		return err
	}
	if err := r.removals(ctx); err != nil {
		return err
	}
	n := 0
	for want := range r.shadow.Walk(r.scope.Source) {
		if !r.scope.Has(want.Path) {
			continue
		}
		if !r.wasMade(r.scope.ToTarget(want.Path)) {
			if err := r.node(ctx, want); err != nil {
				return err
			}
		}
		if n++; n%1000 == 0 && r.done != nil {
			r.done(n)
		}
	}
	if r.done != nil {
		r.done(n)
	}
	r.w.current.zxid = zxid
	return r.w.drain(ctx)
}

// way makes what is missing above the scope's root in the target.
func (r *reconciler) way(ctx context.Context) error {
	tops := []string{r.scope.Target}
	for _, p := range r.scope.Only {
		tops = append(tops, r.scope.ToTarget(p))
	}
	for _, p := range tops {
		if err := retry(ctx, func() error { return r.w.c.MakePath(ctx, zk.Parent(p), zk.OpenACL()) }); err != nil {
			return err
		}
	}
	return nil
}

// removals deletes what the source does not have, children first, and then makes anew what no write can make right: its kind is
// another, or its version ahead.
func (r *reconciler) removals(ctx context.Context) error {
	root := r.have.Tree.Get(r.scope.Target)
	if root == nil {
		return nil
	}
	r.crowd()
	var order, tops []*tree.Node
	kept := map[*tree.Node]bool{}
	for have := range r.have.Tree.Walk(r.scope.Target) {
		switch {
		case len(tops) > 0 && zk.Within(have.Path, tops[len(tops)-1].Path): // made anew with what is above it
		case r.anew(have):
			tops = append(tops, have)
			markAbove(kept, have)
		default:
			order = append(order, have)
		}
	}
	// The walk has parents first, so backwards it has children first.
	for _, have := range slices.Backward(order) {
		path := r.scope.ToSource(have.Path)
		if !r.scope.Has(path) || have == root && r.scope.Target == "/" {
			kept[have] = true
			markAbove(kept, have)
			continue
		}
		want := r.shadow.Get(path)
		switch {
		case have.Kind() == zk.KindEphemeral:
			// It belongs to a session of the target's own.
			r.foreign = append(r.foreign, have.Path)
			kept[have] = true
		case want != nil:
			if !kept[have] && (r.stale(want, have) || r.crowded[have]) {
				tops = append(tops, have) // a leaf once what is below it is deleted
			}
			kept[have] = true
		case kept[have]:
			r.foreign = append(r.foreign, have.Path) // something below it is not ours to delete
		default:
			if err := r.emit(ctx, zk.Delete(have.Path, have.Version)); err != nil {
				return err
			}
			r.deleted++
			continue
		}
		markAbove(kept, have)
	}
	// What stays is what is there from now on.
	for _, have := range order {
		if !kept[have] {
			r.forget(have)
		}
	}
	for _, have := range tops {
		if err := r.remake(ctx, have); err != nil {
			return err
		}
	}
	return nil
}

func markAbove(kept map[*tree.Node]bool, n *tree.Node) {
	for p := n.Parent(); p != nil && !kept[p]; p = p.Parent() {
		kept[p] = true
	}
}

// forget takes a deleted node out of the view. Deeper nodes come later in the order and are gone with it.
func (r *reconciler) forget(n *tree.Node) { r.have.Tree.Remove(n.Path) }

// crowd finds the nodes whose counter is not too high yet, and will be: every child that is to be made, or made anew, counts. Children
// come before parents, because a node that is made anew for that reason counts in its own parent.
func (r *reconciler) crowd() {
	r.crowded = map[*tree.Node]bool{}
	order := slices.Collect(r.have.Tree.Walk(r.scope.Target))
	for _, have := range slices.Backward(order) {
		want := r.shadow.Get(r.scope.ToSource(have.Path))
		if want == nil || have.Path == "/" || !r.scope.Has(want.Path) {
			continue
		}
		counter := have.Creations
		for c := range want.Children() {
			if !r.scope.comes(c.Path) {
				continue
			}
			if n := r.have.Tree.Get(r.scope.ToTarget(c.Path)); n == nil || r.anew(n) {
				counter++
			}
		}
		if counter > want.Creations {
			r.crowded[have] = true
		}
	}
}

// anew reports whether a node of the target is to be deleted and created again, with all below it: because the source did so, or
// because nothing else makes it right. The latter is done to a leaf, and to a node with children only when it cannot be the
// one that the source has now: there may be clients below it.
func (r *reconciler) anew(have *tree.Node) bool {
	path := r.scope.ToSource(have.Path)
	want := r.shadow.Get(path)
	if want == nil || have.Path == "/" || !r.scope.Has(path) {
		return false
	}
	if !r.renewed[path] && (!r.stale(want, have) && !r.crowded[have] || have.NumChildren() > 0 && want.Czxid <= r.since) {
		return false
	}
	for n := range r.have.Tree.Walk(have.Path) {
		if n.Kind() == zk.KindEphemeral || !r.scope.Has(r.scope.ToSource(n.Path)) {
			return false // not ours to delete
		}
	}
	return true
}

// stale reports whether no write can make a node of the target what the source's is.
func (r *reconciler) stale(want, have *tree.Node) bool {
	switch {
	case r.have.Exact && !sameKind(want, have):
		return true
	case have.Version > want.Version || have.Aversion > want.Aversion || have.Creations > want.Creations:
		return true
	case have.Version == want.Version && string(have.Data) != string(want.Data):
		return true
	}
	return have.Aversion == want.Aversion && !slices.Equal(r.have.Tree.ACL(have), r.shadow.ACL(want))
}

// group collects operations that are to be one transaction.
type group struct {
	ops  [][]zk.Op
	size int
	acls []func() error // ACLs cannot be set in a transaction: they follow it
}

// remake deletes a node of the target and all below it and makes what the source has there: in one transaction where that fits
// into a request, otherwise in order, children deleted before parents and parents created before children.
func (r *reconciler) remake(ctx context.Context, have *tree.Node) error {
	r.group = &group{}
	path := have.Path
	var old []*tree.Node
	for n := range r.have.Tree.Walk(path) {
		old = append(old, n)
	}
	for _, n := range slices.Backward(old) {
		if err := r.emit(ctx, zk.Delete(n.Path, n.Version)); err != nil {
			return err
		}
		r.deleted++
	}
	r.forget(have)
	for n := range r.shadow.Walk(r.scope.ToSource(path)) {
		if r.scope.Has(n.Path) {
			if err := r.node(ctx, n); err != nil {
				return err
			}
		}
	}
	if r.made == nil {
		r.made = map[string]bool{}
	}
	r.made[path] = true
	g := r.group
	r.group = nil
	if r.w.fits(g.size) {
		g.ops = [][]zk.Op{slices.Concat(g.ops...)}
	}
	for _, ops := range g.ops {
		if err := r.emit(ctx, ops...); err != nil {
			return err
		}
	}
	for _, set := range g.acls {
		if err := set(); err != nil {
			return err
		}
	}
	return nil
}

// wasMade reports whether a node of the target was made by remake.
func (r *reconciler) wasMade(path string) bool {
	if len(r.made) == 0 {
		return false
	}
	for ; path != "/"; path = zk.Parent(path) {
		if r.made[path] {
			return true
		}
	}
	return false
}

func (r *reconciler) emit(ctx context.Context, ops ...zk.Op) error {
	if g := r.group; g != nil {
		g.ops = append(g.ops, ops)
		for i := range ops {
			g.size += opSize(&ops[i])
		}
		return nil
	}
	return r.w.add(ctx, ops, 0, time.Time{}, 0)
}

// modeOf is how a node of the source is created in the target.
func modeOf(owner int64) (zk.CreateMode, time.Duration) {
	switch zk.KindOf(owner) {
	case zk.KindContainer:
		return zk.Container, 0
	case zk.KindTTL:
		return zk.PersistentTTL, zk.TTLOf(owner)
	default:
		return zk.Persistent, 0 // an ephemeral node's mirror is persistent
	}
}

func createOp(path string, data []byte, acl []zk.ACL, owner int64) zk.Op {
	mode, ttl := modeOf(owner)
	if mode == zk.PersistentTTL {
		return zk.CreateTTL(path, data, acl, mode, ttl)
	}
	return zk.Create(path, data, acl, mode)
}

// node makes one node of the target right: there, with this data, ACL, versions and counter.
func (r *reconciler) node(ctx context.Context, want *tree.Node) error {
	path := r.scope.ToTarget(want.Path)
	have := r.have.Tree.Get(path)
	acl := r.shadow.ACL(want)
	version, aversion, creations := int32(0), int32(0), int32(0)
	switch {
	case have == nil:
		data := want.Data
		if want.Version > 0 {
			data = nil // the last of the sets that follow brings it
		}
		if err := r.emit(ctx, createOp(path, data, acl, want.Owner)); err != nil {
			return err
		}
		r.created++
		delete(r.ahead, path)
	default:
		version, aversion, creations = have.Version, have.Aversion, have.Creations
		if version == want.Version && string(have.Data) != string(want.Data) {
			version-- // not a leaf, so it cannot be made anew: one set too many
		}
	}
	if version < want.Version || have != nil && string(have.Data) != string(want.Data) {
		sets := max(want.Version-version, 1)
		at := int32(0)
		if have != nil {
			at = have.Version
		}
		for i := range sets {
			data := []byte(nil)
			if i == sets-1 {
				data = want.Data
			}
			if err := r.emit(ctx, zk.Set(path, data, at)); err != nil {
				return err
			}
			at++
		}
		r.changed++
		r.padded += int(sets) - 1
		r.offset(path, at-want.Version)
	} else if have != nil {
		r.offset(path, have.Version-want.Version)
	}
	// Children come after this node, so their creations raise the counter on top of this.
	missing := want.Creations - creations - r.toCome(want, path)
	if path != "/" {
		for range missing {
			child := zk.Join(path, bump)
			if err := r.emit(ctx, zk.Create(child, nil, zk.OpenACL(), zk.Persistent), zk.Delete(child, 0)); err != nil {
				return err
			}
			r.padded++
		}
	}
	if aversion < want.Aversion || have != nil && !slices.Equal(r.have.Tree.ACL(have), acl) {
		set := func() error {
			if err := r.w.drain(ctx); err != nil {
				return err
			}
			for range max(want.Aversion-aversion, 1) {
				if err := setACL(ctx, r.w.c, path, acl, zk.AnyVersion); err != nil {
					return &mismatch{path: path, op: "setACL", err: err, paths: []string{path}}
				}
			}
			return nil
		}
		if r.group == nil {
			return set()
		}
		r.group.acls = append(r.group.acls, set)
	}
	return nil
}

func (r *reconciler) offset(path string, by int32) {
	if by != 0 {
		r.ahead[path] = by
	} else {
		delete(r.ahead, path)
	}
}

// toCome is the number of children that will be created below a node.
func (r *reconciler) toCome(want *tree.Node, path string) int32 {
	n := int32(0)
	for c := range want.Children() {
		if r.scope.comes(c.Path) && r.have.Tree.Get(zk.Join(path, c.Name())) == nil {
			n++
		}
	}
	return n
}

// setACL sets an ACL; an answer that was lost is asked for again.
func setACL(ctx context.Context, c *zk.Client, path string, acl []zk.ACL, version int32) error {
	unsure := false
	return retry(ctx, func() error {
		if unsure {
			have, _, err := c.GetACL(ctx, path)
			if err != nil {
				return err
			}
			if slices.Equal(have, acl) {
				return nil
			}
		}
		_, err := c.SetACL(ctx, path, acl, version)
		unsure = unsure || err != nil && transient(err)
		return err
	})
}

// look reads the given nodes of the target and what hangs on them: all below those that the source does not have or that are to be
// made anew, and the nodes above, so that the view can be reconciled as if it were whole. It returns the nodes to reconcile.
func look(ctx context.Context, c *zk.Client, r *reconciler, paths []string) ([]string, error) {
	scope, shadow := r.scope, r.shadow
	r.have = View{Tree: tree.New()}
	view := r.have
	below := map[string]bool{} // what is to be made anew is read whole
	want := map[string]bool{}
	for _, p := range paths {
		for ; zk.Within(p, scope.Target); p = zk.Parent(p) {
			want[p] = true
			if p == scope.Target || p == "/" {
				break
			}
		}
	}
	sorted := make([]string, 0, len(want))
	for p := range want {
		sorted = append(sorted, p)
	}
	slices.Sort(sorted)
	for p := zk.Parent(scope.Target); p != "/"; p = zk.Parent(p) {
		sorted = append([]string{p}, sorted...)
	}
	seen := map[string]bool{}
	for len(sorted) > 0 {
		path := sorted[0]
		sorted = sorted[1:]
		if seen[path] {
			continue
		}
		seen[path] = true
		var data []byte
		var st zk.Stat
		var acl []zk.ACL
		var children []string
		err := retry(ctx, func() (err error) {
			if data, st, err = c.Get(ctx, path); err != nil {
				return err
			}
			if acl, _, err = c.GetACL(ctx, path); err != nil {
				return err
			}
			children, _, err = c.Children(ctx, path)
			return err
		})
		if errors.Is(err, zk.ErrNoNode) {
			continue
		}
		if err != nil {
			return nil, err
		}
		_ = view.Tree.Put(path, data, acl, tree.StatOf(&st))
		have := view.Tree.Get(path)
		if have == nil || path == "/" || !zk.Within(path, scope.Target) {
			continue
		}
		sn := shadow.Get(scope.ToSource(path))
		below[path] = sn != nil && (below[zk.Parent(path)] || sn.Czxid > r.since && r.stale(sn, have))
		if sn == nil || sn.NumChildren() == 0 || below[path] {
			for _, name := range children {
				sorted = append(sorted, zk.Join(path, name))
			}
		}
	}
	slices.Sort(paths)
	var list []string
	for p := range want {
		list = append(list, p)
	}
	slices.Sort(list)
	return list, nil
}

// some reconciles a few nodes; have holds them. A node that is missing is made with all that is below it in the source.
func (r *reconciler) some(ctx context.Context, paths []string, zxid int64) error {
	// What is read here is a part: a node counts as a leaf only when the source's is one too.
	sub := map[string]bool{}
	for _, p := range paths {
		sub[r.scope.ToSource(p)] = true
	}
	var order, tops []*tree.Node
	for have := range r.have.Tree.Walk(r.scope.Target) {
		want := r.shadow.Get(r.scope.ToSource(have.Path))
		switch {
		case len(tops) > 0 && zk.Within(have.Path, tops[len(tops)-1].Path): // made anew with what is above it
		case want == nil || r.renewed[want.Path] || want.NumChildren() == 0 || want.Czxid > r.since:
			if r.anew(have) {
				tops = append(tops, have)
			} else {
				order = append(order, have)
			}
		}
	}
	for _, have := range slices.Backward(order) {
		path := r.scope.ToSource(have.Path)
		if !r.scope.Has(path) || have.Path == "/" || have.Path == r.scope.Target {
			continue
		}
		if want := r.shadow.Get(path); want != nil {
			if want.NumChildren() == 0 && r.anew(have) {
				tops = append(tops, have) // what was below it is deleted
			}
			continue
		}
		if have.Kind() == zk.KindEphemeral {
			r.foreign = append(r.foreign, have.Path)
			continue
		}
		if err := r.emit(ctx, zk.Delete(have.Path, have.Version)); err != nil {
			return err
		}
		r.deleted++
		r.forget(have)
	}
	for _, have := range tops {
		if err := r.remake(ctx, have); err != nil {
			return err
		}
	}
	for _, p := range paths {
		want := r.shadow.Get(r.scope.ToSource(p))
		if want == nil || !r.scope.Has(want.Path) || r.wasMade(p) {
			continue
		}
		if r.have.Tree.Get(p) != nil {
			if err := r.existing(ctx, want, sub); err != nil {
				return err
			}
			continue
		}
		if above := zk.Parent(p); sub[r.scope.ToSource(above)] && r.have.Tree.Get(above) == nil && p != r.scope.Target {
			continue // made with the node above
		}
		for n := range r.shadow.Walk(want.Path) {
			if r.scope.Has(n.Path) {
				if err := r.node(ctx, n); err != nil {
					return err
				}
			}
		}
	}
	r.w.current.zxid = zxid
	return r.w.drain(ctx)
}

// existing makes a node right whose children may not have been read: of those only the ones that were looked for count.
func (r *reconciler) existing(ctx context.Context, want *tree.Node, sub map[string]bool) error {
	path := r.scope.ToTarget(want.Path)
	have := r.have.Tree.Get(path)
	toCome := int32(0)
	for c := range want.Children() {
		if sub[c.Path] && r.have.Tree.Get(zk.Join(path, c.Name())) == nil {
			toCome++
		}
	}
	// node counts every child that is not in the view as one to come; here most were just not read.
	st := have.Stat
	all := r.toCome(want, path)
	st.Creations += toCome - all
	saved := have.Stat
	have.Stat = st
	err := r.node(ctx, want)
	have.Stat = saved
	return err
}

// describe says what was done, for the log.
func (r *reconciler) describe() string {
	return fmt.Sprintf("created %d, deleted %d, changed %d, padded %d versions, left alone %d", r.created, r.deleted, r.changed, r.padded, len(r.foreign))
}

// within reports whether any of the view is in the scope's part of the target, beside its root.
func occupied(v View, s Scope) (string, bool) {
	for n := range v.Tree.Walk(s.Target) {
		if n.Path == s.Target || !s.Has(s.ToSource(n.Path)) {
			continue
		}
		if !strings.HasPrefix(n.Path, stateRoot) {
			return n.Path, true
		}
	}
	return "", false
}
