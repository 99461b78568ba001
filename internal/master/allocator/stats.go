package allocator

import (
	"maps"
	"slices"

	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// RoleStats is what `/roles`, GET_ROLES and the metrics tell of a role.
type RoleStats struct {
	Role       string
	Weight     float64
	Quota      *Quota // nil: none
	Frameworks []ids.Framework
	// Share is the dominant share of the subtree, not divided by the weight (allocator/mesos/roles/<role>/shares/dominant).
	Share float64
	// Used is what the subtree is offered or uses; shared volumes count once.
	Used resources.Quantities
	// Reserved is what is reserved to the subtree on all agents, used or not.
	Reserved resources.Quantities
	// Consumed is what counts against quota: Reserved, and what the subtree uses of what is neither reserved nor revocable.
	// It is kept for top-level roles and empty for others.
	Consumed resources.Quantities
	// Filters is how many offer filters of frameworks in this very role are in force.
	Filters int
}

// Role returns the figures of one role, false when nothing is known of it.
func (a *Allocator) Role(name string) (RoleStats, bool) {
	r := a.roles[name]
	if r == nil {
		return RoleStats{}, false
	}
	n := &a.tree.nodes[r.node]
	s := RoleStats{
		Role: name, Weight: n.weight, Share: a.tree.share(n) * n.weight,
		Used: a.names.quantities(n.alloc), Reserved: a.names.quantities(r.reserved), Consumed: a.names.quantities(r.consumed),
	}
	if r.quota != nil {
		q := r.quota.original
		s.Quota = &q
	}
	for _, c := range r.clients {
		cl := &a.clients[c]
		s.Filters += cl.refusals
		if cl.subscribed {
			s.Frameworks = append(s.Frameworks, cl.fw.id)
		}
	}
	slices.Sort(s.Frameworks)
	return s, true
}

// Roles returns the names of all roles that are known: with frameworks, children, use, reservations, quota or weight.
func (a *Allocator) Roles() []string { return slices.Sorted(maps.Keys(a.roles)) }

// Totals are sums over the cluster.
type Totals struct {
	Total resources.Quantities // all agents
	Used  resources.Quantities // offered or used
	// Required is what guarantees lack, Headroom what is free, unreserved and not revocable on agents that can be offered.
	Required, Headroom resources.Quantities
	Agents, Frameworks int
	HeldBack           int // agents of which quota keeps something back
}

// Totals returns the sums over the cluster.
func (a *Allocator) Totals() Totals {
	t := Totals{
		Total: a.names.quantities(a.tree.totals), Used: a.names.quantities(a.tree.nodes[root].alloc),
		Required: a.names.quantities(a.quota.required), Headroom: a.names.quantities(a.quota.headroom),
		Agents: len(a.agents), HeldBack: a.held,
	}
	for _, f := range a.frameworks {
		if f.known {
			t.Frameworks++
		}
	}
	return t
}

// Free returns what is free on an agent: what an operator may reserve or make volumes of at once.
func (a *Allocator) Free(id ids.Agent) resources.Resources {
	if ag := a.agents[id]; ag != nil {
		return ag.free
	}
	return resources.Resources{}
}

// Used returns what a framework is offered or uses on an agent, over all its roles.
func (a *Allocator) Used(f ids.Framework, id ids.Agent) resources.Resources {
	var sum resources.Resources
	if ag := a.agents[id]; ag != nil {
		for _, u := range ag.used {
			if a.clients[u.client].fw.id == f {
				sum = sum.Add(u.res)
			}
		}
	}
	return sum
}
