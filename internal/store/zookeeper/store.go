package zookeeper

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/orchestrator/orchestrator/internal/store"
	"github.com/orchestrator/orchestrator/internal/zk"
)

// Config says where the registry is.
type Config struct {
	Servers []string // host:port
	Path    string   // the znode under which everything lies; made when missing
	// User and Password of the digest scheme. With them, nodes may be written by this user only and read by all; without,
	// everything is open.
	User, Password string
	// SessionTimeout of the connection. Default 10s. Nothing here depends on the session: no node is ephemeral.
	SessionTimeout time.Duration
}

// Deps are the store's effects; the zero value is the real world.
type Deps struct {
	Log *slog.Logger
	ZK  zk.Deps
}

const (
	buckets = 256
	// readWindow is how many reads are in flight while the registry is listed.
	readWindow = 2000
)

// Store is a store.Store in ZooKeeper.
type Store struct {
	cfg  Config
	log  *slog.Logger
	c    *zk.Client
	acl  []zk.ACL
	ctx  context.Context // ends when the store is closed
	stop context.CancelCauseFunc

	mu      sync.Mutex
	closed  bool
	closing chan struct{}
	writers []*writer
	ready   bool // the parents exist
	// What Claim read, for the List that follows it; dropped at the first write.
	loaded   []store.Entry
	loadedBy *writer
}

var _ store.Store = (*Store)(nil)

// Open connects in the background; the first call waits for the connection.
func Open(cfg Config, deps Deps) (*Store, error) {
	if err := zk.ValidatePath(cfg.Path); err != nil || cfg.Path == "/" {
		return nil, fmt.Errorf("registry path %q: want an absolute path that is not /: %w", cfg.Path, cmp.Or(err, error(zk.ErrBadArguments)))
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	deps.ZK.Log = deps.Log
	zcfg := zk.Config{Servers: cfg.Servers, SessionTimeout: cfg.SessionTimeout, Renew: true}
	acl := zk.OpenACL()
	if cfg.User != "" {
		zcfg.Auth = []zk.Auth{{Scheme: "digest", Data: []byte(cfg.User + ":" + cfg.Password)}}
		acl = append(zk.CreatorACL(), zk.ReadACL()...)
	}
	c, err := zk.New(zcfg, deps.ZK)
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, log: deps.Log, c: c, acl: acl, closing: make(chan struct{})}
	s.ctx, s.stop = context.WithCancelCause(context.Background())
	return s, nil
}

func (s *Store) bucketPath(i int) string { return fmt.Sprintf("%s/kv/%02x", s.cfg.Path, i) }
func (s *Store) epochPath() string       { return s.cfg.Path + "/epoch" }
func (s *Store) writerPath(epoch uint64) string {
	return s.cfg.Path + "/writer-" + strconv.FormatUint(epoch, 10)
}

// enter begins a call: it fails when the store is closed or ctx has ended, and makes the parents when they are not there.
// The returned context also ends when the store is closed.
func (s *Store) enter(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	closed, ready := s.closed, s.ready
	s.mu.Unlock()
	if closed {
		return nil, nil, store.ErrClosed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(s.ctx, func() { cancel(store.ErrClosed) })
	leave := func() { unhook(); cancel(nil) }
	if !ready {
		if err := s.prepare(ctx); err != nil {
			leave()
			return nil, nil, fmt.Errorf("preparing the registry under %s: %w", s.cfg.Path, err)
		}
		s.mu.Lock()
		s.ready = true
		s.mu.Unlock()
	}
	return ctx, leave, nil
}

func (s *Store) prepare(ctx context.Context) error {
	return retry(ctx, func() error {
		if ok, _, err := s.c.Exists(ctx, s.epochPath()); err != nil || ok {
			return err
		}
		if err := s.c.MakePath(ctx, s.cfg.Path+"/kv", s.acl); err != nil {
			return err
		}
		w := s.c.NewWindow(buckets)
		for i := range buckets {
			err := w.Send(ctx, zk.Create(s.bucketPath(i), nil, s.acl, zk.Persistent), func(_ zk.Result, err error) error {
				if errors.Is(err, zk.ErrNodeExists) {
					return nil
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		if err := w.Wait(ctx); err != nil {
			return err
		}
		// Last, so that its presence says that the rest is there.
		_, err := s.c.Create(ctx, s.epochPath(), []byte("0 -"), s.acl, zk.Persistent)
		if errors.Is(err, zk.ErrNodeExists) {
			return nil
		}
		return err
	})
}

// transient reports whether an error says nothing about the request but that it should be tried again.
func transient(err error) bool {
	for _, e := range []zk.Error{zk.ErrConnectionLoss, zk.ErrSessionExpired, zk.ErrSessionMoved, zk.ErrOperationTimeout, zk.ErrRequestTimeout, zk.ErrThrottled, zk.ErrOverloaded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// retry repeats f while it fails transiently, until ctx ends. f must be safe to repeat.
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

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := store.ValidateKey(key); err != nil {
		return store.Entry{}, err
	}
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return store.Entry{}, err
	}
	defer leave()
	var e store.Entry
	err = retry(ctx, func() error {
		if err := s.c.Sync(ctx); err != nil {
			return err
		}
		data, st, err := s.c.Get(ctx, s.keyPath(key))
		if errors.Is(err, zk.ErrNoNode) {
			return fmt.Errorf("%w: %s", store.ErrNotFound, key)
		}
		if err != nil {
			return err
		}
		value, err := decodeValue(key, data)
		e = store.Entry{Key: key, Value: value, Version: uint64(st.Version) + 1}
		return err
	})
	if err != nil {
		return store.Entry{}, err
	}
	return e, nil
}

// List implements store.Store. For a leader that is not writing it is exact; others may see entries of neighbouring moments.
func (s *Store) List(ctx context.Context, prefix string) ([]store.Entry, error) {
	if err := store.ValidatePrefix(prefix); err != nil {
		return nil, err
	}
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	s.mu.Lock()
	var out []store.Entry
	hit := s.loadedBy != nil
	if hit {
		for _, e := range s.loaded {
			if strings.HasPrefix(e.Key, prefix) {
				e.Value = slices.Clone(e.Value)
				out = append(out, e)
			}
		}
	}
	s.mu.Unlock()
	if hit {
		// What was read is the truth only as long as nobody else has claimed the registry.
		if ok, _, err := s.c.Exists(ctx, s.loadedPath()); err == nil && ok {
			return out, nil
		}
		s.forgetLoaded(nil)
	}
	return s.read(ctx, prefix)
}

func (s *Store) loadedPath() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.loadedBy == nil {
		return s.cfg.Path + "/none"
	}
	return s.writerPath(s.loadedBy.epoch)
}

// forgetLoaded drops what Claim has read; by a writer only its own.
func (s *Store) forgetLoaded(w *writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w == nil || s.loadedBy == w {
		s.loaded, s.loadedBy = nil, nil
	}
}

// read lists the buckets, then reads all nodes whose key has the prefix, pipelined.
func (s *Store) read(ctx context.Context, prefix string) ([]store.Entry, error) {
	var out []store.Entry
	err := retry(ctx, func() error {
		out = nil
		if err := s.c.Sync(ctx); err != nil {
			return err
		}
		var mu sync.Mutex
		var keys []string
		w := s.c.NewWindow(buckets)
		for i := range buckets {
			err := w.Send(ctx, zk.Children(s.bucketPath(i)), func(r zk.Result, err error) error {
				mu.Lock()
				defer mu.Unlock()
				for _, name := range r.Children {
					key, ok := decodeName(name)
					if !ok {
						return fmt.Errorf("%w: node %s/%s is not a key; remove it", store.ErrCorrupt, s.bucketPath(i), name)
					}
					if strings.HasPrefix(key, prefix) {
						keys = append(keys, key)
					}
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		if err := w.Wait(ctx); err != nil {
			return err
		}
		out = make([]store.Entry, 0, len(keys))
		w = s.c.NewWindow(readWindow)
		for _, key := range keys {
			err := w.Send(ctx, zk.Get(s.keyPath(key)), func(r zk.Result, err error) error {
				if errors.Is(err, zk.ErrNoNode) {
					return nil // deleted meanwhile
				}
				if err != nil {
					return err
				}
				value, err := decodeValue(key, r.Data)
				if err != nil {
					return err
				}
				mu.Lock()
				out = append(out, store.Entry{Key: key, Value: slices.Clone(value), Version: uint64(r.Stat.Version) + 1})
				mu.Unlock()
				return nil
			})
			if err != nil {
				return err
			}
		}
		return w.Wait(ctx)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the registry under %s: %w", s.cfg.Path, err)
	}
	slices.SortFunc(out, func(a, b store.Entry) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}

// Claim implements store.Store.
func (s *Store) Claim(ctx context.Context, epoch uint64) (store.Writer, error) {
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	me := rand.Text()
	var won uint64
	err = retry(ctx, func() error {
		if err := s.c.Sync(ctx); err != nil {
			return err
		}
		data, st, err := s.c.Get(ctx, s.epochPath())
		if err != nil {
			return err
		}
		text, owner, ok := strings.Cut(string(data), " ")
		current, perr := strconv.ParseUint(text, 10, 64)
		if !ok || perr != nil {
			return fmt.Errorf("%w: %s holds %q", store.ErrCorrupt, s.epochPath(), data)
		}
		if owner == me { // an earlier attempt succeeded though its answer was lost
			won = current
			return nil
		}
		next := epoch
		if next == 0 {
			next = current + 1
		}
		if next <= current {
			return fmt.Errorf("%w: epoch %d was claimed, %d is not later", store.ErrFenced, current, next)
		}
		ops := []zk.Op{
			zk.Set(s.epochPath(), fmt.Appendf(nil, "%d %s", next, me), st.Version),
			zk.Create(s.writerPath(next), nil, s.acl, zk.Persistent),
		}
		if current != 0 {
			ops = append(ops, zk.Delete(s.writerPath(current), zk.AnyVersion))
		}
		_, err = s.c.Multi(ctx, ops...)
		if errors.Is(err, zk.ErrBadVersion) {
			return zk.ErrThrottled // somebody else was faster: look again
		}
		won = next
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("claiming the registry under %s: %w", s.cfg.Path, err)
	}
	entries, err := s.read(ctx, "")
	if err != nil {
		return nil, err
	}
	w := newWriter(s, won, entries)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, store.ErrClosed
	}
	s.writers = append(s.writers, w)
	s.loaded, s.loadedBy = entries, w
	go w.run()
	return w, nil
}

// closeWait bounds how long Close waits for transactions under way when ZooKeeper does not answer.
const closeWait = 5 * time.Second

// Close implements store.Store: it waits for what is under way, but not forever for a ZooKeeper that does not answer.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	writers := s.writers
	s.mu.Unlock()
	close(s.closing)
	t := time.AfterFunc(closeWait, func() { s.stop(store.ErrClosed) })
	for _, w := range writers {
		<-w.done
	}
	t.Stop()
	s.stop(store.ErrClosed)
	s.c.Close()
	return nil
}
