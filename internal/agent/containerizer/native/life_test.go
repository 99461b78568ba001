package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

func TestNothingEscapesDestroy(t *testing.T) {
	t.Parallel()
	d := newHost(t).start(nil)
	defer d.end()
	dir := d.sandbox("esc")
	// A process that has left its session, lost its parent, and ignores SIGTERM.
	d.launch(d.plain("esc", `trap "" TERM; (setsid sh -c 'trap "" TERM; (while :; do date >beat; sleep 0.01; done) & echo ok >deep' >/dev/null 2>&1 &); sleep 1000`))
	eventually(t, "the daemon runs", func() bool { _, err := os.Stat(filepath.Join(dir, "beat")); return err == nil })
	if err := d.Destroy(t.Context(), "esc"); err != nil {
		t.Fatal(err)
	}
	d.wait("esc")
	if left := marked(d.mark("esc")); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	fi, _ := os.Stat(filepath.Join(dir, "beat"))
	again := fi.ModTime()
	for range 10 {
		time.Sleep(5 * time.Millisecond) // long enough for several beats, were there any
	}
	if fi, _ = os.Stat(filepath.Join(dir, "beat")); fi.ModTime() != again {
		t.Error("a process still writes")
	}
}

func TestForkBombHurtsOnlyItself(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	d := newHost(t).start(nil, func(c *Config) { c.Cgroups.PIDs = 60 })
	defer d.end()
	d.launch(d.plain("bomb", `sh -c 'while :; do sleep 1000 & done' 2>/dev/null; exec sleep 1000`))
	ct, _ := d.find("bomb")
	eventually(t, "the bomb fills its group", func() bool { return len(ct.group.Procs()) > 20 })
	if n := len(ct.group.Procs()); n > 60 {
		t.Errorf("%d processes, limit 60", n)
	}
	// Its neighbour can still start processes.
	d.launch(d.plain("neighbour", "for i in 1 2 3 4 5; do /bin/true || exit 1; done"))
	if term := d.wait("neighbour"); term.WaitStatus == nil || *term.WaitStatus != 0 {
		t.Errorf("the neighbour ended with %+v", term)
	}
	if err := d.Destroy(t.Context(), "bomb"); err != nil {
		t.Fatal(err)
	}
	d.wait("bomb")
}

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	d := newHost(t).start(nil)
	defer d.end()
	eat := "x=a; while :; do x=$x$x$x$x; done"
	cfg := d.plain("fat", eat)
	cfg.Resources = []*mesosv1.Resource{scalar("cpus", 1), scalar("mem", 32)}
	d.launch(cfg)
	term := d.wait("fat")
	if term.Reason == nil || *term.Reason != mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY || term.Limitation == nil {
		t.Fatalf("termination %+v", term)
	}
	// The most that was used may lie some pages below the limit: the kernel charges in batches.
	if !strings.HasPrefix(term.Message, "Memory limit exceeded: Requested: 32MB Maximum Used: 3") || !strings.Contains(term.Message, "B\n\nMEMORY STATISTICS: \n") {
		t.Errorf("message %q", term.Message)
	}
	// A command task: the executor must not tell of the end before the agent can tell of the limitation.
	task := d.task("fat2", &mesosv1.TaskInfo{Command: shell(eat)})
	task.Resources = cfg.Resources
	d.launch(task)
	term = d.wait("fat2")
	if term.Reason == nil || *term.Reason != mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY {
		t.Errorf("termination %+v; states %s", term, d.states("fat2"))
	}
	if s := d.states("fat2"); strings.Contains(s, "FAILED") {
		t.Errorf("the executor said %s", s)
	}
}

func TestAgentRestart(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.start(nil)
	run := d.task("run", &mesosv1.TaskInfo{Command: shell("while [ ! -e stop ]; do sleep 0.02; done; exit 4")})
	ends := d.task("ends", &mesosv1.TaskInfo{Command: shell("while [ ! -e stop ]; do sleep 0.02; done; exit 5")})
	orphan := d.plain("orphan", "sleep 1000")
	orphan.Kind = containerizer.CustomExecutor
	alone := d.plain("alone", "while [ ! -e stop ]; do sleep 0.02; done; exit 6")
	for _, c := range []containerizer.Config{run, ends, orphan, alone} {
		d.launch(c)
	}
	nested := d.plain("run.child", "sleep 1000")
	d.launch(nested)
	for _, id := range []string{"run", "ends"} {
		d.untilState(id, mesosv1.TaskState_TASK_RUNNING)
	}
	before, _ := d.Status("run")
	d.stop()

	if err := os.WriteFile(filepath.Join(ends.Directory, "stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(alone.Directory, "stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the standalone container ends without an agent", func() bool {
		_, err := os.Stat(filepath.Join(h.dir, "run", "containers", "alone", "status"))
		return err == nil
	})

	d = h.start([]containerizer.Config{run, ends, {ID: "never", Kind: containerizer.CommandTask}})
	defer d.end()
	if after, err := d.Status("run"); err != nil || after.GetExecutorPid() != before.GetExecutorPid() {
		t.Errorf("status %v %v, was %v", after, err, before)
	}
	// What ended meanwhile is told after the restart, once, with its reason.
	if u := d.untilState("ends", mesosv1.TaskState_TASK_FAILED); u.GetMessage() != "Command exited with status 5" {
		t.Errorf("message %q", u.GetMessage())
	}
	if term := d.wait("alone"); term.WaitStatus == nil || syscall.WaitStatus(*term.WaitStatus).ExitStatus() != 6 {
		t.Errorf("the standalone container's end: %+v", term)
	}
	if _, err := d.find("run.child"); err != nil {
		t.Errorf("the nested container was lost: %v", err)
	}
	d.wait("orphan")
	if term := d.wait("never"); term.WaitStatus != nil {
		t.Errorf("a container that never was: %+v", term)
	}
	if err := os.WriteFile(filepath.Join(run.Directory, "stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if u := d.untilState("run", mesosv1.TaskState_TASK_FAILED); u.GetMessage() != "Command exited with status 4" {
		t.Errorf("message %q", u.GetMessage())
	}
	d.wait("run")
	d.wait("run.child")
}

// An executor may ask for its first nested container before the launch of its own has returned.
func TestNestedLaunchWaitsForItsParent(t *testing.T) {
	t.Parallel()
	d := newHost(t).start(nil)
	defer d.end()
	up := &container{phase: starting, started: make(chan struct{}), ended: make(chan struct{})}
	d.mu.Lock()
	d.containers["up"] = up
	d.mu.Unlock()
	got := make(chan error, 1)
	go func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		_, err := d.parentOf(t.Context(), "up.child")
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("did not wait: %v", err)
	case <-time.After(20 * time.Millisecond): // as long as it waits nothing happens
	}
	d.mu.Lock()
	up.phase = running
	close(up.started)
	d.mu.Unlock()
	if err := <-got; err != nil {
		t.Error(err)
	}
	d.mu.Lock()
	delete(d.containers, "up")
	d.mu.Unlock()
}

// An agent that dies between writing down a nested container's helper and telling it to go on has launched nothing: who asked
// for it asks again, and gets it.
func TestNestedContainerThatNeverBegan(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.start(nil)
	run := d.task("run", &mesosv1.TaskInfo{Command: shell("sleep 1000")})
	d.launch(run)
	d.untilState("run", mesosv1.TaskState_TASK_RUNNING)
	nested := d.plain("run.child", "sleep 1000")
	d.launch(nested)
	ct, err := d.find("run.child")
	if err != nil {
		t.Fatal(err)
	}
	dir := ct.dir
	helper := ct.helper
	d.stop()
	// What the disk looks like then: the helper is known, and gone without having begun.
	if err := syscall.Kill(helper.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "begun")); err != nil {
		t.Fatal(err)
	}
	d = h.start([]containerizer.Config{run})
	defer d.end()
	d.launch(nested)
	if st, err := d.Status("run.child"); err != nil || st.GetExecutorPid() == 0 {
		t.Errorf("status %v, %v", st, err)
	}
	if err := d.Destroy(t.Context(), "run"); err != nil {
		t.Error(err)
	}
	d.wait("run.child")
}

func TestAgentsOfOneHostLeaveEachOtherAlone(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	h1, h2 := newHost(t), newHost(t)
	h2.root = h1.root
	d1 := h1.start(nil)
	defer d1.end()
	d1.launch(d1.plain("first", "sleep 1000"))
	d2 := h2.start(nil)
	d2.launch(d2.plain("second", "sleep 1000"))
	d2.stop()
	// The second's runtime directory is lost with its container still there: that one is found by its cgroup and ended.
	if err := os.RemoveAll(filepath.Join(h2.dir, "run", "containers")); err != nil {
		t.Fatal(err)
	}
	d2 = h2.start(nil)
	d2.end()
	if left := marked(d2.mark("second")); len(left) > 0 {
		t.Errorf("left of the second: %v", left)
	}
	if len(marked(d1.mark("first"))) == 0 {
		t.Error("an agent killed another agent's container")
	}
}

func TestTaskGroup(t *testing.T) {
	t.Parallel()
	d := newHost(t).start(nil)
	defer d.end()
	task := func(id, cmd string) *mesosv1.TaskInfo {
		return &mesosv1.TaskInfo{
			TaskId: &mesosv1.TaskID{Value: &id}, Name: &id, AgentId: &mesosv1.AgentID{Value: ptr("a")}, Command: shell(cmd),
			Container: &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), Volumes: []*mesosv1.Volume{{
				ContainerPath: ptr("shared"), Mode: mesosv1.Volume_RW.Enum(), Source: &mesosv1.Volume_Source{
					Type: mesosv1.Volume_Source_SANDBOX_PATH.Enum(), SandboxPath: &mesosv1.Volume_Source_SandboxPath{
						Type: mesosv1.Volume_Source_SandboxPath_PARENT.Enum(), Path: ptr("data"),
					},
				},
			}}},
		}
	}
	group := func(ts ...*mesosv1.TaskInfo) *executorv1.Event {
		return &executorv1.Event{Type: executorv1.Event_LAUNCH_GROUP.Enum(), LaunchGroup: &executorv1.Event_LaunchGroup{TaskGroup: &mesosv1.TaskGroupInfo{Tasks: ts}}}
	}
	cfg := d.plain("pod", "")
	cfg.Kind, cfg.Command, cfg.FrameworkID, cfg.ExecutorID, cfg.Checkpoint = containerizer.DefaultExecutor, nil, "f", "e", true
	d.link.launch["pod"] = []*executorv1.Event{
		group(task("quick", "echo hello >shared/greeting"), task("slow", "while [ ! -e shared/greeting ]; do sleep 0.02; done; cat shared/greeting; sleep 1000")),
		group(task("other", "sleep 1000")),
	}
	d.launch(cfg)
	d.untilState("quick", mesosv1.TaskState_TASK_FINISHED)
	d.untilState("other", mesosv1.TaskState_TASK_RUNNING)
	if s := d.states("quick"); s != "STARTING RUNNING FINISHED" {
		t.Errorf("quick: %s", s)
	}
	// The task's sandbox is found by its task's id, and the volume is the parent's.
	eventually(t, "slow has read what quick wrote", func() bool {
		b, _ := os.ReadFile(filepath.Join(cfg.Directory, "tasks", "slow", "stdout"))
		return string(b) == "hello\n"
	})
	if got := read(t, cfg.Directory, "data", "greeting"); got != "hello\n" {
		t.Errorf("the parent's directory holds %q", got)
	}
	// A task of a group that fails takes its group along, and no other.
	d.send("pod", group(task("fails", "sleep 0.05; exit 9"), task("mate", "sleep 1000")))
	if u := d.untilState("fails", mesosv1.TaskState_TASK_FAILED); u.GetMessage() != "Command exited with status 9" {
		t.Errorf("message %q", u.GetMessage())
	}
	d.untilState("mate", mesosv1.TaskState_TASK_KILLED)
	if s := d.states("other"); s != "STARTING RUNNING" {
		t.Errorf("other: %s", s)
	}
	d.send("pod", &executorv1.Event{Type: executorv1.Event_SHUTDOWN.Enum()})
	d.untilState("other", mesosv1.TaskState_TASK_KILLED)
	d.untilState("slow", mesosv1.TaskState_TASK_KILLED)
	d.wait("pod")
}

func TestTaskGroupOutlivesTheAgent(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.start(nil)
	ti := func(id, cmd string) *mesosv1.TaskInfo {
		return &mesosv1.TaskInfo{TaskId: &mesosv1.TaskID{Value: &id}, Name: &id, AgentId: &mesosv1.AgentID{Value: ptr("a")}, Command: shell(cmd)}
	}
	cfg := d.plain("pod", "")
	cfg.Kind, cfg.Command, cfg.FrameworkID, cfg.ExecutorID, cfg.Checkpoint = containerizer.DefaultExecutor, nil, "f", "e", true
	d.link.launch["pod"] = []*executorv1.Event{
		{Type: executorv1.Event_LAUNCH_GROUP.Enum(), LaunchGroup: &executorv1.Event_LaunchGroup{TaskGroup: &mesosv1.TaskGroupInfo{
			Tasks: []*mesosv1.TaskInfo{ti("ends", "while [ ! -e stop ]; do sleep 0.02; done"), ti("stays", "sleep 1000")},
		}}},
	}
	d.launch(cfg)
	d.untilState("ends", mesosv1.TaskState_TASK_RUNNING)
	d.untilState("stays", mesosv1.TaskState_TASK_RUNNING)
	d.stop()
	if err := os.WriteFile(filepath.Join(cfg.Directory, "tasks", "ends", "stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d = h.start([]containerizer.Config{cfg})
	defer d.end()
	d.untilState("ends", mesosv1.TaskState_TASK_FINISHED)
	eventually(t, "the executor is back", func() bool {
		d.link.mu.Lock()
		defer d.link.mu.Unlock()
		return d.link.streams["pod"] != nil
	})
	d.send("pod", &executorv1.Event{Type: executorv1.Event_KILL.Enum(), Kill: &executorv1.Event_Kill{TaskId: &mesosv1.TaskID{Value: ptr("stays")}}})
	d.untilState("stays", mesosv1.TaskState_TASK_KILLED)
	d.wait("pod")
}

// TestHelperKilled: whoever kills a helper ends its container, and nothing of it stays, in every isolation.
func TestHelperKilled(t *testing.T) {
	t.Parallel()
	isolations := []string{"posix/cpu"}
	if os.Geteuid() == 0 {
		isolations = append(isolations, "", "cgroups/cpu,cgroups/mem", "namespaces/pid")
	}
	for _, iso := range isolations {
		t.Run(iso, func(t *testing.T) {
			t.Parallel()
			d := newHost(t).start(nil, func(c *Config) { c.Isolation = iso })
			defer d.end()
			d.launch(d.plain("k", "(setsid sh -c 'echo ready; sleep 1000' &); sleep 1000"))
			eventually(t, "the daemon runs", func() bool {
				b, _ := os.ReadFile(filepath.Join(d.sandbox("k"), "stdout"))
				return len(b) > 0
			})
			ct, err := d.find("k")
			if err != nil {
				t.Fatal(err)
			}
			ct.helper.Kill()
			if term := d.wait("k"); term.WaitStatus != nil {
				t.Errorf("a wait status that nobody can know: %+v", term)
			}
			if left := marked(d.mark("k")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestChecks(t *testing.T) {
	t.Parallel()
	d := newHost(t).start(nil)
	defer d.end()
	// The grace is over when it was healthy once: the task may begin as late as it likes.
	health := func(cmd string, failures uint32) *mesosv1.HealthCheck {
		return &mesosv1.HealthCheck{
			Type: mesosv1.HealthCheck_COMMAND.Enum(), Command: shell(cmd), DelaySeconds: ptr(0.0),
			IntervalSeconds: ptr(0.02), GracePeriodSeconds: ptr(300.0), ConsecutiveFailures: &failures,
		}
	}
	healthy := func(v bool) func(*mesosv1.TaskStatus) bool {
		return func(u *mesosv1.TaskStatus) bool { return u.Healthy != nil && *u.Healthy == v }
	}
	d.launch(d.task("sick", &mesosv1.TaskInfo{Command: shell("touch ok; sleep 1000"), HealthCheck: health("test -e ok", 3)}))
	u := d.until("sick", "healthy", healthy(true))
	if u.GetState() != mesosv1.TaskState_TASK_RUNNING || u.GetReason() != mesosv1.TaskStatus_REASON_TASK_HEALTH_CHECK_STATUS_UPDATED {
		t.Errorf("update %v", u)
	}
	if err := os.Remove(filepath.Join(d.sandbox("sick"), "ok")); err != nil {
		t.Fatal(err)
	}
	u = d.untilState("sick", mesosv1.TaskState_TASK_KILLED)
	if u.Healthy == nil || *u.Healthy || u.Reason != nil {
		t.Errorf("update %v, want healthy=false and no reason", u)
	}

	d.launch(d.task("checked", &mesosv1.TaskInfo{Command: shell("sleep 1000"), Check: &mesosv1.CheckInfo{
		Type: mesosv1.CheckInfo_COMMAND.Enum(), Command: &mesosv1.CheckInfo_Command{Command: shell("exit $(cat code 2>/dev/null || echo 0)")},
		DelaySeconds: ptr(0.0), IntervalSeconds: ptr(0.02),
	}}))
	exit := func(code int32) func(*mesosv1.TaskStatus) bool {
		return func(u *mesosv1.TaskStatus) bool {
			c := u.GetCheckStatus().GetCommand()
			return c != nil && c.ExitCode != nil && *c.ExitCode == code
		}
	}
	d.until("checked", "exit code 0", exit(0))
	if err := os.WriteFile(filepath.Join(d.sandbox("checked"), "code"), []byte("42\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	u = d.until("checked", "exit code 42", exit(42))
	if u.GetReason() != mesosv1.TaskStatus_REASON_TASK_CHECK_STATUS_UPDATED {
		t.Errorf("reason %s", u.GetReason())
	}

	d.launch(d.task("late", &mesosv1.TaskInfo{Command: shell("sleep 1000"), MaxCompletionTime: &mesosv1.DurationInfo{Nanoseconds: ptr(int64(50 * time.Millisecond))}}))
	if u := d.untilState("late", mesosv1.TaskState_TASK_FAILED); u.GetReason() != mesosv1.TaskStatus_REASON_MAX_COMPLETION_TIME_REACHED {
		t.Errorf("update %v", u)
	}
}

func TestKillEscalates(t *testing.T) {
	t.Parallel()
	d := newHost(t).start(nil)
	defer d.end()
	d.launch(d.task("hard", &mesosv1.TaskInfo{Command: shell(`trap "echo no" TERM; echo ready; while :; do sleep 0.05; done`)}))
	eventually(t, "ready", func() bool {
		b, _ := os.ReadFile(filepath.Join(d.sandbox("hard"), "stdout"))
		return strings.Contains(string(b), "ready")
	})
	d.kill("hard", 2*time.Second) // time enough to say no
	u := d.untilState("hard", mesosv1.TaskState_TASK_KILLED)
	if u.GetMessage() != "Command terminated with signal Killed" {
		t.Errorf("message %q", u.GetMessage())
	}
	d.wait("hard")
	if got := read(t, d.sandbox("hard"), "stdout"); !strings.Contains(got, "no\n") {
		t.Errorf("SIGTERM did not come first: stdout %q", got)
	}
}

func TestSessionWithTerminal(t *testing.T) {
	t.Parallel()
	d := newHost(t).start(nil)
	defer d.end()
	d.launch(d.plain("up", "echo parent >mark; sleep 1000"))
	cfg := d.plain("up.sh", `stty size; read line; echo "got $line"; exit 3`)
	cfg.Kind, cfg.Directory = containerizer.Session, d.sandbox("up")
	cfg.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), TtyInfo: &mesosv1.TTYInfo{WindowSize: &mesosv1.TTYInfo_WindowSize{Rows: ptr(uint32(33)), Columns: ptr(uint32(77))}}}
	d.launch(cfg)
	a, err := d.Attach(t.Context(), "up.sh")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Send(&agentv1.ProcessIO{Type: agentv1.ProcessIO_DATA.Enum(), Data: &agentv1.ProcessIO_Data{Type: agentv1.ProcessIO_Data_STDIN.Enum(), Data: []byte("word\n")}}); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for {
		r, err := a.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		out.Write(r.GetData().GetData())
	}
	if !strings.Contains(out.String(), "33 77") || !strings.Contains(out.String(), "got word") {
		t.Errorf("terminal said %q", out.String())
	}
	if term := d.wait("up.sh"); term.WaitStatus == nil || syscall.WaitStatus(*term.WaitStatus).ExitStatus() != 3 {
		t.Errorf("termination %+v", term)
	}
	if err := d.Remove(t.Context(), "up.sh"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(d.sandbox("up"), "mark")); err != nil {
		t.Error("removing a session removed its parent's sandbox")
	}
}

func TestSessionPipes(t *testing.T) {
	t.Parallel()
	d := newHost(t).start(nil)
	defer d.end()
	d.launch(d.plain("up", "sleep 1000"))
	cfg := d.plain("up.cat", `cat; echo done >&2`)
	cfg.Kind, cfg.Directory = containerizer.Session, d.sandbox("up")
	d.launch(cfg)
	a, err := d.Attach(t.Context(), "up.cat")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	want := strings.Repeat("0123456789abcdef", 100_000) // more than pipes and queues hold
	go func() {
		in := func(b []byte) error {
			return a.Send(&agentv1.ProcessIO{Type: agentv1.ProcessIO_DATA.Enum(), Data: &agentv1.ProcessIO_Data{Type: agentv1.ProcessIO_Data_STDIN.Enum(), Data: b}})
		}
		if err := errors.Join(in([]byte(want)), in(nil)); err != nil {
			t.Error(err)
		}
	}()
	var out, errs strings.Builder
	for {
		r, err := a.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if r.GetData().GetType() == agentv1.ProcessIO_Data_STDERR {
			errs.Write(r.GetData().GetData())
		} else {
			out.Write(r.GetData().GetData())
		}
	}
	if out.String() != want || errs.String() != "done\n" {
		t.Errorf("%d bytes came back of %d; stderr %q", out.Len(), len(want), errs.String())
	}
	if _, err := d.Attach(t.Context(), "up"); !errors.Is(err, containerizer.ErrNotAttachable) {
		t.Errorf("attach to a plain container: %v", err)
	}
}

func TestLaunchFailuresReleaseEverything(t *testing.T) {
	t.Parallel()
	d := newHost(t).start(nil)
	defer d.end()
	for name, change := range map[string]func(*containerizer.Config){
		"no such program": func(c *containerizer.Config) {
			c.Command = &mesosv1.CommandInfo{Shell: ptr(false), Value: ptr("/no/such/program")}
		},
		"no such user": func(c *containerizer.Config) { c.User = "nobody-by-this-name" },
		"no sandbox":   func(c *containerizer.Config) { c.Directory += "-missing" },
		"unfetchable": func(c *containerizer.Config) {
			c.Command.Uris = []*mesosv1.CommandInfo_URI{{Value: ptr("/no/such/file")}}
		},
		"bad image name": func(c *containerizer.Config) { c.Container = inImage("no/Such Image") },
		"network":        func(c *containerizer.Config) { c.Container = ownNetworks("weave") },
	} {
		id := ids.Container("f-" + strings.ReplaceAll(name, " ", "-"))
		cfg := d.plain(id, "sleep 1000")
		change(&cfg)
		err := d.Launch(t.Context(), cfg)
		var le *containerizer.LaunchError
		if !errors.As(err, &le) || le.Reason != mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED {
			t.Errorf("%s: error %v", name, err)
		}
		if _, err := d.Wait(t.Context(), id); !errors.Is(err, containerizer.ErrNotFound) {
			t.Errorf("%s: wait: %v", name, err)
		}
		if left := marked(d.mark(id)); len(left) > 0 {
			t.Errorf("%s: processes left: %v", name, left)
		}
		if _, err := os.Stat(d.dir(id)); err == nil {
			t.Errorf("%s: runtime directory left", name)
		}
	}
}

func ownNetworks(name string) *mesosv1.ContainerInfo {
	return &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), NetworkInfos: []*mesosv1.NetworkInfo{{Name: &name}}}
}

func TestDestroyWhileLaunching(t *testing.T) {
	t.Parallel()
	d := newHost(t).start(nil)
	defer d.end()
	for i := range 20 {
		id := ids.Container(fmt.Sprintf("d%d", i))
		done := make(chan error, 1)
		go func() { done <- d.Launch(context.Background(), d.plain(id, "sleep 1000")) }()
		for {
			if err := d.Destroy(t.Context(), id); err == nil {
				break
			}
		}
		if err := <-done; err == nil {
			d.wait(id)
		}
		if left := marked(d.mark(id)); len(left) > 0 {
			t.Fatalf("processes left: %v", left)
		}
	}
}
