package core

import (
	"slices"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// Outcome is how a deployment ended.
type Outcome struct {
	ID     string       `json:"id"`
	At     spec.Version `json:"endedAt"`
	Reason string       `json:"reason,omitempty"` // why it failed; empty when it succeeded
}

// outcomesKept is how many are remembered, in memory only: they are for whoever waits for a deployment.
const outcomesKept = 1000

func (m *Machine) noteOutcome(id, reason string) {
	// Readers hold what was there before: it is replaced, not changed.
	from := max(0, len(m.outcomes)-outcomesKept+1)
	m.outcomes = append(slices.Clip(m.outcomes[from:]), &Outcome{ID: id, At: m.stamp(), Reason: reason})
}

// Outcome is how a deployment ended, nil when it is not known (any more).
func (s *Snapshot) Outcome(id string) *Outcome {
	for _, o := range slices.Backward(s.outcomes) {
		if o.ID == id {
			return o
		}
	}
	return nil
}
