package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/userns"
)

// mountLayers mounts the layers of an image, the uppermost first, at a directory: writable with a scratch directory, in
// which it makes what overlayfs needs, and else read-only. The layers' files belong to the ids of the container's user namespace;
// its own layer, which nobody else will see, is made for the namespace's root.
func (v *view) mountLayers(at string, layers []string, scratch string) error {
	if len(layers) == 0 {
		return errors.New("mount an image: it has no layers")
	}
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	// By descriptor: paths may be long, and hold what the options can't.
	open := func(dir string) (string, error) {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("open image layer %s: %w", dir, err)
		}
		fds = append(fds, fd)
		return "/proc/self/fd/" + strconv.Itoa(fd), nil
	}
	lower := make([]string, len(layers))
	for i, l := range layers {
		if v.ns != nil {
			// Over the layer itself, in this mount namespace, and only until it is part of another mount.
			if err := userns.Over(l, v.ns); err != nil {
				return fmt.Errorf("show image layer %s in a user namespace: %w", l, err)
			}
			defer func() { _ = unix.Unmount(l, unix.MNT_DETACH) }()
		}
		var err error
		if lower[i], err = open(l); err != nil {
			return err
		}
	}
	if scratch == "" && len(layers) == 1 { // overlayfs wants two; the caller makes it read-only
		return os.NewSyscallError("bind an image's layer", unix.Mount(lower[0], at, "", unix.MS_BIND, ""))
	}
	options := "lowerdir=" + strings.Join(lower, ":")
	flags := uintptr(unix.MS_NODEV)
	if scratch == "" {
		flags |= unix.MS_RDONLY
	} else {
		var up [2]string
		for i, d := range []string{"upper", "work"} {
			dir := filepath.Join(scratch, d)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return fmt.Errorf("make the container's own layer: %w", err)
			}
			if v.ns != nil {
				if err := os.Chown(dir, v.ids.Host(0), v.ids.Host(0)); err != nil {
					return fmt.Errorf("make the container's own layer: %w", err)
				}
			}
			var err error
			if up[i], err = open(dir); err != nil {
				return err
			}
		}
		options += ",upperdir=" + up[0] + ",workdir=" + up[1]
	}
	if scratch != "" {
		// What is written goes with the container: it need not be on the disk before that. Old kernels do not know this.
		if err := unix.Mount("overlay", at, "overlay", flags, options+",volatile"); err == nil {
			return nil
		} else if err != unix.EINVAL {
			return fmt.Errorf("mount the image: %w", err)
		}
	}
	if err := unix.Mount("overlay", at, "overlay", flags, options); err != nil {
		return fmt.Errorf("mount the image: %w", err)
	}
	return nil
}
