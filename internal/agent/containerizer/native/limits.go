package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
	"syscall"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
)

// limitsOf sums what a container may use.
func limitsOf(res []*mesosv1.Resource, limits map[string]float64) cgroup.Limits {
	var cpus, mem float64
	for _, r := range res {
		switch r.GetName() {
		case "cpus":
			cpus += r.GetScalar().GetValue()
		case "mem":
			mem += r.GetScalar().GetValue()
		}
	}
	l := cgroup.Limits{CPUs: max(cpus, 0), Mem: megabytes(mem)}
	if v, ok := limits["cpus"]; ok {
		l.CPULimit = v
	}
	if v, ok := limits["mem"]; ok {
		l.MemLimit = megabytes(v)
	}
	return l
}

func megabytes(mb float64) uint64 {
	switch {
	case math.IsInf(mb, 1) || mb > 1<<43:
		return cgroup.Unlimited
	case !(mb > 0):
		return 0
	}
	return uint64(mb * (1 << 20))
}

// oomScore makes the kernel prefer, when the host itself is short, those who use memory beyond what they asked for.
func oomScore(cfg *containerizer.Config) int {
	l := limitsOf(cfg.Resources, cfg.Limits)
	if l.MemLimit == 0 || l.MemLimit <= l.Mem {
		return 0
	}
	total := totalMemory()
	if total == 0 {
		return 0
	}
	return min(max(1000-int(1000*float64(l.Mem)/float64(total)), 2), 999)
}

func totalMemory() uint64 {
	var si syscall.Sysinfo_t
	if syscall.Sysinfo(&si) != nil {
		return 0
	}
	return si.Totalram * uint64(si.Unit)
}

// watchMemory ends the container when its memory is exhausted.
func (c *Containerizer) watchMemory(ct *container) {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	go func() {
		select {
		case <-ct.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := ct.group.WaitOOM(ctx); err != nil {
		if ctx.Err() == nil && !errors.Is(err, fs.ErrNotExist) { // a container that is over already has no group
			c.log.Warn("memory exhaustion can't be watched for", "container_id", ct.cfg.ID, "error", err)
		}
		return
	}
	c.limitMemory(ct)
	c.kill(ct)
}

// limitMemory notes that the container ends for want of memory, with the account that Mesos gives.
func (c *Containerizer) limitMemory(ct *container) {
	used, limit := ct.group.MaxMemory()
	var b strings.Builder
	fmt.Fprintf(&b, "Memory limit exceeded: Requested: %s Maximum Used: %s\n\nMEMORY STATISTICS: \n", bytesText(limit), bytesText(used))
	b.WriteString(ct.group.MemoryStat())
	b.WriteByte('\n')
	t := &containerizer.Termination{
		State:      mesosv1.TaskState_TASK_FAILED.Enum(),
		Reason:     mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY.Enum(),
		Message:    b.String(),
		Limitation: limitation("mem", float64(used)/(1<<20)),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ct.why == nil && !ct.destroy {
		ct.why = t
		c.metrics.oom.Inc()
	}
}

func limitation(name string, v float64) *mesosv1.TaskResourceLimitation {
	return &mesosv1.TaskResourceLimitation{Resources: []*mesosv1.Resource{{
		Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v}, Role: ptr("*"),
	}}}
}

// bytesText writes a size as Mesos does: the largest unit that divides it.
func bytesText(n uint64) string {
	for _, u := range []struct {
		name string
		size uint64
	}{{"GB", 1 << 30}, {"MB", 1 << 20}, {"KB", 1 << 10}} {
		if n >= u.size && n%u.size == 0 {
			return strconv.FormatUint(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatUint(n, 10) + "B"
}
