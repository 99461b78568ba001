package probe

import (
	"math"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// governor keeps the probe cheap: when it uses more than its share of a core the collectors run less often.
type governor struct {
	stretch float64 // used by the owner goroutine
	at      time.Time
	used    time.Duration
	shared  atomic.Uint64 // stretch, as bits, for other goroutines
	cpu     atomic.Uint64
}

const (
	governorEvery = 10 * time.Second
	maxStretch    = 10
)

// observe measures the own use every ten seconds. limit is in percent of a core.
func (g *governor) observe(now time.Time, limit float64) {
	if g.stretch == 0 {
		g.stretch = 1
		g.at, g.used = now, selfCPU()
		g.shared.Store(math.Float64bits(1))
		return
	}
	wall := now.Sub(g.at)
	if wall < governorEvery {
		return
	}
	used := selfCPU()
	percent := 100 * float64(used-g.used) / float64(wall)
	g.at, g.used = now, used
	g.cpu.Store(math.Float64bits(percent))
	g.stretch = adjust(g.stretch, percent, limit)
	g.shared.Store(math.Float64bits(g.stretch))
}

// adjust is the rule: beyond the limit slower in proportion, well below it faster again by steps.
func adjust(stretch, percent, limit float64) float64 {
	switch {
	case percent > limit:
		stretch *= min(2, percent/limit)
	case percent < limit/2:
		stretch *= 0.8
	}
	return max(1, min(maxStretch, stretch))
}

func (g *governor) current() float64 {
	if bits := g.shared.Load(); bits != 0 {
		return math.Float64frombits(bits)
	}
	return 1
}

// self gives the percent of a core and the resident bytes.
func (g *governor) self() (float64, uint64) {
	var rss uint64
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 {
			pages, _ := strconv.ParseUint(f[1], 10, 64)
			rss = pages * uint64(os.Getpagesize())
		}
	}
	return math.Float64frombits(g.cpu.Load()), rss
}

func selfCPU() time.Duration {
	var ru unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &ru) != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
