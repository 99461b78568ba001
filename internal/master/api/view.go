package api

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	allocatorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/allocator"
	maintenancev1 "github.com/orchestrator/orchestrator/api/mesos/v1/maintenance"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	quotav1 "github.com/orchestrator/orchestrator/api/mesos/v1/quota"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/resources"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// What a principal may see, named as in Mesos' ACLs. The object of the first three is a user, of the last a role.
const (
	actionViewFrameworks core.Action = "view_frameworks"
	actionViewTasks      core.Action = "view_tasks"
	actionViewExecutors  core.Action = "view_executors"
	actionViewRoles      core.Action = "view_roles"
	actionViewFlags      core.Action = "view_flags"
	actionSetLogLevel    core.Action = "set_log_level"
	actionGetQuotas      core.Action = "get_quotas"
	actionGetSchedules   core.Action = "get_maintenance_schedules"
	actionGetStatuses    core.Action = "get_maintenance_statuses"
	actionMesosLogs      core.Action = "access_mesos_logs"
)

// view is a snapshot as one principal sees it. It is used by one goroutine.
type view struct {
	s         *Server
	snap      *core.Snapshot
	principal string
	used      map[ids.Agent]resources.Resources // by agent, over all frameworks; made when asked for
	pace      *wire.Pace                        // at which it is written; another than the zero one where it is for many
}

func (s *Server) viewOf(snap *core.Snapshot, principal string) *view {
	return &view{s: s, snap: snap, principal: principal, pace: &wire.Pace{}}
}

// all reports whether the principal sees everything, which is the case without an authorizer.
func (v *view) all() bool { return v.s.opts.Authorizer == nil }

func (v *view) framework(f *core.FrameworkPage) bool {
	return v.all() || v.s.may(v.principal, actionViewFrameworks, f.Info.GetUser())
}

func (v *view) task(f *core.FrameworkPage, t *core.TaskPage) bool {
	if v.all() {
		return true
	}
	user := t.User()
	if user == "" {
		user = f.Info.GetUser()
	}
	return v.s.may(v.principal, actionViewTasks, user)
}

func (v *view) executor(f *core.FrameworkPage, x core.ExecutorPage) bool {
	if v.all() {
		return true
	}
	user := x.Info.GetCommand().GetUser()
	if user == "" {
		user = f.Info.GetUser()
	}
	return v.s.may(v.principal, actionViewExecutors, user)
}

func (v *view) role(role string) bool {
	return v.all() || v.s.may(v.principal, actionViewRoles, role)
}

// frameworks yields the live frameworks that may be seen, then, when asked, the completed ones.
func (v *view) frameworks(completed bool) func(yield func(*core.FrameworkPage) bool) {
	return func(yield func(*core.FrameworkPage) bool) {
		more := true
		v.snap.Frameworks.Scan(func(_ ids.Framework, f *core.FrameworkPage) bool {
			if v.framework(f) {
				more = yield(f)
			}
			return more
		})
		if !completed || !more {
			return
		}
		for _, f := range v.snap.CompletedFrameworks {
			if v.framework(f) && !yield(f) {
				return
			}
		}
	}
}

// usedOn is what all frameworks' tasks and executors use on the agent.
func (v *view) usedOn(agent ids.Agent) resources.Resources {
	if v.used == nil {
		v.used = map[ids.Agent]resources.Resources{}
		v.snap.Frameworks.Scan(func(_ ids.Framework, f *core.FrameworkPage) bool {
			for a, r := range v.s.state.usedBy(f, v.pace) {
				v.used[a] = v.used[a].Add(r)
			}
			return true
		})
	}
	return v.used[agent]
}

// state is GET_STATE's answer.
func (v *view) state() *masterv1.Response_GetState {
	return &masterv1.Response_GetState{GetTasks: v.tasks(), GetExecutors: v.executors(), GetFrameworks: v.getFrameworks(), GetAgents: v.agents()}
}

func (v *view) tasks() *masterv1.Response_GetTasks {
	out := &masterv1.Response_GetTasks{}
	for f := range v.frameworks(true) {
		keep := func(dst *[]*mesosv1.Task) func(ids.Task, *core.TaskPage) bool {
			return func(_ ids.Task, t *core.TaskPage) bool {
				if v.task(f, t) {
					*dst = append(*dst, t.Proto())
				}
				return true
			}
		}
		if f.Tasks != nil {
			f.Tasks.Scan(keep(&out.Tasks))
		}
		if f.UnreachableTasks != nil {
			f.UnreachableTasks.Scan(keep(&out.UnreachableTasks))
		}
		for _, t := range f.CompletedTasks {
			keep(&out.CompletedTasks)("", t)
		}
	}
	return out
}

func (v *view) executors() *masterv1.Response_GetExecutors {
	out := &masterv1.Response_GetExecutors{}
	for f := range v.frameworks(false) {
		for _, x := range f.Executors {
			if v.executor(f, x) {
				out.Executors = append(out.Executors, &masterv1.Response_GetExecutors_Executor{
					ExecutorInfo: x.Info, AgentId: &mesosv1.AgentID{Value: proto.String(string(x.Agent))},
				})
			}
		}
	}
	return out
}

func (v *view) getFrameworks() *masterv1.Response_GetFrameworks {
	out := &masterv1.Response_GetFrameworks{}
	for f := range v.frameworks(false) {
		out.Frameworks = append(out.Frameworks, f.Proto())
	}
	for _, f := range v.snap.CompletedFrameworks {
		if v.framework(f) {
			out.CompletedFrameworks = append(out.CompletedFrameworks, f.Proto())
		}
	}
	return out
}

func (v *view) agents() *masterv1.Response_GetAgents {
	out := &masterv1.Response_GetAgents{}
	v.snap.Agents.Scan(func(id ids.Agent, a *core.AgentPage) bool {
		out.Agents = append(out.Agents, a.Proto(v.usedOn(id)))
		return true
	})
	v.snap.RecoveredAgents.Scan(func(_ ids.Agent, a *mesosv1.AgentInfo) bool {
		out.RecoveredAgents = append(out.RecoveredAgents, a)
		return true
	})
	return out
}

func (v *view) operations() *masterv1.Response_GetOperations {
	out := &masterv1.Response_GetOperations{}
	v.snap.Agents.Scan(func(_ ids.Agent, a *core.AgentPage) bool {
		out.Operations = append(out.Operations, a.Operations...)
		return true
	})
	return out
}

// roleView is what is known of one role.
type roleView struct {
	name       string
	weight     float64
	quota      *quotav1.QuotaConfig
	frameworks []ids.Framework
	allocated  resources.Resources
	offered    resources.Resources
	reserved   resources.Resources
}

// roles are the roles that anything is known of, sorted by name: subscribed to, used, reserved for, or with a weight or quota.
func (v *view) roles() []*roleView {
	all := map[string]*roleView{}
	get := func(name string) *roleView {
		r := all[name]
		if r == nil {
			r = &roleView{name: name, weight: 1}
			all[name] = r
		}
		return r
	}
	v.snap.Frameworks.Scan(func(id ids.Framework, f *core.FrameworkPage) bool {
		for _, role := range f.Roles {
			r := get(role)
			r.frameworks = append(r.frameworks, id)
		}
		for _, used := range v.s.state.usedBy(f, v.pace) {
			for role, res := range used.Allocations() {
				r := get(role)
				r.allocated = r.allocated.Add(res)
			}
		}
		for _, o := range f.Offers {
			r := get(o.Role)
			r.offered = r.offered.Add(o.Resources)
		}
		return true
	})
	v.snap.Agents.Scan(func(_ ids.Agent, a *core.AgentPage) bool {
		for role, res := range a.Total.Reservations() {
			r := get(role)
			r.reserved = r.reserved.Add(res)
		}
		return true
	})
	for role, w := range v.snap.Weights {
		get(role).weight = w
	}
	for role, q := range v.snap.Quotas {
		get(role).quota = q
	}
	names := slices.Sorted(maps.Keys(all))
	out := make([]*roleView, 0, len(names))
	for _, name := range names {
		if v.role(name) {
			out = append(out, all[name])
		}
	}
	return out
}

func (v *view) getRoles() *masterv1.Response_GetRoles {
	out := &masterv1.Response_GetRoles{}
	for _, r := range v.roles() {
		role := &mesosv1.Role{
			Name: proto.String(r.name), Weight: proto.Float64(r.weight), Resources: r.allocated.Add(r.offered).Proto(),
		}
		for _, id := range r.frameworks {
			role.Frameworks = append(role.Frameworks, &mesosv1.FrameworkID{Value: proto.String(string(id))})
		}
		out.Roles = append(out.Roles, role)
	}
	return out
}

func (v *view) weights() []*mesosv1.WeightInfo {
	var out []*mesosv1.WeightInfo
	for _, role := range slices.Sorted(maps.Keys(v.snap.Weights)) {
		if v.role(role) {
			out = append(out, &mesosv1.WeightInfo{Role: proto.String(role), Weight: proto.Float64(v.snap.Weights[role])})
		}
	}
	return out
}

func (v *view) quotaStatus() *quotav1.QuotaStatus {
	out := &quotav1.QuotaStatus{}
	for _, role := range slices.Sorted(maps.Keys(v.snap.Quotas)) {
		if !v.all() && !v.s.may(v.principal, actionGetQuotas, role) {
			continue
		}
		q := v.snap.Quotas[role]
		out.Configs = append(out.Configs, q)
		// The deprecated form: guarantees as resources.
		info := &quotav1.QuotaInfo{Role: proto.String(role)}
		for _, name := range slices.Sorted(maps.Keys(q.GetGuarantees())) {
			info.Guarantee = append(info.Guarantee, &mesosv1.Resource{
				Name: proto.String(name), Type: mesosv1.Value_SCALAR.Enum(), Scalar: q.GetGuarantees()[name],
			})
		}
		out.Infos = append(out.Infos, info)
	}
	return out
}

func (v *view) schedule() *maintenancev1.Schedule {
	if v.snap.Schedule == nil || !v.all() && !v.s.may(v.principal, actionGetSchedules, "") {
		return &maintenancev1.Schedule{}
	}
	return v.snap.Schedule
}

// maintenance is the status of the machines that are draining or down, with the frameworks' answers to inverse offers.
func (v *view) maintenance() *maintenancev1.ClusterStatus {
	out := &maintenancev1.ClusterStatus{}
	if !v.all() && !v.s.may(v.principal, actionGetStatuses, "") {
		return out
	}
	for _, m := range v.snap.Machines {
		switch m.GetMode() {
		case mesosv1.MachineInfo_DOWN:
			out.DownMachines = append(out.DownMachines, m.GetId())
		case mesosv1.MachineInfo_DRAINING:
			out.DrainingMachines = append(out.DrainingMachines, &maintenancev1.ClusterStatus_DrainingMachine{
				Id: m.GetId(), Statuses: v.inverseStatuses(m.GetId()),
			})
		}
	}
	return out
}

func (v *view) inverseStatuses(machine *mesosv1.MachineID) []*allocatorv1.InverseOfferStatus {
	var out []*allocatorv1.InverseOfferStatus
	for _, st := range v.snap.InverseInfo {
		a, ok := v.snap.Agents.Get(st.Agent)
		if !ok || machine.GetHostname() != "" && machine.GetHostname() != a.Info.GetHostname() ||
			machine.GetIp() != "" && machine.GetIp() != hostOf(a.Address) {
			continue
		}
		status := allocatorv1.InverseOfferStatus_DECLINE
		if st.Accepted {
			status = allocatorv1.InverseOfferStatus_ACCEPT
		}
		out = append(out, &allocatorv1.InverseOfferStatus{
			Status: status.Enum(), FrameworkId: &mesosv1.FrameworkID{Value: proto.String(string(st.Framework))}, Timestamp: timeInfo(st.Time),
		})
	}
	return out
}

func timeInfo(t time.Time) *mesosv1.TimeInfo {
	return &mesosv1.TimeInfo{Nanoseconds: proto.Int64(t.UnixNano())}
}
