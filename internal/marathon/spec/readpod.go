package spec

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// ReadPod makes a pod of a decoded document, with defaults filled in and validated.
func ReadPod(v any, base string, s *Settings) (*Pod, error) {
	var p problems
	r, ok := newReader("", v, &p)
	if !ok {
		return nil, p.err(MessageInvalidJSON)
	}
	pod := readPod(r, base)
	if err := p.err(MessageInvalidJSON); err != nil {
		return nil, err
	}
	podDefaults(pod, r, s)
	validatePod(pod, r, s)
	return pod, p.err(MessageInvalidObject)
}

func readPod(r reader, base string) *Pod {
	p := &Pod{
		User: r.str("user", ""), Labels: r.stringMap("labels"), Environment: readEnv(r, "environment"), Role: r.str("role", ""),
		Secrets: readSecrets(r), Networks: readNetworks(r), LinuxInfo: readLinuxInfo(r),
	}
	if r.has("id") {
		p.ID = resolveRunSpec(r.str("id", ""), base)
	} else {
		r.missing("id")
	}
	if v, ok := r.o["version"].(string); ok {
		p.Version, _ = ParseVersion(v)
	}
	if !r.has("containers") {
		r.missing("containers")
	}
	p.Containers = objects(r, "containers", readPodContainer)
	p.Volumes = objects(r, "volumes", func(v reader) PodVolume {
		out := PodVolume{Name: v.need("name"), Host: v.str("host", ""), Secret: v.str("secret", "")}
		if x, ok := v.sub("persistent"); ok {
			out.Persistent = readPersistent(x)
		}
		for k := range v.o {
			switch k {
			case "name", "host", "secret", "persistent":
			default:
				v.bad(k, "unknown volume type")
			}
		}
		return out
	})
	p.ExecutorResources = Resources{CPUs: 0.1, Mem: 32, Disk: 10}
	if e, ok := r.sub("executorResources"); ok {
		p.ExecutorResources = Resources{CPUs: e.float("cpus", 0.1, 0.01, maxAmount), Mem: e.float("mem", 32, 32, maxAmount), Disk: e.float("disk", 10, 0, maxAmount)}
	}
	if r.has("legacySharedCgroups") {
		b := r.boolean("legacySharedCgroups", false)
		p.LegacySharedCgroups = &b
	}
	p.Scaling = PodScaling{Kind: "fixed", Instances: 1}
	if s, ok := r.sub("scaling"); ok {
		s.enum("kind", "fixed", "fixed")
		p.Scaling.Instances = s.integer("instances", 1, 0, maxInstances)
		p.Scaling.MaxInstances = s.intPtr("maxInstances", 0, maxInstances)
	}
	readScheduling(p, r)
	return p
}

func readScheduling(p *Pod, r reader) {
	s, _ := r.sub("scheduling")
	p.Scheduling = PodScheduling{Backoff: PodBackoff{1, 1.15, 300}, KillSelection: YoungestFirst}
	if s.p == nil {
		return
	}
	if b, ok := s.sub("backoff"); ok {
		p.Scheduling.Backoff = PodBackoff{b.float("backoff", 1, 0, maxSeconds), b.float("backoffFactor", 1.15, 1, maxAmount), b.float("maxLaunchDelay", 300, 0, maxSeconds)}
	}
	p.Scheduling.KillSelection = s.enum("killSelection", YoungestFirst, YoungestFirst, OldestFirst)
	p.Scheduling.UnreachableStrategy = readUnreachable(s)
	if pl, ok := s.sub("placement"); ok {
		p.Scheduling.Placement.AcceptedResourceRoles = pl.strings("acceptedResourceRoles")
		p.Scheduling.Placement.Constraints = objects(pl, "constraints", func(c reader) PodConstraint {
			out := PodConstraint{FieldName: c.need("fieldName"), Operator: c.enum("operator", "UNIQUE", "UNIQUE", "CLUSTER", "GROUP_BY", "LIKE", "UNLIKE", "MAX_PER", "IS")}
			if n, ok := c.o["value"].(json.Number); ok {
				out.Value = n.String()
			} else {
				out.Value = c.str("value", "")
			}
			return out
		})
	}
}

func readPodContainer(r reader) PodContainer {
	c := PodContainer{
		Name: r.need("name"), User: r.str("user", ""), Labels: r.stringMap("labels"), Environment: readEnv(r, "environment"),
		ResourceLimits: readLimits(r), LinuxInfo: readLinuxInfo(r), Artifacts: objects(r, "artifacts", readArtifact),
	}
	if e, ok := r.sub("exec"); ok {
		c.Exec = readExec(e)
	}
	if x, ok := r.sub("resources"); ok {
		if !x.has("cpus") {
			x.missing("cpus")
		}
		if !x.has("mem") {
			x.missing("mem")
		}
		c.Resources = Resources{CPUs: x.float("cpus", 0, 0, maxAmount), Mem: x.float("mem", 0, 0, maxAmount), Disk: x.float("disk", 0, 0, maxAmount), GPUs: x.integer("gpus", 0, 0, maxInstances)}
	} else if !r.has("resources") {
		r.missing("resources")
	}
	c.Endpoints = objects(r, "endpoints", func(e reader) Endpoint {
		out := Endpoint{
			Name: e.need("name"), ContainerPort: e.intPtr("containerPort", 1, 65535), HostPort: e.intPtr("hostPort", 0, 65535),
			Protocol: e.strings("protocol"), Labels: e.stringMap("labels"), NetworkNames: e.strings("networkNames"),
		}
		if len(out.Protocol) == 0 {
			out.Protocol = []string{"tcp"}
		}
		for _, proto := range out.Protocol {
			if proto != "tcp" && proto != "udp" {
				e.bad("protocol", "error.unknown.enum.literal")
			}
		}
		return out
	})
	if i, ok := r.sub("image"); ok {
		c.Image = &Image{Kind: i.enum("kind", "DOCKER", "DOCKER", "APPC"), ID: i.need("id"), ForcePull: i.boolean("forcePull", false), Labels: i.stringMap("labels")}
		if pc, ok := i.sub("pullConfig"); ok {
			c.Image.PullConfig = &PullConfig{Secret: pc.need("secret")}
		}
	}
	if h, ok := r.sub("healthCheck"); ok {
		hc := readHealthCheckTimes(h)
		c.HealthCheck = &hc
	}
	if x, ok := r.sub("check"); ok {
		c.Check = readCheck(x)
	}
	c.VolumeMounts = objects(r, "volumeMounts", func(m reader) VolumeMount {
		return VolumeMount{Name: m.need("name"), MountPath: m.need("mountPath"), ReadOnly: m.boolean("readOnly", false)}
	})
	if l, ok := r.sub("lifecycle"); ok {
		c.Lifecycle = &Lifecycle{}
		if l.has("killGracePeriodSeconds") {
			f := l.float("killGracePeriodSeconds", 0, 0, maxSeconds)
			c.Lifecycle.KillGracePeriodSeconds = &f
		}
	}
	if r.has("tty") {
		b := r.boolean("tty", false)
		c.TTY = &b
	}
	return c
}

func readHealthCheckTimes(h reader) PodHealthCheck {
	hc := PodHealthCheck{
		GracePeriodSeconds: h.integer("gracePeriodSeconds", 300, 0, maxSeconds), IntervalSeconds: h.integer("intervalSeconds", 60, 1, maxSeconds),
		MaxConsecutiveFailures: h.integer("maxConsecutiveFailures", 3, 0, maxSeconds), TimeoutSeconds: h.integer("timeoutSeconds", 20, 1, maxSeconds),
		DelaySeconds: h.integer("delaySeconds", 15, 0, maxSeconds),
	}
	hc.HTTP, hc.TCP, hc.Exec = readCheckKinds(h)
	return hc
}

func podDefaults(p *Pod, r reader, s *Settings) {
	if len(p.Networks) == 0 {
		p.Networks = []Network{{Mode: NetworkHost}}
	}
	for i := range p.Networks {
		if n := &p.Networks[i]; n.Mode == NetworkContainer && n.Name == "" {
			n.Name = s.DefaultNetworkName
		}
	}
	u := UpgradeStrategy{1, 1}
	if p.Resident() {
		u = UpgradeStrategy{0.5, 0}
	}
	p.Scheduling.Upgrade = u
	if sch, ok := r.sub("scheduling"); ok {
		p.Scheduling.Upgrade = readUpgrade(sch, "upgrade", u)
		if p.Resident() && !sch.has("unreachableStrategy") {
			p.Scheduling.UnreachableStrategy = UnreachableStrategy{Disabled: true}
		}
	} else if p.Resident() {
		p.Scheduling.UnreachableStrategy = UnreachableStrategy{Disabled: true}
	}
	if p.Networks[0].Mode != NetworkContainer {
		for i := range p.Containers {
			for j := range p.Containers[i].Endpoints {
				if e := &p.Containers[i].Endpoints[j]; e.HostPort == nil {
					e.HostPort = new(int)
				}
			}
		}
	}
}

var podNamePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

func validatePod(p *Pod, r reader, s *Settings) {
	ps := r.p
	if err := CheckRunSpecID(p.ID); err != nil {
		ps.add(r.at("id"), "%s", err.Error())
	}
	if len(p.Containers) == 0 {
		ps.add(r.at("containers"), "must not be empty")
	}
	if len(p.Containers) > maxListed {
		ps.add(r.at("containers"), "error.maxLength")
		return
	}
	validateNetworks(p.Networks, r.at("networks"), false, ps)
	var constraints [][]string
	for _, c := range p.Scheduling.Placement.Constraints {
		if c.Value != "" {
			constraints = append(constraints, []string{c.FieldName, c.Operator, c.Value})
		} else {
			constraints = append(constraints, []string{c.FieldName, c.Operator})
		}
	}
	if len(constraints) > maxConstraints {
		ps.add(r.at("scheduling")+"/placement/constraints", "error.maxLength")
		return
	}
	validateConstraints(constraints, r.at("scheduling")+"/placement/constraints", ps)
	validateUpgrade(p.Scheduling.Upgrade, r.at("scheduling")+"/upgrade", p.Resident(), ps)
	validateUnreachable(p.Scheduling.UnreachableStrategy, r.at("scheduling")+"/unreachableStrategy", p.Resident(), ps)
	validateSecrets(p.Environment, p.Secrets, r.at("environment"), s, ps)
	if _, err := ReadStrategy(p.Labels); err != nil {
		ps.add(r.at("labels"), "%s", err.Error())
	}
	if m := p.Scaling.MaxInstances; m != nil && *m < p.Scaling.Instances {
		ps.add(r.at("scaling")+"/maxInstances", "must be at least the number of instances")
	}
	volumes := map[string]bool{}
	for i, v := range p.Volumes {
		at := fmt.Sprintf("%s(%d)", r.at("volumes"), i)
		if volumes[v.Name] {
			ps.add(at+"/name", "volume names must be unique")
		}
		volumes[v.Name] = false
		if v.Persistent != nil {
			validatePersistent(v.Persistent, at+"/persistent", ps)
		}
		if v.Secret != "" {
			if _, ok := p.Secrets[v.Secret]; !ok {
				ps.add(at+"/secret", "references an undefined secret named '%s'", v.Secret)
			}
		}
	}
	validatePodContainers(p, r, volumes, s)
	for i, v := range p.Volumes {
		if !volumes[v.Name] {
			ps.add(fmt.Sprintf("%s(%d)", r.at("volumes"), i), "volume %q is mounted by no container", v.Name)
		}
	}
}

func validatePodContainers(p *Pod, r reader, volumes map[string]bool, s *Settings) {
	ps := r.p
	names, endpoints, hostPorts, containerPorts := map[string]bool{}, map[string]bool{}, map[int]bool{}, map[int]bool{}
	mode := p.Networks[0].Mode
	for i := range p.Containers {
		c := &p.Containers[i]
		at := fmt.Sprintf("%s(%d)", r.at("containers"), i)
		if !podNamePattern.MatchString(c.Name) {
			ps.add(at+"/name", "error.pattern")
		}
		if names[c.Name] {
			ps.add(r.at("containers"), "container names are not unique")
		}
		names[c.Name] = true
		if c.Exec == nil && c.Image == nil {
			ps.add(at, "must have exec or an image")
		}
		if c.Resources.GPUs > 0 && !s.feature("gpu_resources") {
			ps.add(at+"/resources/gpus", "Feature gpu_resources is not enabled. Enable with --enable_features gpu_resources)")
		}
		if c.ResourceLimits != nil && p.LegacySharedCgroups != nil && *p.LegacySharedCgroups {
			ps.add(at+"/resourceLimits", "not possible with legacySharedCgroups")
		}
		validateLimits(c.ResourceLimits, c.Resources.CPUs, c.Resources.Mem, at+"/resourceLimits", ps)
		validateSecrets(c.Environment, p.Secrets, at+"/environment", s, ps)
		own := map[string]bool{}
		for j, e := range c.Endpoints {
			eat := fmt.Sprintf("%s/endpoints(%d)", at, j)
			if !portNamePattern.MatchString(e.Name) {
				ps.add(eat+"/name", "error.pattern")
			}
			if endpoints[e.Name] {
				ps.add(r.at("containers"), "endpoint names are not unique")
			}
			endpoints[e.Name], own[e.Name] = true, true
			if e.HostPort != nil && *e.HostPort != 0 {
				if hostPorts[*e.HostPort] {
					ps.add(r.at("containers"), "host ports are not unique")
				}
				hostPorts[*e.HostPort] = true
			}
			switch {
			case mode == NetworkHost && e.ContainerPort != nil:
				ps.add(eat+"/containerPort", "not allowed when using host networking")
			case mode != NetworkHost && e.ContainerPort == nil:
				ps.add(eat+"/containerPort", "must be given when using container networking")
			case e.ContainerPort != nil:
				if containerPorts[*e.ContainerPort] {
					ps.add(r.at("containers"), "container ports are not unique")
				}
				containerPorts[*e.ContainerPort] = true
			}
		}
		for j, m := range c.VolumeMounts {
			if _, ok := volumes[m.Name]; !ok {
				ps.add(fmt.Sprintf("%s/volumeMounts(%d)/name", at, j), "volume with name %s is not defined", m.Name)
			} else {
				volumes[m.Name] = true
			}
			if strings.TrimSpace(m.MountPath) == "" {
				ps.add(fmt.Sprintf("%s/volumeMounts(%d)/mountPath", at, j), "must not be empty")
			}
		}
		if h := c.HealthCheck; h != nil {
			validateCheckKinds(&Check{HTTP: h.HTTP, TCP: h.TCP, Exec: h.Exec}, at+"/healthCheck", ps)
			for kind, name := range map[string]string{"http": endpointOf(h.HTTP), "tcp": tcpEndpointOf(h.TCP)} {
				if name != "" && !own[name] {
					ps.add(at+"/healthCheck/"+kind+"/endpoint", "contained element must refer to an existing endpoint of the container: %s", name)
				}
			}
			if h.HTTP != nil && h.HTTP.Endpoint == "" || h.TCP != nil && h.TCP.Endpoint == "" {
				ps.add(at+"/healthCheck", "must name an endpoint")
			}
		}
		if c.Check != nil {
			validateCheckKinds(c.Check, at+"/check", ps)
		}
	}
}

func endpointOf(h *CheckHTTP) string {
	if h == nil {
		return ""
	}
	return h.Endpoint
}

func tcpEndpointOf(t *CheckTCP) string {
	if t == nil {
		return ""
	}
	return t.Endpoint
}
