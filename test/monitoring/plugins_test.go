package monitoring

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/probe"
)

const pluginHost = "plugin-host"

// pluginProbe runs a probe that looks for plugins in a directory.
func (r *rig) pluginProbe(dir string, change func(*probe.Config)) {
	cfg := probe.Config{Hostname: pluginHost, PluginsDir: dir, DockerSocket: "off", NetSource: "none", Conntrack: "off", CPULimit: 400, MaxProcesses: 10_000, PluginsTimeout: 10 * time.Second}
	if change != nil {
		change(&cfg)
	}
	r.probe(cfg)
}

// shortDir is a directory with a path that fits into a unix address.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "plugins")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// example builds and runs one of the examples as a process of its own.
func example(t *testing.T, name, dir string) {
	t.Helper()
	bin := filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("go", "build", "-o", bin, "../../examples/plugins/"+name).CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	cmd := exec.Command(bin, "-dir", dir, "-host", pluginHost)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(dir); slices.ContainsFunc(left, func(e os.DirEntry) bool { return e.Name() == name }) {
			t.Errorf("%s left its socket behind", name)
		}
	})
}

type pluginRow struct {
	ID, Label, Description, State, Message, Probe, Host string
	Interfaces                                          []string
}

func (r *rig) plugins() []pluginRow {
	var out struct{ Plugins []pluginRow }
	r.get("/api/v1/plugins", &out)
	return out.Plugins
}

func (r *rig) plugin(id string) pluginRow {
	for _, p := range r.plugins() {
		if p.ID == id {
			return p
		}
	}
	return pluginRow{}
}

type nodeDoc struct {
	ID, Label string
	Metadata  []struct{ ID, Label, Value, Format string }
	Metrics   []struct {
		ID, Label, Format string
		Value, Max        float64
	}
	Tables []struct {
		ID, Label string
		Columns   []string
		Rows      [][]string
	}
	Controls []struct {
		ID, Label, Group, Role string
		Allowed                bool
	}
}

func (r *rig) nodeDoc(id string) (n nodeDoc, ok bool) {
	a := r.call("GET", "/api/v1/nodes/"+url.PathEscape(id), adminToken, "")
	return n, a.status == 200 && json.Unmarshal(a.body, &n) == nil
}

func (n *nodeDoc) value(id string) string {
	for _, m := range n.Metadata {
		if m.ID == id {
			return m.Label + "=" + m.Value + " " + m.Format
		}
	}
	return ""
}

func (n *nodeDoc) offers(id string) bool {
	for _, c := range n.Controls {
		if c.ID == id {
			return true
		}
	}
	return false
}

func TestAPluginOfTheKitReports(t *testing.T) {
	t.Parallel()
	r, dir := newRig(t, nil), shortDir(t)
	r.pluginProbe(dir, nil)
	example(t, "tcpstats", dir)
	var n nodeDoc
	r.eventually("the plugin's figures on the host", func() bool {
		n, _ = r.nodeDoc("host;" + pluginHost)
		return slices.ContainsFunc(n.Metrics, func(m struct {
			ID, Label, Format string
			Value, Max        float64
		},
		) bool {
			return m.ID == "tcpstats.open" && m.Label == "Open TCP connections" && m.Value > 0
		}) && len(n.Tables) > 0
	})
	if v := n.value("tcpstats.resets"); !strings.HasPrefix(v, "TCP resets since boot=") || !strings.HasSuffix(v, " number") {
		t.Errorf("%q in %+v", v, n.Metadata)
	}
	tab := n.Tables[0]
	if tab.Label != "TCP counters" || !slices.Equal(tab.Columns, []string{"Counter", "Value"}) || !slices.ContainsFunc(tab.Rows, func(row []string) bool { return row[0] == "RetransSegs" && row[1] != "" }) {
		t.Errorf("%+v", tab)
	}
	r.eventually("its status", func() bool { return r.plugin("tcpstats").State == "ok" })
	if p := r.plugin("tcpstats"); p.State != "ok" || p.Label != "TCP counters" || p.Host != "host;"+pluginHost || !slices.Equal(p.Interfaces, []string{"reporter"}) {
		t.Errorf("%+v", p)
	}
	var found struct{ Total int }
	r.get("/api/v1/search?q="+url.QueryEscape("kind:host tcpstats.open>0"), &found)
	if found.Total != 1 {
		t.Errorf("a search by the plugin's metric finds %d hosts", found.Total)
	}
}

func TestAPluginOfTheKitActs(t *testing.T) {
	t.Parallel()
	r, dir := newRig(t, nil), shortDir(t)
	r.pluginProbe(dir, nil)
	example(t, "priority", dir)
	sleeper := exec.Command("sleep", "600")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() })
	var id string
	r.eventually("the process with the plugin's control", func() bool {
		var found struct{ Results []struct{ ID string } }
		r.get(fmt.Sprintf("/api/v1/search?q=kind:process+pid=%d", sleeper.Process.Pid), &found)
		if len(found.Results) != 1 {
			return false
		}
		id = found.Results[0].ID
		n, _ := r.nodeDoc(id)
		return n.offers("priority~lower") && !n.offers("priority~restore")
	})
	n, _ := r.nodeDoc(id)
	c := n.Controls[slices.IndexFunc(n.Controls, func(c struct {
		ID, Label, Group, Role string
		Allowed                bool
	},
	) bool {
		return c.ID == "priority~lower"
	})]
	if c.Label != "Lower priority" || c.Group != "plugin" || c.Role != "operator" || !c.Allowed {
		t.Errorf("%+v", c)
	}
	nice := func() int {
		v, err := syscall.Getpriority(syscall.PRIO_PROCESS, sleeper.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		return 20 - v
	}
	was := nice()
	do := func(control, token string) answer {
		return r.call("POST", "/api/v1/nodes/"+url.PathEscape(id)+"/controls/"+url.PathEscape(control), token, "")
	}
	if a := do("priority~lower", r.token("viewer")); a.status != 403 || nice() != was {
		t.Errorf("a viewer: %d %s, niceness %d", a.status, a.body, nice())
	}
	if a := do("priority~lower", r.token("operator")); a.status != 200 || nice() != 19 {
		t.Fatalf("an operator: %d %s, niceness %d", a.status, a.body, nice())
	}
	// The shortcut report is on the map without waiting for the next one.
	r.eventually("the other control", func() bool {
		n, _ := r.nodeDoc(id)
		return n.offers("priority~restore") && !n.offers("priority~lower") && strings.HasPrefix(n.value("priority.nice"), "Niceness=19")
	})
	if a := do("priority~lower", adminToken); a.status != 409 {
		t.Errorf("a control that is dead now: %d %s", a.status, a.body)
	}
	if a := do("priority~nothing", adminToken); a.status != 409 {
		t.Errorf("a control that is none: %d %s", a.status, a.body)
	}
	if a := do("priority~restore", adminToken); a.status != 200 || nice() != was {
		t.Errorf("%d %s, niceness %d instead of %d", a.status, a.body, nice(), was)
	}
	var audit struct {
		Entries []struct{ User, Action, Object, Outcome string }
	}
	r.get("/api/v1/audit", &audit)
	var got []string
	for _, e := range audit.Entries {
		if e.Object == id {
			got = append(got, e.Action+" "+e.Outcome)
		}
	}
	want := []string{"control.priority~restore ok", "control.priority~nothing failed", "control.priority~lower failed", "control.priority~lower ok"}
	if len(got) != 5 || !slices.Equal(got[:4], want) || !strings.HasSuffix(got[4], " denied") {
		t.Errorf("audit: %q", got)
	}
}

func TestAProbeWithoutThePolicyOffersNoPluginsControls(t *testing.T) {
	t.Parallel()
	r, dir := newRig(t, nil), shortDir(t)
	s := strange(t, dir, "calm", nil)
	r.pluginProbe(dir, func(c *probe.Config) { c.Policy = []string{probe.PolicyLogs} })
	id := "host;" + pluginHost
	r.eventually("the plugin's attribute", func() bool {
		n, _ := r.nodeDoc(id)
		return n.value("calm.mood") != ""
	})
	if n, _ := r.nodeDoc(id); n.offers("calm~cheer") {
		t.Errorf("%+v", n.Controls)
	}
	if a := r.call("POST", "/api/v1/nodes/"+url.PathEscape(id)+"/controls/calm~cheer", adminToken, ""); a.status != 409 && a.status != 403 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if s.controls() != "" {
		t.Errorf("the plugin was asked for %s", s.controls())
	}
}

// stranger is a plugin as somebody writes it who has only read Weave Scope's page about plugins: net/http, JSON by hand, the old
// and the new way to offer controls, an id that changes nothing.
type stranger struct {
	mu    sync.Mutex
	mood  string
	asked []string
	query url.Values
}

func (s *stranger) controls() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.asked, " ")
}

// report is spelled as in the page: "Plugins" at the end, times with and without fractions, fields that nobody here knows.
func (s *stranger) report(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	dead := "false"
	if s.mood == "glad" {
		dead = "true"
	}
	return `{
 "ID": "a-report", "Window": 15000000000, "Endpoint": {"nodes": {"pc-4026531969;127.0.0.1;36238": {"adjacency": ["x"]}}},
 "Host": {
  "shape": "circle", "label": "host", "label_plural": "hosts",
  "nodes": {"` + pluginHost + `;<host>": {
    "topology": "host",
    "latest": {
      "mood": {"timestamp": "2016-11-17T08:53:02.189193735Z", "value": "` + s.mood + `"},
      "since": {"timestamp": "2016-11-17T08:53:02Z", "value": "2016-11-17T08:53:02Z"},
      "age": {"timestamp": "2016-11-17T08:53:02Z", "value": 90},
      "hidden": {"timestamp": "2016-11-17T08:53:02Z", "value": "no template shows it"},
      "words-hello": {"timestamp": "2016-11-17T08:53:02Z", "value": "<b>world</b>"},
      "active_controls": {"timestamp": "2016-11-17T08:53:02Z", "value": "sing;unheard-of"}
    },
    "sets": {"friends": ["zoe", "ann"]}, "counters": {"laughs": 3},
    "controls": {"timestamp": "2016-11-17T08:53:04.567890059Z", "controls": ["frown"]},
    "latestControls": {"cheer": {"timestamp": "2016-07-20T15:51:05Z01:00", "value": {"dead": ` + dead + `}}},
    "metrics": {"joy": {"samples": [
       {"date": "2016-11-17T08:53:04.171789887Z", "value": 80.11}, {"date": "2016-11-17T08:53:03.171424664Z", "value": 98.24}], "min": 0, "max": 120}}
  }, "some-other-host;<host>": {"latest": {"mood": {"timestamp": "", "value": "elsewhere"}}}},
  "controls": {
    "cheer": {"id": "cheer", "human": "Cheer up", "icon": "fa-futbol-o", "rank": 1}, "frown": {"id": "frown", "human": "Frown", "icon": "", "rank": 2},
    "sing": {"id": "sing", "human": "Sing", "icon": "fa-beer", "rank": 3}},
  "metadata_templates": {
    "mood": {"id": "mood", "label": "Mood", "priority": 2, "from": "latest"}, "since": {"id": "since", "label": "Since", "dataType": "datetime", "from": "latest", "priority": 1},
    "age": {"id": "age", "label": "Age", "dataType": "duration", "from": "latest"}, "friends": {"id": "friends", "label": "Friends", "from": "sets"},
    "laughs": {"id": "laughs", "label": "Laughs", "dataType": "number", "from": "counters"}},
  "metric_templates": {"joy": {"id": "joy", "label": "Joy", "format": "percent", "priority": 1.6}},
  "table_templates": {"words": {"id": "words", "label": "Words", "prefix": "words-"}}
 },
 "Plugins": [{"id": "` + name + `", "label": "A stranger", "description": "says \u001b[31mred\u001b[0m", "interfaces": ["reporter", "controller"], "api_version": "1"}]
}`
}

func strange(t *testing.T, dir, name string, handler http.HandlerFunc) *stranger {
	t.Helper()
	s := &stranger{mood: "calm"}
	l, err := net.Listen("unix", filepath.Join(dir, name+".sock"))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/report", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.query = r.URL.Query()
		s.mu.Unlock()
		if handler != nil {
			handler(w, r)
			return
		}
		fmt.Fprint(w, s.report(name))
	})
	mux.HandleFunc("/control", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var in struct{ AppID, NodeID, Control string }
		if r.Method != http.MethodPost || json.Unmarshal(body, &in) != nil || in.AppID == "" || !bytes.Contains(body, []byte(pluginHost+";<host>")) {
			http.Error(w, "bad request "+string(body), http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		s.asked = append(s.asked, in.Control)
		if in.Control == "cheer" {
			s.mood = "glad"
		}
		s.mu.Unlock()
		switch in.Control {
		case "sing":
			fmt.Fprint(w, `{"error": "no voice today"}`)
		case "cheer":
			fmt.Fprintf(w, `{"ShortcutReport": %s}`, s.report(name))
		default:
			fmt.Fprint(w, `{}`)
		}
	})
	srv := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return s
}

func TestAStrangersPluginIsUnderstood(t *testing.T) {
	t.Parallel()
	r, dir := newRig(t, nil), shortDir(t)
	own := filepath.Join(dir, "strange-1")
	if err := os.Mkdir(own, 0o700); err != nil {
		t.Fatal(err)
	}
	r.pluginProbe(dir, nil)
	s := strange(t, own, "strange-1", nil)
	id := "host;" + pluginHost
	var n nodeDoc
	r.eventually("what the plugin brings", func() bool {
		n, _ = r.nodeDoc(id)
		return n.value("strange-1.mood") != "" && len(n.Metrics) > 0 && slices.ContainsFunc(n.Metrics, func(m struct {
			ID, Label, Format string
			Value, Max        float64
		},
		) bool {
			return m.ID == "strange-1.joy"
		})
	})
	for key, want := range map[string]string{
		"strange-1.mood": "Mood=calm text", "strange-1.since": "Since=1479372782000 time", "strange-1.age": "Age=90000 duration",
		"strange-1.friends": "Friends=ann, zoe text", "strange-1.laughs": "Laughs=3 number", "strange-1.hidden": "", "strange-1.words-hello": "",
	} {
		if got := n.value(key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	var order []string
	for _, m := range n.Metadata {
		if strings.HasPrefix(m.ID, "strange-1.") {
			order = append(order, m.ID)
		}
	}
	if got := strings.Join(order[len(order)-2:], " "); got != "strange-1.since strange-1.mood" {
		t.Errorf("by priority: %s", got)
	}
	for _, m := range n.Metrics {
		if m.ID == "strange-1.joy" && (m.Label != "Joy" || m.Format != "percent" || m.Value < 80 || m.Value > 80.2 || m.Max != 120) {
			t.Errorf("%+v: the newest sample counts", m)
		}
	}
	if len(n.Tables) != 1 || n.Tables[0].Label != "Words" || len(n.Tables[0].Rows) != 1 || !slices.Equal(n.Tables[0].Rows[0], []string{"hello", "<b>world</b>"}) {
		t.Errorf("%+v", n.Tables)
	}
	for control, want := range map[string]bool{"strange-1~cheer": true, "strange-1~frown": true, "strange-1~sing": true, "strange-1~unheard-of": false, "unheard-of": false} {
		if n.offers(control) != want {
			t.Errorf("%s offered: %v", control, !want)
		}
	}
	r.eventually("its status", func() bool { return r.plugin("strange-1").State == "ok" })
	p := r.plugin("strange-1")
	if p.State != "ok" || p.Label != "A stranger" || p.Description != "says \ufffd[31mred\ufffd[0m" || !slices.Equal(p.Interfaces, []string{"controller", "reporter"}) || !strings.Contains(p.Message, "1 are not of this host") {
		t.Errorf("%+v", p)
	}
	s.mu.Lock()
	if s.query.Get("api_version") != "1" || s.query.Get("probe_id") != pluginHost {
		t.Errorf("asked with %v", s.query)
	}
	s.mu.Unlock()
	do := func(control string) answer {
		return r.call("POST", "/api/v1/nodes/"+url.PathEscape(id)+"/controls/strange-1~"+control, adminToken, "")
	}
	if a := do("sing"); a.status != 502 || !bytes.Contains(a.body, []byte("A stranger: no voice today")) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := do("frown"); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := do("cheer"); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	r.eventually("what the control changed", func() bool {
		n, _ := r.nodeDoc(id)
		return strings.HasPrefix(n.value("strange-1.mood"), "Mood=glad") && !n.offers("strange-1~cheer")
	})
	if got := s.controls(); got != "sing frown cheer" {
		t.Error(got)
	}
}

func TestAPluginThatEndsIsGone(t *testing.T) {
	t.Parallel()
	r, dir := newRig(t, nil), shortDir(t)
	r.pluginProbe(dir, nil)
	id := "host;" + pluginHost
	t.Run("while it lives", func(t *testing.T) {
		strange(t, dir, "brief", nil)
		r.eventually("the plugin", func() bool { n, _ := r.nodeDoc(id); return n.value("brief.mood") != "" })
	})
	r.eventually("no plugin", func() bool {
		n, ok := r.nodeDoc(id)
		return ok && n.value("brief.mood") == "" && !n.offers("brief~cheer") && len(r.plugins()) == 0
	})
}

func TestHostilePluginsHarmNobody(t *testing.T) {
	t.Parallel()
	r, dir := newRig(t, nil), shortDir(t)
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	spec := func(id string) string {
		return `"Plugins":[{"id":"` + id + `","label":"x","interfaces":["reporter"],"api_version":"1"}]`
	}
	bad := map[string]struct {
		says    string
		handler http.HandlerFunc
	}{
		"huge": {"larger than 4 MB", func(w http.ResponseWriter, _ *http.Request) {
			block := bytes.Repeat([]byte(" "), 1<<20)
			for range 50 {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		}},
		"garbage": {"not the JSON", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "\x00\xff{{{\x1b[2J") }},
		"many": {"too much in it", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"x":[`+strings.Repeat("{},", 300_000)+"{}]}")
		}},
		"deep": {"not the JSON", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("[", 1_000_000)) }},
		"hanging": {"no whole report within 3s", func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}},
		"dribbling": {"no whole report within 3s", func(w http.ResponseWriter, r *http.Request) {
			for {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				select {
				case <-hang:
					return
				case <-r.Context().Done():
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		}},
		"failing": {"the plugin answers 500", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "out of \x1b[31mluck", 500) }},
		"wander": {"answers 302", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}},
		"impostor": {`calls itself "root"`, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{"+spec("root")+"}") }},
		"old": {"version", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, strings.Replace("{"+spec("old")+"}", `"1"`, `"0"`, 1))
		}},
		"nobody": {"exactly one plugin", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }},
		"greedy": {"", func(w http.ResponseWriter, _ *http.Request) {
			var b strings.Builder
			for i := range 5000 {
				fmt.Fprintf(&b, `"k%d":{"value":"v"},`, i)
			}
			latest := b.String()
			var m strings.Builder
			for i := range 5000 {
				fmt.Fprintf(&m, `"k%d":{"label":"l","from":"latest"},`, i)
			}
			fmt.Fprintf(w, `{"Host":{"nodes":{"%s;<host>":{"latest":{%s"z":{"value":"z"}},"metrics":{"nan":{"samples":[{"value":1e300}]}}}},"metadata_templates":{%s"z":{}}},%s}`, pluginHost, latest, m.String(), spec("greedy"))
		}},
	}
	for name, x := range bad {
		strange(t, dir, name, x.handler)
	}
	// Sockets that are none.
	if err := os.Symlink(filepath.Join(dir, "garbage.sock"), filepath.Join(dir, "link.sock")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	strange(t, dir, "bad name\x1b[31m", nil)
	strange(t, dir, "fine", nil)
	if err := os.Mkdir(filepath.Join(dir, "twice"), 0o700); err != nil {
		t.Fatal(err)
	}
	strange(t, filepath.Join(dir, "twice"), "fine", nil)

	r.pluginProbe(dir, func(c *probe.Config) { c.PluginsTimeout = 3 * time.Second })
	id := "host;" + pluginHost
	state := func(id string) string {
		p := r.plugin(id)
		return p.State + ": " + p.Message
	}
	for name, x := range bad {
		want := "failed: "
		if x.says == "" {
			want = "degraded: "
		}
		r.eventually(name+" found out", func() bool {
			s := state(name)
			// On a busy machine a reply may also be too late before it is too large.
			return strings.HasPrefix(s, want) && strings.Contains(s, x.says)
		})
	}
	for at, want := range map[string]string{
		"link.sock": "failed: is a symbolic link: links are not followed", "file.sock": "failed: is not a socket",
		"bad name\ufffd[31m.sock": "failed: the socket's name must be letters and digits with single dashes between them", "twice/fine.sock": "failed: another socket has the same name",
	} {
		if got := state(at); got != want {
			t.Errorf("%s: %s", at, got)
		}
	}
	// The one that behaves is as if it were alone, and so is the host. A report may be too late, too, on a busy machine: then the next one counts.
	var n nodeDoc
	r.eventually("the plugin that behaves, and some of the greedy one's", func() bool {
		n, _ = r.nodeDoc(id)
		brought := 0
		for _, m := range n.Metadata {
			if strings.HasPrefix(m.ID, "greedy.") {
				brought++
			}
		}
		if brought > 100 {
			t.Fatalf("%d attributes of the greedy one", brought)
		}
		return brought > 0 && n.value("fine.mood") != "" && r.plugin("fine").State == "ok"
	})
	if n.value("cpus") == "" {
		t.Error("the host's own attributes are gone")
	}
	for _, p := range r.plugins() {
		if strings.Contains(p.ID+p.Label+p.Message, "\x1b") {
			t.Errorf("an escape gets through: %q", p)
		}
	}
	var probes struct {
		Probes []struct {
			State      string
			Collectors []struct{ Name, State, Message string }
		}
	}
	r.get("/api/v1/probes", &probes)
	if len(probes.Probes) != 1 || probes.Probes[0].State != "connected" {
		t.Fatalf("%+v", probes)
	}
	for _, c := range probes.Probes[0].Collectors {
		if c.State == "failed" {
			t.Errorf("collector %+v", c)
		}
	}
}

func TestThousandsOfSockets(t *testing.T) {
	t.Parallel()
	r, dir := newRig(t, nil), shortDir(t)
	for i := range 3000 {
		// A socket that nobody listens on is as good, and costs no descriptor.
		if err := syscall.Mknod(filepath.Join(dir, fmt.Sprintf("s%04d.sock", i)), syscall.S_IFSOCK|0o600, 0); err != nil {
			t.Fatal(err)
		}
	}
	strange(t, dir, "a-real-one", nil)
	r.pluginProbe(dir, nil)
	r.eventually("the real one among them", func() bool { return r.plugin("a-real-one").State == "ok" })
	r.eventually("the dead ones found out", func() bool {
		return strings.Contains(r.plugin("s0000").Message, "nobody listens on the socket")
	})
	if n := len(r.plugins()); n != 64 {
		t.Errorf("%d plugins", n)
	}
	var probes struct {
		Probes []struct {
			Collectors []struct{ Name, State, Message string }
		}
	}
	r.get("/api/v1/probes", &probes)
	if !slices.ContainsFunc(probes.Probes[0].Collectors, func(c struct{ Name, State, Message string }) bool {
		return c.Name == "plugins" && c.State == "degraded" && strings.Contains(c.Message, "only the first 64 sockets")
	}) {
		t.Errorf("%+v", probes.Probes[0].Collectors)
	}
}
