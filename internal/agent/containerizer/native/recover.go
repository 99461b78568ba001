package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/launcher"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// Recover implements containerizer.Containerizer. What it finds on disk decides: a directory with a living helper is a
// running container, one without is an ended one. Containers that the agent knows (and what is nested in them, and
// standalone ones) are followed again; the rest is destroyed, and so are cgroups and processes without a directory.
func (c *Containerizer) Recover(ctx context.Context, known []containerizer.Config) ([]ids.Container, error) {
	es, err := os.ReadDir(c.containersDir())
	if err != nil {
		return nil, fmt.Errorf("list the runtime directory: %w", err)
	}
	wanted := make(map[ids.Container]containerizer.Config, len(known))
	for _, k := range known {
		wanted[k.ID] = k
	}
	var orphans []*container
	seen := make(map[ids.Container]bool)
	for _, e := range es {
		id := ids.Container(e.Name())
		if !e.IsDir() || validID(id) != nil {
			continue
		}
		root := ids.Container(parts(id)[0])
		ct, err := c.load(id)
		if err != nil {
			// Cut off before anything was started, or damaged: nothing that runs can be told from it.
			c.log.Warn("a container's record can't be read", "container_id", id, "error", err)
			ct = &container{cfg: containerizer.Config{ID: id}, dir: c.dir(id), ended: make(chan struct{})}
		}
		if k, ok := wanted[id]; ok {
			ct.cfg.Kind = k.Kind
		}
		_, rootKnown := wanted[root]
		keep := err == nil && (rootKnown || c.standalone(root))
		alive := c.adopt(ct)
		if _, nested := containerizer.Parent(id); nested && keep && c.neverBegun(ctx, ct) {
			// Whoever asked for it was not answered and asks again: it must not be in the way.
			keep = false
		}
		c.mu.Lock()
		switch {
		case alive:
			ct.phase = running
			c.containers[id] = ct
			seen[id] = true
			c.metrics.held.Inc()
			if !keep {
				orphans = append(orphans, ct)
			}
			c.follow(ct)
			c.mu.Unlock()
		case keep:
			ct.phase = running // until finish says otherwise
			c.containers[id] = ct
			seen[id] = true
			c.mu.Unlock()
			c.metrics.held.Inc()
			c.settleEnded(ct)
		default:
			c.mu.Unlock()
			if _, ok := wanted[root]; !ok {
				orphans = append(orphans, ct)
			}
			c.killMarked(ct)
			if ct.ownGroup {
				c.release(ct)
			}
			c.dropImages(ct)
			c.mu.Lock()
			c.freeUsers(ct)
			c.freeGPUs(ct)
			c.mu.Unlock()
			c.removeDir(id)
		}
	}
	var gone []ids.Container
	for _, ct := range orphans {
		if ct.phase == running {
			// An error means that it has gone by itself.
			_ = c.Destroy(ctx, ct.cfg.ID)
		}
		if _, ours := wanted[ids.Container(parts(ct.cfg.ID)[0])]; ours { // nested, and never begun
			c.mu.Lock()
			delete(c.containers, ct.cfg.ID)
			c.mu.Unlock()
			c.removeDir(ct.cfg.ID)
			continue
		}
		gone = append(gone, ct.cfg.ID)
	}
	// Known to the agent, but nothing was ever started, or the host has been started anew.
	for id, k := range wanted {
		if !seen[id] {
			ct := &container{cfg: k, dir: c.dir(id), ended: make(chan struct{}), phase: running}
			c.mu.Lock()
			c.containers[id] = ct
			c.mu.Unlock()
			c.metrics.held.Inc()
			c.conclude(ct, containerizer.Termination{Message: "The container's processes are gone"}, true)
		}
	}
	if err := c.sweepScratch(); err != nil {
		return gone, err
	}
	if err := c.sweepNetworks(); err != nil {
		return gone, err
	}
	return gone, c.sweepGroups(ctx)
}

// sweepNetworks leaves the networks of containers that are not held: the agent was killed while it joined or left them. Those
// of running ones are checked, in the background.
func (c *Containerizer) sweepNetworks() error {
	if c.networks == nil {
		return nil
	}
	in, err := c.networks.Containers()
	if err != nil {
		return fmt.Errorf("list container networks: %w", err)
	}
	var alive []string
	for _, id := range in {
		if c.runs(ids.Container(id)) {
			alive = append(alive, id)
			continue
		}
		if err := c.networks.Detach(context.WithoutCancel(c.ctx), id); err != nil {
			c.log.Error("an orphaned network can't be deleted yet", "container_id", id, "error", err)
		}
	}
	c.wg.Go(func() {
		for _, id := range alive {
			if err := c.networks.Verify(c.ctx, id); err != nil && !errors.Is(err, fs.ErrNotExist) && c.ctx.Err() == nil {
				c.log.Error("a running container's network is damaged: restart its task", "container_id", id, "error", err)
			}
		}
	})
	return nil
}

// neverBegun: the agent ended before it told the container's helper to go on. A helper that still runs is about to find out.
func (c *Containerizer) neverBegun(ctx context.Context, ct *container) bool {
	const patience = 200 // times 5 ms; a helper that somebody has stopped does not count as begun
	for i := 0; ; i++ {
		for _, f := range []string{spec.BegunFile, spec.StatusFile, terminationFile} {
			if _, err := os.Stat(filepath.Join(ct.dir, f)); err == nil {
				return false
			}
		}
		if ct.helper == nil || i == patience || ctx.Err() != nil {
			return true
		}
		soon, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
		err := ct.helper.Wait(soon)
		cancel()
		if err == nil {
			i = patience - 1 // gone: what it wrote is there
		}
	}
}

// standalone reports whether a root container on disk is one that an operator launched.
func (c *Containerizer) standalone(root ids.Container) bool {
	var r record
	return spec.Read(c.dir(root), configFile, &r) == nil && r.Kind == containerizer.Standalone
}

// load reads what is on disk of a container.
func (c *Containerizer) load(id ids.Container) (*container, error) {
	var r record
	if err := spec.Read(c.dir(id), configFile, &r); err != nil {
		return nil, err
	}
	if r.ID != id {
		return nil, fmt.Errorf("the record is container %q's", r.ID)
	}
	cfg, err := r.config()
	if err != nil {
		return nil, err
	}
	ct := &container{cfg: cfg, dir: c.dir(id), token: r.Token, ownGroup: r.OwnGroup && c.groups != nil, volumes: r.Volumes, network: r.Network, layers: r.Layers, users: r.Users, gpus: r.GPUs, ended: make(chan struct{})}
	if c.users != nil && ct.users != 0 {
		c.mu.Lock()
		c.users.mark(ct.users, true)
		c.mu.Unlock()
	}
	if c.gpus != nil {
		c.mu.Lock()
		for _, g := range ct.gpus {
			c.gpus.taken[g] = true
		}
		c.mu.Unlock()
	}
	if c.images != nil && len(r.Layers) > 0 {
		ct.releases = append(ct.releases, c.images.Hold(r.Layers))
	}
	if c.networks != nil && ct.network {
		if ct.joined, err = c.networks.Find(string(id)); err != nil {
			c.log.Error("a container's network can't be read", "container_id", id, "error", err)
		}
	}
	if c.groups != nil {
		if ct.ownGroup {
			ct.group = c.groups.Open(parts(id)...)
		} else if p, ok := containerizer.Parent(id); ok {
			ct.group = c.ancestorGroup(p)
		}
	}
	return ct, nil
}

// ancestorGroup finds the group that a nested container shares.
func (c *Containerizer) ancestorGroup(id ids.Container) *cgroup.Group {
	for {
		var r record
		if spec.Read(c.dir(id), configFile, &r) == nil && r.OwnGroup {
			return c.groups.Open(parts(id)...)
		}
		p, ok := containerizer.Parent(id)
		if !ok {
			return nil
		}
		id = p
	}
}

// adopt takes over a living helper.
func (c *Containerizer) adopt(ct *container) bool {
	if _, err := os.Stat(filepath.Join(ct.dir, terminationFile)); err == nil {
		return false
	}
	h, err := c.launch.Adopt(ct.dir)
	if err != nil {
		if !errors.Is(err, launcher.ErrGone) {
			c.log.Warn("a container's helper can't be found again", "container_id", ct.cfg.ID, "error", err)
		}
		return false
	}
	if ct.cfg.Kind == containerizer.Session || !ct.cfg.Checkpoint && ct.token != "" {
		// It ends with the agent that started it; perhaps it is only slower than we are.
		_ = h.Signal(syscall.SIGTERM)
	}
	ct.helper = h
	return true
}

// settleEnded concludes a container that ended while there was no agent.
func (c *Containerizer) settleEnded(ct *container) {
	var e ending
	if spec.Read(ct.dir, terminationFile, &e) == nil {
		if t, err := e.termination(); err == nil {
			c.conclude(ct, t, true)
			return
		}
	}
	c.finish(ct)
}

// runs reports whether a container is held and has not ended.
func (c *Containerizer) runs(id ids.Container) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	ct := c.containers[id]
	return ct != nil && ct.phase != gone
}

// sweepGroups removes those of our cgroups whose containers do not run: somebody deleted the runtime directory under them, or
// they could not be removed when their container ended. Other agents' groups below the same root are not ours to touch.
func (c *Containerizer) sweepGroups(ctx context.Context) error {
	if c.groups == nil {
		return nil
	}
	names, err := c.groups.List()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list cgroups: %w", err)
	}
	for _, n := range names {
		if c.runs(ids.Container(n)) || strings.Contains(n, ".") {
			continue
		}
		g := c.groups.Open(n)
		for range 200 {
			if len(g.Procs()) > 0 {
				g.Kill()
			}
			if err = g.Remove(); err == nil || ctx.Err() != nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		if err != nil {
			c.log.Warn("an orphaned cgroup can't be removed", "cgroup", g.Name(), "error", err)
		}
	}
	return nil
}
