package native

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the containerizer's figures. With no registerer they are counted and not shown.
type metrics struct {
	stages   *prometheus.HistogramVec
	launches *prometheus.CounterVec
	oom      prometheus.Counter
	disk     prometheus.Counter
	held     prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "orchestrator_agent_container_launch_stage_seconds",
			Help:    "How long each stage of a native container's launch took.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 5, 30},
		}, []string{"stage"}),
		launches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "orchestrator_agent_container_launches_total", Help: "Launches of native containers by outcome.",
		}, []string{"outcome"}),
		oom: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "orchestrator_agent_container_memory_limitations_total", Help: "Containers ended because their memory was exhausted.",
		}),
		disk: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "orchestrator_agent_container_disk_limitations_total", Help: "Containers ended because they used more disk than they had.",
		}),
		held: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "orchestrator_agent_containers_held", Help: "Native containers that run or are being started or ended.",
		}),
	}
	if r != nil {
		r.MustRegister(m.stages, m.launches, m.oom, m.disk, m.held)
	}
	return m
}

// stage returns a function that records the time since its own making.
func (m *metrics) stage(name string) func() {
	start := time.Now()
	return func() { m.stages.WithLabelValues(name).Observe(time.Since(start).Seconds()) }
}
