package estate

import (
	"hash/maphash"
	"net/netip"
	"slices"

	"github.com/orchestrator/orchestrator/internal/topology"
)

// InternetID is the entity that stands for every public address.
const InternetID = topology.KindInternet

// resolveAll joins every half that is due to its edge. Joining one may make others due (a server half counts only while no
// client half tells the same better), which are then joined too; each half changes its mind at most once per round of news,
// so this ends.
func (s *Estate) resolveAll() {
	s.redoMoved()
	for i := 0; i < len(s.dirtyHalves); i++ {
		h := s.dirtyHalves[i]
		h.dirty = false
		s.resolve(h)
	}
	clear(s.dirtyHalves)
	s.dirtyHalves = s.dirtyHalves[:0]
}

// redoMoved has the halves resolved again of whatever is in another container now: by that the two sides of a connection find each other. A half that only
// supports another one is on no edge, so it is looked for among all of its probe's, once for however many have moved.
func (s *Estate) redoMoved() {
	if len(s.moved) == 0 {
		return
	}
	probes := map[*Probe]struct{}{}
	for e := range s.moved {
		if e.probe != nil {
			probes[e.probe] = struct{}{}
		}
		for b := range e.bases {
			for _, h := range b.halves {
				s.redo(h)
			}
		}
	}
	for p := range probes {
		for _, h := range p.halves {
			_, src := s.moved[h.src]
			_, dst := s.moved[h.dst]
			if src || dst {
				s.redo(h)
			}
		}
	}
	clear(s.moved)
}

func (s *Estate) resolve(h *half) {
	if h.forgotten || h.src != nil && h.src.gone || h.dst != nil && h.dst.gone {
		s.leaveMatch(h)
		s.leaveEdge(h)
		return
	}
	src, dst := h.src, h.dst
	switch {
	case src != nil && dst != nil:
		s.leaveMatch(h)
	case src != nil: // the client's half
		dst = s.at(h.remote, h.port, h.udp)
		s.joinMatch(h, matchKey{anchor(dst), src.HostID(), h.port, h.udp}, true)
	case dst != nil: // the server's half
		owner := s.owner(h.remote)
		if owner == nil {
			s.leaveMatch(h)
			src = s.outside(h.remote)
			break
		}
		s.joinMatch(h, matchKey{anchor(dst), owner.HostID(), h.port, h.udp}, false)
		if h.match != nil && h.match.clients > 0 {
			s.leaveEdge(h) // the client's own half names the process
			return
		}
		src = owner
	default:
		s.leaveEdge(h)
		return
	}
	key := edgeKey{src, dst, h.port, h.udp}
	b := s.edges[key]
	if b == nil {
		b = &Edge{Src: src, Dst: dst, Port: h.port, UDP: h.udp}
		s.addEdge(b)
	}
	if h.edge != b {
		s.leaveEdge(h)
		h.edge = b
		b.halves = append(b.halves, h)
	}
	s.sum(b)
}

// addEdge puts an edge into the estate and to both of its ends.
func (s *Estate) addEdge(b *Edge) {
	s.edges[b.key()] = b
	for _, e := range [...]*Entity{b.Src, b.Dst} {
		if e.bases == nil {
			e.bases = map[*Edge]struct{}{}
		}
		e.bases[b] = struct{}{}
	}
}

// without takes one half out of a short list; order does not matter.
func without(list []*half, h *half) []*half {
	i := slices.Index(list, h)
	if i < 0 {
		return list
	}
	last := len(list) - 1
	list[i], list[last] = list[last], nil
	return list[:last]
}

// anchor is what a server is for matching: its container, or its host; processes of one server share a listener.
func anchor(e *Entity) *Entity {
	if c := e.Container(); c != nil {
		return c
	}
	if h := e.parentOf(topology.KindHost); h != nil {
		return h
	}
	return e
}

func (s *Estate) hashOf(key matchKey) uint64 { return maphash.Comparable(s.seed, key) & s.hashed }

func (s *Estate) joinMatch(h *half, key matchKey, client bool) {
	if h.match != nil && h.match.key == key && h.client == client {
		return
	}
	s.leaveMatch(h)
	hash := s.hashOf(key)
	m := s.matches[hash]
	for m != nil && m.key != key {
		m = m.next
	}
	if m == nil {
		m = &match{key: key, next: s.matches[hash]}
		s.matches[hash] = m
	}
	h.match, h.client = m, client
	m.halves = append(m.halves, h)
	if client {
		m.clients++
	}
	if client && m.clients == 1 || !client && m.servers() == 1 {
		s.redoOthers(m, client)
	}
}

func (s *Estate) leaveMatch(h *half) {
	m := h.match
	if m == nil {
		return
	}
	h.match = nil
	m.halves = without(m.halves, h)
	if h.client {
		m.clients--
	}
	if h.client && m.clients == 0 || !h.client && m.servers() == 0 {
		s.redoOthers(m, h.client)
	}
	if len(m.halves) > 0 {
		return
	}
	hash := s.hashOf(m.key)
	first := s.matches[hash]
	if first == m {
		if m.next == nil {
			delete(s.matches, hash)
		} else {
			s.matches[hash] = m.next
		}
		return
	}
	for first.next != m {
		first = first.next
	}
	first.next = m.next
}

// redoOthers resolves the halves of the other side again: the first of this side has come, or the last has gone.
func (s *Estate) redoOthers(m *match, client bool) {
	for _, o := range m.halves {
		if o.client != client {
			s.redo(o)
		}
	}
}

func (s *Estate) leaveEdge(h *half) {
	b := h.edge
	if b == nil {
		return
	}
	h.edge = nil
	b.halves = without(b.halves, h)
	if len(b.halves) > 0 {
		s.sum(b)
		return
	}
	b.gone = true
	b.Src.failing -= b.Fail
	delete(s.edges, b.key())
	s.touchEdge(b)
	for _, e := range []*Entity{b.Src, b.Dst} {
		delete(e.bases, b)
		if e.Pseudo && len(e.bases) == 0 {
			if e.Kind == topology.KindUnmanaged {
				s.unmanaged--
			}
			s.removeEntity(e)
		} else {
			s.touch(e, ChangedNumbers)
		}
	}
}

func (s *Estate) touchEdge(b *Edge) {
	if !b.dirty {
		b.dirty = true
		s.dirtyEdges = append(s.dirtyEdges, b)
	}
}

// sum makes the edge's numbers out of its halves.
func (s *Estate) sum(b *Edge) {
	fail := b.Fail
	b.Conns, b.New, b.Fail, b.Tx, b.Rx, b.Retrans, b.RTTMicros, b.Evidence = 0, 0, 0, 0, 0, 0, 0, 0
	for _, h := range b.halves {
		b.Conns += h.conns
		b.New += h.new
		b.Fail += h.fail
		b.Tx += h.tx
		b.Rx += h.rx
		b.Retrans += h.retrans
		b.RTTMicros = max(b.RTTMicros, h.rtt)
		switch {
		case h.src != nil && h.dst != nil:
			b.Evidence |= h.seen
		case h.src != nil:
			b.Evidence |= 1
			if h.match != nil && h.match.servers() > 0 {
				b.Evidence |= 2
			}
		default:
			b.Evidence |= 2
		}
	}
	if b.Evidence == 0 {
		b.Evidence = 1
	}
	if fail != b.Fail {
		b.Src.failing += b.Fail - fail
		s.touch(b.Src, ChangedNumbers)
	}
	s.touchEdge(b)
}

// owner tells which host or container has an address: nil when none has, or when several claim it (every host has the
// address of its own bridge).
func (s *Estate) owner(a netip.Addr) *Entity {
	var found *Entity
	for e := range s.owners[a] {
		switch {
		case found == nil:
			found = e
		case e.Kind == topology.KindHost && found.Kind != topology.KindHost:
			found = e // a container in its host's network
		case found.Kind == topology.KindHost && e.Kind != topology.KindHost:
		case found.HostID() == e.HostID() && found.Kind == e.Kind && found.ID < e.ID:
			// containers that share a namespace (a pod): any, but always the same
		case found.HostID() == e.HostID() && found.Kind == e.Kind:
			found = e
		case found.Kind == topology.KindPod || e.Kind == topology.KindPod:
			if found.Kind == topology.KindPod {
				found = e
			}
		default:
			return nil
		}
	}
	return found
}

// at tells which entity answers at an address.
func (s *Estate) at(a netip.Addr, port uint16, udp bool) *Entity {
	owner := s.owner(a)
	if owner == nil {
		return s.outside(a)
	}
	for _, key := range []listenKey{{addr: a, port: port, udp: udp}, {host: owner.HostID(), port: port, udp: udp}} {
		if key.host != "" && owner.Kind != topology.KindHost {
			continue
		}
		var best *Entity
		for l := s.listeners[key]; l != nil; l = l.next {
			if l.entity.gone || l.entity.HostID() != owner.HostID() {
				continue
			}
			// Of several the container before a forwarding process, then the same one every time.
			if best == nil || rankListener(l.entity) > rankListener(best) || rankListener(l.entity) == rankListener(best) && l.entity.ID < best.ID {
				best = l.entity
			}
		}
		if best != nil {
			return best
		}
	}
	return owner
}

func rankListener(e *Entity) int {
	switch {
	case e.Kind == topology.KindProcess && e.parentOf(topology.KindContainer) != nil:
		return 3
	case e.Kind == topology.KindContainer:
		return 2
	case e.Kind == topology.KindProcess:
		return 1
	}
	return 0
}

// outside gives the entity that stands for an address outside of the estate: one for all public ones, one each for private
// ones up to a number.
func (s *Estate) outside(a netip.Addr) *Entity {
	id, kind, label := InternetID, topology.KindInternet, "The Internet"
	if a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsLoopback() || isShared(a) {
		kind = topology.KindUnmanaged
		id, label = topology.ID(kind, a.String()), a.String()
		if s.byID[id] == nil && s.unmanaged >= maxUnmanaged {
			id, label = topology.ID(kind, "other"), "Other addresses"
		}
	}
	if e := s.byID[id]; e != nil {
		return e
	}
	e := &Entity{ID: id, Kind: kind, Label: label, Pseudo: true, SinceMs: s.now, metrics: &numbers{}}
	if kind == topology.KindUnmanaged {
		s.unmanaged++
	}
	s.byID[id] = e
	s.touch(e, ChangedBody|ChangedPlace)
	return e
}

// isShared reports whether an address is of 100.64.0.0/10, which providers and overlays use inside.
func isShared(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	b := a.As4()
	return b[0] == 100 && b[1]&0xc0 == 64
}
