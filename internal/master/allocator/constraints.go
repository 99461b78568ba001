package allocator

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
)

// ConstraintLimits bound what a framework's offer constraints may cost. A limit of 0 means the default.
type ConstraintLimits struct {
	// MaxProgramSize is the greatest number of instructions of a regular expression, RE2's measure
	// (--offer_constraints_re2_max_program_size, 100 in Mesos).
	MaxProgramSize int
	// MaxPattern is the greatest length of a pattern in bytes (stands for --offer_constraints_re2_max_mem, 4096).
	MaxPattern int
	// MaxConstraints is the greatest number of constraints over all roles and groups.
	MaxConstraints int
}

// DefaultConstraintLimits are Mesos' defaults.
func DefaultConstraintLimits() ConstraintLimits {
	return ConstraintLimits{MaxProgramSize: 100, MaxPattern: 4096, MaxConstraints: 4096}
}

// Constraints are a framework's offer constraints, compiled by CompileConstraints.
type Constraints struct{ roles map[string]*roleConstraints }

// roleConstraints are groups of which one must match; in a group all must.
type roleConstraints struct{ groups [][]constraint }

type constraint struct {
	attribute string // name, "" for a pseudo attribute
	pseudo    schedulerv1.AttributeConstraint_Selector_PseudoattributeType
	test      func(v value) bool
}

// value is what a selector finds: nothing, a text, or an attribute that is no text.
type value struct {
	exists, isText bool
	text           string
}

func (c *Constraints) forRole(role string) *roleConstraints {
	if c == nil {
		return nil
	}
	return c.roles[role]
}

func (l ConstraintLimits) orDefault() ConstraintLimits {
	d := DefaultConstraintLimits()
	for _, x := range []struct{ set, standard *int }{
		{&l.MaxProgramSize, &d.MaxProgramSize}, {&l.MaxPattern, &d.MaxPattern}, {&l.MaxConstraints, &d.MaxConstraints},
	} {
		if *x.set == 0 {
			*x.set = *x.standard
		}
	}
	return l
}

// CompileConstraints checks and compiles offer constraints (scheduler::OfferConstraints); nil compiles to none.
func CompileConstraints(p *schedulerv1.OfferConstraints, limits ConstraintLimits) (*Constraints, error) {
	if p == nil || len(p.RoleConstraints) == 0 {
		return nil, nil
	}
	limits = limits.orDefault()
	out := &Constraints{roles: map[string]*roleConstraints{}}
	n := 0
	for _, role := range sortedKeys(p.RoleConstraints) {
		rc := p.RoleConstraints[role]
		if len(rc.GetGroups()) == 0 {
			return nil, fmt.Errorf("'OfferConstraints::role_constraints' has an empty 'RoleConstraints::groups' for role %s", role)
		}
		compiled := &roleConstraints{}
		for _, g := range rc.Groups {
			if len(g.GetAttributeConstraints()) == 0 {
				return nil, fmt.Errorf("'OfferConstraints::RoleConstraints::groups' for role %s contains an empty RoleConstraints::Group", role)
			}
			var group []constraint
			for _, ac := range g.AttributeConstraints {
				if n++; n > limits.MaxConstraints {
					return nil, fmt.Errorf("more than %d offer constraints", limits.MaxConstraints)
				}
				c, err := compileConstraint(ac, limits)
				if err != nil {
					return nil, fmt.Errorf("role %s has an invalid 'AttributeConstraint': %w", role, err)
				}
				group = append(group, c)
			}
			compiled.groups = append(compiled.groups, group)
		}
		out.roles[role] = compiled
	}
	return out, nil
}

func compileConstraint(p *schedulerv1.AttributeConstraint, limits ConstraintLimits) (constraint, error) {
	var c constraint
	switch s := p.GetSelector().GetSelector().(type) {
	case *schedulerv1.AttributeConstraint_Selector_AttributeName:
		c.attribute = s.AttributeName
	case *schedulerv1.AttributeConstraint_Selector_PseudoattributeType_:
		switch s.PseudoattributeType {
		case schedulerv1.AttributeConstraint_Selector_HOSTNAME,
			schedulerv1.AttributeConstraint_Selector_REGION, schedulerv1.AttributeConstraint_Selector_ZONE:
			c.pseudo = s.PseudoattributeType
		default:
			return c, fmt.Errorf("unknown pseudoattribute type")
		}
	default:
		return c, fmt.Errorf("exactly one of 'AttributeConstraint::Selector::name' or 'AttributeConstraint::Selector::pseudoattribute_type' must be set")
	}
	switch t := p.GetPredicate().GetPredicate().(type) {
	case *schedulerv1.AttributeConstraint_Predicate_Exists_:
		c.test = func(v value) bool { return v.exists }
	case *schedulerv1.AttributeConstraint_Predicate_NotExists_:
		c.test = func(v value) bool { return !v.exists }
	case *schedulerv1.AttributeConstraint_Predicate_TextEquals_:
		want := t.TextEquals.GetValue()
		c.test = func(v value) bool { return v.exists && (!v.isText || v.text == want) }
	case *schedulerv1.AttributeConstraint_Predicate_TextNotEquals_:
		unwanted := t.TextNotEquals.GetValue()
		c.test = func(v value) bool { return !v.exists || !v.isText || v.text != unwanted }
	case *schedulerv1.AttributeConstraint_Predicate_TextMatches_:
		re, err := compilePattern(t.TextMatches.GetRegex(), limits)
		if err != nil {
			return c, err
		}
		c.test = func(v value) bool { return v.exists && (!v.isText || re.MatchString(v.text)) }
	case *schedulerv1.AttributeConstraint_Predicate_TextNotMatches_:
		re, err := compilePattern(t.TextNotMatches.GetRegex(), limits)
		if err != nil {
			return c, err
		}
		c.test = func(v value) bool { return !v.exists || !v.isText || !re.MatchString(v.text) }
	default:
		return c, fmt.Errorf("unknown predicate type")
	}
	return c, nil
}

// compilePattern compiles a pattern that must match the whole text, as RE2::FullMatch.
func compilePattern(pattern string, limits ConstraintLimits) (*regexp.Regexp, error) {
	if len(pattern) > limits.MaxPattern {
		return nil, fmt.Errorf("regex of %d bytes is longer than the maximum of %d allowed", len(pattern), limits.MaxPattern)
	}
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("failed to construct regex from pattern '%s': %w", pattern, err)
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, fmt.Errorf("failed to construct regex from pattern '%s': %w", pattern, err)
	}
	if n := len(prog.Inst); n > limits.MaxProgramSize {
		return nil, fmt.Errorf("regex '%s' is too complex: program size of %d is larger than maximum of %d allowed", pattern, n, limits.MaxProgramSize)
	}
	re, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
	if err != nil {
		return nil, fmt.Errorf("failed to construct regex from pattern '%s': %w", pattern, err)
	}
	return re, nil
}

// matches reports whether an agent satisfies any group.
func (r *roleConstraints) matches(info *AgentInfo) bool {
	return slices.ContainsFunc(r.groups, func(group []constraint) bool {
		for _, c := range group {
			if !c.test(c.find(info)) {
				return false
			}
		}
		return true
	})
}

func (c *constraint) find(info *AgentInfo) value {
	fault := info.Domain.GetFaultDomain()
	switch c.pseudo {
	case schedulerv1.AttributeConstraint_Selector_HOSTNAME:
		return value{true, true, info.Hostname}
	case schedulerv1.AttributeConstraint_Selector_REGION:
		return value{fault != nil, true, fault.GetRegion().GetName()}
	case schedulerv1.AttributeConstraint_Selector_ZONE:
		return value{fault != nil, true, fault.GetZone().GetName()}
	}
	for _, attr := range info.Attributes {
		if attr.GetName() == c.attribute {
			return value{true, attr.GetType() == mesosv1.Value_TEXT, attr.GetText().GetValue()}
		}
	}
	return value{}
}

// forgetConstraint makes every agent be checked anew against a client's constraints.
func (a *Allocator) forgetConstraint(c int32) {
	for _, ag := range a.slots {
		if ag != nil {
			ag.checked.unset(c)
			ag.mismatch.unset(c)
		}
	}
}

// applyConstraints takes those clients out of the mask whose constraints the agent does not satisfy. Answers are kept with
// the agent: its attributes seldom change.
func (a *Allocator) applyConstraints(ag *agent, mask bitmap) {
	for w := range mask[:min(len(mask), len(a.constrained))] {
		todo := mask[w] & a.constrained[w]
		if todo == 0 {
			continue
		}
		if w < len(ag.checked) {
			todo &^= ag.checked[w]
		}
		if todo != 0 {
			a.cycle.ids = bitmap{todo}.appendAnd(a.cycle.ids[:0], nil)
			for _, i := range a.cycle.ids {
				c := int32(w<<6) + i
				ag.checked.set(c)
				ag.mismatch.put(c, !a.clients[c].constraint.matches(&ag.info))
			}
		}
		if w < len(ag.mismatch) {
			mask[w] &^= ag.mismatch[w]
		}
	}
}
