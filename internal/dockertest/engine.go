package dockertest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/osthread"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// patience is how long what must happen may take: only a broken build needs as long, however busy the machine is.
const patience = 4 * time.Minute

// Options say how an Engine runs.
type Options struct {
	// Bridge gives it the default bridge, with iptables, in its own network namespace.
	Bridge bool
	// LiveRestore keeps containers running while the Engine does not.
	LiveRestore bool
}

// Engine is one dockerd.
type Engine struct {
	Socket string
	// CgroupParent is the control group that all its containers are in, relative to each hierarchy.
	CgroupParent string

	t      testing.TB
	dir    string
	opts   Options
	holder *exec.Cmd // keeps the namespaces
	cmd    *exec.Cmd
	log    *os.File
}

// Start runs an Engine until the test ends. Where that is impossible the test is skipped, or fails when CI is set.
func Start(t testing.TB, opts Options) *Engine {
	t.Helper()
	realpart.Root(t)
	for _, program := range []string{"dockerd", "nsenter", "unshare"} {
		realpart.Program(t, program, "docker.io, util-linux")
	}
	dir, err := os.MkdirTemp("", "dt") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{Socket: filepath.Join(dir, "s"), CgroupParent: "/dockertest-" + filepath.Base(dir), t: t, dir: dir, opts: opts}
	t.Cleanup(e.close)
	if e.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	e.holder = exec.Command("unshare", "--net", "--mount", "--propagation", "slave", "sleep", "infinity")
	if err := e.holder.Start(); err != nil {
		t.Fatal(err)
	}
	e.waitFor("the namespaces", func() bool {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", e.holder.Process.Pid))
		return strings.TrimSpace(string(comm)) == "sleep"
	})
	e.InNetwork(func() {
		if err := loopbackUp(); err != nil {
			t.Fatal(err)
		}
	})
	e.Run()
	return e
}

// Run starts dockerd, and waits until it answers.
func (e *Engine) Run() {
	e.t.Helper()
	args := []string{
		"--target", strconv.Itoa(e.holder.Process.Pid), "--net", "--mount", "dockerd",
		"--data-root", filepath.Join(e.dir, "data"), "--exec-root", filepath.Join(e.dir, "exec"), "-H", "unix://" + e.Socket,
		"--pidfile", filepath.Join(e.dir, "pid"), "--cgroup-parent=" + e.CgroupParent, "--shutdown-timeout=2",
		"--add-runtime", HeldRuntime + "=" + e.heldRuntime(),
	}
	if !e.opts.Bridge {
		args = append(args, "--bridge=none", "--iptables=false", "--ip-masq=false")
	}
	if e.opts.LiveRestore {
		args = append(args, "--live-restore")
	}
	e.cmd = exec.Command("nsenter", args...)
	e.cmd.Stdout, e.cmd.Stderr = e.log, e.log
	e.cmd.Env = append(os.Environ(), "TMPDIR="+e.dir) // where containerd writes its stacks when dockerd finds it slow
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.waitFor("dockerd", func() bool { return e.answers() })
}

func (e *Engine) waitFor(what string, f func() bool) {
	e.t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b, _ := os.ReadFile(e.log.Name())
			e.t.Fatalf("%s did not come up: %s", what, b[max(0, len(b)-2000):])
		}
	}
}

func (e *Engine) answers() bool {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", e.Socket)
	}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get("http://docker/_ping")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Stop ends dockerd as an operator would; its containers too, unless it restores them.
func (e *Engine) Stop() { e.end(syscall.SIGTERM) }

// Kill ends dockerd without warning. Its containers run on.
func (e *Engine) Kill() { e.end(syscall.SIGKILL) }

// Signal sends dockerd a signal (SIGSTOP and SIGCONT make it stall).
func (e *Engine) Signal(s syscall.Signal) { _ = e.cmd.Process.Signal(s) }

func (e *Engine) end(s syscall.Signal) {
	if e.cmd == nil {
		return
	}
	_ = e.cmd.Process.Signal(s)
	_ = e.cmd.Wait()
	e.cmd = nil
	if s == syscall.SIGKILL {
		// Its containerd dies with it. Where nobody reaps that, the next dockerd takes the zombie for a living one.
		_ = os.Remove(filepath.Join(e.dir, "exec", "containerd", "containerd.pid"))
	}
}

// InNetwork runs f on a thread in the Engine's own network namespace: what it listens on is where containers with the
// host's network are, and 127.0.0.1 as dockerd sees it.
func (e *Engine) InNetwork(f func()) {
	e.t.Helper()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", e.holder.Process.Pid))
	if err != nil {
		e.t.Fatal(err)
	}
	defer ns.Close()
	osthread.Run(func() {
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			f()
		}
	})
	if err != nil {
		e.t.Fatal(err)
	}
}

// Listen listens in the Engine's network.
func (e *Engine) Listen(address string) net.Listener {
	e.t.Helper()
	var l net.Listener
	var err error
	e.InNetwork(func() { l, err = net.Listen("tcp", address) })
	if err != nil {
		e.t.Fatal(err)
	}
	return l
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// Docker runs the docker program and gives what it printed.
func (e *Engine) Docker(args ...string) string {
	e.t.Helper()
	out, err := exec.Command("docker", append([]string{"-H", "unix://" + e.Socket}, args...)...).CombinedOutput()
	if err != nil {
		e.t.Fatalf("docker %v: %s", args, out)
	}
	return strings.TrimSpace(string(out))
}

// Processes lists the processes of the Engine's containers and of those who watch them.
func (e *Engine) Processes() []string {
	es, _ := os.ReadDir("/proc")
	var out []string
	for _, x := range es {
		if _, err := strconv.Atoi(x.Name()); err != nil {
			continue
		}
		groups, _ := os.ReadFile("/proc/" + x.Name() + "/cgroup")
		line, _ := os.ReadFile("/proc/" + x.Name() + "/cmdline")
		words := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
		shim := strings.Contains(words[0], "shim") && strings.Contains(string(line), e.dir+"/")
		if strings.Contains(string(groups), e.CgroupParent+"/") || shim {
			out = append(out, x.Name()+" "+strings.Join(words, " "))
		}
	}
	return out
}

// Cgroups lists the control groups of the Engine's containers.
func (e *Engine) Cgroups() []string {
	var out []string
	for _, pattern := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup"} {
		found, _ := filepath.Glob(pattern + e.CgroupParent + "/*")
		for _, f := range found {
			if fi, err := os.Stat(f); err == nil && fi.IsDir() {
				out = append(out, f)
			}
		}
	}
	return out
}

// Mounts lists the mounts below the Engine's directories, in its own namespace.
func (e *Engine) Mounts() []string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", e.holder.Process.Pid))
	var out []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], e.dir+"/") {
			out = append(out, f[4])
		}
	}
	return out
}

// Links lists the network interfaces of the Engine's namespace: one veth for each container on a bridge.
func (e *Engine) Links() []string {
	var out []string
	e.InNetwork(func() {
		is, _ := net.Interfaces()
		for _, i := range is {
			out = append(out, i.Name)
		}
	})
	return out
}

// Veths lists those of them whose other end is in another namespace: a container's.
func (e *Engine) Veths() []string {
	var out []string
	e.InNetwork(func() {
		h, err := netlink.NewHandle() // of this thread's namespace
		if err != nil {
			return
		}
		defer h.Close()
		ls, _ := h.LinkList()
		for _, l := range ls {
			if a := l.Attrs(); l.Type() == "veth" && a.NetNsID >= 0 {
				out = append(out, a.Name)
			}
		}
	})
	return out
}

// Rules lists the packet filter's rules in the Engine's namespace: some for each published port.
func (e *Engine) Rules() []string {
	e.t.Helper()
	out, err := exec.Command("nsenter", "--target", strconv.Itoa(e.holder.Process.Pid), "--net", "iptables-save").Output()
	if err != nil {
		e.t.Fatalf("iptables-save: %v", err)
	}
	var rules []string
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "-A") {
			rules = append(rules, strings.TrimSpace(line))
		}
	}
	return rules
}

// Ports lists the sockets that listen, or are bound to a port, in the Engine's namespace.
func (e *Engine) Ports() []string {
	var out []string
	for _, proto := range []string{"tcp", "tcp6", "udp", "udp6"} {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", e.holder.Process.Pid, proto))
		for line := range strings.Lines(string(b)) {
			// 07: bound (UDP) or closed; 0A: listens.
			if f := strings.Fields(line); len(f) > 3 && (f[3] == "07" || f[3] == "0A") {
				out = append(out, proto+" "+f[1])
			}
		}
	}
	return out
}

// Endpoints lists who is in the Engine's networks.
func (e *Engine) Endpoints() []string {
	e.t.Helper()
	names := strings.Fields(e.Docker("network", "ls", "--format", "{{.Name}}"))
	return strings.Fields(e.Docker(append([]string{"network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{end}}"}, names...)...))
}

func (e *Engine) close() {
	if e.cmd != nil {
		if e.opts.LiveRestore { // which leaves containers running when it is stopped
			_ = exec.Command("sh", "-c", `docker -H unix://"$0" ps -aq | xargs -r docker -H unix://"$0" rm -f`, e.Socket).Run()
		}
		e.end(syscall.SIGTERM)
	}
	// What an Engine that was killed left behind.
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		ps := e.Processes()
		if len(ps) == 0 {
			break
		}
		for _, p := range ps {
			pid, _ := strconv.Atoi(strings.Fields(p)[0])
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if b, err := os.ReadFile(filepath.Join(e.dir, "exec", "containerd", "containerd.pid")); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if strings.Contains(string(line), e.dir) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	if e.holder != nil && e.holder.Process != nil {
		_ = e.holder.Process.Kill() // the mounts and the network go with their namespaces
		_ = e.holder.Wait()
	}
	if e.log != nil {
		e.log.Close()
	}
	for deadline := time.Now().Add(30 * time.Second); os.RemoveAll(e.dir) != nil && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	tops, _ := filepath.Glob("/sys/fs/cgroup/*" + e.CgroupParent)
	for _, g := range append(e.Cgroups(), append(tops, "/sys/fs/cgroup"+e.CgroupParent)...) {
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) { // the kernel takes a moment to empty it
			if err := os.Remove(g); err == nil || os.IsNotExist(err) {
				break
			}
		}
	}
}
