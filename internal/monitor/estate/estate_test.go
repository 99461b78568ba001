package estate

import (
	"fmt"
	"maps"
	"testing"

	"pgregory.net/rapid"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
)

func entity(ref uint32, id string, parents []string, attrs ...string) *probev1.Entity {
	e := &probev1.Entity{Ref: ref, Id: id, Kind: topology.KindOf(id), Label: id, State: "running", Parents: parents}
	for i := 0; i+1 < len(attrs); i += 2 {
		e.Attrs = append(e.Attrs, &probev1.Attr{Key: attrs[i], Value: attrs[i+1]})
	}
	return e
}

// two makes an estate of hosts a (10.0.0.1) with a client container and b (10.0.0.2) with a server container on port 80.
func two(t *testing.T) *Estate {
	t.Helper()
	s := New(NewEvents())
	for id, d := range map[string]*probev1.Delta{
		"a": {Seq: 1, Snapshot: true, Entities: []*probev1.Entity{entity(1, "host;a", nil, "addrs", "10.0.0.1 172.17.0.1"), entity(2, "container;a;client", []string{"host;a"}, "addrs", "172.17.0.2")}},
		"b": {
			Seq: 1, Snapshot: true, Entities: []*probev1.Entity{entity(1, "host;b", nil, "addrs", "10.0.0.2 172.17.0.1"), entity(2, "container;b;server", []string{"host;b"}, "addrs", "172.17.0.2")},
			Listeners: []*probev1.Listener{{Ref: 9, Entity: 2, Port: 80}},
		},
	} {
		s.Hello(id, "i", id, 0, 0)
		if !s.Apply(id, d, 1000) {
			t.Fatal("refused")
		}
	}
	return s
}

// edges lists the edges after a flush as "src>dst:port evidence".
func edges(s *Estate) map[string]uint32 {
	out := map[string]uint32{}
	s.Flush(2000, func(Changes) {
		s.Reader().Edges(func(b *Edge) bool {
			out[b.Src.ID+">"+b.Dst.ID+" "+[]string{"", "client", "server", "both"}[b.Evidence]] += b.Conns
			return true
		})
	})
	return out
}

func want(t *testing.T, s *Estate, list ...string) {
	t.Helper()
	got := edges(s)
	if len(got) != len(list) {
		t.Errorf("edges %v, want %v", got, list)
	}
	for _, w := range list {
		if _, ok := got[w]; !ok {
			t.Errorf("edges %v, want %v", got, list)
		}
	}
}

func TestHalvesOfTwoHostsBecomeOneEdge(t *testing.T) {
	t.Parallel()
	s := two(t)
	server := &probev1.Edge{Ref: 5, Dst: 2, RemoteAddr: []byte{10, 0, 0, 1}, Port: 80, Conns: 3, Seen: 2}
	s.Apply("b", &probev1.Delta{Seq: 2, Edges: []*probev1.Edge{server}}, 1)
	want(t, s, "host;a>container;b;server server") // which container of a it was only a knows
	client := &probev1.Edge{Ref: 5, Src: 2, RemoteAddr: []byte{10, 0, 0, 2}, Port: 80, Conns: 3, Seen: 1}
	s.Apply("a", &probev1.Delta{Seq: 2, Edges: []*probev1.Edge{client}}, 1)
	want(t, s, "container;a;client>container;b;server both")
	s.Apply("b", &probev1.Delta{Seq: 3, GoneEdges: []uint32{5}}, 1)
	want(t, s, "container;a;client>container;b;server client")
	s.Apply("b", &probev1.Delta{Seq: 4, GoneListeners: []uint32{9}}, 1)
	want(t, s, "container;a;client>host;b client")
	s.Apply("a", &probev1.Delta{Seq: 3, GoneEdges: []uint32{5}}, 1)
	want(t, s)
}

func TestAddressesThatSeveralHaveAreNobodys(t *testing.T) {
	t.Parallel()
	s := two(t)
	// Both hosts have a bridge at 172.17.0.1 and a container at 172.17.0.2: a half that names one of these tells nothing.
	s.Apply("a", &probev1.Delta{Seq: 2, Edges: []*probev1.Edge{{Ref: 5, Src: 1, RemoteAddr: []byte{172, 17, 0, 2}, Port: 80, Conns: 1, Seen: 1}}}, 1)
	want(t, s, "host;a>unmanaged;172.17.0.2 client")
	s.Forget("b", 1) // now it is the one's
	want(t, s, "host;a>container;a;client client")
}

func TestAListenerGoesOnce(t *testing.T) {
	t.Parallel()
	s := two(t)
	for i, d := range []*probev1.Delta{
		{Listeners: []*probev1.Listener{{Ref: 9, Entity: 77, Port: 80}}}, // of something that is not told of: there is none now
		{Listeners: []*probev1.Listener{{Ref: 10, Entity: 2, Port: 80}}},
		{GoneListeners: []uint32{9}},
		{Listeners: []*probev1.Listener{{Ref: 11, Entity: 1, Port: 80}, {Ref: 12, Entity: 1, Port: 80}}},
		{GoneListeners: []uint32{11}},
		{GoneListeners: []uint32{12}},
	} {
		d.Seq = uint64(2 + i)
		if !s.Apply("b", d, 1) {
			t.Fatal("refused")
		}
	}
	s.Apply("a", &probev1.Delta{Seq: 2, Edges: []*probev1.Edge{{Ref: 5, Src: 2, RemoteAddr: []byte{10, 0, 0, 2}, Port: 80, Conns: 1, Seen: 1}}}, 1)
	want(t, s, "container;a;client>container;b;server client")
}

// Matches whose keys have the same hash are told apart.
func TestMatchesWithTheSameHash(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		one, many := New(NewEvents()), New(NewEvents())
		one.hashed = 0
		apply := func(probe string, d *probev1.Delta) {
			for _, s := range []*Estate{one, many} {
				if !s.Apply(probe, d, 1000) {
					t.Fatal("refused")
				}
			}
		}
		hosts := []string{"a", "b", "c"}
		for i, h := range hosts {
			d := &probev1.Delta{Seq: 1, Snapshot: true, Entities: []*probev1.Entity{entity(1, "host;"+h, nil, "addrs", fmt.Sprintf("10.0.0.%d", i+1))}}
			for c := range uint32(2) {
				d.Entities = append(d.Entities, entity(2+c, fmt.Sprintf("container;%s;%d", h, c), []string{"host;" + h}))
				d.Listeners = append(d.Listeners, &probev1.Listener{Ref: 10 + c, Entity: 2 + c, Port: 80 + c})
			}
			one.Hello(h, "i", h, 0, 0)
			many.Hello(h, "i", h, 0, 0)
			apply(h, d)
		}
		seq := map[string]uint64{}
		for range rapid.IntRange(1, 60).Draw(t, "deltas") {
			h := rapid.SampledFrom(hosts).Draw(t, "host")
			ref := rapid.Uint32Range(100, 115).Draw(t, "ref")
			d := &probev1.Delta{GoneEdges: []uint32{ref}}
			if rapid.IntRange(0, 3).Draw(t, "kind") > 0 {
				e := &probev1.Edge{Ref: ref, RemoteAddr: []byte{10, 0, 0, rapid.ByteRange(1, 3).Draw(t, "to")}, Port: rapid.Uint32Range(80, 81).Draw(t, "port"), Conns: 1, Seen: 1}
				if me := rapid.Uint32Range(2, 3).Draw(t, "container"); rapid.Bool().Draw(t, "client") {
					e.Src = me
				} else {
					e.Dst, e.Seen = me, 2
				}
				d = &probev1.Delta{Edges: []*probev1.Edge{e}}
			}
			if seq[h]++; seq[h] == 1 {
				seq[h] = 2
			}
			d.Seq = seq[h]
			apply(h, d)
			if got, want := edges(one), edges(many); !maps.Equal(got, want) {
				t.Fatalf("%v, want %v", got, want)
			}
		}
		for _, h := range hosts {
			one.Forget(h, 2000)
		}
		if got := edges(one); len(got)+len(one.matches) > 0 {
			t.Fatalf("left: %v and %d matches", got, len(one.matches))
		}
	})
}

func TestOutside(t *testing.T) {
	t.Parallel()
	s := two(t)
	s.Apply("a", &probev1.Delta{Seq: 2, Edges: []*probev1.Edge{
		{Ref: 5, Src: 2, RemoteAddr: []byte{8, 8, 8, 8}, Port: 53, Udp: true, Conns: 1, Seen: 1},
		{Ref: 6, Src: 2, RemoteAddr: []byte{1, 1, 1, 1}, Port: 443, Conns: 1, Seen: 1},
		{Ref: 7, Dst: 2, RemoteAddr: []byte{192, 168, 1, 5}, Port: 22, Conns: 1, Seen: 2},
	}}, 1)
	want(t, s, "container;a;client>internet client", "unmanaged;192.168.1.5>container;a;client server")
	s.Apply("a", &probev1.Delta{Seq: 3, GoneEdges: []uint32{5, 6, 7}}, 1)
	want(t, s)
	s.Read(func(r *Reader) {
		if r.Entity(InternetID) != nil || r.Entity("unmanaged;192.168.1.5") != nil {
			t.Error("stand-ins stay though nobody talks to them")
		}
	})
}

func TestASnapshotReplacesAndAGapIsNoticed(t *testing.T) {
	t.Parallel()
	s := two(t)
	if s.Apply("a", &probev1.Delta{Seq: 5}, 1) {
		t.Error("a gap was not noticed")
	}
	if have := s.Hello("a", "i", "a", 1, 1); have != 1 {
		t.Errorf("same instance: have %d", have)
	}
	if have := s.Hello("a", "restarted", "a", 0, 0); have != 0 {
		t.Errorf("another instance: have %d", have)
	}
	if s.Apply("a", &probev1.Delta{Seq: 2}, 1) {
		t.Error("a delta of another instance was taken without a snapshot")
	}
	s.Read(func(r *Reader) {
		if r.Entity("container;a;client") == nil {
			t.Error("what was known went before the snapshot came: it would blink")
		}
	})
	if !s.Apply("a", &probev1.Delta{Seq: 1, Snapshot: true, Entities: []*probev1.Entity{entity(7, "host;a", nil, "addrs", "10.0.0.1")}}, 1) {
		t.Fatal("refused")
	}
	s.Read(func(r *Reader) {
		if r.Entity("container;a;client") != nil || r.Entity("host;a") == nil || r.Count("container") != 1 {
			t.Error("the snapshot did not replace")
		}
	})
}

func TestHealthHasReasonsAndDoesNotFlap(t *testing.T) {
	t.Parallel()
	s := two(t)
	sample := func(v float32) Health {
		s.Metrics("a", &probev1.Metrics{AtMs: 1000, Names: []string{"mem_used"}, Refs: []uint32{2}, NameIndex: []uint32{0}, Values: []float32{v}}, 1000)
		var h Health
		s.Flush(1000, func(Changes) {
			e := s.Reader().Entity("container;a;client")
			h = e.Health
			if h == HealthWarn && (len(e.Reasons) != 1 || e.Reasons[0].Code != "mem_near_limit") {
				t.Errorf("reasons %v", e.Reasons)
			}
		})
		return h
	}
	for _, x := range []struct {
		v    float32
		want Health
	}{{50, HealthOK}, {91, HealthWarn}, {89, HealthWarn}, {80, HealthOK}, {98, HealthCrit}, {96, HealthCrit}, {91, HealthWarn}} {
		if got := sample(x.v); got != x.want {
			t.Errorf("memory at %v %%: %v, want %v", x.v, got, x.want)
		}
	}
	s.Stale("a", true, 1000)
	if got := sample(10); got != HealthStale {
		t.Errorf("unheard: %v", got)
	}
	s.Stale("a", false, 1000)
	if got := sample(10); got != HealthOK {
		t.Errorf("heard again: %v", got)
	}
}

// What a container used last is not what it uses: once it has stopped it has no figures, and is not ill for them.
func TestStoppedHasNoFigures(t *testing.T) {
	t.Parallel()
	s := two(t)
	is := func(state string) (v float64, known bool, h Health) {
		s.Flush(1000, func(Changes) {
			e := s.Reader().Entity("container;a;client")
			if e.State != state {
				t.Fatalf("it is %s, want %s", e.State, state)
			}
			v, known = e.Number("mem_used")
			h = e.Health
		})
		return v, known, h
	}
	sample := func(v float32) {
		s.Metrics("a", &probev1.Metrics{AtMs: 1000, Names: []string{"mem_used"}, Refs: []uint32{2}, NameIndex: []uint32{0}, Values: []float32{v}}, 1000)
	}
	become := func(seq uint64, state string) {
		e := entity(2, "container;a;client", []string{"host;a"})
		e.State = state
		if !s.Apply("a", &probev1.Delta{Seq: seq, Entities: []*probev1.Entity{e}}, 1000) {
			t.Fatal("refused")
		}
	}
	sample(99)
	if v, known, h := is(topology.StateRunning); v != 99 || !known || h != HealthCrit {
		t.Errorf("running: %v %v %v", v, known, h)
	}
	become(2, topology.StatePaused)
	if v, known, h := is(topology.StatePaused); v != 99 || !known || h != HealthCrit {
		t.Errorf("paused, with its memory: %v %v %v", v, known, h)
	}
	become(3, topology.StateExited)
	if _, known, h := is(topology.StateExited); known || h != HealthUnknown {
		t.Errorf("exited: %v %v", known, h)
	}
	become(4, topology.StateRunning)
	sample(10)
	if v, known, h := is(topology.StateRunning); v != 10 || !known || h != HealthOK {
		t.Errorf("running again: %v %v %v", v, known, h)
	}
}

func TestStaleSince(t *testing.T) {
	t.Parallel()
	s := two(t)
	s.Stale("a", true, 1000)
	for _, at := range []int64{1000, 5000} {
		s.Metrics("a", &probev1.Metrics{AtMs: at, Names: []string{"cpu"}, Refs: []uint32{2}, NameIndex: []uint32{0}, Values: []float32{1}}, at)
		s.Flush(at, func(Changes) {
			if r := s.Reader().Entity("container;a;client").Reasons; len(r) != 1 || r[0].SinceMs != 1000 {
				t.Errorf("at %d: %+v", at, r)
			}
		})
	}
}

func TestReplayGivesThePast(t *testing.T) {
	t.Parallel()
	s := two(t)
	r := NewRecorder(s)
	flush := func(at int64) { s.Flush(at, func(c Changes) { r.Record(c, at) }) }
	flush(1_000_000)
	s.Apply("a", &probev1.Delta{Seq: 2, Edges: []*probev1.Edge{{Ref: 5, Src: 2, RemoteAddr: []byte{10, 0, 0, 2}, Port: 80, Conns: 1, Seen: 1}}}, 1)
	flush(1_010_000)
	e := entity(2, "container;b;server", []string{"host;b"})
	e.State = "exited"
	s.Apply("b", &probev1.Delta{Seq: 2, Entities: []*probev1.Entity{e}}, 1)
	flush(1_020_000)
	s.Apply("b", &probev1.Delta{Seq: 3, GoneEntities: []uint32{2}}, 1)
	flush(1_020_000 + keyEvery)
	for _, x := range []struct {
		at    int64
		state string
		edges int
	}{{1_000_000, "running", 0}, {1_010_500, "running", 1}, {1_020_000, "exited", 1}, {1_020_000 + keyEvery, "", 1}} {
		past, ok := r.At(x.at)
		if !ok {
			t.Fatalf("%d is not recorded", x.at)
		}
		got := past.Reader().Entity("container;b;server")
		if (got == nil) != (x.state == "") || got != nil && got.State != x.state {
			t.Errorf("at %d: %+v, want %q", x.at, got, x.state)
		}
		if n := past.Reader().EdgeCount(); n != x.edges {
			t.Errorf("at %d: %d edges, want %d", x.at, n, x.edges)
		}
	}
	if _, ok := r.At(999_999); ok {
		t.Error("a time before the recording")
	}
}

// A probe that tells of ever more, by mistake or on purpose, is held to what one host may have: others are as they were, and what it took back
// makes room.
func TestAProbeIsHeldToItsShare(t *testing.T) {
	t.Parallel()
	s := two(t)
	p := s.probes["a"]
	for ref := uint32(1000); len(p.halves) < topology.MaxEdges; ref++ {
		p.halves[ref] = &half{forgotten: true}
	}
	for ref := uint32(1000); len(p.listeners) < topology.MaxEntities; ref++ {
		p.listeners[ref] = nil
	}
	for ref := uint32(1000); len(p.entities) < topology.MaxEntities; ref++ {
		p.entities[ref] = p.entities[1]
	}
	more := func(seq uint64) {
		t.Helper()
		if !s.Apply("a", &probev1.Delta{
			Seq: seq, Entities: []*probev1.Entity{entity(5, "container;a;more", nil), entity(2, "container;a;client", nil, "addrs", "172.17.0.2")}, Listeners: []*probev1.Listener{{Ref: 5, Entity: 2, Port: 81}},
			Edges: []*probev1.Edge{{Ref: 5, Src: 2, RemoteAddr: []byte{10, 0, 0, 2}, Port: 80, Seen: 1}},
		}, 1) {
			t.Fatal("refused")
		}
	}
	more(2)
	if s.byID["container;a;more"] != nil || p.listeners[5] != nil || p.halves[5] != nil {
		t.Error("more is taken than one host may have")
	}
	if e := s.byID["container;a;client"]; e == nil || len(e.Parents) != 0 {
		t.Error("what is known does not change any more")
	}
	delete(p.listeners, 1000)
	delete(p.entities, 1000)
	delete(p.halves, 1000)
	more(3)
	if s.byID["container;a;more"] == nil || p.listeners[5] == nil || p.halves[5] == nil {
		t.Error("there is room, and it is not used")
	}
}

// A number that is told for another thing, against the protocol, leaves nothing of the one before that nobody could take back.
func TestANumberThatMeansAnotherThing(t *testing.T) {
	t.Parallel()
	s := two(t)
	s.Apply("a", &probev1.Delta{Seq: 2, Entities: []*probev1.Entity{entity(2, "container;a;other", []string{"host;a"})}}, 1)
	if s.byID["container;a;client"] != nil || s.byID["container;a;other"] == nil {
		t.Error("the one before is still there, or the new one is not")
	}
	s.Apply("a", &probev1.Delta{Seq: 3, GoneEntities: []uint32{2}}, 1)
	if s.byID["container;a;other"] != nil {
		t.Error("the new one is not taken back")
	}
}
