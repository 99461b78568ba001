package resources

import (
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// Resources is an immutable set of resources in canonical form. The zero value holds nothing.
type Resources struct {
	entries []entry // sorted by compare, no entry empty; never changed once the value exists
}

// entry is one resource: 48 bytes, so that copying a set is a short memmove.
type entry struct {
	kind   *kind
	alloc  string // allocation role, "" when not allocated
	scalar Amount
	list   *list // ranges and sets; never changed
	copies int64 // of whole entries, at least 1; 0 for the others
}

// list carries the values that are not scalars.
type list struct {
	ranges Ranges
	set    []string
}

func compare(a, b *entry) int {
	if c := compareKinds(a.kind, b.kind); c != 0 {
		return c
	}
	return strings.Compare(a.alloc, b.alloc)
}

func (e *entry) empty() bool {
	switch {
	case e.kind.whole:
		return e.copies <= 0
	case e.kind.typ == typeScalar:
		return e.scalar <= 0
	case e.kind.typ == typeRanges:
		return e.list == nil || len(e.list.ranges) == 0
	default:
		return e.list == nil || len(e.list.set) == 0
	}
}

// plus returns the sum of two entries of the same identity.
func (e entry) plus(o *entry) entry {
	switch {
	case e.kind.whole:
		e.copies += o.copies
	case e.kind.typ == typeScalar:
		e.scalar = addAmounts(e.scalar, o.scalar)
	case e.kind.typ == typeRanges:
		e.list = &list{ranges: e.list.ranges.union(o.list.ranges)}
	default:
		e.list = &list{set: unionSet(e.list.set, o.list.set)}
	}
	return e
}

// minus returns what is left of e without o, nothing below zero.
func (e entry) minus(o *entry) entry {
	switch {
	case e.kind.whole:
		e.copies -= o.copies
	case e.kind.typ == typeScalar:
		e.scalar -= o.scalar
	case e.list == o.list:
		e.list = nil
	case e.kind.typ == typeRanges:
		e.list = &list{ranges: e.list.ranges.minus(o.list.ranges)}
	default:
		e.list = &list{set: minusSet(e.list.set, o.list.set)}
	}
	return e
}

// holds reports whether o, of the same identity, is within e.
func (e *entry) holds(o *entry) bool {
	switch {
	case e.kind.whole:
		return e.copies >= o.copies
	case e.kind.typ == typeScalar:
		return e.scalar >= o.scalar
	case e.list == o.list:
		return true
	case e.kind.typ == typeRanges:
		return e.list.ranges.contains(o.list.ranges)
	default:
		return containsSet(e.list.set, o.list.set)
	}
}

// same returns whether both values share their memory, which proves them equal without a look inside.
func (r Resources) same(o Resources) bool {
	return len(r.entries) == len(o.entries) && (len(r.entries) == 0 || &r.entries[0] == &o.entries[0])
}

// Same reports whether o is the very value r (or both are empty). It costs nothing, and false says nothing about equality:
// caches use it before Equal.
func (r Resources) Same(o Resources) bool { return r.same(o) }

// IsEmpty reports whether there is nothing in the set.
func (r Resources) IsEmpty() bool { return len(r.entries) == 0 }

// Len returns the number of entries.
func (r Resources) Len() int { return len(r.entries) }

// Add returns the sum. Ranges and sets are joined; copies of shared and indivisible resources are counted.
func (r Resources) Add(o Resources) Resources {
	if len(o.entries) == 0 {
		return r
	}
	if len(r.entries) == 0 {
		return o
	}
	out := make([]entry, 0, max(len(r.entries), len(o.entries)))
	i, j := 0, 0
	for i < len(r.entries) && j < len(o.entries) {
		switch c := compare(&r.entries[i], &o.entries[j]); {
		case c < 0:
			out = append(out, r.entries[i])
			i++
		case c > 0:
			out = append(out, o.entries[j])
			j++
		default:
			out = append(out, r.entries[i].plus(&o.entries[j]))
			i++
			j++
		}
	}
	out = append(out, r.entries[i:]...)
	return Resources{append(out, o.entries[j:]...)}
}

// Sum returns the sum of all sets.
func Sum(sets ...Resources) Resources {
	var total Resources
	for _, s := range sets {
		total = total.Add(s)
	}
	return total
}

// Subtract returns what is left of r without o, and whether o was within r. When it was not, what is left is what remains
// of r after taking away as much of o as is there: nothing is ever negative.
func (r Resources) Subtract(o Resources) (left Resources, ok bool) {
	if len(o.entries) == 0 {
		return r, true
	}
	if r.same(o) {
		return Resources{}, true
	}
	var out []entry
	ok = true
	i, j := 0, 0
	for i < len(r.entries) && j < len(o.entries) {
		a, b := &r.entries[i], &o.entries[j]
		switch c := compare(a, b); {
		case c < 0:
			out = append(out, *a)
			i++
		case c > 0:
			ok = false
			j++
		default:
			if !a.holds(b) {
				ok = false
			}
			if left := a.minus(b); !left.empty() {
				out = append(out, left)
			}
			i++
			j++
		}
	}
	if j < len(o.entries) {
		ok = false
	}
	return Resources{append(out, r.entries[i:]...)}, ok
}

// Minus returns what is left of r without o, as Subtract, for callers to whom a part that is missing does not matter.
func (r Resources) Minus(o Resources) Resources {
	left, _ := r.Subtract(o)
	return left
}

// Contains reports whether o is within r.
func (r Resources) Contains(o Resources) bool {
	if len(o.entries) > len(r.entries) {
		return false
	}
	if r.same(o) {
		return true
	}
	i := 0
	for j := range o.entries {
		b := &o.entries[j]
		for {
			if i == len(r.entries) {
				return false
			}
			c := compare(&r.entries[i], b)
			if c > 0 {
				return false
			}
			i++
			if c == 0 {
				break
			}
		}
		if !r.entries[i-1].holds(b) {
			return false
		}
	}
	return true
}

// Equal reports whether both hold the same.
func (r Resources) Equal(o Resources) bool {
	if len(r.entries) != len(o.entries) {
		return false
	}
	if r.same(o) {
		return true
	}
	for i := range r.entries {
		a, b := &r.entries[i], &o.entries[i]
		if a.scalar != b.scalar || a.copies != b.copies || compare(a, b) != 0 {
			return false
		}
		if a.list != b.list && !(a.holds(b) && b.holds(a)) {
			return false
		}
	}
	return true
}

// Resource is one entry as Filter and All show it. It is a view: cheap, and valid as long as wanted.
type Resource struct{ e *entry }

// Name returns the resource's name.
func (x Resource) Name() string { return x.e.kind.name }

// IsScalar reports whether the resource is a scalar.
func (x Resource) IsScalar() bool { return x.e.kind.typ == typeScalar }

// IsRanges reports whether the resource is a list of intervals.
func (x Resource) IsRanges() bool { return x.e.kind.typ == typeRanges }

// IsSet reports whether the resource is a set of strings.
func (x Resource) IsSet() bool { return x.e.kind.typ == typeSet }

// Amount returns the value of a scalar; of a resource held in copies, one copy's.
func (x Resource) Amount() Amount { return x.e.scalar }

// Ranges returns the intervals, which the caller must not change.
func (x Resource) Ranges() Ranges {
	if x.e.list == nil {
		return nil
	}
	return x.e.list.ranges
}

// Set returns the items, which the caller must not change.
func (x Resource) Set() []string {
	if x.e.list == nil {
		return nil
	}
	return x.e.list.set
}

// Copies returns how many copies of a shared or indivisible resource there are, 1 for the others.
func (x Resource) Copies() int64 { return max(x.e.copies, 1) }

// Role returns the role that the resource is reserved to, "" when it is unreserved.
func (x Resource) Role() string { return x.e.kind.role() }

// AllocationRole returns the role that the resource is allocated to, "" when it is not allocated.
func (x Resource) AllocationRole() string { return x.e.alloc }

// IsReserved reports whether the resource has a reservation.
func (x Resource) IsReserved() bool { return len(x.e.kind.reservations) > 0 }

// IsDynamicallyReserved reports whether the innermost reservation is dynamic.
func (x Resource) IsDynamicallyReserved() bool {
	n := len(x.e.kind.reservations)
	return n > 0 && x.e.kind.reservations[n-1].GetType() == mesosv1.Resource_ReservationInfo_DYNAMIC
}

// HasRefinedReservation reports whether the resource can't be told in pre-refinement form.
func (x Resource) HasRefinedReservation() bool { return len(x.e.kind.reservations) > 1 }

// ReservationPrincipal returns the principal of the innermost reservation, "" when there is none.
func (x Resource) ReservationPrincipal() string {
	n := len(x.e.kind.reservations)
	if n == 0 {
		return ""
	}
	return x.e.kind.reservations[n-1].GetPrincipal()
}

// IsRevocable reports whether the resource may be taken back.
func (x Resource) IsRevocable() bool { return x.e.kind.revocable }

// IsShared reports whether several tasks may use the resource at once.
func (x Resource) IsShared() bool { return x.e.kind.shared }

// IsPersistentVolume reports whether the resource is a persistent volume.
func (x Resource) IsPersistentVolume() bool { return x.e.kind.persistent() }

// PersistenceID returns the id of a persistent volume, "" for anything else.
func (x Resource) PersistenceID() string { return x.e.kind.disk.GetPersistence().GetId() }

// Disk returns the disk's description, nil for what has none. The caller must not change it.
func (x Resource) Disk() *mesosv1.Resource_DiskInfo { return x.e.kind.disk }

// ProviderID returns the resource provider and whether there is one.
func (x Resource) ProviderID() (string, bool) { return x.e.kind.provider, x.e.kind.hasProvider }

// Resources returns the entry as a set of its own.
func (x Resource) Resources() Resources { return Resources{[]entry{*x.e}} }

// Identity returns a text that two resources share exactly when they differ in nothing but their divisible value, allocation
// role and number of copies. It is for use as a key, not for people.
func (x Resource) Identity() string { return x.e.kind.name + "\x00" + x.e.kind.key }
