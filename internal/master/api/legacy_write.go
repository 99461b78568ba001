package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	quotav1 "github.com/orchestrator/orchestrator/api/mesos/v1/quota"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

// The legacy endpoints that change something take forms or JSON; each becomes the operator call that does the same.

// body reads the body of a legacy request. When ok is false the answer was given.
func (s *Server) body(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	if s.leading(w, r) == nil {
		return nil, false
	}
	return wire.ReadBody(w, r, wire.CallOptions{MaxBody: s.opts.MaxBody})
}

// form reads a form and demands that these values are there.
func (s *Server) form(w http.ResponseWriter, r *http.Request, names ...string) (url.Values, bool) {
	raw, ok := s.body(w, r)
	if !ok {
		return nil, false
	}
	values, err := url.ParseQuery(string(raw))
	if err != nil {
		wire.Error(w, http.StatusBadRequest, "Unable to decode query string: "+err.Error())
		return nil, false
	}
	for _, name := range names {
		if values.Get(name) == "" {
			wire.Error(w, http.StatusBadRequest, fmt.Sprintf("Missing '%s' query parameter in the request body", name))
			return nil, false
		}
	}
	return values, true
}

// decode reads a JSON value into a field of m by wrapping it into an object.
func decode(field string, raw []byte, m proto.Message) error {
	if !json.Valid(raw) {
		return errors.New("it is not one JSON value")
	}
	doc := make([]byte, 0, len(raw)+len(field)+6)
	doc = append(append(append(doc, `{"`...), field...), `":`...)
	doc = append(append(doc, raw...), '}')
	return mesosjson.Unmarshal(doc, m)
}

// resourcesOf decodes a form's JSON array of resources.
func resourcesOf(w http.ResponseWriter, field, raw string) ([]*mesosv1.Resource, bool) {
	// The only list of resources in the schema whose message requires nothing else.
	holder := &quotav1.QuotaRequest{}
	if err := decode("guarantee", []byte(raw), holder); err != nil {
		wire.Error(w, http.StatusBadRequest, fmt.Sprintf("Error in parsing '%s' query parameter in the request body: %v", field, err))
		return nil, false
	}
	return holder.GetGuarantee(), true
}

func agentID(v url.Values) *mesosv1.AgentID {
	return &mesosv1.AgentID{Value: proto.String(v.Get("slaveId"))}
}

func (s *Server) teardown(w http.ResponseWriter, r *http.Request) {
	v, ok := s.form(w, r, "frameworkId")
	if !ok {
		return
	}
	s.mutate(w, r, &masterv1.Call{
		Type:     masterv1.Call_TEARDOWN.Enum(),
		Teardown: &masterv1.Call_Teardown{FrameworkId: &mesosv1.FrameworkID{Value: proto.String(v.Get("frameworkId"))}},
	})
}

func (s *Server) reserve(w http.ResponseWriter, r *http.Request) {
	s.operateForm(w, r, "resources", func(id *mesosv1.AgentID, list []*mesosv1.Resource) *masterv1.Call {
		return &masterv1.Call{
			Type: masterv1.Call_RESERVE_RESOURCES.Enum(), ReserveResources: &masterv1.Call_ReserveResources{AgentId: id, Resources: list},
		}
	})
}

func (s *Server) unreserve(w http.ResponseWriter, r *http.Request) {
	s.operateForm(w, r, "resources", func(id *mesosv1.AgentID, list []*mesosv1.Resource) *masterv1.Call {
		return &masterv1.Call{
			Type: masterv1.Call_UNRESERVE_RESOURCES.Enum(), UnreserveResources: &masterv1.Call_UnreserveResources{AgentId: id, Resources: list},
		}
	})
}

func (s *Server) createVolumes(w http.ResponseWriter, r *http.Request) {
	s.operateForm(w, r, "volumes", func(id *mesosv1.AgentID, list []*mesosv1.Resource) *masterv1.Call {
		return &masterv1.Call{Type: masterv1.Call_CREATE_VOLUMES.Enum(), CreateVolumes: &masterv1.Call_CreateVolumes{AgentId: id, Volumes: list}}
	})
}

func (s *Server) destroyVolumes(w http.ResponseWriter, r *http.Request) {
	s.operateForm(w, r, "volumes", func(id *mesosv1.AgentID, list []*mesosv1.Resource) *masterv1.Call {
		return &masterv1.Call{Type: masterv1.Call_DESTROY_VOLUMES.Enum(), DestroyVolumes: &masterv1.Call_DestroyVolumes{AgentId: id, Volumes: list}}
	})
}

func (s *Server) operateForm(w http.ResponseWriter, r *http.Request, field string, call func(*mesosv1.AgentID, []*mesosv1.Resource) *masterv1.Call) {
	v, ok := s.form(w, r, "slaveId", field)
	if !ok {
		return
	}
	list, ok := resourcesOf(w, field, v.Get(field))
	if !ok {
		return
	}
	s.mutate(w, r, call(agentID(v), list))
}

// quota serves /quota: GET shows, POST sets a guarantee (the deprecated way).
func (s *Server) quota(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if v := s.request(w, r); v != nil {
			respondMessage(w, r, v.quotaStatus())
		}
	case http.MethodPost:
		raw, ok := s.body(w, r)
		if !ok {
			return
		}
		q := &quotav1.QuotaRequest{}
		if err := mesosjson.Unmarshal(raw, q); err != nil {
			wire.Error(w, http.StatusBadRequest, fmt.Sprintf("Failed to parse set quota request JSON: %v", err))
			return
		}
		s.mutate(w, r, &masterv1.Call{Type: masterv1.Call_SET_QUOTA.Enum(), SetQuota: &masterv1.Call_SetQuota{QuotaRequest: q}})
	default:
		wire.MethodNotAllowed(w, r, http.MethodGet, http.MethodPost)
	}
}

// removeQuota serves DELETE /quota/<role>.
func (s *Server) removeQuota(w http.ResponseWriter, r *http.Request, role string) {
	if s.leading(w, r) == nil {
		return
	}
	s.mutate(w, r, &masterv1.Call{Type: masterv1.Call_REMOVE_QUOTA.Enum(), RemoveQuota: &masterv1.Call_RemoveQuota{Role: proto.String(role)}})
}

// weights serves /weights: GET shows, PUT changes those that it names.
func (s *Server) weights(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		v := s.request(w, r)
		if v == nil {
			return
		}
		var out writer
		out.BeginArray()
		for _, info := range v.weights() {
			out.BeginObject()
			out.Key("role").String(info.GetRole())
			out.Key("weight").Float(info.GetWeight())
			out.EndObject()
		}
		out.EndArray()
		wire.RespondJSON(w, r, out.Buf)
	case http.MethodPut:
		raw, ok := s.body(w, r)
		if !ok {
			return
		}
		call := &masterv1.Call_UpdateWeights{}
		if err := decode("weight_infos", raw, call); err != nil {
			wire.Error(w, http.StatusBadRequest, fmt.Sprintf("Failed to parse update weights request JSON ('[{\"role\":…,\"weight\":…}]'): %v", err))
			return
		}
		s.mutate(w, r, &masterv1.Call{Type: masterv1.Call_UPDATE_WEIGHTS.Enum(), UpdateWeights: call})
	default:
		wire.MethodNotAllowed(w, r, http.MethodGet, http.MethodPut)
	}
}

func (s *Server) maintenanceSchedule(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if v := s.request(w, r); v != nil {
			respondMessage(w, r, v.schedule())
		}
	case http.MethodPost:
		raw, ok := s.body(w, r)
		if !ok {
			return
		}
		call := &masterv1.Call_UpdateMaintenanceSchedule{}
		if err := decode("schedule", raw, call); err != nil {
			wire.Error(w, http.StatusBadRequest, fmt.Sprintf("Failed to parse the schedule: %v", err))
			return
		}
		s.mutate(w, r, &masterv1.Call{Type: masterv1.Call_UPDATE_MAINTENANCE_SCHEDULE.Enum(), UpdateMaintenanceSchedule: call})
	default:
		wire.MethodNotAllowed(w, r, http.MethodGet, http.MethodPost)
	}
}

func (s *Server) maintenanceStatus(w http.ResponseWriter, r *http.Request) {
	if v := s.request(w, r); v != nil {
		respondMessage(w, r, v.maintenance())
	}
}

func (s *Server) machineDown(w http.ResponseWriter, r *http.Request) {
	raw, ok := s.body(w, r)
	if !ok {
		return
	}
	call := &masterv1.Call_StartMaintenance{}
	if err := decode("machines", raw, call); err != nil {
		wire.Error(w, http.StatusBadRequest, fmt.Sprintf("Failed to parse the list of machines: %v", err))
		return
	}
	s.mutate(w, r, &masterv1.Call{Type: masterv1.Call_START_MAINTENANCE.Enum(), StartMaintenance: call})
}

func (s *Server) machineUp(w http.ResponseWriter, r *http.Request) {
	raw, ok := s.body(w, r)
	if !ok {
		return
	}
	call := &masterv1.Call_StopMaintenance{}
	if err := decode("machines", raw, call); err != nil {
		wire.Error(w, http.StatusBadRequest, fmt.Sprintf("Failed to parse the list of machines: %v", err))
		return
	}
	s.mutate(w, r, &masterv1.Call{Type: masterv1.Call_STOP_MAINTENANCE.Enum(), StopMaintenance: call})
}

// respondMessage answers a legacy request with a message in Mesos' JSON.
func respondMessage(w http.ResponseWriter, r *http.Request, m proto.Message) {
	body, err := mesosjson.Marshal(m)
	if err != nil {
		wire.Error(w, http.StatusInternalServerError, "Failed to encode the answer: "+err.Error())
		return
	}
	wire.RespondJSON(w, r, body)
}

// loggingToggleHandler serves /logging/toggle: without a level it shows the current one.
func (s *Server) loggingToggleHandler(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	level, duration := q.Get("level"), q.Get("duration")
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodPost:
		wire.MethodNotAllowed(w, r, http.MethodGet, http.MethodPost)
		return
	case level == "" && duration == "":
		wire.Error(w, http.StatusOK, strconv.Itoa(int(verbosity(s.opts.Level.Level())))+"\n")
		return
	case level == "":
		wire.Error(w, http.StatusBadRequest, "Expecting 'level=value' in query.\n")
		return
	case duration == "":
		wire.Error(w, http.StatusBadRequest, "Expecting 'duration=value' in query.\n")
		return
	}
	n, err := strconv.ParseUint(level, 10, 8)
	if err != nil {
		wire.Error(w, http.StatusBadRequest, "Invalid level '"+level+"'.\n")
		return
	}
	d, err := config.ParseDuration(duration)
	if err != nil {
		wire.Error(w, http.StatusBadRequest, "Invalid duration '"+duration+"': "+err.Error()+".\n")
		return
	}
	if status, err := s.setLoggingLevel(wire.PrincipalOf(r.Context()).Name, uint32(n), int64(d)); err != nil {
		wire.Error(w, status, err.Error()+".\n")
		return
	}
	wire.Empty(w, http.StatusOK)
}
