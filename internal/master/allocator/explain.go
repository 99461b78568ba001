package allocator

import (
	"slices"
	"time"

	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// Reason says why a framework gets no offer of an agent for a role.
type Reason string

// The reasons, in the order in which they are looked for.
const (
	ReasonAgentInactive    Reason = "agent is deactivated"
	ReasonNotWhitelisted   Reason = "agent is not whitelisted"
	ReasonNothingFree      Reason = "nothing is free"
	ReasonGPU              Reason = "agent has gpus and the framework lacks GPU_RESOURCES"
	ReasonRegion           Reason = "agent is in another region and the framework lacks REGION_AWARE"
	ReasonAgentTooOld      Reason = "agent lacks MULTI_ROLE or HIERARCHICAL_ROLE"
	ReasonConstraints      Reason = "offer constraints do not match"
	ReasonReservedToOthers Reason = "what is free is reserved to other roles or needs capabilities that the framework lacks"
	ReasonQuotaLimit       Reason = "the role's quota limit is reached"
	ReasonHeadroom         Reason = "what is free is kept back for the quota guarantees of other roles"
	ReasonTooSmall         Reason = "what is free is less than the minimum worth offering"
	ReasonRefused          Reason = "the framework declined it and the filter has not ended"
	ReasonPatient          Reason = "somebody declined it, and it is offered to the next one within a second or two"
	ReasonNone             Reason = "it will be offered in turn"
)

// RoleExplanation says what keeps offers from a framework in one of its roles (`framework why`).
type RoleExplanation struct {
	Role       string
	Subscribed bool // false: the framework left the role, but still uses resources of it
	Active     bool // false: the framework is disconnected or deactivated
	Suppressed bool
	Paused     bool // the allocator waits, as after a failover
	Share      float64
	Filters    int
	// FilterEnds is when the first of its filters ends, zero when there is none (or when a million others end before).
	FilterEnds time.Time
	// Agents counts agents by what the answer is for each of them, as if it were this client's turn.
	Agents map[Reason]int
	// Quota is the one that governs the role, with what is consumed of it; nil when there is none.
	Quota    *Quota
	Consumed resources.Quantities
	// Ahead is how many other clients that take offers come before this one in the order of shares.
	Ahead int
}

// Explain says, per role, what keeps offers from a framework. It looks at every agent, on demand only.
func (a *Allocator) Explain(id ids.Framework) []RoleExplanation {
	f := a.frameworks[id]
	if f == nil {
		return nil
	}
	a.tree.refresh()
	var out []RoleExplanation
	for _, name := range sortedKeys(f.clients) {
		c := f.clients[name]
		cl := &a.clients[c]
		e := RoleExplanation{
			Role: name, Subscribed: cl.subscribed, Active: f.active, Suppressed: cl.suppressed, Paused: a.paused,
			Share: a.tree.nodes[cl.node].key, Filters: cl.refusals, FilterEnds: a.firstEnd(c), Agents: map[Reason]int{},
		}
		if q := cl.role.top.quota; q != nil {
			original := q.original
			e.Quota, e.Consumed = &original, a.names.quantities(cl.role.top.consumed)
		}
		for _, ag := range a.slots {
			if ag != nil {
				e.Agents[a.reason(ag, c)]++
			}
		}
		for other := range a.clients {
			if int32(other) != c && a.eligible.has(int32(other)) && a.tree.compareClients(a.clientNode[other], cl.node) < 0 {
				e.Ahead++
			}
		}
		out = append(out, e)
	}
	return out
}

// firstEnd looks for the first end of the filters of a client, among the next million to end: where there are more, zero
// is the answer rather than a long stop.
func (a *Allocator) firstEnd(c int32) time.Time {
	if a.clients[c].refusals == 0 {
		return time.Time{}
	}
	ticks := slices.Clone(a.expiries.ticks)
	slices.Sort(ticks)
	looked := 0
	for _, k := range ticks {
		if looked += len(a.expiries.buckets[k]); looked > 1<<20 {
			break
		}
		if slices.ContainsFunc(a.expiries.buckets[k], func(x expiry) bool { return x.client == c && a.inForce(x) }) {
			return time.Unix(0, k*int64(tick))
		}
	}
	return time.Time{}
}

// inForce reports whether a timer of an offer filter still is about something.
func (a *Allocator) inForce(x expiry) bool {
	if x.client < 0 || a.clients[x.client].gen != x.clientGen {
		return false
	}
	ag := a.slots[x.agent]
	if ag == nil || ag.gen != x.agentGen {
		return false
	}
	return slices.ContainsFunc(ag.refused, func(s refusalSet) bool { return s.id == x.set })
}

// reason says what a client would get of an agent now.
func (a *Allocator) reason(ag *agent, c int32) Reason {
	cl := &a.clients[c]
	can := cl.fw.info.Capabilities
	switch {
	case !ag.active:
		return ReasonAgentInactive
	case !ag.offerable:
		return ReasonNotWhitelisted
	case ag.freeFlags&hasUnshared == 0:
		return ReasonNothingFree
	case ag.class&classGPU != 0 && !can.GPU:
		return ReasonGPU
	case ag.class&classRemote != 0 && !can.RegionAware:
		return ReasonRegion
	case !ag.class.admits(can, cl.role.name):
		return ReasonAgentTooOld
	case cl.constraint != nil && !cl.constraint.matches(&ag.info):
		return ReasonConstraints
	}
	stage := 2
	if cl.role.top.hasUnmet() {
		stage = 1
	}
	p := a.propose(ag, c, stage)
	if p.none && stage == 1 {
		stage = 2
		p = a.propose(ag, c, stage)
	}
	switch {
	case !p.none && ag.waits:
		return ReasonPatient
	case !p.none:
		return ReasonNone
	}
	fit, _ := a.fitting(ag, cl)
	minimum := a.minGlobal
	if a.ownMinimum.has(c) {
		minimum = cl.minimum
	}
	enough := func(r resources.Resources) bool {
		f := a.names.measure(r, &a.cycle.all, &a.cycle.plain)
		return f&hasUnshared != 0 && satisfied(minimum, a.cycle.all)
	}
	top := cl.role.top
	switch {
	case fit.NonShared().IsEmpty():
		return ReasonReservedToOthers
	case !enough(fit):
		return ReasonTooSmall
	case !enough(fit.Shrink(func(name string) resources.Amount { return top.room(a.names.of(name)) })):
		return ReasonQuotaLimit
	case !enough(p.offer):
		return ReasonHeadroom
	default:
		return ReasonRefused
	}
}
