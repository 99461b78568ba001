package view

import (
	"cmp"
	"math"
	"slices"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/monitor/layout"
)

// Limits of one picture. What is beyond is hidden, and the totals say how much.
const (
	maxNodes = 20_000
	maxEdges = 100_000
)

// Totals sums the picture up.
type Totals struct {
	Nodes, Edges, HiddenNodes, HiddenEdges int
	OK, Warn, Crit, Stale                  int
}

// Settle works out rows, values and places of what has changed. It is called inside the estate's lock, after Build or
// Update; Emit and Frame then need the lock no more.
func (v *View) Settle() {
	for _, n := range v.dirtyNodes {
		if v.nodes[n.id] != n {
			continue
		}
		r, m, z := v.describe(n)
		r.box = n.row.box
		if n.dirty&dirtyRow == 0 {
			// Only numbers: the text of a reason has changed with them, which alone is not worth a row, and what is found.
			n.row.health, n.row.reason = r.health, r.reason
			if r != n.row {
				n.dirty |= dirtyRow
			}
		}
		if n.dirty&dirtyRow != 0 {
			n.row = r
		}
		n.m, n.z = m, z
	}
	for _, x := range v.dirtyEdges {
		if len(x.bases) > 0 {
			x.row = v.describeEdge(x)
		}
	}
}

func (v *View) describeEdge(x *edge) edgeRow {
	r := edgeRow{rtt: -1}
	var evidence uint8 = 3
	for i, b := range x.bases {
		r.n += b.Conns
		r.tx += b.Tx
		r.rx += b.Rx
		r.fail += b.Fail
		if b.RTTMicros > 0 {
			r.rtt = max(r.rtt, float32(b.RTTMicros)/1000)
		}
		proto := uint8(protoTCP)
		if b.UDP {
			proto = protoUDP
		}
		if i == 0 {
			r.port, r.proto = b.Port, proto
		} else {
			if r.port != b.Port {
				r.port = 0
			}
			if r.proto != proto {
				r.proto = protoMixed
			}
		}
		evidence &= b.Evidence
	}
	switch evidence {
	case 2:
		r.ev = byServer
	case 3:
		r.ev = byBoth
	default:
		r.ev = byClient // only, or some from one side, some from the other
	}
	return r
}

// visible tells which nodes are shown: all, or those around the focus. nil means all.
func (v *View) visible() map[*node]bool {
	lonely := v.p.Opts["unconnected"] == "hide"
	if v.p.Focus == "" && !lonely && len(v.nodes) <= maxNodes {
		return nil
	}
	out := map[*node]bool{}
	if v.p.Focus != "" {
		at := v.nodes[v.p.Focus]
		if at == nil {
			return out
		}
		out[at] = true
		ring := []*node{at}
		for range v.p.Hops {
			var next []*node
			for _, n := range ring {
				for x := range n.edges {
					for _, o := range []*node{x.src, x.dst} {
						if !out[o] {
							out[o] = true
							next = append(next, o)
						}
					}
				}
			}
			ring = next
		}
	} else {
		for _, n := range v.nodes {
			if !lonely || len(n.edges) > 0 {
				out[n] = true
			}
		}
	}
	if len(out) > maxNodes {
		list := make([]*node, 0, len(out))
		for n := range out {
			list = append(list, n)
		}
		// The worst first, then the oldest: the same ones every time.
		slices.SortFunc(list, func(a, b *node) int {
			return cmp.Or(-cmp.Compare(rank(a.row.health), rank(b.row.health)), cmp.Compare(a.h, b.h))
		})
		for _, n := range list[maxNodes:] {
			delete(out, n)
		}
	}
	return out
}

func rank(h estate.Health) int {
	if h == estate.HealthWarn || h == estate.HealthCrit {
		return int(h)
	}
	return 0
}

// arrange places new nodes, or everything when the picture is new.
func (v *View) arrange(shown map[*node]bool) (moved []*node) {
	list := make([]*node, 0, len(v.nodes))
	for _, n := range v.nodes {
		if shown == nil || shown[n] {
			list = append(list, n)
		}
	}
	mode := v.p.Layout
	edges := 0
	if shown == nil {
		edges = len(v.edges)
	} else {
		for x := range v.eachEdge() {
			if shown[x.src] && shown[x.dst] {
				edges++
			}
		}
	}
	if mode == "auto" {
		switch {
		case edges == 0:
			mode = layout.Grid
		case edges <= autoDense*len(list) && (len(list) <= autoLayered || v.arranged == layout.Layered && len(list) <= layeredNodes):
			mode = layout.Layered
		default:
			mode = layout.Force
		}
	}
	if mode == layout.Layered && len(list) > layeredNodes {
		mode = layout.Force
	}
	if mode == v.arranged && mode != layout.Layered && !slices.ContainsFunc(list, func(n *node) bool { return !n.placed }) {
		return nil // only edges came and went, and these layouts leave what has a place where it is
	}
	slices.SortFunc(list, func(a, b *node) int { return cmp.Compare(a.id, b.id) })
	index := make(map[*node]int, len(list))
	in := make([]layout.Node, len(list))
	cluster := map[string]int{}
	fresh := mode != v.arranged && v.arranged != ""
	for i, n := range list {
		index[n] = i
		in[i] = layout.Node{X: n.x, Y: n.y, Placed: n.placed && !fresh, Cluster: -1}
		key := n.box
		if key == "" && mode != layout.Layered {
			key = n.clusterHint()
		}
		if key != "" {
			c, ok := cluster[key]
			if !ok {
				c = len(cluster)
				cluster[key] = c
			}
			in[i].Cluster = c
		}
	}
	pairs := make([][2]int, 0, edges)
	for x := range v.eachEdge() {
		s, ok1 := index[x.src]
		d, ok2 := index[x.dst]
		if ok1 && ok2 {
			pairs = append(pairs, [2]int{s, d})
		}
	}
	slices.SortFunc(pairs, func(a, b [2]int) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
	layout.Arrange(mode, in, pairs)
	for i, n := range list {
		if n.shown && n.placed && (n.x != in[i].X || n.y != in[i].Y) {
			moved = append(moved, n)
		}
		n.x, n.y, n.placed = in[i].X, in[i].Y, true
	}
	v.arranged = mode
	return moved
}

func (v *View) eachEdge() func(func(*edge) bool) {
	return func(yield func(*edge) bool) {
		for _, x := range v.edges {
			if !yield(x) {
				return
			}
		}
	}
}

// clusterHint tells what a node lies beside in a large picture: its host's others.
func (n *node) clusterHint() string {
	if n.group || n.pseudo {
		return ""
	}
	for e := range n.members {
		if e.ID == n.id && e.ID != e.HostID() {
			return e.HostID()
		}
	}
	return ""
}

// Diff is what has changed since the last Emit, by rows.
type Diff struct {
	nodes  []*node
	edges  []*edge
	gone   []uint32
	goneE  []uint32
	values []*node
	moved  []*node
	boxes  []byte
	totals Totals
}

// Empty reports whether nothing has changed.
func (d *Diff) Empty() bool {
	return len(d.nodes)+len(d.edges)+len(d.gone)+len(d.goneE)+len(d.values)+len(d.moved) == 0 && d.boxes == nil
}

// step brings what is shown up to date and tells the difference. It is where handles of nodes appear and go.
func (v *View) step() *Diff {
	d := &Diff{}
	shown := v.visible()
	see := func(n *node) bool { return v.nodes[n.id] == n && (shown == nil || shown[n]) }
	if shown != nil {
		// Anything may have come into or gone out of sight.
		for _, n := range v.nodes {
			if shown[n] != n.shown {
				v.mark(n, dirtyRow)
			}
		}
		for _, x := range v.edges {
			if both := shown[x.src] && shown[x.dst]; both != x.shown {
				v.markEdge(x)
			}
		}
		v.structure = v.structure || len(v.dirtyNodes) > 0
	}
	if v.structure && !v.p.Raw {
		d.moved = v.arrange(shown)
	}
	v.structure = false
	boxes := v.layBoxes(see)
	for _, n := range v.dirtyNodes {
		what := n.dirty
		n.dirty = 0
		if v.nodes[n.id] != n {
			continue
		}
		if !see(n) {
			if n.shown {
				n.shown = false
				d.gone = append(d.gone, n.h)
			}
			continue
		}
		var in uint32
		if b := v.boxes[n.box]; b != nil {
			in = b.h
		}
		if n.row.box != in {
			n.row.box = in
			what |= dirtyRow
		}
		switch {
		case !n.shown || what&dirtyRow != 0:
			n.shown = true
			d.nodes = append(d.nodes, n)
		case v.p.Metric != "" || v.p.Size != "":
			d.values = append(d.values, n)
		}
	}
	for _, x := range v.dirtyEdges {
		x.dirty = false
		if v.edges[edgeID{x.src, x.dst}] != x {
			continue
		}
		if !x.src.shown || !x.dst.shown {
			if x.shown {
				v.hide(x)
				d.goneE = append(d.goneE, x.h)
			}
			continue
		}
		d.edges = append(d.edges, x)
	}
	d.edges = slices.DeleteFunc(d.edges, func(x *edge) bool { return x.shown && !x.worth(v.p.Flows) })
	for _, x := range d.edges {
		v.show(x)
		x.note()
	}
	d.gone = append(d.gone, v.goneNodes...)
	d.goneE = append(d.goneE, v.goneEdges...)
	clear(v.dirtyNodes)
	clear(v.dirtyEdges)
	v.dirtyNodes, v.dirtyEdges, v.goneNodes, v.goneEdges = v.dirtyNodes[:0], v.dirtyEdges[:0], nil, nil
	d.moved = slices.DeleteFunc(d.moved, func(n *node) bool { return slices.Contains(d.nodes, n) })
	if string(boxes) != v.lastBoxes {
		d.boxes = boxes
		v.lastBoxes = string(boxes)
	}
	d.totals = v.totals(shown)
	slices.SortFunc(d.nodes, func(a, b *node) int { return cmp.Compare(a.h, b.h) })
	slices.SortFunc(d.edges, func(a, b *edge) int { return cmp.Compare(a.h, b.h) })
	return d
}

// note keeps what is told of an edge, to tell it again only when it matters.
func (x *edge) note() { x.last = x.row }

// worth reports whether an edge has changed so much that it is sent again: numbers of connections by powers of two, failures,
// what kind it is; rates only for those who watch flows.
func (x *edge) worth(flows bool) bool {
	was, is := &x.last, &x.row
	if bits(was.n) != bits(is.n) || was.port != is.port || was.proto != is.proto || was.ev != is.ev || (was.fail > 0) != (is.fail > 0) {
		return true
	}
	return flows && (moved(was.tx, is.tx) || moved(was.rx, is.rx) || moved(was.fail, is.fail))
}

func bits(n uint32) int {
	b := 0
	for ; n > 0; n >>= 1 {
		b++
	}
	return b
}

func moved(was, is float32) bool {
	if was == 0 || is == 0 {
		return was != is
	}
	return math.Abs(float64(is-was)) > 0.2*float64(was)
}

func (v *View) totals(shown map[*node]bool) Totals {
	t := Totals{Edges: v.shownEdges, HiddenEdges: max(0, v.shownEdges-maxEdges)}
	for _, n := range v.nodes {
		if !n.shown {
			if shown == nil || v.p.Focus == "" && v.p.Opts["unconnected"] != "hide" {
				t.HiddenNodes++
			}
			continue
		}
		t.Nodes++
		switch n.row.health {
		case estate.HealthOK:
			t.OK++
		case estate.HealthWarn:
			t.Warn++
		case estate.HealthCrit:
			t.Crit++
		case estate.HealthStale:
			t.Stale++
		}
	}
	return t
}

// show and hide count what is shown: there are too many edges to count them for each difference.
func (v *View) show(x *edge) {
	if !x.shown {
		x.shown = true
		v.shownEdges++
	}
}

func (v *View) hide(x *edge) {
	if x.shown {
		x.shown = false
		v.shownEdges--
	}
}

// layBoxes draws a box round the members of each opened group and gives the table as JSON.
func (v *View) layBoxes(see func(*node) bool) []byte {
	if len(v.p.expand) == 0 {
		return nil
	}
	const margin = 50
	found := map[string]*box{}
	for _, n := range v.nodes {
		if n.box == "" || !see(n) {
			continue
		}
		b := found[n.box]
		if b == nil {
			b = &box{id: n.box, label: groupLabel(n.box), x: n.x, y: n.y, w: n.x, l: n.y}
			if was := v.boxes[n.box]; was != nil {
				b.h = was.h
			}
			found[n.box] = b
		}
		b.n++
		b.health = estate.Worse(b.health, n.row.health)
		b.x, b.y, b.w, b.l = min(b.x, n.x), min(b.y, n.y), max(b.w, n.x), max(b.l, n.y)
	}
	list := make([]*box, 0, len(found))
	for _, b := range found {
		list = append(list, b)
	}
	slices.SortFunc(list, func(a, b *box) int { return cmp.Compare(a.id, b.id) })
	for _, b := range list {
		if b.h == 0 {
			v.boxH++
			b.h = v.boxH
		}
		b.x, b.y, b.w, b.l = b.x-margin, b.y-margin, b.w-b.x+2*margin, b.l-b.y+2*margin
	}
	for id, n := range v.boxes {
		if found[id] == nil || found[id].h != n.h {
			for _, m := range v.nodes {
				if m.box == id {
					v.mark(m, dirtyRow)
				}
			}
		}
	}
	v.boxes = found
	for _, n := range v.nodes {
		if b := found[n.box]; b != nil && n.row.box != b.h {
			v.mark(n, dirtyRow)
		}
	}
	return appendBoxes(nil, list)
}
