package docker

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/stages"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// metrics are the containerizer's figures. With no registerer they are counted and not shown.
type metrics struct {
	stages   *stages.Clock
	launches *prometheus.CounterVec
	pulls    *prometheus.CounterVec
	held     prometheus.Gauge
	oom      prometheus.Counter
	removed  prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		stages: stages.NewClock(r, "docker_"),
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
	r.MustRegister(m.launches, m.pulls, m.held, m.oom, m.removed)
	return m
}

// stage begins a stage of a launch; what it returns ends it.
func (c *Containerizer) stage(ct *container, name string) func() {
	return c.metrics.stages.Begin(&ct.stages, name)
}

// Stages implements containerizer.Timed.
func (c *Containerizer) Stages(id ids.Container) []containerizer.Stage {
	ct, err := c.find(id)
	if err != nil {
		return nil
	}
	return ct.stages.All()
}
