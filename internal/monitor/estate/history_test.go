package estate

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
)

// told is what is true of a few hosts now, as their probes tell it.
type told struct {
	seq       uint64
	next      uint32
	refs      map[string]uint32 // of entities, by id
	entities  map[string]*probev1.Entity
	edges     map[uint32]*probev1.Edge
	listeners map[uint32]*probev1.Listener
}

func newTold() *told {
	return &told{refs: map[string]uint32{}, entities: map[string]*probev1.Entity{}, edges: map[uint32]*probev1.Edge{}, listeners: map[uint32]*probev1.Listener{}}
}

func (p *told) ref(id string) uint32 {
	if p.refs[id] == 0 {
		p.next++
		p.refs[id] = p.next
	}
	return p.refs[id]
}

// snapshot tells everything, as after a restart of the probe.
func (p *told) snapshot() *probev1.Delta {
	d := &probev1.Delta{Seq: p.seq, Snapshot: true}
	for _, id := range slices.Sorted(maps.Keys(p.entities)) {
		d.Entities = append(d.Entities, p.entities[id])
	}
	for _, ref := range slices.Sorted(maps.Keys(p.edges)) {
		d.Edges = append(d.Edges, p.edges[ref])
	}
	for _, ref := range slices.Sorted(maps.Keys(p.listeners)) {
		d.Listeners = append(d.Listeners, p.listeners[ref])
	}
	return d
}

// looks is all that is seen of an estate.
func looks(t *rapid.T, s *Estate) map[string]string {
	out := map[string]string{}
	s.Flush(5000, func(Changes) {
		for id, e := range s.byID {
			if e.ID != id || e.gone {
				t.Fatalf("%s stands where %s is looked for, gone: %v", e.ID, id, e.gone)
			}
			kids := []string{}
			for c := range e.children {
				kids = append(kids, c.ID)
			}
			slices.Sort(kids)
			sum := float32(0)
			for b := range e.bases {
				if b.Src == e {
					sum += b.Fail
				}
			}
			if math.Abs(float64(sum-e.failing)) > 0.001 {
				t.Fatalf("%s fails %v times a second, its edges %v", id, e.failing, sum)
			}
			out[id] = fmt.Sprintf("%s %s %v %v %v %v %v %d edges", e.Label, e.State, e.Parents, kids, e.Attrs, e.Health, e.Stale, len(e.bases))
		}
		for _, b := range s.edges {
			out[fmt.Sprintf("%s > %s :%d", b.Src.ID, b.Dst.ID, b.Port)] = fmt.Sprintf("%d conns, fail %v, ev %d, %d halves", b.Conns, b.Fail, b.Evidence, len(b.halves))
		}
	})
	return out
}

// Whatever has happened before, an estate is what it is when told of the same at once: no edge, count or parent is left over or missing.
func TestAnEstateIsWhatIsToldNow(t *testing.T) {
	t.Parallel()
	hosts := []string{"a", "b", "c"}
	addrs := []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "172.17.0.2", "172.17.0.3", "8.8.8.8"}
	rapid.Check(t, func(t *rapid.T) {
		s := New(NewEvents())
		all := map[string]*told{}
		apply := func(h string, d *probev1.Delta) {
			if !s.Apply(h, d, 1000) {
				t.Fatal("refused")
			}
		}
		begin := func(h string) {
			p := newTold()
			p.seq = 1
			all[h] = p
			p.entities["host;"+h] = entity(p.ref("host;"+h), "host;"+h, nil, "addrs", addrs[slices.Index(hosts, h)])
			s.Hello(h, rapid.StringN(8, 8, -1).Draw(t, "instance"), h, 0, 0)
			apply(h, p.snapshot())
		}
		for _, h := range hosts {
			begin(h)
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			h := rapid.SampledFrom(hosts).Draw(t, "host")
			p := all[h]
			p.seq++
			d := &probev1.Delta{Seq: p.seq}
			what := func(kind string) string {
				n := rapid.IntRange(0, 2).Draw(t, "n")
				if kind == "process" {
					return fmt.Sprintf("process;%s;%d", h, n)
				}
				return fmt.Sprintf("container;%s;%d", h, n)
			}
			drop := func(id string) {
				ref := p.refs[id]
				if p.entities[id] == nil {
					return
				}
				for r, e := range p.edges {
					if e.Src == ref || e.Dst == ref {
						d.GoneEdges = append(d.GoneEdges, r)
						delete(p.edges, r)
					}
				}
				for r, l := range p.listeners {
					if l.Entity == ref {
						d.GoneListeners = append(d.GoneListeners, r)
						delete(p.listeners, r)
					}
				}
				d.GoneEntities = append(d.GoneEntities, ref)
				delete(p.entities, id)
				delete(p.refs, id) // numbers are not used again
			}
			someone := func() string {
				ids := slices.Sorted(maps.Keys(p.entities))
				return rapid.SampledFrom(ids).Draw(t, "who")
			}
			for range rapid.IntRange(1, 3).Draw(t, "ops") {
				switch rapid.IntRange(0, 9).Draw(t, "op") {
				case 0, 1:
					id := what("container")
					p.entities[id] = entity(p.ref(id), id, []string{"host;" + h}, "addrs", rapid.SampledFrom(addrs[3:5]).Draw(t, "addr"))
					d.Entities = append(d.Entities, p.entities[id])
				case 2, 3:
					id := what("process")
					parents := []string{"host;" + h}
					if rapid.Bool().Draw(t, "inside") { // of a container that may not be known yet
						parents = append(parents, what("container"))
					}
					p.entities[id] = entity(p.ref(id), id, parents)
					d.Entities = append(d.Entities, p.entities[id])
				case 4, 5:
					p.next++
					e := &probev1.Edge{Ref: p.next, Port: uint32(80 + rapid.IntRange(0, 1).Draw(t, "port")), Conns: uint32(rapid.IntRange(0, 3).Draw(t, "conns")), FailRate: float32(rapid.IntRange(0, 2).Draw(t, "fail"))}
					if refs := slices.Sorted(maps.Keys(p.edges)); len(refs) > 0 && rapid.Bool().Draw(t, "again") {
						e.Ref = rapid.SampledFrom(refs).Draw(t, "edge")
					}
					a := [4]byte{}
					fmt.Sscanf(rapid.SampledFrom(addrs).Draw(t, "remote"), "%d.%d.%d.%d", &a[0], &a[1], &a[2], &a[3])
					switch rapid.IntRange(0, 2).Draw(t, "side") {
					case 0:
						e.Src, e.RemoteAddr, e.Seen = p.refs[someone()], a[:], 1
					case 1:
						e.Dst, e.RemoteAddr, e.Seen = p.refs[someone()], a[:], 2
					default:
						e.Src, e.Dst, e.Seen = p.refs[someone()], p.refs[someone()], 3
					}
					p.edges[e.Ref] = e
					d.Edges = append(d.Edges, e)
				case 6: // one a port: which of several answers may depend on what was known when they were asked for
					if len(p.listeners) > 0 {
						break
					}
					p.next++
					l := &probev1.Listener{Ref: p.next, Entity: p.refs[someone()], Port: 80}
					p.listeners[l.Ref] = l
					d.Listeners = append(d.Listeners, l)
				case 7:
					drop(what(rapid.SampledFrom([]string{"process", "container"}).Draw(t, "kind")))
				case 8:
					for r := range p.edges {
						delete(p.edges, r)
						d.GoneEdges = append(d.GoneEdges, r)
						break
					}
				}
				break
			}
			apply(h, d)
			switch rapid.IntRange(0, 11).Draw(t, "then") {
			case 0: // it connects anew, and is asked for everything, under the same numbers
				s.Hello(h, rapid.StringN(8, 8, -1).Draw(t, "instance"), h, 0, 0)
				apply(h, p.snapshot())
			case 1:
				s.Forget(h, 1000)
				begin(h)
			case 2:
				s.Stale(h, true, 1000)
				looks(t, s)
				s.Stale(h, false, 1000)
			case 3, 4, 5:
				looks(t, s)
			}
		}
		anew := New(NewEvents())
		for _, h := range hosts {
			anew.Hello(h, "1", h, 0, 0)
			if !anew.Apply(h, all[h].snapshot(), 1000) {
				t.Fatal("refused")
			}
		}
		if d := cmp.Diff(looks(t, anew), looks(t, s)); d != "" {
			t.Fatalf("told at once (-), and told by and by (+): %s", d)
		}
		for _, h := range hosts {
			s.Forget(h, 2000)
		}
		looks(t, s)
		for kind, n := range s.counts {
			if n != 0 {
				t.Fatalf("%d of kind %s are counted when there are none", n, kind)
			}
		}
		if n := len(s.byID) + len(s.edges) + len(s.matches) + len(s.listeners) + len(s.owners) + len(s.byRemote) + len(s.waiting) + len(s.others); n > 0 || s.unmanaged != 0 {
			t.Fatalf("left when nobody tells of anything: %d entities, %d edges, %d matches, %d listeners, %d owners, %d remotes, %d waiting, %d others, %d unmanaged",
				len(s.byID), len(s.edges), len(s.matches), len(s.listeners), len(s.owners), len(s.byRemote), len(s.waiting), len(s.others), s.unmanaged)
		}
	})
}
