package allocator

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

var t0 = time.Unix(1_700_000_000, 0)

// cluster drives an allocator in a test: it keeps the time and the offers that are out.
type cluster struct {
	t   testing.TB
	a   *Allocator
	now time.Time
}

func newCluster(t testing.TB, opts Options) *cluster {
	t.Helper()
	return &cluster{t: t, a: New(opts), now: t0}
}

var modern = AgentCapabilities{MultiRole: true, HierarchicalRole: true, ReservationRefinement: true}

func (c *cluster) agent(id, total string) { c.agentWith(id, AgentInfo{}, total) }

func (c *cluster) agentWith(id string, info AgentInfo, total string) {
	c.t.Helper()
	info.Total = resources.MustParse(total)
	info.Capabilities = modern
	if info.Hostname == "" {
		info.Hostname = id
	}
	c.a.AddAgent(ids.Agent(id), info, nil)
}

func (c *cluster) framework(id string, roles ...string) {
	c.t.Helper()
	c.frameworkWith(id, FrameworkInfo{Roles: roles})
}

func (c *cluster) frameworkWith(id string, info FrameworkInfo) {
	c.t.Helper()
	info.Capabilities.MultiRole = true
	if err := c.a.AddFramework(ids.Framework(id), info, true); err != nil {
		c.t.Fatal(err)
	}
}

// offers runs a cycle and returns its offers.
func (c *cluster) offers() []Offer {
	offers, _ := c.a.Allocate(c.now, 1)
	return offers
}

// show tells offers as sorted lines "framework role agent resources", without allocation.
func show(offers []Offer) string {
	var lines []string
	for _, o := range offers {
		lines = append(lines, fmt.Sprintf("%s %s %s %s", o.Framework, o.Role, o.Agent, o.Resources.Unallocate()))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (c *cluster) expect(want ...string) []Offer {
	c.t.Helper()
	offers := c.offers()
	slices.Sort(want)
	if got := show(offers); got != strings.Join(want, "\n") {
		c.t.Fatalf("offers:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
	return offers
}

func (c *cluster) decline(o Offer, seconds float64) {
	c.t.Helper()
	var r *Refusal
	if seconds > 0 {
		r = &Refusal{For: time.Duration(seconds * float64(time.Second))}
	}
	if err := c.a.Recover(o.Framework, o.Agent, o.Resources, r, c.now); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) quota(role, guarantees, limits string) {
	c.t.Helper()
	g, err := resources.ParseQuantities(guarantees)
	if err != nil {
		c.t.Fatal(err)
	}
	l, err := resources.ParseQuantities(limits)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.a.SetQuota(role, &Quota{Guarantees: g, Limits: l}); err != nil {
		c.t.Fatal(err)
	}
}

func TestWholeAgentsGoToTheLowestShare(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{})
	c.framework("f1", "a")
	c.framework("f2", "b")
	c.agent("s1", "cpus:2;mem:1024")
	c.expect("f1 a s1 cpus:2; mem:1024")
	c.agent("s2", "cpus:1;mem:512")
	c.expect("f2 b s2 cpus:1; mem:512")
	c.agent("s3", "cpus:3;mem:2048")
	c.expect("f2 b s3 cpus:3; mem:2048")
	c.agent("s4", "cpus:4;mem:4096")
	fourth := c.expect("f1 a s4 cpus:4; mem:4096")
	c.expect()
	c.decline(fourth[0], 0)
	c.expect("f1 a s4 cpus:4; mem:4096")
}

func TestWeights(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{})
	c.framework("f1", "a")
	c.framework("f2", "b")
	if err := c.a.SetWeight("b", 2); err != nil {
		t.Fatal(err)
	}
	count := map[ids.Framework]int{}
	for i := range 9 {
		c.agent(fmt.Sprintf("s%d", i), "cpus:1;mem:1")
	}
	for _, o := range c.offers() {
		count[o.Framework]++
	}
	if count["f1"] != 3 || count["f2"] != 6 {
		t.Errorf("nine agents were offered %v, want 3 to f1 and 6 to f2", count)
	}
}

func TestFiltersCoverSubsets(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{AllocationInterval: time.Second})
	c.framework("f1", "a")
	c.agent("s1", "cpus:2;mem:1024")
	o := c.expect("f1 a s1 cpus:2; mem:1024")[0]
	c.decline(o, 5)
	c.expect()
	c.now = c.now.Add(4900 * time.Millisecond)
	c.expect()
	if at, ok := c.a.NextTimer(); !ok || !at.Equal(t0.Add(5*time.Second)) {
		t.Errorf("NextTimer() = %v, %v", at, ok)
	}
	c.now = t0.Add(5 * time.Second)
	o = c.expect("f1 a s1 cpus:2; mem:1024")[0]

	// A filter lasts for an allocation interval at least, and REVIVE ends it.
	c.decline(o, 0.1)
	c.now = c.now.Add(900 * time.Millisecond)
	c.expect()
	c.a.Revive("f1", nil)
	c.expect("f1 a s1 cpus:2; mem:1024")

	// More than what was refused is offered.
	half := resources.MustParse("cpus:1;mem:512").Allocate("a")
	if err := c.a.Recover("f1", "s1", half, &Refusal{For: time.Hour}, c.now); err != nil {
		t.Fatal(err)
	}
	c.expect()
	if err := c.a.Recover("f1", "s1", half, nil, c.now); err != nil {
		t.Fatal(err)
	}
	o = c.expect("f1 a s1 cpus:2; mem:1024")[0]

	// A changed agent ends filters; one that comes back the same does not.
	c.decline(o, 3600)
	if err := c.a.SetTotal("s1", resources.MustParse("cpus:2;mem:1024")); err != nil {
		t.Fatal(err)
	}
	c.expect()
	if err := c.a.SetTotal("s1", resources.MustParse("cpus:2;mem:1000")); err != nil {
		t.Fatal(err)
	}
	c.expect("f1 a s1 cpus:2; mem:1000")
}

func TestRefusedAgentsGoToTheNext(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{})
	c.framework("f1", "a")
	c.framework("f2", "a")
	c.agent("s1", "cpus:2")
	c.decline(c.expect("f1 a s1 cpus:2")[0], 60)
	c.decline(c.expect("f2 a s1 cpus:2")[0], 60)
	c.expect()
	c.a.Revive("f2", []string{"a"})
	c.expect("f2 a s1 cpus:2")
}

func TestSuppressAndRevive(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{})
	c.frameworkWith("f1", FrameworkInfo{Roles: []string{"a", "b"}, Suppressed: []string{"a"}})
	c.agent("s1", "cpus:1")
	c.decline(c.expect("f1 b s1 cpus:1")[0], 0)
	c.a.Suppress("f1", nil)
	c.expect()
	c.a.Revive("f1", []string{"a"})
	c.decline(c.expect("f1 a s1 cpus:1")[0], 0)
	c.a.SetFrameworkActive("f1", false)
	c.expect()
	c.a.SetFrameworkActive("f1", true)
	c.expect("f1 a s1 cpus:1")
	if got := c.a.Suppressed("f1"); !slices.Equal(got, []string{"b"}) {
		t.Errorf("suppressed roles: %v", got)
	}
}

func TestReservationsGoToTheSubtree(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{})
	c.framework("f1", "a/b")
	c.framework("f2", "c")
	c.a.Suppress("f2", nil)
	c.agent("s1", "cpus(a):1;cpus(c):2;mem:10")
	c.expect("f1 a/b s1 cpus(reservations: [(STATIC,a)]):1; mem:10")
	c.a.Revive("f2", nil)
	c.expect("f2 c s1 cpus(reservations: [(STATIC,c)]):2")
}

func TestCapabilities(t *testing.T) {
	t.Parallel()
	region := func(name string) *mesosv1.DomainInfo {
		return &mesosv1.DomainInfo{FaultDomain: &mesosv1.DomainInfo_FaultDomain{
			Region: &mesosv1.DomainInfo_FaultDomain_RegionInfo{Name: &name},
			Zone:   &mesosv1.DomainInfo_FaultDomain_ZoneInfo{Name: &name},
		}}
	}
	c := newCluster(t, Options{FilterGPU: true, Domain: region("here")})
	c.framework("f1", "a")
	c.agentWith("gpu", AgentInfo{}, "gpus:1;cpus:1")
	c.agentWith("far", AgentInfo{Domain: region("there")}, "cpus:1")
	c.agentWith("near", AgentInfo{Domain: region("here")}, "cpus:1")
	c.expect("f1 a near cpus:1")
	c.frameworkWith("f2", FrameworkInfo{Roles: []string{"a"}, Capabilities: FrameworkCapabilities{GPU: true}})
	c.expect("f2 a gpu cpus:1; gpus:1")
	c.frameworkWith("f3", FrameworkInfo{Roles: []string{"a"}, Capabilities: FrameworkCapabilities{RegionAware: true}})
	c.expect("f3 a far cpus:1")
	// Agents of old.
	c.a.AddAgent("old", AgentInfo{Total: resources.MustParse("cpus:1")}, nil)
	c.expect()
	if err := c.a.AddFramework("f4", FrameworkInfo{Roles: []string{"a"}}, true); err != nil {
		t.Fatal(err)
	}
	c.expect("f4 a old cpus:1")
}

func TestMinAllocatable(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{MinAllocatable: DefaultMinAllocatable()})
	c.framework("f1", "a")
	c.agent("s1", "cpus:0.005;mem:31;disk:1000")
	c.expect()
	c.agent("s2", "cpus:0.005;mem:32")
	c.expect("f1 a s2 cpus:0.005; mem:32")
	c.frameworkWith("f2", FrameworkInfo{Roles: []string{"a"}, MinAllocatable: map[string][]resources.Quantities{"a": {}}})
	c.expect("f2 a s1 cpus:0.005; mem:31; disk:1000")
}

func TestQuotaGuaranteeKeepsHeadroom(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{})
	c.framework("f1", "free")
	c.quota("paid", "cpus:2;mem:1024", "")
	c.agent("s1", "cpus:3;mem:2048")
	// What guarantees require is kept back, though nobody of the role is there.
	c.expect("f1 free s1 cpus:1; mem:1024")
	c.framework("f2", "paid")
	offers := c.expect("f2 paid s1 cpus:2; mem:1024")
	// The guarantee is met: what comes now is for all.
	c.agent("s2", "cpus:1;mem:1024")
	c.expect("f1 free s2 cpus:1; mem:1024")
	c.decline(offers[0], 3600)
	c.expect()
	// Without quota it goes to anybody.
	if err := c.a.SetQuota("paid", nil); err != nil {
		t.Fatal(err)
	}
	c.expect("f1 free s1 cpus:2; mem:1024")
}

func TestQuotaLimitChops(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{})
	c.quota("a", "", "cpus:2")
	c.framework("f1", "a/x")
	c.agent("s1", "cpus:1.5;mem:10")
	c.agent("s2", "cpus:4;mem:10;ports:[1-2]")
	offers := c.offers()
	var cpus float64
	for _, o := range offers {
		cpus += o.Resources.Scalar("cpus")
	}
	if cpus != 2 {
		t.Fatalf("a role limited to 2 cpus was offered %v:\n%s", cpus, show(offers))
	}
	c.expect()
	// Reserved resources count as consumed, but are not limited.
	c.agent("s3", "cpus(a):4")
	c.expect("f1 a/x s3 cpus(reservations: [(STATIC,a)]):4")
}

func TestRevocableAndUnknownFrameworks(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{})
	used := resources.MustParse("cpus:1").Allocate("a")
	c.a.AddAgent("s1", AgentInfo{Total: resources.MustParse("cpus:4"), Capabilities: modern},
		map[ids.Framework]resources.Resources{"f1": used})
	c.framework("f2", "a")
	c.expect("f2 a s1 cpus:3")
	c.framework("f1", "a")
	if err := c.a.Recover("f1", "s1", used, nil, c.now); err != nil {
		t.Fatal(err)
	}
	c.expect("f1 a s1 cpus:1")
	if err := c.a.Recover("f1", "s1", used.Add(used), nil, c.now); err == nil {
		t.Error("more than was used was given back without an error")
	}
	c.expect("f1 a s1 cpus:1")
	c.a.RemoveFramework("f1")
	c.a.RemoveFramework("nobody")
	c.a.RemoveAgent("s1")
	if len(c.a.frameworks) != 1 || len(c.a.roles) != 1 {
		t.Errorf("left over: %d frameworks, %d roles", len(c.a.frameworks), len(c.a.roles))
	}
}
