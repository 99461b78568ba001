package supervisor

import (
	"encoding/json"
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
func setUpMounts(s *spec.Spec) error {
	if !s.NewMount {
		return nil
	}
	// Mounts of the host made later still arrive here (a persistent volume's disk), ours do not go back.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make the mount namespace a slave of the host's: %w", err)
	}
	if s.NewPID {
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mount /proc: %w", err)
		}
	}
	dropSecrets, err := openSecrets(s)
	if err != nil {
		return err
	}
	for _, m := range s.Mounts {
		if m.Type == "secret" {
			// A file of the memory that was just filled, put where the container looks for it.
			m.Type, m.Source, m.RO = "bind", filepath.Join(s.Dir, spec.SecretsDir, strconv.Itoa(m.Secret)), true
		}
		if err := mount(m); err != nil {
			return err
		}
	}
	return dropSecrets()
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
	if err == unix.EINVAL { // before Linux 6.4
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
		if s.Process.Switch {
			if err := os.Chown(path, int(s.Process.UID), int(s.Process.GID)); err != nil {
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

func mount(m spec.Mount) error {
	target, err := openBeneath(m.TargetRoot, m.Target)
	if err != nil {
		return fmt.Errorf("mount point %s: %w", m.Target, err)
	}
	defer unix.Close(target)
	at := "/proc/self/fd/" + strconv.Itoa(target)
	switch m.Type {
	case "bind":
		source, err := openBeneath(m.SourceRoot, m.Source)
		if err != nil {
			return fmt.Errorf("volume source %s: %w", m.Source, err)
		}
		defer unix.Close(source)
		if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(source), at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s to %s: %w", m.Source, m.Target, err)
		}
		if m.RO {
			// The descriptor still names the directory below the mount: the mount itself is found by its path anew.
			ro, err := openBeneath(m.TargetRoot, m.Target)
			if err != nil {
				return fmt.Errorf("mount point %s: %w", m.Target, err)
			}
			defer unix.Close(ro)
			attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
			if err := unix.MountSetattr(ro, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
				return fmt.Errorf("make %s read-only: %w", m.Target, err)
			}
		}
	case "tmpfs":
		if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, m.Data); err != nil {
			return fmt.Errorf("mount tmpfs at %s: %w", m.Target, err)
		}
	default:
		return fmt.Errorf("unknown mount type %q", m.Type)
	}
	return nil
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
