package agent

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/checkpoint"
	"github.com/orchestrator/orchestrator/internal/agent/core"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// collector deletes the sandboxes of ended executors: the oldest first, none younger than the allowed age, which shrinks
// as the disk fills (facts 6).
type collector struct {
	a    *Agent
	wake chan struct{}

	mu  sync.Mutex
	old []oldRun // by end, oldest first
	age time.Duration
	// usage gives the used share of the disk.
	usage func() (float64, error)
	now   func() time.Time
}

// oldRun is a sandbox that nobody uses any more.
type oldRun struct {
	run       checkpoint.Run
	directory string
	ended     time.Time
}

func newCollector(a *Agent) *collector {
	g := &collector{a: a, wake: make(chan struct{}, 1), age: a.cfg.GCDelay, now: time.Now}
	if g.usage = a.deps.DiskUsage; g.usage == nil {
		g.usage = func() (float64, error) { return diskUsage(a.cfg.WorkDir) }
	}
	return g
}

func diskUsage(path string) (float64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, err
	}
	if s.Blocks == 0 {
		return 0, nil
	}
	return 1 - float64(s.Bavail)/float64(s.Blocks), nil
}

// attach shows a sandbox under /files.
func (g *collector) attach(r checkpoint.Run, directory string) {
	allow := g.a.allow("access_sandboxes", string(r.Framework))
	g.a.files.Attach(directory, directory, allow)
	g.a.files.Attach(directory, latestPath(r.Framework, r.Executor), allow)
}

// latestPath is the virtual path of an executor's last sandbox.
func latestPath(f ids.Framework, e ids.Executor) string {
	return "/frameworks/" + string(f) + "/executors/" + string(e) + "/runs/latest"
}

// collect takes a run that has ended and owes nothing.
func (g *collector) collect(e core.Collect) {
	r := onDisk(g.a.agentID(), e.Run)
	dir := g.a.layout.Sandbox(r)
	ended := g.now()
	if info, err := os.Stat(filepath.Join(g.a.layout.Meta(), checkpoint.SentinelPath(r))); err == nil && info.ModTime().Before(ended) {
		ended = info.ModTime() // it may have ended in an earlier process
	}
	g.add(oldRun{run: r, directory: dir, ended: ended})
}

func (g *collector) add(o oldRun) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := len(g.old)
	for i > 0 && g.old[i-1].ended.After(o.ended) {
		i--
	}
	g.old = append(g.old, oldRun{})
	copy(g.old[i+1:], g.old[i:])
	g.old[i] = o
}

// adoptStrangers takes the sandboxes of agents that this host was before, under other ids.
func (g *collector) adoptStrangers(own ids.Agent) {
	agents, err := os.ReadDir(filepath.Join(g.a.cfg.WorkDir, "slaves"))
	if err != nil {
		return
	}
	for _, x := range agents {
		if !x.IsDir() || ids.Agent(x.Name()) == own {
			continue
		}
		info, err := x.Info()
		if err != nil {
			continue
		}
		g.add(oldRun{run: checkpoint.Run{Agent: ids.Agent(x.Name())}, directory: g.a.layout.AgentDir(ids.Agent(x.Name())), ended: info.ModTime()})
	}
}

// run looks at the disk until ctx ends.
func (g *collector) run(ctx context.Context) error {
	tick := time.NewTicker(g.a.cfg.WatchInterval)
	defer tick.Stop()
	for {
		g.pass(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-g.wake:
		}
	}
}

// allowedAge is how old an ended sandbox may be with a disk as full as that.
func allowedAge(delay time.Duration, headroom, usage float64) time.Duration {
	return time.Duration(float64(delay) * math.Max(0, 1-headroom-usage))
}

// pass deletes what is too old.
func (g *collector) pass(ctx context.Context) {
	usage, err := g.usage()
	if err != nil {
		g.a.log.Warn("cannot read the usage of the disk", "err", err)
		return
	}
	age := allowedAge(g.a.cfg.GCDelay, g.a.cfg.GCHeadroom, usage)
	g.mu.Lock()
	g.age = age
	g.mu.Unlock()
	g.prune(ctx, age)
}

// prune deletes the sandboxes of executors that ended at least that long ago.
func (g *collector) prune(ctx context.Context, age time.Duration) (deleted, failed int) {
	now := g.now()
	g.mu.Lock()
	n := 0
	for n < len(g.old) && now.Sub(g.old[n].ended) >= age {
		n++
	}
	victims := append([]oldRun(nil), g.old[:n]...)
	g.old = append(g.old[:0:0], g.old[n:]...)
	g.mu.Unlock()
	for i, v := range victims {
		if ctx.Err() != nil {
			for _, left := range victims[i:] {
				g.add(left)
			}
			break
		}
		if g.remove(ctx, v) {
			deleted++
		} else {
			failed++
		}
	}
	return deleted, failed
}

func (g *collector) remove(ctx context.Context, v oldRun) bool {
	if err := os.RemoveAll(v.directory); err != nil {
		g.a.metrics.gcFailed.Inc()
		g.a.log.Error("cannot delete an old sandbox: delete it by hand", "path", v.directory, "err", err)
		return false
	}
	g.a.metrics.gcDone.Inc()
	if v.run.Container == "" { // a whole agent that was
		if err := os.RemoveAll(filepath.Join(g.a.layout.Meta(), "slaves", string(v.run.Agent))); err != nil {
			g.a.log.Error("cannot delete an old agent's checkpoint: delete it by hand", "agent_id", v.run.Agent, "err", err)
		}
		return true
	}
	g.a.files.Detach(v.directory)
	// The directories above go with the last run; while there is another one they are not empty, and stay.
	runs := filepath.Dir(v.directory)
	latest := filepath.Join(runs, "latest")
	if target, err := os.Readlink(latest); err == nil && target == filepath.Base(v.directory) {
		_ = os.Remove(latest)
		g.a.files.Detach(latestPath(v.run.Framework, v.run.Executor))
	}
	for dir := runs; len(dir) > len(g.a.layout.AgentDir(v.run.Agent)); dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil {
			break
		}
	}
	_ = g.a.post(ctx, core.Collected{Agent: v.run.Agent, Run: core.Run{Framework: v.run.Framework, Executor: v.run.Executor, Container: v.run.Container}})
	return true
}

// maxAge is what the last pass allowed.
func (g *collector) maxAge() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.age
}
