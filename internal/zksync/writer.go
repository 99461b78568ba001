package zksync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
)

const (
	batchOps   = 400
	batchBytes = 400 << 10
	inFlight   = 4
)

// errFenced says that another engine has taken over.
var errFenced = errors.New("another engine has taken over")

// mismatch says that the target is not as the plan expects: somebody else wrote to it, or a container was removed there.
type mismatch struct {
	path  string // in the target, of the first operation that failed
	op    string
	err   error
	paths []string // of everything that was planned and did not happen
}

func (m *mismatch) Error() string {
	return fmt.Sprintf("target is not as expected: %s %s: %v", m.op, m.path, m.err)
}

// batch is one multi.
type batch struct {
	ops     []zk.Op
	bytes   int
	base    int32 // the state node's version before it
	zxid    int64 // the position that it reaches
	txns    int
	arrived time.Time // of the oldest transaction in it
	stamp   int64     // that transaction's time in the source, ms
	state   []byte
}

// writer changes the target: batches in order, several in flight, each one setting the state node first. All methods belong
// to the engine's goroutine.
type writer struct {
	c       *zk.Client
	path    string // the state node
	next    int32  // its version after everything that was sent
	current *batch
	sent    []*batch
	results chan outcome
	pending int
	unsure  bool // an outcome is unknown
	failed  *mismatch
	encode  func(zxid int64) []byte
	applied func(*batch) // told of every batch that took effect
	limit   int
}

type outcome struct {
	b   *batch
	err error
}

func newWriter(c *zk.Client, path string, version int32, limit int, encode func(int64) []byte, applied func(*batch)) *writer {
	return &writer{c: c, path: path, next: version, current: &batch{}, results: make(chan outcome, inFlight+1), encode: encode, applied: applied, limit: limit}
}

// opSize is what an operation takes in a request, at most.
func opSize(op *zk.Op) int {
	n := 9 + 4 + len(op.Path) + 4 + len(op.Data) + 4 + 8 + 4
	for _, a := range op.ACL {
		n += 12 + len(a.Scheme) + len(a.ID)
	}
	return n
}

// add plans operations that must happen together, and reach a position; zxid 0 reaches none. It may wait for room.
func (w *writer) add(ctx context.Context, ops []zk.Op, zxid int64, arrived time.Time, stamp int64) error {
	size := 0
	for i := range ops {
		size += opSize(&ops[i])
	}
	if !w.fits(size) {
		return w.alone(ctx, ops, size, zxid)
	}
	if len(w.current.ops) > 0 && (len(w.current.ops)+len(ops) > batchOps || w.current.bytes+size > batchBytes) {
		if err := w.flush(ctx); err != nil {
			return err
		}
	}
	b := w.current
	if b.arrived.IsZero() {
		b.arrived, b.stamp = arrived, stamp
	}
	b.ops = append(b.ops, ops...)
	b.bytes += size
	if zxid > 0 {
		b.zxid = zxid
		b.txns++
	}
	return nil
}

// fits reports whether operations of this size are taken in one request, together with the state node.
func (w *writer) fits(size int) bool {
	const heads = 200 // of the request, the multi and the state node's operation
	return size < w.limit/2 || size+heads+len(w.path)+len(w.encode(0)) <= w.limit
}

// alone sends what fits into a request only without the state node. Its operations carry expected versions, so that doing them
// again after a crash fails and is repaired instead of doubling them.
func (w *writer) alone(ctx context.Context, ops []zk.Op, size int, zxid int64) error {
	if err := w.drain(ctx); err != nil {
		return err
	}
	op := ops[0]
	if len(ops) > 1 {
		op = zk.Multi(ops...)
	}
	_, err := w.c.Do(ctx, op)
	switch {
	case err == nil:
		w.current.zxid = max(w.current.zxid, zxid)
		return nil
	case errors.Is(err, zk.ErrTooLarge):
		return fmt.Errorf("%s needs a request of %d bytes, more than the target takes: raise jute.maxbuffer there, and --max-request here: %w", ops[0].Path, size, err)
	case ctx.Err() != nil:
		return err
	case !transient(err) && !repairable(err):
		return explain(&batch{ops: ops}, err)
	}
	m := &mismatch{path: ops[0].Path, op: op.Code.String(), err: err}
	for i := range ops {
		m.paths = append(m.paths, ops[i].Path)
	}
	return m
}

// idle reports whether a batch can be sent without waiting.
func (w *writer) idle() bool { return len(w.sent) < inFlight && !w.unsure && w.failed == nil }

// dirty reports whether something is planned and not sent.
func (w *writer) dirty() bool { return len(w.current.ops) > 0 || w.current.zxid > 0 }

// flush sends the current batch, when there is room for it.
func (w *writer) flush(ctx context.Context) error {
	if !w.dirty() {
		return nil
	}
	for !w.idle() {
		if err := w.wait(ctx); err != nil {
			return err
		}
	}
	b := w.current
	w.current = &batch{}
	b.base = w.next
	b.state = w.encode(b.zxid)
	w.next++
	w.sent = append(w.sent, b)
	w.post(b)
	return nil
}

func (w *writer) post(b *batch) {
	w.pending++
	ops := append([]zk.Op{zk.Set(w.path, b.state, b.base)}, b.ops...)
	if err := w.c.Send(zk.Multi(ops...), func(_ zk.Result, err error) { w.results <- outcome{b, err} }); err != nil {
		w.results <- outcome{b, err}
	}
}

// wait takes one outcome, or learns what became of those that are unknown.
func (w *writer) wait(ctx context.Context) error {
	if w.pending > 0 {
		select {
		case o := <-w.results:
			return w.finish(ctx, o)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return w.settle(ctx)
}

// drain sends all that is planned and waits until it took effect.
func (w *writer) drain(ctx context.Context) error {
	if err := w.flush(ctx); err != nil {
		return err
	}
	for len(w.sent) > 0 {
		if err := w.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

func transient(err error) bool {
	for _, e := range []zk.Error{zk.ErrConnectionLoss, zk.ErrSessionExpired, zk.ErrSessionMoved, zk.ErrOperationTimeout, zk.ErrRequestTimeout, zk.ErrThrottled, zk.ErrOverloaded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// finish takes a multi's outcome.
func (w *writer) finish(ctx context.Context, o outcome) error {
	w.pending--
	var m *zk.MultiError
	switch {
	case o.err == nil:
		// No batch can succeed unless all before it did, also those whose answers were lost.
		for len(w.sent) > 0 && w.sent[0].base <= o.b.base {
			w.release()
		}
	case transient(o.err):
		w.unsure = true
	case errors.As(o.err, &m) && m.Index == 0 && m.Err == zk.ErrBadVersion && (w.unsure || w.failed != nil):
		// A batch in front of it did not take effect.
	case errors.As(o.err, &m) && m.Index == 0:
		return fmt.Errorf("%w (state node %s: %w)", errFenced, w.path, m.Err)
	case errors.As(o.err, &m) && w.failed == nil && repairable(m.Err):
		op := &o.b.ops[m.Index-1]
		w.failed = &mismatch{path: op.Path, op: op.Code.String(), err: m.Err}
	case w.failed == nil:
		return explain(o.b, o.err)
	}
	if w.pending == 0 && (w.unsure || w.failed != nil) {
		return w.settle(ctx)
	}
	return nil
}

// repairable reports errors that say how the target is, not that it cannot be written.
func repairable(err error) bool {
	for _, e := range []zk.Error{zk.ErrNoNode, zk.ErrNodeExists, zk.ErrBadVersion, zk.ErrNotEmpty, zk.ErrNoChildrenForEphemerals} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// explain says what a person can do about an error that stays.
func explain(b *batch, err error) error {
	where := ""
	var m *zk.MultiError
	if errors.As(err, &m) && m.Index > 0 && m.Index <= len(b.ops) {
		where = " " + b.ops[m.Index-1].Code.String() + " " + b.ops[m.Index-1].Path
	}
	hint := ""
	switch {
	case errors.Is(err, zk.ErrNoAuth), errors.Is(err, zk.ErrInvalidACL):
		hint = "; ACLs are copied as they are, so the engine must be super in the target: --target-auth digest:super:PASSWORD, and its providers must be those of the source"
	case errors.Is(err, zk.ErrUnimplemented), errors.Is(err, zk.ErrMarshalling):
		for i := range b.ops {
			if op := &b.ops[i]; where == "" && (op.Code == zk.OpCreateContainer || op.Code == zk.OpCreateTTL) {
				where = " " + op.Code.String() + " " + op.Path
			}
		}
		hint = "; the target does not know this kind of node: containers need 3.5, TTL nodes 3.5.4 with zookeeper.extendedTypesEnabled=true; upgrade it, or leave them out by --exclude"
	case errors.Is(err, zk.ErrQuotaExceeded):
		hint = "; raise or remove the quota in the target"
	case errors.Is(err, zk.ErrNotReadOnly):
		hint = "; the target has no quorum"
	}
	return fmt.Errorf("writing to the target:%s: %w%s", where, err, hint)
}

func (w *writer) release() {
	b := w.sent[0]
	w.sent = w.sent[1:]
	w.applied(b)
}

// settle is called when nothing is in flight and something did not go as planned: the state node tells what took effect.
func (w *writer) settle(ctx context.Context) error {
	version, err := w.stateVersion(ctx)
	if err != nil {
		return err
	}
	if version > w.next {
		return fmt.Errorf("%w (state node %s has version %d, ours was %d)", errFenced, w.path, version, w.next)
	}
	for len(w.sent) > 0 && w.sent[0].base < version {
		w.release()
	}
	w.unsure = false
	if w.failed == nil {
		for _, b := range w.sent {
			w.post(b)
		}
		return nil
	}
	m := w.failed
	for _, b := range append(w.sent, w.current) {
		for i := range b.ops {
			m.paths = append(m.paths, b.ops[i].Path)
		}
	}
	w.failed, w.sent, w.current, w.next = nil, nil, &batch{}, version
	return m
}

func (w *writer) stateVersion(ctx context.Context) (int32, error) {
	var version int32
	err := retry(ctx, func() error {
		if err := w.c.Sync(ctx); err != nil {
			return err
		}
		ok, st, err := w.c.Exists(ctx, w.path)
		if err == nil && !ok {
			return fmt.Errorf("%w (state node %s was removed)", errFenced, w.path)
		}
		version = st.Version
		return err
	})
	return version, err
}

// retry repeats f while it fails for reasons that pass, until ctx ends.
func retry(ctx context.Context, f func() error) error {
	for delay := 10 * time.Millisecond; ; delay = min(delay*2, time.Second) {
		err := f()
		if err == nil || !transient(err) {
			return err
		}
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}
