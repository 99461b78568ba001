package read

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// at is when the estate is looked at.
var at = time.UnixMilli(1795400000000).UTC()

func ago(d time.Duration) string { return strconv.FormatInt(at.Add(-d).UnixMilli(), 10) }

// known is the estate that test/scopereaders/fixture_test.go describes to Scope itself.
func known(tb testing.TB) *estate.Estate {
	tb.Helper()
	es := estate.New(nil)
	type host struct {
		name, addr string
		delta      *probev1.Delta
		metrics    *probev1.Metrics
		refs       map[string]uint32
	}
	hosts := map[string]*host{}
	put := func(on, id, label, state string, started time.Duration, parents []string, metrics map[string]float32, attrs ...string) *probev1.Entity {
		h := hosts[on]
		ref := uint32(len(h.refs) + 1)
		h.refs[id] = ref
		e := &probev1.Entity{Ref: ref, Id: id, Kind: topology.KindOf(id), Label: label, State: state, Parents: parents, StartedMs: at.Add(-started).UnixMilli()}
		for i := 0; i+1 < len(attrs); i += 2 {
			if attrs[i+1] != "" {
				e.Attrs = append(e.Attrs, &probev1.Attr{Key: attrs[i], Value: attrs[i+1]})
			}
		}
		h.delta.Entities = append(h.delta.Entities, e)
		for name, v := range metrics {
			i := slices.Index(h.metrics.Names, name)
			if i < 0 {
				i = len(h.metrics.Names)
				h.metrics.Names = append(h.metrics.Names, name)
			}
			h.metrics.Refs, h.metrics.NameIndex, h.metrics.Values = append(h.metrics.Refs, ref), append(h.metrics.NameIndex, uint32(i)), append(h.metrics.Values, v)
		}
		return e
	}
	for name, addr := range map[string]string{"vm1": "10.0.0.1", "vm2.example.com": "10.0.0.2"} {
		hosts[name] = &host{name, addr, &probev1.Delta{Seq: 1, Snapshot: true}, &probev1.Metrics{AtMs: at.UnixMilli()}, map[string]uint32{}}
		put(name, topology.HostID(name), name, "running", 24*time.Hour, nil, map[string]float32{"cpu": 12.345, "mem": 4e9, "load1": 0.5},
			"addrs", addr, "kernel", "6.1.0", "os", "linux", "memory", "16000000000")
	}
	container := func(on, id, name, image, state string, parents []string, attrs ...string) *probev1.Entity {
		parents = append([]string{topology.HostID(on), topology.ID(topology.KindImage, image)}, parents...)
		restarts := ""
		if state == "running" {
			restarts = "1"
		}
		return put(on, topology.ContainerID(on, strings.Repeat(id, 64)), name, state, 2*time.Hour, parents, map[string]float32{"cpu": 1.25, "mem": 64e6},
			append([]string{
				"container_id", strings.Repeat(id, 64), "name", name, "hostname", strings.Repeat(id, 12), "image", image, "command", "/bin/" + name,
				"created", ago(48 * time.Hour), "addrs", "172.17.0." + id, "restarts", restarts,
			}, attrs...)...)
	}
	container("vm1", "1", "web", "nginx:1.25", "running", []string{"pod;uid-1", "namespace;shop"}, "ports", "10.0.0.1:8080>80/tcp", "label.io.kubernetes.pod.namespace", "shop")
	container("vm2.example.com", "2", "db", "registry.local:5000/team/postgres:16", "running", nil, "label.tier", "back")
	container("vm1", "3", "old", "busybox:1.36", "exited", nil, "finished", ago(5*time.Minute)).ExitCode = 3
	container("vm2.example.com", "4", "weavescope", "weaveworks/scope:1.13.2", "running", nil)
	container("vm1", "5", `<img src=x onerror="alert('1')">`, "evil:latest", "running", nil, "label.note", "</script>\u2028 & ü")
	days := 72 * time.Hour
	put("vm1", "namespace;shop", "shop", "", days, nil, nil)
	put("vm1", "pod;uid-1", "web-1", "running", days, []string{"namespace;shop", "controller;shop;deployment;web", "service;shop;web", "host;vm1"}, nil,
		"namespace", "shop", "addrs", "10.244.0.7", "restarts", "1")
	put("vm1", "controller;shop;deployment;web", "web", "", days, []string{"namespace;shop"}, nil, "desired", "1")
	put("vm1", "service;shop;web", "web", "", days, []string{"namespace;shop"}, nil, "cluster_ip", "10.96.0.9", "service_type", "ClusterIP")
	process := func(on string, pid int, name, in string) string {
		parents := []string{topology.HostID(on)}
		if in != "" {
			parents = []string{topology.ContainerID(on, strings.Repeat(in, 64)), topology.HostID(on)}
		}
		id := topology.ProcessID(on, pid, 1)
		put(on, id, name, "", time.Hour, parents, map[string]float32{"cpu": 0.5, "mem": 5e6, "fds": 9, "threads": 4},
			"pid", strconv.Itoa(pid), "ppid", "1", "cmdline", name+" --serve")
		return id
	}
	nginx, nginx2 := process("vm1", 10, "nginx", "1"), process("vm1", 11, "nginx", "1")
	postgres := process("vm2.example.com", 20, "postgres", "2")
	curl := process("vm1", 30, "curl", "")
	sshd := process("vm2.example.com", 40, "sshd", "")
	process("vm2.example.com", 50, "idle", "")
	edge := func(on, client, server string, remote []byte, port, conns uint32) {
		h := hosts[on]
		e := &probev1.Edge{Ref: uint32(len(h.delta.Edges) + 1), Src: h.refs[client], Dst: h.refs[server], RemoteAddr: remote, Port: port, Conns: conns, Seen: 1}
		if client == "" {
			e.Seen = 2
		}
		h.delta.Edges = append(h.delta.Edges, e)
	}
	vm1, vm2 := []byte{10, 0, 0, 1}, []byte{10, 0, 0, 2}
	edge("vm1", nginx, "", vm2, 5432, 2)
	edge("vm1", curl, "", vm2, 5432, 1)
	edge("vm2.example.com", "", postgres, vm1, 5432, 3)
	edge("vm1", "", nginx2, []byte{198, 51, 100, 7}, 80, 1)
	edge("vm1", curl, "", []byte{203, 0, 113, 9}, 443, 1)
	edge("vm2.example.com", "", sshd, []byte{198, 51, 100, 8}, 22, 1)
	for name, h := range hosts {
		h.delta.Listeners = append(h.delta.Listeners, &probev1.Listener{Ref: 1, Entity: h.refs[map[string]string{"vm1": nginx2, "vm2.example.com": postgres}[name]], Port: map[string]uint32{"vm1": 80, "vm2.example.com": 5432}[name]})
		es.Hello(name, "i", name, 0, 0)
		if !es.Apply(name, h.delta, at.UnixMilli()) {
			tb.Fatal("refused")
		}
		es.Metrics(name, h.metrics, at.UnixMilli())
	}
	return es
}

// answer gives what the API says to a request of the golden file.
func answer(tb testing.TB, api *API, path string) any {
	tb.Helper()
	u, err := url.Parse(path)
	if err != nil {
		tb.Fatal(err)
	}
	parts := strings.Split(u.EscapedPath(), "/")[3:]
	var body []byte
	switch len(parts) {
	case 0:
		body, err = api.List(tb.Context(), u.Query(), 0)
	case 1:
		body, err = api.Topology(tb.Context(), parts[0], u.Query(), 0)
	default:
		id, _ := url.PathUnescape(parts[1])
		body, err = api.Node(tb.Context(), parts[0], id, u.Query(), 0)
	}
	if err != nil {
		tb.Fatalf("%s: %v", path, err)
	}
	var out any
	if err := json.Unmarshal(body, &out); err != nil {
		tb.Fatalf("%s: %v", path, err)
	}
	return out
}

// below takes out of the details of a node what its children have or lack in Scope's alone: an adjacency, and on hosts' pages
// the names of images, which its containers have everywhere else.
func below(x any) any {
	node, _ := x.(map[string]any)["node"].(map[string]any)
	groups, _ := node["children"].([]any)
	for _, g := range groups {
		for _, n := range g.(map[string]any)["nodes"].([]any) {
			n := n.(map[string]any)
			delete(n, "adjacency")
			if !strings.HasSuffix(node["id"].(string), ";<host>") {
				continue
			}
			delete(n, "rank")
			for _, key := range []string{"metadata", "tables"} {
				rows, _ := n[key].([]any)
				n[key] = slices.DeleteFunc(rows, func(r any) bool {
					id := r.(map[string]any)["id"].(string)
					return strings.HasPrefix(id, "docker_image_") || id == "image_table"
				})
			}
		}
	}
	return x
}

// alike takes out of an answer what is told to differ in docs/reference/monitor-api.md 9.
func alike(x any) any {
	switch x := x.(type) {
	case []any:
		list := make([]any, 0, len(x))
		for _, v := range x {
			if m, ok := v.(map[string]any); ok {
				if rows, isTable := m["rows"]; isTable && (rows == nil || len(rows.([]any)) == 0) {
					continue // tables without rows
				}
				if m["id"] == "host_scope_version" || m["id"] == "local_networks" {
					continue
				}
				if label, ok := m["entries"].(map[string]any); ok && (label["label"] == " ID" || label["label"] == "Size") {
					continue
				}
				if url, _ := m["url"].(string); slices.Contains([]string{"/api/topology/tasks"}, url) {
					continue // a topology that Scope has not
				}
				if id, _ := m["topologyId"].(string); slices.Contains([]string{"tasks", "apps"}, id) {
					continue
				}
				if m["priority"] == 100.0 {
					continue // a metric that Scope has not
				}
			}
			list = append(list, alike(v))
		}
		if len(list) == 0 {
			return nil
		}
		return list
	case map[string]any:
		out := map[string]any{}
		for k, v := range x {
			switch k {
			case "samples", "min", "controls":
				continue
			}
			if v = alike(v); v != nil {
				out[k] = v
			}
		}
		return out
	}
	return x
}

// TestAnswersAreScopes compares the answers about an estate with those of Scope's own app about the same, field by field.
func TestAnswersAreScopes(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden map[string]any
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden) < 80 {
		t.Fatalf("only %d answers: this test would prove nothing", len(golden))
	}
	api := New(newStill(known(t)), func() time.Time { return at })
	paths := make([]string, 0, len(golden))
	for path := range golden {
		paths = append(paths, path)
	}
	slices.SortFunc(paths, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	for _, path := range paths {
		t.Run(path, func(t *testing.T) {
			theirs, ours := golden[path], answer(t, api, path)
			if strings.Count(path, "/") == 4 {
				theirs, ours = below(theirs), below(ours)
			}
			differences(alike(theirs), alike(ours), "", func(at string, theirs, ours any) {
				t.Errorf("%s: Scope says %v, ours %v", at, theirs, ours)
			})
		})
	}
}

// differences tells where two answers differ.
func differences(a, b any, at string, tell func(at string, a, b any)) {
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			for k := range x {
				differences(x[k], y[k], at+"/"+k, tell)
			}
			for k := range y {
				if _, ok := x[k]; !ok {
					tell(at+"/"+k, nil, y[k])
				}
			}
			return
		}
	case []any:
		if y, ok := b.([]any); ok && len(x) == len(y) {
			for i := range x {
				differences(x[i], y[i], at+"/"+strconv.Itoa(i), tell)
			}
			return
		}
	}
	if !reflect.DeepEqual(a, b) {
		tell(at, a, b)
	}
}

func TestWhatIsNotThere(t *testing.T) {
	t.Parallel()
	api := New(newStill(known(t)), func() time.Time { return at })
	for _, topo := range []string{"", "nonsense", "../hosts", "Hosts", "container", "hosts/x"} {
		if _, err := api.Topology(t.Context(), topo, nil, 0); !errors.Is(err, ErrNotFound) {
			t.Errorf("topology %q: %v", topo, err)
		}
		if _, err := api.Follow(topo, nil); !errors.Is(err, ErrNotFound) {
			t.Errorf("follow %q: %v", topo, err)
		}
	}
	for _, id := range []string{"", "vm1", "host;vm1", "vm1;<container>", "../../etc/passwd", "..", "%2e%2e", "vm1;<host>/..", "\x00", strings.Repeat("x", 1<<16)} {
		for _, topo := range []string{"hosts", "containers", "processes", "weave"} {
			if _, err := api.Node(t.Context(), topo, id, nil, 0); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s %q: %v", topo, id, err)
			}
		}
	}
}
