package message

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxFrame is the greatest length of one frame in bytes: a task group with large data fits, a wild length does not.
const MaxFrame = 16 << 20

// ErrTooLarge: a frame's length is beyond MaxFrame.
var ErrTooLarge = errors.New("frame is too large")

// Append appends the frame of v to dst.
func Append(dst []byte, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return dst, fmt.Errorf("encode frame: %w", err)
	}
	if len(body) > MaxFrame {
		return dst, fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, len(body), MaxFrame)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(body)))
	return append(dst, body...), nil
}

// Write writes v as one frame with a single call of w.Write.
func Write(w io.Writer, v any) error {
	b, err := Append(nil, v)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// Read reads one frame into v. The end of the stream between frames is io.EOF, inside one io.ErrUnexpectedEOF.
func Read(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxFrame {
		return fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, n, MaxFrame)
	}
	// The buffer grows with what really arrives, so that a false length costs its sender more than it costs us.
	body, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return err
	}
	if len(body) < int(n) {
		return io.ErrUnexpectedEOF
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decode frame: %w", err)
	}
	return nil
}
