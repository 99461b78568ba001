package clients

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// target is what Prometheus says of one that it scrapes.
type target struct {
	Labels, DiscoveredLabels map[string]string
	ScrapeURL, Health        string
	LastError                string
}

// startPrometheus runs Debian's Prometheus with a configuration until the test ends.
func startPrometheus(t *testing.T, config string) (address string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("promtool", "check", "config", file).CombinedOutput(); err != nil {
		t.Fatalf("%v (test/deps.sh installs prometheus)\n%s", err, out)
	}
	address, err := heldAddress()
	if err != nil {
		t.Fatal(err)
	}
	p, err := house.spawn("prometheus", exec.Command("prometheus", "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.end()
		if b, _ := os.ReadFile(p.log); t.Failed() {
			t.Logf("prometheus said:\n%s", tail(b))
		}
	})
	if err := p.until("prometheus is ready", func() bool {
		resp, err := client.Get("http://" + address + "/-/ready")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	}); err != nil {
		t.Fatal(err)
	}
	return address
}

// targets are those of a job.
func targets(prometheus, job string) (out []target) {
	var r struct {
		Data struct{ ActiveTargets []target }
	}
	_ = fetch("http://"+prometheus+"/api/v1/targets?state=active", &r)
	for _, x := range r.Data.ActiveTargets {
		if x.Labels["job"] == job {
			out = append(out, x)
		}
	}
	return out
}

// TestPrometheusFindsServices: marathon_sd_configs finds the instances of an app by a label, and what they serve is scraped; so are
// the metrics of every component of ours.
func TestPrometheusFindsServices(t *testing.T) {
	runApp(t, "/shop/metrics", `{"id": "/shop/metrics", "cpus": 0.1, "mem": 32, "instances": 2, "labels": {"scrape": "yes", "team": "shop"},
		"cmd": "echo 'answer_to_everything 42' > metrics; exec python3 -m http.server --bind `+agentIP+` $PORT0",
		"portDefinitions": [{"port": 0, "name": "web", "labels": {"kind": "metrics"}}]}`)
	runApp(t, "/shop/silent", `{"id": "/shop/silent", "cpus": 0.1, "mem": 32, "cmd": "sleep 1000"}`)
	own := func(p *process) string { return strings.TrimPrefix(p.url, "http://") }
	prometheus := startPrometheus(t, fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: services
  marathon_sd_configs: [{servers: ["%s"], refresh_interval: 1s}]
  relabel_configs:
  - {source_labels: [__meta_marathon_app_label_scrape], regex: "yes", action: keep}
  - {source_labels: [__meta_marathon_app], target_label: app}
  - {source_labels: [__meta_marathon_task], target_label: task}
  - {source_labels: [__meta_marathon_app_label_team], target_label: team}
  - {source_labels: [__meta_marathon_port_definition_label_kind], target_label: kind}
- job_name: own
  static_configs: [{targets: ["%s", "%s", "%s"]}]
- job_name: own-services
  metrics_path: /metrics/prometheus
  static_configs: [{targets: ["%s"]}]
`, house.marathon.url, own(house.masters[0]), own(house.masters[1]), own(house.agent), own(house.marathon)))

	var r struct {
		Tasks []struct {
			ID, Host string
			Ports    []int
		}
	}
	if err := fetch(house.marathon.url+"/v2/apps//shop/metrics/tasks", &r); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, x := range r.Tasks {
		want = append(want, fmt.Sprintf("%s:%d %s /shop/metrics shop metrics up", x.Host, x.Ports[0], x.ID))
	}
	slices.Sort(want)
	var got []string
	if err := until("targets", func() bool {
		got = nil
		for _, x := range targets(prometheus, "services") {
			got = append(got, strings.Join([]string{x.Labels["instance"], x.Labels["task"], x.Labels["app"], x.Labels["team"], x.Labels["kind"], x.Health}, " "))
		}
		slices.Sort(got)
		return len(want) == 2 && slices.Equal(got, want)
	}); err != nil {
		t.Errorf("Prometheus has the targets %v, not %v", got, want)
	}
	value := func(query string) string {
		var r struct {
			Data struct{ Result []struct{ Value [2]any } }
		}
		_ = fetch("http://"+prometheus+"/api/v1/query?query="+url.QueryEscape(query), &r)
		if len(r.Data.Result) != 1 {
			return ""
		}
		return fmt.Sprint(r.Data.Result[0].Value[1])
	}
	await(t, "what the instances serve is known", func() bool { return value(`sum(answer_to_everything{app="/shop/metrics"})`) == "84" })
	await(t, "the components are scraped", func() bool { return value(`sum(up{job=~"own.*"})`) == "4" })

	// A scaling is followed.
	req, _ := http.NewRequest(http.MethodPut, house.marathon.url+"/v2/apps//shop/metrics", strings.NewReader(`{"instances": 1}`))
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	await(t, "one target is left", func() bool { return len(targets(prometheus, "services")) == 1 })
}

// TestMetricsPassPromtool: Prometheus' own parser and linter accept what every component serves.
func TestMetricsPassPromtool(t *testing.T) {
	monitor, err := house.launch(os.Getenv("ORCHESTRATOR_BIN"), "monitor", "monitor", "--listen", "127.0.0.1:0", "--auth", "off", "--data-dir", t.TempDir(), "--master", house.leader().url)
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.end()
	pages := map[string]string{"master": house.leader().url + "/metrics", "agent": house.agent.url + "/metrics", "marathon": house.marathon.url + "/metrics/prometheus", "monitor": monitor.url + "/metrics"}
	for name, page := range pages {
		t.Run(name, func(t *testing.T) {
			resp, err := client.Get(page)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK || len(b) == 0 {
				t.Fatalf("%s: %s, %d bytes, %v", page, resp.Status, len(b), err)
			}
			cmd := exec.Command("promtool", "check", "metrics")
			cmd.Stdin = bytes.NewReader(b)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, tail(out))
			}
		})
	}
}
