package marathon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/health"
	"github.com/orchestrator/orchestrator/internal/store"
)

// Sizes of a term's queues. When the events' queue is full whoever brings one waits, which for a request is bounded by its
// own time and for the master's stream is back-pressure on one connection.
const (
	eventQueue  = 8192
	batchEvents = 512
	batchQueue  = 64
)

// keyPrefix is where everything lies in the store.
const keyPrefix = "marathon/"

// term is one time of leading: from the election to the loss of leadership.
type term struct {
	m        *Marathon
	log      *slog.Logger
	machine  *core.Machine
	writer   store.Writer
	events   chan core.Event
	batches  chan []core.Effect // for the committer
	notices  chan []core.Effect // for the publisher: the same
	prober   *health.Prober
	sched    *scheduler
	snapshot atomic.Pointer[core.Snapshot]
	cancel   context.CancelCauseFunc
	done     chan struct{} // closed when the term has ended
	stored   chan struct{} // closed when nothing is stored any more
	group    *errgroup.Group

	mu      sync.Mutex
	waiting map[uint64]chan core.Reply
	token   uint64
}

// leadAgain is the pause before this process contends again after a term that ended by an error.
const leadAgain = time.Second

// lead is one term: load what is stored, then run until leadership is lost.
func (m *Marathon) lead(ctx context.Context, epoch uint64) error {
	log := m.deps.Log.With("epoch", epoch)
	err := m.leadOnce(ctx, epoch, log)
	switch {
	case ctx.Err() != nil || errors.Is(err, errAbdicated):
		log.Info("leadership ended", "reason", err)
		return nil
	case err != nil:
		log.Error("leadership ended by an error; contending again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(leadAgain):
		}
	}
	return nil
}

func (m *Marathon) leadOnce(parent context.Context, epoch uint64, log *slog.Logger) error {
	writer, err := m.store.Claim(parent, epoch)
	if err != nil {
		return fmt.Errorf("claiming the store: %w", err)
	}
	entries, err := m.store.List(parent, keyPrefix)
	if err != nil {
		return fmt.Errorf("loading the state: %w", err)
	}
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	t := &term{
		m: m, log: log, writer: writer, events: make(chan core.Event, eventQueue), batches: make(chan []core.Effect, batchQueue), notices: make(chan []core.Effect, batchQueue),
		cancel: cancel, done: make(chan struct{}), stored: make(chan struct{}), waiting: map[uint64]chan core.Reply{},
	}
	defer t.abandon()
	var seed [32]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return fmt.Errorf("reading randomness: %w", err)
	}
	now := m.deps.Clock()
	t.machine = core.New(m.cfg.options(), seed, now)
	records := make([]core.Record, 0, len(entries))
	for _, e := range entries {
		records = append(records, core.Record{Key: e.Key[len(keyPrefix):], Value: e.Value})
	}
	first, err := t.machine.Load(now, records)
	if err != nil {
		return fmt.Errorf("understanding the stored state: %w", err)
	}
	t.prober = health.New(func(e core.Event) { t.post(ctx, e) }, m.deps.Dial)
	if t.sched, err = newScheduler(t); err != nil {
		return err
	}
	t.snapshot.Store(t.machine.Snapshot())
	m.hub.Open()
	g, ctx := errgroup.WithContext(ctx)
	t.group = g
	g.Go(func() error { return t.own(ctx, first) })
	g.Go(func() error { return t.commit(ctx) })
	g.Go(func() error { return t.publish(ctx) })
	g.Go(func() error { return t.prober.Run(ctx) })
	g.Go(func() error { return t.sched.run(ctx) })
	g.Go(func() error { return t.autoscale(ctx) })
	m.current.Store(t)
	defer m.current.CompareAndSwap(t, nil)
	defer m.hub.Close()
	m.setReady()
	log.Info("leading", "records", len(records), "specs", t.snapshot.Load().Root.Len())
	err = g.Wait()
	if cause := context.Cause(ctx); cause != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = cause
	}
	return err
}

// abandon answers those who still wait.
func (t *term) abandon() {
	close(t.done)
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.waiting)
}

// post gives the owner an event, waiting for room.
func (t *term) post(ctx context.Context, e core.Event) {
	select {
	case t.events <- e:
	case <-ctx.Done():
	case <-t.done:
	}
}

// do sends an event and waits for its answer, which comes when what it changed is durable.
func (t *term) do(ctx context.Context, event func(token any) core.Event) (any, error) {
	answer := make(chan core.Reply, 1)
	t.mu.Lock()
	t.token++
	id := t.token
	t.waiting[id] = answer
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		delete(t.waiting, id)
		t.mu.Unlock()
	}()
	select {
	case t.events <- event(id):
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.done:
		return nil, fmt.Errorf("leadership was lost: %w", context.Canceled)
	}
	select {
	case r := <-answer:
		return r.Value, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.done:
		return nil, fmt.Errorf("leadership was lost; whether the change was made is not known: %w", context.Canceled)
	}
}

// own is the owner: it alone touches the machine.
func (t *term) own(ctx context.Context, first []core.Effect) error {
	emit := func(out []core.Effect) {
		t.snapshot.Store(t.machine.Snapshot())
		if len(out) == 0 {
			return
		}
		select {
		case t.notices <- out:
		case <-ctx.Done():
		}
		select {
		case t.batches <- out:
		case <-t.stored: // the committer has given up
		}
	}
	// What the machine decided is still written when the term ends: the store's fence says whether it counts.
	defer close(t.batches)
	emit(first)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait := time.Hour
		if next := t.machine.Next(); !next.IsZero() {
			wait = max(0, next.Sub(t.m.deps.Clock()))
		}
		timer.Reset(wait)
		var batch []core.Event
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		case e := <-t.events:
			batch = append(batch, e)
			for more := true; more && len(batch) < batchEvents; {
				select {
				case e := <-t.events:
					batch = append(batch, e)
				default:
					more = false
				}
			}
		}
		if t.sched.missed.Swap(false) {
			batch = append(batch, core.CallFailed{})
		}
		emit(t.machine.Step(t.m.deps.Clock(), batch...))
	}
}

// publish gives notices to the subscribers of the event stream as soon as readers of the snapshot can see what they are about,
// which is before it is durable: what is lost in a crash then comes again, because nothing was acknowledged yet.
func (t *term) publish(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case out := <-t.notices:
			for _, e := range out {
				p, ok := e.(core.Publish)
				if !ok {
					continue
				}
				if err := t.m.hub.Publish(p.Notice); err != nil {
					t.log.Error("event not published", "event", p.Notice.Type, "error", err)
				}
			}
		}
	}
}

// commit makes the records of steps durable, several steps together when the store is slower than they come, and then
// carries out their other effects in order.
func (t *term) commit(ctx context.Context) error {
	defer close(t.stored)
	for first := range t.batches {
		batches := [][]core.Effect{first}
		for more := true; more && len(batches) < batchQueue; {
			select {
			case b, ok := <-t.batches:
				if more = ok; ok {
					batches = append(batches, b)
				}
			default:
				more = false
			}
		}
		for _, txn := range transactions(batches) {
			if err := t.write(ctx, txn); err != nil {
				return fmt.Errorf("storing state: %w", err)
			}
		}
		for _, b := range batches {
			for _, e := range b {
				t.carryOut(ctx, e)
			}
		}
	}
	return context.Cause(ctx)
}

// transactions puts the records of several steps into as few transactions as the store's limits allow. Of several writes
// of one key only the last counts, at the place of the last.
func transactions(batches [][]core.Effect) []store.Txn {
	last := map[string]int{}
	n := 0
	each := func(f func(key string, value []byte, del bool)) {
		for _, b := range batches {
			for _, e := range b {
				switch e := e.(type) {
				case core.Put:
					f(e.Key, e.Value, false)
				case core.Delete:
					f(e.Key, nil, true)
				}
			}
		}
	}
	each(func(key string, _ []byte, _ bool) { last[key] = n; n++ })
	var out []store.Txn
	var txn store.Txn
	size, at := 0, 0
	flush := func() {
		if len(txn.Puts)+len(txn.Deletes) > 0 {
			out = append(out, txn)
		}
		txn, size = store.Txn{}, 0
	}
	each(func(key string, value []byte, del bool) {
		mine := at
		at++
		if last[key] != mine {
			return
		}
		key = keyPrefix + key
		cost := len(key) + len(value)
		if len(txn.Puts)+len(txn.Deletes) >= store.MaxOps-1 || size+cost > store.MaxTxn-1024 {
			flush()
		}
		size += cost
		if del {
			txn.Deletes = append(txn.Deletes, key)
		} else {
			txn.Puts = append(txn.Puts, store.Put{Key: key, Value: value})
		}
	})
	flush()
	return out
}

// Writing is tried again while the store only is busy.
const (
	writeTimeout = 15 * time.Second
	busyPause    = 20 * time.Millisecond
)

func (t *term) write(ctx context.Context, txn store.Txn) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	for {
		err := t.writer.Txn(ctx, txn)
		if !errors.Is(err, store.ErrBusy) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(busyPause):
		}
	}
}

func (t *term) carryOut(ctx context.Context, e core.Effect) {
	switch e := e.(type) {
	case core.Put, core.Delete, core.Publish:
	case core.Call:
		t.sched.send(e.Call)
	case core.Roles:
		t.sched.roles(e.Roles)
	case core.Reply:
		id, _ := e.Token.(uint64)
		t.mu.Lock()
		answer := t.waiting[id]
		t.mu.Unlock()
		if answer != nil {
			answer <- e
		}
	case core.Probe:
		t.prober.Health(e)
	case core.CheckReadiness:
		t.prober.Readiness(e)
	case core.Unprobe:
		t.prober.Remove(e.Instance)
	case core.Query:
		t.query(ctx, e)
	}
}
