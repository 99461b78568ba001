package estate

import (
	"cmp"
	"slices"
	"strings"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// shown is how one probe's plugins want their things shown. It is replaced whole, so that what a plugin no longer speaks of
// takes no room.
type shown struct {
	attrs    map[string]*probev1.Template
	controls map[string]string
	tables   []*probev1.Template // longest id first
}

func (s *Estate) takeTemplates(p *Probe, list []*probev1.Template) {
	p.shown = shown{attrs: map[string]*probev1.Template{}, controls: map[string]string{}}
	for _, t := range list {
		t.Id, t.Label, t.Format = s.intern(t.Id), s.intern(t.Label), s.intern(t.Format)
		switch {
		case t.Metric:
			if _, known := s.templates[t.Id]; known || len(s.templates) < maxTemplates {
				s.templates[t.Id] = topology.Metric{ID: t.Id, Label: t.Label, Format: t.Format, Max: t.Max}
			}
		case t.Control:
			p.shown.controls[t.Id] = t.Label
		case t.Table:
			p.shown.tables = append(p.shown.tables, t)
		default:
			p.shown.attrs[t.Id] = t
		}
	}
	slices.SortStableFunc(p.shown.tables, func(a, b *probev1.Template) int { return len(b.Id) - len(a.Id) })
}

// maxTemplates is how many plugins' metrics are known by name, over all probes.
const maxTemplates = 1000

// ControlLabel is how a plugin names a control of the entity; "" when no plugin does.
func (e *Entity) ControlLabel(id string) string {
	if e.probe == nil {
		return ""
	}
	return e.probe.shown.controls[id]
}

// AttrTemplate is how a plugin wants an attribute shown; nil when none says.
func (e *Entity) AttrTemplate(key string) *probev1.Template {
	if e.probe == nil {
		return nil
	}
	return e.probe.shown.attrs[key]
}

// Table is a table that a plugin has brought for one entity.
type Table struct {
	ID, Label string
	Columns   []string
	Rows      [][]string
}

// cellMark stands between row and column in the key of a cell, as in Weave Scope.
const cellMark = "___"

// Tables puts together the tables of the entity, and says which attributes are in them.
func (e *Entity) Tables() (tables []Table, inside map[string]bool) {
	if e.probe == nil || len(e.probe.shown.tables) == 0 {
		return nil, nil
	}
	inside = map[string]bool{}
	for _, t := range e.probe.shown.tables {
		x := Table{ID: t.Id, Label: t.Label, Columns: []string{"name", "value"}}
		column := map[string]int{}
		if len(t.Columns) > 0 {
			x.Columns = nil
			for i, c := range t.Columns {
				x.Columns = append(x.Columns, c.Label)
				column[c.Id] = i
			}
		}
		rows := map[string][]string{}
		for _, a := range e.Attrs {
			rest, ok := strings.CutPrefix(a.Key, t.Id)
			if !ok || rest == "" || inside[a.Key] || e.probe.shown.attrs[a.Key] != nil {
				continue
			}
			if len(column) == 0 {
				inside[a.Key] = true
				rows[rest] = []string{rest, a.Value}
				continue
			}
			row, id, _ := strings.Cut(rest, cellMark)
			i, ok := column[id]
			if !ok {
				continue
			}
			inside[a.Key] = true
			if rows[row] == nil {
				rows[row] = make([]string, len(t.Columns))
			}
			rows[row][i] = a.Value
		}
		if len(rows) == 0 {
			continue
		}
		names := make([]string, 0, len(rows))
		for n := range rows {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			x.Rows = append(x.Rows, rows[n])
		}
		tables = append(tables, x)
	}
	slices.SortFunc(tables, func(a, b Table) int { return cmp.Or(cmp.Compare(a.Label, b.Label), cmp.Compare(a.ID, b.ID)) })
	return tables, inside
}
