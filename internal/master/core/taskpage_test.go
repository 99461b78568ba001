package core

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/resources"
)

var drawnStates = rapid.SampledFrom([]mesosv1.TaskState{
	mesosv1.TaskState_TASK_STAGING, mesosv1.TaskState_TASK_STARTING, mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskState_TASK_KILLING,
	mesosv1.TaskState_TASK_FINISHED, mesosv1.TaskState_TASK_FAILED,
})

// maybe draws a value or nothing.
func maybe[T any](t *rapid.T, what string, make func() *T) *T {
	if rapid.Bool().Draw(t, what) {
		return make()
	}
	return nil
}

func drawStatus(t *rapid.T, task *mesosv1.Task) *mesosv1.TaskStatus {
	s := &mesosv1.TaskStatus{
		TaskId: task.TaskId, State: drawnStates.Draw(t, "state").Enum(),
		Source: maybe(t, "source", func() *mesosv1.TaskStatus_Source { return mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum() }),
		Reason: maybe(t, "reason", func() *mesosv1.TaskStatus_Reason { return mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED.Enum() }),
		Message: maybe(t, "message", func() *string {
			return proto.String(rapid.SampledFrom([]string{"", "said", strings.Repeat("é", 512), strings.Repeat("é", 513), "x" + strings.Repeat("é", 9000)}).Draw(t, "said"))
		}),
		Timestamp: maybe(t, "timestamp", func() *float64 { return proto.Float64(rapid.Float64().Draw(t, "at")) }),
		Healthy:   maybe(t, "healthy", func() *bool { return proto.Bool(true) }),
		Labels: maybe(t, "labels", func() *mesosv1.Labels {
			return &mesosv1.Labels{Labels: []*mesosv1.Label{{Key: proto.String(rapid.String().Draw(t, "key"))}}}
		}),
		ContainerStatus: maybe(t, "container", func() *mesosv1.ContainerStatus { return &mesosv1.ContainerStatus{ExecutorPid: proto.Uint32(7)} }),
		ExecutorId:      maybe(t, "executor", func() *mesosv1.ExecutorID { return &mesosv1.ExecutorID{Value: proto.String("x")} }),
	}
	switch rapid.IntRange(0, 2).Draw(t, "agent") {
	case 0:
		s.AgentId = task.AgentId
	case 1:
		s.AgentId = &mesosv1.AgentID{Value: proto.String("another")}
	}
	if rapid.Bool().Draw(t, "data") {
		s.Data = rapid.SliceOfN(rapid.Byte(), 0, 1000).Draw(t, "bytes")
	}
	if rapid.Bool().Draw(t, "uuid") {
		s.Uuid = rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid bytes")
	}
	return s
}

func drawTask(t *rapid.T) *mesosv1.Task {
	text := rapid.SampledFrom([]string{"cpus:1;mem:64", "cpus:2", "ports:[1-3,7-9];cpus:0.1"}).Draw(t, "resources")
	return &mesosv1.Task{
		Name: proto.String(rapid.SampledFrom([]string{"", "t1", "web"}).Draw(t, "name")), TaskId: &mesosv1.TaskID{Value: proto.String("t1")},
		FrameworkId: &mesosv1.FrameworkID{Value: proto.String("f")}, AgentId: &mesosv1.AgentID{Value: proto.String("a")},
		State: drawnStates.Draw(t, "first state").Enum(), Resources: resources.MustParse(text).Allocate("web").Proto(),
		ExecutorId: maybe(t, "executor", func() *mesosv1.ExecutorID { return &mesosv1.ExecutorID{Value: proto.String("exec")} }),
		User:       maybe(t, "user", func() *string { return proto.String("alice") }),
		Labels:     maybe(t, "labels", func() *mesosv1.Labels { return &mesosv1.Labels{Labels: []*mesosv1.Label{{Key: proto.String("k")}}} }),
		KillPolicy: maybe(t, "policy", func() *mesosv1.KillPolicy { return &mesosv1.KillPolicy{} }),
		Container: maybe(t, "container", func() *mesosv1.ContainerInfo {
			return &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), Hostname: proto.String(string(make([]byte, 300)))}
		}),
	}
}

// applied is what a status makes of a Task, written plainly: the rule that TaskPage.with follows.
func applied(p *mesosv1.Task, status *mesosv1.TaskStatus, latest mesosv1.TaskState) *mesosv1.Task {
	p = p.CloneVT()
	if !terminal(p.GetState()) {
		p.State = latest.Enum()
	}
	if status.Uuid != nil {
		p.StatusUpdateState, p.StatusUpdateUuid = status.State, status.Uuid
	}
	kept := status.CloneVT()
	kept.Data = nil
	if m := []rune(kept.GetMessage()); len(string(m)) > 1024 {
		for len(string(m)) > 1024-3 {
			m = m[:len(m)-1]
		}
		kept.Message = proto.String(string(m) + "…")
	}
	if n := len(p.Statuses); n > 0 && p.Statuses[n-1].GetState() == status.GetState() {
		p.Statuses = p.Statuses[:n-1]
	}
	p.Statuses = append(p.Statuses, kept)
	return p
}

// A page gives the same message as a Task to which everything is applied plainly, whatever it shares with other tasks, and
// earlier pages stay as they were.
func TestTaskPageIsTheTask(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var like *TaskPage
		if rapid.Bool().Draw(t, "like another") {
			like = NewTaskPage(drawTask(t), nil)
		}
		p := drawTask(t)
		page := NewTaskPage(p, like)
		var pages []*TaskPage
		var want []*mesosv1.Task
		for range rapid.IntRange(0, 5).Draw(t, "statuses") {
			pages, want = append(pages, page), append(want, p)
			status, latest := drawStatus(t, p), drawnStates.Draw(t, "latest")
			page, p = page.with(status, latest), applied(p, status, latest)
		}
		pages, want = append(pages, page), append(want, p)
		for i := range pages {
			got := pages[i].Proto()
			if diff := cmp.Diff(want[i], got, protocmp.Transform()); diff != "" {
				t.Fatalf("page %d (-want +got):\n%s", i, diff)
			}
			// A page made of the message, as of what an agent reports, is the same again.
			if diff := cmp.Diff(got, NewTaskPage(got, like).Proto(), protocmp.Transform()); diff != "" {
				t.Fatalf("made of its message (-want +got):\n%s", diff)
			}
			if pages[i].State() != want[i].GetState() || pages[i].User() != want[i].GetUser() || !proto.Equal(pages[i].executorID(), want[i].ExecutorId) {
				t.Fatalf("%v %q %v, want %v", pages[i].State(), pages[i].User(), pages[i].executorID(), want[i])
			}
			if n := len(want[i].Statuses); n > 0 && !proto.Equal(pages[i].lastStatus(), want[i].Statuses[n-1]) {
				t.Fatalf("last status %v, want %v", pages[i].lastStatus(), want[i].Statuses[n-1])
			}
		}
	})
}

// Tasks of one app share all but their names.
func TestTaskPagesShare(t *testing.T) {
	make := func(id string) *mesosv1.Task {
		return &mesosv1.Task{
			Name: proto.String("web"), TaskId: &mesosv1.TaskID{Value: proto.String(id)}, FrameworkId: &mesosv1.FrameworkID{Value: proto.String("f")},
			AgentId: &mesosv1.AgentID{Value: proto.String("a")}, State: mesosv1.TaskState_TASK_STAGING.Enum(), User: proto.String("root"),
			Resources: resources.MustParse("cpus:1").Allocate("web").Proto(),
		}
	}
	first := NewTaskPage(make("t1"), nil)
	second := NewTaskPage(make("t2"), first)
	if first.task.shape != second.task.shape || !first.Resources().Same(second.Resources()) {
		t.Error("two tasks that are alike share nothing")
	}
	changed := make("t3")
	changed.User = proto.String("alice")
	if third := NewTaskPage(changed, second); third.task.shape == second.task.shape || third.User() != "alice" {
		t.Error("a task of another user shares the user")
	}
}

// What a client or an agent leaves out must not crash a master, however it got in.
func TestTaskPageOfAnIncompleteTask(t *testing.T) {
	page := NewTaskPage(&mesosv1.Task{Labels: &mesosv1.Labels{Labels: []*mesosv1.Label{{}}}}, nil)
	page = page.with(&mesosv1.TaskStatus{}, mesosv1.TaskState_TASK_RUNNING)
	if p := page.Proto(); p.GetState() != mesosv1.TaskState_TASK_RUNNING {
		t.Error(p)
	}
}
