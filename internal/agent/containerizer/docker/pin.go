package docker

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"
)

// pin replaces the paths of the host that a container's volumes come from by what they lead to, where the agent's policy says
// beneath which directory they have to be. The Engine would follow a link to anywhere: a task that may write below an allowed
// directory could put one there for the next. (The Engine still resolves the path that it is given: who may rename the
// directories above a volume while it is being mounted can lead it astray. Handles would prevent that, but a container's
// mount namespace can't mount from the agent's.)
func (c *Containerizer) pin(p *plan) error {
	if c.judge == nil {
		return nil
	}
	for i, b := range p.host().Binds {
		source, rest, _ := strings.Cut(b, ":")
		if !path.IsAbs(source) || p.ours[source] {
			continue // a volume of Docker's own, or of ours
		}
		to, err := c.beneath(source, true)
		if err != nil {
			return err
		}
		p.host().Binds[i] = to + ":" + rest
	}
	for i := range p.host().Mounts {
		m := &p.host().Mounts[i]
		if m.Type != mount.TypeBind || p.ours[m.Source] {
			continue
		}
		to, err := c.beneath(m.Source, false)
		if err != nil {
			return err
		}
		m.Source = to
	}
	return nil
}

// beneath gives the path without links of a path of the host beneath the directory that the policy names. make makes a directory
// that is missing.
func (c *Containerizer) beneath(source string, make bool) (string, error) {
	root, rel, err := c.judge(source)
	if err != nil || root == "" {
		return source, err
	}
	top, err := os.OpenRoot(root)
	if err != nil {
		return "", fmt.Errorf("volume from %s: %w", source, err)
	}
	defer top.Close()
	if make {
		// As the Engine would, but through no link. What is there already is none of our business here.
		if _, err := top.Lstat(rel); errors.Is(err, os.ErrNotExist) {
			if err := top.MkdirAll(rel, 0o755); err != nil {
				return "", fmt.Errorf("volume from %s: %w", source, err)
			}
		}
	}
	at, err := top.Open(".")
	if err != nil {
		return "", fmt.Errorf("volume from %s: %w", source, err)
	}
	defer at.Close()
	fd, err := unix.Openat2(int(at.Fd()), rel, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
	switch {
	case errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ELOOP):
		return "", fmt.Errorf("volume from %s: a link leads out of %s, which this agent does not follow (--allowed_host_volumes)", source, root)
	case err != nil:
		return "", fmt.Errorf("volume from %s: %w", source, err)
	}
	defer unix.Close(fd)
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", fmt.Errorf("volume from %s: %w", source, err)
	}
	return real, nil
}
