package spec

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/tidwall/btree"
)

// Group is what a group holds besides the apps, pods and groups whose ids lie beneath it.
type Group struct {
	ID           string   `json:"id"`
	Dependencies []string `json:"dependencies,omitempty"`
	EnforceRole  bool     `json:"enforceRole,omitempty"`
	Version      Version  `json:"version"`
}

// Errors of changes to a Root. The API gives each its status.
var (
	ErrNoServicePort = errors.New("no service port is left")
	ErrTooManyApps   = errors.New("the number of apps is limited")
)

// Root is the tree of all definitions. Clone is cheap and the two share what neither changes, so a change is made on a
// clone and thrown away if it turns out to be invalid.
type Root struct {
	specs    btree.Map[string, *Spec]
	groups   btree.Map[string, *Group]
	ports    []uint16         // how many apps use each service port of [PortMin, PortMax)
	deps     int              // how many specs and groups have dependencies
	changed  map[string]*Spec // specs as they were before the change (nil: not there)
	regroups map[string]bool  // groups whose record changed
	set      *Settings
}

// NewRoot is an empty tree.
func NewRoot(s *Settings, now Version) *Root {
	r := &Root{set: s, ports: make([]uint16, max(0, s.PortMax-s.PortMin))}
	r.begin()
	r.groups.Set(RootID, &Group{ID: RootID, Version: now})
	return r
}

func (r *Root) begin() { r.changed, r.regroups = map[string]*Spec{}, map[string]bool{} }

// Clone is an independent tree with nothing marked as changed.
func (r *Root) Clone() *Root {
	c := &Root{specs: *r.specs.Copy(), groups: *r.groups.Copy(), ports: slices.Clone(r.ports), deps: r.deps, set: r.set}
	c.begin()
	return c
}

// Settings are those the tree was made with.
func (r *Root) Settings() *Settings { return r.set }

// Load puts a stored definition in, without any check or mark.
func (r *Root) Load(s *Spec) {
	old, _ := r.specs.Set(s.ID, s)
	r.count(old, s)
}

// LoadGroup puts a stored group in.
func (r *Root) LoadGroup(g *Group) { r.setGroup(g) }

func (r *Root) setGroup(g *Group) {
	old, _ := r.groups.Set(g.ID, g)
	if old != nil && len(old.Dependencies) > 0 {
		r.deps--
	}
	if len(g.Dependencies) > 0 {
		r.deps++
	}
}

// count keeps the sums over definitions.
func (r *Root) count(old, s *Spec) {
	for i, x := range []*Spec{old, s} {
		if x == nil {
			continue
		}
		d := 1
		if i == 0 {
			d = -1
		}
		if len(x.Dependencies()) > 0 {
			r.deps += d
		}
		if x.App != nil {
			for _, p := range x.App.ServicePorts() {
				if p >= r.set.PortMin && p < r.set.PortMax {
					r.ports[p-r.set.PortMin] = uint16(int(r.ports[p-r.set.PortMin]) + d)
				}
			}
		}
	}
}

// Get is the definition with this id, or nil.
func (r *Root) Get(id string) *Spec {
	s, _ := r.specs.Get(id)
	return s
}

// Len is the number of definitions.
func (r *Root) Len() int { return r.specs.Len() }

// Group is the group with this id, or nil.
func (r *Root) Group(id string) *Group {
	g, _ := r.groups.Get(id)
	return g
}

// Specs gives all definitions beneath a group in the order of their ids.
func (r *Root) Specs(group string) iter.Seq[*Spec] {
	return func(yield func(*Spec) bool) {
		prefix := strings.TrimSuffix(group, "/") + "/"
		r.specs.Ascend(prefix, func(id string, s *Spec) bool {
			return strings.HasPrefix(id, prefix) && yield(s)
		})
	}
}

// Groups gives the groups that lie directly in a group.
func (r *Root) Groups(group string) iter.Seq[*Group] {
	return func(yield func(*Group) bool) {
		prefix := strings.TrimSuffix(group, "/") + "/"
		r.groups.Ascend(prefix, func(id string, g *Group) bool {
			if !strings.HasPrefix(id, prefix) {
				return false
			}
			if id == RootID || ParentID(id) != group {
				return true
			}
			return yield(g)
		})
	}
}

// AllGroups gives every group.
func (r *Root) AllGroups() iter.Seq[*Group] {
	return func(yield func(*Group) bool) {
		r.groups.Scan(func(_ string, g *Group) bool { return yield(g) })
	}
}

// Changed gives the ids of definitions that this tree changed since it was cloned, in order.
func (r *Root) Changed() []string {
	out := make([]string, 0, len(r.changed))
	for id := range r.changed {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// ChangedGroups gives the ids of the groups whose records changed, in order.
func (r *Root) ChangedGroups() []string {
	out := make([]string, 0, len(r.regroups))
	for id := range r.regroups {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

func (r *Root) mark(id string, old *Spec, now Version) {
	if _, ok := r.changed[id]; !ok {
		r.changed[id] = old
	}
	r.touchParents(id, now)
}

// touchParents makes the groups above id where they don't exist, and gives them the version of this change.
func (r *Root) touchParents(id string, now Version) {
	for g := ParentID(id); ; g = ParentID(g) {
		old := r.Group(g)
		n := &Group{ID: g, Version: now}
		if old != nil {
			c := *old
			c.Version = now
			n = &c
		} else {
			n.EnforceRole = r.set.EnforceTopRole && ParentID(g) == RootID && g != RootID
		}
		r.setGroup(n)
		r.regroups[g] = true
		if g == RootID {
			return
		}
	}
}

// Put makes the definition the current one of its id and stamps its versions: a change of configuration (or a restart)
// is told from one of the number of instances only, and from none at all, which leaves everything as it is.
func (r *Root) Put(s *Spec, now Version, restart bool) error {
	old := r.Get(s.ID)
	if r.Group(s.ID) != nil {
		return invalidAt("/id", "An app or pod with the path %s can't be created: a group with that id exists.", s.ID)
	}
	for g := ParentID(s.ID); g != RootID; g = ParentID(g) {
		if r.Get(g) != nil {
			return invalidAt("/id", "%s is an app or pod, so nothing can lie beneath it", g)
		}
	}
	if old == nil && r.set.MaxApps > 0 && r.specs.Len() >= r.set.MaxApps {
		return fmt.Errorf("%w: This Marathon instance may only handle up to %d Apps! (Override with command line option --max_apps)", ErrTooManyApps, r.set.MaxApps)
	}
	s, err := r.completed(s, old)
	if err != nil {
		return err
	}
	switch {
	case old == nil:
		s = s.stamped(now, now, now)
	case old.Resident() || s.Resident():
		if err := residentChange(old, s); err != nil {
			return err
		}
		fallthrough
	default:
		sameConfig := !restart && s.SameConfig(old)
		switch {
		case sameConfig && s.Instances() == old.Instances():
			return nil
		case sameConfig:
			s = s.stamped(now, now, old.ConfigAt)
		case restart && s.SameConfig(old):
			s = s.stamped(now, old.ScaledAt, now)
		default:
			s = s.stamped(now, now, now)
		}
		s.RestartedAt = old.RestartedAt
		if restart {
			s.RestartedAt = now
		}
	}
	r.specs.Set(s.ID, s)
	r.count(old, s)
	r.mark(s.ID, old, now)
	return nil
}

// completed fills in what depends on the other definitions: the role and the service ports.
func (r *Root) completed(s, old *Spec) (*Spec, error) {
	def, enforced := r.set.Role, false
	if top := TopGroup(s.ID); top != "" {
		if g := r.Group(top); g != nil && g.EnforceRole || g == nil && r.set.EnforceTopRole {
			def, enforced = top[1:], true
		}
	}
	role := s.Role()
	allowed := []string{r.set.Role, def}
	if old != nil {
		allowed = append(allowed, old.Role())
		if role == "" && !enforced {
			def = old.Role()
		}
	}
	if top := TopGroup(s.ID); top != "" {
		allowed = append(allowed, top[1:])
	}
	rolePath, acceptedPath := "/role", "/acceptedResourceRoles"
	if s.Pod != nil {
		acceptedPath = "/scheduling/placement/acceptedResourceRoles"
	}
	if role == "" {
		role = def
	} else if !slices.Contains(allowed, role) || enforced && role != def && (old == nil || role != old.Role()) {
		return nil, invalidAt(rolePath, "got %s, expected one of: %s", role, strings.Join(slices.Compact([]string{def, r.set.Role}), ", "))
	}
	for _, a := range s.AcceptedRoles() {
		if a != "*" && a != role {
			return nil, invalidAt(acceptedPath, "acceptedResourceRoles can only contain * and %s", role)
		}
	}
	if s.Resident() && role == "*" {
		return nil, invalidAt(rolePath, "Resident apps cannot have the role *")
	}
	c := *s
	c.emitted = &emitted{}
	if s.Pod != nil {
		p := *s.Pod
		p.Role = role
		c.Pod = &p
		c.hash = sha256.Sum256(c.definition())
		return &c, nil
	}
	a := *s.App
	a.Role = role
	a.PortDefinitions = slices.Clone(a.PortDefinitions)
	if a.Container != nil {
		ct := *a.Container
		ct.PortMappings = slices.Clone(ct.PortMappings)
		a.Container = &ct
	}
	err := r.assignServicePorts(&a, old)
	c.App = &a
	c.hash = sha256.Sum256(c.definition())
	return &c, err
}

// assignServicePorts gives every port without one its service port: the one that the app had at this position, else the
// lowest that no app uses.
func (r *Root) assignServicePorts(a *App, old *Spec) error {
	var before []int
	if old != nil && old.App != nil {
		before = old.App.ServicePorts()
	}
	taken := map[int]bool{}
	for _, p := range a.ServicePorts() {
		taken[p] = true
	}
	next := 0
	for i, p := range a.ServicePorts() {
		if p != 0 {
			continue
		}
		if i < len(before) && before[i] != 0 && !taken[before[i]] {
			a.setServicePort(i, before[i])
			taken[before[i]] = true
			continue
		}
		for next < len(r.ports) && (r.ports[next] > 0 || taken[r.set.PortMin+next]) {
			next++
		}
		if next == len(r.ports) {
			return fmt.Errorf("%w: All ports in the range [%d-%d) are already in use", ErrNoServicePort, r.set.PortMin, r.set.PortMax)
		}
		a.setServicePort(i, r.set.PortMin+next)
		taken[r.set.PortMin+next] = true
	}
	return nil
}

// residentChange refuses what would take an instance away from its reservation.
func residentChange(old, s *Spec) error {
	if old.Resident() != s.Resident() {
		return invalidAt("/container/volumes", "persistent volumes can't be added to or removed from an existing app")
	}
	o, n := old.Total(), s.Total()
	if o != n {
		return invalidAt("/", "Resident Tasks may not change resource requirements!")
	}
	if old.Role() != s.Role() {
		return invalidAt("/role", "It is not possible to change the role for existing reservations. If you proceed with this change, all existing instances will continue to under the previous role")
	}
	if old.App != nil && s.App != nil {
		ov, _ := toObject(old.App.Container)
		nv, _ := toObject(s.App.Container)
		if fmt.Sprint(ov["volumes"]) != fmt.Sprint(nv["volumes"]) {
			return invalidAt("/container/volumes", "Persistent volumes can not be changed!")
		}
		op, np := old.App.Ports(), s.App.Ports()
		for i := range min(len(op), len(np)) {
			if a, b := op[i].HostPort, np[i].HostPort; a != nil && b != nil && *a != *b {
				return invalidAt("/portDefinitions", "Resident Tasks may not change host ports!")
			}
		}
	}
	return nil
}

// Remove takes a definition out.
func (r *Root) Remove(id string, now Version) {
	if old, ok := r.specs.Delete(id); ok {
		r.count(old, nil)
		r.mark(id, old, now)
	}
}

// RemoveGroup takes a group and everything beneath it out; the root itself stays, empty.
func (r *Root) RemoveGroup(id string, now Version) {
	for _, s := range slices.Collect(r.Specs(id)) {
		r.Remove(s.ID, now)
	}
	var below []string
	prefix := strings.TrimSuffix(id, "/") + "/"
	r.groups.Ascend(prefix, func(g string, _ *Group) bool {
		if !strings.HasPrefix(g, prefix) {
			return false
		}
		if g != RootID {
			below = append(below, g)
		}
		return true
	})
	if id != RootID {
		below = append(below, id)
	}
	for _, g := range below {
		if old, ok := r.groups.Delete(g); ok && len(old.Dependencies) > 0 {
			r.deps--
		}
		r.regroups[g] = true
	}
	r.touchParents(id, now)
}

// PutGroup makes or changes a group's own record.
func (r *Root) PutGroup(g *Group, now Version) error {
	if r.Get(g.ID) != nil {
		return invalidAt("/id", "A group with the path %s can't be created: an app or pod with that id exists.", g.ID)
	}
	c := *g
	c.Version = now
	r.setGroup(&c)
	r.regroups[g.ID] = true
	r.touchParents(g.ID, now)
	return nil
}
