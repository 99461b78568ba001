// Package events hands Marathon's events to those who listen: over server-sent events, and to callback URLs as Marathon up
// to 1.4 did.
//
// Called by internal/marathon, which publishes, and by its API, which serves subscribers. Invariants: an event is encoded
// once for all of its readers; publishing never waits for a reader; a reader that falls behind by more than its queue is
// cut off, so that it knows that it has missed something; the first event of a reader is its own event_stream_attached.
package events

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// Hub has the subscribers. Its methods may be called from anywhere.
type Hub struct {
	queue     int
	keepAlive time.Duration
	now       func() time.Time

	mu        sync.Mutex
	readers   map[*reader]struct{}
	callbacks map[string]*callback
	closed    bool
	dropped   int
}

// reader is one subscriber of the stream.
type reader struct {
	frames chan []byte
	types  map[string]bool // nil: all
	slow   chan struct{}   // closed when it fell behind
	once   sync.Once
}

// MaxReaders bounds the streams that are open at once.
const MaxReaders = 2000

// NewHub makes a hub whose readers may fall behind by queue events. keepAlive is how often an idle stream carries a comment.
func NewHub(queue int, keepAlive time.Duration, now func() time.Time) *Hub {
	return &Hub{queue: max(1, queue), keepAlive: keepAlive, now: now, readers: map[*reader]struct{}{}, callbacks: map[string]*callback{}}
}

// Encode is the JSON object of an event: its own fields, then eventType and timestamp.
func Encode(n core.Notice) ([]byte, error) {
	b, err := spec.Encode(n.Fields)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", n.Type, err)
	}
	if len(b) < 2 || b[0] != '{' {
		return nil, fmt.Errorf("encoding %s: its fields are no object", n.Type)
	}
	b = b[:len(b)-1]
	if len(b) > 1 {
		b = append(b, ',')
	}
	return fmt.Appendf(b, `"eventType":%q,"timestamp":%q}`, n.Type, n.At.String()), nil
}

// frame is an event as the stream carries it. Lines end in CRLF, as Jetty's do.
func frame(kind string, body []byte) []byte {
	f := make([]byte, 0, len(body)+len(kind)+24)
	f = append(f, "event: "...)
	f = append(f, kind...)
	f = append(f, "\r\ndata: "...)
	f = append(f, body...)
	return append(f, "\r\n\r\n"...)
}

// Publish gives an event to everybody who wants it.
func (h *Hub) Publish(n core.Notice) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.readers) == 0 && len(h.callbacks) == 0 {
		return nil
	}
	body, err := Encode(n)
	if err != nil {
		return err
	}
	f := frame(n.Type, body)
	for r := range h.readers {
		if r.types != nil && !r.types[n.Type] {
			continue
		}
		select {
		case r.frames <- f:
		default:
			h.dropped++
			delete(h.readers, r)
			r.cut()
		}
	}
	for _, c := range h.callbacks {
		c.offer(body)
	}
	return nil
}

func (r *reader) cut() { r.once.Do(func() { close(r.slow) }) }

// Close cuts everybody off: leadership was lost, or the process ends. The hub can be opened again.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for r := range h.readers {
		delete(h.readers, r)
		r.cut()
	}
	for url, c := range h.callbacks {
		c.stop()
		delete(h.callbacks, url)
	}
}

// Open lets readers in again.
func (h *Hub) Open() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = false
}

// Readers is how many streams are open, and how many were cut off because they were too slow.
func (h *Hub) Readers() (open, dropped int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.readers), h.dropped
}

type attached struct {
	RemoteAddress string `json:"remoteAddress"`
}

// writeTimeout is how long one write to a reader may take before it counts as gone.
const writeTimeout = 30 * time.Second

// ServeHTTP streams events until the reader goes, falls behind or the hub closes.
func (h *Hub) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	types := req.URL.Query()["event_type"]
	r := &reader{frames: make(chan []byte, h.queue), slow: make(chan struct{})}
	if len(types) > 0 {
		r.types = map[string]bool{}
		for _, t := range types {
			r.types[t] = true
		}
	}
	h.mu.Lock()
	if h.closed || len(h.readers) >= MaxReaders {
		h.mu.Unlock()
		http.Error(w, `{"message":"no more event streams can be served now"}`, http.StatusServiceUnavailable)
		return
	}
	h.readers[r] = struct{}{}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.readers, r)
		h.mu.Unlock()
		_ = h.Publish(core.Notice{Type: "event_stream_detached", At: spec.VersionOf(h.now()), Fields: attached{req.RemoteAddr}})
	}()

	w.Header().Set("Content-Type", "text/event-stream;charset=utf-8")
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	write := func(b []byte) bool {
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := w.Write(b); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	n := core.Notice{Type: "event_stream_attached", At: spec.VersionOf(h.now()), Fields: attached{req.RemoteAddr}}
	body, err := Encode(n)
	if err != nil || !write(frame(n.Type, body)) {
		return
	}
	idle := time.NewTicker(h.keepAlive)
	defer idle.Stop()
	for {
		select {
		case f := <-r.frames:
			// What has piled up goes out in one write.
			for more := true; more && len(f) < 64<<10; {
				select {
				case next := <-r.frames:
					f = append(f[:len(f):len(f)], next...)
				default:
					more = false
				}
			}
			if !write(f) {
				return
			}
		case <-idle.C:
			if !write([]byte(":\r\n")) {
				return
			}
		case <-r.slow:
			return
		case <-req.Context().Done():
			return
		}
	}
}

// callback is a URL to which every event is POSTed.
type callback struct {
	url    string
	bodies chan []byte
	cancel context.CancelFunc
}

func (c *callback) offer(b []byte) {
	select {
	case c.bodies <- b:
	default: // it doesn't read: what doesn't fit is lost to it, and to nobody else
	}
}

func (c *callback) stop() { c.cancel() }

// MaxCallbacks bounds the callback URLs.
const MaxCallbacks = 100

// Subscribe adds a callback URL. It is told until Unsubscribe or Close.
func (h *Hub) Subscribe(url string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.callbacks[url]; ok {
		return nil
	}
	if len(h.callbacks) >= MaxCallbacks {
		return fmt.Errorf("there are %d callback URLs already: use the event stream", MaxCallbacks)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &callback{url: url, bodies: make(chan []byte, h.queue), cancel: cancel}
	h.callbacks[url] = c
	go c.run(ctx)
	return nil
}

// Unsubscribe removes a callback URL and reports whether it was there.
func (h *Hub) Unsubscribe(url string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, ok := h.callbacks[url]
	if ok {
		c.stop()
		delete(h.callbacks, url)
	}
	return ok
}

// Callbacks lists the callback URLs.
func (h *Hub) Callbacks() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]string, 0, len(h.callbacks))
	for u := range h.callbacks {
		out = append(out, u)
	}
	return out
}

// callbackTimeout bounds one delivery.
const callbackTimeout = 10 * time.Second

func (c *callback) run(ctx context.Context) {
	client := &http.Client{Timeout: callbackTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	for {
		select {
		case <-ctx.Done():
			return
		case b := <-c.bodies:
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(b))
			if err != nil {
				return
			}
			req.Header.Set("Content-Type", "application/json")
			if resp, err := client.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
				resp.Body.Close()
			}
		}
	}
}
