package spec

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
)

// Bounds on counts, far above what any real definition holds, so that no document can make matching or emission slow.
const (
	maxInstances   = 10_000_000
	maxSeconds     = math.MaxInt32
	maxConstraints = 200
	maxListed      = 1000
	maxAmount      = 1e12
)

// Settings are the parts of the service's configuration that reading and placing definitions depends on.
type Settings struct {
	DefaultNetworkName string   // for container networks that give no name
	Role               string   // the framework's own role
	Features           []string // enabled features: vips, task_killing, external_volumes, secrets, gpu_resources
	PortMin, PortMax   int      // service ports are assigned from [PortMin, PortMax)
	MaxApps            int      // 0: no bound
	EnforceTopRole     bool     // new top-level groups enforce their name as role
}

func (s *Settings) feature(name string) bool { return slices.Contains(s.Features, name) }

func toObject(v any) (Object, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	x, err := Decode(b)
	if err != nil {
		return nil, err
	}
	return x.(Object), nil
}

// ReadApp makes an app of a decoded document: old forms are translated, defaults filled in, everything validated that can
// be without the other definitions. base is the group that relative ids refer to, path what precedes the paths of problems.
func ReadApp(v any, path, base string, s *Settings) (*App, error) {
	o, err := CanonicalApp(v, path)
	if err != nil {
		return nil, err
	}
	var p problems
	r := reader{path: path, o: o, p: &p}
	a := readApp(r, base)
	if err := p.err(MessageInvalidJSON); err != nil {
		return nil, err
	}
	appDefaults(a, r, s)
	validateApp(a, r, s)
	return a, p.err(MessageInvalidObject)
}

func readApp(r reader, base string) *App {
	a := &App{
		Cmd: r.str("cmd", ""), Args: r.strings("args"), AcceptedResourceRoles: r.strings("acceptedResourceRoles"),
		BackoffFactor: r.float("backoffFactor", 1.15, 1, maxAmount), BackoffSeconds: r.float("backoffSeconds", 1, 0, maxSeconds),
		MaxLaunchDelaySeconds: r.float("maxLaunchDelaySeconds", 300, 0, maxSeconds),
		CPUs:                  r.float("cpus", 1, 0, maxAmount), Mem: r.float("mem", 128, 0, maxAmount), Disk: r.float("disk", 0, 0, maxAmount),
		GPUs: r.integer("gpus", 0, 0, maxInstances), Instances: r.integer("instances", 1, 0, maxInstances),
		Executor: r.str("executor", ""), User: r.str("user", ""), Role: r.str("role", ""),
		KillSelection: r.enum("killSelection", YoungestFirst, YoungestFirst, OldestFirst),
		Labels:        r.stringMap("labels"), Env: readEnv(r, "env"), Secrets: readSecrets(r),
		RequirePorts: r.boolean("requirePorts", false), TaskKillGracePeriodSeconds: r.intPtr("taskKillGracePeriodSeconds", 0, maxSeconds),
	}
	if r.has("id") {
		a.ID = resolveRunSpec(r.str("id", ""), base)
	} else {
		r.missing("id")
	}
	if r.has("tty") {
		tty := r.boolean("tty", false)
		a.TTY = &tty
	}
	for _, d := range r.strings("dependencies") {
		a.Dependencies = append(a.Dependencies, Resolve(d, ParentID(a.ID)))
	}
	a.Constraints = readConstraints(r, "constraints")
	a.Fetch = objects(r, "fetch", readArtifact)
	a.HealthChecks = objects(r, "healthChecks", readHealthCheck)
	a.ReadinessChecks = objects(r, "readinessChecks", readReadinessCheck)
	a.Networks = readNetworks(r)
	a.PortDefinitions = objects(r, "portDefinitions", func(d reader) PortDefinition {
		return PortDefinition{Port: d.integer("port", 0, 0, 65535), Protocol: readProtocol(d), Name: d.str("name", ""), Labels: d.stringMap("labels")}
	})
	if c, ok := r.sub("check"); ok {
		a.Check = readCheck(c)
	}
	if c, ok := r.sub("container"); ok {
		a.Container = readContainer(c)
	}
	if e, ok := r.sub("executorResources"); ok {
		a.ExecutorResources = &Resources{CPUs: e.float("cpus", 0.1, 0, maxAmount), Mem: e.float("mem", 32, 0, maxAmount), Disk: e.float("disk", 10, 0, maxAmount)}
	}
	a.ResourceLimits = readLimits(r)
	a.UnreachableStrategy = readUnreachable(r)
	if v, ok := r.o["version"].(string); ok {
		a.Version, _ = ParseVersion(v)
	}
	if vi, ok := r.o["versionInfo"].(Object); ok {
		a.VersionInfo = &VersionInfo{}
		if s, ok := vi["lastScalingAt"].(string); ok {
			a.VersionInfo.LastScalingAt, _ = ParseVersion(s)
		}
		if s, ok := vi["lastConfigChangeAt"].(string); ok {
			a.VersionInfo.LastConfigChangeAt, _ = ParseVersion(s)
		}
	}
	if a.Labels == nil {
		a.Labels = map[string]string{}
	}
	return a
}

func readEnv(r reader, key string) map[string]EnvVar {
	o, ok := r.sub(key)
	if !ok || len(o.o) == 0 {
		return nil
	}
	m := make(map[string]EnvVar, len(o.o))
	for k, v := range o.o {
		switch v := v.(type) {
		case string:
			m[k] = EnvVar{Value: v}
		case Object:
			m[k] = EnvVar{Secret: reader{path: o.at(k), o: v, p: r.p}.need("secret")}
		default:
			r.p.add(o.at(k), "error.expected.jsstring")
		}
	}
	return m
}

func readSecrets(r reader) map[string]Secret {
	o, ok := r.sub("secrets")
	if !ok || len(o.o) == 0 {
		return nil
	}
	m := make(map[string]Secret, len(o.o))
	for k := range o.o {
		if s, ok := o.sub(k); ok {
			m[k] = Secret{Source: s.need("source")}
		}
	}
	return m
}

func readConstraints(r reader, key string) [][]string {
	list := r.array(key)
	if len(list) > maxConstraints {
		r.bad(key, "error.maxLength")
		return nil
	}
	var out [][]string
	for _, e := range list {
		items, ok := e.v.([]any)
		if !ok {
			e.p.add(e.path, "error.expected.jsarray")
			continue
		}
		var c []string
		for _, x := range items {
			switch x := x.(type) {
			case string:
				c = append(c, x)
			case json.Number:
				c = append(c, x.String())
			default:
				e.p.add(e.path, "error.expected.jsstring")
			}
		}
		out = append(out, c)
	}
	return out
}

func readArtifact(r reader) Artifact {
	return Artifact{
		URI: r.need("uri"), Extract: r.boolean("extract", true), Executable: r.boolean("executable", false),
		Cache: r.boolean("cache", false), DestPath: r.str("destPath", ""),
	}
}

func readProtocol(r reader) string {
	return r.enum("protocol", "tcp", "tcp", "udp", "udp,tcp", "tcp,udp")
}

func readNetworks(r reader) []Network {
	return objects(r, "networks", func(n reader) Network {
		return Network{Name: n.str("name", ""), Mode: n.enum("mode", NetworkContainer, NetworkContainer, NetworkBridge, NetworkHost), Labels: n.stringMap("labels")}
	})
}

func readContainer(r reader) *Container {
	c := &Container{Volumes: objects(r, "volumes", readVolume)}
	if c.Volumes == nil {
		c.Volumes = []Volume{}
	}
	def := "MESOS"
	if d, ok := r.sub("docker"); ok {
		def = "DOCKER"
		c.Docker = &Docker{Image: d.need("image"), ForcePullImage: d.boolean("forcePullImage", false), Privileged: d.boolean("privileged", false)}
		c.Docker.Parameters = objects(d, "parameters", func(x reader) Parameter { return Parameter{Key: x.need("key"), Value: x.need("value")} })
		if pc, ok := d.sub("pullConfig"); ok {
			c.Docker.PullConfig = &PullConfig{Secret: pc.need("secret")}
		}
	}
	c.Type = r.enum("type", def, "DOCKER", "MESOS")
	c.LinuxInfo = readLinuxInfo(r)
	c.PortMappings = objects(r, "portMappings", func(m reader) PortMapping {
		return PortMapping{
			ContainerPort: m.integer("containerPort", 0, 0, 65535), HostPort: m.intPtr("hostPort", 0, 65535),
			ServicePort: m.integer("servicePort", 0, 0, 65535), Protocol: readProtocol(m), Name: m.str("name", ""),
			Labels: m.stringMap("labels"), NetworkNames: m.strings("networkNames"),
		}
	})
	return c
}

func readLinuxInfo(r reader) *LinuxInfo {
	l, ok := r.sub("linuxInfo")
	if !ok {
		return nil
	}
	out := &LinuxInfo{}
	if s, ok := l.sub("seccomp"); ok {
		out.Seccomp = &Seccomp{ProfileName: s.str("profileName", "")}
		if s.has("unconfined") {
			u := s.boolean("unconfined", false)
			out.Seccomp.Unconfined = &u
		}
	}
	if i, ok := l.sub("ipcInfo"); ok {
		out.IPCInfo = &IPCInfo{Mode: i.enum("mode", "PRIVATE", "PRIVATE", "SHARE_PARENT"), ShmSize: i.intPtr("shmSize", 0, maxInstances)}
	}
	return out
}

func readVolume(r reader) Volume {
	v := Volume{ContainerPath: r.str("containerPath", ""), HostPath: r.str("hostPath", ""), Secret: r.str("secret", "")}
	if r.has("mode") {
		v.Mode = r.enum("mode", "RW", "RO", "RW")
	}
	if p, ok := r.sub("persistent"); ok {
		v.Persistent = readPersistent(p)
	}
	if e, ok := r.sub("external"); ok {
		v.External = &ExternalVolume{
			Name: e.str("name", ""), Provider: e.str("provider", ""), Size: e.intPtr("size", 0, maxInstances),
			Options: e.stringMap("options"), Shared: e.boolean("shared", false),
		}
	}
	return v
}

func readPersistent(p reader) *PersistentVolume {
	return &PersistentVolume{
		Type: p.enum("type", "root", "root", "path", "mount"), Size: p.integer("size", 0, 0, maxInstances),
		MaxSize: p.intPtr("maxSize", 0, maxInstances), ProfileName: p.str("profileName", ""), Constraints: readConstraints(p, "constraints"),
	}
}

func readHealthCheck(r reader) HealthCheck {
	h := HealthCheck{
		GracePeriodSeconds: r.integer("gracePeriodSeconds", 300, 0, maxSeconds), IntervalSeconds: r.integer("intervalSeconds", 60, 0, maxSeconds),
		MaxConsecutiveFailures: r.integer("maxConsecutiveFailures", 3, 0, maxSeconds), TimeoutSeconds: r.integer("timeoutSeconds", 20, 0, maxSeconds),
		DelaySeconds: r.integer("delaySeconds", 15, 0, maxSeconds), Path: r.str("path", ""), Port: r.intPtr("port", 0, 65535), PortIndex: r.intPtr("portIndex", 0, maxListed),
		Protocol: r.enum("protocol", ProtocolHTTP, ProtocolHTTP, ProtocolHTTPS, ProtocolTCP, ProtocolCommand, ProtocolMesosHTTP, ProtocolMesosHTTPS, ProtocolMesosTCP),
	}
	if r.has("ipProtocol") {
		h.IPProtocol = r.enum("ipProtocol", "IPv4", "IPv4", "IPv6")
	}
	if c, ok := r.sub("command"); ok {
		h.Command = &Command{Value: c.need("value")}
	}
	if r.has("ignoreHttp1xx") {
		b := r.boolean("ignoreHttp1xx", false)
		h.IgnoreHTTP1xx = &b
	}
	return h
}

func readCheck(r reader) *Check {
	c := &Check{IntervalSeconds: r.integer("intervalSeconds", 60, 0, maxSeconds), TimeoutSeconds: r.integer("timeoutSeconds", 20, 0, maxSeconds), DelaySeconds: r.integer("delaySeconds", 15, 0, maxSeconds)}
	c.HTTP, c.TCP, c.Exec = readCheckKinds(r)
	return c
}

func readCheckKinds(r reader) (*CheckHTTP, *CheckTCP, *Exec) {
	var http *CheckHTTP
	var tcp *CheckTCP
	var exec *Exec
	if h, ok := r.sub("http"); ok {
		http = &CheckHTTP{PortIndex: h.intPtr("portIndex", 0, maxListed), Port: h.intPtr("port", 0, 65535), Endpoint: h.str("endpoint", ""), Path: h.str("path", "")}
		if h.has("scheme") {
			http.Scheme = h.enum("scheme", "HTTP", "HTTP", "HTTPS", "http", "https")
		}
	}
	if t, ok := r.sub("tcp"); ok {
		tcp = &CheckTCP{PortIndex: t.intPtr("portIndex", 0, maxListed), Port: t.intPtr("port", 0, 65535), Endpoint: t.str("endpoint", "")}
	}
	if e, ok := r.sub("exec"); ok {
		exec = readExec(e)
	}
	return http, tcp, exec
}

func readExec(r reader) *Exec {
	e := &Exec{}
	c, ok := r.sub("command")
	if !ok {
		r.missing("command")
		return e
	}
	e.Command = ExecCommand{Shell: c.str("shell", ""), Argv: c.strings("argv")}
	if e.Command.Shell == "" && len(e.Command.Argv) == 0 {
		c.missing("shell")
	}
	if r.has("overrideEntrypoint") {
		b := r.boolean("overrideEntrypoint", false)
		e.OverrideEntrypoint = &b
	}
	return e
}

func readReadinessCheck(r reader) ReadinessCheck {
	c := ReadinessCheck{
		Name: r.str("name", "readinessCheck"), Protocol: r.enum("protocol", "HTTP", "HTTP", "HTTPS"), Path: r.str("path", "/"),
		PortName: r.str("portName", "http-api"), IntervalSeconds: r.integer("intervalSeconds", 30, 1, maxSeconds), TimeoutSeconds: r.integer("timeoutSeconds", 10, 1, maxSeconds),
		PreserveLastResponse: r.boolean("preserveLastResponse", false),
	}
	for _, e := range r.array("httpStatusCodesForReady") {
		n, ok := e.v.(json.Number)
		if i, err := n.Int64(); ok && err == nil && i >= 100 && i < 600 {
			c.HTTPStatusCodesForReady = append(c.HTTPStatusCodesForReady, int(i))
		} else {
			e.p.add(e.path, "error.expected.jsnumber")
		}
	}
	if len(c.HTTPStatusCodesForReady) == 0 {
		c.HTTPStatusCodesForReady = []int{200}
	}
	return c
}

func readLimits(r reader) *ResourceLimits {
	l, ok := r.sub("resourceLimits")
	if !ok {
		return nil
	}
	limit := func(key string) *Limit {
		switch v := l.o[key].(type) {
		case nil:
			return nil
		case string:
			if strings.EqualFold(v, "unlimited") {
				return &Limit{Unlimited: true}
			}
			l.bad(key, "error.expected.jsnumber")
			return nil
		default:
			return &Limit{Value: l.float(key, 0, 0, maxAmount)}
		}
	}
	return &ResourceLimits{CPUs: limit("cpus"), Mem: limit("mem")}
}

func readUnreachable(r reader) UnreachableStrategy {
	switch v := r.o["unreachableStrategy"].(type) {
	case nil:
	case string:
		if v == "disabled" {
			return UnreachableStrategy{Disabled: true}
		}
		r.bad("unreachableStrategy", "error.unknown.enum.literal")
	default:
		if u, ok := r.sub("unreachableStrategy"); ok {
			s := UnreachableStrategy{Inactive: u.integer("inactiveAfterSeconds", 0, 0, maxSeconds)}
			s.Expunge = u.integer("expungeAfterSeconds", s.Inactive, 0, maxSeconds)
			return s
		}
	}
	return UnreachableStrategy{}
}

// appDefaults fills in what depends on other parts of the definition.
func appDefaults(a *App, r reader, s *Settings) {
	if len(a.Networks) == 0 {
		a.Networks = []Network{{Mode: NetworkHost}}
	}
	for i := range a.Networks {
		if n := &a.Networks[i]; n.Mode == NetworkContainer && n.Name == "" {
			n.Name = s.DefaultNetworkName
		}
	}
	if a.HostNetworking() {
		if a.PortDefinitions == nil {
			a.PortDefinitions = []PortDefinition{{Protocol: "tcp", Name: "default"}}
		}
		if a.Container != nil {
			a.Container.PortMappings = nil
		}
	} else {
		a.PortDefinitions = nil
		a.RequirePorts = false
		if a.Container == nil {
			a.Container = &Container{Type: "MESOS", Volumes: []Volume{}}
		}
		bridge := a.Networks[0].Mode == NetworkBridge
		if a.Container.PortMappings == nil {
			a.Container.PortMappings = []PortMapping{{Protocol: "tcp", Name: "default"}}
		}
		for i := range a.Container.PortMappings {
			if m := &a.Container.PortMappings[i]; bridge && m.HostPort == nil {
				m.HostPort = new(int)
			}
		}
	}
	resident, external := a.Resident(), false
	if a.Container != nil {
		for i := range a.Container.Volumes {
			v := &a.Container.Volumes[i]
			external = external || v.External != nil
			if v.Persistent != nil && v.Mode == "" {
				v.Mode = "RW"
			}
		}
	}
	u := UpgradeStrategy{1, 1}
	if resident || external {
		u = UpgradeStrategy{0.5, 0}
	}
	a.UpgradeStrategy = readUpgrade(r, "upgradeStrategy", u)
	if resident {
		a.Residency = &Residency{RelaunchEscalationTimeoutSeconds: 3600, TaskLostBehavior: "WAIT_FOREVER"}
		if !r.has("unreachableStrategy") {
			a.UnreachableStrategy = UnreachableStrategy{Disabled: true}
		}
	}
	hasPorts := len(a.Ports()) > 0
	for i := range a.HealthChecks {
		h := &a.HealthChecks[i]
		if h.IsHTTP() && h.Path == "" {
			h.Path = "/"
		}
		if h.Protocol != ProtocolCommand && h.Port == nil && h.PortIndex == nil && hasPorts {
			h.PortIndex = new(int)
		}
	}
}

func readUpgrade(r reader, key string, def UpgradeStrategy) UpgradeStrategy {
	if u, ok := r.sub(key); ok {
		def.MinimumHealthCapacity = u.float("minimumHealthCapacity", def.MinimumHealthCapacity, -maxAmount, maxAmount)
		def.MaximumOverCapacity = u.float("maximumOverCapacity", def.MaximumOverCapacity, -maxAmount, maxAmount)
	}
	return def
}
