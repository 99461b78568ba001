package monitor

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// twins gives the accounts of two monitors that began with the same file, and a clock for both.
func twins(t *testing.T) (one, two *accounts, now *time.Time) {
	t.Helper()
	at := time.Now()
	clock := func() time.Time { return at }
	var err error
	a, b := t.TempDir(), t.TempDir()
	if one, err = openAccounts(a, clock); err != nil {
		t.Fatal(err)
	}
	one.cost = bcrypt.MinCost
	if _, err := one.putUser("vera", "viewer", "correct horse"); err != nil {
		t.Fatal(err)
	}
	for name, role := range map[string]string{"grafana": "operator", "t": "viewer"} {
		if _, _, err := one.newToken(name, role, "user", 0); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(a, "accounts.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b, "accounts.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if two, err = openAccounts(b, clock); err != nil {
		t.Fatal(err)
	}
	two.cost = bcrypt.MinCost
	return one, two, &at
}

// byToken is who comes by the token of a name.
func (a *accounts) byToken(name string) (id identity) {
	for _, t := range a.tokens() {
		if t.Name == name {
			role, _ := parseRole(t.Role)
			id = identity{name: "token:" + name, role: role, token: t.ID, expMs: t.ExpiresMs}
		}
	}
	return id
}

// byName is who comes by the password of a user.
func (a *accounts) byName(name string) identity {
	a.mu.Lock()
	defer a.mu.Unlock()
	u := a.data.Users[name]
	role, _ := parseRole(u.Role)
	return identity{name: name, role: role, epoch: u.Epoch}
}

// begun logs somebody in, and gives who that is by the cookie.
func begun(t *testing.T, a *accounts, id identity) identity {
	t.Helper()
	cookie, _ := a.seal(id)
	id, ok := a.unseal(cookie)
	if !ok {
		t.Fatal("a new session is not known")
	}
	return id
}

func TestASessionIsHandedOver(t *testing.T) {
	t.Parallel()
	one, two, now := twins(t)
	vera := begun(t, one, one.byName("vera"))
	text, _ := one.handOver(vera)
	*now = now.Add(9 * time.Minute)
	got, ok := two.takeOver(text)
	if !ok || got.name != "vera" || got.role != RoleViewer || got.expMs != vera.expMs {
		t.Fatalf("%+v %v", got, ok)
	}
	// The session that is made of it ends when the first one would have: nobody stays for ever by going to and fro.
	if again := begun(t, two, got); again.expMs != vera.expMs {
		t.Errorf("it ends %d ms later", again.expMs-vera.expMs)
	}
	if _, ok := two.takeOver(text); ok {
		t.Error("taken twice")
	}
	// Somebody who came by a token or by the link of the start has no user to look up.
	for _, who := range []identity{one.byToken("grafana"), {name: "link", role: RoleOperator}} {
		text, _ := one.handOver(begun(t, one, who))
		if got, ok := two.takeOver(text); !ok || got.name != who.name || got.role != RoleOperator || got.token != who.token {
			t.Errorf("%s: %+v %v", who.name, got, ok)
		}
	}
}

func TestWhatIsNoHandOver(t *testing.T) {
	t.Parallel()
	one, two, now := twins(t)
	stranger, err := openAccounts(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.putUser("vera", "admin", "correct horse"); err != nil {
		t.Fatal(err)
	}
	vera := begun(t, one, one.byName("vera"))
	text, _ := one.handOver(vera)
	cookie, _ := one.seal(vera)
	body, sig, _ := strings.Cut(text, ".")
	foreign, _ := stranger.handOver(begun(t, stranger, stranger.byName("vera")))
	for what, s := range map[string]string{
		"nothing": "", "a dot": ".", "no signature": body, "another body": "e30." + sig, "a cookie": cookie, "one of a monitor with another key": foreign, "one that is too long": text + strings.Repeat("x", 5000),
	} {
		if id, ok := two.takeOver(s); ok {
			t.Errorf("%s: %+v", what, id)
		}
	}
	if id, ok := two.unseal(text); ok {
		t.Errorf("a hand-over as a cookie: %+v", id)
	}
	// The user's role changes at the other monitor: sessions of before are void there, handed over or not.
	if _, err := two.putUser("vera", "viewer", "correct horse 2"); err != nil {
		t.Fatal(err)
	}
	if id, ok := two.takeOver(text); ok {
		t.Errorf("of a user who has changed: %+v", id)
	}
	old, until := one.handOver(begun(t, one, one.byToken("t")))
	*now = time.UnixMilli(until + 1)
	if id, ok := two.takeOver(old); ok {
		t.Errorf("out of date: %+v", id)
	}
	// It never outlives its session.
	late := identity{name: "link", role: RoleAdmin, cookie: true, expMs: now.Add(time.Minute).UnixMilli()}
	if _, until := one.handOver(late); until != late.expMs {
		t.Errorf("until %d, the session ends %d", until, late.expMs)
	}
	// What is remembered of those that were taken goes when they have run out.
	*now = now.Add(time.Hour)
	two.takeOver("")
	if len(two.spent) != 0 {
		t.Errorf("%d are remembered", len(two.spent))
	}
}

// TestHandOverOverHTTP has a browser's view of it: what is sent from elsewhere gets nothing, and no answer lets another origin read.
func TestHandOverOverHTTP(t *testing.T) {
	t.Parallel()
	m, err := New(Config{Listen: "127.0.0.1:0", AdminToken: "omt_admin", Replicas: []string{"https://m2:4040", "https://m3.example"}}, Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.listener.Close(); m.audit.close() })
	send := func(method, path, origin, body string, change func(*http.Request)) *httptest.ResponseRecorder {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), method, "http://monitor:4040"+path, strings.NewReader(body))
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		if change != nil {
			change(r)
		}
		w := httptest.NewRecorder()
		m.handler.ServeHTTP(w, r)
		for name := range w.Header() {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s lets other origins read: %v", path, w.Header()[name])
			}
		}
		return w
	}
	if _, err := m.accounts.putUser("eve", "viewer", "correct horse"); err != nil {
		t.Fatal(err)
	}
	cookie, csrf := m.testSession(RoleViewer)
	const own, replica, evil = "http://monitor:4040", "https://m2:4040", "https://evil.example"
	as := func(token string) func(*http.Request) {
		return func(r *http.Request) { r.AddCookie(cookie); r.Header.Set("X-CSRF-Token", token) }
	}
	for what, w := range map[string]*httptest.ResponseRecorder{
		"from elsewhere":          send("POST", "/api/v1/handover", evil, "", as(csrf)),
		"from a replica":          send("POST", "/api/v1/handover", replica, "", as(csrf)), // it may be asked whether it is there, and no more
		"without the CSRF token":  send("POST", "/api/v1/handover", own, "", as("")),
		"by nobody":               send("POST", "/api/v1/handover", own, "", nil),
		"by a token":              send("POST", "/api/v1/handover", own, "", func(r *http.Request) { r.Header.Set("Authorization", "Bearer omt_admin") }),
		"the state for a replica": send("GET", "/api/v1/status", replica, "", as(csrf)),
	} {
		if w.Code < 400 || strings.Contains(w.Body.String(), "handover") && strings.Contains(w.Body.String(), "expires_ms") {
			t.Errorf("%s: %d %s", what, w.Code, w.Body)
		}
	}
	w := send("POST", "/api/v1/handover", own, "", as(csrf))
	var made struct{ Handover string }
	if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code != http.StatusOK || made.Handover == "" {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	body := `{"handover":"` + made.Handover + `"}`
	for _, origin := range []string{evil, replica} { // a page elsewhere can't log a browser in here
		if w := send("POST", "/api/v1/login", origin, body, nil); w.Code != http.StatusForbidden || len(w.Result().Cookies()) != 0 {
			t.Errorf("login from %s: %d", origin, w.Code)
		}
	}
	w = send("POST", "/api/v1/login", own, body, nil)
	cookies := w.Result().Cookies()
	if w.Code != http.StatusOK || len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteStrictMode || !strings.Contains(w.Body.String(), `"viewer"`) {
		t.Fatalf("%d %s %v", w.Code, w.Body, cookies)
	}
	if w := send("POST", "/api/v1/login", own, body, nil); w.Code != http.StatusUnauthorized || !strings.Contains(w.Body.String(), "other monitor") {
		t.Errorf("a second time: %d %s", w.Code, w.Body)
	}
	if e := m.audit.before(1<<62, 10); len(e) < 2 || e[1].Detail == "" || e[1].User != "eve" || e[0].Outcome != "denied" {
		t.Errorf("the audit log: %+v", e)
	}
	// The page may reach exactly the replicas, and knows them.
	page := send("GET", "/map", "", "", nil)
	if policy := page.Header().Get("Content-Security-Policy"); !strings.Contains(policy, "; connect-src 'self' https://m2:4040 https://m3.example; ") {
		t.Error(policy)
	}
	status := send("GET", "/api/v1/status", own, "", as(csrf))
	if !strings.Contains(status.Body.String(), `"replicas":["https://m2:4040","https://m3.example"]`) || status.Header().Get("Cross-Origin-Resource-Policy") != "same-origin" {
		t.Errorf("%s %v", status.Body, status.Header())
	}
	if w := send("GET", "/healthz", replica, "", nil); w.Code != http.StatusOK || w.Header().Get("Cross-Origin-Resource-Policy") != "" {
		t.Errorf("a page of a replica asks whether this one is there: %d", w.Code)
	}
}

func TestReplicasAreOriginsAndNothingElse(t *testing.T) {
	t.Parallel()
	check := func(tls bool, origin string) error {
		c := Config{Listen: "0.0.0.0:4040", Auth: "on", Replicas: []string{origin}}
		if tls {
			c.CertFile, c.KeyFile = "c", "k"
		}
		return c.Validate()
	}
	for _, good := range []string{"https://m2:4040", "http://10.0.0.7:4040", "https://monitor-2.example.org", "http://localhost:4041"} {
		if err := check(false, good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "m2:4040", "https://m2:4040/", "https://m2:4040/x", "https://*.example", "https://m2; script-src *", "https://m2 https://evil.example", "https://m2,https://m3", "https://u:p@m2",
		"https://m2?x", "https://m2#x", "javascript:alert(1)", "https://[::1]:4040", "https://m2\n", "https://'self'", "ws://m2", "https://-m2", "https://m2:",
	} {
		if err := check(false, bad); err == nil || !strings.Contains(err.Error(), "replicas") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := check(true, "http://m2:4040"); err == nil || !strings.Contains(err.Error(), "TLS") {
		t.Errorf("from TLS to none: %v", err)
	}
	many := Config{Listen: "127.0.0.1:0", Auth: "on"}
	for range 17 {
		many.Replicas = append(many.Replicas, "https://m")
	}
	if err := many.Validate(); err == nil {
		t.Error("any number")
	}
}
