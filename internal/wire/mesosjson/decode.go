package mesosjson

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"unsafe"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Limits bound what Unmarshal accepts. Zero fields stand for the defaults.
type Limits struct {
	Bytes  int // length of the text; default 256 MiB
	Depth  int // nesting of objects and arrays; default 100
	Values int // members and elements in the whole text; default 2,000,000 and one more for each 8 bytes
}

func (l Limits) orDefault(size int) Limits {
	if l.Bytes <= 0 {
		l.Bytes = 256 << 20
	}
	if l.Depth <= 0 {
		l.Depth = 100
	}
	if l.Values <= 0 {
		// What a decoder allocates stays in proportion to the text; the state of a whole cluster has a value in about 14 bytes.
		l.Values = 2_000_000 + size/8
	}
	return l
}

// Unmarshal reads data into m, which should be empty: fields that the text does not name keep what they hold. It
// accepts what Mesos accepts (see the package's documentation); the error is a *SyntaxError when the text is not JSON
// and a *FieldError when it does not fit the message. After an error m holds an unspecified part of the text.
func Unmarshal(data []byte, m proto.Message) error {
	return Limits{}.Unmarshal(data, m)
}

// Unmarshal is the function Unmarshal with these limits.
func (l Limits) Unmarshal(data []byte, m proto.Message) error {
	l = l.orDefault(len(data))
	if len(data) > l.Bytes {
		return fmt.Errorf("JSON of %d bytes exceeds the limit of %d bytes", len(data), l.Bytes)
	}
	p, base, err := planOf(m)
	if err != nil {
		return err
	}
	s := scanner{data: data, limits: l}
	if s.peek() != '{' {
		return s.unexpected("'{'")
	}
	if err := p.decode(&s, base); err != nil {
		return err
	}
	if s.peek() != 0 || s.pos < len(s.data) {
		return s.syntax("unexpected data after the object")
	}
	return nil
}

// decode reads an object into the struct at base, which must be of the plan's type.
func (p *plan) decode(s *scanner, base unsafe.Pointer) error {
	if err := s.enter(); err != nil {
		return err
	}
	for first := true; ; first = false {
		more, err := s.next(first, '}')
		if err != nil {
			return err
		}
		if !more {
			break
		}
		name, err := s.key()
		if err != nil {
			return err
		}
		f := p.byName[string(name)]
		c := s.peek()
		switch {
		case f == nil:
			err = s.skip()
		case c == 'n' && s.literal("null"):
		default:
			err = f.decode(s, base, c)
		}
		if err != nil {
			if f != nil {
				return within(err, f.name)
			}
			return err
		}
	}
	for _, f := range p.required {
		if !f.isSet(base) {
			return &FieldError{Path: f.name, Reason: "missing required field"}
		}
	}
	return nil
}

// decode reads the value of one field; c is its first character.
func (f *field) decode(s *scanner, base unsafe.Pointer, c byte) error {
	at := unsafe.Add(base, f.off)
	switch f.op {
	case opString:
		return set(at, s, c, scanString)
	case opBytes:
		v, err := scanBytes(s, c)
		if err == nil {
			*(*[]byte)(at) = v
		}
		return err
	case opBool:
		return set(at, s, c, scanBool)
	case opInt32:
		return set(at, s, c, scanInt32)
	case opInt64:
		return set(at, s, c, scanInt64)
	case opUint32:
		return set(at, s, c, scanUint32)
	case opUint64:
		return set(at, s, c, scanUint64)
	case opFloat:
		return set(at, s, c, scanFloat32)
	case opDouble:
		return set(at, s, c, scanFloat64)
	case opEnum:
		n, known, err := f.scanEnum(s, c)
		if err != nil {
			return err
		}
		if !known {
			if f.required {
				return &FieldError{Reason: "unknown enum value"}
			}
			return nil
		}
		*(**int32)(at) = &n
		return nil
	case opMessage:
		if c != '{' {
			return mismatch(s, c, "an object")
		}
		sub := reflect.New(f.sub.typ).UnsafePointer()
		*(*unsafe.Pointer)(at) = sub
		return f.sub.decode(s, sub)
	case opReflect:
		return f.decodeReflect(s, base, c)
	}
	return f.decodeList(s, at, c)
}

func (f *field) decodeList(s *scanner, at unsafe.Pointer, c byte) error {
	if c != '[' {
		return mismatch(s, c, "an array")
	}
	switch f.op {
	case opStrings:
		return list(at, s, scanString)
	case opBytesList:
		return list(at, s, scanBytes)
	case opBools:
		return list(at, s, scanBool)
	case opInt32s:
		return list(at, s, scanInt32)
	case opInt64s:
		return list(at, s, scanInt64)
	case opUint32s:
		return list(at, s, scanUint32)
	case opUint64s:
		return list(at, s, scanUint64)
	case opFloats:
		return list(at, s, scanFloat32)
	case opDoubles:
		return list(at, s, scanFloat64)
	case opEnums:
		*(*[]int32)(at) = nil
		return elements(s, func(_ int, c byte) error {
			n, known, err := f.scanEnum(s, c)
			if known && err == nil {
				*(*[]int32)(at) = append(*(*[]int32)(at), n)
			}
			return err
		})
	}
	// opMessages. []*M and []unsafe.Pointer have one layout, for the collector too.
	*(*[]unsafe.Pointer)(at) = nil
	return elements(s, func(_ int, c byte) error {
		if c != '{' {
			return mismatch(s, c, "an object")
		}
		sub := reflect.New(f.sub.typ).UnsafePointer()
		*(*[]unsafe.Pointer)(at) = append(*(*[]unsafe.Pointer)(at), sub)
		return f.sub.decode(s, sub)
	})
}

// elements calls read at the start of each element of an array; read must consume it.
func elements(s *scanner, read func(i int, c byte) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	for i := 0; ; i++ {
		more, err := s.next(i == 0, ']')
		if err != nil || !more {
			return err
		}
		if err := read(i, s.peek()); err != nil {
			return within(err, "["+strconv.Itoa(i)+"]")
		}
	}
}

func set[T any](at unsafe.Pointer, s *scanner, c byte, scan func(*scanner, byte) (T, error)) error {
	v, err := scan(s, c)
	if err != nil {
		return err
	}
	*(**T)(at) = &v
	return nil
}

func list[T any](at unsafe.Pointer, s *scanner, scan func(*scanner, byte) (T, error)) error {
	var out []T
	err := elements(s, func(_ int, c byte) error {
		v, err := scan(s, c)
		out = append(out, v)
		return err
	})
	*(*[]T)(at) = out
	return err
}

// decodeReflect is the slow way for maps, members of a oneof and proto3's scalars.
func (f *field) decodeReflect(s *scanner, base unsafe.Pointer, c byte) error {
	m := reflect.NewAt(f.owner.typ, base).Interface().(proto.Message).ProtoReflect()
	if f.desc.IsMap() {
		return f.decodeMap(s, m, c)
	}
	if f.desc.IsList() {
		return &FieldError{Reason: "unsupported list"} // protoc-gen-go has no such shape
	}
	v := m.NewField(f.desc)
	if f.desc.Message() != nil {
		if err := decodeMessage(s, v.Message().Interface(), c); err != nil {
			return err
		}
		m.Set(f.desc, v)
		return nil
	}
	v, known, err := f.scanScalar(s, f.desc, c)
	if err == nil && known {
		m.Set(f.desc, v)
	}
	return err
}

func decodeMessage(s *scanner, m proto.Message, c byte) error {
	if c != '{' {
		return mismatch(s, c, "an object")
	}
	p, base, err := planOf(m)
	if err != nil {
		return err
	}
	return p.decode(s, base)
}

func (f *field) decodeMap(s *scanner, m protoreflect.Message, c byte) error {
	if c != '{' {
		return mismatch(s, c, "an object")
	}
	if err := s.enter(); err != nil {
		return err
	}
	m.Clear(f.desc)
	entries := m.Mutable(f.desc).Map()
	for first := true; ; first = false {
		more, err := s.next(first, '}')
		if err != nil || !more {
			return err
		}
		name, err := s.key()
		if err != nil {
			return err
		}
		text := string(name)
		key, _, err := (&field{}).scanScalarText(f.desc.MapKey(), []byte(text))
		if err != nil {
			return within(err, fmt.Sprintf("[%q]", text))
		}
		c := s.peek()
		if c == 'n' && s.literal("null") {
			continue
		}
		v, known := entries.NewValue(), true
		if f.desc.MapValue().Message() != nil {
			err = decodeMessage(s, v.Message().Interface(), c)
		} else {
			v, known, err = f.scanScalar(s, f.desc.MapValue(), c)
		}
		if err != nil {
			return within(err, fmt.Sprintf("[%q]", text))
		}
		if known {
			entries.Set(key.MapKey(), v)
		}
	}
}

// scanScalar reads one value by its descriptor. known is false for an enum's unknown name.
func (f *field) scanScalar(s *scanner, fd protoreflect.FieldDescriptor, c byte) (v protoreflect.Value, known bool, err error) {
	switch fd.Kind() {
	case protoreflect.StringKind:
		x, err := scanString(s, c)
		return protoreflect.ValueOfString(x), true, err
	case protoreflect.BytesKind:
		x, err := scanBytes(s, c)
		return protoreflect.ValueOfBytes(x), true, err
	case protoreflect.BoolKind:
		x, err := scanBool(s, c)
		return protoreflect.ValueOfBool(x), true, err
	case protoreflect.EnumKind:
		n, known, err := f.scanEnum(s, c)
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n)), known, err
	}
	text, err := scanNumber(s, c)
	if err != nil {
		return v, false, err
	}
	return f.scanScalarText(fd, text)
}

// scanScalarText reads a number, or a map's key, from its text.
func (f *field) scanScalarText(fd protoreflect.FieldDescriptor, text []byte) (v protoreflect.Value, known bool, err error) {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(string(text)), true, nil
	case protoreflect.BoolKind:
		x, err := parseBool(text)
		return protoreflect.ValueOfBool(x), true, err
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		x, err := parseInt(text, 32)
		return protoreflect.ValueOfInt32(int32(x)), true, err
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		x, err := parseInt(text, 64)
		return protoreflect.ValueOfInt64(x), true, err
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		x, err := parseUint(text, 32)
		return protoreflect.ValueOfUint32(uint32(x)), true, err
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		x, err := parseUint(text, 64)
		return protoreflect.ValueOfUint64(x), true, err
	case protoreflect.FloatKind:
		x, err := parseFloat(text)
		return protoreflect.ValueOfFloat32(float32(x)), true, err
	case protoreflect.DoubleKind:
		x, err := parseFloat(text)
		return protoreflect.ValueOfFloat64(x), true, err
	}
	return v, false, &FieldError{Reason: "unsupported kind " + fd.Kind().String()}
}

func (f *field) scanEnum(s *scanner, c byte) (n int32, known bool, err error) {
	if c != '"' {
		return 0, false, mismatch(s, c, "the name of an enum value")
	}
	name, err := s.str()
	if err != nil {
		return 0, false, err
	}
	n, known = f.enum.number[string(name)]
	return n, known, nil
}

func scanString(s *scanner, c byte) (string, error) {
	if c != '"' {
		return "", mismatch(s, c, "a string")
	}
	b, err := s.str()
	return string(b), err
}

func scanBytes(s *scanner, c byte) ([]byte, error) {
	if c != '"' {
		return nil, mismatch(s, c, "a base64 string")
	}
	text, err := s.str()
	if err != nil {
		return nil, err
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(out, text)
	if err != nil {
		return nil, &FieldError{Reason: "bad base64: " + err.Error()}
	}
	return out[:n], nil
}

func scanBool(s *scanner, c byte) (bool, error) {
	switch {
	case c == 't' && s.literal("true"):
		return true, nil
	case c == 'f' && s.literal("false"):
		return false, nil
	case c == '"':
		text, err := s.str()
		if err != nil {
			return false, err
		}
		return parseBool(text)
	}
	return false, mismatch(s, c, "true or false")
}

// scanNumber returns the text of a number, quoted or not.
func scanNumber(s *scanner, c byte) ([]byte, error) {
	switch {
	case c == '"':
		return s.str()
	case c == '-' || c >= '0' && c <= '9' || c == 'N' || c == 'I':
		return s.number()
	}
	return nil, mismatch(s, c, "a number")
}

func scanInt32(s *scanner, c byte) (int32, error) { return scanWith(s, c, 32, parseInt, int32From) }

func scanInt64(s *scanner, c byte) (int64, error) { return scanWith(s, c, 64, parseInt, int64From) }

func scanUint32(s *scanner, c byte) (uint32, error) { return scanWith(s, c, 32, parseUint, uint32From) }

func scanUint64(s *scanner, c byte) (uint64, error) { return scanWith(s, c, 64, parseUint, uint64From) }

func scanFloat32(s *scanner, c byte) (float32, error) {
	return scanWith(s, c, 32, parseDouble, float32From)
}

func scanFloat64(s *scanner, c byte) (float64, error) {
	return scanWith(s, c, 64, parseDouble, float64From)
}

func int32From(v int64) int32       { return int32(v) }
func int64From(v int64) int64       { return v }
func uint32From(v uint64) uint32    { return uint32(v) }
func uint64From(v uint64) uint64    { return v }
func float32From(v float64) float32 { return float32(v) }
func float64From(v float64) float64 { return v }

func scanWith[W, T any](s *scanner, c byte, bits int, parse func([]byte, int) (W, error), narrow func(W) T) (T, error) {
	text, err := scanNumber(s, c)
	if err != nil {
		var zero T
		return zero, err
	}
	v, err := parse(text, bits)
	return narrow(v), err
}

// parseInt reads a whole number; a number with a fraction or an exponent is cut off towards zero, as Mesos does.
func parseInt(text []byte, bits int) (int64, error) {
	v, err := strconv.ParseInt(string(text), 10, bits)
	if err == nil {
		return v, nil
	}
	if d, ok := fractional(text, err); ok {
		limit := math.Ldexp(1, bits-1)
		if d = math.Trunc(d); d >= -limit && d < limit {
			return int64(d), nil
		}
	}
	return 0, &FieldError{Reason: fmt.Sprintf("%s is not a %d-bit integer", quote(text), bits)}
}

func parseUint(text []byte, bits int) (uint64, error) {
	v, err := strconv.ParseUint(string(text), 10, bits)
	if err == nil {
		return v, nil
	}
	if d, ok := fractional(text, err); ok {
		if d = math.Trunc(d); d >= 0 && d < math.Ldexp(1, bits) {
			return uint64(d), nil
		}
	}
	return 0, &FieldError{Reason: fmt.Sprintf("%s is not an unsigned %d-bit integer", quote(text), bits)}
}

// fractional reads the text as a double if that is why it is no integer.
func fractional(text []byte, err error) (float64, bool) {
	if errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	d, err := parseFloat(text)
	return d, err == nil && !math.IsNaN(d)
}

func parseDouble(text []byte, _ int) (float64, error) { return parseFloat(text) }

func parseFloat(text []byte) (float64, error) {
	switch string(text) {
	case "Infinity":
		return math.Inf(1), nil
	case "-Infinity":
		return math.Inf(-1), nil
	case "NaN":
		return math.NaN(), nil
	}
	// ParseFloat also reads hexadecimal, underscores and other names of infinity, which are not JSON.
	for _, c := range text {
		if (c < '0' || c > '9') && c != '.' && c != '-' && c != '+' && c != 'e' && c != 'E' {
			return 0, &FieldError{Reason: quote(text) + " is not a number"}
		}
	}
	v, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return 0, &FieldError{Reason: quote(text) + " is not a number"}
	}
	return v, nil
}

func parseBool(text []byte) (bool, error) {
	switch string(text) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, &FieldError{Reason: quote(text) + " is not true or false"}
}

// quote shows the beginning of a value in an error.
func quote(text []byte) string {
	const most = 40
	if len(text) > most {
		return strconv.Quote(string(text[:most])) + "…"
	}
	return strconv.Quote(string(text))
}

// mismatch says which kind of value stands where another one is expected.
func mismatch(s *scanner, c byte, want string) error {
	var got string
	switch {
	case c == '{':
		got = "an object"
	case c == '[':
		got = "an array"
	case c == '"':
		got = "a string"
	case c == 't', c == 'f':
		got = "a boolean"
	case c == 'n':
		got = "null"
	case c == '-' || c >= '0' && c <= '9':
		got = "a number"
	default:
		return s.unexpected(want)
	}
	return &FieldError{Reason: "expecting " + want + ", not " + got}
}
