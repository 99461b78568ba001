package zk

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk/jute"
)

// State is where a session stands.
type State int32

// States of a session. Expired, AuthFailed and Closed are final for the session; with Config.Renew a new session follows
// an expired one.
const (
	StateDisconnected State = iota
	StateConnecting         // a connection is being set up: handshake, SASL
	StateConnected
	StateReadOnly // connected to a server without quorum: only reads
	StateExpired
	StateAuthFailed
	StateClosed
)

func (s State) String() string {
	return [...]string{"disconnected", "connecting", "connected", "read-only", "expired", "auth-failed", "closed"}[s]
}

// Live reports whether requests reach a server now.
func (s State) Live() bool { return s == StateConnected || s == StateReadOnly }

// Reserved xids (ClientCnxn).
const (
	xidNotification = -1
	xidPing         = -2
	xidAuth         = -4
	xidSetWatches   = -8
)

// call is one request on its way: waiting in core.queue, then sent and waiting for its answer in core.inflight.
type call struct {
	op    Op
	path  string // on the server
	frame []byte // length, xid (patched when sent), type, body
	xid   int32
	sent  time.Time
	done  func(Result, error)
	// internal calls answer to the core itself.
	internal func(frame *jute.Decoder, err Error) ([]byte, error)
}

// delivery is what the shell must call, in order, outside the lock.
type delivery struct {
	done  func(Result, error)
	res   Result
	err   error
	watch *Watch
	event Event
	state func(State)
	to    State
}

// core is the client's side of the protocol as a pure state machine. Its owner passes in time, bytes and requests, sends
// the bytes that it asks for, and makes the deliveries that it returns.
type core struct {
	root      chroot
	onState   func(State)
	auth      []Auth
	sasl      *SASLDigest
	nonce     func() string
	readOnly  bool // a server without quorum will do
	renew     bool
	maxQueue  int
	wantedTTL time.Duration // session timeout asked for

	state    State
	session  Session
	timeout  time.Duration // negotiated
	lastZxid int64
	xid      int32
	queue    []*call
	inflight []*call // in the order sent; head first
	urgent   []byte  // frames that go before everything else: auth, watches, ping
	pings    []time.Time
	watch    watches
	closing  bool
	// The end of the time for which the server must keep the session: the last request that it answered was sent at
	// lastAcked.
	lastAcked time.Time
	lastSent  time.Time
	lastHeard time.Time
	pingDue   bool
	saslStep  int
	wantPrime State // the state to open once SASL is done
}

func patchLength(b []byte, start int) {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
}

func (c *core) appendFrame(b []byte, xid int32, code OpCode, body func([]byte) []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = jute.AppendInt(b, xid)
	b = jute.AppendInt(b, int32(code))
	if body != nil {
		b = body(b)
	}
	patchLength(b, start)
	return b
}

func (c *core) setState(s State, out []delivery) []delivery {
	if c.state == s {
		return out
	}
	was := c.state
	c.state = s
	if c.onState != nil && s != StateConnecting && !(s == StateDisconnected && was == StateConnecting) {
		out = append(out, delivery{state: c.onState, to: s})
	}
	switch s {
	case StateConnected, StateReadOnly, StateDisconnected:
		if s == StateDisconnected && was == StateConnecting {
			return out
		}
		for _, w := range c.watch.all(true) {
			out = append(out, delivery{watch: w, event: Event{Type: EventSession, State: s, Zxid: -1}})
		}
	case StateExpired, StateAuthFailed, StateClosed:
		for _, w := range c.watch.all(false) {
			out = append(out, delivery{watch: w, event: Event{Type: EventSession, State: s, Zxid: -1}})
		}
		c.watch = newWatches()
	}
	return out
}

// final reports whether no request can be accepted any more, and why.
func (c *core) final() error {
	switch c.state {
	case StateExpired:
		if !c.renew {
			return ErrSessionExpired
		}
	case StateAuthFailed:
		return ErrAuthFailed
	case StateClosed:
		return ErrClosed
	}
	if c.closing {
		return ErrClosed
	}
	return nil
}

// prepare encodes a request. It needs no lock.
func (c *core) prepare(op *Op, done func(Result, error), limit int) (*call, error) {
	if err := op.validate(false); err != nil {
		return nil, err
	}
	cl := &call{op: *op, path: c.root.server(op.Path), done: done}
	size := 64 + len(op.Path) + len(op.Data) // about: a frame that grows costs more than one that is a little too large
	for i := range op.Ops {
		size += 64 + len(c.root) + len(op.Ops[i].Path) + len(op.Ops[i].Data)
	}
	cl.frame = c.appendFrame(make([]byte, 0, size), 0, op.Code, func(b []byte) []byte {
		return op.appendBody(b, c.root)
	})
	// The server compares the frame's own length, and closes the connection of who exceeds it.
	if len(cl.frame)-4 > limit {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(cl.frame)-4, limit)
	}
	// What was encoded need not be kept alive.
	cl.op.Data, cl.op.ACL = nil, nil
	return cl, nil
}

// submit queues a request behind all others.
func (c *core) submit(cl *call) error {
	if err := c.final(); err != nil {
		return err
	}
	if len(c.queue)+len(c.inflight) >= c.maxQueue {
		return ErrOverloaded
	}
	c.queue = append(c.queue, cl)
	return nil
}

// connect starts a connection: the frame to send first.
func (c *core) connect(now time.Time) ([]byte, []delivery) {
	out := c.setState(StateConnecting, nil)
	c.lastSent, c.lastHeard, c.pingDue = now, now, false
	c.pings, c.urgent = c.pings[:0], c.urgent[:0]
	b := make([]byte, 4, 64)
	b = jute.AppendInt(b, 0)
	b = jute.AppendLong(b, c.lastZxid)
	b = jute.AppendInt(b, int32(c.wantedTTL/time.Millisecond))
	b = jute.AppendLong(b, c.session.ID)
	pw := c.session.Password
	if pw == nil {
		pw = make([]byte, 16)
	}
	b = jute.AppendBuffer(b, pw)
	b = jute.AppendBool(b, c.readOnly)
	patchLength(b, 0)
	return b, out
}

// connected reads the server's answer to connect. An error means that this connection is of no use.
func (c *core) connected(frame []byte, now time.Time, out []delivery) ([]delivery, error) {
	d := jute.NewDecoder(frame)
	_ = d.Int() // protocol version
	timeout := time.Duration(d.Int()) * time.Millisecond
	id := d.Long()
	passwd := d.Buffer()
	if err := d.Err(); err != nil {
		// A server without quorum that keeps no local sessions answers as if it were a request.
		if h := jute.NewDecoder(frame); len(frame) == 16 {
			_, _ = h.Int(), h.Long()
			if code := Error(h.Int()); code != 0 {
				return out, fmt.Errorf("the server refuses the session (read-only service needs localSessionsEnabled=true there): %w", code)
			}
		}
		return out, errProtocol("connect answer: " + err.Error())
	}
	ro := d.Len() > 0 && d.Bool() // 3.4+
	if timeout <= 0 {
		return c.expire(out), ErrSessionExpired
	}
	if !ro { // what a read-only server hands out is worth nothing elsewhere
		c.session = Session{ID: id, Password: append([]byte(nil), passwd...)}
	}
	c.timeout = timeout
	c.lastHeard = now
	c.lastAcked = c.lastSent
	to := StateConnected
	if ro {
		to = StateReadOnly
	}
	if c.sasl != nil {
		c.startSASL(to)
		return out, nil
	}
	return c.prime(to, out), nil
}

// prime queues what must go before any request on a new connection, and opens it for requests.
func (c *core) prime(to State, out []delivery) []delivery {
	for _, a := range c.auth {
		c.appendAuth(a)
	}
	c.urgent = c.watch.appendSetWatches(c.urgent, c.lastZxid)
	return c.setState(to, out)
}

func (c *core) appendAuth(a Auth) {
	c.urgent = c.appendFrame(c.urgent, xidAuth, OpAuth, func(b []byte) []byte {
		b = jute.AppendInt(b, 0)
		b = jute.AppendString(b, a.Scheme)
		return jute.AppendBuffer(b, a.Data)
	})
}

// expire ends the session: everything that waits is answered, and watches get their last event.
func (c *core) expire(out []delivery) []delivery {
	out = c.failAll(ErrSessionExpired, out)
	out = c.setState(StateExpired, out)
	c.session, c.lastZxid, c.lastAcked = Session{}, 0, time.Time{}
	return out
}

func (c *core) failAll(err Error, out []delivery) []delivery {
	for _, list := range [][]*call{c.inflight, c.queue} {
		for _, cl := range list {
			if cl.done != nil {
				out = append(out, delivery{done: cl.done, err: err})
			}
		}
	}
	c.inflight, c.queue = nil, nil
	return out
}

// output appends all bytes that may be sent now.
func (c *core) output(b []byte, now time.Time) []byte {
	if c.state != StateConnecting && !c.state.Live() {
		return b
	}
	before := len(b)
	b = append(b, c.urgent...)
	c.urgent = c.urgent[:0]
	if c.state.Live() {
		for i, cl := range c.queue {
			c.xid++
			if c.xid <= 0 { // after two thousand million requests
				c.xid = 1
			}
			cl.xid, cl.sent = c.xid, now
			binary.BigEndian.PutUint32(cl.frame[4:], uint32(cl.xid))
			b = append(b, cl.frame...)
			cl.frame = nil
			c.inflight = append(c.inflight, cl)
			c.queue[i] = nil
		}
		c.queue = c.queue[:0]
		if c.pingDue {
			b = c.appendFrame(b, xidPing, OpPing, nil)
			c.pings = append(c.pings, now)
		}
	}
	c.pingDue = false
	if len(b) > before {
		c.lastSent = now
	}
	return b
}

// receive takes one frame. An error means that the connection must be dropped.
func (c *core) receive(frame []byte, now time.Time, out []delivery) ([]delivery, error) {
	c.lastHeard = now
	d := jute.NewDecoder(frame)
	xid, zxid, code := d.Int(), d.Long(), Error(d.Int())
	if d.Err() != nil {
		return out, errProtocol("reply header is short")
	}
	if zxid > c.lastZxid && xid != xidNotification {
		c.lastZxid = zxid
	}
	switch xid {
	case xidPing:
		if len(c.pings) > 0 {
			if c.pings[0].After(c.lastAcked) {
				c.lastAcked = c.pings[0]
			}
			c.pings = c.pings[1:]
		}
		return out, nil
	case xidAuth:
		if code != 0 {
			out = c.failAll(ErrAuthFailed, out)
			return c.setState(StateAuthFailed, out), ErrAuthFailed
		}
		return out, nil
	case xidSetWatches:
		if code != 0 {
			return out, errProtocol("the server did not restore the watches: " + code.Error())
		}
		return out, nil
	case xidNotification:
		t, st, path := EventType(d.Int()), d.Int(), d.String()
		if d.Err() != nil {
			return out, errProtocol("event is short")
		}
		_ = st
		ev := Event{Type: t, State: c.state, Path: c.root.caller(path), Zxid: zxid}
		for _, w := range c.watch.fire(t, path, nil) {
			out = append(out, delivery{watch: w, event: ev})
		}
		return out, nil
	}
	if len(c.inflight) == 0 {
		return out, errProtocol(fmt.Sprintf("answer %d to no request", xid))
	}
	cl := c.inflight[0]
	if cl.xid != xid {
		return out, errProtocol(fmt.Sprintf("answer %d where %d was due", xid, cl.xid))
	}
	c.inflight[0] = nil
	c.inflight = c.inflight[1:]
	if cl.sent.After(c.lastAcked) {
		c.lastAcked = cl.sent
	}
	if cl.internal != nil {
		next, err := cl.internal(d, code)
		if err != nil {
			return c.saslFailed(err, out)
		}
		c.urgent = append(c.urgent, next...)
		if next == nil {
			return c.saslDone(out), nil
		}
		return out, nil
	}
	var res Result
	var err error
	if code == 0 {
		res, err = cl.op.decodeResult(d, c.root)
		if err != nil {
			// The stream itself is still in step, but this server is not to be trusted with more.
			return append(out, delivery{done: cl.done, err: err}), err
		}
		if cl.op.Code == OpMulti {
			err = multiError(res.Results)
		}
	} else {
		err = code
	}
	res.Zxid = zxid
	c.watch.register(&cl.op, cl.path, code)
	if cl.op.Code == OpRemoveWatches && code == 0 {
		c.watch.remove(cl.op.WatchMode, cl.path)
	}
	if code == ErrSessionExpired {
		out = append(out, delivery{done: cl.done, err: code})
		return c.expire(out), ErrSessionExpired
	}
	return append(out, delivery{done: cl.done, res: res, err: err}), nil
}

// tick is called as time passes: it asks for a ping when the connection is idle, and gives the connection up when the
// server was silent for two thirds of the session. It returns when it wants to be called again.
func (c *core) tick(now time.Time) (next time.Time, err error) {
	if !c.state.Live() && c.state != StateConnecting {
		return now.Add(time.Second), nil
	}
	timeout := c.timeout
	if timeout <= 0 {
		timeout = c.wantedTTL
	}
	silence := timeout * 2 / 3
	if !now.Before(c.lastHeard.Add(silence)) {
		return now, fmt.Errorf("the server was silent for %v", now.Sub(c.lastHeard).Round(time.Millisecond))
	}
	idle := min(silence/2, 10*time.Second)
	due := c.lastSent.Add(idle)
	if c.state.Live() && !now.Before(due) {
		c.pingDue = true
		due = now.Add(idle)
	}
	if end := c.lastHeard.Add(silence); end.Before(due) {
		due = end
	}
	if !due.After(now) {
		due = now.Add(idle)
	}
	return due, nil
}

// lost ends a connection: what was sent has an unknown outcome, what was not stays queued.
func (c *core) lost(out []delivery) []delivery {
	for _, cl := range c.inflight {
		if cl.done != nil {
			out = append(out, delivery{done: cl.done, err: ErrConnectionLoss})
		}
	}
	c.inflight = nil
	c.urgent = c.urgent[:0]
	if c.state.Live() || c.state == StateConnecting {
		out = c.setState(StateDisconnected, out)
	}
	return out
}

// close ends the client.
func (c *core) close(out []delivery) []delivery {
	if c.state == StateClosed {
		return out
	}
	out = c.failAll(ErrClosed, out)
	if c.state == StateAuthFailed || c.state == StateExpired {
		return out // the reason stays
	}
	return c.setState(StateClosed, out)
}
