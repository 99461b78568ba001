package native

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
	oom      prometheus.Counter
	disk     prometheus.Counter
	held     prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		stages: stages.NewClock(r, ""),
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
		r.MustRegister(m.launches, m.oom, m.disk, m.held)
	}
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
