package layout

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func drawn(t *rapid.T, most int) ([]Node, [][2]int) {
	n := rapid.IntRange(1, most).Draw(t, "nodes")
	nodes := make([]Node, n)
	byCluster := rapid.Bool().Draw(t, "clusters")
	for i := range nodes {
		nodes[i].Cluster = -1
		if byCluster {
			nodes[i].Cluster = rapid.IntRange(0, 5).Draw(t, "c")
		}
	}
	var edges [][2]int
	for range rapid.IntRange(0, 2*n).Draw(t, "edges") {
		edges = append(edges, [2]int{rapid.IntRange(0, n-1).Draw(t, "a"), rapid.IntRange(0, n-1).Draw(t, "b")})
	}
	return nodes, edges
}

func apart(t *rapid.T, nodes []Node) {
	for i := range nodes {
		for j := range i {
			dx, dy := nodes[i].X-nodes[j].X, nodes[i].Y-nodes[j].Y
			if dx*dx+dy*dy < Spacing*Spacing-2*Spacing {
				t.Fatalf("nodes %d and %d are at %v and %v", j, i, nodes[j], nodes[i])
			}
		}
	}
}

func TestNodesAreApartAndSameInputGivesSamePicture(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		mode := rapid.SampledFrom([]string{Grid, Layered, Force}).Draw(t, "mode")
		nodes, edges := drawn(t, 90)
		again := slices.Clone(nodes)
		Arrange(mode, nodes, edges)
		Arrange(mode, again, edges)
		if !slices.Equal(nodes, again) {
			t.Fatal("two different pictures of the same input")
		}
		apart(t, nodes)
	})
}

func TestWhatIsPlacedStays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nodes, edges := drawn(t, 60)
		Arrange(Force, nodes, edges)
		was := slices.Clone(nodes)
		for range rapid.IntRange(1, len(nodes)).Draw(t, "new") {
			nodes = append(nodes, Node{Cluster: -1})
			edges = append(edges, [2]int{len(nodes) - 1, rapid.IntRange(0, len(nodes)-1).Draw(t, "to")})
		}
		Arrange(Force, nodes, edges)
		if !slices.Equal(nodes[:len(was)], was) {
			t.Fatal("a node has moved because others came")
		}
		apart(t, nodes)
	})
}

func TestCallersStandAboveWhatTheyCall(t *testing.T) {
	t.Parallel()
	nodes := make([]Node, 4)
	Arrange(Layered, nodes, [][2]int{{0, 1}, {1, 2}, {0, 3}, {3, 2}})
	if nodes[0].Y >= nodes[1].Y || nodes[1].Y >= nodes[2].Y || nodes[1].Y != nodes[3].Y {
		t.Errorf("%v", nodes)
	}
	// A circle is no reason to fail.
	circle := make([]Node, 3)
	Arrange(Layered, circle, [][2]int{{0, 1}, {1, 2}, {2, 0}})
}

// BenchmarkArrange is the first picture of a large estate.
func BenchmarkArrange(b *testing.B) {
	for b.Loop() {
		nodes := make([]Node, 10_000)
		var edges [][2]int
		for i := range nodes {
			nodes[i].Cluster = i / 40
			edges = append(edges, [2]int{i, (i*7 + 1) % len(nodes)}, [2]int{i, (i*13 + 5) % len(nodes)})
		}
		Arrange(Force, nodes, edges)
	}
}

// Nodes without a connection stand below the middle of those with one, however few they are.
func TestTheLonelyStandInTheMiddle(t *testing.T) {
	t.Parallel()
	for _, lonely := range []int{1, 2, 7} {
		nodes := make([]Node, 4+lonely)
		for i := range nodes {
			nodes[i].Cluster = -1
		}
		Arrange(Layered, nodes, [][2]int{{0, 2}, {1, 2}, {2, 3}})
		low, high := nodes[4].X, nodes[4].X
		for _, n := range nodes[4:] {
			low, high = min(low, n.X), max(high, n.X)
		}
		if low != -high {
			t.Errorf("%d of them from %d to %d", lonely, low, high)
		}
	}
}
