package native

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// PortsConfig is how the isolator network/ports works: containers in the host's network may listen on the ports that they
// were given, and on no others.
type PortsConfig struct {
	// Interval is how often it is looked [container_ports_watch_interval]; 0: 30 s.
	Interval time.Duration
	// Enforce ends containers that do not keep to it [enforce_container_ports]; else they are logged.
	Enforce bool
	// Range are the ports that matter [check_agent_port_range_only, container_ports_isolated_range]; nil: all.
	Range resources.Ranges
}

// watchPorts looks at the listening sockets until ctx ends.
func (c *Containerizer) watchPorts(ctx context.Context) {
	t := time.NewTicker(c.cfg.Ports.Interval)
	defer t.Stop()
	told := make(map[*container]string) // what has been logged
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		c.checkPorts(told)
	}
}

func (c *Containerizer) checkPorts(told map[*container]string) {
	sockets := listening()
	if len(sockets) == 0 {
		return
	}
	c.mu.Lock()
	var list []*container
	for id, ct := range c.containers {
		// What is nested is in its root's group, and has what the root was given.
		if _, nested := containerizer.Parent(id); !nested && ct.phase == running && ct.ownGroup && !ct.network {
			list = append(list, ct)
		}
	}
	c.mu.Unlock()
	for ct := range told {
		if !slices.Contains(list, ct) {
			delete(told, ct)
		}
	}
	for _, ct := range list {
		c.mu.Lock()
		res := ct.cfg.Resources
		c.mu.Unlock()
		var stray []uint64
		for _, pid := range ct.group.Procs() {
			for _, port := range portsOf(pid, sockets) {
				if !given(res, port) && (c.cfg.Ports.Range == nil || c.cfg.Ports.Range.Contains(port)) && !slices.Contains(stray, port) {
					stray = append(stray, port)
				}
			}
		}
		slices.Sort(stray)
		if text := fmt.Sprint(stray); len(stray) > 0 && !c.cfg.Ports.Enforce && told[ct] != text {
			told[ct] = text
			c.log.Warn("a container listens on ports that it was not given", "container_id", ct.cfg.ID, "ports", text)
		}
		if len(stray) > 0 && c.cfg.Ports.Enforce {
			c.limitPorts(ct, stray)
		}
	}
}

// limitPorts ends a container that listens where it may not.
func (c *Containerizer) limitPorts(ct *container, stray []uint64) {
	ranges := &mesosv1.Value_Ranges{}
	for _, p := range stray {
		ranges.Range = append(ranges.Range, &mesosv1.Value_Range{Begin: ptr(p), End: ptr(p)})
	}
	t := &containerizer.Termination{
		State:   mesosv1.TaskState_TASK_FAILED.Enum(),
		Reason:  mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION.Enum(),
		Message: fmt.Sprintf("Listening on ports %v, which it was not given", stray),
		Limitation: &mesosv1.TaskResourceLimitation{Resources: []*mesosv1.Resource{{
			Name: ptr("ports"), Type: mesosv1.Value_RANGES.Enum(), Ranges: ranges, Role: ptr("*"),
		}}},
	}
	c.mu.Lock()
	if ct.why == nil && !ct.destroy && ct.phase == running {
		ct.why = t
	}
	c.mu.Unlock()
	c.kill(ct)
}

// given reports whether a port is among resources.
func given(res []*mesosv1.Resource, port uint64) bool {
	for _, r := range res {
		if r.GetName() != "ports" {
			continue
		}
		for _, g := range r.GetRanges().GetRange() {
			if g.GetBegin() <= port && port <= g.GetEnd() {
				return true
			}
		}
	}
	return false
}

// listening gives the ports of the TCP sockets of the host's network that listen, by inode.
func listening() map[string]uint64 {
	out := make(map[string]uint64)
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.SplitSeq(string(b), "\n") {
			// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …
			f := strings.Fields(line)
			const listen = "0A"
			if len(f) < 10 || f[3] != listen {
				continue
			}
			_, hex, _ := strings.Cut(f[1], ":")
			if port, err := strconv.ParseUint(hex, 16, 16); err == nil {
				out["socket:["+f[9]+"]"] = port
			}
		}
	}
	return out
}

// portsOf gives the ports that a process listens on.
func portsOf(pid int, sockets map[string]uint64) (out []uint64) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	es, err := os.ReadDir(dir)
	if err != nil {
		return nil // gone meanwhile
	}
	for _, e := range es {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			if port, ok := sockets[to]; ok {
				out = append(out, port)
			}
		}
	}
	return out
}
