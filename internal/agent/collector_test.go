package agent

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/wire"
)

func TestAllowedAge(t *testing.T) {
	t.Parallel()
	week := 7 * 24 * time.Hour
	for _, c := range []struct {
		headroom, usage float64
		want            time.Duration
	}{{0.1, 0, week * 9 / 10}, {0.1, 0.4, week / 2}, {0.1, 0.9, 0}, {0.1, 1, 0}, {0, 0, week}} {
		got := allowedAge(week, c.headroom, c.usage)
		if d := got - c.want; d > time.Second || d < -time.Second {
			t.Errorf("headroom %v, usage %v: %v, want %v", c.headroom, c.usage, got, c.want)
		}
	}
}

// oneEndsOneGoesOn runs the executors e1, which ends, and e2, which does not, and gives their sandboxes.
func (h *harness) oneEndsOneGoesOn() (dirs []string) {
	h.t.Helper()
	h.registered()
	for _, executor := range []string{"e1", "e2"} {
		c := h.run(customTask("t-"+executor, executor))
		dirs = append(dirs, c.Directory)
		x := h.executor(executor, wire.Protobuf)
		x.expect(executorv1.Event_SUBSCRIBED)
		x.expect(executorv1.Event_LAUNCH)
		if err := x.update(x.status("t-"+executor, finished)); err != nil {
			h.t.Fatal(err)
		}
		h.master.update("t-"+executor, finished)
		if executor == "e1" {
			_ = h.boxes.finish(c.ID, 0)
		}
	}
	synctest.Wait()
	return dirs
}

// The sandbox of an ended executor stays for its time, less when the disk is full, and its checkpoint goes with it.
func TestOldSandboxesAreDeleted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var full atomic.Bool
		h := newHarness(t, func(_ *Config, d *Deps) {
			d.DiskUsage = func() (float64, error) {
				if full.Load() {
					return 0.89, nil // an hour and a half is left of the week
				}
				return 0.3, nil
			}
		})
		dirs := h.oneEndsOneGoesOn()
		exists := func(path string) bool { _, err := os.Lstat(path); return err == nil }
		meta := h.dir + "/work/meta/slaves/m-S0/frameworks/m-0000/executors/"
		time.Sleep(24 * time.Hour) // the bubble's time
		synctest.Wait()
		if !exists(dirs[0]) || !exists(meta+"e1") {
			t.Fatal("the sandbox went before its time")
		}
		if resp, body := h.do("POST", "/sandboxes/prune?older_than=2days", nil, nil); resp.StatusCode != 200 || string(body) != `{"deleted":0,"failed":0}` {
			t.Errorf("prune what is older: %d %s", resp.StatusCode, body)
		}
		if resp, body := h.do("POST", "/sandboxes/prune?older_than=soon", nil, nil); resp.StatusCode != 400 {
			t.Errorf("prune with rubbish: %d %s", resp.StatusCode, body)
		}
		full.Store(true)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if exists(dirs[0]) || exists(filepath.Dir(filepath.Dir(dirs[0]))) || exists(meta+"e1") {
			t.Error("the sandbox or its checkpoint is left on a full disk")
		}
		if !exists(dirs[1]) || !exists(meta+"e2") {
			t.Error("the sandbox of a running executor was deleted")
		}
		if resp, _ := h.get("/files/browse?path=" + dirs[0]); resp.StatusCode != 404 {
			t.Errorf("browse of a deleted sandbox: %d", resp.StatusCode)
		}
	})
}

// POST /sandboxes/prune deletes at once what nobody uses any more, and nothing else.
func TestPrune(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHarness(t, func(_ *Config, d *Deps) { d.DiskUsage = func() (float64, error) { return 0.1, nil } })
		dirs := h.oneEndsOneGoesOn()
		if resp, body := h.do("POST", "/sandboxes/prune", nil, nil); resp.StatusCode != 200 || string(body) != `{"deleted":1,"failed":0}` {
			t.Errorf("prune: %d %s", resp.StatusCode, body)
		}
		for i, want := range []bool{false, true} {
			if _, err := os.Lstat(dirs[i]); (err == nil) != want {
				t.Errorf("%s: %v", dirs[i], err)
			}
		}
		if resp, _ := h.get("/sandboxes/prune"); resp.StatusCode != 405 {
			t.Errorf("GET: %d", resp.StatusCode)
		}
		// Prometheus is told of the one that runs, and how many more there are.
		_, body := h.get("/metrics")
		for _, want := range []string{`orchestrator_agent_container_memory_bytes{container_id=`, `executor_id="e2"`, "orchestrator_agent_containers_unmeasured 0"} {
			if !strings.Contains(string(body), want) {
				t.Errorf("/metrics has no %s", want)
			}
		}
		if strings.Contains(string(body), `executor_id="e1"`) {
			t.Error("/metrics tells of a container that has ended")
		}
	})
}
