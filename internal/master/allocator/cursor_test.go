package allocator

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/orchestrator/orchestrator/internal/resources"
)

// TestCursorWalksInOrder compares the lazy walk with a sort of everything, on trees large enough for every way of walking.
func TestCursorWalksInOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		tr := newTree()
		tr.totals = vec{1000, 1000}
		var nodes []int32
		parents := []int32{root}
		for i := range rapid.IntRange(1, 8).Draw(rt, "roles") {
			parent := parents[rapid.IntRange(0, len(parents)-1).Draw(rt, "parent")]
			role := tr.add(parent, fmt.Sprintf("r%d", i), -1)
			parents = append(parents, role)
			if tr.nodes[role].weight = 1; i%3 == 0 {
				tr.nodes[role].weight = 2
			}
			leaf := tr.add(role, ".", -1)
			for range rapid.SampledFrom([]int{1, 3, 40, 200}).Draw(rt, "clients") {
				c := int32(len(nodes))
				nodes = append(nodes, tr.add(leaf, fmt.Sprintf("f%d", c), c))
			}
		}
		seed := rapid.Uint64().Draw(rt, "seed")
		random := func(n uint64) uint64 { seed = mix(seed); return seed % n }
		shift := func() {
			for range 1 + len(nodes)/3 {
				c := random(uint64(len(nodes)))
				tr.charge(nodes[c], vec{resources.Amount(random(3)), resources.Amount(random(3))}, 1, random(2) == 0)
			}
			tr.refresh()
		}
		active := bitmap{}
		for c, n := range nodes {
			if random(10) > 0 {
				tr.activate(n)
				active.set(int32(c))
			}
		}
		for range 4 {
			shift()
			if random(3) == 0 {
				tr.totals[0] += 100
				tr.allStale = true
				tr.refresh()
			}
			if c := int32(random(uint64(len(nodes)))); active.has(c) {
				tr.deactivate(nodes[c])
				active.unset(c)
			}
			var mask bitmap
			mask.assign(active)
			dense := random(12)
			for c := range nodes {
				if random(12) > dense {
					mask.unset(int32(c))
				}
			}
			want := mask.appendAnd(nil, nil)
			slices.SortFunc(want, func(a, b int32) int { return tr.compareClients(nodes[a], nodes[b]) })
			var cur cursor
			cur.start(&tr, nodes, mask, active.count())
			var got []int32
			for c := cur.next(); c >= 0; c = cur.next() {
				got = append(got, c)
			}
			if !slices.Equal(got, want) {
				rt.Fatalf("walked %v, want %v", got, want)
			}
		}
	})
}
