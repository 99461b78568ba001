package allocator

import (
	"fmt"
	"math"
	"strings"

	"github.com/orchestrator/orchestrator/internal/resources"
)

// role is one role of the hierarchy. It exists while it has clients, child roles, reservations, quota or a weight.
type role struct {
	name     string
	parent   *role // nil for top-level roles
	top      *role // the top-level role above, or itself
	node     int32
	leaf     int32 // the node of its own clients, -1 when it has none
	kids     int
	clients  []int32 // of this very role, in no order
	subtree  []int32 // of this role and those below it, in no order
	weighted bool
	reserved vec // reservations of the subtree on all agents, used or not

	// Of top-level roles only.
	quota     *quota
	consumed  vec  // reserved, and unreserved non-revocable scalars that the subtree uses
	exhausted bool // the limit leaves no room for the global minimum
}

// ensureRole returns the role, making it and those above it as needed.
func (a *Allocator) ensureRole(name string) *role {
	if r := a.roles[name]; r != nil {
		return r
	}
	r := &role{name: name, leaf: -1}
	parentNode, base := root, name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		r.parent = a.ensureRole(name[:i])
		r.parent.kids++
		r.top = r.parent.top
		parentNode, base = r.parent.node, name[i+1:]
	} else {
		r.top = r
	}
	r.node = a.tree.add(parentNode, base, -1)
	a.roles[name] = r
	return r
}

// tidyRole removes a role that has nothing left, and those above it.
func (a *Allocator) tidyRole(r *role) {
	for r != nil && r.kids == 0 && len(r.clients) == 0 && r.quota == nil && !r.weighted && r.reserved.zero() {
		if r.leaf >= 0 {
			a.tree.remove(r.leaf)
		}
		a.tree.remove(r.node)
		delete(a.roles, r.name)
		if r.parent != nil {
			r.parent.kids--
		}
		r = r.parent
	}
}

// leafOf returns the node that a role's clients hang from.
func (a *Allocator) leafOf(r *role) int32 {
	if r.leaf < 0 {
		r.leaf = a.tree.add(r.node, ".", -1)
	}
	return r.leaf
}

// SetWeight sets a role's weight, at least 0.001; 1 is the default. It shows in later cycles; nothing is taken back.
func (a *Allocator) SetWeight(name string, weight float64) error {
	if err := resources.ValidateRole(name); err != nil {
		return err
	}
	if math.IsNaN(weight) || math.IsInf(weight, 0) || weight < 0.001 {
		return fmt.Errorf("weight %v of role '%s' must be a number of at least 0.001", weight, name)
	}
	r := a.ensureRole(name)
	r.weighted = weight != 1
	a.tree.nodes[r.node].weight = weight
	a.tree.touch(r.node)
	a.tidyRole(r)
	return nil
}

// chargeReservation accounts a change of what is reserved to a role, at the role and all above it.
func (a *Allocator) chargeReservation(name string, index int, amount resources.Amount) {
	r := a.ensureRole(name)
	for x := r; x != nil; x = x.parent {
		x.reserved.grow(index + 1)
		x.reserved[index] += amount
	}
	a.consume(r.top, index, amount)
	a.tidyRole(r)
}
