package probe

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
	"github.com/orchestrator/orchestrator/internal/version"
)

// Simulation makes one process play many hosts, over the real encoder, stream and acknowledgements: only what the collectors
// would have found is made up. It is how monitors are measured and consoles are tried.
type Simulation struct {
	// Hosts, Containers (per host) and Connections (per container). Defaults 10, 10 and 5.
	Hosts, Containers, Connections int
	// Processes per container. Default 0.
	Processes int
	// Churn is how many connections of each host change every second. Default 0.
	Churn int
	// Seed makes the picture the same every time.
	Seed uint64
}

func (s *Simulation) defaults() {
	if s.Hosts == 0 {
		s.Hosts = 10
	}
	if s.Containers == 0 {
		s.Containers = 10
	}
	if s.Connections == 0 {
		s.Connections = 5
	}
}

// simulated is one host that is played.
type simulated struct {
	sim   *Simulation
	index int
	hub   *hub
	links []*link
	rng   *rand.Rand

	mu     sync.Mutex
	states []string
	load   []float64
	shift  int
	next   time.Time
	every  atomic.Int64 // metrics interval, ms
}

var simulatedApps = []string{"web", "api", "db", "cache", "queue", "search", "auth", "mail", "batch", "edge"}

func simulatedName(i int) string { return fmt.Sprintf("sim-%04d", i) }

// simulatedAddr gives each host an address of its own in 10/8.
func simulatedAddr(i int) string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 10<<24|uint32(i+1)<<8|1)
	return string(b[:])
}

func (h *simulated) containerID(i int) string {
	return topology.ContainerID(simulatedName(h.index), fmt.Sprintf("%012x", (h.index+1)*1_000_000+i))
}

// runSimulation plays all hosts until ctx ends.
func runSimulation(ctx context.Context, cfg *Config, deps Deps, log *slog.Logger, ready chan<- struct{}) error {
	sim := *cfg.Simulate
	sim.defaults()
	codec := topology.NewCodec()
	g, ctx := errgroup.WithContext(ctx)
	hosts := make([]*simulated, sim.Hosts)
	for i := range hosts {
		h := &simulated{sim: &sim, index: i, hub: newHub(codec), rng: rand.New(rand.NewPCG(sim.Seed, uint64(i)))}
		h.every.Store(15_000)
		h.next = time.Now().Add(time.Duration(h.rng.IntN(5000)) * time.Millisecond)
		for range sim.Containers {
			h.states = append(h.states, topology.StateRunning)
			h.load = append(h.load, 40*h.rng.Float64())
		}
		name := simulatedName(i)
		identity := linkIdentity{probeID: name, instance: randomID(), hostname: name, version: version.Version, policy: cfg.Policy}
		for _, m := range cfg.Monitors {
			u, err := monitorURL(m)
			if err != nil {
				return err
			}
			l := newLink(u, cfg, deps, log, h.hub, codec, identity)
			l.serve = h.serve
			l.welcomed = func(ms uint32) { h.every.Store(int64(max(ms, 1000))) }
			l.status = func() *probev1.Status {
				return &probev1.Status{IntervalMs: 1000, Collectors: []*probev1.Collector{{Name: "simulation", State: "ok"}}}
			}
			h.links = append(h.links, l)
		}
		if err := h.picture(time.Now()); err != nil {
			return err
		}
		hosts[i] = h
		for _, l := range h.links {
			g.Go(func() error { return l.run(ctx) })
		}
	}
	close(ready)
	g.Go(func() error {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case now := <-tick.C:
				for _, h := range hosts {
					if err := h.tick(now, codec); err != nil {
						return err
					}
				}
			}
		}
	})
	return g.Wait()
}

// picture puts the host's entities and edges together and gives them to its hub.
func (h *simulated) picture(now time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	name := simulatedName(h.index)
	hostID := topology.HostID(name)
	r := &round{at: now.UnixMilli()}
	addr := simulatedAddr(h.index)
	r.entities = append(r.entities, &probev1.Entity{
		Id: hostID, Kind: topology.KindHost, Label: name, State: topology.StateRunning, StartedMs: 1,
		Attrs: []*probev1.Attr{{Key: topology.AttrAddrs, Value: fmt.Sprintf("%d.%d.%d.%d", addr[0], addr[1], addr[2], addr[3])}, {Key: topology.AttrCPUs, Value: "8"}},
	})
	for i, state := range h.states {
		app := simulatedApps[(h.index+i)%len(simulatedApps)]
		e := &probev1.Entity{
			Id: h.containerID(i), Kind: topology.KindContainer, Label: fmt.Sprintf("%s.%d-%d", app, h.index, i), State: state, StartedMs: 1,
			Parents: []string{hostID, topology.ID(topology.KindImage, app+":1.0"), topology.ID(topology.KindApp, "/"+app)},
			Attrs: []*probev1.Attr{
				{Key: topology.AttrImage, Value: app + ":1.0"},
				{Key: topology.AttrRuntime, Value: "docker"},
				{Key: topology.AttrApp, Value: "/" + app},
				{Key: topology.AttrLabel + "app", Value: app},
				{Key: topology.AttrLabel + "tier", Value: []string{"front", "back"}[i%2]},
			},
			Controls: []string{"logs", "stop", "restart"},
		}
		if state == topology.StateExited {
			e.Controls, e.ExitCode = []string{"logs", "start"}, 0
		}
		r.entities = append(r.entities, e)
		r.listeners = append(r.listeners, listenerKey{entity: e.Id, port: uint16(8000 + i)})
		for j := range h.sim.Processes {
			r.entities = append(r.entities, &probev1.Entity{
				Id: topology.ProcessID(name, 1000+i*100+j, 1), Kind: topology.KindProcess, Label: app, Parents: []string{e.Id, hostID},
				Attrs: []*probev1.Attr{{Key: topology.AttrPID, Value: fmt.Sprint(1000 + i*100 + j)}},
			})
		}
	}
	h.edges(r)
	return h.hub.apply(r)
}

// edges makes each container talk to others: a few that everything uses, the rest anywhere. Both halves are sent, as two
// real probes would.
func (h *simulated) edges(r *round) {
	n := h.sim.Hosts
	for i, state := range h.states {
		if state != topology.StateRunning {
			continue
		}
		for j := range h.sim.Connections {
			shift := 0
			if c := i*h.sim.Connections + j; h.sim.Churn > 0 && c < h.sim.Churn {
				shift = h.shift
			}
			to := (h.index*7 + i*13 + j*29 + 1 + shift) % n
			port := uint16(8000 + (i+j+1)%h.sim.Containers)
			r.edges = append(r.edges, edge{key: edgeKey{src: h.containerID(i), remote: simulatedAddr(to), port: port}, conns: uint32(1 + (i+j)%5), seen: 1})
		}
	}
	// The server halves of what others' client halves say, worked out backwards would need all hosts; one per container is
	// what a real server shows after its clients are folded by host.
	for i := range h.states {
		from := (h.index + i + 1) % n
		r.edges = append(r.edges, edge{key: edgeKey{dst: h.containerID(i), remote: simulatedAddr(from), port: uint16(8000 + i)}, conns: 1, seen: 2})
	}
}

func (h *simulated) tick(now time.Time, codec *topology.Codec) error {
	if h.sim.Churn > 0 {
		h.mu.Lock()
		h.shift++
		h.mu.Unlock()
		if err := h.picture(now); err != nil {
			return err
		}
	}
	if now.Before(h.next) {
		return nil
	}
	h.next = now.Add(time.Duration(h.every.Load()) * time.Millisecond)
	b := newBatch(h.hub, now.UnixMilli(), false)
	h.mu.Lock()
	var sum float64
	for i := range h.states {
		if h.states[i] != topology.StateRunning {
			continue
		}
		h.load[i] = max(0, min(100, h.load[i]+h.rng.NormFloat64()*3))
		sum += h.load[i] / 8
		ref := b.ref(h.containerID(i))
		b.add(ref, topology.MetricCPU, h.load[i]/8)
		b.add(ref, topology.MetricCPUCores, h.load[i]/100)
		b.add(ref, topology.MetricMem, 50e6+h.load[i]*1e6)
		b.add(ref, topology.MetricMemUsed, 20+h.load[i]*0.7)
		b.add(ref, topology.MetricNetRx, h.load[i]*1000)
		b.add(ref, topology.MetricNetTx, h.load[i]*900)
		b.add(ref, topology.MetricDiskWrite, h.load[i]*10)
		b.add(ref, topology.MetricPids, 5)
	}
	h.mu.Unlock()
	ref := b.ref(topology.HostID(simulatedName(h.index)))
	b.add(ref, topology.MetricCPU, min(100, sum))
	b.add(ref, topology.MetricMemUsed, 30+sum/4)
	b.add(ref, topology.MetricLoad1, sum/12)
	data, err := codec.Encode(nil, &probev1.Frame{Metrics: b.m})
	if err != nil {
		return err
	}
	for _, l := range h.links {
		if l.up.Load() {
			l.offer(data)
		}
	}
	return nil
}

// serve plays the controls that change a container's state, and a log.
func (h *simulated) serve(ctx context.Context, req *probev1.Request, s *pipe.Pipe) *probev1.Response {
	var to string
	switch req.Verb {
	case "stop":
		to = topology.StateExited
	case "start", "restart":
		to = topology.StateRunning
	case "logs":
		if s != nil {
			line := time.Now().UTC().Format(time.RFC3339Nano) + " simulated container: nothing to say\n"
			_ = s.Send(ctx, pipe.Stdout, []byte(line))
		}
		return &probev1.Response{}
	default:
		return &probev1.Response{Code: "not_found", Message: "a simulated probe knows stop, start, restart and logs"}
	}
	h.mu.Lock()
	found := false
	for i := range h.states {
		if h.containerID(i) == req.Node {
			h.states[i], found = to, true
		}
	}
	h.mu.Unlock()
	if !found {
		return &probev1.Response{Code: "not_found", Message: "no such container"}
	}
	if err := h.picture(time.Now()); err != nil {
		return failure(err)
	}
	return &probev1.Response{Body: []byte(`{"message":"done"}`)}
}
