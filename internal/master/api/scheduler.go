package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"google.golang.org/protobuf/proto"

	"github.com/google/uuid"

	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/wire"
)

const streamIDHeader = "Mesos-Stream-Id"

// scheduler serves /api/v1/scheduler (facts 1.1).
func (s *Server) scheduler(w http.ResponseWriter, r *http.Request) {
	principal := wire.PrincipalOf(r.Context())
	if len(principal.Claims) > 0 && principal.Name == "" {
		wire.Error(w, http.StatusForbidden, "When using HTTP authentication, the principal must have a value")
		return
	}
	if !s.leads(w, r) {
		return
	}
	body, ok := wire.ReadCallBody(w, r, wire.CallOptions{MaxBody: s.opts.MaxBody})
	if !ok {
		return
	}
	defer body.Release()
	if ack, ok := parseAcknowledge(body); ok {
		s.acknowledge(w, r, ack, principal.Name)
		return
	}
	call := &schedulerv1.Call{}
	if !body.Decode(w, call) {
		return
	}
	if err := validateSchedulerCall(call); err != nil {
		wire.Error(w, http.StatusBadRequest, "Failed to validate scheduler::Call: "+err.Error())
		return
	}
	switch call.GetType() {
	case schedulerv1.Call_SUBSCRIBE:
		s.subscribe(w, r, call, principal.Name)
		return
	case schedulerv1.Call_UNKNOWN:
		wire.Error(w, http.StatusNotImplemented, "Received a call of unknown type")
		return
	case schedulerv1.Call_RECONCILE_OPERATIONS:
		if _, ok := wire.Negotiate(r); !ok {
			wire.NotAcceptable(w)
			return
		}
	}
	session, known := s.session(ids.Framework(call.GetFrameworkId().GetValue()))
	stream, status, err := s.checkSession(r, session, known, principal.Name)
	if err != nil {
		wire.Error(w, status, err.Error())
		return
	}
	if call.GetType() == schedulerv1.Call_UPDATE_FRAMEWORK {
		reply := s.call(r.Context(), func(t core.Token) core.Event {
			return &core.SchedulerCall{Stream: stream, Call: call, Principal: principal.Name, Token: t}
		})
		wire.Error(w, reply.Status, reply.Message)
		return
	}
	s.handOver(w, &core.SchedulerCall{Stream: stream, Call: call, Principal: principal.Name})
}

// handOver posts a call that was read, even if its client leaves meanwhile, and answers.
func (s *Server) handOver(w http.ResponseWriter, e core.Event) {
	if err := s.opts.Owner.PostFor(s.opts.CallTimeout, e); err != nil {
		wire.Error(w, http.StatusServiceUnavailable, "The master is overloaded or has stopped leading: "+err.Error())
		return
	}
	wire.Accepted(w)
}

// checkSession finds the stream that a call of a framework belongs to.
func (s *Server) checkSession(r *http.Request, session core.Session, known bool, principal string) (core.StreamID, int, error) {
	switch {
	case !known:
		return "", http.StatusBadRequest, errors.New("Framework cannot be found") //nolint:staticcheck // Mesos' text
	case session.Principal != "" && principal != "" && session.Principal != principal || session.Principal != "" && principal == "" && s.opts.Auth.Frameworks != nil:
		return "", http.StatusBadRequest, fmt.Errorf("Authenticated principal '%s' does not match principal '%s' set in FrameworkInfo", principal, session.Principal) //nolint:staticcheck // Mesos' text
	case session.Stream == "":
		return "", http.StatusForbidden, errors.New("Framework is not subscribed") //nolint:staticcheck // Mesos' text
	}
	id := r.Header.Get(streamIDHeader)
	switch {
	case id == "":
		return "", http.StatusBadRequest, errors.New("All non-subscribe calls should include the 'Mesos-Stream-Id' header") //nolint:staticcheck // Mesos' text
	case core.StreamID(id) != session.Stream:
		return "", http.StatusBadRequest, fmt.Errorf("The stream ID '%s' included in this request didn't match the stream ID currently associated with framework ID '%s'", id, session.Framework) //nolint:staticcheck // Mesos' text
	}
	return session.Stream, 0, nil
}

// subscribe opens the event stream and lets the owner decide: what is wrong from here on is told on the stream.
func (s *Server) subscribe(w http.ResponseWriter, r *http.Request, call *schedulerv1.Call, principal string) {
	ct, ok := wire.Negotiate(r)
	if !ok {
		wire.NotAcceptable(w)
		return
	}
	if r.Header.Get(streamIDHeader) != "" {
		wire.Error(w, http.StatusBadRequest, "Subscribe calls should not include the 'Mesos-Stream-Id' header")
		return
	}
	s.mu.Lock()
	full := len(s.schedulers) >= max(s.opts.MaxSchedulers, 1)
	s.mu.Unlock()
	if full {
		wire.Error(w, http.StatusServiceUnavailable, fmt.Sprintf("%d schedulers are subscribed and no more are allowed (--max_scheduler_streams)", s.opts.MaxSchedulers))
		return
	}
	id := core.StreamID(uuid.NewString())
	stream, err := wire.NewStream(w, r, wire.StreamConfig{
		ContentType: ct, ID: string(id), Heartbeat: schedulerHeartbeat(), Interval: s.opts.Heartbeat, MaxBytes: s.opts.StreamBytes,
		Metrics: s.metrics.schedulerStreams,
	})
	if err != nil {
		s.opts.Log.Debug("scheduler stream could not be opened", "error", err)
		return
	}
	s.mu.Lock()
	s.schedulers[id] = stream
	s.mu.Unlock()
	if err := s.opts.Owner.Post(r.Context(), &core.SchedulerSubscribe{Stream: id, Call: call, Principal: principal}); err != nil {
		stream.Close(wire.NewEvent(schedulerError("The master is overloaded or has stopped leading: " + err.Error())))
	}
	reason := stream.Serve(r.Context())
	s.mu.Lock()
	delete(s.schedulers, id)
	s.mu.Unlock()
	s.opts.Log.Debug("scheduler stream ended", "stream", id, "reason", reason)
	// The owner must hear of it: this waits for room as long as this master leads.
	_ = s.opts.Owner.Post(context.WithoutCancel(r.Context()), &core.SchedulerDisconnected{Stream: id})
}

// schedulerHeartbeat makes the HEARTBEAT event, which has no payload.
func schedulerHeartbeat() *wire.Event {
	return wire.NewEvent(&schedulerv1.Event{Type: schedulerv1.Event_HEARTBEAT.Enum()})
}

func schedulerError(message string) *schedulerv1.Event {
	return &schedulerv1.Event{Type: schedulerv1.Event_ERROR.Enum(), Error: &schedulerv1.Event_Error{Message: proto.String(message)}}
}

// maxEvent is what some clients' readers take at most (facts, trap 20), less room for the other encoding: JSON is up to three
// times as long as protobuf.
const maxEvent = (4 << 20) / 3

// splitEvent cuts offers that are too long for one event into several.
func splitEvent(e *schedulerv1.Event) []*schedulerv1.Event {
	offers := e.GetOffers().GetOffers()
	if len(offers) < 2 || e.SizeVT() <= maxEvent {
		return []*schedulerv1.Event{e}
	}
	var out []*schedulerv1.Event
	size, from := 0, 0
	for i, o := range offers {
		n := o.SizeVT() + 8
		if i > from && size+n > maxEvent {
			out = append(out, offersEvent(e, from, i))
			size, from = 0, i
		}
		size += n
	}
	return append(out, offersEvent(e, from, len(offers)))
}

func offersEvent(e *schedulerv1.Event, from, to int) *schedulerv1.Event {
	return &schedulerv1.Event{Type: e.Type, Offers: &schedulerv1.Event_Offers{Offers: e.GetOffers().GetOffers()[from:to]}}
}

// validateSchedulerCall checks what Mesos checks before it looks at the framework (master/validation, scheduler::call).
func validateSchedulerCall(c *schedulerv1.Call) error {
	if c.Type == nil {
		return errors.New("Expecting 'type' to be present") //nolint:staticcheck // Mesos' text
	}
	expect := func(name string, present bool) error {
		if !present {
			return fmt.Errorf("Expecting '%s' to be present", name) //nolint:staticcheck // Mesos' text
		}
		return nil
	}
	if c.GetType() == schedulerv1.Call_SUBSCRIBE {
		if err := expect("subscribe", c.Subscribe != nil); err != nil {
			return err
		}
		info := c.GetSubscribe().GetFrameworkInfo()
		if (info.Id == nil) != (c.FrameworkId == nil) || info.GetId().GetValue() != c.GetFrameworkId().GetValue() {
			return errors.New("'framework_id' differs from 'subscribe.framework_info.id'")
		}
		if c.FrameworkId != nil {
			if err := ids.Validate(c.GetFrameworkId().GetValue()); err != nil {
				return fmt.Errorf("'framework_id': %w", err)
			}
		}
		return nil
	}
	if err := expect("framework_id", c.FrameworkId != nil); err != nil {
		return err
	}
	switch c.GetType() {
	case schedulerv1.Call_ACCEPT:
		return expect("accept", c.Accept != nil)
	case schedulerv1.Call_DECLINE:
		return expect("decline", c.Decline != nil)
	case schedulerv1.Call_ACCEPT_INVERSE_OFFERS:
		return expect("accept_inverse_offers", c.AcceptInverseOffers != nil)
	case schedulerv1.Call_DECLINE_INVERSE_OFFERS:
		return expect("decline_inverse_offers", c.DeclineInverseOffers != nil)
	case schedulerv1.Call_KILL:
		return expect("kill", c.Kill != nil)
	case schedulerv1.Call_SHUTDOWN:
		return expect("shutdown", c.Shutdown != nil)
	case schedulerv1.Call_ACKNOWLEDGE:
		if err := expect("acknowledge", c.Acknowledge != nil); err != nil {
			return err
		}
		if _, err := uuid.FromBytes(c.GetAcknowledge().GetUuid()); err != nil {
			return fmt.Errorf("'acknowledge.uuid' is not a UUID of 16 bytes")
		}
		return nil
	case schedulerv1.Call_ACKNOWLEDGE_OPERATION_STATUS:
		if err := expect("acknowledge_operation_status", c.AcknowledgeOperationStatus != nil); err != nil {
			return err
		}
		if _, err := uuid.FromBytes(c.GetAcknowledgeOperationStatus().GetUuid()); err != nil {
			return fmt.Errorf("'acknowledge_operation_status.uuid' is not a UUID of 16 bytes")
		}
		return expect("acknowledge_operation_status.agent_id", c.GetAcknowledgeOperationStatus().AgentId != nil)
	case schedulerv1.Call_RECONCILE:
		return expect("reconcile", c.Reconcile != nil)
	case schedulerv1.Call_RECONCILE_OPERATIONS:
		return expect("reconcile_operations", c.ReconcileOperations != nil)
	case schedulerv1.Call_MESSAGE:
		return expect("message", c.Message != nil)
	case schedulerv1.Call_REQUEST:
		return expect("request", c.Request != nil)
	case schedulerv1.Call_UPDATE_FRAMEWORK:
		if err := expect("update_framework", c.UpdateFramework != nil); err != nil {
			return err
		}
		if c.GetUpdateFramework().GetFrameworkInfo().GetId().GetValue() != c.GetFrameworkId().GetValue() {
			return errors.New("'framework_id' differs from 'update_framework.framework_info.id'")
		}
		return nil
	}
	return nil // REVIVE, SUPPRESS and TEARDOWN need nothing
}
