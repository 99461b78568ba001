package cgroup

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// Usage measures the group. What the host does not count is left out.
func (g *Group) Usage(now time.Time) *mesosv1.ResourceStatistics {
	s := &mesosv1.ResourceStatistics{Timestamp: ptr(float64(now.UnixNano()) / 1e9)}
	if g.dir != "" {
		g.usage2(s)
	} else {
		g.usage1(s)
	}
	g.usageIO(s)
	procs := uint32(len(g.Procs()))
	s.Processes = &procs
	return s
}

func (g *Group) usage1(s *mesosv1.ResourceStatistics) {
	if d := g.dirs["cpuacct"]; d != "" {
		user, err1 := readUint(d, "cpuacct.usage_user")
		sys, err2 := readUint(d, "cpuacct.usage_sys")
		if err1 == nil && err2 == nil {
			s.CpusUserTimeSecs, s.CpusSystemTimeSecs = ptr(float64(user)/1e9), ptr(float64(sys)/1e9)
		} else if st := readStat(d, "cpuacct.stat"); st != nil { // in ticks of 10 ms
			s.CpusUserTimeSecs, s.CpusSystemTimeSecs = ptr(float64(st["user"])/100), ptr(float64(st["system"])/100)
		}
	}
	if d := g.dirs["cpu"]; d != "" {
		if q, err := os.ReadFile(filepath.Join(d, "cpu.cfs_quota_us")); err == nil && !strings.HasPrefix(string(q), "-") {
			st := readStat(d, "cpu.stat")
			s.CpusNrPeriods, s.CpusNrThrottled = ptr(uint32(st["nr_periods"])), ptr(uint32(st["nr_throttled"]))
			s.CpusThrottledTimeSecs = ptr(float64(st["throttled_time"]) / 1e9)
		}
	}
	if d := g.dirs["memory"]; d != "" {
		set(&s.MemTotalBytes, d, "memory.usage_in_bytes")
		set(&s.MemTotalMemswBytes, d, "memory.memsw.usage_in_bytes")
		set(&s.MemKmemUsageBytes, d, "memory.kmem.usage_in_bytes")
		set(&s.MemKmemTcpUsageBytes, d, "memory.kmem.tcp.usage_in_bytes")
		set(&s.MemLimitBytes, d, "memory.limit_in_bytes")
		set(&s.MemSoftLimitBytes, d, "memory.soft_limit_in_bytes")
		if st := readStat(d, "memory.stat"); st != nil {
			s.MemRssBytes, s.MemCacheBytes = ptr(st["total_rss"]), ptr(st["total_cache"])
			// The two old names that tools still read mean the same.
			s.MemAnonBytes, s.MemFileBytes = ptr(st["total_rss"]), ptr(st["total_cache"])
			s.MemMappedFileBytes, s.MemSwapBytes = ptr(st["total_mapped_file"]), ptr(st["total_swap"])
			s.MemUnevictableBytes = ptr(st["total_unevictable"])
		}
	}
	if d := g.dirs["pids"]; d != "" {
		if n, err := readUint(d, "pids.current"); err == nil {
			s.Threads = ptr(uint32(n))
		}
	}
}

func (g *Group) usage2(s *mesosv1.ResourceStatistics) {
	if st := readStat(g.dir, "cpu.stat"); st != nil {
		s.CpusUserTimeSecs, s.CpusSystemTimeSecs = ptr(float64(st["user_usec"])/1e6), ptr(float64(st["system_usec"])/1e6)
		if q, err := os.ReadFile(filepath.Join(g.dir, "cpu.max")); err == nil && !strings.HasPrefix(string(q), "max") {
			s.CpusNrPeriods, s.CpusNrThrottled = ptr(uint32(st["nr_periods"])), ptr(uint32(st["nr_throttled"]))
			s.CpusThrottledTimeSecs = ptr(float64(st["throttled_usec"]) / 1e6)
		}
	}
	set(&s.MemTotalBytes, g.dir, "memory.current")
	set(&s.MemLimitBytes, g.dir, "memory.max")
	set(&s.MemSoftLimitBytes, g.dir, "memory.low")
	set(&s.MemSwapBytes, g.dir, "memory.swap.current")
	if st := readStat(g.dir, "memory.stat"); st != nil {
		s.MemRssBytes, s.MemCacheBytes = ptr(st["anon"]), ptr(st["file"])
		s.MemAnonBytes, s.MemFileBytes = ptr(st["anon"]), ptr(st["file"])
		s.MemMappedFileBytes, s.MemUnevictableBytes = ptr(st["file_mapped"]), ptr(st["unevictable"])
	}
	if n, err := readUint(g.dir, "pids.current"); err == nil {
		s.Threads = ptr(uint32(n))
	}
}

// MaxMemory is the most that the group ever used, and its limit, for the story of an exhaustion.
func (g *Group) MaxMemory() (used, limit uint64) {
	if g.dir != "" {
		used, err := readUint(g.dir, "memory.peak")
		if err != nil {
			used, _ = readUint(g.dir, "memory.current")
		}
		limit, _ = readUint(g.dir, "memory.max")
		return used, limit
	}
	used, _ = readUint(g.dirs["memory"], "memory.max_usage_in_bytes")
	limit, _ = readUint(g.dirs["memory"], "memory.limit_in_bytes")
	return used, limit
}

// MemoryStat is the text of the kernel's own account.
func (g *Group) MemoryStat() string {
	d := g.dir
	if d == "" {
		d = g.dirs["memory"]
	}
	b, _ := os.ReadFile(filepath.Join(d, "memory.stat"))
	return string(b)
}

func set(field **uint64, dir, file string) {
	if v, err := readUint(dir, file); err == nil {
		*field = &v
	}
}

func readStat(dir, file string) map[string]uint64 {
	f, err := os.Open(filepath.Join(dir, file))
	if err != nil {
		return nil
	}
	defer f.Close()
	m := make(map[string]uint64)
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		k, v, ok := strings.Cut(sc.Text(), " ")
		if n, err := strconv.ParseUint(v, 10, 64); ok && err == nil {
			m[k] = n
		}
	}
	return m
}

func ptr[T any](v T) *T { return &v }
