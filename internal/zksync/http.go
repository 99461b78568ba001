package zksync

import (
	"encoding/json"
	"mime"
	"net/http"
	"slices"

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

// PairHandler serves a pair's state as Handler does for one engine, and takes decisions: POST /api/v1/sync/homes
// {"path":…,"home":"source"|"target"} flips a subtree, POST /api/v1/sync/conflicts/resolve {"path":…,"keep":"home"|"copy"} settles a
// conflict that waits. Both answer when it is done. There is no authentication: listen where only operators reach it.
func PairHandler(p *Pair, metrics prometheus.Gatherer) http.Handler {
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
	mux.HandleFunc("GET /api/v1/sync/status", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{"forward": p.Forward.Status(), "back": p.Back.Status(), "homes": p.Homes(), "elections": p.Elections()})
	})
	conflicts := func(w http.ResponseWriter, _ *http.Request) {
		all := append(p.Forward.Conflicts(), p.Back.Conflicts()...)
		slices.SortStableFunc(all, func(a, b Conflict) int { return a.Time.Compare(b.Time) })
		if all == nil {
			all = []Conflict{}
		}
		answer(w, http.StatusOK, all)
	}
	mux.HandleFunc("GET /api/v1/sync/conflicts", conflicts)
	mux.HandleFunc("GET /conflicts", conflicts)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		code := http.StatusOK
		phases := map[string]Phase{}
		for name, st := range map[string]Status{"forward": p.Forward.Status(), "back": p.Back.Status()} {
			phases[name] = st.Phase
			if st.Phase != PhaseLive && st.Phase != PhaseStandby || st.SourceError != "" {
				code = http.StatusServiceUnavailable
			}
		}
		answer(w, code, phases)
	})
	decide := func(do func(r *http.Request, path, what string) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var in struct{ Path, Home, Keep string }
			d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
			d.DisallowUnknownFields()
			if mt, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); mt != "application/json" {
				answer(w, http.StatusUnsupportedMediaType, map[string]string{"error": "want Content-Type: application/json"})
				return
			}
			if err := d.Decode(&in); err != nil {
				answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
				return
			}
			if err := do(r, in.Path, in.Home+in.Keep); err != nil {
				answer(w, http.StatusConflict, map[string]string{"error": err.Error()})
				return
			}
			answer(w, http.StatusOK, map[string]any{"homes": p.Homes()})
		}
	}
	mux.HandleFunc("POST /api/v1/sync/homes", decide(func(r *http.Request, path, home string) error { return p.Flip(r.Context(), path, Home(home)) }))
	mux.HandleFunc("POST /api/v1/sync/conflicts/resolve", decide(func(r *http.Request, path, keep string) error { return p.Resolve(r.Context(), path, keep) }))
	if metrics != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	}
	return mux
}
