package agent

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup/cgrouptest"
	"github.com/orchestrator/orchestrator/internal/agent/core"
	helper "github.com/orchestrator/orchestrator/internal/agent/executor"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// The process tests run the real daemon, with its real containers, as a process of its own: this very binary.
const daemonEnv = "AGENT_TEST_DAEMON"

func TestMain(m *testing.M) {
	if helper.Requested(os.Args[1:]) { // the helper of the daemon's containers
		os.Exit(helper.Main(os.Args[1:]))
	}
	if args := os.Getenv(daemonEnv); args != "" {
		os.Exit(daemon(strings.Split(args, "\n")))
	}
	os.Exit(m.Run())
}

// daemon is `orchestrator agent` without the command line around it. The first argument is the file for its address.
func daemon(args []string) int {
	// Containers must not hold what the test's parents have open.
	for fd := 3; fd < 256; fd++ {
		unix.CloseOnExec(fd)
	}
	os.Unsetenv(daemonEnv)
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "agent:", err)
		return 1
	}
	var cfg Config
	fs := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	set := config.Bind(fs, &cfg, BindOptions())
	if err := fs.Parse(args[1:]); err != nil {
		return fail(err)
	}
	if err := set.Load(func(string) (string, bool) { return "", false }); err != nil {
		return fail(err)
	}
	a, err := New(cfg, Deps{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))})
	if err != nil {
		return fail(err)
	}
	if err := os.WriteFile(args[0]+".tmp", []byte(a.Address()), 0o644); err != nil {
		return fail(err)
	}
	if err := os.Rename(args[0]+".tmp", args[0]); err != nil {
		return fail(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, syscall.SIGUSR1)
	go func() {
		<-usr1
		_ = a.Leave(ctx, "SIGUSR1")
	}()
	if err := a.Run(ctx); err != nil {
		return fail(err)
	}
	return 0
}

// site is a host with an agent process and the master's end of its link, on loopback.
type site struct {
	t      *testing.T
	dir    string
	master *fakeMaster
	cmd    *exec.Cmd
	log    *os.File
	group  string
	flags  []string // beside those that every site has

	mu       sync.Mutex
	heard    map[string][]*mesosv1.TaskStatus // of each task, every update once
	launched map[string]bool
}

func newSite(t *testing.T, flags ...string) *site {
	t.Helper()
	realpart.NotShort(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir, flags: flags, group: fmt.Sprintf("orchestrator-agent-test-%d-%d", os.Getpid(), rand.Uint32()), heard: map[string][]*mesosv1.TaskStatus{}, launched: map[string]bool{}}
	s.master = newFakeMaster(t, l)
	s.master.answer(s.register)
	if s.log, err = os.Create(dir + "/log"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.end()
		if t.Failed() {
			text, _ := os.ReadFile(dir + "/log")
			if len(text) > 20_000 {
				text = text[len(text)-20_000:]
			}
			t.Logf("the agent's log ends:\n%s", text)
		}
		s.log.Close()
	})
	go s.listen()
	s.start()
	return s
}

// register answers a registration as a master does that remembers what it launched.
func (s *site) register(m *linkv1.Message) *linkv1.Message {
	r := &linkv1.Registered{
		AgentId: &mesosv1.AgentID{Value: proto.String("m-S0")}, Master: &mesosv1.MasterInfo{Id: proto.String("m"), Ip: proto.Uint32(1), Port: proto.Uint32(5050)},
	}
	if re := m.GetReregister(); re != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		for id := range s.launched {
			h := s.heard[id]
			if len(h) > 0 && core.Terminal(h[len(h)-1].GetState()) || slices.ContainsFunc(re.GetTasks(), func(t *mesosv1.Task) bool { return t.GetTaskId().GetValue() == id }) {
				continue
			}
			r.ExpectedTasks = append(r.ExpectedTasks, &linkv1.ExpectedTask{
				FrameworkId: &mesosv1.FrameworkID{Value: proto.String("m-0000")}, TaskId: &mesosv1.TaskID{Value: proto.String(id)}, FrameworkCapabilities: testFramework().GetCapabilities(),
			})
		}
	}
	return &linkv1.Message{Kind: &linkv1.Message_Registered{Registered: r}}
}

// listen acknowledges every update and remembers it.
func (s *site) listen() {
	for m := range s.master.heard {
		u := m.GetUpdate()
		if u == nil {
			continue
		}
		id := u.GetStatus().GetTaskId().GetValue()
		s.mu.Lock()
		if !slices.ContainsFunc(s.heard[id], func(o *mesosv1.TaskStatus) bool { return string(o.GetUuid()) == string(u.GetStatus().GetUuid()) }) {
			s.heard[id] = append(s.heard[id], u.GetStatus())
		}
		s.mu.Unlock()
		s.master.try(&linkv1.Message{Kind: &linkv1.Message_UpdateAck{UpdateAck: &linkv1.UpdateAck{FrameworkId: u.GetFrameworkId(), TaskId: u.GetStatus().GetTaskId(), Uuid: u.GetStatus().GetUuid()}}})
	}
}

func (s *site) start() {
	s.t.Helper()
	_ = os.Remove(s.dir + "/address")
	args := []string{
		s.dir + "/address", "--master=" + s.master.listener.Addr().String(), "--work_dir=" + s.dir + "/work", "--runtime_dir=" + s.dir + "/run", "--ip=127.0.0.1", "--port=0",
		"--hostname=localhost", "--resources=cpus:64;mem:65536;disk:65536", "--cgroups_root=" + s.group, "--executor_reregistration_timeout=15secs",
	}
	args = append(args, s.flags...)
	s.cmd = exec.Command(os.Args[0])
	s.cmd.Env = append(os.Environ(), daemonEnv+"="+strings.Join(args, "\n"))
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) signal(sig syscall.Signal) {
	_ = s.cmd.Process.Signal(sig)
	_ = s.cmd.Wait()
}

// end takes the agent out of the cluster, which ends all its tasks, and looks for what it left behind.
func (s *site) end() {
	_ = s.cmd.Process.Signal(syscall.SIGUSR1)
	done := make(chan struct{})
	go func() { _ = s.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(3 * time.Minute):
		s.t.Error("the agent does not leave")
		_ = s.cmd.Process.Kill()
		<-done
	}
	s.eventually("no process is left", func() error {
		if left := s.processes(); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
	cgrouptest.Gone(s.t, s.group)
}

// processes are those that have the site's directory as their working directory or in their command line.
func (s *site) processes() []string {
	var out []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		cwd, _ := os.Readlink(d + "/cwd")
		if strings.HasPrefix(cwd, s.dir) {
			line, _ := os.ReadFile(d + "/cmdline")
			out = append(out, filepath.Base(d)+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return out
}

// eventually waits until f has no complaint.
func (s *site) eventually(what string, f func() error) {
	s.t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Errorf("%s: %v", what, err)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// run sends a command to the agent; false when there is no link at the moment.
func (s *site) run(id, command string) bool {
	task := customTask(id, "")
	task.Executor = nil
	task.Resources = []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 64)}
	task.Command = &mesosv1.CommandInfo{Value: &command}
	s.mu.Lock()
	s.launched[id] = true
	s.mu.Unlock()
	if s.master.try(&linkv1.Message{Kind: &linkv1.Message_RunTask{RunTask: &linkv1.RunTask{Framework: testFramework(), Task: task}}}) {
		return true
	}
	s.mu.Lock()
	delete(s.launched, id)
	s.mu.Unlock()
	return false
}

// state is the last that was heard of a task.
func (s *site) state(id string) (mesosv1.TaskState, *mesosv1.TaskStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.heard[id]
	if len(h) == 0 {
		return mesosv1.TaskState_TASK_STAGING, nil
	}
	return h[len(h)-1].GetState(), h[len(h)-1]
}

func (s *site) await(id string, want mesosv1.TaskState) *mesosv1.TaskStatus {
	s.t.Helper()
	var last *mesosv1.TaskStatus
	s.eventually(fmt.Sprintf("%s is %v", id, want), func() error {
		state, status := s.state(id)
		last = status
		if state != want {
			return fmt.Errorf("it is %v: %s", state, status.GetMessage())
		}
		return nil
	})
	return last
}

func (s *site) kill(id string) {
	s.eventually("kill "+id, func() error {
		if !s.master.try(&linkv1.Message{Kind: &linkv1.Message_KillTask{KillTask: &linkv1.KillTask{FrameworkId: testFramework().GetId(), TaskId: &mesosv1.TaskID{Value: &id}}}}) {
			return fmt.Errorf("no link")
		}
		return nil
	})
}

func (s *site) linked() {
	s.eventually("the agent registers", func() error {
		address, err := os.ReadFile(s.dir + "/address")
		if err != nil {
			return err
		}
		resp, err := http.Get("http://" + string(address) + "/metrics/snapshot")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var m map[string]float64
		if err := json.NewDecoder(resp.Body).Decode(&m); err != nil {
			return err
		}
		if m["slave/registered"] != 1 {
			return fmt.Errorf("not registered")
		}
		return nil
	})
}

func TestProcessRunsCommands(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.linked()
	s.run("good", "echo out; echo err >&2; pwd > where")
	s.run("bad", "exit 3")
	s.run("long", "echo $$ > pid; exec sleep 1000")
	s.await("good", finished)
	if st := s.await("bad", mesosv1.TaskState_TASK_FAILED); st.GetMessage() != "Command exited with status 3" {
		t.Errorf("message %q", st.GetMessage())
	}
	s.await("long", running)
	sandboxes, _ := filepath.Glob(s.dir + "/work/slaves/m-S0/frameworks/m-0000/executors/good/runs/latest")
	if len(sandboxes) != 1 {
		t.Fatalf("sandboxes %v", sandboxes)
	}
	for name, want := range map[string]string{"stdout": "out\n", "stderr": "err\n"} {
		if got, err := os.ReadFile(sandboxes[0] + "/" + name); err != nil || !strings.HasSuffix(string(got), want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	s.kill("long")
	s.await("long", mesosv1.TaskState_TASK_KILLED)
}

var killSeed = flag.Uint64("kill.seed", 0, "seed of the kill -9 test; 0: one of its own")

// kill -9 at random moments: every task has exactly one end, long ones go on as the same processes, and nothing is left.
func TestProcessSurvivesKillMinus9(t *testing.T) {
	t.Parallel()
	seed := *killSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("replay with -kill.seed=%d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	s := newSite(t)
	s.linked()
	const long = 6
	for i := range long {
		s.run(fmt.Sprintf("long%d", i), "echo $$ >> pids; exec sleep 1000")
	}
	for i := range long {
		s.await(fmt.Sprintf("long%d", i), running)
	}
	n := 0
	for range 6 {
		for range 1 + r.IntN(6) {
			if s.run(fmt.Sprintf("short%d", n), fmt.Sprintf("sleep 0.%d; exit 0", r.IntN(5))) {
				n++
			}
		}
		time.Sleep(time.Duration(r.IntN(400)) * time.Millisecond) // the moment of the kill is the test's random choice, not a wait
		s.signal(syscall.SIGKILL)
		s.start()
		if r.IntN(3) > 0 {
			s.linked()
		}
	}
	s.linked()
	for i := range n {
		id := fmt.Sprintf("short%d", i)
		s.eventually(id+" ends", func() error {
			if state, st := s.state(id); !core.Terminal(state) {
				return fmt.Errorf("it is %v: %s", state, st.GetMessage())
			}
			return nil
		})
	}
	counts := map[mesosv1.TaskState]int{}
	s.mu.Lock()
	for id, h := range s.heard {
		ends := 0
		for _, st := range h {
			if core.Terminal(st.GetState()) {
				ends++
				counts[st.GetState()]++
				// What was never begun may be dropped; nothing that ran may be.
				if st.GetState() != finished && (st.GetState() != mesosv1.TaskState_TASK_DROPPED || len(h) > 1) {
					t.Errorf("task %s: %v %v %q", id, st.GetState(), st.GetReason(), st.GetMessage())
				}
			}
		}
		if want := !strings.HasPrefix(id, "long"); ends > 1 || want && ends != 1 {
			t.Errorf("task %s has %d ends: %v", id, ends, h)
		}
	}
	s.mu.Unlock()
	t.Logf("%d short tasks ended: %v", n, counts)
	for i := range long {
		id := fmt.Sprintf("long%d", i)
		if state, _ := s.state(id); state != running {
			t.Errorf("%s is %v", id, state)
		}
		data, err := os.ReadFile(s.dir + "/work/slaves/m-S0/frameworks/m-0000/executors/" + id + "/runs/latest/pids")
		pids := strings.Fields(string(data))
		if err != nil || len(pids) != 1 {
			t.Errorf("%s began %d times: %v", id, len(pids), err)
			continue
		}
		if _, err := strconv.Atoi(pids[0]); err != nil {
			t.Error(err)
		}
		s.kill(id)
		s.await(id, mesosv1.TaskState_TASK_KILLED)
	}
}
