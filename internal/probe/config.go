package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// The parts of a policy: what a monitor may have this probe do.
const (
	PolicyLifecycle = "lifecycle" // start, stop, restart, pause, kill, remove, signals
	PolicyLogs      = "logs"
	PolicyExec      = "exec"      // a shell in a container, its files, environment and inspection
	PolicyHostExec  = "host-exec" // a shell on the host itself
	PolicyPlugins   = "plugins"   // what plugins offer
)

// Config is all that a probe is told.
type Config struct {
	// Monitors are the addresses of every replica: host, host:port or a URL. Each gets the whole stream.
	Monitors []string
	// Token or TokenFile holds the secret of a token of kind probe. The file is read again at every connect.
	Token, TokenFile string
	// TLS is used for https monitors; nil means the system's authorities.
	TLS *tls.Config
	// ID and Hostname name the probe and the host; both default to the host's name.
	ID, Hostname string
	// Tick is how often the picture is put together. Default 1 s.
	Tick time.Duration
	// MaxProcesses is how many processes are sent; those with connections first, then the busiest. Default 500.
	MaxProcesses int
	// NetSource forces one source of connections: auto (default), ebpf, diag, proc, conntrack, none.
	NetSource string
	// Conntrack reads the kernel's NAT table: auto (default), on, off.
	Conntrack string
	// DockerSocket is where the Engine listens; "" means /var/run/docker.sock, "off" none.
	DockerSocket string
	// RuntimeSockets are where containerd and other runtimes of Kubernetes listen; nil means DefaultRuntimeSockets, empty none.
	RuntimeSockets []string
	// MesosAgents are the URLs of this host's Mesos agents.
	MesosAgents []string
	// PluginsDir is where plugins' sockets are; "" means /var/run/scope/plugins, "off" none.
	PluginsDir string
	// PluginsTimeout is how long a plugin may take for a report. Default 2 s.
	PluginsTimeout time.Duration
	// Kubernetes says whether this probe watches the cluster: off (default), on, lease.
	Kubernetes string
	// KubeConfig is the file that says how to reach the API server; "" means as a pod does.
	KubeConfig string
	// KubeLease names the lease, [namespace/]name. Default orchestrator-probe, in the probe's own namespace.
	KubeLease string
	// Policy is what monitors may have this probe do. Default: lifecycle, logs, exec, plugins; not host-exec.
	Policy []string
	// ProcRoot and SysRoot are /proc and /sys, elsewhere when the probe runs in a container of its own.
	ProcRoot, SysRoot string
	// CPULimit is the percent of a core above which the probe slows itself down. Default 3.
	CPULimit float64
	// Simulate makes this process play that many hosts instead of looking at its own.
	Simulate *Simulation
}

// DefaultRuntimeSockets is where containerd and CRI-O listen.
func DefaultRuntimeSockets() []string {
	return []string{"/run/containerd/containerd.sock", "/run/crio/crio.sock"}
}

// Deps is what tests swap.
type Deps struct {
	Logger *slog.Logger
	// Dial opens connections to monitors; nil is the network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

func (c *Config) defaults() {
	if c.Hostname == "" {
		c.Hostname, _ = os.Hostname()
	}
	if c.ID == "" {
		c.ID = c.Hostname
	}
	if c.Tick == 0 {
		c.Tick = time.Second
	}
	if c.MaxProcesses == 0 {
		c.MaxProcesses = 500
	}
	if c.NetSource == "" {
		c.NetSource = "auto"
	}
	if c.Conntrack == "" {
		c.Conntrack = "auto"
	}
	switch c.DockerSocket {
	case "":
		c.DockerSocket = "/var/run/docker.sock"
	case "off":
		c.DockerSocket = ""
	}
	if c.RuntimeSockets == nil {
		c.RuntimeSockets = DefaultRuntimeSockets()
	}
	switch c.PluginsDir {
	case "":
		c.PluginsDir = "/var/run/scope/plugins"
	case "off":
		c.PluginsDir = ""
	}
	if c.Kubernetes == "" {
		c.Kubernetes = KubernetesOff
	}
	if c.KubeLease == "" {
		c.KubeLease = "orchestrator-probe"
	}
	if c.PluginsTimeout == 0 {
		c.PluginsTimeout = 2 * time.Second
	}
	if c.Policy == nil {
		c.Policy = []string{PolicyLifecycle, PolicyLogs, PolicyExec, PolicyPlugins}
	}
	if c.ProcRoot == "" {
		c.ProcRoot = "/proc"
	}
	if c.SysRoot == "" {
		c.SysRoot = "/sys"
	}
	if c.CPULimit == 0 {
		c.CPULimit = 3
	}
}

// Validate joins everything that is wrong with the configuration.
func (c *Config) Validate() error {
	var errs []error
	if len(c.Monitors) == 0 {
		errs = append(errs, errors.New("monitors: at least one address is needed, such as --monitors=10.0.0.5:4040"))
	}
	for _, m := range c.Monitors {
		if _, err := monitorURL(m); err != nil {
			errs = append(errs, err)
		}
	}
	if c.Tick < 100*time.Millisecond || c.Tick > time.Minute {
		errs = append(errs, fmt.Errorf("tick: %v is not between 100ms and 1m", c.Tick))
	}
	if !slices.Contains([]string{"auto", "ebpf", "diag", "proc", "conntrack", "none"}, c.NetSource) {
		errs = append(errs, fmt.Errorf("net-source: %q is none of auto, ebpf, diag, proc, conntrack, none", c.NetSource))
	}
	if !slices.Contains([]string{"auto", "on", "off"}, c.Conntrack) {
		errs = append(errs, fmt.Errorf("conntrack: %q is none of auto, on, off", c.Conntrack))
	}
	if !slices.Contains([]string{KubernetesOff, KubernetesOn, KubernetesLease}, c.Kubernetes) {
		errs = append(errs, fmt.Errorf("kubernetes: %q is none of off, on, lease", c.Kubernetes))
	}
	for _, p := range c.Policy {
		if !slices.Contains([]string{PolicyLifecycle, PolicyLogs, PolicyExec, PolicyHostExec, PolicyPlugins}, p) {
			errs = append(errs, fmt.Errorf("policy: %q is none of lifecycle, logs, exec, host-exec, plugins", p))
		}
	}
	if c.PluginsTimeout < 10*time.Millisecond || c.PluginsTimeout > time.Minute {
		errs = append(errs, fmt.Errorf("plugins-timeout: %v is not between 10ms and 1m", c.PluginsTimeout))
	}
	if c.MaxProcesses < 0 || c.MaxProcesses > 32768 {
		errs = append(errs, fmt.Errorf("max-processes: %d is not between 0 and 32768", c.MaxProcesses))
	}
	if strings.ContainsAny(c.Hostname, ";\n") || c.Hostname == "" {
		errs = append(errs, fmt.Errorf("hostname: %q can't name a host", c.Hostname))
	}
	return errors.Join(errs...)
}

// allowed reports whether the policy names something.
func (c *Config) allowed(part string) bool { return slices.Contains(c.Policy, part) }
