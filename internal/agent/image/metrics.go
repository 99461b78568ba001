package image

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	stages   *prometheus.HistogramVec
	fetched  prometheus.Counter
	unpacked prometheus.Counter
	hits     prometheus.Counter
	pulls    *prometheus.CounterVec
	deleted  prometheus.Counter
	images   prometheus.Gauge
	bytes    prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "orchestrator_agent_image_stage_seconds", Help: "How long each stage of a pull took: resolve (manifest and configuration), layer (fetch and unpack one), pull (all).",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, []string{"stage"}),
		fetched: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "orchestrator_agent_image_fetched_bytes_total", Help: "Bytes of layers fetched, as they came.",
		}),
		unpacked: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "orchestrator_agent_image_unpacked_bytes_total", Help: "Bytes of layers unpacked.",
		}),
		hits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "orchestrator_agent_image_cache_hits_total", Help: "Images that were there already.",
		}),
		pulls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "orchestrator_agent_image_pulls_total", Help: "Pulls by outcome.",
		}, []string{"outcome"}),
		deleted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "orchestrator_agent_image_layers_deleted_total", Help: "Layers deleted because nobody used them.",
		}),
		images: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "orchestrator_agent_images", Help: "Images in the store, by name.",
		}),
		bytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "orchestrator_agent_image_layers_bytes", Help: "Bytes of the files of all layers in the store.",
		}),
	}
	if r != nil {
		r.MustRegister(m.stages, m.fetched, m.unpacked, m.hits, m.pulls, m.deleted, m.images, m.bytes)
	}
	return m
}

func (m *metrics) stage(name string) func() {
	start := time.Now()
	return func() { m.stages.WithLabelValues(name).Observe(time.Since(start).Seconds()) }
}

// measure brings the gauges up to date.
func (s *Store) measure() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var total int64
	for _, l := range s.layers {
		total += l.Bytes
	}
	s.metrics.images.Set(float64(len(s.byName)))
	s.metrics.bytes.Set(float64(total))
}
