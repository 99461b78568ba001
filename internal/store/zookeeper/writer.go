package zookeeper

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/orchestrator/orchestrator/internal/store"
	"github.com/orchestrator/orchestrator/internal/zk"
)

const (
	// queueLimit is how many transactions may wait: beyond it Submit answers ErrBusy.
	queueLimit = 1 << 16
	// Bounds of one multi. A transaction larger than that goes alone.
	batchOps   = 1000
	batchBytes = 512 << 10
	// requestLimit is ZooKeeper's jute.maxbuffer, less what surrounds the operations.
	requestLimit = 0xfffff - 1024
	// inFlight is how many multis may be under way: one to fill the wire, the others to fill the next.
	inFlight = 4
)

type request struct {
	txn  store.Txn
	done func(error)
}

// batch is what goes into one multi.
type batch struct {
	ops     []zk.Op
	bytes   int
	base    int32 // the version of the writer's node before it
	answers []answer
	err     error // the multi's outcome, while that is not the last word
}

// answer is what a transaction is told once everything before it, and itself, is durable.
type answer struct {
	done func(error)
	err  error
}

type outcome struct {
	b   *batch
	err error
}

// writer is a store.Writer. Its run goroutine owns all but the queue.
type writer struct {
	s     *Store
	epoch uint64
	path  string
	queue chan request
	done  chan struct{}

	index   map[string]uint64 // the version of every key, as it will be when all that was planned has taken effect
	next    int32             // the version that the writer's node will have then
	current *batch            // being filled
	held    *request          // does not fit into current and comes next
	sent    []*batch          // under way, in order
	pending int               // of those, not answered yet
	unsure  bool              // an outcome is unknown: nothing is sent until it is known
	results chan outcome
	failed  error // nothing can be written any more
}

func newWriter(s *Store, epoch uint64, entries []store.Entry) *writer {
	w := &writer{
		s: s, epoch: epoch, path: s.writerPath(epoch), queue: make(chan request, queueLimit), done: make(chan struct{}),
		index: make(map[string]uint64, len(entries)), current: &batch{}, results: make(chan outcome, inFlight),
	}
	for _, e := range entries {
		w.index[e.Key] = e.Version
	}
	return w
}

// Epoch implements store.Writer.
func (w *writer) Epoch() uint64 { return w.epoch }

// Txn implements store.Writer.
func (w *writer) Txn(ctx context.Context, txn store.Txn) error {
	return store.Await(ctx, w.Submit, txn)
}

// Submit implements store.Writer.
func (w *writer) Submit(txn store.Txn, done func(error)) {
	if err := txn.Validate(); err != nil {
		done(err)
		return
	}
	// Values are encoded here: that makes the copy that the contract asks for, on the caller's time.
	own := store.Txn{Checks: append([]store.Check(nil), txn.Checks...), Deletes: append([]string(nil), txn.Deletes...)}
	for _, p := range txn.Puts {
		own.Puts = append(own.Puts, store.Put{Key: p.Key, Value: encodeValue(p.Key, p.Value)})
	}
	// Under the lock, so that Close knows that the queue gets no more.
	w.s.mu.Lock()
	if w.s.closed {
		w.s.mu.Unlock()
		done(store.ErrClosed)
		return
	}
	if w.s.loadedBy == w {
		w.s.loaded, w.s.loadedBy = nil, nil
	}
	ok := true
	select {
	case w.queue <- request{own, done}:
	default:
		ok = false
	}
	w.s.mu.Unlock()
	if !ok {
		done(fmt.Errorf("%w: %d transactions wait", store.ErrBusy, queueLimit))
	}
}

// run plans, sends and answers until the store is closed and everything was answered.
func (w *writer) run() {
	defer close(w.done)
	closing := w.s.closing
	for {
		w.fill()
		if closing == nil && len(w.queue) == 0 && len(w.sent) == 0 && len(w.current.answers) == 0 {
			return
		}
		queue := w.queue
		if w.full() || w.failed == nil && closing == nil && len(w.queue) == 0 {
			queue = nil
		}
		select {
		case r := <-queue:
			w.plan(r)
		case o := <-w.results:
			w.finish(o)
		case <-closing:
			closing = nil
		case <-w.s.ctx.Done():
			w.abort(context.Cause(w.s.ctx))
			return
		}
	}
}

// full reports whether the current batch takes no more until a place in flight is free.
func (w *writer) full() bool {
	return w.held != nil || len(w.current.ops) >= batchOps || w.current.bytes >= batchBytes || len(w.current.answers) >= batchOps
}

// fill takes what waits into batches and sends as many as may be under way.
func (w *writer) fill() {
	for {
		for !w.full() {
			select {
			case r := <-w.queue:
				w.plan(r)
				continue
			default:
			}
			break
		}
		if len(w.current.answers) == 0 || w.unsure || len(w.sent) >= inFlight || w.failed != nil {
			return
		}
		w.send()
		if r := w.held; r != nil {
			w.held = nil
			w.plan(*r)
		}
	}
}

// plan decides a transaction and adds it to the current batch.
func (w *writer) plan(r request) {
	if w.failed != nil {
		r.done(w.failed)
		return
	}
	refuse := func(err error) { w.current.answers = append(w.current.answers, answer{r.done, err}) }
	for _, c := range r.txn.Checks {
		if v := w.index[c.Key]; v != c.Version {
			refuse(fmt.Errorf("%w: key %s has version %d, not %d", store.ErrConflict, c.Key, v, c.Version))
			return
		}
	}
	ops := make([]zk.Op, 0, len(r.txn.Puts)+len(r.txn.Deletes))
	bytes := 0
	for _, p := range r.txn.Puts {
		path := w.s.keyPath(p.Key)
		if v := w.index[p.Key]; v == 0 {
			ops = append(ops, zk.Create(path, p.Value, w.s.acl, zk.Persistent))
		} else {
			ops = append(ops, zk.Set(path, p.Value, int32(v-1)))
		}
		bytes += len(path) + len(p.Value) + 100
	}
	for _, k := range r.txn.Deletes {
		if v := w.index[k]; v != 0 {
			path := w.s.keyPath(k)
			ops = append(ops, zk.Delete(path, int32(v-1)))
			bytes += len(path) + 30
		}
	}
	if bytes > requestLimit {
		refuse(fmt.Errorf("transaction takes %d bytes in ZooKeeper, which takes %d at once; write less in one transaction", bytes, requestLimit))
		return
	}
	if len(w.current.ops) > 0 && (w.current.bytes+bytes > requestLimit || len(w.current.ops)+len(ops) > 2*batchOps) {
		w.held = &r // a big one: it waits until what is there was sent
		return
	}
	for _, p := range r.txn.Puts {
		w.index[p.Key]++
	}
	for _, k := range r.txn.Deletes {
		delete(w.index, k)
	}
	w.current.ops = append(w.current.ops, ops...)
	w.current.bytes += bytes
	w.current.answers = append(w.current.answers, answer{done: r.done})
}

// send starts the current batch on its way. One without operations (its transactions were refused, or change nothing) goes
// too: whoever gets an answer must know that the fence held.
func (w *writer) send() {
	b := w.current
	w.current = &batch{}
	b.base = w.next
	if w.next == math.MaxInt32-1 {
		w.current = b
		w.fail(fmt.Errorf("%w: epoch %d has used up its numbers after two thousand million batches; lead anew", store.ErrFenced, w.epoch))
		return
	}
	w.next++
	w.sent = append(w.sent, b)
	w.post(b)
}

func (w *writer) post(b *batch) {
	b.err = nil
	w.pending++
	ops := append([]zk.Op{zk.Set(w.path, nil, b.base)}, b.ops...)
	if err := w.s.c.Send(zk.Multi(ops...), func(_ zk.Result, err error) { w.results <- outcome{b, err} }); err != nil {
		w.results <- outcome{b, err}
	}
}

// finish takes a multi's outcome.
func (w *writer) finish(o outcome) {
	w.pending--
	o.b.err = o.err
	var m *zk.MultiError
	switch {
	case w.failed != nil:
		return
	case o.err == nil:
		// No batch can succeed unless all before it did, also those whose answers were lost.
		for len(w.sent) > 0 && w.sent[0].base <= o.b.base {
			w.release()
		}
	case errors.As(o.err, &m) && m.Index == 0 && m.Err == zk.ErrBadVersion && w.unsure:
		// The batch in front of it did not take effect: it will be sent again.
	case errors.As(o.err, &m) && m.Index == 0 && (m.Err == zk.ErrNoNode || m.Err == zk.ErrBadVersion):
		w.fail(fmt.Errorf("%w: epoch %d is over", store.ErrFenced, w.epoch))
		return
	case transient(o.err):
		w.unsure = true
	default:
		w.fail(fmt.Errorf("%w: the registry under %s cannot be written, or was changed by something else: %w", store.ErrFenced, w.s.cfg.Path, o.err))
		return
	}
	if w.unsure && w.pending == 0 {
		w.recover()
	}
}

// release answers the transactions of the first batch in line.
func (w *writer) release() {
	b := w.sent[0]
	w.sent = w.sent[1:]
	for _, a := range b.answers {
		a.done(a.err)
	}
}

// recover learns from the writer's node what took effect, and sends the rest again.
func (w *writer) recover() {
	var applied int32
	err := retry(w.s.ctx, func() error {
		if err := w.s.c.Sync(w.s.ctx); err != nil {
			return err
		}
		ok, st, err := w.s.c.Exists(w.s.ctx, w.path)
		if err == nil && !ok {
			return fmt.Errorf("%w: epoch %d is over", store.ErrFenced, w.epoch)
		}
		applied = st.Version
		return err
	})
	if err != nil {
		w.fail(err)
		return
	}
	w.s.log.Info("registry writer recovered", "epoch", w.epoch, "batches_known", w.next, "batches_applied", applied)
	for len(w.sent) > 0 && w.sent[0].base < applied {
		w.release()
	}
	w.unsure = false
	for _, b := range w.sent {
		w.post(b)
	}
}

// fail answers everything with err, now and from now on.
func (w *writer) fail(err error) {
	if w.failed != nil {
		return
	}
	w.failed = err
	for _, b := range append(w.sent, w.current) {
		for _, a := range b.answers {
			a.done(err)
		}
	}
	if w.held != nil {
		w.held.done(err)
	}
	w.sent, w.current, w.held = nil, &batch{}, nil
	w.s.forgetLoaded(w)
}

// abort ends the writer while the outcome of what was sent is unknown.
func (w *writer) abort(err error) {
	w.fail(err)
	for {
		select {
		case r := <-w.queue:
			r.done(w.failed)
		default:
			return
		}
	}
}
