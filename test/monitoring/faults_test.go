package monitoring

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/klauspost/compress/zstd"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/probe"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// impostor is a connection with a probe's token over which a test sends what it likes.
type impostor struct {
	r     *rig
	conn  *websocket.Conn
	codec *topology.Codec
	seq   uint64
}

func (r *rig) impostor(hello *probev1.Hello) *impostor {
	r.t.Helper()
	conn, _, err := r.socket("/api/v1/probe", probeToken)
	if err != nil {
		r.t.Fatal(err)
	}
	x := &impostor{r: r, conn: conn, codec: topology.NewCodec()}
	if hello != nil {
		x.send(&probev1.Frame{Hello: hello})
		x.read()
	}
	return x
}

func (x *impostor) send(f *probev1.Frame) {
	x.r.t.Helper()
	data, err := x.codec.Encode(nil, f)
	if err != nil {
		x.r.t.Fatal(err)
	}
	x.raw(data)
}

// raw sends bytes; that the monitor has already hung up is no failure of the test.
func (x *impostor) raw(data []byte) {
	ctx, stop := context.WithTimeout(x.r.t.Context(), patience)
	defer stop()
	_ = x.conn.Write(ctx, websocket.MessageBinary, data)
}

// read takes the next frame, or nil when the monitor has hung up.
func (x *impostor) read() *probev1.Frame {
	ctx, stop := context.WithTimeout(x.r.t.Context(), patience)
	defer stop()
	_, data, err := x.conn.Read(ctx)
	if err != nil {
		if ctx.Err() != nil {
			x.r.t.Fatal("the monitor neither answers nor hangs up")
		}
		return nil
	}
	f, err := x.codec.Decode(data)
	if err != nil {
		x.r.t.Fatal(err)
	}
	return f
}

// hungUp reports whether the monitor ends the connection.
func (x *impostor) hungUp() bool {
	for {
		if x.read() == nil {
			return true
		}
	}
}

// delta sends the next delta; the first is a snapshot.
func (x *impostor) delta(d *probev1.Delta) {
	x.r.t.Helper()
	x.seq++
	d.Seq, d.Snapshot = x.seq, x.seq == 1
	x.send(&probev1.Frame{Delta: d})
}

func hello(name string) *probev1.Hello {
	return &probev1.Hello{ProbeId: name, Instance: name, Hostname: name, Version: "0", NowMs: time.Now().UnixMilli()}
}

func hostEntity(ref uint32, name string) *probev1.Entity {
	return &probev1.Entity{Ref: ref, Id: topology.HostID(name), Kind: topology.KindHost, Label: name, State: topology.StateRunning}
}

// TestHostileReportsHarmNobody sends what no probe would. The sender is hung up on or cut to size; the host that behaves is
// shown as before, and nothing of the hostile one's text is more than text.
func TestHostileReportsHarmNobody(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.probe(probe.Config{Simulate: &probe.Simulation{Hosts: 3, Containers: 5}})
	r.eventually("the hosts that behave", func() bool { return r.entities("container") == 15 })
	bomb := func(size int) []byte {
		var b bytes.Buffer
		w, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		block := make([]byte, 1<<20)
		for range size >> 20 {
			_, _ = w.Write(block)
		}
		w.Close()
		return append([]byte{1}, b.Bytes()...)
	}
	packed := bomb(2 * topology.MaxFrame)
	many := make([]*probev1.Entity, topology.MaxEntities+1)
	for i := range many {
		many[i] = &probev1.Entity{Ref: uint32(i + 1), Id: fmt.Sprint("container;x;", i), Kind: "container"}
	}
	for name, send := range map[string]func(x *impostor){
		"nothing":           func(x *impostor) { x.raw(nil) },
		"garbage":           func(x *impostor) { x.raw([]byte("\x00\xff\xfe{{{\x1b[2J")) },
		"unknown marker":    func(x *impostor) { x.raw([]byte{9, 1, 2, 3}) },
		"half a zstd frame": func(x *impostor) { x.raw(packed[:20]) },
		"64 MB packed":      func(x *impostor) { x.raw(packed) },
		"text":              func(x *impostor) { _ = x.conn.Write(t.Context(), websocket.MessageText, []byte("hello")) },
		"too many bytes":    func(x *impostor) { x.raw(make([]byte, topology.MaxFrame+1)) },
		"too many entities": func(x *impostor) { x.delta(&probev1.Delta{Entities: many}) },
		"port 2^30": func(x *impostor) {
			x.delta(&probev1.Delta{Edges: []*probev1.Edge{{Ref: 2, Src: 2, Dst: 2, Port: 1 << 30}}})
		},
		"no address": func(x *impostor) {
			x.delta(&probev1.Delta{Edges: []*probev1.Edge{{Ref: 3, Src: 2, RemoteAddr: []byte("none at all"), Port: 80}}})
		},
		"wrong kind": func(x *impostor) {
			x.delta(&probev1.Delta{Entities: []*probev1.Entity{{Ref: 1, Id: "host;h", Kind: "pod"}}})
		},
		"uneven metrics": func(x *impostor) {
			x.send(&probev1.Frame{Metrics: &probev1.Metrics{Refs: []uint32{1, 2}, Values: []float32{1}}})
		},
		"no name": func(x *impostor) { x.send(&probev1.Frame{Hello: &probev1.Hello{}}) },
	} {
		for _, greeted := range []bool{false, true} {
			var h *probev1.Hello
			if greeted {
				h = hello("hostile")
			}
			if name == "no name" && greeted {
				continue
			}
			x := r.impostor(h)
			send(x)
			if !x.hungUp() {
				t.Errorf("%s (after a hello: %v) is taken", name, greeted)
			}
		}
	}
	// Text with markup and terminal escapes, links to what is not there, and to another's host.
	evil := "<img src=x onerror=alert(1)>\x1b]52;c;ZXZpbA==\x07\x1b[2J\u202e"
	x := r.impostor(hello("evil"))
	x.delta(&probev1.Delta{
		Entities: []*probev1.Entity{
			hostEntity(1, "evil"),
			{
				Ref: 2, Id: "container;evil;" + evil, Kind: topology.KindContainer, Label: evil + strings.Repeat("x", 5000), State: evil, Parents: []string{"host;evil", "host;" + evil, "container;evil;" + evil},
				Attrs: []*probev1.Attr{{Key: evil, Value: evil}, {Key: topology.AttrAddrs, Value: evil}}, Controls: []string{evil, "stop"}, Reasons: []*probev1.Reason{{Code: evil, Text: evil, Severity: 99}},
			},
		},
		Edges:     []*probev1.Edge{{Ref: 1, Src: 2, Dst: 777, Port: 80}},
		Listeners: []*probev1.Listener{{Ref: 1, Entity: 555, Port: 80}},
	})
	x.send(&probev1.Frame{Metrics: &probev1.Metrics{AtMs: 1 << 60, Names: []string{evil}, Refs: []uint32{2, 99}, NameIndex: []uint32{0, 0}, Values: []float32{1, 2}}})
	r.eventually("the evil host", func() bool { return r.entities("host") == 4 })
	for _, path := range []string{
		"/api/v1/topology?view=containers&group=none&opt.state=all", "/api/v1/topology?view=containers&format=csv&opt.state=all", "/api/v1/events?limit=500", "/api/v1/probes",
		"/metrics?entities=container,host", "/api/v1/search?q=img", "/api/v1/views", "/api/v1/nodes/" + url.PathEscape(topology.HostID("evil")),
	} {
		a := r.call("GET", path, adminToken, "")
		if a.status != 200 || bytes.ContainsAny(a.body, "\x1b\x07") || bytes.Contains(a.body, []byte(`\u001b`)) {
			t.Errorf("%s: %d, or an escape gets through: %.200q", path, a.status, a.body)
		}
		if kind := a.header.Get("Content-Type"); strings.Contains(kind, "html") || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s is served as %q", path, kind)
		}
	}
	// Deltas with holes are asked for again, and given up on in the end.
	y := r.impostor(hello("holes"))
	y.delta(&probev1.Delta{Entities: []*probev1.Entity{hostEntity(1, "holes")}})
	for range 10 {
		y.seq += 5
		y.delta(&probev1.Delta{GoneEntities: []uint32{9}})
	}
	if !y.hungUp() {
		t.Error("deltas that never fit are taken for ever")
	}
	id := r.stop()
	r.eventually("the others work as before", func() bool { return r.state(id) == "exited" })
}

// TestAHostWhoseClockIsWrongIsShownAsTheOthers: a clock a year ahead or an hour behind is said, and changes nothing else.
func TestAHostWhoseClockIsWrongIsShownAsTheOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for name, off := range map[string]time.Duration{"ahead": 365 * 24 * time.Hour, "behind": -time.Hour, "right": 0} {
		h := hello(name)
		at := time.Now().Add(off).UnixMilli()
		h.NowMs = at
		x := r.impostor(h)
		x.delta(&probev1.Delta{AtMs: at, Entities: []*probev1.Entity{hostEntity(1, name)}})
		stop := make(chan struct{})
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				now := time.Now().Add(off).UnixMilli()
				data, err := x.codec.Encode(nil, &probev1.Frame{Metrics: &probev1.Metrics{AtMs: now, Names: []string{topology.MetricCPU}, Refs: []uint32{1}, NameIndex: []uint32{0}, Values: []float32{42}}})
				if err == nil {
					x.raw(data)
				}
				select {
				case <-stop:
					return
				case <-time.After(200 * time.Millisecond):
				}
			}
		}()
		t.Cleanup(func() { close(stop); <-stopped })
	}
	value := func(name string) *float64 {
		var n struct {
			Stale   bool
			Metrics []struct {
				ID     string
				Value  *float64
				Series struct{ V []*float64 }
			}
		}
		if a := r.call("GET", "/api/v1/nodes/"+url.PathEscape(topology.HostID(name)), adminToken, ""); a.status == 200 {
			a.into(t, &n)
		}
		for _, m := range n.Metrics {
			if m.ID == topology.MetricCPU && !n.Stale {
				for _, v := range m.Series.V {
					if v != nil {
						return v
					}
				}
			}
		}
		return nil
	}
	for _, name := range []string{"ahead", "behind", "right"} {
		r.eventually(name+" has a series that reaches now", func() bool { v := value(name); return v != nil && *v > 41 && *v < 43 })
	}
	var probes struct {
		Probes []struct {
			ID    string
			State string
			Skew  int64 `json:"clock_skew_ms"`
		}
	}
	r.get("/api/v1/probes", &probes)
	for _, p := range probes.Probes {
		want := map[string]time.Duration{"ahead": 365 * 24 * time.Hour, "behind": -time.Hour}[p.ID]
		if d := time.Duration(p.Skew)*time.Millisecond - want; d.Abs() > time.Minute || p.State != "connected" {
			t.Errorf("%+v: want %v", p, want)
		}
	}
	// What is recorded can be looked at: no time in it is from the clock that was wrong.
	var span struct {
		From int64 `json:"from_ms"`
		To   int64 `json:"to_ms"`
	}
	r.get("/api/v1/replay", &span)
	if now := time.Now().UnixMilli(); span.To > now+60_000 || span.From < now-600_000 {
		t.Errorf("the replay reaches from %d to %d, and now is %d", span.From, span.To, now)
	}
}

// TestChurnOfConnectionsIsBounded: hosts of which 5,000 connections change every second are shown with the edges they have now
// and not those they had, and the others are as fresh as ever.
func TestChurnOfConnectionsIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.probe(probe.Config{Simulate: &probe.Simulation{Hosts: 10, Containers: 10, Connections: 60, Churn: 500}})
	r.eventually("all containers", func() bool { return r.entities("container") == 100 })
	conn, _, err := r.socket("/api/v1/live", adminToken)
	if err != nil {
		t.Fatal(err)
	}
	r.send(conn, `{"type":"subscribe","sub":1,"view":"containers","options":{"group":"none"}}`)
	if f := r.read(conn); f.Type != "frame" {
		t.Fatal(f.Type)
	}
	for range 5 {
		r.read(conn)
	}
	id := r.stop()
	r.eventually("a stop is seen among it", func() bool { return r.state(id) == "exited" })
	var s struct{ Edges int }
	r.get("/api/v1/status", &s)
	if s.Edges > 10*10*60*2 { // both halves of one that is on its way
		t.Errorf("%d edges of hosts that have 6000", s.Edges)
	}
}

// TestShortConnectionsOfARealHost opens and ends thousands of connections as fast as this machine can, and demands that the
// probe counts them on one edge.
func TestShortConnectionsOfARealHost(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.probe(probe.Config{Hostname: "busy", DockerSocket: "off", RuntimeSockets: []string{}, MaxProcesses: 5000})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go hangUp(l)
	port := l.Addr().(*net.TCPAddr).Port
	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { stopped <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
				c.Close()
				n++
			}
			if n%2000 == 0 { // the ports of what has ended are not free at once
				time.Sleep(100 * time.Millisecond)
			}
		}
	}()
	type edge struct {
		Port int
		New  float64
		N    int
	}
	edges := func() (out []edge) {
		var hits struct{ Results []struct{ ID string } }
		r.get(fmt.Sprintf("/api/v1/search?q=kind:process+pid%%3D%d", os.Getpid()), &hits)
		if len(hits.Results) != 1 {
			return nil
		}
		var n struct{ Edges []edge }
		if a := r.call("GET", "/api/v1/nodes/"+url.PathEscape(hits.Results[0].ID), adminToken, ""); a.status == 200 {
			a.into(t, &n)
		}
		for _, e := range n.Edges {
			if e.Port == port {
				out = append(out, e)
			}
		}
		return out
	}
	r.eventually("the edge", func() bool { return len(edges()) > 0 })
	close(stop)
	n := <-stopped
	if got := edges(); len(got) > 8 { // to itself, and what ended before it was seen whose it was: to and from the host
		t.Errorf("%d edges for %d connections to one port: %+v", len(got), n, got)
	}
	t.Logf("%d connections", n)
}

// TestASlowBrowserHoldsUpNobody: a page that does not read is not waited for, and when it reads again it is told what is now,
// not all that was.
func TestASlowBrowserHoldsUpNobody(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.probe(probe.Config{Simulate: &probe.Simulation{Hosts: 100, Containers: 10, Churn: 50}})
	r.eventually("all containers", func() bool { return r.entities("container") == 1000 })
	open := func() *websocket.Conn {
		t.Helper()
		conn, _, err := r.socket("/api/v1/live", adminToken)
		if err != nil {
			t.Fatal(err)
		}
		r.send(conn, `{"type":"subscribe","sub":1,"view":"containers","options":{"group":"none","flows":true,"metric":"cpu","opts":{"state":"all"}}}`)
		return conn
	}
	slow, fast := open(), open()
	var id string
	for i := range 40 {
		r.read(fast)
		if i == 20 {
			id = r.stop()
		}
	}
	told := func(conn *websocket.Conn) (messages int) {
		t.Helper()
		rev := uint64(0)
		for {
			m := r.read(conn)
			messages++
			switch m.Type {
			case "frame":
			case "diff":
				if rev != 0 && m.Rev != rev+1 {
					t.Fatalf("revision %d after %d", m.Rev, rev)
				}
			default:
				t.Fatalf("%s: %+v", m.Type, m.Error)
			}
			rev = m.Rev
			for i := range m.Nodes.ID {
				if m.Nodes.ID[i] == id && m.Nodes.State[i] == "exited" {
					return messages
				}
			}
		}
	}
	t.Logf("the page that slept was told of the stop with its message %d", told(slow))
}

// TestTraversalInAddresses: steps upward in an address lead to no file, of the monitor's or of a host's.
func TestTraversalInAddresses(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.probe(probe.Config{Hostname: "this", DockerSocket: "off", RuntimeSockets: []string{}})
	r.eventually("the host", func() bool { return r.entities("host") == 1 })
	for _, path := range []string{
		"/api/v1/nodes/" + url.PathEscape("host;this") + "/file?path=/etc/passwd", // a host has no files
		"/api/v1/nodes/" + url.PathEscape("container;this;../../etc/passwd") + "/file?path=/etc/passwd",
		"/api/v1/nodes/..%2f..%2fetc%2fpasswd", "/api/v1/nodes/%2e%2e/file?path=/", "/assets/..%2f..%2f..%2f..%2fetc%2fpasswd", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd",
		"/api/v1/proxy/..%2f..%2fetc/passwd", "/api/v1/proxy/agent/..%2f../state",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Opaque = strings.SplitN(path, "?", 2)[0]
		if _, q, ok := strings.Cut(path, "?"); ok {
			req.URL.RawQuery = q
		}
		req.Header.Set("Authorization", "Bearer "+adminToken)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		_, _ = body.ReadFrom(resp.Body)
		resp.Body.Close()
		if strings.Contains(body.String(), "root:") || strings.HasPrefix(path, "/api/") && resp.StatusCode < 400 {
			t.Errorf("%s: %d %.100s", path, resp.StatusCode, body.String())
		}
	}
}
