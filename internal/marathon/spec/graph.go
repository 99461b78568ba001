package spec

import "slices"

// dependenciesOf expands what a definition depends on to definitions: its own dependencies and those of the groups above
// it, where a group stands for everything beneath it.
func (r *Root) dependenciesOf(s *Spec) []*Spec {
	var out []*Spec
	add := func(ids []string) {
		for _, id := range ids {
			if d := r.Get(id); d != nil {
				out = append(out, d)
				continue
			}
			if r.Group(id) == nil {
				continue
			}
			for d := range r.Specs(id) {
				// A member of the group that is depended upon doesn't wait for itself.
				if d.ID != s.ID {
					out = append(out, d)
				}
			}
		}
	}
	add(s.Dependencies())
	for g := ParentID(s.ID); ; g = ParentID(g) {
		if grp := r.Group(g); grp != nil {
			add(grp.Dependencies)
		}
		if g == RootID {
			return out
		}
	}
}

// Layers sorts definitions so that each comes in a later layer than everything it depends on, directly or through
// definitions that are not asked for. ok is false when the dependencies go round in a circle.
func (r *Root) Layers(ids []string) (layers [][]string, ok bool) {
	if r.deps == 0 {
		sorted := slices.Sorted(slices.Values(ids))
		if len(sorted) == 0 {
			return nil, true
		}
		return [][]string{sorted}, true
	}
	depth := map[string]int{}
	onPath := map[string]bool{}
	var visit func(s *Spec) (int, bool)
	visit = func(s *Spec) (int, bool) {
		if d, ok := depth[s.ID]; ok {
			return d, true
		}
		if onPath[s.ID] {
			return 0, false
		}
		onPath[s.ID] = true
		d := 0
		for _, dep := range r.dependenciesOf(s) {
			below, ok := visit(dep)
			if !ok {
				return 0, false
			}
			d = max(d, below+1)
		}
		delete(onPath, s.ID)
		depth[s.ID] = d
		return d, true
	}
	byDepth := map[int][]string{}
	for _, id := range ids {
		s := r.Get(id)
		if s == nil {
			continue
		}
		d, ok := visit(s)
		if !ok {
			return nil, false
		}
		byDepth[d] = append(byDepth[d], id)
	}
	depths := make([]int, 0, len(byDepth))
	for d := range byDepth {
		depths = append(depths, d)
	}
	slices.Sort(depths)
	for _, d := range depths {
		slices.Sort(byDepth[d])
		layers = append(layers, byDepth[d])
	}
	return layers, true
}

// Check validates what only shows in the whole tree: circles among dependencies.
func (r *Root) Check() error {
	if r.deps == 0 {
		return nil
	}
	var ids []string
	for s := range r.Specs(RootID) {
		ids = append(ids, s.ID)
	}
	if _, ok := r.Layers(ids); !ok {
		return invalidAt("/", "Dependency graph has cyclic dependencies.")
	}
	// Groups without a member can form a circle too.
	state := map[string]int{}
	var visit func(id string) bool
	visit = func(id string) bool {
		switch state[id] {
		case 1:
			return false
		case 2:
			return true
		}
		state[id] = 1
		if g := r.Group(id); g != nil {
			for _, d := range g.Dependencies {
				if !visit(d) {
					return false
				}
			}
		}
		state[id] = 2
		return true
	}
	for g := range r.AllGroups() {
		if len(g.Dependencies) > 0 && !visit(g.ID) {
			return invalidAt("/", "Dependency graph has cyclic dependencies.")
		}
	}
	return nil
}
