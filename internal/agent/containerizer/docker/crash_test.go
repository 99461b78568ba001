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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// victimEnv makes the test binary an agent process that launches and destroys containers until it is killed.
const victimEnv = "ORCHESTRATOR_TEST_DOCKER_VICTIM"

type victimPlan struct {
	Config Config
	Dir    string
	Round  int
}

// victim writes down what it is about to launch, as an agent does, then launches; some it destroys again.
func victim() {
	var p victimPlan
	if err := json.Unmarshal([]byte(os.Getenv(victimEnv)), &p); err != nil {
		panic(err)
	}
	c, err := New(p.Config, Deps{})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	if _, err := c.Recover(ctx, knownOf(p.Dir)); err != nil {
		panic(err)
	}
	fmt.Println("ready")
	var wg sync.WaitGroup
	var mu sync.Mutex
	for w := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				id := ids.Container(fmt.Sprintf("k%d-%d-%d", p.Round, w, i))
				cfg := victimContainer(p.Dir, id)
				if os.MkdirAll(cfg.Directory, 0o755) != nil {
					return
				}
				mu.Lock()
				f, err := os.OpenFile(filepath.Join(p.Dir, "known"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
				if err != nil {
					panic(err)
				}
				_, _ = fmt.Fprintln(f, id)
				f.Close()
				mu.Unlock()
				if err := c.Launch(ctx, cfg); err != nil {
					fmt.Println("launch:", err)
					return
				}
				if i%2 == 0 {
					_ = c.Destroy(ctx, id)
				}
			}
		})
	}
	wg.Wait()
}

func victimContainer(dir string, id ids.Container) containerizer.Config {
	return containerizer.Config{
		ID: id, Kind: containerizer.CustomExecutor, FrameworkID: "f", ExecutorID: ids.Executor(id), Directory: filepath.Join(dir, "work", "s", string(id)),
		Command: shell("sleep 1000"), Container: hostNet(), Checkpoint: true,
	}
}

func knownOf(dir string) []containerizer.Config {
	f, err := os.Open(filepath.Join(dir, "known"))
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []containerizer.Config
	for sc := bufio.NewScanner(f); sc.Scan(); {
		out = append(out, victimContainer(dir, ids.Container(sc.Text())))
	}
	return out
}

// TestKillAtAnyMoment kills the agent process, and helpers, at seeded moments of starting and ending containers. Afterwards
// every container is running and known, or gone; and at the end nothing is left of any of them.
func TestKillAtAnyMoment(t *testing.T) {
	t.Parallel()
	seed := uint64(20261127)
	rng := rand.New(rand.NewPCG(seed, 1))
	h := newHost(t, dockertest.Options{})
	for round := range 4 {
		plan, err := json.Marshal(victimPlan{Config: h.config(), Dir: h.dir, Round: round})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), victimEnv+"="+string(plan))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var errs strings.Builder
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		sc := bufio.NewScanner(out)
		if !sc.Scan() || sc.Text() != "ready" {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			t.Fatalf("the victim said %q: %s", sc.Text(), errs.String())
		}
		time.Sleep(time.Duration(500+rng.IntN(1500)) * time.Millisecond) // the random moment, not a wait for something
		if round%2 == 1 {
			for _, pid := range helpers(h.dir) {
				if rng.IntN(2) == 0 {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	ks := knownOf(h.dir)
	if len(ks) < 6 {
		t.Fatalf("only %d containers were tried: this test would prove little", len(ks))
	}
	d := h.start(ks)
	eventually(t, "every container is running and known, or gone", func() bool {
		names := strings.Fields(h.e.Docker("ps", "--format", "{{.Names}}"))
		for _, k := range ks {
			ct, err := d.find(k.ID)
			if err != nil {
				t.Fatalf("seed %d: %s is unknown", seed, k.ID)
			}
			d.mu.Lock()
			p := ct.phase
			d.mu.Unlock()
			there := slices.Contains(names, namePrefix+string(k.ID))
			if p == running != there || p != running && p != gone {
				return false
			}
			names = slices.DeleteFunc(names, func(n string) bool { return n == namePrefix+string(k.ID) })
		}
		return len(names) == 0
	})
	alive := 0
	for _, i := range d.Containers() {
		if !i.Ended {
			alive++
		}
	}
	t.Logf("%d containers were tried, %d have lived through it", len(ks), alive)
	// Also what the Engine was still making when its asker was killed.
	eventually(t, "what does not run is removed", func() bool { return len(strings.Fields(h.e.Docker("ps", "-aq"))) == alive })
	d.end()
	eventually(t, "no helper is left", func() bool { return len(helpers(h.dir)) == 0 })
	if left := h.e.Docker("ps", "-aq"); left != "" {
		t.Errorf("containers left: %s", left)
	}
	if left := append(h.e.Processes(), h.e.Cgroups()...); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
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
