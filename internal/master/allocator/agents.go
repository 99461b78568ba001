package allocator

import (
	"fmt"
	"hash/fnv"
	"slices"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// AgentCapabilities are those that decide about offers; an agent that lacks one is kept from who needs it.
type AgentCapabilities struct{ MultiRole, HierarchicalRole, ReservationRefinement bool }

// AgentInfo is what the allocator knows of an agent. The messages in it are read, never changed.
type AgentInfo struct {
	Hostname       string
	Attributes     []*mesosv1.Attribute
	Domain         *mesosv1.DomainInfo
	Capabilities   AgentCapabilities
	Total          resources.Resources // unallocated; reservations and volumes included
	Unavailability *mesosv1.Unavailability
}

// agent is one agent's state. A cycle visits agents in random order, so what a visit costs is above all how many cache lines
// it has to wait for: what most visits look at stands together at the beginning, and small slices start out in the struct.
type agent struct {
	slot      int32
	gen       uint32 // changes when all filters on the agent are dropped
	class     class
	freeFlags flags
	active    bool
	offerable bool // active and whitelisted
	over      bool // more is used than there is: free resources are computed anew on every change
	dirty     bool
	waits     bool // among the patient ones
	heldBack  bool

	free      resources.Resources // total less what is used; shared volumes always
	freeAll   vec                 // all scalars of free
	freePlain vec                 // the unreserved, non-revocable ones: what quota reckons with
	refused   []refusalSet
	rejected  bitmap // clients that can't take any of rejectedOf (below), for reasons other than quota
	used      []usage
	memo      allocMemo
	id        ids.Agent

	rejectedOf resources.Resources
	inline     struct {
		all, plain [4]resources.Amount
		offer      [1]int32
		used       [2]usage
	}
	cycleOffer []int32  // offers of the current cycle, by index
	cycleShare []string // shared volumes offered in the current cycle, by identity

	total    resources.Resources
	mismatch bitmap // clients whose constraints don't match, among checked
	checked  bitmap
	nextSet  uint32
	maint    *maintenance
	info     AgentInfo
}

type usage struct {
	client int32
	res    resources.Resources // allocated to the client's role
}

// allocMemo remembers the last resources that were allocated to a role on the agent: agents are offered whole again and again.
type allocMemo struct {
	plain, allocated resources.Resources
	role             string
}

func (ag *agent) allocate(r resources.Resources, role string) resources.Resources {
	if ag.memo.role != role || !ag.memo.plain.Same(r) {
		ag.memo = allocMemo{plain: r, allocated: r.Allocate(role), role: role}
	}
	return ag.memo.allocated
}

func (ag *agent) unallocate(r resources.Resources) resources.Resources {
	if ag.memo.allocated.Same(r) {
		return ag.memo.plain
	}
	return r.Unallocate()
}

// AddAgent makes an agent known, active, with what frameworks use on it (allocated to their roles). Frameworks that are not
// known yet are remembered, inactive, until AddFramework. An agent that is known already is replaced.
func (a *Allocator) AddAgent(id ids.Agent, info AgentInfo, used map[ids.Framework]resources.Resources) {
	a.RemoveAgent(id)
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	ag := &agent{id: id, active: true}
	ag.freeAll, ag.freePlain = ag.inline.all[:0], ag.inline.plain[:0]
	ag.used, ag.cycleOffer = ag.inline.used[:0], ag.inline.offer[:0]
	if n := len(a.freeSlots); n > 0 {
		ag.slot = a.freeSlots[n-1]
		a.freeSlots = a.freeSlots[:n-1]
		a.slots[ag.slot], a.hashes[ag.slot] = ag, h.Sum64()
	} else {
		ag.slot = int32(len(a.slots))
		a.slots, a.hashes = append(a.slots, ag), append(a.hashes, h.Sum64())
	}
	ag.gen = a.nextGen() // slots are used again: timers about the agent that was here before must not fit
	a.agents[id] = ag
	a.setInfo(ag, info)
	for _, f := range sortedKeys(used) {
		for role, res := range sortedAllocations(used[f]) {
			a.use(ag, a.clientFor(f, role), res)
		}
	}
	a.recomputeFree(ag)
	a.updateOfferable(ag)
	a.setUnavailability(ag, info.Unavailability)
	a.markDirty(ag)
}

// UpdateAgent replaces what is known of an agent: total, attributes, capabilities. What is used stays, and when anything
// but the unavailability did change, all filters on the agent are dropped, so that frameworks see it.
func (a *Allocator) UpdateAgent(id ids.Agent, info AgentInfo) error {
	ag := a.agents[id]
	if ag == nil {
		return unknownAgent(id)
	}
	if !ag.info.differs(info) {
		a.setUnavailability(ag, info.Unavailability)
		return nil
	}
	a.setInfo(ag, info)
	a.dropRefusalsOn(ag)
	a.recomputeFree(ag)
	a.updateOfferable(ag)
	a.setUnavailability(ag, info.Unavailability)
	a.markDirty(ag)
	return nil
}

// differs reports whether frameworks could be offered something else of the agent.
func (i *AgentInfo) differs(o AgentInfo) bool {
	return i.Hostname != o.Hostname || i.Capabilities != o.Capabilities || !i.Total.Equal(o.Total.Unallocate().OneCopy()) ||
		!proto.Equal(i.Domain, o.Domain) ||
		!slices.EqualFunc(i.Attributes, o.Attributes, func(x, y *mesosv1.Attribute) bool { return proto.Equal(x, y) })
}

// SetTotal changes an agent's total alone, as UpdateAgent.
func (a *Allocator) SetTotal(id ids.Agent, total resources.Resources) error {
	ag := a.agents[id]
	if ag == nil {
		return unknownAgent(id)
	}
	info := ag.info
	info.Total = total
	return a.UpdateAgent(id, info)
}

// RemoveAgent forgets an agent and everything used or offered on it. Recoveries for it that come later are ignored.
func (a *Allocator) RemoveAgent(id ids.Agent) {
	ag := a.agents[id]
	if ag == nil {
		return
	}
	for len(ag.used) > 0 {
		u := ag.used[len(ag.used)-1]
		a.unuse(ag, u.client, u.res)
	}
	a.setTotal(ag, resources.Resources{})
	a.setFree(ag, resources.Resources{})
	ag.active = false
	a.updateOfferable(ag)
	a.setHeldBack(ag, false)
	a.dropRefusalsOn(ag)
	a.setUnavailability(ag, nil)
	delete(a.agents, id)
	a.slots[ag.slot] = nil
	a.freeSlots = append(a.freeSlots, ag.slot)
	a.dropDirty(ag)
}

// SetAgentActive lets an agent be offered or not; what is used on it stays.
func (a *Allocator) SetAgentActive(id ids.Agent, active bool) {
	if ag := a.agents[id]; ag != nil && ag.active != active {
		ag.active = active
		a.updateOfferable(ag)
	}
}

func (a *Allocator) setInfo(ag *agent, info AgentInfo) {
	info.Attributes = slices.Clone(info.Attributes)
	ag.info = info
	ag.class = a.classOf(info)
	ag.checked, ag.mismatch = nil, nil
	ag.rejected, ag.rejectedOf = nil, resources.Resources{}
	a.setTotal(ag, info.Total)
}

// setTotal accounts the total to the cluster and its reservations to their roles.
func (a *Allocator) setTotal(ag *agent, total resources.Resources) {
	total = total.Unallocate().OneCopy()
	if total.Equal(ag.total) {
		return
	}
	a.countTotal(total, 1) // first, so that roles that lose and get reservations at once stay
	a.countTotal(ag.total, -1)
	ag.total, ag.info.Total = total, total
	a.tree.allStale = true
}

func (a *Allocator) countTotal(total resources.Resources, sign resources.Amount) {
	for x := range total.All() {
		if !x.IsScalar() {
			continue
		}
		i, amount := a.names.of(x.Name()), x.Amount()
		if !x.IsShared() {
			amount *= resources.Amount(x.Copies())
		}
		a.tree.totals.grow(i + 1)
		a.tree.totals[i] += sign * amount
		if x.IsReserved() {
			a.chargeReservation(x.Role(), i, sign*amount)
		}
	}
}

// updateOfferable brings `offerable` in line with activation and whitelist.
func (a *Allocator) updateOfferable(ag *agent) {
	offerable := ag.active && (a.whitelist == nil || a.whitelist[ag.info.Hostname])
	if offerable == ag.offerable {
		return
	}
	if ag.offerable {
		a.quota.headroom.sub(ag.freePlain)
	} else {
		a.quota.headroom.add(ag.freePlain)
		a.markDirty(ag)
	}
	ag.offerable = offerable
}

// recomputeFree derives the free resources from total and use.
func (a *Allocator) recomputeFree(ag *agent) {
	free := ag.total
	ag.over = false
	for _, u := range ag.used {
		var ok bool
		if free, ok = free.Subtract(u.res.NonShared().Unallocate()); !ok {
			ag.over = true
		}
	}
	a.setFree(ag, free)
}

// setFree changes the free resources and what is derived from them.
func (a *Allocator) setFree(ag *agent, free resources.Resources) {
	if ag.offerable {
		a.quota.headroom.sub(ag.freePlain)
	}
	if free.IsEmpty() {
		ag.free, ag.freeFlags = resources.Resources{}, 0
		clear(ag.freeAll)
		clear(ag.freePlain)
		return
	}
	ag.free = free
	ag.freeFlags = a.names.measure(free, &ag.freeAll, &ag.freePlain)
	if ag.offerable {
		a.quota.headroom.add(ag.freePlain)
	}
}

// use records resources as used by a client on an agent, and charges them.
func (a *Allocator) use(ag *agent, c int32, res resources.Resources) {
	a.addUsage(ag, c, res)
	a.chargeClient(ag, c, res, 1, true)
}

func (a *Allocator) addUsage(ag *agent, c int32, res resources.Resources) {
	for i := range ag.used {
		if ag.used[i].client == c {
			ag.used[i].res = ag.used[i].res.Add(res)
			return
		}
	}
	ag.used = append(ag.used, usage{c, res})
	a.clients[c].agents++
	if ag.maint != nil {
		a.inverse.dirty = true
	}
}

// unuse takes resources away from what a client uses; what is not there is ignored. It returns what was there.
func (a *Allocator) unuse(ag *agent, c int32, res resources.Resources) (taken resources.Resources, ok bool) {
	for i := range ag.used {
		u := &ag.used[i]
		if u.client != c {
			continue
		}
		left, ok := u.res.Subtract(res)
		if !ok {
			res = u.res.Minus(left)
		}
		u.res = left
		a.chargeClient(ag, c, res, -1, false)
		if left.IsEmpty() {
			last := len(ag.used) - 1
			ag.used[i] = ag.used[last]
			ag.used[last] = usage{}
			ag.used = ag.used[:last]
			a.clients[c].agents--
			a.tidy(c)
		}
		return res, ok
	}
	return resources.Resources{}, res.IsEmpty()
}

// markDirty has an agent visited in the next cycle.
func (a *Allocator) markDirty(ag *agent) {
	if !ag.dirty {
		a.patient.leave(ag)
		ag.dirty = true
		a.dirty = append(a.dirty, ag.slot)
	}
}

// dropDirty forgets that an agent that goes was to be visited.
func (a *Allocator) dropDirty(ag *agent) {
	a.patient.leave(ag)
	if ag.dirty {
		ag.dirty = false
		if i := slices.Index(a.dirty, ag.slot); i >= 0 {
			a.dirty = slices.Delete(a.dirty, i, i+1)
		}
	}
}

// Allocated records resources that a framework uses outside of any offer, such as tasks that an agent brought along.
func (a *Allocator) Allocated(f ids.Framework, id ids.Agent, res resources.Resources) error {
	ag := a.agents[id]
	if ag == nil {
		return unknownAgent(id)
	}
	for role, part := range sortedAllocations(res) {
		c := a.clientFor(f, role)
		a.use(ag, c, part)
	}
	if left, ok := ag.free.Subtract(ag.unallocate(res.NonShared())); ok && !ag.over {
		a.setFree(ag, left)
	} else {
		a.recomputeFree(ag)
	}
	return nil
}

func unknownAgent(id ids.Agent) error {
	return fmt.Errorf("agent %s is not known to the allocator", id)
}
