package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

func wantsText(r *request) bool {
	a := r.Header.Get("Accept")
	return strings.Contains(a, "text/plain") && !strings.Contains(a, "application/json") && !strings.Contains(a, "*/*")
}

func (s *Server) listTasks(r *request) (*answer, error) {
	if wantsText(r) {
		return s.tasksText(r, slices.Collect(r.snap.Root.Specs(spec.RootID)))
	}
	q := r.URL.Query()
	states := append(q["status"], q["status[]"]...)
	want := func(t *core.Task) bool {
		if len(states) == 0 {
			return true
		}
		for _, st := range states {
			switch strings.ToLower(st) {
			case "running":
				if t.State == mesosv1.TaskState_TASK_RUNNING.String() {
					return true
				}
			case "staging":
				if t.State == mesosv1.TaskState_TASK_STAGING.String() {
					return true
				}
			}
		}
		return false
	}
	out := []taskJSON{}
	r.snap.EachInstance(func(i *core.Instance) bool {
		sp := r.snap.Root.Get(i.SpecID)
		if !visible(i) || sp == nil || sp.App == nil {
			return true
		}
		for k := range i.Tasks {
			if want(&i.Tasks[k]) {
				out = append(out, taskOf(i, &i.Tasks[k], sp.App.ServicePorts()))
			}
		}
		return true
	})
	return jsonAnswer(http.StatusOK, struct {
		Tasks []taskJSON `json:"tasks"`
	}{out})
}

// tasksText is what proxies read: a line for each app and service port, each field followed by a tab.
func (s *Server) tasksText(r *request, specs []*spec.Spec) (*answer, error) {
	nets := map[string]bool{}
	for _, v := range r.URL.Query()["containerNetworks"] {
		for n := range strings.SplitSeq(v, ",") {
			nets[n] = true
		}
	}
	var b []byte
	for _, sp := range specs {
		if sp.App == nil {
			continue
		}
		running := reachable(r.snap, sp)
		safe := spec.SafeID(sp.ID)
		ports := sp.App.Ports()
		if len(ports) == 0 {
			b = append(b, safe+"\t \t"...)
			for _, i := range running {
				b = append(b, i.Host+"\t"...)
			}
			b = append(b, '\n')
			continue
		}
		at := 0
		for _, p := range ports {
			line := fmt.Sprintf("%s\t%d\t", safe, p.ServicePort)
			for _, i := range running {
				t := &i.Tasks[0]
				switch {
				case p.HostPort != nil && at < len(t.HostPorts):
					line += fmt.Sprintf("%s:%d\t", i.Host, t.HostPorts[at])
				case p.HostPort == nil && len(t.Networks) > 0 && (nets["*"] || nets[sp.App.Networks[0].Name]):
					line += fmt.Sprintf("%s:%d\t", t.Networks[0].IP, p.ContainerPort)
				}
			}
			if p.HostPort != nil {
				at++
			} else if !nets["*"] && !nets[sp.App.Networks[0].Name] {
				continue // nobody outside the container's network can reach it
			}
			b = append(b, line...)
			b = append(b, '\n')
		}
	}
	return &answer{status: http.StatusOK, body: b, kind: "text/plain"}, nil
}

// reachable lists the instances that proxies may send requests to: those that run and that nobody is about to kill. Of an
// app with health checks only the healthy ones, unless none is: then a proxy is better off trying than with nothing.
func reachable(snap *core.Snapshot, sp *spec.Spec) []*core.Instance {
	var running, healthy []*core.Instance
	for _, i := range snap.Instances(sp.ID) {
		if i.Condition != core.Running || i.KillAt != 0 || i.Goal != core.GoalRunning || len(i.Tasks) == 0 || i.Tasks[0].State != mesosv1.TaskState_TASK_RUNNING.String() {
			continue
		}
		running = append(running, i)
		if i.Healthy != nil && *i.Healthy {
			healthy = append(healthy, i)
		}
	}
	if sp.HasHealthChecks() && len(healthy) > 0 {
		return healthy
	}
	return running
}

// appsOf are the apps that a path names: one, or all beneath a group when it ends in "/*".
func (r *request) appsOf() ([]*spec.Spec, error) {
	group, ok := strings.CutSuffix(r.id, "/*")
	if !ok {
		sp, err := r.app(r.id)
		if err != nil {
			return nil, err
		}
		return []*spec.Spec{sp}, nil
	}
	if group == "" {
		group = spec.RootID
	}
	var out []*spec.Spec
	for sp := range r.snap.Root.Specs(group) {
		if sp.App != nil {
			out = append(out, sp)
		}
	}
	return out, nil
}

func (s *Server) appTasks(r *request) (*answer, error) {
	apps, err := r.appsOf()
	if err != nil {
		return nil, err
	}
	if wantsText(r) {
		return s.tasksText(r, apps)
	}
	out := []taskJSON{}
	w := newRenderer(r.snap, s.cfg.Now())
	for _, sp := range apps {
		out = append(out, w.tasks(r.snap.Instances(sp.ID), sp.App.ServicePorts())...)
	}
	return jsonAnswer(http.StatusOK, struct {
		Tasks []taskJSON `json:"tasks"`
	}{out})
}

func (s *Server) killAppTasks(r *request) (*answer, error) {
	sp, err := r.app(r.id)
	if err != nil {
		return nil, err
	}
	host := r.URL.Query().Get("host")
	var victims []*core.Instance
	for _, i := range r.snap.Instances(sp.ID) {
		if visible(i) && (host == "" || host == "*" || strings.Contains(i.Host, host)) {
			victims = append(victims, i)
		}
	}
	return s.kill(r, victims, false)
}

func (s *Server) killAppTask(r *request) (*answer, error) {
	// go-marathon makes the app's id of everything before the task id's last dot, which was right for task ids up to 1.7.
	if at := strings.Index(r.id, ".instance-"); at > 0 && r.snap.Root.Get(r.id) == nil {
		r.id = r.id[:at]
	}
	sp, err := r.app(r.id)
	if err != nil {
		return nil, err
	}
	for _, i := range r.snap.Instances(sp.ID) {
		if visible(i) && slices.ContainsFunc(i.Tasks, func(t core.Task) bool { return t.ID == r.tail }) {
			return s.kill(r, []*core.Instance{i}, true)
		}
	}
	return nil, &core.NotFound{What: fmt.Sprintf("Task '%s' does not exist", r.tail)}
}

func (s *Server) killTasks(r *request) (*answer, error) {
	v, err := r.read()
	if err != nil {
		return nil, err
	}
	o, _ := v.(spec.Object)
	list, ok := o["ids"].([]any)
	if !ok {
		return nil, &spec.Invalid{Message: spec.MessageInvalidJSON, Problems: []spec.Problem{{Path: "/ids", Errors: []string{"error.path.missing"}}}}
	}
	var victims []*core.Instance
	for _, x := range list {
		id, _ := x.(string)
		_, inst, _, err := core.ParseTaskID(id)
		if err != nil {
			return nil, &core.BadRequest{What: err.Error()}
		}
		if i := r.snap.Instance(inst); i != nil && visible(i) && !slices.Contains(victims, i) {
			victims = append(victims, i)
		}
	}
	return s.kill(r, victims, false)
}

// kill ends instances: they start again, or are wiped, or the apps are scaled down by their number.
func (s *Server) kill(r *request, victims []*core.Instance, single bool) (*answer, error) {
	scale, wipe := r.flag("scale", false), r.flag("wipe", false)
	if scale && wipe {
		return nil, &core.BadRequest{What: "You cannot use scale and wipe at the same time."}
	}
	ids := make([]string, len(victims))
	perApp := map[string]int{}
	for k, i := range victims {
		ids[k] = i.ID
		perApp[i.SpecID]++
	}
	if scale {
		res, err := s.update(r, core.Update{
			Force: r.flag("force", false), Sentence: ids,
			Mutate: func(root *spec.Root, now spec.Version, _ spec.History) error {
				for id, n := range perApp {
					sp := root.Get(id)
					if sp == nil {
						return noApp(id)
					}
					if err := root.Put(sp.WithInstances(max(0, sp.Instances()-n)), now, false); err != nil {
						return err
					}
				}
				return nil
			},
		})
		if err != nil {
			return nil, err
		}
		return deployed(http.StatusOK, res, nil)
	}
	if _, err := s.killNow(r.Context(), ids, wipe); err != nil {
		return nil, err
	}
	w := newRenderer(r.snap, s.cfg.Now())
	tasks := w.tasks(victims, nil)
	if single && len(tasks) > 0 {
		return jsonAnswer(http.StatusOK, struct {
			Task taskJSON `json:"task"`
		}{tasks[0]})
	}
	return jsonAnswer(http.StatusOK, struct {
		Tasks []taskJSON `json:"tasks"`
	}{tasks})
}

func (s *Server) killNow(ctx context.Context, ids []string, wipe bool) ([]*core.Instance, error) {
	v, err := s.backend.Do(ctx, func(token any) core.Event {
		return core.KillInstances{Token: token, IDs: ids, Wipe: wipe}
	})
	killed, _ := v.([]*core.Instance)
	return killed, err
}
