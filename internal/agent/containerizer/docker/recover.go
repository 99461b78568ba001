package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"syscall"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/launcher"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// firstLook is how long recovery waits for an Engine that does not answer. Helpers do not need it, and orphans can wait.
const firstLook = 10 * time.Second

// Recover implements containerizer.Containerizer. A living helper is a running container, whatever the Engine does; one
// whose helper has gone has ended. What the Engine holds with our mark and nobody knows is an orphan.
func (c *Containerizer) Recover(ctx context.Context, known []containerizer.Config) ([]ids.Container, error) {
	es, err := os.ReadDir(c.containersDir())
	if err != nil {
		return nil, fmt.Errorf("list the runtime directory: %w", err)
	}
	wanted := make(map[ids.Container]containerizer.Config, len(known))
	for _, k := range known {
		wanted[k.ID] = k
	}
	engineIDs, err := c.ledger.all()
	if err != nil {
		return nil, err
	}
	called := make(map[ids.Container]string, len(engineIDs))
	for engineID, id := range engineIDs {
		if _, two := called[id]; two {
			engineID = "" // an earlier one of the same id: the Engine is asked by name
		}
		called[id] = engineID
	}
	var gone []ids.Container
	var orphans []*container
	for _, e := range es {
		id := ids.Container(e.Name())
		if !e.IsDir() || validID(id) != nil {
			continue
		}
		ct := &container{dir: c.dir(id), name: namePrefix + string(id), ended: make(chan struct{}), phase: running}
		var r record
		if err := spec.Read(ct.dir, recordFile, &r); err == nil && r.ID == id {
			ct.name, ct.token = r.Name, r.Token
		} else {
			c.log.Warn("a container's record can't be read", "container_id", id, "error", err)
			r = record{ID: id, Kind: containerizer.CommandTask}
		}
		cfg, keep := wanted[id]
		if !keep {
			cfg = containerizer.Config{ID: id, Kind: r.Kind}
		}
		ct.cfg = cfg
		if c.refLocked(ct) == ct.name { // nobody else knows of it yet
			ct.engineID = called[id]
		}
		ct.memory = c.limits(&cfg).Memory
		if c.groups != nil {
			ct.group = c.groups.Open(string(id))
		}
		h, err := c.launch.Adopt(ct.dir)
		if err != nil && !errors.Is(err, launcher.ErrGone) {
			c.log.Warn("a container's helper can't be found again", "container_id", id, "error", err)
		}
		alive := err == nil
		if alive && (inside(r.Kind) || keep && !cfg.Checkpoint && ct.token != "") {
			_ = h.Signal(syscall.SIGTERM) // it ends with the agent that started it; perhaps it is only slower than we are
		}
		if !keep && !inside(r.Kind) {
			gone = append(gone, id)
		}
		c.metrics.held.Inc()
		c.mu.Lock()
		c.containers[id] = ct
		if alive {
			ct.helper = h
			if !keep {
				orphans = append(orphans, ct)
			}
			c.follow(ct)
		}
		c.mu.Unlock()
		if !alive {
			// Its end is known, or nobody will ever know; either way the Engine may have to be told, which may take a while.
			c.wg.Go(func() {
				c.finish(ct)
				if !keep {
					c.drop(ct)
				}
			})
		}
	}
	for _, ct := range orphans {
		_ = c.Destroy(ctx, ct.cfg.ID) // an error means that it has gone by itself
		c.wg.Go(func() {
			select {
			case <-ct.ended:
				c.drop(ct)
			case <-c.ctx.Done():
			}
		})
	}
	// Known to the agent, but nothing was ever started, or the host has been started anew.
	for id, k := range wanted {
		c.mu.Lock()
		there := c.containers[id] != nil
		ct := &container{cfg: k, dir: c.dir(id), name: namePrefix + string(id), ended: make(chan struct{}), phase: running}
		if !there {
			c.containers[id] = ct
		}
		c.mu.Unlock()
		if !there {
			c.metrics.held.Inc()
			c.conclude(ct, containerizer.Termination{Message: "The container is gone"}, true)
		}
	}
	c.wg.Go(func() { c.collect(c.ctx) })
	c.sweepGroups()
	look, cancel := context.WithTimeout(ctx, firstLook)
	defer cancel()
	found, err := c.sweep(look)
	if err != nil {
		c.log.Warn("Docker does not answer; its containers are looked through when it does, and tasks that need it fail until then", "socket", c.cfg.Socket, "error", err)
	}
	c.wg.Go(func() {
		if err != nil {
			if c.sweepLater(); c.ctx.Err() == nil {
				c.log.Info("Docker answers", "socket", c.cfg.Socket)
			}
		}
		c.lookAgain()
	})
	c.doubt()
	return append(gone, found...), nil
}

// drop forgets a container that nobody will ask about.
func (c *Containerizer) drop(ct *container) {
	c.mu.Lock()
	delete(c.containers, ct.cfg.ID)
	c.mu.Unlock()
	if err := os.RemoveAll(ct.dir); err != nil {
		c.log.Warn("cannot remove a container's runtime directory", "container_id", ct.cfg.ID, "error", err)
	}
}

// sweepLater sweeps as soon as the Engine answers.
func (c *Containerizer) sweepLater() {
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		ctx, cancel := context.WithTimeout(c.ctx, firstLook)
		found, err := c.sweep(ctx)
		cancel()
		if err == nil {
			for _, id := range found {
				c.log.Warn("destroyed a docker container that no checkpoint speaks of", "container_id", id)
			}
			return
		}
		select {
		case <-c.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// doubt makes lookAgain look: the Engine may have begun something of which nobody here will hear.
func (c *Containerizer) doubt() {
	select {
	case c.doubts <- struct{}{}:
	default: // it will look anyway
	}
}

// lookAgain sweeps once more, a while after there was a reason to: what an earlier agent process had asked the Engine for goes on
// there without it, so that a container may come when the first look is over; and an Engine that is stopped in the middle of
// making, starting or removing a container leaves volumes, or what runs of it, or the container, behind. It also sweeps now and
// then without one: nobody says how long an Engine takes.
func (c *Containerizer) lookAgain() {
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-time.After(10 * c.cfg.LateLook):
			c.sweepLater()
			continue
		case <-c.doubts:
		}
		select {
		case <-c.ctx.Done():
			return
		case <-time.After(c.cfg.LateLook):
		}
		c.sweepLater()
	}
}

// held gives the containers that this process holds, by what the Engine calls them, or by id as long as that is not known. Their end
// is not a sweep's affair.
func (c *Containerizer) held() map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]bool, len(c.containers))
	for id, ct := range c.containers {
		switch {
		case ct.phase == gone || inside(ct.cfg.Kind):
		case c.refLocked(ct) == ct.name:
			out[string(id)] = true
		default:
			out[ct.engineID] = true
		}
	}
	return out
}

// lost gives the containers that are known to be gone and are not in the Engine's list: those of the ledger, and those that have ended
// here not long ago.
func (c *Containerizer) lost(mine map[string]ids.Container, list []dcontainer.Summary) map[ids.Container]bool {
	out := map[ids.Container]bool{}
	for _, id := range mine {
		out[id] = true
	}
	c.mu.Lock()
	for _, id := range c.ended {
		if ct := c.containers[id]; ct != nil && ct.phase == gone && !inside(ct.cfg.Kind) {
			out[id] = true
		}
	}
	c.mu.Unlock()
	for _, x := range list {
		delete(out, ids.Container(x.Labels[labelContainer]))
	}
	return out
}

// sweep looks through the Engine's containers with our mark: those that run and are not held are orphans, those that have
// ended are removed when their time is over. And it looks for what runs of containers that the Engine does not know, or takes for
// ended.
func (c *Containerizer) sweep(ctx context.Context) ([]ids.Container, error) {
	held := c.held() // also those that end while we look
	mine, err := c.ledger.all()
	if err != nil {
		return nil, err
	}
	list, err := c.api.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: client.Filters{}.Add("label", labelAgent+"="+c.mark),
	})
	if err != nil {
		return nil, err
	}
	here, err := c.remains.Look()
	if err != nil {
		return nil, err
	}
	maps.Copy(held, c.held()) // and those that have begun
	var orphans []ids.Container
	for _, x := range list.Items {
		delete(mine, x.ID)
		id := ids.Container(x.Labels[labelContainer])
		if held[x.ID] || held[string(id)] {
			continue
		}
		s := &subject{container: id, id: x.ID, volumes: c.own(x.Mounts)}
		runs := x.State == dcontainer.StateRunning || x.State == dcontainer.StatePaused || x.State == dcontainer.StateRestarting
		switch remove := c.cfg.RemoveDelay <= 0 || x.State == dcontainer.StateCreated; {
		case runs && c.cfg.KeepOrphans:
			c.mu.Lock()
			told := c.spared[x.ID]
			c.spared[x.ID] = true
			c.mu.Unlock()
			if !told {
				c.log.Warn("left a docker container alone that no checkpoint speaks of (--no-docker_kill_orphans)", "container_id", id)
			}
		case runs || len(here[x.ID].Processes) > 0:
			orphans = append(orphans, id)
			c.alone(x.ID, func() {
				if c.putAway(s, remove) != nil {
					c.retry(s, remove)
				}
			})
		case x.State == dcontainer.StateCreated:
			c.later(s, 0)
		default:
			s.settled = true
			c.later(s, c.remaining(ctx, x.ID))
		}
	}
	maps.DeleteFunc(mine, func(engineID string, id ids.Container) bool { return held[engineID] || held[string(id)] })
	if err := c.sweepEndpoints(ctx, c.lost(mine, list.Items)); err != nil {
		return orphans, err
	}
	for engineID, id := range mine {
		if here[engineID].Nothing() {
			if err := c.ledger.strike(engineID); err != nil {
				c.log.Warn("cannot forget a container", "container_id", id, "error", err)
			}
			continue
		}
		if len(here[engineID].Processes) > 0 {
			orphans = append(orphans, id)
		}
		s := &subject{container: id, id: engineID}
		c.alone(engineID, func() {
			if c.putAway(s, true) != nil {
				c.retry(s, true)
			}
		})
	}
	return orphans, c.sweepVolumes(ctx)
}

// remaining is how much of its time an ended container has left.
func (c *Containerizer) remaining(ctx context.Context, id string) time.Duration {
	r, err := c.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil || r.Container.State == nil {
		return 0
	}
	at, err := time.Parse(time.RFC3339Nano, r.Container.State.FinishedAt)
	if err != nil {
		return 0
	}
	return max(0, c.cfg.RemoveDelay-time.Since(at))
}

// sweepGroups removes the control groups of helpers that are not there any more.
func (c *Containerizer) sweepGroups() {
	if c.groups == nil {
		return
	}
	names, err := c.groups.List()
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.log.Warn("cannot list control groups", "error", err)
		}
		return
	}
	for _, n := range names {
		c.mu.Lock()
		held := c.containers[ids.Container(n)] != nil
		c.mu.Unlock()
		if !held {
			_ = c.groups.Open(n).Remove() // not empty: somebody else's, whose mark the kernel does not keep
		}
	}
}
