package cgroup

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

const (
	hostV1 = `30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 /docker/abc /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/with\040space rw,relatime - cgroup cgroup rw,pids
34 30 0:30 / /sys/fs/cgroup/freezer rw,relatime shared:9 - cgroup cgroup rw,freezer
35 30 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
	hostV2 = "31 30 0:27 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
)

func TestDetect(t *testing.T) {
	t.Parallel()
	none := func(string) ([]string, error) { return []string{"hugetlb"}, nil }
	h, err := detect(strings.NewReader(hostV1), none)
	if err != nil || h.V2 != "" {
		t.Fatalf("%+v %v", h, err)
	}
	want := map[string]string{
		"cpu": "/sys/fs/cgroup/cpu,cpuacct", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "memory": "/sys/fs/cgroup/memory",
		"pids": "/sys/fs/cgroup/with space", "freezer": "/sys/fs/cgroup/freezer",
	}
	if d := cmp.Diff(want, h.V1); d != "" {
		t.Error(d)
	}
	got := homes(h, "9:cpu,cpuacct:/user/me\n8:memory:/docker/abc/x\n7:pids:/\n6:freezer:/f\n0::/z\n")
	if d := cmp.Diff(map[string]string{
		"/sys/fs/cgroup/cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct/user/me", "/sys/fs/cgroup/memory": "/sys/fs/cgroup/memory/x",
		"/sys/fs/cgroup/with space": "/sys/fs/cgroup/with space", "/sys/fs/cgroup/freezer": "/sys/fs/cgroup/freezer/f",
	}, got); d != "" {
		t.Error(d)
	}
	h, err = detect(strings.NewReader(hostV2), func(string) ([]string, error) { return []string{"cpu", "memory", "pids"}, nil })
	if err != nil || h.V2 != "/sys/fs/cgroup" {
		t.Errorf("%+v %v", h, err)
	}
	if _, err := detect(strings.NewReader("nonsense\n"), none); err == nil {
		t.Error("no cgroups, and no error")
	}
}

func TestRootIsAPlainPath(t *testing.T) {
	t.Parallel()
	for _, root := range []string{"/abs", "..", "../x", "a/../..", "."} {
		if _, err := New(&Host{}, Config{Root: root}); err == nil {
			t.Errorf("root %q was accepted", root)
		}
	}
}

// TestFakeV2 writes to a directory that stands for a cgroup v2 mount, where the host has none with a memory controller:
// it shows what is written where, not what a kernel does with it.
func TestFakeV2(t *testing.T) {
	t.Parallel()
	mnt := t.TempDir()
	m := &Manager{host: Host{V2: mnt, V2Controllers: []string{"cpu", "memory", "pids"}}, cfg: Config{Root: "mesos", PIDs: 99, EnableCFS: true}}
	g := m.Open("root", "child")
	if g.dir != filepath.Join(mnt, "mesos", "root", "child") {
		t.Errorf("directory %s", g.dir)
	}
	if err := os.MkdirAll(g.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(mnt, "mesos", "memory.low"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"cpu.weight": "", "cpu.max": "", "memory.low": "", "memory.max": "max", "pids.max": ""}
	for f, v := range files {
		if err := os.WriteFile(filepath.Join(g.dir, f), []byte(v), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want map[string]string) {
		t.Helper()
		for f, v := range want {
			if b, _ := os.ReadFile(filepath.Join(g.dir, f)); string(b) != v {
				t.Errorf("%s = %q, want %q", f, b, v)
			}
		}
		for f := range files { // the kernel does not keep the tail of a longer value; a file does
			if err := os.Truncate(filepath.Join(g.dir, f), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := g.set(Limits{CPUs: 2, Mem: 64 << 20}, true); err != nil {
		t.Fatal(err)
	}
	check(map[string]string{"cpu.weight": "200", "cpu.max": "200000 100000", "memory.low": fmt.Sprint(64 << 20), "memory.max": fmt.Sprint(64 << 20), "pids.max": "99"})
	if err := os.WriteFile(filepath.Join(g.dir, "memory.max"), []byte(fmt.Sprint(64<<20)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := g.Set(Limits{CPUs: 0.001, CPULimit: math.Inf(1), Mem: 33 << 20}); err != nil {
		t.Fatal(err)
	}
	check(map[string]string{"cpu.weight": "1", "cpu.max": "max 100000", "memory.low": fmt.Sprint(33 << 20), "memory.max": fmt.Sprint(64 << 20)})
	if err := os.WriteFile(filepath.Join(g.dir, "memory.max"), []byte("9"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := g.Set(Limits{MemLimit: Unlimited}); err != nil {
		t.Fatal(err)
	}
	check(map[string]string{"memory.max": "max"})
	for f, v := range map[string]string{"memory.events": "low 0\noom 3\noom_kill 2\n", "memory.current": "5\n", "cpu.stat": "usage_usec 3\nuser_usec 2000000\nsystem_usec 500000\n", "memory.stat": "anon 7\nfile 8\n"} {
		if err := os.WriteFile(filepath.Join(g.dir, f), []byte(v), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if n := g.OOMKills(); n != 2 {
		t.Errorf("%d OOM kills", n)
	}
	u := g.Usage(time.Unix(5, 0))
	if u.GetCpusUserTimeSecs() != 2 || u.GetMemTotalBytes() != 5 || u.GetMemRssBytes() != 7 || u.GetMemCacheBytes() != 8 {
		t.Errorf("usage %v", u)
	}
}

// TestFakeV2OOM: the watcher notices when the file changes. A directory stands for the mount.
func TestFakeV2OOM(t *testing.T) {
	t.Parallel()
	m := &Manager{host: Host{V2: t.TempDir(), V2Controllers: []string{"memory"}}, cfg: Config{Root: "mesos"}}
	var err error
	if m.oom, err = newOOMWatcher(); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	g := m.Open("c")
	if err := os.MkdirAll(g.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(g.dir, "memory.events")
	if err := os.WriteFile(file, []byte("oom_kill 0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- g.WaitOOM(t.Context()) }()
	for {
		m.oom.mu.Lock()
		n := len(m.oom.by)
		m.oom.mu.Unlock()
		if n == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := os.WriteFile(file, []byte("oom_kill 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := os.WriteFile(file, []byte("oom_kill 0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := g.WaitOOM(ctx); err == nil {
		t.Error("nothing happened, and WaitOOM returned without an error")
	}
}

func TestRealGroup(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	h, err := Detect()
	if err != nil {
		realpart.Missing(t, "no cgroups here: %v", err)
	}
	m, err := New(h, Config{Root: fmt.Sprintf("orchestrator-cgroup-test-%d", os.Getpid())})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	defer func() { _ = m.Open(".").Remove() }()
	g, err := m.Create(Limits{CPUs: 1, Mem: 64 << 20}, "a")
	if err != nil {
		t.Fatal(err)
	}
	child, err := m.Create(Limits{CPUs: 0.5, Mem: 32 << 20}, "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	if names, err := m.List(); err != nil || len(names) != 1 || names[0] != "a" {
		t.Errorf("%v %v", names, err)
	}
	if !child.Exists() || len(g.Procs()) != 0 {
		t.Error("the child is not there, or the group is not empty")
	}
	if err := g.Remove(); err != nil {
		t.Errorf("remove with a child: %v", err)
	}
	if g.Exists() || child.Exists() {
		t.Error("something is left")
	}
	if err := g.Remove(); err != nil {
		t.Errorf("remove again: %v", err)
	}
}
