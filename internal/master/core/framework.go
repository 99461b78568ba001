package core

import (
	"log/slog"
	"slices"
	"sort"
	"time"

	"github.com/tidwall/btree"
	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	registryv1 "github.com/orchestrator/orchestrator/api/registry/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// heartbeatSeconds is what SUBSCRIBED announces (scheduler.proto, Event.Subscribed); the streams send the heartbeats.
const heartbeatSeconds = 15

type framework struct {
	id          ids.Framework
	info        *mesosv1.FrameworkInfo // replaced, never changed
	caps        capabilities
	roles       []string
	suppressed  map[string]bool
	constraints *schedulerv1.OfferConstraints
	principal   string

	stream    StreamID // empty: not connected
	active    bool     // gets offers
	recovered bool     // known from the registry or from agents; its scheduler has not come yet

	registered   time.Time
	reregistered time.Time
	removal      *timer

	tasks     map[ids.Task]*task
	executors map[ids.Agent]map[ids.Executor]*executor
	offers    map[ids.Offer]*offer
	inverse   map[ids.Offer]*inverseOffer
	ops       map[string]*operation

	live        btree.Map[ids.Task, *TaskPage]
	unreachable btree.Map[ids.Task, *TaskPage]
	gone        []ids.Task // order in which unreachable ones came, for the limit
	completed   []*TaskPage
	last        *TaskPage           // of the task launched last, for what the next one has in common with it
	launched    resources.Resources // of that task
	messages    []*mesosv1.Resource // the same; never changed

	counters FrameworkCounters
}

type executor struct {
	info *mesosv1.ExecutorInfo
	res  resources.Resources
}

func (f *framework) connected() bool { return f.stream != "" }

// capabilities of a framework, as its FrameworkInfo lists them.
type capabilities struct {
	revocable, killing, gpu, shared, partitionAware, multiRole, refinement, regionAware bool
}

func capabilitiesOf(info *mesosv1.FrameworkInfo) capabilities {
	var c capabilities
	for _, x := range info.GetCapabilities() {
		switch x.GetType() {
		case mesosv1.FrameworkInfo_Capability_REVOCABLE_RESOURCES:
			c.revocable = true
		case mesosv1.FrameworkInfo_Capability_TASK_KILLING_STATE:
			c.killing = true
		case mesosv1.FrameworkInfo_Capability_GPU_RESOURCES:
			c.gpu = true
		case mesosv1.FrameworkInfo_Capability_SHARED_RESOURCES:
			c.shared = true
		case mesosv1.FrameworkInfo_Capability_PARTITION_AWARE:
			c.partitionAware = true
		case mesosv1.FrameworkInfo_Capability_MULTI_ROLE:
			c.multiRole = true
		case mesosv1.FrameworkInfo_Capability_RESERVATION_REFINEMENT:
			c.refinement = true
		case mesosv1.FrameworkInfo_Capability_REGION_AWARE:
			c.regionAware = true
		}
	}
	return c
}

func rolesOf(info *mesosv1.FrameworkInfo) []string {
	if capabilitiesOf(info).multiRole {
		return slices.Clone(info.GetRoles())
	}
	return []string{info.GetRole()} // proto2 default "*"
}

// subscription is a new framework on its way into the registry.
type subscription struct {
	stream    StreamID
	cancelled bool // the stream ended meanwhile
}

// subscribe handles SUBSCRIBE. Whatever is wrong is told by an ERROR event on the open stream, which is then closed
// (facts 1.1: HTTP validation is over).
func (s *State) subscribe(e *SchedulerSubscribe) {
	s.counters.MessagesByCall["subscribe"]++
	sub := e.Call.GetSubscribe()
	info := sub.GetFrameworkInfo()
	if err := s.validateSubscription(info, sub.GetSuppressedRoles(), sub.GetOfferConstraints(), e.Principal); err != nil {
		s.refuseStream(e.Stream, err.Error())
		return
	}
	id := ids.Framework(e.Call.GetFrameworkId().GetValue())
	if id == "" {
		id = ids.Framework(info.GetId().GetValue())
	}
	if id != "" {
		if _, ok := s.ended[id]; ok {
			s.refuseStream(e.Stream, "Framework has been removed")
			return
		}
		if f := s.frameworks[id]; f != nil {
			s.resubscribe(f, e)
			return
		}
	} else {
		id = s.newFrameworkID()
	}

	info = info.CloneVT()
	info.Id = &mesosv1.FrameworkID{Value: proto.String(string(id))}
	if info.Principal == nil && e.Principal != "" {
		info.Principal = proto.String(e.Principal)
	}
	pending := &subscription{stream: e.Stream}
	s.subscribing[e.Stream] = pending
	now := s.now
	rec := &registryv1.Framework{Info: info, RegisteredTime: proto.Int64(now.UnixNano()), Principal: proto.String(e.Principal)}
	// The id is durable before the scheduler hears of it: a new leader must know a framework whose tasks may run.
	s.store([]Record{record("frameworks/"+string(id), rec)}, nil, func(err error) {
		delete(s.subscribing, e.Stream)
		if err != nil {
			s.refuseStream(e.Stream, "The framework could not be recorded in the registry ("+err.Error()+"); subscribe again")
			return
		}
		if f := s.frameworks[id]; f != nil {
			// It came back twice at once, or agents brought it meanwhile.
			if !pending.cancelled {
				s.resubscribe(f, e)
			}
			return
		}
		f := s.addFramework(info, e.Principal, now)
		s.setSubscription(f, sub.GetSuppressedRoles(), sub.GetOfferConstraints())
		s.connect(f, e.Stream)
		s.operatorEvent(&masterv1.Event{
			Type:           masterv1.Event_FRAMEWORK_ADDED.Enum(),
			FrameworkAdded: &masterv1.Event_FrameworkAdded{Framework: s.frameworkProto(f)},
		})
		s.log(slog.LevelInfo, "framework subscribed", "framework_id", id, "name", info.GetName(), "roles", f.roles)
		if pending.cancelled {
			s.schedulerDisconnected(e.Stream)
		}
	})
}

func (s *State) newFrameworkID() ids.Framework {
	for {
		id := ids.Framework(formatFrameworkID(s.cfg.Master.GetId(), s.nextFramework))
		s.nextFramework++
		if s.frameworks[id] == nil && s.ended[id] == nil {
			return id
		}
	}
}

// refuseStream tells a scheduler why it can't have what it asked for and closes its stream.
func (s *State) refuseStream(stream StreamID, message string) {
	s.emit(&SendEvent{Stream: stream, Event: errorEvent(message)})
	s.emit(&CloseStream{Stream: stream})
}

func errorEvent(message string) *schedulerv1.Event {
	return &schedulerv1.Event{
		Type:  schedulerv1.Event_ERROR.Enum(),
		Error: &schedulerv1.Event_Error{Message: proto.String(message)},
	}
}

// resubscribe gives a known framework a new stream: the same scheduler again, or another one that takes over.
func (s *State) resubscribe(f *framework, e *SchedulerSubscribe) {
	sub := e.Call.GetSubscribe()
	info := sub.GetFrameworkInfo()
	if want := info.GetPrincipal(); want != "" && f.info.GetPrincipal() != "" && want != f.info.GetPrincipal() {
		s.refuseStream(e.Stream, "Changing framework's principal is not allowed")
		return
	}
	if f.connected() {
		s.emit(&SendEvent{Stream: f.stream, Event: errorEvent("Framework failed over")})
		s.emit(&CloseStream{Stream: f.stream})
		delete(s.streams, f.stream)
		f.stream = ""
	}
	// Offers of the old instance vanish without RESCIND: the new one never knew them.
	s.dropOffers(f, false)
	s.stop(f.removal)
	f.removal = nil

	updated := info.CloneVT()
	updated.Id = f.info.GetId()
	updated.User = f.info.User
	updated.Checkpoint = f.info.Checkpoint
	if updated.Principal == nil {
		updated.Principal = f.info.Principal
	}
	s.setInfo(f, updated)
	s.setSubscription(f, sub.GetSuppressedRoles(), sub.GetOfferConstraints())
	f.reregistered = s.now
	f.recovered = false
	s.storeQuietly([]Record{s.frameworkRecord(f, time.Time{})}, nil)
	s.connect(f, e.Stream)
	// Also when nothing changed: agents send what the old stream may have lost at once, and not when their time to repeat comes.
	s.tellAgentsOfFramework(f)
	s.operatorEvent(&masterv1.Event{
		Type:             masterv1.Event_FRAMEWORK_UPDATED.Enum(),
		FrameworkUpdated: &masterv1.Event_FrameworkUpdated{Framework: s.frameworkProto(f)},
	})
	s.log(slog.LevelInfo, "framework resubscribed", "framework_id", f.id, "name", f.info.GetName())
}

// addFramework makes the record of a framework that was unknown, not connected yet.
func (s *State) addFramework(info *mesosv1.FrameworkInfo, principal string, registered time.Time) *framework {
	f := &framework{
		id:         ids.Framework(info.GetId().GetValue()),
		principal:  principal,
		registered: registered,
		suppressed: map[string]bool{},
		tasks:      map[ids.Task]*task{},
		executors:  map[ids.Agent]map[ids.Executor]*executor{},
		offers:     map[ids.Offer]*offer{},
		inverse:    map[ids.Offer]*inverseOffer{},
		ops:        map[string]*operation{},
		counters: FrameworkCounters{
			Calls:         map[string]uint64{},
			Events:        map[string]uint64{},
			TerminalTasks: map[mesosv1.TaskState]uint64{},
			Operations:    map[string]uint64{},
		},
	}
	f.info = info
	f.caps = capabilitiesOf(info)
	f.roles = rolesOf(info)
	s.frameworks[f.id] = f
	s.check(s.alloc.AddFramework(f.id, f.allocatorInfo(s.cfg.OfferConstraintsMaxProgramSize), false), "a new framework")
	s.touchFramework(f)
	return f
}

func (s *State) setInfo(f *framework, info *mesosv1.FrameworkInfo) {
	f.info = info
	f.caps = capabilitiesOf(info)
	f.roles = rolesOf(info)
	s.touchFramework(f)
}

// setSubscription replaces the suppressed roles and the offer constraints, and tells the allocator.
func (s *State) setSubscription(f *framework, suppressed []string, constraints *schedulerv1.OfferConstraints) {
	f.suppressed = map[string]bool{}
	for _, r := range suppressed {
		f.suppressed[r] = true
	}
	f.constraints = constraints
	s.check(s.alloc.UpdateFramework(f.id, f.allocatorInfo(s.cfg.OfferConstraintsMaxProgramSize)), "a framework")
	s.touchFramework(f)
}

// connect makes the stream the framework's, sends SUBSCRIBED and starts offering.
func (s *State) connect(f *framework, stream StreamID) {
	f.stream = stream
	f.active = true
	f.recovered = false
	s.streams[stream] = f
	s.emit(&Session{Framework: f.id, Stream: stream, Principal: f.principal})
	s.send(f, &schedulerv1.Event{
		Type: schedulerv1.Event_SUBSCRIBED.Enum(),
		Subscribed: &schedulerv1.Event_Subscribed{
			FrameworkId:              f.info.GetId(),
			HeartbeatIntervalSeconds: proto.Float64(heartbeatSeconds),
			MasterInfo:               s.announced,
		},
	})
	s.alloc.SetFrameworkActive(f.id, true)
	s.touchFramework(f)
}

// announcedMaster is the MasterInfo that schedulers get. QUOTA_V2 is left out: JSON decoders of schedulers older than it refuse
// the whole event (seen with mesos-go v0.0.11), and no scheduler acts on it.
func announcedMaster(m *mesosv1.MasterInfo) *mesosv1.MasterInfo {
	m = m.CloneVT()
	m.Capabilities = slices.DeleteFunc(m.Capabilities, func(c *mesosv1.MasterInfo_Capability) bool {
		return c.GetType() == mesosv1.MasterInfo_Capability_QUOTA_V2
	})
	return m
}

// send sends an event to a framework if it is connected; otherwise it is dropped: what matters comes again.
func (s *State) send(f *framework, e *schedulerv1.Event) {
	if !f.connected() {
		return
	}
	f.counters.Events[e.GetType().String()]++
	s.emit(&SendEvent{Stream: f.stream, Event: e})
}

// schedulerDisconnected: the framework keeps its tasks and may come back within its failover timeout.
func (s *State) schedulerDisconnected(stream StreamID) {
	if p := s.subscribing[stream]; p != nil {
		p.cancelled = true
		return
	}
	f := s.streams[stream]
	if f == nil {
		return
	}
	delete(s.streams, stream)
	f.stream = ""
	f.active = false
	s.emit(&Session{Framework: f.id, Principal: f.principal})
	s.alloc.SetFrameworkActive(f.id, false)
	s.dropOffers(f, false)
	s.touchFramework(f)
	timeout := failoverTimeout(f.info)
	s.log(slog.LevelInfo, "framework disconnected", "framework_id", f.id, "failover_timeout", timeout)
	s.armRemoval(f, timeout)
	s.operatorEvent(&masterv1.Event{
		Type:             masterv1.Event_FRAMEWORK_UPDATED.Enum(),
		FrameworkUpdated: &masterv1.Event_FrameworkUpdated{Framework: s.frameworkProto(f)},
	})
}

// armRemoval gives a framework until now+timeout to subscribe. The deadline is in the registry, so that it also holds
// under a new leader.
func (s *State) armRemoval(f *framework, timeout time.Duration) {
	s.stop(f.removal)
	deadline := s.now.Add(timeout)
	if timeout > 0 {
		s.storeQuietly([]Record{s.frameworkRecord(f, deadline)}, nil)
	}
	f.removal = s.at(deadline, func() {
		s.log(slog.LevelInfo, "framework failover timeout expired", "framework_id", f.id)
		s.removeFramework(f)
	})
}

func (s *State) frameworkRecord(f *framework, deadline time.Time) Record {
	rec := &registryv1.Framework{Info: f.info, RegisteredTime: proto.Int64(f.registered.UnixNano()), Principal: proto.String(f.principal)}
	if !deadline.IsZero() {
		rec.FailoverDeadline = proto.Int64(deadline.UnixNano())
	}
	return record("frameworks/"+string(f.id), rec)
}

// removeFramework ends a framework for good (TEARDOWN, or its failover timeout): executors are shut down, tasks forgotten as
// KILLED without updates, and the id never comes back (facts 1.3).
func (s *State) removeFramework(f *framework) {
	s.stop(f.removal)
	f.removal = nil
	// Deactivated first, so that nothing that is freed below is offered to it.
	s.alloc.SetFrameworkActive(f.id, false)
	s.dropOffers(f, false)

	onAgents := map[*agent]struct{}{}
	for _, t := range sortedTasks(f.tasks) {
		if t.agent != nil {
			onAgents[t.agent] = struct{}{}
		}
		if !terminal(t.page.State()) {
			s.setTaskState(t, &mesosv1.TaskStatus{
				TaskId:    t.page.taskID(),
				State:     mesosv1.TaskState_TASK_KILLED.Enum(),
				Source:    mesosv1.TaskStatus_SOURCE_MASTER.Enum(),
				Reason:    mesosv1.TaskStatus_REASON_FRAMEWORK_REMOVED.Enum(),
				AgentId:   t.page.agentID(),
				Message:   proto.String("Framework " + string(f.id) + " removed"),
				Timestamp: proto.Float64(seconds(s.now)),
			}, mesosv1.TaskState_TASK_KILLED)
		}
		s.removeTask(t)
	}
	for aid, execs := range f.executors {
		if a := s.agents[aid]; a != nil {
			onAgents[a] = struct{}{}
			for _, x := range execs {
				s.free(f, a, x.res, nil)
			}
			delete(a.executors, f.id)
			s.touchAgent(a)
		}
	}
	f.executors = map[ids.Agent]map[ids.Executor]*executor{}
	for _, a := range sortedAgents(onAgents) {
		s.sendAgent(a, &linkv1.Message{Kind: &linkv1.Message_ShutdownFramework{
			ShutdownFramework: &linkv1.ShutdownFramework{FrameworkId: f.info.GetId()},
		}})
	}
	for _, op := range f.ops {
		op.framework = nil
	}
	s.alloc.RemoveFramework(f.id)
	if f.connected() {
		s.emit(&CloseStream{Stream: f.stream})
		delete(s.streams, f.stream)
		f.stream = ""
	}
	f.active = false
	delete(s.frameworks, f.id)
	delete(s.pages.dirtyFrameworks, f)
	s.pages.frameworks.Delete(f.id)
	s.emit(&Session{Framework: f.id, Ended: true})

	tomb := &registryv1.Framework{
		Info: f.info, RegisteredTime: proto.Int64(f.registered.UnixNano()), EndedTime: proto.Int64(s.now.UnixNano()), Principal: proto.String(f.principal),
	}
	s.ended[f.id] = tomb
	s.storeQuietly([]Record{record("frameworks/"+string(f.id), tomb)}, s.forgetOldTombstones())

	page := s.frameworkPage(f)
	page.UnregisteredTime = s.now
	s.completed = appendLimited(s.completed, page, s.cfg.MaxCompletedFrameworks)
	s.operatorEvent(&masterv1.Event{
		Type:             masterv1.Event_FRAMEWORK_REMOVED.Enum(),
		FrameworkRemoved: &masterv1.Event_FrameworkRemoved{FrameworkInfo: f.info},
	})
	s.log(slog.LevelInfo, "framework removed", "framework_id", f.id, "name", f.info.GetName())
}

// maxTombstones bounds how many ended frameworks the registry remembers. An id that is older than that could only come
// back by a scheduler that was away while this many others ended.
const maxTombstones = 10000

// forgetOldTombstones drops the oldest tenth when there are too many, so that the sort is rare.
func (s *State) forgetOldTombstones() (deletes []string) {
	if len(s.ended) <= maxTombstones {
		return nil
	}
	all := make([]ids.Framework, 0, len(s.ended))
	for id := range s.ended {
		all = append(all, id)
	}
	sort.Slice(all, func(i, j int) bool {
		a, b := s.ended[all[i]].GetEndedTime(), s.ended[all[j]].GetEndedTime()
		if a != b {
			return a < b
		}
		return all[i] < all[j]
	})
	for _, id := range all[:maxTombstones/10] {
		delete(s.ended, id)
		deletes = append(deletes, "frameworks/"+string(id))
	}
	return deletes
}

// updateFramework handles UPDATE_FRAMEWORK: 200, or 400 and nothing has changed.
func (s *State) updateFramework(f *framework, e *SchedulerCall) {
	u := e.Call.GetUpdateFramework()
	info := u.GetFrameworkInfo()
	if info.GetId().GetValue() != string(f.id) {
		s.reply(e.Token, 400, "'framework_info.id' must be the id of the framework that makes the call")
		return
	}
	if err := s.validateSubscription(info, u.GetSuppressedRoles(), u.GetOfferConstraints(), e.Principal); err != nil {
		status := 400
		if isForbidden(err) {
			status = 403
		}
		s.reply(e.Token, status, "%s", err.Error())
		return
	}
	switch {
	case info.GetUser() != f.info.GetUser():
		s.reply(e.Token, 400, "Updating 'FrameworkInfo.user' is unsupported")
		return
	case info.GetCheckpoint() != f.info.GetCheckpoint():
		s.reply(e.Token, 400, "Updating 'FrameworkInfo.checkpoint' is unsupported")
		return
	case info.Principal != nil && info.GetPrincipal() != f.info.GetPrincipal():
		s.reply(e.Token, 400, "Changing framework's principal is not allowed")
		return
	}
	updated := info.CloneVT()
	if updated.Principal == nil {
		updated.Principal = f.info.Principal
	}
	changed := !updated.EqualVT(f.info)
	s.setInfo(f, updated)
	for _, o := range sortedOffers(f.offers) {
		if !slices.Contains(f.roles, o.role) {
			s.rescind(o)
		}
	}
	s.setSubscription(f, u.GetSuppressedRoles(), u.GetOfferConstraints())
	if changed {
		s.storeQuietly([]Record{s.frameworkRecord(f, time.Time{})}, nil)
		s.tellAgentsOfFramework(f)
		s.operatorEvent(&masterv1.Event{
			Type:             masterv1.Event_FRAMEWORK_UPDATED.Enum(),
			FrameworkUpdated: &masterv1.Event_FrameworkUpdated{Framework: s.frameworkProto(f)},
		})
	}
	s.reply(e.Token, 200, "")
}

// tellAgentsOfFramework sends the new FrameworkInfo to the agents that run something of it.
func (s *State) tellAgentsOfFramework(f *framework) {
	on := map[*agent]struct{}{}
	for _, t := range f.tasks {
		if t.agent != nil {
			on[t.agent] = struct{}{}
		}
	}
	for aid := range f.executors {
		if a := s.agents[aid]; a != nil {
			on[a] = struct{}{}
		}
	}
	for _, a := range sortedAgents(on) {
		s.sendAgent(a, &linkv1.Message{Kind: &linkv1.Message_UpdateFramework{UpdateFramework: &linkv1.UpdateFramework{Framework: f.info}}})
	}
}

// failoverTimeout is FrameworkInfo.failover_timeout as a duration; it was validated when it came in.
func failoverTimeout(info *mesosv1.FrameworkInfo) time.Duration {
	return time.Duration(info.GetFailoverTimeout() * float64(time.Second))
}

func (s *State) touchFramework(f *framework) { s.pages.dirtyFrameworks[f] = struct{}{} }
func (s *State) touchAgent(a *agent)         { s.pages.dirtyAgents[a] = struct{}{} }
