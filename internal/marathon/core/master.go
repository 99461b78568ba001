package core

import (
	"slices"
	"strings"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// FrameworkID is the id to subscribe with; empty before the first time.
func (m *Machine) FrameworkID() string { return m.frameworkID }

// WantedRoles are the roles to subscribe with.
func (m *Machine) WantedRoles() []string { return m.roles }

func (m *Machine) registered(e Registered) {
	again := m.frameworkID != ""
	m.connected, m.master, m.homeRegion = true, e.Master, e.Region
	if e.FrameworkID != m.frameworkID {
		m.frameworkID = e.FrameworkID
		m.emit(Put{Key: frameworkKey, Value: []byte(e.FrameworkID)})
	}
	if again {
		m.publish("scheduler_reregistered_event", SchedulerRegistered{Master: e.Master})
	} else {
		m.publish("scheduler_registered_event", SchedulerRegistered{FrameworkID: e.FrameworkID, Master: e.Master})
	}
	m.suppressed = false
	m.reviveDue = true
	// Probes belong to this process: whatever runs is probed from now on.
	m.instances.Scan(func(_ string, i *Instance) bool {
		if i.Condition == Running {
			m.reprobe(i)
		}
		return true
	})
	m.reconcile()
	m.unheard = map[string]bool{}
	m.instances.Scan(func(_ string, i *Instance) bool {
		for _, t := range i.Tasks {
			if i.launched() && !t.Condition.Terminal() {
				m.unheard[t.ID] = true
			}
		}
		return true
	})
	m.askWait = askFirst
	m.after(m.askWait, timerUnheard, "")
}

// How often tasks that nothing was heard of since the subscription are asked for.
const (
	askFirst = 2 * time.Second
	askLast  = time.Minute
)

// askUnheard asks again for tasks that the master said nothing about. It says nothing while their agent has not come back
// after a fail-over; when it has, a task whose launch was lost on the way is known to be gone.
func (m *Machine) askUnheard() {
	if !m.connected {
		return
	}
	kind := scheduler.Call_RECONCILE
	var tasks []*scheduler.Call_Reconcile_Task
	for _, id := range sortedKeys(m.unheard) {
		specID, inst, _, err := ParseTaskID(id)
		i, _ := m.instances.Get(InstanceKey(specID, inst))
		if err != nil || i == nil || i.task(id) < 0 || !i.launched() {
			delete(m.unheard, id)
			continue
		}
		if len(tasks) < reconcileChunk {
			r := &scheduler.Call_Reconcile_Task{TaskId: &mesosv1.TaskID{Value: new(id)}}
			if i.AgentID != "" {
				r.AgentId = &mesosv1.AgentID{Value: new(i.AgentID)}
			}
			tasks = append(tasks, r)
		}
	}
	if len(tasks) == 0 {
		return
	}
	m.emit(Call{&scheduler.Call{Type: &kind, Reconcile: &scheduler.Call_Reconcile{Tasks: tasks}}})
	m.askWait = min(2*m.askWait, askLast)
	m.after(m.askWait, timerUnheard, "")
}

// reconcileChunk bounds the tasks in one RECONCILE.
const reconcileChunk = 1000

// reconcile asks the master for the state of everything that should be there, and for what it knows besides.
func (m *Machine) reconcile() {
	if !m.connected {
		return
	}
	kind := scheduler.Call_RECONCILE
	var tasks []*scheduler.Call_Reconcile_Task
	flush := func() {
		if len(tasks) > 0 {
			m.emit(Call{&scheduler.Call{Type: &kind, Reconcile: &scheduler.Call_Reconcile{Tasks: tasks}}})
			tasks = nil
		}
	}
	m.instances.Scan(func(_ string, i *Instance) bool {
		if !i.launched() {
			return true
		}
		for _, t := range i.Tasks {
			if t.Condition.Terminal() {
				continue
			}
			r := &scheduler.Call_Reconcile_Task{TaskId: &mesosv1.TaskID{Value: new(t.ID)}}
			if i.AgentID != "" {
				r.AgentId = &mesosv1.AgentID{Value: new(i.AgentID)}
			}
			tasks = append(tasks, r)
			if len(tasks) == reconcileChunk {
				flush()
			}
		}
		return true
	})
	flush()
	m.emit(Call{&scheduler.Call{Type: &kind, Reconcile: &scheduler.Call_Reconcile{}}})
}

// frameworkRemoved: the id is of no use any more, and none of its tasks is left.
func (m *Machine) frameworkRemoved() {
	m.connected = false
	m.frameworkID = ""
	m.emit(Delete{Key: frameworkKey})
	var lost []*Instance
	m.instances.Scan(func(_ string, i *Instance) bool {
		lost = append(lost, i)
		return true
	})
	for _, i := range lost {
		if !i.launched() {
			continue
		}
		m.emit(Unprobe{Instance: i.ID})
		c := *i
		c.Reserved, c.Volumes = false, nil
		if c.Goal != GoalRunning {
			m.forget(&c)
			continue
		}
		m.again(&c, false)
	}
}

// reviveLater has revive look again at a time, or earlier.
func (m *Machine) reviveLater(at time.Time) {
	if m.reviveAt.After(m.now) && !m.reviveAt.After(at) {
		return
	}
	m.reviveAt = at
	m.after(at.Sub(m.now), timerRevive, "")
}

// revive asks for offers again when something new waits, at most once in the interval; and lets the master know when nothing
// is wanted. What has to wait for the end of its launch delay is looked at again at that end: it is computed afresh each
// time, because a delay grows while it runs (see running), and whoever waits with nothing left to wake him waits for ever.
func (m *Machine) revive() {
	if !m.connected {
		return
	}
	m.expireDebts()
	if len(m.waiting) == 0 && len(m.debts) == 0 {
		m.reviveDue = false
		if !m.suppressed {
			m.suppressed = true
			kind := scheduler.Call_SUPPRESS
			m.emit(Call{&scheduler.Call{Type: &kind, Suppress: &scheduler.Call_Suppress{}}})
		}
		return
	}
	if !m.reviveDue {
		return
	}
	m.reviveDue = false
	if next := m.revivedAt.Add(m.opt.ReviveInterval); next.After(m.now) {
		m.reviveLater(next)
		return
	}
	ready := len(m.debts) > 0
	var soonest time.Duration
	for id := range m.waiting {
		s := m.root.Get(id)
		if s == nil {
			continue
		}
		left := m.startLeft(s)
		ready = ready || left == 0
		if left > 0 && (soonest == 0 || left < soonest) {
			soonest = left
		}
	}
	if soonest > 0 {
		m.reviveLater(m.now.Add(soonest))
	}
	if !ready {
		return
	}
	m.revivedAt, m.suppressed = m.now, false
	kind := scheduler.Call_REVIVE
	m.emit(Call{&scheduler.Call{Type: &kind, Revive: &scheduler.Call_Revive{}}})
}

// updateRoles tells which roles are wanted, when that changed: the framework's own and those that groups enforce.
func (m *Machine) updateRoles(changed []string) {
	want := map[string]bool{m.opt.Spec.Role: true}
	for g := range m.root.AllGroups() {
		if g.EnforceRole && spec.ParentID(g.ID) == spec.RootID && g.ID != spec.RootID {
			want[g.ID[1:]] = true
		}
	}
	for _, id := range changed {
		if s := m.root.Get(id); s != nil {
			want[s.Role()] = true
		}
	}
	// A role that was wanted once stays: reservations made for it have to be offered again to be given back.
	for _, r := range m.roles {
		want[r] = true
	}
	roles := sortedKeys(want)
	if !slices.Equal(roles, m.roles) {
		m.roles = roles
		m.emit(Put{Key: rolesKey, Value: []byte(strings.Join(roles, "\n"))})
		m.emit(Roles{Roles: roles})
	}
}
