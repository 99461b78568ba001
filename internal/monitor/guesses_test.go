package monitor

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// A probe whose token was deleted asks for ever. Others behind the same address, its own machine's people among them, are not kept out by that.
func TestABadTokenKeepsNobodyElseOut(t *testing.T) {
	t.Parallel()
	m, mux := routesUnderTest(t)
	if _, err := m.accounts.putUser("eve", "admin", "correct horse"); err != nil {
		t.Fatal(err)
	}
	get := func(path, token string) int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://monitor:4040"+path, nil)
		r.Header.Set("Authorization", "Bearer "+token)
		return answer(mux, r)
	}
	login := func(body string) int {
		return answer(mux, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://monitor:4040/api/v1/login", strings.NewReader(body)))
	}
	seen := map[int]int{}
	for range 3 * maxTries {
		seen[get("/api/v1/probe", "omt_deleted")]++
	}
	if seen[http.StatusUnauthorized] != maxTries || seen[http.StatusTooManyRequests] != 2*maxTries {
		t.Errorf("the bad one is answered %v", seen)
	}
	if got := get("/api/v1/status", "omt_admin"); got != http.StatusOK {
		t.Errorf("a good token: %d", got)
	}
	if got := get("/api/v1/probe", "omt_probe"); got == http.StatusUnauthorized || got == http.StatusTooManyRequests {
		t.Errorf("a probe's good token: %d", got)
	}
	for _, body := range []string{`{"user":"eve","password":"correct horse"}`, `{"token":"omt_admin"}`} {
		if got := login(body); got != http.StatusOK {
			t.Errorf("login with %s: %d", body, got)
		}
	}
	// Nor does who guesses passwords there keep a token out.
	for range 2 * maxTries {
		login(`{"user":"eve","password":"battery staple"}`)
	}
	if got := login(`{"user":"eve","password":"correct horse"}`); got != http.StatusTooManyRequests {
		t.Errorf("the %dth password: %d", 2*maxTries+1, got)
	}
	if got := login(`{"token":"omt_admin"}`); got != http.StatusOK {
		t.Errorf("a good token after bad passwords: %d", got)
	}
}

// Passwords that are tried at the same time are counted as those that come one after another, and cost no more. Those that are right count for nothing.
func TestGuessesAtTheSameTimeAreCounted(t *testing.T) {
	t.Parallel()
	m, mux := routesUnderTest(t)
	if _, err := m.accounts.putUser("eve", "admin", "correct horse"); err != nil {
		t.Fatal(err)
	}
	try := func(password string) int {
		return answer(mux, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://monitor:4040/api/v1/login", strings.NewReader(`{"user":"eve","password":"`+password+`"}`)))
	}
	for range maxTries + 1 {
		if got := try("correct horse"); got != http.StatusOK {
			t.Fatalf("a right one: %d", got)
		}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[int]int{}
	for range 4 * maxTries {
		wg.Go(func() {
			got := try("battery staple")
			mu.Lock()
			defer mu.Unlock()
			seen[got]++
		})
	}
	wg.Wait()
	if seen[http.StatusUnauthorized] != maxTries || seen[http.StatusTooManyRequests] != 3*maxTries {
		t.Errorf("answers %v", seen)
	}
}
