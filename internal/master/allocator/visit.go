package allocator

import (
	"slices"

	"github.com/orchestrator/orchestrator/internal/resources"
)

// visit offers what is free on an agent to clients in the order of the tree as it was when the visit began.
func (a *Allocator) visit(ag *agent, full bool, stage int) {
	if ag.freeFlags&hasUnshared == 0 {
		return // taken in the first pass
	}
	cy := &a.cycle
	mask := a.candidates(ag, full, stage)
	if mask == nil {
		return
	}
	free := ag.free
	if len(ag.rejected) > 0 && !ag.rejectedOf.Same(free) && !ag.rejectedOf.Contains(free) {
		ag.rejected = ag.rejected[:0]
	}
	if len(ag.rejected) == 0 {
		ag.rejectedOf = free
	} else {
		mask.andNot(ag.rejected)
	}
	learns := ag.rejectedOf.Same(free) || ag.rejectedOf.Equal(free)
	if mask.empty() {
		return
	}
	var now reach
	for start := true; start || now != a.reach(ag, stage); start = false {
		if now = a.reach(ag, stage); now == reachNobody {
			break
		}
		a.narrow(ag, mask, now)
		if mask.empty() {
			break
		}
		cy.cursor.start(&a.tree, a.clientNode, mask, a.nEligible)
		a.walk(ag, stage, now, startOf{free, learns})
	}
	a.settle()
}

// startOf is what was free on an agent when a visit began, and whether rejections of all of it may be remembered.
type startOf struct {
	free   resources.Resources
	learns bool
}

// walk offers to clients in order until nothing is left, or until what is left reaches fewer clients than before.
func (a *Allocator) walk(ag *agent, stage int, now reach, start startOf) {
	cy := &a.cycle
	for c := cy.cursor.next(); c >= 0; c = cy.cursor.next() {
		if stage == 1 && !cy.unmet.has(c) {
			continue
		}
		p := a.propose(ag, c, stage)
		if p.withheld && (len(cy.again) == 0 || cy.again[len(cy.again)-1] != ag) {
			cy.again = append(cy.again, ag)
		}
		if p.cut && stage == 2 {
			a.setHeldBack(ag, true)
		}
		if p.none {
			if start.learns && !p.cut && !p.withheld && stage == 2 && ag.free.Same(start.free) {
				ag.rejected.set(c)
			}
			continue
		}
		a.offer(ag, c, p.offer)
		if a.reach(ag, stage) != now {
			return
		}
	}
}

// reach says whom what is free on an agent may go to at all. It only ever shrinks during a visit.
type reach uint8

const (
	reachAll   reach = iota
	reachLess        // only those with a minimum of their own, or those for whom it is reserved or who take revocable resources
	reachLeast       // both
	reachNobody
)

// reach looks at the kinds and sums of what is free.
func (a *Allocator) reach(ag *agent, stage int) reach {
	switch small, closed := !a.worthwhile(ag, stage), ag.freeFlags&hasOpen == 0; {
	case ag.freeFlags&hasUnshared == 0, small && a.ownMinimum.empty():
		return reachNobody
	case small && closed:
		return reachLeast
	case small || closed:
		return reachLess
	default:
		return reachAll
	}
}

// narrow takes those clients out of the mask whom what is free can't reach.
func (a *Allocator) narrow(ag *agent, mask bitmap, now reach) {
	if now == reachAll {
		return
	}
	if now == reachLeast || ag.freeFlags&hasOpen != 0 {
		mask.and(a.ownMinimum)
	}
	if ag.freeFlags&hasOpen != 0 {
		return
	}
	able := &a.cycle.able
	clear(*able)
	last := ""
	for x := range ag.free.All() {
		switch role := x.Role(); {
		case role == "":
			for i, w := range a.revocable {
				able.grow(i)
				(*able)[i] |= w
			}
		case role != last:
			last = role
			if r := a.roles[role]; r != nil {
				for _, c := range r.subtree {
					able.set(c)
				}
			}
		}
	}
	mask.and(*able)
}

// candidates returns the clients that may be offered the agent, in memory that the next visit uses again; nil for none.
func (a *Allocator) candidates(ag *agent, full bool, stage int) bitmap {
	cy := &a.cycle
	cy.mask.assign(a.eligible)
	mask := cy.mask
	if !full {
		mask.and(a.fresh)
	}
	if stage == 1 {
		mask.and(cy.unmet)
	}
	mask.and(a.compatible[ag.class])
	for i := range ag.refused {
		if s := &ag.refused[i]; s.res.Same(ag.free) || s.res.Contains(ag.free) {
			mask.andNot(s.clients)
		}
	}
	if stage == 2 && len(a.exhausted) > 0 && ag.freeFlags&(hasReserved|hasRevocable) == 0 {
		a.passOver(ag, mask)
	}
	if len(a.constrained) > 0 && !mask.empty() {
		a.applyConstraints(ag, mask)
	}
	if mask.empty() {
		return nil
	}
	return mask
}

// passOver takes the clients out of the mask whose role's limit leaves no room for the global minimum. Quota is what keeps
// the agent from them, so it is held back.
func (a *Allocator) passOver(ag *agent, mask bitmap) {
	passed := false
	for i := range mask[:min(len(mask), len(a.exhausted))] {
		over := mask[i] & a.exhausted[i]
		if i < len(a.ownMinimum) {
			over &^= a.ownMinimum[i]
		}
		passed = passed || over != 0
		mask[i] &^= over
	}
	if passed {
		a.setHeldBack(ag, true)
	}
}

// worthwhile reports whether what is free could satisfy the global minimum for anybody, given what the second pass keeps back
// for guarantees. When quota alone makes it too little, the agent is held back.
func (a *Allocator) worthwhile(ag *agent, stage int) bool {
	if !satisfied(a.minGlobal, ag.freeAll) {
		return false
	}
	if stage == 1 || len(a.quota.roles) == 0 || len(a.minGlobal) == 0 {
		return true
	}
	most := &a.cycle.all
	*most = append((*most)[:0], ag.freeAll...)
	cut := false
	for i, x := range ag.freePlain {
		if over := x - a.surplusAt(i); over > 0 {
			(*most)[i] -= over
			cut = true
		}
	}
	if !cut || satisfied(a.minGlobal, *most) {
		return true
	}
	a.setHeldBack(ag, true)
	return false
}

// proposal is what a client would be offered on an agent.
type proposal struct {
	offer    resources.Resources
	none     bool // nothing to offer
	cut      bool // quota kept something back
	withheld bool // a shared volume was left out because this cycle offered it already
}

// propose works out what a client may be offered: what is free and its role may have, without what its capabilities exclude,
// cut down to quota, unless that is too little or the client refused it (facts 5).
func (a *Allocator) propose(ag *agent, c int32, stage int) proposal {
	cl := &a.clients[c]
	p := proposal{offer: ag.free}
	if ag.freeFlags&special != 0 {
		p.offer, p.withheld = a.fitting(ag, cl)
	}
	whole := p.offer
	if len(a.quota.roles) > 0 {
		top := cl.role.top
		if stage == 1 {
			progress := false
			for i, x := range ag.freePlain {
				progress = progress || x > 0 && top.unmet(i) > 0
			}
			if !progress {
				p.none = true
				return p
			}
		}
		p.offer = p.offer.Shrink(func(name string) resources.Amount { return a.budget(ag, top, a.names.of(name), stage) })
		p.cut = !p.offer.Same(whole)
	}
	sums, f := ag.freeAll, ag.freeFlags
	if !p.offer.Same(ag.free) {
		f = a.names.measure(p.offer, &a.cycle.all, &a.cycle.plain)
		sums = a.cycle.all
	}
	minimum := a.minGlobal
	if a.ownMinimum.has(c) {
		minimum = cl.minimum
	}
	p.none = f&hasUnshared == 0 || !satisfied(minimum, sums) || ag.refuses(c, p.offer)
	return p
}

// fitting returns the free resources that the client's role may have and its framework can handle.
func (a *Allocator) fitting(ag *agent, cl *client) (fit resources.Resources, withheld bool) {
	can := &cl.fw.info.Capabilities
	fit = ag.free.Filter(func(x resources.Resource) bool {
		switch {
		case x.IsReserved() && !resources.IsRoleOrDescendant(cl.role.name, x.Role()),
			x.HasRefinedReservation() && !can.ReservationRefinement,
			x.IsRevocable() && !can.Revocable,
			x.IsShared() && !can.Shared:
			return false
		case x.IsShared() && len(ag.cycleShare) > 0 && slices.Contains(ag.cycleShare, x.Identity()):
			withheld = true
			return false
		}
		return true
	})
	return fit, withheld
}

// budget is how much of a name quota lets a role be offered on an agent. The first pass gives what its guarantee lacks, and
// more as far as its limit and the headroom of the others go; the second only the latter.
func (a *Allocator) budget(ag *agent, top *role, i, stage int) resources.Amount {
	room, surplus := top.room(i), a.surplusAt(i)
	if stage == 2 {
		return min(room, surplus)
	}
	guaranteed := min(ag.freePlain.at(i), top.unmet(i))
	if room != resources.Unlimited {
		room = max(room-guaranteed, 0)
	}
	more := min(room, surplus)
	if more == resources.Unlimited {
		return more
	}
	return guaranteed + more
}

// offer records an offer.
func (a *Allocator) offer(ag *agent, c int32, res resources.Resources) {
	cy := &a.cycle
	cl := &a.clients[c]
	allocated := ag.allocate(res, cl.role.name)
	a.addUsage(ag, c, allocated)
	f, all, plain := ag.freeFlags, ag.freeAll, ag.freePlain
	if !res.Same(ag.free) {
		f = a.names.measure(res, &cy.all, &cy.plain)
		all, plain = cy.all, cy.plain
	}
	cy.sums = append(cy.sums, all...)
	cy.pending = append(cy.pending, pendingCharge{ag, cl.node, f, len(cy.sums), allocated})
	a.chargeConsumption(cl.role.top, plain, 1)
	a.metNow(cl.role.top)
	taken := res
	if f&hasShared != 0 {
		taken = res.NonShared()
		for x := range res.Shared().All() {
			ag.cycleShare = append(ag.cycleShare, x.Identity())
		}
	}
	a.setFree(ag, ag.free.Minus(taken))
	for _, i := range ag.cycleOffer {
		if cy.owners[i] == c {
			cy.offers[i].Resources = cy.offers[i].Resources.Add(allocated)
			return
		}
	}
	ag.cycleOffer = append(ag.cycleOffer, int32(len(cy.offers)))
	cy.offers = append(cy.offers, Offer{Framework: cl.fw.id, Role: cl.role.name, Agent: ag.id, Resources: allocated})
	cy.owners = append(cy.owners, c)
}

// settle brings the order of shares in line with what the visit offered.
func (a *Allocator) settle() {
	cy := &a.cycle
	if len(cy.pending) == 0 {
		return
	}
	start := 0
	for _, p := range cy.pending {
		a.chargeTree(p.ag, p.node, p.res, p.flags, cy.sums[start:p.end], 1, true)
		start = p.end
	}
	clear(cy.pending)
	cy.pending, cy.sums = cy.pending[:0], cy.sums[:0]
	a.tree.refresh()
}
