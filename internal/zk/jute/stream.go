package jute

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// Stream reads fields from a connection or a file. Buffers that it returns are the caller's own.
type Stream struct {
	r     io.Reader
	buffd *bufio.Reader // r, when it is buffered here
	limit int
	n     int64
	err   error
	buf   [8]byte
}

// NewStream reads from r and refuses any buffer or string longer than limit bytes.
func NewStream(r io.Reader, limit int) *Stream {
	b := bufio.NewReaderSize(r, 256<<10)
	return &Stream{r: b, buffd: b, limit: limit}
}

// NewStreamUnbuffered is NewStream for a reader that must not be read ahead of what is asked for.
func NewStreamUnbuffered(r io.Reader, limit int) *Stream { return &Stream{r: r, limit: limit} }

// Err is the first error met, or nil.
func (s *Stream) Err() error { return s.err }

// Offset is the number of bytes read so far.
func (s *Stream) Offset() int64 { return s.n }

// Buffered is the number of bytes that can be read without waiting.
func (s *Stream) Buffered() int {
	if s.buffd == nil {
		return 0
	}
	return s.buffd.Buffered()
}

func (s *Stream) fill(b []byte) bool {
	if s.err != nil {
		return false
	}
	n, err := io.ReadFull(s.r, b)
	s.n += int64(n)
	if err != nil {
		s.err = err
		return false
	}
	return true
}

// Int reads a 32-bit integer.
func (s *Stream) Int() int32 {
	if !s.fill(s.buf[:4]) {
		return 0
	}
	return int32(binary.BigEndian.Uint32(s.buf[:4]))
}

// Long reads a 64-bit integer.
func (s *Stream) Long() int64 {
	if !s.fill(s.buf[:8]) {
		return 0
	}
	return int64(binary.BigEndian.Uint64(s.buf[:8]))
}

// Byte reads one byte.
func (s *Stream) Byte() byte {
	if !s.fill(s.buf[:1]) {
		return 0
	}
	return s.buf[0]
}

// Buffer reads a length-prefixed buffer; length -1 yields nil.
func (s *Stream) Buffer() []byte {
	n := s.Int()
	if s.err != nil || n == -1 {
		return nil
	}
	if n < 0 || int(n) > s.limit {
		s.err = fmt.Errorf("jute: buffer of %d bytes at offset %d, the limit is %d", n, s.n-4, s.limit)
		return nil
	}
	// A length is only a claim: memory is committed as the bytes arrive.
	const step = 1 << 20
	b := make([]byte, 0, min(int(n), step))
	for len(b) < int(n) {
		m := min(int(n)-len(b), step)
		b = append(b, make([]byte, m)...)
		if !s.fill(b[len(b)-m:]) {
			return nil
		}
	}
	return b
}

// String reads a length-prefixed string.
func (s *Stream) String() string {
	const short = 4 << 10 // such a string is copied once, out of the buffer
	if s.buffd == nil || s.err != nil {
		return string(s.Buffer())
	}
	head, _ := s.buffd.Peek(4)
	if len(head) < 4 {
		return string(s.Buffer())
	}
	n := int(int32(binary.BigEndian.Uint32(head)))
	if n < 0 || n > min(short, s.limit) {
		return string(s.Buffer())
	}
	b, err := s.buffd.Peek(4 + n)
	if err != nil {
		return string(s.Buffer())
	}
	out := string(b[4:])
	_, _ = s.buffd.Discard(4 + n) // it is there
	s.n += int64(4 + n)
	return out
}

// Count reads the length of a vector and refuses more than limit elements.
func (s *Stream) Count(limit int) int {
	n := s.Int()
	if s.err != nil || n == -1 {
		return 0
	}
	if n < 0 || int(n) > limit {
		s.err = fmt.Errorf("jute: vector of %d elements at offset %d, the limit is %d", n, s.n-4, limit)
		return 0
	}
	return int(n)
}
