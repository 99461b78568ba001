package marathon

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	v1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/heldport"
)

// fakeMaster is a Mesos master with agents of its own, for tests of this package: it offers what is free, starts tasks at
// once and kills them at once. Tasks of a running HTTP kind are served by a handler, so that health checks find something.
type fakeMaster struct {
	t      *testing.T
	server *httptest.Server

	mu       sync.Mutex
	stream   chan *v1.Event
	gone     chan struct{} // closed when the stream is to end
	subs     int
	tasks    map[string]*fakeTask
	offers   map[string]bool
	next     int
	wanted   bool
	launched map[string]int // by task id
	calls    map[v1.Call_Type]int
	serve    func(task *mesosv1.TaskInfo) http.Handler // nil: nothing is served
	cpus     float64
	agent    net.Addr // that serves statistics
	ports    []int    // of the agent: nobody else listens on them
}

type fakeTask struct {
	info   *mesosv1.TaskInfo
	state  mesosv1.TaskState
	server *http.Server
}

const fakeAgent = "fake-agent-1"

func newFakeMaster(t *testing.T) *fakeMaster {
	t.Helper()
	held, err := heldport.Hold(50)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(held.Close)
	f := &fakeMaster{t: t, ports: held.Ports, tasks: map[string]*fakeTask{}, offers: map[string]bool{}, launched: map[string]int{}, calls: map[v1.Call_Type]int{}, cpus: 10000}
	f.server = httptest.NewServer(http.HandlerFunc(f.handle))
	t.Cleanup(func() {
		f.drop()
		f.server.Close()
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, x := range f.tasks {
			if x.server != nil {
				_ = x.server.Close()
			}
		}
	})
	return f
}

func (f *fakeMaster) address() string { return f.server.Listener.Addr().String() }

// drop ends the subscription's stream, as a master that dies.
func (f *fakeMaster) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone != nil {
		close(f.gone)
		f.gone, f.stream = nil, nil
	}
}

func (f *fakeMaster) handle(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/slaves" {
		fmt.Fprintf(w, `{"slaves":[{"pid":"slave(1)@%s","active":true}]}`, f.agent)
		return
	}
	b, err := io.ReadAll(r.Body)
	call := &v1.Call{}
	if err != nil || call.UnmarshalVT(b) != nil {
		http.Error(w, "cannot be read", http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	f.calls[call.GetType()]++
	if call.GetType() != v1.Call_SUBSCRIBE {
		f.call(call)
		f.mu.Unlock()
		w.WriteHeader(http.StatusAccepted)
		return
	}
	f.subs++
	stream, gone := make(chan *v1.Event, 10000), make(chan struct{})
	f.stream, f.gone = stream, gone
	id := call.GetSubscribe().GetFrameworkInfo().GetId().GetValue()
	if id == "" {
		id = "fake-framework-1"
	}
	f.wanted = true
	clear(f.offers)
	kind := v1.Event_SUBSCRIBED
	stream <- &v1.Event{Type: &kind, Subscribed: &v1.Event_Subscribed{
		FrameworkId: &mesosv1.FrameworkID{Value: &id}, HeartbeatIntervalSeconds: proto.Float64(15),
		MasterInfo: &mesosv1.MasterInfo{Id: proto.String("m"), Ip: proto.Uint32(1), Port: proto.Uint32(5050), Hostname: proto.String("localhost")},
	}}
	f.offer()
	f.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Header().Set("Mesos-Stream-Id", "s1")
	w.WriteHeader(http.StatusOK)
	for {
		select {
		case e := <-stream:
			b, err := e.MarshalVT()
			if err != nil {
				return
			}
			if _, err := fmt.Fprintf(w, "%d\n%s", len(b), b); err != nil {
				return
			}
			if http.NewResponseController(w).Flush() != nil {
				return
			}
		case <-gone:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (f *fakeMaster) push(e *v1.Event) {
	if f.stream != nil {
		f.stream <- e
	}
}

// offer makes one offer of everything that is free, unless one is out.
func (f *fakeMaster) offer() {
	if !f.wanted || len(f.offers) > 0 || f.stream == nil {
		return
	}
	cpus := f.cpus
	used := map[uint64]bool{}
	for _, t := range f.tasks {
		for _, r := range t.info.Resources {
			switch r.GetName() {
			case "cpus":
				cpus -= r.GetScalar().GetValue()
			case "ports":
				for _, x := range r.GetRanges().GetRange() {
					for p := x.GetBegin(); p <= x.GetEnd(); p++ {
						used[p] = true
					}
				}
			}
		}
	}
	var ranges []*mesosv1.Value_Range
	for _, port := range f.ports {
		if p := uint64(port); !used[p] {
			ranges = append(ranges, &mesosv1.Value_Range{Begin: proto.Uint64(p), End: proto.Uint64(p)})
		}
	}
	f.next++
	id := fmt.Sprintf("offer-%d", f.next)
	f.offers[id] = true
	scalar := func(name string, v float64) *mesosv1.Resource {
		return &mesosv1.Resource{Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v}, AllocationInfo: &mesosv1.Resource_AllocationInfo{Role: proto.String("*")}}
	}
	o := &mesosv1.Offer{
		Id: &mesosv1.OfferID{Value: &id}, FrameworkId: &mesosv1.FrameworkID{Value: proto.String("x")}, AgentId: &mesosv1.AgentID{Value: proto.String(fakeAgent)}, Hostname: proto.String("127.0.0.1"),
		AllocationInfo: &mesosv1.Resource_AllocationInfo{Role: proto.String("*")},
		Resources: []*mesosv1.Resource{
			scalar("cpus", cpus), scalar("mem", 1e9), scalar("disk", 1e9),
			{Name: proto.String("ports"), Type: mesosv1.Value_RANGES.Enum(), Ranges: &mesosv1.Value_Ranges{Range: ranges}},
		},
	}
	f.push(&v1.Event{Type: v1.Event_OFFERS.Enum(), Offers: &v1.Event_Offers{Offers: []*mesosv1.Offer{o}}})
}

func (f *fakeMaster) status(id string, state mesosv1.TaskState) {
	uuid := make([]byte, 16)
	copy(uuid, fmt.Sprintf("%d-%s", f.next, id))
	f.next++
	f.push(&v1.Event{Type: v1.Event_UPDATE.Enum(), Update: &v1.Event_Update{Status: &mesosv1.TaskStatus{
		TaskId: &mesosv1.TaskID{Value: &id}, State: &state,
		AgentId: &mesosv1.AgentID{Value: proto.String(fakeAgent)}, Uuid: uuid,
	}}})
}

func (f *fakeMaster) call(c *v1.Call) {
	switch c.GetType() {
	case v1.Call_DECLINE:
		for _, id := range c.Decline.OfferIds {
			delete(f.offers, id.GetValue())
		}
		f.wanted = false
	case v1.Call_REVIVE:
		f.wanted = true
		f.offer()
	case v1.Call_SUPPRESS:
		f.wanted = false
	case v1.Call_ACCEPT:
		valid := f.offers[c.Accept.OfferIds[0].GetValue()]
		delete(f.offers, c.Accept.OfferIds[0].GetValue())
		for _, op := range c.Accept.Operations {
			for _, ti := range slices.Concat(op.GetLaunch().GetTaskInfos(), op.GetLaunchGroup().GetTaskGroup().GetTasks()) {
				id := ti.GetTaskId().GetValue()
				if !valid {
					f.status(id, mesosv1.TaskState_TASK_DROPPED)
					continue
				}
				f.launched[id]++
				t := &fakeTask{info: ti, state: mesosv1.TaskState_TASK_RUNNING}
				f.tasks[id] = t
				if f.serve != nil {
					f.start(t)
				}
				f.status(id, mesosv1.TaskState_TASK_RUNNING)
			}
		}
		f.offer()
	case v1.Call_KILL:
		id := c.Kill.TaskId.GetValue()
		if t := f.tasks[id]; t != nil {
			f.endTask(id, t, mesosv1.TaskState_TASK_KILLED)
		} else {
			f.status(id, mesosv1.TaskState_TASK_UNKNOWN)
		}
	case v1.Call_RECONCILE:
		for _, r := range c.Reconcile.Tasks {
			if t := f.tasks[r.TaskId.GetValue()]; t != nil {
				f.status(r.TaskId.GetValue(), t.state)
			} else {
				f.status(r.TaskId.GetValue(), mesosv1.TaskState_TASK_UNKNOWN)
			}
		}
	}
}

func (f *fakeMaster) start(t *fakeTask) {
	for _, r := range t.info.Resources {
		if r.GetName() == "ports" {
			// The fake agent's tasks listen on the port that they were given.
			t.server = &http.Server{Addr: fmt.Sprintf("127.0.0.1:%d", r.GetRanges().GetRange()[0].GetBegin()), Handler: f.serve(t.info), ReadHeaderTimeout: time.Second}
			go func() { _ = t.server.ListenAndServe() }()
			return
		}
	}
}

func (f *fakeMaster) endTask(id string, t *fakeTask, state mesosv1.TaskState) {
	if t.server != nil {
		_ = t.server.Close()
	}
	delete(f.tasks, id)
	f.status(id, state)
	f.offer()
}

// running lists the task ids that run.
func (f *fakeMaster) running() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]string, 0, len(f.tasks))
	for id := range f.tasks {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// fail ends a task by itself.
func (f *fakeMaster) fail(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.tasks[id]; t != nil {
		f.endTask(id, t, mesosv1.TaskState_TASK_FAILED)
	}
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}
