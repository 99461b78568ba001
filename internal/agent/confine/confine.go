package confine

import (
	"errors"
	"fmt"
	"slices"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
)

// Names of isolators (Mesos' --isolation) that decide here.
const (
	IsolateCapabilities = "linux/capabilities"
	IsolateSeccomp      = "linux/seccomp"
	IsolateNNP          = "linux/nnp"
	IsolateDevices      = "linux/devices"
	IsolateDeviceGroup  = "cgroups/devices"
	IsolateGPU          = "gpu/nvidia"
	IsolatePID          = "namespaces/pid"
	IsolateIPC          = "namespaces/ipc"
	IsolateCNI          = "network/cni"
	IsolateUser         = "namespaces/user"
)

// Host is what is the same for every container of an agent: its flags and what its host gives.
type Host struct {
	// Root: the agent may switch users, mount and make namespaces.
	Root bool
	// Isolators are those that are on.
	Isolators map[string]bool
	// Off says why others are not, where there is something to say.
	Off map[string]string
	// Mounts: containers can have a mount namespace of their own.
	Mounts bool
	// Effective and Bounding are --effective_capabilities and --bounding_capabilities; nil: not given.
	Effective, Bounding *mesosv1.CapabilityInfo
	// SeccompProfile is --seccomp_profile_name: the profile of containers that name none; empty: none.
	SeccompProfile string
	// ShmSize is --default_container_shm_size in MB; 0: the kernel's own default.
	ShmSize uint32
	// NoAgentPID and NoAgentIPC are --disallow_sharing_agent_pid_namespace and …_ipc_namespace.
	NoAgentPID, NoAgentIPC bool
	// Devices are --allowed_devices: what containers may use beside the harmless ones.
	Devices []Device
	// DNS is --default_container_dns; nil: not given.
	DNS *DefaultDNS
}

func (h *Host) lacks(isolator, what string) error {
	why := h.Off[isolator]
	if why == "" {
		why = "it is not among the agent's isolators"
	}
	return fmt.Errorf("%s needs the isolation %s: %s", what, isolator, why)
}

// Namespace says which namespace of a kind a container is in.
type Namespace int

// The namespaces that a container can be in.
const (
	Agents  Namespace = iota // the agent's own: the host's
	Parents                  // that of the container it is nested in
	New                      // one of its own
)

// Settings is what one container gets.
type Settings struct {
	// User is the account that the processes run as; empty: the agent's own.
	User string
	// Capabilities is nil when they are not touched: root has all, other users none.
	Capabilities *Capabilities
	// Seccomp names the profile; empty: none. DefaultProfile is built in.
	Seccomp string
	// NoNewPrivs: no program gives more rights than the process has (setuid, file capabilities).
	NoNewPrivs bool
	// Rlimits in the order they were asked for; what is not named is inherited.
	Rlimits []Rlimit

	PID, IPC, UTS, Network Namespace
	// Users is where the processes' users are: New or Parents, or Agents: they are the host's.
	Users Namespace
	// Hostname, in a UTS namespace of its own; empty: the host's.
	Hostname string
	// Networks are the container networks to join, in order, when Network is New.
	Networks []*mesosv1.NetworkInfo
	// DNS is what the resolver is told when no network says it; nil: as the host.
	DNS *DNS

	// Shm is the container's own /dev/shm; nil: the one it is born with.
	Shm *Shm
	// Devices are made visible and allowed. LimitDevices: all others but the harmless ones are denied.
	Devices      []Device
	LimitDevices bool
	// MaskedPaths are hidden, ReadOnlyPaths can't be written (containers with a root file system of their own).
	MaskedPaths, ReadOnlyPaths []string
}

// Shm is a /dev/shm.
type Shm struct {
	SizeMB uint32 // 0: the kernel's own default, half of the memory
}

// DefaultProfile is the name of the built-in seccomp profile, which is Docker's.
const DefaultProfile = "default"

// Docker hides and protects these from every container that is not privileged.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	readOnlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// Of computes what a container gets. parent is the description of the container that it is nested in, or nil. Sessions and
// checks run inside their parent: with the parent's own settings and never more.
func Of(h *Host, cfg, parent *containerizer.Config) (*Settings, error) {
	inside := cfg.Kind == containerizer.Session || cfg.Kind == containerizer.Check
	info := cfg.Container
	if inside {
		if parent == nil {
			return nil, errors.New("a container for debugging needs a parent")
		}
		info = parent.Container
	}
	li := info.GetLinuxInfo()
	image := info.GetMesos().GetImage() != nil
	s := &Settings{User: cfg.User}
	var err error
	if s.Capabilities, err = capabilities(h, li, image); err != nil {
		return nil, err
	}
	if image && h.Root {
		if s.Capabilities == nil {
			// With less than root has, the helper that stands in the container's PID namespace is out of its reach.
			s.Capabilities = &Capabilities{Bounding: dockerDefault}
		}
		if slices.Contains(s.Capabilities.Bounding, sysPtrace) {
			return nil, errors.New("capability SYS_PTRACE is not given to a container with an image: it would reach the helper beside it, and by it the host")
		}
	}
	if s.Capabilities != nil && !h.Root {
		return nil, errors.New("capabilities need an agent that runs as root")
	}
	if s.Seccomp, err = seccomp(h, li, image); err != nil {
		return nil, err
	}
	s.NoNewPrivs = h.Isolators[IsolateNNP]
	limits := info
	if inside && cfg.Container.GetRlimitInfo() != nil {
		limits = cfg.Container
	}
	if s.Rlimits, err = rlimits(limits); err != nil {
		return nil, err
	}
	if inside {
		s.PID, s.IPC, s.UTS, s.Network, s.Users = Parents, Parents, Parents, Parents, Parents
		return s, nil
	}
	if err := s.namespaces(h, info, parent != nil); err != nil {
		return nil, err
	}
	if err := s.shm(h, li, parent != nil, image); err != nil {
		return nil, err
	}
	s.LimitDevices = h.Isolators[IsolateDeviceGroup] || h.Isolators[IsolateDevices]
	if s.LimitDevices {
		s.Devices = h.Devices
	}
	if image {
		s.MaskedPaths, s.ReadOnlyPaths = maskedPaths, readOnlyPaths
	}
	return s, nil
}

func (s *Settings) namespaces(h *Host, info *mesosv1.ContainerInfo, nested bool) error {
	li := info.GetLinuxInfo()
	other := Agents
	if nested {
		other = Parents
	}
	s.PID, s.IPC, s.UTS, s.Network, s.Users = other, other, other, other, other
	if h.Isolators[IsolateUser] && !nested && !HostUsers(info) {
		s.Users = New
	}
	if !h.Root {
		switch {
		case info.GetHostname() != "":
			return errors.New("a hostname of its own needs an agent that runs as root")
		case li.GetIpcMode() == mesosv1.LinuxInfo_PRIVATE:
			return errors.New("a private IPC namespace needs an agent that runs as root")
		}
	}
	switch {
	case !li.GetSharePidNamespace() && h.Isolators[IsolatePID]:
		s.PID = New
	case li.GetSharePidNamespace() && !nested && h.NoAgentPID:
		return errors.New("share_pid_namespace: this agent does not let containers share its own PID namespace (--disallow_sharing_agent_pid_namespace)")
	}
	switch li.GetIpcMode() {
	case mesosv1.LinuxInfo_PRIVATE:
		s.IPC = New
	case mesosv1.LinuxInfo_SHARE_PARENT:
		if !nested && h.NoAgentIPC {
			return errors.New("ipc_mode SHARE_PARENT: this agent does not let containers share its own IPC namespace (--disallow_sharing_agent_ipc_namespace)")
		}
	default:
		if !nested && h.Isolators[IsolateIPC] {
			s.IPC = New
		}
	}
	if !nested && h.NoAgentIPC {
		s.IPC = New
	}
	for _, n := range info.GetNetworkInfos() {
		if n.GetName() == "" {
			if len(n.GetPortMappings()) > 0 {
				return errors.New("port mappings need a container network: network_infos.name is not set")
			}
			continue
		}
		switch {
		case nested:
			return fmt.Errorf("container network %q: a nested container shares its parent's network; name networks in the executor's container", n.GetName())
		case !h.Isolators[IsolateCNI]:
			return h.lacks(IsolateCNI, fmt.Sprintf("container network %q", n.GetName()))
		}
		s.Network = New
		s.Networks = append(s.Networks, n)
	}
	if s.Network == New {
		s.UTS = New // its name belongs to its address
		s.DNS = h.DNS.For(s.Networks[0].GetName())
	}
	if s.Hostname = info.GetHostname(); s.Hostname != "" {
		s.UTS = New
	}
	return nil
}

// HostUsers reports whether a container asks to be in no user namespace. Mesos has no field for it; docker's own parameter is understood.
func HostUsers(info *mesosv1.ContainerInfo) bool {
	for _, p := range info.GetDocker().GetParameters() {
		if p.GetKey() == "userns" && p.GetValue() == "host" {
			return true
		}
	}
	return false
}

// shm follows Mesos' namespaces/ipc: PRIVATE has a /dev/shm of its own; a container that says nothing has one only with a
// root file system of its own, for what was so before there was a mode; and where the agent keeps its own to itself.
func (s *Settings) shm(h *Host, li *mesosv1.LinuxInfo, nested, image bool) error {
	own := s.IPC == New && (li.GetIpcMode() == mesosv1.LinuxInfo_PRIVATE || image || !nested && h.NoAgentIPC)
	if !own {
		return nil // shm_size is ignored for a container that shares its parent's (Mesos)
	}
	if !h.Mounts {
		return errors.New("a /dev/shm of its own needs an agent that runs as root with the isolation filesystem/linux")
	}
	s.Shm = &Shm{SizeMB: h.ShmSize}
	if li.GetShmSize() > 0 {
		s.Shm.SizeMB = li.GetShmSize()
	}
	return nil
}

func seccomp(h *Host, li *mesosv1.LinuxInfo, image bool) (string, error) {
	info := li.GetSeccomp()
	if info.GetUnconfined() && info.GetProfileName() != "" {
		return "", errors.New("linux_info.seccomp: 'profile_name' given while 'unconfined' is set")
	}
	if !h.Isolators[IsolateSeccomp] {
		if info.GetProfileName() != "" {
			return "", h.lacks(IsolateSeccomp, fmt.Sprintf("seccomp profile %q", info.GetProfileName()))
		}
		return "", nil
	}
	switch {
	case info.GetUnconfined():
		return "", nil
	case info.GetProfileName() != "":
		return info.GetProfileName(), nil
	case h.SeccompProfile != "":
		return h.SeccompProfile, nil
	case image:
		return DefaultProfile, nil
	}
	return "", nil
}
