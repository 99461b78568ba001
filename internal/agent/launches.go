package agent

import (
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// Stages implements containerizer.Timed for those that are.
func (p policed) Stages(id ids.Container) []containerizer.Stage {
	if t, ok := p.Containerizer.(containerizer.Timed); ok {
		return t.Stages(id)
	}
	return nil
}

// launchesEndpoint is GET /monitor/launches, our own: how long each stage of the launch of every held container took.
func (a *Agent) launchesEndpoint(w http.ResponseWriter, r *http.Request) {
	if !a.may(w, r, "get_endpoints", "/monitor/statistics") {
		return
	}
	var out writer
	out.BeginArray()
	for _, info := range a.boxes.boxes.Containers() {
		if want := r.URL.Query().Get("container_id"); want != "" && want != string(info.ID) {
			continue
		}
		stages := policedStages(a.boxes.boxes, info.ID)
		if len(stages) == 0 {
			continue
		}
		out.BeginObject()
		out.Key("container_id").String(string(info.ID))
		out.Key("framework_id").String(string(info.FrameworkID))
		out.Key("executor_id").String(string(info.ExecutorID))
		out.Key("stages")
		out.BeginArray()
		for _, s := range stages {
			out.BeginObject()
			out.Key("name").String(s.Name)
			out.Key("seconds").Float(s.Took.Seconds())
			out.EndObject()
		}
		out.EndArray()
		out.EndObject()
	}
	out.EndArray()
	wire.RespondJSON(w, r, out.Buf)
}

func policedStages(c containerizer.Containerizer, id ids.Container) []containerizer.Stage {
	if t, ok := c.(containerizer.Timed); ok {
		return t.Stages(id)
	}
	return nil
}

// containerCollector measures the containers of executors when Prometheus asks: no more of them than the limit, because each
// is a series of its own for every figure.
type containerCollector struct {
	a     *Agent
	limit int

	cpu, memory, limitOf, disk, processes, network, left *prometheus.Desc
}

func newContainerCollector(a *Agent, limit int) *containerCollector {
	desc := func(name, help string, more ...string) *prometheus.Desc {
		return prometheus.NewDesc("orchestrator_agent_container_"+name, help, append([]string{"framework_id", "executor_id", "container_id"}, more...), nil)
	}
	return &containerCollector{
		a: a, limit: limit,
		cpu:       desc("cpu_seconds_total", "CPU time that a container has used.", "mode"),
		memory:    desc("memory_bytes", "Memory that a container uses, its share of the page cache included."),
		limitOf:   desc("memory_limit_bytes", "Memory that a container may use."),
		disk:      desc("disk_bytes", "Disk that a container's sandbox uses."),
		processes: desc("processes", "Processes of a container."),
		network:   desc("network_bytes_total", "Bytes through the interfaces of a container in a network of its own.", "direction"),
		left:      prometheus.NewDesc("orchestrator_agent_containers_unmeasured", "Running containers that are not measured here, because there are more than --container_metrics_limit.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *containerCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.cpu, c.memory, c.limitOf, c.disk, c.processes, c.network, c.left} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *containerCollector) Collect(ch chan<- prometheus.Metric) {
	v := c.a.freshView()
	if v == nil {
		return
	}
	list := c.a.executorContainers(v)
	measured := list[:min(len(list), c.limit)]
	for _, x := range measured {
		s, err := c.a.boxes.boxes.Usage(x.info.ID)
		if err != nil {
			continue // it has just ended
		}
		c.emit(ch, s, string(x.ex.Run.Framework), string(x.ex.Run.Executor), string(x.info.ID))
	}
	ch <- prometheus.MustNewConstMetric(c.left, prometheus.GaugeValue, float64(len(list)-len(measured)))
}

func (c *containerCollector) emit(ch chan<- prometheus.Metric, s *mesosv1.ResourceStatistics, labels ...string) {
	with := func(more ...string) []string { return append(append([]string(nil), labels...), more...) }
	gauge := func(d *prometheus.Desc, v *uint64) {
		if v != nil {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(*v), with()...)
		}
	}
	if s.CpusUserTimeSecs != nil && s.CpusSystemTimeSecs != nil {
		ch <- prometheus.MustNewConstMetric(c.cpu, prometheus.CounterValue, s.GetCpusUserTimeSecs(), with("user")...)
		ch <- prometheus.MustNewConstMetric(c.cpu, prometheus.CounterValue, s.GetCpusSystemTimeSecs(), with("system")...)
	}
	if s.MemTotalBytes != nil {
		gauge(c.memory, s.MemTotalBytes)
	} else {
		gauge(c.memory, s.MemRssBytes) // where no control group counts
	}
	gauge(c.limitOf, s.MemLimitBytes)
	gauge(c.disk, s.DiskUsedBytes)
	if s.Processes != nil {
		ch <- prometheus.MustNewConstMetric(c.processes, prometheus.GaugeValue, float64(s.GetProcesses()), with()...)
	}
	if s.NetRxBytes != nil && s.NetTxBytes != nil {
		ch <- prometheus.MustNewConstMetric(c.network, prometheus.CounterValue, float64(s.GetNetRxBytes()), with("in")...)
		ch <- prometheus.MustNewConstMetric(c.network, prometheus.CounterValue, float64(s.GetNetTxBytes()), with("out")...)
	}
}

// pruneEndpoint is POST /sandboxes/prune, our own: it deletes the sandboxes of executors that ended longer ago than older_than
// (a duration such as 1hrs; without it, all of them), whatever the disk.
func (a *Agent) pruneEndpoint(w http.ResponseWriter, r *http.Request) {
	if !a.may(w, r, "prune_sandboxes", "") {
		return
	}
	if err := r.ParseForm(); err != nil {
		wire.Error(w, http.StatusBadRequest, "The form can't be read: "+err.Error())
		return
	}
	age := time.Duration(0)
	if text := r.Form.Get("older_than"); text != "" {
		var err error
		if age, err = config.ParseDuration(text); err != nil || age < 0 {
			err = errors.Join(err, errors.New("write a duration such as 1hrs"))
			wire.Error(w, http.StatusBadRequest, "older_than: "+err.Error())
			return
		}
	}
	deleted, failed := a.gc.prune(r.Context(), age)
	var out writer
	out.BeginObject()
	out.Key("deleted").Int(int64(deleted))
	out.Key("failed").Int(int64(failed))
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}
