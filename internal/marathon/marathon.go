package marathon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/orchestrator/orchestrator/internal/election"
	"github.com/orchestrator/orchestrator/internal/election/standalone"
	electionzk "github.com/orchestrator/orchestrator/internal/election/zookeeper"
	"github.com/orchestrator/orchestrator/internal/marathon/api"
	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/events"
	"github.com/orchestrator/orchestrator/internal/metrics"
	"github.com/orchestrator/orchestrator/internal/store"
	"github.com/orchestrator/orchestrator/internal/store/bolt"
	"github.com/orchestrator/orchestrator/internal/store/mem"
	storezk "github.com/orchestrator/orchestrator/internal/store/zookeeper"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// Version is the version of Marathon whose API is served, which clients branch on.
const Version = "1.11.24"

// Deps are what tests swap; zero fields stand for the real thing.
type Deps struct {
	Log      *slog.Logger
	Metrics  *metrics.Registry
	Listener net.Listener
	Level    *slog.LevelVar // of Log, for /logging; nil when it can't be changed
	Clock    func() time.Time
	Store    store.Store
	Election interface {
		election.Contender
		election.Detector
	}
	// Masters finds the leading Mesos master instead of --master.
	Masters wire.Detector
	// Dial makes every outgoing connection, to the master and for health checks.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Marathon is the daemon.
type Marathon struct {
	cfg      Config
	deps     Deps
	address  string       // host:port that others reach this process at
	scheme   string       // by which they do
	listener net.Listener // nil with --disable_http
	tls      net.Listener // nil without a certificate
	cert     *certificate
	store    store.Store
	election interface {
		election.Contender
		election.Detector
	}
	masters wire.Detector // nil: the addresses of --master
	hub     *events.Hub
	api     *api.Server
	current atomic.Pointer[term] // while this process leads
	board   atomic.Pointer[election.Leader]
	ready   chan struct{}
	isReady atomic.Bool
	closers []func() error
}

// New validates the configuration, opens the listener and the store, so that errors come early. Run must follow.
func New(cfg Config, deps Deps) (_ *Marathon, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Log == nil {
		deps.Log = slog.Default()
	}
	if deps.Metrics == nil {
		deps.Metrics = metrics.New()
	}
	if deps.Clock == nil {
		deps.Clock = time.Now
	}
	if cfg.SecretFile != "" {
		b, err := os.ReadFile(string(cfg.SecretFile))
		if err != nil {
			return nil, fmt.Errorf("reading --mesos_authentication_secret_file: %w", err)
		}
		cfg.Secret = strings.TrimSpace(string(b))
	}
	m := &Marathon{cfg: cfg, deps: deps, ready: make(chan struct{}), masters: deps.Masters}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	ports, err := m.openListeners()
	if err != nil {
		return nil, err
	}
	if err := m.openStore(); err != nil {
		return nil, err
	}
	if err := m.openElections(); err != nil {
		return nil, err
	}
	m.hub = events.NewHub(cfg.EventQueue, cfg.KeepAlive, deps.Clock)
	deps.Metrics.System()
	host, _, _ := net.SplitHostPort(m.address)
	opt := cfg.options()
	m.api = api.New(api.Config{
		Spec: &opt.Spec, Version: Version, Scheme: m.scheme, Level: deps.Level, Credentials: cfg.HTTPCredentials, Realm: cfg.HTTPRealm, AllowOrigin: cfg.AllowOrigin,
		Compress: !cfg.NoCompression, MaxRequests: cfg.MaxConcurrent, MaxBody: int64(cfg.MaxBody), Info: cfg.info(ports[0], ports[1], host), Metrics: deps.Metrics.PrometheusHandler(), Now: deps.Clock,
	}, m, m.hub, deps.Log)
	return m, nil
}

// openListeners opens the API's ports and decides which of them others are told. It gives the numbers of both, nil for one that is
// not served.
func (m *Marathon) openListeners() (ports [2]any, err error) {
	cfg := &m.cfg
	listen := func(address string, port int, flag string) (net.Listener, error) {
		l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		if err != nil {
			return nil, fmt.Errorf("opening Marathon's port: %w; choose another with --%s", err, flag)
		}
		return l, nil
	}
	reach := func(n int, l net.Listener, port int) {
		m.closers = append(m.closers, l.Close)
		if _, p, err := net.SplitHostPort(l.Addr().String()); err == nil {
			port, _ = strconv.Atoi(p)
		}
		ports[n] = port
		if m.address == "" {
			m.address = net.JoinHostPort(cfg.hostname(l.Addr()), strconv.Itoa(port))
		}
	}
	m.scheme = "https"
	if !cfg.DisableHTTP {
		m.scheme = "http"
		if m.listener = m.deps.Listener; m.listener == nil {
			if m.listener, err = listen(cfg.HTTPAddress, cfg.HTTPPort, "http_port"); err != nil {
				return ports, err
			}
		}
		reach(0, m.listener, cfg.HTTPPort)
	}
	if cfg.SSLKeystore == "" {
		return ports, nil
	}
	if m.cert, err = newCertificate(string(cfg.SSLKeystore)); err != nil {
		return ports, err
	}
	if m.tls, err = listen(cfg.HTTPSAddress, cfg.HTTPSPort, "https_port"); err != nil {
		return ports, err
	}
	reach(1, m.tls, cfg.HTTPSPort)
	return ports, nil
}

func (m *Marathon) openStore() (err error) {
	if m.store = m.deps.Store; m.store != nil {
		return nil
	}
	zk := m.cfg.Zk.ZooKeeper
	switch {
	case m.cfg.Store == "mem":
		m.store = mem.New()
	case zk != nil && m.cfg.Store != "bolt":
		m.store, err = storezk.Open(storezk.Config{
			Servers: zk.Servers, Path: zk.Path + "/services", User: zk.User, Password: zk.Password,
			SessionTimeout: time.Duration(m.cfg.ZkSession) * time.Millisecond,
		}, storezk.Deps{Log: m.deps.Log})
	default:
		if err := os.MkdirAll(m.cfg.DataDir, 0o755); err != nil {
			return fmt.Errorf("making the state directory: %w; choose another with --data_dir", err)
		}
		m.store, err = bolt.Open(filepath.Join(m.cfg.DataDir, "marathon.db"))
	}
	if err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	m.closers = append(m.closers, m.store.Close)
	return nil
}

func (m *Marathon) openElections() error {
	if m.election = m.deps.Election; m.election == nil {
		m.election = &standalone.Election{}
		if zk := m.cfg.Zk.ZooKeeper; zk != nil {
			c := *zk
			c.Path += "/leader"
			e, err := electionzk.New(electionzk.Config{ZooKeeper: c, SessionTimeout: time.Duration(m.cfg.ZkSession) * time.Millisecond}, electionzk.Deps{Log: m.deps.Log})
			if err != nil {
				return fmt.Errorf("joining the election: %w", err)
			}
			m.closers = append(m.closers, func() error { e.Close(); return nil })
			m.election = e
		}
	}
	if zk := m.cfg.Master.ZooKeeper; zk != nil && m.masters == nil {
		e, err := electionzk.New(electionzk.Config{ZooKeeper: *zk}, electionzk.Deps{Log: m.deps.Log})
		if err != nil {
			return fmt.Errorf("looking for the Mesos master: %w", err)
		}
		m.closers = append(m.closers, func() error { e.Close(); return nil })
		m.masters = leaderOf{e}
	}
	return nil
}

// leaderOf gives a wire client the leader that a detector sees.
type leaderOf struct{ d election.Detector }

// Leader waits until a leader is known.
func (l leaderOf) Leader(ctx context.Context) (string, error) {
	var seen *election.Leader
	for {
		leader, err := l.d.Detect(ctx, seen)
		if err != nil {
			return "", err
		}
		if leader != nil {
			return leader.Address, nil
		}
		seen = leader
	}
}

func (m *Marathon) close() {
	for i := len(m.closers) - 1; i >= 0; i-- {
		_ = m.closers[i]()
	}
	m.closers = nil
}

// Ready is closed when this process serves: as the leader, or because it knows who leads.
func (m *Marathon) Ready() <-chan struct{} { return m.ready }

func (m *Marathon) setReady() {
	if m.isReady.CompareAndSwap(false, true) {
		close(m.ready)
	}
}

// Address is "host:port" that others reach this process at.
func (m *Marathon) Address() string { return m.address }

// URL is the address with its scheme.
func (m *Marathon) URL() string { return m.scheme + "://" + m.address }

// shutdownGrace is how long requests may take to end when the process stops.
const shutdownGrace = 3 * time.Second

// Run serves until ctx ends.
func (m *Marathon) Run(ctx context.Context) error {
	defer m.close()
	server := &http.Server{
		Handler: m.handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(m.deps.Log.Handler(), slog.LevelDebug),
	}
	g, ctx := errgroup.WithContext(ctx)
	serve := func(l net.Listener) {
		g.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serving the API: %w", err)
			}
			return nil
		})
	}
	if m.listener != nil {
		serve(m.listener)
	}
	if m.tls != nil {
		serve(tls.NewListener(m.tls, m.cert.serverTLS()))
	}
	g.Go(func() error {
		<-ctx.Done()
		m.hub.Close()
		// The parent's context has ended: requests get a little time of their own.
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if err := server.Shutdown(sctx); err != nil {
			_ = server.Close()
		}
		return nil
	})
	g.Go(func() error { return m.watchLeader(ctx) })
	g.Go(func() error {
		self := election.Leader{Address: m.address}
		if err := m.election.Contend(ctx, self, m.lead); err != nil && ctx.Err() == nil {
			return fmt.Errorf("contending for leadership: %w", err)
		}
		return nil
	})
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (m *Marathon) watchLeader(ctx context.Context) error {
	var seen *election.Leader
	for {
		leader, err := m.election.Detect(ctx, seen)
		if err != nil {
			return nil //nolint:nilerr // ctx ended
		}
		seen = leader
		m.board.Store(leader)
		if leader != nil && leader.Address != m.address {
			m.setReady()
		}
	}
}

// Leader implements api.Backend.
func (m *Marathon) Leader() string {
	if m.current.Load() != nil {
		return m.address
	}
	if l := m.board.Load(); l != nil {
		return l.Address
	}
	return ""
}

// Snapshot implements api.Backend.
func (m *Marathon) Snapshot() *core.Snapshot {
	if t := m.current.Load(); t != nil {
		return t.snapshot.Load()
	}
	return nil
}

// Do implements api.Backend.
func (m *Marathon) Do(ctx context.Context, event func(token any) core.Event) (any, error) {
	t := m.current.Load()
	if t == nil {
		return nil, fmt.Errorf("this process does not lead: %w", context.Canceled)
	}
	return t.do(ctx, event)
}

// abdicateDelay lets the answer to the request out before leadership goes.
const abdicateDelay = 500 * time.Millisecond

// Abdicate implements api.Backend: leadership is given up a moment later, and contended for again.
func (m *Marathon) Abdicate() {
	if t := m.current.Load(); t != nil {
		time.AfterFunc(abdicateDelay, func() { t.cancel(errAbdicated) })
	}
}

var errAbdicated = errors.New("leadership was given up on request")
