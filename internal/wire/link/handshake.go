package link

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/wire"
)

// Path is where the master listens for agents; Protocol is what they upgrade to.
const (
	Path     = "/api/v1/link"
	Protocol = "orchestrator-link/1"
)

// RedirectError is the answer of a master that does not lead but knows who does.
type RedirectError struct {
	Leader string // "host:port"
}

// Error names the leader.
func (e *RedirectError) Error() string { return "the master does not lead; the leader is " + e.Leader }

// Accept answers the upgrade and takes the connection over; the handler may return while the link lives. When it fails
// the request has been answered. Whether this master leads, and who the agent is, is checked before.
func Accept(w http.ResponseWriter, r *http.Request, cfg Config) (*Conn, error) {
	if r.Method != http.MethodPost {
		wire.MethodNotAllowed(w, r, http.MethodPost)
		return nil, fmt.Errorf("link requested with %s", r.Method)
	}
	if !upgrades(r.Header, Protocol) {
		w.Header().Set("Upgrade", Protocol)
		wire.Error(w, http.StatusUpgradeRequired, "Expecting 'Connection: Upgrade' and 'Upgrade: "+Protocol+"'")
		return nil, errors.New("link requested without the upgrade")
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		wire.Error(w, http.StatusHTTPVersionNotSupported, "The agent link needs HTTP/1.1")
		return nil, fmt.Errorf("taking the connection over: %w", err)
	}
	conn, err = unread(conn, buffered.Reader)
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(DefaultWriteTimeout))
	}
	if err == nil {
		_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+Protocol+"\r\n\r\n")
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("answering the upgrade: %w", err)
	}
	return NewConn(conn, cfg), nil
}

// upgrades reports whether the headers ask for, or grant, the protocol.
func upgrades(h http.Header, protocol string) bool {
	asked := false
	for _, v := range strings.Split(strings.Join(h.Values("Connection"), ","), ",") {
		asked = asked || strings.EqualFold(strings.TrimSpace(v), "upgrade")
	}
	return asked && strings.EqualFold(h.Get("Upgrade"), protocol)
}

// DialConfig says where to dial and how.
type DialConfig struct {
	Address           string // "host:port", or a URL for https or a path prefix
	Principal, Secret string // for HTTP Basic authentication, when not empty
	// Dial replaces the network; nil stands for TCP.
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	TLS     *tls.Config   // for https
	Timeout time.Duration // of the whole handshake; default 10 s
	Link    Config
}

// Dial connects to a master. It fails with a *RedirectError when another one leads, with a *wire.StatusError when this
// one refuses (503: it does not know the leader or is recovering; 401: wrong credentials).
func Dial(ctx context.Context, cfg DialConfig) (*Conn, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext
	}
	address := cfg.Address
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("master address %q: expecting host:port or an http URL", cfg.Address)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.Timeout, fmt.Errorf("no answer from %s within %v", u.Host, cfg.Timeout))
	defer cancel()
	conn, err := cfg.Dial(ctx, "tcp", hostPort(u))
	if err != nil {
		return nil, fmt.Errorf("dialling the master: %w", err)
	}
	// The deadline of ctx cuts the handshake whatever it waits for.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	upgraded, err := handshake(ctx, conn, u, cfg)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("linking to the master at %s: %w", u.Host, err)
	}
	return NewConn(upgraded, cfg.Link), nil
}

func handshake(ctx context.Context, conn net.Conn, u *url.URL, cfg DialConfig) (net.Conn, error) {
	if u.Scheme == "https" {
		config := cfg.TLS.Clone()
		if config == nil {
			config = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		if config.ServerName == "" {
			config.ServerName = u.Hostname()
		}
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = secure
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.Scheme+"://"+u.Host+strings.TrimSuffix(u.Path, "/")+Path, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", Protocol)
	if cfg.Principal != "" {
		req.SetBasicAuth(cfg.Principal, cfg.Secret)
	}
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		resp.Body.Close()
		if resp.StatusCode == http.StatusTemporaryRedirect {
			to, err := u.Parse(resp.Header.Get("Location"))
			if err != nil || to.Host == "" || resp.Header.Get("Location") == "" {
				return nil, fmt.Errorf("bad Location %q", resp.Header.Get("Location"))
			}
			return nil, &RedirectError{Leader: to.Host}
		}
		return nil, &wire.StatusError{Status: resp.StatusCode, Text: string(text)}
	}
	if !upgrades(resp.Header, Protocol) {
		return nil, fmt.Errorf("the server upgraded to %q", resp.Header.Get("Upgrade"))
	}
	return unread(conn, reader)
}

func hostPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	if u.Scheme == "https" {
		return net.JoinHostPort(u.Hostname(), "443")
	}
	return net.JoinHostPort(u.Hostname(), "80")
}

// unread puts what a buffered reader has read too much back in front of the connection.
func unread(conn net.Conn, r *bufio.Reader) (net.Conn, error) {
	n := r.Buffered()
	if n == 0 {
		return conn, nil
	}
	early, err := r.Peek(n)
	if err != nil {
		return conn, err
	}
	return &prefixed{Conn: conn, early: append([]byte(nil), early...)}, nil
}

// prefixed is a connection some of whose bytes were read already.
type prefixed struct {
	net.Conn
	early []byte
}

// Read returns the early bytes first.
func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.early) > 0 {
		n := copy(b, p.early)
		if p.early = p.early[n:]; len(p.early) == 0 {
			p.early = nil
		}
		return n, nil
	}
	return p.Conn.Read(b)
}

// CloseWrite closes the writing half where there is one.
func (p *prefixed) CloseWrite() error {
	if half, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
