package link_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	"github.com/orchestrator/orchestrator/internal/wire/link"
)

// readOnly is a connection whose peer has said everything it will say.
type readOnly struct {
	net.Conn
	r io.Reader
}

func (r readOnly) Read(b []byte) (int, error)     { return r.r.Read(b) }
func (readOnly) Write(b []byte) (int, error)      { return len(b), nil }
func (readOnly) Close() error                     { return nil }
func (readOnly) SetDeadline(time.Time) error      { return nil }
func (readOnly) SetReadDeadline(time.Time) error  { return nil }
func (readOnly) SetWriteDeadline(time.Time) error { return nil }

// Whatever the bytes, reading ends with one of the known reasons, and what was decoded can be encoded again.
func FuzzFrames(f *testing.F) {
	whole, err := (&linkv1.Frame{Messages: []*linkv1.Message{update(), pong(3)}}).MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(whole))), whole...))
	f.Add([]byte("\x00\x00\x00\x04\x08\x07\x18\x01"))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x02\x12\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := link.NewConn(readOnly{r: bytes.NewReader(data)}, link.Config{MaxFrame: 1 << 16})
		err := c.Run(t.Context(), func(_ uint64, msgs []*linkv1.Message, _ bool) error {
			for _, m := range msgs {
				if _, err := m.MarshalVT(); err != nil {
					t.Errorf("decoded but cannot be encoded: %v", err)
				}
			}
			return nil
		})
		if !errors.Is(err, link.ErrFrame) && !errors.Is(err, link.ErrPeerGone) {
			t.Errorf("ended with %v", err)
		}
	})
}
