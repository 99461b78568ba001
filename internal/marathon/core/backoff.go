package core

import (
	"time"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// delay is how long a spec waits before its next start, because starts failed.
type delay struct {
	wait  time.Duration
	until time.Time
	most  time.Duration // for how long after its end it is remembered
}

func (d *delay) over(now time.Time) bool { return now.After(d.until.Add(d.most)) }

// failed notes that an instance of a configuration failed: the first delay is the spec's own, each later one is longer by the
// factor, up to the greatest. Each configuration of a spec has a delay of its own: a changed one starts at once, and while
// one replaces another the failures of the one don't change how long the other waits.
func (m *Machine) failed(s *spec.Spec) {
	st := m.state(s.ID)
	for at, d := range st.delays {
		if d.over(m.now) {
			delete(st.delays, at)
		}
	}
	first, factor, most := s.Backoff()
	d := &delay{wait: min(first, most), most: most}
	if before := st.delays[s.ConfigAt]; before != nil {
		d.wait = min(most, time.Duration(float64(before.wait)*factor))
	}
	d.until = m.now.Add(d.wait)
	if st.delays == nil {
		st.delays = map[spec.Version]*delay{}
	}
	st.delays[s.ConfigAt] = d
}

// delayOf is the delay in force for a configuration. One is forgotten when nothing failed for as long as the greatest delay.
func (m *Machine) delayOf(s *spec.Spec) *delay {
	st := m.specs[s.ID]
	if st == nil {
		return nil
	}
	d := st.delays[s.ConfigAt]
	if d != nil && d.over(m.now) {
		delete(st.delays, s.ConfigAt)
		return nil
	}
	return d
}

// delayLeft is how long the next start of a configuration has to wait.
func (m *Machine) delayLeft(s *spec.Spec) time.Duration {
	d := m.delayOf(s)
	if d == nil {
		return 0
	}
	return max(0, d.until.Sub(m.now))
}

// startLeft is how long it takes until the first of a spec's waiting instances may start.
func (m *Machine) startLeft(target *spec.Spec) time.Duration {
	st := m.specs[target.ID]
	if st == nil || len(st.delays) == 0 {
		return 0
	}
	left := time.Duration(-1)
	for id := range st.scheduled {
		d := m.delayLeft(m.toStart(m.instance(id), target))
		if d == 0 {
			return 0
		}
		if left < 0 || d < left {
			left = d
		}
	}
	return max(left, 0)
}

// toStart is the definition that an instance starts with.
func (m *Machine) toStart(i *Instance, target *spec.Spec) *spec.Spec {
	if s := m.specOf(i); s != nil {
		return s
	}
	return target
}

func (m *Machine) resetDelay(specID string) {
	if st := m.specs[specID]; st != nil && len(st.delays) > 0 {
		clear(st.delays)
		m.reviveDue = true
		m.touch(specID)
	}
}

func (m *Machine) resetDelayEvent(e ResetDelay) {
	if st := m.specs[e.SpecID]; st == nil || len(st.scheduled) == 0 {
		m.emit(Reply{Token: e.Token, Err: &NotFound{What: "Application " + e.SpecID + " not found in tasks queue."}})
		return
	}
	m.resetDelay(e.SpecID)
	m.emit(Reply{Token: e.Token})
}
