package engine

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// Client speaks to the Engine that listens on a unix socket.
type Client struct{ Socket string }

// Error is an answer that is no success.
type Error struct {
	Status  int
	Message string
}

func (e *Error) Error() string { return e.Message }

// HTTP statuses that callers branch on.
const (
	NotFound = 404
	Conflict = 409
)

// IsStatus reports whether err is an answer with this HTTP status.
func IsStatus(err error, status int) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == status
}

const (
	maxAnswer   = 16 << 20
	maxHead     = 64 << 10
	dialTimeout = 5 * time.Second
)

// Call makes one request. in, if not nil, is sent as JSON; the answer is read into out, if not nil.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	s, err := c.open(ctx, method, path, in, false)
	if err != nil {
		return err
	}
	defer s.Close()
	b, err := io.ReadAll(io.LimitReader(s.r, maxAnswer))
	switch {
	case err != nil:
		return fmt.Errorf("read Docker's answer: %w", err)
	case out == nil:
		return nil
	}
	if raw, ok := out.(*json.RawMessage); ok {
		if !json.Valid(b) {
			return errors.New("read Docker's answer: it is cut short")
		}
		*raw = b
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("read Docker's answer: %w", err)
	}
	return nil
}

// Open makes a request whose answer is a stream, both ways when hijack is asked for.
func (c *Client) Open(ctx context.Context, method, path string, in any, hijack bool) (*Stream, error) {
	return c.open(ctx, method, path, in, hijack)
}

func (c *Client) open(ctx context.Context, method, path string, in any, hijack bool) (*Stream, error) {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, err
		}
	}
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", c.Socket)
	if err != nil {
		return nil, fmt.Errorf("connect to Docker: %w", err)
	}
	s := &Stream{conn: conn.(*net.UnixConn), r: bufio.NewReaderSize(conn, 32<<10)}
	s.stop = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	if err := s.begin(method, path, body, hijack); err != nil {
		s.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	return s, nil
}

func (s *Stream) begin(method, path string, body []byte, hijack bool) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.0\r\nHost: docker\r\n", method, path)
	if body != nil {
		b.WriteString("Content-Type: application/json\r\n")
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	if hijack {
		b.WriteString("Connection: Upgrade\r\nUpgrade: tcp\r\n")
	}
	b.WriteString("\r\n")
	b.Write(body)
	if _, err := io.WriteString(s.conn, b.String()); err != nil {
		return fmt.Errorf("ask Docker: %w", err)
	}
	status, err := readHead(s.r)
	if err != nil {
		return fmt.Errorf("read Docker's answer: %w", err)
	}
	if status < 300 {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(s.r, maxHead))
	var m struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(text, &m) != nil || m.Message == "" {
		m.Message = strings.TrimSpace(string(text))
	}
	if m.Message == "" {
		m.Message = "Docker answered " + strconv.Itoa(status)
	}
	return &Error{Status: status, Message: m.Message}
}

// readHead reads a status line and the headers after it.
func readHead(r *bufio.Reader) (status int, err error) {
	left := maxHead
	line := func() (string, error) {
		var b strings.Builder
		for {
			part, err := r.ReadSlice('\n')
			if left -= len(part); left < 0 {
				return "", errors.New("its head is too long")
			}
			b.Write(part)
			if !errors.Is(err, bufio.ErrBufferFull) {
				return strings.TrimRight(b.String(), "\r\n"), err
			}
		}
	}
	first, err := line()
	if err != nil {
		return 0, err
	}
	proto, rest, _ := strings.Cut(first, " ")
	digits, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	status, err = strconv.Atoi(digits)
	if err != nil || !strings.HasPrefix(proto, "HTTP/") || status < 100 || status > 999 {
		return 0, errors.New("it is not HTTP")
	}
	for {
		l, err := line()
		if err != nil {
			return 0, err
		}
		if l == "" {
			return status, nil
		}
	}
}

// Stream is an answer that goes on, or a connection that became one to a process.
type Stream struct {
	conn *net.UnixConn
	r    *bufio.Reader
	stop func() bool
}

// Read implements io.Reader.
func (s *Stream) Read(p []byte) (int, error) { return s.r.Read(p) }

// Write implements io.Writer: it is the process's input.
func (s *Stream) Write(p []byte) (int, error) { return s.conn.Write(p) }

// Close implements io.Closer.
func (s *Stream) Close() error {
	s.stop()
	return s.conn.Close()
}

// Input is the process's input: closing it is the end of the input, not of the output.
func (s *Stream) Input() io.WriteCloser { return input{s.conn} }

type input struct{ *net.UnixConn }

func (i input) Close() error { return i.CloseWrite() }

// maxFrame bounds one piece of multiplexed output: the Engine writes at most 64 KB at a time.
const maxFrame = 4 << 20

// Frames reads multiplexed output until its end and hands each piece to f. stream is 1 for stdout and 2 for stderr. The piece
// is valid until f returns.
func Frames(r io.Reader, f func(stream byte, data []byte)) error {
	var head [8]byte
	var buf []byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		n := binary.BigEndian.Uint32(head[4:])
		if n > maxFrame {
			return fmt.Errorf("docker sent a piece of output of %d bytes", n)
		}
		if cap(buf) < int(n) {
			buf = make([]byte, n)
		}
		buf = buf[:n]
		if _, err := io.ReadFull(r, buf); err != nil {
			return err
		}
		f(head[0], buf)
	}
}
