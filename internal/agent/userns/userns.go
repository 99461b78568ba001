package userns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/osthread"
)

// Count is how many ids a namespace has, from 0.
const Count = 1 << 16

// New makes a user namespace whose ids 0 to Count-1 are the host's from first on. It lives as long as the descriptor, what is in
// it, and the mounts that have its ids. The caller must be root, and nobody else wait for its children.
func New(first uint32) (*os.File, error) {
	image, err := program(nil, -1)
	if err != nil {
		return nil, err
	}
	defer image.Close()
	hold, held, err := os.Pipe() // the process waits for what never comes
	if err != nil {
		return nil, err
	}
	defer hold.Close()
	defer held.Close()
	ids := []syscall.SysProcIDMap{{HostID: int(first), Size: Count}}
	pid, err := syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(ImageFD), []string{"user-namespace"}, &syscall.ProcAttr{
		Files: []uintptr{0, 1, 2, ^uintptr(0), held.Fd(), hold.Fd(), image.Fd()},
		Sys:   &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true},
	})
	if err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/user")
	_ = syscall.Kill(pid, syscall.SIGKILL)
	for {
		if _, werr := syscall.Wait4(pid, nil, 0, nil); werr != syscall.EINTR {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	return ns, nil
}

// IDMap gives a detached copy of the mount at a descriptor, from there down, in which what belongs to the namespace's id 0 on the
// disk belongs to it, and so on. Mounts below it are not in the copy.
func IDMap(at int, ns *os.File) (int, error) {
	fd, err := unix.OpenTree(at, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
	runtime.KeepAlive(ns)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("its file system can't show files under other ids (idmapped mounts): %w", err)
	}
	return fd, nil
}

// Attach puts what IDMap gave over a place.
func Attach(detached, at int) error {
	return os.NewSyscallError("move_mount", unix.MoveMount(detached, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// Probe tries whether this host gives user namespaces, and files in dir and in layers under their ids, those of layers also as what lies
// below an overlay that is written to dir. It leaves nothing.
func Probe(dir, layers string, first uint32) error {
	ns, err := New(first)
	if err != nil {
		return err
	}
	defer ns.Close()
	var tmp [2]string
	for i, d := range []string{dir, layers} {
		if tmp[i], err = os.MkdirTemp(d, ".userns-*"); err != nil {
			return err
		}
		defer os.RemoveAll(tmp[i])
	}
	for _, d := range []string{"upper", "work", "at"} {
		if err := os.Mkdir(filepath.Join(tmp[0], d), 0o755); err != nil {
			return err
		}
	}
	osthread.Run(func() { err = probe(tmp[0], tmp[1], first, ns) })
	return err
}

// probe runs on a thread of its own, in a mount namespace of its own.
func probe(tmp, lower string, first uint32, ns *os.File) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	options := "lowerdir=" + lower + ",upperdir=" + filepath.Join(tmp, "upper") + ",workdir=" + filepath.Join(tmp, "work")
	at := filepath.Join(tmp, "at")
	for _, d := range []string{at, lower} {
		if err := Over(d, ns); err != nil {
			return fmt.Errorf("%s: %w", filepath.Dir(d), err)
		}
	}
	if err := unix.Mount("overlay", at, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount an overlay of layers of %s under other ids, written to %s (Linux 5.19): %w", filepath.Dir(lower), filepath.Dir(tmp), err)
	}
	var st unix.Stat_t
	if err := unix.Stat(lower, &st); err != nil {
		return err
	}
	if st.Uid != first {
		return fmt.Errorf("a file of root's belongs to id %d in the namespace's view, not to %d", st.Uid, first)
	}
	return nil
}

// Over puts over a directory or file itself, in the calling thread's mount namespace, what IDMap gives of it.
func Over(path string, ns *os.File) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	m, err := IDMap(fd, ns)
	if err != nil {
		return err
	}
	defer unix.Close(m)
	return Attach(m, fd)
}

// The descriptors of a process that is to become a program in a user namespace. Those before are the program's own; these it
// does not get.
const (
	SayFD   = 4 // gets one byte, the error number, when it could not become the program
	GateFD  = 5 // it waits until this says something
	ImageFD = 6 // Entry's file
	firstFD = 7 // the program and the namespaces
)

// Entry is how a process becomes a program in namespaces.
type Entry struct {
	// Path is what to execute in a child that has Files beyond SayFD, with GateFD in the place of the pipe.
	Path  string
	image *os.File
	files []*os.File
}

// Enter prepares a process that enters the user namespace, as its root, and before that the mount namespace if there is one,
// and then executes exe.
func Enter(exe, user, mounts *os.File) (*Entry, error) {
	e := &Entry{Path: "/proc/self/fd/" + strconv.Itoa(ImageFD), files: []*os.File{exe, user}}
	var steps []call
	if mounts != nil {
		e.files = append(e.files, mounts)
		steps = append(steps, call{unix.SYS_SETNS, firstFD + 2, unix.CLONE_NEWNS})
	}
	const all = 1<<32 - 1
	steps = append(
		steps,
		call{unix.SYS_SETNS, firstFD + 1, unix.CLONE_NEWUSER},
		call{unix.SYS_SETGROUPS, 0, 0},
		call{unix.SYS_SETRESGID, 0, 0, 0},
		call{unix.SYS_SETRESUID, 0, 0, 0},
		call{unix.SYS_CLOSE_RANGE, GateFD, all, unix.CLOSE_RANGE_CLOEXEC},
	)
	var err error
	e.image, err = program(steps, firstFD)
	return e, err
}

// Files are the child's descriptors from GateFD on.
func (e *Entry) Files(gate *os.File) []uintptr {
	out := []uintptr{gate.Fd(), e.image.Fd()}
	for _, f := range e.files {
		out = append(out, f.Fd())
	}
	return out
}

// Close frees what Enter made.
func (e *Entry) Close() { e.image.Close() }

// ErrUnsupported: there are no instructions for this kind of processor.
var ErrUnsupported = errors.New("user namespaces are given on amd64 and arm64 only")

// call is one system call: its number, and at most three arguments.
type call [4]uint64

// program makes an executable that waits for GateFD, carries out calls and executes a descriptor.
func program(calls []call, execFD int) (*os.File, error) {
	code := instructions()
	if code == nil {
		return nil, ErrUnsupported
	}
	fd, err := unix.MemfdCreate("enter", unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate("enter", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "enter")
	if err := write(f, code, append([]call{{unix.SYS_READ, GateFD, scratchAddr, 1}}, calls...), execFD); err != nil {
		f.Close()
		return nil, fmt.Errorf("make the program that enters a user namespace: %w", err)
	}
	return f, nil
}

// Where things lie in the executable and in its memory: pages may be of up to 64 KB.
const (
	textOffset, textAddr   = 0x10000, 0x410000
	tableOffset, tableAddr = 0x20000, 0x420000
	scratchAddr            = 0x428000 // one byte to read into
	memory                 = 0x10000
)

// endOfCalls is no system call: the program executes its argument.
const endOfCalls = 1<<64 - 1

func write(f io.WriterAt, code []byte, calls []call, execFD int) error {
	calls = append(calls, call{endOfCalls, uint64(int64(execFD))})
	var table []byte
	for _, c := range calls {
		for _, v := range c {
			table = le.AppendUint64(table, v)
		}
	}
	const header, entry = 64, 56
	h := append([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, make([]byte, 9)...)
	h = le.AppendUint16(h, 2) // an executable
	h = le.AppendUint16(h, machine)
	h = le.AppendUint32(h, 1)
	h = le.AppendUint64(h, textAddr)
	h = le.AppendUint64(h, header) // of the program headers
	h = le.AppendUint64(h, 0)
	h = le.AppendUint32(h, 0)
	for _, v := range []uint16{header, entry, 2, 0, 0, 0} {
		h = le.AppendUint16(h, v)
	}
	for _, s := range []struct {
		flags                     uint32
		offset, addr, size, inMem uint64
	}{
		{4 | 1, textOffset, textAddr, uint64(len(code)), uint64(len(code))},
		{4 | 2, tableOffset, tableAddr, uint64(len(table)), memory},
	} {
		h = le.AppendUint32(h, 1) // to be loaded
		h = le.AppendUint32(h, s.flags)
		for _, v := range []uint64{s.offset, s.addr, s.addr, s.size, s.inMem, 0x10000} {
			h = le.AppendUint64(h, v)
		}
	}
	for _, part := range []struct {
		b  []byte
		at int64
	}{{h, 0}, {code, textOffset}, {table, tableOffset}} {
		if _, err := f.WriteAt(part.b, part.at); err != nil {
			return err
		}
	}
	return nil
}
