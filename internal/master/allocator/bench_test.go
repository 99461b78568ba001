package allocator

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// The benchmarks have the names and parameters of Mesos' (src/tests/hierarchical_allocator_tests.cpp and
// hierarchical_allocator_benchmarks.cpp), so that figures can be set side by side. ns/op is one allocation cycle; what
// frameworks do between cycles (declining, suppressing) is outside of it and reported apart.

const benchTotal = "cpus:24;mem:4096;disk:4096;ports:[31000-32000]"

func benchAgents(a *Allocator, n int, text string, used func(i int) map[ids.Framework]resources.Resources) {
	total := resources.MustParse(text)
	for i := range n {
		a.AddAgent(ids.Agent(fmt.Sprintf("1e4ab9a0-57c3-4a9b-a9b3-0b3c5bc0bd12-S%d", i)), AgentInfo{
			Hostname: fmt.Sprintf("agent%d", i), Total: total, Capabilities: modern,
		}, used(i))
	}
}

func benchFramework(i int) ids.Framework {
	return ids.Framework(fmt.Sprintf("1e4ab9a0-57c3-4a9b-a9b3-0b3c5bc0bd12-%04d", i))
}

// stopwatch adds up the wall time of cycles, and the processor time of the thread that runs them: on a machine that is shared
// the latter is what can be compared.
type stopwatch struct {
	wall, cpu, worst time.Duration
	start            time.Time
	startCPU         time.Duration
	cycles           int
}

func newStopwatch(b *testing.B) *stopwatch {
	b.Helper()
	runtime.LockOSThread()
	b.Cleanup(runtime.UnlockOSThread)
	return &stopwatch{}
}

func threadTime() time.Duration {
	const thread = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	if syscall.Getrusage(thread, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (s *stopwatch) begin() { s.startCPU, s.start = threadTime(), time.Now() }

func (s *stopwatch) end() {
	d := time.Since(s.start)
	s.cpu += threadTime() - s.startCPU
	s.wall += d
	s.worst = max(s.worst, d)
	s.cycles++
}

func (s *stopwatch) report(b *testing.B) {
	b.Helper()
	n := float64(s.cycles)
	b.ReportMetric(float64(s.wall.Nanoseconds())/n, "ns/op")
	b.ReportMetric(float64(s.wall.Nanoseconds())/n/1e6, "ms/cycle")
	b.ReportMetric(float64(s.cpu.Nanoseconds())/n/1e6, "cpu-ms/cycle")
	b.ReportMetric(float64(s.worst.Nanoseconds())/1e6, "worst-ms")
}

// usedInBench is what one task of a random framework uses on each agent: a cpu, some memory and disk, ten ports.
func usedInBench(i, frameworks int) map[ids.Framework]resources.Resources {
	h := mix(uint64(i))
	text := fmt.Sprintf("cpus:1;mem:128;disk:1024;ports:[%d-%d]", 31000+h%900, 31009+h%900)
	return map[ids.Framework]resources.Resources{
		benchFramework(int(h>>32) % frameworks): resources.MustParse(text).Allocate("*"),
	}
}

// BenchmarkDeclineOffers: every framework declines everything it is offered for good, cycle after cycle, so that ever more
// filters stand between the agents and the frameworks. One op is one cycle; the filters start anew when every framework has
// declined every agent.
func BenchmarkDeclineOffers(b *testing.B) {
	for _, p := range []struct {
		agents, frameworks int
		name, total        string
	}{
		{1000, 200, "", benchTotal},
		{10000, 1000, "", benchTotal},
		{20000, 2000, "", benchTotal},
		{50000, 6000, "", benchTotal},
		// Not of Mesos: a part of every agent is reserved to a role that nobody is in.
		{10000, 1000, "/reserved", benchTotal + ";cpus(other):4;mem(other):1024"},
	} {
		b.Run(fmt.Sprintf("agents=%d/frameworks=%d%s", p.agents, p.frameworks, p.name), func(b *testing.B) {
			a := New(Options{MinAllocatable: DefaultMinAllocatable(), AllocationInterval: time.Second})
			for i := range p.frameworks {
				if err := a.AddFramework(benchFramework(i), FrameworkInfo{Roles: []string{"*"}}, true); err != nil {
					b.Fatal(err)
				}
			}
			benchAgents(a, p.agents, p.total, func(i int) map[ids.Framework]resources.Resources { return usedInBench(i, p.frameworks) })
			now := t0
			year := &Refusal{For: maxRefusal}
			watch := newStopwatch(b)
			var declining time.Duration
			var offered int
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				b.StartTimer()
				watch.begin()
				offers, _ := a.Allocate(now, uint64(i))
				watch.end()
				b.StopTimer()
				offered += len(offers)
				start := time.Now()
				for _, o := range offers {
					if err := a.Recover(o.Framework, o.Agent, o.Resources, year, now); err != nil {
						b.Fatal(err)
					}
				}
				declining += time.Since(start)
				now = now.Add(time.Second)
				if len(offers) == 0 {
					for f := range p.frameworks {
						a.Revive(benchFramework(f), nil)
					}
				}
			}
			watch.report(b)
			b.ReportMetric(float64(declining.Nanoseconds())/float64(max(offered, 1)), "ns/decline")
			b.ReportMetric(float64(offered)/float64(b.N), "offers/cycle")
		})
	}
}

// BenchmarkLargeAndSmallQuota: roles of one framework each, five in six with a quota of half an agent, the rest with one of
// two agents; everything is offered in one cycle ("full"). Then all frameworks keep what they have, and nothing changes
// ("idle"); "held" is a cycle after one offer's worth of resources was freed.
func BenchmarkLargeAndSmallQuota(b *testing.B) {
	for i, p := range []struct{ small, large int }{{25, 5}, {250, 50}, {2500, 500}} {
		agents := p.small + p.large
		setup := func(b *testing.B) *Allocator {
			b.Helper()
			a := New(Options{MinAllocatable: DefaultMinAllocatable(), AllocationInterval: time.Second})
			total := resources.MustParse("cpus:2;mem:2048;disk:2048")
			quota := func(role string, text string) {
				q, err := resources.ParseQuantities(text)
				if err != nil {
					b.Fatal(err)
				}
				if err := a.SetQuota(role, &Quota{Guarantees: q, Limits: q}); err != nil {
					b.Fatal(err)
				}
			}
			add := func(i int, role string) {
				if err := a.AddFramework(benchFramework(i), FrameworkInfo{Roles: []string{role}}, true); err != nil {
					b.Fatal(err)
				}
			}
			for i := range p.small {
				role := fmt.Sprintf("smallQuotaRole%d", i)
				quota(role, "cpus:1;mem:1024;disk:1024")
				add(i, role)
			}
			for i := range p.large {
				role := fmt.Sprintf("largeQuotaRole%d", i)
				quota(role, "cpus:4;mem:4096;disk:4096")
				add(p.small+i, role)
			}
			for i := range agents {
				a.AddAgent(ids.Agent(fmt.Sprintf("agent-S%d", i)), AgentInfo{Hostname: fmt.Sprintf("h%d", i), Total: total, Capabilities: modern}, nil)
			}
			return a
		}
		b.Run(fmt.Sprintf("%d/full", i), func(b *testing.B) {
			watch := newStopwatch(b)
			var offered int
			for i := range b.N {
				b.StopTimer()
				a := setup(b)
				b.StartTimer()
				watch.begin()
				offers, _ := a.Allocate(t0, uint64(i))
				watch.end()
				offered += len(offers)
			}
			watch.report(b)
			b.ReportMetric(float64(offered)/float64(b.N), "offers/cycle")
		})
		b.Run(fmt.Sprintf("%d/idle", i), func(b *testing.B) {
			a := setup(b)
			a.Allocate(t0, 1)
			watch := newStopwatch(b)
			b.ResetTimer()
			watch.begin()
			for i := range b.N {
				if offers, _ := a.Allocate(t0, uint64(i)); len(offers) > 0 {
					b.Fatalf("an idle cycle made %d offers", len(offers))
				}
			}
			watch.end()
			watch.cycles = b.N
			watch.report(b)
		})
		b.Run(fmt.Sprintf("%d/held", i), func(b *testing.B) {
			a := setup(b)
			held, _ := a.Allocate(t0, 1)
			held = held[:1]
			want := cpusOf(held)
			watch := newStopwatch(b)
			b.ResetTimer()
			watch.begin()
			for i := range b.N {
				for _, o := range held {
					if err := a.Recover(o.Framework, o.Agent, o.Resources, nil, t0); err != nil {
						b.Fatal(err)
					}
				}
				// A role's quota may be met from what is left over on other agents as well, in more than one offer.
				held, _ = a.Allocate(t0, uint64(i))
				if got := cpusOf(held); got != want {
					b.Fatalf("of %v freed cpus %v were offered", want, got)
				}
			}
			watch.end()
			watch.cycles = b.N
			watch.report(b)
		})
	}
}

func cpusOf(offers []Offer) resources.Amount {
	var sum resources.Amount
	for _, o := range offers {
		sum += o.Resources.Quantities().Get("cpus")
	}
	return sum
}

// BenchmarkSuppressOffers: ever more frameworks suppress; what the suppressed ones gave back goes to the rest.
func BenchmarkSuppressOffers(b *testing.B) {
	const agents, frameworks = 10000, 1000
	a := New(Options{MinAllocatable: DefaultMinAllocatable(), AllocationInterval: time.Second})
	for i := range frameworks {
		if err := a.AddFramework(benchFramework(i), FrameworkInfo{Roles: []string{"*"}}, true); err != nil {
			b.Fatal(err)
		}
	}
	benchAgents(a, agents, benchTotal, func(i int) map[ids.Framework]resources.Resources { return usedInBench(i, frameworks) })
	watch := newStopwatch(b)
	suppressed := 0
	b.ResetTimer()
	for i := range b.N {
		watch.begin()
		offers, _ := a.Allocate(t0, uint64(i))
		watch.end()
		for _, o := range offers {
			if err := a.Recover(o.Framework, o.Agent, o.Resources, nil, t0); err != nil {
				b.Fatal(err)
			}
		}
		for range frameworks / 200 {
			a.Suppress(benchFramework(suppressed%frameworks), nil)
			if suppressed++; suppressed%frameworks == frameworks-1 {
				for f := range frameworks {
					a.Revive(benchFramework(f), nil)
				}
			}
		}
	}
	watch.report(b)
}
