package probe

import (
	"path/filepath"
	"strconv"
	"strings"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// batch collects samples by the refs of their entities.
type batch struct {
	hub   *hub
	names map[string]uint32
	m     *probev1.Metrics
}

func newBatch(h *hub, at int64, live bool) *batch {
	return &batch{hub: h, names: map[string]uint32{}, m: &probev1.Metrics{AtMs: at, Live: live}}
}

func (b *batch) ref(id string) uint32 {
	b.hub.mu.Lock()
	defer b.hub.mu.Unlock()
	return b.hub.refOf(id)
}

func (b *batch) add(ref uint32, name string, v float64) {
	if ref == 0 || v < 0 {
		return
	}
	i, ok := b.names[name]
	if !ok {
		i = uint32(len(b.m.Names))
		b.names[name] = i
		b.m.Names = append(b.m.Names, name)
	}
	b.m.Refs, b.m.NameIndex, b.m.Values = append(b.m.Refs, ref), append(b.m.NameIndex, i), append(b.m.Values, float32(v))
}

// sendMetrics measures everything in the steady rounds, and what is watched in the others.
func (p *Probe) sendMetrics(now time.Time, steady bool) error {
	watched := map[string]bool{}
	p.mu.Lock()
	for _, ids := range p.watched {
		for _, id := range ids {
			watched[id] = true
		}
	}
	p.mu.Unlock()
	if !steady && len(watched) == 0 {
		return nil
	}
	at := now.UnixMilli()
	b := newBatch(p.hub, at, !steady)
	wanted := func(id string) uint32 {
		if !steady && !watched[id] {
			return 0
		}
		return b.ref(id)
	}
	if ref := wanted(p.pic.hostID); ref != 0 {
		for name, v := range p.host.measure(at) {
			b.add(ref, name, v)
		}
		b.add(ref, topology.MetricPids, float64(len(p.table.byPid)))
	}
	if steady {
		p.table.measureIO(now)
	}
	live := map[string]bool{}
	for _, c := range p.pic.order {
		live[c.ref.id] = true
		if len(c.procs) == 0 {
			continue
		}
		if ref := wanted(c.id); ref != 0 {
			p.measureContainer(b, ref, c, at)
		}
	}
	for id := range p.samples {
		if !live[id] {
			delete(p.samples, id)
		}
	}
	for _, proc := range p.table.byPid {
		if proc.kernel {
			continue
		}
		if ref := wanted(p.processID(proc)); ref != 0 {
			p.measureProcess(b, ref, proc)
		}
	}
	if p.plugins != nil {
		p.plugins.measure(b, now, func(key string) uint32 {
			if kind, pid := topology.KindOf(key), key[strings.LastIndexByte(key, ';')+1:]; kind == topology.KindProcess {
				n, _ := strconv.Atoi(pid)
				proc := p.table.byPid[n]
				if proc == nil {
					return 0
				}
				key = p.processID(proc)
			}
			return wanted(key)
		})
	}
	if len(b.m.Refs) == 0 {
		return nil
	}
	data, err := p.codec.Encode(nil, &probev1.Frame{Metrics: b.m})
	if err != nil {
		return err
	}
	for _, l := range p.links {
		l.offer(data)
	}
	return nil
}

func (p *Probe) measureProcess(b *batch, ref uint32, proc *process) {
	b.add(ref, topology.MetricCPU, 100*proc.cores/float64(p.host.cores))
	b.add(ref, topology.MetricCPUCores, proc.cores)
	b.add(ref, topology.MetricMem, float64(proc.rss))
	b.add(ref, topology.MetricThreads, float64(proc.threads))
	if n := p.table.openFiles(proc, b.m.AtMs); n > 0 {
		b.add(ref, topology.MetricFds, float64(n))
	}
	if proc.ioAt > 0 && proc.readRate+proc.writeRate > 0 {
		b.add(ref, topology.MetricDiskRead, proc.readRate)
		b.add(ref, topology.MetricDiskWrite, proc.writeRate)
	}
}

// measureContainer reads the container's cgroups. Rates are those since the last reading.
func (p *Probe) measureContainer(b *batch, ref uint32, c *box, at int64) {
	s := p.roots.measure(c.first.cgroups().paths, c.ref)
	s.at = at
	if c.ownNS {
		s.netRx, s.netTx, _ = readNetDev(filepath.Join(p.cfg.ProcRoot, strconv.Itoa(c.first.pid), "net/dev"), func(name string) bool { return name != "lo" })
	}
	if s.cpuNanos < 0 { // no cgroup of its own can be read: add up its processes
		var cores, rss float64
		for _, proc := range c.procs {
			cores, rss = cores+proc.cores, rss+float64(proc.rss)
		}
		b.add(ref, topology.MetricCPUCores, cores)
		b.add(ref, topology.MetricCPU, 100*cores/float64(p.host.cores))
		if s.mem < 0 {
			s.mem = rss
		}
	}
	if s.diskRead < 0 { // its group does not count: add up its processes
		var read, write float64
		for _, proc := range c.procs {
			read, write = read+proc.readRate, write+proc.writeRate
		}
		b.add(ref, topology.MetricDiskRead, read)
		b.add(ref, topology.MetricDiskWrite, write)
	}
	if s.pids < 0 {
		s.pids = float64(len(c.procs))
	}
	last, ok := p.samples[c.ref.id]
	p.samples[c.ref.id] = s
	if ok && at > last.at {
		seconds := float64(at-last.at) / 1000
		rate := func(name string, was, is float64) {
			if was >= 0 && is >= was {
				b.add(ref, name, (is-was)/seconds)
			}
		}
		if s.cpuNanos >= last.cpuNanos && last.cpuNanos >= 0 {
			cores := (s.cpuNanos - last.cpuNanos) / 1e9 / seconds
			b.add(ref, topology.MetricCPUCores, cores)
			b.add(ref, topology.MetricCPU, 100*cores/float64(p.host.cores))
		}
		if s.periods > last.periods && last.periods >= 0 {
			b.add(ref, topology.MetricThrottled, 100*max(0, s.throttled-last.throttled)/(s.periods-last.periods))
		}
		rate(topology.MetricNetRx, last.netRx, s.netRx)
		rate(topology.MetricNetTx, last.netTx, s.netTx)
		if s.diskRead >= 0 {
			rate(topology.MetricDiskRead, last.diskRead, s.diskRead)
			rate(topology.MetricDiskWrite, last.diskWrite, s.diskWrite)
		}
	}
	b.add(ref, topology.MetricMem, s.mem)
	if s.memLimit > 0 && s.mem >= 0 {
		b.add(ref, topology.MetricMemLimit, s.memLimit)
		b.add(ref, topology.MetricMemUsed, 100*s.mem/s.memLimit)
	}
	b.add(ref, topology.MetricPids, s.pids)
	files := 0
	for _, proc := range c.procs {
		files += p.table.openFiles(proc, at)
	}
	if files > 0 {
		b.add(ref, topology.MetricFds, float64(files))
	}
}
