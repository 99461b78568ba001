package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockDirectory makes sure that this is the only agent of a work directory: two would each destroy what the other runs.
// The lock goes with the process, however that ends.
func lockDirectory(dir string) (release func(), err error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the work directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another agent runs in %s: stop it, or choose another --work_dir", dir)
		}
		return nil, fmt.Errorf("lock the work directory: %w", err)
	}
	return func() { f.Close() }, nil
}
