package core

import (
	"fmt"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// Phase is where the agent stands in its life.
type Phase int

// The agent's phases.
const (
	// Recovering: nothing is served; the checkpoint and the containers are being read.
	Recovering Phase = iota
	// Reconnecting: executors of an earlier process may subscribe again; the master is not spoken to yet.
	Reconnecting
	// Disconnected: no link to a master.
	Disconnected
	// Registering: linked, waiting for the master's answer.
	Registering
	// Running: registered.
	Running
	// Terminating: shutting everything down, then leaving for good.
	Terminating
)

var phaseNames = map[Phase]string{
	Recovering: "recovering", Reconnecting: "reconnecting", Disconnected: "disconnected", Registering: "registering",
	Running: "running", Terminating: "terminating",
}

func (p Phase) String() string { return phaseNames[p] }

// phaseMoves are the moves that may happen; Terminating is never left.
var phaseMoves = map[Phase][]Phase{
	Recovering:   {Reconnecting, Terminating},
	Reconnecting: {Disconnected, Terminating},
	Disconnected: {Registering, Terminating},
	Registering:  {Running, Disconnected, Terminating},
	Running:      {Disconnected, Terminating},
	Terminating:  {},
}

// ExecutorPhase is where an executor stands.
type ExecutorPhase int

// An executor's phases.
const (
	// ExecutorRegistering: its container was asked for and it has not subscribed yet.
	ExecutorRegistering ExecutorPhase = iota
	// ExecutorRunning: it has subscribed; its connection may be broken at the moment.
	ExecutorRunning
	// ExecutorTerminating: it was told to shut down, or its container is being destroyed.
	ExecutorTerminating
	// ExecutorTerminated: its container has ended; updates may still await acknowledgement.
	ExecutorTerminated
)

var executorPhaseNames = map[ExecutorPhase]string{
	ExecutorRegistering: "registering", ExecutorRunning: "running", ExecutorTerminating: "terminating", ExecutorTerminated: "terminated",
}

func (p ExecutorPhase) String() string { return executorPhaseNames[p] }

var executorMoves = map[ExecutorPhase][]ExecutorPhase{
	ExecutorRegistering: {ExecutorRunning, ExecutorTerminating, ExecutorTerminated},
	ExecutorRunning:     {ExecutorTerminating, ExecutorTerminated},
	ExecutorTerminating: {ExecutorTerminated},
	ExecutorTerminated:  {},
}

// TaskPhase says who is responsible for a task. Its TaskState is another matter: that is what was last said of it.
type TaskPhase int

// A task's phases.
const (
	// TaskQueued: waits for its executor; only the agent knows it.
	TaskQueued TaskPhase = iota
	// TaskDelivered: sent to its executor.
	TaskDelivered
	// TaskTerminated: its last state is known; updates await acknowledgement.
	TaskTerminated
	// TaskCompleted: all updates were acknowledged. It is only remembered for those who look.
	TaskCompleted
)

var taskPhaseNames = map[TaskPhase]string{
	TaskQueued: "queued", TaskDelivered: "delivered", TaskTerminated: "terminated", TaskCompleted: "completed",
}

func (p TaskPhase) String() string { return taskPhaseNames[p] }

var taskMoves = map[TaskPhase][]TaskPhase{
	TaskQueued:     {TaskDelivered, TaskTerminated},
	TaskDelivered:  {TaskTerminated},
	TaskTerminated: {TaskCompleted},
	TaskCompleted:  {},
}

// mayMove looks a move up. A phase may always stay.
func mayMove[P comparable](moves map[P][]P, from, to P) bool {
	if from == to {
		return true
	}
	for _, p := range moves[from] {
		if p == to {
			return true
		}
	}
	return false
}

// moveError tells of a move that the tables forbid: a fault of this package.
func moveError[P fmt.Stringer](what string, from, to P) error {
	return fmt.Errorf("%s may not go from %s to %s", what, from, to)
}

// Terminal reports whether a task in this state has ended (Mesos: protobuf::isTerminalState).
func Terminal(s mesosv1.TaskState) bool {
	switch s {
	case mesosv1.TaskState_TASK_FINISHED, mesosv1.TaskState_TASK_FAILED, mesosv1.TaskState_TASK_KILLED,
		mesosv1.TaskState_TASK_LOST, mesosv1.TaskState_TASK_ERROR, mesosv1.TaskState_TASK_DROPPED,
		mesosv1.TaskState_TASK_GONE, mesosv1.TaskState_TASK_GONE_BY_OPERATOR:
		return true
	}
	return false
}
