package kubetest

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// replay answers as a recording says.
type replay struct {
	rec  *recording
	who  func(*http.Request) (string, bool)
	fail func(format string, args ...any)

	mu      sync.Mutex
	step    int
	stepped chan struct{}          // closed at the next step
	next    map[string][]*exchange // of each key: what was not given yet
	last    map[string]*exchange   // of each key: what was given last
	served  []*exchange            // in order
	refused map[string]struct{}    // what was complained of already
}

func newReplay(rec *recording, who func(*http.Request) (string, bool), fail func(string, ...any)) *replay {
	p := &replay{rec: rec, who: who, fail: fail, stepped: make(chan struct{}), next: map[string][]*exchange{}, last: map[string]*exchange{}, refused: map[string]struct{}{}}
	for _, x := range rec.exchanges {
		p.next[x.key()] = append(p.next[x.key()], x)
	}
	return p
}

// advance lets come what came after the next step.
func (p *replay) advance() {
	p.mu.Lock()
	p.step++
	close(p.stepped)
	p.stepped = make(chan struct{})
	p.mu.Unlock()
}

// take gives the answer to a request, and what will tell when to ask again if it is not its time yet.
func (p *replay) take(q *exchange) (x *exchange, wait <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := q.key()
	list := p.next[key]
	// What was asked by the clock in an earlier step is passed over as soon as a later one has an answer.
	for len(list) > 1 && list[0].byClock() && list[0].Step < p.step && list[1].Step <= p.step {
		list = list[1:]
	}
	p.next[key] = list
	switch {
	case len(list) > 0 && list[0].Step <= p.step:
		x = list[0]
		if x.Query != q.Query {
			return nil, nil
		}
		p.next[key] = list[1:]
		p.last[key] = x
	case p.last[key] != nil && p.last[key].byClock() && p.last[key].Query == q.Query:
		x = p.last[key]
	case len(list) > 0 || q.watch():
		return nil, p.stepped
	default:
		return nil, nil
	}
	p.served = append(p.served, x)
	return x, nil
}

func (p *replay) complain(q *exchange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := fmt.Sprintf("%s asked %s %s?%s (%s) in step %d: of this question no (further) answer was recorded", q.As, q.Method, q.Path, q.Query, q.Accept, p.step)
	if list := p.next[q.key()]; len(list) > 0 {
		text += "; the next one is to ?" + list[0].Query
	}
	if _, again := p.refused[text]; !again {
		p.refused[text] = struct{}{}
		p.fail("%s", text)
	}
}

// until waits for a step. It reports false when the client has gone.
func (p *replay) until(step int, r *http.Request) bool {
	for {
		p.mu.Lock()
		now, wait := p.step, p.stepped
		p.mu.Unlock()
		if now >= step {
			return true
		}
		select {
		case <-wait:
		case <-r.Context().Done():
			return false
		}
	}
}

func (p *replay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	as, known := p.who(r)
	if !known {
		p.fail("%s %s bore a token that nobody was given", r.Method, r.URL)
	}
	q := question(as, r)
	_, _ = io.Copy(io.Discard, r.Body)
	var x *exchange
	for x == nil {
		var wait <-chan struct{}
		if x, wait = p.take(q); x != nil {
			break
		}
		if wait == nil {
			p.complain(q)
			http.Error(w, "kubetest: not recorded", http.StatusNotImplemented)
			return
		}
		select {
		case <-wait:
		case <-r.Context().Done():
			return
		}
	}
	for k, v := range x.Header {
		w.Header().Set(k, v)
	}
	w.WriteHeader(x.Status)
	out, flush := io.Writer(w), http.NewResponseController(w).Flush
	if x.Header["Content-Encoding"] == "gzip" {
		z := gzip.NewWriter(w)
		defer z.Close()
		out = z
	} else if x.watch() {
		_ = flush()
	}
	for _, b := range x.Body {
		if !p.until(b.Step, r) {
			return
		}
		if _, err := io.WriteString(out, b.Data); err != nil {
			return
		}
		if x.watch() {
			_ = flush()
		}
	}
	if x.End != endOpen && !p.until(x.EndStep, r) {
		return
	}
	switch x.End {
	case endOpen:
		<-r.Context().Done()
	case endCut:
		panic(http.ErrAbortHandler)
	}
}

// question is a request as it is recorded.
func question(as string, r *http.Request) *exchange {
	return &exchange{As: as, Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Accept: strings.Join(r.Header.Values("Accept"), ", ")}
}
