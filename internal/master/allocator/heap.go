package allocator

// heap is a node's active children as a 4-ary heap. What orders them is copied beside the ids as of the last refresh: a walk
// down touches the nodes only where shares and counts are equal, and nodes that were charged since don't disturb the heap.
type heap []heapEntry

type heapEntry struct {
	key   float64
	count uint32
	id    int32
}

const arity = 4

// before is the order of two entries of one heap.
func (t *tree) before(a, b *heapEntry) bool {
	if a.key != b.key {
		return a.key < b.key
	}
	if a.count != b.count {
		return a.count < b.count
	}
	return t.nodes[a.id].name < t.nodes[b.id].name
}

// push puts a child into its parent's heap.
func (t *tree) push(parent, id int32) {
	p := &t.nodes[parent]
	p.heap = append(p.heap, heapEntry{t.nodes[id].key, t.nodes[id].count, id})
	t.nodes[id].pos = int32(len(p.heap) - 1)
	t.up(p.heap, int32(len(p.heap)-1))
}

// pull takes a child out of its parent's heap.
func (t *tree) pull(id int32) {
	n := &t.nodes[id]
	h := t.nodes[n.parent].heap
	last := int32(len(h) - 1)
	pos := n.pos
	n.pos = -1
	if pos != last {
		h[pos] = h[last]
		t.nodes[h[pos].id].pos = pos
	}
	h = h[:last]
	t.nodes[n.parent].heap = h
	if pos != last {
		if !t.up(h, pos) {
			t.down(h, pos)
		}
	}
}

// fix moves a child whose key or count changed.
func (t *tree) fix(id int32) {
	n := &t.nodes[id]
	h := t.nodes[n.parent].heap
	h[n.pos].key, h[n.pos].count = n.key, n.count
	if !t.up(h, n.pos) {
		t.down(h, n.pos)
	}
}

func (t *tree) up(h heap, pos int32) (moved bool) {
	e := h[pos]
	for pos > 0 {
		p := (pos - 1) / arity
		if !t.before(&e, &h[p]) {
			break
		}
		h[pos] = h[p]
		t.nodes[h[pos].id].pos = pos
		pos, moved = p, true
	}
	if moved {
		h[pos] = e
		t.nodes[e.id].pos = pos
	}
	return moved
}

func (t *tree) down(h heap, pos int32) {
	e := h[pos]
	moved := false
	for {
		first := pos*arity + 1
		if first >= int32(len(h)) {
			break
		}
		best := first
		for c := first + 1; c < min(first+arity, int32(len(h))); c++ {
			if t.before(&h[c], &h[best]) {
				best = c
			}
		}
		if !t.before(&h[best], &e) {
			break
		}
		h[pos] = h[best]
		t.nodes[h[pos].id].pos = pos
		pos, moved = best, true
	}
	if moved {
		h[pos] = e
		t.nodes[e.id].pos = pos
	}
}

// heapify rebuilds a node's heap after all keys changed.
func (t *tree) heapify(id int32) {
	h := t.nodes[id].heap
	for i := range h {
		n := &t.nodes[h[i].id]
		h[i].key, h[i].count = n.key, n.count
	}
	for i := (int32(len(h)) - 2) / arity; i >= 0 && len(h) > 1; i-- {
		t.down(h, i)
	}
}
