package api

import (
	"fmt"
	"slices"
	"strings"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// embeds says what is shown besides the definitions.
type embeds struct {
	tasks, counts, deployments, readiness, lastFailure, stats bool
	groups, apps, pods                                        bool // of groups
}

// embedsOf reads the embed parameters: the prefixes app., apps. and group.apps. mean the same, what is unknown is ignored.
func embedsOf(list []string) embeds {
	var e embeds
	for _, v := range list {
		switch v {
		case "group.groups":
			e.groups = true
			continue
		case "group.apps":
			e.apps = true
			continue
		case "group.pods":
			e.pods = true
			continue
		}
		v = strings.TrimPrefix(v, "group.")
		v = strings.TrimPrefix(strings.TrimPrefix(v, "apps."), "app.")
		switch v {
		case "tasks":
			e.tasks, e.deployments = true, true
		case "counts":
			e.counts = true
		case "deployments":
			e.deployments = true
		case "readiness":
			e.readiness = true
		case "lastTaskFailure":
			e.lastFailure = true
		case "failures":
			e.tasks, e.lastFailure, e.deployments = true, true, true
		case "taskStats":
			e.stats = true
		}
	}
	return e
}

// renderer puts answers together from one snapshot.
type renderer struct {
	snap *core.Snapshot
	now  time.Time
}

func newRenderer(snap *core.Snapshot, now time.Time) *renderer {
	return &renderer{snap: snap, now: now}
}

type idRef struct {
	ID string `json:"id"`
}

type lifeCounts struct {
	Staged    int `json:"staged"`
	Running   int `json:"running"`
	Healthy   int `json:"healthy"`
	Unhealthy int `json:"unhealthy"`
}

// count adds an instance to the counts as Marathon counts tasks.
func (c *lifeCounts) count(i *core.Instance) {
	for k := range i.Tasks {
		switch i.Tasks[k].State {
		case mesosv1.TaskState_TASK_STAGING.String():
			c.Staged++
		case mesosv1.TaskState_TASK_RUNNING.String():
			c.Running++
		}
	}
	if len(i.Health) == 0 {
		return
	}
	for _, h := range i.Health {
		if !h.Alive {
			c.Unhealthy++
			return
		}
	}
	if i.Condition == core.Running {
		c.Healthy++
	}
}

// visible reports whether an instance is shown among the tasks: those that only wait for an offer are not.
func visible(i *core.Instance) bool {
	return i.Condition != core.Scheduled && !i.Condition.Terminal() && len(i.Tasks) > 0
}

// app appends an app with what is embedded.
func (w *renderer) app(b []byte, s *spec.Spec, e embeds) []byte {
	base := s.JSON()
	b = append(b, base[:len(base)-1]...)
	add := func(key string, v any) {
		x, err := spec.Encode(v)
		if err != nil {
			return
		}
		b = fmt.Appendf(b, ",%q:", key)
		b = append(b, x...)
	}
	// Marathon itself has not emitted ports since 1.5, which broke tools that still read them.
	add("ports", s.App.ServicePorts())
	instances := w.snap.Instances(s.ID)
	if e.counts {
		var c lifeCounts
		for _, i := range instances {
			c.count(i)
		}
		b = fmt.Appendf(b, `,"tasksStaged":%d,"tasksRunning":%d,"tasksHealthy":%d,"tasksUnhealthy":%d`, c.Staged, c.Running, c.Healthy, c.Unhealthy)
	}
	if e.deployments {
		refs := []idRef{}
		for _, d := range w.snap.DeploymentsOf(s.ID) {
			refs = append(refs, idRef{d.ID})
		}
		add("deployments", refs)
	}
	if e.readiness {
		add("readinessCheckResults", readinessOf(instances))
	}
	if e.tasks {
		add("tasks", w.tasks(instances, nil))
	}
	if e.lastFailure {
		if f := w.snap.Failure(s.ID); f != nil {
			add("lastTaskFailure", f)
		}
	}
	if e.stats {
		add("tasksStats", w.stats(s, instances))
	}
	return append(b, '}')
}

type lastResponse struct {
	Status      int    `json:"status"`
	ContentType string `json:"contentType"`
	Body        string `json:"body"`
}

type readinessResult struct {
	Name         string        `json:"name"`
	TaskID       string        `json:"taskId"`
	Ready        bool          `json:"ready"`
	LastResponse *lastResponse `json:"lastResponse,omitempty"`
}

func readinessOf(instances []*core.Instance) []readinessResult {
	out := []readinessResult{}
	for _, i := range instances {
		if i.Readiness == nil || len(i.Tasks) == 0 {
			continue
		}
		r := readinessResult{Name: i.Readiness.Name, TaskID: i.Tasks[0].ID, Ready: i.Readiness.Ready}
		if i.Readiness.ContentType != "" || i.Readiness.Body != "" {
			r.LastResponse = &lastResponse{i.Readiness.Status, i.Readiness.ContentType, i.Readiness.Body}
		}
		out = append(out, r)
	}
	return out
}

type healthJSON struct {
	Alive               bool          `json:"alive"`
	ConsecutiveFailures int           `json:"consecutiveFailures"`
	FirstSuccess        *spec.Version `json:"firstSuccess,omitempty"`
	LastSuccess         *spec.Version `json:"lastSuccess,omitempty"`
	LastFailure         *spec.Version `json:"lastFailure,omitempty"`
	LastFailureCause    string        `json:"lastFailureCause,omitempty"`
	InstanceID          string        `json:"instanceId"`
}

type volumeJSON struct {
	RunSpecID     string `json:"runSpecId"`
	ContainerPath string `json:"containerPath"`
	UUID          string `json:"uuid"`
	PersistenceID string `json:"persistenceId"`
}

type taskJSON struct {
	AppID        string             `json:"appId"`
	Health       []healthJSON       `json:"healthCheckResults,omitempty"`
	CheckResult  any                `json:"checkResult,omitempty"`
	Host         string             `json:"host"`
	ID           string             `json:"id"`
	Addresses    []core.TaskAddress `json:"ipAddresses"`
	Ports        []int              `json:"ports"`
	ServicePorts []int              `json:"servicePorts,omitempty"`
	AgentID      string             `json:"slaveId"`
	State        string             `json:"state"`
	StagedAt     *spec.Version      `json:"stagedAt,omitempty"`
	StartedAt    *spec.Version      `json:"startedAt,omitempty"`
	Version      *spec.Version      `json:"version,omitempty"`
	LocalVolumes []volumeJSON       `json:"localVolumes"`
	Region       string             `json:"region,omitempty"`
	Zone         string             `json:"zone,omitempty"`
	Role         string             `json:"role,omitempty"`
}

// taskOf is one task as the API shows it.
func taskOf(i *core.Instance, t *core.Task, servicePorts []int) taskJSON {
	j := taskJSON{
		AppID: i.SpecID, Host: i.Host, ID: t.ID, Addresses: core.TaskAddresses(t), Ports: core.PortsOf(t), AgentID: i.AgentID, State: t.State,
		CheckResult: t.Check, LocalVolumes: []volumeJSON{}, Region: i.Region, Zone: i.Zone, Role: i.Role, ServicePorts: servicePorts,
	}
	if i.Condition == core.UnreachableInactive {
		j.Ports = []int{}
	} else {
		v := i.Version
		j.Version = &v
		if t.StagedAt != 0 {
			x := t.StagedAt
			j.StagedAt = &x
		}
		if t.StartedAt != 0 {
			x := t.StartedAt
			j.StartedAt = &x
		}
	}
	for _, h := range i.Health {
		j.Health = append(j.Health, healthJSON{h.Alive, h.ConsecutiveFailures, h.FirstSuccess, h.LastSuccess, h.LastFailure, h.LastFailureCause, i.ID})
	}
	for _, v := range i.Volumes {
		j.LocalVolumes = append(j.LocalVolumes, volumeJSON{i.SpecID, v.ContainerPath, v.UUID, v.PersistenceID})
	}
	return j
}

func (w *renderer) tasks(instances []*core.Instance, servicePorts []int) []taskJSON {
	out := []taskJSON{}
	for _, i := range instances {
		if !visible(i) {
			continue
		}
		for k := range i.Tasks {
			out = append(out, taskOf(i, &i.Tasks[k], servicePorts))
		}
	}
	return out
}

type statsJSON struct {
	Stats struct {
		Counts   lifeCounts `json:"counts"`
		LifeTime *lifeTime  `json:"lifeTime,omitempty"`
	} `json:"stats"`
}

type lifeTime struct {
	Average float64 `json:"averageSeconds"`
	Median  float64 `json:"medianSeconds"`
}

// stats sums up the tasks of an app: all, those of the present configuration, those of an earlier one, and those started
// since the last scaling. A sum over nothing is left out.
func (w *renderer) stats(s *spec.Spec, instances []*core.Instance) map[string]statsJSON {
	out := map[string]statsJSON{}
	add := func(key string, want func(*core.Instance) bool) {
		var st statsJSON
		var ages []float64
		n := 0
		for _, i := range instances {
			if !visible(i) || !want(i) {
				continue
			}
			n++
			st.Stats.Counts.count(i)
			if i.ActiveSince != 0 {
				ages = append(ages, w.now.Sub(i.ActiveSince.Time()).Seconds())
			}
		}
		if n == 0 {
			return
		}
		if len(ages) > 0 {
			slices.Sort(ages)
			sum := 0.0
			for _, a := range ages {
				sum += a
			}
			st.Stats.LifeTime = &lifeTime{sum / float64(len(ages)), ages[len(ages)/2]}
		}
		out[key] = st
	}
	add("totalSummary", func(*core.Instance) bool { return true })
	add("startedAfterLastScaling", func(i *core.Instance) bool { return i.StagedAt >= s.ScaledAt })
	add("withLatestConfig", func(i *core.Instance) bool { return i.Version >= s.ConfigAt })
	add("withOutdatedConfig", func(i *core.Instance) bool { return i.Version < s.ConfigAt })
	return out
}
