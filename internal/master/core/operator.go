package core

import (
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	registryv1 "github.com/orchestrator/orchestrator/api/registry/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// operatorCall handles the calls of the operator API that change something. Each is answered by exactly one Reply; a call
// that the registry must keep is answered when it is durable.
func (s *State) operatorCall(e *OperatorCall) {
	c := e.Call
	switch c.GetType() {
	case masterv1.Call_TEARDOWN:
		s.teardown(e)
	case masterv1.Call_RESERVE_RESOURCES:
		r := c.GetReserveResources()
		s.operateFor(e.Token, e.Principal, r.GetAgentId(), &mesosv1.Offer_Operation{
			Type:    mesosv1.Offer_Operation_RESERVE.Enum(),
			Reserve: &mesosv1.Offer_Operation_Reserve{Source: r.GetSource(), Resources: r.GetResources()},
		})
	case masterv1.Call_UNRESERVE_RESOURCES:
		r := c.GetUnreserveResources()
		s.operateFor(e.Token, e.Principal, r.GetAgentId(), &mesosv1.Offer_Operation{
			Type:      mesosv1.Offer_Operation_UNRESERVE.Enum(),
			Unreserve: &mesosv1.Offer_Operation_Unreserve{Resources: r.GetResources()},
		})
	case masterv1.Call_CREATE_VOLUMES:
		r := c.GetCreateVolumes()
		s.operateFor(e.Token, e.Principal, r.GetAgentId(), &mesosv1.Offer_Operation{
			Type:   mesosv1.Offer_Operation_CREATE.Enum(),
			Create: &mesosv1.Offer_Operation_Create{Volumes: r.GetVolumes()},
		})
	case masterv1.Call_DESTROY_VOLUMES:
		r := c.GetDestroyVolumes()
		s.operateFor(e.Token, e.Principal, r.GetAgentId(), &mesosv1.Offer_Operation{
			Type:    mesosv1.Offer_Operation_DESTROY.Enum(),
			Destroy: &mesosv1.Offer_Operation_Destroy{Volumes: r.GetVolumes()},
		})
	case masterv1.Call_GROW_VOLUME:
		r := c.GetGrowVolume()
		s.operateFor(e.Token, e.Principal, r.GetAgentId(), &mesosv1.Offer_Operation{
			Type:       mesosv1.Offer_Operation_GROW_VOLUME.Enum(),
			GrowVolume: &mesosv1.Offer_Operation_GrowVolume{Volume: r.GetVolume(), Addition: r.GetAddition()},
		})
	case masterv1.Call_SHRINK_VOLUME:
		r := c.GetShrinkVolume()
		s.operateFor(e.Token, e.Principal, r.GetAgentId(), &mesosv1.Offer_Operation{
			Type:         mesosv1.Offer_Operation_SHRINK_VOLUME.Enum(),
			ShrinkVolume: &mesosv1.Offer_Operation_ShrinkVolume{Volume: r.GetVolume(), Subtract: r.GetSubtract()},
		})
	case masterv1.Call_UPDATE_MAINTENANCE_SCHEDULE:
		s.updateSchedule(e)
	case masterv1.Call_START_MAINTENANCE:
		s.startMaintenance(e)
	case masterv1.Call_STOP_MAINTENANCE:
		s.stopMaintenance(e)
	case masterv1.Call_UPDATE_QUOTA:
		s.updateQuota(e)
	case masterv1.Call_SET_QUOTA:
		s.setQuotaDeprecated(e)
	case masterv1.Call_REMOVE_QUOTA:
		s.removeQuotaDeprecated(e)
	case masterv1.Call_UPDATE_WEIGHTS:
		s.updateWeights(e)
	case masterv1.Call_DRAIN_AGENT:
		s.drainAgent(e)
	case masterv1.Call_DEACTIVATE_AGENT:
		s.deactivateAgent(e)
	case masterv1.Call_REACTIVATE_AGENT:
		s.reactivateAgent(e)
	case masterv1.Call_MARK_AGENT_GONE:
		s.markGone(ids.Agent(c.GetMarkAgentGone().GetAgentId().GetValue()), e.Token)
	default:
		s.reply(e.Token, 501, "%s is not a call that changes the master", c.GetType())
	}
}

func (s *State) teardown(e *OperatorCall) {
	f := s.frameworks[ids.Framework(e.Call.GetTeardown().GetFrameworkId().GetValue())]
	if f == nil {
		s.reply(e.Token, 400, "No framework found with specified ID")
		return
	}
	if !s.authorized(e.Principal, ActionTeardownFramework, f.info.GetPrincipal()) {
		s.reply(e.Token, 403, "not authorized to tear down frameworks of principal '%s'", f.info.GetPrincipal())
		return
	}
	s.removeFramework(f)
	s.reply(e.Token, 200, "")
}

// storeFailed answers a call whose registry write failed: nothing has changed.
func (s *State) storeFailed(t Token, err error) {
	s.reply(t, 503, "the registry could not be written: %v; nothing has changed, try again", err)
}

// findAgent gives where an agent is: registered, or its registry record.
func (s *State) findAgent(id ids.Agent) (a *agent, rec *registryv1.Agent, key string) {
	if a = s.agents[id]; a != nil {
		return a, nil, "agents/" + string(id)
	}
	if rec = s.recovered[id]; rec != nil {
		return nil, rec, "agents/" + string(id)
	}
	if rec = s.unreachable[id]; rec != nil {
		return nil, rec, "unreachable/" + string(id)
	}
	return nil, nil, ""
}

// changeAgent writes an agent's record changed by change, and then makes the same change to what is held.
func (s *State) changeAgent(t Token, id ids.Agent, change func(*registryv1.Agent), then func(*agent)) {
	a, rec, key := s.findAgent(id)
	var next *registryv1.Agent
	if a != nil {
		next = s.agentRecord(a)
	} else {
		next = rec.CloneVT()
	}
	change(next)
	s.store([]Record{record(key, next)}, nil, func(err error) {
		if err != nil {
			s.storeFailed(t, err)
			return
		}
		now, held, nowKey := s.findAgent(id)
		switch {
		case now != nil:
			now.drain = next.DrainInfo
			now.deactivated = next.GetDeactivated()
			now.drainStart = time.Time{}
			if next.DrainStartTime != nil {
				now.drainStart = time.Unix(0, next.GetDrainStartTime())
			}
			if a == nil {
				s.storeQuietly([]Record{record(nowKey, s.agentRecord(now))}, nil)
			}
			if !now.active() {
				s.rescindAgentOffers(now)
			}
			s.alloc.SetAgentActive(id, now.active())
			s.touchAgent(now)
		case held != nil:
			held.DrainInfo, held.Deactivated, held.DrainStartTime = next.DrainInfo, next.Deactivated, next.DrainStartTime
			if nowKey != key {
				s.storeQuietly([]Record{record(nowKey, held)}, nil)
			}
		}
		s.reply(t, 200, "")
		if now != nil && then != nil {
			then(now)
		}
	})
}

// drainAgent handles DRAIN_AGENT (facts 6): the agent is deactivated, its tasks are killed, and once nothing of them is
// left it is DRAINED.
func (s *State) drainAgent(e *OperatorCall) {
	d := e.Call.GetDrainAgent()
	id := ids.Agent(d.GetAgentId().GetValue())
	a, rec, _ := s.findAgent(id)
	switch {
	case s.gone[id] != nil:
		s.reply(e.Token, 400, "Agent %s is gone", id)
		return
	case a == nil && rec == nil:
		s.reply(e.Token, 400, "Unknown agent")
		return
	case a != nil && !a.has(mesosv1.AgentInfo_Capability_AGENT_DRAINING):
		s.reply(e.Token, 400, "Agent %s does not support draining", id)
		return
	case a != nil && a.moving == "gone":
		s.reply(e.Token, 409, "Agent %s is being marked gone", id)
		return
	case a != nil && a.drain != nil && a.drain.GetState() == mesosv1.DrainState_DRAINING && a.drain.GetConfig().GetMarkGone() && !d.GetMarkGone():
		s.reply(e.Token, 400, "Agent %s is draining and will be marked gone, which can't be taken back", id)
		return
	}
	cfg := &mesosv1.DrainConfig{MarkGone: proto.Bool(d.GetMarkGone())}
	if g := d.GetMaxGracePeriod(); g != nil {
		if !g.IsValid() || g.AsDuration() < 0 {
			s.reply(e.Token, 400, "'max_grace_period' must be a non-negative duration")
			return
		}
		cfg.MaxGracePeriod = &mesosv1.DurationInfo{Nanoseconds: proto.Int64(int64(g.AsDuration()))}
	}
	now := s.now
	s.changeAgent(e.Token, id, func(r *registryv1.Agent) {
		r.DrainInfo = &mesosv1.DrainInfo{State: mesosv1.DrainState_DRAINING.Enum(), Config: cfg}
		r.Deactivated = proto.Bool(true)
		r.DrainStartTime = proto.Int64(now.UnixNano())
	}, func(a *agent) {
		s.log(slog.LevelInfo, "draining agent", "agent_id", a.id, "mark_gone", cfg.GetMarkGone())
		s.sendAgent(a, &linkv1.Message{Kind: &linkv1.Message_Drain{Drain: &linkv1.Drain{Config: cfg}}})
		s.checkDrained(a)
	})
}

// checkDrained ends a drain once no task and no operation is left on the agent.
func (s *State) checkDrained(a *agent) {
	if a.drain == nil || a.drain.GetState() != mesosv1.DrainState_DRAINING || len(a.tasks) > 0 || len(a.ops) > 0 || a.moving != "" || s.agents[a.id] != a {
		return
	}
	if a.drain.GetConfig().GetMarkGone() {
		s.log(slog.LevelInfo, "agent drained, marking it gone", "agent_id", a.id)
		s.markGone(a.id, 0)
		return
	}
	done := &mesosv1.DrainInfo{State: mesosv1.DrainState_DRAINED.Enum(), Config: a.drain.GetConfig()}
	a.drain = done
	s.touchAgent(a)
	s.log(slog.LevelInfo, "agent drained", "agent_id", a.id)
	s.storeQuietly([]Record{record("agents/"+string(a.id), s.agentRecord(a))}, nil)
}

func (s *State) deactivateAgent(e *OperatorCall) {
	id := ids.Agent(e.Call.GetDeactivateAgent().GetAgentId().GetValue())
	a, rec, _ := s.findAgent(id)
	if a == nil && rec == nil {
		s.reply(e.Token, 400, "Unknown agent")
		return
	}
	s.changeAgent(e.Token, id, func(r *registryv1.Agent) { r.Deactivated = proto.Bool(true) }, nil)
}

func (s *State) reactivateAgent(e *OperatorCall) {
	id := ids.Agent(e.Call.GetReactivateAgent().GetAgentId().GetValue())
	a, rec, _ := s.findAgent(id)
	var deactivated bool
	var drain *mesosv1.DrainInfo
	switch {
	case a != nil:
		deactivated, drain = a.deactivated, a.drain
	case rec != nil:
		deactivated, drain = rec.GetDeactivated(), rec.GetDrainInfo()
	default:
		s.reply(e.Token, 400, "Unknown agent")
		return
	}
	if !deactivated {
		s.reply(e.Token, 400, "Agent %s is not deactivated", id)
		return
	}
	if drain.GetState() == mesosv1.DrainState_DRAINING {
		s.reply(e.Token, 400, "Agent %s is still draining: wait until it is DRAINED", id)
		return
	}
	s.changeAgent(e.Token, id, func(r *registryv1.Agent) {
		r.Deactivated, r.DrainInfo, r.DrainStartTime = nil, nil, nil
	}, func(a *agent) {
		s.sendAgent(a, &linkv1.Message{Kind: &linkv1.Message_Undrain{Undrain: &linkv1.Undrain{}}})
	})
}

// markGone handles MARK_AGENT_GONE: the agent never comes back, and its tasks are gone by an operator's word.
func (s *State) markGone(id ids.Agent, t Token) {
	if s.gone[id] != nil {
		s.reply(t, 200, "")
		return
	}
	a, rec, key := s.findAgent(id)
	if a == nil && rec == nil {
		s.reply(t, 404, "Agent not found")
		return
	}
	if a != nil && a.moving != "" {
		s.reply(t, 503, "Agent %s is being marked %s; try again", id, a.moving)
		return
	}
	var next *registryv1.Agent
	if a != nil {
		a.moving = "gone"
		s.alloc.SetAgentActive(id, false)
		s.rescindAgentOffers(a)
		next = s.agentRecord(a)
	} else {
		next = rec.CloneVT()
	}
	now := s.now
	next.GoneTime = proto.Int64(now.UnixNano())
	s.store([]Record{record("gone/"+string(id), next)}, []string{key}, func(err error) {
		if a != nil {
			a.moving = ""
		}
		if err != nil {
			if a != nil {
				s.alloc.SetAgentActive(id, a.active())
			}
			s.storeFailed(t, err)
			return
		}
		s.gone[id] = next
		s.pages.gone.Set(id, now)
		delete(s.recovered, id)
		s.pages.recovered.Delete(id)
		delete(s.unreachable, id)
		s.pages.unreachable.Delete(id)
		s.log(slog.LevelInfo, "agent marked gone", "agent_id", id)
		const message = "Agent was marked gone by an operator"
		if held := s.agents[id]; held != nil {
			s.counters.AgentRemovals++
			s.sendAgent(held, &linkv1.Message{Kind: &linkv1.Message_Shutdown{Shutdown: &linkv1.Shutdown{Message: proto.String(message)}}})
			s.forgetAgent(held, mesosv1.TaskState_TASK_GONE_BY_OPERATOR, mesosv1.TaskStatus_REASON_AGENT_REMOVED_BY_OPERATOR, message, nil)
		}
		s.endUnreachable(id, message)
		s.reply(t, 200, "")
	})
}

// endUnreachable: the unreachable tasks of an agent that is gone will not come back either.
func (s *State) endUnreachable(id ids.Agent, message string) {
	for _, f := range s.sortedFrameworks() {
		var lost []ids.Task
		f.unreachable.Scan(func(tid ids.Task, p *TaskPage) bool {
			if p.Agent() == id {
				lost = append(lost, tid)
			}
			return true
		})
		for _, tid := range lost {
			p, _ := f.forgetUnreachable(tid)
			st := s.masterStatus(f, p.taskID(), p.agentID(), mesosv1.TaskState_TASK_GONE_BY_OPERATOR,
				mesosv1.TaskStatus_REASON_AGENT_REMOVED_BY_OPERATOR, message)
			f.completed = appendLimited(f.completed, p.withState(mesosv1.TaskState_TASK_GONE_BY_OPERATOR), s.cfg.MaxCompletedTasksPerFramework)
			s.countState(mesosv1.TaskState_TASK_GONE_BY_OPERATOR, st)
			s.sendUpdate(f, st)
			s.touchFramework(f)
		}
	}
}
