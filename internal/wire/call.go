package wire

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
)

// CallOptions bound the reading of a call. Zero fields stand for the defaults.
type CallOptions struct {
	MaxBody     int64         // bytes of the body, after decompression; default 32 MiB
	BodyTimeout time.Duration // until the whole body has arrived; default 30 s
}

// Defaults of CallOptions.
const (
	DefaultMaxBody     = 32 << 20
	DefaultBodyTimeout = 30 * time.Second
)

// ReadCall reads a Call from the body of a request and decodes it into msg, checking in Mesos' order: the method is POST
// (405), a Content-Type is there (400), it is one of the two (415), the body arrives whole in time (408) and within the
// limit (413), it decodes (400). When ok is false the answer has been written. ct is the encoding of the call, not of
// the answer.
func ReadCall(w http.ResponseWriter, r *http.Request, msg proto.Message, opts CallOptions) (ct ContentType, ok bool) {
	body, ok := ReadCallBody(w, r, opts)
	if !ok {
		return 0, false
	}
	defer body.Release()
	return body.ContentType, body.Decode(w, msg)
}

// CallBody is the body of a call that was read and not decoded.
type CallBody struct {
	ContentType ContentType
	// Bytes are valid until Release, and until the handler returns.
	Bytes []byte
	buf   *bytes.Buffer // that holds them; nil when they are the connection's
}

// Release gives the memory back.
func (b CallBody) Release() {
	if b.buf != nil {
		putBuffer(b.buf)
	}
}

// Decode decodes the call into msg, which keeps nothing of the body. When it returns false the answer (400) has been written.
func (b CallBody) Decode(w http.ResponseWriter, msg proto.Message) bool {
	if err := b.ContentType.Unmarshal(b.Bytes, msg); err != nil {
		what := "Failed to parse body into Call protobuf: "
		if b.ContentType == JSON {
			what = "Failed to convert JSON into Call protobuf: "
		}
		Error(w, http.StatusBadRequest, what+err.Error())
		return false
	}
	return true
}

// ReadCallBody is the first part of ReadCall: all but the decoding.
func ReadCallBody(w http.ResponseWriter, r *http.Request, opts CallOptions) (b CallBody, ok bool) {
	if r.Method != http.MethodPost {
		MethodNotAllowed(w, r, http.MethodPost)
		return b, false
	}
	media := r.Header.Get("Content-Type")
	if media == "" {
		Error(w, http.StatusBadRequest, "Expecting 'Content-Type' to be present")
		return b, false
	}
	b.ContentType, ok = ParseContentType(media)
	if !ok {
		Error(w, http.StatusUnsupportedMediaType, "Expecting 'Content-Type' of "+MediaJSON+" or "+MediaProtobuf)
		return b, false
	}
	if whole, ok := r.Body.(*wholeBody); ok && r.Header.Get("Content-Encoding") == "" && (opts.MaxBody <= 0 || r.ContentLength <= opts.MaxBody) {
		b.Bytes = whole.bytes
		return b, true
	}
	buf, status, err := readBody(w, r, opts)
	if err != nil {
		Error(w, status, err.Error())
		return b, false
	}
	b.buf, b.Bytes = buf, buf.Bytes()
	return b, true
}

// ReadBody reads the whole body of a request within the limits. When ok is false the answer has been written. For
// endpoints that don't take a Call: forms, legacy JSON.
func ReadBody(w http.ResponseWriter, r *http.Request, opts CallOptions) (body []byte, ok bool) {
	buf, status, err := readBody(w, r, opts)
	if err != nil {
		Error(w, status, err.Error())
		return nil, false
	}
	defer putBuffer(buf)
	return bytes.Clone(buf.Bytes()), true
}

// buffers holds the bodies of calls while they are decoded; large ones are left to the collector.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func putBuffer(b *bytes.Buffer) {
	if b.Cap() <= 64<<10 {
		b.Reset()
		buffers.Put(b)
	}
}

func readBody(w http.ResponseWriter, r *http.Request, opts CallOptions) (_ *bytes.Buffer, status int, err error) {
	if opts.MaxBody <= 0 {
		opts.MaxBody = DefaultMaxBody
	}
	if opts.BodyTimeout <= 0 {
		opts.BodyTimeout = DefaultBodyTimeout
	}
	tooLarge := func() error {
		return fmt.Errorf("The body exceeds the limit of %d bytes", opts.MaxBody) //nolint:staticcheck // shown to clients, like Mesos' own
	}
	if r.ContentLength > opts.MaxBody {
		return nil, http.StatusRequestEntityTooLarge, tooLarge()
	}
	// The deadline only concerns bodies that are not here already; setting one costs a timer, so small bodies that came
	// with their headers could do without, but net/http does not tell.
	ctl := http.NewResponseController(w)
	if r.ContentLength != 0 {
		if ctl.SetReadDeadline(time.Now().Add(opts.BodyTimeout)) == nil {
			defer func() {
				if err == nil {
					_ = ctl.SetReadDeadline(time.Time{})
				}
			}()
		}
	}
	body := io.Reader(r.Body)
	switch encoding := r.Header.Get("Content-Encoding"); strings.ToLower(encoding) {
	case "", "identity":
	case "gzip":
		zip, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, http.StatusBadRequest, fmt.Errorf("Failed to decompress the body: %w", err) //nolint:staticcheck // shown to clients
		}
		body = zip
	default:
		return nil, http.StatusUnsupportedMediaType, errors.New("Expecting 'Content-Encoding' of gzip or none") //nolint:staticcheck // shown to clients
	}
	buf := buffers.Get().(*bytes.Buffer)
	if n := r.ContentLength; n > 0 && n <= 1<<20 {
		buf.Grow(int(n) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(body, opts.MaxBody+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		putBuffer(buf)
		return nil, http.StatusRequestTimeout, fmt.Errorf("The body did not arrive within %v", opts.BodyTimeout) //nolint:staticcheck // shown to clients
	case err != nil:
		putBuffer(buf)
		return nil, http.StatusBadRequest, fmt.Errorf("Failed to read the body: %w", err) //nolint:staticcheck // shown to clients
	case n > opts.MaxBody:
		putBuffer(buf)
		return nil, http.StatusRequestEntityTooLarge, tooLarge()
	}
	return buf, 0, nil
}
