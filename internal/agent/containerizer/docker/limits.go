package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	dcontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// Smallest values, as Mesos has them.
const (
	minMemory = 32 << 20
	minShares = 2
	cfsPeriod = 100_000 // µs
	minQuota  = 1_000
)

// limits makes the Engine's limits of resources. A task's container has what the task has: the executor's share is the
// helper's, which is not in it.
func (c *Containerizer) limits(cfg *containerizer.Config) dcontainer.Resources {
	res, limits := cfg.Resources, cfg.Limits
	if cfg.Kind == containerizer.CommandTask && cfg.Task != nil {
		res, limits = cfg.Task.GetResources(), map[string]float64{}
		for name, v := range cfg.Task.GetLimits() {
			limits[name] = v.GetValue()
		}
	}
	var cpus, mem float64
	for _, r := range res {
		switch r.GetName() {
		case "cpus":
			cpus += r.GetScalar().GetValue()
		case "mem":
			mem += r.GetScalar().GetValue()
		}
	}
	var out dcontainer.Resources
	if cpus > 0 {
		out.CPUShares = max(int64(cpus*1024), minShares)
	}
	quota, limited := limits["cpus"]
	if !limited && c.cfg.Cgroups.EnableCFS {
		quota, limited = cpus, cpus > 0
	}
	if limited && !math.IsInf(quota, 1) && quota < 1e6 {
		out.CPUPeriod, out.CPUQuota = cfsPeriod, max(int64(quota*cfsPeriod), minQuota)
	}
	hard, given := limits["mem"]
	switch {
	case given && (math.IsInf(hard, 1) || hard > 1<<43):
		out.MemoryReservation = megabytes(mem)
	case given:
		out.Memory = megabytes(hard)
		out.MemoryReservation = min(megabytes(mem), out.Memory)
	default:
		out.Memory = megabytes(mem)
	}
	c.swap(&out)
	if n := int64(c.cfg.Cgroups.PIDs); n > 0 {
		out.PidsLimit = &n
	}
	return out
}

// swap sets the limit of memory and swap together: as much again, which is Docker's default, or none.
func (c *Containerizer) swap(r *dcontainer.Resources) {
	switch {
	case r.Memory == 0:
		r.MemorySwap = 0
	case c.cfg.Cgroups.LimitSwap:
		r.MemorySwap = r.Memory
	default:
		r.MemorySwap = 2 * r.Memory
	}
}

func megabytes(mb float64) int64 {
	if !(mb > 0) {
		return 0
	}
	return max(int64(mb*(1<<20)), minMemory)
}

// writeMemory tells the helper what to say when the memory is exhausted.
func (c *Containerizer) writeMemory(dir string, limit int64) error {
	mb := float64(limit) / (1 << 20)
	name, role := "mem", "*"
	l := &mesosv1.TaskResourceLimitation{Resources: []*mesosv1.Resource{{
		Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &mb}, Role: &role,
	}}}
	b, err := l.MarshalVT()
	if err != nil {
		return err
	}
	text := fmt.Sprintf("Memory limit exceeded: Requested: %gMB", mb)
	if limit == 0 {
		text = "Memory limit exceeded: the host's memory is exhausted"
	}
	return spec.Write(dir, spec.MemoryFile, spec.Memory{Message: text, Limitation: b})
}

// Update implements containerizer.Containerizer. While the Engine does not answer the change waits.
func (c *Containerizer) Update(ctx context.Context, id ids.Container, res []*mesosv1.Resource, limits map[string]float64) error {
	ct, err := c.find(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	if ct.phase >= ending || inside(ct.cfg.Kind) {
		c.mu.Unlock()
		return nil // too late to matter, or its parent's affair
	}
	ct.cfg.Resources, ct.cfg.Limits = res, limits
	if ct.updating || ct.cfg.Kind == containerizer.CommandTask {
		c.mu.Unlock()
		return nil // what is under way looks again; a task's own limits never change
	}
	ct.updating = true
	c.mu.Unlock()
	err = c.applyLimits(ctx, ct)
	if err == nil || !client.IsErrConnectionFailed(err) && ctx.Err() == nil {
		c.mu.Lock()
		ct.updating = false
		c.mu.Unlock()
		return err
	}
	c.wg.Go(func() {
		for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
			select {
			case <-ct.ended:
				return
			case <-c.ctx.Done():
				return
			case <-time.After(pause):
			}
			err := c.applyLimits(c.ctx, ct)
			if client.IsErrConnectionFailed(err) {
				continue
			}
			if err != nil {
				c.log.Error("cannot change the limits of a container", "container_id", id, "error", err)
			}
			c.mu.Lock()
			ct.updating = false
			c.mu.Unlock()
			return
		}
	})
	return nil
}

func (c *Containerizer) applyLimits(ctx context.Context, ct *container) error {
	c.mu.Lock()
	cfg := ct.cfg
	r := c.limits(&cfg)
	if r.Memory != 0 && r.Memory < ct.memory {
		// To lower the limit would kill what runs; what is asked for becomes the soft one.
		r.MemoryReservation, r.Memory = r.Memory, ct.memory
	}
	c.mu.Unlock()
	if r.Memory == 0 {
		r.Memory, r.MemorySwap = -1, -1
	} else {
		c.swap(&r)
	}
	r.PidsLimit = nil
	if err := c.writeMemory(ct.dir, max(r.Memory, 0)); err != nil {
		return fmt.Errorf("write down the memory limit: %w", err)
	}
	if _, err := c.api.ContainerUpdate(ctx, c.ref(ct), client.ContainerUpdateOptions{Resources: &r}); err != nil && !cerrdefs.IsNotFound(err) {
		return c.engineError("change the limits of the container", err)
	}
	c.mu.Lock()
	ct.memory = max(r.Memory, 0)
	c.mu.Unlock()
	return nil
}

// Usage implements containerizer.Containerizer: from the container's control group where that is to be seen, else from the
// Engine.
func (c *Containerizer) Usage(id ids.Container) (*mesosv1.ResourceStatistics, error) {
	ct, err := c.find(id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	cfg := ct.cfg
	r := c.limits(&cfg)
	c.mu.Unlock()
	var st spec.DockerState
	_ = spec.Read(ct.dir, spec.DockerFile, &st) // not there before it runs
	var s *mesosv1.ResourceStatistics
	if st.PID > 0 && c.host != nil {
		if g, err := cgroup.Foreign(c.host, st.PID); err == nil {
			s = g.Usage(time.Now())
		}
	}
	if s == nil {
		if s, err = c.engineUsage(c.ref(ct)); err != nil {
			return nil, err
		}
	}
	switch {
	case r.CPUQuota > 0:
		s.CpusLimit, s.CpusSoftLimit = ptr(float64(r.CPUQuota)/cfsPeriod), ptr(float64(r.CPUShares)/1024)
	case r.CPUShares > 0:
		s.CpusLimit = ptr(float64(r.CPUShares) / 1024)
	}
	return s, nil
}

func (c *Containerizer) engineUsage(name string) (*mesosv1.ResourceStatistics, error) {
	ctx, cancel := context.WithTimeout(c.ctx, 5*time.Second)
	defer cancel()
	r, err := c.api.ContainerStats(ctx, name, client.ContainerStatsOptions{})
	if err != nil {
		return nil, c.engineError("measure the container", err)
	}
	defer r.Body.Close()
	var m dcontainer.StatsResponse
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		return nil, fmt.Errorf("measure the container: %w", err)
	}
	s := &mesosv1.ResourceStatistics{Timestamp: ptr(float64(time.Now().UnixNano()) / 1e9)}
	s.CpusUserTimeSecs = ptr(float64(m.CPUStats.CPUUsage.UsageInUsermode) / 1e9)
	s.CpusSystemTimeSecs = ptr(float64(m.CPUStats.CPUUsage.UsageInKernelmode) / 1e9)
	s.MemTotalBytes, s.MemLimitBytes = ptr(m.MemoryStats.Usage), ptr(m.MemoryStats.Limit)
	rss, cache := m.MemoryStats.Stats["total_rss"], m.MemoryStats.Stats["total_cache"] // cgroups v1
	if rss == 0 && cache == 0 {
		rss, cache = m.MemoryStats.Stats["anon"], m.MemoryStats.Stats["file"]
	}
	s.MemRssBytes, s.MemAnonBytes, s.MemCacheBytes, s.MemFileBytes = &rss, ptr(rss), &cache, ptr(cache)
	s.Threads = ptr(uint32(m.PidsStats.Current))
	for _, n := range m.Networks {
		add := func(field **uint64, v uint64) {
			if *field == nil {
				*field = new(uint64)
			}
			**field += v
		}
		add(&s.NetRxBytes, n.RxBytes)
		add(&s.NetTxBytes, n.TxBytes)
		add(&s.NetRxPackets, n.RxPackets)
		add(&s.NetTxPackets, n.TxPackets)
	}
	return s, nil
}

// Status implements containerizer.Containerizer.
func (c *Containerizer) Status(id ids.Container) (*mesosv1.ContainerStatus, error) {
	ct, err := c.find(id)
	if err != nil {
		return nil, err
	}
	s := &mesosv1.ContainerStatus{ContainerId: &mesosv1.ContainerID{Value: ptr(string(id))}}
	if p, ok := containerizer.Parent(id); ok {
		s.ContainerId = &mesosv1.ContainerID{Value: ptr(string(id[len(p)+1:])), Parent: &mesosv1.ContainerID{Value: ptr(string(p))}}
		return s, nil
	}
	var st spec.DockerState
	if spec.Read(ct.dir, spec.DockerFile, &st) != nil {
		return s, nil
	}
	if st.PID > 0 {
		s.ExecutorPid = ptr(uint32(st.PID))
	}
	byName := map[string]*mesosv1.NetworkInfo{}
	for _, ip := range st.IPs {
		n := byName[ip.Network]
		if n == nil {
			n = &mesosv1.NetworkInfo{Name: ptr(ip.Network)}
			byName[ip.Network] = n
			s.NetworkInfos = append(s.NetworkInfos, n)
		}
		n.IpAddresses = append(n.IpAddresses, &mesosv1.NetworkInfo_IPAddress{IpAddress: ptr(ip.Address)})
	}
	return s, nil
}
