package allocator

import (
	"cmp"
	"math"
	"strings"

	"github.com/orchestrator/orchestrator/internal/resources"
)

// tree orders clients by weighted dominant share. Its nodes are roles, in the hierarchy of their names; below each role that
// has frameworks a leaf named "."; below each leaf its clients. A role's leaf competes with the role's child roles, as in
// Mesos' sorter. Every node carries what its subtree has, offered or allocated, and a heap of those children that have an
// active client below them. Order among siblings: share over weight, then how often something was allocated, then name.
type tree struct {
	nodes    []node
	free     []int32
	totals   vec
	excluded []bool // scalar names that don't count in shares
	stale    []int32
	allStale bool // totals changed: every key has
}

type node struct {
	key     float64 // dominant share / weight, as of the last refresh
	weight  float64
	count   uint32
	parent  int32
	pos     int32 // in the parent's heap, -1 when inactive
	client  int32 // dense client id, -1 for roles and leaves
	depth   int32
	used    bool
	isStale bool
	name    string // last component of the role, ".", or the framework's id
	heap    heap
	kids    int32  // children, active or not
	members bitmap // clients below a leaf; empty elsewhere
	alloc   vec
	shared  map[sharedKey]int64 // copies of shared volumes in the subtree
}

type sharedKey struct {
	agent  int32
	volume string
}

const root int32 = 0

func newTree() tree {
	return tree{nodes: []node{{parent: -1, pos: -1, client: -1, used: true, weight: 1}}}
}

// add makes an inactive node below parent.
func (t *tree) add(parent int32, name string, client int32) int32 {
	n := node{parent: parent, pos: -1, client: client, depth: t.nodes[parent].depth + 1, used: true, weight: 1, name: name}
	var id int32
	if k := len(t.free); k > 0 {
		id = t.free[k-1]
		t.free = t.free[:k-1]
		// The free node may still be listed as stale; recomputing a fresh one's key does no harm.
		n.isStale = t.nodes[id].isStale
		n.heap = t.nodes[id].heap[:0]
		t.nodes[id] = n
	} else {
		id = int32(len(t.nodes))
		t.nodes = append(t.nodes, n)
	}
	t.nodes[parent].kids++
	if client >= 0 {
		t.nodes[parent].members.set(client)
	}
	return id
}

// remove deletes a node without children. What it had stays accounted to nobody: callers take it away first.
func (t *tree) remove(id int32) {
	t.deactivate(id)
	n := &t.nodes[id]
	p := &t.nodes[n.parent]
	p.kids--
	if n.client >= 0 {
		p.members.unset(n.client)
	}
	n.used = false
	n.alloc, n.shared, n.members = nil, nil, nil
	t.free = append(t.free, id)
}

// compareClients is the order of clients in a walk over the whole tree: that of the ancestors right below the lowest
// common one.
func (t *tree) compareClients(a, b int32) int {
	if a == b {
		return 0
	}
	for t.nodes[a].depth > t.nodes[b].depth {
		a = t.nodes[a].parent
	}
	for t.nodes[b].depth > t.nodes[a].depth {
		b = t.nodes[b].parent
	}
	for t.nodes[a].parent != t.nodes[b].parent {
		a, b = t.nodes[a].parent, t.nodes[b].parent
	}
	x, y := &t.nodes[a], &t.nodes[b]
	if c := cmp.Compare(x.key, y.key); c != 0 {
		return c
	}
	if c := cmp.Compare(x.count, y.count); c != 0 {
		return c
	}
	return strings.Compare(x.name, y.name)
}

// share is a node's dominant share over its weight.
func (t *tree) share(n *node) float64 {
	var s float64
	for i, a := range n.alloc {
		if a <= 0 || i >= len(t.totals) || t.totals[i] <= 0 || i < len(t.excluded) && t.excluded[i] {
			continue
		}
		s = max(s, float64(a)/float64(t.totals[i]))
	}
	return s / n.weight
}

// charge adds (or with sign -1 takes away) an allocation at a client and at all above it; counted ones count as one more time
// that something was allocated. The order is refreshed later.
func (t *tree) charge(id int32, all vec, sign resources.Amount, counted bool) {
	for ; id >= 0; id = t.nodes[id].parent {
		n := &t.nodes[id]
		n.alloc.grow(len(all))
		for i, x := range all {
			n.alloc[i] += sign * x
		}
		if counted && n.count < math.MaxUint32 {
			n.count++
		}
		t.touch(id)
	}
}

// chargeShared accounts copies of a shared volume: it counts once in every subtree that uses it, however many copies.
func (t *tree) chargeShared(id int32, key sharedKey, name int, amount resources.Amount, copies int64) {
	for ; id >= 0; id = t.nodes[id].parent {
		n := &t.nodes[id]
		before := n.shared[key]
		after := max(before+copies, 0)
		n.alloc.grow(name + 1)
		switch {
		case before == 0 && after > 0:
			n.alloc[name] += amount
		case before > 0 && after == 0:
			n.alloc[name] -= amount
		}
		if after == 0 {
			delete(n.shared, key)
			continue
		}
		if n.shared == nil {
			n.shared = map[sharedKey]int64{}
		}
		n.shared[key] = after
	}
}

func (t *tree) touch(id int32) {
	if n := &t.nodes[id]; !n.isStale {
		n.isStale = true
		t.stale = append(t.stale, id)
	}
}

// refresh brings keys and heaps in line with what was charged since the last time.
func (t *tree) refresh() {
	if t.allStale {
		t.allStale = false
		for i := range t.nodes {
			n := &t.nodes[i]
			n.isStale = false
			if n.used {
				n.key = t.share(n)
			}
		}
		t.stale = t.stale[:0]
		for i := range t.nodes {
			if t.nodes[i].used {
				t.heapify(int32(i))
			}
		}
		return
	}
	for _, id := range t.stale {
		n := &t.nodes[id]
		n.isStale = false
		if !n.used {
			continue
		}
		n.key = t.share(n)
		if n.pos >= 0 {
			t.fix(id)
		}
	}
	t.stale = t.stale[:0]
}

// activate puts a client, and the nodes above it that had nothing active, into their parents' heaps.
func (t *tree) activate(id int32) {
	for id != root && t.nodes[id].pos < 0 {
		n := &t.nodes[id]
		n.key = t.share(n)
		t.push(n.parent, id)
		id = n.parent
	}
}

// deactivate takes a client, and the nodes above it that have nothing active left, out of their parents' heaps.
func (t *tree) deactivate(id int32) {
	for id != root && t.nodes[id].pos >= 0 && len(t.nodes[id].heap) == 0 {
		t.pull(id)
		id = t.nodes[id].parent
	}
}
