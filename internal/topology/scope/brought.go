package scope

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// Brought makes what a sender has of its own (values, tables, figures and controls that come with the templates by which to show
// them) into attributes, metrics, controls and templates of ours. Everything carries the sender's name, so that nothing can
// pass for something else.
type Brought struct {
	// Prefix stands before every id, with a dot.
	Prefix string
	// Verb is under what name a control is asked for; "" leaves it out.
	Verb func(control string) string
	// Known reports what is shown otherwise, and left out here: the id of a value or figure, or the prefix of a table. May be nil.
	Known func(id string) bool
	// Attrs, Metrics and Controls bound what one node has, Names how many different metrics there are, Templates all templates.
	Attrs, Metrics, Controls, Names, Templates int
	// Cut counts what was beyond a bound.
	Cut int

	names map[string]bool
	byID  map[string]*probev1.Template
}

// ID joins the sender's name with that of something of it.
func (b *Brought) ID(id string) string {
	return topology.Clean(b.Prefix+"."+topology.Printable(id, 200), topology.MaxAttrKey)
}

// List gives the templates, sorted.
func (b *Brought) List() []*probev1.Template {
	out := make([]*probev1.Template, 0, len(b.byID))
	for _, id := range slices.Sorted(maps.Keys(b.byID)) {
		out = append(out, b.byID[id])
	}
	return out
}

func (b *Brought) template(x *probev1.Template) {
	if b.byID == nil {
		b.byID = map[string]*probev1.Template{}
	}
	key := TemplateKey(x)
	if _, there := b.byID[key]; !there && len(b.byID) >= b.Templates {
		b.Cut++
		return
	}
	b.byID[key] = x
}

// TemplateKey tells templates apart: those of different kinds may have the same id.
func TemplateKey(x *probev1.Template) string {
	switch {
	case x.Metric:
		return "m" + x.Id
	case x.Control:
		return "c" + x.Id
	case x.Table:
		return "t" + x.Id
	}
	return "a" + x.Id
}

// Shown is how the nodes of one topology are shown.
type Shown struct {
	by       *Brought
	metadata map[string]MetadataTemplate
	ids      []string // of metadata, sorted
	tables   []TableTemplate
	metrics  map[string]MetricTemplate
	verbs    map[string]string
}

// In reads the templates of a topology.
func (b *Brought) In(t *Topology) *Shown {
	s := &Shown{by: b, metadata: map[string]MetadataTemplate{}, metrics: map[string]MetricTemplate{}, verbs: map[string]string{}}
	known := func(id string) bool { return b.Known != nil && b.Known(id) }
	for k, m := range t.MetadataTemplates {
		if id := cmp.Or(m.ID, k); !known(id) {
			s.metadata[id] = m
		}
	}
	s.ids = slices.Sorted(maps.Keys(s.metadata))
	s.tables = slices.DeleteFunc(slices.Collect(maps.Values(t.TableTemplates)), func(x TableTemplate) bool { return x.Prefix == "" || known(x.Prefix) })
	slices.SortFunc(s.tables, func(a, b TableTemplate) int {
		return cmp.Or(len(b.Prefix)-len(a.Prefix), cmp.Compare(a.Prefix, b.Prefix))
	})
	for _, id := range s.ids {
		m := s.metadata[id]
		b.template(&probev1.Template{Id: b.ID(id), Label: topology.Printable(cmp.Or(m.Label, id), 200), Format: metadataFormat(m.Datatype), Priority: priority(m.Priority)})
	}
	for _, x := range s.tables {
		p := &probev1.Template{Id: b.ID(x.Prefix), Label: topology.Printable(cmp.Or(x.Label, x.ID), 200), Table: true}
		for _, c := range x.Columns[:min(len(x.Columns), 20)] {
			p.Columns = append(p.Columns, &probev1.Column{Id: topology.Printable(c.ID, 100), Label: topology.Printable(cmp.Or(c.Label, c.ID), 200)})
		}
		b.template(p)
	}
	for k, m := range t.MetricTemplates {
		s.metrics[cmp.Or(m.ID, k)] = m
	}
	for _, k := range slices.Sorted(maps.Keys(t.Controls)) {
		c := t.Controls[k]
		id := cmp.Or(c.ID, k)
		verb := b.Verb(id)
		if verb == "" || len(verb) > 128 || topology.Printable(id, 128) != id {
			continue
		}
		s.verbs[id] = verb
		b.template(&probev1.Template{Id: verb, Label: topology.Printable(cmp.Or(c.Human, id), 200), Control: true})
	}
	return s
}

func priority(v float64) float64 {
	if math.Abs(v) < 1e9 {
		return v
	}
	return 0
}

func metadataFormat(dataType string) string {
	switch dataType {
	case "number", "ip", "duration":
		return dataType
	case "datetime":
		return "time"
	}
	return "text"
}

func metricFormat(s string) string {
	switch s {
	case "percent":
		return topology.FormatPercent
	case "filesize":
		return topology.FormatBytes
	}
	return topology.FormatCount
}

// Attrs gives the values that a template or a table shows: Scope shows no others either.
func (s *Shown) Attrs(n *Node) []*probev1.Attr {
	var out []*probev1.Attr
	add := func(id, value string) {
		if len(out) >= s.by.Attrs {
			s.by.Cut++
			return
		}
		out = append(out, &probev1.Attr{Key: s.by.ID(id), Value: topology.Printable(value, 1024)})
	}
	for _, id := range s.ids {
		m := s.metadata[id]
		var value string
		switch m.From {
		case "sets":
			value = joined(n.Sets[id])
		case "counters":
			value = n.Value(CounterPrefix + id)
		case "latest":
			value = inMillis(m.Datatype, n.Value(id))
		default:
			value = cmp.Or(inMillis(m.Datatype, n.Value(id)), joined(n.Sets[id]), n.Value(CounterPrefix+id))
		}
		if value != "" {
			add(id, value)
		}
	}
	if len(s.tables) == 0 {
		return out
	}
	for _, id := range slices.Sorted(maps.Keys(n.Latest)) {
		if slices.ContainsFunc(s.tables, func(x TableTemplate) bool { return len(id) > len(x.Prefix) && strings.HasPrefix(id, x.Prefix) }) {
			if _, shown := s.metadata[id]; !shown {
				add(id, n.Value(id))
			}
		}
	}
	return out
}

func joined(set []string) string {
	set = slices.Clone(set)
	slices.Sort(set)
	return strings.Join(set[:min(len(set), 100)], ", ")
}

// inMillis makes times and durations what the monitor's API has: milliseconds.
func inMillis(dataType, v string) string {
	switch dataType {
	case "datetime":
		if at, err := time.Parse(time.RFC3339Nano, v); err == nil {
			return strconv.FormatInt(at.UnixMilli(), 10)
		}
		return ""
	case "duration":
		if s, err := strconv.ParseFloat(v, 64); err == nil && math.Abs(s) < 1e12 {
			return strconv.FormatInt(int64(s*1000), 10)
		}
		return ""
	}
	return v
}

// Figure is the newest value of a metric.
type Figure struct {
	Name  string
	Value float64
}

// Figures gives the newest value of each of a node's metrics.
func (s *Shown) Figures(n *Node) []Figure {
	var out []Figure
	b := s.by
	for _, id := range slices.Sorted(maps.Keys(n.Metrics)) {
		if b.Known != nil && b.Known(id) {
			continue
		}
		m := n.Metrics[id]
		newest, ok := m.Newest()
		if !ok {
			continue
		}
		name := b.ID(id)
		if !(math.Abs(newest.Value) <= 1e29) || len(out) >= b.Metrics || !b.names[name] && len(b.names) >= b.Names {
			b.Cut++
			continue
		}
		if !b.names[name] {
			if b.names == nil {
				b.names = map[string]bool{}
			}
			b.names[name] = true
			x := s.metrics[id]
			limit := m.Max
			if !(limit > 0 && limit < 1e29) {
				limit = 0
			}
			b.template(&probev1.Template{Id: name, Label: topology.Printable(cmp.Or(x.Label, id), 200), Format: metricFormat(x.Format), Metric: true, Max: limit, Priority: priority(x.Priority)})
		}
		out = append(out, Figure{name, newest.Value})
	}
	return out
}

// Controls gives the controls that a node offers now, under the names by which they are asked for.
func (s *Shown) Controls(n *Node) []string {
	var out []string
	for _, id := range n.Offered() {
		if verb, ok := s.verbs[id]; ok && len(out) < s.by.Controls {
			out = append(out, verb)
		}
	}
	return out
}

// Tagged gives the name in an id of the form name;<tag>, or "".
func Tagged(id, tag string) string {
	name, ok := strings.CutSuffix(id, ";<"+tag+">")
	if !ok || strings.Contains(name, ";") {
		return ""
	}
	return name
}
