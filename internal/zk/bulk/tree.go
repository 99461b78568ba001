package bulk

import (
	"slices"
	"strings"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
)

// FromTree gives what Read would have read from an ensemble that holds t and lets us see everything.
func FromTree(t *tree.Tree, root string, o Options) (*Tree, error) {
	top := t.Get(root)
	if top == nil {
		return nil, &zk.OpError{Op: "get", Path: root, Err: zk.ErrNoNode}
	}
	out := &Tree{}
	fill := func(n *Node, from *tree.Node) {
		n.Path, n.Stat = from.Path, StatOf(from)
		if o.Data {
			n.Data = from.Data
		}
		if o.ACL {
			n.ACL = t.ACL(from)
		}
		out.Nodes++
	}
	fill(&out.Root, top)
	level, nodes := []*Node{&out.Root}, []*tree.Node{top}
	for depth := 0; len(level) > 0 && (o.Depth < 0 || depth < o.Depth); depth++ {
		var below []*Node
		var from []*tree.Node
		for i, n := range level {
			first := len(from)
			for c := range nodes[i].Children() {
				from = append(from, c)
			}
			children := from[first:]
			slices.SortFunc(children, func(a, b *tree.Node) int { return strings.Compare(a.Path, b.Path) })
			n.Children = make([]Node, len(children))
			for j := range children {
				fill(&n.Children[j], children[j])
				below = append(below, &n.Children[j])
			}
		}
		level, nodes = below, from
	}
	return out, nil
}

// StatOf is the Stat that clients are shown of a node.
func StatOf(n *tree.Node) zk.Stat {
	return zk.Stat{
		Czxid: n.Czxid, Mzxid: n.Mzxid, Ctime: n.Ctime, Mtime: n.Mtime, Version: n.Version, Cversion: n.Cversion(), Aversion: n.Aversion,
		EphemeralOwner: n.Owner, DataLength: int32(len(n.Data)), NumChildren: int32(n.NumChildren()), Pzxid: n.Pzxid,
	}
}
