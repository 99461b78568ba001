package scopereaders

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/ugorji/go/codec"

	"github.com/weaveworks/scope/app"
	"github.com/weaveworks/scope/common/xfer"
	"github.com/weaveworks/scope/render/detailed"
)

// monitor is a monitor that runs, with a real probe of this machine and three hosts that are played.
type monitor struct {
	url, admin, viewer string
}

// binary is the program under test.
func binary(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("ORCHESTRATOR_BIN")
	if bin == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("ORCHESTRATOR_BIN is not set")
		}
		t.Skip("ORCHESTRATOR_BIN names no binary to test: run make test-clients")
	}
	return bin
}

// run starts the program; it ends with the test.
func run(t *testing.T, bin string, args ...string) io.Reader {
	t.Helper()
	cmd := exec.Command(bin, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("%v said: %s", args, text)
		}
		log.Close()
	})
	return out
}

func start(t *testing.T) *monitor {
	t.Helper()
	bin := binary(t)
	out := run(t, bin, "monitor", "--listen", "127.0.0.1:0", "--scope-api", "--probe-token", "secret of the test")
	line, err := bufio.NewReader(out).ReadString('\n')
	link := regexp.MustCompile(`(http://[^/]+)/#token=(\S+)`).FindStringSubmatch(line)
	if err != nil || link == nil {
		t.Fatalf("the monitor printed %q, %v", line, err)
	}
	m := &monitor{url: link[1], admin: link[2]}
	request, _ := http.NewRequest(http.MethodPost, m.url+"/api/v1/tokens", strings.NewReader(`{"name":"reader","role":"viewer","kind":"user"}`))
	request.Header.Set("Authorization", "Bearer "+link[2])
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var made struct{ Secret string }
	if err := json.NewDecoder(answer.Body).Decode(&made); err != nil || made.Secret == "" {
		t.Fatal("no token for a viewer", answer.Status, err)
	}
	m.viewer = made.Secret
	off := filepath.Join(t.TempDir(), "off")
	run(t, bin, "probe", "--monitors", m.url, "--token", "secret of the test", "--hostname", "real.example.com", "--probe-id", "real", "--plugins-dir", off)
	run(t, bin, "probe", "--monitors", m.url, "--token", "secret of the test", "--simulate", "3", "--simulate-containers", "4")
	m.until(t, "all probes have come", func() bool {
		var hosts app.APITopology
		m.decode(t, "/api/topology/hosts", &hosts)
		var processes app.APITopology
		m.decode(t, "/api/topology/processes?unconnected=show", &processes)
		return len(real(hosts.Nodes)) == 4 && len(processes.Nodes) > 3
	})
	return m
}

// real leaves the nodes that stand for nothing outside.
func real(nodes detailed.NodeSummaries) detailed.NodeSummaries {
	out := detailed.NodeSummaries{}
	for id, n := range nodes {
		if !n.Pseudo {
			out[id] = n
		}
	}
	return out
}

// until asks again and again, for three minutes at most: only a broken build needs as long.
func (m *monitor) until(t *testing.T, what string, ask func() bool) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	late := time.After(3 * time.Minute)
	for !ask() {
		select {
		case <-late:
			t.Fatal("never: " + what)
		case <-tick.C:
		}
	}
}

func (m *monitor) get(t *testing.T, path string) (int, []byte) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, m.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+m.viewer)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, body
}

// decode reads an answer into Scope's own type, as Scope's own code does, strictly: a field that the type has not is an
// error, and so is one that the type writes and the answer had not.
func (m *monitor) decode(t *testing.T, path string, into any) {
	t.Helper()
	status, body := m.get(t, path)
	if status != http.StatusOK {
		t.Fatalf("%s: %d %s", path, status, body)
	}
	strictly(t, path, body, into)
}

func strictly(t *testing.T, what string, body []byte, into any) {
	t.Helper()
	handle := &codec.JsonHandle{}
	handle.ErrorIfNoField = true
	if err := codec.NewDecoderBytes(body, handle).Decode(into); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	var again bytes.Buffer
	if err := codec.NewEncoder(&again, &codec.JsonHandle{}).Encode(into); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	var was, is any
	if err := json.Unmarshal(body, &was); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if err := json.Unmarshal(again.Bytes(), &is); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if was, is := full(was), full(is); !reflect.DeepEqual(was, is) {
		t.Fatalf("%s: through Scope's types it becomes another:\n%v\n%v", what, was, is)
	}
}

// full makes empty lists and maps absent, which Scope's encoder writes as null or leaves out, as it happens.
func full(x any) any {
	switch x := x.(type) {
	case []any:
		if len(x) == 0 {
			return nil
		}
		out := make([]any, len(x))
		for i := range x {
			out[i] = full(x[i])
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for k, v := range x {
			if v = full(v); v != nil {
				out[k] = v
			}
		}
		return out
	}
	return x
}

// TestScopesTypesReadTheMonitor reads every topology and details of every kind with Scope's own types.
func TestScopesTypesReadTheMonitor(t *testing.T) {
	m := start(t)
	var list []app.APITopologyDesc
	m.decode(t, "/api/topology", &list)
	m.decode(t, "/api/topology?system=all&stopped=both", &list)
	if len(list) < 7 {
		t.Fatalf("%d topologies", len(list))
	}
	seen := 0
	for _, top := range list {
		for _, x := range append([]app.APITopologyDesc{top}, top.SubTopologies...) {
			for _, q := range []string{"", "?t=5s", "?system=all&stopped=both&pseudo=show&unconnected=show"} {
				var nodes app.APITopology
				m.decode(t, x.URL+q, &nodes)
				if q != "" {
					continue
				}
				n := 0
				for id, node := range nodes.Nodes {
					if node.ID != id {
						t.Errorf("%s: %q is called %q", x.URL, node.ID, id)
					}
					if n++; n > 20 {
						break
					}
					var details app.APINode
					path := x.URL + "/" + url.PathEscape(id)
					if status, body := m.get(t, path); status == http.StatusNotFound && strings.HasPrefix(id, "real.example.com;") {
						continue // a process that has ended meanwhile
					} else if status != http.StatusOK {
						t.Fatalf("%s: %d", path, status)
					} else {
						strictly(t, path, body, &details)
					}
					if details.Node.ID != id || details.Node.Label != node.Label || len(details.Node.Connections) != 2 {
						t.Errorf("%s: %+v", path, details.Node.BasicNodeSummary)
					}
					seen++
				}
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d nodes were looked at", seen)
	}
	for path, want := range map[string]int{
		"/api/topology/nonsense": 404, "/api/topology/nonsense/ws": 404, "/api/topology/hosts/nonsense": 404, "/api/topology/hosts/%2e%2e%2f%2e%2e%2fetc%2fpasswd": 404,
		"/api/topology/hosts/..%2f": 404, "/api/topology/hosts/ws": 400, "/api/topology/hosts/ws?t=soon": 400,
		"/api/topology/hosts?timestamp=yesterday": 400, "/api/topology/hosts?timestamp=2001-01-01T00:00:00Z": 404, "/api/topology/hosts?timestamp=2999-01-01T00:00:00Z": 200,
	} {
		if status, body := m.get(t, path); status != want {
			t.Errorf("%s: %d, want %d: %.200s", path, status, want, body)
		}
	}
}

// TestScopesWebsocketFollowsTheMonitor follows the containers with Scope's own WebSocket and type of differences: what they add
// up to is what is there, also when a container stops and starts. Then it does so again in the past.
func TestScopesWebsocketFollowsTheMonitor(t *testing.T) {
	m := start(t)
	dial := func(path string, header http.Header) (xfer.Websocket, *http.Response, error) {
		return xfer.DialWS(&websocket.Dialer{}, "ws"+strings.TrimPrefix(m.url, "http")+path, header)
	}
	if _, answer, err := dial("/api/topology/containers/ws", http.Header{}); err == nil || answer.StatusCode != http.StatusUnauthorized {
		t.Error("a socket for nobody:", err)
	}
	if _, answer, err := dial("/api/topology/containers/ws", http.Header{"Authorization": {"Bearer " + m.viewer}, "Origin": {"https://evil.example"}}); err == nil || answer.StatusCode != http.StatusForbidden {
		t.Error("a socket for another site:", err)
	}
	conn, _, err := dial("/api/topology/containers/ws?t=1s&system=all", http.Header{"Authorization": {"Bearer " + m.viewer}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	nodes := detailed.NodeSummaries{}
	first := true
	next := func() detailed.Diff {
		_, message, err := conn.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		var d detailed.Diff
		strictly(t, "a difference", message, &d)
		if d.Reset != first {
			t.Fatalf("reset is %v in message %d", d.Reset, len(nodes))
		}
		first = false
		for _, n := range d.Add {
			if _, ok := nodes[n.ID]; ok {
				t.Fatalf("%s was added twice", n.ID)
			}
			nodes[n.ID] = n
		}
		for _, n := range d.Update {
			if _, ok := nodes[n.ID]; !ok {
				t.Fatalf("%s is updated, and was never added", n.ID)
			}
			nodes[n.ID] = n
		}
		for _, id := range d.Remove {
			if _, ok := nodes[id]; !ok {
				t.Fatalf("%s is removed, and was never added", id)
			}
			delete(nodes, id)
		}
		return d
	}
	same := func() bool {
		next()
		var whole app.APITopology
		m.decode(t, "/api/topology/containers?system=all", &whole)
		return shapes(whole.Nodes) == shapes(nodes)
	}
	m.until(t, "the differences add up to what is there", same)
	if n := len(real(nodes)); n < 12 {
		t.Fatalf("%d containers", n)
	}
	// A container is stopped, by our own API, and started again.
	var stopped string
	for id, n := range nodes {
		if strings.HasPrefix(n.LabelMinor, "sim-") && id > stopped {
			stopped = id
		}
	}
	then := time.Now().UTC()
	ours := "container;" + nodes[stopped].LabelMinor + ";" + strings.TrimSuffix(stopped, ";<container>")
	m.act(t, ours, "stop")
	for there := true; there; _, there = nodes[stopped] {
		next()
	}
	m.until(t, "the differences add up to what is left", same)
	m.act(t, ours, "start")
	for there := false; !there; _, there = nodes[stopped] {
		next()
	}
	m.act(t, ours, "stop")
	for there := true; there; _, there = nodes[stopped] {
		next()
	}
	// And the past is there to be asked for, and to be followed.
	stamp := "timestamp=" + url.QueryEscape(then.Format(time.RFC3339Nano))
	var past app.APITopology
	m.decode(t, "/api/topology/containers?system=all&"+stamp, &past)
	if _, ok := past.Nodes[stopped]; !ok {
		t.Errorf("%s did not run at %v", stopped, then)
	}
	var details app.APINode
	m.decode(t, "/api/topology/containers/"+url.PathEscape(stopped)+"?"+stamp, &details)
	var list []app.APITopologyDesc
	m.decode(t, "/api/topology?"+stamp, &list)
	conn, _, err = dial("/api/topology/containers/ws?t=1s&system=all&"+stamp, http.Header{"Authorization": {"Bearer " + m.viewer}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	nodes, first = detailed.NodeSummaries{}, true
	next()
	if _, ok := nodes[stopped]; !ok {
		t.Errorf("%s did not run at %v", stopped, then)
	}
	for there := true; there; _, there = nodes[stopped] {
		next()
	}
}

// act has the monitor do something to a node, by its own API.
func (m *monitor) act(t *testing.T, node, control string) {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, m.url+"/api/v1/nodes/"+url.PathEscape(node)+"/controls/"+control, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+m.admin)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(answer.Body)
		t.Fatalf("%s %s: %s", control, node, body)
	}
}

// shapes writes what of nodes does not move by itself.
func shapes(nodes detailed.NodeSummaries) string {
	lines := []string{}
	for id, n := range nodes {
		lines = append(lines, fmt.Sprint(id, n.BasicNodeSummary, n.Adjacency, n.Parents))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestScriptsWalkTheMonitor runs a script as people have written for Scope: Python with requests.
func TestScriptsWalkTheMonitor(t *testing.T) {
	if err := exec.Command("python3", "-c", "import requests").Run(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("python3 has no requests: test/deps.sh installs it")
		}
		t.Skip("python3 has no requests: run make deps")
	}
	m := start(t)
	out, err := exec.Command("python3", "testdata/walk.py", m.url, m.viewer).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var found struct {
		Topologies map[string]int
		Hosts      map[string]map[string]int
		Parents    int
		Edges      int
	}
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(found.Hosts) != 4 || found.Hosts["sim-0001"]["containers"] != 4 || found.Hosts["real.example.com"]["processes"] == 0 || found.Edges < 12 || found.Parents < 24 {
		t.Errorf("it has found %s", out)
	}
	if found.Topologies["/api/topology/apps"] == 0 || found.Topologies["/api/topology/weave"] != 0 {
		t.Errorf("it has found %s", out)
	}
}
