package native

import (
	"context"
	"fmt"

	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/switchboard"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// Attach implements containerizer.Containerizer: the helper serves the container's input and output, so that attachments
// need nothing of the agent but the way there.
func (c *Containerizer) Attach(ctx context.Context, id ids.Container) (containerizer.Attachment, error) {
	ct, err := c.find(id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	attachable := ct.cfg.Kind == containerizer.Session || ct.cfg.Container.GetTtyInfo() != nil && ct.cfg.Kind != containerizer.Check
	p := ct.phase
	c.mu.Unlock()
	switch {
	case !attachable:
		return nil, fmt.Errorf("container %s: %w", id, containerizer.ErrNotAttachable)
	case p == starting:
		return nil, fmt.Errorf("container %s has not started yet", id)
	case p == gone:
		return nil, fmt.Errorf("container %s has ended", id)
	}
	at, err := switchboard.Attach(ctx, ct.dir)
	if err != nil {
		return nil, fmt.Errorf("attach to container %s: %w", id, err)
	}
	return at, nil
}
