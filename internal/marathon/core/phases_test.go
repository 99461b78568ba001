package core

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// TestEveryPhase takes the master or the process away after every single step of a rolling update, of a canary, of a blue-green one
// and of one with persistent volumes. The deployment goes on and ends, within its own bounds all the time.
func TestEveryPhase(t *testing.T) {
	t.Parallel()
	web := func(v int, extra string) string {
		return fmt.Sprintf(`{"id":"/web","cmd":"serve %d","cpus":0.5,"instances":6,"healthChecks":[{"path":"/","intervalSeconds":1}]%s}`, v, extra)
	}
	for name, body := range map[string]func(v int) string{
		"rolling": func(v int) string {
			return web(v, `,"upgradeStrategy":{"minimumHealthCapacity":0.7,"maximumOverCapacity":0.3}`)
		},
		"canary": func(v int) string {
			return web(v, `,"labels":{"ORCHESTRATOR_STRATEGY":"canary","ORCHESTRATOR_CANARY_STEPS":"20,60,100","ORCHESTRATOR_CANARY_HOLD":"3s"}`)
		},
		"blue-green": func(v int) string { return web(v, `,"labels":{"ORCHESTRATOR_STRATEGY":"blue-green"}`) },
		"resident":   func(v int) string { return residentApp(v, 4, `{"size":100}`) },
	} {
		for crash, do := range map[string]func(*cluster){
			"master": func(c *cluster) { c.failOver(time.Duration(c.rng.IntN(8000)) * time.Millisecond) },
			"kill -9": func(c *cluster) {
				// What the last step did is stored or lost as a whole; what was under way to the machine is lost.
				c.restart()
			},
		} {
			t.Run(name+" "+crash, func(t *testing.T) {
				t.Parallel()
				ended := false
				for steps := 0; !ended; steps++ {
					c := testCluster(t, 5)
					c.checkBounds = true
					c.must(body(1))
					c.run(5*time.Minute, "stable at first", c.stable)
					c.must(body(2))
					for range steps {
						c.tick()
					}
					ended = c.idle()
					do(c)
					c.run(10*time.Minute, fmt.Sprintf("stable after a crash after step %d", steps), c.stable)
					if steps > 2000 {
						t.Fatal("the deployment never ended")
					}
				}
			})
		}
	}
}

// TestFlappingHealth: checks find something else each time. Instances are killed for it, and replaced, but there are never more than
// there should be, and when it stops everything is healthy again.
func TestFlappingHealth(t *testing.T) {
	t.Parallel()
	for seed := range 20 {
		c := newCluster(t, uint64(seed), 4)
		flapping := true
		c.unhealthy = func(spec.Version) bool { return flapping && c.rng.IntN(3) > 0 }
		c.must(`{"id":"/web","cmd":"serve","cpus":0.5,"instances":8,"backoffSeconds":1,"maxLaunchDelaySeconds":10,"healthChecks":[{"path":"/","intervalSeconds":1,"gracePeriodSeconds":3,"maxConsecutiveFailures":2}]}`)
		kills := 0
		for range 2000 {
			c.tick()
			n := 0
			for _, i := range c.m.of("/web") {
				if i.here() {
					n++
				}
				if i.KillAt == c.m.stamp() {
					kills++
				}
			}
			if n > 8 {
				c.dump()
				t.Fatalf("%d instances", n)
			}
		}
		if kills == 0 {
			t.Fatal("nothing was killed: the test tests nothing")
		}
		flapping = false
		c.run(10*time.Minute, "stable", c.stable)
	}
}

// TestPlans builds plans between random trees: each changed spec is dealt with exactly once, after everything that it depends on;
// nothing else is touched, no step is empty, and circles are refused.
func TestPlans(t *testing.T) {
	t.Parallel()
	ids := []string{"/a", "/b", "/c", "/g/a", "/g/b", "/g/h/c"}
	set := spec.Settings{Role: "*", PortMin: 10000, PortMax: 20000}
	rapid.Check(t, func(t *rapid.T) {
		from := spec.NewRoot(&set, 1)
		for n := range rapid.IntRange(1, 8).Draw(t, "updates") {
			now := spec.Version(n + 2)
			to := from.Clone()
			for _, id := range rapid.SliceOfNDistinct(rapid.SampledFrom(ids), 1, 5, rapid.ID[string]).Draw(t, "changed") {
				if rapid.IntRange(0, 3).Draw(t, "remove") == 0 {
					to.Remove(id, now)
					continue
				}
				app := &spec.App{
					ID: id, Cmd: fmt.Sprint("sleep ", rapid.IntRange(10, 12).Draw(t, "cmd")), Instances: rapid.IntRange(0, 2).Draw(t, "instances"), Labels: map[string]string{},
					Networks: []spec.Network{{Mode: "host"}}, Dependencies: rapid.SliceOfNDistinct(rapid.SampledFrom(ids), 0, 2, rapid.ID[string]).Draw(t, "dependencies"),
				}
				if err := to.Put(spec.OfApp(app), now, false); err != nil {
					t.Fatalf("%v", err)
				}
			}
			reach := reachable(to)
			circle := slices.ContainsFunc(ids, func(id string) bool { return reach[id][id] })
			if err := to.Check(); (err != nil) != circle {
				t.Fatalf("circle %v, error %v", circle, err)
			}
			if circle {
				continue
			}
			checkPlan(t, from, to, buildPlan(from, to, func(*spec.Spec) bool { return false }), reach)
			from = to.Clone()
		}
	})
}

// reachable is what each app of a tree depends on, directly or not, found the slow way.
func reachable(root *spec.Root) map[string]map[string]bool {
	reach := map[string]map[string]bool{}
	for s := range root.Specs("/") {
		reach[s.ID] = map[string]bool{}
		for _, d := range s.Dependencies() {
			if root.Get(d) != nil {
				reach[s.ID][d] = true
			}
		}
	}
	for range len(reach) {
		for _, of := range reach {
			for d := range of {
				for e := range reach[d] {
					of[e] = true
				}
			}
		}
	}
	return reach
}

func checkPlan(t *rapid.T, from, to *spec.Root, steps [][]Action, reach map[string]map[string]bool) {
	at, kind := map[string]int{}, map[string]ActionKind{}
	for n, step := range steps {
		if len(step) == 0 {
			t.Fatalf("step %d is empty", n)
		}
		for _, a := range step {
			if a.Kind == Start {
				if from.Get(a.ID) != nil {
					t.Fatalf("%s is started and was there", a.ID)
				}
				continue
			}
			if kind[a.ID] != "" {
				t.Fatalf("%s is dealt with twice: %v", a.ID, steps)
			}
			at[a.ID], kind[a.ID] = n, a.Kind
		}
	}
	for _, id := range []string{"/a", "/b", "/c", "/g/a", "/g/b", "/g/h/c"} {
		before, after := from.Get(id), to.Get(id)
		var want ActionKind
		switch {
		case before == nil && after == nil:
		case after == nil:
			want = Stop
		case before == nil:
			want = Scale
		case before.Version == after.Version:
		case before.ConfigAt != after.ConfigAt && after.Instances() > 0:
			want = Restart
		default:
			want = Scale
		}
		if kind[id] != want {
			t.Fatalf("%s: %q, want %q in %v", id, kind[id], want, steps)
		}
		for d := range reach[id] {
			if kind[id] != "" && kind[d] != "" && kind[d] != Stop && at[d] >= at[id] {
				t.Fatalf("%s is dealt with in step %d, what it depends on, %s, in step %d", id, at[id], d, at[d])
			}
		}
	}
}
