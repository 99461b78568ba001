// Package mem is a store in memory, for tests and simulation: it outlives the components that use it, so that a test can
// crash and restart them, and it can be told to fail.
package mem

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/orchestrator/orchestrator/internal/store"
)

// Store is a store.Store in memory. Its zero value is not ready: use New.
type Store struct {
	mu      sync.Mutex
	entries map[string]store.Entry
	epoch   uint64
	closed  bool
	fault   func(store.Txn) error
}

var _ store.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store { return &Store{entries: map[string]store.Entry{}} }

// SetFault makes every transaction that follows ask f first; when it returns an error the transaction fails with it and
// changes nothing. nil ends the faults.
func (s *Store) SetFault(f func(store.Txn) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := ctx.Err(); err != nil {
		return store.Entry{}, err
	}
	if err := store.ValidateKey(key); err != nil {
		return store.Entry{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.Entry{}, store.ErrClosed
	}
	e, ok := s.entries[key]
	if !ok {
		return store.Entry{}, fmt.Errorf("%w: %s", store.ErrNotFound, key)
	}
	e.Value = bytes.Clone(e.Value)
	return e, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string) ([]store.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := store.ValidatePrefix(prefix); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, store.ErrClosed
	}
	var out []store.Entry
	for k, e := range s.entries {
		if strings.HasPrefix(k, prefix) {
			e.Value = bytes.Clone(e.Value)
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b store.Entry) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}

// Claim implements store.Store.
func (s *Store) Claim(ctx context.Context, epoch uint64) (store.Writer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, store.ErrClosed
	case epoch == 0:
		epoch = s.epoch + 1
	case epoch <= s.epoch:
		return nil, fmt.Errorf("%w: epoch %d was claimed, %d is not later", store.ErrFenced, s.epoch, epoch)
	}
	s.epoch = epoch
	return &writer{s: s, epoch: epoch}, nil
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// Reopen undoes Close: the process that had the store has restarted.
func (s *Store) Reopen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = false
}

type writer struct {
	s     *Store
	epoch uint64
}

func (w *writer) Epoch() uint64 { return w.epoch }

func (w *writer) Txn(ctx context.Context, txn store.Txn) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return w.commit(txn)
}

// Submit implements store.Writer. There is nothing to wait for, so done is called before it returns.
func (w *writer) Submit(txn store.Txn, done func(error)) { done(w.commit(txn)) }

func (w *writer) commit(txn store.Txn) error {
	if err := txn.Validate(); err != nil {
		return err
	}
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	if s.epoch != w.epoch {
		return fmt.Errorf("%w: epoch %d, this writer has %d", store.ErrFenced, s.epoch, w.epoch)
	}
	if s.fault != nil {
		if err := s.fault(txn); err != nil {
			return err
		}
	}
	for _, c := range txn.Checks {
		if v := s.entries[c.Key].Version; v != c.Version {
			return fmt.Errorf("%w: key %s has version %d, not %d", store.ErrConflict, c.Key, v, c.Version)
		}
	}
	for _, p := range txn.Puts {
		s.entries[p.Key] = store.Entry{Key: p.Key, Value: bytes.Clone(p.Value), Version: s.entries[p.Key].Version + 1}
	}
	for _, k := range txn.Deletes {
		delete(s.entries, k)
	}
	return nil
}
