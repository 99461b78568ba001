package supervisor

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/launcher/control"
)

// Limits of the switchboard.
const (
	attachQueue  = 64               // records that may wait for a slow reader
	firstAttach  = 10 * time.Second // how long an ended session waits for somebody to read what it said
	attachWrite  = 30 * time.Second // one write to a reader
	maxAttached  = 32
	copyBuffer   = 32 << 10
	drainTimeout = 2 * time.Second
	// sessionPatience is how long a session that nobody reads blocks before its output is thrown away.
	sessionPatience = 60 * time.Second
)

// hub passes a container's output to those who are attached and their input to the container.
//
// A reader that falls behind is cut off, so that the container runs on; for a session, whose output is for its readers
// alone, the container waits instead, as it would on a pipe.
type hub struct {
	session bool
	first   chan struct{} // closed when the first has attached

	mu       sync.Mutex
	firstOne sync.Once
	readers  map[*reader]struct{}
	stdin    io.WriteCloser // nil: no input
	resize   func(rows, columns uint16)
	terminal bool
	ended    bool
}

type reader struct {
	conn  *net.UnixConn
	queue chan []byte
	gone  chan struct{}
	once  sync.Once
}

func (r *reader) cut() { r.once.Do(func() { close(r.gone) }) }

// newHub makes a switchboard. resize is nil without a terminal.
func newHub(session bool, stdin io.WriteCloser, resize func(rows, columns uint16)) *hub {
	return &hub{
		session: session, first: make(chan struct{}), readers: make(map[*reader]struct{}), stdin: stdin, resize: resize, terminal: resize != nil,
	}
}

// publish hands one piece of output to every reader.
func (h *hub) publish(typ byte, data []byte) {
	h.mu.Lock()
	if len(h.readers) == 0 {
		h.mu.Unlock()
		return
	}
	rs := make([]*reader, 0, len(h.readers))
	for r := range h.readers {
		rs = append(rs, r)
	}
	h.mu.Unlock()
	rec := control.Append(make([]byte, 0, len(data)+5), typ, data)
	for _, r := range rs {
		if h.session {
			select {
			case r.queue <- rec:
			case <-r.gone:
			}
			continue
		}
		select {
		case r.queue <- rec:
		default:
			r.cut()
		}
	}
}

// attach serves one attachment until it or the container ends.
func (h *hub) attach(c *net.UnixConn) {
	r := &reader{conn: c, queue: make(chan []byte, attachQueue), gone: make(chan struct{})}
	h.mu.Lock()
	if len(h.readers) >= maxAttached {
		h.mu.Unlock()
		_ = control.Write(c, control.Fail, []byte("too many are attached to this container"))
		return
	}
	h.readers[r] = struct{}{}
	ended := h.ended
	h.mu.Unlock()
	h.firstOne.Do(func() { close(h.first) })
	_ = control.Write(c, control.Done, nil)

	go func() { // ends with the connection
		h.input(c)
		// A reader may close its writing side and go on reading; only a broken connection ends the output.
	}()
	if ended {
		r.finish()
	}
	for {
		select {
		case rec := <-r.queue:
			if rec == nil { // the end
				_ = control.Write(c, control.Exit, nil)
				r.cut()
			} else {
				_ = c.SetWriteDeadline(time.Now().Add(attachWrite))
				if _, err := c.Write(rec); err != nil {
					r.cut()
				}
			}
		case <-r.gone:
			h.mu.Lock()
			delete(h.readers, r)
			h.mu.Unlock()
			return
		}
	}
}

func (r *reader) finish() {
	select {
	case r.queue <- nil:
	case <-r.gone:
	case <-time.After(attachWrite):
		r.cut()
	}
}

// input takes what one attachment sends.
func (h *hub) input(c *net.UnixConn) {
	for {
		typ, data, err := control.Read(c)
		if err != nil {
			return
		}
		switch typ {
		case control.Stdin:
			h.mu.Lock()
			in := h.stdin
			if len(data) == 0 && in != nil && !h.terminal {
				h.stdin = nil
			}
			h.mu.Unlock()
			switch {
			case in == nil:
			case len(data) > 0:
				_, _ = in.Write(data) // a closed reader on the other side is its own affair
			case h.terminal:
				_, _ = in.Write([]byte{4}) // end of transmission
			default:
				in.Close()
			}
		case control.Window:
			h.mu.Lock()
			resize := h.resize
			h.mu.Unlock()
			if resize != nil && len(data) == 4 {
				resize(uint16(data[0])<<8|uint16(data[1]), uint16(data[2])<<8|uint16(data[3]))
			}
		}
	}
}

// end tells all readers that the container has ended, after what is queued, and waits until they have been told.
func (h *hub) end() {
	if h.session {
		select {
		case <-h.first:
		case <-time.After(firstAttach):
		}
	}
	h.mu.Lock()
	h.ended = true
	rs := make([]*reader, 0, len(h.readers))
	for r := range h.readers {
		rs = append(rs, r)
	}
	h.mu.Unlock()
	for _, r := range rs {
		r.finish()
	}
	for _, r := range rs {
		select {
		case <-r.gone:
		case <-time.After(drainTimeout):
		}
	}
}

func setWindow(f *os.File, rows, cols uint16) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ioErr error
	err = raw.Control(func(fd uintptr) {
		ioErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	if err != nil {
		return err
	}
	return ioErr
}

// copyOut moves output from the container's end of a pipe or terminal to the log and the hub, until its end.
func copyOut(from *os.File, typ byte, log io.Writer, h *hub) {
	buf := make([]byte, copyBuffer)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if log != nil {
				_, _ = log.Write(buf[:n])
			}
			if h != nil {
				h.publish(typ, buf[:n])
			}
		}
		if err != nil { // EOF, or EIO from a terminal whose last process has gone
			return
		}
	}
}

// quit is closed when nobody has attached for so long that a session's output is given up.
func (h *hub) quit() <-chan struct{} {
	c := make(chan struct{})
	go func() {
		select {
		case <-h.first:
		case <-time.After(sessionPatience):
			close(c)
		}
	}()
	return c
}
