package query

import (
	"slices"
	"strings"
)

// Doc is what a query is matched against.
type Doc interface {
	// Texts calls yield with each text that a bare word searches, until it returns false.
	Texts(yield func(string) bool)
	// Field calls yield with each value of a field, until it returns false. Names are as in Expr.Field.
	Field(name string, yield func(string) bool)
	// Number gives a metric, or an attribute that is a number.
	Number(name string) (float64, bool)
}

// Match reports whether the document matches.
func (e *Expr) Match(d Doc) bool {
	switch e.Op {
	case OpAll:
		return true
	case OpAnd:
		for _, a := range e.Args {
			if !a.Match(d) {
				return false
			}
		}
		return true
	case OpOr:
		for _, a := range e.Args {
			if a.Match(d) {
				return true
			}
		}
		return false
	case OpNot:
		return !e.Args[0].Match(d)
	case OpNum:
		v, ok := d.Number(e.Field)
		return ok && compare(v, e.Cmp, e.Number)
	case OpText, OpRegexp:
		return e.any(d.Texts)
	case OpIs, OpIsnt:
		if e.numeric {
			if v, ok := d.Number(e.Field); ok {
				return (v == e.Number) == (e.Op == OpIs)
			}
		}
		there := false
		found := e.any(func(yield func(string) bool) {
			d.Field(e.Field, func(s string) bool { there = true; return yield(s) })
		})
		return there && found == (e.Op == OpIs)
	default:
		return e.any(func(yield func(string) bool) { d.Field(e.Field, yield) })
	}
}

// any reports whether one of the texts satisfies the term.
func (e *Expr) any(texts func(func(string) bool)) bool {
	found := false
	texts(func(s string) bool {
		switch e.Op {
		case OpRegexp, OpMatch:
			found = e.re.MatchString(s)
		case OpIs, OpIsnt:
			found = strings.EqualFold(s, e.Value)
		case OpExists:
			found = true
		default:
			found = strings.Contains(strings.ToLower(s), e.fold)
		}
		return !found
	})
	return found
}

func compare(v float64, op string, n float64) bool {
	switch op {
	case "<":
		return v < n
	case "<=":
		return v <= n
	case ">":
		return v > n
	default:
		return v >= n
	}
}

// UsesNumbers reports whether the result depends on metrics, which change all the time.
func (e *Expr) UsesNumbers() bool {
	if e.Op == OpNum || e.numeric {
		return true
	}
	for _, a := range e.Args {
		if a.UsesNumbers() {
			return true
		}
	}
	return false
}

// Uses reports whether the result depends on one of these fields.
func (e *Expr) Uses(fields ...string) bool {
	if slices.Contains(fields, e.Field) {
		return true
	}
	for _, a := range e.Args {
		if a.Uses(fields...) {
			return true
		}
	}
	return false
}
