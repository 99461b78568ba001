package probe

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/leakcheck"
	"github.com/orchestrator/orchestrator/internal/realpart"
	"github.com/orchestrator/orchestrator/internal/topology"
)

func TestMain(m *testing.M) {
	if os.Getenv(dwellerEnv) != "" {
		dwell()
		return
	}
	leakcheck.Main(m)
}

// newTestProbe makes a probe of this very host that talks to no monitor.
func newTestProbe(t *testing.T, change func(*Config)) *Probe {
	t.Helper()
	cfg := Config{Monitors: []string{"127.0.0.1:1"}, Hostname: "testhost", DockerSocket: "off", RuntimeSockets: []string{}, NetSource: "diag", Conntrack: "off"}
	if change != nil {
		change(&cfg)
	}
	p, err := New(cfg, Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	p.budget = 10 * time.Second // a busy machine must not change what is found
	t.Cleanup(p.ns.close)
	return p
}

// look runs one round now, whatever is due.
func lookNow(p *Probe) {
	p.next.procs, p.next.sockets = time.Time{}, time.Time{}
	p.tick(time.Now(), true)
}

// held gives the probe's picture: entities by id, edges by key.
func held(p *Probe) (map[string]*probev1.Entity, map[edgeKey]*probev1.Edge) {
	p.hub.mu.Lock()
	defer p.hub.mu.Unlock()
	entities, edges := map[string]*probev1.Entity{}, map[edgeKey]*probev1.Edge{}
	for id, e := range p.hub.entities {
		entities[id] = e.pb
	}
	for k, e := range p.hub.edges {
		edges[k] = e.pb
	}
	return entities, edges
}

// selfID is the entity id of the test's own process.
func selfID(t *testing.T, p *Probe) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	s, ok := parseStat(b)
	if !ok {
		t.Fatal("own stat not understood")
	}
	return topology.ProcessID(p.cfg.Hostname, os.Getpid(), s.start)
}

// connect opens a connection to itself over an address and keeps it open.
func connect(t *testing.T, network, addr string) uint16 {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		realpart.Missing(t, "no %s on this host: %v", network, err)
	}
	t.Cleanup(func() { l.Close() })
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
		close(accepted)
	}()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s := <-accepted
	t.Cleanup(func() { s.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	n, _ := strconv.Atoi(port)
	return uint16(n)
}

func TestProbeFindsItsOwnConnections(t *testing.T) {
	t.Parallel()
	for _, source := range []string{"diag", "proc"} {
		for _, at := range []struct{ network, addr string }{{"tcp4", "127.0.0.1:0"}, {"tcp6", "[::1]:0"}} {
			t.Run(source+"/"+at.network, func(t *testing.T) {
				p := newTestProbe(t, func(c *Config) { c.NetSource = source; c.MaxProcesses = 5000 })
				port := connect(t, at.network, at.addr)
				self := selfID(t, p)
				// On a busy machine one round's budget may not reach all sockets' owners; the next ones do.
				for range 20 {
					lookNow(p)
					if _, edges := held(p); edges[edgeKey{src: self, dst: self, port: port}].GetSeen() == 3 {
						break
					}
				}
				entities, edges := held(p)
				e := entities[self]
				if e == nil {
					t.Fatalf("own process %s not found among %d entities", self, len(entities))
				}
				if got := attr(e, topology.AttrPID); got != strconv.Itoa(os.Getpid()) {
					t.Errorf("pid %s", got)
				}
				edge := edges[edgeKey{src: self, dst: self, port: port}]
				if edge == nil {
					t.Fatalf("no edge to port %d", port)
				}
				if edge.Conns != 1 || edge.Seen != 3 {
					t.Errorf("%v: want one connection, seen by both ends", edge)
				}
				if entities[topology.HostID("testhost")] == nil {
					t.Error("no host")
				}
			})
		}
	}
}

func TestProbeSaysWhenAConnectionIsGone(t *testing.T) {
	t.Parallel()
	p := newTestProbe(t, nil)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	key := edgeKey{src: selfID(t, p), dst: selfID(t, p), port: uint16(l.Addr().(*net.TCPAddr).Port)}
	for range 20 {
		lookNow(p)
		if _, edges := held(p); edges[key] != nil {
			break
		}
	}
	if _, edges := held(p); edges[key] == nil {
		t.Fatal("not found while open")
	}
	c.Close()
	s.Close()
	var e *probev1.Edge
	// The kernel's own part of the end may still be under way.
	for deadline := time.Now().Add(lingerMillis * time.Millisecond / 2); time.Now().Before(deadline); {
		lookNow(p)
		_, edges := held(p)
		if e = edges[key]; e.GetConns() == 0 {
			break
		}
	}
	if e == nil || e.Conns != 0 {
		t.Fatalf("%v: a connection that has just ended stays for a while, with none open", e)
	}
	// Later the edge goes.
	p.next.procs, p.next.sockets = time.Time{}, time.Time{}
	p.tick(time.Now().Add(2*lingerMillis*time.Millisecond), true)
	if _, edges := held(p); edges[key] != nil {
		t.Error("still there after it has lingered")
	}
}

func TestHubSendsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	codec := topology.NewCodec()
	h := newHub(codec)
	entity := func(id, label string) *probev1.Entity {
		return &probev1.Entity{Id: id, Kind: topology.KindOf(id), Label: label}
	}
	apply := func(r *round) *probev1.Delta {
		t.Helper()
		_, before := h.span()
		if err := h.apply(r); err != nil {
			t.Fatal(err)
		}
		list, _, ok := h.after(before)
		if !ok || len(list) > 1 {
			t.Fatalf("%d deltas, held %v", len(list), ok)
		}
		if len(list) == 0 {
			return nil
		}
		f, err := codec.Decode(list[0].data)
		if err != nil {
			t.Fatal(err)
		}
		return f.Delta
	}
	e := edge{key: edgeKey{src: "container;h;a", dst: "container;h;b", port: 80}, conns: 1}
	if d := apply(&round{at: 1, entities: []*probev1.Entity{entity("container;h;a", "a"), entity("container;h;b", "b")}, edges: []edge{e}}); len(d.Entities) != 2 || len(d.Edges) != 1 {
		t.Errorf("first: %v", d)
	}
	if d := apply(&round{at: 2, entities: []*probev1.Entity{entity("container;h;b", "b"), entity("container;h;a", "a")}, edges: []edge{e}}); d != nil {
		t.Errorf("nothing changed: %v", d)
	}
	e.tx = 1000
	if d := apply(&round{at: 3, entities: []*probev1.Entity{entity("container;h;a", "a"), entity("container;h;b", "b")}, edges: []edge{e}}); d != nil {
		t.Errorf("a rate is not worth a message at once: %v", d)
	}
	if d := apply(&round{at: 3 + rateMillis, entities: []*probev1.Entity{entity("container;h;a", "a"), entity("container;h;b", "b")}, edges: []edge{e}}); d == nil || len(d.Edges) != 1 {
		t.Errorf("but later: %v", d)
	}
	if d := apply(&round{at: 9000, entities: []*probev1.Entity{entity("container;h;a", "a2")}}); len(d.Entities) != 1 || len(d.GoneEntities) != 1 || len(d.GoneEdges) != 1 {
		t.Errorf("changed and gone: %v", d)
	}
	if _, _, ok := h.after(99); ok {
		t.Error("a number that was never given is not held")
	}
}

func TestPolicyIsTheProbesOwn(t *testing.T) {
	t.Parallel()
	p := newTestProbe(t, func(c *Config) { c.Policy, c.MaxProcesses = []string{PolicyLogs}, 5000 })
	lookNow(p)
	self := selfID(t, p)
	for verb, code := range map[string]string{
		"signal": "forbidden", "host-exec": "forbidden", "exec": "forbidden", "files": "forbidden", "env": "forbidden", "stop": "forbidden",
		"nonsense": "not_found", "logs": "bad_request", "processes": "",
	} {
		// The request claims to come from an administrator: the probe does not care.
		resp := p.serve(context.Background(), &probev1.Request{Verb: verb, Node: self, User: "root", Role: "admin"}, nil)
		if resp.Code != code {
			t.Errorf("%s: %q (%s), want %q", verb, resp.Code, resp.Message, code)
		}
	}
	for verb := range verbs() {
		if verbs()[verb].policy == "" && verb != "processes" && verb != "sockets" {
			t.Errorf("%s needs no policy", verb)
		}
	}
}

func TestGovernorSlowsDownAndRecovers(t *testing.T) {
	t.Parallel()
	s := 1.0
	for range 20 {
		s = adjust(s, 30, 3)
	}
	if s != maxStretch {
		t.Errorf("stretch %v under load", s)
	}
	for range 20 {
		s = adjust(s, 0.1, 3)
	}
	if s != 1 {
		t.Errorf("stretch %v when idle", s)
	}
	if adjust(1, 2, 3) != 1 {
		t.Error("below the limit nothing changes")
	}
}

func TestValidateJoinsAllProblems(t *testing.T) {
	t.Parallel()
	_, err := New(Config{NetSource: "magic", Policy: []string{"everything"}, Hostname: "a;b"}, Deps{})
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{"monitors", "net-source", "policy", "hostname"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not speak of %s", err, want)
		}
	}
}
