package native

import (
	"context"

	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/fetcher"
)

// fetch brings the command's URIs into the sandbox.
func (c *Containerizer) fetch(ctx context.Context, ct *container, who *credentials) error {
	uris := ct.cfg.Command.GetUris()
	if len(uris) == 0 || ct.cfg.Kind == containerizer.Session || ct.cfg.Kind == containerizer.Check {
		return nil
	}
	defer c.stage(ct, "fetch")()
	r := fetcher.Request{Directory: ct.cfg.Directory, User: ct.cfg.User, UID: -1, GID: -1, URIs: uris}
	if who.change {
		r.UID, r.GID = int(who.uid), int(who.gid)
	}
	return c.fetcher.Fetch(ctx, r)
}
