package estate

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"pgregory.net/rapid"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
)

// crowd are probes that all tell of one cluster, and what is true of them, plainly.
type crowd struct {
	t      *rapid.T
	s      *Estate
	seq    map[string]uint64
	refs   map[string]map[string]uint32 // probe, entity: number
	labels map[string]map[string]string // probe, entity: what it said last
	stale  map[string]bool
	next   uint32
}

func (c *crowd) apply(p string, d *probev1.Delta) {
	c.seq[p]++
	d.Seq = c.seq[p]
	if !c.s.Apply(p, d, 1000) {
		c.t.Fatalf("%s: delta %d was refused", p, d.Seq)
	}
}

func (c *crowd) telling(p, id, label string) *probev1.Entity {
	ref, ok := c.refs[p][id]
	if !ok {
		c.next++
		ref = c.next
		c.refs[p][id] = ref
	}
	c.labels[p][id] = label
	e := entity(ref, id, []string{"host;" + p}, "by", p)
	e.Label = label
	return e
}

func (c *crowd) tellers(id string) (all, heard []string) {
	for p, m := range c.labels {
		if _, ok := m[id]; ok {
			all = append(all, p)
			if !c.stale[p] {
				heard = append(heard, p)
			}
		}
	}
	return all, heard
}

func (c *crowd) check(ids []string) {
	for _, id := range ids {
		all, heard := c.tellers(id)
		c.s.Read(func(r *Reader) {
			e := r.Entity(id)
			if e == nil || len(all) == 0 {
				if (e == nil) != (len(all) == 0) {
					c.t.Fatalf("%s is there: %v; told by %q", id, e != nil, all)
				}
				return
			}
			by := e.Probe().ID
			switch {
			case len(heard) > 0 && !slices.Contains(heard, by), !slices.Contains(all, by):
				c.t.Fatalf("%s: the words of %s count; told by %q, of whom %q are heard", id, by, all, heard)
			case e.Stale != (len(heard) == 0):
				c.t.Fatalf("%s is grey: %v; told by %q, of whom %q are heard", id, e.Stale, all, heard)
			case len(c.refs) <= maxWords+1 && (e.Label != c.labels[by][id] || e.Attr("by") != by || !slices.Equal(e.Parents, []string{"host;" + by})):
				c.t.Fatalf("%s of %s: %q %v %v, said %q", id, by, e.Label, e.Attrs, e.Parents, c.labels[by][id])
			}
			if n := len(c.s.others[e]); n != len(all)-1 {
				c.t.Fatalf("%s: %d others are kept of %q", id, n, all)
			}
		})
	}
}

// Whatever several probes tell of the same things, in whatever order they come, change their words, are lost, restart, and end: a thing is there as
// long as one of them tells of it, with the words of one that is heard, and nothing is kept of those that have gone.
func TestAThingStaysAsLongAsOneProbeTellsOfIt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := &crowd{t: t, s: New(NewEvents()), seq: map[string]uint64{}, refs: map[string]map[string]uint32{}, labels: map[string]map[string]string{}, stale: map[string]bool{}}
		var probes, ids []string
		for i := range rapid.SampledFrom([]int{2, 3, 6}).Draw(t, "probes") {
			probes = append(probes, string(rune('a'+i)))
		}
		for i := range 4 {
			ids = append(ids, fmt.Sprintf("pod;%d", i))
		}
		instance := 0
		start := func(p string, told ...string) { // with a picture of its own
			instance++
			c.s.Hello(p, fmt.Sprint(instance), p, 0, 0)
			c.seq[p], c.refs[p], c.labels[p], c.stale[p] = 0, map[string]uint32{}, map[string]string{}, false
			d := &probev1.Delta{Snapshot: true}
			for _, id := range told {
				d.Entities = append(d.Entities, c.telling(p, id, fmt.Sprint(p, " first ", instance)))
			}
			c.apply(p, d)
		}
		for _, p := range probes {
			start(p)
		}
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			p, id := rapid.SampledFrom(probes).Draw(t, "probe"), rapid.SampledFrom(ids).Draw(t, "id")
			switch rapid.IntRange(0, 7).Draw(t, "what") {
			case 0, 1, 2:
				if c.stale[p] {
					c.s.Stale(p, false, 1000)
					c.stale[p] = false
				}
				c.apply(p, &probev1.Delta{Entities: []*probev1.Entity{c.telling(p, id, fmt.Sprint(p, " ", i))}})
			case 3:
				if ref, ok := c.refs[p][id]; ok && !c.stale[p] {
					delete(c.refs[p], id)
					delete(c.labels[p], id)
					c.apply(p, &probev1.Delta{GoneEntities: []uint32{ref}})
				}
			case 4:
				c.s.Stale(p, true, 1000)
				c.stale[p] = true
			case 5: // the connection was cut: nothing was missed
				if c.s.Hello(p, fmt.Sprint(c.s.probes[p].Instance), p, 1, c.seq[p]) != c.seq[p] {
					t.Fatalf("%s is not known any more", p)
				}
				c.stale[p] = false
			case 6:
				start(p, slices.DeleteFunc(slices.Clone(ids), func(string) bool { return rapid.Bool().Draw(t, "told") })...)
			case 7:
				c.s.Forget(p, 1000)
				start(p)
			}
			c.check(ids)
			c.s.Flush(1000, func(Changes) {})
		}
		for _, p := range probes {
			c.s.Forget(p, 1000)
		}
		if len(c.s.byID)+len(c.s.others)+len(c.s.waiting) > 0 {
			t.Fatalf("left: %v, %v, %v", c.s.byID, c.s.others, c.s.waiting)
		}
	})
}

// A probe that leaves takes with it nothing that another one tells of, and what that one says is shown at once, everywhere.
func TestTheOtherTellersWordsAreShown(t *testing.T) {
	t.Parallel()
	s := New(NewEvents())
	say := func(probe string, label string, services ...string) {
		t.Helper()
		e := entity(5, "pod;1", services, "addrs", "10.1.0."+map[string]string{"old": "1", "new": "2"}[probe])
		e.Label, e.State, e.Reasons = label, "running by "+probe, []*probev1.Reason{{Code: "r", Severity: 2, Text: probe}}
		s.Hello(probe, "i", probe, 0, 0)
		if !s.Apply(probe, &probev1.Delta{Seq: 1, Snapshot: true, Entities: []*probev1.Entity{e}}, 1000) {
			t.Fatal("refused")
		}
	}
	shown := func() (out string) {
		s.Flush(1000, func(Changes) {
			e := s.Reader().Entity("pod;1")
			owner := ""
			for _, a := range []string{"10.1.0.1", "10.1.0.2"} {
				if len(s.owners[addr(a)]) > 0 {
					owner += a
				}
			}
			out = fmt.Sprint(e.Label, ", ", e.State, ", ", e.ParentIDs("service"), ", ", e.Reasons[0].Text, ", ", owner)
		})
		return out
	}
	say("old", "the pod", "service;n;x")
	say("new", "The Pod", "service;n;y", "service;n;z")
	if got, want := shown(), "The Pod, running by new, [service;n;y service;n;z], new, 10.1.0.2"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
	s.Flush(1000, func(Changes) {})
	s.Forget("new", 1000)
	s.Flush(1000, func(c Changes) {
		if len(c.Entities) != 1 || c.What[0] != ChangedBody|ChangedPlace {
			t.Errorf("views hear of %v", c.What)
		}
	})
	if got, want := shown(), "the pod, running by old, [service;n;x], old, 10.1.0.1"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
}

// What is kept for the sake of another teller is small where both say the same, and bounded where everybody says something else.
func BenchmarkTellers(b *testing.B) {
	const pods = 10_000
	for _, n := range []int{1, 2, 10, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var before, after memory
			var s *Estate
			for b.Loop() {
				s = New(NewEvents())
				before.read()
				for p := range n {
					id := fmt.Sprint("p", p)
					s.Hello(id, "i", id, 0, 0)
					d := &probev1.Delta{Seq: 1, Snapshot: true}
					for i := range uint32(pods) {
						d.Entities = append(d.Entities, entity(i+1, fmt.Sprintf("pod;%d", i), []string{"node;a", "namespace;b"}, "addrs", fmt.Sprintf("10.1.%d.%d", i>>8, i&255), "qos", "BestEffort", "by", id))
					}
					if !s.Apply(id, d, 1000) {
						b.Fatal("refused")
					}
				}
				s.Flush(1000, func(Changes) {})
				after.read()
			}
			b.ReportMetric(float64(after.live-before.live)/pods/float64(n), "B/telling")
			_ = s.Seq("p0")
		})
	}
}

// memory is what lives on the heap.
type memory struct{ live uint64 }

func (m *memory) read() {
	var st runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&st)
	m.live = st.HeapAlloc
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }
