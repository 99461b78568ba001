package cluster

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentcore "github.com/orchestrator/orchestrator/internal/agent/core"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// agent is one host: its disk and its containers outlive the agent process, which may crash at any effect.
type agent struct {
	w     *World
	n     int
	info  *mesosv1.AgentInfo
	disk  *disk
	core  *agentcore.Core // nil while the process is down
	boots int
	wake  time.Time
	ready bool // recovered: it looks for its master
	retry time.Duration

	link        *link
	partitioned bool
	containers  map[ids.Container]*executor
	conns       map[uint64]*executor
	nextConn    uint64
	stepping    bool
	pending     []agentcore.Event
	crashNext   bool // the process dies at one of the next effects
}

func newAgent(w *World, n int) *agent {
	return &agent{
		w: w, n: n, disk: newDisk(), containers: map[ids.Container]*executor{}, conns: map[uint64]*executor{},
		info: &mesosv1.AgentInfo{
			Hostname: proto.String(fmt.Sprintf("host%d", n)), Port: proto.Int32(5051),
			Resources: resources.MustParse("cpus:4;mem:4096;disk:10000;ports:[31000-31100]").Proto(),
		},
	}
}

func (a *agent) name() string { return a.info.GetHostname() }

var agentConfig = agentcore.Config{
	ExecutorRegistrationTimeout: time.Minute, ExecutorReregistrationTimeout: 2 * time.Second, ExecutorShutdownGrace: 5 * time.Second,
	RegisterTimeout: time.Minute, UpdateRetryMin: 10 * time.Second, UpdateRetryMax: 10 * time.Minute,
	MaxCompletedFrameworks: 10, MaxCompletedExecutors: 10, MaxCompletedTasks: 10, SwitchUser: true, Version: "1.11.0",
	Sandbox: func(_ ids.Agent, r agentcore.Run) string { return "/" + string(r.Container) },
}

// boot starts the agent process.
func (a *agent) boot() {
	if a.core != nil {
		return
	}
	a.boots++
	a.ready, a.retry, a.crashNext = false, 0, false
	cfg := agentConfig
	cfg.Address = fmt.Sprintf("10.0.%d.%d:5051", a.n/250, a.n%250)
	a.core = agentcore.New(cfg)
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], a.w.rng.Uint64())
	a.w.note("%s boots (%d)", a.name(), a.boots)
	a.step(a.disk.boot(key, a.info, func(id ids.Container) bool { return a.containers[id] != nil && !a.containers[id].dead }))
	// Executors that outlived the process find the new one.
	for _, id := range slices.Sorted(maps.Keys(a.containers)) {
		a.containers[id].lookForAgent()
	}
}

// crash ends the process between two effects.
func (a *agent) crash() {
	if a.core == nil {
		return
	}
	a.w.note("%s crashes", a.name())
	a.core = nil
	a.pending = nil
	if a.link != nil {
		l := a.link
		a.link = nil
		l.breakUp()
	}
	for _, c := range slices.Sorted(maps.Keys(a.conns)) {
		a.conns[c].connLost(c)
	}
	a.conns = map[uint64]*executor{}
	// Containers whose framework does not checkpoint would end with the agent; all of ours do.
	a.w.after(a.w.between(100*time.Millisecond, 20*time.Second), a.boot)
}

// step hands an event to the core and carries the effects out; what they cause at once waits its turn.
func (a *agent) step(ev agentcore.Event) {
	if a.core == nil {
		return
	}
	a.pending = append(a.pending, ev)
	if a.stepping {
		return
	}
	a.stepping = true
	defer func() { a.stepping = false }()
	for a.core != nil && len(a.pending) > 0 {
		next := a.pending[0]
		a.pending = a.pending[1:]
		effects := slices.Clone(a.core.Step(a.w.now, next))
		if a.crashNext && a.w.chance(0.3) {
			a.crash()
			return
		}
		// What persists is made durable in one go, as the committer does, before anything else is done.
		for _, e := range effects {
			if p, ok := e.(agentcore.Persistent); ok {
				a.disk.write(p)
			}
		}
		for _, e := range effects {
			if a.crashNext && a.w.chance(0.3) {
				a.crash()
				return
			}
			a.carryOut(e)
			if a.core == nil {
				return
			}
		}
	}
	a.arm()
}

func (a *agent) arm() {
	if a.core == nil {
		return
	}
	at, ok := a.core.Next()
	if !ok {
		return
	}
	if at.Before(a.w.now) {
		at = a.w.now
	}
	if a.wake.After(a.w.now) && !at.Before(a.wake) {
		return
	}
	a.wake = at
	boots := a.boots
	a.w.at(at, func() {
		if a.wake.Equal(at) {
			a.wake = time.Time{}
		}
		if a.boots == boots && a.core != nil {
			if due, ok := a.core.Next(); ok && !due.After(a.w.now) {
				a.step(agentcore.Tick{})
			} else {
				a.arm()
			}
		}
	})
}

func (a *agent) carryOut(e agentcore.Effect) {
	switch e := e.(type) {
	case agentcore.ToMaster:
		if a.link != nil {
			a.link.toMaster(e.Message)
		}
	case agentcore.Relink:
		a.w.note("%s relinks: %s", a.name(), e.Reason)
		if l := a.link; l != nil {
			a.link = nil
			l.agentKnows = true
			if l.silent {
				l.broken = true
				l.masterNotices(a.w.between(time.Second, 3*time.Minute))
			} else {
				l.breakUp()
			}
		}
		a.step(agentcore.LinkDown{})
		a.dialSoon()
	case agentcore.Recovered:
		a.ready = true
		a.dialSoon()
	case agentcore.Admit:
		if x := a.conns[e.Conn]; x != nil {
			x.admitted(e.Conn)
		}
	case agentcore.Refuse:
		if x := a.conns[e.Conn]; x != nil {
			delete(a.conns, e.Conn)
			x.refused(e.Conn, e.Text)
		}
	case agentcore.ToExecutor:
		if x := a.conns[e.Conn]; x != nil {
			x.deliver(e.Conn, e.Event)
		}
	case agentcore.CloseExecutor:
		if x := a.conns[e.Conn]; x != nil {
			delete(a.conns, e.Conn)
			x.connLost(e.Conn)
		}
	case agentcore.Launch:
		a.launch(e)
	case agentcore.Watch:
		if x := a.containers[e.Run.Container]; x == nil || x.dead {
			a.step(agentcore.Ended{Run: e.Run, Termination: x.termination()})
		}
	case agentcore.Destroy:
		if x := a.containers[e.Run.Container]; x != nil {
			x.end(9)
		}
	case agentcore.Note:
		a.w.note("%s: %s %v", a.name(), e.Message, e.Args)
		if e.Level == agentcore.Error {
			a.w.fail("%s logs an error: %s %v", a.name(), e.Message, e.Args)
		}
	case agentcore.Exit:
		a.w.note("%s exits: %s", a.name(), e.Reason)
		a.core = nil
		a.pending = nil
		if l := a.link; l != nil {
			a.link = nil
			l.breakUp()
		}
		a.w.after(a.w.between(time.Second, 20*time.Second), a.boot)
	}
}

// dialSoon connects to the leader, again and again until it works.
func (a *agent) dialSoon() {
	a.retry = min(max(2*a.retry, 200*time.Millisecond), 20*time.Second)
	boots := a.boots
	a.w.after(a.w.between(0, a.retry), func() {
		if a.boots != boots || a.core == nil || a.link != nil || !a.ready {
			return
		}
		var l *link
		if !a.partitioned {
			l = a.w.master.connect(a)
		}
		if l == nil {
			a.dialSoon()
			return
		}
		a.retry = 0
		a.link = l
		a.step(agentcore.LinkUp{})
	})
}

func (a *agent) linkDown() {
	a.link = nil
	a.step(agentcore.LinkDown{})
	a.dialSoon()
}

func (a *agent) fromMaster(m *linkv1.Message) {
	if p := m.GetPing(); p != nil && a.link != nil {
		// The shell answers, so that a ping measures the process and not its queue.
		a.link.toMaster(&linkv1.Message{Kind: &linkv1.Message_Pong{Pong: &linkv1.Pong{Sequence: p.Sequence}}})
	}
	a.step(agentcore.FromMaster{Message: m})
}

func (a *agent) launch(l agentcore.Launch) {
	x := &executor{a: a, run: l.Run, framework: l.Framework, tasks: map[ids.Task]*running{}}
	a.containers[l.Run.Container] = x
	boots := a.boots
	a.w.after(a.w.between(time.Millisecond, 50*time.Millisecond), func() {
		if x.dead {
			return
		}
		x.started = true
		if a.boots == boots {
			a.step(agentcore.Launched{Run: l.Run, Status: &mesosv1.ContainerStatus{ExecutorPid: proto.Uint32(7)}})
		}
		x.lookForAgent()
	})
}

// partition cuts the host off for a while. quiet: only timeouts can tell.
func (a *agent) partition(d time.Duration, quiet bool) {
	if a.partitioned {
		return
	}
	a.partitioned = true
	a.w.note("%s is cut off for %s, quietly: %v", a.name(), d, quiet)
	if l := a.link; l != nil {
		if quiet {
			l.goSilent()
			l.masterNotices(d + a.w.between(0, time.Second))
		} else {
			l.breakUp()
		}
	}
	a.w.after(d, func() {
		a.partitioned = false
		if l := a.link; l != nil && l.silent {
			// The connection did not survive: the first packet is answered by a reset.
			l.silent = false
			l.breakUp()
		}
	})
}
