package zk

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Session identifies a session; who has it can resume it while it lives.
type Session struct {
	ID       int64
	Password []byte
}

// Auth is an identity that is presented on every connection.
type Auth struct {
	Scheme string // digest, ip, …
	Data   []byte // "user:password" for digest
}

// Config says whom to talk to and how. Servers must be given; the rest has defaults.
type Config struct {
	Servers []string // host:port, tried in random order
	Chroot  string   // absolute path under which all paths of this client lie; "" for none
	// SessionTimeout is asked for; the server decides within its own limits. Default 10s.
	SessionTimeout time.Duration
	Auth           []Auth
	SASL           *SASLDigest
	TLS            *tls.Config
	// ReadOnly accepts a server that has lost its quorum (readonlymode.enabled); a better one is looked for meanwhile.
	ReadOnly bool
	// Session resumes a session of another process instead of starting one.
	Session Session
	// Renew starts a new session after one expired. Requests that waited are answered ErrSessionExpired all the same.
	Renew bool
	// MaxRequest is the largest request in bytes, the server's jute.maxbuffer. Default 1,048,575.
	MaxRequest int
	// MaxResponse is the largest answer accepted, in bytes. Default 128 MB (a list of millions of children is one answer).
	MaxResponse int
	// MaxQueue is the number of requests that may wait for an answer; more are refused with ErrOverloaded. Default 100,000.
	MaxQueue int
	// OnState is told of every change of the state, in order with callbacks, on the callback goroutine.
	OnState func(State)
}

// Timer is a pending call that can be stopped.
type Timer interface{ Stop() bool }

// Clock is where a Client gets its time.
type Clock interface {
	Now() time.Time
	AfterFunc(d time.Duration, f func()) Timer
}

type systemClock struct{}

func (systemClock) Now() time.Time                            { return time.Now() }
func (systemClock) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }

// Deps are a Client's effects; the zero value is the real world.
type Deps struct {
	Log   *slog.Logger
	Dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	Clock Clock
	Rand  *rand.Rand
}

// Client is one ZooKeeper session (a sequence of them with Config.Renew). All methods may be called concurrently.
type Client struct {
	cfg  Config
	deps Deps
	log  *slog.Logger

	mu      sync.Mutex
	core    core
	lastErr error    // why the last connection failed
	server  string   // the server connected to
	conn    net.Conn // the connection in use
	changed chan struct{}

	wake    chan struct{} // there is something to send
	stop    chan struct{} // closed by Close and Abandon
	stopped sync.Once
	done    chan struct{}
	abandon bool
}

// New starts a client. It connects in the background: use WaitConnected, or just send.
func New(cfg Config, deps Deps) (*Client, error) {
	if len(cfg.Servers) == 0 {
		return nil, errors.New("zk: no servers given; want host:port[,host:port…]")
	}
	if cfg.Chroot == "/" {
		cfg.Chroot = ""
	}
	if cfg.Chroot != "" {
		if err := ValidatePath(cfg.Chroot); err != nil {
			return nil, fmt.Errorf("zk: chroot: %w", err)
		}
	}
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&cfg.MaxRequest, 0xfffff)
	def(&cfg.MaxResponse, 128<<20)
	def(&cfg.MaxQueue, 100_000)
	if cfg.SessionTimeout <= 0 {
		cfg.SessionTimeout = 10 * time.Second
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Dial == nil {
		deps.Dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	if deps.Clock == nil {
		deps.Clock = systemClock{}
	}
	if deps.Rand == nil {
		deps.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) //nolint:gosec // spreads load, guards nothing
	}
	c := &Client{
		cfg: cfg, deps: deps, log: deps.Log, changed: make(chan struct{}),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	c.core = core{
		root: chroot(cfg.Chroot), onState: cfg.OnState, auth: append([]Auth(nil), cfg.Auth...), sasl: cfg.SASL,
		readOnly: cfg.ReadOnly, renew: cfg.Renew, maxQueue: cfg.MaxQueue, wantedTTL: cfg.SessionTimeout,
		session: cfg.Session, watch: newWatches(),
		nonce: func() string {
			var b [16]byte
			binary.BigEndian.PutUint64(b[:], deps.Rand.Uint64())
			binary.BigEndian.PutUint64(b[8:], deps.Rand.Uint64())
			return hex.EncodeToString(b[:])
		},
	}
	go c.run()
	return c, nil
}

// Send queues a request; done is called with its answer. An error means that it was not queued and done will not be
// called: bad arguments, ErrTooLarge, ErrOverloaded, or the session's end.
func (c *Client) Send(op Op, done func(Result, error)) error {
	if done == nil {
		done = func(Result, error) {}
	}
	cl, err := c.core.prepare(&op, done, c.cfg.MaxRequest)
	if err != nil {
		return err
	}
	c.mu.Lock()
	err = c.core.submit(cl)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	c.kick()
	return nil
}

func (c *Client) kick() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Do sends a request and waits for its answer. When ctx ends first, the request may still take effect.
func (c *Client) Do(ctx context.Context, op Op) (Result, error) {
	type answer struct {
		res Result
		err error
	}
	ch := make(chan answer, 1)
	err := c.Send(op, func(r Result, err error) { ch <- answer{r, err} })
	if err != nil {
		return Result{}, &OpError{Op: op.Code.String(), Path: op.Path, Err: err}
	}
	select {
	case a := <-ch:
		if a.err != nil {
			e := &OpError{Op: op.Code.String(), Path: op.Path, Err: a.err}
			var m *MultiError
			if errors.As(a.err, &m) && m.Index < len(op.Ops) {
				e.Hint = op.Ops[m.Index].Code.String() + " " + op.Ops[m.Index].Path
			}
			return a.res, e
		}
		return a.res, nil
	case <-ctx.Done():
		return Result{}, &OpError{Op: op.Code.String(), Path: op.Path, Err: context.Cause(ctx), Hint: c.connectionHint()}
	}
}

func (c *Client) connectionHint() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.core.state.Live() {
		return ""
	}
	s := fmt.Sprintf("not connected to any of %v", c.cfg.Servers)
	if c.lastErr != nil {
		s += ": " + c.lastErr.Error()
	}
	return s
}

// State is where the session stands.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.core.state
}

// Session is the current session; another process can resume it.
func (c *Client) Session() Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.core.session
}

// Timeout is the session timeout that the server granted; 0 before the first connection.
func (c *Client) Timeout() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.core.timeout
}

// Server is the address of the server connected to now, or "".
func (c *Client) Server() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.core.state.Live() {
		return ""
	}
	return c.server
}

// LastZxid is the last transaction that a server told this client of.
func (c *Client) LastZxid() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.core.lastZxid
}

// AliveUntil is the moment before which no server can have expired the session: the server answered a request that was
// sent one session timeout before it. Who must not act on a lost session (a leader) checks it.
func (c *Client) AliveUntil() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.core.lastAcked.IsZero() || c.core.state >= StateExpired {
		return time.Time{}
	}
	return c.core.lastAcked.Add(c.core.timeout)
}

// AddAuth presents another identity, now and on every later connection.
func (c *Client) AddAuth(a Auth) {
	c.mu.Lock()
	c.core.auth = append(c.core.auth, a)
	if c.core.state.Live() {
		c.core.appendAuth(a)
	}
	c.mu.Unlock()
	c.kick()
}

// WaitConnected waits until a server has accepted the session, or the session cannot come to be.
func (c *Client) WaitConnected(ctx context.Context) error {
	for {
		c.mu.Lock()
		state, ch, final := c.core.state, c.changed, c.core.final()
		c.mu.Unlock()
		switch {
		case state.Live():
			return nil
		case final != nil:
			return final
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return &OpError{Op: "connect", Err: context.Cause(ctx), Hint: c.connectionHint()}
		}
	}
}

// Close ends the session (its ephemeral nodes go at once) and the client; it waits at most two seconds for the server.
func (c *Client) Close() {
	c.mu.Lock()
	if c.core.final() == nil && c.core.state.Live() {
		if cl, err := c.core.prepare(&Op{Code: OpCloseSession}, func(Result, error) { c.end(false) }, c.cfg.MaxRequest); err == nil {
			c.core.queue = append(c.core.queue, cl)
			c.core.closing = true
			c.mu.Unlock()
			c.kick()
			t := c.deps.Clock.AfterFunc(2*time.Second, func() { c.end(false) })
			<-c.done
			t.Stop()
			return
		}
	}
	c.mu.Unlock()
	c.end(false)
	<-c.done
}

// Abandon ends the client without a word to the server: the session lives on until it times out, and can be resumed.
func (c *Client) Abandon() {
	c.end(true)
	<-c.done
}

// Done is closed when the client has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

func (c *Client) end(abandon bool) {
	c.stopped.Do(func() {
		c.mu.Lock()
		c.abandon = abandon
		conn := c.conn
		c.mu.Unlock()
		close(c.stop)
		if conn != nil {
			conn.Close()
		}
	})
}

// deliver makes the calls that the core asked for, in order. Only run's goroutine calls it.
func (c *Client) deliver(out []delivery) {
	for i := range out {
		d := &out[i]
		switch {
		case d.done != nil:
			d.done(d.res, d.err)
		case d.watch != nil:
			d.watch.fn(d.event)
		case d.state != nil:
			d.state(d.to)
		}
		*d = delivery{}
	}
}

// notify wakes WaitConnected; called with the lock held after the state may have changed.
func (c *Client) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// run owns the connection and all callbacks.
func (c *Client) run() {
	defer close(c.done)
	servers := append([]string(nil), c.cfg.Servers...)
	c.deps.Rand.Shuffle(len(servers), func(i, j int) { servers[i], servers[j] = servers[j], servers[i] })
	failures := 0
	for i := 0; ; i++ {
		select {
		case <-c.stop:
			c.finish()
			return
		default:
		}
		addr := servers[i%len(servers)]
		healthy, err := c.serve(addr)
		c.mu.Lock()
		out := c.core.lost(nil)
		c.lastErr = fmt.Errorf("%s: %w", addr, err)
		c.conn = nil
		if c.core.state == StateExpired && c.core.renew {
			c.core.state = StateDisconnected
		}
		final := c.core.final()
		if c.core.closing {
			final = nil // still to be closed by end
		}
		c.notify()
		c.mu.Unlock()
		c.deliver(out)
		if final != nil {
			// Nothing more will come; Close finds the client done. Requests were answered when the session ended.
			c.log.Warn("session ended", "server", addr, "error", err)
			c.finish()
			return
		}
		if healthy {
			failures = 0
			c.log.Info("connection lost", "server", addr, "error", err)
		} else {
			failures++
			c.log.Debug("connection attempt failed", "server", addr, "error", err)
		}
		c.pause(failures, len(servers))
	}
}

// pause waits before the next attempt: not at all while there are servers not tried yet, then longer and longer, up to a
// second, with jitter so that a whole cluster of clients does not come back in one moment.
func (c *Client) pause(failures, servers int) {
	if failures < servers && failures > 0 {
		return
	}
	d := time.Duration(c.deps.Rand.Int64N(int64(20 * time.Millisecond)))
	if failures > 0 {
		base := 50 * time.Millisecond << min(failures/servers, 5)
		base = min(base, time.Second)
		d = base/2 + time.Duration(c.deps.Rand.Int64N(int64(base)))
	}
	ch := make(chan struct{})
	t := c.deps.Clock.AfterFunc(d, func() { close(ch) })
	select {
	case <-ch:
	case <-c.stop:
		t.Stop()
	}
}

func (c *Client) finish() {
	c.mu.Lock()
	out := c.core.close(nil)
	c.notify()
	c.mu.Unlock()
	c.deliver(out)
}

// serve runs one connection until it ends; healthy tells whether the session was established on it.
func (c *Client) serve(addr string) (healthy bool, err error) {
	setup := c.cfg.SessionTimeout / time.Duration(min(len(c.cfg.Servers), 5))
	setup = max(setup, 500*time.Millisecond)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-c.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	guard := c.deps.Clock.AfterFunc(setup, cancel)
	conn, err := c.deps.Dial(ctx, "tcp", addr)
	if err != nil {
		guard.Stop()
		return false, err
	}
	defer conn.Close()
	guard.Stop()
	guard = c.deps.Clock.AfterFunc(setup, func() { conn.Close() })
	defer func() { guard.Stop() }()
	if c.cfg.TLS != nil {
		cfg := c.cfg.TLS
		if cfg.ServerName == "" && !cfg.InsecureSkipVerify {
			cfg = cfg.Clone()
			cfg.ServerName, _, _ = net.SplitHostPort(addr)
		}
		tc := tls.Client(conn, cfg)
		if err := tc.HandshakeContext(ctx); err != nil {
			return false, err
		}
		conn = tc
	}

	c.mu.Lock()
	select {
	case <-c.stop: // Close did not see this connection
		c.mu.Unlock()
		return false, ErrClosed
	default:
	}
	c.conn, c.server = conn, addr
	hello, out := c.core.connect(c.deps.Clock.Now())
	c.mu.Unlock()
	c.deliver(out)
	if _, err := conn.Write(hello); err != nil {
		return false, err
	}
	r := bufio.NewReaderSize(conn, 64<<10)
	frame, err := c.readFrame(r)
	if err != nil {
		return false, fmt.Errorf("the server closed the connection during the handshake: %w", err)
	}
	c.mu.Lock()
	out, err = c.core.connected(frame, c.deps.Clock.Now(), out[:0])
	state := c.core.state
	c.notify()
	c.mu.Unlock()
	c.deliver(out)
	if err != nil {
		return false, err
	}
	guard.Stop()
	c.log.Debug("connected", "server", addr, "session", fmt.Sprintf("0x%x", c.Session().ID), "state", state.String())

	writerDone := make(chan struct{})
	go func() {
		defer close(writerDone)
		c.write(ctx, conn)
	}()
	if state == StateReadOnly {
		go c.seekQuorum(ctx, conn, addr)
	}
	err = c.read(r)
	cancel()
	conn.Close()
	<-writerDone
	return true, err
}

// read takes frames until the connection ends. Answers that arrived together are delivered together.
func (c *Client) read(r *bufio.Reader) error {
	var out []delivery
	for {
		frame, err := c.readFrame(r)
		if err != nil {
			return err
		}
		c.mu.Lock()
		before := c.core.state
		out, err = c.core.receive(frame, c.deps.Clock.Now(), out[:0])
		if c.core.state != before {
			c.notify()
		}
		more := len(c.core.urgent) > 0 || c.core.state != before
		c.mu.Unlock()
		c.deliver(out)
		if more {
			c.kick()
		}
		if err != nil {
			return err
		}
	}
}

func (c *Client) readFrame(r *bufio.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(int32(binary.BigEndian.Uint32(head[:])))
	if n < 0 || n > c.cfg.MaxResponse {
		return nil, errProtocol(fmt.Sprintf("answer of %d bytes, the limit is %d", n, c.cfg.MaxResponse))
	}
	// A length is only a claim: memory is committed as the bytes arrive.
	const step = 1 << 20
	if n <= step {
		b := make([]byte, n)
		_, err := io.ReadFull(r, b)
		return b, err
	}
	b := make([]byte, 0, step)
	for len(b) < n {
		m := min(n-len(b), step)
		b = append(b, make([]byte, m)...)
		if _, err := io.ReadFull(r, b[len(b)-m:]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// write sends whatever the core has to say: all requests that gathered during one write go out in the next.
func (c *Client) write(ctx context.Context, conn net.Conn) {
	var buf []byte
	timer := c.deps.Clock.AfterFunc(0, c.kick)
	defer func() { timer.Stop() }()
	var next time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		c.mu.Lock()
		now := c.deps.Clock.Now()
		at, err := c.core.tick(now)
		if err == nil {
			buf = c.core.output(buf[:0], now)
		} else {
			c.lastErr = err
		}
		c.mu.Unlock()
		if err != nil {
			c.log.Info("connection given up", "error", err)
			conn.Close()
			return
		}
		if len(buf) > 0 {
			if _, err := conn.Write(buf); err != nil {
				conn.Close()
				return
			}
			if cap(buf) > 4<<20 {
				buf = nil
			}
		}
		// Rearm only when the old timer would come too late or has fired: not once per request.
		if next.IsZero() || !now.Before(next) || at.Before(next) {
			timer.Stop()
			next = at
			timer = c.deps.Clock.AfterFunc(max(at.Sub(now), time.Millisecond), c.kick)
		}
	}
}

// seekQuorum looks for a server with a quorum while this connection has none, and drops the connection when one is found.
func (c *Client) seekQuorum(ctx context.Context, conn net.Conn, current string) {
	delay := 100 * time.Millisecond
	for {
		ch := make(chan struct{})
		t := c.deps.Clock.AfterFunc(delay, func() { close(ch) })
		select {
		case <-ch:
		case <-ctx.Done():
			t.Stop()
			return
		}
		delay = min(delay*2, 10*time.Second)
		for _, addr := range c.cfg.Servers {
			dctx, cancel := context.WithTimeout(ctx, time.Second)
			answer, err := FourLetter(dctx, c.deps.Dial, addr, "isro")
			cancel()
			if err == nil && answer == "rw" {
				c.log.Info("found a server with a quorum", "server", addr, "instead_of", current)
				conn.Close()
				return
			}
		}
	}
}

// FourLetter asks a server a four-letter word (srvr, ruok, isro, …) and returns its answer. Servers since 3.5 answer only
// those in 4lw.commands.whitelist.
func FourLetter(ctx context.Context, dial func(ctx context.Context, network, addr string) (net.Conn, error), addr, word string) (string, error) {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	conn, err := dial(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := io.WriteString(conn, word); err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(conn, 4<<20))
	if len(b) == 0 && err == nil {
		err = fmt.Errorf("%s did not answer %q", addr, word)
	}
	return string(b), err
}
