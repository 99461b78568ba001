package probe

import (
	"hash/maphash"
	"slices"
	"sync"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// Bounds of the log of deltas: a monitor that was away for longer gets a snapshot instead.
const (
	logEntries = 256
	logBytes   = 4 << 20
)

// edgeKey is what an edge is: who talks to whom on which port, and from which side it was seen.
type edgeKey struct {
	src, dst string // entity ids; empty: the remote address
	remote   string // 4 or 16 bytes
	port     uint16
	udp      bool
}

type edge struct {
	key               edgeKey
	conns             uint32
	newRate, failRate float32
	tx, rx, retrans   float32
	rttMicros, seen   uint32
	lastActive        int64
}

type listenerKey struct {
	entity string
	addr   string
	port   uint16
	udp    bool
}

// round is everything that one assembly of the collectors' findings knows.
type round struct {
	at        int64 // ms
	entities  []*probev1.Entity
	edges     []edge
	listeners []listenerKey
	templates []*probev1.Template
}

type heldEntity struct {
	pb   *probev1.Entity
	hash uint64
	seen bool
}

type heldEdge struct {
	ref  uint32
	pb   *probev1.Edge
	sent int64
	seen bool
}

type heldListener struct {
	pb   *probev1.Listener
	seen bool
}

// logged is one delta, encoded once for all links.
type logged struct {
	seq  uint64
	data []byte
}

// hub holds what the probe last knew, numbers entities and edges, and keeps the deltas that links still have to send. The
// owner goroutine applies rounds; links read.
type hub struct {
	codec *topology.Codec
	seed  maphash.Seed

	mu       sync.Mutex
	entities map[string]*heldEntity
	edges    map[edgeKey]*heldEdge
	// mostEdges and mostEntities are how many there were at most.
	mostEdges, mostEntities int
	listeners               map[listenerKey]*heldListener
	templates               []*probev1.Template
	nextRef                 uint32
	seq                     uint64
	log                     []logged
	logSize                 int
	changed                 chan struct{} // closed and replaced with every new delta
	at                      int64
}

func newHub(codec *topology.Codec) *hub {
	return &hub{
		codec: codec, seed: maphash.MakeSeed(), entities: map[string]*heldEntity{}, edges: map[edgeKey]*heldEdge{},
		listeners: map[listenerKey]*heldListener{}, changed: make(chan struct{}),
	}
}

// apply makes the difference between the round and what is held into a delta, and logs it when there is any. It takes over
// the round's messages.
func (h *hub) apply(r *round) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = r.at
	d := &probev1.Delta{AtMs: r.at}
	for _, e := range r.entities {
		h.applyEntity(e, d)
	}
	for id, held := range h.entities {
		if !held.seen {
			d.GoneEntities = append(d.GoneEntities, held.pb.Ref)
			delete(h.entities, id)
		}
		held.seen = false
	}
	for i := range r.edges {
		h.applyEdge(&r.edges[i], r.at, d)
	}
	for key, held := range h.edges {
		if !held.seen {
			d.GoneEdges = append(d.GoneEdges, held.ref)
			delete(h.edges, key)
		}
		held.seen = false
	}
	h.edges, h.entities = slim(h.edges, &h.mostEdges), slim(h.entities, &h.mostEntities)
	for _, l := range r.listeners {
		h.applyListener(l, d)
	}
	for key, held := range h.listeners {
		if !held.seen {
			d.GoneListeners = append(d.GoneListeners, held.pb.Ref)
			delete(h.listeners, key)
		}
		held.seen = false
	}
	if !slices.EqualFunc(r.templates, h.templates, (*probev1.Template).EqualVT) {
		h.templates = r.templates
		d.Templates = r.templates
	}
	if len(d.Entities)+len(d.GoneEntities)+len(d.Edges)+len(d.GoneEdges)+len(d.Listeners)+len(d.GoneListeners)+len(d.Templates) == 0 {
		return nil
	}
	h.seq++
	d.Seq = h.seq
	data, err := h.codec.Encode(nil, &probev1.Frame{Delta: d})
	if err != nil {
		return err
	}
	h.log = append(h.log, logged{h.seq, data})
	h.logSize += len(data)
	for len(h.log) > 1 && (len(h.log) > logEntries || h.logSize > logBytes) {
		h.logSize -= len(h.log[0].data)
		h.log[0].data = nil
		h.log = h.log[1:]
	}
	close(h.changed)
	h.changed = make(chan struct{})
	return nil
}

func (h *hub) applyEntity(e *probev1.Entity, d *probev1.Delta) {
	held := h.entities[e.Id]
	if held != nil && held.seen {
		return // found twice in one round: the first one counts
	}
	if held != nil && held.pb == e {
		held.seen = true // what has not changed may be given again as it is
		return
	}
	e.Ref = 0
	raw, err := e.MarshalVT()
	if err != nil {
		return
	}
	sum := maphash.Bytes(h.seed, raw)
	if held == nil {
		h.nextRef++
		held = &heldEntity{}
		h.entities[e.Id] = held
		e.Ref = h.nextRef
	} else {
		e.Ref = held.pb.Ref
	}
	held.seen = true
	if held.pb == nil || held.hash != sum {
		d.Entities = append(d.Entities, e)
	}
	held.pb, held.hash = e, sum
}

// rateMillis is how often an edge is sent again only because its rates have moved.
const rateMillis = 3000

func (h *hub) applyEdge(e *edge, at int64, d *probev1.Delta) {
	src, dst := h.refOf(e.key.src), h.refOf(e.key.dst)
	if src == 0 && dst == 0 || (src == 0) != (e.key.src == "") || (dst == 0) != (e.key.dst == "") {
		return // an entity of it was capped away
	}
	held := h.edges[e.key]
	if held == nil {
		h.nextRef++
		held = &heldEdge{ref: h.nextRef}
		h.edges[e.key] = held
	}
	held.seen = true
	if p := held.pb; p != nil && p.Src == src && p.Dst == dst && p.Conns == e.conns && p.FailRate == e.failRate && p.Seen == e.seen &&
		(at-held.sent < rateMillis || !moved(p.Tx, e.tx) && !moved(p.Rx, e.rx) && !moved(p.NewRate, e.newRate) && !moved(float32(p.RttUs), float32(e.rttMicros))) {
		return
	}
	held.sent = at
	held.pb = &probev1.Edge{
		Ref: held.ref, Src: src, Dst: dst, Port: uint32(e.key.port), Udp: e.key.udp, Conns: e.conns, NewRate: e.newRate,
		FailRate: e.failRate, Tx: e.tx, Rx: e.rx, RttUs: e.rttMicros, Retrans: e.retrans, Seen: e.seen,
	}
	if e.key.remote != "" {
		held.pb.RemoteAddr = []byte(e.key.remote)
	}
	d.Edges = append(d.Edges, held.pb)
}

// moved reports whether a rate has changed enough to be worth a message: by a tenth, or from or to nothing.
func moved(was, is float32) bool {
	if was == 0 || is == 0 {
		return was != is
	}
	diff := was - is
	if diff < 0 {
		diff = -diff
	}
	return diff > was/10
}

func (h *hub) applyListener(l listenerKey, d *probev1.Delta) {
	ref := h.refOf(l.entity)
	if ref == 0 {
		return
	}
	held := h.listeners[l]
	if held == nil {
		h.nextRef++
		held = &heldListener{pb: &probev1.Listener{Ref: h.nextRef, Entity: ref, Port: uint32(l.port), Udp: l.udp}}
		if l.addr != "" {
			held.pb.Addr = []byte(l.addr)
		}
		h.listeners[l] = held
		d.Listeners = append(d.Listeners, held.pb)
	} else if held.pb.Entity != ref {
		held.pb = &probev1.Listener{Ref: held.pb.Ref, Entity: ref, Addr: held.pb.Addr, Port: held.pb.Port, Udp: held.pb.Udp}
		d.Listeners = append(d.Listeners, held.pb)
	}
	held.seen = true
}

func (h *hub) refOf(id string) uint32 {
	if held := h.entities[id]; held != nil {
		return held.pb.Ref
	}
	return 0
}

// snapshot encodes all that is held, with the number of the last delta in it.
func (h *hub) snapshot() (seq uint64, data []byte, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seq == 0 {
		h.seq = 1 // an empty picture is a picture too
	}
	d := &probev1.Delta{Seq: h.seq, Snapshot: true, AtMs: h.at, Templates: h.templates}
	for _, e := range h.entities {
		d.Entities = append(d.Entities, e.pb)
	}
	for _, e := range h.edges {
		if e.pb != nil {
			d.Edges = append(d.Edges, e.pb)
		}
	}
	for _, l := range h.listeners {
		d.Listeners = append(d.Listeners, l.pb)
	}
	data, err = h.codec.Encode(nil, &probev1.Frame{Delta: d})
	return h.seq, data, err
}

// after gives the logged deltas that follow seq; ok is false when they are no longer all held. wait is closed when there is
// more.
func (h *hub) after(seq uint64) (list []logged, wait <-chan struct{}, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	wait = h.changed
	if seq == h.seq {
		return nil, wait, true
	}
	if seq > h.seq || len(h.log) == 0 || h.log[0].seq > seq+1 {
		return nil, wait, false
	}
	return append(list, h.log[seq+1-h.log[0].seq:]...), wait, true
}

func (h *hub) span() (first, last uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.log) > 0 {
		first = h.log[0].seq
	}
	return first, h.seq
}

// entity finds what is held under an id.
func (h *hub) entity(id string) *probev1.Entity {
	h.mu.Lock()
	defer h.mu.Unlock()
	if held := h.entities[id]; held != nil {
		return held.pb
	}
	return nil
}
