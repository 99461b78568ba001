// Command guest is the first process of vmtest's virtual machine: it makes of a kernel and an initramfs a machine in which tests
// can run, runs them, says what they said, and stops the machine. It is no part of what is shipped.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/vmtest/paper"
)

func main() {
	_ = os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") // the kernel gives none
	g := &guest{}
	if err := g.run(); err != nil {
		g.say(paper.Message{Error: err.Error()})
		fmt.Fprintln(os.Stderr, "guest:", err) // the console, where there is no port yet
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // qemu runs with -no-reboot
	select {}
}

type guest struct {
	mu   sync.Mutex
	out  *json.Encoder
	buf  *bufio.Writer
	port *os.File
}

// say sends a message out.
func (g *guest) say(m paper.Message) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.out == nil {
		return
	}
	if err := errors.Join(g.out.Encode(m), g.buf.Flush()); err != nil {
		fmt.Fprintln(os.Stderr, "guest: say:", err)
	}
}

func (g *guest) run() error {
	var p paper.Paper
	b, err := os.ReadFile(paper.File)
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil {
		return fmt.Errorf("read the paper: %w", err)
	}
	if err := newRoot(); err != nil {
		return err
	}
	for _, m := range []struct{ source, at, kind, data string }{
		{"proc", "/proc", "proc", ""},
		{"sysfs", "/sys", "sysfs", ""},
		{"dev", "/dev", "devtmpfs", ""},
		{"devpts", "/dev/pts", "devpts", "ptmxmode=0666"},
		{"shm", "/dev/shm", "tmpfs", "mode=1777"},
		{"mqueue", "/dev/mqueue", "mqueue", ""},
		{"tmp", "/tmp", "tmpfs", "mode=1777"},
		{"run", "/run", "tmpfs", "mode=755"},
		{"var", "/var/tmp", "tmpfs", "mode=1777"},
		{"bpf", "/sys/fs/bpf", "bpf", ""},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.at, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	if err := mountCgroups(p.Version1); err != nil {
		return err
	}
	if err := console(); err != nil {
		return err
	}
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		_ = os.Symlink(to, "/dev/"+name) // some kernels have them
	}
	for _, m := range p.Modules {
		if err := load(m); err != nil {
			return fmt.Errorf("load %s: %w", m, err)
		}
	}
	if err := g.open(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("vmtest")); err != nil {
		return err
	}
	if out, err := exec.Command("/bin/busybox", "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("the loopback interface: %w %s", err, out)
	}
	for _, d := range p.Disks {
		if err := mount(d); err != nil {
			return err
		}
	}
	return g.commands(&p)
}

func mountCgroups(version1 bool) error {
	const top = "/sys/fs/cgroup"
	if !version1 {
		return os.NewSyscallError("mount "+top, unix.Mount("cgroup2", top, "cgroup2", 0, ""))
	}
	if err := unix.Mount("cgroup", top, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", top, err)
	}
	for _, c := range []string{"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"} {
		at := filepath.Join(top, c)
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("cgroup", at, "cgroup", 0, c); err != nil {
			return fmt.Errorf("mount %s: %w", at, err)
		}
	}
	return nil
}

// console gives this process its input and output, which the kernel could not: the initramfs has no devices.
func console() error {
	fd, err := unix.Open("/dev/console", unix.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open the console: %w", err)
	}
	for i := range 3 {
		if err := unix.Dup2(fd, i); err != nil {
			return err
		}
	}
	if fd > 2 {
		return unix.Close(fd)
	}
	return nil
}

// newRoot makes a mount of the initramfs that is not the kernel's first one: that one can't be a container's old root.
func newRoot() error {
	if err := os.MkdirAll("/new", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/", "/new", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the root: %w", err)
	}
	if err := unix.Chdir("/new"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	// As systemd does, and as hosts therefore are.
	return unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, "")
}

func load(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return os.Remove(file) // it lies in memory
}

// open finds the port that leads out. Devices show up some time after their drivers.
func (g *guest) open() error {
	for range 1000 {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, n := range names {
			if b, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(b)) == paper.Port {
				if g.port, err = os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), os.O_WRONLY, 0); err == nil {
					g.buf = bufio.NewWriter(g.port)
					g.out = json.NewEncoder(g.buf)
					return nil
				}
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return errors.New("the serial port does not show up")
}

func mount(d paper.Disk) error {
	for i := 0; ; i++ {
		if _, err := os.Stat(d.Device); err == nil {
			break
		} else if i == 1000 {
			return fmt.Errorf("disk %s does not show up: %w", d.Device, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if len(d.Format) == 0 {
		return nil
	}
	if out, err := exec.Command(d.Format[0], append(d.Format[1:], d.Device)...).CombinedOutput(); err != nil {
		return fmt.Errorf("format %s: %w %s", d.Device, err, out)
	}
	if err := os.MkdirAll(d.At, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(d.Device, d.At, d.Type, 0, d.Options); err != nil {
		return fmt.Errorf("mount %s at %s: %w", d.Device, d.At, err)
	}
	return os.Chmod(d.At, 0o1777)
}

// service is the group in which commands run: a service's, as systemd would make it.
const service = "/sys/fs/cgroup/system.slice/vmtest.service"

func (g *guest) commands(p *paper.Paper) error {
	if !p.Version1 {
		if err := os.MkdirAll(service, 0o755); err != nil {
			return err
		}
	}
	if p.Delegated {
		// What is above gives the group all controllers, as a container engine would.
		for _, dir := range []string{"/sys/fs/cgroup", filepath.Dir(service)} {
			b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
			if err != nil {
				return err
			}
			for _, c := range strings.Fields(string(b)) {
				if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
					return fmt.Errorf("delegate %s: %w", c, err)
				}
			}
		}
	}
	limit := time.After(p.Limit)
	for i, c := range p.Commands {
		begun := time.Now()
		exit, err := g.command(p, i, c, limit)
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
		g.say(paper.Message{Command: i, Ended: true, Exit: exit, Seconds: time.Since(begun).Seconds()})
	}
	g.say(paper.Message{Done: true})
	return nil
}

func (g *guest) command(p *paper.Paper, i int, c paper.Command, limit <-chan time.Time) (int, error) {
	argv := c.Argv
	attr := &syscall.SysProcAttr{Setsid: true}
	if !p.Version1 {
		group, err := os.Open(service)
		if err != nil {
			return 0, err
		}
		defer group.Close()
		attr.UseCgroupFD, attr.CgroupFD = true, int(group.Fd())
	}
	if p.Delegated {
		attr.Cloneflags = syscall.CLONE_NEWNS | syscall.CLONE_NEWCGROUP
		// Mounted anew from inside, the hierarchy begins at the group.
		argv = append([]string{"/bin/busybox", "sh", "-c", "mount --make-rprivate / && umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"", "sh"}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = c.Dir, c.Env, attr
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, err
	}
	go func() { // ends when the last process has closed its output, or with the machine
		buf := make([]byte, 16<<10)
		for {
			n, err := r.Read(buf)
			if n > 0 {
				g.say(paper.Message{Command: i, Output: buf[:n]})
			}
			if err != nil {
				return
			}
		}
	}()
	// The first process of a system also waits for everybody's orphans.
	ended := make(chan syscall.WaitStatus, 1)
	go func() {
		for {
			var ws syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &ws, 0, nil)
			switch {
			case errors.Is(err, syscall.EINTR):
			case err != nil:
				return // no children any more
			case pid == cmd.Process.Pid:
				ended <- ws
				return
			}
		}
	}()
	select {
	case ws := <-ended:
		if ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return ws.ExitStatus(), nil
	case <-limit:
		_ = syscall.Kill(cmd.Process.Pid, syscall.SIGQUIT) // Go programs say where they are
		select {
		case <-ended:
		case <-time.After(2 * time.Second):
		}
		return 0, fmt.Errorf("it has not ended within %v", p.Limit)
	}
}
