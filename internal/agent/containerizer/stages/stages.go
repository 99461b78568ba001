// Package stages measures the stages of container launches: in one metric of the agent's, whichever containerizer it was, and with the
// container, where people ask for it. Both containerizers call it.
package stages

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
)

// Clock measures for one containerizer.
type Clock struct {
	prefix  string
	seconds *prometheus.HistogramVec
}

// NewClock makes a clock whose stages have a prefix in the metric. Clocks of one registerer share it; with none it is not shown.
func NewClock(r prometheus.Registerer, prefix string) *Clock {
	c := &Clock{prefix: prefix, seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "orchestrator_agent_container_launch_stage_seconds",
		Help:    "How long each stage of a container's launch took; those of Docker containers begin with docker.",
		Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 5, 30},
	}, []string{"stage"})}
	if r == nil {
		return c
	}
	var there prometheus.AlreadyRegisteredError
	switch err := r.Register(c.seconds); {
	case errors.As(err, &there):
		if v, ok := there.ExistingCollector.(*prometheus.HistogramVec); ok {
			c.seconds = v
		}
	case err != nil:
		panic(err) // two metrics of one name: a programming error, as with MustRegister
	}
	return c
}

// Log is what a container's launch took so far. The zero value is empty.
type Log struct {
	mu  sync.Mutex
	all []containerizer.Stage
}

// All gives the stages that are over, in the order of their ends.
func (l *Log) All() []containerizer.Stage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

// Begin begins a stage of a container's launch; what it returns ends it.
func (c *Clock) Begin(l *Log, name string) (end func()) {
	start := time.Now()
	return func() {
		took := time.Since(start)
		c.seconds.WithLabelValues(c.prefix + name).Observe(took.Seconds())
		l.mu.Lock()
		defer l.mu.Unlock()
		l.all = append(l.all, containerizer.Stage{Name: name, Took: took})
	}
}
