package zksync

import (
	"strconv"

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
		gauge("behind_seconds", "Age of the oldest change that was read and is not in the target.", func(s Status) float64 { return s.BehindMS / 1000 }),
		gauge("position_zxid", "The source's last transaction that is in the target.", func(s Status) float64 { return zxidNumber(s.Position) }),
		gauge("seen_zxid", "The source's last transaction that was read.", func(s Status) float64 { return zxidNumber(s.Seen) }),
		gauge("digests_equal", "Transactions after which the source's digest was the shadow's.", func(s Status) float64 { return float64(s.Digests) }),
		gauge("source_quorum", "1 while the source has a leader that serves the engine.", func(s Status) float64 { return number(s.SourceQuorum) }),
		gauge("target_quorum", "1 while the target has a leader that serves the engine.", func(s Status) float64 { return number(s.TargetQuorum) }),
		gauge("live", "1 while the stream is live.", func(s Status) float64 { return number(s.Phase == PhaseLive) }),
	)
	return m
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func zxidNumber(s string) float64 {
	z, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		return 0
	}
	return float64(z)
}
