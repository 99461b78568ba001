package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/core"
	"github.com/orchestrator/orchestrator/internal/agent/execlink"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// executorHeartbeat is the interval of HEARTBEAT events to executors (Mesos: DEFAULT_EXECUTOR_HEARTBEAT_INTERVAL).
const executorHeartbeat = 30 * time.Minute

// maxBacklog bounds what gathers between the admission of an executor and the opening of its stream.
const maxBacklog = 16 << 10

// executors holds the streams of all executors, by the number of their connection.
type executors struct {
	a    *Agent
	next atomic.Uint64

	mu       sync.Mutex
	sessions map[uint64]*session
	replies  map[uint64]chan core.Reply
	byRun    map[ids.Container]uint64
}

// session is one connection of an executor.
type session struct {
	answer chan core.Refuse // one value; Accepted when it was admitted
	mu     sync.Mutex
	// stream is nil until the answer's headers are out; events gather in backlog.
	stream  eventSink
	backlog []*executorv1.Event
	closing bool
	run     core.Run
}

// eventSink is a stream of either kind.
type eventSink interface {
	Send(*executorv1.Event) bool
	Close()
}

// httpSink is the stream of an HTTP executor.
type httpSink struct{ *wire.Stream }

func (s httpSink) Send(e *executorv1.Event) bool { return s.Stream.Send(wire.NewEvent(e)) }
func (s httpSink) Close()                        { s.Stream.Close(nil) }

func newExecutors(a *Agent) *executors {
	return &executors{a: a, sessions: map[uint64]*session{}, replies: map[uint64]chan core.Reply{}, byRun: map[ids.Container]uint64{}}
}

// open numbers a connection.
func (x *executors) open() (uint64, *session) {
	conn := x.next.Add(1)
	s := &session{answer: make(chan core.Refuse, 1)}
	x.mu.Lock()
	x.sessions[conn] = s
	x.mu.Unlock()
	return conn, s
}

func (x *executors) get(conn uint64) *session {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sessions[conn]
}

// forget ends a session: the owner learns that the executor is away.
func (x *executors) forget(conn uint64) {
	x.mu.Lock()
	if s := x.sessions[conn]; s != nil && x.byRun[s.run.Container] == conn {
		delete(x.byRun, s.run.Container)
	}
	delete(x.sessions, conn)
	x.mu.Unlock()
	_ = x.a.post(context.Background(), core.ExecutorGone{Conn: conn}) // ends with the owner at the latest
}

func (x *executors) admit(e core.Admit) {
	s := x.get(e.Conn)
	if s == nil {
		return
	}
	x.mu.Lock()
	s.run = e.Run
	x.byRun[e.Run.Container] = e.Conn
	x.mu.Unlock()
	s.answer <- core.Refuse{Conn: e.Conn}
}

func (x *executors) refuse(e core.Refuse) {
	if s := x.get(e.Conn); s != nil {
		s.answer <- e
	}
}

// send never waits: an executor that does not read is cut off, and comes back.
func (x *executors) send(conn uint64, e *executorv1.Event) {
	s := x.get(conn)
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stream != nil:
		s.stream.Send(e)
	case len(s.backlog) < maxBacklog:
		s.backlog = append(s.backlog, e)
	default:
		s.closing = true
	}
}

func (x *executors) close(conn uint64) {
	s := x.get(conn)
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	if s.stream != nil {
		s.stream.Close()
	}
}

// attach gives a session its stream and what has gathered for it.
func (s *session) attach(sink eventSink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.backlog {
		sink.Send(e)
	}
	s.backlog, s.stream = nil, sink
	if s.closing {
		sink.Close()
	}
}

func (x *executors) reply(e core.Reply) {
	x.mu.Lock()
	ch := x.replies[e.Request]
	x.mu.Unlock()
	if ch != nil {
		ch <- e
	}
}

// call hands a call to the owner and waits for the answer.
func (x *executors) call(ctx context.Context, call *executorv1.Call) (core.Reply, error) {
	// Who has closed half of the connection waits for the answer, and to net/http looks as if it had left.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ownerPatience)
	defer cancel()
	n := x.next.Add(1)
	ch := make(chan core.Reply, 1)
	x.mu.Lock()
	x.replies[n] = ch
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		delete(x.replies, n)
		x.mu.Unlock()
	}()
	if err := x.a.post(ctx, core.ExecutorCall{Request: n, Call: call}); err != nil {
		return core.Reply{}, err
	}
	select {
	case r := <-ch:
		return r, nil
	case <-ctx.Done():
		return core.Reply{}, errStopping
	case <-x.a.stopped:
		return core.Reply{}, errStopping
	}
}

// statusOf makes an HTTP status of a refusal (facts 2.1).
func statusOf(r core.Refusal) int {
	switch r {
	case core.Accepted:
		return http.StatusAccepted
	case core.NotSubscribed:
		return http.StatusForbidden
	case core.NotReady:
		return http.StatusServiceUnavailable
	}
	return http.StatusBadRequest
}

// ServeHTTP is the v1 executor API.
func (x *executors) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case <-x.a.serving:
	default:
		wire.Error(w, http.StatusServiceUnavailable, "Agent has not finished recovery")
		return
	}
	call := &executorv1.Call{}
	if _, ok := wire.ReadCall(w, r, call, x.a.callOptions()); !ok {
		return
	}
	if text := checkCall(call); text != "" {
		wire.Error(w, http.StatusBadRequest, "Failed to validate executor::Call: "+text)
		return
	}
	if !x.a.speaksFor(r, call) {
		wire.Error(w, http.StatusForbidden, "The token does not belong to this executor")
		return
	}
	if call.GetType() == executorv1.Call_SUBSCRIBE {
		x.subscribe(w, r, call)
		return
	}
	reply, err := x.call(r.Context(), call)
	switch {
	case err != nil:
		wire.Error(w, http.StatusServiceUnavailable, err.Error())
	case reply.Why != core.Accepted:
		wire.Error(w, statusOf(reply.Why), reply.Text)
	default:
		wire.Accepted(w)
	}
}

// checkCall finds what is wrong with a call whoever makes it.
func checkCall(call *executorv1.Call) string {
	switch call.GetType() {
	case executorv1.Call_SUBSCRIBE:
		if call.Subscribe == nil {
			return "Expecting 'subscribe' to be present"
		}
	case executorv1.Call_UPDATE:
		if call.Update == nil {
			return "Expecting 'update' to be present"
		}
	case executorv1.Call_MESSAGE:
		if call.Message == nil {
			return "Expecting 'message' to be present"
		}
	case executorv1.Call_HEARTBEAT:
	default:
		return "Expecting 'type' to be present"
	}
	return ""
}

func (x *executors) subscribe(w http.ResponseWriter, r *http.Request, call *executorv1.Call) {
	ct, ok := wire.Negotiate(r)
	if !ok {
		wire.NotAcceptable(w)
		return
	}
	conn, s := x.open()
	defer x.forget(conn)
	if err := x.a.post(r.Context(), core.Subscribe{Conn: conn, Call: call}); err != nil {
		wire.Error(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	select {
	case <-r.Context().Done():
		return
	case <-x.a.stopped:
		wire.Error(w, http.StatusServiceUnavailable, errStopping.Error())
		return
	case answer := <-s.answer:
		if answer.Why != core.Accepted {
			wire.Error(w, statusOf(answer.Why), answer.Text)
			return
		}
	}
	stream, err := wire.NewStream(w, r, wire.StreamConfig{
		ContentType: ct, Heartbeat: wire.NewEvent(&executorv1.Event{Type: executorv1.Event_HEARTBEAT.Enum()}), Interval: executorHeartbeat,
		MaxBytes: int(x.a.cfg.StreamQueue), Metrics: x.a.metrics.streams,
	})
	if err != nil {
		return
	}
	s.attach(httpSink{stream})
	if err := stream.Serve(r.Context()); err != nil && !errors.Is(err, wire.ErrStreamClosed) {
		x.a.log.Info("executor disconnected", "executor_id", s.run.Executor, "framework_id", s.run.Framework, "err", err)
	}
}

// helperHandler serves our own helpers: package execlink's view of the agent.
type helperHandler struct{ a *Agent }

var _ execlink.Handler = helperHandler{}

func (h helperHandler) Subscribe(ctx context.Context, p execlink.Peer, call *executorv1.Call, stream execlink.Stream) error {
	x := h.a.execs
	conn, s := x.open()
	if err := h.a.post(ctx, core.Subscribe{Conn: conn, Call: call}); err != nil {
		x.forget(conn)
		return err
	}
	select {
	case <-h.a.stopped:
		x.forget(conn)
		return errStopping
	case <-ctx.Done():
		x.forget(conn)
		return errStopping
	case answer := <-s.answer:
		if answer.Why != core.Accepted {
			x.forget(conn)
			return fmt.Errorf("executor %s: %s", p.ExecutorID, answer.Text)
		}
	}
	s.attach(stream)
	go func() { // ends with the stream, which ends with the server
		<-stream.Done()
		x.forget(conn)
	}()
	return nil
}

// Call does not wait: the executor keeps its update until it is acknowledged.
func (h helperHandler) Call(ctx context.Context, _ execlink.Peer, call *executorv1.Call) error {
	return h.a.post(ctx, core.ExecutorCall{Call: call})
}

func (h helperHandler) LaunchNested(ctx context.Context, p execlink.Peer, l execlink.NestedLaunch) error {
	return h.a.boxes.launchForHelper(ctx, p, l)
}

func (h helperHandler) WaitNested(ctx context.Context, _ execlink.Peer, id ids.Container) (*agentv1.Response_WaitContainer, error) {
	return h.a.boxes.wait(ctx, id)
}

func (h helperHandler) KillNested(_ context.Context, _ execlink.Peer, id ids.Container, signal int) error {
	return h.a.boxes.signal(id, signal)
}

func (h helperHandler) RemoveNested(ctx context.Context, _ execlink.Peer, id ids.Container) error {
	return h.a.boxes.remove(ctx, id)
}
