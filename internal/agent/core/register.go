package core

import (
	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// linkUp says who we are. What the agent runs is its to tell: the master takes it as the truth.
func (c *Core) linkUp() {
	switch c.phase {
	case Running, Registering:
		c.linkDown()
	case Terminating: // the master must still hear what becomes of the tasks
		if c.id == "" {
			return
		}
	case Recovering, Reconnecting:
		c.relink("recovery is not finished")
		return
	}
	if c.phase != Terminating {
		c.moveTo(Registering)
	}
	reg := &linkv1.Register{
		Info: c.info, Version: &c.cfg.Version, Capabilities: Capabilities(), TotalResources: c.total.Proto(),
		Address: &c.cfg.Address, ResourceVersionUuid: c.version,
	}
	c.stop(c.answerTimer)
	c.answerTimer = c.after(c.cfg.RegisterTimeout, func() {
		c.relink("the master did not answer the registration")
	})
	if c.id == "" {
		c.toMaster(&linkv1.Message{Kind: &linkv1.Message_Register{Register: reg}})
		return
	}
	re := &linkv1.Reregister{Agent: reg, Operations: c.operationList()}
	if c.drain != nil {
		re.DrainConfig = c.drain.config
	}
	for _, fw := range inOrder(c.frameworks) {
		if fw.terminating {
			continue
		}
		re.Frameworks = append(re.Frameworks, fw.info)
		for _, e := range inOrder(fw.executors) {
			// A generated executor is the agent's own affair: what it needs is not the framework's to pay for.
			if e.phase != ExecutorTerminated && !e.generated() {
				re.Executors = append(re.Executors, &linkv1.Executor{FrameworkId: frameworkID(fw.id), Info: e.info})
			}
			for _, t := range inOrder(e.tasks) {
				re.Tasks = append(re.Tasks, t.proto())
			}
		}
	}
	c.toMaster(&linkv1.Message{Kind: &linkv1.Message_Reregister{Reregister: re}})
}

func (c *Core) linkDown() {
	c.stop(c.answerTimer)
	c.answerTimer = nil
	if c.phase == Running || c.phase == Registering {
		c.moveTo(Disconnected)
	}
	c.pauseUpdates()
}

func (c *Core) fromMaster(m *linkv1.Message) {
	// Before it is registered, and while it goes, the agent takes no work.
	switch k := m.GetKind().(type) {
	case *linkv1.Message_Registered:
		c.onRegistered(k.Registered)
		return
	case *linkv1.Message_Refused:
		c.onRefused(k.Refused)
		return
	case *linkv1.Message_UpdateAck:
		c.acknowledged(ids.Framework(k.UpdateAck.GetFrameworkId().GetValue()), ids.Task(k.UpdateAck.GetTaskId().GetValue()), k.UpdateAck.GetUuid())
		return
	case *linkv1.Message_OperationAck:
		c.operationAcknowledged(k.OperationAck)
		return
	case *linkv1.Message_Shutdown:
		c.shutdownAgent("the master asked for it: " + k.Shutdown.GetMessage())
		return
	}
	if c.phase != Running {
		c.note(Warn, "ignoring a message of the master", "phase", c.phase)
		return
	}
	switch k := m.GetKind().(type) {
	case *linkv1.Message_RunTask:
		c.runTask(k.RunTask)
	case *linkv1.Message_RunTaskGroup:
		c.runTaskGroup(k.RunTaskGroup)
	case *linkv1.Message_KillTask:
		c.killTask(ids.Framework(k.KillTask.GetFrameworkId().GetValue()), ids.Task(k.KillTask.GetTaskId().GetValue()), k.KillTask.GetKillPolicy())
	case *linkv1.Message_ShutdownExecutor:
		c.shutdownExecutorAsked(ids.Framework(k.ShutdownExecutor.GetFrameworkId().GetValue()), ids.Executor(k.ShutdownExecutor.GetExecutorId().GetValue()))
	case *linkv1.Message_FrameworkMessage:
		c.frameworkMessage(k.FrameworkMessage)
	case *linkv1.Message_ShutdownFramework:
		c.shutdownFramework(ids.Framework(k.ShutdownFramework.GetFrameworkId().GetValue()))
	case *linkv1.Message_UpdateFramework:
		c.updateFramework(k.UpdateFramework.GetFramework())
	case *linkv1.Message_ApplyOperation:
		c.applyOperation(k.ApplyOperation)
	case *linkv1.Message_Drain:
		c.startDrain(k.Drain.GetConfig())
	case *linkv1.Message_Undrain:
		c.undrain()
	case *linkv1.Message_Ping: // the link answers it; a master that does not hold us as registered says so here
		if !k.Ping.GetConnected() {
			c.relink("the master does not hold this agent as registered")
		}
	default:
		c.note(Warn, "ignoring a message of the master that this version does not know")
	}
}

func (c *Core) onRegistered(r *linkv1.Registered) {
	if c.phase != Registering && c.phase != Terminating {
		c.note(Warn, "ignoring an unexpected registration", "phase", c.phase)
		return
	}
	c.stop(c.answerTimer)
	c.answerTimer = nil
	id := ids.Agent(r.GetAgentId().GetValue())
	if err := ids.Validate(string(id)); err != nil {
		c.relink("the master gave an invalid agent id: " + err.Error())
		return
	}
	if c.id != "" && id != c.id {
		c.note(Error, "the master answered with another agent id; is a second cluster behind --master?", "agent_id", c.id, "given", id)
		c.relink("the master answered with another agent id")
		return
	}
	c.master = r.GetMaster()
	if c.id == "" {
		c.id = id
		info := c.info.CloneVT()
		info.Id = r.GetAgentId()
		c.info = info
		c.emit(SaveAgent{Info: c.info})
		c.saveResources()
	}
	if c.phase == Registering {
		c.moveTo(Running)
	}
	c.registered = c.now
	c.note(Info, "registered", "agent_id", c.id, "reregistered", r.GetReregistered())
	for _, f := range r.GetEndedFrameworks() {
		c.shutdownFramework(ids.Framework(f.GetValue()))
	}
	for _, t := range r.GetExpectedTasks() {
		c.answerExpected(t)
	}
	c.resumeUpdates()
	if len(c.revocable) > 0 {
		c.sendResources()
	}
	c.resendOperations()
	c.checkDrained()
	c.maybeExit()
}

// answerExpected tells the master of a task that it believes to be here and that is not (facts 2.6, 6).
func (c *Core) answerExpected(t *linkv1.ExpectedTask) {
	fid, tid := ids.Framework(t.GetFrameworkId().GetValue()), ids.Task(t.GetTaskId().GetValue())
	if fw := c.frameworks[fid]; fw != nil {
		if _, known := fw.tasks[tid]; known {
			return
		}
	}
	aware := false
	for _, capability := range t.GetFrameworkCapabilities() {
		aware = aware || capability.GetType() == mesosv1.FrameworkInfo_Capability_PARTITION_AWARE
	}
	c.ghost(fid, tid, nil, ids.Executor(t.GetExecutorId().GetValue()), dropped(aware),
		mesosv1.TaskStatus_REASON_RECONCILIATION, "Task is unknown to the agent")
}

func (c *Core) onRefused(r *linkv1.Refused) {
	c.stop(c.answerTimer)
	c.answerTimer = nil
	if r.GetShutdown() {
		c.note(Error, "the master refused this agent for good", "message", r.GetMessage())
		c.shutdownAgent("the master refused this agent: " + r.GetMessage())
		return
	}
	c.note(Warn, "the master refused the registration; trying again", "message", r.GetMessage())
	c.relink("refused: " + r.GetMessage())
}

// leave kills every task, waits for that, and unregisters.
func (c *Core) leave(message string) {
	c.leaving = true
	c.shutdownAgent(message)
}

// shutdownAgent kills every task and ends the process when that is done. The next process is a new agent.
func (c *Core) shutdownAgent(reason string) {
	if c.phase == Terminating {
		return
	}
	c.note(Info, "shutting down", "reason", reason)
	c.exitReason = reason
	c.moveTo(Terminating)
	c.emit(ForgetAgent{})
	for _, fw := range inOrder(c.frameworks) {
		for _, e := range inOrder(fw.executors) {
			c.shutdownExecutor(e, &verdict{reason: mesosv1.TaskStatus_REASON_AGENT_REMOVED, message: "Agent is shutting down"})
		}
	}
	c.maybeExit()
}

// maybeExit leaves once no container is left.
func (c *Core) maybeExit() {
	if c.phase != Terminating {
		return
	}
	for _, fw := range inOrder(c.frameworks) {
		for _, e := range inOrder(fw.executors) {
			if e.phase != ExecutorTerminated {
				return
			}
		}
	}
	if c.leaving {
		c.toMaster(&linkv1.Message{Kind: &linkv1.Message_Unregister{Unregister: &linkv1.Unregister{}}})
	}
	c.emit(Exit{Reason: c.exitReason})
}

// updateFramework takes a framework's new description.
func (c *Core) updateFramework(info *mesosv1.FrameworkInfo) {
	id := ids.Framework(info.GetId().GetValue())
	// It has subscribed: what is in flight may have been lost with the stream before.
	c.eachPending(func(t *task) {
		if t.fw == id {
			c.sendFront(t)
		}
	})
	fw := c.frameworks[id]
	if fw == nil {
		return
	}
	if fw.info.GetCheckpoint() != info.GetCheckpoint() {
		info = info.CloneVT() // what lies on disk can't change after the fact (facts 1.5)
		v := fw.info.GetCheckpoint()
		info.Checkpoint = &v
	}
	fw.info, fw.dirty = info, true
	fw.partitionAware = has(info, mesosv1.FrameworkInfo_Capability_PARTITION_AWARE)
	if info.GetCheckpoint() {
		c.emit(SaveFramework{Agent: c.id, Info: info})
	}
}

// reconfigure takes new flags: what changed is told to the master.
func (c *Core) reconfigure(ev Reconfigure) {
	if c.phase == Terminating {
		return
	}
	info := ev.Info.CloneVT()
	info.Id = c.info.GetId()
	c.info = info
	c.configured = ev.Info.GetResources()
	c.setTotal(ev.Total)
	if c.id != "" {
		c.emit(SaveAgent{Info: c.info})
	}
	c.saveResources()
	if c.phase == Running {
		// Attributes travel with a registration only.
		c.relink("the agent's resources or attributes were changed")
	}
}
