package allocator

import "slices"

// cursor walks the clients of a mask in the order of the tree, lazily: most visits end after the first. The tree must not be
// refreshed while a cursor walks.
//
// Where many clients are in the mask, it descends the heaps best first, which finds the first one after a few steps. Where
// few are left (most have refused the agent), descending would step over all that refused; then the ids in the mask are
// compared directly. The cost of either is about the square root of the number of clients where they meet. A walk that
// descends past too many that are not in the mask, because just those with the least shares are not, goes over to comparing.
type cursor struct {
	t               *tree
	nodes           []int32 // tree node of each client, by client id
	mask            bitmap
	list            []int32 // direct mode: clients not yet returned
	given           int
	patience, steps int // how many steps without finding a client are tried, and were made
	stack           []cursorFrame
	depth           int
}

// cursorFrame is one heap on the way down: the positions whose parents in the heap were taken.
type cursorFrame struct {
	node     int32
	frontier []int32
	list     []int32 // clients of a leaf, sorted backwards, when few of it are in the mask
	listed   bool
}

// start begins a walk over the clients in mask, which the cursor keeps until the next start.
func (c *cursor) start(t *tree, nodes []int32, mask bitmap, active int) {
	c.t, c.nodes, c.mask = t, nodes, mask
	c.list, c.given, c.depth = c.list[:0], 0, 0
	n := mask.count()
	if few(n, active) {
		c.list = mask.appendAnd(c.list, nil)
		return
	}
	c.patience, c.steps = 16+n/8, 0
	c.push(root)
}

// few says whether n of total are better compared one by one than searched for in a heap.
func few(n, total int) bool { return n <= 4 || n*n <= 8*total }

func (c *cursor) push(node int32) {
	if len(c.t.nodes[node].heap) == 0 {
		return
	}
	if c.depth == len(c.stack) {
		c.stack = append(c.stack, cursorFrame{})
	}
	f := &c.stack[c.depth]
	f.node, f.listed = node, false
	f.list, f.frontier = f.list[:0], append(f.frontier[:0], 0)
	c.depth++
	members := c.t.nodes[node].members
	if size := len(c.t.nodes[node].heap); len(members) > 0 && size > 8 {
		n := c.mask.countAnd(members)
		switch {
		case n == 0:
			c.depth--
		case few(n, size):
			f.listed = true
			f.list = c.mask.appendAnd(f.list, members)
			c.sortBackwards(f.list)
		}
	}
}

func (c *cursor) sortBackwards(list []int32) {
	slices.SortFunc(list, func(a, b int32) int { return c.t.compareClients(c.nodes[b], c.nodes[a]) })
}

// next returns the next client, or -1 at the end.
func (c *cursor) next() int32 {
	if n := len(c.list); n > 0 {
		c.given++
		if c.given <= 2 {
			best := 0
			for i := 1; i < n; i++ {
				if c.t.compareClients(c.nodes[c.list[i]], c.nodes[c.list[best]]) < 0 {
					best = i
				}
			}
			c.list[best], c.list[n-1] = c.list[n-1], c.list[best]
		} else if c.given == 3 {
			c.sortBackwards(c.list)
		}
		id := c.list[n-1]
		c.list = c.list[:n-1]
		return c.found(id)
	}
	for c.depth > 0 {
		f := &c.stack[c.depth-1]
		if f.listed {
			n := len(f.list)
			if n == 0 {
				c.depth--
				continue
			}
			id := f.list[n-1]
			f.list = f.list[:n-1]
			return c.found(id)
		}
		if len(f.frontier) == 0 {
			c.depth--
			continue
		}
		if c.steps++; c.steps > c.patience {
			c.depth = 0
			c.list = c.mask.appendAnd(c.list[:0], nil)
			return c.next()
		}
		id := c.popFrontier(f)
		client := c.t.nodes[id].client
		if client < 0 {
			c.push(id)
			continue
		}
		if c.mask.has(client) {
			return c.found(client)
		}
	}
	return -1
}

// found takes a client that the walk returns out of the mask, which so holds those that are still to come.
func (c *cursor) found(client int32) int32 {
	c.mask.unset(client)
	c.steps = 0
	return client
}

// popFrontier takes the least of the positions and puts its children in its place. The frontier is a binary heap.
func (c *cursor) popFrontier(f *cursorFrame) int32 {
	h := c.t.nodes[f.node].heap
	fr := f.frontier
	top := fr[0]
	last := len(fr) - 1
	fr[0] = fr[last]
	fr = fr[:last]
	for i := 0; ; {
		l := 2*i + 1
		if l >= len(fr) {
			break
		}
		if r := l + 1; r < len(fr) && c.t.before(&h[fr[r]], &h[fr[l]]) {
			l = r
		}
		if !c.t.before(&h[fr[l]], &h[fr[i]]) {
			break
		}
		fr[i], fr[l] = fr[l], fr[i]
		i = l
	}
	for child := top*arity + 1; child < min(top*arity+1+arity, int32(len(h))); child++ {
		fr = append(fr, child)
		for i := len(fr) - 1; i > 0; {
			p := (i - 1) / 2
			if !c.t.before(&h[fr[i]], &h[fr[p]]) {
				break
			}
			fr[i], fr[p] = fr[p], fr[i]
			i = p
		}
	}
	f.frontier = fr
	return h[top].id
}
