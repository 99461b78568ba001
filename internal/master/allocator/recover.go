package allocator

import (
	"fmt"
	"time"

	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// Recover gives back resources that a framework was offered or used on an agent. With a refusal, the framework's role is not
// offered them, or any part of them, on that agent until it ends. An agent or framework that is gone is no error; resources
// that were not accounted to the framework are one, and what was is given back all the same.
func (a *Allocator) Recover(id ids.Framework, agentID ids.Agent, res resources.Resources, refusal *Refusal, now time.Time) error {
	ag, f := a.agents[agentID], a.frameworks[id]
	if ag == nil || f == nil || res.IsEmpty() {
		return nil
	}
	if role, ok := res.SoleAllocation(); ok && role != "" {
		return a.recoverRole(ag, f, role, res, refusal, now)
	}
	var first error
	for role, part := range sortedAllocations(res) {
		if err := a.recoverRole(ag, f, role, part, refusal, now); err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (a *Allocator) recoverRole(ag *agent, f *framework, role string, res resources.Resources, refusal *Refusal, now time.Time) error {
	c, ok := f.clients[role]
	if !ok {
		return fmt.Errorf("framework %s uses nothing for role %s on agent %s", f.id, role, ag.id)
	}
	taken, ok := a.unuse(ag, c, res)
	plain := ag.unallocate(taken)
	if ag.over {
		a.recomputeFree(ag)
	} else {
		a.setFree(ag, ag.free.Add(plain.NonShared()))
	}
	if refusal == nil {
		a.markDirty(ag)
	} else {
		a.markPatient(ag)
	}
	if cl := &a.clients[c]; refusal != nil && cl.fw == f && cl.subscribed && !taken.IsEmpty() {
		a.refuse(ag, c, plain.OneCopy(), *refusal, now)
	}
	if !ok {
		return fmt.Errorf("framework %s does not use %s on agent %s", f.id, res, ag.id)
	}
	return nil
}

// UpdateAllocation applies the conversions of operations to what a framework was offered, and to the agent's total: reserve,
// unreserve, create, destroy, grow and shrink. offered is what the operations apply to, allocated to one role.
func (a *Allocator) UpdateAllocation(id ids.Framework, agentID ids.Agent, offered resources.Resources, conversions []resources.Conversion) error {
	ag, f := a.agents[agentID], a.frameworks[id]
	if ag == nil {
		return unknownAgent(agentID)
	}
	if f == nil {
		return unknownFramework(id)
	}
	role, ok := offered.SoleAllocation()
	if !ok {
		return fmt.Errorf("the offered resources %s are not allocated to one role", offered)
	}
	c, ok := f.clients[role]
	if !ok {
		return fmt.Errorf("framework %s uses nothing for role %s", id, role)
	}
	converted, err := offered.ApplyAll(conversions)
	if err != nil {
		return err
	}
	if !ag.usedBy(c).Contains(offered) {
		return fmt.Errorf("framework %s does not use %s on agent %s", id, offered, agentID)
	}
	total := ag.total
	for _, conv := range conversions {
		if total, err = total.Apply(conv.Unallocated()); err != nil {
			return err
		}
	}
	a.clients[c].agents++ // keeps the client while nothing is accounted to it
	a.unuse(ag, c, offered)
	a.addUsage(ag, c, converted)
	a.clients[c].agents--
	a.chargeClient(ag, c, converted, 1, false)
	a.setTotal(ag, total)
	a.recomputeFree(ag)
	a.markDirty(ag)
	return nil
}

// UpdateAvailable applies the conversions of an operator's operations to an agent's free resources and total. It fails when
// what they consume is not free; the master rescinds offers first.
func (a *Allocator) UpdateAvailable(agentID ids.Agent, conversions []resources.Conversion) error {
	ag := a.agents[agentID]
	if ag == nil {
		return unknownAgent(agentID)
	}
	free, err := ag.free.ApplyAll(conversions)
	if err != nil {
		return err
	}
	total, err := ag.total.ApplyAll(conversions)
	if err != nil {
		return err
	}
	a.setTotal(ag, total)
	a.setFree(ag, free)
	a.markDirty(ag)
	return nil
}

// usedBy returns what a client uses on the agent.
func (ag *agent) usedBy(c int32) resources.Resources {
	for _, u := range ag.used {
		if u.client == c {
			return u.res
		}
	}
	return resources.Resources{}
}
