package allocator

import (
	"fmt"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// play runs cycles as their timers come until a time, and gives each offer to answer.
func (c *cluster) play(until time.Time, answer func(o Offer)) (offers int) {
	c.t.Helper()
	for seed := range uint64(1_000_000) {
		list, _ := c.a.Allocate(c.now, seed)
		for _, o := range list {
			offers++
			answer(o)
		}
		next, ok := c.a.NextTimer()
		if !ok || next.After(until) {
			c.now = until
			return offers
		}
		if next.After(c.now) {
			c.now = next
		}
	}
	c.t.Fatal("time does not pass")
	return 0
}

// What a hundred idle frameworks refuse goes from hand to hand no faster than the budget allows, however short their filters are, and reaches each of
// them all the same.
func TestRefusedResourcesHaveABudget(t *testing.T) {
	t.Parallel()
	const frameworks, agents, budget, seconds = 100, 20, 500, 20
	c := newCluster(t, Options{AllocationInterval: time.Second, RefusedPerSecond: budget})
	for i := range frameworks {
		c.framework(fmt.Sprintf("f%02d", i), "*")
	}
	for i := range agents {
		c.agent(fmt.Sprintf("s%02d", i), "cpus:4;mem:4096")
	}
	seen := map[ids.Framework]map[ids.Agent]bool{}
	last, longest := map[ids.Agent]time.Time{}, time.Duration(0)
	offers := c.play(c.now.Add(seconds*time.Second), func(o Offer) {
		if seen[o.Framework] == nil {
			seen[o.Framework] = map[ids.Agent]bool{}
		}
		seen[o.Framework][o.Agent] = true
		if was, ok := last[o.Agent]; ok {
			longest = max(longest, c.now.Sub(was))
		}
		last[o.Agent] = c.now
		c.decline(o, 1)
	})
	if most := seconds*budget + budget/patientBurst + agents; offers > most || offers < most*9/10 {
		t.Errorf("%d offers in %d s, the budget is %d", offers, seconds, most)
	}
	if longest > 100*time.Millisecond {
		t.Errorf("an agent has waited %v for the next framework", longest)
	}
	for fw, on := range seen {
		if len(on) < agents*3/4 { // a hundred offers each
			t.Errorf("%s was offered %d of %d agents", fw, len(on), agents)
		}
	}
	if len(seen) != frameworks {
		t.Errorf("%d of %d frameworks were offered anything", len(seen), frameworks)
	}
}

// Each agent is offered once in a second's round, also on a cluster of more agents than the budget is.
func TestEachAgentIsOfferedInEachRound(t *testing.T) {
	t.Parallel()
	c := newCluster(t, Options{AllocationInterval: time.Second, RefusedPerSecond: 1})
	for i := range 10 {
		c.framework(fmt.Sprintf("f%d", i), "*")
	}
	for i := range 300 {
		c.agent(fmt.Sprintf("s%03d", i), "cpus:4;mem:4096")
	}
	last, longest := map[ids.Agent]time.Time{}, time.Duration(0)
	c.play(c.now.Add(10*time.Second), func(o Offer) {
		if was, ok := last[o.Agent]; ok {
			longest = max(longest, c.now.Sub(was))
		}
		last[o.Agent] = c.now
		c.decline(o, 1)
	})
	if longest > 2100*time.Millisecond { // the first of a round and the last of the next
		t.Errorf("an agent was not offered for %v", longest)
	}
}

// What somebody needs does not wait behind what nobody wants: the resources of a task that has ended, a framework that revives, a new one.
func TestWhatIsNeededDoesNotWaitForTheBudget(t *testing.T) {
	t.Parallel()
	starved := func(t *testing.T) (*cluster, []Offer) {
		c := newCluster(t, Options{AllocationInterval: time.Second, RefusedPerSecond: 1})
		c.framework("f1", "*")
		c.framework("f2", "*")
		for i := range 5 {
			c.agent(fmt.Sprintf("s%d", i), "cpus:4;mem:4096")
		}
		offers := c.offers()
		if len(offers) != 5 {
			t.Fatalf("%d offers", len(offers))
		}
		for _, o := range offers[1:] {
			c.decline(o, 60)
		}
		for range 3 { // the budget is spent
			for _, o := range c.offers() {
				c.decline(o, 60)
			}
		}
		if c.a.patient.n == 0 || len(c.offers()) > 0 {
			t.Fatalf("%d agents wait: this tests nothing", c.a.patient.n)
		}
		return c, offers
	}
	t.Run("a task's end", func(t *testing.T) {
		t.Parallel()
		c, offers := starved(t)
		why := map[Reason]int{}
		for _, f := range []ids.Framework{"f1", "f2"} {
			for reason, n := range c.a.Explain(f)[0].Agents {
				why[reason] += n
			}
		}
		if why[ReasonPatient] == 0 || why[ReasonNone] != 0 {
			t.Errorf("explained: %v", why)
		}
		half := resources.MustParse("cpus:2;mem:2048").Allocate("*")
		if err := c.a.Recover(offers[0].Framework, offers[0].Agent, half, nil, c.now); err != nil {
			t.Fatal(err)
		}
		got := c.offers()
		if len(got) != 1 || got[0].Agent != offers[0].Agent {
			t.Errorf("offered at once: %s", show(got))
		}
	})
	t.Run("a new framework", func(t *testing.T) {
		t.Parallel()
		c, _ := starved(t)
		c.framework("f3", "*")
		n := 0
		for _, o := range c.offers() {
			if o.Framework == "f3" {
				n++
			}
		}
		if n == 0 || c.a.patient.n != 0 {
			t.Errorf("offered %d agents at once, %d wait", n, c.a.patient.n)
		}
	})
	t.Run("a framework that revives", func(t *testing.T) {
		t.Parallel()
		c, _ := starved(t)
		c.a.Revive("f1", nil)
		if n := len(c.offers()); n != 4 {
			t.Errorf("%d of four agents were offered at once", n)
		}
	})
	t.Run("without a budget", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t, Options{AllocationInterval: time.Second})
		c.framework("f1", "*")
		c.framework("f2", "*")
		c.agent("s1", "cpus:4;mem:4096")
		for range 2 {
			offers := c.offers()
			if len(offers) != 1 {
				t.Fatalf("%d offers", len(offers))
			}
			c.decline(offers[0], 60)
		}
	})
}
