package probe

import (
	"cmp"
	"context"
	"fmt"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

// What is listed here stays on the host until somebody opens it: it is read anew for every request, by the goroutine of the
// request, and shares nothing with the owner goroutine.

// liveProcess is a process as a listing shows it.
type liveProcess struct {
	Pid     int     `json:"pid"`
	Ppid    int     `json:"ppid"`
	Name    string  `json:"name"`
	Cmdline string  `json:"cmdline"`
	User    string  `json:"user"`
	CPU     float64 `json:"cpu"`
	Mem     uint64  `json:"mem"`
	Threads int     `json:"threads"`
	Started int64   `json:"started_ms"`

	start     uint64
	container string
	netns     uint64
}

// maxListed bounds a listing.
const maxListed = 2000

// processesOf reads the processes of an entity now. There is at least one, or an error.
func (p *Probe) processesOf(e *probev1.Entity) ([]liveProcess, error) {
	t, err := newProcessTable(p.cfg.ProcRoot)
	if err != nil {
		return nil, err
	}
	t.named = p.namedContainers()
	if err := t.scan(time.Now()); err != nil {
		return nil, err
	}
	var out []liveProcess
	for _, proc := range t.byPid {
		switch e.Kind {
		case topology.KindContainer:
			if proc.container.id == "" || topology.ContainerID(p.cfg.Hostname, proc.container.id) != e.Id {
				continue
			}
		case topology.KindProcess:
			if topology.ProcessID(p.cfg.Hostname, proc.pid, proc.start) != e.Id {
				continue
			}
		}
		out = append(out, liveProcess{
			Pid: proc.pid, Ppid: proc.ppid, Name: topology.Clean(proc.comm, 64), Cmdline: topology.Clean(proc.cmdline, 1024),
			Mem: proc.rss, Threads: proc.threads, Started: t.startedMs(proc), start: proc.start, container: proc.container.id, netns: proc.netns,
			User: strconv.FormatUint(uint64(proc.uid), 10), CPU: averageCPU(t, proc),
		})
	}
	if len(out) == 0 {
		return nil, refuse("not_found", "%s has no process any more", e.Label)
	}
	slices.SortFunc(out, func(a, b liveProcess) int { return cmp.Compare(a.Pid, b.Pid) })
	return out, nil
}

// averageCPU is the percent of a core over the life of the process, as ps shows it: one reading can't tell more.
func averageCPU(t *processTable, proc *process) float64 {
	seconds := float64(time.Now().UnixMilli()-t.startedMs(proc)) / 1000
	if seconds < 0.1 {
		return 0
	}
	return float64(int(1000*float64(proc.ticks)/ticksPerSecond/seconds)) / 10
}

func (p *Probe) listProcesses(_ context.Context, _ *probev1.Request, e *probev1.Entity, _ *pipe.Pipe) (any, error) {
	list, err := p.processesOf(e)
	if err != nil {
		return nil, err
	}
	truncated := len(list) > maxListed
	list = list[:min(len(list), maxListed)]
	names := map[string]string{}
	for i := range list {
		uid := list[i].User
		if _, ok := names[uid]; !ok {
			names[uid] = uid
			if u, err := user.LookupId(uid); err == nil {
				names[uid] = u.Username
			}
		}
		list[i].User = names[uid]
	}
	return map[string]any{"processes": list, "truncated": truncated}, nil
}

type liveSocket struct {
	Proto  string  `json:"proto"`
	Local  string  `json:"local"`
	Remote string  `json:"remote"`
	State  string  `json:"state"`
	Pid    int     `json:"pid"`
	RTT    float64 `json:"rtt"`
	Tx     uint64  `json:"tx"`
	Rx     uint64  `json:"rx"`
}

var stateNames = [...]string{"", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING"}

// listSockets lists what a node's processes hold, and of a container with a network of its own what no process holds any more, or not yet.
func (p *Probe) listSockets(_ context.Context, _ *probev1.Request, e *probev1.Entity, _ *pipe.Pipe) (any, error) {
	procs, err := p.processesOf(e)
	if err != nil {
		return nil, err
	}
	netns := map[uint64]int{}
	for _, proc := range procs {
		if proc.netns != 0 {
			netns[proc.netns] = proc.Pid
		}
	}
	var sockets []socket
	for inode, pid := range netns {
		if sockets, err = p.socketsNow(sockets, inode, pid); err != nil {
			return nil, err
		}
	}
	t, err := newProcessTable(p.cfg.ProcRoot)
	if err != nil {
		return nil, err
	}
	if err := t.scan(time.Now()); err != nil {
		return nil, err
	}
	o := newOwners(p.cfg.ProcRoot)
	// Several processes may hold a socket: it is the node's when one of its own does.
	held := map[uint32]int{}
	if e.Kind != topology.KindHost {
		for _, proc := range procs {
			o.holds(proc.Pid, func(ino uint32) bool {
				if _, ok := held[ino]; !ok {
					held[ino] = proc.Pid
				}
				return true
			})
		}
	}
	if e.Kind != topology.KindProcess {
		o.patience = 1
		o.resolve(sockets, t, timeFor(2*time.Second))
	}
	root := t.rootNetns(p.ns.own)
	out := []liveSocket{}
	truncated := false
	for i := range sockets {
		s := &sockets[i]
		pid := held[s.inode]
		if pid == 0 {
			if proc := o.of(s, t); proc != nil {
				pid = proc.pid
			}
			if e.Kind == topology.KindProcess || e.Kind == topology.KindContainer && (pid != 0 || s.netns == root) {
				continue
			}
		}
		if len(out) >= maxListed {
			truncated = true
			break
		}
		state := ""
		if int(s.state) < len(stateNames) {
			state = stateNames[s.state]
		}
		if s.udp && s.state == tcpClose {
			state = "UNCONN"
		}
		out = append(out, liveSocket{
			Proto: proto(s.udp), Local: s.local.String(), Remote: s.remote.String(), State: state, Pid: pid,
			RTT: float64(s.rttMicros) / 1000, Tx: s.acked, Rx: s.received,
		})
	}
	slices.SortFunc(out, func(a, b liveSocket) int {
		return cmp.Or(strings.Compare(a.State, b.State), strings.Compare(a.Local, b.Local), strings.Compare(a.Remote, b.Remote))
	})
	return map[string]any{"sockets": out, "truncated": truncated}, nil
}

// socketsNow appends all sockets of the network namespace of a process.
func (p *Probe) socketsNow(out []socket, inode uint64, pid int) ([]socket, error) {
	if p.cfg.NetSource != "proc" {
		first := len(out)
		work := func() error {
			d, err := openDiag()
			if err != nil {
				return err
			}
			defer d.close()
			d.all = true
			out, err = d.sockets(out, inode, unknownCounts, make([]byte, 64<<10))
			return err
		}
		var err error
		if inode == p.ns.own {
			err = work()
		} else {
			err = inNamespace(filepath.Join(p.cfg.ProcRoot, strconv.Itoa(pid), "ns/net"), inode, work)
		}
		if err == nil {
			return out, nil
		}
		out = out[:first]
	}
	return procSockets(out, filepath.Join(p.cfg.ProcRoot, strconv.Itoa(pid), "net"), inode, true)
}

// firstPid gives the process whose root and namespaces are a container's.
func (p *Probe) firstPid(e *probev1.Entity) (int, error) {
	procs, err := p.processesOf(e)
	if err != nil {
		return 0, err
	}
	if procs[0].Pid <= 1 {
		return 0, fmt.Errorf("%s has no process of its own", e.Label)
	}
	return procs[0].Pid, nil
}
