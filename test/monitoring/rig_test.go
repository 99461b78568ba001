package monitoring

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/orchestrator/orchestrator/internal/monitor"
	"github.com/orchestrator/orchestrator/internal/probe"
)

const (
	adminToken = "omt_admin-of-the-tests"
	probeToken = "omt_probe-of-the-tests"
)

// patience is how long what must happen may take: only a broken build needs as long, however busy the machine is.
const patience = 4 * time.Minute

// rig is a running monitor.
type rig struct {
	t   testing.TB
	m   *monitor.Monitor
	url string
}

func newRig(t testing.TB, change func(*monitor.Config)) *rig {
	t.Helper()
	cfg := monitor.Config{Listen: "127.0.0.1:0", AdminToken: adminToken, ProbeToken: probeToken, ViewerLogs: true, ReplicaID: "test"}
	if change != nil {
		change(&cfg)
	}
	m, err := monitor.New(cfg, monitor.Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	<-m.Ready()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("monitor: %v", err)
		}
	})
	return &rig{t, m, m.URL()}
}

// probe runs a probe until the test ends, or stop is called.
func (r *rig) probe(cfg probe.Config) (stop func()) {
	r.t.Helper()
	cfg.Monitors = []string{r.url}
	return runProbe(r.t, cfg)
}

// runProbe runs a probe of any monitors, with the probes' token of the rig if it has none.
func runProbe(t testing.TB, cfg probe.Config) (stop func()) {
	t.Helper()
	cfg.Token = cmp.Or(cfg.Token, probeToken)
	p, err := probe.New(cfg, probe.Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("probe: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) into(t testing.TB, v any) {
	t.Helper()
	if a.status >= 300 {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
}

// call makes a request with a bearer token ("" for none).
func (r *rig) call(method, path, token, body string, header ...string) answer {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, b}
}

func (r *rig) get(path string, v any) { r.call("GET", path, adminToken, "").into(r.t, v) }

// token makes a token of a role.
func (r *rig) token(role string) string {
	var out struct{ Secret string }
	r.call("POST", "/api/v1/tokens", adminToken, `{"name":"`+role+`","role":"`+role+`"}`).into(r.t, &out)
	return out.Secret
}

// eventually waits for a condition with a deadline that only a broken build reaches.
func (r *rig) eventually(what string, cond func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			r.t.Fatalf("waited for: %s", what)
		}
		select {
		case <-r.t.Context().Done():
			r.t.Fatal(r.t.Context().Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// socket opens a WebSocket for as long as the test runs.
func (r *rig) socket(path, token string, header ...string) (*websocket.Conn, *http.Response, error) {
	conn, resp, err := r.dial(r.t.Context(), path, token, header...)
	if err == nil {
		r.t.Cleanup(func() { conn.CloseNow() })
	}
	return conn, resp, err
}

func (r *rig) dial(ctx context.Context, path, token string, header ...string) (*websocket.Conn, *http.Response, error) {
	h := http.Header{}
	if token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	conn, resp, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(r.url, "http")+path, &websocket.DialOptions{HTTPHeader: h})
	if err == nil {
		conn.SetReadLimit(64 << 20)
	}
	return conn, resp, err
}

// message is any message of the live socket.
type message struct {
	Type  string
	Sub   uint64
	Rev   uint64
	Live  bool
	Group string
	Nodes struct {
		H           []uint32
		ID, State   []string
		Health      []int
		M           []*float64
		Label, Kind []string
	}
	Edges  struct{ H, S, D []uint32 }
	Gone   struct{ Nodes, Edges []uint32 }
	Totals map[string]int
	Events []struct {
		ID, What, From, To string
	}
	Values json.RawMessage
	Error  struct{ Code, Message string }
}

// read takes the next message, compressed or not.
func (r *rig) read(conn *websocket.Conn) message {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	kind, data, err := conn.Read(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	if kind == websocket.MessageBinary {
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			r.t.Fatal(err)
		}
		z.Multistream(false) // as browsers do: one member, nothing after it
		if data, err = io.ReadAll(z); err != nil {
			r.t.Fatal(err)
		}
	}
	var m message
	if err := json.Unmarshal(data, &m); err != nil {
		r.t.Fatalf("%v: %.300s", err, data)
	}
	return m
}

func (r *rig) send(conn *websocket.Conn, text string) {
	r.t.Helper()
	if err := conn.Write(r.t.Context(), websocket.MessageText, []byte(text)); err != nil {
		r.t.Fatal(err)
	}
}

// hangUp ends every connection as soon as it is made, until the listener is closed.
func hangUp(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.Close()
	}
}
