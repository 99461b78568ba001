package core

import (
	"time"

	checkpointv1 "github.com/orchestrator/orchestrator/api/checkpoint/v1"
	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// Event is something that happened. Step takes one.
type Event interface{ event() }

// Run names one run of an executor.
type Run struct {
	Framework ids.Framework
	Executor  ids.Executor
	Container ids.Container
}

// Boot is the first event: what the checkpoint says, and which of its containers are still there.
type Boot struct {
	// Key seeds the uuids of this process; it is random.
	Key [32]byte
	// Info is the agent as the flags describe it; its id is set when an earlier process had one.
	Info *mesosv1.AgentInfo
	// Total is what the agent has after the operations that were applied to it.
	Total []*mesosv1.Resource
	// Operations await the acknowledgement of their final status.
	Operations []*mesosv1.Operation
	Destroyed  []*mesosv1.Resource
	Drain      *mesosv1.DrainConfig
	Frameworks []BootFramework
	// Rebooted: the host has started since, so that no process can have survived.
	Rebooted bool
	// Cleanup: --recover=cleanup; every executor is shut down and the agent leaves.
	Cleanup bool
}

// BootFramework is one framework of the checkpoint.
type BootFramework struct {
	Info *mesosv1.FrameworkInfo
	Runs []BootRun
}

// BootRun is one run of an executor of the checkpoint.
type BootRun struct {
	Container  ids.Container
	Executor   *checkpointv1.Executor
	Registered bool
	Completed  bool
	// Alive: the containerizer has its container.
	Alive bool
	Tasks []BootTask
}

// BootTask is one task of the checkpoint.
type BootTask struct {
	*checkpointv1.Task
	Updates []*checkpointv1.Update
}

// Tick lets timers run out. The owner sends it at the time that Next gives.
type Tick struct{}

// LinkUp: a connection to the leading master stands; nothing was said on it. What is meant for it carries its number.
type LinkUp struct{ Session uint64 }

// LinkDown: the connection is gone.
type LinkDown struct{}

// FromMaster is one message of the master.
type FromMaster struct{ Message *linkv1.Message }

// Subscribe is an executor's SUBSCRIBE, on a connection that the shell has numbered. Answered by Admit or Refuse.
type Subscribe struct {
	Conn uint64
	Call *executorv1.Call
}

// ExecutorCall is any other call of an executor. Answered by Reply.
type ExecutorCall struct {
	Request uint64
	Call    *executorv1.Call
}

// ExecutorGone: the connection of a subscribed executor ended.
type ExecutorGone struct{ Conn uint64 }

// Launched: the containerizer has started the executor's container, or could not.
type Launched struct {
	Run    Run
	Status *mesosv1.ContainerStatus // nil when unknown
	Err    error
}

// Ended: an executor's container is gone. Err: the containerizer does not know what became of it.
type Ended struct {
	Run         Run
	Termination containerizer.Termination
	Err         error
}

// UpdateFailed: the limits of a container could not be changed.
type UpdateFailed struct {
	Run Run
	Err error
}

// Reconfigure: the flags were read again.
type Reconfigure struct {
	Info  *mesosv1.AgentInfo
	Total []*mesosv1.Resource
}

// Oversubscribe: there are so many revocable resources for the frameworks to use.
type Oversubscribe struct{ Revocable []*mesosv1.Resource }

// Leave: the operator wants this agent out of the cluster (SIGUSR1): tasks are killed, then the agent unregisters.
type Leave struct{ Message string }

// Collected: the sandbox of an ended run was deleted; what the checkpoint has of it may go.
type Collected struct {
	Agent ids.Agent
	Run   Run
}

// Look asks for a View; answered by Show.
type Look struct{ Request uint64 }

func (Boot) event()          {}
func (Tick) event()          {}
func (LinkUp) event()        {}
func (LinkDown) event()      {}
func (FromMaster) event()    {}
func (Subscribe) event()     {}
func (ExecutorCall) event()  {}
func (ExecutorGone) event()  {}
func (Launched) event()      {}
func (Ended) event()         {}
func (UpdateFailed) event()  {}
func (Reconfigure) event()   {}
func (Oversubscribe) event() {}
func (Leave) event()         {}
func (Look) event()          {}
func (Collected) event()     {}

// Config holds the numbers and choices of the flags that the core needs.
type Config struct {
	// ExecutorRegistrationTimeout is how long an executor may take to subscribe for the first time.
	ExecutorRegistrationTimeout time.Duration
	// ExecutorReregistrationTimeout is how long it may take after a restart of the agent.
	ExecutorReregistrationTimeout time.Duration
	// ExecutorShutdownGrace is what an executor has between SHUTDOWN and its destruction unless its info says otherwise.
	ExecutorShutdownGrace time.Duration
	// RegisterTimeout is how long the master may take to answer a registration.
	RegisterTimeout time.Duration
	// UpdateRetryMin and UpdateRetryMax bound the intervals at which an update is sent again.
	UpdateRetryMin, UpdateRetryMax time.Duration
	// MaxCompletedFrameworks, MaxCompletedExecutors (per framework) and MaxCompletedTasks (per executor) are remembered.
	MaxCompletedFrameworks, MaxCompletedExecutors, MaxCompletedTasks int
	// SwitchUser: tasks run as their framework's user; otherwise as the agent's own.
	SwitchUser bool
	// Version is what the agent tells the master.
	Version string
	// Address is where its HTTP API listens: "ip:port".
	Address string
	// Sandbox gives the directory of a run on this host.
	Sandbox func(ids.Agent, Run) string
}

// Capabilities are what the agent tells the master that it can do (facts 6).
func Capabilities() []*mesosv1.AgentInfo_Capability {
	var all []*mesosv1.AgentInfo_Capability
	for _, t := range []mesosv1.AgentInfo_Capability_Type{
		mesosv1.AgentInfo_Capability_MULTI_ROLE, mesosv1.AgentInfo_Capability_HIERARCHICAL_ROLE,
		mesosv1.AgentInfo_Capability_RESERVATION_REFINEMENT, mesosv1.AgentInfo_Capability_RESOURCE_PROVIDER,
		mesosv1.AgentInfo_Capability_RESIZE_VOLUME, mesosv1.AgentInfo_Capability_AGENT_OPERATION_FEEDBACK,
		mesosv1.AgentInfo_Capability_AGENT_DRAINING, mesosv1.AgentInfo_Capability_TASK_RESOURCE_LIMITS,
	} {
		all = append(all, &mesosv1.AgentInfo_Capability{Type: t.Enum()})
	}
	return all
}
