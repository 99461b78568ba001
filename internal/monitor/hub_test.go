package monitor

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/monitor/view"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// pictureOf decodes a message's body as far as the tests look into it.
func pictureOf(t *testing.T, e encoded) (p struct {
	Rev   uint64
	Group string
	Nodes struct {
		ID  []string
		Hit []int
	}
	Gone struct{ Nodes []int }
},
) {
	t.Helper()
	if err := json.Unmarshal(append([]byte("{"), e.body...), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// Who looks at a picture with nothing in it gets it once, and not again with every tick and event.
func TestAnEmptyPictureIsSentOnce(t *testing.T) {
	t.Parallel()
	h := newHub(estate.New(estate.NewEvents()), time.Now)
	v, err := h.open(view.Spec{View: "containers"}, make(chan struct{}, 1))
	if err != nil {
		t.Fatal(err)
	}
	list, whole := v.next(0)
	if len(list) != 1 || !whole || list[0].rev == 0 {
		t.Fatalf("at first %d messages, whole: %v", len(list), whole)
	}
	if again, _ := v.next(list[0].rev); len(again) != 0 {
		t.Errorf("then %d more", len(again))
	}
	h.flush()
	if again, _ := v.next(list[0].rev); len(again) != 0 {
		t.Errorf("after a flush %d more", len(again))
	}
}

// A large picture, which is grouped by itself, is made anew when it has shrunk, and may have become nothing by then: the probes of a network that is cut are
// forgotten within a moment. Who looks at it is told.
func TestALargePictureThatVanishesIsTold(t *testing.T) {
	t.Parallel()
	s := estate.New(estate.NewEvents())
	h := newHub(s, time.Now)
	for host, n := range map[string]uint32{"a": 700, "b": 1600} {
		d := &probev1.Delta{Seq: 1, Snapshot: true, Entities: []*probev1.Entity{{Ref: 1, Id: "host;" + host, Kind: topology.KindHost, Label: host}}}
		for i := range n {
			d.Entities = append(d.Entities, &probev1.Entity{Ref: 2 + i, Id: fmt.Sprint("container;", host, ";", i), Kind: topology.KindContainer, Label: "c", State: topology.StateRunning, Parents: []string{"host;" + host}})
		}
		s.Hello(host, "1", host, 0, 0)
		if !s.Apply(host, d, 1000) {
			t.Fatal("refused")
		}
	}
	v, err := h.open(view.Spec{View: "containers"}, make(chan struct{}, 1))
	if err != nil {
		t.Fatal(err)
	}
	list, _ := v.next(0)
	was := pictureOf(t, list[0])
	if was.Group != "host" || len(was.Nodes.ID) != 2 {
		t.Fatalf("grouped by %q: %d nodes", was.Group, len(was.Nodes.ID))
	}
	s.Forget("a", 2000)
	h.flush()
	list, _ = v.next(was.Rev)
	if len(list) != 1 || len(pictureOf(t, list[0]).Gone.Nodes) != 1 {
		t.Fatalf("without a: %s", list[0].body)
	}
	rev := list[0].rev
	s.Forget("b", 2500)
	h.flush()
	list, whole := v.next(rev)
	if len(list) != 1 || !whole {
		t.Fatalf("%d messages, whole: %v", len(list), whole)
	}
	if now := pictureOf(t, list[0]); now.Rev != rev+1 || len(now.Nodes.ID) != 0 {
		t.Errorf("%d nodes are left in revision %d, after %d", len(now.Nodes.ID), now.Rev, rev)
	}
}

// Which nodes a search by a figure finds changes with the figure, and pages that look on are told.
func TestWhatIsFoundByAFigureMoves(t *testing.T) {
	t.Parallel()
	s := estate.New(estate.NewEvents())
	h := newHub(s, time.Now)
	s.Hello("a", "1", "a", 0, 0)
	s.Apply("a", &probev1.Delta{Seq: 1, Snapshot: true, Entities: []*probev1.Entity{{Ref: 1, Id: "host;a", Kind: topology.KindHost, Label: "a"}}}, 1000)
	use := func(cpu float32, at int64) {
		s.Metrics("a", &probev1.Metrics{AtMs: at, Names: []string{"cpu"}, Refs: []uint32{1}, NameIndex: []uint32{0}, Values: []float32{cpu}}, at)
	}
	use(10, 1000)
	v, err := h.open(view.Spec{View: "hosts", Find: "cpu>50"}, make(chan struct{}, 1))
	if err != nil {
		t.Fatal(err)
	}
	list, _ := v.next(0)
	was := pictureOf(t, list[0])
	if len(was.Nodes.Hit) != 1 || was.Nodes.Hit[0] != 0 {
		t.Fatalf("at first %v", was.Nodes)
	}
	rev := was.Rev
	for i, c := range []struct {
		cpu float32
		hit int
	}{{60, 1}, {70, -1}, {20, 0}} {
		use(c.cpu, int64(2000+1000*i))
		h.flush()
		list, whole := v.next(rev)
		switch {
		case c.hit < 0 && len(list) == 0: // nothing to tell
		case c.hit < 0 || len(list) != 1 || whole:
			t.Errorf("at %v %%: %d messages, whole: %v", c.cpu, len(list), whole)
		default:
			now := pictureOf(t, list[0])
			if len(now.Nodes.Hit) != 1 || now.Nodes.Hit[0] != c.hit {
				t.Errorf("at %v %%: found %v", c.cpu, now.Nodes.Hit)
			}
			rev = now.Rev
		}
	}
}
