package report

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/scope"
)

var start = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// at gives a time some seconds after the start.
func at(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

func node(id string, when time.Time, pairs ...string) *scope.Node {
	n := &scope.Node{ID: id, Latest: map[string]scope.Latest{}, Parents: map[string][]string{}, Sets: map[string][]string{}}
	for i := 0; i+1 < len(pairs); i += 2 {
		n.Latest[pairs[i]] = scope.Latest{Timestamp: when, Value: pairs[i+1]}
	}
	return n
}

func topologyOf(shape string, nodes ...*scope.Node) *scope.Topology {
	t := &scope.Topology{Shape: shape, Nodes: map[string]*scope.Node{}}
	for _, n := range nodes {
		t.Nodes[n.ID] = n
	}
	return t
}

const (
	longID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	shortC = "container;vm1;0123456789ab"
)

func containerNode(when time.Time, state string, pairs ...string) *scope.Node {
	n := node(longID+";<container>", when, append([]string{
		"docker_container_name", "web", "docker_container_state", state, "host_node_id", "vm1;<host>", "docker_image_name", "nginx", "docker_image_tag", "1",
		"active_controls", "docker_stop_container;docker_attach_container;docker_unheard_of;plug~in",
	}, pairs...)...)
	n.Sets["docker_container_ips"] = []string{"172.17.0.2"}
	n.Sets["docker_container_ports"] = []string{"10.0.0.1:8080->80/tcp", "nonsense", "9000/udp"}
	return n
}

// full is a whole host: a container with a server behind a published port, a client beside it, connections in and out.
func full(when time.Time) *scope.Report {
	host := node("vm1;<host>", when, "host_name", "vm1", "os", "linux", "uptime", "3600", "active_controls", "host_exec")
	host.Sets["local_networks"] = []string{"10.0.0.1/24", "127.0.0.1/8", "10.9.0.0/16"}
	host.Metrics = map[string]scope.Metric{"host_cpu_usage_percent": {Samples: []scope.Sample{{Timestamp: when, Value: 12}}, Max: 100}, "host_mem_usage_bytes": {Samples: []scope.Sample{{Timestamp: when, Value: 1e9}}, Max: 4e9}}
	proc := func(pid, name string, pairs ...string) *scope.Node {
		return node("vm1;"+pid, when, append([]string{"pid", pid, "name", name, "host_node_id", "vm1;<host>", "cmdline", name + " --password=hunter2"}, pairs...)...)
	}
	endpoint := func(id, pid string, to ...string) *scope.Node {
		n := node(id, when)
		if pid != "" {
			n = node(id, when, "pid", pid, "host_node_id", "vm1;<host>")
		}
		n.Adjacency = to
		return n
	}
	elided := endpoint(";10.0.0.1;40001", "20", ";10.0.0.2;5432")
	elided.Latest["conn_count"] = scope.Latest{Timestamp: when, Value: "7"}
	copied := endpoint(";10.0.0.1;8080", "10")
	copied.Latest["copy_of"] = scope.Latest{Timestamp: when, Value: "vm1;172.17.0.2;80"}
	container := topologyOf("hexagon", containerNode(when, "running", "docker_label_app", "shop", "docker_label_db_password", "hunter2", "docker_env_SECRET", "hunter2"))
	container.Controls = map[string]scope.Control{"plug~in": {ID: "plug~in", Human: "Plug <in>"}, "kubernetes_describe": {ID: "kubernetes_describe"}}
	container.MetadataTemplates = map[string]scope.MetadataTemplate{"mood": {ID: "mood", Label: "Mood", From: "latest"}, "docker_image_tag": {ID: "docker_image_tag"}}
	for _, n := range container.Nodes {
		n.Latest["mood"] = scope.Latest{Timestamp: when, Value: "good"}
		n.Metrics = map[string]scope.Metric{"docker_memory_usage": {Samples: []scope.Sample{{Timestamp: when, Value: 5e7}}, Max: 9e18}, "joy": {Samples: []scope.Sample{{Timestamp: when, Value: 3}}}}
	}
	return &scope.Report{Topologies: map[string]*scope.Topology{
		scope.Host:      topologyOf("circle", host),
		scope.Container: container,
		scope.Process:   topologyOf("square", proc("10", "/usr/sbin/nginx", "docker_container_id", longID), proc("20", "curl"), proc("2", "[kthreadd]", "cmdline", ""), node("vm1;x", when), node("vm1;0", when)),
		scope.Endpoint: topologyOf("", endpoint("vm1;172.17.0.2;80", "10"), copied,
			endpoint(";10.0.0.7;51000", "", "vm1;172.17.0.2;80"), elided, endpoint(";10.0.0.1;40004", "20", ";10.0.0.2;5432"), endpoint(";10.0.0.2;5432", ""),
			endpoint("vm1-4026;127.0.0.1;40009", "20", "vm1-4026;127.0.0.1;9999"), endpoint("vm1-4026;127.0.0.1;9999", ""),
			endpoint("vm1;172.17.0.99;1000", "", "vm1;172.17.0.2;80"), endpoint("nonsense", ""), endpoint(";10.0.0.1;99999", "")),
	}}
}

// estate applies deltas as the monitor's does, by numbers.
type estate struct {
	t         *testing.T
	seq       uint64
	entities  map[uint32]*probev1.Entity
	edges     map[uint32]*probev1.Edge
	listeners map[uint32]*probev1.Listener
}

func newEstate(t *testing.T) *estate {
	return &estate{t: t, entities: map[uint32]*probev1.Entity{}, edges: map[uint32]*probev1.Edge{}, listeners: map[uint32]*probev1.Listener{}}
}

func (e *estate) apply(f *probev1.Frame) {
	e.t.Helper()
	if err := topology.Check(f); err != nil {
		e.t.Fatal(err)
	}
	d := f.Delta
	if d.Snapshot {
		*e = *newEstate(e.t)
	} else if d.Seq != e.seq+1 {
		e.t.Fatalf("delta %d after %d", d.Seq, e.seq)
	}
	e.seq = d.Seq
	for _, x := range d.Entities {
		e.entities[x.Ref] = x
	}
	for _, x := range d.Edges {
		e.edges[x.Ref] = x
	}
	for _, x := range d.Listeners {
		e.listeners[x.Ref] = x
	}
	for _, r := range d.GoneEdges {
		delete(e.edges, r)
	}
	for _, r := range d.GoneListeners {
		delete(e.listeners, r)
	}
	for _, r := range d.GoneEntities {
		delete(e.entities, r)
	}
	for _, x := range e.edges {
		if x.Src != 0 && e.entities[x.Src] == nil || x.Dst != 0 && e.entities[x.Dst] == nil {
			e.t.Errorf("an edge leads nowhere: %v", x)
		}
	}
}

func (e *estate) id(ref uint32, addr []byte) string {
	if ref == 0 {
		a, _ := netip.AddrFromSlice(addr)
		return a.String()
	}
	return e.entities[ref].Id
}

func (e *estate) lines() []string {
	var out []string
	for _, x := range e.edges {
		out = append(out, fmt.Sprintf("%s -> %s :%d x%d seen %d", e.id(x.Src, x.RemoteAddr), e.id(x.Dst, x.RemoteAddr), x.Port, x.Conns, x.Seen))
	}
	for _, l := range e.listeners {
		a, _ := netip.AddrFromSlice(l.Addr)
		out = append(out, fmt.Sprintf("%s answers at %s:%d", e.entities[l.Entity].Id, a, l.Port))
	}
	slices.Sort(out)
	return out
}

func (e *estate) entity(id string) *probev1.Entity {
	for _, x := range e.entities {
		if x.Id == id {
			return x
		}
	}
	return nil
}

func attr(e *probev1.Entity, key string) string {
	for _, a := range e.Attrs {
		if a.Key == key {
			return a.Value
		}
	}
	return ""
}

func TestAHostBecomesWhatOurProbeWouldTell(t *testing.T) {
	t.Parallel()
	s, e := NewSender(), newEstate(t)
	s.Take(full(at(0)), at(0))
	f := s.Frame(at(0), true)
	e.apply(f)
	want := []string{
		"10.0.0.7 -> process;vm1;10;0 :8080 x1 seen 2", // through NAT: the port that was asked for
		"host;vm1 -> process;vm1;10;0 :80 x1 seen 3",   // an address of this host's bridge, which means nothing elsewhere
		"process;vm1;10;0 answers at 10.0.0.1:8080",
		"process;vm1;10;0 answers at 172.17.0.2:80",
		"process;vm1;20;0 -> 10.0.0.2 :5432 x8 seen 1", // one, and one that stands for seven
		"process;vm1;20;0 -> host;vm1 :9999 x1 seen 3", // loopback stays on its host
	}
	if got := e.lines(); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	c := e.entity(shortC)
	if c == nil || c.Label != "web" || c.State != "running" || attr(c, "image") != "nginx:1" || attr(c, "addrs") != "172.17.0.2" || attr(c, "ports") != "10.0.0.1:8080>80/tcp" ||
		attr(c, "label.app") != "shop" || attr(c, "label.db_password") != topology.Mask || attr(c, "scope.mood") != "good" || !slices.Equal(c.Parents, []string{"host;vm1", "image;nginx:1"}) ||
		!slices.Equal(c.Controls, []string{"attach", "logs", "scope~plug~in", "stop"}) {
		t.Fatalf("%v", c)
	}
	if text := fmt.Sprint(f); strings.Contains(text, "hunter2") {
		t.Error("a secret gets through")
	}
	if o, ok := s.Origin(shortC); !ok || o.Node != longID+";<container>" || o.Controls["stop"] != "docker_stop_container" || o.Controls["logs"] != "docker_attach_container" || o.Controls["scope~plug~in"] != "plug~in" {
		t.Errorf("%+v", o)
	}
	h := e.entity("host;vm1")
	if h.StartedMs != at(-3600).UnixMilli() || attr(h, "addrs") != "10.0.0.1" || !slices.Equal(h.Controls, []string{"host-exec"}) {
		t.Errorf("%v", h)
	}
	p := e.entity("process;vm1;10;0")
	if p.Label != "nginx" || !slices.Equal(p.Parents, []string{shortC, "host;vm1"}) {
		t.Errorf("%v", p)
	}
	if len(e.entities) != 4 { // host, container, two processes: neither the kernel's thread nor what has no pid
		t.Errorf("%d entities", len(e.entities))
	}
	if l := s.Left(); l.Named != 4 {
		t.Errorf("%+v", l)
	}
	figures := map[string]float32{}
	for i, r := range f.Metrics.Refs {
		figures[e.entities[r].Kind+" "+f.Metrics.Names[f.Metrics.NameIndex[i]]] = f.Metrics.Values[i]
	}
	if want := map[string]float32{"host cpu": 12, "host mem": 1e9, "host mem_used": 25, "container mem": 5e7, "container scope.joy": 3}; !maps.Equal(figures, want) {
		t.Errorf("%v", figures)
	}
}

func TestOnlyWhatChangesIsSent(t *testing.T) {
	t.Parallel()
	s, e := NewSender(), newEstate(t)
	s.Take(full(at(0)), at(0))
	e.apply(s.Frame(at(0), true))
	before := e.lines()
	// Between two full reports come those that leave out what has not changed.
	s.Take(&scope.Report{Topologies: map[string]*scope.Topology{scope.Host: topologyOf("", node("vm1;<host>", at(3), "uptime", "3603"))}}, at(3))
	f := s.Frame(at(3), false)
	e.apply(f)
	if d := f.Delta; len(d.Entities)+len(d.Edges)+len(d.Listeners)+len(d.GoneEdges)+len(d.GoneEntities)+len(d.GoneListeners)+len(d.Templates) != 0 {
		t.Errorf("%v", d)
	}
	if f.Metrics != nil {
		t.Errorf("figures are told twice: %v", f.Metrics)
	}
	// A shortcut tells that the container has stopped; what was collected before does not undo it.
	short := &scope.Report{Shortcut: true, Topologies: map[string]*scope.Topology{scope.Container: topologyOf("hexagon", containerNode(at(4), "exited", "docker_container_state_human", "Exited (137) 1 second ago"))}}
	s.Take(short, at(4))
	f = s.Frame(at(4), false)
	e.apply(f)
	if c := e.entity(shortC); len(f.Delta.Entities) != 1 || c.State != "exited" || c.ExitCode != 137 {
		t.Errorf("%v", f.Delta)
	}
	s.Take(full(at(3)), at(5))
	e.apply(s.Frame(at(5), false))
	if c := e.entity(shortC); c.State != "exited" {
		t.Errorf("%v", c)
	}
	if got := e.lines(); !slices.Equal(got, before) {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
	// A whole picture is always to be had.
	fresh := newEstate(t)
	fresh.apply(s.Frame(at(6), true))
	if !slices.Equal(fresh.lines(), before) || len(fresh.entities) != len(e.entities) {
		t.Error("a snapshot is another picture")
	}
}

func TestWhatGoesGoes(t *testing.T) {
	t.Parallel()
	s, e := NewSender(), newEstate(t)
	s.Take(full(at(0)), at(0))
	e.apply(s.Frame(at(0), true))
	without := func(when int, change func(*scope.Report)) {
		r := full(at(when))
		change(r)
		s.Take(r, at(when))
		e.apply(s.Frame(at(when), false))
	}
	// A process that a full report lacks has gone; its connections stay for the window, since they are seen by chance.
	without(9, func(r *scope.Report) {
		delete(r.Topologies[scope.Process].Nodes, "vm1;20")
		for _, id := range []string{";10.0.0.1;40001", ";10.0.0.1;40004"} {
			delete(r.Topologies[scope.Endpoint].Nodes, id)
		}
	})
	if e.entity("process;vm1;20;0") != nil {
		t.Error("a process that has gone is there")
	}
	// Without its process the connection is its host's.
	if got := strings.Join(e.lines(), "\n"); !strings.Contains(got, "host;vm1 -> 10.0.0.2 :5432 x8") {
		t.Errorf("%s", got)
	}
	without(18, func(r *scope.Report) {
		delete(r.Topologies[scope.Process].Nodes, "vm1;20")
		for _, id := range []string{";10.0.0.1;40001", ";10.0.0.1;40004"} {
			delete(r.Topologies[scope.Endpoint].Nodes, id)
		}
	})
	if got := strings.Join(e.lines(), "\n"); strings.Contains(got, "5432") {
		t.Errorf("%s", got)
	}
	// A source that fails for a while takes nothing away at once, and all after the window.
	fails := func(r *scope.Report) { r.Topologies[scope.Container] = topologyOf("hexagon") }
	without(27, fails)
	if e.entity(shortC) == nil {
		t.Error("a container has gone with one report of its source's")
	}
	without(36, fails)
	if e.entity(shortC) != nil {
		t.Error("a container stays without being reported")
	}
	// Deleted by word of a shortcut, and not brought back by what was collected before.
	without(45, func(*scope.Report) {})
	if e.entity(shortC) == nil {
		t.Fatal("the container is not back")
	}
	s.Take(&scope.Report{Shortcut: true, Topologies: map[string]*scope.Topology{scope.Container: topologyOf("hexagon", containerNode(at(46), "deleted"))}}, at(46))
	e.apply(s.Frame(at(46), false))
	if e.entity(shortC) != nil {
		t.Error("a deleted container is there")
	}
	s.Take(full(at(45)), at(47))
	e.apply(s.Frame(at(47), false))
	if e.entity(shortC) != nil {
		t.Error("a deleted container is back")
	}
	if refs := slices.Sorted(maps.Values(s.refs)); len(slices.Compact(refs)) != len(e.entities)+len(e.edges)+len(e.listeners) {
		t.Errorf("%d numbers are held for %d things", len(refs), len(e.entities)+len(e.edges)+len(e.listeners))
	}
}

// Some senders never say that a report is whole: what they do not repeat goes after the window.
func TestASenderWithoutFullReports(t *testing.T) {
	t.Parallel()
	s, e := NewSender(), newEstate(t)
	one := func(id string, when int) *scope.Report {
		return &scope.Report{Topologies: map[string]*scope.Topology{scope.Host: topologyOf("", node(id+";<host>", at(when)))}}
	}
	s.Take(one("a", 0), at(0))
	s.Take(one("b", 10), at(10))
	e.apply(s.Frame(at(10), true))
	if len(e.entities) != 2 {
		t.Errorf("%v", e.entities)
	}
	s.Take(one("b", 20), at(20))
	e.apply(s.Frame(at(20), false))
	if len(e.entities) != 1 || e.entity("host;b") == nil {
		t.Errorf("%v", e.entities)
	}
}

func TestKubernetes(t *testing.T) {
	t.Parallel()
	object := func(id, tag, name string, pairs ...string) *scope.Node {
		return node(id+";<"+tag+">", at(0), append([]string{"kubernetes_name", name, "kubernetes_namespace", "shop", "kubernetes_labels_app", name}, pairs...)...)
	}
	pod := object("uid1", "pod", "web-1", "kubernetes_state", "Running", "kubernetes_ip", "10.1.0.4", "kubernetes_restart_count", "3", "active_controls", "kubernetes_get_logs;kubernetes_delete_pod;kubernetes_describe")
	pod.Parents = map[string][]string{"deployment": {"d1;<deployment>"}, "service": {"s1;<service>"}, "host": {"vm1;<host>"}, "odd": {"x"}}
	pods := topologyOf("heptagon", pod, object("uid2", "pod", "bad;name"), object("uid3", "pod", "gone", "kubernetes_state", "deleted"))
	pods.Controls = map[string]scope.Control{"kubernetes_delete_pod": {ID: "kubernetes_delete_pod", Human: "Delete"}, "kubernetes_describe": {ID: "kubernetes_describe", Human: "Describe"}}
	r := &scope.Report{Topologies: map[string]*scope.Topology{
		scope.Pod: pods, scope.Deployment: topologyOf("heptagon", object("d1", "deployment", "web")), scope.Service: topologyOf("heptagon", object("s1", "service", "front", "kubernetes_ip", "10.2.0.1")),
		scope.Namespace: topologyOf("", node("n1;<namespace>", at(0), "kubernetes_name", "shop")),
	}}
	s, e := NewSender(), newEstate(t)
	s.Take(r, at(0))
	e.apply(s.Frame(at(0), true))
	p := e.entity("pod;uid1")
	if p == nil || p.State != "running" || p.Label != "web-1" || attr(p, "addrs") != "10.1.0.4" || attr(p, "restarts") != "3" || attr(p, "label.app") != "web-1" ||
		!slices.Equal(p.Parents, []string{"controller;shop;deployment;web", "host;vm1", "namespace;shop", "service;shop;front"}) || !slices.Equal(p.Controls, []string{"logs", "scope~kubernetes_delete_pod"}) {
		t.Errorf("%v", p)
	}
	for _, id := range []string{"controller;shop;deployment;web", "service;shop;front", "namespace;shop"} {
		if e.entity(id) == nil {
			t.Errorf("no %s", id)
		}
	}
	if len(e.entities) != 4 || s.Host() != "" {
		t.Errorf("%d entities, host %q", len(e.entities), s.Host())
	}
}

// Whatever a report says, what comes out is what a monitor takes, and names are harmless.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	evil := "\x1b[31m<script>\u202e\x00" + strings.Repeat("é", 3000)
	r := full(at(0))
	for _, x := range r.Topologies {
		for _, n := range x.Nodes {
			for i := range 400 {
				n.Latest[fmt.Sprintf("docker_label_%d%s", i, evil[:20])] = scope.Latest{Timestamp: at(0), Value: evil}
			}
			for _, k := range []string{"docker_container_name", "docker_container_state", "name", "cmdline", "host_name", "kernel_version", "docker_image_name", "docker_label_io.kubernetes.pod.uid", "active_controls", "docker_container_hostname"} {
				n.Latest[k] = scope.Latest{Timestamp: at(0), Value: evil}
			}
			n.Sets["local_networks"] = append(n.Sets["local_networks"], evil)
			n.Sets["docker_container_ips"] = append(n.Sets["docker_container_ips"], evil, "::ffff:1.2.3.4", "fe80::1%eth0")
			n.Parents = map[string][]string{evil: {evil}, "pod": {evil}, "host": {evil}}
		}
	}
	for _, id := range []string{evil + ";<host>", ";<host>", "a;b;<host>", ";;;", ""} {
		r.Topologies[scope.Host].Nodes[id] = node(id, at(0))
		r.Topologies[scope.Container].Nodes[id] = node(id, at(0))
		r.Topologies[scope.Process].Nodes[id] = node(id, at(0))
		r.Topologies[scope.Endpoint].Nodes[id] = node(id, at(0), "copy_of", id)
	}
	s, e := NewSender(), newEstate(t)
	s.Take(r, at(0))
	f := s.Frame(at(0), true)
	e.apply(f)
	for _, x := range e.entities {
		for _, text := range append([]string{x.Id, x.Label, x.State}, x.Parents...) {
			if strings.ContainsAny(text, "\x1b\x00\u202e") {
				t.Errorf("%q", text)
			}
		}
		if topology.KindOf(x.Id) != x.Kind || strings.Count(x.Id, ";") > 3 {
			t.Errorf("%q is a %s", x.Id, x.Kind)
		}
	}
	if len(e.entities) == 0 {
		t.Error("nothing is left")
	}
}

func TestTooMuchIsCutAndSaid(t *testing.T) {
	t.Parallel()
	r := full(at(0))
	for i := range 100 {
		id := fmt.Sprintf("vm1;%d", i+100)
		r.Topologies[scope.Process].Nodes[id] = node(id, at(0), "name", "p")
	}
	s, e := NewSender(), newEstate(t)
	s.limit = 50
	s.Take(r, at(0))
	e.apply(s.Frame(at(0), true))
	if len(e.entities) != 50 || s.Left().Nodes == 0 {
		t.Errorf("%d entities, %+v", len(e.entities), s.Left())
	}
}

func FuzzSender(f *testing.F) {
	for _, s := range []string{
		`{"Host":{"shape":"circle","nodes":{"a;<host>":{"latest":{"uptime":{"value":"9"}},"sets":{"local_networks":["10.0.0.1/8"]}}}},"Endpoint":{"nodes":{"a;127.0.0.1;1":{"adjacency":["a;127.0.0.1;2"],"latest":{"pid":{"value":"3"},"host_node_id":{"value":"a;<host>"}}},"a;127.0.0.1;2":{"latest":{"copy_of":{"value":"a;127.0.0.1;1"}}}}},"Process":{"nodes":{"a;3":{}}}}`,
		`{"Container":{"nodes":{"c;<container>":{"parents":{"host":["a;<host>"]},"sets":{"docker_container_ports":["1.1.1.1:1->1/tcp"]},"latest":{"active_controls":{"value":"docker_stop_container"}}}},"controls":{"x":{}},"metadata_templates":{"x":{}}}}`,
	} {
		f.Add([]byte(s), []byte(s))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		s, e := NewSender(), newEstate(t)
		for i, in := range [][]byte{a, b, a} {
			r, err := scope.DecodeJSON(in, scope.Limits{Depth: 10, Values: 5000, Text: 500, Nodes: 100})
			if err != nil {
				return
			}
			s.Take(r, at(9*i))
			e.apply(s.Frame(at(9*i), i == 0))
		}
	})
}
