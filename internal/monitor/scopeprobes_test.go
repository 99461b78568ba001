package monitor

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/monitor/console"
	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// scopeMonitor is a monitor that takes Scope's reports, and its routes.
func scopeMonitor(t *testing.T, mode string, change func(*Config)) (*Monitor, *router) {
	t.Helper()
	cfg := Config{Listen: "127.0.0.1:0", AdminToken: "omt_admin", ProbeToken: "omt_probe", ScopeProbes: mode}
	if change != nil {
		change(&cfg)
	}
	m, err := New(cfg, Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.stop()
		m.streams.Wait()
		m.listener.Close()
		m.audit.close()
	})
	return m, m.routes(console.Handler())
}

// post sends a report as a probe does, but for what change says.
func post(t *testing.T, mux http.Handler, body []byte, change func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://monitor:4040/api/report", bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Scope-Probe-ID", "p1")
	r.Header.Set("X-Scope-Probe-Version", "1.13.2")
	r.Header.Set("Authorization", "Scope-Probe token=omt_probe")
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w
}

func from(name string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("X-Scope-Probe-ID", name) }
}

// scopeHost is a full report of a host with processes, and connections as Scope has them: "client;pid", "server;pid".
func scopeHost(name, addr string, processes map[string]string, endpoints string) []byte {
	procs := []string{}
	for pid, label := range processes {
		procs = append(procs, fmt.Sprintf(`"%s;%s":{"latest":{"name":{"value":%q},"pid":{"value":%q}}}`, name, pid, label, pid))
	}
	return fmt.Appendf(nil, `{"Host":{"shape":"circle","nodes":{"%[1]s;<host>":{"latest":{"host_name":{"value":%[1]q}},"sets":{"local_networks":["%[2]s/24","127.0.0.1/8"]}}}},
		"Process":{"shape":"square","nodes":{%[3]s}},"Endpoint":{"nodes":{%[4]s}}}`, name, addr, strings.Join(procs, ","), endpoints)
}

// scopeEnd is an endpoint; pid "" is one whose process nobody saw.
func scopeEnd(host, id, pid string, to ...string) string {
	latest := "{}"
	if pid != "" {
		latest = fmt.Sprintf(`{"pid":{"value":%q},"host_node_id":{"value":"%s;<host>"}}`, pid, host)
	}
	list, _ := json.Marshal(to)
	return fmt.Sprintf(`%q:{"latest":%s,"adjacency":%s}`, id, latest, list)
}

// bomb is gzip that becomes as many megabytes of nothing.
func bomb(megabytes int) []byte { return bytes.Repeat(packed(make([]byte, 1<<20)), megabytes) }

func packed(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(b)
	_ = z.Close()
	return out.Bytes()
}

// drawn lists the edges of the estate.
func drawn(m *Monitor) []string {
	m.estate.Flush(time.Now().UnixMilli(), func(estate.Changes) {})
	var out []string
	m.estate.Read(func(r *estate.Reader) {
		r.Edges(func(e *estate.Edge) bool {
			out = append(out, fmt.Sprintf("%s > %s :%d x%d", e.Src.ID, e.Dst.ID, e.Port, e.Conns))
			return true
		})
	})
	slices.Sort(out)
	return out
}

func (m *Monitor) count() (n int) {
	m.estate.Read(func(r *estate.Reader) {
		for _, c := range r.Counts() {
			n += c
		}
	})
	return n
}

func TestScopeRoutesTakeProbesOnly(t *testing.T) {
	t.Parallel()
	m, mux := scopeMonitor(t, "token", nil)
	if _, err := m.accounts.putUser("eve", "admin", "correct horse"); err != nil {
		t.Fatal(err)
	}
	cookie, csrf := m.testSession(RoleAdmin)
	walked := 0
	everyRequest(t, mux, func(pattern string, r *http.Request) {
		if !strings.HasPrefix(strings.TrimLeft(pattern, "GETPOSDL "), "/api") || !strings.Contains(ownRule[pattern], "probes'") || pattern == "GET /api/v1/probe" {
			return
		}
		walked++
		r.Header.Set("X-Scope-Probe-ID", "p1")
		try := func(what string, want int, change func(*http.Request)) {
			t.Helper()
			x := r.Clone(t.Context())
			change(x)
			if got := answer(mux, x); got != want {
				t.Errorf("%s for %s: %d, want %d", pattern, what, got, want)
			}
		}
		header := func(v string) func(*http.Request) {
			return func(x *http.Request) { x.Header.Set("Authorization", v) }
		}
		viewer := http.StatusForbidden
		session := http.StatusUnauthorized
		if pattern == "GET /api" {
			viewer, session = http.StatusOK, http.StatusOK
		}
		try("nobody", http.StatusUnauthorized, func(*http.Request) {})
		try("an empty token", http.StatusUnauthorized, header("Scope-Probe token="))
		try("a wrong token", http.StatusUnauthorized, header("Scope-Probe token=omt_wrong"))
		try("a person's token as a probe's", http.StatusForbidden, header("Scope-Probe token=omt_admin"))
		try("another scheme", http.StatusUnauthorized, header("Basic b210X3Byb2JlOg=="))
		try("a person's token", viewer, header("Bearer omt_admin"))
		try("a session", session, func(x *http.Request) { x.AddCookie(cookie); x.Header.Set("X-CSRF-Token", csrf) })
		try("a page of another site", http.StatusForbidden, func(x *http.Request) {
			header("Scope-Probe token=omt_probe")(x)
			x.Header.Set("Origin", "https://evil.example")
		})
		// A probe itself gets further: to what its empty request deserves.
		x := r.Clone(t.Context())
		header("Scope-Probe token=omt_probe")(x)
		if got := answer(mux, x); got == http.StatusUnauthorized || got == http.StatusForbidden {
			t.Errorf("%s for a probe: %d", pattern, got)
		}
	})
	if walked != 5 {
		t.Errorf("%d routes were walked", walked)
	}
	if n := m.count(); n != 0 {
		t.Errorf("%d entities have come of it", n)
	}
}

func TestScopeRoutesAreNotThereUnlessAskedFor(t *testing.T) {
	t.Parallel()
	m, mux := scopeMonitor(t, "", nil)
	for _, x := range []string{"POST /api/report", "GET /api/control/ws", "GET /api/pipe/x/probe", "DELETE /api/pipe/x"} {
		method, path, _ := strings.Cut(x, " ")
		r := httptest.NewRequestWithContext(t.Context(), method, "http://monitor:4040"+path, bytes.NewReader(scopeHost("vm1", "10.0.0.1", nil, "")))
		r.Header.Set("Authorization", "Scope-Probe token=omt_probe")
		r.Header.Set("Content-Type", "application/json")
		if got := answer(mux, r); got != http.StatusNotFound {
			t.Errorf("%s: %d", x, got)
		}
	}
	if m.count() != 0 || slices.ContainsFunc(mux.patterns, func(p string) bool { return strings.Contains(p, "/api/report") }) {
		t.Error("it is there")
	}
}

func TestOpenAsksForNoToken(t *testing.T) {
	t.Parallel()
	m, mux := scopeMonitor(t, "open", nil)
	stranger := func(r *http.Request) { r.Header.Del("Authorization") }
	if w := post(t, mux, scopeHost("vm1", "10.0.0.1", nil, ""), stranger); w.Code != http.StatusOK || m.count() != 1 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// But no page of another site.
	w := post(t, mux, scopeHost("vm2", "10.0.0.2", nil, ""), func(r *http.Request) { stranger(r); r.Header.Set("Origin", "https://evil.example") })
	if w.Code != http.StatusForbidden || m.count() != 1 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestBadReports: whatever comes, the answer is clear, nothing is changed, and the next good report is taken.
func TestBadReports(t *testing.T) {
	t.Parallel()
	m, mux := scopeMonitor(t, "token", nil)
	good := scopeHost("vm1", "10.0.0.1", nil, "")
	header := func(k, v string) func(*http.Request) { return func(r *http.Request) { r.Header.Set(k, v) } }
	gz := header("Content-Encoding", "gzip")
	both := func(fs ...func(*http.Request)) func(*http.Request) {
		return func(r *http.Request) {
			for _, f := range fs {
				f(r)
			}
		}
	}
	msgpack := header("Content-Type", "application/msgpack")
	var many strings.Builder
	many.WriteString(`{"Process":{"nodes":{`)
	for i := range 200_000 {
		fmt.Fprintf(&many, `"h;%d":{},`, i)
	}
	many.WriteString(`"h;x":{}}}}`)
	for name, x := range map[string]struct {
		body   []byte
		change func(*http.Request)
		status int
		says   string
	}{
		"a bomb":                 {bomb(2000), gz, 413, "larger than"},
		"a larger one":           {append(bomb(topology.MaxFrame>>20), packed([]byte{0})...), gz, 413, "larger than"},
		"plainly too large":      {bytes.Repeat([]byte(" "), maxReport+1), nil, 413, "larger than"},
		"claims to be too large": {good, func(r *http.Request) { r.ContentLength = 1 << 40 }, 413, "larger than"},
		"no end in sight": {nil, func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(io.LimitReader(zeros{}, 1<<40)), -1
		}, 413, "larger than"},
		"a million nodes":        {append([]byte{0x81, 0xa7, 'P', 'r', 'o', 'c', 'e', 's', 's', 0x81, 0xa5, 'n', 'o', 'd', 'e', 's', 0xdf, 0, 0x0f, 0x42, 0x40}, bytes.Repeat([]byte{0xa1, 'x', 0xc0}, 1_000_000)...), msgpack, 413, "nodes"},
		"many nodes":             {packed([]byte(many.String())), gz, 413, "nodes"},
		"deep":                   {packed([]byte(`{"x":` + strings.Repeat("[", 1_000_000))), gz, 413, "depth"},
		"deep, msgpack":          {append([]byte{0x81, 0xa1, 'x'}, bytes.Repeat([]byte{0x91}, 1_000_000)...), msgpack, 413, "depth"},
		"a very long name":       {[]byte(`{"Host":{"nodes":{"` + strings.Repeat("x", 70_000) + `":{}}}}`), nil, 413, "text"},
		"truncated":              {good[:len(good)/2], nil, 400, "can't be read"},
		"truncated msgpack":      {[]byte{0x82, 0xa4, 'H', 'o', 's', 't'}, msgpack, 400, "can't be read"},
		"truncated gzip":         {packed(good)[:20], gz, 400, "not the gzip"},
		"random bytes":           {[]byte("\x93\x17\xff\x00\xc1\xaa\x81"), msgpack, 400, "can't be read"},
		"random bytes, gzip":     {[]byte("\x93\x17\xff\x00\xc1\xaa\x81"), both(msgpack, gz), 400, "not the gzip"},
		"JSON that says msgpack": {good, msgpack, 400, "can't be read"},
		"nothing":                {nil, nil, 400, "can't be read"},
		"nothing in it":          {[]byte(`{}`), nil, 400, "no topology"},
		"another type":           {good, header("Content-Type", "text/plain"), 400, "Content-Type"},
		"another encoding":       {good, header("Content-Encoding", "br"), 400, "Content-Encoding"},
		"no name, no host":       {[]byte(`{"Process":{"nodes":{}}}`), func(r *http.Request) { r.Header.Del("X-Scope-Probe-ID") }, 400, "X-Scope-Probe-ID"},
		"a name with an escape":  {good, header("X-Scope-Probe-ID", "\u202e"), 400, "X-Scope-Probe-ID"},
		"a long name":            {good, header("X-Scope-Probe-ID", strings.Repeat("x", 300)), 400, "X-Scope-Probe-ID"},
		"a wrong token":          {good, header("Authorization", "Scope-Probe token=omt_probe2"), 401, "not known"},
	} {
		t.Run(name, func(t *testing.T) {
			w := post(t, mux, x.body, x.change)
			if w.Code != x.status || !strings.Contains(w.Body.String(), x.says) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	if out, err := unpack(bomb(100)); err == nil || len(out) > topology.MaxFrame+1 {
		t.Errorf("%d bytes of a bomb are unpacked: %v", len(out), err)
	}
	if n := m.count(); n != 0 || len(m.probes.list()) != 0 {
		t.Errorf("%d entities and %d probes have come of it", n, len(m.probes.list()))
	}
	if !m.scope.budget.TryAcquire(reportBudget) {
		t.Error("a refused report holds some of what all share")
	}
	m.scope.budget.Release(reportBudget)
	for _, x := range []struct {
		body   []byte
		change func(*http.Request)
	}{{good, nil}, {packed(good), gz}, {good, func(r *http.Request) { r.Header.Del("X-Scope-Probe-ID") }}, {good, header("Content-Type", "application/json; charset=utf-8")}} {
		if w := post(t, mux, x.body, x.change); w.Code != http.StatusOK {
			t.Errorf("a good one after them: %d %s", w.Code, w.Body)
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// TestScopeHostsJoin: who talks to whom is drawn once and whole between two of Scope's hosts, and between one of Scope's and one of
// ours, from whichever side it was seen; an address that means something else on every host leads to no other host.
func TestScopeHostsJoin(t *testing.T) {
	t.Parallel()
	m, mux := scopeMonitor(t, "token", nil)
	// vm1's curl asks vm2's nginx; both probes see it. vm1's redis is asked by vm3, which has a probe of ours, and its curl asks vm3's
	// mysql. Each has something on loopback, at the same port.
	vm1 := scopeHost("vm1", "10.0.0.1", map[string]string{"10": "/usr/bin/curl", "11": "redis"}, strings.Join([]string{
		scopeEnd("vm1", ";10.0.0.1;40001", "10", ";10.0.0.2;80"), scopeEnd("vm1", ";10.0.0.2;80", ""),
		scopeEnd("vm1", ";10.0.0.3;50001", "", ";10.0.0.1;6379"), scopeEnd("vm1", ";10.0.0.1;6379", "11"),
		scopeEnd("vm1", ";10.0.0.1;40002", "10", ";10.0.0.3;3306"), scopeEnd("vm1", ";10.0.0.3;3306", ""),
		scopeEnd("vm1", "vm1-1;127.0.0.1;40003", "10", "vm1-1;127.0.0.1;9000"), scopeEnd("vm1", "vm1-1;127.0.0.1;9000", ""),
	}, ","))
	vm2 := scopeHost("vm2", "10.0.0.2", map[string]string{"20": "nginx", "21": "other"}, strings.Join([]string{
		scopeEnd("vm2", ";10.0.0.1;40001", "", ";10.0.0.2;80"), scopeEnd("vm2", ";10.0.0.2;80", "20"),
		scopeEnd("vm2", "vm2-1;127.0.0.1;9000", "21"),
	}, ","))
	for name, body := range map[string][]byte{"p1": vm1, "p2": vm2} {
		if w := post(t, mux, body, from(name)); w.Code != http.StatusOK {
			t.Fatal(w.Code, w.Body)
		}
	}
	native := &probev1.Frame{Hello: &probev1.Hello{ProbeId: "vm3", Instance: "i", Hostname: "vm3"}}
	if _, _, err := m.probes.attach(native); err != nil {
		t.Fatal(err)
	}
	entity := func(ref uint32, id, kind string, parents ...string) *probev1.Entity {
		return &probev1.Entity{Ref: ref, Id: id, Kind: kind, Label: id, Parents: parents}
	}
	host := entity(1, "host;vm3", "host")
	host.Attrs = []*probev1.Attr{{Key: topology.AttrAddrs, Value: "10.0.0.3"}}
	m.estate.Apply("vm3", &probev1.Delta{
		Seq: 1, Snapshot: true,
		Entities:  []*probev1.Entity{host, entity(2, "process;vm3;30;1", "process", "host;vm3"), entity(3, "process;vm3;31;1", "process", "host;vm3")},
		Edges:     []*probev1.Edge{{Ref: 1, Src: 2, RemoteAddr: []byte{10, 0, 0, 1}, Port: 6379, Conns: 1, Seen: 1}, {Ref: 2, Dst: 3, RemoteAddr: []byte{10, 0, 0, 1}, Port: 3306, Conns: 1, Seen: 2}},
		Listeners: []*probev1.Listener{{Ref: 1, Entity: 3, Port: 3306}},
	}, time.Now().UnixMilli())
	want := []string{
		"process;vm1;10;0 > host;vm1 :9000 x1",
		"process;vm1;10;0 > process;vm2;20;0 :80 x1",
		"process;vm1;10;0 > process;vm3;31;1 :3306 x1",
		"process;vm3;30;1 > process;vm1;11;0 :6379 x1",
	}
	if got := drawn(m); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestAScopeProbeGivesWayToOurs: while a probe of ours sees a host, what Scope's tells of the same is not drawn a second time.
func TestAScopeProbeGivesWayToOurs(t *testing.T) {
	t.Parallel()
	m, mux := scopeMonitor(t, "token", nil)
	send := func() string {
		t.Helper()
		if w := post(t, mux, scopeHost("vm1", "10.0.0.1", map[string]string{"10": "curl"}, ""), nil); w.Code != http.StatusOK {
			t.Fatal(w.Code, w.Body)
		}
		p := m.probes.get("scope:p1")
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.status.Collectors[0].State
	}
	if got := send(); got != "ok" || m.count() != 2 {
		t.Errorf("%s, %d", got, m.count())
	}
	p, _, err := m.probes.attach(&probev1.Frame{Hello: &probev1.Hello{ProbeId: "vm1", Instance: "i", Hostname: "vm1"}})
	if err != nil {
		t.Fatal(err)
	}
	m.estate.Apply("vm1", &probev1.Delta{Seq: 1, Snapshot: true, Entities: []*probev1.Entity{{Ref: 1, Id: "host;vm1", Kind: "host", Label: "ours"}}}, 1)
	send()
	if got := send(); got != "off" || m.count() != 1 {
		t.Errorf("%s, %d entities", got, m.count())
	}
	m.probes.detach(p, p.epoch)
	send()
	if got := send(); got != "ok" || m.count() != 2 {
		t.Errorf("%s, %d entities", got, m.count())
	}
}

// TestASilentScopeProbeVanishes: it is stale after 10 seconds, lost after 15, and gone from the map a minute later, as ours are.
func TestASilentScopeProbeVanishes(t *testing.T) {
	t.Parallel()
	m, mux := scopeMonitor(t, "token", nil)
	if w := post(t, mux, scopeHost("vm1", "10.0.0.1", nil, ""), nil); w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	p := m.probes.get("scope:p1")
	state := func() string {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.state
	}
	p.mu.Lock()
	last := p.last
	p.mu.Unlock()
	if m.probes.sweep(last.Add(9 * time.Second)); state() != "connected" {
		t.Error(state())
	}
	if m.probes.sweep(last.Add(11 * time.Second)); state() != "stale" {
		t.Error(state())
	}
	// It comes back, and it is as before.
	if post(t, mux, scopeHost("vm1", "10.0.0.1", nil, ""), nil); state() != "connected" {
		t.Error(state())
	}
	m.probes.detach(p, p.epoch) // what its sender does when nothing has come for report.Window
	if m.probes.sweep(time.Now().Add(forgetAfter - 5*time.Second)); state() != "lost" || m.count() != 1 {
		t.Error(state(), m.count())
	}
	if m.probes.sweep(time.Now().Add(forgetAfter + 5*time.Second)); m.count() != 0 || m.probes.get("scope:p1") != nil {
		t.Error(state(), m.count())
	}
}

func TestScopeDetails(t *testing.T) {
	t.Parallel()
	m, mux := scopeMonitor(t, "token", func(c *Config) { c.ReplicaID = "m1" })
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://monitor:4040/api", nil)
	r.Header.Set("Authorization", "Scope-Probe token=omt_probe")
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	var d struct {
		ID, Version, Hostname string
		Capabilities          map[string]bool
	}
	if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || d.ID != m.scope.id || d.Version == "" || d.Hostname != "m1" || d.Capabilities == nil {
		t.Errorf("%s %v", w.Body, err)
	}
}
