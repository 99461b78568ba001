package core

import (
	"fmt"
	"math"
	"strings"

	checkpointv1 "github.com/orchestrator/orchestrator/api/checkpoint/v1"
	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// The command executor's own needs (Mesos: DEFAULT_EXECUTOR_CPUS, DEFAULT_EXECUTOR_MEM); no framework pays for them.
const (
	executorCPUs  = 0.1
	executorMemMB = 32
)

func (c *Core) runTask(m *linkv1.RunTask) {
	c.launch(m.GetFramework(), m.GetTask().GetExecutor(), []*mesosv1.TaskInfo{m.GetTask()}, false)
}

func (c *Core) runTaskGroup(m *linkv1.RunTaskGroup) {
	c.launch(m.GetFramework(), m.GetExecutor(), m.GetTaskGroup().GetTasks(), true)
}

// launch queues tasks for an executor, which is started if it does not run. info is nil for a task with a command.
func (c *Core) launch(fwInfo *mesosv1.FrameworkInfo, info *mesosv1.ExecutorInfo, tasks []*mesosv1.TaskInfo, group bool) {
	fid := ids.Framework(fwInfo.GetId().GetValue())
	refuse := func(state mesosv1.TaskState, reason mesosv1.TaskStatus_Reason, text string) {
		for _, t := range tasks {
			c.ghost(fid, ids.Task(t.GetTaskId().GetValue()), t, ids.Executor(info.GetExecutorId().GetValue()), state, reason, text)
		}
	}
	lost := dropped(has(fwInfo, mesosv1.FrameworkInfo_Capability_PARTITION_AWARE))
	if err := c.checkIDs(fid, info, tasks); err != nil {
		refuse(mesosv1.TaskState_TASK_ERROR, mesosv1.TaskStatus_REASON_TASK_INVALID, err.Error())
		return
	}
	if c.drain != nil {
		refuse(lost, mesosv1.TaskStatus_REASON_AGENT_DRAINING, "Agent is draining")
		return
	}
	fw := c.frameworks[fid]
	if fw != nil && fw.terminating {
		// The master has removed it and told it what becomes of its tasks.
		c.note(Warn, "ignoring tasks of a framework that is being shut down", "framework_id", fid)
		return
	}
	if fw != nil {
		for _, t := range tasks {
			if fw.tasks[ids.Task(t.GetTaskId().GetValue())] != nil {
				c.note(Warn, "ignoring a task that is here already", "framework_id", fid, "task_id", t.GetTaskId().GetValue())
				return
			}
		}
	}
	if text := c.missingResources(info, tasks); text != "" {
		refuse(lost, mesosv1.TaskStatus_REASON_RESOURCES_UNKNOWN, text)
		return
	}
	generated := info == nil
	kind := containerizer.CustomExecutor
	switch {
	case generated:
		info, kind = generateExecutor(fwInfo, tasks[0]), containerizer.CommandTask
	case info.GetType() == mesosv1.ExecutorInfo_DEFAULT:
		kind = containerizer.DefaultExecutor
	}
	var e *executor
	if fw != nil {
		e = fw.executors[ids.Executor(info.GetExecutorId().GetValue())]
	}
	if e != nil && (e.phase == ExecutorTerminating || e.phase == ExecutorTerminated) {
		refuse(lost, mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED, "Executor is "+e.phase.String())
		return
	}
	if e != nil && e.generated() != generated {
		refuse(mesosv1.TaskState_TASK_ERROR, mesosv1.TaskStatus_REASON_TASK_INVALID,
			fmt.Sprintf("Executor ID '%s' is that of a task with a command", e.run.Executor))
		return
	}
	if fw == nil {
		fw = c.addFramework(fwInfo)
	}
	if e == nil {
		e = c.addExecutor(fw, info, kind, userOf(fwInfo, info, tasks[0], kind, c.cfg.SwitchUser))
	}
	c.enqueue(e, tasks, group)
	if e.phase == ExecutorRegistering && !e.launched && e.timer == nil {
		c.start(e, tasks[0])
		return
	}
	if e.phase == ExecutorRunning {
		c.limit(e)
		c.deliver(e)
	}
}

func (c *Core) checkIDs(f ids.Framework, info *mesosv1.ExecutorInfo, tasks []*mesosv1.TaskInfo) error {
	if err := ids.Validate(string(f)); err != nil {
		return fmt.Errorf("framework: %w", err)
	}
	if info != nil {
		if err := ids.Validate(info.GetExecutorId().GetValue()); err != nil {
			return fmt.Errorf("executor: %w", err)
		}
	}
	if len(tasks) == 0 {
		return fmt.Errorf("the task group of framework %s is empty", f)
	}
	seen := map[string]bool{}
	for _, t := range tasks {
		id := t.GetTaskId().GetValue()
		if err := ids.Validate(id); err != nil {
			return fmt.Errorf("task: %w", err)
		}
		if seen[id] {
			return fmt.Errorf("task '%s' is twice in its group", id)
		}
		seen[id] = true
		if _, err := resources.FromProto(t.GetResources()); err != nil {
			return fmt.Errorf("resources of task '%s': %w", id, err)
		}
		if info == nil && t.GetCommand() == nil {
			return fmt.Errorf("task '%s' has neither command nor executor", id)
		}
	}
	if _, err := resources.FromProto(info.GetResources()); err != nil {
		return fmt.Errorf("resources of the executor: %w", err)
	}
	return nil
}

// missingResources tells of a reservation or a volume that a launch counts on and that the agent does not have: the
// operation that makes it failed, or was lost.
func (c *Core) missingResources(info *mesosv1.ExecutorInfo, tasks []*mesosv1.TaskInfo) string {
	need := resources.FromProtoTrusted(info.GetResources())
	for _, t := range tasks {
		need = need.Add(resources.FromProtoTrusted(t.GetResources()))
	}
	for x := range need.Unallocate().OneCopy().All() {
		if !x.IsPersistentVolume() && !x.IsDynamicallyReserved() {
			continue
		}
		if !c.total.Contains(x.Resources()) {
			return fmt.Sprintf("The agent does not have the resources %s", x.Resources())
		}
	}
	return ""
}

func (c *Core) addFramework(info *mesosv1.FrameworkInfo) *framework {
	fw := &framework{
		id: ids.Framework(info.GetId().GetValue()), info: info, executors: map[ids.Executor]*executor{}, tasks: map[ids.Task]*task{},
		partitionAware: has(info, mesosv1.FrameworkInfo_Capability_PARTITION_AWARE), dirty: true,
	}
	c.frameworks[fw.id] = fw
	if info.GetCheckpoint() {
		c.emit(SaveFramework{Agent: c.id, Info: info})
	}
	return fw
}

func (c *Core) addExecutor(fw *framework, info *mesosv1.ExecutorInfo, kind containerizer.Kind, user string) *executor {
	run := Run{Framework: fw.id, Executor: ids.Executor(info.GetExecutorId().GetValue()), Container: ids.Container(c.drawText())}
	if info.GetFrameworkId() == nil {
		info = info.CloneVT()
		info.FrameworkId = frameworkID(fw.id)
	}
	e := &executor{
		fw: fw, run: run, info: info, kind: kind, user: user, directory: c.cfg.Sandbox(c.id, run), tasks: map[ids.Task]*task{},
		own: resources.FromProtoTrusted(info.GetResources()),
	}
	e.used = e.own
	c.keepExecutor(e)
	if e.checkpoint() {
		c.saveExecutor(e)
	}
	return e
}

func (c *Core) saveExecutor(e *executor) {
	kind, id, directory := int32(e.kind), string(e.run.Container), e.directory
	rec := &checkpointv1.Executor{Info: e.info, Kind: &kind, ContainerId: &id, Directory: &directory}
	if e.user != "" {
		rec.User = &e.user
	}
	c.emit(SaveExecutor{Agent: c.id, Run: e.run, Executor: rec})
}

// keepExecutor enters an executor in the tables.
func (c *Core) keepExecutor(e *executor) {
	e.fw.executors[e.run.Executor] = e
	c.runs[e.run.Container] = e
	c.phases[e.phase]++
	c.touch(e)
}

func (c *Core) enqueue(e *executor, infos []*mesosv1.TaskInfo, group bool) {
	name := ""
	if group {
		name = c.drawText()
	}
	batch := make([]*task, 0, len(infos))
	for _, info := range infos {
		t := &task{
			id: ids.Task(info.GetTaskId().GetValue()), fw: e.fw.id, ex: e, info: info, group: name, size: len(infos),
			state: mesosv1.TaskState_TASK_STAGING, res: resources.FromProtoTrusted(info.GetResources()),
		}
		e.tasks[t.id], e.fw.tasks[t.id] = t, t
		e.uses(t)
		batch = append(batch, t)
		if e.checkpoint() {
			c.emit(SaveTask{Agent: c.id, Run: e.run, Task: taskRecord(t)})
		}
	}
	e.queue = append(e.queue, batch)
	c.touch(e)
}

// uses counts a living task's resources in; frees counts them out.
func (e *executor) uses(t *task) {
	e.used = e.used.Add(t.res)
	if len(t.info.GetLimits()) > 0 {
		e.limited++
	}
}

func (e *executor) frees(t *task) {
	e.used = e.used.Minus(t.res)
	if len(t.info.GetLimits()) > 0 {
		e.limited--
	}
}

// unqueue takes a task out of the queue; the rest of its group stays.
func (e *executor) unqueue(t *task) {
	for i, batch := range e.queue {
		for j, x := range batch {
			if x != t {
				continue
			}
			rest := append(batch[:j:j], batch[j+1:]...)
			if len(rest) == 0 {
				e.queue = append(e.queue[:i:i], e.queue[i+1:]...)
			} else {
				e.queue[i] = rest
			}
			return
		}
	}
}

// start asks for the executor's container.
func (c *Core) start(e *executor, first *mesosv1.TaskInfo) {
	l := Launch{
		Run: e.run, Kind: e.kind, Framework: e.fw.info, Executor: e.info, User: e.user, Directory: e.directory,
		Resources: e.used.Proto(), Limits: e.limits(),
	}
	if e.generated() {
		l.Task = first
	}
	c.emit(l)
	c.note(Info, "launching executor", "framework_id", e.run.Framework, "executor_id", e.run.Executor, "container_id", e.run.Container)
	c.armRegistration(e)
}

// armRegistration begins the time in which the executor must subscribe. Fetching what it needs counts, as with Mesos.
func (c *Core) armRegistration(e *executor) {
	c.stop(e.timer)
	e.timer = c.after(c.cfg.ExecutorRegistrationTimeout, func() {
		if e.phase != ExecutorRegistering {
			return
		}
		c.note(Warn, "executor did not register in time", "framework_id", e.run.Framework, "executor_id", e.run.Executor)
		e.verdict = &verdict{reason: mesosv1.TaskStatus_REASON_EXECUTOR_REGISTRATION_TIMEOUT, message: fmt.Sprintf(
			"Executor did not register within %v", c.cfg.ExecutorRegistrationTimeout)}
		c.destroy(e, "it did not register in time")
	})
}

// deliver sends everything queued to a subscribed executor.
func (c *Core) deliver(e *executor) {
	if e.conn == 0 || e.phase != ExecutorRunning {
		return
	}
	for _, batch := range e.queue {
		var ev *executorv1.Event
		if batch[0].group == "" {
			ev = &executorv1.Event{Type: executorv1.Event_LAUNCH.Enum(), Launch: &executorv1.Event_Launch{Task: batch[0].info}}
		} else {
			g := &mesosv1.TaskGroupInfo{}
			for _, t := range batch {
				g.Tasks = append(g.Tasks, t.info)
			}
			ev = &executorv1.Event{Type: executorv1.Event_LAUNCH_GROUP.Enum(), LaunchGroup: &executorv1.Event_LaunchGroup{TaskGroup: g}}
		}
		for _, t := range batch {
			c.moveTask(t, TaskDelivered)
		}
		e.delivered += len(batch)
		c.emit(ToExecutor{Conn: e.conn, Event: ev})
	}
	e.queue = nil
}

// limit tells the containerizer what the executor's tasks may use by now.
func (c *Core) limit(e *executor) {
	if e.launched {
		c.emit(Limit{Run: e.run, Resources: e.used.Proto(), Limits: e.limits()})
	}
}

// limits sums the tasks' limits: what a task has no limit for counts by its request, and an infinite one makes all of it
// infinite. Without any limit given there is nothing to say.
func (e *executor) limits() map[string]float64 {
	if e.limited == 0 {
		return nil
	}
	var out map[string]float64
	for _, name := range []string{"cpus", "mem"} {
		sum, given := e.own.Scalar(name), false
		for _, t := range e.tasks {
			if t.terminal() {
				continue
			}
			l, ok := t.info.GetLimits()[name]
			if !ok {
				sum += t.res.Scalar(name)
				continue
			}
			given = true
			sum += l.GetValue()
		}
		if given {
			if out == nil {
				out = map[string]float64{}
			}
			if math.IsNaN(sum) {
				sum = math.Inf(1)
			}
			out[name] = sum
		}
	}
	return out
}

// generateExecutor makes the ExecutorInfo of a task with a command (facts 2.3; Mesos: Slave::getExecutorInfo).
func generateExecutor(fw *mesosv1.FrameworkInfo, t *mesosv1.TaskInfo) *mesosv1.ExecutorInfo {
	id := t.GetTaskId().GetValue()
	name := fmt.Sprintf("Command Executor (Task: %s) (Command: %s)", id, commandText(t.GetCommand()))
	role := ""
	revocable := false
	for _, r := range t.GetResources() {
		if role == "" {
			role = r.GetAllocationInfo().GetRole()
		}
		revocable = revocable || r.GetName() == "cpus" && r.GetRevocable() != nil
	}
	scalar := func(name string, v float64, revocable bool) *mesosv1.Resource {
		r := &mesosv1.Resource{Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v}}
		if role != "" {
			r.AllocationInfo = &mesosv1.Resource_AllocationInfo{Role: &role}
		}
		if revocable {
			r.Revocable = &mesosv1.Resource_RevocableInfo{}
		}
		return r
	}
	info := &mesosv1.ExecutorInfo{
		ExecutorId: &mesosv1.ExecutorID{Value: &id}, FrameworkId: fw.GetId(), Name: &name, Source: &id,
		Container: t.GetContainer(),
		Resources: []*mesosv1.Resource{scalar("cpus", executorCPUs, revocable), scalar("mem", executorMemMB, false)},
		Command:   &mesosv1.CommandInfo{},
	}
	if cmd := t.GetCommand(); cmd != nil {
		// What must be fetched, and as whom it runs, is the executor's business; what runs is the task's.
		info.Command.Uris, info.Command.User = cmd.GetUris(), cmd.User
	}
	return info
}

// commandText is a command, cut to 15 characters.
func commandText(cmd *mesosv1.CommandInfo) string {
	const limit = 15
	if cmd.GetShell() {
		v := cmd.GetValue()
		if len(v) > limit {
			v = strings.ToValidUTF8(v[:limit-3], "") + "..."
		}
		return "sh -c '" + v + "'"
	}
	args := strings.Join(append([]string{cmd.GetValue()}, cmd.GetArguments()...), ", ")
	if cmd.GetValue() == "" && len(cmd.GetArguments()) == 0 {
		return "NO EXECUTABLE"
	}
	if len(args) > limit {
		args = strings.ToValidUTF8(args[:limit-3], "") + "..."
	}
	return "['" + args + "']"
}

// userOf is the account that a container runs as: the command's, else the framework's; empty for the agent's own.
func userOf(fw *mesosv1.FrameworkInfo, info *mesosv1.ExecutorInfo, t *mesosv1.TaskInfo, kind containerizer.Kind, switchUser bool) string {
	if !switchUser {
		return ""
	}
	cmd := info.GetCommand()
	if kind == containerizer.CommandTask {
		cmd = t.GetCommand()
	}
	if u := cmd.GetUser(); u != "" {
		return u
	}
	return fw.GetUser()
}
