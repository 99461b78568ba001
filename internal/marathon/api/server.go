package api

import (
	"compress/gzip"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/events"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// Backend is what the API is served from.
type Backend interface {
	// Snapshot is the state to read from; nil while nobody leads here.
	Snapshot() *core.Snapshot
	// Do sends an event that carries the token to the core, and waits for the answer, which is durable then.
	Do(ctx context.Context, event func(token any) core.Event) (any, error)
	// Leader is "host:port" of the leading process, "" when none is known.
	Leader() string
	// Abdicate gives leadership up.
	Abdicate()
}

// Config is how the API is served.
type Config struct {
	Spec         *spec.Settings
	Version      string
	Scheme       string         // http or https, of this server's own address
	Credentials  string         // "user:password" for basic authentication; "" for none
	Realm        string         // of basic authentication
	AllowOrigin  []string       // for cross-origin requests; none allows none
	Compress     bool           // gzip for those who accept it
	MaxRequests  int            // at once, streams apart; 0 for no bound
	MaxBody      int64          // bytes
	Info         map[string]any // marathon_config, zookeeper_config and http_config of /v2/info
	Metrics      http.Handler   // /metrics/prometheus
	Now          func() time.Time
	Level        *slog.LevelVar // of the log, for /logging; nil when it can't be changed
	DrainSeconds int
}

// Server is the handler.
type Server struct {
	cfg     Config
	backend Backend
	hub     *events.Hub
	log     *slog.Logger
	slots   chan struct{}
	routes  []route

	levelMu     sync.Mutex
	levelTimer  *time.Timer // of a change for a while
	levelBefore slog.Level
}

// New makes the handler.
func New(cfg Config, backend Backend, hub *events.Hub, log *slog.Logger) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = 32 << 20
	}
	s := &Server{cfg: cfg, backend: backend, hub: hub, log: log}
	if cfg.MaxRequests > 0 {
		s.slots = make(chan struct{}, cfg.MaxRequests)
	}
	s.routes = s.table()
	return s
}

// request is one call, with what its route found in the path.
type request struct {
	*http.Request
	id   string // of an app, group, pod or deployment; absolute for the first three
	tail string // what the route has after the id: a task, a version, an instance
	snap *core.Snapshot
}

// answer is what a handler gives back: a status, a body and headers.
type answer struct {
	status int
	body   []byte // JSON unless kind says otherwise
	kind   string
	header map[string]string
	stream http.Handler // serves the request itself
}

type handler func(r *request) (*answer, error)

// ServeHTTP finds the route and answers.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-XSS-Protection", "1; mode=block")
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Expires", "0")
	if l := s.backend.Leader(); l != "" {
		h.Set("X-Marathon-Leader", s.cfg.Scheme+"://"+l)
	}
	if s.cors(w, r) {
		return
	}
	if !s.authentic(r) {
		h.Set("WWW-Authenticate", fmt.Sprintf("Basic realm=%q", s.cfg.Realm))
		s.write(w, r, &answer{status: http.StatusUnauthorized, body: message("Invalid username or password.")})
		return
	}
	rt, req, allowed := s.find(r)
	if rt == nil {
		if len(allowed) > 0 {
			h.Set("Allow", strings.Join(allowed, ", "))
			s.write(w, r, &answer{status: http.StatusMethodNotAllowed, body: message("HTTP 405 Method Not Allowed")})
			return
		}
		s.write(w, r, &answer{status: http.StatusNotFound, body: message("URI not found: " + r.URL.Path)})
		return
	}
	if s.slots != nil && !rt.stream {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		default:
			s.write(w, r, &answer{status: http.StatusServiceUnavailable, body: message("too many requests at once")})
			return
		}
	}
	r.Body = http.MaxBytesReader(w, r.Body, s.cfg.MaxBody)
	if req.snap = s.backend.Snapshot(); req.snap == nil && !rt.always {
		s.write(w, r, &answer{status: http.StatusBadGateway, body: message("Could not determine the current leader")})
		return
	}
	a, err := rt.handle(req)
	if err != nil {
		a = s.failure(r, err)
	}
	if a.stream != nil {
		a.stream.ServeHTTP(w, r)
		return
	}
	s.write(w, r, a)
}

func (s *Server) cors(w http.ResponseWriter, r *http.Request) bool {
	if len(s.cfg.AllowOrigin) == 0 {
		return false
	}
	for _, o := range s.cfg.AllowOrigin {
		w.Header().Add("Access-Control-Allow-Origin", o)
	}
	if r.Method != http.MethodOptions {
		return false
	}
	if v := r.Header.Get("Access-Control-Request-Headers"); v != "" {
		w.Header().Set("Access-Control-Allow-Headers", v)
	}
	w.Header().Set("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
	w.Header().Set("Access-Control-Max-Age", "86400")
	w.WriteHeader(http.StatusOK)
	return true
}

func (s *Server) authentic(r *http.Request) bool {
	if s.cfg.Credentials == "" {
		return true
	}
	user, pass, ok := r.BasicAuth()
	return ok && subtle.ConstantTimeCompare([]byte(user+":"+pass), []byte(s.cfg.Credentials)) == 1
}

// compressFrom is the size from which compressing pays.
const compressFrom = 1400

func (s *Server) write(w http.ResponseWriter, r *http.Request, a *answer) {
	h := w.Header()
	for k, v := range a.header {
		h.Set(k, v)
	}
	kind := a.kind
	if kind == "" {
		kind = "application/json"
	}
	if len(a.body) > 0 {
		h.Set("Content-Type", kind)
	}
	body := a.body
	if s.cfg.Compress && len(body) >= compressFrom && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") && r.Method != http.MethodHead {
		h.Set("Content-Encoding", "gzip")
		h.Set("Vary", "Accept-Encoding")
		w.WriteHeader(a.status)
		z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
		_, _ = z.Write(body)
		_ = z.Close()
		return
	}
	if a.status != http.StatusNoContent && a.status != http.StatusNotModified {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(a.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

func message(text string) []byte {
	b, _ := spec.Encode(struct {
		Message string `json:"message"`
	}{text})
	return b
}

// failure gives each error its status and body.
func (s *Server) failure(r *http.Request, err error) *answer {
	var (
		syntax    *spec.SyntaxError
		invalid   *spec.Invalid
		noVersion *spec.ErrNoVersion
		notFound  *core.NotFound
		conflict  *core.Conflict
		locked    *core.Locked
		many      *core.TooManyDeployments
		bad       *core.BadRequest
		tooLarge  *http.MaxBytesError
	)
	switch {
	case errors.As(err, &syntax):
		b, _ := spec.Encode(struct {
			Message string `json:"message"`
			Details string `json:"details"`
		}{spec.MessageInvalidJSON, syntax.Details})
		return &answer{status: http.StatusBadRequest, body: b}
	case errors.As(err, &invalid):
		b, _ := spec.Encode(invalid)
		return &answer{status: http.StatusUnprocessableEntity, body: b}
	case errors.As(err, &noVersion):
		return &answer{status: http.StatusUnprocessableEntity, body: message(noVersion.Error())}
	case errors.As(err, &notFound):
		return &answer{status: http.StatusNotFound, body: message(notFound.What)}
	case errors.As(err, &conflict):
		return &answer{status: http.StatusConflict, body: message(conflict.What)}
	case errors.As(err, &locked):
		type ref struct {
			ID string `json:"id"`
		}
		body := struct {
			Message     string `json:"message"`
			Deployments []ref  `json:"deployments"`
		}{Message: locked.Error()}
		for _, d := range locked.Deployments {
			body.Deployments = append(body.Deployments, ref{d})
		}
		b, _ := spec.Encode(body)
		return &answer{status: http.StatusConflict, body: b}
	case errors.As(err, &many), errors.Is(err, spec.ErrTooManyApps):
		return &answer{status: http.StatusForbidden, body: message(err.Error())}
	case errors.As(err, &bad):
		return &answer{status: http.StatusBadRequest, body: message(bad.What)}
	case errors.As(err, &tooLarge):
		return &answer{status: http.StatusRequestEntityTooLarge, body: message(fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit))}
	case errors.Is(err, spec.ErrNotFound):
		return &answer{status: http.StatusNotFound, body: message(err.Error())}
	case errors.Is(err, errUnprocessable):
		return &answer{status: http.StatusUnprocessableEntity, body: message(strings.TrimSuffix(err.Error(), ": "+errUnprocessable.Error()))}
	case errors.Is(err, errNotAcceptable):
		return &answer{status: http.StatusNotAcceptable, body: message("this resource is only served as text/event-stream: send Accept: text/event-stream")}
	case errors.Is(err, spec.ErrNoServicePort):
		return &answer{status: http.StatusInternalServerError, body: message(err.Error())}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &answer{status: http.StatusServiceUnavailable, body: message("the request was not carried out in time, or leadership was lost meanwhile: " + err.Error())}
	}
	s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	return &answer{status: http.StatusInternalServerError, body: message(err.Error())}
}

var (
	errUnprocessable = errors.New("unprocessable")
	errNotAcceptable = errors.New("not acceptable")
)

// unprocessable is a 422 with a message alone.
func unprocessable(err error) error { return fmt.Errorf("%w: %w", err, errUnprocessable) }

// read gives the body as decoded JSON.
func (r *request) read() (any, error) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	return spec.Decode(b)
}

func (r *request) flag(name string, def bool) bool {
	v, ok := r.URL.Query()[name]
	if !ok {
		return def
	}
	return v[0] == "" || strings.EqualFold(v[0], "true")
}

func jsonAnswer(status int, v any) (*answer, error) {
	b, err := spec.Encode(v)
	if err != nil {
		return nil, fmt.Errorf("encoding the answer: %w", err)
	}
	return &answer{status: status, body: b}, nil
}

// deployed is the answer to a change.
func deployed(status int, res *core.Result, header map[string]string) (*answer, error) {
	a, err := jsonAnswer(status, struct {
		Version    spec.Version `json:"version"`
		Deployment string       `json:"deploymentId"`
	}{res.Version, res.Deployment})
	if err != nil {
		return nil, err
	}
	a.header = map[string]string{"Marathon-Deployment-Id": res.Deployment}
	for k, v := range header {
		a.header[k] = v
	}
	return a, nil
}

func (r *request) clientIP() string {
	host := r.RemoteAddr
	if i := strings.LastIndexByte(host, ':'); i > 0 {
		host = host[:i]
	}
	return strings.Trim(host, "[]")
}

// update carries a change out.
func (s *Server) update(r *request, u core.Update) (*core.Result, error) {
	v, err := s.backend.Do(r.Context(), func(token any) core.Event {
		u.Token = token
		return u
	})
	if err != nil {
		return nil, err
	}
	return v.(*core.Result), nil
}
