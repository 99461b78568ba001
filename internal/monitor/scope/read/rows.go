package read

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/orchestrator/orchestrator/internal/topology"
)

// The fields of what follows are those of Scope's render/detailed and report packages.

type basic struct {
	ID         string `json:"id"`
	Label      string `json:"label"`
	LabelMinor string `json:"labelMinor"`
	Rank       string `json:"rank"`
	Shape      string `json:"shape,omitempty"`
	Stack      bool   `json:"stack,omitempty"`
	Pseudo     bool   `json:"pseudo,omitempty"`
}

type summary struct {
	basic
	Metadata []metadataRow `json:"metadata,omitempty"`
	Parents  []parent      `json:"parents,omitempty"`
	Metrics  []metricRow   `json:"metrics,omitempty"`
	Tables   []table       `json:"tables,omitempty"`
}

type metadataRow struct {
	ID       string  `json:"id"`
	Label    string  `json:"label"`
	Value    string  `json:"value"`
	Priority float64 `json:"priority,omitempty"`
	Datatype string  `json:"dataType,omitempty"`
	Truncate int     `json:"truncate,omitempty"`
}

type sample struct {
	Date  time.Time `json:"date"`
	Value float64   `json:"value"`
}

type metricRow struct {
	ID       string   `json:"id"`
	Label    string   `json:"label"`
	Format   string   `json:"format,omitempty"`
	Group    string   `json:"group,omitempty"`
	Value    float64  `json:"value"`
	Priority float64  `json:"priority,omitempty"`
	Samples  []sample `json:"samples"`
	Min      float64  `json:"min"`
	Max      float64  `json:"max"`
	URL      string   `json:"url"`
}

type column struct {
	ID       string `json:"id"`
	Label    string `json:"label"`
	DataType string `json:"dataType"`
}

type tableRow struct {
	ID      string            `json:"id"`
	Entries map[string]string `json:"entries"`
}

type table struct {
	ID      string     `json:"id"`
	Label   string     `json:"label"`
	Type    string     `json:"type"`
	Columns []column   `json:"columns"`
	Rows    []tableRow `json:"rows"`
}

const (
	asNumber   = "number"
	asDuration = "duration"
	asDateTime = "datetime"
	asIP       = "ip"
)

// plural is how Scope counts.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// kindWords are how the kinds that Scope has not are counted.
func kindWords(n *node) string {
	if c := n.counts[topology.KindContainer]; c > 0 {
		return plural(c, "container", "containers")
	}
	return ""
}

// title gives a node's label and what is drawn beside it.
func (n *node) title() basic {
	b := basic{ID: n.id, Label: cmp.Or(n.label, n.id), Pseudo: n.pseudo}
	f := n.fact
	switch n.topology {
	case topoPseudo:
		b.Rank = strings.TrimPrefix(n.id, "pseudo:")
		switch {
		case n.id == incomingInternet:
			b.Label, b.LabelMinor, b.Shape = "The Internet", "Inbound connections", "cloud"
		case n.id == outgoingInternet:
			b.Label, b.LabelMinor, b.Shape = "The Internet", "Outbound connections", "cloud"
		case strings.HasPrefix(n.id, uncontained):
			b.Label, b.LabelMinor, b.Shape, b.Stack = "Uncontained", strings.TrimPrefix(n.id, uncontained), "square", true
		case strings.HasPrefix(n.id, unmanaged):
			b.Label, b.LabelMinor, b.Shape, b.Stack = "Unmanaged", strings.TrimPrefix(n.id, unmanaged), "square", true
		default:
			b.Shape = "circle"
		}
	case topoImage:
		name, _ := splitImage(bare(n.viewName))
		b.Label, b.Rank, b.Shape, b.Stack = name, name, "hexagon", true
		b.LabelMinor = plural(n.counts[topology.KindContainer], "container", "containers")
	case "group:process:name":
		b.Label, b.Rank, b.Shape, b.Stack = n.id, n.id, "square", true
		b.LabelMinor = plural(n.counts[topology.KindProcess], "process", "processes")
	case "group:container:docker_container_hostname":
		b.Label, b.Rank, b.Shape, b.Stack = n.id, n.id, "hexagon", true
		b.LabelMinor = plural(n.counts[topology.KindContainer], "container", "containers")
	case topoPod:
		b.Shape, b.Rank = "heptagon", n.namespace+"/"+b.Label
		b.LabelMinor = plural(n.counts[topology.KindContainer], "container", "containers")
	case topoService:
		b.Shape, b.Rank, b.Stack = "heptagon", n.namespace+"/"+b.Label, true
		b.LabelMinor = plural(n.counts[topology.KindPod], "pod", "pods")
	case topoHost, topoContainer, topoProcess:
		return f.title(b)
	default:
		b.Shape = topology.Shape(n.viewKind)
		if n.viewKind == topology.KindController {
			_, kind, _ := splitController(n.viewName)
			c := controllerTopologies[kind]
			b.Rank, b.Stack, b.Shape = n.namespace+"/"+b.Label, true, controllerShapes[kind]
			b.LabelMinor = c.title + " of " + plural(n.counts[topology.KindPod], "pod", "pods")
			break
		}
		b.Rank, b.Stack = b.Label, n.viewKind != topology.KindTask
		b.LabelMinor = kindWords(n)
	}
	return b
}

var controllerShapes = map[string]string{
	"deployment": "heptagon", "daemonset": "pentagon", "statefulset": "octagon", "cronjob": "triangle", "job": "dottedtriangle", "replicaset": "triangle",
}

// title completes what is known of the title of an entity: a host, a container or a process.
func (f *fact) title(b basic) basic {
	if f == nil {
		return b
	}
	b.ID = f.id
	switch f.kind {
	case topology.KindHost:
		b.Shape = "circle"
		b.Label = bare(f.ours)
		if first, rest, ok := strings.Cut(b.Label, "."); ok {
			b.Label, b.LabelMinor, b.Rank = first, rest, rest
		}
	case topology.KindContainer:
		b.Shape, b.Label, b.LabelMinor = "hexagon", f.label, f.host
		name, _ := splitImage(f.attr(topology.AttrImage))
		b.Rank = cmp.Or(name, f.host, f.label)
	case topology.KindProcess:
		pid := f.attr(topology.AttrPID)
		b.Shape, b.Label, b.Rank = "square", cmp.Or(f.label, pid), cmp.Or(f.label, f.host)
		switch {
		case f.label != "" && f.container != "":
			b.LabelMinor = fmt.Sprintf("%s (%s:%s)", f.host, f.container, pid)
		case f.label != "":
			b.LabelMinor = fmt.Sprintf("%s (%s)", f.host, pid)
		case f.container != "":
			b.LabelMinor = fmt.Sprintf("%s (%s)", f.host, f.container)
		default:
			b.LabelMinor = f.host
		}
	default:
		b.Shape, b.Label = topology.Shape(f.kind), f.label
	}
	return b
}

// rows collects metadata in the order of priorities.
type rows []metadataRow

func (r *rows) add(id, label, value, datatype string) {
	if value != "" {
		*r = append(*r, metadataRow{ID: id, Label: label, Value: value, Datatype: datatype, Priority: float64(len(*r) + 1)})
	}
}

// at adds a row with the priority that Scope gives it.
func (r *rows) at(priority float64, id, label, value, datatype string) {
	if value != "" {
		*r = append(*r, metadataRow{ID: id, Label: label, Value: value, Datatype: datatype, Priority: priority})
	}
}

// uptimeStep is how exact an uptime is told: by the second, every row would be another one every second.
const uptimeStep = 60

func uptime(started, at int64) string {
	if started <= 1 || at < started {
		return ""
	}
	s := (at - started) / 1000
	if s > uptimeStep {
		s -= s % uptimeStep
	}
	return strconv.FormatInt(s, 10)
}

// since is how Docker tells how long ago something was, in steps like uptime's.
func since(ms, at int64) string {
	d := time.Duration(max(0, at-ms)) * time.Millisecond
	if d > time.Minute {
		d = d.Truncate(time.Minute)
	} else {
		d = d.Truncate(10 * time.Second)
	}
	return units.HumanDuration(d)
}

// stateHuman is a container's state in Docker's words.
func (f *fact) stateHuman(at int64) string {
	switch f.state {
	case topology.StateRunning, topology.StatePaused:
		text := "Up"
		if f.started > 1 {
			text += " " + since(f.started, at)
		}
		if f.state == topology.StatePaused {
			text += " (Paused)"
		}
		return text
	case topology.StateExited, topology.StateRestarting:
		text := fmt.Sprintf("%s (%d)", strings.ToUpper(f.state[:1])+f.state[1:], f.exit)
		ended, _ := strconv.ParseInt(f.attr("finished"), 10, 64)
		if ended = cmp.Or(ended, f.since); ended > 0 {
			text += " " + since(ended, at) + " ago"
		}
		return text
	case "":
		return ""
	}
	return strings.ToUpper(f.state[:1]) + f.state[1:]
}

func dateTime(ms string) string {
	n, err := strconv.ParseInt(ms, 10, 64)
	if err != nil || n <= 0 {
		return ""
	}
	return time.UnixMilli(n).UTC().Format(time.RFC3339Nano)
}

// joined writes a list as Scope writes a set.
func joined(spaced string) string { return strings.Join(strings.Fields(spaced), ", ") }

func (f *fact) metadata(at int64) []metadataRow {
	var r rows
	switch f.kind {
	case topology.KindHost:
		r.at(1, "kernel_version", "Kernel version", f.attr("kernel"), "")
		r.at(2, "uptime", "Uptime", uptime(f.started, at), asDuration)
		r.at(11, "host_name", "Hostname", bare(f.ours), "")
		r.at(12, "os", "OS", f.attr("os"), "")
	case topology.KindContainer:
		name, tag := splitImage(f.attr(topology.AttrImage))
		r.at(1, "docker_image_tag", "Image tag", tag, "")
		r.at(2, "docker_image_name", "Image name", name, "")
		r.at(3, "docker_container_command", "Command", f.attr("command"), "")
		r.at(4, "docker_container_state_human", "State", f.stateHuman(at), "")
		if f.state == topology.StateRunning {
			r.at(5, "docker_container_uptime", "Uptime", uptime(f.started, at), asDuration)
			r.at(6, "docker_container_restart_count", "Restart #", cmp.Or(f.attr("restarts"), "0"), "")
		}
		r.at(7, "docker_container_networks", "Networks", f.attr("network"), "")
		r.at(8, "docker_container_ips", "IPs", joined(f.attr(topology.AttrAddrs)), "")
		r.at(9, "docker_container_ports", "Ports", joined(strings.ReplaceAll(f.attr("ports"), ">", "->")), "")
		r.at(10, "docker_container_created", "Created", dateTime(f.attr("created")), asDateTime)
		_, id, _ := strings.Cut(bare(f.ours), ";")
		r = append(r, metadataRow{ID: "docker_container_id", Label: "ID", Value: cmp.Or(f.attr(topology.AttrContainerID), id), Priority: 11, Truncate: 12})
	case topology.KindProcess:
		r.at(1, "pid", "PID", f.attr(topology.AttrPID), asNumber)
		r.at(2, "cmdline", "Command", f.attr(topology.AttrCmdline), "")
		r.at(3, "ppid", "Parent PID", f.attr(topology.AttrPPID), asNumber)
		if n, ok := f.number(topology.MetricThreads); ok {
			r.at(4, "threads", "# Threads", strconv.Itoa(int(n.value)), asNumber)
		}
	}
	for _, a := range f.attrs {
		if label, ok := f.shown[a.Key]; ok && !f.inTable[a.Key] {
			r.at(100, a.Key, label, a.Value, "")
		}
	}
	return r
}

func millis(ms int64) string {
	if ms <= 1 {
		return ""
	}
	return dateTime(strconv.FormatInt(ms, 10))
}

// metadata gives what is shown of a node beside its title.
func (n *node) metadata(at int64) []metadataRow {
	f := n.fact
	var r rows
	switch n.topology {
	case topoHost, topoContainer, topoProcess:
		if f == nil {
			return nil
		}
		return f.metadata(at)
	case topoImage:
		r.at(2, "container", "# Containers", strconv.Itoa(n.counts[topology.KindContainer]), asNumber)
	case topoPod:
		if f == nil {
			f = &fact{}
		}
		state := f.state
		if state != "" {
			state = strings.ToUpper(state[:1]) + state[1:]
		}
		r.at(2, "kubernetes_state", "State", state, "")
		first, _, _ := strings.Cut(f.attr(topology.AttrAddrs), " ")
		r.at(3, "kubernetes_ip", "IP", first, asIP)
		r.at(4, "container", "# Containers", strconv.Itoa(n.counts[topology.KindContainer]), asNumber)
		r.at(5, "kubernetes_namespace", "Namespace", n.namespace, "")
		r.at(6, "kubernetes_created", "Created", millis(f.started), asDateTime)
		r.at(7, "kubernetes_restart_count", "Restart #", f.attr("restarts"), "")
	case topoService:
		if f == nil {
			f = &fact{}
		}
		r.at(2, "kubernetes_namespace", "Namespace", n.namespace, "")
		r.at(3, "kubernetes_created", "Created", millis(f.started), asDateTime)
		r.at(5, "kubernetes_ip", "Internal IP", f.attr("cluster_ip"), asIP)
		r.at(6, "pod", "# Pods", strconv.Itoa(n.counts[topology.KindPod]), asNumber)
		r.at(7, "kubernetes_type", "Type", f.attr("service_type"), "")
		r.at(8, "kubernetes_ports", "Ports", f.attr("service_ports"), "")
	default:
		switch n.viewKind {
		case topology.KindController:
			if f == nil {
				f = &fact{}
			}
			_, kind, _ := splitController(n.viewName)
			r.at(1, "kubernetes_node_type", "Type", controllerTopologies[kind].title, "")
			r.at(2, "kubernetes_namespace", "Namespace", n.namespace, "")
			r.at(3, "kubernetes_created", "Created", millis(f.started), asDateTime)
			r.at(4, "kubernetes_schedule", "Schedule", f.attr("schedule"), "")
			r.at(5, "kubernetes_desired_replicas", "Desired replicas", f.attr("desired"), asNumber)
			r.at(6, "pod", "# Pods", strconv.Itoa(n.counts[topology.KindPod]), asNumber)
			r.at(7, "kubernetes_suspended", "Suspended", f.attr("suspended"), "")
		case topology.KindTask, topology.KindApp, topology.KindFramework, topology.KindAgent:
			r.add("container", "# Containers", strconv.Itoa(n.counts[topology.KindContainer]), asNumber)
		}
	}
	return r
}

// scopeMetrics are Scope's names for our metrics, and how they are shown.
var scopeMetrics = map[string]map[string]metricRow{
	topology.KindHost: {
		topology.MetricCPU:   {ID: "host_cpu_usage_percent", Label: "CPU", Format: "percent", Priority: 1},
		topology.MetricMem:   {ID: "host_mem_usage_bytes", Label: "Memory", Format: "filesize", Priority: 2},
		topology.MetricLoad1: {ID: "load1", Label: "Load (1m)", Group: "load", Priority: 11},
	},
	topology.KindContainer: {
		topology.MetricCPU: {ID: "docker_cpu_total_usage", Label: "CPU", Format: "percent", Priority: 1},
		topology.MetricMem: {ID: "docker_memory_usage", Label: "Memory", Format: "filesize", Priority: 2},
	},
	topology.KindProcess: {
		topology.MetricCPU: {ID: "process_cpu_usage_percent", Label: "CPU", Format: "percent", Priority: 1},
		topology.MetricMem: {ID: "process_memory_usage_bytes", Label: "Memory", Format: "filesize", Priority: 2},
		topology.MetricFds: {ID: "open_files_count", Label: "Open files", Format: "integer", Priority: 3},
	},
}

var formats = map[string]string{
	topology.FormatPercent: "percent", topology.FormatBytes: "filesize", topology.FormatRate: "filesize", topology.FormatCount: "",
}

// twoDigits cuts a number as Scope does.
func twoDigits(v float64) float64 { return math.Trunc(v*100) / 100 }

func (f *fact) metrics() []metricRow {
	var out []metricRow
	for _, n := range f.numbers {
		row, ok := scopeMetrics[f.kind][n.id]
		if !ok {
			if n.id == topology.MetricThreads || n.id == topology.MetricMemLimit || n.metric.ID == "" {
				continue // metadata, and the other one's maximum
			}
			row = metricRow{ID: n.id, Label: n.metric.Label, Format: formats[n.metric.Format], Priority: 100}
		}
		row.Value, row.Max = twoDigits(n.value), n.max
		for i, v := range n.samples {
			if v == v {
				row.Samples = append(row.Samples, sample{time.UnixMilli(n.from + int64(i)*15_000).UTC(), twoDigits(v)})
			}
		}
		out = append(out, row)
	}
	slices.SortStableFunc(out, func(a, b metricRow) int { return cmp.Compare(a.Priority, b.Priority) })
	return out
}

// propertyList makes a table of names and values.
func propertyList(id, label string, pairs [][2]string) table {
	t := table{ID: id, Label: label, Type: "property-list"}
	slices.SortFunc(pairs, func(a, b [2]string) int { return cmp.Compare(a[0], b[0]) })
	for _, p := range pairs {
		t.Rows = append(t.Rows, tableRow{ID: "label_" + p[0], Entries: map[string]string{"label": p[0], "value": p[1]}})
	}
	return t
}

// tables gives the labels, for containers what is known of the image, and what plugins have brought. Tables without rows are
// left out.
func (f *fact) allTables() []table {
	var out []table
	var labels [][2]string
	for _, a := range f.attrs {
		if name, ok := strings.CutPrefix(a.Key, topology.AttrLabel); ok {
			labels = append(labels, [2]string{name, a.Value})
		}
	}
	if len(labels) > 0 {
		if f.kind == topology.KindContainer {
			out = append(out, propertyList("docker_label_", "Docker labels", labels))
		} else {
			out = append(out, propertyList("kubernetes_labels_", "Kubernetes labels", labels))
		}
	}
	if name, tag := splitImage(f.attr(topology.AttrImage)); f.kind == topology.KindContainer && name != "" {
		pairs := [][2]string{{" Name", name}}
		if tag != "" {
			pairs = append(pairs, [2]string{" Tag", tag})
		}
		out = append(out, propertyList("image_table", "Image", pairs))
	}
	for _, t := range f.tables {
		x := table{ID: t.ID, Label: t.Label, Type: "multicolumn-table"}
		for i, c := range t.Columns {
			x.Columns = append(x.Columns, column{ID: "c" + strconv.Itoa(i), Label: c})
		}
		for i, cells := range t.Rows {
			row := tableRow{ID: strconv.Itoa(i), Entries: map[string]string{}}
			for j, cell := range cells {
				row.Entries["c"+strconv.Itoa(j)] = cell
			}
			x.Rows = append(x.Rows, row)
		}
		out = append(out, x)
	}
	return out
}

// summary puts a node's row together, but for its adjacency.
func (n *node) summary(at int64) summary {
	s := summary{basic: n.title(), Metadata: n.metadata(at), Parents: n.hosts}
	if f := n.fact; f != nil {
		s.Parents, s.Metrics, s.Tables = f.parents, f.metrics(), f.allTables()
	}
	if n.only != nil && n.members == 1 && len(s.Metrics) == 0 && n.topology != topoImage && !strings.HasPrefix(n.topology, "group:") {
		s.Metrics = n.only.metrics() // what a pod of one container uses is what that uses
	}
	return s
}

var seed = maphash.MakeSeed()

// encode writes the rows of a picture, once, whoever asks first.
func (p *picture) encode() {
	p.once.Do(func() {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		for _, n := range p.nodes {
			buf.Reset()
			if err := enc.Encode(n.summary(p.at)); err != nil {
				panic(err) // strings and finite numbers only
			}
			n.row = bytes.Clone(buf.Bytes()[:buf.Len()-len("}\n")])
			n.quoted, _ = json.Marshal(n.id) // a string can be written
			n.sum = maphash.Bytes(seed, n.row)
		}
	})
}

// idSum stands for a node's id in sums of adjacencies.
func (n *node) idSum() uint64 { return maphash.String(seed, n.id) }
