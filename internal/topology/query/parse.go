package query

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// Limits of a query.
const (
	MaxLength = 1000 // characters
	MaxTerms  = 100
	MaxDepth  = 20
)

// Error is a query that can't be understood, with the column (in characters, from 1) where it goes wrong.
type Error struct {
	Column  int
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("column %d: %s", e.Column, e.Message) }

// Op is the kind of a node of the syntax tree.
type Op string

// The forms of the syntax tree, named as in the vectors file.
const (
	OpAll    Op = "all"
	OpAnd    Op = "and"
	OpOr     Op = "or"
	OpNot    Op = "not"
	OpText   Op = "text"
	OpRegexp Op = "re"
	OpHas    Op = "has"
	OpIs     Op = "is"
	OpIsnt   Op = "isnt"
	OpMatch  Op = "match"
	OpExists Op = "exists"
	OpNum    Op = "num"
)

// Expr is a node of the syntax tree.
type Expr struct {
	Op     Op
	Args   []*Expr // and, or, not
	Field  string  // lower case, except after "label."
	Value  string  // the text, value or pattern as written
	Cmp    string  // num: < <= > >=
	Number float64

	fold    string // Value in lower case
	re      *regexp.Regexp
	numeric bool // is, isnt: Value is also a number
}

// Parse reads a query.
func Parse(q string) (*Expr, error) {
	p := &parser{in: []rune(q)}
	if len(p.in) > MaxLength {
		return nil, &Error{MaxLength + 1, fmt.Sprintf("a query has at most %d characters", MaxLength)}
	}
	p.space()
	if p.done() {
		return &Expr{Op: OpAll}, nil
	}
	e, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if !p.done() {
		return nil, p.fail(p.pos, "unexpected )")
	}
	return e, nil
}

type parser struct {
	in    []rune
	pos   int
	terms int
}

func (p *parser) fail(pos int, format string, args ...any) error {
	return &Error{pos + 1, fmt.Sprintf(format, args...)}
}

func (p *parser) done() bool { return p.pos >= len(p.in) }

func (p *parser) peek() rune {
	if p.done() {
		return -1
	}
	return p.in[p.pos]
}

func (p *parser) space() {
	for !p.done() && unicode.IsSpace(p.in[p.pos]) {
		p.pos++
	}
}

// keyword takes the word if it comes next, in any case, and stands alone.
func (p *parser) keyword(word string) bool {
	end := p.pos + len(word)
	if end > len(p.in) || !strings.EqualFold(string(p.in[p.pos:end]), word) {
		return false
	}
	if end < len(p.in) && !unicode.IsSpace(p.in[end]) && p.in[end] != '(' && p.in[end] != ')' {
		return false
	}
	p.pos = end
	p.space()
	return true
}

func (p *parser) or(depth int) (*Expr, error) {
	var list []*Expr
	for {
		e, err := p.and(depth)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
		if !p.keyword("or") {
			return join(OpOr, list), nil
		}
	}
}

func (p *parser) and(depth int) (*Expr, error) {
	var list []*Expr
	for {
		e, err := p.unary(depth)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
		p.space()
		if p.keyword("and") {
			continue
		}
		if p.done() || p.peek() == ')' {
			return join(OpAnd, list), nil
		}
		mark := p.pos
		if p.keyword("or") {
			p.pos = mark
			return join(OpAnd, list), nil
		}
	}
}

func join(op Op, list []*Expr) *Expr {
	if len(list) == 1 {
		return list[0]
	}
	return &Expr{Op: op, Args: list}
}

func (p *parser) unary(depth int) (*Expr, error) {
	if depth > MaxDepth {
		return nil, p.fail(p.pos, "nested deeper than %d", MaxDepth)
	}
	minus := p.peek() == '-' && p.pos+1 < len(p.in) && !unicode.IsSpace(p.in[p.pos+1])
	if minus {
		p.pos++
	}
	if minus || p.keyword("not") {
		e, err := p.unary(depth + 1)
		if err != nil {
			return nil, err
		}
		return &Expr{Op: OpNot, Args: []*Expr{e}}, nil
	}
	if p.peek() == '(' {
		p.pos++
		p.space()
		e, err := p.or(depth + 1)
		if err != nil {
			return nil, err
		}
		if p.peek() != ')' {
			return nil, p.fail(p.pos, "expected )")
		}
		p.pos++
		p.space()
		return e, nil
	}
	start := p.pos
	e, err := p.term()
	if err != nil {
		return nil, err
	}
	if p.terms++; p.terms > MaxTerms {
		return nil, p.fail(start, "a query has at most %d terms", MaxTerms)
	}
	p.space()
	return e, nil
}

func (p *parser) term() (*Expr, error) {
	start := p.pos
	switch p.peek() {
	case -1, ')':
		return nil, p.fail(p.pos, "expected a term")
	case '"':
		s, err := p.quoted()
		if err != nil {
			return nil, err
		}
		return text(s), nil
	case '/':
		s, re, err := p.regexp()
		if err != nil {
			return nil, err
		}
		return &Expr{Op: OpRegexp, Value: s, re: re}, nil
	}
	if p.keyword("or") || p.keyword("and") {
		return nil, p.fail(start, "expected a term")
	}
	field := p.field()
	if field != "" {
		if e, err := p.comparison(field); e != nil || err != nil {
			return e, err
		}
		p.pos = start
	}
	return text(p.word()), nil
}

func text(s string) *Expr { return &Expr{Op: OpText, Value: s, fold: strings.ToLower(s)} }

// field takes a field's name: a letter or _, then letters, digits and ._-/~.
func (p *parser) field() string {
	start := p.pos
	for !p.done() {
		c := p.in[p.pos]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (p.pos == start || (c < '0' || c > '9') && !strings.ContainsRune(".-/~", c)) {
			break
		}
		p.pos++
	}
	name := string(p.in[start:p.pos])
	if len(name) > 6 && strings.EqualFold(name[:6], "label.") {
		return "label." + name[6:]
	}
	return strings.ToLower(name)
}

func (p *parser) word() string {
	start := p.pos
	for !p.done() && !unicode.IsSpace(p.in[p.pos]) && p.in[p.pos] != '(' && p.in[p.pos] != ')' {
		p.pos++
	}
	return string(p.in[start:p.pos])
}

// comparison reads what follows a field's name. Without an operator it gives nil: the name is a word.
func (p *parser) comparison(field string) (*Expr, error) {
	mark := p.pos
	p.space()
	spaced := p.pos > mark
	var op string
	switch rest := p.in[p.pos:]; {
	case len(rest) == 0:
		return nil, nil
	case rest[0] == '<' || rest[0] == '>':
		op = string(rest[0])
		if len(rest) > 1 && rest[1] == '=' {
			op += "="
		}
	case spaced:
		return nil, nil
	case rest[0] == ':' || rest[0] == '=':
		op = string(rest[0])
	case rest[0] == '!' && len(rest) > 1 && rest[1] == '=':
		op = "!="
	default:
		return nil, nil
	}
	p.pos += len(op)
	if op[0] == '<' || op[0] == '>' {
		after := p.pos
		p.space()
		start := p.pos
		w := p.word()
		if w == "" {
			return nil, p.fail(after, "expected a value after %s%s", field, op)
		}
		n, bad, ok := number(w)
		if !ok {
			return nil, p.fail(start+bad, "expected a number, such as 50%%, 1.5gb or 200ms")
		}
		return &Expr{Op: OpNum, Field: field, Cmp: op, Value: w, Number: n}, nil
	}
	e := &Expr{Field: field, Op: map[string]Op{":": OpHas, "=": OpIs, "!=": OpIsnt}[op]}
	switch c := p.peek(); {
	case c == '"':
		s, err := p.quoted()
		if err != nil {
			return nil, err
		}
		e.Value = s
	case c == '/' && op == ":":
		s, re, err := p.regexp()
		if err != nil {
			return nil, err
		}
		return &Expr{Op: OpMatch, Field: field, Value: s, re: re}, nil
	default:
		at := p.pos
		e.Value = p.word()
		if e.Value == "" {
			return nil, p.fail(at, "expected a value after %s%s", field, op)
		}
		if e.Value == "*" && op == ":" {
			return &Expr{Op: OpExists, Field: field}, nil
		}
		e.Number, _, e.numeric = number(e.Value)
	}
	e.fold = strings.ToLower(e.Value)
	return e, nil
}

func (p *parser) quoted() (string, error) {
	start := p.pos
	var b strings.Builder
	for p.pos++; !p.done(); p.pos++ {
		switch c := p.in[p.pos]; {
		case c == '"':
			p.pos++
			return b.String(), nil
		case c == '\\' && p.pos+1 < len(p.in) && (p.in[p.pos+1] == '"' || p.in[p.pos+1] == '\\'):
			p.pos++
			b.WriteRune(p.in[p.pos])
		default:
			b.WriteRune(c)
		}
	}
	return "", p.fail(start, "the quote is not closed")
}

func (p *parser) regexp() (string, *regexp.Regexp, error) {
	start := p.pos
	var b strings.Builder
	for p.pos++; !p.done(); p.pos++ {
		switch c := p.in[p.pos]; {
		case c == '/':
			p.pos++
			s := b.String()
			if s == "" {
				return "", nil, p.fail(start, "the regular expression is empty")
			}
			re, err := regexp.Compile("(?i)" + s)
			if err != nil {
				return "", nil, p.fail(start, "the regular expression is wrong: %v", err)
			}
			return s, re, nil
		case c == '\\' && p.pos+1 < len(p.in):
			p.pos++
			if p.in[p.pos] != '/' {
				b.WriteRune('\\')
			}
			b.WriteRune(p.in[p.pos])
		default:
			b.WriteRune(c)
		}
	}
	return "", nil, p.fail(start, "the regular expression is not closed with /")
}

var units = map[string]float64{
	"": 1, "%": 1,
	"k": 1 << 10, "kb": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "mib": 1 << 20,
	"g": 1 << 30, "gb": 1 << 30, "gib": 1 << 30, "t": 1 << 40, "tb": 1 << 40, "tib": 1 << 40, "b": 1,
	"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000,
}

// number reads digits, an optional fraction and a unit. When it can't, bad is how many characters were understood.
func number(w string) (n float64, bad int, ok bool) {
	i := 0
	for i < len(w) && w[i] >= '0' && w[i] <= '9' {
		i++
	}
	if i > 0 && i+1 < len(w) && w[i] == '.' && w[i+1] >= '0' && w[i+1] <= '9' {
		for i++; i < len(w) && w[i] >= '0' && w[i] <= '9'; {
			i++
		}
	}
	n, err := strconv.ParseFloat(w[:i], 64)
	if err != nil {
		return 0, 0, false
	}
	unit, known := units[strings.ToLower(w[i:])]
	if !known {
		return 0, i, false
	}
	return n * unit, 0, true
}
