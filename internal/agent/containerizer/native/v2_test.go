package native

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// TestUnifiedHierarchy runs containers in a real cgroup v2 hierarchy, be it one without controllers beside v1: they are
// born into their group, killed by it, and it goes with them. Limits are TestFakeV2's where v2 has no controllers.
func TestUnifiedHierarchy(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	mnt := ""
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		if f := strings.Fields(string(line)); len(f) > 5 && strings.Contains(string(line), " - cgroup2 ") {
			mnt = f[4]
		}
	}
	if mnt == "" {
		realpart.OtherKernel(t, "no hierarchy of cgroups v2 is mounted here")
	}
	h := newHost(t)
	d := h.start(nil)
	defer d.end()
	m, err := cgroup.New(&cgroup.Host{V2: mnt}, cgroup.Config{Root: h.root})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Open(".").Remove() }()
	d.groups.Close()
	d.groups = m
	d.launch(d.plain("u", "(setsid sh -c 'trap \"\" TERM; sleep 1000' &); sleep 1000"))
	procs := read(t, mnt, h.root, "u", "leaf", "cgroup.procs")
	if n := len(strings.Fields(procs)); n < 2 {
		t.Errorf("%d processes in the group's leaf", n)
	}
	// The helper is stopped: only force is left.
	ct, _ := d.find("u")
	if err := ct.helper.Signal(sysSignal(19)); err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(t.Context(), "u"); err != nil {
		t.Fatal(err)
	}
	d.wait("u")
	if left := marked(d.mark("u")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := os.Stat(filepath.Join(mnt, h.root, "u")); err == nil {
		t.Error("the group is left")
	}
}

// TestUnifiedValues is TestCgroupValues on a host whose controllers are in the unified hierarchy: what a container gets is read back
// from the kernel. Package vmtest runs it on one.
func TestUnifiedValues(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	ch, err := cgroup.Detect()
	if err != nil || ch.V2 == "" {
		realpart.OtherKernel(t, "no unified hierarchy with controllers: %+v %v", ch, err)
	}
	d := newHost(t).start(nil, func(c *Config) {
		c.Isolation, c.Cgroups.CPUs = "cgroups/all,namespaces/pid,filesystem/linux,linux/devices", "0"
	})
	defer d.end()
	check := func(dir string, want map[string]string) {
		t.Helper()
		for f, v := range want {
			if got := strings.TrimSpace(read(t, ch.V2, d.h.root, dir, f)); got != v {
				t.Errorf("%s/%s = %s, want %s", dir, f, got, v)
			}
		}
	}
	cfg := d.plain("v", "sleep 1000")
	cfg.Resources = []*mesosv1.Resource{scalar("cpus", 1.5), scalar("cpus", 0.5), scalar("mem", 100)}
	cfg.Limits = map[string]float64{"cpus": 3, "mem": math.Inf(1)}
	d.launch(cfg)
	check("v", map[string]string{
		"cpu.weight": "200", "cpu.max": "300000 100000", "memory.low": fmt.Sprint(100 << 20), "memory.max": "max", "pids.max": fmt.Sprint(cgroup.DefaultPIDs),
		"cpuset.cpus": "0", "cgroup.procs": "", "cgroup.subtree_control": "cpuset cpu io memory pids",
	})
	if procs := strings.Fields(read(t, ch.V2, d.h.root, "v", "leaf", "cgroup.procs")); len(procs) < 2 {
		t.Errorf("%d processes in the leaf", len(procs))
	}
	small := d.plain("s", "sleep 1000")
	small.Resources = []*mesosv1.Resource{scalar("cpus", 0.001), scalar("mem", 1)}
	d.launch(small)
	check("s", map[string]string{"cpu.weight": "1", "cpu.max": "max 100000", "memory.low": fmt.Sprint(32 << 20), "memory.max": fmt.Sprint(32 << 20)})
	check("", map[string]string{"memory.low": fmt.Sprint(132 << 20)})
	for _, c := range []struct {
		mb   float64
		want int
	}{{64, 64 << 20}, {40, 64 << 20}} {
		if err := d.Update(t.Context(), "s", []*mesosv1.Resource{scalar("cpus", 1), scalar("mem", c.mb)}, nil); err != nil {
			t.Fatal(err)
		}
		check("s", map[string]string{"memory.max": fmt.Sprint(c.want), "memory.low": fmt.Sprint(int(c.mb) << 20), "cpu.weight": "100"})
	}
	u, err := d.Usage("s")
	if err != nil || u.GetMemLimitBytes() != 64<<20 || u.GetMemRssBytes() == 0 || u.CpusUserTimeSecs == nil || u.GetCpusLimit() != 1 || u.GetProcesses() < 2 {
		t.Errorf("usage %v, %v", u, err)
	}
	nested := d.plain("v.n", "exec sleep 1000")
	nested.Container = linux(&mesosv1.LinuxInfo{ShareCgroups: ptr(false)})
	d.launch(nested)
	check("v/n", map[string]string{"memory.max": fmt.Sprint(64 << 20), "cpuset.cpus": "0"})
}
