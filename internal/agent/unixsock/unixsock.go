// Package unixsock opens unix sockets at paths of any length and says who is at the other end.
//
// The kernel takes at most 107 bytes of path in a socket address, which a deep work directory exceeds; the sockets here
// are named through a descriptor of their directory instead (/proc/self/fd/N/name). The agent, its helpers and the
// containerizers use it; it imports nothing heavy because the helper links it.
package unixsock

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// maxPath is the greatest length of a path in sockaddr_un, without its final NUL.
const maxPath = 107

// short calls f with a path that names the same file as path and fits into a socket address.
func short(path string, f func(string) error) error {
	if len(path) <= maxPath {
		return f(path)
	}
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", filepath.Dir(path), err)
	}
	defer unix.Close(dir)
	return f("/proc/self/fd/" + strconv.Itoa(dir) + "/" + filepath.Base(path))
}

// inherited is how long a socket may answer whose owner is gone: a process that is killed while it starts another leaves all
// it has open to that one, until it has become its own program.
const inherited = 2 * time.Second

// Listen listens at path, mode 0600. A socket left by an earlier process is replaced; one that still answers is an error,
// because two owners would steal each other's clients.
func Listen(path string) (*net.UnixListener, error) {
	for deadline := time.Now().Add(inherited); ; time.Sleep(10 * time.Millisecond) {
		c, err := Dial(path, time.Second)
		if err != nil {
			break
		}
		c.Close()
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("listen on %s: another process is serving this socket", path)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the old socket: %w", err)
	}
	var l *net.UnixListener
	err := short(path, func(p string) error {
		var err error
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: p, Net: "unix"})
		if err != nil {
			return err
		}
		// The name given may be one that no longer exists at Close; Close of the owner removes path itself.
		l.SetUnlinkOnClose(false)
		return os.Chmod(p, 0o600)
	})
	if err != nil {
		if l != nil {
			l.Close()
		}
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// Dial connects to the socket at path.
func Dial(path string, timeout time.Duration) (*net.UnixConn, error) {
	var c net.Conn
	err := short(path, func(p string) (err error) {
		c, err = net.DialTimeout("unix", p, timeout)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return c.(*net.UnixConn), nil
}

// Peer returns the credentials of the process that connected.
func Peer(c *net.UnixConn) (*unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return cred, errors.Join(err, credErr)
}
