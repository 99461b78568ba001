package resources

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// drawResource draws one valid message of any shape.
func drawResource(t *rapid.T) *mesosv1.Resource {
	roles := []string{"a", "a/b", "c"}
	p := &mesosv1.Resource{}
	switch rapid.IntRange(0, 3).Draw(t, "type") {
	case 0, 1:
		p.Name = ptr(rapid.SampledFrom([]string{CPUs, Mem, Disk, "bandwidth"}).Draw(t, "scalar"))
		p.Type = mesosv1.Value_SCALAR.Enum()
		p.Scalar = &mesosv1.Value_Scalar{Value: ptr(float64(rapid.IntRange(0, 5000).Draw(t, "thousandths")) / 1000)}
	case 2:
		p.Name, p.Type, p.Ranges = ptr(Ports), mesosv1.Value_RANGES.Enum(), &mesosv1.Value_Ranges{}
		at := uint64(0)
		for range rapid.IntRange(0, 3).Draw(t, "ranges") {
			begin := at + rapid.Uint64Range(0, 4).Draw(t, "gap")
			end := begin + rapid.Uint64Range(0, 4).Draw(t, "size")
			p.Ranges.Range = append(p.Ranges.Range, &mesosv1.Value_Range{Begin: &begin, End: &end})
			at = end + 1
		}
	default:
		p.Name, p.Type = ptr("zones"), mesosv1.Value_SET.Enum()
		p.Set = &mesosv1.Value_Set{Item: rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"x", "y", "z"}), 0, 3, rapid.ID[string]).Draw(t, "set")}
	}
	dynamic := func(role string) *mesosv1.Resource_ReservationInfo {
		r := &mesosv1.Resource_ReservationInfo{Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: &role}
		if rapid.Bool().Draw(t, "principal?") {
			r.Principal = ptr("alice")
		}
		if rapid.Bool().Draw(t, "labels?") {
			r.Labels = &mesosv1.Labels{Labels: []*mesosv1.Label{{Key: ptr("k"), Value: ptr(role)}, {Key: ptr("flag")}}}
		}
		return r
	}
	switch rapid.IntRange(0, 4).Draw(t, "reservation") {
	case 0:
		p.Role = ptr(rapid.SampledFrom(roles).Draw(t, "static"))
	case 1:
		p.Reservations = append(p.Reservations, dynamic(rapid.SampledFrom(roles).Draw(t, "dynamic")))
	case 2:
		p.Reservations = append(p.Reservations, dynamic("a"), dynamic("a/b"))
	}
	reserved := p.Role != nil || len(p.Reservations) > 0
	if p.GetName() == Disk && reserved && rapid.Bool().Draw(t, "volume?") {
		p.Disk = volume(fmt.Sprintf("v%d", rapid.IntRange(0, 2).Draw(t, "id")), 1, false).Disk
		if rapid.Bool().Draw(t, "shared?") {
			p.Shared = &mesosv1.Resource_SharedInfo{}
		}
	} else if p.GetName() == Disk && rapid.Bool().Draw(t, "source?") {
		p.Disk = &mesosv1.Resource_DiskInfo{Source: &mesosv1.Resource_DiskInfo_Source{
			Type: rapid.SampledFrom([]mesosv1.Resource_DiskInfo_Source_Type{
				mesosv1.Resource_DiskInfo_Source_PATH, mesosv1.Resource_DiskInfo_Source_MOUNT, mesosv1.Resource_DiskInfo_Source_RAW,
			}).Draw(t, "source").Enum(),
		}}
	}
	if p.Shared == nil && p.GetDisk().GetPersistence() == nil && rapid.IntRange(0, 4).Draw(t, "revocable?") == 0 {
		p.Revocable = &mesosv1.Resource_RevocableInfo{}
	}
	if rapid.IntRange(0, 3).Draw(t, "allocated?") == 0 {
		p.AllocationInfo = &mesosv1.Resource_AllocationInfo{Role: ptr(rapid.SampledFrom(roles).Draw(t, "allocation"))}
	}
	return p
}

func drawResources(t *rapid.T, label string) Resources {
	var sum Resources
	for range rapid.IntRange(0, 6).Draw(t, label) {
		r, err := FromProto([]*mesosv1.Resource{drawResource(t)})
		if err != nil {
			t.Fatal(err)
		}
		sum = sum.Add(r)
	}
	return sum
}

// withoutLists drops ranges and sets, whose sums are unions and so can't be undone.
func withoutLists(r Resources) Resources { return r.Scalars() }

func TestAlgebra(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := drawResources(t, "a"), drawResources(t, "b"), drawResources(t, "c")
		text := a.String() + b.String() + c.String()
		if !a.Add(b).Equal(b.Add(a)) || !a.Add(b).Add(c).Equal(a.Add(b.Add(c))) {
			t.Fatalf("sums of %s, %s, %s depend on their order", a, b, c)
		}
		if !a.Add(b).Contains(a) || !a.Add(b).Contains(b) {
			t.Fatalf("%s + %s does not contain its parts", a, b)
		}
		sa, sb := withoutLists(a), withoutLists(b)
		if left, ok := sa.Add(sb).Subtract(sb); !ok || !left.Equal(sa) {
			t.Fatalf("%s + %s - the latter = %s, %v", sa, sb, left, ok)
		}
		left, ok := a.Subtract(b)
		if ok != a.Contains(b) {
			t.Fatalf("%s: Subtract says %v, Contains the contrary, of %s", a, ok, b)
		}
		if ok && !left.Add(b).Equal(a) {
			t.Fatalf("%s - %s + the latter = %s", a, b, left.Add(b))
		}
		if !a.Contains(left) {
			t.Fatalf("%s does not contain what is left of it, %s", a, left)
		}
		if none, ok := a.Subtract(a); !ok || !none.IsEmpty() {
			t.Fatalf("%s - itself = %s", a, none)
		}
		if !a.Unallocate().Allocate("q").Unallocate().Equal(a.Unallocate()) {
			t.Fatalf("%s changes when it is allocated and back", a)
		}
		var byRole Resources
		for _, part := range a.Allocations() {
			byRole = byRole.Add(part)
		}
		if !byRole.Equal(a) {
			t.Fatalf("the allocations of %s are %s", a, byRole)
		}
		q := a.Quantities()
		if !a.ContainsQuantities(q) || !q.Add(b.Quantities()).Sub(b.Quantities()).Equal(q) || !q.Add(b.Quantities()).Contains(q) {
			t.Fatalf("quantities of %s: %s", a, q)
		}
		if a.String()+b.String()+c.String() != text {
			t.Fatal("arithmetic changed its operands")
		}
	})
}

func TestFormsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a := drawResources(t, "a").OneCopy()
		back, err := FromProto(a.Proto())
		if err != nil || !back.Equal(a) {
			t.Fatalf("%s came back as %s, %v", a, back, err)
		}
		if back, err = FromProto(a.ProtoForEndpoints()); err != nil || !back.Equal(a) {
			t.Fatalf("%s came back from the endpoint form as %s, %v", a, back, err)
		}
		old, err := a.ProtoPreRefinement()
		if (err != nil) != a.HasRefinedReservations() {
			t.Fatalf("%s in the old form: %v", a, err)
		}
		if err == nil {
			if back, err = FromProto(old); err != nil || !back.Equal(a) {
				t.Fatalf("%s came back from the old form as %s, %v", a, back, err)
			}
		}
	})
}

func TestRangesAgainstSets(t *testing.T) {
	t.Parallel()
	draw := func(t *rapid.T, label string) (Ranges, map[uint64]bool) {
		var r Ranges
		m := map[uint64]bool{}
		for range rapid.IntRange(0, 4).Draw(t, label) {
			begin := rapid.Uint64Range(0, 20).Draw(t, "begin")
			end := begin + rapid.Uint64Range(0, 5).Draw(t, "size")
			r = r.union(Ranges{{begin, end}})
			for v := begin; v <= end; v++ {
				m[v] = true
			}
		}
		return r, m
	}
	rapid.Check(t, func(t *rapid.T) {
		a, am := draw(t, "a")
		b, bm := draw(t, "b")
		union, minus, all := a.union(b), a.minus(b), true
		for v := range uint64(30) {
			if union.Contains(v) != (am[v] || bm[v]) || minus.Contains(v) != (am[v] && !bm[v]) {
				t.Fatalf("%s, %s: union %s, minus %s", a, b, union, minus)
			}
			all = all && (!bm[v] || am[v])
		}
		if a.contains(b) != all || a.Count() != uint64(len(am)) {
			t.Fatalf("%s contains %s: %v; count %d", a, b, a.contains(b), a.Count())
		}
	})
}

func TestRangesAtTheEnds(t *testing.T) {
	t.Parallel()
	const top = ^uint64(0)
	all := Ranges{{0, top}}
	if got := all.minus(Ranges{{0, 0}, {top, top}}); got.String() != fmt.Sprintf("[1-%d]", top-1) {
		t.Errorf("everything but the ends: %s", got)
	}
	if got := all.minus(all); got != nil {
		t.Errorf("everything less everything: %s", got)
	}
	if got := (Ranges{{0, top}}).union(Ranges{{5, 6}}); got.String() != all.String() || got.Count() != top {
		t.Errorf("everything and more: %s, %d", got, got.Count())
	}
}
