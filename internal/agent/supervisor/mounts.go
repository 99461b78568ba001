package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
)

// setUpMounts makes the container's view of the file system in the mount namespace that this helper was born into. What
// is mounted here is seen by the container alone and goes with its last process: nothing is left to unmount.
//
// The secrets' memory stays until the function that it gives has been called: the container's own root has mounts of it too.
func (c *Container) setUpMounts() (dropSecrets func() error, err error) {
	s := c.Spec
	if !s.NewMount {
		return func() error { return nil }, nil
	}
	// Mounts of the host made later still arrive here (a persistent volume's disk), ours do not go back.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("make the mount namespace a slave of the host's: %w", err)
	}
	if s.NewPID {
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return nil, fmt.Errorf("mount /proc: %w", err)
		}
	}
	if err := c.makeUser(); err != nil {
		return nil, err
	}
	if dropSecrets, err = openSecrets(s); err != nil {
		return nil, err
	}
	for _, m := range s.Mounts {
		if err := c.view.mount(secretFile(s, m)); err != nil {
			return nil, err
		}
	}
	return dropSecrets, nil
}

// secretFile makes of the mount of a secret one of the file of memory that holds it.
func secretFile(s *spec.Spec, m spec.Mount) spec.Mount {
	if m.Type == "secret" {
		m.Type, m.Source, m.RO = "bind", filepath.Join(s.Dir, spec.SecretsDir, strconv.Itoa(m.Secret)), true
	}
	return m
}

// maxSecrets bounds what the launcher passes.
const maxSecrets = 16 << 20

// openSecrets puts the secrets into files of a tmpfs that only this mount namespace has, each for the container's user
// alone. The function that it gives takes the tmpfs away: what has been bound elsewhere stays.
func openSecrets(s *spec.Spec) (drop func() error, err error) {
	drop = func() error { return nil }
	if !s.Secrets {
		return drop, nil
	}
	unix.CloseOnExec(spec.SecretsFD)
	f := os.NewFile(spec.SecretsFD, "secrets")
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecrets))
	if err != nil {
		return nil, fmt.Errorf("read the secrets: %w", err)
	}
	var secrets [][]byte
	if err := json.Unmarshal(b, &secrets); err != nil {
		return nil, fmt.Errorf("read the secrets: %w", err)
	}
	dir := filepath.Join(s.Dir, spec.SecretsDir)
	err = unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700,noswap")
	if errors.Is(err, unix.EINVAL) { // before Linux 6.4
		err = unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700")
	}
	if err != nil {
		return nil, fmt.Errorf("mount memory for secrets: %w", err)
	}
	for i, secret := range secrets {
		path := filepath.Join(dir, strconv.Itoa(i))
		if err := os.WriteFile(path, secret, 0o400); err != nil {
			return nil, fmt.Errorf("write a secret: %w", err)
		}
		if s.Process.Switch || s.IDs != nil {
			if err := os.Chown(path, s.IDs.Host(s.Process.UID), s.IDs.Host(s.Process.GID)); err != nil {
				return nil, fmt.Errorf("write a secret: %w", err)
			}
		}
	}
	return func() error {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount the memory of secrets: %w", err)
		}
		return nil
	}, nil
}

func (v *view) mount(m spec.Mount) error {
	return v.mountAt(m, func() (int, error) { return openBeneath(m.TargetRoot, m.Target) })
}

// mountAt mounts at the place that target opens.
func (v *view) mountAt(m spec.Mount, target func() (int, error)) error {
	fd, err := target()
	if err != nil {
		return fmt.Errorf("mount point %s: %w", m.Target, err)
	}
	defer unix.Close(fd)
	at := "/proc/self/fd/" + strconv.Itoa(fd)
	switch m.Type {
	case "bind":
		source, err := openBeneath(m.SourceRoot, m.Source)
		if err != nil {
			return fmt.Errorf("volume source %s: %w", m.Source, err)
		}
		defer unix.Close(source)
		if m.IDMap && v.ns != nil && !v.shown(source) {
			if err := v.bind(source, fd); err != nil {
				return fmt.Errorf("show %s at %s in a user namespace: %w", m.Source, m.Target, err)
			}
			break
		}
		if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(source), at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s to %s: %w", m.Source, m.Target, err)
		}
	case "tmpfs":
		if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, v.owned(m.Data)); err != nil {
			return fmt.Errorf("mount tmpfs at %s: %w", m.Target, err)
		}
	case "image":
		if err := v.mountLayers(at, m.Layers, m.Scratch); err != nil {
			return fmt.Errorf("volume at %s: %w", m.Target, err)
		}
	default:
		return fmt.Errorf("unknown mount type %q", m.Type)
	}
	if !m.RO {
		return nil
	}
	// The descriptor still names the directory below the mount: the mount itself is found anew.
	ro, err := target()
	if err != nil {
		return fmt.Errorf("mount point %s: %w", m.Target, err)
	}
	defer unix.Close(ro)
	if err := protect(ro, 0, true); err != nil {
		return fmt.Errorf("make %s read-only: %w", m.Target, err)
	}
	return nil
}

// protect makes a mount read-only, and gives it further attributes.
func protect(fd int, attributes uint64, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return unix.MountSetattr(fd, "", flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | attributes})
}

// openBeneath opens path, below root when that is given: then no link leads out of it.
func openBeneath(root, path string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS}
	dir := unix.AT_FDCWD
	if root != "" {
		fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, os.NewSyscallError("open "+root, err)
		}
		defer unix.Close(fd)
		dir = fd
		how.Resolve |= unix.RESOLVE_BENEATH
		if path == "" {
			path = "."
		}
	}
	fd, err := unix.Openat2(dir, path, &how)
	if err != nil {
		return -1, os.NewSyscallError("openat2", err)
	}
	return fd, nil
}
