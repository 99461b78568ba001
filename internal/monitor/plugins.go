package monitor

import (
	"cmp"
	"net/http"
	"slices"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// listPlugins lists what plugins the probes have found, and how each is.
func (m *Monitor) listPlugins(w http.ResponseWriter, _ *http.Request, _ identity) error {
	type row struct {
		ID          string   `json:"id"`
		Label       string   `json:"label"`
		Description string   `json:"description"`
		Interfaces  []string `json:"interfaces"`
		State       string   `json:"state"`
		Message     string   `json:"message"`
		Probe       string   `json:"probe"`
		Host        string   `json:"host"`
		ProbeState  string   `json:"probe_state"`
	}
	out := []row{}
	for _, p := range m.probes.list() {
		p.mu.Lock()
		if s := p.status; s != nil {
			for _, c := range s.Plugins {
				interfaces := c.Interfaces
				if interfaces == nil {
					interfaces = []string{}
				}
				out = append(out, row{c.Name, c.Label, c.Description, interfaces, c.State, c.Message, p.id, topology.HostID(p.hello.Hostname), p.state})
			}
		}
		p.mu.Unlock()
	}
	writeJSON(w, http.StatusOK, map[string]any{"plugins": out})
	return nil
}

// broughtTables gives the tables that plugins have brought for an entity, and the attributes that are in them.
func broughtTables(e *estate.Entity) (tables []map[string]any, inside map[string]bool) {
	list, inside := e.Tables()
	for _, t := range list {
		tables = append(tables, map[string]any{"id": t.ID, "label": t.Label, "columns": t.Columns, "rows": t.Rows})
	}
	return tables, inside
}

// sortBrought puts the data that plugins brought behind the rest, in the order that they ask for.
func sortBrought(e *estate.Entity, list []datum) {
	rank := func(d datum) (int, float64) {
		if t := e.AttrTemplate(d.ID); t != nil {
			return 1, t.Priority
		}
		return 0, 0
	}
	slices.SortStableFunc(list, func(a, b datum) int {
		ka, pa := rank(a)
		kb, pb := rank(b)
		return cmp.Or(cmp.Compare(ka, kb), cmp.Compare(pa, pb))
	})
}
