package monitor

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

const (
	staleAfter  = 3 * time.Second
	forgetAfter = 60 * time.Second
	// silentAfter is when a connection over which nothing comes is given up.
	silentAfter = 15 * time.Second
	maxProbes   = 20_000
)

// probeConn is one probe: its connection while there is one, and what is known of it.
type probeConn struct {
	id string

	mu        sync.Mutex
	hello     *probev1.Hello
	status    *probev1.Status
	state     string // connected, stale, lost
	since     time.Time
	last      time.Time
	skew      int64
	out       chan *probev1.Frame
	closed    chan struct{}
	mux       *pipe.Mux
	waiting   map[uint64]chan *probev1.Response
	watched   []string
	epoch     uint64 // of the connection
	connected time.Time
	// staleAfter is how long nothing may come from it; scope is set when it is one of Weave Scope's.
	staleAfter time.Duration
	scope      bool
}

// probeTable is all probes. Of its locks the table's is taken first, then a probe's, then the estate's: inside of Estate.Read none of them may be taken.
type probeTable struct {
	estate *estate.Estate
	codec  *topology.Codec
	events *estate.Events

	mu      sync.Mutex
	byID    map[string]*probeConn
	nextReq atomic.Uint64
	epoch   uint64
	frames  atomic.Uint64
	bytes   atomic.Uint64
	buffers sync.Pool // *bytes.Buffer of messages
}

// keptBuffer is the largest buffer that is used again: a snapshot of a large host is left to the collector.
const keptBuffer = 256 << 10

func newProbeTable(e *estate.Estate, ev *estate.Events) *probeTable {
	return &probeTable{estate: e, codec: topology.NewCodec(), events: ev, byID: map[string]*probeConn{}}
}

// metricsInterval slows the steady samples down in large estates.
func (t *probeTable) metricsInterval() uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch n := len(t.byID); {
	case n <= 50:
		return 3000
	case n <= 200:
		return 5000
	default:
		return 15_000
	}
}

// serveProbe is the endpoint that probes connect to.
func (m *Monitor) serveProbe(w http.ResponseWriter, r *http.Request) {
	id, err := m.admitProbe(r)
	if err != nil {
		m.writeError(w, err)
		return
	}
	conn, err := websocket.Accept(&smallBuffers{ResponseWriter: w}, r, &websocket.AcceptOptions{})
	if err != nil {
		return // answered already
	}
	conn.SetReadLimit(topology.MaxFrame)
	// The stream goes on after the handler: what net/http keeps for a request, and its stack, would be most of what a probe costs.
	ctx, stop := context.WithCancel(m.stopping)
	from := r.RemoteAddr
	leave := m.accounts.whileStill(id, func() {
		m.log.Info("probe disconnected: its token is not valid any more", "from", from)
		stop()
	})
	m.streams.Go(func() {
		defer stop()
		defer leave()
		defer conn.CloseNow()
		defer func() {
			if p := recover(); p != nil { // as net/http does for handlers
				m.log.Error("probe's stream panicked", "from", from, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			}
		}()
		if err := m.probes.serve(ctx, conn, m.cfg.ReplicaID); err != nil && ctx.Err() == nil {
			m.log.Info("probe disconnected", "from", from, "err", err)
			_ = conn.Close(websocket.StatusPolicyViolation, topology.Clean(err.Error(), 120))
		}
	})
}

// probeBuffer is the size of a probe connection's buffers. What probes send mostly fits; what does not is read past the buffer.
const probeBuffer = 1 << 10

// smallBuffers is a response whose connection, once taken over, has smaller buffers than net/http's two of 4 KB.
type smallBuffers struct{ http.ResponseWriter }

// Hijack takes the connection over.
func (s *smallBuffers) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(s.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	// What the other side has said already lies in the old buffer, and must lie in the new one: nobody looks behind it.
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	in := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn), max(probeBuffer, len(early)))
	if err == nil {
		_, err = in.Peek(len(early))
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, bufio.NewReadWriter(in, bufio.NewWriterSize(conn, probeBuffer)), nil
}

// admitProbe checks the probe's token or certificate. A user's token is no probe's: it can't fill the map.
func (m *Monitor) admitProbe(r *http.Request) (identity, error) {
	if r.Header.Get("Origin") != "" {
		return identity{}, fail("forbidden", "probes connect from no web page", "")
	}
	if certified(r) || m.cfg.Auth == "off" {
		return identity{probe: true}, nil
	}
	id, err := m.identify(r)
	if err != nil {
		return id, err
	}
	return id, mustBeProbe(id)
}

// certified reports whether a request comes with a certificate that counts as a probe's token.
func certified(r *http.Request) bool {
	return r.TLS != nil && len(r.TLS.VerifiedChains) > 0 && slices.Contains(r.TLS.PeerCertificates[0].ExtKeyUsage, x509.ExtKeyUsageClientAuth)
}

func mustBeProbe(id identity) error {
	if !id.probe {
		return fail("forbidden", "this token is not one of a probe", `make one: POST /api/v1/tokens {"name":"…","kind":"probe"}`)
	}
	return nil
}

func (t *probeTable) serve(ctx context.Context, conn *websocket.Conn, replica string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f, err := t.read(ctx, conn)
	if err != nil {
		return err
	}
	if f.Hello == nil {
		return errors.New("the probe did not say hello")
	}
	p, have, err := t.attach(f)
	if err != nil {
		return err
	}
	epoch := p.epoch
	defer t.detach(p, epoch)
	welcome := &probev1.Welcome{MonitorId: replica, HaveSeq: have, MetricsMs: t.metricsInterval(), NowMs: time.Now().UnixMilli()}
	if err := t.write(ctx, conn, &probev1.Frame{Welcome: welcome}); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { cancel(t.writer(ctx, conn, p, epoch)) })
	defer cancel(errors.New("closed"))
	snapshots := 0
	for {
		f, err := t.read(ctx, conn)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
		now := time.Now().UnixMilli()
		if !t.heard(p, epoch, f.Status) {
			return errors.New("another probe has connected under the same id")
		}
		if d := f.Delta; d != nil {
			if !t.estate.Apply(p.id, d, now) {
				if snapshots++; snapshots > 5 {
					return errors.New("the probe's deltas have gaps")
				}
				p.send(ctx, &probev1.Frame{Want: &probev1.Want{Reason: "a delta is missing"}})
			} else {
				snapshots = 0
			}
		}
		if f.Metrics != nil {
			t.estate.Metrics(p.id, f.Metrics, now)
		}
		for _, resp := range f.Responses {
			p.answer(resp)
		}
		for _, msg := range f.Pipes {
			p.mux.Handle(msg)
		}
	}
}

// heard notes that something has come over a connection. It reports whether that is still the probe's.
func (t *probeTable) heard(p *probeConn, epoch uint64, status *probev1.Status) bool {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.epoch != epoch {
		return false
	}
	// The estate is told before anybody else may change the state, or what is heard could be left grey.
	if p.state == "stale" {
		t.estate.Stale(p.id, false, now.UnixMilli())
	}
	p.state, p.last = "connected", now
	if status != nil {
		p.status = status
	}
	return true
}

// attach makes the connection the probe's own. An earlier one of the same id gives way.
func (t *probeTable) attach(f *probev1.Frame) (*probeConn, uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.byID[f.Hello.ProbeId]
	if p == nil {
		if len(t.byID) >= maxProbes {
			return nil, 0, fmt.Errorf("there are %d probes already", maxProbes)
		}
		p = &probeConn{id: f.Hello.ProbeId}
		t.byID[p.id] = p
	}
	t.epoch++
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	fresh := p.state != "connected"
	if p.mux != nil {
		p.mux.CloseAll(pipe.ErrClosed)
	}
	if p.closed != nil {
		close(p.closed)
	}
	p.forgetCalls()
	p.hello, p.state, p.since, p.last, p.connected = f.Hello, "connected", now, now, now
	if f.Status != nil {
		p.status = f.Status
	}
	p.skew = f.Hello.NowMs - now.UnixMilli()
	p.out, p.closed, p.waiting, p.epoch = make(chan *probev1.Frame, 64), make(chan struct{}), map[uint64]chan *probev1.Response{}, t.epoch
	out, closed := p.out, p.closed
	p.watched, p.staleAfter, p.scope = nil, staleAfter, false
	p.mux = pipe.NewMux(func(msg *probev1.Pipe) error {
		select {
		case out <- &probev1.Frame{Pipes: []*probev1.Pipe{msg}}:
			return nil
		case <-closed:
			return pipe.ErrClosed
		}
	})
	have := t.estate.Hello(p.id, f.Hello.Instance, f.Hello.Hostname, f.Hello.FirstSeq, f.Hello.LastSeq)
	if fresh {
		t.events.Add(estate.Event{At: now.UnixMilli(), ID: topology.HostID(f.Hello.Hostname), Kind: topology.KindHost, Label: f.Hello.Hostname, What: "probe", To: "connected", Text: "probe connected", Severity: 1})
	}
	return p, have, nil
}

// forgetCalls tells all who wait for an answer that none will come. p.mu is held.
func (p *probeConn) forgetCalls() {
	for id, c := range p.waiting {
		close(c)
		delete(p.waiting, id)
	}
}

func (t *probeTable) detach(p *probeConn, epoch uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.epoch != epoch {
		return
	}
	p.state, p.since = "lost", time.Now()
	close(p.closed)
	p.closed = nil
	p.mux.CloseAll(pipe.ErrClosed)
	p.forgetCalls()
	hostname := p.hello.Hostname
	now := time.Now().UnixMilli()
	t.estate.Stale(p.id, true, now)
	t.events.Add(estate.Event{At: now, ID: topology.HostID(hostname), Kind: topology.KindHost, Label: hostname, What: "probe", From: "connected", To: "lost", Text: "probe lost", Severity: 4})
}

func (t *probeTable) read(ctx context.Context, conn *websocket.Conn) (*probev1.Frame, error) {
	ctx, stop := context.WithTimeout(ctx, silentAfter)
	defer stop()
	kind, r, err := conn.Reader(ctx)
	if err != nil {
		return nil, err
	}
	if kind != websocket.MessageBinary {
		return nil, errors.New("text where frames are binary")
	}
	buf, _ := t.buffers.Get().(*bytes.Buffer)
	if buf == nil {
		buf = &bytes.Buffer{}
	}
	defer func() {
		if buf.Cap() <= keptBuffer {
			buf.Reset()
			t.buffers.Put(buf)
		}
	}()
	if _, err := buf.ReadFrom(r); err != nil {
		return nil, err
	}
	t.frames.Add(1)
	t.bytes.Add(uint64(buf.Len()))
	return t.codec.Decode(buf.Bytes())
}

func (t *probeTable) write(ctx context.Context, conn *websocket.Conn, f *probev1.Frame) error {
	data, err := t.codec.Encode(nil, f)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, silentAfter)
	defer stop()
	return conn.Write(ctx, websocket.MessageBinary, data)
}

func (t *probeTable) writer(ctx context.Context, conn *websocket.Conn, p *probeConn, epoch uint64) error {
	p.mu.Lock()
	out, closed := p.out, p.closed
	p.mu.Unlock()
	if closed == nil {
		return nil
	}
	tick := time.NewTicker(3 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-closed:
			return nil
		case f := <-out:
			if err := t.write(ctx, conn, f); err != nil {
				return err
			}
		case <-tick.C: // also the beat by which a probe knows that the monitor lives
			if err := t.write(ctx, conn, &probev1.Frame{Ack: &probev1.Ack{Seq: t.estate.Seq(p.id)}}); err != nil {
				return err
			}
		}
	}
}

// send queues a frame for the probe. It waits while the queue is full.
func (p *probeConn) send(ctx context.Context, f *probev1.Frame) bool {
	p.mu.Lock()
	out, closed := p.out, p.closed
	p.mu.Unlock()
	if closed == nil {
		return false
	}
	select {
	case out <- f:
		return true
	case <-closed:
		return false
	case <-ctx.Done():
		return false
	}
}

func (p *probeConn) answer(resp *probev1.Response) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.waiting[resp.Id]; c != nil {
		delete(p.waiting, resp.Id)
		c <- resp
	}
}

// run greys and forgets probes that are not heard of.
func (t *probeTable) run(ctx context.Context) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			t.sweep(now)
		}
	}
}

func (t *probeTable) sweep(now time.Time) {
	for _, p := range t.list() {
		p.mu.Lock()
		stale := p.state == "connected" && now.Sub(p.last) > p.staleAfter
		forget := p.state == "lost" && now.Sub(p.since) > forgetAfter
		if stale {
			p.state = "stale"
			t.estate.Stale(p.id, true, now.UnixMilli())
		}
		p.mu.Unlock()
		if forget {
			t.mu.Lock()
			p.mu.Lock()
			gone := p.state == "lost"
			p.mu.Unlock()
			if gone {
				delete(t.byID, p.id)
				t.estate.Forget(p.id, now.UnixMilli())
			}
			t.mu.Unlock()
		}
	}
}

func (t *probeTable) list() []*probeConn {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*probeConn, 0, len(t.byID))
	for _, p := range t.byID {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *probeConn) int { return cmp.Compare(a.id, b.id) })
	return out
}

func (t *probeTable) get(id string) *probeConn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

// state tells how a probe is.
func (t *probeTable) state(id string) string {
	p := t.get(id)
	if p == nil {
		return "lost"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// request is what is asked of a probe.
type request struct {
	verb, node string
	who        identity
	args       map[string]string
	argv       []string
	timeout    time.Duration // 0: as long as the pipe lives
	piped      bool
}

// call is a request that is under way.
type call struct {
	probe *probeConn
	id    uint64
	pipe  *pipe.Pipe
	done  chan *probev1.Response
}

// begin sends a request to the probe of a node.
func (t *probeTable) begin(ctx context.Context, probe string, r request) (*call, error) {
	p := t.get(probe)
	if p == nil {
		return nil, fail("probe_gone", "the probe of this host is not connected", "")
	}
	c := &call{probe: p, id: t.nextReq.Add(1), done: make(chan *probev1.Response, 1)}
	msg := &probev1.Request{Id: c.id, Verb: r.verb, Node: r.node, User: r.who.name, Role: r.who.role.String(), Argv: r.argv}
	if r.timeout > 0 {
		msg.DeadlineMs = time.Now().Add(r.timeout).UnixMilli() + p.clockSkew()
	}
	for k, v := range r.args {
		msg.Args = append(msg.Args, &probev1.Attr{Key: k, Value: v})
	}
	p.mu.Lock()
	if p.closed == nil {
		p.mu.Unlock()
		return nil, fail("probe_gone", "the probe of this host is not connected", "it reconnects by itself within 15 s when it can")
	}
	if len(p.waiting) > 1000 {
		p.mu.Unlock()
		return nil, fail("too_many", "too much is asked of this probe already", "")
	}
	p.waiting[c.id] = c.done
	if r.piped {
		msg.Pipe = c.id
		c.pipe = p.mux.Open(c.id)
	}
	p.mu.Unlock()
	if !p.send(ctx, &probev1.Frame{Requests: []*probev1.Request{msg}}) {
		c.end()
		return nil, fail("probe_gone", "the probe's connection was lost", "")
	}
	return c, nil
}

func (p *probeConn) clockSkew() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.skew
}

// end forgets the call, and cancels it when it is still under way.
func (c *call) end() {
	c.probe.mu.Lock()
	_, open := c.probe.waiting[c.id]
	delete(c.probe.waiting, c.id)
	out, closed := c.probe.out, c.probe.closed
	c.probe.mu.Unlock()
	if c.pipe != nil {
		c.pipe.Close()
	}
	if open && closed != nil {
		select {
		case out <- &probev1.Frame{Requests: []*probev1.Request{{Cancel: c.id}}}:
		default: // the pipe's end tells it as well
		}
	}
}

// wait gives the answer's body.
func (c *call) wait(ctx context.Context) (json.RawMessage, error) {
	select {
	case <-ctx.Done():
		return nil, fail("timeout", "the probe did not answer in time", "")
	case resp, ok := <-c.done:
		switch {
		case !ok:
			return nil, fail("probe_gone", "the probe's connection was lost while it worked", "look at the node: it may have been done")
		case resp.Code != "":
			if statusOf[resp.Code] == 0 {
				resp.Code = "probe_failed"
			}
			return nil, &apiError{Code: resp.Code, Message: resp.Message, Hint: resp.Hint}
		}
		return resp.Body, nil
	}
}

// ask does a request that has no stream.
func (t *probeTable) ask(ctx context.Context, probe string, r request) (json.RawMessage, error) {
	if r.timeout == 0 {
		r.timeout = 30 * time.Second
	}
	c, err := t.begin(ctx, probe, r)
	if err != nil {
		return nil, err
	}
	defer c.end()
	ctx, stop := context.WithTimeout(ctx, r.timeout+time.Second)
	defer stop()
	return c.wait(ctx)
}

// watch tells each probe which of its nodes are looked at closely. One that has too much to read already is told the next time.
func (t *probeTable) watch(byProbe map[string][]string) {
	for _, p := range t.list() {
		ids := byProbe[p.id]
		slices.Sort(ids)
		p.mu.Lock()
		if p.closed != nil && !slices.Equal(ids, p.watched) {
			select {
			case p.out <- &probev1.Frame{Watch: &probev1.Watch{Ids: ids}}:
				p.watched = ids
			default:
			}
		}
		p.mu.Unlock()
	}
}
