package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
)

// Object is a JSON object as Decode gives it: values are string, bool, json.Number, []any, map[string]any or nil.
type Object = map[string]any

// SyntaxError says that a body is not JSON at all. It becomes Marathon's 400, whose details are a string.
type SyntaxError struct{ Details string }

func (e *SyntaxError) Error() string { return MessageInvalidJSON + ": " + e.Details }

// maxNodes bounds the values in one document, so that a small body can't blow up into much memory.
const maxNodes = 2_000_000

// Decode parses a whole body, keeping numbers as they are written.
func Decode(body []byte) (any, error) {
	if n := bytes.Count(body, []byte{','}); n > maxNodes {
		return nil, &SyntaxError{Details: fmt.Sprintf("the document has more than %d values", maxNodes)}
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, &SyntaxError{Details: "No content to map due to end-of-input"}
		}
		return nil, &SyntaxError{Details: err.Error()}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, &SyntaxError{Details: "unexpected content after the document"}
	}
	return v, nil
}

// reader walks an object and notes every problem with its path. null counts as absent, unknown keys are ignored.
type reader struct {
	path string
	o    Object
	p    *problems
}

func newReader(path string, v any, p *problems) (reader, bool) {
	o, ok := v.(Object)
	if !ok {
		p.add(path, "error.expected.jsobject")
	}
	return reader{path: path, o: o, p: p}, ok
}

func (r reader) has(key string) bool { return r.o[key] != nil }

func (r reader) at(key string) string { return r.path + "/" + key }

func (r reader) bad(key, msg string) { r.p.add(r.at(key), "%s", msg) }

func (r reader) missing(key string) { r.bad(key, "error.path.missing") }

func (r reader) str(key, def string) string {
	switch v := r.o[key].(type) {
	case nil:
	case string:
		return v
	default:
		r.bad(key, "error.expected.jsstring")
	}
	return def
}

func (r reader) need(key string) string {
	if !r.has(key) {
		r.missing(key)
	}
	return r.str(key, "")
}

func (r reader) enum(key, def string, allowed ...string) string {
	s := r.str(key, def)
	for _, a := range allowed {
		if s == a {
			return s
		}
	}
	r.bad(key, "error.unknown.enum.literal")
	return def
}

func (r reader) boolean(key string, def bool) bool {
	switch v := r.o[key].(type) {
	case nil:
	case bool:
		return v
	default:
		r.bad(key, "error.expected.jsboolean")
	}
	return def
}

func (r reader) float(key string, def, min, max float64) float64 {
	switch v := r.o[key].(type) {
	case nil:
	case json.Number:
		f, err := v.Float64()
		switch {
		case err != nil || math.IsInf(f, 0):
			r.bad(key, "error.expected.jsnumber")
		case f < min:
			r.bad(key, "error.min")
		case f > max:
			r.bad(key, "error.max")
		default:
			return f
		}
	default:
		r.bad(key, "error.expected.jsnumber")
	}
	return def
}

func (r reader) integer(key string, def, min, max int) int {
	switch v := r.o[key].(type) {
	case nil:
	case json.Number:
		n, err := strconv.ParseInt(v.String(), 10, 64)
		if err != nil {
			f, ferr := v.Float64()
			if ferr != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
				r.bad(key, "error.expected.int")
				return def
			}
			n = int64(f)
		}
		switch {
		case n < int64(min):
			r.bad(key, "error.min")
		case n > int64(max):
			r.bad(key, "error.max")
		default:
			return int(n)
		}
	default:
		r.bad(key, "error.expected.jsnumber")
	}
	return def
}

func (r reader) intPtr(key string, min, max int) *int {
	if !r.has(key) {
		return nil
	}
	n := r.integer(key, 0, min, max)
	return &n
}

// sub opens the object under key; ok is false when it is absent or no object.
func (r reader) sub(key string) (reader, bool) {
	if !r.has(key) {
		return reader{}, false
	}
	return newReader(r.at(key), r.o[key], r.p)
}

// array gives the elements under key with their paths; nil when absent, empty and not nil when it is there and empty.
func (r reader) array(key string) []element {
	switch v := r.o[key].(type) {
	case nil:
	case []any:
		out := make([]element, len(v))
		for i, x := range v {
			out[i] = element{path: fmt.Sprintf("%s(%d)", r.at(key), i), v: x, p: r.p}
		}
		return out
	default:
		r.bad(key, "error.expected.jsarray")
	}
	return nil
}

// element is one value of an array.
type element struct {
	path string
	v    any
	p    *problems
}

func (e element) object() (reader, bool) { return newReader(e.path, e.v, e.p) }

func (e element) str() string {
	s, ok := e.v.(string)
	if !ok {
		e.p.add(e.path, "error.expected.jsstring")
	}
	return s
}

func (r reader) strings(key string) []string {
	var out []string
	for _, e := range r.array(key) {
		out = append(out, e.str())
	}
	return out
}

func (r reader) stringMap(key string) map[string]string {
	o, ok := r.sub(key)
	if !ok || len(o.o) == 0 {
		return nil
	}
	m := make(map[string]string, len(o.o))
	for k, v := range o.o {
		s, ok := v.(string)
		if !ok {
			r.p.add(o.at(k), "error.expected.jsstring")
			continue
		}
		m[k] = s
	}
	return m
}

// objects reads an array of objects with f; nil stays nil, an empty array stays empty.
func objects[T any](r reader, key string, f func(reader) T) []T {
	list := r.array(key)
	if list == nil {
		return nil
	}
	out := make([]T, 0, len(list))
	for _, e := range list {
		if o, ok := e.object(); ok {
			out = append(out, f(o))
		}
	}
	return out
}
