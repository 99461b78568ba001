package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

const (
	// readTimeout: a monitor says something at least every 5 s.
	readTimeout = 15 * time.Second
	// beat is how often a probe says something even when nothing changes.
	beat = time.Second
	// Reconnecting begins fast and slows down: a monitor that does not answer has enough to do.
	firstDelay, lastDelay = 500 * time.Millisecond, 8 * time.Second
	// A refused connection costs nobody anything, and mostly means that the monitor is being started: for so long after the
	// connection was lost it is asked for at this pace, so that all probes are back soon after it is.
	refusedDelay, refusedFor = 1500 * time.Millisecond, 2 * time.Minute
	// spoolBytes is what is kept of the metrics while a monitor is away; the oldest goes first.
	spoolBytes = 2 << 20
)

// linkIdentity is what a link says of its probe.
type linkIdentity struct {
	probeID, instance, hostname, version string
	policy                               []string
}

// link keeps the stream to one monitor.
type link struct {
	url      string
	token    func() (string, error)
	tls      *tls.Config
	dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	log      *slog.Logger
	hub      *hub
	codec    *topology.Codec
	identity linkIdentity
	// serve handles one request of the monitor and answers it.
	serve func(ctx context.Context, req *probev1.Request, p *pipe.Pipe) *probev1.Response
	// welcomed and watching tell the probe what this monitor wants.
	welcomed func(metricsMillis uint32)
	watching func(ids []string)
	status   func() *probev1.Status

	mu       sync.Mutex
	spool    [][]byte // encoded metrics, oldest first
	spooled  int
	fresh    chan struct{} // something in the spool
	dropped  atomic.Uint64
	up       atomic.Bool
	lastErr  atomic.Pointer[string]
	requests sync.WaitGroup
}

// monitorURL makes the stream's address out of what an operator writes: host, host:port or a URL.
func monitorURL(s string) (string, error) {
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", fmt.Errorf("monitor address %q: %w", s, err)
	}
	switch u.Scheme {
	case "http", "ws":
		u.Scheme = "ws"
	case "https", "wss":
		u.Scheme = "wss"
	default:
		return "", fmt.Errorf("monitor address %q: scheme must be http or https", s)
	}
	if u.Host == "" {
		return "", fmt.Errorf("monitor address %q has no host", s)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "4040")
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/api/v1/probe"
	u.Fragment, u.RawQuery = "", ""
	return u.String(), nil
}

// offer gives the link an encoded frame of metrics. It never blocks: while the monitor is away the oldest are dropped.
func (l *link) offer(data []byte) {
	l.mu.Lock()
	l.spool = append(l.spool, data)
	l.spooled += len(data)
	for l.spooled > spoolBytes && len(l.spool) > 1 {
		l.spooled -= len(l.spool[0])
		l.spool[0] = nil
		l.spool = l.spool[1:]
		l.dropped.Add(1)
	}
	l.mu.Unlock()
	select {
	case l.fresh <- struct{}{}:
	default:
	}
}

func (l *link) run(ctx context.Context) error {
	delay, lost := firstDelay, time.Now()
	for ctx.Err() == nil {
		began := time.Now()
		err := l.connect(ctx)
		if l.up.Swap(false) || time.Since(began) > readTimeout {
			delay, lost = firstDelay, time.Now()
		}
		if ctx.Err() != nil {
			break
		}
		delay = min(delay, longestDelay(err, time.Since(lost)))
		text := err.Error()
		if was := l.lastErr.Swap(&text); was == nil || *was != text {
			l.log.Warn("monitor not connected", "monitor", l.url, "err", err, "retry_in", delay)
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay/2 + rand.N(delay/2+1)):
		}
		delay *= 2
	}
	l.requests.Wait()
	return nil
}

// longestDelay tells how long to wait at most before the next try, by how the last one failed and how long ago the connection
// was lost.
func longestDelay(err error, away time.Duration) time.Duration {
	if away < refusedFor && errors.Is(err, syscall.ECONNREFUSED) {
		return refusedDelay
	}
	return lastDelay
}

func (l *link) connect(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	conn, err := l.open(ctx)
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	conn.SetReadLimit(4 << 20)
	first, last := l.hub.span()
	id := l.identity
	hello := &probev1.Hello{
		ProbeId: id.probeID, Instance: id.instance, Hostname: id.hostname, Version: id.version, Policy: id.policy,
		NowMs: time.Now().UnixMilli(), FirstSeq: first, LastSeq: last,
	}
	if err := l.write(ctx, conn, &probev1.Frame{Hello: hello, Status: l.status()}); err != nil {
		return err
	}
	frame, err := l.read(ctx, conn)
	if err != nil {
		return err
	}
	if frame.Welcome == nil {
		return errors.New("the monitor did not say welcome: is this address a monitor's?")
	}
	l.welcomed(frame.Welcome.MetricsMs)
	l.up.Store(true)
	l.lastErr.Store(nil)
	l.log.Info("monitor connected", "monitor", l.url, "monitor_id", frame.Welcome.MonitorId)

	out := make(chan *probev1.Frame, 64)
	mux := pipe.NewMux(func(p *probev1.Pipe) error {
		select {
		case out <- &probev1.Frame{Pipes: []*probev1.Pipe{p}}:
			return nil
		case <-ctx.Done():
			return pipe.ErrClosed
		}
	})
	want := make(chan struct{}, 1)
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		cancel(l.writer(ctx, conn, frame.Welcome.HaveSeq, out, want))
	}()
	err = l.reader(ctx, conn, mux, out, want)
	cancel(err)
	mux.CloseAll(pipe.ErrClosed)
	l.watching(nil)
	wg.Wait()
	return context.Cause(ctx)
}

func (l *link) open(ctx context.Context) (*websocket.Conn, error) {
	token, err := l.token()
	if err != nil {
		return nil, err
	}
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	tr := &http.Transport{DialContext: l.dial, TLSClientConfig: l.tls, DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}
	conn, resp, err := websocket.Dial(ctx, l.url, &websocket.DialOptions{HTTPClient: &http.Client{Transport: tr}, HTTPHeader: header}) //nolint:bodyclose // the library has closed it
	if err != nil {
		if resp != nil {
			switch resp.StatusCode {
			case http.StatusUnauthorized:
				return nil, errors.New("the monitor refuses this probe's token: make one with POST /api/v1/tokens {\"kind\":\"probe\"} and pass it as --token-file")
			case http.StatusForbidden:
				return nil, errors.New("the monitor forbids this probe: its token or certificate is not one of a probe")
			case http.StatusSwitchingProtocols:
			default:
				return nil, fmt.Errorf("the monitor answers %s", resp.Status)
			}
		}
		return nil, fmt.Errorf("connect to the monitor: %w", err)
	}
	return conn, nil
}

func (l *link) write(ctx context.Context, conn *websocket.Conn, f *probev1.Frame) error {
	data, err := l.codec.Encode(nil, f)
	if err != nil {
		return err
	}
	return l.writeRaw(ctx, conn, data)
}

func (l *link) writeRaw(ctx context.Context, conn *websocket.Conn, data []byte) error {
	ctx, stop := context.WithTimeout(ctx, readTimeout)
	defer stop()
	return conn.Write(ctx, websocket.MessageBinary, data)
}

func (l *link) read(ctx context.Context, conn *websocket.Conn) (*probev1.Frame, error) {
	ctx, stop := context.WithTimeout(ctx, readTimeout)
	defer stop()
	_, data, err := conn.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read from the monitor: %w", err)
	}
	return l.codec.Decode(data)
}

// writer sends deltas in order, then metrics, then answers. It is the only one that writes to the connection.
func (l *link) writer(ctx context.Context, conn *websocket.Conn, have uint64, out <-chan *probev1.Frame, want <-chan struct{}) error {
	seq, snapshot := have, have == 0
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	said, beats := false, 0
	for {
		if snapshot {
			at, data, err := l.hub.snapshot()
			if err != nil {
				return err
			}
			if err := l.writeRaw(ctx, conn, data); err != nil {
				return err
			}
			seq, snapshot, said = at, false, true
		}
		list, more, ok := l.hub.after(seq)
		if !ok {
			snapshot = true
			continue
		}
		for _, d := range list {
			if err := l.writeRaw(ctx, conn, d.data); err != nil {
				return err
			}
			seq, said = d.seq, true
		}
		for {
			l.mu.Lock()
			var data []byte
			if len(l.spool) > 0 {
				data = l.spool[0]
				l.spool[0] = nil
				l.spool = l.spool[1:]
				l.spooled -= len(data)
			}
			l.mu.Unlock()
			if data == nil {
				break
			}
			if err := l.writeRaw(ctx, conn, data); err != nil {
				return err
			}
			said = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		case <-l.fresh:
		case <-want:
			snapshot = true
		case f := <-out:
			if err := l.write(ctx, conn, f); err != nil {
				return err
			}
			said = true
		case <-ticker.C:
			beats++
			f := &probev1.Frame{}
			if beats%5 == 0 {
				f.Status = l.status()
			}
			if !said || f.Status != nil {
				if err := l.write(ctx, conn, f); err != nil {
					return err
				}
			}
			said = false
		}
	}
}

// maxRequests bounds what one monitor may have this probe do at a time.
const maxRequests = 64

func (l *link) reader(ctx context.Context, conn *websocket.Conn, mux *pipe.Mux, out chan<- *probev1.Frame, want chan<- struct{}) error {
	var mu sync.Mutex
	cancels := map[uint64]context.CancelFunc{}
	for {
		f, err := l.read(ctx, conn)
		if err != nil {
			return err
		}
		if f.Want != nil {
			select {
			case want <- struct{}{}:
			default:
			}
		}
		if f.Watch != nil {
			l.watching(f.Watch.Ids)
		}
		for _, req := range f.Requests {
			if req.Cancel != 0 {
				mu.Lock()
				stop := cancels[req.Cancel]
				mu.Unlock()
				if stop != nil {
					stop()
				}
				continue
			}
			answer := func(resp *probev1.Response) {
				resp.Id = req.Id
				select {
				case out <- &probev1.Frame{Responses: []*probev1.Response{resp}}:
				case <-ctx.Done():
				}
			}
			mu.Lock()
			busy := len(cancels) >= maxRequests
			reqCtx, stop := context.WithCancel(ctx)
			if !busy {
				cancels[req.Id] = stop
			}
			mu.Unlock()
			if busy {
				stop()
				answer(&probev1.Response{Code: "too_many", Message: "the probe is busy with other requests", Hint: "try again"})
				continue
			}
			var p *pipe.Pipe
			if req.Pipe != 0 {
				p = mux.Open(req.Pipe)
			}
			l.requests.Go(func() {
				defer func() {
					stop()
					mu.Lock()
					delete(cancels, req.Id)
					mu.Unlock()
				}()
				resp := l.guard(reqCtx, req, p)
				if p != nil {
					p.Close()
				}
				answer(resp)
			})
		}
		for _, p := range f.Pipes {
			mux.Handle(p)
		}
	}
}

// guard keeps a panic in the handling of one request from ending the probe.
func (l *link) guard(ctx context.Context, req *probev1.Request, p *pipe.Pipe) (resp *probev1.Response) {
	defer func() {
		if r := recover(); r != nil {
			l.log.Error("request panicked", "verb", req.Verb, "node", req.Node, "panic", fmt.Sprint(r))
			resp = &probev1.Response{Code: "probe_failed", Message: "the probe failed while doing this"}
		}
	}()
	return l.serve(ctx, req, p)
}
