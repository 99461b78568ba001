package monitor

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/monitor/console"
)

// Who logs out is out with every copy of the cookie, with what the session has open and with what was handed over of it, also after a restart; other sessions of
// the same user go on.
func TestALogoutEndsTheSession(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, err := openAccounts(dir, time.Now)
	check(t, err)
	put(t, a, "eve", "admin")
	m, _ := routesUnderTest(t)
	m.accounts = a
	mux := m.routes(console.Handler())
	cookie, csrf := m.testSession(RoleAdmin)
	other, _ := m.testSession(RoleAdmin)
	send := func(method, path string, c *http.Cookie) int {
		r := httptest.NewRequestWithContext(t.Context(), method, "http://monitor:4040"+path, nil)
		r.AddCookie(c)
		r.Header.Set("X-CSRF-Token", csrf)
		return answer(mux, r)
	}
	id, ok := a.unseal(cookie.Value)
	if !ok || send(http.MethodGet, "/api/v1/session", cookie) != http.StatusOK {
		t.Fatal("the session has not begun")
	}
	text, _ := a.handOver(id)
	ended := false
	defer a.whileStill(id, func() { ended = true })()
	if got := send(http.MethodPost, "/api/v1/logout", cookie); got != http.StatusNoContent {
		t.Fatalf("logout: %d", got)
	}
	if got := send(http.MethodGet, "/api/v1/session", cookie); got != http.StatusUnauthorized {
		t.Errorf("with a copy of the cookie: %d", got)
	}
	if !ended {
		t.Error("what it had open goes on")
	}
	if _, ok := a.takeOver(text); ok {
		t.Error("what was handed over of it is taken")
	}
	if got := send(http.MethodGet, "/api/v1/session", other); got != http.StatusOK {
		t.Errorf("another session: %d", got)
	}
	now := time.Now()
	again, err := openAccounts(dir, func() time.Time { return now })
	check(t, err)
	if _, ok := again.unseal(cookie.Value); ok {
		t.Error("after a restart it is good again")
	}
	// What has ended is remembered for as long as the cookie would be good, and no longer.
	now = now.Add(sessionLife + time.Minute)
	check(t, again.endSession(identity{cookie: true, csrf: "another", expMs: now.Add(time.Hour).UnixMilli()}))
	if n := len(again.data.Ended); n != 1 {
		t.Errorf("%d are remembered", n)
	}
}
