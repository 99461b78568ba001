package docker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// TestTask is a task's whole story: output, status, exit code; and nothing is left.
func TestTask(t *testing.T) {
	t.Parallel()
	h := newHost(t, dockertest.Options{})
	d := h.start(nil)
	t.Run("finished", func(t *testing.T) {
		cfg := d.task("ok", &mesosv1.TaskInfo{Command: shell("echo out; echo err >&2; echo kept > $MESOS_SANDBOX/file; exit 0")})
		d.launch(cfg)
		d.untilState("ok", mesosv1.TaskState_TASK_FINISHED)
		if s := d.states("ok"); s != "STARTING RUNNING FINISHED" {
			t.Errorf("states: %s", s)
		}
		d.wait("ok")
		if got := read(t, cfg.Directory, "stdout") + read(t, cfg.Directory, "stderr") + read(t, cfg.Directory, "file"); got != "out\nerr\nkept\n" {
			t.Errorf("sandbox: %q", got)
		}
		var about []struct{ ID, Name string }
		if err := json.Unmarshal(d.untilState("ok", mesosv1.TaskState_TASK_RUNNING).GetData(), &about); err != nil || len(about) != 1 || about[0].Name != "/mesos-ok" {
			t.Errorf("data of TASK_RUNNING: %v %v", about, err)
		}
	})
	t.Run("failed", func(t *testing.T) {
		d.launch(d.task("bad", &mesosv1.TaskInfo{Command: shell("exit 3")}))
		if u := d.untilState("bad", mesosv1.TaskState_TASK_FAILED); u.GetMessage() != "Container exited with status 3" {
			t.Errorf("message: %q", u.GetMessage())
		}
		d.wait("bad")
	})
	t.Run("binary output comes through unchanged", func(t *testing.T) {
		cfg := d.task("bytes", &mesosv1.TaskInfo{Command: shell(`printf 'a\000b\r\n\377no newline'`)})
		d.launch(cfg)
		d.untilState("bytes", mesosv1.TaskState_TASK_FINISHED)
		d.wait("bytes")
		if got := read(t, cfg.Directory, "stdout"); got != "a\x00b\r\n\xffno newline" {
			t.Errorf("%q", got)
		}
	})
	t.Run("no such program", func(t *testing.T) {
		err := d.Launch(t.Context(), d.task("noprog", &mesosv1.TaskInfo{Command: &mesosv1.CommandInfo{Shell: ptr(false), Value: ptr("/no/such")}}))
		var le *containerizer.LaunchError
		if !errors.As(err, &le) || le.Reason != mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED || !strings.Contains(err.Error(), "/no/such") {
			t.Errorf("%v", err)
		}
	})
	t.Run("killed with grace", func(t *testing.T) {
		cfg := d.task("polite", &mesosv1.TaskInfo{Command: shell(`trap 'echo bye; exit 0' TERM; echo up; while true; do sleep 0.05; done`)})
		d.launch(cfg)
		d.untilState("polite", mesosv1.TaskState_TASK_RUNNING)
		eventually(t, "it is up", func() bool { return read(t, cfg.Directory, "stdout") == "up\n" })
		d.kill("polite", 30*time.Second)
		d.untilState("polite", mesosv1.TaskState_TASK_KILLED)
		d.wait("polite")
		if s := d.states("polite"); s != "STARTING RUNNING KILLING KILLED" {
			t.Errorf("states: %s", s)
		}
		if out := read(t, cfg.Directory, "stdout"); out != "up\nbye\n" {
			t.Errorf("stdout: %q", out)
		}
	})
	t.Run("killed by force", func(t *testing.T) {
		d.launch(d.task("deaf", &mesosv1.TaskInfo{Command: shell(`trap '' TERM; while true; do sleep 0.05; done`)}))
		d.untilState("deaf", mesosv1.TaskState_TASK_RUNNING)
		d.kill("deaf", 100*time.Millisecond)
		if u := d.untilState("deaf", mesosv1.TaskState_TASK_KILLED); u.GetMessage() != "Container exited with status 137" {
			t.Errorf("message: %q", u.GetMessage())
		}
		d.wait("deaf")
	})
	t.Run("destroyed", func(t *testing.T) {
		d.launch(d.task("gone", &mesosv1.TaskInfo{Command: shell("sleep 1000")}))
		d.untilState("gone", mesosv1.TaskState_TASK_RUNNING)
		if err := d.Destroy(t.Context(), "gone"); err != nil {
			t.Fatal(err)
		}
		d.wait("gone")
	})
	t.Run("an executor's exit code and signals", func(t *testing.T) {
		cfg := d.executor("exec", `trap 'exit 7' USR1; echo up; while true; do sleep 0.05; done`)
		d.launch(cfg)
		eventually(t, "it is up", func() bool { return read(t, cfg.Directory, "stdout") == "up\n" })
		if err := d.Signal("exec", syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		if end := d.wait("exec"); end.WaitStatus == nil || syscall.WaitStatus(*end.WaitStatus).ExitStatus() != 7 {
			t.Errorf("%+v", end)
		}
	})
	d.end()
	if left := h.e.Docker("ps", "-aq"); left != "" {
		t.Errorf("containers left: %s", left)
	}
	if left := append(h.e.Processes(), h.e.Cgroups()...); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestMemory: an exhausted memory limit is told as such, with the limitation.
func TestMemory(t *testing.T) {
	t.Parallel()
	d := newHost(t, dockertest.Options{}).start(nil)
	defer d.end()
	eat := `exec tail /dev/zero`
	d.launch(d.task("oom", &mesosv1.TaskInfo{Command: shell(eat), Resources: []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 32)}}))
	u := d.untilState("oom", mesosv1.TaskState_TASK_FAILED)
	if u.GetReason() != mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY || u.GetLimitation().GetResources()[0].GetScalar().GetValue() != 32 ||
		!strings.HasPrefix(u.GetMessage(), "Memory limit exceeded: Requested: 32MB") {
		t.Errorf("%v", u)
	}
	d.wait("oom")
	cfg := d.executor("oomexec", eat)
	cfg.Resources = []*mesosv1.Resource{scalar("mem", 32)}
	d.launch(cfg)
	end := d.wait("oomexec")
	if end.Reason == nil || *end.Reason != mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY || end.Limitation.GetResources()[0].GetScalar().GetValue() != 32 {
		t.Errorf("%+v", end)
	}
}

// TestChecks: COMMAND by exec inside, HTTP and TCP in the container's network.
func TestChecks(t *testing.T) {
	t.Parallel()
	h := newHost(t, dockertest.Options{Bridge: true})
	d := h.start(nil)
	defer d.end()
	seconds := func(v float64) *float64 { return &v }
	health := func(c *mesosv1.HealthCheck) *mesosv1.HealthCheck {
		c.DelaySeconds, c.IntervalSeconds, c.TimeoutSeconds, c.GracePeriodSeconds, c.ConsecutiveFailures = seconds(0), seconds(0.1), seconds(20), seconds(300), ptr(uint32(2))
		return c
	}
	server := shell("mkdir /www; echo hello > /www/index.html; httpd -p 8080 -h /www; while true; do sleep 1; done")
	bridge := func() *mesosv1.ContainerInfo { return dockerInfo(mesosv1.ContainerInfo_DockerInfo_BRIDGE) }
	for name, c := range map[string]*mesosv1.HealthCheck{
		"command": {Type: mesosv1.HealthCheck_COMMAND.Enum(), Command: shell("wget -q -O - http://127.0.0.1:8080/ | tr h H > /tmp/got; test -e /www/index.html")},
		"argv":    {Type: mesosv1.HealthCheck_COMMAND.Enum(), Command: &mesosv1.CommandInfo{Shell: ptr(false), Value: ptr("test"), Arguments: []string{"-e", "/www/index.html"}}},
		"http":    {Type: mesosv1.HealthCheck_HTTP.Enum(), Http: &mesosv1.HealthCheck_HTTPCheckInfo{Port: ptr(uint32(8080)), Path: ptr("/index.html")}},
		"tcp":     {Type: mesosv1.HealthCheck_TCP.Enum(), Tcp: &mesosv1.HealthCheck_TCPCheckInfo{Port: ptr(uint32(8080))}},
	} {
		id := ids.Container("healthy-" + name)
		d.launch(d.task(id, &mesosv1.TaskInfo{Command: server, Container: bridge(), HealthCheck: health(c)}))
		d.until(id, "healthy", func(u *mesosv1.TaskStatus) bool { return u.GetHealthy() })
		d.kill(id, 0)
		d.wait(id)
	}
	// Nothing listens: after two failures it is killed.
	c := health(&mesosv1.HealthCheck{Type: mesosv1.HealthCheck_TCP.Enum(), Tcp: &mesosv1.HealthCheck_TCPCheckInfo{Port: ptr(uint32(8081))}})
	c.GracePeriodSeconds = seconds(0)
	d.launch(d.task("sick", &mesosv1.TaskInfo{
		Command: shell("sleep 1000"), Container: bridge(), HealthCheck: c,
		KillPolicy: &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: ptr(int64(0))}},
	}))
	if u := d.untilState("sick", mesosv1.TaskState_TASK_KILLED); u.Healthy == nil || u.GetHealthy() {
		t.Errorf("%v", u)
	}
	d.wait("sick")
	// A check that hangs is killed, with what it started.
	hang := health(&mesosv1.HealthCheck{Type: mesosv1.HealthCheck_COMMAND.Enum(), Command: shell("sleep 77 & sleep 77")})
	hang.TimeoutSeconds, hang.GracePeriodSeconds = seconds(0.3), seconds(0)
	cfg := d.task("hang", &mesosv1.TaskInfo{Command: shell("while true; do ps | tr '\\n' ';'; echo; sleep 0.2; done"), Container: bridge(), HealthCheck: hang})
	cfg.Task.HealthCheck.ConsecutiveFailures = ptr(uint32(1000))
	d.launch(cfg)
	d.until("hang", "unhealthy", func(u *mesosv1.TaskStatus) bool { return u.Healthy != nil && !u.GetHealthy() })
	d.kill("hang", 0)
	d.wait("hang")
	// CheckInfo reports, and Docker tasks have it too.
	ci := &mesosv1.CheckInfo{
		Type: mesosv1.CheckInfo_COMMAND.Enum(), Command: &mesosv1.CheckInfo_Command{Command: shell("exit 5")},
		DelaySeconds: seconds(0), IntervalSeconds: seconds(0.1), TimeoutSeconds: seconds(5),
	}
	d.launch(d.task("checked", &mesosv1.TaskInfo{Command: shell("sleep 1000"), Check: ci}))
	d.until("checked", "exit code 5", func(u *mesosv1.TaskStatus) bool { return u.GetCheckStatus().GetCommand().GetExitCode() == 5 })
}

func TestSession(t *testing.T) {
	t.Parallel()
	d := newHost(t, dockertest.Options{}).start(nil)
	defer d.end()
	d.launch(d.task("up", &mesosv1.TaskInfo{Command: shell("echo inside > /marker; while true; do sleep 1; done")}))
	d.untilState("up", mesosv1.TaskState_TASK_RUNNING)
	run := func(id ids.Container, tty bool, input string, argv ...string) (string, containerizer.Termination) {
		t.Helper()
		cfg := containerizer.Config{ID: id, Kind: containerizer.Session, Directory: d.sandbox("up"), Command: &mesosv1.CommandInfo{Shell: ptr(false), Value: &argv[0], Arguments: argv}}
		if tty {
			cfg.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), TtyInfo: &mesosv1.TTYInfo{WindowSize: &mesosv1.TTYInfo_WindowSize{Rows: ptr(uint32(33)), Columns: ptr(uint32(77))}}}
		}
		d.launch(cfg)
		at, err := d.Attach(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		defer at.Close()
		send := func(b string) {
			if err := at.Send(&agentv1.ProcessIO{Type: agentv1.ProcessIO_DATA.Enum(), Data: &agentv1.ProcessIO_Data{Type: agentv1.ProcessIO_Data_STDIN.Enum(), Data: []byte(b)}}); err != nil {
				t.Error(err)
			}
		}
		if input != "" {
			send(input)
			send("")
		}
		var out strings.Builder
		for {
			r, err := at.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			out.Write(r.GetData().GetData())
		}
		return out.String(), d.wait(id)
	}
	if out, end := run("up.a", false, "", "cat", "/marker"); out != "inside\n" || *end.WaitStatus != 0 {
		t.Errorf("%q %v", out, end)
	}
	if out, end := run("up.b", false, "hello", "sh", "-c", "cat; echo; echo err >&2; exit 3"); !strings.Contains(out, "hello") || !strings.Contains(out, "err\n") || syscall.WaitStatus(*end.WaitStatus).ExitStatus() != 3 {
		t.Errorf("%q %v", out, end)
	}
	if out, _ := run("up.c", true, "", "sh", "-c", `until [ "$(stty size 2>/dev/null)" = "33 77" ]; do sleep 0.05; done; stty size; test -t 0 && echo terminal`); out != "33 77\r\nterminal\r\n" {
		t.Errorf("%q", out)
	}
	// A session that nobody holds any more ends, with what it started.
	cfg := containerizer.Config{ID: "up.d", Kind: containerizer.Session, Directory: d.sandbox("up"), Command: shell("sleep 4711 & sleep 4711")}
	d.launch(cfg)
	running := func() bool { return strings.Contains(strings.Join(d.h.e.Processes(), "\n"), "sleep 4711") }
	eventually(t, "the session runs", running)
	if err := d.Destroy(t.Context(), "up.d"); err != nil {
		t.Fatal(err)
	}
	d.wait("up.d")
	eventually(t, "the session's processes are gone", func() bool { return !running() })
	if err := d.Remove(t.Context(), "up.d"); err != nil {
		t.Error(err)
	}
	// One whose helper is killed ends as well: Docker itself would let it run on.
	cfg.ID = "up.f"
	d.launch(cfg)
	eventually(t, "the session runs", running)
	_ = syscall.Kill(d.helperPID("up.f"), syscall.SIGKILL)
	d.wait("up.f")
	eventually(t, "the session's processes are gone", func() bool { return !running() })
	if err := d.Launch(t.Context(), containerizer.Config{ID: "up.e", Kind: containerizer.Nested, Directory: d.sandbox("up"), Command: shell("true"), Container: hostNet()}); err == nil || !strings.Contains(err.Error(), "nested containers can't be DOCKER") {
		t.Errorf("a nested container: %v", err)
	}
}

// TestTerminal attaches to a task with a terminal.
func TestTerminal(t *testing.T) {
	t.Parallel()
	d := newHost(t, dockertest.Options{}).start(nil)
	defer d.end()
	info := hostNet()
	info.TtyInfo = &mesosv1.TTYInfo{WindowSize: &mesosv1.TTYInfo_WindowSize{Rows: ptr(uint32(20)), Columns: ptr(uint32(40))}}
	cfg := d.task("tty", &mesosv1.TaskInfo{Command: shell("read line; stty size; echo got $line"), Container: info})
	d.launch(cfg)
	d.untilState("tty", mesosv1.TaskState_TASK_RUNNING)
	at, err := d.Attach(t.Context(), "tty")
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	if err := at.Send(&agentv1.ProcessIO{Type: agentv1.ProcessIO_CONTROL.Enum(), Control: &agentv1.ProcessIO_Control{
		Type: agentv1.ProcessIO_Control_TTY_INFO.Enum(), TtyInfo: &mesosv1.TTYInfo{WindowSize: &mesosv1.TTYInfo_WindowSize{Rows: ptr(uint32(50)), Columns: ptr(uint32(100))}},
	}}); err != nil {
		t.Fatal(err)
	}
	if err := at.Send(&agentv1.ProcessIO{Type: agentv1.ProcessIO_DATA.Enum(), Data: &agentv1.ProcessIO_Data{Type: agentv1.ProcessIO_Data_STDIN.Enum(), Data: []byte("word\n")}}); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for {
		r, err := at.Recv()
		if err != nil {
			break
		}
		out.Write(r.GetData().GetData())
	}
	if !strings.Contains(out.String(), "50 100\r\ngot word\r\n") {
		t.Errorf("%q", out.String())
	}
	d.untilState("tty", mesosv1.TaskState_TASK_FINISHED)
	d.wait("tty")
	if log := read(t, cfg.Directory, "stdout"); !strings.Contains(log, "got word") {
		t.Errorf("stdout: %q", log)
	}
	if err := d.Launch(t.Context(), d.task("plain", &mesosv1.TaskInfo{Command: shell("sleep 1000")})); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Attach(t.Context(), "plain"); !errors.Is(err, containerizer.ErrNotAttachable) {
		t.Errorf("attach to a container without a terminal: %v", err)
	}
}

// TestUsage reads statistics and the address, and the live change of limits.
func TestUsage(t *testing.T) {
	t.Parallel()
	h := newHost(t, dockertest.Options{Bridge: true})
	d := h.start(nil, func(c *Config) { c.Cgroups.EnableCFS = true })
	defer d.end()
	cfg := d.executor("x", "while true; do sleep 0.1; done")
	cfg.Container = dockerInfo(mesosv1.ContainerInfo_DockerInfo_BRIDGE)
	d.launch(cfg)
	group := func(controller, file string) string {
		return strings.TrimSpace(read(t, "/sys/fs/cgroup", controller, h.e.CgroupParent, d.inspect("x").ID, file))
	}
	check := func(shares, quota, mem string) {
		t.Helper()
		if s, q, m := group("cpu", "cpu.shares"), group("cpu", "cpu.cfs_quota_us"), group("memory", "memory.limit_in_bytes"); s != shares || q != quota || m != mem {
			t.Errorf("shares %s, quota %s, memory %s; want %s %s %s", s, q, m, shares, quota, mem)
		}
	}
	check("512", "50000", "67108864")
	for _, step := range []struct {
		cpus, mem          float64
		limits             map[string]float64
		shares, quota, max string
	}{
		{1, 128, nil, "1024", "100000", "134217728"},
		{2, 64, map[string]float64{"cpus": 3}, "2048", "300000", "134217728"}, // a limit is never lowered
	} {
		if err := d.Update(t.Context(), "x", []*mesosv1.Resource{scalar("cpus", step.cpus), scalar("mem", step.mem)}, step.limits); err != nil {
			t.Fatal(err)
		}
		check(step.shares, step.quota, step.max)
	}
	u, err := d.Usage("x")
	if err != nil || u.GetMemTotalBytes() == 0 || u.GetMemLimitBytes() != 134217728 || u.GetProcesses() == 0 || u.CpusUserTimeSecs == nil || u.GetCpusLimit() != 3 {
		t.Errorf("%v %v", u, err)
	}
	e, err := d.engineUsage("mesos-x") // what is used where the container's processes are not to be seen
	if err != nil || e.GetMemTotalBytes() == 0 || e.GetMemLimitBytes() != 134217728 || e.CpusUserTimeSecs == nil {
		t.Errorf("%v %v", e, err)
	}
	s, err := d.Status("x")
	if err != nil || len(s.GetNetworkInfos()) != 1 || net.ParseIP(s.GetNetworkInfos()[0].GetIpAddresses()[0].GetIpAddress()) == nil || int(s.GetExecutorPid()) != d.inspect("x").State.Pid {
		t.Errorf("%v %v", s, err)
	}
	if _, err := d.Usage("nobody"); !errors.Is(err, containerizer.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// TestRotation: as long as the container writes, a sandbox does not fill the disk.
func TestRotation(t *testing.T) {
	t.Parallel()
	d := newHost(t, dockertest.Options{}).start(nil, func(c *Config) { c.LogMaxBytes, c.LogKeep = 10_000, 1 })
	defer d.end()
	cfg := d.task("loud", &mesosv1.TaskInfo{Command: shell("seq 1 5000")})
	d.launch(cfg)
	d.untilState("loud", mesosv1.TaskState_TASK_FINISHED)
	d.wait("loud")
	if all := read(t, cfg.Directory, "stdout.1") + read(t, cfg.Directory, "stdout"); !strings.HasSuffix(all, "4999\n5000\n") || len(all) > 20_000 || len(all) < 10_000 {
		t.Errorf("%d bytes, ending in %q", len(all), all[max(0, len(all)-20):])
	}
}

// TestLaunchIsAborted: a container that is destroyed while it is being launched leaves nothing.
func TestLaunchIsAborted(t *testing.T) {
	t.Parallel()
	h := newHost(t, dockertest.Options{})
	d := h.start(nil)
	defer d.end()
	for i := range 4 {
		id := ids.Container("abort" + string(rune('a'+i)))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Launch(ctx, d.task(id, &mesosv1.TaskInfo{Command: shell("sleep 1000")})) }()
		time.Sleep(time.Duration(i) * 60 * time.Millisecond) // the moment varies, nothing is waited for
		cancel()
		if err := <-done; err == nil {
			_ = d.Destroy(t.Context(), id)
			d.wait(id)
		}
	}
	if left := h.e.Docker("ps", "-aq"); left != "" {
		t.Errorf("containers left: %s", left)
	}
}
