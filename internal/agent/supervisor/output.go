package supervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/launcher/control"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/osthread"
)

// Output is where the container's processes write: the sandbox's files, attachments, or nowhere. Several processes may
// use it one after the other or at once (the task and its checks' complaints).
type Output struct {
	spec     *spec.Spec
	log      spec.Log
	sandbox  int // its descriptor; -1: none
	out, err *logFile
	hub      *hub // under mu where another goroutine than the starter looks
	wg       sync.WaitGroup
	views    []Namespace // the mount namespace in which terminals are made

	mu   sync.Mutex
	mine []io.Closer // our ends of pipes, closed when draining takes too long
}

// openSandbox opens the sandbox that output goes to.
func openSandbox(s *spec.Spec) (o *Output, err error) {
	o = &Output{spec: s, log: s.Log, sandbox: -1}
	if s.Log.Session || s.Log.Discard {
		return o, nil
	}
	if o.sandbox, err = unix.Open(s.Sandbox, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open sandbox %s: %w", s.Sandbox, err)
	}
	return o, nil
}

// Sandbox is a path by which this process finds the sandbox as the agent does, whatever the container's own view of it is.
func (o *Output) Sandbox() string { return "/proc/self/fd/" + strconv.Itoa(o.sandbox) }

// open opens stdout and stderr in the sandbox, owned by the process's user.
func (o *Output) open() (err error) {
	if o.sandbox < 0 {
		return nil
	}
	uid, gid := -1, -1
	if p := &o.spec.Process; p.Switch {
		uid, gid = int(p.UID), int(p.GID)
	}
	if o.out, err = openLog(o.sandbox, "stdout", o.log, uid, gid); err != nil {
		return err
	}
	o.err, err = openLog(o.sandbox, "stderr", o.log, uid, gid)
	return err
}

// give lets a process open a pipe or terminal of ours by its name, such as /dev/stdout.
func (o *Output) give(p *spec.Process, files ...*os.File) {
	if !p.Switch && o.spec.IDs == nil {
		return
	}
	uid, gid := o.spec.IDs.Host(p.UID), o.spec.IDs.Host(p.GID)
	for _, f := range files {
		_ = f.Chown(uid, gid) // without the right to give it away it serves all the same, but by its descriptor alone
	}
}

// Complain writes a line into the sandbox's stderr: what the user of the task must know and no status message holds.
func (o *Output) Complain(format string, args ...any) {
	if o.err != nil {
		fmt.Fprintf(o.err, format+"\n", args...)
	}
}

// Stdio makes the descriptors for one process whose output goes to the logs and the attachments. started must be called
// once the process has them, or has failed to start.
func (o *Output) Stdio(p *spec.Process) (std Stdio, started func(), err error) {
	if p.TTY != nil {
		return o.terminal(p)
	}
	if o.log.Discard {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return Stdio{}, nil, err
		}
		return Stdio{In: null, Out: null, Err: null}, func() { null.Close() }, nil
	}
	var fs [6]*os.File
	closeAll := func() {
		for _, f := range fs {
			if f != nil {
				f.Close()
			}
		}
	}
	if o.log.Attach {
		fs[0], fs[1], err = pipe(false)
	} else {
		fs[0], err = os.Open(os.DevNull)
	}
	if err == nil {
		fs[2], fs[3], err = pipe(true)
	}
	if err == nil {
		fs[4], fs[5], err = pipe(true)
	}
	if err != nil {
		closeAll()
		return Stdio{}, nil, fmt.Errorf("make the process's pipes: %w", err)
	}
	if o.log.Attach {
		o.setHub(newHub(o.log.Session, fs[1], nil))
		o.give(p, fs[0])
	}
	o.give(p, fs[3], fs[5])
	o.keep(fs[2], fs[4])
	o.copy(fs[2], control.Stdout, o.out)
	o.copy(fs[4], control.Stderr, o.err)
	return Stdio{In: fs[0], Out: fs[3], Err: fs[5]}, func() { fs[0].Close(); fs[3].Close(); fs[5].Close() }, nil
}

func (o *Output) terminal(p *spec.Process) (Stdio, func(), error) {
	var master, slave *os.File
	var err error
	if len(o.views) == 0 {
		master, slave, err = openTerminal()
	} else {
		// Of the container's own /dev/pts: its programs find it by name.
		osthread.Run(func() {
			if _, err = prepareThread(&spec.Process{}, o.views); err == nil {
				master, slave, err = openTerminal()
			}
		})
	}
	if err != nil {
		return Stdio{}, nil, fmt.Errorf("open a terminal: %w", err)
	}
	o.give(p, slave)
	o.serveTerminal(master, p)
	return Stdio{In: slave, Out: slave, Err: slave, Terminal: true}, func() { slave.Close() }, nil
}

// serveTerminal begins to move what a terminal shows, and serves it to attachments.
func (o *Output) serveTerminal(master *os.File, p *spec.Process) {
	if p.TTY.Rows > 0 || p.TTY.Columns > 0 {
		_ = setWindow(master, p.TTY.Rows, p.TTY.Columns)
	}
	o.setHub(newHub(o.log.Session, master, func(rows, columns uint16) { _ = setWindow(master, rows, columns) }))
	o.keep(master)
	o.copy(master, control.Stdout, o.out)
}

// openTerminal makes a terminal: our end and the process's.
func openTerminal() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	raw, err := master.SyscallConn()
	if err == nil {
		var ioErr error
		err = raw.Control(func(fd uintptr) {
			if ioErr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); ioErr != nil {
				return
			}
			peer, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
			if errno != 0 {
				ioErr = os.NewSyscallError("ioctl TIOCGPTPEER", errno)
				return
			}
			slave = os.NewFile(peer, "terminal")
		})
		err = errors.Join(err, ioErr)
	}
	if err != nil {
		master.Close()
		return nil, nil, err
	}
	return master, slave, nil
}

func (o *Output) keep(fs ...io.Closer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mine = append(o.mine, fs...)
}

// copy begins to move one stream. A session's is not read before somebody is there to read it.
func (o *Output) copy(from *os.File, typ byte, log *logFile) {
	h := o.hub
	o.wg.Go(func() {
		if h != nil && h.session {
			select {
			case <-h.first:
			case <-h.quit():
			}
		}
		if log == nil {
			copyOut(from, typ, nil, h)
		} else {
			copyOut(from, typ, log, h)
		}
	})
}

// Drain waits until everything that was written has been taken, but not for long: a process that left the container's
// reach may hold the pipe open.
func (o *Output) Drain() {
	done := make(chan struct{})
	go func() { o.wg.Wait(); close(done) }()
	limit := drainTimeout
	if o.log.Session {
		limit += firstAttach
	}
	select {
	case <-done:
	case <-time.After(limit):
		o.mu.Lock()
		for _, f := range o.mine {
			f.Close()
		}
		o.mu.Unlock()
	}
}

// Close tells the attachments that this was all.
func (o *Output) Close() {
	if o.hub != nil {
		o.hub.end()
	}
	if o.out != nil {
		o.out.close()
		o.err.close()
	}
}

// pipe makes a pipe of which one end is the helper's (the reading one if readMine), which never blocks a thread, and the
// other the process's, which blocks as programs expect.
func pipe(readMine bool) (r, w *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	mine := p[1]
	if readMine {
		mine = p[0]
	}
	if err := unix.SetNonblock(mine, true); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(p[0]), "|0"), os.NewFile(uintptr(p[1]), "|1"), nil
}

func (o *Output) setHub(h *hub) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hub = h
}

func (o *Output) hubNow() *hub {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.hub
}
