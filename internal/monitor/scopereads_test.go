package monitor

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/monitor/console"
	"github.com/orchestrator/orchestrator/internal/topology"
)

const evilName = `</script><img src=x onerror="alert(1)">`

// scoped makes a monitor with one host and a container with a hostile name, with Scope's API or without.
func scoped(t *testing.T, on bool) (*Monitor, http.Handler) {
	t.Helper()
	m, err := New(Config{Listen: "127.0.0.1:0", AdminToken: "omt_admin", ScopeAPI: on}, Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.stop(); m.listener.Close(); m.audit.close() })
	m.estate.Hello("vm1", "i", "vm1", 0, 0)
	d := &probev1.Delta{Seq: 1, Snapshot: true, Entities: []*probev1.Entity{
		{Ref: 1, Id: topology.HostID("vm1"), Kind: topology.KindHost, Label: "vm1", State: "running", Attrs: []*probev1.Attr{{Key: "addrs", Value: "10.0.0.1"}}},
		{Ref: 2, Id: topology.ContainerID("vm1", strings.Repeat("a", 64)), Kind: topology.KindContainer, Label: evilName, State: "running", Parents: []string{topology.HostID("vm1")}},
	}}
	if !m.estate.Apply("vm1", d, time.Now().UnixMilli()) {
		t.Fatal("refused")
	}
	m.hub.flush()
	return m, secure(m.routes(console.Handler()), nil)
}

func asAdmin(t *testing.T, h http.Handler, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "http://monitor:4040"+path, nil)
	r.Header.Set("Authorization", "Bearer omt_admin")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestScopesAPIIsThereWhenAskedFor(t *testing.T) {
	t.Parallel()
	_, off := scoped(t, false)
	_, on := scoped(t, true)
	views := func(h http.Handler, path string) bool {
		var body struct{ Views []any }
		return json.Unmarshal(asAdmin(t, h, "GET", path).Body.Bytes(), &body) == nil && len(body.Views) > 0
	}
	if !views(off, "/api/topology") || !views(on, "/api/v1/views") || views(on, "/api/topology") {
		t.Error("/api/topology lists our views without --scope-api, and only then")
	}
	for _, h := range []http.Handler{on, off} {
		if w := asAdmin(t, h, "GET", "/api/topology?view=hosts"); w.Code != 200 || !strings.Contains(w.Body.String(), `"type":"frame"`) {
			t.Errorf("our picture at /api/topology: %d %s", w.Code, w.Body)
		}
	}
	node := "/api/topology/containers/" + strings.Repeat("a", 12) + "%3B%3Ccontainer%3E"
	for path, want := range map[string]int{
		"/api/topology/hosts": 200, "/api/topology/hosts/vm1%3B%3Chost%3E": 200, "/api/topology/hosts/vm1;<host>": 200, node: 200, "/api/probes": 200, "/api/probes?sparse": 200,
		"/api/topology/hosts/ws": 400, "/api/topology/nonsense": 404, "/api/topology/hosts/nobody": 404, "/api/topology/hosts/%2e%2e%2f%2e%2e%2fv1%2fusers": 404,
		"/api/topology/hosts/a/b": 404, "/api/report": 404,
	} {
		if w := asAdmin(t, on, "GET", path); w.Code != want {
			t.Errorf("GET %s: %d, want %d", path, w.Code, want)
		}
		if w := asAdmin(t, off, "GET", path); w.Code != 404 {
			t.Errorf("GET %s without the flag: %d", path, w.Code)
		}
	}
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		for _, path := range []string{"/api/topology/hosts", node, "/api/topology/hosts/ws", "/api/probes"} {
			if w := asAdmin(t, on, method, path); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") == "" {
				t.Errorf("%s %s: %d", method, path, w.Code)
			}
		}
	}
}

// What a host calls its things can't leave the JSON, nor be taken for a page.
func TestScopesAPIEscapesNames(t *testing.T) {
	t.Parallel()
	_, on := scoped(t, true)
	for _, path := range []string{"/api/topology/containers", "/api/topology/containers-by-hostname", "/api/topology/containers/" + strings.Repeat("a", 12) + "%3B%3Ccontainer%3E", "/api/topology/hosts/vm1%3B%3Chost%3E"} {
		w := asAdmin(t, on, "GET", path)
		if strings.ContainsAny(w.Body.String(), "<>") || !strings.Contains(w.Body.String(), `\u003c/script\u003e`) {
			t.Errorf("%s: %s", path, w.Body)
		}
		if w.Header().Get("Content-Type") != "application/json" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", path, w.Header())
		}
	}
}

func TestScopesAPICompressesWhatIsLarge(t *testing.T) {
	t.Parallel()
	m, on := scoped(t, true)
	d := &probev1.Delta{Seq: 2}
	for i := range 100 {
		d.Entities = append(d.Entities, &probev1.Entity{
			Ref: uint32(10 + i), Id: topology.ContainerID("vm1", fmt.Sprintf("%012x", i)), Kind: topology.KindContainer, Label: "web", State: "running", Parents: []string{topology.HostID("vm1")},
		})
	}
	if !m.estate.Apply("vm1", d, 1) {
		t.Fatal("refused")
	}
	m.hub.flush()
	for encoding, packed := range map[string]bool{"": false, "identity": false, "br, gzip;q=0": false, "gzip, deflate": true, "br;q=1, GZIP ; q=0.5": true} {
		for range 2 {
			r := httptest.NewRequestWithContext(t.Context(), "GET", "http://monitor:4040/api/topology/containers", nil)
			r.Header.Set("Authorization", "Bearer omt_admin")
			r.Header.Set("Accept-Encoding", encoding)
			w := httptest.NewRecorder()
			on.ServeHTTP(w, r)
			body := io.Reader(w.Body)
			if got := w.Header().Get("Content-Encoding") == "gzip"; got != packed {
				t.Fatalf("%q: packed is %v", encoding, got)
			} else if got {
				var err error
				if body, err = gzip.NewReader(body); err != nil {
					t.Fatal(err)
				}
			}
			var all struct{ Nodes map[string]any }
			if err := json.NewDecoder(body).Decode(&all); err != nil || len(all.Nodes) != 101 {
				t.Errorf("%q: %d nodes, %v", encoding, len(all.Nodes), err)
			}
		}
	}
}

// TestAReaderOfScopesThatIsSlow: what changes while it does not read comes in one difference, however much that was.
func TestAReaderOfScopesThatIsSlow(t *testing.T) {
	t.Parallel()
	m, on := scoped(t, true)
	f, err := m.scopeAPI.api.Follow("containers", nil)
	if err != nil {
		t.Fatal(err)
	}
	type diff struct {
		Add, Update []struct{ ID, Label string }
		Remove      []string
		Reset       bool
	}
	next := func() (d diff) {
		body, err := f.Next(t.Context(), 0)
		if err != nil || json.Unmarshal(body, &d) != nil {
			t.Fatal(err, string(body))
		}
		return d
	}
	if d := next(); !d.Reset || len(d.Add) != 1 {
		t.Fatalf("first %+v", d)
	}
	begin := time.Now()
	m.hub.now = func() time.Time { return begin.Add(time.Minute) } // what was read before is not fresh any more
	for i := range 1000 {
		e := &probev1.Entity{Ref: 2, Id: topology.ContainerID("vm1", strings.Repeat("a", 64)), Kind: topology.KindContainer, Label: fmt.Sprint(i), State: "running", Parents: []string{topology.HostID("vm1")}}
		other := &probev1.Entity{Ref: uint32(10 + i), Id: topology.ContainerID("vm1", fmt.Sprintf("%012x", i)), Kind: topology.KindContainer, Label: "brief", State: "running", Parents: []string{topology.HostID("vm1")}}
		if !m.estate.Apply("vm1", &probev1.Delta{Seq: uint64(2 + 2*i), Entities: []*probev1.Entity{e, other}}, 1) ||
			!m.estate.Apply("vm1", &probev1.Delta{Seq: uint64(3 + 2*i), GoneEntities: []uint32{other.Ref}}, 1) {
			t.Fatal("refused")
		}
		m.hub.flush()
	}
	if d := next(); d.Reset || len(d.Add)+len(d.Remove) != 0 || len(d.Update) != 1 || d.Update[0].Label != "999" {
		t.Errorf("after a thousand changes %+v", d)
	}
	if d := next(); len(d.Add)+len(d.Update)+len(d.Remove) != 0 {
		t.Errorf("nothing has changed: %+v", d)
	}
	// One that does not read at all is let go when the monitor ends, and holds nothing.
	server := httptest.NewServer(on)
	defer server.Close()
	conn, _, err := websocket.Dial(t.Context(), server.URL+"/api/topology/containers/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer omt_admin"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if _, _, err := conn.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.stop()
	m.streams.Wait()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for m.sockets.Load() != 0 {
		select {
		case <-tick.C:
		case <-time.After(3 * time.Minute):
			t.Fatal("its socket is still counted")
		}
	}
}
