package view

import (
	"iter"
	"maps"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
)

// Node is one node of a picture for those who write it in a form that is not ours.
type Node struct {
	ID, Kind, Label string
	Group, Pseudo   bool
	n               *node
}

// Each calls yield with each node that is shown. Like what it gives, it is for use inside the estate's lock.
func (v *View) Each(yield func(Node) bool) {
	for _, n := range v.nodes {
		if n.shown && !yield(n.look()) {
			return
		}
	}
}

func (n *node) look() Node { return Node{n.id, n.kind, n.label, n.group, n.pseudo, n} }

// Handle is the node's number: no other node of the view has had it.
func (n Node) Handle() uint32 { return n.n.h }

// Size is how many entities the node stands for.
func (n Node) Size() int { return len(n.n.members) }

// Members are the entities that the node stands for; what stands for the outside has none.
func (n Node) Members() iter.Seq[*estate.Entity] { return maps.Keys(n.n.members) }

// Out calls yield with each node that this one talks to, and the edges of the estate that say so.
func (n Node) Out(yield func(to Node, by []*estate.Edge) bool) {
	for x := range n.n.edges {
		if x.src == n.n && x.dst.shown && !yield(x.dst.look(), x.bases) {
			return
		}
	}
}

// In calls yield with each node that talks to this one, and the edges of the estate that say so.
func (n Node) In(yield func(from Node, by []*estate.Edge) bool) {
	for x := range n.n.edges {
		if x.dst == n.n && x.src.shown && !yield(x.src.look(), x.bases) {
			return
		}
	}
}
