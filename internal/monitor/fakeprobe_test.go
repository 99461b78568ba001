package monitor

import (
	"sync"
	"testing"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// fakeProbe stands where a probe's connection would be: it notes what the monitor sends to it, and answers when a test says so.
type fakeProbe struct {
	t    *testing.T
	m    *Monitor
	conn *probeConn

	answer func(*probev1.Request) // when not nil, called with each request

	mu       sync.Mutex
	requests []*probev1.Request
	watched  chan []string
}

// fake connects one under the name of a host, which has the container `container;<host>;web` that offers everything.
func (m *Monitor) fake(t *testing.T, host string) *fakeProbe {
	t.Helper()
	f := &fakeProbe{t: t, m: m, watched: make(chan []string, 16)}
	f.connect(host)
	if !m.estate.Apply(host, &probev1.Delta{Seq: 1, Snapshot: true, Entities: []*probev1.Entity{
		{Ref: 1, Id: topology.HostID(host), Kind: topology.KindHost, Label: host, State: topology.StateRunning},
		{
			Ref: 2, Id: "container;" + host + ";web", Kind: topology.KindContainer, Label: "web", State: topology.StateRunning, Parents: []string{topology.HostID(host)},
			Controls: []string{"stop", "exec", "logs", "files"},
		},
	}}, time.Now().UnixMilli()) {
		t.Fatal("the snapshot is refused")
	}
	return f
}

// connect makes a connection, also when there is one already.
func (f *fakeProbe) connect(host string) {
	f.t.Helper()
	hello := &probev1.Frame{Hello: &probev1.Hello{ProbeId: host, Hostname: host, Instance: "1"}}
	conn, _, err := f.m.probes.attach(hello)
	if err != nil {
		f.t.Fatal(err)
	}
	f.conn = conn
	conn.mu.Lock()
	out, closed := conn.out, conn.closed
	conn.mu.Unlock()
	done := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case frame := <-out:
				f.mu.Lock()
				f.requests = append(f.requests, frame.Requests...)
				answer := f.answer
				f.mu.Unlock()
				for _, r := range frame.Requests {
					if answer != nil && r.Cancel == 0 {
						answer(r)
					}
				}
				if frame.Watch != nil {
					f.watched <- frame.Watch.Ids
				}
			case <-closed:
				return
			case <-stop:
				return
			}
		}
	}()
	f.t.Cleanup(func() { close(stop); <-done })
}

// asked lists what was asked of it, without what was called off.
func (f *fakeProbe) asked() (verbs []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.requests {
		if r.Cancel == 0 {
			verbs = append(verbs, r.Verb)
		}
	}
	return verbs
}
