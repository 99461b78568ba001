package spec

import (
	"fmt"
	"math"
)

// maxGroupDepth bounds the nesting of one group document.
const maxGroupDepth = 100

// History finds what a definition looked like, for updates that name a version.
type History interface {
	// SpecAt is the definition as of a version; nil when it did not exist then, an error when that is not known any more.
	SpecsAt(group string, at Version) ([]*Spec, error)
}

// ErrNoVersion says that a group has no such version.
type ErrNoVersion struct {
	Group string
	At    Version
}

func (e *ErrNoVersion) Error() string {
	return fmt.Sprintf("Group %s not available in version %s", e.Group, e.At)
}

// UpdateGroup carries out a PUT or POST of a group document on the tree: the apps and groups it lists are the complete new
// sets of their level, what it doesn't mention stays, pods always stay; {"version"} alone goes back, {"scaleBy"} alone scales.
func (r *Root) UpdateGroup(id string, v any, now Version, h History) error {
	var p problems
	o, ok := newReader("", v, &p)
	if !ok {
		return p.err(MessageInvalidJSON)
	}
	if o.has("id") {
		if own := Resolve(o.str("id", ""), ParentID(id)); own != id && Resolve(o.str("id", ""), id) != id {
			p.add("/id", "Identifier is not child of '%s'", id)
		}
	}
	if err := p.err(MessageInvalidJSON); err != nil {
		return err
	}
	if ts := o.str("version", ""); ts != "" && !o.has("apps") && !o.has("groups") && !o.has("dependencies") && !o.has("scaleBy") {
		at, err := ParseVersion(ts)
		if err != nil {
			return invalidAt("/version", "%s", err.Error())
		}
		return r.rollback(id, at, now, h)
	}
	if o.has("scaleBy") {
		f := o.float("scaleBy", 1, 0, maxAmount)
		if err := p.err(MessageInvalidJSON); err != nil {
			return err
		}
		if r.Group(id) == nil {
			return fmt.Errorf("group %s: %w", id, ErrNotFound)
		}
		var scaled []*Spec
		for s := range r.Specs(id) {
			if s.App != nil {
				scaled = append(scaled, s)
			}
		}
		for _, s := range scaled {
			n := math.Ceil(float64(s.Instances()) * f)
			if n > maxInstances {
				return invalidAt("/scaleBy", "would give %s more than %d instances", s.ID, maxInstances)
			}
			if err := r.Put(s.WithInstances(int(n)), now, false); err != nil {
				return err
			}
		}
		return r.Check()
	}
	if err := r.updateGroup(id, o, now, 0); err != nil {
		return err
	}
	if err := p.err(MessageInvalidJSON); err != nil {
		return err
	}
	return r.Check()
}

// ErrNotFound says that what an update refers to is not there.
var ErrNotFound = fmt.Errorf("does not exist")

func (r *Root) updateGroup(id string, o reader, now Version, depth int) error {
	if depth > maxGroupDepth {
		return invalidAt(o.path, "groups are nested more than %d deep", maxGroupDepth)
	}
	if err := CheckID(id); err != nil {
		return invalidAt(o.at("id"), "%s", err.Error())
	}
	g := &Group{ID: id, EnforceRole: r.set.EnforceTopRole && id != RootID && ParentID(id) == RootID}
	isNew := true
	if old := r.Group(id); old != nil {
		c := *old
		g, isNew = &c, false
	}
	if o.has("enforceRole") {
		enforce := o.boolean("enforceRole", false)
		switch {
		case enforce && (id == RootID || ParentID(id) != RootID):
			return invalidAt(o.at("enforceRole"), "enforceRole can only be set for top-level groups")
		case !isNew && enforce != g.EnforceRole:
			return invalidAt(o.at("enforceRole"), "enforceRole cannot be updated, use the PATCH method instead")
		}
		g.EnforceRole = enforce
	}
	if o.has("dependencies") {
		g.Dependencies = nil
		for _, d := range o.strings("dependencies") {
			g.Dependencies = append(g.Dependencies, Resolve(d, ParentID(id)))
		}
	}
	if err := r.PutGroup(g, now); err != nil {
		return err
	}
	if o.has("groups") {
		if err := r.updateSubgroups(id, o, now, depth); err != nil {
			return err
		}
	}
	if !o.has("apps") {
		return nil
	}
	keep := map[string]bool{}
	var apps []*App
	for _, e := range o.array("apps") {
		a, err := ReadApp(e.v, e.path, id, r.set)
		if err != nil {
			return err
		}
		if ParentID(a.ID) != id {
			return invalidAt(e.path+"/id", "Identifier is not child of '%s'", id)
		}
		if keep[a.ID] {
			return invalidAt(o.at("apps"), "Applications must have unique IDs: %s", a.ID)
		}
		keep[a.ID] = true
		apps = append(apps, a)
	}
	var gone []string
	for s := range r.Specs(id) {
		if s.App != nil && ParentID(s.ID) == id && !keep[s.ID] {
			gone = append(gone, s.ID)
		}
	}
	for _, s := range gone {
		r.Remove(s, now)
	}
	for _, a := range apps {
		if err := r.Put(OfApp(a), now, false); err != nil {
			return err
		}
	}
	return nil
}

func (r *Root) updateSubgroups(id string, o reader, now Version, depth int) error {
	keep := map[string]bool{}
	type child struct {
		id string
		o  reader
	}
	var children []child
	for _, e := range o.array("groups") {
		c, ok := e.object()
		if !ok {
			continue
		}
		if !c.has("id") {
			c.missing("id")
			continue
		}
		cid := Resolve(c.str("id", ""), id)
		if ParentID(cid) != id || cid == id {
			return invalidAt(e.path+"/id", "Identifier is not child of '%s'", id)
		}
		if keep[cid] {
			return invalidAt(o.at("groups"), "Groups must have unique IDs: %s", cid)
		}
		keep[cid] = true
		children = append(children, child{cid, c})
	}
	var gone []string
	for g := range r.Groups(id) {
		if !keep[g.ID] {
			gone = append(gone, g.ID)
		}
	}
	for _, g := range gone {
		r.RemoveGroup(g, now)
	}
	for _, c := range children {
		if err := r.updateGroup(c.id, c.o, now, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (r *Root) rollback(id string, at, now Version, h History) error {
	was, err := h.SpecsAt(id, at)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, s := range was {
		keep[s.ID] = true
	}
	var gone []string
	for s := range r.Specs(id) {
		if !keep[s.ID] {
			gone = append(gone, s.ID)
		}
	}
	for _, g := range gone {
		r.Remove(g, now)
	}
	for _, s := range was {
		if err := r.Put(s, now, false); err != nil {
			return err
		}
	}
	return r.Check()
}
