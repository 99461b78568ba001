package cluster

import (
	"maps"
	"slices"
	"time"

	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// fault makes one thing go wrong, and plans the next.
func (w *World) fault() {
	if w.calm {
		return
	}
	pick := w.rng.IntN(100)
	a := w.agents[w.rng.IntN(len(w.agents))]
	s := w.scheds[w.rng.IntN(len(w.scheds))]
	var kind string
	switch {
	case pick < 6:
		kind = "master crash"
		w.master.crash()
		w.after(w.between(100*time.Millisecond, 12*time.Second), w.master.start)
	case pick < 30:
		kind = "agent crash"
		a.crashNext = true
		w.after(w.between(0, 2*time.Second), a.crash)
	case pick < 45:
		kind = "connection reset"
		if a.link != nil {
			a.link.breakUp()
		}
	case pick < 60:
		kind = "partition"
		a.partition(w.between(100*time.Millisecond, 30*time.Second), w.chance(0.5))
	case pick < 66:
		kind = "long partition"
		a.partition(w.between(time.Minute, 5*time.Minute), w.chance(0.5))
	case pick < 80:
		kind = "scheduler reconnects"
		s.disconnect()
	case pick < 96:
		kind = "executor killed"
		if len(a.containers) > 0 {
			list := slices.Sorted(maps.Keys(a.containers))
			a.containers[list[w.rng.IntN(len(list))]].end(9)
		}
	default:
		kind = "clock jump"
		w.master.skew += w.between(-time.Minute, time.Minute)
		w.master.flush()
	}
	w.faults[kind]++
	w.note("fault: %s", kind)
	w.after(w.between(0, 2*w.opts.Faults), w.fault)
}

// settle ends faults and launches; what was broken heals by itself.
func (w *World) settle() {
	w.calm = true
	w.note("the faults are over")
	if !w.master.up() {
		w.master.start()
	}
	for _, a := range w.agents {
		a.crashNext = false
	}
}

// checkNow checks what must hold at any moment.
func (w *World) checkNow() {
	if !w.master.up() {
		return
	}
	snap := w.master.state.Publish()
	w.checkLedger(snap)
	// A task runs in one place, unless the master gave the other place up.
	places := map[taskKey]int{}
	for _, a := range w.agents {
		for k := range a.runningTasks() {
			places[k]++
		}
	}
	for k, n := range places {
		if n > 1 {
			w.fail("task %s of %s runs in %d places", k.task, k.framework, n)
		}
	}
}

// checkLedger: on no agent is more offered and used than there is.
func (w *World) checkLedger(snap *core.Snapshot) {
	held := map[ids.Agent]resources.Resources{}
	snap.Frameworks.Scan(func(id ids.Framework, f *core.FrameworkPage) bool {
		for a, r := range f.Used() {
			held[a] = held[a].Add(r.Unallocate())
		}
		for _, o := range f.Offers {
			held[o.Agent] = held[o.Agent].Add(o.Resources.Unallocate())
		}
		f.Tasks.Scan(func(t ids.Task, _ *core.TaskPage) bool {
			if _, both := f.UnreachableTasks.Get(t); both {
				w.fail("task %s of %s is both live and unreachable", t, id)
			}
			return true
		})
		return true
	})
	snap.Agents.Scan(func(id ids.Agent, a *core.AgentPage) bool {
		if !a.Total.Contains(held[id]) {
			w.fail("agent %s has %s, but %s is offered and used", id, a.Total, held[id])
		}
		return true
	})
}

// checkEnd checks that the faults left nothing behind.
func (w *World) checkEnd() {
	if len(w.failures) > 0 {
		return
	}
	w.checkNow()
	snap := w.master.state.Publish()
	w.check(snap.Agents.Len() == len(w.agents), "%d agents are registered of %d", snap.Agents.Len(), len(w.agents))
	snap.Agents.Scan(func(id ids.Agent, a *core.AgentPage) bool {
		w.check(a.Connected, "agent %s is not connected", id)
		w.check(a.Tasks == 0, "agent %s still has %d tasks by the master's books", id, a.Tasks)
		w.check(len(a.Operations) == 0, "agent %s still has operations by the master's books: %v", id, a.Operations)
		return true
	})
	w.check(snap.RecoveredAgents.Len() == 0, "%d agents of the registry never came back", snap.RecoveredAgents.Len())
	for _, a := range w.agents {
		w.check(len(a.containers) == 0, "%s still has %d containers", a.name(), len(a.containers))
	}
	for _, s := range w.scheds {
		f, ok := snap.Frameworks.Get(s.id)
		if !ok || !f.Connected {
			w.fail("framework %s is not subscribed", s.id)
			continue
		}
		w.check(f.Tasks.Len() == 0, "framework %s still has %d live tasks", s.id, f.Tasks.Len())
		for _, id := range slices.Sorted(maps.Keys(s.tasks)) {
			t := s.tasks[id]
			if want, ok := w.promised[taskKey{s.id, id}]; ok {
				w.check(t.state == want, "task %s of framework %s ended as %s, which its agent had promised to tell; its framework knows %s", id, s.id, want, t.state)
			}
			w.check(t.final || t.lost || ended(t.state), "task %s of framework %s never ended: it is %s", id, s.id, t.state)
		}
	}
}

func (w *World) check(ok bool, format string, args ...any) {
	if !ok {
		w.fail(format, args...)
	}
}
