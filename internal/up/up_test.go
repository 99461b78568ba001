package up_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/cgroup/cgrouptest"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// binary builds the program once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "up-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "orchestrator")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/orchestrator")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", &buildError{string(out)}
	}
	return path, nil
})

type buildError struct{ out string }

func (e *buildError) Error() string { return "go build: " + e.out }

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// instance is one running `orchestrator up`.
type instance struct {
	t    *testing.T
	path string
	dir  string
	cmd  *exec.Cmd
	log  *output
	at   struct {
		Master, Marathon string
		Agents           []string
		PID              int
	}
}

// output is what a process that still runs has printed.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func start(t *testing.T, dir string) *instance {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	u := &instance{t: t, path: path, dir: dir, log: &output{}}
	ready := filepath.Join(dir, "ready.json")
	_ = os.Remove(ready)
	u.cmd = exec.Command(path, "up", "--data-dir", filepath.Join(dir, "data"), "--master-port=0", "--agent-port=0", "--marathon-port=0", "--monitor-port=0",
		"--resources=cpus:8;mem:2048;disk:1024", "--ready-file", ready)
	u.cmd.Stdout, u.cmd.Stderr = u.log, u.log
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.end)
	u.poll("it to be ready", func() bool {
		data, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(data, &u.at) == nil
	})
	return u
}

// end stops the cluster as Ctrl-C does, so that it takes its control groups with it.
func (u *instance) end() {
	_ = u.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(2*time.Minute, func() { _ = u.cmd.Process.Kill() })
	defer timer.Stop()
	_ = u.cmd.Wait()
}

func (u *instance) poll(what string, condition func() bool) {
	u.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !condition(); {
		if time.Now().After(deadline) {
			u.t.Fatalf("waited for %s in vain\n%s", what, u.log)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// command is a command line against this instance.
func (u *instance) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, u.path, args...)
	cmd.Env = append(os.Environ(), "ORCHESTRATOR_MASTER="+strings.TrimPrefix(u.at.Master, "http://"))
	return cmd
}

func (u *instance) run(args ...string) (stdout, stderr string, code int) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := u.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		u.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// sleepers are the processes that hold this marker in their command line.
func sleepers(marker string) []string {
	var pids []string
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, d := range dirs {
		if data, err := os.ReadFile(d); err == nil && string(data) == "sleep\x00"+marker+"\x00" {
			pids = append(pids, strings.Split(d, "/")[2])
		}
	}
	slices.Sort(pids)
	return pids
}

// TestUp is the promise of the product: one command, real tasks, and a crash of everything at once loses none of them.
func TestUp(t *testing.T) {
	t.Parallel()
	realpart.NotShort(t)
	dir := t.TempDir()
	u := start(t, dir)
	if len(u.at.Agents) != 1 || u.at.Master == "" || u.at.Marathon == "" || u.at.PID != u.cmd.Process.Pid {
		t.Errorf("ready file says %+v", u.at)
	}
	// The table is printed beside the file, not before it.
	u.poll("the table of addresses", func() bool { return strings.Contains(u.log.String(), u.at.Marathon) })
	if !strings.Contains(u.log.String(), u.at.Marathon) {
		t.Errorf("no table of addresses:\n%s", u.log)
	}

	out, errs, code := u.run("execute", "--quiet", "--instances", "20", "--command", "echo out $MESOS_EXECUTOR_ID; echo err >&2")
	if code != 0 || strings.Count(out, "out execute.") != 20 || strings.Count(errs, "err\n") != 20 {
		t.Errorf("execute ended with %d:\n%s%s", code, out, errs)
	}
	if _, _, code := u.run("execute", "--quiet", "--command", "exit 3"); code != 3 {
		t.Errorf("a command that exits with 3 gives %d", code)
	}

	// Tasks that run on while everything is killed at once.
	const count = 12
	marker := "3" + time.Now().Format("150405") // seconds that no other process of this machine sleeps
	var root string                             // of their control groups, below that of the hierarchies
	t.Cleanup(func() {                          // they outlive the cluster; with them go the groups that nobody looks after any more
		for _, pid := range sleepers(marker) {
			if n, err := strconv.Atoi(pid); err == nil {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
		if root != "" {
			cgrouptest.Remove(t, root)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	holder := u.command(ctx, "execute", "--quiet", "--name", "holder", "--instances", "12", "--resources", "cpus:0.1;mem:8", "--command", "exec sleep "+marker)
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Wait() }()
	running := func() bool {
		out, _, _ := u.run("task", "ls", "--state", "running")
		return strings.Count(out, "holder.") == count
	}
	u.poll("the tasks to run", running)
	var before []string
	u.poll("their shells to become what they are told to run", func() bool { before = sleepers(marker); return len(before) == count })
	for _, pid := range before {
		b, _ := os.ReadFile("/proc/" + pid + "/cgroup")
		if _, rest, ok := strings.Cut(string(b), ":/orchestrator-"); ok {
			name, _, _ := strings.Cut(rest, "/")
			root = "orchestrator-" + name
		}
	}
	_ = u.cmd.Process.Signal(syscall.SIGKILL)
	_ = u.cmd.Wait()
	u = start(t, dir)
	u.poll("the tasks to be known again", running)
	if after := sleepers(marker); !slices.Equal(before, after) {
		t.Errorf("after the crash other processes run: %v, before %v", after, before)
	}
	id, _, _ := u.run("task", "ls", "--state", "running")
	for _, f := range strings.Fields(id) {
		if strings.HasPrefix(f, "holder.") {
			id = f
			break
		}
	}
	if _, errs, code := u.run("task", "kill", id); code != 0 {
		t.Errorf("task kill: %d %s", code, errs)
	}
	u.poll("the killed task to end", func() bool { return len(sleepers(marker)) == count-1 })
	// Whoever gives the framework up ends what is left of it.
	if _, errs, code := u.run("framework", "teardown", "holder", "--yes"); code != 0 {
		t.Errorf("teardown: %d %s", code, errs)
	}
	u.poll("all tasks to end", func() bool { return len(sleepers(marker)) == 0 })
	cancel()
	u.poll("their control groups to go", func() bool {
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + root + "/*-*")
		return root == "" || len(groups) == 0
	})

	_ = u.cmd.Process.Signal(os.Interrupt)
	ended := make(chan error, 1)
	go func() { ended <- u.cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Ctrl-C: %v\n%s", err, u.log)
		}
	case <-time.After(2 * time.Minute):
		t.Errorf("Ctrl-C does not stop it\n%s", u.log)
	}
}

// TestPortTaken: nothing starts when one port is not to be had, and the error says which and what to do.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	realpart.NotShort(t)
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	u := start(t, t.TempDir())
	port := u.at.Master[strings.LastIndexByte(u.at.Master, ':')+1:]
	out, err := exec.Command(path, "up", "--data-dir", t.TempDir(), "--master-port", port, "--agent-port=0", "--marathon-port=0", "--monitor-port=0").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--master-port") {
		t.Errorf("%v: %s", err, out)
	}
	out, err = exec.Command(path, "up", "--data-dir", filepath.Join(u.dir, "data"), "--master-port=0", "--agent-port=0", "--marathon-port=0", "--monitor-port=0").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another process has it open") {
		t.Errorf("%v: %s", err, out)
	}
}
