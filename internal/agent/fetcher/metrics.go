package fetcher

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	fetches *prometheus.CounterVec
	cache   *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "orchestrator_agent_fetches_total", Help: "URIs fetched for containers by outcome.",
		}, []string{"outcome"}),
		cache: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "orchestrator_agent_fetcher_cache_total", Help: "What became of requests to the fetcher's cache: hit, miss, evicted.",
		}, []string{"event"}),
	}
	if r != nil {
		r.MustRegister(m.fetches, m.cache)
	}
	return m
}
