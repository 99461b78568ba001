// Package lru stands in for camlistore.org/pkg/lru, which Weave Scope imports and which can be downloaded no more: a cache with
// a bound. Scope remembers in it which DNS names are those of known services.
package lru

import "sync"

// Cache keeps so many values; when it is full it begins anew.
type Cache struct {
	mu     sync.Mutex
	values map[string]any
	limit  int
}

// New makes a cache.
func New(limit int) *Cache { return &Cache{values: map[string]any{}, limit: limit} }

// Add keeps a value.
func (c *Cache) Add(key string, value any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.values) >= c.limit {
		clear(c.values)
	}
	c.values[key] = value
}

// Get finds a value.
func (c *Cache) Get(key string) (value any, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	value, ok = c.values[key]
	return value, ok
}
