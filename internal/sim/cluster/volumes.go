package cluster

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// Sizes in MB. A volume that was never resized, or by chance has its first size again, has madeSize.
const (
	madeSize = 100
	growth   = 7
	shrink   = 3
)

// disk gives some of a framework's reserved disk.
func (s *scheduler) disk(mb float64) *mesosv1.Resource {
	return resources.MustParse(fmt.Sprintf("disk:%g", mb)).PushReservation(&mesosv1.Resource_ReservationInfo{
		Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: proto.String(s.info.GetRole()),
	}).Proto()[0]
}

// resize gives operations that make a volume on an agent, or change its size.
func (s *scheduler) resize(o *mesosv1.Offer) []*mesosv1.Offer_Operation {
	if !s.keeps || !s.w.chance(0.5) {
		return nil
	}
	reserve := func(r *mesosv1.Resource) *mesosv1.Offer_Operation {
		return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_RESERVE.Enum(), Reserve: &mesosv1.Offer_Operation_Reserve{Resources: []*mesosv1.Resource{r}}}
	}
	for r := range resources.FromProtoTrusted(o.GetResources()).PersistentVolumes().Unallocate().All() {
		volume := r.Resources().Proto()[0]
		var op *mesosv1.Offer_Operation
		if s.w.chance(0.5) && volume.GetScalar().GetValue() > shrink {
			op = &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_SHRINK_VOLUME.Enum(), ShrinkVolume: &mesosv1.Offer_Operation_ShrinkVolume{
				Volume: volume, Subtract: &mesosv1.Value_Scalar{Value: proto.Float64(shrink)},
			}}
		} else {
			op = &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_GROW_VOLUME.Enum(), GrowVolume: &mesosv1.Offer_Operation_GrowVolume{
				Volume: volume, Addition: s.disk(growth),
			}}
		}
		if s.w.chance(0.5) { // it asks to hear of it
			s.next++
			op.Id = &mesosv1.OperationID{Value: proto.String(fmt.Sprintf("f%d-o%d", s.n, s.next))}
		}
		if op.GrowVolume != nil {
			return []*mesosv1.Offer_Operation{reserve(s.disk(growth)), op}
		}
		return []*mesosv1.Offer_Operation{op}
	}
	s.next++
	volume := s.disk(madeSize)
	volume.Disk = &mesosv1.Resource_DiskInfo{
		Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: proto.String(fmt.Sprintf("f%d-v%d", s.n, s.next))},
		Volume:      &mesosv1.Volume{ContainerPath: proto.String("data"), Mode: mesosv1.Volume_RW.Enum()},
	}
	return []*mesosv1.Offer_Operation{
		reserve(s.disk(madeSize)),
		{Type: mesosv1.Offer_Operation_CREATE.Enum(), Create: &mesosv1.Offer_Operation_Create{Volumes: []*mesosv1.Resource{volume}}},
	}
}

// operationUpdate acknowledges the status of an operation.
func (s *scheduler) operationUpdate(st *mesosv1.OperationStatus) {
	if st.Uuid == nil || !s.w.calm && s.w.chance(0.05) { // some are forgotten, and must come again
		return
	}
	s.w.after(s.w.between(0, 50*time.Millisecond), func() {
		s.call(&schedulerv1.Call{Type: schedulerv1.Call_ACKNOWLEDGE_OPERATION_STATUS.Enum(), AcknowledgeOperationStatus: &schedulerv1.Call_AcknowledgeOperationStatus{
			AgentId: st.GetAgentId(), OperationId: st.GetOperationId(), Uuid: st.GetUuid().GetValue(),
		}})
	})
}

// checkOffered: a volume that has been resized is offered only as it is on its agent's disk, so that the agent's death can't bring
// back another size than a framework was told.
func (w *World) checkOffered(e *schedulerv1.Event) {
	for _, o := range e.GetOffers().GetOffers() {
		for r := range resources.FromProtoTrusted(o.GetResources()).PersistentVolumes().Unallocate().All() {
			if r.Amount().Float() == madeSize {
				continue
			}
			w.resized++
			for _, a := range w.agents {
				if a.disk.info.GetId().GetValue() != o.GetAgentId().GetValue() {
					continue
				}
				if total := resources.FromProtoTrusted(a.disk.resources.GetTotal()); !total.Contains(r.Resources()) {
					w.fail("%s of agent %s is offered, on whose disk is %s", r.Resources(), a.disk.info.GetId().GetValue(), total.PersistentVolumes())
				}
			}
		}
	}
}
