package wire

import "github.com/prometheus/client_golang/prometheus"

// StreamMetrics counts what the event streams of one API do. A nil *StreamMetrics counts nothing.
type StreamMetrics struct {
	open      prometheus.Gauge
	events    prometheus.Counter
	bytes     prometheus.Counter
	overflows prometheus.Counter
}

// NewStreamMetrics registers the metrics of a component's streams: orchestrator_<component>_<stream>_streams and so on.
func NewStreamMetrics(reg prometheus.Registerer, component, stream string) *StreamMetrics {
	name := func(thing string) string { return "orchestrator_" + component + "_" + stream + "_" + thing }
	m := &StreamMetrics{
		open:      prometheus.NewGauge(prometheus.GaugeOpts{Name: name("streams"), Help: "Event streams that are open."}),
		events:    prometheus.NewCounter(prometheus.CounterOpts{Name: name("events_total"), Help: "Events written to streams."}),
		bytes:     prometheus.NewCounter(prometheus.CounterOpts{Name: name("event_bytes_total"), Help: "Protobuf size of the events written to streams."}),
		overflows: prometheus.NewCounter(prometheus.CounterOpts{Name: name("slow_readers_total"), Help: "Streams cut off because their reader did not keep up."}),
	}
	if reg != nil {
		reg.MustRegister(m.open, m.events, m.bytes, m.overflows)
	}
	return m
}

func (m *StreamMetrics) opened() {
	if m != nil {
		m.open.Inc()
	}
}

func (m *StreamMetrics) closed() {
	if m != nil {
		m.open.Dec()
	}
}

func (m *StreamMetrics) wrote(events, bytes int) {
	if m != nil {
		m.events.Add(float64(events))
		m.bytes.Add(float64(bytes))
	}
}

func (m *StreamMetrics) overflow() {
	if m != nil {
		m.overflows.Inc()
	}
}
