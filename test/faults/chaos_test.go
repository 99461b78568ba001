package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// TestKillAnything: see the package's comment.
func TestKillAnything(t *testing.T) {
	t.Parallel()
	needRoot(t)
	first, n := rand.Uint64N(1_000_000_000), 4
	if s := os.Getenv("CHAOS_SEEDS"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("CHAOS_SEED"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
		n = 1
	}
	t.Run("seeds", func(t *testing.T) {
		for seed := first; seed < first+uint64(n); seed++ {
			t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
				t.Parallel()
				runSeed(t, seed)
			})
		}
	})
}

// moments at which a fault may strike; "" is any.
var moments = []string{"", "", "subscribe", "subscribed", "accept", "accepted", "accepted", "update", "acknowledge", "acknowledged", "kill"}

// chaos is one run.
type chaos struct {
	*cluster
	f    *framework
	rand *rand.Rand // of the faults

	mu     sync.Mutex
	harmed map[string]bool // executors that were killed, or whose helper was
	log    []string
}

func runSeed(t *testing.T, seed uint64) {
	c := newCluster(t)
	x := &chaos{cluster: c, rand: rand.New(rand.NewPCG(seed, 2)), harmed: map[string]bool{}}
	x.f = newFramework(c, rand.New(rand.NewPCG(seed, 1)), 24)
	t.Cleanup(func() {
		if t.Failed() {
			x.report(seed)
		}
	})
	c.master.start()
	c.agent.start()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { x.f.run(ctx) })
	defer running.Wait()
	defer cancel()
	for range 8 {
		x.fault()
	}
	if !c.eventually("every task ends", x.f.open) {
		return
	}
	cancel()
	running.Wait()
	x.check()
	x.clean()
}

// fault waits for its moment, strikes some of the processes, and brings the daemons back.
func (x *chaos) fault() {
	r := x.rand
	moment := moments[r.IntN(len(moments))]
	skip, delay := r.IntN(4), time.Duration(r.IntN(4000))*time.Microsecond
	if moment == "" {
		skip, delay = 0, time.Duration(r.IntN(400))*time.Millisecond
	}
	victims, pause, down := 1+r.IntN(15), r.IntN(3) == 0, time.Duration(r.IntN(600))*time.Millisecond
	if r.IntN(3) > 0 {
		victims = 1 << r.IntN(4) // one alone
	}
	failover, again := r.IntN(3) == 0, r.IntN(3) == 0
	againAfter, pick := time.Duration(r.IntN(150))*time.Millisecond, r.IntN(1000)

	deadline := time.After(time.Second)
	for n := 0; moment != "" && n <= skip; {
		select {
		case m := <-x.f.moments:
			if m == moment {
				n++
			}
		case <-deadline: // nothing of that kind happens any more
			n = skip + 1
		}
	}
	time.Sleep(delay) // the moment is the seed's choice, not a wait
	var daemons []*daemon
	if victims&1 != 0 {
		daemons = append(daemons, x.master)
	}
	if victims&2 != 0 {
		daemons = append(daemons, x.agent)
	}
	helpers, tops := x.containers()
	var targets []target
	if victims&4 != 0 && len(helpers) > 0 {
		targets = append(targets, helpers[pick%len(helpers)])
	}
	if victims&8 != 0 && len(tops) > 0 {
		targets = append(targets, tops[pick%len(tops)])
	}
	verb := "kill"
	if pause {
		verb = "stop"
	}
	x.note("%s after %d %q + %v: master %v, agent %v, beside and in containers %v, framework fails over %v, for %v, again %v",
		verb, skip, moment, delay, victims&1 != 0, victims&2 != 0, targets, failover, down, again)
	sig := syscall.SIGKILL
	if pause {
		sig = syscall.SIGSTOP
	}
	for _, v := range targets {
		if !pause {
			x.mu.Lock()
			x.harmed[v.executor] = true
			x.mu.Unlock()
		}
		_ = syscall.Kill(v.pid, sig)
	}
	for _, d := range daemons {
		if pause {
			d.signal(sig)
		} else {
			d.kill()
		}
	}
	if failover {
		x.f.mu.Lock()
		if x.f.failover != nil {
			x.f.failover()
		}
		x.f.mu.Unlock()
	}
	time.Sleep(down)
	for _, v := range targets {
		if pause {
			_ = syscall.Kill(v.pid, syscall.SIGCONT)
		}
	}
	for _, d := range daemons {
		d.signal(syscall.SIGCONT)
		d.start()
	}
	if again && len(daemons) > 0 { // while it recovers or registers
		time.Sleep(againAfter)
		d := daemons[pick%len(daemons)]
		x.note("kill again after %v: %s", againAfter, d.args[1])
		d.kill()
		d.start()
	}
	for len(x.f.moments) > 0 {
		<-x.f.moments
	}
}

func (x *chaos) note(format string, args ...any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.log = append(x.log, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
}

// check compares what the framework heard with what really happened.
func (x *chaos) check() {
	f := x.f
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.problems {
		x.t.Error(p)
	}
	counts := map[mesosv1.TaskState]int{}
	for _, t := range f.tasks {
		data, _ := os.ReadFile(x.truth() + "/" + t.id)
		truth := strings.Split(strings.TrimSpace(string(data)), "\n")
		starts := 0
		for _, line := range truth {
			switch {
			case line == "start":
				starts++
			case line == "launched twice":
				x.t.Errorf("%s was launched twice in one executor", t.id)
			case strings.HasPrefix(line, "acknowledged "):
				n := strings.TrimPrefix(line, "acknowledged ")
				if !slices.ContainsFunc(t.updates, func(u *mesosv1.TaskStatus) bool { return string(u.GetData()) == n }) {
					x.t.Errorf("%s: its executor was told that update %s is safe, and nobody heard of it", t.id, n)
				}
			}
		}
		if starts > 1 {
			x.t.Errorf("%s was started %d times", t.id, starts)
		}
		last := -1
		for _, u := range t.updates {
			if n, err := strconv.Atoi(string(u.GetData())); err == nil && t.custom {
				if n <= last {
					x.t.Errorf("%s: update %d came after %d", t.id, n, last)
				}
				last = n
			}
		}
		state := t.end.GetState()
		counts[state]++
		switch {
		case state == t.want && starts == 1:
		case x.harmed[t.executor]:
		case starts == 0 && len(t.updates) <= 1 && (state == mesosv1.TaskState_TASK_DROPPED || state == mesosv1.TaskState_TASK_GONE || state == mesosv1.TaskState_TASK_UNKNOWN):
			// The offer was gone, or the master was killed before the agent had heard of the task.
		default:
			x.t.Errorf("%s (executor %s) ended as %v, reason %v, source %v: %q; want %v. It started %d times", t.id, t.executor, state, t.end.GetReason(), t.end.GetSource(),
				t.end.GetMessage(), t.want, starts)
		}
	}
	x.t.Logf("ends: %v", counts)
}

// clean ends the framework and the agent, and looks for what is left.
func (x *chaos) clean() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	x.eventually("the framework ends", func() error { return x.f.teardown(ctx) })
	x.eventually("nothing is used at the master", func() error {
		var state struct {
			Slaves []struct {
				ID   string
				Used struct{ CPUs, Mem float64 } `json:"used_resources"`
				Offs struct{ CPUs, Mem float64 } `json:"offered_resources"`
			}
		}
		if err := x.master.get("/state", &state); err != nil {
			return err
		}
		for _, s := range state.Slaves {
			if s.Used.CPUs != 0 || s.Used.Mem != 0 || s.Offs.CPUs != 0 {
				return fmt.Errorf("agent %s: used %v, offered %v", s.ID, s.Used, s.Offs)
			}
		}
		return nil
	})
	x.eventually("no executor is left at the agent", func() error {
		var state struct {
			Frameworks []struct{ Executors []struct{ ID string } }
		}
		if err := x.agent.get("/state", &state); err != nil {
			return err
		}
		for _, f := range state.Frameworks {
			if len(f.Executors) > 0 {
				return fmt.Errorf("left: %v", f.Executors)
			}
		}
		return nil
	})
	x.agent.signal(syscall.SIGUSR1)
	if err := x.agent.ends(); err != nil {
		x.t.Error(err)
	}
	x.eventually("nothing is left", x.left)
	x.master.signal(syscall.SIGTERM)
	if err := x.master.ends(); err != nil {
		x.t.Error(err)
	}
}

func (x *chaos) report(seed uint64) {
	x.t.Logf("CHAOS_SEED=%d replays this", seed)
	x.mu.Lock()
	x.t.Logf("faults:\n%s", strings.Join(x.log, "\n"))
	x.mu.Unlock()
	x.f.mu.Lock()
	x.t.Logf("the framework:\n%s", strings.Join(x.f.trace, "\n"))
	x.f.mu.Unlock()
	for _, d := range []*daemon{x.master, x.agent} {
		b, _ := os.ReadFile(d.log.Name())
		x.t.Logf("the %s's log ends:\n%s", d.args[1], b[max(0, len(b)-30000):])
	}
	if keep := os.Getenv("CHAOS_KEEP"); keep != "" {
		_ = os.CopyFS(keep, os.DirFS(x.dir))
	}
}
