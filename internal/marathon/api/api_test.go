package api

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/events"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// bench is the API on a machine whose time, ids and master are the test's.
type bench struct {
	t       *testing.T
	mu      sync.Mutex
	m       *core.Machine
	now     time.Time
	calls   []*scheduler.Call
	notices []core.Notice
	reply   map[any]core.Reply
	snap    *core.Snapshot
	server  *Server
	offers  int
	leader  string
	gone    bool
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, now: time.Date(2026, 3, 4, 5, 6, 7, 890_000_000, time.UTC), reply: map[any]core.Reply{}, leader: "leader:8080"}
	opt := core.Options{
		Spec: spec.Settings{Role: "*", PortMin: 10000, PortMax: 20000}, MaxInstancesPerOffer: 100, MaxRunningDeployments: 100, MaxVersions: 50, LaunchConfirmTimeout: time.Hour,
		LaunchTimeout: time.Hour, KillRetry: time.Hour, DeclineDuration: time.Minute,
	}
	b.m = core.New(opt, [32]byte{1}, b.now)
	b.step(core.Registered{FrameworkID: "fw-1", Master: "master:5050"})
	b.server = New(Config{
		Spec: &opt.Spec, Version: "1.11.24", Scheme: "http", Realm: "Mesosphere", Compress: true, MaxBody: 1 << 20, Now: func() time.Time { return b.now },
		Info: map[string]any{"marathon_config": map[string]any{"ha": false}},
	}, b, events.NewHub(10, time.Hour, time.Now), slog.New(slog.DiscardHandler))
	return b
}

func (b *bench) step(e ...core.Event) {
	b.now = b.now.Add(time.Second)
	for _, x := range b.m.Step(b.now, e...) {
		switch x := x.(type) {
		case core.Call:
			b.calls = append(b.calls, x.Call)
		case core.Publish:
			b.notices = append(b.notices, x.Notice)
		case core.Reply:
			b.reply[x.Token] = x
		}
	}
	b.snap = b.m.Snapshot()
}

func (b *bench) Snapshot() *core.Snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return nil
	}
	return b.snap
}

func (b *bench) Do(_ context.Context, event func(token any) core.Event) (any, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	token := new(int)
	b.step(event(token))
	r := b.reply[token]
	return r.Value, r.Err
}

func (b *bench) Leader() string { return b.leader }
func (b *bench) Abdicate()      {}

// offer offers an agent with these resources.
func (b *bench) offer(cpus float64) {
	b.offers++
	scalar := func(name string, v float64) *mesosv1.Resource {
		return &mesosv1.Resource{Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v}}
	}
	id, agent, host := fmt.Sprintf("o%d", b.offers), "agent-1", "node1.example"
	begin, end := uint64(31000), 31000+uint64(b.offers)*100
	b.step(core.Offers{Offers: []*mesosv1.Offer{{
		Id: &mesosv1.OfferID{Value: &id}, AgentId: &mesosv1.AgentID{Value: &agent}, Hostname: &host,
		Resources: []*mesosv1.Resource{
			scalar("cpus", cpus), scalar("mem", 100000), scalar("disk", 100000),
			{Name: new("ports"), Type: mesosv1.Value_RANGES.Enum(), Ranges: &mesosv1.Value_Ranges{Range: []*mesosv1.Value_Range{{Begin: &begin, End: &end}}}},
		},
	}}})
}

// run makes every task that was launched run.
func (b *bench) run() {
	calls := b.calls
	b.calls = nil
	for _, c := range calls {
		for _, op := range c.GetAccept().GetOperations() {
			for _, ti := range slices.Concat(op.GetLaunch().GetTaskInfos(), op.GetLaunchGroup().GetTaskGroup().GetTasks()) {
				b.step(core.Status{Status: &mesosv1.TaskStatus{
					TaskId: ti.TaskId, AgentId: ti.AgentId, State: mesosv1.TaskState_TASK_RUNNING.Enum(), Uuid: make([]byte, 16),
					ContainerStatus: &mesosv1.ContainerStatus{NetworkInfos: []*mesosv1.NetworkInfo{{IpAddresses: []*mesosv1.NetworkInfo_IPAddress{{IpAddress: new("10.0.0.7")}}}}},
				}})
			}
		}
		if id := c.GetKill().GetTaskId(); id != nil {
			b.step(core.Status{Status: &mesosv1.TaskStatus{TaskId: id, AgentId: c.Kill.AgentId, State: mesosv1.TaskState_TASK_KILLED.Enum()}})
		}
	}
}

func (b *bench) do(method, path, body string, header ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.RemoteAddr = "192.0.2.1:1234"
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	b.server.ServeHTTP(w, req)
	return w
}

// golden compares a whole answer with its file.
func (b *bench) golden(name, method, path, body string, header ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	w := b.do(method, path, body, header...)
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s %s\n%d\n", method, path, w.Code)
	h := w.Header()
	for _, k := range slices.Sorted(maps.Keys(h)) {
		switch k {
		case "X-Frame-Options", "X-Xss-Protection", "Cache-Control", "Pragma", "Expires", "Content-Length":
		default:
			fmt.Fprintf(&out, "%s: %s\n", k, strings.Join(h[k], ", "))
		}
	}
	out.WriteByte('\n')
	if strings.HasPrefix(h.Get("Content-Type"), "application/json") {
		if err := json.Indent(&out, w.Body.Bytes(), "", "  "); err != nil {
			b.t.Fatalf("%s: %v: %s", name, err, w.Body)
		}
		out.WriteByte('\n')
	} else {
		out.WriteString(w.Body.String())
	}
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			b.t.Fatal(err)
		}
		if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		b.t.Fatal(err)
	}
	if d := cmp.Diff(string(want), out.String()); d != "" {
		b.t.Errorf("%s: -want +got\n%s", name, d)
	}
	return w
}

func (b *bench) must(status int, method, path, body string) string {
	b.t.Helper()
	w := b.do(method, path, body)
	if w.Code != status {
		b.t.Fatalf("%s %s: %d %s, want %d", method, path, w.Code, w.Body, status)
	}
	return w.Body.String()
}

const webApp = `{"id":"/shop/web","cmd":"serve","cpus":0.5,"mem":64,"instances":2,"labels":{"tier":"web"},"portDefinitions":[{"name":"http"}],"healthChecks":[{"path":"/ok"}],"readinessChecks":[{"portName":"http"}]}`

// TestBodies goes through the life of an app, a group and a pod, and compares every body on the way.
func TestBodies(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.golden("apps-empty", "GET", "/v2/apps", "")
	b.golden("apps-created", "POST", "/v2/apps", webApp)
	b.golden("apps-duplicate", "POST", "/v2/apps", webApp)
	b.golden("apps-locked", "PUT", "/v2/apps/shop/web", `{"instances":3}`)
	b.golden("queue", "GET", "/v2/queue?embed=lastUnusedOffers", "")
	b.golden("deployments", "GET", "/v2/deployments", "")
	b.offer(0.1)
	b.golden("queue-refused", "GET", "/v2/queue?embed=lastUnusedOffers", "")
	b.golden("why", "GET", "/v2/apps/shop/web::why", "")
	b.golden("app-waiting", "GET", "/v2/apps/shop/web", "")
	b.offer(10)
	b.golden("app-provisioned", "GET", "/v2/apps/shop/web", "")
	b.run()
	b.golden("app-running", "GET", "/v2/apps/shop/web?embed=app.readiness&embed=app.taskStats", "")
	for _, i := range b.snap.Instances("/shop/web") {
		b.step(core.HealthResult{Instance: i.ID, Task: i.Tasks[0].ID, Alive: true}, core.ReadinessResult{Instance: i.ID, Task: i.Tasks[0].ID, Readiness: core.Readiness{Name: "readinessCheck", Ready: true, Status: 200}})
	}
	b.golden("app-healthy", "GET", "/v2/apps//shop/web", "")
	b.golden("apps-tasks", "GET", "/v2/apps?embed=apps.tasks&label=tier%3D%3Dweb", "")
	b.golden("app-star", "GET", "/v2/apps/shop/*", "")
	b.golden("deployments-none", "GET", "/v2/deployments", "")
	b.golden("tasks", "GET", "/v2/tasks", "")
	b.golden("tasks-text", "GET", "/v2/tasks", "", "Accept", "text/plain")
	b.golden("app-tasks", "GET", "/v2/apps/shop/web/tasks", "")
	b.golden("app-versions", "GET", "/v2/apps/shop/web/versions", "")
	first := b.snap.Root.Get("/shop/web").Version.String()
	b.golden("app-version", "GET", "/v2/apps/shop/web/versions/"+first, "")
	b.golden("app-unchanged", "PUT", "/v2/apps/shop/web", `{"instances":2}`)
	b.golden("app-put", "PUT", "/v2/apps/shop/web", `{"env":{"A":"1"}}`)
	b.golden("deployments-restart", "GET", "/v2/deployments", "")
	restart := b.snap.Deployments[0].ID
	b.golden("deployment-running", "GET", "/v2/deployments/"+restart, "")
	b.golden("deployment-rollback", "DELETE", "/v2/deployments/"+restart, "")
	b.golden("deployment-failed", "GET", "/v2/deployments/"+restart, "")
	for len(b.snap.Deployments) > 0 {
		b.golden("deployment-force", "DELETE", "/v2/deployments/"+b.snap.Deployments[0].ID+"?force=true", "")
	}
	b.golden("groups", "GET", "/v2/groups", "")
	b.golden("groups-embed-apps", "GET", "/v2/groups/shop?embed=group.apps&embed=group.apps.counts", "")
	b.golden("group-versions", "GET", "/v2/groups/shop/versions", "")
	b.golden("group-dry-run", "PUT", "/v2/groups/shop?dryRun=true", `{"apps":[],"groups":[{"id":"db","apps":[{"id":"pg","cmd":"sleep 1"}]}]}`)
	b.golden("group-put", "PUT", "/v2/groups/shop", `{"groups":[{"id":"db","apps":[{"id":"pg","cmd":"sleep 1","instances":0}]}]}`)
	b.golden("group-duplicate", "POST", "/v2/groups", `{"id":"/shop"}`)
	b.golden("group-patch-second-level", "PATCH", "/v2/groups/shop/db", `{"enforceRole":true}`)
	b.golden("group-patch", "PATCH", "/v2/groups/shop", `{"enforceRole":true}`)
	b.golden("pod-created", "POST", "/v2/pods", `{"id":"/pod","containers":[{"name":"c","exec":{"command":{"shell":"sleep 1"}},"resources":{"cpus":0.1,"mem":32},"endpoints":[{"name":"web"}]}]}`)
	b.offer(10)
	b.run()
	b.golden("pod-status", "GET", "/v2/pods/pod::status", "")
	b.golden("pods-status", "GET", "/v2/pods/::status", "")
	b.golden("pod-versions", "GET", "/v2/pods/pod::versions", "")
	b.golden("pods", "GET", "/v2/pods", "")
	b.golden("pod", "GET", "/v2/pods/pod", "")
	b.golden("pod-version", "GET", "/v2/pods/pod::versions/"+b.snap.Root.Get("/pod").Version.String(), "")
	b.golden("pod-put", "PUT", "/v2/pods/pod?force=true", `{"id":"/pod","scaling":{"kind":"fixed","instances":2},"containers":[{"name":"c","exec":{"command":{"shell":"sleep 1"}},"resources":{"cpus":0.1,"mem":32},"endpoints":[{"name":"web"}]}]}`)
	b.golden("pod-put-other-id", "PUT", "/v2/pods/pod", `{"id":"/other","containers":[{"name":"c","exec":{"command":{"shell":"sleep 1"}},"resources":{"cpus":0.1,"mem":32}}]}`)
	b.golden("pod-invalid", "POST", "/v2/pods", `{"id":"/p2","containers":[]}`)
	pod := b.snap.Instances("/pod")[0].ID
	b.golden("pod-kill-several", "DELETE", "/v2/pods/pod::instances", `[`+strconv.Quote(pod)+`]`)
	b.golden("pod-kill", "DELETE", "/v2/pods/pod::instances/"+pod, "")
	b.golden("pod-deleted", "DELETE", "/v2/pods/pod?force=true", "")
	web := b.snap.Instances("/shop/web")[0].Tasks[0].ID
	b.golden("task-kill", "DELETE", "/v2/apps/shop/web/tasks/"+web, "")
	b.golden("tasks-kill-bad-id", "POST", "/v2/tasks/delete", `{"ids":["nonsense"]}`)
	b.golden("tasks-kill-scale", "POST", "/v2/tasks/delete?scale=true", fmt.Sprintf(`{"ids":[%q]}`, b.snap.Instances("/shop/web")[1].Tasks[0].ID))
	b.golden("info", "GET", "/v2/info", "")
	b.golden("leader", "GET", "/v2/leader", "")
	b.golden("ping", "GET", "/ping", "")
	b.golden("not-found", "GET", "/v2/apps/none", "")
	b.golden("not-found-route", "GET", "/v2/nothing", "")
	b.golden("bad-json", "POST", "/v2/apps", `{"id":`)
	b.golden("bad-object", "POST", "/v2/apps", `{"id":"/x","cmd":"sleep 1","upgradeStrategy":{"minimumHealthCapacity":7}}`)
	b.golden("bad-selector", "GET", "/v2/apps?label=%3D", "")
	b.golden("version-with-more", "PUT", "/v2/apps/shop/web", `{"version":"`+first+`","cpus":3}`)
	b.golden("version-unknown", "PUT", "/v2/apps/shop/web", `{"version":"2001-01-01T00:00:00.000Z"}`)
	b.golden("app-restart", "POST", "/v2/apps/shop/web/restart?force=true", "")
	b.golden("app-deleted", "DELETE", "/v2/apps/shop/web", "")
	b.golden("apps-put", "PUT", "/v2/apps", `[{"id":"/many/a","cmd":"sleep 1","instances":0},{"id":"/many/b","cmd":"sleep 1","instances":0}]`)
	b.golden("apps-patch", "PATCH", "/v2/apps?force=true", `[{"id":"/many/a","cpus":0.5},{"id":"/many/b","cpus":0.5}]`)
	b.golden("apps-patch-unknown", "PATCH", "/v2/apps", `[{"id":"/many/none","cpus":0.5}]`)
	b.golden("app-created-by-put", "PUT", "/v2/apps/many/c", `{"cmd":"sleep 1","instances":0}`)
	b.golden("group-apps", "GET", "/v2/groups/many/apps", "")
	b.golden("group-created", "POST", "/v2/groups", `{"id":"/fresh","apps":[{"id":"x","cmd":"sleep 1"}]}`)
	b.golden("group-version", "GET", "/v2/groups/fresh/versions/"+b.snap.Root.Get("/fresh/x").Version.String(), "")
	b.golden("group-invalid", "PUT", "/v2/groups/fresh", `{"apps":[{"id":"/elsewhere/x","cmd":"sleep 1"}]}`)
	b.golden("queue-delay-reset", "DELETE", "/v2/queue/fresh/x/delay", "")
	b.golden("queue-delay-unknown", "DELETE", "/v2/queue/many/a/delay", "")
	b.golden("group-deleted", "DELETE", "/v2/groups/fresh?force=true", "")
	b.golden("leader-abdicates", "DELETE", "/v2/leader", "")
	b.golden("plugins", "GET", "/v2/plugins", "")
	b.golden("logging", "GET", "/logging", "")
	b.golden("callbacks", "GET", "/v2/eventSubscriptions", "")
	b.golden("callback", "POST", "/v2/eventSubscriptions?callbackUrl=http://127.0.0.1:1/x", "")
	b.golden("callback-removed", "DELETE", "/v2/eventSubscriptions?callbackUrl=http://127.0.0.1:1/x", "")
}

func TestCredentialsAndOrigins(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.server.cfg.Credentials = "user:secret"
	b.server.cfg.AllowOrigin = []string{"https://console.example"}
	if w := b.do("GET", "/v2/apps", ""); w.Code != 401 || w.Header().Get("WWW-Authenticate") != `Basic realm="Mesosphere"` {
		t.Errorf("without credentials: %d %v", w.Code, w.Header())
	}
	if w := b.do("GET", "/v2/apps", "", "Authorization", "Basic dXNlcjpzZWNyZXQ="); w.Code != 200 {
		t.Errorf("with credentials: %d", w.Code)
	}
	w := b.do("OPTIONS", "/v2/apps", "", "Access-Control-Request-Headers", "X-A")
	if w.Code != 200 || w.Header().Get("Access-Control-Allow-Origin") != "https://console.example" || w.Header().Get("Access-Control-Allow-Headers") != "X-A" || w.Header().Get("Access-Control-Max-Age") != "86400" {
		t.Errorf("OPTIONS: %d %v", w.Code, w.Header())
	}
}

// TestDocumentMatchesRoutes checks the served document against what the server answers: every operation in it is served,
// and every endpoint of Marathon that clients use is in it.
func TestDocumentMatchesRoutes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct{ OperationID string }
	}
	if err := json.Unmarshal([]byte(b.must(200, "GET", "/v2/openapi.json", "")), &doc); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	n := 0
	for path, ops := range doc.Paths {
		for method, op := range ops {
			n++
			if ids[op.OperationID] {
				t.Errorf("operationId %s is used twice", op.OperationID)
			}
			ids[op.OperationID] = true
			if strings.Contains(path, "/events") || strings.Contains(path, "/prometheus") {
				continue
			}
			w := b.do(strings.ToUpper(method), strings.NewReplacer("{id}", "none", "{tail}", "none").Replace(path), "{}")
			if w.Code == 405 || w.Code >= 500 || w.Code == 404 && strings.Contains(w.Body.String(), "URI not found") {
				t.Errorf("%s %s is in the document and answers %d %s", method, path, w.Code, w.Body)
			}
		}
	}
	if n != len(b.server.routes) || doc.OpenAPI != "3.1.0" {
		t.Errorf("%d operations in the document, %d routes", n, len(b.server.routes))
	}
	for _, want := range strings.Fields(`get:/v2/apps post:/v2/apps put:/v2/apps patch:/v2/apps get:/v2/apps/{id} put:/v2/apps/{id} patch:/v2/apps/{id} delete:/v2/apps/{id}
		post:/v2/apps/{id}/restart get:/v2/apps/{id}/tasks delete:/v2/apps/{id}/tasks delete:/v2/apps/{id}/tasks/{tail} get:/v2/apps/{id}/versions get:/v2/apps/{id}/versions/{tail}
		get:/v2/groups post:/v2/groups put:/v2/groups delete:/v2/groups get:/v2/groups/{id} put:/v2/groups/{id} patch:/v2/groups/{id} delete:/v2/groups/{id} get:/v2/groups/{id}/versions
		head:/v2/pods get:/v2/pods post:/v2/pods get:/v2/pods/{id} put:/v2/pods/{id} delete:/v2/pods/{id} get:/v2/pods/{id}::status get:/v2/pods/::status get:/v2/pods/{id}::versions
		delete:/v2/pods/{id}::instances delete:/v2/pods/{id}::instances/{tail} get:/v2/tasks post:/v2/tasks/delete get:/v2/deployments delete:/v2/deployments/{id} get:/v2/queue delete:/v2/queue/{id}/delay
		get:/v2/events get:/v2/info get:/v2/leader delete:/v2/leader get:/v2/plugins get:/ping get:/metrics`) {
		method, path, _ := strings.Cut(want, ":")
		if _, ok := doc.Paths[path][method]; !ok {
			t.Errorf("%s is not in the document", want)
		}
	}
}

func TestCompression(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i := range 20 {
		b.must(201, "POST", "/v2/apps", fmt.Sprintf(`{"id":"/a%d","cmd":"sleep 1","instances":0}`, i))
	}
	if w := b.do("GET", "/v2/apps", "", "Accept-Encoding", "gzip"); w.Header().Get("Content-Encoding") != "gzip" || w.Body.Len() > 5000 {
		t.Errorf("%v, %d bytes", w.Header(), w.Body.Len())
	}
}

func BenchmarkListApps(b *testing.B) {
	t := &testing.T{}
	x := newBench(t)
	for i := range 1000 {
		x.do("POST", "/v2/apps", fmt.Sprintf(`{"id":"/a%d","cmd":"sleep 1","instances":0,"portDefinitions":[]}`, i))
	}
	b.ReportAllocs()
	for b.Loop() {
		if w := x.do("GET", "/v2/apps", ""); w.Code != http.StatusOK {
			b.Fatal(w.Code)
		}
	}
}

// TestWhyNamesAReasonWhenOffersStop: offers that came for earlier instances do not hide that none comes for those that wait now.
func TestWhyNamesAReasonWhenOffersStop(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.must(http.StatusCreated, "POST", "/v2/apps", `{"id":"/web","cmd":"serve","cpus":0.5,"mem":64}`)
	b.offer(10)
	b.run()
	if text := b.must(http.StatusOK, "GET", "/v2/apps/web::why", ""); !strings.Contains(text, `"running":1`) || !strings.Contains(text, `"reasons":[]`) {
		t.Errorf("one that runs: %s", text)
	}
	b.must(http.StatusOK, "DELETE", "/v2/apps/web/tasks/"+b.snap.Instances("/web")[0].Tasks[0].ID, "")
	b.run()
	text := b.must(http.StatusOK, "GET", "/v2/apps/web::why", "")
	if !strings.Contains(text, `"waiting":1`) || !strings.Contains(text, "no agent") {
		t.Errorf("one that waits without offers has no reason: %s", text)
	}
}
