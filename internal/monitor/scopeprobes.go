package monitor

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sync/semaphore"

	"github.com/orchestrator/orchestrator/internal/monitor/scope/control"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/scope"
	"github.com/orchestrator/orchestrator/internal/version"
)

const (
	// maxReport is the size of a report as it comes; what it becomes is held to topology.MaxFrame.
	maxReport = 8 << 20
	// reportBudget bounds what is being received at one time, over all senders; decoders works on as many at once.
	reportBudget   = 64 << 20
	reportDecoders = 2
	reportTimeout  = 20 * time.Second
	// reportWait is how long a sender waits for its turn. Scope's probes give up after 12 seconds.
	reportWait = 8 * time.Second
)

// scopeTable is what is held for Weave Scope's probes besides what is held for all.
type scopeTable struct {
	id     string // of this monitor, by which a probe that finds it under two names knows that it is one
	budget *semaphore.Weighted
	decode chan struct{}

	mu      sync.Mutex
	senders map[string]*scopeSender
	links   map[string]*scopeLink
}

// scopeLink is the way to a probe, for as long as somebody has it in hand.
type scopeLink struct {
	*control.Link
	users int
}

func newScopeTable() *scopeTable {
	return &scopeTable{
		id: secret("")[:16], budget: semaphore.NewWeighted(reportBudget), decode: make(chan struct{}, reportDecoders),
		senders: map[string]*scopeSender{}, links: map[string]*scopeLink{},
	}
}

// link gives the way to a probe, which may not have sent yet. The second result gives it back.
func (t *scopeTable) link(id string) (*control.Link, func(), error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.linkLocked(id)
}

func (t *scopeTable) linkLocked(id string) (*control.Link, func(), error) {
	l := t.links[id]
	if l == nil {
		if len(t.links) >= maxProbes {
			return nil, nil, fail("too_many", fmt.Sprintf("there are %d probes already", maxProbes), "")
		}
		l = &scopeLink{Link: control.NewLink()}
		t.links[id] = l
	}
	l.users++
	return l.Link, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(t.links, id)
		}
	}, nil
}

// scopeRoutes adds what Weave Scope's probes ask of Scope's app.
func (m *Monitor) scopeRoutes(mux *router) {
	handle := func(pattern string, f func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := f(w, r); err != nil {
				m.writeError(w, err)
			}
		})
	}
	handle("GET /api", m.scopeDetails)
	handle("POST /api/report", m.scopeReport)
	handle("GET /api/control/ws", m.scopeControl)
	handle("GET /api/pipe/{id}/probe", m.scopePipe)
	handle("DELETE /api/pipe/{id}", m.scopePipeEnd)
}

// admitScope checks a Scope probe's token, by the rules for our own.
func (m *Monitor) admitScope(r *http.Request) (identity, error) {
	if r.Header.Get("Origin") != "" {
		return identity{}, fail("forbidden", "probes connect from no web page", "")
	}
	if m.cfg.ScopeProbes == "open" || m.cfg.Auth == "off" || certified(r) {
		return identity{probe: true}, nil
	}
	scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token, ok := strings.CutPrefix(strings.TrimSpace(rest), "token=")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		return m.admitProbe(r)
	case !strings.EqualFold(scheme, "Scope-Probe") || !ok || token == "":
		return identity{}, fail("unauthenticated", "there is no probe's token", "start the probe with --probe.token=<token of kind probe>, or give the monitor's address as http://<token>@host:4040")
	}
	id, err := m.byToken(r, token)
	if err != nil {
		return id, err
	}
	return id, mustBeProbe(id)
}

// scopeID is under what name a Scope probe is known here. It can be nobody else's.
func scopeID(name string) string { return "scope:" + name }

// scopeName gives the name that a request's probe has given itself.
func scopeName(r *http.Request) (string, error) {
	name := r.Header.Get("X-Scope-Probe-ID")
	if name == "" || len(name) > 200 || topology.Printable(name, 200) != name {
		return "", fail("bad_request", "X-Scope-Probe-ID is missing or unfit", "")
	}
	return name, nil
}

// scopeDetails answers a probe's first question; people may ask it as well.
func (m *Monitor) scopeDetails(w http.ResponseWriter, r *http.Request) error {
	if _, err := m.admitScope(r); err != nil {
		if _, perr := m.allow(r, RoleViewer); perr != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"id": m.scope.id, "version": version.Version, "hostname": m.cfg.ReplicaID, "plugins": []any{}, "capabilities": map[string]bool{"historic_reports": false},
	})
	return nil
}

// scopeReport takes a report.
func (m *Monitor) scopeReport(w http.ResponseWriter, r *http.Request) error {
	if _, err := m.admitScope(r); err != nil {
		return err
	}
	report, err := m.scope.read(w, r)
	if err != nil {
		return err
	}
	name := r.Header.Get("X-Scope-Probe-ID")
	if name == "" { // who builds reports by other means may not know of it: then there is one sender for each host
		if name = soleHost(report); name == "" {
			return fail("bad_request", "X-Scope-Probe-ID is missing, and the report is not of one host", "")
		}
	} else if name, err = scopeName(r); err != nil {
		return err
	}
	if len(report.Topologies) == 0 {
		return fail("bad_request", "the report has no topology that is known", "it is Weave Scope's report as JSON or msgpack")
	}
	version := topology.Printable(r.Header.Get("X-Scope-Probe-Version"), 64)
	if err := m.scopeSend(r.Context(), name, version, report); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func soleHost(r *scope.Report) string {
	t := r.Topologies[scope.Host]
	if t == nil || len(t.Nodes) != 1 {
		return ""
	}
	for id := range t.Nodes {
		if host := scope.Tagged(id, "host"); host == topology.Printable(host, 200) {
			return host
		}
	}
	return ""
}

// read receives and decodes a report. What is received is bounded over all senders, and so is what is decoded.
func (t *scopeTable) read(w http.ResponseWriter, r *http.Request) (*scope.Report, error) {
	decode := scope.DecodeJSON
	switch kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); kind {
	case "application/msgpack":
		decode = scope.DecodeMsgpack
	case "application/json":
	default:
		return nil, fail("bad_request", "Content-Type is neither application/msgpack nor application/json", "")
	}
	packed := false
	switch e := r.Header.Get("Content-Encoding"); e {
	case "", "identity":
	case "gzip":
		packed = true
	default:
		return nil, fail("bad_request", "Content-Encoding is neither gzip nor identity", "")
	}
	tooLarge := fail("too_large", fmt.Sprintf("the report is larger than %d MB as sent, or %d MB as it is", maxReport>>20, topology.MaxFrame>>20), "")
	weight := r.ContentLength
	if weight > maxReport {
		return nil, tooLarge
	}
	if weight < 0 {
		weight = maxReport
	}
	wait, stop := context.WithTimeout(r.Context(), reportWait)
	defer stop()
	busy := &apiError{Code: "too_many", Message: "too many reports come at once", Hint: "the next one is sent anyway", retry: 3}
	if t.budget.Acquire(wait, weight) != nil {
		return nil, busy
	}
	defer t.budget.Release(weight)
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(reportTimeout)) // not there in tests: then it takes as long as it takes
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReport))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, tooLarge
	case err != nil:
		return nil, fail("bad_request", "the report did not come whole", "")
	}
	select {
	case t.decode <- struct{}{}:
		defer func() { <-t.decode }()
	case <-wait.Done():
		return nil, busy
	}
	if packed {
		if body, err = unpack(body); err != nil {
			if errors.Is(err, errBomb) {
				return nil, tooLarge
			}
			return nil, fail("bad_request", "the report is not the gzip that it is said to be", "")
		}
	} else if len(body) > topology.MaxFrame {
		return nil, tooLarge
	}
	report, err := decode(body, scope.DefaultLimits())
	switch {
	case scope.TooLarge(err):
		return nil, fail("too_large", "the report is more than is taken of one host: "+err.Error(), "")
	case err != nil:
		return nil, fail("bad_request", "the report can't be read: "+err.Error(), "")
	}
	return report, nil
}

var errBomb = errors.New("too large when unpacked")

func unpack(b []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(z, topology.MaxFrame+1))
	if err == nil && len(out) > topology.MaxFrame {
		err = errBomb
	}
	return out, err
}

// scopeControl is the socket over which a probe is asked.
func (m *Monitor) scopeControl(w http.ResponseWriter, r *http.Request) error {
	id, err := m.admitScope(r)
	if err != nil {
		return err
	}
	r, leave := m.staying(r, id)
	defer leave()
	name, err := scopeName(r)
	if err != nil {
		return err
	}
	link, release, err := m.scope.link(name)
	if err != nil {
		return err
	}
	defer release()
	conn, ctx, done, err := m.scopeSocket(w, r)
	if conn == nil {
		return err
	}
	defer done()
	if err := link.Serve(ctx, conn); err != nil && ctx.Err() == nil {
		m.log.Info("Scope probe's control connection ended", "probe", scopeID(name), "err", err)
	}
	return nil
}

// scopeSocket takes a probe's WebSocket. conn is nil when it was not to be had.
func (m *Monitor) scopeSocket(w http.ResponseWriter, r *http.Request) (conn *websocket.Conn, ctx context.Context, done func(), err error) {
	if m.sockets.Add(1) > maxSockets {
		m.sockets.Add(-1)
		return nil, nil, nil, &apiError{Code: "too_many", Message: "too many connections are open", retry: 10}
	}
	if conn, err = websocket.Accept(w, r, &websocket.AcceptOptions{}); err != nil {
		m.sockets.Add(-1)
		return nil, nil, nil, nil //nolint:nilerr // answered already
	}
	ctx, stop := m.streamContext(r)
	return conn, ctx, func() {
		_ = conn.CloseNow()
		stop()
		m.sockets.Add(-1)
	}, nil
}

// scopePipe is the socket of one stream that a probe was asked to open.
func (m *Monitor) scopePipe(w http.ResponseWriter, r *http.Request) error {
	id, link, release, err := m.scopePipeOf(r)
	if err != nil {
		return err
	}
	defer release()
	r, leave := m.staying(r, id)
	defer leave()
	arrival := link.Arrive(r.PathValue("id"))
	if arrival == nil {
		return fail("not_found", "no such pipe: it is over", "") // at which the probe closes its end
	}
	defer arrival.Release()
	conn, ctx, done, err := m.scopeSocket(w, r)
	if conn == nil {
		return err
	}
	defer done()
	if !arrival.Serve(ctx, conn) {
		_ = conn.Close(websocket.StatusPolicyViolation, "this pipe has a socket already")
	}
	return nil
}

func (m *Monitor) scopePipeOf(r *http.Request) (id identity, link *control.Link, release func(), err error) {
	if id, err = m.admitScope(r); err != nil {
		return id, nil, nil, err
	}
	name, err := scopeName(r)
	if err != nil {
		return id, nil, nil, err
	}
	link, release, err = m.scope.link(name)
	return id, link, release, err
}

// scopePipeEnd is a probe's word that a stream is over.
func (m *Monitor) scopePipeEnd(w http.ResponseWriter, r *http.Request) error {
	_, link, release, err := m.scopePipeOf(r)
	if err != nil {
		return err
	}
	defer release()
	link.End(r.PathValue("id"))
	w.WriteHeader(http.StatusOK)
	return nil
}

// recovered is what net/http does for handlers.
func (m *Monitor) recovered(what, who string) {
	if p := recover(); p != nil {
		m.log.Error(what+" panicked", "probe", who, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	}
}

// scopeVersion says of what kind a sender is, where a probe of ours has its version.
func scopeVersion(v string) string { return strings.TrimSpace("Weave Scope " + v) }
