package cluster

import (
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	agentcore "github.com/orchestrator/orchestrator/internal/agent/core"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// executor models a command executor in its container: it outlives the agent, keeps updates until they are
// acknowledged, and ends once its task has ended and that was acknowledged.
type executor struct {
	a         *agent
	run       agentcore.Run
	framework *mesosv1.FrameworkInfo
	started   bool
	dead      bool
	status    int32
	conn      uint64
	open      bool // admitted
	looking   bool
	tasks     map[ids.Task]*running
	unacked   []*executorv1.Call_Update
	draws     uint64
}

type running struct {
	info  *mesosv1.TaskInfo
	ended bool
}

func (x *executor) termination() containerizer.Termination {
	if x == nil {
		return containerizer.Termination{}
	}
	return containerizer.Termination{WaitStatus: proto.Int32(x.status)}
}

func (x *executor) ids() (*mesosv1.ExecutorID, *mesosv1.FrameworkID) {
	return &mesosv1.ExecutorID{Value: proto.String(string(x.run.Executor))}, &mesosv1.FrameworkID{Value: proto.String(string(x.run.Framework))}
}

// lookForAgent subscribes, again and again while the agent is away.
func (x *executor) lookForAgent() {
	if x.dead || !x.started || x.looking || x.conn != 0 {
		return
	}
	x.looking = true
	x.a.w.after(x.a.w.between(time.Millisecond, 300*time.Millisecond), func() {
		x.looking = false
		if x.dead || x.conn != 0 {
			return
		}
		if x.a.core == nil {
			return // boot calls again
		}
		x.a.nextConn++
		x.conn = x.a.nextConn
		x.open = false
		x.a.conns[x.conn] = x
		e, f := x.ids()
		call := &executorv1.Call{ExecutorId: e, FrameworkId: f, Type: executorv1.Call_SUBSCRIBE.Enum(), Subscribe: &executorv1.Call_Subscribe{}}
		call.Subscribe.UnacknowledgedUpdates = slices.Clone(x.unacked)
		for _, id := range slices.Sorted(maps.Keys(x.tasks)) {
			call.Subscribe.UnacknowledgedTasks = append(call.Subscribe.UnacknowledgedTasks, x.tasks[id].info)
		}
		x.a.step(agentcore.Subscribe{Conn: x.conn, Call: call})
	})
}

func (x *executor) admitted(conn uint64) {
	if conn == x.conn {
		x.open = true
	}
}

func (x *executor) refused(conn uint64, why string) {
	if conn == x.conn {
		x.conn = 0
		x.a.w.note("executor %s is refused: %s", x.run.Executor, why)
		x.a.w.after(time.Second, x.lookForAgent)
	}
}

func (x *executor) connLost(conn uint64) {
	if conn == x.conn {
		x.conn, x.open = 0, false
		x.a.w.after(x.a.w.between(10*time.Millisecond, time.Second), x.lookForAgent)
	}
}

func (x *executor) deliver(conn uint64, e *executorv1.Event) {
	x.a.w.after(x.a.w.between(10*time.Microsecond, time.Millisecond), func() {
		if !x.dead && conn == x.conn {
			x.handle(e)
		}
	})
}

func (x *executor) handle(e *executorv1.Event) {
	switch e.GetType() {
	case executorv1.Event_LAUNCH:
		t := e.GetLaunch().GetTask()
		id := ids.Task(t.GetTaskId().GetValue())
		if x.tasks[id] != nil {
			x.a.w.fail("executor %s is told twice to launch %s", x.run.Executor, id)
			return
		}
		x.tasks[id] = &running{info: t}
		x.a.w.note("executor on %s starts %s", x.a.name(), id)
		x.update(id, mesosv1.TaskState_TASK_RUNNING)
		x.a.w.after(x.a.w.between(time.Second, 4*time.Minute), func() {
			if x.a.w.chance(0.9) {
				x.finish(id, mesosv1.TaskState_TASK_FINISHED)
			} else {
				x.finish(id, mesosv1.TaskState_TASK_FAILED)
			}
		})
	case executorv1.Event_KILL:
		x.finish(ids.Task(e.GetKill().GetTaskId().GetValue()), mesosv1.TaskState_TASK_KILLED)
	case executorv1.Event_ACKNOWLEDGED:
		uuid := string(e.GetAcknowledged().GetUuid())
		for i, u := range x.unacked {
			if string(u.GetStatus().GetUuid()) == uuid {
				if st := u.GetStatus(); ended(st.GetState()) {
					x.a.w.promised[taskKey{x.run.Framework, ids.Task(st.GetTaskId().GetValue())}] = st.GetState()
				}
				x.unacked = slices.Delete(x.unacked, i, i+1)
				break
			}
		}
		done := len(x.unacked) == 0
		for _, t := range x.tasks {
			done = done && t.ended
		}
		if done {
			x.a.w.after(x.a.w.between(0, 100*time.Millisecond), func() { x.end(0) })
		}
	case executorv1.Event_SHUTDOWN:
		for _, id := range slices.Sorted(maps.Keys(x.tasks)) {
			x.finish(id, mesosv1.TaskState_TASK_KILLED)
		}
		x.a.w.after(x.a.w.between(0, time.Second), func() { x.end(0) })
	}
}

func (x *executor) finish(id ids.Task, state mesosv1.TaskState) {
	t := x.tasks[id]
	if x.dead || t == nil || t.ended {
		return
	}
	t.ended = true
	x.update(id, state)
}

func (x *executor) update(id ids.Task, state mesosv1.TaskState) {
	x.draws++
	uuid := make([]byte, 16)
	binary.BigEndian.PutUint64(uuid, x.a.w.rng.Uint64())
	binary.BigEndian.PutUint64(uuid[8:], x.draws)
	u := &executorv1.Call_Update{Status: &mesosv1.TaskStatus{
		TaskId: &mesosv1.TaskID{Value: proto.String(string(id))}, State: state.Enum(), Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(), Uuid: uuid,
	}}
	x.unacked = append(x.unacked, u)
	if x.open {
		e, f := x.ids()
		x.a.step(agentcore.ExecutorCall{Request: x.draws, Call: &executorv1.Call{
			ExecutorId: e, FrameworkId: f, Type: executorv1.Call_UPDATE.Enum(), Update: u,
		}})
	}
}

// end is the end of the container, for whatever reason.
func (x *executor) end(status int32) {
	if x.dead {
		return
	}
	x.dead, x.status = true, status
	x.a.w.note("executor %s on %s ends with %d", x.run.Executor, x.a.name(), status)
	if x.conn != 0 {
		delete(x.a.conns, x.conn)
		conn := x.conn
		x.conn = 0
		x.a.step(agentcore.ExecutorGone{Conn: conn})
	}
	boots := x.a.boots
	x.a.w.after(x.a.w.between(0, 20*time.Millisecond), func() {
		if x.a.boots == boots {
			x.a.step(agentcore.Ended{Run: x.run, Termination: x.termination()})
		}
		delete(x.a.containers, x.run.Container)
	})
}

// runningTasks are those that really run on the host.
func (a *agent) runningTasks() map[taskKey]bool {
	out := map[taskKey]bool{}
	for _, x := range a.containers {
		for id, t := range x.tasks {
			if !x.dead && !t.ended {
				out[taskKey{x.run.Framework, id}] = true
			}
		}
	}
	return out
}

type taskKey struct {
	framework ids.Framework
	task      ids.Task
}
