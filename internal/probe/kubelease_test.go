package probe

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"
)

// fakeLease is one lease with the API server's optimistic locking. It fails when told to.
type fakeLease struct {
	mu      sync.Mutex
	version int
	body    *kubeLease
	broken  bool
}

func (f *fakeLease) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var in kubeLease
	if r.Method != http.MethodGet && json.NewDecoder(r.Body).Decode(&in) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	switch {
	case f.broken:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case r.Method == http.MethodGet && f.body == nil:
		w.WriteHeader(http.StatusNotFound)
		return
	case r.Method == http.MethodPost && f.body != nil, r.Method == http.MethodPut && in.Metadata.ResourceVersion != strconv.Itoa(f.version):
		w.WriteHeader(http.StatusConflict)
		return
	case r.Method != http.MethodGet:
		f.version++
		in.Metadata.ResourceVersion = strconv.Itoa(f.version)
		f.body = &in
	}
	_ = json.NewEncoder(w).Encode(f.body)
}

func TestALeaseIsHeldByOne(t *testing.T) {
	t.Parallel()
	f := &fakeLease{}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	api, err := newKubeAPI(srv.URL, nil, func() (string, error) { return "", nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.http.CloseIdleConnections)
	a := &elector{api: api, namespace: "n", name: "l", self: "a"}
	b := &elector{api: api, namespace: "n", name: "l", self: "b"}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	step := func(e *elector, after time.Duration, want bool) {
		t.Helper()
		now = now.Add(after)
		mine, holder, err := e.try(t.Context(), now)
		if mine != want {
			t.Fatalf("%s holds it: %v, want %v (holder %q, %v)", e.self, mine, want, holder, err)
		}
	}
	step(a, 0, true)
	step(b, 0, false)
	step(a, leaseRenew, true)
	// The lease moves on: b's patience begins anew with every renewal that it sees.
	step(b, leaseTake-time.Second, false)
	step(b, leaseTake-time.Second, false)
	step(a, 0, true)
	step(b, 2*time.Second, false)
	// The server fails: a holds on for a while and then stops, before b may take it.
	f.mu.Lock()
	f.broken = true
	f.mu.Unlock()
	step(a, leaseRenew, true)
	step(b, 0, false)
	step(a, leaseGive, false)
	f.mu.Lock()
	f.broken = false
	f.mu.Unlock()
	step(b, time.Second, true)
	step(a, 0, false)
	// One that ends gives it back.
	b.release()
	step(a, 0, true)
	b.release()
	step(a, 0, true)
	step(b, 0, false)
}
