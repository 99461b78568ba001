package view

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// frame is the wire form of a picture.
type frame struct {
	Rev   uint64
	Nodes struct {
		H                       []uint32
		ID, Label, Minor, Kind  []string
		State, Reason, Shape    []string
		N, Health, Pseudo, X, Y []int
		Hit                     []int
		Box                     []uint32
		M                       []*float64
	}
	Edges struct {
		H, S, D, N, Port []uint32
		Proto, Ev        []string
	}
	Gone   struct{ Nodes, Edges []uint32 }
	Values struct {
		H []uint32
		M []*float64
	}
	Moved struct {
		H    []uint32
		X, Y []int
	}
	Boxes  []struct{ H uint32 }
	Totals map[string]int
}

func decode(t interface{ Fatal(...any) }, body []byte) frame {
	var f frame
	if err := json.Unmarshal(append([]byte("{"), body...), &f); err != nil {
		t.Fatal(err, string(body))
	}
	return f
}

// page holds what a browser would hold, brought up to date by diffs.
type page struct {
	nodes map[uint32]string
	edges map[uint32]string
	ids   map[uint32]string
	place map[uint32][2]int
}

func newPage() *page {
	return &page{map[uint32]string{}, map[uint32]string{}, map[uint32]string{}, map[uint32][2]int{}}
}

func (p *page) apply(t interface{ Fatal(...any) }, f frame) {
	for _, h := range f.Gone.Nodes {
		if _, ok := p.nodes[h]; !ok {
			t.Fatal("gone, but never there: node", h)
		}
		delete(p.nodes, h)
		delete(p.ids, h)
		delete(p.place, h)
	}
	for _, h := range f.Gone.Edges {
		if _, ok := p.edges[h]; !ok {
			t.Fatal("gone, but never there: edge", h)
		}
		delete(p.edges, h)
	}
	n := &f.Nodes
	for i, h := range n.H {
		p.ids[h] = n.ID[i]
		p.nodes[h] = fmt.Sprintf("%s|%s|%s|%s|%d|%s|%d|%s|%d", n.ID[i], n.Label[i], n.Minor[i], n.Kind[i], n.N[i], n.State[i], n.Health[i], n.Reason[i], n.Hit[i])
		p.place[h] = [2]int{n.X[i], n.Y[i]}
	}
	for i, h := range f.Moved.H {
		p.place[h] = [2]int{f.Moved.X[i], f.Moved.Y[i]}
	}
	e := &f.Edges
	for i, h := range e.H {
		if p.ids[e.S[i]] == "" || p.ids[e.D[i]] == "" {
			t.Fatal("an edge between nodes that the page does not have", e.S[i], e.D[i])
		}
		p.edges[h] = fmt.Sprintf("%s>%s %d %s %s", p.ids[e.S[i]], p.ids[e.D[i]], e.Port[i], e.Proto[i], e.Ev[i])
	}
}

// picture is the page without handles, in a form that two can be compared by.
func (p *page) picture() map[string]int {
	out := map[string]int{}
	for _, s := range p.nodes {
		out["node "+s]++
	}
	for _, s := range p.edges {
		out["edge "+s]++
	}
	return out
}

// model is a random estate of a few probes.
type model struct {
	seq   [3]uint64
	refs  [3]map[string]uint32
	next  uint32
	edges [3]map[uint32]bool
}

func addr(p int) []byte { return []byte{10, 0, 0, byte(p + 1)} }

func (m *model) delta(t *rapid.T, p int) *probev1.Delta {
	m.seq[p]++
	d := &probev1.Delta{Seq: m.seq[p], AtMs: 1}
	host := fmt.Sprintf("h%d", p)
	put := func(id, label, state string, parents []string, attrs ...*probev1.Attr) {
		ref := m.refs[p][id]
		if ref == 0 {
			m.next++
			ref = m.next
			m.refs[p][id] = ref
		}
		d.Entities = append(d.Entities, &probev1.Entity{Ref: ref, Id: id, Kind: topology.KindOf(id), Label: label, State: state, Parents: parents, Attrs: attrs})
	}
	hostID := topology.HostID(host)
	if m.refs[p][hostID] == 0 {
		put(hostID, host, "running", nil, &probev1.Attr{Key: "addrs", Value: netip.AddrFrom4([4]byte(addr(p))).String()})
	}
	for range rapid.IntRange(1, 6).Draw(t, "ops") {
		c := fmt.Sprintf("container;%s;c%d", host, rapid.IntRange(0, 4).Draw(t, "c"))
		proc := fmt.Sprintf("process;%s;%d;1", host, rapid.IntRange(0, 4).Draw(t, "p"))
		any := rapid.SampledFrom([]string{c, proc, hostID}).Draw(t, "who")
		switch rapid.IntRange(0, 7).Draw(t, "op") {
		case 0, 1:
			image := rapid.SampledFrom([]string{"web", "db"}).Draw(t, "image")
			put(c, rapid.SampledFrom([]string{"a", "b"}).Draw(t, "label"), rapid.SampledFrom([]string{"running", "exited"}).Draw(t, "state"), []string{hostID, "image;" + image},
				&probev1.Attr{Key: "label.app", Value: rapid.SampledFrom([]string{"web", "db"}).Draw(t, "app")})
		case 2:
			parents := []string{hostID}
			if rapid.Bool().Draw(t, "in a container") {
				parents = []string{c, hostID}
			}
			put(proc, "proc", "", parents)
		case 3, 4:
			if m.refs[p][any] == 0 {
				continue
			}
			m.next++
			e := &probev1.Edge{Ref: m.next, Src: m.refs[p][any], Port: uint32(80 + rapid.IntRange(0, 1).Draw(t, "port")), Conns: 1, Seen: 1}
			to := rapid.IntRange(0, 4).Draw(t, "to")
			switch {
			case to == 4 && m.refs[p][c] != 0:
				e.Dst, e.Seen = m.refs[p][c], 3
			case to == 3:
				e.RemoteAddr = []byte{8, 8, 8, 8}
			default:
				e.RemoteAddr = addr(to % 3)
			}
			if e.Dst == 0 && rapid.Bool().Draw(t, "server side") {
				e.Src, e.Dst, e.Seen = 0, e.Src, 2
			}
			m.edges[p][e.Ref] = true
			d.Edges = append(d.Edges, e)
		case 5:
			for ref := range m.edges[p] {
				delete(m.edges[p], ref)
				d.GoneEdges = append(d.GoneEdges, ref)
				break
			}
		case 6:
			if m.refs[p][any] == 0 {
				continue
			}
			m.next++
			d.Listeners = append(d.Listeners, &probev1.Listener{Ref: m.next, Entity: m.refs[p][any], Port: 80})
		case 7:
			if ref := m.refs[p][any]; ref != 0 && any != hostID {
				d.GoneEntities = append(d.GoneEntities, ref)
				delete(m.refs[p], any)
				var keep []*probev1.Entity
				for _, e := range d.Entities {
					if e.Ref != ref {
						keep = append(keep, e)
					}
				}
				d.Entities = keep
				for _, e := range d.Edges {
					if e.Src == ref || e.Dst == ref {
						e.Src, e.Dst, e.RemoteAddr = m.refs[p][hostID], 0, addr(0)
					}
				}
			}
		}
	}
	return d
}

// TestAViewThatFollowsIsTheViewMadeAnew drives random histories through views of every kind and demands that a page which was
// brought up to date by diffs shows what a page that has just come sees.
func TestAViewThatFollowsIsTheViewMadeAnew(t *testing.T) {
	t.Parallel()
	specs := []Spec{
		{View: "containers"},
		{View: "containers", Opts: map[string]string{"state": "all", "unconnected": "hide"}},
		{View: "containers-by-image"},
		{View: "processes"},
		{View: "processes", Opts: map[string]string{"unconnected": "show"}},
		{View: "hosts"},
		{View: "processes-by-name"},
		{View: "tasks"},
		{View: "label:app"},
		{View: "containers", Group: "image"},
		{View: "containers", Group: "host", Expand: []string{"group;host;h0"}},
		{View: "containers", Query: "a"},
		{View: "containers", Opts: map[string]string{"pseudo": "hide"}},
		{View: "hosts", Focus: "host;h0", Hops: 1},
		{View: "processes", Group: "image", Opts: map[string]string{"unconnected": "show"}},
		{View: "processes", Group: "label:app", Opts: map[string]string{"unconnected": "show"}},
		{View: "processes", Query: "image:web", Opts: map[string]string{"unconnected": "show"}},
		{View: "processes", Query: "container:c1", Opts: map[string]string{"unconnected": "show"}},
		{View: "containers", Group: "label:app", Opts: map[string]string{"state": "all"}},
		{View: "containers", Query: "cpu>50"},
		{View: "containers", Query: "-cpu>50 or state:exited", Opts: map[string]string{"state": "all"}},
		{View: "containers", Query: "label.app=web", Find: "cpu>50"},
		{View: "containers", Query: "port:80"},
		{View: "containers", Find: "port=81"},
		{View: "containers-by-image", Find: "cpu>50"},
		{View: "hosts", Find: "health:stale"},
	}
	rapid.Check(t, func(t *rapid.T) {
		spec := rapid.SampledFrom(specs).Draw(t, "spec")
		es := estate.New(nil)
		m := &model{}
		for p := range 3 {
			m.refs[p], m.edges[p] = map[string]uint32{}, map[uint32]bool{}
			es.Hello(fmt.Sprint(p), "i", fmt.Sprintf("h%d", p), 0, 0)
			m.seq[p] = 1
			es.Apply(fmt.Sprint(p), &probev1.Delta{Seq: 1, Snapshot: true}, 1)
		}
		v, err := New(spec, 0)
		if err != nil {
			t.Fatal(err)
		}
		es.Flush(1, func(estate.Changes) { v.Build(es.Reader()); v.Settle() })
		follows := newPage()
		if b := v.Emit(1); b != nil {
			follows.apply(t, decode(t, b))
		}
		for step := range rapid.IntRange(1, 15).Draw(t, "steps") {
			p := rapid.IntRange(0, 2).Draw(t, "probe")
			if !es.Apply(fmt.Sprint(p), m.delta(t, p), int64(step+2)) {
				t.Fatal("delta refused")
			}
			if rapid.Bool().Draw(t, "more before the flush") {
				continue
			}
			switch ref := m.refs[p][fmt.Sprintf("container;h%d;c1", p)]; {
			case ref != 0 && rapid.Bool().Draw(t, "figures"):
				cpu := rapid.SampledFrom([]float32{10, 90}).Draw(t, "cpu")
				es.Metrics(fmt.Sprint(p), &probev1.Metrics{AtMs: int64(step + 2), Names: []string{"cpu"}, Refs: []uint32{ref}, NameIndex: []uint32{0}, Values: []float32{cpu}}, int64(step+2))
			case rapid.IntRange(0, 3).Draw(t, "heard") == 0:
				es.Stale(fmt.Sprint(p), rapid.Bool().Draw(t, "stale"), int64(step+2))
			}
			es.Flush(int64(step+2), func(c estate.Changes) { v.Update(c); v.Settle() })
			if b := v.Emit(int64(step + 2)); b != nil {
				follows.apply(t, decode(t, b))
			}
		}
		es.Flush(99, func(c estate.Changes) { v.Update(c); v.Settle() })
		if b := v.Emit(99); b != nil {
			follows.apply(t, decode(t, b))
		}
		anew, _ := New(spec, 0)
		es.Read(func(r *estate.Reader) { anew.Build(r); anew.Settle() })
		anew.Emit(99)
		fresh := newPage()
		fresh.apply(t, decode(t, anew.Frame(99)))
		if d := cmp.Diff(fresh.picture(), follows.picture()); d != "" {
			t.Fatalf("%+v: anew (-) and followed (+) differ:\n%s", spec, d)
		}
		whole := newPage()
		whole.apply(t, decode(t, v.Frame(99)))
		if d := cmp.Diff(whole.picture(), follows.picture()); d != "" {
			t.Fatalf("%+v: the frame (-) and the diffs (+) differ:\n%s", spec, d)
		}
		if got := decode(t, v.Frame(99)).Totals["edges"]; got != len(whole.edges) {
			t.Fatalf("%+v: %d edges are counted, and %d shown", spec, got, len(whole.edges))
		}
		for h, at := range whole.place {
			if follows.place[h] != at {
				t.Fatalf("node %d is at %v, the page has it at %v", h, at, follows.place[h])
			}
		}
	})
}

func TestSpecIsChecked(t *testing.T) {
	t.Parallel()
	for _, s := range []Spec{
		{View: "nonsense"},
		{View: "label:"},
		{View: "containers", Query: "cpu>"},
		{View: "containers", Find: "("},
		{View: "containers", Group: "colour"},
		{View: "containers", Hops: 99},
		{View: "containers", Layout: "round"},
		{View: "containers", Opts: map[string]string{"state": "maybe"}},
		{View: "containers", Expand: make([]string, 1000)},
	} {
		if _, err := New(s, 0); err == nil {
			t.Errorf("%+v was taken", s)
		}
	}
	a, err := Spec{View: "containers", Expand: []string{"x", "y"}}.Key()
	b, _ := Spec{View: "containers", Expand: []string{"y", "x"}, Group: "auto", Opts: map[string]string{"state": "running"}}.Key()
	if err != nil || a != b {
		t.Errorf("the same picture has two keys: %s, %s", a, b)
	}
}

func TestStringsAreSafeInPages(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"a\"b\\c", "</script><b>", "\x1b[31m\x00\x7f", "ü\u2028\u2029", "\xff\xfe", "\n\t"} {
		b := appendString(nil, s)
		var got string
		if err := json.Unmarshal(b, &got); err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		if want := strings.ToValidUTF8(s, "\uFFFD"); got != want && s != "\xff\xfe" {
			t.Errorf("%q became %q", s, got)
		}
		if strings.ContainsAny(string(b), "<>\x1b") {
			t.Errorf("%s", b)
		}
	}
}

// Layers show who calls whom; where everybody calls everybody they are one long column.
func TestLayoutThatIsChosen(t *testing.T) {
	t.Parallel()
	arranged := func(edges func(i, j int) bool) string {
		es := estate.New(nil)
		es.Hello("p", "i", "h", 0, 0)
		d := &probev1.Delta{Seq: 1, Snapshot: true}
		const n = 12
		for i := range n {
			d.Entities = append(d.Entities, &probev1.Entity{Ref: uint32(i + 1), Id: fmt.Sprintf("container;h;c%d", i), Kind: topology.KindContainer, State: "running"})
			for j := range n {
				if edges(i, j) {
					d.Edges = append(d.Edges, &probev1.Edge{Ref: uint32(100 + i*n + j), Src: uint32(i + 1), Dst: uint32(j + 1), Port: 80, Conns: 1, Seen: 3})
				}
			}
		}
		if !es.Apply("p", d, 1) {
			t.Fatal("refused")
		}
		v, err := New(Spec{View: "containers"}, 0)
		if err != nil {
			t.Fatal(err)
		}
		es.Flush(1, func(estate.Changes) { v.Build(es.Reader()); v.Settle() })
		v.Emit(1)
		var f struct{ Layout string }
		if err := json.Unmarshal(append([]byte("{"), v.Frame(1)...), &f); err != nil {
			t.Fatal(err)
		}
		return f.Layout
	}
	for name, x := range map[string]struct {
		edges func(i, j int) bool
		want  string
	}{
		"a chain":   {func(i, j int) bool { return j == i+1 }, "layered"},
		"a crowd":   {func(i, j int) bool { return i != j }, "force"},
		"strangers": {func(int, int) bool { return false }, "grid"},
	} {
		if got := arranged(x.edges); got != x.want {
			t.Errorf("%s: %s, want %s", name, got, x.want)
		}
	}
}

// TestWhatIsInNoContainerFolds: processes outside containers stand by host where hosts are looked at, and are one node where
// apps are.
func TestWhatIsInNoContainerFolds(t *testing.T) {
	t.Parallel()
	es := estate.New(nil)
	const hosts = 5
	for i := range hosts {
		name := fmt.Sprintf("h%d", i)
		es.Hello(name, "i", name, 0, 0)
		d := &probev1.Delta{Seq: 1, Snapshot: true, Entities: []*probev1.Entity{
			{Ref: 1, Id: topology.HostID(name), Kind: topology.KindHost, Label: name, State: "running"},
			{Ref: 2, Id: "container;" + name + ";c", Kind: topology.KindContainer, Label: "c", State: "running", Parents: []string{topology.HostID(name), "app;/shop"}},
			{Ref: 3, Id: "process;" + name + ";7;7", Kind: topology.KindProcess, Label: "backup", Parents: []string{topology.HostID(name)}},
		}, Edges: []*probev1.Edge{{Ref: 1, Src: 3, Dst: 2, Port: 80, Conns: 1, Seen: 3}}}
		if !es.Apply(name, d, 1) {
			t.Fatal("refused")
		}
	}
	for group, want := range map[string]int{"none": hosts, "host": hosts, "app": 1} {
		v, err := New(Spec{View: "containers", Group: group}, 0)
		if err != nil {
			t.Fatal(err)
		}
		es.Flush(1, func(estate.Changes) { v.Build(es.Reader()); v.Settle() })
		v.Emit(1)
		f := decode(t, v.Frame(1))
		got := 0
		for i, kind := range f.Nodes.Kind {
			if kind == topology.KindUncontain {
				got++
				if f.Nodes.Minor[i] != "not in a container" {
					t.Errorf("%s: %q", group, f.Nodes.Minor[i])
				}
			}
		}
		if got != want || len(f.Edges.H) == 0 {
			t.Errorf("grouped by %s: %d nodes for what is in no container, want %d; %d edges", group, got, want, len(f.Edges.H))
		}
	}
}
