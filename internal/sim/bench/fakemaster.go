package bench

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	v1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
)

// fakeMaster is no master: one agent without bounds, on which every task runs at once, ends when it is killed, and is otherwise
// forgotten. What is measured on it is what the services themselves cost.
type fakeMaster struct {
	mu      sync.Mutex
	stream  chan *v1.Event
	next    uint64
	offered bool
	wanted  bool

	// Status, when set, is told that a status update of a task is about to be sent.
	status func(task string, at time.Time)
}

const fakeAgent = "fake-agent"

func (f *fakeMaster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	call := new(v1.Call)
	if err != nil || call.UnmarshalVT(b) != nil {
		http.Error(w, "cannot be read", http.StatusBadRequest)
		return
	}
	if call.GetType() != v1.Call_SUBSCRIBE {
		f.call(call)
		w.WriteHeader(http.StatusAccepted)
		return
	}
	// As many events may wait as there are tasks to be launched at once.
	stream := make(chan *v1.Event, 1<<18)
	stream <- &v1.Event{Type: v1.Event_SUBSCRIBED.Enum(), Subscribed: &v1.Event_Subscribed{
		FrameworkId: &mesosv1.FrameworkID{Value: proto.String("fake-framework")}, HeartbeatIntervalSeconds: proto.Float64(15),
		MasterInfo: &mesosv1.MasterInfo{Id: proto.String("m"), Ip: proto.Uint32(1), Port: proto.Uint32(5050), Hostname: proto.String("localhost")},
	}}
	f.mu.Lock()
	f.stream, f.offered, f.wanted = stream, false, true
	f.offer()
	f.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Header().Set("Mesos-Stream-Id", "s1")
	beat := time.NewTicker(15 * time.Second)
	defer beat.Stop()
	for {
		var e *v1.Event
		select {
		case e = <-stream:
		case <-beat.C:
			e = &v1.Event{Type: v1.Event_HEARTBEAT.Enum()}
		case <-r.Context().Done():
			return
		}
		if u := e.GetUpdate(); u != nil && f.status != nil {
			f.status(u.GetStatus().GetTaskId().GetValue(), time.Now())
		}
		b, err := e.MarshalVT()
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(w, "%d\n%s", len(b), b); err != nil {
			return
		}
		if len(stream) == 0 && http.NewResponseController(w).Flush() != nil {
			return
		}
	}
}

func (f *fakeMaster) offer() {
	if !f.wanted || f.offered || f.stream == nil {
		return
	}
	f.offered = true
	f.next++
	scalar := func(name string) *mesosv1.Resource {
		return &mesosv1.Resource{Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: proto.Float64(1e9)}, AllocationInfo: &mesosv1.Resource_AllocationInfo{Role: proto.String("*")}}
	}
	f.stream <- &v1.Event{Type: v1.Event_OFFERS.Enum(), Offers: &v1.Event_Offers{Offers: []*mesosv1.Offer{{
		Id: &mesosv1.OfferID{Value: proto.String(fmt.Sprint("offer-", f.next))}, FrameworkId: &mesosv1.FrameworkID{Value: proto.String("fake-framework")}, AgentId: &mesosv1.AgentID{Value: proto.String(fakeAgent)},
		Hostname: proto.String("127.0.0.1"), AllocationInfo: &mesosv1.Resource_AllocationInfo{Role: proto.String("*")},
		Resources: []*mesosv1.Resource{scalar("cpus"), scalar("mem"), scalar("disk"), {
			Name: proto.String("ports"), Type: mesosv1.Value_RANGES.Enum(), AllocationInfo: &mesosv1.Resource_AllocationInfo{Role: proto.String("*")},
			Ranges: &mesosv1.Value_Ranges{Range: []*mesosv1.Value_Range{{Begin: proto.Uint64(1024), End: proto.Uint64(65535)}}},
		}},
	}}}}
}

func (f *fakeMaster) update(task string, state mesosv1.TaskState) {
	f.next++
	uuid := binary.BigEndian.AppendUint64(make([]byte, 8, 16), f.next)
	f.stream <- &v1.Event{Type: v1.Event_UPDATE.Enum(), Update: &v1.Event_Update{Status: &mesosv1.TaskStatus{
		TaskId: &mesosv1.TaskID{Value: &task}, State: &state, AgentId: &mesosv1.AgentID{Value: proto.String(fakeAgent)}, Uuid: uuid,
	}}}
}

func (f *fakeMaster) call(c *v1.Call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch c.GetType() {
	case v1.Call_DECLINE:
		f.offered, f.wanted = false, false
	case v1.Call_REVIVE:
		f.wanted = true
		f.offer()
	case v1.Call_SUPPRESS:
		f.wanted = false
	case v1.Call_ACCEPT:
		f.offered = false
		for _, op := range c.Accept.Operations {
			for _, ti := range op.GetLaunch().GetTaskInfos() {
				f.update(ti.GetTaskId().GetValue(), mesosv1.TaskState_TASK_RUNNING)
			}
		}
		f.offer()
	case v1.Call_KILL:
		f.update(c.Kill.TaskId.GetValue(), mesosv1.TaskState_TASK_KILLED)
	}
}
