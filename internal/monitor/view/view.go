package view

import (
	"math"
	"slices"
	"strings"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// maxFan bounds how many nodes one entity may belong to (a pod in many services).
const maxFan = 4

// node is one node of the picture.
type node struct {
	h       uint32
	id      string
	kind    string
	label   string
	group   bool
	pseudo  bool
	box     string
	members map[*estate.Entity]struct{}
	edges   map[*edge]struct{}
	placed  bool
	x, y    int32
	dirty   uint8
	shown   bool
	row     row
	m, z    float32
}

// What is dirty of a node.
const (
	dirtyRow    = 1
	dirtyValues = 2
)

// row is what a reader gets of a node, but for its values and its place.
type row struct {
	label, minor, state, reason, kind, shape string
	n                                        int
	health                                   estate.Health
	box                                      uint32
	pseudo, hit                              bool
}

// edge is one edge of the picture.
type edge struct {
	h        uint32
	dirty    bool
	shown    bool
	src, dst *node
	bases    []*estate.Edge
	row      edgeRow
	last     edgeRow // as it was last sent
}

// edgeRow is what a reader gets of an edge, but for its ends. There are tens of thousands, each with what it was and what it is.
type edgeRow struct {
	n            uint32
	port         uint16
	proto, ev    uint8 // of protoNames and evidenceNames
	tx, rx, fail float32
	rtt          float32
}

// How an edge row's protocol and evidence are called on the wire.
var (
	protoNames    = [...]string{"tcp", "udp", "mixed"}
	evidenceNames = [...]string{"client", "server", "both"}
)

const (
	protoTCP = iota
	protoUDP
	protoMixed
)

const (
	byClient = iota
	byServer
	byBoth
)

type edgeID struct{ src, dst *node }

// routes tells which edges of the picture an edge of the estate belongs to: nearly always one.
type routes struct {
	first map[*estate.Edge]*edge
	more  map[*estate.Edge][]*edge // beyond the first
}

// of appends them to list.
func (r routes) of(b *estate.Edge, list []*edge) []*edge {
	if x := r.first[b]; x != nil {
		list = append(append(list, x), r.more[b]...)
	}
	return list
}

func (r routes) set(b *estate.Edge, list []*edge) {
	if len(list) == 0 {
		delete(r.first, b)
	} else {
		r.first[b] = list[0]
	}
	if len(list) > 1 {
		r.more[b] = slices.Clone(list[1:])
	} else {
		delete(r.more, b)
	}
}

// View is one picture. See the package's comment.
type View struct {
	p       *parsed
	group   string // what auto has become
	nodes   map[string]*node
	members map[*estate.Entity][]*node
	edges   map[edgeID]*edge
	bases   routes
	nextH   uint32
	rev     uint64
	at      int64 // 0 live, else the time that is shown

	dirtyNodes []*node
	dirtyEdges []*edge
	goneNodes  []uint32
	goneEdges  []uint32
	shownEdges int
	structure  bool // nodes or edges came or went since the last layout
	anew       bool // it was made anew since the last Emit: that is a revision also when nothing is in it
	boxes      map[string]*box
	boxH       uint32
	lastBoxes  string
	arranged   string // which layout the places are of
	placedN    int
	hits       bool
}

type box struct {
	h          uint32
	id, label  string
	n          int
	health     estate.Health
	x, y, w, l int32
}

// New makes an empty view; Build fills it. at is 0 for a live one.
func New(s Spec, at int64) (*View, error) {
	p, err := parse(s)
	if err != nil {
		return nil, err
	}
	return &View{p: p, at: at, hits: p.Find != ""}, nil
}

// Build makes the picture from nothing. Handles are new ones.
func (v *View) Build(r *estate.Reader) {
	v.nodes, v.members = map[string]*node{}, map[*estate.Entity][]*node{}
	v.edges, v.bases = map[edgeID]*edge{}, routes{map[*estate.Edge]*edge{}, map[*estate.Edge][]*edge{}}
	v.dirtyNodes, v.dirtyEdges, v.goneNodes, v.goneEdges = nil, nil, nil, nil
	v.boxes, v.shownEdges = map[string]*box{}, 0
	v.structure, v.anew, v.arranged, v.placedN = true, true, "", 0
	v.group = v.p.Group
	if v.group == "auto" {
		v.group = v.autoGroup(r)
	}
	r.Entities(func(e *estate.Entity) bool {
		v.enrol(e)
		return true
	})
	r.Edges(func(b *estate.Edge) bool {
		v.route(b)
		return true
	})
}

// Stale reports whether auto would now choose another grouping, so that the view has to be built again.
func (v *View) Stale(r *estate.Reader) bool {
	if v.p.Group != "auto" {
		return false
	}
	n := len(v.members)
	if v.group == "none" {
		return n > autoNodes+autoNodes/10
	}
	return n < autoNodes-autoNodes/10
}

// autoGroup chooses a grouping: none for few nodes, else the first with few enough groups, else the one with the fewest.
func (v *View) autoGroup(r *estate.Reader) string {
	v.group = "none"
	primary := map[string]bool{}
	var list []*estate.Entity
	r.Entities(func(e *estate.Entity) bool {
		for _, k := range v.place(e) {
			primary[k.id] = true
			list = append(list, e)
		}
		return true
	})
	if len(primary) <= autoNodes {
		return "none"
	}
	best, fewest := "none", len(primary)
	for _, g := range v.p.def.Groups {
		if g == "none" || g == "auto" {
			continue
		}
		groups := map[string]bool{}
		ungrouped := 0
		for _, e := range list {
			if value := groupValue(e, g); value != "" {
				groups[value] = true
			} else {
				ungrouped++
			}
		}
		n := len(groups) + ungrouped
		if n <= autoGroups {
			return g
		}
		if n < fewest {
			best, fewest = g, n
		}
	}
	return best
}

// nodeKey is a node that an entity belongs to.
type nodeKey struct {
	id, kind, label, box string
	group                bool
}

// place tells which nodes an entity makes or joins; none when it is no member of this view or is filtered out.
func (v *View) place(e *estate.Entity) []nodeKey {
	if e.Pseudo || e.Gone() {
		return nil
	}
	def := &v.p.def
	if e.Kind != def.Member && e.Kind != def.Kind {
		return nil
	}
	if !v.wanted(e) {
		return nil
	}
	var keys []nodeKey
	switch {
	case def.ID == "processes-by-name":
		keys = []nodeKey{{id: topology.ID(topology.KindGroup, "name", e.Label), kind: topology.KindProcess, label: e.Label, group: true}}
	case def.ID == "containers-by-hostname":
		name := e.Attr(topology.AttrHostname)
		if name == "" {
			name = e.Label
		}
		keys = []nodeKey{{id: topology.ID(topology.KindGroup, "hostname", name), kind: topology.KindContainer, label: name, group: true}}
	case def.Kind == topology.KindLabel:
		name := strings.TrimPrefix(def.ID, "label:")
		value := e.Attr(topology.AttrLabel + name)
		if value == "" {
			return nil
		}
		keys = []nodeKey{{id: topology.ID(topology.KindLabel, name, value), kind: topology.KindLabel, label: value, group: true}}
	case e.Kind == def.Kind:
		keys = []nodeKey{{id: e.ID, kind: e.Kind, label: e.Label}}
	default:
		for _, id := range e.ParentIDs(def.Kind) {
			_, label, _ := strings.Cut(id, ";")
			keys = append(keys, nodeKey{id: id, kind: def.Kind, label: label, group: true})
			if len(keys) == maxFan {
				break
			}
		}
	}
	if v.group == "none" || v.group == "auto" {
		return keys
	}
	value := groupValue(e, v.group)
	if value == "" {
		return keys
	}
	id := topology.ID(topology.KindGroup, v.group, value)
	for i := range keys {
		if v.p.expand[id] {
			keys[i].box = id
			continue
		}
		keys[i] = nodeKey{id: id, kind: topology.KindGroup, label: groupLabel(value), group: true}
	}
	return keys
}

// wanted applies the view's options and the query.
func (v *View) wanted(e *estate.Entity) bool {
	if e.Kind == topology.KindContainer {
		running := e.State == topology.StateRunning || e.State == topology.StatePaused || e.State == topology.StateRestarting
		switch v.p.Opts["state"] {
		case "running":
			if !running {
				return false
			}
		case "stopped":
			if running {
				return false
			}
		}
		if v.p.Opts["system"] == "hide" && e.Attr(topology.AttrSystem) == "1" {
			return false
		}
	}
	return v.p.Query == "" || v.p.query.Match(Doc{e, v.at})
}

// groupValue gives the group of an entity: an entity id, a host's name or a label's value.
func groupValue(e *estate.Entity, group string) string {
	if name, ok := strings.CutPrefix(group, "label:"); ok {
		if v := e.Attr(topology.AttrLabel + name); v != "" {
			return v
		}
		if c := e.Container(); c != nil && c != e {
			return c.Attr(topology.AttrLabel + name)
		}
		return ""
	}
	if group == "host" {
		return e.Hostname()
	}
	_, rest, _ := strings.Cut(e.ParentID(group), ";")
	return rest
}

func groupLabel(value string) string {
	if i := strings.LastIndexByte(value, ';'); i >= 0 {
		return value[i+1:]
	}
	return value
}

// enrol puts an entity into the nodes that it belongs to now. It reports whether these have changed.
func (v *View) enrol(e *estate.Entity) bool {
	keys := v.place(e)
	was := v.members[e]
	if len(keys) == 0 && len(was) == 0 {
		return false
	}
	same := len(keys) == len(was)
	for i := 0; same && i < len(keys); i++ {
		same = keys[i].id == was[i].id && keys[i].box == was[i].box
	}
	if same {
		for _, n := range was {
			v.mark(n, dirtyRow)
		}
		return false
	}
	now := make([]*node, 0, len(keys))
	for _, k := range keys {
		n := v.get(k.id, k.kind, k.label, k.group, false)
		if k.id == e.ID {
			n.group = false
		}
		if n.box != k.box {
			n.box = k.box
			v.structure = true
		}
		n.members[e] = struct{}{}
		v.mark(n, dirtyRow)
		now = append(now, n)
	}
	for _, n := range was {
		if !slices.Contains(now, n) {
			delete(n.members, e)
			v.mark(n, dirtyRow)
			v.release(n)
		}
	}
	if len(now) == 0 {
		delete(v.members, e)
	} else {
		v.members[e] = now
	}
	return true
}

// get finds or makes a node.
func (v *View) get(id, kind, label string, group, pseudo bool) *node {
	n := v.nodes[id]
	if n == nil {
		v.nextH++
		n = &node{h: v.nextH, id: id, kind: kind, label: label, group: group, pseudo: pseudo, m: nan, z: nan}
		n.members = map[*estate.Entity]struct{}{}
		n.edges = map[*edge]struct{}{}
		v.nodes[id] = n
		v.structure = true
		v.mark(n, dirtyRow)
	}
	return n
}

var nan = float32(math.NaN())

// release removes a node that stands for nothing any more.
func (v *View) release(n *node) {
	if len(n.members) > 0 || n.pseudo && len(n.edges) > 0 || v.nodes[n.id] != n {
		return
	}
	for x := range n.edges {
		v.dropEdge(x)
	}
	delete(v.nodes, n.id)
	v.structure = true
	if n.shown {
		v.goneNodes = append(v.goneNodes, n.h)
		n.shown = false
	}
	n.dirty = 0
}

func (v *View) mark(n *node, what uint8) {
	if n.dirty == 0 {
		v.dirtyNodes = append(v.dirtyNodes, n)
	}
	n.dirty |= what
}

// ends tells which nodes stand for an entity at the end of an edge.
func (v *View) ends(e *estate.Entity) []*node {
	if e.Pseudo {
		if v.p.Opts["pseudo"] == "hide" {
			return nil
		}
		n := v.get(e.ID, e.Kind, e.Label, false, true)
		return []*node{n}
	}
	if ns := v.members[e]; len(ns) > 0 {
		return ns
	}
	def := &v.p.def
	var member *estate.Entity
	switch def.Member {
	case topology.KindProcess:
		if e.Kind == topology.KindProcess {
			return nil // filtered out
		}
		return v.standIn(topology.KindUnknown, e.ID, e.Label)
	case topology.KindContainer:
		if member = e.Container(); member == nil {
			return v.standIn(topology.KindUncontain, e.Hostname(), e.Hostname())
		}
	case topology.KindHost:
		id := e.HostID()
		if n := v.nodes[id]; n != nil && !n.pseudo {
			return []*node{n}
		}
		for host := range parentsOf(e) {
			if ns := v.members[host]; len(ns) > 0 {
				return ns
			}
		}
		return nil
	}
	if ns := v.members[member]; len(ns) > 0 {
		return ns
	}
	if def.Kind != def.Member && v.wanted(member) && len(v.place(member)) == 0 {
		return v.standIn(topology.KindUnmanaged, e.Hostname(), e.Hostname())
	}
	return nil
}

// parentsOf walks up from an entity.
func parentsOf(e *estate.Entity) func(func(*estate.Entity) bool) {
	return func(yield func(*estate.Entity) bool) { e.Ancestors(yield) }
}

// standIn gives the node for what has no place of its own in this view. A query leaves none: they match nothing.
func (v *View) standIn(kind, id, label string) []*node {
	if v.p.Opts["pseudo"] == "hide" {
		return nil
	}
	if kind != topology.KindUnknown && v.group != "none" && v.group != "auto" && v.group != "host" {
		// Who groups by app does not look at hosts: one for all of them, or a thousand would stand around a few groups.
		id, label = "", "All hosts"
	}
	return []*node{v.get(topology.ID(kind, id), kind, label, false, true)}
}

// route leads an edge of the estate to the edges of the picture that it belongs to now.
func (v *View) route(b *estate.Edge) {
	var wasHere, nowHere [maxFan]*edge
	was, now := v.bases.of(b, wasHere[:0]), nowHere[:0]
	if !b.Gone() {
		src, dst := v.ends(b.Src), v.ends(b.Dst)
		// An edge between two stand-ins tells nothing about what this view shows.
		for _, s := range src {
			for _, d := range dst {
				if s.pseudo && d.pseudo && !v.p.Raw {
					continue
				}
				now = append(now, v.edgeBetween(s, d))
			}
		}
		for _, n := range append(src[:len(src):len(src)], dst...) {
			if n.pseudo {
				defer v.release(n)
			}
		}
	}
	for _, x := range now {
		if !slices.Contains(was, x) {
			x.bases = append(x.bases, b)
		}
		v.markEdge(x)
	}
	for _, x := range was {
		if slices.Contains(now, x) {
			continue
		}
		if i := slices.Index(x.bases, b); i >= 0 {
			last := len(x.bases) - 1
			x.bases[i] = x.bases[last]
			x.bases[last] = nil
			x.bases = x.bases[:last]
		}
		if len(x.bases) == 0 {
			v.dropEdge(x)
		} else {
			v.markEdge(x)
		}
	}
	v.bases.set(b, now)
}

func (v *View) edgeBetween(s, d *node) *edge {
	id := edgeID{s, d}
	x := v.edges[id]
	if x == nil {
		v.nextH++
		x = &edge{h: v.nextH, src: s, dst: d}
		v.edges[id] = x
		s.edges[x], d.edges[x] = struct{}{}, struct{}{}
		v.structure = true
		v.mark(s, dirtyRow)
		v.mark(d, dirtyRow)
	}
	return x
}

func (v *View) markEdge(x *edge) {
	if !x.dirty {
		x.dirty = true
		v.dirtyEdges = append(v.dirtyEdges, x)
	}
}

func (v *View) dropEdge(x *edge) {
	id := edgeID{x.src, x.dst}
	if v.edges[id] != x {
		return
	}
	delete(v.edges, id)
	v.structure = true
	if x.shown {
		v.goneEdges = append(v.goneEdges, x.h)
		v.hide(x)
	}
	for _, b := range x.bases {
		v.bases.set(b, slices.DeleteFunc(v.bases.of(b, nil), func(o *edge) bool { return o == x }))
	}
	x.bases = nil
	for _, n := range []*node{x.src, x.dst} {
		delete(n.edges, x)
		v.mark(n, dirtyRow)
		v.release(n)
	}
}

// Update takes what a flush of the estate found.
func (v *View) Update(c estate.Changes) {
	numeric := v.p.Query != "" && (v.p.query.UsesNumbers() || v.p.query.Uses(byEdges...))
	byLabel := v.p.def.Member == topology.KindProcess && strings.HasPrefix(v.group, "label:")
	for i, e := range c.Entities {
		what := c.What[i]
		if what&(estate.ChangedBody|estate.ChangedPlace) != 0 || numeric || e.Gone() {
			if v.enrol(e) || what&estate.ChangedPlace != 0 {
				v.reroute(e)
			}
		}
		if byLabel && e.Kind == topology.KindContainer && what&estate.ChangedBody != 0 {
			e.Children(func(child *estate.Entity) bool { // whose group is their container's label
				if v.enrol(child) {
					v.reroute(child)
				}
				return true
			})
		}
		for _, n := range v.members[e] {
			if what&estate.ChangedNumbers != 0 {
				v.mark(n, dirtyValues)
			}
		}
		if e.Pseudo {
			if n := v.nodes[e.ID]; n != nil {
				v.mark(n, dirtyRow)
			}
		} else if v.p.def.Member == topology.KindProcess && what&estate.ChangedBody != 0 {
			if n := v.nodes[topology.ID(topology.KindUnknown, e.ID)]; n != nil && n.label != e.Label {
				n.label = e.Label
				v.mark(n, dirtyRow)
			}
		}
	}
	if v.p.query.Uses(byEdges...) || v.p.find.Uses(byEdges...) {
		for _, b := range c.Edges {
			for _, e := range [...]*estate.Entity{b.Src, b.Dst} {
				v.lookAgain(e)
				e.Ancestors(v.lookAgain)
			}
		}
	}
	for _, b := range c.Edges {
		v.route(b)
	}
}

// lookAgain asks whether the query and the search still say the same of an entity whose connections, or those inside of it, have changed.
func (v *View) lookAgain(e *estate.Entity) bool {
	if shown := len(v.place(e)) > 0; shown != (len(v.members[e]) > 0) && v.enrol(e) {
		v.reroute(e)
	}
	for _, n := range v.members[e] {
		v.mark(n, dirtyValues)
	}
	return true
}

// reroute leads the edges of an entity, and of what is in it, anew.
func (v *View) reroute(e *estate.Entity) {
	e.Edges(func(b *estate.Edge) bool { v.route(b); return true })
	if e.Kind != topology.KindContainer && e.Kind != topology.KindPod {
		return
	}
	e.Children(func(child *estate.Entity) bool {
		if child.Kind == topology.KindContainer {
			if v.enrol(child) {
				v.reroute(child)
			}
			return true
		}
		child.Edges(func(b *estate.Edge) bool { v.route(b); return true })
		return true
	})
}
