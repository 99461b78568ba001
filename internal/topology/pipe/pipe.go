// Package pipe carries two-way byte streams (logs, terminals, files) over the stream between probe and monitor.
//
// Either side may have at most Window bytes under way on a pipe: the receiver gives credit back as it consumes, so a slow
// browser slows the container's output and nothing in between grows. A side that sends more than it may loses the pipe.
package pipe

import (
	"context"
	"errors"
	"sync"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
)

// Window is how many bytes may be under way in one direction of one pipe.
const Window = 256 << 10

// maxPiece bounds one message, so that pipes share a connection fairly.
const maxPiece = 32 << 10

// maxPieces bounds the queue of a pipe by count as well: tiny pieces weigh more than their bytes.
const maxPieces = 4096

// Streams of a pipe.
const (
	Stdin   = 0
	Stdout  = 1
	Stderr  = 2
	Control = 3
)

var (
	// ErrClosed is what a pipe that the other side has closed, or whose connection is lost, answers.
	ErrClosed = errors.New("pipe closed")
	// ErrOverrun means that the other side sent more than it had credit for.
	ErrOverrun = errors.New("pipe overrun: the other side ignores flow control")
)

// Mux holds the pipes of one connection.
type Mux struct {
	send func(*probev1.Pipe) error

	mu     sync.Mutex
	pipes  map[uint64]*Pipe
	closed error
}

// NewMux makes a Mux whose pipes send with send, which may block and is called from many goroutines.
func NewMux(send func(*probev1.Pipe) error) *Mux {
	return &Mux{send: send, pipes: map[uint64]*Pipe{}}
}

// Open makes the pipe of that number. Both sides open a pipe before data for it can arrive.
func (m *Mux) Open(id uint64) *Pipe {
	p := &Pipe{mux: m, id: id, credit: Window, recv: make(chan struct{}, 1), sent: make(chan struct{}, 1), dead: make(chan struct{})}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed != nil {
		p.fail(m.closed)
		return p
	}
	m.pipes[id] = p
	return p
}

// Handle takes a message that arrived. Messages for pipes that are no more are ignored.
func (m *Mux) Handle(msg *probev1.Pipe) {
	m.mu.Lock()
	p := m.pipes[msg.Id]
	m.mu.Unlock()
	if p != nil {
		p.take(msg)
	}
}

// CloseAll ends every pipe: the connection is gone.
func (m *Mux) CloseAll(err error) {
	m.mu.Lock()
	pipes := m.pipes
	m.pipes, m.closed = map[uint64]*Pipe{}, err
	m.mu.Unlock()
	for _, p := range pipes {
		p.fail(err)
	}
}

// Pipe is one two-way stream. Send and Recv may be used at the same time, each by one goroutine.
type Pipe struct {
	mux *Mux
	id  uint64

	mu       sync.Mutex
	queue    []*probev1.Pipe
	queued   int
	consumed uint32
	credit   int
	eof      bool
	err      error
	recv     chan struct{} // something to receive
	sent     chan struct{} // credit came
	dead     chan struct{}
}

func (p *Pipe) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
		close(p.dead)
	}
}

func (p *Pipe) take(msg *probev1.Pipe) {
	p.mu.Lock()
	if msg.Credit > 0 {
		p.credit = min(p.credit+int(msg.Credit), Window)
		wake(p.sent)
	}
	if len(msg.Data) > 0 && !p.eof {
		p.queued += len(msg.Data)
		p.queue = append(p.queue, msg)
		wake(p.recv)
	}
	if msg.Eof {
		p.eof = true
		wake(p.recv)
	}
	over := p.queued > Window || len(p.queue) > maxPieces
	p.mu.Unlock()
	if over {
		p.fail(ErrOverrun)
		p.Close()
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Recv gives the next piece. ErrClosed means that the other side has closed and all was read.
func (p *Pipe) Recv(ctx context.Context) (stream uint32, data []byte, err error) {
	for {
		p.mu.Lock()
		if len(p.queue) > 0 {
			msg := p.queue[0]
			p.queue = p.queue[1:]
			p.queued -= len(msg.Data)
			p.consumed += uint32(len(msg.Data))
			var back uint32
			if p.consumed > Window/4 {
				back, p.consumed = p.consumed, 0
			}
			p.mu.Unlock()
			if back > 0 {
				if err := p.mux.send(&probev1.Pipe{Id: p.id, Credit: back}); err != nil {
					return 0, nil, err
				}
			}
			return msg.Stream, msg.Data, nil
		}
		eof, failed := p.eof, p.err
		p.mu.Unlock()
		if failed != nil {
			return 0, nil, failed
		}
		if eof {
			return 0, nil, ErrClosed
		}
		select {
		case <-p.recv:
		case <-p.dead:
		case <-ctx.Done():
			return 0, nil, ctx.Err()
		}
	}
}

// Send sends data on a stream and blocks while the other side gives no credit.
func (p *Pipe) Send(ctx context.Context, stream uint32, data []byte) error {
	for len(data) > 0 {
		p.mu.Lock()
		n := min(len(data), p.credit, maxPiece)
		p.credit -= n
		failed := p.err
		p.mu.Unlock()
		if failed != nil {
			return failed
		}
		if n == 0 {
			select {
			case <-p.sent:
			case <-p.dead:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		if err := p.mux.send(&probev1.Pipe{Id: p.id, Stream: stream, Data: append([]byte(nil), data[:n]...)}); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// Close tells the other side that nothing follows, and forgets the pipe.
func (p *Pipe) Close() {
	p.mux.mu.Lock()
	_, there := p.mux.pipes[p.id]
	delete(p.mux.pipes, p.id)
	p.mux.mu.Unlock()
	if there {
		_ = p.mux.send(&probev1.Pipe{Id: p.id, Eof: true})
	}
	p.fail(ErrClosed)
}

// Done is closed when the pipe is dead: closed here, overrun, or the connection is lost. The other side's regular end is
// seen by Recv.
func (p *Pipe) Done() <-chan struct{} { return p.dead }
