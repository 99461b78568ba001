package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

func noApp(id string) error { return &core.NotFound{What: fmt.Sprintf("App '%s' does not exist", id)} }

// app finds an app in the snapshot.
func (r *request) app(id string) (*spec.Spec, error) {
	if s := r.snap.Root.Get(id); s != nil && s.App != nil {
		return s, nil
	}
	return nil, noApp(id)
}

func (s *Server) listApps(r *request) (*answer, error) {
	q := r.URL.Query()
	cmd, id := strings.ToLower(q.Get("cmd")), strings.ToLower(q.Get("id"))
	var sel *spec.Selector
	if l := q.Get("label"); l != "" {
		var err error
		if sel, err = spec.ParseSelector(l); err != nil {
			return nil, unprocessable(err)
		}
	}
	e := embedsOf(q["embed"])
	e.counts, e.deployments = true, true
	return s.appList(r, spec.RootID, e, "apps", func(a *spec.App) bool {
		return (cmd == "" || strings.Contains(strings.ToLower(a.Cmd), cmd)) && (id == "" || strings.Contains(strings.ToLower(a.ID), id)) && (sel == nil || sel.Matches(a.Labels))
	})
}

func (s *Server) appList(r *request, group string, e embeds, key string, want func(*spec.App) bool) (*answer, error) {
	w := newRenderer(r.snap, s.cfg.Now())
	b := fmt.Appendf(make([]byte, 0, 4096), "{%q:[", key)
	first := true
	for sp := range r.snap.Root.Specs(group) {
		if sp.App == nil || want != nil && !want(sp.App) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = w.app(b, sp, e)
	}
	return &answer{status: http.StatusOK, body: append(b, "]}"...)}, nil
}

func (s *Server) getApp(r *request) (*answer, error) {
	e := embedsOf(r.URL.Query()["embed"])
	if group, ok := strings.CutSuffix(r.id, "/*"); ok {
		e.counts, e.deployments, e.tasks = true, true, true
		if group == "" {
			group = spec.RootID
		}
		return s.appList(r, group, e, "*", nil)
	}
	sp, err := r.app(r.id)
	if err != nil {
		return nil, err
	}
	e.counts, e.deployments, e.tasks, e.lastFailure = true, true, true, true
	b := newRenderer(r.snap, s.cfg.Now()).app([]byte(`{"app":`), sp, e)
	return &answer{status: http.StatusOK, body: append(b, '}')}, nil
}

func (s *Server) createApp(r *request) (*answer, error) {
	v, err := r.read()
	if err != nil {
		return nil, err
	}
	app, err := spec.ReadApp(v, "", spec.RootID, s.cfg.Spec)
	if err != nil {
		return nil, err
	}
	var put *spec.Spec
	res, err := s.update(r, core.Update{
		Force: r.flag("force", false),
		Mutate: func(root *spec.Root, now spec.Version, _ spec.History) error {
			if old := root.Get(app.ID); old != nil {
				if old.Pod != nil {
					return &core.Conflict{What: fmt.Sprintf("A pod with the path %s already exists.", app.ID)}
				}
				return &core.Conflict{What: fmt.Sprintf("An app with id [%s] already exists.", app.ID)}
			}
			return root.Put(spec.OfApp(app), now, false)
		},
		Notices: func(root *spec.Root) []core.Notice {
			put = root.Get(app.ID)
			return r.posted(root, app.ID)
		},
	})
	if err != nil {
		return nil, err
	}
	b := slices.Clone(put.JSON())
	b = fmt.Appendf(b[:len(b)-1], `,"tasksStaged":0,"tasksRunning":0,"tasksHealthy":0,"tasksUnhealthy":0,"deployments":[{"id":%q}],"tasks":[]}`, res.Deployment)
	return &answer{status: http.StatusCreated, body: b, header: map[string]string{"Marathon-Deployment-Id": res.Deployment, "Location": s.location(r, app.ID)}}, nil
}

func (s *Server) location(r *request, path string) string {
	return s.cfg.Scheme + "://" + r.Host + path
}

// posted are the events that follow a change of apps.
func (r *request) posted(root *spec.Root, ids ...string) []core.Notice {
	var out []core.Notice
	for _, id := range ids {
		if sp := root.Get(id); sp != nil && sp.App != nil {
			out = append(out, core.Notice{Type: "api_post_event", Fields: core.PostEvent{ClientIP: r.clientIP(), URI: r.URL.Path, App: sp.App}})
		}
	}
	if len(ids) > 0 {
		out = append(out, r.groupChanged(root, spec.ParentID(ids[0]))...)
	}
	return out
}

func (r *request) groupChanged(root *spec.Root, group string) []core.Notice {
	g := root.Group(group)
	if g == nil {
		g = root.Group(spec.RootID)
	}
	return []core.Notice{{Type: "group_change_success", Fields: core.GroupChange{GroupID: group, Version: g.Version}}}
}

// change puts an update document over an app, as PUT and PATCH do, and reports whether the app is new.
func change(root *spec.Root, now spec.Version, h spec.History, id string, v any, partial, mustExist bool, set *spec.Settings) (created bool, err error) {
	o, ok := v.(spec.Object)
	if !ok {
		return false, &spec.Invalid{Message: spec.MessageInvalidJSON, Problems: []spec.Problem{{Path: "/", Errors: []string{"error.expected.jsobject"}}}}
	}
	old := root.Get(id)
	switch {
	case old != nil && old.Pod != nil:
		return false, &core.Conflict{What: fmt.Sprintf("A pod with the path %s already exists.", id)}
	case old == nil && mustExist:
		return false, noApp(id)
	}
	body := spec.Object{}
	for k, x := range o {
		if x != nil {
			body[k] = x
		}
	}
	version := body["version"]
	delete(body, "version")
	body["id"] = id
	if old != nil && partial && version != nil {
		return false, rollback(root, now, h, id, version, len(body) > 1)
	}
	if old != nil && partial {
		u, err := spec.CanonicalApp(body, "")
		if err != nil {
			return false, err
		}
		if body, err = spec.OverlayApp(old.App, u); err != nil {
			return false, err
		}
	}
	app, err := spec.ReadApp(body, "", spec.RootID, set)
	if err != nil {
		return false, err
	}
	return old == nil, root.Put(spec.OfApp(app), now, false)
}

func rollback(root *spec.Root, now spec.Version, h spec.History, id string, version any, more bool) error {
	text, ok := version.(string)
	if !ok {
		return &spec.Invalid{Message: spec.MessageInvalidJSON, Problems: []spec.Problem{{Path: "/version", Errors: []string{"error.expected.jsstring"}}}}
	}
	if more {
		return &spec.Invalid{Message: spec.MessageInvalidObject, Problems: []spec.Problem{{Path: "/", Errors: []string{"The 'version' field may only be combined with the 'id' field."}}}}
	}
	at, err := spec.ParseVersion(text)
	if err != nil {
		return unprocessable(err)
	}
	list, err := h.SpecsAt(spec.ParentID(id), at)
	if err == nil {
		for _, sp := range list {
			if sp.ID == id && sp.App != nil && sp.Version == at {
				return root.Put(sp, now, false)
			}
		}
	}
	return &core.NotFound{What: fmt.Sprintf("App '%s' does not exist in version %s", id, at)}
}

func (s *Server) putApp(r *request) (*answer, error) {
	return s.changeApp(r, r.flag("partialUpdate", true), false)
}
func (s *Server) patchApp(r *request) (*answer, error) { return s.changeApp(r, true, true) }

func (s *Server) changeApp(r *request, partial, mustExist bool) (*answer, error) {
	v, err := r.read()
	if err != nil {
		return nil, err
	}
	created := false
	res, err := s.update(r, core.Update{
		Force: r.flag("force", false),
		Mutate: func(root *spec.Root, now spec.Version, h spec.History) (err error) {
			created, err = change(root, now, h, r.id, v, partial, mustExist, s.cfg.Spec)
			return err
		},
		Notices: func(root *spec.Root) []core.Notice { return r.posted(root, r.id) },
	})
	if err != nil {
		return nil, err
	}
	if created {
		return deployed(http.StatusCreated, res, map[string]string{"Location": s.location(r, r.id)})
	}
	return deployed(http.StatusOK, res, nil)
}

func (s *Server) putApps(r *request) (*answer, error) {
	return s.changeApps(r, r.flag("partialUpdate", true), false)
}
func (s *Server) patchApps(r *request) (*answer, error) { return s.changeApps(r, true, true) }

func (s *Server) changeApps(r *request, partial, mustExist bool) (*answer, error) {
	v, err := r.read()
	if err != nil {
		return nil, err
	}
	list, ok := v.([]any)
	if !ok {
		return nil, &spec.Invalid{Message: spec.MessageInvalidJSON, Problems: []spec.Problem{{Path: "/", Errors: []string{"error.expected.jsarray"}}}}
	}
	ids := make([]string, len(list))
	for i, x := range list {
		o, _ := x.(spec.Object)
		id, ok := o["id"].(string)
		if !ok {
			return nil, &spec.Invalid{Message: spec.MessageInvalidJSON, Problems: []spec.Problem{{Path: fmt.Sprintf("(%d)/id", i), Errors: []string{"error.path.missing"}}}}
		}
		ids[i] = spec.Resolve(id, spec.RootID)
	}
	res, err := s.update(r, core.Update{
		Force: r.flag("force", false),
		Mutate: func(root *spec.Root, now spec.Version, h spec.History) error {
			for i, x := range list {
				if _, err := change(root, now, h, ids[i], x, partial, mustExist, s.cfg.Spec); err != nil {
					return err
				}
			}
			return nil
		},
		Notices: func(root *spec.Root) []core.Notice { return r.posted(root, ids...) },
	})
	if err != nil {
		return nil, err
	}
	return deployed(http.StatusOK, res, nil)
}

func (s *Server) deleteApp(r *request) (*answer, error) {
	res, err := s.update(r, core.Update{
		Force: r.flag("force", true),
		Mutate: func(root *spec.Root, now spec.Version, _ spec.History) error {
			if sp := root.Get(r.id); sp == nil || sp.App == nil {
				return noApp(r.id)
			}
			root.Remove(r.id, now)
			return nil
		},
		Notices: func(root *spec.Root) []core.Notice { return r.groupChanged(root, spec.ParentID(r.id)) },
	})
	if err != nil {
		return nil, err
	}
	return deployed(http.StatusOK, res, nil)
}

func (s *Server) restartApp(r *request) (*answer, error) {
	res, err := s.update(r, core.Update{
		Force: r.flag("force", false), ResetBackoff: []string{r.id},
		Mutate: func(root *spec.Root, now spec.Version, _ spec.History) error {
			sp := root.Get(r.id)
			if sp == nil || sp.App == nil {
				return noApp(r.id)
			}
			return root.Put(sp, now, true)
		},
		Notices: func(root *spec.Root) []core.Notice { return r.groupChanged(root, spec.ParentID(r.id)) },
	})
	if err != nil {
		return nil, err
	}
	return deployed(http.StatusOK, res, nil)
}

func (s *Server) appVersions(r *request) (*answer, error) {
	if _, err := r.app(r.id); err != nil {
		return nil, err
	}
	return jsonAnswer(http.StatusOK, struct {
		Versions []spec.Version `json:"versions"`
	}{versionsOf(r.snap, r.id)})
}

// versionsOf lists the versions of a definition, newest first.
func versionsOf(snap *core.Snapshot, id string) []spec.Version {
	out := []spec.Version{}
	for _, rev := range snap.Revisions(id) {
		if rev.Spec != nil {
			out = append(out, rev.Version)
		}
	}
	slices.Reverse(out)
	return out
}

func (s *Server) appVersion(r *request) (*answer, error) {
	at, err := spec.ParseVersion(r.tail)
	if err != nil {
		return nil, unprocessable(err)
	}
	if sp := r.snap.Spec(r.id, at); sp != nil && sp.App != nil {
		return &answer{status: http.StatusOK, body: sp.JSON()}, nil
	}
	return nil, &core.NotFound{What: fmt.Sprintf("App '%s' does not exist in version %s", r.id, at)}
}
