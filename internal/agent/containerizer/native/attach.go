package native

import (
	"context"

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
	cfg, p := ct.cfg, ct.phase
	c.mu.Unlock()
	return switchboard.Attach(ctx, cfg, ct.dir, p == starting, p == gone)
}
