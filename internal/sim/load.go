package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/orchestrator/orchestrator/internal/wire"
)

// LoadConfig describes simulated frameworks. Zero fields stand for the defaults.
type LoadConfig struct {
	Master             string // "host:port" of any master
	Frameworks         int    // default 1
	ContentType        wire.ContentType
	Role               string  // default "*"
	Batch              int     // tasks that one ACCEPT launches at most; default 50
	Hold               int     // offers that a framework keeps at most when it has nothing to launch; it declines the others; 0: any number
	TaskCPUs, TaskMem  float64 // defaults 0.01 and 1
	Dial               func(ctx context.Context, network, address string) (net.Conn, error)
	Log                *slog.Logger
	KeepAfterwards     bool // leave the frameworks and their tasks to the master when Run ends, instead of a TEARDOWN
	FailoverTimeout    time.Duration
	Pace               time.Duration // how often launches that are due are looked for; default 1 ms
	ExpectedSubscribed time.Duration // within which all frameworks must be subscribed; default 30 s
}

// LoadStats is what the frameworks saw. Counters only grow; Reset begins a new measurement of the histograms.
type LoadStats struct {
	Offers    atomic.Int64 // offers received
	Launched  atomic.Int64 // tasks in ACCEPT calls
	Running   atomic.Int64 // TASK_RUNNING read
	Confirmed atomic.Int64 // TASK_RUNNING acknowledged: the master has answered 202
	Ended     atomic.Int64 // tasks that have ended well or failed as their script says
	Lost      atomic.Int64 // tasks that ended otherwise
	Refused   atomic.Int64 // calls not answered with 202
	Resubs    atomic.Int64 // streams that were lost

	Launch   Histogram // intended launch -> TASK_RUNNING read by the framework
	Whole    Histogram // intended launch -> its acknowledgement answered
	ToAgent  Histogram // ACCEPT queued -> the task is at the agent
	AtAgent  Histogram // there -> the status is sent
	ToClient Histogram // status sent -> read by the framework
	Ack      Histogram // ACKNOWLEDGE queued -> answered
	Late     Histogram // intended launch -> ACCEPT queued: offers were missing, or this process was late
	Offer    Histogram // a task's end sent by the agent -> an offer with the agent read by any framework
}

// Reset empties the histograms.
func (s *LoadStats) Reset() {
	for _, h := range []*Histogram{&s.Launch, &s.Whole, &s.ToAgent, &s.AtAgent, &s.ToClient, &s.Ack, &s.Late, &s.Offer} {
		h.Reset()
	}
}

// Load is a set of simulated frameworks.
type Load struct {
	cfg        LoadConfig
	frameworks []*scheduler
	ready      chan struct{}
	subscribed atomic.Int64
	once       sync.Once
	freed      freed

	// Stats may be read at any time.
	Stats LoadStats
}

// NewLoad checks the configuration.
func NewLoad(cfg LoadConfig) (*Load, error) {
	if cfg.Master == "" {
		return nil, errors.New("simulated frameworks need the address of a master")
	}
	if cfg.Frameworks <= 0 {
		cfg.Frameworks = 1
	}
	if cfg.ContentType == 0 {
		cfg.ContentType = wire.Protobuf
	}
	if cfg.Role == "" {
		cfg.Role = "*"
	}
	if cfg.Batch <= 0 {
		cfg.Batch = 50
	}
	if cfg.TaskCPUs <= 0 {
		cfg.TaskCPUs = 0.01
	}
	if cfg.TaskMem <= 0 {
		cfg.TaskMem = 1
	}
	if cfg.Pace <= 0 {
		cfg.Pace = time.Millisecond
	}
	if cfg.ExpectedSubscribed <= 0 {
		cfg.ExpectedSubscribed = 30 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := &Load{cfg: cfg, ready: make(chan struct{})}
	l.freed.agents = make(map[string]*freedAgent)
	for i := range cfg.Frameworks {
		l.frameworks = append(l.frameworks, newScheduler(l, i))
	}
	return l, nil
}

// Ready is closed when all frameworks have been subscribed.
func (l *Load) Ready() <-chan struct{} { return l.ready }

// Run keeps the frameworks subscribed until ctx is done, and then tears them down.
func (l *Load) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, s := range l.frameworks {
		wg.Add(1)
		go func() {
			defer wg.Done()
			s.run(ctx)
		}()
	}
	tick := time.NewTicker(l.cfg.Pace)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, s := range l.frameworks {
				s.pump()
			}
		case <-ctx.Done():
			wg.Wait()
			return context.Cause(ctx)
		}
	}
}

// Rate makes the frameworks together launch so many tasks a second from now on, evenly spaced, whatever happens to those
// before. 0 stops launching.
func (l *Load) Rate(perSecond float64) {
	start := now()
	n := float64(len(l.frameworks))
	for i, s := range l.frameworks {
		// The frameworks take turns, so that their launches don't coincide.
		offset := 0.0
		if perSecond > 0 {
			offset = float64(i) / perSecond * 1e9
		}
		s.setGoal(goal{rate: perSecond / n, start: start + int64(offset)})
	}
}

// Population makes the frameworks together keep so many tasks: each that ends is replaced.
func (l *Load) Population(tasks int) {
	n := len(l.frameworks)
	for i, s := range l.frameworks {
		s.setGoal(goal{population: tasks/n + min(1, max(0, tasks%n-i))})
	}
}

// Await waits until a condition holds, looking often. It gives up with ctx.
func Await(ctx context.Context, what string, holds func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		}
	}
	return nil
}

// freed matches resources that were freed with the first offer of them afterwards. Either may be heard of first.
type freed struct {
	mu     sync.Mutex
	agents map[string]*freedAgent
}

type freedAgent struct {
	offered int64 // when the agent was last in an offer
	waiting int64 // since when freed resources have not been offered; 0: none
}

func (f *freed) agent(id string) *freedAgent {
	a := f.agents[id]
	if a == nil {
		a = new(freedAgent)
		f.agents[id] = a
	}
	return a
}

func (f *freed) offered(id string, at int64, h *Histogram) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.agent(id)
	a.offered = at
	if a.waiting != 0 {
		h.Record(time.Duration(at - a.waiting))
		a.waiting = 0
	}
}

func (f *freed) free(id string, at int64, h *Histogram) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.agent(id)
	if a.offered >= at {
		h.Record(time.Duration(a.offered - at))
		return
	}
	if a.waiting == 0 {
		a.waiting = at
	}
}
