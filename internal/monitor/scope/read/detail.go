package read

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/monitor/view"
	"github.com/orchestrator/orchestrator/internal/topology"
)

type childColumn struct {
	ID          string `json:"id"`
	Label       string `json:"label"`
	DefaultSort bool   `json:"defaultSort"`
	DataType    string `json:"dataType"`
}

// children is a table of what is in a node.
type children struct {
	ID         string            `json:"id"`
	Label      string            `json:"label"`
	Nodes      []json.RawMessage `json:"nodes"`
	TopologyID string            `json:"topologyId"`
	Columns    []childColumn     `json:"columns"`
}

type connection struct {
	ID         string        `json:"id"`
	NodeID     string        `json:"nodeId"`
	Label      string        `json:"label"`
	LabelMinor string        `json:"labelMinor,omitempty"`
	Metadata   []metadataRow `json:"metadata,omitempty"`
}

type connections struct {
	ID          string        `json:"id"`
	TopologyID  string        `json:"topologyId"`
	Label       string        `json:"label"`
	Columns     []childColumn `json:"columns"`
	Connections []connection  `json:"connections"`
}

// details is one node with all that is known of it. There are no controls: they are operators', and this API is viewers'.
type details struct {
	summary
	Adjacency   []string      `json:"adjacency,omitempty"`
	Controls    []struct{}    `json:"controls"`
	Children    []children    `json:"children,omitempty"`
	Connections []connections `json:"connections,omitempty"`
}

// childTables are the tables of children, in Scope's order.
var childTables = []struct {
	kind string
	children
}{
	{topology.KindPod, children{Label: "Pods", TopologyID: "pods", Columns: []childColumn{
		{ID: "kubernetes_state", Label: "State"}, {ID: "container", Label: "# Containers", DataType: asNumber}, {ID: "kubernetes_ip", Label: "IP", DataType: asIP},
	}}},
	{topology.KindContainer, children{Label: "Containers", TopologyID: "containers", Columns: []childColumn{
		{ID: "docker_cpu_total_usage", Label: "CPU", DataType: asNumber}, {ID: "docker_memory_usage", Label: "Memory", DataType: asNumber},
	}}},
	{topology.KindProcess, children{Label: "Processes", TopologyID: "processes", Columns: []childColumn{
		{ID: "pid", Label: "PID", DataType: asNumber}, {ID: "process_cpu_usage_percent", Label: "CPU", DataType: asNumber}, {ID: "process_memory_usage_bytes", Label: "Memory", DataType: asNumber},
	}}},
	{topology.KindImage, children{Label: "Container images", TopologyID: "containers-by-image", Columns: []childColumn{}}},
}

var (
	portColumns = []childColumn{
		{ID: "port", Label: "Port", DataType: asNumber},
		{ID: "count", Label: "Count", DataType: asNumber, DefaultSort: true},
	}
	internetColumns = append([]childColumn{{ID: "remote", Label: "Remote"}}, portColumns...)
)

// link is connections of a node with another one on one port. With the Internet, address is whose at its end.
type link struct {
	peer    *node
	address string
	port    uint16
	count   uint32
}

// close is a node that was looked at closely, inside the estate's lock.
type closeLook struct {
	node     *node
	children map[string]map[string]*node // by kind, then by id
	in, out  []link
}

// look finds a node of a topology by its id and reads all that is shown of it. It is called inside the estate's lock; nil when there
// is no such node.
func look(t *desc, r *estate.Reader, v *view.View, id string, at, now int64) *closeLook {
	p := &picture{desc: t, nodes: map[string]*node{}, at: now}
	if at != 0 {
		p.at = at
	}
	flat := &reader{r: r, at: at, memory: map[string]float64{}}
	deep := &reader{r: r, at: at, deep: true, memory: flat.memory}
	for n := range v.Each {
		var own *estate.Entity
		if !n.Pseudo {
			own = r.Entity(n.ID)
		}
		for _, out := range []bool{false, true} {
			if got, _ := nodeID(t, n, own, out); got == id {
				p.add(deep, n, out)
			}
			if n.Kind != topology.KindInternet {
				break
			}
		}
	}
	n := p.nodes[id]
	if n == nil {
		return nil
	}
	c := &closeLook{node: n, children: map[string]map[string]*node{}}
	// Peers are looked up only by their titles, in a picture of their own: the node's is there already.
	peers := &picture{desc: t, nodes: map[string]*node{}, at: p.at}
	links := func(to *[]link, m view.Node, out bool, by []*estate.Edge) {
		peer := peers.add(flat, m, out)
		if peer == nil {
			return
		}
		for _, b := range by {
			told := false
			if b.Src.Kind == topology.KindInternet || b.Dst.Kind == topology.KindInternet {
				for a, conns := range b.Remotes {
					*to = append(*to, link{peer, a.String(), b.Port, max(1, conns)})
					told = true
				}
			}
			if !told {
				*to = append(*to, link{peer, "", b.Port, max(1, b.Conns)})
			}
		}
	}
	for _, h := range n.handles {
		if id != incomingInternet {
			for from, by := range h.In {
				links(&c.in, from, false, by)
			}
		}
		if id != outgoingInternet {
			for to, by := range h.Out {
				links(&c.out, to, true, by)
			}
		}
		for e := range h.Members() {
			c.below(flat, e, n, p.at)
		}
		if h.Pseudo && (h.Kind == topology.KindUncontain || h.Kind == topology.KindUnmanaged) {
			c.outside(flat, bare(h.ID), h.Kind == topology.KindUncontain)
		}
	}
	n.handles = nil
	return c
}

// child lists an entity below the node.
func (c *closeLook) child(x *reader, e *estate.Entity, at int64) {
	id, topo := entityID(e.ID, e)
	if id == c.node.id {
		return
	}
	list := c.children[e.Kind]
	if list == nil {
		list = map[string]*node{}
		c.children[e.Kind] = list
	}
	if list[id] != nil {
		return
	}
	m := &node{id: id, topology: topo, label: e.Label, viewKind: e.Kind, viewName: e.ID, counts: map[string]int{}, fact: x.fact(e, at)}
	m.namespace = m.fact.namespace
	if e.Kind == topology.KindPod {
		for k := range e.Children {
			if k.Kind == topology.KindContainer && !stoppedState(k.State) {
				m.counts[topology.KindContainer]++
				if m.members++; m.members == 1 {
					m.only = x.fact(k, at)
				}
			}
		}
	}
	list[id] = m
	if e.Kind == topology.KindContainer && c.node.topology == topoHost {
		c.image(x, e)
	}
}

// below lists a member of the node and what is in it.
func (c *closeLook) below(x *reader, e *estate.Entity, n *node, at int64) {
	if e.Kind != topology.KindContainer && e.Kind != topology.KindProcess && e.Kind != topology.KindPod && e.Kind != topology.KindHost {
		return
	}
	c.child(x, e, at)
	if e.Kind == topology.KindContainer && (n.viewKind == topology.KindService || n.viewKind == topology.KindController) {
		if pod := x.r.Entity(e.ParentID(topology.KindPod)); pod != nil {
			c.child(x, pod, at)
		}
	}
	for k := range e.Children {
		c.below(x, k, n, at)
	}
}

// image lists the image of a container, or counts the container.
func (c *closeLook) image(x *reader, e *estate.Entity) {
	for _, image := range e.ParentIDs(topology.KindImage) {
		id, topo := entityID(image, nil)
		list := c.children[topology.KindImage]
		if list == nil {
			list = map[string]*node{}
			c.children[topology.KindImage] = list
		}
		m := list[id]
		if m == nil {
			m = &node{id: id, topology: topo, viewKind: topology.KindImage, viewName: image, counts: map[string]int{}}
			list[id] = m
		}
		m.counts[topology.KindContainer]++
		m.onHost(x, e)
	}
}

// outside lists the processes of a host that are in no container.
func (c *closeLook) outside(x *reader, host string, uncontained bool) {
	h := x.r.Entity(topology.HostID(host))
	if h == nil || !uncontained {
		return
	}
	for e := range h.Children {
		if e.Kind == topology.KindProcess && e.Container() == nil {
			c.child(x, e, 0)
		}
	}
}

// render makes the answer. It needs no lock.
func (c *closeLook) render(t *desc, at int64) details {
	n := c.node
	d := details{summary: n.summary(at), Controls: []struct{}{}}
	for _, spec := range childTables {
		list := c.children[spec.kind]
		if len(list) == 0 {
			continue
		}
		group := spec.children
		ids := make([]string, 0, len(list))
		for id := range list {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		for _, id := range ids {
			s := list[id].summary(at)
			for i := range s.Metrics {
				s.Metrics[i].Samples = nil
			}
			b, err := json.Marshal(s)
			if err != nil {
				continue
			}
			group.Nodes = append(group.Nodes, b)
		}
		d.Children = append(d.Children, group)
	}
	seen := map[string]bool{}
	for _, o := range n.out {
		if !seen[o.id] {
			seen[o.id] = true
			d.Adjacency = append(d.Adjacency, o.id)
		}
	}
	slices.Sort(d.Adjacency)
	columns := portColumns
	if n.internet {
		columns = internetColumns
	}
	d.Connections = []connections{
		{ID: "incoming-connections", TopologyID: t.id, Label: "Inbound", Columns: columns, Connections: connectionRows(n, c.in)},
		{ID: "outgoing-connections", TopologyID: t.id, Label: "Outbound", Columns: columns, Connections: connectionRows(n, c.out)},
	}
	return d
}

func connectionRows(n *node, links []link) []connection {
	type key struct {
		id, address string
		port        uint16
	}
	sums, peers := map[key]uint64{}, map[key]*node{}
	for _, l := range links {
		k := key{l.peer.id, l.address, l.port}
		sums[k] += uint64(l.count)
		peers[k] = l.peer
	}
	out := []connection{}
	for k, count := range sums {
		peer := peers[k]
		b := peer.title()
		there, here := "", ""
		if peer.internet {
			there = k.address
		} else if n.internet {
			here = k.address
		}
		row := connection{ID: fmt.Sprintf("%s-%s-%s-%d", k.id, there, here, k.port), NodeID: b.ID, Label: b.Label, LabelMinor: b.LabelMinor}
		if there != "" {
			row.Label, row.LabelMinor = there, ""
		}
		if n.internet {
			row.Metadata = append(row.Metadata, metadataRow{ID: "remote", Value: here})
		}
		row.Metadata = append(row.Metadata, metadataRow{ID: "port", Value: strconv.Itoa(int(k.port))}, metadataRow{ID: "count", Value: strconv.FormatUint(count, 10)})
		out = append(out, row)
	}
	slices.SortFunc(out, func(a, b connection) int { return cmp.Compare(a.ID, b.ID) })
	return out
}
