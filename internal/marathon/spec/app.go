package spec

// App is a Marathon app in the canonical 1.5+ form. Its JSON encoding is what the API emits: optional and empty keys are
// left out, the ones that clients rely on are always there.
type App struct {
	ID                         string              `json:"id"`
	Cmd                        string              `json:"cmd,omitempty"`
	Args                       []string            `json:"args,omitempty"`
	AcceptedResourceRoles      []string            `json:"acceptedResourceRoles,omitempty"`
	BackoffFactor              float64             `json:"backoffFactor"`
	BackoffSeconds             float64             `json:"backoffSeconds"`
	Check                      *Check              `json:"check,omitempty"`
	Constraints                [][]string          `json:"constraints,omitempty"`
	Container                  *Container          `json:"container,omitempty"`
	CPUs                       float64             `json:"cpus"`
	Dependencies               []string            `json:"dependencies,omitempty"`
	Disk                       float64             `json:"disk"`
	Env                        map[string]EnvVar   `json:"env,omitempty"`
	Executor                   string              `json:"executor"`
	ExecutorResources          *Resources          `json:"executorResources,omitempty"`
	Fetch                      []Artifact          `json:"fetch,omitempty"`
	GPUs                       int                 `json:"gpus"`
	HealthChecks               []HealthCheck       `json:"healthChecks,omitempty"`
	Instances                  int                 `json:"instances"`
	KillSelection              string              `json:"killSelection"`
	Labels                     map[string]string   `json:"labels"`
	MaxLaunchDelaySeconds      float64             `json:"maxLaunchDelaySeconds"`
	Mem                        float64             `json:"mem"`
	Networks                   []Network           `json:"networks"`
	PortDefinitions            []PortDefinition    `json:"portDefinitions,omitzero"`
	ReadinessChecks            []ReadinessCheck    `json:"readinessChecks,omitempty"`
	RequirePorts               bool                `json:"requirePorts"`
	Residency                  *Residency          `json:"residency,omitempty"`
	ResourceLimits             *ResourceLimits     `json:"resourceLimits,omitempty"`
	Role                       string              `json:"role"`
	Secrets                    map[string]Secret   `json:"secrets,omitempty"`
	TaskKillGracePeriodSeconds *int                `json:"taskKillGracePeriodSeconds,omitempty"`
	TTY                        *bool               `json:"tty,omitempty"`
	UnreachableStrategy        UnreachableStrategy `json:"unreachableStrategy"`
	UpgradeStrategy            UpgradeStrategy     `json:"upgradeStrategy"`
	User                       string              `json:"user,omitempty"`
	Version                    Version             `json:"version"`
	VersionInfo                *VersionInfo        `json:"versionInfo,omitempty"`
}

// VersionInfo says when the instances and when the rest of a definition changed last.
type VersionInfo struct {
	LastScalingAt      Version `json:"lastScalingAt"`
	LastConfigChangeAt Version `json:"lastConfigChangeAt"`
}

// EnvVar is the value of an environment variable, or the name of the secret that holds it.
type EnvVar struct {
	Value  string
	Secret string
}

// MarshalJSON emits the plain string, or {"secret": name}.
func (e EnvVar) MarshalJSON() ([]byte, error) {
	if e.Secret != "" {
		return Encode(struct {
			Secret string `json:"secret"`
		}{e.Secret})
	}
	return Encode(e.Value)
}

// Secret names where the value of a secret comes from.
type Secret struct {
	Source string `json:"source"`
}

// Artifact is something the agent fetches into the sandbox.
type Artifact struct {
	URI        string `json:"uri"`
	Extract    bool   `json:"extract"`
	Executable bool   `json:"executable"`
	Cache      bool   `json:"cache"`
	DestPath   string `json:"destPath,omitempty"`
}

// Resources are what a container asks for: cores, MiB, MiB, whole GPUs.
type Resources struct {
	CPUs float64 `json:"cpus"`
	Mem  float64 `json:"mem"`
	Disk float64 `json:"disk"`
	GPUs int     `json:"gpus,omitempty"`
}

// Limit is an upper bound of a resource: a number or "unlimited".
type Limit struct {
	Unlimited bool
	Value     float64
}

// MarshalJSON emits the number or "unlimited".
func (l Limit) MarshalJSON() ([]byte, error) {
	if l.Unlimited {
		return []byte(`"unlimited"`), nil
	}
	return Encode(l.Value)
}

// ResourceLimits are Mesos' TaskInfo.limits.
type ResourceLimits struct {
	CPUs *Limit `json:"cpus,omitempty"`
	Mem  *Limit `json:"mem,omitempty"`
}

// Container says in what an app runs.
type Container struct {
	Type         string        `json:"type"`
	Docker       *Docker       `json:"docker,omitempty"`
	LinuxInfo    *LinuxInfo    `json:"linuxInfo,omitempty"`
	Volumes      []Volume      `json:"volumes"`
	PortMappings []PortMapping `json:"portMappings,omitzero"`
}

// Docker is the image of a container, for either containerizer.
type Docker struct {
	Image          string      `json:"image"`
	ForcePullImage bool        `json:"forcePullImage"`
	Privileged     bool        `json:"privileged"`
	Parameters     []Parameter `json:"parameters,omitempty"`
	PullConfig     *PullConfig `json:"pullConfig,omitempty"`
}

// Parameter is one extra argument of `docker run`.
type Parameter struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// PullConfig names the secret that opens a registry.
type PullConfig struct {
	Secret string `json:"secret"`
}

// LinuxInfo holds the kernel options of a container.
type LinuxInfo struct {
	Seccomp *Seccomp `json:"seccomp,omitempty"`
	IPCInfo *IPCInfo `json:"ipcInfo,omitempty"`
}

// Seccomp picks the filter of system calls.
type Seccomp struct {
	ProfileName string `json:"profileName,omitempty"`
	Unconfined  *bool  `json:"unconfined,omitempty"`
}

// IPCInfo says whether a container has its own IPC namespace and how large its /dev/shm is in MiB.
type IPCInfo struct {
	Mode    string `json:"mode"`
	ShmSize *int   `json:"shmSize,omitempty"`
}

// Volume is one mount of an app: exactly one of host, persistent, external or secret.
type Volume struct {
	ContainerPath string            `json:"containerPath"`
	HostPath      string            `json:"hostPath,omitempty"`
	Mode          string            `json:"mode,omitempty"`
	Persistent    *PersistentVolume `json:"persistent,omitempty"`
	External      *ExternalVolume   `json:"external,omitempty"`
	Secret        string            `json:"secret,omitempty"`
}

// PersistentVolume survives the task on its agent. Sizes in MiB.
type PersistentVolume struct {
	Type        string     `json:"type"`
	Size        int        `json:"size"`
	MaxSize     *int       `json:"maxSize,omitempty"`
	ProfileName string     `json:"profileName,omitempty"`
	Constraints [][]string `json:"constraints,omitempty"`
}

// ExternalVolume comes from a storage system outside the cluster.
type ExternalVolume struct {
	Name     string            `json:"name,omitempty"`
	Provider string            `json:"provider,omitempty"`
	Size     *int              `json:"size,omitempty"`
	Options  map[string]string `json:"options,omitempty"`
	Shared   bool              `json:"shared,omitempty"`
}

// PortMapping is a port of a container network or bridge. HostPort nil: none on the host; 0: any.
type PortMapping struct {
	ContainerPort int               `json:"containerPort"`
	HostPort      *int              `json:"hostPort,omitempty"`
	ServicePort   int               `json:"servicePort"`
	Protocol      string            `json:"protocol"`
	Name          string            `json:"name,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
	NetworkNames  []string          `json:"networkNames,omitempty"`
}

// PortDefinition is a port in host networking. Port is the service port, and the host port if the app requires ports.
type PortDefinition struct {
	Port     int               `json:"port"`
	Protocol string            `json:"protocol"`
	Name     string            `json:"name,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
}

// The modes of a network.
const (
	NetworkHost      = "host"
	NetworkBridge    = "container/bridge"
	NetworkContainer = "container"
)

// Network is one network that a run spec joins.
type Network struct {
	Name   string            `json:"name,omitempty"`
	Mode   string            `json:"mode"`
	Labels map[string]string `json:"labels,omitempty"`
}

// HealthCheck is a probe whose repeated failure kills an instance.
type HealthCheck struct {
	GracePeriodSeconds     int      `json:"gracePeriodSeconds"`
	IntervalSeconds        int      `json:"intervalSeconds"`
	MaxConsecutiveFailures int      `json:"maxConsecutiveFailures"`
	TimeoutSeconds         int      `json:"timeoutSeconds"`
	DelaySeconds           int      `json:"delaySeconds"`
	Command                *Command `json:"command,omitempty"`
	IgnoreHTTP1xx          *bool    `json:"ignoreHttp1xx,omitempty"`
	IPProtocol             string   `json:"ipProtocol,omitempty"`
	Path                   string   `json:"path,omitempty"`
	Port                   *int     `json:"port,omitempty"`
	PortIndex              *int     `json:"portIndex,omitempty"`
	Protocol               string   `json:"protocol"`
}

// Command is a shell command.
type Command struct {
	Value string `json:"value"`
}

// The protocols of health checks. Those that begin with MESOS_ and COMMAND run on the agent.
const (
	ProtocolHTTP       = "HTTP"
	ProtocolHTTPS      = "HTTPS"
	ProtocolTCP        = "TCP"
	ProtocolCommand    = "COMMAND"
	ProtocolMesosHTTP  = "MESOS_HTTP"
	ProtocolMesosHTTPS = "MESOS_HTTPS"
	ProtocolMesosTCP   = "MESOS_TCP"
)

// OnAgent reports whether Mesos runs this check beside the task rather than Marathon over the network.
func (h *HealthCheck) OnAgent() bool {
	switch h.Protocol {
	case ProtocolCommand, ProtocolMesosHTTP, ProtocolMesosHTTPS, ProtocolMesosTCP:
		return true
	}
	return false
}

// IsHTTP reports whether the check has a path.
func (h *HealthCheck) IsHTTP() bool {
	switch h.Protocol {
	case ProtocolHTTP, ProtocolHTTPS, ProtocolMesosHTTP, ProtocolMesosHTTPS:
		return true
	}
	return false
}

// Check is Mesos' general check, whose result is only shown.
type Check struct {
	HTTP            *CheckHTTP `json:"http,omitempty"`
	TCP             *CheckTCP  `json:"tcp,omitempty"`
	Exec            *Exec      `json:"exec,omitempty"`
	IntervalSeconds int        `json:"intervalSeconds"`
	TimeoutSeconds  int        `json:"timeoutSeconds"`
	DelaySeconds    int        `json:"delaySeconds"`
}

// CheckHTTP asks for a path; in a pod the port is an endpoint's name.
type CheckHTTP struct {
	PortIndex *int   `json:"portIndex,omitempty"`
	Port      *int   `json:"port,omitempty"`
	Endpoint  string `json:"endpoint,omitempty"`
	Path      string `json:"path,omitempty"`
	Scheme    string `json:"scheme,omitempty"`
}

// CheckTCP opens a connection.
type CheckTCP struct {
	PortIndex *int   `json:"portIndex,omitempty"`
	Port      *int   `json:"port,omitempty"`
	Endpoint  string `json:"endpoint,omitempty"`
}

// Exec is a command, as a shell line or as arguments.
type Exec struct {
	Command            ExecCommand `json:"command"`
	OverrideEntrypoint *bool       `json:"overrideEntrypoint,omitempty"`
}

// ExecCommand is one of the two.
type ExecCommand struct {
	Shell string   `json:"shell,omitempty"`
	Argv  []string `json:"argv,omitempty"`
}

// ReadinessCheck tells during a deployment when an instance is ready for the next step.
type ReadinessCheck struct {
	Name                    string `json:"name"`
	Protocol                string `json:"protocol"`
	Path                    string `json:"path"`
	PortName                string `json:"portName"`
	IntervalSeconds         int    `json:"intervalSeconds"`
	TimeoutSeconds          int    `json:"timeoutSeconds"`
	HTTPStatusCodesForReady []int  `json:"httpStatusCodesForReady"`
	PreserveLastResponse    bool   `json:"preserveLastResponse"`
}

// Residency is emitted for apps with persistent volumes; it has had no effect since Marathon 1.5.
type Residency struct {
	RelaunchEscalationTimeoutSeconds int    `json:"relaunchEscalationTimeoutSeconds"`
	TaskLostBehavior                 string `json:"taskLostBehavior"`
}

// UnreachableStrategy says when an unreachable instance gets a replacement and when it is forgotten, in seconds.
type UnreachableStrategy struct {
	Disabled bool
	Inactive int
	Expunge  int
}

// MarshalJSON emits the two times, or "disabled".
func (u UnreachableStrategy) MarshalJSON() ([]byte, error) {
	if u.Disabled {
		return []byte(`"disabled"`), nil
	}
	return Encode(struct {
		Inactive int `json:"inactiveAfterSeconds"`
		Expunge  int `json:"expungeAfterSeconds"`
	}{u.Inactive, u.Expunge})
}

// UpgradeStrategy bounds how far a rolling replacement may fall below and rise above the number of instances.
type UpgradeStrategy struct {
	MinimumHealthCapacity float64 `json:"minimumHealthCapacity"`
	MaximumOverCapacity   float64 `json:"maximumOverCapacity"`
}

// Values of killSelection.
const (
	YoungestFirst = "YOUNGEST_FIRST"
	OldestFirst   = "OLDEST_FIRST"
)

// Resident reports whether the app has a persistent volume, so that its instances stay with their agents.
func (a *App) Resident() bool {
	if a.Container != nil {
		for _, v := range a.Container.Volumes {
			if v.Persistent != nil {
				return true
			}
		}
	}
	return false
}

// HostNetworking reports whether the app uses its agent's own network.
func (a *App) HostNetworking() bool {
	return len(a.Networks) == 0 || a.Networks[0].Mode == NetworkHost
}
