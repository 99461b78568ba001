package resources

import (
	"iter"
	"slices"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// All yields every entry in canonical order.
func (r Resources) All() iter.Seq[Resource] {
	return func(yield func(Resource) bool) {
		for i := range r.entries {
			if !yield(Resource{&r.entries[i]}) {
				return
			}
		}
	}
}

// filter keeps the entries for which keep holds. It returns r itself when all are kept.
func (r Resources) filter(keep func(*entry) bool) Resources {
	n := 0
	for i := range r.entries {
		if keep(&r.entries[i]) {
			n++
		}
	}
	if n == len(r.entries) {
		return r
	}
	if n == 0 {
		return Resources{}
	}
	out := make([]entry, 0, n)
	for i := range r.entries {
		if keep(&r.entries[i]) {
			out = append(out, r.entries[i])
		}
	}
	return Resources{out}
}

// Filter returns the entries for which keep holds; keep is called up to twice for each and must be a pure function.
func (r Resources) Filter(keep func(Resource) bool) Resources {
	return r.filter(func(e *entry) bool { return keep(Resource{e}) })
}

// Unreserved returns what is reserved to nobody.
func (r Resources) Unreserved() Resources {
	return r.filter(func(e *entry) bool { return len(e.kind.reservations) == 0 })
}

// Reserved returns what is reserved to anybody.
func (r Resources) Reserved() Resources {
	return r.filter(func(e *entry) bool { return len(e.kind.reservations) > 0 })
}

// ReservedTo returns what is reserved to exactly this role.
func (r Resources) ReservedTo(role string) Resources {
	return r.filter(func(e *entry) bool { return len(e.kind.reservations) > 0 && e.kind.role() == role })
}

// Reservations returns what is reserved, by role.
func (r Resources) Reservations() map[string]Resources {
	out := map[string]Resources{}
	for _, e := range r.entries {
		if role := e.kind.role(); role != "" {
			s := out[role]
			out[role] = Resources{append(s.entries, e)} // the slices are this function's own until it returns
		}
	}
	return out
}

// AllocatableTo returns what may be offered to a role: what is unreserved, and what is reserved to it or its ancestors.
func (r Resources) AllocatableTo(role string) Resources {
	return r.filter(func(e *entry) bool {
		return len(e.kind.reservations) == 0 || IsRoleOrDescendant(role, e.kind.role())
	})
}

// Revocable returns what may be taken back.
func (r Resources) Revocable() Resources {
	return r.filter(func(e *entry) bool { return e.kind.revocable })
}

// NonRevocable returns what may not be taken back.
func (r Resources) NonRevocable() Resources {
	return r.filter(func(e *entry) bool { return !e.kind.revocable })
}

// Shared returns what several tasks may use at once.
func (r Resources) Shared() Resources { return r.filter(func(e *entry) bool { return e.kind.shared }) }

// NonShared returns what only one task may use.
func (r Resources) NonShared() Resources {
	return r.filter(func(e *entry) bool { return !e.kind.shared })
}

// PersistentVolumes returns the persistent volumes.
func (r Resources) PersistentVolumes() Resources {
	return r.filter(func(e *entry) bool { return e.kind.persistent() })
}

// HasPersistentVolumes reports whether there are any. Resources with some that are equal may still be used in different ways: at another
// path, or to be read only.
func (r Resources) HasPersistentVolumes() bool {
	for i := range r.entries {
		if r.entries[i].kind.persistent() {
			return true
		}
	}
	return false
}

// Scalars returns the scalars.
func (r Resources) Scalars() Resources {
	return r.filter(func(e *entry) bool { return e.kind.typ == typeScalar })
}

// OneCopy returns the same resources with a single copy of each shared one: what a shared volume is on an agent, however
// many tasks use it.
func (r Resources) OneCopy() Resources {
	if !slices.ContainsFunc(r.entries, func(e entry) bool { return e.kind.shared && e.copies > 1 }) {
		return r
	}
	out := slices.Clone(r.entries)
	for i := range out {
		if out[i].kind.shared {
			out[i].copies = 1
		}
	}
	return Resources{out}
}

// HasRefinedReservations reports whether any entry has more than one reservation on its stack.
func (r Resources) HasRefinedReservations() bool {
	return slices.ContainsFunc(r.entries, func(e entry) bool { return len(e.kind.reservations) > 1 })
}

// Allocate returns the same resources allocated to a role.
func (r Resources) Allocate(role string) Resources {
	if len(r.entries) == 0 {
		return r
	}
	allocated := true
	for i := range r.entries {
		allocated = allocated && r.entries[i].alloc == role
	}
	if allocated {
		return r
	}
	out := slices.Clone(r.entries)
	mixed := false
	for i := range out {
		mixed = mixed || r.entries[i].alloc != r.entries[0].alloc
		out[i].alloc = role
	}
	if !mixed {
		return Resources{out} // one role for another keeps the order and makes no two entries the same
	}
	return Resources{canonical(out)}
}

// Unallocate returns the same resources without allocation.
func (r Resources) Unallocate() Resources { return r.Allocate("") }

// Allocations returns the resources by the role that they are allocated to, "" for what is not allocated.
func (r Resources) Allocations() map[string]Resources {
	out := map[string]Resources{}
	if len(r.entries) == 0 {
		return out
	}
	if role := r.entries[0].alloc; !slices.ContainsFunc(r.entries, func(e entry) bool { return e.alloc != role }) {
		out[role] = r
		return out
	}
	for _, e := range r.entries {
		s := out[e.alloc]
		out[e.alloc] = Resources{append(s.entries, e)}
	}
	return out
}

// SoleAllocation returns the role that all of the resources are allocated to, and whether there is just one.
func (r Resources) SoleAllocation() (role string, ok bool) {
	for i := range r.entries {
		if i > 0 && r.entries[i].alloc != role {
			return "", false
		}
		role = r.entries[i].alloc
	}
	return role, len(r.entries) > 0
}

// canonical sorts entries and adds up those of the same identity; it takes over the slice.
func canonical(entries []entry) []entry {
	inOrder := true
	for i := 1; i < len(entries) && inOrder; i++ {
		inOrder = compare(&entries[i-1], &entries[i]) <= 0
	}
	if !inOrder {
		slices.SortStableFunc(entries, func(a, b entry) int { return compare(&a, &b) })
	}
	out := entries[:0]
	for i := range entries {
		e := entries[i]
		switch {
		case e.empty():
		case len(out) > 0 && compare(&out[len(out)-1], &e) == 0:
			out[len(out)-1] = out[len(out)-1].plus(&e)
		default:
			out = append(out, e)
		}
	}
	return out
}

// rekind returns the same resources with every kind replaced, in canonical form again.
func (r Resources) rekind(change func(kind) kind) Resources {
	out := make([]entry, 0, len(r.entries))
	for _, e := range r.entries {
		e.kind = newKind(change(*e.kind))
		out = append(out, e.settle())
	}
	return Resources{canonical(out)}
}

// settle makes an entry whose kind was just made fit it: whole entries count copies and carry their value in the key.
func (e entry) settle() entry {
	switch {
	case e.kind.whole:
		e.kind = e.kind.withValue(e.scalar, e.list)
		e.copies = max(e.copies, 1)
	case e.copies > 1 && e.kind.typ == typeScalar:
		e.scalar *= Amount(e.copies)
		e.copies = 0
	default:
		e.copies = 0
	}
	return e
}

// ToUnreserved returns the same resources with all reservations taken off.
func (r Resources) ToUnreserved() Resources {
	if !slices.ContainsFunc(r.entries, func(e entry) bool { return len(e.kind.reservations) > 0 }) {
		return r
	}
	return r.rekind(func(k kind) kind { k.reservations = nil; return k })
}

// PushReservation returns the same resources with one more reservation on each stack.
func (r Resources) PushReservation(res *mesosv1.Resource_ReservationInfo) Resources {
	res = res.CloneVT()
	return r.rekind(func(k kind) kind {
		k.reservations = append(slices.Clip(slices.Clone(k.reservations)), res)
		return k
	})
}

// PopReservation returns the same resources with the innermost reservation of each stack taken off; what is unreserved stays.
func (r Resources) PopReservation() Resources {
	return r.rekind(func(k kind) kind {
		if n := len(k.reservations); n > 0 {
			k.reservations = slices.Clip(slices.Clone(k.reservations[:n-1]))
		}
		return k
	})
}

// Scalar returns the sum of the scalars of this name, 0 when there is none. Copies of a shared resource count once.
func (r Resources) Scalar(name string) float64 { return r.Quantity(name).Float() }

// Quantity is Scalar in fixed point.
func (r Resources) Quantity(name string) Amount {
	var sum Amount
	for i := range r.entries {
		if e := &r.entries[i]; e.kind.typ == typeScalar && e.kind.name == name {
			sum = addAmounts(sum, e.amount())
		}
	}
	return sum
}

// amount is what a scalar entry counts for in sums.
func (e *entry) amount() Amount {
	if e.kind.whole && !e.kind.shared {
		return e.scalar * Amount(max(e.copies, 1))
	}
	return e.scalar
}

// Ports returns the intervals named "ports" of all roles, joined.
func (r Resources) Ports() Ranges { return r.RangesOf(Ports) }

// RangesOf returns the intervals of this name, joined.
func (r Resources) RangesOf(name string) Ranges {
	var sum Ranges
	for i := range r.entries {
		if e := &r.entries[i]; e.kind.typ == typeRanges && e.kind.name == name {
			sum = sum.union(e.list.ranges)
		}
	}
	return sum
}

// Names returns the distinct names in canonical order.
func (r Resources) Names() []string {
	var out []string
	for i := range r.entries {
		if n := r.entries[i].kind.name; len(out) == 0 || out[len(out)-1] != n {
			out = append(out, n)
		}
	}
	return out
}
