package core

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// honest is an executor that behaves: it keeps tasks and updates until they are acknowledged and comes back when its
// connection breaks.
type honest struct {
	run       Run
	kind      containerizer.Kind
	conn      uint64
	alive     bool
	launching bool
	tasks     map[ids.Task]*honestTask
	unacked   []*mesosv1.TaskStatus
	shutdown  bool
}

type honestTask struct {
	info  *mesosv1.TaskInfo
	state mesosv1.TaskState
	acked bool // some update of it
}

// life is a whole history: one agent, its executors, the master, the disk; with crashes of the agent in between.
type life struct {
	t         *rapid.T
	core      *Core
	now       time.Time
	disk      *disk
	linked    bool
	executors map[ids.Container]*honest
	conns     map[uint64]*honest
	seq       int
	boots     int
	inbox     []Event // what effects cause, in order
	// What the master knows.
	launched map[ids.Task]bool
	heard    map[ids.Task][]*mesosv1.TaskStatus // every update once, in the order of arrival
	toAck    []*linkv1.StatusUpdate
	// sent are the updates of each task in the order in which its executor made them, promised those that the agent
	// has acknowledged to it.
	sent     map[ids.Task][]string
	promised map[string]bool
	crashed  bool
	crashIn  int
}

func (l *life) boot() {
	l.core = New(testConfig)
	l.linked, l.crashed, l.inbox, l.toAck = false, false, nil, nil
	for _, e := range l.executors {
		e.conn = 0
		if e.launching { // killed with the launcher, or found running
			e.launching = false
			e.alive = rapid.Bool().Draw(l.t, "survives the launch")
		}
	}
	l.conns = map[uint64]*honest{}
	b := l.disk.boot(agentInfo(), func(c ids.Container) bool { return l.executors[c] != nil && l.executors[c].alive })
	known := map[ids.Container]bool{}
	for r := range l.disk.runs {
		known[r.Container] = true
	}
	for id, e := range l.executors {
		e.alive = e.alive && known[id] // orphans are destroyed
	}
	l.boots++ // every process has a key of its own
	b.Key[5], b.Key[6] = byte(l.boots), byte(l.boots>>8)
	l.step(b)
}

// step gives the core an event and carries its effects out as the committer does: what persists in one go, then the rest,
// unless the agent crashes in between.
func (l *life) step(ev Event) {
	if l.crashed {
		return
	}
	effects := slices.Clone(l.core.Step(l.now, ev))
	if l.crash() {
		return
	}
	for _, e := range effects {
		if p, ok := e.(Persistent); ok {
			l.disk.write(p)
		}
	}
	for _, e := range effects {
		if l.crash() {
			return
		}
		l.carryOut(e)
	}
}

func (l *life) crash() bool {
	if l.crashIn > 0 {
		l.crashIn--
		l.crashed = l.crashIn == 0
	}
	return l.crashed
}

func (l *life) carryOut(e Effect) {
	switch e := e.(type) {
	case ToMaster:
		if l.linked {
			l.master(e.Message)
		}
	case Relink:
		l.linked = false
		l.inbox = append(l.inbox, LinkDown{})
	case Launch:
		l.executors[e.Run.Container] = &honest{run: e.Run, kind: e.Kind, launching: true, tasks: map[ids.Task]*honestTask{}}
	case Destroy:
		if x := l.executors[e.Run.Container]; x != nil && x.alive {
			l.kill(x)
		}
	case ToExecutor:
		if x := l.conns[e.Conn]; x != nil {
			l.executor(x, e.Event)
		}
	case CloseExecutor:
		if x := l.conns[e.Conn]; x != nil {
			delete(l.conns, e.Conn)
			x.conn = 0
		}
	case Refuse:
		if x := l.conns[e.Conn]; x != nil {
			delete(l.conns, e.Conn)
			x.conn = 0
		}
	case Note:
		if e.Message == "impossible move" {
			l.t.Fatalf("%s %v", e.Message, e.Args)
		}
	}
}

func (l *life) kill(x *honest) {
	x.alive = false
	if x.conn != 0 {
		delete(l.conns, x.conn)
		l.inbox = append(l.inbox, ExecutorGone{Conn: x.conn})
		x.conn = 0
	}
	status := int32(9)
	l.inbox = append(l.inbox, Ended{Run: x.run, Termination: containerizer.Termination{WaitStatus: &status}})
}

func (l *life) master(m *linkv1.Message) {
	switch k := m.GetKind().(type) {
	case *linkv1.Message_Register, *linkv1.Message_Reregister:
		l.inbox = append(l.inbox, FromMaster{&linkv1.Message{Kind: &linkv1.Message_Registered{Registered: &linkv1.Registered{
			AgentId: &mesosv1.AgentID{Value: proto.String("m-S0")}, Master: &mesosv1.MasterInfo{},
		}}}})
	case *linkv1.Message_Update:
		s := k.Update.GetStatus()
		id := ids.Task(s.GetTaskId().GetValue())
		l.toAck = append(l.toAck, k.Update)
		for _, old := range l.heard[id] {
			if string(old.GetUuid()) == string(s.GetUuid()) {
				return // a repetition
			}
		}
		if n := len(l.heard[id]); n > 0 && Terminal(l.heard[id][n-1].GetState()) {
			l.t.Fatalf("task %s: %v after %v", id, s.GetState(), l.heard[id][n-1].GetState())
		}
		l.heard[id] = append(l.heard[id], s)
	}
}

func (l *life) executor(x *honest, ev *executorv1.Event) {
	switch ev.GetType() {
	case executorv1.Event_LAUNCH:
		l.take(x, ev.GetLaunch().GetTask())
	case executorv1.Event_LAUNCH_GROUP:
		for _, t := range ev.GetLaunchGroup().GetTaskGroup().GetTasks() {
			l.take(x, t)
		}
	case executorv1.Event_ACKNOWLEDGED:
		uuid := string(ev.GetAcknowledged().GetUuid())
		l.promised[uuid] = true
		x.tasks[ids.Task(ev.GetAcknowledged().GetTaskId().GetValue())].acked = true
		x.unacked = slices.DeleteFunc(x.unacked, func(s *mesosv1.TaskStatus) bool { return string(s.GetUuid()) == uuid })
	case executorv1.Event_KILL:
		id := ids.Task(ev.GetKill().GetTaskId().GetValue())
		if t := x.tasks[id]; t != nil && !Terminal(t.state) {
			l.update(x, id, killed)
		}
	case executorv1.Event_SHUTDOWN:
		x.shutdown = true
	}
}

func (l *life) take(x *honest, t *mesosv1.TaskInfo) {
	id := ids.Task(t.GetTaskId().GetValue())
	if x.tasks[id] != nil {
		l.t.Fatalf("task %s was delivered twice", id)
	}
	x.tasks[id] = &honestTask{info: t, state: mesosv1.TaskState_TASK_STAGING}
}

func (l *life) update(x *honest, id ids.Task, state mesosv1.TaskState) {
	l.seq++
	s := executorStatus(string(id), state, l.seq)
	x.tasks[id].state = state
	x.unacked = append(x.unacked, s)
	l.sent[id] = append(l.sent[id], string(s.GetUuid()))
	if x.conn != 0 {
		l.inbox = append(l.inbox, ExecutorCall{Request: uint64(l.seq), Call: updateCall(string(x.run.Executor), s)})
	}
}

func (l *life) subscribe(x *honest) {
	l.seq++
	x.conn = uint64(l.seq)
	l.conns[x.conn] = x
	call := subscribeCall(string(x.run.Executor))
	for _, t := range inOrder(x.tasks) {
		if !t.acked {
			call.Subscribe.UnacknowledgedTasks = append(call.Subscribe.UnacknowledgedTasks, t.info)
		}
	}
	for _, s := range x.unacked {
		call.Subscribe.UnacknowledgedUpdates = append(call.Subscribe.UnacknowledgedUpdates, &executorv1.Call_Update{Status: s})
	}
	l.step(Subscribe{Conn: x.conn, Call: call})
}

// settle hands over what effects caused.
func (l *life) settle() {
	for len(l.inbox) > 0 && !l.crashed {
		ev := l.inbox[0]
		l.inbox = l.inbox[1:]
		l.step(ev)
	}
}

func (l *life) pass(d time.Duration) {
	end := l.now.Add(d)
	for !l.crashed {
		at, ok := l.core.Next()
		if !ok || at.After(end) {
			break
		}
		if at.After(l.now) {
			l.now = at
		}
		l.step(Tick{})
		l.settle()
	}
	l.now = end
}

func (l *life) ack(i int) {
	u := l.toAck[i]
	l.toAck = slices.Delete(l.toAck, i, i+1)
	if l.linked {
		l.step(FromMaster{ackMsg(u)})
	}
}

func (l *life) each(f func(*honest)) {
	for _, x := range inOrder(l.executors) {
		f(x)
	}
}

// random does one random thing.
func (l *life) random(n int) {
	draw := func(name string, limit int) int { return rapid.IntRange(0, limit-1).Draw(l.t, name) }
	var list []*honest
	l.each(func(x *honest) { list = append(list, x) })
	var x *honest
	if len(list) > 0 {
		x = list[draw("executor", len(list))]
	}
	switch draw("what", 14) {
	case 0, 1:
		if !l.linked {
			l.linked = true
			l.step(LinkUp{})
			break
		}
		id := fmt.Sprintf("t%d", n)
		task := commandTask(id)
		if draw("custom", 2) == 1 {
			task = customTask(id, fmt.Sprintf("e%d", draw("which", 3)))
		}
		if l.core.Phase() == Running {
			l.launched[ids.Task(id)] = true
			l.step(FromMaster{run(frameworkInfo(mesosv1.FrameworkInfo_Capability_PARTITION_AWARE), task)})
		}
	case 2:
		l.linked = false
		l.step(LinkDown{})
	case 3, 4:
		if x != nil && x.launching {
			x.launching, x.alive = false, true
			l.step(Launched{Run: x.run})
		}
	case 5, 6:
		if x != nil && x.alive && x.conn == 0 {
			l.subscribe(x)
		}
	case 7, 8:
		if x == nil || !x.alive {
			break
		}
		for id, t := range inOrder(x.tasks) {
			if !Terminal(t.state) && draw("move", 2) == 0 {
				l.update(x, id, []mesosv1.TaskState{starting, running, running, finished}[draw("to", 4)])
				break
			}
		}
	case 9:
		if x != nil && x.conn != 0 {
			delete(l.conns, x.conn)
			conn := x.conn
			x.conn = 0
			l.step(ExecutorGone{Conn: conn})
		}
	case 10:
		if x != nil && x.alive && draw("dies", 4) == 0 {
			l.kill(x)
		}
	case 11:
		if len(l.toAck) > 0 {
			l.ack(draw("ack", len(l.toAck)))
		}
	case 12:
		if n > 0 && l.linked {
			id := fmt.Sprintf("t%d", draw("kill", n))
			h := l.heard[ids.Task(id)]
			if l.launched[ids.Task(id)] && (len(h) == 0 || !Terminal(h[len(h)-1].GetState())) {
				l.step(FromMaster{killMsg(id)})
			}
		}
	case 13:
		l.pass(time.Duration(draw("seconds", 90)) * time.Second)
	}
	l.settle()
}

// heal lets everything work until nothing happens any more: every executor finishes its tasks.
func (l *life) heal() {
	l.crashIn = 0
	for range 400 {
		if l.crashed {
			l.boot()
		}
		l.settle()
		if !l.linked && l.core.Phase() != Reconnecting {
			l.linked = true
			l.step(LinkUp{})
			l.settle()
		}
		l.each(func(x *honest) {
			if x.launching {
				x.launching, x.alive = false, true
				l.step(Launched{Run: x.run})
			}
			if x.alive && x.conn == 0 {
				l.subscribe(x)
			}
			l.settle()
			if x.alive && x.conn != 0 {
				for id, t := range inOrder(x.tasks) {
					if !Terminal(t.state) {
						l.update(x, id, finished)
					}
				}
				if x.shutdown || x.kind == containerizer.CommandTask && len(x.tasks) > 0 && len(x.unacked) == 0 {
					l.kill(x)
				}
			}
			l.settle()
		})
		for len(l.toAck) > 0 {
			l.ack(0)
			l.settle()
		}
		l.pass(15 * time.Second)
	}
}

// Whatever happens, including crashes of the agent between any two of its effects: no update that the agent took
// responsibility for is lost, none arrives twice under another uuid or out of order, nothing follows a terminal state,
// no task is delivered twice, and of every launched task the master learns the end.
func TestHistories(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := &life{
			t: t, now: time.Unix(1e9, 0), disk: newDisk(), executors: map[ids.Container]*honest{}, launched: map[ids.Task]bool{},
			heard: map[ids.Task][]*mesosv1.TaskStatus{}, sent: map[ids.Task][]string{}, promised: map[string]bool{},
		}
		l.boot()
		steps := rapid.IntRange(5, 120).Draw(t, "steps")
		for n := range steps {
			if l.crashed {
				l.seq++
				l.boot()
				l.settle()
			}
			if l.crashIn == 0 && rapid.IntRange(0, 15).Draw(t, "crash") == 0 {
				l.crashIn = rapid.IntRange(1, 20).Draw(t, "after")
			}
			l.random(n)
		}
		l.heal()

		for id := range l.launched {
			heard := l.heard[id]
			// A launch that the agent crashed over is unknown to it; the master asks for such tasks when it registers.
			if known := l.onDisk(id); len(heard) == 0 && !known {
				continue
			}
			if len(heard) == 0 || !Terminal(heard[len(heard)-1].GetState()) {
				t.Fatalf("task %s: the master heard %v", id, heard)
			}
			at := 0
			for _, uuid := range l.sent[id] {
				i := slices.IndexFunc(heard[at:], func(s *mesosv1.TaskStatus) bool { return string(s.GetUuid()) == uuid })
				if i >= 0 {
					at += i + 1
					continue
				}
				if slices.ContainsFunc(heard, func(s *mesosv1.TaskStatus) bool { return string(s.GetUuid()) == uuid }) {
					t.Fatalf("task %s: updates out of order", id)
				}
				// Ignored, because the task had ended before: its executor died, or it was killed.
				if last := heard[len(heard)-1]; l.promised[uuid] && last.GetSource() == mesosv1.TaskStatus_SOURCE_EXECUTOR {
					t.Fatalf("task %s: update %s was acknowledged to its executor and is lost", id, uuid)
				}
			}
		}
		if v := l.core.View(); v.Used.Len() != 0 {
			for _, f := range v.Frameworks {
				for _, e := range f.Executors {
					if len(e.Tasks) > 0 {
						t.Fatalf("executor %s (%v) still has %v", e.Run.Executor, e.Phase, e.Tasks[0].Task)
					}
				}
			}
		}
	})
}

func (l *life) onDisk(id ids.Task) bool {
	for _, r := range l.disk.runs {
		if r.tasks[id] != nil {
			return true
		}
	}
	return false
}

// The same history gives the same effects: what a failing seed shows can be looked at again.
func TestDeterminism(t *testing.T) {
	t.Parallel()
	history := func() string {
		b := registered(t)
		out := ""
		for i := range 20 {
			b.master(run(frameworkInfo(), customTask(fmt.Sprintf("t%d", i), fmt.Sprintf("e%d", i%5))))
		}
		b.master(&linkv1.Message{Kind: &linkv1.Message_Drain{Drain: &linkv1.Drain{Config: &mesosv1.DrainConfig{}}}})
		b.step(LinkDown{})
		b.register()
		b.step(Leave{})
		for _, e := range b.take() {
			out += fmt.Sprintf("%T %v\n", e, e)
		}
		return out
	}
	if a, b := history(), history(); len(a) != len(b) {
		t.Errorf("two runs differ:\n%s\n%s", a, b)
	}
}

func BenchmarkTask(b *testing.B) {
	for _, others := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			c := New(testConfig)
			now := time.Unix(1e9, 0)
			step := func(ev Event) []Effect { return c.Step(now, ev) }
			step(newDisk().boot(agentInfo(), nil))
			step(LinkUp{})
			step(FromMaster{&linkv1.Message{Kind: &linkv1.Message_Registered{Registered: &linkv1.Registered{AgentId: &mesosv1.AgentID{Value: proto.String("m-S0")}, Master: &mesosv1.MasterInfo{}}}}})
			fw := frameworkInfo()
			launch := func(id, executor string) { step(FromMaster{run(fw, customTask(id, executor))}) }
			launch("first", "e")
			var r Run
			for id := range c.runs {
				r = c.runs[id].run
			}
			step(Launched{Run: r})
			step(Subscribe{Conn: 1, Call: subscribeCall("e")})
			for i := range others {
				launch(fmt.Sprintf("other%d", i), "e")
			}
			i := 0
			for b.Loop() {
				i++
				id := fmt.Sprintf("t%d", i)
				launch(id, "e")
				for k, s := range []mesosv1.TaskState{starting, running, finished} {
					for _, e := range step(ExecutorCall{Call: updateCall("e", executorStatus(id, s, 4*i+k))}) {
						if m, ok := e.(ToMaster); ok {
							step(FromMaster{ackMsg(m.Message.GetUpdate())})
							break
						}
					}
				}
			}
			b.ReportMetric(float64(i)/b.Elapsed().Seconds(), "tasks/s")
		})
	}
}
