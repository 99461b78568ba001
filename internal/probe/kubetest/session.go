package kubetest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/goccy/go-yaml"
)

// Plan is what a test needs of an API server.
type Plan struct {
	// Name is that of the recording.
	Name string
	// Flags are further ones of the API server.
	Flags []string
	// Accounts are the clients, each with a token of its own. Default: probe.
	Accounts []string
	// Rules are of the cluster role of every account, as JSON.
	Rules string
	// Prepare makes what is there before a client's first question.
	Prepare func(*Cluster)
}

// Session is an API server for one test: a real one that is recorded, or a recording.
type Session struct {
	// URL is where it listens with TLS, and CA what proves it.
	URL string
	CA  []byte
	// Version is the API server's.
	Version string

	t       testing.TB
	rec     *recording
	replay  *replay   // nil: live
	live    *recorder // nil: replay
	cluster *Cluster

	mu      sync.Mutex
	tokens  map[string]string // by token: whose it is
	current map[string]string // by account: its newest token
	issued  int
	step    int
	cut     bool
}

// Run gives the test a session: with a real API server if KUBE_APISERVER names one, and otherwise one for each version that was recorded.
func (p Plan) Run(t *testing.T, f func(*testing.T, *Session)) {
	t.Helper()
	if len(p.Accounts) == 0 {
		p.Accounts = []string{"probe"}
	}
	if binary := os.Getenv("KUBE_APISERVER"); binary != "" {
		s := p.record(t, binary)
		f(t, s)
		if dir := os.Getenv("KUBE_RECORD"); dir != "" && !t.Failed() {
			if err := s.rec.save(dir, p.Name); err != nil {
				t.Error(err)
			}
		}
		return
	}
	list, err := versions(p.Name)
	if err != nil || len(list) == 0 {
		t.Fatalf("there is no recording of %q (%v)", p.Name, err)
	}
	for _, version := range list {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			rec, err := load(version, p.Name)
			if err != nil {
				t.Fatal(err)
			}
			if rec.Rules != compact(t, p.Rules) {
				t.Errorf("the role has changed since this was recorded: record it anew\nrecorded %s\nnow      %s", rec.Rules, compact(t, p.Rules))
			}
			f(t, p.play(t, rec))
		})
	}
}

// Documented is the role that a page of the documentation says a probe needs, as JSON: the first block of YAML that has rules.
func Documented(t testing.TB, page string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, block, ok := strings.Cut(string(text), "```yaml\nrules:\n")
	block, _, end := strings.Cut(block, "```")
	if !ok || !end {
		t.Fatalf("%s names no role", page)
	}
	var rules any
	if err := yaml.Unmarshal([]byte(block), &rules); err != nil {
		t.Fatalf("%s: %v", page, err)
	}
	b, err := json.Marshal(rules)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func compact(t testing.TB, text string) string {
	if text == "" {
		return ""
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	b, _ := json.Marshal(v)
	return string(b)
}

func (p *Plan) play(t testing.TB, rec *recording) *Session {
	s := &Session{t: t, rec: rec, Version: rec.Server, tokens: map[string]string{}, current: map[string]string{}}
	s.replay = newReplay(rec, s.who, t.Errorf)
	s.serve(s.replay)
	for _, a := range p.Accounts {
		s.issue(a)
	}
	return s
}

func (p *Plan) record(t testing.TB, binary string) *Session {
	c := Start(t, binary, p.Flags...)
	s := &Session{t: t, cluster: c, Version: c.Version, tokens: map[string]string{}, current: map[string]string{}}
	s.rec = &recording{about: about{Server: c.Version, Etcd: c.etcdVersion(), Rules: compact(t, p.Rules)}}
	for _, a := range p.Accounts {
		if p.Rules != "" {
			c.Role(a, p.Rules)
		}
		s.issue(a)
	}
	if p.Prepare != nil {
		p.Prepare(c)
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	over := &http.Transport{ForceAttemptHTTP2: true, DisableCompression: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}}
	t.Cleanup(over.CloseIdleConnections)
	s.live = &recorder{rec: s.rec, who: s.who, to: c.address(), over: over, fail: t.Errorf}
	s.serve(s.live)
	return s
}

// serve listens as the API server does: with TLS and HTTP/2.
func (s *Session) serve(h http.Handler) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		cut := s.cut
		s.mu.Unlock()
		if cut {
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	s.t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	s.URL = srv.URL
	s.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
}

func (s *Session) who(r *http.Request) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	as, ok := s.tokens[bearer(r)]
	return as, ok
}

func (s *Session) issue(account string) {
	s.mu.Lock()
	s.issued++
	token := fmt.Sprintf("token-%d-of-%s", s.issued, account)
	s.mu.Unlock()
	if s.cluster != nil {
		token = s.cluster.Account(account)
	}
	s.mu.Lock()
	s.tokens[token], s.current[account] = account, token
	s.mu.Unlock()
}

// Step begins the next part of a test. Against a real API server it does what is to be answered in it.
func (s *Session) Step(name string, do func(*Cluster)) {
	s.t.Helper()
	s.step++
	if s.live != nil {
		s.rec.Steps = append(s.rec.Steps, name)
		s.live.advance()
		if do != nil {
			do(s.cluster)
		}
		return
	}
	if s.step > len(s.rec.Steps) || s.rec.Steps[s.step-1] != name {
		s.t.Fatalf("step %d is %q; recorded were %q: record it anew", s.step, name, s.rec.Steps)
	}
	s.replay.advance()
}

// Before has a function called before each request is passed on to a real API server; nil ends that.
func (s *Session) Before(f func(*http.Request, *Cluster)) {
	if s.live == nil {
		return
	}
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	s.live.before = nil
	if f != nil {
		s.live.before = func(r *http.Request) { f(r, s.cluster) }
	}
}

// Token is the newest one of an account.
func (s *Session) Token(account string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current[account]
}

// Renew gives an account a new token, after its service account was made anew: the old one is not taken any more.
func (s *Session) Renew(account string) { s.issue(account) }

// Cut takes the network away for new requests, or brings it back. No API server hears of these, so nothing of it is recorded.
func (s *Session) Cut(off bool) {
	s.mu.Lock()
	s.cut = off
	s.mu.Unlock()
}

// UID is that of an object which the client was shown by a list or watch of this path; name is its name or namespace/name.
func (s *Session) UID(path, name string) string {
	s.t.Helper()
	uid := s.rec.uids(path)[name]
	if uid == "" {
		s.t.Fatalf("%s has no %s", path, name)
	}
	return uid
}

// Count tells how often a path was listed or watched with success. accept, if not empty, is part of what the client accepted.
func (s *Session) Count(path string, watch bool, accept string) int {
	return s.count(path, watch, func(x *exchange) bool { return x.Status == http.StatusOK && strings.Contains(x.Accept, accept) })
}

// Refused tells how often the client was denied to list or watch a path.
func (s *Session) Refused(path string, watch bool) int {
	return s.count(path, watch, func(x *exchange) bool { return x.Status == http.StatusForbidden })
}

func (s *Session) count(path string, watch bool, which func(*exchange) bool) (n int) {
	var from []*exchange
	if s.replay != nil {
		s.replay.mu.Lock()
		from = slices.Clone(s.replay.served)
		s.replay.mu.Unlock()
	} else {
		s.rec.mu.Lock()
		from = slices.Clone(s.rec.exchanges)
		s.rec.mu.Unlock()
	}
	for _, x := range from {
		if x.Method == http.MethodGet && x.Path == path && x.watch() == watch && which(x) {
			n++
		}
	}
	return n
}

// Kubeconfig writes a file with which an account reaches the session's API server.
func (s *Session) Kubeconfig(dir, account string) string {
	s.t.Helper()
	path := filepath.Join(dir, account+".kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: here
contexts:
- name: elsewhere
  context: {cluster: none, user: none}
- name: here
  context: {cluster: c, user: u, namespace: default}
clusters:
- name: c
  cluster: {server: %q, certificate-authority: ca.crt}
users:
- name: u
  user: {token: %q}
`, s.URL, s.Token(account))
	for at, b := range map[string][]byte{path: []byte(text), filepath.Join(dir, "ca.crt"): s.CA} {
		if err := os.WriteFile(at, b, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	return path
}
