package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"google.golang.org/protobuf/proto"

	"github.com/google/uuid"

	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// operator serves /api/v1 (facts 3.1).
func (s *Server) operator(w http.ResponseWriter, r *http.Request) {
	snap := s.leading(w, r)
	if snap == nil {
		return
	}
	call := &masterv1.Call{}
	if _, ok := wire.ReadCall(w, r, call, wire.CallOptions{MaxBody: s.opts.MaxBody}); !ok {
		return
	}
	if err := validateOperatorCall(call); err != nil {
		wire.Error(w, http.StatusBadRequest, "Failed to validate master::Call: "+err.Error())
		return
	}
	ct, ok := wire.Negotiate(r)
	if !ok {
		wire.NotAcceptable(w)
		return
	}
	principal := wire.PrincipalOf(r.Context()).Name
	switch t := call.GetType(); {
	case t == masterv1.Call_UNKNOWN:
		wire.Error(w, http.StatusNotImplemented, "Received a call of unknown type")
	case t == masterv1.Call_SUBSCRIBE:
		s.subscribeOperator(w, r, ct, principal)
	case isQuery(t):
		answer, status, err := s.query(r.Context(), call, snap, principal)
		if err != nil {
			wire.Error(w, status, err.Error())
			return
		}
		wire.Respond(w, http.StatusOK, ct, answer)
	case t == masterv1.Call_SET_LOGGING_LEVEL:
		c := call.GetSetLoggingLevel()
		status, err := s.setLoggingLevel(principal, c.GetLevel(), c.GetDuration().GetNanoseconds())
		if err != nil {
			wire.Error(w, status, err.Error())
			return
		}
		wire.Empty(w, http.StatusOK)
	default:
		s.mutate(w, r, call)
	}
}

// mutate has the owner carry out a call, and writes its answer. Errors carry a text, success none.
func (s *Server) mutate(w http.ResponseWriter, r *http.Request, call *masterv1.Call) {
	reply := s.operatorCall(r, call)
	if reply.Status < 300 {
		wire.Empty(w, reply.Status)
		return
	}
	wire.Error(w, reply.Status, reply.Message)
}

func (s *Server) operatorCall(r *http.Request, call *masterv1.Call) core.Reply {
	principal := wire.PrincipalOf(r.Context()).Name
	if action, guarded := guardedCalls[call.GetType()]; guarded && !s.may(principal, action, "") {
		return core.Reply{Status: http.StatusForbidden, Message: fmt.Sprintf("Principal '%s' is not authorized: %s", principal, action)}
	}
	return s.call(r.Context(), func(t core.Token) core.Event {
		return &core.OperatorCall{Token: t, Call: call, Principal: principal}
	})
}

// guardedCalls are the calls whose permission does not depend on what is in them; the core asks about the others itself.
var guardedCalls = map[masterv1.Call_Type]core.Action{
	masterv1.Call_UPDATE_MAINTENANCE_SCHEDULE: "update_maintenance_schedules",
	masterv1.Call_START_MAINTENANCE:           "start_maintenances",
	masterv1.Call_STOP_MAINTENANCE:            "stop_maintenances",
	masterv1.Call_DRAIN_AGENT:                 "drain_agents",
	masterv1.Call_DEACTIVATE_AGENT:            "deactivate_agents",
	masterv1.Call_REACTIVATE_AGENT:            "reactivate_agents",
	masterv1.Call_MARK_AGENT_GONE:             "mark_agents_gone",
}

// validateOperatorCall checks that a call has the message that goes with its type.
func validateOperatorCall(c *masterv1.Call) error {
	if c.Type == nil {
		return errors.New("Expecting 'type' to be present") //nolint:staticcheck // Mesos' text
	}
	var present bool
	var name string
	switch c.GetType() {
	case masterv1.Call_GET_METRICS:
		name, present = "get_metrics", c.GetMetrics != nil
	case masterv1.Call_SET_LOGGING_LEVEL:
		name, present = "set_logging_level", c.SetLoggingLevel != nil
	case masterv1.Call_LIST_FILES:
		name, present = "list_files", c.ListFiles != nil
	case masterv1.Call_READ_FILE:
		name, present = "read_file", c.ReadFile != nil
	case masterv1.Call_UPDATE_WEIGHTS:
		name, present = "update_weights", c.UpdateWeights != nil
	case masterv1.Call_RESERVE_RESOURCES:
		name, present = "reserve_resources", c.ReserveResources != nil
	case masterv1.Call_UNRESERVE_RESOURCES:
		name, present = "unreserve_resources", c.UnreserveResources != nil
	case masterv1.Call_CREATE_VOLUMES:
		name, present = "create_volumes", c.CreateVolumes != nil
	case masterv1.Call_DESTROY_VOLUMES:
		name, present = "destroy_volumes", c.DestroyVolumes != nil
	case masterv1.Call_GROW_VOLUME:
		name, present = "grow_volume", c.GrowVolume != nil
	case masterv1.Call_SHRINK_VOLUME:
		name, present = "shrink_volume", c.ShrinkVolume != nil
	case masterv1.Call_UPDATE_MAINTENANCE_SCHEDULE:
		name, present = "update_maintenance_schedule", c.UpdateMaintenanceSchedule != nil
	case masterv1.Call_START_MAINTENANCE:
		name, present = "start_maintenance", c.StartMaintenance != nil
	case masterv1.Call_STOP_MAINTENANCE:
		name, present = "stop_maintenance", c.StopMaintenance != nil
	case masterv1.Call_UPDATE_QUOTA:
		name, present = "update_quota", c.UpdateQuota != nil
	case masterv1.Call_SET_QUOTA:
		name, present = "set_quota", c.SetQuota != nil
	case masterv1.Call_REMOVE_QUOTA:
		name, present = "remove_quota", c.RemoveQuota != nil
	case masterv1.Call_TEARDOWN:
		name, present = "teardown", c.Teardown != nil
	case masterv1.Call_DRAIN_AGENT:
		name, present = "drain_agent", c.DrainAgent != nil
	case masterv1.Call_DEACTIVATE_AGENT:
		name, present = "deactivate_agent", c.DeactivateAgent != nil
	case masterv1.Call_REACTIVATE_AGENT:
		name, present = "reactivate_agent", c.ReactivateAgent != nil
	case masterv1.Call_MARK_AGENT_GONE:
		name, present = "mark_agent_gone", c.MarkAgentGone != nil
	default:
		return nil
	}
	if !present {
		return fmt.Errorf("Expecting '%s' to be present", name) //nolint:staticcheck // Mesos' text
	}
	return nil
}

// operatorStream is one open event stream of an operator.
type operatorStream struct {
	stream    *wire.Stream
	number    uint64 // in the order of opening
	started   bool   // the SUBSCRIBED event was sent
	principal string
}

// subscribeOperator opens an event stream. The snapshot that begins it comes through the owner, so that no event is lost or
// doubled between the two.
func (s *Server) subscribeOperator(w http.ResponseWriter, r *http.Request, ct wire.ContentType, principal string) {
	id := core.StreamID(uuid.NewString())
	stream, err := wire.NewStream(w, r, wire.StreamConfig{
		ContentType: ct, Heartbeat: wire.NewEvent(&masterv1.Event{Type: masterv1.Event_HEARTBEAT.Enum()}), Interval: s.opts.Heartbeat,
		MaxBytes: s.opts.StreamBytes, Metrics: s.metrics.operatorStreams,
	})
	if err != nil {
		s.opts.Log.Debug("operator stream could not be opened", "error", err)
		return
	}
	s.mu.Lock()
	s.opened++
	s.operators[id] = &operatorStream{stream: stream, number: s.opened, principal: principal}
	s.evictOperators()
	s.mu.Unlock()
	if err := s.opts.Owner.Post(r.Context(), &core.OperatorSubscribe{Stream: id}); err != nil {
		stream.Close(nil)
	}
	reason := stream.Serve(r.Context())
	s.mu.Lock()
	delete(s.operators, id)
	s.mu.Unlock()
	s.opts.Log.Debug("operator stream ended", "stream", id, "reason", reason)
}

// evictOperators ends the oldest streams while there are too many. s.mu is held.
func (s *Server) evictOperators() {
	for len(s.operators) > max(s.opts.MaxOperators, 1) {
		var oldest core.StreamID
		for id, o := range s.operators {
			if oldest == "" || o.number < s.operators[oldest].number {
				oldest = id
			}
		}
		s.operators[oldest].stream.Close(nil)
		delete(s.operators, oldest)
	}
}

// startOperator sends the SUBSCRIBED event. Its body is made in the stream's own goroutine: for a large cluster that takes time,
// which the owner must not spend.
func (s *Server) startOperator(id core.StreamID, snap *core.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.operators[id]
	if o == nil {
		return
	}
	o.started = true
	interval := s.opts.Heartbeat.Seconds()
	o.stream.Send(wire.NewRawEvent(64, func(dst []byte, ct wire.ContentType) ([]byte, error) {
		return ct.Append(dst, &masterv1.Event{
			Type: masterv1.Event_SUBSCRIBED.Enum(),
			Subscribed: &masterv1.Event_Subscribed{
				GetState: s.viewOf(snap, o.principal).state(), HeartbeatIntervalSeconds: proto.Float64(interval),
			},
		})
	}))
}

func (s *Server) sendOperators(e *masterv1.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.operators) == 0 {
		return
	}
	event := wire.NewEvent(e)
	for _, o := range s.operators {
		if o.started && s.maySee(o.principal, e) {
			o.stream.Send(event)
		}
	}
}

// maySee decides about an event of the operator stream.
func (s *Server) maySee(principal string, e *masterv1.Event) bool {
	if s.opts.Authorizer == nil {
		return true
	}
	switch e.GetType() {
	case masterv1.Event_TASK_ADDED:
		return s.may(principal, actionViewTasks, e.GetTaskAdded().GetTask().GetUser())
	case masterv1.Event_TASK_UPDATED:
		return s.may(principal, actionViewTasks, "")
	case masterv1.Event_FRAMEWORK_ADDED:
		return s.may(principal, actionViewFrameworks, e.GetFrameworkAdded().GetFramework().GetFrameworkInfo().GetUser())
	case masterv1.Event_FRAMEWORK_UPDATED:
		return s.may(principal, actionViewFrameworks, e.GetFrameworkUpdated().GetFramework().GetFrameworkInfo().GetUser())
	case masterv1.Event_FRAMEWORK_REMOVED:
		return s.may(principal, actionViewFrameworks, e.GetFrameworkRemoved().GetFrameworkInfo().GetUser())
	}
	return true
}

// queryFunc answers a call that only reads.
type queryFunc func(ctx context.Context, v *view, c *masterv1.Call) (*masterv1.Response, int, error)
