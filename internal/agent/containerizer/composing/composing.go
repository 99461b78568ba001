// Package composing makes one containerizer of several, tried in order.
//
// The agent builds it from --containerizers. A container belongs to the one that launched it, and what is nested in it to the
// same; after a restart each gets those that it claims.
package composing

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// Member is one of the containerizers.
type Member struct {
	Name string
	containerizer.Containerizer
	// Claims says whether a container of an earlier agent process is this one's, whether or not it could be launched today.
	Claims func(containerizer.Config) bool
}

// Containerizer is the composition.
type Containerizer struct{ members []Member }

var _ containerizer.Containerizer = (*Containerizer)(nil)

// New composes containerizers.
func New(members ...Member) *Containerizer { return &Containerizer{members} }

// Recover implements containerizer.Containerizer.
func (c *Containerizer) Recover(ctx context.Context, known []containerizer.Config) ([]ids.Container, error) {
	parts := make([][]containerizer.Config, len(c.members))
	for _, k := range known {
		at := len(c.members) - 1 // whoever is left says that it is gone
		for i, m := range c.members {
			if m.Claims(k) {
				at = i
				break
			}
		}
		parts[at] = append(parts[at], k)
	}
	var orphans []ids.Container
	for i, m := range c.members {
		found, err := m.Recover(ctx, parts[i])
		if err != nil {
			return nil, fmt.Errorf("%s containerizer: %w", m.Name, err)
		}
		orphans = append(orphans, found...)
	}
	return orphans, nil
}

// holder is the member that holds a container.
func (c *Containerizer) holder(id ids.Container) (Member, error) {
	for _, m := range c.members {
		if _, err := m.Status(id); err == nil || !errors.Is(err, containerizer.ErrNotFound) {
			return m, nil
		}
	}
	return Member{}, fmt.Errorf("%w: %s", containerizer.ErrNotFound, id)
}

// choose is the member that launches a container: its parent's, else the first that can.
func (c *Containerizer) choose(cfg containerizer.Config) (Member, error) {
	if root, _, nested := strings.Cut(string(cfg.ID), "."); nested {
		m, err := c.holder(ids.Container(root))
		if err == nil {
			err = m.Supports(cfg)
		}
		return m, err
	}
	var why []string
	for _, m := range c.members {
		err := m.Supports(cfg)
		if err == nil {
			return m, nil
		}
		why = append(why, m.Name+": "+err.Error())
	}
	return Member{}, errors.New("none of this agent's containerizers can launch it: " + strings.Join(why, "; "))
}

// Supports implements containerizer.Containerizer.
func (c *Containerizer) Supports(cfg containerizer.Config) error {
	_, err := c.choose(cfg)
	return err
}

// Launch implements containerizer.Containerizer.
func (c *Containerizer) Launch(ctx context.Context, cfg containerizer.Config) error {
	m, err := c.choose(cfg)
	if err != nil {
		return &containerizer.LaunchError{Reason: mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED, Message: "The container can't be launched", Err: err}
	}
	return m.Launch(ctx, cfg)
}

// Wait implements containerizer.Containerizer.
func (c *Containerizer) Wait(ctx context.Context, id ids.Container) (containerizer.Termination, error) {
	m, err := c.holder(id)
	if err != nil {
		return containerizer.Termination{}, err
	}
	return m.Wait(ctx, id)
}

// Update implements containerizer.Containerizer.
func (c *Containerizer) Update(ctx context.Context, id ids.Container, res []*mesosv1.Resource, limits map[string]float64) error {
	m, err := c.holder(id)
	if err != nil {
		return err
	}
	return m.Update(ctx, id, res, limits)
}

// Signal implements containerizer.Containerizer.
func (c *Containerizer) Signal(id ids.Container, sig syscall.Signal) error {
	m, err := c.holder(id)
	if err != nil {
		return err
	}
	return m.Signal(id, sig)
}

// Destroy implements containerizer.Containerizer.
func (c *Containerizer) Destroy(ctx context.Context, id ids.Container) error {
	m, err := c.holder(id)
	if err != nil {
		return err
	}
	return m.Destroy(ctx, id)
}

// Remove implements containerizer.Containerizer.
func (c *Containerizer) Remove(ctx context.Context, id ids.Container) error {
	m, err := c.holder(id)
	if err != nil {
		return err
	}
	return m.Remove(ctx, id)
}

// Usage implements containerizer.Containerizer.
func (c *Containerizer) Usage(id ids.Container) (*mesosv1.ResourceStatistics, error) {
	m, err := c.holder(id)
	if err != nil {
		return nil, err
	}
	return m.Usage(id)
}

// Status implements containerizer.Containerizer.
func (c *Containerizer) Status(id ids.Container) (*mesosv1.ContainerStatus, error) {
	m, err := c.holder(id)
	if err != nil {
		return nil, err
	}
	return m.Status(id)
}

// Attach implements containerizer.Containerizer.
func (c *Containerizer) Attach(ctx context.Context, id ids.Container) (containerizer.Attachment, error) {
	m, err := c.holder(id)
	if err != nil {
		return nil, err
	}
	return m.Attach(ctx, id)
}

// Containers implements containerizer.Containerizer.
func (c *Containerizer) Containers() []containerizer.Info {
	var out []containerizer.Info
	for _, m := range c.members {
		out = append(out, m.Containers()...)
	}
	return out
}

// Isolation lists what isolates containers here, and what does not, of the member that can tell.
func (c *Containerizer) Isolation() (on []string, off map[string]string) {
	for _, m := range c.members {
		if x, ok := m.Containerizer.(interface {
			Isolation() ([]string, map[string]string)
		}); ok {
			return x.Isolation()
		}
	}
	return nil, nil
}

// Stages implements containerizer.Timed for the members that are.
func (c *Containerizer) Stages(id ids.Container) []containerizer.Stage {
	if m, err := c.holder(id); err == nil {
		if t, ok := m.Containerizer.(containerizer.Timed); ok {
			return t.Stages(id)
		}
	}
	return nil
}
