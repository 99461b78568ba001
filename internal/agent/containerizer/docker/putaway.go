package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// askLimit bounds one attempt to put a container away.
const askLimit = 20 * time.Second

// subject is a container that is to be put away.
type subject struct {
	container ids.Container
	name      string   // in the Engine; looked up when id is not known
	id        string   // what the Engine calls it
	groups    []string // its control groups, if they were ever seen
	volumes   []string // those made for it alone; nil: not known
	settled   bool     // somebody has just looked: nothing of it runs
}

// still reports whether it is certain that nothing of the container runs: its control groups, which bear its ID, have gone.
func (s *subject) still() bool {
	return len(s.groups) > 0 && !slices.ContainsFunc(s.groups, func(dir string) bool {
		_, err := os.Lstat(dir)
		return err == nil
	})
}

// putAway ends what runs of a container and removes it, or lets its removal come later. What the Engine says is not enough: one
// that was stopped in the middle of a start takes a container that runs for one which was never started, and removes it without
// ending anything. So the kernel is asked as well, and first: as long as the Engine has the container, a later agent process finds
// it there.
func (c *Containerizer) putAway(s *subject, remove bool) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), askLimit)
	defer cancel()
	if s.id == "" {
		there, err := c.identify(ctx, s.container, s.name)
		switch {
		case errors.Is(err, errStranger), err == nil && there == "":
			c.removeVolumes(ctx, s.volumes)
			c.doubt() // it was never made; or it has been removed, perhaps without its volumes; or it is still being made
			return nil
		case err != nil:
			return err
		}
		s.id = there
	}
	certain := s.still()
	if !certain && !s.settled {
		if err := c.end(ctx, s); err != nil {
			return err
		}
	}
	if !remove {
		s.settled = true
		c.later(s, c.cfg.RemoveDelay)
		return nil
	}
	if s.volumes == nil {
		r, err := c.api.ContainerInspect(ctx, s.id, client.ContainerInspectOptions{})
		if err != nil && !cerrdefs.IsNotFound(err) { // one that is not there may have left them: see below
			return c.engineError("look for the container's volumes", err)
		}
		s.volumes = c.own(r.Container.Mounts)
	}
	_, err = c.api.ContainerRemove(ctx, s.id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if cerrdefs.IsNotFound(err) {
		c.doubt() // who has removed it may have left its volumes
	}
	// A conflict: somebody else is removing it.
	if err != nil && !cerrdefs.IsNotFound(err) && (!cerrdefs.IsConflict(err) || !strings.Contains(err.Error(), "already in progress")) {
		s.settled = false // whatever has happened to the Engine may have happened to the container
		return c.engineError("remove the container", err)
	}
	c.removeVolumes(ctx, s.volumes)
	switch {
	case !certain:
		c.doubt() // what was begun may yet come: it stays in the ledger until somebody has looked once more
	case !s.still():
		return errors.New("the container was started again while it was being removed")
	default:
		if err := c.ledger.strike(s.id); err != nil {
			c.log.Warn("cannot forget a container", "container_id", s.container, "error", err)
		}
	}
	return nil
}

// errStranger: the container of that name is not the one that is meant.
var errStranger = errors.New("somebody else has a container of the name")

// identify gives what the Engine calls our container of a name; nothing if it has none.
func (c *Containerizer) identify(ctx context.Context, id ids.Container, name string) (string, error) {
	r, err := c.api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	switch {
	case cerrdefs.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", c.engineError("look for the container", err)
	case r.Container.Config == nil || r.Container.Config.Labels[labelAgent] != c.mark || r.Container.Config.Labels[labelContainer] != string(id):
		return "", fmt.Errorf("%w %s", errStranger, name)
	}
	return r.Container.ID, nil
}

// end ends what runs of a container: through the Engine, and past it where the Engine does not answer or does not know.
func (c *Containerizer) end(ctx context.Context, s *subject) error {
	_, err := c.api.ContainerKill(ctx, s.id, client.ContainerKillOptions{Signal: "KILL"})
	known := err == nil
	if err != nil && !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err) { // a conflict: to the Engine it does not run
		if killed, kerr := c.remains.Kill(s.id); kerr != nil || len(killed) > 0 {
			c.log.Warn("killed a docker container's processes past the Engine, which does not end them", "container_id", s.container, "processes", killed, "error", errors.Join(err, kerr))
		}
		return c.engineError("kill the container", err)
	}
	did, err := c.remains.End(ctx, s.id, known)
	if len(did.Shims) > 0 || len(did.Processes) > 0 && !known {
		c.log.Warn("ended a docker container that the Engine did not know to run", "container_id", s.container, "engine_id", s.id,
			"processes", did.Processes, "shims", did.Shims, "cgroups", len(did.Groups))
	}
	return err
}

// place remembers where a running container's control groups are.
func (c *Containerizer) place(ct *container) {
	var st spec.DockerState
	if inside(ct.cfg.Kind) || c.host == nil || spec.Read(ct.dir, spec.DockerFile, &st) != nil || st.PID <= 0 || st.ID == "" {
		return
	}
	g, err := cgroup.Foreign(c.host, st.PID)
	if err != nil {
		return // it has ended
	}
	var groups []string
	for _, dir := range g.Views() {
		if strings.Contains(dir, st.ID) && !slices.Contains(groups, dir) { // else another process has its number by now
			groups = append(groups, dir)
		}
	}
	if !(&subject{groups: groups}).still() { // else they are not to be seen from here
		c.mu.Lock()
		ct.groups = groups
		c.mu.Unlock()
	}
}

// alone runs f in the background unless something is being done about that container already.
func (c *Containerizer) alone(engineID string, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving[engineID] {
		return
	}
	c.leaving[engineID] = true
	c.wg.Go(func() {
		f()
		c.mu.Lock()
		delete(c.leaving, engineID)
		c.mu.Unlock()
	})
}

// retry puts a container away when the Engine answers again.
func (c *Containerizer) retry(s *subject, remove bool) {
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		select {
		case <-c.ctx.Done():
			return // the next agent process finds it by its label, or in the ledger
		case <-time.After(pause):
		}
		if c.putAway(s, remove) == nil {
			return
		}
	}
}

// later removes an ended container after a while. A restart of the agent finds it by its label.
func (c *Containerizer) later(s *subject, delay time.Duration) {
	c.alone(s.id, func() {
		select {
		case <-c.ctx.Done():
		case <-time.After(delay):
			if c.putAway(s, true) != nil {
				c.retry(s, true)
			}
		}
	})
}
