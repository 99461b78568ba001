package api

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/election"
	"github.com/orchestrator/orchestrator/internal/files"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/metrics"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// Owner is the master as its edge sees it.
type Owner interface {
	// Leadership says who leads.
	Leadership() Leadership
	// Snapshot is the state as published last; nil while this master doesn't lead or has not recovered.
	Snapshot() *core.Snapshot
	// Post hands an event to the owner of the state. It waits for room in the queue until ctx ends; an error means that the
	// event was not and will not be handled.
	Post(ctx context.Context, ev core.Event) error
	// PostFor is Post that waits for room at most d.
	PostFor(d time.Duration, ev core.Event) error
}

// Leadership is what a master knows about who leads.
type Leadership struct {
	// Leading: this master is the leader. Recovered: it has read the registry and serves.
	Leading, Recovered bool
	// Leader is the leader, this master included; nil when none is known.
	Leader *election.Leader
}

// Authenticators of the three realms. nil takes everybody.
type Authenticators struct{ Readonly, Readwrite, Frameworks wire.Authenticator }

// Options are what the edge is made of.
type Options struct {
	Owner   Owner
	Log     *slog.Logger
	Metrics *metrics.Registry
	Files   *files.Files
	// Level is the log level that SET_LOGGING_LEVEL changes for a time.
	Level *slog.LevelVar
	// Link serves /api/v1/link, on which agents come; it authenticates by itself.
	Link http.Handler

	Auth Authenticators
	// Authorizer decides about what an authenticated principal may do and see; nil allows everything.
	Authorizer core.Authorizer
	// Self is this master, also while it does not lead. The address in it is what others reach it by.
	Self      *mesosv1.MasterInfo
	StartTime time.Time
	// Flags are the effective settings as /flags shows them.
	Flags                            map[string]string
	Cluster, LogDir, ExternalLogFile string
	DisabledPaths                    []string
	Heartbeat                        time.Duration
	MaxSchedulers, MaxOperators      int
	MaxBody                          int64
	StreamBytes                      int
	PublishFrameworkMetrics          bool
	Now                              func() time.Time // time.Now when nil
	CallTimeout                      time.Duration    // a call waits this long for room in the queue and for its answer; 0: 30 s
}

// Server is the edge. Make it with New.
type Server struct {
	opts     Options
	routes   map[string]route
	state    stateCache
	token    atomic.Uint64
	metrics  edgeMetrics
	toggling loggingToggle
	disabled map[string]bool

	mu         sync.Mutex
	schedulers map[core.StreamID]*wire.Stream
	operators  map[core.StreamID]*operatorStream
	opened     uint64 // counts operator streams, so that the oldest is known
	sessions   map[ids.Framework]core.Session
	waiting    map[core.Token]chan<- core.Reply
	asking     map[core.Token]chan<- *core.Explanation
}

// New makes the edge.
func New(opts Options) *Server {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.CallTimeout <= 0 {
		opts.CallTimeout = 30 * time.Second
	}
	if opts.Heartbeat <= 0 {
		opts.Heartbeat = 15 * time.Second
	}
	if opts.Level == nil {
		opts.Level = &slog.LevelVar{}
	}
	s := &Server{
		opts:       opts,
		schedulers: map[core.StreamID]*wire.Stream{},
		operators:  map[core.StreamID]*operatorStream{},
		sessions:   map[ids.Framework]core.Session{},
		waiting:    map[core.Token]chan<- core.Reply{},
		asking:     map[core.Token]chan<- *core.Explanation{},
		disabled:   map[string]bool{},
	}
	for _, p := range opts.DisabledPaths {
		s.disabled[normalise(p)] = true
	}
	s.metrics = newEdgeMetrics(opts.Metrics)
	s.registerMetrics()
	s.routes = s.routeTable()
	return s
}

// Apply carries out an effect that concerns HTTP; others are left alone. It is called by the owner, in order, and never
// blocks.
func (s *Server) Apply(e core.Effect) {
	switch e := e.(type) {
	case *core.SendEvent:
		if stream := s.schedulerStream(e.Stream); stream != nil {
			for _, part := range splitEvent(e.Event) {
				stream.Send(wire.NewEvent(part))
			}
			if e.Event.GetType() == schedulerv1.Event_SUBSCRIBED {
				// The first one at once: clients that read by lines see an event when the next begins (facts, trap 2).
				stream.Send(schedulerHeartbeat())
			}
		}
	case *core.CloseStream:
		s.mu.Lock()
		stream := s.schedulers[e.Stream]
		s.mu.Unlock()
		if stream != nil {
			stream.Close(nil)
		}
	case *core.Session:
		s.mu.Lock()
		if e.Ended {
			delete(s.sessions, e.Framework)
		} else {
			s.sessions[e.Framework] = *e
		}
		s.mu.Unlock()
	case *core.Explanation:
		s.mu.Lock()
		answer := s.asking[e.Token]
		delete(s.asking, e.Token)
		s.mu.Unlock()
		if answer != nil {
			answer <- e // has room for one
		}
	case *core.SendOperator:
		s.sendOperators(e.Event)
	case *core.StartOperator:
		s.startOperator(e.Stream, e.Snapshot)
	case *core.Reply:
		s.mu.Lock()
		answer := s.waiting[e.Token]
		delete(s.waiting, e.Token)
		s.mu.Unlock()
		if answer != nil {
			answer <- *e // has room for one
		}
	}
}

// Reset forgets everything that belongs to a leadership which has ended: streams are closed, calls that wait are answered, and
// clients will look for the new leader.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, stream := range s.schedulers {
		stream.Close(nil)
	}
	for _, o := range s.operators {
		o.stream.Close(nil)
	}
	for t, answer := range s.waiting {
		delete(s.waiting, t)
		answer <- core.Reply{Token: t, Status: http.StatusServiceUnavailable, Message: "This master has stopped leading: ask the new leader"}
	}
	for t, answer := range s.asking {
		delete(s.asking, t)
		close(answer)
	}
	clear(s.sessions)
	s.state.forget()
}

func (s *Server) schedulerStream(id core.StreamID) *wire.Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.schedulers[id]
}

func (s *Server) session(id ids.Framework) (core.Session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.sessions[id]
	return v, ok
}

// sessionOf is session for an id that is still encoded.
func (s *Server) sessionOf(id []byte) (core.Session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.sessions[ids.Framework(id)]
	return v, ok
}

// call posts the event that event returns for a fresh token and waits for its Reply.
func (s *Server) call(ctx context.Context, event func(core.Token) core.Event) core.Reply {
	// A client that has closed its half of the connection still waits for the answer, and to net/http looks as if it had left.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.CallTimeout)
	defer cancel()
	token := core.Token(s.token.Add(1))
	answer := make(chan core.Reply, 1)
	s.mu.Lock()
	s.waiting[token] = answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiting, token)
		s.mu.Unlock()
	}()
	if err := s.opts.Owner.Post(ctx, event(token)); err != nil {
		return core.Reply{Status: http.StatusServiceUnavailable, Message: "The master is overloaded or has stopped leading: " + err.Error()}
	}
	select {
	case r := <-answer:
		return r
	case <-ctx.Done():
		return core.Reply{Status: http.StatusServiceUnavailable, Message: "The master did not answer in time; the call may still take effect"}
	}
}

// may asks the authorizer.
func (s *Server) may(principal string, action core.Action, object string) bool {
	return s.opts.Authorizer == nil || s.opts.Authorizer.Authorized(principal, action, object)
}

// leads answers for a master that can't serve the request itself, in Mesos' order: it redirects to the leader, or says that
// none is elected or that recovery is not finished. Calls that don't look at the state need no more: a snapshot is work for
// the owner.
func (s *Server) leads(w http.ResponseWriter, r *http.Request) bool {
	switch l := s.opts.Owner.Leadership(); {
	case !l.Leading && l.Leader != nil:
		wire.Redirect(w, r, l.Leader.Address)
	case !l.Leading:
		wire.Error(w, http.StatusServiceUnavailable, "No leader elected")
	case !l.Recovered:
		wire.Error(w, http.StatusServiceUnavailable, "Master has not finished recovery")
	default:
		return true
	}
	return false
}

// leading is leads, and returns the state as it is; nil when the request has been answered.
func (s *Server) leading(w http.ResponseWriter, r *http.Request) *core.Snapshot {
	if !s.leads(w, r) {
		return nil
	}
	if snap := s.opts.Owner.Snapshot(); snap != nil {
		return snap
	}
	wire.Error(w, http.StatusServiceUnavailable, "Master has not finished recovery")
	return nil
}
