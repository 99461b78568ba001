package probe

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// Limits of one plugin's report.
const (
	maxPluginReply     = 4 << 20
	maxPluginMarks     = 200_000 // members and elements: what bounds the memory that decoding takes
	maxPluginNodes     = 5000
	maxPluginAttrs     = 100 // a node
	maxPluginControls  = 20  // a node
	maxPluginMetrics   = 20  // a node
	maxPluginTemplates = 200
	maxPluginNames     = 50 // different metrics
)

// The report as it comes: what Weave Scope's plugins send, read with tolerance. Names are matched without regard to case.
type (
	pluginReply struct {
		Host, Container, Process, Pod *pluginTopology
		Plugins                       []pluginSpec
	}
	pluginSpec struct {
		ID          string   `json:"id"`
		Label       string   `json:"label"`
		Description string   `json:"description"`
		Interfaces  []string `json:"interfaces"`
		APIVersion  string   `json:"api_version"`
	}
	pluginTopology struct {
		Nodes             map[string]pluginNode     `json:"nodes"`
		Controls          map[string]pluginControl  `json:"controls"`
		MetricTemplates   map[string]pluginTemplate `json:"metric_templates"`
		MetadataTemplates map[string]pluginTemplate `json:"metadata_templates"`
		TableTemplates    map[string]pluginTable    `json:"table_templates"`
	}
	pluginControl struct {
		ID    string `json:"id"`
		Human string `json:"human"`
	}
	pluginTemplate struct {
		ID       string  `json:"id"`
		Label    string  `json:"label"`
		Format   string  `json:"format"`
		DataType string  `json:"dataType"`
		From     string  `json:"from"`
		Priority float64 `json:"priority"`
	}
	pluginTable struct {
		ID      string           `json:"id"`
		Label   string           `json:"label"`
		Prefix  string           `json:"prefix"`
		Columns []pluginTemplate `json:"columns"`
	}
	pluginNode struct {
		Metrics        map[string]pluginMetric `json:"metrics"`
		Latest         map[string]pluginLatest `json:"latest"`
		Sets           map[string][]string     `json:"sets"`
		Counters       map[string]int64        `json:"counters"`
		LatestControls map[string]struct {
			Value struct {
				Dead bool `json:"dead"`
			} `json:"value"`
		} `json:"latestControls"`
		Controls json.RawMessage `json:"controls"` // an older form: {"controls": [ids]}
	}
	pluginMetric struct {
		Samples []struct {
			Date  string  `json:"date"`
			Value float64 `json:"value"`
		} `json:"samples"`
		Max float64 `json:"max"`
	}
	pluginLatest struct {
		Value looseText `json:"value"`
	}
)

// looseText is text, or a number or truth that somebody wrote without quotes.
type looseText string

// UnmarshalJSON takes any scalar.
func (t *looseText) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*t = looseText(s)
		return nil
	}
	if len(b) > 0 && (b[0] == '{' || b[0] == '[') {
		return errors.New("a value is not text")
	}
	if !bytes.Equal(b, []byte("null")) {
		*t = looseText(b)
	}
	return nil
}

// pluginSample is the newest value of a metric of a node.
type pluginSample struct {
	name  string
	value float64
}

// pluginNodeFound is what a plugin adds to one entity.
type pluginNodeFound struct {
	id       string // as the plugin calls it
	attrs    []*probev1.Attr
	controls []string
	metrics  []pluginSample
}

// pluginFound is a report after it was checked and translated. It is not changed any more.
type pluginFound struct {
	nodes     map[string]*pluginNodeFound // by decorationKey
	templates []*probev1.Template         // sorted
	foreign   int                         // nodes that are of no kind or host that is known here
	cut       int                         // what was beyond a limit
	size      int
}

// decodePlugin reads a reply. The plugin's own word about itself is checked apart, because a shortcut report may lack it.
func decodePlugin(b []byte, out any) error {
	if n := countMarks(b); n > maxPluginMarks {
		return fmt.Errorf("the reply has more than %d members", maxPluginMarks)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("the reply is not the JSON that it should be: %w", err)
	}
	return nil
}

// countMarks counts the colons and commas outside of texts, up to a little beyond the limit.
func countMarks(b []byte) (n int) {
	inText := false
	for i := 0; i < len(b) && n <= maxPluginMarks; i++ {
		switch c := b[i]; {
		case inText && c == '\\':
			i++
		case c == '"':
			inText = !inText
		case !inText && (c == ':' || c == ','):
			n++
		}
	}
	return n
}

// handshake checks what the plugin says of itself against the name of its socket.
func (r *pluginReply) handshake(id string) (pluginSpec, error) {
	if len(r.Plugins) != 1 {
		return pluginSpec{}, fmt.Errorf("the report must describe exactly one plugin under Plugins, and describes %d", len(r.Plugins))
	}
	s := r.Plugins[0]
	switch {
	case s.ID != id:
		return s, fmt.Errorf("the plugin calls itself %q and its socket %q: the names must be the same", printable(s.ID, 64), id)
	case s.APIVersion != pluginAPIVersion:
		return s, fmt.Errorf("the plugin speaks version %q of the interface, this probe version %q", printable(s.APIVersion, 32), pluginAPIVersion)
	case s.Label == "":
		return s, errors.New("the plugin has no label")
	case !slices.Contains(s.Interfaces, "reporter"):
		return s, errors.New(`the plugin does not name "reporter" among its interfaces`)
	}
	s.Label, s.Description = printable(s.Label, 200), printable(s.Description, 500)
	s.Interfaces = slices.DeleteFunc(s.Interfaces, func(v string) bool { return v != "reporter" && v != "controller" })
	slices.Sort(s.Interfaces)
	s.Interfaces = slices.Compact(s.Interfaces)
	return s, nil
}

// printable makes text harmless to terminals and bounds it.
func printable(s string, limit int) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return unicode.ReplacementChar
		}
		return r
	}, topology.Clean(s, limit))
}

// pluginID joins a plugin's name with that of something of it, so that no plugin can pass for another or for the probe.
func pluginID(plugin, id string) string {
	return topology.Clean(plugin+"."+printable(id, 200), topology.MaxAttrKey)
}

// pluginVerb is the control that the monitor asks for.
func pluginVerb(plugin, control string) string { return plugin + "~" + control }

// translator makes a reply into findings.
type translator struct {
	plugin   string
	hosts    []string // names of this host
	hostname string   // the one that entities carry
	controls bool
	out      *pluginFound
	names    map[string]bool
	byID     map[string]*probev1.Template
}

// translate makes a reply of a plugin into what it adds to this host's entities.
func (w *pluginWatch) translate(plugin string, r *pluginReply, size int, controller bool) *pluginFound {
	t := &translator{
		plugin: plugin, hosts: w.hosts, hostname: w.hosts[0], controls: controller,
		out: &pluginFound{nodes: map[string]*pluginNodeFound{}, size: size}, names: map[string]bool{}, byID: map[string]*probev1.Template{},
	}
	t.topology(r.Host, t.hostKey)
	t.topology(r.Container, t.containerKey)
	t.topology(r.Process, t.processKey)
	t.topology(r.Pod, func(id string) string { return tagged(id, "<pod>", topology.KindPod+";") })
	for _, id := range slices.Sorted(maps.Keys(t.byID)) {
		t.out.templates = append(t.out.templates, t.byID[id])
	}
	return t.out
}

func tagged(id, tag, prefix string) string {
	name, ok := strings.CutSuffix(id, ";"+tag)
	if !ok || name == "" || strings.Contains(name, ";") {
		return ""
	}
	return prefix + name
}

func (t *translator) hostKey(id string) string {
	if name := tagged(id, "<host>", ""); name != "" && slices.Contains(t.hosts, name) {
		return topology.HostID(t.hostname)
	}
	return ""
}

func (t *translator) containerKey(id string) string {
	if name := tagged(id, "<container>", ""); name != "" {
		return topology.ContainerID(t.hostname, name)
	}
	return ""
}

func (t *translator) processKey(id string) string {
	host, pid, ok := strings.Cut(id, ";")
	if n, err := strconv.ParseUint(pid, 10, 31); !ok || err != nil || n == 0 || !slices.Contains(t.hosts, host) {
		return ""
	}
	return topology.ID(topology.KindProcess, t.hostname, pid)
}

// decorationKey is the key under which findings about an entity are kept: its id, or of a process that without the start time,
// which plugins don't know.
func decorationKey(e *probev1.Entity) string {
	if e.Kind == topology.KindProcess {
		return e.Id[:strings.LastIndexByte(e.Id, ';')]
	}
	return e.Id
}

func (t *translator) template(x *probev1.Template) {
	kind := "a"
	switch {
	case x.Metric:
		kind = "m"
	case x.Control:
		kind = "c"
	case x.Table:
		kind = "t"
	}
	if len(t.byID) >= maxPluginTemplates {
		t.out.cut++
		return
	}
	t.byID[kind+x.Id] = x
}

func (t *translator) topology(in *pluginTopology, key func(string) string) {
	if in == nil {
		return
	}
	metadata := map[string]pluginTemplate{}
	for k, m := range in.MetadataTemplates {
		metadata[cmp.Or(m.ID, k)] = m
	}
	tables := slices.Collect(maps.Values(in.TableTemplates))
	tables = slices.DeleteFunc(tables, func(x pluginTable) bool { return x.Prefix == "" })
	slices.SortFunc(tables, func(a, b pluginTable) int {
		return cmp.Or(len(b.Prefix)-len(a.Prefix), cmp.Compare(a.Prefix, b.Prefix))
	})
	for id, m := range metadata {
		t.template(&probev1.Template{Id: pluginID(t.plugin, id), Label: printable(cmp.Or(m.Label, id), 200), Format: metadataFormat(m.DataType), Priority: priority(m.Priority)})
	}
	for _, x := range tables {
		p := &probev1.Template{Id: pluginID(t.plugin, x.Prefix), Label: printable(cmp.Or(x.Label, x.ID), 200), Table: true}
		for _, c := range x.Columns[:min(len(x.Columns), 20)] {
			p.Columns = append(p.Columns, &probev1.Column{Id: printable(c.ID, 100), Label: printable(cmp.Or(c.Label, c.ID), 200)})
		}
		t.template(p)
	}
	metrics := map[string]pluginTemplate{}
	for k, m := range in.MetricTemplates {
		metrics[cmp.Or(m.ID, k)] = m
	}
	controls := map[string]string{}
	for k, c := range in.Controls {
		id := cmp.Or(c.ID, k)
		if !t.controls || len(pluginVerb(t.plugin, id)) > 128 || printable(id, 128) != id {
			continue
		}
		controls[id] = pluginVerb(t.plugin, id)
		t.template(&probev1.Template{Id: controls[id], Label: printable(cmp.Or(c.Human, id), 200), Control: true})
	}
	for _, id := range slices.Sorted(maps.Keys(in.Nodes)) {
		k := key(id)
		if k == "" {
			t.out.foreign++
			continue
		}
		if len(t.out.nodes) >= maxPluginNodes {
			t.out.cut++
			continue
		}
		n := in.Nodes[id]
		found := &pluginNodeFound{id: id}
		t.attrs(found, &n, metadata, tables)
		t.metrics(found, &n, metrics)
		for _, c := range liveControls(&n) {
			if verb, ok := controls[c]; ok && len(found.controls) < maxPluginControls {
				found.controls = append(found.controls, verb)
			}
		}
		t.out.nodes[k] = found
	}
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

// attrs takes the attributes that a template or a table shows: Scope shows no others either.
func (t *translator) attrs(found *pluginNodeFound, n *pluginNode, metadata map[string]pluginTemplate, tables []pluginTable) {
	add := func(id, value string) {
		if len(found.attrs) >= maxPluginAttrs {
			t.out.cut++
			return
		}
		found.attrs = append(found.attrs, &probev1.Attr{Key: pluginID(t.plugin, id), Value: printable(value, 1024)})
	}
	for _, id := range slices.Sorted(maps.Keys(metadata)) {
		m := metadata[id]
		value := ""
		switch m.From {
		case "sets":
			set := slices.Clone(n.Sets[id])
			slices.Sort(set)
			value = strings.Join(set[:min(len(set), 100)], ", ")
		case "counters":
			if v, ok := n.Counters[id]; ok {
				value = strconv.FormatInt(v, 10)
			}
		default:
			value = inMillis(m.DataType, string(n.Latest[id].Value))
		}
		if value != "" {
			add(id, value)
		}
	}
	if len(tables) == 0 {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(n.Latest)) {
		if slices.ContainsFunc(tables, func(x pluginTable) bool { return len(id) > len(x.Prefix) && strings.HasPrefix(id, x.Prefix) }) {
			if _, shown := metadata[id]; !shown {
				add(id, string(n.Latest[id].Value))
			}
		}
	}
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

func (t *translator) metrics(found *pluginNodeFound, n *pluginNode, templates map[string]pluginTemplate) {
	for _, id := range slices.Sorted(maps.Keys(n.Metrics)) {
		m := n.Metrics[id]
		if len(m.Samples) == 0 {
			continue
		}
		newest := m.Samples[0]
		was, _ := time.Parse(time.RFC3339Nano, newest.Date)
		for _, s := range m.Samples[1:] {
			if at, _ := time.Parse(time.RFC3339Nano, s.Date); !at.Before(was) {
				newest, was = s, at
			}
		}
		name := pluginID(t.plugin, id)
		if math.Abs(newest.Value) > 1e29 || len(found.metrics) >= maxPluginMetrics || !t.names[name] && len(t.names) >= maxPluginNames {
			t.out.cut++
			continue
		}
		if !t.names[name] {
			t.names[name] = true
			x := templates[id]
			limit := m.Max
			if !(limit > 0 && limit < 1e29) {
				limit = 0
			}
			t.template(&probev1.Template{Id: name, Label: printable(cmp.Or(x.Label, id), 200), Format: metricFormat(x.Format), Metric: true, Max: limit, Priority: priority(x.Priority)})
		}
		found.metrics = append(found.metrics, pluginSample{name, newest.Value})
	}
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

// liveControls lists the controls that a node offers, in any of the three forms that Scope's versions had.
func liveControls(n *pluginNode) []string {
	live := map[string]bool{}
	var old struct{ Controls []string }
	if len(n.Controls) > 0 {
		_ = json.Unmarshal(n.Controls, &old) // another shape offers nothing
	}
	for _, id := range append(old.Controls, strings.Split(string(n.Latest["active_controls"].Value), ";")...) {
		live[id] = id != ""
	}
	for id, c := range n.LatestControls {
		live[id] = !c.Value.Dead
	}
	var out []string
	for id, yes := range live {
		if yes {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// with gives findings in which the nodes of a shortcut report stand in place of what they replace.
func (f *pluginFound) with(s *pluginFound) *pluginFound {
	out := &pluginFound{nodes: maps.Clone(f.nodes), foreign: f.foreign, cut: f.cut + s.cut, size: f.size + s.size}
	byID := map[string]*probev1.Template{}
	for _, list := range [][]*probev1.Template{f.templates, s.templates} {
		for _, x := range list {
			byID[fmt.Sprint(x.Metric, x.Control, x.Table, x.Id)] = x
		}
	}
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		out.templates = append(out.templates, byID[id])
	}
	for key, n := range s.nodes {
		was := out.nodes[key]
		if was != nil {
			// A shortcut may tell only what has changed: attributes and metrics that it does not name stay.
			n = &pluginNodeFound{id: n.id, controls: n.controls, attrs: slices.Clone(n.attrs), metrics: slices.Clone(n.metrics)}
			for _, a := range was.attrs {
				if !slices.ContainsFunc(n.attrs, func(b *probev1.Attr) bool { return b.Key == a.Key }) && len(n.attrs) < maxPluginAttrs {
					n.attrs = append(n.attrs, a)
				}
			}
			for _, m := range was.metrics {
				if !slices.ContainsFunc(n.metrics, func(b pluginSample) bool { return b.name == m.name }) && len(n.metrics) < maxPluginMetrics {
					n.metrics = append(n.metrics, m)
				}
			}
		}
		if was != nil || len(out.nodes) < maxPluginNodes {
			out.nodes[key] = n
		}
	}
	return out
}
