package monitor

import (
	"context"
	"slices"
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

// hourBatch is how many entities are collected at a time: between two batches the estate is free for others.
const hourBatch = 200

// writeHour collects the hour's minutes of everything but processes, whose rings are too short.
func (m *Monitor) writeHour(hour int64) error {
	w, err := m.archive.Write(hour)
	if err != nil {
		return err
	}
	var ids []string
	m.estate.Read(func(r *estate.Reader) {
		r.Entities(func(e *estate.Entity) bool {
			if e.Kind != topology.KindProcess {
				ids = append(ids, e.ID)
			}
			return true
		})
	})
	type row struct {
		key      string
		from, to int // in records
	}
	var rows []row
	var records []byte
	for batch := range slices.Chunk(ids, hourBatch) {
		rows, records = rows[:0], records[:0]
		m.estate.Read(func(r *estate.Reader) {
			for _, id := range batch {
				e := r.Entity(id)
				if e == nil {
					continue // it has gone meanwhile
				}
				for _, name := range e.MetricNames() {
					from := len(records)
					if records = series.Collect(records, e.Ring(name), hour); len(records) > from {
						rows = append(rows, row{series.Key(id, name), from, len(records)})
					}
				}
			}
		})
		for _, x := range rows {
			w.Add(x.key, records[x.from:x.to])
		}
	}
	return w.Close()
}
