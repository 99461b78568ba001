package wire

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kept is a connection that a Front serves.
type kept struct {
	front *Front
	conn  net.Conn
	taken bool // the handler has taken the connection over

	buf        []byte
	start, end int // of what is unread in buf
	last       int // bytes that the last read brought
	out        []byte
	writer     answer
	body       wholeBody

	// The last request's head. Clients repeat theirs but for Content-Length, so it is parsed once.
	head   []byte
	length [2]int // where in head the digits of Content-Length stand
	req    *http.Request
	// current is the request at hand, a copy of req. Handlers keep no request beyond their end.
	current http.Request
}

// wholeBody is the body of a request that is here already.
type wholeBody struct {
	bytes.Reader
	bytes []byte
}

// Close does nothing.
func (*wholeBody) Close() error { return nil }

const (
	keptBuffer = 4 << 10  // of a connection that waits
	keptRead   = 32 << 10 // of a busy one; more only for a large body
	keptOutput = 32 << 10
)

// run serves requests. It returns true when what is unread must be net/http's, false when the connection has ended.
func (k *kept) run() (over bool) {
	for {
		r, body, state := k.request()
		switch state {
		case requestEnded:
			return false
		case requestForeign:
			return k.flush() == nil
		}
		k.body.bytes = body
		k.body.Reset(body)
		r.Body = &k.body
		k.writer.reset(k)
		err := k.front.call(&k.writer, r)
		if k.taken {
			return false
		}
		if err != nil {
			_ = k.flush()
			return false
		}
		k.out = k.writer.append(k.out)
		if k.writer.closes || k.front.ending() {
			_ = k.flush()
			return false
		}
		if len(k.out) >= keptOutput && k.flush() != nil {
			return false
		}
	}
}

type requestState uint8

const (
	requestRead    requestState = iota
	requestForeign              // not for a Front
	requestEnded                // the peer is gone, or too slow
)

// request reads the next request. body is valid until the next call.
func (k *kept) request() (r *http.Request, body []byte, state requestState) {
	for {
		unread := k.buf[k.start:k.end]
		if r, head, length, ok := k.parse(unread); !ok {
			return nil, nil, requestForeign
		} else if r != nil {
			if len(unread) >= head+length {
				k.start += head + length
				return r, unread[head : head+length], requestRead
			}
			if !k.fill(head + length) {
				return nil, nil, requestEnded
			}
			continue
		}
		if len(unread) >= frontHead {
			return nil, nil, requestForeign
		}
		if !k.fill(len(unread) + 1) {
			return nil, nil, requestEnded
		}
	}
}

// fill reads until n bytes are unread. Answers leave first, because the peer may wait for them.
func (k *kept) fill(n int) bool {
	if k.flush() != nil {
		return false
	}
	if k.start == k.end {
		k.start, k.end = 0, 0
		if len(k.buf) > keptBuffer && k.last < keptBuffer {
			k.buf = nil // little comes now
		}
	}
	timeout := k.front.cfg.IdleTimeout
	if k.end > k.start {
		timeout = DefaultBodyTimeout
	}
	if k.conn.SetReadDeadline(time.Now().Add(timeout)) != nil || k.front.ending() {
		return false
	}
	for k.end-k.start < n {
		k.room(n)
		got, err := k.conn.Read(k.buf[k.end:])
		k.end += got
		k.last = got
		if err != nil && k.end-k.start < n {
			return false
		}
	}
	return true
}

// room makes space behind end, for n unread bytes. The buffer grows with what has arrived, so that a header alone cannot claim
// memory, and while the peer fills it, so that a busy peer needs fewer reads.
func (k *kept) room(n int) {
	busy := k.last == len(k.buf) && len(k.buf) < keptRead
	if k.end < len(k.buf) && len(k.buf)-k.start >= n && !busy {
		return
	}
	unread := k.end - k.start
	size := len(k.buf)
	if busy || unread == size {
		size = max(keptBuffer, 2*size)
	}
	if size == len(k.buf) {
		copy(k.buf, k.buf[k.start:k.end])
	} else {
		grown := make([]byte, size)
		copy(grown, k.buf[k.start:k.end])
		k.buf = grown
	}
	k.start, k.end = 0, unread
}

func (k *kept) flush() error {
	if len(k.out) == 0 {
		return nil
	}
	err := k.conn.SetWriteDeadline(time.Now().Add(DefaultWriteTimeout))
	if err == nil {
		_, err = k.conn.Write(k.out)
	}
	if k.out = k.out[:0]; cap(k.out) > 2*keptOutput {
		k.out = nil
	}
	return err
}

var headEnd = []byte("\r\n\r\n")

// parse looks at the bytes of a request: ok is false when they cannot be one for a Front; r is nil when the head is not
// complete yet. head is the length of the head.
func (k *kept) parse(b []byte) (r *http.Request, head, length int, ok bool) {
	if k.req != nil {
		if head, length, ok := k.repeats(b); ok {
			return k.again(length), head, length, true
		}
	}
	const method = "POST "
	if n := min(len(b), len(method)); string(b[:n]) != method[:n] {
		return nil, 0, 0, false
	}
	at := bytes.Index(b[:min(len(b), frontHead)], headEnd)
	if at < 0 {
		return nil, 0, 0, true
	}
	head = at + len(headEnd)
	if !k.learn(b[:head]) {
		return nil, 0, 0, false
	}
	length, _ = strconv.Atoi(string(k.head[k.length[0]:k.length[1]]))
	return k.again(length), head, length, true
}

// repeats reports whether the bytes begin with the head seen last, but for the digits of Content-Length.
func (k *kept) repeats(b []byte) (head, length int, ok bool) {
	before, after := k.head[:k.length[0]], k.head[k.length[1]:]
	if !bytes.HasPrefix(b, before) {
		return 0, 0, false
	}
	i := len(before)
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		if length = length*10 + int(b[i]-'0'); length > frontBody {
			return 0, 0, false
		}
		i++
	}
	if i == len(before) || !bytes.HasPrefix(b[i:], after) {
		return 0, 0, false
	}
	return i + len(after), length, true
}

// again makes the next request of the head seen last. Its header is shared by all of them: handlers don't change it.
func (k *kept) again(length int) *http.Request {
	k.current = *k.req
	k.current.ContentLength = int64(length)
	return &k.current
}

// learn parses a head. It returns false for anything out of the ordinary.
func (k *kept) learn(head []byte) bool {
	text := string(head)
	line, rest, _ := strings.Cut(text, "\r\n")
	target, proto, ok := strings.Cut(strings.TrimPrefix(line, "POST "), " ")
	if !ok || proto != "HTTP/1.1" || !slices.Contains(k.front.cfg.Paths, target) {
		return false
	}
	header := make(http.Header)
	host, lengthAt := "", -1
	offset := len(line) + 2
	for rest != "\r\n" {
		line, next, found := strings.Cut(rest, "\r\n")
		if !found {
			return false
		}
		name, value, found := strings.Cut(line, ":")
		if !found || !isToken(name) || !isPlain(value) {
			return false
		}
		trimmed := strings.Trim(value, " \t")
		switch key := textproto.CanonicalMIMEHeaderKey(name); key {
		case "Content-Length":
			n, err := strconv.Atoi(trimmed)
			if lengthAt >= 0 || err != nil || !isDigits(trimmed) || n > frontBody {
				return false
			}
			lengthAt = offset + len(name) + 1 + strings.Index(value, trimmed)
			k.length = [2]int{lengthAt, lengthAt + len(trimmed)}
		case "Host":
			if host != "" {
				return false
			}
			host = trimmed
		case "Connection":
			if !strings.EqualFold(trimmed, "keep-alive") {
				return false
			}
		case "Transfer-Encoding", "Upgrade", "Expect", "Trailer", "Te", "Proxy-Connection":
			return false
		default:
			header[key] = append(header[key], trimmed)
		}
		offset += len(line) + 2
		rest = next
	}
	if host == "" || lengthAt < 0 {
		return false
	}
	k.head = []byte(text)
	r := &http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: target}, RequestURI: target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Host: host, RemoteAddr: k.conn.RemoteAddr().String(),
	}
	k.req = r.WithContext(k.front.cfg.Context)
	return true
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func isToken(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

func isPlain(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' && c != '\t' || c >= 0x7f {
			return false
		}
	}
	return true
}

// answer is the ResponseWriter of a Front: it holds the whole answer until the handler returns.
type answer struct {
	kept   *kept
	header http.Header
	status int
	body   []byte
	closes bool
}

func (a *answer) reset(k *kept) {
	if a.header == nil {
		a.header = make(http.Header)
	}
	clear(a.header)
	if cap(a.body) > keptOutput {
		a.body = nil
	}
	a.kept, a.status, a.body, a.closes = k, 0, a.body[:0], false
}

// Header returns the answer's header.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader sets the status; only the first call counts.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
}

// Write adds to the body.
func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	a.body = append(a.body, b...)
	return len(b), nil
}

// Hijack gives the connection away, for streams.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	k := a.kept
	if err := k.flush(); err != nil {
		return nil, nil, err
	}
	if err := k.conn.SetDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	k.taken = true
	conn := k.conn
	if early := slices.Clone(k.buf[k.start:k.end]); len(early) > 0 {
		conn = &prefixedConn{Conn: conn, early: early}
	}
	// What the loop kept for the connection is not needed any more, but its stack stays as long as the handler.
	k.buf, k.out, k.head, k.req = nil, nil, nil, nil
	k.front.untrack(k.conn)
	return conn, bufio.NewReadWriter(bufio.NewReaderSize(conn, 16), bufio.NewWriterSize(conn, 16)), nil
}

// append writes the answer as it goes over the wire.
func (a *answer) append(b []byte) []byte {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(a.status), 10)
	b = append(append(append(b, ' '), http.StatusText(a.status)...), "\r\n"...)
	for name, values := range a.header {
		if name == "Content-Length" || name == "Connection" || name == "Transfer-Encoding" {
			continue
		}
		for _, v := range values {
			if strings.ContainsAny(v, "\r\n") {
				v = strings.NewReplacer("\r", " ", "\n", " ").Replace(v)
			}
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	a.closes = strings.EqualFold(a.header.Get("Connection"), "close")
	if a.closes {
		b = append(b, "Connection: close\r\n"...)
	}
	b = a.kept.front.appendDate(b)
	if a.status == http.StatusNoContent || a.status == http.StatusNotModified {
		return append(b, "\r\n"...)
	}
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(len(a.body)), 10)
	b = append(b, "\r\n\r\n"...)
	return append(b, a.body...)
}
