// Command priority is an example of a plugin that acts: it shows the priority of every process, and lets it be lowered and put
// back. What it can put back is what it has lowered itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"github.com/orchestrator/orchestrator/api/plugin"
)

func main() {
	dir := flag.String("dir", plugin.DefaultDir, "directory of the probe's plugins")
	host := flag.String("host", "", "name of this host on the map; what the system says by default")
	flag.Parse()
	if *host == "" {
		*host, _ = os.Hostname()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	x := &priorities{host: *host, lowered: map[int]int{}}
	p := &plugin.Plugin{ID: "priority", Label: "Priority", Description: "Lowers the priority of a process, and puts it back", Report: x.report, Control: x.control}
	if err := p.Run(ctx, *dir); err != nil {
		log.Fatal(err) //nolint:gocritic // stop only undoes the signal handler
	}
}

const (
	lower   = "lower"
	restore = "restore"
	lowest  = 19
)

// priorities remembers what each process had before it was lowered.
type priorities struct {
	host string

	mu      sync.Mutex
	lowered map[int]int
}

// niceness reads a process's; the system call counts from 40 down to 1.
func niceness(pid int) (int, error) {
	v, err := syscall.Getpriority(syscall.PRIO_PROCESS, pid)
	return 20 - v, err
}

func (x *priorities) report(context.Context) (*plugin.Report, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && len(pids) < 2000 {
			pids = append(pids, pid)
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	live := map[int]int{}
	for _, pid := range pids {
		if was, ok := x.lowered[pid]; ok {
			live[pid] = was
		}
	}
	x.lowered = live
	return x.describe(pids), nil
}

// describe makes the report of some processes.
func (x *priorities) describe(pids []int) *plugin.Report {
	t := &plugin.Topology{
		Nodes: map[string]plugin.Node{},
		Controls: map[string]plugin.Control{
			lower:   {ID: lower, Human: "Lower priority", Icon: "fa-angle-double-down", Rank: 1},
			restore: {ID: restore, Human: "Restore priority", Icon: "fa-angle-double-up", Rank: 2},
		},
		MetadataTemplates: map[string]plugin.MetadataTemplate{"nice": {ID: "nice", Label: "Niceness", DataType: plugin.TypeNumber, From: "latest"}},
	}
	for _, pid := range pids {
		nice, err := niceness(pid)
		if err != nil {
			continue // it has ended
		}
		_, lowered := x.lowered[pid]
		t.Nodes[plugin.ProcessID(x.host, pid)] = plugin.Node{
			Latest:         map[string]plugin.Latest{"nice": plugin.Value(strconv.Itoa(nice))},
			LatestControls: map[string]plugin.LatestControl{lower: plugin.Live(!lowered && nice < lowest), restore: plugin.Live(lowered)},
		}
	}
	return &plugin.Report{Process: t}
}

func (x *priorities) control(_ context.Context, r plugin.Request) (*plugin.Response, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	var pid int
	if _, err := fmt.Sscanf(r.NodeID, x.host+";%d", &pid); err != nil || pid <= 1 {
		return nil, fmt.Errorf("%q is no process of this host", r.NodeID)
	}
	was, lowered := x.lowered[pid]
	switch {
	case r.Control == lower && !lowered:
		nice, err := niceness(pid)
		if err == nil {
			err = syscall.Setpriority(syscall.PRIO_PROCESS, pid, lowest)
		}
		if err != nil {
			return nil, fmt.Errorf("lower process %d: %w", pid, err)
		}
		x.lowered[pid] = nice
	case r.Control == restore && lowered:
		if err := syscall.Setpriority(syscall.PRIO_PROCESS, pid, was); err != nil {
			return nil, fmt.Errorf("restore process %d: %w", pid, err)
		}
		delete(x.lowered, pid)
	default:
		return nil, errors.New("this can't be done now")
	}
	return &plugin.Response{ShortcutReport: x.describe([]int{pid})}, nil
}
