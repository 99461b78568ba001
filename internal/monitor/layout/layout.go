// Package layout places the nodes of a picture. It keeps what is placed where it is: somebody who has looked at the picture
// a minute ago must find it again. Only a new picture, or one of which most is new, is arranged from nothing.
//
// The result depends on the input alone, in its order: the same picture is placed the same way for everybody.
package layout

import (
	"math"
	"slices"
	"sort"
)

// Spacing is the least distance between two nodes.
const Spacing = 60

// Node is a node to place. Cluster groups nodes that belong together (-1: found from the edges).
type Node struct {
	X, Y    int32
	Placed  bool
	Cluster int
}

// Modes of Arrange.
const (
	Grid    = "grid"
	Layered = "layered"
	Force   = "force"
)

// springNodes is up to how many nodes each one is moved by springs; beyond it only clusters are.
const springNodes = 200

// Arrange places the nodes. Edges are pairs of indices, client first.
func Arrange(mode string, nodes []Node, edges [][2]int) {
	placed := 0
	for i := range nodes {
		if nodes[i].Placed {
			placed++
		}
	}
	switch {
	case len(nodes) == 0:
	case mode == Layered:
		layered(nodes, edges)
	case placed*2 >= len(nodes):
		insert(nodes, edges)
	case mode == Grid:
		grid(nodes)
	case len(nodes) <= springNodes && len(edges) > 0:
		springs(nodes, edges)
	default:
		clustered(nodes, edges)
	}
	for i := range nodes {
		nodes[i].Placed = true
	}
}

func grid(nodes []Node) {
	order := make([]int, len(nodes))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return nodes[order[a]].Cluster < nodes[order[b]].Cluster })
	columns := max(1, int(math.Ceil(math.Sqrt(float64(len(nodes))*1.6))))
	rows := (len(nodes) + columns - 1) / columns
	const step = Spacing + 20
	for k, i := range order {
		nodes[i].X = int32((k%columns)*step - columns*step/2)
		nodes[i].Y = int32((k/columns)*step - rows*step/2)
	}
}

// spiral gives the place of the i-th of many points that fill a disc evenly, the golden angle apart.
func spiral(i int) (x, y float64) {
	const c = Spacing * 0.72
	r, a := c*math.Sqrt(float64(i)+0.5), float64(i)*2.399963229728653
	return r * math.Cos(a), r * math.Sin(a)
}

// clustered places clusters by the edges between them, and the nodes of each on a spiral, those with most edges inside.
func clustered(nodes []Node, edges [][2]int) {
	of := clusters(nodes, edges)
	count := 0
	for _, c := range of {
		count = max(count, c+1)
	}
	members := make([][]int, count)
	for i, c := range of {
		members[c] = append(members[c], i)
	}
	degree := make([]int, len(nodes))
	between := map[[2]int]float64{}
	for _, e := range edges {
		degree[e[0]]++
		degree[e[1]]++
		a, b := of[e[0]], of[e[1]]
		if a != b {
			between[[2]int{min(a, b), max(a, b)}]++
		}
	}
	radius := make([]float64, count)
	for c := range members {
		sort.SliceStable(members[c], func(a, b int) bool { return degree[members[c][a]] > degree[members[c][b]] })
		x, y := spiral(len(members[c]))
		radius[c] = math.Hypot(x, y) + Spacing
	}
	cx, cy := placeClusters(radius, between)
	for c, list := range members {
		for k, i := range list {
			x, y := spiral(k)
			nodes[i].X, nodes[i].Y = int32(math.Round(cx[c]+x)), int32(math.Round(cy[c]+y))
		}
	}
}

// clusters numbers the cluster of each node from 0: as given, else found by letting labels spread along the edges.
func clusters(nodes []Node, edges [][2]int) []int {
	label := make([]int, len(nodes))
	given := 0
	for i := range nodes {
		if label[i] = nodes[i].Cluster; label[i] >= 0 {
			given++
		} else {
			label[i] = -1 - i
		}
	}
	if given < len(nodes) {
		near := make([][]int, len(nodes))
		for _, e := range edges {
			if e[0] != e[1] {
				near[e[0]] = append(near[e[0]], e[1])
				near[e[1]] = append(near[e[1]], e[0])
			}
		}
		for range 6 {
			changed := false
			for i := range nodes {
				if nodes[i].Cluster >= 0 || len(near[i]) == 0 {
					continue
				}
				votes := map[int]int{}
				for _, j := range near[i] {
					votes[label[j]]++
				}
				best, n := label[i], votes[label[i]]
				for l, k := range votes {
					if k > n || k == n && l > best {
						best, n = l, k
					}
				}
				changed = changed || best != label[i]
				label[i] = best
			}
			if !changed {
				break
			}
		}
	}
	numbers := map[int]int{}
	out := make([]int, len(nodes))
	for i, l := range label {
		// Nodes without an edge or a cluster lie together.
		n, ok := numbers[l]
		if !ok {
			n = len(numbers)
			numbers[l] = n
		}
		out[i] = n
	}
	return out
}

// placeClusters lays discs out without overlap, related ones near each other: the largest first, each new one at the free
// place nearest to the centre of those that it is related to.
func placeClusters(radius []float64, between map[[2]int]float64) (xs, ys []float64) {
	n := len(radius)
	xs, ys = make([]float64, n), make([]float64, n)
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return radius[order[a]] > radius[order[b]] })
	near := make([]map[int]float64, n)
	for k, w := range between {
		for _, p := range [2][2]int{{k[0], k[1]}, {k[1], k[0]}} {
			if near[p[0]] == nil {
				near[p[0]] = map[int]float64{}
			}
			near[p[0]][p[1]] = w
		}
	}
	if n > 400 {
		packRows(radius, order, xs, ys)
		return xs, ys
	}
	done := make([]bool, n)
	for k, c := range order {
		var tx, ty, w float64
		for _, o := range order[:k] {
			if v := near[c][o]; v > 0 {
				tx, ty, w = tx+xs[o]*v, ty+ys[o]*v, w+v
			}
		}
		if w > 0 {
			tx, ty = tx/w, ty/w
		}
		xs[c], ys[c] = freeDisc(tx, ty, c, order[:k], radius, xs, ys)
		done[c] = true
	}
	return xs, ys
}

// freeDisc searches outward from a point for a place where a disc overlaps no other.
func freeDisc(tx, ty float64, c int, others []int, radius, xs, ys []float64) (float64, float64) {
	const gap = Spacing
	for step := 0; ; step++ {
		r := float64(step) * max(40, radius[c]/2)
		spots := max(1, 6*step)
		for s := range spots {
			a := 2 * math.Pi * float64(s) / float64(spots)
			x, y := tx+r*math.Cos(a), ty+r*math.Sin(a)
			free := true
			for _, o := range others {
				if d := radius[c] + radius[o] + gap; (x-xs[o])*(x-xs[o])+(y-ys[o])*(y-ys[o]) < d*d {
					free = false
					break
				}
			}
			if free {
				return x, y
			}
		}
	}
}

// packRows lays very many discs out in rows of one width.
func packRows(radius []float64, order []int, xs, ys []float64) {
	area := 0.0
	for _, r := range radius {
		area += 4 * r * r
	}
	width := math.Sqrt(area) * 1.3
	x, y, high := 0.0, 0.0, 0.0
	for _, c := range order {
		if x > 0 && x+2*radius[c] > width {
			x, y, high = 0, y+high+Spacing, 0
		}
		xs[c], ys[c] = x+radius[c]-width/2, y+radius[c]-width/2
		x, high = x+2*radius[c]+Spacing, max(high, 2*radius[c])
	}
}

// springs moves nodes as if edges pulled and nodes pushed, then sets them apart.
func springs(nodes []Node, edges [][2]int) {
	n := len(nodes)
	x, y := make([]float64, n), make([]float64, n)
	for i := range nodes {
		x[i], y[i] = spiral(i)
	}
	const k = 110.0
	dx, dy := make([]float64, n), make([]float64, n)
	heat := 200.0
	for range 120 {
		clear(dx)
		clear(dy)
		for i := range n {
			for j := i + 1; j < n; j++ {
				ex, ey := x[i]-x[j], y[i]-y[j]
				d2 := max(1, ex*ex+ey*ey)
				f := k * k / d2
				dx[i], dy[i], dx[j], dy[j] = dx[i]+ex*f, dy[i]+ey*f, dx[j]-ex*f, dy[j]-ey*f
			}
			// A little gravity keeps parts without a link in sight.
			dx[i] -= x[i] * 0.05
			dy[i] -= y[i] * 0.05
		}
		for _, e := range edges {
			a, b := e[0], e[1]
			ex, ey := x[a]-x[b], y[a]-y[b]
			f := math.Hypot(ex, ey) / k
			dx[a], dy[a], dx[b], dy[b] = dx[a]-ex*f, dy[a]-ey*f, dx[b]+ex*f, dy[b]+ey*f
		}
		for i := range n {
			d := math.Hypot(dx[i], dy[i])
			if d < 1e-9 {
				continue
			}
			s := min(d, heat) / d
			x[i], y[i] = x[i]+dx[i]*s, y[i]+dy[i]*s
		}
		heat *= 0.96
	}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool {
		return math.Hypot(x[order[a]], y[order[a]]) < math.Hypot(x[order[b]], y[order[b]])
	})
	taken := occupied{}
	for _, i := range order {
		nodes[i].X, nodes[i].Y = taken.nearest(x[i], y[i])
	}
}

// occupied finds free places: nodes by cell of the size of the spacing.
type occupied map[[2]int32][][2]int32

func cellOf(x, y int32) [2]int32 {
	return [2]int32{floorDiv(x, Spacing), floorDiv(y, Spacing)}
}

func floorDiv(a, b int32) int32 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func (o occupied) add(x, y int32) {
	c := cellOf(x, y)
	o[c] = append(o[c], [2]int32{x, y})
}

func (o occupied) free(x, y int32) bool {
	c := cellOf(x, y)
	for i := c[0] - 1; i <= c[0]+1; i++ {
		for j := c[1] - 1; j <= c[1]+1; j++ {
			for _, p := range o[[2]int32{i, j}] {
				ex, ey := int64(p[0]-x), int64(p[1]-y)
				if ex*ex+ey*ey < Spacing*Spacing {
					return false
				}
			}
		}
	}
	return true
}

// nearest takes the free place nearest to a point, looking outward in rings.
func (o occupied) nearest(fx, fy float64) (int32, int32) {
	const far = 1 << 20
	fx, fy = max(-far, min(far, fx)), max(-far, min(far, fy))
	for step := 0; ; step++ {
		spots := max(1, 8*step)
		for s := range spots {
			a := 2 * math.Pi * (float64(s)/float64(spots) + float64(step%7)/40)
			x := int32(math.Round(fx + float64(step)*Spacing/2*math.Cos(a)))
			y := int32(math.Round(fy + float64(step)*Spacing/2*math.Sin(a)))
			if o.free(x, y) {
				o.add(x, y)
				return x, y
			}
		}
	}
}

// insert places the new nodes among those that stay: beside their neighbours, else their cluster, else at the rim.
func insert(nodes []Node, edges [][2]int) {
	taken := occupied{}
	near := map[int][]int{}
	centre := map[int][3]float64{}
	low, high := math.Inf(1), math.Inf(-1)
	for i := range nodes {
		if nodes[i].Placed {
			taken.add(nodes[i].X, nodes[i].Y)
			c := centre[nodes[i].Cluster]
			centre[nodes[i].Cluster] = [3]float64{c[0] + float64(nodes[i].X), c[1] + float64(nodes[i].Y), c[2] + 1}
			low, high = min(low, float64(nodes[i].X)), max(high, float64(nodes[i].Y))
		}
	}
	for _, e := range edges {
		for _, p := range [2][2]int{{e[0], e[1]}, {e[1], e[0]}} {
			if !nodes[p[0]].Placed && len(near[p[0]]) < 64 {
				near[p[0]] = append(near[p[0]], p[1])
			}
		}
	}
	for i := range nodes {
		if nodes[i].Placed {
			continue
		}
		var x, y, n float64
		for _, j := range near[i] {
			if nodes[j].Placed {
				x, y, n = x+float64(nodes[j].X), y+float64(nodes[j].Y), n+1
			}
		}
		if c := centre[nodes[i].Cluster]; n == 0 && nodes[i].Cluster >= 0 && c[2] > 0 {
			x, y, n = c[0], c[1], c[2]
		}
		if n == 0 {
			x, y, n = low, high+1.5*Spacing, 1
		}
		nodes[i].X, nodes[i].Y = taken.nearest(x/n, y/n)
		nodes[i].Placed = true
	}
}

// layered places callers above what they call: layers by the longest way from a caller, each sorted so that edges cross
// little, beginning with the order in which nodes stand already.
func layered(nodes []Node, edges [][2]int) {
	n := len(nodes)
	out, in := make([][]int, n), make([][]int, n)
	for _, e := range edges {
		if e[0] != e[1] && !slices.Contains(out[e[0]], e[1]) {
			out[e[0]] = append(out[e[0]], e[1])
			in[e[1]] = append(in[e[1]], e[0])
		}
	}
	layer := layers(n, out, in)
	deepest := 0
	for i := range layer {
		if len(out[i])+len(in[i]) > 0 {
			deepest = max(deepest, layer[i])
		}
	}
	rows := make([][]int, deepest+1)
	var lonely []int
	for i := range nodes {
		if len(out[i])+len(in[i]) == 0 {
			lonely = append(lonely, i)
		} else {
			rows[layer[i]] = append(rows[layer[i]], i)
		}
	}
	pos := make([]float64, n)
	for _, row := range rows {
		sort.SliceStable(row, func(a, b int) bool {
			if p, q := nodes[row[a]], nodes[row[b]]; p.Placed && q.Placed {
				return p.X < q.X
			}
			return false
		})
		for k, i := range row {
			pos[i] = float64(k) - float64(len(row))/2
		}
	}
	for sweep := range 8 {
		for r := range rows {
			row, side := rows[r], in
			if sweep%2 == 1 {
				row, side = rows[len(rows)-1-r], out
			}
			key := make(map[int]float64, len(row))
			for _, i := range row {
				key[i] = pos[i]
				if len(side[i]) > 0 {
					sum := 0.0
					for _, j := range side[i] {
						sum += pos[j]
					}
					key[i] = sum / float64(len(side[i]))
				}
			}
			sort.SliceStable(row, func(a, b int) bool { return key[row[a]] < key[row[b]] })
			for k, i := range row {
				pos[i] = float64(k) - float64(len(row)-1)/2
			}
		}
	}
	const across, down = 110, 120
	y := 0
	for _, row := range rows {
		// A row of very many is broken, so that the picture stays in sight.
		const most = 40
		for k, i := range row {
			width := min(most, len(row)-k/most*most)
			nodes[i].X = int32(float64(k%most)*across - float64(width-1)*across/2)
			nodes[i].Y = int32(y + k/most*70)
		}
		y += down + (max(1, len(row))-1)/most*70
	}
	columns := max(8, int(math.Sqrt(float64(len(lonely))*2)))
	for k, i := range lonely {
		nodes[i].X, nodes[i].Y = int32(k%columns*80-(min(columns, len(lonely))-1)*40), int32(y+k/columns*80)
	}
}

// layers gives each node the longest way to it from a node that nobody calls; edges that close a circle do not count.
func layers(n int, out, in [][]int) []int {
	layer, state := make([]int, n), make([]uint8, n)
	type frame struct{ node, next int }
	back := map[[2]int]bool{}
	var order []int
	visit := func(root int) {
		stack := []frame{{root, 0}}
		state[root] = 1
		for len(stack) > 0 {
			f := &stack[len(stack)-1]
			if f.next < len(out[f.node]) {
				to := out[f.node][f.next]
				f.next++
				switch state[to] {
				case 0:
					state[to] = 1
					stack = append(stack, frame{to, 0})
				case 1:
					back[[2]int{f.node, to}] = true
				}
				continue
			}
			state[f.node] = 2
			order = append(order, f.node)
			stack = stack[:len(stack)-1]
		}
	}
	for i := range n {
		if len(in[i]) == 0 && state[i] == 0 {
			visit(i)
		}
	}
	for i := range n {
		if state[i] == 0 {
			visit(i)
		}
	}
	for k := len(order) - 1; k >= 0; k-- {
		i := order[k]
		for _, to := range out[i] {
			if !back[[2]int{i, to}] {
				layer[to] = max(layer[to], layer[i]+1)
			}
		}
	}
	return layer
}
