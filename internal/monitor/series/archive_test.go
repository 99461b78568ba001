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
	if err := os.WriteFile(filepath.Join(dir, ".new-7"), []byte("half an hour"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := OpenArchive(dir)
	if err != nil {
		t.Fatal(err)
	}
	const hour = 500_000
	ring := func(from, to int, v float32) *Ring {
		r := MakeRing(Slots)
		for m := from; m < to; m++ {
			r.Add(hour*3600_000+int64(m)*60_000, v)
			r.Add(hour*3600_000+int64(m)*60_000+30_000, 3*v)
		}
		return &r
	}
	write := func(hour int64, rings map[string]*Ring) {
		t.Helper()
		w, err := a.Write(hour)
		if err != nil {
			t.Fatal(err)
		}
		for id, r := range rings {
			if b := Collect(nil, r, 500_000); len(b) > 0 {
				w.Add(Key(id, "cpu"), b)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	first := map[string]*Ring{"container;h;idle": ring(0, 0, 1)}
	for i := range 300 {
		id := fmt.Sprintf("container;h;%d", i)
		first[id] = ring(0, 20, float32(i+1))
	}
	write(hour, first)
	// After a restart the rest of the hour is added, and what was there stays.
	again := map[string]*Ring{"container;h;7": ring(30, 40, 8), "container;h;new": ring(50, 60, 5)}
	write(hour, again)
	for id, want := range map[string]float64{"container;h;0": 2, "container;h;299": 600} {
		_, avg, _ := fill(a, id, hour)
		if math.Abs(avg[5]-want) > want/1000 || !math.IsNaN(avg[35]) {
			t.Errorf("%s, which is not in the second file: %v", id, avg)
		}
	}
	if _, avg, _ := fill(a, "container;h;new", hour); math.Abs(avg[55]-10) > 0.1 {
		t.Errorf("what is new in the second file: %v", avg)
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
	write(hour+archiveHours+1, again)
	if _, err := os.Stat(a.path(hour)); err == nil {
		t.Error("an old hour is still there")
	}
	// A damaged file is no hour.
	if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(hour)+".min"), []byte(archiveMagic+"\xff\xff\xff\xff\xff\xff\xff\x7f"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.Fill("container;h;7", "cpu", hour*3600_000, nans(60), nans(60), nans(60))
	write(hour, again)
	if list, err := filepath.Glob(filepath.Join(dir, ".new-*")); err != nil || len(list) > 0 {
		t.Errorf("left behind: %v %v", list, err)
	}
	var none *Archive
	w, err := none.Write(hour)
	if err != nil {
		t.Fatal(err)
	}
	w.Add("x", nil)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	none.Fill("x", "cpu", 0, nans(1), nans(1), nans(1))
}

func fill(a *Archive, id string, hour int64) (low, avg, high []float64) {
	low, avg, high = nans(60), nans(60), nans(60)
	a.Fill(id, "cpu", hour*3600_000, low, avg, high)
	return low, avg, high
}

func nans(n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = math.NaN()
	}
	return out
}
