package report

import (
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/scope"
)

func (p *picture) host(n *scope.Node, shown *scope.Shown) {
	name := hostName(scope.Tagged(n.ID, "host"))
	if name == "" {
		p.left.Named++
		return
	}
	e := &probev1.Entity{Id: topology.HostID(name), Kind: topology.KindHost, Label: n.Value("host_name"), State: topology.StateRunning}
	h := &host{id: e.Id, addrs: map[netip.Addr]bool{}, owners: map[netip.Addr]string{}}
	var own []netip.Addr
	for _, text := range n.Sets["local_networks"] {
		// Scope writes each of its own addresses with the size of its network.
		x, err := netip.ParsePrefix(text)
		if err != nil || x.Addr().IsLoopback() || len(own) >= 200 || x.Addr() == x.Masked().Addr() && x.Bits() < x.Addr().BitLen()-1 {
			continue
		}
		own = append(own, x.Addr().Unmap())
		h.addrs[x.Addr().Unmap()] = true
	}
	p.hosts[name] = h
	e.StartedMs = p.since(e.Id, n.Value("uptime"))
	var a attrs
	a.add(topology.AttrAddrs, joinAddrs(own))
	a.add("kernel", n.Value("kernel_version"))
	a.add("os", n.Value("os"))
	a.add("scope_version", n.Value("host_scope_version"))
	p.figure(e, n, "host_cpu_usage_percent", topology.MetricCPU, nil)
	p.figure(e, n, "host_mem_usage_bytes", topology.MetricMem, nil)
	p.figure(e, n, "host_mem_usage_bytes", topology.MetricMemUsed, asShare)
	p.figure(e, n, "load1", topology.MetricLoad1, nil)
	p.put(e, n, shown, a)
}

func joinAddrs(list []netip.Addr) string {
	slices.SortFunc(list, netip.Addr.Compare)
	list = slices.Compact(list)
	var b strings.Builder
	for i, a := range list[:min(len(list), 200)] {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(a.String())
	}
	return b.String()
}

var reExitCode = regexp.MustCompile(`^Exited \((-?\d{1,6})\)`)

func (p *picture) container(n *scope.Node, shown *scope.Shown) {
	id, name := scope.Tagged(n.ID, "container"), p.hostOf(n)
	if hostName(id) == "" || name == "" {
		p.left.Named++
		return
	}
	e := &probev1.Entity{Id: topology.ContainerID(name, id), Kind: topology.KindContainer, Label: n.Value("docker_container_name"), Parents: []string{topology.HostID(name)}}
	label := func(key string) string { return n.Value("docker_label_" + key) }
	if e.Label == "" {
		e.Label = topology.ShortID(id)
	}
	e.State = strings.ToLower(topology.Printable(n.Value(keyState), 32))
	e.StartedMs = p.since(e.Id, n.Value("docker_container_uptime"))
	if m := reExitCode.FindStringSubmatch(n.Value("docker_container_state_human")); m != nil {
		code, _ := strconv.Atoi(m[1])
		e.ExitCode = int32(code)
	}
	var a attrs
	a.add(topology.AttrContainerID, id)
	a.add(topology.AttrRuntime, "docker")
	a.add(topology.AttrName, n.Value("docker_container_name"))
	image := n.Value("docker_image_name")
	tag := n.Value("docker_image_tag")
	if ids := n.Parents["container_image"]; image == "" && len(ids) > 0 {
		if i := p.s.nodes[scope.ContainerImage][ids[0]]; i != nil {
			image, tag = i.Value("docker_image_name"), i.Value("docker_image_tag")
		}
	}
	if image != "" {
		if tag != "" {
			image += ":" + tag
		}
		image = topology.Printable(image, 300)
		a.add(topology.AttrImage, image)
		e.Parents = append(e.Parents, topology.ID(topology.KindImage, image))
	}
	a.add(topology.AttrHostname, n.Value("docker_container_hostname"))
	a.add("command", topology.MaskCommand(strings.TrimSpace(n.Value("docker_container_command"))))
	if at, err := time.Parse(time.RFC3339Nano, n.Value("docker_container_created")); err == nil {
		a.add("created", strconv.FormatInt(at.UnixMilli(), 10))
	}
	if r := n.Value("docker_container_restart_count"); r != "0" {
		a.add("restarts", r)
	}
	mode := n.Value("docker_container_network_mode")
	a.add("network", mode)
	h := p.hosts[name]
	if n.Value("docker_is_in_host_network") == "true" || mode == "host" {
		a.add(topology.AttrHostNetwork, "1")
	} else {
		var own []netip.Addr
		for _, text := range n.Sets["docker_container_ips"] {
			if x, err := netip.ParseAddr(text); err == nil && !x.IsLoopback() && len(own) < 50 {
				x = x.Unmap()
				own = append(own, x)
				if h != nil {
					if was, ok := h.owners[x]; ok && was != e.Id {
						h.owners[x] = "" // a namespace that several share
					} else {
						h.owners[x] = e.Id
					}
				}
			}
		}
		a.add(topology.AttrAddrs, joinAddrs(own))
	}
	a.add("ports", p.published(e.Id, n.Sets["docker_container_ports"]))
	p.containerBelongs(e, &a, n, label)
	a.labels(n, "docker_label_")
	if label("io.kubernetes.docker.type") == "podsandbox" || label("io.kubernetes.pod.namespace") == "kube-system" || label("works.weave.role") == "system" {
		a.add(topology.AttrSystem, "1")
	}
	p.figure(e, n, "docker_cpu_total_usage", topology.MetricCPU, nil)
	p.figure(e, n, "docker_memory_usage", topology.MetricMem, nil)
	p.figure(e, n, "docker_memory_usage", topology.MetricMemLimit, asLimit)
	p.figure(e, n, "docker_memory_usage", topology.MetricMemUsed, asShare)
	p.containers[name+";"+id] = e.Id
	p.put(e, n, shown, a)
}

// containerBelongs joins a container with what orchestrators made it for. The environment is there only when its probe was told to send it.
func (p *picture) containerBelongs(e *probev1.Entity, a *attrs, n *scope.Node, label func(string) string) {
	parent := func(kind string, parts ...string) {
		for _, s := range parts {
			if s == "" || strings.Contains(s, ";") {
				return
			}
		}
		e.Parents = append(e.Parents, topology.ID(kind, parts...))
	}
	env := func(key string) string { return n.Value("docker_env_" + key) }
	if name := label("io.kubernetes.container.name"); name != "" {
		e.Label = name
	}
	pod := label("io.kubernetes.pod.uid")
	if ids := n.Parents["pod"]; pod == "" && len(ids) > 0 {
		pod = scope.Tagged(ids[0], "pod")
	}
	parent(topology.KindPod, pod)
	parent(topology.KindNamespace, label("io.kubernetes.pod.namespace"))
	a.add("pod_name", label("io.kubernetes.pod.name"))
	parent(topology.KindTask, env("MESOS_TASK_ID"))
	parent(topology.KindFramework, env("MESOS_FRAMEWORK_ID"))
	parent(topology.KindApp, env("MARATHON_APP_ID"))
	a.add(topology.AttrTask, env("MESOS_TASK_ID"))
	a.add(topology.AttrApp, env("MARATHON_APP_ID"))
	project := label("com.docker.compose.project")
	a.add("compose_project", project)
	switch {
	case label("com.docker.compose.service") != "":
		parent(topology.KindService, project, label("com.docker.compose.service"))
	case label("com.docker.swarm.service.name") != "":
		parent(topology.KindService, "swarm", label("com.docker.swarm.service.name"))
	}
}

// published reads ports in Scope's form, "10.0.0.1:8080->80/tcp", gives them in ours, and notes that the container answers there.
func (p *picture) published(container string, list []string) string {
	var out []string
	for _, text := range list {
		outer, inner, ok := strings.Cut(text, "->")
		at, err := netip.ParseAddrPort(outer)
		if !ok || err != nil || len(out) >= 100 {
			continue
		}
		port, proto, _ := strings.Cut(inner, "/")
		if _, err := strconv.ParseUint(port, 10, 16); err != nil || proto != "tcp" && proto != "udp" {
			continue
		}
		at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
		out = append(out, at.String()+">"+port+"/"+proto)
		p.answers(container, at, proto == "udp")
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (p *picture) process(n *scope.Node, shown *scope.Shown) {
	name, pid, _ := strings.Cut(n.ID, ";")
	number, err := strconv.ParseUint(pid, 10, 31)
	if hostName(name) == "" || err != nil || number == 0 {
		p.left.Named++
		return
	}
	if ppid := n.Value("ppid"); (pid == "2" || ppid == "2") && n.Value("cmdline") == "" {
		return // a thread of the kernel's
	}
	// Scope does not tell when a process began: a pid that is used again is the same to it.
	e := &probev1.Entity{Id: topology.ProcessID(name, int(number), 0), Kind: topology.KindProcess, Label: path.Base(n.Value("name")), Parents: []string{topology.HostID(name)}}
	container := n.Value("docker_container_id")
	if ids := n.Parents["container"]; container == "" && len(ids) > 0 {
		container = scope.Tagged(ids[0], "container")
	}
	if id := p.containers[name+";"+container]; id != "" {
		e.Parents = append(e.Parents, id)
	}
	var a attrs
	a.add(topology.AttrPID, pid)
	a.add(topology.AttrPPID, n.Value("ppid"))
	a.add(topology.AttrCmdline, topology.MaskCommand(n.Value("cmdline")))
	if t, err := strconv.ParseUint(n.Value("threads"), 10, 31); err == nil && p.current {
		p.samples = append(p.samples, sample{e.Id, topology.MetricThreads, float64(t)})
	}
	// Scope's percentage is of all processors' time, and so is ours.
	p.figure(e, n, "process_cpu_usage_percent", topology.MetricCPU, nil)
	p.figure(e, n, "process_memory_usage_bytes", topology.MetricMem, nil)
	p.figure(e, n, "open_files_count", topology.MetricFds, nil)
	p.procs[n.ID] = e.Id
	p.put(e, n, shown, a)
}
