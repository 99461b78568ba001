// Package heapfloor lets a small heap grow before it is collected.
//
// Go collects whenever the heap has doubled. A daemon whose live heap is small but which allocates much (a master that
// launches thousands of tasks a second holds some tens of MB) then collects many times a second, and pays for it with a
// quarter of its processor time. With a floor it collects when the heap has reached the floor, or has doubled, whichever is
// later: collecting costs less the smaller the heap is compared to the floor, and never more than before.
//
// GOGC and GOMEMLIMIT stay the operator's: when either is set, nothing is changed.
package heapfloor

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
)

// most is the highest floor that ForHost gives, in bytes.
const most = 512 << 20

// ForHost is a floor in bytes that suits this host: a sixteenth of the memory that the process may use, 512 MB at most. It
// becomes resident memory only when that much has been allocated between two collections.
func ForHost() int64 { return floorOf(memory(os.DirFS("/"))) }

func floorOf(memory int64) int64 { return min(memory/16, most) }

// memory is what the host has, or what the process's control group may use where that is less; 0 when it can't be told.
func memory(root fs.FS) int64 {
	total := int64(0)
	if b, err := fs.ReadFile(root, "proc/meminfo"); err == nil {
		var kb int64
		if n, _ := fmt.Sscanf(string(b), "MemTotal: %d kB", &kb); n == 1 {
			total = kb << 10
		}
	}
	// Inside a container its own control group stands at the root.
	for _, name := range []string{"sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if b, err := fs.ReadFile(root, name); err == nil {
			if limit, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && limit > 0 {
				total = min(total, limit)
			}
		}
	}
	return total
}

// usual is Go's own percentage.
const usual = 100

// Set keeps the floor until the function that it returns is called, which brings Go's own pace back. It does nothing when
// the environment sets the collector's pace. One floor holds for the process: the last that was set.
func Set(bytes int64) (unset func()) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" || bytes <= 0 {
		return func() {}
	}
	f := &floor{bytes: float64(bytes)}
	f.adjust()
	f.watch()
	return func() {
		f.ended.Store(true)
		debug.SetGCPercent(usual)
	}
}

type floor struct {
	bytes   float64
	percent int // in force; of the goroutine that runs cleanups, after Set
	ended   atomic.Bool
}

// watch has the next collection adjust the percentage to what it found alive. A cleanup of an object that nobody holds runs
// after each collection; the next object is made then.
func (f *floor) watch() {
	type sentinel struct{ _ *int } // a pointer keeps it out of the allocator of tiny objects
	runtime.AddCleanup(&sentinel{new(int)}, func(f *floor) {
		if f.ended.Load() {
			return
		}
		f.adjust()
		f.watch()
	}, f)
}

func (f *floor) adjust() {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	live := 0.0
	if sample[0].Value.Kind() == metrics.KindUint64 {
		live = float64(sample[0].Value.Uint64())
	}
	percent := percentFor(live, f.bytes)
	// Setting it stops the world for a moment: only for what makes a difference.
	if math.Abs(float64(percent-f.percent)) > 0.1*float64(f.percent) {
		debug.SetGCPercent(percent)
		f.percent = percent
	}
}

// percentFor is the percentage at which a heap of live bytes is collected when it reaches the floor.
func percentFor(live, floor float64) int {
	const smallest = 4 << 20 // Go's own floor
	return int(max(usual, (floor/max(live, smallest)-1)*100))
}
