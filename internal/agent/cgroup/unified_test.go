package cgroup

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/realpart"
)

// These tests need a kernel whose controllers are all in the unified hierarchy: package vmtest runs them on one.

// unified gives a manager of groups of the test's own.
func unified(t *testing.T, cfg Config) *Manager {
	t.Helper()
	realpart.Root(t)
	h, err := Detect()
	if err != nil || h.V2 == "" {
		realpart.OtherKernel(t, "no unified hierarchy with controllers: %+v %v", h, err)
	}
	cfg.Root = fmt.Sprintf("orchestrator-cgroup-test-%d-%s", os.Getpid(), strings.ToLower(t.Name()))
	m, err := New(h, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g := m.Open(".")
		g.Kill()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			err := g.Remove()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("remove the test's groups: %v", err)
				break
			}
		}
		m.Close()
	})
	return m
}

// start starts a program in a group as the launcher does: it is born there.
func (g *Group) startIn(t *testing.T, argv ...string) *exec.Cmd {
	t.Helper()
	leaf, err := g.OpenLeaf()
	if err != nil {
		t.Fatal(err)
	}
	defer leaf.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(leaf.Fd())}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // it says when it is ready
		t.Fatalf("%v: %v", argv, err)
	}
	return cmd
}

func (g *Group) expect(t *testing.T, want map[string]string) {
	t.Helper()
	for f, v := range want {
		b, err := os.ReadFile(filepath.Join(g.dir, f))
		if got := strings.TrimSpace(string(b)); err != nil || got != v {
			t.Errorf("%s/%s = %q, want %q (%v)", g.name, f, got, v, err)
		}
	}
}

func TestUnifiedLimits(t *testing.T) {
	m := unified(t, Config{EnableCFS: true, LimitSwap: true, PIDs: 77, Controllers: []string{"cpuset", "blkio", "devices"}, CPUs: "0", Mems: "0"})
	g, err := m.Create(Limits{CPUs: 2, Mem: 64 << 20}, "a")
	if err != nil {
		t.Fatal(err)
	}
	g.expect(t, map[string]string{
		"cpu.weight": "200", "cpu.max": "200000 100000", "memory.low": fmt.Sprint(64 << 20), "memory.max": fmt.Sprint(64 << 20), "pids.max": "77",
		"cpuset.cpus": "0", "cpuset.mems": "0", "cpuset.cpus.effective": "0", "memory.swap.max": "0", "cgroup.procs": "",
	})
	other, err := m.Create(Limits{CPUs: 0.001, CPULimit: math.Inf(1), Mem: 1, MemLimit: Unlimited}, "b")
	if err != nil {
		t.Fatal(err)
	}
	other.expect(t, map[string]string{"cpu.weight": "1", "cpu.max": "max 100000", "memory.low": fmt.Sprint(32 << 20), "memory.max": "max"})
	// What is protected in the groups must be in what is above them, and no more.
	root := m.Open(".")
	root.expect(t, map[string]string{"memory.low": fmt.Sprint(96 << 20)})
	if err := g.Set(Limits{CPUs: 1, CPULimit: 3, Mem: 48 << 20}); err != nil { // less: the hard limit stays
		t.Fatal(err)
	}
	g.expect(t, map[string]string{"cpu.weight": "100", "cpu.max": "300000 100000", "memory.low": fmt.Sprint(48 << 20), "memory.max": fmt.Sprint(64 << 20)})
	if err := g.Set(Limits{CPUs: 1, Mem: 100 << 20}); err != nil {
		t.Fatal(err)
	}
	g.expect(t, map[string]string{"memory.max": fmt.Sprint(100 << 20)})
	if err := other.Remove(); err != nil {
		t.Fatal(err)
	}
	root.expect(t, map[string]string{"memory.low": fmt.Sprint(100 << 20)})

	// A nested group has the same controllers although processes run in the one above.
	cmd := g.startIn(t, "sh", "-c", "echo ready; exec sleep 1000")
	defer cmd.Wait()
	child, err := m.Create(Limits{CPUs: 0.5, Mem: 32 << 20}, "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	child.expect(t, map[string]string{"cpu.weight": "50", "memory.max": fmt.Sprint(32 << 20), "pids.max": "77"})
	if got := g.Procs(); len(got) != 1 || got[0] != cmd.Process.Pid {
		t.Errorf("processes %v, want %d", got, cmd.Process.Pid)
	}
	u := g.Usage(time.Now())
	if u.GetProcesses() != 1 || u.GetThreads() != 1 || u.GetMemLimitBytes() != 100<<20 || u.GetMemTotalBytes() == 0 || u.CpusNrPeriods == nil || u.CpusUserTimeSecs == nil {
		t.Errorf("usage %v", u)
	}
	if names, err := m.List(); err != nil || len(names) != 1 || names[0] != "a" {
		t.Errorf("groups %v %v", names, err)
	}
	g.Kill()
}

// TestUnifiedAgentsTogether: agents that share a root, or what is above their roots, make, change and remove groups at the same moment, again
// and again; each time every level then protects what is below it.
func TestUnifiedAgentsTogether(t *testing.T) {
	m := unified(t, Config{})
	var agents []*Manager
	for _, root := range []string{"one", "one", "two"} {
		agent, err := New(&m.host, Config{Root: m.cfg.Root + "/" + root})
		if err != nil {
			t.Fatal(err)
		}
		defer agent.Close()
		agents = append(agents, agent)
	}
	for round := range 60 {
		var wg sync.WaitGroup
		for i, agent := range agents {
			wg.Go(func() {
				var err error
				switch g := agent.Open(fmt.Sprint(i)); round % 3 {
				case 0:
					_, err = agent.Create(Limits{CPUs: 1, Mem: 40 << 20}, fmt.Sprint(i))
				case 1:
					err = g.Set(Limits{CPUs: 1, Mem: 50 << 20})
				default:
					err = g.Remove()
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		mb := []int{40, 50, 0}[round%3]
		for name, n := range map[string]int{"one": 2, "two": 1, ".": 3} {
			m.Open(name).expect(t, map[string]string{"memory.low": strconv.Itoa(n * mb << 20)})
		}
	}
}

func TestParseList(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int{"0": 1, "0-3,5": 5, "2-2": 1, "": -1, "3-1": -1, "a": -1, "1-": -1, "0-99999999": -1, "-1": -1} {
		got, err := parseList(s)
		if want < 0 && err == nil || want >= 0 && len(got) != want {
			t.Errorf("%q: %v %v", s, got, err)
		}
	}
}

// TestUnifiedPins: the kernel would take a processor that is not there and pin to none.
func TestUnifiedPins(t *testing.T) {
	m := unified(t, Config{})
	for _, cfg := range []Config{{CPUs: "0,4000"}, {CPUs: "0-"}, {Mems: "77"}} {
		cfg.Controllers, cfg.Root = []string{"cpuset"}, m.cfg.Root+"-bad"
		bad, err := New(&m.host, cfg)
		if err == nil {
			bad.Close()
			t.Errorf("%+v was accepted", cfg)
		}
		if exists(m.host.V2, cfg.Root) {
			t.Error("a refused agent has left a group")
		}
	}
}

// TestUnifiedKill: nothing forks away from a kill, also what has left its session.
func TestUnifiedKill(t *testing.T) {
	m := unified(t, Config{})
	g, err := m.Create(Limits{CPUs: 1, Mem: 64 << 20}, "k")
	if err != nil {
		t.Fatal(err)
	}
	cmd := g.startIn(t, "sh", "-c", "trap '' TERM; for i in 1 2 3; do setsid sh -c 'while :; do sleep 1000; done' & done; echo ready; wait")
	for deadline := time.Now().Add(time.Minute); len(g.Procs()) < 7; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%v in the group", g.Procs())
		}
	}
	g.Kill()
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the first process: %v", err)
	}
	for deadline := time.Now().Add(time.Minute); g.Remove() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("left in the group: %v", g.Procs())
		}
	}
	if g.Exists() {
		t.Error("the group is left")
	}
	// The other way, for kernels before 5.14: frozen, and thawed to die.
	if g, err = m.Create(Limits{}, "f"); err != nil {
		t.Fatal(err)
	}
	cmd = g.startIn(t, "sh", "-c", "echo ready; exec sleep 1000")
	if !g.freeze(true) {
		t.Fatal("it can't be frozen")
	}
	g.expect(t, map[string]string{"cgroup.freeze": "1"})
	g.freeze(false)
	g.expect(t, map[string]string{"cgroup.freeze": "0"})
	g.Kill()
	_ = cmd.Wait()
}

// TestUnifiedOOM: exhaustion is told, be it before or after somebody asks, and nothing is told of a group that only ends.
func TestUnifiedOOM(t *testing.T) {
	m := unified(t, Config{LimitSwap: true})
	g, err := m.Create(Limits{CPUs: 1, Mem: 32 << 20}, "o")
	if err != nil {
		t.Fatal(err)
	}
	calm, err := m.Create(Limits{CPUs: 1, Mem: 32 << 20}, "calm")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	told, quiet := make(chan error, 1), make(chan error, 1)
	go func() { told <- g.WaitOOM(t.Context()) }()
	go func() { quiet <- calm.WaitOOM(ctx) }()
	cmd := g.startIn(t, "sh", "-c", "echo ready; head -c 100000000 /dev/zero | tail")
	if err := <-told; err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	if n := g.OOMKills(); n == 0 {
		t.Error("no process was counted")
	}
	if err := g.WaitOOM(t.Context()); err != nil {
		t.Errorf("asked afterwards: %v", err)
	}
	if used, limit := g.MaxMemory(); limit != 32<<20 || used == 0 || used > limit {
		t.Errorf("used %d of %d", used, limit)
	}
	if !strings.Contains(g.MemoryStat(), "anon ") {
		t.Errorf("account %q", g.MemoryStat())
	}
	if err := calm.Remove(); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-quiet; err == nil {
		t.Error("exhaustion was told of a group that only went")
	}
}

// TestUnifiedIO counts what is written to the disk that the machine has below the directory of temporary files.
func TestUnifiedIO(t *testing.T) {
	m := unified(t, Config{Controllers: []string{"blkio"}})
	g, err := m.Create(Limits{CPUs: 1, Mem: 64 << 20}, "io")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "f")
	cmd := g.startIn(t, "sh", "-c", "dd if=/dev/zero of="+file+" bs=64k count=16 conv=fsync 2>/dev/null && echo ready && exec sleep 1000")
	var st syscall.Stat_t
	if err := syscall.Stat(file, &st); err != nil {
		t.Fatal(err)
	}
	dev := strconv.FormatUint(st.Dev>>8&0xfff, 10) + ":" + strconv.FormatUint(st.Dev&0xff, 10)
	found := false
	for _, d := range g.Usage(time.Now()).GetBlkioStatistics().GetThrottling() {
		if fmt.Sprintf("%d:%d", d.GetDevice().GetMajorNumber(), d.GetDevice().GetMinorNumber()) != dev {
			continue
		}
		for _, v := range d.GetIoServiceBytes() {
			found = found || v.GetOp().String() == "WRITE" && v.GetValue() >= 1<<20
		}
	}
	if !found && os.Getenv(realpart.InVM) != "" {
		t.Errorf("1 MB on device %s is not in %v; io.stat is %q", dev, g.Usage(time.Now()).GetBlkioStatistics(), lines(g.dir, "io.stat"))
	}
	g.Kill()
	_ = cmd.Wait()
}

// TestUnifiedInAContainer: the root that is seen has processes in it, ours among them, which must not keep limits from being given.
func TestUnifiedInAContainer(t *testing.T) {
	if os.Getenv("ORCHESTRATOR_TEST_DELEGATED") == "" {
		realpart.OtherKernel(t, "the root that is seen here is the kernel's")
	}
	m := unified(t, Config{})
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the agent is in %s", strings.TrimSpace(string(b)))
	if got := strings.TrimSpace(string(b)); got != "0::/"+m.cfg.Root+"_agent" {
		t.Errorf("the agent is in %q", got)
	}
	if procs := (&Group{dir: m.host.V2}); len(lines(procs.dir, "cgroup.procs")) != 0 {
		t.Error("processes are in the root")
	}
	g, err := m.Create(Limits{CPUs: 1, Mem: 64 << 20}, "c")
	if err != nil {
		t.Fatal(err)
	}
	g.expect(t, map[string]string{"memory.max": fmt.Sprint(64 << 20), "cpu.weight": "100"})
	cmd := g.startIn(t, "sh", "-c", "echo ready; exec sleep 1000")
	g.Kill()
	_ = cmd.Wait()
}
