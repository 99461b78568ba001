package api

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	"github.com/orchestrator/orchestrator/internal/election"
	"github.com/orchestrator/orchestrator/internal/master/core"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares an answer with its file, line by line: the file is the body, indented.
func golden(t *testing.T, name, body string) {
	t.Helper()
	// The revision that the test was built from is not part of the shape.
	body = regexp.MustCompile(`"git_sha":"[^"]*"`).ReplaceAllString(body, `"git_sha":"unknown"`)
	var indented bytes.Buffer
	if err := json.Indent(&indented, []byte(body), "", " "); err != nil {
		t.Fatalf("%s is not JSON: %v\n%s", name, err, body)
	}
	indented.WriteByte('\n')
	path := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(path, indented.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(indented.String(), "\n")); d != "" {
		t.Errorf("%s differs from its golden file (go test -update writes it anew):\n%s", name, d)
	}
}

func TestGoldenBodies(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	for name, path := range map[string]string{
		"state":                "/state",
		"state-summary":        "/master/state-summary",
		"slaves":               "/slaves/",
		"frameworks":           "/master/frameworks/",
		"tasks":                "/tasks?order=asc&limit=-1",
		"roles":                "/roles",
		"quota":                "/quota",
		"weights":              "/weights",
		"maintenance-schedule": "/maintenance/schedule",
		"maintenance-status":   "/maintenance/status",
		"flags":                "/flags",
		"registry":             "/registrar(1)/registry",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rec := s.do("GET", path, "")
			if rec.Code != 200 || rec.Header().Get("Content-Type") != "application/json" {
				t.Fatalf("%d %s: %s", rec.Code, rec.Header().Get("Content-Type"), rec.Body)
			}
			if strings.Contains(rec.Body.String(), "\n") || strings.Contains(rec.Body.String(), "null") {
				t.Errorf("body has a line break or a null: %s", rec.Body)
			}
			golden(t, name, rec.Body.String())
		})
	}
}

// TestFilteredLists asks for parts of the lists.
func TestFilteredLists(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	for path, want := range map[string]string{
		"/tasks":                     "t0004 t03 t1 t2", // sorted by first status, descending; t1 and t2 in the order of their ids
		"/tasks?order=asc":           "t1 t2 t03 t0004",
		"/tasks?limit=1":             "t0004",
		"/tasks?limit=2&offset=1":    "t03 t1",
		"/tasks?offset=99":           "",
		"/tasks?offset=-5&limit=1":   "t0004",
		"/tasks?limit=x":             "t0004 t03 t1 t2",
		"/tasks?task_id=t2":          "t2",
		"/tasks?framework_id=m-0001": "",
		"/tasks?framework_id=m-0000&task_id=t1&limit=-1": "t1",
	} {
		var body struct{ Tasks []struct{ ID string } }
		if err := json.Unmarshal(s.do("GET", path, "").Body.Bytes(), &body); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, x := range body.Tasks {
			got = append(got, x.ID)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", path, got, want)
		}
	}
	for path, want := range map[string]string{
		"/slaves?slave_id=m-S0":           `"id":"m-S0"`,
		"/slaves?slave_id=none":           `{"slaves":[],"recovered_slaves":[]}`,
		"/slaves?slave_id=m-S1":           `{"slaves":[],"recovered_slaves":[{"id":"m-S1"`,
		"/frameworks?framework_id=none":   `{"frameworks":[],"completed_frameworks":[],"unregistered_frameworks":[]}`,
		"/frameworks?framework_id=m-0001": `"completed_frameworks":[{"id":"m-0001"`,
	} {
		if body := s.do("GET", path, "").Body.String(); !strings.Contains(body, want) {
			t.Errorf("%s: %s lacks %s", path, body, want)
		}
	}
}

// TestTransport checks what all endpoints have in common.
func TestTransport(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(o *Options) { o.DisabledPaths = []string{"/help/"} })
	for _, c := range []struct {
		method, path string
		code         int
		body         string
	}{
		{"GET", "/health", 200, ""},
		{"GET", "/master/health", 200, ""},
		{"GET", "/version?jsonp=cb", 200, "cb({"},
		{"GET", "/version?jsonp=alert(1)", 400, ""},
		{"POST", "/state", 405, ""},
		{"HEAD", "/state", 200, ""},
		{"GET", "/state.json", 200, `{"`},
		{"GET", "/master/state.json", 200, `{"`},
		{"GET", "/tasks.json", 200, `{"tasks":`},
		{"GET", "/master/roles.json", 200, `{"roles":`},
		{"POST", "/state.json", 405, ""},
		{"GET", "/health.json", 404, ""},
		{"GET", "/files/debug.json", 200, "{}"},
		{"GET", "/masterful", 404, ""},
		{"GET", "/nothing", 404, ""},
		{"GET", "/help", 403, "Endpoint '/help' is disabled"},
		{"GET", "/redirect/x", 404, ""},
		{"PUT", "/quota", 405, ""},
		{"GET", "/quota/web", 405, ""},
		{"DELETE", "/weights", 405, ""},
		{"GET", "/metrics/snapshot?timeout=5secs", 200, `{"`},
		{"GET", "/metrics", 200, ""},
		{"GET", "/files/debug", 200, "{}"},
		{"GET", "/master/files/browse/?path=/x", 404, ""},
		{"GET", "/system/stats.json", 200, `{"cpus_total":`},
		{"GET", "/", 200, "<!doctype html>"},
		{"GET", "/master", 200, "<!doctype html>"},
		{"GET", "/master/", 200, "<!doctype html>"},
	} {
		rec := s.do(c.method, c.path, "")
		if rec.Code != c.code || !strings.HasPrefix(rec.Body.String(), c.body) {
			t.Errorf("%s %s: %d %.200s", c.method, c.path, rec.Code, rec.Body)
		}
		if rec.Header().Get("Content-Length") == "" && c.path != "/metrics" {
			t.Errorf("%s %s has no Content-Length", c.method, c.path)
		}
	}
	rec := s.do("GET", "/redirect", "")
	if rec.Code != 307 || rec.Header().Get("Location") != "//master.test:5050" {
		t.Errorf("redirect: %d %v", rec.Code, rec.Header())
	}
	rec = s.do("GET", "/state", "", "Accept-Encoding: gzip")
	zipped, err := gzip.NewReader(rec.Body)
	if err != nil || rec.Header().Get("Content-Encoding") != "gzip" {
		t.Fatal(err, rec.Header())
	}
	body, err := io.ReadAll(zipped)
	if err != nil || string(body) != s.do("GET", "/state", "").Body.String() {
		t.Error("the compressed body is another one")
	}
}

// TestNotLeading: state redirects or says that there is none; what is local is answered by every master.
func TestNotLeading(t *testing.T) {
	t.Parallel()
	other := &election.Leader{ID: "other", Address: "other.test:5050"}
	for name, c := range map[string]struct {
		leadership Leadership
		code       int
		body       string
	}{
		"follower": {Leadership{Leader: other}, 307, ""},
		"nobody":   {Leadership{}, 503, "No leader elected"},
		"recovery": {Leadership{Leading: true}, 503, "Master has not finished recovery"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTestServer(t, nil)
			s.owner.leadership, s.owner.snap = c.leadership, nil
			for _, path := range []string{
				"/state", "/slaves", "/tasks?limit=1", "/roles", "/quota", "/weights", "/maintenance/status", "/maintenance/schedule", "/",
				"/registrar(1)/registry", "/frameworks", "/state-summary",
			} {
				rec := s.do("GET", path, "")
				if rec.Code != c.code || rec.Body.String() != c.body {
					t.Errorf("%s: %d %s", path, rec.Code, rec.Body)
				}
				if want := "//other.test:5050" + path; c.code == 307 && rec.Header().Get("Location") != want {
					t.Errorf("%s: Location %s", path, rec.Header().Get("Location"))
				}
			}
			for _, call := range []string{`{"type":"GET_HEALTH"}`, `{"type":"GET_FLAGS"}`, `{`} {
				if rec := s.do("POST", "/api/v1", call, "Content-Type: application/json"); rec.Code != c.code {
					t.Errorf("%s: %d", call, rec.Code)
				}
			}
			if rec := s.do("GET", "/api/v1/scheduler", ""); rec.Code != c.code {
				t.Errorf("scheduler API: %d", rec.Code)
			}
			for _, path := range []string{"/health", "/version", "/flags", "/metrics/snapshot", "/metrics", "/files/debug", "/logging/toggle"} {
				if rec := s.do("GET", path, ""); rec.Code != 200 {
					t.Errorf("%s: %d", path, rec.Code)
				}
			}
		})
	}
}

// TestLegacyWrites checks which operator call each legacy request becomes.
func TestLegacyWrites(t *testing.T) {
	t.Parallel()
	const volume = `[{"name":"disk","type":"SCALAR","scalar":{"value":1}}]`
	for _, c := range []struct {
		method, path, body string
		want               string // the call in JSON; empty: refused with 400
	}{
		{"POST", "/teardown", "frameworkId=m-0000", `{"type":"TEARDOWN","teardown":{"framework_id":{"value":"m-0000"}}}`},
		{"POST", "/master/teardown/", "", ""},
		{"POST", "/reserve", "slaveId=s&resources=" + volume, `{"type":"RESERVE_RESOURCES","reserve_resources":{"agent_id":{"value":"s"},"resources":` + volume + `}}`},
		{"POST", "/unreserve", "slaveId=s&resources=" + volume, `{"type":"UNRESERVE_RESOURCES","unreserve_resources":{"agent_id":{"value":"s"},"resources":` + volume + `}}`},
		{"POST", "/create-volumes", "slaveId=s&volumes=" + volume, `{"type":"CREATE_VOLUMES","create_volumes":{"agent_id":{"value":"s"},"volumes":` + volume + `}}`},
		{"POST", "/destroy-volumes", "slaveId=s&volumes=" + volume, `{"type":"DESTROY_VOLUMES","destroy_volumes":{"agent_id":{"value":"s"},"volumes":` + volume + `}}`},
		{"POST", "/reserve", "slaveId=s", ""},
		{"POST", "/reserve", "slaveId=s&resources={}", ""},
		{"POST", "/reserve", "slaveId=s&resources=[],\"role\":\"x\"", ""},
		{"POST", "/reserve", "slaveId=s&resources=%zz", ""},
		{"POST", "/quota", `{"role":"web","guarantee":` + volume + `}`, `{"type":"SET_QUOTA","set_quota":{"quota_request":{"role":"web","guarantee":` + volume + `}}}`},
		{"POST", "/quota", `[`, ""},
		{"DELETE", "/quota/web", "", `{"type":"REMOVE_QUOTA","remove_quota":{"role":"web"}}`},
		{"PUT", "/weights", `[{"role":"web","weight":2}]`, `{"type":"UPDATE_WEIGHTS","update_weights":{"weight_infos":[{"weight":2.0,"role":"web"}]}}`},
		{"PUT", "/weights", `{}`, ""},
		{"POST", "/maintenance/schedule", `{"windows":[]}`, `{"type":"UPDATE_MAINTENANCE_SCHEDULE","update_maintenance_schedule":{"schedule":{}}}`},
		{"POST", "/maintenance/schedule", `5`, ""},
		{"POST", "/machine/down", `[{"hostname":"h"}]`, `{"type":"START_MAINTENANCE","start_maintenance":{"machines":[{"hostname":"h"}]}}`},
		{"POST", "/machine/up", `[{"ip":"1.2.3.4"}]`, `{"type":"STOP_MAINTENANCE","stop_maintenance":{"machines":[{"ip":"1.2.3.4"}]}}`},
		{"POST", "/machine/up", `{"ip":"1.2.3.4"}`, ""},
	} {
		s := newTestServer(t, nil)
		s.owner.onPost = func(ev core.Event) {
			go s.Apply(&core.Reply{Token: ev.(*core.OperatorCall).Token, Status: 202})
		}
		rec := s.do(c.method, c.path, c.body)
		if c.want == "" {
			if rec.Code != 400 || len(s.owner.events()) != 0 {
				t.Errorf("%s %s %s: %d %s, %d events", c.method, c.path, c.body, rec.Code, rec.Body, len(s.owner.events()))
			}
			continue
		}
		events := s.owner.events()
		if rec.Code != 202 || rec.Body.Len() != 0 || len(events) != 1 {
			t.Errorf("%s %s: %d %s, %d events", c.method, c.path, rec.Code, rec.Body, len(events))
			continue
		}
		if got := jsonOf(t, events[0].(*core.OperatorCall).Call); !sameJSON(got, c.want) {
			t.Errorf("%s %s became %s, want %s", c.method, c.path, got, c.want)
		}
	}
}

// TestErrorsOfTheOwner: what the owner answers is what the client gets.
func TestErrorsOfTheOwner(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	s.owner.onPost = func(ev core.Event) {
		s.Apply(&core.Reply{Token: ev.(*core.OperatorCall).Token, Status: 409, Message: "not enough"})
	}
	if rec := s.do("POST", "/teardown", "frameworkId=x"); rec.Code != 409 || rec.Body.String() != "not enough" {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	s.owner.full = true
	if rec := s.do("POST", "/teardown", "frameworkId=x"); rec.Code != 503 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	s.owner.full, s.owner.onPost = false, func(core.Event) { s.Reset() }
	if rec := s.do("POST", "/teardown", "frameworkId=x"); rec.Code != 503 || !strings.Contains(rec.Body.String(), "stopped leading") {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

// TestCacheFollowsChanges changes one task among many: the bodies follow, and runs of tasks that did not change are kept.
func TestCacheFollowsChanges(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	snap := manyTasks(1000)
	s.owner.snap = snap
	before := s.do("GET", "/state", "").Body.String()
	if n := strings.Count(before, `"TASK_RUNNING"`); n != 2000 { // state and status of each
		t.Fatalf("%d times running", n)
	}
	page, _ := snap.Frameworks.Get("m-0000")
	kept := s.state.page(page).chunks
	changed := *page
	changed.Tasks = page.Tasks.Copy()
	changed.Tasks.Set("task-000500", testTask("task-000500", "m-S0", mesosv1.TaskState_TASK_FINISHED))
	next := *snap
	next.Version++
	next.Frameworks = snap.Frameworks.Copy()
	next.Frameworks.Set("m-0000", &changed)
	s.owner.snap = &next
	after := s.do("GET", "/state", "").Body.String()
	if n := strings.Count(after, `"TASK_RUNNING"`); n != 1998 || strings.Count(after, `"TASK_FINISHED"`) != 2 {
		t.Errorf("%d times running after the change", n)
	}
	var fresh int
	for first, ch := range s.state.page(&changed).chunks {
		if kept[first] != ch {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("%d runs were encoded again for one task", fresh)
	}
	// What the finished task used is free.
	if a, b := strings.Index(before, `"used_resources":{"cpus":100.1`), strings.Index(after, `"used_resources":{"cpus":100.0`); a < 0 || b < 0 {
		t.Errorf("used resources did not follow: %d, %d", a, b)
	}
	removed := next
	removed.Version++
	removed.Frameworks = next.Frameworks.Copy()
	removed.Frameworks.Delete("m-0000")
	s.owner.snap = &removed
	if body := s.do("GET", "/state", "").Body.String(); strings.Contains(body, "task-0") {
		t.Error("tasks of a framework that is gone are still shown")
	}
}

func TestMetricNames(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	var got map[string]float64
	if err := json.Unmarshal(s.do("GET", "/metrics/snapshot", "").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{
		"master/uptime_secs": 110, "master/elected": 1, "master/cpus_total": 6, "master/cpus_used": 0.3, "master/cpus_percent": 0.05,
		"master/mem_total": 1024, "master/gpus_total": 1, "master/cpus_revocable_total": 0, "master/slaves_active": 1, "master/slaves_inactive": 0,
		"master/slaves_unreachable": 1, "master/frameworks_connected": 1, "master/outstanding_offers": 1, "master/tasks_running": 1, "master/tasks_staging": 1,
		"master/tasks_unreachable": 1, "master/tasks_finished": 7, "master/tasks_lost": 0, "master/messages_kill_task": 2, "master/messages_register_framework": 0,
		"master/task_failed/source_executor/reason_command_executor_failed": 1, "master/slave_registrations": 3, "master/valid_status_updates": 11,
		"master/operations/reserve": 1, "frameworks/fw%2Fone/m-0000/subscribed": 1, "frameworks/fw%2Fone/m-0000/calls": 3,
		"frameworks/fw%2Fone/m-0000/calls/accept": 3, "frameworks/fw%2Fone/m-0000/offers/sent": 5, "frameworks/fw%2Fone/m-0000/roles/web/suppressed": 0,
		"frameworks/fw%2Fone/m-0000/tasks/active/task_running": 1, "allocator/mesos/allocation_runs": 0,
	} {
		v, ok := got[name]
		if !ok || v-want > 1e-9 || want-v > 1e-9 {
			t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want)
		}
	}
	text := s.do("GET", "/metrics", "").Body.String()
	for _, want := range []string{
		`orchestrator_master_agents{state="active"} 1`, `orchestrator_master_messages_total{type="kill_task"} 2`,
		`orchestrator_master_resources{kind="regular",of="total",resource="cpus"} 6`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if strings.Contains(text, "m-0000") {
		t.Error("/metrics has a framework's id: labels must stay few")
	}
}

func TestLoggingToggle(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	for path, want := range map[string]int{
		"/logging/toggle?level=9&duration=1secs": 400, "/logging/toggle?level=1": 400, "/logging/toggle?duration=1secs": 400,
		"/logging/toggle?level=x&duration=1secs": 400, "/logging/toggle?level=1&duration=soon": 400, "/logging/toggle?level=1&duration=-1secs": 400,
	} {
		if rec := s.do("GET", path, ""); rec.Code != want {
			t.Errorf("%s: %d %s", path, rec.Code, rec.Body)
		}
	}
	if rec := s.do("POST", "/logging/toggle?level=1&duration=1hrs", ""); rec.Code != 200 {
		t.Fatal(rec.Code, rec.Body)
	}
	if body := s.do("GET", "/logging/toggle", "").Body.String(); body != "1\n" {
		t.Errorf("level is %q", body)
	}
	if rec := s.do("POST", "/api/v1", `{"type":"GET_LOGGING_LEVEL"}`, "Content-Type: application/json"); rec.Body.String() != `{"type":"GET_LOGGING_LEVEL","get_logging_level":{"level":1}}` {
		t.Errorf("%s", rec.Body)
	}
	if rec := s.do("POST", "/logging/toggle?level=0&duration=0ns", ""); rec.Code != 200 || s.do("GET", "/logging/toggle", "").Body.String() != "0\n" {
		t.Errorf("not set back: %d", rec.Code)
	}
}

// TestStatusPage shows what tasks and frameworks call themselves as text, never as markup.
func TestStatusPage(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	page, _ := s.owner.snap.Frameworks.Get("m-0000")
	page.Info.Name = new(string)
	*page.Info.Name = "<script>alert(1)</script>"
	rec := s.do("GET", "/", "")
	if strings.Contains(rec.Body.String(), "<script") || !strings.Contains(rec.Body.String(), "&lt;script&gt;") {
		t.Error("a framework's name is markup")
	}
	if rec.Header().Get("Content-Security-Policy") == "" || !strings.Contains(rec.Body.String(), "agent.test") {
		t.Errorf("%v\n%s", rec.Header(), rec.Body)
	}
}

func TestAuthorizedViews(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(o *Options) {
		o.Authorizer = authorizerFunc(func(principal string, action core.Action, object string) bool {
			return principal == "ops" || action == actionViewFrameworks && object == "root"
		})
	})
	body := s.do("GET", "/state", "").Body.String()
	for _, hidden := range []string{`"t1"`, `"x"`, "m-0001", `"flags"`, `"web":{`} {
		if strings.Contains(body, hidden) {
			t.Errorf("%s is shown: %s", hidden, body)
		}
	}
	if !strings.Contains(body, `"m-0000"`) {
		t.Error("the framework that may be seen is not shown")
	}
	basic := "Authorization: Basic b3BzOng=" // ops:x
	if body := s.do("GET", "/state", "", basic).Body.String(); !strings.Contains(body, `"t1"`) || !strings.Contains(body, `"flags"`) {
		t.Error("ops does not see everything")
	}
	if rec := s.do("GET", "/flags", ""); rec.Code != http.StatusForbidden {
		t.Errorf("flags: %d", rec.Code)
	}
	if rec := s.do("POST", "/api/v1", jsonOf(t, &masterv1.Call{Type: masterv1.Call_DRAIN_AGENT.Enum(), DrainAgent: &masterv1.Call_DrainAgent{AgentId: &mesosv1.AgentID{Value: new(string)}}}), "Content-Type: application/json"); rec.Code != http.StatusForbidden {
		t.Errorf("drain: %d %s", rec.Code, rec.Body)
	}
}

type authorizerFunc func(string, core.Action, string) bool

func (f authorizerFunc) Authorized(principal string, action core.Action, object string) bool {
	return f(principal, action, object)
}
