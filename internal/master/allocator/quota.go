package allocator

import (
	"fmt"
	"slices"
	"strings"

	"github.com/orchestrator/orchestrator/internal/resources"
)

// Quota of a top-level role: Guarantees are kept free for it as long as it consumes less, Limits are never exceeded by
// offers. A name that Limits lacks is unlimited; a name that Guarantees lacks is guaranteed nothing.
type Quota struct{ Guarantees, Limits resources.Quantities }

type quota struct {
	guarantee vec
	limit     vec // Unlimited where there is none
	limited   bool
	original  Quota
}

// limitAt returns the limit of a name.
func (q *quota) limitAt(i int) resources.Amount {
	if i < len(q.limit) {
		return q.limit[i]
	}
	return resources.Unlimited
}

// quotaState are the sums over the cluster that quota reckons with, kept as things change.
type quotaState struct {
	roles    []*role // with a quota
	required vec     // Σ over roles with quota of what is guaranteed and not consumed
	headroom vec     // unreserved non-revocable scalars free on agents that can be offered
	eased    bool    // something changed that may let held back agents be offered
	surplus  vec     // headroom less required at the end of the last cycle
	ready    bool    // surplus was taken
}

// SetQuota sets or, with nil, removes the quota of a top-level role.
func (a *Allocator) SetQuota(name string, q *Quota) error {
	if err := resources.ValidateRole(name); err != nil {
		return err
	}
	if strings.Contains(name, "/") {
		return fmt.Errorf("quota can be set on top-level roles only, not on '%s'", name)
	}
	a.quota.eased = true
	r := a.ensureRole(name)
	a.requireOf(r, -1)
	r.quota = nil
	for i, x := range a.quota.roles {
		if x == r {
			a.quota.roles = append(a.quota.roles[:i], a.quota.roles[i+1:]...)
			break
		}
	}
	for _, c := range r.subtree {
		a.exhausted.unset(c)
	}
	r.exhausted = false
	if q == nil || q.Guarantees.IsEmpty() && q.Limits.IsEmpty() {
		a.tidyRole(r)
		return nil
	}
	n := &quota{original: *q}
	for name, amount := range q.Guarantees.All() {
		i := a.names.of(name)
		n.guarantee.grow(i + 1)
		n.guarantee[i] = amount
	}
	for name, amount := range q.Limits.All() {
		i := a.names.of(name)
		for len(n.limit) <= i {
			n.limit = append(n.limit, resources.Unlimited)
		}
		n.limit[i] = amount
		n.limited = true
	}
	r.quota = n
	a.quota.roles = append(a.quota.roles, r)
	a.requireOf(r, 1)
	a.updateExhausted(r)
	return nil
}

// updateExhausted keeps the clients of a role apart whose limit leaves no room for the global minimum: on agents without
// reserved or revocable resources they can be passed over without a look. Roles at their limit are the rule where everybody
// has a quota, so this is what makes their cycles cheap.
func (a *Allocator) updateExhausted(top *role) {
	q := top.quota
	exhausted := q != nil && q.limited && len(a.minGlobal) > 0 && !slices.ContainsFunc(a.minGlobal, func(m minimum) bool {
		for _, x := range m {
			if top.room(x.index) < x.amount {
				return false
			}
		}
		return true
	})
	if exhausted == top.exhausted {
		return
	}
	top.exhausted = exhausted
	for _, c := range top.subtree {
		a.exhausted.put(c, exhausted)
	}
}

// requireOf adds or takes away a role's unmet guarantee to or from what is required.
func (a *Allocator) requireOf(r *role, sign resources.Amount) {
	if r.quota == nil {
		return
	}
	for i, g := range r.quota.guarantee {
		if unmet := g - r.consumed.at(i); unmet > 0 {
			a.quota.required.grow(i + 1)
			a.quota.required[i] += sign * unmet
		}
	}
}

// consume accounts a change of what a top-level role consumes of one name.
func (a *Allocator) consume(top *role, i int, amount resources.Amount) {
	top.consumed.grow(i + 1)
	before := top.consumed[i]
	top.consumed[i] = before + amount
	q := top.quota
	if q == nil {
		return
	}
	if amount < 0 {
		a.quota.eased = true
	}
	if q.limited {
		a.updateExhausted(top)
	}
	if i < len(q.guarantee) {
		g := q.guarantee[i]
		a.quota.required.grow(i + 1)
		a.quota.required[i] += max(g-before-amount, 0) - max(g-before, 0)
	}
}

// surplusAt returns how much of a name may be offered without touching what guarantees require; names of which nothing is
// required are unlimited.
func (a *Allocator) surplusAt(i int) resources.Amount {
	if a.quota.required.at(i) <= 0 {
		return resources.Unlimited
	}
	return max(a.quota.headroom.at(i)-a.quota.required[i], 0)
}

// surplusGrew reports whether any name's surplus is above what it was at the end of the last cycle.
func (a *Allocator) surplusGrew() bool {
	if !a.quota.ready {
		return true
	}
	for i := range a.names.list {
		if i >= len(a.quota.surplus) || a.surplusAt(i) > a.quota.surplus[i] {
			return true
		}
	}
	return false
}

func (a *Allocator) noteSurplus() {
	a.quota.ready = true
	a.quota.surplus = a.quota.surplus[:0]
	for i := range a.names.list {
		a.quota.surplus = append(a.quota.surplus, a.surplusAt(i))
	}
}

// unmet returns the guarantee of a name that a role does not consume yet.
func (r *role) unmet(i int) resources.Amount {
	if r.quota == nil || i >= len(r.quota.guarantee) {
		return 0
	}
	return max(r.quota.guarantee[i]-r.consumed.at(i), 0)
}

// hasUnmet reports whether any guarantee of the role is not met.
func (r *role) hasUnmet() bool {
	if r.quota == nil {
		return false
	}
	for i := range r.quota.guarantee {
		if r.unmet(i) > 0 {
			return true
		}
	}
	return false
}

// room returns how much more of a name the role may consume.
func (r *role) room(i int) resources.Amount {
	if r.quota == nil {
		return resources.Unlimited
	}
	limit := r.quota.limitAt(i)
	if limit == resources.Unlimited {
		return limit
	}
	return max(limit-r.consumed.at(i), 0)
}
