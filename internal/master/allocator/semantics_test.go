package allocator

import (
	"fmt"
	"strings"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/resources"
)

func sharedVolume(t *testing.T, role, id string) resources.Resources {
	t.Helper()
	p := reserve(resources.MustParse("disk:10"), role).Proto()[0]
	path := "data"
	p.Disk = &mesosv1.Resource_DiskInfo{
		Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: &id},
		Volume:      &mesosv1.Volume{ContainerPath: &path, Mode: mesosv1.Volume_RW.Enum()},
	}
	p.Shared = &mesosv1.Resource_SharedInfo{}
	r, err := resources.FromProto([]*mesosv1.Resource{p})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSharedVolumesAreOfferedOnceACycle(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{})
	shares := FrameworkInfo{Roles: []string{"a"}, Capabilities: FrameworkCapabilities{Shared: true}}
	volume := sharedVolume(t, "a", "v")
	c.a.AddAgent("s1", AgentInfo{Total: resources.MustParse("cpus:4").Add(volume), Capabilities: modern}, nil)
	c.frameworkWith("f1", shares)
	first := c.offers()
	if len(first) != 1 || first[0].Resources.Scalar("disk") != 10 {
		t.Fatalf("offers:\n%s", show(first))
	}
	// The volume is still free, but nothing else is: no offer holds a shared volume alone.
	c.frameworkWith("f2", shares)
	c.expect()
	// What f1 leaves goes to f2 with the volume, though f1 uses that.
	half := resources.MustParse("cpus:2").Allocate("a")
	c.a.Suppress("f1", nil)
	if err := c.a.Recover("f1", "s1", half, nil, c.now); err != nil {
		t.Fatal(err)
	}
	second := c.offers()
	if len(second) != 1 || second[0].Framework != "f2" || second[0].Resources.Scalar("disk") != 10 {
		t.Fatalf("offers:\n%s", show(second))
	}
	// It counts once in the role's share, and once in each framework's.
	if s, _ := c.a.Role("a"); s.Used.Get("disk") != 10*resources.Unit {
		t.Errorf("used: %s", s.Used)
	}
}

func TestWithheldVolumesBringTheAgentBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{})
	total := resources.MustParse("cpus(a/x):1;cpus(a/y):2").Add(sharedVolume(t, "a", "v"))
	c.a.AddAgent("s1", AgentInfo{Total: total, Capabilities: modern}, nil)
	c.framework("f2", "a/y")
	c.decline(c.expect("f2 a/y s1 cpus(reservations: [(STATIC,a/y)]):2")[0], 60)
	// f1 is first and gets the volume. f2's filter covers what is left without the volume, but not with it.
	shared := FrameworkCapabilities{Shared: true, MultiRole: true}
	if err := c.a.UpdateFramework("f2", FrameworkInfo{Roles: []string{"a/y"}, Capabilities: shared}); err != nil {
		t.Fatal(err)
	}
	c.frameworkWith("f1", FrameworkInfo{Roles: []string{"a/x"}, Capabilities: shared})
	const volume = "; disk(reservations: [(DYNAMIC,a)])[v:data]<SHARED>:10"
	c.expect("f1 a/x s1 cpus(reservations: [(STATIC,a/x)]):1" + volume)
	if at, ok := c.a.NextTimer(); !ok || !at.IsZero() {
		t.Errorf("NextTimer() = %v, %v, want now: the volume can be offered again", at, ok)
	}
	c.expect("f2 a/y s1 cpus(reservations: [(STATIC,a/y)]):2" + volume)
	if at, ok := c.a.NextTimer(); ok && at.IsZero() {
		t.Error("agents wait to be visited without end")
	}
}

func TestRepeatedRefusalsEndWithTheLast(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{AllocationInterval: time.Second})
	c.framework("f1", "a")
	c.agent("s1", "cpus:2")
	c.expect("f1 a s1 cpus:2")
	half := resources.MustParse("cpus:1").Allocate("a")
	for _, seconds := range []int{2, 5} { // the same set twice
		if err := c.a.Recover("f1", "s1", half, &Refusal{For: time.Duration(seconds) * time.Second}, c.now); err != nil {
			t.Fatal(err)
		}
		if err := c.a.Allocated("f1", "s1", half); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.a.Recover("f1", "s1", half, nil, c.now); err != nil {
		t.Fatal(err)
	}
	c.expect()
	c.now = t0.Add(3 * time.Second)
	c.expect()
	c.now = t0.Add(5 * time.Second)
	c.expect("f1 a s1 cpus:1")
	if s, _ := c.a.Role("a"); s.Filters != 0 {
		t.Errorf("%d filters are left", s.Filters)
	}
}

func TestFiltersOfGoneAgentsDontReachTheirSuccessors(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{AllocationInterval: time.Second})
	c.framework("f1", "a")
	c.agent("s1", "cpus:2")
	c.decline(c.expect("f1 a s1 cpus:2")[0], 2)
	c.a.RemoveAgent("s1")
	c.agent("s2", "cpus:2") // takes the same place
	c.decline(c.expect("f1 a s2 cpus:2")[0], 60)
	c.now = t0.Add(2 * time.Second)
	c.expect()
	c.now = t0.Add(60 * time.Second)
	c.expect("f1 a s2 cpus:2")
}

func TestDroppedFiltersLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{AllocationInterval: time.Second})
	c.framework("f1", "a")
	c.framework("f2", "b")
	c.agent("s1", "cpus:2")
	c.agent("s2", "cpus:2")
	at := int64(1)
	c.a.SetUnavailability("s2", &mesosv1.Unavailability{Start: &mesosv1.TimeInfo{Nanoseconds: &at}})
	lasting := 0
	for i := range 20_000 {
		offers, inverse := c.a.Allocate(c.now, uint64(i))
		for _, o := range offers {
			c.decline(o, 1e6+float64(i))
		}
		for _, o := range inverse {
			no := false
			c.a.RespondInverse(o.Framework, o.Agent, &no, &Refusal{For: 24 * time.Hour}, c.now)
		}
		if i%3 > 0 {
			c.a.Revive("f1", nil)
		}
		lasting = max(lasting, c.a.refusals)
	}
	if lasting > 8 {
		t.Errorf("%d filters in force at once", lasting)
	}
	if n, ticks := c.a.expiries.n, len(c.a.expiries.ticks); n > 6000 || ticks > 6000 {
		t.Errorf("%d timers in %d lists are kept for %d filters", n, ticks, c.a.refusals)
	}
	// Those in force still end in time.
	c.a.Suppress("f1", nil)
	for _, o := range c.offers() {
		c.decline(o, 60)
	}
	c.now = c.now.Add(400 * 24 * time.Hour)
	c.offers()
	if c.a.refusals != 0 || c.a.expiries.n != 0 {
		t.Errorf("after all time: %d filters, %d timers", c.a.refusals, c.a.expiries.n)
	}
}

func TestOperations(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{})
	c.framework("f1", "a")
	c.framework("f2", "b")
	c.a.Suppress("f2", nil)
	c.agent("s1", "cpus:4;disk:20")
	o := c.expect("f1 a s1 cpus:4; disk:20")[0]
	cpus := resources.MustParse("cpus:3").Allocate("a")
	conv := []resources.Conversion{{Consumed: cpus, Converted: reserve(cpus, "a")}}
	if err := c.a.UpdateAllocation("f1", "s1", o.Resources, conv); err != nil {
		t.Fatal(err)
	}
	if err := c.a.UpdateAllocation("f1", "s1", o.Resources, conv); err == nil {
		t.Error("an operation on resources that are not there any more passed")
	}
	if err := c.a.Recover("f1", "s1", c.a.Used("f1", "s1"), &Refusal{For: time.Hour}, c.now); err != nil {
		t.Fatal(err)
	}
	c.expect()
	c.a.Revive("f2", nil)
	c.expect("f2 b s1 cpus:1; disk:20")
	if err := c.a.UpdateAvailable("s1", []resources.Conversion{{Consumed: resources.MustParse("disk:5"), Converted: reserve(resources.MustParse("disk:5"), "a")}}); err == nil {
		t.Error("an operator reserved what is offered")
	}
	back := reserve(resources.MustParse("cpus:2"), "a")
	if err := c.a.UpdateAvailable("s1", []resources.Conversion{{Consumed: back, Converted: back.PopReservation()}}); err != nil {
		t.Fatal(err)
	}
	// f1's filter does not cover what became unreserved: cpus 2 unreserved are more than the cpu that it refused.
	c.expect("f1 a s1 cpus:2; cpus(reservations: [(DYNAMIC,a)]):1")
	if err := c.a.UpdateAvailable("nowhere", nil); err == nil {
		t.Error("an unknown agent was updated")
	}
}

func TestInverseOffers(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{AllocationInterval: time.Second})
	c.framework("f1", "a")
	c.agent("s1", "cpus:1")
	c.expect("f1 a s1 cpus:1")
	at := int64(7)
	plan := &mesosv1.Unavailability{Start: &mesosv1.TimeInfo{Nanoseconds: &at}}
	inverse := func() int { _, list := c.a.Allocate(c.now, 1); return len(list) }
	c.a.SetUnavailability("s1", plan)
	if inverse() != 1 || inverse() != 0 {
		t.Fatal("want one inverse offer, and no other while it is out")
	}
	yes := true
	c.a.RespondInverse("f1", "s1", &yes, &Refusal{For: 5 * time.Second}, c.now)
	if s := c.a.InverseStatuses()["s1"]["f1"]; !s.Accepted || !s.At.Equal(c.now) {
		t.Errorf("status: %+v", s)
	}
	if inverse() != 0 {
		t.Error("an inverse offer while its filter holds")
	}
	c.now = c.now.Add(5 * time.Second)
	if inverse() != 1 {
		t.Error("no inverse offer after its filter")
	}
	c.a.RespondInverse("f1", "s1", nil, nil, c.now)
	if inverse() != 1 {
		t.Error("no inverse offer after it was rescinded")
	}
	c.a.SetUnavailability("s1", nil)
	if inverse() != 0 || len(c.a.InverseStatuses()) != 0 {
		t.Error("an inverse offer without maintenance")
	}
}

func TestMaxOffersPerCycle(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{MaxOffersPerCycle: 3})
	c.framework("f1", "a")
	for i := range 8 {
		c.agent(fmt.Sprintf("s%d", i), "cpus:1")
	}
	for _, want := range []int{3, 3, 2, 0} {
		if got := len(c.offers()); got != want {
			t.Fatalf("%d offers in a cycle, want %d", got, want)
		}
	}
}

func TestRefusalOf(t *testing.T) {
	t.Parallel()
	f := func(s float64) *mesosv1.Filters { return &mesosv1.Filters{RefuseSeconds: &s} }
	for _, c := range []struct {
		in   *mesosv1.Filters
		want time.Duration
	}{
		{nil, 5 * time.Second},
		{&mesosv1.Filters{}, 5 * time.Second},
		{f(-1), 5 * time.Second},
		{f(0), 0},
		{f(1.5), 1500 * time.Millisecond},
		{f(1e300), 365 * 24 * time.Hour},
	} {
		got := RefusalOf(c.in)
		if (got == nil) != (c.want == 0) || got != nil && got.For != c.want {
			t.Errorf("%v: %v, want %v", c.in, got, c.want)
		}
	}
}

func TestConstraints(t *testing.T) {
	t.Parallel()
	text := func(name, v string) *mesosv1.Attribute {
		return &mesosv1.Attribute{Name: &name, Type: mesosv1.Value_TEXT.Enum(), Text: &mesosv1.Value_Text{Value: &v}}
	}
	one := 1.0
	name := "slots"
	scalar := &mesosv1.Attribute{Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &one}}
	info := AgentInfo{Hostname: "node-7.example", Attributes: []*mesosv1.Attribute{text("rack", "r1"), scalar}, Domain: regionNamed("west")}

	attr := func(name string) *schedulerv1.AttributeConstraint_Selector {
		return &schedulerv1.AttributeConstraint_Selector{Selector: &schedulerv1.AttributeConstraint_Selector_AttributeName{AttributeName: name}}
	}
	pseudo := func(p schedulerv1.AttributeConstraint_Selector_PseudoattributeType) *schedulerv1.AttributeConstraint_Selector {
		return &schedulerv1.AttributeConstraint_Selector{Selector: &schedulerv1.AttributeConstraint_Selector_PseudoattributeType_{PseudoattributeType: p}}
	}
	exists := &schedulerv1.AttributeConstraint_Predicate{Predicate: &schedulerv1.AttributeConstraint_Predicate_Exists_{Exists: &schedulerv1.AttributeConstraint_Predicate_Exists{}}}
	notExists := &schedulerv1.AttributeConstraint_Predicate{Predicate: &schedulerv1.AttributeConstraint_Predicate_NotExists_{NotExists: &schedulerv1.AttributeConstraint_Predicate_NotExists{}}}
	equals := func(v string) *schedulerv1.AttributeConstraint_Predicate {
		return &schedulerv1.AttributeConstraint_Predicate{Predicate: &schedulerv1.AttributeConstraint_Predicate_TextEquals_{TextEquals: &schedulerv1.AttributeConstraint_Predicate_TextEquals{Value: &v}}}
	}
	notEquals := func(v string) *schedulerv1.AttributeConstraint_Predicate {
		return &schedulerv1.AttributeConstraint_Predicate{Predicate: &schedulerv1.AttributeConstraint_Predicate_TextNotEquals_{TextNotEquals: &schedulerv1.AttributeConstraint_Predicate_TextNotEquals{Value: &v}}}
	}
	matches := func(v string) *schedulerv1.AttributeConstraint_Predicate {
		return &schedulerv1.AttributeConstraint_Predicate{Predicate: &schedulerv1.AttributeConstraint_Predicate_TextMatches_{TextMatches: &schedulerv1.AttributeConstraint_Predicate_TextMatches{Regex: &v}}}
	}
	notMatches := func(v string) *schedulerv1.AttributeConstraint_Predicate {
		return &schedulerv1.AttributeConstraint_Predicate{Predicate: &schedulerv1.AttributeConstraint_Predicate_TextNotMatches_{TextNotMatches: &schedulerv1.AttributeConstraint_Predicate_TextNotMatches{Regex: &v}}}
	}
	compile := func(s *schedulerv1.AttributeConstraint_Selector, p *schedulerv1.AttributeConstraint_Predicate) (*Constraints, error) {
		return CompileConstraints(&schedulerv1.OfferConstraints{RoleConstraints: map[string]*schedulerv1.OfferConstraints_RoleConstraints{"a": {
			Groups: []*schedulerv1.OfferConstraints_RoleConstraints_Group{{AttributeConstraints: []*schedulerv1.AttributeConstraint{{Selector: s, Predicate: p}}}},
		}}}, ConstraintLimits{MaxProgramSize: 100})
	}
	for i, c := range []struct {
		s    *schedulerv1.AttributeConstraint_Selector
		p    *schedulerv1.AttributeConstraint_Predicate
		want bool
	}{
		{attr("rack"), exists, true},
		{attr("none"), exists, false},
		{attr("rack"), notExists, false},
		{attr("none"), notExists, true},
		{attr("rack"), equals("r1"), true},
		{attr("rack"), equals("r2"), false},
		{attr("none"), equals("r1"), false},
		{attr("slots"), equals("r1"), true}, // no text: always true
		{attr("rack"), notEquals("r1"), false},
		{attr("none"), notEquals("r1"), true},
		{attr("slots"), notEquals("x"), true},
		{attr("rack"), matches("r[0-9]"), true},
		{attr("rack"), matches("r"), false},
		{attr("none"), matches(".*"), false},
		{attr("rack"), matches("r1|x"), true},
		{attr("rack"), matches("x|r"), false},
		{attr("rack"), notMatches("r.*"), false},
		{attr("none"), notMatches("r.*"), true},
		{pseudo(schedulerv1.AttributeConstraint_Selector_HOSTNAME), matches(`node-\d+\.example`), true},
		{pseudo(schedulerv1.AttributeConstraint_Selector_REGION), equals("west"), true},
		{pseudo(schedulerv1.AttributeConstraint_Selector_ZONE), notEquals("west"), false},
	} {
		compiled, err := compile(c.s, c.p)
		if err != nil {
			t.Fatalf("case %d: %v", i, err)
		}
		if got := compiled.forRole("a").matches(&info); got != c.want {
			t.Errorf("case %d (%v %v): %v, want %v", i, c.s, c.p, got, c.want)
		}
		if compiled.forRole("b") != nil {
			t.Errorf("case %d constrains another role", i)
		}
	}
	for want, c := range map[string]struct {
		s *schedulerv1.AttributeConstraint_Selector
		p *schedulerv1.AttributeConstraint_Predicate
	}{
		"too complex":             {attr("rack"), matches(strings.Repeat("(a|b)", 60))},
		"longer than":             {attr("rack"), matches(strings.Repeat("a", 5000))},
		"failed to construct":     {attr("rack"), notMatches("(")},
		"Exactly one":             {},
		"unknown predicate":       {attr("rack"), nil},
		"unknown pseudoattribute": {pseudo(schedulerv1.AttributeConstraint_Selector_UNKNOWN), exists},
	} {
		if _, err := compile(c.s, c.p); err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	if _, err := CompileConstraints(&schedulerv1.OfferConstraints{RoleConstraints: map[string]*schedulerv1.OfferConstraints_RoleConstraints{"a": {}}}, DefaultConstraintLimits()); err == nil {
		t.Error("a role without groups was accepted")
	}
	if got, err := CompileConstraints(nil, DefaultConstraintLimits()); got != nil || err != nil {
		t.Errorf("no constraints: %v, %v", got, err)
	}
	// Through the allocator: agents that don't match are not offered, until their attributes do.
	c := newCluster(t, Options{})
	cons, err := compile(attr("rack"), equals("r1"))
	if err != nil {
		t.Fatal(err)
	}
	c.frameworkWith("f1", FrameworkInfo{Roles: []string{"a"}, Constraints: cons})
	c.agent("s1", "cpus:1")
	c.expect()
	if err := c.a.UpdateAgent("s1", AgentInfo{Attributes: []*mesosv1.Attribute{text("rack", "r1")}, Capabilities: modern, Total: resources.MustParse("cpus:1")}); err != nil {
		t.Fatal(err)
	}
	c.expect("f1 a s1 cpus:1")
}

func TestBadCallsAreErrorsOrIgnored(t *testing.T) {
	t.Parallel()
	a := New(Options{})
	for _, err := range []error{
		a.SetWeight("a", 0), a.SetWeight("a//b", 1), a.SetQuota("a/b", &Quota{}), a.SetQuota("/", nil),
		a.UpdateFramework("f", FrameworkInfo{}), a.AddFramework("f", FrameworkInfo{Roles: []string{"-"}}, true),
		a.UpdateAgent("s", AgentInfo{}), a.Allocated("f", "s", resources.MustParse("cpus:1")),
		a.UpdateAllocation("f", "s", resources.MustParse("cpus:1"), nil),
	} {
		if err == nil {
			t.Error("a bad call passed")
		}
	}
	a.RemoveAgent("s")
	a.RemoveFramework("f")
	a.Suppress("f", []string{"a"})
	a.Revive("f", nil)
	a.SetAgentActive("s", false)
	a.SetFrameworkActive("f", true)
	a.SetUnavailability("s", nil)
	a.RespondInverse("f", "s", nil, nil, t0)
	if err := a.Recover("f", "s", resources.MustParse("cpus:1"), nil, t0); err != nil {
		t.Error(err)
	}
	if offers, inverse := a.Allocate(t0, 1); offers != nil || inverse != nil {
		t.Error("offers out of nothing")
	}
	if len(a.roles) != 0 || len(a.frameworks) != 0 || len(a.agents) != 0 {
		t.Errorf("left over: %v %v %v", a.roles, a.frameworks, a.agents)
	}
}
