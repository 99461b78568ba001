package allocator

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// FrameworkCapabilities are those that decide about offers (facts 1.9).
type FrameworkCapabilities struct {
	Revocable, GPU, Shared, MultiRole, ReservationRefinement, RegionAware bool
}

// FrameworkInfo is what the allocator knows of a framework.
type FrameworkInfo struct {
	Roles        []string
	Suppressed   []string // roles that want no offers
	Capabilities FrameworkCapabilities
	Constraints  *Constraints // nil: none
	// MinAllocatable overrides Options.MinAllocatable for a role; an empty list means no minimum.
	MinAllocatable map[string][]resources.Quantities
}

type framework struct {
	id      ids.Framework
	info    FrameworkInfo
	known   bool // added; otherwise only its usage is known, from agents
	active  bool
	clients map[string]int32 // by role, those with usage but no subscription too
	gen     uint32
	// Inverse offers.
	inverseRefused map[int32]inverseRefusal
}

// client is a framework in one of its roles: what competes for offers.
type client struct {
	fw         *framework // nil when the id is free
	role       *role
	node       int32
	gen        uint32 // changes when the client's filters are dropped
	subscribed bool
	suppressed bool
	refusals   int // filters in force
	agents     int // agents where it uses something
	minimum    []minimum
	constraint *roleConstraints
}

// AddFramework makes a framework known. What it uses is known from AddAgent and Allocated.
func (a *Allocator) AddFramework(id ids.Framework, info FrameworkInfo, active bool) error {
	if err := validateRoles(id, info.Roles); err != nil {
		return err
	}
	f := a.ensureFramework(id)
	f.known = true
	f.active = active
	return a.UpdateFramework(id, info)
}

func validateRoles(id ids.Framework, roles []string) error {
	for _, name := range roles {
		if err := resources.ValidateRole(name); err != nil {
			return fmt.Errorf("framework %s: %w", id, err)
		}
	}
	return nil
}

// UpdateFramework replaces what is known of a framework. Filters of roles that it leaves or no longer suppresses are dropped.
func (a *Allocator) UpdateFramework(id ids.Framework, info FrameworkInfo) error {
	f := a.frameworks[id]
	if f == nil || !f.known {
		return unknownFramework(id)
	}
	if err := validateRoles(id, info.Roles); err != nil {
		return err
	}
	info.Roles, info.Suppressed = slices.Clone(info.Roles), slices.Clone(info.Suppressed)
	f.info = info
	a.inverse.dirty = true
	for _, name := range info.Roles {
		a.clientFor(id, name)
	}
	for _, name := range slices.Sorted(maps.Keys(f.clients)) {
		c := f.clients[name]
		cl := &a.clients[c]
		suppressed := slices.Contains(info.Suppressed, name)
		subscribed := slices.Contains(info.Roles, name)
		if cl.suppressed && !suppressed || cl.subscribed && !subscribed {
			a.dropRefusalsOf(c)
		}
		cl.subscribed, cl.suppressed = subscribed, suppressed
		had := cl.constraint != nil
		cl.constraint = info.Constraints.forRole(name)
		if had || cl.constraint != nil {
			a.forgetConstraint(c)
		}
		cl.minimum = nil
		alternatives, own := info.MinAllocatable[name]
		if own {
			cl.minimum = a.minimums(alternatives)
		}
		a.ownMinimum.put(c, own)
		a.revocable.put(c, info.Capabilities.Revocable)
		a.constrained.put(c, cl.constraint != nil)
		for k := range a.compatible {
			a.compatible[k].put(c, class(k).admits(info.Capabilities, name))
		}
		a.updateEligible(c)
		if a.eligible.has(c) {
			a.fresh.set(c)
		}
		a.tidy(c)
	}
	return nil
}

// SetFrameworkActive lets a framework get offers or not. Deactivation drops its filters, as in Mesos.
func (a *Allocator) SetFrameworkActive(id ids.Framework, active bool) {
	f := a.frameworks[id]
	if f == nil || !f.known || f.active == active {
		return
	}
	f.active = active
	for _, c := range f.clients {
		if !active {
			a.dropRefusalsOf(c)
		}
		a.updateEligible(c)
	}
	if !active {
		a.dropInverseRefusals(f)
	}
	a.inverse.dirty = true
}

// RemoveFramework forgets a framework. What it still uses stays accounted to it until it is recovered.
func (a *Allocator) RemoveFramework(id ids.Framework) {
	f := a.frameworks[id]
	if f == nil {
		return
	}
	f.known, f.active = false, false
	f.info = FrameworkInfo{}
	a.dropInverseRefusals(f)
	a.inverse.forget(a, id)
	for _, name := range slices.Sorted(maps.Keys(f.clients)) {
		c := f.clients[name]
		a.dropRefusalsOf(c)
		cl := &a.clients[c]
		cl.subscribed, cl.suppressed, cl.minimum = false, false, nil
		a.updateEligible(c)
		a.tidy(c)
	}
	a.tidyFramework(f)
}

// Suppress stops offers for roles of a framework, all of them when none is named. Roles that it does not have are ignored.
func (a *Allocator) Suppress(id ids.Framework, roles []string) {
	for _, c := range a.clientsIn(id, roles) {
		a.clients[c].suppressed = true
		a.updateEligible(c)
	}
}

// Revive drops the filters of roles of a framework, all of them when none is named, its filters of inverse offers, and
// resumes offers.
func (a *Allocator) Revive(id ids.Framework, roles []string) {
	f := a.frameworks[id]
	if f == nil || !f.known {
		return
	}
	a.dropInverseRefusals(f)
	a.inverse.dirty = true
	for _, c := range a.clientsIn(id, roles) {
		a.dropRefusalsOf(c)
		a.clients[c].suppressed = false
		a.updateEligible(c)
		if a.eligible.has(c) {
			a.fresh.set(c)
		}
	}
}

// Suppressed returns the roles of a framework that want no offers.
func (a *Allocator) Suppressed(id ids.Framework) []string {
	var out []string
	for _, c := range a.clientsIn(id, nil) {
		if a.clients[c].suppressed {
			out = append(out, a.clients[c].role.name)
		}
	}
	slices.Sort(out)
	return out
}

func (a *Allocator) clientsIn(id ids.Framework, roles []string) []int32 {
	f := a.frameworks[id]
	if f == nil {
		return nil
	}
	if len(roles) == 0 {
		roles = f.info.Roles
	}
	var out []int32
	for _, name := range roles {
		if c, ok := f.clients[name]; ok && a.clients[c].subscribed {
			out = append(out, c)
		}
	}
	return out
}

func (a *Allocator) ensureFramework(id ids.Framework) *framework {
	f := a.frameworks[id]
	if f == nil {
		f = &framework{id: id, clients: map[string]int32{}, gen: a.nextGen()}
		a.frameworks[id] = f
	}
	return f
}

// clientFor returns the client of a framework and role, making it, unsubscribed, as needed.
func (a *Allocator) clientFor(id ids.Framework, name string) int32 {
	f := a.ensureFramework(id)
	if c, ok := f.clients[name]; ok {
		return c
	}
	r := a.ensureRole(name)
	var c int32
	if n := len(a.freeClient); n > 0 {
		c = a.freeClient[n-1]
		a.freeClient = a.freeClient[:n-1]
	} else {
		c = int32(len(a.clients))
		a.clients = append(a.clients, client{})
		a.clientNode = append(a.clientNode, 0)
	}
	node := a.tree.add(a.leafOf(r), string(id), c)
	a.clients[c] = client{fw: f, role: r, node: node, gen: a.nextGen()}
	a.clientNode[c] = node
	f.clients[name] = c
	r.clients = append(r.clients, c)
	for x := r; x != nil; x = x.parent {
		x.subtree = append(x.subtree, c)
	}
	a.exhausted.put(c, r.top.exhausted)
	return c
}

// tidy frees a client that is neither subscribed nor uses anything, its role, and a framework that was only known by it.
func (a *Allocator) tidy(c int32) {
	cl := &a.clients[c]
	f, r := cl.fw, cl.role
	if f == nil || cl.subscribed || cl.agents > 0 {
		return
	}
	a.dropRefusalsOf(c)
	if cl.constraint != nil {
		a.forgetConstraint(c)
	}
	a.updateEligible(c)
	for _, b := range []bitmap{a.eligible, a.constrained, a.ownMinimum, a.fresh, a.exhausted, a.revocable} {
		b.unset(c)
	}
	a.tree.remove(cl.node)
	delete(f.clients, r.name)
	r.clients = without(r.clients, c)
	for x := r; x != nil; x = x.parent {
		x.subtree = without(x.subtree, c)
	}
	*cl = client{}
	a.freeClient = append(a.freeClient, c)
	if len(r.clients) == 0 && r.leaf >= 0 {
		a.tree.remove(r.leaf)
		r.leaf = -1
	}
	a.tidyRole(r)
	a.tidyFramework(f)
}

func (a *Allocator) tidyFramework(f *framework) {
	if !f.known && len(f.clients) == 0 {
		delete(a.frameworks, f.id)
	}
}

func without(list []int32, x int32) []int32 {
	if i := slices.Index(list, x); i >= 0 {
		list[i] = list[len(list)-1]
		return list[:len(list)-1]
	}
	return list
}

// updateEligible brings a client's place among those that take offers in line with its state.
func (a *Allocator) updateEligible(c int32) {
	cl := &a.clients[c]
	now := cl.fw.active && cl.subscribed && !cl.suppressed
	if now == a.eligible.has(c) {
		return
	}
	a.eligible.put(c, now)
	if now {
		a.nEligible++
		a.tree.activate(cl.node)
		a.fresh.set(c)
	} else {
		a.nEligible--
		a.tree.deactivate(cl.node)
		a.fresh.unset(c)
	}
}

// chargeClient accounts what a client uses in the tree of shares and in its role's consumption.
func (a *Allocator) chargeClient(ag *agent, c int32, res resources.Resources, sign resources.Amount, counted bool) {
	cl := &a.clients[c]
	all, plain := &a.cycle.all, &a.cycle.plain
	f := a.names.measure(res, all, plain)
	a.chargeConsumption(cl.role.top, *plain, sign)
	a.chargeTree(ag, cl.node, res, f, *all, sign, counted)
}

func (a *Allocator) chargeConsumption(top *role, plain vec, sign resources.Amount) {
	for i, x := range plain {
		if x != 0 {
			a.consume(top, i, sign*x)
		}
	}
}

func (a *Allocator) chargeTree(ag *agent, node int32, res resources.Resources, f flags, all vec, sign resources.Amount, counted bool) {
	if f&hasShared != 0 {
		for x := range res.All() {
			if x.IsShared() && x.IsScalar() {
				key := sharedKey{ag.slot, x.Identity()}
				a.tree.chargeShared(node, key, a.names.of(x.Name()), x.Amount(), int64(sign)*x.Copies())
			}
		}
	}
	a.tree.charge(node, all, sign, counted)
}

func sortedKeys[K ~string, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// sortedAllocations yields resources by allocation role in the order of roles; what is not allocated counts as role "*".
func sortedAllocations(r resources.Resources) iter.Seq2[string, resources.Resources] {
	return func(yield func(string, resources.Resources) bool) {
		byRole := r.Allocations()
		for _, role := range sortedKeys(byRole) {
			res := byRole[role]
			if role == "" {
				role = resources.AnyRole
				res = res.Allocate(role)
			}
			if !yield(role, res) {
				return
			}
		}
	}
}

func unknownFramework(id ids.Framework) error {
	return fmt.Errorf("framework %s is not known to the allocator", id)
}
