package wire

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// openTransport takes the connection over where that is possible: one write then carries many chunks, and the buffers
// and the parser of net/http are given back for as long as the stream lives. Otherwise (HTTP/2, HTTP/1.0, recorders)
// records go through the ResponseWriter.
func openTransport(w http.ResponseWriter, r *http.Request, timeout time.Duration) (transport, error) {
	ctl := http.NewResponseController(w)
	if r.ProtoMajor == 1 && r.ProtoMinor >= 1 {
		conn, _, err := ctl.Hijack() // what the client pipelined is of no interest, like all it sends later
		switch {
		case err == nil:
			return takeOver(conn, w.Header(), timeout)
		case !errors.Is(err, http.ErrNotSupported):
			return nil, err
		}
	}
	w.WriteHeader(http.StatusOK)
	if err := ctl.Flush(); err != nil {
		return nil, err
	}
	return &flushing{w: w, ctl: ctl, ctx: r.Context()}, nil
}

// flushing writes through a ResponseWriter.
type flushing struct {
	w   http.ResponseWriter
	ctl *http.ResponseController
	ctx context.Context // of the request: net/http cancels it when the peer goes away
}

func (f *flushing) write(records [][]byte, timeout time.Duration) error {
	for _, record := range records {
		if err := f.ctl.SetWriteDeadline(time.Now().Add(timeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if _, err := f.w.Write(record); err != nil {
			return err
		}
		if err := f.ctl.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// abort has nothing to cut with that could not block: the write's own deadline ends it.
func (f *flushing) abort() {}

func (f *flushing) finish(clean bool, _ time.Duration) {
	if !clean {
		// The handler returns in a moment, and net/http would then end the body as if it were whole.
		_ = f.ctl.SetWriteDeadline(time.Unix(1, 0))
	}
}

func (f *flushing) gone() <-chan struct{} { return f.ctx.Done() }

// hijacked writes chunks to the connection itself.
type hijacked struct {
	conn   net.Conn
	lost   chan struct{}
	reader sync.WaitGroup
	cut    atomic.Bool // abort was called
	buf    []byte      // of small batches, kept while it is small
}

func takeOver(conn net.Conn, header http.Header, timeout time.Duration) (*hijacked, error) {
	h := &hijacked{conn: conn, lost: make(chan struct{})}
	head := make([]byte, 0, 512)
	head = append(head, "HTTP/1.1 200 OK\r\n"...)
	for name, values := range header {
		for _, v := range values {
			head = append(append(append(append(head, name...), ": "...), v...), "\r\n"...)
		}
	}
	head = append(head, "Date: "...)
	head = time.Now().UTC().AppendFormat(head, http.TimeFormat)
	head = append(head, "\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"...)
	err := conn.SetDeadline(time.Time{})
	if err == nil {
		err = h.writeAll(head, timeout)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	h.reader.Add(1)
	go h.watch()
	return h, nil
}

// watch reads until the peer goes away. A client has nothing more to say on this connection; if it does, it is ignored.
func (h *hijacked) watch() {
	defer h.reader.Done()
	defer close(h.lost)
	var scratch [64]byte
	for {
		if _, err := h.conn.Read(scratch[:]); err != nil {
			return
		}
	}
}

func (h *hijacked) write(records [][]byte, timeout time.Duration) error {
	const together = 64 << 10 // up to which copying is cheaper than another system call
	buf := h.buf[:0]
	for _, record := range records {
		buf = strconv.AppendUint(buf, uint64(len(record)), 16)
		buf = append(buf, '\r', '\n')
		if len(record) > together/2 {
			if err := h.writeAll(buf, timeout); err != nil {
				return err
			}
			if err := h.writeAll(record, timeout); err != nil {
				return err
			}
			buf = buf[:0]
		} else {
			buf = append(buf, record...)
		}
		buf = append(buf, '\r', '\n')
		if len(buf) >= together {
			if err := h.writeAll(buf, timeout); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	err := h.writeAll(buf, timeout)
	if h.buf = buf[:0]; cap(buf) > 4<<10 {
		h.buf = nil
	}
	return err
}

// writeAll writes in pieces, each with a deadline of its own: a large snapshot may take long, but something must move.
func (h *hijacked) writeAll(b []byte, timeout time.Duration) error {
	const piece = 1 << 20
	for len(b) > 0 {
		n := min(len(b), piece)
		if err := h.conn.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		// Setting the deadline may have undone the one that abort set.
		if h.cut.Load() {
			return net.ErrClosed
		}
		if _, err := h.conn.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (h *hijacked) abort() {
	h.cut.Store(true)
	_ = h.conn.SetDeadline(time.Unix(1, 0))
}

func (h *hijacked) finish(clean bool, timeout time.Duration) {
	if clean {
		_ = h.writeAll([]byte("0\r\n\r\n"), timeout)
	}
	h.conn.Close()
	h.reader.Wait()
}

func (h *hijacked) gone() <-chan struct{} { return h.lost }
