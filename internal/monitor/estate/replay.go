package estate

import (
	"sort"
	"sync"
)

// Recorder keeps the last hour of the estate: a key frame every five minutes and each change in between. Both hold pointers to
// frozen copies which they share, so an estate in which little happens costs little.
type Recorder struct {
	mu       sync.Mutex
	entities map[*Entity]*frozen
	edges    map[*Edge]*frozenEdge
	log      []recorded
	keys     []keyFrame
	lastKey  int64
	first    int64
	last     int64
}

// Bounds of a recording.
const (
	replaySpan   = 3600_000
	keyEvery     = 300_000
	maxRecorded  = 1_000_000
	replayMillis = 1000
)

type frozen struct {
	Entity
	from *Entity // whose metrics are looked up
}

type frozenEdge struct {
	src, dst *Entity
	port     uint16
	udp      bool
	conns    uint32
	fail     float32
	tx, rx   float32
	rtt      uint32
	evidence uint8
}

type recorded struct {
	at       int64
	entity   *Entity
	frozen   *frozen // nil: gone
	edge     *Edge
	edgeCopy *frozenEdge // nil: gone
}

type keyFrame struct {
	at       int64
	entities map[*Entity]*frozen
	edges    map[*Edge]*frozenEdge
}

// NewRecorder makes an empty recording.
func NewRecorder() *Recorder {
	return &Recorder{entities: map[*Entity]*frozen{}, edges: map[*Edge]*frozenEdge{}}
}

// Record takes what a flush found. It is called inside Flush.
func (r *Recorder) Record(c Changes, at int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.first == 0 {
		r.first = at
	}
	r.last = at
	for i, e := range c.Entities {
		if c.What[i]&(ChangedBody|ChangedPlace) == 0 && !e.gone {
			continue
		}
		if e.gone {
			delete(r.entities, e)
			r.log = append(r.log, recorded{at: at, entity: e})
			continue
		}
		f := &frozen{from: e}
		f.ID, f.Kind, f.Label, f.State, f.StartedMs, f.SinceMs, f.ExitCode = e.ID, e.Kind, e.Label, e.State, e.StartedMs, e.SinceMs, e.ExitCode
		f.Parents, f.Attrs, f.Health, f.Reasons, f.Stale, f.Pseudo = e.Parents, e.Attrs, e.Health, e.Reasons, e.Stale, e.Pseudo
		r.entities[e] = f
		r.log = append(r.log, recorded{at: at, entity: e, frozen: f})
	}
	for _, b := range c.Edges {
		was := r.edges[b]
		if b.gone {
			if was != nil {
				delete(r.edges, b)
				r.log = append(r.log, recorded{at: at, edge: b})
			}
			continue
		}
		// Rates move all the time; what counts is who talks to whom, about how much, and whether it fails.
		if was != nil && magnitude(was.conns) == magnitude(b.Conns) && (was.fail > 0) == (b.Fail > 0) && was.evidence == b.Evidence {
			continue
		}
		f := &frozenEdge{b.Src, b.Dst, b.Port, b.UDP, b.Conns, b.Fail, b.Tx, b.Rx, b.RTTMicros, b.Evidence}
		r.edges[b] = f
		r.log = append(r.log, recorded{at: at, edge: b, edgeCopy: f})
	}
	if at-r.lastKey >= keyEvery {
		r.lastKey = at
		k := keyFrame{at: at, entities: make(map[*Entity]*frozen, len(r.entities)), edges: make(map[*Edge]*frozenEdge, len(r.edges))}
		for e, f := range r.entities {
			k.entities[e] = f
		}
		for b, f := range r.edges {
			k.edges[b] = f
		}
		r.keys = append(r.keys, k)
	}
	r.trim(at)
}

func magnitude(n uint32) int {
	m := 0
	for ; n > 0; n >>= 1 {
		m++
	}
	return m
}

// trim forgets what is older than the span, and, when too much happens, the oldest of what is within it.
func (r *Recorder) trim(at int64) {
	for len(r.keys) > 1 && (r.keys[1].at <= at-replaySpan || len(r.log) > maxRecorded) {
		next := r.keys[1].at
		r.keys = append([]keyFrame(nil), r.keys[1:]...)
		i := sort.Search(len(r.log), func(i int) bool { return r.log[i].at > next })
		r.log = append([]recorded(nil), r.log[i:]...)
		r.first = next
		if len(r.log) <= maxRecorded && r.keys[0].at > at-replaySpan {
			break
		}
	}
	if len(r.log) > 2*maxRecorded { // one key frame and a storm: begin anew
		r.log, r.keys, r.lastKey, r.first = nil, nil, 0, at
	}
}

// Span tells from when to when can be replayed.
func (r *Recorder) Span() (from, to int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first, r.last
}

// At makes an estate as it was at a time. Its metrics are read from the living estate's rings, so it is used inside that
// one's Read. ok is false when the time is not recorded.
func (r *Recorder) At(ms int64) (past *Estate, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.first == 0 || ms < r.first || ms > r.last+replayMillis {
		return nil, false
	}
	entities, edges := map[*Entity]*frozen{}, map[*Edge]*frozenEdge{}
	from := int64(-1)
	for i := len(r.keys) - 1; i >= 0; i-- {
		if r.keys[i].at <= ms {
			for e, f := range r.keys[i].entities {
				entities[e] = f
			}
			for b, f := range r.keys[i].edges {
				edges[b] = f
			}
			from = r.keys[i].at
			break
		}
	}
	for _, rec := range r.log {
		if rec.at <= from {
			continue
		}
		if rec.at > ms {
			break
		}
		switch {
		case rec.frozen != nil:
			entities[rec.entity] = rec.frozen
		case rec.entity != nil:
			delete(entities, rec.entity)
		case rec.edgeCopy != nil:
			edges[rec.edge] = rec.edgeCopy
		default:
			delete(edges, rec.edge)
		}
	}
	return thaw(entities, edges), true
}

func thaw(entities map[*Entity]*frozen, edges map[*Edge]*frozenEdge) *Estate {
	s := New(nil)
	twin := make(map[*Entity]*Entity, len(entities))
	for key, f := range entities {
		e := &Entity{
			ID: f.ID, Kind: f.Kind, Label: f.Label, State: f.State, StartedMs: f.StartedMs, SinceMs: f.SinceMs, ExitCode: f.ExitCode,
			Parents: f.Parents, Attrs: f.Attrs, Health: f.Health, Reasons: f.Reasons, Stale: f.Stale, Pseudo: f.Pseudo, metrics: f.from.metrics,
		}
		twin[key] = e
		s.byID[e.ID] = e
		s.counts[e.Kind]++
	}
	for _, e := range s.byID {
		for _, id := range e.Parents {
			if p := s.byID[id]; p != nil {
				s.link(e, p)
			}
		}
	}
	for _, f := range edges {
		src, dst := twin[f.src], twin[f.dst]
		if src == nil || dst == nil {
			continue
		}
		b := &Edge{Src: src, Dst: dst, Port: f.port, UDP: f.udp, Conns: f.conns, Fail: f.fail, Tx: f.tx, Rx: f.rx, RTTMicros: f.rtt, Evidence: f.evidence}
		b.key = edgeKey{src, dst, f.port, f.udp}
		s.edges[b.key] = b
		for _, e := range []*Entity{src, dst} {
			if e.bases == nil {
				e.bases = map[*Edge]struct{}{}
			}
			e.bases[b] = struct{}{}
		}
	}
	return s
}
