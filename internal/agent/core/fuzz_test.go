package core

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
)

func seed(f *testing.F, messages ...proto.Message) {
	for _, m := range messages {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// FuzzMasterMessages lets a master say anything, before and after the agent is registered.
func FuzzMasterMessages(f *testing.F) {
	fw := frameworkInfo()
	seed(
		f, run(fw, commandTask("t2")), killMsg("t1"), run(fw, customTask("t3", "e")),
		&linkv1.Message{Kind: &linkv1.Message_ShutdownFramework{ShutdownFramework: &linkv1.ShutdownFramework{FrameworkId: fw.GetId()}}},
		&linkv1.Message{Kind: &linkv1.Message_UpdateFramework{UpdateFramework: &linkv1.UpdateFramework{Framework: fw}}},
		&linkv1.Message{Kind: &linkv1.Message_Registered{Registered: &linkv1.Registered{AgentId: &mesosv1.AgentID{Value: proto.String("../x")}, Master: &mesosv1.MasterInfo{Id: proto.String("m"), Ip: proto.Uint32(1), Port: proto.Uint32(5050)}}}},
		&linkv1.Message{Kind: &linkv1.Message_Drain{Drain: &linkv1.Drain{Config: &mesosv1.DrainConfig{MaxGracePeriod: &mesosv1.DurationInfo{Nanoseconds: proto.Int64(-1)}}}}},
		&linkv1.Message{Kind: &linkv1.Message_UpdateAck{UpdateAck: &linkv1.UpdateAck{FrameworkId: fw.GetId(), TaskId: &mesosv1.TaskID{Value: proto.String("t1")}, Uuid: []byte("x")}}},
	)
	f.Fuzz(func(t *testing.T, data []byte) {
		m := &linkv1.Message{}
		if m.UnmarshalVT(data) != nil || proto.CheckInitialized(m) != nil {
			return
		}
		early := newBench(t)
		early.step(LinkUp{})
		early.master(m)
		b := registered(t)
		b.start(commandTask("t1"), 1)
		b.update("t1", "t1", running, 1)
		b.master(m)
		for _, l := range of[Launch](b.take()) {
			b.launched(l)
			b.step(Subscribe{Conn: 7, Call: subscribeCall(string(l.Run.Executor))})
		}
		b.pass(time.Hour)
		b.step(LinkDown{})
		b.register()
	})
}

// FuzzExecutorCalls lets an executor say anything.
func FuzzExecutorCalls(f *testing.F) {
	seed(f, subscribeCall("t1"), updateCall("t1", executorStatus("t1", running, 2)), updateCall("t1", executorStatus("other", finished, 3)),
		updateCall("e", executorStatus("t1", mesosv1.TaskState_TASK_STAGING, 4)))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &executorv1.Call{}
		if c.UnmarshalVT(data) != nil || proto.CheckInitialized(c) != nil {
			return
		}
		b := registered(t)
		b.start(commandTask("t1"), 1)
		b.start(customTask("t2", "e"), 2)
		b.step(ExecutorCall{Request: 9, Call: c})
		b.step(Subscribe{Conn: 3, Call: c})
		b.step(ExecutorGone{Conn: 1})
		b.step(Subscribe{Conn: 4, Call: c})
		b.step(ExecutorCall{Request: 10, Call: c})
		b.pass(time.Hour)
	})
}
