package monitor

import (
	"net/http"
	"net/http/httptest"
	"sync"
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

// A probe is heard again in the moment in which it is found to be silent, and connects again in the moment in which its first connection ends. Whichever comes
// first, what it tells of is grey only when it is not heard.
func TestWhatIsHeardIsNotGrey(t *testing.T) {
	t.Parallel()
	m, _ := routesUnderTest(t)
	p := m.fake(t, "vm1")
	conn := p.conn
	grey := func() (grey bool) {
		m.estate.Read(func(r *estate.Reader) { grey = r.Entity("host;vm1").Stale })
		return grey
	}
	both := func(one, two func()) {
		var wg sync.WaitGroup
		wg.Go(one)
		wg.Go(two)
		wg.Wait()
	}
	// The estate is busy meanwhile.
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for range 2 {
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					m.estate.Flush(1, func(estate.Changes) {})
				}
			}
		})
	}
	defer busy.Wait()
	defer close(stop)
	wrong := 0
	for range 200 {
		conn.mu.Lock()
		conn.last = time.Now().Add(-time.Minute)
		epoch := conn.epoch
		conn.mu.Unlock()
		both(func() { m.probes.sweep(time.Now()) }, func() { m.probes.heard(conn, epoch, nil) })
		if m.probes.heard(conn, epoch, nil); grey() {
			wrong++
			m.estate.Stale("vm1", false, 1)
		}
	}
	for range 200 {
		conn.mu.Lock()
		epoch := conn.epoch
		conn.mu.Unlock()
		both(func() { m.probes.detach(conn, epoch) }, func() {
			if _, _, err := m.probes.attach(&probev1.Frame{Hello: &probev1.Hello{ProbeId: "vm1", Hostname: "vm1", Instance: "1", FirstSeq: 1, LastSeq: 1}}); err != nil {
				t.Error(err)
			}
		})
		if grey() {
			wrong++
			m.estate.Stale("vm1", false, 1)
		}
	}
	if wrong > 0 {
		t.Errorf("grey though heard: %d times", wrong)
	}
}
