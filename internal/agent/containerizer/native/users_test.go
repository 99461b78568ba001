package native

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/image/imagetest"
	"github.com/orchestrator/orchestrator/internal/agent/userns"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// testUsers is the range of host ids of these tests: room for three containers.
var testUsers = UserRange{First: 1_900_000_000, Last: 1_900_000_000 + 3*userns.Count - 1}

// inUsers makes containers have user namespaces.
func inUsers(c *Config) {
	c.Isolation = "filesystem/linux,namespaces/pid,namespaces/user,cgroups/cpu,cgroups/mem,cgroups/pids,linux/capabilities,linux/seccomp,volume/host_path,volume/secret"
	c.Users = testUsers
}

// owner is who owns a file on the disk.
func owner(t *testing.T, path ...string) string {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(path...), &st); err != nil {
		t.Error(err)
		return ""
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

// hostUser is a file of the host's root that only root can read, and a directory that only root can write.
func hostUser(t *testing.T, h *host) string {
	t.Helper()
	dir := filepath.Join(h.dir, "of-the-host")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"public": 0o644, "private": 0o600} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name+"\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func persistent(id, at string) *mesosv1.Resource {
	r := scalar("disk", 10)
	r.Role = ptr("r")
	r.Disk = &mesosv1.Resource_DiskInfo{
		Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: &id}, Volume: &mesosv1.Volume{ContainerPath: &at, Mode: mesosv1.Volume_RW.Enum()},
	}
	return r
}

// TestUserNamespace: root in a container, with an image or without, is nobody on the host. What is the container's own it sees
// under its own ids, and on the disk too they are those that they would be without a user namespace.
func TestUserNamespace(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	h := newHost(t)
	r := imagetest.Serve(t)
	img := boxImage(t, r, "box", v1.Config{})
	data := boxImage(t, r, "data", v1.Config{})
	d := h.start(nil, inUsers)
	defer d.end()
	foreign := hostUser(t, h)
	rw := mesosv1.Volume_RW.Enum()
	look := `
		echo $(id -u) $(id -g) $(cat /proc/self/uid_map)
		stat -c '%u:%g' . sec vol inner host/public /proc/self/ pers
		cat sec; echo; cat host/public; cat host/private 2>/dev/null || echo no reading; touch host/x 2>/dev/null || echo no writing
		touch mine pers/mine inner/mine && echo owned > out && chown 65534:65534 mine && stat -c '%u:%g' mine
		echo to stdout > /dev/stdout; echo to stderr > /dev/stderr
		chown 70000 out 2>/dev/null || echo no such id
		cat vol/etc/passwd >/dev/null && echo x > vol/new && stat -c '%u' vol/etc/passwd vol/new
		grep -q ^CapEff:.0000000000000000 /proc/self/status || echo capable
		(ulimit -n); umask
	`
	for i, image := range []bool{false, true} {
		cfg := d.plain(ids.Container(fmt.Sprint("look", i)), look+"sleep 1000")
		cfg.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum()}
		rest := ""
		if image {
			cfg.Container = inImage(img)
			cfg.Command = shell(look + `
				stat -c '%u:%g' / /bin/busybox /etc /dev /dev/shm /dev/null /tmp
				mkdir /made && touch /made/x /etc/passwd && stat -c '%u' /made/x /etc/passwd
				hostname x 2>/dev/null || echo host name is not ours; mount -t tmpfs none /mnt 2>/dev/null || echo no mounting; kill -9 1 2>/dev/null || echo no killing the helper
				sleep 1000`)
			rest = "0:0\n0:0\n0:0\n0:0\n0:0\n0:0\n0:0\n0\n0\nhost name is not ours\nno mounting\nno killing the helper\n"
		}
		cfg.Container.RlimitInfo = &mesosv1.RLimitInfo{Rlimits: []*mesosv1.RLimitInfo_RLimit{{Type: mesosv1.RLimitInfo_RLimit_RLMT_NOFILE.Enum(), Soft: ptr(uint64(300)), Hard: ptr(uint64(400))}}}
		cfg.Container.Volumes = []*mesosv1.Volume{
			{ContainerPath: ptr("sec"), Mode: mesosv1.Volume_RO.Enum(), Source: &mesosv1.Volume_Source{
				Type: mesosv1.Volume_Source_SECRET.Enum(), Secret: &mesosv1.Secret{Type: mesosv1.Secret_VALUE.Enum(), Value: &mesosv1.Secret_Value{Data: []byte("canary")}},
			}},
			{ContainerPath: ptr("vol"), Mode: rw, Image: dockerImage(data)},
			{ContainerPath: ptr("inner"), Mode: rw, HostPath: ptr("sub/inner")},
			{ContainerPath: ptr("host"), Mode: rw, HostPath: &foreign},
		}
		cfg.Resources = append(cfg.Resources, persistent("p", "pers"))
		d.launch(cfg)
		first := testUsers.First + uint32(i)*userns.Count
		want := fmt.Sprintf("0 0 0 %d 65536\n", first) + "0:0\n0:0\n0:0\n0:0\n65534:65534\n0:0\n0:0\ncanary\npublic\nno reading\nno writing\n65534:65534\nto stdout\nno such id\n0\n0\ncapable\n300\n0022\n" + rest
		got := ""
		eventually(t, "all has been said", func() bool {
			got = read(t, cfg.Directory, "stdout")
			return len(got) >= len(want) || helpersUnder(d.dir(cfg.ID)) == 0
		})
		if got != want || read(t, cfg.Directory, "stderr") != "to stderr\n" {
			t.Errorf("image %v: said\n%s\nwant\n%s\nand %s", image, got, want, read(t, cfg.Directory, "stderr"))
		}
		for path, is := range map[string]string{"mine": "65534:65534", "out": "0:0", "stdout": "0:0", "sub/inner/mine": "0:0"} {
			if got := owner(t, cfg.Directory, path); got != is {
				t.Errorf("image %v: %s belongs to %s on the disk, want %s", image, path, got, is)
			}
		}
		if got := owner(t, h.dir, "work/volumes/roles/r/p/mine"); got != "0:0" {
			t.Errorf("image %v: the persistent volume's file belongs to %s on the disk", image, got)
		}
		// On the host it is nobody.
		found := false
		for _, pid := range marked(d.mark(cfg.ID)) {
			if o := owner(t, "/proc", fmt.Sprint(pid)); o == fmt.Sprintf("%d:%d", first, first) {
				found = true
			}
		}
		if !found {
			t.Errorf("image %v: no process belongs to %d", image, first)
		}
		// A session is in the same namespace, and sees the others of its container.
		s := containerizer.Config{
			ID: cfg.ID + ".s", Kind: containerizer.Session, FrameworkID: "f", ExecutorID: "t", Directory: cfg.Directory, Environment: cfg.Environment,
			Command:   shell("id -u; for p in $(pidof sleep); do test $(readlink /proc/$p/ns/user) = $(readlink /proc/self/ns/user) && readlink /proc/$p/root; done | tail -n 1; stat -c '%u' $(tty); echo > $(tty) && kill -0 $(pidof sleep) && echo may kill"),
			Container: &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), TtyInfo: &mesosv1.TTYInfo{}},
		}
		d.launch(s)
		if got := strings.ReplaceAll(d.listen(s.ID), "\r", ""); got != "0\n/\n0\n\nmay kill\n" {
			t.Errorf("image %v: the session said %q", image, got)
		}
		if err := d.Destroy(t.Context(), cfg.ID); err != nil {
			t.Fatal(err)
		}
		d.wait(cfg.ID)
	}
	d.end()
	leftovers(t, h)
}

// TestUserNamespaceTasks: executors, checks, groups that share their sandbox and their volumes, another user, and an agent that is
// replaced: the ids stay while the container runs, no other gets them, and they are free after its end.
func TestUserNamespaceTasks(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	h := newHost(t)
	r := imagetest.Serve(t)
	img := boxImage(t, r, "box", v1.Config{User: "webapp"})
	d := h.start(nil, inUsers)
	defer func() { d.end() }()
	check := func(cmd string) *mesosv1.HealthCheck {
		return &mesosv1.HealthCheck{
			Type: mesosv1.HealthCheck_COMMAND.Enum(), Command: shell(cmd), DelaySeconds: ptr(0.0), IntervalSeconds: ptr(0.1), GracePeriodSeconds: ptr(0.0),
		}
	}
	inImg := d.task("img", &mesosv1.TaskInfo{
		Command: shell("id -u; touch /tmp/x $MESOS_SANDBOX/mine; echo > /dev/stderr && sleep 1000"), Container: inImage(img),
		HealthCheck: check("test $(id -u) = 4711 && touch $MESOS_SANDBOX/mine && readlink /proc/$(pidof sleep)/cwd"),
	})
	inImg.Environment = []string{"MESOS_SANDBOX=" + sandboxInRoot}
	d.launch(inImg)
	other := d.task("other", &mesosv1.TaskInfo{Command: shell("id -u; touch mine; sleep 1000"), HealthCheck: check("test $(id -u) = 65534 && touch mine")})
	other.User = "nobody"
	if err := os.Chown(other.Directory, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	d.launch(other)
	for _, id := range []string{"img", "other"} {
		d.until(id, "healthy", func(u *mesosv1.TaskStatus) bool { return u.GetHealthy() })
	}
	users := func(id ids.Container) uint32 {
		ct, err := d.find(id)
		if err != nil {
			t.Fatal(err)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		return ct.users
	}
	before := []uint32{users("img"), users("other")}
	for id, is := range map[ids.Container]string{"img": "4711:4712", "other": "65534:65534"} {
		if got := owner(t, d.sandbox(id), "mine"); got != is {
			t.Errorf("%s: a file belongs to %s on the disk, want %s", id, got, is)
		}
	}

	d.stop()
	d = h.start([]containerizer.Config{inImg, other}, inUsers)
	if after := []uint32{users("img"), users("other")}; before[0] == before[1] || after[0] != before[0] || after[1] != before[1] {
		t.Errorf("users before %d, after %d", before, after)
	}
	// One slice is left: a group gets it, and its tasks share it.
	task := func(id, cmd string, info *mesosv1.ContainerInfo) *mesosv1.TaskInfo {
		info.Volumes = []*mesosv1.Volume{{ContainerPath: ptr("shared"), Mode: mesosv1.Volume_RW.Enum(), Source: &mesosv1.Volume_Source{
			Type: mesosv1.Volume_Source_SANDBOX_PATH.Enum(), SandboxPath: &mesosv1.Volume_Source_SandboxPath{Type: mesosv1.Volume_Source_SandboxPath_PARENT.Enum(), Path: ptr("pers")},
		}}}
		return &mesosv1.TaskInfo{TaskId: &mesosv1.TaskID{Value: ptr(id)}, Name: ptr(id), AgentId: &mesosv1.AgentID{Value: ptr("a")}, Command: shell(cmd), Container: info}
	}
	both := "; while ! test -e shared/a -a -e shared/b; do sleep 0.02; done; stat -c %u:%g . shared/a shared/b; cat /proc/self/uid_map"
	plain := &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum()}
	d.link.mu.Lock()
	d.link.launch["g"] = []*executorv1.Event{{Type: executorv1.Event_LAUNCH_GROUP.Enum(), LaunchGroup: &executorv1.Event_LaunchGroup{TaskGroup: &mesosv1.TaskGroupInfo{Tasks: []*mesosv1.TaskInfo{
		task("a", "touch shared/a"+both, inImage(boxImage(t, r, "root", v1.Config{}))), task("b", "touch shared/b"+both, plain),
	}}}}}
	d.link.mu.Unlock()
	group := containerizer.Config{
		ID: "g", Kind: containerizer.DefaultExecutor, FrameworkID: "f", ExecutorID: "g", Directory: d.sandbox("g"), Checkpoint: true,
		Resources: []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 64), persistent("p", "pers")},
	}
	d.launch(group)
	third := users("g")
	more := d.plain("more", "true")
	if err := d.Launch(t.Context(), more); err == nil || !strings.Contains(err.Error(), "all 3 user namespaces") {
		t.Errorf("a fourth one: %v", err)
	}
	for _, id := range []string{"a", "b"} {
		d.untilState(id, mesosv1.TaskState_TASK_FINISHED)
		got := strings.Join(strings.Fields(read(t, d.sandbox("g"), "tasks", id, "stdout")), " ")
		if want := fmt.Sprintf("0:0 0:0 0:0 0 %d 65536", third); got != want {
			t.Errorf("task %s said %q, want %q", id, got, want)
		}
	}
	d.wait("g")
	// It is free again, and another container has the same volume under its own ids.
	more = d.plain("again", "touch pers/c; stat -c %u:%g pers/a pers/b pers/c")
	more.Resources = append(more.Resources, persistent("p", "pers"))
	if _, out, errs := d.ran(more); out != "0:0\n0:0\n0:0\n" {
		t.Errorf("the volume: %q %s", out, errs)
	}
	for _, id := range []ids.Container{"img", "other"} {
		_ = d.Destroy(t.Context(), id)
		d.wait(id)
	}
	d.mu.Lock()
	for i, used := range d.users.used {
		if used {
			t.Errorf("slice %d is still in use", i)
		}
	}
	d.mu.Unlock()
	// Who does not fit, and who does not want to.
	big := d.plain("big", "true")
	big.Container = inImage(boxImage(t, r, "big", v1.Config{User: "70000"}))
	if err := d.Launch(t.Context(), big); err == nil || !strings.Contains(err.Error(), "id 70000 does not exist") {
		t.Errorf("a user beyond the namespace: %v", err)
	}
	host := d.plain("host", "cat /proc/self/uid_map; id -u")
	host.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), Docker: &mesosv1.ContainerInfo_DockerInfo{
		Image: ptr(""), Parameters: []*mesosv1.Parameter{{Key: ptr("userns"), Value: ptr("host")}},
	}}
	if _, out, _ := d.ran(host); strings.Join(strings.Fields(out), " ") != "0 0 4294967295 0" {
		t.Errorf("with userns=host: %q", out)
	}
	d.end()
	leftovers(t, h)
}

// TestUserNamespaceNetwork: in a network of its own, who is root in the container alone listens on any port and pings.
func TestUserNamespaceNetwork(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	h := newHost(t)
	n := newNetworks(t, h)
	d := h.start(nil, n.config(h), inUsers, func(c *Config) { c.Isolation += ",network/cni" })
	defer d.end()
	cfg := d.plain("net", "sysctl -n net.ipv4.ip_unprivileged_port_start; cat /etc/hosts | tail -n 1; sysctl -w net.ipv4.ip_forward=1 2>/dev/null || echo not its to set")
	cfg.Container = inNetwork(&mesosv1.NetworkInfo{Name: ptr("net")})
	if _, out, errs := d.ran(cfg); out != "0\n10.213.7.2 net\nnot its to set\n" {
		t.Errorf("%q %s", out, errs)
	}
	d.end()
	if left := held(t, h, n); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestUserNamespaceRefused: what can't be combined is said when the agent starts.
func TestUserNamespaceRefused(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	for _, c := range []struct {
		change func(*Config)
		says   string
	}{
		{func(c *Config) { c.OCIRuntime = "/usr/bin/crun" }, "leave --oci_runtime out"},
		{func(c *Config) { c.Users = UserRange{First: 100000, Last: 100000 + userns.Count - 2} }, "is no range of at least 65536"},
		{func(c *Config) { c.Users = UserRange{First: 1 << 31, Last: 1<<31 + userns.Count} }, "is above 2147483647"},
		{func(c *Config) { c.WorkDir = "/proc/self" }, "namespaces/user"},
	} {
		h := newHost(t)
		cfg := Config{WorkDir: filepath.Join(h.dir, "work"), RuntimeDir: filepath.Join(h.dir, "run"), Helper: helperPath}
		inUsers(&cfg)
		c.change(&cfg)
		if x, err := New(cfg, Deps{}); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v, want %q", err, c.says)
			if err == nil {
				x.Close()
			}
		}
	}
}
