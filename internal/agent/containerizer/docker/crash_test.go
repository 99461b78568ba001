package docker

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// agentEnv makes the test binary an agent process that works on containers until it is killed, or through.
const agentEnv = "ORCHESTRATOR_TEST_DOCKER_AGENT"

// agentPlan is what such a process is told.
type agentPlan struct {
	Socket, CgroupParent, Dir, Cgroup, Helper string
	Bridge                                    bool
	Seed, Round                               uint64
	Slots                                     int           // containers at one time
	Pause                                     time.Duration // the longest that one is left alone
	Count                                     int           // containers that are begun before it is through
	Faults                                    []string      // what befalls them, in turn
}

// agentProcess is the whole of an agent process; it gives its exit code.
func agentProcess() int {
	var p agentPlan
	if err := json.Unmarshal([]byte(os.Getenv(agentEnv)), &p); err != nil {
		panic(err)
	}
	helperPath = p.Helper
	t := &alone{}
	p.run(t)
	return int(t.failures.Load())
}

// alone is what tests are to the harness in a process that is no test. What was to be cleaned up the process's end cleans up.
type alone struct {
	testing.TB
	failures atomic.Int32
}

func (a *alone) Helper()                  {}
func (a *alone) Cleanup(func())           {}
func (a *alone) Context() context.Context { return context.Background() }
func (a *alone) Error(args ...any)        { a.Errorf("%s", fmt.Sprint(args...)) }
func (a *alone) Errorf(f string, args ...any) {
	a.failures.Add(1)
	fmt.Printf(f+"\n", args...)
}
func (a *alone) Fatal(args ...any) { a.Fatalf("%s", fmt.Sprint(args...)) }
func (a *alone) Fatalf(f string, args ...any) {
	a.Errorf(f, args...)
	os.Exit(1)
}

// run goes on with what earlier processes left, and with the containers that they did not come to.
func (p *agentPlan) run(t testing.TB) {
	h := &host{t: t, e: &dockertest.Engine{Socket: p.Socket, CgroupParent: p.CgroupParent}, dir: p.Dir, cg: p.Cgroup, bridge: p.Bridge}
	j, known := openJournal(t, h)
	d := h.start(known)
	fmt.Println("ready")
	var wg sync.WaitGroup
	rng := rand.New(rand.NewPCG(p.Seed, p.Round))
	for _, c := range known {
		if pause := time.Duration(rng.IntN(1000)) * time.Millisecond; rng.IntN(3) > 0 {
			wg.Go(func() {
				time.Sleep(pause) // the moment varies, nothing is waited for
				j.write("end", c.ID)
				_ = d.Destroy(t.Context(), c.ID)
				d.wait(c.ID)
				j.write("gone", c.ID)
			})
		}
	}
	slots := make(chan struct{}, p.Slots)
	for i := len(begun(h)); i < p.Count; i++ {
		slots <- struct{}{}
		b := befalls{d: d, j: j, i: i, fault: p.Faults[i%len(p.Faults)], pause: time.Duration(rng.Int64N(int64(p.Pause)))}
		b.cfg = d.soakContainer(i, b.fault)
		j.write("begin", b.cfg.ID)
		wg.Go(func() {
			defer func() { <-slots }()
			b.run()
		})
	}
	wg.Wait()
	// One handle for each container that is held, and none for those that are gone.
	held := 0
	for _, c := range d.Containers() {
		if !c.Ended {
			held++
		}
	}
	eventually(t, "no process handle is left over", func() bool { return pidfds() <= held })
	d.stop()
}

func pidfds() (n int) {
	for _, f := range globs("/proc/self/fd/*") {
		if l, _ := os.Readlink(f); strings.Contains(l, "pidfd") {
			n++
		}
	}
	return n
}

// journal is what an agent would have checkpointed: which containers it has begun, and how far they are.
type journal struct {
	mu sync.Mutex
	f  *os.File
}

const journalFile = "journal"

// openJournal opens a host's journal, and gives what is in it already: every container that was begun and is not known to be gone.
func openJournal(t testing.TB, h *host) (*journal, []containerizer.Config) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(h.dir, journalFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	var known []containerizer.Config
	j := &journal{f: f}
	h.link = newFakeAgent() // it sends the tasks of which nobody has heard
	h.link.told = func(id ids.Container) { j.write("told", id) }
	d := &daemon{h: h, link: h.link}
	last, told := journalled(h)
	for i, fault := range begun(h) {
		if cfg := d.soakContainer(i, fault); last[cfg.ID] != "gone" {
			known = append(known, cfg)
		}
	}
	for id := range told {
		delete(h.link.launch, id)
	}
	return j, known
}

// write says what is about to be done. It is one write, so that a kill leaves whole lines.
func (j *journal) write(what string, id ids.Container) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := fmt.Fprintln(j.f, what, id); err != nil {
		panic(err)
	}
}

// journalled reads a host's journal: what was written last of each container, and whose task has told something.
func journalled(h *host) (last map[ids.Container]string, told map[ids.Container]bool) {
	last, told = map[ids.Container]string{}, map[ids.Container]bool{}
	f, err := os.Open(filepath.Join(h.dir, journalFile))
	if err != nil {
		return last, told
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		switch what, id, ok := strings.Cut(sc.Text(), " "); {
		case !ok:
		case what == "told":
			told[ids.Container(id)] = true
		default:
			last[ids.Container(id)] = what
		}
	}
	return last, told
}

// begun lists what befalls the containers that were begun, by their number.
func begun(h *host) (faults []string) {
	last, _ := journalled(h)
	for id := range last {
		number, fault, _ := strings.Cut(strings.TrimPrefix(string(id), "n"), "-")
		i, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		for len(faults) <= i {
			faults = append(faults, "")
		}
		faults[i] = fault
	}
	return faults
}

// child is an agent process that a test has started.
type child struct {
	cmd  *exec.Cmd
	said strings.Builder
	over chan error
}

// agentOn starts an agent process on a host and waits until it has recovered.
func agentOn(t *testing.T, h *host, p agentPlan) *child {
	t.Helper()
	p.Socket, p.CgroupParent, p.Dir, p.Cgroup, p.Helper, p.Bridge = h.e.Socket, h.e.CgroupParent, h.dir, h.cg, helperPath, h.bridge
	plan, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(os.Args[0]), over: make(chan error, 1)}
	c.cmd.Env = append(os.Environ(), agentEnv+"="+string(plan))
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stderr = c.cmd.Stdout
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sc := bufio.NewScanner(out)
	for sc.Scan() && sc.Text() != "ready" {
		fmt.Fprintln(&c.said, sc.Text())
	}
	go func() {
		for sc.Scan() {
			fmt.Fprintln(&c.said, sc.Text())
		}
		c.over <- c.cmd.Wait()
	}()
	return c
}

// kill ends it without warning.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.over
}

// through waits until it has done all that it was told, or until the moment has come.
func (c *child) through(t *testing.T, moment time.Duration) bool {
	t.Helper()
	select {
	case err := <-c.over:
		if err != nil {
			t.Errorf("the agent process: %v: %s", err, c.said.String())
		}
		return true
	case <-time.After(moment):
		return false
	}
}

// works waits until some of the work has been done, however fast the machine is, and then a while: others of it are under way.
// It says whether the process was through before.
func (c *child) works(t *testing.T, h *host, steps int, pause time.Duration) bool {
	t.Helper()
	size := func() int64 {
		fi, err := os.Stat(filepath.Join(h.dir, journalFile))
		if err != nil {
			t.Fatal(err)
		}
		return fi.Size()
	}
	over, from := false, size()
	eventually(t, "the agent process works", func() bool {
		over = c.through(t, time.Millisecond)
		return over || size() >= from+int64(12*steps)
	})
	return over || c.through(t, pause)
}

// TestKillAtAnyMoment kills the agent process, and helpers, at seeded moments of the start, the run and the end of containers.
// After that every container is running and known, or gone; and at the end nothing is left of any of them.
func TestKillAtAnyMoment(t *testing.T) {
	t.Parallel()
	rounds := rounds(t, "ORCHESTRATOR_DOCKER_KILLS", 5)
	seed := uint64(20261127)
	rng := rand.New(rand.NewPCG(seed, 1))
	h := newHost(t, dockertest.Options{})
	h.e.Import(soakWants, nil, "VOLUME /wanted")
	caught, kills, seen := map[string]int{}, map[string]int{}, map[ids.Container]string{}
	for round := range rounds {
		c := agentOn(t, h, agentPlan{Seed: seed, Round: uint64(round), Slots: 4, Pause: 600 * time.Millisecond, Count: 1 << 20, Faults: []string{"destroy", "stay", "destroy"}})
		if c.works(t, h, rng.IntN(24), time.Duration(rng.IntN(200))*time.Millisecond) {
			t.Fatalf("seed %d: the agent process ended by itself: %s", seed, c.said.String())
		}
		if round%2 == 1 {
			for _, pid := range helpers(h.dir) {
				if rng.IntN(2) == 0 {
					_ = syscall.Kill(pid, syscall.SIGKILL)
					kills["helper"]++
				}
			}
		}
		c.kill()
		kills["agent"]++
		last, _ := journalled(h)
		for id, what := range last {
			if what != seen[id] {
				caught[what]++
			}
			seen[id] = what
		}
		if round%10 == 9 || round == rounds-1 {
			d := knownOrGone(t, h, seed)
			if round == rounds-1 {
				d.end()
			}
			d.stop()
		}
	}
	t.Logf("%d containers; killed %v; at the kills of the agent these were under way: %d in their start, %d running, %d in their end", len(begun(h)), kills, caught["begin"], caught["up"], caught["end"])
	if len(begun(h)) < 6 || caught["begin"] == 0 || caught["end"] == 0 {
		t.Error("too few containers were caught: this test would prove little")
	}
	eventually(t, "no helper is left", func() bool { return len(helpers(h.dir)) == 0 })
	if left := h.e.Docker("ps", "-aq"); left != "" {
		t.Errorf("containers left: %s", left)
	}
	if left := append(h.e.Processes(), h.e.Cgroups()...); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// rounds is how often a test goes round: as the environment says, or as fits into every run.
func rounds(t *testing.T, env string, short int) int {
	t.Helper()
	s := os.Getenv(env)
	if s == "" {
		return short
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no number of rounds", env, s)
	}
	return n
}

// knownOrGone starts an agent and sees that every container which was begun is running and known to it, or gone, in the Engine
// as well as here. Those that are gone it writes down.
func knownOrGone(t *testing.T, h *host, seed uint64) *daemon {
	t.Helper()
	j, known := openJournal(t, h)
	d := h.start(known)
	alive := 0
	wrong := ""
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := dockerOut(h, "ps", "-a")
			t.Logf("seed %d: %s; the Engine has %s", seed, wrong, out)
		}
	})
	eventually(t, "every container is running and known, or gone", func() bool {
		// By label: strangers rename them.
		runs := strings.Fields(h.e.Docker("ps", "--format", fmt.Sprintf("{{.Label %q}}", labelContainer)))
		alive = 0
		for _, k := range known {
			ct, err := d.find(k.ID)
			if err != nil {
				t.Fatalf("seed %d: %s is unknown", seed, k.ID)
			}
			d.mu.Lock()
			p := ct.phase
			d.mu.Unlock()
			there := slices.Contains(runs, string(k.ID))
			if p == running != there || p != running && p != gone {
				wrong = fmt.Sprintf("%s is in phase %d, and in the Engine's list: %v", k.ID, p, there)
				return false
			}
			if there {
				alive++
			} else {
				j.write("gone", k.ID)
			}
			runs = slices.DeleteFunc(runs, func(id string) bool { return id == string(k.ID) })
		}
		return len(runs) == 0
	})
	// Also what the Engine was still making when its asker was killed.
	eventually(t, "what does not run is removed", func() bool { return len(strings.Fields(h.e.Docker("ps", "-aq"))) == alive })
	return d
}

// helpers lists the living helpers below a directory, known or not.
func helpers(dir string) (pids []int) {
	es, _ := filepath.Glob(filepath.Join(dir, "run", "docker", "*", spec.PIDFile))
	for _, f := range es {
		var p struct{ PID int }
		if spec.Read(filepath.Dir(f), spec.PIDFile, &p) != nil {
			continue
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
		if err == nil && strings.Contains(string(b), "__executor\x00"+filepath.Dir(f)) {
			pids = append(pids, p.PID)
		}
	}
	return pids
}
