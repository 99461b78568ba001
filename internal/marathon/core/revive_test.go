package core

import (
	"fmt"
	"testing"
	"time"
)

// TestOffersAreAskedForAfterADelay: an instance fails while another of the same definition has just begun to run. The delay then counts
// from the later moment, so the end that was foreseen at the failure is too early to ask for offers, and another one has to
// be foreseen.
func TestOffersAreAskedForAfterADelay(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 3)
	n := 0
	c.startDelay = func() time.Duration { n++; return time.Duration(n) * 700 * time.Millisecond }
	started := 0
	c.failAfter = func() time.Duration {
		if started++; started == 1 {
			return 100 * time.Millisecond
		}
		return 0
	}
	c.must(`{"id":"/a","cmd":"serve","cpus":0.5,"instances":2,"backoffSeconds":1}`)
	c.run(time.Minute, "stable", c.stable)
}

// TestNothingIsForgottenByTheMaster drives updates and rollbacks whose instances fail as soon as the last was launched, with
// fail-overs of the master and of the process between. Whatever happened, everything runs a while after the last failure,
// although offers are only asked for when there is a reason.
func TestNothingIsForgottenByTheMaster(t *testing.T) {
	t.Parallel()
	seeds := 100
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		c := newCluster(t, uint64(seed), 3)
		c.checkBounds = true
		c.opt.ReviveInterval = time.Duration(c.rng.IntN(6)) * time.Second
		c.startDelay = func() time.Duration { return time.Duration(c.rng.IntN(1500)) * time.Millisecond }
		c.restart()
		body := func(version int) string {
			return fmt.Sprintf(`{"id":"/web","cmd":"serve %d","cpus":0.5,"instances":10,"backoffSeconds":%d,"maxLaunchDelaySeconds":%d,"healthChecks":[{"path":"/","intervalSeconds":1}],
				"upgradeStrategy":{"minimumHealthCapacity":%.1f,"maximumOverCapacity":%.1f}}`, version, seed%3, 20+seed%50, float64(seed%10)/10, float64(seed%4)/4)
		}
		c.must(body(1))
		c.run(10*time.Minute, "stable at first", c.stable)
		for round := range 4 {
			until := c.now.Add(time.Duration(c.rng.IntN(20)) * time.Second)
			c.failAfter = func() time.Duration {
				if c.now.After(until) || c.rng.IntN(3) > 0 {
					return 0
				}
				return time.Duration(1+c.rng.IntN(100)) * time.Millisecond
			}
			res, err := c.apply(true, body(round+2))
			if err != nil {
				t.Fatal(err)
			}
			c.settle(time.Duration(c.rng.IntN(10)) * time.Second)
			if c.rng.IntN(2) == 0 {
				c.step(CancelDeployment{ID: res.Deployment})
			}
			c.settle(time.Duration(c.rng.IntN(5)) * time.Second)
			switch c.rng.IntN(3) {
			case 0:
				c.failOver(time.Duration(c.rng.IntN(5000)) * time.Millisecond)
			case 1:
				c.restart()
			}
			if !c.eventually(20*time.Minute, c.stable) {
				c.dump()
				t.Fatalf("seed %d round %d: not stable", seed, round)
			}
		}
		if s := c.m.root.Get("/web"); s == nil || s.Instances() != 10 {
			t.Fatalf("seed %d: %v", seed, s)
		}
	}
}

// failOver takes the master away for a while. The next one knows no filters and no suppression.
func (c *cluster) failOver(d time.Duration) {
	c.down = true
	c.step(Disconnected{})
	for id := range c.offers {
		c.rescind(id)
	}
	c.settle(d)
	c.down, c.suppressed = false, false
	clear(c.refused)
	c.step(Registered{FrameworkID: "fw-1", Master: "other:5050"})
}

// eventually lets time pass until the condition holds, at most for the limit.
func (c *cluster) eventually(limit time.Duration, cond func() bool) bool {
	for end := c.now.Add(limit); !cond(); c.tick() {
		if c.now.After(end) {
			return false
		}
	}
	return true
}
