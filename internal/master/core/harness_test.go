package core

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	maintenancev1 "github.com/orchestrator/orchestrator/api/mesos/v1/maintenance"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/allocator"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// world drives a State: it answers registry writes, keeps what they wrote, and collects what streams and agents get.
type world struct {
	t        *testing.T
	s        *State
	now      time.Time
	registry map[string][]byte
	holding  bool // registry writes wait in held
	held     []*Store
	storeErr error
	silent   bool // agents don't answer pings

	events   map[StreamID][]*schedulerv1.Event
	closed   map[StreamID]bool
	messages map[ConnID][]*linkv1.Message
	dropped  map[ConnID]bool
	replies  map[Token]*Reply
	operator []*masterv1.Event
	tokens   Token
	conns    ConnID
	streams  int
}

func testConfig() Config {
	return Config{
		Master: &mesosv1.MasterInfo{
			Id: proto.String("M"), Ip: proto.Uint32(16777343), Port: proto.Uint32(5050), Hostname: proto.String("localhost"),
		},
		AgentPingTimeout: 15 * time.Second, MaxAgentPingTimeouts: 5, AgentReregisterTimeout: 10 * time.Minute,
		OfferTimeout: 0, MaxCompletedFrameworks: 50, MaxCompletedTasksPerFramework: 1000, MaxUnreachableTasksPerFrame: 1000,
		RootSubmissions: true, OfferConstraintsMaxProgramSize: 100,
		Allocator: allocator.Options{MinAllocatable: allocator.DefaultMinAllocatable(), FilterGPU: true, AllocationInterval: time.Second},
	}
}

func newWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	cfg := testConfig()
	for _, c := range change {
		c(&cfg)
	}
	w := &world{t: t, now: time.Unix(1000000, 0), registry: map[string][]byte{}}
	w.start(cfg)
	return w
}

// start makes a new leader out of what the registry holds.
func (w *world) start(cfg Config) {
	w.t.Helper()
	var reg Registry
	keys := make([]string, 0, len(w.registry))
	for k := range w.registry {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		reg = append(reg, Record{k, w.registry[k]})
	}
	s, err := New(cfg, reg, w.now)
	if err != nil {
		w.t.Fatalf("new leader: %v", err)
	}
	w.s = s
	w.events = map[StreamID][]*schedulerv1.Event{}
	w.closed = map[StreamID]bool{}
	w.messages = map[ConnID][]*linkv1.Message{}
	w.dropped = map[ConnID]bool{}
	w.replies = map[Token]*Reply{}
	w.flush()
}

// fail over to a new leader with another id; everything that was connected is gone.
func (w *world) failOver(id string) {
	w.t.Helper()
	cfg := w.s.cfg
	cfg.Master = cfg.Master.CloneVT()
	cfg.Master.Id = proto.String(id)
	w.start(cfg)
}

func (w *world) flush() {
	for {
		effects := w.s.Flush(w.now)
		if len(effects) == 0 {
			return
		}
		for _, e := range effects {
			w.apply(e)
		}
	}
}

func (w *world) apply(e Effect) {
	switch e := e.(type) {
	case *SendEvent:
		w.events[e.Stream] = append(w.events[e.Stream], e.Event)
	case *CloseStream:
		w.closed[e.Stream] = true
	case *SendAgent:
		if e.Message.GetPing() != nil {
			if !w.silent {
				w.s.Step(w.now, &AgentMessage{Conn: e.Conn, Message: &linkv1.Message{Kind: &linkv1.Message_Pong{Pong: &linkv1.Pong{}}}})
			}
			return
		}
		w.messages[e.Conn] = append(w.messages[e.Conn], e.Message)
	case *SendAck:
		w.messages[e.Conn] = append(w.messages[e.Conn], e.Message())
	case *CloseAgent:
		w.dropped[e.Conn] = true
	case *Store:
		if w.holding {
			w.held = append(w.held, e)
			return
		}
		w.commit(e)
	case *Reply:
		w.replies[e.Token] = e
	case *SendOperator:
		w.operator = append(w.operator, e.Event)
	}
}

func (w *world) commit(e *Store) {
	if w.storeErr == nil {
		for _, d := range e.Deletes {
			delete(w.registry, d)
		}
		for _, p := range e.Puts {
			w.registry[p.Key] = p.Value
		}
	}
	w.s.Step(w.now, &StoreDone{Token: e.Token, Err: w.storeErr})
}

// release commits what was held back.
func (w *world) release() {
	w.holding = false
	held := w.held
	w.held = nil
	for _, e := range held {
		w.commit(e)
	}
	w.flush()
}

func (w *world) step(e Event) {
	w.s.Step(w.now, e)
	w.flush()
}

// pass lets time go by, second by second, so that timers run in their order.
func (w *world) pass(d time.Duration) {
	end := w.now.Add(d)
	for w.now.Before(end) {
		next, ok := w.s.NextTimer()
		if !ok || next.After(end) {
			next = end
		}
		if next.After(w.now) {
			w.now = next
		} else {
			w.now = w.now.Add(time.Millisecond)
		}
		w.flush()
	}
}

// scheduler is a framework's scheduler in a test.
type scheduler struct {
	w      *world
	id     ids.Framework
	stream StreamID
	info   *mesosv1.FrameworkInfo
	seen   int
}

type option func(*mesosv1.FrameworkInfo)

func caps(list ...mesosv1.FrameworkInfo_Capability_Type) option {
	return func(i *mesosv1.FrameworkInfo) {
		for _, c := range list {
			i.Capabilities = append(i.Capabilities, &mesosv1.FrameworkInfo_Capability{Type: c.Enum()})
		}
	}
}

func role(r string) option { return func(i *mesosv1.FrameworkInfo) { i.Role = proto.String(r) } }

func roles(list ...string) option {
	return func(i *mesosv1.FrameworkInfo) {
		i.Roles = list
		caps(mesosv1.FrameworkInfo_Capability_MULTI_ROLE)(i)
	}
}

func failover(secs float64) option {
	return func(i *mesosv1.FrameworkInfo) { i.FailoverTimeout = proto.Float64(secs) }
}

func checkpoint(i *mesosv1.FrameworkInfo) { i.Checkpoint = proto.Bool(true) }

var partitionAware = caps(mesosv1.FrameworkInfo_Capability_PARTITION_AWARE)

func (w *world) subscribe(opts ...option) *scheduler {
	w.t.Helper()
	info := &mesosv1.FrameworkInfo{User: proto.String("u"), Name: proto.String("f")}
	for _, o := range opts {
		o(info)
	}
	sc := &scheduler{w: w, info: info}
	sc.connect()
	if sc.id == "" {
		w.t.Fatalf("framework was not subscribed: %v", w.events[sc.stream])
	}
	return sc
}

// connect subscribes with what is known of the framework.
func (sc *scheduler) connect() {
	w := sc.w
	w.streams++
	sc.stream = StreamID(fmt.Sprintf("stream-%d", w.streams))
	sc.seen = 0
	info := sc.info.CloneVT()
	call := &schedulerv1.Call{Type: schedulerv1.Call_SUBSCRIBE.Enum(), Subscribe: &schedulerv1.Call_Subscribe{FrameworkInfo: info}}
	if sc.id != "" {
		info.Id = &mesosv1.FrameworkID{Value: proto.String(string(sc.id))}
		call.FrameworkId = info.Id
	}
	w.step(&SchedulerSubscribe{Stream: sc.stream, Call: call})
	for _, e := range w.events[sc.stream] {
		if e.GetType() == schedulerv1.Event_SUBSCRIBED {
			sc.id = ids.Framework(e.GetSubscribed().GetFrameworkId().GetValue())
		}
	}
}

func (sc *scheduler) disconnect() { sc.w.step(&SchedulerDisconnected{Stream: sc.stream}) }

func (sc *scheduler) call(c *schedulerv1.Call) Token {
	c.FrameworkId = &mesosv1.FrameworkID{Value: proto.String(string(sc.id))}
	sc.w.tokens++
	sc.w.step(&SchedulerCall{Stream: sc.stream, Call: c, Token: sc.w.tokens})
	return sc.w.tokens
}

// next gives the events since the last call.
func (sc *scheduler) next() []*schedulerv1.Event {
	all := sc.w.events[sc.stream]
	out := all[min(sc.seen, len(all)):]
	sc.seen = len(all)
	return out
}

func (sc *scheduler) offers() (out []*mesosv1.Offer) {
	for _, e := range sc.next() {
		out = append(out, e.GetOffers().GetOffers()...)
	}
	return out
}

func (sc *scheduler) updates() (out []*mesosv1.TaskStatus) {
	for _, e := range sc.next() {
		if e.Update != nil {
			out = append(out, e.GetUpdate().GetStatus())
		}
	}
	return out
}

func (sc *scheduler) oneOffer() *mesosv1.Offer {
	sc.w.t.Helper()
	o := sc.offers()
	if len(o) != 1 {
		sc.w.t.Fatalf("framework %s has %d offers, want 1", sc.id, len(o))
	}
	return o[0]
}

func (sc *scheduler) accept(o *mesosv1.Offer, refuse float64, ops ...*mesosv1.Offer_Operation) {
	sc.call(&schedulerv1.Call{Type: schedulerv1.Call_ACCEPT.Enum(), Accept: &schedulerv1.Call_Accept{
		OfferIds: []*mesosv1.OfferID{o.GetId()}, Operations: ops, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(refuse)},
	}})
}

func (sc *scheduler) decline(refuse float64, offers ...*mesosv1.Offer) {
	c := &schedulerv1.Call_Decline{Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(refuse)}}
	for _, o := range offers {
		c.OfferIds = append(c.OfferIds, o.GetId())
	}
	sc.call(&schedulerv1.Call{Type: schedulerv1.Call_DECLINE.Enum(), Decline: c})
}

func (sc *scheduler) ack(st *mesosv1.TaskStatus) {
	sc.call(&schedulerv1.Call{Type: schedulerv1.Call_ACKNOWLEDGE.Enum(), Acknowledge: &schedulerv1.Call_Acknowledge{
		AgentId: st.GetAgentId(), TaskId: st.GetTaskId(), Uuid: st.GetUuid(),
	}})
}

func (sc *scheduler) kill(task string) {
	sc.call(&schedulerv1.Call{Type: schedulerv1.Call_KILL.Enum(), Kill: &schedulerv1.Call_Kill{TaskId: &mesosv1.TaskID{Value: proto.String(task)}}})
}

func launch(tasks ...*mesosv1.TaskInfo) *mesosv1.Offer_Operation {
	return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_LAUNCH.Enum(), Launch: &mesosv1.Offer_Operation_Launch{TaskInfos: tasks}}
}

func commandTask(id string, o *mesosv1.Offer, res string) *mesosv1.TaskInfo {
	return &mesosv1.TaskInfo{
		Name: proto.String(id), TaskId: &mesosv1.TaskID{Value: proto.String(id)}, AgentId: o.GetAgentId(),
		Resources: resources.MustParse(res).Proto(), Command: &mesosv1.CommandInfo{Value: proto.String("true")},
	}
}

// node is an agent in a test.
type node struct {
	w    *world
	conn ConnID
	id   ids.Agent
	info *mesosv1.AgentInfo
	seen int
}

var agentCaps = []mesosv1.AgentInfo_Capability_Type{
	mesosv1.AgentInfo_Capability_MULTI_ROLE, mesosv1.AgentInfo_Capability_HIERARCHICAL_ROLE,
	mesosv1.AgentInfo_Capability_RESERVATION_REFINEMENT, mesosv1.AgentInfo_Capability_RESIZE_VOLUME,
	mesosv1.AgentInfo_Capability_AGENT_OPERATION_FEEDBACK, mesosv1.AgentInfo_Capability_AGENT_DRAINING,
	mesosv1.AgentInfo_Capability_TASK_RESOURCE_LIMITS,
}

func (n *node) register() *linkv1.Register {
	r := &linkv1.Register{
		Info: n.info, Version: proto.String("1.11.0"), TotalResources: n.info.GetResources(),
		Address: proto.String(n.info.GetHostname() + ":5051"),
	}
	for _, c := range agentCaps {
		r.Capabilities = append(r.Capabilities, &mesosv1.AgentInfo_Capability{Type: c.Enum()})
	}
	return r
}

func (w *world) agent(hostname, res string) *node {
	w.t.Helper()
	return w.agentOf(&mesosv1.AgentInfo{Hostname: proto.String(hostname), Resources: resources.MustParse(res).Proto()})
}

func (w *world) agentOf(info *mesosv1.AgentInfo) *node {
	w.t.Helper()
	n := &node{w: w, info: info}
	n.connect()
	n.say(&linkv1.Message{Kind: &linkv1.Message_Register{Register: n.register()}})
	for _, m := range n.next() {
		if r := m.GetRegistered(); r != nil {
			n.id = ids.Agent(r.GetAgentId().GetValue())
		}
	}
	if n.id == "" && !w.holding {
		w.t.Fatalf("agent %s was not registered", info.GetHostname())
	}
	n.info = n.info.CloneVT()
	n.info.Id = &mesosv1.AgentID{Value: proto.String(string(n.id))}
	return n
}

func (n *node) connect() {
	n.w.conns++
	n.conn = n.w.conns
	n.seen = 0
}

func (n *node) say(m *linkv1.Message) { n.w.step(&AgentMessage{Conn: n.conn, Message: m}) }

func (n *node) next() []*linkv1.Message {
	all := n.w.messages[n.conn]
	out := all[min(n.seen, len(all)):]
	n.seen = len(all)
	return out
}

func (n *node) disconnect() { n.w.step(&AgentDisconnected{Conn: n.conn}) }

// reregister comes back on a new connection with the given frameworks and tasks.
func (n *node) reregister(frameworks []*mesosv1.FrameworkInfo, tasks ...*mesosv1.Task) []*linkv1.Message {
	n.connect()
	n.say(&linkv1.Message{Kind: &linkv1.Message_Reregister{Reregister: &linkv1.Reregister{Agent: n.register(), Frameworks: frameworks, Tasks: tasks}}})
	return n.next()
}

// launched gives the tasks that the agent was asked to run since the last look.
func (n *node) launched() (out []*mesosv1.TaskInfo) {
	for _, m := range n.next() {
		if r := m.GetRunTask(); r != nil {
			out = append(out, r.GetTask())
		}
		if r := m.GetRunTaskGroup(); r != nil {
			out = append(out, r.GetTaskGroup().GetTasks()...)
		}
	}
	return out
}

func (n *node) update(f ids.Framework, task string, state mesosv1.TaskState, uuid string) *mesosv1.TaskStatus {
	st := &mesosv1.TaskStatus{
		TaskId: &mesosv1.TaskID{Value: proto.String(task)}, State: state.Enum(), AgentId: n.info.GetId(),
		Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(), Timestamp: proto.Float64(seconds(n.w.now)),
	}
	if uuid != "" {
		st.Uuid = []byte(strings.Repeat(uuid, 16)[:16])
	}
	n.say(&linkv1.Message{Kind: &linkv1.Message_Update{Update: &linkv1.StatusUpdate{
		FrameworkId: &mesosv1.FrameworkID{Value: proto.String(string(f))}, Status: st, LatestState: state.Enum(),
	}}})
	return st
}

func (w *world) operate(c *masterv1.Call) *Reply {
	w.tokens++
	w.step(&OperatorCall{Token: w.tokens, Call: c})
	return w.replies[w.tokens]
}

func agentID(id ids.Agent) *mesosv1.AgentID { return &mesosv1.AgentID{Value: proto.String(string(id))} }

func states(list []*mesosv1.TaskStatus) (out []string) {
	for _, s := range list {
		x := strings.TrimPrefix(s.GetState().String(), "TASK_")
		if s.Reason != nil && s.GetSource() == mesosv1.TaskStatus_SOURCE_MASTER {
			x += "/" + strings.TrimPrefix(s.GetReason().String(), "REASON_")
		}
		out = append(out, x)
	}
	return out
}

func scheduleOf(start time.Time, machines ...*mesosv1.MachineID) *masterv1.Call_UpdateMaintenanceSchedule {
	return &masterv1.Call_UpdateMaintenanceSchedule{Schedule: &maintenancev1.Schedule{Windows: []*maintenancev1.Window{{
		MachineIds: machines, Unavailability: &mesosv1.Unavailability{Start: timeInfo(start)},
	}}}}
}
