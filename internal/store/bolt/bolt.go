package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/orchestrator/orchestrator/internal/store"
)

var (
	kvBucket   = []byte("kv")
	metaBucket = []byte("meta")
	epochKey   = []byte("epoch")
	formatKey  = []byte("format")
	formatV1   = []byte("orchestrator-1")
)

const (
	// queueLimit is how many transactions may wait: beyond it Submit answers ErrBusy.
	queueLimit = 1 << 16
	// Bounds of one group commit.
	batchTxns  = 4096
	batchBytes = 16 << 20
	// lockWait is how long Open waits for another process to let go of the file.
	lockWait = 2 * time.Second
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Store is a store.Store in one file.
type Store struct {
	db    *bbolt.DB
	path  string
	queue chan request
	done  chan struct{}

	mu     sync.RWMutex // held for reading while a request enters the queue
	closed bool

	epoch uint64 // owned by the committer
}

var _ store.Store = (*Store)(nil)

// request is a transaction (finish set) or a claim (claimed set).
type request struct {
	txn     store.Txn
	epoch   uint64
	finish  func(error)
	claimed func(uint64, error)
}

// Open opens or creates the file and checks it.
func Open(path string) (_ *Store, err error) {
	db, err := openDB(path)
	if err != nil {
		return nil, err
	}
	s := &Store{db: db, path: path, queue: make(chan request, queueLimit), done: make(chan struct{})}
	if err := guard(path, s.prepare); err != nil {
		_ = db.Close()
		return nil, err
	}
	go s.commitLoop()
	return s, nil
}

func openDB(path string) (*bbolt.DB, error) {
	var db *bbolt.DB
	err := guard(path, func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout: lockWait, FreelistType: bbolt.FreelistMapType,
		})
		return err
	})
	switch {
	case err == nil:
		return db, nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("opening registry %s: another process has it open; stop that one first, or choose another directory", path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, corrupt(path, err)
	case errors.Is(err, store.ErrCorrupt):
		return nil, err
	default:
		return nil, fmt.Errorf("opening registry %s: %w", path, err)
	}
}

func corrupt(path string, why any) error {
	return fmt.Errorf("%w: registry %s: %v; restore it from a backup, or move it away to begin with an empty registry (agents and tasks come back by themselves, quota, weights and maintenance do not)",
		store.ErrCorrupt, path, why)
}

// guard turns what a damaged file makes bbolt do (panic, fault on a page beyond the end) into ErrCorrupt.
func guard(path string, f func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if r := recover(); r != nil {
			err = corrupt(path, r)
		}
	}()
	return f()
}

// prepare checks the file's format and every value in it, and reads the epoch. It walks the pages itself: bbolt's own check
// runs in a goroutine where a damaged page would end the process.
func (s *Store) prepare() error {
	var fresh bool
	err := s.db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		if fresh = meta == nil; fresh {
			return nil
		}
		if f := meta.Get(formatKey); !bytes.Equal(f, formatV1) {
			return fmt.Errorf("opening registry %s: its format is %q and this version knows only %q; use the version that wrote it", s.path, f, formatV1)
		}
		if e := meta.Get(epochKey); len(e) == 8 {
			s.epoch = binary.BigEndian.Uint64(e)
		}
		kv := tx.Bucket(kvBucket)
		if kv == nil {
			return corrupt(s.path, "it has no entries table")
		}
		var last []byte
		return kv.ForEach(func(k, raw []byte) error {
			if last != nil && bytes.Compare(last, k) >= 0 {
				return corrupt(s.path, fmt.Sprintf("key %q is out of order", k))
			}
			last = k
			return verify(s.path, string(k), raw)
		})
	})
	if err != nil || !fresh {
		return err
	}
	return s.db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucket(metaBucket)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucketIfNotExists(kvBucket); err != nil {
			return err
		}
		return meta.Put(formatKey, formatV1)
	})
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := ctx.Err(); err != nil {
		return store.Entry{}, err
	}
	if err := store.ValidateKey(key); err != nil {
		return store.Entry{}, err
	}
	var out store.Entry
	err := s.view(func(b *bbolt.Bucket) error {
		raw := b.Get([]byte(key))
		if raw == nil {
			return fmt.Errorf("%w: %s", store.ErrNotFound, key)
		}
		var err error
		out, err = s.decode(key, raw)
		return err
	})
	return out, err
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string) ([]store.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := store.ValidatePrefix(prefix); err != nil {
		return nil, err
	}
	var out []store.Entry
	err := s.view(func(b *bbolt.Bucket) error {
		c := b.Cursor()
		for k, raw := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, raw = c.Next() {
			e, err := s.decode(string(k), raw)
			if err != nil {
				return err
			}
			out = append(out, e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Store) view(f func(*bbolt.Bucket) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return store.ErrClosed
	}
	return guard(s.path, func() error {
		return s.db.View(func(tx *bbolt.Tx) error { return f(tx.Bucket(kvBucket)) })
	})
}

// Stored form of a value: CRC-32C of the rest and the key, version, bytes.
const header = 12

func encode(key string, version uint64, value []byte) []byte {
	raw := make([]byte, header+len(value))
	binary.BigEndian.PutUint64(raw[4:], version)
	copy(raw[header:], value)
	binary.BigEndian.PutUint32(raw, checksum(key, raw[4:]))
	return raw
}

func checksum(key string, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, rest)
}

func verify(path, key string, raw []byte) error {
	if len(raw) < header || binary.BigEndian.Uint32(raw) != checksum(key, raw[4:]) {
		return corrupt(path, fmt.Sprintf("the checksum of key %q is wrong", key))
	}
	return nil
}

func (s *Store) decode(key string, raw []byte) (store.Entry, error) {
	if err := verify(s.path, key, raw); err != nil {
		return store.Entry{}, err
	}
	return store.Entry{Key: key, Version: binary.BigEndian.Uint64(raw[4:]), Value: bytes.Clone(raw[header:])}, nil
}

// Claim implements store.Store.
func (s *Store) Claim(ctx context.Context, epoch uint64) (store.Writer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	type result struct {
		epoch uint64
		err   error
	}
	done := make(chan result, 1)
	if err := s.enqueue(request{epoch: epoch, claimed: func(e uint64, err error) { done <- result{e, err} }}); err != nil {
		return nil, err
	}
	select {
	case r := <-done:
		if r.err != nil {
			return nil, r.err
		}
		return &writer{s: s, epoch: r.epoch}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close implements store.Store: it commits what waits, then closes the file.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.queue)
	s.mu.Unlock()
	<-s.done
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("closing registry %s: %w", s.path, err)
	}
	return nil
}

func (s *Store) enqueue(r request) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return store.ErrClosed
	}
	select {
	case s.queue <- r:
		return nil
	default:
		return fmt.Errorf("%w: %d transactions wait", store.ErrBusy, queueLimit)
	}
}

type writer struct {
	s     *Store
	epoch uint64
}

func (w *writer) Epoch() uint64 { return w.epoch }

func (w *writer) Txn(ctx context.Context, txn store.Txn) error {
	return store.Await(ctx, w.Submit, txn)
}

func (w *writer) Submit(txn store.Txn, done func(error)) {
	err := txn.Validate()
	if err == nil {
		err = w.s.enqueue(request{txn: copyTxn(txn), epoch: w.epoch, finish: done})
	}
	if err != nil {
		done(err)
	}
}

// copyTxn makes the transaction independent of the caller's slices, which it may reuse before the commit.
func copyTxn(t store.Txn) store.Txn {
	out := store.Txn{
		Checks:  append([]store.Check(nil), t.Checks...),
		Puts:    make([]store.Put, len(t.Puts)),
		Deletes: append([]string(nil), t.Deletes...),
	}
	for i, p := range t.Puts {
		out.Puts[i] = store.Put{Key: p.Key, Value: bytes.Clone(p.Value)}
	}
	return out
}
