// Package control is the conversation over a container's control socket: the helper serves it, the containerizer asks.
//
// A record is one byte of type, four bytes of big-endian length and the payload. A connection either sends one request
// (Signal, Kill) and reads the Done or Fail that answers it, or sends Attach and is from then on the container's input
// and output until Exit.
package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Types of records.
const (
	Signal byte = 'S' // payload: one byte, the signal for the container's first process
	Kill   byte = 'K' // kill everything, keep what was written, and end
	Attach byte = 'A' // become an attachment

	Stdin  byte = 'I' // empty: end of file
	Window byte = 'W' // rows and columns, two bytes each

	Stdout byte = 'O'
	Stderr byte = 'E'
	Exit   byte = 'X' // the container has ended
	Done   byte = 'D'
	Fail   byte = 'F' // payload: why
)

// MaxRecord is the greatest payload.
const MaxRecord = 1 << 20

// ErrRecord: the peer does not keep to the protocol.
var ErrRecord = errors.New("bad control record")

// Append appends one record to dst.
func Append(dst []byte, typ byte, payload []byte) []byte {
	dst = append(dst, typ)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(payload)))
	return append(dst, payload...)
}

// Write writes one record with a single call of w.Write.
func Write(w io.Writer, typ byte, payload []byte) error {
	_, err := w.Write(Append(make([]byte, 0, 5+len(payload)), typ, payload))
	return err
}

// Read reads one record. The payload is the caller's.
func Read(r io.Reader) (typ byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxRecord {
		return 0, nil, fmt.Errorf("%w: %d bytes, limit %d", ErrRecord, n, MaxRecord)
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return head[0], payload, nil
}
