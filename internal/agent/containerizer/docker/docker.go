package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/client"
	"github.com/prometheus/client_golang/prometheus"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/docker/remains"
	"github.com/orchestrator/orchestrator/internal/agent/execlink"
	"github.com/orchestrator/orchestrator/internal/agent/fetcher"
	"github.com/orchestrator/orchestrator/internal/agent/launcher"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// Config is the containerizer's configuration. The names in brackets are Mesos' flags.
type Config struct {
	// Socket is where the Engine listens [docker_socket].
	Socket string
	// WorkDir is the agent's work directory [work_dir]; with it goes the mark of this agent's containers.
	WorkDir string
	// RuntimeDir holds what lives as long as the host is up [runtime_dir].
	RuntimeDir string
	// LinkSocket is where package execlink listens.
	LinkSocket string
	// Helper is the helper's binary; empty: the embedded one, or this very program.
	Helper string
	// RemoveDelay is how long an ended container is kept to be looked at [docker_remove_delay].
	RemoveDelay time.Duration
	// StopTimeout is the time between SIGTERM and SIGKILL where no kill policy says [docker_stop_timeout]; 0: 3 s.
	StopTimeout time.Duration
	// KeepOrphans leaves containers of ours that nobody knows running [docker_kill_orphans=false].
	KeepOrphans bool
	// Auth is the content of a config.json with credentials for registries [docker_config]; empty: none.
	Auth []byte
	// Cgroups is how the control groups of helpers are named, and what limits of containers mean [cgroups_root,
	// cgroups_enable_cfs, cgroups_limit_swap].
	Cgroups cgroup.Config
	// NoSwitchUser leaves what is fetched to the agent's own user [switch_user=false].
	NoSwitchUser bool
	// LogMaxBytes and LogKeep rotate a sandbox's stdout and stderr. 0 bytes: 10 MB; LogKeep 0: 1.
	LogMaxBytes int64
	LogKeep     int
	// RecoveryTimeout is how long helpers live without an agent [recovery_timeout]; 0: 15 min.
	RecoveryTimeout time.Duration
	// ShutdownGrace is how long an executor has to end its tasks [executor_shutdown_grace_period]; 0: 5 s.
	ShutdownGrace time.Duration
	// PullStall gives a pull up when the Engine says nothing of it for so long; 0: 1 min.
	PullStall time.Duration
	// MaxLaunches bounds the launches under way at one time; 0: 64.
	MaxLaunches int
	// Images says when images are removed.
	Images ImageGC
	// LateLook is when, after Recover and after the Engine was away, it is searched once more for what was asked of it; 0: 1 min.
	LateLook time.Duration
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
	// HostVolume judges a path of the host that a container wants as a volume: it lies at rel below root, which no link may
	// lead out of. An empty root: anywhere. nil: every path is allowed.
	HostVolume func(path string) (root, rel string, err error)
}

// Labels of our containers.
const (
	labelAgent     = "orchestrator.agent"     // the mark of the agent that it belongs to
	labelContainer = "orchestrator.container" // its container id
)

// namePrefix begins the names of containers: tools look for Mesos' own.
const namePrefix = "mesos-"

// Containerizer is the Docker containerizer.
type Containerizer struct {
	cfg     Config
	log     *slog.Logger
	fetcher Fetcher
	metrics *metrics
	launch  *launcher.Launcher
	host    *cgroup.Host    // nil: no control groups to be seen
	groups  *cgroup.Manager // nil: helpers stay in the agent's own
	api     *client.Client
	mark    string
	slots   chan struct{}
	images  *images
	pulls   pulls
	doubts  chan struct{} // see doubt
	ledger  *ledger
	remains remains.Host                                    // what runs of containers, whatever the Engine says
	judge   func(path string) (root, rel string, err error) // of host paths; nil: all are allowed

	mu         sync.Mutex
	containers map[ids.Container]*container
	ended      []ids.Container // remembered for late questions, oldest first
	leaving    map[string]bool // what the Engine calls those that are being put away in the background
	spared     map[string]bool // and those orphans that are left alone, as was told
	closed     bool

	wg     sync.WaitGroup
	ctx    context.Context // the life of this containerizer: ended by Close, and only then
	cancel context.CancelFunc
}

var _ containerizer.Containerizer = (*Containerizer)(nil)

// New prepares the containerizer. The Engine need not be there yet. Recover must be called before anything else.
func New(cfg Config, deps Deps) (*Containerizer, error) {
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
	def(&cfg.PullStall, time.Minute)
	def(&cfg.LateLook, time.Minute)
	if cfg.LogMaxBytes == 0 {
		cfg.LogMaxBytes = 10 << 20
	}
	if cfg.LogKeep == 0 {
		cfg.LogKeep = 1
	}
	if cfg.MaxLaunches == 0 {
		cfg.MaxLaunches = 64
	}
	for name, p := range map[string]*string{"work_dir": &cfg.WorkDir, "runtime_dir": &cfg.RuntimeDir, "docker_socket": &cfg.Socket} {
		if *p == "" {
			return nil, fmt.Errorf("docker containerizer: %s is required", name)
		}
		abs, err := filepath.Abs(strings.TrimPrefix(*p, "unix://"))
		if err != nil {
			return nil, err
		}
		*p = abs
	}
	sum := sha256.Sum256([]byte(cfg.WorkDir))
	c := &Containerizer{
		cfg: cfg, log: deps.Log, fetcher: deps.Fetcher, judge: deps.HostVolume, metrics: newMetrics(deps.Registry), mark: hex.EncodeToString(sum[:8]),
		slots: make(chan struct{}, cfg.MaxLaunches), containers: make(map[ids.Container]*container), leaving: map[string]bool{}, spared: map[string]bool{}, doubts: make(chan struct{}, 1),
	}
	c.pulls.running = make(map[string]*pull)
	if err := os.MkdirAll(c.containersDir(), 0o700); err != nil {
		return nil, fmt.Errorf("make the runtime directory: %w", err)
	}
	if _, err := parseAuth(cfg.Auth); err != nil {
		return nil, fmt.Errorf("docker_config: %w", err)
	}
	var err error
	if c.ledger, err = openLedger(filepath.Join(cfg.RuntimeDir, "docker-ids")); err != nil {
		return nil, err
	}
	binary := cfg.Helper
	if binary == "" {
		if binary, err = launcher.Binary(filepath.Join(cfg.WorkDir, "helper")); err != nil {
			return nil, err
		}
	}
	if c.launch, err = launcher.New(binary); err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", cfg.Socket)
	}
	// A connection for each call: dockerd goes on to serve those that are open while it shuts down, and what is begun then is left
	// half done. A new one is refused.
	each := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
	c.api, err = client.New(client.WithHTTPClient(each), client.WithHost("unix://"+cfg.Socket), client.WithDialContext(dial), client.WithScheme("http"))
	if err != nil {
		return nil, fmt.Errorf("make the client of Docker: %w", err)
	}
	if c.images, err = openImages(filepath.Join(cfg.WorkDir, "docker", "images.json")); err != nil {
		return nil, err
	}
	if c.host, err = cgroup.Detect(); err == nil && os.Geteuid() == 0 {
		// Helpers must not be in the group that a service manager ends together with the agent.
		own := cfg.Cgroups
		own.Owner = cfg.RuntimeDir + "#docker"
		if c.groups, err = cgroup.New(c.host, own); err != nil {
			c.log.Warn("the helpers of docker containers stay in the agent's own control group", "error", err)
		}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
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
	c.api.Close()
}

// Claims reports whether a container is one for Docker, whether or not it can be had.
func Claims(cfg containerizer.Config) bool {
	return cfg.Container != nil && cfg.Container.GetType() == mesosv1.ContainerInfo_DOCKER
}

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
		if ct.phase == gone && !inside(ct.cfg.Kind) {
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

func (c *Containerizer) containersDir() string { return filepath.Join(c.cfg.RuntimeDir, "docker") }

// dir is the runtime directory of a container. Ids have been validated: they are names.
func (c *Containerizer) dir(id ids.Container) string {
	return filepath.Join(c.containersDir(), string(id))
}

// inside: a command in a running container. The agent's API asks for these after their end, until they are removed.
func inside(k containerizer.Kind) bool {
	return k == containerizer.Session || k == containerizer.Check
}

// maxID is the greatest length of a container id: the container's name and directories have it in them.
const maxID = 200

func validID(id ids.Container) error { return containerizer.ValidateID(id, maxID) }

func ptr[T any](v T) *T { return &v }
