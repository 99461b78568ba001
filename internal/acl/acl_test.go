package acl

import (
	"strings"
	"testing"
)

func TestAllowed(t *testing.T) {
	t.Parallel()
	a, err := Parse([]byte(`{
		"permissive": false,
		"run_tasks": [
			{"principals": {"values": ["ops", "dev"]}, "users": {"values": ["app"]}},
			{"principals": {"values": ["ops"]}, "users": {"type": "ANY"}},
			{"principals": {"values": ["dev"]}, "users": {"type": "NONE"}}
		],
		"view_roles": [{"principals": {"type": "ANY"}, "roles": {"type": "SOME", "values": ["eng/%", "web"]}}],
		"shutdown_frameworks": [{"principals": {"type": "NONE"}, "framework_principals": {"type": "ANY"}}],
		"drain_agents": [{"principals": {"values": ["ops"]}, "agents": {"type": "ANY"}}]
	}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		principal, action, object string
		want                      bool
	}{
		{"ops", "run_tasks", "app", true},
		{"ops", "run_tasks", "root", true},
		{"dev", "run_tasks", "app", true},
		{"dev", "run_tasks", "root", false},
		{"eve", "run_tasks", "app", false},
		{"", "run_tasks", "app", false},
		{"", "view_roles", "eng/a/b", true},
		{"eve", "view_roles", "web", true},
		{"eve", "view_roles", "eng", false},
		{"eve", "view_roles", "engine/a", false},
		{"eve", "view_roles", "", false},
		{"ops", "teardown_frameworks", "ops", false},
		{"ops", "drain_agents", "", true},
		{"dev", "drain_agents", "", false},
		{"ops", "mark_agents_gone", "", false},
	} {
		if got := a.Allowed(c.principal, c.action, c.object); got != c.want {
			t.Errorf("%q may %s %q: %v, want %v", c.principal, c.action, c.object, got, c.want)
		}
	}
	open, err := Parse([]byte(`{"run_tasks": [{"principals": {"type": "ANY"}, "users": {"type": "NONE"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if !open.Allowed("", "view_tasks", "root") || open.Allowed("", "run_tasks", "root") {
		t.Error("what is not listed is not allowed by default, or what is forbidden is")
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	for document, want := range map[string]string{
		`[]`:                    "access control lists",
		`{"permissive": "yes"}`: "not true or false",
		`{"run_task": []}`:      "run_task: there is no such action",
		`{"run_tasks": {}}`:     "not a list",
		`{"run_tasks": [{"principals": {"type": "ANY"}}]}`:                                                     `has no "users"`,
		`{"run_tasks": [{"principals": {"type": "ALL"}, "users": {"type": "ANY"}}]}`:                           "none of SOME, ANY, NONE",
		`{"run_tasks": [{"principals": {"type": "ANY"}, "users": {"type": "ANY"}, "roles": {}}]}`:              `a key "roles"`,
		`{"run_tasks": [{"principals": {"value": ["a"]}, "users": {"type": "ANY"}}], "view_role": [], "x": 1}`: "x: there is no such action",
	} {
		_, err := Parse([]byte(document))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v does not say %q", document, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"run_tasks":[{"principals":{"values":["a"]},"users":{"type":"ANY"}}]}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		a, err := Parse(document)
		if err != nil {
			return
		}
		a.Allowed("a", "run_tasks", "b")
	})
}
