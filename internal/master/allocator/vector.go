package allocator

import "github.com/orchestrator/orchestrator/internal/resources"

// vec holds one amount for every scalar name of the cluster, by dense index. Names that came up after a vector was made are
// missing at its end and mean 0.
type vec []resources.Amount

// at returns the amount at an index, 0 beyond the end.
func (v vec) at(i int) resources.Amount {
	if i < len(v) {
		return v[i]
	}
	return 0
}

// add adds o, growing v when o knows more names.
func (v *vec) add(o vec) {
	v.grow(len(o))
	for i, x := range o {
		(*v)[i] += x
	}
}

// sub takes o away. Amounts may go below 0 for a moment, so nothing is clamped here.
func (v *vec) sub(o vec) {
	v.grow(len(o))
	for i, x := range o {
		(*v)[i] -= x
	}
}

func (v *vec) grow(n int) {
	for len(*v) < n {
		*v = append(*v, 0)
	}
}

func (v vec) zero() bool {
	for _, x := range v {
		if x != 0 {
			return false
		}
	}
	return true
}

// names gives every scalar name a dense index; the four well-known ones are fixed.
type names struct {
	index map[string]int
	list  []string
}

func newNames() names {
	n := names{index: map[string]int{}}
	for _, name := range []string{resources.CPUs, resources.Mem, resources.Disk, resources.GPUs} {
		n.of(name)
	}
	return n
}

func (n *names) of(name string) int {
	switch name {
	case resources.CPUs:
		if len(n.list) > 0 {
			return 0
		}
	case resources.Mem:
		if len(n.list) > 1 {
			return 1
		}
	case resources.Disk:
		if len(n.list) > 2 {
			return 2
		}
	case resources.GPUs:
		if len(n.list) > 3 {
			return 3
		}
	}
	i, ok := n.index[name]
	if !ok {
		i = len(n.list)
		n.index[name] = i
		n.list = append(n.list, name)
	}
	return i
}

func (n *names) quantities(v vec) resources.Quantities {
	m := make(map[string]resources.Amount, len(v))
	for i, x := range v {
		if x > 0 {
			m[n.list[i]] = x
		}
	}
	return resources.QuantitiesOf(m)
}

// measure adds up scalars: every non-shared one into all, the unreserved and non-revocable into free, the reserved ones'
// presence and other special kinds into flags. Both vectors are reused scratch.
func (n *names) measure(r resources.Resources, all, free *vec) (f flags) {
	clear(*all)
	clear(*free)
	for x := range r.All() {
		shared, reserved, revocable := x.IsShared(), x.IsReserved(), x.IsRevocable()
		if shared {
			f |= hasShared
		}
		if reserved {
			f |= hasReserved
			if x.HasRefinedReservation() {
				f |= hasRefined
			}
		}
		if revocable {
			f |= hasRevocable
		}
		if !shared {
			f |= hasUnshared
			if !reserved && !revocable {
				f |= hasOpen
			}
		}
		if !x.IsScalar() || shared {
			continue
		}
		i := n.of(x.Name())
		amount := x.Amount() * resources.Amount(x.Copies())
		all.grow(i + 1)
		(*all)[i] += amount
		if !reserved && !revocable {
			free.grow(i + 1)
			(*free)[i] += amount
		}
	}
	return f
}

// flags say which special kinds a set of resources contains.
type flags uint8

const (
	hasReserved flags = 1 << iota
	hasRefined
	hasRevocable
	hasShared
	hasUnshared
	hasOpen // neither reserved nor revocable: for everybody
)

// special are the kinds that make what one client may take differ from what another may.
const special = hasReserved | hasRefined | hasRevocable | hasShared
