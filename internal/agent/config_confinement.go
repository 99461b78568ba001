package agent

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/confine"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/native"
	"github.com/orchestrator/orchestrator/internal/agent/projectquota"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/resources"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

// Confinement are the settings about what containers may see and do.
type Confinement struct {
	EffectiveCapabilities config.JSON   `flag:"effective_capabilities" help:"Capabilities that tasks get which name none: {\"capabilities\":[\"NET_RAW\",…]}. Unset: those of their user; with an image, Docker's default set. Needs the isolation linux/capabilities."`
	BoundingCapabilities  config.JSON   `flag:"bounding_capabilities" help:"The most that a task can get or ask for. Unset: all."`
	SeccompDir            config.Path   `flag:"seccomp_config_dir" help:"Directory of seccomp profiles in Docker's format."`
	SeccompProfile        string        `flag:"seccomp_profile_name" help:"Profile of containers that name none: a file of --seccomp_config_dir, or default for the built-in one (Docker's). Unset: none; with an image, the built-in one. Needs the isolation linux/seccomp."`
	NoAgentPID            bool          `flag:"disallow_sharing_agent_pid_namespace" default:"false" help:"Refuse containers that ask for the host's PID namespace."`
	NoAgentIPC            bool          `flag:"disallow_sharing_agent_ipc_namespace" default:"false" help:"Refuse containers that ask for the host's IPC namespace, and give every other one its own with a /dev/shm."`
	ShmSize               config.Bytes  `flag:"default_container_shm_size" help:"Size of a container's own /dev/shm when it names none. Unset: half of the memory."`
	AllowedDevices        config.JSON   `flag:"allowed_devices" help:"Devices that containers get beside the harmless ones: {\"allowed_devices\":[{\"device\":{\"path\":\"/dev/fuse\"},\"access\":{\"read\":true,\"write\":true}}]}. Needs the isolation linux/devices."`
	CPUSetCPUs            string        `flag:"cgroups_cpuset_cpus" env:"-" help:"Processors that containers are pinned to, such as 2-7. Needs the isolation cgroups/cpuset. Unset: all."`
	CPUSetMems            string        `flag:"cgroups_cpuset_mems" env:"-" help:"Memory nodes that containers are pinned to."`
	DefaultContainer      config.JSON   `flag:"default_container_info" help:"ContainerInfo of executors that have none. A volume with a relative host_path lies in the sandbox: {\"type\":\"MESOS\",\"volumes\":[{\"host_path\":\".private/tmp\",\"container_path\":\"/tmp\",\"mode\":\"RW\"}]} gives each its own /tmp."`
	DefaultDNS            config.JSON   `flag:"default_container_dns" help:"What containers in a container network are told about name servers when the network says nothing: {\"mesos\":[{\"network_mode\":\"CNI\",\"network_name\":…,\"dns\":{\"nameservers\":[…],\"search\":[…],\"options\":[…]}}]}."`
	CNIConfigDir          config.Path   `flag:"network_cni_config_dir" help:"Directory of container networks (CNI configurations), found by their names."`
	CNIPluginsDir         string        `flag:"network_cni_plugins_dir" help:"Directories of CNI plugins, separated by colons."`
	CNIRootPersist        bool          `flag:"network_cni_root_dir_persist" default:"false" help:"Keep the state of container networks in the work directory, where it survives a reboot, instead of the runtime directory."`
	CNIMetrics            bool          `flag:"network_cni_metrics" default:"true" ignored:"the figures of container networks are always there" help:"Count what happens to container networks."`
	CNITimeout            time.Duration `flag:"network_cni_timeout" env:"-" default:"30secs" help:"How long one call of a CNI plugin may take before it is killed."`

	EnforcePorts  bool          `flag:"enforce_container_ports" default:"false" help:"End containers that listen on ports of the host that they were not given; otherwise they are logged. Needs the isolation network/ports."`
	PortsInterval time.Duration `flag:"container_ports_watch_interval" default:"30secs" help:"How often the isolation network/ports looks at who listens."`
	PortsOwnOnly  bool          `flag:"check_agent_port_range_only" default:"false" help:"Let network/ports look at the ports only that this agent offers."`
	PortsRange    string        `flag:"container_ports_isolated_range" help:"Let network/ports look at these ports only, such as [0-35000]. Not together with --check_agent_port_range_only."`

	UserRange string `flag:"user_namespace_range" env:"-" default:"[1879048192-2147483647]" help:"Host ids of users that are nobody's but this agent's containers': the isolation namespaces/user gives each 65536 of them. Agents of one host need ranges of their own."`

	GPUDevices string `flag:"nvidia_gpu_devices" help:"Numbers of the GPUs that may be used, separated by commas: N is /dev/nvidiaN. Unset: all that are there. Needs the isolation gpu/nvidia."`

	MetricsLimit  int      `flag:"container_metrics_limit" env:"-" default:"200" help:"Running containers that Prometheus is told of one by one. 0: none."`
	HostVolumes   []string `flag:"allowed_host_volumes" env:"-" help:"The only directories of the host that volumes may come from; no symbolic link leads out of them, and Docker volumes with a driver's options are refused. none: no volumes from the host. Unset: any path."`
	NoHostNetwork bool     `flag:"refuse_host_network" env:"-" default:"false" help:"Refuse containers in the host's network."`
	NoPrivileged  bool     `flag:"refuse_privileged" env:"-" default:"false" help:"Refuse what undoes a container's isolation: privileged, the host's PID and IPC namespace, no seccomp profile, and Docker capabilities and parameters that are not known to be harmless."`
}

// noVolumes is the value of --allowed_host_volumes that allows none.
const noVolumes = "none"

func (c *Config) policy() Policy {
	p := Policy{HostVolumes: c.HostVolumes, NoHostNetwork: c.NoHostNetwork, NoPrivileged: c.NoPrivileged}
	if len(p.HostVolumes) == 0 {
		p.HostVolumes = nil
	}
	if len(p.HostVolumes) == 1 && p.HostVolumes[0] == noVolumes {
		p.HostVolumes = []string{}
	}
	return p
}

func given(j config.JSON) bool { return strings.TrimSpace(string(j)) != "" }

func message[M proto.Message](j config.JSON, m M) (M, error) {
	var none M
	if !given(j) {
		return none, nil
	}
	if err := mesosjson.Unmarshal([]byte(j), m); err != nil {
		return none, err
	}
	return m, nil
}

// confinement reads the settings as package confine takes them.
func (c *Config) confinement() (confine.Host, error) {
	var p config.Problems
	h := confine.Host{
		SeccompProfile: c.SeccompProfile, ShmSize: uint32(c.ShmSize >> 20), NoAgentPID: c.NoAgentPID, NoAgentIPC: c.NoAgentIPC,
	}
	var err error
	h.Effective, err = message(c.EffectiveCapabilities, &mesosv1.CapabilityInfo{})
	p.Check("effective_capabilities", err)
	h.Bounding, err = message(c.BoundingCapabilities, &mesosv1.CapabilityInfo{})
	p.Check("bounding_capabilities", err)
	devices, err := message(c.AllowedDevices, &mesosv1.DeviceWhitelist{})
	p.Check("allowed_devices", err)
	h.Devices, err = confine.DevicesOf(devices)
	p.Check("allowed_devices", err)
	h.DNS, err = confine.DNSOf(string(c.DefaultDNS))
	p.Check("default_container_dns", err)
	_, err = c.defaultContainer()
	p.Check("default_container_info", err)
	_, err = c.projects()
	p.Check("xfs_project_range", err)
	_, err = c.userRange()
	p.Check("user_namespace_range", err)
	_, err = c.gpus()
	p.Check("nvidia_gpu_devices", err)
	_, err = c.ports()
	p.Check("container_ports_isolated_range", err)
	if c.PortsInterval <= 0 {
		p.Addf("container_ports_watch_interval", "%s is not a positive duration", config.FormatDuration(c.PortsInterval))
	}
	if c.MetricsLimit < 0 {
		p.Addf("container_metrics_limit", "must not be negative")
	}
	if c.CNITimeout <= 0 {
		p.Addf("network_cni_timeout", "%s is not a positive duration", config.FormatDuration(c.CNITimeout))
	}
	if (c.CNIConfigDir == "") != (c.CNIPluginsDir == "") {
		p.Addf("network_cni_config_dir", "container networks need both --network_cni_config_dir and --network_cni_plugins_dir")
	}
	policy := c.policy()
	p.Check("allowed_host_volumes", policy.validate())
	return h, p.Err()
}

// defaultContainer is --default_container_info; nil: none.
func (c *Config) defaultContainer() (*mesosv1.ContainerInfo, error) {
	m, err := message(c.DefaultContainer, &mesosv1.ContainerInfo{})
	if err == nil && m != nil && m.GetType() != mesosv1.ContainerInfo_MESOS {
		err = fmt.Errorf("its type must be MESOS")
	}
	return m, err
}

// projects are the ranges of --xfs_project_range.
func (c *Config) projects() ([]projectquota.Range, error) {
	r, err := resources.Parse("ports:"+c.XFSProjectRange, "*") // any resource that is ranges
	if err != nil {
		return nil, err
	}
	var out []projectquota.Range
	for _, x := range r.Ports() {
		if x.Begin == 0 || x.End >= math.MaxUint32 { // that one means none
			return nil, fmt.Errorf("%d-%d: numbers of projects go from 1 to %d", x.Begin, x.End, uint32(math.MaxUint32-1))
		}
		out = append(out, projectquota.Range{First: uint32(x.Begin), Last: uint32(x.End)})
	}
	return out, nil
}

// gpus is --nvidia_gpu_devices.
func (c *Config) gpus() (g native.GPUConfig, err error) {
	if strings.TrimSpace(c.GPUDevices) == "" {
		return g, nil
	}
	if !c.isolates(confine.IsolateGPU) {
		return g, fmt.Errorf("it needs the isolation %s: name it in --isolation", confine.IsolateGPU)
	}
	for f := range strings.SplitSeq(c.GPUDevices, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(f), 10, 8)
		if err != nil {
			return g, fmt.Errorf("%q is not the number of a GPU: give numbers separated by commas, such as 0,1", f)
		}
		g.Only = append(g.Only, uint32(n))
	}
	return g, nil
}

// isolates reports whether --isolation names an isolator.
func (c *Config) isolates(name string) bool {
	for f := range strings.SplitSeq(c.Isolation, ",") {
		if strings.TrimSpace(f) == name {
			return true
		}
	}
	return false
}

// userRange is --user_namespace_range.
func (c *Config) userRange() (r native.UserRange, err error) {
	if _, err := fmt.Sscanf(c.UserRange, "[%d-%d]", &r.First, &r.Last); err != nil {
		return r, fmt.Errorf("%q is not of the form [1000000-1999999]", c.UserRange)
	}
	return r, r.Validate()
}

// ports are the settings of the isolation network/ports.
func (c *Config) ports() (native.PortsConfig, error) {
	p := native.PortsConfig{Interval: c.PortsInterval, Enforce: c.EnforcePorts}
	text := c.PortsRange
	switch {
	case c.PortsOwnOnly && text != "":
		return p, fmt.Errorf("it can't be given together with --check_agent_port_range_only")
	case c.PortsOwnOnly:
		own, err := parseResources(c.Resources)
		if err != nil {
			return p, nil // said of --resources
		}
		if p.Range = own.Ports(); p.Range == nil {
			text = defaultPorts
		}
	}
	if text == "" {
		return p, nil
	}
	r, err := resources.Parse("ports:"+text, "*")
	if err != nil {
		return p, err
	}
	p.Range = r.Ports()
	return p, nil
}
