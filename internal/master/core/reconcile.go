package core

import (
	"maps"
	"slices"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// schedulerCall handles a call of a subscribed framework. The edge has checked who makes it; what changed since then
// drops it, as a call that was on its way while the stream broke.
func (s *State) schedulerCall(e *SchedulerCall) {
	c := e.Call
	f := s.calling(e.Stream, ids.Framework(c.GetFrameworkId().GetValue()), c.GetType())
	if f == nil {
		s.reply(e.Token, 403, "Framework is not subscribed")
		return
	}
	switch c.GetType() {
	case schedulerv1.Call_ACKNOWLEDGE:
		a := c.GetAcknowledge()
		s.acknowledge(f, ids.Agent(a.GetAgentId().GetValue()), ids.Task(a.GetTaskId().GetValue()), a.GetUuid())
	case schedulerv1.Call_ACCEPT:
		s.accept(f, c.GetAccept())
	case schedulerv1.Call_DECLINE:
		s.decline(f, c.GetDecline())
	case schedulerv1.Call_KILL:
		s.kill(f, c.GetKill())
	case schedulerv1.Call_RECONCILE:
		s.reconcile(f, c.GetReconcile())
	case schedulerv1.Call_REVIVE:
		if roles, ok := f.chosenRoles(c.GetRevive().GetRoles()); ok {
			for _, r := range roles {
				delete(f.suppressed, r)
			}
			s.alloc.Revive(f.id, roles)
			s.touchFramework(f)
		}
	case schedulerv1.Call_SUPPRESS:
		if roles, ok := f.chosenRoles(c.GetSuppress().GetRoles()); ok {
			for _, r := range roles {
				f.suppressed[r] = true
			}
			s.alloc.Suppress(f.id, roles)
			s.touchFramework(f)
		}
	case schedulerv1.Call_MESSAGE:
		s.message(f, c.GetMessage())
	case schedulerv1.Call_SHUTDOWN:
		s.shutdownExecutor(f, c.GetShutdown())
	case schedulerv1.Call_TEARDOWN:
		s.removeFramework(f)
	case schedulerv1.Call_ACCEPT_INVERSE_OFFERS:
		i := c.GetAcceptInverseOffers()
		s.answerInverse(f, i.GetInverseOfferIds(), i.GetFilters(), true)
	case schedulerv1.Call_DECLINE_INVERSE_OFFERS:
		i := c.GetDeclineInverseOffers()
		s.answerInverse(f, i.GetInverseOfferIds(), i.GetFilters(), false)
	case schedulerv1.Call_ACKNOWLEDGE_OPERATION_STATUS:
		s.acknowledgeOperation(f, c.GetAcknowledgeOperationStatus())
	case schedulerv1.Call_RECONCILE_OPERATIONS:
		s.reconcileOperations(f, c.GetReconcileOperations())
	case schedulerv1.Call_UPDATE_FRAMEWORK:
		s.updateFramework(f, e)
	case schedulerv1.Call_REQUEST:
		// Mesos' hierarchical allocator ignores requests; so does this one.
	}
}

// calling finds the framework that made a call on its stream, and counts the call; nil when it is not subscribed any more.
func (s *State) calling(stream StreamID, id ids.Framework, call schedulerv1.Call_Type) *framework {
	f := s.streams[stream]
	if f == nil || id != f.id {
		s.counters.DroppedMessages++
		return nil
	}
	name := callNames[call]
	s.counters.MessagesByCall[name]++
	f.counters.Calls[name]++
	return f
}

// callNames are the names of messages_<name> and of a framework's calls/<name>.
var callNames = map[schedulerv1.Call_Type]string{
	schedulerv1.Call_SUBSCRIBE: "subscribe", schedulerv1.Call_TEARDOWN: "teardown", schedulerv1.Call_ACCEPT: "accept",
	schedulerv1.Call_DECLINE: "decline", schedulerv1.Call_ACCEPT_INVERSE_OFFERS: "accept_inverse_offers",
	schedulerv1.Call_DECLINE_INVERSE_OFFERS: "decline_inverse_offers", schedulerv1.Call_REVIVE: "revive",
	schedulerv1.Call_KILL: "kill", schedulerv1.Call_SHUTDOWN: "shutdown", schedulerv1.Call_ACKNOWLEDGE: "acknowledge",
	schedulerv1.Call_ACKNOWLEDGE_OPERATION_STATUS: "acknowledge_operation_status", schedulerv1.Call_RECONCILE: "reconcile",
	schedulerv1.Call_RECONCILE_OPERATIONS: "reconcile_operations", schedulerv1.Call_MESSAGE: "message",
	schedulerv1.Call_REQUEST: "request", schedulerv1.Call_SUPPRESS: "suppress", schedulerv1.Call_UPDATE_FRAMEWORK: "update_framework",
}

// chosenRoles are the roles that REVIVE and SUPPRESS mean: all when none is named. One that the framework is not subscribed
// to spoils the whole call (facts 1.3).
func (f *framework) chosenRoles(named []string) ([]string, bool) {
	if len(named) == 0 {
		return f.roles, true
	}
	for _, r := range named {
		if !slices.Contains(f.roles, r) {
			return nil, false
		}
	}
	return named, true
}

// reconcile handles RECONCILE (facts 1.8).
func (s *State) reconcile(f *framework, c *schedulerv1.Call_Reconcile) {
	if len(c.GetTasks()) == 0 {
		for _, t := range sortedTasks(f.tasks) {
			s.tellState(t)
		}
		return
	}
	for _, t := range c.GetTasks() {
		s.reconcileTask(f, t.GetTaskId(), t.GetAgentId())
	}
}

// tellState sends the newest state of a known task that the framework was told before or is being told, as the master's own
// word. A newer one that waits at the agent for acknowledgements would let the task's history go backwards: its updates are
// still to come, in their order.
func (s *State) tellState(t *task) {
	state, last := t.page.State(), t.page.lastStatus()
	if told, _, ok := t.page.updated(); ok && last.Uuid != nil {
		state = told
	}
	st := s.masterStatus(t.framework, t.page.taskID(), t.page.agentID(), state,
		mesosv1.TaskStatus_REASON_RECONCILIATION, "Reconciliation: Latest task state")
	st.ExecutorId = t.page.executorID()
	if last.GetState() == state {
		st.Healthy = last.Healthy
		st.CheckStatus = last.CheckStatus
		st.ContainerStatus = last.ContainerStatus
		st.Labels = last.Labels
	}
	s.sendUpdate(t.framework, st)
}

// reconcileTask answers for one task. While an agent of the registry has not come back, what it runs is not known, and
// silence is the only true answer (facts trap 17).
func (s *State) reconcileTask(f *framework, id *mesosv1.TaskID, agentID *mesosv1.AgentID) {
	answer := func(state mesosv1.TaskState, message string, since *mesosv1.TimeInfo, agent *mesosv1.AgentID) {
		st := s.masterStatus(f, id, agent, state, mesosv1.TaskStatus_REASON_RECONCILIATION, "Reconciliation: "+message)
		st.UnreachableTime = since
		s.sendUpdate(f, st)
	}
	tid := ids.Task(id.GetValue())
	if t := f.tasks[tid]; t != nil {
		s.tellState(t)
		return
	}
	aid := ids.Agent(agentID.GetValue())
	if p, ok := f.unreachable.Get(tid); ok {
		answer(mesosv1.TaskState_TASK_UNREACHABLE, "Task is unreachable", p.lastStatus().GetUnreachableTime(), p.agentID())
		return
	}
	switch {
	case agentID == nil && len(s.recovered) > 0, s.recovered[aid] != nil:
		return
	case s.agents[aid] != nil && s.agents[aid].moving != "":
		return
	case s.agents[aid] != nil:
		answer(mesosv1.TaskState_TASK_GONE, "Task is unknown to the agent", nil, agentID)
	case s.unreachable[aid] != nil:
		answer(mesosv1.TaskState_TASK_UNREACHABLE, "Task is unreachable", timeInfo(time.Unix(0, s.unreachable[aid].GetUnreachableTime())), agentID)
	case s.gone[aid] != nil:
		answer(mesosv1.TaskState_TASK_GONE_BY_OPERATOR, "Agent was marked gone by an operator", nil, agentID)
	default:
		answer(mesosv1.TaskState_TASK_UNKNOWN, "Task is unknown", nil, agentID)
	}
}

// reconcileOperations handles RECONCILE_OPERATIONS: the answers are UPDATE_OPERATION_STATUS events.
func (s *State) reconcileOperations(f *framework, c *schedulerv1.Call_ReconcileOperations) {
	known := map[string]*operation{}
	for _, op := range f.ops {
		if op.feedback() {
			known[op.proto.GetInfo().GetId().GetValue()] = op
		}
	}
	if len(c.GetOperations()) == 0 {
		for _, id := range slices.Sorted(maps.Keys(known)) {
			s.sendOperationStatus(f, withoutUUID(known[id].proto.GetLatestStatus()))
		}
		return
	}
	for _, q := range c.GetOperations() {
		if op := known[q.GetOperationId().GetValue()]; op != nil {
			s.sendOperationStatus(f, withoutUUID(op.proto.GetLatestStatus()))
			continue
		}
		state := mesosv1.OperationState_OPERATION_UNKNOWN
		aid := ids.Agent(q.GetAgentId().GetValue())
		switch {
		case q.AgentId == nil:
		case s.recovered[aid] != nil:
			state = mesosv1.OperationState_OPERATION_RECOVERING
		case s.unreachable[aid] != nil:
			state = mesosv1.OperationState_OPERATION_UNREACHABLE
		case s.gone[aid] != nil:
			state = mesosv1.OperationState_OPERATION_GONE_BY_OPERATOR
		}
		s.sendOperationStatus(f, &mesosv1.OperationStatus{
			OperationId: q.GetOperationId(), State: state.Enum(), AgentId: q.GetAgentId(), ResourceProviderId: q.GetResourceProviderId(),
		})
	}
}

// withoutUUID: an answer to a reconciliation is not to be acknowledged.
func withoutUUID(st *mesosv1.OperationStatus) *mesosv1.OperationStatus {
	return &mesosv1.OperationStatus{
		OperationId: st.OperationId, State: st.State, Message: st.Message, ConvertedResources: st.ConvertedResources,
		AgentId: st.AgentId, ResourceProviderId: st.ResourceProviderId,
	}
}
