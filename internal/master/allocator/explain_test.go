package allocator

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{MinAllocatable: DefaultMinAllocatable(), FilterGPU: true})
	c.framework("f1", "a")
	c.agent("refused", "cpus:1")
	c.decline(c.expect("f1 a refused cpus:1")[0], 60)
	c.agent("off", "cpus:1")
	c.a.SetAgentActive("off", false)
	c.agent("gpus", "cpus:1;gpus:1")
	c.agent("small", "cpus:0.001")
	c.agent("theirs", "cpus(b):1")
	c.quota("b", "", "mem:64")
	c.framework("f2", "b/x", "b")
	c.a.Suppress("f2", []string{"b/x"})
	c.agent("new", "mem:128")

	got := c.a.Explain("f1")
	want := map[Reason]int{
		ReasonRefused: 1, ReasonAgentInactive: 1, ReasonGPU: 1, ReasonTooSmall: 1, ReasonReservedToOthers: 1, ReasonNone: 1,
	}
	if len(got) != 1 || got[0].Role != "a" || !got[0].Active || got[0].Suppressed || got[0].Filters != 1 {
		t.Fatalf("explained: %+v", got)
	}
	if !got[0].FilterEnds.Equal(t0.Add(time.Minute)) {
		t.Errorf("the filter ends at %v", got[0].FilterEnds)
	}
	if diff := cmp.Diff(want, got[0].Agents); diff != "" {
		t.Error(diff)
	}
	c.a.Suppress("f1", nil)
	c.offers()
	for _, e := range c.a.Explain("f2") {
		if e.Suppressed != (e.Role == "b/x") || e.Quota == nil || e.Consumed.Get("mem").Float() != 64 {
			t.Errorf("explained: %+v", e)
		}
		if e.Agents[ReasonQuotaLimit] != 1 {
			t.Errorf("role %s: %v, want one agent kept away by the limit", e.Role, e.Agents)
		}
	}
	if c.a.Explain("nobody") != nil {
		t.Error("an unknown framework was explained")
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{})
	c.quota("a", "cpus:1", "cpus:8")
	c.framework("f1", "a/x")
	c.agent("s1", "cpus:3;mem:10;disk(a):5")
	c.expect("f1 a/x s1 cpus:3; mem:10; disk(reservations: [(STATIC,a)]):5")
	s, ok := c.a.Role("a")
	if !ok || s.Used.String() != "cpus:3; disk:5; mem:10" || s.Reserved.String() != "disk:5" ||
		s.Consumed.String() != "cpus:3; disk:5; mem:10" || s.Quota == nil || s.Share != 1 {
		t.Errorf("role a: %+v", s)
	}
	if x, ok := c.a.Role("a/x"); !ok || len(x.Frameworks) != 1 {
		t.Errorf("role a/x: %+v", x)
	}
	if _, ok := c.a.Role("b"); ok {
		t.Error("an unknown role is known")
	}
	if got := c.a.Roles(); len(got) != 2 {
		t.Errorf("roles: %v", got)
	}
	sum := c.a.Totals()
	if sum.Total.String() != "cpus:3; disk:5; mem:10" || !sum.Used.Equal(sum.Total) || sum.Agents != 1 || sum.Frameworks != 1 {
		t.Errorf("totals: %+v", sum)
	}
	if !c.a.Free("s1").IsEmpty() || c.a.Used("f1", "s1").Scalar("cpus") != 3 {
		t.Errorf("free %s, used %s", c.a.Free("s1"), c.a.Used("f1", "s1"))
	}
}
