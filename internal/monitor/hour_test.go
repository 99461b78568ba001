package monitor

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/monitor/view"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// played is an estate that is told of a time by a clock of its own: an hour of it takes seconds.
type played struct {
	t        testing.TB
	hosts    int
	at       int64 // ms
	codec    *topology.Codec
	estate   *estate.Estate
	hub      *hub
	recorder *estate.Recorder
	rng      *rand.Rand
	seq      []uint64
	load     [][]float64
	moving   []uint32 // the edge of each host that is another every second
	ref      []uint32
	shuffled bool // the hosts are heard in any order, as real ones are
}

const (
	playedContainers  = 10
	playedConnections = 5
)

func newPlayed(t testing.TB, hosts int) *played {
	p := &played{
		t: t, hosts: hosts, at: 1_790_000_000_000, codec: topology.NewCodec(), estate: estate.New(estate.NewEvents()), rng: rand.New(rand.NewPCG(1, 2)),
		seq: make([]uint64, hosts), load: make([][]float64, hosts), moving: make([]uint32, hosts), ref: make([]uint32, hosts),
	}
	p.hub = newHub(p.estate, func() time.Time { return time.UnixMilli(p.at) })
	p.recorder = estate.NewRecorder(p.estate)
	return p
}

func playedName(host int) string { return fmt.Sprintf("host-%04d", host) }

func playedAddr(host int) []byte { return []byte{10, byte(host >> 8), byte(host), 1} }

func playedID(host, container int) string {
	return topology.ContainerID(playedName(host), fmt.Sprintf("%012x", host*1000+container))
}

// hear gives a frame to the estate as a connection would: written and read.
func (p *played) hear(host int, f *probev1.Frame) {
	data, err := p.codec.Encode(nil, f)
	if err == nil {
		f, err = p.codec.Decode(data)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	if f.Delta != nil && !p.estate.Apply(playedName(host), f.Delta, p.at) {
		p.t.Fatal("delta refused")
	}
	if f.Metrics != nil {
		p.estate.Metrics(playedName(host), f.Metrics, p.at)
	}
}

func (p *played) edge(host, container, n int) *probev1.Edge {
	p.ref[host]++
	return &probev1.Edge{
		Ref: p.ref[host], Src: uint32(2 + container), RemoteAddr: playedAddr((host*7 + container*13 + n*29 + 1) % p.hosts),
		Port: uint32(8000 + (container+n+1)%playedContainers), Conns: uint32(1 + (container+n)%5), Seen: 1,
	}
}

// appear makes every host known, with ten containers that each listen on a port.
func (p *played) appear() {
	for h := range p.hosts {
		name := playedName(h)
		p.estate.Hello(name, "1", name, 0, 0)
		addr := playedAddr(h)
		d := &probev1.Delta{Snapshot: true, Entities: []*probev1.Entity{{
			Ref: 1, Id: topology.HostID(name), Kind: topology.KindHost, Label: name, State: topology.StateRunning, StartedMs: 1,
			Attrs: []*probev1.Attr{{Key: topology.AttrAddrs, Value: fmt.Sprintf("%d.%d.%d.%d", addr[0], addr[1], addr[2], addr[3])}, {Key: topology.AttrCPUs, Value: "8"}},
		}}}
		p.ref[h] = 1000
		for c := range playedContainers {
			app := fmt.Sprintf("app-%d", (h+c)%10)
			d.Entities = append(d.Entities, &probev1.Entity{
				Ref: uint32(2 + c), Id: playedID(h, c), Kind: topology.KindContainer, Label: fmt.Sprintf("%s.%d-%d", app, h, c), State: topology.StateRunning, StartedMs: 1,
				Parents: []string{topology.HostID(name), topology.ID(topology.KindImage, app+":1.0"), topology.ID(topology.KindApp, "/"+app)},
				Attrs: []*probev1.Attr{
					{Key: topology.AttrImage, Value: app + ":1.0"},
					{Key: topology.AttrRuntime, Value: "docker"},
					{Key: topology.AttrApp, Value: "/" + app},
					{Key: topology.AttrLabel + "app", Value: app},
					{Key: topology.AttrLabel + "tier", Value: []string{"front", "back"}[c%2]},
				},
				Controls: []string{"logs", "stop", "restart"},
			})
			d.Listeners = append(d.Listeners, &probev1.Listener{Ref: uint32(100 + c), Entity: uint32(2 + c), Port: uint32(8000 + c)})
			p.load[h] = append(p.load[h], 40*p.rng.Float64())
		}
		p.tell(h, d)
	}
}

// tell numbers a delta of a host and lets it be heard.
func (p *played) tell(h int, d *probev1.Delta) {
	p.seq[h]++
	d.Seq = p.seq[h]
	p.hear(h, &probev1.Frame{Delta: d})
}

// connect makes five connections of each container known, and what its server sees of one.
func (p *played) connect() {
	for h := range p.hosts {
		d := &probev1.Delta{}
		for c := range playedContainers {
			for n := range playedConnections {
				e := p.edge(h, c, n)
				if c+n == 0 {
					p.moving[h] = e.Ref
				}
				d.Edges = append(d.Edges, e)
			}
			p.ref[h]++
			d.Edges = append(d.Edges, &probev1.Edge{Ref: p.ref[h], Dst: uint32(2 + c), RemoteAddr: playedAddr((h + c + 1) % p.hosts), Port: uint32(8000 + c), Conns: 1, Seen: 2})
		}
		p.tell(h, d)
	}
}

// run makes a process in each container known, with four figures; end lets them go.
func (p *played) run() {
	for h := range p.hosts {
		d := &probev1.Delta{}
		m := &probev1.Metrics{AtMs: p.at, Names: []string{topology.MetricCPU, topology.MetricMem, topology.MetricDiskRead, topology.MetricDiskWrite}}
		for c := range playedContainers {
			ref := uint32(200 + c)
			d.Entities = append(d.Entities, &probev1.Entity{
				Ref: ref, Id: topology.ProcessID(playedName(h), 1000+c, 1), Kind: topology.KindProcess, Label: fmt.Sprintf("app-%d", c),
				Parents: []string{playedID(h, c), topology.HostID(playedName(h))}, Attrs: []*probev1.Attr{{Key: topology.AttrPID, Value: fmt.Sprint(1000 + c)}},
			})
			for i := range m.Names {
				m.Refs, m.NameIndex, m.Values = append(m.Refs, ref), append(m.NameIndex, uint32(i)), append(m.Values, p.rng.Float32())
			}
		}
		p.tell(h, d)
		p.hear(h, &probev1.Frame{Metrics: m})
	}
}

func (p *played) end() {
	for h := range p.hosts {
		d := &probev1.Delta{}
		for c := range playedContainers {
			d.GoneEntities = append(d.GoneEntities, uint32(200+c))
		}
		p.tell(h, d)
	}
}

// sample gives a host's figures: eight of each container, which wander, and three of its own.
func (p *played) sample(h int) {
	m := &probev1.Metrics{AtMs: p.at, Names: []string{
		topology.MetricCPU, topology.MetricCPUCores, topology.MetricMem, topology.MetricMemUsed, topology.MetricNetRx, topology.MetricNetTx,
		topology.MetricDiskWrite, topology.MetricPids, topology.MetricLoad1,
	}}
	add := func(ref uint32, name int, v float64) {
		m.Refs, m.NameIndex, m.Values = append(m.Refs, ref), append(m.NameIndex, uint32(name)), append(m.Values, float32(v))
	}
	sum := 0.0
	for c := range playedContainers {
		l := max(0, min(100, p.load[h][c]+p.rng.NormFloat64()*3))
		p.load[h][c] = l
		sum += l
		for i, v := range []float64{l / 8, l / 100, 50e6 + l*1e6, 20 + l*0.7, l * 1000, l * 900, l * 10, 5} {
			add(uint32(2+c), i, v)
		}
	}
	add(1, 0, min(100, sum/8))
	add(1, 3, 30+sum/40)
	add(1, 8, sum/100)
	p.hear(h, &probev1.Frame{Metrics: m})
}

// churn lets one connection of every host go, and another come.
func (p *played) churn(second int) {
	hosts := make([]int, p.hosts)
	for h := range hosts {
		hosts[h] = h
	}
	if p.shuffled {
		p.rng.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	}
	for _, h := range hosts {
		e := p.edge(h, 0, second)
		p.tell(h, &probev1.Delta{Edges: []*probev1.Edge{e}, GoneEdges: []uint32{p.moving[h]}})
		p.moving[h] = e.Ref
	}
}

// play lets so many seconds pass.
func (p *played) play(seconds int, churn bool) {
	for s := range seconds {
		p.at += 1000
		for h := range p.hosts {
			if (h+s)%15 == 0 {
				p.sample(h)
			}
		}
		if churn {
			p.churn(s)
		}
		p.hub.flush()
	}
}

// live is what is in use on the heap.
func live() float64 {
	runtime.GC()
	runtime.GC() // what the first one's finalizers and pools let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// BenchmarkHour plays an hour of MONITOR_BENCH_HOSTS hosts (default 100) and tells what the memory goes to.
func BenchmarkHour(b *testing.B) {
	hosts := 100
	if n, err := strconv.Atoi(os.Getenv("MONITOR_BENCH_HOSTS")); err == nil && n > 0 {
		hosts = n
	}
	for b.Loop() {
		p := newPlayed(b, hosts)
		was := live()
		step := func(what string, f func(), per int, unit string) {
			f()
			now := live()
			b.Logf("%-44s %7.1f MB, %8.0f bytes a %s", what, (now-was)/1e6, (now-was)/float64(per), unit)
			was = now
		}
		first := was
		containers := hosts * playedContainers
		step("hosts and containers", func() { p.appear(); p.hub.flush() }, containers, "container")
		step("connections", func() { p.connect(); p.hub.flush() }, containers*(playedConnections+1), "connection")
		step("processes, with one sample each", func() { p.run(); p.hub.flush() }, containers, "process")
		step("they end", func() { p.end(); p.hub.flush() }, containers, "process")
		series := hosts * (8*playedContainers + 3)
		step("half an hour of figures", func() { p.play(1800, false) }, series, "series")
		step("an hour of figures", func() { p.play(1830, false) }, series, "series")
		p.hub.onFlush = p.recorder.Record
		step("half an hour of replay", func() { p.play(1800, true) }, 1800*hosts, "connection that came and went")
		step("an hour of replay", func() { p.play(1800, true) }, 1800*hosts, "connection that came and went")
		step("another quarter of an hour", func() { p.play(900, true) }, 900*hosts, "connection that came and went")
		began, took := time.Now(), 0
		if past, ok := p.recorder.At(p.at - 1800_000); ok {
			took = past.Reader().EdgeCount()
		}
		b.Logf("%-44s %7.0f ms for %d connections, %.1f MB kept", "half an hour ago", time.Since(began).Seconds()*1000, took, float64(p.recorder.Size())/1e6)
		v, err := p.hub.open(view.Spec{View: "containers", Group: "none", Metric: topology.MetricCPU, Flows: true}, make(chan struct{}, 1))
		if err != nil {
			b.Fatal(err)
		}
		step("a page that shows everything", func() { p.play(5, true); v.next(0) }, containers, "container")
		b.ReportMetric((was-first)/1e6, "MB")
		runtime.KeepAlive(p)
		runtime.KeepAlive(v)
	}
}

// What an hour of ten hosts may take, with a connection of each that is another every second. Pointers, where there are bytes now, took
// 10 MB.
func TestAnHourTakesLittle(t *testing.T) {
	was := live() // of the whole process: not beside others
	p := newPlayed(t, 10)
	p.hub.onFlush = p.recorder.Record
	p.appear()
	p.connect()
	p.play(3600, true)
	if took := live() - was; took > 5e6 {
		t.Errorf("an hour of ten hosts takes %.1f MB", took/1e6)
	} else {
		t.Logf("%.1f MB", took/1e6)
	}
	past, ok := p.recorder.At(p.at - 1800_000)
	if !ok || past.Reader().EdgeCount() != p.edges() {
		t.Errorf("half an hour ago is recorded: %v", ok)
	}
}

// In whatever order probes are heard, a recording takes about the same. Written as they came, shuffled changes took 1.45 times as much.
func TestARecordingDoesNotGrowWithDisorder(t *testing.T) {
	t.Parallel()
	size := func(shuffled bool) int {
		p := newPlayed(t, 50)
		p.shuffled = shuffled
		p.hub.onFlush = p.recorder.Record
		p.appear()
		p.connect()
		p.play(10, true)
		first := p.recorder.Size()
		p.play(120, true) // within one part
		return p.recorder.Size() - first
	}
	tidy, shuffled := size(false), size(true)
	t.Logf("%d bytes in order, %d shuffled", tidy, shuffled)
	if shuffled > tidy*6/5 {
		t.Errorf("%d bytes in order, but %d shuffled", tidy, shuffled)
	}
}

func (p *played) edges() (n int) {
	p.estate.Read(func(r *estate.Reader) { n = r.EdgeCount() })
	return n
}
