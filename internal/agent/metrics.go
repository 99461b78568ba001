package agent

import (
	"strings"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/core"
	"github.com/orchestrator/orchestrator/internal/metrics"
	"github.com/orchestrator/orchestrator/internal/resources"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// agentMetrics are what the shell counts; the rest is read from the last view.
type agentMetrics struct {
	commit         *metrics.Timer
	commitErrors   *metrics.Counter
	launches       *metrics.Timer
	pings          *metrics.Counter
	recoveryErrors *metrics.Counter
	gcDone         *metrics.Counter
	gcFailed       *metrics.Counter
	streams        *wire.StreamMetrics
}

func newMetrics(a *Agent) *agentMetrics {
	r := a.deps.Metrics
	m := &agentMetrics{
		commit:         r.Timer(metrics.Name{Prom: "orchestrator_agent_checkpoint_commit_seconds", Help: "Time of a durable batch."}),
		commitErrors:   r.Counter(metrics.Name{Prom: "orchestrator_agent_checkpoint_errors_total", Help: "Batches that could not be made durable."}),
		launches:       r.Timer(metrics.Name{Prom: "orchestrator_agent_container_launch_seconds", Help: "Time from the decision to the started container."}),
		pings:          r.Counter(metrics.Name{Prom: "orchestrator_agent_pings_total", Help: "Pings of the master that were answered."}),
		recoveryErrors: r.Counter(metrics.Name{Mesos: "slave/recovery_errors", Prom: "orchestrator_agent_recovery_errors_total", Help: "Records of the checkpoint that could not be read."}),
		gcDone:         r.Counter(metrics.Name{Mesos: "gc/path_removals_succeeded", Prom: "orchestrator_agent_sandboxes_deleted_total", Help: "Old sandboxes that were deleted."}),
		gcFailed:       r.Counter(metrics.Name{Mesos: "gc/path_removals_failed", Prom: "orchestrator_agent_sandbox_delete_errors_total", Help: "Old sandboxes that could not be deleted."}),
		streams:        wire.NewStreamMetrics(r.Registerer(), "agent", "executor"),
	}
	r.System()
	r.Registerer().MustRegister(newContainerCollector(a, a.cfg.MetricsLimit))
	r.GaugeFunc(metrics.Name{Mesos: "slave/uptime_secs"}, func() float64 { return time.Since(a.started).Seconds() })
	r.GaugeFunc(metrics.Name{Mesos: "slave/registered", Prom: "orchestrator_agent_registered", Help: "1 while a master holds this agent as registered."}, func() float64 {
		if a.link.connected.Load() {
			return 1
		}
		return 0
	})
	r.GaugeFunc(metrics.Name{Mesos: "gc/path_removals_pending", Prom: "orchestrator_agent_sandboxes_old", Help: "Sandboxes of ended executors."}, func() float64 {
		a.gc.mu.Lock()
		defer a.gc.mu.Unlock()
		return float64(len(a.gc.old))
	})
	r.GaugeFunc(metrics.Name{Mesos: "slave/executor_directory_max_allowed_age_secs"}, func() float64 { return a.gc.maxAge().Seconds() })
	r.Source(func(emit func(metrics.Name, float64)) {
		if v := a.freshView(); v != nil {
			emitView(v, emit)
		}
	})
	return m
}

// emitView shows what the core knows under Mesos' names (facts 3.7).
func emitView(v *core.View, emit func(metrics.Name, float64)) {
	one := func(name string, value float64) { emit(metrics.Name{Mesos: "slave/" + name}, value) }
	one("frameworks_active", float64(len(v.Frameworks)))
	for p := core.ExecutorRegistering; p <= core.ExecutorTerminated; p++ {
		emit(metrics.Name{Mesos: "slave/executors_" + p.String(), Prom: "orchestrator_agent_executors", Labels: []string{"phase", p.String()}, Help: "Executors."}, float64(v.Executors[p]))
	}
	one("executors_preempted", 0)
	for n, name := range mesosv1.TaskState_name {
		s := mesosv1.TaskState(n)
		short := strings.ToLower(strings.TrimPrefix(name, "TASK_"))
		if core.Terminal(s) {
			emit(metrics.Name{Mesos: "slave/tasks_" + short, Prom: "orchestrator_agent_tasks_ended_total", Labels: []string{"state", short}, Help: "Tasks that ended."}, float64(v.Counters.Terminal[s]))
			continue
		}
		switch s {
		case mesosv1.TaskState_TASK_STAGING, mesosv1.TaskState_TASK_STARTING, mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskState_TASK_KILLING:
			emit(metrics.Name{Mesos: "slave/tasks_" + short, Prom: "orchestrator_agent_tasks", Labels: []string{"state", short}, Help: "Tasks that have not ended."}, float64(v.Tasks[s]))
		}
	}
	for name, value := range map[string]uint64{
		"valid_status_updates": v.Counters.ValidUpdates, "invalid_status_updates": v.Counters.InvalidUpdates,
		"valid_framework_messages": v.Counters.ExecutorMessages, "invalid_framework_messages": v.Counters.DroppedMessages,
		"container_launch_errors": v.Counters.LaunchErrors,
	} {
		emit(metrics.Name{Mesos: "slave/" + name, Prom: "orchestrator_agent_" + name + "_total", Help: "See Mesos' slave/" + name + "."}, float64(value))
	}
	total, used := v.Total.NonRevocable(), v.Used.NonRevocable()
	revTotal, revUsed := resources.FromProtoTrusted(v.Revocable), v.Used.Revocable()
	for _, name := range []string{"cpus", "gpus", "mem", "disk"} {
		for _, k := range []struct {
			suffix      string
			total, used resources.Resources
		}{{"", total, used}, {"revocable_", revTotal, revUsed}} {
			t, u := k.total.Scalar(name), k.used.Scalar(name)
			percent := 0.0
			if t > 0 {
				percent = u / t
			}
			one(name+"_"+k.suffix+"total", t)
			one(name+"_"+k.suffix+"used", u)
			one(name+"_"+k.suffix+"percent", percent)
		}
	}
}
