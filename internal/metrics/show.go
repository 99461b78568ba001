package metrics

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

// collector shows the registry to Prometheus.
type collector struct{ r *Registry }

// Describe sends nothing: what there is changes, so the collector is an unchecked one.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends every measurement that has a Prometheus name.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	metrics, sources := c.r.all()
	for _, m := range metrics {
		switch {
		case m.name.Prom == "":
		case m.counter != nil:
			send(ch, m.name, prometheus.CounterValue, float64(m.counter.Value()))
		case m.gauge != nil:
			send(ch, m.name, prometheus.GaugeValue, m.gauge.Value())
		case m.fn != nil:
			send(ch, m.name, kindOf(m.name), m.fn())
		default:
			ch <- m.timer.histogram
		}
	}
	for _, s := range sources {
		s(func(n Name, v float64) {
			if n.Prom != "" {
				send(ch, n, kindOf(n), v)
			}
		})
	}
}

func kindOf(n Name) prometheus.ValueType {
	if strings.HasSuffix(n.Prom, "_total") {
		return prometheus.CounterValue
	}
	return prometheus.GaugeValue
}

func send(ch chan<- prometheus.Metric, n Name, kind prometheus.ValueType, v float64) {
	m, err := prometheus.NewConstMetric(prometheus.NewDesc(n.Prom, n.Help, nil, labelMap(n.Labels)), kind, v)
	if err != nil {
		m = prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
	}
	ch <- m
}

func labelMap(pairs []string) prometheus.Labels {
	labels := make(prometheus.Labels, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		labels[pairs[i]] = pairs[i+1]
	}
	return labels
}

// PrometheusHandler serves /metrics. A measurement that goes wrong is left out rather than hiding all others.
func (r *Registry) PrometheusHandler() http.Handler {
	return promhttp.HandlerFor(r.prom, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 16})
}

// SnapshotHandler serves /metrics/snapshot: a flat object of numbers. The query's timeout is checked and otherwise without
// effect: a snapshot waits for nobody.
func (r *Registry) SnapshotHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodGet && req.Method != http.MethodHead {
			wire.MethodNotAllowed(w, req, http.MethodGet)
			return
		}
		if text := req.URL.Query().Get("timeout"); text != "" {
			if _, err := config.ParseDuration(text); err != nil {
				wire.Error(w, http.StatusBadRequest, "Invalid timeout: "+err.Error()+".\n")
				return
			}
		}
		var out mesosjson.Writer
		out.BeginObject()
		for _, v := range r.Snapshot() {
			out.Key(v.Name).Float(v.Value)
		}
		out.EndObject()
		wire.RespondJSON(w, req, out.Buf)
	})
}
