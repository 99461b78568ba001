package remains

import "sync"

// Host is what there is of containers on this host, for many who ask at the same time: a look through the host costs tens of
// milliseconds, and an agent that is started again may have hundreds of containers to be certain of. The zero value is ready.
type Host struct {
	mu        sync.Mutex
	now, next *glance
	see       func() (map[string]Found, error) // tests'; nil: Look
}

// glance is one look through the host, which may be shared.
type glance struct {
	over  chan struct{}
	found map[string]Found
	err   error
}

// Look gives what the function Look finds, by a look that has begun after the call: those who call while one goes on share the next.
// What it gives is read only.
func (h *Host) Look() (map[string]Found, error) {
	h.mu.Lock()
	g := h.next
	if g != nil {
		h.mu.Unlock()
		<-g.over
		return g.found, g.err
	}
	g = &glance{over: make(chan struct{})}
	h.next = g
	before := h.now
	h.mu.Unlock()
	if before != nil {
		<-before.over
	}
	h.mu.Lock()
	h.now, h.next = g, nil // whoever comes from here on would be told of what was before
	h.mu.Unlock()
	see := h.see
	if see == nil {
		see = Look
	}
	g.found, g.err = see()
	h.mu.Lock()
	if h.now == g {
		h.now = nil
	}
	h.mu.Unlock()
	close(g.over)
	return g.found, g.err
}
