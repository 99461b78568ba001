package monitor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/orchestrator/orchestrator/internal/monitor/console"
	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/monitor/series"
)

// Monitor is one replica.
type Monitor struct {
	cfg      Config
	log      *slog.Logger
	listener net.Listener
	estate   *estate.Estate
	events   *estate.Events
	recorder *estate.Recorder
	hub      *hub
	probes   *probeTable
	accounts *accounts
	audit    *auditLog
	terms    *terminals
	scope    *scopeTable
	archive  *series.Archive
	scopeAPI *scopeReads
	// transport reaches the cluster's components.
	transport *http.Transport
	agents    agentTable
	handler   http.Handler
	started   time.Time
	ready     chan struct{}
	sockets   atomic.Int64
	link      string

	mu       sync.Mutex
	watchers map[*liveConn][]string
	stopping context.Context //nolint:containedctx // ends the streams when Run does; set once by Run
	stop     context.CancelFunc
	streams  sync.WaitGroup
}

// New checks the configuration, opens the data directory and the listener.
func New(cfg Config, deps Deps) (*Monitor, error) {
	cfg.defaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log := deps.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if cfg.DataDir != "" {
		if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
			return nil, fmt.Errorf("make the data directory: %w", err)
		}
	}
	m := &Monitor{cfg: cfg, log: log, started: time.Now(), ready: make(chan struct{}), watchers: map[*liveConn][]string{}}
	m.stopping, m.stop = context.WithCancel(context.Background())
	var err error
	if m.accounts, err = openAccounts(cfg.DataDir, time.Now); err != nil {
		return nil, err
	}
	if m.audit, err = openAudit(cfg.DataDir, log); err != nil {
		return nil, err
	}
	m.accounts.fix(cfg.AdminToken, identity{name: "link", role: RoleAdmin})
	m.accounts.fix(cfg.ProbeToken, identity{name: "probe", role: RoleNone, probe: true})
	m.events = estate.NewEvents()
	m.estate = estate.New(m.events)
	m.hub = newHub(m.estate, time.Now)
	m.recorder = estate.NewRecorder(m.estate)
	m.hub.onFlush = m.recorder.Record
	m.scopeAPI = newScopeReads(m)
	m.probes = newProbeTable(m.estate, m.events)
	m.terms = newTerminals()
	m.scope = newScopeTable()
	m.transport = &http.Transport{DialContext: deps.Dial, MaxIdleConns: 8, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: 30 * time.Second}
	if cfg.DataDir != "" {
		if m.archive, err = series.OpenArchive(filepath.Join(cfg.DataDir, "series")); err != nil {
			return nil, err
		}
	}
	m.handler = secure(m.routes(console.Handler()), cfg.Replicas)
	m.listener = deps.Listener
	if m.listener == nil {
		if m.listener, err = net.Listen("tcp", cfg.Listen); err != nil {
			m.audit.close()
			return nil, fmt.Errorf("listen for the console: %w (choose another address with --listen)", err)
		}
	}
	if cfg.CertFile != "" {
		conf, err := cfg.tls()
		if err != nil {
			m.listener.Close()
			m.audit.close()
			return nil, err
		}
		m.listener = tls.NewListener(m.listener, conf)
	}
	return m, m.firstAdmin()
}

// firstAdmin makes a token for whoever starts a monitor that nobody can administer.
func (m *Monitor) firstAdmin() error {
	secretText := m.cfg.AdminToken
	if secretText == "" && m.cfg.Auth == "on" && !m.accounts.hasAdmin() {
		_, s, err := m.accounts.newToken("first-admin", "admin", "user", 0)
		if err != nil {
			return err
		}
		secretText = s
	}
	m.link = m.URL() + "/"
	if secretText != "" {
		m.link += "#token=" + secretText
	}
	return nil
}

func (c *Config) tls() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if c.ClientCAFile != "" {
		pem, err := os.ReadFile(c.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("read the probes' authority: %w", err)
		}
		conf.ClientCAs = x509.NewCertPool()
		if !conf.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", c.ClientCAFile)
		}
		conf.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return conf, nil
}

// URL is where the monitor is served. A wildcard address is shown as the loopback one.
func (m *Monitor) URL() string {
	scheme := "http"
	if m.cfg.CertFile != "" {
		scheme = "https"
	}
	addr := m.listener.Addr().String()
	if host, port, err := net.SplitHostPort(addr); err == nil {
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
			addr = net.JoinHostPort("127.0.0.1", port)
		}
	}
	return scheme + "://" + addr
}

// Link is the address with which a person logs in at once. It holds a secret when this start made or was given one.
func (m *Monitor) Link() string { return m.link }

// Ready is closed when requests are answered.
func (m *Monitor) Ready() <-chan struct{} { return m.ready }

// Run serves until ctx ends.
func (m *Monitor) Run(ctx context.Context) error {
	defer m.audit.close()
	srv := &http.Server{
		Handler: m.handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelDebug),
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.hub.run(gctx) })
	g.Go(func() error { return m.probes.run(gctx) })
	g.Go(func() error { return m.terms.run(gctx) })
	g.Go(func() error { return m.accounts.run(gctx) })
	g.Go(func() error { return m.keepMinutes(gctx) })
	g.Go(func() error { return m.keepWatching(gctx) })
	g.Go(func() error { return m.scopeAPI.run(gctx) })
	defer m.transport.CloseIdleConnections()
	g.Go(func() error {
		if err := srv.Serve(m.listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		m.stop()
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := srv.Shutdown(sctx); err != nil {
			return srv.Close()
		}
		return nil
	})
	if m.cfg.ScopeProbes == "open" {
		m.log.Warn("anybody may send as a probe of Weave Scope: no token is asked for (--scope-probes=open)")
	}
	close(m.ready)
	err := g.Wait()
	m.streams.Wait()
	return err
}

// streamContext gives the context of a WebSocket: it ends with the monitor. The request's own ends with the handler, and when who made it may no
// longer.
func (m *Monitor) streamContext(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	m.streams.Add(1)
	stop := context.AfterFunc(m.stopping, cancel)
	var once sync.Once
	return ctx, func() {
		once.Do(func() {
			stop()
			cancel()
			m.streams.Done()
		})
	}
}

// secure sets what every answer carries: nothing is loaded from elsewhere, framed, or guessed. Pages may ask other monitors, and
// nobody else, whether they are there; they are told no more than that, since no answer names another origin that may read it.
func secure(next http.Handler, replicas []string) http.Handler {
	connect := strings.Join(append([]string{"'self'"}, replicas...), " ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src "+connect+"; worker-src 'self' blob:; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		if strings.HasPrefix(r.URL.Path, "/api/") {
			h.Set("Cache-Control", "no-store")
			h.Set("Cross-Origin-Resource-Policy", "same-origin")
		}
		next.ServeHTTP(w, r)
	})
}
