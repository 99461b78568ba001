package monitor

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/topology"
)

type datum struct {
	ID     string `json:"id"`
	Label  string `json:"label"`
	Value  string `json:"value"`
	Format string `json:"format"`
}

// known says how the probe's own attributes are shown; others are shown by their name.
var known = map[string]struct{ label, format string }{
	"image": {"Image", "text"}, "created": {"Created", "time"}, "finished": {"Finished", "time"}, "container_id": {"Container id", "text"}, "runtime": {"Runtime", "text"},
	"hostname": {"Host name", "text"}, "command": {"Command", "text"}, "restarts": {"Restarts", "number"}, "restart_policy": {"Restart policy", "text"},
	"network": {"Network", "text"}, "addrs": {"Addresses", "ip"}, "pid": {"PID", "number"}, "ppid": {"Parent PID", "number"}, "cmdline": {"Command", "text"},
	"user": {"User", "text"}, "cpus": {"Cores", "number"}, "kernel": {"Kernel", "text"}, "os": {"System", "text"}, "memory": {"Memory", "bytes"},
	"task": {"Task", "text"}, "app": {"App", "text"}, "sandbox": {"Sandbox", "text"}, "health_check": {"Health check", "text"}, "pod_name": {"Pod", "text"},
	"compose_project": {"Compose project", "text"}, "name": {"Name", "text"},
}

type nodeMetric struct {
	ID     string     `json:"id"`
	Label  string     `json:"label"`
	Format string     `json:"format"`
	Value  float64    `json:"value"`
	Max    float64    `json:"max"`
	Series seriesData `json:"series"`
}

type seriesData struct {
	FromMs int64      `json:"from_ms"`
	StepMs int64      `json:"step_ms"`
	V      []*float64 `json:"v"`
}

type childRow struct {
	ID      string             `json:"id"`
	Label   string             `json:"label"`
	Minor   string             `json:"minor"`
	State   string             `json:"state"`
	Health  estate.Health      `json:"health"`
	Metrics map[string]float64 `json:"metrics"`
}

type children struct {
	Kind  string     `json:"kind"`
	Count int        `json:"count"`
	Items []childRow `json:"items"`
}

type peer struct {
	ID    string `json:"id"`
	Kind  string `json:"kind"`
	Label string `json:"label"`
}

type nodeEdge struct {
	Dir     string   `json:"dir"`
	Peer    peer     `json:"peer"`
	Proto   string   `json:"proto"`
	Port    uint16   `json:"port"`
	N       uint32   `json:"n"`
	New     float32  `json:"new"`
	Fail    float32  `json:"fail"`
	Tx      float32  `json:"tx"`
	Rx      float32  `json:"rx"`
	RTT     *float64 `json:"rtt"`
	Retrans float32  `json:"retrans"`
	Ev      string   `json:"ev"`
}

type nodeControl struct {
	ID      string `json:"id"`
	Label   string `json:"label"`
	Group   string `json:"group"`
	Role    string `json:"role"`
	Danger  bool   `json:"danger"`
	Allowed bool   `json:"allowed"`
	WhyNot  string `json:"why_not"`
}

// controlDef is what the monitor knows of a control. Plugins' own are not in the table and need an operator.
type controlDef struct {
	label, group string
	role         Role
	danger       bool
}

var controls = map[string]controlDef{
	"start": {"Start", "lifecycle", RoleOperator, false}, "stop": {"Stop", "lifecycle", RoleOperator, true}, "restart": {"Restart", "lifecycle", RoleOperator, true},
	"pause": {"Pause", "lifecycle", RoleOperator, true}, "unpause": {"Unpause", "lifecycle", RoleOperator, false}, "kill": {"Kill", "lifecycle", RoleOperator, true},
	"remove": {"Remove", "lifecycle", RoleOperator, true}, "signal": {"Signal", "lifecycle", RoleOperator, true}, "logs": {"Logs", "logs", RoleViewer, false},
	"exec": {"Shell", "exec", RoleOperator, false}, "attach": {"Attach", "exec", RoleOperator, false}, "files": {"Files", "exec", RoleOperator, false},
	"host-exec": {"Host shell", "host-exec", RoleAdmin, true},
}

func (m *Monitor) controlOf(id string) controlDef {
	d, ok := controls[id]
	if !ok {
		d = controlDef{id, "plugin", RoleOperator, true}
	}
	if id == "logs" && !m.cfg.ViewerLogs {
		d.role = RoleOperator
	}
	return d
}

// subject is what a node id of a picture means: one entity, or the members of a group.
func subject(r *estate.Reader, id string) (one *estate.Entity, members []*estate.Entity) {
	if e := r.Entity(id); e != nil {
		return e, nil
	}
	kind, rest, _ := strings.Cut(id, ";")
	group, value, _ := strings.Cut(rest, ";")
	match := func(e *estate.Entity) bool { return e.ParentID(kind) == id && e.Kind == topology.KindContainer }
	switch kind {
	case topology.KindGroup:
		switch group {
		case "name":
			match = func(e *estate.Entity) bool { return e.Kind == topology.KindProcess && e.Label == value }
		case "hostname":
			match = func(e *estate.Entity) bool {
				return e.Kind == topology.KindContainer && cmp.Or(e.Attr(topology.AttrHostname), e.Label) == value
			}
		case "host":
			match = func(e *estate.Entity) bool { return e.Kind == topology.KindContainer && e.Hostname() == value }
		default:
			if name, ok := strings.CutPrefix(group, "label:"); ok {
				match = func(e *estate.Entity) bool {
					return e.Kind == topology.KindContainer && e.Attr(topology.AttrLabel+name) == value
				}
			} else {
				match = func(e *estate.Entity) bool {
					return e.Kind == topology.KindContainer && slices.Contains(e.ParentIDs(group), topology.ID(group, value))
				}
			}
		}
	case topology.KindLabel:
		match = func(e *estate.Entity) bool {
			return e.Kind == topology.KindContainer && e.Attr(topology.AttrLabel+group) == value
		}
	case topology.KindUncontain, topology.KindUnmanaged:
		match = func(e *estate.Entity) bool {
			return e.Kind == topology.KindProcess && (rest == "" || e.Hostname() == rest) && e.Container() == nil
		}
	case topology.KindUnknown:
		return r.Entity(rest), nil
	}
	r.Entities(func(e *estate.Entity) bool {
		if !e.Pseudo && match(e) {
			members = append(members, e)
		}
		return true
	})
	slices.SortFunc(members, func(a, b *estate.Entity) int { return cmp.Compare(a.ID, b.ID) })
	return nil, members
}

func (m *Monitor) node(w http.ResponseWriter, r *http.Request, who identity) error {
	id := r.PathValue("id")
	var out map[string]any
	var by *estate.Probe
	m.estate.Read(func(rd *estate.Reader) {
		one, members := subject(rd, id)
		switch {
		case one != nil:
			out = m.describe(rd, one, who)
			by = one.Probe()
		case len(members) > 0:
			out = m.describeGroup(rd, id, members)
		}
	})
	if out == nil {
		return fail("not_found", "no such node; it may have just gone", "")
	}
	if by != nil { // outside of the estate's lock, which whoever holds the probes' takes
		out["probe"] = map[string]string{"id": by.ID, "state": m.probes.state(by.ID)}
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (m *Monitor) describe(rd *estate.Reader, e *estate.Entity, who identity) map[string]any {
	metadata, labels := []datum{}, map[string]string{}
	var ports [][]string
	brought, inTable := broughtTables(e)
	if e.StartedMs > 1 {
		metadata = append(metadata, datum{"started", "Started", strconv.FormatInt(e.StartedMs, 10), "time"})
	}
	for _, a := range e.Attrs {
		if name, ok := strings.CutPrefix(a.Key, topology.AttrLabel); ok {
			labels[name] = a.Value
			continue
		}
		switch a.Key {
		case "ports":
			for p := range strings.FieldsSeq(a.Value) {
				host, inner, _ := strings.Cut(p, ">")
				ports = append(ports, []string{host, inner})
			}
			continue
		case topology.AttrSystem, topology.AttrHostNetwork:
			continue
		}
		if inTable[a.Key] {
			continue
		}
		k, ok := known[a.Key]
		if t := e.AttrTemplate(a.Key); !ok && t != nil {
			k.label, k.format = t.Label, t.Format
		} else if !ok {
			k.label, k.format = a.Key, "text"
		}
		metadata = append(metadata, datum{a.Key, k.label, a.Value, k.format})
	}
	sortBrought(e, metadata)
	tables := []map[string]any{}
	if len(ports) > 0 {
		tables = append(tables, map[string]any{"id": "ports", "label": "Ports", "columns": []string{"host", "container"}, "rows": ports})
	}
	tables = append(tables, brought...)
	var parents []map[string]any
	for _, id := range e.Parents {
		_, label, _ := strings.Cut(id, ";")
		row := map[string]any{"kind": topology.KindOf(id), "id": id, "label": label, "health": estate.HealthUnknown}
		if p := rd.Entity(id); p != nil {
			row["label"], row["health"] = p.Label, p.Health
		}
		parents = append(parents, row)
	}
	if parents == nil {
		parents = []map[string]any{}
	}
	var kids []*estate.Entity
	e.Children(func(c *estate.Entity) bool { kids = append(kids, c); return true })
	out := map[string]any{
		"id": e.ID, "kind": e.Kind, "label": e.Label, "minor": e.Hostname(), "state": e.State, "health": e.Health, "reasons": reasons(e),
		"since_ms": e.SinceMs, "stale": e.Stale, "at": m.hub.now().UnixMilli(), "metadata": metadata, "labels": labels,
		"metrics": m.metricsOf(rd, e), "tables": tables, "parents": parents, "children": group(kids), "controls": m.controlsOf(e, who),
	}
	// What is in a container or on a host talks for it.
	inside := map[*estate.Entity]bool{e: true}
	for _, c := range kids {
		inside[c] = true
		if e.Kind == topology.KindHost || e.Kind == topology.KindPod {
			c.Children(func(g *estate.Entity) bool { inside[g] = true; return true })
		}
	}
	out["edges"], out["edges_total"] = edgesOf(inside)
	return out
}

func reasons(e *estate.Entity) []estate.Reason {
	if e.Reasons == nil {
		return []estate.Reason{}
	}
	return e.Reasons
}

func (m *Monitor) describeGroup(rd *estate.Reader, id string, members []*estate.Entity) map[string]any {
	label := id[strings.LastIndexByte(id, ';')+1:]
	if topology.KindOf(id) != topology.KindGroup {
		_, label, _ = strings.Cut(id, ";")
	}
	health := estate.HealthUnknown
	var why []estate.Reason
	inside := map[*estate.Entity]bool{}
	sums := map[string]float64{}
	for _, e := range members {
		if estate.Worse(health, e.Health) != health {
			health = e.Health
			why = nil
			for _, r := range e.Reasons {
				r.Text = e.Label + ": " + r.Text
				why = append(why, r)
			}
		}
		inside[e] = true
		e.Children(func(c *estate.Entity) bool { inside[c] = true; return true })
		for _, name := range e.MetricNames() {
			v, _ := e.Number(name)
			sums[name] += v
		}
	}
	if why == nil {
		why = []estate.Reason{}
	}
	metrics := []nodeMetric{}
	for _, t := range topology.CatalogFor(members[0].Kind) {
		v, ok := sums[t.ID]
		if !ok || t.ID == topology.MetricMemUsed || t.ID == topology.MetricThrottled {
			continue // shares of different wholes don't add up
		}
		metrics = append(metrics, nodeMetric{t.ID, t.Label, t.Format, v, 0, seriesData{V: []*float64{}}})
	}
	out := map[string]any{
		"id": id, "kind": topology.KindOf(id), "label": label, "minor": fmt.Sprintf("%d members", len(members)), "state": "", "health": health, "reasons": why,
		"since_ms": 0, "stale": health == estate.HealthStale, "at": m.hub.now().UnixMilli(), "metadata": []datum{}, "labels": map[string]string{},
		"metrics": metrics, "tables": []any{}, "parents": []any{}, "children": group(members), "controls": []nodeControl{},
	}
	out["edges"], out["edges_total"] = edgesOf(inside)
	return out
}

// top is how many children and edges are listed.
const (
	topChildren = 20
	topEdges    = 100
)

func group(list []*estate.Entity) []children {
	byKind := map[string][]*estate.Entity{}
	for _, e := range list {
		byKind[e.Kind] = append(byKind[e.Kind], e)
	}
	out := []children{}
	for kind, es := range byKind {
		slices.SortFunc(es, func(a, b *estate.Entity) int {
			x, _ := a.Number(topology.MetricCPU)
			y, _ := b.Number(topology.MetricCPU)
			return cmp.Or(-cmp.Compare(x, y), cmp.Compare(a.ID, b.ID))
		})
		c := children{Kind: kind, Count: len(es), Items: []childRow{}}
		for _, e := range es[:min(len(es), topChildren)] {
			minor := e.Hostname()
			if kind == topology.KindProcess {
				minor = e.Attr(topology.AttrPID)
			}
			row := childRow{e.ID, e.Label, minor, e.State, e.Health, map[string]float64{}}
			for _, name := range []string{topology.MetricCPU, topology.MetricMem} {
				if v, ok := e.Number(name); ok {
					row.Metrics[name] = v
				}
			}
			c.Items = append(c.Items, row)
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b children) int { return cmp.Compare(a.Kind, b.Kind) })
	return out
}

// edgesOf lists the edges that lead out of or into a set of entities.
func edgesOf(inside map[*estate.Entity]bool) ([]nodeEdge, int) {
	out := []nodeEdge{}
	for e := range inside {
		e.Edges(func(b *estate.Edge) bool {
			in, from := inside[b.Dst], inside[b.Src]
			if in && from && b.Src != e {
				return true // seen from its source
			}
			x := nodeEdge{Dir: "out", Port: b.Port, Proto: "tcp", N: b.Conns, New: b.New, Fail: b.Fail, Tx: b.Tx, Rx: b.Rx, Retrans: b.Retrans, Ev: evidence(b.Evidence)}
			other := b.Dst
			if !from {
				x.Dir, other = "in", b.Src
			}
			if b.UDP {
				x.Proto = "udp"
			}
			if b.RTTMicros > 0 {
				v := float64(b.RTTMicros) / 1000
				x.RTT = &v
			}
			x.Peer = peer{other.ID, other.Kind, other.Label}
			out = append(out, x)
			return true
		})
	}
	slices.SortFunc(out, func(a, b nodeEdge) int {
		return cmp.Or(-cmp.Compare(a.N, b.N), cmp.Compare(a.Peer.ID, b.Peer.ID), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Dir, b.Dir))
	})
	return out[:min(len(out), topEdges)], len(out)
}

func evidence(e uint8) string { return [...]string{"client", "client", "server", "both"}[e&3] }

func (m *Monitor) metricsOf(rd *estate.Reader, e *estate.Entity) []nodeMetric {
	out := []nodeMetric{}
	now := m.hub.now().UnixMilli()
	for _, name := range e.MetricNames() {
		t := rd.Template(name)
		v, _ := e.Number(name)
		start, list := e.Ring(name).Range(now-3600_000, now)
		x := nodeMetric{name, t.Label, t.Format, v, t.Max, seriesData{start, 15_000, points(list)}}
		if name == topology.MetricMem {
			if limit, ok := e.Number(topology.MetricMemLimit); ok {
				x.Max = limit
			}
		}
		out = append(out, x)
	}
	order := map[string]int{}
	for i, t := range topology.Catalog() {
		order[t.ID] = i + 1
	}
	slices.SortFunc(out, func(a, b nodeMetric) int {
		return cmp.Or(cmp.Compare(cmp.Or(order[a.ID], 1000), cmp.Or(order[b.ID], 1000)), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// points makes gaps null, and keeps four digits.
func points(list []float64) []*float64 {
	out := make([]*float64, len(list))
	for i, v := range list {
		if !math.IsNaN(v) {
			if v != 0 {
				scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
				v = math.Round(v*scale) / scale
			}
			out[i] = &v
		}
	}
	return out
}

func (m *Monitor) controlsOf(e *estate.Entity, who identity) []nodeControl {
	out := []nodeControl{}
	for _, id := range e.Controls {
		d := m.controlOf(id)
		if label := e.ControlLabel(id); label != "" && d.group == "plugin" {
			d.label = label
		}
		c := nodeControl{ID: id, Label: d.label, Group: d.group, Role: d.role.String(), Danger: d.danger, Allowed: true}
		switch {
		case who.role < d.role:
			c.Allowed, c.WhyNot = false, "it needs the role "+d.role.String()
		case e.Stale:
			c.Allowed, c.WhyNot = false, "the host's probe is not connected"
		}
		out = append(out, c)
	}
	return out
}

func (m *Monitor) series(w http.ResponseWriter, r *http.Request, _ identity) error {
	since, err := number(r, "since", 3600, 15, 86400)
	if err != nil {
		return err
	}
	step, err := number(r, "step", 15, 15, 3600)
	if err != nil {
		return err
	}
	var names []string
	if v := r.URL.Query().Get("metric"); v != "" {
		names = strings.Split(v, ",")
	}
	if len(names) > 20 {
		return fail("bad_request", "at most 20 metrics", "")
	}
	if since > 3600 {
		step = max(step, 60)
	}
	step = step / 15 * 15
	if step >= 60 {
		step = step / 60 * 60
	}
	now := m.hub.now().UnixMilli()
	type row struct {
		Metric string     `json:"metric"`
		Format string     `json:"format"`
		FromMs int64      `json:"from_ms"`
		StepMs int64      `json:"step_ms"`
		V      []*float64 `json:"v"`
		Min    []*float64 `json:"min,omitempty"`
		Max    []*float64 `json:"max,omitempty"`

		low, avg, high []float64 // of each minute
	}
	from := (now - since*1000) / (step * 1000) * (step * 1000)
	id := r.PathValue("id")
	out := []row{}
	found := false
	m.estate.Read(func(rd *estate.Reader) {
		e := rd.Entity(id)
		if e == nil {
			return
		}
		found = true
		if len(names) == 0 {
			names = e.MetricNames()
			names = names[:min(len(names), 20)]
		}
		for _, name := range names {
			ring := e.Ring(name)
			if ring == nil {
				continue
			}
			x := row{Metric: name, Format: rd.Template(name).Format, StepMs: step * 1000}
			if step < 60 {
				var list []float64
				x.FromMs, list = ring.Range(from, now)
				x.V, x.StepMs = points(list), 15_000
			} else {
				x.FromMs = from
				x.low, x.avg, x.high = ring.Minutes(from, int((now-from)/60_000)+1)
			}
			out = append(out, x)
		}
	})
	if !found {
		return fail("not_found", "no such node; it may have just gone", "")
	}
	for i := range out { // the disk may be slow, and the estate must not wait for it
		x := &out[i]
		if x.avg == nil {
			continue
		}
		m.archive.Fill(id, x.Metric, from, x.low, x.avg, x.high)
		low, avg, high := condense(x.low, x.avg, x.high, int(step/60))
		x.V, x.Min, x.Max = points(avg), points(low), points(high)
	}
	writeJSON(w, http.StatusOK, map[string]any{"id": id, "series": out})
	return nil
}

// condense sums minutes up into longer steps.
func condense(low, avg, high []float64, by int) (l, a, h []float64) {
	if by <= 1 {
		return low, avg, high
	}
	for i := 0; i < len(avg); i += by {
		mn, mx, sum, n := math.NaN(), math.NaN(), 0.0, 0
		for j := i; j < min(i+by, len(avg)); j++ {
			if math.IsNaN(avg[j]) {
				continue
			}
			if n == 0 || low[j] < mn {
				mn = low[j]
			}
			if n == 0 || high[j] > mx {
				mx = high[j]
			}
			sum += avg[j]
			n++
		}
		mean := math.NaN()
		if n > 0 {
			mean = sum / float64(n)
		}
		l, a, h = append(l, mn), append(a, mean), append(h, mx)
	}
	return l, a, h
}
