package link

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what the links of a component do. A nil *Metrics counts nothing.
type Metrics struct {
	open, messagesIn, messagesOut, bytesIn, bytesOut, writes, overflows prometheusValue
}

type prometheusValue interface {
	prometheus.Collector
	Add(float64)
}

// NewMetrics registers the metrics of a component's links.
func NewMetrics(reg prometheus.Registerer, component string) *Metrics {
	counter := func(thing, help string) prometheusValue {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "orchestrator_" + component + "_link_" + thing, Help: help})
	}
	m := &Metrics{
		open:        prometheus.NewGauge(prometheus.GaugeOpts{Name: "orchestrator_" + component + "_link_connections", Help: "Agent links that are open."}),
		messagesIn:  counter("received_messages_total", "Messages received on agent links."),
		messagesOut: counter("sent_messages_total", "Messages written to agent links."),
		bytesIn:     counter("received_bytes_total", "Bytes of the frames received on agent links."),
		bytesOut:    counter("sent_bytes_total", "Bytes written to agent links."),
		writes:      counter("writes_total", "Writes to agent links; messages per write is the batching."),
		overflows:   counter("slow_peers_total", "Agent links cut off because the peer did not keep up."),
	}
	if reg != nil {
		reg.MustRegister(m.open, m.messagesIn, m.messagesOut, m.bytesIn, m.bytesOut, m.writes, m.overflows)
	}
	return m
}

func (m *Metrics) opened() {
	if m != nil {
		m.open.Add(1)
	}
}

func (m *Metrics) closed() {
	if m != nil {
		m.open.Add(-1)
	}
}

func (m *Metrics) sent(messages, bytes int) {
	if m != nil {
		m.messagesOut.Add(float64(messages))
		m.bytesOut.Add(float64(bytes))
		m.writes.Add(1)
	}
}

func (m *Metrics) received(messages, bytes int) {
	if m != nil {
		m.messagesIn.Add(float64(messages))
		m.bytesIn.Add(float64(bytes))
	}
}

func (m *Metrics) overflow() {
	if m != nil {
		m.overflows.Add(1)
	}
}
