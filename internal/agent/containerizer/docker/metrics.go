package docker

import (
	"errors"
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
	pulls    *prometheus.CounterVec
	held     prometheus.Gauge
	oom      prometheus.Counter
	removed  prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		// The native containerizer's as well: each stage has its own name.
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "orchestrator_agent_container_launch_stage_seconds",
			Help:    "How long each stage of a container's launch took; those of Docker containers begin with docker.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 5, 30},
		}, []string{"stage"}),
		launches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "orchestrator_agent_docker_launches_total", Help: "Launches of Docker containers by outcome.",
		}, []string{"outcome"}),
		pulls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "orchestrator_agent_docker_pulls_total", Help: "Pulls of Docker images by outcome.",
		}, []string{"outcome"}),
		held: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "orchestrator_agent_docker_containers_held", Help: "Docker containers that run or are being started or ended.",
		}),
		oom: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "orchestrator_agent_docker_memory_limitations_total", Help: "Docker containers of executors that ended because their memory was exhausted.",
		}),
		removed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "orchestrator_agent_docker_images_removed_total", Help: "Unused Docker images that were removed.",
		}),
	}
	if r == nil {
		return m
	}
	var there prometheus.AlreadyRegisteredError
	if err := r.Register(m.stages); errors.As(err, &there) {
		if v, ok := there.ExistingCollector.(*prometheus.HistogramVec); ok {
			m.stages = v
		}
	}
	r.MustRegister(m.launches, m.pulls, m.held, m.oom, m.removed)
	return m
}

// stage returns a function that records the time since its own making.
func (c *Containerizer) stage(ct *container, name string) func() {
	start := time.Now()
	return func() {
		took := time.Since(start)
		c.metrics.stages.WithLabelValues("docker_" + name).Observe(took.Seconds())
		c.mu.Lock()
		defer c.mu.Unlock()
		ct.stages = append(ct.stages, containerizer.Stage{Name: name, Took: took})
	}
}

// Stages implements containerizer.Timed.
func (c *Containerizer) Stages(id ids.Container) []containerizer.Stage {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ct := c.containers[id]; ct != nil {
		return slices.Clone(ct.stages)
	}
	return nil
}
