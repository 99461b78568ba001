// Package health runs the checks that Marathon makes itself over the network: HTTP, HTTPS and TCP health checks, and
// readiness checks. It decides nothing: results go to whoever made it.
//
// Called by internal/marathon with the core's Probe effects. Invariants: no more than fixed numbers of quick and of slow
// probes are in flight; one check of one task never has two; a probe never outlasts its timeout; what was removed is not reported.
package health

import (
	"container/heap"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// MaxInFlight bounds the probes under way at once. One that takes longer than slowAfter doesn't count any more, so that endpoints
// that hang, for as long as their timeouts allow, don't keep the others from being probed; of those there are at most MaxSlow.
const (
	MaxInFlight = 256
	MaxSlow     = 8192
	slowAfter   = time.Second
)

// maxBody bounds what is read of an answer; a readiness check that keeps the last response keeps no more than this.
const maxBody = 8 << 10

// Prober runs checks until they are removed.
type Prober struct {
	report func(core.Event)
	client *http.Client
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	now    func() time.Time

	mu    sync.Mutex
	heap  checks
	byKey map[string]*check
	wake  chan struct{}
	slots chan struct{}
	slow  chan struct{}
}

type check struct {
	key      string
	instance string
	interval time.Duration
	timeout  time.Duration
	next     time.Time
	index    int // in the heap; -1: in flight
	gone     bool
	run      func(ctx context.Context) (event core.Event, done bool)
}

type checks []*check

func (c checks) Len() int           { return len(c) }
func (c checks) Less(i, j int) bool { return c[i].next.Before(c[j].next) }
func (c checks) Swap(i, j int)      { c[i], c[j] = c[j], c[i]; c[i].index, c[j].index = i, j }
func (c *checks) Push(x any)        { x.(*check).index = len(*c); *c = append(*c, x.(*check)) }
func (c *checks) Pop() any {
	old := *c
	x := old[len(old)-1]
	*c = old[:len(old)-1]
	x.index = -1
	return x
}

// New makes a prober. dial nil stands for TCP; report must not block for long.
func New(report func(core.Event), dial func(ctx context.Context, network, address string) (net.Conn, error)) *Prober {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	p := &Prober{report: report, dial: dial, now: time.Now, byKey: map[string]*check{}, wake: make(chan struct{}, 1), slots: make(chan struct{}, MaxInFlight), slow: make(chan struct{}, MaxSlow)}
	p.client = &http.Client{
		Transport: &http.Transport{
			DialContext: dial, DisableKeepAlives: true, DisableCompression: true,
			// Marathon doesn't verify either: checks go to addresses, which certificates don't name.
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		}, //nolint:gosec // see above
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return p
}

// Run probes until ctx ends, and waits for what is in flight.
func (p *Prober) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		p.mu.Lock()
		var due *check
		wait := time.Hour
		if len(p.heap) > 0 {
			if wait = p.heap[0].next.Sub(p.now()); wait <= 0 {
				due = heap.Pop(&p.heap).(*check)
			}
		}
		p.mu.Unlock()
		if due == nil {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return nil
			case <-timer.C:
			case <-p.wake:
			}
			continue
		}
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer p.leave()()
			p.probe(ctx, due)
		}()
	}
}

// leave gives a slot back: when the function that it returns is called, or earlier to whoever waits when that takes long.
func (p *Prober) leave() func() {
	var mu sync.Mutex
	done, moved := false, false
	timer := time.AfterFunc(slowAfter, func() {
		mu.Lock()
		defer mu.Unlock()
		if done {
			return
		}
		select {
		case p.slow <- struct{}{}:
			moved = true
			<-p.slots
		default: // there are too many of these, too
		}
	})
	return func() {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		done = true
		if moved {
			<-p.slow
		} else {
			<-p.slots
		}
	}
}

func (p *Prober) probe(ctx context.Context, c *check) {
	tctx, cancel := context.WithTimeout(ctx, c.timeout)
	event, done := c.run(tctx)
	cancel()
	p.mu.Lock()
	gone := c.gone || ctx.Err() != nil
	if !gone {
		if done {
			delete(p.byKey, c.key)
		} else {
			c.next = p.now().Add(c.interval)
			heap.Push(&p.heap, c)
		}
	}
	p.mu.Unlock()
	p.poke() // Run may sleep for longer than until this check is due again
	if !gone {
		p.report(event)
	}
}

// poke makes Run look at the heap again.
func (p *Prober) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// firstProbe is the longest that the first probe of a task waits.
const firstProbe = 5 * time.Second

func (p *Prober) add(c *check) {
	p.mu.Lock()
	if _, ok := p.byKey[c.key]; ok {
		p.mu.Unlock()
		return
	}
	c.next = p.now().Add(min(c.interval, firstProbe))
	p.byKey[c.key] = c
	heap.Push(&p.heap, c)
	p.mu.Unlock()
	p.poke()
}

// Remove ends the checks of an instance.
func (p *Prober) Remove(instance string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := 0; ; i++ {
		found := false
		for _, suffix := range []string{"/" + strconv.Itoa(i), "/ready"} {
			if c := p.byKey[instance+suffix]; c != nil {
				found = true
				c.gone = true
				delete(p.byKey, c.key)
				if c.index >= 0 {
					heap.Remove(&p.heap, c.index)
				}
			}
		}
		if !found && i >= maxChecks {
			return
		}
	}
}

// maxChecks is how many checks one instance can have.
const maxChecks = 100

// Clear ends all checks.
func (p *Prober) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, c := range p.byKey {
		c.gone = true
		delete(p.byKey, k)
	}
	p.heap = nil
}

// Len is how many checks there are.
func (p *Prober) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.byKey)
}

// Health adds a health check of a task.
func (p *Prober) Health(e core.Probe) {
	h := e.Check
	address := net.JoinHostPort(e.Host, strconv.Itoa(e.Port))
	interval := max(time.Duration(h.IntervalSeconds)*time.Second, 100*time.Millisecond)
	result := func(err error, ignore bool) core.Event {
		r := core.HealthResult{Instance: e.Instance, Task: e.Task, Index: e.Index, Alive: err == nil, Ignore: ignore}
		if err != nil {
			r.Cause = err.Error()
		}
		return r
	}
	c := &check{key: e.Instance + "/" + strconv.Itoa(e.Index), instance: e.Instance, interval: interval, timeout: max(time.Duration(h.TimeoutSeconds)*time.Second, 100*time.Millisecond)}
	c.run = func(ctx context.Context) (core.Event, bool) {
		if h.Protocol == spec.ProtocolTCP {
			conn, err := p.dial(ctx, "tcp", address)
			if err == nil {
				conn.Close()
			}
			return result(err, false), false
		}
		status, _, _, err := p.get(ctx, h.Protocol == spec.ProtocolHTTPS, address, h.Path)
		switch {
		case err != nil:
			return result(err, false), false
		case status < 200 && h.IgnoreHTTP1xx != nil && *h.IgnoreHTTP1xx:
			return result(nil, true), false
		case status < 200 || status > 399:
			return result(fmt.Errorf("%d %s", status, http.StatusText(status)), false), false
		}
		return result(nil, false), false
	}
	p.add(c)
}

// Readiness adds a readiness check; it ends by itself when the task is ready.
func (p *Prober) Readiness(e core.CheckReadiness) {
	h := e.Check
	address := net.JoinHostPort(e.Host, strconv.Itoa(e.Port))
	c := &check{key: e.Instance + "/ready", instance: e.Instance, interval: max(time.Duration(h.IntervalSeconds)*time.Second, 100*time.Millisecond), timeout: max(time.Duration(h.TimeoutSeconds)*time.Second, 100*time.Millisecond)}
	c.run = func(ctx context.Context) (core.Event, bool) {
		status, kind, body, err := p.get(ctx, h.Protocol == "HTTPS", address, h.Path)
		r := core.Readiness{Name: h.Name, Ready: err == nil && slices.Contains(h.HTTPStatusCodesForReady, status), Status: status}
		if h.PreserveLastResponse {
			r.ContentType, r.Body = kind, body
			if err != nil {
				r.Status, r.ContentType, r.Body = http.StatusGatewayTimeout, "text/plain", "Marathon could not query readiness check: "+err.Error()
			}
		}
		return core.ReadinessResult{Instance: e.Instance, Task: e.Task, Readiness: r}, r.Ready
	}
	p.add(c)
}

func (p *Prober) get(ctx context.Context, secure bool, address, path string) (status int, kind, body string, err error) {
	scheme := "http"
	if secure {
		scheme = "https"
	}
	if path == "" || path[0] != '/' {
		path = "/" + path
	}
	u, err := url.Parse(scheme + "://" + address + path)
	if err != nil {
		return 0, "", "", fmt.Errorf("the path of the check is no valid URL: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 0, "", "", err
	}
	req.Header.Set("User-Agent", "orchestrator-health-check")
	resp, err := p.client.Do(req)
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded) {
			return 0, "", "", errors.New("no answer in time")
		}
		return 0, "", "", err
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(b), nil
}
