package executor

import (
	"bufio"
	"context"
	"sync"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/execlink/message"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/unixsock"
)

// Limits of the link, the helper's end.
const (
	dialTimeout = 5 * time.Second
	sendTimeout = 10 * time.Second
	firstRetry  = 10 * time.Millisecond
	// lastRetry is below the agent's executor_reregistration_timeout of 2 s: after a restart the agent waits no longer.
	lastRetry = 250 * time.Millisecond
	// silence is how long the agent, which sends a heartbeat every 30 s, may say nothing.
	silence = 5 * time.Minute
)

// What the link tells its owner.
type (
	linkUp struct {
		conn  sender
		begun chan bool
	}
	linkDown struct{}
	linkSays struct{ down message.Down }
)

// link keeps a connection to the agent. Requests about nested containers outlive a connection: they are asked again.
type link struct {
	cfg    spec.Link
	events chan any

	mu         sync.Mutex
	conn       sender
	subscribed bool
	next       uint64
	pending    map[uint64]*request
}

type sender interface {
	Write([]byte) (int, error)
	SetWriteDeadline(time.Time) error
	Close() error
}

type request struct {
	up     message.Up
	answer chan message.Result
}

func newLink(cfg spec.Link) *link {
	return &link{cfg: cfg, events: make(chan any, 64), pending: make(map[uint64]*request)}
}

// run connects, and connects again, until ctx ends.
func (l *link) run(ctx context.Context) {
	retry := firstRetry
	for ctx.Err() == nil {
		c, err := unixsock.Dial(l.cfg.Socket, dialTimeout)
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(retry):
			}
			retry = min(2*retry, lastRetry)
			continue
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		l.mu.Lock()
		l.conn, l.subscribed = nil, false
		l.mu.Unlock()
		if l.open(ctx, c) {
			r := bufio.NewReader(c)
			for {
				_ = c.SetReadDeadline(time.Now().Add(silence))
				var d message.Down
				if err := message.Read(r, &d); err != nil {
					break
				}
				retry = firstRetry
				l.received(ctx, d)
			}
		}
		stop()
		c.Close()
		l.mu.Lock()
		l.conn, l.subscribed = nil, false
		l.mu.Unlock()
		l.tell(ctx, linkDown{})
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
		retry = min(2*retry, lastRetry)
	}
}

// open hands a new connection to the owner, who begins it with what its state says at that moment.
func (l *link) open(ctx context.Context, c sender) bool {
	up := linkUp{conn: c, begun: make(chan bool, 1)}
	if !l.tell(ctx, up) {
		return false
	}
	select {
	case ok := <-up.begun:
		return ok
	case <-ctx.Done():
		return false
	}
}

// begin subscribes on a new connection: the owner's answer to linkUp. Whatever the owner sends later follows on it.
func (l *link) begin(up linkUp, s message.Subscribe) {
	s.FrameworkID, s.ExecutorID, s.Token = l.cfg.FrameworkID, l.cfg.ExecutorID, l.cfg.Token
	l.mu.Lock()
	l.conn = up.conn
	ok := l.write(message.Up{Subscribe: &s})
	l.mu.Unlock()
	up.begun <- ok // has room for it
}

func (l *link) tell(ctx context.Context, ev any) bool {
	select {
	case l.events <- ev:
		return true
	case <-ctx.Done():
		return false
	}
}

func (l *link) received(ctx context.Context, d message.Down) {
	switch {
	case d.Result != nil:
		l.mu.Lock()
		r := l.pending[d.Result.Request]
		delete(l.pending, d.Result.Request)
		l.mu.Unlock()
		if r != nil {
			r.answer <- *d.Result // has room for it
		}
		return
	case d.Subscribed != nil:
		l.mu.Lock()
		l.subscribed = true
		for _, r := range l.pending {
			l.write(r.up)
		}
		l.mu.Unlock()
	case d.Heartbeat:
		return
	}
	l.tell(ctx, linkSays{d})
}

// write sends one frame; without a connection it does nothing. The lock is held.
func (l *link) write(up message.Up) bool {
	if l.conn == nil {
		return false
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	if err := message.Write(l.conn, up); err != nil {
		l.conn.Close()
		l.conn = nil
		return false
	}
	return true
}

// send sends an update if there is a connection; else it travels with the next subscribe.
func (l *link) send(u message.Update) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write(message.Up{Update: &u})
}

// ask sends a request about a nested container. The answer comes once, however often the connection breaks; false when
// ctx ended first.
func (l *link) ask(ctx context.Context, make1 func(n uint64) message.Up) (message.Result, bool) {
	r := &request{answer: make(chan message.Result, 1)}
	l.mu.Lock()
	l.next++
	n := l.next
	r.up = make1(n)
	l.pending[n] = r
	if l.subscribed {
		l.write(r.up)
	}
	l.mu.Unlock()
	select {
	case res := <-r.answer:
		return res, true
	case <-ctx.Done():
		l.mu.Lock()
		delete(l.pending, n)
		l.mu.Unlock()
		return message.Result{}, false
	}
}
