package zksync

import (
	"encoding/json"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Handler serves an engine's state: /api/v1/sync/status, /api/v1/sync/conflicts (also as /conflicts), /healthz (200 while the
// stream is live or the engine stands by, else 503) and /metrics.
func Handler(e *Engine, metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, code int, v any) {
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = w.Write(append(b, '\n'))
	}
	mux.HandleFunc("GET /api/v1/sync/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, e.Status()) })
	conflicts := func(w http.ResponseWriter, _ *http.Request) {
		c := e.Conflicts()
		if c == nil {
			c = []Conflict{}
		}
		answer(w, http.StatusOK, c)
	}
	mux.HandleFunc("GET /api/v1/sync/conflicts", conflicts)
	mux.HandleFunc("GET /conflicts", conflicts)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		st := e.Status()
		code := http.StatusServiceUnavailable
		if (st.Phase == PhaseLive || st.Phase == PhaseStandby) && st.SourceError == "" {
			code = http.StatusOK
		}
		answer(w, code, map[string]any{"phase": st.Phase, "source_error": st.SourceError})
	})
	if metrics != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	}
	return mux
}
