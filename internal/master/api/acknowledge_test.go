package api

import (
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/wire"
)

func ackCall(change func(*schedulerv1.Call)) []byte {
	c := &schedulerv1.Call{
		Type: schedulerv1.Call_ACKNOWLEDGE.Enum(), FrameworkId: &mesosv1.FrameworkID{Value: proto.String("f")},
		Acknowledge: &schedulerv1.Call_Acknowledge{
			AgentId: &mesosv1.AgentID{Value: proto.String("a")}, TaskId: &mesosv1.TaskID{Value: proto.String("t")}, Uuid: []byte("0123456789abcdef"),
		},
	}
	if change != nil {
		change(c)
	}
	b, err := proto.MarshalOptions{AllowPartial: true}.Marshal(c)
	if err != nil {
		panic(err)
	}
	return b
}

func TestParseAcknowledge(t *testing.T) {
	for name, c := range map[string]struct {
		body []byte
		ok   bool
	}{
		"plain":         {ackCall(nil), true},
		"kill":          {ackCall(func(c *schedulerv1.Call) { c.Type = schedulerv1.Call_KILL.Enum() }), false},
		"no type":       {ackCall(func(c *schedulerv1.Call) { c.Type = nil }), false},
		"no framework":  {ackCall(func(c *schedulerv1.Call) { c.FrameworkId = nil }), false},
		"no agent":      {ackCall(func(c *schedulerv1.Call) { c.Acknowledge.AgentId = nil }), false},
		"no task":       {ackCall(func(c *schedulerv1.Call) { c.Acknowledge.TaskId = nil }), false},
		"short uuid":    {ackCall(func(c *schedulerv1.Call) { c.Acknowledge.Uuid = []byte("short") }), false},
		"another field": {ackCall(func(c *schedulerv1.Call) { c.Suppress = &schedulerv1.Call_Suppress{} }), false},
		"unknown field": {protowire.AppendVarint(protowire.AppendTag(ackCall(nil), 99, protowire.VarintType), 1), false},
		"twice":         {append(ackCall(nil), ackCall(nil)...), false},
		"cut":           {ackCall(nil)[:len(ackCall(nil))-1], false},
		"not UTF-8":     {ackCall(func(c *schedulerv1.Call) { c.Acknowledge.TaskId.Value = proto.String("\xe4") }), false},
		"empty":         {nil, false},
	} {
		if _, ok := parseAcknowledge(wire.CallBody{ContentType: wire.Protobuf, Bytes: c.body}); ok != c.ok {
			t.Errorf("%s: %v", name, ok)
		}
	}
	if _, ok := parseAcknowledge(wire.CallBody{ContentType: wire.JSON, Bytes: ackCall(nil)}); ok {
		t.Error("JSON was taken for protobuf")
	}
}

// What is taken apart here is a call that decoder and validation take too, with the same content.
func FuzzParseAcknowledge(f *testing.F) {
	f.Add(ackCall(nil))
	f.Add(ackCall(func(c *schedulerv1.Call) { c.Type = schedulerv1.Call_KILL.Enum() }))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := parseAcknowledge(wire.CallBody{ContentType: wire.Protobuf, Bytes: b})
		if !ok {
			return
		}
		call := new(schedulerv1.Call)
		if err := wire.Protobuf.Unmarshal(b, call); err != nil {
			t.Fatalf("the decoder refuses it: %v", err)
		}
		if err := validateSchedulerCall(call); err != nil || call.GetType() != schedulerv1.Call_ACKNOWLEDGE {
			t.Fatalf("%v is refused: %v", call.GetType(), err)
		}
		ack := call.GetAcknowledge()
		if string(a.framework) != call.GetFrameworkId().GetValue() || string(a.agent) != ack.GetAgentId().GetValue() ||
			string(a.task) != ack.GetTaskId().GetValue() || string(a.uuid) != string(ack.GetUuid()) {
			t.Fatalf("%q, decoded %v", a, call)
		}
	})
}
