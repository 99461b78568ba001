package docker

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	units "github.com/docker/go-units"
	dcontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
)

// sandboxInContainer is where a container sees its sandbox (Mesos: --sandbox_directory).
const sandboxInContainer = "/mnt/mesos/sandbox"

// plan is a container as it will be made, and what must be done on the host before.
type plan struct {
	options client.ContainerCreateOptions
	image   string
	wants   map[string]struct{} // directories that the image wants to be volumes
	force   bool                // pull even when it is here
	hidden  []string            // variables whose values are secrets
	secrets []secretFile
	makes   []string // directories of the sandbox to make, relative to it
	sandbox string
	dirs    []string        // directories of ours to make, absolute
	ours    map[string]bool // sources of volumes that the agent has chosen itself
}

// secretFile is a secret that the container sees as a file.
type secretFile struct {
	name string // in the runtime directory
	data []byte
}

func (p *plan) config() *dcontainer.Config   { return p.options.Config }
func (p *plan) host() *dcontainer.HostConfig { return p.options.HostConfig }

// endpoint is how the container is in its one network.
func (p *plan) endpoint() *network.EndpointSettings {
	if p.options.NetworkingConfig == nil {
		p.options.NetworkingConfig = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{}}
	}
	name := string(p.host().NetworkMode)
	e := p.options.NetworkingConfig.EndpointsConfig[name]
	if e == nil {
		e = &network.EndpointSettings{}
		p.options.NetworkingConfig.EndpointsConfig[name] = e
	}
	return e
}

// plan makes the Engine's description of a container, or says what of it can't be given.
func (c *Containerizer) plan(cfg *containerizer.Config) (*plan, error) {
	info := cfg.Container
	d := info.GetDocker()
	if d == nil {
		return nil, errors.New("container.docker is not set")
	}
	if strings.TrimSpace(d.GetImage()) == "" {
		return nil, errors.New("container.docker.image is empty")
	}
	p := &plan{image: d.GetImage(), force: d.GetForcePullImage(), sandbox: cfg.Directory, ours: map[string]bool{}}
	labels := map[string]string{}
	for k, v := range cfg.Labels {
		labels[k] = v
	}
	p.options = client.ContainerCreateOptions{
		Config: &dcontainer.Config{
			Image: d.GetImage(), AttachStdout: true, AttachStderr: true, Hostname: info.GetHostname(), Labels: labels,
		},
		HostConfig: &dcontainer.HostConfig{
			Privileged: d.GetPrivileged(),
			Binds:      []string{}, Resources: c.limits(cfg),
		},
	}
	if t := info.GetTtyInfo(); t != nil {
		p.config().Tty, p.config().OpenStdin, p.config().AttachStdin = true, true, true
	}
	p.command(cfg.Command)
	if err := p.environment(cfg); err != nil {
		return nil, err
	}
	if err := p.network(cfg); err != nil {
		return nil, err
	}
	if err := c.volumes(p, cfg); err != nil {
		return nil, err
	}
	if err := p.isolation(info); err != nil {
		return nil, err
	}
	for _, r := range cfg.Resources {
		if r.GetName() == "gpus" && r.GetScalar().GetValue() > 0 {
			return nil, errors.New("the docker containerizer can't give a number of GPUs: name them with the docker parameter gpus, or use type MESOS")
		}
	}
	for _, x := range d.GetParameters() {
		if err := p.parameter(x.GetKey(), x.GetValue()); err != nil {
			return nil, fmt.Errorf("docker parameter %q: %w", x.GetKey(), err)
		}
	}
	// Ours come last: no parameter makes the container another's.
	p.config().Labels[labelAgent], p.config().Labels[labelContainer] = c.mark, string(cfg.ID)
	return p, nil
}

// command: a shell command runs in /bin/sh; else value and arguments are the image's CMD.
func (p *plan) command(cmd *mesosv1.CommandInfo) {
	if cmd == nil {
		return
	}
	// Shell is true by default; a command without a value is the image's own.
	if cmd.GetShell() && cmd.Value != nil {
		p.config().Entrypoint, p.config().Cmd = []string{"/bin/sh"}, []string{"-c", cmd.GetValue()}
		return
	}
	if cmd.GetValue() != "" {
		p.config().Cmd = append(p.config().Cmd, cmd.GetValue())
	}
	p.config().Cmd = append(p.config().Cmd, cmd.GetArguments()...)
}

// environment: a task's container has the task's own variables; an executor's has all that an executor is told. The
// image's PATH is not replaced by the host's.
func (p *plan) environment(cfg *containerizer.Config) error {
	asked := map[string]bool{}
	for _, v := range cfg.Command.GetEnvironment().GetVariables() {
		asked[v.GetName()] = true
	}
	for _, kv := range cfg.Environment {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case asked[name], name == "MESOS_SANDBOX", name == "MESOS_ALLOCATION_ROLE":
		case cfg.Kind == containerizer.CustomExecutor && name != "PATH":
		default:
			continue
		}
		p.config().Env = append(p.config().Env, kv)
	}
	p.config().Env = append(p.config().Env, "MESOS_CONTAINER_NAME="+namePrefix+string(cfg.ID))
	for _, v := range cfg.Command.GetEnvironment().GetVariables() {
		if v.GetType() != mesosv1.Environment_Variable_SECRET {
			continue
		}
		data, err := secretValue(v.GetSecret())
		if err != nil {
			return fmt.Errorf("environment variable %s: %w", v.GetName(), err)
		}
		p.config().Env = slices.DeleteFunc(p.config().Env, func(kv string) bool { return strings.HasPrefix(kv, v.GetName()+"=") })
		p.config().Env = append(p.config().Env, v.GetName()+"="+string(data))
		p.hidden = append(p.hidden, v.GetName())
	}
	return nil
}

func secretValue(s *mesosv1.Secret) ([]byte, error) {
	switch {
	case s.GetType() == mesosv1.Secret_VALUE && s.GetValue() != nil:
		return s.GetValue().GetData(), nil
	case s.GetType() == mesosv1.Secret_REFERENCE:
		return nil, fmt.Errorf("the secret %q is a reference, and this agent has no resolver of secrets", s.GetReference().GetName())
	}
	return nil, errors.New("the secret has no value")
}

// network puts the container into its network, with its ports.
func (p *plan) network(cfg *containerizer.Config) error {
	info := cfg.Container
	d := info.GetDocker()
	switch n := d.GetNetwork(); n {
	case mesosv1.ContainerInfo_DockerInfo_HOST, mesosv1.ContainerInfo_DockerInfo_BRIDGE, mesosv1.ContainerInfo_DockerInfo_NONE:
		p.host().NetworkMode = dcontainer.NetworkMode(strings.ToLower(n.String()))
	case mesosv1.ContainerInfo_DockerInfo_USER:
		ns := info.GetNetworkInfos()
		if len(ns) != 1 || ns[0].GetName() == "" {
			return errors.New("network USER needs exactly one network_infos, with the name of the network")
		}
		p.host().NetworkMode = dcontainer.NetworkMode(ns[0].GetName())
		for _, a := range ns[0].GetIpAddresses() {
			if a.IpAddress == nil {
				continue
			}
			ip, err := netip.ParseAddr(a.GetIpAddress())
			if err != nil {
				return fmt.Errorf("network_infos.ip_addresses: %w", err)
			}
			p.address(ip)
		}
	default:
		return fmt.Errorf("docker network %s is not known", n)
	}
	if len(d.GetPortMappings()) == 0 {
		return nil
	}
	if n := d.GetNetwork(); n == mesosv1.ContainerInfo_DockerInfo_HOST || n == mesosv1.ContainerInfo_DockerInfo_NONE {
		return fmt.Errorf("port mappings need the network BRIDGE or USER, not %s", n)
	}
	for _, m := range d.GetPortMappings() {
		if !allocated(cfg.Resources, m.GetHostPort()) {
			return fmt.Errorf("host port %d is not among the task's ports", m.GetHostPort())
		}
		proto := strings.ToLower(m.GetProtocol())
		if proto == "" {
			proto = "tcp"
		}
		if proto != "tcp" && proto != "udp" && proto != "sctp" {
			return fmt.Errorf("port mapping of protocol %q: known are tcp, udp and sctp", m.GetProtocol())
		}
		if m.GetContainerPort() < 1 || m.GetContainerPort() > 65535 || m.GetHostPort() > 65535 {
			return fmt.Errorf("port mapping %d to %d: ports are 1 to 65535", m.GetHostPort(), m.GetContainerPort())
		}
		port, _ := network.PortFrom(uint16(m.GetContainerPort()), network.IPProtocol(proto))
		p.publish(port, netip.Addr{}, strconv.Itoa(int(m.GetHostPort())))
	}
	return nil
}

func (p *plan) address(ip netip.Addr) {
	e := p.endpoint()
	if e.IPAMConfig == nil {
		e.IPAMConfig = &network.EndpointIPAMConfig{}
	}
	if ip.Is4() {
		e.IPAMConfig.IPv4Address = ip
	} else {
		e.IPAMConfig.IPv6Address = ip
	}
}

func (p *plan) publish(port network.Port, ip netip.Addr, hostPort string) {
	p.expose(port)
	if p.host().PortBindings == nil {
		p.host().PortBindings = network.PortMap{}
	}
	p.host().PortBindings[port] = append(p.host().PortBindings[port], network.PortBinding{HostIP: ip, HostPort: hostPort})
}

func (p *plan) expose(port network.Port) {
	if p.config().ExposedPorts == nil {
		p.config().ExposedPorts = network.PortSet{}
	}
	p.config().ExposedPorts[port] = struct{}{}
}

// allocated reports whether a port is among the resources.
func allocated(res []*mesosv1.Resource, port uint32) bool {
	for _, r := range res {
		if r.GetName() != "ports" {
			continue
		}
		for _, x := range r.GetRanges().GetRange() {
			if uint64(port) >= x.GetBegin() && uint64(port) <= x.GetEnd() {
				return true
			}
		}
	}
	return false
}

// ulimitNames are Docker's names of Mesos' limits.
var ulimitNames = map[mesosv1.RLimitInfo_RLimit_Type]string{
	mesosv1.RLimitInfo_RLimit_RLMT_CORE: "core", mesosv1.RLimitInfo_RLimit_RLMT_CPU: "cpu", mesosv1.RLimitInfo_RLimit_RLMT_DATA: "data",
	mesosv1.RLimitInfo_RLimit_RLMT_FSIZE: "fsize", mesosv1.RLimitInfo_RLimit_RLMT_LOCKS: "locks", mesosv1.RLimitInfo_RLimit_RLMT_MEMLOCK: "memlock",
	mesosv1.RLimitInfo_RLimit_RLMT_MSGQUEUE: "msgqueue", mesosv1.RLimitInfo_RLimit_RLMT_NICE: "nice", mesosv1.RLimitInfo_RLimit_RLMT_NOFILE: "nofile",
	mesosv1.RLimitInfo_RLimit_RLMT_NPROC: "nproc", mesosv1.RLimitInfo_RLimit_RLMT_RSS: "rss", mesosv1.RLimitInfo_RLimit_RLMT_RTPRIO: "rtprio",
	mesosv1.RLimitInfo_RLimit_RLMT_RTTIME: "rttime", mesosv1.RLimitInfo_RLimit_RLMT_SIGPENDING: "sigpending", mesosv1.RLimitInfo_RLimit_RLMT_STACK: "stack",
}

// isolation takes rlimit_info and linux_info, as far as Docker has them.
func (p *plan) isolation(info *mesosv1.ContainerInfo) error {
	for _, r := range info.GetRlimitInfo().GetRlimits() {
		name, ok := ulimitNames[r.GetType()]
		switch {
		case !ok:
			return fmt.Errorf("rlimit %s is not one that Docker sets", r.GetType())
		case (r.Soft == nil) != (r.Hard == nil):
			return fmt.Errorf("rlimit %s: soft and hard limit must both be set, or neither", r.GetType())
		}
		u := &units.Ulimit{Name: name, Soft: -1, Hard: -1}
		if r.Soft != nil {
			u.Soft, u.Hard = int64(r.GetSoft()), int64(r.GetHard())
		}
		p.host().Ulimits = append(p.host().Ulimits, u)
	}
	li := info.GetLinuxInfo()
	if li == nil {
		return nil
	}
	if li.GetSeccomp().GetProfileName() != "" {
		return errors.New("seccomp profiles by name are the mesos containerizer's: give Docker one with the parameter security-opt")
	}
	if li.GetSeccomp().GetUnconfined() {
		p.host().SecurityOpt = append(p.host().SecurityOpt, "seccomp=unconfined")
	}
	caps := li.GetBoundingCapabilities()
	if e := li.GetEffectiveCapabilities(); e != nil && caps != nil && !sameSet(e.GetCapabilities(), caps.GetCapabilities()) {
		return errors.New("docker can't give different effective and bounding capabilities: name one of the two")
	}
	if caps == nil {
		caps = li.GetEffectiveCapabilities()
	}
	if caps == nil {
		caps = li.GetCapabilityInfo()
	}
	if caps != nil {
		p.host().CapDrop = append(p.host().CapDrop, "ALL")
		for _, x := range caps.GetCapabilities() {
			p.host().CapAdd = append(p.host().CapAdd, x.String())
		}
	}
	if li.GetSharePidNamespace() {
		p.host().PidMode = "host"
	}
	switch li.GetIpcMode() {
	case mesosv1.LinuxInfo_PRIVATE:
		p.host().IpcMode = "private"
	case mesosv1.LinuxInfo_SHARE_PARENT:
		p.host().IpcMode = "host"
	}
	if li.ShmSize != nil {
		p.host().ShmSize = int64(li.GetShmSize()) << 20
	}
	return nil
}

func sameSet(a, b []mesosv1.CapabilityInfo_Capability) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// prepare does what the plan needs on the host. dir is the container's runtime directory.
func (p *plan) prepare(dir string, who owner) error {
	for _, s := range p.secrets {
		// The directory above is the agent's alone; the file itself must be readable to whatever user the image has.
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, s.name)), 0o700); err != nil {
			return fmt.Errorf("keep a secret for the container: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, s.name), s.data, 0o444); err != nil {
			return fmt.Errorf("keep a secret for the container: %w", err)
		}
	}
	for _, d := range p.dirs {
		if _, err := os.Stat(d); err == nil {
			continue
		}
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make a volume: %w", err)
		}
		if who.change {
			if err := os.Lchown(d, who.uid, who.gid); err != nil {
				return fmt.Errorf("make a volume: %w", err)
			}
		}
	}
	if len(p.makes) == 0 {
		return nil
	}
	// Beneath the sandbox and through no link out of it: what was fetched may hold any.
	root, err := os.OpenRoot(p.sandbox)
	if err != nil {
		return fmt.Errorf("open the sandbox: %w", err)
	}
	defer root.Close()
	for _, rel := range p.makes {
		if err := root.MkdirAll(rel, 0o755); err != nil {
			return fmt.Errorf("make the volume %q in the sandbox: %w", rel, err)
		}
		if fi, err := root.Stat(rel); err != nil || !fi.IsDir() {
			return fmt.Errorf("the volume %q in the sandbox is no directory of it", rel)
		}
		if real, err := filepath.EvalSymlinks(filepath.Join(p.sandbox, rel)); err != nil || !below(real, p.sandbox) {
			return fmt.Errorf("the volume %q leads out of the sandbox", rel)
		}
		if who.change {
			if err := root.Lchown(rel, who.uid, who.gid); err != nil {
				return fmt.Errorf("make the volume %q in the sandbox: %w", rel, err)
			}
		}
	}
	return nil
}

func below(path, root string) bool {
	real, err := filepath.EvalSymlinks(root)
	return err == nil && (path == real || strings.HasPrefix(path, real+"/"))
}

// bindOurs adds a directory or file that the agent has chosen.
func (p *plan) bindOurs(source, target string, ro bool) {
	p.ours[source] = true
	p.bind(source, target, ro, "")
}

// bind adds a directory or file of the host.
func (p *plan) bind(source, target string, ro bool, propagation mount.Propagation) {
	if strings.ContainsAny(source+target, ":") {
		p.host().Mounts = append(p.host().Mounts, mount.Mount{
			Type: mount.TypeBind, Source: source, Target: target, ReadOnly: ro, BindOptions: &mount.BindOptions{Propagation: propagation},
		})
		return
	}
	var opts []string
	if ro {
		opts = append(opts, "ro")
	}
	if propagation != "" {
		opts = append(opts, string(propagation))
	}
	b := source + ":" + target
	if len(opts) > 0 {
		b += ":" + strings.Join(opts, ",")
	}
	p.host().Binds = append(p.host().Binds, b)
}
