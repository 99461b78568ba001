package core

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	quotav1 "github.com/orchestrator/orchestrator/api/mesos/v1/quota"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/resources"
)

const big = "cpus:4;mem:4096;disk:1000;ports:[31000-32000]"

func TestTaskLivesFromOfferToAcknowledgedEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe()
	o := sc.oneOffer()
	if o.AllocationInfo != nil || o.Resources[0].AllocationInfo != nil {
		t.Error("a framework without MULTI_ROLE must not see allocation_info")
	}
	if got := o.GetUrl().GetPath(); got != "/slave(1)" {
		t.Errorf("offer url path %q", got)
	}
	sc.accept(o, 0, launch(commandTask("t1", o, "cpus:1;mem:64"), commandTask("t2", o, "cpus:1;mem:64")))
	if got := len(n.launched()); got != 2 {
		t.Fatalf("agent was asked to run %d tasks, want 2", got)
	}
	rest := sc.oneOffer()
	if got := resources.FromProtoTrusted(rest.GetResources()).Quantities().Get("cpus").Float(); got != 2 {
		t.Errorf("rest of the offer has %v cpus, want 2", got)
	}
	n.update(sc.id, "t1", mesosv1.TaskState_TASK_RUNNING, "a")
	got := sc.updates()
	if d := cmp.Diff([]string{"RUNNING"}, states(got)); d != "" {
		t.Fatal(d)
	}
	sc.ack(got[0])
	if m := n.next(); len(m) != 1 || m[0].GetUpdateAck() == nil {
		t.Fatalf("agent got %v, want the acknowledgement", m)
	}
	n.update(sc.id, "t1", mesosv1.TaskState_TASK_FINISHED, "b")
	evs := sc.next()
	var freed *mesosv1.Offer
	for _, e := range evs {
		if len(e.GetOffers().GetOffers()) > 0 {
			freed = e.GetOffers().GetOffers()[0]
		}
	}
	if freed == nil {
		t.Error("resources of a finished task must be offered at once, before its update is acknowledged")
	}
	if w.s.frameworks[sc.id].tasks["t1"] == nil {
		t.Error("a finished task stays known until its update is acknowledged")
	}
	sc.ack(&mesosv1.TaskStatus{AgentId: n.info.Id, TaskId: &mesosv1.TaskID{Value: proto.String("t1")}, Uuid: []byte(strings.Repeat("b", 16))})
	if w.s.frameworks[sc.id].tasks["t1"] != nil {
		t.Error("an acknowledged end must take the task out of the live ones")
	}
	p, _ := w.s.Publish().Frameworks.Get(sc.id)
	if len(p.CompletedTasks) != 1 || p.Tasks.Len() != 1 {
		t.Errorf("page has %d completed and %d live tasks, want 1 and 1", len(p.CompletedTasks), p.Tasks.Len())
	}
}

func TestAcknowledgementOfAnotherUpdateIsDropped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe()
	o := sc.oneOffer()
	sc.accept(o, 0, launch(commandTask("t", o, "cpus:1;mem:64")))
	n.launched()
	st := n.update(sc.id, "t", mesosv1.TaskState_TASK_FINISHED, "a")
	wrong := st.CloneVT()
	wrong.Uuid = []byte(strings.Repeat("x", 16))
	sc.ack(wrong)
	if len(n.next()) != 0 || w.s.frameworks[sc.id].tasks["t"] == nil {
		t.Error("an acknowledgement with another uuid must change nothing")
	}
	if w.s.counters.InvalidAcks != 1 {
		t.Errorf("invalid acknowledgements %d, want 1", w.s.counters.InvalidAcks)
	}
}

func TestInvalidTasks(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name   string
		change func(*mesosv1.TaskInfo)
		reason string
		says   string
	}{
		{"bad id", func(x *mesosv1.TaskInfo) { x.TaskId.Value = proto.String("a/b") }, "TASK_INVALID", "invalid ID"},
		{"dot id", func(x *mesosv1.TaskInfo) { x.TaskId.Value = proto.String("..") }, "TASK_INVALID", "invalid ID"},
		{"other agent", func(x *mesosv1.TaskInfo) { x.AgentId = agentID("nope") }, "TASK_INVALID", "invalid agent"},
		{"no command", func(x *mesosv1.TaskInfo) { x.Command = nil }, "TASK_INVALID", "CommandInfo or ExecutorInfo"},
		{"both", func(x *mesosv1.TaskInfo) {
			x.Executor = &mesosv1.ExecutorInfo{ExecutorId: &mesosv1.ExecutorID{Value: proto.String("e")}}
		}, "TASK_INVALID", "CommandInfo or ExecutorInfo"},
		{"nothing", func(x *mesosv1.TaskInfo) { x.Resources = nil }, "TASK_INVALID", "no resources"},
		{"too much", func(x *mesosv1.TaskInfo) { x.Resources = resources.MustParse("cpus:5;mem:64").Proto() }, "TASK_INVALID", "more resources"},
		{"negative", func(x *mesosv1.TaskInfo) { x.Resources[0].Scalar.Value = proto.Float64(-1) }, "TASK_INVALID", "invalid resources"},
		{"grace", func(x *mesosv1.TaskInfo) {
			x.KillPolicy = &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: proto.Int64(-1)}}
		}, "TASK_INVALID", "grace_period"},
		{"health check", func(x *mesosv1.TaskInfo) { x.HealthCheck = &mesosv1.HealthCheck{} }, "TASK_INVALID", "health check"},
		{"check", func(x *mesosv1.TaskInfo) {
			x.Check = &mesosv1.CheckInfo{Type: mesosv1.CheckInfo_HTTP.Enum()}
		}, "TASK_INVALID", "http"},
		{"limit below request", func(x *mesosv1.TaskInfo) {
			x.Limits = map[string]*mesosv1.Value_Scalar{"cpus": {Value: proto.Float64(0.5)}}
		}, "TASK_INVALID", "limit"},
		{"limit of disk", func(x *mesosv1.TaskInfo) {
			x.Limits = map[string]*mesosv1.Value_Scalar{"disk": {Value: proto.Float64(5)}}
		}, "TASK_INVALID", "only cpus and mem"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			n := w.agent("a", big)
			sc := w.subscribe()
			o := sc.oneOffer()
			task := commandTask("t", o, "cpus:1;mem:64")
			c.change(task)
			sc.accept(o, 0, launch(task))
			ups := sc.updates()
			if d := cmp.Diff([]string{"ERROR/" + c.reason}, states(ups)); d != "" {
				t.Fatal(d)
			}
			if !strings.Contains(ups[0].GetMessage(), c.says) {
				t.Errorf("message %q does not say %q", ups[0].GetMessage(), c.says)
			}
			if len(n.launched()) != 0 {
				t.Error("an invalid task reached the agent")
			}
		})
	}
}

func TestDuplicateTaskIDIsRefusedAndTheFirstUntouched(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe()
	o := sc.oneOffer()
	sc.accept(o, 0, launch(commandTask("t", o, "cpus:1;mem:64"), commandTask("t", o, "cpus:1;mem:64")))
	if d := cmp.Diff([]string{"ERROR/TASK_INVALID"}, states(sc.updates())); d != "" {
		t.Error(d)
	}
	if got := len(n.launched()); got != 1 {
		t.Errorf("%d launches, want 1", got)
	}
}

func TestInvalidOffersLoseTheTasks(t *testing.T) {
	t.Parallel()
	for _, aware := range []bool{false, true} {
		t.Run(fmt.Sprint("partition aware ", aware), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.agent("a", big)
			var opts []option
			want := "LOST/INVALID_OFFERS"
			if aware {
				opts, want = []option{partitionAware}, "DROPPED/INVALID_OFFERS"
			}
			sc := w.subscribe(opts...)
			o := sc.oneOffer()
			gone := o.CloneVT()
			gone.Id = &mesosv1.OfferID{Value: proto.String("M-O999")}
			sc.call(&schedulerv1.Call{Type: schedulerv1.Call_ACCEPT.Enum(), Accept: &schedulerv1.Call_Accept{
				OfferIds: []*mesosv1.OfferID{o.Id, gone.Id}, Operations: []*mesosv1.Offer_Operation{launch(commandTask("t", o, "cpus:1;mem:64"))},
			}})
			evs := sc.next()
			var ups []*mesosv1.TaskStatus
			offered := 0
			for _, e := range evs {
				if e.Update != nil {
					ups = append(ups, e.Update.Status)
				}
				offered += len(e.GetOffers().GetOffers())
			}
			if d := cmp.Diff([]string{want}, states(ups)); d != "" {
				t.Error(d)
			}
			if !strings.HasPrefix(ups[0].GetMessage(), "Task launched with invalid offers") {
				t.Errorf("message %q", ups[0].GetMessage())
			}
			if offered != 1 {
				t.Errorf("the valid offer's resources were offered %d times again, want once and at once", offered)
			}
		})
	}
}

func TestTakeOverByAnotherInstance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agent("a", big)
	sc := w.subscribe(failover(100))
	first, old := sc.oneOffer(), sc.stream
	sc.connect()
	evs := w.events[old]
	last := evs[len(evs)-1]
	if last.GetError().GetMessage() != "Framework failed over" || !w.closed[old] {
		t.Errorf("old stream ends with %v, closed %v", last, w.closed[old])
	}
	again := sc.oneOffer()
	if again.Id.GetValue() == first.Id.GetValue() {
		t.Error("the new instance must get offers of its own")
	}
	// The end of the old stream, told late, must not disconnect the new one.
	w.step(&SchedulerDisconnected{Stream: old})
	if !w.s.frameworks[sc.id].connected() {
		t.Error("the late end of the old stream disconnected the new one")
	}
}

func TestFailoverTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe(failover(60), checkpoint)
	o := sc.oneOffer()
	sc.accept(o, 0, launch(commandTask("t", o, "cpus:1;mem:64")))
	n.launched()
	sc.disconnect()
	w.pass(59 * time.Second)
	if w.s.frameworks[sc.id] == nil {
		t.Fatal("removed before its failover timeout")
	}
	sc.connect()
	w.pass(2 * time.Hour)
	if w.s.frameworks[sc.id] == nil {
		t.Fatal("removed though it came back in time")
	}
	sc.disconnect()
	n.next()
	w.pass(61 * time.Second)
	if w.s.frameworks[sc.id] != nil {
		t.Fatal("still there after its failover timeout")
	}
	shut := false
	for _, m := range n.next() {
		shut = shut || m.GetShutdownFramework() != nil
	}
	if !shut {
		t.Error("the agent was not told to shut the framework down")
	}
	sc.connect()
	if got := w.events[sc.stream]; len(got) != 1 || got[0].GetError().GetMessage() != "Framework has been removed" {
		t.Errorf("a removed id may not come back, got %v", got)
	}
	w.failOver("M2")
	sc.connect()
	if got := w.events[sc.stream]; len(got) != 1 || got[0].GetError().GetMessage() != "Framework has been removed" {
		t.Errorf("nor under a new leader, got %v", got)
	}
}

func TestFrameworkIDIsDurableBeforeTheSchedulerHearsOfIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.holding = true
	sc := &scheduler{w: w, info: &mesosv1.FrameworkInfo{User: proto.String("u"), Name: proto.String("f")}}
	sc.connect()
	if len(w.events[sc.stream]) != 0 {
		t.Fatal("subscribed before the registry has it")
	}
	w.release()
	if got := w.events[sc.stream]; len(got) == 0 || got[0].GetType() != schedulerv1.Event_SUBSCRIBED {
		t.Fatalf("after the write: %v", got)
	}
}

func TestSubscriptionErrors(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		opts []option
		says string
	}{
		{"role with MULTI_ROLE", []option{roles("a"), role("b")}, "'FrameworkInfo.role' must not be set"},
		{"roles without MULTI_ROLE", []option{func(i *mesosv1.FrameworkInfo) { i.Roles = []string{"a"} }}, "'FrameworkInfo.roles' must not be set"},
		{"duplicate", []option{roles("a", "a")}, "duplicate"},
		{"slash", []option{role("/a")}, "not a valid role"},
		{"dash", []option{role("-a")}, "not a valid role"},
		{"space", []option{role("a b")}, "not a valid role"},
		{"timeout", []option{failover(-1)}, "failover_timeout"},
		{"huge timeout", []option{failover(1e300)}, "failover_timeout"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			info := &mesosv1.FrameworkInfo{User: proto.String("u"), Name: proto.String("f")}
			for _, o := range c.opts {
				o(info)
			}
			sc := &scheduler{w: w, info: info}
			sc.connect()
			evs := w.events[sc.stream]
			if len(evs) != 1 || !strings.Contains(evs[0].GetError().GetMessage(), c.says) || !w.closed[sc.stream] {
				t.Errorf("got %v, closed %v; want an ERROR that says %q", evs, w.closed[sc.stream], c.says)
			}
			if len(w.s.frameworks) != 0 || len(w.registry) != 0 {
				t.Error("a refused subscription left something behind")
			}
		})
	}
}

// --agent_removal_rate_limit: agents become unreachable one after the other, and one that answers before its turn stays.
func TestRemovalsAreSpread(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.AgentRemovalInterval = 10 * time.Minute })
	a, b, d := w.agent("a", big), w.agent("b", big), w.agent("d", big)
	w.silent = true
	for range 7 {
		w.pass(15 * time.Second)
	}
	left := func() int { return len(w.s.agents) }
	if left() != 2 || w.s.unreachable[a.id] == nil {
		t.Fatalf("after the ping time-out %d agents are left", left())
	}
	for range 4 {
		w.pass(time.Minute)
		d.say(&linkv1.Message{Kind: &linkv1.Message_Pong{Pong: &linkv1.Pong{}}})
	}
	for range 24 {
		w.pass(15 * time.Second)
		d.say(&linkv1.Message{Kind: &linkv1.Message_Pong{Pong: &linkv1.Pong{}}})
	}
	if left() != 1 || w.s.unreachable[b.id] == nil {
		t.Errorf("after 10 minutes %d agents are left", left())
	}
	if c := w.s.counters; c.AgentUnreachableScheduled != 3 || c.AgentUnreachableCanceled != 1 || c.AgentUnreachableCompleted != 2 {
		t.Errorf("scheduled %d, canceled %d, completed %d", c.AgentUnreachableScheduled, c.AgentUnreachableCanceled, c.AgentUnreachableCompleted)
	}

	// After an election the same holds for those that do not come back.
	for _, host := range []string{"e", "f"} {
		w.agent(host, big)
	}
	w.failOver("M2")
	w.pass(10*time.Minute + time.Second)
	if n := len(w.s.recovered); n != 2 {
		t.Errorf("%d agents are still waited for, want 2 of 3", n)
	}
	w.pass(10 * time.Minute)
	w.pass(10 * time.Minute)
	if n := len(w.s.recovered); n != 0 {
		t.Errorf("%d agents are still waited for", n)
	}
}

func TestUnreachableAgentAndItsReturn(t *testing.T) {
	t.Parallel()
	for _, aware := range []bool{false, true} {
		t.Run(fmt.Sprint("partition aware ", aware), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			n := w.agent("a", big)
			opts := []option{checkpoint, failover(1e6)}
			lost := "LOST/AGENT_REMOVED"
			if aware {
				opts, lost = append(opts, partitionAware), "UNREACHABLE/AGENT_REMOVED"
			}
			sc := w.subscribe(opts...)
			o := sc.oneOffer()
			sc.accept(o, 1000, launch(commandTask("t", o, "cpus:1;mem:64")))
			n.launched()
			running := n.update(sc.id, "t", mesosv1.TaskState_TASK_RUNNING, "a")
			sc.ack(running)
			sc.next()
			w.silent = true
			w.pass(15*6*time.Second + time.Second)
			evs := sc.next()
			var ups []*mesosv1.TaskStatus
			failures := 0
			for _, e := range evs {
				if e.Update != nil {
					ups = append(ups, e.Update.Status)
				}
				if e.Failure != nil {
					failures++
				}
			}
			if d := cmp.Diff([]string{lost}, states(ups)); d != "" {
				t.Fatal(d)
			}
			if failures != 1 {
				t.Errorf("%d FAILURE events, want 1", failures)
			}
			if _, ok := w.registry["unreachable/"+string(n.id)]; !ok {
				t.Error("the registry does not know that the agent is unreachable")
			}
			// A reconciliation says so too.
			sc.call(&schedulerv1.Call{Type: schedulerv1.Call_RECONCILE.Enum(), Reconcile: &schedulerv1.Call_Reconcile{
				Tasks: []*schedulerv1.Call_Reconcile_Task{{TaskId: running.TaskId, AgentId: n.info.Id}},
			}})
			if d := cmp.Diff([]string{strings.Replace(lost, "AGENT_REMOVED", "RECONCILIATION", 1)}, states(sc.updates())); d != "" {
				t.Error(d)
			}
			// The same id may not be used while the task may run.
			n.reregister([]*mesosv1.FrameworkInfo{w.s.frameworks[sc.id].info}, &mesosv1.Task{
				Name: proto.String("t"), TaskId: running.TaskId, FrameworkId: w.s.frameworks[sc.id].info.Id, AgentId: n.info.Id,
				State: mesosv1.TaskState_TASK_RUNNING.Enum(), Resources: resources.MustParse("cpus:1;mem:64").Allocate("*").Proto(),
				Statuses: []*mesosv1.TaskStatus{running},
			})
			if d := cmp.Diff([]string{"RUNNING/AGENT_REREGISTERED"}, states(sc.updates())); d != "" {
				t.Error(d)
			}
			if w.s.frameworks[sc.id].tasks["t"] == nil || w.s.frameworks[sc.id].unreachable.Len() != 0 {
				t.Error("the task that came back is not live")
			}
			if _, ok := w.registry["agents/"+string(n.id)]; !ok {
				t.Error("the registry does not have the agent back")
			}
		})
	}
}

func TestReconciliation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe(partitionAware, failover(1e6), checkpoint)
	ask := func(task string, agent *mesosv1.AgentID) []string {
		sc.call(&schedulerv1.Call{Type: schedulerv1.Call_RECONCILE.Enum(), Reconcile: &schedulerv1.Call_Reconcile{
			Tasks: []*schedulerv1.Call_Reconcile_Task{{TaskId: &mesosv1.TaskID{Value: proto.String(task)}, AgentId: agent}},
		}})
		return states(sc.updates())
	}
	sc.next()
	check := func(what string, want []string, got []string) {
		t.Helper()
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", what, d)
		}
	}
	check("unknown task on a known agent", []string{"GONE/RECONCILIATION"}, ask("x", n.info.Id))
	check("unknown task and agent", []string{"UNKNOWN/RECONCILIATION"}, ask("x", agentID("nope")))
	check("unknown task, no agent", []string{"UNKNOWN/RECONCILIATION"}, ask("x", nil))
	w.failOver("M2")
	sc.connect()
	sc.next()
	check("agent of the registry not back yet", nil, ask("x", n.info.Id))
	check("no agent named while one is not back", nil, ask("x", nil))
	if r := w.operate(&masterv1.Call{Type: masterv1.Call_MARK_AGENT_GONE.Enum(), MarkAgentGone: &masterv1.Call_MarkAgentGone{AgentId: n.info.Id}}); r.Status != 200 {
		t.Fatalf("mark gone: %d %s", r.Status, r.Message)
	}
	check("agent gone", []string{"GONE_BY_OPERATOR/RECONCILIATION"}, ask("x", n.info.Id))
}

// An update that waits at the agent behind another one is not told by reconciliation before its turn.
func TestReconciliationDoesNotOvertakeUpdates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe(partitionAware, failover(1e6), checkpoint)
	o := sc.oneOffer()
	sc.accept(o, 0, launch(commandTask("t", o, "cpus:1;mem:64")))
	st := &mesosv1.TaskStatus{
		TaskId: &mesosv1.TaskID{Value: proto.String("t")}, State: mesosv1.TaskState_TASK_RUNNING.Enum(), AgentId: n.info.GetId(),
		Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(), Uuid: []byte("0123456789abcdef"),
	}
	n.say(&linkv1.Message{Kind: &linkv1.Message_Update{Update: &linkv1.StatusUpdate{
		FrameworkId: &mesosv1.FrameworkID{Value: proto.String(string(sc.id))}, Status: st, LatestState: mesosv1.TaskState_TASK_FINISHED.Enum(),
	}}})
	sc.next()
	sc.call(&schedulerv1.Call{Type: schedulerv1.Call_RECONCILE.Enum(), Reconcile: &schedulerv1.Call_Reconcile{}})
	if d := cmp.Diff([]string{"RUNNING/RECONCILIATION"}, states(sc.updates())); d != "" {
		t.Error(d)
	}
	sc.ack(st)
	n.update(sc.id, "t", mesosv1.TaskState_TASK_FINISHED, "f")
	sc.next()
	sc.call(&schedulerv1.Call{Type: schedulerv1.Call_RECONCILE.Enum(), Reconcile: &schedulerv1.Call_Reconcile{}})
	if d := cmp.Diff([]string{"FINISHED/RECONCILIATION"}, states(sc.updates())); d != "" {
		t.Error(d)
	}
}

// The same when the agent was away: it comes back with a task that has ended, and the update before is still on its way.
func TestReconciliationAfterReconnecting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe(partitionAware, failover(1e6), checkpoint)
	o := sc.oneOffer()
	sc.accept(o, 0, launch(commandTask("t", o, "cpus:1;mem:64")))
	task := n.launched()[0]
	info := w.s.frameworks[sc.id].info
	n.disconnect()
	reported := newTaskProto(task, nil, info)
	reported.State = mesosv1.TaskState_TASK_FAILED.Enum()
	for i, state := range []mesosv1.TaskState{mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskState_TASK_FAILED} {
		reported.Statuses = append(reported.Statuses, &mesosv1.TaskStatus{TaskId: task.TaskId, State: state.Enum(), Uuid: []byte(strings.Repeat(string('0'+rune(i)), 16))})
	}
	// The history keeps the last status of each state; an earlier RUNNING is in flight.
	reported.StatusUpdateState, reported.StatusUpdateUuid = reported.Statuses[0].State, []byte("earlier.........")
	n.reregister([]*mesosv1.FrameworkInfo{info}, reported)
	sc.next()
	sc.call(&schedulerv1.Call{Type: schedulerv1.Call_RECONCILE.Enum(), Reconcile: &schedulerv1.Call_Reconcile{}})
	if d := cmp.Diff([]string{"RUNNING/RECONCILIATION"}, states(sc.updates())); d != "" {
		t.Error(d)
	}
	if used := w.s.frameworks[sc.id].tasks["t"].held(); !used.IsEmpty() {
		t.Errorf("a task that has ended uses %v", used)
	}
}

// A framework that subscribes again is told at once what its old stream may have lost.
func TestResubscriptionAsksAgentsForUpdates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe(failover(1e6), checkpoint)
	o := sc.oneOffer()
	sc.accept(o, 0, launch(commandTask("t", o, "cpus:1;mem:64")))
	n.next()
	sc.disconnect()
	sc.connect()
	told := 0
	for _, m := range n.next() {
		if m.GetUpdateFramework() != nil {
			told++
		}
	}
	if told != 1 {
		t.Errorf("the agent was told %d times of the new subscription", told)
	}
}

func TestNewLeaderLearnsFromAgents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe(failover(100), checkpoint)
	o := sc.oneOffer()
	sc.accept(o, 0, launch(commandTask("t", o, "cpus:1;mem:64")))
	task := n.launched()[0]
	info := w.s.frameworks[sc.id].info
	w.failOver("M2")
	reported := newTaskProto(task, nil, info)
	reported.State = mesosv1.TaskState_TASK_RUNNING.Enum()
	msgs := n.reregister([]*mesosv1.FrameworkInfo{info}, reported)
	if r := msgs[0].GetRegistered(); r == nil || r.GetAgentId().GetValue() != string(n.id) || !r.GetReregistered() {
		t.Fatalf("answer %v", msgs)
	}
	f := w.s.frameworks[sc.id]
	if f == nil || !f.recovered || f.tasks["t"] == nil {
		t.Fatal("framework and task were not recovered")
	}
	old := sc.id
	sc.connect()
	if sc.id != old {
		t.Errorf("framework id changed from %s to %s", old, sc.id)
	}
	// 3 of 4 cpus are free.
	if got := resources.FromProtoTrusted(sc.oneOffer().GetResources()).Quantities().Get("cpus").Float(); got != 3 {
		t.Errorf("offered %v cpus, want 3", got)
	}
	n.update(sc.id, "t", mesosv1.TaskState_TASK_FINISHED, "z")
	if d := cmp.Diff([]string{"FINISHED"}, states(sc.updates())); d != "" {
		t.Error(d)
	}
}

func TestRecoveredFrameworkThatNeverComesIsRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sc := w.subscribe(failover(0))
	w.failOver("M2")
	if w.s.frameworks[sc.id] == nil {
		t.Fatal("the registry's framework is not known")
	}
	w.pass(11 * time.Minute)
	if w.s.frameworks[sc.id] != nil {
		t.Error("a framework that does not come back must not stay for ever")
	}
}

func TestKillWhileTheAgentIsAwayIsNotForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe(checkpoint, failover(1000))
	o := sc.oneOffer()
	sc.accept(o, 0, launch(commandTask("t", o, "cpus:1;mem:64")))
	task := n.launched()[0]
	n.disconnect()
	sc.kill("t")
	msgs := n.reregister([]*mesosv1.FrameworkInfo{w.s.frameworks[sc.id].info}, newTaskProto(task, nil, w.s.frameworks[sc.id].info))
	for _, m := range msgs {
		if k := m.GetKillTask(); k != nil && k.GetTaskId().GetValue() == "t" {
			return
		}
	}
	t.Errorf("agent got %v, want the kill", msgs)
}

func TestLaunchThatTheAgentNeverGotIsAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe(checkpoint, failover(1000))
	o := sc.oneOffer()
	sc.accept(o, 0, launch(commandTask("t", o, "cpus:1;mem:64")))
	n.disconnect() // before it read the message
	msgs := n.reregister(nil)
	exp := msgs[0].GetRegistered().GetExpectedTasks()
	if len(exp) != 1 || exp[0].GetTaskId().GetValue() != "t" {
		t.Errorf("expected tasks %v, want t", exp)
	}
}

func TestDisconnectLosesTasksOfFrameworksThatDoNotCheckpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe()
	o := sc.oneOffer()
	sc.accept(o, 0, launch(commandTask("t", o, "cpus:1;mem:64")))
	sc.next()
	n.disconnect()
	var got []string
	for _, e := range sc.next() {
		if e.Update != nil {
			got = append(got, states([]*mesosv1.TaskStatus{e.Update.Status})...)
		}
	}
	if d := cmp.Diff([]string{"LOST/AGENT_DISCONNECTED"}, got); d != "" {
		t.Error(d)
	}
}

func TestDisconnectedAgentRescindsItsOffers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe()
	o := sc.oneOffer()
	n.disconnect()
	evs := sc.next()
	if len(evs) != 1 || evs[0].GetRescind().GetOfferId().GetValue() != o.GetId().GetValue() {
		t.Errorf("events %v, want RESCIND", evs)
	}
}

func TestOfferTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.OfferTimeout = 30 * time.Second })
	w.agent("a", big)
	a := w.subscribe()
	o := a.oneOffer()
	b := w.subscribe()
	if len(b.offers()) != 0 {
		t.Fatal("what is offered to one must not be offered to the other")
	}
	w.pass(31 * time.Second)
	rescinded := false
	for _, e := range a.next() {
		rescinded = rescinded || e.GetRescind().GetOfferId().GetValue() == o.GetId().GetValue()
	}
	if !rescinded {
		t.Error("an offer that nobody answers must be rescinded")
	}
}

func TestDeclineFilters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agent("a", big)
	sc := w.subscribe()
	sc.decline(10, sc.oneOffer())
	if len(sc.offers()) != 0 {
		t.Error("offered again in spite of the filter")
	}
	w.pass(11 * time.Second)
	o := sc.oneOffer()
	sc.decline(1e6, o)
	w.pass(time.Hour)
	if len(sc.offers()) != 0 {
		t.Error("offered again in spite of the long filter")
	}
	sc.call(&schedulerv1.Call{Type: schedulerv1.Call_REVIVE.Enum()})
	sc.decline(0, sc.oneOffer())
	if len(sc.offers()) != 0 {
		t.Error("offered again at wire speed")
	}
	w.pass(1100 * time.Millisecond)
	sc.accept(sc.oneOffer(), 0)
	sc.oneOffer() // refuse 0: at once
	sc.call(&schedulerv1.Call{Type: schedulerv1.Call_SUPPRESS.Enum()})
}

func TestDrain(t *testing.T) {
	t.Parallel()
	for _, gone := range []bool{false, true} {
		t.Run(fmt.Sprint("mark gone ", gone), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			n := w.agent("a", big)
			sc := w.subscribe(partitionAware)
			o := sc.oneOffer()
			sc.accept(o, 0, launch(commandTask("t", o, "cpus:1;mem:64")))
			n.launched()
			sc.next()
			r := w.operate(&masterv1.Call{Type: masterv1.Call_DRAIN_AGENT.Enum(), DrainAgent: &masterv1.Call_DrainAgent{
				AgentId: n.info.Id, MaxGracePeriod: durationpb.New(time.Minute), MarkGone: proto.Bool(gone),
			}})
			if r == nil || r.Status != 200 {
				t.Fatalf("drain: %v", r)
			}
			msgs := n.next()
			if len(msgs) != 1 || msgs[0].GetDrain().GetConfig().GetMaxGracePeriod().GetNanoseconds() != int64(time.Minute) {
				t.Fatalf("agent got %v, want Drain", msgs)
			}
			if r := w.operate(&masterv1.Call{Type: masterv1.Call_REACTIVATE_AGENT.Enum(), ReactivateAgent: &masterv1.Call_ReactivateAgent{AgentId: n.info.Id}}); r.Status != 400 {
				t.Errorf("reactivating a draining agent: %d", r.Status)
			}
			st := n.update(sc.id, "t", mesosv1.TaskState_TASK_KILLED, "k")
			if got := w.s.agents[n.id].drain.GetState(); got != mesosv1.DrainState_DRAINING {
				t.Errorf("drain state %v before the acknowledgement", got)
			}
			sc.ack(st)
			if gone {
				if w.s.gone[n.id] == nil || w.s.agents[n.id] != nil {
					t.Error("drained agent was not marked gone")
				}
				return
			}
			if got := w.s.agents[n.id].drain.GetState(); got != mesosv1.DrainState_DRAINED {
				t.Errorf("drain state %v, want DRAINED", got)
			}
			sc.next()
			w.pass(time.Minute)
			if len(sc.offers()) != 0 {
				t.Error("a drained agent is offered")
			}
			if r := w.operate(&masterv1.Call{Type: masterv1.Call_REACTIVATE_AGENT.Enum(), ReactivateAgent: &masterv1.Call_ReactivateAgent{AgentId: n.info.Id}}); r.Status != 200 {
				t.Fatalf("reactivate: %d %s", r.Status, r.Message)
			}
			sc.oneOffer()
		})
	}
}

func TestMarkGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe(partitionAware)
	o := sc.oneOffer()
	sc.accept(o, 0, launch(commandTask("t", o, "cpus:1;mem:64")))
	n.launched()
	sc.next()
	if r := w.operate(&masterv1.Call{Type: masterv1.Call_MARK_AGENT_GONE.Enum(), MarkAgentGone: &masterv1.Call_MarkAgentGone{AgentId: n.info.Id}}); r.Status != 200 {
		t.Fatalf("mark gone: %d %s", r.Status, r.Message)
	}
	var got []string
	for _, e := range sc.next() {
		if e.Update != nil {
			got = append(got, states([]*mesosv1.TaskStatus{e.Update.Status})...)
		}
	}
	if d := cmp.Diff([]string{"GONE_BY_OPERATOR/AGENT_REMOVED_BY_OPERATOR"}, got); d != "" {
		t.Error(d)
	}
	msgs := n.reregister(nil)
	if len(msgs) != 1 || !msgs[0].GetRefused().GetShutdown() {
		t.Errorf("a gone agent comes back and gets %v, want a refusal with shutdown", msgs)
	}
	if r := w.operate(&masterv1.Call{Type: masterv1.Call_MARK_AGENT_GONE.Enum(), MarkAgentGone: &masterv1.Call_MarkAgentGone{AgentId: agentID("nope")}}); r.Status != 404 {
		t.Errorf("unknown agent: %d, want 404", r.Status)
	}
}

func reserved(res, role string) []*mesosv1.Resource {
	return resources.MustParse(res).PushReservation(&mesosv1.Resource_ReservationInfo{
		Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: proto.String(role),
	}).Proto()
}

func TestReserveCreateLaunchInOneAccept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe(roles("web"), caps(mesosv1.FrameworkInfo_Capability_RESERVATION_REFINEMENT))
	o := sc.oneOffer()
	res := reserved("disk:100", "web")
	volume := reserved("disk:100", "web")
	volume[0].Disk = &mesosv1.Resource_DiskInfo{
		Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: proto.String("v1")},
		Volume:      &mesosv1.Volume{ContainerPath: proto.String("data"), Mode: mesosv1.Volume_RW.Enum()},
	}
	task := commandTask("t", o, "cpus:1;mem:64")
	task.Resources = append(task.Resources, proto.CloneOf(volume[0]))
	sc.accept(o, 1000,
		&mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_RESERVE.Enum(), Reserve: &mesosv1.Offer_Operation_Reserve{Resources: res}},
		&mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_CREATE.Enum(), Create: &mesosv1.Offer_Operation_Create{Volumes: volume}},
		launch(task),
	)
	if got := states(sc.updates()); len(got) != 0 {
		t.Fatalf("updates %v: the task was refused", got)
	}
	var kinds []string
	for _, m := range n.next() {
		switch {
		case m.GetApplyOperation() != nil:
			kinds = append(kinds, m.GetApplyOperation().GetOperation().GetType().String())
			n.say(&linkv1.Message{Kind: &linkv1.Message_OperationUpdate{OperationUpdate: &linkv1.OperationUpdate{
				OperationUuid: m.GetApplyOperation().OperationUuid,
				Status:        &mesosv1.OperationStatus{State: mesosv1.OperationState_OPERATION_FINISHED.Enum(), Uuid: &mesosv1.UUID{Value: []byte("u")}},
			}}})
		case m.GetRunTask() != nil:
			kinds = append(kinds, "RUN")
		}
	}
	if d := cmp.Diff([]string{"RESERVE", "CREATE", "RUN"}, kinds); d != "" {
		t.Fatal(d)
	}
	total := w.s.agents[n.id].total
	if total.PersistentVolumes().IsEmpty() || !total.Reserved().Contains(total.PersistentVolumes()) {
		t.Errorf("agent's total is %s", total)
	}
	if len(w.s.agents[n.id].ops) != 0 {
		t.Error("finished operations without an id are not followed any more")
	}
	// The volume is in use.
	r := w.operate(&masterv1.Call{Type: masterv1.Call_DESTROY_VOLUMES.Enum(), DestroyVolumes: &masterv1.Call_DestroyVolumes{AgentId: n.info.Id, Volumes: volume}})
	if r.Status != 400 || !strings.Contains(r.Message, "in use") {
		t.Errorf("destroy in use: %d %s", r.Status, r.Message)
	}
	sc.ack(n.update(sc.id, "t", mesosv1.TaskState_TASK_FINISHED, "f"))
	sc.call(&schedulerv1.Call{Type: schedulerv1.Call_REVIVE.Enum()})
	r = w.operate(&masterv1.Call{Type: masterv1.Call_DESTROY_VOLUMES.Enum(), DestroyVolumes: &masterv1.Call_DestroyVolumes{AgentId: n.info.Id, Volumes: volume}})
	if r.Status != 202 {
		t.Errorf("destroy: %d %s", r.Status, r.Message)
	}
	r = w.operate(&masterv1.Call{Type: masterv1.Call_UNRESERVE_RESOURCES.Enum(), UnreserveResources: &masterv1.Call_UnreserveResources{AgentId: n.info.Id, Resources: res}})
	if r.Status != 202 {
		t.Errorf("unreserve: %d %s", r.Status, r.Message)
	}
	if got := w.s.agents[n.id].total; !got.Equal(resources.MustParse(big)) {
		t.Errorf("after all of it the agent has %s", got)
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agent("a", big)
	update := func(force bool, c *quotav1.QuotaConfig) *Reply {
		return w.operate(&masterv1.Call{Type: masterv1.Call_UPDATE_QUOTA.Enum(), UpdateQuota: &masterv1.Call_UpdateQuota{
			Force: proto.Bool(force), QuotaConfigs: []*quotav1.QuotaConfig{c},
		}})
	}
	cpus := func(v float64) map[string]*mesosv1.Value_Scalar {
		return map[string]*mesosv1.Value_Scalar{"cpus": {Value: proto.Float64(v)}}
	}
	cases := []struct {
		name   string
		force  bool
		config *quotav1.QuotaConfig
		status int
	}{
		{"more than there is", false, &quotav1.QuotaConfig{Role: proto.String("r"), Guarantees: cpus(100)}, 400},
		{"more than there is, forced", true, &quotav1.QuotaConfig{Role: proto.String("r"), Guarantees: cpus(100)}, 200},
		{"guarantee above limit", true, &quotav1.QuotaConfig{Role: proto.String("r"), Guarantees: cpus(2), Limits: cpus(1)}, 400},
		{"nested role", true, &quotav1.QuotaConfig{Role: proto.String("r/s"), Limits: cpus(1)}, 400},
		{"star", true, &quotav1.QuotaConfig{Role: proto.String("*"), Limits: cpus(1)}, 400},
		{"negative", true, &quotav1.QuotaConfig{Role: proto.String("r"), Limits: cpus(-1)}, 400},
		{"limit", false, &quotav1.QuotaConfig{Role: proto.String("r"), Limits: cpus(1)}, 200},
	}
	for _, c := range cases {
		if r := update(c.force, c.config); r.Status != c.status {
			t.Errorf("%s: %d %q, want %d", c.name, r.Status, r.Message, c.status)
		}
	}
	sc := w.subscribe(role("r"))
	if got := resources.FromProtoTrusted(sc.oneOffer().GetResources()).Quantities().Get("cpus").Float(); got != 1 {
		t.Errorf("offered %v cpus under a limit of 1", got)
	}
	w.failOver("M2")
	if w.s.quotas["r"] == nil {
		t.Error("quota is lost at fail-over")
	}
}

func TestUpdateFramework(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agent("a", big)
	sc := w.subscribe(roles("x", "y"))
	o := sc.oneOffer()
	info := w.s.frameworks[sc.id].info.CloneVT()
	info.User = proto.String("other")
	call := func() int {
		return w.replies[sc.call(&schedulerv1.Call{Type: schedulerv1.Call_UPDATE_FRAMEWORK.Enum(), UpdateFramework: &schedulerv1.Call_UpdateFramework{FrameworkInfo: info}})].Status
	}
	if got := call(); got != 400 {
		t.Errorf("changing the user: %d, want 400", got)
	}
	info.User = w.s.frameworks[sc.id].info.User
	info.Roles = []string{"z"}
	if got := call(); got != 200 {
		t.Errorf("changing the roles: %d, want 200", got)
	}
	rescinded, offered := false, ""
	for _, e := range sc.next() {
		rescinded = rescinded || e.GetRescind().GetOfferId().GetValue() == o.GetId().GetValue()
		for _, x := range e.GetOffers().GetOffers() {
			offered = x.GetAllocationInfo().GetRole()
		}
	}
	if !rescinded || offered != "z" {
		t.Errorf("rescinded %v, then offered to role %q; want true and z", rescinded, offered)
	}
}

func TestTaskGroupAllOrNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe()
	group := func(o *mesosv1.Offer, second string) *mesosv1.Offer_Operation {
		return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_LAUNCH_GROUP.Enum(), LaunchGroup: &mesosv1.Offer_Operation_LaunchGroup{
			Executor: &mesosv1.ExecutorInfo{
				Type: mesosv1.ExecutorInfo_DEFAULT.Enum(), ExecutorId: &mesosv1.ExecutorID{Value: proto.String("e")},
				FrameworkId: &mesosv1.FrameworkID{Value: proto.String(string(sc.id))}, Resources: resources.MustParse("cpus:0.1;mem:32;disk:32").Proto(),
			},
			TaskGroup: &mesosv1.TaskGroupInfo{Tasks: []*mesosv1.TaskInfo{commandTask("g1", o, "cpus:1;mem:64"), commandTask("g2", o, second)}},
		}}
	}
	o := sc.oneOffer()
	sc.accept(o, 0, group(o, "cpus:100;mem:64"))
	evs := sc.next()
	var got []string
	for _, e := range evs {
		if e.Update != nil {
			got = append(got, states([]*mesosv1.TaskStatus{e.Update.Status})...)
		}
		if l := e.GetOffers().GetOffers(); len(l) > 0 {
			o = l[0]
		}
	}
	if d := cmp.Diff([]string{"ERROR/TASK_GROUP_INVALID", "ERROR/TASK_GROUP_INVALID"}, got); d != "" {
		t.Fatal(d)
	}
	sc.accept(o, 0, group(o, "cpus:1;mem:64"))
	if got := len(n.launched()); got != 2 {
		t.Fatalf("%d tasks launched, want 2", got)
	}
	rest := sc.oneOffer()
	if got := resources.FromProtoTrusted(rest.GetResources()).Quantities().Get("cpus").Float(); got != 1.9 {
		t.Errorf("rest has %v cpus, want 1.9: tasks and their executor", got)
	}
	if len(rest.GetExecutorIds()) != 1 {
		t.Error("the offer does not name the executor that lives there")
	}
	n.say(&linkv1.Message{Kind: &linkv1.Message_ExecutorExited{ExecutorExited: &linkv1.ExecutorExited{
		FrameworkId: &mesosv1.FrameworkID{Value: proto.String(string(sc.id))}, ExecutorId: &mesosv1.ExecutorID{Value: proto.String("e")}, Status: proto.Int32(9),
	}}})
	failed := false
	for _, e := range sc.next() {
		failed = failed || e.GetFailure().GetExecutorId().GetValue() == "e" && e.GetFailure().GetStatus() == 9
	}
	if !failed {
		t.Error("no FAILURE for the executor")
	}
}

func TestMaintenance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.agent("a", big)
	sc := w.subscribe()
	sc.next()
	machine := &mesosv1.MachineID{Hostname: proto.String("A")} // names compare without case
	sched := func(ms ...*mesosv1.MachineID) *Reply {
		return w.operate(&masterv1.Call{
			Type:                      masterv1.Call_UPDATE_MAINTENANCE_SCHEDULE.Enum(),
			UpdateMaintenanceSchedule: scheduleOf(w.now.Add(time.Hour), ms...),
		})
	}
	if r := sched(machine, machine); r.Status != 400 {
		t.Errorf("machine twice: %d", r.Status)
	}
	if r := sched(&mesosv1.MachineID{}); r.Status != 400 {
		t.Errorf("empty machine: %d", r.Status)
	}
	down := func() *Reply {
		return w.operate(&masterv1.Call{Type: masterv1.Call_START_MAINTENANCE.Enum(), StartMaintenance: &masterv1.Call_StartMaintenance{Machines: []*mesosv1.MachineID{machine}}})
	}
	if r := down(); r.Status != 400 {
		t.Errorf("down without a schedule: %d", r.Status)
	}
	if r := sched(machine); r.Status != 200 {
		t.Fatalf("schedule: %d %s", r.Status, r.Message)
	}
	rescinded, unavailable := false, false
	for _, e := range sc.next() {
		rescinded = rescinded || e.Rescind != nil
		for _, o := range e.GetOffers().GetOffers() {
			unavailable = unavailable || o.Unavailability != nil
		}
	}
	if !rescinded || !unavailable {
		t.Errorf("rescinded %v, offered again with unavailability %v", rescinded, unavailable)
	}
	if r := down(); r.Status != 200 {
		t.Fatalf("down: %d %s", r.Status, r.Message)
	}
	if w.s.agents[n.id] != nil {
		t.Error("the agent of a machine that is down is still registered")
	}
	msgs := n.reregister(nil)
	if len(msgs) != 1 || !msgs[0].GetRefused().GetShutdown() {
		t.Errorf("agent on a machine that is down gets %v", msgs)
	}
	w.failOver("M2")
	if !w.s.machineDown(n.info, "a:5051") {
		t.Error("maintenance is lost at fail-over")
	}
	if r := w.operate(&masterv1.Call{Type: masterv1.Call_STOP_MAINTENANCE.Enum(), StopMaintenance: &masterv1.Call_StopMaintenance{Machines: []*mesosv1.MachineID{machine}}}); r.Status != 200 {
		t.Fatalf("up: %d %s", r.Status, r.Message)
	}
	if len(w.s.schedule.GetWindows()) != 0 {
		t.Error("a machine that is up again leaves the schedule")
	}
}

func TestRegistryFailureChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.agent("a", big)
	w.storeErr = fmt.Errorf("disk full")
	r := w.operate(&masterv1.Call{Type: masterv1.Call_UPDATE_QUOTA.Enum(), UpdateQuota: &masterv1.Call_UpdateQuota{
		QuotaConfigs: []*quotav1.QuotaConfig{{Role: proto.String("r"), Limits: map[string]*mesosv1.Value_Scalar{"cpus": {Value: proto.Float64(1)}}}},
	}})
	if r.Status != 503 || !strings.Contains(r.Message, "disk full") {
		t.Errorf("reply %d %q", r.Status, r.Message)
	}
	if len(w.s.quotas) != 0 {
		t.Error("quota is in force though the registry does not have it")
	}
	sc := &scheduler{w: w, info: &mesosv1.FrameworkInfo{User: proto.String("u"), Name: proto.String("f")}}
	sc.connect()
	if evs := w.events[sc.stream]; len(evs) != 1 || evs[0].Error == nil || !w.closed[sc.stream] {
		t.Errorf("subscriber got %v", evs)
	}
}

func TestWhatTheSameEventsGiveIsTheSame(t *testing.T) {
	t.Parallel()
	run := func() string {
		w := newWorld(t)
		for i := range 5 {
			w.agent(fmt.Sprint("host", i), big)
		}
		var log strings.Builder
		for i := range 4 {
			sc := w.subscribe(role(fmt.Sprint("r", i%2)))
			for _, o := range sc.offers() {
				sc.accept(o, 1, launch(commandTask("t"+o.GetId().GetValue(), o, "cpus:1;mem:64")))
			}
			fmt.Fprintln(&log, sc.id, sc.next())
		}
		w.pass(time.Minute)
		return fmt.Sprint(log.String(), w.events)
	}
	first := run()
	for range 3 {
		if d := cmp.Diff(len(first), len(run())); d != "" {
			t.Fatal(d)
		}
	}
}

func TestOldSchedulersCanReadSubscribed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) {
		for _, x := range []mesosv1.MasterInfo_Capability_Type{mesosv1.MasterInfo_Capability_AGENT_UPDATE, mesosv1.MasterInfo_Capability_QUOTA_V2} {
			c.Master.Capabilities = append(c.Master.Capabilities, &mesosv1.MasterInfo_Capability{Type: x.Enum()})
		}
	})
	sc := w.subscribe()
	got := w.events[sc.stream][0].GetSubscribed().GetMasterInfo().GetCapabilities()
	if len(got) != 1 || got[0].GetType() != mesosv1.MasterInfo_Capability_AGENT_UPDATE {
		t.Errorf("SUBSCRIBED announces %v: decoders older than QUOTA_V2 refuse it", got)
	}
	if n := len(w.s.Publish().Master.GetCapabilities()); n != 2 {
		t.Errorf("operators see %d capabilities, want both", n)
	}
}
