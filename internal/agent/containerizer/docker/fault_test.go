package docker

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// counter is a task that writes numbers until it is asked to stop, and then the last one.
const counter = `i=0; trap 'echo end $i; exit 0' TERM; while true; do i=$((i+1)); echo $i; sleep 0.02; done`

// lines counts the numbers in a sandbox's stdout.
func lines(t *testing.T, dir string) int { return strings.Count(read(t, dir, "stdout"), "\n") }

// unbroken: every number is there, in order and once.
func unbroken(t *testing.T, dir string) {
	t.Helper()
	all := strings.Split(strings.TrimSpace(read(t, dir, "stdout")), "\n")
	for i, l := range all {
		want := strconv.Itoa(i + 1)
		if i == len(all)-1 {
			want = "end " + strconv.Itoa(i)
		}
		if l != want {
			t.Fatalf("line %d of %d is %q, want %q", i+1, len(all), l, want)
		}
	}
}

// TestEngineRestart: an Engine that keeps its containers running may go and come; output and end are not lost. One that
// does not, ends them, and their end is told.
func TestEngineRestart(t *testing.T) {
	t.Parallel()
	h := newHost(t, dockertest.Options{LiveRestore: true})
	d := h.start(nil)
	cfg := d.task("live", &mesosv1.TaskInfo{Command: shell(counter)})
	d.launch(cfg)
	x := d.executor("exec", "while true; do sleep 0.1; done")
	d.launch(x)
	d.untilState("live", mesosv1.TaskState_TASK_RUNNING)
	session := func() bool { return strings.Contains(strings.Join(h.e.Processes(), "\n"), "sleep 4712") }
	for i, stop := range []func(){h.e.Kill, h.e.Stop} {
		in := ids.Container("exec." + strconv.Itoa(i))
		d.launch(containerizer.Config{ID: in, Kind: containerizer.Session, Directory: d.sandbox("exec"), Command: shell("sleep 4712 & sleep 4712")})
		at, err := d.Attach(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the session runs", session)
		n := lines(t, cfg.Directory)
		eventually(t, "it writes", func() bool { return lines(t, cfg.Directory) > n+5 })
		stop()
		if err := d.Launch(t.Context(), d.executor("away", "true")); err == nil || !strings.Contains(err.Error(), "does not answer on "+h.e.Socket) {
			t.Errorf("a launch without an Engine: %v", err)
		}
		// A change of limits waits for the Engine.
		if err := d.Update(t.Context(), "exec", []*mesosv1.Resource{scalar("cpus", 1), scalar("mem", 96)}, nil); err != nil {
			t.Error(err)
		}
		h.e.Run()
		n = lines(t, cfg.Directory)
		eventually(t, "it goes on", func() bool { return lines(t, cfg.Directory) > n+5 })
		// An Engine forgets what it has started inside of containers: a session ends, and nothing of it runs on.
		for err = error(nil); err == nil; {
			_, err = at.Recv()
		}
		at.Close()
		d.wait(in)
		eventually(t, "the session's processes are gone", func() bool { return !session() })
	}
	eventually(t, "the limit is changed", func() bool { return d.inspect("exec").HostConfig.Memory == 96<<20 })
	d.kill("live", 30*time.Second)
	d.untilState("live", mesosv1.TaskState_TASK_KILLED)
	d.wait("live")
	unbroken(t, cfg.Directory)
	// An Engine that hangs: the container is killed past it.
	h.e.Signal(syscall.SIGSTOP)
	if err := d.Destroy(t.Context(), "exec"); err != nil {
		t.Error(err)
	}
	pid := func() int { s, _ := d.Status("exec"); return int(s.GetExecutorPid()) }()
	eventually(t, "the process is gone", func() bool { return pid == 0 || syscall.Kill(pid, 0) != nil || zombie(pid) })
	h.e.Signal(syscall.SIGCONT)
	d.wait("exec")
	d.end()
	if left := h.e.Docker("ps", "-aq"); left != "" {
		t.Errorf("containers left: %s", left)
	}
}

func zombie(pid int) bool {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	i := strings.LastIndexByte(string(b), ')')
	return i < 0 || strings.HasPrefix(string(b)[i+1:], " Z")
}

func TestEngineEndsContainers(t *testing.T) {
	t.Parallel()
	h := newHost(t, dockertest.Options{})
	d := h.start(nil)
	d.launch(d.task("t", &mesosv1.TaskInfo{Command: shell("sleep 1000")}))
	d.untilState("t", mesosv1.TaskState_TASK_RUNNING)
	h.e.Stop()
	h.e.Run()
	if u := d.untilState("t", mesosv1.TaskState_TASK_FAILED); !strings.Contains(u.GetMessage(), "exited with status") {
		t.Errorf("%v", u)
	}
	d.wait("t")
	// Removed behind our back.
	d.launch(d.task("u", &mesosv1.TaskInfo{Command: shell("sleep 1000")}))
	d.untilState("u", mesosv1.TaskState_TASK_RUNNING)
	h.e.Docker("rm", "-f", "mesos-u")
	if u := d.untilState("u", mesosv1.TaskState_TASK_FAILED); !strings.Contains(u.GetMessage(), "exited with status 137") && !strings.Contains(u.GetMessage(), "removed from Docker by somebody else") {
		t.Errorf("%v", u)
	}
	d.wait("u")
	d.end()
}

// TestAgentRestart: containers outlive the agent, with their output; what is nobody's is removed, what is others' stays.
func TestAgentRestart(t *testing.T) {
	t.Parallel()
	h := newHost(t, dockertest.Options{})
	d := h.start(nil)
	cfg := d.task("kept", &mesosv1.TaskInfo{Command: shell(counter)})
	d.launch(cfg)
	d.untilState("kept", mesosv1.TaskState_TASK_RUNNING)
	unknown := d.executor("orphan", "sleep 1000")
	d.launch(unknown)
	ended := d.executor("ended", "while [ ! -e /mnt/mesos/sandbox/go ]; do sleep 0.02; done; exit 9")
	d.launch(ended)
	// Another agent of the same host, and somebody who uses our names.
	other := hostOn(t, h.e)
	od := other.start(nil)
	od.launch(od.executor("theirs", "sleep 1000"))
	h.e.Docker("run", "-d", "--net", "host", "--name", "mesos-stranger", box, "sleep", "1000")
	d.stop()
	if err := os.WriteFile(filepath.Join(ended.Directory, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has ended", func() bool { return h.e.Docker("inspect", "-f", "{{.State.Running}}", "mesos-ended") == "false" })
	n := lines(t, cfg.Directory)
	eventually(t, "output goes on without an agent", func() bool { return lines(t, cfg.Directory) > n+5 })

	d = h.start([]containerizer.Config{cfg, ended})
	if !slices.Equal(d.orphans, []ids.Container{"orphan"}) {
		t.Errorf("orphans: %v", d.orphans)
	}
	if end := d.wait("ended"); end.WaitStatus == nil || syscall.WaitStatus(*end.WaitStatus).ExitStatus() != 9 {
		t.Errorf("the end of one that ended without an agent: %+v", end)
	}
	eventually(t, "the orphan is gone", func() bool { return !strings.Contains(h.e.Docker("ps", "-a", "--format", "{{.Names}}"), "orphan") })
	eventually(t, "the executor subscribes again", func() bool {
		d.link.mu.Lock()
		defer d.link.mu.Unlock()
		return d.link.streams["kept"] != nil
	})
	if u, err := d.Usage("kept"); err != nil || u.GetMemTotalBytes() == 0 {
		t.Errorf("%v %v", u, err)
	}
	d.kill("kept", 30*time.Second)
	d.untilState("kept", mesosv1.TaskState_TASK_KILLED)
	d.wait("kept")
	unbroken(t, cfg.Directory)
	names := strings.Fields(h.e.Docker("ps", "--format", "{{.Names}}"))
	slices.Sort(names)
	if !slices.Equal(names, []string{"mesos-stranger", "mesos-theirs"}) {
		t.Errorf("left are %v: others' containers are not ours to touch", names)
	}
	// A helper that is killed: its container goes with it.
	d.launch(d.executor("h", "sleep 1000"))
	_ = syscall.Kill(d.helperPID("h"), syscall.SIGKILL)
	if end := d.wait("h"); end.WaitStatus != nil {
		t.Errorf("%+v", end)
	}
	d.end()
	od.end()
	h.e.Docker("rm", "-f", "mesos-stranger")
	if left := h.e.Docker("ps", "-aq"); left != "" {
		t.Errorf("containers left: %s", left)
	}
}

// TestRemoveDelay keeps an ended container to be looked at, also over a restart, and not for ever.
func TestRemoveDelay(t *testing.T) {
	t.Parallel()
	h := newHost(t, dockertest.Options{})
	d := h.start(nil, func(c *Config) { c.RemoveDelay = time.Hour })
	cfg := d.executor("x", "exit 1")
	d.launch(cfg)
	d.wait("x")
	d.launch(d.executor("lost", "sleep 1000"))
	d.stop()
	d = h.start(nil, func(c *Config) { c.RemoveDelay, c.KeepOrphans = time.Hour, true })
	if s := h.e.Docker("inspect", "-f", "{{.State.Status}}", "mesos-x"); s != "exited" {
		t.Errorf("state: %s", s)
	}
	d.stop()
	d = h.start(nil, func(c *Config) { c.RemoveDelay = time.Millisecond })
	eventually(t, "it is removed", func() bool { return h.e.Docker("ps", "-aq") == "" })
	d.end()
}

// TestEngineIsStillMakingOne: what an agent that was killed had asked for may be there only after its successor has looked. It
// goes, and a stranger's stays.
func TestEngineIsStillMakingOne(t *testing.T) {
	t.Parallel()
	h := newHost(t, dockertest.Options{})
	d := h.start(nil)
	defer d.end()
	late := h.e.Docker("create", "--label", labelAgent+"="+d.mark, "--label", labelContainer+"=late", "--name", namePrefix+"late", box, "sleep", "1000")
	stranger := h.e.Docker("create", "--label", labelAgent+"=another", "--name", namePrefix+"stranger", box, "sleep", "1000")
	eventually(t, "the late one is gone", func() bool { return !strings.Contains(h.e.Docker("ps", "-aq", "--no-trunc"), late) })
	if !strings.Contains(h.e.Docker("ps", "-aq", "--no-trunc"), stranger) {
		t.Error("another agent's container was removed")
	}
	h.e.Docker("rm", stranger)
}

// TestEngineComesLater: the agent starts without an Engine and uses it when it comes; orphans go then.
func TestEngineComesLater(t *testing.T) {
	t.Parallel()
	h := newHost(t, dockertest.Options{LiveRestore: true})
	d := h.start(nil)
	cfg := d.task("kept", &mesosv1.TaskInfo{Command: shell(counter)})
	d.launch(cfg)
	d.untilState("kept", mesosv1.TaskState_TASK_RUNNING)
	orphan := d.executor("orphan", "sleep 1000")
	d.launch(orphan)
	_ = syscall.Kill(d.helperPID("orphan"), syscall.SIGSTOP) // so that it can't see to its container itself
	d.stop()
	h.e.Kill()
	d = h.start([]containerizer.Config{cfg})
	h.e.Run()
	eventually(t, "the orphan is gone", func() bool { return !strings.Contains(h.e.Docker("ps", "-a", "--format", "{{.Names}}"), "orphan") })
	eventually(t, "a task can be launched", func() bool {
		if d.Launch(t.Context(), d.executor("new", "true")) != nil {
			return false
		}
		d.wait("new")
		return true
	})
	eventually(t, "the executor subscribes again", func() bool {
		d.link.mu.Lock()
		defer d.link.mu.Unlock()
		return d.link.streams["kept"] != nil
	})
	d.kill("kept", 30*time.Second)
	d.untilState("kept", mesosv1.TaskState_TASK_KILLED)
	d.wait("kept")
	unbroken(t, cfg.Directory)
	d.end()
}

func globs(pattern string) []string {
	found, _ := filepath.Glob(pattern)
	return found
}

// TestForgottenVolumes: an Engine that is stopped while it makes or removes a container forgets its volumes, and sometimes their
// labels. They have names of ours, also those that only the image asks for, and go; a stranger's stay, and what a container has.
func TestForgottenVolumes(t *testing.T) {
	t.Parallel()
	h := newHost(t, dockertest.Options{})
	h.e.Import("wants:1", nil, "VOLUME /wanted")
	d := h.start(nil)
	defer d.end()
	volumes := func(args ...string) []string {
		return slices.Sorted(slices.Values(strings.Fields(h.e.Docker(append([]string{"volume", "ls", "-q"}, args...)...))))
	}
	cfg := d.executor("x", "sleep 1000")
	cfg.Container.Docker.Image = ptr("wants:1")
	cfg.Container.Volumes = []*mesosv1.Volume{volume("/own", rw, "", nil)}
	cfg.Container.Docker.Parameters = []*mesosv1.Parameter{param("volume", "/parameter")}
	d.launch(cfg)
	ours := volumes("--filter", "label="+labelAgent+"="+d.mark, "--filter", "label="+labelContainer+"=x")
	if all := volumes(); len(ours) != 3 || len(all) != 3 {
		t.Fatalf("the container's volumes are %q, with our mark %q", all, ours)
	}
	strange := []string{"orchestrator-0123456789abcdef-x", "strange", "x-" + d.volumePrefix() + "x"}
	for _, name := range append([]string{d.volumePrefix() + "forgotten"}, strange...) {
		h.e.Docker("volume", "create", name)
	}
	h.e.Docker("create", "--name", "stranger", "-v", d.volumePrefix()+"taken:/v", box, "true")
	shares := d.executor("y", "sleep 1000")
	shares.Container.Docker.Parameters = []*mesosv1.Parameter{param("volumes-from", "mesos-x")}
	d.launch(shares)
	h.e.Docker("rm", "-f", "mesos-x") // which leaves the volumes
	d.wait("x")
	strange = append([]string{d.volumePrefix() + "taken"}, strange...)
	slices.Sort(strange)
	left := slices.Sorted(slices.Values(append(slices.Clone(ours), strange...)))
	eventually(t, "the forgotten volume is gone", func() bool { return slices.Equal(volumes(), left) })
	_ = d.Destroy(t.Context(), "y")
	d.wait("y")
	eventually(t, "the volumes are gone", func() bool { return slices.Equal(volumes(), strange) })
	h.e.Docker("rm", "stranger")
}
