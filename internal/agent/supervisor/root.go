package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/osthread"
	"github.com/orchestrator/orchestrator/internal/agent/userns"
)

// prepareRoot makes the container's own root file system in a mount namespace that the container's processes enter and
// the helper does not: a thread takes a copy of the helper's, turns its root into the image's, and ends; the namespace lives
// on by a descriptor of the helper's, by which sessions find it too, and goes with the helper and the last process.
func (c *Container) prepareRoot() error {
	s := c.Spec
	r := s.Root
	if r != nil {
		// Nobody in the container may look through its first process, the helper, at the host.
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl PR_SET_DUMPABLE", err)
		}
		dir := filepath.Join(s.Dir, "rootfs")
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make the root's mount point: %w", err)
		}
		var err error
		if r.Runtime != "" {
			err = c.prepareOCI(dir)
		} else {
			osthread.Run(func() { err = c.view.newRoot(s, dir) })
			c.joinRoot()
		}
		if err != nil {
			return err
		}
	}
	if s.Process.Account == "" {
		return nil
	}
	var err error
	if r != nil && r.Runtime != "" {
		err = accountIn(&s.Process, filepath.Join(s.Dir, "rootfs"))
	} else {
		osthread.Run(func() {
			if _, err = prepareThread(&spec.Process{}, views(c.join)); err == nil {
				err = resolveAccount(&s.Process)
			}
		})
	}
	if err != nil {
		return err
	}
	if p := &s.Process; s.IDs != nil {
		for _, id := range append([]uint32{p.UID, p.GID}, p.Groups...) {
			if id >= userns.Count {
				return fmt.Errorf("user %q of the image: id %d does not exist in the container's user namespace, which has %d", p.Account, id, userns.Count)
			}
		}
	}
	if r != nil && s.Process.Switch {
		// The sandbox was made for the agent's user, who is the task's no more.
		if err := os.Chown(s.Sandbox, int(s.Process.UID), int(s.Process.GID)); err != nil {
			return fmt.Errorf("give the sandbox to the image's user: %w", err)
		}
		for _, m := range r.Mounts {
			if m.Type != "secret" {
				continue
			}
			if err := os.Chown(secretFile(s, m).Source, s.IDs.Host(s.Process.UID), s.IDs.Host(s.Process.GID)); err != nil {
				return fmt.Errorf("give a secret to the image's user: %w", err)
			}
		}
	}
	return nil
}

// joinRoot makes further processes enter the container's root.
func (c *Container) joinRoot() {
	c.join = append(c.join, Namespace{"mnt", unix.CLONE_NEWNS, os.NewFile(spec.RootFD, "root")})
}

// views are the mount namespaces among others.
func views(join []Namespace) []Namespace {
	return slices.DeleteFunc(slices.Clone(join), func(n Namespace) bool { return n.kind != "mnt" })
}

// newRoot runs on a thread of its own.
func (v *view) newRoot(s *spec.Spec, dir string) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	unix.Umask(0)
	r := s.Root
	if err := v.mountLayers(dir, r.Layers, r.Scratch); err != nil {
		return err
	}
	if err := v.become(); err != nil {
		return err
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open the root", err)
	}
	defer unix.Close(fd)
	t := tree(fd)
	if err := t.system(v, r.Devices); err != nil {
		return err
	}
	if err := t.fill(s, v); err != nil {
		return err
	}
	if err := unix.Fchdir(fd); err != nil {
		// A descriptor of O_PATH serves since Linux 3.5.
		return os.NewSyscallError("fchdir", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	// The old root lies on the new one: what is at the bottom of this directory now is all that remains.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return os.NewSyscallError("unmount the old root", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	if r.ReadOnly {
		if err := protect(fd, 0, false); err != nil {
			return fmt.Errorf("make the root read-only: %w", err)
		}
	}
	ns, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open the mount namespace", err)
	}
	defer unix.Close(ns)
	return os.NewSyscallError("dup3", unix.Dup3(ns, spec.RootFD, unix.O_CLOEXEC))
}

// tree is a descriptor of a root that is being made. Paths in it are found as by a process whose root it is, so that no
// link of an image leads out of it.
type tree int

func (t tree) open(p string, flags int, resolve uint64) (int, error) {
	p = strings.TrimLeft(p, "/")
	if p == "" {
		p = "."
	}
	for {
		fd, err := unix.Openat2(int(t), p, &unix.OpenHow{
			Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
		})
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		return fd, err
	}
}

// make opens a path, and makes a directory or an empty file where there is nothing.
func (t tree) make(p string, dir bool, resolve uint64) (int, error) {
	p = path.Clean("/" + p)[1:]
	parts := strings.Split(p, "/")
	for i := range parts {
		at := path.Join(parts[:i+1]...)
		fd, err := t.open(at, unix.O_PATH, resolve)
		if err == nil {
			if i == len(parts)-1 {
				return fd, nil
			}
			unix.Close(fd)
			continue
		}
		if !errors.Is(err, unix.ENOENT) {
			return -1, fmt.Errorf("%s: %w", at, err)
		}
		up, err := t.open(path.Dir(at), unix.O_PATH|unix.O_DIRECTORY, resolve)
		if err != nil {
			return -1, fmt.Errorf("%s: %w", at, err)
		}
		if i < len(parts)-1 || dir {
			err = unix.Mkdirat(up, parts[i], 0o755)
		} else {
			err = unix.Mknodat(up, parts[i], unix.S_IFREG|0o644, 0)
		}
		unix.Close(up)
		if errors.Is(err, unix.EEXIST) { // a link to nowhere
			return -1, fmt.Errorf("%s is a symbolic link to what does not exist in the image", at)
		}
		if err != nil {
			return -1, fmt.Errorf("make %s: %w", at, err)
		}
	}
	return t.open(p, unix.O_PATH, resolve)
}

// devices that every container has.
var devices = []struct {
	name  string
	major uint32
	minor uint32
}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}

// system mounts what every container has: /proc of its PID namespace, /sys, and a /dev with harmless devices.
func (t tree) system(v *view, more []spec.Device) error {
	for _, m := range []struct {
		target, kind string
		flags        uintptr
		data         string
	}{
		{"proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY, ""},
		{"dev", "tmpfs", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_STRICTATIME, "mode=755,size=64k"},
		{"dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"},
		{"dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=1777"},
		{"dev/mqueue", "mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	} {
		fd, err := t.make(m.target, true, unix.RESOLVE_NO_SYMLINKS)
		if err != nil {
			return fmt.Errorf("mount /%s: the image's %w", m.target, err)
		}
		if m.kind == "tmpfs" {
			m.data = v.owned(m.data)
		}
		err = unix.Mount(m.kind, "/proc/self/fd/"+strconv.Itoa(fd), m.kind, m.flags, m.data)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("mount /%s: %w", m.target, err)
		}
	}
	dev, err := t.open("dev", unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return os.NewSyscallError("open /dev", err)
	}
	defer unix.Close(dev)
	for _, d := range devices {
		if err := unix.Mknodat(dev, d.name, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("make /dev/%s: %w", d.name, err)
		}
	}
	for _, d := range more {
		if err := t.node(d); err != nil {
			return fmt.Errorf("make /dev/%s: %w", d.Name, err)
		}
	}
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"} {
		if err := unix.Symlinkat(to, dev, name); err != nil {
			return fmt.Errorf("make /dev/%s: %w", name, err)
		}
	}
	return nil
}

// node makes a device file and the directories above it, in a /dev that nobody else sees yet.
func (t tree) node(d spec.Device) error {
	at, err := t.make(path.Join("dev", path.Dir(d.Name)), true, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	kind := uint32(unix.S_IFCHR)
	if d.Block {
		kind = unix.S_IFBLK
	}
	err = unix.Mknodat(at, path.Base(d.Name), kind|d.Mode, int(unix.Mkdev(d.Major, d.Minor)))
	if errors.Is(err, unix.EEXIST) {
		return nil // one of the harmless ones
	}
	return err
}

// fill makes the container's own mounts, and hides and protects what is not for it.
func (t tree) fill(s *spec.Spec, v *view) error {
	r := s.Root
	mounts := r.Mounts
	if r.ReadOnly {
		mounts = append([]spec.Mount{{Type: "tmpfs", Target: "/tmp", Data: "mode=1777"}, {Type: "tmpfs", Target: "/run", Data: "mode=755"}}, mounts...)
	}
	for _, m := range mounts {
		m = secretFile(s, m)
		dir, err := showsDirectory(m)
		if err != nil {
			return err
		}
		if err := v.mountAt(m, func() (int, error) { return t.make(m.Target, dir, 0) }); err != nil {
			return err
		}
	}
	if r.WorkingDir != "" {
		fd, err := t.make(r.WorkingDir, true, 0)
		if err != nil {
			return fmt.Errorf("the image's working directory: %w", err)
		}
		unix.Close(fd)
	}
	for _, p := range r.Masked {
		if err := t.mask(p); err != nil {
			return fmt.Errorf("hide %s: %w", p, err)
		}
	}
	for _, p := range r.ReadOnlyPaths {
		fd, err := t.open(p, unix.O_PATH, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err == nil {
			at := "/proc/self/fd/" + strconv.Itoa(fd)
			err = unix.Mount(at, at, "", unix.MS_BIND|unix.MS_REC, "")
			unix.Close(fd)
		}
		if err == nil {
			if fd, err = t.open(p, unix.O_PATH, 0); err == nil {
				err = protect(fd, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, true)
				unix.Close(fd)
			}
		}
		if err != nil {
			return fmt.Errorf("protect %s: %w", p, err)
		}
	}
	return nil
}

// showsDirectory tells what must be at the mount point: a directory or a file.
func showsDirectory(m spec.Mount) (bool, error) {
	if m.Type != "bind" {
		return true, nil
	}
	src, err := openBeneath(m.SourceRoot, m.Source)
	if err != nil {
		return false, fmt.Errorf("volume source %s: %w", m.Source, err)
	}
	defer unix.Close(src)
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// mask puts an empty file or directory over a path.
func (t tree) mask(p string) error {
	fd, err := t.open(p, unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	at := "/proc/self/fd/" + strconv.Itoa(fd)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.Mount("tmpfs", at, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=0,nr_inodes=1,mode=755")
	}
	null, err := t.open("dev/null", unix.O_PATH, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	return unix.Mount("/proc/self/fd/"+strconv.Itoa(null), at, "", unix.MS_BIND, "")
}
