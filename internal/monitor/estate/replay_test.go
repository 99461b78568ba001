package estate

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
)

// picture is all that a recording keeps, but for the numbers of edges, which it follows only roughly.
func picture(r *Reader) map[string]string {
	out := map[string]string{}
	for e := range r.Entities {
		out[e.ID] = fmt.Sprint(e.Kind, e.Label, e.State, e.StartedMs, e.SinceMs, e.ExitCode, e.Parents, e.Attrs, e.Health, e.Stale, e.Pseudo)
		for _, x := range e.Reasons { // their words follow the numbers
			out[e.ID] += fmt.Sprint(x.Code, x.Severity, x.SinceMs)
		}
		if !e.Pseudo {
			v, ok := e.Number("cpu")
			out[e.ID] += fmt.Sprint(v, ok)
		}
	}
	for b := range r.Edges {
		out[fmt.Sprint(b.Src.ID, ">", b.Dst.ID, ":", b.Port, b.UDP)] = fmt.Sprint(b.tell())
	}
	return out
}

// An estate in which things come, change and go for more than an hour is, at each time of the last hour, what it was.
func TestReplayIsWhatWas(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(5, 6))
	s := two(t)
	r := NewRecorder(s)
	const start = int64(1_790_000_000_000)
	was := map[int64]map[string]string{}
	seq := map[string]uint64{"a": 1, "b": 1}
	halves := map[string][]uint32{}
	ref := uint32(100)
	end := start + replaySpan + 2*keyEvery
	for at := start; at <= end; at += 7_000 {
		for host := range maps.Keys(seq) {
			d := &probev1.Delta{}
			for range rng.IntN(6) {
				ref++
				e := &probev1.Edge{Ref: ref, Src: uint32(1 + rng.IntN(2)), RemoteAddr: []byte{10, 0, byte(rng.IntN(2)), byte(1 + rng.IntN(3))}, Port: uint32(80 + rng.IntN(3)), Udp: rng.IntN(4) == 0, Conns: uint32(1 + rng.IntN(20)), Seen: 1}
				if rng.IntN(3) == 0 {
					e.FailRate, e.Tx, e.Rx, e.RttUs = float32(rng.IntN(2)), rng.Float32(), rng.Float32(), rng.Uint32N(1000)
				}
				d.Edges = append(d.Edges, e)
				halves[host] = append(halves[host], ref)
			}
			for len(halves[host]) > 20 {
				d.GoneEdges = append(d.GoneEdges, halves[host][0])
				halves[host] = halves[host][1:]
			}
			if rng.IntN(3) == 0 {
				id := uint32(10 + rng.IntN(5))
				e := entity(id, fmt.Sprintf("container;%s;%d", host, id), []string{"host;" + host}, "image", []string{"x", "y"}[rng.IntN(2)])
				e.State = []string{"running", "exited"}[rng.IntN(2)]
				if rng.IntN(4) == 0 {
					e.Reasons = []*probev1.Reason{{Code: "oom_killed", Severity: 2, Text: "killed"}}
				}
				d.Entities = append(d.Entities, e)
				if rng.IntN(3) == 0 {
					d.Entities, d.GoneEntities = nil, append(d.GoneEntities, id)
				}
			}
			seq[host]++
			d.Seq = seq[host]
			if !s.Apply(host, d, at) {
				t.Fatal("refused")
			}
			if rng.IntN(50) == 0 {
				s.Stale(host, rng.IntN(2) == 0, at)
			}
		}
		s.Flush(at, func(c Changes) {
			r.Record(c, at)
			was[at] = picture(s.Reader())
		})
	}
	from, to := r.Span()
	if to != end-(end-start)%7_000 || from > to-replaySpan || from < start+keyEvery {
		t.Errorf("recorded from %d to %d of %d", from-start, to-start, end-start)
	}
	compared := 0
	for at, want := range was {
		past, ok := r.At(at)
		if ok != (at >= from) {
			t.Fatalf("at %d: recorded is %v", at-start, ok)
		}
		if !ok {
			continue
		}
		compared++
		if got := picture(past.Reader()); !maps.Equal(got, want) {
			for _, k := range slices.Sorted(maps.Keys(want)) {
				if got[k] != want[k] {
					t.Errorf("%s: %s, want %s", k, got[k], want[k])
				}
			}
			t.Fatalf("at %d: %d things, want %d", at-start, len(got), len(want))
		}
	}
	if compared < 500 {
		t.Errorf("only %d times compared", compared)
	}
}

// A gone container's figures can be looked at as long as it can be replayed.
func TestReplayKnowsTheFiguresOfWhatHasGone(t *testing.T) {
	t.Parallel()
	s := two(t)
	r := NewRecorder(s)
	const at = int64(1_790_000_000_000)
	flush := func(at int64) { s.Flush(at, func(c Changes) { r.Record(c, at) }) }
	flush(at)
	s.Metrics("b", &probev1.Metrics{AtMs: at, Names: []string{"cpu"}, Refs: []uint32{2}, NameIndex: []uint32{0}, Values: []float32{42}}, at)
	flush(at + 1000)
	s.Apply("b", &probev1.Delta{Seq: 2, GoneEntities: []uint32{2}}, at+2000)
	flush(at + 2000)
	past, ok := r.At(at + 1000)
	if !ok {
		t.Fatal("not recorded")
	}
	if v, ok := past.Reader().Entity("container;b;server").NumberAt("cpu", at); !ok || v < 41.9 || v > 42.1 {
		t.Errorf("%v %v", v, ok)
	}
}

// When so much happens that an hour does not fit, the oldest goes, and what is left can be played.
func TestReplayHasABound(t *testing.T) {
	t.Parallel()
	s := two(t)
	r := NewRecorder(s)
	r.limit = 4 << 20
	const start = int64(1_790_000_000_000)
	rng := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 100_000) // what does not compress fills a recording soonest
	at := start
	for i := range 100 {
		at = start + int64(i)*1000
		e := entity(2, "container;b;server", []string{"host;b"})
		for j := range 25 {
			b := noise[j*4000 : (j+1)*4000]
			for k := range b {
				b[k] = byte(' ' + rng.IntN(95))
			}
			e.Attrs = append(e.Attrs, &probev1.Attr{Key: fmt.Sprint(j), Value: string(b)})
		}
		if !s.Apply("b", &probev1.Delta{Seq: uint64(2 + i), Entities: []*probev1.Entity{e}}, at) {
			t.Fatal("refused")
		}
		s.Flush(at, func(c Changes) { r.Record(c, at) })
		if n := r.Size(); n > r.limit+r.limit/4 {
			t.Fatalf("%d bytes after %d s", n, i)
		}
	}
	from, to := r.Span()
	if from == start || to != at {
		t.Errorf("from %d to %d", from-start, to-start)
	}
	past, ok := r.At(from)
	if !ok {
		t.Fatal("the oldest is not there")
	}
	if v := past.Reader().Entity("container;b;server").Attr("7"); len(v) != 4000 || strings.Contains(v, "\n") {
		t.Errorf("%d bytes", len(v))
	}
}
