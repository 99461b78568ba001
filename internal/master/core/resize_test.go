package core

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// resizing is a framework with a volume of 100 MB and 900 MB of disk that it could grow by.
type resizing struct {
	*world
	n      *node
	sc     *scheduler
	volume *mesosv1.Resource
}

func newResizing(t *testing.T) *resizing {
	t.Helper()
	w := newWorld(t)
	x := &resizing{world: w, volume: reserved("disk:100", "web")[0]}
	x.volume.Disk = &mesosv1.Resource_DiskInfo{
		Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: proto.String("v1")},
		Volume:      &mesosv1.Volume{ContainerPath: proto.String("data"), Mode: mesosv1.Volume_RW.Enum()},
	}
	x.n = w.agentOf(&mesosv1.AgentInfo{Hostname: proto.String("a"), Resources: x.total(100)})
	x.sc = w.subscribe(roles("web"), caps(mesosv1.FrameworkInfo_Capability_RESERVATION_REFINEMENT))
	return x
}

// total is what the agent has when its volume is of that size.
func (x *resizing) total(mb float64) []*mesosv1.Resource {
	v := x.volume.CloneVT()
	v.Scalar.Value = &mb
	rest := reserved("disk:900", "web")[0]
	rest.Scalar.Value = proto.Float64(1000 - mb)
	return append(resources.MustParse("cpus:4;mem:4096").Proto(), v, rest)
}

// grow is an operation of the framework that makes the volume larger by 50 MB.
func (x *resizing) grow(id string) *mesosv1.Offer_Operation {
	op := &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_GROW_VOLUME.Enum(), GrowVolume: &mesosv1.Offer_Operation_GrowVolume{
		Volume: x.volume.CloneVT(), Addition: reserved("disk:50", "web")[0],
	}}
	if id != "" {
		op.Id = &mesosv1.OperationID{Value: &id}
	}
	return op
}

func (x *resizing) operatorGrows() *Reply {
	return x.operate(&masterv1.Call{Type: masterv1.Call_GROW_VOLUME.Enum(), GrowVolume: &masterv1.Call_GrowVolume{
		AgentId: x.n.info.Id, Volume: x.volume.CloneVT(), Addition: reserved("disk:50", "web")[0],
	}})
}

// asked is the operation that the agent was asked for.
func (x *resizing) asked() *linkv1.ApplyOperation {
	x.t.Helper()
	for _, m := range x.n.next() {
		if m.GetApplyOperation() != nil {
			return m.GetApplyOperation()
		}
	}
	x.t.Fatal("the agent was asked for nothing")
	return nil
}

func (x *resizing) answer(m *linkv1.ApplyOperation, state mesosv1.OperationState) {
	st := &mesosv1.OperationStatus{State: state.Enum(), OperationId: m.GetOperation().GetId()}
	if st.OperationId != nil {
		st.Uuid = &mesosv1.UUID{Value: []byte("0123456789abcdef")}
	}
	x.n.say(&linkv1.Message{Kind: &linkv1.Message_OperationUpdate{OperationUpdate: &linkv1.OperationUpdate{OperationUuid: m.OperationUuid, Status: st}}})
}

// offered gives the sizes of the volume in the offers that have come, declining them, so that what is free comes again.
func (x *resizing) offered() (sizes []float64, disk float64) {
	x.t.Helper()
	for _, o := range x.sc.offers() {
		for r := range resources.FromProtoTrusted(o.GetResources()).All() {
			switch {
			case r.IsPersistentVolume():
				sizes = append(sizes, r.Amount().Float())
			case r.Name() == "disk":
				disk += r.Amount().Float()
			}
		}
		x.sc.decline(0, o)
	}
	return sizes, disk
}

func (x *resizing) expect(when string, volume, disk float64) {
	x.t.Helper()
	x.pass(2 * time.Second)
	sizes, rest := x.offered()
	if volume == 0 {
		if len(sizes) != 0 {
			x.t.Errorf("%s the volume is offered with %v MB", when, sizes)
		}
		return
	}
	if len(sizes) == 0 || sizes[len(sizes)-1] != volume || rest < disk {
		x.t.Errorf("%s the volume is offered with %v MB beside %v MB of disk, want %v beside %v", when, sizes, rest, volume, disk)
	}
	for _, s := range sizes {
		if s != volume {
			x.t.Errorf("%s the volume is offered with %v MB", when, s)
		}
	}
}

// TestResizeWaitsForTheAgent: neither the old nor the new volume is anybody's until the agent has answered.
func TestResizeWaitsForTheAgent(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"framework", "framework with feedback", "operator"} {
		for _, end := range []struct {
			name         string
			state        mesosv1.OperationState
			volume, disk float64
		}{
			{"finished", mesosv1.OperationState_OPERATION_FINISHED, 150, 850},
			{"failed", mesosv1.OperationState_OPERATION_FAILED, 100, 900},
			{"dropped", mesosv1.OperationState_OPERATION_DROPPED, 100, 900},
		} {
			t.Run(who+" "+end.name, func(t *testing.T) {
				t.Parallel()
				x := newResizing(t)
				o := x.sc.oneOffer()
				switch who {
				case "operator":
					x.sc.decline(0, o)
					if r := x.operatorGrows(); r.Status != 202 {
						t.Fatalf("%d %s", r.Status, r.Message)
					}
				case "framework":
					x.sc.accept(o, 0, x.grow(""))
				default:
					x.sc.accept(o, 0, x.grow("g"))
				}
				m := x.asked()
				x.expect("before the agent has answered", 0, 0)
				if got := x.s.agents[x.n.id].total; !got.Equal(resources.FromProtoTrusted(x.total(100))) {
					t.Errorf("before the agent has answered it has %s", got)
				}
				if r := x.operatorGrows(); r.Status != 409 {
					t.Errorf("a second one meanwhile: %d %s", r.Status, r.Message)
				}
				x.answer(m, end.state)
				x.expect("when the agent has answered", end.volume, end.disk)
				if got := x.s.agents[x.n.id].total; !got.Equal(resources.FromProtoTrusted(x.total(end.volume))) {
					t.Errorf("when the agent has answered it has %s", got)
				}
				x.answer(m, end.state) // it repeats itself
				x.expect("when it has answered twice", end.volume, end.disk)
				if who == "framework with feedback" {
					x.sc.call(&schedulerv1.Call{Type: schedulerv1.Call_ACKNOWLEDGE_OPERATION_STATUS.Enum(), AcknowledgeOperationStatus: &schedulerv1.Call_AcknowledgeOperationStatus{
						AgentId: x.n.info.Id, OperationId: &mesosv1.OperationID{Value: proto.String("g")}, Uuid: []byte("0123456789abcdef"),
					}})
				}
				if n := len(x.s.agents[x.n.id].ops); n != 0 {
					t.Errorf("%d operations are left", n)
				}
			})
		}
	}
}

// TestFailedOperationIsUndone: what the master has counted as done at once is as it was when the agent says that it could not, and says what
// it has.
func TestFailedOperationIsUndone(t *testing.T) {
	t.Parallel()
	x := newResizing(t)
	x.sc.accept(x.sc.oneOffer(), 0, &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_DESTROY.Enum(), Destroy: &mesosv1.Offer_Operation_Destroy{Volumes: []*mesosv1.Resource{x.volume.CloneVT()}}})
	m := x.asked()
	x.expect("when it counts as destroyed", 0, 0)
	x.answer(m, mesosv1.OperationState_OPERATION_FAILED)
	x.n.say(&linkv1.Message{Kind: &linkv1.Message_AgentUpdate{
		AgentUpdate: &linkv1.AgentUpdate{
			TotalResources: x.total(100), UpdateOversubscribed: proto.Bool(true), ResourceVersionUuid: []byte("another version."),
		},
	}})
	x.expect("when the agent has answered", 100, 900)
	x.pass(2 * time.Second)
	x.sc.accept(x.sc.oneOffer(), 0, x.grow(""))
	if m := x.asked(); string(m.GetResourceVersionUuid()) != "another version." {
		t.Errorf("the next operation is of version %q", m.GetResourceVersionUuid())
	}
}

// TestResizeNeedsItsOwnAccept: as in Mesos, what uses the resized volume can't be in the same ACCEPT.
func TestResizeNeedsItsOwnAccept(t *testing.T) {
	t.Parallel()
	for name, mb := range map[string]float64{"the new size": 150, "the old size": 100} {
		x := newResizing(t)
		o := x.sc.oneOffer()
		task := commandTask("t", o, "cpus:1;mem:64")
		v := x.volume.CloneVT()
		v.Scalar.Value = proto.Float64(mb)
		task.Resources = append(task.Resources, v)
		x.sc.accept(o, 0, x.grow(""), launch(task))
		if got := states(x.sc.updates()); len(got) != 1 || !strings.HasPrefix(got[0], "ERROR") {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestResizeAndADeadAgent: an agent that was killed before it answered says by its total what it has done; whoever follows the operation
// hears that it is lost, and nothing holds the volume, or the agent's drain, any longer.
func TestResizeAndADeadAgent(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"framework", "framework with feedback", "operator", "framework that ends"} {
		for _, mb := range []float64{100, 150} {
			x := newResizing(t)
			o := x.sc.oneOffer()
			switch who {
			case "operator":
				x.sc.decline(0, o)
				x.operatorGrows()
			case "framework with feedback":
				x.sc.accept(o, 0, x.grow("g"))
			default:
				x.sc.accept(o, 0, x.grow(""))
			}
			m := x.asked()
			if who == "framework that ends" {
				x.sc.call(&schedulerv1.Call{Type: schedulerv1.Call_TEARDOWN.Enum()})
				x.sc = x.subscribe(roles("web"), caps(mesosv1.FrameworkInfo_Capability_RESERVATION_REFINEMENT))
				x.expect("after the framework's end", 0, 0)
			}
			x.n.disconnect()
			x.sc.next()
			x.n.info.Resources = x.total(mb)
			reported := &linkv1.Reregister{Agent: x.n.register()}
			if who == "framework with feedback" && mb == 150 {
				reported.Operations = []*mesosv1.Operation{{
					FrameworkId: m.FrameworkId, AgentId: x.n.info.Id, Info: m.Operation, Uuid: &mesosv1.UUID{Value: m.OperationUuid},
					LatestStatus: &mesosv1.OperationStatus{State: mesosv1.OperationState_OPERATION_FINISHED.Enum(), OperationId: m.Operation.Id, Uuid: &mesosv1.UUID{Value: []byte("0123456789abcdef")}},
				}}
			}
			x.n.connect()
			x.n.say(&linkv1.Message{Kind: &linkv1.Message_Reregister{Reregister: reported}})
			var told []string
			for _, e := range x.events[x.sc.stream][x.sc.seen:] {
				if st := e.GetUpdateOperationStatus().GetStatus(); st != nil {
					told = append(told, st.GetState().String())
				}
			}
			left := 0
			switch {
			case who == "framework with feedback" && mb == 100:
				if len(told) != 1 || told[0] != "OPERATION_DROPPED" {
					t.Errorf("%s, %v MB: told %v", who, mb, told)
				}
			case who == "framework with feedback":
				left = 1 // which it has yet to hear of
			case len(told) != 0:
				t.Errorf("%s, %v MB: told %v", who, mb, told)
			}
			x.expect(who+": after the agent's death", mb, 1000-mb)
			if n := len(x.s.agents[x.n.id].ops); n != left {
				t.Errorf("%s, %v MB: %d operations are left", who, mb, n)
			}
		}
	}
}
