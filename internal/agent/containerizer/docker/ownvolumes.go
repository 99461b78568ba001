package docker

import (
	"context"
	"crypto/rand"
	"maps"
	"path"
	"slices"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	dcontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
)

// sign names the volumes that the Engine makes for this container alone, also those that the image wants, and labels them. The
// Engine's own names would do, and it would remove what has them with the container; but one that is stopped while it makes or
// removes a container forgets it, and sometimes the labels of the volume as well, and then nothing but the name tells whose it is.
// The names, which are given to nothing else, are returned: putAway removes those volumes.
func (p *plan) sign(wanted map[string]struct{}, prefix string, labels map[string]string) []string {
	taken := map[string]bool{}
	for _, b := range p.host().Binds {
		if f := strings.Split(b, ":"); len(f) > 1 {
			taken[path.Clean(f[1])] = true
		}
	}
	for at := range p.host().Tmpfs {
		taken[path.Clean(at)] = true
	}
	for _, m := range p.host().Mounts {
		taken[path.Clean(m.Target)] = true
	}
	for _, at := range slices.Sorted(maps.Keys(wanted)) {
		if path.IsAbs(at) && !taken[path.Clean(at)] && len(p.host().VolumesFrom) == 0 {
			p.anonymous(path.Clean(at), false)
		}
	}
	names := []string{}
	for i := range p.host().Mounts {
		m := &p.host().Mounts[i]
		if m.Type != mount.TypeVolume || m.Source != "" {
			continue
		}
		if m.VolumeOptions == nil {
			m.VolumeOptions = &mount.VolumeOptions{}
		}
		if m.VolumeOptions.Labels == nil {
			m.VolumeOptions.Labels = map[string]string{}
		}
		maps.Copy(m.VolumeOptions.Labels, labels)
		m.Source = prefix + strings.ToLower(rand.Text())
		names = append(names, m.Source)
	}
	return names
}

// volumePrefix begins the names of the volumes that are made for this agent's containers alone.
func (c *Containerizer) volumePrefix() string { return "orchestrator-" + c.mark + "-" }

// own gives those of a container's mounts that are volumes made for it alone.
func (c *Containerizer) own(mounts []dcontainer.MountPoint) []string {
	names := []string{}
	for _, m := range mounts {
		if m.Type == mount.TypeVolume && strings.HasPrefix(m.Name, c.volumePrefix()) {
			names = append(names, m.Name)
		}
	}
	return names
}

// removeVolumes removes volumes that were made for a container which has gone. What can't be removed now a sweep removes.
func (c *Containerizer) removeVolumes(ctx context.Context, names []string) {
	for _, name := range names {
		_, err := c.api.VolumeRemove(ctx, name, client.VolumeRemoveOptions{})
		if err == nil || cerrdefs.IsNotFound(err) {
			continue
		}
		c.doubt()
		if !cerrdefs.IsConflict(err) { // else another container has it, by the parameter volumes-from
			c.log.Warn("cannot remove the volume of a docker container that has gone; trying again later", "volume", name, "error", err)
		}
	}
}

// sweepVolumes removes volumes that were made for containers of this agent's alone and that no container has any more.
func (c *Containerizer) sweepVolumes(ctx context.Context) error {
	list, err := c.api.VolumeList(ctx, client.VolumeListOptions{Filters: client.Filters{}.Add("name", c.volumePrefix())})
	if err != nil {
		return err
	}
	for _, v := range list.Items {
		if !strings.HasPrefix(v.Name, c.volumePrefix()) {
			continue // it only has that within its name
		}
		_, err := c.api.VolumeRemove(ctx, v.Name, client.VolumeRemoveOptions{})
		if err != nil && !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err) { // a conflict: a container has it
			return err
		}
	}
	return nil
}
