package core

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// pod builds a task group under the default executor.
func (b *builder) pod() (*placement, []Reason, string) {
	p := b.spec.Pod
	pl := &placement{inst: b.inst}
	execRes, why, detail := b.amounts(p.ExecutorResources)
	perContainer := make([][]*mesosv1.Resource, len(p.Containers))
	for k := range p.Containers {
		res, w, d := b.amounts(p.Containers[k].Resources)
		why = append(why, w...)
		if detail == "" {
			detail = d
		}
		perContainer[k] = res
	}
	var want []int
	var owner []int
	for k := range p.Containers {
		for _, e := range p.Containers[k].Endpoints {
			if e.HostPort != nil {
				want = append(want, *e.HostPort)
				owner = append(owner, k)
			}
		}
	}
	host, portRes, ok := b.hostPorts(want)
	if !ok {
		why = append(why, InsufficientPorts)
		if detail == "" {
			detail = fmt.Sprintf("%s needs the host ports %v (0: any)", p.ID, want)
		}
	}
	if len(why) > 0 {
		return nil, slices.Compact(why), detail
	}
	if b.spec.Resident() {
		vols := b.own
		if b.own == nil {
			var w []Reason
			var d string
			if vols, w, d = b.reserve(pl, nil, podVolumes(p)); len(w) > 0 {
				return nil, w, d
			}
		}
		execRes = append(execRes, vols...)
	}
	// Host ports belong to the executor: its network is the pod's.
	execRes = append(execRes, portRes...)

	b.inst.Tasks = nil
	ids := taskIDs(b.inst, b.spec)
	kind := mesosv1.ExecutorInfo_DEFAULT
	execID := "instance-" + spec.SafeID(p.ID) + "." + b.inst.ID[strings.LastIndex(b.inst.ID, ".instance-")+len(".instance-"):]
	executor := &mesosv1.ExecutorInfo{
		Type: &kind, ExecutorId: &mesosv1.ExecutorID{Value: &execID}, FrameworkId: &mesosv1.FrameworkID{Value: new(b.m.frameworkID)},
		Resources: execRes, Labels: labels(p.Labels), Name: new(spec.DiscoveryName(p.ID)),
	}
	executor.Container = b.podContainerInfo(host)
	group := &mesosv1.TaskGroupInfo{}
	at := 0
	for k := range p.Containers {
		c := &p.Containers[k]
		var own []int
		for at < len(owner) && owner[at] == k {
			own = append(own, host[at])
			at++
		}
		b.inst.Tasks = append(b.inst.Tasks, Task{ID: ids[k], Container: c.Name, State: mesosv1.TaskState_TASK_STAGING.String(), Condition: Provisioned, StagedAt: b.m.stamp(), HostPorts: own})
	}
	for k := range p.Containers {
		group.Tasks = append(group.Tasks, b.podTask(k, ids[k], perContainer[k]))
	}
	op := mesosv1.Offer_Operation_LAUNCH_GROUP
	pl.group = &mesosv1.Offer_Operation{Type: &op, LaunchGroup: &mesosv1.Offer_Operation_LaunchGroup{Executor: executor, TaskGroup: group}}
	return pl, nil, ""
}

// podContainerInfo gives the executor the pod's network and volumes.
func (b *builder) podContainerInfo(host []int) *mesosv1.ContainerInfo {
	p := b.spec.Pod
	c := &mesosv1.ContainerInfo{Type: new(mesosv1.ContainerInfo_MESOS), LinuxInfo: linuxInfo(p.LinuxInfo, nil)}
	if !p.HostNetworking() {
		var ports []spec.Port
		for k := range p.Containers {
			for _, e := range p.Containers[k].Endpoints {
				ports = append(ports, endpointPort(&e))
			}
		}
		c.NetworkInfos = networkInfos(p.Networks, ports, host, containerPorts(ports, host))
	}
	if c.NetworkInfos == nil && c.LinuxInfo == nil {
		return nil
	}
	return c
}

func endpointPort(e *spec.Endpoint) spec.Port {
	p := spec.Port{Name: e.Name, Protocol: strings.Join(e.Protocol, ","), Labels: e.Labels, HostPort: e.HostPort, NetworkNames: e.NetworkNames}
	if e.ContainerPort != nil {
		p.ContainerPort = *e.ContainerPort
	}
	return p
}

func (b *builder) podTask(k int, id string, res []*mesosv1.Resource) *mesosv1.TaskInfo {
	p := b.spec.Pod
	c := &p.Containers[k]
	var ports []spec.Port
	for n := range c.Endpoints {
		ports = append(ports, endpointPort(&c.Endpoints[n]))
	}
	host := b.inst.Tasks[k].HostPorts
	t := &mesosv1.TaskInfo{
		Name: new(c.Name), TaskId: &mesosv1.TaskID{Value: &id}, AgentId: b.offer.GetAgentId(), Resources: res, Labels: labels(c.Labels),
		Limits: limits(c.ResourceLimits), Discovery: b.discovery(ports, host),
	}
	t.Discovery.Name = new(c.Name + "." + spec.DiscoveryName(p.ID))
	cmd := &mesosv1.CommandInfo{Shell: new(false)}
	if c.Exec != nil {
		cmd = execCommand(c.Exec)
	}
	cmd.Uris = uris(c.Artifacts)
	users := maps.Clone(p.Environment)
	if users == nil {
		users = map[string]spec.EnvVar{}
	}
	maps.Copy(users, c.Environment)
	cmd.Environment = environment(b.podEnv(k, id), users, p.Secrets)
	user := c.User
	if user == "" {
		user = p.User
	}
	if user = b.user(user); user != "" {
		cmd.User = &user
	}
	t.Command = cmd
	t.Container = b.podTaskContainer(c)
	if l := c.Lifecycle; l != nil && l.KillGracePeriodSeconds != nil {
		t.KillPolicy = &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: new(int64(*l.KillGracePeriodSeconds * 1e9))}}
	}
	port := func(name string) uint32 {
		numbers := containerPorts(ports, host)
		for n := range c.Endpoints {
			if c.Endpoints[n].Name == name && n < len(numbers) {
				return uint32(numbers[n])
			}
		}
		return 0
	}
	if h := c.HealthCheck; h != nil {
		out := &mesosv1.HealthCheck{
			DelaySeconds: new(float64(h.DelaySeconds)), IntervalSeconds: new(float64(h.IntervalSeconds)), TimeoutSeconds: new(float64(h.TimeoutSeconds)),
			ConsecutiveFailures: new(uint32(h.MaxConsecutiveFailures)), GracePeriodSeconds: new(float64(h.GracePeriodSeconds)),
		}
		switch {
		case h.HTTP != nil:
			scheme := "http"
			if strings.EqualFold(h.HTTP.Scheme, "https") {
				scheme = "https"
			}
			out.Type = new(mesosv1.HealthCheck_HTTP)
			out.Http = &mesosv1.HealthCheck_HTTPCheckInfo{Scheme: &scheme, Port: new(port(h.HTTP.Endpoint)), Path: optional(h.HTTP.Path)}
		case h.TCP != nil:
			out.Type, out.Tcp = new(mesosv1.HealthCheck_TCP), &mesosv1.HealthCheck_TCPCheckInfo{Port: new(port(h.TCP.Endpoint))}
		case h.Exec != nil:
			out.Type, out.Command = new(mesosv1.HealthCheck_COMMAND), execCommand(h.Exec)
		}
		t.HealthCheck = out
	}
	if c.Check != nil {
		name := ""
		if c.Check.HTTP != nil {
			name = c.Check.HTTP.Endpoint
		} else if c.Check.TCP != nil {
			name = c.Check.TCP.Endpoint
		}
		t.Check = b.check(c.Check, func(*int) uint32 { return port(name) })
	}
	return t
}

func (b *builder) podTaskContainer(c *spec.PodContainer) *mesosv1.ContainerInfo {
	p := b.spec.Pod
	var share *bool
	if p.LegacySharedCgroups != nil {
		share = p.LegacySharedCgroups
	}
	out := &mesosv1.ContainerInfo{Type: new(mesosv1.ContainerInfo_MESOS), LinuxInfo: linuxInfo(c.LinuxInfo, share)}
	if c.Image != nil {
		out.Mesos = &mesosv1.ContainerInfo_MesosInfo{Image: image(c.Image.ID, c.Image.ForcePull, c.Image.PullConfig, p.Secrets)}
	}
	if c.TTY != nil && *c.TTY {
		out.TtyInfo = &mesosv1.TTYInfo{}
	}
	for _, mnt := range c.VolumeMounts {
		at := slices.IndexFunc(p.Volumes, func(v spec.PodVolume) bool { return v.Name == mnt.Name })
		if at < 0 {
			continue
		}
		v := &mesosv1.Volume{Mode: mode("RW"), ContainerPath: new(mnt.MountPath)}
		if mnt.ReadOnly {
			v.Mode = mode("RO")
		}
		switch pv := p.Volumes[at]; {
		case pv.Host != "":
			v.HostPath = new(pv.Host)
		case pv.Secret != "":
			v.Source = &mesosv1.Volume_Source{Type: new(mesosv1.Volume_Source_SECRET), Secret: secretRef(p.Secrets[pv.Secret].Source)}
		default:
			// Ephemeral and persistent volumes lie in the executor's sandbox.
			v.Source = &mesosv1.Volume_Source{
				Type:        new(mesosv1.Volume_Source_SANDBOX_PATH),
				SandboxPath: &mesosv1.Volume_Source_SandboxPath{Type: new(mesosv1.Volume_Source_SandboxPath_PARENT), Path: new(pv.Name)},
			}
		}
		out.Volumes = append(out.Volumes, v)
	}
	if out.LinuxInfo == nil && out.Mesos == nil && out.TtyInfo == nil && out.Volumes == nil {
		return nil
	}
	return out
}

func (b *builder) podEnv(k int, task string) map[string]string {
	p := b.spec.Pod
	c := &p.Containers[k]
	env := map[string]string{
		"MESOS_TASK_ID": task, "MARATHON_APP_ID": p.ID, "MARATHON_APP_VERSION": b.spec.Version.String(),
		"MARATHON_APP_RESOURCE_CPUS": amount(c.Resources.CPUs), "MARATHON_APP_RESOURCE_MEM": amount(c.Resources.Mem),
		"MARATHON_APP_RESOURCE_DISK": amount(c.Resources.Disk), "MARATHON_APP_RESOURCE_GPUS": strconv.Itoa(c.Resources.GPUs),
		"MARATHON_CONTAINER_ID": c.Name, b.m.opt.EnvPrefix + "HOST": b.offer.GetHostname(),
	}
	if c.Image != nil {
		env["MARATHON_APP_DOCKER_IMAGE"] = c.Image.ID
	}
	all := maps.Clone(p.Labels)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, c.Labels)
	var names []string
	for _, x := range sortedKeys(all) {
		if len(all[x]) < maxLabelEnv {
			names = append(names, envName(x))
			env["MARATHON_APP_LABEL_"+envName(x)] = all[x]
		}
	}
	env["MARATHON_APP_LABELS"] = strings.Join(names, " ")
	// Every container sees the endpoints of all: they share the network.
	for n := range p.Containers {
		at := 0
		for _, e := range p.Containers[n].Endpoints {
			number := 0
			if e.ContainerPort != nil {
				number = *e.ContainerPort
			}
			if e.HostPort != nil && n < len(b.inst.Tasks) && at < len(b.inst.Tasks[n].HostPorts) {
				if number == 0 {
					number = b.inst.Tasks[n].HostPorts[at]
				}
				at++
			}
			env["ENDPOINT_"+envName(e.Name)] = strconv.Itoa(number)
		}
	}
	return env
}
