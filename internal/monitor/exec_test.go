package monitor

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/orchestrator/orchestrator/internal/monitor/console"
)

// A picture on a page of another site makes a browser send a plain GET, without an Origin. It must not run anything: not where there is a login,
// nor where there is none.
func TestAPlainRequestRunsNothing(t *testing.T) {
	t.Parallel()
	for _, auth := range []string{"on", "off"} {
		m, err := New(Config{Listen: "127.0.0.1:0", Auth: auth, AdminToken: "omt_admin"}, Deps{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.listener.Close(); m.audit.close() })
		mux := m.routes(console.Handler())
		p := m.fake(t, "vm1")
		for _, path := range []string{"/api/v1/exec?id=container%3Bvm1%3Bweb&cmd=rm&cmd=-rf&cmd=/", "/api/v1/logs?id=container%3Bvm1%3Bweb", "/api/v1/live"} {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:4040"+path, nil)
			r.Header.Set("Sec-Fetch-Site", "cross-site")
			r.Header.Set("Sec-Fetch-Mode", "no-cors")
			if auth == "on" { // who sends it knows a token, but not how to open a socket
				r.Header.Set("Authorization", "Bearer omt_admin")
			}
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, r)
			if w.Code != http.StatusBadRequest || w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("auth %s: %s: %d %s", auth, path, w.Code, w.Body)
			}
		}
		if got := p.asked(); len(got) > 0 {
			t.Errorf("auth %s: the probe was asked for %v", auth, got)
		}
		if n := len(m.terms.byID); n > 0 {
			t.Errorf("auth %s: %d terminals are open", auth, n)
		}
	}
}
