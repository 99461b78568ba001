package allocator

import (
	"time"

	"github.com/orchestrator/orchestrator/internal/resources"
)

// cycleState is what one Allocate works with; kept between cycles for its memory.
type cycleState struct {
	visits  []visit
	swap    []visit
	ids     []int32
	mask    bitmap
	able    bitmap
	unmet   bitmap // clients whose top-level role has an unmet guarantee
	cursor  cursor
	pending []pendingCharge
	sums    vec // scalars of the pending charges, one after the other
	offers  []Offer
	expect  int     // offers of the last cycle, and some: how much room to make
	owners  []int32 // client of each offer
	again   []*agent
	all     vec // scratch of measure
	plain   vec
	warmed  uint64
}

// visit is one agent to look at; those that are not dirty are looked at for fresh clients only.
type visit struct {
	key  uint32
	slot int32
	full bool
}

// pendingCharge is an allocation that the order of shares does not know of yet: the order stands still during a visit.
type pendingCharge struct {
	ag    *agent
	node  int32
	flags flags
	end   int // of its scalars in cycleState.sums
	res   resources.Resources
}

// Allocate visits what changed since the last call and returns the offers to make, which count as allocated from now on until
// Recover. seed decides the order in which agents are visited, by a hash with their ids. There is at most one offer for a
// framework, role and agent.
func (a *Allocator) Allocate(now time.Time, seed uint64) ([]Offer, []InverseOffer) {
	a.expire(now)
	a.patient.refill(now, a.refusedPerSecond())
	if a.paused {
		return nil, nil
	}
	cy := &a.cycle
	cy.offers, cy.owners, cy.again = nil, cy.owners[:0], cy.again[:0]
	a.tree.refresh()
	a.easeQuota()
	a.collect(seed)
	if len(cy.visits) > 0 {
		if n := min(cy.expect, len(cy.visits)); n > 0 {
			cy.offers = make([]Offer, 0, n)
		}
		if a.markUnmet() {
			a.order(seed)
			a.pass(1)
			seed = mix(seed) // the second pass goes another way round, to spread what the first one took
		}
		a.order(seed)
		a.pass(2)
		for _, v := range cy.visits {
			ag := a.slots[v.slot]
			clear(ag.cycleShare)
			ag.cycleOffer, ag.cycleShare = ag.cycleOffer[:0], ag.cycleShare[:0]
		}
	}
	clear(a.fresh)
	for _, ag := range cy.again {
		a.markDirty(ag)
	}
	if len(a.quota.roles) > 0 {
		a.noteSurplus()
		a.quota.eased = false
	}
	offers := cy.offers
	cy.offers, cy.expect = nil, len(offers)+len(offers)/8
	return offers, a.inverseOffers(now)
}

// easeQuota makes held back agents dirty when what held them back may have eased.
func (a *Allocator) easeQuota() {
	if a.held == 0 || !a.quota.eased && (len(a.quota.roles) == 0 || !a.surplusGrew()) {
		return
	}
	for _, ag := range a.slots {
		if ag != nil && ag.heldBack {
			a.markDirty(ag)
		}
	}
}

func (a *Allocator) setHeldBack(ag *agent, held bool) {
	if ag.heldBack != held {
		ag.heldBack = held
		if held {
			a.held++
		} else {
			a.held--
		}
	}
}

// collect lists the agents to visit and empties the sets of dirty agents and fresh clients.
func (a *Allocator) collect(seed uint64) {
	cy := &a.cycle
	cy.visits = cy.visits[:0]
	anyFresh := !a.fresh.empty()
	a.admitPatient(anyFresh, seed)
	if anyFresh {
		for _, ag := range a.slots {
			if ag != nil {
				ag.rejected.andNot(a.fresh)
				if a.visitable(ag) && !ag.dirty {
					cy.visits = append(cy.visits, visit{slot: ag.slot})
				}
			}
		}
	}
	for i, slot := range a.dirty {
		if i%lookahead == 0 {
			for _, next := range a.dirty[i:min(i+lookahead, len(a.dirty))] {
				cy.warmed += uint64(a.slots[next].freeFlags) // see warm
			}
		}
		ag := a.slots[slot]
		ag.dirty = false
		a.setHeldBack(ag, false)
		if a.visitable(ag) {
			cy.visits = append(cy.visits, visit{slot: slot, full: true})
		}
	}
	a.dirty = a.dirty[:0]
}

func (a *Allocator) visitable(ag *agent) bool { return ag.offerable && ag.freeFlags&hasUnshared != 0 }

// markUnmet collects the clients of roles with unmet guarantees.
func (a *Allocator) markUnmet() bool {
	cy := &a.cycle
	clear(cy.unmet)
	found := false
	for _, r := range a.quota.roles {
		if r.hasUnmet() {
			for _, c := range r.subtree {
				if a.eligible.has(c) {
					cy.unmet.set(c)
					found = true
				}
			}
		}
	}
	return found
}

// metNow takes a role's clients out of the unmet ones once its guarantee is met.
func (a *Allocator) metNow(r *role) {
	if r.quota != nil && !r.hasUnmet() {
		for _, c := range r.subtree {
			a.cycle.unmet.unset(c)
		}
	}
}

// order sorts the visits by a hash of seed and agent.
func (a *Allocator) order(seed uint64) {
	cy := &a.cycle
	for i := range cy.visits {
		v := &cy.visits[i]
		v.key = uint32(mix(seed^a.hashes[v.slot]) >> 32)
	}
	if cap(cy.swap) < len(cy.visits) {
		cy.swap = make([]visit, len(cy.visits))
	}
	cy.visits, cy.swap = sortVisits(cy.visits, cy.swap[:len(cy.visits)])
}

// sortVisits sorts by key and then slot: a radix sort, as there may be tens of thousands in every cycle. It returns the
// sorted slice and the other one.
func sortVisits(in, out []visit) (sorted, other []visit) {
	pass := func(digit func(visit) uint32) {
		var count [257]int
		for _, v := range in {
			count[digit(v)+1]++
		}
		for i := 1; i < len(count); i++ {
			count[i] += count[i-1]
		}
		for _, v := range in {
			d := digit(v)
			out[count[d]] = v
			count[d]++
		}
		in, out = out, in
	}
	for shift := 0; shift < 32; shift += 8 {
		pass(func(v visit) uint32 { return v.key >> shift & 0xff })
	}
	return in, out
}

// mix is the finaliser of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// pass visits all agents once: the first pass serves unmet guarantees, the second everybody.
func (a *Allocator) pass(stage int) {
	cy := &a.cycle
	for i, v := range cy.visits {
		if limit := a.opts.MaxOffersPerCycle; limit > 0 && len(cy.offers) >= limit {
			for _, rest := range cy.visits[i:] {
				cy.again = append(cy.again, a.slots[rest.slot])
			}
			return
		}
		if stage == 1 && cy.unmet.empty() {
			return
		}
		if i%lookahead == 0 {
			a.warm(cy.visits[i:min(i+lookahead, len(cy.visits))])
		}
		a.visit(a.slots[v.slot], v.full, stage)
	}
}

// lookahead is how many visits warm prepares at once.
const lookahead = 16

// warm touches what the next visits will read. Agents lie anywhere in memory; read one after the other, each visit would wait
// for memory several times, while independent reads in a row wait together.
func (a *Allocator) warm(visits []visit) {
	var sum uint64
	for _, v := range visits {
		ag := a.slots[v.slot]
		sum += uint64(ag.freeFlags) + uint64(len(ag.refused)) + uint64(len(ag.memo.role)) + uint64(len(ag.id)) +
			uint64(ag.inline.plain[0]) + uint64(ag.inline.used[0].client) + uint64(len(ag.cycleOffer))
	}
	for _, v := range visits {
		ag := a.slots[v.slot]
		if len(ag.refused) > 0 && len(ag.refused[0].clients) > 0 {
			sum += ag.refused[0].clients[0]
		}
	}
	a.cycle.warmed += sum // keeps the reads from being optimised away
}
