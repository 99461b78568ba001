package zk

import (
	"context"
	"errors"
	"sync"
)

// Get reads a node's data and Stat.
func (c *Client) Get(ctx context.Context, path string) ([]byte, Stat, error) {
	r, err := c.Do(ctx, Get(path))
	return r.Data, r.Stat, err
}

// Set replaces a node's data, if it has this version (AnyVersion matches all).
func (c *Client) Set(ctx context.Context, path string, data []byte, version int32) (Stat, error) {
	r, err := c.Do(ctx, Set(path, data, version))
	return r.Stat, err
}

// Create makes a node and returns its path, which differs from the one asked for when the mode is sequential.
func (c *Client) Create(ctx context.Context, path string, data []byte, acl []ACL, mode CreateMode) (string, error) {
	r, err := c.Do(ctx, Create(path, data, acl, mode))
	return r.Path, err
}

// Delete removes a node without children, if it has this version.
func (c *Client) Delete(ctx context.Context, path string, version int32) error {
	_, err := c.Do(ctx, Delete(path, version))
	return err
}

// Exists reports whether a node is there, and its Stat.
func (c *Client) Exists(ctx context.Context, path string) (bool, Stat, error) {
	r, err := c.Do(ctx, Exists(path))
	if errors.Is(err, ErrNoNode) {
		return false, Stat{}, nil
	}
	return err == nil, r.Stat, err
}

// Children lists the names of a node's children, in no order, and reads its Stat.
func (c *Client) Children(ctx context.Context, path string) ([]string, Stat, error) {
	r, err := c.Do(ctx, Children(path))
	return r.Children, r.Stat, err
}

// GetACL reads a node's ACL and Stat.
func (c *Client) GetACL(ctx context.Context, path string) ([]ACL, Stat, error) {
	r, err := c.Do(ctx, GetACL(path))
	return r.ACL, r.Stat, err
}

// SetACL replaces a node's ACL, if its ACL has this version.
func (c *Client) SetACL(ctx context.Context, path string, acl []ACL, version int32) (Stat, error) {
	r, err := c.Do(ctx, SetACL(path, acl, version))
	return r.Stat, err
}

// Sync makes later reads see all that was committed before.
func (c *Client) Sync(ctx context.Context) error {
	_, err := c.Do(ctx, Sync("/"))
	return err
}

// Multi does all operations or none. When one fails the error is a *MultiError inside an *OpError, and the results hold
// the error of each.
func (c *Client) Multi(ctx context.Context, ops ...Op) ([]Result, error) {
	r, err := c.Do(ctx, Multi(ops...))
	return r.Results, err
}

// MultiRead reads several nodes at once; each result has an Err of its own.
func (c *Client) MultiRead(ctx context.Context, ops ...Op) ([]Result, error) {
	r, err := c.Do(ctx, MultiRead(ops...))
	return r.Results, err
}

// MakePath creates a node and whatever is missing above it, persistent and empty. What exists is left alone.
func (c *Client) MakePath(ctx context.Context, path string, acl []ACL) error {
	if path == "/" {
		return nil
	}
	_, err := c.Create(ctx, path, nil, acl, Persistent)
	switch {
	case err == nil || errors.Is(err, ErrNodeExists):
		return nil
	case errors.Is(err, ErrNoNode):
		if err := c.MakePath(ctx, Parent(path), acl); err != nil {
			return err
		}
		if _, err = c.Create(ctx, path, nil, acl, Persistent); err == nil || errors.Is(err, ErrNodeExists) {
			return nil
		}
	case errors.Is(err, ErrNoAuth):
		// A parent that may not be written to may hold the node already.
		if ok, _, xerr := c.Exists(ctx, path); xerr == nil && ok {
			return nil
		}
	}
	return err
}

// Window keeps a bounded number of requests in flight for a caller that sends many: Send waits for room, Wait for the rest.
// The first error stops it, unless the callback takes errors (by not returning them).
type Window struct {
	c    *Client
	room chan struct{}
	mu   sync.Mutex
	err  error
	wg   sync.WaitGroup
}

// NewWindow returns a window of n requests.
func (c *Client) NewWindow(n int) *Window { return &Window{c: c, room: make(chan struct{}, n)} }

// Send queues a request when there is room. done (it may be nil) runs on the callback goroutine; the error that it returns
// stops the window.
func (w *Window) Send(ctx context.Context, op Op, done func(Result, error) error) error {
	if err := w.Err(); err != nil {
		return err
	}
	select {
	case w.room <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	w.wg.Add(1)
	code, path := op.Code, op.Path
	err := w.c.Send(op, func(r Result, err error) {
		defer w.wg.Done()
		if err != nil {
			err = &OpError{Op: code.String(), Path: path, Err: err}
		}
		if done != nil {
			err = done(r, err)
		}
		if err != nil {
			w.fail(err)
		}
		<-w.room
	})
	if err != nil {
		w.wg.Done()
		<-w.room
		err = &OpError{Op: code.String(), Path: path, Err: err}
		w.fail(err)
	}
	return err
}

func (w *Window) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// Err is the error that stopped the window, or nil.
func (w *Window) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Wait waits until everything sent was answered, or ctx ends.
func (w *Window) Wait(ctx context.Context) error {
	ch := make(chan struct{})
	go func() { w.wg.Wait(); close(ch) }()
	select {
	case <-ch:
		return w.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
