package core

import (
	"bytes"
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
	registryv1 "github.com/orchestrator/orchestrator/api/registry/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// reregister takes an agent back that has an id: after its connection broke, after a fail-over of the master, or after it
// was unreachable. It brings the truth about what it runs.
func (s *State) reregister(c *conn, r *linkv1.Reregister) {
	if c.pending {
		return
	}
	info := r.GetAgent().GetInfo()
	id := ids.Agent(info.GetId().GetValue())
	if err := ids.Validate(string(id)); err != nil {
		s.refuse(c, false, "invalid agent id: %v", err)
		return
	}
	if _, ok := s.gone[id]; ok {
		s.refuse(c, true, "the agent was marked gone by an operator")
		return
	}
	if s.machineDown(info, r.GetAgent().GetAddress()) {
		s.refuse(c, true, "the machine is down for maintenance")
		return
	}
	total, err := s.checkRegistration(r.GetAgent())
	if err != nil {
		s.refuse(c, false, "%v", err)
		return
	}
	if a := s.agents[id]; a != nil {
		switch {
		case a.moving != "":
			s.refuse(c, false, "the agent is being marked %s; try again", a.moving)
		case a.conn != 0 && a.conn != c.id && a.address != r.GetAgent().GetAddress():
			s.refuse(c, false, "an agent with this id is connected from %s: two agents use copies of one work directory", a.address)
		default:
			s.reconnect(a, c, r, total)
		}
		return
	}

	was := s.recovered[id]
	from := "registry"
	if was == nil {
		was, from = s.unreachable[id], "unreachable"
	}
	if was == nil {
		was, from = &registryv1.Agent{}, "unknown"
	}
	rec := &registryv1.Agent{
		Info: info, DrainInfo: was.DrainInfo, Deactivated: was.Deactivated, DrainStartTime: was.DrainStartTime, Address: r.GetAgent().Address,
	}
	done := func(err error) {
		c.pending = false
		if err != nil {
			if !c.closed {
				s.refuse(c, false, "the agent could not be readmitted into the registry: %v", err)
			}
			return
		}
		s.readmit(id, c, r, rec, total, from)
	}
	if from == "registry" && info.EqualVT(was.GetInfo()) {
		done(nil) // nothing to write: it never left
		return
	}
	c.pending = true
	s.store([]Record{record("agents/"+string(id), rec)}, []string{"unreachable/" + string(id)}, done)
}

// readmit makes an agent registered that this leader had not, with all that it runs.
func (s *State) readmit(id ids.Agent, c *conn, r *linkv1.Reregister, rec *registryv1.Agent, total resources.Resources, from string) {
	if s.recovered[id] != nil {
		s.agentCameBack()
	}
	delete(s.recovered, id)
	s.pages.recovered.Delete(id)
	delete(s.unreachable, id)
	s.pages.unreachable.Delete(id)

	a := s.addAgent(rec.GetInfo(), r.GetAgent(), total)
	a.registered = s.now
	a.reregistered = s.now
	a.deactivated = rec.GetDeactivated()
	a.drain = rec.DrainInfo
	if rec.DrainStartTime != nil {
		a.drainStart = time.Unix(0, rec.GetDrainStartTime())
	}
	s.counters.AgentReregistrations++
	if c.closed {
		// It left while the registry was written. It is registered and disconnected, as if it had left just after.
		s.admit(a, nil)
		s.schedulePing(a)
		s.takeOver(a, r)
		return
	}
	s.attach(a, c)
	s.admit(a, nil)
	ended := s.takeOver(a, r)
	s.sendAgent(a, registered(a, s.cfg, true, nil, ended))
	s.remindAgent(a, r)
	s.agentAdded(a)
	s.log(slog.LevelInfo, "agent re-registered", "agent_id", id, "hostname", a.info.GetHostname(), "from", from, "tasks", len(r.GetTasks()))
}

// reconnect takes back an agent that this leader holds as registered.
func (s *State) reconnect(a *agent, c *conn, r *linkv1.Reregister, total resources.Resources) {
	info := r.GetAgent().GetInfo()
	infoChanged := !info.EqualVT(a.info)
	s.describeAgent(a, info, r.GetAgent(), total)
	if infoChanged {
		s.storeQuietly([]Record{record("agents/"+string(a.id), s.agentRecord(a))}, nil)
	}
	a.reregistered = s.now
	s.counters.AgentReregistrations++
	s.rescindAgentOffers(a)
	s.attach(a, c)

	// What the agent does not know of: a task that it never got, or one that it forgot after its last update was acknowledged.
	reported := make(map[killKey]bool, len(r.GetTasks()))
	for _, t := range r.GetTasks() {
		reported[killKey{ids.Framework(t.GetFrameworkId().GetValue()), ids.Task(t.GetTaskId().GetValue())}] = true
	}
	var expected []*linkv1.ExpectedTask
	for _, t := range tasksOf(a) {
		if reported[killKey{t.framework.id, t.id}] {
			continue
		}
		if terminal(t.page.State()) {
			s.removeTask(t)
			continue
		}
		expected = append(expected, &linkv1.ExpectedTask{
			FrameworkId: t.page.frameworkID(), TaskId: t.page.taskID(), ExecutorId: t.page.executorID(),
			FrameworkCapabilities: t.framework.info.GetCapabilities(),
		})
	}
	s.dropMissingExecutors(a, r)
	s.endWaits(a)
	s.updateAllocatorAgent(a)
	s.alloc.SetAgentActive(a.id, a.active())
	ended := s.takeOver(a, r)
	s.sendAgent(a, registered(a, s.cfg, true, expected, ended))
	s.remindAgent(a, r)
	s.dropUnreported(a, r)
	s.log(slog.LevelInfo, "agent reconnected", "agent_id", a.id, "hostname", a.info.GetHostname(), "tasks", len(r.GetTasks()), "missing", len(expected))
}

// dropMissingExecutors frees the executors that the agent no longer has.
func (s *State) dropMissingExecutors(a *agent, r *linkv1.Reregister) {
	has := map[[2]string]bool{}
	for _, x := range r.GetExecutors() {
		has[[2]string{x.GetFrameworkId().GetValue(), x.GetInfo().GetExecutorId().GetValue()}] = true
	}
	for _, fid := range slices.Sorted(maps.Keys(a.executors)) {
		f := s.frameworks[fid]
		for _, eid := range slices.Sorted(maps.Keys(a.executors[fid])) {
			if has[[2]string{string(fid), string(eid)}] || f == nil {
				continue
			}
			// An executor whose task is still on the way to the agent comes with the answer to expected_tasks.
			s.free(f, a, a.executors[fid][eid].res, nil)
			delete(a.executors[fid], eid)
			delete(f.executors[a.id], eid)
			s.touchFramework(f)
		}
		if len(a.executors[fid]) == 0 {
			delete(a.executors, fid)
			if f != nil {
				delete(f.executors, a.id)
			}
		}
	}
}

// takeOver makes the agent's frameworks, executors, tasks and operations the master's. It gives the frameworks that have
// ended, which the agent must shut down.
func (s *State) takeOver(a *agent, r *linkv1.Reregister) (ended []*mesosv1.FrameworkID) {
	for _, info := range r.GetFrameworks() {
		id := ids.Framework(info.GetId().GetValue())
		if _, gone := s.ended[id]; gone {
			ended = append(ended, info.GetId())
			continue
		}
		if s.frameworks[id] == nil && id != "" {
			s.recoverFramework(info)
		}
	}
	for _, x := range r.GetExecutors() {
		f := s.frameworks[ids.Framework(x.GetFrameworkId().GetValue())]
		eid := ids.Executor(x.GetInfo().GetExecutorId().GetValue())
		if f == nil || f.executors[a.id][eid] != nil {
			continue
		}
		res, err := resources.FromProto(x.GetInfo().GetResources())
		if err != nil {
			s.log(slog.LevelWarn, "agent reports an executor with invalid resources", "agent_id", a.id, "framework_id", f.id, "executor_id", eid, "error", err)
			continue
		}
		s.occupy(f, a, res)
		s.addExecutor(f, a, x.GetInfo(), res)
	}
	for _, p := range r.GetTasks() {
		s.takeTask(a, p)
	}
	for _, op := range r.GetOperations() {
		s.takeOperation(a, op)
	}
	return ended
}

// takeTask makes a task that the agent reports the master's.
func (s *State) takeTask(a *agent, p *mesosv1.Task) {
	f := s.frameworks[ids.Framework(p.GetFrameworkId().GetValue())]
	if f == nil {
		return // of an ended framework, or of one that the agent does not name: it is shut down
	}
	id := ids.Task(p.GetTaskId().GetValue())
	if t := f.tasks[id]; t != nil {
		if t.agent != a {
			s.log(slog.LevelWarn, "task is reported by a second agent: killing it there", "framework_id", f.id, "task_id", id, "agent_id", a.id, "other", t.agent.id)
			s.sendKill(a, p.GetFrameworkId(), p.GetTaskId(), nil)
			return
		}
		if terminal(p.GetState()) && !terminal(t.page.State()) {
			s.setTaskState(t, statusInFlight(p), p.GetState())
		}
		return
	}
	res := resources.Resources{}
	if !terminal(p.GetState()) {
		var err error
		if res, err = resources.FromProto(p.GetResources()); err != nil {
			s.log(slog.LevelWarn, "agent reports a task with invalid resources", "agent_id", a.id, "framework_id", f.id, "task_id", id, "error", err)
		}
		s.occupy(f, a, res)
	}
	_, back := f.forgetUnreachable(id)
	s.addTask(f, a, p, res)
	if back && !terminal(p.GetState()) {
		// It was reported lost or unreachable and runs on (facts 6).
		st := s.masterStatus(f, p.GetTaskId(), p.GetAgentId(), p.GetState(), mesosv1.TaskStatus_REASON_AGENT_REREGISTERED, "Unreachable agent re-registered")
		s.sendUpdate(f, st)
		s.operatorEvent(&masterv1.Event{
			Type:        masterv1.Event_TASK_UPDATED.Enum(),
			TaskUpdated: &masterv1.Event_TaskUpdated{FrameworkId: p.FrameworkId, Status: st, State: p.State},
		})
	}
}

// lastStatus is the newest status that a reported task carries.
func lastStatus(p *mesosv1.Task) *mesosv1.TaskStatus {
	if n := len(p.GetStatuses()); n > 0 {
		return p.Statuses[n-1]
	}
	return &mesosv1.TaskStatus{TaskId: p.TaskId, State: p.State, AgentId: p.AgentId}
}

// statusInFlight is the status that an agent is sending of a task, after which there may be others; without one, the last.
func statusInFlight(p *mesosv1.Task) *mesosv1.TaskStatus {
	if p.StatusUpdateUuid == nil {
		return lastStatus(p)
	}
	for _, st := range p.GetStatuses() {
		if bytes.Equal(st.GetUuid(), p.GetStatusUpdateUuid()) {
			return st
		}
	}
	// The history keeps one status a state, and a later one of the same state has taken this one's place.
	return &mesosv1.TaskStatus{TaskId: p.TaskId, State: p.StatusUpdateState, Uuid: p.StatusUpdateUuid, AgentId: p.AgentId, ExecutorId: p.ExecutorId}
}

// recoverFramework makes a framework known of which an agent tells. Its scheduler gets at least the time that agents get
// to come back after an election, because it may not have found this leader yet.
func (s *State) recoverFramework(info *mesosv1.FrameworkInfo) {
	f := s.addFramework(info, info.GetPrincipal(), s.now)
	f.recovered = true
	s.emit(&Session{Framework: f.id, Principal: f.principal})
	s.armRemoval(f, max(failoverTimeout(info), s.cfg.AgentReregisterTimeout))
	s.operatorEvent(&masterv1.Event{
		Type:           masterv1.Event_FRAMEWORK_ADDED.Enum(),
		FrameworkAdded: &masterv1.Event_FrameworkAdded{Framework: s.frameworkProto(f)},
	})
	s.log(slog.LevelInfo, "framework recovered from an agent", "framework_id", f.id, "name", info.GetName())
}

// remindAgent repeats to a re-registered agent what it may have missed: kills, drains, framework changes.
func (s *State) remindAgent(a *agent, r *linkv1.Reregister) {
	for _, info := range r.GetFrameworks() {
		if f := s.frameworks[ids.Framework(info.GetId().GetValue())]; f != nil && !f.info.EqualVT(info) {
			s.sendAgent(a, &linkv1.Message{Kind: &linkv1.Message_UpdateFramework{UpdateFramework: &linkv1.UpdateFramework{Framework: f.info}}})
		}
	}
	keys := slices.SortedFunc(maps.Keys(a.kills), func(x, y killKey) int {
		return strings.Compare(fmt.Sprint(x.framework, "/", x.task), fmt.Sprint(y.framework, "/", y.task))
	})
	for _, k := range keys {
		f := s.frameworks[k.framework]
		if f == nil || f.tasks[k.task] == nil || f.tasks[k.task].agent != a || terminal(f.tasks[k.task].page.State()) {
			delete(a.kills, k)
			continue
		}
		s.sendKill(a, f.info.GetId(), f.tasks[k.task].page.taskID(), a.kills[k])
	}
	switch {
	case a.drain != nil && a.drain.GetState() == mesosv1.DrainState_DRAINING:
		s.sendAgent(a, &linkv1.Message{Kind: &linkv1.Message_Drain{Drain: &linkv1.Drain{Config: a.drain.GetConfig()}}})
		s.checkDrained(a)
	case a.drain == nil && r.DrainConfig != nil:
		// Reactivated while it was away.
		s.sendAgent(a, &linkv1.Message{Kind: &linkv1.Message_Undrain{Undrain: &linkv1.Undrain{}}})
	}
}

// recover reads what the registry holds when this leader begins.
func (s *State) recover(reg Registry) error {
	for _, rec := range reg {
		kind, id, _ := strings.Cut(rec.Key, "/")
		var err error
		switch kind {
		case "agents", "unreachable", "gone":
			a := &registryv1.Agent{}
			if err = proto.Unmarshal(rec.Value, a); err == nil {
				s.recoverAgent(kind, ids.Agent(id), a)
			}
		case "frameworks":
			f := &registryv1.Framework{}
			if err = proto.Unmarshal(rec.Value, f); err == nil {
				s.recoverFrameworkRecord(f)
			}
		case "quota":
			q := &registryv1.Quota{}
			if err = proto.Unmarshal(rec.Value, q); err == nil {
				s.setQuota(q.GetConfig())
			}
		case "weights":
			w := &registryv1.Weight{}
			if err = proto.Unmarshal(rec.Value, w); err == nil {
				s.weights[w.GetRole()] = w.GetWeight()
				s.check(s.alloc.SetWeight(w.GetRole(), w.GetWeight()), "a weight")
			}
		case "maintenance":
			m := &registryv1.Maintenance{}
			if err = proto.Unmarshal(rec.Value, m); err == nil {
				s.recoverMaintenance(m)
			}
		}
		if err != nil {
			return fmt.Errorf("registry record %q does not parse: %w", rec.Key, err)
		}
	}
	s.awaitAgents()
	s.pauseForQuota()
	s.scheduleRegistryGC()
	return nil
}

func (s *State) recoverAgent(kind string, id ids.Agent, a *registryv1.Agent) {
	switch kind {
	case "agents":
		s.recovered[id] = a
		s.pages.recovered.Set(id, a.GetInfo())
	case "unreachable":
		s.unreachable[id] = a
		s.pages.unreachable.Set(id, time.Unix(0, a.GetUnreachableTime()))
	case "gone":
		s.gone[id] = a
		s.pages.gone.Set(id, time.Unix(0, a.GetGoneTime()))
	}
}

func (s *State) recoverFrameworkRecord(rec *registryv1.Framework) {
	id := ids.Framework(rec.GetInfo().GetId().GetValue())
	if rec.EndedTime != nil {
		s.ended[id] = rec
		s.emit(&Session{Framework: id, Ended: true})
		return
	}
	f := s.addFramework(rec.GetInfo(), rec.GetPrincipal(), time.Unix(0, rec.GetRegisteredTime()))
	f.recovered = true
	s.emit(&Session{Framework: f.id, Principal: f.principal})
	deadline := s.now.Add(max(failoverTimeout(f.info), s.cfg.AgentReregisterTimeout))
	if rec.FailoverDeadline != nil {
		// It was away already under the leader before; but nobody could subscribe while there was no leader.
		deadline = time.Unix(0, rec.GetFailoverDeadline())
		if grace := s.now.Add(time.Minute); deadline.Before(grace) {
			deadline = grace
		}
	}
	f.removal = s.at(deadline, func() {
		s.log(slog.LevelInfo, "framework failover timeout expired", "framework_id", f.id)
		s.removeFramework(f)
	})
}

// awaitAgents gives the registry's agents their time to come back after the election.
func (s *State) awaitAgents() {
	if len(s.recovered) == 0 {
		return
	}
	before := len(s.recovered)
	s.after(s.cfg.AgentReregisterTimeout, func() {
		if limit := s.cfg.RecoveryAgentRemovalLimit; limit > 0 && limit < 1 && float64(len(s.recovered)) > limit*float64(before) {
			s.log(slog.LevelError, "too many agents did not come back after the election: none is marked unreachable",
				"missing", len(s.recovered), "admitted", before, "limit", limit)
			s.awaitAgents()
			return
		}
		s.giveUpMissing(before)
	})
}

// giveUpMissing marks the registry's agents unreachable that did not come back: all at once, or one after the other when
// removals are spread.
func (s *State) giveUpMissing(before int) {
	if len(s.recovered) == 0 {
		return
	}
	missing := slices.Sorted(maps.Keys(s.recovered))
	if s.cfg.AgentRemovalInterval > 0 {
		if s.nextRemoval.After(s.now) {
			s.at(s.nextRemoval, func() { s.giveUpMissing(before) })
			return
		}
		missing = missing[:1]
		s.removalTurn()
		s.at(s.nextRemoval, func() { s.giveUpMissing(before) })
	}
	var puts []Record
	var deletes []string
	now := s.now
	recs := map[ids.Agent]*registryv1.Agent{}
	for _, id := range missing {
		rec := s.recovered[id].CloneVT()
		rec.UnreachableTime = proto.Int64(now.UnixNano())
		recs[id] = rec
		puts = append(puts, record("unreachable/"+string(id), rec))
		deletes = append(deletes, "agents/"+string(id))
	}
	s.log(slog.LevelWarn, "agents did not come back after the election", "missing", len(missing), "admitted", before)
	s.store(puts, deletes, func(err error) {
		if err != nil {
			s.log(slog.LevelWarn, "missing agents could not be marked unreachable", "error", err)
			s.awaitAgents()
			return
		}
		for _, id := range missing {
			if s.recovered[id] == nil {
				// It came back meanwhile: its readmission is written after this.
				if a := s.agents[id]; a != nil {
					s.storeQuietly([]Record{record("agents/"+string(id), s.agentRecord(a))}, []string{"unreachable/" + string(id)})
				}
				continue
			}
			delete(s.recovered, id)
			s.pages.recovered.Delete(id)
			s.unreachable[id] = recs[id]
			s.pages.unreachable.Set(id, now)
			s.counters.RecoveryAgentRemovals++
			s.counters.AgentRemovals++
		}
	})
}

// scheduleRegistryGC drops unreachable and gone agents that are too old or too many (facts 4.2).
func (s *State) scheduleRegistryGC() {
	if s.cfg.RegistryGCInterval <= 0 {
		return
	}
	s.after(s.cfg.RegistryGCInterval, func() {
		s.scheduleRegistryGC()
		var deletes []string
		prune := func(kind string, m map[ids.Agent]*registryv1.Agent, at func(*registryv1.Agent) int64) (drop []ids.Agent) {
			all := slices.SortedFunc(maps.Keys(m), func(x, y ids.Agent) int {
				if c := at(m[x]) - at(m[y]); c != 0 {
					return int(max(-1, min(1, c)))
				}
				return strings.Compare(string(x), string(y))
			})
			for i, id := range all {
				tooMany := s.cfg.RegistryMaxAgentCount > 0 && len(all)-i > s.cfg.RegistryMaxAgentCount
				tooOld := s.cfg.RegistryMaxAgentAge > 0 && s.now.Sub(time.Unix(0, at(m[id]))) > s.cfg.RegistryMaxAgentAge
				if !tooMany && !tooOld {
					break
				}
				drop = append(drop, id)
				deletes = append(deletes, kind+"/"+string(id))
			}
			return drop
		}
		unreachable := prune("unreachable", s.unreachable, (*registryv1.Agent).GetUnreachableTime)
		gone := prune("gone", s.gone, (*registryv1.Agent).GetGoneTime)
		if len(deletes) == 0 {
			return
		}
		s.store(nil, deletes, func(err error) {
			if err != nil {
				return // the next round tries again
			}
			for _, id := range unreachable {
				delete(s.unreachable, id)
				s.pages.unreachable.Delete(id)
			}
			for _, id := range gone {
				delete(s.gone, id)
				s.pages.gone.Delete(id)
			}
		})
	})
}
