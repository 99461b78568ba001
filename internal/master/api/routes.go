package api

import (
	"net/http"
	"strings"

	"github.com/orchestrator/orchestrator/internal/wire"
)

// realm is one of Mesos' groups of endpoints, which authentication is switched on for.
type realm int

const (
	readonly realm = iota
	readwrite
	frameworks
	public // no authentication: liveness, redirects and the agents' link, which has its own
)

func (r realm) name() string {
	switch r {
	case readwrite:
		return "mesos-master-readwrite"
	case frameworks:
		return "mesos-master-scheduler"
	default:
		return "mesos-master-readonly"
	}
}

// route is one endpoint.
type route struct {
	realm realm
	// writes is the realm of requests that are not GET or HEAD, where it differs.
	writes  realm
	methods []string // nil: the handler checks
	handler http.HandlerFunc
}

// routeTable lists the endpoints by their path without "/master" and without a trailing slash.
func (s *Server) routeTable() map[string]route {
	get := []string{http.MethodGet}
	post := []string{http.MethodPost}
	read := func(h http.HandlerFunc) route { return route{readonly, readonly, get, h} }
	write := func(h http.HandlerFunc) route { return route{readwrite, readwrite, post, h} }
	both := func(h http.HandlerFunc) route { return route{readonly, readwrite, nil, h} }
	t := map[string]route{
		"/api/v1/scheduler":            {frameworks, frameworks, nil, s.scheduler},
		"/api/v1":                      {readwrite, readwrite, nil, s.operator},
		"/":                            {readonly, readonly, get, s.statusPage},
		"/health":                      {public, public, get, s.health},
		"/version":                     {public, public, get, s.version},
		"/redirect":                    {public, public, get, s.redirect},
		"/flags":                       read(s.flags),
		"/metrics/snapshot":            read(s.opts.Metrics.SnapshotHandler().ServeHTTP),
		"/metrics":                     read(s.opts.Metrics.PrometheusHandler().ServeHTTP),
		"/state":                       read(s.legacyState),
		"/state-summary":               read(s.stateSummary),
		"/slaves":                      read(s.slaves),
		"/frameworks":                  read(s.frameworks),
		"/tasks":                       read(s.tasks),
		"/roles":                       read(s.roles),
		"/weights":                     both(s.weights),
		"/quota":                       both(s.quota),
		"/maintenance/schedule":        both(s.maintenanceSchedule),
		"/maintenance/status":          read(s.maintenanceStatus),
		"/machine/down":                write(s.machineDown),
		"/machine/up":                  write(s.machineUp),
		"/teardown":                    write(s.teardown),
		"/reserve":                     write(s.reserve),
		"/unreserve":                   write(s.unreserve),
		"/create-volumes":              write(s.createVolumes),
		"/destroy-volumes":             write(s.destroyVolumes),
		"/api/orchestrator/v1/explain": read(s.explain),
		"/api/orchestrator/v1/kill":    write(s.killTask),
		"/logging/toggle":              {readwrite, readwrite, nil, s.loggingToggleHandler},
		"/registrar(1)/registry":       read(s.registry),
		"/system/stats.json":           {public, public, get, s.systemStats},
		"/help":                        {public, public, get, s.help},
	}
	if s.opts.Link != nil {
		t["/api/v1/link"] = route{public, public, nil, s.opts.Link.ServeHTTP}
	}
	if s.opts.Files != nil {
		for _, path := range []string{"/files/browse", "/files/read", "/files/download", "/files/debug"} {
			t[path] = read(s.opts.Files.Handler("/files").ServeHTTP)
		}
	}
	return t
}

// normalise brings a request's path into the form of the table: Mesos answers under "/master" as well, with a trailing
// slash, and until 1.8 under names that end in ".json". Tools of that time, mesos-dns 0.6 for one, know no others.
func normalise(path string) string {
	if rest, ok := strings.CutPrefix(path, "/master"); ok && (rest == "" || rest[0] == '/') {
		path = rest
	}
	path = strings.TrimRight(path, "/")
	switch path {
	case "":
		return "/"
	case "/state.json", "/tasks.json", "/roles.json", "/files/browse.json", "/files/read.json", "/files/download.json", "/files/debug.json":
		return strings.TrimSuffix(path, ".json")
	}
	return path
}

// Handler serves all endpoints.
func (s *Server) Handler() http.Handler {
	auth := map[realm]wire.Authenticator{readonly: s.opts.Auth.Readonly, readwrite: s.opts.Auth.Readwrite, frameworks: s.opts.Auth.Frameworks}
	for r, a := range auth {
		if a == nil {
			auth[r] = wire.Permissive{}
		}
	}
	guard := func(g realm, h http.HandlerFunc) http.Handler {
		if g == public {
			return h
		}
		return wire.Authenticated(auth[g], g.name(), h)
	}
	// The handlers of each route behind their realms, made once: the most frequent calls are counted in microseconds.
	type guarded struct{ reads, writes http.Handler }
	handlers := make(map[string]guarded, len(s.routes))
	for path, rt := range s.routes {
		handlers[path] = guarded{guard(rt.realm, rt.handler), guard(rt.writes, rt.handler)}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := normalise(r.URL.Path)
		h := handlers[path]
		rt, ok := s.routes[path]
		if !ok {
			if role, isQuota := strings.CutPrefix(path, "/quota/"); isQuota {
				rt, ok = route{readwrite, readwrite, []string{http.MethodDelete}, func(w http.ResponseWriter, r *http.Request) { s.removeQuota(w, r, role) }}, true
				h.writes = guard(rt.writes, rt.handler)
			}
		}
		if !ok {
			wire.Error(w, http.StatusNotFound, "Unknown endpoint "+path+": /help lists them")
			return
		}
		if s.disabled[path] {
			wire.Error(w, http.StatusForbidden, "Endpoint '"+path+"' is disabled")
			return
		}
		if path == "/files/browse" || path == "/files/read" || path == "/files/download" || path == "/files/debug" {
			// The handler of package files compares the path itself.
			clone := *r.URL
			clone.Path = path
			r = r.Clone(r.Context())
			r.URL = &clone
		}
		if rt.methods != nil && !allowed(r.Method, rt.methods) {
			wire.MethodNotAllowed(w, r, rt.methods...)
			return
		}
		s.metrics.requests.Inc()
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			h.reads.ServeHTTP(w, r)
			return
		}
		h.writes.ServeHTTP(w, r)
	})
}

func allowed(method string, methods []string) bool {
	for _, m := range methods {
		if m == method || m == http.MethodGet && method == http.MethodHead {
			return true
		}
	}
	return false
}
