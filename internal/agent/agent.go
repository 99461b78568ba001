package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/acl"
	"github.com/orchestrator/orchestrator/internal/agent/checkpoint"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/core"
	"github.com/orchestrator/orchestrator/internal/agent/execlink"
	"github.com/orchestrator/orchestrator/internal/agent/image"
	"github.com/orchestrator/orchestrator/internal/election"
	"github.com/orchestrator/orchestrator/internal/files"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/metrics"
	"github.com/orchestrator/orchestrator/internal/resources"
	"github.com/orchestrator/orchestrator/internal/version"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// Deps are what an agent needs from others. Zero fields stand for the real thing.
type Deps struct {
	Log *slog.Logger
	// Level is the level of Log, which SET_LOGGING_LEVEL changes; nil: it can't be changed.
	Level *slog.LevelVar
	// Detector finds the leading master; nil: made of Config.Master, which must then name addresses.
	Detector election.Detector
	// Listener serves the HTTP API; nil: one on Config.IP and Config.Port.
	Listener net.Listener
	// Dial reaches masters.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Containerizer runs the containers; nil: those of Config.Containerizers.
	Containerizer containerizer.Containerizer
	// Metrics is where the agent counts; nil: a registry of its own.
	Metrics *metrics.Registry
	// Flags are the effective settings, for /flags.
	Flags map[string]string
	// LogFile is where Log goes, to be shown as /slave/log; empty: nowhere that can be shown.
	LogFile string
	// FS keeps the checkpoint.
	FS checkpoint.FS
	// Authorizer says who may do what; nil: everybody everything.
	Authorizer Authorizer
	// BootID tells one boot of the host from another; empty: the kernel's.
	BootID string
	// DiskUsage gives the used share of the disk that holds the sandboxes; nil: asks the file system.
	DiskUsage func() (float64, error)
	// Host overrides what --resources leaves to the host: cpus, mem (MB) and disk (MB).
	Host *[3]float64
}

// Authorizer decides whether a principal may do something. Actions are the keys of Mesos' ACLs (facts 3.8).
type Authorizer interface {
	Allowed(principal wire.Principal, action, object string) bool
}

// anybody is the permissive default.
type anybody struct{}

func (anybody) Allowed(wire.Principal, string, string) bool { return true }

// Agent is one agent.
type Agent struct {
	cfg      Config
	deps     Deps
	log      *slog.Logger
	listener net.Listener
	layout   checkpoint.Layout
	address  string // "ip:port" as others reach it
	hostname string
	host     host
	info     *mesosv1.AgentInfo // as the flags say
	env      map[string]string
	started  time.Time

	core    *core.Core
	events  chan core.Event
	batches chan []core.Effect
	store   *checkpoint.Store
	link    *masterLink
	execs   *executors
	boxes   *containers
	gc      *collector
	files   *files.Files
	metrics *agentMetrics
	jwtKey  []byte
	auth    wire.Authenticator
	api     http.Handler
	helpers *execlink.Server
	images  *image.Store                  // nil: there is none
	extra   []func(context.Context) error // other servers that Run runs
	closers []func()                      // what New opened and Run's end closes
	levels  *logLevels
	id      atomic.Pointer[ids.Agent] // for those who may not ask the core
	volumes *volumes
	// addresses are tried in turn when --master names several.
	addresses []string
	lastView  atomic.Pointer[core.View]

	requests  atomic.Uint64
	mu        sync.Mutex
	waitViews map[uint64]chan *core.View

	stopped    chan struct{} // the owner has
	recovered  chan struct{}
	serving    chan struct{}
	ready      chan struct{}
	registered chan struct{}
	regOnce    sync.Once
	exit       chan string
	reload     chan func(*Config)
}

// ErrLeft is returned by Run when the agent has left the cluster for good: the master or the operator wanted it.
var ErrLeft = errors.New("the agent has left the cluster")

// New validates the configuration and opens what the agent listens on.
func New(cfg Config, deps Deps) (*Agent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.FS == nil {
		deps.FS = checkpoint.OS{}
	}
	if deps.Metrics == nil {
		deps.Metrics = metrics.New()
	}
	if deps.Authorizer == nil && cfg.ACLs != "" {
		lists, err := acl.Parse([]byte(cfg.ACLs))
		if err != nil {
			return nil, fmt.Errorf("--acls: %w", err)
		}
		deps.Authorizer = aclAuthorizer{lists}
	}
	if deps.Authorizer == nil {
		deps.Authorizer = anybody{}
	}
	if err := paths(&cfg); err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, deps: deps, log: deps.Log, layout: checkpoint.Layout{WorkDir: cfg.WorkDir}, files: files.New(),
		started: time.Now(), waitViews: map[uint64]chan *core.View{},
		stopped: make(chan struct{}), recovered: make(chan struct{}), serving: make(chan struct{}), ready: make(chan struct{}),
		registered: make(chan struct{}), exit: make(chan string, 1), reload: make(chan func(*Config), 1),
		events: make(chan core.Event, cfg.EventQueue), batches: make(chan []core.Effect, 64),
	}
	if err := a.open(); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// paths makes the directories absolute: sandboxes are named to others, and a relative path means something else to them.
func paths(cfg *Config) error {
	if os.Geteuid() != 0 && cfg.RuntimeDir == "/var/run/orchestrator/agent" {
		cfg.RuntimeDir = filepath.Join(cfg.WorkDir, "run")
	}
	for _, p := range []*string{&cfg.WorkDir, &cfg.RuntimeDir} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
		if err := os.MkdirAll(abs, 0o755); err != nil {
			return fmt.Errorf("create the agent's directory: %w (choose another --work_dir or --runtime_dir, or run as root)", err)
		}
	}
	return nil
}

func (a *Agent) open() error {
	unlock, err := lockDirectory(a.cfg.WorkDir)
	if err != nil {
		return err
	}
	a.closers = append(a.closers, unlock)
	if err := keepDescriptors(); err != nil {
		return err
	}
	if a.listener = a.deps.Listener; a.listener == nil {
		a.listener, err = net.Listen("tcp", net.JoinHostPort(a.cfg.IP, strconv.Itoa(a.cfg.Port)))
		if err != nil {
			return fmt.Errorf("listen for the agent's API: %w (choose another --port, or --port=0 for a free one)", err)
		}
	}
	if err := a.identify(); err != nil {
		return err
	}
	if a.env, err = a.cfg.executorEnvironment(); err != nil {
		return err
	}
	if a.auth, err = a.authenticator(); err != nil {
		return err
	}
	if a.cfg.JWTSecretKey != "" {
		if a.jwtKey, err = os.ReadFile(string(a.cfg.JWTSecretKey)); err != nil {
			return fmt.Errorf("read --jwt_secret_key: %w", err)
		}
	}
	if err := a.openDetector(); err != nil {
		return err
	}
	a.execs = newExecutors(a)
	a.levels = newLogLevels(a.deps.Level)
	a.volumes = &volumes{layout: a.layout}
	if a.deps.Containerizer == nil {
		if err := a.openContainerizers(); err != nil {
			return err
		}
	}
	a.boxes = newContainers(a, a.deps.Containerizer)
	a.link = newMasterLink(a)
	a.gc = newCollector(a)
	a.metrics = newMetrics(a)
	if a.deps.LogFile != "" {
		a.files.Attach(a.deps.LogFile, "/slave/log", a.allow("access_mesos_logs", ""))
	}
	a.api = a.routes()
	a.core = core.New(core.Config{
		ExecutorRegistrationTimeout: a.cfg.RegistrationTimeout, ExecutorReregistrationTimeout: a.cfg.ReregistrationTimeout,
		ExecutorShutdownGrace: a.cfg.ShutdownGrace, RegisterTimeout: a.cfg.RegisterTimeout,
		UpdateRetryMin: updateRetryMin, UpdateRetryMax: updateRetryMax,
		MaxCompletedFrameworks: maxCompletedFrameworks, MaxCompletedExecutors: a.cfg.MaxCompletedExecutors, MaxCompletedTasks: maxCompletedTasks,
		SwitchUser: a.cfg.SwitchUser && os.Geteuid() == 0, Version: version.Mesos, Address: a.address,
		Sandbox: func(id ids.Agent, r core.Run) string { return a.layout.Sandbox(onDisk(id, r)) },
	})
	return nil
}

// Mesos' constants (slave/constants.hpp).
const (
	updateRetryMin         = 10 * time.Second
	updateRetryMax         = 10 * time.Minute
	maxCompletedFrameworks = 50
	maxCompletedTasks      = 200
)

// identify finds out how others reach this agent and what it has.
func (a *Agent) identify() error {
	ip, port := a.cfg.AdvertiseIP, a.cfg.AdvertisePort
	listenHost, listenPort, err := net.SplitHostPort(a.listener.Addr().String())
	if err != nil { // an in-memory listener
		listenHost, listenPort = "127.0.0.1", "5051"
	}
	if ip == "" {
		ip = listenHost
		if parsed := net.ParseIP(ip); parsed == nil || parsed.IsUnspecified() {
			ip = publicIP()
		}
	}
	if port == 0 {
		if port, err = strconv.Atoi(listenPort); err != nil {
			return fmt.Errorf("port of the listener: %w", err)
		}
	}
	a.address = net.JoinHostPort(ip, strconv.Itoa(port))
	a.hostname = a.cfg.Hostname
	if a.hostname == "" {
		a.hostname = ip
		if a.cfg.LookupHost {
			if names, err := net.LookupAddr(ip); err == nil && len(names) > 0 {
				a.hostname = trimDot(names[0])
			} else if name, err := os.Hostname(); err == nil && !net.ParseIP(ip).IsLoopback() {
				a.hostname = name
			}
		}
	}
	if h := a.deps.Host; h != nil {
		a.host = host{cpus: h[0], memMB: h[1], diskMB: h[2]}
	} else if a.host, err = readHost(a.cfg.WorkDir); err != nil {
		return err
	}
	if err := a.host.countGPUs(&a.cfg); err != nil {
		return err
	}
	a.info, err = a.describe(a.cfg)
	return err
}

// describe makes the AgentInfo of the flags.
func (a *Agent) describe(cfg Config) (*mesosv1.AgentInfo, error) {
	res, err := configuredResources(cfg.Resources, a.host)
	if err != nil {
		return nil, err
	}
	attributes, err := cfg.attributes()
	if err != nil {
		return nil, err
	}
	domain, err := cfg.faultDomain()
	if err != nil {
		return nil, err
	}
	_, portText, err := net.SplitHostPort(a.address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseInt(portText, 10, 32)
	if err != nil {
		return nil, err
	}
	return &mesosv1.AgentInfo{Hostname: &a.hostname, Port: new(int32(port)), Resources: res.Proto(), Attributes: attributes, Domain: domain}, nil
}

func trimDot(s string) string {
	if n := len(s); n > 0 && s[n-1] == '.' {
		return s[:n-1]
	}
	return s
}

func (a *Agent) authenticator() (wire.Authenticator, error) {
	if a.cfg.HTTPCredentials == "" {
		return wire.Permissive{}, nil
	}
	c, err := wire.LoadCredentials(string(a.cfg.HTTPCredentials))
	if err != nil {
		return nil, fmt.Errorf("read --http_credentials: %w", err)
	}
	return c, nil
}

// Address is where others reach the agent's API: "ip:port".
func (a *Agent) Address() string { return a.address }

// Ready is closed when recovery is over and the API is served.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// Registered is closed when a master has registered this agent for the first time in this process.
func (a *Agent) Registered() <-chan struct{} { return a.registered }

// Run runs the agent until ctx ends, which leaves tasks running, or until it has left the cluster (ErrLeft).
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	boot, known, err := a.recover()
	if err != nil {
		a.close()
		return err
	}
	if err := a.boxes.recover(ctx, boot, known); err != nil {
		a.store.Close()
		a.close()
		return err
	}
	rand.Read(boot.Key[:]) // never fails
	g, ctx := errgroup.WithContext(ctx)
	// The committer outlives the owner: what was decided is kept.
	g.Go(func() error { return a.commit(ctx) })
	g.Go(func() error { return a.own(ctx, *boot) })
	g.Go(func() error { return a.serve(ctx) })
	g.Go(func() error { return a.link.run(ctx) })
	g.Go(func() error { return a.gc.run(ctx) })
	for _, f := range a.extra {
		g.Go(func() error { return f(ctx) })
	}
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-a.recovered:
			select {
			case <-ctx.Done():
			case <-a.serving:
				close(a.ready)
			}
		}
		return nil
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case reason := <-a.exit:
			a.link.flush()
			return fmt.Errorf("%w: %s", ErrLeft, reason)
		}
	})
	err = g.Wait()
	a.boxes.close()
	a.store.Close()
	a.close() // the lock of the directory last
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// close gives back what New opened.
func (a *Agent) close() {
	if a.listener != nil {
		a.listener.Close()
	}
	for _, f := range slices.Backward(a.closers) {
		f()
	}
	a.closers = nil
}

// Leave kills every task, unregisters the agent and ends Run (SIGUSR1).
func (a *Agent) Leave(ctx context.Context, reason string) error {
	return a.post(ctx, core.Leave{Message: reason})
}

// Reload takes new flags: resources and attributes; all or nothing (SIGHUP).
func (a *Agent) Reload(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	info, err := a.describe(cfg)
	if err != nil {
		return err
	}
	v, err := a.view(ctx)
	if err != nil {
		return err
	}
	was := resources.FromProtoTrusted(v.Info.GetResources())
	total, err := reconfigure(v.Total, was, resources.FromProtoTrusted(info.GetResources()), a.cfg.Reconfiguration, v.Used)
	if err != nil {
		return err
	}
	if err := checkAttributes(v.Info, info, a.cfg.Reconfiguration); err != nil {
		return err
	}
	a.log.Info("configuration reloaded", "resources", total.String())
	return a.post(ctx, core.Reconfigure{Info: info, Total: total.Proto()})
}
