package owner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/store"
)

// Errors that callers branch on.
var (
	// ErrBusy: the queue of events is full.
	ErrBusy = errors.New("the master is overloaded; try again")
	// ErrStopped: this process does not lead any more.
	ErrStopped = errors.New("the master does not lead any more")
)

// snapshotAge is how old a snapshot may be that a reader gets without asking the owner for a new one.
const snapshotAge = 10 * time.Millisecond

// batch bounds how many events are handled before their effects are carried out.
const batch = 4096

// Edge carries out the effects that concern HTTP: streams, sessions, answers. Apply never blocks.
type Edge interface{ Apply(core.Effect) }

// Submitter is the registry's writer (store.Writer).
type Submitter interface {
	Submit(txn store.Txn, done func(error))
}

// Deps are what the owner works with.
type Deps struct {
	Log   *slog.Logger
	Clock func() time.Time
	Store Submitter
	Edge  Edge
	// QueueLimit bounds the events that may wait; 0 means 65,536.
	QueueLimit int
	// Observe, if set, is told of each batch: how many events, how long they took to handle.
	Observe func(events int, took time.Duration)
}

// Owner owns a core.State. Make it with New, run it with Run; all other methods may be called from any goroutine.
type Owner struct {
	deps  Deps
	state *core.State

	mu      sync.Mutex
	queue   []core.Event
	posted  int // of queue, those that count against the limit
	wake    chan struct{}
	waiters []chan *core.Snapshot
	stopped bool

	published atomic.Pointer[published]
	agents    agents
	fatal     atomic.Pointer[error]
	done      chan struct{}
	life      context.Context // ends with the owner; what depends on the owner hangs on it
	end       context.CancelFunc
}

type published struct {
	snapshot *core.Snapshot
	at       time.Time
}

// New makes the owner of a state that nobody else touches from now on.
func New(state *core.State, deps Deps) *Owner {
	if deps.QueueLimit <= 0 {
		deps.QueueLimit = 65536
	}
	o := &Owner{
		deps: deps, state: state, wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	o.life, o.end = context.WithCancel(context.Background())
	o.agents.init()
	return o
}

// Run handles events until ctx ends (nil) or the registry can't be written any more (its error). Then every agent link is
// closed; streams and calls are the edge's to end.
func (o *Owner) Run(ctx context.Context) error {
	defer o.stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var spare []core.Event
	o.flush() // what recovery has to say
	for {
		o.mu.Lock()
		events := o.queue
		o.queue, spare = spare[:0], nil
		o.posted = 0
		o.mu.Unlock()

		for start := 0; start < len(events); start += batch {
			part := events[start:min(start+batch, len(events))]
			began := time.Now()
			now := o.deps.Clock()
			for _, e := range part {
				o.state.Step(now, e)
			}
			o.flush()
			if o.deps.Observe != nil {
				o.deps.Observe(len(part), time.Since(began))
			}
		}
		clear(events)
		if cap(events) <= 4*batch {
			spare = events
		}
		if err := o.fatal.Load(); err != nil {
			return *err
		}
		o.publish()

		if o.pending() {
			if ctx.Err() != nil {
				return nil
			}
			continue
		}
		wait := time.Hour
		if at, ok := o.state.NextTimer(); ok {
			wait = max(at.Sub(o.deps.Clock()), 0)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-o.wake:
		case <-timer.C:
			o.flush()
		}
	}
}

func (o *Owner) pending() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.queue) > 0 || len(o.waiters) > 0
}

func (o *Owner) flush() {
	for _, e := range o.state.Flush(o.deps.Clock()) {
		o.carryOut(e)
	}
}

// publish answers who waits for a snapshot.
func (o *Owner) publish() {
	o.mu.Lock()
	waiters := o.waiters
	o.waiters = nil
	o.mu.Unlock()
	if len(waiters) == 0 {
		return
	}
	snap := o.state.Publish()
	o.published.Store(&published{snap, time.Now()})
	for _, w := range waiters {
		w <- snap
	}
}

// Snapshot gives the state as it was at most ten milliseconds ago, with every change in it that was answered by then. When
// nobody has read for longer, it waits until the owner is done with its batch and has published; while nobody reads,
// publishing costs nothing. nil: the owner has stopped.
func (o *Owner) Snapshot() *core.Snapshot {
	if p := o.published.Load(); p != nil && time.Since(p.at) < snapshotAge {
		return p.snapshot
	}
	w := make(chan *core.Snapshot, 1)
	o.mu.Lock()
	if o.stopped {
		o.mu.Unlock()
		return nil
	}
	o.waiters = append(o.waiters, w)
	o.mu.Unlock()
	o.signal()
	select {
	case s := <-w:
		return s
	case <-o.done:
		return nil
	}
}

func (o *Owner) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// TryPost queues an event: ErrBusy when the queue is full, ErrStopped when there is no owner any more.
func (o *Owner) TryPost(e core.Event) error {
	o.mu.Lock()
	switch {
	case o.stopped:
		o.mu.Unlock()
		return ErrStopped
	case o.posted >= o.deps.QueueLimit:
		o.mu.Unlock()
		return ErrBusy
	}
	o.queue = append(o.queue, e)
	o.posted++
	first := len(o.queue) == 1
	o.mu.Unlock()
	if first {
		o.signal()
	}
	return nil
}

// postAlways queues an event that must not be lost: it answers or ends something that the state waits for. There are at
// most as many as there were effects or connections, so that the queue stays bounded.
func (o *Owner) postAlways(e core.Event) {
	o.mu.Lock()
	if o.stopped {
		o.mu.Unlock()
		return
	}
	o.queue = append(o.queue, e)
	first := len(o.queue) == 1
	o.mu.Unlock()
	if first {
		o.signal()
	}
}

// carryOut does what one effect asks for.
func (o *Owner) carryOut(e core.Effect) {
	switch e := e.(type) {
	case *core.SendAgent:
		o.agents.send(e.Conn, e.Message)
	case *core.SendAck:
		o.agents.sendAck(e)
	case *core.CloseAgent:
		o.agents.close(e.Conn)
	case *core.Store:
		o.write(e)
	case *core.Log:
		o.deps.Log.Log(context.Background(), e.Level, e.Message, e.Attrs...)
	case *core.Reply:
		// Who was answered may look at once, and must find what it changed.
		o.published.Store(nil)
		o.deps.Edge.Apply(e)
	default:
		o.deps.Edge.Apply(e)
	}
}

// write hands a registry write over. A write that the state waits for is answered whatever happens; one that can't be
// written because another master leads, or because the registry is lost, ends this owner.
func (o *Owner) write(e *core.Store) {
	done := func(err error) {
		if err != nil && !errors.Is(err, store.ErrBusy) && !errors.Is(err, store.ErrConflict) {
			lost := fmt.Errorf("writing the registry: %w", err)
			if o.fatal.CompareAndSwap(nil, &lost) {
				o.deps.Log.Warn("registry lost, stepping down", "error", err)
			}
		}
		o.postAlways(&core.StoreDone{Token: e.Token, Err: err})
	}
	txns := split(e)
	if len(txns) == 1 {
		o.deps.Store.Submit(txns[0], done)
		return
	}
	// Too large for one transaction: the parts take effect in order, and the last one's answer is the whole's. A crash
	// between them leaves a state that each part by itself allows (records of different agents).
	var failed atomic.Pointer[error]
	for i, txn := range txns {
		last := i == len(txns)-1
		o.deps.Store.Submit(txn, func(err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
			if last {
				if f := failed.Load(); f != nil {
					err = *f
				}
				done(err)
			}
		})
	}
}

// split cuts a write into transactions within the store's limits.
func split(e *core.Store) []store.Txn {
	var out []store.Txn
	cur := store.Txn{}
	size := 0
	next := func(add int) {
		if len(cur.Puts)+len(cur.Deletes) >= store.MaxOps || size+add > store.MaxTxn {
			out = append(out, cur)
			cur, size = store.Txn{}, 0
		}
		size += add
	}
	for _, p := range e.Puts {
		next(len(p.Key) + len(p.Value))
		cur.Puts = append(cur.Puts, store.Put{Key: p.Key, Value: p.Value})
	}
	for _, d := range e.Deletes {
		next(len(d))
		cur.Deletes = append(cur.Deletes, d)
	}
	return append(out, cur)
}

// stop ends everything that depends on this owner.
func (o *Owner) stop() {
	o.mu.Lock()
	o.stopped = true
	o.queue = nil
	o.waiters = nil
	o.mu.Unlock()
	close(o.done)
	o.end()
	o.agents.closeAll()
}

// Context is done when the owner has stopped.
func (o *Owner) Context() context.Context { return o.life }

// Done is closed when the owner has stopped.
func (o *Owner) Done() <-chan struct{} { return o.done }
