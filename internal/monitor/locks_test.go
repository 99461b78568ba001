package monitor

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/monitor/estate"
)

// Somebody opens a node's details while a probe connects: neither waits for the other for ever, and with them everybody.
func TestDetailsAndAProbeThatConnects(t *testing.T) {
	t.Parallel()
	m, mux := routesUnderTest(t)
	m.fake(t, "vm1")
	hold, held, done := make(chan struct{}), make(chan struct{}), make(chan int, 2)
	// What comes now has to wait for the estate, and holds all that it has taken before.
	go m.estate.Read(func(*estate.Reader) { close(held); <-hold })
	<-held
	go func() {
		_, _, err := m.probes.attach(&probev1.Frame{Hello: &probev1.Hello{ProbeId: "vm2", Hostname: "vm2", Instance: "1"}})
		if err != nil {
			t.Error(err)
		}
		done <- http.StatusOK
	}()
	go func() {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://monitor:4040/api/v1/nodes/container%3Bvm1%3Bweb", nil)
		r.Header.Set("Authorization", "Bearer omt_admin")
		done <- answer(mux, r)
	}()
	for m.probes.mu.TryLock() { // until the probe is on its way to the estate
		m.probes.mu.Unlock()
	}
	close(hold)
	for range 2 {
		select {
		case got := <-done:
			if got != http.StatusOK {
				t.Errorf("answered %d", got)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("they wait for each other")
		}
	}
}
