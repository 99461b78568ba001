package core

import (
	"cmp"
	"slices"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// converge brings the instances of a spec towards what is wanted of it now.
func (m *Machine) converge(specID string) {
	target := m.root.Get(specID)
	d := m.locks[specID]
	if d != nil {
		m.convergeAction(d, specID, target)
		return
	}
	m.afterlife(specID, target)
	if target != nil {
		m.scaleTo(target, target.Instances())
	}
}

// afterlife clears what remains of a spec that no longer exists.
func (m *Machine) afterlife(specID string, target *spec.Spec) {
	if target != nil {
		return
	}
	list := m.of(specID)
	for _, i := range list {
		m.kill(i, GoalDecommissioned)
	}
	if len(m.of(specID)) == 0 {
		delete(m.specs, specID)
		delete(m.waiting, specID)
	}
}

// scaleTo starts or kills as many instances as the target lacks or has too many.
func (m *Machine) scaleTo(target *spec.Spec, n int) {
	list := m.of(target.ID)
	active := 0
	for _, i := range list {
		if i.Active() {
			active++
		}
	}
	switch {
	case active < n:
		m.start(target, list, n-active)
	case active > n:
		goal := GoalDecommissioned
		if target.Resident() {
			goal = GoalStopped
		}
		for _, i := range m.victims(target, list, active-n) {
			m.kill(i, goal)
		}
	}
}

// start makes n more instances wait for offers. Stopped residents come back first: their volumes are waiting.
func (m *Machine) start(target *spec.Spec, list []*Instance, n int) {
	for _, i := range list {
		if n == 0 {
			return
		}
		if i.Goal == GoalStopped && i.Condition.Terminal() {
			c := *i
			c.Goal, c.Version = GoalRunning, target.Version
			m.reschedule(&c)
			n--
		}
	}
	now := m.stamp()
	for ; n > 0; n-- {
		i := &Instance{
			ID: instanceID(target.ID, m.uuid()), SpecID: target.ID, Version: target.Version, Goal: GoalRunning,
			Incarnation: 1, Condition: Scheduled, Since: now, Role: target.Role(),
		}
		m.putInstance(i)
		m.changed(i)
	}
}

// killWeight orders victims: what is lost anyway goes first.
func killWeight(c Condition) int {
	switch c {
	case Scheduled, Unreachable, Killing:
		return 0
	case Provisioned, Staging:
		return 1
	case Starting:
		return 2
	case Running:
		return 3
	}
	return 4
}

// victims picks n active instances to end: the fullest groups of GROUP_BY constraints first while that makes the spread more
// even, then those that are least far, then by age as killSelection says.
func (m *Machine) victims(target *spec.Spec, list []*Instance, n int) []*Instance {
	var active []*Instance
	for _, i := range list {
		if i.Active() {
			active = append(active, i)
		}
	}
	less := func(a, b *Instance) int {
		if c := cmp.Compare(killWeight(a.Condition), killWeight(b.Condition)); c != 0 {
			return c
		}
		at, bt := max(a.ActiveSince, a.StagedAt), max(b.ActiveSince, b.StagedAt)
		c := cmp.Compare(at, bt)
		if target.YoungestFirst() {
			c = -c
		}
		return cmp.Or(c, cmp.Compare(a.ID, b.ID))
	}
	slices.SortFunc(active, less)
	var out []*Instance
	for _, c := range target.Constraints() {
		if c[1] != "GROUP_BY" {
			continue
		}
		for len(out) < n {
			groups := map[string][]*Instance{}
			for _, i := range active {
				if i.launched() {
					v := i.field(c[0])
					groups[v] = append(groups[v], i)
				}
			}
			fullest, smallest := "", -1
			for v, g := range groups {
				if fullest == "" || len(g) > len(groups[fullest]) || len(g) == len(groups[fullest]) && v < fullest {
					fullest = v
				}
				if smallest < 0 || len(g) < smallest {
					smallest = len(g)
				}
			}
			if fullest == "" || len(groups[fullest])-smallest <= 1 {
				break
			}
			victim := groups[fullest][0]
			out = append(out, victim)
			active = slices.DeleteFunc(active, func(i *Instance) bool { return i == victim })
		}
	}
	for _, i := range active {
		if len(out) >= n {
			break
		}
		out = append(out, i)
	}
	return out[:min(n, len(out))]
}
