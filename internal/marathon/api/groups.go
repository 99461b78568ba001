package api

import (
	"fmt"
	"net/http"

	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

func noGroup(id string) error {
	return &core.NotFound{What: fmt.Sprintf("Group '%s' does not exist", id)}
}

// group is the id of the group that the path names; none names the root.
func (r *request) group() string {
	if r.id == "" {
		return spec.RootID
	}
	return r.id
}

func (s *Server) getGroup(r *request) (*answer, error) {
	g := r.snap.Root.Group(r.group())
	if g == nil {
		return nil, noGroup(r.group())
	}
	list := r.URL.Query()["embed"]
	e := embedsOf(list)
	if len(list) == 0 {
		e.groups, e.apps, e.pods = true, true, true
	}
	b := newRenderer(r.snap, s.cfg.Now()).group(nil, g, e, 0)
	return &answer{status: http.StatusOK, body: b}, nil
}

// group appends a group with the groups, apps and pods beneath it.
func (w *renderer) group(b []byte, g *spec.Group, e embeds, depth int) []byte {
	b = fmt.Appendf(b, `{"id":%q,"dependencies":`, g.ID)
	deps := g.Dependencies
	if deps == nil {
		deps = []string{}
	}
	x, _ := spec.Encode(deps)
	b = append(b, x...)
	b = fmt.Appendf(b, `,"version":%q,"enforceRole":%v,"apps":[`, g.Version, g.EnforceRole)
	first := true
	var pods []*spec.Spec
	if e.apps || e.pods {
		for sp := range w.snap.Root.Specs(g.ID) {
			if spec.ParentID(sp.ID) != g.ID {
				continue
			}
			if sp.Pod != nil {
				pods = append(pods, sp)
				continue
			}
			if !e.apps {
				continue
			}
			if !first {
				b = append(b, ',')
			}
			first = false
			b = w.app(b, sp, e)
		}
	}
	b = append(b, `],"pods":[`...)
	if e.pods {
		for i, p := range pods {
			if i > 0 {
				b = append(b, ',')
			}
			x, _ := spec.Encode(w.podStatus(p))
			b = append(b, x...)
		}
	}
	b = append(b, `],"groups":[`...)
	if e.groups && depth < 200 {
		first = true
		for c := range w.snap.Root.Groups(g.ID) {
			if !first {
				b = append(b, ',')
			}
			first = false
			b = w.group(b, c, e, depth+1)
		}
	}
	return append(b, "]}"...)
}

func (s *Server) groupApps(r *request) (*answer, error) {
	if r.snap.Root.Group(r.group()) == nil {
		return nil, noGroup(r.group())
	}
	e := embedsOf(r.URL.Query()["embed"])
	e.counts, e.deployments = true, true
	return s.appList(r, r.group(), e, "apps", nil)
}

func (s *Server) groupVersions(r *request) (*answer, error) {
	if r.snap.Root.Group(r.group()) == nil {
		return nil, noGroup(r.group())
	}
	return jsonAnswer(http.StatusOK, r.snap.GroupVersions(r.group()))
}

func (s *Server) groupVersion(r *request) (*answer, error) {
	at, err := spec.ParseVersion(r.tail)
	if err != nil {
		return nil, unprocessable(err)
	}
	list := r.snap.SpecsAt(r.group(), at)
	if list == nil {
		return nil, &core.NotFound{What: fmt.Sprintf("Group '%s' does not exist in version %s", r.group(), at)}
	}
	root := spec.NewRoot(s.cfg.Spec, at)
	for _, sp := range list {
		for g := spec.ParentID(sp.ID); g != spec.RootID; g = spec.ParentID(g) {
			if root.Group(g) == nil {
				root.LoadGroup(&spec.Group{ID: g, Version: at})
			}
		}
		root.Load(sp)
	}
	g := root.Group(r.group())
	if g == nil {
		g = &spec.Group{ID: r.group(), Version: at}
	}
	past := *r.snap
	past.Root = root
	return &answer{status: http.StatusOK, body: newRenderer(&past, s.cfg.Now()).group(nil, g, embeds{groups: true, apps: true}, 0)}, nil
}

func (s *Server) createGroup(r *request) (*answer, error) { return s.changeGroup(r, true) }
func (s *Server) putGroup(r *request) (*answer, error)    { return s.changeGroup(r, false) }

func (s *Server) changeGroup(r *request, create bool) (*answer, error) {
	v, err := r.read()
	if err != nil {
		return nil, err
	}
	id := r.group()
	if o, ok := v.(spec.Object); ok {
		if own, ok := o["id"].(string); ok && (create || r.id == "") {
			id = spec.Resolve(own, id)
			if id != spec.RootID && !create && r.id == "" && o["apps"] == nil && o["groups"] == nil {
				id = spec.Resolve(own, spec.RootID)
			}
		} else if create && r.id == "" && !ok {
			return nil, &spec.Invalid{Message: spec.MessageInvalidJSON, Problems: []spec.Problem{{Path: "/id", Errors: []string{"error.path.missing"}}}}
		}
	}
	res, err := s.update(r, core.Update{
		Force: r.flag("force", false), DryRun: !create && r.flag("dryRun", false),
		Mutate: func(root *spec.Root, now spec.Version, h spec.History) error {
			if create {
				if root.Group(id) != nil {
					return &core.Conflict{What: fmt.Sprintf("Group %s is already created. Use PUT to change this group.", id)}
				}
				if root.Get(id) != nil {
					return &core.Conflict{What: fmt.Sprintf("An app with the path %s already exists.", id)}
				}
			}
			return root.UpdateGroup(id, v, now, h)
		},
		Notices: func(root *spec.Root) []core.Notice { return r.groupChanged(root, id) },
	})
	if err != nil {
		return nil, err
	}
	if res.Plan != nil {
		steps := res.Plan.Info().Steps
		return jsonAnswer(http.StatusOK, struct {
			Steps []core.StepInfo `json:"steps"`
		}{steps})
	}
	if create {
		return deployed(http.StatusCreated, res, map[string]string{"Location": s.location(r, id)})
	}
	return deployed(http.StatusOK, res, nil)
}

func (s *Server) patchGroup(r *request) (*answer, error) {
	v, err := r.read()
	if err != nil {
		return nil, err
	}
	o, _ := v.(spec.Object)
	enforce, ok := o["enforceRole"].(bool)
	if !ok {
		return nil, &spec.Invalid{Message: spec.MessageInvalidJSON, Problems: []spec.Problem{{Path: "/enforceRole", Errors: []string{"error.expected.jsboolean"}}}}
	}
	if spec.ParentID(r.id) != spec.RootID {
		return nil, &spec.Invalid{Message: spec.MessageInvalidObject, Problems: []spec.Problem{{Path: "/enforceRole", Errors: []string{"enforceRole can only be set for top-level groups"}}}}
	}
	_, err = s.update(r, core.Update{Mutate: func(root *spec.Root, now spec.Version, _ spec.History) error {
		g := root.Group(r.id)
		if g == nil {
			return noGroup(r.id)
		}
		c := *g
		c.EnforceRole = enforce
		return root.PutGroup(&c, now)
	}})
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusOK}, nil
}

func (s *Server) deleteGroup(r *request) (*answer, error) {
	res, err := s.update(r, core.Update{
		Force: r.flag("force", false),
		Mutate: func(root *spec.Root, now spec.Version, _ spec.History) error {
			if root.Group(r.group()) == nil {
				return noGroup(r.group())
			}
			root.RemoveGroup(r.group(), now)
			return nil
		},
		Notices: func(root *spec.Root) []core.Notice { return r.groupChanged(root, spec.ParentID(r.group())) },
	})
	if err != nil {
		return nil, err
	}
	return deployed(http.StatusOK, res, nil)
}
