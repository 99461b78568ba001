package core

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

const (
	starting = mesosv1.TaskState_TASK_STARTING
	running  = mesosv1.TaskState_TASK_RUNNING
	finished = mesosv1.TaskState_TASK_FINISHED
	killed   = mesosv1.TaskState_TASK_KILLED
)

func expect(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !cmp.Equal(got, want) {
		t.Errorf("%s (-want +got):\n%s", what, cmp.Diff(want, got))
	}
}

func TestPhaseTablesAreComplete(t *testing.T) {
	t.Parallel()
	for p := Recovering; p <= Terminating; p++ {
		if _, ok := phaseMoves[p]; !ok || p.String() == "" {
			t.Errorf("phase %d has no row or no name", p)
		}
		if p != Terminating && !mayMove(phaseMoves, p, Terminating) {
			t.Errorf("%v can't be terminated", p)
		}
	}
	for p := ExecutorRegistering; p <= ExecutorTerminated; p++ {
		if _, ok := executorMoves[p]; !ok || p.String() == "" {
			t.Errorf("executor phase %d has no row or no name", p)
		}
		if mayMove(executorMoves, ExecutorTerminated, p) != (p == ExecutorTerminated) {
			t.Errorf("a terminated executor may become %v", p)
		}
	}
	for p := TaskQueued; p <= TaskCompleted; p++ {
		if _, ok := taskMoves[p]; !ok || p.String() == "" {
			t.Errorf("task phase %d has no row or no name", p)
		}
	}
	for n, name := range mesosv1.TaskState_name {
		s := mesosv1.TaskState(n)
		want := slices.Contains([]string{"TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_LOST", "TASK_ERROR", "TASK_DROPPED", "TASK_GONE", "TASK_GONE_BY_OPERATOR"}, name)
		if Terminal(s) != want {
			t.Errorf("Terminal(%s) = %v", name, !want)
		}
	}
}

func TestRegistration(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if len(of[Recovered](b.take())) != 1 {
		t.Fatal("a first start has nothing to recover")
	}
	b.step(LinkUp{})
	m := of[ToMaster](b.take())
	if len(m) != 1 || m[0].Message.GetRegister() == nil {
		t.Fatalf("first message: %v", m)
	}
	b.pass(time.Minute)
	if len(of[Relink](b.take())) != 1 {
		t.Error("a master that does not answer is not given up")
	}
	b.step(LinkDown{})
	b.register()
	effects := b.take()
	if b.core.Phase() != Running || b.core.AgentID() != "m-S0" || len(of[SaveAgent](effects)) != 1 {
		t.Errorf("phase %v, id %s, effects %v", b.core.Phase(), b.core.AgentID(), effects)
	}
	// The next connection tells everything.
	b.start(commandTask("t1"), 1)
	b.step(LinkDown{})
	b.take()
	b.step(LinkUp{})
	re := of[ToMaster](b.take())[0].Message.GetReregister()
	if re == nil || len(re.GetTasks()) != 1 || len(re.GetExecutors()) != 0 /* a generated one is the agent's own */ || len(re.GetFrameworks()) != 1 || re.GetAgent().GetInfo().GetId().GetValue() != "m-S0" {
		t.Errorf("reregister: %v", re)
	}
}

func TestAnotherClusterIsNotJoined(t *testing.T) {
	t.Parallel()
	b := registered(t)
	b.step(LinkDown{})
	b.step(LinkUp{})
	b.take()
	b.master(&linkv1.Message{Kind: &linkv1.Message_Registered{Registered: &linkv1.Registered{AgentId: &mesosv1.AgentID{Value: proto.String("x-S9")}, Master: &mesosv1.MasterInfo{}}}})
	if len(of[Relink](b.take())) != 1 || b.core.AgentID() != "m-S0" || b.core.Phase() == Running {
		t.Errorf("agent %s is %v", b.core.AgentID(), b.core.Phase())
	}
}

func TestCommandTaskLivesAndEnds(t *testing.T) {
	t.Parallel()
	b := registered(t)
	b.master(run(frameworkInfo(), commandTask("t1")))
	effects := b.take()
	var kinds []string
	for _, e := range effects {
		kinds = append(kinds, fmt.Sprintf("%T", e))
	}
	expect(t, "checkpoint first", kinds, []string{"core.SaveFramework", "core.SaveExecutor", "core.SaveTask", "core.Launch"})
	l := of[Launch](effects)[0]
	if l.Kind != containerizer.CommandTask || l.User != "nobody" || l.Task.GetTaskId().GetValue() != "t1" {
		t.Errorf("launch %+v", l)
	}
	if got, want := l.Executor.GetName(), "Command Executor (Task: t1) (Command: sh -c 'sleep 100000...')"; got != want {
		t.Errorf("executor name %q, want %q", got, want)
	}
	if got := l.Resources; len(got) != 2 || got[0].GetScalar().GetValue() != 1.1 || got[1].GetScalar().GetValue() != 96 {
		t.Errorf("container resources %v, want the task's and the executor's", got)
	}
	b.launched(l)
	b.step(Subscribe{Conn: 5, Call: subscribeCall("t1")})
	expect(t, "events", events(b.take()), []string{"SUBSCRIBED", "LAUNCH t1"})

	b.update("t1", "t1", starting, 1)
	effects = b.take()
	expect(t, "master hears", states(effects), []string{"t1 TASK_STARTING REASON_COMMAND_EXECUTOR_FAILED"})
	expect(t, "executor hears", events(effects), []string{"ACKNOWLEDGED t1"})
	saved := slices.IndexFunc(effects, func(e Effect) bool { _, ok := e.(AppendUpdate); return ok })
	told := slices.IndexFunc(effects, func(e Effect) bool { _, ok := e.(ToExecutor); return ok })
	if saved < 0 || saved > told {
		t.Error("the update was acknowledged before it was kept")
	}
	first := updates(effects)[0]
	if s := first.GetStatus(); s.Reason != nil || s.GetAgentId().GetValue() != "m-S0" || s.GetContainerStatus().GetExecutorPid() != 77 || s.GetTimestamp() == 0 {
		t.Errorf("status %v", s)
	}

	// Only one update is in flight.
	b.update("t1", "t1", running, 2)
	b.update("t1", "t1", finished, 3)
	expect(t, "master hears", states(b.take()), []string{})
	b.master(ackMsg(first))
	second := updates(b.take())
	if len(second) != 1 || second[0].GetStatus().GetState() != running || second[0].GetLatestState() != finished {
		t.Fatalf("after the first acknowledgement: %v", second)
	}
	b.master(ackMsg(first)) // once more: it changes nothing
	expect(t, "master hears", states(b.take()), []string{})
	b.master(ackMsg(second[0]))
	third := updates(b.take())
	b.step(ended(l.Run, 0))
	b.take()
	if n := len(b.core.View().Frameworks); n != 1 {
		t.Errorf("%d frameworks while an update is owed", n)
	}
	b.master(ackMsg(third[0]))
	effects = b.take()
	if len(of[SaveCompleted](effects)) != 1 || len(of[Collect](effects)) != 1 || !of[Collect](effects)[0].Framework {
		t.Errorf("after the last acknowledgement: %v", effects)
	}
	v := b.core.View()
	if len(v.Frameworks) != 0 || len(v.Completed) != 1 || len(v.Completed[0].Completed[0].Completed) != 1 {
		t.Errorf("view %+v", v)
	}
	if _, timer := b.core.Next(); timer {
		t.Error("a timer is left")
	}
}

func TestUpdateRetries(t *testing.T) {
	t.Parallel()
	b := registered(t)
	b.start(commandTask("t1"), 1)
	b.update("t1", "t1", running, 1)
	sent := updates(b.take())[0]
	for _, after := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 320 * time.Second, 10 * time.Minute, 10 * time.Minute} {
		b.pass(after - time.Millisecond)
		expect(t, "too early", states(b.take()), []string{})
		b.pass(time.Millisecond)
		again := updates(b.take())
		if len(again) != 1 || string(again[0].GetStatus().GetUuid()) != string(sent.GetStatus().GetUuid()) {
			t.Fatalf("after %v: %v", after, again)
		}
	}
	b.step(LinkDown{})
	b.pass(time.Hour)
	expect(t, "without a link", states(b.take()), []string{})
	b.register()
	if again := updates(b.take()); len(again) != 1 {
		t.Errorf("after re-registration: %v", again)
	}
	b.master(&linkv1.Message{Kind: &linkv1.Message_UpdateFramework{UpdateFramework: &linkv1.UpdateFramework{Framework: frameworkInfo()}}})
	if again := updates(b.take()); len(again) != 1 || string(again[0].GetStatus().GetUuid()) != string(sent.GetStatus().GetUuid()) {
		t.Errorf("after the framework has subscribed again: %v", again)
	}
}

func TestKill(t *testing.T) {
	t.Parallel()
	aware := mesosv1.FrameworkInfo_Capability_PARTITION_AWARE
	t.Run("before the executor subscribes", func(t *testing.T) {
		b := registered(t)
		b.master(run(frameworkInfo(aware), commandTask("t1")))
		b.take()
		b.master(killMsg("t1"))
		effects := b.take()
		expect(t, "updates", states(effects), []string{"t1 TASK_KILLED REASON_TASK_KILLED_DURING_LAUNCH"})
		if len(of[Destroy](effects)) != 1 {
			t.Error("an executor without tasks goes on")
		}
	})
	t.Run("one of a group takes its group", func(t *testing.T) {
		b := registered(t)
		group := func(ids ...string) *linkv1.Message {
			e := customExecutor("e")
			e.Type, e.Command = mesosv1.ExecutorInfo_DEFAULT.Enum(), nil
			g := &mesosv1.TaskGroupInfo{}
			for _, id := range ids {
				g.Tasks = append(g.Tasks, commandTask(id))
			}
			return &linkv1.Message{Kind: &linkv1.Message_RunTaskGroup{RunTaskGroup: &linkv1.RunTaskGroup{Framework: frameworkInfo(aware), Executor: e, TaskGroup: g}}}
		}
		b.master(group("a", "b"))
		b.master(group("c", "d"))
		l := of[Launch](b.take())
		if len(l) != 1 || l[0].Kind != containerizer.DefaultExecutor {
			t.Fatalf("launches %v", l)
		}
		b.master(killMsg("b"))
		expect(t, "updates", states(b.take()), []string{"b TASK_KILLED REASON_TASK_KILLED_DURING_LAUNCH", "a TASK_KILLED REASON_TASK_KILLED_DURING_LAUNCH"})
		b.launched(l[0])
		b.step(Subscribe{Conn: 1, Call: subscribeCall("e")})
		expect(t, "events", events(b.take()), []string{"SUBSCRIBED", "LAUNCH_GROUP c d"})
	})
	t.Run("all killed before an executor that is on its way", func(t *testing.T) {
		b := registered(t)
		b.master(run(frameworkInfo(aware), customTask("t1", "e")))
		l := of[Launch](b.take())[0]
		b.launched(l)
		b.master(killMsg("t1"))
		b.take()
		b.step(Subscribe{Conn: 1, Call: subscribeCall("e")})
		expect(t, "events", events(b.take())[:1], []string{"SHUTDOWN"})
	})
	t.Run("running", func(t *testing.T) {
		b := registered(t)
		b.start(commandTask("t1"), 1)
		b.take()
		b.master(killMsg("t1"))
		expect(t, "events", events(b.take()), []string{"KILL t1"})
	})
	t.Run("executor away", func(t *testing.T) {
		b := registered(t)
		b.start(commandTask("t1"), 1)
		b.step(ExecutorGone{Conn: 1})
		b.take()
		b.master(killMsg("t1"))
		expect(t, "events", events(b.take()), []string{})
		call := subscribeCall("t1")
		call.Subscribe.UnacknowledgedTasks = []*mesosv1.TaskInfo{commandTask("t1")}
		b.step(Subscribe{Conn: 2, Call: call})
		expect(t, "events", events(b.take()), []string{"SUBSCRIBED", "KILL t1"})
	})
	t.Run("unknown task", func(t *testing.T) {
		b := registered(t)
		b.start(commandTask("t1"), 1)
		b.take()
		b.master(killMsg("t2"))
		first := b.take()
		expect(t, "updates", states(first), []string{"t2 TASK_DROPPED REASON_EXECUTOR_TERMINATED"})
		b.master(ackMsg(updates(first)[0]))
		b.pass(time.Hour)
		expect(t, "updates", states(b.take()), []string{})
	})
	t.Run("unknown framework", func(t *testing.T) {
		b := registered(t)
		b.master(killMsg("t2"))
		expect(t, "updates", states(b.take()), []string{})
	})
}

func TestExecutorTimers(t *testing.T) {
	t.Parallel()
	t.Run("registration", func(t *testing.T) {
		b := registered(t)
		b.master(run(frameworkInfo(), commandTask("t1")))
		l := of[Launch](b.take())[0]
		b.launched(l)
		b.pass(time.Minute)
		if len(of[Destroy](b.take())) != 1 {
			t.Fatal("not destroyed")
		}
		b.step(ended(l.Run, 9))
		expect(t, "updates", states(b.take()), []string{"t1 TASK_FAILED REASON_EXECUTOR_REGISTRATION_TIMEOUT"})
	})
	t.Run("shutdown grace", func(t *testing.T) {
		b := registered(t)
		r := b.start(customTask("t1", "e"), 1)
		b.take()
		b.master(&linkv1.Message{Kind: &linkv1.Message_ShutdownExecutor{ShutdownExecutor: &linkv1.ShutdownExecutor{
			FrameworkId: &mesosv1.FrameworkID{Value: proto.String("m-0000")}, ExecutorId: &mesosv1.ExecutorID{Value: proto.String("e")},
		}}})
		expect(t, "events", events(b.take()), []string{"SHUTDOWN"})
		b.pass(5*time.Second - 1)
		if len(of[Destroy](b.take())) != 0 {
			t.Error("destroyed within its grace")
		}
		b.pass(1)
		if len(of[Destroy](b.take())) != 1 {
			t.Error("not destroyed after its grace")
		}
		b.step(ended(r, 9))
		effects := b.take()
		expect(t, "updates", states(effects), []string{"t1 TASK_FAILED REASON_EXECUTOR_TERMINATED"})
		if exited := of[ToMaster](effects)[1].Message.GetExecutorExited(); exited.GetStatus() != 9 {
			t.Errorf("exited %v", exited)
		}
	})
}

func TestTheContainerizersVerdictWins(t *testing.T) {
	t.Parallel()
	b := registered(t)
	r := b.start(commandTask("t1"), 1)
	b.take()
	limitation := &mesosv1.TaskResourceLimitation{Resources: []*mesosv1.Resource{scalar("mem", 96)}}
	b.step(Ended{Run: r, Termination: containerizer.Termination{
		State: mesosv1.TaskState_TASK_FAILED.Enum(), Reason: mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY.Enum(),
		Message: "Memory limit exceeded", Limitation: limitation,
	}})
	u := updates(b.take())
	if len(u) != 1 || u[0].GetStatus().GetReason() != mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY ||
		u[0].GetStatus().GetMessage() != "Memory limit exceeded" || !proto.Equal(u[0].GetStatus().GetLimitation(), limitation) {
		t.Errorf("update %v", u)
	}
}

func TestLaunchFailures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("no such user"), "t1 TASK_FAILED REASON_CONTAINER_LAUNCH_FAILED"},
		{&containerizer.LaunchError{Reason: mesosv1.TaskStatus_REASON_CONTAINER_PREEMPTED, Message: "x"}, "t1 TASK_FAILED REASON_CONTAINER_PREEMPTED"},
	} {
		b := registered(t)
		b.master(run(frameworkInfo(), commandTask("t1")))
		l := of[Launch](b.take())[0]
		b.step(Launched{Run: l.Run, Err: c.err})
		effects := b.take()
		expect(t, c.err.Error(), states(effects), []string{c.want})
		if text := updates(effects)[0].GetStatus().GetMessage(); !strings.Contains(text, c.err.Error()) {
			t.Errorf("message %q does not say why", text)
		}
	}
}

func TestRefusedLaunches(t *testing.T) {
	t.Parallel()
	volume := scalar("disk", 10)
	volume.Disk = &mesosv1.Resource_DiskInfo{Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: proto.String("v")}, Volume: &mesosv1.Volume{ContainerPath: proto.String("p"), Mode: mesosv1.Volume_RW.Enum()}}
	volume.Reservations = []*mesosv1.Resource_ReservationInfo{{Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: proto.String("r")}}
	withVolume := commandTask("t1")
	withVolume.Resources = append(withVolume.Resources, volume)
	bad := commandTask("../etc")
	for _, c := range []struct {
		name  string
		task  *mesosv1.TaskInfo
		drain bool
		want  string
	}{
		{"volume that is not there", withVolume, false, "t1 TASK_DROPPED REASON_RESOURCES_UNKNOWN"},
		{"draining", commandTask("t1"), true, "t1 TASK_DROPPED REASON_AGENT_DRAINING"},
		{"id that is a path", bad, false, "../etc TASK_ERROR REASON_TASK_INVALID"},
	} {
		b := registered(t)
		b.start(commandTask("other"), 1) // so that a drain goes on
		if c.drain {
			b.master(&linkv1.Message{Kind: &linkv1.Message_Drain{Drain: &linkv1.Drain{Config: &mesosv1.DrainConfig{}}}})
		}
		b.take()
		b.master(run(frameworkInfo(mesosv1.FrameworkInfo_Capability_PARTITION_AWARE), c.task))
		effects := b.take()
		expect(t, c.name, states(effects), []string{c.want})
		if len(of[Launch](effects)) > 0 {
			t.Errorf("%s: launched", c.name)
		}
	}
}

func TestAnExecutorThatLies(t *testing.T) {
	t.Parallel()
	b := registered(t)
	b.start(customTask("mine", "e1"), 1)
	b.start(customTask("other", "e2"), 2)
	b.take()
	b.update("e1", "other", finished, 1) // another executor's task
	b.update("e1", "nothing", finished, 2)
	effects := b.take()
	expect(t, "master hears", states(effects), []string{})
	expect(t, "the liar may forget it", events(effects), []string{"ACKNOWLEDGED other", "ACKNOWLEDGED nothing"})
	b.update("e1", "mine", finished, 3)
	b.update("e1", "mine", running, 4) // after the end
	b.update("e1", "mine", finished, 3)
	u := updates(b.take())
	if len(u) != 1 || u[0].GetLatestState() != finished {
		t.Fatalf("updates %v", u)
	}
	b.master(ackMsg(u[0]))
	expect(t, "nothing follows the end", states(b.take()), []string{})

	for name, s := range map[string]func(*mesosv1.TaskStatus){
		"short uuid":    func(s *mesosv1.TaskStatus) { s.Uuid = []byte("x") },
		"no uuid":       func(s *mesosv1.TaskStatus) { s.Uuid = nil },
		"source":        func(s *mesosv1.TaskStatus) { s.Source = mesosv1.TaskStatus_SOURCE_MASTER.Enum() },
		"another's id":  func(s *mesosv1.TaskStatus) { s.ExecutorId = &mesosv1.ExecutorID{Value: proto.String("e1")} },
		"without state": func(s *mesosv1.TaskStatus) { s.State = nil },
	} {
		status := executorStatus("other", running, 9)
		s(status)
		b.step(ExecutorCall{Request: 1, Call: updateCall("e2", status)})
		effects := b.take()
		if r := of[Reply](effects); len(r) != 1 || r[0].Why != Invalid || len(updates(effects)) > 0 {
			t.Errorf("%s: %v", name, effects)
		}
	}
	b.update("e2", "other", mesosv1.TaskState_TASK_STAGING, 10)
	expect(t, "staging", events(b.take())[:1], []string{"SHUTDOWN"})
}

func TestCallsThatAreRefused(t *testing.T) {
	t.Parallel()
	b := registered(t)
	b.start(customTask("t1", "e"), 1)
	b.step(ExecutorGone{Conn: 1})
	b.take()
	for _, c := range []struct {
		ev   Event
		want Refusal
	}{
		{ExecutorCall{Call: updateCall("e", executorStatus("t1", running, 1))}, NotSubscribed},
		{ExecutorCall{Call: updateCall("x", executorStatus("t1", running, 1))}, Unknown},
		{Subscribe{Call: subscribeCall("x")}, Unknown},
	} {
		b.step(c.ev)
		effects := b.take()
		var got Refusal
		for _, e := range of[Reply](effects) {
			got = e.Why
		}
		for _, e := range of[Refuse](effects) {
			got = e.Why
		}
		if got != c.want {
			t.Errorf("%+v: %v, want %v", c.ev, got, c.want)
		}
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	for _, gone := range []bool{false, true} {
		b := registered(t)
		b.start(commandTask("t1"), 1)
		b.update("t1", "t1", running, 1)
		b.master(ackMsg(updates(b.take())[0]))
		b.master(run(frameworkInfo(mesosv1.FrameworkInfo_Capability_PARTITION_AWARE), commandTask("t2"))) // its executor is on its way
		l := of[Launch](b.take())[0]
		b.master(&linkv1.Message{Kind: &linkv1.Message_Drain{Drain: &linkv1.Drain{Config: &mesosv1.DrainConfig{
			MaxGracePeriod: &mesosv1.DurationInfo{Nanoseconds: proto.Int64(1e9)}, MarkGone: &gone,
		}}}})
		effects := b.take()
		state := "TASK_KILLED"
		if gone {
			state = "TASK_GONE_BY_OPERATOR"
		}
		expect(t, "events", events(effects), []string{"KILL t1 1s"})
		expect(t, "updates", states(effects), []string{"t2 " + state + " REASON_AGENT_DRAINING"})
		b.master(ackMsg(updates(effects)[0]))
		b.step(ended(l.Run, 9))
		b.update("t1", "t1", killed, 2)
		effects = b.take()
		expect(t, "updates", states(effects), []string{"t1 " + state + " REASON_AGENT_DRAINING"})
		if b.core.View().Drain == nil {
			t.Error("drained too early")
		}
		b.master(ackMsg(updates(effects)[0]))
		if d := of[SaveDrain](b.take()); len(d) != 1 || d[0].Config != nil {
			t.Errorf("drain does not end: %v", d)
		}
	}
}

func TestFrameworkShutdownDropsItsUpdates(t *testing.T) {
	t.Parallel()
	b := registered(t)
	r := b.start(customTask("t1", "e"), 1)
	b.update("e", "t1", running, 1)
	b.take()
	b.master(&linkv1.Message{Kind: &linkv1.Message_ShutdownFramework{ShutdownFramework: &linkv1.ShutdownFramework{FrameworkId: &mesosv1.FrameworkID{Value: proto.String("m-0000")}}}})
	expect(t, "events", events(b.take()), []string{"SHUTDOWN"})
	b.update("e", "t1", killed, 2)
	b.step(ended(r, 0))
	effects := b.take()
	expect(t, "updates", states(effects), []string{})
	if len(of[Collect](effects)) != 1 || len(b.core.View().Frameworks) != 0 {
		t.Errorf("left: %v", effects)
	}
	b.pass(24 * time.Hour)
	expect(t, "updates", states(b.take()), []string{})
}

func TestExpectedTasksAreAnswered(t *testing.T) {
	t.Parallel()
	b := registered(t)
	b.start(commandTask("here"), 1)
	b.step(LinkDown{})
	b.step(LinkUp{})
	b.take()
	expected := func(id string, c ...mesosv1.FrameworkInfo_Capability_Type) *linkv1.ExpectedTask {
		return &linkv1.ExpectedTask{FrameworkId: &mesosv1.FrameworkID{Value: proto.String("m-0000")}, TaskId: &mesosv1.TaskID{Value: &id}, FrameworkCapabilities: frameworkInfo(c...).GetCapabilities()}
	}
	b.master(&linkv1.Message{Kind: &linkv1.Message_Registered{Registered: &linkv1.Registered{
		AgentId: &mesosv1.AgentID{Value: proto.String("m-S0")}, Master: &mesosv1.MasterInfo{}, Reregistered: proto.Bool(true),
		ExpectedTasks: []*linkv1.ExpectedTask{expected("here"), expected("a"), expected("b", mesosv1.FrameworkInfo_Capability_PARTITION_AWARE)},
	}}})
	got := states(b.take())
	slices.Sort(got)
	expect(t, "updates", slices.Compact(got), []string{"a TASK_LOST REASON_RECONCILIATION", "b TASK_DROPPED REASON_RECONCILIATION"})
}

func TestOperations(t *testing.T) {
	t.Parallel()
	b := registered(t)
	// What the agent registered with, and the master sends with every operation until it hears of another.
	version := slices.Clone(b.core.version)
	apply := func(uuid string, op *mesosv1.Offer_Operation) *linkv1.OperationUpdate {
		t.Helper()
		b.take()
		b.master(&linkv1.Message{Kind: &linkv1.Message_ApplyOperation{ApplyOperation: &linkv1.ApplyOperation{Operation: op, OperationUuid: []byte(uuid), ResourceVersionUuid: version}}})
		for _, m := range of[ToMaster](b.effects) {
			if u := m.Message.GetOperationUpdate(); u != nil {
				return u
			}
		}
		t.Fatal("no answer")
		return nil
	}
	reserved := scalar("disk", 100)
	reserved.AllocationInfo = &mesosv1.Resource_AllocationInfo{Role: proto.String("r")}
	reserved.Reservations = []*mesosv1.Resource_ReservationInfo{{Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: proto.String("r")}}
	u := apply("u1", &mesosv1.Offer_Operation{Id: &mesosv1.OperationID{Value: proto.String("op")}, Type: mesosv1.Offer_Operation_RESERVE.Enum(), Reserve: &mesosv1.Offer_Operation_Reserve{Resources: []*mesosv1.Resource{reserved}}})
	if u.GetStatus().GetState() != mesosv1.OperationState_OPERATION_FINISHED || u.GetStatus().GetUuid() == nil {
		t.Fatalf("reserve: %v", u)
	}
	saved := of[SaveResources](b.take())
	if len(saved) != 1 || len(saved[0].Resources.GetTotal()) != 4 || len(saved[0].Resources.GetOperations()) != 1 {
		t.Fatalf("saved %v", saved)
	}
	b.pass(10 * time.Second)
	if again := of[ToMaster](b.take()); len(again) != 1 {
		t.Errorf("status with an id is not sent again: %v", again)
	}
	b.master(&linkv1.Message{Kind: &linkv1.Message_OperationAck{OperationAck: &linkv1.OperationAck{OperationUuid: []byte("u1"), StatusUuid: u.GetStatus().GetUuid().GetValue()}}})
	b.take()
	b.pass(time.Hour)
	if again := of[ToMaster](b.take()); len(again) != 0 {
		t.Errorf("sent again after the acknowledgement: %v", again)
	}

	volume := reserved.CloneVT()
	volume.Disk = &mesosv1.Resource_DiskInfo{Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: proto.String("v")}, Volume: &mesosv1.Volume{ContainerPath: proto.String("p"), Mode: mesosv1.Volume_RW.Enum()}}
	u = apply("u2", &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_CREATE.Enum(), Create: &mesosv1.Offer_Operation_Create{Volumes: []*mesosv1.Resource{volume}}})
	effects := b.take()
	if u.GetStatus().GetState() != mesosv1.OperationState_OPERATION_FINISHED || len(of[MakeVolumes](effects)) != 1 {
		t.Fatalf("create: %v, %v", u, effects)
	}
	task := commandTask("t1")
	task.Resources = append(task.Resources, volume)
	r := b.start(task, 1)
	b.take()
	destroy := &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_DESTROY.Enum(), Destroy: &mesosv1.Offer_Operation_Destroy{Volumes: []*mesosv1.Resource{volume}}}
	if u = apply("u3", destroy); u.GetStatus().GetState() != mesosv1.OperationState_OPERATION_FAILED || !strings.Contains(u.GetStatus().GetMessage(), "in use") {
		t.Errorf("destroy while in use: %v", u)
	}
	effects = b.take()
	if n := len(of[DeleteVolumes](effects)); n != 0 {
		t.Error("data of a volume in use was deleted")
	}
	// The master has counted it as done: it hears what is there, and what it has sent meanwhile is dropped.
	var word *linkv1.AgentUpdate
	for _, m := range of[ToMaster](effects) {
		if u := m.Message.GetAgentUpdate(); u != nil {
			word = u
		}
	}
	if word == nil || len(resources.FromProtoTrusted(word.GetTotalResources()).PersistentVolumes().Proto()) != 1 || slices.Equal(word.GetResourceVersionUuid(), version) {
		t.Fatalf("the master hears %v", word)
	}
	if u = apply("u3b", destroy); u.GetStatus().GetState() != mesosv1.OperationState_OPERATION_DROPPED {
		t.Errorf("an operation on what the master believed: %v", u)
	}
	version = word.GetResourceVersionUuid()
	b.step(ended(r, 0))
	b.take()
	u = apply("u4", destroy)
	effects = b.take()
	if u.GetStatus().GetState() != mesosv1.OperationState_OPERATION_FINISHED || len(of[DeleteVolumes](effects)) != 1 {
		t.Errorf("destroy: %v, %v", u, effects)
	}
	if rec := of[SaveResources](effects)[0].Resources; len(rec.GetDestroyed()) != 1 {
		t.Errorf("a crash before the deletion would leave the data: %v", rec)
	}
}

func TestRecovery(t *testing.T) {
	t.Parallel()
	before := func(t *testing.T) (*bench, Run) {
		b := registered(t)
		r := b.start(commandTask("t1"), 1)
		b.update("t1", "t1", starting, 1)
		b.update("t1", "t1", running, 2)
		return b, r
	}
	again := func(b *bench, alive bool, change func(*Boot)) *bench {
		n := &bench{t: b.t, core: New(testConfig), now: b.now.Add(time.Second), disk: b.disk}
		boot := b.disk.boot(agentInfo(), func(ids.Container) bool { return alive })
		if change != nil {
			change(&boot)
		}
		n.step(boot)
		return n
	}
	t.Run("executor comes back", func(t *testing.T) {
		b, r := before(t)
		b = again(b, true, nil)
		effects := b.take()
		if w := of[Watch](effects); len(w) != 1 || w[0].Run != r || len(of[Recovered](effects)) != 0 {
			t.Fatalf("effects %v", effects)
		}
		b.step(LinkUp{}) // too early
		if len(of[Relink](b.take())) != 1 {
			t.Error("registered before the executors were back")
		}
		b.step(Subscribe{Conn: 9, Call: subscribeCall("t1")})
		effects = b.take()
		expect(t, "events", events(effects), []string{"SUBSCRIBED"})
		if len(of[Recovered](effects)) != 1 {
			t.Error("recovery does not finish")
		}
		b.register()
		expect(t, "updates", states(b.take()), []string{"t1 TASK_STARTING REASON_COMMAND_EXECUTOR_FAILED"})
		b.update("t1", "t1", running, 2) // the executor did not hear that it was kept
		effects = b.take()
		expect(t, "events", events(effects), []string{"ACKNOWLEDGED t1"})
		expect(t, "updates", states(effects), []string{})
	})
	t.Run("executor stays away", func(t *testing.T) {
		b, r := before(t)
		b = again(b, true, nil)
		b.take()
		b.pass(2 * time.Second)
		effects := b.take()
		if len(of[Destroy](effects)) != 1 || len(of[Recovered](effects)) != 1 {
			t.Fatalf("effects %v", effects)
		}
		b.step(ended(r, 9))
		b.register()
		u := updates(b.take())
		if len(u) != 1 || u[0].GetLatestState() != mesosv1.TaskState_TASK_FAILED {
			t.Errorf("updates %v", u)
		}
	})
	for name, reboot := range map[string]bool{"container is gone": false, "reboot": true} {
		t.Run(name, func(t *testing.T) {
			b, _ := before(t)
			b = again(b, false, func(boot *Boot) { boot.Rebooted = reboot })
			if len(of[Recovered](b.take())) != 1 {
				t.Fatal("waits for nothing")
			}
			b.register()
			want := mesosv1.TaskState_TASK_FAILED
			if reboot {
				want = mesosv1.TaskState_TASK_GONE
			}
			u := updates(b.take())
			if len(u) != 1 || u[0].GetLatestState() != want || u[0].GetStatus().GetState() != starting {
				t.Errorf("updates %v: the old ones first, then %v", u, want)
			}
		})
	}
	t.Run("cleanup", func(t *testing.T) {
		b, r := before(t)
		b = again(b, true, func(boot *Boot) { boot.Cleanup = true })
		b.pass(5 * time.Second)
		if d := of[Destroy](b.take()); len(d) != 1 {
			t.Fatalf("destroyed %v", d)
		}
		b.step(ended(r, 9))
		if len(of[Exit](b.take())) != 1 || b.disk.agent != nil {
			t.Error("cleanup does not end, or leaves the agent's id")
		}
	})
	t.Run("task that never reached its helper is sent again", func(t *testing.T) {
		b := registered(t)
		b.start(commandTask("t1"), 1)
		b = again(b, true, nil)
		b.step(Subscribe{Conn: 2, Call: subscribeCall("t1")})
		expect(t, "events", events(b.take()), []string{"SUBSCRIBED", "LAUNCH t1"})
	})
	t.Run("task that never reached a custom executor is dropped", func(t *testing.T) {
		b := registered(t)
		b.start(customTask("t1", "e"), 1)
		b = again(b, true, nil)
		b.step(Subscribe{Conn: 2, Call: subscribeCall("e")})
		b.register()
		expect(t, "updates", states(b.take()), []string{"t1 TASK_DROPPED REASON_AGENT_RESTARTED"})
	})
	t.Run("executor that was never launched", func(t *testing.T) {
		b := registered(t)
		b.master(run(frameworkInfo(), commandTask("t1")))
		r := of[Launch](b.take())[0].Run
		b = again(b, false, nil)
		l := of[Launch](b.take())
		if len(l) != 1 || l[0].Run.Container == r.Container || b.disk.runs[r] != nil || l[0].Task.GetTaskId().GetValue() != "t1" {
			t.Fatalf("launches %v", l)
		}
		b.register()
		b.launched(l[0])
		b.step(Subscribe{Conn: 2, Call: subscribeCall("t1")})
		expect(t, "events", events(b.take()), []string{"SUBSCRIBED", "LAUNCH t1"})
	})
	t.Run("queued tasks of an executor on its way", func(t *testing.T) {
		b := registered(t)
		b.master(run(frameworkInfo(), customTask("t1", "e")))
		b.master(run(frameworkInfo(), customTask("t2", "e")))
		b = again(b, true, nil)
		if len(of[Recovered](b.take())) != 1 {
			t.Error("an executor that never registered is waited for")
		}
		b.step(Subscribe{Conn: 2, Call: subscribeCall("e")})
		expect(t, "events", events(b.take()), []string{"SUBSCRIBED", "LAUNCH t1", "LAUNCH t2"})
	})
}

func TestLeave(t *testing.T) {
	t.Parallel()
	b := registered(t)
	r := b.start(commandTask("t1"), 1)
	b.take()
	b.step(Leave{Message: "SIGUSR1"})
	expect(t, "events", events(b.take()), []string{"SHUTDOWN"})
	b.step(ended(r, 0))
	effects := b.take()
	last := of[ToMaster](effects)
	if len(of[Exit](effects)) != 1 || last[len(last)-1].Message.GetUnregister() == nil || b.disk.agent != nil {
		t.Errorf("effects %v", effects)
	}
}

func TestUpdatesOfOneTaskAreBounded(t *testing.T) {
	t.Parallel()
	b := registered(t)
	b.start(customTask("t1", "e"), 1)
	for i := range 5000 {
		b.update("e", "t1", running, i)
	}
	b.update("e", "t1", finished, 5001)
	for range maxPending + 10 {
		u := updates(b.take())
		if len(u) == 0 {
			break
		}
		b.master(ackMsg(u[len(u)-1]))
	}
	v := b.core.View()
	if len(v.Frameworks[0].Executors[0].Tasks) != 0 {
		t.Error("the end of the task never arrived")
	}
	for _, r := range b.disk.runs {
		if n := len(r.tasks["t1"].updates); n > 2*rewriteAfter {
			t.Errorf("%d records on disk", n)
		}
	}
}
