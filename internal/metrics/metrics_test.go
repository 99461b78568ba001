package metrics

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func get(t *testing.T, r *Registry, path string) string {
	t.Helper()
	rec := httptest.NewRecorder()
	req := httptest.NewRequest("GET", path, nil)
	if path == "/metrics" {
		r.PrometheusHandler().ServeHTTP(rec, req)
	} else {
		r.SnapshotHandler().ServeHTTP(rec, req)
	}
	if rec.Code != 200 {
		t.Fatalf("%s: %d %s", path, rec.Code, rec.Body)
	}
	return rec.Body.String()
}

func TestBothSidesShowTheSameValues(t *testing.T) {
	t.Parallel()
	r := New()
	kill := Name{Mesos: "master/messages_kill_task", Prom: "orchestrator_master_messages_total", Labels: []string{"type", "kill_task"}, Help: "Messages."}
	r.Counter(kill).Add(2)
	r.Counter(kill).Inc() // the same one
	g := r.Gauge(Name{Mesos: "master/elected", Prom: "orchestrator_master_elected", Help: "Leads."})
	g.Set(2)
	g.Add(-1)
	r.GaugeFunc(Name{Prom: "orchestrator_master_drops_total", Help: "Drops."}, func() float64 { return 7 })
	r.Source(func(emit func(Name, float64)) {
		emit(Name{Mesos: "master/cpus_total", Prom: "orchestrator_master_cpus", Labels: []string{"of", "total"}, Help: "CPUs."}, 4.5)
	})
	want := `{"master/cpus_total":4.5,"master/elected":1.0,"master/messages_kill_task":3.0}`
	if got := get(t, r, "/metrics/snapshot?timeout=5secs"); got != want {
		t.Errorf("snapshot is %s, want %s", got, want)
	}
	text := get(t, r, "/metrics")
	for _, want := range []string{
		"# TYPE orchestrator_master_messages_total counter\norchestrator_master_messages_total{type=\"kill_task\"} 3\n",
		"orchestrator_master_elected 1\n",
		"# TYPE orchestrator_master_drops_total counter\norchestrator_master_drops_total 7\n",
		"orchestrator_master_cpus{of=\"total\"} 4.5\n",
		"go_goroutines",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%.2000s", want, text)
		}
	}
}

func TestTimer(t *testing.T) {
	t.Parallel()
	r := New()
	timer := r.Timer(Name{Mesos: "allocator/run_ms", Prom: "orchestrator_run_seconds", Help: "Runs."})
	if got := get(t, r, "/metrics/snapshot"); got != "{}" {
		t.Errorf("a timer without samples shows %s", got)
	}
	for i := range 2 * window { // the first half leaves the window
		timer.Observe(time.Duration(2*window-i) * time.Millisecond)
	}
	var got map[string]float64
	if err := json.Unmarshal([]byte(get(t, r, "/metrics/snapshot")), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{
		"allocator/run_ms": 1, "allocator/run_ms/count": window, "allocator/run_ms/min": 1, "allocator/run_ms/max": window,
		"allocator/run_ms/p50": 500.5, "allocator/run_ms/p90": 900.1, "allocator/run_ms/p95": 950.05, "allocator/run_ms/p99": 990.01,
		"allocator/run_ms/p999": 999.001, "allocator/run_ms/p9999": 999.9001,
	}
	near := cmp.Comparer(func(a, b float64) bool { return a-b < 1e-6 && b-a < 1e-6 })
	if d := cmp.Diff(want, got, near); d != "" {
		t.Error(d)
	}
	if text := get(t, r, "/metrics"); !strings.Contains(text, "orchestrator_run_seconds_count 2000\n") {
		t.Errorf("histogram:\n%.1000s", text)
	}
}

func TestGroupEnds(t *testing.T) {
	t.Parallel()
	r := New()
	a, b := r.Group("frameworks/a/1/"), r.Group("frameworks/a/10/")
	a.Counter("calls").Inc()
	a.Gauge("subscribed").Set(1)
	b.Counter("calls").Inc()
	a.Close()
	a.Counter("calls") // it begins anew
	if got, want := get(t, r, "/metrics/snapshot"), `{"frameworks/a/1/calls":0.0,"frameworks/a/10/calls":1.0}`; got != want {
		t.Errorf("snapshot is %s, want %s", got, want)
	}
	if text := get(t, r, "/metrics"); strings.Contains(text, "frameworks") {
		t.Error("Prometheus sees frameworks")
	}
}

func TestSystem(t *testing.T) {
	t.Parallel()
	r := New()
	r.System()
	for _, name := range []string{"cpus_total", "load_1min", "load_5min", "load_15min", "mem_total_bytes", "mem_free_bytes"} {
		if !strings.Contains(get(t, r, "/metrics/snapshot"), `"system/`+name+`":`) {
			t.Errorf("no system/%s", name)
		}
	}
}

func TestWrongUse(t *testing.T) {
	t.Parallel()
	r := New()
	r.Counter(Name{Mesos: "x"})
	for name, f := range map[string]func(){
		"other kind": func() { r.Gauge(Name{Mesos: "x"}) },
		"no name":    func() { r.Counter(Name{}) },
		"odd labels": func() { r.Counter(Name{Prom: "x", Labels: []string{"a"}}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
	rec := httptest.NewRecorder()
	r.SnapshotHandler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics/snapshot?timeout=soon", nil))
	if rec.Code != 400 {
		t.Errorf("a wrong timeout gives %d", rec.Code)
	}
	rec = httptest.NewRecorder()
	r.SnapshotHandler().ServeHTTP(rec, httptest.NewRequest("POST", "/metrics/snapshot", nil))
	if rec.Code != 405 {
		t.Errorf("POST gives %d", rec.Code)
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	r := New()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				r.Counter(Name{Mesos: "c"}).Inc()
				r.Gauge(Name{Mesos: "g"}).Add(1)
				r.Timer(Name{Mesos: "t_ms"}).Observe(time.Millisecond)
			}
			r.Snapshot()
		})
	}
	wg.Wait()
	if c, g := r.Counter(Name{Mesos: "c"}).Value(), r.Gauge(Name{Mesos: "g"}).Value(); c != 1600 || g != 1600 {
		t.Errorf("counted %d and %v of 1600", c, g)
	}
}

func BenchmarkCounter(b *testing.B) {
	c := New().Counter(Name{Mesos: "c"})
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.Inc()
		}
	})
}

func BenchmarkTimer(b *testing.B) {
	t := New().Timer(Name{Mesos: "t_ms", Prom: "t_seconds"})
	for b.Loop() {
		t.Observe(time.Millisecond)
	}
}
