package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Errors that callers branch on. Implementations wrap them with the key or file.
var (
	// ErrNotFound: Get of a key that does not exist.
	ErrNotFound = errors.New("key not found")
	// ErrConflict: a check of the transaction does not hold. Nothing was changed.
	ErrConflict = errors.New("transaction conflicts")
	// ErrFenced: a later epoch was claimed. The writer must stop leading.
	ErrFenced = errors.New("another leader has claimed the store")
	// ErrBusy: too many transactions wait. Nothing was changed.
	ErrBusy = errors.New("store is overloaded")
	// ErrClosed: the store was closed. A transaction that was under way may or may not have happened.
	ErrClosed = errors.New("store is closed")
	// ErrCorrupt: what is stored cannot be understood.
	ErrCorrupt = errors.New("store is corrupt")
)

// Limits that every implementation enforces, so that what fits one fits all (ZooKeeper refuses requests above 1 MiB).
const (
	MaxKey   = 512       // bytes of a key
	MaxValue = 512 << 10 // bytes of a value
	MaxTxn   = 768 << 10 // bytes of keys and values in a transaction
	MaxOps   = 2000      // checks, puts and deletes in a transaction
)

// Entry is a key with its value.
type Entry struct {
	Key     string
	Value   []byte
	Version uint64
}

// Check demands that the key has this version; 0 demands that it does not exist.
type Check struct {
	Key     string
	Version uint64
}

// Put creates the key or replaces its value.
type Put struct {
	Key   string
	Value []byte
}

// Txn is what is done together, or not at all. A key may be put or deleted once. Deleting a key that does not exist is
// allowed: add a Check where it matters.
type Txn struct {
	Checks  []Check
	Puts    []Put
	Deletes []string
}

// Store is a registry that can be read by anybody and written through a Writer.
type Store interface {
	// Get returns the entry, or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)
	// List returns all entries whose key begins with prefix, sorted by key: one consistent moment where the implementation
	// can give it, and always so for a leader that is not writing. The prefix is empty or ends in "/".
	List(ctx context.Context, prefix string) ([]Entry, error)
	// Claim makes the caller the only writer. The epoch must be greater than any claimed before (ErrFenced otherwise);
	// 0 takes the next one, for when leadership needs no election.
	Claim(ctx context.Context, epoch uint64) (Writer, error)
	// Close waits for what is under way. Later calls return ErrClosed.
	Close() error
}

// Writer writes under one epoch.
type Writer interface {
	// Epoch is the claimed epoch.
	Epoch() uint64
	// Txn commits the transaction and waits until it is durable. When ctx ends first the outcome is unknown.
	Txn(ctx context.Context, txn Txn) error
	// Submit enqueues the transaction and returns at once; done is called exactly once, from a goroutine of the store, and
	// must not block. The order of calls is the order of effect. When the queue is full, done gets ErrBusy at once.
	Submit(txn Txn, done func(error))
}

// Validate reports a transaction that breaks the grammar or a limit.
func (t Txn) Validate() error {
	if n := len(t.Checks) + len(t.Puts) + len(t.Deletes); n > MaxOps {
		return fmt.Errorf("transaction of %d operations: at most %d are allowed", n, MaxOps)
	}
	size := 0
	changed := make(map[string]bool, len(t.Puts)+len(t.Deletes))
	touch := func(key string) error {
		if changed[key] {
			return fmt.Errorf("key %q is changed twice in one transaction", key)
		}
		changed[key] = true
		size += len(key)
		return ValidateKey(key)
	}
	for _, c := range t.Checks {
		size += len(c.Key)
		if err := ValidateKey(c.Key); err != nil {
			return err
		}
	}
	for _, p := range t.Puts {
		if len(p.Value) > MaxValue {
			return fmt.Errorf("value of key %q has %d bytes: at most %d are allowed", p.Key, len(p.Value), MaxValue)
		}
		size += len(p.Value)
		if err := touch(p.Key); err != nil {
			return err
		}
	}
	for _, k := range t.Deletes {
		if err := touch(k); err != nil {
			return err
		}
	}
	if size > MaxTxn {
		return fmt.Errorf("transaction of %d bytes: at most %d are allowed", size, MaxTxn)
	}
	return nil
}

// ValidateKey checks a key: components joined by "/", none of them empty, "." or "..", no control characters, at most MaxKey
// bytes.
func ValidateKey(key string) error {
	if key == "" || len(key) > MaxKey {
		return fmt.Errorf("key of %d bytes: it must have 1 to %d", len(key), MaxKey)
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("key %q has an empty, \".\" or \"..\" component", key)
		}
	}
	for _, r := range key {
		if r < 0x20 || r == 0x7f || r == '\uFFFD' {
			return fmt.Errorf("key %q has a character that is not allowed", key)
		}
	}
	return nil
}

// ValidatePrefix checks a prefix for List: empty, or a key followed by "/".
func ValidatePrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	key, ok := strings.CutSuffix(prefix, "/")
	if !ok {
		return fmt.Errorf("prefix %q must end in \"/\"", prefix)
	}
	return ValidateKey(key)
}

// Await turns Submit into a call that waits: implementations build Txn from it.
func Await(ctx context.Context, submit func(Txn, func(error)), txn Txn) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	done := make(chan error, 1)
	submit(txn, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
