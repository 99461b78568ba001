package agent

import (
	"fmt"
	"sync"
	"testing"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// BenchmarkTasks runs tasks of one custom executor through the whole daemon: the master's message, the checkpoint on a
// real disk, the executor's stream, three updates as HTTP calls, three acknowledgements. No process is started.
func BenchmarkTasks(b *testing.B) {
	h := newHarness(b, nil)
	h.registered()
	h.run(customTask("first", "e"))
	x := h.executor("e", wire.Protobuf)
	x.expect(executorv1.Event_SUBSCRIBED)
	x.expect(executorv1.Event_LAUNCH)
	const inFlight = 256
	slots := make(chan struct{}, inFlight)
	var done sync.WaitGroup
	go func() { // the master
		for m := range h.master.heard {
			u := m.GetUpdate()
			if u == nil {
				continue
			}
			h.master.try(&linkv1.Message{Kind: &linkv1.Message_UpdateAck{UpdateAck: &linkv1.UpdateAck{FrameworkId: u.GetFrameworkId(), TaskId: u.GetStatus().GetTaskId(), Uuid: u.GetStatus().GetUuid()}}})
			if u.GetStatus().GetState() == finished {
				<-slots
				done.Done()
			}
		}
	}()
	tasks := make(chan string, inFlight)
	go func() { // the executor
		for {
			e := &executorv1.Event{}
			if x.events.Next(e) != nil {
				return
			}
			if e.GetType() == executorv1.Event_LAUNCH {
				tasks <- e.GetLaunch().GetTask().GetTaskId().GetValue()
			}
		}
	}()
	for worker := range 64 {
		go func() {
			n := 0
			for id := range tasks {
				for _, state := range []mesosv1.TaskState{starting, running, finished} {
					n++
					call := x.call(executorv1.Call_UPDATE)
					call.Update = &executorv1.Call_Update{Status: &mesosv1.TaskStatus{TaskId: &mesosv1.TaskID{Value: &id}, State: &state, Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(), Uuid: fmt.Appendf(nil, "%04d%012d", worker, n)}}
					if err := x.client.Call(b.Context(), call); err != nil {
						b.Error(err)
						return
					}
				}
			}
		}()
	}
	n := 0
	for b.Loop() {
		n++
		slots <- struct{}{}
		done.Add(1)
		h.master.send(&linkv1.Message{Kind: &linkv1.Message_RunTask{RunTask: &linkv1.RunTask{Framework: testFramework(), Task: customTask(fmt.Sprintf("t%d", n), "e")}}})
	}
	done.Wait()
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "tasks/s")
}
