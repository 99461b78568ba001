package sim_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/orchestrator/orchestrator/internal/leakcheck"
	"github.com/orchestrator/orchestrator/internal/sim"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/memnet"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// world is a fake master with simulated agents and frameworks on an in-memory network.
type world struct {
	master *fakeMaster
	agents *sim.Agents
	load   *sim.Load
}

func newWorld(t *testing.T, ac sim.AgentsConfig, lc sim.LoadConfig) *world {
	t.Helper()
	network := new(memnet.Network)
	w := &world{master: startFakeMaster(t, network, "master:5050")}
	ac.Master, ac.Dial, lc.Master, lc.Dial = "master:5050", network.DialContext, "master:5050", network.DialContext
	lc.TaskCPUs = 0.5
	var err error
	if w.agents, err = sim.NewAgents(ac); err != nil {
		t.Fatal(err)
	}
	if w.load, err = sim.NewLoad(lc); err != nil {
		t.Fatal(err)
	}
	run(t, w.agents.Run)
	run(t, w.load.Run)
	<-w.agents.Ready()
	<-w.load.Ready()
	return w
}

func run(t *testing.T, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = f(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func TestRateIsKeptAndEveryTaskIsAccountedFor(t *testing.T) {
	t.Parallel()
	for _, ct := range []wire.ContentType{wire.Protobuf, wire.JSON} {
		for _, perConnection := range []int{1, 7} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t,
					sim.AgentsConfig{Count: 20, PerConnection: perConnection, Script: sim.Script{
						Start: sim.Fixed(20 * time.Millisecond), Run: sim.Duration{Min: 100 * time.Millisecond, Max: 300 * time.Millisecond}, Failing: 0.1,
					}},
					sim.LoadConfig{Frameworks: 3, ContentType: ct})
				s := &w.load.Stats
				w.load.Rate(100)
				time.Sleep(10 * time.Second) // virtual time
				w.load.Rate(0)
				time.Sleep(time.Second)
				if n := s.Launched.Load(); n < 995 || n > 1005 {
					t.Errorf("%d tasks were launched in 10 s at 100/s", n)
				}
				for what, n := range map[string]int64{"running": s.Running.Load(), "confirmed": s.Confirmed.Load(), "ended": s.Ended.Load(), "at the agents": w.agents.Stats.Tasks.Load()} {
					if n != s.Launched.Load() {
						t.Errorf("%d of %d tasks are %s", n, s.Launched.Load(), what)
					}
				}
				if n := s.Lost.Load() + s.Refused.Load() + s.Resubs.Load() + w.agents.Stats.Live.Load(); n != 0 {
					t.Errorf("lost %d, refused %d, resubscribed %d, live %d", s.Lost.Load(), s.Refused.Load(), s.Resubs.Load(), w.agents.Stats.Live.Load())
				}
				if got, want := w.agents.Stats.Acks.Load(), 2*s.Launched.Load(); got != want {
					t.Errorf("%d acknowledgements reached the agents, want %d", got, want)
				}
				// Time stands still while anybody works, so a latency is what the script says and the wait for a pace and an offer.
				if p50, worst := s.Launch.Quantile(0.5), s.Launch.Max()-s.Late.Max(); p50 < 20*time.Millisecond || worst > 21*time.Millisecond {
					t.Errorf("launch latency %v, at worst %v, of which late %v", p50, s.Launch.Max(), s.Late.Max())
				}
				if s.ToAgent.Max() != 0 || s.AtAgent.Max() != 20*time.Millisecond || s.ToClient.Max() != 0 {
					t.Errorf("stages took %v, %v and %v", s.ToAgent.Max(), s.AtAgent.Max(), s.ToClient.Max())
				}
				if s.Offer.Count() == 0 || s.Offer.Max() > time.Second {
					t.Errorf("offer latency: %d samples, at most %v", s.Offer.Count(), s.Offer.Max())
				}
			})
		}
	}
}

func TestPopulationIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.AgentsConfig{Count: 10, PerConnection: 10, Script: sim.Script{Run: sim.Fixed(time.Second)}}, sim.LoadConfig{Frameworks: 3})
		w.load.Population(100)
		time.Sleep(10*time.Second + 500*time.Millisecond)
		if live := w.agents.Stats.Live.Load(); live < 90 || live > 100 {
			t.Errorf("%d tasks live", live)
		}
		// An offer may wait at a framework that needs none, so not every task is replaced at once.
		if ended := w.load.Stats.Ended.Load(); ended < 900 || ended > 1000 {
			t.Errorf("%d tasks of 1 s have ended in 10 s", ended)
		}
	})
}

// A framework that keeps every offer would starve the others.
func TestSurplusOffersAreDeclined(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.AgentsConfig{Count: 30, PerConnection: 10}, sim.LoadConfig{Frameworks: 3, Hold: 5})
		// Of 480 that fit. Two frameworks that have what they want may keep ten agents from the third, with room for 160.
		w.load.Population(300)
		time.Sleep(5 * time.Second)
		if n := w.load.Stats.Running.Load(); n != 300 {
			t.Errorf("%d of 300 tasks run", n)
		}
	})
}

func TestAgentsComeBackWithTheirTasks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sim.AgentsConfig{Count: 6, PerConnection: 3}, sim.LoadConfig{Frameworks: 1})
		w.load.Population(20)
		time.Sleep(time.Second)
		w.master.dropAgents()
		synctest.Wait()
		if n := w.agents.Stats.Registered.Load(); n != 0 {
			t.Errorf("%d agents count as registered without a connection", n)
		}
		time.Sleep(5 * time.Second)
		if n := w.agents.Stats.Registered.Load(); n != 6 {
			t.Errorf("%d agents came back", n)
		}
		w.master.mu.Lock()
		defer w.master.mu.Unlock()
		tasks := 0
		for _, r := range w.master.reregistered {
			tasks += len(r.GetTasks())
			if len(r.GetTasks()) > 0 && len(r.GetFrameworks()) != 1 {
				t.Errorf("an agent with tasks named %d frameworks", len(r.GetFrameworks()))
			}
		}
		if len(w.master.reregistered) != 6 || tasks != 20 {
			t.Errorf("%d agents reported %d tasks", len(w.master.reregistered), tasks)
		}
	})
}

func TestHistogram(t *testing.T) {
	t.Parallel()
	var h sim.Histogram
	if h.Quantile(0.99) != 0 || h.Mean() != 0 {
		t.Error("an empty histogram has values")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	values := make([]time.Duration, 10_000)
	for i := range values {
		values[i] = time.Duration(rng.Int64N(1 << (5 + rng.IntN(35))))
		h.Record(values[i])
	}
	slices.Sort(values)
	for _, q := range []float64{0.01, 0.5, 0.95, 0.99, 0.999, 1} {
		want := values[int(q*float64(len(values)))-1]
		if got := h.Quantile(q); got < want || float64(got) > float64(want)*(1+1.0/32)+1 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if h.Max() != values[len(values)-1] || h.Count() != 10_000 {
		t.Errorf("max %v of %d", h.Max(), h.Count())
	}
	h.Record(-time.Second)
	if h.Quantile(0) != 0 {
		t.Error("a negative duration is not zero")
	}
	h.Record(1<<63 - 1)
	if h.Max() != 1<<63-1 {
		t.Error("the longest duration is lost")
	}
	h.Reset()
	if h.Count() != 0 || h.Max() != 0 {
		t.Error("Reset left something")
	}
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"2s": "2s", "1s..3s": "1s..3s", "0s": "0s"} {
		if d, err := sim.ParseDuration(text); err != nil || d.String() != want {
			t.Errorf("%q: %v %v", text, d, err)
		}
	}
	for _, bad := range []string{"", "2", "3s..1s", "-1s", "1s..x"} {
		if d, err := sim.ParseDuration(bad); err == nil {
			t.Errorf("%q was read as %v", bad, d)
		}
	}
}
