package marathon

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

// TestFailOver runs two processes on a real ZooKeeper: when the leader goes in the middle of a deployment the other one
// carries it on, and tasks and their health are as they were.
func TestFailOver(t *testing.T) {
	t.Parallel()
	ensemble := zktest.Shared(t)
	fm := newFakeMaster(t)
	fm.serve = ok
	target := fmt.Sprintf("zk://%s/marathon-%s-%d", ensemble.Nodes[0].Client, strings.ToLower(t.Name()), time.Now().UnixNano())
	args := []string{"--zk=" + target, "--zk_session_timeout=4000"}
	first := start(t, testConfig(t, fm.address(), args...), Deps{})
	eventually(t, "the first leads", func() bool { return first.m.current.Load() != nil })
	second := start(t, testConfig(t, fm.address(), args...), Deps{})
	second.want(201, "POST", "/v2/apps", `{"id":"/web","cmd":"serve","cpus":0.1,"instances":4,"healthChecks":[{"intervalSeconds":1,"gracePeriodSeconds":5}]}`)
	healthy := func() int {
		var a struct{ App struct{ TasksHealthy int } }
		second.get("/v2/apps/web", &a)
		return a.App.TasksHealthy
	}
	eventually(t, "4 healthy", func() bool { return healthy() == 4 && second.idle() })
	fm.mu.Lock()
	fm.cpus = 0.1 // the next deployment has to wait
	fm.mu.Unlock()
	second.want(200, "PUT", "/v2/apps/web", `{"instances":6}`)
	before := fm.running()
	first.stop()
	eventually(t, "the second leads", func() bool { return second.m.current.Load() != nil && second.m.Leader() == second.m.Address() })
	if n := healthy(); n != 4 {
		t.Errorf("%d healthy right after the fail-over, want 4", n)
	}
	if second.idle() {
		t.Error("the deployment was lost")
	}
	fm.mu.Lock()
	fm.cpus = 1000
	clear(fm.offers)
	fm.wanted = true
	fm.offer()
	fm.mu.Unlock()
	eventually(t, "6 run", func() bool { return len(fm.running()) == 6 && second.idle() })
	now := strings.Join(fm.running(), " ")
	for _, id := range before {
		if !strings.Contains(now, id) {
			t.Errorf("%s was lost by the fail-over", id)
		}
	}
	fm.mu.Lock()
	defer fm.mu.Unlock()
	if len(fm.launched) != 6 {
		t.Errorf("%d starts, want 6", len(fm.launched))
	}
}
