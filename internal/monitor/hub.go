package monitor

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/monitor/view"
)

const (
	// flushEvery is the pace of the pictures: changes within it ride together.
	flushEvery = 200 * time.Millisecond
	// slowestFlush is the pace when so much changes (a thousand probes come back at once) that a flush takes long: it must not
	// keep the probes waiting for the estate.
	slowestFlush = 500 * time.Millisecond
	// firstFlush is how long the first change after a quiet time waits for others.
	firstFlush = 40 * time.Millisecond
	// maxViews bounds the pictures that are kept up to date.
	maxViews = 64
	// keptDiffs is how many differences a slow reader may be behind before it gets a whole frame.
	keptDiffs = 32
	// keptDiffBytes is what these may take: the first ones of a picture that fills are the picture itself, several times over.
	keptDiffBytes = 1 << 20
	// gzipAbove is the size from which messages are compressed.
	gzipAbove = 16 << 10
	// idleView is how long a picture that nobody looks at is kept: a reload comes back to the same places.
	idleView = 30 * time.Second
)

// hub owns the views: it keeps them up to date and encodes each change once.
type hub struct {
	estate *estate.Estate
	now    func() time.Time
	pack   packer

	mu       sync.Mutex
	views    map[string]*shownView
	onFlush  func(estate.Changes, int64)
	flushes  uint64
	spent    time.Duration
	flushing sync.Mutex
}

// shownView is a view with its readers.
type shownView struct {
	key  string
	pack *packer

	mu      sync.Mutex // guards view and what is below
	view    *view.View
	at      int64
	diffs   []encoded // of the newest revisions, oldest first
	whole   encoded   // of revision wholeOf
	have    bool
	wakes   map[chan struct{}]int // readers to wake with every revision
	readers int
	idle    time.Time
	restart uint64 // the revision at which the view was built again: earlier readers need a frame
}

// encoded is one message for all readers: the body as JSON, and compressed when that pays.
type encoded struct {
	rev  uint64
	body []byte // everything after `"sub":N,`
	flat []byte // raw deflate of body
}

func newHub(e *estate.Estate, now func() time.Time) *hub {
	return &hub{estate: e, now: now, views: map[string]*shownView{}, onFlush: func(estate.Changes, int64) {}}
}

// run flushes the estate whenever something has changed.
func (h *hub) run(ctx context.Context) error {
	tick := time.NewTicker(firstFlush)
	defer tick.Stop()
	var last time.Time
	pace := flushEvery
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if now.Sub(last) < pace || !h.estate.Dirty() {
				continue
			}
			last = now
			h.flush()
			pace = min(max(flushEvery, 2*time.Since(now)), slowestFlush)
		}
	}
}

// flush brings every view up to date.
func (h *hub) flush() {
	h.flushing.Lock()
	defer h.flushing.Unlock()
	began := time.Now()
	now := h.now()
	at := now.UnixMilli()
	h.mu.Lock()
	list := make([]*shownView, 0, len(h.views))
	for key, v := range h.views {
		if v.readers == 0 && now.Sub(v.idle) > idleView {
			delete(h.views, key)
			continue
		}
		list = append(list, v)
	}
	h.mu.Unlock()
	rebuilt := map[*shownView]bool{}
	h.estate.Flush(at, func(c estate.Changes) {
		h.onFlush(c, at)
		for _, v := range list {
			v.mu.Lock()
			if r := h.estate.Reader(); v.view.Stale(r) {
				v.view.Build(r)
				rebuilt[v] = true
			} else {
				v.view.Update(c)
			}
			v.view.Settle()
			v.mu.Unlock()
		}
	})
	for _, v := range list {
		v.publish(at, rebuilt[v])
	}
	h.mu.Lock()
	h.flushes++
	h.spent += time.Since(began)
	h.mu.Unlock()
}

// publish encodes what has changed and wakes the readers.
func (v *shownView) publish(at int64, rebuilt bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	body := v.view.Emit(at)
	if body == nil {
		return
	}
	v.at, v.have, v.whole = at, false, encoded{} // a whole picture is megabytes: it goes when it is no longer true
	rev := v.view.Rev()
	if rebuilt {
		v.diffs, v.restart = nil, rev
	}
	v.diffs = append(v.diffs, v.pack.encode(rev, body))
	size, first := 0, len(v.diffs)-1 // the newest stays in any case: most readers need just that
	for size += v.diffs[first].size(); first > 0 && len(v.diffs)-first < keptDiffs; first-- {
		if size += v.diffs[first-1].size(); size > keptDiffBytes {
			break
		}
	}
	v.diffs = slices.Delete(v.diffs, 0, first)
	for c := range v.wakes {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (e encoded) size() int { return len(e.body) + len(e.flat) }

// packer compresses messages. A compressor is larger than what it mostly compresses, so it is used again.
type packer struct{ compressors sync.Pool }

func (p *packer) encode(rev uint64, body []byte) encoded {
	if cap(body)-len(body) > gzipAbove {
		body = bytes.Clone(body) // it was made with room for the longest that it could become
	}
	e := encoded{rev: rev, body: body}
	if len(body) > gzipAbove {
		var buf bytes.Buffer
		w, _ := p.compressors.Get().(*flate.Writer)
		if w == nil {
			w, _ = flate.NewWriter(&buf, flate.BestSpeed)
		} else {
			w.Reset(&buf)
		}
		_, _ = w.Write(body)
		_ = w.Close()
		p.compressors.Put(w)
		e.flat = bytes.Clone(buf.Bytes()) // without the room that the buffer has left
	}
	return e
}

// open finds or makes the view of a spec. The caller closes it.
func (h *hub) open(spec view.Spec, wake chan struct{}) (*shownView, error) {
	key, err := spec.Key()
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	if v := h.views[key]; v != nil {
		v.join(wake)
		h.mu.Unlock()
		return v, nil
	}
	if len(h.views) >= maxViews {
		// Pictures that nobody looks at make room.
		for k, v := range h.views {
			if v.readers == 0 {
				delete(h.views, k)
				break
			}
		}
	}
	full := len(h.views) >= maxViews
	h.mu.Unlock()
	if full {
		return nil, &apiError{Code: "too_many", Message: "too many different views are open", Hint: "close some, or look at the same ones", retry: 10}
	}
	// What is pending goes into the old views first, so that the new one begins where the estate is.
	h.flush()
	h.flushing.Lock()
	defer h.flushing.Unlock()
	made, err := view.New(spec, 0)
	if err != nil {
		return nil, err
	}
	v := &shownView{key: key, pack: &h.pack, view: made, wakes: map[chan struct{}]int{}}
	at := h.now().UnixMilli()
	var others []*shownView
	h.estate.Flush(at, func(c estate.Changes) {
		h.onFlush(c, at)
		h.mu.Lock()
		for _, o := range h.views {
			others = append(others, o)
			o.mu.Lock()
			o.view.Update(c)
			o.view.Settle()
			o.mu.Unlock()
		}
		h.mu.Unlock()
		made.Build(h.estate.Reader())
		made.Settle()
	})
	for _, o := range others {
		o.publish(at, false)
	}
	made.Emit(at)
	v.at = at
	h.mu.Lock()
	defer h.mu.Unlock()
	if was := h.views[key]; was != nil { // somebody was faster
		was.join(wake)
		return was, nil
	}
	v.join(wake)
	h.views[key] = v
	return v, nil
}

// join adds a reader. The hub's lock is held.
func (v *shownView) join(wake chan struct{}) {
	v.readers++
	v.mu.Lock()
	v.wakes[wake]++
	v.mu.Unlock()
}

func (h *hub) close(v *shownView, wake chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v.readers--
	v.idle = h.now()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.wakes[wake]--; v.wakes[wake] <= 0 {
		delete(v.wakes, wake)
	}
}

// next gives what a reader that is at revision rev (0: none) needs: differences in order, or a whole frame.
func (v *shownView) next(rev uint64) (list []encoded, whole bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := v.view.Rev()
	if rev == now && rev != 0 {
		return nil, false
	}
	if rev != 0 && rev >= v.restart && len(v.diffs) > 0 && v.diffs[0].rev <= rev+1 && rev < now {
		for _, d := range v.diffs {
			if d.rev > rev {
				list = append(list, d)
			}
		}
		return list, false
	}
	if !v.have {
		v.whole = v.pack.encode(now, v.view.Frame(v.at))
		v.have = true
	}
	return []encoded{v.whole}, true
}

// message puts a message together for one subscription: text, or gzip when the body is compressed. The prefix differs by
// subscription while the compressed body is shared: it goes into a stored block before it, and the checksum runs over both.
func (e encoded) message(kind string, sub uint64) (data []byte, binaryMessage bool) {
	prefix := append([]byte(`{"type":"`), kind...)
	prefix = append(prefix, `","sub":`...)
	prefix = append(strconv.AppendUint(prefix, sub, 10), ',')
	if e.flat == nil {
		return append(prefix, e.body...), false
	}
	out := make([]byte, 0, 10+5+len(prefix)+len(e.flat)+8)
	out = append(out, 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255)
	n := uint16(len(prefix))
	out = append(out, 0) // a stored block that is not the last
	out = binary.LittleEndian.AppendUint16(out, n)
	out = binary.LittleEndian.AppendUint16(out, ^n)
	out = append(append(out, prefix...), e.flat...)
	sum := crc32.Update(crc32.ChecksumIEEE(prefix), crc32.IEEETable, e.body)
	out = binary.LittleEndian.AppendUint32(out, sum)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(prefix)+len(e.body)))
	return out, true
}

// once makes a picture that nobody follows.
func (h *hub) once(spec view.Spec) ([]byte, error) {
	made, err := view.New(spec, 0)
	if err != nil {
		return nil, err
	}
	at := h.now().UnixMilli()
	// Health and edges of what has just come are worked out by a flush.
	h.flush()
	h.estate.Read(func(r *estate.Reader) {
		made.Build(r)
		made.Settle()
	})
	made.Emit(at)
	return made.Frame(at), nil
}

func (h *hub) active() (views, readers int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.views {
		readers += v.readers
	}
	return len(h.views), readers
}
