package health

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/heldport"
	"github.com/orchestrator/orchestrator/internal/leakcheck"
	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

type rig struct {
	p      *Prober
	events chan core.Event
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{events: make(chan core.Event, 10000)}
	r.p = New(func(e core.Event) { r.events <- e }, nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = r.p.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

func (r *rig) next(t *testing.T) core.Event {
	t.Helper()
	select {
	case e := <-r.events:
		return e
	case <-time.After(2 * time.Minute):
		t.Fatal("no result came")
		return nil
	}
}

func serve(t *testing.T, h http.HandlerFunc) (host string, port int) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	host, p, _ := net.SplitHostPort(s.Listener.Addr().String())
	port, _ = strconv.Atoi(p)
	return host, port
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	host, port := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Path[1:])
		if n == 302 {
			w.Header().Set("Location", "http://127.0.0.1:1/")
		}
		w.WriteHeader(n)
	})
	r := newRig(t)
	for i, tc := range []struct {
		status int
		alive  bool
	}{{200, true}, {204, true}, {302, true}, {399, true}, {400, false}, {404, false}, {500, false}, {503, false}} {
		id := fmt.Sprintf("i%d", i)
		r.p.Health(core.Probe{Instance: id, Task: "t", Check: spec.HealthCheck{Protocol: "HTTP", Path: fmt.Sprintf("/%d", tc.status), TimeoutSeconds: 60}, Host: host, Port: port})
		got := r.next(t).(core.HealthResult)
		r.p.Remove(id)
		if got.Instance != id || got.Alive != tc.alive || !tc.alive && got.Cause == "" {
			t.Errorf("%d gives %+v", tc.status, got)
		}
	}
}

func TestTCPAndRefused(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", heldport.Address(t)) // nobody else listens there when it has ended
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	r := newRig(t)
	r.p.Health(core.Probe{Instance: "a", Task: "t", Check: spec.HealthCheck{Protocol: "TCP", TimeoutSeconds: 60}, Host: "127.0.0.1", Port: port})
	if e := r.next(t).(core.HealthResult); !e.Alive {
		t.Errorf("open port: %+v", e)
	}
	l.Close()
	for {
		if e := r.next(t).(core.HealthResult); !e.Alive {
			break
		}
	}
}

// TestHangingEndpoint: a probe of something that never answers ends by its timeout, and doesn't hold the others up.
func TestHangingEndpoint(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	host, port := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	good, goodPort := serve(t, func(http.ResponseWriter, *http.Request) {})
	r := newRig(t)
	for i := range 50 {
		r.p.Health(core.Probe{Instance: fmt.Sprintf("hang%d", i), Task: "t", Check: spec.HealthCheck{Protocol: "HTTP", TimeoutSeconds: 5}, Host: host, Port: port})
	}
	r.p.Health(core.Probe{Instance: "good", Task: "t", Check: spec.HealthCheck{Protocol: "HTTP", TimeoutSeconds: 60}, Host: good, Port: goodPort})
	if e := r.next(t).(core.HealthResult); e.Instance != "good" || !e.Alive {
		t.Errorf("first result %+v", e)
	}
	for {
		if e := r.next(t).(core.HealthResult); e.Instance != "good" {
			if e.Alive || e.Cause == "" {
				t.Errorf("%+v", e)
			}
			return
		}
	}
}

// TestManyHangingEndpoints: more endpoints hang than probes may be under way, for much longer than anybody would wait; one that
// answers is probed all the same.
func TestManyHangingEndpoints(t *testing.T) {
	t.Parallel()
	host, port := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	good, goodPort := serve(t, func(http.ResponseWriter, *http.Request) {})
	r := newRig(t)
	for i := range MaxInFlight + 50 {
		r.p.Health(core.Probe{Instance: fmt.Sprintf("hang%d", i), Task: "t", Check: spec.HealthCheck{Protocol: "HTTP", TimeoutSeconds: 3600}, Host: host, Port: port})
	}
	r.p.Health(core.Probe{Instance: "good", Task: "t", Check: spec.HealthCheck{Protocol: "HTTP", TimeoutSeconds: 60}, Host: good, Port: goodPort})
	for range 3 {
		if e := r.next(t).(core.HealthResult); e.Instance != "good" || !e.Alive {
			t.Fatalf("%+v", e)
		}
	}
}

func TestReadinessEndsWhenReady(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	host, port := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) < 3 {
			w.WriteHeader(503)
		}
		fmt.Fprint(w, "body")
	})
	r := newRig(t)
	r.p.Readiness(core.CheckReadiness{Instance: "i", Task: "t", Check: spec.ReadinessCheck{Name: "r", Protocol: "HTTP", Path: "/", HTTPStatusCodesForReady: []int{200}, PreserveLastResponse: true}, Host: host, Port: port})
	for {
		e := r.next(t).(core.ReadinessResult)
		if e.Readiness.Body != "body" || e.Readiness.Name != "r" {
			t.Errorf("%+v", e)
		}
		if e.Readiness.Ready {
			break
		}
	}
	if r.p.Len() != 0 {
		t.Error("a check that is ready goes on")
	}
}

func TestRemovedIsNotReported(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}, 10), make(chan struct{})
	host, port := serve(t, func(http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-release })
	r := newRig(t)
	r.p.Health(core.Probe{Instance: "i", Task: "t", Check: spec.HealthCheck{Protocol: "HTTP", TimeoutSeconds: 5}, Host: host, Port: port})
	<-entered
	r.p.Remove("i")
	close(release)
	r.p.Health(core.Probe{Instance: "j", Task: "t", Check: spec.HealthCheck{Protocol: "HTTP", TimeoutSeconds: 5}, Host: host, Port: port})
	if e := r.next(t).(core.HealthResult); e.Instance != "j" {
		t.Errorf("%+v was reported after it was removed", e)
	}
}
