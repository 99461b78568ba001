package series

import (
	"math"
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
	r := NewRing(8)
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
