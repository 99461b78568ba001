package core

import (
	"bytes"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// task is a live task: launched, and its terminal update not acknowledged yet.
type task struct {
	id        ids.Task
	framework *framework
	agent     *agent
	page      *TaskPage // as it is now
	holds     bool      // its resources; not any more once its newest state is terminal
}

// held is what the task holds.
func (t *task) held() resources.Resources {
	if !t.holds {
		return resources.Resources{}
	}
	return t.page.Resources()
}

// stateFor is the state as the framework may see it: without PARTITION_AWARE the newer ways of being lost are TASK_LOST
// (facts 1.9).
func (f *framework) stateFor(state mesosv1.TaskState) mesosv1.TaskState {
	if f.caps.partitionAware {
		return state
	}
	switch state {
	case mesosv1.TaskState_TASK_DROPPED, mesosv1.TaskState_TASK_UNREACHABLE, mesosv1.TaskState_TASK_GONE,
		mesosv1.TaskState_TASK_GONE_BY_OPERATOR, mesosv1.TaskState_TASK_UNKNOWN:
		return mesosv1.TaskState_TASK_LOST
	}
	return state
}

// newTaskProto is the Task that a TaskInfo becomes (facts 3.5: a command task has no executor id).
func newTaskProto(info *mesosv1.TaskInfo, executorID *mesosv1.ExecutorID, framework *mesosv1.FrameworkInfo) *mesosv1.Task {
	t := &mesosv1.Task{
		Name:        info.Name,
		TaskId:      info.TaskId,
		FrameworkId: framework.Id,
		AgentId:     info.AgentId,
		State:       mesosv1.TaskState_TASK_STAGING.Enum(),
		Resources:   info.Resources,
		Labels:      info.Labels,
		Discovery:   info.Discovery,
		Container:   info.Container,
		HealthCheck: info.HealthCheck,
		KillPolicy:  info.KillPolicy,
		Limits:      info.Limits,
	}
	switch {
	case executorID != nil:
		t.ExecutorId = executorID
	case info.Executor != nil:
		t.ExecutorId = info.Executor.ExecutorId
	}
	// The user that it runs as: the command's, else the executor's, else the framework's.
	switch {
	case info.GetCommand().GetUser() != "":
		t.User = info.Command.User
	case info.GetExecutor().GetCommand().GetUser() != "":
		t.User = info.Executor.Command.User
	default:
		t.User = framework.User
	}
	return t
}

// protoOf gives the resources of a task that is launched as messages. Tasks that are alike share them: they must not be changed.
func (f *framework) protoOf(res resources.Resources) []*mesosv1.Resource {
	if res.HasPersistentVolumes() {
		return res.Proto() // how a volume is used is each task's own
	}
	if f.messages == nil || !f.launched.Equal(res) {
		f.launched, f.messages = res, res.Proto()
	}
	return f.messages
}

// addTask makes a task live. Its resources are accounted for already (they came out of an offer, or the allocator was told).
func (s *State) addTask(f *framework, a *agent, p *mesosv1.Task, res resources.Resources) *task {
	var page *TaskPage
	if res.IsEmpty() {
		page = NewTaskPage(p, f.last) // it holds nothing any more
	} else {
		page = newTaskPage(p, res, f.last)
	}
	page.task.framework, page.task.agent = f.id, a.id // one string for all
	f.last = page
	t := &task{id: page.ID(), framework: f, agent: a, page: page, holds: !res.IsEmpty()}
	f.tasks[t.id] = t
	a.tasks[t] = struct{}{}
	f.live.Set(t.id, page)
	s.touchFramework(f)
	s.touchAgent(a)
	s.counters.TasksByState[p.GetState()]++
	s.operatorEvent(&masterv1.Event{Type: masterv1.Event_TASK_ADDED.Enum(), TaskAdded: &masterv1.Event_TaskAdded{Task: p}})
	return t
}

// removeTask takes a task out of the live set; its resources are freed if they were not yet.
func (s *State) removeTask(t *task) {
	f, a := t.framework, t.agent
	s.freeTask(t)
	delete(f.tasks, t.id)
	f.live.Delete(t.id)
	delete(a.tasks, t)
	f.completed = appendLimited(f.completed, t.page, s.cfg.MaxCompletedTasksPerFramework)
	f.counters.TerminalTasks[t.page.State()]++
	s.touchFramework(f)
	s.touchAgent(a)
	s.checkDrained(a)
}

// freeTask gives the resources of a task back to the allocator, once.
func (s *State) freeTask(t *task) {
	if !t.holds {
		return
	}
	s.free(t.framework, t.agent, t.held(), nil)
	t.holds = false
}

// setTaskState records a status and the newest state of a task. A final state stays; resources are released as soon as
// the newest state is final, whatever was acknowledged (facts 1.8).
func (s *State) setTaskState(t *task, status *mesosv1.TaskStatus, latest mesosv1.TaskState) {
	was := t.page.State()
	p := t.page.with(status, latest)
	t.page = p
	t.framework.live.Set(t.id, p)
	s.touchFramework(t.framework)
	if p.State() != was {
		s.countState(p.State(), status)
	}
	if terminal(p.State()) {
		s.freeTask(t)
		s.touchAgent(t.agent)
	}
	if s.operators {
		s.operatorEvent(&masterv1.Event{
			Type:        masterv1.Event_TASK_UPDATED.Enum(),
			TaskUpdated: &masterv1.Event_TaskUpdated{FrameworkId: p.frameworkID(), Status: status, State: p.State().Enum()},
		})
	}
}

func (s *State) countState(state mesosv1.TaskState, status *mesosv1.TaskStatus) {
	s.counters.TasksByState[state]++
	if terminal(state) {
		s.counters.TasksBySourceReason[TaskCause{State: state, Source: status.GetSource(), Reason: status.GetReason()}]++
	}
}

// statusUpdate handles an agent's update: it goes to the framework, and what it says becomes the task's state.
func (s *State) statusUpdate(a *agent, u *linkv1.StatusUpdate) {
	f := s.frameworks[ids.Framework(u.GetFrameworkId().GetValue())]
	status := u.GetStatus()
	if f == nil {
		// An ended framework: nobody will acknowledge it, so the agent may forget it.
		s.counters.InvalidUpdates++
		if _, ended := s.ended[ids.Framework(u.GetFrameworkId().GetValue())]; ended && status.Uuid != nil {
			s.sendUpdateAck(a, ids.Framework(u.GetFrameworkId().GetValue()), ids.Task(status.GetTaskId().GetValue()), status.GetUuid())
		}
		return
	}
	s.sendUpdate(f, status)
	t := f.tasks[ids.Task(status.GetTaskId().GetValue())]
	if t == nil || t.agent != a {
		// The task is not this master's any more (its terminal update was acknowledged, or it moved): the framework got the
		// update all the same and will acknowledge it.
		s.counters.InvalidUpdates++
		return
	}
	s.counters.ValidUpdates++
	latest := status.GetState()
	if u.LatestState != nil {
		latest = u.GetLatestState()
	}
	s.setTaskState(t, status, latest)
	if status.Uuid == nil && terminal(t.page.State()) {
		s.removeTask(t)
	}
}

// sendUpdate passes a status to the framework.
func (s *State) sendUpdate(f *framework, status *mesosv1.TaskStatus) {
	s.send(f, &schedulerv1.Event{Type: schedulerv1.Event_UPDATE.Enum(), Update: &schedulerv1.Event_Update{Status: status}})
}

// masterStatus makes a status that the master itself tells: no uuid, so nobody acknowledges it.
func (s *State) masterStatus(f *framework, id *mesosv1.TaskID, agentID *mesosv1.AgentID, state mesosv1.TaskState,
	reason mesosv1.TaskStatus_Reason, message string,
) *mesosv1.TaskStatus {
	st := &mesosv1.TaskStatus{
		TaskId:    id,
		State:     f.stateFor(state).Enum(),
		Source:    mesosv1.TaskStatus_SOURCE_MASTER.Enum(),
		Reason:    reason.Enum(),
		AgentId:   agentID,
		Timestamp: proto.Float64(seconds(s.now)),
	}
	if message != "" {
		st.Message = proto.String(message)
	}
	return st
}

// acknowledge handles ACKNOWLEDGE: the agent may forget the update; a task whose terminal update it was is done.
func (s *State) acknowledge(f *framework, agentID ids.Agent, id ids.Task, uuid []byte) {
	a := s.agents[agentID]
	if a == nil || !a.connected() {
		s.counters.InvalidAcks++ // the agent will send the update again when it is back
		return
	}
	t := f.tasks[id]
	if t != nil && t.agent == a {
		state, awaited, _ := t.page.updated()
		if !bytes.Equal(awaited, uuid) {
			s.counters.InvalidAcks++
			return
		}
		if terminal(state) {
			s.removeTask(t)
		}
	}
	s.counters.ValidAcks++
	s.sendUpdateAck(a, f.id, id, uuid)
}

func (s *State) sendUpdateAck(a *agent, f ids.Framework, t ids.Task, uuid []byte) {
	if a.conn == 0 {
		return
	}
	ack := &SendAck{Conn: a.conn, Framework: f, Task: t}
	copy(ack.UUID[:], uuid)
	s.emit(ack)
}

type killKey struct {
	framework ids.Framework
	task      ids.Task
}

// kill handles KILL. What the master does not know it answers like a reconciliation (facts 1.3).
func (s *State) kill(f *framework, c *schedulerv1.Call_Kill) {
	id := ids.Task(c.GetTaskId().GetValue())
	t := f.tasks[id]
	if t == nil {
		s.reconcileTask(f, c.GetTaskId(), c.GetAgentId())
		return
	}
	if c.AgentId != nil && c.GetAgentId().GetValue() != string(t.agent.id) {
		s.log(slog.LevelDebug, "kill names another agent than the task's", "framework_id", f.id, "task_id", id, "agent_id", t.agent.id)
		return
	}
	a := t.agent
	// Kept until the task ends, so that an agent that is away now, or goes before it is done, hears it when it is back.
	if a.kills == nil {
		a.kills = map[killKey]*mesosv1.KillPolicy{}
	}
	a.kills[killKey{f.id, id}] = c.GetKillPolicy()
	s.sendKill(a, f.info.GetId(), c.GetTaskId(), c.GetKillPolicy())
}

func (s *State) sendKill(a *agent, f *mesosv1.FrameworkID, t *mesosv1.TaskID, policy *mesosv1.KillPolicy) {
	s.sendAgent(a, &linkv1.Message{Kind: &linkv1.Message_KillTask{KillTask: &linkv1.KillTask{FrameworkId: f, TaskId: t, KillPolicy: policy}}})
}

// loseTask ends a task that the master can't find again: the framework is told, and it leaves the live set. state is the
// PARTITION_AWARE one. An unreachable task is kept aside, because it may come back.
func (s *State) loseTask(t *task, state mesosv1.TaskState, reason mesosv1.TaskStatus_Reason, message string, adjust func(*mesosv1.TaskStatus)) {
	f := t.framework
	st := s.masterStatus(f, t.page.taskID(), t.page.agentID(), state, reason, message)
	st.ExecutorId = t.page.executorID()
	if adjust != nil {
		adjust(st)
	}
	if terminal(t.page.State()) {
		// It had ended; only the acknowledgement was missing. The framework may have missed the last update, so it is told again.
		s.resendLast(t)
		s.removeTask(t)
		return
	}
	if state == mesosv1.TaskState_TASK_UNREACHABLE {
		s.setTaskState(t, st, mesosv1.TaskState_TASK_UNREACHABLE)
		s.freeTask(t)
		delete(f.tasks, t.id)
		delete(t.agent.tasks, t)
		f.live.Delete(t.id)
		f.unreachable.Set(t.id, t.page)
		f.gone = append(f.gone, t.id)
		for len(f.gone) > max(s.cfg.MaxUnreachableTasksPerFrame, 1) {
			f.unreachable.Delete(f.gone[0])
			f.gone = f.gone[1:]
		}
		s.touchAgent(t.agent)
	} else {
		s.setTaskState(t, st, state)
		s.removeTask(t)
	}
	s.sendUpdate(f, st)
}

// resendLast tells the framework the last status of a task again, as the master's own word: the agent that would do so is gone.
func (s *State) resendLast(t *task) {
	st := s.masterStatus(t.framework, t.page.taskID(), t.page.agentID(), t.page.State(),
		mesosv1.TaskStatus_REASON_AGENT_REMOVED, "The agent was removed before the update was acknowledged")
	s.sendUpdate(t.framework, st)
}

// forgetUnreachable takes a task out of the unreachable ones, if it is there.
func (f *framework) forgetUnreachable(id ids.Task) (*TaskPage, bool) {
	p, ok := f.unreachable.Delete(id)
	if ok {
		if i := slices.Index(f.gone, id); i >= 0 {
			f.gone = slices.Delete(f.gone, i, i+1)
		}
	}
	return p, ok
}

func sortedTasks(m map[ids.Task]*task) []*task {
	return slices.SortedFunc(maps.Values(m), func(a, b *task) int { return strings.Compare(string(a.id), string(b.id)) })
}

func tasksOf(a *agent) []*task {
	out := make([]*task, 0, len(a.tasks))
	for t := range a.tasks {
		out = append(out, t)
	}
	slices.SortFunc(out, func(x, y *task) int {
		if c := strings.Compare(string(x.framework.id), string(y.framework.id)); c != 0 {
			return c
		}
		return strings.Compare(string(x.id), string(y.id))
	})
	return out
}

func sortedAgents(m map[*agent]struct{}) []*agent {
	return slices.SortedFunc(maps.Keys(m), func(a, b *agent) int { return strings.Compare(string(a.id), string(b.id)) })
}

// appendLimited appends and keeps at least the newest limit elements; a quarter more may stand before them, so that the
// copying is rare. lastOf cuts exactly. Slices that were handed to readers are never written to.
func appendLimited[T any](list []T, x T, limit int) []T {
	if limit <= 0 {
		return nil
	}
	if len(list) < limit+limit/4+1 {
		return append(list, x)
	}
	out := make([]T, 0, limit+limit/4+1)
	out = append(out, list[len(list)-limit+1:]...)
	return append(out, x)
}

func lastOf[T any](list []T, limit int) []T { return list[max(0, len(list)-limit):len(list):len(list)] }
