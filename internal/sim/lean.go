package sim

import (
	"encoding/binary"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
)

// What a simulated framework or agent does for each task must cost next to nothing, because it shares the machine with what
// is measured. So the messages of a task's way are read and written field by field, as protobuf has them on the wire
// (numbers from api/), and only the others are decoded whole.

// fields calls f with each field of an encoded message: v is a varint's or a fixed64's value, b the bytes of the others. It
// returns false when the message is malformed or f has had enough.
func fields(msg []byte, f func(num protowire.Number, v uint64, b []byte) bool) bool {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return false
		}
		msg = msg[n:]
		var v uint64
		var b []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(msg)
		case protowire.Fixed64Type:
			v, n = protowire.ConsumeFixed64(msg)
		case protowire.BytesType:
			b, n = protowire.ConsumeBytes(msg)
		default:
			n = protowire.ConsumeFieldValue(num, typ, msg)
		}
		if n < 0 {
			return false
		}
		msg = msg[n:]
		if !f(num, v, b) {
			return false
		}
	}
	return true
}

// field is the last value of one length-delimited field, nil when it is missing. Ids are messages with their value in field 1.
func field(msg []byte, want protowire.Number) (found []byte) {
	fields(msg, func(num protowire.Number, _ uint64, b []byte) bool {
		if num == want {
			found = b
		}
		return true
	})
	return found
}

func valueOf(id []byte) []byte { return field(id, 1) }

// seenStatus is a TaskStatus as a framework looks at it. The ids are encoded messages.
type seenStatus struct {
	taskID, agentID, uuid, data []byte
	state                       mesosv1.TaskState
	source                      mesosv1.TaskStatus_Source
}

// statusOf reads an encoded TaskStatus.
func statusOf(msg []byte) (s seenStatus, ok bool) {
	ok = fields(msg, func(num protowire.Number, v uint64, b []byte) bool {
		switch num {
		case 1:
			s.taskID = b
		case 2:
			s.state = mesosv1.TaskState(v)
		case 3:
			s.data = b
		case 5:
			s.agentID = b
		case 9:
			s.source = mesosv1.TaskStatus_Source(v)
		case 11:
			s.uuid = b
		}
		return true
	})
	return s, ok
}

// seen makes the same of a decoded status, for frameworks that speak JSON.
func seen(st *mesosv1.TaskStatus) seenStatus {
	return seenStatus{
		taskID: appendID(nil, st.GetTaskId().GetValue()), agentID: appendID(nil, st.GetAgentId().GetValue()), uuid: st.GetUuid(), data: st.GetData(),
		state: st.GetState(), source: st.GetSource(),
	}
}

// offerOf reads an encoded Offer.
func offerOf(msg []byte) (h held, ok bool) {
	ok = fields(msg, func(num protowire.Number, _ uint64, b []byte) bool {
		switch num {
		case 1:
			h.id = string(valueOf(b))
		case 3:
			h.agent = string(valueOf(b))
		case 5:
			switch string(field(b, 1)) {
			case "cpus":
				h.cpus += scalarOf(b)
			case "mem":
				h.mem += scalarOf(b)
			}
		}
		return true
	})
	return h, ok
}

// scalarOf is Resource.scalar.value.
func scalarOf(resource []byte) (x float64) {
	fields(field(resource, 3), func(num protowire.Number, v uint64, _ []byte) bool {
		if num == 1 {
			x = math.Float64frombits(v)
		}
		return true
	})
	return x
}

// eventOf reads an encoded Event: its type, and the payload of the types that come with every task.
func eventOf(record []byte) (kind schedulerv1.Event_Type, payload []byte, ok bool) {
	ok = fields(record, func(num protowire.Number, v uint64, b []byte) bool {
		switch num {
		case 1:
			kind = schedulerv1.Event_Type(v)
		case 3, 4, 5: // offers, rescind, update
			payload = b
		}
		return true
	})
	return kind, payload, ok
}

func appendID(b []byte, value string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, 1, protowire.BytesType), value)
}

func appendField(b []byte, num protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), value)
}

func appendVarint(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

// appendNested appends a length-delimited field whose contents f appends. Their length is written behind room for two bytes
// of it, which most need; others are moved.
func appendNested(b []byte, num protowire.Number, f func(b []byte) []byte) []byte {
	const room = 2
	b = protowire.AppendTag(b, num, protowire.BytesType)
	start := len(b)
	b = f(append(b, 0, 0))
	size := len(b) - start - room
	digits := protowire.SizeVarint(uint64(size))
	if digits > room {
		b = append(b, make([]byte, digits-room)...)
	}
	if digits != room {
		copy(b[start+digits:], b[start+room:start+room+size])
	}
	binary.PutUvarint(b[start:], uint64(size))
	return b[:start+digits+size]
}

// acknowledgeCall appends an encoded ACKNOWLEDGE call; the ids are encoded messages.
func acknowledgeCall(b, frameworkID []byte, s *seenStatus) []byte {
	b = appendField(b, 1, frameworkID)
	b = appendVarint(b, 2, uint64(schedulerv1.Call_ACKNOWLEDGE))
	return appendNested(b, 8, func(b []byte) []byte {
		b = appendField(b, 1, s.agentID)
		b = appendField(b, 2, s.taskID)
		return appendField(b, 3, s.uuid)
	})
}

// updateMessage appends an encoded link message with a StatusUpdate.
func updateMessage(b []byte, t *task, agentID string, seconds float64, stamps Stamps) []byte {
	return appendNested(b, 3, func(b []byte) []byte {
		b = appendField(b, 1, t.framework.id)
		b = appendNested(b, 2, func(b []byte) []byte {
			b = appendField(b, 1, t.id)
			b = appendVarint(b, 2, uint64(t.sent))
			b = protowire.AppendVarint(protowire.AppendTag(b, 3, protowire.BytesType), stampsSize)
			b = stamps.append(b)
			b = appendNested(b, 5, func(b []byte) []byte { return appendID(b, agentID) })
			b = protowire.AppendFixed64(protowire.AppendTag(b, 6, protowire.Fixed64Type), math.Float64bits(seconds))
			b = appendVarint(b, 9, uint64(mesosv1.TaskStatus_SOURCE_EXECUTOR))
			return appendField(b, 11, t.uuid[:])
		})
		return appendVarint(b, 3, uint64(t.state))
	})
}
