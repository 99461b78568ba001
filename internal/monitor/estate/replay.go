package estate

import (
	"cmp"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Recorder keeps the last hour of an estate as bytes: parts of five minutes, each of which begins with everything that was
// there and goes on with each change. What a change costs is a dozen bytes before they are compressed, so an hour of a
// thousand connections a second that come and go is kept as it is; the code is in replaycode.go.
//
// A part keeps no entity or edge alive, only the metrics of its entities: they are read from the living rings.
type Recorder struct {
	estate *Estate
	enc    *zstd.Encoder
	dec    *zstd.Decoder
	limit  int // bytes

	mu    sync.Mutex
	parts []*part // oldest first; the last one is being written
	w     partWriter
	first int64
	last  int64
}

// Bounds of a recording.
const (
	replaySpan   = 3600_000
	keyEvery     = 300_000
	replayMillis = 1000
	// maxRecording is what an hour may take. When more happens the oldest goes first, an eighth at a time.
	maxRecording = 64 << 20
	// packAbove is how much of a part is written before it is compressed.
	packAbove = 256 << 10
)

// part is what happened from one time to the beginning of the next part.
type part struct {
	from   int64
	blocks [][]byte   // compressed
	size   int        // of the blocks
	rings  []*numbers // of each entity, by its number in this part
}

func (p *part) bytes() int { return p.size + 8*len(p.rings) }

// NewRecorder makes an empty recording of an estate.
func NewRecorder(s *Estate) *Recorder {
	// Neither starts goroutines: whole blocks are coded by whoever asks.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(packAbove), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // constant options
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(err)
	}
	return &Recorder{estate: s, enc: enc, dec: dec, limit: maxRecording}
}

// Record takes what a flush found. It is called inside Flush.
func (r *Recorder) Record(c Changes, at int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at = max(at, r.last) // a clock that was set back does not unmake what is recorded
	r.last = at
	if n := len(r.parts); n == 0 || at-r.parts[n-1].from >= keyEvery || r.parts[n-1].size+len(r.w.raw) > r.limit/8 {
		r.begin(at) // takes everything as it is now, and with it what has changed
	} else {
		r.w.changes(c, at)
	}
	if len(r.w.raw) > packAbove {
		r.pack()
	}
	r.trim(at)
}

// begin ends a part and begins the next one.
func (r *Recorder) begin(at int64) {
	if len(r.parts) > 0 {
		r.pack()
		last := r.parts[len(r.parts)-1]
		last.rings = slices.Clone(r.w.rings)
	}
	r.parts = append(r.parts, &part{from: at})
	r.w.begin(at)
	// What belongs together (the containers of a host, the edges of a client) gets numbers that are close, which are short.
	list := make([]*Entity, 0, len(r.estate.byID))
	for _, e := range r.estate.byID {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *Entity) int { return cmp.Compare(a.ID, b.ID) })
	for _, e := range list {
		r.w.entity(e)
		if len(r.w.raw) > packAbove {
			r.pack()
		}
	}
	var edges []*Edge
	for _, e := range list {
		edges = edges[:0]
		for b := range e.bases {
			if b.Src == e {
				edges = append(edges, b)
			}
		}
		slices.SortFunc(edges, byEnds)
		for _, b := range edges {
			r.w.edge(b)
		}
		if len(r.w.raw) > packAbove {
			r.pack()
		}
	}
}

// pack compresses what was written.
func (r *Recorder) pack() {
	p := r.parts[len(r.parts)-1]
	if len(r.w.raw) > 0 {
		block := slices.Clone(r.enc.EncodeAll(r.w.raw, nil)) // the encoder leaves room behind it
		p.blocks, p.size = append(p.blocks, block), p.size+len(block)
		r.w.raw = r.w.raw[:0]
	}
	p.rings = r.w.rings
}

// trim forgets what is older than the span, and, when too much happens, the oldest of what is within it.
func (r *Recorder) trim(at int64) {
	size := 0
	for _, p := range r.parts {
		size += p.bytes()
	}
	for len(r.parts) > 1 && (r.parts[1].from <= at-replaySpan || size > r.limit) {
		size -= r.parts[0].bytes()
		r.parts = slices.Delete(r.parts, 0, 1)
	}
	r.first = r.parts[0].from
}

// Span tells from when to when can be replayed.
func (r *Recorder) Span() (from, to int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first, r.last
}

// Size tells how many bytes the recording takes.
func (r *Recorder) Size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	size := cap(r.w.raw)
	for _, p := range r.parts {
		size += p.bytes()
	}
	return size
}

// At makes an estate as it was at a time. Its metrics are read from the living estate's rings, so it is used inside that
// one's Read. ok is false when the time is not recorded.
func (r *Recorder) At(ms int64) (past *Estate, ok bool) {
	r.mu.Lock()
	if r.first == 0 || ms < r.first || ms > r.last+replayMillis {
		r.mu.Unlock()
		return nil, false
	}
	i := len(r.parts) - 1
	for r.parts[i].from > ms {
		i--
	}
	p := *r.parts[i]
	var raw []byte
	if i == len(r.parts)-1 {
		raw, p.rings = slices.Clone(r.w.raw), r.w.rings
	}
	r.mu.Unlock()

	// What is written is never changed: the rest needs no lock.
	reader := partReader{until: ms, at: p.from, from: p.from}
	var buf []byte
	for _, block := range p.blocks {
		var err error
		if buf, err = r.dec.DecodeAll(block, buf[:0]); err != nil {
			return nil, false
		}
		if !reader.read(buf) {
			return reader.thaw(p.rings), true
		}
	}
	reader.read(raw)
	return reader.thaw(p.rings), true
}
