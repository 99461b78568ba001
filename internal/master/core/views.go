package core

import (
	"time"

	"github.com/tidwall/btree"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	maintenancev1 "github.com/orchestrator/orchestrator/api/mesos/v1/maintenance"
	quotav1 "github.com/orchestrator/orchestrator/api/mesos/v1/quota"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// Snapshot is the whole state as readers see it. It and everything it points to never changes; a page (FrameworkPage,
// AgentPage) that is the same pointer in two snapshots has not changed between them, so that readers can cache what
// they encoded by the page's pointer.
type Snapshot struct {
	Version     uint64
	Time        time.Time // when it was published
	Master      *mesosv1.MasterInfo
	StartTime   time.Time
	ElectedTime time.Time

	Frameworks          *btree.Map[ids.Framework, *FrameworkPage]
	CompletedFrameworks []*FrameworkPage // oldest first
	Agents              *btree.Map[ids.Agent, *AgentPage]
	// RecoveredAgents are in the registry and have not re-registered with this leader yet.
	RecoveredAgents   *btree.Map[ids.Agent, *mesosv1.AgentInfo]
	UnreachableAgents *btree.Map[ids.Agent, time.Time]
	GoneAgents        *btree.Map[ids.Agent, time.Time]

	Weights     map[string]float64
	Quotas      map[string]*quotav1.QuotaConfig
	Schedule    *maintenancev1.Schedule
	Machines    []*mesosv1.MachineInfo // those that are DRAINING or DOWN
	InverseInfo []InverseStatus

	Counters Counters
}

// InverseStatus is a framework's last answer to the inverse offers for an agent.
type InverseStatus struct {
	Agent     ids.Agent
	Framework ids.Framework
	Accepted  bool
	Time      time.Time
}

// FrameworkPage is one framework. Sums of used resources are the reader's to make: over Tasks that are not terminal, and
// over Executors.
type FrameworkPage struct {
	ID               ids.Framework
	Info             *mesosv1.FrameworkInfo
	Roles            []string
	SuppressedRoles  []string
	OfferConstraints *schedulerv1.OfferConstraints
	Principal        string
	Active           bool
	Connected        bool
	Recovered        bool
	RegisteredTime   time.Time
	ReregisteredTime time.Time // zero: never
	UnregisteredTime time.Time // zero: live

	Tasks            *btree.Map[ids.Task, *TaskPage] // live ones: terminal ones stay until their update is acknowledged
	UnreachableTasks *btree.Map[ids.Task, *TaskPage]
	CompletedTasks   []*TaskPage // oldest first
	Executors        []ExecutorPage
	Offers           []*OfferPage
	InverseOffers    []*mesosv1.InverseOffer
	Operations       []*mesosv1.Operation
	Counters         FrameworkCounters
}

// ExecutorPage is an executor that a framework has on an agent. Command executors are not among them: the agent makes
// them, and the task's own executor_id is empty.
type ExecutorPage struct {
	Agent ids.Agent
	Info  *mesosv1.ExecutorInfo
}

// OfferPage is an outstanding offer.
type OfferPage struct {
	ID        ids.Offer
	Framework ids.Framework
	Agent     ids.Agent
	Role      string
	Resources resources.Resources
	Offer     *mesosv1.Offer // as the framework got it
	Time      time.Time
}

// AgentPage is one registered agent, connected or not.
type AgentPage struct {
	ID               ids.Agent
	Info             *mesosv1.AgentInfo
	Address          string // "ip:port" of its HTTP API
	Version          string
	Capabilities     []mesosv1.AgentInfo_Capability_Type
	Total            resources.Resources
	Connected        bool
	Active           bool // offered from: connected and not deactivated
	Deactivated      bool
	RegisteredTime   time.Time
	ReregisteredTime time.Time
	Drain            *mesosv1.DrainInfo
	DrainStartTime   time.Time
	Offers           []*OfferPage
	Operations       []*mesosv1.Operation
	Tasks            int // live tasks, terminal but unacknowledged ones included
}

// Counters are the totals behind Mesos' master/ metrics. Gauges are computed by the reader from the snapshot.
type Counters struct {
	MessagesByCall            map[string]uint64 // "subscribe", "accept"… as in messages_<name>
	TasksByState              map[mesosv1.TaskState]uint64
	TasksBySourceReason       map[TaskCause]uint64
	AgentRegistrations        uint64
	AgentReregistrations      uint64
	AgentRemovals             uint64
	AgentRemovalsRegistered   uint64
	AgentRemovalsUnhealthy    uint64
	AgentRemovalsUnregistered uint64
	AgentUnreachableScheduled uint64
	AgentUnreachableCompleted uint64
	AgentUnreachableCanceled  uint64
	RecoveryAgentRemovals     uint64
	ValidUpdates              uint64
	InvalidUpdates            uint64
	ValidAcks                 uint64
	InvalidAcks               uint64
	ValidMessages             uint64
	InvalidMessages           uint64
	ValidExecutorMessages     uint64
	InvalidExecutorMessages   uint64
	DroppedMessages           uint64
	OperationsByType          map[string]uint64
	OffersSent                uint64
	AllocationRuns            uint64
}

// TaskCause is the label of master/task_<state>/source_<source>/reason_<reason>.
type TaskCause struct {
	State  mesosv1.TaskState
	Source mesosv1.TaskStatus_Source
	Reason mesosv1.TaskStatus_Reason
}

// FrameworkCounters are the totals behind the per-framework metrics.
type FrameworkCounters struct {
	Calls           map[string]uint64
	Events          map[string]uint64
	OffersSent      uint64
	OffersAccepted  uint64
	OffersDeclined  uint64
	OffersRescinded uint64
	TerminalTasks   map[mesosv1.TaskState]uint64
	Operations      map[string]uint64
}
