package mesosjson

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"unsafe"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Append appends the JSON of m to dst and returns the extended slice. It fails when a required field is not set, naming
// the field's path; dst is then returned as it was. It allocates nothing but the growth of dst, maps and oneofs aside.
func Append(dst []byte, m proto.Message) ([]byte, error) {
	p, base, err := planOf(m)
	if err != nil {
		return dst, err
	}
	start := len(dst)
	out, err := p.append(dst, base)
	if err != nil {
		return dst[:start], err
	}
	return out, nil
}

// Marshal returns the JSON of m.
func Marshal(m proto.Message) ([]byte, error) {
	return Append(nil, m)
}

// append walks the struct at base, which must be of the plan's type. The pointer arithmetic is sound because offsets
// come from reflection on that very type, and because each op was chosen from the field's Go type.
func (p *plan) append(dst []byte, base unsafe.Pointer) ([]byte, error) {
	dst = append(dst, '{')
	for i, pr := range p.probes {
		at := unsafe.Add(base, uintptr(pr.off))
		if pr.skip && *(*unsafe.Pointer)(at) == nil {
			continue
		}
		f := &p.fields[i]
		if f.startsWithPointer() && *(*unsafe.Pointer)(at) == nil {
			if f.required {
				return dst, &FieldError{Path: f.name, Reason: "required field is not set"}
			}
			dst = append(dst, f.absent...)
			continue
		}
		switch f.op {
		case opString:
			dst = append(dst, f.key...)
			dst = AppendString(dst, **(**string)(at))
		case opBytes:
			dst = append(dst, f.key...)
			dst = AppendBytes(dst, *(*[]byte)(at))
		case opBool:
			dst = append(dst, f.key...)
			dst = strconv.AppendBool(dst, **(**bool)(at))
		case opInt32:
			dst = append(dst, f.key...)
			dst = strconv.AppendInt(dst, int64(**(**int32)(at)), 10)
		case opInt64:
			dst = append(dst, f.key...)
			dst = strconv.AppendInt(dst, **(**int64)(at), 10)
		case opUint32:
			dst = append(dst, f.key...)
			dst = strconv.AppendUint(dst, uint64(**(**uint32)(at)), 10)
		case opUint64:
			dst = append(dst, f.key...)
			dst = strconv.AppendUint(dst, **(**uint64)(at), 10)
		case opFloat:
			dst = append(dst, f.key...)
			dst = AppendFloat(dst, float64(**(**float32)(at)))
		case opDouble:
			dst = append(dst, f.key...)
			dst = AppendFloat(dst, **(**float64)(at))
		case opEnum:
			n := **(**int32)(at)
			name := f.enum.name(n)
			if name == nil {
				// A number from a newer peer. An optional field is left out, as proto2 keeps it among the unknown ones.
				if !f.required {
					continue
				}
				name = strconv.AppendInt(nil, int64(n), 10)
			}
			dst = append(append(dst, f.key...), name...)
		case opMessage:
			var err error
			if dst, err = f.sub.append(append(dst, f.key...), *(*unsafe.Pointer)(at)); err != nil {
				return dst, within(err, f.name)
			}
		default:
			var err error
			if dst, err = f.appendMany(dst, base); err != nil {
				return dst, err
			}
			continue
		}
		dst = append(dst, ',')
	}
	if dst[len(dst)-1] == ',' {
		dst[len(dst)-1] = '}'
		return dst, nil
	}
	return append(dst, '}'), nil
}

// appendMany writes a list, a map or another rare shape, with the comma that follows it. An empty one is left out.
func (f *field) appendMany(dst []byte, base unsafe.Pointer) ([]byte, error) {
	at := unsafe.Add(base, f.off)
	switch f.op {
	case opMessages:
		list := *(*[]unsafe.Pointer)(at)
		if len(list) == 0 {
			return dst, nil
		}
		dst = append(append(dst, f.key...), '[')
		for i, elem := range list {
			if elem == nil {
				return dst, &FieldError{Path: fmt.Sprintf("%s[%d]", f.name, i), Reason: "message is nil"}
			}
			var err error
			if dst, err = f.sub.append(dst, elem); err != nil {
				return dst, within(err, fmt.Sprintf("%s[%d]", f.name, i))
			}
			dst = append(dst, ',')
		}
		dst[len(dst)-1] = ']'
		return append(dst, ','), nil
	case opStrings:
		return appendList(dst, f.key, *(*[]string)(at), AppendString), nil
	case opBytesList:
		return appendList(dst, f.key, *(*[][]byte)(at), AppendBytes), nil
	case opBools:
		return appendList(dst, f.key, *(*[]bool)(at), strconv.AppendBool), nil
	case opInt32s:
		return appendList(dst, f.key, *(*[]int32)(at), func(b []byte, v int32) []byte { return strconv.AppendInt(b, int64(v), 10) }), nil
	case opInt64s:
		return appendList(dst, f.key, *(*[]int64)(at), func(b []byte, v int64) []byte { return strconv.AppendInt(b, v, 10) }), nil
	case opUint32s:
		return appendList(dst, f.key, *(*[]uint32)(at), func(b []byte, v uint32) []byte { return strconv.AppendUint(b, uint64(v), 10) }), nil
	case opUint64s:
		return appendList(dst, f.key, *(*[]uint64)(at), func(b []byte, v uint64) []byte { return strconv.AppendUint(b, v, 10) }), nil
	case opFloats:
		return appendList(dst, f.key, *(*[]float32)(at), func(b []byte, v float32) []byte { return AppendFloat(b, float64(v)) }), nil
	case opDoubles:
		return appendList(dst, f.key, *(*[]float64)(at), AppendFloat), nil
	case opEnums:
		known := make([][]byte, 0, 8)
		for _, n := range *(*[]int32)(at) {
			if name := f.enum.name(n); name != nil {
				known = append(known, name)
			}
		}
		return appendList(dst, f.key, known, func(b, name []byte) []byte { return append(b, name...) }), nil
	}
	return f.appendReflect(dst, base)
}

func appendList[T any](dst, key []byte, list []T, elem func([]byte, T) []byte) []byte {
	if len(list) == 0 {
		return dst
	}
	dst = append(append(dst, key...), '[')
	for _, v := range list {
		dst = append(elem(dst, v), ',')
	}
	dst[len(dst)-1] = ']'
	return append(dst, ',')
}

// appendReflect is the slow way, for fields that protoc-gen-go doesn't lay out as a plain pointer or slice.
func (f *field) appendReflect(dst []byte, base unsafe.Pointer) ([]byte, error) {
	m := reflect.NewAt(f.owner.typ, base).Interface().(proto.Message).ProtoReflect()
	if !m.Has(f.desc) {
		return dst, nil
	}
	v := m.Get(f.desc)
	dst = append(dst, f.key...)
	switch {
	case f.desc.IsMap():
		return f.appendMap(dst, v.Map())
	case f.desc.Message() != nil:
		var err error
		if dst, err = Append(dst, v.Message().Interface()); err != nil {
			return dst, within(err, f.name)
		}
		return append(dst, ','), nil
	}
	return append(appendScalar(dst, f.desc, v, f.enum), ','), nil
}

// appendMap writes a map as an object with sorted keys, so that equal messages have equal texts.
func (f *field) appendMap(dst []byte, entries protoreflect.Map) ([]byte, error) {
	keys := make([]string, 0, entries.Len())
	values := make(map[string]protoreflect.Value, entries.Len())
	for k, v := range entries.Range {
		keys = append(keys, k.String())
		values[k.String()] = v
	}
	slices.Sort(keys)
	desc := f.desc.MapValue()
	dst = append(dst, '{')
	for _, k := range keys {
		dst = append(AppendString(dst, k), ':')
		if desc.Message() == nil {
			dst = append(appendScalar(dst, desc, values[k], f.enum), ',')
			continue
		}
		var err error
		if dst, err = Append(dst, values[k].Message().Interface()); err != nil {
			return dst, within(err, fmt.Sprintf("%s[%q]", f.name, k))
		}
		dst = append(dst, ',')
	}
	if len(keys) == 0 {
		return append(dst, "},"...), nil
	}
	dst[len(dst)-1] = '}'
	return append(dst, ','), nil
}

// appendScalar writes one value that isn't a message, by its descriptor.
func appendScalar(dst []byte, fd protoreflect.FieldDescriptor, v protoreflect.Value, e *enum) []byte {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return strconv.AppendBool(dst, v.Bool())
	case protoreflect.StringKind:
		return AppendString(dst, v.String())
	case protoreflect.BytesKind:
		return AppendBytes(dst, v.Bytes())
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return AppendFloat(dst, v.Float())
	case protoreflect.EnumKind:
		if e != nil {
			if name := e.name(int32(v.Enum())); name != nil {
				return append(dst, name...)
			}
		}
		return strconv.AppendInt(dst, int64(v.Enum()), 10)
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return strconv.AppendUint(dst, v.Uint(), 10)
	default:
		return strconv.AppendInt(dst, v.Int(), 10)
	}
}
