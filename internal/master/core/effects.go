package core

import (
	"log/slog"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// Effect is what the owner must have done outside, in the order given.
type Effect interface{ isEffect() }

// SendEvent sends an event on a framework's stream. The message is shared and must not be changed.
type SendEvent struct {
	Stream StreamID
	Event  *schedulerv1.Event
}

// CloseStream ends a framework's stream after what was sent before.
type CloseStream struct{ Stream StreamID }

// Session tells the HTTP edge who a framework's calls must come from, so that it can answer 202, 400 or 403 by itself.
type Session struct {
	Framework ids.Framework
	Stream    StreamID // of the connected scheduler; empty when not connected
	Principal string
	Ended     bool // the framework is gone: "Framework cannot be found"
}

// SendAgent sends a message to an agent.
type SendAgent struct {
	Conn    ConnID
	Message *linkv1.Message
}

// SendAck sends an UpdateAck to an agent: the most frequent message, without the message.
type SendAck struct {
	Conn      ConnID
	Framework ids.Framework
	Task      ids.Task
	UUID      [16]byte
}

// Message is the effect as the message that it sends.
func (e *SendAck) Message() *linkv1.Message {
	return &linkv1.Message{Kind: &linkv1.Message_UpdateAck{UpdateAck: &linkv1.UpdateAck{
		FrameworkId: &mesosv1.FrameworkID{Value: proto.String(string(e.Framework))}, TaskId: &mesosv1.TaskID{Value: proto.String(string(e.Task))},
		Uuid: e.UUID[:],
	}}}
}

// CloseAgent closes an agent's channel after what was sent before.
type CloseAgent struct{ Conn ConnID }

// SendOperator sends an event to every subscribed operator.
type SendOperator struct{ Event *masterv1.Event }

// StartOperator begins an operator's stream with the state as of this effect's place in the order.
type StartOperator struct {
	Stream   StreamID
	Snapshot *Snapshot
}

// Record is one registry record.
type Record struct {
	Key   string
	Value []byte
}

// Store writes to the registry, all or nothing. Its StoreDone event must come back, whatever happens.
type Store struct {
	Token   Token
	Puts    []Record
	Deletes []string
}

// Reply answers the call with this token. Status is the HTTP status; Message is the body of an error.
type Reply struct {
	Token   Token
	Status  int
	Message string
}

// Log is a decision worth a line.
type Log struct {
	Level   slog.Level
	Message string
	Attrs   []any
}

func (*SendEvent) isEffect()     {}
func (*CloseStream) isEffect()   {}
func (*Session) isEffect()       {}
func (*SendAgent) isEffect()     {}
func (*SendAck) isEffect()       {}
func (*CloseAgent) isEffect()    {}
func (*SendOperator) isEffect()  {}
func (*StartOperator) isEffect() {}
func (*Store) isEffect()         {}
func (*Reply) isEffect()         {}
func (*Log) isEffect()           {}
