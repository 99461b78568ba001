package sim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

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
	return &scheduler{load: l, index: index, valid: make(map[string]bool)}
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
	for {
		event := new(schedulerv1.Event)
		if err := events.Next(event); err != nil {
			return err
		}
		if err := s.event(streaming, client, event, now()); err != nil {
			return err
		}
	}
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

func (s *scheduler) event(ctx context.Context, client *wire.Client, ev *schedulerv1.Event, at int64) error {
	stats := &s.load.Stats
	switch ev.GetType() {
	case schedulerv1.Event_SUBSCRIBED:
		return s.subscribed(ctx, client, ev.GetSubscribed().GetFrameworkId())
	case schedulerv1.Event_OFFERS:
		offers := ev.GetOffers().GetOffers()
		stats.Offers.Add(int64(len(offers)))
		s.mu.Lock()
		for _, o := range offers {
			h := held{id: o.GetId().GetValue(), agent: o.GetAgentId().GetValue()}
			for _, r := range o.GetResources() {
				switch r.GetName() {
				case "cpus":
					h.cpus += r.GetScalar().GetValue()
				case "mem":
					h.mem += r.GetScalar().GetValue()
				}
			}
			s.offers = append(s.offers, h)
			s.valid[h.id] = true
		}
		s.mu.Unlock()
		for _, o := range offers {
			s.load.freed.offered(o.GetAgentId().GetValue(), at, &stats.Offer)
		}
		s.pump()
	case schedulerv1.Event_RESCIND:
		s.mu.Lock()
		delete(s.valid, ev.GetRescind().GetOfferId().GetValue())
		s.mu.Unlock()
	case schedulerv1.Event_UPDATE:
		s.update(ev.GetUpdate().GetStatus(), at)
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
		"Content-Type: "+media+"\r\nAccept: "+media+"\r\nMesos-Stream-Id: "+client.StreamID()+"\r\n")
	if err != nil {
		return err
	}
	go func() {
		if err := calls.run(ctx); err != nil && ctx.Err() == nil {
			s.load.cfg.Log.Debug("calls of a simulated framework ended", "framework", s.index, "error", err)
		}
	}()
	s.mu.Lock()
	s.id, s.calls = id, calls
	first := !s.first
	s.first = true
	s.mu.Unlock()
	if first && s.load.subscribed.Add(1) == int64(len(s.load.frameworks)) {
		s.load.once.Do(func() { close(s.load.ready) })
	}
	return nil
}

func (s *scheduler) post(call *schedulerv1.Call, done func(status int, sentAt int64)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.postLocked(call, done)
}

func (s *scheduler) postLocked(call *schedulerv1.Call, done func(status int, sentAt int64)) {
	if s.calls == nil {
		return
	}
	body, err := s.load.cfg.ContentType.Marshal(call)
	if err != nil {
		s.load.cfg.Log.Error("a call cannot be encoded", "error", err)
		return
	}
	s.calls.post(body, func(status int, sentAt int64) {
		if status != http.StatusAccepted {
			s.load.Stats.Refused.Add(1)
		}
		if done != nil {
			done(status, sentAt)
		}
	})
}

// taskID names task n of this framework; numberOf reads it back.
func (s *scheduler) taskID(n int) string { return fmt.Sprintf("sim-%d-%d", s.index, n) }

func (s *scheduler) numberOf(id string) (int, error) {
	prefix := fmt.Sprintf("sim-%d-", s.index)
	if len(id) <= len(prefix) || id[:len(prefix)] != prefix {
		return 0, errors.New("not a task of this framework")
	}
	return strconv.Atoi(id[len(prefix):])
}

func (s *scheduler) update(status *mesosv1.TaskStatus, at int64) {
	stats := &s.load.Stats
	n, err := s.numberOf(status.GetTaskId().GetValue())
	s.mu.Lock()
	if err != nil || n >= len(s.launches) {
		s.mu.Unlock()
		return
	}
	l := s.launches[n]
	state := status.GetState()
	firstRunning := state == mesosv1.TaskState_TASK_RUNNING && !l.running
	firstEnd := terminal(state) && !l.over
	s.launches[n].running = l.running || firstRunning
	if firstEnd {
		s.launches[n].over = true
		s.ended++
	}
	s.mu.Unlock()

	stamps, stamped := parseStamps(status.GetData())
	if firstRunning {
		stats.Running.Add(1)
		stats.Launch.Record(time.Duration(at - l.intended))
		if stamped {
			stats.ToAgent.Record(time.Duration(stamps.Arrived - l.sent))
			stats.AtAgent.Record(time.Duration(stamps.Sent - stamps.Arrived))
			stats.ToClient.Record(time.Duration(at - stamps.Sent))
		}
	}
	if firstEnd {
		switch {
		case state == mesosv1.TaskState_TASK_FINISHED || state == mesosv1.TaskState_TASK_FAILED && status.GetSource() == mesosv1.TaskStatus_SOURCE_EXECUTOR:
			stats.Ended.Add(1)
		default:
			stats.Lost.Add(1)
		}
		if stamped {
			s.load.freed.free(status.GetAgentId().GetValue(), stamps.Sent, &stats.Offer)
		}
	}
	if len(status.GetUuid()) > 0 {
		s.post(&schedulerv1.Call{
			Type: schedulerv1.Call_ACKNOWLEDGE.Enum(), FrameworkId: s.id,
			Acknowledge: &schedulerv1.Call_Acknowledge{AgentId: status.GetAgentId(), TaskId: status.GetTaskId(), Uuid: status.GetUuid()},
		}, func(code int, sentAt int64) {
			if code != http.StatusAccepted {
				return
			}
			answered := now()
			stats.Ack.Record(time.Duration(answered - sentAt))
			if firstRunning {
				stats.Confirmed.Add(1)
				stats.Whole.Record(time.Duration(answered - l.intended))
			}
		})
	}
	if firstEnd {
		s.pump()
	}
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
			s.postLocked(&schedulerv1.Call{
				Type: schedulerv1.Call_DECLINE.Enum(), FrameworkId: s.id,
				Decline: &schedulerv1.Call_Decline{OfferIds: []*mesosv1.OfferID{{Value: proto.String(o.id)}}},
			}, nil)
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
		s.postLocked(&schedulerv1.Call{
			Type: schedulerv1.Call_DECLINE.Enum(), FrameworkId: s.id,
			Decline: &schedulerv1.Call_Decline{OfferIds: ids, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(1)}},
		}, nil)
	}
}

func (s *scheduler) accept(o held, n int, at int64) {
	cfg := &s.load.cfg
	agent := &mesosv1.AgentID{Value: &o.agent}
	resources := []*mesosv1.Resource{scalar("cpus", cfg.TaskCPUs), scalar("mem", cfg.TaskMem)}
	command := &mesosv1.CommandInfo{Value: proto.String("true")}
	tasks := make([]*mesosv1.TaskInfo, n)
	for i := range tasks {
		number := len(s.launches)
		l := launch{intended: s.intended(number, at), sent: at}
		s.launches = append(s.launches, l)
		s.load.Stats.Late.Record(time.Duration(at - l.intended))
		id := s.taskID(number)
		tasks[i] = &mesosv1.TaskInfo{Name: &id, TaskId: &mesosv1.TaskID{Value: &id}, AgentId: agent, Resources: resources, Command: command}
	}
	s.load.Stats.Launched.Add(int64(n))
	s.postLocked(&schedulerv1.Call{
		Type: schedulerv1.Call_ACCEPT.Enum(), FrameworkId: s.id,
		Accept: &schedulerv1.Call_Accept{
			OfferIds: []*mesosv1.OfferID{{Value: &o.id}}, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(0)},
			Operations: []*mesosv1.Offer_Operation{{
				Type: mesosv1.Offer_Operation_LAUNCH.Enum(), Launch: &mesosv1.Offer_Operation_Launch{TaskInfos: tasks},
			}},
		},
	}, nil)
}
