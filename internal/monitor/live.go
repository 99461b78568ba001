package monitor

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/monitor/view"
	"github.com/orchestrator/orchestrator/internal/topology"
)

const (
	maxSockets = 2000
	maxSubs    = 16
	maxWatched = 50
	pingEvery  = 20 * time.Second
	// writeTimeout is how long one message may take to a browser; slower ones are disconnected.
	writeTimeout = 30 * time.Second
)

// liveConn is one page's socket. The reader goroutine changes the subscriptions; the writer sends.
type liveConn struct {
	m    *Monitor
	conn *websocket.Conn

	mu     sync.Mutex
	subs   map[uint64]*sub
	events uint64 // the number of the last event sent
	wantEv bool
	watch  []string
	errs   [][]byte
	wake   chan struct{}
}

type sub struct {
	id   uint64
	view *shownView
	rev  uint64
	once []byte // a replayed picture to send
}

// mustBeSocket refuses a request that opens no WebSocket. Any page can make a browser send a plain GET without an Origin, so nothing may be begun for one.
func mustBeSocket(r *http.Request) error {
	for name, want := range map[string]string{"Connection": "upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"} {
		if !slices.ContainsFunc(r.Header.Values(name), func(list string) bool {
			return slices.ContainsFunc(strings.Split(list, ","), func(v string) bool { return strings.EqualFold(strings.TrimSpace(v), want) })
		}) {
			return fail("bad_request", "this is a WebSocket, and the request opens none", "")
		}
	}
	return nil
}

// accept opens a WebSocket for a page.
func (m *Monitor) accept(w http.ResponseWriter, r *http.Request) (*websocket.Conn, error) {
	if err := mustBeSocket(r); err != nil {
		return nil, err
	}
	if m.sockets.Add(1) > maxSockets {
		m.sockets.Add(-1)
		return nil, &apiError{Code: "too_many", Message: "too many connections are open", retry: 10}
	}
	// The origin was checked by allow.
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		m.sockets.Add(-1)
		return nil, nil //nolint:nilnil,nilerr // answered already
	}
	return conn, nil
}

func (m *Monitor) live(w http.ResponseWriter, r *http.Request, _ identity) error {
	conn, err := m.accept(w, r)
	if conn == nil {
		return err
	}
	defer m.sockets.Add(-1)
	defer conn.CloseNow()
	conn.SetReadLimit(256 << 10)
	ctx, stop := m.streamContext(r)
	defer stop()
	c := &liveConn{m: m, conn: conn, subs: map[uint64]*sub{}, wake: make(chan struct{}, 1)}
	defer c.close()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		defer stop()
		c.writer(ctx)
	})
	for {
		kind, data, err := conn.Read(ctx)
		if err != nil {
			return nil
		}
		if kind != websocket.MessageText {
			_ = conn.Close(websocket.StatusUnsupportedData, "messages are JSON text")
			return nil
		}
		c.handle(data)
	}
}

type liveMessage struct {
	Type    string   `json:"type"`
	Sub     uint64   `json:"sub"`
	View    string   `json:"view"`
	IDs     []string `json:"ids"`
	On      bool     `json:"on"`
	Options struct {
		view.Spec
		At int64 `json:"at"`
	} `json:"options"`
}

func (c *liveConn) handle(data []byte) {
	var msg liveMessage
	if err := json.Unmarshal(data, &msg); err != nil {
		c.fail(0, fail("bad_request", "not the JSON that is expected: "+err.Error(), ""))
		return
	}
	switch msg.Type {
	case "subscribe":
		msg.Options.View = msg.View
		if err := c.subscribe(msg); err != nil {
			c.fail(msg.Sub, err)
		}
	case "unsubscribe":
		c.drop(msg.Sub)
	case "watch":
		ids := msg.IDs[:min(len(msg.IDs), maxWatched)]
		c.mu.Lock()
		c.watch = ids
		c.mu.Unlock()
		c.m.setWatch(c, ids)
	case "events":
		c.mu.Lock()
		if msg.On && !c.wantEv {
			last := c.m.events.Last()
			c.events = last - min(last, 100)
		}
		c.wantEv = msg.On
		c.mu.Unlock()
		c.m.events.Notify(c.wake, msg.On)
	default:
		c.fail(msg.Sub, fail("bad_request", "unknown type "+topology.Clean(msg.Type, 50), ""))
	}
	c.poke()
}

func (c *liveConn) poke() { wake(c.wake) }

func (c *liveConn) subscribe(msg liveMessage) error {
	c.mu.Lock()
	_, again := c.subs[msg.Sub]
	full := len(c.subs) >= maxSubs && !again
	c.mu.Unlock()
	if full {
		return fail("too_many", "at most 16 subscriptions a connection", "unsubscribe from some")
	}
	s := &sub{id: msg.Sub}
	if msg.Options.At != 0 {
		body, err := c.m.replayFrame(msg.Options.Spec, msg.Options.At)
		if err != nil {
			return err
		}
		s.once = body
	} else {
		v, err := c.m.hub.open(msg.Options.Spec, c.wake)
		if err != nil {
			return err
		}
		s.view = v
	}
	c.drop(msg.Sub)
	c.mu.Lock()
	c.subs[msg.Sub] = s
	c.mu.Unlock()
	return nil
}

func (c *liveConn) drop(id uint64) {
	c.mu.Lock()
	s := c.subs[id]
	delete(c.subs, id)
	c.mu.Unlock()
	if s != nil && s.view != nil {
		c.m.hub.close(s.view, c.wake)
	}
}

func (c *liveConn) fail(sub uint64, err error) {
	b, _ := json.Marshal(map[string]any{"type": "error", "sub": sub, "error": asAPI(err)})
	c.mu.Lock()
	if len(c.errs) < 100 {
		c.errs = append(c.errs, b)
	}
	c.mu.Unlock()
	c.poke()
}

func (c *liveConn) close() {
	c.mu.Lock()
	ids := make([]uint64, 0, len(c.subs))
	for id := range c.subs {
		ids = append(ids, id)
	}
	c.mu.Unlock()
	for _, id := range ids {
		c.drop(id)
	}
	c.m.events.Notify(c.wake, false)
	c.m.setWatch(c, nil)
}

// setWatch notes what a page watches and tells the probes.
func (m *Monitor) setWatch(c *liveConn, ids []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(ids) == 0 {
		delete(m.watchers, c)
	} else {
		m.watchers[c] = ids
	}
	m.tellWatched()
}

// tellWatched tells each probe what all pages together watch of it, unless it knows. m.mu is held.
func (m *Monitor) tellWatched() {
	byProbe := map[string][]string{}
	m.estate.Read(func(r *estate.Reader) {
		seen := map[string]bool{}
		for _, list := range m.watchers {
			for _, id := range list {
				if e := r.Entity(id); e != nil && e.Probe() != nil && !seen[id] {
					seen[id] = true
					byProbe[e.Probe().ID] = append(byProbe[e.Probe().ID], id)
				}
			}
		}
	})
	m.probes.watch(byProbe)
}

// keepWatching tells probes that have connected since, and those of nodes that have come since.
func (m *Monitor) keepWatching(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			m.mu.Lock()
			m.tellWatched()
			m.mu.Unlock()
		}
	}
}

func (c *liveConn) write(ctx context.Context, data []byte, bin bool) error {
	kind := websocket.MessageText
	if bin {
		kind = websocket.MessageBinary
	}
	ctx, stop := context.WithTimeout(ctx, writeTimeout)
	defer stop()
	return c.conn.Write(ctx, kind, data)
}

// writeJSON sends any message, compressed when it is large.
func (c *liveConn) writeJSON(ctx context.Context, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) <= gzipAbove {
		return c.write(ctx, b, false)
	}
	var buf bytes.Buffer
	w, _ := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	_, _ = w.Write(b)
	_ = w.Close()
	return c.write(ctx, buf.Bytes(), true)
}

// writer sends whatever is due, then waits for the next thing to become due.
func (c *liveConn) writer(ctx context.Context) {
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		c.mu.Lock()
		subs := make([]*sub, 0, len(c.subs))
		for _, s := range c.subs {
			subs = append(subs, s)
		}
		errs := c.errs
		c.errs = nil
		wantEv, from, watch := c.wantEv, c.events, c.watch
		c.mu.Unlock()
		for _, b := range errs {
			if c.write(ctx, b, false) != nil {
				return
			}
		}
		for _, s := range subs {
			if s.once != nil {
				data, bin := c.m.hub.pack.encode(0, s.once).message("frame", s.id)
				s.once = nil
				if c.write(ctx, data, bin) != nil {
					return
				}
			}
			if s.view == nil {
				continue
			}
			list, whole := s.view.next(s.rev)
			for _, e := range list {
				kind := "diff"
				if whole {
					kind = "frame"
				}
				data, bin := e.message(kind, s.id)
				if c.write(ctx, data, bin) != nil {
					return
				}
				s.rev = e.rev
			}
		}
		if wantEv {
			list := c.m.events.After(from, 200)
			if len(list) > 0 {
				if c.writeJSON(ctx, map[string]any{"type": "events", "events": list}) != nil {
					return
				}
				c.mu.Lock()
				c.events = list[len(list)-1].Seq
				c.mu.Unlock()
				continue
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-ping.C:
			pctx, stop := context.WithTimeout(ctx, writeTimeout)
			err := c.conn.Ping(pctx)
			stop()
			if err != nil {
				return
			}
		case <-second.C:
			if len(watch) > 0 {
				if msg := c.series(watch); msg != nil && c.writeJSON(ctx, msg) != nil {
					return
				}
			}
		}
	}
}

// series is the message with the newest values of the watched nodes.
func (c *liveConn) series(ids []string) map[string]any {
	values := map[string]map[string]float32{}
	c.m.estate.Read(func(r *estate.Reader) {
		for _, id := range ids {
			e := r.Entity(id)
			if e == nil || e.Stale {
				continue
			}
			row := map[string]float32{}
			for _, name := range e.MetricNames() {
				if v, ok := e.Number(name); ok {
					row[name] = float32(v)
				}
			}
			values[id] = row
		}
	})
	if len(values) == 0 {
		return nil
	}
	return map[string]any{"type": "series", "at": c.m.hub.now().UnixMilli(), "values": values}
}
