package api

import (
	"net/http"

	"google.golang.org/protobuf/encoding/protowire"

	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// encodedAck is an ACKNOWLEDGE call as it came. Every status update of every task is answered with one, a body of its own
// each, so that they are most of what a master reads; they are taken apart where they lie.
type encodedAck struct{ framework, agent, task, uuid []byte }

// parseAcknowledge reads an ACKNOWLEDGE call in protobuf that holds what such a call must hold and nothing else. All others,
// good and bad, are for the decoder and the validation.
func parseAcknowledge(body wire.CallBody) (a encodedAck, ok bool) {
	if body.ContentType != wire.Protobuf {
		return a, false
	}
	var kind uint64
	for b := body.Bytes; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return a, false
		}
		b = b[n:]
		switch {
		case num == 1 && typ == protowire.BytesType && a.framework == nil:
			a.framework, n = consumeID(b)
		case num == 2 && typ == protowire.VarintType:
			kind, n = protowire.ConsumeVarint(b)
		case num == 8 && typ == protowire.BytesType && a.uuid == nil:
			var ack []byte
			if ack, n = protowire.ConsumeBytes(b); n >= 0 && !a.parse(ack) {
				return a, false
			}
		default:
			return a, false
		}
		if n < 0 {
			return a, false
		}
		b = b[n:]
	}
	return a, kind == uint64(schedulerv1.Call_ACKNOWLEDGE) && len(a.framework) > 0 && len(a.uuid) == 16
}

// parse reads a Call.Acknowledge.
func (a *encodedAck) parse(b []byte) bool {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || typ != protowire.BytesType {
			return false
		}
		b = b[n:]
		switch {
		case num == 1 && a.agent == nil:
			a.agent, n = consumeID(b)
		case num == 2 && a.task == nil:
			a.task, n = consumeID(b)
		case num == 3 && a.uuid == nil:
			a.uuid, n = protowire.ConsumeBytes(b)
		default:
			return false
		}
		if n < 0 {
			return false
		}
		b = b[n:]
	}
	return len(a.agent) > 0 && len(a.task) > 0
}

// consumeID reads a message that has a string in field 1 and nothing else, which all ids are, in ASCII. n is negative for
// anything else.
func consumeID(b []byte) (id []byte, n int) {
	msg, n := protowire.ConsumeBytes(b)
	if n < 0 {
		return nil, n
	}
	num, typ, tag := protowire.ConsumeTag(msg)
	if tag < 0 || num != 1 || typ != protowire.BytesType {
		return nil, -1
	}
	id, size := protowire.ConsumeBytes(msg[tag:])
	if size < 0 || tag+size != len(msg) {
		return nil, -1
	}
	for _, c := range id {
		if c >= 0x80 {
			return nil, -1 // whether it is UTF-8 is the decoder's to say
		}
	}
	return id, n
}

// acknowledge answers an ACKNOWLEDGE call, as scheduler does others.
func (s *Server) acknowledge(w http.ResponseWriter, r *http.Request, ack encodedAck, principal string) {
	session, known := s.sessionOf(ack.framework)
	stream, status, err := s.checkSession(r, session, known, principal)
	if err != nil {
		wire.Error(w, status, err.Error())
		return
	}
	// One string for both ids.
	both := string(append(append(make([]byte, 0, 128), ack.agent...), ack.task...))
	e := &core.Acknowledge{
		Stream: stream, Framework: session.Framework, Agent: ids.Agent(both[:len(ack.agent)]), Task: ids.Task(both[len(ack.agent):]),
	}
	copy(e.UUID[:], ack.uuid)
	s.handOver(w, e)
}
