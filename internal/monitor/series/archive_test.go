package series

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestArchive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, err := OpenArchive(dir)
	if err != nil {
		t.Fatal(err)
	}
	const hour = 500_000
	ring := func(from, to int, v float32) *Ring {
		r := NewRing(Slots)
		for m := from; m < to; m++ {
			r.Add(hour*3600_000+int64(m)*60_000, v)
			r.Add(hour*3600_000+int64(m)*60_000+30_000, 3*v)
		}
		return r
	}
	records := map[string][]byte{}
	for i := range 300 {
		id := fmt.Sprintf("container;h;%d", i)
		records[Key(id, "cpu")] = Collect(Series{id, "cpu", nil}.with(ring(0, 20, float32(i+1))), hour)
	}
	if err := a.Write(hour, records); err != nil {
		t.Fatal(err)
	}
	// After a restart the rest of the hour is added, and what was there stays.
	again := map[string][]byte{Key("container;h;7", "cpu"): Collect(Series{"container;h;7", "cpu", ring(30, 40, 8)}, hour)}
	if err := a.Write(hour, again); err != nil {
		t.Fatal(err)
	}
	low, avg, high := nans(60), nans(60), nans(60)
	avg[3] = 99 // known already
	a.Fill("container;h;7", "cpu", hour*3600_000, low, avg, high)
	for m, want := range map[int]float64{0: 16, 3: 99, 19: 16, 35: 16} {
		if math.Abs(avg[m]-want) > 0.1 {
			t.Errorf("minute %d: %v", m, avg[m])
		}
	}
	if math.Abs(low[0]-8) > 0.1 || math.Abs(high[0]-24) > 0.1 || !math.IsNaN(avg[25]) || !math.IsNaN(avg[45]) {
		t.Errorf("%v %v %v", low[0], high[0], avg[25])
	}
	unknown := nans(60)
	a.Fill("container;h;nobody", "cpu", hour*3600_000, nans(60), unknown, nans(60))
	if !math.IsNaN(unknown[0]) {
		t.Error("values of nobody")
	}
	if err := a.Write(hour+archiveHours+1, again); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(a.path(hour)); err == nil {
		t.Error("an old hour is still there")
	}
	// A damaged file is no hour.
	if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(hour)+".min"), []byte(archiveMagic+"\xff\xff\xff\xff\xff\xff\xff\x7f"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.Fill("container;h;7", "cpu", hour*3600_000, nans(60), nans(60), nans(60))
	if err := a.Write(hour, again); err != nil {
		t.Fatal(err)
	}
	var none *Archive
	none.Fill("x", "cpu", 0, nans(1), nans(1), nans(1))
}

func (s Series) with(r *Ring) Series { s.Ring = r; return s }

func nans(n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = math.NaN()
	}
	return out
}
