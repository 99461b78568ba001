package spec

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var portNamePattern = regexp.MustCompile(`^[a-z0-9-]+$`)

// Labels of Marathon's that validation knows.
const labelSingleInstance = "MARATHON_SINGLE_INSTANCE_APP"

func validateApp(a *App, r reader, s *Settings) {
	p := r.p
	if err := CheckRunSpecID(a.ID); err != nil {
		p.add(r.at("id"), "%s", err.Error())
	}
	switch {
	case a.Cmd != "" && len(a.Args) > 0:
		p.add(r.path, "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'.")
	case a.Cmd == "" && len(a.Args) == 0 && a.Container == nil:
		p.add(r.path, "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'.")
	case a.Cmd == "" && len(a.Args) == 0 && a.Container.Docker == nil:
		p.add(r.path, "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'.")
	case a.Cmd != "" && len(strings.TrimSpace(a.Cmd)) <= 1:
		p.add(r.at("cmd"), "must be longer than one character")
	}
	if a.Executor != "" && a.Executor != "//cmd" && !strings.HasPrefix(a.Executor, "/") && !executorPattern.MatchString(a.Executor) {
		p.add(r.at("executor"), "{javax.validation.constraints.Pattern.message}: must be \"//cmd\", a path to an executor, or empty")
	}
	if a.ExecutorResources != nil {
		if a.ExecutorResources.CPUs < 0.1 {
			p.add(r.at("executorResources")+"/cpus", "error.min")
		}
		if a.ExecutorResources.Mem < 32 {
			p.add(r.at("executorResources")+"/mem", "error.min")
		}
		if a.ExecutorResources.Disk < 10 {
			p.add(r.at("executorResources")+"/disk", "error.min")
		}
	}
	if a.GPUs > 0 {
		if !s.feature("gpu_resources") {
			p.add(r.at("gpus"), "Feature gpu_resources is not enabled. Enable with --enable_features gpu_resources)")
		}
		if a.Container != nil && a.Container.Type == "DOCKER" {
			p.add(r.path, "GPU resources only work with the Mesos containerizer")
		}
	}
	validateConstraints(a.Constraints, r.at("constraints"), p)
	validateNetworks(a.Networks, r.at("networks"), a.Container != nil && a.Container.Type == "DOCKER", p)
	validatePorts(a, r)
	validateChecks(a, r)
	validateUpgrade(a.UpgradeStrategy, r.at("upgradeStrategy"), a.Resident(), p)
	if a.Labels[labelSingleInstance] == "true" {
		if a.Instances > 1 {
			p.add(r.at("instances"), "must be less than or equal to 1 for an app with label %s", labelSingleInstance)
		}
		if a.UpgradeStrategy != (UpgradeStrategy{}) {
			p.add(r.at("upgradeStrategy"), "must be {minimumHealthCapacity: 0, maximumOverCapacity: 0} for an app with label %s", labelSingleInstance)
		}
	}
	if _, err := ReadStrategy(a.Labels); err != nil {
		p.add(r.at("labels"), "%s", err.Error())
	}
	if _, _, err := ReadAutoscale(a.Labels); err != nil {
		p.add(r.at("labels"), "%s", err.Error())
	}
	validateUnreachable(a.UnreachableStrategy, r.at("unreachableStrategy"), a.Resident(), p)
	validateSecrets(a.Env, a.Secrets, r.at("env"), s, p)
	validateLimits(a.ResourceLimits, a.CPUs, a.Mem, r.at("resourceLimits"), p)
	validateContainer(a, r, s)
	for i, f := range a.Fetch {
		if f.URI == "" {
			p.add(fmt.Sprintf("%s(%d)/uri", r.at("fetch"), i), "must not be empty")
		}
	}
	for i, d := range a.Dependencies {
		if err := CheckID(d); err != nil {
			p.add(fmt.Sprintf("%s(%d)", r.at("dependencies"), i), "%s", err.Error())
		}
	}
	if r.has("acceptedResourceRoles") && len(a.AcceptedResourceRoles) == 0 {
		p.add(r.at("acceptedResourceRoles"), "must not be empty")
	}
	if a.CPUs > 0 && a.CPUs < 0.001 {
		p.add(r.at("cpus"), "error.min")
	}
}

var executorPattern = regexp.MustCompile(`^[^/].*/[^/]+$`)

func validateConstraints(list [][]string, path string, p *problems) {
	for i, c := range list {
		at := fmt.Sprintf("%s(%d)", path, i)
		if len(c) < 2 || len(c) > 3 {
			p.add(at, "Each constraint must have either 2 or 3 fields")
			continue
		}
		if c[0] == "" {
			p.add(at, "Constraint field must not be empty")
		}
		value, has := "", len(c) == 3
		if has {
			value = c[2]
		}
		switch c[1] {
		case "UNIQUE":
			if has && value != "" {
				p.add(at, "Value specified but not used")
			}
		case "CLUSTER":
		case "GROUP_BY":
			if has && value != "inf" {
				if n, err := strconv.Atoi(value); err != nil || n < 0 {
					p.add(at, "Value was specified but is not a number")
				}
			}
		case "MAX_PER":
			if n, err := strconv.Atoi(value); !has || err != nil || n < 0 {
				p.add(at, "Value was not specified or is not a number")
			}
		case "LIKE", "UNLIKE":
			if !has {
				p.add(at, "A regular expression value must be provided")
			} else if len(value) > 1000 {
				p.add(at, "the regular expression is longer than 1000 characters")
			} else if _, err := regexp.Compile("^(?:" + value + ")$"); err != nil {
				p.add(at, "'%s' is not a valid regular expression", value)
			}
		case "IS":
			if !has || value == "" {
				p.add(at, "Value must be provided")
			}
		default:
			p.add(at, "Operator must be one of the following UNIQUE, CLUSTER, GROUP_BY, LIKE, MAX_PER, UNLIKE or IS")
		}
	}
}

func validateNetworks(nets []Network, path string, docker bool, p *problems) {
	counts := map[string]int{}
	names := map[string]bool{}
	for i, n := range nets {
		at := fmt.Sprintf("%s(%d)", path, i)
		counts[n.Mode]++
		switch n.Mode {
		case NetworkHost:
			if n.Name != "" {
				p.add(at+"/name", "not allowed for host networks")
			}
			if len(n.Labels) > 0 {
				p.add(at+"/labels", "not allowed for host networks")
			}
		case NetworkBridge:
			if n.Name != "" {
				p.add(at+"/name", "not allowed for container/bridge networks")
			}
		case NetworkContainer:
			if n.Name == "" {
				p.add(at+"/name", "missing: container networks must specify a name, or a default network must be configured (--default_network_name)")
			} else if names[n.Name] {
				p.add(path, "Each network name must be unique")
			}
			names[n.Name] = true
		}
	}
	if counts[NetworkHost] > 1 || counts[NetworkBridge] > 1 || len(counts) > 1 {
		p.add(path, "Must specify either a single host network, single bridge network, or else 1-to-n container networks")
	}
	if docker && counts[NetworkContainer] > 1 {
		p.add(path, "may only specify a single container network when using the Docker containerizer")
	}
}

func validatePorts(a *App, r reader) {
	p := r.p
	ports := a.Ports()
	host := a.HostNetworking()
	path := r.at("portDefinitions")
	if !host {
		path = r.at("container") + "/portMappings"
	}
	if len(ports) > maxListed {
		p.add(path, "error.maxLength")
		return
	}
	names, seen := map[string]bool{}, map[string]bool{}
	several := len(a.Networks) > 1
	for i, port := range ports {
		at := fmt.Sprintf("%s(%d)", path, i)
		if port.Name != "" {
			if !portNamePattern.MatchString(port.Name) || len(port.Name) > 63 {
				p.add(at+"/name", "error.pattern")
			}
			if names[port.Name] {
				p.add(path, "Port names must be unique.")
			}
			names[port.Name] = true
		}
		number := port.ServicePort
		if !host {
			number = 0
			if port.HostPort != nil {
				number = *port.HostPort
			}
		}
		for proto := range strings.SplitSeq(port.Protocol, ",") {
			key := fmt.Sprintf("%d/%s", number, proto)
			if number != 0 && seen[key] {
				p.add(path, "Ports must be unique.")
			}
			seen[key] = true
		}
		for j, n := range port.NetworkNames {
			if !hasNetwork(a.Networks, n) {
				p.add(fmt.Sprintf("%s/networkNames(%d)", at, j), "must be one of the networks of the app")
			}
		}
		if several && port.HostPort != nil && len(port.NetworkNames) != 1 {
			p.add(at, "must name exactly one network in networkNames: hostPort with several container networks is ambiguous")
		}
	}
}

func hasNetwork(nets []Network, name string) bool {
	for _, n := range nets {
		if n.Name == name {
			return true
		}
	}
	return false
}

func validateChecks(a *App, r reader) {
	p := r.p
	if len(a.HealthChecks) > 100 {
		p.add(r.at("healthChecks"), "error.maxLength")
		return
	}
	ports := len(a.Ports())
	onAgent := 0
	for i := range a.HealthChecks {
		h := &a.HealthChecks[i]
		at := fmt.Sprintf("%s(%d)", r.at("healthChecks"), i)
		if h.OnAgent() {
			onAgent++
		}
		if h.Protocol == ProtocolCommand {
			if h.Command == nil || h.Command.Value == "" {
				p.add(at+"/command", "must be defined and not empty for protocol COMMAND")
			}
			continue
		}
		if h.Command != nil {
			p.add(at+"/command", "only allowed for protocol COMMAND")
		}
		if h.Port != nil && h.PortIndex != nil {
			p.add(at, "HealthCheck must specify either a port or a portIndex, not both")
		}
		if h.PortIndex != nil && *h.PortIndex >= ports {
			p.add(at+"/portIndex", "Health check port indices must address an element of the ports array or container port mappings.")
		}
		if h.Port == nil && h.PortIndex == nil {
			p.add(at, "HealthCheck must specify either a port or a portIndex")
		}
		if h.IPProtocol == "IPv6" && (!h.OnAgent() || a.Container == nil || a.Container.Type != "DOCKER") {
			p.add(at+"/ipProtocol", "IPv6 is only possible for Docker containers with checks run by Mesos")
		}
	}
	if onAgent > 1 {
		p.add(r.at("healthChecks"), "AppDefinition can contain at most one Mesos health check")
	}
	if len(a.ReadinessChecks) > 1 {
		p.add(r.at("readinessChecks"), "must contain no more than 1 readiness check")
	}
	for i, c := range a.ReadinessChecks {
		at := fmt.Sprintf("%s(%d)", r.at("readinessChecks"), i)
		if c.TimeoutSeconds >= c.IntervalSeconds {
			p.add(at+"/timeoutSeconds", "must be less than intervalSeconds")
		}
		if !namesPort(a, c.PortName) {
			p.add(at+"/portName", "must name one of the app's ports: no port has the name %q", c.PortName)
		}
	}
	if c := a.Check; c != nil {
		at := r.at("check")
		validateCheckKinds(c, at, p)
		if a.Container != nil && a.Container.Type == "DOCKER" {
			p.add(at, "checks are only possible with the Mesos containerizer")
		}
		for kind, index := range map[string]*int{"http": portIndexOf(c.HTTP), "tcp": tcpIndexOf(c.TCP)} {
			if index != nil && *index >= ports {
				p.add(at+"/"+kind+"/portIndex", "must address an element of the app's ports")
			}
		}
	}
}

func portIndexOf(h *CheckHTTP) *int {
	if h == nil {
		return nil
	}
	return h.PortIndex
}

func tcpIndexOf(t *CheckTCP) *int {
	if t == nil {
		return nil
	}
	return t.PortIndex
}

func validateCheckKinds(c *Check, at string, p *problems) {
	n := 0
	for _, there := range []bool{c.HTTP != nil, c.TCP != nil, c.Exec != nil} {
		if there {
			n++
		}
	}
	if n != 1 {
		p.add(at, "must specify exactly one of http, tcp and exec")
	}
}

func namesPort(a *App, name string) bool {
	for _, port := range a.Ports() {
		if port.Name == name {
			return true
		}
	}
	return false
}

func validateUpgrade(u UpgradeStrategy, path string, resident bool, p *problems) {
	if u.MinimumHealthCapacity < 0 || u.MinimumHealthCapacity > 1 {
		p.add(path+"/minimumHealthCapacity", "got %v, expected between 0.0 and 1.0", u.MinimumHealthCapacity)
	}
	if u.MaximumOverCapacity < 0 || u.MaximumOverCapacity > 1 {
		p.add(path+"/maximumOverCapacity", "got %v, expected between 0.0 and 1.0", u.MaximumOverCapacity)
	}
	if resident && u.MaximumOverCapacity != 0 {
		p.add(path+"/maximumOverCapacity", "must be 0 for an app with persistent volumes")
	}
}

func validateUnreachable(u UnreachableStrategy, path string, resident bool, p *problems) {
	if resident && !u.Disabled {
		p.add(path, "unreachableStrategy must be disabled for resident tasks")
	}
	if u.Inactive > u.Expunge {
		p.add(path, "inactiveAfterSeconds (%d) must be less or equal than expungeAfterSeconds (%d)", u.Inactive, u.Expunge)
	}
}

func validateSecrets(env map[string]EnvVar, secrets map[string]Secret, path string, s *Settings, p *problems) {
	if len(secrets) > 0 && !s.feature("secrets") {
		p.add(strings.TrimSuffix(path, path[strings.LastIndexByte(path, '/'):])+"/secrets", "Feature secrets is not enabled. Enable with --enable_features secrets)")
	}
	for name, e := range env {
		if e.Secret == "" {
			continue
		}
		if _, ok := secrets[e.Secret]; !ok {
			p.add(path+"/"+name, "references an undefined secret named '%s'", e.Secret)
		}
	}
}

func validateLimits(l *ResourceLimits, cpus, mem float64, path string, p *problems) {
	if l == nil {
		return
	}
	if l.CPUs != nil && !l.CPUs.Unlimited && l.CPUs.Value < cpus {
		p.add(path+"/cpus", "must be at least the requested %v", cpus)
	}
	if l.Mem != nil && !l.Mem.Unlimited && l.Mem.Value < mem {
		p.add(path+"/mem", "must be at least the requested %v", mem)
	}
}

func validateContainer(a *App, r reader, s *Settings) {
	c := a.Container
	if c == nil {
		return
	}
	p, at := r.p, r.at("container")
	if c.Type == "DOCKER" && c.Docker == nil {
		p.add(at+"/docker", "must be defined for a container of type DOCKER")
	}
	if c.Docker != nil {
		if c.Docker.Image == "" {
			p.add(at+"/docker/image", "must not be empty")
		}
		if c.Docker.PullConfig != nil && c.Type == "DOCKER" {
			p.add(at+"/docker/pullConfig", "pullConfig is not supported for the Docker containerizer")
		}
		if c.Type == "MESOS" && (len(c.Docker.Parameters) > 0 || c.Docker.Privileged) {
			p.add(at+"/docker", "parameters and privileged are only possible with the Docker containerizer")
		}
	}
	if a.TTY != nil && *a.TTY && c.Type == "DOCKER" && len(c.Volumes) > maxListed {
		p.add(at+"/volumes", "error.maxLength")
	}
	paths := map[string]bool{}
	for i, v := range c.Volumes {
		vat := fmt.Sprintf("%s/volumes(%d)", at, i)
		kinds := 0
		for _, there := range []bool{v.HostPath != "", v.Persistent != nil, v.External != nil, v.Secret != ""} {
			if there {
				kinds++
			}
		}
		if kinds != 1 {
			p.add(vat, "must be exactly one of a host volume (hostPath), persistent, external or secret")
			continue
		}
		if v.ContainerPath == "" {
			p.add(vat+"/containerPath", "must not be empty")
		} else if paths[v.ContainerPath] {
			p.add(vat+"/containerPath", "must be unique among the volumes")
		}
		paths[v.ContainerPath] = true
		switch {
		case v.HostPath != "" && v.Mode == "":
			p.add(vat+"/mode", "must be defined for a host volume")
		case v.Persistent != nil:
			validatePersistent(v.Persistent, vat+"/persistent", p)
			if strings.Contains(v.ContainerPath, "/") || v.ContainerPath == ".." || v.ContainerPath == "." {
				p.add(vat+"/containerPath", "value must not contain \"/\": a persistent volume lies in the sandbox")
			}
			if v.Mode != "RW" {
				p.add(vat+"/mode", "must be RW for a persistent volume")
			}
		case v.External != nil:
			validateExternal(v.External, a.Instances, vat+"/external", s, p)
		case v.Secret != "":
			if _, ok := a.Secrets[v.Secret]; !ok {
				p.add(vat+"/secret", "references an undefined secret named '%s'", v.Secret)
			}
		}
	}
}

func validatePersistent(v *PersistentVolume, at string, p *problems) {
	if v.Size <= 0 {
		p.add(at+"/size", "must be greater than 0")
	}
	if v.MaxSize != nil {
		if v.Type != "mount" {
			p.add(at+"/maxSize", "is only possible for volumes of type mount")
		} else if *v.MaxSize <= v.Size {
			p.add(at+"/maxSize", "must be greater than size")
		}
	}
	if v.Type == "root" && len(v.Constraints) > 0 {
		p.add(at+"/constraints", "constraints on root volumes are not possible")
	}
	for i, c := range v.Constraints {
		if len(c) != 3 || c[0] != "path" || c[1] != "LIKE" && c[1] != "UNLIKE" {
			p.add(fmt.Sprintf("%s/constraints(%d)", at, i), "must be [\"path\", \"LIKE\" or \"UNLIKE\", a regular expression]")
		} else if _, err := regexp.Compile(c[2]); err != nil {
			p.add(fmt.Sprintf("%s/constraints(%d)", at, i), "'%s' is not a valid regular expression", c[2])
		}
	}
}

func validateExternal(v *ExternalVolume, instances int, at string, s *Settings, p *problems) {
	if !s.feature("external_volumes") {
		p.add(at, "Feature external_volumes is not enabled. Enable with --enable_features external_volumes)")
	}
	switch v.Provider {
	case "dvdi":
		if v.Name == "" {
			p.add(at+"/name", "must not be empty")
		}
		if v.Options["dvdi/driver"] == "" {
			p.add(at+"/options", "must contain dvdi/driver")
		}
		if instances > 1 && !v.Shared {
			p.add(at, "only one instance can use an external volume that is not shared")
		}
	case "csi":
	default:
		p.add(at+"/provider", "is unknown provider: must be dvdi or csi")
	}
}
