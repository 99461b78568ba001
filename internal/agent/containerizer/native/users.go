package native

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/orchestrator/orchestrator/internal/agent/confine"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/userns"
)

// UserRange are host ids that belong to nobody but this agent's containers.
type UserRange struct{ First, Last uint32 }

// Validate reports what is wrong with a range.
func (r UserRange) Validate() error {
	if r.First == 0 || r.Last < r.First || r.Last-r.First+1 < userns.Count {
		return fmt.Errorf("%d-%d is no range of at least %d ids above 0", r.First, r.Last, userns.Count)
	}
	if r.Last > 1<<31-1 {
		return fmt.Errorf("%d is above 2147483647, beyond which programs mistake ids for negative numbers", r.Last)
	}
	return nil
}

// userPool gives every root container a slice of the range. It goes round, so that what a container leaves somewhere does not soon
// belong to another. The containerizer's lock guards it.
type userPool struct {
	first uint32
	used  []bool
	next  int
}

func newUserPool(r UserRange) *userPool {
	return &userPool{first: r.First, used: make([]bool, (r.Last-r.First+1)/userns.Count)}
}

// take gives the first id of a free slice.
func (p *userPool) take() (uint32, error) {
	for range p.used {
		i := p.next
		p.next = (p.next + 1) % len(p.used)
		if !p.used[i] {
			p.used[i] = true
			return p.first + uint32(i)*userns.Count, nil
		}
	}
	return 0, fmt.Errorf("all %d user namespaces that --user_namespace_range has room for are in use: widen it, or wait", len(p.used))
}

// mark says whether a slice, which may be one of an earlier range, is in use.
func (p *userPool) mark(first uint32, used bool) {
	if first < p.first || (first-p.first)%userns.Count != 0 || int((first-p.first)/userns.Count) >= len(p.used) {
		return
	}
	p.used[(first-p.first)/userns.Count] = used
}

// giveUsers gives a container its users: a slice of its own, or that of the container it is in.
func (c *Containerizer) giveUsers(ct, up *container, s *confine.Settings, who *credentials) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s.Users == confine.New:
		var err error
		if ct.users, err = c.users.take(); err != nil {
			return err
		}
	case up != nil:
		ct.users = up.users
	}
	if ct.users == 0 {
		return nil
	}
	for _, id := range append([]uint32{who.uid, who.gid}, who.groups...) {
		if id >= userns.Count {
			return fmt.Errorf("user %q has the id %d (of itself or a group), which does not exist in a user namespace of %d: run the task as another user, or in the "+
				"host's users with the docker parameter userns=host", ct.cfg.User, id, userns.Count)
		}
	}
	return nil
}

// freeUsers takes a root container's slice back. The lock is held.
func (c *Containerizer) freeUsers(ct *container) {
	if _, nested := containerizer.Parent(ct.cfg.ID); !nested && ct.users != 0 && !ct.stuck && c.users != nil {
		c.users.mark(ct.users, false)
	}
	ct.users = 0
}

// joinUsers makes a process enter the user namespace of the container that it is inside of.
func (c *Containerizer) joinUsers(ct, up *container, upSpec, s *spec.Spec) {
	if ct.users == 0 {
		return
	}
	at := spec.UserNamespace(up.helper.PID)
	if i := slices.IndexFunc(upSpec.Join, func(n spec.Namespace) bool { return n.Kind == "user" }); i >= 0 {
		at = upSpec.Join[i].Path // itself inside of another
	}
	s.Join = append(s.Join, spec.Namespace{Kind: "user", Path: at})
}

// probeUsers says why this host has no user namespaces for containers.
func probeUsers(cfg Config, images Images) error {
	if cfg.OCIRuntime != "" {
		return errors.New("an OCI runtime can't make the root of a container in one: leave --oci_runtime out, and the agent's own helper does")
	}
	if err := cfg.Users.Validate(); err != nil {
		return fmt.Errorf("--user_namespace_range: %w", err)
	}
	if err := os.MkdirAll(cfg.WorkDir, 0o755); err != nil {
		return err
	}
	layers := cfg.WorkDir
	if images != nil {
		layers = images.Dir()
	}
	return userns.Probe(cfg.WorkDir, layers, cfg.Users.First)
}
