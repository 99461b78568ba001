package resources

import "math"

// ModelValue is one field of the resources objects in the legacy endpoints (facts 3.5): a number, or the text of ranges
// ("[31000-32000]") and sets ("{a, b}").
type ModelValue struct {
	Name   string
	Number float64
	Text   string
	IsText bool
}

// ModelValues returns the sums by name as the legacy endpoints show them: cpus, gpus, mem and disk always and first, then the
// other names; revocable resources under "<name>_revocable".
func (r Resources) ModelValues() []ModelValue {
	out := []ModelValue{{Name: CPUs}, {Name: GPUs}, {Name: Mem}, {Name: Disk}}
	sums := make([]Amount, len(out))
	lists := make([]list, len(out))
	index := func(name string) int {
		for i := range out {
			if out[i].Name == name {
				return i
			}
		}
		out, sums, lists = append(out, ModelValue{Name: name}), append(sums, 0), append(lists, list{})
		return len(out) - 1
	}
	for i := range r.entries {
		e := &r.entries[i]
		name := e.kind.name
		if e.kind.revocable {
			name += "_revocable"
		}
		at := index(name)
		switch e.kind.typ {
		case typeScalar:
			sums[at] = addAmounts(sums[at], e.amount())
			out[at].Number = math.Round(sums[at].Float()*1000) / 1000
		case typeRanges:
			lists[at].ranges = lists[at].ranges.union(e.list.ranges)
			out[at].IsText, out[at].Text = true, lists[at].ranges.String()
		case typeSet:
			lists[at].set = unionSet(lists[at].set, e.list.set)
			out[at].IsText, out[at].Text = true, formatSet(lists[at].set)
		}
	}
	return out
}
