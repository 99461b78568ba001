package master

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/election"
	"github.com/orchestrator/orchestrator/internal/election/standalone"
	electionzk "github.com/orchestrator/orchestrator/internal/election/zookeeper"
	"github.com/orchestrator/orchestrator/internal/files"
	"github.com/orchestrator/orchestrator/internal/master/api"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/master/owner"
	"github.com/orchestrator/orchestrator/internal/metrics"
	"github.com/orchestrator/orchestrator/internal/store"
	"github.com/orchestrator/orchestrator/internal/store/bolt"
	"github.com/orchestrator/orchestrator/internal/store/mem"
	storezk "github.com/orchestrator/orchestrator/internal/store/zookeeper"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// Deps are what tests swap; zero fields stand for the real thing.
type Deps struct {
	Log      *slog.Logger
	Level    *slog.LevelVar // of Log, for SET_LOGGING_LEVEL
	Metrics  *metrics.Registry
	Listener net.Listener
	Clock    func() time.Time
	Store    store.Store
	Election interface {
		election.Contender
		election.Detector
	}
	// Flags are the effective settings as /flags shows them.
	Flags map[string]string
	// LogFile is where this process logs to, shown as /master/log.
	LogFile string
	// Seed of everything that is random but ids; 0 picks one.
	Seed uint64
}

// Master is the daemon.
type Master struct {
	cfg      Config
	deps     Deps
	self     *mesosv1.MasterInfo
	address  string
	listener net.Listener
	store    store.Store
	election interface {
		election.Contender
		election.Detector
	}
	edge    *api.Server
	start   time.Time
	current atomic.Pointer[owner.Owner] // while this master leads and has recovered
	leading atomic.Bool
	board   atomic.Pointer[election.Leader]
	ready   chan struct{}
	closers []func() error
	metrics masterMetrics
	// authorizer is that of --acls; nil allows everything.
	authorizer core.Authorizer
	links      sync.WaitGroup // goroutines of agent links
	terms      uint64         // that this process has led; only lead touches it
}

// offersPerTerm keeps the offer ids of two terms of one process apart.
const offersPerTerm = 1_000_000_000_000

// New validates the configuration and opens the listener, so that errors of both come early. Run must follow.
func New(cfg Config, deps Deps) (_ *Master, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Log == nil {
		deps.Log = slog.Default()
	}
	if deps.Clock == nil {
		deps.Clock = time.Now
	}
	if deps.Metrics == nil {
		deps.Metrics = metrics.New()
	}
	if deps.Seed == 0 {
		deps.Seed = rand.Uint64()
	}
	m := &Master{cfg: cfg, deps: deps, start: deps.Clock(), ready: make(chan struct{})}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.listener = deps.Listener; m.listener == nil {
		ip, err := cfg.listenIP()
		if err != nil {
			return nil, err
		}
		if m.listener, err = net.Listen("tcp", net.JoinHostPort(ip, fmt.Sprint(cfg.Port))); err != nil {
			return nil, fmt.Errorf("opening the master's port: %w; choose another with --port", err)
		}
	}
	m.closers = append(m.closers, m.listener.Close)
	if m.self, m.address, err = cfg.masterInfo(m.listener.Addr()); err != nil {
		return nil, err
	}
	if err := m.openStore(); err != nil {
		return nil, err
	}
	if err := m.openElection(); err != nil {
		return nil, err
	}
	auth, err := cfg.authenticators()
	if err != nil {
		return nil, err
	}
	if m.authorizer, err = cfg.authorizer(); err != nil {
		return nil, fmt.Errorf("--acls: %w", err)
	}
	disabled, _ := cfg.DisabledEndpoints()
	virtual := files.New()
	if deps.LogFile != "" {
		virtual.Attach(deps.LogFile, "/master/log", nil)
	}
	m.metrics = newMasterMetrics(deps.Metrics)
	deps.Metrics.System()
	m.edge = api.New(api.Options{
		Owner: m, Log: deps.Log, Metrics: deps.Metrics, Files: virtual, Level: deps.Level,
		Link: m.linkHandler(auth.agents), Auth: auth.Authenticators, Self: m.self, StartTime: m.start, Flags: deps.Flags,
		Cluster: cfg.Cluster, LogDir: cfg.LogDir, ExternalLogFile: cfg.ExternalLog, DisabledPaths: disabled,
		Heartbeat: cfg.Heartbeat, MaxSchedulers: cfg.MaxSchedulerStreams, MaxOperators: cfg.MaxOperatorStreams,
		MaxBody: int64(cfg.MaxRequestBody), StreamBytes: int(cfg.StreamQueue), PublishFrameworkMetrics: cfg.PublishMetrics,
		Now: deps.Clock, Authorizer: m.authorizer,
	})
	return m, nil
}

func (m *Master) openStore() error {
	if m.store = m.deps.Store; m.store != nil {
		return nil
	}
	var err error
	switch zk := m.cfg.Zk.ZooKeeper; {
	case zk != nil:
		m.store, err = storezk.Open(storezk.Config{
			Servers: zk.Servers, Path: zk.Path + "/registry", User: zk.User, Password: zk.Password, SessionTimeout: m.cfg.ZkTimeout,
		}, storezk.Deps{Log: m.deps.Log})
	case m.cfg.Registry == "in_memory":
		m.store = mem.New()
	default:
		if err = makeDir(m.cfg.WorkDir); err == nil {
			m.store, err = bolt.Open(filepath.Join(m.cfg.WorkDir, "registry.db"))
		}
	}
	if err != nil {
		return fmt.Errorf("opening the registry: %w", err)
	}
	m.closers = append(m.closers, m.store.Close)
	return nil
}

func (m *Master) openElection() error {
	if m.election = m.deps.Election; m.election != nil {
		return nil
	}
	zk := m.cfg.Zk.ZooKeeper
	if zk == nil {
		m.election = &standalone.Election{}
		return nil
	}
	e, err := electionzk.New(electionzk.Config{ZooKeeper: *zk, SessionTimeout: m.cfg.ZkTimeout}, electionzk.Deps{Log: m.deps.Log})
	if err != nil {
		return fmt.Errorf("joining the election: %w", err)
	}
	m.closers = append(m.closers, func() error { e.Close(); return nil })
	m.election = e
	return nil
}

// close undoes what New opened, in reverse.
func (m *Master) close() {
	for i := len(m.closers) - 1; i >= 0; i-- {
		_ = m.closers[i]()
	}
	m.closers = nil
}

// Ready is closed when this master serves: it has recovered as a leader, or knows who leads.
func (m *Master) Ready() <-chan struct{} { return m.ready }

// Address is "host:port" that others reach this master at.
func (m *Master) Address() string { return m.address }

// Run serves until ctx ends.
func (m *Master) Run(ctx context.Context) error {
	defer m.close()
	group, ctx := errgroup.WithContext(ctx)
	server := &http.Server{
		Handler: m.edge.Handler(), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(m.deps.Log.Handler(), slog.LevelDebug),
		// Streams and links end with the master, not only when their peers leave.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	// Calls of schedulers, an ACKNOWLEDGE for each update above all, are served before net/http.
	front := wire.NewFront(m.listener, wire.FrontConfig{
		Handler: server.Handler, Paths: []string{"/api/v1/scheduler", "/master/api/v1/scheduler"}, Context: ctx, IdleTimeout: server.IdleTimeout, Log: m.deps.Log,
	})
	group.Go(func() error {
		if err := server.Serve(front); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
			return fmt.Errorf("serving HTTP: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := server.Shutdown(stop); err != nil {
			_ = server.Close()
		}
		return nil
	})
	group.Go(func() error { return m.watchLeader(ctx) })
	if m.cfg.Whitelist != "" {
		group.Go(func() error { return m.watchWhitelist(ctx) })
	}
	group.Go(func() error {
		self := election.Leader{ID: m.self.GetId(), Address: m.address, Info: m.self}
		err := m.election.Contend(ctx, self, m.lead)
		if err == nil && ctx.Err() == nil {
			err = errors.New("the election ended")
		}
		if err != nil {
			return fmt.Errorf("contending for leadership: %w", err)
		}
		return nil
	})
	m.deps.Log.Info("master started", "address", m.address, "id", m.self.GetId())
	err := group.Wait()
	m.links.Wait()
	front.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// lead is one term: claim the registry, recover, own the state until the term ends. Losing the registry ends the term and
// not the process: this master contends again.
func (m *Master) lead(ctx context.Context, epoch uint64) error {
	m.leading.Store(true)
	defer func() {
		m.leading.Store(false)
		m.current.Store(nil)
		m.edge.Reset()
	}()
	writer, registry, err := m.recover(ctx, epoch)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, store.ErrCorrupt) || m.cfg.Zk.ZooKeeper == nil {
			return err
		}
		m.deps.Log.Warn("recovery ended without success, giving up leadership", "error", err)
		return pause(ctx, time.Second)
	}
	cfg := m.cfg.core(m.self, m.start, m.deps.Seed+writer.Epoch())
	cfg.Authorizer = m.authorizer
	cfg.FirstOffer = m.terms * offersPerTerm
	m.terms++
	state, err := core.New(cfg, m.withWeights(registry), m.deps.Clock())
	if err != nil {
		return fmt.Errorf("recovering from the registry: %w", err)
	}
	own := owner.New(state, owner.Deps{
		Log: m.deps.Log, Clock: m.deps.Clock, Store: timedStore{writer, m.metrics.store}, Edge: m.edge, QueueLimit: m.cfg.EventQueue,
		Observe: m.metrics.batch,
	})
	m.current.Store(own)
	m.markReady()
	m.deps.Log.Info("leading", "epoch", writer.Epoch(), "records", len(registry))
	err = own.Run(ctx)
	if err != nil {
		m.deps.Log.Warn("stepping down", "error", err)
		if m.cfg.Zk.ZooKeeper == nil && !errors.Is(err, store.ErrFenced) {
			return err // the only master can't go on without its registry
		}
		return pause(ctx, time.Second)
	}
	return nil
}

// pause keeps a term from being tried again in a tight loop.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
	return nil
}

// recover claims the registry and reads it.
func (m *Master) recover(ctx context.Context, epoch uint64) (store.Writer, core.Registry, error) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.RegistryFetchTimeout)
	defer cancel()
	began := time.Now()
	writer, err := m.store.Claim(ctx, epoch)
	if err != nil {
		return nil, nil, fmt.Errorf("claiming the registry: %w", err)
	}
	entries, err := m.store.List(ctx, "")
	if err != nil {
		return nil, nil, fmt.Errorf("reading the registry: %w", err)
	}
	m.metrics.fetch.Observe(time.Since(began))
	reg := make(core.Registry, 0, len(entries))
	for _, e := range entries {
		reg = append(reg, core.Record{Key: e.Key, Value: e.Value})
	}
	return writer, reg, nil
}

func (m *Master) markReady() {
	select {
	case <-m.ready:
	default:
		close(m.ready)
	}
}

// watchLeader keeps who leads, for redirects.
func (m *Master) watchLeader(ctx context.Context) error {
	var known *election.Leader
	for {
		l, err := m.election.Detect(ctx, known)
		if err != nil {
			return nil
		}
		known = l
		m.board.Store(l)
		if l != nil && l.ID != m.self.GetId() {
			m.markReady()
		}
	}
}

// Leadership implements api.Owner.
func (m *Master) Leadership() api.Leadership {
	l := api.Leadership{Leading: m.leading.Load(), Recovered: m.current.Load() != nil, Leader: m.board.Load()}
	if l.Leading && (l.Leader == nil || l.Leader.ID != m.self.GetId()) {
		l.Leader = &election.Leader{ID: m.self.GetId(), Address: m.address, Info: m.self}
	}
	return l
}

// Snapshot implements api.Owner.
func (m *Master) Snapshot() *core.Snapshot {
	if o := m.current.Load(); o != nil {
		return o.Snapshot()
	}
	return nil
}

// Post implements api.Owner.
func (m *Master) Post(ctx context.Context, ev core.Event) error {
	if o := m.current.Load(); o != nil {
		return o.Post(ctx, ev)
	}
	return owner.ErrStopped
}

// PostFor implements api.Owner.
func (m *Master) PostFor(d time.Duration, ev core.Event) error {
	if o := m.current.Load(); o != nil {
		return o.PostFor(d, ev)
	}
	return owner.ErrStopped
}

// newID makes the id of a master: ids of agents, frameworks and offers begin with it.
func newID() string { return uuid.NewString() }
