package native

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// v1file reads a v1 cgroup file of a container.
func (d *daemon) v1file(id, controller, file string) string {
	d.h.t.Helper()
	h, err := cgroup.Detect()
	if err != nil || h.V2 != "" {
		realpart.OtherKernel(d.h.t, "it reads files of cgroups v1")
	}
	return strings.TrimSpace(read(d.h.t, h.V1[controller], d.h.root, id, file))
}

// devices is what a container may open, where that is told: version 2 has a program that says nothing.
func (d *daemon) devices(id string) (list string, told bool) {
	if d.groups.Version() != 1 {
		return "", false
	}
	return d.v1file(id, "devices", "devices.list"), true
}

func TestCgroupValues(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	d := newHost(t).start(nil)
	defer d.end()
	cfg := d.plain("v", "sleep 1000")
	cfg.Resources = []*mesosv1.Resource{scalar("cpus", 1.5), scalar("cpus", 0.5), scalar("mem", 100)}
	cfg.Limits = map[string]float64{"cpus": 3, "mem": math.Inf(1)}
	d.launch(cfg)
	small := d.plain("s", "sleep 1000")
	small.Resources = []*mesosv1.Resource{scalar("cpus", 0.001), scalar("mem", 1)}
	d.launch(small)
	for _, c := range []struct{ id, controller, file, want string }{
		{"v", "cpu", "cpu.shares", "2048"},
		{"v", "cpu", "cpu.cfs_quota_us", "300000"},
		{"v", "memory", "memory.soft_limit_in_bytes", fmt.Sprint(100 << 20)},
		{"v", "pids", "pids.max", fmt.Sprint(cgroup.DefaultPIDs)},
		{"s", "cpu", "cpu.shares", "2"},
		{"s", "cpu", "cpu.cfs_quota_us", "-1"},
		{"s", "memory", "memory.limit_in_bytes", fmt.Sprint(32 << 20)},
		{"s", "memory", "memory.soft_limit_in_bytes", fmt.Sprint(32 << 20)},
	} {
		if got := d.v1file(c.id, c.controller, c.file); got != c.want {
			t.Errorf("%s %s = %s, want %s", c.id, c.file, got, c.want)
		}
	}
	if got := d.v1file("v", "memory", "memory.limit_in_bytes"); len(got) < 16 {
		t.Errorf("no memory limit reads %s", got)
	}
	// More memory raises the limit; less does not lower it under what runs.
	for _, c := range []struct {
		mb   float64
		want int
	}{{64, 64 << 20}, {40, 64 << 20}} {
		if err := d.Update(t.Context(), "s", []*mesosv1.Resource{scalar("cpus", 1), scalar("mem", c.mb)}, nil); err != nil {
			t.Fatal(err)
		}
		if got := d.v1file("s", "memory", "memory.limit_in_bytes"); got != fmt.Sprint(c.want) {
			t.Errorf("after an update to %v MB: %s, want %d", c.mb, got, c.want)
		}
	}
	if got := d.v1file("s", "cpu", "cpu.shares"); got != "1024" {
		t.Errorf("cpu.shares after update: %s", got)
	}
	u, err := d.Usage("s")
	if err != nil || u.GetMemLimitBytes() != 64<<20 || u.GetMemRssBytes() == 0 || u.CpusUserTimeSecs == nil || u.GetCpusLimit() != 1 || u.GetProcesses() < 2 {
		t.Errorf("usage %v, %v", u, err)
	}
}

func TestProcessAttributes(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	d := newHost(t).start(nil)
	defer d.end()
	run := func(id, cmd string, change func(*containerizer.Config)) string {
		t.Helper()
		cfg := d.plain("x"+idOf(id), cmd)
		if err := os.Chown(cfg.Directory, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		change(&cfg)
		d.launch(cfg)
		term := d.wait(cfg.ID)
		if term.WaitStatus == nil || *term.WaitStatus != 0 {
			t.Errorf("%s: %+v; stderr %q", id, term, read(t, cfg.Directory, "stderr"))
		}
		return strings.TrimSpace(read(t, cfg.Directory, "stdout"))
	}
	if got := run("user", "id -u; id -g; touch mine", func(c *containerizer.Config) { c.User = "nobody" }); got != "65534\n65534" {
		t.Errorf("as nobody: %q", got)
	}
	fi, err := os.Stat(filepath.Join(d.sandbox("xuser"), "stdout"))
	if err != nil || fi.Sys().(*syscall.Stat_t).Uid != 65534 {
		t.Errorf("stdout belongs to %v, %v", fi, err)
	}
	lim := &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), RlimitInfo: &mesosv1.RLimitInfo{Rlimits: []*mesosv1.RLimitInfo_RLimit{
		{Type: mesosv1.RLimitInfo_RLimit_RLMT_NOFILE.Enum(), Soft: ptr(uint64(100)), Hard: ptr(uint64(200))},
		{Type: mesosv1.RLimitInfo_RLimit_RLMT_CORE.Enum(), Soft: ptr(uint64(0)), Hard: ptr(uint64(0))},
	}}}
	if got := run("rlimit", "ulimit -n; ulimit -Hn; ulimit -c; id -u", func(c *containerizer.Config) { c.User, c.Container = "nobody", lim }); got != "100\n200\n0\n65534" {
		t.Errorf("rlimits: %q", got)
	}
	if got := run("pidns", "test $(ls /proc | grep -c '^[0-9]') -lt 8 && echo few", func(*containerizer.Config) {}); got != "few" {
		t.Errorf("the container sees the host's processes: %q", got)
	}
	if got := run("hostname", "hostname", func(c *containerizer.Config) {
		c.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), Hostname: ptr("box")}
	}); got != "box" {
		t.Errorf("hostname %q", got)
	}
	if got := run("shm", "df -m /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2", func(c *containerizer.Config) {
		c.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), LinuxInfo: &mesosv1.LinuxInfo{IpcMode: mesosv1.LinuxInfo_PRIVATE.Enum(), ShmSize: ptr(uint32(7))}}
	}); got != "7" {
		t.Errorf("/dev/shm is %q MB, want 7", got)
	}
	if got := run("env", "echo $A-$MESOS_SANDBOX; env | grep -c GOMAXPROCS", func(c *containerizer.Config) {
		c.Environment = []string{"A=1", "MESOS_SANDBOX=/here"}
		c.Command = shell("echo $A-$MESOS_SANDBOX; env | grep GOMAXPROCS; true")
	}); got != "1-/here" {
		t.Errorf("environment: %q", got)
	}
	if got := run("argv", "", func(c *containerizer.Config) {
		c.Command = &mesosv1.CommandInfo{Shell: ptr(false), Value: ptr("echo"), Arguments: []string{"echo", "$HOME", "a b"}}
	}); got != "$HOME a b" {
		t.Errorf("argv: %q", got)
	}
}

func idOf(s string) ids.Container { return ids.Container(s) }

func TestVolumes(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	d := newHost(t).start(nil)
	defer d.end()
	hostDir := filepath.Join(d.h.dir, "hostdir")
	if err := os.MkdirAll(hostDir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(hostDir, "f"), []byte("host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := d.plain("vol", "cat h/f; echo x >h/new 2>/dev/null || echo refused; echo kept >data/k; echo own >deep/er/o; cat plain/o")
	cfg.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), Volumes: []*mesosv1.Volume{
		{ContainerPath: ptr("h"), HostPath: ptr(hostDir), Mode: mesosv1.Volume_RO.Enum()},
		{ContainerPath: ptr("deep/er"), Mode: mesosv1.Volume_RW.Enum(), Source: &mesosv1.Volume_Source{
			Type: mesosv1.Volume_Source_SANDBOX_PATH.Enum(), SandboxPath: &mesosv1.Volume_Source_SandboxPath{
				Type: mesosv1.Volume_Source_SandboxPath_SELF.Enum(), Path: ptr("plain"),
			},
		}},
	}}
	disk := scalar("disk", 10)
	disk.Reservations = []*mesosv1.Resource_ReservationInfo{{Role: ptr("eng/web")}}
	disk.Disk = &mesosv1.Resource_DiskInfo{
		Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: ptr("p1")},
		Volume:      &mesosv1.Volume{ContainerPath: ptr("data"), Mode: mesosv1.Volume_RW.Enum()},
	}
	cfg.Resources = append(cfg.Resources, disk)
	d.launch(cfg)
	d.wait("vol")
	if got := read(t, cfg.Directory, "stdout"); got != "host\nrefused\nown\n" {
		t.Errorf("stdout %q, stderr %q", got, read(t, cfg.Directory, "stderr"))
	}
	if got := read(t, d.h.dir, "work", "volumes", "roles", "eng web", "p1", "k"); got != "kept\n" {
		t.Errorf("persistent volume holds %q", got)
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), d.h.dir) {
		t.Errorf("mounts of the container on the host: %v", err)
	}
	// A nested container reaches its parent's persistent volume through the parent's sandbox.
	up := cfg
	up.ID, up.Command, up.Directory = "vup", shell("sleep 1000"), d.sandbox("vup")
	d.launch(up)
	child := d.plain("vup.c", "cat d/k")
	child.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), Volumes: []*mesosv1.Volume{{
		ContainerPath: ptr("d"), Mode: mesosv1.Volume_RW.Enum(), Source: &mesosv1.Volume_Source{
			Type: mesosv1.Volume_Source_SANDBOX_PATH.Enum(), SandboxPath: &mesosv1.Volume_Source_SandboxPath{
				Type: mesosv1.Volume_Source_SandboxPath_PARENT.Enum(), Path: ptr("data"),
			},
		},
	}}}
	d.launch(child)
	d.wait("vup.c")
	if got := read(t, child.Directory, "stdout"); got != "kept\n" {
		t.Errorf("the child read %q", got)
	}
	for name, v := range map[string]*mesosv1.Volume{
		"dots":   {ContainerPath: ptr("../out"), HostPath: ptr("/tmp"), Mode: mesosv1.Volume_RW.Enum()},
		"source": {ContainerPath: ptr("in"), Mode: mesosv1.Volume_RW.Enum(), Source: &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_SANDBOX_PATH.Enum(), SandboxPath: &mesosv1.Volume_Source_SandboxPath{Path: ptr("a/../../b")}}},
		"docker": {ContainerPath: ptr("in"), Mode: mesosv1.Volume_RW.Enum(), Source: &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_DOCKER_VOLUME.Enum()}},
		"none":   {ContainerPath: ptr("in"), Mode: mesosv1.Volume_RW.Enum()},
	} {
		bad := d.plain("bad", "true")
		bad.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), Volumes: []*mesosv1.Volume{v}}
		if err := d.Supports(bad); err == nil {
			t.Errorf("%s: a volume that can't be given was accepted", name)
		}
	}
}

func TestDiskLimit(t *testing.T) {
	t.Parallel()
	d := newHost(t).start(nil, func(c *Config) { c.EnforceDiskQuota, c.DiskInterval = true, 20*time.Millisecond })
	defer d.end()
	endsForItsDisk(d)
}

// endsForItsDisk lets a container use more disk than it has.
func endsForItsDisk(d *daemon) {
	d.h.t.Helper()
	cfg := d.plain("full", "head -c 3000000 /dev/zero >big; sleep 1000")
	cfg.Resources = append(cfg.Resources, scalar("disk", 1))
	d.launch(cfg)
	term := d.wait("full")
	if term.Reason == nil || *term.Reason != mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_DISK || !strings.Contains(term.Message, "exceeds quota (1MB)") {
		d.h.t.Errorf("termination %+v", term)
	}
}

func TestLogRotation(t *testing.T) {
	t.Parallel()
	d := newHost(t).start(nil, func(c *Config) { c.LogMaxBytes, c.LogKeep = 1000, 2 })
	defer d.end()
	d.launch(d.plain("log", "i=0; while [ $i -lt 400 ]; do echo 0123456789; i=$((i+1)); done"))
	d.wait("log")
	dir := d.sandbox("log")
	var total int
	for _, f := range []string{"stdout.2", "stdout.1", "stdout"} {
		b := read(t, dir, f)
		if len(b) > 1000 {
			t.Errorf("%s has %d bytes", f, len(b))
		}
		total += len(b)
	}
	if _, err := os.Stat(filepath.Join(dir, "stdout.3")); err == nil || total < 2000 || total > 3000 {
		t.Errorf("%d bytes kept, stdout.3: %v", total, err)
	}
	// A task that puts a link where the next file will be: it must not be followed.
	victimFile := filepath.Join(d.h.dir, "precious")
	if err := os.WriteFile(victimFile, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.launch(d.plain("swap", "i=0; while [ $i -lt 300 ]; do echo 0123456789; ln -sf "+victimFile+" stdout; i=$((i+1)); done"))
	d.wait("swap")
	if got := read(t, victimFile); got != "precious" {
		t.Errorf("the log was written through a link: %d bytes", len(got))
	}
}

// TestWithoutRoot runs this package's tests of life again as another user: the same promises by other means.
func TestWithoutRoot(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	dir := t.TempDir()
	for p := dir; len(p) > len(os.TempDir()); p = filepath.Dir(p) {
		_ = os.Chmod(p, 0o755)
	}
	bin := filepath.Join(dir, "native.test")
	// Copied by another process: a file that this one has open for writing while it forks elsewhere can't be executed.
	err := exec.Command("cp", os.Args[0], bin).Run()
	if err == nil {
		err = os.Chmod(bin, 0o755)
	}
	tmp := filepath.Join(dir, "tmp")
	if err == nil {
		err = os.Mkdir(tmp, 0o777)
	}
	if err == nil {
		err = os.Chown(tmp, 65534, 65534)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-test.run", "^(TestPlainContainer|TestCommandTask|TestNothingEscapesDestroy|TestAgentRestart|TestTaskGroup.*|TestHelperKilled|TestChecks|TestKillEscalates|TestSession.*|TestLaunchFailuresReleaseEverything|TestDestroyWhileLaunching|TestKillAtAnyMoment|TestIsolationIsTold)$", "-test.timeout", "10m", "-test.v")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + tmp, "HOME=" + tmp, helperEnv + "=" + helperPath}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"--- PASS: TestTaskGroup", "--- PASS: TestKillAtAnyMoment", "--- PASS: TestIsolationIsTold"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("not in the output: %s\n%s", want, out)
		}
	}
}

func TestIsolationIsTold(t *testing.T) {
	t.Parallel()
	d := newHost(t).start(nil)
	defer d.end()
	on, off := d.Isolation()
	if os.Geteuid() == 0 {
		if off["switch_user"] != "" || len(on) == 0 {
			t.Errorf("as root: on %v, off %v", on, off)
		}
		return
	}
	for _, iso := range []string{"cgroups/mem", "namespaces/pid", "switch_user"} {
		if !strings.Contains(off[iso], "does not run as root") {
			t.Errorf("not as root, %s: %q", iso, off[iso])
		}
	}
	if _, err := New(Config{WorkDir: d.h.dir, RuntimeDir: filepath.Join(d.h.dir, "r2"), Helper: helperPath, Isolation: "cgroups/mem"}, Deps{}); err == nil {
		t.Error("an isolation that was asked for by name and can't be given must be an error")
	}
	cfg := d.plain("u", "true")
	cfg.User = "root"
	if err := d.Launch(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "root") {
		t.Errorf("a task of another user: %v", err)
	}
}
