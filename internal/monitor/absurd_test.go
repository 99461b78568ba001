package monitor

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
)

// What can't be meant is refused with words that say what is wrong, and changes nothing: a mistyped dry_run stops nothing, a mistyped ttl_seconds makes no token for ever.
func TestAbsurdRequestsAreRefused(t *testing.T) {
	t.Parallel()
	m, mux := routesUnderTest(t)
	p := m.fake(t, "vm1")
	p.mu.Lock()
	p.answer = func(r *probev1.Request) {
		if r.Pipe != 0 {
			p.conn.mux.Handle(&probev1.Pipe{Id: r.Pipe, Eof: true})
		}
		p.conn.answer(&probev1.Response{Id: r.Id, Body: []byte("{}")})
	}
	p.mu.Unlock()
	const web = "/api/v1/nodes/container%3Bvm1%3Bweb"
	socket := map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
	for _, x := range []struct{ method, path, body, says string }{
		{"POST", "/api/v1/controls", `{"control":"stop","ids":["container;vm1;web"],"dryRun":true}`, "dryRun"},
		{"POST", "/api/v1/controls", `{"control":"stop","ids":["container;vm1;web"]} {"dry_run":true}`, "more than one"},
		{"POST", "/api/v1/controls", `{"control":"stop","ids":["container;vm1;web"],"dry_run":"yes"}`, "dry_run"},
		{"POST", web + "/controls/stop", `{"arg":{"timeout":300}}`, "arg"},
		{"POST", web + "/controls/stop", `{"args":{"timeout":[1]}}`, "timeout"},
		{"POST", "/api/v1/tokens", `{"name":"x","role":"viewer","ttl":60}`, "ttl"},
		{"POST", "/api/v1/tokens", `{"name":"x","role":"viewer","ttl_seconds":-1}`, "ttl_seconds"},
		{"POST", "/api/v1/tokens", `{"name":"x","role":"viewer","ttl_seconds":1e99}`, "ttl_seconds"},
		{"PUT", "/api/v1/users/eve", `{"role":"viewer","passwd":"correct horse"}`, "passwd"},
		{"POST", "/api/v1/saved", `{"name":"x","view":"containers","options":5}`, "options"},
		{"POST", "/api/v1/saved", `{"name":"x","view":"containers","options":"all"}`, "options"},
		{"POST", "/api/v1/saved", `{"name":"x","view":"nothing"}`, "no such view"},
		{"POST", "/api/v1/login", `{"user":"eve","pass":"x"}`, "pass"},
		{"GET", "/api/v1/topology?hops=-1", "", "hops"},
		{"GET", "/api/v1/topology?hops=99999999999999999999", "", "hops"},
		{"GET", "/api/v1/topology?opt.state=asleep", "", "state"},
		{"GET", "/api/v1/topology?at=noon", "", "at"},
		{"GET", "/api/v1/events?limit=0", "", "limit"},
		{"GET", "/api/v1/events?before=-1", "", "before"},
		{"GET", "/api/v1/search?q=(", "", "column"},
		{"GET", web + "/series?step=1", "", "step"},
		{"GET", web + "/logs?since=yesterday", "", "since"},
		{"GET", web + "/logs?until=-1", "", "until"},
		{"GET", web + "/logs?tail=all", "", "tail"},
		{"GET", web + "/logs?stream=stdin", "", "stream"},
		{"GET", "/api/v1/logs?id=container%3Bvm1%3Bweb&since=yesterday", "", "since"},
		{"GET", "/api/v1/logs?id=container%3Bvm1%3Bweb&stream=stdin", "", "stream"},
		{"GET", "/api/v1/logs?id=container%3Bvm1%3Bweb&follow=perhaps", "", "follow"},
		{"GET", "/api/v1/logs?id=container%3Bvm1%3Bweb&after=stdout%3D1-2&after=", "", "each id"},
		{"GET", "/api/v1/logs?id=container%3Bvm1%3Bweb&after=stdout%3D..%2F..", "", "no place"},
		{"GET", web + "/file?path=/etc/hosts&offset=-1", "", "offset"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), x.method, "http://monitor:4040"+x.path, strings.NewReader(x.body))
		r.Header.Set("Authorization", "Bearer omt_admin")
		if strings.HasPrefix(x.path, "/api/v1/logs") {
			for k, v := range socket {
				r.Header.Set(k, v)
			}
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		var got struct{ Error apiError }
		if w.Code != http.StatusBadRequest && w.Code != http.StatusNotFound || json.Unmarshal(w.Body.Bytes(), &got) != nil || !strings.Contains(got.Error.Message, x.says) {
			t.Errorf("%s %s %s: %d %s", x.method, x.path, x.body, w.Code, w.Body)
		}
	}
	if got := p.asked(); len(got) > 0 {
		t.Errorf("the probe was asked for %v", got)
	}
	if n := len(m.accounts.tokens()) + len(m.accounts.users()) + len(m.accounts.saved("link")); n > 0 {
		t.Errorf("%d things were made", n)
	}
}
