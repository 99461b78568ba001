package core

import (
	"fmt"
	"strconv"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// bridgeNetwork is the CNI network that container/bridge means with the Mesos containerizer.
const bridgeNetwork = "mesos-bridge"

// builder turns a spec and an offer into what Mesos launches.
type builder struct {
	m     *Machine
	spec  *spec.Spec
	inst  *Instance
	offer *mesosv1.Offer
	purse *purse
	roles []string
	own   []*mesosv1.Resource // reserved for this instance already
}

func (b *builder) build() (*placement, []Reason, string) {
	if b.spec.Pod != nil {
		return b.pod()
	}
	return b.app()
}

// amounts takes what a container asks for. It reports everything that lacks, so that one look tells what would help.
func (b *builder) amounts(r spec.Resources) (out []*mesosv1.Resource, why []Reason, detail string) {
	for _, x := range []struct {
		name   string
		amount float64
		reason Reason
	}{
		{"cpus", r.CPUs, InsufficientCPUs}, {"mem", r.Mem, InsufficientMemory}, {"disk", r.Disk, InsufficientDisk}, {"gpus", float64(r.GPUs), InsufficientGPUs},
	} {
		left := b.purse.left(x.name, b.roles)
		got, ok := b.purse.scalar(x.name, x.amount, b.roles)
		if !ok {
			why = append(why, x.reason)
			if detail == "" {
				detail = fmt.Sprintf("%s needs %s of %s, the offer has %s left for it", b.spec.ID, decimal(x.amount), x.name, decimal(left))
			}
			continue
		}
		out = append(out, got...)
	}
	return out, why, detail
}

// left is how much of a resource could still be taken.
func (p *purse) left(name string, roles []string) float64 {
	sum := int64(0)
	for _, i := range p.order(name, roles) {
		sum += p.lots[i].left
	}
	return float64(sum) / 1000
}

// hostPorts takes the ports that are wanted on the host; 0 means any.
func (b *builder) hostPorts(want []int) (got []int, res []*mesosv1.Resource, ok bool) {
	var lots []int
	got = make([]int, len(want))
	// Those that must be one certain port come first, so that no other takes it by chance.
	for pass := range 2 {
		for k, w := range want {
			if (w == 0) == (pass == 0) {
				continue
			}
			port, lot, ok := b.purse.port(w, b.roles, b.m.intn)
			if !ok {
				return nil, nil, false
			}
			got[k] = port
			lots = append(lots, lot)
		}
	}
	ordered := make([]int, 0, len(got))
	for pass := range 2 {
		for k, w := range want {
			if (w == 0) != (pass == 0) {
				ordered = append(ordered, got[k])
			}
		}
	}
	return got, b.purse.portResources(ordered, lots), true
}

func (b *builder) app() (*placement, []Reason, string) {
	a := b.spec.App
	pl := &placement{inst: b.inst}
	var res []*mesosv1.Resource
	var why []Reason
	detail := ""
	if b.own != nil {
		res = b.own
	} else {
		res, why, detail = b.amounts(b.spec.Total())
	}
	var execRes []*mesosv1.Resource
	if a.ExecutorResources != nil && b.executor() != "" {
		var w []Reason
		if execRes, w, detail = b.amounts(*a.ExecutorResources); len(w) > 0 {
			why = append(why, w...)
		}
	}
	ports := a.Ports()
	var want []int
	for _, p := range ports {
		if p.HostPort != nil {
			want = append(want, *p.HostPort)
		}
	}
	host, portRes, ok := b.hostPorts(want)
	if !ok {
		why = append(why, InsufficientPorts)
		if detail == "" {
			detail = fmt.Sprintf("%s needs the host ports %v (0: any)", b.spec.ID, want)
		}
	}
	if len(why) > 0 {
		return nil, why, detail
	}
	if b.spec.Resident() && b.own == nil {
		if res, why, detail = b.reserve(pl, res, appVolumes(a)); len(why) > 0 {
			return nil, why, detail
		}
	}
	res = append(res, portRes...)
	id := taskIDs(b.inst, b.spec)[0]
	b.inst.Tasks = []Task{{ID: id, State: mesosv1.TaskState_TASK_STAGING.String(), Condition: Provisioned, StagedAt: b.m.stamp(), HostPorts: host}}
	t := &mesosv1.TaskInfo{
		Name: new(spec.DiscoveryName(a.ID)), TaskId: &mesosv1.TaskID{Value: &id}, AgentId: b.offer.GetAgentId(), Resources: res,
		Labels: labels(a.Labels), Discovery: b.discovery(ports, host),
	}
	cmd := b.command(id, ports, host)
	t.Container = b.container(id, ports, host)
	if path := b.executor(); path != "" {
		t.Executor = b.customExecutor(id, path, cmd, execRes)
		t.Data = []byte(a.Cmd)
	} else {
		t.Command = cmd
	}
	if a.TaskKillGracePeriodSeconds != nil {
		n := int64(*a.TaskKillGracePeriodSeconds) * 1e9
		t.KillPolicy = &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: &n}}
	}
	for k := range a.HealthChecks {
		if h := &a.HealthChecks[k]; h.OnAgent() {
			t.HealthCheck = b.healthCheck(h, ports, host)
		}
	}
	if a.Check != nil {
		t.Check = b.check(a.Check, func(index *int) uint32 { return b.checkPort(index, ports, host) })
	}
	t.Limits = limits(a.ResourceLimits)
	pl.task = t
	return pl, nil, ""
}

func (b *builder) executor() string {
	path := b.spec.App.Executor
	if path == "" {
		path = b.m.opt.Executor
	}
	if path == "//cmd" {
		return ""
	}
	return path
}

func (b *builder) customExecutor(task, path string, cmd *mesosv1.CommandInfo, res []*mesosv1.Resource) *mesosv1.ExecutorInfo {
	kind := mesosv1.ExecutorInfo_CUSTOM
	line := "chmod ug+rx '" + path + "' && exec '" + path + "'"
	if b.spec.App.Cmd != "" {
		line += " " + b.spec.App.Cmd
	}
	for _, a := range b.spec.App.Args {
		line += " " + a
	}
	c := &mesosv1.CommandInfo{Shell: new(true), Value: &line, Uris: cmd.GetUris(), Environment: cmd.GetEnvironment(), User: cmd.User}
	return &mesosv1.ExecutorInfo{
		Type: &kind, ExecutorId: &mesosv1.ExecutorID{Value: new("marathon-" + task)}, Command: c, Resources: res,
		Name: new(spec.DiscoveryName(b.spec.ID)), Source: &task,
	}
}

func labels(m map[string]string) *mesosv1.Labels {
	if len(m) == 0 {
		return nil
	}
	out := &mesosv1.Labels{}
	for _, k := range sortedKeys(m) {
		out.Labels = append(out.Labels, &mesosv1.Label{Key: new(k), Value: new(m[k])})
	}
	return out
}

func limits(l *spec.ResourceLimits) map[string]*mesosv1.Value_Scalar {
	if l == nil {
		return nil
	}
	out := map[string]*mesosv1.Value_Scalar{}
	for name, v := range map[string]*spec.Limit{"cpus": l.CPUs, "mem": l.Mem} {
		if v == nil {
			continue
		}
		x := v.Value
		if v.Unlimited {
			x = inf
		}
		out[name] = &mesosv1.Value_Scalar{Value: &x}
	}
	return out
}

// command is what the task runs, with its environment.
func (b *builder) command(task string, ports []spec.Port, host []int) *mesosv1.CommandInfo {
	a := b.spec.App
	c := &mesosv1.CommandInfo{Shell: new(a.Cmd != ""), Uris: uris(a.Fetch), Environment: environment(b.appEnv(task, ports, host), a.Env, a.Secrets)}
	if a.Cmd != "" {
		c.Value = new(a.Cmd)
	} else {
		c.Arguments = a.Args
		if len(a.Args) > 0 && (a.Container == nil || a.Container.Docker == nil) {
			c.Value = new(a.Args[0])
		}
	}
	if user := b.user(a.User); user != "" {
		c.User = &user
	}
	return c
}

func (b *builder) user(own string) string {
	if own != "" {
		return own
	}
	return b.m.opt.User
}

func uris(list []spec.Artifact) []*mesosv1.CommandInfo_URI {
	var out []*mesosv1.CommandInfo_URI
	for _, f := range list {
		u := &mesosv1.CommandInfo_URI{Value: new(f.URI), Extract: new(f.Extract), Executable: new(f.Executable), Cache: new(f.Cache)}
		if f.DestPath != "" {
			u.OutputFile = new(f.DestPath)
		}
		out = append(out, u)
	}
	return out
}

// environment joins what this framework sets with the user's own, which wins.
func environment(ours map[string]string, users map[string]spec.EnvVar, secrets map[string]spec.Secret) *mesosv1.Environment {
	out := &mesosv1.Environment{}
	value, secret := mesosv1.Environment_Variable_VALUE, mesosv1.Environment_Variable_SECRET
	for _, k := range sortedKeys(ours) {
		if _, ok := users[k]; !ok {
			out.Variables = append(out.Variables, &mesosv1.Environment_Variable{Name: new(k), Type: &value, Value: new(ours[k])})
		}
	}
	for _, k := range sortedKeys(users) {
		v := users[k]
		if v.Secret == "" {
			out.Variables = append(out.Variables, &mesosv1.Environment_Variable{Name: new(k), Type: &value, Value: new(v.Value)})
			continue
		}
		out.Variables = append(out.Variables, &mesosv1.Environment_Variable{Name: new(k), Type: &secret, Secret: secretRef(secrets[v.Secret].Source)})
	}
	return out
}

func secretRef(source string) *mesosv1.Secret {
	kind := mesosv1.Secret_REFERENCE
	return &mesosv1.Secret{Type: &kind, Reference: &mesosv1.Secret_Reference{Name: new(source)}}
}

// amount is a number as Marathon writes it into the environment: always with a fraction.
func amount(f float64) string {
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// maxLabelEnv is the longest label value that becomes an environment variable.
const maxLabelEnv = 512

func (b *builder) appEnv(task string, ports []spec.Port, host []int) map[string]string {
	a := b.spec.App
	env := map[string]string{
		"MESOS_TASK_ID": task, "MARATHON_APP_ID": a.ID, "MARATHON_APP_VERSION": b.spec.Version.String(),
		"MARATHON_APP_RESOURCE_CPUS": amount(a.CPUs), "MARATHON_APP_RESOURCE_MEM": amount(a.Mem),
		"MARATHON_APP_RESOURCE_DISK": amount(a.Disk), "MARATHON_APP_RESOURCE_GPUS": strconv.Itoa(a.GPUs),
	}
	if a.Container != nil && a.Container.Docker != nil {
		env["MARATHON_APP_DOCKER_IMAGE"] = a.Container.Docker.Image
	}
	var keys []string
	for _, k := range sortedKeys(a.Labels) {
		if len(a.Labels[k]) < maxLabelEnv {
			name := envName(k)
			keys = append(keys, name)
			env["MARATHON_APP_LABEL_"+name] = a.Labels[k]
		}
	}
	env["MARATHON_APP_LABELS"] = strings.Join(keys, " ")
	if top := spec.TopGroup(a.ID); top != "" {
		if g := b.m.root.Group(top); g != nil {
			env["MARATHON_APP_ENFORCE_GROUP_ROLE"] = strconv.FormatBool(g.EnforceRole)
		}
	}
	env[b.m.opt.EnvPrefix+"HOST"] = b.offer.GetHostname()
	b.portEnv(env, ports, host)
	return env
}

// envName makes the name of a variable: upper case, anything else than letters, digits and "_" is "_".
func envName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, s)
}

// portEnv sets PORT, PORTS, PORT0…, and each port by its number and its name.
func (b *builder) portEnv(env map[string]string, ports []spec.Port, host []int) {
	numbers := effectivePorts(ports, host)
	var all []string
	prefix := b.m.opt.EnvPrefix
	for k, p := range ports {
		n := strconv.Itoa(numbers[k])
		all = append(all, n)
		env[fmt.Sprintf("%sPORT%d", prefix, k)] = n
		switch {
		case p.ContainerPort != 0:
			env[fmt.Sprintf("%sPORT_%d", prefix, p.ContainerPort)] = n
		case b.spec.App.HostNetworking() && p.ServicePort != 0:
			env[fmt.Sprintf("%sPORT_%d", prefix, p.ServicePort)] = n
		}
		if p.Name != "" {
			env[prefix+"PORT_"+envName(p.Name)] = n
		}
	}
	if len(all) > 0 {
		env[prefix+"PORT"] = all[0]
		env[prefix+"PORTS"] = strings.Join(all, ",")
	}
}

// effectivePorts are the numbers under which each port is known: the host's where there is one, else the container's.
func effectivePorts(ports []spec.Port, host []int) []int {
	out := make([]int, len(ports))
	at := 0
	for k, p := range ports {
		if p.HostPort == nil {
			out[k] = p.ContainerPort
			continue
		}
		if at < len(host) {
			out[k] = host[at]
		}
		at++
	}
	return out
}

// containerPorts are the numbers inside the container: one that isn't given is that of the host.
func containerPorts(ports []spec.Port, host []int) []int {
	out := effectivePorts(ports, host)
	for k, p := range ports {
		if p.ContainerPort != 0 {
			out[k] = p.ContainerPort
		}
	}
	return out
}

// discovery tells Mesos-DNS and others the name and the ports: one entry for each protocol.
func (b *builder) discovery(ports []spec.Port, host []int) *mesosv1.DiscoveryInfo {
	vis := mesosv1.DiscoveryInfo_FRAMEWORK
	d := &mesosv1.DiscoveryInfo{Visibility: &vis, Name: new(spec.DiscoveryName(b.spec.ID)), Ports: &mesosv1.Ports{}}
	numbers := effectivePorts(ports, host)
	for k, p := range ports {
		scope := map[string]string{}
		for x, v := range p.Labels {
			scope[x] = v
		}
		if p.HostPort != nil {
			scope["network-scope"] = "host"
		} else {
			scope["network-scope"] = "container"
			if len(p.NetworkNames) > 0 {
				scope["network-name"] = p.NetworkNames[0]
			} else if n := b.networks(); len(n) == 1 && n[0].Name != "" {
				scope["network-name"] = n[0].Name
			}
		}
		for proto := range strings.SplitSeq(p.Protocol, ",") {
			d.Ports.Ports = append(d.Ports.Ports, &mesosv1.Port{Number: new(uint32(numbers[k])), Name: optional(p.Name), Protocol: new(proto), Labels: labels(scope)})
		}
	}
	return d
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (b *builder) networks() []spec.Network {
	if b.spec.Pod != nil {
		return b.spec.Pod.Networks
	}
	return b.spec.App.Networks
}

func (b *builder) checkPort(index *int, ports []spec.Port, host []int) uint32 {
	n := 0
	if index != nil {
		n = *index
	}
	numbers := containerPorts(ports, host)
	if n >= len(numbers) {
		return 0
	}
	return uint32(numbers[n])
}

func (b *builder) healthCheck(h *spec.HealthCheck, ports []spec.Port, host []int) *mesosv1.HealthCheck {
	out := &mesosv1.HealthCheck{
		DelaySeconds: new(float64(h.DelaySeconds)), IntervalSeconds: new(float64(h.IntervalSeconds)), TimeoutSeconds: new(float64(h.TimeoutSeconds)),
		ConsecutiveFailures: new(uint32(h.MaxConsecutiveFailures)), GracePeriodSeconds: new(float64(h.GracePeriodSeconds)),
	}
	var proto *mesosv1.NetworkInfo_Protocol
	if h.IPProtocol == "IPv6" {
		proto = new(mesosv1.NetworkInfo_IPv6)
	}
	port := b.checkPort(h.PortIndex, ports, host)
	if h.Port != nil {
		port = uint32(*h.Port)
	}
	switch h.Protocol {
	case spec.ProtocolCommand:
		out.Type = new(mesosv1.HealthCheck_COMMAND)
		out.Command = &mesosv1.CommandInfo{Shell: new(true), Value: new(h.Command.Value)}
	case spec.ProtocolMesosTCP:
		out.Type = new(mesosv1.HealthCheck_TCP)
		out.Tcp = &mesosv1.HealthCheck_TCPCheckInfo{Port: &port, Protocol: proto}
	default:
		scheme := "http"
		if h.Protocol == spec.ProtocolMesosHTTPS {
			scheme = "https"
		}
		out.Type = new(mesosv1.HealthCheck_HTTP)
		out.Http = &mesosv1.HealthCheck_HTTPCheckInfo{Scheme: &scheme, Port: &port, Path: optional(h.Path), Protocol: proto}
	}
	return out
}

func (b *builder) check(c *spec.Check, port func(*int) uint32) *mesosv1.CheckInfo {
	out := &mesosv1.CheckInfo{DelaySeconds: new(float64(c.DelaySeconds)), IntervalSeconds: new(float64(c.IntervalSeconds)), TimeoutSeconds: new(float64(c.TimeoutSeconds))}
	switch {
	case c.HTTP != nil:
		p := port(c.HTTP.PortIndex)
		if c.HTTP.Port != nil {
			p = uint32(*c.HTTP.Port)
		}
		out.Type, out.Http = new(mesosv1.CheckInfo_HTTP), &mesosv1.CheckInfo_Http{Port: &p, Path: optional(c.HTTP.Path)}
	case c.TCP != nil:
		p := port(c.TCP.PortIndex)
		if c.TCP.Port != nil {
			p = uint32(*c.TCP.Port)
		}
		out.Type, out.Tcp = new(mesosv1.CheckInfo_TCP), &mesosv1.CheckInfo_Tcp{Port: &p}
	case c.Exec != nil:
		out.Type, out.Command = new(mesosv1.CheckInfo_COMMAND), &mesosv1.CheckInfo_Command{Command: execCommand(c.Exec)}
	}
	return out
}

func execCommand(e *spec.Exec) *mesosv1.CommandInfo {
	if e.Command.Shell != "" {
		return &mesosv1.CommandInfo{Shell: new(true), Value: new(e.Command.Shell)}
	}
	c := &mesosv1.CommandInfo{Shell: new(false), Arguments: e.Command.Argv}
	if len(e.Command.Argv) > 0 {
		c.Value = new(e.Command.Argv[0])
	}
	return c
}
