package monitor

import (
	"compress/gzip"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/monitor/scope/read"
	"github.com/orchestrator/orchestrator/internal/monitor/view"
)

// scopeReads serves Weave Scope's read API: who may ask, where pictures come from, and how answers leave. What is in them is
// internal/monitor/scope/read's.
type scopeReads struct {
	m   *Monitor
	api *read.API
	// past lets one request at a time look at the past: that is the dearest thing a viewer can ask for. It holds the estate that
	// was made last, since most requests look at the same one several times.
	past chan pastEstate
	// compressors are used again: each is larger than most of what it compresses.
	compressors sync.Pool
}

// pastEstate is an estate as it was at a time.
type pastEstate struct {
	at     int64
	estate *estate.Estate
	made   time.Time
}

// pastKept is for how long it is kept.
const pastKept = 10 * time.Second

func newScopeReads(m *Monitor) *scopeReads {
	s := &scopeReads{m: m, past: make(chan pastEstate, 1)}
	s.past <- pastEstate{}
	s.api = read.New(s, func() time.Time { return m.hub.now() })
	return s
}

// table are the routes, none when they are off. GET /api/topology has a rule of its own, since it is ours as well.
func (s *scopeReads) table() []route {
	if !s.m.cfg.ScopeAPI {
		return nil
	}
	return []route{
		{"GET", "/api/topology/{topology}", RoleViewer, s.topology, "Weave Scope's API: a topology", ""},
		{"GET", "/api/topology/{topology}/{id}", RoleViewer, s.node, "Weave Scope's API: a node", ""},
		{"GET", "/api/topology/{topology}/ws", RoleViewer, s.follow, "Weave Scope's API: a topology's differences (WebSocket)", ""},
		{"GET", "/api/probes", RoleViewer, s.probes, "Weave Scope's API: probes", ""},
	}
}

// paths are the routes without their methods. That of the WebSocket has the form of a node's.
func (s *scopeReads) paths() []string {
	var out []string
	for _, rt := range s.table() {
		if !strings.HasSuffix(rt.path, "/ws") {
			out = append(out, rt.path)
		}
	}
	return out
}

// only answers other methods than GET on these routes.
func (s *scopeReads) only(mux *router) {
	for _, path := range s.paths() {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			_, err := s.m.allow(r, RoleViewer)
			if err == nil {
				w.Header().Set("Allow", "GET, HEAD")
				err = fail("method_not_allowed", "Weave Scope's API is read with GET", "POST /api/v1/nodes/{id}/controls/{control} acts")
			}
			s.m.writeError(w, err)
		})
	}
}

// run forgets pictures that nobody asks for.
func (s *scopeReads) run(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.api.Tidy()
			select {
			case held := <-s.past:
				if s.m.hub.now().Sub(held.made) > pastKept {
					held = pastEstate{}
				}
				s.past <- held
			default: // it is being looked at
			}
		}
	}
}

// Picture implements read.Source. A live one stays up to date for half a minute after it was last looked at, as those of pages do.
func (s *scopeReads) Picture(ctx context.Context, spec view.Spec, at int64, f func(*estate.Reader, *view.View)) error {
	if at != 0 {
		return s.replayed(ctx, at, func(past *estate.Estate) error {
			made, err := view.New(spec, at)
			if err != nil {
				return err
			}
			s.m.estate.Read(func(*estate.Reader) {
				made.Build(past.Reader())
				made.Settle()
				made.Emit(at)
				f(past.Reader(), made)
			})
			return nil
		})
	}
	wake := make(chan struct{}, 1)
	v, err := s.m.hub.open(spec, wake)
	if err != nil {
		return err
	}
	defer s.m.hub.close(v, wake)
	s.m.estate.Read(func(r *estate.Reader) {
		v.mu.Lock()
		defer v.mu.Unlock()
		f(r, v.view)
	})
	return nil
}

// Estate implements read.Source.
func (s *scopeReads) Estate(ctx context.Context, at int64, f func(*estate.Reader)) error {
	if at == 0 {
		s.m.estate.Read(f)
		return nil
	}
	return s.replayed(ctx, at, func(past *estate.Estate) error {
		s.m.estate.Read(func(*estate.Reader) { f(past.Reader()) })
		return nil
	})
}

// replayed calls f with the estate as it was at a time.
func (s *scopeReads) replayed(ctx context.Context, at int64, f func(*estate.Estate) error) error {
	var held pastEstate
	select {
	case held = <-s.past:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.past <- held }()
	if held.estate == nil || held.at != at {
		made, err := s.m.pastAt(at)
		if err != nil {
			return err
		}
		held = pastEstate{at, made, s.m.hub.now()}
	}
	return f(held.estate)
}

// asked gives a request's options and the time that it asks for, 0 for now.
func (s *scopeReads) asked(r *http.Request) (url.Values, int64, error) {
	q := r.URL.Query()
	text := q.Get("timestamp")
	if text == "" {
		return q, 0, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil, 0, fail("bad_request", "timestamp is not a time of the form 2006-01-02T15:04:05Z", "")
	}
	at := t.UnixMilli()
	if at >= s.m.hub.now().UnixMilli() {
		at = 0
	}
	return q, at, nil
}

func scopeError(err error) error {
	if errors.Is(err, read.ErrNotFound) {
		return fail("not_found", "no such topology or node; it may have just gone", "GET /api/topology lists topologies")
	}
	return err
}

// send answers with JSON that is made already, compressed when it is large and the reader can take that, as Scope does.
func (s *scopeReads) send(w http.ResponseWriter, r *http.Request, body []byte, err error) error {
	if err != nil {
		return scopeError(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Vary", "Accept-Encoding")
	if len(body) <= gzipAbove || !takesGzip(r) {
		_, _ = w.Write(body)
		return nil
	}
	w.Header().Set("Content-Encoding", "gzip")
	z, _ := s.compressors.Get().(*gzip.Writer)
	if z == nil {
		z, _ = gzip.NewWriterLevel(w, gzip.BestSpeed)
	} else {
		z.Reset(w)
	}
	_, _ = z.Write(body)
	_ = z.Close()
	s.compressors.Put(z)
	return nil
}

// takesGzip reports whether a reader names gzip among what it can take.
func takesGzip(r *http.Request) bool {
	for _, list := range r.Header.Values("Accept-Encoding") {
		for item := range strings.SplitSeq(list, ",") {
			name, q, _ := strings.Cut(item, ";")
			if q = strings.ReplaceAll(q, " ", ""); strings.EqualFold(strings.TrimSpace(name), "gzip") && q != "q=0" && q != "q=0.0" {
				return true
			}
		}
	}
	return false
}

func (s *scopeReads) list(w http.ResponseWriter, r *http.Request, _ identity) error {
	q, at, err := s.asked(r)
	if err != nil {
		return err
	}
	body, err := s.api.List(r.Context(), q, at)
	return s.send(w, r, body, err)
}

func (s *scopeReads) topology(w http.ResponseWriter, r *http.Request, _ identity) error {
	q, at, err := s.asked(r)
	if err != nil {
		return err
	}
	body, err := s.api.Topology(r.Context(), r.PathValue("topology"), q, at)
	return s.send(w, r, body, err)
}

func (s *scopeReads) node(w http.ResponseWriter, r *http.Request, _ identity) error {
	q, at, err := s.asked(r)
	if err != nil {
		return err
	}
	body, err := s.api.Node(r.Context(), r.PathValue("topology"), r.PathValue("id"), q, at)
	return s.send(w, r, body, err)
}

// Bounds of a reader's interval. Scope's own is a second unless the reader names another.
const (
	scopeInterval    = time.Second
	scopeMinInterval = time.Second
	scopeMaxInterval = time.Hour
)

func (s *scopeReads) follow(w http.ResponseWriter, r *http.Request, _ identity) error {
	q, at, err := s.asked(r)
	if err != nil {
		return err
	}
	every := scopeInterval
	if t := q.Get("t"); t != "" {
		if every, err = time.ParseDuration(t); err != nil {
			return fail("bad_request", "t is not a duration such as 5s", "")
		}
		every = min(max(every, scopeMinInterval), scopeMaxInterval)
	}
	follower, err := s.api.Follow(r.PathValue("topology"), q)
	if err != nil {
		return scopeError(err)
	}
	conn, err := s.m.accept(w, r)
	if conn == nil {
		return err
	}
	defer s.m.sockets.Add(-1)
	defer conn.CloseNow()
	ctx, stop := s.m.streamContext(r)
	defer stop()
	conn.SetReadLimit(64 << 10)
	// What the reader sends is thrown away, as Scope does; that it has gone is what ends this.
	done := make(chan struct{})
	defer func() { <-done }()
	defer conn.CloseNow()
	go func() {
		defer close(done)
		defer stop()
		for {
			if _, _, err := conn.Read(ctx); err != nil {
				return
			}
		}
	}()
	began := s.m.hub.now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		then := at
		if at != 0 {
			// The past goes on at the pace of the present, until it has come there.
			now := s.m.hub.now()
			if then = at + now.Sub(began).Milliseconds(); then >= now.UnixMilli() {
				then = 0
			}
		}
		body, err := follower.Next(ctx, then)
		if err != nil {
			_ = conn.Close(websocket.StatusInternalError, closeReason(err))
			return nil
		}
		if s.write(ctx, conn, body) != nil {
			return nil
		}
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-ping.C:
				pctx, stop := context.WithTimeout(ctx, writeTimeout)
				err := conn.Ping(pctx)
				stop()
				if err != nil {
					return nil
				}
			case <-tick.C:
				waiting = false
			}
		}
	}
}

// closeReason is what a close frame has room for.
func closeReason(err error) string {
	text := asAPI(scopeError(err)).Message
	return text[:min(len(text), 100)]
}

func (s *scopeReads) write(ctx context.Context, conn *websocket.Conn, body []byte) error {
	ctx, stop := context.WithTimeout(ctx, writeTimeout)
	defer stop()
	return conn.Write(ctx, websocket.MessageText, body)
}

func (s *scopeReads) probes(w http.ResponseWriter, r *http.Request, _ identity) error {
	list := s.m.probes.list()
	if _, sparse := r.URL.Query()["sparse"]; sparse {
		writeJSON(w, http.StatusOK, len(list) > 0)
		return nil
	}
	type row struct {
		ID       string    `json:"id"`
		Hostname string    `json:"hostname"`
		Version  string    `json:"version"`
		LastSeen time.Time `json:"lastSeen"`
	}
	out := []row{}
	for _, p := range list {
		p.mu.Lock()
		out = append(out, row{p.id, p.hello.Hostname, p.hello.Version, p.last.UTC()})
		p.mu.Unlock()
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}
