package marathon

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/election"
	"github.com/orchestrator/orchestrator/internal/election/standalone"
	"github.com/orchestrator/orchestrator/internal/leakcheck"
	"github.com/orchestrator/orchestrator/internal/store"
	"github.com/orchestrator/orchestrator/internal/store/mem"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

func TestMain(m *testing.M) {
	leakcheck.Main(zktest.Tests{M: m}, goleak.IgnoreAnyFunction("github.com/orchestrator/orchestrator/internal/zk/zktest.(*Node).Start.func1"), goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"))
}

func testConfig(t *testing.T, master string, args ...string) Config {
	t.Helper()
	var cfg Config
	fs := pflag.NewFlagSet("marathon", pflag.ContinueOnError)
	set := config.Bind(fs, &cfg, config.Options{EnvPrefix: []string{EnvPrefix}})
	if err := fs.Parse(append([]string{"--master=" + master, "--http_address=127.0.0.1", "--http_port=0", "--data_dir=" + t.TempDir()}, args...)); err != nil {
		t.Fatal(err)
	}
	if err := set.Load(func(string) (string, bool) { return "", false }); err != nil {
		t.Fatal(err)
	}
	return cfg
}

type instance struct {
	t    *testing.T
	m    *Marathon
	base string
	stop func()
}

func start(t *testing.T, cfg Config, deps Deps) *instance {
	t.Helper()
	if deps.Log == nil {
		deps.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	m, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	var once atomic.Bool
	stop := func() {
		if once.CompareAndSwap(false, true) {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
	}
	t.Cleanup(stop)
	select {
	case <-m.Ready():
	case <-time.After(2 * time.Minute):
		t.Fatal("never ready")
	}
	return &instance{t, m, "http://" + m.Address(), stop}
}

func (i *instance) do(method, path, body string, header ...string) (int, string, http.Header) {
	i.t.Helper()
	req, err := http.NewRequestWithContext(i.t.Context(), method, i.base+path, strings.NewReader(body))
	if err != nil {
		i.t.Fatal(err)
	}
	for k := 0; k+1 < len(header); k += 2 {
		req.Header.Set(header[k], header[k+1])
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		i.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		i.t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

func (i *instance) want(status int, method, path, body string) string {
	i.t.Helper()
	got, b, _ := i.do(method, path, body)
	if got != status {
		i.t.Fatalf("%s %s: %d %s, want %d", method, path, got, b, status)
	}
	return b
}

func (i *instance) get(path string, v any) {
	i.t.Helper()
	if err := json.Unmarshal([]byte(i.want(200, "GET", path, "")), v); err != nil {
		i.t.Fatalf("GET %s: %v", path, err)
	}
}

func (i *instance) idle() bool {
	var d []any
	i.get("/v2/deployments", &d)
	return len(d) == 0
}

// ok is a task that is always healthy.
func ok(*mesosv1.TaskInfo) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
}

func TestServiceLife(t *testing.T) {
	t.Parallel()
	fm := newFakeMaster(t)
	i := start(t, testConfig(t, fm.address()), Deps{})
	i.want(201, "POST", "/v2/apps", `{"id":"/web","cmd":"serve","cpus":0.1,"instances":3}`)
	eventually(t, "3 run", func() bool { return len(fm.running()) == 3 && i.idle() })
	i.want(200, "PUT", "/v2/apps/web", `{"instances":5}`)
	eventually(t, "5 run", func() bool { return len(fm.running()) == 5 && i.idle() })
	before := fm.running()
	i.want(200, "PUT", "/v2/apps//web", `{"cmd":"serve better"}`)
	eventually(t, "replaced", func() bool { return i.idle() })
	for _, id := range fm.running() {
		for _, old := range before {
			if id == old {
				t.Errorf("%s was not replaced", id)
			}
		}
	}
	fm.fail(fm.running()[0])
	eventually(t, "failed one is back", func() bool { return len(fm.running()) == 5 })
	i.want(200, "DELETE", "/v2/apps/web", "")
	eventually(t, "none runs", func() bool { return len(fm.running()) == 0 && i.idle() })
	i.want(404, "GET", "/v2/apps/web", "")
}

// TestRestartKeepsEverything: the process ends in the middle of a deployment and carries it on; no task is started twice.
func TestRestartKeepsEverything(t *testing.T) {
	t.Parallel()
	fm := newFakeMaster(t)
	fm.serve = ok
	dir := t.TempDir()
	cfg := testConfig(t, fm.address())
	cfg.DataDir = dir
	i := start(t, cfg, Deps{})
	i.want(201, "POST", "/v2/apps", `{"id":"/web","cmd":"serve","cpus":0.1,"instances":4,"healthChecks":[{"intervalSeconds":1,"gracePeriodSeconds":5}]}`)
	eventually(t, "4 run", func() bool { return len(fm.running()) == 4 })
	i.stop()
	i = start(t, cfg, Deps{})
	eventually(t, "healthy and done", func() bool {
		var a struct{ App struct{ TasksHealthy int } }
		i.get("/v2/apps/web", &a)
		return a.App.TasksHealthy == 4 && i.idle()
	})
	if n := len(fm.launched); n != 4 {
		t.Errorf("%d tasks were started, want 4", n)
	}
	i.stop()
	i = start(t, cfg, Deps{})
	var a struct{ App struct{ TasksHealthy int } }
	i.get("/v2/apps/web", &a)
	if a.App.TasksHealthy != 4 {
		t.Errorf("%d healthy at once after a restart, want 4", a.App.TasksHealthy)
	}
	if _, err := filepath.Glob(dir + "/*"); err != nil {
		t.Fatal(err)
	}
}

func TestMasterComesBack(t *testing.T) {
	t.Parallel()
	fm := newFakeMaster(t)
	i := start(t, testConfig(t, fm.address()), Deps{})
	i.want(201, "POST", "/v2/apps", `{"id":"/web","cmd":"serve","cpus":0.1,"instances":3}`)
	eventually(t, "3 run", func() bool { return len(fm.running()) == 3 && i.idle() })
	fm.drop()
	i.want(200, "PUT", "/v2/apps/web", `{"instances":6}`)
	eventually(t, "6 run", func() bool { return len(fm.running()) == 6 && i.idle() })
	fm.mu.Lock()
	defer fm.mu.Unlock()
	if fm.subs != 2 {
		t.Errorf("%d subscriptions, want 2", fm.subs)
	}
}

// TestStoreFaultLosesNothing: the store refuses a write; the process gives leadership up, comes back and carries on.
func TestStoreFaultLosesNothing(t *testing.T) {
	t.Parallel()
	fm := newFakeMaster(t)
	st := mem.New()
	i := start(t, testConfig(t, fm.address()), Deps{Store: st})
	i.want(201, "POST", "/v2/apps", `{"id":"/web","cmd":"serve","cpus":0.1,"instances":2}`)
	eventually(t, "2 run", func() bool { return len(fm.running()) == 2 && i.idle() })
	var once atomic.Bool
	st.SetFault(func(store.Txn) error {
		if once.CompareAndSwap(false, true) {
			return fmt.Errorf("disk on fire")
		}
		return nil
	})
	req, _ := http.NewRequestWithContext(t.Context(), "PUT", i.base+"/v2/apps/web", strings.NewReader(`{"instances":4}`))
	if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
		resp.Body.Close()
		if resp.StatusCode/100 == 2 {
			t.Errorf("a change that was not stored was answered %d", resp.StatusCode)
		}
	}
	eventually(t, "leads again", func() bool {
		s, _, _ := i.do("GET", "/v2/apps/web", "")
		return s == 200
	})
	i.want(200, "PUT", "/v2/apps/web", `{"instances":4}`)
	eventually(t, "4 run", func() bool { return len(fm.running()) == 4 && i.idle() })
}

func TestEventStream(t *testing.T) {
	t.Parallel()
	fm := newFakeMaster(t)
	i := start(t, testConfig(t, fm.address()), Deps{})
	if s, _, _ := i.do("GET", "/v2/events", ""); s != 406 {
		t.Errorf("without Accept: %d", s)
	}
	read := func(query string) <-chan string {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", i.base+"/v2/events"+query, nil)
		req.Header.Set("Accept", "text/event-stream")
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		out := make(chan string, 1000)
		go func() {
			defer resp.Body.Close()
			defer close(out)
			sc := bufio.NewScanner(resp.Body)
			sc.Buffer(nil, 1<<20)
			kind := ""
			for sc.Scan() {
				line := strings.TrimSuffix(sc.Text(), "\r")
				if k, ok := strings.CutPrefix(line, "event: "); ok {
					kind = k
				}
				if d, ok := strings.CutPrefix(line, "data: "); ok {
					var e struct{ EventType, Timestamp string }
					if json.Unmarshal([]byte(d), &e) != nil || e.EventType != kind || len(e.Timestamp) != 24 {
						out <- "bad: " + line
					}
					out <- kind
				}
			}
		}()
		return out
	}
	all, some := read(""), read("?event_type=deployment_success&event_type=health_status_changed_event")
	i.want(201, "POST", "/v2/apps", `{"id":"/web","cmd":"serve","cpus":0.1}`)
	collect := func(c <-chan string, until string) (out []string) {
		for {
			select {
			case k := <-c:
				out = append(out, k)
				if k == until {
					return out
				}
			case <-time.After(2 * time.Minute):
				t.Fatalf("no %s after %v", until, out)
			}
		}
	}
	got := collect(all, "deployment_success")
	want := []string{"event_stream_attached", "deployment_info", "deployment_step_success", "deployment_info", "instance_changed_event", "api_post_event", "group_change_success"}
	for n, k := range want {
		if k != got[n] && !strings.Contains(strings.Join(got, " "), k) {
			t.Errorf("event %d is %s, want %s in %v", n, got[n], k, got)
		}
	}
	if !strings.Contains(strings.Join(got, " "), "status_update_event") {
		t.Errorf("no status update in %v", got)
	}
	if d := cmp.Diff([]string{"event_stream_attached", "deployment_success"}, collect(some, "deployment_success")); d != "" {
		t.Error(d)
	}
}

// TestStandbyPassesRequestsOn runs two processes on one store with an election of their own making.
func TestStandbyPassesRequestsOn(t *testing.T) {
	t.Parallel()
	fm := newFakeMaster(t)
	st := mem.New()
	e := &oneLeader{}
	first := start(t, testConfig(t, fm.address()), Deps{Store: st, Election: e.join()})
	second := start(t, testConfig(t, fm.address()), Deps{Store: st, Election: e.join()})
	second.want(201, "POST", "/v2/apps", `{"id":"/web","cmd":"serve","cpus":0.1}`)
	status, body, h := second.do("GET", "/v2/leader", "")
	if status != 200 || !strings.Contains(body, first.m.Address()) || h.Get(viaHeader) == "" || h.Get("X-Marathon-Leader") != "http://"+first.m.Address() {
		t.Errorf("%d %s %v", status, body, h)
	}
	if s, _, h := second.do("GET", "/v2/events?event_type=x", "", "Accept", "text/event-stream"); s != 302 || h.Get("Location") != "http://"+first.m.Address()+"/v2/events?event_type=x" {
		t.Errorf("events of a standby: %d %v", s, h.Get("Location"))
	}
	if s, b, _ := second.do("GET", "/v2/apps", "", viaHeader, "1.1 "+second.m.Address()); s != 502 {
		t.Errorf("a loop gives %d %s", s, b)
	}
	if s, _, _ := second.do("GET", "/v2/apps/none", ""); s != 404 {
		t.Errorf("404 of the leader came as %d", s)
	}
	if s, _, _ := second.do("GET", "/", ""); s != 302 {
		t.Errorf("/ gives %d", s)
	}
}

// oneLeader is an election that the first to come wins for good.
type oneLeader struct {
	board election.Board
	taken atomic.Bool
}

type candidate struct{ e *oneLeader }

func (e *oneLeader) join() *candidate { return &candidate{e} }

func (c *candidate) Contend(ctx context.Context, self election.Leader, lead func(context.Context, uint64) error) error {
	if !c.e.taken.CompareAndSwap(false, true) {
		<-ctx.Done()
		return nil
	}
	c.e.board.Set(&self)
	return lead(ctx, 1)
}

func (c *candidate) Detect(ctx context.Context, previous *election.Leader) (*election.Leader, error) {
	return c.e.board.Detect(ctx, previous)
}

var _ election.Contender = (*standalone.Election)(nil)
