package estate

import (
	"cmp"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"sync"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/monitor/series"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// Limits over all probes. One probe may tell of as much as one frame may hold (package topology); what is more is left out.
const (
	MaxEntities  = 1_000_000
	maxUnmanaged = 500
	maxMetrics   = 64 // per entity
)

// Probe is what the estate holds of one probe.
type Probe struct {
	ID, Instance string
	Hostname     string
	Seq          uint64
	Lost         bool

	entities  map[uint32]*Entity // all that it tells of, also what another one tells of since
	halves    map[uint32]*half
	listeners map[uint32]*listener
	shown     shown
	stale     bool
}

// Estate is the picture. See the package's comment.
type Estate struct {
	mu         sync.RWMutex
	byID       map[string]*Entity
	counts     map[string]int // by kind
	probes     map[string]*Probe
	edges      map[edgeKey]*Edge
	matches    map[uint64]*match // by the key's hash: the keys themselves would lie there a second time
	seed       maphash.Seed
	hashed     uint64                  // the bits of a hash that count: all but in tests
	listeners  map[listenKey]*listener // the first of each list
	owners     map[netip.Addr]map[*Entity]struct{}
	byRemote   map[netip.Addr]map[*half]struct{}
	waiting    map[string]map[*Entity]struct{} // children by the id of a parent that is not known yet
	moved      map[*Entity]struct{}            // are in another container since the last flush, or in none any more
	others     map[*Entity][]teller            // of what several probes tell: all but the one whose words count
	unmanaged  int
	text, aged map[string]string // interned: of late, and before
	templates  map[string]topology.Metric

	dirtyHalves   []*half
	dirtyEntities []*Entity
	dirtyEdges    []*Edge
	now           int64
	events        *Events
}

// New makes an empty estate that tells its events to ev.
func New(ev *Events) *Estate {
	return &Estate{
		byID: map[string]*Entity{}, counts: map[string]int{}, probes: map[string]*Probe{}, edges: map[edgeKey]*Edge{}, matches: map[uint64]*match{}, seed: maphash.MakeSeed(), hashed: ^uint64(0),
		listeners: map[listenKey]*listener{}, owners: map[netip.Addr]map[*Entity]struct{}{}, byRemote: map[netip.Addr]map[*half]struct{}{},
		waiting: map[string]map[*Entity]struct{}{}, moved: map[*Entity]struct{}{}, others: map[*Entity][]teller{}, text: map[string]string{}, aged: map[string]string{}, templates: map[string]topology.Metric{}, events: ev,
	}
}

// maxInterned is how many texts are remembered twice over.
const maxInterned = 16_384

// intern keeps one copy of texts that repeat over many entities. Most do not (ids, addresses), so what has not been met again for
// a while is forgotten: that costs another copy at worst, and nothing is kept for what has long gone.
func (s *Estate) intern(t string) string {
	if len(t) > 200 {
		return strings.Clone(t)
	}
	if v, ok := s.text[t]; ok {
		return v
	}
	v, ok := s.aged[t]
	if !ok {
		v = strings.Clone(t)
	}
	if len(s.text) >= maxInterned {
		s.text, s.aged = s.aged, s.text
		clear(s.text)
	}
	s.text[v] = v
	return v
}

// Hello registers a probe's connection and says which of its deltas are known: 0 means that a snapshot is needed.
func (s *Estate) Hello(id, instance, hostname string, first, last uint64) (have uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.probes[id]
	if p == nil {
		p = &Probe{ID: id}
		p.reset()
		s.probes[id] = p
	}
	known := p.Instance == instance && p.Seq > 0 && p.Seq <= last && (p.Seq == last || first > 0 && first <= p.Seq+1)
	p.Instance, p.Hostname, p.Lost = instance, hostname, false
	if !known {
		// What is held stays on the map until the snapshot says what is true now.
		p.Seq = 0
		return 0
	}
	s.setStale(p, false)
	return p.Seq
}

func (p *Probe) reset() {
	p.entities, p.halves, p.listeners = map[uint32]*Entity{}, map[uint32]*half{}, map[uint32]*listener{}
}

// Apply takes a delta. ok is false when one is missing before it: a snapshot is needed.
func (s *Estate) Apply(id string, d *probev1.Delta, nowMs int64) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = nowMs
	p := s.probes[id]
	if p == nil {
		return false
	}
	var old Probe
	if d.Snapshot {
		old = *p
		p.reset()
	} else if d.Seq != p.Seq+1 || p.Seq == 0 {
		return false
	}
	p.Seq = d.Seq
	if d.Snapshot || len(d.Templates) > 0 {
		s.takeTemplates(p, d.Templates)
	}
	for _, e := range d.Entities {
		s.putEntity(p, e, d.Snapshot)
	}
	for _, l := range d.Listeners {
		s.putListener(p, l)
	}
	for _, e := range d.Edges {
		s.putHalf(p, e)
	}
	for _, ref := range d.GoneEdges {
		if h := p.halves[ref]; h != nil {
			delete(p.halves, ref)
			s.dropHalf(h)
		}
	}
	for _, ref := range d.GoneListeners {
		if l := p.listeners[ref]; l != nil {
			delete(p.listeners, ref)
			s.dropListener(l)
		}
	}
	for _, ref := range d.GoneEntities {
		if e := p.entities[ref]; e != nil {
			delete(p.entities, ref)
			s.untell(p, ref, e)
		}
	}
	if d.Snapshot {
		for _, h := range old.halves {
			s.dropHalf(h)
		}
		for _, l := range old.listeners {
			s.dropListener(l)
		}
		for ref, e := range old.entities {
			if p.entities[ref] != e { // else it has the same number again
				s.untell(p, ref, e)
			}
		}
		s.setStale(p, false)
	}
	return true
}

// touch notes that something of an entity has changed.
func (s *Estate) touch(e *Entity, c Change) {
	if e.dirty == 0 {
		s.dirtyEntities = append(s.dirtyEntities, e)
	}
	e.dirty |= c
}

func (s *Estate) putEntity(p *Probe, in *probev1.Entity, snapshot bool) {
	e := s.byID[in.Id]
	was := p.entities[in.Ref]
	if was == nil && len(p.entities) >= topology.MaxEntities {
		return
	}
	if was != nil && was != e { // against the protocol: nobody could take it back
		s.untell(p, in.Ref, was)
	}
	fresh := e == nil
	if fresh {
		if len(s.byID) >= MaxEntities {
			return
		}
		e = &Entity{ID: strings.Clone(in.Id), Kind: s.intern(in.Kind), SinceMs: s.now, metrics: &numbers{}}
		s.byID[e.ID] = e
		s.counts[e.Kind]++
	}
	taken := !fresh && e.probe != p // from a probe that told of it before, and may be lost
	if taken {
		s.yield(e, p)
	}
	e.probe, e.ref = p, in.Ref
	p.entities[in.Ref] = e
	if (snapshot || taken) && e.Stale {
		e.Stale = false
	}
	s.say(e, s.hear(e, in), fresh)
}

func (s *Estate) setParents(e *Entity, ids []string) {
	s.unlink(e)
	e.Parents = make([]string, len(ids))
	for i, id := range ids {
		if parent := s.byID[id]; parent != nil {
			e.Parents[i] = parent.ID
			s.link(e, parent)
			continue
		}
		e.Parents[i] = s.intern(id)
		if s.waiting[e.Parents[i]] == nil {
			s.waiting[e.Parents[i]] = map[*Entity]struct{}{}
		}
		s.waiting[e.Parents[i]][e] = struct{}{}
	}
}

func (s *Estate) link(e, parent *Entity) {
	e.parents = append(e.parents, parent)
	if parent.children == nil {
		parent.children = map[*Entity]struct{}{}
	}
	parent.children[e] = struct{}{}
	s.touchAround(e)
}

// touchAround notes that what an entity with connections is in has others inside now.
func (s *Estate) touchAround(e *Entity) {
	if len(e.bases) == 0 {
		return
	}
	e.Ancestors(func(p *Entity) bool {
		s.touch(p, ChangedNumbers)
		return true
	})
}

// unlink takes an entity out of its parents' lists.
func (s *Estate) unlink(e *Entity) {
	s.touchAround(e)
	for _, parent := range e.parents {
		delete(parent.children, e)
	}
	e.parents = nil
	for _, id := range e.Parents {
		if set := s.waiting[id]; set != nil {
			delete(set, e)
			if len(set) == 0 {
				delete(s.waiting, id)
			}
		}
	}
}

func (s *Estate) removeEntity(e *Entity) {
	if e.gone {
		return
	}
	e.gone = true
	delete(s.others, e)
	if s.byID[e.ID] == e {
		delete(s.byID, e.ID)
		if !e.Pseudo { // which are not counted
			s.counts[e.Kind]--
		}
	}
	s.unlink(e)
	for c := range e.children {
		c.parents = slices.DeleteFunc(c.parents, func(p *Entity) bool { return p == e })
		if s.waiting[e.ID] == nil {
			s.waiting[e.ID] = map[*Entity]struct{}{}
		}
		s.waiting[e.ID][c] = struct{}{}
		s.touch(c, ChangedPlace)
		s.moved[c] = struct{}{}
	}
	e.children = nil
	s.own(e, e.Attr(topology.AttrAddrs), false)
	// Halves that lead to it are resolved again; those of its own probe go with the delta that removes it.
	for b := range e.bases {
		for _, h := range b.halves {
			if h.src == e || h.dst == e {
				s.dropHalf(h)
			} else {
				s.redo(h)
			}
		}
	}
	s.touch(e, ChangedBody)
	if !e.Pseudo {
		s.tell(e, "gone", e.State, "", "")
	}
}

// own makes an entity the owner of its addresses, or not any more.
func (s *Estate) own(e *Entity, addrs string, yes bool) {
	if e.Kind != topology.KindHost && e.Kind != topology.KindContainer && e.Kind != topology.KindPod {
		return
	}
	for text := range strings.FieldsSeq(addrs) {
		a, err := netip.ParseAddr(text)
		if err != nil || a.IsLoopback() {
			continue
		}
		a = a.Unmap().WithZone("")
		set := s.owners[a]
		if yes {
			if set == nil {
				set = map[*Entity]struct{}{}
				s.owners[a] = set
			}
			set[e] = struct{}{}
		} else {
			delete(set, e)
			if len(set) == 0 {
				delete(s.owners, a)
			}
		}
		s.redoRemote(a)
	}
}

func (s *Estate) redoRemote(a netip.Addr) {
	for h := range s.byRemote[a] {
		s.redo(h)
	}
}

// redo resolves a half again at the next flush.
func (s *Estate) redo(h *half) {
	if !h.dirty {
		h.dirty = true
		s.dirtyHalves = append(s.dirtyHalves, h)
	}
}

func (s *Estate) putListener(p *Probe, in *probev1.Listener) {
	if was := p.listeners[in.Ref]; was != nil {
		delete(p.listeners, in.Ref)
		s.dropListener(was)
	}
	e := p.entities[in.Entity]
	if e == nil || len(p.listeners) >= topology.MaxEntities {
		return
	}
	l := &listener{entity: e, key: listenKey{port: uint16(in.Port), udp: in.Udp}}
	if a, ok := netip.AddrFromSlice(in.Addr); ok {
		l.key.addr = a.Unmap()
	} else {
		l.key.host = topology.HostID(p.Hostname)
	}
	p.listeners[in.Ref] = l
	if l.next = s.listeners[l.key]; l.next != nil {
		l.next.prev = l
	}
	s.listeners[l.key] = l
	s.redoListener(l)
}

func (s *Estate) dropListener(l *listener) {
	switch {
	case l.prev != nil:
		l.prev.next = l.next
	case l.next != nil:
		s.listeners[l.key] = l.next
	default:
		delete(s.listeners, l.key)
	}
	if l.next != nil {
		l.next.prev = l.prev
	}
	s.redoListener(l)
}

func (s *Estate) redoListener(l *listener) {
	if l.key.addr.IsValid() {
		s.redoRemote(l.key.addr)
		return
	}
	if host := s.byID[l.key.host]; host != nil {
		for text := range strings.FieldsSeq(host.Attr(topology.AttrAddrs)) {
			if a, err := netip.ParseAddr(text); err == nil {
				s.redoRemote(a.Unmap().WithZone(""))
			}
		}
	}
}

func (s *Estate) putHalf(p *Probe, in *probev1.Edge) {
	h := p.halves[in.Ref]
	if h == nil {
		if len(p.halves) >= topology.MaxEdges {
			return
		}
		h = &half{}
		p.halves[in.Ref] = h
	} else if h.remote.IsValid() {
		s.unindex(h)
	}
	if h.forgotten {
		h.forgotten = false
	}
	h.src, h.dst = p.entities[in.Src], p.entities[in.Dst]
	h.remote = netip.Addr{}
	if h.src == nil || h.dst == nil {
		if a, ok := netip.AddrFromSlice(in.RemoteAddr); ok {
			h.remote = a.Unmap()
			if s.byRemote[h.remote] == nil {
				s.byRemote[h.remote] = map[*half]struct{}{}
			}
			s.byRemote[h.remote][h] = struct{}{}
		}
	}
	h.port, h.udp, h.conns, h.new, h.fail, h.tx, h.rx = uint16(in.Port), in.Udp, in.Conns, in.NewRate, in.FailRate, in.Tx, in.Rx
	h.rtt, h.retrans, h.seen = in.RttUs, in.Retrans, uint8(in.Seen&3)
	s.redo(h)
}

func (s *Estate) unindex(h *half) {
	if set := s.byRemote[h.remote]; set != nil {
		delete(set, h)
		if len(set) == 0 {
			delete(s.byRemote, h.remote)
		}
	}
}

func (s *Estate) dropHalf(h *half) {
	if h.forgotten {
		return
	}
	h.forgotten = true
	if h.remote.IsValid() {
		s.unindex(h)
	}
	s.redo(h)
}

// Stale greys everything that a probe reported, because nothing is heard of it, or ungreys it.
func (s *Estate) Stale(id string, stale bool, nowMs int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = nowMs
	if p := s.probes[id]; p != nil {
		s.setStale(p, stale)
	}
}

// Forget removes everything that a probe reported.
func (s *Estate) Forget(id string, nowMs int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = nowMs
	p := s.probes[id]
	if p == nil {
		return
	}
	for _, h := range p.halves {
		s.dropHalf(h)
	}
	for _, l := range p.listeners {
		s.dropListener(l)
	}
	for ref, e := range p.entities {
		s.untell(p, ref, e)
	}
	delete(s.probes, id)
}

// Metrics takes a batch of samples.
func (s *Estate) Metrics(id string, m *probev1.Metrics, nowMs int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = nowMs
	p := s.probes[id]
	if p == nil {
		return
	}
	// A sample from the future would push the last hour out of the ring.
	at := min(m.AtMs, nowMs+series.Step*1000)
	names := make([]string, len(m.Names))
	for i, n := range m.Names {
		names[i] = s.intern(n)
	}
	for i, ref := range m.Refs {
		e := p.entities[ref]
		if e == nil {
			continue
		}
		r := e.ringFor(names[m.NameIndex[i]])
		if r == nil {
			continue
		}
		r.Add(at, m.Values[i])
		s.touch(e, ChangedNumbers)
	}
}

func (e *Entity) ringFor(name string) *series.Ring {
	if r := e.Ring(name); r != nil {
		return r
	}
	slots := series.Slots
	if e.Kind == topology.KindProcess {
		slots = series.ShortSlots
	}
	return e.metrics.add(name, slots)
}

// Changes is what a flush found.
type Changes struct {
	Entities []*Entity
	What     []Change // of each entity
	Edges    []*Edge
}

// Flush resolves what has changed, judges health, and calls f with all changes since the last flush, while nothing else
// changes. f must not keep the slices.
func (s *Estate) Flush(nowMs int64, f func(Changes)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = nowMs
	s.resolveAll()
	c := Changes{Entities: s.dirtyEntities, What: make([]Change, len(s.dirtyEntities)), Edges: s.dirtyEdges}
	for i, e := range s.dirtyEntities {
		if s.judge(e) {
			e.dirty |= ChangedBody
		}
		c.What[i], e.dirty = e.dirty, 0
	}
	for _, b := range s.dirtyEdges {
		b.dirty = false
	}
	f(c)
	clear(s.dirtyEntities)
	clear(s.dirtyEdges)
	s.dirtyEntities, s.dirtyEdges = s.dirtyEntities[:0], s.dirtyEdges[:0]
}

// Dirty reports whether there is anything to flush.
func (s *Estate) Dirty() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.dirtyEntities)+len(s.dirtyHalves)+len(s.dirtyEdges) > 0
}

// Read calls f while nothing changes.
func (s *Estate) Read(f func(*Reader)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	f(&Reader{s})
}

// Reader reads a consistent picture, inside Read or Flush.
type Reader struct{ s *Estate }

// Reader gives the reader for use inside Flush.
func (s *Estate) Reader() *Reader { return &Reader{s} }

// Entity finds an entity.
func (r *Reader) Entity(id string) *Entity { return r.s.byID[id] }

// Entities calls yield with every entity.
func (r *Reader) Entities(yield func(*Entity) bool) {
	for _, e := range r.s.byID {
		if !yield(e) {
			return
		}
	}
}

// Edges calls yield with every edge.
func (r *Reader) Edges(yield func(*Edge) bool) {
	for _, b := range r.s.edges {
		if !yield(b) {
			return
		}
	}
}

// Count gives the number of entities of a kind.
func (r *Reader) Count(kind string) int { return r.s.counts[kind] }

// Counts gives the numbers of entities by kind.
func (r *Reader) Counts() map[string]int {
	out := map[string]int{}
	for k, n := range r.s.counts {
		if n > 0 {
			out[k] = n
		}
	}
	return out
}

// SeriesBytes is what the metrics of the last hour take.
func (r *Reader) SeriesBytes() (bytes int) {
	for _, e := range r.s.byID {
		bytes += e.metrics.size()
	}
	return bytes
}

// EdgeCount gives the number of edges.
func (r *Reader) EdgeCount() int { return len(r.s.edges) }

// Template tells how a metric is shown.
func (r *Reader) Template(name string) topology.Metric {
	if m, ok := topology.MetricByID(name); ok {
		return m
	}
	if m, ok := r.s.templates[name]; ok {
		return m
	}
	return topology.Metric{ID: name, Label: name, Format: topology.FormatCount}
}

// Templates lists the metrics that plugins have brought.
func (r *Reader) Templates() []topology.Metric {
	out := make([]topology.Metric, 0, len(r.s.templates))
	for _, m := range r.s.templates {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b topology.Metric) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Seq is the number of the newest delta that a probe's picture holds.
func (s *Estate) Seq(id string) uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if p := s.probes[id]; p != nil {
		return p.Seq
	}
	return 0
}
