package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/osthread"
	"github.com/orchestrator/orchestrator/internal/agent/unixsock"
)

// Names in a container's runtime directory.
const (
	bundleDir   = "bundle"
	ociState    = "oci"
	ociLog      = "oci.log"
	ociPID      = "oci.pid"
	consoleFile = "console.sock"
)

// ociLimit bounds one command of an OCI runtime.
const ociLimit = 60 * time.Second

// ociContainerID is the runtime's name of the container: its state lies in the container's own directory.
const ociContainerID = "c"

// prepareOCI mounts the image where the OCI runtime will find it, in the helper's own mount namespace. The runtime makes
// the container's mount namespace of that; all other namespaces and the cgroups are those that the helper was born into.
func (c *Container) prepareOCI(rootfs string) error {
	r := c.Spec.Root
	if err := c.view.mountLayers(rootfs, r.Layers, r.Scratch); err != nil {
		return err
	}
	fd, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open the root", err)
	}
	defer unix.Close(fd)
	if r.WorkingDir != "" && r.WorkingDir != r.Sandbox && !strings.HasPrefix(r.WorkingDir, r.Sandbox+"/") {
		wd, err := tree(fd).make(r.WorkingDir, true, 0)
		if err != nil {
			return fmt.Errorf("the image's working directory: %w", err)
		}
		unix.Close(wd)
	}
	// The container is to stay in its cgroups: runtimes that can't be told so find that they may not make others. Where v2
	// is mounted beside v1 crun refuses to work at all unless it does not see it.
	if _, err := os.Stat("/sys/fs/cgroup/unified"); err == nil {
		if err := unix.Mount("none", "/sys/fs/cgroup/unified", "tmpfs", unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("hide cgroups from the OCI runtime: %w", err)
		}
	}
	cg, err := unix.Open("/sys/fs/cgroup", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == nil {
		err = protect(cg, 0, true)
		unix.Close(cg)
		if errors.Is(err, unix.EINVAL) { // not a mount point
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("protect cgroups from the OCI runtime: %w", err)
	}
	// Sources of mounts are found beneath their roots here; the runtime gets paths that nobody else can change.
	for i, m := range r.Mounts {
		m = secretFile(c.Spec, m)
		if m.Type == "tmpfs" {
			continue
		}
		at := c.ociSource(i)
		if err := c.placeSource(m, at); err != nil {
			return err
		}
	}
	return nil
}

func (c *Container) ociSource(i int) string {
	return filepath.Join(c.Spec.Dir, "mounts", strconv.Itoa(i))
}

func (c *Container) placeSource(m spec.Mount, at string) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		return err
	}
	dir, err := showsDirectory(m)
	if err != nil {
		return err
	}
	if dir {
		err = os.Mkdir(at, 0o755)
	} else {
		err = os.WriteFile(at, nil, 0o600)
	}
	if err != nil {
		return err
	}
	m.TargetRoot, m.Target = "", at
	return c.view.mount(m)
}

// ociConfig completes the configuration that the containerizer began.
func (c *Container) ociConfig(p *spec.Process) error {
	r := c.Spec.Root
	var s specs.Spec
	if err := json.Unmarshal(r.OCI, &s); err != nil {
		return fmt.Errorf("the OCI configuration: %w", err)
	}
	s.Root.Path = filepath.Join(c.Spec.Dir, "rootfs")
	argv := p.Argv
	if len(argv) == 0 {
		argv = []string{p.Path}
	}
	// A configuration can't name a program apart from its argv[0].
	s.Process.Args = append([]string{p.Path}, argv[1:]...)
	s.Process.Env, s.Process.Cwd, s.Process.Terminal = p.Env, p.Dir, p.TTY != nil
	if p.TTY != nil && (p.TTY.Rows > 0 || p.TTY.Columns > 0) {
		s.Process.ConsoleSize = &specs.Box{Height: uint(p.TTY.Rows), Width: uint(p.TTY.Columns)}
	}
	if p.Switch {
		s.Process.User = specs.User{UID: p.UID, GID: p.GID, AdditionalGids: p.Groups}
	}
	for i, m := range r.Mounts {
		o := specs.Mount{Destination: m.Target, Type: "bind", Source: c.ociSource(i), Options: []string{"rbind", "rslave"}}
		if m.Type == "tmpfs" {
			o = specs.Mount{Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: append([]string{"nosuid", "nodev"}, strings.Split(m.Data, ",")...)}
		}
		if m.RO || m.Type == "secret" {
			o.Options = append(o.Options, "ro")
		}
		s.Mounts = append(s.Mounts, o)
	}
	dir := filepath.Join(c.Spec.Dir, bundleDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return spec.Write(dir, "config.json", &s)
}

// startOCI starts the container's first process through the OCI runtime. The process becomes this one's child, and its
// mount namespace that which checks and sessions enter.
func (c *Container) startOCI(p *spec.Process) (*Proc, error) {
	if err := c.ociConfig(p); err != nil {
		return nil, err
	}
	var stdio Stdio
	var started func()
	var console *net.UnixListener
	args := []string{"create", "--bundle", filepath.Join(c.Spec.Dir, bundleDir), "--pid-file", filepath.Join(c.Spec.Dir, ociPID)}
	var err error
	if p.TTY != nil {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		stdio, started = Stdio{In: null, Out: null, Err: null}, func() { null.Close() }
		path := filepath.Join(c.Spec.Dir, consoleFile)
		if console, err = unixsock.Listen(path); err != nil {
			null.Close()
			return nil, err
		}
		defer console.Close()
		args = append(args, "--console-socket", path)
	} else if stdio, started, err = c.Output.Stdio(p); err != nil {
		return nil, err
	}
	master := make(chan *os.File, 1)
	if console != nil {
		_ = console.SetDeadline(time.Now().Add(ociLimit))
		go func() {
			f, err := receiveConsole(console)
			if err != nil {
				close(master)
				return
			}
			master <- f
		}()
	}
	err = c.ociCommand(stdio, append(args, ociContainerID)...)
	started()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(c.Spec.Dir, ociPID))
	if err != nil {
		return nil, fmt.Errorf("the OCI runtime told no pid: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fmt.Errorf("the OCI runtime told no pid: %w", err)
	}
	done := c.Reaper.adopt(pid)
	fail := func(err error) (*Proc, error) {
		_ = c.Reaper.Kill(pid, syscall.SIGKILL)
		<-done
		return nil, err
	}
	if console != nil {
		f, ok := <-master
		if !ok {
			return fail(errors.New("the OCI runtime passed no terminal"))
		}
		c.Output.serveTerminal(f, p)
	}
	ns, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(os.NewSyscallError("open the container's mount namespace", err))
	}
	err = unix.Dup3(ns, spec.RootFD, unix.O_CLOEXEC)
	unix.Close(ns)
	if err != nil {
		return fail(os.NewSyscallError("dup3", err))
	}
	c.joinRoot()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	defer null.Close()
	if err := c.ociCommand(Stdio{In: null, Out: null, Err: null}, "start", ociContainerID); err != nil {
		return fail(err)
	}
	return &Proc{PID: pid, Done: done}, nil
}

// ociCommand runs the runtime and waits for it.
func (c *Container) ociCommand(io Stdio, args ...string) error {
	runtime := c.Spec.Root.Runtime
	log := filepath.Join(c.Spec.Dir, ociLog)
	global := []string{filepath.Base(runtime), "--root", filepath.Join(c.Spec.Dir, ociState), "--log", log, "--log-format", "json"}
	switch filepath.Base(runtime) {
	case "crun":
		global = append(global, "--cgroup-manager=disabled")
	case "runc":
		global = append(global, "--rootless=true") // of its cgroups alone: it may not make any, and accepts that
	}
	proc, err := c.Reaper.Start(&spec.Process{
		Path: runtime, Argv: append(global, args...), Dir: c.Spec.Dir, OOMScoreAdj: c.Spec.Process.OOMScoreAdj,
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR=" + c.Spec.Dir, spec.Marker + "=" + c.Spec.Mark},
	}, nil, io)
	if err != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(runtime), args[0], err)
	}
	timer := time.NewTimer(ociLimit)
	defer timer.Stop()
	var ws syscall.WaitStatus
	select {
	case ws = <-proc.Done:
	case <-timer.C:
		_ = c.Reaper.Kill(proc.PID, syscall.SIGKILL)
		<-proc.Done
		return fmt.Errorf("%s %s: not done within %s", filepath.Base(runtime), args[0], ociLimit)
	}
	if ws.Exited() && ws.ExitStatus() == 0 {
		return nil
	}
	how := fmt.Sprintf("exit status %d", ws.ExitStatus())
	if ws.Signaled() {
		how = "killed by " + ws.Signal().String()
	}
	return fmt.Errorf("%s %s: %s: %s", filepath.Base(runtime), args[0], how, ociComplaint(log))
}

// ociComplaint is the last thing that a runtime has logged as an error.
func ociComplaint(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "it left no log"
	}
	said := "it logged no error"
	for line := range strings.Lines(string(b[max(0, len(b)-64<<10):])) {
		var m struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &m) == nil && m.Msg != "" && m.Level != "warning" {
			said = m.Msg
		}
	}
	return said
}

// receiveConsole takes the terminal that the runtime has made in the container.
func receiveConsole(l *net.UnixListener) (*os.File, error) {
	conn, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(ociLimit))
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*4))
	_, n, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("no descriptor came: %w", err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return nil, err
	}
	for _, fd := range fds[1:] {
		unix.Close(fd)
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

// accountIn finds the process's user in a root that is mounted at a directory.
func accountIn(p *spec.Process, root string) (err error) {
	osthread.Run(func() {
		if err = unix.Unshare(unix.CLONE_FS); err != nil {
			return
		}
		if err = unix.Chroot(root); err == nil {
			err = resolveAccount(p)
		}
	})
	return err
}
