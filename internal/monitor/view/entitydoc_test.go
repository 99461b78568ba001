package view

import (
	"slices"
	"testing"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/query"
)

// Who looks for a port finds the process that is called on it, and the container, pod and host that it is in; things that are inside each other
// (which a probe may say) end nothing.
func TestAPortIsThatOfWhatItIsIn(t *testing.T) {
	t.Parallel()
	es := estate.New(nil)
	es.Hello("p", "i", "a", 0, 0)
	put := func(ref uint32, id string, parents ...string) *probev1.Entity {
		return &probev1.Entity{Ref: ref, Id: id, Kind: topology.KindOf(id), Label: id, State: topology.StateRunning, Parents: parents}
	}
	es.Apply("p", &probev1.Delta{
		Seq: 1, Snapshot: true, Entities: []*probev1.Entity{
			put(1, "host;a"), put(2, "pod;x"), put(3, "container;a;web", "host;a", "pod;x"), put(4, "process;a;7;1", "container;a;web", "host;a"), put(5, "container;a;idle", "host;a", "container;a;idle"),
		},
		Edges: []*probev1.Edge{{Ref: 1, Dst: 4, RemoteAddr: []byte{8, 8, 8, 8}, Port: 443, Seen: 2}, {Ref: 2, Src: 5, RemoteAddr: []byte{8, 8, 8, 8}, Port: 53, Seen: 1}},
	}, 1)
	es.Flush(1, func(estate.Changes) {})
	for q, want := range map[string][]string{
		"port:443":     {"container;a;web", "host;a"},
		"port:/^44./":  {"container;a;web", "host;a"},
		"port=53":      nil,
		"port:*":       {"container;a;web", "host;a"},
		"-port:443":    {"container;a;idle"},
		"port:443 web": {"container;a;web"},
	} {
		expr, err := query.Parse(q)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		es.Read(func(r *estate.Reader) {
			r.Entities(func(e *estate.Entity) bool {
				if (e.Kind == topology.KindContainer || e.Kind == topology.KindHost) && expr.Match(Doc{E: e}) {
					got = append(got, e.ID)
				}
				return true
			})
			for _, id := range []string{"pod;x", "process;a;7;1"} {
				if q == "port:443" && !expr.Match(Doc{E: r.Entity(id)}) {
					t.Errorf("%s does not find %s", q, id)
				}
			}
		})
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s finds %v, want %v", q, got, want)
		}
	}
}
