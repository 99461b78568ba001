package spec

import (
	"fmt"
	"strings"
)

// Problem is what is wrong at one place of a document.
type Problem struct {
	Path   string   `json:"path"`
	Errors []string `json:"errors"`
}

// Invalid says that a document can't be accepted, with every problem that was found. It becomes Marathon's 422.
type Invalid struct {
	Message  string    `json:"message"`
	Problems []Problem `json:"details"`
}

// The two messages of Marathon's 422 bodies.
const (
	MessageInvalidJSON   = "Invalid JSON"
	MessageInvalidObject = "Object is not valid"
)

func (e *Invalid) Error() string {
	var b strings.Builder
	b.WriteString(e.Message)
	for _, p := range e.Problems {
		fmt.Fprintf(&b, "; %s: %s", p.Path, strings.Join(p.Errors, ", "))
	}
	return b.String()
}

// maxProblems bounds what one answer reports: a document with a million faults has a readable answer too.
const maxProblems = 100

// problems collects what is wrong, grouped by path in the order found.
type problems struct{ list []Problem }

func (p *problems) add(path, format string, args ...any) {
	if path == "" {
		path = "/"
	}
	msg := format
	if len(args) > 0 {
		msg = fmt.Sprintf(format, args...)
	}
	for i := range p.list {
		if p.list[i].Path == path {
			p.list[i].Errors = append(p.list[i].Errors, msg)
			return
		}
	}
	if len(p.list) < maxProblems {
		p.list = append(p.list, Problem{Path: path, Errors: []string{msg}})
	}
}

func (p *problems) err(message string) error {
	if len(p.list) == 0 {
		return nil
	}
	return &Invalid{Message: message, Problems: p.list}
}

// invalidAt is a single problem with the object.
func invalidAt(path, format string, args ...any) error {
	var p problems
	p.add(path, format, args...)
	return p.err(MessageInvalidObject)
}
