package stages

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
)

// TestClocksShareTheMetric: two containerizers of one agent tell their stages in one metric, each container its own.
func TestClocksShareTheMetric(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := prometheus.NewRegistry()
		native, docker, silent := NewClock(r, ""), NewClock(r, "docker_"), NewClock(nil, "")
		var one, other Log
		total := native.Begin(&one, "total")
		fetch := native.Begin(&one, "fetch")
		time.Sleep(20 * time.Millisecond)
		fetch()
		time.Sleep(5 * time.Millisecond)
		total()
		docker.Begin(&other, "total")()
		silent.Begin(&other, "fetch")()
		if d := cmp.Diff([]containerizer.Stage{{Name: "fetch", Took: 20 * time.Millisecond}, {Name: "total", Took: 25 * time.Millisecond}}, one.All()); d != "" {
			t.Error(d)
		}
		if n := len(other.All()); n != 2 {
			t.Errorf("%d stages of the other", n)
		}
		families, err := r.Gather()
		if err != nil || len(families) != 1 {
			t.Fatalf("%v %v", families, err)
		}
		var series []string
		for _, m := range families[0].GetMetric() {
			series = append(series, m.GetLabel()[0].GetValue())
		}
		if d := cmp.Diff([]string{"docker_total", "fetch", "total"}, series); d != "" {
			t.Error(d)
		}
	})
}
