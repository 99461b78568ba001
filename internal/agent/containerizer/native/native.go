package native

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/confine"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/execlink"
	"github.com/orchestrator/orchestrator/internal/agent/fetcher"
	"github.com/orchestrator/orchestrator/internal/agent/launcher"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/network"
	"github.com/orchestrator/orchestrator/internal/agent/projectquota"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// Config is the containerizer's configuration. The names in brackets are Mesos' flags.
type Config struct {
	// WorkDir is the agent's work directory [work_dir]: persistent volumes and the unpacked helper are below it.
	WorkDir string
	// RuntimeDir holds what lives as long as the host is up [runtime_dir].
	RuntimeDir string
	// LinkSocket is where package execlink listens.
	LinkSocket string
	// Helper is the helper's binary; empty: the embedded one, or this very program.
	Helper string
	// Isolation names the isolators [isolation], separated by commas; empty: the best that the host gives.
	Isolation string
	// Confine is what the agent's flags say of what containers may see and do; the host's part of it is filled in here.
	Confine confine.Host
	// SeccompDir holds seccomp profiles [seccomp_config_dir].
	SeccompDir string
	// Networks are the container networks; nil: there are none.
	Networks *network.Config
	// Ports is about the isolator network/ports.
	Ports PortsConfig
	// Cgroups is how control groups are made [cgroups_root, cgroups_enable_cfs, cgroups_limit_swap].
	Cgroups cgroup.Config
	// NoSwitchUser runs everything as the agent's own user [switch_user=false].
	NoSwitchUser bool
	// LogMaxBytes and LogKeep rotate a sandbox's stdout and stderr. 0 bytes: 10 MB; LogKeep 0: 1.
	LogMaxBytes int64
	LogKeep     int
	// RecoveryTimeout is how long helpers live without an agent [recovery_timeout]; 0: 15 min.
	RecoveryTimeout time.Duration
	// ShutdownGrace is how long an executor has to end its tasks [executor_shutdown_grace_period]; 0: 5 s.
	ShutdownGrace time.Duration
	// EnforceDiskQuota ends containers that use more disk than they have [enforce_container_disk_quota].
	EnforceDiskQuota bool
	// DiskInterval is how often disk usage is measured [container_disk_watch_interval]; 0: 15 s.
	DiskInterval time.Duration
	// Projects and KillOverQuota are about the isolator disk/xfs: the numbers of projects that are ours to give [xfs_project_range],
	// and whether a container that uses more than it has ends, instead of only writing no more [xfs_kill_containers].
	Projects      []projectquota.Range
	KillOverQuota bool
	// OCIRuntime is the program that makes containers with an image [oci_runtime]; empty: the helper does it.
	OCIRuntime string
	// Users are the host ids of containers in user namespaces [user_namespace_range], with the isolator namespaces/user.
	Users UserRange
	// GPUs is about the isolator gpu/nvidia.
	GPUs GPUConfig
	// MaxLaunches bounds the launches under way at one time; 0: 64.
	MaxLaunches int
}

// Fetcher brings a command's URIs into the sandbox.
type Fetcher interface {
	Fetch(ctx context.Context, r fetcher.Request) error
}

// Deps are what the containerizer needs from others.
type Deps struct {
	Log      *slog.Logger
	Registry prometheus.Registerer
	// Fetcher may be nil: then containers with URIs are refused.
	Fetcher Fetcher
	// Images may be nil: then containers with an image are refused.
	Images Images
	// HostVolume judges a path of the host that a container wants as a volume: it lies at rel below root, which no link may
	// lead out of. nil: any path.
	HostVolume func(path string) (root, rel string, err error)
}

// Containerizer is the native containerizer.
type Containerizer struct {
	cfg        Config
	log        *slog.Logger
	fetcher    Fetcher
	images     Images
	metrics    *metrics
	launch     *launcher.Launcher
	groups     *cgroup.Manager   // nil: none to be had
	networks   *network.Networks // nil: none to be had
	hostVolume func(string) (root, rel string, err error)
	iso        isolation
	slots      chan struct{}
	// releaseLimit is the constant of that name, but in tests.
	releaseLimit time.Duration
	disk         *diskWatcher

	mu         sync.Mutex
	containers map[ids.Container]*container
	users      *userPool // nil: containers have the host's users
	gpus       *gpuPool  // nil: there are none
	// Ended containers that are remembered for late questions, oldest first: executors, and all others.
	ended, endedNested []ids.Container
	closed             bool

	wg     sync.WaitGroup
	ctx    context.Context // the life of this containerizer: ended by Close, and only then
	cancel context.CancelFunc
}

var (
	_ containerizer.Containerizer = (*Containerizer)(nil)
	_ containerizer.Timed         = (*Containerizer)(nil)
)

// New finds out what the host gives, and prepares it. Recover must be called before anything else.
func New(cfg Config, deps Deps) (_ *Containerizer, err error) {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.RecoveryTimeout, 15*time.Minute)
	def(&cfg.ShutdownGrace, 5*time.Second)
	def(&cfg.DiskInterval, 15*time.Second)
	def(&cfg.Ports.Interval, 30*time.Second)
	if cfg.LogMaxBytes == 0 {
		cfg.LogMaxBytes = 10 << 20
	}
	if cfg.LogKeep == 0 {
		cfg.LogKeep = 1
	}
	if cfg.MaxLaunches == 0 {
		cfg.MaxLaunches = 64
	}
	for name, p := range map[string]*string{"work_dir": &cfg.WorkDir, "runtime_dir": &cfg.RuntimeDir} {
		if *p == "" {
			return nil, fmt.Errorf("native containerizer: %s is required", name)
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return nil, err
		}
		*p = abs
	}
	if cfg.Cgroups.Owner == "" {
		cfg.Cgroups.Owner = cfg.RuntimeDir // several agents of one host may share the root
	}
	c := &Containerizer{
		cfg: cfg, log: deps.Log, fetcher: deps.Fetcher, images: deps.Images, metrics: newMetrics(deps.Registry),
		slots: make(chan struct{}, cfg.MaxLaunches), containers: make(map[ids.Container]*container), hostVolume: deps.HostVolume, releaseLimit: releaseLimit,
	}
	if c.hostVolume == nil {
		c.hostVolume = func(p string) (string, string, error) { return "", p, nil }
	}
	if err := os.MkdirAll(c.containersDir(), 0o700); err != nil {
		return nil, fmt.Errorf("make the runtime directory: %w", err)
	}
	if c.images != nil {
		if err := c.makeBaseLayer(); err != nil {
			return nil, err
		}
	}
	binary, err := provideHelper(cfg)
	if err != nil {
		return nil, err
	}
	if c.launch, err = launcher.New(binary); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && c.groups != nil {
			c.groups.Close() // which removes the root that it has made for nobody
		}
	}()
	if c.iso, c.groups, err = chooseIsolation(cfg, c.images); err != nil {
		return nil, err
	}
	if c.iso.host.Isolators[confine.IsolateCNI] {
		nc := *cfg.Networks
		nc.Marker = spec.Marker + "=" + c.mark("network-%s")
		if c.networks, err = network.New(nc, network.Deps{Log: c.log, Registry: deps.Registry, KillMarked: killBearers}); err != nil {
			return nil, fmt.Errorf("container networks: %w", err)
		}
	}
	if c.iso.host.Isolators[confine.IsolateUser] {
		c.users = newUserPool(cfg.Users)
	}
	if c.iso.host.Isolators[confine.IsolateGPU] {
		if c.gpus, err = newGPUPool(cfg.GPUs); err != nil {
			return nil, fmt.Errorf("isolation gpu/nvidia: %w", err)
		}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.disk = newDiskWatcher(c)
	c.wg.Go(func() { c.disk.run(c.ctx) })
	if c.iso.host.Isolators[isolatePorts] {
		c.wg.Go(func() { c.watchPorts(c.ctx) })
	}
	return c, nil
}

// Close stops watching. Containers run on, but for sessions.
func (c *Containerizer) Close() {
	c.mu.Lock()
	c.closed = true
	for _, ct := range c.containers {
		if ct.phase == starting {
			ct.abort(containerizer.ErrStopping)
		}
	}
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
	if c.networks != nil {
		c.networks.Close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ct := range c.containers {
		if ct.helper != nil {
			ct.helper.Close()
		}
	}
	if c.groups != nil {
		c.groups.Close()
	}
	if c.iso.quota != nil {
		c.iso.quota.Close()
	}
}

// Isolation lists what isolates containers here, and what does not although it could elsewhere, with the reason.
func (c *Containerizer) Isolation() (on []string, off map[string]string) { return c.iso.on, c.iso.off }

// Token answers execlink's question of who a helper is.
func (c *Containerizer) Token(id ids.Container) (execlink.Peer, string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ct := c.containers[id]
	if ct == nil || ct.token == "" || ct.phase == gone {
		return execlink.Peer{}, "", false
	}
	return execlink.Peer{ContainerID: id, FrameworkID: ct.cfg.FrameworkID, ExecutorID: ct.cfg.ExecutorID}, ct.token, true
}

// Containers implements containerizer.Containerizer.
func (c *Containerizer) Containers() []containerizer.Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]containerizer.Info, 0, len(c.containers))
	for _, ct := range c.containers {
		if ct.phase == gone && !keptAfterEnd(ct.cfg.Kind) {
			continue
		}
		out = append(out, containerizer.Info{Config: ct.cfg, Ended: ct.phase == gone})
	}
	slices.SortFunc(out, func(a, b containerizer.Info) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return out
}

// find gives a container by id.
func (c *Containerizer) find(id ids.Container) (*container, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ct := c.containers[id]
	if ct == nil {
		return nil, fmt.Errorf("%w: %s", containerizer.ErrNotFound, id)
	}
	return ct, nil
}

func (c *Containerizer) containersDir() string { return filepath.Join(c.cfg.RuntimeDir, "containers") }

// dir is the runtime directory of a container. Ids have been validated: they are names.
func (c *Containerizer) dir(id ids.Container) string {
	return filepath.Join(c.containersDir(), string(id))
}

// mark is what all processes of a container bear in their environment. Another agent's container of the same id bears
// another.
func (c *Containerizer) mark(id ids.Container) string {
	sum := sha256.Sum256([]byte(c.cfg.RuntimeDir))
	return string(id) + "@" + hex.EncodeToString(sum[:6])
}

// parts splits a container id into its levels, root first.
func parts(id ids.Container) []string { return strings.Split(string(id), ".") }

// maxID is the greatest length of a container id as text (Mesos: MAX_CONTAINER_ID_LENGTH).
const maxID = 242

func validID(id ids.Container) error { return containerizer.ValidateID(id, maxID) }

// keptAfterEnd: the agent's API asks for these after their end, until they are removed.
func keptAfterEnd(k containerizer.Kind) bool {
	return k == containerizer.Nested || k == containerizer.Standalone || k == containerizer.Session || k == containerizer.Check
}

// provideHelper gives the path of the helper's binary: as configured, as embedded, or this program itself.
func provideHelper(cfg Config) (string, error) {
	if cfg.Helper != "" {
		return cfg.Helper, nil
	}
	return launcher.Binary(filepath.Join(cfg.WorkDir, "helper"))
}
