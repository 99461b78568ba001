package native

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/image/imagetest"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// boxImage is a small busybox system; change may set what it says of itself, and further layers lie on top.
func boxImage(t testing.TB, r *imagetest.Registry, name string, cfg v1.Config, more ...[]imagetest.File) string {
	t.Helper()
	layers := []v1.Layer{imagetest.Layer(t, imagetest.Tar(t, imagetest.BusyboxFiles(t)...), compression.GZip)}
	for _, fs := range more {
		layers = append(layers, imagetest.Layer(t, imagetest.Tar(t, fs...), compression.ZStd))
	}
	return r.Push(t, name, imagetest.Build(t, cfg, layers...))
}

func inImage(name string) *mesosv1.ContainerInfo {
	return &mesosv1.ContainerInfo{
		Type:  mesosv1.ContainerInfo_MESOS.Enum(),
		Mesos: &mesosv1.ContainerInfo_MesosInfo{Image: dockerImage(name)},
	}
}

func dockerImage(name string) *mesosv1.Image {
	return &mesosv1.Image{Type: mesosv1.Image_DOCKER.Enum(), Docker: &mesosv1.Image_Docker{Name: ptr(name)}}
}

// runtimes are what makes containers with an image: the helper itself, and the OCI runtimes.
func runtimes(t *testing.T, f func(t *testing.T, h *host, oci string)) {
	realpart.Root(t)
	for _, oci := range []string{"", "crun", "runc"} {
		name := oci
		if name == "" {
			name = "helper"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, newHost(t), ociPath(t, oci))
		})
	}
}

// ran is how a container ended and what it said.
func (d *daemon) ran(cfg containerizer.Config) (status int, out, errs string) {
	d.h.t.Helper()
	d.launch(cfg)
	t := d.wait(cfg.ID)
	if t.WaitStatus == nil {
		d.h.t.Fatalf("%s: no wait status: %+v", cfg.ID, t)
	}
	return syscall.WaitStatus(*t.WaitStatus).ExitStatus(), read(d.h.t, cfg.Directory, "stdout"), read(d.h.t, cfg.Directory, "stderr")
}

// leftovers counts what containers of a host must not leave: mounts seen by this process, scratch directories, helpers.
func leftovers(t testing.TB, h *host) {
	t.Helper()
	mounts := read(t, "/proc/self/mountinfo")
	if strings.Contains(mounts, h.dir) {
		t.Errorf("mounts are left:\n%s", mounts)
	}
	es, err := os.ReadDir(filepath.Join(h.dir, "work", "provisioner", "containers"))
	if err == nil && len(es) > 0 {
		t.Errorf("own layers are left: %v", es)
	}
	eventually(t, "no helper is left", func() bool { return helpersUnder(h.dir) == 0 })
}

// TestImage looks around in a container with an image.
func TestImage(t *testing.T) {
	t.Parallel()
	runtimes(t, func(t *testing.T, h *host, oci string) {
		r := imagetest.Serve(t)
		n := boxImage(t, r, "box", v1.Config{
			Env: []string{"PATH=/opt/bin:/bin", "FROM=image", "BOTH=image", "MESOS_SANDBOX=/evil"}, WorkingDir: "/made/for/it",
		}, []imagetest.File{{Name: "opt/bin/tool", Body: "#!/bin/sh\necho tool $0 $*\n", Mode: 0o755}, {Name: ".wh.home"}, {Name: "etc/motd", Body: "upper"}})
		d := h.start(nil, func(c *Config) { c.OCIRuntime = oci })
		defer d.end()
		cfg := d.plain("look", `
			pwd; echo $FROM $BOTH $MESOS_SANDBOX; tool a b; ls -d /home; cat /etc/motd; echo
			ls /; echo from-sandbox > $MESOS_SANDBOX/file; echo root > /written && cat /written
			id -u; echo x >> /etc/hosts || echo hosts is protected; hostname; ls /dev | sort | tr '\n' ' '; echo
			cat /proc/self/mountinfo | wc -l; ls /proc/1/root/ || echo no way out; cat /proc/1/environ /proc/1/fd/2; kill -9 1; echo x > /proc/sys/kernel/hostname || true
			cat /proc/kcore | head -c 1 | wc -c; echo $((1+1)) > /dev/null; ls /sys/firmware | wc -l; mknod /dev/sda b 8 0; cat /dev/sda; mount -t tmpfs none /mnt; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; mkdir /sys/fs/cgroup/memory/x; echo done`)
		cfg.Environment = []string{"PATH=/agents/own", "MESOS_SANDBOX=" + sandboxInRoot, "BOTH=agent"}
		cfg.Command.Environment = &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{{Name: ptr("X"), Value: ptr("y")}}}
		cfg.Container = inImage(n)
		cfg.Container.Hostname = ptr("inside")
		status, out, errs := d.ran(cfg)
		for _, want := range []string{
			"^/made/for/it\n", "\nimage image /mnt/mesos/sandbox\n", "\ntool /opt/bin/tool a b\n", "\nupper\n", "\nroot\n", "\n0\nhosts is protected\ninside\n",
			"\n(core )?(console )?fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero \n", "\n0\n0\n67108864\ndone\n$",
		} {
			if !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("output does not match %q", want)
			}
		}
		if status != 0 || strings.Contains(out, "/home") || strings.Contains(out, h.dir) {
			t.Errorf("status %d", status)
		}
		for _, want := range []string{"/home: No such file", "hostname: Read-only file system", "no way out", "environ': Permission denied", "permission denied (are you root?)"} {
			if !strings.Contains(errs, want) && !strings.Contains(out, want) {
				t.Errorf("nothing said %q", want)
			}
		}
		if got := read(t, cfg.Directory, "file"); got != "from-sandbox\n" {
			t.Errorf("the sandbox's file: %q", got)
		}
		if t.Failed() {
			t.Logf("output:\n%s\nerrors:\n%s", out, errs)
		}
		d.end()
		leftovers(t, h)
	})
}

// TestImageCommand is Mesos' table of what is executed, in real containers for the rows that work.
func TestImageCommand(t *testing.T) {
	t.Parallel()
	runtimes(t, func(t *testing.T, h *host, oci string) {
		r := imagetest.Serve(t)
		d := h.start(nil, func(c *Config) { c.OCIRuntime = oci })
		defer d.end()
		box := []imagetest.File{{Name: "e", Body: "#!/bin/sh\necho e $0 $*\n", Mode: 0o755}, {Name: "c", Body: "#!/bin/sh\necho c $0 $*\n", Mode: 0o755}}
		names := map[string]string{}
		for what, cfg := range map[string]v1.Config{
			"none": {}, "cmd": {Cmd: []string{"/c", "1"}}, "entry": {Entrypoint: []string{"/e", "2"}}, "both": {Entrypoint: []string{"/e", "2"}, Cmd: []string{"3"}},
		} {
			names[what] = boxImage(t, r, "cmd-"+what, cfg, box)
		}
		for i, c := range []struct {
			image string
			cmd   *mesosv1.CommandInfo
			want  string // empty: refused
		}{
			{"none", &mesosv1.CommandInfo{Shell: ptr(false)}, ""},
			{"none", &mesosv1.CommandInfo{Shell: ptr(false), Arguments: []string{"a"}}, ""},
			{"cmd", &mesosv1.CommandInfo{Shell: ptr(false)}, "c /c 1"},
			{"cmd", &mesosv1.CommandInfo{Shell: ptr(false), Arguments: []string{"a"}}, "c /c a"},
			{"entry", &mesosv1.CommandInfo{Shell: ptr(false)}, "e /e 2"},
			{"entry", &mesosv1.CommandInfo{Shell: ptr(false), Arguments: []string{"a", "b"}}, "e /e 2 a b"},
			{"both", &mesosv1.CommandInfo{Shell: ptr(false)}, "e /e 2 3"},
			{"both", &mesosv1.CommandInfo{Shell: ptr(false), Arguments: []string{"a"}}, "e /e 2 a"},
			{"both", &mesosv1.CommandInfo{Shell: ptr(false), Value: ptr("/c")}, "c /c"},
			{"both", &mesosv1.CommandInfo{Shell: ptr(false), Value: ptr("/bin/echo"), Arguments: []string{"echo", "x"}}, "x"},
			{"both", &mesosv1.CommandInfo{Value: ptr("echo $0")}, "sh"},
			{"both", &mesosv1.CommandInfo{}, ""},
			{"both", nil, "e /e 2 3"},
		} {
			cfg := d.plain(ids.Container(fmt.Sprintf("c%d", i)), "")
			cfg.Command, cfg.Container = c.cmd, inImage(names[c.image])
			if c.want == "" {
				if err := d.Launch(t.Context(), cfg); err == nil {
					t.Errorf("%s with %v was launched", c.image, c.cmd)
				}
				continue
			}
			if oci != "" && c.want == "sh" {
				c.want = "/bin/sh" // a configuration has no argv[0] apart from the program
			}
			if _, out, errs := d.ran(cfg); strings.TrimSpace(out) != c.want {
				t.Errorf("%s with %v: %q, want %q (%s)", c.image, c.cmd, out, c.want, errs)
			}
		}
		d.end()
		leftovers(t, h)
	})
}

// TestImageUser: the image's user by name, with its groups; never another than root's rights given up.
func TestImageUser(t *testing.T) {
	t.Parallel()
	runtimes(t, func(t *testing.T, h *host, oci string) {
		r := imagetest.Serve(t)
		d := h.start(nil, func(c *Config) { c.OCIRuntime = oci })
		defer d.end()
		for i, c := range []struct{ user, want, fails string }{
			{"", "0 0 0", ""},
			{"webapp", "4711 4712 4712 4713", ""},
			{"webapp:extra", "4711 4713 4713", ""},
			{"4711", "4711 4712 4712 4713", ""},
			{"99:98", "99 98 98", ""},
			{"nobody-here", "", "does not exist in the image"},
			{"webapp:none", "", "does not exist in the image"},
		} {
			cfg := d.plain(ids.Container(fmt.Sprintf("u%d", i)), "echo $(id -u) $(id -g) $(id -G); grep CapEff /proc/self/status; touch $MESOS_SANDBOX/mine && echo ok")
			cfg.Environment = []string{"MESOS_SANDBOX=" + sandboxInRoot}
			cfg.Container = inImage(boxImage(t, r, fmt.Sprintf("u%d", i), v1.Config{User: c.user}))
			if c.fails != "" {
				if err := d.Launch(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("user %q: %v", c.user, err)
				}
				continue
			}
			caps := "0000000000000000"
			if strings.HasPrefix(c.want, "0 ") {
				caps = "00000000a80425fb" // Docker's for root
			}
			if _, out, errs := d.ran(cfg); out != c.want+"\nCapEff:\t"+caps+"\nok\n" {
				t.Errorf("user %q: %q, want %q (%s)", c.user, out, c.want, errs)
			}
		}
		// A task of another user stays that user, whatever the image says.
		cfg := d.plain("other", "id -u")
		cfg.User, cfg.Container = "nobody", inImage(boxImage(t, r, "rootly", v1.Config{User: "root"}))
		if _, out, errs := d.ran(cfg); out != "65534\n" {
			t.Errorf("as nobody: %q %s", out, errs)
		}
		d.end()
		leftovers(t, h)
	})
}

// TestImageVolumes: every kind of volume in an image, read-only roots, and disk usage.
func TestImageVolumes(t *testing.T) {
	t.Parallel()
	runtimes(t, func(t *testing.T, h *host, oci string) {
		r := imagetest.Serve(t)
		n := boxImage(t, r, "box", v1.Config{}, []imagetest.File{{Name: "abs", Link: "/etc"}, {Name: "out", Link: "../../../../.."}})
		data := r.Push(t, "data", imagetest.Build(t, v1.Config{}, imagetest.Layer(t, imagetest.Tar(t, imagetest.File{Name: "d/file", Body: "data\n"}), compression.GZip)))
		d := h.start(nil, func(c *Config) { c.OCIRuntime, c.DiskInterval = oci, 20*time.Millisecond })
		defer d.end()
		hostDir := filepath.Join(h.dir, "host-volume")
		if err := os.MkdirAll(hostDir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(hostDir, "f"), []byte("host\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		rw, ro := mesosv1.Volume_RW.Enum(), mesosv1.Volume_RO.Enum()
		cfg := d.plain("vols", `set -e
			cat /new/dir/f; cat /single; echo w > /new/dir/w; cat rel/f
			! echo x > /ro/x; cat /data/d/file; ! rm /data/d/file; rm /scratch/d/file; echo mine > /scratch/d/other; cat /scratch/d/other
			echo own > sub/x; echo via > /abs/deep/volume/y; cat /etc/deep/volume/f; echo p > pers/p; echo ok
			dd if=/dev/zero of=/big bs=1k count=3000 2>/dev/null; sleep 1000`)
		cfg.Container = inImage(n)
		bind := func(at, from string, mode *mesosv1.Volume_Mode) *mesosv1.Volume {
			return &mesosv1.Volume{ContainerPath: ptr(at), HostPath: ptr(from), Mode: mode}
		}
		cfg.Container.Volumes = []*mesosv1.Volume{
			bind("/new/dir", hostDir, rw), bind("/single", filepath.Join(hostDir, "f"), ro), bind("rel", hostDir, ro), bind("/ro", hostDir, ro),
			bind("/abs/deep/volume", hostDir, rw),
			{ContainerPath: ptr("/data"), Image: dockerImage(data), Mode: ro},
			{ContainerPath: ptr("/scratch"), Image: dockerImage(data), Mode: rw},
			{ContainerPath: ptr("sub"), Mode: rw, Source: &mesosv1.Volume_Source{
				Type: mesosv1.Volume_Source_SANDBOX_PATH.Enum(), SandboxPath: &mesosv1.Volume_Source_SandboxPath{Type: mesosv1.Volume_Source_SandboxPath_SELF.Enum(), Path: ptr("backing")},
			}},
		}
		pv := scalar("disk", 10)
		pv.Role = ptr("team/x")
		pv.Disk = &mesosv1.Resource_DiskInfo{
			Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: ptr("vol1")}, Volume: &mesosv1.Volume{ContainerPath: ptr("pers"), Mode: rw},
		}
		cfg.Resources = append(cfg.Resources, pv)
		d.launch(cfg)
		eventually(t, "the volumes were used", func() bool {
			return strings.HasSuffix(read(t, cfg.Directory, "stdout"), "ok\n")
		})
		if got := read(t, cfg.Directory, "stdout"); got != "host\nhost\nhost\ndata\nmine\nhost\nok\n" {
			t.Errorf("output %q, errors %s", got, read(t, cfg.Directory, "stderr"))
		}
		for _, f := range []string{filepath.Join(hostDir, "w"), filepath.Join(hostDir, "y"), filepath.Join(cfg.Directory, "backing", "x"), filepath.Join(h.dir, "work", "volumes", "roles", "team x", "vol1", "p")} {
			if _, err := os.Stat(f); err != nil {
				t.Error(err)
			}
		}
		eventually(t, "what is written into the image counts", func() bool {
			u, err := d.Usage("vols")
			return err == nil && u.GetDiskUsedBytes() > 3000<<10
		})
		_ = d.Destroy(t.Context(), "vols")
		d.wait("vols")
		// The image is as it was for the next one; and a read-only root is.
		cfg = d.plain("again", "cat /data/d/file; test -e /big || echo clean; echo x > /x || echo protected; echo t > /tmp/t && echo tmp; echo s > $MESOS_SANDBOX/s && echo sandbox")
		cfg.Environment = []string{"MESOS_SANDBOX=" + sandboxInRoot}
		cfg.Container = inImage(n)
		cfg.Container.Volumes = []*mesosv1.Volume{{ContainerPath: ptr("/data"), Image: dockerImage(data), Mode: rw}}
		cfg.Container.Docker = &mesosv1.ContainerInfo_DockerInfo{Image: ptr("unused"), Parameters: []*mesosv1.Parameter{{Key: ptr("read-only"), Value: ptr("true")}}}
		if _, out, errs := d.ran(cfg); out != "data\nclean\nprotected\ntmp\nsandbox\n" {
			t.Errorf("output %q %s", out, errs)
		}
		// A plain container can have an image as a volume too.
		cfg = d.plain("plainvol", "cat img/d/file; rm img/d/file && echo removed")
		cfg.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), Volumes: []*mesosv1.Volume{{ContainerPath: ptr("img"), Image: dockerImage(data), Mode: rw}}}
		if _, out, errs := d.ran(cfg); out != "data\nremoved\n" {
			t.Errorf("output %q %s", out, errs)
		}
		d.end()
		leftovers(t, h)
	})
}

// TestImageTask: the command executor stays outside, the task is inside; checks and sessions are inside too, with a
// terminal; the agent may be replaced meanwhile.
func TestImageTask(t *testing.T) {
	t.Parallel()
	runtimes(t, func(t *testing.T, h *host, oci string) {
		r := imagetest.Serve(t)
		n := boxImage(t, r, "box", v1.Config{Env: []string{"IMG=yes"}, User: "webapp"}, []imagetest.File{{Name: "inside", Body: "in\n"}})
		change := func(c *Config) { c.OCIRuntime = oci }
		d := h.start(nil, change)
		defer func() { d.end() }()
		cfg := d.task("t", &mesosv1.TaskInfo{
			Command: shell("cat /inside; trap 'echo bye; exit 0' TERM; while true; do sleep 0.1; done"), Container: inImage(n),
			HealthCheck: &mesosv1.HealthCheck{
				Type: mesosv1.HealthCheck_COMMAND.Enum(), Command: shell("test -e /inside -a $IMG = yes && test $(id -u) = 4711"),
				DelaySeconds: ptr(0.0), IntervalSeconds: ptr(0.1), GracePeriodSeconds: ptr(0.0),
			},
		})
		d.launch(cfg)
		d.untilState("t", mesosv1.TaskState_TASK_RUNNING)
		d.until("t", "healthy", func(u *mesosv1.TaskStatus) bool { return u.GetHealthy() })

		d.stop()
		d = h.start([]containerizer.Config{cfg}, change)

		session := containerizer.Config{
			ID: "t.s1", Kind: containerizer.Session, FrameworkID: "f", ExecutorID: "t", Directory: cfg.Directory,
			Command: shell("cat /inside; id -u; echo $IMG; pwd; ps | grep -c [t]rap; tty >/dev/null && echo terminal"), Environment: cfg.Environment,
			Container: &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), TtyInfo: &mesosv1.TTYInfo{}},
		}
		d.launch(session)
		if got := strings.ReplaceAll(d.listen("t.s1"), "\r", ""); got != "in\n4711\nyes\n/mnt/mesos/sandbox\n1\nterminal\n" {
			t.Errorf("the session said %q", got)
		}
		session.ID, session.Container = "t.s2", nil
		session.Command = shell("cat; cat /inside")
		d.launch(session)
		a, err := d.Attach(t.Context(), "t.s2")
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range []string{"typed\n", ""} {
			if err := a.Send(&agentv1.ProcessIO{Type: agentv1.ProcessIO_DATA.Enum(), Data: &agentv1.ProcessIO_Data{Type: agentv1.ProcessIO_Data_STDIN.Enum(), Data: []byte(in)}}); err != nil {
				t.Fatal(err)
			}
		}
		if got := drain(a); got != "typed\nin\n" {
			t.Errorf("the session without a terminal said %q", got)
		}
		eventually(t, "the executor is back", func() bool {
			d.link.mu.Lock()
			defer d.link.mu.Unlock()
			return d.link.streams["t"] != nil
		})
		d.kill("t", -1)
		if u := d.untilState("t", mesosv1.TaskState_TASK_KILLED); u == nil {
			t.Fatal("not killed")
		}
		d.wait("t")
		if out := read(t, cfg.Directory, "stdout"); !strings.HasPrefix(out, "in\n") || !strings.HasSuffix(out, "bye\n") {
			t.Errorf("output %q", out)
		}
		d.end()
		leftovers(t, h)
	})
}

// drain reads what an attachment says until its end.
func drain(a containerizer.Attachment) string {
	defer a.Close()
	var b strings.Builder
	for {
		m, err := a.Recv()
		if err != nil {
			return b.String()
		}
		b.Write(m.GetData().GetData())
	}
}

func (d *daemon) listen(id ids.Container) string {
	d.h.t.Helper()
	a, err := d.Attach(context.Background(), id)
	if err != nil {
		d.h.t.Fatal(err)
	}
	return drain(a)
}

// TestImageGroup: each task of a group has its own image, or none, and they share what the executor's sandbox has.
func TestImageGroup(t *testing.T) {
	t.Parallel()
	runtimes(t, func(t *testing.T, h *host, oci string) {
		r := imagetest.Serve(t)
		d := h.start(nil, func(c *Config) { c.OCIRuntime = oci })
		defer d.end()
		task := func(id, cmd string, info *mesosv1.ContainerInfo) *mesosv1.TaskInfo {
			if info == nil {
				info = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum()}
			}
			info.Volumes = []*mesosv1.Volume{{ContainerPath: ptr("shared"), Mode: mesosv1.Volume_RW.Enum(), Source: &mesosv1.Volume_Source{
				Type: mesosv1.Volume_Source_SANDBOX_PATH.Enum(), SandboxPath: &mesosv1.Volume_Source_SandboxPath{Type: mesosv1.Volume_Source_SandboxPath_PARENT.Enum(), Path: ptr("shared")},
			}}}
			return &mesosv1.TaskInfo{TaskId: &mesosv1.TaskID{Value: ptr(id)}, Name: ptr(id), AgentId: &mesosv1.AgentID{Value: ptr("a")}, Command: shell(cmd), Container: info}
		}
		wait := "while ! test -s shared/c; do sleep 0.02; done; cat shared/a shared/b shared/c"
		group := &mesosv1.TaskGroupInfo{Tasks: []*mesosv1.TaskInfo{
			task("a", "cat /which > shared/a; "+wait, inImage(boxImage(t, r, "a", v1.Config{}, []imagetest.File{{Name: "which", Body: "image a\n"}}))),
			task("b", "cat /which > shared/b; "+wait, inImage(boxImage(t, r, "b", v1.Config{}, []imagetest.File{{Name: "which", Body: "image b\n"}}))),
			task("c", "while ! test -s shared/a -a -s shared/b; do sleep 0.02; done; test -e /which || echo the host > shared/c", nil),
		}}
		d.link.mu.Lock()
		d.link.launch["g"] = []*executorv1.Event{{Type: executorv1.Event_LAUNCH_GROUP.Enum(), LaunchGroup: &executorv1.Event_LaunchGroup{TaskGroup: group}}}
		d.link.mu.Unlock()
		d.launch(containerizer.Config{
			ID: "g", Kind: containerizer.DefaultExecutor, FrameworkID: "f", ExecutorID: "g", Directory: d.sandbox("g"), Checkpoint: true,
			Resources: []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 64)},
		})
		for _, id := range []string{"a", "b", "c"} {
			d.untilState(id, mesosv1.TaskState_TASK_FINISHED)
			if id == "c" {
				continue
			}
			if got := read(t, d.sandbox("g"), "tasks", id, "stdout"); got != "image a\nimage b\nthe host\n" {
				t.Errorf("task %s said %q", id, got)
			}
		}
		d.wait("g")
		d.end()
		leftovers(t, h)
	})
}

// TestImageRefused: what can't be given is refused with a reason, and nothing is left.
func TestImageRefused(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	h := newHost(t)
	r := imagetest.Serve(t)
	evil := boxImage(t, r, "evil", v1.Config{}, []imagetest.File{{Name: "proc", Link: "/etc"}})
	broken := boxImage(t, r, "broken", v1.Config{WorkingDir: "/bin/busybox/x"})
	fifo := boxImage(t, r, "nofile", v1.Config{User: "x"}, []imagetest.File{{Name: "etc/passwd/"}})
	good := boxImage(t, r, "good", v1.Config{})
	d := h.start(nil)
	defer d.end()
	for what, c := range map[string]struct {
		change func(*containerizer.Config)
		says   string
	}{
		"appc":           {func(c *containerizer.Config) { c.Container.Mesos.Image.Type = mesosv1.Image_APPC.Enum() }, "APPC"},
		"no name":        {func(c *containerizer.Config) { c.Container.Mesos.Image.Docker.Name = ptr("") }, "docker.name"},
		"missing":        {func(c *containerizer.Config) { c.Container = inImage(r.Host + "/none:1") }, "no such image"},
		"proc is a link": {func(c *containerizer.Config) { c.Container = inImage(evil) }, "mount /proc"},
		"working dir":    {func(c *containerizer.Config) { c.Container = inImage(broken) }, "working directory"},
		"no passwd":      {func(c *containerizer.Config) { c.Container = inImage(fifo) }, "accounts"},
		"no program": {func(c *containerizer.Config) {
			c.Command = &mesosv1.CommandInfo{Shell: ptr(false), Value: ptr("nothing-like-it")}
		}, "not found"},
		"secret": {func(c *containerizer.Config) {
			c.Container.Mesos.Image.Docker.Config = &mesosv1.Secret{Type: mesosv1.Secret_REFERENCE.Enum(), Reference: &mesosv1.Secret_Reference{Name: ptr("x")}}
		}, "can't be resolved"},
		"bad volume source": {func(c *containerizer.Config) {
			c.Container.Volumes = []*mesosv1.Volume{{ContainerPath: ptr("/v"), HostPath: ptr("/does/not/exist"), Mode: mesosv1.Volume_RW.Enum()}}
		}, "no such file"},
	} {
		cfg := d.plain("refused", "true")
		cfg.Container = inImage(good)
		c.change(&cfg)
		if err := d.Launch(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", what, err, c.says)
		}
		leftovers(t, h)
	}
	cfg := d.plain("good", "echo fine")
	cfg.Container = inImage(good)
	if _, out, _ := d.ran(cfg); out != "fine\n" {
		t.Errorf("the next one said %q", out)
	}
}
