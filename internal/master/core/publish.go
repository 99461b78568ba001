package core

import (
	"maps"
	"slices"
	"sort"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
)

// Publish gives the state as it is now. Its cost is that of what changed since the last time.
func (s *State) Publish() *Snapshot {
	p := &s.pages
	p.version++
	for f := range p.dirtyFrameworks {
		p.frameworks.Set(f.id, s.frameworkPage(f))
	}
	clear(p.dirtyFrameworks)
	for a := range p.dirtyAgents {
		if s.agents[a.id] == a {
			p.agents.Set(a.id, s.agentPage(a))
		}
	}
	clear(p.dirtyAgents)
	snap := &Snapshot{
		Version:             p.version,
		Time:                s.now,
		Master:              s.cfg.Master,
		StartTime:           s.cfg.StartTime,
		ElectedTime:         s.elected,
		Frameworks:          p.frameworks.Copy(),
		CompletedFrameworks: lastOf(s.completed, s.cfg.MaxCompletedFrameworks),
		Agents:              p.agents.Copy(),
		RecoveredAgents:     p.recovered.Copy(),
		UnreachableAgents:   p.unreachable.Copy(),
		GoneAgents:          p.gone.Copy(),
		Weights:             maps.Clone(s.weights),
		Quotas:              maps.Clone(s.quotas),
		Schedule:            s.schedule,
		Counters:            s.counters.clone(),
	}
	for _, k := range slices.SortedFunc(maps.Keys(s.machines), compareMachines) {
		snap.Machines = append(snap.Machines, s.machines[k])
	}
	for _, st := range s.inverseInfos {
		snap.InverseInfo = append(snap.InverseInfo, st)
	}
	sort.Slice(snap.InverseInfo, func(i, j int) bool {
		a, b := snap.InverseInfo[i], snap.InverseInfo[j]
		if a.Agent != b.Agent {
			return a.Agent < b.Agent
		}
		return a.Framework < b.Framework
	})
	return snap
}

// Dirty says whether something changed since the last Publish.
func (s *State) Dirty() bool { return len(s.pages.dirtyAgents) > 0 || len(s.pages.dirtyFrameworks) > 0 }

func (c *Counters) clone() Counters {
	out := *c
	out.MessagesByCall = maps.Clone(c.MessagesByCall)
	out.TasksByState = maps.Clone(c.TasksByState)
	out.TasksBySourceReason = maps.Clone(c.TasksBySourceReason)
	out.OperationsByType = maps.Clone(c.OperationsByType)
	return out
}

func (s *State) frameworkPage(f *framework) *FrameworkPage {
	p := &FrameworkPage{
		ID: f.id, Info: f.info, Roles: f.roles, OfferConstraints: f.constraints, Principal: f.principal,
		Active: f.active, Connected: f.connected(), Recovered: f.recovered,
		RegisteredTime: f.registered, ReregisteredTime: f.reregistered,
		Tasks: f.live.Copy(), UnreachableTasks: f.unreachable.Copy(),
		CompletedTasks: lastOf(f.completed, s.cfg.MaxCompletedTasksPerFramework),
	}
	p.SuppressedRoles = slices.Sorted(maps.Keys(f.suppressed))
	for aid, execs := range f.executors {
		for _, x := range execs {
			p.Executors = append(p.Executors, ExecutorPage{Agent: aid, Info: x.info})
		}
	}
	sort.Slice(p.Executors, func(i, j int) bool {
		a, b := p.Executors[i], p.Executors[j]
		if c := strings.Compare(a.Info.GetExecutorId().GetValue(), b.Info.GetExecutorId().GetValue()); c != 0 {
			return c < 0
		}
		return a.Agent < b.Agent
	})
	for _, o := range f.offers {
		p.Offers = append(p.Offers, o.page)
	}
	sortOfferPages(p.Offers)
	for _, id := range slices.SortedFunc(maps.Keys(f.inverse), compareOfferIDs) {
		p.InverseOffers = append(p.InverseOffers, f.inverse[id].proto)
	}
	p.Operations = operationProtos(f.ops)
	p.Counters = f.counters
	p.Counters.Calls = maps.Clone(f.counters.Calls)
	p.Counters.Events = maps.Clone(f.counters.Events)
	p.Counters.TerminalTasks = maps.Clone(f.counters.TerminalTasks)
	p.Counters.Operations = maps.Clone(f.counters.Operations)
	return p
}

func (s *State) agentPage(a *agent) *AgentPage {
	p := &AgentPage{
		ID: a.id, Info: a.info, Address: a.address, Version: a.version, Capabilities: a.caps, Total: a.total,
		Connected: a.connected(), Active: a.active(), Deactivated: a.deactivated,
		RegisteredTime: a.registered, ReregisteredTime: a.reregistered, Drain: a.drain, DrainStartTime: a.drainStart,
		Tasks: len(a.tasks), Operations: operationProtos(a.ops),
	}
	for _, o := range a.offers {
		p.Offers = append(p.Offers, o.page)
	}
	sortOfferPages(p.Offers)
	return p
}

func sortOfferPages(list []*OfferPage) {
	slices.SortFunc(list, func(a, b *OfferPage) int { return compareOfferIDs(a.ID, b.ID) })
}

func operationProtos(m map[string]*operation) []*mesosv1.Operation {
	if len(m) == 0 {
		return nil
	}
	out := make([]*mesosv1.Operation, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k].proto)
	}
	return out
}

func (s *State) frameworkProto(f *framework) *masterv1.Response_GetFrameworks_Framework {
	return s.frameworkPage(f).Proto()
}

func (s *State) agentProto(a *agent) *masterv1.Response_GetAgents_Agent {
	return s.agentPage(a).Proto(a.used())
}
