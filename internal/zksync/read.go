package zksync

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/bulk"
	"github.com/orchestrator/orchestrator/internal/zk/learner"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/txn"
)

// Side is one of the two ensembles.
type Side struct {
	Client *zk.Client
	// Quorum are its quorum ports; without them the side is read node by node, which is not one moment and does not tell
	// containers and TTL nodes from persistent ones.
	Quorum  []string
	Learner learner.Deps
}

// View is what an ensemble held.
type View struct {
	Tree *tree.Tree
	// Exact says that it is one moment, with the kinds of all nodes: it came through the quorum port.
	Exact bool
}

// Read reads all that an ensemble holds below root.
func (s Side) Read(ctx context.Context, root string) (View, error) {
	if len(s.Quorum) > 0 {
		t, err := snapshot(ctx, s.Quorum, s.Learner)
		return View{t, true}, err
	}
	t, err := walk(ctx, s.Client, root)
	return View{t, false}, err
}

// errEnough ends a learner that has seen what was wanted.
var errEnough = errors.New("enough")

// freshStart is a position that no ensemble has, so that the leader answers with a snapshot.
const freshStart = -2

type snapshotHandler struct{ t *tree.Tree }

func (h *snapshotHandler) Begin(t *tree.Tree) error {
	if t == nil {
		return errors.New("the leader sent no snapshot")
	}
	h.t = t
	return nil
}

func (h *snapshotHandler) Txn(x *txn.Txn) error {
	h.t.Apply(x)
	return nil
}
func (h *snapshotHandler) Live() error { return errEnough }
func (h *snapshotHandler) Idle() error { return nil }

func snapshot(ctx context.Context, quorum []string, deps learner.Deps) (*tree.Tree, error) {
	h := &snapshotHandler{}
	err := learner.Run(ctx, learner.Config{Addrs: quorum, Last: freshStart, ServerID: 1<<40 + 1}, deps, h)
	if errors.Is(err, errEnough) {
		return h.t, nil
	}
	return nil, err
}

// walk reads node by node through the client port.
func walk(ctx context.Context, c *zk.Client, root string) (*tree.Tree, error) {
	t := tree.New()
	put := func(n *bulk.Node) {
		if n.Gone || n.Path != "/" && t.Get(n.Path) != nil { // above root, or what every server has
			return
		}
		// A node whose parent went meanwhile is passed over.
		_ = t.Put(n.Path, n.Data, n.ACL, tree.StatOf(&n.Stat))
	}
	want := bulk.Options{Stat: true, Data: true, ACL: true}
	// The nodes above root must be in the tree to hold it; only what is below is compared.
	above := []string{}
	for p := root; p != "/"; p = zk.Parent(p) {
		above = append(above, zk.Parent(p))
	}
	slices.Reverse(above)
	for _, p := range above {
		n, err := bulk.Read(ctx, c, p, want)
		if errors.Is(err, zk.ErrNoNode) {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		put(&n.Root)
	}
	want.Depth = -1
	denied := ""
	want.Level = func(level []bulk.Node) error {
		for i := range level {
			if level[i].Denied && denied == "" {
				denied = level[i].Path
			}
			put(&level[i])
		}
		return nil
	}
	want.Skip = func(path string) bool { return path == "/zookeeper" }
	_, err := bulk.Read(ctx, c, root, want)
	switch {
	case errors.Is(err, zk.ErrNoNode):
		return t, nil
	case err != nil:
		return nil, err
	case denied != "":
		return nil, &zk.OpError{Op: "read", Path: denied, Err: zk.ErrNoAuth}
	}
	return t, nil
}

// Diff compares two views by what the scope keeps equal, at most limit differences. Nodes that an engine makes of the source's
// ephemeral nodes are persistent: that is no difference. Kinds are compared when both views know them.
func Diff(a, b View, s Scope, limit int) ([]tree.Difference, error) {
	s, err := s.normal()
	if err != nil {
		return nil, err
	}
	skip := func(n *tree.Node) bool { return !s.Has(n.Path) }
	aspects := tree.AllAspects
	aspects.Kind = false
	var out []tree.Difference
	room := func() int {
		if limit == 0 {
			return 0
		}
		return max(limit-len(out), 1)
	}
	for _, d := range tree.Compare(a.Tree, s.Source, b.Tree, s.Target, aspects, skip, limit) {
		if d.Path == "/" && (d.What == "counter" || d.What == "version") {
			continue // the engine's own node is a child of the root, and every server makes the first three itself
		}
		out = append(out, d)
	}
	if a.Exact && b.Exact && (limit == 0 || len(out) < limit) {
		out = append(out, kinds(a.Tree, b.Tree, s, room())...)
	}
	return out, nil
}

func kinds(a, b *tree.Tree, s Scope, limit int) []tree.Difference {
	var out []tree.Difference
	for n := range a.Walk(s.Source) {
		m := b.Get(s.ToTarget(n.Path))
		if m == nil || !s.Has(n.Path) || sameKind(n, m) {
			continue
		}
		out = append(out, tree.Difference{Path: n.Path, What: "kind", A: fmt.Sprint(n.Kind(), n.TTL()), B: fmt.Sprint(m.Kind(), m.TTL())})
		if len(out) == limit {
			break
		}
	}
	return out
}

// sameKind reports whether a node of the target is what the engine makes of the source's.
func sameKind(n, m *tree.Node) bool {
	want := n.Owner
	if n.Kind() == zk.KindEphemeral {
		want = 0
		if m.Kind() == zk.KindEphemeral {
			return true // two independent ensembles are compared
		}
	}
	return want == m.Owner
}
