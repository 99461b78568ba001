package zksync

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk/learner"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/txn"
)

// event is one thing that the source sent: a snapshot (fuzzy until live), a transaction, that the follower is live, a patch, or
// why it can't be followed until a person does something.
type event struct {
	snapshot *tree.Tree
	txn      *txn.Txn
	live     bool
	patch    []reading // nodes as a watcher has read them, at zxid or later
	zxid     int64
	refused  error
	arrived  time.Time
}

// errOverflow makes the follower disconnect because the queue is full.
var errOverflow = errors.New("the target does not keep up: the queue is full")

// follower keeps a connection to the source and queues what it sends. It never waits for who empties the queue: when that
// holds more than limit bytes, it disconnects and joins again where it stopped once half is taken.
type follower struct {
	quorum []string
	deps   learner.Deps
	id     int64
	log    *slog.Logger
	limit  int

	mu     sync.Mutex
	queue  []event
	bytes  int
	last   int64 // the last transaction queued; freshStart when there is none
	err    error // why there is no connection now
	wake   chan struct{}
	room   chan struct{}
	live   bool
	joined int // connections that were accepted
}

func newFollower(quorum []string, deps learner.Deps, id int64, limit int, log *slog.Logger) *follower {
	return &follower{quorum: quorum, deps: deps, id: id, log: log, limit: limit, last: freshStart, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func (f *follower) push(e event, size int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bytes > f.limit && e.txn != nil {
		return errOverflow
	}
	f.bytes += size
	f.queue = append(f.queue, e)
	if e.txn != nil && e.txn.Zxid > f.last {
		f.last = e.txn.Zxid
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return nil
}

// take returns everything that is queued.
func (f *follower) take() []event {
	f.mu.Lock()
	defer f.mu.Unlock()
	q := f.queue
	f.queue, f.bytes = nil, 0
	select {
	case f.room <- struct{}{}:
	default:
	}
	return q
}

// depth is the number of events and bytes that wait, and why there is no connection, if there is none.
func (f *follower) depth() (events, bytes int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.queue), f.bytes, f.err
}

// oldest is when the oldest event that is queued was read; zero when there is none.
func (f *follower) oldest() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.queue {
		if !f.queue[i].arrived.IsZero() {
			return f.queue[i].arrived
		}
	}
	return time.Time{}
}

// restart forgets the position: the next connection begins with a snapshot.
func (f *follower) restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = freshStart
}

// Begin implements learner.Handler.
func (f *follower) Begin(t *tree.Tree) error {
	f.mu.Lock()
	f.err = nil
	f.joined++
	fresh := f.last == freshStart
	if t != nil {
		f.last = t.Zxid()
	}
	f.mu.Unlock()
	if t == nil {
		if fresh {
			return errors.New("the source sent no snapshot though none was there to build on")
		}
		return nil
	}
	return f.push(event{snapshot: t}, 0)
}

// Txn implements learner.Handler.
func (f *follower) Txn(x *txn.Txn) error {
	size := 200
	for i := range x.Ops {
		size += len(x.Ops[i].Data) + len(x.Ops[i].Path) + 100
	}
	return f.push(event{txn: x, arrived: time.Now()}, size)
}

// isLive reports whether the source has sent all that it had when the follower joined.
func (f *follower) isLive() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.live
}

// Live implements learner.Handler.
func (f *follower) Live() error {
	f.mu.Lock()
	f.live = true
	f.mu.Unlock()
	return f.push(event{live: true}, 0)
}

// Idle implements learner.Handler.
func (f *follower) Idle() error { return nil }

// fail notes why there is no connection; nil when there is one again.
func (f *follower) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.live = err, err == nil && f.live
}

// patch queues what a watcher has read.
func (f *follower) patch(list []reading, zxid int64) error {
	size := 0
	for i := range list {
		size += len(list[i].data) + len(list[i].path) + 200
	}
	return f.push(event{patch: list, zxid: zxid, arrived: time.Now()}, size)
}

// empty waits until the queue has been taken.
func (f *follower) empty(ctx context.Context) error {
	for {
		f.mu.Lock()
		n := len(f.queue)
		f.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-f.room: // an old token may be here: look again
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// run follows until ctx ends.
func (f *follower) run(ctx context.Context) {
	delay := 10 * time.Millisecond
	for ctx.Err() == nil {
		f.mu.Lock()
		last, joined := f.last, f.joined
		f.mu.Unlock()
		err := learner.Run(ctx, learner.Config{Addrs: f.quorum, ServerID: f.id, Last: last, Silence: 10 * time.Second}, f.deps, f)
		if ctx.Err() != nil {
			return
		}
		f.mu.Lock()
		f.err, f.live = err, false
		if f.joined > joined {
			delay = 10 * time.Millisecond
		}
		f.mu.Unlock()
		switch {
		case errors.Is(err, errOverflow):
			f.log.Warn("source paused", "error", err)
			select {
			case <-f.room: // an old token may be here: the first push tells
			case <-ctx.Done():
			}
		case errors.Is(err, learner.ErrTruncate):
			f.log.Warn("source has forgotten our position: starting over from a snapshot", "position", last)
			f.restart()
		default:
			f.log.Info("source connection lost", "error", err)
		}
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		delay = min(delay*2, time.Second)
	}
}
