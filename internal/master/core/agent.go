package core

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	registryv1 "github.com/orchestrator/orchestrator/api/registry/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// agent is a registered agent. Where an agent can be, by the set that holds its id:
//
//	recovered    in the registry, not back since the election
//	agents       registered: connected, or disconnected and given until its ping timeout
//	unreachable  timed out; may come back
//	gone         an operator said so; may not come back
//
// An id moves only when the registry has written the move; until then moving says where to.
type agent struct {
	id      ids.Agent
	info    *mesosv1.AgentInfo
	address string
	url     *mesosv1.URL // of its API, as offers name it
	version string
	caps    []mesosv1.AgentInfo_Capability_Type
	total   resources.Resources
	conn    ConnID // zero: disconnected

	deactivated bool // by an operator, or by draining
	drain       *mesosv1.DrainInfo
	drainStart  time.Time
	moving      string // "", "unreachable" or "gone"

	registered   time.Time
	reregistered time.Time

	pingSeq  uint64
	turn     time.Time // when it may become unreachable, if it is about to and removals are spread
	missed   int       // pings without a pong in a row
	pingTime *timer

	tasks      map[*task]struct{}
	executors  map[ids.Framework]map[ids.Executor]*executor
	offers     map[ids.Offer]*offer
	inverse    map[ids.Offer]*inverseOffer
	ops        map[string]*operation
	kills      map[killKey]*mesosv1.KillPolicy
	resVersion []byte

	unavailability *mesosv1.Unavailability
}

// conn is one channel on which an agent speaks.
type conn struct {
	id      ConnID
	agent   *agent // nil until it is registered
	pending bool   // a registry write for it is under way
	closed  bool
}

func (a *agent) connected() bool { return a.conn != 0 }

// active agents are offered from.
func (a *agent) active() bool { return a.connected() && !a.deactivated && a.moving == "" }

func (a *agent) has(c mesosv1.AgentInfo_Capability_Type) bool { return slices.Contains(a.caps, c) }

func (s *State) sendAgent(a *agent, m *linkv1.Message) {
	if a.conn != 0 {
		s.emit(&SendAgent{Conn: a.conn, Message: m})
	}
}

func (s *State) agentMessage(e *AgentMessage) {
	c := s.conns[e.Conn]
	if c == nil {
		c = &conn{id: e.Conn}
		s.conns[e.Conn] = c
	}
	switch k := e.Message.GetKind().(type) {
	case *linkv1.Message_Register:
		s.register(c, k.Register)
		return
	case *linkv1.Message_Reregister:
		s.reregister(c, k.Reregister)
		return
	}
	a := c.agent
	if a == nil || a.conn != c.id {
		return // it speaks before it is registered, or after it was replaced
	}
	switch k := e.Message.GetKind().(type) {
	case *linkv1.Message_Update:
		s.statusUpdate(a, k.Update)
	case *linkv1.Message_Pong:
		s.answered(a)
	case *linkv1.Message_ExecutorExited:
		s.executorExited(a, k.ExecutorExited)
	case *linkv1.Message_ExecutorMessage:
		s.executorMessage(a, k.ExecutorMessage)
	case *linkv1.Message_OperationUpdate:
		s.operationUpdate(a, k.OperationUpdate)
	case *linkv1.Message_AgentUpdate:
		s.agentUpdate(a, k.AgentUpdate)
	case *linkv1.Message_Unregister:
		s.counters.AgentRemovalsUnregistered++
		s.removeAgent(a, "unregistered", mesosv1.TaskState_TASK_GONE, mesosv1.TaskStatus_REASON_AGENT_REMOVED, "Agent unregistered")
	default:
		s.counters.DroppedMessages++
	}
}

func (s *State) refuse(c *conn, shutdown bool, format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	s.emit(&SendAgent{Conn: c.id, Message: &linkv1.Message{Kind: &linkv1.Message_Refused{
		Refused: &linkv1.Refused{Message: proto.String(msg), Shutdown: proto.Bool(shutdown)},
	}}})
	s.closeConn(c)
	s.log(slog.LevelInfo, "agent refused", "why", msg, "shutdown", shutdown)
}

func (s *State) closeConn(c *conn) {
	c.closed = true
	delete(s.conns, c.id)
	s.emit(&CloseAgent{Conn: c.id})
}

// register admits an agent that has no id.
func (s *State) register(c *conn, r *linkv1.Register) {
	if c.pending || c.agent != nil {
		return // it repeats itself; the answer is on its way
	}
	total, err := s.checkRegistration(r)
	if err != nil {
		s.refuse(c, false, "%v", err)
		return
	}
	if s.machineDown(r.GetInfo(), r.GetAddress()) {
		s.refuse(c, true, "the machine is down for maintenance")
		return
	}
	// The same place cannot hold two agents: the older one has lost its work directory.
	if old := s.addresses[r.GetAddress()]; old != nil && r.GetAddress() != "" {
		s.log(slog.LevelWarn, "agent registers anew where another one was", "agent_id", old.id, "address", r.GetAddress())
		s.counters.AgentRemovalsRegistered++
		s.removeAgent(old, "replaced", mesosv1.TaskState_TASK_GONE, mesosv1.TaskStatus_REASON_AGENT_REMOVED, "A new agent registered at the same address")
	}
	id := s.newAgentID()
	info := r.GetInfo().CloneVT()
	info.Id = &mesosv1.AgentID{Value: proto.String(string(id))}
	c.pending = true
	rec := &registryv1.Agent{Info: info, Address: r.Address}
	s.store([]Record{record("agents/"+string(id), rec)}, nil, func(err error) {
		c.pending = false
		if err != nil {
			if !c.closed {
				s.refuse(c, false, "the agent could not be admitted into the registry: %v", err)
			}
			return
		}
		if c.closed {
			// It left before it heard its id, so that nobody will ever come back by it.
			s.storeQuietly(nil, []string{"agents/" + string(id)})
			return
		}
		a := s.addAgent(info, r, total)
		a.registered = s.now
		s.counters.AgentRegistrations++
		s.attach(a, c)
		s.admit(a, nil)
		s.sendAgent(a, registered(a, s.cfg, false, nil, nil))
		s.agentAdded(a)
		s.log(slog.LevelInfo, "agent registered", "agent_id", id, "hostname", info.GetHostname(), "resources", a.total.String())
	})
}

func (s *State) newAgentID() ids.Agent {
	for {
		id := ids.Agent(fmt.Sprintf("%s-S%d", s.cfg.Master.GetId(), s.nextAgent))
		s.nextAgent++
		if s.agents[id] == nil && s.recovered[id] == nil && s.unreachable[id] == nil && s.gone[id] == nil {
			return id
		}
	}
}

// checkRegistration validates what both ways of registering carry.
func (s *State) checkRegistration(r *linkv1.Register) (resources.Resources, error) {
	info := r.GetInfo()
	if info.GetHostname() == "" {
		return resources.Resources{}, fmt.Errorf("the agent gives no hostname")
	}
	if info.Domain != nil && s.cfg.Master.GetDomain() == nil {
		return resources.Resources{}, fmt.Errorf("the agent has a fault domain but the master has none: start the master with --domain, or the agent without")
	}
	if info.Domain == nil && s.cfg.RequireAgentDomain {
		return resources.Resources{}, fmt.Errorf("the agent has no fault domain, which this master requires (--require_agent_domain): start the agent with --domain")
	}
	list := r.GetTotalResources()
	if len(list) == 0 {
		list = info.GetResources()
	}
	total, err := resources.FromProto(list)
	if err != nil {
		return resources.Resources{}, fmt.Errorf("the agent's resources are invalid: %w", err)
	}
	return total, nil
}

func (s *State) addAgent(info *mesosv1.AgentInfo, r *linkv1.Register, total resources.Resources) *agent {
	a := &agent{
		id:        ids.Agent(info.GetId().GetValue()),
		tasks:     map[*task]struct{}{},
		executors: map[ids.Framework]map[ids.Executor]*executor{},
		offers:    map[ids.Offer]*offer{},
		inverse:   map[ids.Offer]*inverseOffer{},
		ops:       map[string]*operation{},
	}
	s.agents[a.id] = a
	s.describeAgent(a, info, r, total)
	return a
}

// describeAgent takes over what an agent says of itself.
func (s *State) describeAgent(a *agent, info *mesosv1.AgentInfo, r *linkv1.Register, total resources.Resources) {
	if a.address != r.GetAddress() && s.addresses[a.address] == a {
		delete(s.addresses, a.address)
	}
	a.info = info
	a.address = r.GetAddress()
	a.url = agentURL(a)
	a.version = r.GetVersion()
	a.total = total
	a.resVersion = r.GetResourceVersionUuid()
	a.caps = a.caps[:0:0]
	for _, c := range r.GetCapabilities() {
		a.caps = append(a.caps, c.GetType())
	}
	if a.address != "" {
		s.addresses[a.address] = a
	}
	a.unavailability = s.unavailabilityOf(info, a.address)
	s.touchAgent(a)
}

// attach makes the connection the agent's and starts pinging. An older connection of the same agent is closed.
func (s *State) attach(a *agent, c *conn) {
	if a.conn != 0 && a.conn != c.id {
		if old := s.conns[a.conn]; old != nil {
			old.agent = nil
			s.closeConn(old)
		}
	}
	c.agent = a
	a.conn = c.id
	s.answered(a)
	s.stop(a.pingTime)
	s.schedulePing(a)
	s.touchAgent(a)
}

// admit puts the agent with what it uses into the allocator.
func (s *State) admit(a *agent, used map[ids.Framework]resources.Resources) {
	s.alloc.AddAgent(a.id, allocatorAgent(a), used)
	s.alloc.SetAgentActive(a.id, a.active())
}

func registered(a *agent, cfg Config, again bool, expected []*linkv1.ExpectedTask, ended []*mesosv1.FrameworkID) *linkv1.Message {
	return &linkv1.Message{Kind: &linkv1.Message_Registered{Registered: &linkv1.Registered{
		AgentId:         a.info.GetId(),
		Master:          cfg.Master,
		PingTimeoutMs:   proto.Int64(int64(cfg.AgentPingTimeout/time.Millisecond) * int64(cfg.MaxAgentPingTimeouts)),
		Reregistered:    proto.Bool(again),
		ExpectedTasks:   expected,
		EndedFrameworks: ended,
	}}}
}

func (s *State) agentAdded(a *agent) {
	s.operatorEvent(&masterv1.Event{
		Type:       masterv1.Event_AGENT_ADDED.Enum(),
		AgentAdded: &masterv1.Event_AgentAdded{Agent: s.agentProto(a)},
	})
}

// schedulePing sends the next ping in time. An agent that is not connected is not pinged but misses its pongs all the
// same: the time until it is unreachable is one and the same.
func (s *State) schedulePing(a *agent) {
	wait := s.cfg.AgentPingTimeout
	if !a.turn.IsZero() {
		wait = min(wait, a.turn.Sub(s.now))
	}
	a.pingTime = s.after(wait, func() {
		if a.missed >= s.cfg.MaxAgentPingTimeouts && s.mayRemove(a) {
			s.markUnreachable(a, "health check timed out")
			return
		}
		a.missed++
		if a.connected() {
			a.pingSeq++
			s.sendAgent(a, &linkv1.Message{Kind: &linkv1.Message_Ping{Ping: &linkv1.Ping{Sequence: proto.Uint64(a.pingSeq), Connected: proto.Bool(true)}}})
		}
		s.schedulePing(a)
	})
}

// mayRemove gives an agent its turn to become unreachable, and reports whether it has come. Until then it is pinged.
func (s *State) mayRemove(a *agent) bool {
	if s.cfg.AgentRemovalInterval <= 0 {
		return true
	}
	if a.turn.IsZero() {
		a.turn = s.removalTurn()
		s.counters.AgentUnreachableScheduled++
		if a.turn.After(s.now) {
			s.log(slog.LevelWarn, "agent does not answer; it waits for its turn to become unreachable", "agent_id", a.id, "hostname", a.info.GetHostname(), "at", a.turn)
		}
	}
	return !a.turn.After(s.now)
}

// removalTurn takes the next time at which an agent may become unreachable.
func (s *State) removalTurn() time.Time {
	at := s.now
	if s.nextRemoval.After(at) {
		at = s.nextRemoval
	}
	s.nextRemoval = at.Add(s.cfg.AgentRemovalInterval)
	return at
}

// answered: the agent is there.
func (s *State) answered(a *agent) {
	a.missed = 0
	if a.turn.After(s.now) && a.moving == "" {
		s.counters.AgentUnreachableCanceled++
		s.log(slog.LevelInfo, "agent answers again before its turn to become unreachable", "agent_id", a.id, "hostname", a.info.GetHostname())
	}
	a.turn = time.Time{}
}

// agentDisconnected: offers from it are rescinded, frameworks that do not checkpoint lose their tasks on it; the others
// wait for it until the ping timeout.
func (s *State) agentDisconnected(id ConnID) {
	c := s.conns[id]
	if c == nil {
		return
	}
	c.closed = true
	delete(s.conns, id)
	a := c.agent
	if a == nil || a.conn != id {
		return
	}
	a.conn = 0
	s.alloc.SetAgentActive(a.id, false)
	s.rescindAgentOffers(a)
	s.log(slog.LevelInfo, "agent disconnected", "agent_id", a.id, "hostname", a.info.GetHostname())
	for _, t := range tasksOf(a) {
		if !t.framework.info.GetCheckpoint() {
			s.loseTask(t, mesosv1.TaskState_TASK_LOST, mesosv1.TaskStatus_REASON_AGENT_DISCONNECTED, "Agent disconnected, and the framework does not checkpoint", nil)
		}
	}
	for fid := range a.executors {
		if f := s.frameworks[fid]; f != nil && !f.info.GetCheckpoint() {
			s.dropExecutors(f, a)
		}
	}
	s.touchAgent(a)
}

// markUnreachable moves an agent in the registry and then tells everybody.
func (s *State) markUnreachable(a *agent, why string) {
	if a.moving != "" {
		return
	}
	a.moving = "unreachable"
	if s.cfg.AgentRemovalInterval <= 0 {
		s.counters.AgentUnreachableScheduled++
	}
	s.alloc.SetAgentActive(a.id, false)
	s.rescindAgentOffers(a)
	now := s.now
	rec := s.agentRecord(a)
	rec.UnreachableTime = proto.Int64(now.UnixNano())
	s.log(slog.LevelWarn, "marking agent unreachable", "agent_id", a.id, "hostname", a.info.GetHostname(), "why", why)
	s.store([]Record{record("unreachable/"+string(a.id), rec)}, []string{"agents/" + string(a.id)}, func(err error) {
		a.moving = ""
		if err != nil {
			// The registry is lost or busy: it is tried again, and nobody is told before it is true.
			s.log(slog.LevelWarn, "agent could not be marked unreachable", "agent_id", a.id, "error", err)
			s.counters.AgentUnreachableCanceled++
			a.missed = s.cfg.MaxAgentPingTimeouts
			s.stop(a.pingTime)
			s.schedulePing(a)
			s.alloc.SetAgentActive(a.id, a.active())
			return
		}
		s.unreachable[a.id] = rec
		s.pages.unreachable.Set(a.id, now)
		s.counters.AgentUnreachableCompleted++
		s.counters.AgentRemovals++
		s.counters.AgentRemovalsUnhealthy++
		s.forgetAgent(a, mesosv1.TaskState_TASK_UNREACHABLE, mesosv1.TaskStatus_REASON_AGENT_REMOVED,
			fmt.Sprintf("Agent %s (%s) is unreachable: %s", a.id, a.info.GetHostname(), why),
			func(st *mesosv1.TaskStatus) { st.UnreachableTime = timeInfo(now) })
	})
}

// removeAgent takes an agent that leaves out of the registry.
func (s *State) removeAgent(a *agent, why string, state mesosv1.TaskState, reason mesosv1.TaskStatus_Reason, message string) {
	if a.moving != "" {
		return
	}
	s.counters.AgentRemovals++
	s.storeQuietly(nil, []string{"agents/" + string(a.id)})
	s.log(slog.LevelInfo, "agent removed", "agent_id", a.id, "hostname", a.info.GetHostname(), "why", why)
	s.forgetAgent(a, state, reason, message, nil)
}

// forgetAgent removes an agent from everything but the registry: tasks are lost in the given way, frameworks are told.
func (s *State) forgetAgent(a *agent, state mesosv1.TaskState, reason mesosv1.TaskStatus_Reason, message string, adjust func(*mesosv1.TaskStatus)) {
	s.stop(a.pingTime)
	s.rescindAgentOffers(a)
	for _, t := range tasksOf(a) {
		s.loseTask(t, state, reason, message, adjust)
	}
	for fid := range a.executors {
		if f := s.frameworks[fid]; f != nil {
			s.dropExecutors(f, a)
		}
	}
	s.loseOperations(a, state)
	s.alloc.RemoveAgent(a.id)
	if a.conn != 0 {
		if c := s.conns[a.conn]; c != nil {
			c.agent = nil
			s.closeConn(c)
		}
		a.conn = 0
	}
	delete(s.agents, a.id)
	if s.addresses[a.address] == a {
		delete(s.addresses, a.address)
	}
	delete(s.pages.dirtyAgents, a)
	s.pages.agents.Delete(a.id)
	for k := range s.inverseInfos {
		if k.agent == a.id {
			delete(s.inverseInfos, k)
		}
	}
	for _, f := range s.sortedFrameworks() {
		s.send(f, &schedulerv1.Event{
			Type:    schedulerv1.Event_FAILURE.Enum(),
			Failure: &schedulerv1.Event_Failure{AgentId: a.info.GetId()},
		})
	}
	s.operatorEvent(&masterv1.Event{
		Type:         masterv1.Event_AGENT_REMOVED.Enum(),
		AgentRemoved: &masterv1.Event_AgentRemoved{AgentId: a.info.GetId()},
	})
}

func (s *State) sortedFrameworks() []*framework {
	return slices.SortedFunc(maps.Values(s.frameworks), func(a, b *framework) int { return strings.Compare(string(a.id), string(b.id)) })
}

func (s *State) agentRecord(a *agent) *registryv1.Agent {
	r := &registryv1.Agent{Info: a.info, DrainInfo: a.drain, Address: proto.String(a.address)}
	if a.deactivated {
		r.Deactivated = proto.Bool(true)
	}
	if !a.drainStart.IsZero() {
		r.DrainStartTime = proto.Int64(a.drainStart.UnixNano())
	}
	return r
}

// agentUpdate: the agent's total changed by something other than an operation of this master's.
func (s *State) agentUpdate(a *agent, u *linkv1.AgentUpdate) {
	total, err := resources.FromProto(u.GetTotalResources())
	if err != nil {
		s.log(slog.LevelWarn, "agent sends invalid resources", "agent_id", a.id, "error", err)
		return
	}
	if u.GetUpdateOversubscribed() {
		over, err := resources.FromProto(u.GetOversubscribedResources())
		if err != nil {
			s.log(slog.LevelWarn, "agent sends invalid oversubscribed resources", "agent_id", a.id, "error", err)
			return
		}
		if len(u.GetTotalResources()) == 0 {
			total = a.total.NonRevocable()
		}
		total = total.NonRevocable().Add(over.Revocable())
	}
	if u.ResourceVersionUuid != nil {
		a.resVersion = u.ResourceVersionUuid
	}
	if total.Equal(a.total) {
		return
	}
	// Offers made of the old total may hold what is not there any more.
	s.rescindAgentOffers(a)
	a.total = total
	s.updateAllocatorAgent(a)
	s.touchAgent(a)
}

// executorExited: the framework is told, and what the executor itself held is free again.
func (s *State) executorExited(a *agent, x *linkv1.ExecutorExited) {
	f := s.frameworks[ids.Framework(x.GetFrameworkId().GetValue())]
	if f == nil {
		return
	}
	eid := ids.Executor(x.GetExecutorId().GetValue())
	if execs := f.executors[a.id]; execs[eid] != nil {
		s.free(f, a, execs[eid].res, nil)
		delete(execs, eid)
		delete(a.executors[f.id], eid)
		if len(execs) == 0 {
			delete(f.executors, a.id)
			delete(a.executors, f.id)
		}
		s.touchFramework(f)
		s.touchAgent(a)
	}
	s.send(f, &schedulerv1.Event{
		Type:    schedulerv1.Event_FAILURE.Enum(),
		Failure: &schedulerv1.Event_Failure{AgentId: a.info.GetId(), ExecutorId: x.GetExecutorId(), Status: x.Status},
	})
}

func (s *State) executorMessage(a *agent, m *linkv1.ExecutorMessage) {
	f := s.frameworks[ids.Framework(m.GetFrameworkId().GetValue())]
	if f == nil {
		s.counters.InvalidExecutorMessages++
		return
	}
	s.counters.ValidExecutorMessages++
	s.send(f, &schedulerv1.Event{
		Type:    schedulerv1.Event_MESSAGE.Enum(),
		Message: &schedulerv1.Event_Message{AgentId: a.info.GetId(), ExecutorId: m.GetExecutorId(), Data: m.GetData()},
	})
}

// addExecutor records an executor that a framework has on an agent.
func (s *State) addExecutor(f *framework, a *agent, info *mesosv1.ExecutorInfo, res resources.Resources) {
	x := &executor{info: info, res: res}
	eid := ids.Executor(info.GetExecutorId().GetValue())
	if f.executors[a.id] == nil {
		f.executors[a.id] = map[ids.Executor]*executor{}
	}
	f.executors[a.id][eid] = x
	if a.executors[f.id] == nil {
		a.executors[f.id] = map[ids.Executor]*executor{}
	}
	a.executors[f.id][eid] = x
	s.touchFramework(f)
	s.touchAgent(a)
}

// dropExecutors forgets a framework's executors on an agent and frees what they held.
func (s *State) dropExecutors(f *framework, a *agent) {
	for _, x := range f.executors[a.id] {
		s.free(f, a, x.res, nil)
	}
	delete(f.executors, a.id)
	delete(a.executors, f.id)
	s.touchFramework(f)
	s.touchAgent(a)
}
