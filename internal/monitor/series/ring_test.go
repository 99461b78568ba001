package series

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestPackKeepsHalfAPerMille(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Float64Range(0.0001, 1e14).Draw(t, "v")
		if got := unpack(pack(v)); math.Abs(got-v) > v*0.0005 {
			t.Fatalf("%g became %g", v, got)
		}
	})
	for _, v := range []float64{0, -1} {
		if unpack(pack(v)) != 0 {
			t.Errorf("%v", v)
		}
	}
	if !math.IsNaN(unpack(pack(math.NaN()))) || math.IsNaN(unpack(pack(1e300))) {
		t.Error("extremes")
	}
}

func TestRing(t *testing.T) {
	t.Parallel()
	r := MakeRing(8)
	const base = 1_000_000 * Step * 1000
	at := func(slot int) int64 { return base + int64(slot)*Step*1000 }
	r.Add(at(0), 10)
	r.Add(at(0)+5000, 20)
	r.Add(at(2), 30)
	start, got := r.Range(at(0), at(10))
	if start != at(0) || len(got) != 3 || math.Round(got[0]) != 15 || !math.IsNaN(got[1]) || math.Round(got[2]) != 30 {
		t.Errorf("%d %v", start-base, got)
	}
	r.Add(at(1), 40) // late, from a spool
	if v := r.At(at(1)); math.Round(v) != 40 {
		t.Errorf("late sample: %v", v)
	}
	if r.Now() != 30 {
		t.Errorf("a late sample is not the newest: %v", r.Now())
	}
	r.Add(at(100), 1) // everything before is out of reach
	if start, got := r.Range(at(0), at(100)); start != at(93) || len(got) != 8 || !math.IsNaN(got[0]) {
		t.Errorf("%d %v", (start-base)/Step/1000, got)
	}
	r.Add(at(5), 9) // too late
	if !math.IsNaN(r.At(at(5))) {
		t.Error("a sample from before the ring")
	}
	low, avg, high := r.Minutes(at(100)/60000*60000, 2)
	if len(low) != 2 || low[0] != avg[0] && low[1] != avg[1] || len(high) != 2 {
		t.Error(low, avg, high)
	}
}

// A ring is, whatever is put into it, the samples of its newest slots.
func TestRingAgainstAMap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.SampledFrom([]int{8, ShortSlots, Slots}).Draw(t, "length")
		r := MakeRing(length)
		want := map[int64]uint16{}
		slot := int64(1_000_000)
		last := int64(0)
		for range rapid.IntRange(1, 600).Draw(t, "adds") {
			step := rapid.SampledFrom([]int64{1, 1, 1, 1, 1, 1, 2, 5, int64(length) - 1, -1, -3, -40, -int64(length) + 1, -int64(length)}).Draw(t, "step")
			at := max(slot+step, 1)
			v := rapid.SampledFrom([]float32{0, 1, 1, 1, 1.01, 7, 1e6, 3e-5, 1e18}).Draw(t, "v")
			if step == 1 && rapid.Bool().Draw(t, "walk") {
				v = rapid.Float32Range(0, 100).Draw(t, "walked")
			}
			_, again := want[at]
			if again && at == last {
				continue // averaged, which TestRing looks at
			}
			r.Add(at*Step*1000, v)
			if at > last-int64(length) {
				want[at] = pack(float64(v))
			}
			last = max(last, at)
			slot = last
		}
		from, got := r.Range((last-int64(length)-10)*Step*1000, (last+10)*Step*1000)
		if from != (last-int64(length)+1)*Step*1000 || len(got) != length {
			t.Fatalf("%d samples from %d, want %d from %d", len(got), from/Step/1000, length, last-int64(length)+1)
		}
		for i, v := range got {
			slot := last - int64(length) + 1 + int64(i)
			p, ok := want[slot]
			if !ok {
				p = missing
			}
			if w := unpack(p); w != v && !(math.IsNaN(w) && math.IsNaN(v)) || !same(r.At(slot*Step*1000), v) {
				t.Fatalf("slot %d of %d..%d: %v, at %v, want %v", slot, last-int64(length)+1, last, v, r.At(slot*Step*1000), w)
			}
		}
		if !math.IsNaN(r.At((last-int64(length))*Step*1000)) || !math.IsNaN(r.At((last+1)*Step*1000)) {
			t.Fatal("samples of slots that are out of reach")
		}
	})
}

func same(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }

func TestPackedSamplesAreTheSamples(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(rapid.OneOf(rapid.Just(uint16(7)), rapid.Uint16Range(900, 1100), rapid.Uint16()), 1, 400).Draw(t, "list")
		if rapid.Bool().Draw(t, "quiet") {
			for i := range list {
				list[i] = list[0]
			}
		}
		got := unpackSamples(nil, string(packSamples(nil, list)), len(list))
		if !slices.Equal(got, list) {
			t.Fatalf("%v became %v", list, got)
		}
	})
	quiet := make([]uint16, Slots)
	if n := len(packSamples(nil, quiet)); n > 8 {
		t.Errorf("an hour in which nothing happens takes %d bytes", n)
	}
}

func BenchmarkRingAdd(b *testing.B) {
	r := MakeRing(Slots)
	at := int64(1_000_000_000_000)
	for i := 0; b.Loop(); i++ {
		at += Step * 1000
		r.Add(at, float32(20+i*7919%13))
	}
}

func BenchmarkRingRange(b *testing.B) {
	r := MakeRing(Slots)
	at := int64(1_000_000_000_000)
	for i := range 500 {
		at += Step * 1000
		r.Add(at, float32(20+i*7919%13))
	}
	for b.Loop() {
		r.Range(at-3600_000, at)
	}
}
