package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// do makes a request of the agent's API.
func (h *harness) do(method, path string, headers map[string]string, body io.Reader) (*http.Response, []byte) {
	h.t.Helper()
	req, err := http.NewRequest(method, "http://agent"+path, body)
	if err != nil {
		h.t.Fatal(err)
	}
	for k, v := range headers {
		req.Header.Set(k, v)
	}
	tr := h.http()
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		h.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp, data
}

func (h *harness) get(path string) (*http.Response, []byte) {
	h.t.Helper()
	return h.do(http.MethodGet, path, nil, nil)
}

// call makes an operator call in JSON.
func (h *harness) call(c *agentv1.Call) (int, *agentv1.Response, string) {
	h.t.Helper()
	body, err := mesosjson.Append(nil, c)
	if err != nil {
		h.t.Fatal(err)
	}
	resp, data := h.do(http.MethodPost, "/api/v1", map[string]string{"Content-Type": wire.MediaJSON, "Accept": wire.MediaJSON}, bytes.NewReader(body))
	out := &agentv1.Response{}
	if resp.Header.Get("Content-Type") == wire.MediaJSON {
		if err := mesosjson.Unmarshal(data, out); err != nil {
			h.t.Fatalf("%s: %v", data, err)
		}
	}
	return resp.StatusCode, out, string(data)
}

// withTask is a harness whose agent runs one task of a custom executor.
func withTask(t *testing.T) (*harness, *executor, containerizer.Config) {
	h := newHarness(t, nil)
	h.registered()
	c := h.run(customTask("t1", "e"))
	x := h.executor("e", wire.JSON)
	x.expect(executorv1.Event_SUBSCRIBED)
	x.expect(executorv1.Event_LAUNCH)
	if err := x.update(x.status("t1", running)); err != nil {
		t.Fatal(err)
	}
	x.expect(executorv1.Event_ACKNOWLEDGED)
	h.master.update("t1", running)
	synctest.Wait()
	return h, x, c
}

// golden compares a body with its file after taking out what differs from run to run.
func golden(t *testing.T, name string, got []byte, replace ...string) {
	t.Helper()
	var indented bytes.Buffer
	if err := json.Indent(&indented, got, "", " "); err != nil {
		t.Fatalf("%s is no JSON: %v\n%s", name, err, got)
	}
	text := strings.NewReplacer(replace...).Replace(indented.String()) + "\n"
	text = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`).ReplaceAllString(text, "UUID")
	text = regexp.MustCompile(`"git_sha": "[^"]*"`).ReplaceAllString(text, `"git_sha": "SHA"`)
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s differs (go test -update rewrites it):\n%s", name, text)
	}
}

func TestLegacyBodies(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h, _, c := withTask(t)
		for path, name := range map[string]string{
			"/state": "state.json", "/containers": "containers.json", "/monitor/statistics": "statistics.json", "/flags": "flags.json", "/version": "version.json",
		} {
			for _, prefix := range []string{"", "/slave(1)", "/slave"} {
				resp, body := h.get(prefix + path + "/")
				if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != wire.MediaJSON || resp.Header.Get("Content-Length") != strconv.Itoa(len(body)) {
					t.Errorf("%s: %d %v", prefix+path, resp.StatusCode, resp.Header)
				}
				golden(t, name, body, h.dir, "DIR", string(c.ID), "CONTAINER")
			}
		}
		if resp, body := h.get("/state?jsonp=cb"); !strings.HasPrefix(string(body), "cb(") || resp.Header.Get("Content-Type") != "text/javascript" {
			t.Errorf("jsonp: %s %.20s", resp.Header.Get("Content-Type"), body)
		}
		if resp, body := h.get("/"); resp.StatusCode != 200 || !strings.Contains(string(body), "agent.example") || !strings.Contains(string(body), "TASK_RUNNING") {
			t.Errorf("status page: %d %s", resp.StatusCode, body)
		}
		if resp, body := h.get("/health"); resp.StatusCode != 200 || len(body) > 0 {
			t.Errorf("health: %d %q", resp.StatusCode, body)
		}
		for path, want := range map[string]int{"/nothing": 404, "/state.json": 200, "/slave(1)/state.json": 200, "/monitor/statistics.json": 200, "/files/debug.json": 200, "/health.json": 404, "/slave(2)/state": 404} {
			if resp, _ := h.get(path); resp.StatusCode != want {
				t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
			}
		}
		if resp, _ := h.do(http.MethodPost, "/state", nil, nil); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST /state: %d", resp.StatusCode)
		}
	})
}

func TestMetricsHaveMesosNames(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h, _, _ := withTask(t)
		_, body := h.get("/metrics/snapshot")
		var got map[string]float64
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]float64{
			"slave/registered": 1, "slave/cpus_total": 8, "slave/cpus_used": 1.5, "slave/tasks_running": 1, "slave/tasks_finished": 0, "slave/frameworks_active": 1,
			"slave/executors_running": 1, "slave/valid_status_updates": 1, "slave/invalid_status_updates": 0, "slave/mem_percent": 96.0 / 8192, "slave/recovery_errors": 0,
		} {
			if v, ok := got[name]; !ok || v != want {
				t.Errorf("%s = %v (%v), want %v", name, v, ok, want)
			}
		}
		if _, body := h.get("/metrics"); !strings.Contains(string(body), `orchestrator_agent_tasks{state="running"} 1`) {
			t.Errorf("/metrics has no tasks:\n%.2000s", body)
		}
	})
}

func TestFiles(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h, _, c := withTask(t)
		if err := os.WriteFile(c.Directory+"/stdout", []byte("hello world"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/etc/passwd", c.Directory+"/leak"); err != nil {
			t.Fatal(err)
		}
		for _, root := range []string{c.Directory, "/frameworks/m-0000/executors/e/runs/latest"} {
			_, body := h.get("/files/read?offset=6&length=3&path=" + root + "/stdout")
			if string(body) != `{"data":"wor","offset":6}` {
				t.Errorf("read: %s", body)
			}
			if resp, body := h.get("/files/browse?path=" + root); resp.StatusCode != 200 || !strings.Contains(string(body), "/stdout") {
				t.Errorf("browse: %d %s", resp.StatusCode, body)
			}
			for _, bad := range []string{"/leak", "/../../../../../../../etc/passwd"} {
				if resp, body := h.get("/files/read?offset=0&path=" + root + bad); resp.StatusCode == 200 {
					t.Errorf("%s was read: %s", bad, body)
				}
			}
		}
		if resp, body := h.get("/files/download?path=" + c.Directory + "/stdout"); string(body) != "hello world" || !strings.HasPrefix(resp.Header.Get("Content-Disposition"), "attachment") {
			t.Errorf("download: %v %s", resp.Header, body)
		}
		status, list, _ := h.call(&agentv1.Call{Type: agentv1.Call_LIST_FILES.Enum(), ListFiles: &agentv1.Call_ListFiles{Path: &c.Directory}})
		if status != 200 || len(list.GetListFiles().GetFileInfos()) == 0 {
			t.Errorf("LIST_FILES: %d %v", status, list)
		}
		status, read, _ := h.call(&agentv1.Call{Type: agentv1.Call_READ_FILE.Enum(), ReadFile: &agentv1.Call_ReadFile{Path: proto.String(c.Directory + "/stdout"), Offset: proto.Uint64(6), Length: proto.Uint64(3)}})
		if status != 200 || string(read.GetReadFile().GetData()) != "wor" || read.GetReadFile().GetSize() != 11 {
			t.Errorf("READ_FILE: %d %v", status, read)
		}
		if status, _, _ = h.call(&agentv1.Call{Type: agentv1.Call_READ_FILE.Enum(), ReadFile: &agentv1.Call_ReadFile{Path: proto.String("/etc/passwd"), Offset: proto.Uint64(0)}}); status != 404 {
			t.Errorf("READ_FILE of a stranger's: %d", status)
		}
	})
}

func id(parts ...string) *mesosv1.ContainerID {
	var m *mesosv1.ContainerID
	for _, p := range parts {
		m = &mesosv1.ContainerID{Value: proto.String(p), Parent: m}
	}
	return m
}

func TestOperatorCalls(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h, _, c := withTask(t)
		parent := string(c.ID)
		cmd := &mesosv1.CommandInfo{Value: proto.String("true")}
		type test struct {
			name   string
			call   *agentv1.Call
			status int
			check  func(*agentv1.Response) bool
		}
		typ := func(t agentv1.Call_Type) *agentv1.Call { return &agentv1.Call{Type: t.Enum()} }
		launch := func(c *mesosv1.ContainerID) *agentv1.Call {
			return &agentv1.Call{Type: agentv1.Call_LAUNCH_CONTAINER.Enum(), LaunchContainer: &agentv1.Call_LaunchContainer{ContainerId: c, Command: cmd}}
		}
		kill := func(c *mesosv1.ContainerID) *agentv1.Call {
			return &agentv1.Call{Type: agentv1.Call_KILL_CONTAINER.Enum(), KillContainer: &agentv1.Call_KillContainer{ContainerId: c}}
		}
		wait := func(c *mesosv1.ContainerID) *agentv1.Call {
			return &agentv1.Call{Type: agentv1.Call_WAIT_CONTAINER.Enum(), WaitContainer: &agentv1.Call_WaitContainer{ContainerId: c}}
		}
		remove := func(c *mesosv1.ContainerID) *agentv1.Call {
			return &agentv1.Call{Type: agentv1.Call_REMOVE_CONTAINER.Enum(), RemoveContainer: &agentv1.Call_RemoveContainer{ContainerId: c}}
		}
		image := launch(id("i"))
		image.LaunchContainer.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), Mesos: &mesosv1.ContainerInfo_MesosInfo{Image: &mesosv1.Image{Type: mesosv1.Image_DOCKER.Enum(), Docker: &mesosv1.Image_Docker{Name: proto.String("x")}}}}
		for _, x := range []test{
			{"no type", &agentv1.Call{}, 400, nil},
			{"health", typ(agentv1.Call_GET_HEALTH), 200, func(r *agentv1.Response) bool { return r.GetGetHealth().GetHealthy() }},
			{"flags", typ(agentv1.Call_GET_FLAGS), 200, func(r *agentv1.Response) bool { return len(r.GetGetFlags().GetFlags()) == 1 }},
			{"version", typ(agentv1.Call_GET_VERSION), 200, func(r *agentv1.Response) bool { return r.GetGetVersion().GetVersionInfo().GetVersion() == "1.11.0" }},
			{"metrics without payload", typ(agentv1.Call_GET_METRICS), 400, nil},
			{"metrics", &agentv1.Call{Type: agentv1.Call_GET_METRICS.Enum(), GetMetrics: &agentv1.Call_GetMetrics{}}, 200, func(r *agentv1.Response) bool { return len(r.GetGetMetrics().GetMetrics()) > 20 }},
			{"level", typ(agentv1.Call_GET_LOGGING_LEVEL), 200, func(r *agentv1.Response) bool { return r.GetGetLoggingLevel().GetLevel() == 0 }},
			{"state", typ(agentv1.Call_GET_STATE), 200, func(r *agentv1.Response) bool {
				s := r.GetGetState()
				return len(s.GetGetTasks().GetLaunchedTasks()) == 1 && len(s.GetGetExecutors().GetExecutors()) == 1 && len(s.GetGetFrameworks().GetFrameworks()) == 1
			}},
			{"tasks", typ(agentv1.Call_GET_TASKS), 200, func(r *agentv1.Response) bool { return len(r.GetGetTasks().GetLaunchedTasks()) == 1 }},
			{"frameworks", typ(agentv1.Call_GET_FRAMEWORKS), 200, func(r *agentv1.Response) bool { return len(r.GetGetFrameworks().GetFrameworks()) == 1 }},
			{"executors", typ(agentv1.Call_GET_EXECUTORS), 200, func(r *agentv1.Response) bool { return len(r.GetGetExecutors().GetExecutors()) == 1 }},
			{"agent", typ(agentv1.Call_GET_AGENT), 200, func(r *agentv1.Response) bool { return r.GetGetAgent().GetAgentInfo().GetId().GetValue() == "m-S0" }},
			{"operations", typ(agentv1.Call_GET_OPERATIONS), 200, nil},
			{"providers", typ(agentv1.Call_GET_RESOURCE_PROVIDERS), 200, nil},
			{"containers", typ(agentv1.Call_GET_CONTAINERS), 200, func(r *agentv1.Response) bool {
				l := r.GetGetContainers().GetContainers()
				return len(l) == 1 && l[0].GetContainerId().GetValue() == parent && l[0].GetResourceStatistics().GetMemRssBytes() == 4096
			}},
			{"provider config", &agentv1.Call{Type: agentv1.Call_REMOVE_RESOURCE_PROVIDER_CONFIG.Enum()}, 400, nil},
			{"provider gone", &agentv1.Call{Type: agentv1.Call_MARK_RESOURCE_PROVIDER_GONE.Enum(), MarkResourceProviderGone: &agentv1.Call_MarkResourceProviderGone{ResourceProviderId: &mesosv1.ResourceProviderID{Value: proto.String("p")}}}, 404, nil},
			{"prune", typ(agentv1.Call_PRUNE_IMAGES), 200, nil},

			{"bad id", launch(id("../x")), 400, nil},
			{"id with a dot", launch(id("a.b")), 400, nil},
			{"long id", launch(id(strings.Repeat("x", 243))), 400, nil},
			{"kill unknown", kill(id("none")), 404, nil},
			{"wait unknown", wait(id("none")), 404, nil},
			{"executor's own", kill(id(parent)), 400, nil},
			{"image", image, 400, nil},
			{"standalone", launch(id("s1")), 200, nil},
			{"standalone again", launch(id("s1")), 202, nil},
			{"no parent", launch(id("none", "n1")), 400, nil},
			{"nested", launch(id(parent, "n1")), 200, nil},
			{"nested again", launch(id(parent, "n1")), 202, nil},
			{"all containers", &agentv1.Call{Type: agentv1.Call_GET_CONTAINERS.Enum(), GetContainers: &agentv1.Call_GetContainers{ShowNested: proto.Bool(true), ShowStandalone: proto.Bool(true)}}, 200, func(r *agentv1.Response) bool { return len(r.GetGetContainers().GetContainers()) == 3 }},
			{"remove running", remove(id(parent, "n1")), 500, nil},
			{"kill", kill(id(parent, "n1")), 200, nil},
			{"kill again", kill(id(parent, "n1")), 404, nil},
			{"wait", wait(id(parent, "n1")), 200, func(r *agentv1.Response) bool { return r.GetWaitContainer().GetExitStatus() == 9 }},
			{"remove", remove(id(parent, "n1")), 200, nil},
			{"remove again", remove(id(parent, "n1")), 200, nil},
			{"attach to no terminal", &agentv1.Call{Type: agentv1.Call_ATTACH_CONTAINER_OUTPUT.Enum(), AttachContainerOutput: &agentv1.Call_AttachContainerOutput{ContainerId: id(parent)}}, 400, nil},
			{"attach to nothing", &agentv1.Call{Type: agentv1.Call_ATTACH_CONTAINER_OUTPUT.Enum(), AttachContainerOutput: &agentv1.Call_AttachContainerOutput{ContainerId: id("none")}}, 404, nil},
			{"input without a stream", &agentv1.Call{Type: agentv1.Call_ATTACH_CONTAINER_INPUT.Enum()}, 415, nil},
		} {
			status, answer, text := h.call(x.call)
			if status != x.status || x.check != nil && !x.check(answer) {
				t.Errorf("%s: %d %s, want %d", x.name, status, text, x.status)
			}
		}
		for name, x := range map[string]struct {
			method, contentType, accept, body string
			status                            int
		}{
			"GET":          {"GET", "", "", "", 405},
			"no type":      {"POST", "", "", `{"type":"GET_HEALTH"}`, 400},
			"other type":   {"POST", "text/json", "", `{"type":"GET_HEALTH"}`, 415},
			"not json":     {"POST", wire.MediaJSON, "", `{"type":`, 400},
			"unknown type": {"POST", wire.MediaJSON, "", `{"type":"NO_SUCH_CALL"}`, 400},
			"accept":       {"POST", wire.MediaJSON, "text/html", `{"type":"GET_HEALTH"}`, 406},
			"any":          {"POST", wire.MediaJSON, "*/*", `{"type":"GET_HEALTH"}`, 200},
			"deep":         {"POST", wire.MediaJSON, "", strings.Repeat(`{"a":`, 10000), 400},
		} {
			headers := map[string]string{"Content-Type": x.contentType, "Accept": x.accept}
			if x.contentType == "" {
				delete(headers, "Content-Type")
			}
			if resp, body := h.do(x.method, "/api/v1", headers, strings.NewReader(x.body)); resp.StatusCode != x.status {
				t.Errorf("%s: %d %s, want %d", name, resp.StatusCode, body, x.status)
			}
		}
	})
}

func TestExecutorAPIRefusals(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h, x, _ := withTask(t)
		post := func(body string) int {
			resp, _ := h.do(http.MethodPost, "/api/v1/executor", map[string]string{"Content-Type": wire.MediaJSON}, strings.NewReader(body))
			return resp.StatusCode
		}
		const ids = `"framework_id":{"value":"m-0000"},"executor_id":{"value":"e"}`
		for body, want := range map[string]int{
			`{}`:                             400,
			`{"type":"MESSAGE",` + ids + `}`: 400,
			`{"type":"MESSAGE",` + ids + `,"message":{"data":"aGk="}}`:                                            202,
			`{"type":"HEARTBEAT",` + ids + `}`:                                                                    202,
			`{"type":"UPDATE",` + ids + `,"update":{"status":{"task_id":{"value":"t1"},"state":"TASK_RUNNING"}}}`: 400,
			`{"type":"HEARTBEAT","framework_id":{"value":"x"},"executor_id":{"value":"e"}}`:                       400,
			`{"type":"SUBSCRIBE","framework_id":{"value":"m-0000"},"executor_id":{"value":"x"},"subscribe":{}}`:   400,
		} {
			if got := post(body); got != want {
				t.Errorf("%s: %d, want %d", body, got, want)
			}
		}
		h.master.expect("the executor's message", func(m *linkv1.Message) bool { return string(m.GetExecutorMessage().GetData()) == "hi" })
		h.master.send(&linkv1.Message{Kind: &linkv1.Message_FrameworkMessage{FrameworkMessage: &linkv1.FrameworkMessage{
			FrameworkId: &mesosv1.FrameworkID{Value: proto.String("m-0000")}, ExecutorId: &mesosv1.ExecutorID{Value: proto.String("e")}, Data: []byte("ho"),
		}}})
		if got := x.expect(executorv1.Event_MESSAGE).GetMessage().GetData(); string(got) != "ho" {
			t.Errorf("message %q", got)
		}
		second := h.executor("e", wire.JSON) // the first connection ends
		second.expect(executorv1.Event_SUBSCRIBED)
		if err := x.events.Next(&executorv1.Event{}); err == nil {
			t.Error("the old connection goes on")
		}
		second.close()
		synctest.Wait()
		if got := post(`{"type":"HEARTBEAT",` + ids + `}`); got != 403 {
			t.Errorf("call without a subscription: %d", got)
		}
	})
}

// A session: a command with a terminal, its output streamed, its input sent on another request.
func TestSessionWithFakeContainers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h, _, c := withTask(t)
		session := id(string(c.ID), "debug")
		body, err := proto.Marshal(&agentv1.Call{Type: agentv1.Call_LAUNCH_NESTED_CONTAINER_SESSION.Enum(), LaunchNestedContainerSession: &agentv1.Call_LaunchNestedContainerSession{
			ContainerId: session, Command: &mesosv1.CommandInfo{Value: proto.String("cat")}, Container: &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), TtyInfo: &mesosv1.TTYInfo{}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		req, _ := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://agent/api/v1", bytes.NewReader(body))
		req.Header.Set("Content-Type", wire.MediaProtobuf)
		req.Header.Set("Accept", wire.MediaRecordIO)
		req.Header.Set("Message-Accept", wire.MediaProtobuf)
		tr := h.http()
		defer tr.CloseIdleConnections()
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != wire.MediaRecordIO || resp.Header.Get("Message-Content-Type") != wire.MediaProtobuf {
			t.Fatalf("session: %d %v", resp.StatusCode, resp.Header)
		}
		var input []byte
		for _, call := range []*agentv1.Call_AttachContainerInput{
			{Type: agentv1.Call_AttachContainerInput_CONTAINER_ID.Enum(), ContainerId: session},
			{Type: agentv1.Call_AttachContainerInput_PROCESS_IO.Enum(), ProcessIo: heartbeatIO()},
			{Type: agentv1.Call_AttachContainerInput_PROCESS_IO.Enum(), ProcessIo: &agentv1.ProcessIO{Type: agentv1.ProcessIO_DATA.Enum(), Data: &agentv1.ProcessIO_Data{Type: agentv1.ProcessIO_Data_STDIN.Enum(), Data: []byte("hello")}}},
			{Type: agentv1.Call_AttachContainerInput_PROCESS_IO.Enum(), ProcessIo: &agentv1.ProcessIO{Type: agentv1.ProcessIO_DATA.Enum(), Data: &agentv1.ProcessIO_Data{Type: agentv1.ProcessIO_Data_STDIN.Enum(), Data: []byte{}}}},
		} {
			rec, err := mesosjson.Append(nil, &agentv1.Call{Type: agentv1.Call_ATTACH_CONTAINER_INPUT.Enum(), AttachContainerInput: call})
			if err != nil {
				t.Fatal(err)
			}
			input = wire.AppendRecord(input, rec)
		}
		in, text := h.do(http.MethodPost, "/api/v1", map[string]string{"Content-Type": wire.MediaRecordIO, "Message-Content-Type": wire.MediaJSON}, bytes.NewReader(input))
		if in.StatusCode != 200 {
			t.Errorf("input: %d %s", in.StatusCode, text)
		}
		records := wire.NewRecordReader(resp.Body, 0)
		var out []byte
		for {
			rec, err := records.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			p := &agentv1.ProcessIO{}
			if err := proto.Unmarshal(rec, p); err != nil {
				t.Fatal(err)
			}
			out = append(out, p.GetData().GetData()...)
		}
		if string(out) != "HELLO" && len(out) != 0 { // the input's reader of output may have got it
			t.Errorf("output %q", out)
		}
		status, answer, _ := h.call(&agentv1.Call{Type: agentv1.Call_WAIT_CONTAINER.Enum(), WaitContainer: &agentv1.Call_WaitContainer{ContainerId: session}})
		if status != 200 || answer.GetWaitContainer().GetExitStatus() != 0 {
			t.Errorf("wait: %d %v", status, answer)
		}
		for name, body := range map[string]string{
			"garbage": "x\n", "no record": "", "not the id first": string(wire.AppendRecord(nil, []byte(`{"type":"ATTACH_CONTAINER_INPUT","attach_container_input":{"type":"PROCESS_IO"}}`))),
			"other call": string(wire.AppendRecord(nil, []byte(`{"type":"GET_HEALTH"}`))), "huge": "99999999\nx",
		} {
			if resp, _ := h.do(http.MethodPost, "/api/v1", map[string]string{"Content-Type": wire.MediaRecordIO, "Message-Content-Type": wire.MediaJSON}, strings.NewReader(body)); resp.StatusCode != 400 {
				t.Errorf("%s: %d", name, resp.StatusCode)
			}
		}
	})
}

func TestAuthentication(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		for name, text := range map[string]string{"credentials": "ops secret1\n", "key": "0123456789abcdef"} {
			if err := os.WriteFile(dir+"/"+name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		h := newHarness(t, func(c *Config, _ *Deps) {
			c.HTTPCredentials, c.JWTSecretKey = pathOf(dir+"/credentials"), pathOf(dir+"/key")
			c.AuthReadonly, c.AuthReadwrite, c.AuthExecutors = true, true, true
		})
		h.registered()
		box := h.run(customTask("t1", "e"))
		token := ""
		for _, kv := range box.Environment {
			if v, ok := strings.CutPrefix(kv, "MESOS_EXECUTOR_AUTHENTICATION_TOKEN="); ok {
				token = v
			}
		}
		const call = `{"type":"HEARTBEAT","framework_id":{"value":"m-0000"},"executor_id":{"value":"e"}}`
		for name, x := range map[string]struct {
			method, path, auth, body string
			status                   int
		}{
			"state":          {"GET", "/state", "", "", 401},
			"state as ops":   {"GET", "/state", "Basic b3BzOnNlY3JldDE=", "", 200},
			"wrong secret":   {"GET", "/state", "Basic b3BzOndyb25n", "", 401},
			"health":         {"GET", "/health", "", "", 200},
			"call":           {"POST", "/api/v1", "", `{"type":"GET_HEALTH"}`, 401},
			"no token":       {"POST", "/api/v1/executor", "", call, 401},
			"forged":         {"POST", "/api/v1/executor", "Bearer " + token[:len(token)-4] + "AAAA", call, 401},
			"other executor": {"POST", "/api/v1/executor", "Bearer " + token, strings.Replace(call, `"e"`, `"f"`, 1), 403},
			"token":          {"POST", "/api/v1/executor", "Bearer " + token, call, 403}, // known, not subscribed
		} {
			headers := map[string]string{"Content-Type": wire.MediaJSON}
			if x.auth != "" {
				headers["Authorization"] = x.auth
			}
			if resp, body := h.do(x.method, x.path, headers, strings.NewReader(x.body)); resp.StatusCode != x.status {
				t.Errorf("%s: %d %s, want %d", name, resp.StatusCode, body, x.status)
			}
		}
	})
}
