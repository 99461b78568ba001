package jute

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrShort says that a message ended before its last field.
var ErrShort = errors.New("jute: message is shorter than its fields")

// Decoder reads fields from a message in memory. Buffers that it returns alias the message.
type Decoder struct {
	b   []byte
	err error
}

// NewDecoder returns a Decoder at the start of b.
func NewDecoder(b []byte) *Decoder { return &Decoder{b: b} }

// Err is the first error met, or nil.
func (d *Decoder) Err() error { return d.err }

// Rest is what has not been read yet.
func (d *Decoder) Rest() []byte { return d.b }

// Len is the number of bytes not read yet.
func (d *Decoder) Len() int { return len(d.b) }

func (d *Decoder) take(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n > len(d.b) {
		d.err = ErrShort
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

// Int reads a 32-bit integer.
func (d *Decoder) Int() int32 {
	v := d.take(4)
	if v == nil {
		return 0
	}
	return int32(binary.BigEndian.Uint32(v))
}

// Long reads a 64-bit integer.
func (d *Decoder) Long() int64 {
	v := d.take(8)
	if v == nil {
		return 0
	}
	return int64(binary.BigEndian.Uint64(v))
}

// Bool reads a one-byte boolean.
func (d *Decoder) Bool() bool {
	v := d.take(1)
	return v != nil && v[0] != 0
}

// Buffer reads a length-prefixed buffer; length -1 yields nil, any other negative length is an error.
func (d *Decoder) Buffer() []byte {
	n := d.Int()
	if d.err != nil || n == -1 {
		return nil
	}
	if n < 0 {
		d.err = fmt.Errorf("jute: negative length %d", n)
		return nil
	}
	return d.take(int(n))
}

// String reads a length-prefixed string; null reads as the empty string.
func (d *Decoder) String() string { return string(d.Buffer()) }

// Count reads the length of a vector whose elements take at least elemSize bytes each, and refuses one that cannot fit
// into what is left of the message. A null vector counts 0.
func (d *Decoder) Count(elemSize int) int {
	n := d.Int()
	if d.err != nil || n == -1 {
		return 0
	}
	if n < 0 || int(n) > len(d.b)/elemSize {
		d.err = fmt.Errorf("jute: vector of %d elements in %d bytes", n, len(d.b))
		return 0
	}
	return int(n)
}

// Strings reads a vector of strings.
func (d *Decoder) Strings() []string {
	n := d.Count(4)
	if n == 0 {
		return nil
	}
	v := make([]string, 0, n)
	for range n {
		v = append(v, d.String())
	}
	if d.err != nil {
		return nil
	}
	return v
}
