package scope

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// Report is what one probe saw over a short time. A full report has everything; those between leave out what has not changed
// since, and a shortcut has a single change.
type Report struct {
	TS time.Time
	// Topologies are known by the name of their field: Endpoint, Process, Container, ContainerImage, Host, Pod…
	Topologies map[string]*Topology
	DNS        map[string]DNSRecord
	Plugins    []PluginSpec
	Window     time.Duration
	Shortcut   bool
	ID         string
}

// Names of the topologies that are read. Others are skipped.
const (
	Endpoint       = "Endpoint"
	Process        = "Process"
	Container      = "Container"
	ContainerImage = "ContainerImage"
	Host           = "Host"
	Pod            = "Pod"
	Service        = "Service"
	Deployment     = "Deployment"
	ReplicaSet     = "ReplicaSet"
	DaemonSet      = "DaemonSet"
	StatefulSet    = "StatefulSet"
	CronJob        = "CronJob"
	Job            = "Job"
	Namespace      = "Namespace"
)

// Names lists the topologies that are read.
func Names() []string {
	return []string{
		Endpoint, Process, Container, ContainerImage, Host, Pod, Service, Deployment, ReplicaSet, DaemonSet, StatefulSet, CronJob, Job, Namespace,
	}
}

// Unread lists the topologies of Scope's that are known and left out.
func Unread() []string {
	return []string{
		"ECSTask", "ECSService", "SwarmService", "Overlay", "PersistentVolume", "PersistentVolumeClaim", "StorageClass", "VolumeSnapshot", "VolumeSnapshotData",
	}
}

// canonical finds the name of a topology without regard to case, as readers of JSON in Go do.
func canonical(name string) (string, bool) {
	for _, n := range Names() {
		if strings.EqualFold(n, name) {
			return n, true
		}
	}
	return "", false
}

// Full reports whether this is everything that the probe knows. Only such a report says how its topologies are drawn.
func (r *Report) Full() bool {
	if r.Shortcut {
		return false
	}
	for _, t := range r.Topologies {
		if t.Shape != "" {
			return true
		}
	}
	return false
}

// MarshalJSON writes the report as Scope's app does.
func (r *Report) MarshalJSON() ([]byte, error) {
	out := map[string]any{"TS": r.TS, "DNS": r.DNS, "Window": r.Window, "Shortcut": r.Shortcut, "Plugins": r.Plugins, "ID": r.ID, "Sampling": struct{ Count, Total uint64 }{}}
	for _, name := range slices.Concat(Names(), Unread()) {
		if t := r.Topologies[name]; t != nil {
			out[name] = t
		} else {
			out[name] = struct{}{}
		}
	}
	return json.Marshal(out)
}

// Topology is the nodes of one kind, and how they are shown.
type Topology struct {
	Shape             string                      `json:"shape,omitempty"`
	Tag               string                      `json:"tag,omitempty"`
	Label             string                      `json:"label,omitempty"`
	LabelPlural       string                      `json:"label_plural,omitempty"`
	Nodes             map[string]*Node            `json:"nodes,omitempty"`
	Controls          map[string]Control          `json:"controls,omitempty"`
	MetadataTemplates map[string]MetadataTemplate `json:"metadata_templates,omitempty"`
	MetricTemplates   map[string]MetricTemplate   `json:"metric_templates,omitempty"`
	TableTemplates    map[string]TableTemplate    `json:"table_templates,omitempty"`
}

// Node is one thing. Everything in it can be merged with what another report says of the same thing.
type Node struct {
	ID        string              `json:"id,omitempty"`
	Topology  string              `json:"topology,omitempty"`
	Sets      map[string][]string `json:"sets,omitempty"`
	Adjacency []string            `json:"adjacency,omitempty"`
	Latest    map[string]Latest   `json:"latest,omitempty"`
	Metrics   map[string]Metric   `json:"metrics,omitempty"`
	Parents   map[string][]string `json:"parents,omitempty"`
}

// Latest is a value and when it was so: of two, the newer holds.
type Latest struct {
	Timestamp time.Time `json:"timestamp"`
	Value     string    `json:"value"`
}

// Value gives one of the node's latest values, or "".
func (n *Node) Value(key string) string { return n.Latest[key].Value }

// ActiveControls is the key under which a node lists the controls that it offers now, separated by semicolons.
const ActiveControls = "active_controls"

// CounterPrefix begins the keys of values that older senders had as counters.
const CounterPrefix = "count_"

// Offered lists the controls that the node offers now, sorted.
func (n *Node) Offered() []string {
	out := slices.DeleteFunc(strings.Split(n.Value(ActiveControls), ";"), func(s string) bool { return s == "" })
	slices.Sort(out)
	return slices.Compact(out)
}

// Metric is a figure's samples, in the order of time.
type Metric struct {
	Samples []Sample `json:"samples,omitempty"`
	Min     float64  `json:"min"`
	Max     float64  `json:"max"`
}

// Newest gives the last sample.
func (m *Metric) Newest() (Sample, bool) {
	if len(m.Samples) == 0 {
		return Sample{}, false
	}
	newest := m.Samples[0]
	for _, s := range m.Samples[1:] {
		if !s.Timestamp.Before(newest.Timestamp) {
			newest = s
		}
	}
	return newest, true
}

// Sample is a figure at a time.
type Sample struct {
	Timestamp time.Time `json:"date"`
	Value     float64   `json:"value"`
}

// Control is something that can be asked of nodes.
type Control struct {
	ID           string  `json:"id"`
	Human        string  `json:"human"`
	Icon         string  `json:"icon"`
	Confirmation string  `json:"confirmation,omitempty"`
	Rank         float64 `json:"rank"`
}

// MetadataTemplate says how a value is shown.
type MetadataTemplate struct {
	ID       string  `json:"id"`
	Label    string  `json:"label,omitempty"`
	Truncate float64 `json:"truncate,omitempty"`
	Datatype string  `json:"dataType,omitempty"`
	Priority float64 `json:"priority,omitempty"`
	From     string  `json:"from,omitempty"`
}

// MetricTemplate says how a figure is shown.
type MetricTemplate struct {
	ID       string  `json:"id"`
	Label    string  `json:"label,omitempty"`
	Format   string  `json:"format,omitempty"`
	Group    string  `json:"group,omitempty"`
	Priority float64 `json:"priority,omitempty"`
}

// TableTemplate makes a table out of the values whose keys begin with Prefix.
type TableTemplate struct {
	ID        string            `json:"id"`
	Label     string            `json:"label"`
	Prefix    string            `json:"prefix"`
	Type      string            `json:"type"`
	Columns   []Column          `json:"columns"`
	FixedRows map[string]string `json:"fixedRows"`
}

// Column is one of a table's.
type Column struct {
	ID       string `json:"id"`
	Label    string `json:"label"`
	DataType string `json:"dataType"`
}

// DNSRecord is what an address is called.
type DNSRecord struct {
	Forward []string `json:"forward,omitempty"`
	Reverse []string `json:"reverse,omitempty"`
}

// PluginSpec is a plugin's word about itself.
type PluginSpec struct {
	ID          string   `json:"id"`
	Label       string   `json:"label"`
	Description string   `json:"description,omitempty"`
	Interfaces  []string `json:"interfaces"`
	APIVersion  string   `json:"api_version,omitempty"`
	Status      string   `json:"status,omitempty"`
}
