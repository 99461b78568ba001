package probe

import (
	"net/netip"

	"github.com/orchestrator/orchestrator/internal/topology"
)

// Bounds of what one probe reports about connections.
const (
	maxFlows = 10_000
	// maxPeers is how many public addresses one entity shows apart on one port; what is beyond is folded into "elsewhere".
	maxPeers = 64
	// lingerMillis is how long a connection that has ended stays on the map, so that short ones are seen at all.
	lingerMillis = 30_000
)

// elsewhere stands for public addresses that were folded together.
const elsewhere = "\x00\x00\x00\x00"

// tuple names a socket by what it says of itself; netns only where the addresses mean something else in each namespace.
type tuple struct {
	netns         uint64
	udp           bool
	local, remote netip.AddrPort
}

type counted struct {
	acked, received uint64
	retrans         uint32
	key             edgeKey
	seen            bool
	server          bool // that end of the connection, as was told when it was new: its listener may go before it
}

// flow is one edge in the making.
type flow struct {
	edge
	opened, failed   int
	txBytes, rxBytes float64
	retransmits      uint32
	rttSum, rttN     uint64
}

// translation is one entry of the kernel's NAT table that changes the server's address.
type translation struct {
	client, dialled netip.AddrPort // as the client sees it
	server, seenAs  netip.AddrPort // as the server sees it: its own address, and the client's
	udp             bool
}

// netEvent is a connection that an event source saw begin, fail or end, whether or not a dump ever met it.
type netEvent struct {
	local, remote netip.AddrPort
	netns, cgroup uint64
	pid           int
	path          string // of the client's control group: its last parts
	container     string // what that says, when the process is not known
	udp           bool
	accepted      bool // the local side is the server
	failed        bool
}

// world is what flows need to know of the host in one round.
type world struct {
	hostID   string
	rootNS   uint64
	addrs    map[netip.Addr]uint64 // address to the namespace that has it; ambiguous ones are left out
	ownerOf  func(*socket) string  // entity id of a socket's owner
	nsEntity func(netns uint64) string
	byEvent  func(*netEvent) string // entity id of an event's owner
	eventNS  func(*netEvent) uint64 // the namespace in which an event happened
	events   bool                   // an event source tells of every connection as it begins
}

// flowTable turns the sockets of each round into edges. Used by one goroutine.
type flowTable struct {
	flows map[edgeKey]*flow
	known map[tuple]*counted
	// mostKnown and mostFlows are how many there were at most.
	mostKnown, mostFlows int
	last                 int64
	folded               int
	dropped              int
	peers                map[peerGroup]map[string]struct{}
	events               []netEvent
	nat                  []translation
}

type peerGroup struct {
	entity string
	port   uint16
	in     bool
}

func newFlowTable() *flowTable {
	return &flowTable{flows: map[edgeKey]*flow{}, known: map[tuple]*counted{}, peers: map[peerGroup]map[string]struct{}{}}
}

// listening is a server socket of a namespace.
type listening struct {
	netns uint64
	udp   bool
	addr  netip.AddrPort
}

// update takes one round of sockets. It gives the edges and the listeners of the host.
func (t *flowTable) update(at int64, sockets []socket, w *world) ([]edge, []listenerKey) {
	ix := t.index(sockets)
	seconds := float64(at-t.last) / 1000
	if t.last == 0 || seconds <= 0 {
		seconds = 1
	}
	for _, f := range t.flows {
		f.conns, f.seen, f.opened, f.failed, f.txBytes, f.rxBytes, f.retransmits, f.rttSum, f.rttN = 0, 0, 0, 0, 0, 0, 0, 0, 0
	}
	clear(t.peers)
	t.folded, t.dropped = 0, 0
	for i := range t.events {
		e := &t.events[i]
		e.netns = w.eventNS(e)
		ix.told[tupleOf(e.netns, e.udp, e.local, e.remote)] = struct{}{}
	}
	for i := range sockets {
		t.socket(&sockets[i], sockets, ix, w, at)
	}
	for i := range t.events {
		t.event(&t.events[i], sockets, ix, w, at)
	}
	t.events = emptied(t.events)
	for k, c := range t.known {
		if !c.seen {
			delete(t.known, k)
		}
		c.seen = false
	}
	t.known, t.flows = slim(t.known, &t.mostKnown), slim(t.flows, &t.mostFlows)
	edges := make([]edge, 0, len(t.flows))
	for key, f := range t.flows {
		if at-f.lastActive > lingerMillis {
			delete(t.flows, key)
			continue
		}
		if t.last > 0 {
			f.newRate, f.failRate = float32(float64(f.opened)/seconds), float32(float64(f.failed)/seconds)
			f.tx, f.rx = float32(f.txBytes/seconds), float32(f.rxBytes/seconds)
			f.retrans = float32(float64(f.retransmits) / seconds)
		}
		if f.rttN > 0 {
			f.rttMicros = uint32(f.rttSum / f.rttN)
		}
		edges = append(edges, f.edge)
	}
	t.last = at
	return edges, t.listeners(sockets, w)
}

// index is how sockets find their other end.
type index struct {
	listen map[listening]int // to the socket
	peer   map[tuple]int
	nat    map[tuple]translation // by what the client's socket says
	back   map[tuple]translation // by what the server's socket says
	told   map[tuple]struct{}    // of what events tell in this round
}

func (t *flowTable) index(sockets []socket) *index {
	ix := &index{
		listen: map[listening]int{}, peer: make(map[tuple]int, len(sockets)), nat: make(map[tuple]translation, len(t.nat)), back: make(map[tuple]translation, len(t.nat)),
		told: make(map[tuple]struct{}, len(t.events)),
	}
	for i := range sockets {
		s := &sockets[i]
		if isListener(s) {
			ix.listen[listening{s.netns, s.udp, s.local}] = i
			continue
		}
		ix.peer[tupleOf(s.netns, s.udp, s.local, s.remote)] = i
	}
	for _, n := range t.nat {
		ix.nat[tuple{0, n.udp, n.client, n.dialled}] = n
		ix.back[tuple{0, n.udp, n.server, n.seenAs}] = n
	}
	return ix
}

func isListener(s *socket) bool {
	return s.state == tcpListen && !s.udp || s.udp && s.state == tcpClose && !s.remote.Addr().IsValid() ||
		s.udp && s.state == tcpClose && s.remote.Port() == 0
}

// tupleOf keeps the namespace only for addresses that exist in every namespace.
func tupleOf(netns uint64, udp bool, local, remote netip.AddrPort) tuple {
	if !local.Addr().IsLoopback() && !remote.Addr().IsLoopback() {
		netns = 0
	}
	return tuple{netns, udp, local, remote}
}

// listener finds the server socket that answers at an address of a namespace.
func (ix *index) listener(netns uint64, udp bool, at netip.AddrPort) (int, bool) {
	for _, addr := range [3]netip.Addr{at.Addr(), netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if i, ok := ix.listen[listening{netns, udp, netip.AddrPortFrom(addr, at.Port())}]; ok {
			return i, true
		}
	}
	return 0, false
}

// firstEphemeral is where Linux' default range of client ports begins.
const firstEphemeral = 32768

// isServer tells which end of a connection a socket is: the one whose address is listened on, or, when its listener is gone
// and nothing else tells, the one with a port that no client is given.
func (ix *index) isServer(s *socket) bool {
	if _, ok := ix.listener(s.netns, s.udp, s.local); ok {
		return true
	}
	if i, ok := ix.peer[tupleOf(s.netns, s.udp, s.remote, s.local)]; ok && i >= 0 {
		return s.local.Port() < s.remote.Port() && s.local.Port() < firstEphemeral
	}
	return s.local.Port() < firstEphemeral && s.remote.Port() >= firstEphemeral
}

// untold reports whether nothing tells which end of a connection within this host what is left of a socket was: no listener is there any more, and
// either port may be one that a client was given.
func (t *flowTable) untold(s *socket, ix *index, w *world) bool {
	ns, here := t.namespaceOf(s.remote.Addr(), s.netns, w)
	if !here || s.local.Port() < firstEphemeral || s.remote.Port() < firstEphemeral {
		return false
	}
	_, listens := ix.listener(ns, s.udp, s.remote)
	return !listens
}

func (t *flowTable) socket(s *socket, sockets []socket, ix *index, w *world, at int64) {
	if isListener(s) || !s.remote.IsValid() || s.remote.Port() == 0 || s.remote.Addr().IsUnspecified() {
		return
	}
	id := tupleOf(s.netns, s.udp, s.local, s.remote)
	was := t.known[id]
	closing := s.state == tcpTimeWait || s.state == tcpClose && !s.udp
	if s.state == tcpSynSent {
		if s.retrans > 0 { // nobody answers
			if f := t.between(s, sockets, ix, w, at, false); f != nil {
				f.failed++
				f.seen |= 1
			}
		}
		return
	}
	if closing && was != nil {
		was.seen = true // met while it was open
		if f := t.flows[was.key]; f != nil {
			f.seen |= uint32(1)
		}
		return
	}
	if _, ok := ix.told[id]; ok && closing {
		return // nobody's any more; the event knows whose it was
	}
	server := was != nil && was.server || was == nil && ix.isServer(s)
	if closing && !server && t.untold(s, ix, w) {
		return
	}
	if closing && server && w.events {
		if _, here := t.namespaceOf(s.remote.Addr(), s.netns, w); here {
			return // the server has closed it first; the event has told of it, and knows the client, of whom nothing is left here
		}
	}
	f := t.between(s, sockets, ix, w, at, server)
	if f == nil {
		return
	}
	if server {
		f.seen |= 2
	} else {
		f.seen |= 1
	}
	// A connection within the host has two sockets: the client's counts.
	second := server && f.key.src != ""
	if was == nil {
		was = &counted{}
		if len(t.known) < maxSockets {
			t.known[id] = was
		}
		if !second {
			f.opened++
		}
		f.lastActive = at
	} else if s.info && !second && s.acked >= was.acked && s.received >= was.received {
		sent, got := float64(s.acked-was.acked), float64(s.received-was.received)
		if server {
			sent, got = got, sent
		}
		f.txBytes, f.rxBytes = f.txBytes+sent, f.rxBytes+got
		f.retransmits += s.retrans - min(was.retrans, s.retrans)
	}
	was.acked, was.received, was.retrans, was.key, was.seen, was.server = s.acked, s.received, s.retrans, f.key, true, server
	if closing {
		return
	}
	f.lastActive = at
	if !second {
		f.conns++
		if s.rttMicros > 0 {
			f.rttSum, f.rttN = f.rttSum+uint64(s.rttMicros), f.rttN+1
		}
	}
}

// owner is whose a socket is. One that waits for its time to pass is nobody's any more: it was its listener's, if that is there.
func owner(s *socket, sockets []socket, ix *index, w *world) string {
	if s.state == tcpTimeWait && !s.udp {
		if i, ok := ix.listener(s.netns, s.udp, s.local); ok {
			return w.ownerOf(&sockets[i])
		}
	}
	return w.ownerOf(s)
}

// between finds or makes the flow of a socket.
func (t *flowTable) between(s *socket, sockets []socket, ix *index, w *world, at int64, server bool) *flow {
	own := owner(s, sockets, ix, w)
	if server {
		key := edgeKey{dst: own, port: s.local.Port(), udp: s.udp}
		peerLocal, peerRemote := s.remote, s.local
		if n, ok := ix.back[tuple{0, s.udp, s.local, s.remote}]; ok {
			peerLocal, peerRemote = n.client, n.dialled
		}
		if i, ok := ix.peer[tupleOf(s.netns, s.udp, peerLocal, peerRemote)]; ok {
			key.src = owner(&sockets[i], sockets, ix, w)
		} else if ns, ok := t.namespaceOf(peerLocal.Addr(), s.netns, w); ok {
			key.src = w.nsEntity(ns)
		} else {
			key.remote = t.fold(own, key.port, true, peerLocal.Addr())
		}
		return t.flow(key, at)
	}
	remote, seenAs := s.remote, s.local
	if n, ok := ix.nat[tuple{0, s.udp, s.local, s.remote}]; ok {
		remote, seenAs = n.server, n.seenAs
	}
	key := edgeKey{src: own, port: remote.Port(), udp: s.udp}
	if i, ok := ix.peer[tupleOf(s.netns, s.udp, remote, seenAs)]; ok {
		key.dst = owner(&sockets[i], sockets, ix, w)
	} else if ns, ok := t.namespaceOf(remote.Addr(), s.netns, w); ok {
		if i, ok := ix.listener(ns, s.udp, remote); ok {
			key.dst = w.ownerOf(&sockets[i])
		} else {
			key.dst = w.nsEntity(ns)
		}
	} else {
		key.remote = t.fold(own, key.port, false, remote.Addr())
	}
	return t.flow(key, at)
}

// namespaceOf tells which namespace of this host has an address.
func (t *flowTable) namespaceOf(a netip.Addr, own uint64, w *world) (uint64, bool) {
	if a.IsLoopback() {
		return own, true
	}
	ns, ok := w.addrs[a]
	return ns, ok
}

func (t *flowTable) flow(key edgeKey, at int64) *flow {
	f := t.flows[key]
	if f == nil {
		if len(t.flows) >= maxFlows {
			t.dropped++
			return nil
		}
		f = &flow{edge: edge{key: key}}
		f.lastActive = at
		t.flows[key] = f
	}
	return f
}

// fold gives the remote address as the edge shows it: beyond a number of public ones, all the same.
func (t *flowTable) fold(entity string, port uint16, in bool, a netip.Addr) string {
	raw := string(a.AsSlice())
	if a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return raw
	}
	g := peerGroup{entity, port, in}
	set := t.peers[g]
	if set == nil {
		set = map[string]struct{}{}
		t.peers[g] = set
	}
	if _, ok := set[raw]; ok {
		return raw
	}
	if len(set) >= maxPeers {
		t.folded++
		return elsewhere
	}
	set[raw] = struct{}{}
	return raw
}

// event counts a connection that an event source reported. One that a dump has met, or will meet, is not counted twice.
func (t *flowTable) event(e *netEvent, sockets []socket, ix *index, w *world, at int64) {
	id := tupleOf(e.netns, e.udp, e.local, e.remote)
	if t.known[id] != nil && !e.failed {
		return
	}
	s := socket{udp: e.udp, local: e.local, remote: e.remote, netns: e.netns, cgroup: e.cgroup}
	if e.accepted {
		if _, here := t.namespaceOf(e.remote.Addr(), e.netns, w); here {
			// The client's own event tells more; of this end it is kept which one it is.
			if len(t.known) < maxSockets {
				t.known[id] = &counted{seen: true, server: true}
			}
			return
		}
	}
	own := *w
	own.ownerOf = func(o *socket) string {
		if o != &s {
			return w.ownerOf(o)
		}
		if e.accepted {
			if i, ok := ix.listener(e.netns, e.udp, e.local); ok {
				return w.ownerOf(&sockets[i])
			}
		}
		return w.byEvent(e)
	}
	f := t.between(&s, sockets, ix, &own, at, e.accepted)
	if f == nil {
		return
	}
	f.lastActive = at
	if e.accepted {
		f.seen |= 2
	} else {
		f.seen |= 1
	}
	if e.failed {
		f.failed++
		return
	}
	f.opened++
	if len(t.known) < maxSockets {
		t.known[id] = &counted{key: f.key, seen: true, server: e.accepted}
	}
}

// listeners gives what the monitor needs to find servers of this host: sockets that listen on addresses others can reach,
// and ports that NAT leads into a container.
func (t *flowTable) listeners(sockets []socket, w *world) []listenerKey {
	seen := map[listenerKey]bool{}
	var out []listenerKey
	add := func(l listenerKey) {
		if l.entity != "" && !seen[l] && len(out) < topology.MaxEntities/10 {
			seen[l] = true
			out = append(out, l)
		}
	}
	// A container's wildcard listener answers at each of its own addresses.
	own := map[uint64][]netip.Addr{}
	for a, ns := range w.addrs {
		if ns != w.rootNS {
			own[ns] = append(own[ns], a)
		}
	}
	for i := range sockets {
		s := &sockets[i]
		if !isListener(s) || s.local.Addr().IsLoopback() || s.udp && s.local.Port() >= firstEphemeral {
			continue
		}
		l := listenerKey{entity: w.ownerOf(s), port: s.local.Port(), udp: s.udp}
		switch {
		case !s.local.Addr().IsUnspecified():
			l.addr = string(s.local.Addr().AsSlice())
			add(l)
		case s.netns == w.rootNS:
			add(l)
		default:
			for _, a := range own[s.netns] {
				l.addr = string(a.AsSlice())
				add(l)
			}
		}
	}
	for _, n := range t.nat {
		if w.addrs[n.dialled.Addr()] != w.rootNS || w.rootNS == 0 {
			continue
		}
		if ns, ok := w.addrs[n.server.Addr()]; ok && ns != w.rootNS {
			add(listenerKey{entity: w.nsEntity(ns), addr: string(n.dialled.Addr().AsSlice()), port: n.dialled.Port(), udp: n.udp})
		}
	}
	return out
}
