package core

import (
	"time"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// Canary is how far a replacement in steps has come.
type Canary struct {
	Step     int          `json:"step"`               // index into the strategy's percentages
	GoodAt   spec.Version `json:"goodAt,omitzero"`    // since when all new instances of the step have been good
	Failures int          `json:"failures,omitempty"` // of new instances since the beginning
	asked    bool
	queryOK  bool
}

// canaryLimits bounds the arithmetic to the step that the replacement is at, and moves it to the next one when the step has
// been good for as long as it must. A step is good when all its new instances are healthy and ready, and the query, if there
// is one, says so.
func (m *Machine) canaryLimits(d *deployment, target *spec.Spec, c *counts) {
	st := target.Strategy()
	if d.Canary == nil {
		d.Canary = map[string]Canary{}
	}
	can := d.Canary[target.ID]
	limit := func() int {
		return max(1, (c.target*st.Steps[min(can.Step, len(st.Steps)-1)]+99)/100)
	}
	if can.Step >= len(st.Steps) {
		// All steps have held.
		return
	}
	c.mostNew = limit()
	good := c.newHealthy >= c.mostNew && c.newHealthy == c.newStarted
	before := can
	switch {
	case !good:
		can.GoodAt, can.queryOK = 0, false
	case can.GoodAt == 0:
		can.GoodAt = m.stamp()
	}
	held := good && m.stamp()-can.GoodAt >= spec.Version(st.Hold/time.Millisecond)
	if held && st.Query != "" && !can.queryOK {
		held = false
		if !can.asked {
			can.asked = true
			m.emit(Query{Deployment: d.ID, SpecID: target.ID, Query: st.Query})
		}
	}
	if held {
		can.Step, can.GoodAt, can.queryOK = can.Step+1, 0, false
		// Look again with the next step's limit.
		m.touch(target.ID)
		if can.Step < len(st.Steps) {
			c.mostNew = limit()
		} else {
			c.mostNew = 0
		}
	} else if good {
		m.after(max(time.Millisecond, st.Hold-time.Duration(m.stamp()-can.GoodAt)*time.Millisecond), timerDeployment, d.ID)
	}
	if st.BlueGreen && can.Step < len(st.Steps) {
		c.holdOld, c.mostAtOnce = true, 2*c.target
	}
	if can != before {
		d.Canary[target.ID] = can
		m.storeDeployment(d)
	}
}

// canaryFailed counts a failed instance of the new version, and ends the attempt when there were more than are borne.
func (m *Machine) canaryFailed(i *Instance) {
	d := m.locks[i.SpecID]
	target := m.root.Get(i.SpecID)
	if d == nil || target == nil || d.Paused != "" || !m.current(i, target) {
		return
	}
	st := target.Strategy()
	if len(st.Steps) == 0 || !d.pending[i.SpecID] {
		return
	}
	restarting := false
	for _, a := range d.Current() {
		restarting = restarting || a.ID == i.SpecID && a.Kind == Restart
	}
	if !restarting {
		return
	}
	if d.Canary == nil {
		d.Canary = map[string]Canary{}
	}
	can := d.Canary[i.SpecID]
	can.Failures++
	d.Canary[i.SpecID] = can
	if can.Failures > st.MaxFailures {
		m.overdue(d, "instances of the new version of "+i.SpecID+" failed more often than "+spec.LabelMaxFailures+" allows")
		return
	}
	m.storeDeployment(d)
}

func (m *Machine) queryResult(e QueryResult) {
	d := m.deployment(e.Deployment)
	if d == nil {
		return
	}
	can, ok := d.Canary[e.SpecID]
	if !ok {
		return
	}
	can.asked, can.queryOK = false, e.OK
	d.Canary[e.SpecID] = can
	if e.OK {
		m.touch(e.SpecID)
	} else {
		m.after(canaryCheckEvery, timerDeployment, d.ID)
	}
}
