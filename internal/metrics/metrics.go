package metrics

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Name is how a measurement is called on both sides. Either may be empty: then it is not shown there.
type Name struct {
	Mesos  string   // "master/messages_kill_task"
	Prom   string   // "orchestrator_master_messages_total"
	Labels []string // of Prom: name, value, name, value…
	Help   string   // of Prom
}

// key tells measurements apart.
func (n Name) key() string {
	return n.Mesos + "\x00" + n.Prom + "\x00" + strings.Join(n.Labels, "\x00")
}

// Value is one line of a snapshot.
type Value struct {
	Name  string
	Value float64
}

// Counter counts up.
type Counter struct{ n atomic.Uint64 }

// Inc adds one.
func (c *Counter) Inc() { c.n.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.n.Add(n) }

// Value is the count.
func (c *Counter) Value() uint64 { return c.n.Load() }

// Gauge is a value that goes up and down.
type Gauge struct{ bits atomic.Uint64 }

// Set replaces the value.
func (g *Gauge) Set(v float64) { g.bits.Store(math.Float64bits(v)) }

// Add changes the value by d.
func (g *Gauge) Add(d float64) {
	for {
		old := g.bits.Load()
		if g.bits.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+d)) {
			return
		}
	}
}

// Value is the value.
func (g *Gauge) Value() float64 { return math.Float64frombits(g.bits.Load()) }

// window is how many of a timer's last samples its percentiles are taken from (libprocess keeps as many).
const window = 1000

// Timer measures how long something takes. Mesos' side shows the last sample and the statistics of the last 1,000 in
// milliseconds, under names that end in _ms; Prometheus a histogram in seconds.
type Timer struct {
	histogram prometheus.Histogram
	mu        sync.Mutex
	last      float64
	samples   []float64 // a ring of milliseconds
	next      int
}

// Observe adds a sample.
func (t *Timer) Observe(d time.Duration) {
	ms := float64(d) / float64(time.Millisecond)
	if t.histogram != nil {
		t.histogram.Observe(d.Seconds())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = ms
	if len(t.samples) < window {
		t.samples = append(t.samples, ms)
		return
	}
	t.samples[t.next] = ms
	t.next = (t.next + 1) % window
}

var percentiles = []struct {
	name string
	p    float64
}{{"/p50", .5}, {"/p90", .9}, {"/p95", .95}, {"/p99", .99}, {"/p999", .999}, {"/p9999", .9999}}

// emit gives the Mesos values; none before the first sample.
func (t *Timer) emit(name string, out func(string, float64)) {
	t.mu.Lock()
	last, sorted := t.last, slices.Clone(t.samples)
	t.mu.Unlock()
	if len(sorted) == 0 {
		return
	}
	slices.Sort(sorted)
	out(name, last)
	out(name+"/count", float64(len(sorted)))
	out(name+"/min", sorted[0])
	out(name+"/max", sorted[len(sorted)-1])
	for _, p := range percentiles {
		// Between two samples the value is interpolated, as libprocess does.
		position := p.p * float64(len(sorted)-1)
		i := int(position)
		v := sorted[i]
		if i+1 < len(sorted) {
			v += (position - float64(i)) * (sorted[i+1] - v)
		}
		out(name+p.name, v)
	}
}

// metric is one registered measurement: exactly one of the pointers is set.
type metric struct {
	name    Name
	counter *Counter
	gauge   *Gauge
	timer   *Timer
	fn      func() float64
}

// Registry holds a component's measurements.
type Registry struct {
	prom *prometheus.Registry

	mu      sync.RWMutex
	metrics map[string]*metric
	sources []func(emit func(Name, float64))
}

// New returns a registry that also shows the Go runtime and the process to Prometheus.
func New() *Registry {
	r := &Registry{prom: prometheus.NewRegistry(), metrics: map[string]*metric{}}
	r.prom.MustRegister(collector{r}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Registerer is for what measures with Prometheus' own types.
func (r *Registry) Registerer() prometheus.Registerer { return r.prom }

// register returns the measurement of that name, made by fill when it is new. Asking twice for a name gives the same one; asking
// for it as something else is a programmer's error and panics.
func (r *Registry) register(n Name, fill func(*metric)) *metric {
	if n.Mesos == "" && n.Prom == "" || len(n.Labels)%2 != 0 {
		panic(fmt.Sprintf("metrics: wrong name %+v", n))
	}
	k := n.key()
	r.mu.RLock()
	m := r.metrics[k]
	r.mu.RUnlock()
	if m != nil {
		return m
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.metrics[k]; m != nil {
		return m
	}
	m = &metric{name: n}
	fill(m)
	r.metrics[k] = m
	return m
}

func wrongKind(n Name) string {
	return fmt.Sprintf("metrics: %s%s is of another kind", n.Mesos, n.Prom)
}

// Counter returns the counter of that name.
func (r *Registry) Counter(n Name) *Counter {
	m := r.register(n, func(m *metric) { m.counter = &Counter{} })
	if m.counter == nil {
		panic(wrongKind(n))
	}
	return m.counter
}

// Gauge returns the gauge of that name.
func (r *Registry) Gauge(n Name) *Gauge {
	m := r.register(n, func(m *metric) { m.gauge = &Gauge{} })
	if m.gauge == nil {
		panic(wrongKind(n))
	}
	return m.gauge
}

// GaugeFunc shows what f returns. A name ending in _total is a counter to Prometheus.
func (r *Registry) GaugeFunc(n Name, f func() float64) {
	if m := r.register(n, func(m *metric) { m.fn = f }); m.fn == nil {
		panic(wrongKind(n))
	}
}

// Timer returns the timer of that name.
func (r *Registry) Timer(n Name) *Timer {
	m := r.register(n, func(m *metric) {
		m.timer = &Timer{}
		if n.Prom != "" {
			m.timer.histogram = prometheus.NewHistogram(prometheus.HistogramOpts{
				Name: n.Prom, Help: n.Help, ConstLabels: labelMap(n.Labels), Buckets: prometheus.ExponentialBuckets(50e-6, 4, 10),
			})
		}
	})
	if m.timer == nil {
		panic(wrongKind(n))
	}
	return m.timer
}

// Source adds a function that emits any number of values when a snapshot is taken: for what is read out of a published state
// as a whole.
func (r *Registry) Source(f func(emit func(Name, float64))) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sources = append(r.sources, f)
}

// Group is a set of Mesos-named measurements that come and go together, such as those of a framework.
type Group struct {
	r      *Registry
	prefix string
}

// Group returns the group of measurements whose names begin with prefix, which should end in "/".
func (r *Registry) Group(prefix string) *Group { return &Group{r: r, prefix: prefix} }

// Counter returns the counter <prefix><name>.
func (g *Group) Counter(name string) *Counter { return g.r.Counter(Name{Mesos: g.prefix + name}) }

// Gauge returns the gauge <prefix><name>.
func (g *Group) Gauge(name string) *Gauge { return g.r.Gauge(Name{Mesos: g.prefix + name}) }

// Close removes all of the group from the registry. Counting on is harmless.
func (g *Group) Close() {
	g.r.mu.Lock()
	defer g.r.mu.Unlock()
	for k, m := range g.r.metrics {
		if strings.HasPrefix(m.name.Mesos, g.prefix) {
			delete(g.r.metrics, k)
		}
	}
}

// all copies what is registered.
func (r *Registry) all() ([]*metric, []func(func(Name, float64))) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]*metric, 0, len(r.metrics))
	for _, m := range r.metrics {
		out = append(out, m)
	}
	return out, slices.Clone(r.sources)
}

// Snapshot returns all values under Mesos' names, sorted.
func (r *Registry) Snapshot() []Value {
	metrics, sources := r.all()
	out := make([]Value, 0, len(metrics)+64)
	add := func(name string, v float64) {
		if name != "" && !math.IsNaN(v) && !math.IsInf(v, 0) {
			out = append(out, Value{name, v})
		}
	}
	for _, m := range metrics {
		switch {
		case m.name.Mesos == "":
		case m.counter != nil:
			add(m.name.Mesos, float64(m.counter.Value()))
		case m.gauge != nil:
			add(m.name.Mesos, m.gauge.Value())
		case m.fn != nil:
			add(m.name.Mesos, m.fn())
		default:
			m.timer.emit(m.name.Mesos, add)
		}
	}
	for _, s := range sources {
		s(func(n Name, v float64) { add(n.Mesos, v) })
	}
	slices.SortFunc(out, func(a, b Value) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
