package core

import (
	"time"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// delay is how long a spec waits before its next start, because starts failed. It belongs to one configuration: a changed
// one starts at once.
type delay struct {
	configAt spec.Version
	wait     time.Duration
	until    time.Time
}

// failed notes that an instance of the configuration failed: the first delay is the spec's own, each later one is longer by
// the factor, up to the greatest.
func (m *Machine) failed(s *spec.Spec) {
	st := m.state(s.ID)
	first, factor, most := s.Backoff()
	d := m.delayOf(s)
	if d == nil {
		d = &delay{configAt: s.ConfigAt, wait: min(first, most)}
	} else {
		d = &delay{configAt: s.ConfigAt, wait: min(most, time.Duration(float64(d.wait)*factor))}
	}
	d.until = m.now.Add(d.wait)
	st.delay = d
	m.after(d.wait, timerSpec, s.ID)
}

// delayOf is the delay in force for a configuration. One is forgotten when nothing failed for as long as the greatest delay.
func (m *Machine) delayOf(s *spec.Spec) *delay {
	st := m.specs[s.ID]
	if st == nil || st.delay == nil || st.delay.configAt != s.ConfigAt {
		return nil
	}
	_, _, most := s.Backoff()
	if m.now.After(st.delay.until.Add(most)) {
		st.delay = nil
		return nil
	}
	return st.delay
}

// delayLeft is how long the next start has to wait.
func (m *Machine) delayLeft(s *spec.Spec) time.Duration {
	d := m.delayOf(s)
	if d == nil {
		return 0
	}
	return max(0, d.until.Sub(m.now))
}

func (m *Machine) resetDelay(specID string) {
	if st := m.specs[specID]; st != nil && st.delay != nil {
		st.delay = nil
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
