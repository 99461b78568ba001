package scopereaders

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"testing"

	"github.com/gorilla/mux"

	"github.com/weaveworks/scope/app"
)

var update = flag.Bool("update", false, "write what Scope answers to golden.json")

const golden = "../../internal/monitor/scope/read/testdata/golden.json"

// asked are the requests whose answers are compared.
func asked() []string {
	out := []string{"/api/topology", "/api/topology?system=all&stopped=both&pseudo=show&unconnected=show", "/api/topology?t=5s"}
	for _, t := range []string{
		"processes", "processes-by-name", "containers", "containers-by-hostname", "containers-by-image", "pods", "kube-controllers", "services", "hosts",
		"ecs-tasks", "ecs-services", "swarm-services", "weave",
	} {
		p := "/api/topology/" + t
		out = append(out, p, p+"?nonsense=1", p+"?system=all&stopped=both&pseudo=show&unconnected=show&snapshot=show&storage=show")
	}
	for _, q := range []string{"system=system", "stopped=stopped&system=all", "stopped=nonsense", "namespace=shop", "namespace=shop,other&pseudo=show", "namespace=other"} {
		out = append(out, "/api/topology/containers?"+q, "/api/topology/containers-by-image?"+q, "/api/topology/pods?"+q)
	}
	for t, ids := range map[string][]string{
		"hosts":                  {"vm1;<host>", "vm2.example.com;<host>", "in-theinternet"},
		"containers":             {web + ";<container>", db + ";<container>", old + ";<container>", evil + ";<container>", "in-theinternet", "out-theinternet", "pseudo:uncontained:vm1"},
		"containers-by-image":    {"nginx;<container_image>", "team/postgres;<container_image>"},
		"containers-by-hostname": {web[:12]},
		"processes":              {"vm1;10", "vm2.example.com;20", "vm1;30", "out-theinternet"},
		"processes-by-name":      {"nginx", "curl"},
		"pods":                   {"uid-1;<pod>"},
		"kube-controllers":       {"shop/web;<deployment>"},
		"services":               {"shop/web;<service>"},
	} {
		for _, id := range ids {
			out = append(out, "/api/topology/"+t+"/"+url.PathEscape(id), "/api/topology/"+t+"/"+url.PathEscape(id)+"?pseudo=show")
		}
	}
	return out
}

// TestGoldenIsWhatScopeSays has Scope's own app answer about the estate, and holds it against what is kept for the tests of
// internal/monitor/scope/read, which has to answer alike.
func TestGoldenIsWhatScopeSays(t *testing.T) {
	router := mux.NewRouter().SkipClean(true)
	app.RegisterTopologyRoutes(router, app.StaticCollector(estate()), map[string]bool{})
	server := httptest.NewServer(router)
	defer server.Close()
	answers := map[string]any{}
	for _, path := range asked() {
		answer, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if answer.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, answer.Status)
		}
		var body any
		if err := json.NewDecoder(answer.Body).Decode(&body); err != nil {
			t.Fatal(path, err)
		}
		answer.Body.Close()
		answers[path] = body
	}
	var got bytes.Buffer
	enc := json.NewEncoder(&got)
	enc.SetIndent("", " ")
	if err := enc.Encode(answers); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("golden.json is not what Scope says about the estate: run this test with -update, and look at what has changed")
	}
}
