package monitor

import (
	"net/http"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/monitor/view"
)

func (m *Monitor) replaySpan() (from, to int64) {
	from, to = m.recorder.Span()
	if from == 0 {
		from = m.started.UnixMilli()
	}
	return from, max(to, m.hub.now().UnixMilli())
}

// pastAt makes the estate as it was at a time. Its metrics are read inside the living one's lock.
func (m *Monitor) pastAt(at int64) (*estate.Estate, error) {
	// While nothing changes nothing is recorded: the newest picture lasts until now.
	ask := at
	if _, last := m.recorder.Span(); at > last && at <= m.hub.now().UnixMilli() {
		ask = last
	}
	past, ok := m.recorder.At(ask)
	if !ok {
		return nil, fail("not_found", "that time is not recorded", "GET /api/v1/replay says what is")
	}
	return past, nil
}

// replayFrame makes the picture of a time of the last hour.
func (m *Monitor) replayFrame(spec view.Spec, at int64) ([]byte, error) {
	made, err := view.New(spec, at)
	if err != nil {
		return nil, err
	}
	past, err := m.pastAt(at)
	if err != nil {
		return nil, err
	}
	m.estate.Read(func(*estate.Reader) {
		made.Build(past.Reader())
		made.Settle()
	})
	made.Emit(at)
	return made.Frame(at), nil
}

func (m *Monitor) replayRange(w http.ResponseWriter, _ *http.Request, _ identity) error {
	type mark struct {
		At       int64  `json:"at"`
		Severity int    `json:"severity"`
		Text     string `json:"text"`
	}
	from, to := m.replaySpan()
	marks := []mark{}
	for _, e := range m.events.Before(0, 1000) {
		if e.Severity >= 2 && e.At >= from && len(marks) < 200 {
			marks = append(marks, mark{e.At, e.Severity, e.Label + " " + e.Text})
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"from_ms": from, "to_ms": to, "step_ms": 1000, "marks": marks})
	return nil
}
