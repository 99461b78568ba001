package core

import (
	"maps"
	"slices"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// waits reports whether an operation counts only when its agent has made it durable. Mesos does not wait, but it does not let other
// operations of the same ACCEPT use the volume either, so that no framework can tell but by the time.
func waits(op *mesosv1.Offer_Operation) bool {
	return op.GetType() == mesosv1.Offer_Operation_GROW_VOLUME || op.GetType() == mesosv1.Offer_Operation_SHRINK_VOLUME
}

// consuming is what conversions take, without what they give.
func consuming(conv []resources.Conversion) []resources.Conversion {
	out := make([]resources.Conversion, len(conv))
	for i, c := range conv {
		out[i] = resources.Conversion{Consumed: c.Consumed}
	}
	return out
}

// operators is the framework to which what operators' operations hold is accounted.
const operators = ids.Framework("")

// held is what nobody else gets while an operation waits for its agent.
func (op *operation) held() resources.Resources {
	var sum resources.Resources
	for _, c := range op.waiting {
		sum = sum.Add(c.Consumed)
	}
	return sum
}

// hold keeps what an operation changes from everybody until its agent has answered. A framework's is out of its offer, and stays
// accounted to it; an operator's is free and is allocated to the role that it is reserved for.
func (s *State) hold(op *operation, conv []resources.Conversion) {
	if op.framework != nil {
		op.waiting, op.holder = conv, op.framework.id
		return
	}
	op.holder = operators
	for _, c := range conv {
		op.waiting = append(op.waiting, resources.Conversion{Consumed: allocateToOwners(c.Consumed), Converted: allocateToOwners(c.Converted)})
	}
	s.check(s.alloc.Allocated(operators, op.agent.id, op.held()), "what an operation holds")
}

func allocateToOwners(list resources.Resources) resources.Resources {
	var out resources.Resources
	for r := range list.All() {
		out = out.Add(r.Resources().Allocate(r.Role()))
	}
	return out
}

// endWait gives back what an operation holds: changed, if the agent has done it.
func (s *State) endWait(op *operation, done bool) {
	if op.waiting == nil {
		return
	}
	a, conv, held := op.agent, op.waiting, op.held()
	op.waiting = nil
	if done {
		s.change(a, conv)
	}
	if done && op.holder != operators {
		err := s.alloc.UpdateAllocation(op.holder, a.id, held, conv)
		s.check(err, "a resized volume")
		if err == nil {
			held, _ = held.ApplyAll(conv) // the allocator has just done the same
		}
	}
	s.check(s.alloc.Recover(op.holder, a.id, held, nil, s.now), "what an operation held")
	if done && op.holder == operators {
		s.updateAllocatorAgent(a) // who has declined what was there sees what is there now
	}
	s.touchAgent(a)
}

// endWaits lets go of what the operations of an agent hold that comes back: its total says what has become of them.
func (s *State) endWaits(a *agent) {
	for _, uuid := range slices.Sorted(maps.Keys(a.ops)) {
		s.endWait(a.ops[uuid], false)
	}
}
