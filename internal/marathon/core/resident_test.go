package core

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
	"github.com/orchestrator/orchestrator/internal/resources"
)

const (
	pathDisk  = `[{"name":"disk","type":"SCALAR","scalar":{"value":1000},"disk":{"source":{"type":"PATH","path":{"root":"/ssd/%d"}}}}]`
	mountDisk = `[{"name":"disk","type":"SCALAR","scalar":{"value":%d},"disk":{"source":{"type":"MOUNT","mount":{"root":"/mnt/%d"}}}}]`
)

// addDisks gives every agent a disk of the type path and two of the type mount.
func (c *cluster) addDisks() {
	for n, a := range c.agents {
		a.total = a.total.Add(resources.MustParse(fmt.Sprintf(pathDisk, n))).Add(resources.MustParse(fmt.Sprintf(mountDisk, 300, 2*n))).Add(resources.MustParse(fmt.Sprintf(mountDisk, 500, 2*n+1)))
	}
}

func residentApp(version, instances int, volume string) string {
	return fmt.Sprintf(`{"id":"/prod/db","role":"prod","cmd":"serve %d","cpus":0.5,"mem":64,"instances":%d,"backoffSeconds":1,"maxLaunchDelaySeconds":10,
		"container":{"type":"MESOS","volumes":[{"containerPath":"data","mode":"RW","persistent":%s}]}}`, version, instances, volume)
}

func TestVolumeTypes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, volume string
		source, size string // of the disk that is taken; "" when none does
	}{
		{"root", `{"type":"root","size":100}`, "", "100"},
		{"path takes a part", `{"type":"path","size":100}`, "/ssd/0", "100"},
		{"mount takes the smallest that does, whole", `{"type":"mount","size":200}`, "/mnt/0", "300"},
		{"mount, larger", `{"type":"mount","size":301}`, "/mnt/1", "500"},
		{"mount, not too large", `{"type":"mount","size":100,"maxSize":299}`, "none", ""},
		{"mount, by its path", `{"type":"mount","size":100,"constraints":[["path","LIKE","/mnt/1"]]}`, "/mnt/1", "500"},
		{"path, by what its path is not", `{"type":"path","size":100,"constraints":[["path","UNLIKE","/ssd/.*"]]}`, "none", ""},
		{"too large for any", `{"type":"path","size":1001}`, "none", ""},
		{"profile that no disk has", `{"type":"path","size":10,"profileName":"fast"}`, "none", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := testCluster(t, 1)
			c.addDisks()
			c.must(residentApp(1, 1, tc.volume))
			if tc.source == "none" {
				c.settle(30 * time.Second)
				if q, ok := c.m.QueueItem("/prod/db"); !ok || len(q.Unused) != 1 || q.Unused[0].Reasons[0] != InsufficientDisk {
					t.Fatalf("queue %+v", q)
				}
				return
			}
			c.run(time.Minute, "stable", c.stable)
			for _, task := range c.tasks {
				for _, p := range task.res.PersistentVolumes().Proto() {
					s := p.GetDisk().GetSource()
					if got := s.GetPath().GetRoot() + s.GetMount().GetRoot(); got != tc.source || fmt.Sprint(p.GetScalar().GetValue()) != tc.size {
						t.Errorf("took %v MB of %q", p.GetScalar().GetValue(), got)
					}
				}
			}
			c.removeAndCheck("/prod/db")
		})
	}
}

// removeAndCheck removes an app and waits until its agents are as they were: nothing reserved, no volume left.
func (c *cluster) removeAndCheck(id string) {
	c.t.Helper()
	if _, err := c.update(Update{Force: true, Mutate: func(r *spec.Root, now spec.Version, _ spec.History) error { r.Remove(id, now); return nil }}); err != nil {
		c.t.Fatalf("%v", err)
	}
	if c.rng.IntN(2) == 0 {
		c.settle(time.Duration(c.rng.IntN(6)) * time.Second)
		c.restart()
	}
	reserved := func() (out resources.Resources) {
		for _, a := range c.agents {
			out = out.Add(a.total.Reserved())
		}
		return out
	}
	if !c.eventually(10*time.Minute, func() bool { return c.stable() && reserved().IsEmpty() }) {
		c.dump()
		c.t.Fatalf("still reserved: %v", reserved())
	}
}

// TestResidents changes, scales, kills, wipes and crashes an app with persistent volumes at random while its tasks fail and offers
// vanish. It must come to rest with all of its instances, each on the volume that it has always had, and leave nothing reserved
// when it is removed.
func TestResidents(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := newCluster(t, rapid.Uint64().Draw(t, "seed"), 5)
		c.addDisks()
		c.checkBounds = true
		c.vanish = rapid.SampledFrom([]int{0, 10, 30}).Draw(t, "vanish")
		failing := true
		c.failAfter = func() time.Duration {
			if failing && c.rng.IntN(4) == 0 {
				return time.Duration(1+c.rng.IntN(10_000)) * time.Millisecond
			}
			return 0
		}
		volume := rapid.SampledFrom([]string{`{"size":100}`, `{"type":"path","size":100}`, `{"type":"mount","size":200}`}).Draw(t, "volume")
		version, n := 0, rapid.IntRange(1, 5).Draw(t, "instances")
		c.must(residentApp(version, n, volume))
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			switch rapid.IntRange(0, 6).Draw(t, "what") {
			case 0:
				version++
			case 1:
				n = rapid.IntRange(0, 5).Draw(t, "instances")
			case 2, 3:
				if list := c.m.of("/prod/db"); len(list) > 0 {
					// Whoever kills may go below the bounds, and above them while what was killed is ending.
					c.checkBounds = false
					c.step(KillInstances{IDs: []string{list[c.rng.IntN(len(list))].ID}, Wipe: rapid.Bool().Draw(t, "wipe")})
				}
			case 4:
				c.restart()
			case 5:
				c.failOver(time.Duration(rapid.IntRange(0, 20).Draw(t, "away")) * time.Second)
			case 6:
				if len(c.m.deployments) > 0 {
					c.step(CancelDeployment{ID: c.m.deployments[0].ID, Force: true})
				}
			}
			_, err := c.apply(rapid.Bool().Draw(t, "force"), residentApp(version, n, volume))
			var locked *Locked
			if err != nil && !errors.As(err, &locked) {
				t.Fatalf("%v", err)
			}
			pause := rapid.IntRange(0, 20).Draw(t, "pause")
			c.settle(time.Duration(pause) * time.Second)
			c.checkBounds = c.checkBounds || pause > 5
		}
		failing = false
		// A deployment that was cancelled may have left instances of two definitions: a third one replaces both.
		if _, err := c.apply(true, residentApp(version+1, n, volume)); err != nil {
			t.Fatalf("%v", err)
		}
		if !c.eventually(time.Hour, c.stable) {
			c.dump()
			t.Fatalf("not stable")
		}
		c.removeAndCheck("/prod/db")
	})
}
