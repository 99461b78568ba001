package core

import (
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// terminal says whether a state is final (facts 1.8). UNREACHABLE and UNKNOWN are not: such a task may run on.
func terminal(state mesosv1.TaskState) bool {
	switch state {
	case mesosv1.TaskState_TASK_FINISHED, mesosv1.TaskState_TASK_FAILED, mesosv1.TaskState_TASK_KILLED,
		mesosv1.TaskState_TASK_LOST, mesosv1.TaskState_TASK_ERROR, mesosv1.TaskState_TASK_DROPPED,
		mesosv1.TaskState_TASK_GONE, mesosv1.TaskState_TASK_GONE_BY_OPERATOR:
		return true
	}
	return false
}

func timeInfo(t time.Time) *mesosv1.TimeInfo {
	return &mesosv1.TimeInfo{Nanoseconds: proto.Int64(t.UnixNano())}
}

// Used sums what the framework's tasks and executors hold, by agent.
func (p *FrameworkPage) Used() map[ids.Agent]resources.Resources {
	used := map[ids.Agent]resources.Resources{}
	p.Tasks.Scan(func(_ ids.Task, t *TaskPage) bool {
		if !terminal(t.State()) {
			used[t.Agent()] = used[t.Agent()].Add(t.Resources())
		}
		return true
	})
	for _, x := range p.Executors {
		used[x.Agent] = used[x.Agent].Add(resources.FromProtoTrusted(x.Info.GetResources()))
	}
	return used
}

// Proto is the framework as the operator API gives it (master.proto, Response.GetFrameworks.Framework).
func (p *FrameworkPage) Proto() *masterv1.Response_GetFrameworks_Framework {
	var used, offered resources.Resources
	for _, r := range p.Used() {
		used = used.Add(r)
	}
	out := &masterv1.Response_GetFrameworks_Framework{
		FrameworkInfo: p.Info, Active: &p.Active, Connected: &p.Connected, Recovered: &p.Recovered,
		RegisteredTime: timeInfo(p.RegisteredTime), InverseOffers: p.InverseOffers, OfferConstraints: p.OfferConstraints,
	}
	if !p.ReregisteredTime.IsZero() {
		out.ReregisteredTime = timeInfo(p.ReregisteredTime)
	}
	if !p.UnregisteredTime.IsZero() {
		out.UnregisteredTime = timeInfo(p.UnregisteredTime)
	}
	for _, o := range p.Offers {
		out.Offers = append(out.Offers, o.Offer)
		offered = offered.Add(o.Resources)
	}
	out.AllocatedResources = used.Proto()
	out.OfferedResources = offered.Proto()
	return out
}

// Proto is the agent as the operator API gives it (master.proto, Response.GetAgents.Agent). used is what tasks and
// executors hold there.
func (p *AgentPage) Proto(used resources.Resources) *masterv1.Response_GetAgents_Agent {
	var offered resources.Resources
	for _, o := range p.Offers {
		offered = offered.Add(o.Resources)
	}
	pid := "slave(1)@" + p.Address
	out := &masterv1.Response_GetAgents_Agent{
		AgentInfo: p.Info, Active: &p.Active, Deactivated: &p.Deactivated, Version: &p.Version, Pid: &pid,
		RegisteredTime: timeInfo(p.RegisteredTime), TotalResources: p.Total.Proto(), AllocatedResources: used.Proto(),
		OfferedResources: offered.Proto(), DrainInfo: p.Drain,
	}
	for _, c := range p.Capabilities {
		out.Capabilities = append(out.Capabilities, &mesosv1.AgentInfo_Capability{Type: c.Enum()})
	}
	if !p.ReregisteredTime.IsZero() {
		out.ReregisteredTime = timeInfo(p.ReregisteredTime)
	}
	if !p.DrainStartTime.IsZero() {
		out.EstimatedDrainStartTime = timeInfo(p.DrainStartTime)
	}
	return out
}
