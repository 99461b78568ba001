package resources

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

func parse(t testing.TB, text string) Resources {
	t.Helper()
	r, err := Parse(text, AnyRole)
	if err != nil {
		t.Fatalf("Parse(%q): %v", text, err)
	}
	return r
}

func TestParseAndString(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"", "{}"},
		{"cpus:4;mem:1024", "cpus:4; mem:1024"},
		{"mem:1024; cpus: 0.5 ;disk:10", "cpus:0.5; mem:1024; disk:10"},
		{"cpus:0", "{}"},
		{"cpus:1;cpus:2", "cpus:3"},
		{"cpus(web):1;cpus:2", "cpus:2; cpus(reservations: [(STATIC,web)]):1"},
		{"cpus(*):1", "cpus:1"},
		{"ports(web):[31000-32000]", "ports(reservations: [(STATIC,web)]):[31000-32000]"},
		{"ports:[31010-31020, 31000-31005]", "ports:[31000-31005, 31010-31020]"},
		{"ports:[1-5,6-10]", "ports:[1-10]"},
		{"ports:[1-5];ports:[8-9]", "ports:[1-5, 8-9]"},
		{"zones:{b,a}", "zones:{a, b}"},
		{"cpus:0.0004", "{}"},
		{"cpus:0.0006", "cpus:0.001"},
		{`[{"name":"cpus","type":"SCALAR","scalar":{"value":2},"role":"web"}]`, "cpus(reservations: [(STATIC,web)]):2"},
		{`[{"name":"disk","type":"SCALAR","scalar":{"value":2},"disk":{"source":{"type":"MOUNT","mount":{"root":"/mnt/a"}}}}]`, "disk[MOUNT:/mnt/a]:2"},
	} {
		if got := parse(t, c.in).String(); got != c.want {
			t.Errorf("Parse(%q) = %s, want %s", c.in, got, c.want)
		}
	}
}

func TestParseDefaultRole(t *testing.T) {
	t.Parallel()
	r, err := Parse("cpus:1;mem(*):2;disk(db):3", "web")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.String(), "cpus(reservations: [(STATIC,web)]):1; mem:2; disk(reservations: [(STATIC,db)]):3"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"cpus":                    "missing ':'",
		"cpus:":                   "missing value",
		"cpus:x":                  "neither a number",
		"cpus:-1":                 "negative",
		"cpus:NaN":                "NaN",
		"cpus:Inf":                "infinite",
		"mem:1e300":               "greater than the limit",
		"ports:4":                 "must be ranges",
		"cpus:[1-2]":              "must be a scalar",
		"ports:[5-1]":             "begins after its end",
		"ports:[1-5,3-9]":         "overlap",
		"ports:[1-5];ports:[5-9]": "overlap",
		"ports:[1-70000]":         "beyond 65535",
		"x:[-1-5]":                "first-last",
		"x:[1]":                   "first-last",
		"zones:{a,a}":             "duplicate",
		"zones:{a,b":              "ends with",
		"cpus(a//b):1":            "adjacent slashes",
		"cpus(web:1":              "name(role)",
		"gpus:0.5":                "whole number",
		":1":                      "empty resource name",
		"[{]":                     "not a JSON array",
		`[{"name":"a"}]`:          "required field",
	} {
		_, err := Parse(in, AnyRole)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q): error %v, want one with %q", in, err, want)
		}
	}
}

func TestArithmetic(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b, sum, diff string
		contains        bool
	}{
		{"cpus:1", "cpus:2", "cpus:3", "", false},
		{"cpus:2;mem:5", "cpus:2", "cpus:4;mem:5", "mem:5", true},
		{"cpus:0.3", "cpus:0.1", "cpus:0.4", "cpus:0.2", true},
		{"cpus(a):2", "cpus:1", "cpus(a):2;cpus:1", "cpus(a):2", false},
		{"ports:[1-10]", "ports:[4-5]", "ports:[1-10]", "ports:[1-3,6-10]", true},
		{"ports:[1-10]", "ports:[8-12]", "ports:[1-12]", "ports:[1-7]", false},
		{"x:{a,b}", "x:{b}", "x:{a,b}", "x:{a}", true},
		{"x:{a}", "x:{b}", "x:{a,b}", "x:{a}", false},
		{"x:{a}", "y:1", "x:{a};y:1", "x:{a}", false},
	} {
		a, b := parse(t, c.a), parse(t, c.b)
		aText, bText := a.String(), b.String()
		sum := parse(t, c.sum)
		if got := a.Add(b); !got.Equal(sum) {
			t.Errorf("%s + %s = %s, want %s", a, b, got, sum)
		}
		diff, ok := a.Subtract(b)
		if !diff.Equal(parse(t, c.diff)) || ok != c.contains || a.Contains(b) != c.contains {
			t.Errorf("%s - %s = %s, %v (contains %v); want %s, %v", a, b, diff, ok, a.Contains(b), c.diff, c.contains)
		}
		if a.String() != aText || b.String() != bText {
			t.Errorf("arithmetic changed its operands: %s, %s", a, b)
		}
	}
}

func ptr[T any](v T) *T { return &v }

func volume(id string, mb float64, shared bool) *mesosv1.Resource {
	r := &mesosv1.Resource{
		Name: ptr(Disk), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &mb},
		Reservations: []*mesosv1.Resource_ReservationInfo{{
			Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: ptr("web"), Principal: ptr("alice"),
		}},
		Disk: &mesosv1.Resource_DiskInfo{
			Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: &id, Principal: ptr("alice")},
			Volume:      &mesosv1.Volume{ContainerPath: ptr("data"), Mode: mesosv1.Volume_RW.Enum()},
		},
	}
	if shared {
		r.Shared = &mesosv1.Resource_SharedInfo{}
	}
	return r
}

func from(t testing.TB, list ...*mesosv1.Resource) Resources {
	t.Helper()
	r, err := FromProto(list)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestVolumesAreWhole(t *testing.T) {
	t.Parallel()
	a, bigger := from(t, volume("v", 10, false)), from(t, volume("v", 20, false))
	if bigger.Contains(a) {
		t.Error("a volume contains a smaller one of the same id")
	}
	two := a.Add(from(t, volume("w", 10, false)))
	if two.Len() != 2 || two.Scalar(Disk) != 20 {
		t.Errorf("two volumes: %s", two)
	}
	if got, ok := two.Subtract(a); !ok || got.Len() != 1 || got.Scalar(Disk) != 10 {
		t.Errorf("two - one = %s, %v", got, ok)
	}
}

func TestSharedVolumesCountCopies(t *testing.T) {
	t.Parallel()
	one := from(t, volume("v", 10, true))
	three := one.Add(one).Add(one)
	if got := three.Scalar(Disk); got != 10 {
		t.Errorf("three copies of a 10 MB shared volume count %v MB, want 10", got)
	}
	two, ok := three.Subtract(one)
	if !ok || !two.Contains(one) || two.Equal(one) {
		t.Errorf("three copies less one: %s, %v", two, ok)
	}
	none, ok := two.Subtract(one.Add(one))
	if !ok || !none.IsEmpty() {
		t.Errorf("two copies less two: %s, %v", none, ok)
	}
	if !three.OneCopy().Equal(one) {
		t.Errorf("OneCopy() = %s", three.OneCopy())
	}
	if n := len(three.Proto()); n != 1 {
		t.Errorf("a shared volume is told %d times, want once", n)
	}
}

func TestForms(t *testing.T) {
	t.Parallel()
	pre := []*mesosv1.Resource{
		{
			Name: ptr("cpus"), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: ptr(1.0)}, Role: ptr("web"),
			Reservation: &mesosv1.Resource_ReservationInfo{Principal: ptr("alice")},
		},
		{Name: ptr("mem"), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: ptr(2.0)}, Role: ptr("db")},
		{Name: ptr("disk"), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: ptr(3.0)}, Role: ptr("*")},
	}
	r := from(t, pre...)
	if want := "cpus(reservations: [(DYNAMIC,web,alice)]):1; mem(reservations: [(STATIC,db)]):2; disk:3"; r.String() != want {
		t.Errorf("got %s, want %s", r, want)
	}
	post := r.Proto()
	if post[0].Role != nil || post[0].Reservation != nil || len(post[0].Reservations) != 1 || post[2].Role != nil {
		t.Errorf("post-refinement form: %v", post)
	}
	back, err := r.ProtoPreRefinement()
	if err != nil {
		t.Fatal(err)
	}
	for i := range pre {
		if !proto.Equal(pre[i], back[i]) {
			t.Errorf("pre-refinement form: %v, want %v", back[i], pre[i])
		}
	}
	if !from(t, post...).Equal(r) || !from(t, back...).Equal(r) || !from(t, r.ProtoForEndpoints()...).Equal(r) {
		t.Error("a form does not come back as the same value")
	}
	refined := r.ReservedTo("web").PushReservation(&mesosv1.Resource_ReservationInfo{
		Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: ptr("web/a"),
	})
	if _, err := refined.ProtoPreRefinement(); err == nil {
		t.Error("a refined reservation was told in pre-refinement form")
	}
	if !refined.PopReservation().Equal(r.ReservedTo("web")) {
		t.Errorf("push and pop: %s", refined.PopReservation())
	}
}

func TestValidateRefuses(t *testing.T) {
	t.Parallel()
	scalar := func(change func(*mesosv1.Resource)) *mesosv1.Resource {
		r := &mesosv1.Resource{Name: ptr("disk"), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: ptr(1.0)}}
		change(r)
		return r
	}
	dynamic := func(role string) *mesosv1.Resource_ReservationInfo {
		return &mesosv1.Resource_ReservationInfo{Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: &role}
	}
	static := func(role string) *mesosv1.Resource_ReservationInfo {
		return &mesosv1.Resource_ReservationInfo{Type: mesosv1.Resource_ReservationInfo_STATIC.Enum(), Role: &role}
	}
	for name, c := range map[string]struct {
		r    *mesosv1.Resource
		want string
	}{
		"nil":           {nil, "missing"},
		"no type":       {scalar(func(r *mesosv1.Resource) { r.Type = nil }), "no type"},
		"text":          {scalar(func(r *mesosv1.Resource) { r.Type = mesosv1.Value_TEXT.Enum() }), "unsupported resource type"},
		"two values":    {scalar(func(r *mesosv1.Resource) { r.Set = &mesosv1.Value_Set{} }), "invalid scalar"},
		"no value":      {scalar(func(r *mesosv1.Resource) { r.Scalar = nil }), "invalid scalar"},
		"negative":      {scalar(func(r *mesosv1.Resource) { r.Scalar.Value = ptr(-0.1) }), "negative"},
		"NaN":           {scalar(func(r *mesosv1.Resource) { r.Scalar.Value = ptr(math.NaN()) }), "NaN"},
		"reserved to *": {scalar(func(r *mesosv1.Resource) { r.Reservations = append(r.Reservations, dynamic("*")) }), "'*' cannot be reserved"},
		"not a refinement": {scalar(func(r *mesosv1.Resource) {
			r.Reservations = append(r.Reservations, dynamic("a"), dynamic("b/c"))
		}), "not a refinement"},
		"same role refined": {scalar(func(r *mesosv1.Resource) {
			r.Reservations = append(r.Reservations, dynamic("a"), dynamic("a"))
		}), "not a refinement"},
		"static refinement": {scalar(func(r *mesosv1.Resource) {
			r.Reservations = append(r.Reservations, dynamic("a"), static("a/b"))
		}), "must be DYNAMIC"},
		"both forms": {scalar(func(r *mesosv1.Resource) {
			r.Role = ptr("b")
			r.Reservations = append(r.Reservations, dynamic("a"))
		}), "must not both be set"},
		"dynamic for *": {scalar(func(r *mesosv1.Resource) { r.Reservation = &mesosv1.Resource_ReservationInfo{} }), "dynamically reserved"},
		"unreserved volume": {scalar(func(r *mesosv1.Resource) {
			r.Disk = &mesosv1.Resource_DiskInfo{Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: ptr("a")}}
		}), "unreserved"},
		"bad persistence id": {scalar(func(r *mesosv1.Resource) {
			r.Reservations = append(r.Reservations, dynamic("a"))
			r.Disk = &mesosv1.Resource_DiskInfo{Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: ptr("../a")}}
		}), "persistence ID"},
		"container path escapes": {func() *mesosv1.Resource {
			v := volume("v", 1, false)
			v.Disk.Volume.ContainerPath = ptr("a/../../b")
			return v
		}(), "must not contain '..'"},
		"shared without volume": {scalar(func(r *mesosv1.Resource) { r.Shared = &mesosv1.Resource_SharedInfo{} }), "can be shared"},
		"disk info on mem": {scalar(func(r *mesosv1.Resource) {
			r.Name = ptr("mem")
			r.Disk = &mesosv1.Resource_DiskInfo{}
		}), "should not be set"},
	} {
		if _, err := FromProto([]*mesosv1.Resource{c.r}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

func TestModelValues(t *testing.T) {
	t.Parallel()
	rev := &mesosv1.Resource{
		Name: ptr("cpus"), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: ptr(0.5)},
		Revocable: &mesosv1.Resource_RevocableInfo{},
	}
	r := parse(t, "cpus:1;cpus(a):2;ports(a):[1-2];ports:[3-4];z:{b,a}").Add(from(t, rev))
	want := []ModelValue{
		{Name: "cpus", Number: 3},
		{Name: "gpus"},
		{Name: "mem"},
		{Name: "disk"},
		{Name: "cpus_revocable", Number: 0.5},
		{Name: "ports", Text: "[1-4]", IsText: true},
		{Name: "z", Text: "{a, b}", IsText: true},
	}
	if diff := cmp.Diff(want, r.ModelValues()); diff != "" {
		t.Error(diff)
	}
}

func TestViews(t *testing.T) {
	t.Parallel()
	r := parse(t, "cpus:1;cpus(a):2;cpus(a/b):4;cpus(c):8;mem:5")
	if got := r.AllocatableTo("a/b").Scalar(CPUs); got != 7 {
		t.Errorf("allocatable to a/b: %v", got)
	}
	if got := r.AllocatableTo("a").Scalar(CPUs); got != 3 {
		t.Errorf("allocatable to a: %v", got)
	}
	if got := r.AllocatableTo("ab").Scalar(CPUs); got != 1 {
		t.Errorf("allocatable to ab: %v", got)
	}
	if got := len(r.Reservations()); got != 3 {
		t.Errorf("%d reservation roles", got)
	}
	both := r.Allocate("a").Add(parse(t, "mem:1").Allocate("b"))
	if m := both.Allocations(); !m["a"].Equal(r.Allocate("a")) || m["b"].Scalar(Mem) != 1 || len(m) != 2 {
		t.Errorf("allocations: %v", m)
	}
	if got := both.Unallocate(); !got.Equal(r.Add(parse(t, "mem:1"))) {
		t.Errorf("unallocated: %s", got)
	}
	if r.Allocate("a").Contains(r) {
		t.Error("what is allocated contains what is not")
	}
}

func TestShrink(t *testing.T) {
	t.Parallel()
	r := parse(t, "cpus:4;mem:100;ports:[1-2]")
	got := r.Shrink(func(name string) Amount {
		return map[string]Amount{CPUs: 1500, Mem: Unlimited}[name]
	})
	if want := parse(t, "cpus:1.5;mem:100;ports:[1-2]"); !got.Equal(want) {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := r.Shrink(func(string) Amount { return 0 }); !got.Equal(parse(t, "ports:[1-2]")) {
		t.Errorf("shrunk to nothing: %s", got)
	}
	if !r.Shrink(func(string) Amount { return Unlimited }).Same(r) {
		t.Error("a shrink that cuts nothing copied")
	}
}

func TestValidateRole(t *testing.T) {
	t.Parallel()
	for _, ok := range []string{"*", "a", "a/b", "a/b/c", "a.b", "web-1", "ü"} {
		if err := ValidateRole(ok); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	for _, bad := range []string{"", "/a", "a/", "a//b", ".", "a/..", "a/*", "*/a", "-a", "a/-b", "a b", "a\tb", "a\x7f", "a\x08"} {
		if ValidateRole(bad) == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
