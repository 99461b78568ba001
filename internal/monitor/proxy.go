package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The console's pages of the cluster read the components' own APIs through the monitor: one origin, one login, and a role for
// each request. What is passed on is stated here; everything else is refused, because the components themselves may trust
// whoever reaches them.

const (
	maxProxyBody    = 8 << 20
	agentsFresh     = 10 * time.Second
	maxRedirects    = 3
	proxyTableBytes = 64 << 20
)

// writes are the requests that change something and are passed on, per component: a method and the path's beginning.
var writes = map[string][]struct{ method, prefix string }{
	"master": {
		{http.MethodPost, "/api/orchestrator/v1/kill"},
		{http.MethodPost, "/api/v1"}, // the operator API; schedulers and executors have paths of their own
		{http.MethodPost, "/teardown"},
		{http.MethodPost, "/maintenance/schedule"},
		{http.MethodPost, "/machine/up"},
		{http.MethodPost, "/machine/down"},
	},
	"marathon": {
		{http.MethodPost, "/v2/"},
		{http.MethodPut, "/v2/"},
		{http.MethodPatch, "/v2/"},
		{http.MethodDelete, "/v2/"},
	},
}

var reSlashes = regexp.MustCompile(`/{2,}`)

// exact are the prefixes that are whole paths.
func exact(prefix string) bool { return !strings.HasSuffix(prefix, "/") }

// target is where a request goes.
type target struct {
	component string // as the audit log names it
	base      string
	path      string // escaped, begins with /
	least     Role
}

// aim finds out where a request goes and who may send it.
func (m *Monitor) aim(r *http.Request) (target, error) {
	name, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/api/v1/proxy/"), "/")
	t := target{component: name, path: "/" + rest, least: RoleViewer}
	plain, err := url.PathUnescape(t.path)
	if err != nil || strings.Contains("/"+plain+"/", "/../") || strings.Contains("/"+plain+"/", "/./") || strings.ContainsAny(plain, "\\\x00") {
		return t, fail("bad_request", "this path is not passed on", "")
	}
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch name {
	case "master":
		t.base = m.cfg.Master
		// Mesos takes any number of slashes for one, and what lies below an endpoint for the endpoint.
		bare := strings.TrimPrefix(reSlashes.ReplaceAllString(plain, "/"), "/master")
		switch {
		case read && (bare == "/flags" || strings.HasPrefix(bare, "/flags/") || strings.HasPrefix(bare, "/files")):
			t.least = RoleOperator // settings and the master's own log
		case read && (strings.HasPrefix(bare, "/logging") || strings.HasPrefix(bare, "/profiler") || strings.HasPrefix(bare, "/memory-profiler")):
			return t, fail("forbidden", "this endpoint of the master is not passed on", "ask the master itself")
		}
	case "marathon":
		t.base = m.cfg.Marathon
	case "zksync":
		t.base = m.cfg.ZkSync
		if !read || !strings.HasPrefix(plain, "/api/v1/sync/") && plain != "/healthz" {
			return t, fail("forbidden", "only the state of the replication is passed on", "decisions are taken with orchestrator zk")
		}
	case "agent":
		return m.aimAtAgent(r, t)
	default:
		return t, fail("not_found", "no such component", "components are master, marathon, agent and zksync")
	}
	if t.base == "" {
		flag := name
		if name == "zksync" {
			flag = "zk-sync"
		}
		return t, fail("not_found", "this monitor does not know the component "+name, "start the monitor with --"+flag+"=URL")
	}
	if read {
		return t, nil
	}
	t.least = RoleOperator
	for _, w := range writes[name] {
		if w.method == r.Method && (plain == w.prefix || !exact(w.prefix) && strings.HasPrefix(plain, w.prefix)) {
			return t, nil
		}
	}
	return t, fail("forbidden", fmt.Sprintf("%s %s is not passed on to %s", r.Method, plain, name), "ask the component itself")
}

// aimAtAgent passes reading of sandboxes and of an agent's state on to an agent that the master knows.
func (m *Monitor) aimAtAgent(r *http.Request, t target) (target, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return t, fail("forbidden", "agents are only read from", "")
	}
	if m.cfg.Master == "" {
		return t, fail("not_found", "this monitor does not know the component master", "start the monitor with --master=URL")
	}
	id, rest, _ := strings.Cut(strings.TrimPrefix(t.path, "/"), "/")
	id, err := url.PathUnescape(id)
	if err != nil {
		return t, fail("bad_request", "not an agent's id", "")
	}
	t.path = "/" + rest
	// Agents of Mesos read the last of several values, and separate by semicolons too: what is checked here has to be what they see.
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(query["path"]) > 1 {
		return t, fail("bad_request", "the query holds a semicolon, or more than one path", "escape it as %3B")
	}
	switch t.path {
	case "/state", "/containers", "/monitor/statistics":
	case "/files/browse", "/files/download":
		t.least = RoleOperator
	case "/files/read":
		// Logs are what viewers may read; any other file needs the role that may open a shell there.
		file := path.Base(query.Get("path"))
		if !m.cfg.ViewerLogs || file != "stdout" && file != "stderr" {
			t.least = RoleOperator
		}
	default:
		return t, fail("forbidden", "this endpoint of agents is not passed on", "")
	}
	t.base, err = m.agents.address(r.Context(), m, id)
	return t, err
}

// proxy passes a request on, without the caller's credentials.
func (m *Monitor) proxy(w http.ResponseWriter, r *http.Request) {
	var t target
	id, err := m.allow(r, RoleViewer)
	if err == nil {
		t, err = m.aim(r)
	}
	if err == nil && id.role < t.least {
		err = fail("forbidden", "role "+id.role.String()+" may not do this", "it needs the role "+t.least.String())
	}
	r, leave := m.staying(r, id)
	defer leave()
	action := "proxy." + t.component
	object := r.Method + " " + t.path
	if err != nil {
		if a := asAPI(err); a.Code == "forbidden" && t.component != "" {
			m.record(r, id, action, object, "denied", a.Message, 0)
		}
		m.writeError(w, err)
		return
	}
	to, err := url.Parse(strings.TrimSuffix(t.base, "/") + t.path)
	if err != nil {
		m.writeError(w, fail("bad_request", "not a path", ""))
		return
	}
	to.RawQuery = r.URL.RawQuery
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		// Kept, so that it can be sent again to the leader.
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxProxyBody))
		if err != nil {
			m.writeError(w, fail("too_large", "the body is larger than 8 MB or ended early", ""))
			return
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	status := 0
	p := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL, pr.Out.Host = to, to.Host
			pr.Out.GetBody = pr.In.GetBody
			for _, h := range []string{"Cookie", "Authorization", "X-Csrf-Token", "Origin", "Referer"} {
				pr.Out.Header.Del(h)
			}
		},
		Transport: follower{m.transport},
		ModifyResponse: func(resp *http.Response) error {
			status = resp.StatusCode
			// What the component says about cookies, framing or other sites is not this origin's business; and what it serves is
			// data here, never a page.
			for _, h := range []string{"Set-Cookie", "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Content-Security-Policy", "Location", "X-Frame-Options", "X-Content-Type-Options"} {
				resp.Header.Del(h)
			}
			if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "application/json") && !strings.HasPrefix(kind, "text/plain") && !strings.HasPrefix(kind, "text/event-stream") {
				resp.Header.Set("Content-Type", "application/octet-stream")
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			status = http.StatusBadGateway
			m.writeError(w, fail("bad_gateway", t.component+" does not answer: "+err.Error(), "is it running at "+t.base+"?"))
		},
		FlushInterval: -1,
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead || t.least > RoleViewer {
		// Also when the answer breaks off, on either side, which ends this by a panic.
		defer func() { m.record(r, id, action, object, answered(status), "", 0) }()
	}
	p.ServeHTTP(w, r)
}

func answered(status int) string {
	if status >= 200 && status < 300 {
		return "ok"
	}
	return "failed: HTTP " + strconv.Itoa(status)
}

// follower goes where a component that does not lead sends it: a browser could not, because the leader is another origin.
type follower struct{ next http.RoundTripper }

func (f follower) RoundTrip(r *http.Request) (*http.Response, error) {
	for range maxRedirects {
		resp, err := f.next.RoundTrip(r)
		if err != nil || !slices.Contains([]int{http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect}, resp.StatusCode) {
			return resp, err
		}
		to, err := resp.Location()
		if err != nil || to.Scheme != "http" && to.Scheme != "https" {
			return resp, nil //nolint:nilerr // it is told as it is
		}
		if r.GetBody == nil && r.Method != http.MethodGet && r.Method != http.MethodHead {
			return resp, nil
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
		_ = resp.Body.Close()
		again := r.Clone(r.Context())
		again.URL, again.Host = to, to.Host
		if r.GetBody != nil {
			if again.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
		r = again
	}
	return nil, errors.New("it sends from one place to another and back; who leads?")
}

// agentTable keeps the agents' addresses as the master tells them.
type agentTable struct {
	mu   sync.Mutex
	at   time.Time
	list map[string]string
}

func (t *agentTable) address(ctx context.Context, m *Monitor, id string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a, ok := t.list[id]; ok && m.hub.now().Sub(t.at) < agentsFresh {
		return a, nil
	}
	if m.hub.now().Sub(t.at) > time.Second { // an id that is not there must not make it ask all the time
		list, err := m.readAgents(ctx)
		if err != nil {
			return "", fail("bad_gateway", "the master does not tell where its agents are: "+err.Error(), "is it running at "+m.cfg.Master+"?")
		}
		t.list, t.at = list, m.hub.now()
	}
	if a, ok := t.list[id]; ok {
		return a, nil
	}
	return "", fail("not_found", "the master knows no such agent now", "")
}

func (m *Monitor) readAgents(ctx context.Context) (map[string]string, error) {
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(m.cfg.Master, "/")+"/slaves", nil)
	if err != nil {
		return nil, err
	}
	resp, err := follower{m.transport}.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("HTTP %d", resp.StatusCode)
	}
	var in struct {
		Slaves []struct{ ID, PID string }
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, proxyTableBytes)).Decode(&in); err != nil {
		return nil, err
	}
	out := make(map[string]string, len(in.Slaves))
	for _, s := range in.Slaves {
		if _, addr, ok := strings.Cut(s.PID, "@"); ok {
			out[s.ID] = "http://" + addr
		}
	}
	return out, nil
}
