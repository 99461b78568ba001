package api

import (
	"strings"
	"testing"

	"github.com/orchestrator/orchestrator/internal/master/allocator"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/resources"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	cpus, err := resources.NewQuantities(map[string]float64{"cpus": 2})
	if err != nil {
		t.Fatal(err)
	}
	s.owner.onPost = func(ev core.Event) {
		e := ev.(*core.Explain)
		s.Apply(&core.Explanation{Token: e.Token, Known: e.Framework == "m-0000", Roles: []allocator.RoleExplanation{{
			Role: "web", Subscribed: true, Active: true, Suppressed: true, Share: 0.25, Ahead: 2, Filters: 1, FilterEnds: at(5),
			Agents: map[allocator.Reason]int{allocator.ReasonRefused: 3}, Quota: &allocator.Quota{Guarantees: cpus}, Consumed: cpus,
		}}})
	}
	rec := s.do("GET", "/api/orchestrator/v1/explain?framework_id=m-0000", "")
	want := `{"roles":[{"role":"web","subscribed":true,"active":true,"suppressed":true,"paused":false,"share":0.25,"ahead":2,"filters":1,` +
		`"filter_ends":"2026-11-23T12:00:05.5Z","agents":{"the framework declined it and the filter has not ended":3},"guarantees":{"cpus":2},"consumed":{"cpus":2}}]}`
	if rec.Code != 200 || rec.Body.String() != want {
		t.Errorf("%d %s, want %s", rec.Code, rec.Body, want)
	}
	for _, path := range []string{"/api/orchestrator/v1/explain", "/api/orchestrator/v1/explain?framework_id=none"} {
		if rec := s.do("GET", path, ""); rec.Code != 404 {
			t.Errorf("%s: %d", path, rec.Code)
		}
	}
	s.owner.onPost = func(core.Event) { s.Reset() }
	if rec := s.do("GET", "/api/orchestrator/v1/explain?framework_id=m-0000", ""); rec.Code != 503 {
		t.Errorf("a master that stops leading answers %d", rec.Code)
	}
	s.owner.full = true
	if rec := s.do("GET", "/api/orchestrator/v1/explain?framework_id=m-0000", ""); rec.Code != 503 {
		t.Errorf("an overloaded master answers %d", rec.Code)
	}
}

func TestKillTask(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	s.owner.onPost = func(ev core.Event) {
		e := ev.(*core.KillTask)
		status := 202
		if e.Task.GetValue() != "t1" {
			status = 404
		}
		s.Apply(&core.Reply{Token: e.Token, Status: status, Message: "No such task"})
	}
	const path = "/api/orchestrator/v1/kill"
	for body, want := range map[string]int{
		"framework_id=m-0000&task_id=t1":             202,
		"framework_id=m-0000&task_id=t1&grace=5secs": 202,
		"framework_id=m-0000&task_id=no":             404,
		"framework_id=m-0000":                        400,
		"task_id=t1":                                 400,
		"framework_id=m-0000&task_id=t1&grace=soon":  400,
		"framework_id=m-0000&task_id=t1&grace=-1ns":  400,
	} {
		if rec := s.do("POST", path, body); rec.Code != want {
			t.Errorf("%s: %d %s, want %d", body, rec.Code, rec.Body, want)
		}
	}
	if rec := s.do("GET", path, ""); rec.Code != 405 {
		t.Errorf("GET: %d", rec.Code)
	}
	guarded := newTestServer(t, func(o *Options) {
		o.Authorizer = authorizerFunc(func(_ string, action core.Action, _ string) bool { return !strings.HasPrefix(string(action), "kill") })
	})
	if rec := guarded.do("POST", path, "framework_id=m-0000&task_id=t1"); rec.Code != 403 || len(guarded.owner.events()) != 0 {
		t.Errorf("without permission: %d", rec.Code)
	}
}
