package core

import (
	checkpointv1 "github.com/orchestrator/orchestrator/api/checkpoint/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// boot takes over from an earlier process: executors whose containers live get time to come back; of the others it is
// known now how they ended.
func (c *Core) boot(ev Boot) {
	c.key = ev.Key
	c.started = c.now
	c.info = ev.Info
	c.id = ids.Agent(ev.Info.GetId().GetValue())
	c.configured = ev.Info.GetResources()
	c.destroyed = ev.Destroyed
	c.setTotal(ev.Total)
	c.moveTo(Reconnecting)
	for _, op := range ev.Operations {
		id := string(op.GetUuid().GetValue())
		c.operations[id] = &operation{proto: op}
		c.opOrder = append(c.opOrder, id)
	}
	if ev.Drain != nil {
		c.drain = &drain{config: ev.Drain, started: c.now}
	}
	if c.id != "" {
		c.emit(SaveAgent{Info: c.info})
		c.saveResources()
	}
	if len(c.destroyed) > 0 {
		c.emit(DeleteVolumes{Volumes: c.destroyed})
		c.destroyed = nil
	}
	if volumes := c.total.PersistentVolumes(); !volumes.IsEmpty() {
		c.emit(MakeVolumes{Volumes: volumes.Proto()})
	}
	for _, f := range ev.Frameworks {
		c.bootFramework(f, ev.Rebooted)
	}
	for _, fw := range inOrder(c.frameworks) {
		for _, e := range inOrder(fw.executors) {
			if e.phase == ExecutorTerminated {
				c.settleExecutor(e)
			}
		}
	}
	if ev.Cleanup {
		c.cleanup = true
		c.note(Info, "cleaning up: every executor of the earlier process is shut down")
		for _, e := range c.waiting {
			e.recovered = false
		}
		clear(c.waiting)
		c.shutdownAgent("recovery with --recover=cleanup is done")
		return
	}
	if len(c.waiting) > 0 {
		c.after(c.cfg.ExecutorReregistrationTimeout, c.giveUpWaiting)
	}
	c.finishRecovery()
}

func (c *Core) bootFramework(f BootFramework, rebooted bool) {
	fw := &framework{
		id: ids.Framework(f.Info.GetId().GetValue()), info: f.Info, executors: map[ids.Executor]*executor{}, tasks: map[ids.Task]*task{},
		partitionAware: has(f.Info, mesosv1.FrameworkInfo_Capability_PARTITION_AWARE), dirty: true,
	}
	c.frameworks[fw.id] = fw
	for _, r := range f.Runs {
		c.bootRun(fw, r, rebooted)
	}
	if len(fw.executors) == 0 {
		c.completed.add(c.viewFramework(fw), c.cfg.MaxCompletedFrameworks)
		delete(c.frameworks, fw.id)
	}
}

func (c *Core) bootRun(fw *framework, r BootRun, rebooted bool) {
	info := r.Executor.GetInfo()
	e := &executor{
		fw:   fw,
		run:  Run{Framework: fw.id, Executor: ids.Executor(info.GetExecutorId().GetValue()), Container: r.Container},
		info: info, kind: containerizer.Kind(r.Executor.GetKind()), user: r.Executor.GetUser(), directory: r.Executor.GetDirectory(),
		registered: r.Registered, launched: r.Alive, tasks: map[ids.Task]*task{}, own: resources.FromProtoTrusted(info.GetResources()),
	}
	e.used = e.own
	groups := map[string][]*task{}
	for _, bt := range r.Tasks {
		t := c.bootTask(e, bt)
		if t.phase == TaskCompleted {
			e.completed.add(c.viewTask(t), c.cfg.MaxCompletedTasks)
			continue
		}
		e.tasks[t.id] = t
		if !r.Completed {
			fw.tasks[t.id] = t
		}
		switch t.phase {
		case TaskTerminated:
			continue
		case TaskDelivered:
			e.delivered++
		case TaskQueued:
			if t.group == "" {
				e.queue = append(e.queue, []*task{t})
			} else if groups[t.group] = append(groups[t.group], t); len(groups[t.group]) == t.size {
				e.queue = append(e.queue, groups[t.group])
			}
		}
		e.uses(t)
	}
	if r.Completed {
		e.phase = ExecutorTerminated
		fw.completed.add(c.viewExecutor(e), c.cfg.MaxCompletedExecutors)
		c.emit(Collect{Run: e.run, Executor: true, Framework: true})
		return
	}
	if !r.Alive && !rebooted && !r.Registered && len(e.queue) > 0 {
		c.relaunch(e)
		return
	}
	c.keepExecutor(e)
	if r.Registered {
		c.moveExecutor(e, ExecutorRunning)
	}
	if !r.Alive {
		c.lostRun(e, rebooted)
		return
	}
	e.recovered = r.Registered
	c.emit(Watch{Run: e.run})
	if r.Registered {
		c.waiting[r.Container] = e
	} else {
		c.armRegistration(e)
	}
}

// relaunch starts an executor that an earlier process promised to launch and did not, or only by half. It never
// subscribed, so that no task of it can have begun. The new run has a container of its own; what was kept of the old one
// moves to it.
func (c *Core) relaunch(e *executor) {
	old := e.run
	e.run.Container = ids.Container(c.drawText())
	e.directory = c.cfg.Sandbox(c.id, e.run)
	c.keepExecutor(e)
	c.saveExecutor(e)
	for _, t := range inOrder(e.tasks) {
		c.emit(SaveTask{Agent: c.id, Run: e.run, Task: taskRecord(t)})
		if t.records > 0 {
			c.rewriteUpdates(t)
		}
	}
	c.emit(ForgetRun{Agent: c.id, Run: old, ExecutorInUse: true, FrameworkInUse: true})
	c.emit(Collect{Run: old})
	c.start(e, e.queue[0][0].info)
}

// lostRun settles an executor that did not survive until this process.
func (c *Core) lostRun(e *executor, rebooted bool) {
	if rebooted {
		state := mesosv1.TaskState_TASK_LOST
		if e.fw.partitionAware {
			state = mesosv1.TaskState_TASK_GONE
		}
		e.verdict = &verdict{state: &state, reason: mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED, message: "The agent's host was rebooted"}
	} else {
		e.verdict = &verdict{reason: mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED, message: "Executor ended while the agent was down"}
	}
	c.moveExecutor(e, ExecutorTerminated)
	for _, t := range inOrder(e.tasks) {
		if !t.terminal() {
			c.take(t, c.endStatus(e, t, containerizer.Termination{}))
		}
	}
	e.queue = nil
}

// bootTask plays a task's updates again.
func (c *Core) bootTask(e *executor, bt BootTask) *task {
	t := &task{
		id: ids.Task(bt.GetInfo().GetTaskId().GetValue()), fw: e.fw.id, ex: e, info: bt.GetInfo(), group: bt.GetGroup(), size: int(bt.GetGroupSize()),
		state: mesosv1.TaskState_TASK_STAGING, res: resources.FromProtoTrusted(bt.GetInfo().GetResources()), records: len(bt.Updates),
	}
	if e.registered {
		// It may have reached the executor, which tells when it subscribes again.
		t.phase = TaskDelivered
	}
	for _, u := range bt.Updates {
		c.bootUpdate(t, u)
	}
	return t
}

func (c *Core) bootUpdate(t *task, u *checkpointv1.Update) {
	if s := u.GetStatus(); s != nil {
		t.seen.add(string(s.GetUuid()), seenUUIDs)
		t.setState(s)
		t.pending = append(t.pending, s)
		if t.phase == TaskQueued {
			t.phase = TaskDelivered
		}
		if Terminal(s.GetState()) {
			t.phase = TaskTerminated
		}
		return
	}
	if len(t.pending) > 0 && string(t.pending[0].GetUuid()) == string(u.GetAcknowledged()) {
		done := Terminal(t.pending[0].GetState())
		t.pending = t.pending[1:]
		if done {
			t.phase = TaskCompleted
		}
	}
}

// giveUpWaiting destroys the executors that did not come back in time.
func (c *Core) giveUpWaiting() {
	for _, e := range inOrder(c.waiting) {
		e.recovered = false
		if e.phase == ExecutorRunning || e.phase == ExecutorRegistering {
			c.note(Warn, "executor did not come back after the restart of the agent", "framework_id", e.run.Framework, "executor_id", e.run.Executor)
			e.verdict = &verdict{reason: mesosv1.TaskStatus_REASON_EXECUTOR_REREGISTRATION_TIMEOUT, message: "Executor did not reregister within " + c.cfg.ExecutorReregistrationTimeout.String()}
			c.destroy(e, "it did not come back after the restart of the agent")
		}
	}
	clear(c.waiting)
	c.finishRecovery()
}

// finishRecovery lets the agent look for its master once nobody is waited for.
func (c *Core) finishRecovery() {
	if c.phase != Reconnecting || len(c.waiting) > 0 {
		return
	}
	c.moveTo(Disconnected)
	c.note(Info, "recovery finished", "frameworks", len(c.frameworks), "executors", len(c.runs))
	c.emit(Recovered{})
	if c.drain != nil {
		c.killForDrain()
		c.checkDrained()
	}
}
