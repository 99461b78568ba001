package cluster

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// scheduler models a framework: it launches small tasks, acknowledges, reconciles, and checks what it sees.
type scheduler struct {
	w       *World
	n       int
	aware   bool // PARTITION_AWARE
	keeps   bool // it has persistent volumes
	info    *mesosv1.FrameworkInfo
	id      ids.Framework
	stream  core.StreamID
	opened  bool // SUBSCRIBED has come
	streams int
	last    time.Time // when the last event arrives
	next    int
	tasks   map[ids.Task]*wanted
	// suppressed is the stream on which it has said that it wants no more offers.
	suppressed core.StreamID
}

// wanted is a task as its scheduler knows it.
type wanted struct {
	id    ids.Task
	agent *mesosv1.AgentID
	state mesosv1.TaskState
	// final: its agent said so. lost: the master said so, who may be proved wrong later.
	final bool
	lost  bool
	uuids map[string]bool
	ends  map[string]bool // uuids of final updates
}

func newScheduler(w *World, n int) *scheduler {
	s := &scheduler{w: w, n: n, aware: n%2 == 0, tasks: map[ids.Task]*wanted{}}
	s.info = &mesosv1.FrameworkInfo{
		User: proto.String("root"), Name: proto.String(fmt.Sprintf("framework%d", n)), Checkpoint: proto.Bool(true),
		FailoverTimeout: proto.Float64(86400),
	}
	if s.aware {
		s.info.Capabilities = append(s.info.Capabilities, &mesosv1.FrameworkInfo_Capability{Type: mesosv1.FrameworkInfo_Capability_PARTITION_AWARE.Enum()})
	}
	if n%3 == 0 {
		s.info.Capabilities = append(s.info.Capabilities, &mesosv1.FrameworkInfo_Capability{Type: mesosv1.FrameworkInfo_Capability_MULTI_ROLE.Enum()})
		s.info.Roles = []string{fmt.Sprintf("team%d", n%7), "batch"}
	}
	if n%4 == 1 && len(s.info.Roles) == 0 {
		s.keeps = true
		s.info.Role = proto.String(fmt.Sprintf("keeper%d", n))
		s.info.Capabilities = append(s.info.Capabilities, &mesosv1.FrameworkInfo_Capability{Type: mesosv1.FrameworkInfo_Capability_RESERVATION_REFINEMENT.Enum()})
	}
	return s
}

// connect subscribes, again and again while nobody leads.
func (s *scheduler) connect() {
	if s.stream != "" {
		return
	}
	if !s.w.master.up() {
		s.w.after(s.w.between(100*time.Millisecond, 3*time.Second), s.connect)
		return
	}
	s.streams++
	s.opened = false
	s.stream = core.StreamID(fmt.Sprintf("f%d-%d", s.n, s.streams))
	info := s.info.CloneVT()
	call := &schedulerv1.Call{Type: schedulerv1.Call_SUBSCRIBE.Enum(), Subscribe: &schedulerv1.Call_Subscribe{FrameworkInfo: info}}
	if s.id != "" {
		info.Id = &mesosv1.FrameworkID{Value: proto.String(string(s.id))}
		call.FrameworkId = info.Id
	}
	stream := s.stream
	s.w.master.streams[stream] = s
	s.toMaster(func() core.Event { return &core.SchedulerSubscribe{Stream: stream, Call: call} })
	// Once in a while the answer does not come (a leader that dies unnoticed): try again.
	s.w.after(30*time.Second, func() {
		if s.stream == stream && !s.opened {
			s.disconnect()
		}
	})
}

func (s *scheduler) toMaster(event func() core.Event) {
	term := s.w.master.terms
	at := s.w.now.Add(s.w.hop())
	if at.Before(s.last) {
		at = s.last
	}
	s.last = at
	s.w.at(at, func() {
		if s.w.master.up() && s.w.master.terms == term {
			s.w.master.step(event())
		}
	})
}

func (s *scheduler) call(c *schedulerv1.Call) {
	if s.stream == "" || !s.opened {
		return
	}
	c.FrameworkId = &mesosv1.FrameworkID{Value: proto.String(string(s.id))}
	stream := s.stream
	s.toMaster(func() core.Event { return &core.SchedulerCall{Stream: stream, Call: c} })
}

// disconnect drops the stream and comes back.
func (s *scheduler) disconnect() {
	if s.stream == "" {
		return
	}
	stream := s.stream
	s.stream, s.opened = "", false
	if s.w.master.up() {
		delete(s.w.master.streams, stream)
		s.toMaster(func() core.Event { return &core.SchedulerDisconnected{Stream: stream} })
	}
	s.w.after(s.w.between(10*time.Millisecond, 5*time.Second), s.connect)
}

// streamLost: the leader is gone.
func (s *scheduler) streamLost() {
	if s.stream != "" {
		s.stream, s.opened = "", false
		s.w.after(s.w.between(10*time.Millisecond, 5*time.Second), s.connect)
	}
}

func (s *scheduler) closed(stream core.StreamID) {
	s.w.after(s.w.hop(), func() {
		if s.stream == stream {
			s.stream, s.opened = "", false
			s.w.after(s.w.between(10*time.Millisecond, 5*time.Second), s.connect)
		}
	})
}

func (s *scheduler) deliver(stream core.StreamID, e *schedulerv1.Event) {
	at := s.w.now.Add(s.w.hop())
	if at.Before(s.last) {
		at = s.last
	}
	s.last = at
	s.w.at(at, func() {
		if s.stream == stream {
			s.handle(e)
		}
	})
}

func (s *scheduler) handle(e *schedulerv1.Event) {
	switch e.GetType() {
	case schedulerv1.Event_SUBSCRIBED:
		id := ids.Framework(e.GetSubscribed().GetFrameworkId().GetValue())
		if s.id != "" && s.id != id {
			s.w.fail("framework %s came back as %s", s.id, id)
		}
		s.id, s.opened = id, true
		s.reconcile()
	case schedulerv1.Event_OFFERS:
		for _, o := range e.GetOffers().GetOffers() {
			s.offer(o)
		}
	case schedulerv1.Event_UPDATE:
		s.update(e.GetUpdate().GetStatus())
	case schedulerv1.Event_UPDATE_OPERATION_STATUS:
		s.operationUpdate(e.GetUpdateOperationStatus().GetStatus())
	case schedulerv1.Event_ERROR:
		if e.GetError().GetMessage() != "Framework failed over" {
			s.w.fail("framework %s gets ERROR %q", s.id, e.GetError().GetMessage())
		}
	}
}

// offer launches some tasks or declines, after a moment of thought.
func (s *scheduler) offer(o *mesosv1.Offer) {
	s.w.after(s.w.between(0, 200*time.Millisecond), func() {
		res := resources.FromProtoTrusted(o.GetResources()).Quantities()
		room := int(min(res.Get("cpus").Float()/0.5, res.Get("mem").Float()/128))
		if s.w.calm || room == 0 || s.w.chance(0.3) {
			refuse := float64(s.w.rng.IntN(60))
			if s.w.calm {
				refuse = 86400
			}
			if s.w.calm && s.suppressed != s.stream {
				s.suppressed = s.stream
				s.call(&schedulerv1.Call{Type: schedulerv1.Call_SUPPRESS.Enum()})
			}
			s.call(&schedulerv1.Call{Type: schedulerv1.Call_DECLINE.Enum(), Decline: &schedulerv1.Call_Decline{
				OfferIds: []*mesosv1.OfferID{o.GetId()}, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(refuse)},
			}})
			return
		}
		if s.stream == "" || !s.opened {
			return
		}
		var tasks []*mesosv1.TaskInfo
		for range 1 + s.w.rng.IntN(min(room, 3)) {
			s.next++
			id := ids.Task(fmt.Sprintf("f%d-t%d", s.n, s.next))
			s.tasks[id] = &wanted{id: id, agent: o.GetAgentId(), state: mesosv1.TaskState_TASK_STAGING, uuids: map[string]bool{}, ends: map[string]bool{}}
			s.w.launched++
			tasks = append(tasks, &mesosv1.TaskInfo{
				Name: proto.String(string(id)), TaskId: &mesosv1.TaskID{Value: proto.String(string(id))}, AgentId: o.GetAgentId(),
				Resources: resources.MustParse("cpus:0.5;mem:128").Proto(), Command: &mesosv1.CommandInfo{Value: proto.String("work")},
			})
			if s.w.chance(0.1) {
				s.w.after(s.w.between(0, 2*time.Minute), func() { s.kill(id) })
			}
		}
		s.call(&schedulerv1.Call{Type: schedulerv1.Call_ACCEPT.Enum(), Accept: &schedulerv1.Call_Accept{
			OfferIds: []*mesosv1.OfferID{o.GetId()}, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(float64(s.w.rng.IntN(30)))},
			Operations: append(s.resize(o), &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_LAUNCH.Enum(), Launch: &mesosv1.Offer_Operation_Launch{TaskInfos: tasks}}),
		}})
	})
}

func (s *scheduler) kill(id ids.Task) {
	if t := s.tasks[id]; !t.final {
		s.call(&schedulerv1.Call{Type: schedulerv1.Call_KILL.Enum(), Kill: &schedulerv1.Call_Kill{
			TaskId: &mesosv1.TaskID{Value: proto.String(string(id))}, AgentId: t.agent,
		}})
	}
}

// reconcile asks about every task that is not known to have ended, and again later.
func (s *scheduler) reconcile() {
	stream := s.stream
	c := &schedulerv1.Call_Reconcile{}
	for _, id := range slices.Sorted(maps.Keys(s.tasks)) {
		if t := s.tasks[id]; !t.final {
			c.Tasks = append(c.Tasks, &schedulerv1.Call_Reconcile_Task{TaskId: &mesosv1.TaskID{Value: proto.String(string(id))}, AgentId: t.agent})
		}
	}
	if len(c.Tasks) > 0 {
		s.call(&schedulerv1.Call{Type: schedulerv1.Call_RECONCILE.Enum(), Reconcile: c})
	}
	s.w.after(s.w.between(time.Minute, 3*time.Minute), func() {
		if s.stream == stream {
			s.reconcile()
		}
	})
}

// update checks a status against what was seen before, and acknowledges it.
func (s *scheduler) update(st *mesosv1.TaskStatus) {
	id := ids.Task(st.GetTaskId().GetValue())
	t := s.tasks[id]
	if t == nil {
		s.w.fail("framework %s gets an update of task %s, which it never launched", s.id, id)
		return
	}
	s.w.note("framework %d hears %s %s (%s)", s.n, id, st.GetState(), st.GetReason())
	fromMaster := st.GetSource() == mesosv1.TaskStatus_SOURCE_MASTER
	end := ended(st.GetState())
	if t.final {
		// Final is final: what its agent said last, the master and the agent may only repeat.
		repeat := st.GetState() == t.state || fromMaster && (st.GetState() == mesosv1.TaskState_TASK_LOST || st.GetState() == mesosv1.TaskState_TASK_GONE ||
			st.GetState() == mesosv1.TaskState_TASK_UNKNOWN || st.GetState() == mesosv1.TaskState_TASK_UNREACHABLE)
		if !repeat && !(st.Uuid != nil && t.uuids[string(st.GetUuid())]) {
			s.w.fail("task %s of framework %s was %s and is now %s (source %s, reason %s)", id, s.id, t.state, st.GetState(), st.GetSource(), st.GetReason())
		}
	} else {
		t.state = st.GetState()
		t.final = end && !fromMaster
		t.lost = fromMaster && (end || st.GetState() == mesosv1.TaskState_TASK_UNREACHABLE || st.GetState() == mesosv1.TaskState_TASK_UNKNOWN)
	}
	if st.Uuid == nil {
		return
	}
	t.uuids[string(st.GetUuid())] = true
	if end {
		if t.ends[string(st.GetUuid())] = true; len(t.ends) > 1 {
			s.w.fail("the end of task %s of framework %s is told under two uuids", id, s.id)
		}
	}
	ack := func() {
		s.call(&schedulerv1.Call{Type: schedulerv1.Call_ACKNOWLEDGE.Enum(), Acknowledge: &schedulerv1.Call_Acknowledge{
			AgentId: st.GetAgentId(), TaskId: st.GetTaskId(), Uuid: st.GetUuid(),
		}})
	}
	if s.w.calm || s.w.chance(0.95) { // some are forgotten, and must come again
		s.w.after(s.w.between(0, 50*time.Millisecond), ack)
	}
}

func ended(st mesosv1.TaskState) bool {
	switch st {
	case mesosv1.TaskState_TASK_FINISHED, mesosv1.TaskState_TASK_FAILED, mesosv1.TaskState_TASK_KILLED, mesosv1.TaskState_TASK_LOST,
		mesosv1.TaskState_TASK_ERROR, mesosv1.TaskState_TASK_DROPPED, mesosv1.TaskState_TASK_GONE, mesosv1.TaskState_TASK_GONE_BY_OPERATOR:
		return true
	}
	return false
}
