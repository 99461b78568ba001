package agent

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/confine"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
)

// Policy is what this agent refuses whoever asks. Everything is allowed by default, as in Mesos.
type Policy struct {
	// HostVolumes are the only directories that volumes may come from [allowed_host_volumes]; nil: any path of the host.
	HostVolumes []string
	// NoHostNetwork refuses containers in the host's network [refuse_host_network].
	NoHostNetwork bool
	// NoPrivileged refuses what undoes the isolation of a container [refuse_privileged]: privileged, the host's namespaces, and
	// Docker parameters that are not known to be harmless.
	NoPrivileged bool
}

// validate reports what is wrong with the settings.
func (p *Policy) validate() error {
	for _, d := range p.HostVolumes {
		if !path.IsAbs(d) || d != path.Clean(d) {
			return fmt.Errorf("%q is not a clean absolute path", d)
		}
	}
	return nil
}

// Check says why a container may not be launched here. nested containers share their parent's network.
func (p *Policy) Check(info *mesosv1.ContainerInfo, nested bool) error {
	for _, v := range info.GetVolumes() {
		if err := p.volume(v); err != nil {
			return err
		}
	}
	docker := info != nil && info.Type != nil && info.GetType() == mesosv1.ContainerInfo_DOCKER
	if p.NoHostNetwork && !nested {
		host := !slices.ContainsFunc(info.GetNetworkInfos(), func(n *mesosv1.NetworkInfo) bool { return n.GetName() != "" })
		if docker {
			host = dockerHostNetwork(info)
		}
		if host {
			return errors.New("this agent refuses containers in the host's network (--refuse_host_network): name a container network")
		}
	}
	if p.NoPrivileged {
		li := info.GetLinuxInfo()
		switch {
		case info.GetDocker().GetPrivileged():
			return errors.New("this agent refuses privileged containers (--refuse_privileged)")
		case li.GetSharePidNamespace() && !nested:
			return errors.New("this agent refuses containers in the host's PID namespace (--refuse_privileged)")
		case li.GetIpcMode() == mesosv1.LinuxInfo_SHARE_PARENT && !nested:
			return errors.New("this agent refuses containers in the host's IPC namespace (--refuse_privileged)")
		case !docker && confine.HostUsers(info):
			return errors.New("this agent refuses containers with the host's users (--refuse_privileged)")
		case li.GetSeccomp().GetUnconfined():
			return errors.New("this agent refuses containers without a seccomp profile (--refuse_privileged)")
		}
		if docker {
			// With the mesos containerizer --bounding_capabilities says what can be had.
			for _, set := range []*mesosv1.CapabilityInfo{li.GetCapabilityInfo(), li.GetBoundingCapabilities(), li.GetEffectiveCapabilities()} {
				for _, x := range set.GetCapabilities() {
					if !confine.InDockerDefault(x) {
						return fmt.Errorf("this agent refuses capabilities beyond Docker's default set (--refuse_privileged): %s", x)
					}
				}
			}
		}
	}
	if docker {
		for _, x := range info.GetDocker().GetParameters() {
			if err := p.parameter(strings.TrimLeft(x.GetKey(), "-"), x.GetValue()); err != nil {
				return fmt.Errorf("docker parameter %q: %w", x.GetKey(), err)
			}
		}
	}
	return nil
}

// dockerHostNetwork: network USER takes any name, also those that are no networks: the host's, and another container's.
func dockerHostNetwork(info *mesosv1.ContainerInfo) bool {
	switch info.GetDocker().GetNetwork() {
	case mesosv1.ContainerInfo_DockerInfo_HOST:
		return true
	case mesosv1.ContainerInfo_DockerInfo_USER:
		return slices.ContainsFunc(info.GetNetworkInfos(), func(n *mesosv1.NetworkInfo) bool {
			return n.GetName() == "host" || strings.HasPrefix(n.GetName(), "container:")
		})
	}
	return false
}

func (p *Policy) volume(v *mesosv1.Volume) error {
	host := v.GetHostPath()
	if s := v.GetSource(); s != nil {
		host = ""
		switch s.GetType() {
		case mesosv1.Volume_Source_HOST_PATH:
			host = s.GetHostPath().GetPath()
		case mesosv1.Volume_Source_DOCKER_VOLUME:
			// The local driver mounts whatever its options say.
			if p.HostVolumes != nil && len(s.GetDockerVolume().GetDriverOptions().GetParameter()) > 0 {
				return fmt.Errorf("volume at %q: this agent refuses volumes with a driver's options (--allowed_host_volumes)", v.GetContainerPath())
			}
		}
	}
	if !path.IsAbs(host) {
		return nil // the sandbox's own
	}
	if _, _, err := p.HostVolume(host); err != nil {
		return fmt.Errorf("volume at %q: %w", v.GetContainerPath(), err)
	}
	return nil
}

// HostVolume says whether a path of the host may be a volume, and below which root no link may lead out of: whoever mounts it
// resolves rel beneath root. An empty root: anywhere.
func (p *Policy) HostVolume(host string) (root, rel string, err error) {
	if p.HostVolumes == nil {
		return "", host, nil
	}
	clean := path.Clean(host)
	for _, d := range p.HostVolumes {
		if clean == d {
			return d, ".", nil
		}
		if rest, ok := strings.CutPrefix(clean, strings.TrimSuffix(d, "/")+"/"); ok {
			return d, rest, nil
		}
	}
	allowed := strings.Join(p.HostVolumes, ", ")
	if allowed == "" {
		allowed = "none"
	}
	return "", "", fmt.Errorf("this agent refuses volumes from %s of the host (--allowed_host_volumes: %s)", clean, allowed)
}

// harmlessParameters are options of `docker run` that take nothing of a container's isolation away. Volumes and networks
// among the others have rules of their own. Annotations are not among them: OCI runtimes do what some of them say.
var harmlessParameters = []string{
	"add-host", "blkio-weight", "cap-drop", "cpu-period", "cpu-quota", "cpu-rt-period", "cpu-rt-runtime", "cpu-shares", "cpus",
	"cpuset-cpus", "cpuset-mems", "dns", "dns-opt", "dns-option", "dns-search", "domainname", "e", "entrypoint", "env", "expose", "h",
	"health-cmd", "health-interval", "health-retries", "health-start-period", "health-timeout", "hostname", "init", "ip", "ip6", "kernel-memory",
	"l", "label", "link", "log-driver", "log-opt", "m", "mac-address", "memory", "memory-reservation", "memory-swap", "memory-swappiness", "name",
	"net-alias", "network-alias", "no-healthcheck", "p", "pids-limit", "platform", "publish", "pull", "read-only", "restart", "rm", "shm-size", "stop-signal",
	"stop-timeout", "storage-opt", "tmpfs", "tty", "u", "ulimit", "user", "w", "workdir",
}

// parameter judges one option of `docker run`.
func (p *Policy) parameter(key, value string) error {
	switch key {
	case "v", "volume":
		source, _, ok := strings.Cut(value, ":")
		if !ok || !path.IsAbs(source) {
			return nil // a volume of Docker's own
		}
		_, _, err := p.HostVolume(source)
		return err
	case "mount":
		return p.mountOption(value)
	case "net", "network":
		if p.NoHostNetwork && (value == "host" || strings.HasPrefix(value, "container:")) {
			return errors.New("this agent refuses containers in the host's network (--refuse_host_network)")
		}
		return nil
	case "volumes-from":
		if p.HostVolumes != nil {
			return errors.New("this agent refuses volumes of other containers (--allowed_host_volumes)")
		}
		return nil
	}
	if !p.NoPrivileged || slices.Contains(harmlessParameters, key) {
		return nil
	}
	if key == "security-opt" && (value == "no-new-privileges" || value == "no-new-privileges=true" || value == "no-new-privileges:true") {
		return nil
	}
	return errors.New("this agent refuses parameters that may undo a container's isolation (--refuse_privileged)")
}

// mountOption judges the value of --mount: type=bind,source=/x,target=/y.
func (p *Policy) mountOption(value string) error {
	kind, source := "volume", ""
	for part := range strings.SplitSeq(value, ",") {
		k, v, _ := strings.Cut(strings.Trim(part, `" `), "=")
		switch strings.ToLower(k) {
		case "type":
			kind = strings.ToLower(v)
		case "source", "src":
			source = v
		case "volume-driver", "volume-opt":
			// The local driver mounts whatever it is told to.
			if p.HostVolumes != nil {
				return errors.New("this agent refuses volumes with a driver's options (--allowed_host_volumes)")
			}
		}
	}
	if kind != "bind" {
		return nil
	}
	if !path.IsAbs(source) {
		if p.HostVolumes == nil {
			return nil
		}
		return errors.New("a bind mount needs an absolute source")
	}
	_, _, err := p.HostVolume(source)
	return err
}

// policed is a containerizer that keeps an agent's policy.
type policed struct {
	containerizer.Containerizer
	policy Policy
}

func (p policed) check(c *containerizer.Config) error {
	if err := p.policy.Check(c.Container, isNested(c.ID)); err != nil {
		return err
	}
	for _, cmd := range []*mesosv1.CommandInfo{c.Command, c.Task.GetCommand(), c.Executor.GetCommand()} {
		for _, v := range cmd.GetEnvironment().GetVariables() {
			if v.GetType() != mesosv1.Environment_Variable_SECRET {
				continue
			}
			// Left out, a program would run without what it needs and say something else.
			switch s := v.GetSecret(); {
			case s.GetType() == mesosv1.Secret_REFERENCE:
				return fmt.Errorf("environment variable %s: secret %q is a reference, and this agent has no resolver of secrets; give it as a value", v.GetName(), s.GetReference().GetName())
			case strings.ContainsRune(string(s.GetValue().GetData()), 0):
				return fmt.Errorf("environment variable %s: its secret contains NUL", v.GetName())
			}
		}
	}
	return nil
}

// Supports implements containerizer.Containerizer.
func (p policed) Supports(c containerizer.Config) error {
	if err := p.check(&c); err != nil {
		return err
	}
	return p.Containerizer.Supports(c)
}

// Launch implements containerizer.Containerizer.
func (p policed) Launch(ctx context.Context, c containerizer.Config) error {
	if err := p.check(&c); err != nil {
		return &containerizer.LaunchError{Reason: mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED, Message: "The container can't be launched", Err: err}
	}
	return p.Containerizer.Launch(ctx, c)
}
