package probe

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/user"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
	"github.com/orchestrator/orchestrator/internal/version"
)

// Paces of the collectors, in ticks of one second; the governor stretches all of them.
const (
	procsEvery   = 3 * time.Second
	socketsEvery = 2 * time.Second
	// With events in between, dumps only have to set right what events can't know.
	socketsEveryWithEvents = 5 * time.Second
	ownersBudget           = 20 * time.Millisecond
	// socketsShare is the part of a core that dumps may take which events cause: on a host of many namespaces a dump is dear.
	socketsShare = 0.01
)

// Probe looks at one host.
type Probe struct {
	cfg   Config
	log   *slog.Logger
	codec *topology.Codec
	hub   *hub
	links []*link
	ready chan struct{}
	poke  chan struct{}
	// simulate runs instead of everything else when the configuration says so.
	simulate func(context.Context) error

	// Used by the owner goroutine only.
	table    *processTable
	roots    cgroupRoots
	ns       *namespaces
	owners   *owners
	flows    *flowTable
	host     *hostStat
	events   *eventSource
	nat      *natTable
	pic      *picture
	edges    []edge
	listen   []listenerKey
	passing  passing
	places   uint64 // how many of them had a network of their own
	sockets  int    // how many there were in the last round
	samples  map[string]cgroupSample
	users    map[uint32]string
	kernel   string
	osName   string
	memTotal int64
	next     struct{ procs, sockets, early, metrics time.Time }
	dirs     map[string]string
	governor governor
	budget   time.Duration // of one round's search for sockets' owners

	docker  *dockerWatch
	others  []*runtimeWatch
	stored  *storedNames
	mesos   *mesosWatch
	plugins *pluginWatch
	kube    *kubeWatch

	metricsMs atomic.Uint32
	mu        sync.Mutex
	watched   map[*link][]string
	states    map[string]collectorState
	stuck     atomic.Int64 // when the running round began, ms; 0 when none runs
}

// New checks the configuration and prepares the collectors. It opens no listener.
func New(cfg Config, deps Deps) (*Probe, error) {
	cfg.defaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log := deps.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Probe{
		cfg: cfg, log: log, codec: topology.NewCodec(), ready: make(chan struct{}), poke: make(chan struct{}, 1),
		samples: map[string]cgroupSample{}, passing: passing{}, users: map[uint32]string{}, watched: map[*link][]string{},
		states: map[string]collectorState{}, dirs: map[string]string{}, budget: ownersBudget,
	}
	p.metricsMs.Store(5000)
	if cfg.Simulate != nil {
		p.simulate = func(ctx context.Context) error { return runSimulation(ctx, &p.cfg, deps, log, p.ready) }
		return p, nil
	}
	p.hub = newHub(p.codec)
	if err := p.prepare(); err != nil {
		return nil, err
	}
	identity := linkIdentity{probeID: cfg.ID, instance: randomID(), hostname: cfg.Hostname, version: version.Version, policy: cfg.Policy}
	for _, m := range cfg.Monitors {
		u, err := monitorURL(m)
		if err != nil {
			return nil, err
		}
		l := newLink(u, &cfg, deps, log, p.hub, p.codec, identity)
		l.serve = p.serve
		l.status = p.status
		l.welcomed = p.setMetricsInterval
		l.watching = func(ids []string) {
			p.mu.Lock()
			p.watched[l] = ids[:min(len(ids), 200)]
			p.mu.Unlock()
		}
		p.links = append(p.links, l)
	}
	return p, nil
}

func newLink(url string, cfg *Config, deps Deps, log *slog.Logger, h *hub, codec *topology.Codec, identity linkIdentity) *link {
	return &link{
		url: url, token: cfg.token, tls: cfg.TLS, dial: deps.Dial, log: log, hub: h, codec: codec, identity: identity,
		fresh: make(chan struct{}, 1), welcomed: func(uint32) {}, watching: func([]string) {},
		status: func() *probev1.Status { return nil },
		serve: func(context.Context, *probev1.Request, *pipe.Pipe) *probev1.Response {
			return &probev1.Response{Code: "not_found", Message: "this probe does nothing on request"}
		},
	}
}

// token gives the secret, from its file at every call, so that it can be changed without a restart.
func (c *Config) token() (string, error) {
	if c.TokenFile == "" {
		return c.Token, nil
	}
	b, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return "", fmt.Errorf("read the probe's token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func randomID() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (p *Probe) prepare() error {
	var err error
	if p.table, err = newProcessTable(p.cfg.ProcRoot); err != nil {
		return err
	}
	if p.roots, err = findCgroupRoots(p.cfg.ProcRoot); err != nil {
		p.setState("cgroups", "off", err.Error())
	}
	p.table.v2 = p.roots.v2
	p.ns = newNamespaces(p.cfg.ProcRoot, p.cfg.NetSource)
	p.owners = newOwners(p.cfg.ProcRoot)
	p.flows = newFlowTable()
	p.host = newHostStat(p.cfg.ProcRoot, p.cfg.SysRoot)
	if p.cfg.DockerSocket != "" {
		p.docker = newDockerWatch(p.cfg.DockerSocket, p.wake)
	}
	p.stored = newStoredNames(storageDir)
	for _, socket := range p.cfg.RuntimeSockets {
		p.others = append(p.others, newRuntimeWatch(socket, p.wake))
	}
	if len(p.cfg.MesosAgents) > 0 {
		p.mesos = newMesosWatch(p.cfg.MesosAgents, p.wake)
	}
	if p.cfg.PluginsDir != "" {
		p.plugins = newPluginWatch(p.cfg.PluginsDir, p.cfg.ID, p.cfg.Hostname, p.cfg.PluginsTimeout, p.wake)
	}
	if p.cfg.Kubernetes != KubernetesOff {
		if p.kube, err = newKubeWatch(&p.cfg, p.wake); err != nil {
			return err
		}
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		p.kernel = unix.ByteSliceToString(uts.Release[:])
	}
	if b, err := os.ReadFile("/etc/os-release"); err == nil {
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
				p.osName = strings.Trim(strings.TrimSpace(v), `"`)
			}
		}
	}
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		p.memTotal = int64(si.Totalram * uint64(si.Unit))
	}
	return nil
}

// Ready is closed when the first picture is there.
func (p *Probe) Ready() <-chan struct{} { return p.ready }

func (p *Probe) wake() {
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

// Run looks at the host until ctx ends.
func (p *Probe) Run(ctx context.Context) error {
	if p.simulate != nil {
		return p.simulate(ctx)
	}
	g, ctx := errgroup.WithContext(ctx)
	p.startEvents()
	defer p.stopEvents()
	defer p.ns.close()
	for _, l := range p.links {
		g.Go(func() error { return l.run(ctx) })
	}
	if p.docker != nil {
		g.Go(func() error { p.docker.run(ctx); return nil })
	}
	for _, w := range p.others {
		g.Go(func() error { w.run(ctx); return nil })
	}
	if p.mesos != nil {
		g.Go(func() error { p.mesos.run(ctx); return nil })
	}
	if p.kube != nil {
		g.Go(func() error { p.kube.run(ctx); return nil })
	}
	if p.plugins != nil {
		g.Go(func() error { p.plugins.run(ctx); return nil })
	}
	g.Go(func() error { return p.loop(ctx) })
	return g.Wait()
}

// pokeDelay lets the events of one happening (die, stop, network disconnect) arrive together.
const pokeDelay = 50 * time.Millisecond

func (p *Probe) loop(ctx context.Context) error {
	tick := time.NewTicker(p.cfg.Tick)
	defer tick.Stop()
	first := true
	for {
		forced := false
		if !first {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			case <-p.poke:
				forced = true
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(pokeDelay):
				}
				select {
				case <-p.poke:
				default:
				}
			}
		}
		now := time.Now()
		p.stuck.Store(now.UnixMilli())
		p.tick(now, forced)
		p.stuck.Store(0)
		if first {
			first = false
			close(p.ready)
		}
	}
}

// step runs one collector: a panic in it degrades it, and nothing else.
func (p *Probe) step(name string, f func() error) {
	defer func() {
		if r := recover(); r != nil {
			p.log.Error("collector panicked", "collector", name, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			p.setState(name, "failed", fmt.Sprintf("internal error: %v", r))
		}
	}()
	if err := f(); err != nil {
		p.setState(name, "failed", err.Error())
	}
}

func (p *Probe) tick(now time.Time, forced bool) {
	p.governor.observe(now, p.cfg.CPULimit)
	stretch := p.governor.stretch
	if forced || !now.Before(p.next.procs) || p.cgroupsChanged() {
		p.next.procs = now.Add(time.Duration(float64(procsEvery) * stretch))
		p.step("processes", func() error { return p.readProcesses(now) })
	}
	var told []map[string]*containerInfo
	if p.docker != nil {
		told = append(told, p.docker.containers())
	}
	for _, w := range p.others {
		told = append(told, w.containers())
	}
	p.step("containers", func() error {
		p.pic = p.look(now, told...)
		p.setState("containers", "ok", "")
		return nil
	})
	if p.pic == nil {
		return
	}
	if !now.Before(p.next.sockets) {
		every := socketsEvery
		if p.events != nil {
			every = socketsEveryWithEvents
		}
		p.next.sockets = now.Add(time.Duration(float64(every) * stretch))
		p.step("net", func() error { return p.readSockets(now) })
	} else if p.events != nil && p.events.pending() && !now.Before(p.next.early) {
		p.step("net", func() error { return p.readSockets(now) })
	}
	p.step("assemble", func() error {
		r := p.assemble(now, p.pic, p.edges, p.listen)
		return p.hub.apply(r)
	})
	steady := !now.Before(p.next.metrics)
	if steady {
		p.next.metrics = now.Add(time.Duration(p.metricsMs.Load()) * time.Millisecond)
	}
	p.step("metrics", func() error { return p.sendMetrics(now, steady) })
}

func (p *Probe) readProcesses(now time.Time) error {
	if err := p.table.scan(now); err != nil {
		return err
	}
	live := map[uint64]int{}
	for pid, proc := range p.table.byPid {
		if proc.netns == 0 || proc.kernel {
			continue
		}
		if was, ok := live[proc.netns]; !ok || pid < was {
			live[proc.netns] = pid
		}
	}
	p.ns.refresh(live, now)
	switch {
	case p.table.denied > 3: // a few are on their way out
		p.setState("processes", "degraded", "may not see the network of other users' processes: run the probe as root (or with CAP_SYS_PTRACE)")
	case p.table.capped > 0:
		p.setState("processes", "degraded", fmt.Sprintf("%d processes are not looked at: there are more than %d", p.table.capped, p.table.maxProcs))
	default:
		p.setState("processes", "ok", "")
	}
	p.watchDirs()
	return nil
}

func (p *Probe) readSockets(now time.Time) error {
	if p.cfg.NetSource == "none" {
		p.setState("net", "off", "--net-source=none")
		return nil
	}
	var sockets []socket
	source := ""
	var err error
	if p.cfg.NetSource != "ebpf" && p.cfg.NetSource != "conntrack" {
		if sockets, source, err = p.ns.sockets(make([]socket, 0, p.sockets+p.sockets/8)); err != nil {
			return err
		}
		p.sockets = len(sockets)
	}
	p.next.early = now.Add(time.Duration(float64(time.Since(now)) / socketsShare))
	p.owners.resolve(sockets, p.table, timeFor(p.budget))
	if p.events != nil {
		p.flows.events = p.events.take(p.flows.events)
		p.notePassing(p.flows.events, now.UnixMilli())
	}
	w := p.world(p.pic)
	w.events = p.events != nil
	p.readNAT(now)
	if p.nat != nil && p.cfg.NetSource == "conntrack" {
		p.flows.events = append(p.flows.events, p.nat.asEvents(w)...)
	}
	p.edges, p.listen = p.flows.update(now.UnixMilli(), sockets, w)
	switch {
	case p.ns.denied > 0:
		p.setState("net", "degraded", fmt.Sprintf("%d network namespaces may not be entered: their sockets are read from /proc without byte counts; run the probe as root (or with CAP_SYS_ADMIN and CAP_NET_ADMIN)", p.ns.denied))
	case p.owners.denied:
		p.setState("net", "degraded", "may not see who owns other users' sockets: run the probe as root (or with CAP_SYS_PTRACE)")
	case p.flows.dropped > 0 || p.flows.folded > 0:
		p.setState("net", "degraded", fmt.Sprintf("%d connections left out and %d folded together: this host has very many", p.flows.dropped, p.flows.folded))
	case source == "proc" && p.cfg.NetSource == "auto":
		p.setState("net", "degraded", "sock_diag does not answer: sockets are read from /proc without byte counts")
	default:
		p.setState("net", "ok", source)
	}
	return nil
}

func (p *Probe) userName(uid uint32) string {
	if name, ok := p.users[uid]; ok {
		return name
	}
	if len(p.users) > 10_000 {
		clear(p.users)
	}
	name := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	p.users[uid] = name
	return name
}

// watchDirs notes the directories in which containers' cgroups stand: a container that comes or goes changes one of them,
// which costs far less to look at than all processes.
func (p *Probe) watchDirs() {
	next := map[string]string{}
	add := func(root, path string, ref containerRef) {
		path = cutPath(path, ref)
		if i := strings.LastIndexByte(path, '/'); i >= 0 && len(next) < 256 {
			dir := root + path[:i]
			next[dir] = p.dirs[dir]
		}
	}
	for _, proc := range p.table.byPid {
		if proc.container.id == "" {
			continue
		}
		paths := proc.cgroups().paths
		if path := paths[""]; p.roots.v2 != "" && len(path) > 1 {
			add(p.roots.v2, path, proc.container)
		} else if path := paths["memory"]; len(path) > 1 {
			add(p.roots.v1["memory"], path, proc.container)
		}
	}
	for _, root := range []string{p.roots.v2, p.roots.v1["memory"]} {
		if root != "" {
			for _, name := range []string{"", "/docker", "/mesos", "/orchestrator", "/system.slice", "/kubepods", "/machine.slice"} {
				next[root+name] = p.dirs[root+name]
			}
		}
	}
	p.dirs = next
}

// cgroupsChanged reports whether a watched directory has other entries than before.
func (p *Probe) cgroupsChanged() bool {
	changed := false
	for dir, was := range p.dirs {
		now := "-"
		if d, err := os.Open(dir); err == nil {
			names, _ := d.Readdirnames(20_000)
			d.Close()
			names = slices.DeleteFunc(names, func(s string) bool {
				return strings.Contains(s, ".") && !strings.HasSuffix(s, ".scope") && !strings.HasSuffix(s, ".slice")
			})
			slices.Sort(names)
			now = strings.Join(names, "\n")
		} else if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, io.EOF) {
			continue
		}
		if was != now {
			p.dirs[dir] = now
			changed = changed || was != ""
		}
	}
	return changed
}

func (p *Probe) setState(name, state, message string) {
	p.mu.Lock()
	was, known := p.states[name]
	p.states[name] = collectorState{state, message}
	p.mu.Unlock()
	if (!known && state != "ok" || known && was.state != state) && state != "off" {
		p.log.Info("collector changed", "collector", name, "state", state, "detail", message)
	}
}

func (p *Probe) setMetricsInterval(ms uint32) {
	if ms >= 1000 && ms <= 60_000 {
		p.metricsMs.Store(ms)
	}
}

// stuckAfter is when a round that does not end is said to hang.
const stuckAfter = 10 * time.Second

// status is what the probe says of itself.
func (p *Probe) status() *probev1.Status {
	cpu, mem := p.governor.self()
	s := &probev1.Status{CpuPercent: float32(cpu), MemoryBytes: mem, IntervalMs: uint32(float64(p.cfg.Tick.Milliseconds()) * p.governor.current())}
	for _, l := range p.links {
		s.Dropped += l.dropped.Load()
	}
	p.mu.Lock()
	states := maps.Clone(p.states)
	p.mu.Unlock()
	if p.docker != nil {
		states["docker"] = *p.docker.state.Load()
	}
	for _, w := range p.others {
		states[w.name] = *w.state.Load()
	}
	if p.mesos != nil {
		states["mesos"] = *p.mesos.state.Load()
	}
	if p.kube != nil {
		states["kubernetes"] = *p.kube.state.Load()
	}
	if p.plugins != nil {
		states["plugins"] = *p.plugins.state.Load()
		s.Plugins = p.plugins.status()
	}
	if began := p.stuck.Load(); began > 0 && time.Now().UnixMilli()-began > stuckAfter.Milliseconds() {
		states["assemble"] = collectorState{"failed", fmt.Sprintf("a round has been running for %d s: the kernel does not answer", (time.Now().UnixMilli()-began)/1000)}
	}
	if f := p.governor.current(); f > 1 {
		states["governor"] = collectorState{"degraded", fmt.Sprintf("collectors run %.1f times slower to stay below %.0f %% of a core", f, p.cfg.CPULimit)}
	}
	names := slices.Sorted(maps.Keys(states))
	for _, n := range names {
		s.Collectors = append(s.Collectors, &probev1.Collector{Name: n, State: states[n].state, Message: states[n].message})
	}
	return s
}
