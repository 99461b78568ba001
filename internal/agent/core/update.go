package core

import (
	"maps"
	"slices"

	checkpointv1 "github.com/orchestrator/orchestrator/api/checkpoint/v1"
	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
)

const (
	// seenUUIDs is how many uuids of a task are remembered to recognise an update that is sent again.
	seenUUIDs = 64
	// maxPending is how many updates of a task may await acknowledgement. Beyond it, what an executor says between the
	// one in flight and its latest word is left out.
	maxPending = 256
	// rewriteAfter is how many records task.updates may hold before it is rewritten.
	rewriteAfter = 1024
)

// newStatus makes a status of which the agent is the source.
func (c *Core) newStatus(t ids.Task, e ids.Executor, state mesosv1.TaskState, reason mesosv1.TaskStatus_Reason, message string) *mesosv1.TaskStatus {
	s := &mesosv1.TaskStatus{
		TaskId: taskID(t), State: &state, Source: mesosv1.TaskStatus_SOURCE_AGENT.Enum(), Reason: &reason,
		AgentId: c.info.GetId(), Timestamp: c.timestamp(), Uuid: c.drawUUID(),
	}
	if message != "" {
		s.Message = &message
	}
	if e != "" {
		s.ExecutorId = executorID(e)
	}
	return s
}

// ghost sends an update about a task that has no executor here. It is kept until it is acknowledged; after a restart the
// master expects the task again and is answered again.
func (c *Core) ghost(f ids.Framework, id ids.Task, info *mesosv1.TaskInfo, e ids.Executor, state mesosv1.TaskState, reason mesosv1.TaskStatus_Reason, message string) {
	key := ghostKey{f, id}
	t := c.ghosts[key]
	if t == nil {
		t = &task{id: id, fw: f, info: info, phase: TaskTerminated, state: state}
		t.pending = []*mesosv1.TaskStatus{c.newStatus(id, e, state, reason, message)}
		c.ghosts[key] = t
	}
	c.note(Warn, "task does not run here", "framework_id", f, "task_id", id, "state", state, "message", message)
	c.sendFront(t)
}

// take makes the agent responsible for a status: it is kept, then sent. It reports whether the status was news.
func (c *Core) take(t *task, s *mesosv1.TaskStatus) bool {
	uuid := string(s.GetUuid())
	for _, seen := range t.seen.items {
		if seen == uuid {
			return false
		}
	}
	if t.terminal() {
		// A terminal state is final, whatever an executor says afterwards.
		c.counters.InvalidUpdates++
		c.note(Warn, "ignoring an update after the terminal one", "task_id", t.id, "framework_id", t.fw, "state", s.GetState(), "final", t.state)
		return false
	}
	t.seen.add(uuid, seenUUIDs)
	c.counters.ValidUpdates++
	t.setState(s)
	if len(t.pending) >= maxPending {
		t.pending = append(t.pending[:1], s)
	} else {
		t.pending = append(t.pending, s)
	}
	if t.ex.checkpoint() {
		c.persistUpdate(t, &checkpointv1.Update{Status: s})
	}
	t.kill = keepUnless(t.kill, Terminal(s.GetState()))
	if Terminal(s.GetState()) {
		c.terminated(t)
	}
	t.view = nil
	c.touch(t.ex)
	if len(t.pending) == 1 {
		c.sendFront(t)
	}
	return true
}

func keepUnless(k *killing, gone bool) *killing {
	if gone {
		return nil
	}
	return k
}

// setState remembers a status as the latest.
func (t *task) setState(s *mesosv1.TaskStatus) {
	t.state = s.GetState()
	if n := len(t.statuses); n > 0 && t.statuses[n-1].GetState() == s.GetState() {
		// A View may hold the slice: it is not changed in place.
		fresh := make([]*mesosv1.TaskStatus, n)
		copy(fresh, t.statuses[:n-1])
		fresh[n-1] = s
		t.statuses = fresh
		return
	}
	t.statuses = append(t.statuses[:len(t.statuses):len(t.statuses)], s)
}

// terminated frees what a task used.
func (c *Core) terminated(t *task) {
	queued := t.phase == TaskQueued
	c.moveTask(t, TaskTerminated)
	c.count(t.state)
	e := t.ex
	e.frees(t)
	if queued {
		e.unqueue(t)
	} else if e.phase == ExecutorRunning && !e.generated() {
		c.limit(e)
	}
}

// persistUpdate appends to task.updates, or rewrites it when it has grown long.
func (c *Core) persistUpdate(t *task, u *checkpointv1.Update) {
	t.records++
	if t.records <= rewriteAfter {
		c.emit(AppendUpdate{Agent: c.id, Run: t.ex.run, Task: t.id, Update: u, Last: t.phase == TaskCompleted})
		return
	}
	c.rewriteUpdates(t)
}

// rewriteUpdates keeps of task.updates what still matters.
func (c *Core) rewriteUpdates(t *task) {
	var keep []*checkpointv1.Update
	for _, s := range t.statuses {
		// What was acknowledged is only kept for the statuses that are shown.
		if contains(t.pending, s) {
			continue
		}
		keep = append(keep, &checkpointv1.Update{Status: s}, &checkpointv1.Update{Acknowledged: s.GetUuid()})
	}
	for _, s := range t.pending {
		keep = append(keep, &checkpointv1.Update{Status: s})
	}
	t.records = len(keep)
	c.emit(RewriteUpdates{Agent: c.id, Run: t.ex.run, Task: t.id, Updates: keep})
}

func contains(list []*mesosv1.TaskStatus, s *mesosv1.TaskStatus) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// canSend: the master holds this agent as registered.
func (c *Core) canSend() bool {
	return c.phase == Running || c.phase == Terminating && !c.registered.IsZero()
}

// sendFront sends the update in flight, and again later if no acknowledgement comes.
func (c *Core) sendFront(t *task) {
	c.stop(t.timer)
	t.timer = nil
	t.backoff = c.cfg.UpdateRetryMin
	if len(t.pending) == 0 || !c.canSend() || t.ex != nil && t.ex.fw.terminating {
		return
	}
	c.sendUpdate(t)
	c.armRetry(t)
}

func (c *Core) armRetry(t *task) {
	t.timer = c.after(t.backoff, func() {
		t.timer = nil
		if len(t.pending) == 0 || !c.canSend() {
			return
		}
		t.backoff = min(2*t.backoff, c.cfg.UpdateRetryMax)
		c.counters.UpdateRetries++
		c.sendUpdate(t)
		c.armRetry(t)
	})
}

func (c *Core) sendUpdate(t *task) {
	state := t.state
	c.toMaster(&linkv1.Message{Kind: &linkv1.Message_Update{Update: &linkv1.StatusUpdate{
		FrameworkId: frameworkID(t.fw), Status: t.pending[0], LatestState: &state,
	}}})
}

// pauseUpdates stops the retries while there is nobody to hear them.
func (c *Core) pauseUpdates() {
	c.eachPending(func(t *task) {
		c.stop(t.timer)
		t.timer = nil
	})
}

// resumeUpdates sends every update in flight again: a master may have lost it with the connection, or be a new one.
func (c *Core) resumeUpdates() { c.eachPending(c.sendFront) }

func (c *Core) eachPending(f func(*task)) {
	for _, fw := range inOrder(c.frameworks) {
		if fw.terminating {
			continue
		}
		for _, t := range inOrder(fw.tasks) {
			if len(t.pending) > 0 {
				f(t)
			}
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(c.ghosts), compareGhosts) {
		f(c.ghosts[key])
	}
}

// acknowledged takes the framework's word that it has the update in flight.
func (c *Core) acknowledged(f ids.Framework, id ids.Task, uuid []byte) {
	t := c.ghosts[ghostKey{f, id}]
	if fw := c.frameworks[f]; fw != nil && fw.tasks[id] != nil && !(t != nil && string(t.pending[0].GetUuid()) == string(uuid)) {
		t = fw.tasks[id]
	}
	if t == nil || len(t.pending) == 0 || string(t.pending[0].GetUuid()) != string(uuid) {
		// Of an update that was sent twice, the second acknowledgement.
		c.counters.StaleAcknowledgements++
		return
	}
	front := t.pending[0]
	t.pending = t.pending[1:]
	if t.ex == nil {
		c.stop(t.timer)
		delete(c.ghosts, ghostKey{f, id})
		c.checkDrained()
		return
	}
	done := Terminal(front.GetState())
	if done {
		c.moveTask(t, TaskCompleted)
	}
	if t.ex.checkpoint() {
		c.persistUpdate(t, &checkpointv1.Update{Acknowledged: front.GetUuid()})
	}
	t.view = nil
	c.touch(t.ex)
	c.sendFront(t)
	if done {
		c.completeTask(t)
	}
}

// completeTask forgets a task that owes nothing.
func (c *Core) completeTask(t *task) {
	c.stop(t.timer)
	e := t.ex
	e.completed.add(c.viewTask(t), c.cfg.MaxCompletedTasks)
	delete(e.tasks, t.id)
	delete(e.fw.tasks, t.id)
	c.touch(e)
	c.settleExecutor(e)
	c.checkDrained()
}

// count keeps the totals that metrics show.
func (c *Core) count(s mesosv1.TaskState) { c.counters.Terminal[s]++ }
