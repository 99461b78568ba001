package memnet

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// capacity is how much may be under way in one direction before a Write waits for the reader, like a socket's buffer.
const capacity = 64 << 10

// pipe returns the two ends of a connection. Unlike net.Pipe's they are buffered, as sockets are: a Write does not wait for
// the reader, what was written before Close is still read, and one direction can be closed alone.
func pipe(addr Addr) (net.Conn, net.Conn) {
	a, b := newFlow(), newFlow()
	return &end{addr: addr, in: a, out: b}, &end{addr: addr, in: b, out: a}
}

// end is one end of a connection.
type end struct {
	addr    Addr
	in, out *flow
}

func (e *end) Read(b []byte) (int, error)  { return e.in.read(b) }
func (e *end) Write(b []byte) (int, error) { return e.out.write(b) }
func (e *end) LocalAddr() net.Addr         { return e.addr }
func (e *end) RemoteAddr() net.Addr        { return e.addr }

// Close ends both directions. The peer reads what was written before.
func (e *end) Close() error {
	e.out.endWriting()
	e.in.endReading()
	return nil
}

// CloseWrite ends the direction to the peer, which reads what was written and then io.EOF.
func (e *end) CloseWrite() error {
	e.out.endWriting()
	return nil
}

func (e *end) SetDeadline(t time.Time) error {
	e.in.reading.set(e.in, t)
	e.out.writing.set(e.out, t)
	return nil
}

func (e *end) SetReadDeadline(t time.Time) error {
	e.in.reading.set(e.in, t)
	return nil
}

func (e *end) SetWriteDeadline(t time.Time) error {
	e.out.writing.set(e.out, t)
	return nil
}

// flow is one direction. mu guards it and both of its sides.
type flow struct {
	mu               sync.Mutex
	buf              []byte
	start            int  // of what is unread in buf
	ended            bool // the writer has closed: what is left is read, then io.EOF
	deaf             bool // the reader has closed
	reading, writing side
}

// side is the reader's or the writer's view of a flow: whoever waits, and until when. Deadlines are set far more often than
// they pass, so that a timer runs only while somebody waits, and is left alone while it would only move to later.
type side struct {
	cond     sync.Cond
	waiting  int
	deadline time.Time
	timer    *time.Timer
	alarm    time.Time // when the timer goes off; zero while it is not set
}

func newFlow() *flow {
	f := new(flow)
	f.reading.cond.L, f.writing.cond.L = &f.mu, &f.mu
	return f
}

func (f *flow) read(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.deaf:
			return 0, net.ErrClosed
		case f.reading.passed():
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case f.start < len(f.buf):
			n := copy(b, f.buf[f.start:])
			if f.start += n; f.start == len(f.buf) {
				f.buf, f.start = f.buf[:0], 0
			}
			if f.writing.waiting > 0 {
				f.writing.cond.Broadcast()
			}
			return n, nil
		case f.ended:
			return 0, io.EOF
		}
		f.reading.wait(f)
	}
}

func (f *flow) write(b []byte) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.ended:
			return n, net.ErrClosed
		case f.deaf:
			return n, io.ErrClosedPipe
		case f.writing.passed():
			return n, os.ErrDeadlineExceeded
		case n == len(b):
			return n, nil
		}
		if room := capacity - (len(f.buf) - f.start); room > 0 {
			if f.start > 0 && len(f.buf) == cap(f.buf) {
				f.buf, f.start = f.buf[:copy(f.buf, f.buf[f.start:])], 0
			}
			part := b[n:min(len(b), n+room)]
			f.buf = append(f.buf, part...)
			n += len(part)
			if f.reading.waiting > 0 {
				f.reading.cond.Broadcast()
			}
			continue
		}
		f.writing.wait(f)
	}
}

func (f *flow) endWriting() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.wake()
}

func (f *flow) endReading() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deaf = true
	f.buf, f.start = nil, 0
	f.wake()
}

func (f *flow) wake() {
	f.reading.cond.Broadcast()
	f.writing.cond.Broadcast()
}

func (s *side) passed() bool { return !s.deadline.IsZero() && !time.Now().Before(s.deadline) }

// wait waits until something has changed. f.mu is held.
func (s *side) wait(f *flow) {
	s.waiting++
	s.arm(f)
	s.cond.Wait()
	if s.waiting--; s.waiting == 0 && (f.ended || f.deaf) && s.timer != nil {
		s.timer.Stop()
		s.alarm = time.Time{}
	}
}

// arm makes sure that the timer goes off at the deadline or earlier while somebody waits.
func (s *side) arm(f *flow) {
	if s.deadline.IsZero() || s.waiting == 0 || !s.alarm.IsZero() && !s.alarm.After(s.deadline) {
		return
	}
	s.alarm = s.deadline
	d := time.Until(s.deadline)
	if s.timer != nil {
		s.timer.Reset(d)
		return
	}
	s.timer = time.AfterFunc(d, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		s.alarm = time.Time{}
		if s.passed() {
			s.cond.Broadcast()
		} else {
			s.arm(f)
		}
	})
}

func (s *side) set(f *flow, t time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.deadline = t
	if s.waiting == 0 {
		return
	}
	if s.passed() {
		s.cond.Broadcast()
		return
	}
	s.arm(f)
}
