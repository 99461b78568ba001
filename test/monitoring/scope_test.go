package monitoring

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/monitor"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// scopeRow is a row of the list of probes.
type scopeRow struct {
	ID, Version, State string
	Scope              bool
	Collectors         []struct{ Name, State, Message string }
}

func (r *rig) scopeRow() scopeRow {
	r.t.Helper()
	var out struct{ Probes []scopeRow }
	r.get("/api/v1/probes", &out)
	for _, p := range out.Probes {
		if p.Scope {
			return p
		}
	}
	return scopeRow{}
}

// scopeNode is what the journey looks at in a node.
type scopeNode struct {
	Label, State string
	Stale        bool
	Metadata     []struct{ ID, Value string }
	Metrics      []struct {
		ID    string
		Value float64
	}
	Parents []struct{ ID string }
	Edges   []struct {
		Dir  string
		Port int
		N    int
		Peer struct{ ID, Kind, Label string }
	}
	Controls []struct{ ID string }
}

func (r *rig) scopeNode(id string) (n scopeNode) {
	r.t.Helper()
	if a := r.call("GET", "/api/v1/nodes/"+url.PathEscape(id), adminToken, ""); a.status == 200 {
		a.into(r.t, &n)
	}
	return n
}

func (n scopeNode) metric(id string) float64 {
	for _, m := range n.Metrics {
		if m.ID == id {
			return m.Value
		}
	}
	return -1
}

// TestAnUnmodifiedScopeProbe is the journey of somebody who has Weave Scope's probes and points them at our monitor: what they see is on
// the map, and the console does with it what it does with our own.
func TestAnUnmodifiedScopeProbe(t *testing.T) {
	t.Parallel()
	program := scopeProgram(t)
	e := dockertest.Start(t, dockertest.Options{Bridge: true})
	e.Import("box:1", nil)
	server := e.Docker("run", "-d", "--stop-signal=KILL", "--name=server", "--label", "app=shop", "--label", "api_token=hunter2", "box:1", "nc", "-ll", "-p", "7000", "-e", "cat")
	at := e.Docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "server")
	client := e.Docker("run", "-d", "--name=client", "box:1", "sh", "-c", "sleep 100000 | nc "+at+" 7000")
	talker := e.Docker("run", "-d", "--name=talker", "box:1", "sh", "-c", "while :; do echo ping; sleep 1; done")

	r := newRig(t, func(c *monitor.Config) { c.ScopeProbes = "token" })
	env := []string{"DOCKER_HOST=unix://" + e.Socket}
	const host = "scope-host"
	stopWrong := r.scopeProbe(program, "nobody", "omt_wrong", env)
	stop := r.scopeProbe(program, host, probeToken, env)
	id := func(full string) string { return topology.ContainerID(host, full) }

	r.eventually("the probe is listed", func() bool { return r.scopeRow().State == "connected" })
	stopWrong()
	if p := r.scopeRow(); !strings.HasPrefix(p.Version, "Weave Scope") || !strings.HasPrefix(p.ID, "scope:") {
		t.Errorf("%+v", p)
	}
	if a := r.call("GET", "/api/v1/nodes/"+url.PathEscape(topology.HostID("nobody")), adminToken, ""); a.status != 404 {
		t.Errorf("the host of a probe with a wrong token: %d", a.status)
	}
	r.eventually("its control connection", func() bool {
		return slices.ContainsFunc(r.scopeRow().Collectors, func(c struct{ Name, State, Message string }) bool { return c.Name == "control" && c.State == "ok" })
	})
	r.eventually("the containers", func() bool {
		return r.state(id(server)) == "running" && r.state(id(client)) == "running" && r.state(id(talker)) == "running"
	})

	var n scopeNode
	attr := map[string]string{}
	r.eventually("all of a container", func() bool { // a shortcut tells of it first
		n = r.scopeNode(id(server))
		for _, m := range n.Metadata {
			attr[m.ID] = m.Value
		}
		return attr["image"] != "" && attr["addrs"] != ""
	})
	var doc struct{ Labels map[string]string }
	r.get("/api/v1/nodes/"+url.PathEscape(id(server)), &doc)
	if n.Label != "server" || attr["container_id"] != server || attr["image"] != "box:1" || attr["name"] != "server" || attr["addrs"] != at || doc.Labels["app"] != "shop" || doc.Labels["api_token"] != topology.Mask ||
		!slices.ContainsFunc(n.Parents, func(p struct{ ID string }) bool { return p.ID == topology.HostID(host) }) {
		t.Errorf("%+v %v %v", n, attr, doc)
	}
	r.eventually("who talks to whom", func() bool {
		for _, x := range r.scopeNode(id(client)).Edges {
			if x.Dir == "out" && x.Port == 7000 && x.N == 1 && x.Peer.Kind == "process" && x.Peer.Label == "cat" {
				return true
			}
		}
		return false
	})
	r.eventually("figures", func() bool {
		c, h := r.scopeNode(id(talker)), r.scopeNode(topology.HostID(host))
		return c.metric("mem") > 0 && c.metric("cpu") >= 0 && h.metric("cpu") > 0 && h.metric("load1") >= 0 && h.metric("mem_used") > 0
	})

	// Roles hold, and what is done is done to the container.
	viewer, operator := r.token("viewer"), r.token("operator")
	do := func(container, control, token string) int {
		return r.call("POST", "/api/v1/nodes/"+url.PathEscape(id(container))+"/controls/"+control, token, "{}").status
	}
	engine := func() string { return e.Docker("inspect", "-f", "{{.State.Status}}", "server") }
	if got := do(server, "stop", viewer); got != 403 || engine() != "running" {
		t.Errorf("a viewer stops: %d, %s", got, engine())
	}
	for _, x := range []struct{ control, state string }{{"pause", "paused"}, {"unpause", "running"}, {"stop", "exited"}, {"start", "running"}, {"restart", "running"}} {
		if got := do(server, x.control, operator); got != 200 || engine() != x.state {
			t.Errorf("%s: %d, %s", x.control, got, engine())
		}
		r.eventually(x.control+" on the map", func() bool { return r.state(id(server)) == x.state })
	}
	// Not offered while it runs. That it has ended for a moment may be told after it is seen to run: it ran before.
	r.eventually("no offer to start what runs", func() bool { return do(server, "start", operator) == 409 })
	var audit struct {
		Entries []struct{ Action, Object, Outcome string }
	}
	r.get("/api/v1/audit?limit=100", &audit)
	for _, want := range []string{"control.stop ok", "POST /api/v1/nodes/{id}/controls/{control} denied"} {
		if !slices.ContainsFunc(audit.Entries, func(a struct{ Action, Object, Outcome string }) bool {
			return a.Action+" "+a.Outcome == want && a.Object == id(server)
		}) {
			t.Errorf("%s is not in the audit log", want)
		}
	}

	// A shell: what is typed arrives, the terminal has the size of the page's, and its end is seen.
	shell := r.terminal("/api/v1/exec?cols=91&rows=31&id="+url.QueryEscape(id(talker)), operator)
	shell.types("echo $((6*7)); stty size\n")
	shell.waits("42")
	shell.waits("31 91")
	shell.resize(100, 40)
	r.eventually("the terminal's new size", func() bool {
		shell.types("stty size\n")
		return shell.sees("40 100")
	})
	shell.types("exit\n")
	if kind := shell.end(); kind != "exit" {
		t.Errorf("a shell that was left ends with %q", kind)
	}
	if _, resp, err := r.socket("/api/v1/exec?id="+url.QueryEscape(id(talker)), viewer); err == nil || resp.StatusCode != 403 {
		t.Error("a viewer got a shell")
	}
	// It ends with the right to it.
	var passing struct{ ID, Secret string }
	r.call("POST", "/api/v1/tokens", adminToken, `{"name":"passing","role":"operator"}`).into(t, &passing)
	shell = r.terminal("/api/v1/exec?id="+url.QueryEscape(id(talker)), passing.Secret)
	shell.types("echo $((6*7))\n")
	shell.waits("42")
	if a := r.call("DELETE", "/api/v1/tokens/"+passing.ID, adminToken, ""); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if shell.end() == "nothing" {
		t.Error("a shell outlives the token by which it was opened")
	}
	if a := r.call("GET", "/api/v1/exec?cmd=id&id="+url.QueryEscape(id(talker)), operator, ""); a.status == 200 {
		t.Errorf("a command of one's own: %d", a.status)
	}

	// What a container prints from now on.
	logs, _, err := r.socket("/api/v1/logs?follow=1&id="+url.QueryEscape(id(talker)), viewer)
	if err != nil {
		t.Fatal(err)
	}
	pings := 0
	for pings < 2 {
		var m struct{ Lines []struct{ M string } }
		ctx, stop := context.WithTimeout(t.Context(), patience)
		_, data, err := logs.Read(ctx)
		stop()
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		for _, l := range m.Lines {
			if strings.TrimSpace(l.M) == "ping" {
				pings++
			}
		}
	}
	logs.CloseNow()

	// The host's shell is for administrators.
	if _, resp, err := r.socket("/api/v1/exec?id="+url.QueryEscape(topology.HostID(host)), operator); err == nil || resp.StatusCode != 403 {
		t.Error("an operator got a host's shell")
	}
	root := r.terminal("/api/v1/exec?id="+url.QueryEscape(topology.HostID(host)), adminToken)
	root.types("echo $((7*8))\n")
	root.waits("56")
	root.types("exit\n")
	if kind := root.end(); kind != "exit" {
		t.Errorf("the host's shell ends with %q", kind)
	}

	// What goes, goes from the map; and when nothing more is heard the rest is shown as lost.
	e.Docker("rm", "-f", "client")
	r.eventually("the removed container's end", func() bool { return r.state(id(client)) == "" })
	stop()
	r.eventually("the probe is lost", func() bool { return r.scopeRow().State == "lost" && r.scopeNode(id(server)).Stale })
	if got := do(server, "stop", operator); got != 503 {
		t.Errorf("a control while the probe is gone: %d", got)
	}
}

// typist is a terminal's other end.
type typist struct {
	r    *rig
	conn *websocket.Conn
	got  chan string // output; closed at the end
	kind string
	text string
}

func (r *rig) terminal(path, token string) *typist {
	r.t.Helper()
	conn, _, err := r.socket(path, token)
	if err != nil {
		r.t.Fatal(err)
	}
	p := &typist{r: r, conn: conn, got: make(chan string, 1000)}
	go func() {
		defer close(p.got)
		for {
			kind, data, err := conn.Read(r.t.Context())
			if err != nil {
				return
			}
			if kind == websocket.MessageBinary {
				p.got <- string(data[1:])
				continue
			}
			var m struct{ Type string }
			_ = json.Unmarshal(data, &m)
			p.kind = m.Type
		}
	}()
	return p
}

func (p *typist) types(text string) {
	p.r.t.Helper()
	if err := p.conn.Write(p.r.t.Context(), websocket.MessageBinary, []byte(text)); err != nil {
		p.r.t.Fatal(err)
	}
}

func (p *typist) resize(cols, rows int) {
	p.r.t.Helper()
	b, _ := json.Marshal(map[string]any{"type": "resize", "cols": cols, "rows": rows})
	p.r.send(p.conn, string(b))
}

// sees takes what has come so far.
func (p *typist) sees(text string) bool {
	for {
		select {
		case s, ok := <-p.got:
			if !ok {
				return strings.Contains(p.text, text)
			}
			p.text += s
		default:
			return strings.Contains(p.text, text)
		}
	}
}

func (p *typist) waits(text string) {
	p.r.t.Helper()
	p.r.eventually("output "+text, func() bool { return p.sees(text) })
}

// end waits for the terminal's end and says what it was.
func (p *typist) end() string {
	p.r.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case _, ok := <-p.got:
			if !ok {
				return p.kind
			}
		case <-limit:
			return "nothing"
		}
	}
}
