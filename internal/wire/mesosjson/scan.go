package mesosjson

import (
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner walks one JSON text. It keeps the limits: every value that it enters counts, and so does every level.
type scanner struct {
	data   []byte
	pos    int
	depth  int
	values int
	limits Limits
	buf    []byte // scratch for strings with escapes
}

func (s *scanner) syntax(format string, args ...any) error {
	return &SyntaxError{Offset: s.pos, Reason: fmt.Sprintf(format, args...)}
}

// peek skips white space and returns the next byte, 0 at the end of the text.
func (s *scanner) peek() byte {
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// enter opens an object or an array.
func (s *scanner) enter() error {
	s.pos++
	s.depth++
	if s.depth > s.limits.Depth {
		return s.syntax("nested deeper than %d levels", s.limits.Depth)
	}
	return nil
}

// count charges one value against the limit.
func (s *scanner) count() error {
	s.values++
	if s.values > s.limits.Values {
		return s.syntax("more than %d values", s.limits.Values)
	}
	return nil
}

// next moves to the next member or element. It returns false at the closing character, which it consumes.
func (s *scanner) next(first bool, closing byte) (bool, error) {
	c := s.peek()
	if c == closing {
		s.pos++
		s.depth--
		return false, nil
	}
	if !first {
		if c != ',' {
			return false, s.unexpected("',' or '" + string(closing) + "'")
		}
		s.pos++
		if s.peek() == closing {
			return false, s.unexpected("a value after ','")
		}
	}
	return true, s.count()
}

func (s *scanner) unexpected(want string) error {
	if s.pos >= len(s.data) {
		return s.syntax("unexpected end, expecting %s", want)
	}
	return s.syntax("unexpected character %q, expecting %s", s.data[s.pos], want)
}

// key reads a member's name and the colon. The bytes are valid until the next string is read.
func (s *scanner) key() ([]byte, error) {
	if s.peek() != '"' {
		return nil, s.unexpected("a member name")
	}
	name, err := s.str()
	if err != nil {
		return nil, err
	}
	if s.peek() != ':' {
		return nil, s.unexpected("':'")
	}
	s.pos++
	return name, nil
}

// str reads a string, which begins at pos. The result points into the text when there is no escape, else into buf.
func (s *scanner) str() ([]byte, error) {
	s.pos++
	start := s.pos
	for i := start; i < len(s.data); {
		c := s.data[i]
		switch {
		case plainByte[c]:
			i++
		case c == '"':
			s.pos = i + 1
			return s.data[start:i], nil
		case c == '\\':
			s.buf = append(s.buf[:0], s.data[start:i]...)
			s.pos = i
			return s.escaped()
		case c < 0x20:
			s.pos = i
			return nil, s.syntax("control character in a string")
		default:
			r, size := utf8.DecodeRune(s.data[i:])
			if r == utf8.RuneError && size <= 1 {
				s.pos = i
				return nil, s.syntax("string is not UTF-8")
			}
			i += size
		}
	}
	s.pos = len(s.data)
	return nil, s.unexpected("'\"'")
}

// escaped reads the rest of a string from its first backslash on.
func (s *scanner) escaped() ([]byte, error) {
	for s.pos < len(s.data) {
		c := s.data[s.pos]
		switch {
		case plainByte[c]:
			s.buf = append(s.buf, c)
			s.pos++
		case c == '"':
			s.pos++
			return s.buf, nil
		case c == '\\':
			if err := s.escape(); err != nil {
				return nil, err
			}
		case c < 0x20:
			return nil, s.syntax("control character in a string")
		default:
			r, size := utf8.DecodeRune(s.data[s.pos:])
			if r == utf8.RuneError && size <= 1 {
				return nil, s.syntax("string is not UTF-8")
			}
			s.buf = append(s.buf, s.data[s.pos:s.pos+size]...)
			s.pos += size
		}
	}
	return nil, s.unexpected("'\"'")
}

func (s *scanner) escape() error {
	if s.pos+1 >= len(s.data) {
		s.pos = len(s.data)
		return s.unexpected("an escape")
	}
	c := s.data[s.pos+1]
	switch c {
	case '"', '\\', '/':
		s.buf = append(s.buf, c)
	case 'b':
		s.buf = append(s.buf, '\b')
	case 'f':
		s.buf = append(s.buf, '\f')
	case 'n':
		s.buf = append(s.buf, '\n')
	case 'r':
		s.buf = append(s.buf, '\r')
	case 't':
		s.buf = append(s.buf, '\t')
	case 'u':
		r, ok := s.hex4(s.pos + 2)
		if !ok {
			return s.syntax(`bad \u escape`)
		}
		s.pos += 6
		if utf16.IsSurrogate(r) {
			low, ok := rune(0), false
			if s.pos+1 < len(s.data) && s.data[s.pos] == '\\' && s.data[s.pos+1] == 'u' {
				low, ok = s.hex4(s.pos + 2)
			}
			pair := utf16.DecodeRune(r, low)
			if !ok || pair == utf8.RuneError {
				return s.syntax("lone surrogate in a string")
			}
			r = pair
			s.pos += 6
		}
		s.buf = utf8.AppendRune(s.buf, r)
		return nil
	default:
		return s.syntax("bad escape '\\%c'", c)
	}
	s.pos += 2
	return nil
}

func (s *scanner) hex4(at int) (rune, bool) {
	if at+4 > len(s.data) {
		return 0, false
	}
	n, err := strconv.ParseUint(string(s.data[at:at+4]), 16, 16)
	return rune(n), err == nil
}

// number returns the text of a number, which begins at pos.
func (s *scanner) number() ([]byte, error) {
	start := s.pos
	digits := func() bool {
		from := s.pos
		for s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9' {
			s.pos++
		}
		return s.pos > from
	}
	at := func(c byte) bool { return s.pos < len(s.data) && s.data[s.pos] == c }
	if at('-') {
		s.pos++
	}
	if at('I') && s.literal("Infinity") || s.pos == start && at('N') && s.literal("NaN") {
		return s.data[start:s.pos], nil
	}
	if at('0') {
		s.pos++
	} else if !digits() {
		return nil, s.unexpected("a digit")
	}
	if at('.') {
		s.pos++
		if !digits() {
			return nil, s.unexpected("a digit")
		}
	}
	if at('e') || at('E') {
		s.pos++
		if at('+') || at('-') {
			s.pos++
		}
		if !digits() {
			return nil, s.unexpected("a digit")
		}
	}
	return s.data[start:s.pos], nil
}

// literal consumes the word if it stands here.
func (s *scanner) literal(word string) bool {
	if len(s.data)-s.pos >= len(word) && string(s.data[s.pos:s.pos+len(word)]) == word {
		s.pos += len(word)
		return true
	}
	return false
}

// skip passes over one value of any kind.
func (s *scanner) skip() error {
	switch c := s.peek(); {
	case c == '"':
		_, err := s.str()
		return err
	case c == '{':
		if err := s.enter(); err != nil {
			return err
		}
		for first := true; ; first = false {
			more, err := s.next(first, '}')
			if err != nil || !more {
				return err
			}
			if _, err := s.key(); err != nil {
				return err
			}
			if err := s.skip(); err != nil {
				return err
			}
		}
	case c == '[':
		if err := s.enter(); err != nil {
			return err
		}
		for first := true; ; first = false {
			more, err := s.next(first, ']')
			if err != nil || !more {
				return err
			}
			if err := s.skip(); err != nil {
				return err
			}
		}
	case c == 't' && s.literal("true"), c == 'f' && s.literal("false"), c == 'n' && s.literal("null"):
		return nil
	case c == '-' || c >= '0' && c <= '9' || c == 'N' || c == 'I':
		_, err := s.number()
		return err
	default:
		return s.unexpected("a value")
	}
}
