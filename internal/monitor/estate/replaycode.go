package estate

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

// A part of a recording is a list of records. The low two bits of the first byte tell what a record is:
//
//	time    how many milliseconds later what follows happened
//	entity  everything that is told of one, under its number
//	edge    what is told of one, under its number; when it is new, also from where to where
//	gone    an entity or an edge
//
// Numbers are varints. Entities are numbered in the order in which a part first tells of them. An edge's number is free again
// when it has gone, and the one that is free for longest is taken next, so that those of edges that come together stay together.
// Numbers of edges and of their ends are written as distances: an edge's from the one written before, its source from that of the
// new edge before, its destination from its source. A text is written where it is first used and
// has a number from then on.
const (
	recTime = iota
	recEntity
	recEdge
	recGone

	recBits = 3
	// Of an edge.
	edgeFresh = 1 << 2 // ends and port follow
	edgeUDP   = 1 << 3
	edgeRates = 1 << 6 // rates follow
	// evidence is in the two bits between.
	edgeEvidence = 4
	// goneEdge makes a record of kind gone one of an edge.
	goneEdge = 1 << 2

	entityStale  = 1 << 0
	entityPseudo = 1 << 1
	entityHealth = 2 // the bits above
)

// place is where an entity or an edge stands in the recording: in which part, and under which number there.
type place struct{ part, number uint32 }

// edgeTold is what was last recorded of an edge, as far as it decides whether a change is worth a record.
type edgeTold struct {
	conns, evidence uint8
	fails           bool
}

func (b *Edge) tell() edgeTold {
	return edgeTold{conns: uint8(bits.Len32(b.Conns)), evidence: b.Evidence, fails: b.Fail > 0}
}

// partWriter writes the records of one part after another.
type partWriter struct {
	part  uint32 // its number, from 1
	from  int64
	at    int64
	raw   []byte
	texts map[string]uint32
	rings []*numbers
	edges uint32   // how many numbers edges have taken
	free  []uint32 // of these, those that are free again, in the order in which they became so
	near  uint32   // the edge written last
	src   uint32   // the source of the new edge written last

	went, fresh, other []*Edge // of a flush, for a moment
}

func (w *partWriter) begin(at int64) {
	w.part++
	w.from, w.at, w.raw = at, at, w.raw[:0]
	w.texts = make(map[string]uint32, len(w.texts))
	w.rings = make([]*numbers, 0, len(w.rings))
	w.edges, w.free, w.near, w.src = 0, nil, 0, 0
}

// changes writes what a flush found.
func (w *partWriter) changes(c Changes, at int64) {
	said := false
	when := func() {
		if !said {
			said = true
			w.raw = binary.AppendUvarint(append(w.raw, recTime), uint64(at-w.at))
			w.at = at
		}
	}
	for i, e := range c.Entities {
		switch {
		case e.gone:
			if e.recorded.part == w.part {
				when()
				w.raw = binary.AppendUvarint(append(w.raw, recGone), uint64(e.recorded.number))
				e.recorded = place{}
			}
		case c.What[i]&(ChangedBody|ChangedPlace) != 0:
			when()
			w.entity(e)
		}
	}
	for _, b := range c.Edges {
		here := b.recorded.part == w.part
		switch {
		case b.gone && here:
			w.went = append(w.went, b)
		case b.gone:
		case !here:
			w.fresh = append(w.fresh, b)
		// Rates move all the time; what counts is who talks to whom, about how much, and whether it fails.
		case b.told != b.tell():
			w.other = append(w.other, b)
		}
	}
	if len(w.went)+len(w.fresh)+len(w.other) == 0 {
		return
	}
	when()
	w.inOrder()
	for _, b := range w.went {
		w.raw = append(w.raw, recGone|goneEdge)
		w.edgeNumber(b.recorded.number)
		w.free = append(w.free, b.recorded.number)
		b.recorded = place{}
	}
	for _, b := range w.fresh {
		w.edge(b)
	}
	for _, b := range w.other {
		w.edge(b)
	}
	for _, list := range []*[]*Edge{&w.went, &w.fresh, &w.other} {
		clear(*list) // those that have gone are not kept alive
		*list = (*list)[:0]
	}
}

// inOrder puts what a flush found of edges in an order in which neighbours are alike. Probes are heard in any order: as it comes, a change takes half
// as much again.
func (w *partWriter) inOrder() {
	for _, list := range [][]*Edge{w.went, w.other} {
		slices.SortFunc(list, func(a, b *Edge) int { return cmp.Compare(a.recorded.number, b.recorded.number) })
	}
	slices.SortFunc(w.fresh, byEnds)
}

// byEnds compares two edges whose ends are recorded.
func byEnds(a, b *Edge) int {
	return cmp.Or(
		cmp.Compare(a.Src.recorded.number, b.Src.recorded.number), cmp.Compare(a.Dst.recorded.number, b.Dst.recorded.number), cmp.Compare(a.Port, b.Port),
	)
}

func (w *partWriter) entity(e *Entity) {
	if e.recorded.part != w.part {
		e.recorded = place{w.part, uint32(len(w.rings))}
		w.rings = append(w.rings, e.metrics)
	}
	b := binary.AppendUvarint(append(w.raw, recEntity), uint64(e.recorded.number))
	b = w.text(b, e.ID)
	b = w.text(b, e.Kind)
	b = w.text(b, e.Label)
	b = w.text(b, e.State)
	b = binary.AppendVarint(b, e.StartedMs)
	b = binary.AppendVarint(b, e.SinceMs-w.from)
	b = binary.AppendVarint(b, int64(e.ExitCode))
	flags := byte(e.Health) << entityHealth
	if e.Stale {
		flags |= entityStale
	}
	if e.Pseudo {
		flags |= entityPseudo
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(len(e.Parents)))
	for _, id := range e.Parents {
		b = w.text(b, id)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Attrs)))
	for i := range e.Attrs {
		b = w.text(b, e.Attrs[i].Key)
		b = w.text(b, e.Attrs[i].Value)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Reasons)))
	for i := range e.Reasons {
		x := &e.Reasons[i]
		b = w.text(b, x.Code)
		b = binary.AppendVarint(b, int64(x.Severity))
		b = w.text(b, x.Text)
		b = binary.AppendVarint(b, x.SinceMs-w.from)
	}
	w.raw = b
}

func (w *partWriter) text(b []byte, t string) []byte {
	if n, ok := w.texts[t]; ok {
		return binary.AppendUvarint(b, uint64(n))
	}
	w.texts[t] = uint32(len(w.texts)) + 1
	b = binary.AppendUvarint(append(b, 0), uint64(len(t)))
	return append(b, t...)
}

func (w *partWriter) edge(b *Edge) {
	op := byte(recEdge) | b.Evidence<<edgeEvidence
	fresh := b.recorded.part != w.part
	if fresh {
		op |= edgeFresh
		n := w.edges
		if len(w.free) > 0 {
			n, w.free = w.free[0], w.free[1:]
		} else {
			w.edges++
		}
		b.recorded = place{w.part, n}
		// An edge's ends are entities of the estate, and those are written before any edge.
		if b.UDP {
			op |= edgeUDP
		}
	}
	if b.Fail != 0 || b.Tx != 0 || b.Rx != 0 || b.RTTMicros != 0 {
		op |= edgeRates
	}
	w.raw = append(w.raw, op)
	w.edgeNumber(b.recorded.number)
	if fresh {
		src, dst := b.Src.recorded.number, b.Dst.recorded.number
		w.raw = binary.AppendVarint(w.raw, int64(src)-int64(w.src))
		w.raw = binary.AppendVarint(w.raw, int64(dst)-int64(src))
		w.src = src
		w.raw = binary.AppendUvarint(w.raw, uint64(b.Port))
	}
	w.raw = binary.AppendUvarint(w.raw, uint64(b.Conns))
	if op&edgeRates != 0 {
		for _, f := range [...]float32{b.Fail, b.Tx, b.Rx} {
			w.raw = binary.LittleEndian.AppendUint32(w.raw, math.Float32bits(f))
		}
		w.raw = binary.AppendUvarint(w.raw, uint64(b.RTTMicros))
	}
	b.told = b.tell()
}

func (w *partWriter) edgeNumber(n uint32) {
	w.raw = binary.AppendVarint(w.raw, int64(n)-int64(w.near))
	w.near = n
}

// partReader plays a part's records up to a time.
type partReader struct {
	from, at, until int64
	in              []byte
	texts           []string
	entities        []*Entity // by number; nil: gone
	edges           []pastEdge
	near, src       int64
}

type pastEdge struct {
	src, dst     uint32
	port         uint16
	udp, there   bool
	evidence     uint8
	conns        uint32
	fail, tx, rx float32
	rtt          uint32
}

// read plays more of the part. It reports whether what follows may still be due.
func (r *partReader) read(in []byte) bool {
	r.in = in
	for len(r.in) > 0 {
		op := r.byte()
		switch op & recBits {
		case recTime:
			if r.at += int64(r.uint()); r.at > r.until {
				return false
			}
		case recEntity:
			n := int(r.uint())
			for len(r.entities) <= n {
				r.entities = append(r.entities, nil)
			}
			r.entities[n] = r.entity()
		case recEdge:
			r.edge(op)
		case recGone:
			if op&goneEdge != 0 {
				r.edges[r.edgeNumber()].there = false
			} else {
				r.entities[r.uint()] = nil
			}
		}
	}
	return true
}

func (r *partReader) byte() byte {
	b := r.in[0]
	r.in = r.in[1:]
	return b
}

func (r *partReader) uint() uint64 {
	v, n := binary.Uvarint(r.in)
	r.in = r.in[n:]
	return v
}

func (r *partReader) int() int64 {
	v, n := binary.Varint(r.in)
	r.in = r.in[n:]
	return v
}

func (r *partReader) text() string {
	if n := r.uint(); n > 0 {
		return r.texts[n-1]
	}
	n := r.uint()
	t := string(r.in[:n])
	r.in = r.in[n:]
	r.texts = append(r.texts, t)
	return t
}

func (r *partReader) float() float32 {
	v := math.Float32frombits(binary.LittleEndian.Uint32(r.in))
	r.in = r.in[4:]
	return v
}

func (r *partReader) entity() *Entity {
	e := &Entity{ID: r.text(), Kind: r.text(), Label: r.text(), State: r.text(), StartedMs: r.int(), SinceMs: r.int() + r.from, ExitCode: int(r.int())}
	flags := r.byte()
	e.Stale, e.Pseudo, e.Health = flags&entityStale != 0, flags&entityPseudo != 0, Health(flags>>entityHealth)
	for range r.uint() {
		e.Parents = append(e.Parents, r.text())
	}
	for range r.uint() {
		e.Attrs = append(e.Attrs, Attr{Key: r.text(), Value: r.text()})
	}
	for range r.uint() {
		e.Reasons = append(e.Reasons, Reason{Code: r.text(), Severity: int(r.int()), Text: r.text(), SinceMs: r.int() + r.from})
	}
	return e
}

func (r *partReader) edgeNumber() int64 {
	r.near += r.int()
	return r.near
}

func (r *partReader) edge(op byte) {
	n := r.edgeNumber()
	for int64(len(r.edges)) <= n {
		r.edges = append(r.edges, pastEdge{})
	}
	b := &r.edges[n]
	if op&edgeFresh != 0 {
		r.src += r.int()
		*b = pastEdge{src: uint32(r.src), dst: uint32(r.src + r.int()), port: uint16(r.uint()), udp: op&edgeUDP != 0, there: true}
	}
	b.evidence = op >> edgeEvidence & 3
	b.conns, b.fail, b.tx, b.rx, b.rtt = uint32(r.uint()), 0, 0, 0, 0
	if op&edgeRates != 0 {
		b.fail, b.tx, b.rx = r.float(), r.float(), r.float()
		b.rtt = uint32(r.uint())
	}
}

// thaw makes an estate of what was there.
func (r *partReader) thaw(rings []*numbers) *Estate {
	s := New(nil)
	for n, e := range r.entities {
		if e == nil {
			continue
		}
		e.metrics = rings[n]
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
	for i := range r.edges {
		f := &r.edges[i]
		if !f.there || r.entities[f.src] == nil || r.entities[f.dst] == nil {
			continue
		}
		b := &Edge{
			Src: r.entities[f.src], Dst: r.entities[f.dst], Port: f.port, UDP: f.udp, Conns: f.conns, Fail: f.fail, Tx: f.tx, Rx: f.rx,
			RTTMicros: f.rtt, Evidence: f.evidence,
		}
		s.addEdge(b)
	}
	return s
}
