package plugin

import (
	"fmt"
	"time"
)

// APIVersion is the version of the interface that this package speaks.
const APIVersion = "1"

// Formats of metrics.
const (
	FormatPercent  = "percent"
	FormatFilesize = "filesize" // bytes
	FormatInteger  = "integer"
	FormatDefault  = ""
)

// Types of metadata.
const (
	TypeText     = ""
	TypeNumber   = "number"
	TypeIP       = "ip"
	TypeTime     = "datetime" // RFC 3339
	TypeDuration = "duration" // seconds
)

// Report is the answer to GET /report. Plugins is filled in by Plugin.
type Report struct {
	Host      *Topology `json:"Host,omitempty"`
	Container *Topology `json:"Container,omitempty"`
	Process   *Topology `json:"Process,omitempty"`
	Pod       *Topology `json:"Pod,omitempty"`
	Plugins   []Spec    `json:"Plugins"`
}

// Spec says who the plugin is.
type Spec struct {
	ID          string   `json:"id"`
	Label       string   `json:"label"`
	Description string   `json:"description,omitempty"`
	Interfaces  []string `json:"interfaces"`
	APIVersion  string   `json:"api_version"`
}

// Topology holds nodes of one kind, by their ids (HostID, ContainerID, ProcessID, PodID), and says how what they carry is shown.
// All maps of templates and controls are by the id that is also inside.
type Topology struct {
	Nodes             map[string]Node             `json:"nodes"`
	Controls          map[string]Control          `json:"controls,omitempty"`
	MetricTemplates   map[string]MetricTemplate   `json:"metric_templates,omitempty"`
	MetadataTemplates map[string]MetadataTemplate `json:"metadata_templates,omitempty"`
	TableTemplates    map[string]TableTemplate    `json:"table_templates,omitempty"`
}

// Node is what the plugin adds to one host, container or process.
type Node struct {
	Metrics        map[string]Metric        `json:"metrics,omitempty"`
	Latest         map[string]Latest        `json:"latest,omitempty"`
	LatestControls map[string]LatestControl `json:"latestControls,omitempty"`
}

// Metric is a number that changes over time. Min and Max are the bounds that it may have, not those of the samples.
type Metric struct {
	Samples []Sample `json:"samples,omitempty"`
	Min     float64  `json:"min"`
	Max     float64  `json:"max"`
}

// Sample is one value of a metric.
type Sample struct {
	Date  time.Time `json:"date"`
	Value float64   `json:"value"`
}

// Latest is the value of an attribute, or of a cell of a table.
type Latest struct {
	Timestamp time.Time `json:"timestamp"`
	Value     string    `json:"value"`
}

// LatestControl says whether a control can be used on a node now.
type LatestControl struct {
	Timestamp time.Time   `json:"timestamp"`
	Value     ControlData `json:"value"`
}

// ControlData is the value of a LatestControl. A dead one is not shown.
type ControlData struct {
	Dead bool `json:"dead"`
}

// Control is something that can be done to nodes. Icon is a name of Font Awesome's; this monitor shows the text.
type Control struct {
	ID    string `json:"id"`
	Human string `json:"human"`
	Icon  string `json:"icon"`
	Rank  int    `json:"rank"`
}

// MetricTemplate says how a metric is shown.
type MetricTemplate struct {
	ID       string  `json:"id"`
	Label    string  `json:"label,omitempty"`
	Format   string  `json:"format,omitempty"`
	Priority float64 `json:"priority,omitempty"`
}

// MetadataTemplate says how an attribute is shown. Without one an attribute is not shown. From is "latest".
type MetadataTemplate struct {
	ID       string  `json:"id"`
	Label    string  `json:"label,omitempty"`
	DataType string  `json:"dataType,omitempty"`
	Priority float64 `json:"priority,omitempty"`
	From     string  `json:"from,omitempty"`
}

// TableTemplate makes the attributes whose keys begin with Prefix a table: of names and values, or, with Type TypeColumns, of
// columns, where the keys are made by Cell.
type TableTemplate struct {
	ID      string   `json:"id"`
	Label   string   `json:"label,omitempty"`
	Prefix  string   `json:"prefix"`
	Type    string   `json:"type,omitempty"`
	Columns []Column `json:"columns,omitempty"`
}

// TypeColumns is the type of a table with columns.
const TypeColumns = "multicolumn-table"

// Column is one column of a table.
type Column struct {
	ID       string `json:"id"`
	Label    string `json:"label,omitempty"`
	DataType string `json:"dataType,omitempty"`
}

// Request is the body of POST /control.
type Request struct {
	AppID       string            `json:"AppID"`
	NodeID      string            `json:"NodeID"`
	Control     string            `json:"Control"`
	ControlArgs map[string]string `json:"ControlArgs,omitempty"`
}

// Response answers a Request. ShortcutReport, when there is one, replaces what the last report said of the nodes in it at once,
// so that a control which has become useless disappears without waiting for the next report.
type Response struct {
	Error          string  `json:"error,omitempty"`
	ShortcutReport *Report `json:"shortcutReport,omitempty"`
}

// HostID is the node id of a host.
func HostID(hostname string) string { return hostname + ";<host>" }

// ContainerID is the node id of a container, by the full id that its runtime gave it.
func ContainerID(id string) string { return id + ";<container>" }

// ProcessID is the node id of a process.
func ProcessID(hostname string, pid int) string { return fmt.Sprintf("%s;%d", hostname, pid) }

// PodID is the node id of a Kubernetes pod, by its uid.
func PodID(uid string) string { return uid + ";<pod>" }

// Cell is the key of a cell of a table with columns.
func Cell(t TableTemplate, row, column string) string { return t.Prefix + row + "___" + column }

// Value makes an attribute's value of now.
func Value(v string) Latest { return Latest{Timestamp: time.Now(), Value: v} }

// Gauge makes a metric of one sample of now.
func Gauge(v, limit float64) Metric {
	return Metric{Samples: []Sample{{Date: time.Now(), Value: v}}, Max: limit}
}

// Live says that a control can be used now, or not.
func Live(usable bool) LatestControl {
	return LatestControl{Timestamp: time.Now(), Value: ControlData{Dead: !usable}}
}
