package spec

import (
	"fmt"
	"slices"
	"strings"
)

// Selector picks definitions by label: the conjunction of `k`, `k==v`, `k!=v`, `k in (a,b)` and `k notin (a,b)`. Every form
// needs the label to be there.
type Selector struct{ terms []term }

type term struct {
	key    string
	values []string // nil: any
	not    bool
}

// maxSelector bounds a selector's text.
const maxSelector = 8192

// ParseSelector reads a selector. Characters outside [-A-Za-z0-9_.] are written with a backslash before them.
func ParseSelector(q string) (*Selector, error) {
	p := &selectorParser{s: q}
	if len(q) > maxSelector {
		return nil, fmt.Errorf("Label selector is longer than %d characters", maxSelector)
	}
	s := &Selector{}
	for {
		t, err := p.term()
		if err != nil {
			return nil, fmt.Errorf("Label selector '%s' is not valid: %w", q, err)
		}
		s.terms = append(s.terms, t)
		p.space()
		if p.i == len(p.s) {
			return s, nil
		}
		if !p.eat(",") {
			return nil, fmt.Errorf("Label selector '%s' is not valid: expected ',' at position %d", q, p.i)
		}
	}
}

// Matches reports whether the labels fulfil every term.
func (s *Selector) Matches(labels map[string]string) bool {
	for _, t := range s.terms {
		v, ok := labels[t.key]
		if !ok || t.values != nil && slices.Contains(t.values, v) == t.not {
			return false
		}
	}
	return true
}

type selectorParser struct {
	s string
	i int
}

func (p *selectorParser) space() {
	for p.i < len(p.s) && p.s[p.i] == ' ' {
		p.i++
	}
}

func (p *selectorParser) eat(tok string) bool {
	p.space()
	if strings.HasPrefix(p.s[p.i:], tok) {
		p.i += len(tok)
		return true
	}
	return false
}

func (p *selectorParser) word() (string, error) {
	p.space()
	var b strings.Builder
	for p.i < len(p.s) {
		c := p.s[p.i]
		switch {
		case c == '\\' && p.i+1 < len(p.s):
			p.i++
			c = p.s[p.i]
		case c == '-' || c == '_' || c == '.' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
		default:
			if b.Len() == 0 {
				return "", fmt.Errorf("expected a word at position %d", p.i)
			}
			return b.String(), nil
		}
		b.WriteByte(c)
		p.i++
	}
	if b.Len() == 0 {
		return "", fmt.Errorf("expected a word at the end")
	}
	return b.String(), nil
}

func (p *selectorParser) term() (term, error) {
	key, err := p.word()
	if err != nil {
		return term{}, err
	}
	t := term{key: key}
	switch {
	case p.eat("=="):
	case p.eat("!="):
		t.not = true
	case p.eat("notin"):
		t.not = true
		t.values, err = p.set()
		return t, err
	case p.eat("in"):
		t.values, err = p.set()
		return t, err
	default:
		return t, nil
	}
	v, err := p.word()
	t.values = []string{v}
	return t, err
}

func (p *selectorParser) set() ([]string, error) {
	if !p.eat("(") {
		return nil, fmt.Errorf("expected '(' at position %d", p.i)
	}
	var out []string
	for {
		v, err := p.word()
		if err != nil {
			return nil, err
		}
		out = append(out, v)
		if p.eat(")") {
			return out, nil
		}
		if !p.eat(",") {
			return nil, fmt.Errorf("expected ',' or ')' at position %d", p.i)
		}
	}
}
