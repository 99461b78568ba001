package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
)

// Reasons why a connection ended.
var (
	// ErrClosed: this side closed it.
	ErrClosed = errors.New("the link was closed")
	// ErrSlowPeer: the peer did not take what was queued for it.
	ErrSlowPeer = errors.New("the peer of the link does not keep up")
	// ErrPeerGone: the peer closed it.
	ErrPeerGone = errors.New("the peer closed the link")
	// ErrSilent: nothing came for the idle timeout.
	ErrSilent = errors.New("the peer of the link is silent")
	// ErrFrame is wrapped by the errors about frames that are malformed or too large.
	ErrFrame = errors.New("bad frame on the link")
)

// Config bounds a connection. Zero fields stand for the defaults.
type Config struct {
	MaxFrame     int           // bytes of one frame, sent or received; default 64 MiB
	MaxQueued    int           // bytes that may wait to be written; default 128 MiB. One message alone may be larger
	WriteTimeout time.Duration // in which the peer must take some of what is written; default 30 s
	IdleTimeout  time.Duration // without a byte from the peer; 0: for ever. See SetIdleTimeout
	Metrics      *Metrics
}

// Defaults of Config.
const (
	DefaultMaxFrame     = 64 << 20
	DefaultMaxQueued    = 128 << 20
	DefaultWriteTimeout = 30 * time.Second
)

// frameFull is the size from which a batch continues in another frame, so that the receiver can begin to work on the
// first one.
const frameFull = 128 << 10

// maxSpare is the largest write buffer that a busy connection keeps for its next batch.
const maxSpare = 256 << 10

// Handler is given what arrives. msgs is valid until it returns (the slice, not the messages); closed says that the peer
// has closed the channel. An error ends the connection.
type Handler func(channel uint64, msgs []*linkv1.Message, closed bool) error

// RawHandler is a Handler that is given the messages as they are encoded. bodies and what they hold are valid until it
// returns.
type RawHandler func(channel uint64, bodies [][]byte, closed bool) error

// Conn is one connection. Send, SendRaw, CloseChannel and Close may be called from any goroutine and don't block; Run is
// called once.
type Conn struct {
	conn net.Conn
	cfg  Config
	done chan struct{}

	mu      sync.Mutex
	pending []byte // sealed frames and the open one at the end
	spare   []byte // what the writer gave back
	frame   int    // where the open frame begins in pending; -1 when there is none
	channel uint64 // of the open frame
	queued  int    // messages in pending
	writing bool   // a writer goroutine exists
	closing bool   // nothing more may be queued
	err     error
	idle    time.Duration
	writers sync.WaitGroup
}

// NewConn makes a link of a connection whose handshake is over. It is for tests and transports of one's own; see Accept
// and Dial.
func NewConn(conn net.Conn, cfg Config) *Conn {
	if cfg.MaxFrame <= 0 {
		cfg.MaxFrame = DefaultMaxFrame
	}
	if cfg.MaxQueued <= 0 {
		cfg.MaxQueued = DefaultMaxQueued
	}
	if cfg.WriteTimeout <= 0 {
		cfg.WriteTimeout = DefaultWriteTimeout
	}
	return &Conn{conn: conn, cfg: cfg, done: make(chan struct{}), frame: -1, idle: cfg.IdleTimeout}
}

// RemoteAddr is the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// LocalAddr is this side's address.
func (c *Conn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// Done is closed when Run returns.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the connection ended; nil while it lives.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// SetIdleTimeout changes how long the peer may be silent, from the next byte it sends on.
func (c *Conn) SetIdleTimeout(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = d
	if c.err == nil && !c.closing {
		c.setReadDeadlineLocked()
	}
}

func (c *Conn) setReadDeadlineLocked() {
	var at time.Time
	if c.idle > 0 {
		at = time.Now().Add(c.idle)
	}
	_ = c.conn.SetReadDeadline(at) // a connection without deadlines has failed, and reading says so
}

// Send queues messages of a channel. It encodes them before it returns, so they may be changed afterwards. It returns
// false when the connection has ended, or ends because its queue is full.
func (c *Conn) Send(channel uint64, msgs ...*linkv1.Message) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range msgs {
		size := m.SizeVT()
		at, ok := c.reserveLocked(channel, size)
		if !ok {
			return false
		}
		if _, err := m.MarshalToSizedBufferVT(c.pending[at : at+size]); err != nil {
			c.failLocked(fmt.Errorf("encoding a message: %w", err))
			return false
		}
	}
	return true
}

// SendRaw queues one message that is encoded already; its bytes are the parts, one after the other.
func (c *Conn) SendRaw(channel uint64, parts ...[]byte) bool {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.reserveLocked(channel, size)
	if !ok {
		return false
	}
	for _, p := range parts {
		at += copy(c.pending[at:], p)
	}
	return true
}

// CloseChannel tells the peer that a channel is closed.
func (c *Conn) CloseChannel(channel uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.err != nil {
		return false
	}
	c.openLocked(channel)
	c.pending = append(c.pending, tagClosed, 1)
	c.sealLocked()
	c.startLocked()
	return true
}

// Close lets what is queued be written and then ends the connection. Run returns ErrClosed; what the peer still sends is
// not handed out.
func (c *Conn) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.err != nil {
		return
	}
	c.closing = true
	c.startLocked()
}

// Abort ends the connection at once.
func (c *Conn) Abort(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(err)
}

// Tags of Frame's fields.
const (
	tagChannel  = 1 << 3
	tagMessages = 2<<3 | 2
	tagClosed   = 3 << 3
)

// openLocked makes sure that pending ends in an open frame of the channel.
func (c *Conn) openLocked(channel uint64) {
	if c.frame >= 0 && (c.channel != channel || len(c.pending)-c.frame >= frameFull) {
		c.sealLocked()
	}
	if c.frame >= 0 {
		return
	}
	if c.pending == nil {
		c.pending, c.spare = c.spare[:0], nil
	}
	c.frame, c.channel = len(c.pending), channel
	c.pending = append(c.pending, 0, 0, 0, 0)
	if channel != 0 {
		c.pending = binary.AppendUvarint(append(c.pending, tagChannel), channel)
	}
}

func (c *Conn) sealLocked() {
	if c.frame >= 0 {
		binary.BigEndian.PutUint32(c.pending[c.frame:], uint32(len(c.pending)-c.frame-headerSize))
		c.frame = -1
	}
}

// reserveLocked makes room for a message of the size at the end of pending, and returns where it begins.
func (c *Conn) reserveLocked(channel uint64, size int) (at int, ok bool) {
	const overhead = 32 // the frame's header, its channel, the message's tag and length
	switch {
	case c.closing || c.err != nil:
		return 0, false
	case size+overhead > c.cfg.MaxFrame:
		c.failLocked(fmt.Errorf("%w: a message of %d bytes does not fit into a frame of %d", ErrFrame, size, c.cfg.MaxFrame))
		return 0, false
	case len(c.pending) > 0 && len(c.pending)+size > c.cfg.MaxQueued:
		c.cfg.Metrics.overflow()
		c.failLocked(ErrSlowPeer)
		return 0, false
	}
	if c.frame >= 0 && len(c.pending)-c.frame+size+overhead > c.cfg.MaxFrame {
		c.sealLocked()
	}
	c.openLocked(channel)
	c.pending = binary.AppendUvarint(append(c.pending, tagMessages), uint64(size))
	at = len(c.pending)
	if need := at + size; need <= cap(c.pending) {
		c.pending = c.pending[:need]
	} else {
		grown := make([]byte, need, max(need, 2*cap(c.pending)))
		copy(grown, c.pending)
		c.pending = grown
	}
	c.queued++
	c.startLocked()
	return at, true
}

// startLocked starts a writer unless one is at work. It ends when there is nothing left, so that an idle connection has
// none.
func (c *Conn) startLocked() {
	if c.writing || c.err != nil {
		return
	}
	c.writing = true
	c.writers.Add(1)
	go c.write()
}

func (c *Conn) write() {
	defer c.writers.Done()
	for {
		c.mu.Lock()
		c.sealLocked()
		batch, messages := c.pending, c.queued
		c.pending, c.queued = nil, 0
		if c.err != nil || len(batch) == 0 {
			c.writing = false
			closing := c.closing && c.err == nil
			c.mu.Unlock()
			if closing {
				c.endOutput()
			}
			return
		}
		c.mu.Unlock()

		err := c.writeAll(batch)
		c.cfg.Metrics.sent(messages, len(batch))
		c.mu.Lock()
		if cap(batch) <= maxSpare {
			c.spare = batch[:0]
		}
		if len(c.pending) == 0 && !c.closing {
			c.spare = nil // going idle
		}
		if err != nil {
			c.failLocked(fmt.Errorf("writing to the link: %w", err))
		}
		c.mu.Unlock()
	}
}

// writeAll writes in pieces, each with a deadline of its own: much may take long, but something must move.
func (c *Conn) writeAll(b []byte) error {
	const piece = 1 << 20
	for len(b) > 0 {
		n := min(len(b), piece)
		if err := c.conn.SetWriteDeadline(time.Now().Add(c.cfg.WriteTimeout)); err != nil {
			return err
		}
		if c.aborted() {
			return net.ErrClosed
		}
		if _, err := c.conn.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// aborted is asked after a deadline was set, because that may have undone the one that failLocked set.
func (c *Conn) aborted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err != nil
}

// endOutput follows the last frame. Closing a connection on which unread bytes wait would make the kernel throw away
// what the peer has not read yet, so only our half is closed; Run reads until the peer closes its own, for a while.
func (c *Conn) endOutput() {
	const linger = 2 * time.Second
	half, ok := c.conn.(interface{ CloseWrite() error })
	if ok && half.CloseWrite() == nil && c.conn.SetReadDeadline(time.Now().Add(linger)) == nil {
		return
	}
	c.Abort(ErrClosed)
}

// failLocked ends the connection: what is queued is forgotten, and reads and writes in flight fail soon.
func (c *Conn) failLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	c.pending, c.spare, c.queued, c.frame = nil, nil, 0, -1
	_ = c.conn.SetDeadline(time.Unix(1, 0))
}

// Run reads frames and hands them out until the connection ends, and returns why. When ctx is done the connection is
// aborted.
func (c *Conn) Run(ctx context.Context, handle Handler) error {
	var d decoder
	return c.run(ctx, func(frame []byte) error {
		if err := d.decode(frame); err != nil {
			return err
		}
		c.cfg.Metrics.received(len(d.msgs), len(frame))
		defer d.reset()
		return handle(d.channel, d.msgs, d.closed)
	})
}

// RunRaw is Run without decoding, for peers that look at a part of the messages only.
func (c *Conn) RunRaw(ctx context.Context, handle RawHandler) error {
	var bodies [][]byte
	return c.run(ctx, func(frame []byte) error {
		bodies = bodies[:0]
		channel, closed, err := split(frame, func(body []byte) error {
			bodies = append(bodies, body)
			return nil
		})
		if err != nil {
			return err
		}
		c.cfg.Metrics.received(len(bodies), len(frame))
		return handle(channel, bodies, closed)
	})
}

func (c *Conn) run(ctx context.Context, take func(frame []byte) error) error {
	stop := context.AfterFunc(ctx, func() { c.Abort(context.Cause(ctx)) })
	c.cfg.Metrics.opened()
	err := c.read(take)
	stop()
	c.mu.Lock()
	switch {
	case c.err != nil:
	case c.closing:
		c.failLocked(ErrClosed)
	default:
		c.failLocked(err)
	}
	err = c.err
	c.mu.Unlock()
	c.writers.Wait()
	c.conn.Close()
	c.cfg.Metrics.closed()
	close(c.done)
	return err
}

func (c *Conn) read(take func(frame []byte) error) error {
	r := frameReader{conn: c, max: c.cfg.MaxFrame}
	defer r.release()
	for {
		frame, err := r.next()
		switch {
		case errors.Is(err, io.EOF):
			return ErrPeerGone
		case err != nil:
			return err
		}
		if c.deaf() {
			continue
		}
		if err := take(frame); err != nil {
			return err
		}
	}
}

// deaf reports whether Close was called.
func (c *Conn) deaf() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}
