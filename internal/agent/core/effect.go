package core

import (
	checkpointv1 "github.com/orchestrator/orchestrator/api/checkpoint/v1"
	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// Effect is something that the shell must do. Effects are carried out in order; see Persistent.
type Effect interface{ effect() }

// Persistent is an effect that goes to the disk. Everything that follows it waits until it is durable.
type Persistent interface {
	Effect
	persistent()
}

type persist struct{}

func (persist) effect()     {}
func (persist) persistent() {}

// The effects that persist.
type (
	// SaveAgent keeps the agent's own description, and makes its id the current one.
	SaveAgent struct {
		persist
		Info *mesosv1.AgentInfo
	}
	// ForgetAgent makes the next process begin as a new agent.
	ForgetAgent struct{ persist }
	// SaveResources keeps the total and the operations.
	SaveResources struct {
		persist
		Resources *checkpointv1.Resources
	}
	// SaveDrain keeps the drain under way; nil when it is over.
	SaveDrain struct {
		persist
		Agent  ids.Agent
		Config *mesosv1.DrainConfig
	}
	// SaveFramework keeps a framework.
	SaveFramework struct {
		persist
		Agent ids.Agent
		Info  *mesosv1.FrameworkInfo
	}
	// SaveExecutor keeps a run of an executor.
	SaveExecutor struct {
		persist
		Agent    ids.Agent
		Run      Run
		Executor *checkpointv1.Executor
	}
	// SaveRegistered keeps that the run has subscribed.
	SaveRegistered struct {
		persist
		Agent ids.Agent
		Run   Run
	}
	// SaveCompleted keeps that the run has ended and owes nothing.
	SaveCompleted struct {
		persist
		Agent ids.Agent
		Run   Run
	}
	// SaveTask keeps a task.
	SaveTask struct {
		persist
		Agent ids.Agent
		Run   Run
		Task  *checkpointv1.Task
	}
	// AppendUpdate adds a record to a task's updates.
	AppendUpdate struct {
		persist
		Agent  ids.Agent
		Run    Run
		Task   ids.Task
		Update *checkpointv1.Update
		// Last: no more records will follow.
		Last bool
	}
	// ForgetRun drops what is kept of an ended run.
	ForgetRun struct {
		persist
		Agent ids.Agent
		Run   Run
		// ExecutorInUse, FrameworkInUse: another run of the executor, or another executor, still needs what they share.
		ExecutorInUse, FrameworkInUse bool
	}
	// RewriteUpdates replaces a task's updates, which had grown long, by those that still matter.
	RewriteUpdates struct {
		persist
		Agent   ids.Agent
		Run     Run
		Task    ids.Task
		Updates []*checkpointv1.Update
	}
)

// Then marks what is no persistent effect.
type then struct{}

func (then) effect() {}

// The effects that are carried out when all before them is durable.
type (
	// ToMaster sends a message, if that connection still stands.
	ToMaster struct {
		then
		Session uint64
		Message *linkv1.Message
	}
	// Relink drops the connection and looks for the leader again.
	Relink struct {
		then
		Session uint64
		Reason  string
	}
	// Admit accepts a subscription: the connection's stream is open from here on.
	Admit struct {
		then
		Conn uint64
		Run  Run
	}
	// Refuse turns a call down.
	Refuse struct {
		then
		Conn uint64
		Why  Refusal
		Text string
	}
	// Reply answers an ExecutorCall. Why is Accepted when it was taken.
	Reply struct {
		then
		Request uint64
		Why     Refusal
		Text    string
	}
	// ToExecutor sends an event on a connection.
	ToExecutor struct {
		then
		Conn  uint64
		Event *executorv1.Event
	}
	// CloseExecutor ends a connection once what was sent has been written.
	CloseExecutor struct {
		then
		Conn uint64
	}
	// Launch starts an executor's container. Answered by Launched, then Ended.
	Launch struct {
		then
		Run       Run
		Kind      containerizer.Kind
		Framework *mesosv1.FrameworkInfo
		Executor  *mesosv1.ExecutorInfo
		Task      *mesosv1.TaskInfo // of a command task
		User      string
		Directory string
		Resources []*mesosv1.Resource
		Limits    map[string]float64
	}
	// Watch waits for the end of a recovered container. Answered by Ended.
	Watch struct {
		then
		Run Run
	}
	// Limit changes what a container may use. A failure is answered by UpdateFailed.
	Limit struct {
		then
		Run       Run
		Resources []*mesosv1.Resource
		Limits    map[string]float64
	}
	// Destroy kills a container. Ended follows.
	Destroy struct {
		then
		Run    Run
		Reason string
	}
	// Collect lets the disk space of an ended run go when its time has come.
	Collect struct {
		then
		Run Run
		// Framework: nothing of the framework is left either.
		Framework bool
		// Executor: no other run of the executor is left.
		Executor bool
	}
	// MakeVolumes makes the directories of new persistent volumes.
	MakeVolumes struct {
		then
		Volumes []*mesosv1.Resource
	}
	// DeleteVolumes deletes the data of destroyed ones.
	DeleteVolumes struct {
		then
		Volumes []*mesosv1.Resource
	}
	// Show answers Look.
	Show struct {
		then
		Request uint64
		View    *View
	}
	// Note is for the log.
	Note struct {
		then
		Level   NoteLevel
		Message string
		Args    []any
	}
	// Recovered: executors have come back or were given up; the agent may look for its master.
	Recovered struct{ then }
	// Exit ends the process.
	Exit struct {
		then
		Reason string
	}
)

// NoteLevel is a Note's level.
type NoteLevel int

// The levels: STYLE 15 says what they mean.
const (
	Info NoteLevel = iota
	Warn
	Error
	Debug
)

// Refusal says why a call was turned down; the HTTP API makes a status of it.
type Refusal int

// The refusals.
const (
	// Accepted is no refusal.
	Accepted Refusal = iota
	// Invalid: the call is malformed (400).
	Invalid
	// Unknown: there is no such framework or executor (400).
	Unknown
	// NotSubscribed: the executor is known but has no stream (403).
	NotSubscribed
	// NotReady: the agent has not finished recovery (503).
	NotReady
)
