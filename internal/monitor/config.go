package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strings"
)

// Config is all that a monitor is told.
type Config struct {
	// Listen is the address of the API and the console. Default 127.0.0.1:4040.
	Listen string
	// DataDir keeps users, tokens, saved views, the audit log and the minute tier. Empty: in memory, gone with the process.
	DataDir string
	// Auth is "on" (default) or "off"; off is refused unless Listen is a loopback address.
	Auth string
	// ViewerLogs lets viewers read logs. Default true.
	ViewerLogs bool
	// AllowedOrigins are hosts, besides the request's own, from which browsers may connect.
	AllowedOrigins []string
	// CertFile and KeyFile make it serve TLS; ClientCAFile makes a probe's certificate count as its token.
	CertFile, KeyFile, ClientCAFile string
	// Master and Marathon are the URLs of the components whose pages the console shows, ZkSync that of a replication engine.
	Master, Marathon, ZkSync string
	// ScopeProbes says whether probes of Weave Scope may send: "off" (default), "token" (with a token of kind probe) or "open" (anybody).
	ScopeProbes string
	// MetricsOpen serves /metrics without a login.
	MetricsOpen bool
	// ReplicaID names this replica. Default: the host's name.
	ReplicaID string
	// Replicas are the origins (https://m2:4040) of other monitors with the same accounts.json, to which a page goes whose own is
	// gone. A monitor's own may be among them, so that all can be told the same.
	Replicas []string
	// ScopeAPI serves Weave Scope's read API besides ours.
	ScopeAPI bool
	// AdminToken and ProbeToken are secrets that `up` makes; they are accepted besides those of the data directory.
	AdminToken, ProbeToken string
}

// Deps is what tests swap.
type Deps struct {
	Logger   *slog.Logger
	Listener net.Listener // instead of Config.Listen
	// Dial connects to master and Marathon; nil is the network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

func (c *Config) defaults() {
	if c.Listen == "" {
		c.Listen = "127.0.0.1:4040"
	}
	if c.Auth == "" {
		c.Auth = "on"
	}
	if c.ScopeProbes == "" {
		c.ScopeProbes = "off"
	}
	if c.ReplicaID == "" {
		c.ReplicaID, _ = os.Hostname()
	}
}

// Validate joins everything that is wrong with the configuration.
func (c *Config) Validate() error {
	var errs []error
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		errs = append(errs, fmt.Errorf("listen: %q is not host:port", c.Listen))
	}
	switch c.Auth {
	case "on":
	case "off":
		if a, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !a.IsLoopback()) {
			errs = append(errs, fmt.Errorf("auth: off is allowed only on a loopback address, not on %q: whoever reaches the monitor can run commands in containers", c.Listen))
		}
	default:
		errs = append(errs, fmt.Errorf("auth: %q is neither on nor off", c.Auth))
	}
	if c.ScopeProbes != "" && c.ScopeProbes != "off" && c.ScopeProbes != "token" && c.ScopeProbes != "open" {
		errs = append(errs, fmt.Errorf("scope-probes: %q is neither off, token nor open", c.ScopeProbes))
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		errs = append(errs, errors.New("tls: a certificate and its key belong together"))
	}
	if c.ClientCAFile != "" && c.CertFile == "" {
		errs = append(errs, errors.New("tls: client certificates need TLS: give a certificate and key"))
	}
	for name, s := range map[string]string{"master": c.Master, "marathon": c.Marathon, "zk-sync": c.ZkSync} {
		if s == "" {
			continue
		}
		if u, err := url.Parse(s); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			errs = append(errs, fmt.Errorf("%s: %q is not an http(s) URL", name, s))
		}
	}
	for _, o := range c.AllowedOrigins {
		if strings.ContainsAny(o, "/*") {
			errs = append(errs, fmt.Errorf("allowed-origins: %q is not a host or host:port", o))
		}
	}
	if len(c.Replicas) > maxReplicas {
		errs = append(errs, fmt.Errorf("replicas: at most %d", maxReplicas))
	}
	for _, o := range c.Replicas {
		// They go into the page's security policy as they are, and pages go to them with a session: nothing but a plain origin.
		switch {
		case !reOrigin.MatchString(o):
			errs = append(errs, fmt.Errorf("replicas: %q is not of the form https://name:port (a name or an IPv4 address, nothing after the port)", o))
		case c.CertFile != "" && !strings.HasPrefix(o, "https://"):
			errs = append(errs, fmt.Errorf("replicas: %q has no TLS, and this monitor has: a session must not go from one to the other", o))
		}
	}
	return errors.Join(errs...)
}

const maxReplicas = 16

var reOrigin = regexp.MustCompile(`^https?://[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*(:[0-9]{1,5})?$`)

// replicas are the origins of the other monitors, never null.
func (m *Monitor) replicas() []string {
	return append([]string{}, m.cfg.Replicas...)
}
