package core

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	checkpointv1 "github.com/orchestrator/orchestrator/api/checkpoint/v1"
	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
)

var testConfig = Config{
	ExecutorRegistrationTimeout: time.Minute, ExecutorReregistrationTimeout: 2 * time.Second, ExecutorShutdownGrace: 5 * time.Second,
	RegisterTimeout: time.Minute, UpdateRetryMin: 10 * time.Second, UpdateRetryMax: 10 * time.Minute, MaxCompletedFrameworks: 50,
	MaxCompletedExecutors: 150, MaxCompletedTasks: 200, SwitchUser: true, Version: "1.11.0", Address: "127.0.0.1:5051",
	Sandbox: func(a ids.Agent, r Run) string { return "/w/" + string(a) + "/" + string(r.Container) },
}

// disk is what the persistent effects of a core have written, in their meaning.
type disk struct {
	agent      *mesosv1.AgentInfo
	resources  *checkpointv1.Resources
	drain      *mesosv1.DrainConfig
	frameworks map[ids.Framework]*mesosv1.FrameworkInfo
	runs       map[Run]*diskRun
}

type diskRun struct {
	executor              *checkpointv1.Executor
	registered, completed bool
	tasks                 map[ids.Task]*diskTask
}

type diskTask struct {
	task    *checkpointv1.Task
	updates []*checkpointv1.Update
}

func newDisk() *disk {
	return &disk{frameworks: map[ids.Framework]*mesosv1.FrameworkInfo{}, runs: map[Run]*diskRun{}}
}

func (d *disk) write(e Persistent) {
	switch e := e.(type) {
	case SaveAgent:
		d.agent = e.Info
	case ForgetAgent:
		d.agent = nil // what lies below its id is not looked at any more
	case SaveResources:
		d.resources = e.Resources
	case SaveDrain:
		d.drain = e.Config
	case SaveFramework:
		d.frameworks[ids.Framework(e.Info.GetId().GetValue())] = e.Info
	case SaveExecutor:
		d.runs[e.Run] = &diskRun{executor: e.Executor, tasks: map[ids.Task]*diskTask{}}
	case SaveRegistered:
		d.runs[e.Run].registered = true
	case SaveCompleted:
		d.runs[e.Run].completed = true
	case SaveTask:
		d.runs[e.Run].tasks[ids.Task(e.Task.GetInfo().GetTaskId().GetValue())] = &diskTask{task: e.Task}
	case AppendUpdate:
		t := d.runs[e.Run].tasks[e.Task]
		t.updates = append(t.updates, e.Update)
	case ForgetRun:
		delete(d.runs, e.Run)
	case RewriteUpdates:
		d.runs[e.Run].tasks[e.Task].updates = e.Updates
	default:
		panic(fmt.Sprintf("%T", e))
	}
}

// boot is the Boot event of the next process. alive tells which containers survived.
func (d *disk) boot(info *mesosv1.AgentInfo, alive func(ids.Container) bool) Boot {
	b := Boot{Key: [32]byte{byte(len(d.runs)), 7}, Info: info, Total: info.GetResources(), Drain: d.drain}
	if d.agent != nil {
		b.Info = d.agent
	}
	if d.resources != nil {
		b.Total, b.Operations, b.Destroyed = d.resources.GetTotal(), d.resources.GetOperations(), d.resources.GetDestroyed()
	}
	if d.agent == nil {
		return b
	}
	for id, f := range inOrder(d.frameworks) {
		bf := BootFramework{Info: f}
		var runs []Run
		for r := range d.runs {
			if r.Framework == id {
				runs = append(runs, r)
			}
		}
		slices.SortFunc(runs, func(a, b Run) int {
			return compareGhosts(ghostKey{"", ids.Task(a.Container)}, ghostKey{"", ids.Task(b.Container)})
		})
		for _, r := range runs {
			dr := d.runs[r]
			br := BootRun{Container: r.Container, Executor: dr.executor, Registered: dr.registered, Completed: dr.completed, Alive: alive(r.Container)}
			for _, t := range inOrder(dr.tasks) {
				br.Tasks = append(br.Tasks, BootTask{Task: t.task, Updates: t.updates})
			}
			bf.Runs = append(bf.Runs, br)
		}
		b.Frameworks = append(b.Frameworks, bf)
	}
	return b
}

// bench drives a core by hand and keeps what it says.
type bench struct {
	t    *testing.T
	core *Core
	now  time.Time
	disk *disk
	// Of the last step, and of all of them since the last take.
	effects []Effect
}

func agentInfo() *mesosv1.AgentInfo {
	return &mesosv1.AgentInfo{Hostname: proto.String("host"), Resources: []*mesosv1.Resource{scalar("cpus", 8), scalar("mem", 8192), scalar("disk", 1000)}}
}

func scalar(name string, v float64) *mesosv1.Resource {
	return &mesosv1.Resource{Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v}, AllocationInfo: nil}
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, core: New(testConfig), now: time.Unix(1e9, 0), disk: newDisk()}
	b.step(b.disk.boot(agentInfo(), nil))
	return b
}

// registered gives a bench whose agent is registered.
func registered(t *testing.T) *bench {
	b := newBench(t)
	b.register()
	b.take()
	return b
}

func (b *bench) register() {
	b.step(LinkUp{})
	b.step(FromMaster{&linkv1.Message{Kind: &linkv1.Message_Registered{Registered: &linkv1.Registered{
		AgentId: &mesosv1.AgentID{Value: proto.String("m-S0")}, Master: &mesosv1.MasterInfo{Id: proto.String("m"), Ip: proto.Uint32(1), Port: proto.Uint32(5050)},
	}}}})
}

func (b *bench) step(ev Event) {
	b.t.Helper()
	for _, e := range b.core.Step(b.now, ev) {
		if p, ok := e.(Persistent); ok {
			b.disk.write(p)
		}
		if n, ok := e.(Note); ok {
			if n.Message == "impossible move" {
				b.t.Errorf("%s %v", n.Message, n.Args)
			}
			continue
		}
		b.effects = append(b.effects, e)
	}
}

// pass lets time go by.
func (b *bench) pass(d time.Duration) {
	b.t.Helper()
	end := b.now.Add(d)
	for {
		at, ok := b.core.Next()
		if !ok || at.After(end) {
			break
		}
		if at.After(b.now) {
			b.now = at
		}
		b.step(Tick{})
	}
	b.now = end
}

// take gives the effects since the last take.
func (b *bench) take() []Effect {
	e := b.effects
	b.effects = nil
	return e
}

func (b *bench) master(m *linkv1.Message) { b.t.Helper(); b.step(FromMaster{m}) }

// of picks the effects of one type.
func of[T Effect](effects []Effect) []T {
	var out []T
	for _, e := range effects {
		if x, ok := e.(T); ok {
			out = append(out, x)
		}
	}
	return out
}

func updates(effects []Effect) []*linkv1.StatusUpdate {
	var out []*linkv1.StatusUpdate
	for _, m := range of[ToMaster](effects) {
		if u := m.Message.GetUpdate(); u != nil {
			out = append(out, u)
		}
	}
	return out
}

func states(effects []Effect) []string {
	out := []string{}
	for _, u := range updates(effects) {
		out = append(out, u.GetStatus().GetTaskId().GetValue()+" "+u.GetStatus().GetState().String()+" "+u.GetStatus().GetReason().String())
	}
	return out
}

func events(effects []Effect) []string {
	out := []string{}
	for _, m := range of[ToExecutor](effects) {
		s := m.Event.GetType().String()
		switch m.Event.GetType() {
		case executorv1.Event_LAUNCH:
			s += " " + m.Event.GetLaunch().GetTask().GetTaskId().GetValue()
		case executorv1.Event_LAUNCH_GROUP:
			for _, t := range m.Event.GetLaunchGroup().GetTaskGroup().GetTasks() {
				s += " " + t.GetTaskId().GetValue()
			}
		case executorv1.Event_KILL:
			s += " " + m.Event.GetKill().GetTaskId().GetValue()
			if g := m.Event.GetKill().GetKillPolicy().GetGracePeriod(); g != nil {
				s += " " + time.Duration(g.GetNanoseconds()).String()
			}
		case executorv1.Event_ACKNOWLEDGED:
			s += " " + m.Event.GetAcknowledged().GetTaskId().GetValue()
		}
		out = append(out, s)
	}
	return out
}

func frameworkInfo(capabilities ...mesosv1.FrameworkInfo_Capability_Type) *mesosv1.FrameworkInfo {
	f := &mesosv1.FrameworkInfo{User: proto.String("nobody"), Name: proto.String("f"), Id: &mesosv1.FrameworkID{Value: proto.String("m-0000")}, Checkpoint: proto.Bool(true)}
	for _, c := range capabilities {
		f.Capabilities = append(f.Capabilities, &mesosv1.FrameworkInfo_Capability{Type: c.Enum()})
	}
	return f
}

func commandTask(id string) *mesosv1.TaskInfo {
	return &mesosv1.TaskInfo{
		Name: proto.String("n-" + id), TaskId: &mesosv1.TaskID{Value: &id}, AgentId: &mesosv1.AgentID{Value: proto.String("m-S0")},
		Resources: []*mesosv1.Resource{scalar("cpus", 1), scalar("mem", 64)}, Command: &mesosv1.CommandInfo{Value: proto.String("sleep 1000000000000")},
	}
}

func customTask(id, executor string) *mesosv1.TaskInfo {
	t := commandTask(id)
	t.Command, t.Executor = nil, customExecutor(executor)
	return t
}

func customExecutor(id string) *mesosv1.ExecutorInfo {
	return &mesosv1.ExecutorInfo{
		ExecutorId: &mesosv1.ExecutorID{Value: &id}, FrameworkId: &mesosv1.FrameworkID{Value: proto.String("m-0000")},
		Command: &mesosv1.CommandInfo{Value: proto.String("./executor")}, Resources: []*mesosv1.Resource{scalar("cpus", 0.5), scalar("mem", 32)},
	}
}

func run(f *mesosv1.FrameworkInfo, t *mesosv1.TaskInfo) *linkv1.Message {
	return &linkv1.Message{Kind: &linkv1.Message_RunTask{RunTask: &linkv1.RunTask{Framework: f, Task: t}}}
}

func killMsg(id string) *linkv1.Message {
	return &linkv1.Message{Kind: &linkv1.Message_KillTask{KillTask: &linkv1.KillTask{FrameworkId: &mesosv1.FrameworkID{Value: proto.String("m-0000")}, TaskId: &mesosv1.TaskID{Value: &id}}}}
}

func ackMsg(u *linkv1.StatusUpdate) *linkv1.Message {
	return &linkv1.Message{Kind: &linkv1.Message_UpdateAck{UpdateAck: &linkv1.UpdateAck{FrameworkId: u.GetFrameworkId(), TaskId: u.GetStatus().GetTaskId(), Uuid: u.GetStatus().GetUuid()}}}
}

func subscribeCall(executor string) *executorv1.Call {
	return &executorv1.Call{
		FrameworkId: &mesosv1.FrameworkID{Value: proto.String("m-0000")}, ExecutorId: &mesosv1.ExecutorID{Value: &executor},
		Type: executorv1.Call_SUBSCRIBE.Enum(), Subscribe: &executorv1.Call_Subscribe{},
	}
}

func executorStatus(task string, state mesosv1.TaskState, n int) *mesosv1.TaskStatus {
	return &mesosv1.TaskStatus{
		TaskId: &mesosv1.TaskID{Value: &task}, State: &state, Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(),
		Uuid: []byte(fmt.Sprintf("%-10.10s%06d", task, n)),
	}
}

func updateCall(executor string, s *mesosv1.TaskStatus) *executorv1.Call {
	c := subscribeCall(executor)
	c.Type, c.Subscribe, c.Update = executorv1.Call_UPDATE.Enum(), nil, &executorv1.Call_Update{Status: s}
	return c
}

// launched tells the core that the last Launch worked, and subscribes its executor on connection conn.
func (b *bench) launched(l Launch) {
	b.t.Helper()
	b.step(Launched{Run: l.Run, Status: &mesosv1.ContainerStatus{ExecutorPid: proto.Uint32(77)}})
}

func (b *bench) start(t *mesosv1.TaskInfo, conn uint64) Run {
	b.t.Helper()
	b.take()
	b.master(run(frameworkInfo(mesosv1.FrameworkInfo_Capability_PARTITION_AWARE), t))
	ls := of[Launch](b.take())
	if len(ls) != 1 {
		b.t.Fatalf("%d launches, want 1", len(ls))
	}
	b.launched(ls[0])
	b.step(Subscribe{Conn: conn, Call: subscribeCall(string(ls[0].Run.Executor))})
	return ls[0].Run
}

func (b *bench) update(executor, task string, state mesosv1.TaskState, n int) {
	b.t.Helper()
	b.step(ExecutorCall{Request: uint64(n), Call: updateCall(executor, executorStatus(task, state, n))})
}

func ended(r Run, status int32) Ended {
	return Ended{Run: r, Termination: containerizer.Termination{WaitStatus: &status}}
}
