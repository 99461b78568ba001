package supervisor

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/launcher/control"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/proctree"
	"github.com/orchestrator/orchestrator/internal/agent/unixsock"
)

// startFD is the helper's end of the socket pair over which the launcher says go and hears what became of it.
const startFD = 3

// killLimit bounds how long the helper kills before it leaves the rest to the agent, which has stronger means.
const killLimit = 10 * time.Second

// Container is the helper's one container.
type Container struct {
	Spec   *spec.Spec
	Reaper *Reaper
	Output *Output
	// Killed is closed when the agent asked for the end of everything.
	Killed chan struct{}

	// Why, if set before Finish, is written down with the wait status.
	Why *spec.Why

	start    *os.File
	join     []Namespace
	view     view
	killOnce sync.Once
	first    struct {
		sync.Mutex
		pid    int // 0: not running
		remote func(syscall.Signal) error
	}
	oomStart uint64
}

// Open reads the paper in dir, prepares everything that needs no permission to start, and waits for the launcher's go:
// when that does not come, the launcher has died before it wrote down that this helper exists, and so it must not.
func Open(dir string) (*Container, error) {
	syscall.CloseOnExec(startFD)
	var s spec.Spec
	if err := spec.Read(dir, spec.LaunchFile, &s); err != nil {
		return nil, err
	}
	c := &Container{Spec: &s, Killed: make(chan struct{}), start: os.NewFile(startFD, "start")}
	if err := c.prepare(); err != nil {
		c.Started(0, err)
		return nil, err
	}
	var b [1]byte
	if n, err := unix.Read(startFD, b[:]); n != 1 {
		return nil, fmt.Errorf("the launcher went away before it said go (%d bytes read): %w", n, cmp.Or(err, io.EOF))
	}
	if err := os.WriteFile(filepath.Join(dir, spec.BegunFile), nil, 0o600); err != nil {
		err = fmt.Errorf("note that the container has begun: %w", err)
		c.Started(0, err)
		return nil, err
	}
	c.oomStart = c.oomCount()
	if s.Leash {
		go func() {
			_, _ = io.Copy(io.Discard, c.start)
			c.Kill()
		}()
	}
	return c, nil
}

func (c *Container) prepare() (err error) {
	if c.join, err = openNamespaces(c.Spec.Join); err != nil {
		return err
	}
	// Before the sandbox is mounted over with the ids of the container's user namespace, in which we are nobody.
	if c.Output, err = openSandbox(c.Spec); err != nil {
		return err
	}
	dropSecrets, err := c.setUpMounts()
	if err != nil {
		return err
	}
	if c.Spec.Hostname != "" {
		if err := unix.Sethostname([]byte(c.Spec.Hostname)); err != nil {
			return os.NewSyscallError("sethostname", err)
		}
	}
	if err := c.prepareRoot(); err != nil {
		return err
	}
	if err := dropSecrets(); err != nil {
		return err
	}
	if c.Reaper, err = NewReaper(); err != nil {
		return err
	}
	if err := c.Output.open(); err != nil {
		return err
	}
	l, err := unixsock.Listen(filepath.Join(c.Spec.Dir, spec.ControlFile))
	if err != nil {
		return err
	}
	go c.serve(l) // as long as the process
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	go func() {
		<-sig
		c.Kill()
	}()
	return nil
}

// Started tells the launcher that the container runs, or why it does not.
func (c *Container) Started(pid int, err error) {
	st := spec.Started{PID: pid}
	if err != nil {
		st.Error = err.Error()
	}
	b, _ := json.Marshal(st)
	_, _ = c.start.Write(append(b, '\n'))
	if !c.Spec.Leash || err != nil {
		c.start.Close()
	}
}

// Start starts the container's first process: the one that signals go to and whose end is the container's.
func (c *Container) Start(p *spec.Process) (*Proc, error) {
	if r := c.Spec.Root; r != nil && r.Runtime != "" {
		proc, err := c.startOCI(p)
		if err != nil {
			return nil, err
		}
		c.first.Lock()
		c.first.pid = proc.PID
		c.first.Unlock()
		return proc, nil
	}
	if p.TTY != nil {
		c.Output.views = views(c.join)
	}
	stdio, started, err := c.Output.Stdio(p)
	if err != nil {
		return nil, err
	}
	proc, err := c.Reaper.Start(p, c.join, stdio)
	started()
	if err != nil {
		return nil, err
	}
	c.first.Lock()
	c.first.pid = proc.PID
	c.first.Unlock()
	return proc, nil
}

// StartBeside starts a further process with no input and no output: a check.
func (c *Container) StartBeside(p *spec.Process) (*Proc, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	return c.Reaper.Start(p, c.join, Stdio{In: null, Out: null, Err: null})
}

// Ended says that the first process has ended: its number must not be signalled any more.
func (c *Container) Ended() {
	c.first.Lock()
	c.first.pid = 0
	c.first.Unlock()
}

// Signal sends a signal to the first process.
func (c *Container) Signal(sig syscall.Signal) error {
	c.first.Lock()
	if remote := c.first.remote; remote != nil {
		c.first.Unlock()
		return remote(sig)
	}
	defer c.first.Unlock()
	if c.first.pid == 0 {
		return syscall.ESRCH
	}
	return c.Reaper.Kill(c.first.pid, sig)
}

// Kill asks for the end of everything.
func (c *Container) Kill() { c.killOnce.Do(func() { close(c.Killed) }) }

// KillAll kills every process of the container but the helper.
func (c *Container) KillAll() { proctree.Kill(os.Getpid(), killLimit) }

// Finish writes down how the container ended, after everything that it wrote has been kept, and tells who is attached.
func (c *Container) Finish(ws *syscall.WaitStatus) error {
	c.Output.Drain()
	var st spec.Status
	if ws != nil {
		st = spec.Status{Known: true, Status: int32(*ws)}
	}
	st.Why = c.Why
	err := spec.Write(c.Spec.Dir, spec.StatusFile, st)
	c.Output.Close()
	return err
}

// OOM reports whether the kernel killed a process of the container for want of memory since the container started.
func (c *Container) OOM() bool { return c.oomCount() > c.oomStart }

func (c *Container) oomCount() uint64 {
	if c.Spec.OOMFile == "" {
		return 0
	}
	b, err := os.ReadFile(c.Spec.OOMFile)
	if err != nil {
		return 0
	}
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		if v, ok := bytes.CutPrefix(sc.Bytes(), []byte("oom_kill ")); ok {
			n, _ := strconv.ParseUint(string(v), 10, 64)
			return n
		}
	}
	return 0
}

// maxControl bounds the connections to one control socket.
const maxControl = 64

func (c *Container) serve(l *net.UnixListener) {
	slots := make(chan struct{}, maxControl)
	for {
		uc, err := l.AcceptUnix()
		if err != nil {
			time.Sleep(50 * time.Millisecond) // out of descriptors: the listener itself is never closed
			continue
		}
		cred, err := unixsock.Peer(uc)
		if err != nil || cred.Uid != 0 && int(cred.Uid) != os.Getuid() {
			uc.Close()
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			uc.Close()
			continue
		}
		go func() {
			defer func() { <-slots }()
			defer uc.Close()
			c.answer(uc)
		}()
	}
}

func (c *Container) answer(uc *net.UnixConn) {
	_ = uc.SetReadDeadline(time.Now().Add(10 * time.Second))
	typ, data, err := control.Read(uc)
	if err != nil {
		return
	}
	_ = uc.SetReadDeadline(time.Time{})
	_ = uc.SetWriteDeadline(time.Now().Add(10 * time.Second))
	switch {
	case typ == control.Signal && len(data) == 1:
		if err := c.Signal(syscall.Signal(data[0])); err != nil {
			_ = control.Write(uc, control.Fail, []byte(err.Error()))
			return
		}
		_ = control.Write(uc, control.Done, nil)
	case typ == control.Kill:
		c.Kill()
		_ = control.Write(uc, control.Done, nil)
	case typ == control.Attach:
		h := c.Output.hubNow()
		if h == nil {
			_ = control.Write(uc, control.Fail, []byte("this container has no attachable input and output"))
			return
		}
		_ = uc.SetWriteDeadline(time.Time{})
		h.attach(uc)
	default:
		_ = control.Write(uc, control.Fail, []byte("unknown request"))
	}
}
