package kubetest

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

// recorder stands between a client and a real API server.
type recorder struct {
	rec  *recording
	who  func(*http.Request) (string, bool)
	to   *url.URL
	over http.RoundTripper
	fail func(format string, args ...any)

	mu     sync.Mutex
	step   int
	before func(*http.Request)
}

func (p *recorder) advance() {
	p.mu.Lock()
	p.step++
	p.mu.Unlock()
}

func (p *recorder) now() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.step
}

func (p *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	as, _ := p.who(r)
	x := question(as, r)
	p.mu.Lock()
	before := p.before
	p.mu.Unlock()
	if before != nil {
		before(r)
	}
	out := r.Clone(r.Context())
	out.RequestURI, out.Host = "", ""
	out.URL.Scheme, out.URL.Host = p.to.Scheme, p.to.Host
	resp, err := p.over.RoundTrip(out)
	if err != nil { // the server is not there: neither is this
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	x.Status, x.Proto, x.Header, x.Step = resp.StatusCode, resp.Proto, map[string]string{}, p.now()
	for _, k := range keptHeaders {
		if v := resp.Header.Get(k); v != "" {
			x.Header[k] = v
			w.Header().Set(k, v)
		}
	}
	if x.watch() {
		x.End = endOpen // until it ends
	}
	p.rec.mu.Lock()
	p.rec.exchanges = append(p.rec.exchanges, x)
	p.rec.mu.Unlock()
	w.WriteHeader(resp.StatusCode)
	flush := http.NewResponseController(w).Flush
	if x.watch() {
		_ = flush()
	}
	in, to := io.Reader(resp.Body), io.Writer(w)
	if resp.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(resp.Body)
		if err != nil {
			p.fail("%s: %v", r.URL, err)
			panic(http.ErrAbortHandler)
		}
		again := gzip.NewWriter(w)
		defer again.Close()
		in, to = z, again
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := in.Read(buf)
		p.add(x, string(buf[:n]))
		if _, werr := to.Write(buf[:n]); werr != nil {
			return
		}
		if x.watch() {
			_ = flush()
		}
		switch {
		case errors.Is(err, io.EOF):
			p.end(x, "")
			return
		case err != nil && r.Context().Err() != nil: // the client ended it
			return
		case err != nil:
			p.end(x, endCut)
			panic(http.ErrAbortHandler)
		}
	}
}

// add keeps what came at once: of a watch each piece for itself, of other answers the whole.
func (p *recorder) add(x *exchange, data string) {
	if data == "" {
		return
	}
	step := p.now()
	p.rec.mu.Lock()
	defer p.rec.mu.Unlock()
	if n := len(x.Body); n > 0 && !x.watch() {
		x.Body[n-1].Data += data
		return
	}
	x.Body = append(x.Body, piece{step, data})
}

func (p *recorder) end(x *exchange, how string) {
	step := p.now()
	p.rec.mu.Lock()
	x.End, x.EndStep = how, step
	p.rec.mu.Unlock()
}

// bearer is the token of a request.
func bearer(r *http.Request) string {
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
}
