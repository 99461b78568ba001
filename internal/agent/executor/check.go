package executor

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/execlink/message"
)

// runCommand runs a check's command beside its task and gives the exit code; ending ctx kills it.
type runCommand func(ctx context.Context, taskID string, c *message.Command) (int32, error)

// place is where a task's checks are made from.
type place struct {
	run runCommand
	// dial connects from the task's network; nil: it is the helper's own.
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

func (p place) connect(ctx context.Context, address string) (net.Conn, error) {
	if p.dial != nil {
		return p.dial(ctx, "tcp", address)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

// What a checker tells its owner.
type (
	checkHealth struct {
		taskID  string
		healthy bool
		failed  bool // too often in a row
	}
	checkStatus struct {
		taskID string
		status message.CheckStatus
	}
)

// result is the outcome of one probe.
type result struct {
	exit *int32  // COMMAND: it ran to its end
	code *uint32 // HTTP: an answer came
	open *bool   // TCP
}

// ok: the probe says healthy.
func (r result) ok() bool {
	switch {
	case r.exit != nil:
		return *r.exit == 0
	case r.code != nil:
		return *r.code >= 200 && *r.code < 400
	case r.open != nil:
		return *r.open
	}
	return false
}

// watchHealth probes until ctx ends. Failures during the grace period after the start do not count until the task has
// been healthy once.
func watchHealth(ctx context.Context, taskID string, c *message.Check, at place, tell func(any)) {
	start := time.Now()
	var failures uint32
	var was *bool
	every(ctx, c, func() {
		r, err := probe(ctx, taskID, c, at)
		if ctx.Err() != nil {
			return
		}
		if err == nil && r.ok() {
			failures = 0
			if was == nil || !*was {
				was = new(bool)
				*was = true
				tell(checkHealth{taskID: taskID, healthy: true})
			}
			return
		}
		if was == nil && time.Since(start) < c.Grace {
			return
		}
		failures++
		if failures >= max(c.Failures, 1) || was == nil || *was {
			was = new(bool)
			tell(checkHealth{taskID: taskID, failed: failures >= max(c.Failures, 1)})
		}
	})
}

// watchCheck probes until ctx ends and tells every result; the owner drops repetitions. A probe that could not be made
// tells an empty status: nothing is known.
func watchCheck(ctx context.Context, taskID string, c *message.Check, at place, tell func(any)) {
	every(ctx, c, func() {
		r, err := probe(ctx, taskID, c, at)
		if ctx.Err() != nil {
			return
		}
		s := message.CheckStatus{Type: c.Type}
		if err == nil {
			s.ExitCode, s.StatusCode, s.Succeeded = r.exit, r.code, r.open
		} else if c.Type == "TCP" {
			s.Succeeded = new(bool)
		}
		tell(checkStatus{taskID, s})
	})
}

// every calls f after the delay and then with the interval between the end of one call and the next.
func every(ctx context.Context, c *message.Check, f func()) {
	t := time.NewTimer(c.Delay)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		f()
		// Not even a framework that says 0 may keep the host busy with probes.
		t.Reset(max(c.Interval, 10*time.Millisecond))
	}
}

func probe(ctx context.Context, taskID string, c *message.Check, at place) (result, error) {
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	switch c.Type {
	case "COMMAND":
		if c.Command == nil {
			return result{}, errors.New("a COMMAND check without a command")
		}
		code, err := at.run(ctx, taskID, c.Command)
		if err != nil {
			return result{}, err
		}
		return result{exit: &code}, nil
	case "HTTP":
		code, err := probeHTTP(ctx, c, at)
		if err != nil {
			return result{}, err
		}
		return result{code: &code}, nil
	case "TCP":
		conn, err := at.connect(ctx, local(c))
		if err != nil {
			return result{}, err
		}
		conn.Close()
		yes := true
		return result{open: &yes}, nil
	default:
		return result{}, fmt.Errorf("unknown check type %q", c.Type)
	}
}

func local(c *message.Check) string {
	host := "127.0.0.1"
	if c.IPv6 {
		host = "::1"
	}
	return net.JoinHostPort(host, strconv.Itoa(int(c.Port)))
}

// maxRedirects bounds how often a probe follows.
const maxRedirects = 5

// probeHTTP asks for the path and follows redirects; the final status counts. It is a client of a few lines, because
// net/http would double the helper.
func probeHTTP(ctx context.Context, c *message.Check, at place) (uint32, error) {
	scheme := c.Scheme
	if scheme == "" {
		scheme = "http"
	}
	path := c.Path
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	u, err := url.Parse(scheme + "://" + local(c) + path)
	if err != nil {
		return 0, fmt.Errorf("path of the check: %w", err)
	}
	for hop := 0; ; hop++ {
		code, location, err := get(ctx, u, at)
		if err != nil {
			return 0, err
		}
		if code < 300 || code > 399 || code == 304 || location == "" || hop == maxRedirects {
			return code, nil
		}
		next, err := u.Parse(location)
		if err != nil || next.Scheme != "http" && next.Scheme != "https" || next.Host == "" {
			return code, nil
		}
		u = next
	}
}

// get makes one request and reads the head of the answer.
func get(ctx context.Context, u *url.URL, at place) (code uint32, location string, err error) {
	addr := u.Host
	if u.Port() == "" {
		port := "80"
		if u.Scheme == "https" {
			port = "443"
		}
		addr = net.JoinHostPort(u.Hostname(), port)
	}
	conn, err := at.connect(ctx, addr)
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if u.Scheme == "https" {
		// A check asks whether the task answers, not who it is: it has no name to verify on the loopback address.
		t := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // see above
		if err := t.HandshakeContext(ctx); err != nil {
			return 0, "", err
		}
		conn = t
	}
	if _, err := io.WriteString(conn, "GET "+u.RequestURI()+" HTTP/1.1\r\nHost: "+u.Host+
		"\r\nUser-Agent: orchestrator-check\r\nAccept: */*\r\nConnection: close\r\n\r\n"); err != nil {
		return 0, "", err
	}
	r := bufio.NewReader(io.LimitReader(conn, 64<<10))
	for {
		code, location, err = readHead(r)
		if err != nil || code >= 200 { // 1xx come before the answer
			return code, location, err
		}
	}
}

// readHead reads a status line and the headers after it.
func readHead(r *bufio.Reader) (code uint32, location string, err error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, "", fmt.Errorf("read status line: %w", err)
	}
	proto, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	digits, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || !strings.HasPrefix(proto, "HTTP/") || n < 100 || n > 999 {
		return 0, "", errors.New("the answer is not HTTP")
	}
	for {
		line, err := r.ReadString('\n')
		if err == io.EOF {
			return uint32(n), location, nil // cut short, but the status has been said
		}
		if err != nil {
			return 0, "", fmt.Errorf("read headers: %w", err)
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			return uint32(n), location, nil
		}
		if k, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(k, "Location") {
			location = strings.TrimSpace(v)
		}
	}
}
