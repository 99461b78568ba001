package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/resources"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// What Mesos has no call for lies below /api/orchestrator/v1, so that Mesos' own messages stay as they are. The command line
// uses it; docs/reference/master-api.md describes it.

// actionKillTasks is not one of Mesos'. Its object is the user of the task's framework.
const actionKillTasks core.Action = "kill_tasks"

// roleExplanation is one role of an explanation.
type roleExplanation struct {
	Role       string             `json:"role"`
	Subscribed bool               `json:"subscribed"`
	Active     bool               `json:"active"`
	Suppressed bool               `json:"suppressed"`
	Paused     bool               `json:"paused"`
	Share      float64            `json:"share"`
	Ahead      int                `json:"ahead"`
	Filters    int                `json:"filters"`
	FilterEnds *time.Time         `json:"filter_ends,omitempty"`
	Agents     map[string]int     `json:"agents"`
	Guarantees map[string]float64 `json:"guarantees,omitempty"`
	Limits     map[string]float64 `json:"limits,omitempty"`
	Consumed   map[string]float64 `json:"consumed,omitempty"`
}

// explain serves GET /api/orchestrator/v1/explain?framework_id=: what keeps offers from a framework, per role.
func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	v := s.request(w, r)
	if v == nil {
		return
	}
	id := ids.Framework(r.URL.Query().Get("framework_id"))
	f, ok := v.snap.Frameworks.Get(id)
	if !ok || !v.framework(f) {
		wire.Error(w, http.StatusNotFound, "No such framework: give framework_id")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.opts.CallTimeout)
	defer cancel()
	token := core.Token(s.token.Add(1))
	answer := make(chan *core.Explanation, 1)
	s.mu.Lock()
	s.asking[token] = answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.asking, token)
		s.mu.Unlock()
	}()
	if err := s.opts.Owner.Post(ctx, &core.Explain{Token: token, Framework: id}); err != nil {
		wire.Error(w, http.StatusServiceUnavailable, "The master is overloaded or has stopped leading: "+err.Error())
		return
	}
	select {
	case x, led := <-answer:
		switch {
		case !led:
			wire.Error(w, http.StatusServiceUnavailable, "This master has stopped leading: ask the new leader")
		case !x.Known:
			wire.Error(w, http.StatusNotFound, "No such framework")
		default:
			body, err := json.Marshal(struct {
				Roles []roleExplanation `json:"roles"`
			}{explained(x)})
			if err != nil {
				wire.Error(w, http.StatusInternalServerError, err.Error())
				return
			}
			wire.RespondJSON(w, r, body)
		}
	case <-ctx.Done():
		wire.Error(w, http.StatusServiceUnavailable, "The master did not answer in time")
	}
}

func explained(x *core.Explanation) []roleExplanation {
	out := make([]roleExplanation, 0, len(x.Roles))
	for _, e := range x.Roles {
		r := roleExplanation{
			Role: e.Role, Subscribed: e.Subscribed, Active: e.Active, Suppressed: e.Suppressed, Paused: e.Paused, Share: e.Share, Ahead: e.Ahead,
			Filters: e.Filters, Agents: map[string]int{},
		}
		if !e.FilterEnds.IsZero() {
			r.FilterEnds = &e.FilterEnds
		}
		for reason, n := range e.Agents {
			r.Agents[string(reason)] = n
		}
		if e.Quota != nil {
			r.Guarantees, r.Limits, r.Consumed = amounts(e.Quota.Guarantees), amounts(e.Quota.Limits), amounts(e.Consumed)
		}
		out = append(out, r)
	}
	return out
}

func amounts(q resources.Quantities) map[string]float64 {
	out := map[string]float64{}
	for name, a := range q.All() {
		out[name] = a.Float()
	}
	return out
}

// killTask serves POST /api/orchestrator/v1/kill with the form framework_id, task_id and, if wanted, grace (a duration).
func (s *Server) killTask(w http.ResponseWriter, r *http.Request) {
	v, ok := s.form(w, r, "framework_id", "task_id")
	if !ok {
		return
	}
	call := &core.KillTask{Framework: ids.Framework(v.Get("framework_id")), Task: &mesosv1.TaskID{Value: proto.String(v.Get("task_id"))}}
	if text := strings.TrimSpace(v.Get("grace")); text != "" {
		d, err := config.ParseDuration(text)
		if err != nil || d < 0 {
			wire.Error(w, http.StatusBadRequest, "'grace' is not a duration such as 5secs")
			return
		}
		call.Policy = &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: proto.Int64(int64(d))}}
	}
	if snap := s.opts.Owner.Snapshot(); s.opts.Authorizer != nil && snap != nil {
		f, known := snap.Frameworks.Get(call.Framework)
		if principal := wire.PrincipalOf(r.Context()).Name; !known || !s.may(principal, actionKillTasks, f.Info.GetUser()) {
			wire.Error(w, http.StatusForbidden, "Principal '"+principal+"' may not kill this task")
			return
		}
	}
	reply := s.call(r.Context(), func(t core.Token) core.Event {
		call.Token = t
		return call
	})
	if reply.Status < 300 {
		wire.Empty(w, reply.Status)
		return
	}
	wire.Error(w, reply.Status, reply.Message)
}
