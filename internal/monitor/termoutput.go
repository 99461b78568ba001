package monitor

import (
	"context"
	"sync"
)

const (
	// missedBytes is what is kept of a terminal's output while no socket has it: the newest.
	missedBytes = 64 << 10
	// aheadBytes is how much of it may wait for a slow socket; then the process is held back.
	aheadBytes = 256 << 10
	// pieceBytes is up to what size pieces of one stream are put together.
	pieceBytes = 32 << 10
)

// termOutput is what a terminal has written and no socket has taken yet, in order, whichever socket that is to be.
type termOutput struct {
	mu     sync.Mutex
	frames [][]byte // a stream's byte, then what came on it
	size   int
	to     *outlet       // nil: no socket has the terminal
	room   chan struct{} // something was taken, or the socket has left
}

// outlet is one socket's hold of a terminal's output.
type outlet struct {
	more chan struct{} // something is there
	lost chan struct{} // closed when another socket has taken it
}

func newTermOutput() *termOutput { return &termOutput{room: make(chan struct{}, 1)} }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put adds a piece. It waits while the socket that has the terminal does not keep up.
func (o *termOutput) put(ctx context.Context, stream byte, data []byte) {
	for {
		o.mu.Lock()
		if o.to == nil || o.size < aheadBytes {
			o.add(stream, data)
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
		select {
		case <-o.room:
		case <-ctx.Done():
			return
		}
	}
}

// add puts a piece behind the others. The caller holds the lock.
func (o *termOutput) add(stream byte, data []byte) {
	o.size += len(data)
	if n := len(o.frames); n > 0 && o.frames[n-1][0] == stream && len(o.frames[n-1]) < pieceBytes {
		o.frames[n-1] = append(o.frames[n-1], data...)
	} else {
		o.frames = append(o.frames, append([]byte{stream}, data...))
	}
	if o.to == nil {
		o.trim()
	} else {
		wake(o.to.more)
	}
}

// trim forgets the oldest of what nobody has come for.
func (o *termOutput) trim() {
	for o.size > missedBytes {
		first := o.frames[0]
		over := o.size - missedBytes
		if n := len(first) - 1; n <= over {
			o.frames, o.size = o.frames[1:], o.size-n
			continue
		}
		o.frames[0] = append([]byte{first[0]}, first[1+over:]...)
		o.size -= over
	}
}

// take makes the output a socket's; one that has it gives way. What the earlier one has not sent is the new one's.
func (o *termOutput) take() *outlet {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.to != nil {
		close(o.to.lost)
	}
	o.to = &outlet{more: make(chan struct{}, 1), lost: make(chan struct{})}
	wake(o.to.more)
	return o.to
}

// next gives the oldest piece to the socket that has the output; nil when there is none, or it has it no more.
func (o *termOutput) next(to *outlet) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.to != to || len(o.frames) == 0 {
		return nil
	}
	frame := o.frames[0]
	o.frames, o.size = o.frames[1:], o.size-(len(frame)-1)
	wake(o.room)
	return frame
}

// leave says that a socket is gone. It reports whether it still had the output, which then is nobody's.
func (o *termOutput) leave(to *outlet) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.to != to {
		return false
	}
	o.to = nil
	o.trim()
	wake(o.room)
	return true
}

// alone reports whether no socket has the output.
func (o *termOutput) alone() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.to == nil
}
