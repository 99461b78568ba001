package probe

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// box is a container as the host knows it in this round.
type box struct {
	ref   containerRef
	id    string // entity id
	info  *containerInfo
	procs []*process
	first *process // lowest pid: its first process
	addrs []netip.Addr
	netns uint64
	ownNS bool
	// passed: it has come and gone unseen.
	passed *passed
}

// picture is the host in one round, before it is made into entities.
type picture struct {
	hostID string
	boxes  map[string]*box // by runtime id
	order  []*box
	byNS   map[uint64]*box // a namespace of its own: its container
	rootNS uint64
	byCg   map[uint64]*box
}

// box finds or makes a container; nil when there are too many.
func (pic *picture) box(ref containerRef, hostname string) *box {
	b := pic.boxes[ref.id]
	if b == nil && len(pic.boxes) < maxContainers {
		b = &box{ref: ref, id: topology.ContainerID(hostname, ref.id)}
		pic.boxes[ref.id] = b
		pic.order = append(pic.order, b)
	}
	return b
}

// look joins the process table with what runtimes told.
func (p *Probe) look(now time.Time, tables ...map[string]*containerInfo) *picture {
	pic := &picture{hostID: topology.HostID(p.cfg.Hostname), boxes: map[string]*box{}, byNS: map[uint64]*box{}, byCg: map[uint64]*box{}}
	pic.rootNS = p.table.rootNetns(p.ns.own)
	get := func(ref containerRef) *box { return pic.box(ref, p.cfg.Hostname) }
	p.table.named = p.namedContainers()
	for _, table := range tables { // the first that knows a container tells of it
		for _, info := range table {
			if b := get(info.ref); b != nil && b.info == nil {
				b.info = info
			}
		}
	}
	for _, pid := range p.table.pids() {
		proc := p.table.byPid[pid]
		if proc.container.id == "" && len(p.table.named) > 0 { // its runtime may have told only after it was read
			proc.container = inNamed(proc.cgroups().paths, p.table.named)
		}
		if proc.container.id == "" {
			continue
		}
		b := get(proc.container)
		if b == nil {
			continue
		}
		if b.first == nil {
			b.first = proc
			b.netns = proc.netns
			b.ownNS = proc.netns != 0 && proc.netns != pic.rootNS
		}
		if proc.container.pod != "" {
			b.ref.pod = proc.container.pod
		}
		b.procs = append(b.procs, proc)
		if b.ownNS && pic.byNS[proc.netns] == nil && proc.netns != pic.rootNS {
			pic.byNS[proc.netns] = b
		}
		if g := proc.cgroups(); g.inode != 0 && g.paths[""] != "/" {
			pic.byCg[g.inode] = b
		}
	}
	p.addPassing(pic, now.UnixMilli())
	for _, b := range pic.order {
		if b.info == nil && (b.ref.runtime == "podman" || b.ref.runtime == "cri-o") {
			b.info = p.stored.of(b.ref, now)
		}
	}
	for ns, held := range p.ns.held {
		if b := pic.byNS[ns]; b != nil {
			b.addrs = held.addrs
		}
	}
	sort.Slice(pic.order, func(i, j int) bool { return pic.order[i].id < pic.order[j].id })
	return pic
}

// world makes the picture into what flows ask.
func (p *Probe) world(pic *picture) *world {
	w := &world{hostID: pic.hostID, rootNS: pic.rootNS, addrs: map[netip.Addr]uint64{}}
	twice := map[netip.Addr]bool{}
	for ns, held := range p.ns.held {
		for _, a := range held.addrs {
			if was, ok := w.addrs[a]; ok && was != ns {
				twice[a] = true
			}
			w.addrs[a] = ns
		}
	}
	for a := range twice {
		delete(w.addrs, a)
	}
	p.passedAddrs(func(a netip.Addr, place uint64) {
		if _, taken := w.addrs[a]; !taken && !twice[a] {
			w.addrs[a] = place
		}
	})
	w.nsEntity = func(ns uint64) string {
		if b := pic.byNS[ns]; b != nil {
			return b.id
		}
		return pic.hostID
	}
	w.ownerOf = func(s *socket) string {
		if proc := p.owners.of(s, p.table); proc != nil {
			return p.processID(proc)
		}
		if b := pic.byCg[s.cgroup]; s.cgroup != 0 && b != nil {
			return b.id
		}
		return w.nsEntity(s.netns)
	}
	w.eventNS = func(e *netEvent) uint64 {
		if e.netns != 0 {
			return e.netns
		}
		if ns, ok := w.addrs[e.local.Addr()]; ok {
			return ns
		}
		if proc := p.table.byPid[e.pid]; proc != nil && e.pid != 0 && proc.netns != 0 {
			return proc.netns
		}
		if b := pic.byCg[e.cgroup]; e.cgroup != 0 && b != nil && b.netns != 0 {
			return b.netns
		}
		return pic.rootNS
	}
	w.byEvent = func(e *netEvent) string {
		if proc := p.table.byPid[e.pid]; proc != nil && e.pid != 0 {
			return p.processID(proc)
		}
		if b := pic.byCg[e.cgroup]; e.cgroup != 0 && b != nil {
			return b.id
		}
		if b := pic.boxes[e.container]; e.container != "" && b != nil {
			return b.id
		}
		return w.nsEntity(e.netns)
	}
	return w
}

func (p *Probe) processID(proc *process) string {
	if proc.told.id == "" {
		proc.told.id = topology.ProcessID(p.cfg.Hostname, proc.pid, proc.start)
	}
	return proc.told.id
}

// attrs collects attributes and leaves out empty ones.
type attrs []*probev1.Attr

func (a *attrs) add(key, value string) {
	if value != "" && len(*a) < topology.MaxAttrs {
		*a = append(*a, &probev1.Attr{Key: key, Value: topology.Clean(value, topology.MaxAttrValue)})
	}
}

func (a *attrs) int(key string, v int64) {
	if v != 0 {
		a.add(key, strconv.FormatInt(v, 10))
	}
}

func joinAddrs(list []netip.Addr) string {
	var b strings.Builder
	for i, a := range list[:min(len(list), 200)] {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(a.String())
	}
	return b.String()
}

func (p *Probe) hostEntity(pic *picture) *probev1.Entity {
	var a attrs
	var addrs []netip.Addr
	if ns := p.ns.held[pic.rootNS]; ns != nil {
		addrs = slices.Clone(ns.addrs)
		slices.SortFunc(addrs, netip.Addr.Compare)
	}
	a.add(topology.AttrAddrs, joinAddrs(addrs))
	a.int(topology.AttrCPUs, int64(p.host.cores))
	a.add("kernel", p.kernel)
	a.add("os", p.osName)
	a.int("memory", p.memTotal)
	e := &probev1.Entity{
		Id: pic.hostID, Kind: topology.KindHost, Label: p.cfg.Hostname, State: topology.StateRunning, StartedMs: p.table.bootMs, Attrs: a,
	}
	if p.cfg.allowed(PolicyHostExec) {
		e.Controls = append(e.Controls, "host-exec")
	}
	return e
}

// containerEntity describes one container.
func (p *Probe) containerEntity(pic *picture, b *box) *probev1.Entity {
	e := &probev1.Entity{Id: b.id, Kind: topology.KindContainer, Label: topology.ShortID(b.ref.id), State: topology.StateRunning, Parents: []string{pic.hostID}}
	var a attrs
	a.add(topology.AttrContainerID, b.ref.id)
	a.add(topology.AttrRuntime, b.ref.runtime)
	addrs := b.addrs
	var labels, env map[string]string
	if c := b.info; c != nil {
		e.Label, e.State, e.ExitCode = cmp.Or(c.name, e.Label), c.state, int32(c.exitCode)
		e.StartedMs = c.startedMs
		if e.StartedMs == 0 && b.first != nil {
			e.StartedMs = p.table.startedMs(b.first)
		}
		labels, env = c.labels, c.env
		if len(addrs) == 0 {
			addrs = c.addrs
		}
		a.add(topology.AttrName, c.name)
		a.add(topology.AttrImage, c.image)
		a.add(topology.AttrHostname, c.hostname)
		a.add("command", topology.MaskCommand(c.command))
		a.int("created", c.createdMs)
		if c.state != topology.StateRunning {
			a.int("finished", c.finishedMs)
		}
		a.int("restarts", int64(c.restarts))
		a.add("restart_policy", c.restart)
		a.add("health_check", c.health)
		a.add("network", c.networkMode)
		if c.networkMode == "host" {
			a.add(topology.AttrHostNetwork, "1")
		}
		ports := make([]string, 0, len(c.ports))
		for _, m := range c.ports {
			ports = append(ports, fmt.Sprintf("%s>%d/%s", netip.AddrPortFrom(m.hostAddr, m.hostPort), m.containerPort, proto(m.udp)))
		}
		sort.Strings(ports)
		a.add("ports", strings.Join(ports, " "))
		if c.image != "" {
			e.Parents = append(e.Parents, topology.ID(topology.KindImage, c.image))
		}
		if c.engine {
			e.Controls = append(e.Controls, p.dockerControls(c)...)
		} else {
			e.Controls = append(e.Controls, p.runtimeControls(c)...)
			if b.first != nil {
				for _, c := range p.kernelControls() {
					if !slices.Contains(e.Controls, c) {
						e.Controls = append(e.Controls, c)
					}
				}
			}
		}
		e.Reasons = append(e.Reasons, dockerReasons(c)...)
	} else {
		if b.first != nil {
			e.StartedMs = p.table.startedMs(b.first)
		}
		e.Controls = append(e.Controls, p.kernelControls()...)
		if b.passed != nil {
			e.State, e.Controls = topology.StateExited, nil
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	a.add(topology.AttrAddrs, joinAddrs(addrs))
	p.belongs(e, &a, b, labels, env)
	keys := make([]string, 0, len(labels))
	for k := range labels {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		v := labels[k]
		if topology.SecretKey(k) {
			v = topology.Mask
		}
		a.add(topology.AttrLabel+k, v)
	}
	if isSystem(labels, b) {
		a.add(topology.AttrSystem, "1")
	}
	e.Attrs = a
	return e
}

func proto(udp bool) string {
	if udp {
		return "udp"
	}
	return "tcp"
}

func isSystem(labels map[string]string, b *box) bool {
	if b.info != nil && b.info.system || labels["io.kubernetes.docker.type"] == "podsandbox" || labels["io.kubernetes.pod.namespace"] == "kube-system" {
		return true
	}
	return b.info != nil && (strings.Contains(b.info.image, "/pause:") || strings.HasPrefix(b.info.image, "pause:"))
}

// belongs joins the container with what orchestrators made it for.
func (p *Probe) belongs(e *probev1.Entity, a *attrs, b *box, labels, env map[string]string) {
	parent := func(kind string, parts ...string) {
		for _, s := range parts {
			if s == "" {
				return
			}
		}
		if id := topology.ID(kind, parts...); !slices.Contains(e.Parents, id) {
			e.Parents = append(e.Parents, id)
		}
	}
	if name := labels["io.kubernetes.container.name"]; name != "" {
		e.Label = name
	}
	pod := cmp.Or(labels["io.kubernetes.pod.uid"], b.ref.pod)
	parent(topology.KindPod, pod)
	parent(topology.KindNamespace, labels["io.kubernetes.pod.namespace"])
	a.add("pod_name", labels["io.kubernetes.pod.name"])
	task, framework, app := env["MESOS_TASK_ID"], env["MESOS_FRAMEWORK_ID"], env["MARATHON_APP_ID"]
	agent := cmp.Or(env["MESOS_AGENT_ID"], env["MESOS_SLAVE_ID"])
	if m := p.mesosTask(b); m != nil {
		task, framework, agent = cmp.Or(task, m.task), cmp.Or(framework, m.framework), cmp.Or(agent, m.agent)
		app = cmp.Or(app, m.app)
		if b.info == nil {
			e.Label = cmp.Or(m.name, m.task, e.Label)
		}
		a.add("sandbox", m.sandbox)
	}
	if app == "" && task != "" {
		app = marathonApp(task)
	}
	parent(topology.KindTask, task)
	parent(topology.KindFramework, framework)
	parent(topology.KindAgent, agent)
	parent(topology.KindApp, app)
	a.add(topology.AttrTask, task)
	a.add(topology.AttrApp, app)
	a.add("compose_project", labels["com.docker.compose.project"])
	if s := cmp.Or(labels["com.docker.swarm.service.name"], labels["com.docker.compose.service"]); s != "" {
		parent(topology.KindService, cmp.Or(labels["com.docker.compose.project"], "swarm"), s)
	}
}

// marathonApp reads an app's id out of a Marathon task id: "a_b.<instance uuid>" and its later forms.
func marathonApp(task string) string {
	i := strings.IndexByte(task, '.')
	if i <= 0 || len(task)-i < 30 {
		return ""
	}
	return "/" + strings.ReplaceAll(task[:i], "_", "/")
}

// toldProcess is what has been told of a process, and of what it was made: as long as that does not change, the same is told again.
type toldProcess struct {
	id                 string
	entity             *probev1.Entity
	comm, cmdline, box string
	ppid               int
	uid                uint32
}

// processEntity describes one process. It must not be changed.
func (p *Probe) processEntity(pic *picture, proc *process) *probev1.Entity {
	id, box := p.processID(proc), ""
	if b := pic.boxes[proc.container.id]; proc.container.id != "" && b != nil {
		box = b.id
	}
	was := &proc.told
	if was.entity != nil && was.comm == proc.comm && was.cmdline == proc.cmdline && was.box == box && was.ppid == proc.ppid && was.uid == proc.uid {
		return was.entity
	}
	e := &probev1.Entity{Id: id, Kind: topology.KindProcess, Label: proc.comm, StartedMs: p.table.startedMs(proc)}
	if box != "" {
		e.Parents = append(e.Parents, box)
	}
	e.Parents = append(e.Parents, pic.hostID)
	var a attrs
	a.int(topology.AttrPID, int64(proc.pid))
	a.int(topology.AttrPPID, int64(proc.ppid))
	a.add(topology.AttrCmdline, proc.cmdline)
	a.add("user", p.userName(proc.uid))
	e.Attrs = a
	if p.cfg.allowed(PolicyLifecycle) {
		e.Controls = []string{"signal"}
	}
	proc.told = toldProcess{id, e, proc.comm, proc.cmdline, box, proc.ppid, proc.uid}
	return e
}

// choose picks the processes that are sent: those with connections, then the first of each container, then the busiest.
func (p *Probe) choose(pic *picture, edges []edge, listeners []listenerKey) []*process {
	need := map[string]bool{}
	for i := range edges {
		need[edges[i].key.src], need[edges[i].key.dst] = true, true
	}
	for i := range listeners {
		need[listeners[i].entity] = true
	}
	type ranked struct {
		p    *process
		rank int
	}
	var list []ranked
	for _, proc := range p.table.byPid {
		if proc.kernel {
			continue
		}
		r := ranked{proc, 2}
		if need[p.processID(proc)] {
			r.rank = 0
		} else if b := pic.boxes[proc.container.id]; proc.container.id != "" && b != nil && b.first == proc {
			r.rank = 1
		}
		list = append(list, r)
	}
	limit := p.cfg.MaxProcesses
	if len(list) > limit {
		slices.SortFunc(list, func(a, b ranked) int {
			// Rounded, so that the choice does not change with every tick.
			return cmp.Or(cmp.Compare(a.rank, b.rank), -cmp.Compare(int(a.p.cores*10), int(b.p.cores*10)),
				-cmp.Compare(a.p.rss>>24, b.p.rss>>24), cmp.Compare(a.p.pid, b.p.pid))
		})
		list = list[:limit]
	}
	out := make([]*process, len(list))
	for i := range list {
		out[i] = list[i].p
	}
	return out
}

// assemble makes everything that is known into one round.
func (p *Probe) assemble(now time.Time, pic *picture, edges []edge, listeners []listenerKey) *round {
	r := &round{at: now.UnixMilli(), edges: edges, listeners: listeners}
	r.entities = append(r.entities, p.hostEntity(pic))
	for _, b := range pic.order {
		if b.info == nil && len(b.procs) == 0 && b.passed == nil {
			continue
		}
		r.entities = append(r.entities, p.containerEntity(pic, b))
		if b.info == nil {
			continue
		}
		for _, m := range b.info.ports {
			addr := ""
			if m.hostAddr.IsValid() && !m.hostAddr.IsUnspecified() {
				addr = string(m.hostAddr.Unmap().AsSlice())
			}
			r.listeners = append(r.listeners, listenerKey{entity: b.id, addr: addr, port: m.hostPort, udp: m.udp})
		}
	}
	for _, proc := range p.choose(pic, edges, listeners) {
		r.entities = append(r.entities, p.processEntity(pic, proc))
	}
	if p.kube != nil {
		r.entities = append(r.entities, *p.kube.entities.Load()...)
	}
	if p.plugins != nil {
		p.plugins.decorate(r, now, p.cfg.allowed(PolicyPlugins))
	}
	return r
}
