package api

import (
	"fmt"
	"net/http"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

func noPod(id string) error { return &core.NotFound{What: fmt.Sprintf("Pod '%s' does not exist", id)} }

func (r *request) pod(id string) (*spec.Spec, error) {
	if s := r.snap.Root.Get(id); s != nil && s.Pod != nil {
		return s, nil
	}
	return nil, noPod(id)
}

func (s *Server) headPods(*request) (*answer, error) { return &answer{status: http.StatusOK}, nil }

func (r *request) pods() []*spec.Spec {
	out := []*spec.Spec{}
	for sp := range r.snap.Root.Specs(spec.RootID) {
		if sp.Pod != nil {
			out = append(out, sp)
		}
	}
	return out
}

func (s *Server) listPods(r *request) (*answer, error) {
	b := []byte{'['}
	for i, sp := range r.pods() {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, sp.JSON()...)
	}
	return &answer{status: http.StatusOK, body: append(b, ']')}, nil
}

func (s *Server) getPod(r *request) (*answer, error) {
	sp, err := r.pod(r.id)
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusOK, body: sp.JSON()}, nil
}

func (s *Server) createPod(r *request) (*answer, error) { return s.changePod(r, "") }
func (s *Server) putPod(r *request) (*answer, error)    { return s.changePod(r, r.id) }

// changePod creates a pod (want is empty) or changes the one with that id.
func (s *Server) changePod(r *request, want string) (*answer, error) {
	v, err := r.read()
	if err != nil {
		return nil, err
	}
	if o, ok := v.(spec.Object); ok && want != "" && o["id"] == nil {
		o["id"] = want
	}
	pod, err := spec.ReadPod(v, spec.RootID, s.cfg.Spec)
	if err != nil {
		return nil, err
	}
	if want != "" && pod.ID != want {
		return nil, &core.BadRequest{What: fmt.Sprintf("'%s' does not match definition's id ('%s')", want, pod.ID)}
	}
	kind, status := "pod_updated_event", http.StatusOK
	if want == "" {
		kind, status = "pod_created_event", http.StatusCreated
	}
	var put *spec.Spec
	res, err := s.update(r, core.Update{
		Force: r.flag("force", false),
		Mutate: func(root *spec.Root, now spec.Version, _ spec.History) error {
			old := root.Get(pod.ID)
			switch {
			case want == "" && old != nil && old.Pod != nil:
				return &core.Conflict{What: fmt.Sprintf("A pod with id [%s] already exists.", pod.ID)}
			case old != nil && old.App != nil:
				return &core.Conflict{What: fmt.Sprintf("An app with the path %s already exists.", pod.ID)}
			case want != "" && old == nil:
				return noPod(pod.ID)
			}
			return root.Put(spec.OfPod(pod), now, false)
		},
		Notices: func(root *spec.Root) []core.Notice {
			put = root.Get(pod.ID)
			return append([]core.Notice{{Type: kind, Fields: core.PodEvent{ClientIP: r.clientIP(), URI: r.URL.Path}}}, r.groupChanged(root, spec.ParentID(pod.ID))...)
		},
	})
	if err != nil {
		return nil, err
	}
	h := map[string]string{"Marathon-Deployment-Id": res.Deployment}
	if want == "" {
		h["Location"] = s.location(r, "/v2/pods"+pod.ID)
	}
	return &answer{status: status, body: put.JSON(), header: h}, nil
}

func (s *Server) deletePod(r *request) (*answer, error) {
	res, err := s.update(r, core.Update{
		Force: r.flag("force", false),
		Mutate: func(root *spec.Root, now spec.Version, _ spec.History) error {
			if sp := root.Get(r.id); sp == nil || sp.Pod == nil {
				return noPod(r.id)
			}
			root.Remove(r.id, now)
			return nil
		},
		Notices: func(root *spec.Root) []core.Notice {
			return append([]core.Notice{{Type: "pod_deleted_event", Fields: core.PodEvent{ClientIP: r.clientIP(), URI: r.URL.Path}}}, r.groupChanged(root, spec.ParentID(r.id))...)
		},
	})
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusAccepted, header: map[string]string{"Marathon-Deployment-Id": res.Deployment, "Location": s.location(r, "/v2/deployments/"+res.Deployment)}}, nil
}

func (s *Server) podVersions(r *request) (*answer, error) {
	if _, err := r.pod(r.id); err != nil {
		return nil, err
	}
	return jsonAnswer(http.StatusOK, versionsOf(r.snap, r.id))
}

func (s *Server) podVersion(r *request) (*answer, error) {
	v, err := spec.ParseVersion(r.tail)
	if err != nil {
		return nil, unprocessable(err)
	}
	if sp := r.snap.Spec(r.id, v); sp != nil && sp.Pod != nil {
		return &answer{status: http.StatusOK, body: sp.JSON()}, nil
	}
	return nil, &core.NotFound{What: fmt.Sprintf("Pod '%s' does not exist in version %s", r.id, v)}
}

type podNetwork struct {
	Name      string   `json:"name,omitempty"`
	Addresses []string `json:"addresses"`
}

type endpointStatus struct {
	Name     string `json:"name"`
	HostPort *int   `json:"allocatedHostPort,omitempty"`
	Healthy  *bool  `json:"healthy,omitempty"`
}

type podCondition struct {
	Name        string       `json:"name"`
	Value       string       `json:"value"`
	Reason      string       `json:"reason"`
	LastChanged spec.Version `json:"lastChanged"`
	LastUpdated spec.Version `json:"lastUpdated"`
}

type termination struct {
	ExitCode *int   `json:"exitCode,omitempty"`
	Message  string `json:"message,omitempty"`
}

type containerStatus struct {
	Name        string           `json:"name"`
	Status      string           `json:"status"`
	StatusSince spec.Version     `json:"statusSince"`
	ContainerID string           `json:"containerId,omitempty"`
	Endpoints   []endpointStatus `json:"endpoints"`
	Conditions  []podCondition   `json:"conditions"`
	Resources   *spec.Resources  `json:"resources,omitempty"`
	Termination *termination     `json:"termination,omitempty"`
	LastUpdated spec.Version     `json:"lastUpdated"`
	LastChanged spec.Version     `json:"lastChanged"`
}

type podInstanceStatus struct {
	ID            string            `json:"id"`
	Status        string            `json:"status"`
	StatusSince   spec.Version      `json:"statusSince"`
	AgentHostname string            `json:"agentHostname,omitempty"`
	AgentID       string            `json:"agentId,omitempty"`
	AgentRegion   string            `json:"agentRegion,omitempty"`
	AgentZone     string            `json:"agentZone,omitempty"`
	Conditions    []podCondition    `json:"conditions"`
	Resources     *spec.Resources   `json:"resources,omitempty"`
	Networks      []podNetwork      `json:"networks"`
	Containers    []containerStatus `json:"containers"`
	SpecReference string            `json:"specReference"`
	LocalVolumes  []volumeJSON      `json:"localVolumes"`
	Role          string            `json:"role"`
	LastUpdated   spec.Version      `json:"lastUpdated"`
	LastChanged   spec.Version      `json:"lastChanged"`
}

type podStatusJSON struct {
	ID          string              `json:"id"`
	Spec        *spec.Pod           `json:"spec"`
	Status      string              `json:"status"`
	StatusSince spec.Version        `json:"statusSince"`
	Instances   []podInstanceStatus `json:"instances"`
	History     []any               `json:"terminationHistory"`
	LastUpdated spec.Version        `json:"lastUpdated"`
	LastChanged spec.Version        `json:"lastChanged"`
}

func podInstanceState(i *core.Instance) string {
	switch i.Condition {
	case core.Scheduled, core.Provisioned:
		return "PENDING"
	case core.Staging, core.Starting:
		return "STAGING"
	case core.Running:
		if i.Healthy != nil && !*i.Healthy {
			return "DEGRADED"
		}
		return "STABLE"
	case core.Unreachable, core.UnreachableInactive, core.Killing:
		return "DEGRADED"
	}
	return "TERMINAL"
}

func (w *renderer) podStatus(sp *spec.Spec) podStatusJSON {
	out := podStatusJSON{ID: sp.ID, Spec: sp.Pod, Status: "DEGRADED", StatusSince: sp.Version, Instances: []podInstanceStatus{}, History: []any{}, LastUpdated: sp.Version, LastChanged: sp.Version}
	stable := 0
	for _, i := range w.snap.Instances(sp.ID) {
		if i.Condition == core.Scheduled && i.Incarnation <= 1 || i.Goal == core.GoalStopped && i.Condition.Terminal() {
			continue
		}
		p := w.podInstance(sp, i)
		if p.Status == "STABLE" {
			stable++
		}
		out.LastChanged = max(out.LastChanged, i.Since)
		out.Instances = append(out.Instances, p)
	}
	out.LastUpdated = max(out.LastChanged, out.LastUpdated)
	out.StatusSince = out.LastChanged
	if stable >= sp.Instances() && len(out.Instances) == sp.Instances() {
		out.Status = "STABLE"
	}
	return out
}

func (w *renderer) podInstance(sp *spec.Spec, i *core.Instance) podInstanceStatus {
	run := w.snap.Spec(sp.ID, i.Version)
	if run == nil || run.Pod == nil {
		run = sp
	}
	total := run.Total()
	p := podInstanceStatus{
		ID: i.ID, Status: podInstanceState(i), StatusSince: i.Since, AgentHostname: i.Host, AgentID: i.AgentID, AgentRegion: i.Region, AgentZone: i.Zone,
		Conditions: []podCondition{}, Resources: &total, Networks: []podNetwork{}, Containers: []containerStatus{}, LocalVolumes: []volumeJSON{},
		SpecReference: fmt.Sprintf("/v2/pods%s::versions/%s", sp.ID, i.Version), Role: i.Role, LastUpdated: i.Since, LastChanged: i.Since,
	}
	for _, v := range i.Volumes {
		p.LocalVolumes = append(p.LocalVolumes, volumeJSON{sp.ID, v.ContainerPath, v.UUID, v.PersistenceID})
	}
	seen := map[string]int{}
	for k := range i.Tasks {
		t := &i.Tasks[k]
		for _, n := range t.Networks {
			at, ok := seen[n.Network]
			if !ok {
				at = len(p.Networks)
				seen[n.Network] = at
				p.Networks = append(p.Networks, podNetwork{Name: n.Network, Addresses: []string{}})
			}
			if !strings.Contains(strings.Join(p.Networks[at].Addresses, " "), n.IP) {
				p.Networks[at].Addresses = append(p.Networks[at].Addresses, n.IP)
			}
		}
		p.Containers = append(p.Containers, podContainer(run.Pod, t))
	}
	return p
}

func podContainer(pod *spec.Pod, t *core.Task) containerStatus {
	since := max(t.StagedAt, t.StartedAt, t.EndedAt)
	c := containerStatus{Name: t.Container, Status: t.State, StatusSince: since, ContainerID: t.ID, Endpoints: []endpointStatus{}, Conditions: []podCondition{}, LastUpdated: since, LastChanged: since}
	if t.Condition.Terminal() {
		c.Termination = &termination{Message: t.Message}
		if t.State == mesosv1.TaskState_TASK_FINISHED.String() {
			c.Termination.ExitCode = new(int)
		}
	}
	for k := range pod.Containers {
		def := &pod.Containers[k]
		if def.Name != t.Container {
			continue
		}
		res := def.Resources
		c.Resources = &res
		at := 0
		for _, e := range def.Endpoints {
			es := endpointStatus{Name: e.Name, Healthy: t.Healthy}
			if e.HostPort != nil && at < len(t.HostPorts) {
				port := t.HostPorts[at]
				es.HostPort = &port
				at++
			}
			c.Endpoints = append(c.Endpoints, es)
		}
		if def.HealthCheck != nil {
			cond := podCondition{Name: "healthy", Value: "false", Reason: "health-unreported-by-mesos", LastChanged: since, LastUpdated: since}
			if t.Healthy != nil {
				cond.Value, cond.Reason = fmt.Sprint(*t.Healthy), "health-reported-by-mesos"
			}
			c.Conditions = append(c.Conditions, cond)
		}
	}
	return c
}

func (s *Server) podsStatus(r *request) (*answer, error) {
	w := newRenderer(r.snap, s.cfg.Now())
	out := []podStatusJSON{}
	for _, sp := range r.pods() {
		out = append(out, w.podStatus(sp))
	}
	return jsonAnswer(http.StatusOK, out)
}

func (s *Server) podStatus(r *request) (*answer, error) {
	sp, err := r.pod(r.id)
	if err != nil {
		return nil, err
	}
	return jsonAnswer(http.StatusOK, newRenderer(r.snap, s.cfg.Now()).podStatus(sp))
}

type instanceJSON struct {
	InstanceID string `json:"instanceId"`
	State      struct {
		Condition   core.Condition `json:"condition"`
		Since       spec.Version   `json:"since"`
		ActiveSince *spec.Version  `json:"activeSince,omitempty"`
		Healthy     *bool          `json:"healthy,omitempty"`
		Goal        core.Goal      `json:"goal"`
	} `json:"state"`
	AgentInfo struct {
		Host       string   `json:"host"`
		AgentID    string   `json:"agentId"`
		Region     string   `json:"region,omitempty"`
		Zone       string   `json:"zone,omitempty"`
		Attributes []string `json:"attributes"`
	} `json:"agentInfo"`
	Version     spec.Version             `json:"runSpecVersion"`
	Unreachable spec.UnreachableStrategy `json:"unreachableStrategy"`
}

func instanceOf(sp *spec.Spec, i *core.Instance) instanceJSON {
	j := instanceJSON{InstanceID: i.ID, Version: i.Version, Unreachable: sp.Unreachable()}
	j.State.Condition, j.State.Since, j.State.ActiveSince, j.State.Healthy, j.State.Goal = i.Condition, i.Since, at(i.ActiveSince), i.Healthy, i.Goal
	j.AgentInfo.Host, j.AgentInfo.AgentID, j.AgentInfo.Region, j.AgentInfo.Zone, j.AgentInfo.Attributes = i.Host, i.AgentID, i.Region, i.Zone, []string{}
	return j
}

func (s *Server) killPodInstance(r *request) (*answer, error) {
	sp, err := r.pod(r.id)
	if err != nil {
		return nil, err
	}
	i := r.snap.Instance(r.tail)
	if i == nil || i.SpecID != sp.ID {
		return nil, &core.NotFound{What: fmt.Sprintf("Instance '%s' of pod '%s' does not exist", r.tail, sp.ID)}
	}
	if _, err := s.killNow(r.Context(), []string{i.ID}, r.flag("wipe", false)); err != nil {
		return nil, err
	}
	return jsonAnswer(http.StatusOK, instanceOf(sp, i))
}

func (s *Server) killPodInstances(r *request) (*answer, error) {
	sp, err := r.pod(r.id)
	if err != nil {
		return nil, err
	}
	v, err := r.read()
	if err != nil {
		return nil, err
	}
	list, ok := v.([]any)
	if !ok {
		return nil, &spec.Invalid{Message: spec.MessageInvalidJSON, Problems: []spec.Problem{{Path: "/", Errors: []string{"error.expected.jsarray"}}}}
	}
	out := []instanceJSON{}
	var ids []string
	for _, x := range list {
		id, _ := x.(string)
		if i := r.snap.Instance(id); i != nil && i.SpecID == sp.ID {
			ids = append(ids, id)
			out = append(out, instanceOf(sp, i))
		}
	}
	if _, err := s.killNow(r.Context(), ids, r.flag("wipe", false)); err != nil {
		return nil, err
	}
	return jsonAnswer(http.StatusOK, out)
}
