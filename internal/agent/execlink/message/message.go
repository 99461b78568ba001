package message

import "time"

// Up is one message from helper to agent; exactly one field is set.
type Up struct {
	Subscribe *Subscribe    `json:"subscribe,omitempty"`
	Update    *Update       `json:"update,omitempty"`
	Launch    *NestedLaunch `json:"launch,omitempty"`
	Wait      *NestedWait   `json:"wait,omitempty"`
	Kill      *NestedKill   `json:"kill,omitempty"`
	Remove    *NestedRemove `json:"remove,omitempty"`
}

// Down is one message from agent to helper; exactly one field is set.
type Down struct {
	Subscribed   *Subscribed `json:"subscribed,omitempty"`
	Launch       *Launch     `json:"launch,omitempty"`
	Kill         *Kill       `json:"kill,omitempty"`
	Acknowledged *Ack        `json:"acknowledged,omitempty"`
	Result       *Result     `json:"result,omitempty"`
	Shutdown     bool        `json:"shutdown,omitempty"`
	Error        string      `json:"error,omitempty"`
	Heartbeat    bool        `json:"heartbeat,omitempty"`
}

// Subscribe opens the conversation. The token proves which container the helper stands beside.
type Subscribe struct {
	ContainerID string `json:"container_id"`
	FrameworkID string `json:"framework_id"`
	ExecutorID  string `json:"executor_id"`
	Token       string `json:"token"`
	// Tasks are the encoded TaskInfos whose first update the agent has not acknowledged, or that run: the agent re-learns
	// what it forgot. The helper keeps them as opaque bytes.
	Tasks   [][]byte `json:"tasks,omitempty"`
	Updates []Update `json:"updates,omitempty"`
}

// Update is a TaskStatus of the helper's own making.
type Update struct {
	TaskID    string       `json:"task_id"`
	State     string       `json:"state"`            // "TASK_RUNNING"
	Reason    string       `json:"reason,omitempty"` // "REASON_…"
	Message   string       `json:"message,omitempty"`
	UUID      []byte       `json:"uuid"`
	Timestamp float64      `json:"timestamp"` // seconds since the epoch
	Healthy   *bool        `json:"healthy,omitempty"`
	Check     *CheckStatus `json:"check,omitempty"`
	// Limitation is an encoded TaskResourceLimitation, passed through from a nested container's end.
	Limitation []byte `json:"limitation,omitempty"`
	// Data and Labels go into the TaskStatus as they are.
	Data   []byte            `json:"data,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
}

// CheckStatus is the latest result of a task's check; the field of its type is nil until there is one.
type CheckStatus struct {
	Type       string  `json:"type"` // COMMAND, HTTP, TCP
	ExitCode   *int32  `json:"exit_code,omitempty"`
	StatusCode *uint32 `json:"status_code,omitempty"`
	Succeeded  *bool   `json:"succeeded,omitempty"`
}

// Subscribed answers Subscribe.
type Subscribed struct {
	ContainerID string `json:"container_id"`
	// TaskKilling: the framework understands TASK_KILLING.
	TaskKilling bool `json:"task_killing,omitempty"`
	// Checkpoint: the framework wants its executors to outlive the agent.
	Checkpoint bool `json:"checkpoint,omitempty"`
}

// Launch starts tasks: one for the command executor, a group for the default executor.
type Launch struct {
	Tasks []Task `json:"tasks"`
	Group bool   `json:"group,omitempty"`
}

// Task is what a helper needs of a TaskInfo.
type Task struct {
	ID            string         `json:"id"`
	Command       *Command       `json:"command,omitempty"`
	KillGrace     *time.Duration `json:"kill_grace,omitempty"`
	MaxCompletion *time.Duration `json:"max_completion,omitempty"`
	Health        *Check         `json:"health,omitempty"`
	Check         *Check         `json:"check,omitempty"`
	// Raw is the encoded TaskInfo, given back in Subscribe and NestedLaunch.
	Raw []byte `json:"raw,omitempty"`
}

// Command is a CommandInfo without its URIs, which the agent fetches.
type Command struct {
	Shell     bool     `json:"shell"`
	Value     string   `json:"value,omitempty"`
	Arguments []string `json:"arguments,omitempty"`
	Env       []string `json:"env,omitempty"` // "KEY=value"
}

// Check is a CheckInfo or a HealthCheck with its defaults filled in.
type Check struct {
	Type     string        `json:"type"` // COMMAND, HTTP, TCP
	Command  *Command      `json:"command,omitempty"`
	Scheme   string        `json:"scheme,omitempty"` // http, https
	Port     uint16        `json:"port,omitempty"`
	Path     string        `json:"path,omitempty"`
	IPv6     bool          `json:"ipv6,omitempty"`
	Delay    time.Duration `json:"delay"`
	Interval time.Duration `json:"interval"`
	Timeout  time.Duration `json:"timeout"`
	// Failures and Grace are for health checks only.
	Failures uint32        `json:"failures,omitempty"`
	Grace    time.Duration `json:"grace,omitempty"`
}

// Kill asks for the end of one task.
type Kill struct {
	TaskID string         `json:"task_id"`
	Grace  *time.Duration `json:"grace,omitempty"`
}

// Ack says that the agent has made an update durable.
type Ack struct {
	TaskID string `json:"task_id"`
	UUID   []byte `json:"uuid"`
}

// NestedLaunch asks the agent for a container below the helper's own. Request numbers the question; Result answers it.
type NestedLaunch struct {
	Request     uint64 `json:"request"`
	ContainerID string `json:"container_id"` // the whole path, joined by "."
	TaskID      string `json:"task_id,omitempty"`
	// Task is the encoded TaskInfo of a task group's member.
	Task []byte `json:"task,omitempty"`
	// Command is set when Task is not: a check that runs inside its task's container.
	Command *Command `json:"command,omitempty"`
}

// NestedWait asks to be told when a nested container has ended.
type NestedWait struct {
	Request     uint64 `json:"request"`
	ContainerID string `json:"container_id"`
}

// NestedKill sends a signal to a nested container; SIGKILL destroys it.
type NestedKill struct {
	Request     uint64 `json:"request"`
	ContainerID string `json:"container_id"`
	Signal      int    `json:"signal"`
}

// NestedRemove forgets an ended nested container.
type NestedRemove struct {
	Request     uint64 `json:"request"`
	ContainerID string `json:"container_id"`
}

// Result answers one nested request. The other fields are for NestedWait.
type Result struct {
	Request    uint64 `json:"request"`
	Error      string `json:"error,omitempty"`
	NotFound   bool   `json:"not_found,omitempty"`
	Status     *int32 `json:"status,omitempty"` // raw wait status
	State      string `json:"state,omitempty"`
	Reason     string `json:"reason,omitempty"`
	Message    string `json:"message,omitempty"`
	Limitation []byte `json:"limitation,omitempty"`
}
