package cluster

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// Options say what is simulated.
type Options struct {
	Seed       uint64
	Agents     int
	Frameworks int
	// Busy is how long schedulers launch and faults happen; Calm is how long the cluster then gets to settle.
	Busy, Calm time.Duration
	// Faults is the mean time between two faults; 0 means none.
	Faults time.Duration
	// Trace keeps the last lines of what happened, for a failing run.
	Trace int
}

// World is one simulated cluster.
type World struct {
	opts   Options
	rng    *rand.Rand
	now    time.Time
	end    time.Time
	calm   bool // no more faults and launches
	queue  queue
	seq    uint64
	events int

	registry registry
	master   *master
	agents   []*agent
	scheds   []*scheduler

	trace    []string
	failures []string
	promised map[taskKey]mesosv1.TaskState // final states that an agent has acknowledged to their executor
	faults   map[string]int
	launched int
	resized  int // offers of a volume with another size than it was made with
}

type item struct {
	at  time.Time
	seq uint64
	fn  func()
}

type queue []item

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].at.Equal(q[j].at) {
		return q[i].seq < q[j].seq
	}
	return q[i].at.Before(q[j].at)
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(item)) }
func (q *queue) Pop() any {
	old := *q
	x := old[len(old)-1]
	old[len(old)-1] = item{}
	*q = old[:len(old)-1]
	return x
}

// after runs fn later.
func (w *World) after(d time.Duration, fn func()) { w.at(w.now.Add(d), fn) }

func (w *World) at(t time.Time, fn func()) {
	w.seq++
	heap.Push(&w.queue, item{t, w.seq, fn})
}

// between draws a duration.
func (w *World) between(low, high time.Duration) time.Duration {
	return low + time.Duration(w.rng.Int64N(int64(high-low)+1))
}

// chance is true with probability p.
func (w *World) chance(p float64) bool { return w.rng.Float64() < p }

// hop is the time that a message takes.
func (w *World) hop() time.Duration { return w.between(100*time.Microsecond, 5*time.Millisecond) }

func (w *World) note(format string, args ...any) {
	if w.opts.Trace <= 0 {
		return
	}
	if len(w.trace) >= 2*w.opts.Trace {
		w.trace = append(w.trace[:0:0], w.trace[len(w.trace)-w.opts.Trace:]...)
	}
	w.trace = append(w.trace, fmt.Sprintf("%12s ", w.now.Sub(epoch))+fmt.Sprintf(format, args...))
}

// fail records a broken invariant.
func (w *World) fail(format string, args ...any) {
	if len(w.failures) < 20 {
		msg := fmt.Sprintf("at %s: ", w.now.Sub(epoch)) + fmt.Sprintf(format, args...)
		w.failures = append(w.failures, msg)
		w.note("FAILURE %s", msg)
	}
}

var epoch = time.Unix(1_700_000_000, 0)

// Report is what came of a run.
type Report struct {
	Seed      uint64
	Failures  []string
	Trace     []string
	Events    int
	Launched  int
	States    map[string]int // final states of the launched tasks, as their schedulers know them
	Faults    map[string]int
	Elections int
	Resized   int // offers of volumes that had been resized
}

// String is one line.
func (r Report) String() string {
	return fmt.Sprintf("seed %d: %d events, %d tasks %v, %d elections, %d offers of resized volumes, faults %v, %d failures",
		r.Seed, r.Events, r.Launched, r.States, r.Elections, r.Resized, r.Faults, len(r.Failures))
}

// Run simulates a cluster to its end.
func Run(o Options) Report {
	w := &World{opts: o, rng: rand.New(rand.NewPCG(o.Seed, 0x636c7573746572)), now: epoch, faults: map[string]int{}, promised: map[taskKey]mesosv1.TaskState{}}
	w.end = epoch.Add(o.Busy + o.Calm)
	w.registry.init()
	w.master = &master{w: w}
	w.master.start()
	for i := range o.Agents {
		a := newAgent(w, i)
		w.agents = append(w.agents, a)
		w.after(w.between(0, 5*time.Second), a.boot)
	}
	for i := range o.Frameworks {
		s := newScheduler(w, i)
		w.scheds = append(w.scheds, s)
		w.after(w.between(0, 10*time.Second), s.connect)
	}
	if o.Faults > 0 {
		w.after(w.between(0, 2*o.Faults), w.fault)
	}
	w.at(epoch.Add(o.Busy), w.settle)
	for len(w.queue) > 0 && len(w.failures) == 0 {
		next := heap.Pop(&w.queue).(item)
		if next.at.After(w.end) {
			break
		}
		if next.at.After(w.now) {
			w.now = next.at
		}
		next.fn()
		w.events++
		if w.events%(5000+20*w.opts.Agents) == 0 {
			w.checkNow()
		}
	}
	w.checkEnd()
	r := Report{
		Seed: o.Seed, Failures: w.failures, Events: w.events, Launched: w.launched, States: map[string]int{}, Faults: w.faults,
		Elections: w.master.terms, Resized: w.resized,
	}
	for _, s := range w.scheds {
		for _, t := range s.tasks {
			r.States[strings.TrimPrefix(t.state.String(), "TASK_")]++
		}
	}
	r.Trace = w.trace[max(0, len(w.trace)-o.Trace):]
	return r
}
