package core

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// The records, by the beginnings of their keys. Everything is a small record of its own: a change writes what it changes.
//
//	framework                           the framework id
//	roles                               those whose offers were ever wanted, one a line
//	group/<safe id or "root">           a group's own fields
//	spec/<safe id>                      the version that is in force
//	revision/<safe id>/<milliseconds>   a definition; empty: removed at that time
//	instance/<instance id>
//	deployment/<uuid>/<n>-<of>          parts of a deployment's record
//	failure/<safe id>                   the last failure of an app
//	debt/<agent id>/<instance id>       a reservation that is to be given back
const (
	frameworkKey     = "framework"
	rolesKey         = "roles"
	groupPrefix      = "group/"
	currentPrefix    = "spec/"
	revisionPrefix   = "revision/"
	instancePrefix   = "instance/"
	deploymentPrefix = "deployment/"
	failurePrefix    = "failure/"
	debtPrefix       = "debt/"
)

func groupKey(id string) string {
	if id == spec.RootID {
		return "_root"
	}
	return spec.SafeID(id)
}

// revisionKey orders revisions by spec and time.
func revisionKey(id string, v spec.Version) string { return fmt.Sprintf("%s\x00%016d", id, int64(v)) }

// maxTombs bounds how many removed specs keep their history.
const maxTombs = 1000

func (m *Machine) addRevision(id string, v spec.Version, s *spec.Spec) {
	m.revisions.Set(revisionKey(id, v), &Revision{Version: v, Spec: s})
	var b []byte
	if s != nil {
		var err error
		if b, err = s.Marshal(); err != nil {
			panic(fmt.Sprintf("definition of %s can't be encoded: %v", id, err))
		}
	}
	m.emit(Put{Key: fmt.Sprintf("%s%s/%016d", revisionPrefix, spec.SafeID(id), int64(v)), Value: b})
	m.pruneRevisions(id)
}

// Revisions lists what is kept of a spec's history, oldest first.
func (s *Snapshot) Revisions(id string) []*Revision { return revisionsOf(s.revisions, id) }

func (m *Machine) pruneRevisions(id string) {
	if m.opt.MaxVersions <= 0 {
		return
	}
	all := revisionsOf(&m.revisions, id)
	if len(all) <= m.opt.MaxVersions {
		return
	}
	needed := map[spec.Version]bool{}
	for _, i := range m.of(id) {
		needed[i.Version] = true
	}
	if d := m.locks[id]; d != nil {
		needed[d.original[id]] = true
	}
	for _, r := range all[:len(all)-m.opt.MaxVersions] {
		if !needed[r.Version] {
			m.dropRevision(id, r.Version)
		}
	}
}

func (m *Machine) dropRevision(id string, v spec.Version) {
	m.revisions.Delete(revisionKey(id, v))
	m.emit(Delete{Key: fmt.Sprintf("%s%s/%016d", revisionPrefix, spec.SafeID(id), int64(v))})
}

// pruneTombs forgets the history of those that were removed longest ago.
func (m *Machine) pruneTombs() {
	for len(m.tombs) > maxTombs {
		id := m.tombs[0]
		m.tombs = m.tombs[1:]
		if m.root.Get(id) != nil || slices.Contains(m.tombs, id) || len(m.of(id)) > 0 {
			continue
		}
		for _, r := range revisionsOf(&m.revisions, id) {
			m.dropRevision(id, r.Version)
		}
	}
}

// history answers for group updates what there was at an earlier time.
type history struct{ m *Machine }

// SpecsAt implements spec.History.
func (h history) SpecsAt(group string, at spec.Version) ([]*spec.Spec, error) {
	prefix := strings.TrimSuffix(group, "/") + "/"
	latest := map[string]*Revision{}
	known := false
	h.m.revisions.Ascend(prefix, func(key string, r *Revision) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		if r.Version == at {
			known = true
		}
		if r.Version <= at {
			id, _, _ := strings.Cut(key, "\x00")
			latest[id] = r
		}
		return true
	})
	if !known {
		return nil, &spec.ErrNoVersion{Group: group, At: at}
	}
	var out []*spec.Spec
	for _, id := range sortedKeys(latest) {
		if s := latest[id].Spec; s != nil {
			out = append(out, s)
		}
	}
	return out, nil
}

// Record is a stored key with its value.
type Record struct {
	Key   string
	Value []byte
}

// Load fills an empty machine with what was stored, and carries on what was under way: deployments from their first step,
// whose actions find done what is done already. The effects are those of any step.
func (m *Machine) Load(now time.Time, records []Record) ([]Effect, error) {
	if now.After(m.now) {
		m.now = now
	}
	m.out = nil
	current := map[string]spec.Version{}
	parts := map[string]map[string][]byte{}
	var instances []*Instance
	for _, r := range records {
		switch {
		case r.Key == frameworkKey:
			m.frameworkID = string(r.Value)
		case r.Key == rolesKey:
			for role := range strings.SplitSeq(string(r.Value), "\n") {
				if role != "" && !slices.Contains(m.roles, role) {
					m.roles = append(m.roles, role)
				}
			}
			slices.Sort(m.roles)
		case strings.HasPrefix(r.Key, groupPrefix):
			var g spec.Group
			if err := json.Unmarshal(r.Value, &g); err != nil {
				return nil, fmt.Errorf("record %s: %w", r.Key, err)
			}
			m.root.LoadGroup(&g)
			m.seen(g.Version)
		case strings.HasPrefix(r.Key, currentPrefix):
			v, err := spec.ParseVersion(string(r.Value))
			if err != nil {
				return nil, fmt.Errorf("record %s: %w", r.Key, err)
			}
			current[spec.FromSafeID(strings.TrimPrefix(r.Key, currentPrefix))] = v
		case strings.HasPrefix(r.Key, revisionPrefix):
			if err := m.loadRevision(r); err != nil {
				return nil, err
			}
		case strings.HasPrefix(r.Key, instancePrefix):
			var i Instance
			if err := json.Unmarshal(r.Value, &i); err != nil {
				return nil, fmt.Errorf("record %s: %w", r.Key, err)
			}
			instances = append(instances, &i)
		case strings.HasPrefix(r.Key, deploymentPrefix):
			id, part, _ := strings.Cut(strings.TrimPrefix(r.Key, deploymentPrefix), "/")
			if parts[id] == nil {
				parts[id] = map[string][]byte{}
			}
			parts[id][part] = r.Value
		case strings.HasPrefix(r.Key, debtPrefix):
			if err := m.loadDebt(r); err != nil {
				return nil, err
			}
		case strings.HasPrefix(r.Key, failurePrefix):
			var f TaskFailure
			if err := json.Unmarshal(r.Value, &f); err != nil {
				return nil, fmt.Errorf("record %s: %w", r.Key, err)
			}
			m.failures.Set(f.AppID, &f)
		}
	}
	stored, err := readDeployments(parts)
	if err != nil {
		return nil, err
	}
	for _, d := range stored {
		// Its definitions were written before it, that they are in force after it: roll that forward.
		for id := range d.Original {
			if v, ok := d.Target[id]; !ok {
				if r, _ := m.revisions.Get(revisionKey(id, d.Version)); r != nil && r.Spec == nil && current[id] < d.Version {
					delete(current, id)
				}
			} else if v > current[id] {
				current[id] = v
			}
		}
	}
	for _, id := range sortedKeys(current) {
		r, _ := m.revisions.Get(revisionKey(id, current[id]))
		if r == nil || r.Spec == nil {
			return nil, fmt.Errorf("version %s of %s is in force but not stored", current[id], id)
		}
		m.root.Load(r.Spec)
	}
	for _, i := range instances {
		m.index(i)
		m.touch(i.SpecID)
		if i.launched() {
			m.after(0, timerInstance, i.ID)
		}
	}
	for id := range current {
		m.touch(id)
	}
	m.loadTombs()
	for _, d := range stored {
		m.loadDeployment(d)
	}
	m.updateRoles(sortedKeys(current))
	m.settle()
	return m.out, nil
}

func (m *Machine) seen(v spec.Version) { m.lastVersion = max(m.lastVersion, v) }

func (m *Machine) loadRevision(r Record) error {
	safe, ms, _ := strings.Cut(strings.TrimPrefix(r.Key, revisionPrefix), "/")
	id := spec.FromSafeID(safe)
	var v int64
	if _, err := fmt.Sscanf(ms, "%d", &v); err != nil {
		return fmt.Errorf("record %s: its version is no number", r.Key)
	}
	rev := &Revision{Version: spec.Version(v)}
	m.seen(rev.Version)
	if len(r.Value) > 0 {
		s, err := spec.Unmarshal(r.Value)
		if err != nil {
			return fmt.Errorf("record %s: %w", r.Key, err)
		}
		rev.Spec = s
	}
	m.revisions.Set(revisionKey(id, rev.Version), rev)
	return nil
}

func (m *Machine) loadTombs() {
	type tomb struct {
		id string
		at spec.Version
	}
	var tombs []tomb
	last := ""
	m.revisions.Scan(func(key string, r *Revision) bool {
		id, _, _ := strings.Cut(key, "\x00")
		if id != last && m.root.Get(id) == nil {
			tombs = append(tombs, tomb{id, r.Version})
		}
		if n := len(tombs); n > 0 && tombs[n-1].id == id {
			tombs[n-1].at = r.Version
		}
		last = id
		return true
	})
	slices.SortFunc(tombs, func(a, b tomb) int { return int(a.at - b.at) })
	for _, t := range tombs {
		m.tombs = append(m.tombs, t.id)
	}
}

func readDeployments(parts map[string]map[string][]byte) ([]*storedDeployment, error) {
	var out []*storedDeployment
	for _, id := range sortedKeys(parts) {
		byTotal := map[string][]string{}
		for _, name := range sortedKeys(parts[id]) {
			_, total, _ := strings.Cut(name, "-")
			byTotal[total] = append(byTotal[total], name)
		}
		var body []byte
		found := false
		for _, total := range sortedKeys(byTotal) {
			var n int
			if _, err := fmt.Sscanf(total, "%d", &n); err != nil || n != len(byTotal[total]) {
				continue
			}
			found = true
			body = nil
			for _, name := range byTotal[total] {
				body = append(body, parts[id][name]...)
			}
		}
		if !found {
			continue // its writing was cut off before anybody was answered
		}
		var d storedDeployment
		if err := json.Unmarshal(body, &d); err != nil {
			return nil, fmt.Errorf("record of deployment %s: %w", id, err)
		}
		out = append(out, &d)
	}
	slices.SortFunc(out, func(a, b *storedDeployment) int { return int(a.Version - b.Version) })
	return out, nil
}

func (m *Machine) loadDeployment(s *storedDeployment) {
	d := &deployment{Deployment: Deployment{ID: s.ID, Version: s.Version, Steps: s.Steps, Started: s.Started, Deadline: s.Deadline, Paused: s.Paused, Canary: s.Canary}, original: s.Original, policy: s.Policy}
	d.AffectedApps, d.AffectedPods = planIDs(s.Steps)
	for id, c := range d.Canary {
		c.asked = false
		d.Canary[id] = c
	}
	for id := range d.original {
		m.locks[id] = d
	}
	m.deployments = append(m.deployments, d)
	if d.Deadline != 0 {
		m.after(max(0, d.Deadline.Time().Sub(m.now)), timerDeployment, d.ID)
	}
	m.deployEpoch++
	m.nextStep(d)
}
