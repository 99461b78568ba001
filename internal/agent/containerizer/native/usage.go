package native

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// Usage implements containerizer.Containerizer. A container with a cgroup of its own is measured by the kernel; the
// others by adding up their processes, which misses those that have ended.
func (c *Containerizer) Usage(id ids.Container) (*mesosv1.ResourceStatistics, error) {
	ct, err := c.find(id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	group, own, h, networked := ct.group, ct.ownGroup, ct.helper, ct.joined != nil
	l := limitsOf(ct.cfg.Resources, ct.cfg.Limits)
	disk, quota := ct.diskUsed, diskQuota(ct.cfg.Resources)
	res := ct.cfg.Resources
	c.mu.Unlock()
	now := time.Now()
	var s *mesosv1.ResourceStatistics
	if own && group != nil {
		s = group.Usage(now)
	} else {
		s = &mesosv1.ResourceStatistics{Timestamp: ptr(float64(now.UnixNano()) / 1e9)}
		if h != nil {
			sumProcesses(h.PID, s)
		}
		if l.Mem > 0 {
			s.MemLimitBytes = ptr(l.Mem)
		}
	}
	switch {
	case l.CPULimit > 0 && l.CPULimit < 1e6:
		s.CpusLimit, s.CpusSoftLimit = ptr(l.CPULimit), ptr(l.CPUs)
	case l.CPUs > 0:
		s.CpusLimit = ptr(l.CPUs)
	}
	if networked && h != nil {
		if b, err := os.ReadFile("/proc/" + strconv.Itoa(h.PID) + "/net/dev"); err == nil {
			sumInterfaces(string(b), s)
		}
	}
	if _, nested := containerizer.Parent(id); c.iso.quota != nil && !nested {
		c.quotaUsage(ct, res, s)
	} else if c.iso.disk {
		s.DiskUsedBytes = ptr(disk)
		if quota > 0 {
			s.DiskLimitBytes = ptr(quota)
		}
	}
	return s, nil
}

// sumInterfaces adds up what went through the interfaces of a network namespace, but its loopback (/proc/PID/net/dev).
func sumInterfaces(dev string, s *mesosv1.ResourceStatistics) {
	to := []**uint64{&s.NetRxBytes, &s.NetRxPackets, &s.NetRxErrors, &s.NetRxDropped, nil, nil, nil, nil, &s.NetTxBytes, &s.NetTxPackets, &s.NetTxErrors, &s.NetTxDropped}
	for _, line := range strings.Split(dev, "\n") {
		name, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if !ok || strings.TrimSpace(name) == "lo" || len(f) < len(to) {
			continue
		}
		for i, field := range to {
			if field == nil {
				continue
			}
			n, err := strconv.ParseUint(f[i], 10, 64)
			if err != nil {
				continue
			}
			if *field == nil {
				*field = new(uint64)
			}
			**field += n
		}
	}
}

// sumProcesses adds up the helper and everything below it.
func sumProcesses(root int, s *mesosv1.ResourceStatistics) {
	const tick = 100 // USER_HZ, the same on every Linux that Go runs on
	es, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	type proc struct {
		utime, stime, rss uint64
		threads           uint32
	}
	children := make(map[int][]int)
	procs := make(map[int]proc)
	for _, e := range es {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		i := strings.LastIndexByte(string(b), ')')
		if i < 0 {
			continue
		}
		f := strings.Fields(string(b)[i+1:]) // from state, field 3
		if len(f) < 22 {
			continue
		}
		n := func(i int) uint64 { v, _ := strconv.ParseUint(f[i], 10, 64); return v }
		ppid, _ := strconv.Atoi(f[1])
		children[ppid] = append(children[ppid], pid)
		// Times of children that have been waited for count too.
		procs[pid] = proc{utime: n(11) + n(13), stime: n(12) + n(14), threads: uint32(n(17)), rss: n(21) * uint64(os.Getpagesize())}
	}
	var sum proc
	var count uint32
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		p, ok := procs[queue[0]]
		if !ok {
			continue
		}
		delete(procs, queue[0])
		sum.utime, sum.stime, sum.rss, sum.threads = sum.utime+p.utime, sum.stime+p.stime, sum.rss+p.rss, sum.threads+p.threads
		count++
		queue = append(queue, children[queue[0]]...)
	}
	s.CpusUserTimeSecs, s.CpusSystemTimeSecs = ptr(float64(sum.utime)/tick), ptr(float64(sum.stime)/tick)
	s.MemRssBytes, s.MemTotalBytes = ptr(sum.rss), ptr(sum.rss)
	s.Processes, s.Threads = ptr(count), ptr(sum.threads)
}
