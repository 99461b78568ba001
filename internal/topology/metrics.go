package topology

// Formats of metrics and attributes.
const (
	FormatPercent = "percent"
	FormatBytes   = "bytes"
	FormatRate    = "bytes_per_second"
	FormatCount   = "count"
	FormatMillis  = "ms"
)

// Metric says how a metric is named and shown.
type Metric struct {
	ID     string  `json:"id"`
	Label  string  `json:"label"`
	Format string  `json:"format"`
	Max    float64 `json:"max"`
}

// Names of the metrics that the probe's own collectors deliver.
const (
	MetricCPU       = "cpu"       // percent of all the host's cores
	MetricCPUCores  = "cpu_cores" // cores in use
	MetricThrottled = "throttled" // percent of the periods in which the CPU limit held it back
	MetricMem       = "mem"       // bytes, without the page cache
	MetricMemLimit  = "mem_limit"
	MetricMemUsed   = "mem_used" // percent of the limit (container) or of the memory (host)
	MetricNetRx     = "net_rx"
	MetricNetTx     = "net_tx"
	MetricDiskRead  = "disk_read"
	MetricDiskWrite = "disk_write"
	MetricPids      = "pids"
	MetricFds       = "fds"
	MetricThreads   = "threads"
	MetricLoad1     = "load1"
	MetricDiskUsed  = "disk_used" // percent of the root file system
)

var catalog = []Metric{
	{MetricCPU, "CPU", FormatPercent, 100},
	{MetricCPUCores, "CPU cores", FormatCount, 0},
	{MetricThrottled, "CPU throttled", FormatPercent, 100},
	{MetricMem, "Memory", FormatBytes, 0},
	{MetricMemUsed, "Memory used", FormatPercent, 100},
	{MetricMemLimit, "Memory limit", FormatBytes, 0},
	{MetricNetRx, "Network in", FormatRate, 0},
	{MetricNetTx, "Network out", FormatRate, 0},
	{MetricDiskRead, "Disk read", FormatRate, 0},
	{MetricDiskWrite, "Disk write", FormatRate, 0},
	{MetricPids, "Processes", FormatCount, 0},
	{MetricThreads, "Threads", FormatCount, 0},
	{MetricFds, "Open files", FormatCount, 0},
	{MetricLoad1, "Load (1 min)", FormatCount, 0},
	{MetricDiskUsed, "Disk used", FormatPercent, 100},
}

// Catalog lists the metrics that the probe's own collectors deliver, in the order in which they are shown.
func Catalog() []Metric { return append([]Metric(nil), catalog...) }

// CatalogFor lists the metrics that entities of a kind have.
func CatalogFor(kind string) []Metric {
	var out []Metric
	for _, m := range catalog {
		switch {
		case kind == KindHost && (m.ID == MetricThrottled || m.ID == MetricMemLimit || m.ID == MetricThreads):
		case kind != KindHost && (m.ID == MetricLoad1 || m.ID == MetricDiskUsed):
		case kind == KindProcess && (m.ID == MetricThrottled || m.ID == MetricMemLimit || m.ID == MetricNetRx || m.ID == MetricNetTx ||
			m.ID == MetricPids || m.ID == MetricMemUsed):
		case kind != KindProcess && kind != KindHost && m.ID == MetricThreads:
		default:
			out = append(out, m)
		}
	}
	return out
}

// MetricByID finds a metric in the catalog.
func MetricByID(id string) (Metric, bool) {
	for _, m := range catalog {
		if m.ID == id {
			return m, true
		}
	}
	return Metric{}, false
}
