package monitoring

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/orchestrator/orchestrator/internal/heldport"
	"github.com/orchestrator/orchestrator/internal/monitor"
	"github.com/orchestrator/orchestrator/internal/probe"
)

// both runs a probe that sends to two monitors, the second by way of a line that the test can hold up.
func both(t *testing.T, a, b *rig, via string, cfg probe.Config) {
	t.Helper()
	cfg.Monitors = []string{a.url, b.url}
	if via != "" {
		cfg.Monitors[1] = via
	}
	runProbe(t, cfg)
}

// stop asks one monitor to stop a running container, and gives its id.
func (r *rig) stop() string {
	r.t.Helper()
	var f message
	r.get("/api/v1/topology?view=containers&group=none", &f)
	for i, id := range f.Nodes.ID {
		if f.Nodes.State[i] == "running" {
			if a := r.call("POST", "/api/v1/nodes/"+url.PathEscape(id)+"/controls/stop", adminToken, ""); a.status != 200 {
				r.t.Fatalf("stop %s: %d %s", id, a.status, a.body)
			}
			return id
		}
	}
	r.t.Fatal("nothing runs")
	return ""
}

func (r *rig) state(id string) string {
	var n struct{ State string }
	a := r.call("GET", "/api/v1/nodes/"+url.PathEscape(id), adminToken, "")
	if a.status != 200 {
		return ""
	}
	a.into(r.t, &n)
	return n.State
}

// ids are the containers that a monitor shows.
func (r *rig) ids() string {
	var f message
	r.get("/api/v1/topology?view=containers&group=none&opt.state=all", &f)
	list := map[string]bool{}
	for _, id := range f.Nodes.ID {
		if strings.HasPrefix(id, "container;") {
			list[id] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(list)), " ")
}

// TestReplicasAreEachComplete: both monitors show everything, what is done through one is seen by the other, one that ends
// takes nothing with it, and one that comes back empty is complete again without anybody's help.
func TestReplicasAreEachComplete(t *testing.T) {
	t.Parallel()
	a := newRig(t, func(c *monitor.Config) { c.ReplicaID = "a" })
	address := heldport.Address(t)
	b, end := endingRig(t, address, "b")
	both(t, a, b, "", probe.Config{Simulate: &probe.Simulation{Hosts: 20, Containers: 5}})
	for _, r := range []*rig{a, b} {
		r.eventually("all containers", func() bool { return r.entities("container") == 100 })
	}
	if x, y := a.ids(), b.ids(); x != y {
		t.Errorf("the replicas differ:\n%s\n%s", x, y)
	}
	id := a.stop()
	b.eventually("the other replica knows", func() bool { return b.state(id) == "exited" })
	id = b.stop()
	a.eventually("the first replica knows", func() bool { return a.state(id) == "exited" })

	end()
	id = a.stop()
	a.eventually("one replica is enough", func() bool { return a.state(id) == "exited" })
	b, _ = endingRig(t, address, "b2")
	b.eventually("the new one is complete", func() bool { return b.entities("container") == 100 && b.state(id) == "exited" })
	if x, y := a.ids(), b.ids(); x != y {
		t.Errorf("the replicas differ:\n%s\n%s", x, y)
	}
	var s struct{ Probes map[string]int }
	b.get("/api/v1/status", &s)
	if s.Probes["connected"] != 20 {
		t.Errorf("%v", s.Probes)
	}
}

// endingRig is a rig at an address of the test's choice which can be ended before the test is.
func endingRig(t *testing.T, address, id string) (*rig, func()) {
	t.Helper()
	m, err := monitor.New(monitor.Config{Listen: address, AdminToken: adminToken, ProbeToken: probeToken, ReplicaID: id}, monitor.Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	<-m.Ready()
	end := sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(end)
	return &rig{t, m, m.URL()}, end
}

// line passes bytes between probes and a monitor until it is held up: then it takes nothing more, as a monitor that hangs.
type line struct {
	mu   sync.Mutex
	held chan struct{} // closed: flows
}

func (l *line) wait() {
	l.mu.Lock()
	c := l.held
	l.mu.Unlock()
	<-c
}

func (l *line) hold() {
	l.mu.Lock()
	l.held = make(chan struct{})
	l.mu.Unlock()
}

func (l *line) release() {
	l.mu.Lock()
	close(l.held)
	l.mu.Unlock()
}

func (l *line) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 4096)
	for {
		l.wait()
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func throughLine(t *testing.T, target string) (string, *line) {
	t.Helper()
	l := &line{held: make(chan struct{})}
	close(l.held)
	in, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []io.Closer
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			c, err := in.Accept()
			if err != nil {
				return
			}
			d, err := net.Dial("tcp", strings.TrimPrefix(target, "http://"))
			if err != nil {
				c.Close()
				continue
			}
			mu.Lock()
			conns = append(conns, c, d)
			mu.Unlock()
			wg.Add(2)
			go func() { defer wg.Done(); l.copy(c, d) }()
			go func() { defer wg.Done(); l.copy(d, c) }()
		}
	}()
	t.Cleanup(func() {
		in.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return "http://" + in.Addr().String(), l
}

// TestASlowReplicaHoldsUpNobody: while the line to one monitor takes nothing, the other is told everything; afterwards both
// know the same.
func TestASlowReplicaHoldsUpNobody(t *testing.T) {
	t.Parallel()
	a, b := newRig(t, nil), newRig(t, nil)
	via, l := throughLine(t, b.url)
	both(t, a, b, via, probe.Config{Simulate: &probe.Simulation{Hosts: 10, Containers: 5, Churn: 20}})
	for _, r := range []*rig{a, b} {
		r.eventually("all containers", func() bool { return r.entities("container") == 50 })
	}
	l.hold()
	released := false
	defer func() {
		if !released {
			l.release()
		}
	}()
	var last string
	for range 5 {
		last = a.stop()
		a.eventually("told while the other hangs", func() bool { return a.state(last) == "exited" })
	}
	l.release()
	released = true
	b.eventually("the slow one catches up", func() bool { return b.state(last) == "exited" })
	b.eventually("both know the same", func() bool { return a.ids() == b.ids() })
}
