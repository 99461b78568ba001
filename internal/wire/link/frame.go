package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	"github.com/orchestrator/orchestrator/internal/wire"
)

const headerSize = 4

// maxMessages bounds the messages of one frame: an empty one takes two bytes in the frame and a hundred decoded.
const maxMessages = 1 << 17

// idleBuffer is what a connection waits with; busy ones borrow readBuffer bytes until they have nothing to read.
const (
	idleBuffer = 256
	readBuffer = 32 << 10
)

var readBuffers = sync.Pool{New: func() any { return new([readBuffer]byte) }}

// frameReader cuts the stream of bytes into frames.
type frameReader struct {
	conn       *Conn
	max        int
	idle       [idleBuffer]byte
	borrowed   *[readBuffer]byte
	buf        []byte // idle, borrowed, or one frame's own when it is larger than those
	start, end int    // of what is unread in buf
	last       int    // bytes that the last read brought
}

// next returns the bytes of the next frame, valid until the following call. io.EOF: the peer closed between frames.
func (r *frameReader) next() ([]byte, error) {
	if err := r.need(headerSize); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(r.buf[r.start:]))
	if size > r.max {
		return nil, fmt.Errorf("%w: %d bytes exceed the limit of %d", ErrFrame, size, r.max)
	}
	if err := r.need(headerSize + size); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: %w", ErrFrame, io.ErrUnexpectedEOF)
		}
		return nil, err
	}
	frame := r.buf[r.start+headerSize : r.start+headerSize+size]
	r.start += headerSize + size
	return frame, nil
}

// need reads until n bytes are there, contiguous from start.
func (r *frameReader) need(n int) error {
	for r.end-r.start < n {
		r.room(n)
		// The deadline was set when bytes arrived last; a peer that trickles is alive.
		got, err := r.conn.conn.Read(r.buf[r.end:])
		r.end += got
		if got > 0 {
			r.last = got
			r.conn.heard()
			continue
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) && r.end > r.start:
			return fmt.Errorf("%w: %w", ErrFrame, io.ErrUnexpectedEOF)
		case errors.Is(err, os.ErrDeadlineExceeded):
			return ErrSilent
		default:
			return err
		}
	}
	return nil
}

// room makes space behind end, for a frame of n bytes. The buffer grows with what has arrived, so that a header alone
// cannot claim memory, and shrinks when nothing is unread: to the borrowed one after a large frame, to the idle one when
// little came last. A busy connection so reads with one call what a quiet one would need two for.
func (r *frameReader) room(n int) {
	if r.start == r.end {
		switch {
		case n == headerSize && r.last <= idleBuffer:
			r.release()
		case len(r.buf) > readBuffer:
			r.buf = r.borrowed[:]
		}
		r.start, r.end = 0, 0
	}
	if r.buf == nil {
		r.buf = r.idle[:]
		return
	}
	if r.end < len(r.buf) && len(r.buf)-r.start >= n {
		return
	}
	if r.start > 0 {
		r.end = copy(r.buf, r.buf[r.start:r.end])
		r.start = 0
	}
	switch {
	case r.end < len(r.buf):
	case r.borrowed == nil:
		r.borrowed = readBuffers.Get().(*[readBuffer]byte)
		copy(r.borrowed[:], r.buf)
		r.buf = r.borrowed[:]
	default:
		grown := make([]byte, min(n, 2*len(r.buf)))
		copy(grown, r.buf)
		r.buf = grown
	}
}

// release gives the borrowed buffer back.
func (r *frameReader) release() {
	if r.borrowed != nil {
		readBuffers.Put(r.borrowed)
		r.borrowed = nil
	}
	r.buf, r.start, r.end = nil, 0, 0
}

// heard puts the idle timeout off.
func (c *Conn) heard() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle > 0 && c.err == nil && !c.closing {
		c.setReadDeadlineLocked()
	}
}

// decoder reads a Frame without making one: the messages are all that is allocated.
type decoder struct {
	channel uint64
	msgs    []*linkv1.Message
	closed  bool
}

// reset forgets the messages but keeps the slice, unless it is large.
func (d *decoder) reset() {
	clear(d.msgs)
	if d.msgs = d.msgs[:0]; cap(d.msgs) > 1024 {
		d.msgs = nil
	}
}

func (d *decoder) decode(b []byte) (err error) {
	d.msgs = d.msgs[:0]
	d.channel, d.closed, err = split(b, func(body []byte) error {
		m := new(linkv1.Message)
		if err := wire.UnmarshalProtobuf(body, m); err != nil {
			return fmt.Errorf("%w: decoding a message: %w", ErrFrame, err)
		}
		d.msgs = append(d.msgs, m)
		return nil
	})
	return err
}

// split takes a frame apart and hands out its messages, still encoded.
func split(b []byte, message func(body []byte) error) (channel uint64, closed bool, err error) {
	messages := 0
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, false, fmt.Errorf("%w: %w", ErrFrame, protowire.ParseError(n))
		}
		b = b[n:]
		switch {
		case num == 2 && typ == protowire.BytesType:
			var body []byte
			if body, n = protowire.ConsumeBytes(b); n >= 0 {
				if messages++; messages > maxMessages {
					return 0, false, fmt.Errorf("%w: more than %d messages", ErrFrame, maxMessages)
				}
				if err := message(body); err != nil {
					return 0, false, err
				}
			}
		case num == 1 && typ == protowire.VarintType:
			channel, n = protowire.ConsumeVarint(b)
		case num == 3 && typ == protowire.VarintType:
			var v uint64
			v, n = protowire.ConsumeVarint(b)
			closed = v != 0
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return 0, false, fmt.Errorf("%w: %w", ErrFrame, protowire.ParseError(n))
		}
		b = b[n:]
	}
	return channel, closed, nil
}
