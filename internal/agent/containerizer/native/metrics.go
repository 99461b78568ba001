package native

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
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
			Help:    "How long each stage of a container's launch took; those of Docker containers begin with docker.",
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

// stage returns a function that records the time since its own making, in a metric and with the container.
func (c *Containerizer) stage(ct *container, name string) func() {
	start := time.Now()
	return func() {
		took := time.Since(start)
		c.metrics.stages.WithLabelValues(name).Observe(took.Seconds())
		c.mu.Lock()
		defer c.mu.Unlock()
		ct.stages = append(ct.stages, containerizer.Stage{Name: name, Took: took})
	}
}

// Stages implements containerizer.Timed.
func (c *Containerizer) Stages(id ids.Container) []containerizer.Stage {
	c.mu.Lock()
	defer c.mu.Unlock()
	ct := c.containers[id]
	if ct == nil {
		return nil
	}
	return slices.Clone(ct.stages)
}
