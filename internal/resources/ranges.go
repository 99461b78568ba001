package resources

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Range is an inclusive interval of integers, such as ports.
type Range struct{ Begin, End uint64 }

// Ranges is a sorted list of intervals that neither overlap nor touch.
type Ranges []Range

// maxRanges bounds the intervals of one resource: more have no use and would slow every sum.
const maxRanges = 16384

// newRanges sorts and joins, in place, intervals that come from outside. Inverted and overlapping intervals are errors.
func newRanges(out []Range) (Ranges, error) {
	if len(out) > maxRanges {
		return nil, fmt.Errorf("%d ranges are more than the limit of %d", len(out), maxRanges)
	}
	if len(out) > 1 {
		slices.SortFunc(out, func(a, b Range) int { return cmp.Compare(a.Begin, b.Begin) })
	}
	for i, r := range out {
		if r.Begin > r.End {
			return nil, fmt.Errorf("range [%d-%d] begins after its end", r.Begin, r.End)
		}
		if i > 0 && r.Begin <= out[i-1].End {
			return nil, fmt.Errorf("ranges [%d-%d] and [%d-%d] overlap", out[i-1].Begin, out[i-1].End, r.Begin, r.End)
		}
	}
	return joinSorted(out), nil
}

// joinSorted joins overlapping and adjacent intervals of a list sorted by Begin, in place.
func joinSorted(in []Range) Ranges {
	if len(in) == 0 {
		return nil
	}
	out := in[:1]
	for _, r := range in[1:] {
		last := &out[len(out)-1]
		if r.Begin <= last.End || r.Begin == last.End+1 {
			last.End = max(last.End, r.End)
			continue
		}
		out = append(out, r)
	}
	return out
}

// union returns the integers of either list.
func (a Ranges) union(b Ranges) Ranges {
	out := make([]Range, 0, len(a)+len(b))
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		if j == len(b) || i < len(a) && a[i].Begin <= b[j].Begin {
			out = append(out, a[i])
			i++
		} else {
			out = append(out, b[j])
			j++
		}
	}
	return joinSorted(out)
}

// minus returns the integers of a that are not in b.
func (a Ranges) minus(b Ranges) Ranges {
	out := make([]Range, 0, len(a)+1)
	j := 0
	for _, r := range a {
		for j < len(b) && b[j].End < r.Begin {
			j++
		}
		gone := false
		for k := j; k < len(b) && b[k].Begin <= r.End; k++ {
			if b[k].Begin > r.Begin {
				out = append(out, Range{r.Begin, b[k].Begin - 1})
			}
			if b[k].End >= r.End {
				gone = true
				break
			}
			r.Begin = b[k].End + 1
		}
		if !gone {
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// contains reports whether every integer of b is in a.
func (a Ranges) contains(b Ranges) bool {
	i := 0
	for _, r := range b {
		for i < len(a) && a[i].End < r.Begin {
			i++
		}
		if i == len(a) || a[i].Begin > r.Begin || a[i].End < r.End {
			return false
		}
	}
	return true
}

// Count returns how many integers the intervals hold, at most the greatest uint64.
func (a Ranges) Count() uint64 {
	var n uint64
	for _, r := range a {
		size := r.End - r.Begin + 1
		if size == 0 || n+size < n {
			return ^uint64(0)
		}
		n += size
	}
	return n
}

// Contains reports whether the integer is in one of the intervals.
func (a Ranges) Contains(v uint64) bool { return a.contains(Ranges{{v, v}}) }

// String prints Mesos' form: "[31000-32000, 33000-33010]".
func (a Ranges) String() string {
	var b strings.Builder
	b.WriteByte('[')
	for i, r := range a {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.FormatUint(r.Begin, 10))
		b.WriteByte('-')
		b.WriteString(strconv.FormatUint(r.End, 10))
	}
	b.WriteByte(']')
	return b.String()
}

// Sets are sorted lists of distinct strings.

func unionSet(a, b []string) []string {
	out := make([]string, 0, len(a)+len(b))
	out = append(append(out, a...), b...)
	slices.Sort(out)
	return slices.Compact(out)
}

func minusSet(a, b []string) []string {
	var out []string
	for _, s := range a {
		if _, ok := slices.BinarySearch(b, s); !ok {
			out = append(out, s)
		}
	}
	return out
}

func containsSet(a, b []string) bool {
	for _, s := range b {
		if _, ok := slices.BinarySearch(a, s); !ok {
			return false
		}
	}
	return true
}

func formatSet(a []string) string { return "{" + strings.Join(a, ", ") + "}" }
