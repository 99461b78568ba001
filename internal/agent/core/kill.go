package core

import (
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// defaultKillGrace is what a task without a kill policy has between SIGTERM and SIGKILL (facts 2.3).
const defaultKillGrace = 3 * time.Second

// drain is the wish of an operator that this agent be empty.
type drain struct {
	config  *mesosv1.DrainConfig
	started time.Time
}

// killTask carries out a scheduler's KILL.
func (c *Core) killTask(f ids.Framework, id ids.Task, policy *mesosv1.KillPolicy) {
	fw := c.frameworks[f]
	if fw == nil {
		c.note(Warn, "ignoring the kill of a task of an unknown framework", "framework_id", f, "task_id", id)
		return
	}
	if fw.terminating {
		return // its executors are being shut down, and nobody waits for an update
	}
	t := fw.tasks[id]
	if t == nil {
		if c.ghosts[ghostKey{f, id}] == nil {
			c.ghost(f, id, nil, "", dropped(fw.partitionAware), mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED, "Cannot find executor")
		}
		return
	}
	c.kill(t, policy, mesosv1.TaskState_TASK_KILLED, mesosv1.TaskStatus_REASON_TASK_KILLED_DURING_LAUNCH, "Killed before delivery to the executor")
}

// kill ends one task. state, reason and message are for one that its executor never had: it ends at once.
func (c *Core) kill(t *task, policy *mesosv1.KillPolicy, state mesosv1.TaskState, reason mesosv1.TaskStatus_Reason, message string) {
	e := t.ex
	switch {
	case t.terminal():
		return
	case e.phase == ExecutorTerminating || e.phase == ExecutorTerminated:
		return // the end of the executor tells
	case t.phase == TaskQueued:
		c.killQueued(t, state, reason, message)
	default:
		t.kill = &killing{policy: policy}
		if e.conn != 0 {
			c.sendKill(e, t)
		}
		// Otherwise it is sent when the executor subscribes again.
	}
}

func (c *Core) sendKill(e *executor, t *task) {
	c.emit(ToExecutor{Conn: e.conn, Event: &executorv1.Event{
		Type: executorv1.Event_KILL.Enum(), Kill: &executorv1.Event_Kill{TaskId: taskID(t.id), KillPolicy: t.kill.policy},
	}})
}

// killQueued ends a task that its executor never had, and with it the others of its group: a group is all or nothing.
func (c *Core) killQueued(t *task, state mesosv1.TaskState, reason mesosv1.TaskStatus_Reason, message string) {
	e := t.ex
	victims := []*task{t}
	if t.group != "" {
		for _, x := range inOrder(e.tasks) {
			if x != t && x.group == t.group && x.phase == TaskQueued {
				victims = append(victims, x)
			}
		}
	}
	for _, v := range victims {
		c.take(v, c.newStatus(v.id, e.run.Executor, state, reason, message))
	}
	if e.delivered == 0 && e.alive() == 0 {
		// It never had a task and will not get the ones it was started for.
		c.shutdownExecutor(e, nil)
	}
}

// startDrain kills every task and takes no new ones until undrain, or until nothing is left (facts 6).
func (c *Core) startDrain(config *mesosv1.DrainConfig) {
	if config == nil {
		config = &mesosv1.DrainConfig{}
	}
	if c.drain != nil && c.drain.config.GetMarkGone() == config.GetMarkGone() &&
		c.drain.config.GetMaxGracePeriod().GetNanoseconds() == config.GetMaxGracePeriod().GetNanoseconds() {
		return
	}
	c.note(Info, "draining", "mark_gone", config.GetMarkGone())
	c.drain = &drain{config: config, started: c.now}
	c.emit(SaveDrain{Agent: c.id, Config: config})
	c.killForDrain()
	c.checkDrained()
}

func (c *Core) killForDrain() {
	for _, fw := range inOrder(c.frameworks) {
		if fw.terminating {
			continue
		}
		state := mesosv1.TaskState_TASK_KILLED
		if c.drain.config.GetMarkGone() && fw.partitionAware {
			state = mesosv1.TaskState_TASK_GONE_BY_OPERATOR
		}
		for _, t := range inOrder(fw.tasks) {
			c.kill(t, c.drain.policy(t.info), state, mesosv1.TaskStatus_REASON_AGENT_DRAINING, "Agent is draining")
		}
	}
}

// policy is the kill policy of a task in a drain: its own grace, but no longer than the operator allows.
func (d *drain) policy(info *mesosv1.TaskInfo) *mesosv1.KillPolicy {
	limit := d.config.GetMaxGracePeriod()
	if limit == nil {
		return nil
	}
	grace := int64(defaultKillGrace)
	if own := info.GetKillPolicy().GetGracePeriod(); own != nil {
		grace = own.GetNanoseconds()
	}
	grace = min(grace, max(limit.GetNanoseconds(), 0))
	return &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: &grace}}
}

func (c *Core) undrain() {
	if c.drain == nil {
		return
	}
	c.note(Info, "drain ended by the operator")
	c.endDrain()
}

// checkDrained ends a drain when no task is left and no update is owed. The master knows the same and keeps the agent
// deactivated; it will say Drain again if it wants to.
func (c *Core) checkDrained() {
	if c.drain == nil || c.phase == Recovering || c.phase == Reconnecting || len(c.ghosts) > 0 || len(c.operations) > 0 {
		return
	}
	for _, fw := range c.frameworks {
		if len(fw.tasks) > 0 {
			return
		}
	}
	c.note(Info, "drained")
	c.endDrain()
}

func (c *Core) endDrain() {
	c.drain = nil
	c.emit(SaveDrain{Agent: c.id})
}
