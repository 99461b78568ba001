package report

import (
	"cmp"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/scope"
)

// Bounds of one picture, below those of package topology.
const (
	maxEdges     = topology.MaxEdges
	maxTemplates = 1000
	maxAttrs     = 60 // of a node, of its sender's own; the rest is ours and its labels
	maxLabels    = 100
)

// picture is everything that a sender has told, as we would tell it.
type picture struct {
	now      time.Time
	s        *Sender
	entities map[string]*probev1.Entity
	origins  map[string]Origin
	brought  scope.Brought
	left     Left
	samples  []sample
	current  bool // the node in hand is spoken of by the newest report: older figures have been told

	hosts      map[string]*host // by name
	containers map[string]string
	names      map[string]string // entity ids of what Kubernetes knows, by scope's id
	procs      map[string]string // entity ids of processes, by scope's id

	edges        map[string]*drawn
	listeners    map[string]*answering
	edgeList     map[string]*probev1.Edge
	listenerList map[string]*probev1.Listener
}

// host is one of the hosts in a sender's report, and who has which address on it.
type host struct {
	id     string
	addrs  map[netip.Addr]bool
	owners map[netip.Addr]string // containers; "" when several have it
}

type sample struct {
	entity, name string
	value        float64
}

// verbs are our names for what Scope's probes do, by their names for it.
var verbs = map[string]string{
	"docker_stop_container": "stop", "docker_start_container": "start", "docker_restart_container": "restart", "docker_pause_container": "pause",
	"docker_unpause_container": "unpause", "docker_remove_container": "remove", "docker_exec_container": "exec", "host_exec": "host-exec",
	"docker_attach_container": "attach", "kubernetes_get_logs": "logs",
}

// unknowable are controls of Scope's that answer with a page of text over a pipe, for which there is no place.
var unknowable = map[string]bool{"kubernetes_describe": true}

// OwnVerb is how a control is called that has no name of ours.
func OwnVerb(control string) string {
	if verbs[control] != "" || unknowable[control] {
		return ""
	}
	return "scope~" + control
}

// known are the values, figures and tables that are shown as ours.
var known = map[string]bool{
	"host_name": true, "os": true, "kernel_version": true, "uptime": true, "host_scope_version": true, "local_networks": true,
	"host_cpu_usage_percent": true, "host_mem_usage_bytes": true, "load1": true,
	"pid": true, "ppid": true, "name": true, "cmdline": true, "threads": true,
	"process_cpu_usage_percent": true, "process_memory_usage_bytes": true, "open_files_count": true,
	"docker_container_id": true, "docker_container_name": true, "docker_container_command": true, "docker_container_state": true, "docker_container_state_human": true,
	"docker_container_uptime": true, "docker_container_restart_count": true, "docker_container_ips": true, "docker_container_ports": true, "docker_container_created": true,
	"docker_container_hostname": true, "docker_image_name": true, "docker_image_tag": true, "docker_image_id": true, "docker_label_": true, "docker_env_": true,
	"docker_image_label_": true, "docker_cpu_total_usage": true, "docker_memory_usage": true, "docker_container_network_mode": true,
	"kubernetes_name": true, "kubernetes_namespace": true, "kubernetes_state": true, "kubernetes_ip": true, "kubernetes_created": true, "kubernetes_labels_": true,
	"kubernetes_restart_count": true,
}

func (s *Sender) picture(now time.Time) *picture {
	p := &picture{
		now: now, s: s, entities: map[string]*probev1.Entity{}, origins: map[string]Origin{}, hosts: map[string]*host{}, containers: map[string]string{},
		names: map[string]string{}, procs: map[string]string{}, edges: map[string]*drawn{}, listeners: map[string]*answering{},
		edgeList: map[string]*probev1.Edge{}, listenerList: map[string]*probev1.Listener{},
		brought: scope.Brought{
			Prefix: "scope", Verb: OwnVerb, Known: func(id string) bool { return known[id] },
			Attrs: maxAttrs, Metrics: 20, Controls: 20, Names: 200, Templates: maxTemplates,
		},
	}
	p.each(scope.Host, p.host)
	p.each(scope.Namespace, p.namespace)
	for _, k := range controllerKinds {
		p.each(k.topology, func(n *scope.Node, shown *scope.Shown) { p.controller(k.kind, n, shown) })
	}
	p.each(scope.Service, p.service)
	p.each(scope.Pod, p.pod)
	p.each(scope.Container, p.container)
	p.each(scope.Process, p.process)
	p.connect()
	return p
}

// each calls f with every node of a topology, in order, so that what does not fit is always the same.
func (p *picture) each(name string, f func(*scope.Node, *scope.Shown)) {
	have := p.s.nodes[name]
	if len(have) == 0 {
		return
	}
	t := p.s.shown[name]
	if t == nil {
		t = &scope.Topology{}
	}
	shown := p.brought.In(t)
	for _, id := range slices.Sorted(maps.Keys(have)) {
		if len(p.entities) >= p.s.limit {
			p.left.Nodes++
			continue
		}
		p.current = have[id].mentioned.Equal(p.s.fresh)
		f(have[id].Node, shown)
	}
}

// attrs collects attributes and leaves out empty ones.
type attrs []*probev1.Attr

func (a *attrs) add(key, value string) {
	if value != "" && len(*a) < topology.MaxAttrs {
		*a = append(*a, &probev1.Attr{Key: topology.Clean(key, topology.MaxAttrKey), Value: topology.Clean(value, topology.MaxAttrValue)})
	}
}

// labels adds what a node has under a prefix, secrets masked.
func (a *attrs) labels(n *scope.Node, prefix string) {
	count := 0
	for _, k := range slices.Sorted(maps.Keys(n.Latest)) {
		name, ok := strings.CutPrefix(k, prefix)
		if !ok || name == "" || count >= maxLabels {
			continue
		}
		count++
		v := n.Value(k)
		if topology.SecretKey(name) {
			v = topology.Mask
		}
		a.add(topology.AttrLabel+topology.Printable(name, 200), v)
	}
}

// put adds an entity, with what its sender has of its own.
func (p *picture) put(e *probev1.Entity, n *scope.Node, shown *scope.Shown, a attrs) {
	for _, x := range shown.Attrs(n) {
		a.add(x.Key, x.Value)
	}
	e.Label, e.Attrs = topology.Printable(cmp.Or(e.Label, e.Id), topology.MaxLabel), a
	o := Origin{Node: n.ID, Controls: map[string]string{}}
	for _, control := range n.Offered() {
		if verb := verbs[control]; verb != "" && len(e.Controls) < topology.MaxControls {
			e.Controls = append(e.Controls, verb)
			o.Controls[verb] = control
		}
	}
	if c := o.Controls["attach"]; c != "" { // what it prints from now on is all that Scope has of a log
		e.Controls = append(e.Controls, "logs")
		o.Controls["logs"] = c
	}
	for _, verb := range shown.Controls(n) {
		if len(e.Controls) < topology.MaxControls {
			e.Controls = append(e.Controls, verb)
			o.Controls[verb] = strings.TrimPrefix(verb, "scope~")
		}
	}
	slices.Sort(e.Controls)
	e.Controls = slices.Compact(e.Controls)
	for i, id := range e.Parents {
		e.Parents[i] = topology.Printable(id, topology.MaxID)
	}
	slices.Sort(e.Parents)
	e.Parents = slices.Compact(e.Parents)
	e.Parents = e.Parents[:min(len(e.Parents), topology.MaxParents)]
	p.entities[e.Id] = e
	p.origins[e.Id] = o
	if !p.current {
		return
	}
	for _, f := range shown.Figures(n) {
		p.samples = append(p.samples, sample{e.Id, f.Name, f.Value})
	}
}

// figure adds the newest value of one of Scope's figures under our name, and gives it and its greatest value.
func (p *picture) figure(e *probev1.Entity, n *scope.Node, key, name string, scale func(value, limit float64) float64) {
	m, ok := n.Metrics[key]
	if !ok || !p.current {
		return
	}
	newest, ok := m.Newest()
	if !ok {
		return
	}
	v := newest.Value
	if scale != nil {
		v = scale(v, m.Max)
	}
	if !(math.Abs(v) < 1e29) {
		return
	}
	p.samples = append(p.samples, sample{e.Id, name, v})
}

// asShare makes a figure the percentage of its limit; NaN, which is left out, when it has none.
func asShare(v, limit float64) float64 {
	if !(limit > 0) || limit > 1e15 { // no limit is written as a very large one
		return math.NaN()
	}
	return 100 * v / limit
}

func asLimit(_, limit float64) float64 {
	if !(limit > 0) || limit > 1e15 {
		return math.NaN()
	}
	return limit
}

// figures gives the samples that the newest report brought.
func (p *picture) figures(now time.Time, s *Sender) *probev1.Metrics {
	if len(p.samples) == 0 {
		return nil
	}
	m := &probev1.Metrics{AtMs: now.UnixMilli()}
	index := map[string]uint32{}
	for _, x := range p.samples {
		i, ok := index[x.name]
		if !ok {
			if len(m.Names) >= topology.MaxMetricNames {
				continue
			}
			i = uint32(len(m.Names))
			index[x.name] = i
			m.Names = append(m.Names, x.name)
		}
		m.Refs, m.NameIndex, m.Values = append(m.Refs, s.refOf(x.entity)), append(m.NameIndex, i), append(m.Values, float32(x.value))
	}
	return m
}

// hostOf tells the host of a node, or "" when that is not known.
func (p *picture) hostOf(n *scope.Node) string {
	id := n.Value("host_node_id")
	if id == "" && len(n.Parents["host"]) > 0 {
		id = n.Parents["host"][0]
	}
	if name := hostName(scope.Tagged(id, "host")); name != "" {
		return name
	}
	if len(p.hosts) == 1 {
		for name := range p.hosts {
			return name
		}
	}
	return ""
}

// since gives the time at which something began that has lasted as many seconds. A second more or less is the same.
func (p *picture) since(entity, seconds string) int64 {
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || n < 0 || n > 1e10 {
		return 0
	}
	at := p.now.Add(-time.Duration(n) * time.Second).UnixMilli()
	if was := p.s.entities[entity]; was != nil && was.StartedMs != 0 && abs(was.StartedMs-at) < 5000 {
		return was.StartedMs
	}
	return at
}

func abs(n int64) int64 {
	if n < 0 {
		return -n
	}
	return n
}
