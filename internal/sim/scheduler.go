package sim

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// goal is what a framework wants: launches at a rate, or a number of tasks.
type goal struct {
	rate       float64 // launches a second
	start      int64   // from then on, Unix nanoseconds
	launched   int     // how many were launched before
	population int
}

// scheduler is one simulated framework.
type scheduler struct {
	load  *Load
	index int

	mu       sync.Mutex
	id       *mesosv1.FrameworkID
	idBytes  []byte  // of id, encoded
	prefix   string  // of the ids of its tasks
	task     []byte  // what all its tasks have in common: an encoded TaskInfo's resources and command
	scratch  []byte  // of calls
	calls    *caller // nil while not subscribed
	offers   []held  // oldest first; those not in valid were rescinded
	valid    map[string]bool
	goal     goal
	launches []launch // by number of the task
	ended    int      // tasks that are over
	first    bool     // subscribed at least once
}

type held struct {
	id, agent string
	cpus, mem float64
}

type launch struct {
	intended, sent int64
	running        bool
	over           bool
}

func newScheduler(l *Load, index int) *scheduler {
	s := &scheduler{load: l, index: index, valid: make(map[string]bool), prefix: "sim-" + strconv.Itoa(index) + "-"}
	const resources, command = 4, 7 // of TaskInfo
	for _, r := range []*mesosv1.Resource{scalar("cpus", l.cfg.TaskCPUs), scalar("mem", l.cfg.TaskMem)} {
		b, _ := r.MarshalVT() // what it requires is there
		s.task = appendField(s.task, resources, b)
	}
	s.task = appendNested(s.task, command, func(b []byte) []byte {
		const value = 3 // of CommandInfo
		return appendField(b, value, []byte("true"))
	})
	return s
}

func (s *scheduler) setGoal(g goal) {
	s.mu.Lock()
	g.launched = len(s.launches)
	s.goal = g
	s.mu.Unlock()
	s.pump()
}

func (s *scheduler) run(ctx context.Context) {
	client, err := wire.NewClient(wire.ClientConfig{
		Masters: []string{s.load.cfg.Master}, Path: "/api/v1/scheduler", ContentType: s.load.cfg.ContentType, Transport: wire.NewTransport(s.load.cfg.Dial),
	})
	if err != nil {
		s.load.cfg.Log.Error("simulated framework cannot run", "error", err)
		return
	}
	defer client.Close()
	for ctx.Err() == nil {
		err := s.session(ctx, client)
		if ctx.Err() != nil {
			break
		}
		s.load.Stats.Resubs.Add(1)
		s.load.cfg.Log.Warn("simulated framework lost its stream", "framework", s.index, "error", err)
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// session is one subscription.
func (s *scheduler) session(ctx context.Context, client *wire.Client) error {
	cfg := &s.load.cfg
	info := &mesosv1.FrameworkInfo{
		User: proto.String("root"), Name: proto.String("sim-" + strconv.Itoa(s.index)), Roles: []string{cfg.Role},
		FailoverTimeout: proto.Float64(cfg.FailoverTimeout.Seconds()),
	}
	for _, c := range []mesosv1.FrameworkInfo_Capability_Type{
		mesosv1.FrameworkInfo_Capability_MULTI_ROLE, mesosv1.FrameworkInfo_Capability_RESERVATION_REFINEMENT, mesosv1.FrameworkInfo_Capability_PARTITION_AWARE,
	} {
		info.Capabilities = append(info.Capabilities, &mesosv1.FrameworkInfo_Capability{Type: c.Enum()})
	}
	s.mu.Lock()
	info.Id = s.id
	s.mu.Unlock()
	// The stream outlives ctx by a TEARDOWN: the master tears down only what is subscribed.
	streaming, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	events, err := client.Open(streaming, &schedulerv1.Call{
		Type: schedulerv1.Call_SUBSCRIBE.Enum(), FrameworkId: info.Id, Subscribe: &schedulerv1.Call_Subscribe{FrameworkInfo: info},
	})
	if err != nil {
		return err
	}
	defer events.Close()
	stop := context.AfterFunc(ctx, func() { s.leave(client, cancel) })
	defer stop()
	defer s.disconnected()
	event := new(schedulerv1.Event)
	for err = events.Next(event); err == nil; {
		if err = s.event(streaming, client, event, now()); err != nil {
			return err
		}
		// Of the messages that come with every task only the parts that matter are decoded.
		var record []byte
		for known := true; known; {
			if record, err = events.NextRecord(); err != nil {
				return err
			}
			known = events.ContentType() == wire.Protobuf && s.record(record, now())
		}
		event = new(schedulerv1.Event)
		err = events.ContentType().Unmarshal(record, event)
	}
	return err
}

// leave tears the framework down, or just drops the stream.
func (s *scheduler) leave(client *wire.Client, cancel context.CancelFunc) {
	defer cancel()
	s.mu.Lock()
	id := s.id
	s.goal = goal{launched: len(s.launches)}
	s.mu.Unlock()
	if id == nil || s.load.cfg.KeepAfterwards {
		return
	}
	ctx, done := context.WithTimeout(context.Background(), 10*time.Second)
	defer done()
	if err := client.Call(ctx, &schedulerv1.Call{Type: schedulerv1.Call_TEARDOWN.Enum(), FrameworkId: id}); err != nil {
		s.load.cfg.Log.Debug("simulated framework was not torn down", "framework", s.index, "error", err)
	}
}

func (s *scheduler) disconnected() {
	s.mu.Lock()
	calls := s.calls
	s.calls, s.offers = nil, nil
	clear(s.valid)
	s.mu.Unlock()
	if calls != nil {
		calls.conn.Close()
	}
}

// record handles an encoded event if it is of the frequent ones.
func (s *scheduler) record(record []byte, at int64) bool {
	kind, payload, ok := eventOf(record)
	if !ok || payload == nil {
		return false
	}
	switch kind {
	case schedulerv1.Event_OFFERS:
		var offers []held
		ok := fields(payload, func(num protowire.Number, _ uint64, b []byte) bool {
			if num != 1 {
				return true
			}
			h, ok := offerOf(b)
			offers = append(offers, h)
			return ok
		})
		if ok {
			s.offered(offers, at)
		}
		return ok
	case schedulerv1.Event_UPDATE:
		st, ok := statusOf(field(payload, 1))
		if ok {
			s.update(&st, at)
		}
		return ok
	}
	return false
}

func (s *scheduler) offered(offers []held, at int64) {
	stats := &s.load.Stats
	stats.Offers.Add(int64(len(offers)))
	s.mu.Lock()
	s.offers = append(s.offers, offers...)
	for _, h := range offers {
		s.valid[h.id] = true
	}
	s.mu.Unlock()
	for _, h := range offers {
		s.load.freed.offered(h.agent, at, &stats.Offer)
	}
	s.pump()
}

func (s *scheduler) event(ctx context.Context, client *wire.Client, ev *schedulerv1.Event, at int64) error {
	switch ev.GetType() {
	case schedulerv1.Event_SUBSCRIBED:
		return s.subscribed(ctx, client, ev.GetSubscribed().GetFrameworkId())
	case schedulerv1.Event_OFFERS:
		var offers []held
		for _, o := range ev.GetOffers().GetOffers() {
			h := held{id: o.GetId().GetValue(), agent: o.GetAgentId().GetValue()}
			for _, r := range o.GetResources() {
				switch r.GetName() {
				case "cpus":
					h.cpus += r.GetScalar().GetValue()
				case "mem":
					h.mem += r.GetScalar().GetValue()
				}
			}
			offers = append(offers, h)
		}
		s.offered(offers, at)
	case schedulerv1.Event_RESCIND:
		s.mu.Lock()
		delete(s.valid, ev.GetRescind().GetOfferId().GetValue())
		s.mu.Unlock()
	case schedulerv1.Event_UPDATE:
		st := seen(ev.GetUpdate().GetStatus())
		s.update(&st, at)
	case schedulerv1.Event_ERROR:
		return fmt.Errorf("the master says: %s", ev.GetError().GetMessage())
	}
	return nil
}

func (s *scheduler) subscribed(ctx context.Context, client *wire.Client, id *mesosv1.FrameworkID) error {
	leader, err := url.Parse(client.Leader())
	if err != nil {
		return err
	}
	media := s.load.cfg.ContentType.String()
	calls, err := dialCaller(ctx, s.load.cfg.Dial, leader.Host, "/api/v1/scheduler",
		"Content-Type: "+media+"\r\nAccept: "+media+"\r\nMesos-Stream-Id: "+client.StreamID()+"\r\n", s.answered)
	if err != nil {
		return err
	}
	go func() {
		if err := calls.run(ctx); err != nil && ctx.Err() == nil {
			s.load.cfg.Log.Debug("calls of a simulated framework ended", "framework", s.index, "error", err)
		}
	}()
	s.mu.Lock()
	s.id, s.idBytes, s.calls = id, appendID(nil, id.GetValue()), calls
	first := !s.first
	s.first = true
	s.mu.Unlock()
	if first && s.load.subscribed.Add(1) == int64(len(s.load.frameworks)) {
		s.load.once.Do(func() { close(s.load.ready) })
	}
	return nil
}

// post encodes and queues a call. s.mu is held.
func (s *scheduler) post(call *schedulerv1.Call) {
	if s.calls == nil {
		return
	}
	body, err := s.load.cfg.ContentType.Append(s.scratch[:0], call)
	if err != nil {
		s.load.cfg.Log.Error("a call cannot be encoded", "error", err)
		return
	}
	s.scratch = body
	s.calls.post(body, sentCall{})
}

// answered takes the status of an answer.
func (s *scheduler) answered(call sentCall, status int) {
	stats := &s.load.Stats
	if status != http.StatusAccepted {
		stats.Refused.Add(1)
		return
	}
	if !call.ack {
		return
	}
	answered := now()
	stats.Ack.Record(time.Duration(answered - call.sentAt))
	if call.intended != 0 {
		stats.Confirmed.Add(1)
		stats.Whole.Record(time.Duration(answered - call.intended))
	}
}

// numberOf reads back the number of a task from its id, an encoded TaskID.
func (s *scheduler) numberOf(id []byte) (int, bool) {
	value := valueOf(id)
	if len(value) <= len(s.prefix) || string(value[:len(s.prefix)]) != s.prefix {
		return 0, false
	}
	n := 0
	for _, c := range value[len(s.prefix):] {
		if c < '0' || c > '9' || n > 1<<40 {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, true
}

func (s *scheduler) update(status *seenStatus, at int64) {
	stats := &s.load.Stats
	n, ok := s.numberOf(status.taskID)
	s.mu.Lock()
	if !ok || n >= len(s.launches) {
		s.mu.Unlock()
		return
	}
	l := s.launches[n]
	firstRunning := status.state == mesosv1.TaskState_TASK_RUNNING && !l.running
	firstEnd := terminal(status.state) && !l.over
	s.launches[n].running = l.running || firstRunning
	if firstEnd {
		s.launches[n].over = true
		s.ended++
	}
	if len(status.uuid) > 0 {
		s.acknowledge(status, firstRunning, l.intended)
	}
	s.mu.Unlock()

	stamps, stamped := parseStamps(status.data)
	if firstRunning {
		stats.Running.Add(1)
		stats.Launch.Record(time.Duration(at - l.intended))
		if stamped {
			stats.ToAgent.Record(time.Duration(stamps.Arrived - l.sent))
			stats.AtAgent.Record(time.Duration(stamps.Sent - stamps.Arrived))
			stats.ToClient.Record(time.Duration(at - stamps.Sent))
		}
	}
	if !firstEnd {
		return
	}
	switch {
	case status.state == mesosv1.TaskState_TASK_FINISHED || status.state == mesosv1.TaskState_TASK_FAILED && status.source == mesosv1.TaskStatus_SOURCE_EXECUTOR:
		stats.Ended.Add(1)
	default:
		stats.Lost.Add(1)
	}
	if stamped {
		s.load.freed.free(string(valueOf(status.agentID)), stamps.Sent, &stats.Offer)
	}
	s.pump()
}

// acknowledge answers an update. s.mu is held.
func (s *scheduler) acknowledge(status *seenStatus, firstRunning bool, intended int64) {
	if s.calls == nil {
		return
	}
	sent := sentCall{ack: true}
	if firstRunning {
		sent.intended = intended
	}
	if s.load.cfg.ContentType == wire.Protobuf {
		s.scratch = acknowledgeCall(s.scratch[:0], s.idBytes, status)
	} else {
		body, err := s.load.cfg.ContentType.Append(s.scratch[:0], &schedulerv1.Call{
			Type: schedulerv1.Call_ACKNOWLEDGE.Enum(), FrameworkId: s.id,
			Acknowledge: &schedulerv1.Call_Acknowledge{
				AgentId: &mesosv1.AgentID{Value: proto.String(string(valueOf(status.agentID)))},
				TaskId:  &mesosv1.TaskID{Value: proto.String(string(valueOf(status.taskID)))}, Uuid: status.uuid,
			},
		})
		if err != nil {
			s.load.cfg.Log.Error("a call cannot be encoded", "error", err)
			return
		}
		s.scratch = body
	}
	s.calls.post(s.scratch, sent)
}

// due is how many tasks should have been launched by now and were not.
func (s *scheduler) due(at int64) int {
	g := &s.goal
	if g.rate > 0 {
		elapsed := float64(at-g.start) / 1e9
		if elapsed < 0 {
			return 0
		}
		return int(elapsed*g.rate) + 1 - (len(s.launches) - g.launched)
	}
	return g.population - (len(s.launches) - s.ended)
}

// intended is when task n should have been launched: at its place in the rate, or as soon as it is wanted.
func (s *scheduler) intended(n int, at int64) int64 {
	if s.goal.rate > 0 {
		return s.goal.start + int64(float64(n-s.goal.launched)/s.goal.rate*1e9)
	}
	return at
}

// pump launches what is due on the offers that are held.
func (s *scheduler) pump() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil || len(s.offers) == 0 {
		return
	}
	at := now()
	defer s.declineSurplus()
	for due := s.due(at); due > 0 && len(s.offers) > 0; due = s.due(at) {
		o := s.offers[0]
		s.offers = s.offers[1:]
		if !s.valid[o.id] {
			continue
		}
		delete(s.valid, o.id)
		cfg := &s.load.cfg
		// A little less than all, because sums of fractions are not exact.
		fit := int(math.Floor(min(o.cpus/cfg.TaskCPUs, o.mem/cfg.TaskMem) + 1e-6))
		if fit == 0 {
			s.post(&schedulerv1.Call{
				Type: schedulerv1.Call_DECLINE.Enum(), FrameworkId: s.id,
				Decline: &schedulerv1.Call_Decline{OfferIds: []*mesosv1.OfferID{{Value: proto.String(o.id)}}},
			})
			continue
		}
		s.accept(o, min(due, fit, cfg.Batch), at)
	}
}

// declineSurplus gives the newest offers back that are more than this framework keeps. s.mu is held.
func (s *scheduler) declineSurplus() {
	keep := s.load.cfg.Hold
	if keep <= 0 || len(s.offers) <= keep {
		return
	}
	var ids []*mesosv1.OfferID
	for _, o := range s.offers[keep:] {
		if s.valid[o.id] {
			delete(s.valid, o.id)
			ids = append(ids, &mesosv1.OfferID{Value: proto.String(o.id)})
		}
	}
	s.offers = s.offers[:keep]
	if len(ids) > 0 {
		s.post(&schedulerv1.Call{
			Type: schedulerv1.Call_DECLINE.Enum(), FrameworkId: s.id,
			Decline: &schedulerv1.Call_Decline{OfferIds: ids, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(1)}},
		})
	}
}

func (s *scheduler) accept(o held, n int, at int64) {
	first := len(s.launches)
	for i := range n {
		l := launch{intended: s.intended(first+i, at), sent: at}
		s.launches = append(s.launches, l)
		s.load.Stats.Late.Record(time.Duration(at - l.intended))
	}
	s.load.Stats.Launched.Add(int64(n))
	if s.load.cfg.ContentType == wire.Protobuf {
		s.scratch = s.acceptCall(s.scratch[:0], o, first, n)
		s.calls.post(s.scratch, sentCall{})
		return
	}
	tasks := make([]*mesosv1.TaskInfo, n)
	for i := range tasks {
		tasks[i] = new(mesosv1.TaskInfo)
		if err := tasks[i].UnmarshalVT(s.taskInfo(nil, o.agent, first+i)); err != nil {
			s.load.cfg.Log.Error("a task cannot be decoded", "error", err)
			return
		}
	}
	s.post(&schedulerv1.Call{
		Type: schedulerv1.Call_ACCEPT.Enum(), FrameworkId: s.id,
		Accept: &schedulerv1.Call_Accept{
			OfferIds: []*mesosv1.OfferID{{Value: &o.id}}, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(0)},
			Operations: []*mesosv1.Offer_Operation{{
				Type: mesosv1.Offer_Operation_LAUNCH.Enum(), Launch: &mesosv1.Offer_Operation_Launch{TaskInfos: tasks},
			}},
		},
	})
}

// acceptCall appends an encoded ACCEPT that launches n tasks from number first on.
func (s *scheduler) acceptCall(b []byte, o held, first, n int) []byte {
	b = appendField(b, 1, s.idBytes)
	b = appendVarint(b, 2, uint64(schedulerv1.Call_ACCEPT))
	return appendNested(b, 4, func(b []byte) []byte {
		b = appendNested(b, 1, func(b []byte) []byte { return appendID(b, o.id) })
		b = appendNested(b, 2, func(b []byte) []byte {
			b = appendVarint(b, 1, uint64(mesosv1.Offer_Operation_LAUNCH))
			return appendNested(b, 2, func(b []byte) []byte {
				for i := range n {
					b = appendNested(b, 1, func(b []byte) []byte { return s.taskInfo(b, o.agent, first+i) })
				}
				return b
			})
		})
		return appendNested(b, 3, func(b []byte) []byte {
			return protowire.AppendFixed64(protowire.AppendTag(b, 1, protowire.Fixed64Type), 0) // refuse_seconds
		})
	})
}

// taskInfo appends an encoded TaskInfo.
func (s *scheduler) taskInfo(b []byte, agent string, number int) []byte {
	var digits [20]byte
	id := func(b []byte) []byte {
		return append(append(b, s.prefix...), strconv.AppendInt(digits[:0], int64(number), 10)...)
	}
	b = appendNested(b, 1, id)
	b = appendNested(b, 2, func(b []byte) []byte { return appendNested(b, 1, id) })
	b = appendNested(b, 3, func(b []byte) []byte { return appendID(b, agent) })
	return append(b, s.task...)
}
