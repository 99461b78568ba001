package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/osthread"
)

// makeNamespace makes a network namespace with its loopback up, pinned at path.
func makeNamespace(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	var nerr error
	osthread.Run(func() {
		if nerr = unix.Unshare(unix.CLONE_NEWNET); nerr != nil {
			nerr = os.NewSyscallError("unshare CLONE_NEWNET", nerr)
			return
		}
		if nerr = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); nerr != nil {
			nerr = os.NewSyscallError("pin the network namespace: mount", nerr)
			return
		}
		var lo netlink.Link
		if lo, nerr = netlink.LinkByName("lo"); nerr == nil {
			nerr = netlink.LinkSetUp(lo)
		}
		if nerr != nil {
			nerr = fmt.Errorf("bring up the loopback interface: %w", nerr)
		}
	})
	if nerr != nil {
		return errors.Join(nerr, dropNamespace(path))
	}
	return nil
}

// dropNamespace unpins a namespace; with the last process in it, it goes. Copies of the mount in other mount namespaces go
// with the file.
func dropNamespace(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return os.NewSyscallError("unpin the network namespace: umount", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// pinned reports whether a namespace is there.
func pinned(path string) bool {
	var st unix.Statfs_t
	const nsfs = 0x6e736673
	return unix.Statfs(path, &st) == nil && st.Type == nsfs
}
