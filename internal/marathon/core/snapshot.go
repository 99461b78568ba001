package core

import (
	"maps"
	"slices"
	"strings"

	"github.com/tidwall/btree"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// Snapshot is the state at one moment, for readers. It doesn't change, and taking it costs next to nothing: tables are
// shared with the machine until it changes them.
type Snapshot struct {
	Root        *spec.Root
	Deployments []*Deployment
	FrameworkID string
	Master      string
	Connected   bool

	instances *btree.Map[string, *Instance]
	revisions *btree.Map[string, *Revision]
	failures  *btree.Map[string, *TaskFailure]
	outcomes  []*Outcome
}

// Snapshot is what readers may see of the machine now.
func (m *Machine) Snapshot() *Snapshot {
	s := &Snapshot{
		Root: m.root, FrameworkID: m.frameworkID, Master: m.master, Connected: m.connected,
		instances: m.instances.Copy(), revisions: m.revisions.Copy(), failures: m.failures.Copy(), outcomes: m.outcomes,
	}
	s.Deployments = make([]*Deployment, 0, len(m.deployments))
	for _, d := range m.deployments {
		if d.view == nil {
			v := d.Deployment
			v.Canary = maps.Clone(d.Canary)
			v.pending = maps.Clone(d.pending)
			d.view = &v
		}
		s.Deployments = append(s.Deployments, d.view)
	}
	return s
}

// Instances lists a spec's instances.
func (s *Snapshot) Instances(specID string) []*Instance { return InstancesOf(s.instances, specID) }

// Instance finds one instance, nil if there is none.
func (s *Snapshot) Instance(id string) *Instance {
	specID, inst, _, err := ParseTaskID(id + "._app.1")
	if err != nil || inst != id {
		return nil
	}
	i, _ := s.instances.Get(InstanceKey(specID, id))
	return i
}

// EachInstance calls f for every instance in the order of specs until it returns false.
func (s *Snapshot) EachInstance(f func(*Instance) bool) {
	s.instances.Scan(func(_ string, i *Instance) bool { return f(i) })
}

// Failure is the last failure of an app, or nil.
func (s *Snapshot) Failure(appID string) *TaskFailure {
	f, _ := s.failures.Get(appID)
	return f
}

// Spec is a definition at a version; nil when it is not known.
func (s *Snapshot) Spec(id string, v spec.Version) *spec.Spec {
	r, _ := s.revisions.Get(revisionKey(id, v))
	if r == nil {
		return nil
	}
	return r.Spec
}

// DeploymentsOf lists the deployments that touch a spec.
func (s *Snapshot) DeploymentsOf(id string) []*Deployment {
	var out []*Deployment
	for _, d := range s.Deployments {
		if d.Affects(id) {
			out = append(out, d)
		}
	}
	return out
}

// GroupVersions lists the times at which anything beneath a group changed, newest first.
func (s *Snapshot) GroupVersions(group string) []spec.Version {
	prefix := strings.TrimSuffix(group, "/") + "/"
	seen := map[spec.Version]bool{}
	s.revisions.Ascend(prefix, func(key string, r *Revision) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		seen[r.Version] = true
		return true
	})
	if g := s.Root.Group(group); g != nil {
		seen[g.Version] = true
	}
	out := slices.Sorted(maps.Keys(seen))
	slices.Reverse(out)
	return out
}

// SpecsAt lists what there was beneath a group at a version; nil when nothing changed at that time.
func (s *Snapshot) SpecsAt(group string, at spec.Version) []*spec.Spec {
	list, err := history{&Machine{revisions: *s.revisions}}.SpecsAt(group, at)
	if err != nil {
		return nil
	}
	return list
}

func revisionsOf(table *btree.Map[string, *Revision], id string) []*Revision {
	var out []*Revision
	prefix := id + "\x00"
	table.Ascend(prefix, func(key string, r *Revision) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		out = append(out, r)
		return true
	})
	return out
}
