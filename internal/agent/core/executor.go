package core

import (
	"errors"
	"fmt"
	"time"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// uuidLength is that of TaskStatus.uuid.
const uuidLength = 16

// find looks up the executor that a call speaks for.
func (c *Core) find(call *executorv1.Call) (*executor, Refusal, string) {
	if c.phase == Recovering {
		return nil, NotReady, "Agent has not finished recovery"
	}
	fw := c.frameworks[ids.Framework(call.GetFrameworkId().GetValue())]
	if fw == nil {
		return nil, Unknown, "Framework cannot be found"
	}
	e := fw.executors[ids.Executor(call.GetExecutorId().GetValue())]
	if e == nil {
		return nil, Unknown, "Executor cannot be found"
	}
	return e, Accepted, ""
}

// subscribe answers an executor that connects, for the first time or again (facts 2.1).
func (c *Core) subscribe(ev Subscribe) {
	e, why, text := c.find(ev.Call)
	if why == Accepted {
		text = c.checkSubscribe(e, ev.Call.GetSubscribe())
		if text != "" {
			why = Invalid
		}
	}
	if why != Accepted {
		c.emit(Refuse{Conn: ev.Conn, Why: why, Text: text})
		return
	}
	if e.conn != 0 {
		c.emit(CloseExecutor{Conn: e.conn})
		delete(c.conns, e.conn)
		e.conn = 0
	}
	c.emit(Admit{Conn: ev.Conn, Run: e.run})
	if c.phase == Terminating || e.phase == ExecutorTerminating || e.phase == ExecutorTerminated || e.fw.terminating {
		c.emit(ToExecutor{Conn: ev.Conn, Event: &executorv1.Event{Type: executorv1.Event_SHUTDOWN.Enum()}})
		if e.phase == ExecutorTerminated {
			c.emit(CloseExecutor{Conn: ev.Conn})
			return
		}
	}
	e.conn = ev.Conn
	c.conns[ev.Conn] = e
	first := !e.registered
	if first {
		e.registered = true
		if e.checkpoint() {
			c.emit(SaveRegistered{Agent: c.id, Run: e.run})
		}
	}
	if e.phase == ExecutorRegistering {
		c.moveExecutor(e, ExecutorRunning)
	}
	if e.phase == ExecutorRunning {
		c.stop(e.timer)
		e.timer = nil
	}
	c.emit(ToExecutor{Conn: ev.Conn, Event: &executorv1.Event{
		Type: executorv1.Event_SUBSCRIBED.Enum(),
		Subscribed: &executorv1.Event_Subscribed{
			ExecutorInfo: e.info, FrameworkInfo: e.fw.info, AgentInfo: c.info, ContainerId: containerID(e.run.Container),
		},
	}})
	sub := ev.Call.GetSubscribe()
	for _, u := range sub.GetUnacknowledgedUpdates() {
		c.executorUpdate(e, u.GetStatus())
	}
	if e.phase != ExecutorRunning {
		c.cameBack(e)
		return
	}
	c.reconcileTasks(e, sub.GetUnacknowledgedTasks())
	if first && e.delivered == 0 && len(e.queue) == 0 && e.alive() == 0 {
		// Everything that it was started for was killed meanwhile.
		c.shutdownExecutor(e, &verdict{reason: mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED, message: "Executor has no task left"})
		c.cameBack(e)
		return
	}
	if len(e.queue) > 0 {
		c.limit(e)
		c.deliver(e)
	}
	for _, t := range inOrder(e.tasks) {
		if t.kill != nil && t.phase == TaskDelivered {
			c.sendKill(e, t)
		}
	}
	c.cameBack(e)
	c.touch(e)
}

func (c *Core) checkSubscribe(e *executor, sub *executorv1.Call_Subscribe) string {
	if sub == nil {
		return "Expecting 'subscribe' to be present"
	}
	for _, u := range sub.GetUnacknowledgedUpdates() {
		if text := c.checkStatus(e, u.GetStatus()); text != "" {
			return text
		}
	}
	return ""
}

// alive counts the tasks that have not ended.
func (e *executor) alive() int {
	n := 0
	for _, t := range e.tasks {
		if !t.terminal() {
			n++
		}
	}
	return n
}

// reconcileTasks compares what was sent to the executor with what it says it has. A task that never reached it: our own
// helpers get it again, since they would list it if they had it; for other executors it is dropped, as Mesos does.
func (c *Core) reconcileTasks(e *executor, listed []*mesosv1.TaskInfo) {
	has := map[ids.Task]bool{}
	for _, t := range listed {
		has[ids.Task(t.GetTaskId().GetValue())] = true
	}
	again := map[string][]*task{}
	var order []string
	for id, t := range inOrder(e.tasks) {
		if t.phase != TaskDelivered || t.state != mesosv1.TaskState_TASK_STAGING || has[id] {
			continue
		}
		if e.kind == containerizer.CustomExecutor {
			c.take(t, c.newStatus(id, e.run.Executor, dropped(e.fw.partitionAware), mesosv1.TaskStatus_REASON_AGENT_RESTARTED,
				"Task launched during agent restart"))
			continue
		}
		key := t.group
		if key == "" {
			key = string(id)
		}
		if again[key] == nil {
			order = append(order, key)
		}
		again[key] = append(again[key], t)
	}
	for _, key := range order {
		batch := again[key]
		for _, t := range batch {
			t.phase = TaskQueued // back to the queue: the one move that the table does not have, because it undoes a loss
		}
		e.queue = append(e.queue, batch)
	}
}

// cameBack ends the wait for an executor after a restart of the agent.
func (c *Core) cameBack(e *executor) {
	if !e.recovered {
		return
	}
	e.recovered = false
	delete(c.waiting, e.run.Container)
	c.finishRecovery()
}

func (c *Core) executorGone(conn uint64) {
	e := c.conns[conn]
	if e == nil {
		return
	}
	delete(c.conns, conn)
	e.conn = 0
	c.touch(e)
}

// executorCall takes UPDATE, MESSAGE and HEARTBEAT.
func (c *Core) executorCall(ev ExecutorCall) {
	e, why, text := c.find(ev.Call)
	if why == Accepted && e.conn == 0 {
		why, text = NotSubscribed, "Executor is not subscribed"
	}
	if why == Accepted {
		switch ev.Call.GetType() {
		case executorv1.Call_UPDATE:
			if text = c.checkStatus(e, ev.Call.GetUpdate().GetStatus()); text != "" {
				why = Invalid
			}
		case executorv1.Call_MESSAGE:
			if ev.Call.GetMessage() == nil {
				why, text = Invalid, "Expecting 'message' to be present"
			}
		case executorv1.Call_HEARTBEAT:
		default:
			why, text = Invalid, "Unexpected call type"
		}
	}
	if why != Accepted {
		c.counters.InvalidCalls++
		c.emit(Reply{Request: ev.Request, Why: why, Text: text})
		return
	}
	switch ev.Call.GetType() {
	case executorv1.Call_UPDATE:
		c.executorUpdate(e, ev.Call.GetUpdate().GetStatus())
	case executorv1.Call_MESSAGE:
		c.counters.ExecutorMessages++
		f, x := e.ids()
		c.toMaster(&linkv1.Message{Kind: &linkv1.Message_ExecutorMessage{ExecutorMessage: &linkv1.ExecutorMessage{
			FrameworkId: f, ExecutorId: x, Data: ev.Call.GetMessage().GetData(),
		}}})
	}
	c.emit(Reply{Request: ev.Request})
}

// checkStatus says what is wrong with a status that an executor sends (Mesos: slave/validation.cpp, executor::call).
func (c *Core) checkStatus(e *executor, s *mesosv1.TaskStatus) string {
	switch {
	case s == nil:
		return "Expecting 'update' to be present"
	case s.GetUuid() == nil:
		return "Expecting 'uuid' to be present"
	case len(s.GetUuid()) != uuidLength:
		return invalid("Not a valid UUID: it has %d bytes", len(s.GetUuid()))
	case s.GetExecutorId() != nil && s.GetExecutorId().GetValue() != string(e.run.Executor):
		return "ExecutorID in Call: " + string(e.run.Executor) + " does not match ExecutorID in TaskStatus: " + s.GetExecutorId().GetValue()
	case s.GetSource() != mesosv1.TaskStatus_SOURCE_EXECUTOR || s.Source == nil:
		return "Received Call from executor " + string(e.run.Executor) + " with invalid source, expecting 'SOURCE_EXECUTOR'"
	case s.GetTaskId().GetValue() == "":
		return "Expecting 'task_id' to be present"
	case s.State == nil:
		return "Expecting 'state' to be present"
	}
	return ""
}

// executorUpdate takes a status from an executor. It is acknowledged once it is on disk, and also when there is nothing to
// keep (a repetition, or a task that is not the executor's): otherwise the executor would hold it for ever.
func (c *Core) executorUpdate(e *executor, s *mesosv1.TaskStatus) {
	t := e.tasks[ids.Task(s.GetTaskId().GetValue())]
	switch {
	case s.GetState() == mesosv1.TaskState_TASK_STAGING:
		c.counters.InvalidUpdates++
		c.note(Warn, "executor sent TASK_STAGING, which is not its to send; shutting it down", "executor_id", e.run.Executor, "task_id", s.GetTaskId().GetValue())
		c.shutdownExecutor(e, &verdict{reason: mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED, message: "Executor sent TASK_STAGING"})
	case t == nil || t.phase == TaskQueued:
		c.counters.InvalidUpdates++
		c.note(Warn, "ignoring an update of an executor about a task that it does not have", "framework_id", e.run.Framework,
			"executor_id", e.run.Executor, "task_id", s.GetTaskId().GetValue(), "state", s.GetState())
	default:
		c.take(t, c.fill(e, t, s))
	}
	if e.conn != 0 {
		c.emit(ToExecutor{Conn: e.conn, Event: &executorv1.Event{
			Type:         executorv1.Event_ACKNOWLEDGED.Enum(),
			Acknowledged: &executorv1.Event_Acknowledged{TaskId: s.GetTaskId(), Uuid: s.GetUuid()},
		}})
	}
}

// fill adds what the agent knows to an executor's status.
func (c *Core) fill(e *executor, t *task, s *mesosv1.TaskStatus) *mesosv1.TaskStatus {
	s = s.CloneVT()
	s.AgentId = c.info.GetId()
	s.ExecutorId = executorID(e.run.Executor)
	if s.Timestamp == nil {
		s.Timestamp = c.timestamp()
	}
	status := s.ContainerStatus
	if status == nil {
		status = &mesosv1.ContainerStatus{}
		s.ContainerStatus = status
	}
	if status.ContainerId == nil {
		status.ContainerId = containerID(e.run.Container)
	}
	if e.status != nil {
		if len(status.NetworkInfos) == 0 {
			status.NetworkInfos = e.status.GetNetworkInfos()
		}
		if status.ExecutorPid == nil {
			status.ExecutorPid = e.status.ExecutorPid
		}
		if status.CgroupInfo == nil {
			status.CgroupInfo = e.status.GetCgroupInfo()
		}
	}
	if c.drain != nil && (s.GetState() == mesosv1.TaskState_TASK_KILLED || s.GetState() == mesosv1.TaskState_TASK_KILLING) {
		s.Reason = mesosv1.TaskStatus_REASON_AGENT_DRAINING.Enum()
		if s.GetState() == mesosv1.TaskState_TASK_KILLED && c.drain.config.GetMarkGone() && e.fw.partitionAware {
			s.State = mesosv1.TaskState_TASK_GONE_BY_OPERATOR.Enum()
		}
	}
	return s
}

// frameworkMessage passes a scheduler's MESSAGE on; it is lost when the executor is not there (best effort, facts 1.3).
func (c *Core) frameworkMessage(m *linkv1.FrameworkMessage) {
	fw := c.frameworks[ids.Framework(m.GetFrameworkId().GetValue())]
	if fw == nil {
		return
	}
	e := fw.executors[ids.Executor(m.GetExecutorId().GetValue())]
	if e == nil || e.conn == 0 || e.phase != ExecutorRunning {
		c.counters.DroppedMessages++
		return
	}
	c.emit(ToExecutor{Conn: e.conn, Event: &executorv1.Event{Type: executorv1.Event_MESSAGE.Enum(), Message: &executorv1.Event_Message{Data: m.GetData()}}})
}

// launchedContainer: the container runs; the executor will subscribe.
func (c *Core) launchedContainer(ev Launched) {
	e := c.runs[ev.Run.Container]
	if e == nil || e.phase == ExecutorTerminated {
		if ev.Err == nil {
			c.emit(Destroy{Run: ev.Run, Reason: "its executor is not known any more"})
		}
		return
	}
	if ev.Err != nil {
		c.counters.LaunchErrors++
		reason, text := mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED, "Failed to launch container: "+ev.Err.Error()
		var le *containerizer.LaunchError
		if errors.As(ev.Err, &le) && le.Reason != 0 {
			reason = le.Reason
		}
		if e.verdict != nil { // it was being destroyed: that is why it failed
			reason, text = e.verdict.reason, e.verdict.message
		}
		e.verdict = &verdict{reason: reason, message: text}
		c.note(Warn, "container did not start", "framework_id", e.run.Framework, "executor_id", e.run.Executor, "err", ev.Err)
		c.ended(e, -1, containerizer.Termination{})
		return
	}
	e.launched = true
	e.status = ev.Status
	c.touch(e)
	if e.phase == ExecutorTerminating {
		// The destruction that was asked for during the launch may have come too early to find anything.
		if e.conn == 0 {
			c.emit(Destroy{Run: e.run, Reason: "it was shut down during its launch"})
		}
		return
	}
	if e.phase == ExecutorRunning {
		c.limit(e)
	}
}

// endedContainer: the container is gone.
func (c *Core) endedContainer(ev Ended) {
	e := c.runs[ev.Run.Container]
	if e == nil || e.phase == ExecutorTerminated {
		return
	}
	status := int32(-1)
	if ev.Termination.WaitStatus != nil {
		status = *ev.Termination.WaitStatus
	}
	if ev.Err != nil && ev.Termination.Message == "" {
		ev.Termination.Message = "Abnormal executor termination: " + ev.Err.Error()
	}
	c.ended(e, status, ev.Termination)
}

// ended settles what an executor leaves behind: its living tasks have failed.
func (c *Core) ended(e *executor, status int32, end containerizer.Termination) {
	c.stop(e.timer)
	e.timer = nil
	c.moveExecutor(e, ExecutorTerminated)
	if e.conn != 0 {
		c.emit(CloseExecutor{Conn: e.conn})
		delete(c.conns, e.conn)
		e.conn = 0
	}
	c.note(Info, "executor ended", "framework_id", e.run.Framework, "executor_id", e.run.Executor, "status", status, "message", end.Message)
	if !e.fw.terminating {
		for _, t := range inOrder(e.tasks) {
			if !t.terminal() {
				c.take(t, c.endStatus(e, t, end))
			}
		}
		if !e.generated() && c.canSend() {
			f, x := e.ids()
			c.toMaster(&linkv1.Message{Kind: &linkv1.Message_ExecutorExited{ExecutorExited: &linkv1.ExecutorExited{FrameworkId: f, ExecutorId: x, Status: &status}}})
		}
	}
	e.queue = nil
	c.cameBack(e)
	c.settleExecutor(e)
	c.maybeExit()
}

// endStatus is what the end of its executor means for a task: what the containerizer says, else what the agent intended,
// else a failure (Mesos: sendExecutorTerminatedStatusUpdate).
func (c *Core) endStatus(e *executor, t *task, end containerizer.Termination) *mesosv1.TaskStatus {
	state, reason, message := mesosv1.TaskState_TASK_FAILED, mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED, "Executor terminated"
	if e.verdict != nil {
		reason, message = e.verdict.reason, e.verdict.message
		if e.verdict.state != nil {
			state = *e.verdict.state
		}
	}
	if t.kill != nil && c.drain != nil {
		reason = mesosv1.TaskStatus_REASON_AGENT_DRAINING
		state = mesosv1.TaskState_TASK_KILLED
		if c.drain.config.GetMarkGone() && e.fw.partitionAware {
			state = mesosv1.TaskState_TASK_GONE_BY_OPERATOR
		}
	}
	if end.State != nil {
		state = *end.State
	}
	if end.Reason != nil {
		reason = *end.Reason
	}
	if end.Message != "" && (e.verdict == nil || end.Reason != nil) {
		message = end.Message
	}
	s := c.newStatus(t.id, e.run.Executor, state, reason, message)
	s.Limitation = end.Limitation
	if e.launched {
		s.ContainerStatus = &mesosv1.ContainerStatus{ContainerId: containerID(e.run.Container)}
		if e.status != nil {
			s.ContainerStatus.NetworkInfos = e.status.GetNetworkInfos()
		}
	}
	return s
}

// settleExecutor forgets an ended executor that owes nothing, and its framework with the last of them.
func (c *Core) settleExecutor(e *executor) {
	fw := e.fw
	if e.phase != ExecutorTerminated || len(e.tasks) > 0 && !fw.terminating {
		return
	}
	for id, t := range inOrder(e.tasks) { // of a framework that nobody will acknowledge for
		c.stop(t.timer)
		e.completed.add(c.viewTask(t), c.cfg.MaxCompletedTasks)
		delete(fw.tasks, id)
	}
	clear(e.tasks)
	delete(c.runs, e.run.Container)
	if fw.executors[e.run.Executor] == e {
		delete(fw.executors, e.run.Executor)
	}
	c.phases[e.phase]--
	if e.checkpoint() {
		c.emit(SaveCompleted{Agent: c.id, Run: e.run})
	}
	fw.completed.add(c.viewExecutor(e), c.cfg.MaxCompletedExecutors)
	fw.dirty = true
	done := len(fw.executors) == 0
	c.emit(Collect{Run: e.run, Executor: fw.executors[e.run.Executor] == nil, Framework: done})
	if done {
		c.completed.add(c.viewFramework(fw), c.cfg.MaxCompletedFrameworks)
		delete(c.frameworks, fw.id)
	}
	c.checkDrained()
}

// limitFailed: a container with wrong limits may not go on (REASON_CONTAINER_UPDATE_FAILED).
func (c *Core) limitFailed(ev UpdateFailed) {
	e := c.runs[ev.Run.Container]
	if e == nil || e.phase == ExecutorTerminated || e.phase == ExecutorTerminating {
		return
	}
	e.verdict = &verdict{reason: mesosv1.TaskStatus_REASON_CONTAINER_UPDATE_FAILED, message: "Failed to update resources of container: " + ev.Err.Error()}
	c.destroy(e, "its limits could not be changed: "+ev.Err.Error())
}

// destroy kills an executor without asking it.
func (c *Core) destroy(e *executor, why string) {
	if e.phase == ExecutorTerminated {
		return
	}
	c.stop(e.timer)
	e.timer = nil
	c.moveExecutor(e, ExecutorTerminating)
	c.emit(Destroy{Run: e.run, Reason: why})
}

func (c *Core) shutdownExecutorAsked(f ids.Framework, id ids.Executor) {
	fw := c.frameworks[f]
	if fw == nil || fw.executors[id] == nil {
		c.note(Warn, "ignoring the shutdown of an unknown executor", "framework_id", f, "executor_id", id)
		return
	}
	c.shutdownExecutor(fw.executors[id], nil)
}

// shutdownExecutor asks an executor to end its tasks and itself, and kills it when its grace is over.
func (c *Core) shutdownExecutor(e *executor, v *verdict) {
	if e.phase == ExecutorTerminating || e.phase == ExecutorTerminated {
		return
	}
	if v != nil {
		e.verdict = v
	}
	if e.phase == ExecutorRegistering {
		c.destroy(e, "it was shut down before it registered")
		return
	}
	c.moveExecutor(e, ExecutorTerminating)
	if e.conn != 0 {
		c.emit(ToExecutor{Conn: e.conn, Event: &executorv1.Event{Type: executorv1.Event_SHUTDOWN.Enum()}})
	}
	grace := c.cfg.ExecutorShutdownGrace
	if d := e.info.GetShutdownGracePeriod(); d != nil {
		grace = max(time.Duration(d.GetNanoseconds()), 0)
	}
	c.stop(e.timer)
	e.timer = c.after(grace, func() {
		if e.phase == ExecutorTerminating {
			c.emit(Destroy{Run: e.run, Reason: fmt.Sprintf("it did not shut down within %v", grace)})
		}
	})
}

// shutdownFramework ends everything of a framework that the master has removed. Nobody will acknowledge its updates, so
// they are dropped.
func (c *Core) shutdownFramework(id ids.Framework) {
	for key, t := range c.ghosts {
		if key.framework == id {
			c.stop(t.timer)
			delete(c.ghosts, key)
		}
	}
	fw := c.frameworks[id]
	if fw == nil || fw.terminating {
		return
	}
	c.note(Info, "shutting down a framework", "framework_id", id)
	fw.terminating = true
	for _, t := range fw.tasks {
		c.stop(t.timer)
		t.timer = nil
	}
	for _, e := range inOrder(fw.executors) {
		if e.phase == ExecutorTerminated {
			c.settleExecutor(e)
			continue
		}
		c.shutdownExecutor(e, nil)
	}
}

// collected lets the checkpoint of an ended run go with its sandbox, unless that id came to life again.
func (c *Core) collected(ev Collected) {
	if c.runs[ev.Run.Container] != nil {
		return
	}
	f := ForgetRun{Agent: ev.Agent, Run: ev.Run}
	if fw := c.frameworks[ev.Run.Framework]; fw != nil && ev.Agent == c.id {
		f.FrameworkInUse = true
		f.ExecutorInUse = fw.executors[ev.Run.Executor] != nil
	}
	c.emit(f)
}
