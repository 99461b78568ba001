package core

import (
	"errors"
	"time"

	checkpointv1 "github.com/orchestrator/orchestrator/api/checkpoint/v1"
	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// operation is one with an id, whose final status the framework has not acknowledged.
type operation struct {
	proto *mesosv1.Operation
	timer *timer
	// backoff is the interval before the status is sent again.
	backoff time.Duration
}

// setTotal replaces the agent's resources and gives them a new version.
func (c *Core) setTotal(total []*mesosv1.Resource) {
	c.total = resources.FromProtoTrusted(total)
	c.version = c.drawUUID()
}

func (c *Core) saveResources() {
	rec := &checkpointv1.Resources{Total: c.total.Proto(), Destroyed: c.destroyed, Operations: c.operationList(), Configured: c.configured}
	c.emit(SaveResources{Resources: rec})
}

func (c *Core) operationList() []*mesosv1.Operation {
	var list []*mesosv1.Operation
	for _, id := range c.opOrder {
		list = append(list, c.operations[id].proto)
	}
	return list
}

// applyOperation changes the agent's resources. The new total is on disk before anybody is told of it.
func (c *Core) applyOperation(m *linkv1.ApplyOperation) {
	uuid := string(m.GetOperationUuid())
	if op := c.operations[uuid]; op != nil { // the master asks again because it did not hear
		c.sendOperation(op)
		return
	}
	op := m.GetOperation()
	status := &mesosv1.OperationStatus{OperationId: op.GetId(), AgentId: c.info.GetId(), State: mesosv1.OperationState_OPERATION_FINISHED.Enum()}
	if op.GetId() != nil {
		status.Uuid = &mesosv1.UUID{Value: c.drawUUID()}
	}
	var made, destroyed []*mesosv1.Resource
	err := func() error {
		if v := m.GetResourceVersionUuid(); v != nil && string(v) != string(c.version) {
			status.State = mesosv1.OperationState_OPERATION_DROPPED.Enum()
			return errors.New("the agent's resources have changed since the operation was made")
		}
		status.State = mesosv1.OperationState_OPERATION_FAILED.Enum()
		conversions, err := resources.Conversions(op)
		if err != nil {
			return err
		}
		total := c.total
		for _, cv := range conversions {
			cv.Consumed, cv.Converted = cv.Consumed.Unallocate(), cv.Converted.Unallocate()
			if total, err = total.Apply(cv); err != nil {
				return err
			}
			status.ConvertedResources = append(status.ConvertedResources, cv.Converted.Proto()...)
		}
		made = newVolumes(c.total, total)
		destroyed = newVolumes(total, c.total)
		if text := c.inUse(destroyed); text != "" {
			return errors.New(text)
		}
		status.State = mesosv1.OperationState_OPERATION_FINISHED.Enum()
		// The version stays: the master expects this very outcome and has sent what follows (CREATE after RESERVE) with the
		// same version.
		c.total = total
		return nil
	}()
	if err != nil {
		text := err.Error()
		status.Message, status.ConvertedResources = &text, nil
		c.note(Warn, "operation failed", "type", op.GetType(), "err", err)
	}
	proto := &mesosv1.Operation{
		FrameworkId: m.GetFrameworkId(), AgentId: c.info.GetId(), Info: op, LatestStatus: status,
		Statuses: []*mesosv1.OperationStatus{status}, Uuid: &mesosv1.UUID{Value: m.GetOperationUuid()},
	}
	o := &operation{proto: proto}
	if status.Uuid != nil {
		c.operations[uuid] = o
		c.opOrder = append(c.opOrder, uuid)
	}
	if len(destroyed) > 0 && err == nil {
		c.destroyed = destroyed
	}
	if err == nil || status.Uuid != nil {
		c.saveResources()
	}
	if err == nil {
		if len(made) > 0 {
			c.emit(MakeVolumes{Volumes: made})
		}
		if len(destroyed) > 0 {
			// Only now that nothing on disk speaks of them any more. A crash before the deletion is made good at the start.
			c.emit(DeleteVolumes{Volumes: destroyed})
			c.destroyed = nil
		}
	}
	c.sendOperation(o)
	if status.GetState() == mesosv1.OperationState_OPERATION_FAILED {
		// The master has counted it as done already. It hears what is there instead; what it sent before it hears it was meant for
		// what is not, and is dropped by the version.
		c.version = c.drawUUID()
		c.sendResources()
	}
}

// newVolumes are the persistent volumes of b that a does not have, whatever their size.
func newVolumes(a, b resources.Resources) []*mesosv1.Resource {
	have := map[string]bool{}
	for x := range a.PersistentVolumes().All() {
		have[x.Role()+"\x00"+x.PersistenceID()] = true
	}
	var out []*mesosv1.Resource
	for x := range b.PersistentVolumes().All() {
		if !have[x.Role()+"\x00"+x.PersistenceID()] {
			out = append(out, x.Resources().Proto()...)
		}
	}
	return out
}

// inUse tells of a task or an executor that has one of the volumes.
func (c *Core) inUse(volumes []*mesosv1.Resource) string {
	if len(volumes) == 0 {
		return ""
	}
	gone := resources.FromProtoTrusted(volumes).Unallocate().OneCopy()
	for _, e := range c.runs {
		if e.phase == ExecutorTerminated {
			continue
		}
		for x := range e.used.PersistentVolumes().Unallocate().All() {
			for g := range gone.All() {
				if x.Role() == g.Role() && x.PersistenceID() == g.PersistenceID() {
					return "persistent volume " + g.PersistenceID() + " is in use by executor " + string(e.run.Executor)
				}
			}
		}
	}
	return ""
}

func (c *Core) sendOperation(o *operation) {
	c.stop(o.timer)
	o.timer = nil
	if !c.canSend() {
		return
	}
	s := o.proto.GetLatestStatus()
	c.toMaster(&linkv1.Message{Kind: &linkv1.Message_OperationUpdate{OperationUpdate: &linkv1.OperationUpdate{
		FrameworkId: o.proto.GetFrameworkId(), OperationUuid: o.proto.GetUuid().GetValue(), Status: s, LatestStatus: s,
	}}})
	if s.GetUuid() == nil {
		return // without an id nobody acknowledges it
	}
	o.backoff = min(max(2*o.backoff, c.cfg.UpdateRetryMin), c.cfg.UpdateRetryMax)
	o.timer = c.after(o.backoff, func() { c.sendOperation(o) })
}

func (c *Core) resendOperations() {
	for _, id := range c.opOrder {
		c.operations[id].backoff = 0
		c.sendOperation(c.operations[id])
	}
}

func (c *Core) operationAcknowledged(a *linkv1.OperationAck) {
	uuid := string(a.GetOperationUuid())
	o := c.operations[uuid]
	if o == nil || string(o.proto.GetLatestStatus().GetUuid().GetValue()) != string(a.GetStatusUuid()) {
		return
	}
	c.stop(o.timer)
	delete(c.operations, uuid)
	for i, id := range c.opOrder {
		if id == uuid {
			c.opOrder = append(c.opOrder[:i:i], c.opOrder[i+1:]...)
			break
		}
	}
	c.saveResources()
	c.checkDrained()
}

// oversubscribe takes a new estimate of revocable resources.
func (c *Core) oversubscribe(ev Oversubscribe) {
	c.revocable = ev.Revocable
	if c.phase == Running {
		c.sendResources()
	}
}

// sendResources tells the master what the agent has.
func (c *Core) sendResources() {
	yes := true
	c.toMaster(&linkv1.Message{Kind: &linkv1.Message_AgentUpdate{AgentUpdate: &linkv1.AgentUpdate{
		TotalResources: c.total.Proto(), OversubscribedResources: c.revocable, UpdateOversubscribed: &yes, ResourceVersionUuid: c.version,
	}}})
}

// Used is what the agent's executors and tasks have, by executor; for the check of a reconfiguration.
func (c *Core) Used() resources.Resources {
	var sum resources.Resources
	for _, e := range c.runs {
		if e.phase != ExecutorTerminated {
			sum = sum.Add(e.used)
		}
	}
	return sum
}
