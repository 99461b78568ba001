package agent

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/election"
	"github.com/orchestrator/orchestrator/internal/wire"
)

const (
	starting = mesosv1.TaskState_TASK_STARTING
	running  = mesosv1.TaskState_TASK_RUNNING
	finished = mesosv1.TaskState_TASK_FINISHED
)

// bubble runs a test in time of its own.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, f)
}

func TestTaskOfACustomExecutorWithFakeContainers(t *testing.T) {
	for _, ct := range []wire.ContentType{wire.JSON, wire.Protobuf} {
		t.Run(ct.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHarness(t, nil)
				h.registered()
				c := h.run(customTask("t1", "e"))
				if c.Directory != h.dir+"/work/slaves/m-S0/frameworks/m-0000/executors/e/runs/"+string(c.ID) {
					t.Errorf("sandbox %s", c.Directory)
				}
				x := h.executor("e", ct)
				sub := x.expect(executorv1.Event_SUBSCRIBED).GetSubscribed()
				if sub.GetContainerId().GetValue() != string(c.ID) || sub.GetAgentInfo().GetId().GetValue() != "m-S0" || sub.GetFrameworkInfo().GetName() != "test" {
					t.Errorf("subscribed %v", sub)
				}
				if got := x.expect(executorv1.Event_LAUNCH).GetLaunch().GetTask().GetTaskId().GetValue(); got != "t1" {
					t.Errorf("launch of %s", got)
				}
				for _, s := range []mesosv1.TaskState{starting, running, finished} {
					if err := x.update(x.status("t1", s)); err != nil {
						t.Fatalf("%v: %v", s, err)
					}
					x.expect(executorv1.Event_ACKNOWLEDGED)
				}
				first := h.master.update("t1", starting)
				if first.GetContainerStatus().GetNetworkInfos()[0].GetIpAddresses()[0].GetIpAddress() != "10.0.0.7" || first.GetContainerStatus().GetExecutorPid() != 4242 {
					t.Errorf("container status %v", first.GetContainerStatus())
				}
				h.master.update("t1", finished)
			})
		})
	}
}

func TestEnvironmentOfAnExecutor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHarness(t, nil)
		h.registered()
		c := h.run(customTask("t1", "e"))
		want := map[string]string{
			"LIBPROCESS_IP": "10.0.0.7", "LIBPROCESS_PORT": "0", "MESOS_FRAMEWORK_ID": "m-0000", "MESOS_EXECUTOR_ID": "e", "MESOS_SLAVE_ID": "m-S0",
			"MESOS_SLAVE_PID": "slave(1)@10.0.0.7:5051", "MESOS_AGENT_ENDPOINT": "10.0.0.7:5051", "MESOS_DIRECTORY": c.Directory, "MESOS_SANDBOX": c.Directory,
			"MESOS_CHECKPOINT": "1", "MESOS_HTTP_COMMAND_EXECUTOR": "1", "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": "7secs", "MESOS_RECOVERY_TIMEOUT": "15mins",
			"MESOS_SUBSCRIPTION_BACKOFF_MAX": "2secs", "MESOS_CONTAINER_IP": "10.0.0.7", "MESOS_ALLOCATION_ROLE": "*", "OWN": "x", "PATH": defaultPath,
		}
		for _, kv := range c.Environment {
			name, value, _ := strings.Cut(kv, "=")
			if want[name] != value {
				t.Errorf("%s=%q, want %q", name, value, want[name])
			}
			delete(want, name)
		}
		for name := range want {
			t.Errorf("%s is missing", name)
		}
	})
}

func TestRestartKeepsTasksAndUpdatesWithFakeContainers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHarness(t, nil)
		h.registered()
		c := h.run(customTask("t1", "e"))
		x := h.executor("e", wire.Protobuf)
		x.expect(executorv1.Event_SUBSCRIBED)
		x.expect(executorv1.Event_LAUNCH)
		status := x.status("t1", running)
		if err := x.update(status); err != nil {
			t.Fatal(err)
		}
		x.expect(executorv1.Event_ACKNOWLEDGED)
		sent := h.master.expect("the update", func(m *linkv1.Message) bool { return m.GetUpdate() != nil }).GetUpdate()
		h.restart() // before the acknowledgement
		unheard := x.status("t1", finished)
		x = h.executor("e", wire.Protobuf, unheard)
		x.expect(executorv1.Event_SUBSCRIBED)
		x.expect(executorv1.Event_ACKNOWLEDGED)
		re := h.master.expect("the re-registration", func(m *linkv1.Message) bool { return m.GetReregister() != nil }).GetReregister()
		if len(re.GetTasks()) != 1 || re.GetTasks()[0].GetState() != finished || re.GetTasks()[0].GetStatusUpdateState() != running || re.GetAgent().GetInfo().GetId().GetValue() != "m-S0" {
			t.Errorf("reregister %v", re)
		}
		again := h.master.update("t1", running)
		if string(again.GetUuid()) != string(sent.GetStatus().GetUuid()) {
			t.Error("the update came back under another uuid")
		}
		h.master.update("t1", finished)
		if got, err := h.boxes.get(c.ID); err != nil || got.cfg.ID != c.ID {
			t.Errorf("the container did not survive: %v", err)
		}
	})
}

func TestMasterChangeLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHarness(t, nil)
		h.registered()
		h.run(customTask("t1", "e"))
		x := h.executor("e", wire.JSON)
		x.expect(executorv1.Event_SUBSCRIBED)
		x.expect(executorv1.Event_LAUNCH)
		first := h.master
		second := h.addMaster("master2:5050")
		h.board.Set(nil) // ZooKeeper is gone for a while: nothing changes
		if err := x.update(x.status("t1", running)); err != nil {
			t.Fatal(err)
		}
		first.update("t1", running)
		h.board.Set(&election.Leader{ID: "2", Address: "master2:5050"})
		re := second.expect("the re-registration", func(m *linkv1.Message) bool { return m.GetReregister() != nil }).GetReregister()
		if len(re.GetTasks()) != 1 || len(re.GetExecutors()) != 1 || len(re.GetFrameworks()) != 1 {
			t.Errorf("reregister %v", re)
		}
		first.stop()
		h.master = second
		if err := x.update(x.status("t1", finished)); err != nil {
			t.Fatal(err)
		}
		second.update("t1", finished)
	})
}

func TestASilentMasterIsGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHarness(t, nil)
		h.registered()
		h.master.expect("the registration", func(m *linkv1.Message) bool { return m.GetRegister() != nil })
		begin := time.Now()
		h.master.expect("another one", func(m *linkv1.Message) bool { return m.GetReregister() != nil })
		if d := time.Since(begin); d < 75*time.Second || d > 2*time.Minute {
			t.Errorf("given up after %v", d)
		}
	})
}

func TestPingsAreAnswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHarness(t, nil)
		h.registered()
		for i := range uint64(20) {
			time.Sleep(15 * time.Second) // the bubble's time
			h.master.send(&linkv1.Message{Kind: &linkv1.Message_Ping{Ping: &linkv1.Ping{Sequence: &i}}})
			got := h.master.expect("a pong", func(m *linkv1.Message) bool {
				if m.GetReregister() != nil {
					t.Fatal("the link was given up")
				}
				return m.GetPong() != nil
			})
			if got.GetPong().GetSequence() != i {
				t.Errorf("pong %d, want %d", got.GetPong().GetSequence(), i)
			}
		}
		h.master.send(&linkv1.Message{Kind: &linkv1.Message_Ping{Ping: &linkv1.Ping{Connected: proto.Bool(false)}}})
		h.master.expect("a re-registration", func(m *linkv1.Message) bool { return m.GetReregister() != nil })
	})
}

func TestRebootIsNoticed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHarness(t, nil)
		h.registered()
		h.run(customTask("t1", "e"))
		x := h.executor("e", wire.JSON)
		x.expect(executorv1.Event_SUBSCRIBED)
		x.expect(executorv1.Event_LAUNCH)
		h.boot = "boot-2"
		h.stop()
		clear(h.boxes.containers)
		h.start()
		re := h.master.expect("the re-registration", func(m *linkv1.Message) bool { return m.GetReregister() != nil }).GetReregister()
		if re.GetAgent().GetInfo().GetId().GetValue() != "m-S0" {
			t.Errorf("agent id %v", re.GetAgent().GetInfo().GetId())
		}
		if s := h.master.update("t1", mesosv1.TaskState_TASK_GONE); !strings.Contains(s.GetMessage(), "reboot") {
			t.Errorf("message %q", s.GetMessage())
		}
	})
}

func TestRegistrationIsRepeated(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHarness(t, nil)
		h.registered()
		h.stop()
		h.master.answer(func(*linkv1.Message) *linkv1.Message {
			return &linkv1.Message{Kind: &linkv1.Message_Refused{Refused: &linkv1.Refused{Message: proto.String("not now")}}}
		})
		begin := time.Now()
		h.start()
		for range 12 {
			h.master.expect("a registration", func(m *linkv1.Message) bool { return m.GetReregister() != nil })
		}
		if d := time.Since(begin); d < 5*time.Second || d > 10*time.Minute {
			t.Errorf("12 attempts in %v", d)
		}
	})
}

func TestAnAgentThatMustGoKillsItsTasksAndExits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHarness(t, nil)
		h.registered()
		c := h.run(customTask("t1", "e"))
		x := h.executor("e", wire.JSON)
		x.expect(executorv1.Event_SUBSCRIBED)
		x.expect(executorv1.Event_LAUNCH)
		h.master.send(&linkv1.Message{Kind: &linkv1.Message_Shutdown{Shutdown: &linkv1.Shutdown{Message: proto.String("marked gone")}}})
		x.expect(executorv1.Event_SHUTDOWN)
		begin := time.Now()
		if err := <-h.result; err == nil || !strings.Contains(err.Error(), "marked gone") {
			t.Errorf("Run: %v", err)
		}
		h.result <- nil
		if d := time.Since(begin); d < 6*time.Second || d > 8*time.Second {
			t.Errorf("the executor had %v, its grace is 7s", d)
		}
		if _, err := h.boxes.get(c.ID); err != nil {
			t.Error(err)
		}
		h.start()
		reg := h.master.expect("a new registration", func(m *linkv1.Message) bool { return m.GetRegister() != nil }).GetRegister()
		if reg.GetInfo().GetId() != nil {
			t.Errorf("the id was kept: %v", reg.GetInfo())
		}
	})
}

func TestManyTasksOfOneExecutorFailWithIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHarness(t, nil)
		h.registered()
		first := h.run(customTask("t0", "e"))
		x := h.executor("e", wire.Protobuf)
		x.expect(executorv1.Event_SUBSCRIBED)
		x.expect(executorv1.Event_LAUNCH)
		var names []string
		for i := range 500 {
			id := "t" + strings.Repeat("x", i%7) + time.Duration(i).String()
			names = append(names, id)
			h.master.send(&linkv1.Message{Kind: &linkv1.Message_RunTask{RunTask: &linkv1.RunTask{Framework: testFramework(), Task: customTask(id, "e")}}})
		}
		for range names {
			id := x.expect(executorv1.Event_LAUNCH).GetLaunch().GetTask().GetTaskId().GetValue()
			if !slices.Contains(names, id) {
				t.Errorf("launched %s", id)
			}
		}
		_ = h.boxes.finish(first.ID, 1)
		for range names {
			h.master.expect("the end of a task", func(m *linkv1.Message) bool {
				u := m.GetUpdate()
				return u != nil && u.GetStatus().GetState() == mesosv1.TaskState_TASK_FAILED && u.GetStatus().GetReason() == mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED
			})
		}
	})
}
