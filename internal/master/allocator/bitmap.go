package allocator

import "math/bits"

// bitmap is a set of dense client ids. It grows as needed; ids beyond its end are not in it.
type bitmap []uint64

// grow makes room for a word.
func (b *bitmap) grow(w int) {
	for len(*b) <= w {
		*b = append(*b, 0)
	}
}

func (b *bitmap) set(i int32) {
	w := int(i >> 6)
	b.grow(w)
	(*b)[w] |= 1 << (i & 63)
}

func (b bitmap) unset(i int32) {
	if w := int(i >> 6); w < len(b) {
		b[w] &^= 1 << (i & 63)
	}
}

func (b bitmap) has(i int32) bool {
	w := int(i >> 6)
	return w < len(b) && b[w]&(1<<(i&63)) != 0
}

func (b *bitmap) put(i int32, on bool) {
	if on {
		b.set(i)
	} else {
		b.unset(i)
	}
}

// assign makes b a copy of o.
func (b *bitmap) assign(o bitmap) { *b = append((*b)[:0], o...) }

// and keeps what is also in o.
func (b bitmap) and(o bitmap) {
	n := min(len(b), len(o))
	for i := range b[:n] {
		b[i] &= o[i]
	}
	clear(b[n:])
}

// andNot takes away what is in o.
func (b bitmap) andNot(o bitmap) {
	for i := range b[:min(len(b), len(o))] {
		b[i] &^= o[i]
	}
}

func (b bitmap) count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

func (b bitmap) empty() bool {
	for _, w := range b {
		if w != 0 {
			return false
		}
	}
	return true
}

// countAnd returns how many ids are in both.
func (b bitmap) countAnd(o bitmap) int {
	n := 0
	for i := range b[:min(len(b), len(o))] {
		n += bits.OnesCount64(b[i] & o[i])
	}
	return n
}

// appendAnd appends the ids that are in both b and o, in order; a nil o stands for everything.
func (b bitmap) appendAnd(ids []int32, o bitmap) []int32 {
	for i, w := range b {
		if o != nil {
			if i >= len(o) {
				break
			}
			w &= o[i]
		}
		for w != 0 {
			ids = append(ids, int32(i<<6+bits.TrailingZeros64(w)))
			w &= w - 1
		}
	}
	return ids
}
