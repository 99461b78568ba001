package api

import (
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/metrics"
	"github.com/orchestrator/orchestrator/internal/resources"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// edgeMetrics are what the edge itself counts.
type edgeMetrics struct {
	requests         *metrics.Counter
	schedulerStreams *wire.StreamMetrics
	operatorStreams  *wire.StreamMetrics
}

func newEdgeMetrics(r *metrics.Registry) edgeMetrics {
	return edgeMetrics{
		requests:         r.Counter(metrics.Name{Prom: "orchestrator_master_http_requests_total", Help: "HTTP requests."}),
		schedulerStreams: wire.NewStreamMetrics(r.Registerer(), "master", "scheduler"),
		operatorStreams:  wire.NewStreamMetrics(r.Registerer(), "master", "operator"),
	}
}

// registerMetrics shows the published state under Mesos' names (facts 3.7).
func (s *Server) registerMetrics() {
	s.opts.Metrics.Source(func(emit func(metrics.Name, float64)) {
		g := gauges{emit: emit}
		g.value("uptime_secs", "uptime_seconds", s.opts.Now().Sub(s.opts.StartTime).Seconds())
		elected := 0.0
		if l := s.opts.Owner.Leadership(); l.Leading {
			elected = 1
		}
		g.value("elected", "elected", elected)
		s.mu.Lock()
		operators := len(s.operators)
		s.mu.Unlock()
		g.value("operator_event_stream_subscribers", "operator_streams", float64(operators))
		snap := s.opts.Owner.Snapshot()
		if snap == nil {
			return
		}
		s.clusterGauges(g, snap)
		s.counters(g, &snap.Counters)
		if s.opts.PublishFrameworkMetrics {
			snap.Frameworks.Scan(func(_ ids.Framework, f *core.FrameworkPage) bool {
				frameworkMetrics(emit, f)
				return true
			})
		}
	})
}

// gauges emits values of the component master.
type gauges struct {
	emit func(metrics.Name, float64)
}

// value emits one value; prom may be empty.
func (g gauges) value(mesos, prom string, v float64, labels ...string) {
	n := metrics.Name{Mesos: "master/" + mesos, Labels: labels, Help: "See docs/reference/metrics.md: " + mesos + "."}
	if prom != "" {
		n.Prom = "orchestrator_master_" + prom
		n.Help = promHelp(prom)
	} else {
		n.Labels = nil
	}
	g.emit(n, v)
}

// promHelp gives all values of one Prometheus name the same help, which the format demands.
func promHelp(name string) string {
	return strings.ToUpper(name[:1]) + strings.ReplaceAll(name[1:], "_", " ") + "."
}

func (g gauges) count(mesos, prom string, n uint64, labels ...string) {
	if prom != "" {
		prom += "_total"
	}
	g.value(mesos, prom, float64(n), labels...)
}

// liveStates are the states of tasks that master/tasks_<state> gives as a gauge; the others count up.
var liveStates = []mesosv1.TaskState{
	mesosv1.TaskState_TASK_STAGING, mesosv1.TaskState_TASK_STARTING, mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskState_TASK_KILLING,
	mesosv1.TaskState_TASK_UNREACHABLE,
}

var endStates = []mesosv1.TaskState{
	mesosv1.TaskState_TASK_FINISHED, mesosv1.TaskState_TASK_FAILED, mesosv1.TaskState_TASK_KILLED, mesosv1.TaskState_TASK_LOST,
	mesosv1.TaskState_TASK_ERROR, mesosv1.TaskState_TASK_DROPPED, mesosv1.TaskState_TASK_GONE, mesosv1.TaskState_TASK_GONE_BY_OPERATOR,
}

func stateName(st mesosv1.TaskState) string {
	return strings.ToLower(strings.TrimPrefix(st.String(), "TASK_"))
}

// clusterGauges counts agents, frameworks, tasks, offers and resources.
func (s *Server) clusterGauges(g gauges, snap *core.Snapshot) {
	var active, inactive, connected, disconnected, offers int
	var total, used [2][len(baseNames)]resources.Amount // by revocable
	add := func(sum *[2][len(baseNames)]resources.Amount, r resources.Resources) {
		for revocable, part := range []resources.Resources{r.NonRevocable(), r.Revocable()} {
			for i, name := range baseNames {
				sum[revocable][i] += part.Quantity(name)
			}
		}
	}
	snap.Agents.Scan(func(_ ids.Agent, a *core.AgentPage) bool {
		if a.Active {
			active++
		} else {
			inactive++
		}
		if a.Connected {
			connected++
		} else {
			disconnected++
		}
		offers += len(a.Offers)
		if a.Active {
			add(&total, a.Total)
		}
		return true
	})
	var fActive, fInactive, fConnected, fDisconnected int
	var states [32]int
	snap.Frameworks.Scan(func(_ ids.Framework, f *core.FrameworkPage) bool {
		if f.Active {
			fActive++
		} else {
			fInactive++
		}
		if f.Connected {
			fConnected++
		} else {
			fDisconnected++
		}
		if f.Tasks != nil {
			f.Tasks.Scan(func(_ ids.Task, t *core.TaskPage) bool {
				states[int(t.State())&31]++
				return true
			})
		}
		if f.UnreachableTasks != nil {
			states[mesosv1.TaskState_TASK_UNREACHABLE] += f.UnreachableTasks.Len()
		}
		for _, r := range s.state.usedBy(f, &wire.Pace{}) {
			add(&used, r)
		}
		return true
	})
	g.value("slaves_active", "agents", float64(active), "state", "active")
	g.value("slaves_inactive", "agents", float64(inactive), "state", "inactive")
	g.value("slaves_connected", "agent_connections", float64(connected), "state", "connected")
	g.value("slaves_disconnected", "agent_connections", float64(disconnected), "state", "disconnected")
	g.value("slaves_unreachable", "agents", float64(snap.UnreachableAgents.Len()), "state", "unreachable")
	g.value("frameworks_active", "frameworks", float64(fActive), "state", "active")
	g.value("frameworks_inactive", "frameworks", float64(fInactive), "state", "inactive")
	g.value("frameworks_connected", "framework_connections", float64(fConnected), "state", "connected")
	g.value("frameworks_disconnected", "framework_connections", float64(fDisconnected), "state", "disconnected")
	g.value("outstanding_offers", "outstanding_offers", float64(offers))
	for _, st := range liveStates {
		g.value("tasks_"+stateName(st), "tasks", float64(states[st]), "state", stateName(st))
	}
	for revocable, suffix := range []string{"", "_revocable"} {
		kind := []string{"regular", "revocable"}[revocable]
		for i, name := range baseNames {
			t, u := total[revocable][i].Float(), used[revocable][i].Float()
			percent := 0.0
			if t > 0 {
				percent = u / t
			}
			g.value(name+suffix+"_total", "resources", t, "resource", name, "kind", kind, "of", "total")
			g.value(name+suffix+"_used", "resources", u, "resource", name, "kind", kind, "of", "used")
			g.value(name+suffix+"_percent", "", percent)
		}
	}
}

// counters emits the core's totals. Names that the core has not counted yet are shown as 0, since tools look them up.
func (s *Server) counters(g gauges, c *core.Counters) {
	for _, m := range messageNames {
		g.count("messages_"+m, "messages", c.MessagesByCall[m], "type", m)
	}
	for m, n := range c.MessagesByCall {
		if !knownMessage[m] {
			g.count("messages_"+m, "messages", n, "type", m)
		}
	}
	for _, st := range endStates {
		g.count("tasks_"+stateName(st), "tasks_ended", c.TasksByState[st], "state", stateName(st))
	}
	for cause, n := range c.TasksBySourceReason {
		g.count("task_"+stateName(cause.State)+"/"+strings.ToLower(cause.Source.String())+"/"+strings.ToLower(cause.Reason.String()), "", n)
	}
	g.count("slave_registrations", "agent_registrations", c.AgentRegistrations)
	g.count("slave_reregistrations", "agent_reregistrations", c.AgentReregistrations)
	g.count("slave_removals", "agent_removals", c.AgentRemovals)
	g.count("slave_removals/reason_registered", "", c.AgentRemovalsRegistered)
	g.count("slave_removals/reason_unhealthy", "", c.AgentRemovalsUnhealthy)
	g.count("slave_removals/reason_unregistered", "", c.AgentRemovalsUnregistered)
	g.count("slave_unreachable_scheduled", "agent_unreachable_scheduled", c.AgentUnreachableScheduled)
	g.count("slave_unreachable_completed", "agent_unreachable_completed", c.AgentUnreachableCompleted)
	g.count("slave_unreachable_canceled", "agent_unreachable_canceled", c.AgentUnreachableCanceled)
	g.count("slave_shutdowns_scheduled", "", c.AgentUnreachableScheduled)
	g.count("slave_shutdowns_completed", "", c.AgentUnreachableCompleted)
	g.count("slave_shutdowns_canceled", "", c.AgentUnreachableCanceled)
	g.count("recovery_slave_removals", "recovery_agent_removals", c.RecoveryAgentRemovals)
	g.count("valid_status_updates", "status_updates", c.ValidUpdates, "valid", "true")
	g.count("invalid_status_updates", "status_updates", c.InvalidUpdates, "valid", "false")
	g.count("valid_status_update_acknowledgements", "acknowledgements", c.ValidAcks, "valid", "true")
	g.count("invalid_status_update_acknowledgements", "acknowledgements", c.InvalidAcks, "valid", "false")
	g.count("valid_framework_to_executor_messages", "framework_messages", c.ValidMessages, "valid", "true")
	g.count("invalid_framework_to_executor_messages", "framework_messages", c.InvalidMessages, "valid", "false")
	g.count("valid_executor_to_framework_messages", "executor_messages", c.ValidExecutorMessages, "valid", "true")
	g.count("invalid_executor_to_framework_messages", "executor_messages", c.InvalidExecutorMessages, "valid", "false")
	g.count("dropped_messages", "dropped_messages", c.DroppedMessages)
	g.count("", "offers_sent", c.OffersSent)
	for op, n := range c.OperationsByType {
		g.count("operations/"+strings.ToLower(op), "operations", n, "type", strings.ToLower(op))
	}
	g.emit(metrics.Name{
		Mesos: "allocator/mesos/allocation_runs", Prom: "orchestrator_master_allocation_runs_total", Help: "Allocation runs.",
	}, float64(c.AllocationRuns))
	for _, name := range []string{"event_queue_dispatches", "event_queue_http_requests", "event_queue_messages"} {
		g.value(name, "", 0)
	}
}

// messageNames are the messages that tools look for (facts 3.7).
var messageNames = []string{
	"accept", "accept_inverse_offers", "acknowledge_operation_status", "authenticate", "deactivate_framework", "decline_inverse_offers", "decline_offers",
	"executor_to_framework", "exited_executor", "framework_to_executor", "kill_task", "launch_tasks", "operation_status_update_acknowledgement",
	"reconcile_operations", "reconcile_tasks", "register_framework", "register_slave", "reregister_framework", "reregister_slave", "resource_request",
	"revive_offers", "status_update", "status_update_acknowledgement", "suppress_offers", "unregister_framework", "unregister_slave", "update_slave",
}

var knownMessage = func() map[string]bool {
	out := map[string]bool{}
	for _, m := range messageNames {
		out[m] = true
	}
	return out
}()

// frameworkMetrics emits a framework's own metrics, under Mesos' names only.
func frameworkMetrics(emit func(metrics.Name, float64), f *core.FrameworkPage) {
	escaped := strings.NewReplacer("%", "%25", "/", "%2F").Replace(f.Info.GetName())
	prefix := "frameworks/" + escaped + "/" + string(f.ID) + "/"
	value := func(name string, v float64) { emit(metrics.Name{Mesos: prefix + name}, v) }
	subscribed := 0.0
	if f.Connected {
		subscribed = 1
	}
	value("subscribed", subscribed)
	family := func(name string, m map[string]uint64) {
		var sum uint64
		for k, n := range m {
			value(name+"/"+strings.ToLower(k), float64(n))
			sum += n
		}
		value(name, float64(sum))
	}
	c := &f.Counters
	family("calls", c.Calls)
	family("events", c.Events)
	family("operations", c.Operations)
	value("offers/sent", float64(c.OffersSent))
	value("offers/accepted", float64(c.OffersAccepted))
	value("offers/declined", float64(c.OffersDeclined))
	value("offers/rescinded", float64(c.OffersRescinded))
	var active [32]int
	if f.Tasks != nil {
		f.Tasks.Scan(func(_ ids.Task, t *core.TaskPage) bool {
			active[int(t.State())&31]++
			return true
		})
	}
	for _, st := range liveStates {
		value("tasks/active/"+strings.ToLower(st.String()), float64(active[st]))
	}
	for _, st := range endStates {
		value("tasks/terminal/"+strings.ToLower(st.String()), float64(c.TerminalTasks[st]))
	}
	suppressed := map[string]bool{}
	for _, r := range f.SuppressedRoles {
		suppressed[r] = true
	}
	for _, r := range f.Roles {
		v := 0.0
		if suppressed[r] {
			v = 1
		}
		value("roles/"+strings.NewReplacer("%", "%25", "/", "%2F").Replace(r)+"/suppressed", v)
	}
}
