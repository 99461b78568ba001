package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/core"
	"github.com/orchestrator/orchestrator/internal/agent/execlink"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// containers carries out what the core wants of containers, each in a goroutine of its own, and tells it what came of it.
type containers struct {
	a     *Agent
	boxes containerizer.Containerizer
	wg    sync.WaitGroup

	mu        sync.Mutex
	launching map[ids.Container]context.CancelFunc
	limits    map[ids.Container]*limiting
	closed    bool
}

// limiting is a change of limits under way, and the one that shall follow it.
type limiting struct{ next *core.Limit }

func newContainers(a *Agent, boxes containerizer.Containerizer) *containers {
	return &containers{a: a, boxes: policed{boxes, a.cfg.policy()}, launching: map[ids.Container]context.CancelFunc{}, limits: map[ids.Container]*limiting{}}
}

// start runs f unless the agent is stopping.
func (c *containers) start(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.wg.Go(f)
	}
}

// close waits for what is under way; their contexts have ended.
func (c *containers) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.wg.Wait()
}

// recover asks the containerizers for the containers of an earlier process, and marks in boot which are there.
func (c *containers) recover(ctx context.Context, boot *core.Boot, known []containerizer.Config) error {
	orphans, err := c.boxes.Recover(ctx, known)
	if err != nil {
		return fmt.Errorf("recover containers: %w", err)
	}
	completed := map[ids.Container]bool{}
	for _, f := range boot.Frameworks {
		for _, r := range f.Runs {
			completed[r.Container] = r.Completed
		}
	}
	for _, id := range orphans {
		if !completed[rootOf(id)] {
			c.a.log.Warn("destroyed a container that no checkpoint speaks of", "container_id", id)
		}
	}
	alive := map[ids.Container]bool{}
	for _, info := range c.boxes.Containers() {
		alive[info.ID] = true // one that has ended meanwhile tells so in Wait
	}
	for i := range boot.Frameworks {
		for j := range boot.Frameworks[i].Runs {
			r := &boot.Frameworks[i].Runs[j]
			r.Alive = !r.Completed && alive[r.Container] && !boot.Rebooted
		}
	}
	return nil
}

// launch makes the sandbox and starts the container.
func (c *containers) launch(ctx context.Context, l core.Launch) {
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	c.launching[l.Run.Container] = cancel
	c.mu.Unlock()
	c.start(func() {
		defer cancel()
		begin := time.Now()
		err := c.prepare(l)
		if err == nil {
			err = c.boxes.Launch(ctx, c.a.containerConfig(c.a.agentID(), l))
		}
		c.mu.Lock()
		delete(c.launching, l.Run.Container)
		c.mu.Unlock()
		if err != nil {
			if ctx.Err() != nil && c.stopping() {
				return // the next process finds out what became of it
			}
			c.a.log.Warn("cannot launch a container", "container_id", l.Run.Container, "executor_id", l.Run.Executor, "err", err)
			_ = c.a.post(context.Background(), core.Launched{Run: l.Run, Err: err})
			return
		}
		c.a.metrics.launches.Observe(time.Since(begin))
		status, err := c.boxes.Status(l.Run.Container)
		if err != nil {
			status = nil // it has ended already: Wait tells
		}
		if c.a.post(context.Background(), core.Launched{Run: l.Run, Status: c.withAddress(status, l.Executor.GetContainer())}) != nil {
			return
		}
		c.await(context.WithoutCancel(ctx), l.Run)
	})
}

func (c *containers) stopping() bool {
	select {
	case <-c.a.stopped:
		return true
	default:
		return false
	}
}

// withAddress adds the agent's address for containers that share its network, as Mesos does.
func (c *containers) withAddress(s *mesosv1.ContainerStatus, info *mesosv1.ContainerInfo) *mesosv1.ContainerStatus {
	if s == nil {
		s = &mesosv1.ContainerStatus{}
	}
	if len(s.GetNetworkInfos()) > 0 || len(info.GetNetworkInfos()) > 0 {
		return s
	}
	ip := c.a.ip()
	s = s.CloneVT()
	s.NetworkInfos = []*mesosv1.NetworkInfo{{IpAddresses: []*mesosv1.NetworkInfo_IPAddress{{IpAddress: &ip}}}}
	return s
}

func (c *containers) prepare(l core.Launch) error {
	if err := makeSandbox(l.Directory, l.User); err != nil {
		return &containerizer.LaunchError{Reason: mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED, Message: err.Error()}
	}
	if err := linkLatest(l.Directory); err != nil {
		c.a.log.Warn("cannot link the latest run", "directory", l.Directory, "err", err)
	}
	c.a.gc.attach(onDisk(c.a.agentID(), l.Run), l.Directory)
	return nil
}

// watch waits for a container of an earlier process.
func (c *containers) watch(_ context.Context, run core.Run) {
	c.start(func() { c.await(context.Background(), run) })
}

// await tells the owner how a container ended. It ends with the agent.
func (c *containers) await(ctx context.Context, run core.Run) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-c.a.stopped:
			cancel()
		case <-ctx.Done():
		}
	}()
	end, err := c.boxes.Wait(ctx, run.Container)
	if err != nil && ctx.Err() != nil {
		return
	}
	_ = c.a.post(ctx, core.Ended{Run: run, Termination: end, Err: err})
}

// limit changes what a container may use. While one change is under way only the latest wish waits.
func (c *containers) limit(ctx context.Context, l core.Limit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := l.Run.Container
	if busy := c.limits[id]; busy != nil {
		busy.next = &l
		return
	}
	if c.closed {
		return
	}
	busy := &limiting{next: &l}
	c.limits[id] = busy
	c.wg.Go(func() {
		for {
			c.mu.Lock()
			next := busy.next
			busy.next = nil
			if next == nil {
				delete(c.limits, id)
				c.mu.Unlock()
				return
			}
			c.mu.Unlock()
			err := c.boxes.Update(ctx, id, next.Resources, next.Limits)
			if err != nil && !errors.Is(err, containerizer.ErrNotFound) && ctx.Err() == nil {
				_ = c.a.post(ctx, core.UpdateFailed{Run: next.Run, Err: err})
			}
		}
	})
}

// destroy kills a container until that works. A launch under way is aborted.
func (c *containers) destroy(ctx context.Context, d core.Destroy) {
	c.mu.Lock()
	if cancel := c.launching[d.Run.Container]; cancel != nil {
		cancel()
	}
	c.mu.Unlock()
	c.start(func() {
		wait := 100 * time.Millisecond
		for {
			err := c.boxes.Destroy(ctx, d.Run.Container)
			if err == nil || ctx.Err() != nil {
				return
			}
			if errors.Is(err, containerizer.ErrNotFound) {
				c.mu.Lock()
				_, launching := c.launching[d.Run.Container]
				c.mu.Unlock()
				if !launching {
					// Gone without anybody waiting for it. If Wait has told, this is not news.
					_ = c.a.post(ctx, core.Ended{Run: d.Run, Err: err})
				}
				return
			}
			c.a.log.Error("cannot destroy a container; trying again", "container_id", d.Run.Container, "reason", d.Reason, "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
				wait = min(2*wait, 10*time.Second)
			}
		}
	})
}

// find gives a held container.
func (c *containers) find(id ids.Container) (containerizer.Info, bool) {
	for _, info := range c.boxes.Containers() {
		if info.ID == id {
			return info, true
		}
	}
	return containerizer.Info{}, false
}

// nested describes a container below another one: what it does not say is its parent's.
func (c *containers) nested(id ids.Container, kind containerizer.Kind, cmd *mesosv1.CommandInfo, info *mesosv1.ContainerInfo, task *mesosv1.TaskInfo) (containerizer.Config, error) {
	at := strings.LastIndexByte(string(id), '.')
	if at < 0 {
		return containerizer.Config{}, fmt.Errorf("container %s has no parent", id)
	}
	parentID, own := id[:at], string(id[at+1:])
	parent, ok := c.find(parentID)
	if !ok || parent.Ended {
		return containerizer.Config{}, fmt.Errorf("container %s: %w", parentID, containerizer.ErrNotFound)
	}
	cfg := containerizer.Config{
		ID: id, Kind: kind, FrameworkID: parent.FrameworkID, ExecutorID: parent.ExecutorID, User: parent.User, Command: cmd, Container: info,
		Task: task, Checkpoint: parent.Checkpoint, FrameworkCapabilities: parent.FrameworkCapabilities,
		Directory: filepath.Join(parent.Directory, "containers", own),
	}
	if u := cmd.GetUser(); u != "" && os.Geteuid() == 0 && c.a.cfg.SwitchUser {
		cfg.User = u
	}
	env := c.a.baseEnvironment()
	for _, kv := range parent.Environment { // what says whose container this is
		name, value, _ := strings.Cut(kv, "=")
		switch name {
		case "MESOS_FRAMEWORK_ID", "MESOS_EXECUTOR_ID", "MESOS_SLAVE_ID", "MESOS_SLAVE_PID", "MESOS_AGENT_ENDPOINT", "LIBPROCESS_IP", "MESOS_CHECKPOINT", "MESOS_ALLOCATION_ROLE":
			env.set(name, value)
		}
	}
	env.set("MESOS_DIRECTORY", cfg.Directory)
	env.set("MESOS_SANDBOX", seenSandbox(info, cfg.Directory))
	if task != nil {
		cfg.Resources = task.GetResources()
		for name, v := range task.GetLimits() {
			if cfg.Limits == nil {
				cfg.Limits = map[string]float64{}
			}
			cfg.Limits[name] = v.GetValue()
		}
	}
	c.a.taskVariables(env, cfg.Resources)
	if kind == containerizer.Session || kind == containerizer.Check {
		// A debug container sees what its parent's processes see (facts 3.3).
		cfg.Directory = parent.Directory
		env = &environment{}
		for _, kv := range parent.Environment {
			name, value, _ := strings.Cut(kv, "=")
			env.set(name, value)
		}
	}
	env.add(cmd.GetEnvironment())
	cfg.Environment = env.list()
	return cfg, nil
}

// launchForHelper starts the container of a task, or the command of a check, for the default executor.
func (c *containers) launchForHelper(ctx context.Context, p execlink.Peer, l execlink.NestedLaunch) error {
	kind, cmd, info := containerizer.Check, l.Command, (*mesosv1.ContainerInfo)(nil)
	if l.Task != nil {
		kind, cmd, info = containerizer.Nested, l.Task.GetCommand(), l.Task.GetContainer()
	}
	cfg, err := c.nested(l.ContainerID, kind, cmd, info, l.Task)
	if err != nil {
		return err
	}
	if l.Task != nil {
		if err := makeSandbox(cfg.Directory, cfg.User); err != nil {
			return err
		}
		if parent, ok := c.find(p.ContainerID); ok {
			if err := linkTask(parent.Directory, l.Task.GetTaskId().GetValue(), filepath.Base(cfg.Directory)); err != nil {
				c.a.log.Warn("cannot link a task's sandbox", "task_id", l.Task.GetTaskId().GetValue(), "err", err)
			}
		}
	}
	return c.boxes.Launch(ctx, cfg)
}

// wait waits for the end of a nested or standalone container.
func (c *containers) wait(ctx context.Context, id ids.Container) (*agentv1.Response_WaitContainer, error) {
	end, err := c.boxes.Wait(ctx, id)
	if err != nil {
		return nil, err
	}
	out := &agentv1.Response_WaitContainer{ExitStatus: end.WaitStatus, State: end.State, Reason: end.Reason, Limitation: end.Limitation}
	if end.Message != "" {
		out.Message = &end.Message
	}
	return out, nil
}

func (c *containers) signal(id ids.Container, signal int) error {
	if signal < 0 || signal > 64 {
		return fmt.Errorf("%d is no signal", signal)
	}
	if signal == 0 {
		signal = int(syscall.SIGKILL)
	}
	return c.boxes.Signal(id, syscall.Signal(signal))
}

func (c *containers) remove(ctx context.Context, id ids.Container) error {
	return c.boxes.Remove(ctx, id)
}
