package zksync

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

// safeBuffer is a log that is read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

// A repair without an engine makes the target equal and leaves no link behind; with one, that does it. Every action is in the audit
// log, and a webhook is told when the target can't be reached, and when it can again.
func TestRepairAuditAlerts(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	ctx := t.Context()
	ca, cb := a.Client(t, zk.Config{}), b.Client(t, zk.Config{Auth: super(), Renew: true})
	put := func(c *zk.Client, path, data string) {
		t.Helper()
		if _, err := c.Create(ctx, path, []byte(data), zk.OpenACL(), zk.Persistent); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{"/a", "/a/b", "/a/c", "/d"} {
		put(ca, p, "1")
	}
	put(cb, "/a", "other")
	put(cb, "/x", "not in the source")
	cfg := config(a, b)
	cfg.Source.Quorum, cfg.Target.Quorum = quorum(a), quorum(b)
	if err := Repair(ctx, func() Config { c := cfg; c.Overwrite = true; return c }(), Deps{}); err != nil {
		t.Fatal(err)
	}
	if ok, _, err := cb.Exists(ctx, stateRoot+"/default"); err != nil || ok {
		t.Errorf("the repair has left a link behind: %v %v", ok, err)
	}
	diffs := func() int {
		p, err := Compare(ctx, Side{Quorum: quorum(a)}, Side{Quorum: quorum(b)}, Scope{}, "default", 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range p.Differences {
			t.Log(d)
		}
		return len(p.Differences)
	}
	if n := diffs(); n > 0 {
		t.Errorf("%d differences after the repair", n)
	}

	var mu sync.Mutex
	told := map[string]bool{}
	fails := 2
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var al Alert
		if err := json.NewDecoder(r.Body).Decode(&al); err != nil || al.Engine == "" || al.Message == "" || al.Link != "default" {
			t.Errorf("alert %+v: %v", al, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if fails > 0 { // it is tried again
			fails--
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		told[al.Status+" "+al.Name] = true
	}))
	defer hook.Close()
	audit := &safeBuffer{}
	cfg.Overwrite = true
	e, err := New(cfg, Deps{Log: testLog(t), Audit: slog.New(slog.NewJSONHandler(audit, nil))})
	if err != nil {
		t.Fatal(err)
	}
	rctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		if err := e.Run(rctx); err != nil {
			t.Error(err)
		}
	})
	al := NewAlerter(AlertConfig{Webhook: hook.URL, After: 300 * time.Millisecond}, testLog(t), e)
	wg.Go(func() { al.Run(rctx) })
	ready(t, e)
	equal(t, a, b, cfg.Scope)
	if _, err := cb.Set(ctx, "/a/b", []byte("foreign"), -1); err != nil {
		t.Fatal(err)
	}
	put(cb, "/d/y", "not in the source")
	if diffs() == 0 {
		t.Error("what was changed in the target is not seen")
	}
	if err := Repair(ctx, cfg, Deps{}); err != nil {
		t.Fatal(err)
	}
	// What was made below /d has raised its counter, which nothing can lower; all else is equal.
	equalBut(t, a, b, cfg.Scope, "counter")
	b.Nodes[0].Kill()
	seen := func(what string) {
		t.Helper()
		zktest.Eventually(t, 30*time.Second, what, func() bool { mu.Lock(); defer mu.Unlock(); return told[what] })
	}
	seen("firing target-unreachable")
	if err := b.Nodes[0].Start(); err != nil {
		t.Fatal(err)
	}
	seen("resolved target-unreachable")
	for _, action := range []string{"phase", "claimed", "reconciled", "repair asked for", "repaired", "alert firing", "alert resolved"} {
		if !strings.Contains(audit.String(), `"msg":"`+action+`"`) {
			t.Errorf("the audit log says nothing of %q", action)
		}
	}
}

// Each rule begins after its time, ends, and does neither twice.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	good := Status{Phase: PhaseLive, SourceQuorum: true, TargetQuorum: true}
	bad := map[string]Status{}
	for name, f := range map[string]func(*Status){
		"not-live":           func(s *Status) { s.Phase = PhaseSeeding },
		"stopped":            func(s *Status) { s.Phase, s.Error = PhaseStopped, "no super" },
		"source-unreachable": func(s *Status) { s.SourceQuorum = false },
		"target-unreachable": func(s *Status) { s.TargetQuorum = false },
		"lag":                func(s *Status) { s.BehindMS = 5001 },
		"queue":              func(s *Status) { s.QueueBytes = 101 },
		"digest":             func(s *Status) { s.DigestsBad = 1 },
		"conflicts":          func(s *Status) { s.Conflicts = 1 },
	} {
		s := good
		f(&s)
		bad[name] = s
	}
	rs := rules(AlertConfig{Lag: 5 * time.Second, Queue: 100})
	if len(rs) != len(bad) {
		t.Errorf("%d rules, %d are tested", len(rs), len(bad))
	}
	now := time.Unix(1000, 0)
	for name, s := range bad {
		state := map[string]*firing{}
		var got []string
		for i, s := range []Status{good, s, good, s, s, s, s, good, good} {
			for _, al := range evaluate(rs, state, s, "l", now.Add(time.Duration(i)*time.Second), 2*time.Second) {
				got = append(got, al.Status+" "+al.Name)
			}
		}
		want := "firing " + name + ", resolved " + name
		if name == "stopped" || name == "digest" || name == "conflicts" {
			want += ", " + want
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
