package monitor

import (
	"context"
	"time"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/monitor/series"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// keepMinutes writes each hour's minutes when it has passed, and what there is of the running one at the end.
func (m *Monitor) keepMinutes(ctx context.Context) error {
	if m.archive == nil {
		return nil
	}
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	hour := m.hub.now().UnixMilli() / 3600_000
	for {
		select {
		case <-ctx.Done():
			return m.writeHour(hour)
		case <-tick.C:
			if now := m.hub.now().UnixMilli() / 3600_000; now != hour {
				if err := m.writeHour(hour); err != nil {
					m.log.Error("minute tier not written", "err", err)
				}
				hour = now
			}
		}
	}
}

// writeHour collects the hour's minutes of everything but processes, whose rings are too short.
func (m *Monitor) writeHour(hour int64) error {
	records := map[string][]byte{}
	m.estate.Read(func(r *estate.Reader) {
		r.Entities(func(e *estate.Entity) bool {
			if e.Kind == topology.KindProcess {
				return true
			}
			for _, name := range e.MetricNames() {
				if b := series.Collect(series.Series{ID: e.ID, Metric: name, Ring: e.Ring(name)}, hour); b != nil {
					records[series.Key(e.ID, name)] = b
				}
			}
			return true
		})
	})
	return m.archive.Write(hour, records)
}
