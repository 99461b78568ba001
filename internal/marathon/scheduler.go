package marathon

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	v1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// Queues of calls. Acknowledgements have lanes of their own, because their order doesn't matter and they are many; the
// others are sent one after another. A full queue makes the committer wait, and with it everybody who changes something,
// but not for longer than a call may take.
const (
	callQueue = 4096
	ackLanes  = 4
)

// scheduler speaks to the Mesos master.
type scheduler struct {
	t      *term
	client *wire.Client
	calls  chan *v1.Call
	acks   chan *v1.Call
	missed atomic.Bool // a call failed, and the core doesn't know yet

	mu        sync.Mutex
	wanted    []string
	id        string
	connected bool
}

func newScheduler(t *term) (*scheduler, error) {
	cfg := wire.ClientConfig{
		Path: "/api/v1/scheduler", Principal: t.m.cfg.Principal, Secret: t.m.cfg.Secret, Detector: t.m.masters, Masters: t.m.cfg.Master.Addresses,
		Transport: wire.NewTransport(t.m.deps.Dial), MaxBackoff: 5 * time.Second, CallTimeout: 10 * time.Second,
	}
	client, err := wire.NewClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("preparing the connection to the Mesos master: %w", err)
	}
	return &scheduler{
		t: t, client: client, calls: make(chan *v1.Call, callQueue), acks: make(chan *v1.Call, callQueue),
		wanted: t.machine.WantedRoles(), id: t.machine.FrameworkID(),
	}, nil
}

func (s *scheduler) run(ctx context.Context) error {
	defer s.client.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.subscribe(ctx) })
	g.Go(func() error { return s.drain(ctx, s.calls) })
	for range ackLanes {
		g.Go(func() error { return s.drain(ctx, s.acks) })
	}
	return g.Wait()
}

// errFailedOver: another process subscribed with the same framework id, so this one must not act any more.
var errFailedOver = errors.New("another process took the framework over")

// resubscribeAfter is the pause after the master refused a subscription for good, such as for a wrong role: the
// configuration of the master may change.
const resubscribeAfter = 10 * time.Second

func (s *scheduler) subscribe(ctx context.Context) error {
	for {
		err := wire.Subscribe[v1.Event](ctx, s.client, wire.Subscription[v1.Event]{
			Call: s.subscribeCall, Event: s.event,
			Disconnected: func(err error, retry time.Duration) {
				s.lost(ctx)
				s.t.log.Warn("no connection to the Mesos master", "error", err, "retry_in", retry)
			},
		})
		s.lost(ctx)
		if ctx.Err() != nil || errors.Is(err, errFailedOver) {
			return err
		}
		s.t.log.Error("the Mesos master refuses the subscription; trying again", "error", err, "retry_in", resubscribeAfter)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(resubscribeAfter):
		}
	}
}

func (s *scheduler) lost(ctx context.Context) {
	s.mu.Lock()
	was := s.connected
	s.connected = false
	s.mu.Unlock()
	if was {
		s.t.post(ctx, core.Disconnected{})
	}
}

// frameworkInfo is what the master is told about this framework.
func (s *scheduler) frameworkInfo() *mesosv1.FrameworkInfo {
	c := &s.t.m.cfg
	s.mu.Lock()
	id, roles := s.id, s.wanted
	s.mu.Unlock()
	name := c.User
	if name == "" {
		name = "root"
		if u, err := user.Current(); err == nil {
			name = u.Username
		}
	}
	host, _, _ := strings.Cut(s.t.m.address, ":")
	if c.Hostname != "" {
		host = c.Hostname
	}
	ui := c.WebUIURL
	if ui == "" {
		ui = s.t.m.URL()
	}
	f := &mesosv1.FrameworkInfo{
		User: &name, Name: &c.FrameworkName, FailoverTimeout: proto.Float64(float64(c.FailoverTimeout)), Checkpoint: &c.Checkpoint,
		Hostname: &host, Roles: roles, WebuiUrl: &ui,
	}
	if id != "" {
		f.Id = &mesosv1.FrameworkID{Value: &id}
	}
	if c.Principal != "" {
		f.Principal = &c.Principal
	}
	caps := []mesosv1.FrameworkInfo_Capability_Type{
		mesosv1.FrameworkInfo_Capability_PARTITION_AWARE, mesosv1.FrameworkInfo_Capability_REGION_AWARE,
		mesosv1.FrameworkInfo_Capability_MULTI_ROLE, mesosv1.FrameworkInfo_Capability_TASK_KILLING_STATE,
	}
	for _, feature := range c.Features {
		if feature == "gpu_resources" {
			caps = append(caps, mesosv1.FrameworkInfo_Capability_GPU_RESOURCES)
		}
	}
	for _, x := range caps {
		f.Capabilities = append(f.Capabilities, &mesosv1.FrameworkInfo_Capability{Type: &x})
	}
	return f
}

func (s *scheduler) subscribeCall() proto.Message {
	f := s.frameworkInfo()
	kind := v1.Call_SUBSCRIBE
	return &v1.Call{Type: &kind, FrameworkId: f.Id, Subscribe: &v1.Call_Subscribe{FrameworkInfo: f}}
}

func (s *scheduler) event(ctx context.Context, e *v1.Event) error {
	switch e.GetType() {
	case v1.Event_SUBSCRIBED:
		sub := e.GetSubscribed()
		s.mu.Lock()
		s.id, s.connected = sub.GetFrameworkId().GetValue(), true
		s.mu.Unlock()
		info := sub.GetMasterInfo()
		master := fmt.Sprintf("%s:%d", info.GetHostname(), info.GetPort())
		s.t.log.Info("subscribed", "framework_id", sub.GetFrameworkId().GetValue(), "master", master)
		s.t.post(ctx, core.Registered{FrameworkID: sub.GetFrameworkId().GetValue(), Master: master, Region: info.GetDomain().GetFaultDomain().GetRegion().GetName()})
	case v1.Event_OFFERS:
		// The event's memory is reused for the next one: what is kept must be a copy.
		s.t.post(ctx, core.Offers{Offers: e.CloneVT().GetOffers().GetOffers()})
	case v1.Event_UPDATE:
		s.t.post(ctx, core.Status{Status: e.GetUpdate().GetStatus().CloneVT()})
	case v1.Event_ERROR:
		text := e.GetError().GetMessage()
		switch {
		case strings.Contains(text, "failed over"):
			return errFailedOver
		case strings.Contains(text, "has been removed"):
			s.t.log.Error("the master removed the framework with all of its tasks; subscribing as a new one", "error", text)
			s.mu.Lock()
			s.id = ""
			s.mu.Unlock()
			s.t.post(ctx, core.FrameworkRemoved{})
			return wire.ErrResubscribe
		}
		s.t.log.Error("error from the master", "error", text)
		return wire.ErrResubscribe
	}
	return nil
}

// send queues a call. Calls while there is no subscription are dropped: reconciliation and revival follow the next one.
func (s *scheduler) send(c *v1.Call) {
	s.mu.Lock()
	connected, id := s.connected, s.id
	s.mu.Unlock()
	if !connected {
		return
	}
	c.FrameworkId = &mesosv1.FrameworkID{Value: &id}
	queue := s.calls
	if c.GetType() == v1.Call_ACKNOWLEDGE {
		queue = s.acks
	}
	select {
	case queue <- c:
	case <-s.t.done:
	case <-time.After(callWait):
		s.t.log.Warn("call to the master dropped: too many wait", "call", c.GetType().String())
		s.failed()
	}
}

// callWait is how long a full queue of calls is waited for.
const callWait = 10 * time.Second

func (s *scheduler) drain(ctx context.Context, queue chan *v1.Call) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case c := <-queue:
			if err := s.client.Call(ctx, c); err != nil && ctx.Err() == nil {
				s.t.log.Warn("call to the master failed", "call", c.GetType().String(), "error", err)
				s.failed()
			}
		}
	}
}

// failed makes the core ask for the truth: what became of the call is not known. The owner may be too busy to take one event
// more, and may wait for this very goroutine; it looks at the mark before every step.
func (s *scheduler) failed() {
	s.missed.Store(true)
	select {
	case s.t.events <- core.Tick{}:
	default:
	}
}

// roles tells the master which roles are wanted.
func (s *scheduler) roles(roles []string) {
	s.mu.Lock()
	s.wanted = roles
	s.mu.Unlock()
	kind := v1.Call_UPDATE_FRAMEWORK
	s.send(&v1.Call{Type: &kind, UpdateFramework: &v1.Call_UpdateFramework{FrameworkInfo: s.frameworkInfo()}})
}
