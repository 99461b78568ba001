package zksync

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

// The engine as a process of its own, for kill -9.
func TestMain(m *testing.M) {
	if os.Getenv("ZKSYNC_TEST_CHILD") == "" {
		os.Exit(m.Run())
	}
	fmt.Fprintln(os.Stderr, "ended:", runChild())
	os.Exit(1)
}

// runChild keeps LINK's FROM equal in TO, and kills itself at the Nth batch of what KILL says: seed, edge (after any batch while live),
// repair (after any batch beside a conflict). With KILL=flip it is a pair that is told on stdin what to flip, and says when it is ready
// and when a flip is done.
func runChild() error {
	env := os.Getenv
	cfg := Config{Name: env("LINK"), SessionTimeout: time.Second, Scope: Scope{Source: env("FROM"), Target: env("TO")}}
	cfg.Source.Servers, cfg.Target.Servers = strings.Split(env("SOURCE"), ","), strings.Split(env("TARGET"), ",")
	cfg.Source.Auth, cfg.Target.Auth = super(), super()
	deps := Deps{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if env("KILL") == "flip" {
		p, err := NewPair(cfg, deps, nil, PolicyHome)
		if err != nil {
			return err
		}
		go func() {
			if err := p.Ready(context.Background()); err != nil {
				return
			}
			fmt.Println("ready")
			for in := bufio.NewScanner(os.Stdin); in.Scan(); {
				path, to, _ := strings.Cut(in.Text(), " ")
				fmt.Println("flipped", p.Flip(context.Background(), path, Home(to)))
			}
		}()
		return p.Run(context.Background())
	}
	e, err := New(cfg, deps)
	if err != nil {
		return err
	}
	n, _ := strconv.Atoi(env("N"))
	e.onApplied = func(*batch) {
		var there bool
		switch env("KILL") {
		case "seed":
			there = e.phase == PhaseSeeding
		case "edge":
			there = e.phase == PhaseLive
		case "repair":
			there = e.st.Conflicts > 0
		}
		if there {
			if n--; n <= 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // nothing happens after it
			}
		}
	}
	go func() { <-e.Ready(); fmt.Println("ready") }()
	return e.Run(context.Background())
}

func child(t *testing.T, a, b *zktest.Ensemble, out *os.File, env ...string) *exec.Cmd {
	t.Helper()
	cmd := childCommand(a, b, out, env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func childCommand(a, b *zktest.Ensemble, out *os.File, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ZKSYNC_TEST_CHILD=1", "SOURCE="+strings.Join(a.Servers(), ","), "TARGET="+strings.Join(b.Servers(), ","), "FROM=/hot", "TO=/hot")
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// engineLog is where child processes log to; the end of it is shown when the test fails.
func engineLog(t *testing.T) *os.File {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "engines.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer out.Close()
		if t.Failed() {
			log, _ := os.ReadFile(out.Name())
			t.Logf("engines: %s", log[max(0, len(log)-6000):])
		}
	})
	return out
}

// Two engine processes, one of which is killed again and again while counters are incremented: the version of every counter
// in the target says that each increment was applied once.
func TestKill9(t *testing.T) {
	t.Parallel()
	kills := 6
	if os.Getenv("ZK_LONG") != "" {
		kills = 150
	}
	a, b := pair(t)
	c := a.Client(t, zk.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const counters = 50
	for _, p := range []string{"/hot", "/hot/seq"} {
		if _, err := c.Create(ctx, p, nil, zk.OpenACL(), zk.Persistent); err != nil {
			t.Fatal(err)
		}
	}
	for i := range counters {
		if _, err := c.Create(ctx, fmt.Sprintf("/hot/%d", i), nil, zk.OpenACL(), zk.Persistent); err != nil {
			t.Fatal(err)
		}
	}
	out := engineLog(t)
	engines := []*exec.Cmd{child(t, a, b, out), child(t, a, b, out)}
	var wg sync.WaitGroup
	updates := 0
	wg.Go(func() {
		w := c.NewWindow(50)
		for i := 0; ctx.Err() == nil; i++ {
			op := zk.Set(fmt.Sprintf("/hot/%d", i%counters), fmt.Append(nil, i), zk.AnyVersion)
			if i%20 == 0 {
				op = zk.Create("/hot/seq/n-", nil, zk.OpenACL(), zk.PersistentSequential)
			}
			if err := w.Send(ctx, op, nil); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
			updates++
			if i%50 == 0 {
				time.Sleep(10 * time.Millisecond) // the pace of the load
			}
		}
		_ = w.Wait(context.Background())
	})
	tgt := b.Client(t, zk.Config{})
	moved := func() {
		_, st, _ := tgt.Get(context.Background(), "/hot/1")
		zktest.Eventually(t, 60*time.Second, "the target moves on", func() bool {
			_, now, err := tgt.Get(context.Background(), "/hot/1")
			return err == nil && now.Version > st.Version+3
		})
	}
	moved()
	for i := range kills {
		k := i % 2
		_ = engines[k].Process.Kill()
		_ = engines[k].Wait()
		engines[k] = child(t, a, b, out)
		moved()
	}
	cancel()
	wg.Wait()
	defer func() {
		for _, e := range engines {
			_ = e.Process.Kill()
			_ = e.Wait()
		}
	}()
	equal(t, a, b, Scope{Source: "/hot"})
	t.Logf("%d kills, %d updates: every version is equal", kills, updates)
	log, err := os.ReadFile(out.Name())
	if err != nil || strings.Contains(string(log), "ended:") || strings.Contains(string(log), "conflict:") {
		t.Errorf("an engine ended or saw a conflict (%v)", err)
	}
}

// killed runs a child until it has killed itself.
func killed(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(4 * time.Minute):
		_ = cmd.Process.Kill()
		<-done
		t.Fatal("the engine did not come to where it is to be killed")
	}
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGKILL {
		t.Fatalf("the engine ended: %v", cmd.ProcessState)
	}
}

// Killed where it hurts: in the middle of the seed, right after a batch, while it mends a conflict. What another process finds there
// it makes equal.
func TestKillPoints(t *testing.T) {
	t.Parallel()
	kills := map[string]int{"seed": 3, "edge": 3, "repair": 1}
	if os.Getenv("ZK_LONG") != "" {
		kills = map[string]int{"seed": 40, "edge": 60, "repair": 30}
	}
	a, b := pair(t)
	ctx := t.Context()
	src, tgt := a.Client(t, zk.Config{}), b.Client(t, zk.Config{Auth: super()})
	out := engineLog(t)
	rng := rand.New(rand.NewPCG(5, 6))
	w := src.NewWindow(200)
	for _, p := range []string{"/hot", "/hot/seq"} {
		if _, err := src.Create(ctx, p, nil, zk.OpenACL(), zk.Persistent); err != nil {
			t.Fatal(err)
		}
	}
	const nodes = 1000
	for i := range nodes {
		p := fmt.Sprintf("/hot/%d", i)
		ops := []zk.Op{zk.Create(p, nil, zk.OpenACL(), zk.Persistent), zk.Set(p, []byte("1"), 0), zk.Set(p, []byte("2"), 1)}
		if err := w.Send(ctx, zk.Multi(ops...), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	// finish lets a link come to an end without a fault.
	finish := func(but string, env ...string) {
		t.Helper()
		cmd := child(t, a, b, out, env...)
		scope := Scope{Source: "/hot"}
		for _, e := range env {
			if to, ok := strings.CutPrefix(e, "TO="); ok {
				scope.Target = to
			}
		}
		equalBut(t, a, b, scope, but)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	done := map[string]int{}
	for link := 0; done["seed"] < kills["seed"]; link++ {
		env := []string{fmt.Sprintf("LINK=seed%d", link), fmt.Sprintf("TO=/seeds/%d", link)}
		for range 3 { // three times in the same seed, each a little further
			killed(t, child(t, a, b, out, append(env, "KILL=seed", fmt.Sprintf("N=%d", 1+rng.IntN(2)))...))
			done["seed"]++
		}
		finish("", env...)
	}
	halt := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		w := src.NewWindow(20)
		for i := 0; ; i++ {
			select {
			case <-halt:
				_ = w.Wait(context.Background())
				return
			default:
			}
			op := zk.Set(fmt.Sprintf("/hot/%d", i%nodes), fmt.Append(nil, i), zk.AnyVersion)
			if i%10 == 0 {
				op = zk.Create("/hot/seq/n-", nil, zk.OpenACL(), zk.PersistentSequential)
			}
			if err := w.Send(ctx, op, nil); err != nil {
				t.Error(err)
				return
			}
			if i%20 == 0 {
				time.Sleep(5 * time.Millisecond) // the pace of the load
			}
		}
	})
	env := []string{"LINK=edge", "TO=/edge"}
	for done["edge"] < kills["edge"] {
		killed(t, child(t, a, b, out, append(env, "KILL=edge", fmt.Sprintf("N=%d", 1+rng.IntN(8)))...))
		done["edge"]++
	}
	close(halt)
	wg.Wait()
	finish("", env...)
	env = []string{"LINK=repair", "TO=/repair"}
	for done["repair"] < kills["repair"] {
		cmd := childCommand(a, b, out, append(env, "KILL=repair", "N=1")...)
		ready, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(ready).ReadString('\n'); err != nil || line != "ready\n" {
			t.Fatalf("the engine is not ready: %q, %v", line, err)
		}
		n := rng.IntN(nodes)
		if _, err := tgt.Set(ctx, fmt.Sprintf("/repair/%d", n), []byte("foreign"), -1); err != nil {
			t.Fatal(err)
		}
		if _, err := src.Set(ctx, fmt.Sprintf("/hot/%d", n), []byte("mine"), -1); err != nil {
			t.Fatal(err)
		}
		killed(t, cmd)
		done["repair"]++
	}
	// The leaves that others wrote to were made anew, which counts in their parent: nothing can lower that.
	finish("counter", env...)
	t.Logf("killed %v times: 0 differences", done)
	if log, err := os.ReadFile(out.Name()); err != nil || strings.Contains(string(log), "ended:") {
		t.Errorf("an engine ended by itself (%v)", err)
	}
}

// A pair is killed while it flips homes: afterwards the flip has either happened or not, which the record says, and the home has
// every increment.
func TestKillFlips(t *testing.T) {
	t.Parallel()
	kills := 4
	if os.Getenv("ZK_LONG") != "" {
		kills = 40
	}
	a, b := pair(t)
	ctx := t.Context()
	ca, cb := a.Client(t, zk.Config{}), b.Client(t, zk.Config{})
	out := engineLog(t)
	for _, p := range []string{"/hot", "/hot/one", "/hot/one/n"} {
		if _, err := ca.Create(ctx, p, []byte("0"), zk.OpenACL(), zk.Persistent); err != nil {
			t.Fatal(err)
		}
	}
	var cmd *exec.Cmd
	var in io.Writer
	var lines *bufio.Scanner
	run := func() {
		t.Helper()
		cmd = childCommand(a, b, out, "KILL=flip")
		w, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		r, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in, lines = w, bufio.NewScanner(r)
		if !lines.Scan() || lines.Text() != "ready" {
			t.Fatalf("the pair is not ready: %q", lines.Text())
		}
	}
	home := func() Home {
		t.Helper()
		data, _, err := cb.Get(ctx, stateRoot+"/default/homes")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), "/hot/one") {
			return HomeTarget
		}
		return HomeSource
	}
	count, flips := 0, 0
	increment := func(n int) {
		t.Helper()
		c := ca
		if home() == HomeTarget {
			c = cb
		}
		for range n {
			data, st, err := c.Get(ctx, "/hot/one/n")
			if err != nil || string(data) != fmt.Sprint(count) || int(st.Version) != count {
				t.Fatalf("after a kill the home %s holds %q, version %d, want %d (%v)", home(), data, st.Version, count, err)
			}
			if _, err := c.Set(ctx, "/hot/one/n", fmt.Append(nil, count+1), st.Version); err != nil {
				t.Fatal(err)
			}
			count++
		}
	}
	rng := rand.New(rand.NewPCG(7, 8))
	run()
	for range kills {
		increment(50)
		before, to := home(), HomeTarget
		if before == to {
			to = HomeSource
		}
		fmt.Fprintln(in, "/hot/one", to)
		time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond) // the kill comes at any moment of the flip
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if home() == to {
			flips++
		}
		run()
		increment(50)
	}
	equal(t, a, b, Scope{Source: "/hot"})
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	t.Logf("%d kills, %d of the flips had happened, %d increments: none lost, 0 differences", kills, flips, count)
	if log, err := os.ReadFile(out.Name()); err != nil || strings.Contains(string(log), "ended:") || strings.Contains(string(log), "conflict:") {
		t.Errorf("a pair ended by itself or saw a conflict (%v)", err)
	}
}
