package native

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/fetcher"
	"github.com/orchestrator/orchestrator/internal/agent/image"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// victimEnv makes the test binary an agent process that launches and destroys containers until it is killed.
const victimEnv = "ORCHESTRATOR_TEST_VICTIM"

type victimPlan struct {
	Config  Config
	Dir     string
	Round   int
	Network string
	Image   string
}

// victim writes down what it is about to launch, as an agent does, then launches; some it destroys again.
func victim() {
	var p victimPlan
	if err := json.Unmarshal([]byte(os.Getenv(victimEnv)), &p); err != nil {
		panic(err)
	}
	f, err := fetcher.New(fetcher.Config{}, fetcher.Deps{})
	if err != nil {
		panic(err)
	}
	deps := Deps{Fetcher: f}
	if p.Image != "" {
		if deps.Images, err = image.Open(image.Config{Dir: filepath.Join(p.Dir, "store")}, image.Deps{}); err != nil {
			panic(err)
		}
	}
	c, err := New(p.Config, deps)
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	if _, err := c.Recover(ctx, knownOf(p.Dir, p.Network, p.Image)); err != nil {
		panic(err)
	}
	fmt.Println("ready")
	var wg sync.WaitGroup
	var mu sync.Mutex
	for w := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				id := ids.Container(fmt.Sprintf("k%d-%d-%d", p.Round, w, i))
				dir := filepath.Join(p.Dir, "work", string(id))
				if os.MkdirAll(dir, 0o755) != nil {
					return
				}
				mu.Lock()
				appendLine(filepath.Join(p.Dir, "known"), string(id))
				mu.Unlock()
				cfg := victimContainer(p.Dir, id, p.Network, p.Image)
				if err := c.Launch(ctx, cfg); err != nil {
					fmt.Println("launch:", err)
					return
				}
				if i%2 == 0 {
					_ = c.Destroy(ctx, id)
				}
				if i%4 == 0 {
					_, _ = c.Wait(ctx, id)
				}
			}
		})
	}
	wg.Wait()
}

func victimContainer(dir string, id ids.Container, network, img string) containerizer.Config {
	cfg := containerizer.Config{
		ID: id, Kind: containerizer.CustomExecutor, FrameworkID: "f", ExecutorID: ids.Executor(id),
		Directory: filepath.Join(dir, "work", string(id)), Command: shell("(setsid sleep 1000 &) ; sleep 1000"), Checkpoint: true,
	}
	if network != "" {
		cfg.Container = inNetwork(&mesosv1.NetworkInfo{Name: &network})
	}
	if img != "" {
		cfg.Container = inImage(img)
		cfg.Container.Volumes = []*mesosv1.Volume{{ContainerPath: ptr("/vol"), Image: dockerImage(img), Mode: mesosv1.Volume_RW.Enum()}}
	}
	return cfg
}

func appendLine(path, line string) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	_, _ = f.WriteString(line + "\n")
}

func knownOf(dir, network, img string) []containerizer.Config {
	f, err := os.Open(filepath.Join(dir, "known"))
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []containerizer.Config
	for sc := bufio.NewScanner(f); sc.Scan(); {
		out = append(out, victimContainer(dir, ids.Container(sc.Text()), network, img))
	}
	return out
}

// helpersUnder counts the living helpers of a runtime directory, known or not.
func helpersUnder(dir string) (n int) {
	es, _ := os.ReadDir("/proc")
	for _, e := range es {
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && strings.Contains(string(b), "__executor\x00"+dir) {
			n++
		}
	}
	return n
}

// killVictim starts an agent process and kills it after a while.
func killVictim(t *testing.T, p victimPlan, after time.Duration) {
	t.Helper()
	plan, err := json.Marshal(p)
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
	time.Sleep(after) // the random moment, not a wait for something
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// roundsEnv says how often TestKillAtAnyMoment kills.
const roundsEnv = "ORCHESTRATOR_TEST_ROUNDS"

// TestKillAtAnyMoment kills the agent process, and helpers, at seeded moments of starting and ending containers. Afterwards every
// container is running and known, or gone; and at the end nothing is left of any of them.
func TestKillAtAnyMoment(t *testing.T) {
	t.Parallel()
	seed := uint64(20261123)
	rng := rand.New(rand.NewPCG(seed, 1))
	h := newHost(t)
	cfg := Config{
		WorkDir: filepath.Join(h.dir, "work"), RuntimeDir: filepath.Join(h.dir, "run"), LinkSocket: filepath.Join(h.dir, "run", "exec.sock"),
		Helper: helperPath, Cgroups: cgroup.Config{Root: h.root},
	}
	rounds := 6
	if s := os.Getenv(roundsEnv); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil || rounds < 1 {
			t.Fatalf("%s=%q is no number of rounds", roundsEnv, s)
		}
	}
	helpers, containers := 0, 0
	for round := range rounds {
		killVictim(t, victimPlan{Config: cfg, Dir: h.dir, Round: round}, time.Duration(rng.IntN(150))*time.Millisecond)
		if round%2 == 1 && os.Geteuid() == 0 {
			before := helpersUnder(h.dir)
			killSomeHelpers(t, h, rng)
			helpers += before / 2
		}
		if round%10 == 9 && round < rounds-1 { // in between too: what has ended need not be carried along
			ks := knownOf(h.dir, "", "")
			containers += len(ks)
			checkVictims(t, h, h.start(ks), ks, seed)
			if err := os.Remove(filepath.Join(h.dir, "known")); err != nil {
				t.Fatal(err)
			}
		}
	}
	ks := knownOf(h.dir, "", "")
	t.Logf("%d rounds, %d containers, about %d helpers killed", rounds, containers+len(ks), helpers)
	checkVictims(t, h, h.start(ks), ks, seed)
}

// checkVictims: every container is running and known, or gone; and after the end of all nothing is left of any.
func checkVictims(t *testing.T, h *host, d *daemon, ks []containerizer.Config, seed uint64) {
	t.Helper()
	if len(ks) < 6 {
		t.Fatalf("only %d containers were tried: this test would prove little", len(ks))
	}
	for _, k := range ks {
		ct, err := d.find(k.ID)
		if err != nil {
			t.Errorf("seed %d: %s is unknown", seed, k.ID)
			continue
		}
		d.Containerizer.mu.Lock()
		p := ct.phase
		d.Containerizer.mu.Unlock()
		if p == running && len(marked(d.mark(k.ID))) == 0 {
			select {
			case <-ct.ended: // just now
			case <-time.After(patience(15 * time.Second)):
				t.Errorf("seed %d: %s runs, but has no process", seed, k.ID)
			}
		}
		if p == gone && len(marked(d.mark(k.ID))) > 0 {
			t.Errorf("seed %d: %s is gone, but has processes", seed, k.ID)
		}
	}
	d.end()
	eventually(t, "no helper is left", func() bool { return helpersUnder(h.dir) == 0 })
	for _, k := range ks {
		if left := marked(d.mark(k.ID)); len(left) > 0 {
			t.Errorf("seed %d: %s left processes %v", seed, k.ID, left)
		}
	}
}
