package faults

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/cgroup/cgrouptest"
	"github.com/orchestrator/orchestrator/internal/heldport"
)

// program builds the binary once.
var program = sync.OnceValues(func() (string, error) {
	path := filepath.Join(os.TempDir(), fmt.Sprintf("orchestrator-chaos-%d", os.Getpid()))
	out, err := exec.Command("go", "build", "-o", path, "../../cmd/orchestrator").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// cluster is one master and one agent, each a process at an address that stays.
type cluster struct {
	t             *testing.T
	dir           string
	group         string // control group of the agent's containers
	master, agent *daemon

	mu      sync.Mutex
	helpers map[int]string // pid: start time, of every helper that was ever seen
}

// daemon is a process that is started again after each of its ends.
type daemon struct {
	c       *cluster
	address string
	args    []string
	log     *os.File

	mu  sync.Mutex
	cmd *exec.Cmd
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: t.TempDir(), helpers: map[int]string{}}
	// Executors and tasks must get to the program and to the truth.
	for d := c.dir; len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
	if err := os.Mkdir(c.truth(), 0o777); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.sweep) // after the daemons' own
	mp, ap := heldport.Port(t), heldport.Port(t)
	c.group = fmt.Sprintf("orchestrator-chaos-%d-%d", os.Getpid(), ap)
	c.master = c.daemon(bin, mp, "master", "--ip=127.0.0.1", "--hostname=localhost", fmt.Sprintf("--port=%d", mp), "--work_dir="+c.dir+"/master")
	c.agent = c.daemon(bin, ap, "agent", "--ip=127.0.0.1", "--hostname=localhost", fmt.Sprintf("--port=%d", ap), "--work_dir="+c.dir+"/agent",
		"--runtime_dir="+c.dir+"/run", "--master=127.0.0.1:"+strconv.Itoa(mp), "--resources=cpus:64;mem:65536;disk:65536", "--cgroups_root="+c.group,
		"--executor_reregistration_timeout=15secs", "--registration_backoff_factor=50ms")
	return c
}

// registered waits until the agent is known to the master.
func (c *cluster) registered() {
	c.t.Helper()
	c.eventually("the agent registers", func() error {
		var m map[string]float64
		if err := c.agent.get("/metrics/snapshot", &m); err != nil {
			return err
		}
		if m["slave/registered"] != 1 {
			return fmt.Errorf("it has not")
		}
		return nil
	})
}

func (c *cluster) truth() string { return c.dir + "/truth" }

func (c *cluster) daemon(bin string, port int, args ...string) *daemon {
	log, err := os.Create(filepath.Join(c.dir, args[0]+".log"))
	if err != nil {
		c.t.Fatal(err)
	}
	d := &daemon{c: c, address: "127.0.0.1:" + strconv.Itoa(port), args: append([]string{bin}, args...), log: log}
	c.t.Cleanup(func() {
		d.signal(syscall.SIGCONT)
		d.kill()
		log.Close()
	})
	return d
}

func (d *daemon) start() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd != nil {
		return
	}
	cmd := exec.Command(d.args[0], d.args[1:]...)
	// Go's own pace of collections: the master's floor (internal/heapfloor) would hide what grows.
	cmd.Env = append(os.Environ(), "GOGC=100")
	cmd.Stdout, cmd.Stderr = d.log, d.log
	if err := cmd.Start(); err != nil {
		d.c.t.Errorf("start %s: %v", d.args[1], err)
		return
	}
	d.cmd = cmd
}

// signal returns when a SIGSTOP has stopped every thread: which one takes the signal and stops the others may have to wait for a processor, and they go on
// until then.
func (d *daemon) signal(s syscall.Signal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Signal(s)
	for s == syscall.SIGSTOP && !stopped(d.cmd.Process.Pid) {
		time.Sleep(time.Millisecond)
	}
}

// stopped reports whether no thread of a process runs: each is stopped, or the process is no more.
func stopped(pid int) bool {
	stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		if f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])); len(f) > 0 && !strings.Contains("TtZX", f[0]) {
			return false
		}
	}
	return true
}

func (d *daemon) kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd != nil {
		_ = d.cmd.Process.Kill()
		_ = d.cmd.Wait()
		d.cmd = nil
	}
}

// ends waits for the process to exit by itself.
func (d *daemon) ends() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	done := make(chan struct{})
	go func() { _ = d.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		_ = d.cmd.Process.Kill()
		<-done
		d.cmd = nil
		return fmt.Errorf("%s does not end", d.args[1])
	}
	d.cmd = nil
	return nil
}

func (d *daemon) get(path string, into any) error {
	client := http.Client{Timeout: time.Minute}
	resp, err := client.Get("http://" + d.address + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// patience is how long what must happen may take: only a broken build needs as long, however busy the machine is.
const patience = 3 * time.Minute

// eventually waits until f has no complaint.
func (c *cluster) eventually(what string, f func() error) bool {
	c.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		err := f()
		if err == nil {
			return true
		}
		if time.Now().After(deadline) {
			c.t.Errorf("%s: %v", what, err)
			return false
		}
		time.Sleep(20 * time.Millisecond) // a poll with a deadline
	}
}

// target is a process beside a container, and the executor that it belongs to.
type target struct {
	pid      int
	executor string
}

// containers finds the processes of the agent's containers: helpers, and the first process in each container.
func (c *cluster) containers() (helpers, tops []target) {
	inside := map[int]string{} // pid: executor
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		cwd, err := os.Readlink(d + "/cwd")
		if err != nil || !strings.HasPrefix(cwd, c.dir+"/agent/") {
			continue
		}
		_, rest, ok := strings.Cut(cwd, "/executors/")
		if !ok {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(d))
		inside[pid], _, _ = strings.Cut(rest, "/")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for pid, executor := range inside {
		parent, _ := parentOf(pid)
		if _, ok := inside[parent]; ok || parent <= 1 {
			continue
		}
		tops = append(tops, target{pid, executor})
		if parent == c.agent.pid() {
			continue // being launched
		}
		if _, started := parentOf(parent); started != "" {
			helpers = append(helpers, target{parent, executor})
			c.helpers[parent] = started
		}
	}
	return helpers, tops
}

func (d *daemon) pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd == nil {
		return 0
	}
	return d.cmd.Process.Pid
}

func (d *daemon) alive() bool {
	_, started := parentOf(d.pid())
	return started != ""
}

// parentOf reads a process' parent and when it was started.
func parentOf(pid int) (parent int, started string) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, ""
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 20 || f[0] == "Z" {
		return 0, ""
	}
	parent, _ = strconv.Atoi(f[1])
	return parent, f[19]
}

// sweep ends what a failed test has left running, so that it spoils no other.
func (c *cluster) sweep() {
	for range 1000 {
		helpers, tops := c.containers()
		if len(helpers)+len(tops) == 0 {
			break
		}
		for _, x := range append(helpers, tops...) {
			_ = syscall.Kill(x.pid, syscall.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond) // a poll
	}
	cgrouptest.Remove(c.t, c.group)
}

// left finds what should not be there when the agent has left for good.
func (c *cluster) left() error {
	_, tops := c.containers()
	if len(tops) > 0 {
		return fmt.Errorf("processes are left: %v", tops)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for pid, started := range c.helpers {
		if _, now := parentOf(pid); now == started {
			return fmt.Errorf("helper %d is left", pid)
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + c.group)
	if more, _ := filepath.Glob("/sys/fs/cgroup/" + c.group); len(more) > 0 {
		groups = append(groups, more...)
	}
	if len(groups) > 0 {
		return fmt.Errorf("control groups are left: %v", groups)
	}
	return nil
}
