package bulk

import (
	"context"
	"errors"
	"sync"

	"github.com/orchestrator/orchestrator/internal/zk"
)

const (
	multiOps     = 400
	multiBytes   = 256 << 10
	multisFlying = 4
)

// Writer sends many operations, in order, many of them in one transaction. When a transaction is refused because of one operation,
// its operations are done one by one. So each has an answer of its own; that several are done at once or not at all is not
// promised. An answer that is lost with the connection ends it: what was not answered may have been done.
type Writer struct {
	c *zk.Client
	// refused is asked about operations that the server refuses; the error that it returns ends the writing.
	refused func(op *zk.Op, err error) error

	w     *zk.Window
	ops   []zk.Op
	bytes int

	mu     sync.Mutex
	failed [][]zk.Op // multis that were refused, in order
}

// NewWriter returns a Writer.
func NewWriter(c *zk.Client, refused func(op *zk.Op, err error) error) *Writer {
	return &Writer{c: c, refused: refused, w: c.NewWindow(multisFlying)}
}

// Add takes one operation; it may wait for room.
func (w *Writer) Add(ctx context.Context, op zk.Op) error {
	size := 100 + len(op.Path) + len(op.Data)
	for _, a := range op.ACL {
		size += 12 + len(a.Scheme) + len(a.ID)
	}
	if len(w.ops) > 0 && (len(w.ops) == multiOps || w.bytes+size > multiBytes) {
		if err := w.send(ctx); err != nil {
			return err
		}
	}
	w.ops, w.bytes = append(w.ops, op), w.bytes+size
	return nil
}

// Flush sends what was gathered and waits until everything was answered.
func (w *Writer) Flush(ctx context.Context) error {
	if err := w.send(ctx); err != nil {
		return err
	}
	return w.settle(ctx)
}

func (w *Writer) send(ctx context.Context) error {
	ops := w.ops
	w.ops, w.bytes = nil, 0
	w.mu.Lock()
	late := len(w.failed) > 0
	w.mu.Unlock()
	switch {
	case len(ops) == 0:
		return nil
	case len(ops) == 1, late:
		// What is as large as a request may be must not be made larger by a multi around it. And nothing overtakes what was refused.
		if err := w.settle(ctx); err != nil {
			return err
		}
	}
	if len(ops) == 1 {
		return w.each(ctx, ops)
	}
	return w.w.Send(ctx, zk.Multi(ops...), func(_ zk.Result, err error) error {
		var m *zk.MultiError
		if !errors.As(err, &m) && !errors.Is(err, zk.ErrMarshalling) { // 3.4 cannot read newer operations in a multi
			return err
		}
		w.mu.Lock()
		w.failed = append(w.failed, ops)
		w.mu.Unlock()
		return nil
	})
}

// settle waits until nothing is in flight, and does the operations of multis that were refused one by one.
func (w *Writer) settle(ctx context.Context) error {
	if err := w.w.Wait(ctx); err != nil {
		return err
	}
	w.mu.Lock()
	failed := w.failed
	w.failed = nil
	w.mu.Unlock()
	for _, ops := range failed {
		if err := w.each(ctx, ops); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) each(ctx context.Context, ops []zk.Op) error {
	one := w.c.NewWindow(singles)
	for i := range ops {
		op := &ops[i]
		err := one.Send(ctx, *op, func(_ zk.Result, err error) error {
			if err != nil && w.refused != nil {
				return w.refused(op, err)
			}
			return err
		})
		if err != nil {
			break
		}
	}
	return one.Wait(ctx)
}
