package core

import (
	"math"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// counts is what the arithmetic of a rolling replacement looks at.
type counts struct {
	target     int // instances wanted
	oldActive  int // old ones that still are somewhere, those being killed included
	oldAlive   int // of them, those that nobody killed yet
	oldHealthy int // of them, those that are healthy
	newStarted int // new ones that are wanted, whatever their condition
	newHealthy int // of them, those that are healthy and ready
	resident   bool
	killing    int  // old ones being killed
	holdOld    bool // blue-green: no old one goes before all new ones are good
	mostNew    int  // canary: no more new ones than this
	mostAtOnce int  // blue-green: capacity, where that is more than the upgrade strategy gives
}

// bounds are the fewest healthy instances and the most instances at any time.
func bounds(u spec.UpgradeStrategy, instances int) (fewest, most int) {
	// The products are rounded to nine digits first, so that 0.1 × 10 is not a hair more than 1.
	fewest = int(math.Ceil(round9(float64(instances) * u.MinimumHealthCapacity)))
	most = int(math.Floor(round9(float64(instances) * (1 + u.MaximumOverCapacity))))
	return fewest, most
}

func round9(f float64) float64 { return math.Round(f*1e9) / 1e9 }

// replaceStep says how many old instances may be killed now and how many new ones may be started.
//
// Marathon decides once how many to kill at the start and then kills one old for each new healthy one. Here the same bounds
// are applied afresh to what there is, so that a step that is carried on by another leader, or after instances died by
// themselves, neither kills nor starts too many:
//
//   - healthy = oldHealthy + newHealthy. Old ones may go while healthy stays at or above fewest; unhealthy ones go first.
//   - Old ones beyond the target number go at once: the target was lowered. All go when every new one is good.
//   - New ones are started while old and new together stay at or below most.
//   - When fewest == most there would be no room to move: most grows by one if all are healthy (residents, which can't have
//     a double, give up one healthy instance instead).
//   - When that allows nothing, nothing is under way, and an unhealthy old instance is in the way, it goes: it
//     contributes nothing, and waiting for it is how a Marathon deployment gets stuck for ever.
func replaceStep(u spec.UpgradeStrategy, c counts) (kill, start int) {
	fewest, most := bounds(u, c.target)
	most = max(most, c.mostAtOnce)
	healthy := c.oldHealthy + c.newHealthy
	spare := healthy - fewest
	if fewest == most && most <= healthy {
		if c.resident {
			// One at a time: while an old one is ending, or its successor is not good yet, healthy is below most.
			spare++
		} else {
			most++
		}
	}
	mostNew := c.target
	if c.mostNew > 0 {
		mostNew = min(mostNew, c.mostNew)
	}
	if !c.holdOld {
		// During a canary step only as many old ones may go as new ones are allowed to take their places.
		oldWanted := 0
		if c.mostNew > 0 {
			oldWanted = c.target - mostNew
		}
		kill = min(max(0, spare), max(0, c.oldAlive-oldWanted))
	}
	if c.newHealthy >= c.target && !c.holdOld {
		kill = c.oldAlive
	}
	kill = max(kill, c.oldAlive-c.target, 0)
	kill = min(kill, c.oldAlive)
	start = max(0, min(mostNew-c.newStarted, most-c.oldActive-c.newStarted))
	if c.resident {
		// A resident's successor is the same instance on the same volumes: it starts by itself when the old task has ended.
		start = max(0, min(start, c.target-c.newStarted-c.oldActive))
	}
	stuck := kill == 0 && start == 0 && c.killing == 0 && c.newStarted == c.newHealthy && c.newStarted < mostNew && !c.holdOld
	if stuck && c.oldAlive > c.oldHealthy {
		kill = 1
	}
	return kill, start
}

// waitTheirTurn puts residents that wait for an offer aside while there are enough others, those on their way out included: they
// would be one too many as soon as the offer comes. start brings them back, with their volumes.
func (m *Machine) waitTheirTurn(target *spec.Spec, list []*Instance) (changed bool) {
	there := 0
	for _, i := range list {
		if i.here() {
			there++
		}
	}
	for _, i := range list {
		if there > target.Instances() && i.Goal == GoalRunning && i.Condition == Scheduled {
			m.kill(i, GoalStopped)
			changed = true
			there--
		}
	}
	return changed
}

// replace carries out one evaluation of a rolling replacement and reports whether it is done.
func (m *Machine) replace(d *deployment, target *spec.Spec) bool {
	list := m.of(target.ID)
	if target.Resident() && m.waitTheirTurn(target, list) {
		return false // what changed is looked at again
	}
	c := counts{target: target.Instances(), resident: target.Resident()}
	var old []*Instance
	for _, i := range list {
		switch {
		case i.Condition == UnreachableInactive || i.Goal == GoalStopped && i.Condition.Terminal():
		case i.Goal == GoalRunning && i.Condition == Scheduled && !i.Reserved && !m.current(i, target):
			m.kill(i, GoalDecommissioned) // it was never started, so nothing is lost
		case i.Goal == GoalRunning && m.current(i, target):
			c.newStarted++
			if m.good(i, target) {
				c.newHealthy++
			}
		case m.current(i, target):
			// A new one on its way out: it takes room, nothing more.
			c.oldActive++
			c.killing++
		default:
			c.oldActive++
			if i.Goal != GoalRunning || i.Condition == Killing {
				c.killing++
				continue
			}
			c.oldAlive++
			old = append(old, i)
			if m.healthy(i) {
				c.oldHealthy++
			}
		}
	}
	st := target.Strategy()
	if len(st.Steps) > 0 {
		m.canaryLimits(d, target, &c)
	}
	if c.newStarted > c.target {
		var fresh []*Instance
		for _, i := range list {
			if i.Active() && m.current(i, target) {
				fresh = append(fresh, i)
			}
		}
		for _, i := range m.victims(target, fresh, c.newStarted-c.target) {
			c.newStarted--
			if m.good(i, target) {
				c.newHealthy--
			}
			if i.launched() {
				c.oldActive++
				c.killing++
			}
			m.kill(i, m.endGoal(target))
		}
	}
	kill, start := replaceStep(target.Upgrade(), c)
	if kill > 0 {
		for _, i := range m.oldVictims(target, old, kill) {
			switch {
			case !target.Resident():
				m.kill(i, GoalDecommissioned)
			case m.others(i) >= c.target:
				// The number was lowered too: its volumes stay, but nothing runs on them.
				m.kill(i, GoalStopped)
			default:
				m.relaunch(i, target)
			}
		}
	}
	if start > 0 {
		m.start(target, list, start)
	}
	return c.newHealthy == c.target && c.newStarted == c.target && c.oldActive == 0
}

func (m *Machine) endGoal(target *spec.Spec) Goal {
	if target.Resident() {
		return GoalStopped
	}
	return GoalDecommissioned
}

// oldVictims picks which old instances go: unhealthy ones first.
func (m *Machine) oldVictims(target *spec.Spec, old []*Instance, n int) []*Instance {
	var sick, well []*Instance
	for _, i := range old {
		if m.healthy(i) {
			well = append(well, i)
		} else {
			sick = append(sick, i)
		}
	}
	out := m.victims(target, sick, n)
	if len(out) < n {
		out = append(out, m.victims(target, well, n-len(out))...)
	}
	return out
}

// healthy reports whether an instance counts as healthy: it runs, and is found alive if it has checks.
func (m *Machine) healthy(i *Instance) bool {
	if i.Goal != GoalRunning || i.Condition != Running {
		return false
	}
	s := m.specOf(i)
	if s == nil || !s.HasHealthChecks() {
		return i.Healthy == nil || *i.Healthy
	}
	return i.Healthy != nil && *i.Healthy
}

// good reports whether an instance is all that a deployment waits for.
func (m *Machine) good(i *Instance, target *spec.Spec) bool {
	return m.healthy(i) && (!target.HasReadiness() || i.Ready)
}
