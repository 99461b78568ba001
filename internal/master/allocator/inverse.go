package allocator

import (
	"slices"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// maintenance is the state of an agent that is going to be unavailable.
type maintenance struct {
	unavailability *mesosv1.Unavailability
	outstanding    map[ids.Framework]bool
	statuses       map[ids.Framework]InverseStatus
}

// InverseStatus is how a framework answered the inverse offer of an agent last.
type InverseStatus struct {
	Accepted bool
	At       time.Time
}

// inverseState keeps which agents have maintenance, and whether anything changed that may call for inverse offers.
type inverseState struct {
	agents map[int32]*agent
	dirty  bool
}

// inverseRefusal is a framework's filter of inverse offers of an agent.
type inverseRefusal struct {
	agentGen uint32
	until    int64 // tick
}

// SetUnavailability plans or, with nil, cancels the maintenance of an agent. Frameworks that use it get inverse offers, and
// earlier answers are forgotten when the plan changes.
func (a *Allocator) SetUnavailability(id ids.Agent, u *mesosv1.Unavailability) {
	if ag := a.agents[id]; ag != nil {
		a.setUnavailability(ag, u)
		a.markDirty(ag)
	}
}

func (a *Allocator) setUnavailability(ag *agent, u *mesosv1.Unavailability) {
	ag.info.Unavailability = u
	switch {
	case u == nil:
		ag.maint = nil
		delete(a.inverse.agents, ag.slot)
	case ag.maint != nil && sameUnavailability(ag.maint.unavailability, u):
	default:
		ag.maint = &maintenance{unavailability: u, outstanding: map[ids.Framework]bool{}, statuses: map[ids.Framework]InverseStatus{}}
		if a.inverse.agents == nil {
			a.inverse.agents = map[int32]*agent{}
		}
		a.inverse.agents[ag.slot] = ag
		a.inverse.dirty = true
	}
}

func sameUnavailability(a, b *mesosv1.Unavailability) bool {
	return a.GetStart().GetNanoseconds() == b.GetStart().GetNanoseconds() &&
		(a.Duration == nil) == (b.Duration == nil) && a.GetDuration().GetNanoseconds() == b.GetDuration().GetNanoseconds()
}

// RespondInverse records a framework's answer to an inverse offer (status nil when the offer was rescinded), and keeps
// further ones away for as long as the refusal says, at least the allocation interval.
func (a *Allocator) RespondInverse(id ids.Framework, agentID ids.Agent, accepted *bool, refusal *Refusal, now time.Time) {
	ag, f := a.agents[agentID], a.frameworks[id]
	if ag == nil || ag.maint == nil {
		return
	}
	delete(ag.maint.outstanding, id)
	a.inverse.dirty = true
	if f == nil || accepted == nil {
		return
	}
	ag.maint.statuses[id] = InverseStatus{Accepted: *accepted, At: now}
	life := a.opts.AllocationInterval
	if refusal != nil {
		life = min(max(life, refusal.For), maxRefusal)
	}
	if life <= 0 {
		return
	}
	until := tickAt(now.Add(life))
	if f.inverseRefused == nil {
		f.inverseRefused = map[int32]inverseRefusal{}
	}
	f.inverseRefused[ag.slot] = inverseRefusal{ag.gen, until}
	a.expiries.add(until, expiry{agent: ag.slot, agentGen: ag.gen, client: -1, clientGen: f.gen})
	a.compact()
}

// InverseStatuses returns how frameworks answered, by agent (GET_MAINTENANCE_STATUS).
func (a *Allocator) InverseStatuses() map[ids.Agent]map[ids.Framework]InverseStatus {
	out := map[ids.Agent]map[ids.Framework]InverseStatus{}
	for _, ag := range a.inverse.agents {
		m := make(map[ids.Framework]InverseStatus, len(ag.maint.statuses))
		for f, s := range ag.maint.statuses {
			m[f] = s
		}
		out[ag.id] = m
	}
	return out
}

func (a *Allocator) dropInverseRefusals(f *framework) { clear(f.inverseRefused) }

// forget removes a framework from all maintenance state.
func (s *inverseState) forget(a *Allocator, id ids.Framework) {
	for _, ag := range s.agents {
		delete(ag.maint.outstanding, id)
		delete(ag.maint.statuses, id)
	}
}

// inverseOffers asks active frameworks that use agents with planned maintenance to leave them: one outstanding offer for a
// framework and agent at most, and none while a filter holds.
func (a *Allocator) inverseOffers(now time.Time) []InverseOffer {
	if !a.inverse.dirty {
		return nil
	}
	a.inverse.dirty = false
	var out []InverseOffer
	for _, slot := range sortedSlots(a.inverse.agents) {
		ag := a.inverse.agents[slot]
		for _, id := range a.usersOf(ag) {
			f := a.frameworks[id]
			if !f.active || ag.maint.outstanding[id] {
				continue
			}
			if r, ok := f.inverseRefused[slot]; ok && r.agentGen == ag.gen && r.until > now.UnixNano()/int64(tick) {
				continue
			}
			delete(f.inverseRefused, slot)
			ag.maint.outstanding[id] = true
			out = append(out, InverseOffer{Framework: id, Agent: ag.id, Unavailability: ag.maint.unavailability})
		}
	}
	return out
}

func sortedSlots(m map[int32]*agent) []int32 {
	out := make([]int32, 0, len(m))
	for slot := range m {
		out = append(out, slot)
	}
	slices.Sort(out)
	return out
}

// usersOf returns the frameworks that use or are offered anything on the agent, sorted.
func (a *Allocator) usersOf(ag *agent) []ids.Framework {
	var out []ids.Framework
	for _, u := range ag.used {
		out = append(out, a.clients[u.client].fw.id)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
