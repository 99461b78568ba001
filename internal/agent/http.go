package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/time/rate"

	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/core"
	"github.com/orchestrator/orchestrator/internal/agent/unixsock"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// realm is one of Mesos' groups of endpoints, which authentication is switched on for.
type realm int

const (
	public realm = iota // no authentication
	readonly
	readwrite
	executorRealm
)

func (r realm) String() string {
	return [...]string{"", "mesos-agent-readonly", "mesos-agent-readwrite", "mesos-agent-executor"}[r]
}

// route is one endpoint.
type route struct {
	realm   realm
	methods []string // nil: the handler checks
	handler http.HandlerFunc
}

// Timeouts of the HTTP server. Streams set their own.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10
)

// routeTable lists the endpoints by their path without "/slave(1)" and without a trailing slash.
func (a *Agent) routeTable() map[string]route {
	get := []string{http.MethodGet, http.MethodHead}
	limiter := rate.NewLimiter(rate.Limit(a.cfg.StatisticsRate), int(max(a.cfg.StatisticsRate, 1)))
	limited := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
			defer cancel()
			if err := limiter.Wait(ctx); err != nil {
				wire.Error(w, http.StatusTooManyRequests, "Too many requests for statistics: ask less often")
				return
			}
			h(w, r)
		}
	}
	t := map[string]route{
		"/":                    {readonly, get, a.statusPage},
		"/api/v1":              {readwrite, nil, a.operator},
		"/api/v1/executor":     {executorRealm, nil, a.execs.ServeHTTP},
		"/health":              {public, get, func(w http.ResponseWriter, _ *http.Request) { wire.Empty(w, http.StatusOK) }},
		"/version":             {public, get, a.versionEndpoint},
		"/flags":               {readonly, get, a.flagsEndpoint},
		"/state":               {readonly, get, a.stateEndpoint},
		"/containers":          {readonly, get, limited(a.containersEndpoint)},
		"/monitor/statistics":  {readonly, get, limited(a.statisticsEndpoint)},
		"/monitor/launches":    {readonly, get, limited(a.launchesEndpoint)},
		"/sandboxes/prune":     {readwrite, []string{http.MethodPost}, a.pruneEndpoint},
		"/containerizer/debug": {readonly, get, a.containerizerDebug},
		"/metrics/snapshot":    {readonly, get, a.fresh(a.deps.Metrics.SnapshotHandler())},
		"/metrics":             {readonly, get, a.fresh(a.deps.Metrics.PrometheusHandler())},
		"/logging/toggle":      {readwrite, nil, a.loggingToggle},
		"/help":                {public, get, a.help},
		"/api/v1/resource_provider": {readwrite, nil, func(w http.ResponseWriter, _ *http.Request) {
			wire.Error(w, http.StatusNotImplemented, "This agent has no resource providers")
		}},
	}
	for _, path := range []string{"/files/browse", "/files/read", "/files/download", "/files/debug"} {
		t[path] = route{readonly, get, a.files.Handler("/files").ServeHTTP}
	}
	return t
}

// normalise brings a request's path into the form of the table: Mesos answers under the name of its actor as well, with a
// trailing slash, and until 1.8 under names that end in ".json". Tools of that time know no others.
func normalise(path string) string {
	for _, prefix := range []string{"/slave(1)", "/slave"} {
		if rest, ok := strings.CutPrefix(path, prefix); ok && (rest == "" || rest[0] == '/') {
			path = rest
			break
		}
	}
	path = strings.TrimRight(path, "/")
	switch path {
	case "":
		return "/"
	case "/state.json", "/monitor/statistics.json", "/files/browse.json", "/files/read.json", "/files/download.json", "/files/debug.json":
		return strings.TrimSuffix(path, ".json")
	}
	return path
}

// routes is the agent's API.
func (a *Agent) routes() http.Handler {
	table := a.routeTable()
	serve := func(r realm, h http.Handler) http.Handler {
		on := r == readonly && a.cfg.AuthReadonly || r == readwrite && a.cfg.AuthReadwrite
		switch {
		case r == executorRealm && a.cfg.AuthExecutors:
			return wire.Authenticated(tokenAuthenticator{a}, r.String(), h)
		case on:
			return wire.Authenticated(a.auth, r.String(), h)
		}
		return wire.Authenticated(wire.Permissive{}, r.String(), h)
	}
	handlers := map[string]http.Handler{}
	for path, rt := range table {
		handlers[path] = serve(rt.realm, rt.handler)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			// net/http would drop the connection without a word in our log's form.
			if p := recover(); p != nil {
				if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(p)
				}
				a.log.Error("request failed", "path", r.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				wire.Error(w, http.StatusInternalServerError, "Internal error: see the agent's log")
			}
		}()
		path := normalise(r.URL.Path)
		rt, ok := table[path]
		if !ok {
			// The unnormalised path as well: a file's endpoint may be asked with a prefix of its own.
			wire.Error(w, http.StatusNotFound, "Unknown endpoint "+path+": /help lists them")
			return
		}
		if rt.methods != nil && r.Method != rt.methods[0] && (len(rt.methods) < 2 || r.Method != rt.methods[1]) {
			wire.MethodNotAllowed(w, r, rt.methods...)
			return
		}
		r = r.Clone(r.Context())
		r.URL.Path = path
		handlers[path].ServeHTTP(w, r)
	})
}

// serve serves the API until ctx ends.
func (a *Agent) serve(ctx context.Context) error {
	server := &http.Server{
		Handler: a.api, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: nil, BaseContext: func(net.Listener) context.Context { return ctx },
	}
	listeners := []net.Listener{a.listener}
	if a.cfg.DomainSocket {
		l, err := unixsock.Listen(a.socketPath())
		if err != nil {
			return fmt.Errorf("listen for executors: %w (choose another --domain_socket_location)", err)
		}
		defer os.Remove(a.socketPath())
		// Tasks of any user may speak; who they are is the token's matter.
		if err := os.Chmod(a.socketPath(), 0o666); err != nil {
			return fmt.Errorf("open the executors' socket to tasks: %w", err)
		}
		listeners = append(listeners, l)
	}
	close(a.serving)
	done := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { done <- server.Serve(l) }()
	}
	var err error
	running := len(listeners)
	select {
	case <-ctx.Done():
	case err = <-done:
		running--
	}
	// Streams do not end by themselves: their requests' context has.
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if server.Shutdown(stop) != nil {
		server.Close()
	}
	for ; running > 0; running-- {
		if late := <-done; err == nil {
			err = late
		}
	}
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return err
}

func (a *Agent) socketPath() string {
	if a.cfg.SocketPath != "" {
		return a.cfg.SocketPath
	}
	return filepath.Join(a.cfg.RuntimeDir, "agent.sock")
}

// ip is the address of the agent's API without the port.
func (a *Agent) ip() string {
	ip, _, err := net.SplitHostPort(a.address)
	if err != nil {
		return "127.0.0.1"
	}
	return ip
}

func (a *Agent) callOptions() wire.CallOptions {
	return wire.CallOptions{MaxBody: int64(a.cfg.MaxRequestBody)}
}

// allow makes the check of a virtual file's readers.
func (a *Agent) allow(action, object string) func(string) bool {
	return func(principal string) bool {
		return a.deps.Authorizer.Allowed(wire.Principal{Name: principal}, action, object)
	}
}

// may answers 403 when the request's principal may not do something.
func (a *Agent) may(w http.ResponseWriter, r *http.Request, action, object string) bool {
	if a.deps.Authorizer.Allowed(wire.PrincipalOf(r.Context()), action, object) {
		return true
	}
	wire.Error(w, http.StatusForbidden, "Not allowed: "+action)
	return false
}

// tokenAuthenticator takes executors' tokens.
type tokenAuthenticator struct{ a *Agent }

func (t tokenAuthenticator) Authenticate(r *http.Request) (wire.Principal, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return wire.Principal{}, fmt.Errorf("%w: no bearer token", wire.ErrUnauthenticated)
	}
	claims, ok := t.a.tokenClaims(token)
	if !ok {
		return wire.Principal{}, fmt.Errorf("%w: the token is not valid", wire.ErrUnauthenticated)
	}
	return wire.Principal{Claims: claims}, nil
}

// speaksFor reports whether the token of the request, where one is required, is that of the executor it names.
func (a *Agent) speaksFor(r *http.Request, call *executorv1.Call) bool {
	if !a.cfg.AuthExecutors {
		return true
	}
	claims := wire.PrincipalOf(r.Context()).Claims
	return claims["fid"] == call.GetFrameworkId().GetValue() && claims["eid"] == call.GetExecutorId().GetValue()
}

// fresh has the owner's view renewed before measurements are read from it.
func (a *Agent) fresh(next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		_, _ = a.view(ctx) // an owner that is behind shows what it knew last
		cancel()
		next.ServeHTTP(w, r)
	}
}

// freshView is the view of the last reader.
func (a *Agent) freshView() *core.View { return a.lastView.Load() }

// look gives the handler of a request what the owner knows.
func (a *Agent) look(w http.ResponseWriter, r *http.Request) *core.View {
	select {
	case <-a.recovered:
	default:
		// Before recovery has finished tasks that run would seem lost.
		select {
		case <-a.recovered:
		case <-r.Context().Done():
			return nil
		case <-time.After(maxReregistration):
			wire.Error(w, http.StatusServiceUnavailable, "Agent has not finished recovery")
			return nil
		}
	}
	v, err := a.view(r.Context())
	if err != nil {
		wire.Error(w, http.StatusServiceUnavailable, err.Error())
		return nil
	}
	return v
}
