package zksync

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	lag                                 prometheus.Histogram
	ops, batches, conflicts, digestsBad prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, e *Engine) *metrics {
	labels := prometheus.Labels{"link": e.cfg.Name}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "orchestrator_zksync_" + name, Help: help, ConstLabels: labels})
	}
	m := &metrics{
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "orchestrator_zksync_lag_seconds", Help: "From reading a transaction from the source to the target's answer, oldest of each batch.",
			ConstLabels: labels, Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18),
		}),
		ops:        counter("operations_total", "Operations written to the target."),
		batches:    counter("batches_total", "Multis written to the target."),
		conflicts:  counter("conflicts_total", "Places where the target was changed by somebody else."),
		digestsBad: counter("digest_mismatches_total", "Transactions after which the source's digest was not the shadow's."),
	}
	if reg == nil {
		return m
	}
	gauge := func(name, help string, f func(Status) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "orchestrator_zksync_" + name, Help: help, ConstLabels: labels},
			func() float64 { return f(e.Status()) })
	}
	reg.MustRegister(m.lag, m.ops, m.batches, m.conflicts, m.digestsBad,
		gauge("queue_events", "Transactions read from the source that wait.", func(s Status) float64 { return float64(s.QueueEvents) }),
		gauge("queue_bytes", "Bytes of them.", func(s Status) float64 { return float64(s.QueueBytes) }),
		gauge("nodes", "Nodes of the source.", func(s Status) float64 { return float64(s.Nodes) }),
		gauge("live", "1 while the stream is live.", func(s Status) float64 {
			if s.Phase == PhaseLive {
				return 1
			}
			return 0
		}))
	return m
}
