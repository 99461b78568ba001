package wire

import (
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzip"
	"google.golang.org/protobuf/proto"
)

const mediaText = "text/plain; charset=utf-8"

// Respond writes a message as the whole answer.
func Respond(w http.ResponseWriter, status int, ct ContentType, m proto.Message) {
	body, err := ct.Marshal(m)
	if err != nil {
		Error(w, http.StatusInternalServerError, "Failed to encode the answer: "+err.Error())
		return
	}
	RespondBytes(w, status, ct.String(), body)
}

// RespondBytes writes a whole answer with its Content-Length. An empty body has no Content-Type.
func RespondBytes(w http.ResponseWriter, status int, media string, body []byte) {
	h := w.Header()
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if len(body) == 0 {
		h.Del("Content-Type")
	} else {
		h.Set("Content-Type", media)
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the peer is gone; there is no one to tell
}

// Accepted answers a call that has been taken over: 202 and nothing else, which some clients test for.
func Accepted(w http.ResponseWriter) { Empty(w, http.StatusAccepted) }

// Empty answers with a status and no body.
func Empty(w http.ResponseWriter, status int) {
	w.Header()["Content-Length"] = zeroLength
	w.WriteHeader(status)
}

var zeroLength = []string{"0"}

// Error answers with a plain text, as Mesos does.
func Error(w http.ResponseWriter, status int, text string) {
	RespondBytes(w, status, mediaText, []byte(text))
}

// MethodNotAllowed answers 405 with the methods that are.
func MethodNotAllowed(w http.ResponseWriter, r *http.Request, allowed ...string) {
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	Error(w, http.StatusMethodNotAllowed,
		"Expecting one of { '"+strings.Join(allowed, "', '")+"' }, but received '"+r.Method+"'")
}

// NotAcceptable answers 406.
func NotAcceptable(w http.ResponseWriter) {
	Error(w, http.StatusNotAcceptable, "Expecting 'Accept' to allow "+MediaJSON+" or "+MediaProtobuf)
}

// Redirect answers 307 and sends the client to the same path and query on the leader, which is "host:port". The Location
// has no scheme, like Mesos'; http.Redirect would rewrite it.
func Redirect(w http.ResponseWriter, r *http.Request, leader string) {
	h := w.Header()
	h.Set("Location", "//"+leader+r.URL.RequestURI())
	Empty(w, http.StatusTemporaryRedirect)
}

// jsonpName is what a callback may be named: a JavaScript expression of names and indexes, nothing that could start a
// script of its own.
var jsonpName = regexp.MustCompile(`^[A-Za-z_$][A-Za-z0-9_$.\[\]]{0,255}$`)

// gzipFrom is the size from which Mesos compresses.
const gzipFrom = 1024

// RespondJSON writes the JSON body of a legacy endpoint: wrapped for JSONP when the query has a callback, compressed
// when the client asks for it and it pays.
func RespondJSON(w http.ResponseWriter, r *http.Request, body []byte) {
	NewBody(body).Respond(w, r)
}

// Body is the JSON body of a legacy endpoint that several requests may share. It is compressed once.
type Body struct {
	JSON []byte

	once   sync.Once
	zipped []byte
}

// NewBody is a body. Nobody changes json as long as somebody sends it.
func NewBody(json []byte) *Body { return &Body{JSON: json} }

// Compress compresses it now at this pace, if it pays, so that nobody who asks for it waits for that.
func (b *Body) Compress(pace *Pace) { b.gzip(pace) }

// gzip is the compressed body, or nil where it doesn't pay.
func (b *Body) gzip(pace *Pace) []byte {
	b.once.Do(func() {
		if len(b.JSON) >= gzipFrom {
			b.zipped = compress(b.JSON, pace)
		}
	})
	return b.zipped
}

// Respond writes it as RespondJSON does.
func (b *Body) Respond(w http.ResponseWriter, r *http.Request) {
	media, body := MediaJSON, b.JSON
	callback := jsonpCallback(r)
	if callback != "" {
		if !jsonpName.MatchString(callback) {
			Error(w, http.StatusBadRequest, "Expecting 'jsonp' to be the name of a function")
			return
		}
		media = "text/javascript"
		wrapped := make([]byte, 0, len(callback)+len(body)+3)
		wrapped = append(append(wrapped, callback...), '(')
		body = append(append(wrapped, body...), ");"...)
		w.Header().Set("X-Content-Type-Options", "nosniff")
	}
	w.Header().Add("Vary", "Accept-Encoding")
	if AcceptsGzip(r) {
		var zipped []byte
		switch {
		case callback == "":
			zipped = b.gzip(&Pace{})
		case len(body) >= gzipFrom:
			zipped = compress(body, &Pace{})
		}
		if zipped != nil {
			w.Header().Set("Content-Encoding", "gzip")
			body = zipped
		}
	}
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", media)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(http.StatusOK)
		return
	}
	if len(body) < largeBody {
		RespondBytes(w, http.StatusOK, media, body)
		return
	}
	w.Header().Set("Content-Type", media)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	sendLarge(w, body)
}

// A body from largeBody on is sent in pieces. While several are being sent, all together take no more than a part of one processor, the
// largeShare-th, or who has become ready meanwhile would wait behind megabytes that are copied. A piece rests largeRest at most: what took longer
// was a client that reads slowly.
const (
	largeBody  = 512 << 10
	largePiece = 64 << 10
	largeShare = 4
	largeRest  = 5 * time.Millisecond
)

// sendingLarge is how many are being sent.
var sendingLarge atomic.Int32

func sendLarge(w http.ResponseWriter, body []byte) {
	sendingLarge.Add(1)
	defer sendingLarge.Add(-1)
	pace := Pace{Longest: largeRest, Rest: func() float64 {
		if n := sendingLarge.Load(); n > 1 {
			return float64(largeShare*n - 1)
		}
		return 0
	}}
	pace.Begin()
	for piece := range slices.Chunk(body, largePiece) {
		if _, err := w.Write(piece); err != nil {
			return // the peer is gone; there is no one to tell
		}
		pace.Step()
	}
}

// jsonpCallback finds the callback without parsing a query that has none.
func jsonpCallback(r *http.Request) string {
	if !strings.Contains(r.URL.RawQuery, "jsonp") {
		return ""
	}
	return r.URL.Query().Get("jsonp")
}

// AcceptsGzip reports whether the client takes a compressed answer.
func AcceptsGzip(r *http.Request) bool {
	allowed := false
	for item := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, params, _ := strings.Cut(item, ";")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "gzip", "x-gzip":
			return !zeroQuality(params)
		case "*":
			allowed = !zeroQuality(params)
		}
	}
	return allowed
}

// zippers keeps compressors: each is about a megabyte.
var zippers = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	return z
}}

// compressPiece is compressed at a stretch; then the processor is let go of, or who has become ready behind a large body would wait for
// as long as the runtime lets a goroutine run, 10 ms.
const compressPiece = 64 << 10

func compress(body []byte, pace *Pace) []byte {
	z := zippers.Get().(*gzip.Writer)
	defer zippers.Put(z)
	out := sliceWriter(make([]byte, 0, len(body)/8+64))
	z.Reset(&out)
	for piece := range slices.Chunk(body, compressPiece) {
		_, _ = z.Write(piece) // into memory
		if len(body) > compressPiece {
			pace.Step()
		}
	}
	_ = z.Close()
	return out
}

type sliceWriter []byte

func (s *sliceWriter) Write(p []byte) (int, error) {
	*s = append(*s, p...)
	return len(p), nil
}
