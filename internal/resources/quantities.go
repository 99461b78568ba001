package resources

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// Quantities is an immutable list of named scalar sums, sorted by name: what quota, shares and minimums reckon with. A name
// that is missing means 0. Kept are only amounts above 0, except by NewLimits.
type Quantities struct{ q []quantity }

type quantity struct {
	name   string
	amount Amount
}

// NewQuantities makes a list from doubles. Negative numbers, NaN and infinity are errors; zeros are dropped.
func NewQuantities(m map[string]float64) (Quantities, error) {
	return newQuantities(m, false)
}

// NewLimits is NewQuantities for limits, where 0 means "none of it" and a missing name "as much as there is".
func NewLimits(m map[string]float64) (Quantities, error) {
	return newQuantities(m, true)
}

func newQuantities(m map[string]float64, keepZero bool) (Quantities, error) {
	var out Quantities
	for name, v := range m {
		if name == "" {
			return Quantities{}, fmt.Errorf("a quantity has no name")
		}
		a, err := AmountOf(v)
		if err != nil {
			return Quantities{}, fmt.Errorf("%s: %w", name, err)
		}
		if a != 0 || keepZero {
			out.q = append(out.q, quantity{name, a})
		}
	}
	slices.SortFunc(out.q, func(a, b quantity) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// QuantitiesOf makes a list from amounts, such as sums over a cluster, which no limit bounds.
func QuantitiesOf(m map[string]Amount) Quantities {
	var out Quantities
	for name, a := range m {
		if a > 0 {
			out.q = append(out.q, quantity{name, a})
		}
	}
	slices.SortFunc(out.q, func(a, b quantity) int { return strings.Compare(a.name, b.name) })
	return out
}

// QuantitiesOfScalars is NewQuantities for the map of a message (guarantees, minimums).
func QuantitiesOfScalars(m map[string]*mesosv1.Value_Scalar) (Quantities, error) {
	return NewQuantities(scalarMap(m))
}

// LimitsOfScalars is NewLimits for the map of a message.
func LimitsOfScalars(m map[string]*mesosv1.Value_Scalar) (Quantities, error) {
	return NewLimits(scalarMap(m))
}

func scalarMap(m map[string]*mesosv1.Value_Scalar) map[string]float64 {
	out := make(map[string]float64, len(m))
	for name, s := range m {
		out[name] = s.GetValue()
	}
	return out
}

// ParseQuantities reads the flag form "cpus:10;mem:1024".
func ParseQuantities(text string) (Quantities, error) {
	r, err := Parse(text, AnyRole)
	if err != nil {
		return Quantities{}, err
	}
	for x := range r.All() {
		if !x.IsScalar() || x.IsReserved() {
			return Quantities{}, fmt.Errorf("quantity '%s' must be an unreserved scalar", x.Name())
		}
	}
	return r.Quantities(), nil
}

// Quantities returns the sums of all scalars by name. Copies of a shared resource count once.
func (r Resources) Quantities() Quantities {
	var out []quantity
	for i := range r.entries {
		e := &r.entries[i]
		if e.kind.typ != typeScalar {
			continue
		}
		if n := len(out); n > 0 && out[n-1].name == e.kind.name {
			out[n-1].amount = addAmounts(out[n-1].amount, e.amount())
			continue
		}
		if out == nil {
			out = make([]quantity, 0, min(len(r.entries), 6))
		}
		out = append(out, quantity{e.kind.name, e.amount()})
	}
	slices.SortFunc(out, func(a, b quantity) int { return strings.Compare(a.name, b.name) })
	return Quantities{out}
}

// IsEmpty reports whether there is no quantity.
func (q Quantities) IsEmpty() bool { return len(q.q) == 0 }

// Len returns the number of names.
func (q Quantities) Len() int { return len(q.q) }

// All yields names and amounts in the order of names.
func (q Quantities) All() iter.Seq2[string, Amount] {
	return func(yield func(string, Amount) bool) {
		for _, x := range q.q {
			if !yield(x.name, x.amount) {
				return
			}
		}
	}
}

// Get returns the amount of a name, 0 when it is missing.
func (q Quantities) Get(name string) Amount { a, _ := q.Lookup(name); return a }

// Lookup returns the amount of a name and whether it is there.
func (q Quantities) Lookup(name string) (Amount, bool) {
	for _, x := range q.q {
		if x.name == name {
			return x.amount, true
		}
	}
	return 0, false
}

// Proto returns the map form of messages.
func (q Quantities) Proto() map[string]*mesosv1.Value_Scalar {
	out := make(map[string]*mesosv1.Value_Scalar, len(q.q))
	for _, x := range q.q {
		v := x.amount.Float()
		out[x.name] = &mesosv1.Value_Scalar{Value: &v}
	}
	return out
}

// merge walks both lists by name; missing amounts are 0. Results that are 0 are dropped.
func (q Quantities) merge(o Quantities, f func(a, b Amount) Amount) Quantities {
	out := make([]quantity, 0, max(len(q.q), len(o.q)))
	keep := func(name string, a Amount) {
		if a != 0 {
			out = append(out, quantity{name, a})
		}
	}
	i, j := 0, 0
	for i < len(q.q) || j < len(o.q) {
		var c int
		switch {
		case j == len(o.q):
			c = -1
		case i == len(q.q):
			c = 1
		default:
			c = cmp.Compare(q.q[i].name, o.q[j].name)
		}
		switch {
		case c < 0:
			keep(q.q[i].name, f(q.q[i].amount, 0))
			i++
		case c > 0:
			keep(o.q[j].name, f(0, o.q[j].amount))
			j++
		default:
			keep(q.q[i].name, f(q.q[i].amount, o.q[j].amount))
			i++
			j++
		}
	}
	return Quantities{out}
}

// Add returns the sums.
func (q Quantities) Add(o Quantities) Quantities {
	if len(o.q) == 0 {
		return q
	}
	return q.merge(o, addAmounts)
}

// Sub returns the differences, nothing below 0.
func (q Quantities) Sub(o Quantities) Quantities {
	if len(o.q) == 0 {
		return q
	}
	return q.merge(o, func(a, b Amount) Amount { return max(a-b, 0) })
}

// Contains reports whether no amount of o is above that of q.
func (q Quantities) Contains(o Quantities) bool {
	for _, x := range o.q {
		if q.Get(x.name) < x.amount {
			return false
		}
	}
	return true
}

// Within reports whether q stays within limits, where a name that limits lacks is unlimited.
func (q Quantities) Within(limits Quantities) bool {
	for _, x := range limits.q {
		if q.Get(x.name) > x.amount {
			return false
		}
	}
	return true
}

// Equal reports whether both hold the same names and amounts.
func (q Quantities) Equal(o Quantities) bool { return slices.Equal(q.q, o.q) }

// ContainsQuantities reports whether the scalars of each name add up to at least the quantity.
func (r Resources) ContainsQuantities(q Quantities) bool {
	for _, x := range q.q {
		if r.Quantity(x.name) < x.amount {
			return false
		}
	}
	return true
}

// String prints the flag form.
func (q Quantities) String() string {
	var b strings.Builder
	for i, x := range q.q {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(x.name)
		b.WriteByte(':')
		b.WriteString(x.amount.String())
	}
	return b.String()
}

// Unlimited is the amount that stands for "no limit" where a number is needed.
const Unlimited Amount = math.MaxInt64

// Shrink returns r with its unreserved, non-revocable scalars cut down so that the sum of each name stays within
// budget(name), and everything else as it is. Entries are taken in canonical order; what can't be divided is taken whole or
// not at all (facts: the allocator's shrinkResources). It returns r itself when nothing needs cutting.
func (r Resources) Shrink(budget func(name string) Amount) Resources {
	var (
		name  string
		known bool
		left  Amount
		out   []entry
		cut   bool
	)
	for i := range r.entries {
		e := r.entries[i]
		if e.kind.typ == typeScalar && len(e.kind.reservations) == 0 && !e.kind.revocable {
			if !known || e.kind.name != name {
				name, known, left = e.kind.name, true, budget(e.kind.name)
			}
			want := e.amount()
			if left < want && !cut {
				out, cut = append(make([]entry, 0, len(r.entries)), r.entries[:i]...), true
			}
			switch {
			case left >= want:
				left -= want
			case e.kind.whole || left <= 0:
				continue
			default:
				e.scalar, left = left, 0
			}
		}
		if cut {
			out = append(out, e)
		}
	}
	if !cut {
		return r
	}
	return Resources{out}
}
