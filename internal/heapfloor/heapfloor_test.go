package heapfloor

import (
	"runtime"
	"runtime/debug"
	"testing"
	"testing/fstest"
)

func TestPercentFor(t *testing.T) {
	for _, c := range []struct {
		live, floor float64
		want        int
	}{
		{0, 256 << 20, 6300},        // counted as 4 MB
		{64 << 20, 256 << 20, 300},  // collected at 256 MB
		{128 << 20, 256 << 20, 100}, // where doubling and the floor meet
		{1 << 30, 256 << 20, 100},   // a large heap doubles
		{100 << 20, 150 << 20, 100}, // never collected more often than Go would
		{4 << 20, 4<<20 + 1, 100},   // a floor that is none
		{10 << 20, 110 << 20, 1000},
	} {
		if got := percentFor(c.live, c.floor); got != c.want {
			t.Errorf("percentFor(%v, %v) = %d, want %d", c.live, c.floor, got, c.want)
		}
	}
}

func TestForHost(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for name, c := range map[string]struct {
		files fstest.MapFS
		want  int64
	}{
		"large host":      {fstest.MapFS{"proc/meminfo": file("MemTotal:       24000000 kB\nMemFree: 1 kB\n")}, 512 << 20},
		"small host":      {fstest.MapFS{"proc/meminfo": file("MemTotal:        1048576 kB\n")}, 64 << 20},
		"limit, v2":       {fstest.MapFS{"proc/meminfo": file("MemTotal: 24000000 kB\n"), "sys/fs/cgroup/memory.max": file("536870912\n")}, 32 << 20},
		"no limit, v2":    {fstest.MapFS{"proc/meminfo": file("MemTotal: 24000000 kB\n"), "sys/fs/cgroup/memory.max": file("max\n")}, 512 << 20},
		"no limit, v1":    {fstest.MapFS{"proc/meminfo": file("MemTotal: 24000000 kB\n"), "sys/fs/cgroup/memory/memory.limit_in_bytes": file("9223372036854771712\n")}, 512 << 20},
		"nothing is told": {fstest.MapFS{}, 0},
	} {
		if got := floorOf(memory(c.files)); got != c.want {
			t.Errorf("%s: floor %d, want %d", name, got, c.want)
		}
	}
}

// The floor follows what each collection finds alive, and ends with unset.
func TestSetFollowsTheHeap(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	unset := Set(64 << 20)
	if p := current(); p <= 100 {
		t.Fatalf("with an empty heap the percentage is %d", p)
	}
	held := make([]byte, 200<<20)
	for i := 0; current() != 100; i++ {
		if i == 1000 {
			t.Fatalf("with %d MB alive the percentage is still %d", len(held)>>20, current())
		}
		runtime.GC()
		runtime.Gosched()
	}
	runtime.KeepAlive(held)
	unset()
	if p := current(); p != 100 {
		t.Errorf("after unset the percentage is %d", p)
	}
}

func TestTheEnvironmentWins(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GOGC", "")
			t.Setenv("GOMEMLIMIT", "")
			t.Setenv(name, "50")
			defer Set(1 << 30)()
			if p := current(); p != 100 {
				t.Errorf("the percentage became %d", p)
			}
		})
	}
}

func current() int {
	p := debug.SetGCPercent(100)
	debug.SetGCPercent(p)
	return p
}
