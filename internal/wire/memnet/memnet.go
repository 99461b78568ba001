// Package memnet is a network inside the process: a listener whose connections are pairs of buffered pipes. Components that run
// in one process meet on it, and so do tests, where it works inside a testing/synctest bubble: nothing in it waits on
// the world outside.
//
// It owns no goroutine. A dialled connection is handed over directly to Accept: Dial blocks until someone accepts.
package memnet

import (
	"context"
	"net"
	"sync"
)

// Listener is the listening end. It implements net.Listener.
type Listener struct {
	address string
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

// Listen returns a listener with the address, "host:port" as it will appear in URLs.
func Listen(address string) *Listener {
	return &Listener{address: address, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept waits for a connection. After Close it returns net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: "mem", Addr: l.Addr(), Err: net.ErrClosed}
	}
}

// Close refuses further connections. Those that exist live on.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr returns the address given to Listen.
func (l *Listener) Addr() net.Addr { return Addr(l.address) }

// Dial connects to the listener.
func (l *Listener) Dial(ctx context.Context) (net.Conn, error) {
	here, there := pipe(Addr(l.address))
	var err error
	select {
	case l.conns <- there:
		return here, nil
	case <-l.closed:
		err = net.ErrClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	here.Close()
	there.Close()
	return nil, &net.OpError{Op: "dial", Net: "mem", Addr: l.Addr(), Err: err}
}

// Addr is an address of this network.
type Addr string

// Network returns "mem".
func (Addr) Network() string { return "mem" }

// String returns the "host:port".
func (a Addr) String() string { return string(a) }

// Network is a set of listeners by address. The zero value is empty and ready.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*Listener
}

// Listen opens a listener and puts it in the set, in place of an earlier one with the address.
func (n *Network) Listen(address string) *Listener {
	l := Listen(address)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners == nil {
		n.listeners = make(map[string]*Listener)
	}
	n.listeners[address] = l
	return l
}

// DialContext connects to the listener with the address; its signature is that of net.Dialer's and http.Transport's.
func (n *Network) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[address]
	n.mu.Unlock()
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: "mem", Addr: Addr(address), Err: net.UnknownNetworkError("nobody listens there")}
	}
	return l.Dial(ctx)
}
