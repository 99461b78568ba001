package native

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/confine"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// process finds the process of a container that runs `sleep`, as the host sees it.
func (d *daemon) process(id ids.Container) int {
	d.h.t.Helper()
	found := 0
	eventually(d.h.t, string(id)+" has a sleep", func() bool {
		for _, pid := range marked(d.mark(id)) {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.TrimSpace(string(b)) == "sleep" {
				found = pid
				return true
			}
		}
		return false
	})
	return found
}

// status reads a field of /proc/PID/status.
func status(t *testing.T, pid int, field string) string {
	t.Helper()
	for _, line := range strings.Split(read(t, "/proc", strconv.Itoa(pid), "status"), "\n") {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func capabilitySet(names ...string) *mesosv1.CapabilityInfo {
	m := &mesosv1.CapabilityInfo{}
	for _, n := range names {
		m.Capabilities = append(m.Capabilities, mesosv1.CapabilityInfo_Capability(mesosv1.CapabilityInfo_Capability_value[n]))
	}
	return m
}

const allIsolators = "cgroups/cpu,cgroups/mem,cgroups/pids,namespaces/pid,namespaces/ipc,filesystem/linux,volume/host_path,linux/capabilities,linux/seccomp"

func linux(li *mesosv1.LinuxInfo) *mesosv1.ContainerInfo {
	return &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), LinuxInfo: li}
}

// TestLinuxInfo reads back from the kernel what each field of LinuxInfo, and each flag about it, makes of a process.
func TestLinuxInfo(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	profiles := t.TempDir()
	if err := os.WriteFile(filepath.Join(profiles, "nouname.json"), []byte(
		`{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],"syscalls":[{"names":["uname"],"action":"SCMP_ACT_ERRNO"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	d := newHost(t).start(nil, func(c *Config) {
		c.Isolation, c.SeccompDir = allIsolators, profiles
		c.Confine.ShmSize = 5
	})
	defer d.end()
	netRaw, netBind := "0000000000002000", "0000000000000400"
	all, hostShm := status(t, os.Getpid(), "CapBnd"), shmSize(t, os.Getpid())
	agentNS := func(kind string) string {
		l, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	type want map[string]string // field of /proc/PID/status -> value
	for i, c := range []struct {
		name   string
		li     *mesosv1.LinuxInfo
		user   string
		want   want
		own    []string // namespaces that are not the agent's
		agents []string // namespaces that are
		shm    string   // size of /dev/shm
		denied bool     // uname is denied
	}{
		{name: "nothing", want: want{"CapEff": all, "CapBnd": all, "Seccomp": "0", "NoNewPrivs": "0"}, own: []string{"pid", "ipc", "mnt"}, agents: []string{"net", "uts"}, shm: hostShm},
		{
			name: "effective, root", li: &mesosv1.LinuxInfo{EffectiveCapabilities: capabilitySet("NET_RAW")},
			want: want{"CapEff": netRaw, "CapPrm": netRaw, "CapBnd": netRaw, "CapAmb": netRaw},
		},
		{
			name: "effective, another user", user: "nobody", li: &mesosv1.LinuxInfo{EffectiveCapabilities: capabilitySet("NET_RAW", "NET_BIND_SERVICE")},
			want: want{"CapEff": "0000000000002400", "CapBnd": "0000000000002400", "CapAmb": "0000000000002400", "Uid": "65534\t65534\t65534\t65534"},
		},
		{name: "none at all", li: &mesosv1.LinuxInfo{EffectiveCapabilities: capabilitySet()}, want: want{"CapEff": "0000000000000000", "CapBnd": "0000000000000000"}},
		{name: "capability_info", li: &mesosv1.LinuxInfo{CapabilityInfo: capabilitySet("NET_BIND_SERVICE")}, want: want{"CapEff": netBind, "CapBnd": netBind}},
		{name: "bounding alone, root", li: &mesosv1.LinuxInfo{BoundingCapabilities: capabilitySet("NET_RAW")}, want: want{"CapEff": netRaw, "CapBnd": netRaw, "CapAmb": "0000000000000000"}},
		{name: "bounding alone, another user", user: "nobody", li: &mesosv1.LinuxInfo{BoundingCapabilities: capabilitySet("NET_RAW")}, want: want{"CapEff": "0000000000000000", "CapBnd": netRaw}},
		{
			name: "effective within bounding, root", li: &mesosv1.LinuxInfo{EffectiveCapabilities: capabilitySet("NET_RAW"), BoundingCapabilities: capabilitySet("NET_RAW", "NET_BIND_SERVICE")},
			want: want{"CapEff": netRaw, "CapPrm": netRaw, "CapBnd": "0000000000002400"},
		},
		{name: "seccomp.profile_name", li: &mesosv1.LinuxInfo{Seccomp: &mesosv1.SeccompInfo{ProfileName: ptr("nouname.json")}}, want: want{"Seccomp": "2"}, denied: true},
		{
			name: "seccomp default, no capabilities, another user", user: "nobody",
			li: &mesosv1.LinuxInfo{EffectiveCapabilities: capabilitySet(), Seccomp: &mesosv1.SeccompInfo{ProfileName: ptr(confine.DefaultProfile)}}, want: want{"Seccomp": "2", "CapEff": "0000000000000000"},
		},
		{name: "seccomp.unconfined", li: &mesosv1.LinuxInfo{Seccomp: &mesosv1.SeccompInfo{Unconfined: ptr(true)}}, want: want{"Seccomp": "0"}},
		{name: "share_pid_namespace", li: &mesosv1.LinuxInfo{SharePidNamespace: ptr(true)}, agents: []string{"pid"}},
		{name: "ipc_mode PRIVATE", li: &mesosv1.LinuxInfo{IpcMode: mesosv1.LinuxInfo_PRIVATE.Enum()}, own: []string{"ipc"}, shm: "5120k"},
		{name: "shm_size", li: &mesosv1.LinuxInfo{IpcMode: mesosv1.LinuxInfo_PRIVATE.Enum(), ShmSize: ptr(uint32(3))}, own: []string{"ipc"}, shm: "3072k"},
		{name: "ipc_mode SHARE_PARENT", li: &mesosv1.LinuxInfo{IpcMode: mesosv1.LinuxInfo_SHARE_PARENT.Enum(), ShmSize: ptr(uint32(3))}, agents: []string{"ipc"}, shm: hostShm},
	} {
		id := ids.Container(fmt.Sprintf("li%d", i))
		cfg := d.plain(id, "uname > uname 2>/dev/null || echo denied > uname; exec sleep 1000")
		cfg.Container, cfg.User = linux(c.li), c.user
		if c.user != "" {
			if err := os.Chown(cfg.Directory, 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Launch(t.Context(), cfg); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		pid := d.process(id)
		for field, v := range c.want {
			if got := status(t, pid, field); got != v {
				t.Errorf("%s: %s is %q, want %q", c.name, field, got, v)
			}
		}
		for own, kinds := range map[bool][]string{true: c.own, false: c.agents} {
			for _, k := range kinds {
				l, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, k))
				if err != nil || (l != agentNS(k)) != own {
					t.Errorf("%s: %s namespace %s (the agent's: %s) %v", c.name, k, l, agentNS(k), err)
				}
			}
		}
		if c.shm != "" {
			size := shmSize(t, pid)
			if size != c.shm {
				t.Errorf("%s: /dev/shm of %s, want %s", c.name, size, c.shm)
			}
		}
		said := strings.TrimSpace(read(t, cfg.Directory, "uname"))
		if (said == "denied") != c.denied {
			t.Errorf("%s: uname said %q", c.name, said)
		}
	}
	// share_cgroups=false gives a nested container a group of its own, as the test of limits shows.
	for name, li := range map[string]*mesosv1.LinuxInfo{
		"a profile that is not there":    {Seccomp: &mesosv1.SeccompInfo{ProfileName: ptr("missing.json")}},
		"a profile out of the directory": {Seccomp: &mesosv1.SeccompInfo{ProfileName: ptr("../x.json")}},
	} {
		cfg := d.plain("bad", "sleep 1000")
		cfg.Container = linux(li)
		if err := d.Launch(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "seccomp profile") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// shmSize is what a process sees at /dev/shm.
func shmSize(t *testing.T, pid int) string {
	t.Helper()
	size := "-"
	for _, line := range strings.Split(read(t, "/proc", strconv.Itoa(pid), "mountinfo"), "\n") {
		if strings.Contains(line, " /dev/shm ") && strings.Contains(line, "size=") {
			_, size, _ = strings.Cut(line, "size=")
			size, _, _ = strings.Cut(size, ",")
		}
	}
	return size
}

// TestWhatCannotBecomeTheProcess: what fails between the fork and the program is a failed launch that says why.
func TestWhatCannotBecomeTheProcess(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	profiles := t.TempDir()
	if err := os.WriteFile(filepath.Join(profiles, "noexec.json"), []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["execve"],"action":"SCMP_ACT_ERRNO"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	d := newHost(t).start(nil, func(c *Config) { c.Isolation, c.SeccompDir = allIsolators, profiles })
	defer d.end()
	for name, c := range map[string]struct {
		change func(*containerizer.Config)
		want   string
	}{
		"a profile that denies execve": {func(c *containerizer.Config) {
			c.Container = linux(&mesosv1.LinuxInfo{Seccomp: &mesosv1.SeccompInfo{ProfileName: ptr("noexec.json")}})
		}, "bin/sh: operation not permitted"},
		"a limit that is too high": {func(c *containerizer.Config) {
			c.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), RlimitInfo: &mesosv1.RLimitInfo{Rlimits: []*mesosv1.RLimitInfo_RLimit{{
				Type: mesosv1.RLimitInfo_RLimit_RLMT_NOFILE.Enum(), Soft: ptr(uint64(1 << 40)), Hard: ptr(uint64(1 << 40)),
			}}}}
		}, "set resource limit 7"},
		"no such program": {func(c *containerizer.Config) {
			c.Command = &mesosv1.CommandInfo{Shell: ptr(false), Value: ptr("/no/such/program")}
			c.Container = linux(&mesosv1.LinuxInfo{EffectiveCapabilities: capabilitySet()})
		}, "execute /no/such/program: no such file"},
	} {
		cfg := d.plain("never", "sleep 1000")
		c.change(&cfg)
		if err := d.Launch(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		// A command task says so in its own update.
		id := ids.Container("t-" + strings.ReplaceAll(name, " ", "-"))
		task := d.task(id, &mesosv1.TaskInfo{Command: cfg.Command, Container: cfg.Container})
		d.launch(task)
		if u := d.untilState(string(id), mesosv1.TaskState_TASK_FAILED); !strings.Contains(u.GetMessage(), c.want) {
			t.Errorf("%s: the task says %q", name, u.GetMessage())
		}
	}
}

// TestNestedAndSessionsKeepTheirParentsLimits: what runs inside a container gets no more than the container has.
func TestNestedAndSessionsKeepTheirParentsLimits(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	d := newHost(t).start(nil, func(c *Config) { c.Isolation = allIsolators })
	defer d.end()
	up := d.plain("up", "sleep 1000")
	up.Container = linux(&mesosv1.LinuxInfo{EffectiveCapabilities: capabilitySet("NET_RAW")})
	d.launch(up)
	check := d.plain("up.check", "exec sleep 1000")
	check.Kind, check.Directory, check.Container = containerizer.Check, up.Directory, nil
	d.launch(check)
	if got := status(t, d.process("up.check"), "CapEff"); got != "0000000000002000" {
		t.Errorf("a check has the capabilities %s", got)
	}
}

// TestDevices: only what the whitelist says can be opened.
func TestDevices(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	h := newHost(t)
	dev := filepath.Join(t.TempDir(), "kmsg")
	if err := unix.Mknod(dev, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 11))); err != nil {
		t.Fatal(err)
	}
	try := fmt.Sprintf("(: < %s) 2>/dev/null && echo open || echo shut; : < /dev/zero && echo zero", dev)
	for name, c := range map[string]struct {
		devices []confine.Device
		want    string
	}{
		"denied":  {nil, "shut\nzero\n"},
		"allowed": {[]confine.Device{{Path: dev, Access: "r"}}, "open\nzero\n"},
	} {
		d := h.start(nil, func(cfg *Config) {
			cfg.Isolation, cfg.Confine.Devices = "cgroups/cpu,cgroups/mem,linux/devices", c.devices
		})
		id := ids.Container("dev-" + name)
		cfg := d.plain(id, try+"; sleep 0.1")
		d.launch(cfg)
		if got, told := d.devices(string(id)); told && name == "denied" && (!strings.Contains(got, "c 1:5 rwm") || strings.Contains(got, "a *:* rwm")) {
			t.Errorf("devices.list: %s", got)
		}
		d.wait(id)
		if got := read(t, cfg.Directory, "stdout"); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		d.end()
	}
}

// TestCPUSet pins containers to what the agent was told.
func TestCPUSet(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	d := newHost(t).start(nil, func(c *Config) {
		c.Isolation, c.Cgroups.CPUs = "cgroups/all,filesystem/linux", "0"
	})
	defer d.end()
	cfg := d.plain("pinned", "exec sleep 1000")
	d.launch(cfg)
	if got := status(t, d.process("pinned"), "Cpus_allowed_list"); got != "0" {
		t.Errorf("the process may use the processors %s", got)
	}
	nested := d.plain("pinned.n", "exec sleep 1000")
	nested.Container = linux(&mesosv1.LinuxInfo{ShareCgroups: ptr(false)})
	d.launch(nested)
	if got := status(t, d.process("pinned.n"), "Cpus_allowed_list"); got != "0" {
		t.Errorf("the nested process may use the processors %s", got)
	}
	if _, err := New(Config{
		WorkDir: d.h.dir, RuntimeDir: filepath.Join(d.h.dir, "r2"), Helper: helperPath, Isolation: "cgroups/cpuset",
		Cgroups: cgroup.Config{Root: d.h.root + "-bad", CPUs: "4000"},
	}, Deps{}); err == nil {
		t.Error("pinning to a processor that is not there is no error")
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/" + d.h.root + "-bad"); len(left) > 0 && d.groups.Version() == 1 {
		t.Errorf("groups left: %v", left)
	}
}
