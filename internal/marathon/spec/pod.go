package spec

// Pod is a Marathon pod: containers that are started together on one agent. Its JSON encoding is what the API emits.
type Pod struct {
	ID                  string            `json:"id"`
	Labels              map[string]string `json:"labels,omitempty"`
	Version             Version           `json:"version"`
	User                string            `json:"user,omitempty"`
	Environment         map[string]EnvVar `json:"environment,omitempty"`
	Containers          []PodContainer    `json:"containers"`
	Secrets             map[string]Secret `json:"secrets,omitempty"`
	Volumes             []PodVolume       `json:"volumes,omitempty"`
	Networks            []Network         `json:"networks"`
	Scaling             PodScaling        `json:"scaling"`
	Scheduling          PodScheduling     `json:"scheduling"`
	ExecutorResources   Resources         `json:"executorResources"`
	LinuxInfo           *LinuxInfo        `json:"linuxInfo,omitempty"`
	LegacySharedCgroups *bool             `json:"legacySharedCgroups,omitempty"`
	Role                string            `json:"role"`
}

// PodContainer is one container of a pod.
type PodContainer struct {
	Name           string            `json:"name"`
	Exec           *Exec             `json:"exec,omitempty"`
	Resources      Resources         `json:"resources"`
	ResourceLimits *ResourceLimits   `json:"resourceLimits,omitempty"`
	Endpoints      []Endpoint        `json:"endpoints,omitempty"`
	Image          *Image            `json:"image,omitempty"`
	Environment    map[string]EnvVar `json:"environment,omitempty"`
	User           string            `json:"user,omitempty"`
	HealthCheck    *PodHealthCheck   `json:"healthCheck,omitempty"`
	Check          *Check            `json:"check,omitempty"`
	VolumeMounts   []VolumeMount     `json:"volumeMounts,omitempty"`
	Artifacts      []Artifact        `json:"artifacts,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Lifecycle      *Lifecycle        `json:"lifecycle,omitempty"`
	LinuxInfo      *LinuxInfo        `json:"linuxInfo,omitempty"`
	TTY            *bool             `json:"tty,omitempty"`
}

// Endpoint is a named port of a container.
type Endpoint struct {
	Name          string            `json:"name"`
	ContainerPort *int              `json:"containerPort,omitempty"`
	HostPort      *int              `json:"hostPort,omitempty"`
	Protocol      []string          `json:"protocol,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
	NetworkNames  []string          `json:"networkNames,omitempty"`
}

// Image is what a container's root file system comes from.
type Image struct {
	Kind       string            `json:"kind"`
	ID         string            `json:"id"`
	PullConfig *PullConfig       `json:"pullConfig,omitempty"`
	ForcePull  bool              `json:"forcePull,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
}

// PodHealthCheck is run by Mesos beside the container; exactly one of HTTP, TCP and Exec is there.
type PodHealthCheck struct {
	HTTP                   *CheckHTTP `json:"http,omitempty"`
	TCP                    *CheckTCP  `json:"tcp,omitempty"`
	Exec                   *Exec      `json:"exec,omitempty"`
	GracePeriodSeconds     int        `json:"gracePeriodSeconds"`
	IntervalSeconds        int        `json:"intervalSeconds"`
	MaxConsecutiveFailures int        `json:"maxConsecutiveFailures"`
	TimeoutSeconds         int        `json:"timeoutSeconds"`
	DelaySeconds           int        `json:"delaySeconds"`
}

// VolumeMount puts a volume of the pod into a container.
type VolumeMount struct {
	Name      string `json:"name"`
	MountPath string `json:"mountPath"`
	ReadOnly  bool   `json:"readOnly,omitempty"`
}

// PodVolume is ephemeral, or one of host, persistent and secret.
type PodVolume struct {
	Name       string            `json:"name"`
	Host       string            `json:"host,omitempty"`
	Persistent *PersistentVolume `json:"persistent,omitempty"`
	Secret     string            `json:"secret,omitempty"`
}

// Lifecycle bounds how long a container may take to end.
type Lifecycle struct {
	KillGracePeriodSeconds *float64 `json:"killGracePeriodSeconds,omitempty"`
}

// PodScaling is how many instances there are; kind is always "fixed".
type PodScaling struct {
	Kind         string `json:"kind"`
	Instances    int    `json:"instances"`
	MaxInstances *int   `json:"maxInstances,omitempty"`
}

// PodScheduling says when and where instances start and end.
type PodScheduling struct {
	Backoff             PodBackoff          `json:"backoff"`
	Upgrade             UpgradeStrategy     `json:"upgrade"`
	Placement           PodPlacement        `json:"placement"`
	KillSelection       string              `json:"killSelection"`
	UnreachableStrategy UnreachableStrategy `json:"unreachableStrategy"`
}

// PodBackoff delays starts after failures; times in seconds.
type PodBackoff struct {
	Backoff        float64 `json:"backoff"`
	BackoffFactor  float64 `json:"backoffFactor"`
	MaxLaunchDelay float64 `json:"maxLaunchDelay"`
}

// PodPlacement restricts the agents.
type PodPlacement struct {
	Constraints           []PodConstraint `json:"constraints,omitempty"`
	AcceptedResourceRoles []string        `json:"acceptedResourceRoles,omitempty"`
}

// PodConstraint is the pod form of a constraint.
type PodConstraint struct {
	FieldName string `json:"fieldName"`
	Operator  string `json:"operator"`
	Value     string `json:"value,omitempty"`
}

// Resident reports whether the pod has a persistent volume.
func (p *Pod) Resident() bool {
	for _, v := range p.Volumes {
		if v.Persistent != nil {
			return true
		}
	}
	return false
}

// HostNetworking reports whether the pod uses its agent's own network.
func (p *Pod) HostNetworking() bool {
	return len(p.Networks) == 0 || p.Networks[0].Mode == NetworkHost
}
