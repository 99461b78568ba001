package core

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// Condition is where an instance or a task stands (Marathon's names).
type Condition string

// The conditions. Those after UnreachableInactive are terminal.
const (
	Scheduled           Condition = "Scheduled"   // wanted, no offer taken yet
	Provisioned         Condition = "Provisioned" // an offer was taken, nothing heard yet
	Staging             Condition = "Staging"
	Starting            Condition = "Starting"
	Running             Condition = "Running"
	Killing             Condition = "Killing"
	Unreachable         Condition = "Unreachable"
	UnreachableInactive Condition = "UnreachableInactive" // has been replaced
	Errored             Condition = "Error"
	Failed              Condition = "Failed"
	Dropped             Condition = "Dropped"
	Gone                Condition = "Gone"
	Unknown             Condition = "Unknown"
	Finished            Condition = "Finished"
	Killed              Condition = "Killed"
)

// Terminal reports whether nothing runs any more and nothing will by itself.
func (c Condition) Terminal() bool {
	switch c {
	case Errored, Failed, Dropped, Gone, Unknown, Finished, Killed:
		return true
	}
	return false
}

// failure reports whether ending like this delays the next start. A task that finished does too: a service shouldn't.
func (c Condition) failure() bool {
	switch c {
	case Errored, Failed, Dropped, Gone, Finished:
		return true
	}
	return false
}

// Goal is what an instance shall be.
type Goal string

// The goals.
const (
	GoalRunning        Goal = "Running"
	GoalStopped        Goal = "Stopped"        // ended, but its volumes stay for a later start
	GoalDecommissioned Goal = "Decommissioned" // ended and forgotten
)

// Instance is one instance of an app or a pod. It is immutable: a change puts another one in its place.
type Instance struct {
	ID          string            `json:"id"` // <safe id>.instance-<uuid>
	SpecID      string            `json:"specId"`
	Version     spec.Version      `json:"version"` // of the definition that it runs, or will run
	Goal        Goal              `json:"goal"`
	Incarnation int               `json:"incarnation"` // counts the starts, from 1
	Condition   Condition         `json:"condition"`
	Since       spec.Version      `json:"since"`
	ActiveSince spec.Version      `json:"activeSince,omitzero"` // when it began to run
	StagedAt    spec.Version      `json:"stagedAt,omitzero"`
	AgentID     string            `json:"agentId,omitempty"`
	Host        string            `json:"host,omitempty"`
	Region      string            `json:"region,omitempty"`
	Zone        string            `json:"zone,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"` // rendered as constraints compare them
	Role        string            `json:"role,omitempty"`
	Tasks       []Task            `json:"tasks,omitempty"`
	Healthy     *bool             `json:"healthy,omitempty"` // nil: not known
	Health      []Health          `json:"health,omitempty"`  // one for each check that has a result
	Ready       bool              `json:"ready,omitempty"`
	Readiness   *Readiness        `json:"readiness,omitempty"`
	Volumes     []LocalVolume     `json:"volumes,omitempty"`
	Reserved    bool              `json:"reserved,omitempty"` // its reservation and volumes exist on AgentID
	HasRun      bool              `json:"hasRun,omitempty"`   // so its volumes may hold something

	KillAt spec.Version `json:"killAt,omitzero"` // when its tasks were asked to end last; zero: they were not
}

// Task is what Mesos runs of an instance: one for an app, one for each container of a pod.
type Task struct {
	ID        string       `json:"id"`
	Container string       `json:"container,omitempty"` // of a pod
	State     string       `json:"state"`               // TASK_*
	Condition Condition    `json:"condition"`
	StagedAt  spec.Version `json:"stagedAt,omitzero"`
	StartedAt spec.Version `json:"startedAt,omitzero"`
	HostPorts []int        `json:"hostPorts,omitempty"`
	Networks  []Address    `json:"networks,omitempty"`
	Healthy   *bool        `json:"healthy,omitempty"` // as Mesos says
	Check     any          `json:"check,omitempty"`
	Message   string       `json:"message,omitempty"`
	EndedAt   spec.Version `json:"endedAt,omitzero"`
}

// Address is one address of a task.
type Address struct {
	Network  string `json:"network,omitempty"`
	IP       string `json:"ipAddress"`
	Protocol string `json:"protocol"`
}

// Health is the state of one health check of an instance.
type Health struct {
	Index               int           `json:"index"`
	Alive               bool          `json:"alive"`
	ConsecutiveFailures int           `json:"consecutiveFailures"`
	FirstSuccess        *spec.Version `json:"firstSuccess,omitempty"`
	LastSuccess         *spec.Version `json:"lastSuccess,omitempty"`
	LastFailure         *spec.Version `json:"lastFailure,omitempty"`
	LastFailureCause    string        `json:"lastFailureCause,omitempty"`
}

// Readiness is the last answer to an instance's readiness check.
type Readiness struct {
	Name        string `json:"name"`
	Ready       bool   `json:"ready"`
	Status      int    `json:"status,omitempty"`
	ContentType string `json:"contentType,omitempty"`
	Body        string `json:"body,omitempty"`
}

// LocalVolume is a persistent volume of an instance.
type LocalVolume struct {
	ContainerPath string `json:"containerPath"`
	UUID          string `json:"uuid"`
	PersistenceID string `json:"persistenceId"`
}

// Active reports whether the instance counts among those its spec should have.
func (i *Instance) Active() bool {
	return i.Goal == GoalRunning && i.Condition != UnreachableInactive && !i.Condition.Terminal()
}

// launched reports whether there is something on an agent, or may be.
func (i *Instance) launched() bool { return i.Condition != Scheduled && !i.Condition.Terminal() }

// here reports whether the instance is wanted, or still is somewhere.
func (i *Instance) here() bool {
	return i.Condition != UnreachableInactive && (i.Active() || i.launched())
}

// task finds a task by its id.
func (i *Instance) task(id string) int {
	return slices.IndexFunc(i.Tasks, func(t Task) bool { return t.ID == id })
}

// conditionOf is the worst of the tasks' conditions.
func conditionOf(tasks []Task) Condition {
	for _, c := range []Condition{Errored, Failed, Gone, Dropped, Unreachable, Killing, Starting, Staging, Unknown, Provisioned, Running, Finished, Killed} {
		for _, t := range tasks {
			if t.Condition == c {
				return c
			}
		}
	}
	return Unknown
}

// key orders instances by spec, so that those of one spec are neighbours.
func (i *Instance) key() string { return InstanceKey(i.SpecID, i.ID) }

// InstanceKey is the key of an instance in State.Instances.
func InstanceKey(specID, id string) string { return specID + "\x00" + id }

// instanceID makes the id of an instance.
func instanceID(specID, uuid string) string { return spec.SafeID(specID) + ".instance-" + uuid }

// taskIDs are the ids of an instance's tasks for one incarnation: Marathon's grammar since 1.8.
func taskIDs(i *Instance, s *spec.Spec) []string {
	if s.Pod == nil {
		return []string{fmt.Sprintf("%s._app.%d", i.ID, i.Incarnation)}
	}
	out := make([]string, 0, len(s.Pod.Containers))
	for _, c := range s.Pod.Containers {
		out = append(out, fmt.Sprintf("%s.%s.%d", i.ID, c.Name, i.Incarnation))
	}
	return out
}

// ParseTaskID splits a task id into the spec's id, the instance's id and the incarnation. The older forms of Marathon are
// understood as far as they name a spec: <safe>.<uuid>, <safe>.marathon-<uuid>, <safe>.instance-<uuid>._app.
func ParseTaskID(id string) (specID, instance string, incarnation int, err error) {
	bad := fmt.Errorf("Invalid task id '%s'. Expected <app id>.instance-<uuid>._app.<n>", id)
	if len(id) > 255 || id == "" {
		return "", "", 0, bad
	}
	if at := strings.LastIndex(id, ".instance-"); at > 0 {
		rest := id[at+len(".instance-"):]
		uuid, tail, _ := strings.Cut(rest, ".")
		if len(uuid) != 36 {
			return "", "", 0, bad
		}
		if dot := strings.LastIndexByte(tail, '.'); dot >= 0 {
			if incarnation, err = strconv.Atoi(tail[dot+1:]); err != nil {
				return "", "", 0, bad
			}
		}
		return spec.FromSafeID(id[:at]), id[:at+len(".instance-")+36], incarnation, nil
	}
	dot := strings.LastIndexByte(id, '.')
	if dot <= 0 {
		return "", "", 0, bad
	}
	uuid := strings.TrimPrefix(id[dot+1:], "marathon-")
	if n, nerr := strconv.Atoi(uuid); nerr == nil {
		incarnation = n
		id = id[:dot]
		if dot = strings.LastIndexByte(id, '.'); dot <= 0 {
			return "", "", 0, bad
		}
		uuid = id[dot+1:]
	}
	if len(uuid) != 36 {
		return "", "", 0, bad
	}
	return spec.FromSafeID(id[:dot]), id, incarnation, nil
}
