package estate

import (
	"slices"
	"testing"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
)

// health settles the estate and gives an entity's health and the codes of its reasons.
func health(t *testing.T, s *Estate, id string, at int64) (h Health, codes []string) {
	t.Helper()
	s.Flush(at, func(Changes) {
		e := s.Reader().Entity(id)
		if e == nil {
			t.Fatalf("no %s", id)
		}
		h = e.Health
		for _, r := range e.Reasons {
			codes = append(codes, r.Code)
		}
	})
	return h, codes
}

// Connects that fail are a reason for as long as they are told of: not when the connection has gone, and not twice when whoever is
// called turns out to be somebody else.
func TestFailingConnectsEndWithTheirEdge(t *testing.T) {
	t.Parallel()
	const client = "container;a;client"
	calls := func() *Estate {
		s := two(t)
		s.Apply("a", &probev1.Delta{Seq: 2, Edges: []*probev1.Edge{{Ref: 5, Src: 2, RemoteAddr: []byte{10, 0, 0, 2}, Port: 80, FailRate: 4, Seen: 1}}}, 1)
		if h, codes := health(t, s, client, 2000); h != HealthWarn || len(codes) != 1 || codes[0] != "connects_fail" {
			t.Fatalf("health %v %v", h, codes)
		}
		return s
	}
	for what, then := range map[string]func(s *Estate){
		"the connection goes": func(s *Estate) { s.Apply("a", &probev1.Delta{Seq: 3, GoneEdges: []uint32{5}}, 1) },
		"the server goes, then it succeeds": func(s *Estate) {
			s.Apply("b", &probev1.Delta{Seq: 2, GoneListeners: []uint32{9}, GoneEntities: []uint32{2}}, 1)
			health(t, s, client, 2500)
			s.Apply("a", &probev1.Delta{Seq: 3, Edges: []*probev1.Edge{{Ref: 5, Src: 2, RemoteAddr: []byte{10, 0, 0, 2}, Port: 80, Seen: 1}}}, 1)
		},
		"its probe begins anew": func(s *Estate) {
			s.Hello("a", "j", "a", 0, 0)
			s.Apply("a", &probev1.Delta{Seq: 1, Snapshot: true, Entities: []*probev1.Entity{entity(1, "host;a", nil, "addrs", "10.0.0.1 172.17.0.1"), entity(2, client, []string{"host;a"}, "addrs", "172.17.0.2")}}, 1)
		},
	} {
		s := calls()
		then(s)
		if h, codes := health(t, s, client, 3000); h != HealthOK || len(codes) != 0 {
			t.Errorf("%s: health %v %v", what, h, codes)
		}
	}
}

// That a probe is not heard is news of its host; each of the thousand things on it is not news, nor that it is as it was when the probe is heard
// again. What is worse by then is.
func TestAProbeThatIsNotHeardDoesNotFloodTheTimeline(t *testing.T) {
	t.Parallel()
	s := two(t)
	s.Flush(1500, func(Changes) {})
	before := s.events.Last()
	news := func() (out []string) {
		for _, e := range s.events.After(before, 100) {
			out = append(out, e.ID+" "+e.From+" "+e.To+" "+e.Text)
		}
		return out
	}
	s.Stale("a", true, 2000)
	s.Flush(2000, func(Changes) {})
	s.Stale("a", false, 3000)
	s.Flush(3000, func(Changes) {})
	lost, back := "host;a ok stale its probe is not heard", "host;a stale ok "
	if got := news(); !slices.Equal(got, []string{lost, back}) {
		t.Errorf("events %q", got)
	}
	s.Stale("a", true, 4000)
	s.Flush(4000, func(Changes) {})
	ill := entity(2, "container;a;client", []string{"host;a"}, "addrs", "172.17.0.2")
	ill.Reasons = []*probev1.Reason{{Code: "restart_loop", Severity: 3, Text: "it restarts all the time"}}
	s.Apply("a", &probev1.Delta{Seq: 2, Entities: []*probev1.Entity{ill}}, 5000)
	s.Stale("a", false, 5000)
	s.Flush(5000, func(Changes) {})
	got := news()[2:]
	slices.Sort(got)
	if !slices.Equal(got, []string{"container;a;client stale crit it restarts all the time", lost, back}) {
		t.Errorf("events %q", got)
	}
}
