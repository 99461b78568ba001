package core

import (
	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// StreamID names one event stream of a framework or an operator: the value of Mesos-Stream-Id.
type StreamID string

// ConnID names one channel of one agent link connection. Zero is no connection.
type ConnID uint64

// Token ties an effect to the event that answers it, and a call to its Reply. Zero asks for no answer.
type Token uint64

// Event is what happened outside. Each is handled to its end by one Step.
type Event interface{ isEvent() }

// SchedulerSubscribe is a SUBSCRIBE call whose HTTP checks passed and whose stream is open: what is still wrong is told by an
// ERROR event on the stream.
type SchedulerSubscribe struct {
	Stream    StreamID
	Call      *schedulerv1.Call
	Principal string
}

// SchedulerCall is any other scheduler call of a subscribed framework. Only UPDATE_FRAMEWORK has a Token.
type SchedulerCall struct {
	Stream    StreamID
	Call      *schedulerv1.Call
	Principal string
	Token     Token
}

// Acknowledge is an ACKNOWLEDGE call of a subscribed framework. It is a SchedulerCall taken apart, because there are more of
// them than of all others together.
type Acknowledge struct {
	Stream    StreamID
	Framework ids.Framework
	Agent     ids.Agent
	Task      ids.Task
	UUID      [16]byte
}

// SchedulerDisconnected: the stream of a framework has ended, whoever ended it.
type SchedulerDisconnected struct{ Stream StreamID }

// OperatorCall is a call of the operator API that changes something. Its answer is a Reply effect.
type OperatorCall struct {
	Token     Token
	Call      *masterv1.Call
	Principal string
}

// OperatorSubscribe opens an operator event stream: the answer is a StartOperator effect, in order with later events.
type OperatorSubscribe struct{ Stream StreamID }

// AgentMessage is one message of an agent (or of one that wants to become one).
type AgentMessage struct {
	Conn    ConnID
	Message *linkv1.Message
}

// AgentDisconnected: the connection of an agent is gone.
type AgentDisconnected struct{ Conn ConnID }

// StoreDone answers a Store effect: Err nil means that it is durable.
type StoreDone struct {
	Token Token
	Err   error
}

// Whitelist replaces the set of hostnames that may get offers; nil allows all.
type Whitelist struct{ Hostnames []string }

func (*SchedulerSubscribe) isEvent()    {}
func (*SchedulerCall) isEvent()         {}
func (*Acknowledge) isEvent()           {}
func (*SchedulerDisconnected) isEvent() {}
func (*OperatorCall) isEvent()          {}
func (*OperatorSubscribe) isEvent()     {}
func (*AgentMessage) isEvent()          {}
func (*AgentDisconnected) isEvent()     {}
func (*StoreDone) isEvent()             {}
func (*Whitelist) isEvent()             {}
