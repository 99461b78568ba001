package api

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

func (s *Server) events(r *request) (*answer, error) {
	if !strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		return nil, errNotAcceptable
	}
	return &answer{stream: s.hub}, nil
}

func (s *Server) listCallbacks(*request) (*answer, error) {
	urls := s.hub.Callbacks()
	slices.Sort(urls)
	return jsonAnswer(http.StatusOK, struct {
		URLs []string `json:"callbackUrls"`
	}{urls})
}

type subscription struct {
	EventType   string `json:"eventType"`
	ClientIP    string `json:"clientIp"`
	CallbackURL string `json:"callbackUrl"`
}

func (r *request) callbackURL() (string, error) {
	text := r.URL.Query().Get("callbackUrl")
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || len(text) > 2048 {
		return "", &core.BadRequest{What: "callbackUrl must be an absolute http or https URL"}
	}
	return text, nil
}

func (s *Server) addCallback(r *request) (*answer, error) {
	u, err := r.callbackURL()
	if err != nil {
		return nil, err
	}
	if err := s.hub.Subscribe(u); err != nil {
		return nil, unprocessable(err)
	}
	return jsonAnswer(http.StatusOK, subscription{"subscribe_event", r.clientIP(), u})
}

func (s *Server) removeCallback(r *request) (*answer, error) {
	u, err := r.callbackURL()
	if err != nil {
		return nil, err
	}
	s.hub.Unsubscribe(u)
	return jsonAnswer(http.StatusOK, subscription{"unsubscribe_event", r.clientIP(), u})
}

func (s *Server) info(r *request) (*answer, error) {
	body := map[string]any{"name": "marathon", "version": s.cfg.Version, "buildref": "orchestrator", "elected": r.snap != nil, "frameworkId": nil}
	if l := s.backend.Leader(); l != "" {
		body["leader"] = l
	}
	if r.snap != nil {
		body["frameworkId"] = r.snap.FrameworkID
	}
	maps.Copy(body, s.cfg.Info)
	return jsonAnswer(http.StatusOK, body)
}

func (s *Server) leader(*request) (*answer, error) {
	l := s.backend.Leader()
	if l == "" {
		return nil, &core.NotFound{What: "There is no leader"}
	}
	return jsonAnswer(http.StatusOK, struct {
		Leader string `json:"leader"`
	}{l})
}

func (s *Server) abdicate(r *request) (*answer, error) {
	for _, p := range []string{"backup", "restore"} {
		if r.URL.Query().Get(p) != "" {
			return nil, &core.BadRequest{What: "backup and restore at abdication are not supported: copy the store's file, or the ZooKeeper path"}
		}
	}
	s.backend.Abdicate()
	return &answer{status: http.StatusOK, body: message("Leadership abdicated")}, nil
}

func (s *Server) plugins(*request) (*answer, error) {
	return jsonAnswer(http.StatusOK, struct {
		Plugins []any `json:"plugins"`
	}{[]any{}})
}

func (s *Server) ping(r *request) (*answer, error) {
	a := r.Header.Get("Accept")
	switch {
	case a == "" || strings.Contains(a, "*/*") || strings.Contains(a, "text/"):
		return &answer{status: http.StatusOK, body: []byte("pong"), kind: "text/plain"}, nil
	case strings.Contains(a, "application/json"):
		return &answer{status: http.StatusOK, body: []byte(`"pong"`)}, nil
	}
	return &answer{status: http.StatusNoContent}, nil
}

// metrics is the snapshot in Marathon's JSON form, by its names since 1.7.
func (s *Server) metrics(r *request) (*answer, error) {
	var apps, pods, running, staged, unhealthy, healthy float64
	for sp := range r.snap.Root.Specs(spec.RootID) {
		if sp.Pod != nil {
			pods++
		} else {
			apps++
		}
	}
	r.snap.EachInstance(func(i *core.Instance) bool {
		switch i.Condition {
		case core.Running:
			running++
		case core.Staging, core.Provisioned, core.Starting:
			staged++
		}
		if i.Healthy != nil {
			if *i.Healthy {
				healthy++
			} else {
				unhealthy++
			}
		}
		return true
	})
	streams, dropped := s.hub.Readers()
	value := func(v float64) map[string]any { return map[string]any{"value": v} }
	count := func(v float64) map[string]any { return map[string]any{"count": v} }
	now := s.cfg.Now().UTC().Format(time.RFC3339Nano)
	return jsonAnswer(http.StatusOK, map[string]any{
		"version": "4.0.0", "start": now, "end": now,
		"gauges": map[string]any{
			"marathon.apps.active.gauge": value(apps), "marathon.pods.active.gauge": value(pods), "marathon.deployments.active.gauge": value(float64(len(r.snap.Deployments))),
			"marathon.instances.running.gauge": value(running), "marathon.instances.staged.gauge": value(staged), "marathon.instances.healthy.gauge": value(healthy),
			"marathon.instances.unhealthy.gauge": value(unhealthy), "marathon.http.event-streams.active.gauge": value(float64(streams)),
		},
		"counters":   map[string]any{"marathon.http.event-streams.dropped.counter": count(float64(dropped))},
		"histograms": map[string]any{}, "min-max-counters": map[string]any{}, "meters": map[string]any{}, "timers": map[string]any{},
	})
}

func (s *Server) prometheus(*request) (*answer, error) {
	if s.cfg.Metrics == nil {
		return nil, &core.NotFound{What: "no metrics are collected"}
	}
	return &answer{stream: s.cfg.Metrics}, nil
}

func (s *Server) redirect(to string) handler {
	return func(*request) (*answer, error) {
		return &answer{status: http.StatusFound, header: map[string]string{"Location": to}}, nil
	}
}

func (s *Server) ui(*request) (*answer, error) {
	return &answer{status: http.StatusOK, kind: "text/html; charset=utf-8", body: []byte(`<!doctype html><meta charset="utf-8"><title>orchestrator</title>` +
		`<p>The console is served by <code>orchestrator monitor</code>. The API is described at <a href="/v2/openapi.json">/v2/openapi.json</a>.</p>`)}, nil
}

// openapi is the description of the API, made from the table of routes.
func (s *Server) openapi(*request) (*answer, error) {
	b, err := spec.Encode(s.document())
	if err != nil {
		return nil, fmt.Errorf("encoding the document: %w", err)
	}
	return &answer{status: http.StatusOK, body: b}, nil
}

func (s *Server) document() map[string]any {
	paths := map[string]map[string]any{}
	for _, rt := range s.routes {
		if paths[rt.path] == nil {
			paths[rt.path] = map[string]any{}
		}
		var params []any
		for _, p := range []string{"id", "tail"} {
			if strings.Contains(rt.path, "{"+p+"}") {
				params = append(params, map[string]any{"name": p, "in": "path", "required": true, "schema": map[string]any{"type": "string"}})
			}
		}
		op := map[string]any{"summary": rt.summary, "operationId": operationID(rt), "responses": map[string]any{
			"200":     map[string]any{"description": "done"},
			"default": map[string]any{"description": "an error", "content": map[string]any{"application/json": map[string]any{"schema": map[string]any{"$ref": "#/components/schemas/Error"}}}},
		}}
		if params != nil {
			op["parameters"] = params
		}
		if rt.method == http.MethodPost || rt.method == http.MethodPut || rt.method == http.MethodPatch {
			op["requestBody"] = map[string]any{"content": map[string]any{"application/json": map[string]any{"schema": map[string]any{}}}}
		}
		paths[rt.path][strings.ToLower(rt.method)] = op
	}
	return map[string]any{
		"openapi": "3.1.0", "info": map[string]any{"title": "Services (Marathon-compatible)", "version": s.cfg.Version}, "paths": paths,
		"components": map[string]any{"schemas": map[string]any{"Error": map[string]any{"type": "object", "required": []string{"message"}, "properties": map[string]any{"message": map[string]any{"type": "string"}, "details": map[string]any{}}}}},
	}
}

func operationID(rt route) string {
	words := strings.FieldsFunc(rt.path, func(r rune) bool { return strings.ContainsRune("/{}:.", r) })
	return strings.ToLower(rt.method) + "_" + strings.Join(words, "_")
}
