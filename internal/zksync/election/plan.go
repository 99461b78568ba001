package election

import (
	"cmp"
	"math"
	"slices"
	"strconv"
)

// Side is one of the two ensembles.
type Side int

// The sides.
const (
	Source Side = iota
	Target
)

// Other is the opposite side.
func (s Side) Other() Side { return 1 - s }

func (s Side) String() string { return [...]string{"source", "target"}[s] }

// Child is a sequential child of a group's node.
type Child struct {
	Name    string
	Number  int32
	Own     bool  // a contender of this side: it belongs to a session. Otherwise a mirror
	Version int32 // of its data
	Czxid   int64 // orders the creations on one side
}

// View is a group on one side, as one list showed it.
type View struct {
	Children []Child
	Counter  int32 // the number that the next sequential child gets
}

// number is a sequential name's number.
func number(name string) (int32, bool) {
	if len(name) < 10 {
		return 0, false
	}
	n, err := strconv.ParseInt(name[len(name)-10:], 10, 32)
	return int32(n), err == nil && n >= 0
}

func (v *View) find(name string) *Child {
	for i := range v.Children {
		if v.Children[i].Name == name {
			return &v.Children[i]
		}
	}
	return nil
}

// last is the highest number of a contender of this side; -1 when there is none.
func (v *View) last() int32 {
	n := int32(-1)
	for _, c := range v.Children {
		if c.Own {
			n = max(n, c.Number)
		}
	}
	return n
}

// displaces reports whether a mirror on the senior side has come before a contender that was there already.
func (v *View) displaces(m *Child) bool {
	return slices.ContainsFunc(v.Children, func(c Child) bool {
		return c.Own && (c.Number == m.Number || c.Number > m.Number && c.Czxid < m.Czxid)
	})
}

// first is the lowest among contenders (own) or mirrors; nil when there is none.
func (v *View) first(own bool) *Child {
	var out *Child
	for i := range v.Children {
		if c := &v.Children[i]; c.Own == own && (out == nil || c.Number < out.Number) {
			out = c
		}
	}
	return out
}

func numberOf(c *Child) int32 {
	if c == nil {
		return math.MaxInt32
	}
	return c.Number
}

// Kind is what a step does.
type Kind int

// Kinds of steps.
const (
	None   Kind = iota
	Wait        // nobody contends yet, so nobody can be senior
	Refuse      // both sides had contenders before the mirrors were there
	Mirror      // show Name of the other side on Side
	Update      // bring the mirror Name on Side up to date
	Remove      // remove the mirror Name on Side
	Push        // raise Side's counter to To
	Senior      // record that Side is senior
)

// Step is what to do next.
type Step struct {
	Kind Kind
	Side Side
	Name string
	To   int32
}

// State is what is recorded of a group.
type State struct {
	// Known is false until a side was found to be senior for the first time.
	Known  bool
	Senior Side
}

// Plan is the next step for a group; None when all is as it should be. Each step is decided on a fresh view.
func Plan(st State, views [2]*View, headroom int32) Step {
	if !st.Known {
		return begin(views, headroom)
	}
	s, j := st.Senior, st.Senior.Other()
	sv, jv := views[s], views[j]
	for side, view := range views {
		if step := show(Side(side), view, views[1-side], Side(side) == s); step.Kind != None {
			return step
		}
	}
	for _, y := range jv.Children {
		if !y.Own || !vacant(sv, &y) {
			continue
		}
		if sv.Counter <= y.Number {
			return Step{Kind: Push, Side: s, To: jv.Counter + headroom}
		}
		return Step{Kind: Senior, Side: j}
	}
	// New contenders of the junior side sort behind those of the senior side.
	if jv.Counter < sv.Counter+headroom/2 {
		return Step{Kind: Push, Side: j, To: sv.Counter + headroom}
	}
	for _, m := range sv.Children {
		if !m.Own && (jv.find(m.Name) == nil || sv.displaces(&m)) {
			return Step{Kind: Remove, Side: s, Name: m.Name}
		}
	}
	return removeJunior(j, jv, sv)
}

// vacant reports whether the senior side has nobody who leads or could have led: all its contenders sort behind the mirror of y and
// came when that was there already.
func vacant(sv *View, y *Child) bool {
	m := sv.find(y.Name)
	if m == nil {
		return false
	}
	for _, c := range sv.Children {
		if c.Own && (c.Number <= y.Number || c.Czxid < m.Czxid) {
			return false
		}
	}
	return true
}

// show makes or refreshes the mirrors on one side, lowest number first. The senior side shows only what sorts behind all of its own
// contenders: one of those would otherwise wait for a mirror that has never been before it.
func show(side Side, view, other *View, senior bool) Step {
	list := slices.Clone(other.Children)
	slices.SortFunc(list, func(a, b Child) int { return cmp.Compare(a.Number, b.Number) })
	for _, c := range list {
		if !c.Own {
			continue
		}
		switch m := view.find(c.Name); {
		case m == nil && senior && view.last() >= c.Number: // it comes later, when those are gone
		case m == nil:
			return Step{Kind: Mirror, Side: side, Name: c.Name}
		case !m.Own && m.Version < c.Version:
			return Step{Kind: Update, Side: side, Name: c.Name}
		}
	}
	return Step{}
}

// removeJunior removes a mirror on the junior side whose contender is gone, unless it is the one that keeps the junior side's
// contenders from leading.
func removeJunior(j Side, jv, sv *View) Step {
	limit := min(numberOf(jv.first(true)), jv.Counter)
	keep := ""
	live := false
	for _, m := range jv.Children {
		if m.Own || m.Number >= limit {
			continue
		}
		alive := sv.find(m.Name) != nil
		if keep == "" || alive && !live {
			keep, live = m.Name, alive
		}
	}
	if keep == "" {
		return Step{} // nothing sorts before: nothing may go
	}
	for _, m := range jv.Children {
		if !m.Own && m.Name != keep && sv.find(m.Name) == nil {
			return Step{Kind: Remove, Side: j, Name: m.Name}
		}
	}
	return Step{}
}

// firstMade is the mirror that was made first.
func firstMade(v *View) *Child {
	var out *Child
	for i := range v.Children {
		if c := &v.Children[i]; !c.Own && (out == nil || c.Czxid < out.Czxid) {
			out = c
		}
	}
	return out
}

// begin finds who is senior: the side that has contenders, the source if none has.
func begin(views [2]*View, headroom int32) Step {
	own := [2]*Child{views[0].first(true), views[1].first(true)}
	mirrors := [2]*Child{views[0].first(false), views[1].first(false)}
	s := Source
	switch {
	case own[Source] == nil && own[Target] == nil && mirrors[Source] == nil && mirrors[Target] == nil:
		return Step{Kind: Wait}
	case mirrors[Source] != nil && mirrors[Target] == nil, own[Source] == nil && mirrors[Target] == nil:
		s = Target
	}
	j := s.Other()
	sv, jv := views[s], views[j]
	for _, c := range jv.Children {
		// Who came before the first mirror may lead already.
		if m := firstMade(jv); c.Own && (m == nil || c.Number <= m.Number || c.Czxid < m.Czxid) {
			return Step{Kind: Refuse, Side: j, Name: c.Name}
		}
	}
	if jv.Counter <= sv.Counter+headroom/2 {
		return Step{Kind: Push, Side: j, To: sv.Counter + headroom}
	}
	if step := show(j, jv, sv, false); step.Kind != None {
		return step
	}
	if jv.first(false) == nil {
		return Step{Kind: Wait}
	}
	return Step{Kind: Senior, Side: s}
}
