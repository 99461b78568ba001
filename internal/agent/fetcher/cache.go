package fetcher

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// errTooLargeForCache: the file does not fit into the cache beside what is in use.
var errTooLargeForCache = errors.New("the file does not fit into the cache")

// cache keeps fetched files by user and URI. Those that are being fetched or used stay; of the others the longest unused
// goes first when room is needed. One fetch of a key is under way at a time, and all who want it wait for that one.
type cache struct {
	dir     string
	max     int64
	metrics *metrics

	mu      sync.Mutex
	used    int64
	serial  uint64
	entries map[string]*entry
	lru     *list.List // of *entry without users, longest unused first
}

type entry struct {
	key, path string
	size      int64
	users     int
	done      chan struct{} // closed when fetched or failed
	err       error
	cancel    context.CancelFunc
	at        *list.Element
}

func newCache(dir string, limit int64, m *metrics) *cache {
	return &cache{dir: dir, max: limit, metrics: m, entries: make(map[string]*entry), lru: list.New()}
}

// get gives the entry of a key, fetched by fill if it is not there. The caller releases it.
func (c *cache) get(ctx context.Context, key string, fill func(ctx context.Context, w *os.File, reserve func(int64) error) error) (*entry, error) {
	c.mu.Lock()
	e := c.entries[key]
	if e == nil {
		sum := sha256.Sum256([]byte(key))
		// The fetch belongs to all who wait for it: it ends early only when none does any more.
		fctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		// A file of its own: one that was given up may still be on its way out.
		c.serial++
		e = &entry{key: key, path: filepath.Join(c.dir, hex.EncodeToString(sum[:])+"."+strconv.FormatUint(c.serial, 10)), done: make(chan struct{}), cancel: cancel}
		c.entries[key] = e
		c.metrics.cache.WithLabelValues("miss").Inc()
		go c.fill(fctx, e, fill)
	} else {
		c.metrics.cache.WithLabelValues("hit").Inc()
	}
	e.users++
	if e.at != nil {
		c.lru.Remove(e.at)
		e.at = nil
	}
	c.mu.Unlock()
	select {
	case <-e.done:
		if e.err != nil {
			c.release(e)
			return nil, e.err
		}
		return e, nil
	case <-ctx.Done():
		c.release(e)
		return nil, context.Cause(ctx)
	}
}

func (c *cache) fill(ctx context.Context, e *entry, fill func(ctx context.Context, w *os.File, reserve func(int64) error) error) {
	defer e.cancel()
	w, err := os.OpenFile(e.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		err = fill(ctx, w, func(total int64) error { return c.reserve(e, total) })
		err = errors.Join(err, w.Close())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		e.err = err
		c.drop(e)
	}
	close(e.done)
}

// reserve makes room for an entry that will have total bytes.
func (c *cache) reserve(e *entry, total int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	more := total - e.size
	for c.used+more > c.max {
		oldest := c.lru.Front()
		if oldest == nil {
			return errTooLargeForCache
		}
		c.metrics.cache.WithLabelValues("evicted").Inc()
		c.drop(oldest.Value.(*entry))
	}
	c.used += more
	e.size = total
	return nil
}

// drop forgets an entry and deletes its file. The lock is held.
func (c *cache) drop(e *entry) {
	if c.entries[e.key] == e {
		delete(c.entries, e.key)
	}
	if e.at != nil {
		c.lru.Remove(e.at)
		e.at = nil
	}
	c.used -= e.size
	e.size = 0
	_ = os.Remove(e.path)
}

// release ends one use.
func (c *cache) release(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.users--
	if e.users > 0 {
		return
	}
	select {
	case <-e.done:
		if e.err == nil && c.entries[e.key] == e {
			e.at = c.lru.PushBack(e)
		}
	default:
		// Nobody waits any more. Who comes next begins anew.
		e.cancel()
		if c.entries[e.key] == e {
			delete(c.entries, e.key)
		}
	}
}
