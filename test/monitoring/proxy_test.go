package monitoring

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/orchestrator/orchestrator/internal/monitor"
)

// fakeComponent stands for a master, a Marathon, an agent or a replication engine: it notes what reaches it.
type fakeComponent struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string
}

func newFakeComponent(t *testing.T, answer func(w http.ResponseWriter, r *http.Request) bool) *fakeComponent {
	f := &fakeComponent{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		f.mu.Lock()
		f.seen = append(f.seen, r.Method+" "+r.URL.RequestURI()+" "+string(body))
		f.mu.Unlock()
		for _, h := range []string{"Authorization", "Cookie", "X-CSRF-Token", "Origin"} {
			if r.Header.Get(h) != "" {
				t.Errorf("%s reached the component", h)
			}
		}
		if answer != nil && answer(w, r) {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Set-Cookie", "evil=1")
		w.Header().Set("Access-Control-Allow-Origin", "*")
		_, _ = io.WriteString(w, `{"ok":true}`)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeComponent) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.seen...)
}

func TestProxyPassesOnWhatTheRoleMay(t *testing.T) {
	t.Parallel()
	agent := newFakeComponent(t, nil)
	leader := newFakeComponent(t, func(w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case "/slaves":
			_, _ = io.WriteString(w, `{"slaves":[{"id":"S 0","pid":"slave(1)@`+strings.TrimPrefix(agent.URL, "http://")+`"}]}`)
		case "/page":
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<script>alert(1)</script>")
		default:
			return false
		}
		return true
	})
	// A master that does not lead sends elsewhere, as Mesos' do.
	follower := newFakeComponent(t, func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, leader.URL+r.URL.RequestURI(), http.StatusTemporaryRedirect)
		return true
	})
	marathon := newFakeComponent(t, nil)
	engine := newFakeComponent(t, nil)
	r := newRig(t, func(c *monitor.Config) { c.Master, c.Marathon, c.ZkSync = follower.URL, marathon.URL, engine.URL })
	viewer, operator := r.token("viewer"), r.token("operator")
	for _, x := range []struct {
		method, path, token, body string
		status                    int
	}{
		{"GET", "master/state-summary", viewer, "", 200},
		{"GET", "master/state-summary", "", "", 401},
		{"GET", "master/flags", viewer, "", 403},
		{"GET", "master/flags", operator, "", 200},
		// Mesos takes what lies below an endpoint, and slashes however many, for the endpoint.
		{"GET", "master/flags/", viewer, "", 403},
		{"GET", "master/master/flags/x", viewer, "", 403},
		{"GET", "master/master/%2Fflags", viewer, "", 403},
		{"GET", "master/flagship", viewer, "", 200},
		{"GET", "master/master/files/read?path=/master/log", viewer, "", 403},
		{"GET", "master/logging/toggle?level=3&duration=1hrs", operator, "", 403},
		{"POST", "master/api/v1", viewer, `{"type":"DRAIN_AGENT"}`, 403},
		{"POST", "master/api/v1", operator, `{"type":"DRAIN_AGENT"}`, 200},
		{"POST", "master/api/v1/scheduler", operator, `{"type":"SUBSCRIBE"}`, 403},
		{"POST", "master/api/v1/../v1/scheduler", operator, "", 403},
		{"POST", "master/api/v1/%2e%2e/v1/scheduler", operator, "", 400},
		{"POST", "master/quota", operator, "", 403},
		{"GET", "marathon/v2/apps?embed=apps.tasks", viewer, "", 200},
		{"PUT", "marathon/v2/apps/web", viewer, `{"instances":2}`, 403},
		{"PUT", "marathon/v2/apps/web", operator, `{"instances":2}`, 200},
		{"DELETE", "marathon/v2/apps/web", operator, "", 200},
		{"POST", "marathon/ping", operator, "", 403},
		{"GET", "agent/S%200/files/read?path=/x/stdout&offset=0", viewer, "", 200},
		{"GET", "agent/S%200/files/read?path=/x/secret", viewer, "", 403},
		// Of two paths Mesos reads the last, and it separates by semicolons too.
		{"GET", "agent/S%200/files/read?path=/x/stdout&path=/x/secret", viewer, "", 400},
		{"GET", "agent/S%200/files/read?path=/x/stdout&n=1;path=/x/secret", viewer, "", 400},
		{"GET", "agent/S%200/files/browse?path=/x", viewer, "", 403},
		{"GET", "agent/S%200/files/browse?path=/x", operator, "", 200},
		{"GET", "agent/S%200/flags", operator, "", 403},
		{"POST", "agent/S%200/api/v1", operator, `{"type":"LAUNCH_NESTED_CONTAINER"}`, 403},
		{"GET", "agent/other/files/browse?path=/x", operator, "", 404},
		{"GET", "zksync/api/v1/sync/status", viewer, "", 200},
		{"POST", "zksync/api/v1/sync/homes", operator, "{}", 403},
		{"GET", "etcd/v3", operator, "", 404},
		{"GET", "master/page", viewer, "", 200},
	} {
		a := r.call(x.method, "/api/v1/proxy/"+x.path, x.token, x.body)
		if a.status != x.status {
			t.Errorf("%s %s: %d %.200s, want %d", x.method, x.path, a.status, a.body, x.status)
		}
		if a.header.Get("Set-Cookie") != "" || a.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: headers of the component: %v", x.path, a.header)
		}
		if strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: a page of the component is served under this origin", x.path)
		}
	}
	want := func(f *fakeComponent, text string) {
		t.Helper()
		for _, s := range f.requests() {
			if strings.HasPrefix(s, text) {
				return
			}
		}
		t.Errorf("%q has not arrived: %q", text, f.requests())
	}
	want(leader, `POST /api/v1 {"type":"DRAIN_AGENT"}`) // sent again to whoever leads, with its body
	want(agent, "GET /files/read?path=/x/stdout&offset=0")
	want(marathon, `PUT /v2/apps/web {"instances":2}`)
	for _, s := range agent.requests() {
		if strings.Contains(s, "secret") || strings.HasPrefix(s, "POST") {
			t.Errorf("it reached the agent: %s", s)
		}
	}
	var log struct {
		Entries []struct{ User, Action, Object, Outcome string }
	}
	r.get("/api/v1/audit?limit=100", &log)
	text, _ := json.Marshal(log)
	for _, line := range []string{`"Action":"proxy.marathon","Object":"PUT /v2/apps/web","Outcome":"ok"`, `"Action":"proxy.marathon","Object":"PUT /v2/apps/web","Outcome":"denied"`, `"Action":"proxy.master","Object":"POST /api/v1/scheduler","Outcome":"denied"`, `"Action":"proxy.agent","Object":"GET /files/browse","Outcome":"ok"`} {
		if !strings.Contains(string(text), line) {
			t.Errorf("not in the audit log: %s\n%s", line, text)
		}
	}
	// With a cookie, a change needs the CSRF token.
	if a := r.call("PUT", "/api/v1/users/ana", adminToken, `{"role":"operator","password":"correct horse"}`); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	login := r.call("POST", "/api/v1/login", "", `{"user":"ana","password":"correct horse"}`)
	var session struct{ CSRF string }
	login.into(t, &session)
	cookie := strings.Split(login.header.Get("Set-Cookie"), ";")[0]
	if a := r.call("DELETE", "/api/v1/proxy/marathon/v2/apps/web", "", "", "Cookie", cookie); a.status != 403 {
		t.Errorf("without the CSRF token: %d", a.status)
	}
	if a := r.call("DELETE", "/api/v1/proxy/marathon/v2/apps/web", "", "", "Cookie", cookie, "X-CSRF-Token", session.CSRF); a.status != 200 {
		t.Errorf("with the CSRF token: %d", a.status)
	}
	if a := r.call("GET", "/api/v1/proxy/marathon/v2/apps", "", "", "Cookie", cookie, "Origin", "http://evil.example"); a.status != 403 {
		t.Errorf("from another site: %d", a.status)
	}
	marathon.Close()
	if a := r.call("GET", "/api/v1/proxy/marathon/v2/apps", viewer, ""); a.status != 502 || !strings.Contains(string(a.body), `"bad_gateway"`) {
		t.Errorf("a component that is gone: %d %s", a.status, a.body)
	}
}

// TestAChangeThatIsCutOffIsAudited: whoever sends a change and leaves before the answer has come whole, or whose component breaks off, is in the audit log.
func TestAChangeThatIsCutOffIsAudited(t *testing.T) {
	t.Parallel()
	marathon := newFakeComponent(t, func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, `{"version":`)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	r := newRig(t, func(c *monitor.Config) { c.Marathon = marathon.URL })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, r.url+"/api/v1/proxy/marathon/v2/apps/shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	if resp, err := http.DefaultClient.Do(req); err == nil {
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("half an answer is taken for a whole one")
		}
		resp.Body.Close()
	}
	r.eventually("it is in the audit log", func() bool {
		var log struct {
			Entries []struct{ Action, Object, Outcome string }
		}
		r.get("/api/v1/audit?limit=100", &log)
		for _, e := range log.Entries {
			if e.Action == "proxy.marathon" && e.Object == "DELETE /v2/apps/shop" && e.Outcome == "ok" {
				return true
			}
		}
		return false
	})
}

func TestConsoleIsServed(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	page := r.call("GET", "/map", "", "")
	if page.status != 200 || !strings.Contains(string(page.body), `<div id="root">`) {
		t.Fatalf("%d %.300s", page.status, page.body)
	}
	// Nothing is loaded from elsewhere.
	if csp := page.header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(string(page.body), "//cdn") || strings.Contains(string(page.body), "https://") {
		t.Errorf("%s\n%s", csp, page.body)
	}
	_, rest, _ := strings.Cut(string(page.body), `src="/assets/`)
	script, _, ok := strings.Cut(rest, `"`)
	if !ok {
		t.Fatalf("no script: %s", page.body)
	}
	a := r.call("GET", "/assets/"+script, "", "", "Accept-Encoding", "gzip")
	if a.status != 200 || a.header.Get("Content-Encoding") != "gzip" || !strings.Contains(a.header.Get("Cache-Control"), "immutable") || !strings.HasPrefix(a.header.Get("Content-Type"), "text/javascript") {
		t.Errorf("%d %v", a.status, a.header)
	}
	if a := r.call("GET", "/assets/none.js", "", ""); a.status != 404 {
		t.Errorf("%d", a.status)
	}
}
