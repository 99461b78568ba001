package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	"github.com/orchestrator/orchestrator/internal/agent/core"
	"github.com/orchestrator/orchestrator/internal/election"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/link"
)

const (
	// maxBackoff is the longest wait between two attempts to register (Mesos: REGISTER_RETRY_INTERVAL_MAX).
	maxBackoff = time.Minute
	// maxRedirects bounds a ring of masters that each take another one for the leader.
	maxRedirects = 5
	// masterChannel is the channel of an agent that dials by itself.
	masterChannel = 0
)

// masterLink holds the connection to the leading master.
type masterLink struct {
	a       *Agent
	metrics *link.Metrics

	mu        sync.Mutex
	conn      *link.Conn
	session   uint64
	connected atomic.Bool
	principal string
	secret    string
}

func newMasterLink(a *Agent) *masterLink {
	return &masterLink{a: a, metrics: link.NewMetrics(a.deps.Metrics.Registerer(), "agent")}
}

// send is for the committer: it never waits.
func (l *masterLink) send(session uint64, m *linkv1.Message) {
	l.mu.Lock()
	conn := l.conn
	if session != l.session {
		conn = nil // said to a connection that is gone
	}
	l.mu.Unlock()
	if conn != nil {
		conn.Send(masterChannel, m)
	}
}

// drop ends a connection; run makes another one.
func (l *masterLink) drop(session uint64, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil && session == l.session {
		l.conn.Abort(errors.New(reason))
	}
}

// flush lets what was said be written before the process ends.
func (l *masterLink) flush() {
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	if conn == nil {
		return
	}
	conn.Close()
	select {
	case <-conn.Done():
	case <-time.After(2 * time.Second):
	}
}

// leaders watches the detector and cancels what depends on the leader that was.
func (l *masterLink) leaders(ctx context.Context, out chan<- *election.Leader) {
	var known *election.Leader
	for {
		next, err := l.a.deps.Detector.Detect(ctx, known)
		if err != nil {
			return
		}
		known = next
		select {
		case out <- next:
		case <-ctx.Done():
			return
		}
	}
}

// run connects to whoever leads, for as long as the agent lives.
func (l *masterLink) run(ctx context.Context) error {
	if err := l.loadCredential(); err != nil {
		return err
	}
	select {
	case <-l.a.recovered:
	case <-ctx.Done():
		return nil
	}
	found := make(chan *election.Leader)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { l.leaders(ctx, found) })

	var leader *election.Leader
	for ctx.Err() == nil {
		if leader == nil {
			l.a.log.Info("looking for the leading master")
			select {
			case leader = <-found:
			case <-ctx.Done():
				return nil
			}
			continue
		}
		term, end := context.WithCancelCause(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.follow(term, leader)
		}()
		for next := (*election.Leader)(nil); next == nil; {
			select {
			case next = <-found:
				// Nobody leads, or nobody can tell: the connection that stands is worth more than none.
			case <-done:
				next = leader
			}
			if next != nil {
				leader = next
			}
		}
		end(errors.New("the leader changed"))
		<-done
	}
	return nil
}

// follow keeps a connection to one leader until another leads.
func (l *masterLink) follow(ctx context.Context, leader *election.Leader) {
	addresses := []string{leader.Address}
	if len(l.a.addresses) > 1 {
		addresses = l.a.addresses
	}
	failures := 0
	for i := 0; ctx.Err() == nil; i++ {
		registered, err := l.connect(ctx, addresses[i%len(addresses)])
		if ctx.Err() != nil {
			return
		}
		if registered {
			failures = 0
		}
		wait := backoff(l.a.cfg.BackoffFactor, failures)
		failures++
		l.a.log.Warn("no link to the master; trying again", "master", addresses[i%len(addresses)], "err", err, "wait", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// backoff is a random wait: up to a sixteenth of the factor after the first failure, twice as much after each further one.
// (Mesos begins with the whole factor; a master that comes back should not wait for its agents.)
func backoff(factor time.Duration, failures int) time.Duration {
	limit := min(factor/16<<min(failures, 20), maxBackoff)
	if limit <= 0 {
		return 0
	}
	return rand.N(limit) + limit/16
}

// connect follows redirects, registers, and serves the connection until it ends.
func (l *masterLink) connect(ctx context.Context, address string) (registered bool, err error) {
	for range maxRedirects {
		var conn *link.Conn
		conn, err = link.Dial(ctx, link.DialConfig{
			Address: address, Principal: l.principal, Secret: l.secret, Dial: l.a.deps.Dial,
			Link: link.Config{IdleTimeout: l.a.cfg.PingTimeout, Metrics: l.metrics},
		})
		var redirect *link.RedirectError
		if errors.As(err, &redirect) {
			address = redirect.Leader
			continue
		}
		if err != nil {
			var status *wire.StatusError
			if errors.As(err, &status) && status.Status == 401 {
				return false, fmt.Errorf("%w: check --credential", err)
			}
			return false, err
		}
		return l.serve(ctx, conn)
	}
	return false, fmt.Errorf("more than %d redirects: the masters disagree about who leads", maxRedirects)
}

// serve hands the master's messages to the owner. Pings are answered here: they ask whether the agent lives, not whether
// its disk is fast.
func (l *masterLink) serve(ctx context.Context, conn *link.Conn) (registered bool, err error) {
	l.mu.Lock()
	l.session++
	session := l.session
	l.conn = conn
	l.mu.Unlock()
	l.a.log.Info("linked to the master", "master", conn.RemoteAddr().String())
	if err := l.a.post(ctx, core.LinkUp{Session: session}); err != nil {
		conn.Abort(err)
	}
	err = conn.Run(ctx, func(_ uint64, msgs []*linkv1.Message, closed bool) error {
		for _, m := range msgs {
			switch k := m.GetKind().(type) {
			case *linkv1.Message_Ping:
				conn.Send(masterChannel, &linkv1.Message{Kind: &linkv1.Message_Pong{Pong: &linkv1.Pong{Sequence: k.Ping.Sequence}}})
				l.a.metrics.pings.Inc()
				if k.Ping.GetConnected() {
					continue
				}
			case *linkv1.Message_Registered:
				registered = true
				l.connected.Store(true)
				if ms := k.Registered.GetPingTimeoutMs(); ms > 0 {
					conn.SetIdleTimeout(time.Duration(ms) * time.Millisecond)
				}
			}
			if err := l.a.post(ctx, core.FromMaster{Message: m}); err != nil {
				return err
			}
		}
		if closed {
			return errors.New("the master closed this agent's channel")
		}
		return nil
	})
	l.connected.Store(false)
	l.mu.Lock()
	l.conn = nil
	l.mu.Unlock()
	// Told even while the agent stops: it is the last thing that is said about this connection.
	_ = l.a.post(ctx, core.LinkDown{})
	return registered, err
}

// loadCredential reads --credential: "principal secret", or Mesos' JSON object.
func (l *masterLink) loadCredential() error {
	if l.a.cfg.Credential == "" {
		return nil
	}
	data, err := os.ReadFile(string(l.a.cfg.Credential))
	if err != nil {
		return fmt.Errorf("read --credential: %w", err)
	}
	l.principal, l.secret, err = parseCredential(strings.TrimSpace(string(data)))
	return err
}
