package sim_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/link"
	"github.com/orchestrator/orchestrator/internal/wire/memnet"
)

// fakeMaster is as much of a master as simulated agents and frameworks need to be tested without the real one: one lock,
// offers in turn, no filters.
type fakeMaster struct {
	t   *testing.T
	ctx context.Context

	mu           sync.Mutex
	next         int
	agents       map[string]*fakeAgent
	frameworks   map[string]*fakeFramework
	order        []string // of frameworks, for offers in turn
	offers       map[string]fakeOffer
	tasks        map[string]*fakeTask
	reregistered []*linkv1.Reregister
}

type fakeAgent struct {
	id        string
	conn      *link.Conn
	channel   uint64
	cpus, mem float64
	offered   bool
}

type fakeFramework struct {
	info   *mesosv1.FrameworkInfo
	stream *wire.Stream
}

type fakeOffer struct{ agent, framework string }

type fakeTask struct{ agent, framework string }

func startFakeMaster(t *testing.T, network *memnet.Network, address string) *fakeMaster {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m := &fakeMaster{
		t: t, ctx: ctx, agents: map[string]*fakeAgent{}, frameworks: map[string]*fakeFramework{}, offers: map[string]fakeOffer{}, tasks: map[string]*fakeTask{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc(link.Path, m.link)
	mux.HandleFunc("/api/v1/scheduler", m.scheduler)
	srv := &http.Server{Handler: mux, BaseContext: func(net.Listener) context.Context { return ctx }}
	served := make(chan struct{})
	l := network.Listen(address)
	go func() { defer close(served); _ = srv.Serve(l) }()
	t.Cleanup(func() { cancel(); srv.Close(); <-served })
	return m
}

func (m *fakeMaster) link(w http.ResponseWriter, r *http.Request) {
	conn, err := link.Accept(w, r, link.Config{})
	if err != nil {
		m.t.Error(err)
		return
	}
	_ = conn.Run(m.ctx, func(channel uint64, msgs []*linkv1.Message, _ bool) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, msg := range msgs {
			m.fromAgent(conn, channel, msg)
		}
		return nil
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.agents {
		if a.conn == conn {
			a.conn = nil
		}
	}
}

func (m *fakeMaster) fromAgent(conn *link.Conn, channel uint64, msg *linkv1.Message) {
	switch k := msg.Kind.(type) {
	case *linkv1.Message_Register:
		id := fmt.Sprintf("S%d", m.next)
		m.next++
		a := &fakeAgent{id: id, conn: conn, channel: channel}
		for _, r := range k.Register.GetTotalResources() {
			switch r.GetName() {
			case "cpus":
				a.cpus = r.GetScalar().GetValue()
			case "mem":
				a.mem = r.GetScalar().GetValue()
			}
		}
		m.agents[id] = a
		m.welcome(a, false)
		m.offer(a)
	case *linkv1.Message_Reregister:
		m.reregistered = append(m.reregistered, k.Reregister)
		a := m.agents[k.Reregister.GetAgent().GetInfo().GetId().GetValue()]
		a.conn, a.channel = conn, channel
		m.welcome(a, true)
	case *linkv1.Message_Update:
		u := k.Update
		id := u.GetStatus().GetTaskId().GetValue()
		if f := m.frameworks[u.GetFrameworkId().GetValue()]; f != nil {
			f.stream.Send(wire.NewEvent(&schedulerv1.Event{Type: schedulerv1.Event_UPDATE.Enum(), Update: &schedulerv1.Event_Update{Status: u.GetStatus()}}))
		}
		if t := m.tasks[id]; t != nil && u.GetStatus().GetState() != mesosv1.TaskState_TASK_RUNNING {
			delete(m.tasks, id)
			a := m.agents[t.agent]
			a.cpus, a.mem = a.cpus+0.5, a.mem+1
			m.offer(a)
		}
	}
}

func (m *fakeMaster) welcome(a *fakeAgent, again bool) {
	a.conn.Send(a.channel, &linkv1.Message{Kind: &linkv1.Message_Registered{Registered: &linkv1.Registered{
		AgentId: &mesosv1.AgentID{Value: &a.id}, Reregistered: &again,
		Master: &mesosv1.MasterInfo{Id: proto.String("m"), Ip: proto.Uint32(1), Port: proto.Uint32(5050)},
	}}})
}

// offer gives all that an agent has to the next framework.
func (m *fakeMaster) offer(a *fakeAgent) {
	if a.offered || len(m.order) == 0 || a.cpus < 0.5 {
		return
	}
	fid := m.order[m.next%len(m.order)]
	m.next++
	a.offered = true
	id := fmt.Sprintf("O%d", m.next)
	m.offers[id] = fakeOffer{a.id, fid}
	scalar := func(name string, v float64) *mesosv1.Resource {
		return &mesosv1.Resource{Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v}}
	}
	m.frameworks[fid].stream.Send(wire.NewEvent(&schedulerv1.Event{Type: schedulerv1.Event_OFFERS.Enum(), Offers: &schedulerv1.Event_Offers{Offers: []*mesosv1.Offer{{
		Id: &mesosv1.OfferID{Value: &id}, FrameworkId: &mesosv1.FrameworkID{Value: &fid}, AgentId: &mesosv1.AgentID{Value: &a.id}, Hostname: &a.id,
		Resources: []*mesosv1.Resource{scalar("cpus", a.cpus), scalar("mem", a.mem)},
	}}}}))
}

func (m *fakeMaster) scheduler(w http.ResponseWriter, r *http.Request) {
	var call schedulerv1.Call
	if _, ok := wire.ReadCall(w, r, &call, wire.CallOptions{}); !ok {
		return
	}
	if call.GetType() == schedulerv1.Call_SUBSCRIBE {
		m.subscribe(w, r, &call)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.frameworks[call.GetFrameworkId().GetValue()]
	if f == nil || r.Header.Get("Mesos-Stream-Id") != call.GetFrameworkId().GetValue() {
		wire.Error(w, http.StatusBadRequest, "Framework cannot be found")
		return
	}
	switch call.GetType() {
	case schedulerv1.Call_ACCEPT:
		o, ok := m.offers[call.GetAccept().GetOfferIds()[0].GetValue()]
		if !ok || o.framework != call.GetFrameworkId().GetValue() {
			m.t.Errorf("an offer was accepted that is not the framework's: %v", call.GetAccept().GetOfferIds())
			break
		}
		delete(m.offers, call.GetAccept().GetOfferIds()[0].GetValue())
		a := m.agents[o.agent]
		a.offered = false
		for _, ti := range call.GetAccept().GetOperations()[0].GetLaunch().GetTaskInfos() {
			// A real master refuses a task without resources, for another agent, or with nothing to run.
			if len(ti.GetResources()) != 2 || ti.GetResources()[0].GetScalar().GetValue() != 0.5 || ti.GetAgentId().GetValue() != a.id || ti.GetCommand().GetValue() == "" || ti.GetName() == "" {
				m.t.Errorf("agent %s was given the task %v", a.id, ti)
			}
			a.cpus, a.mem = a.cpus-0.5, a.mem-1
			if a.cpus < 0 {
				m.t.Errorf("agent %s was given more tasks than fit", a.id)
			}
			m.tasks[ti.GetTaskId().GetValue()] = &fakeTask{o.agent, o.framework}
			if a.conn != nil {
				a.conn.Send(a.channel, &linkv1.Message{Kind: &linkv1.Message_RunTask{RunTask: &linkv1.RunTask{Framework: f.info, Task: ti}}})
			}
		}
		m.offer(a)
	case schedulerv1.Call_DECLINE:
		for _, id := range call.GetDecline().GetOfferIds() {
			o := m.offers[id.GetValue()]
			delete(m.offers, id.GetValue())
			m.agents[o.agent].offered = false
			m.offer(m.agents[o.agent])
		}
	case schedulerv1.Call_ACKNOWLEDGE:
		ack := call.GetAcknowledge()
		if a := m.agents[ack.GetAgentId().GetValue()]; a.conn != nil {
			a.conn.Send(a.channel, &linkv1.Message{Kind: &linkv1.Message_UpdateAck{UpdateAck: &linkv1.UpdateAck{
				FrameworkId: call.GetFrameworkId(), TaskId: ack.GetTaskId(), Uuid: ack.GetUuid(),
			}}})
		}
	case schedulerv1.Call_TEARDOWN:
		delete(m.frameworks, call.GetFrameworkId().GetValue())
		m.order = slices.DeleteFunc(m.order, func(id string) bool { return id == call.GetFrameworkId().GetValue() })
		for _, a := range m.agents {
			if a.conn != nil {
				a.conn.Send(a.channel, &linkv1.Message{Kind: &linkv1.Message_ShutdownFramework{ShutdownFramework: &linkv1.ShutdownFramework{FrameworkId: call.GetFrameworkId()}}})
			}
		}
		f.stream.Close(nil)
	}
	wire.Accepted(w)
}

func (m *fakeMaster) subscribe(w http.ResponseWriter, r *http.Request, call *schedulerv1.Call) {
	m.mu.Lock()
	id := call.GetFrameworkId().GetValue()
	if id == "" {
		id = fmt.Sprintf("F%d", m.next)
		m.next++
	}
	m.mu.Unlock()
	ct, _ := wire.Negotiate(r)
	stream, err := wire.NewStream(w, r, wire.StreamConfig{ContentType: ct, ID: id})
	if err != nil {
		m.t.Error(err)
		return
	}
	stream.Send(wire.NewEvent(&schedulerv1.Event{Type: schedulerv1.Event_SUBSCRIBED.Enum(), Subscribed: &schedulerv1.Event_Subscribed{
		FrameworkId: &mesosv1.FrameworkID{Value: &id}, HeartbeatIntervalSeconds: proto.Float64(15),
	}}))
	info := proto.Clone(call.GetSubscribe().GetFrameworkInfo()).(*mesosv1.FrameworkInfo)
	info.Id = &mesosv1.FrameworkID{Value: &id}
	m.mu.Lock()
	if m.frameworks[id] == nil {
		m.order = append(m.order, id)
	}
	m.frameworks[id] = &fakeFramework{info, stream}
	for _, a := range m.agents {
		m.offer(a)
	}
	m.mu.Unlock()
	_ = stream.Serve(m.ctx)
}

// dropAgents cuts the connections of all agents.
func (m *fakeMaster) dropAgents() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.agents {
		if a.conn != nil {
			a.conn.Abort(fmt.Errorf("cut by the test"))
		}
	}
}
