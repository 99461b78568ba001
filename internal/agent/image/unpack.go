package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of one layer.
const (
	maxEntries = 2_000_000
	maxDepth   = 128
	maxPath    = 4096
)

type limits struct {
	entries int
	bytes   int64
}

// unpacker unpacks one layer's archive into a directory, in overlayfs' form.
//
// Nothing is ever reached by a path of the host: the parent of every entry is opened beneath the tree's root, as a process
// in a chroot would find it (a link to /etc leads to the layer's own etc), and the entry itself is made in that
// directory without following it. Device nodes are left out: a container gets its own /dev, and a layer's device 0:0
// would be a whiteout that the image's author did not write.
type unpacker struct {
	limits
	root    int
	entries int
	bytes   int64
	skipped int

	parent   string // path of the directory that parentFD is
	parentFD int
	dirs     []dirTime // their times are set last: what is made in them changes them
}

type dirTime struct {
	path  string
	times [2]unix.Timespec
}

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

func (u *unpacker) unpack(r io.Reader, dir string) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	u.root, u.parentFD = fd, -1
	defer u.leave()
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return u.setDirTimes()
		}
		if err != nil {
			if errors.Is(err, tar.ErrHeader) {
				return fmt.Errorf("it is not a tar archive: %w", err)
			}
			return err
		}
		if err := u.entry(h, t); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
}

// clean gives the path of an entry below the root; "." is the root itself.
func clean(name string) (string, error) {
	if len(name) > maxPath {
		return "", fmt.Errorf("refused: a path of more than %d bytes", maxPath)
	}
	if strings.ContainsRune(name, 0) {
		return "", errors.New("refused: NUL in a path")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", errors.New("refused: '..' in a path")
		}
	}
	p := path.Clean(strings.TrimLeft(name, "/"))
	if strings.Count(p, "/") >= maxDepth {
		return "", fmt.Errorf("refused: deeper than %d directories", maxDepth)
	}
	return p, nil
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	if u.entries++; u.entries > u.limits.entries {
		return fmt.Errorf("refused: more than %d entries", u.limits.entries)
	}
	p, err := clean(h.Name)
	if err != nil {
		return err
	}
	if p == "." {
		if h.Typeflag != tar.TypeDir {
			return errors.New("refused: the root must be a directory")
		}
		return u.finishDir(p, u.root, h)
	}
	dir, base := path.Split(p)
	at, err := u.enter(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	switch {
	case base == opaque:
		return setOpaque(at)
	case strings.HasPrefix(base, whiteout+whiteout):
		return nil // other marks of aufs
	case strings.HasPrefix(base, whiteout):
		victim := base[len(whiteout):]
		if victim == "" || victim == "." || victim == ".." {
			return errors.New("refused: a whiteout of nothing")
		}
		return u.hide(at, victim)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.directory(at, p, base, h)
	case tar.TypeReg, tar.TypeRegA, tar.TypeGNUSparse: //nolint:staticcheck // old archives have TypeRegA
		return u.file(at, base, h, content)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) >= maxPath {
			return errors.New("refused: a symbolic link to nothing, or too long")
		}
		if err := u.clear(at, base, false); err != nil {
			return err
		}
		if err := unix.Symlinkat(h.Linkname, at, base); err != nil {
			return os.NewSyscallError("symlink", err)
		}
		return u.own(at, base, h, false)
	case tar.TypeLink:
		return u.link(at, base, h)
	case tar.TypeFifo:
		if err := u.clear(at, base, false); err != nil {
			return err
		}
		if err := unix.Mknodat(at, base, unix.S_IFIFO|0o600, 0); err != nil {
			return os.NewSyscallError("mkfifo", err)
		}
		return u.own(at, base, h, true)
	case tar.TypeChar, tar.TypeBlock:
		u.skipped++
		return nil
	case tar.TypeXGlobalHeader:
		return nil
	}
	return fmt.Errorf("refused: an entry of type %q", h.Typeflag)
}

// leave closes the directory that was entered last.
func (u *unpacker) leave() {
	if u.parentFD >= 0 && u.parentFD != u.root {
		unix.Close(u.parentFD)
	}
	u.parentFD = -1
}

// enter opens a directory of the tree, and makes what of it is missing. Archives list the files of a directory together:
// the last one stays open.
func (u *unpacker) enter(dir string) (int, error) {
	if dir == "" {
		return u.root, nil
	}
	if u.parentFD >= 0 && u.parent == dir {
		return u.parentFD, nil
	}
	fd, err := u.openDir(dir)
	if errors.Is(err, unix.ENOENT) {
		if err := u.makeDirs(dir); err != nil {
			return -1, err
		}
		fd, err = u.openDir(dir)
	}
	if err != nil {
		return -1, fmt.Errorf("its directory: %w", err)
	}
	u.leave()
	u.parent, u.parentFD = dir, fd
	return fd, nil
}

func (u *unpacker) openDir(dir string) (int, error) {
	return u.openIn(dir, unix.O_RDONLY|unix.O_DIRECTORY)
}

// openIn opens a path as a process would whose root the tree is.
func (u *unpacker) openIn(p string, flags uint64) (int, error) {
	for {
		fd, err := unix.Openat2(u.root, p, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		return fd, err
	}
}

func (u *unpacker) makeDirs(dir string) error {
	for i := 0; i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		fd, err := u.openDir(dir[:i])
		if i == 0 {
			if err == nil {
				unix.Close(fd)
			}
			continue
		}
		if err == nil {
			unix.Close(fd)
			continue
		}
		if !errors.Is(err, unix.ENOENT) {
			return err
		}
		up, base := path.Split(dir[:i])
		at, err := u.openDir("./" + up)
		if err != nil {
			return err
		}
		err = unix.Mkdirat(at, base, 0o755)
		unix.Close(at)
		if err != nil {
			return os.NewSyscallError("mkdir", err)
		}
	}
	return nil
}

// clear removes what an earlier entry put at a name. keepDir: a directory may stay. A directory with something in it is
// never removed: no archive of a layer needs that.
func (u *unpacker) clear(at int, base string, keepDir bool) error {
	err := unix.Unlinkat(at, base, 0)
	switch err {
	case nil, unix.ENOENT:
		return nil
	case unix.EISDIR:
	default:
		return os.NewSyscallError("unlink", err)
	}
	if keepDir {
		return nil
	}
	// Its parent may be what is held open.
	if u.parentFD >= 0 && u.parentFD != at {
		u.leave()
	}
	if err := unix.Unlinkat(at, base, unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("refused: it takes the place of a directory: %w", err)
	}
	return nil
}

// hide takes a name of the lower layers away. What this layer itself has there hides it already, but for a directory, which
// must not let theirs shine through.
func (u *unpacker) hide(at int, victim string) error {
	var st unix.Stat_t
	switch err := unix.Fstatat(at, victim, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
		return os.NewSyscallError("mknod", unix.Mknodat(at, victim, unix.S_IFCHR, 0))
	case err != nil:
		return os.NewSyscallError("stat", err)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return nil
	}
	fd, err := unix.Openat(at, victim, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	return setOpaque(fd)
}

func (u *unpacker) directory(at int, p, base string, h *tar.Header) error {
	var st unix.Stat_t
	hidden := unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR
	if err := u.clear(at, base, true); err != nil {
		return err
	}
	if err := unix.Mkdirat(at, base, 0o755); err != nil && err != unix.EEXIST {
		return os.NewSyscallError("mkdir", err)
	}
	fd, err := unix.Openat(at, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	if hidden {
		if err := setOpaque(fd); err != nil {
			return err
		}
	}
	return u.finishDir(p, fd, h)
}

// finishDir gives a directory its owner, mode and attributes; its times come last.
func (u *unpacker) finishDir(p string, fd int, h *tar.Header) error {
	// The root is held by path only.
	via := "/proc/self/fd/" + strconv.Itoa(fd)
	if err := unix.Chown(via, h.Uid, h.Gid); err != nil {
		return os.NewSyscallError("chown", err)
	}
	if err := unix.Chmod(via, uint32(h.Mode&0o7777)); err != nil {
		return os.NewSyscallError("chmod", err)
	}
	if err := setXattrs(via, h); err != nil {
		return err
	}
	u.dirs = append(u.dirs, dirTime{p, timesOf(h)})
	return nil
}

func (u *unpacker) file(at int, base string, h *tar.Header, content io.Reader) error {
	if h.Size < 0 || h.Size > u.limits.bytes || u.bytes+h.Size > u.limits.bytes {
		return fmt.Errorf("refused: the layer unpacks to more than %d bytes", u.limits.bytes)
	}
	if err := u.clear(at, base, false); err != nil {
		return err
	}
	fd, err := unix.Openat(at, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	n, err := io.Copy(f, content)
	u.bytes += n
	if err != nil {
		return err
	}
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return os.NewSyscallError("chown", err)
	}
	// After the owner, which takes the set-user-id bit away.
	if err := unix.Fchmod(fd, uint32(h.Mode&0o7777)); err != nil {
		return os.NewSyscallError("chmod", err)
	}
	if len(h.PAXRecords) > 0 {
		if err := setXattrs("/proc/self/fd/"+strconv.Itoa(fd), h); err != nil {
			return err
		}
	}
	ts := timesOf(h)
	if err := unix.UtimesNanoAt(at, base, ts[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("utimensat", err)
	}
	return nil
}

// link makes a hard link to a file that the same layer holds.
func (u *unpacker) link(at int, base string, h *tar.Header) error {
	p, err := clean(h.Linkname)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	if p == "." {
		return errors.New("refused: a hard link to the root")
	}
	dir, target := path.Split(p)
	from, err := u.openDir("./" + dir)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	defer unix.Close(from)
	var st unix.Stat_t
	if err := unix.Fstatat(from, target, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFLNK, unix.S_IFIFO:
	default:
		return fmt.Errorf("refused: a hard link to %q, which is no file", h.Linkname)
	}
	if err := u.clear(at, base, false); err != nil {
		return err
	}
	return os.NewSyscallError("link", unix.Linkat(from, target, at, base, 0))
}

// own gives owner, mode and times to what can't be opened.
func (u *unpacker) own(at int, base string, h *tar.Header, mode bool) error {
	if err := unix.Fchownat(at, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("chown", err)
	}
	if mode {
		if err := unix.Fchmodat(at, base, uint32(h.Mode&0o7777), 0); err != nil {
			return os.NewSyscallError("chmod", err)
		}
	}
	ts := timesOf(h)
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(at, base, ts[:], unix.AT_SYMLINK_NOFOLLOW))
}

// setOpaque: what lower layers have at a directory is not to be seen through it.
func setOpaque(dir int) error {
	return os.NewSyscallError("set trusted.overlay.opaque", unix.Setxattr("/proc/self/fd/"+strconv.Itoa(dir), "trusted.overlay.opaque", []byte("y"), 0))
}

// setXattrs sets the attributes that an image may have: file capabilities and users' own. Above all none of overlayfs',
// by which a layer could lead out of itself.
func setXattrs(via string, h *tar.Header) error {
	for k, v := range h.PAXRecords {
		attr, ok := strings.CutPrefix(k, "SCHILY.xattr.")
		if !ok || attr != "security.capability" && !strings.HasPrefix(attr, "user.") || strings.HasPrefix(attr, "user.overlay.") {
			continue
		}
		if err := unix.Setxattr(via, attr, []byte(v), 0); err != nil && err != unix.ENOTSUP {
			return fmt.Errorf("set attribute %s: %w", attr, err)
		}
	}
	return nil
}

func timesOf(h *tar.Header) [2]unix.Timespec {
	at := h.AccessTime
	if at.IsZero() {
		at = h.ModTime
	}
	return [2]unix.Timespec{timespec(at), timespec(h.ModTime)}
}

func timespec(t time.Time) unix.Timespec {
	if s := t.Unix(); s < math.MinInt32 || s > 1<<40 {
		t = time.Unix(0, 0)
	}
	return unix.NsecToTimespec(t.UnixNano())
}

func (u *unpacker) setDirTimes() error {
	for i := len(u.dirs) - 1; i >= 0; i-- {
		d := u.dirs[i]
		fd, err := u.openIn(d.path, unix.O_PATH|unix.O_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			continue // removed by a later entry
		}
		if err != nil {
			return fmt.Errorf("%q: %w", d.path, err)
		}
		ts := d.times
		err = unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), ts[:], 0)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("%q: %w", d.path, os.NewSyscallError("utimensat", err))
		}
	}
	return nil
}
