package launcher

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/osthread"
	"github.com/orchestrator/orchestrator/internal/agent/proctree"
)

// Request is one helper to start.
type Request struct {
	Spec *spec.Spec
	// Group is the cgroup it is born into; nil for none.
	Group *cgroup.Group
	// New namespaces, of which the helper is the first process. Mount and PID are also said in Spec.
	NewIPC, NewUTS bool
	// NetNS is the path of the network namespace that it is born into; empty: the agent's.
	NetNS string
	// Secrets are what mounts of that type hold, by number.
	Secrets [][]byte
	// OOMScoreAdj of the helper itself; it must survive what kills its task.
	OOMScoreAdj int
	// Ready, if not nil, is waited for before the helper is told to go on: what it needs is being made while it starts. An error
	// from it is the start's.
	Ready <-chan error
}

// Launcher starts helpers from one binary.
type Launcher struct {
	binary string
	bootID string
}

// New checks that the binary is there. It is called with spec.Subcommand and the runtime directory of a container.
func New(binary string) (*Launcher, error) {
	if err := unix.Access(binary, unix.X_OK); err != nil {
		return nil, fmt.Errorf("the helper %s: %w", binary, err)
	}
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	return &Launcher{binary: binary, bootID: strings.TrimSpace(string(b))}, nil
}

// identity is the content of the pid file: a pid alone may be another process's by now.
type identity struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"`
	BootID    string `json:"boot_id"`
}

// Helper is a helper that runs or ran.
type Helper struct {
	PID   int
	child bool // ours to reap
	fd    *os.File
	leash io.Closer
}

// debugEnv keeps the helper's runtime from looking for limits of CPU time in control groups: it reads and parses the whole
// mount table for it, at every start, for a number that GOMAXPROCS says anyway.
const debugEnv = "GODEBUG=containermaxprocs=0,updatemaxprocs=0"

// startLimit bounds a start that hangs (a dead NFS server under a volume).
const startLimit = 60 * time.Second

// Start starts a helper and returns when its container runs. A failure leaves no process.
func (l *Launcher) Start(ctx context.Context, r Request) (*Helper, error) {
	s := r.Spec
	if err := spec.Create(s.Dir, spec.LaunchFile, s); err != nil {
		return nil, fmt.Errorf("write the launch paper: %w", err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "start")
	defer theirs.Close()
	ours := os.NewFile(uintptr(pair[0]), "start")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, err
	}
	keep := false
	defer func() {
		if !keep {
			conn.Close()
		}
	}()
	h, err := l.fork(r, theirs)
	if err != nil {
		return nil, fmt.Errorf("start the helper: %w", err)
	}
	theirs.Close()
	fail := func(err error) (*Helper, error) {
		h.Kill()
		_ = h.Wait(context.WithoutCancel(ctx))
		h.Close()
		return nil, err
	}
	start, err := proctree.StartTime(h.PID)
	if err != nil {
		return fail(l.why(s, err))
	}
	if err := spec.Create(s.Dir, spec.PIDFile, identity{h.PID, start, l.bootID}); err != nil {
		return fail(fmt.Errorf("write the pid: %w", err))
	}
	if r.Ready != nil {
		if err := <-r.Ready; err != nil {
			return fail(err)
		}
	}
	_ = conn.SetDeadline(time.Now().Add(startLimit))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write([]byte{'g'}); err != nil {
		return fail(l.why(s, err))
	}
	line, err := bufio.NewReader(io.LimitReader(conn, 64<<10)).ReadBytes('\n')
	if err != nil {
		if ctx.Err() != nil {
			return fail(fmt.Errorf("the launch was given up: %w", context.Cause(ctx)))
		}
		return fail(l.why(s, err))
	}
	var st spec.Started
	if err := json.Unmarshal(line, &st); err != nil {
		return fail(fmt.Errorf("what the helper said: %w", err))
	}
	if st.Error != "" {
		return fail(errors.New(st.Error))
	}
	if s.Leash {
		_ = conn.SetDeadline(time.Time{})
		keep, h.leash = true, conn
	}
	return h, nil
}

// why adds what a helper that went away had to say about itself.
func (l *Launcher) why(s *spec.Spec, err error) error {
	b, _ := os.ReadFile(filepath.Join(s.Dir, spec.LogFile))
	said := strings.TrimSpace(string(b))
	if len(said) > 2000 {
		said = said[:2000] + "…"
	}
	if said == "" {
		return fmt.Errorf("the helper did not start: %w", err)
	}
	return fmt.Errorf("the helper did not start: %s (%w)", said, err)
}

// fork makes the process. A thread of ours goes ahead into the network namespace and, on v1, the cgroup, forks there, and ends.
func (l *Launcher) fork(r Request, start *os.File) (*Helper, error) {
	s := r.Spec
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	log, err := os.OpenFile(filepath.Join(s.Dir, spec.LogFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	pidfd := -1
	attr := &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GOMAXPROCS=2", debugEnv, spec.Marker + "=" + s.Mark},
		Files: []uintptr{null.Fd(), null.Fd(), log.Fd(), start.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
	}
	if s.Secrets {
		secrets, err := memory(r.Secrets)
		if err != nil {
			return nil, fmt.Errorf("pass the secrets: %w", err)
		}
		defer secrets.Close()
		attr.Files = append(attr.Files, secrets.Fd())
	}
	for flag, on := range map[uintptr]bool{
		unix.CLONE_NEWPID: s.NewPID, unix.CLONE_NEWNS: s.NewMount, unix.CLONE_NEWIPC: r.NewIPC, unix.CLONE_NEWUTS: r.NewUTS,
	} {
		if on {
			attr.Sys.Cloneflags |= flag
		}
	}
	argv := []string{"orchestrator-executor", spec.Subcommand, s.Dir}
	var leaf *os.File
	if r.Group != nil {
		if leaf, err = r.Group.OpenLeaf(); err != nil {
			return nil, err
		}
		if leaf != nil {
			defer leaf.Close()
			attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(leaf.Fd())
		}
	}
	enter := r.Group != nil && leaf == nil
	if !enter && r.NetNS == "" {
		return l.forkExec(argv, attr, &pidfd, r.OOMScoreAdj)
	}
	var h *Helper
	osthread.Run(func() {
		if r.NetNS != "" {
			if err = enterNetwork(r.NetNS); err != nil {
				return // the thread ends in whatever network it is
			}
		}
		if !enter {
			h, err = l.forkExec(argv, attr, &pidfd, r.OOMScoreAdj)
			return
		}
		if err = r.Group.EnterThread(); err == nil {
			h, err = l.forkExec(argv, attr, &pidfd, r.OOMScoreAdj)
		}
		// Out again before anybody can freeze or kill the group: we must not be hit with it.
		if lerr := r.Group.LeaveThread(); lerr != nil {
			err = errors.Join(err, lerr)
		}
	})
	if err != nil {
		if h != nil {
			h.Kill()
			_ = h.Wait(context.Background())
			h.Close()
		}
		return nil, err
	}
	return h, nil
}

// memory gives a file in memory that holds a value as JSON.
func memory(v any) (*os.File, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("secrets", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "secrets")
	if _, err = f.Write(b); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// enterNetwork puts the calling thread, which must be one of osthread's, into a network namespace.
func enterNetwork(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	return nil
}

func (l *Launcher) forkExec(argv []string, attr *syscall.ProcAttr, pidfd *int, oom int) (*Helper, error) {
	pid, err := syscall.ForkExec(l.binary, argv, attr)
	if err != nil {
		return nil, err
	}
	if oom != 0 {
		_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(strconv.Itoa(oom)), 0) // a protection, not a promise
	}
	if *pidfd < 0 {
		if *pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			_, _ = syscall.Wait4(pid, nil, 0, nil)
			return nil, os.NewSyscallError("pidfd_open", err)
		}
	}
	h := &Helper{PID: pid, child: true}
	return h, h.watch(*pidfd)
}

func (h *Helper) watch(pidfd int) error {
	// Non-blocking, it goes to Go's poller: waiting costs a goroutine and no thread.
	if err := unix.SetNonblock(pidfd, true); err != nil {
		return err
	}
	h.fd = os.NewFile(uintptr(pidfd), "pidfd")
	return nil
}

// Adopt finds the helper of a container again that an earlier agent process started. ErrGone: it does not run any more.
func (l *Launcher) Adopt(dir string) (*Helper, error) {
	var id identity
	if err := spec.Read(dir, spec.PIDFile, &id); err != nil {
		return nil, ErrGone // never or only half written: it was never told to go on
	}
	if id.BootID != l.bootID {
		return nil, ErrGone
	}
	fd, err := unix.PidfdOpen(id.PID, 0)
	if err != nil {
		return nil, ErrGone
	}
	// The descriptor holds the process; now its start time says whether it is the one that was meant.
	if start, err := proctree.StartTime(id.PID); err != nil || start != id.StartTime {
		unix.Close(fd)
		return nil, ErrGone
	}
	h := &Helper{PID: id.PID}
	return h, h.watch(fd)
}

// Wait returns when the helper has ended. How the container ended is in spec.StatusFile.
func (h *Helper) Wait(ctx context.Context) error {
	raw, err := h.fd.SyscallConn()
	if err != nil {
		return err
	}
	_ = h.fd.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = h.fd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = raw.Read(func(fd uintptr) bool { return ended(int(fd)) })
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("wait for the helper: %w", err)
	}
	if h.child {
		for {
			_, err := syscall.Wait4(h.PID, nil, 0, nil)
			if err != syscall.EINTR {
				break
			}
		}
		h.child = false
	}
	return nil
}

// ended asks the kernel without waiting.
func ended(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, 0)
		if err == unix.EINTR {
			continue
		}
		return err == nil && n > 0
	}
}

// Kill kills the helper; as the first process of a PID namespace it takes everything in it along.
func (h *Helper) Kill() { _ = h.Signal(syscall.SIGKILL) }

// Signal signals the helper itself; a process that has taken its number meanwhile is never hit.
func (h *Helper) Signal(sig syscall.Signal) error {
	raw, err := h.fd.SyscallConn()
	if err != nil {
		return err
	}
	var sigErr error
	err = raw.Control(func(fd uintptr) { sigErr = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	return errors.Join(err, sigErr)
}

// Close forgets the helper without touching it, except that a leashed one ends.
func (h *Helper) Close() {
	h.fd.Close()
	if h.leash != nil {
		h.leash.Close()
	}
}
