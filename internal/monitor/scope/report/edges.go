package report

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/scope"
)

// drawn is an edge between two entities, or an entity and an address.
type drawn struct {
	src, dst string
	edge     *probev1.Edge
}

// answering is an address at which an entity answers.
type answering struct {
	entity   string
	listener *probev1.Listener
}

// end is one end of a connection in Scope's words: "scope;address;port".
type end struct {
	at     netip.AddrPort
	host   string // the name of the host whose it is known to be
	entity string // whose it is; "" for an address elsewhere
}

// answers notes that others reach an entity at an address of its host.
func (p *picture) answers(entity string, at netip.AddrPort, udp bool) {
	if at.Addr().IsLoopback() || len(p.listeners) >= topology.MaxEntities/10 {
		return
	}
	key := at.String() + "/" + strconv.FormatBool(udp)
	if was := p.listeners[key]; was != nil && (topology.KindOf(was.entity) == topology.KindProcess || topology.KindOf(entity) == topology.KindContainer) {
		return // the process that was seen to answer says more than the container
	}
	l := &probev1.Listener{Port: uint32(at.Port()), Udp: udp}
	if !at.Addr().IsUnspecified() {
		l.Addr = at.Addr().AsSlice()
	}
	p.listeners[key] = &answering{entity, l}
}

// connect makes Scope's endpoints, of which each client's names the servers that it is connected to, into edges.
func (p *picture) connect() {
	have := p.s.nodes[scope.Endpoint]
	ends := make(map[string]*end, len(have))
	for id, h := range have {
		if e := p.end(h.Node); e != nil {
			ends[id] = e
		} else {
			p.left.Named++
		}
	}
	// What is behind NAT is there twice: as it is, and as others see it.
	outer := map[string]*end{}
	for _, id := range slices.Sorted(maps.Keys(have)) {
		e, of := ends[id], have[id].Value("copy_of")
		if e == nil || of == "" || of == id {
			continue
		}
		if inner := ends[of]; inner != nil {
			if e.entity == "" || topology.KindOf(e.entity) == topology.KindHost {
				e.entity, e.host = inner.entity, inner.host
			}
			outer[of] = e
		}
	}
	for _, id := range slices.Sorted(maps.Keys(have)) {
		from := ends[id]
		if from == nil || have[id].Value("copy_of") != "" { // the copy's connections are those of what it is a copy of
			continue
		}
		conns := uint32(1)
		if n, err := strconv.ParseUint(have[id].Value("conn_count"), 10, 20); err == nil && n > 1 {
			conns = uint32(n) // it stands for others like it
		}
		for _, other := range have[id].Adjacency {
			if to := ends[other]; to != nil {
				p.draw(from, to, outer[other], conns)
			}
		}
	}
}

// end reads an endpoint. nil: its id says no address.
func (p *picture) end(n *scope.Node) *end {
	where, rest, _ := strings.Cut(n.ID, ";")
	addr, port, _ := strings.Cut(rest, ";")
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return nil
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil
	}
	e := &end{at: netip.AddrPortFrom(a.Unmap().WithZone(""), uint16(number))}
	a = e.at.Addr()
	e.host = hostName(scope.Tagged(n.Value("host_node_id"), "host"))
	if pid := n.Value("pid"); pid != "" && e.host != "" {
		e.entity = p.procs[e.host+";"+pid]
	}
	if e.entity != "" {
		return e
	}
	// Nobody saw the process. An address of its own leads to the container or host; one that means something else on every host
	// leads to nothing but the host that told of it.
	for _, name := range slices.Sorted(maps.Keys(p.hosts)) {
		h := p.hosts[name]
		local := where == name || strings.HasPrefix(where, name+"-")
		if where != "" && !local {
			continue
		}
		switch owner := h.owners[a]; {
		case owner != "":
			e.entity, e.host = owner, name
		case h.addrs[a] || local:
			e.entity, e.host = h.id, name
		default:
			continue
		}
		return e
	}
	return e
}

// draw adds a connection to the edge between its ends. outer is the server as those see it who come through NAT.
func (p *picture) draw(from, to, outer *end, conns uint32) {
	if to.entity != "" && topology.KindOf(to.entity) != topology.KindHost {
		p.answers(to.entity, to.at, false)
		if outer != nil {
			p.answers(to.entity, outer.at, false)
		}
	}
	if from.entity == "" && to.entity == "" || from.entity == to.entity && topology.KindOf(from.entity) == topology.KindHost {
		return
	}
	port := to.at.Port()
	if from.entity == "" && outer != nil && outer.at.Addr() != to.at.Addr() {
		port = outer.at.Port() // who comes from elsewhere has asked for this one
	}
	e := &probev1.Edge{Port: uint32(port)}
	key := from.entity + "|" + to.entity + "|" + strconv.Itoa(int(port))
	switch {
	case from.entity == "":
		e.RemoteAddr, e.Seen = from.at.Addr().AsSlice(), 2
		key += "|" + from.at.Addr().String()
	case to.entity == "":
		e.RemoteAddr, e.Seen = to.at.Addr().AsSlice(), 1
		key += "|" + to.at.Addr().String()
	default:
		e.Seen = 3
	}
	if was := p.edges[key]; was != nil {
		was.edge.Conns += conns
		return
	}
	if len(p.edges) >= maxEdges {
		p.left.Nodes++
		return
	}
	e.Conns = conns
	p.edges[key] = &drawn{from.entity, to.entity, e}
}
