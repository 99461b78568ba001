package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
)

// Detector knows where the leading master is. Leader blocks until one is known or ctx is done; it returns "host:port" or
// a base URL.
type Detector interface {
	Leader(ctx context.Context) (string, error)
}

// ClientConfig says whom a client talks to and how. Zero fields stand for the defaults.
type ClientConfig struct {
	// Masters are tried in turn when Detector is nil: "host:port" or base URLs ("https://host:port/prefix").
	Masters  []string
	Detector Detector
	// Path of the API below the base: /api/v1/scheduler, /api/v1/executor, /api/v1.
	Path        string
	ContentType ContentType // of calls and answers; default Protobuf
	// Principal and Secret are sent with HTTP Basic authentication, Token as a bearer token.
	Principal, Secret, Token string
	// Transport carries the requests; default NewTransport(nil). See UnixTransport for MESOS_DOMAIN_SOCKET.
	Transport http.RoundTripper

	CallTimeout time.Duration // until a call is answered, and until a stream's headers are there; default 30 s
	MaxRecord   int           // bytes of an event; default MaxRecord
	MaxAnswer   int64         // bytes of an answer to a call; default MaxRecord

	// Reconnecting waits MinBackoff, then twice as long each time up to MaxBackoff, less a random part of up to a half.
	// Defaults 100 ms and 15 s.
	MinBackoff, MaxBackoff time.Duration
	// Silence is how many heartbeat intervals may pass without an event before a stream counts as dead; default 5. It
	// applies to streams whose SUBSCRIBED event names an interval.
	Silence int
}

// Client speaks one of the v1 APIs: Call and Do for single calls, Open and Subscribe for the event stream. It follows
// the leader, and keeps the Mesos-Stream-Id of the stream it opened last. Safe for concurrent use.
type Client struct {
	cfg ClientConfig

	mu       sync.Mutex
	base     string // where the leader was seen last; empty when that is not known
	next     int    // index into Masters
	streamID string
}

// NewClient checks the configuration.
func NewClient(cfg ClientConfig) (*Client, error) {
	if cfg.Detector == nil && len(cfg.Masters) == 0 {
		return nil, errors.New("client needs the address of a master or a detector")
	}
	for _, m := range cfg.Masters {
		if _, err := baseURL(m, "http"); err != nil {
			return nil, err
		}
	}
	if cfg.ContentType == 0 {
		cfg.ContentType = Protobuf
	}
	if cfg.ContentType != JSON && cfg.ContentType != Protobuf {
		return nil, fmt.Errorf("client cannot use %v", cfg.ContentType)
	}
	if cfg.Transport == nil {
		cfg.Transport = NewTransport(nil)
	}
	if cfg.CallTimeout <= 0 {
		cfg.CallTimeout = 30 * time.Second
	}
	if cfg.MaxAnswer <= 0 {
		cfg.MaxAnswer = MaxRecord
	}
	if cfg.MinBackoff <= 0 {
		cfg.MinBackoff = 100 * time.Millisecond
	}
	if cfg.MaxBackoff <= 0 {
		cfg.MaxBackoff = 15 * time.Second
	}
	if cfg.Silence <= 0 {
		cfg.Silence = 5
	}
	return &Client{cfg: cfg}, nil
}

// NewTransport returns an HTTP/1.1 transport for a client. dial replaces the network; nil stands for TCP.
func NewTransport(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Transport {
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	}
	return &http.Transport{
		DialContext:           dial,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 0, // the client has its own, which also covers the body of an answer
		MaxIdleConnsPerHost:   32,
		IdleConnTimeout:       90 * time.Second,
		DisableCompression:    true,
	}
}

// UnixTransport returns a transport that reaches every address through a Unix domain socket.
func UnixTransport(path string) *http.Transport {
	return NewTransport(func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "unix", path)
	})
}

// Close gives idle connections back. Streams that are open live on.
func (c *Client) Close() {
	if t, ok := c.cfg.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// StreamID returns the Mesos-Stream-Id of the stream opened last.
func (c *Client) StreamID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streamID
}

// Leader returns the base URL of the master that answered last, or "".
func (c *Client) Leader() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base
}

// StatusError is an answer other than success.
type StatusError struct {
	Status int
	Text   string // the body's beginning
}

// Error names the status and what the server said.
func (e *StatusError) Error() string {
	text := strings.TrimSpace(e.Text)
	if text == "" {
		text = http.StatusText(e.Status)
	}
	return fmt.Sprintf("HTTP %d: %s", e.Status, text)
}

// Temporary reports whether the same call may succeed later: the server is recovering, has no leader or is overloaded.
func (e *StatusError) Temporary() bool {
	switch e.Status {
	case http.StatusTemporaryRedirect, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	}
	return e.Status >= 500 && e.Status != http.StatusNotImplemented
}

// Temporary reports whether what failed may succeed when it is tried again: anything but an answer that says otherwise.
func Temporary(err error) bool {
	var se *StatusError
	if errors.As(err, &se) {
		return se.Temporary()
	}
	return !errors.Is(err, context.Canceled) && !errors.Is(err, errPermanent)
}

var errPermanent = errors.New("cannot be sent")

// Call sends a call whose answer is a status alone. It is sent once: what to do about an error is the caller's choice.
func (c *Client) Call(ctx context.Context, call proto.Message) error {
	return c.Do(ctx, call, nil)
}

// Do sends a call and decodes the answer's body into answer, unless that is nil.
func (c *Client) Do(ctx context.Context, call, answer proto.Message) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.CallTimeout, fmt.Errorf("no answer within %v", c.cfg.CallTimeout))
	defer cancel()
	resp, err := c.send(ctx, call, c.StreamID())
	if err != nil {
		return orCause(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, c.cfg.MaxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("reading the answer: %w", orCause(ctx, err))
	case int64(len(body)) > c.cfg.MaxAnswer:
		return fmt.Errorf("%w: answer is larger than %d bytes", errPermanent, c.cfg.MaxAnswer)
	case answer == nil || len(body) == 0:
		return nil
	}
	ct, ok := ParseContentType(resp.Header.Get("Content-Type"))
	if !ok {
		return fmt.Errorf("%w: answer has Content-Type %q", errPermanent, resp.Header.Get("Content-Type"))
	}
	if err := ct.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("%w: decoding the answer: %w", errPermanent, err)
	}
	return nil
}

// orCause says why a context ended, when that is why a request failed.
func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// send posts a call to the leader, following redirects, and returns a 2xx answer with its body open.
func (c *Client) send(ctx context.Context, call proto.Message, streamID string) (*http.Response, error) {
	body, err := c.cfg.ContentType.Marshal(call)
	if err != nil {
		return nil, fmt.Errorf("%w: encoding the call: %w", errPermanent, err)
	}
	base, err := c.where(ctx)
	if err != nil {
		return nil, err
	}
	const redirects = 4
	for range redirects {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+c.cfg.Path, bytes.NewReader(body))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errPermanent, err)
		}
		req.Header.Set("Content-Type", c.cfg.ContentType.String())
		req.Header.Set("Accept", c.cfg.ContentType.String())
		if streamID != "" {
			req.Header.Set("Mesos-Stream-Id", streamID)
		}
		switch {
		case c.cfg.Token != "":
			req.Header.Set("Authorization", "Bearer "+c.cfg.Token)
		case c.cfg.Principal != "":
			req.SetBasicAuth(c.cfg.Principal, c.cfg.Secret)
		}
		resp, err := c.cfg.Transport.RoundTrip(req)
		if err != nil {
			c.lost(base)
			return nil, fmt.Errorf("sending to %s: %w", base, err)
		}
		if resp.StatusCode/100 == 2 {
			c.found(base)
			return resp, nil
		}
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		resp.Body.Close()
		failed := &StatusError{Status: resp.StatusCode, Text: string(text)}
		if resp.StatusCode != http.StatusTemporaryRedirect && resp.StatusCode != http.StatusPermanentRedirect {
			if failed.Temporary() {
				c.lost(base)
			}
			return nil, failed
		}
		if base, err = redirected(base, resp.Header.Get("Location")); err != nil {
			c.lost("")
			return nil, fmt.Errorf("following the redirect to the leader: %w", err)
		}
	}
	c.lost("")
	return nil, &StatusError{Status: http.StatusTemporaryRedirect, Text: "the masters redirect to each other: no leader yet"}
}

// where returns the base URL to try.
func (c *Client) where(ctx context.Context) (string, error) {
	c.mu.Lock()
	base := c.base
	if base == "" && c.cfg.Detector == nil {
		base, _ = baseURL(c.cfg.Masters[c.next%len(c.cfg.Masters)], "http")
	}
	c.mu.Unlock()
	if base != "" {
		return base, nil
	}
	address, err := c.cfg.Detector.Leader(ctx)
	if err != nil {
		return "", fmt.Errorf("finding the leading master: %w", err)
	}
	return baseURL(address, "http")
}

func (c *Client) found(base string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base = base
}

// lost forgets the leader if it is still the one that failed ("" = whoever it is), and moves on to the next master.
func (c *Client) lost(base string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if base == "" || c.base == "" || c.base == base {
		c.base = ""
		c.next++
	}
}

// baseURL makes "scheme://host:port/prefix" of an address.
func baseURL(address, scheme string) (string, error) {
	if !strings.Contains(address, "://") {
		address = scheme + "://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", fmt.Errorf("master address %q: %w", address, err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", fmt.Errorf("master address %q: expecting host:port or an http URL", address)
	}
	return u.Scheme + "://" + u.Host + strings.TrimSuffix(u.Path, "/"), nil
}

// redirected returns the base URL of a leader that a Location names, as "//host:port/path" or as a whole URL. The path
// of the API stays the client's.
func redirected(base, location string) (string, error) {
	from, err := url.Parse(base)
	if err != nil {
		return "", err
	}
	to, err := from.Parse(location)
	if err != nil || to.Host == "" || location == "" {
		return "", fmt.Errorf("bad Location %q", location)
	}
	return baseURL(to.Scheme+"://"+to.Host+from.Path, to.Scheme)
}
