package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// FrontConfig says which requests a Front serves itself. Zero fields stand for the defaults.
type FrontConfig struct {
	// Handler serves the requests; it is the handler of the http.Server behind.
	Handler http.Handler
	// Paths are those of the APIs that take Calls. All other requests go to the http.Server.
	Paths []string
	// Context is what the requests' contexts come from, like an http.Server's BaseContext.
	Context context.Context
	// IdleTimeout is how long a connection may wait for its next request; default 5 min. A request that has begun must be
	// whole within DefaultBodyTimeout.
	IdleTimeout time.Duration
	Log         *slog.Logger
}

// Limits of the requests that a Front serves. Larger ones are net/http's.
const (
	frontHead = 8 << 10
	frontBody = 1 << 20
)

// Front is a net.Listener that stands before an http.Server and serves the most frequent requests by itself: POSTs of Calls
// on kept connections, with a body of known and moderate length. They are what a scheduler sends for each status update, and
// net/http spends several times on each what handling it costs. Requests that a client sends without waiting for answers
// (pipelining) are answered with one write.
//
// Whatever is not plainly such a request (another path or method, an upgrade, a chunked body, a header out of the ordinary)
// is handed to the http.Server together with its connection, as if it had come there first. A Front accepts nothing that
// net/http would refuse.
//
//	server.Serve(wire.NewFront(listener, wire.FrontConfig{Handler: server.Handler, Paths: []string{"/api/v1/scheduler"}}))
type Front struct {
	cfg    FrontConfig
	listen net.Listener
	others chan net.Conn
	closed chan struct{}
	once   sync.Once
	err    error

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
	date  atomic.Pointer[dateLine]
}

// NewFront takes a listener over. Close, which http.Server's Close and Shutdown call, ends it.
func NewFront(l net.Listener, cfg FrontConfig) *Front {
	if cfg.Context == nil {
		cfg.Context = context.Background()
	}
	if cfg.IdleTimeout <= 0 {
		cfg.IdleTimeout = 5 * time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	f := &Front{cfg: cfg, listen: l, others: make(chan net.Conn), closed: make(chan struct{}), conns: make(map[net.Conn]struct{})}
	f.wg.Add(1)
	go f.accept()
	return f
}

// Accept returns the next connection that is not for the Front.
func (f *Front) Accept() (net.Conn, error) {
	select {
	case c := <-f.others:
		return c, nil
	case <-f.closed:
		if f.err != nil {
			return nil, f.err
		}
		return nil, net.ErrClosed
	}
}

// Addr is the listener's.
func (f *Front) Addr() net.Addr { return f.listen.Addr() }

// Close closes the listener, and the connections that wait for a request. Handlers at work end by themselves; Wait waits for
// them.
func (f *Front) Close() error {
	return f.end(nil)
}

func (f *Front) end(why error) error {
	var err error
	f.once.Do(func() {
		f.err = why
		close(f.closed)
		err = f.listen.Close()
		f.mu.Lock()
		defer f.mu.Unlock()
		for c := range f.conns {
			_ = c.SetReadDeadline(time.Unix(1, 0))
		}
	})
	return err
}

// Wait returns when the Front has ended and nothing of it is left.
func (f *Front) Wait() {
	<-f.closed
	f.wg.Wait()
}

func (f *Front) accept() {
	defer f.wg.Done()
	pause := time.Duration(0)
	for {
		c, err := f.listen.Accept()
		if err != nil {
			// Too many files, most likely: connections that end will make room.
			var ne net.Error
			if errors.As(err, &ne) && ne.Temporary() { //nolint:staticcheck // net/http's own criterion
				pause = min(max(2*pause, 5*time.Millisecond), time.Second)
				if !sleep(f.cfg.Context, pause) {
					_ = f.end(context.Cause(f.cfg.Context))
					return
				}
				continue
			}
			_ = f.end(err)
			return
		}
		pause = 0
		if !f.track(c) {
			c.Close()
			return
		}
		go f.serve(c)
	}
}

// track keeps a connection in sight while the Front serves it.
func (f *Front) track(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.closed:
		return false
	default:
	}
	f.conns[c] = struct{}{}
	f.wg.Add(1)
	return true
}

func (f *Front) untrack(c net.Conn) {
	f.mu.Lock()
	delete(f.conns, c)
	f.mu.Unlock()
}

func (f *Front) ending() bool {
	select {
	case <-f.closed:
		return true
	default:
		return false
	}
}

// serve answers the requests of one connection until it ends or must be handed over.
func (f *Front) serve(c net.Conn) {
	defer f.wg.Done()
	k := &kept{front: f, conn: c}
	over := k.run()
	f.untrack(c)
	switch {
	case k.taken:
	case over:
		_ = c.SetDeadline(time.Time{})
		conn := c
		if early := slices.Clone(k.buf[k.start:k.end]); len(early) > 0 {
			conn = &prefixedConn{Conn: c, early: early}
		}
		k.buf = nil
		select {
		case f.others <- conn:
		case <-f.closed:
			c.Close()
		}
	default:
		c.Close()
	}
}

// prefixedConn is a connection some of whose bytes were read already.
type prefixedConn struct {
	net.Conn
	early []byte
}

// Read returns the early bytes first.
func (p *prefixedConn) Read(b []byte) (int, error) {
	if len(p.early) > 0 {
		n := copy(b, p.early)
		if p.early = p.early[n:]; len(p.early) == 0 {
			p.early = nil
		}
		return n, nil
	}
	return p.Conn.Read(b)
}

// CloseWrite closes the writing half where there is one.
func (p *prefixedConn) CloseWrite() error {
	if half, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// call runs the handler. A handler that panics ends its connection and nothing else, as with net/http.
func (f *Front) call(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("handler panicked: %v", p)
			if p != http.ErrAbortHandler { //nolint:errorlint // a sentinel that is compared, as in net/http
				f.cfg.Log.Error("handler panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			}
		}
	}()
	f.cfg.Handler.ServeHTTP(w, r)
	return nil
}

// dateLine is the Date header of the current second.
type dateLine struct {
	second int64
	line   []byte
}

func (f *Front) appendDate(b []byte) []byte {
	now := time.Now()
	d := f.date.Load()
	if d == nil || d.second != now.Unix() {
		d = &dateLine{now.Unix(), now.UTC().AppendFormat([]byte("Date: "), http.TimeFormat+"\r\n")}
		f.date.Store(d)
	}
	return append(b, d.line...)
}
