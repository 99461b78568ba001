package read

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/monitor/view"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// fact is what is read of an entity inside the estate's lock. Its slices are the entity's own: the estate replaces them and
// never changes what is in them.
type fact struct {
	id, topology       string // Scope's
	kind, ours         string
	label, state, host string
	namespace          string
	started, since     int64
	exit               int
	attrs              []estate.Attr
	parents            []parent
	numbers            []number
	tables             []estate.Table
	inTable            map[string]bool
	shown              map[string]string // labels of the attributes that plugins have brought
	container          string            // in which a process is
}

// number is a metric's value.
type number struct {
	id      string
	value   float64
	max     float64
	from    int64     // of samples
	samples []float64 // 15 seconds apart; NaN where there is none
	metric  topology.Metric
}

func (f *fact) attr(key string) string {
	for i := range f.attrs {
		if f.attrs[i].Key == key {
			return f.attrs[i].Value
		}
	}
	return ""
}

func (f *fact) number(id string) (number, bool) {
	for _, n := range f.numbers {
		if n.id == id {
			return n, true
		}
	}
	return number{}, false
}

// node is one node of a topology, as Scope has it.
type node struct {
	id, topology       string
	label              string // of the picture
	pseudo, internet   bool
	fact               *fact // of the entity that the node is; nil when it is a group or stands for the outside
	counts             map[string]int
	only               *fact    // of the one container, when there is just one
	hosts              []parent // of an image
	out                []*node
	connected          bool // to another node
	system, stopped    bool
	namespace          string
	row, quoted        []byte // all of its row but the adjacency, and its id as JSON
	sum                uint64 // of row
	systems, members   int
	handles            []view.Node // of the picture, for use inside the lock
	viewKind, viewName string
}

// picture is a topology that was read, without any filter.
type picture struct {
	desc       *desc
	nodes      map[string]*node
	namespaces []string
	at         int64 // ms: what it is a picture of
	once       sync.Once
}

// reader reads facts out of the estate, inside its lock.
type reader struct {
	r      *estate.Reader
	at     int64 // 0: now
	deep   bool  // samples and all metrics as well
	memory map[string]float64
}

func (x *reader) value(e *estate.Entity, name string) (float64, bool) {
	if x.at != 0 {
		return e.NumberAt(name, x.at)
	}
	return e.Last(name) // Scope tells those of what has stopped, too
}

// hostMemory is the size of the memory of an entity's host, 0 when it is not known.
func (x *reader) hostMemory(e *estate.Entity) float64 {
	id := e.HostID()
	if v, ok := x.memory[id]; ok {
		return v
	}
	v := 0.0
	if h := x.r.Entity(id); h != nil {
		v, _ = strconv.ParseFloat(h.Attr("memory"), 64)
	}
	x.memory[id] = v
	return v
}

// sampleSpan is how much of the past a node's details show.
const sampleSpan = 15 * 60_000

func (x *reader) fact(e *estate.Entity, now int64) *fact {
	f := &fact{
		kind: e.Kind, ours: e.ID, label: e.Label, state: e.State, host: e.Hostname(), started: e.StartedMs, since: e.SinceMs, exit: e.ExitCode, attrs: e.Attrs,
	}
	f.id, f.topology = entityID(e.ID, e)
	f.parents = x.parents(e)
	_, f.namespace, _ = strings.Cut(e.ParentID(topology.KindNamespace), ";")
	if e.Kind == topology.KindProcess {
		if c := e.Container(); c != nil {
			f.container = c.Label
		}
	}
	names := wantedMetrics[e.Kind]
	if x.deep {
		names = e.MetricNames()
	}
	for _, name := range names {
		v, ok := x.value(e, name)
		if !ok || math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		n := number{id: name, value: v, metric: x.r.Template(name)}
		n.max = n.metric.Max
		if name == topology.MetricMem {
			if limit, ok := x.value(e, topology.MetricMemLimit); ok && limit > 0 {
				n.max = limit
			} else {
				n.max = x.hostMemory(e)
			}
		}
		if n.max = max(n.max, v); math.IsNaN(n.max) || math.IsInf(n.max, 0) {
			n.max = v
		}
		if x.deep && name != topology.MetricThreads {
			n.from, n.samples = e.Ring(name).Range(now-sampleSpan, now)
		}
		f.numbers = append(f.numbers, n)
	}
	if e.Kind == topology.KindProcess && !x.deep {
		if v, ok := x.value(e, topology.MetricThreads); ok && v < math.MaxInt32 {
			f.numbers = append(f.numbers, number{id: topology.MetricThreads, value: v})
		}
	}
	f.tables, f.inTable = e.Tables()
	for _, a := range e.Attrs {
		if t := e.AttrTemplate(a.Key); t != nil {
			if f.shown == nil {
				f.shown = map[string]string{}
			}
			f.shown[a.Key] = t.Label
		}
	}
	return f
}

// wantedMetrics are the metrics that rows of lists have: Scope's.
var wantedMetrics = map[string][]string{
	topology.KindHost:      {topology.MetricCPU, topology.MetricMem, topology.MetricLoad1},
	topology.KindContainer: {topology.MetricCPU, topology.MetricMem},
	topology.KindProcess:   {topology.MetricCPU, topology.MetricMem, topology.MetricFds},
}

// parent is a node above another one.
type parent struct {
	ID         string `json:"id"`
	Label      string `json:"label"`
	TopologyID string `json:"topologyId"`
}

// parentKinds are the parents of each kind in the order in which they are listed: Scope's, then ours.
var parentKinds = map[string][]string{
	topology.KindProcess: {topology.KindContainer, topology.KindImage, topology.KindHost},
	topology.KindContainer: {
		topology.KindImage, topology.KindPod, topology.KindHost, topology.KindTask, topology.KindApp, topology.KindFramework, topology.KindAgent,
	},
	topology.KindPod: {topology.KindController, topology.KindService, topology.KindHost},
}

// topologyOf is the topology where a kind is.
var topologyOf = map[string]string{
	topology.KindContainer: "containers", topology.KindImage: "containers-by-image", topology.KindPod: "pods", topology.KindController: "kube-controllers",
	topology.KindService: "services", topology.KindHost: "hosts", topology.KindTask: "tasks", topology.KindApp: "apps", topology.KindFramework: "frameworks",
	topology.KindAgent: "agents",
}

func (x *reader) parents(e *estate.Entity) []parent {
	var out []parent
	for _, kind := range parentKinds[e.Kind] {
		for _, id := range e.ParentIDs(kind) {
			out = append(out, x.parent(kind, id))
		}
	}
	return out
}

func (x *reader) parent(kind, id string) parent {
	p := x.r.Entity(id)
	row := parent{TopologyID: topologyOf[kind]}
	row.ID, _ = entityID(id, p)
	switch {
	case kind == topology.KindHost:
		row.Label, _, _ = strings.Cut(bare(id), ".")
	case kind == topology.KindImage:
		row.Label, _ = splitImage(bare(id))
	case p != nil:
		row.Label = p.Label
	case kind == topology.KindController:
		_, _, row.Label = splitController(id)
	case kind == topology.KindService:
		_, row.Label = splitService(id)
	default:
		row.Label = bare(id)
	}
	return row
}

// gather reads a topology. It is called inside the estate's lock.
func gather(t *desc, r *estate.Reader, v *view.View, at, now int64) *picture {
	p := &picture{desc: t, nodes: map[string]*node{}, at: now}
	if at != 0 {
		p.at = at
	}
	x := &reader{r: r, at: at, memory: map[string]float64{}}
	p.namespaces = namespaces(t, r)
	known := map[uint64]*node{} // by handle, and the two of the Internet
	get := func(n view.Node, out bool) *node {
		out = out && n.Kind == topology.KindInternet
		k := uint64(n.Handle()) << 1
		if out {
			k++
		}
		m, ok := known[k]
		if !ok {
			m = p.add(x, n, out)
			known[k] = m
		}
		return m
	}
	for n := range v.Each {
		var a *node
		if !n.Pseudo {
			a = get(n, false)
		}
		for to := range n.Out {
			if n.Pseudo {
				a = get(n, false) // what stands for the outside is there only with what it talks to
			}
			if b := get(to, true); a != nil && b != nil {
				a.out = append(a.out, b)
				if a != b {
					a.connected, b.connected = true, true
				}
			}
		}
	}
	for _, n := range p.nodes {
		if len(n.out) > 1 {
			slices.SortFunc(n.out, func(a, b *node) int { return cmp.Compare(a.id, b.id) })
			n.out = slices.Compact(n.out)
		}
		n.system = n.members > 0 && n.systems == n.members
		n.handles = nil
	}
	return p
}

// add makes the node of a node of the picture, or joins it to one with the same id: images differ by their tags only, and what is
// outside of containers and of pods is one to Scope.
func (p *picture) add(x *reader, n view.Node, out bool) *node {
	var own *estate.Entity
	if !n.Pseudo && (!n.Group || topology.KindOf(n.ID) != topology.KindGroup) {
		own = x.r.Entity(n.ID)
	}
	id, topo := nodeID(p.desc, n, own, out)
	if id == "" {
		return nil
	}
	m := p.nodes[id]
	if m == nil {
		m = &node{id: id, topology: topo, label: n.Label, pseudo: n.Pseudo, internet: n.Kind == topology.KindInternet, viewKind: n.Kind, viewName: n.ID}
		p.nodes[id] = m
	}
	m.handles = append(m.handles, n)
	switch {
	case own != nil:
		if m.fact == nil || own.StartedMs > m.fact.started {
			m.fact = x.fact(own, p.at)
			m.namespace = m.fact.namespace
		}
		m.label = own.Label
	case topo == topoService:
		m.namespace, m.label = splitService(n.ID)
	case topo != topoPseudo && n.Kind == topology.KindController:
		m.namespace, _, m.label = splitController(n.ID)
	}
	if n.Pseudo {
		return m
	}
	var pods map[string]bool
	for e := range n.Members() {
		if e == own {
			if e.Kind == topology.KindContainer {
				m.members++
				m.systems += asInt(isSystem(e))
				m.stopped = stoppedState(e.State)
			}
			continue
		}
		m.count(e.Kind, 1)
		if e.Kind == topology.KindContainer {
			if pod := e.ParentID(topology.KindPod); pod != "" && !pods[pod] {
				if pods == nil {
					pods = map[string]bool{}
				}
				pods[pod] = true
			}
			m.members++
			m.systems += asInt(isSystem(e))
			if m.members == 1 {
				m.only = x.fact(e, p.at)
			}
			if topo == topoImage {
				m.onHost(x, e)
			}
		}
	}
	if len(pods) > 0 {
		m.count(topology.KindPod, len(pods))
	}
	if p.desc.kind == topology.KindContainer && n.Group {
		m.systems = 0 // to Scope a group of containers by host name is none of them
	}
	return m
}

// onHost notes a host on which there are containers of the image.
func (n *node) onHost(x *reader, e *estate.Entity) {
	if id := e.HostID(); id != "" {
		if h := x.parent(topology.KindHost, id); !slices.Contains(n.hosts, h) {
			n.hosts = append(n.hosts, h)
			slices.SortFunc(n.hosts, func(a, b parent) int { return cmp.Compare(a.ID, b.ID) })
		}
	}
}

func (n *node) count(kind string, more int) {
	if n.counts == nil {
		n.counts = map[string]int{}
	}
	n.counts[kind] += more
}

// stoppedState reports whether a container's state is none of those that Scope calls running.
func stoppedState(state string) bool {
	switch state {
	case topology.StateRunning, topology.StatePaused, topology.StateRestarting:
		return false
	}
	return true
}

// namespaces lists those of Kubernetes, for topologies that can be chosen by them.
func namespaces(t *desc, r *estate.Reader) []string {
	if !t.namespaces || r.Count(topology.KindNamespace) == 0 {
		return nil
	}
	found := map[string]bool{}
	r.Entities(func(e *estate.Entity) bool {
		if e.Kind == topology.KindNamespace {
			found[e.Label] = true
		}
		return true
	})
	return slices.Sorted(maps.Keys(found))
}
