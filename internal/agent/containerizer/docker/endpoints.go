package docker

import (
	"context"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/orchestrator/orchestrator/internal/ids"
)

// sweepEndpoints takes containers of ours that the Engine does not have any more out of its networks, as an operator would with
// `docker network disconnect --force`: an Engine that is stopped while it starts or removes a container may keep its address, and
// a network with such an endpoint can't be removed. lost are containers that are not held and not in the Engine's list.
func (c *Containerizer) sweepEndpoints(ctx context.Context, lost map[ids.Container]bool) error {
	if len(lost) == 0 {
		return nil
	}
	list, err := c.api.NetworkList(ctx, client.NetworkListOptions{})
	if err != nil {
		return err
	}
	for _, n := range list.Items {
		r, err := c.api.NetworkInspect(ctx, n.ID, client.NetworkInspectOptions{})
		if cerrdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range r.Network.Containers {
			id, ours := strings.CutPrefix(e.Name, namePrefix)
			if !ours || !lost[ids.Container(id)] {
				continue
			}
			if there, err := c.identify(ctx, ids.Container(id), e.Name); err != nil || there != "" {
				continue // the name is a stranger's by now, or it will be looked at again
			}
			_, err := c.api.NetworkDisconnect(ctx, n.ID, client.NetworkDisconnectOptions{Container: e.Name, Force: true})
			if err != nil && !cerrdefs.IsNotFound(err) {
				return err
			}
			c.log.Warn("took a docker container out of its network that the Engine had removed", "container_id", id, "network", n.Name)
		}
	}
	return nil
}
