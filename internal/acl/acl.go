package acl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// objects are the actions with the key that names what they are done to (mesos/authorizer/acls.proto).
var objects = map[string]string{
	"register_frameworks": "roles", "run_tasks": "users", "teardown_frameworks": "framework_principals",
	"reserve_resources": "roles", "unreserve_resources": "reserver_principals",
	"create_volumes": "roles", "destroy_volumes": "creator_principals", "resize_volumes": "roles",
	"create_block_disks": "roles", "destroy_block_disks": "roles", "create_mount_disks": "roles", "destroy_mount_disks": "roles", "destroy_raw_disks": "roles",
	"get_quotas": "roles", "update_quotas": "roles", "view_roles": "roles", "update_weights": "roles",
	"get_endpoints": "paths", "view_frameworks": "users", "view_tasks": "users", "view_executors": "users", "access_sandboxes": "users",
	"access_mesos_logs": "logs", "view_flags": "flags", "set_log_level": "level", "view_containers": "users",
	"launch_nested_containers_as_user": "users", "launch_nested_containers_under_parent_with_user": "users",
	"launch_nested_container_sessions_as_user": "users", "launch_nested_container_sessions_under_parent_with_user": "users",
	"kill_nested_containers": "users", "wait_nested_containers": "users", "remove_nested_containers": "users",
	"attach_containers_input": "users", "attach_containers_output": "users",
	"launch_standalone_containers": "users", "kill_standalone_containers": "users", "wait_standalone_containers": "users",
	"remove_standalone_containers": "users", "view_standalone_containers": "users",
	"register_agents": "agents", "drain_agents": "agents", "deactivate_agents": "agents", "reactivate_agents": "agents", "mark_agents_gone": "agents",
	"update_maintenance_schedules": "machines", "get_maintenance_schedules": "machines", "start_maintenances": "machines",
	"stop_maintenances": "machines", "get_maintenance_statuses": "machines",
	"modify_resource_provider_configs": "resource_providers", "mark_resource_providers_gone": "resource_providers",
	"view_resource_providers": "resource_providers", "prune_images": "images",
	"kill_tasks": "users", // not one of Mesos': an operator's, past the framework
}

// aliases are names that documents out there use.
var aliases = map[string]string{"shutdown_frameworks": "teardown_frameworks"}

type kind int

const (
	some kind = iota
	anybody
	none
)

// entity is a side of an entry.
type entity struct {
	kind   kind
	values []string
}

type entry struct{ principals, object entity }

// ACLs decides who may do what. It never changes.
type ACLs struct {
	permissive bool
	actions    map[string][]entry
}

// Parse reads a document.
func Parse(document []byte) (*ACLs, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(document, &raw); err != nil {
		return nil, fmt.Errorf("access control lists: %w", err)
	}
	a := &ACLs{permissive: true, actions: map[string][]entry{}}
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		if name == "permissive" {
			if err := json.Unmarshal(raw[name], &a.permissive); err != nil {
				problems = append(problems, errors.New("permissive: it is not true or false"))
			}
			continue
		}
		action := name
		if real, ok := aliases[name]; ok {
			action = real
		}
		key, ok := objects[action]
		if !ok {
			problems = append(problems, fmt.Errorf("%s: there is no such action", name))
			continue
		}
		entries, err := parseEntries(raw[name], key)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
		}
		a.actions[action] = append(a.actions[action], entries...)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("access control lists: %w", err)
	}
	return a, nil
}

func parseEntries(raw json.RawMessage, key string) ([]entry, error) {
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, errors.New("it is not a list of objects")
	}
	out := make([]entry, 0, len(list))
	for i, item := range list {
		var e entry
		for _, side := range []struct {
			name string
			to   *entity
		}{{"principals", &e.principals}, {key, &e.object}} {
			text, ok := item[side.name]
			if !ok {
				return nil, fmt.Errorf("entry %d has no %q", i, side.name)
			}
			var err error
			if *side.to, err = parseEntity(text); err != nil {
				return nil, fmt.Errorf("entry %d: %s: %w", i, side.name, err)
			}
			delete(item, side.name)
		}
		for other := range item {
			return nil, fmt.Errorf("entry %d has a key %q: it takes \"principals\" and %q", i, other, key)
		}
		out = append(out, e)
	}
	return out, nil
}

func parseEntity(raw json.RawMessage) (entity, error) {
	var v struct {
		Type   string
		Values []string
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return entity{}, err
	}
	switch v.Type {
	case "", "SOME":
		return entity{kind: some, values: v.Values}, nil
	case "ANY":
		return entity{kind: anybody}, nil
	case "NONE":
		return entity{kind: none}, nil
	}
	return entity{}, fmt.Errorf("type %q is none of SOME, ANY, NONE", v.Type)
}

// Allowed reports whether the principal may do the action to the object. An empty principal is whoever has not said who they are, an
// empty object stands for all of its kind.
func (a *ACLs) Allowed(principal, action, object string) bool {
	for _, e := range a.actions[action] {
		if e.principals.matches(principal) && e.object.matches(object) {
			return e.principals.allows(principal) && e.object.allows(object)
		}
	}
	return a.permissive
}

// matches reports whether the entry is about the value: what names nobody in particular is only met by ANY and NONE.
func (e entity) matches(value string) bool {
	return e.kind != some || value != "" && e.has(value)
}

func (e entity) allows(value string) bool {
	switch e.kind {
	case anybody:
		return true
	case none:
		return false
	}
	return value != "" && e.has(value)
}

// has looks the value up; "eng/%" stands for every role below eng.
func (e entity) has(value string) bool {
	for _, v := range e.values {
		if v == value {
			return true
		}
		if parent, ok := strings.CutSuffix(v, "/%"); ok && strings.HasPrefix(value, parent+"/") {
			return true
		}
	}
	return false
}
