package core

import (
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// Event is something that happened, which Step is told.
type Event interface{ event() }

// Registered: the master accepted the subscription. Reconciliation follows.
type Registered struct {
	FrameworkID string
	Master      string // host:port
	Region      string // the master's own, "" without a domain
}

// Disconnected: the subscription's stream ended. Offers are void.
type Disconnected struct{}

// FrameworkRemoved: the master says that the framework is gone for good. Its tasks are too.
type FrameworkRemoved struct{}

// Offers came in.
type Offers struct{ Offers []*mesosv1.Offer }

// Status of a task came in; Ack says whether it has to be acknowledged.
type Status struct{ Status *mesosv1.TaskStatus }

// HealthResult of one probe that this process made.
type HealthResult struct {
	Instance string
	Task     string
	Index    int
	Alive    bool
	Cause    string // of a failure
	Ignore   bool   // an HTTP 1xx that counts as nothing
}

// ReadinessResult of one probe.
type ReadinessResult struct {
	Instance  string
	Task      string
	Readiness Readiness
}

// QueryResult is the answer to a Query effect.
type QueryResult struct {
	Deployment string
	SpecID     string
	OK         bool
}

// CallFailed: a call to the master failed, or may have: what it was about has to be asked for.
type CallFailed struct{}

// Tick: nothing but time has passed.
type Tick struct{}

// Update changes the tree of definitions, as one deployment.
type Update struct {
	Token  any // handed back in the Reply
	Mutate func(root *spec.Root, now spec.Version, h spec.History) error
	Force  bool
	DryRun bool
	// Notices are published when the change was accepted, with the definitions as they were put: they are functions because
	// only then the versions are known.
	Notices func(root *spec.Root) []Notice
	// ResetBackoff lists specs whose launch delay is forgotten.
	ResetBackoff []string
	Sentence     []string // instances that shall be those that a scale-down kills
	because      string   // why it takes the place of others, when nobody asked for it
}

// KillInstances ends instances by their ids; without Wipe each starts again as its next incarnation.
type KillInstances struct {
	Token any
	IDs   []string
	Wipe  bool
}

// CancelDeployment ends a deployment: with Force where it stands, without by a deployment that undoes it.
type CancelDeployment struct {
	Token any
	ID    string
	Force bool
}

// ResumeDeployment continues one that its deadline paused.
type ResumeDeployment struct {
	Token any
	ID    string
}

// ResetDelay forgets the launch delay of a spec.
type ResetDelay struct {
	Token  any
	SpecID string
}

// Inspect runs a function between two steps, for what is not part of the snapshot. It must not change anything.
type Inspect struct {
	Token any
	Look  func(m *Machine, now time.Time) any
}

func (Registered) event()       {}
func (Disconnected) event()     {}
func (FrameworkRemoved) event() {}
func (Offers) event()           {}
func (Status) event()           {}
func (HealthResult) event()     {}
func (ReadinessResult) event()  {}
func (QueryResult) event()      {}
func (Tick) event()             {}
func (CallFailed) event()       {}
func (Update) event()           {}
func (KillInstances) event()    {}
func (CancelDeployment) event() {}
func (ResumeDeployment) event() {}
func (ResetDelay) event()       {}
func (Inspect) event()          {}

// Effect is something to do, in the order given.
type Effect interface{ effect() }

// Put stores a record; Delete removes one. Both are durable before later effects of the step are carried out.
type Put struct {
	Key   string
	Value []byte
}

// Delete removes a record.
type Delete struct{ Key string }

// Call is for the master. The framework's id is filled in by whoever sends it.
type Call struct{ Call *scheduler.Call }

// Roles is the set of roles whose offers are wanted, when it changed.
type Roles struct{ Roles []string }

// Publish gives a notice to the subscribers of the event stream, in the order of the notices; it waits for no record.
type Publish struct{ Notice Notice }

// Reply answers the event that carried the token.
type Reply struct {
	Token any
	Value any
	Err   error
}

// Probe asks for the health checks of a task to be run from here until Unprobe.
type Probe struct {
	Instance, Task string
	Index          int
	Check          spec.HealthCheck
	Host           string // to connect to
	Port           int
}

// CheckReadiness asks for a readiness check to be run until it is ready or Unprobe comes.
type CheckReadiness struct {
	Instance, Task string
	Check          spec.ReadinessCheck
	Host           string
	Port           int
}

// Unprobe ends all probes of an instance.
type Unprobe struct{ Instance string }

// Query asks Prometheus; the answer comes as QueryResult.
type Query struct{ Deployment, SpecID, Query string }

func (Put) effect()            {}
func (Delete) effect()         {}
func (Call) effect()           {}
func (Roles) effect()          {}
func (Publish) effect()        {}
func (Reply) effect()          {}
func (Probe) effect()          {}
func (CheckReadiness) effect() {}
func (Unprobe) effect()        {}
func (Query) effect()          {}
