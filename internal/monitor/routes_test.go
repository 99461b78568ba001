package monitor

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/orchestrator/orchestrator/internal/monitor/console"
)

// open are the routes that answer anybody: they tell nothing of the estate and change nothing.
var open = []string{"/", "/api/", "GET /healthz", "GET /api/v1/openapi.json"}

// ownRule are routes that tell who asks in a way of their own.
var ownRule = map[string]string{
	"POST /api/v1/login": "makes the session",
	"GET /api/v1/probe":  "takes probes' tokens only",
	// Of Scope's probes, when they may send: TestScopeRoutesTakeProbesOnly.
	"GET /api":                 "takes probes' tokens and viewers",
	"POST /api/report":         "takes probes' tokens only",
	"GET /api/control/ws":      "takes probes' tokens only",
	"GET /api/pipe/{id}/probe": "takes probes' tokens only",
	"DELETE /api/pipe/{id}":    "takes probes' tokens only",
}

var placeholder = regexp.MustCompile(`\{[^}]*\}`)

// everyRequest calls each with a request of every route of the mux, with every method where the route takes all.
func everyRequest(t *testing.T, mux *router, each func(pattern string, r *http.Request)) {
	t.Helper()
	if len(mux.patterns) < 40 {
		t.Fatalf("only %d routes: this test would prove nothing", len(mux.patterns))
	}
	for _, pattern := range mux.patterns {
		method, path, ok := strings.Cut(pattern, " ")
		methods := []string{method}
		if !ok {
			methods, path = []string{"GET", "POST", "PUT", "PATCH", "DELETE"}, pattern
		}
		if strings.HasSuffix(path, "/proxy/") {
			path += "master/state"
		}
		for _, m := range methods {
			r := httptest.NewRequestWithContext(t.Context(), m, "http://monitor:4040"+placeholder.ReplaceAllString(path, "x"), strings.NewReader("{}"))
			// As a browser opens a WebSocket, which any page may do to any address.
			if m == http.MethodGet {
				for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
					r.Header.Set(k, v)
				}
			}
			each(pattern, r)
		}
	}
}

func routesUnderTest(t *testing.T) (*Monitor, *router) {
	t.Helper()
	m, err := New(Config{Listen: "127.0.0.1:0", AdminToken: "omt_admin", ProbeToken: "omt_probe", ViewerLogs: true, Master: "http://127.0.0.1:1", ScopeAPI: true, ScopeProbes: "token"}, Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	m.accounts.cost = bcrypt.MinCost
	t.Cleanup(func() { m.listener.Close(); m.audit.close() })
	return m, m.routes(console.Handler())
}

// session logs somebody of a role in, as a browser holds it.
func (m *Monitor) testSession(role Role) (cookie *http.Cookie, csrf string) {
	id := m.accounts.byName("eve")
	id.role = role
	value, s := m.accounts.seal(id)
	return &http.Cookie{Name: sessionCookie, Value: value}, s.CSRF
}

func answer(mux http.Handler, r *http.Request) int {
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w.Code
}

// TestNoRouteServesAnotherSite walks the mux: a page of another site that makes an administrator's browser send any request,
// or open any socket, is refused, whether or not it has got hold of the CSRF token.
func TestNoRouteServesAnotherSite(t *testing.T) {
	t.Parallel()
	m, mux := routesUnderTest(t)
	if _, err := m.accounts.putUser("eve", "admin", "correct horse"); err != nil {
		t.Fatal(err)
	}
	everyRequest(t, mux, func(pattern string, r *http.Request) {
		if slices.Contains(open, pattern) {
			return
		}
		cookie, csrf := m.testSession(RoleAdmin) // of its own: one of the requests is a logout
		r.AddCookie(cookie)
		r.Header.Set("X-CSRF-Token", csrf)
		own := r.Clone(t.Context())
		r.Header.Set("Origin", "https://evil.example")
		if got := answer(mux, r); got != http.StatusForbidden {
			t.Errorf("%s %s from another site: %d", r.Method, pattern, got)
		}
		// The same from the console itself is not refused for its origin: the test would notice if all were.
		if ownRule[pattern] == "" {
			own.Header.Set("Origin", "http://monitor:4040")
			if got := answer(mux, own); got == http.StatusUnauthorized || got == http.StatusForbidden && !strings.Contains(pattern, "proxy") {
				t.Errorf("%s %s from the console: %d", own.Method, pattern, got)
			}
		}
	})
	// Without Origin, as forms of old browsers come: the CSRF token is missing.
	everyRequest(t, mux, func(pattern string, r *http.Request) {
		if slices.Contains(open, pattern) || r.Method == http.MethodGet || ownRule[pattern] != "" {
			return
		}
		cookie, _ := m.testSession(RoleAdmin)
		r.AddCookie(cookie)
		if got := answer(mux, r); got != http.StatusForbidden {
			t.Errorf("%s %s without a CSRF token: %d", r.Method, pattern, got)
		}
	})
}

// TestNoRouteServesNobody walks the mux: who has not logged in, or has a probe's token, gets nothing.
func TestNoRouteServesNobody(t *testing.T) {
	t.Parallel()
	_, mux := routesUnderTest(t)
	everyRequest(t, mux, func(pattern string, r *http.Request) {
		if slices.Contains(open, pattern) || ownRule[pattern] != "" {
			return
		}
		if got := answer(mux, r.Clone(t.Context())); got != http.StatusUnauthorized {
			t.Errorf("%s %s for nobody: %d", r.Method, pattern, got)
		}
		r.Header.Set("Authorization", "Bearer omt_probe")
		if got := answer(mux, r); got != http.StatusForbidden {
			t.Errorf("%s %s for a probe: %d", r.Method, pattern, got)
		}
	})
}

// TestAViewerActsNowhere walks the mux with a viewer: everything that is for operators and administrators is refused, a shell
// above all, and what was asked for is in the audit log.
func TestAViewerActsNowhere(t *testing.T) {
	t.Parallel()
	m, mux := routesUnderTest(t)
	if _, err := m.accounts.putUser("eve", "viewer", "correct horse"); err != nil {
		t.Fatal(err)
	}
	cookie, csrf := m.testSession(RoleViewer)
	// What a viewer may send: its own session and its own saved views.
	may := []string{"POST /api/v1/logout", "POST /api/v1/handover", "POST /api/v1/saved", "PUT /api/v1/saved/{id}", "DELETE /api/v1/saved/{id}"}
	may = append(may, m.scopeAPI.paths()...) // who sends anything but GET there is told that it does nothing
	least := map[string]Role{}
	for _, rt := range m.table() {
		least[rt.method+" "+rt.path] = rt.role
	}
	refused := 0
	everyRequest(t, mux, func(pattern string, r *http.Request) {
		acts := r.Method != http.MethodGet && !slices.Contains(may, pattern)
		if slices.Contains(open, pattern) || ownRule[pattern] != "" || !acts && least[pattern] <= RoleViewer {
			return
		}
		r.AddCookie(cookie)
		r.Header.Set("X-CSRF-Token", csrf)
		if got := answer(mux, r); got != http.StatusForbidden {
			t.Errorf("%s %s by a viewer: %d", r.Method, pattern, got)
		}
		refused++
	})
	if refused < 15 {
		t.Errorf("only %d routes were refused", refused)
	}
	shell := false
	entries := m.audit.before(1<<62, 500)
	for _, e := range entries {
		shell = shell || e.Action == "GET /api/v1/exec" && e.User == "eve" && e.Outcome == "denied"
	}
	if !shell {
		t.Errorf("nobody can see that a viewer asked for a shell: %+v", entries)
	}
}
