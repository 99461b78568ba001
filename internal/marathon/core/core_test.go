package core

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

func TestStartScaleAndStop(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 4)
	c.must(`{"id":"/a","cmd":"sleep 1","cpus":0.5,"instances":10}`)
	c.run(time.Minute, "stable with 10", c.stable)
	c.must(`{"id":"/a","cmd":"sleep 1","cpus":0.5,"instances":3}`)
	c.run(time.Minute, "stable with 3", c.stable)
	if n := len(c.m.of("/a")); n != 3 {
		t.Errorf("%d instances", n)
	}
	if _, err := c.update(Update{Mutate: func(r *spec.Root, now spec.Version, _ spec.History) error { r.Remove("/a", now); return nil }}); err != nil {
		t.Fatal(err)
	}
	c.run(time.Minute, "gone", func() bool { return c.stable() && len(c.m.of("/a")) == 0 })
	if len(c.m.specs) != 0 {
		t.Errorf("something is left of what was removed: %v", c.m.specs)
	}
}

func TestUnchangedDefinitionGivesADeploymentThatEndsAtOnce(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 1)
	c.must(`{"id":"/a","cmd":"sleep 1"}`)
	c.run(time.Minute, "stable", c.stable)
	before := c.m.of("/a")[0].ID
	c.notices = nil
	r := c.must(`{"id":"/a","cmd":"sleep 1"}`)
	if r.Deployment == "" || !c.idle() {
		t.Fatalf("result %+v, idle %v", r, c.idle())
	}
	if len(c.notices) != 1 || c.notices[0].Type != "deployment_success" || c.notices[0].Fields.(DeploymentEnd).ID != r.Deployment {
		t.Errorf("notices %+v", c.notices)
	}
	if c.m.of("/a")[0].ID != before {
		t.Error("the instance was replaced")
	}
}

func TestLockedUnlessForced(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 0)
	first := c.must(`{"id":"/a","cmd":"sleep 1"}`)
	_, err := c.apply(false, `{"id":"/a","cmd":"sleep 2"}`)
	var locked *Locked
	if !errors.As(err, &locked) || !slices.Equal(locked.Deployments, []string{first.Deployment}) {
		t.Fatalf("got %v", err)
	}
	r, err := c.apply(true, `{"id":"/a","cmd":"sleep 2"}`)
	if err != nil || len(c.m.deployments) != 1 || c.m.deployments[0].ID != r.Deployment {
		t.Fatalf("%v, %d deployments", err, len(c.m.deployments))
	}
	if !slices.ContainsFunc(c.notices, func(n Notice) bool {
		e, ok := n.Fields.(DeploymentEnd)
		return ok && n.Type == "deployment_failed" && e.ID == first.Deployment
	}) {
		t.Error("nobody was told that the first deployment failed")
	}
}

func TestReplaceStep(t *testing.T) {
	t.Parallel()
	all := func(n int) counts { return counts{target: n, oldActive: n, oldAlive: n, oldHealthy: n} }
	for _, tc := range []struct {
		name        string
		min, over   float64
		c           counts
		kill, start int
	}{
		{"default: double", 1, 1, all(10), 0, 10},
		{"half, none over", 0.5, 0, all(10), 5, 0},
		{"none over, all needed: one more", 1, 0, all(10), 0, 1},
		{"nothing needed", 0, 0, all(10), 10, 0},
		{"facts: I=5 {0.5,0.2}", 0.5, 0.2, all(5), 2, 1},
		{"a new one is good: one old goes", 1, 1, counts{target: 10, oldActive: 10, oldAlive: 10, oldHealthy: 10, newStarted: 10, newHealthy: 1}, 1, 0},
		{"scaled down too", 1, 1, counts{target: 4, oldActive: 10, oldAlive: 10, oldHealthy: 10}, 6, 0},
		{"unhealthy old ones don't block for ever", 1, 0, counts{target: 4, oldActive: 4, oldAlive: 4, oldHealthy: 0}, 1, 0},
		{"resident gives one up", 1, 0, counts{target: 3, oldActive: 3, oldAlive: 3, oldHealthy: 3, resident: true}, 1, 0},
		{"resident waits for the successor", 1, 0, counts{target: 3, oldActive: 2, oldAlive: 2, oldHealthy: 2, newStarted: 1, resident: true}, 0, 0},
		{"canary", 1, 1, counts{target: 10, oldActive: 10, oldAlive: 10, oldHealthy: 10, mostNew: 1}, 0, 1},
		{"canary keeps the rest", 1, 1, counts{target: 10, oldActive: 9, oldAlive: 9, oldHealthy: 9, newStarted: 1, newHealthy: 1, mostNew: 1}, 0, 0},
		{"blue-green: all beside", 1, 0, counts{target: 4, oldActive: 4, oldAlive: 4, oldHealthy: 4, mostNew: 4, holdOld: true, mostAtOnce: 8}, 0, 4},
	} {
		kill, start := replaceStep(spec.UpgradeStrategy{MinimumHealthCapacity: tc.min, MaximumOverCapacity: tc.over}, tc.c)
		if kill != tc.kill || start != tc.start {
			t.Errorf("%s: kill %d start %d, want %d %d", tc.name, kill, start, tc.kill, tc.start)
		}
	}
}

// TestReplaceStepKeepsItsBounds drives the arithmetic alone, with every outcome of what it asked for.
func TestReplaceStepKeepsItsBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 30).Draw(t, "instances")
		u := spec.UpgradeStrategy{MinimumHealthCapacity: float64(rapid.IntRange(0, 10).Draw(t, "min")) / 10, MaximumOverCapacity: float64(rapid.IntRange(0, 10).Draw(t, "over")) / 10}
		fewest, most := bounds(u, n)
		if fewest == most {
			most++
		}
		old := rapid.IntRange(0, 40).Draw(t, "old")
		c := counts{target: n, oldActive: old, oldAlive: old, oldHealthy: rapid.IntRange(0, old).Draw(t, "healthy")}
		for range 1000 {
			if c.newHealthy == n && c.oldActive == 0 {
				return
			}
			kill, start := replaceStep(u, c)
			before := c.oldHealthy + c.newHealthy
			fromHealthy := max(0, kill-(c.oldAlive-c.oldHealthy))
			if kill < 0 || start < 0 || kill > c.oldAlive {
				t.Fatalf("kill %d start %d of %+v", kill, start, c)
			}
			c.oldAlive, c.oldHealthy, c.killing = c.oldAlive-kill, c.oldHealthy-fromHealthy, c.killing+kill
			c.newStarted += start
			if h := c.oldHealthy + c.newHealthy; h < min(before, fewest) {
				t.Fatalf("%d healthy of at least %d: %+v", h, fewest, c)
			}
			if start > 0 && c.oldActive+c.newStarted > most {
				t.Fatalf("%d instances of at most %d: %+v", c.oldActive+c.newStarted, most, c)
			}
			if kill == 0 && start == 0 && c.killing == 0 && c.newHealthy == c.newStarted {
				t.Fatalf("stuck at %+v", c)
			}
			switch {
			case c.killing > 0 && (c.newHealthy == c.newStarted || rapid.Bool().Draw(t, "dies")):
				c.killing--
				c.oldActive--
			case c.newHealthy < c.newStarted:
				c.newHealthy++
			}
		}
		t.Fatalf("never ends: %+v", c)
	})
}

// TestRollingReplacement runs replacements of every shape through the simulated cluster, whose step checks the bounds.
func TestRollingReplacement(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := newCluster(t, rapid.Uint64().Draw(t, "seed"), 5)
		c.checkBounds = true
		n := rapid.IntRange(1, 12).Draw(t, "instances")
		m := rapid.IntRange(0, 12).Draw(t, "then")
		min, over := rapid.IntRange(0, 4).Draw(t, "min"), rapid.IntRange(0, 4).Draw(t, "over")
		checks := ""
		if rapid.Bool().Draw(t, "checked") {
			checks = `,"healthChecks":[{"intervalSeconds":1}]`
		}
		body := func(cmd string, n int) string {
			return fmt.Sprintf(`{"id":"/a","cmd":%q,"cpus":0.1,"instances":%d,"upgradeStrategy":{"minimumHealthCapacity":%v,"maximumOverCapacity":%v}%s}`, cmd, n, float64(min)/4, float64(over)/4, checks)
		}
		c.must(body("sleep 1", n))
		c.run(5*time.Minute, "stable at first", c.stable)
		c.must(body("sleep 2", m))
		crash := rapid.IntRange(0, 30).Draw(t, "crash after")
		steps := 0
		c.run(30*time.Minute, "replaced", func() bool {
			if steps++; steps == crash {
				c.restart()
			}
			return c.stable()
		})
		if rapid.Bool().Draw(t, "and back") {
			c.must(body("sleep 1", n))
			c.run(30*time.Minute, "back", c.stable)
		}
	})
}

// TestChaos changes, forces, cancels, kills and crashes at random while tasks fail: it must always come to rest.
func TestChaos(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := newCluster(t, rapid.Uint64().Draw(t, "seed"), 4)
		c.vanish = rapid.SampledFrom([]int{0, 0, 10, 50}).Draw(t, "vanish")
		failing := true
		c.failAfter = func() time.Duration {
			if failing && c.rng.IntN(4) == 0 {
				return time.Duration(1+c.rng.IntN(20)) * time.Second
			}
			return 0
		}
		c.settle(time.Second)
		for range rapid.IntRange(3, 25).Draw(t, "steps") {
			switch rapid.IntRange(0, 8).Draw(t, "what") {
			case 0, 1, 2:
				id := rapid.SampledFrom([]string{"/a", "/g/b", "/g/c"}).Draw(t, "id")
				dep := ""
				if id == "/g/b" {
					dep = `,"dependencies":["/a"]`
				}
				_, err := c.apply(rapid.Bool().Draw(t, "force"), fmt.Sprintf(`{"id":%q,"cmd":"sleep %d","cpus":0.1,"instances":%d%s}`, id, 10+rapid.IntRange(0, 2).Draw(t, "v"), rapid.IntRange(0, 8).Draw(t, "n"), dep))
				var locked *Locked
				if err != nil && !errors.As(err, &locked) {
					t.Fatalf("%v", err)
				}
			case 3:
				_, _ = c.update(Update{Force: true, Mutate: func(r *spec.Root, now spec.Version, _ spec.History) error { r.RemoveGroup("/g", now); return nil }})
			case 4:
				if len(c.m.deployments) > 0 {
					c.step(CancelDeployment{ID: c.m.deployments[0].ID, Force: rapid.Bool().Draw(t, "force")})
				}
			case 5:
				if list := c.m.of("/a"); len(list) > 0 {
					c.step(KillInstances{IDs: []string{list[0].ID}, Wipe: rapid.Bool().Draw(t, "wipe")})
				}
			case 6:
				c.restart()
			case 7:
				c.failOver(time.Duration(rapid.IntRange(1, 30).Draw(t, "away")) * time.Second)
			case 8:
				c.settle(time.Duration(rapid.IntRange(1, 60).Draw(t, "wait")) * time.Second)
			}
			c.settle(time.Duration(rapid.IntRange(0, 3).Draw(t, "pause")) * time.Second)
		}
		failing = false
		c.run(2*time.Hour, "at rest", func() bool {
			if !c.idle() {
				return false
			}
			// A deployment that was cancelled may leave instances of two definitions; their number must be right.
			for s := range c.m.root.Specs("/") {
				n := 0
				for _, i := range c.m.of(s.ID) {
					if !c.m.healthy(i) {
						return false
					}
					n++
				}
				if n != s.Instances() {
					return false
				}
			}
			n := 0
			c.m.instances.Scan(func(string, *Instance) bool { n++; return true })
			return len(c.tasks) == n
		})
	})
}

func TestDependenciesAreStartedFirst(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 2)
	c.must(`{"id":"/db","cmd":"sleep 1","cpus":0.1}`, `{"id":"/web","cmd":"sleep 1","cpus":0.1,"dependencies":["/db"]}`)
	steps := c.m.deployments[0].Steps
	want := [][]Action{{{Start, "/db", false}, {Start, "/web", false}}, {{Scale, "/db", false}}, {{Scale, "/web", false}}}
	if d := cmp.Diff(want, steps); d != "" {
		t.Error(d)
	}
	c.run(time.Minute, "web begins", func() bool { return len(c.m.of("/web")) > 0 })
	if i := c.m.of("/db")[0]; !c.m.healthy(i) {
		t.Errorf("web begins while db is %s", i.Condition)
	}
}

func TestBackoffGrowsAndIsForgotten(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 1)
	fail := true
	c.startDelay = func() time.Duration { return time.Millisecond }
	c.failAfter = func() time.Duration {
		if fail {
			return time.Millisecond
		}
		return 0
	}
	c.must(`{"id":"/a","cmd":"false","cpus":0.1,"backoffSeconds":1,"backoffFactor":2,"maxLaunchDelaySeconds":60}`)
	starts := func() int { return len(c.ever) }
	c.settle(10 * time.Second)
	// 0, 1, 3, 7 seconds, and a little for the work itself.
	if n := starts(); n < 3 || n > 5 {
		t.Errorf("%d starts in 10 s", n)
	}
	s := c.m.root.Get("/a")
	c.settle(10 * time.Minute)
	if d := c.m.delayOf(s); d == nil || d.wait != time.Minute {
		t.Errorf("delay %+v, want the greatest: a minute", d)
	}
	c.step(ResetDelay{SpecID: "/a"})
	fail = false
	c.run(time.Minute, "running", c.stable)
	c.settle(3 * time.Minute)
	if d := c.m.delayOf(s); d != nil {
		t.Errorf("delay %+v after running for longer than the greatest delay", d)
	}
}

// TestCrashLoop: an app that ends at once for ten thousand times leaves nothing behind.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 1)
	c.startDelay = func() time.Duration { return 0 }
	c.failAfter = func() time.Duration { return time.Microsecond }
	c.must(`{"id":"/a","cmd":"false","cpus":0.1,"backoffSeconds":0}`)
	for n := 0; len(c.ever) < 10_000; n++ {
		c.tick()
		c.notices = nil
		if n > 200_000 {
			t.Fatalf("only %d starts", len(c.ever))
		}
	}
	if len(c.records) > 10 || len(c.m.timers) > 100_000 {
		t.Errorf("%d records, %d timers", len(c.records), len(c.m.timers))
	}
}

func TestUnhealthyInstanceIsKilledAfterMaxPlusOne(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 1)
	sick := false
	c.unhealthy = func(spec.Version) bool { return sick }
	c.must(`{"id":"/a","cmd":"sleep 1","cpus":0.1,"healthChecks":[{"intervalSeconds":1,"maxConsecutiveFailures":2,"gracePeriodSeconds":10}]}`)
	c.run(time.Minute, "stable", c.stable)
	first := c.m.of("/a")[0]
	c.notices = nil
	sick = true
	c.run(time.Minute, "killed", func() bool { return c.m.of("/a")[0].Incarnation > first.Incarnation })
	failures := 0
	for _, n := range c.notices {
		if n.Type == "failed_health_check_event" {
			failures++
		}
	}
	if failures != 3 {
		t.Errorf("killed after %d failures, want 3", failures)
	}
	sick = false
	c.run(5*time.Minute, "healthy again", c.stable)
}

func TestHealthSurvivesARestart(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 1)
	c.must(`{"id":"/a","cmd":"sleep 1","cpus":0.1,"healthChecks":[{"intervalSeconds":1}]}`)
	c.run(time.Minute, "stable", c.stable)
	c.restart()
	i := c.m.of("/a")[0]
	if i.Healthy == nil || !*i.Healthy || len(i.Health) != 1 || !i.Health[0].Alive {
		t.Errorf("after the restart %+v", i)
	}
}

func TestUnreachableStrategies(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, strategy string
		replacedAfter  time.Duration
		never          bool
	}{
		{"at once", `{"inactiveAfterSeconds":0,"expungeAfterSeconds":0}`, 0, false},
		{"later", `{"inactiveAfterSeconds":30,"expungeAfterSeconds":90}`, 30 * time.Second, false},
		{"never", `"disabled"`, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := testCluster(t, 2)
			c.must(`{"id":"/a","cmd":"sleep 1","cpus":0.1,"unreachableStrategy":` + tc.strategy + `}`)
			c.run(time.Minute, "stable", c.stable)
			first := c.m.of("/a")[0]
			task := c.tasks[first.Tasks[0].ID]
			task.state = 10 // TASK_UNREACHABLE
			c.agents[slices.IndexFunc(c.agents, func(a *simAgent) bool { return a.id == task.agent })].unreachable = true
			lost := c.now
			c.step(c.statusOf(task))
			replaced := func() bool {
				return slices.ContainsFunc(c.m.of("/a"), func(i *Instance) bool { return i.ID != first.ID && i.Condition == Running })
			}
			if tc.never {
				c.settle(time.Hour)
				if replaced() {
					t.Fatal("it was replaced")
				}
			} else {
				c.run(5*time.Minute, "replaced", replaced)
				if took := c.now.Sub(lost); took < tc.replacedAfter || took > tc.replacedAfter+10*time.Second {
					t.Errorf("replaced after %v, want %v", took, tc.replacedAfter)
				}
			}
			task.state = 1 // TASK_RUNNING: it is back
			c.step(c.statusOf(task))
			c.run(5*time.Minute, "one instance again", c.stable)
		})
	}
}

func TestConstraints(t *testing.T) {
	t.Parallel()
	place := func(c *cluster) map[string]int {
		out := map[string]int{}
		for _, i := range c.m.of("/a") {
			if i.Condition == Running {
				out[i.Host]++
			}
		}
		return out
	}
	for _, tc := range []struct {
		constraint string
		instances  int
		want       func(map[string]int) bool
		zone       bool
	}{
		{`["hostname","UNIQUE"]`, 6, func(m map[string]int) bool { return len(m) == 6 }, false},
		{`["hostname","CLUSTER","host3"]`, 4, func(m map[string]int) bool { return m["host3"] == 4 }, false},
		{`["hostname","CLUSTER"]`, 4, func(m map[string]int) bool { return len(m) == 1 }, false},
		{`["hostname","LIKE","host[12]"]`, 6, func(m map[string]int) bool { return m["host1"]+m["host2"] == 6 }, false},
		{`["hostname","UNLIKE","host[0-4]"]`, 3, func(m map[string]int) bool { return m["host5"] == 3 }, false},
		{`["hostname","MAX_PER","2"]`, 12, func(m map[string]int) bool { return m["host0"] == 2 && m["host5"] == 2 }, false},
		{`["zone","IS","z1"]`, 4, func(m map[string]int) bool { return m["host1"]+m["host4"] == 4 }, false},
		{`["rack","UNLIKE","r1"]`, 4, func(map[string]int) bool { return true }, false},
		{`["hostname","GROUP_BY"]`, 6, func(m map[string]int) bool { return len(m) == 6 }, false},
		{`["zone","GROUP_BY","3"]`, 9, func(m map[string]int) bool {
			return m["host0"]+m["host3"] == 3 && m["host1"]+m["host4"] == 3 && m["host2"]+m["host5"] == 3
		}, true},
	} {
		t.Run(tc.constraint, func(t *testing.T) {
			t.Parallel()
			c := testCluster(t, 6)
			c.must(fmt.Sprintf(`{"id":"/a","cmd":"sleep 1","cpus":0.1,"instances":%d,"constraints":[%s]}`, tc.instances, tc.constraint))
			c.run(5*time.Minute, "stable", c.stable)
			if got := place(c); !tc.want(got) {
				t.Errorf("placed %v", got)
			}
		})
	}
	t.Run("none fits", func(t *testing.T) {
		t.Parallel()
		c := testCluster(t, 3)
		c.must(`{"id":"/a","cmd":"sleep 1","cpus":0.1,"constraints":[["hostname","LIKE","nowhere"]]}`)
		c.settle(time.Minute)
		q, ok := c.m.QueueItem("/a")
		if !ok || q.Count != 1 || len(q.Unused) != 3 || q.LastOffers[1] != (Rejects{UnfulfilledConstraint, 3, 3}) {
			t.Errorf("queue %+v", q)
		}
	})
}

func TestGroupBySameAsMarathon(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		v, value string
		counts   map[string]int
		target   int
		want     bool
	}{
		{"a", "", map[string]int{}, 3, true},
		{"a", "", map[string]int{"a": 1}, 3, true},
		{"a", "", map[string]int{"a": 2, "b": 1}, 3, false},
		{"c", "", map[string]int{"a": 2, "b": 1}, 3, true},
		{"a", "3", map[string]int{"a": 2}, 9, true},
		{"a", "3", map[string]int{"a": 3}, 9, false},
		{"a", "2", map[string]int{"a": 2}, 5, true},
		{"b", "2", map[string]int{"a": 3, "b": 2}, 5, false},
		{"c", "2", map[string]int{"a": 1, "b": 1}, 5, false},
	} {
		if got := groupBy(tc.v, tc.value, tc.counts, tc.target); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}

func TestCanaryIsRolledBackWhenItFails(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 4)
	c.must(`{"id":"/a","cmd":"sleep 1","cpus":0.1,"instances":10,"healthChecks":[{"intervalSeconds":1,"maxConsecutiveFailures":1,"gracePeriodSeconds":2}]}`)
	c.run(5*time.Minute, "stable", c.stable)
	old := map[string]bool{}
	for _, i := range c.m.of("/a") {
		old[i.ID] = true
	}
	good := c.m.root.Get("/a").Version
	c.unhealthy = func(v spec.Version) bool { return v > good && c.m.root.Get("/a").Version == v }
	c.must(`{"id":"/a","cmd":"sleep 2","cpus":0.1,"instances":10,"labels":{"ORCHESTRATOR_STRATEGY":"canary"},"healthChecks":[{"intervalSeconds":1,"maxConsecutiveFailures":1,"gracePeriodSeconds":2}]}`)
	most := 0
	c.run(30*time.Minute, "rolled back", func() bool {
		fresh := 0
		for _, i := range c.m.of("/a") {
			if !old[i.ID] {
				fresh++
			}
		}
		most = max(most, fresh)
		return c.stable() && c.m.root.Get("/a").App.Cmd == "sleep 1"
	})
	if most != 1 {
		t.Errorf("%d instances of the bad version at once, want 1", most)
	}
	for _, i := range c.m.of("/a") {
		if !old[i.ID] {
			t.Errorf("%s is none of the instances from before", i.ID)
		}
	}
}

func TestCanarySteps(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 4)
	c.must(`{"id":"/a","cmd":"sleep 1","cpus":0.1,"instances":10}`)
	c.run(5*time.Minute, "stable", c.stable)
	c.must(`{"id":"/a","cmd":"sleep 2","cpus":0.1,"instances":10,"labels":{"ORCHESTRATOR_STRATEGY":"canary","ORCHESTRATOR_CANARY_STEPS":"10,50","ORCHESTRATOR_CANARY_HOLD":"1m"}}`)
	var seen []int
	start := c.now
	c.run(30*time.Minute, "done", func() bool {
		fresh := 0
		for _, i := range c.m.of("/a") {
			if i.Condition == Running && c.m.current(i, c.m.root.Get("/a")) {
				fresh++
			}
		}
		if (len(seen) == 0 || seen[len(seen)-1] != fresh) && fresh > 0 {
			seen = append(seen, fresh)
		}
		return c.stable()
	})
	if took := c.now.Sub(start); took < 2*time.Minute {
		t.Errorf("two steps that each hold a minute took %v", took)
	}
	if !slices.Contains(seen, 1) || !slices.Contains(seen, 5) || seen[0] != 1 {
		t.Errorf("new instances went through %v", seen)
	}
}

func TestBlueGreenKeepsTheOldUntilAllNewAreGood(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 4)
	c.must(`{"id":"/a","cmd":"sleep 1","cpus":0.1,"instances":4}`)
	c.run(5*time.Minute, "stable", c.stable)
	c.must(`{"id":"/a","cmd":"sleep 2","cpus":0.1,"instances":4,"upgradeStrategy":{"minimumHealthCapacity":0,"maximumOverCapacity":0},"labels":{"ORCHESTRATOR_STRATEGY":"blue-green"}}`)
	both := false
	c.run(5*time.Minute, "done", func() bool {
		target := c.m.root.Get("/a")
		fresh, old := 0, 0
		for _, i := range c.m.of("/a") {
			switch {
			case !c.m.healthy(i):
			case c.m.current(i, target):
				fresh++
			default:
				old++
			}
		}
		if old < 4 && fresh < 4 {
			t.Fatalf("%d old and %d new", old, fresh)
		}
		both = both || old == 4 && fresh == 4
		return c.stable()
	})
	_ = both
}

func TestDeadlinePolicies(t *testing.T) {
	t.Parallel()
	for policy, check := range map[string]func(c *cluster) bool{
		"pause":    func(c *cluster) bool { return len(c.m.deployments) == 1 && c.m.deployments[0].Paused != "" },
		"keep":     func(c *cluster) bool { return c.idle() && c.m.root.Get("/a").App.Cmd == "sleep 2" },
		"rollback": func(c *cluster) bool { return c.stable() && c.m.root.Get("/a").App.Cmd == "sleep 1" },
	} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			c := testCluster(t, 2)
			c.must(`{"id":"/a","cmd":"sleep 1","cpus":0.1,"instances":4}`)
			c.run(5*time.Minute, "stable", c.stable)
			c.must(`{"id":"/a","cmd":"sleep 2","cpus":100,"instances":4,"labels":{"ORCHESTRATOR_DEPLOYMENT_DEADLINE":"2m","ORCHESTRATOR_DEPLOYMENT_POLICY":"` + policy + `"}}`)
			c.settle(time.Minute)
			if c.idle() {
				t.Fatal("ended before its deadline")
			}
			c.restart()
			c.run(5*time.Minute, policy, func() bool { return check(c) })
			if policy != "pause" {
				return
			}
			c.step(ResumeDeployment{ID: c.m.deployments[0].ID})
			if c.m.deployments[0].Paused != "" {
				t.Error("still paused")
			}
		})
	}
}

func TestRollbackOnRequest(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 2)
	c.must(`{"id":"/a","cmd":"sleep 1","cpus":0.1,"instances":4}`)
	c.run(5*time.Minute, "stable", c.stable)
	r := c.must(`{"id":"/a","cmd":"sleep 2","cpus":100,"instances":4}`, `{"id":"/b","cmd":"sleep 2","cpus":0.1}`)
	c.settle(10 * time.Second)
	c.replies = nil
	c.step(CancelDeployment{ID: r.Deployment})
	res, ok := c.replies[0].Value.(*Result)
	if !ok || res.Deployment == r.Deployment {
		t.Fatalf("reply %+v", c.replies)
	}
	c.run(5*time.Minute, "back", c.stable)
	if c.m.root.Get("/b") != nil || c.m.root.Get("/a").App.Cmd != "sleep 1" {
		t.Errorf("left: %v %v", c.m.root.Get("/b"), c.m.root.Get("/a").App.Cmd)
	}
}

func TestGroupRollbackByVersion(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 2)
	first := c.must(`{"id":"/g/a","cmd":"sleep 1","cpus":0.1}`, `{"id":"/g/b","cmd":"sleep 1","cpus":0.1}`)
	c.run(time.Minute, "stable", c.stable)
	c.must(`{"id":"/g/a","cmd":"sleep 2","cpus":0.1}`, `{"id":"/g/c","cmd":"sleep 1","cpus":0.1}`)
	c.run(time.Minute, "stable", c.stable)
	_, err := c.update(Update{Mutate: func(r *spec.Root, now spec.Version, h spec.History) error {
		return r.UpdateGroup("/g", spec.Object{"version": first.Version.String()}, now, h)
	}})
	if err != nil {
		t.Fatal(err)
	}
	c.run(5*time.Minute, "back", c.stable)
	if c.m.root.Get("/g/c") != nil || c.m.root.Get("/g/a").App.Cmd != "sleep 1" || c.m.root.Get("/g/b") == nil {
		t.Error("the group is not what it was")
	}
	_, err = c.update(Update{Mutate: func(r *spec.Root, now spec.Version, h spec.History) error {
		return r.UpdateGroup("/g", spec.Object{"version": "2001-01-01T00:00:00.000Z"}, now, h)
	}})
	var no *spec.ErrNoVersion
	if !errors.As(err, &no) {
		t.Errorf("an unknown version gave %v", err)
	}
}

func TestKillScaleAndWipe(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 2)
	c.must(`{"id":"/a","cmd":"sleep 1","cpus":0.1,"instances":3}`)
	c.run(time.Minute, "stable", c.stable)
	i := c.m.of("/a")[0]
	c.step(KillInstances{IDs: []string{i.ID}})
	c.run(time.Minute, "restarted", func() bool { x := c.m.instance(i.ID); return x != nil && x.Incarnation == 2 && c.stable() })
	c.step(KillInstances{IDs: []string{i.ID}, Wipe: true})
	c.run(time.Minute, "replaced", func() bool { return c.m.instance(i.ID) == nil && c.stable() })
	victim := c.m.of("/a")[1].ID
	if _, err := c.update(Update{Sentence: []string{victim}, Mutate: func(r *spec.Root, now spec.Version, _ spec.History) error {
		return r.Put(r.Get("/a").WithInstances(2), now, false)
	}}); err != nil {
		t.Fatal(err)
	}
	c.run(time.Minute, "scaled", c.stable)
	if c.m.instance(victim) != nil || len(c.m.of("/a")) != 2 {
		t.Error("another than the one named was killed")
	}
}

func TestPod(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 2)
	c.must(`{"id":"/p","containers":[{"name":"x","exec":{"command":{"shell":"sleep 1"}},"resources":{"cpus":0.1,"mem":32},"endpoints":[{"name":"web"}]},{"name":"y","exec":{"command":{"shell":"sleep 1"}},"resources":{"cpus":0.1,"mem":32}}],"scaling":{"kind":"fixed","instances":2}}`)
	c.run(time.Minute, "stable", c.stable)
	if n := len(c.tasks); n != 4 {
		t.Errorf("%d tasks, want 4", n)
	}
}

func TestTaskIDs(t *testing.T) {
	t.Parallel()
	const u = "0a1b2c3d-0000-4000-8000-000000000001"
	for id, want := range map[string]string{
		"g_a.instance-" + u + "._app.3": "/g/a g_a.instance-" + u + " 3",
		"g_a.instance-" + u + "._app":   "/g/a g_a.instance-" + u + " 0",
		"p.instance-" + u + ".web.12":   "/p p.instance-" + u + " 12",
		"g_a." + u:                      "/g/a g_a." + u + " 0",
		"g_a." + u + ".4":               "/g/a g_a." + u + " 4",
		"g_a.marathon-" + u:             "/g/a g_a.marathon-" + u + " 0",
	} {
		s, i, n, err := ParseTaskID(id)
		if got := fmt.Sprintf("%s %s %d", s, i, n); err != nil || got != want {
			t.Errorf("%s: %q %v, want %q", id, got, err, want)
		}
	}
	for _, id := range []string{"", "x", "a.b", "a.instance-short._app.1", "a.instance-" + u + "._app.x"} {
		if _, _, _, err := ParseTaskID(id); err == nil {
			t.Errorf("%q was accepted", id)
		}
	}
}

func TestTooManyDeployments(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 0)
	c.m.opt.MaxRunningDeployments = 2
	c.must(`{"id":"/a","cmd":"sleep 1"}`)
	c.must(`{"id":"/b","cmd":"sleep 1"}`)
	_, err := c.apply(false, `{"id":"/c","cmd":"sleep 1"}`)
	var many *TooManyDeployments
	if !errors.As(err, &many) {
		t.Errorf("got %v", err)
	}
	if _, err := c.apply(true, `{"id":"/a","cmd":"sleep 2"}`); err != nil {
		t.Errorf("a forced one that ends another: %v", err)
	}
}

// TestLostLaunchIsFoundOut: the process dies after an offer was taken and before the master heard of it, and the master says
// nothing about the task until its agent is back.
func TestLostLaunchIsFoundOut(t *testing.T) {
	t.Parallel()
	c := testCluster(t, 1)
	c.settle(time.Second)
	c.loseAccepts = true
	c.must(`{"id":"/a","cmd":"sleep 1","cpus":0.1}`)
	c.run(10*time.Second, "the offer is taken", func() bool { return c.m.of("/a")[0].Condition == Provisioned })
	c.loseAccepts, c.silent = false, true
	c.restart()
	c.settle(20 * time.Second)
	if got := c.m.of("/a")[0].Condition; got != Provisioned {
		t.Fatalf("nobody said anything, and it is %s", got)
	}
	c.silent = false
	c.run(90*time.Second, "started after all", c.stable)
}
