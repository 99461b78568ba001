package scopereaders

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveworks/scope/report"
)

// sent is the report that the probe of one host sends of the estate, as Scope's probes write JSON. (Their own encoder is made by
// a generator whose output is not in the module.)
func sent(hostname string, now time.Time) ([]byte, error) {
	estate := estate()
	mine := report.MakeHostNodeID(hostname)
	keys := map[string]string{
		report.Endpoint: "Endpoint", report.Process: "Process", report.Container: "Container", report.ContainerImage: "ContainerImage", report.Host: "Host",
		report.Pod: "Pod", report.Service: "Service", report.Deployment: "Deployment", report.Namespace: "Namespace",
	}
	out := map[string]any{"ID": hostname, "TS": now, "Window": int64(15 * time.Second)}
	estate.WalkNamedTopologies(func(name string, t *report.Topology) {
		if keys[name] == "" {
			return
		}
		nodes := map[string]any{}
		for id, n := range t.Nodes {
			on, ok := n.Latest.Lookup(report.HostNodeID)
			// What is of no host is Kubernetes', which one probe watches.
			if ok && on == mine || !ok && name != report.Endpoint && hostname == "vm1" {
				nodes[id] = wire(n, now)
			}
		}
		if name == report.Endpoint {
			// The other end of each connection is there too, as it is seen from here: an address and no more.
			for id, n := range t.Nodes {
				from, _ := n.Latest.Lookup(report.HostNodeID)
				for _, other := range n.Adjacency {
					to, _ := t.Nodes[other].Latest.Lookup(report.HostNodeID)
					if from == mine && to != mine {
						nodes[other] = wire(report.MakeNode(other).WithTopology(name), now)
					}
					if from != mine && to == mine {
						nodes[id] = wire(report.MakeNode(id).WithTopology(name).WithAdjacent(other), now)
					}
				}
			}
		}
		out[keys[name]] = map[string]any{
			"shape": t.Shape, "label": t.Label, "nodes": nodes,
			"metadata_templates": t.MetadataTemplates, "metric_templates": t.MetricTemplates, "table_templates": t.TableTemplates,
		}
	})
	return json.Marshal(out)
}

// wire is a node as it is in a report.
func wire(n report.Node, now time.Time) map[string]any {
	latest, metrics := map[string]any{}, map[string]any{}
	n.Latest.ForEach(func(key string, _ time.Time, value string) {
		latest[key] = map[string]any{"timestamp": now, "value": value}
	})
	for key, m := range n.Metrics {
		samples := []any{}
		for _, s := range m.Samples {
			samples = append(samples, map[string]any{"date": now, "value": s.Value})
		}
		metrics[key] = map[string]any{"samples": samples, "min": m.Min, "max": m.Max}
	}
	lists := func(s report.Sets) map[string]any {
		out := map[string]any{}
		for _, key := range s.Keys() {
			out[key], _ = s.Lookup(key)
		}
		return out
	}
	return map[string]any{
		"id": n.ID, "topology": n.Topology, "latest": latest, "sets": lists(n.Sets), "parents": lists(n.Parents), "metrics": metrics, "adjacency": n.Adjacency,
	}
}

// outline is what of a topology does not move by itself: one line a node.
func outline(t *testing.T, topology any) string {
	t.Helper()
	nodes, ok := topology.(map[string]any)["nodes"].(map[string]any)
	if !ok {
		return "no nodes"
	}
	lines := []string{}
	for id, n := range nodes {
		n := n.(map[string]any)
		lines = append(lines, fmt.Sprintln(id, n["label"], n["labelMinor"], n["rank"], n["shape"], n["stack"], n["pseudo"], n["parents"], n["adjacency"]))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// TestWhatScopesProbesSendIsReadAlike: the estate's two probes send, and readers get what Scope's app would have told them.
func TestWhatScopesProbesSendIsReadAlike(t *testing.T) {
	address, err := heldAddress()
	if err != nil {
		t.Fatal(err)
	}
	m := &monitor{url: "http://" + address}
	run(t, binary(t), "monitor", "--listen", address, "--auth", "off", "--scope-api", "--scope-probes", "open")
	m.until(t, "the monitor answers", func() bool {
		answer, err := http.Get(m.url + "/healthz")
		if err == nil {
			answer.Body.Close()
		}
		return err == nil
	})
	data, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	var says map[string]any
	if err := json.Unmarshal(data, &says); err != nil {
		t.Fatal(err)
	}
	for _, hostname := range []string{"vm1", "vm2.example.com"} {
		body, err := sent(hostname, time.Now().UTC())
		if err != nil {
			t.Fatal(err)
		}
		request, _ := http.NewRequest(http.MethodPost, m.url+"/api/report", bytes.NewReader(body))
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("X-Scope-Probe-ID", hostname)
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %s", hostname, answer.Status, text)
		}
	}
	answer := func(path string) string {
		_, body := m.get(t, path)
		var got any
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(path, err)
		}
		return outline(t, got)
	}
	// A connection between the two hosts is there when both reports are.
	whole := "/api/topology/containers"
	m.until(t, "both reports are in the picture", func() bool { return answer(whole) == outline(t, says[whole]) })
	compared := 0
	for path, want := range says {
		if strings.Count(path, "/") != 3 {
			continue // the list, and details
		}
		if ours, theirs := answer(path), outline(t, want); ours != theirs {
			t.Errorf("%s: Scope says\n%sand ours\n%s", path, theirs, ours)
		}
		compared++
	}
	if compared < 50 {
		t.Errorf("only %d answers were compared", compared)
	}
}
