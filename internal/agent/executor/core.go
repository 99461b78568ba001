package executor

import (
	"fmt"
	"syscall"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/execlink/message"
)

// phase is where one task is. Allowed moves:
//
//	launching -> running      the process runs (of a group: all processes run)
//	launching -> killing      the process runs and a kill came meanwhile
//	launching -> terminated   it could not be started, or ended before its group was running
//	running   -> killing      KILL, shutdown, failed health, completion time, another task of the group failed
//	running   -> terminated   the process ended
//	killing   -> terminated   the process ended
type phase int

const (
	launching phase = iota
	running
	killing
	terminated
)

// cause is why a task is being killed; it decides what its end is called.
type cause int

const (
	byItself   cause = iota
	byRequest        // KILL or shutdown: TASK_KILLED
	byHealth         // consecutive failures: TASK_KILLED, healthy=false
	byDeadline       // max_completion_time: TASK_FAILED
	byGroup          // another task of its group ended badly: TASK_KILLED
)

// Limits of the core.
const (
	defaultKillGrace = 3 * time.Second  // where nobody says otherwise
	ackWait          = 60 * time.Second // for the acknowledgement of the last updates while connected
	oomWait          = 5 * time.Second  // for the agent to end a container that ran out of memory
	shutdownMargin   = time.Second      // how long before the agent's own patience ends the tasks are killed
)

// What the core wants done.
type (
	effect any

	effSend  struct{ update message.Update }
	effStart struct{ task message.Task }
	// effSignal signals one task: the whole tree of a command task, the first process of a nested one.
	effSignal struct {
		taskID string
		signal syscall.Signal
	}
	effTimer struct {
		timer timer
		after time.Duration
	}
	effChecks     struct{ task message.Task }
	effStopChecks struct{ taskID string }
	effExit       struct{}
)

// timer names one timer; setting it again replaces it.
type timer struct {
	kind   timerKind
	taskID string
}

type timerKind int

const (
	timerGrace    timerKind = iota // SIGKILL follows
	timerDeadline                  // max_completion_time
	timerAck                       // the last updates were not acknowledged
	timerRecovery                  // no agent for too long
	timerOOM                       // the agent has not ended the container yet
)

// end is how a task's process ended.
type end struct {
	status *syscall.WaitStatus // nil: unknown
	oom    bool                // the kernel killed for want of memory
	// Set by the agent for a nested container that it ended by itself.
	state, reason, message string
	limitation             []byte
	// said is how the end is described, where a wait status does not tell.
	said string
}

// about is what TASK_RUNNING says of a container beside its state.
type about struct {
	data   []byte
	labels map[string]string
}

type task struct {
	message.Task
	group      int
	phase      phase
	started    bool
	about      about // until TASK_RUNNING has said it
	cause      cause
	killAsked  bool // while launching
	killAt     time.Time
	graceEnd   time.Time
	killGrace  *time.Duration
	forced     bool // SIGKILL has been sent
	healthy    *bool
	check      *message.CheckStatus
	pending    *end // it ended well before its group was running
	ackStarted bool // the agent has acknowledged an update: it knows the task for certain
}

// core decides for both built-in executors.
type core struct {
	newUUID     func() []byte
	taskKilling bool
	checkpoint  bool
	recovery    time.Duration
	grace       time.Duration // the agent's executor_shutdown_grace_period
	killGrace   time.Duration // where neither the kill nor the task says
	single      bool          // command executor: one task, then the end

	connected bool
	stopping  bool
	exited    bool
	givenUp   bool // on the agent: nobody will acknowledge
	groups    int
	order     []string
	tasks     map[string]*task
	unacked   []message.Update
	out       []effect
}

func newCore(single bool, newUUID func() []byte) *core {
	return &core{single: single, newUUID: newUUID, killGrace: defaultKillGrace, tasks: make(map[string]*task)}
}

func (c *core) emit(e effect) { c.out = append(c.out, e) }

// take returns the effects since the last call.
func (c *core) take() []effect {
	out := c.out
	c.out = nil
	return out
}

func (c *core) update(now time.Time, t *task, state, reason, msg string, limitation []byte) {
	u := message.Update{
		TaskID: t.ID, State: state, Reason: reason, Message: msg, UUID: c.newUUID(),
		Timestamp: float64(now.UnixNano()) / 1e9, Healthy: t.healthy, Check: t.check, Limitation: limitation,
	}
	if state == "TASK_RUNNING" {
		u.Data, u.Labels, t.about = t.about.data, t.about.labels, about{}
	}
	c.unacked = append(c.unacked, u)
	c.emit(effSend{u})
}

// subscribe gives what the agent must be told when the link is (re)made.
func (c *core) subscribe() (tasks [][]byte, updates []message.Update) {
	for _, id := range c.order {
		if t := c.tasks[id]; !t.ackStarted && t.phase != terminated {
			tasks = append(tasks, t.Raw)
		}
	}
	return tasks, append([]message.Update(nil), c.unacked...)
}

// begin sets the clock for an agent that never answers.
func (c *core) begin() { c.emit(effTimer{timer{kind: timerRecovery}, c.recovery}) }

func (c *core) subscribed(s message.Subscribed) {
	c.connected = true
	c.taskKilling = c.taskKilling || s.TaskKilling
	c.emit(effTimer{timer{kind: timerRecovery}, -1})
	c.settle()
}

func (c *core) disconnected(now time.Time) {
	if !c.connected {
		return
	}
	c.connected = false
	c.emit(effTimer{timer{kind: timerAck}, -1})
	if !c.checkpoint {
		// The framework did not ask for its tasks to outlive the agent.
		c.givenUp = true
		c.shutdown(now)
		c.settle()
		return
	}
	c.emit(effTimer{timer{kind: timerRecovery}, c.recovery})
}

func (c *core) launch(now time.Time, l message.Launch) {
	if c.stopping || c.exited || c.single && len(c.tasks) > 0 {
		return
	}
	c.groups++
	for _, m := range l.Tasks {
		if c.tasks[m.ID] != nil {
			continue // said twice after a reconnection
		}
		t := &task{Task: m, group: c.groups}
		c.tasks[m.ID] = t
		c.order = append(c.order, m.ID)
		c.update(now, t, "TASK_STARTING", "", "", nil)
	}
	for _, m := range l.Tasks {
		if t := c.tasks[m.ID]; t.group == c.groups {
			c.emit(effStart{t.Task})
		}
	}
}

// members gives the tasks of a group in the order of their launch.
func (c *core) members(group int) []*task {
	var ts []*task
	for _, id := range c.order {
		if t := c.tasks[id]; t.group == group {
			ts = append(ts, t)
		}
	}
	return ts
}

// tells what TASK_RUNNING will say of a task's container.
func (c *core) tells(id string, a about) {
	if t := c.tasks[id]; t != nil && t.phase == launching {
		t.about = a
	}
}

func (c *core) started(now time.Time, id string) {
	t := c.tasks[id]
	if t == nil || t.phase != launching {
		return
	}
	t.started = true
	if t.killAsked {
		c.beginKill(now, t, t.cause, t.killGrace)
	}
	ms := c.members(t.group)
	for _, m := range ms {
		if m.phase == launching && !m.started {
			return
		}
	}
	for _, m := range ms {
		if m.phase != launching {
			continue
		}
		m.phase = running
		if m.Check != nil {
			m.check = &message.CheckStatus{Type: m.Check.Type}
		}
		c.update(now, m, "TASK_RUNNING", "", "", nil)
		if m.MaxCompletion != nil {
			c.emit(effTimer{timer{timerDeadline, m.ID}, *m.MaxCompletion})
		}
		if m.Check != nil || m.Health != nil {
			c.emit(effChecks{m.Task})
		}
	}
	for _, m := range ms {
		if m.phase == running && m.pending != nil {
			e := *m.pending
			m.pending = nil
			c.conclude(now, m, e)
		}
	}
}

func (c *core) startFailed(now time.Time, id, msg string) {
	t := c.tasks[id]
	if t == nil || t.phase != launching {
		return
	}
	if t.killAsked {
		c.terminate(now, t, "TASK_KILLED", "", "Task was killed before it was started", nil)
		return
	}
	reason := "REASON_CONTAINER_LAUNCH_FAILED"
	if c.single {
		reason = "REASON_COMMAND_EXECUTOR_FAILED"
	}
	c.terminate(now, t, "TASK_FAILED", reason, msg, nil)
}

// describe says how a process ended in Mesos' words.
func describe(ws syscall.WaitStatus) string {
	if ws.Signaled() {
		s := "Command terminated with signal " + signalName(ws.Signal())
		if ws.CoreDump() {
			s += " (core dumped)"
		}
		return s
	}
	return fmt.Sprintf("Command exited with status %d", ws.ExitStatus())
}

func (c *core) ended(now time.Time, id string, e end) {
	t := c.tasks[id]
	if t == nil || t.phase == terminated || t.pending != nil {
		return
	}
	if t.phase == launching && !t.killAsked && e.good() {
		// Its group is about to run: TASK_RUNNING comes first.
		t.pending = &e
		return
	}
	c.conclude(now, t, e)
}

// good: the process ended by itself and with success.
func (e end) good() bool {
	return e.state == "" && !e.oom && e.status != nil && e.status.Exited() && e.status.ExitStatus() == 0
}

func (c *core) conclude(now time.Time, t *task, e end) {
	if e.state != "" {
		c.terminate(now, t, e.state, e.reason, e.message, e.limitation)
		return
	}
	if e.oom && c.single && c.connected && t.cause == byItself {
		// The agent has seen the same and ends the container, with the measurements that belong to the story.
		c.emit(effTimer{timer{timerOOM, t.ID}, oomWait})
		c.stopWatching(t)
		return
	}
	msg := "Command terminated: its exit status is unknown"
	switch {
	case e.said != "":
		msg = e.said
	case e.status != nil:
		msg = describe(*e.status)
	}
	state, reason := "TASK_FAILED", ""
	switch {
	case e.oom && t.cause == byItself:
		reason, msg = "REASON_CONTAINER_LIMITATION_MEMORY", "Memory limit exceeded: "+msg
	case t.cause == byDeadline:
		reason = "REASON_MAX_COMPLETION_TIME_REACHED"
	case t.cause == byHealth:
		state, t.healthy = "TASK_KILLED", new(bool)
	case t.cause == byRequest, t.cause == byGroup:
		state = "TASK_KILLED"
	case t.killAsked: // it ended by itself while the kill waited for its start
		state = "TASK_KILLED"
	case e.good():
		state = "TASK_FINISHED"
	}
	c.terminate(now, t, state, reason, msg, nil)
}

func (c *core) stopWatching(t *task) {
	if t.Check != nil || t.Health != nil {
		c.emit(effStopChecks{t.ID})
	}
	c.emit(effTimer{timer{timerDeadline, t.ID}, -1})
	c.emit(effTimer{timer{timerGrace, t.ID}, -1})
}

// terminate says a task's end, which is final, and lets its group follow.
func (c *core) terminate(now time.Time, t *task, state, reason, msg string, limitation []byte) {
	t.phase = terminated
	c.stopWatching(t)
	c.update(now, t, state, reason, msg, limitation)
	if state != "TASK_FINISHED" {
		for _, m := range c.members(t.group) {
			if m.phase != terminated {
				c.kill(now, m, byGroup, nil)
			}
		}
	}
	c.settle()
}

func (c *core) killTask(now time.Time, k message.Kill) {
	if t := c.tasks[k.TaskID]; t != nil {
		c.kill(now, t, byRequest, k.Grace)
	}
}

func (c *core) kill(now time.Time, t *task, why cause, grace *time.Duration) {
	switch t.phase {
	case launching:
		if t.pending != nil {
			e := *t.pending
			t.pending = nil
			c.conclude(now, t, e)
			return
		}
		if !t.killAsked {
			t.killAsked, t.cause = true, why
		}
		t.killGrace = grace
		if t.started {
			c.beginKill(now, t, t.cause, grace)
		}
	case running:
		c.beginKill(now, t, why, grace)
	case killing:
		// Another kill may only change how long the task is given, counted from the first.
		if grace != nil && !t.forced {
			t.graceEnd = t.killAt.Add(max(*grace, 0))
			c.emit(effTimer{timer{timerGrace, t.ID}, max(t.graceEnd.Sub(now), 0)})
		}
	case terminated:
	}
}

func (c *core) beginKill(now time.Time, t *task, why cause, grace *time.Duration) {
	g := c.killGrace
	switch {
	case grace != nil:
		g = *grace
	case t.KillGrace != nil:
		g = *t.KillGrace
	}
	if c.stopping && c.grace > 0 {
		g = min(g, max(c.grace-shutdownMargin, c.grace/2))
	}
	g = max(g, 0)
	t.phase, t.cause, t.killAt, t.graceEnd = killing, why, now, now.Add(g)
	if why == byHealth {
		t.healthy = new(bool)
	}
	c.stopWatching(t)
	if c.taskKilling {
		c.update(now, t, "TASK_KILLING", "", "", nil)
	}
	if g == 0 {
		t.forced = true
		c.emit(effSignal{t.ID, syscall.SIGKILL})
		return
	}
	c.emit(effSignal{t.ID, syscall.SIGTERM})
	c.emit(effTimer{timer{timerGrace, t.ID}, g})
}

// shutdown ends every task and then the executor.
func (c *core) shutdown(now time.Time) {
	if c.stopping {
		return
	}
	c.stopping = true
	for _, id := range c.order {
		c.kill(now, c.tasks[id], byRequest, nil)
	}
	c.settle()
}

func (c *core) acknowledged(a message.Ack) {
	for i, u := range c.unacked {
		if u.TaskID == a.TaskID && string(u.UUID) == string(a.UUID) {
			c.unacked = append(c.unacked[:i], c.unacked[i+1:]...)
			if t := c.tasks[a.TaskID]; t != nil {
				t.ackStarted = true
			}
			break
		}
	}
	c.settle()
}

func (c *core) fired(now time.Time, tm timer) {
	t := c.tasks[tm.taskID]
	switch tm.kind {
	case timerGrace:
		if t != nil && t.phase == killing && !t.forced {
			t.forced = true
			c.emit(effSignal{t.ID, syscall.SIGKILL})
		}
	case timerDeadline:
		if t != nil && t.phase == running {
			c.beginKill(now, t, byDeadline, nil)
		}
	case timerOOM:
		if t != nil && t.phase != terminated {
			c.terminate(now, t, "TASK_FAILED", "REASON_CONTAINER_LIMITATION_MEMORY", "Memory limit exceeded", nil)
		}
	case timerAck:
		if c.connected && c.done() {
			c.exit()
		}
	case timerRecovery:
		if !c.connected {
			c.givenUp = true
			c.shutdown(now)
			c.settle()
		}
	}
}

// health takes a task's health as it changed.
func (c *core) health(now time.Time, id string, healthy bool, failed bool) {
	t := c.tasks[id]
	if t == nil || t.phase != running {
		return
	}
	if t.healthy == nil || *t.healthy != healthy {
		t.healthy = &healthy
		c.update(now, t, "TASK_RUNNING", "REASON_TASK_HEALTH_CHECK_STATUS_UPDATED", "", nil)
	}
	if failed {
		c.kill(now, t, byHealth, nil)
	}
}

// checked takes a check's result, which is told when it changed.
func (c *core) checked(now time.Time, id string, s message.CheckStatus) {
	t := c.tasks[id]
	if t == nil || t.phase != running {
		return
	}
	if t.check != nil && sameStatus(*t.check, s) {
		return
	}
	t.check = &s
	c.update(now, t, "TASK_RUNNING", "REASON_TASK_CHECK_STATUS_UPDATED", "", nil)
}

func sameStatus(a, b message.CheckStatus) bool {
	return a.Type == b.Type && samePtr(a.ExitCode, b.ExitCode) && samePtr(a.StatusCode, b.StatusCode) && samePtr(a.Succeeded, b.Succeeded)
}

func samePtr[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}

func (c *core) allEnded() bool {
	for _, t := range c.tasks {
		if t.phase != terminated {
			return false
		}
	}
	return true
}

// done: nothing is left to do but to hear acknowledgements.
func (c *core) done() bool { return c.allEnded() && (c.stopping || len(c.tasks) > 0) }

// settle ends the executor when all its tasks have ended and all is acknowledged. While there is no agent it waits for
// one: what it knows is known nowhere else.
func (c *core) settle() {
	switch {
	case !c.done():
	case len(c.unacked) == 0, c.givenUp && !c.connected:
		c.exit()
	case c.connected:
		c.emit(effTimer{timer{kind: timerAck}, ackWait})
	}
}

func (c *core) exit() {
	if !c.exited {
		c.exited = true
		c.emit(effExit{})
	}
}
