package monitoring

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/orchestrator/orchestrator/internal/leakcheck"
	"github.com/orchestrator/orchestrator/internal/monitor"
	"github.com/orchestrator/orchestrator/internal/probe"
)

func TestMain(m *testing.M) { leakcheck.Main(tests{m}) }

// tests leave no connection that is kept for the next request.
type tests struct{ *testing.M }

func (m tests) Run() int {
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	return m.M.Run()
}

func (r *rig) entities(kind string) int {
	var s struct{ Entities map[string]int }
	r.get("/api/v1/status", &s)
	return s.Entities[kind]
}

func TestAStoppedContainerIsSeenStopped(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.probe(probe.Config{Simulate: &probe.Simulation{Hosts: 30, Containers: 10}})
	r.eventually("all containers", func() bool { return r.entities("container") == 300 })
	conn, _, err := r.socket("/api/v1/live", adminToken)
	if err != nil {
		t.Fatal(err)
	}
	r.send(conn, `{"type":"subscribe","sub":7,"view":"containers","options":{"opts":{"state":"all"},"group":"none"}}`)
	f := r.read(conn)
	if f.Type != "frame" || f.Sub != 7 || !f.Live || len(f.Nodes.ID) < 300 || len(f.Edges.H) == 0 {
		t.Fatalf("first message: %s sub %d, %d nodes, %d edges", f.Type, f.Sub, len(f.Nodes.ID), len(f.Edges.H))
	}
	id := f.Nodes.ID[0]
	if !strings.HasPrefix(id, "container;") {
		t.Fatal(id)
	}
	a := r.call("POST", "/api/v1/nodes/"+url.PathEscape(id)+"/controls/stop", adminToken, "")
	var done struct{ OK bool }
	a.into(t, &done)
	if !done.OK {
		t.Fatalf("%s", a.body)
	}
	rev := f.Rev
	for seen := false; !seen; {
		d := r.read(conn)
		if d.Type != "diff" || d.Rev != rev+1 {
			t.Fatalf("%s with revision %d after %d", d.Type, d.Rev, rev)
		}
		rev = d.Rev
		for i := range d.Nodes.ID {
			seen = seen || d.Nodes.ID[i] == id && d.Nodes.State[i] == "exited"
		}
	}
	// It can't be stopped again: the node does not offer it any more.
	if a := r.call("POST", "/api/v1/nodes/"+url.PathEscape(id)+"/controls/stop", adminToken, ""); a.status != 409 {
		t.Errorf("%d %s", a.status, a.body)
	}
	var audit struct {
		Entries []struct{ Action, Object, Outcome string }
	}
	r.get("/api/v1/audit", &audit)
	if len(audit.Entries) < 2 || audit.Entries[0].Outcome != "failed" || audit.Entries[1].Action != "control.stop" || audit.Entries[1].Object != id || audit.Entries[1].Outcome != "ok" {
		t.Errorf("%+v", audit.Entries)
	}
	var events struct {
		Events []struct{ ID, What, To string }
	}
	r.get("/api/v1/events?limit=500", &events)
	found := false
	for _, e := range events.Events {
		found = found || e.ID == id && e.What == "state" && e.To == "exited"
	}
	if !found {
		t.Error("the timeline does not know of it")
	}
}

func TestALostProbeIsGreyedAndComesBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	stop := r.probe(probe.Config{Simulate: &probe.Simulation{Hosts: 3, Containers: 2}})
	r.eventually("all containers", func() bool { return r.entities("container") == 6 })
	health := func() map[int]int {
		var f message
		r.get("/api/v1/topology?view=containers", &f)
		out := map[int]int{}
		for _, h := range f.Nodes.Health {
			out[h]++
		}
		return out
	}
	r.eventually("all well", func() bool { return health()[1] == 6 })
	stop()
	r.eventually("all stale, none gone", func() bool { return health()[4] == 6 })
	r.probe(probe.Config{Simulate: &probe.Simulation{Hosts: 3, Containers: 2}})
	r.eventually("all well again", func() bool { return health()[1] == 6 })
}

func TestViewsSearchSeriesAndExport(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.probe(probe.Config{Simulate: &probe.Simulation{Hosts: 4, Containers: 5}})
	r.eventually("metrics", func() bool {
		return strings.Contains(string(r.call("GET", "/metrics?entities=container", adminToken, "").body), "orchestrator_container_cpu_percent{")
	})
	var views struct {
		Views []struct {
			ID    string
			Count int
		}
	}
	r.get("/api/v1/views", &views)
	counts := map[string]int{}
	for _, v := range views.Views {
		counts[v.ID] = v.Count
	}
	if counts["containers"] != 20 || counts["hosts"] != 4 || counts["containers-by-image"] == 0 || counts["apps"] == 0 {
		t.Errorf("%v", counts)
	}
	for _, v := range views.Views {
		var f message
		r.get("/api/v1/topology?opt.state=all&view="+v.ID, &f)
		if v.Count > 0 && len(f.Nodes.ID) == 0 && v.ID != "processes" {
			t.Errorf("view %s counts %d and shows nothing", v.ID, v.Count)
		}
		for _, id := range f.Nodes.ID {
			if a := r.call("GET", "/api/v1/nodes/"+url.PathEscape(id), adminToken, ""); a.status != 200 && !strings.HasPrefix(id, "un") && !strings.HasPrefix(id, "image") {
				t.Errorf("node %s of view %s: %d %s", id, v.ID, a.status, a.body)
			}
		}
	}
	var hits struct {
		Total   int
		Results []struct{ ID, Kind string }
	}
	r.get("/api/v1/search?q="+url.QueryEscape("kind:container label.app=web"), &hits)
	if hits.Total == 0 || hits.Results[0].Kind != "container" {
		t.Errorf("%+v", hits)
	}
	if a := r.call("GET", "/api/v1/search?q="+url.QueryEscape("cpu>"), adminToken, ""); a.status != 400 || !strings.Contains(string(a.body), "column 5") {
		t.Errorf("%d %s", a.status, a.body)
	}
	var series struct {
		Series []struct {
			Metric string
			V      []*float64
		}
	}
	r.eventually("two series", func() bool {
		r.get("/api/v1/nodes/"+url.PathEscape(hits.Results[0].ID)+"/series?metric=cpu,mem", &series)
		return len(series.Series) == 2 && len(series.Series[0].V) > 0
	})
	csv := string(r.call("GET", "/api/v1/topology?view=containers&format=csv&metric=cpu", adminToken, "").body)
	if n := strings.Count(csv, "\ncontainer;"); n != 20 {
		t.Errorf("%d lines in: %s", n, csv)
	}
	var replay struct {
		From int64 `json:"from_ms"`
		To   int64 `json:"to_ms"`
	}
	r.get("/api/v1/replay", &replay)
	var past message
	r.get(fmt.Sprintf("/api/v1/topology?view=containers&at=%d", replay.To), &past)
	if past.Live || len(past.Nodes.ID) < 20 {
		t.Errorf("live %v, %d nodes", past.Live, len(past.Nodes.ID))
	}
	if a := r.call("GET", "/api/v1/topology?view=containers&at=1000", adminToken, ""); a.status != 404 {
		t.Errorf("a time that is not recorded: %d", a.status)
	}
}

func TestRolesOriginsAndTokens(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *monitor.Config) { c.ViewerLogs = false; c.DataDir = t.TempDir() })
	r.probe(probe.Config{Simulate: &probe.Simulation{Hosts: 1, Containers: 1}})
	r.eventually("a container", func() bool { return r.entities("container") == 1 })
	var hits struct{ Results []struct{ ID string } }
	r.get("/api/v1/search?q=kind:container", &hits)
	node := "/api/v1/nodes/" + url.PathEscape(hits.Results[0].ID)
	viewer, operator := r.token("viewer"), r.token("operator")
	for _, x := range []struct {
		method, path, token, body string
		header                    []string
		status                    int
	}{
		{"GET", "/api/v1/status", "", "", nil, 401},
		{"GET", "/api/v1/status", "omt_guessed", "", nil, 401},
		{"GET", "/api/v1/status", probeToken, "", nil, 403},
		{"GET", "/api/v1/status", viewer, "", nil, 200},
		{"GET", "/api/v1/status", viewer, "", []string{"Origin", "http://evil.example"}, 403},
		{"POST", node + "/controls/stop", viewer, "", nil, 403},
		{"GET", node + "/env", viewer, "", nil, 403},
		{"GET", node + "/files?path=/", viewer, "", nil, 403},
		{"GET", node + "/logs", viewer, "", nil, 403},
		{"GET", "/api/v1/users", operator, "", nil, 403},
		{"GET", "/api/v1/audit", operator, "", nil, 403},
		{"POST", "/api/v1/saved", viewer, `{"name":"x","view":"containers","shared":true}`, nil, 403},
		{"POST", "/api/v1/saved", viewer, `{"name":"x","view":"containers"}`, nil, 201},
		{"POST", "/api/v1/controls", operator, `{"control":"stop","ids":["` + hits.Results[0].ID + `"],"dry_run":true}`, nil, 200},
		{"POST", "/api/v1/controls", operator, strings.Repeat("x", 2<<20), nil, 400},
		{"GET", node + "/logs?tail=1", operator, "", nil, 200},
		{"GET", "/api/v1/nothing", viewer, "", nil, 404},
		{"GET", "/api/v1/nodes/container;none", viewer, "", nil, 404},
		{"GET", "/metrics", "", "", nil, 401},
		{"GET", "/api/v1/proxy/master/state", viewer, "", nil, 404},
		{"GET", "/", "", "", nil, 200},
		{"GET", "/../../etc/passwd", "", "", nil, 200},
		{"GET", "/api/v1/openapi.json", "", "", nil, 200},
	} {
		if a := r.call(x.method, x.path, x.token, x.body, x.header...); a.status != x.status {
			t.Errorf("%s %s: %d %s, want %d", x.method, x.path, a.status, a.body[:min(len(a.body), 200)], x.status)
		}
	}
	for path, role := range map[string]string{"/api/v1/exec?id=" + url.QueryEscape(hits.Results[0].ID): viewer, "/api/v1/logs?id=" + url.QueryEscape(hits.Results[0].ID): viewer, "/api/v1/probe": operator} {
		if _, resp, err := r.socket(path, role); err == nil || resp == nil || resp.StatusCode != 403 {
			t.Errorf("%s: %v %v", path, resp, err)
		}
	}
	for _, path := range []string{"/api/v1/live", "/api/v1/probe"} {
		token := viewer
		if path == "/api/v1/probe" {
			token = probeToken
		}
		if _, resp, err := r.socket(path, token, "Origin", "http://evil.example"); err == nil || resp.StatusCode != 403 {
			t.Errorf("%s from another site: %v", path, err)
		}
	}
	// A session: cookie, CSRF token, and the end of both when the user changes.
	if a := r.call("PUT", "/api/v1/users/ana", adminToken, `{"role":"operator","password":"correct horse"}`); a.status != 200 || strings.Contains(string(a.body), "hash") {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := r.call("POST", "/api/v1/login", "", `{"user":"ana","password":"wrong"}`); a.status != 401 {
		t.Errorf("%d", a.status)
	}
	a := r.call("POST", "/api/v1/login", "", `{"user":"ana","password":"correct horse"}`)
	var s struct{ CSRF, Role string }
	a.into(t, &s)
	cookie := a.header.Get("Set-Cookie")
	if !strings.Contains(cookie, "HttpOnly") || !strings.Contains(cookie, "SameSite=Strict") || s.Role != "operator" {
		t.Errorf("%s %+v", cookie, s)
	}
	cookie, _, _ = strings.Cut(cookie, ";")
	save := func(h ...string) int {
		return r.call("POST", "/api/v1/saved", "", `{"name":"y","view":"hosts"}`, append([]string{"Cookie", cookie}, h...)...).status
	}
	if got := save(); got != 403 {
		t.Errorf("without the CSRF token: %d", got)
	}
	if got := save("X-CSRF-Token", s.CSRF); got != 201 {
		t.Errorf("with it: %d", got)
	}
	if got := save("X-CSRF-Token", s.CSRF, "Origin", "http://evil.example"); got != 403 {
		t.Errorf("from another site: %d", got)
	}
	r.call("PUT", "/api/v1/users/ana", adminToken, `{"role":"viewer"}`)
	if got := save("X-CSRF-Token", s.CSRF); got != 401 {
		t.Errorf("after the role was changed: %d", got)
	}
	for range 12 {
		a = r.call("POST", "/api/v1/login", "", `{"user":"ana","password":"guess"}`)
	}
	if a.status != 429 || a.header.Get("Retry-After") == "" {
		t.Errorf("guessing: %d", a.status)
	}
}

// TestWhoMayNoLongerIsCutOff: what somebody has open ends within a moment when their token or user goes, and nobody else's does.
func TestWhoMayNoLongerIsCutOff(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	var probes struct{ ID, Secret string }
	r.call("POST", "/api/v1/tokens", adminToken, `{"name":"hosts","kind":"probe"}`).into(t, &probes)
	stop := runProbe(t, probe.Config{Monitors: []string{r.url}, Token: probes.Secret, Simulate: &probe.Simulation{Hosts: 2, Containers: 1}})
	defer stop()
	r.eventually("the containers", func() bool { return r.entities("container") == 2 })
	var robot struct{ ID, Secret string }
	r.call("POST", "/api/v1/tokens", adminToken, `{"name":"robot","role":"operator"}`).into(t, &robot)
	if a := r.call("PUT", "/api/v1/users/ana", adminToken, `{"role":"operator","password":"correct horse"}`); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	cookie, _, _ := strings.Cut(r.call("POST", "/api/v1/login", "", `{"user":"ana","password":"correct horse"}`).header.Get("Set-Cookie"), ";")
	// open gives what tells that a socket has ended.
	open := func(path, token string, header ...string) <-chan struct{} {
		t.Helper()
		conn, resp, err := r.socket(path, token, header...)
		if err != nil {
			t.Fatalf("%s: %v %v", path, resp, err)
		}
		over := make(chan struct{})
		go func() {
			defer close(over)
			for {
				if _, _, err := conn.Read(t.Context()); err != nil {
					return
				}
			}
		}()
		return over
	}
	other := open("/api/v1/live", adminToken)
	byToken := []<-chan struct{}{open("/api/v1/live", robot.Secret), open("/api/v1/live", robot.Secret)}
	byCookie := []<-chan struct{}{open("/api/v1/live", "", "Cookie", cookie), open("/api/v1/live", "", "Cookie", cookie)}
	going := func(list []<-chan struct{}) (n int) {
		for _, over := range list {
			select {
			case <-over:
			default:
				n++
			}
		}
		return n
	}
	if a := r.call("DELETE", "/api/v1/tokens/"+robot.ID, adminToken, ""); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	r.eventually("what the token has opened ends", func() bool { return going(byToken) == 0 })
	if n := going(append(byCookie, other)); n != 3 {
		t.Errorf("%d of three others go on", n)
	}
	if _, resp, err := r.socket("/api/v1/live", robot.Secret); err == nil || resp.StatusCode != 401 {
		t.Error("the token still opens something")
	}
	if a := r.call("PUT", "/api/v1/users/ana", adminToken, `{"role":"viewer"}`); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	r.eventually("what the user has opened ends", func() bool { return going(byCookie) == 0 })
	if going([]<-chan struct{}{other}) != 1 {
		t.Error("the administrator's socket has ended")
	}
	// The probes' token.
	connected := func() int {
		var st struct{ Probes map[string]int }
		r.get("/api/v1/status", &st)
		return st.Probes["connected"]
	}
	r.eventually("two probes", func() bool { return connected() == 2 })
	if a := r.call("DELETE", "/api/v1/tokens/"+probes.ID, adminToken, ""); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	r.eventually("the probes are gone", func() bool { return connected() == 0 })
}

func TestWithoutLoginOnlyLoopbackIsServed(t *testing.T) {
	t.Parallel()
	if _, err := monitor.New(monitor.Config{Listen: "0.0.0.0:0", Auth: "off"}, monitor.Deps{}); err == nil {
		t.Error("auth off on every address was taken")
	}
	r := newRig(t, func(c *monitor.Config) { c.Auth = "off" })
	if a := r.call("GET", "/api/v1/status", "", ""); a.status != 200 {
		t.Errorf("%d", a.status)
	}
	// A foreign page whose name was made to lead to 127.0.0.1.
	req, _ := http.NewRequestWithContext(t.Context(), "GET", r.url+"/api/v1/status", nil)
	req.Host = "evil.example:4040"
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 403 {
		t.Errorf("rebound name: %d", resp.StatusCode)
	}
}

func TestBadMessagesOnTheLiveSocket(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	conn, _, err := r.socket("/api/v1/live", adminToken)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ text, code string }{
		{`{`, "bad_request"},
		{`{"type":"dance"}`, "bad_request"},
		{`{"type":"subscribe","sub":1,"view":"nonsense"}`, "not_found"},
		{`{"type":"subscribe","sub":1,"view":"hosts","options":{"q":"("}}`, "bad_request"},
		{`{"type":"subscribe","sub":1,"view":"hosts","options":{"at":5}}`, "not_found"},
	} {
		r.send(conn, x.text)
		if m := r.read(conn); m.Type != "error" || m.Error.Code != x.code {
			t.Errorf("%s: %+v", x.text, m)
		}
	}
	for i := range 17 {
		r.send(conn, fmt.Sprintf(`{"type":"subscribe","sub":%d,"view":"hosts","options":{"q":"x%d"}}`, i+1, i))
	}
	served := map[int]bool{} // each also gets diffs, as many as the picture changes
	for {
		m := r.read(conn)
		if m.Type == "error" {
			if m.Error.Code != "too_many" || m.Sub != 17 {
				t.Errorf("%+v", m)
			}
			break
		}
		served[int(m.Sub)] = true
	}
	if len(served) > 16 || served[17] {
		t.Errorf("%d subscriptions are served: %v", len(served), served)
	}
}

func TestARealHostIsSeen(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.probe(probe.Config{Hostname: "this", DockerSocket: "off", MaxProcesses: 5000})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	self := ""
	r.eventually("this process", func() bool {
		var hits struct{ Results []struct{ ID string } }
		r.get(fmt.Sprintf("/api/v1/search?q=kind:process+pid%%3D%d", os.Getpid()), &hits)
		if len(hits.Results) == 1 {
			self = hits.Results[0].ID
		}
		return self != ""
	})
	r.eventually("its connection to itself", func() bool {
		var n struct {
			Edges []struct{ Port int }
		}
		r.get("/api/v1/nodes/"+url.PathEscape(self), &n)
		for _, e := range n.Edges {
			if e.Port == l.Addr().(*net.TCPAddr).Port {
				return true
			}
		}
		return false
	})
	var procs struct{ Processes []struct{ PID int } }
	r.get("/api/v1/nodes/"+url.PathEscape(self)+"/processes", &procs)
	if len(procs.Processes) != 1 || procs.Processes[0].PID != os.Getpid() {
		t.Errorf("%+v", procs)
	}
	var sockets struct {
		Sockets []struct{ Local, State string }
	}
	r.get("/api/v1/nodes/"+url.PathEscape(self)+"/sockets", &sockets)
	found := false
	for _, s := range sockets.Sockets {
		found = found || s.Local == l.Addr().String() && s.State == "LISTEN"
	}
	if !found {
		t.Errorf("%+v", sockets)
	}
	if a := r.call("GET", "/api/v1/nodes/"+url.PathEscape(self)+"/env", adminToken, ""); a.status != 200 || strings.Contains(string(a.body), "hunter2") {
		t.Errorf("%d", a.status)
	}
	if a := r.call("POST", "/api/v1/nodes/"+url.PathEscape("host;this")+"/controls/host-exec", adminToken, ""); a.status < 400 {
		t.Errorf("a host shell: %d", a.status)
	}
	if _, resp, err := r.socket("/api/v1/exec?id=host;this", adminToken); err == nil || resp.StatusCode < 400 {
		t.Error("a host shell without the probe's permission")
	}
}
