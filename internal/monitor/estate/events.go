package estate

import (
	"fmt"
	"sync"

	"github.com/orchestrator/orchestrator/internal/topology"
)

// Event is something that happened, as the timeline shows it.
type Event struct {
	Seq      uint64 `json:"seq"`
	At       int64  `json:"at"`
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	Label    string `json:"label"`
	What     string `json:"what"`
	From     string `json:"from"`
	To       string `json:"to"`
	Text     string `json:"text"`
	Severity int    `json:"severity"`
}

// maxEvents is how many events are kept.
const maxEvents = 5000

// Events keeps the newest events. Safe for concurrent use.
type Events struct {
	mu   sync.Mutex
	seq  uint64
	ring []Event
	wake map[chan struct{}]bool
}

// NewEvents makes an empty timeline.
func NewEvents() *Events { return &Events{wake: map[chan struct{}]bool{}} }

// Add takes an event and numbers it.
func (ev *Events) Add(e Event) {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	ev.seq++
	e.Seq = ev.seq
	if len(ev.ring) < maxEvents {
		ev.ring = append(ev.ring, e)
	} else {
		ev.ring[(e.Seq-1)%maxEvents] = e
	}
	for c := range ev.wake {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Notify makes every new event wake a channel (which has room for one), or not any more.
func (ev *Events) Notify(c chan struct{}, yes bool) {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	if yes {
		ev.wake[c] = true
	} else {
		delete(ev.wake, c)
	}
}

// After gives up to limit events that follow a number, oldest first.
func (ev *Events) After(seq uint64, limit int) []Event {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	first := uint64(1)
	if ev.seq > maxEvents {
		first = ev.seq - maxEvents + 1
	}
	var out []Event
	for n := max(seq+1, first); n <= ev.seq && len(out) < limit; n++ {
		out = append(out, ev.ring[(n-1)%maxEvents])
	}
	return out
}

// Before gives up to limit events before a number (0: the newest), newest first.
func (ev *Events) Before(seq uint64, limit int) []Event {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	last := ev.seq
	if seq > 0 && seq-1 < last {
		last = seq - 1
	}
	var out []Event
	for n := last; n > 0 && n+maxEvents > ev.seq && len(out) < limit; n-- {
		out = append(out, ev.ring[(n-1)%maxEvents])
	}
	return out
}

// Last gives the number of the newest event.
func (ev *Events) Last() uint64 {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	return ev.seq
}

// tell adds an event about an entity; of processes only their health is news.
func (s *Estate) tell(e *Entity, what, from, to, text string) {
	if e.Kind == topology.KindProcess && what != "health" || s.events == nil || e.Pseudo {
		return
	}
	severity := int(HealthOK)
	switch {
	case what == "health":
		severity = int(e.Health)
	case what == "state" && (to == topology.StateExited || to == topology.StateDead):
		severity = int(HealthWarn)
		text = "exited"
		if e.ExitCode != 0 {
			severity = int(HealthCrit)
			text = fmt.Sprintf("exited with code %d", e.ExitCode)
		}
		for _, r := range e.told {
			if r.Code == "oom_killed" {
				text += " (out of memory)"
			}
		}
	case what == "state":
		text = to
	case what == "gone":
		severity = int(HealthUnknown)
	}
	s.events.Add(Event{At: s.now, ID: e.ID, Kind: e.Kind, Label: e.Label, What: what, From: from, To: to, Text: text, Severity: severity})
}
