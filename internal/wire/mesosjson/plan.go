package mesosjson

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// op says how a field lies in the Go struct that protoc-gen-go generated, and so how it is read and set.
type op uint8

const (
	opString    op = iota // *string
	opBytes               // []byte, nil = unset
	opBool                // *bool
	opInt32               // *int32
	opInt64               // *int64
	opUint32              // *uint32
	opUint64              // *uint64
	opFloat               // *float32
	opDouble              // *float64
	opEnum                // *E, whose underlying type is int32
	opMessage             // *M
	opStrings             // []string
	opBytesList           // [][]byte
	opBools               // []bool
	opInt32s              // []int32
	opInt64s              // []int64
	opUint32s             // []uint32
	opUint64s             // []uint64
	opFloats              // []float32
	opDoubles             // []float64
	opEnums               // []E
	opMessages            // []*M
	opReflect             // map, oneof member, proto3 scalar: rare, goes through protoreflect
)

// field is one field of a plan. Everything but sub is filled when the plan is compiled; sub points at a plan that may
// still be under construction when messages refer to each other, and is complete before any plan is published.
type field struct {
	name     string
	key      []byte // `"name":`
	op       op
	required bool
	wordNil  bool // opReflect: the field is unset when its first word is nil (map, oneof)
	off      uintptr
	absent   []byte // `"name":<default>,` written when the field is unset; nil for most
	sub      *plan
	owner    *plan
	enum     *enum
	desc     protoreflect.FieldDescriptor
}

// enum maps between numbers and names. quoted is indexed by number while the numbers are small, which they are in
// every enum of Mesos; others are looked up.
type enum struct {
	quoted [][]byte
	others map[int32][]byte
	number map[string]int32
}

func (e *enum) name(n int32) []byte {
	if n >= 0 && int(n) < len(e.quoted) {
		return e.quoted[n]
	}
	return e.others[n]
}

// probe is the part of a field that the encoder needs to find out that there is nothing to write, which is so for most
// fields of most messages. Probes lie close together, so that a walk over a wide message touches few cache lines.
type probe struct {
	off  uint32
	skip bool // a nil first word means: unset, and an unset field is not mentioned
}

// plan is what the codec knows of one message type.
type plan struct {
	typ      reflect.Type // the struct
	probes   []probe      // one per field
	fields   []field
	byName   map[string]*field
	required []*field
}

// plans caches compiled plans by the message's Go type. It only ever grows, by one entry per message type in the binary.
var plans sync.Map // reflect.Type (pointer to struct) -> *plan

func planOf(m proto.Message) (*plan, unsafe.Pointer, error) {
	typ := reflect.TypeOf(m)
	if typ == nil || typ.Kind() != reflect.Pointer {
		return nil, nil, fmt.Errorf("mesosjson: %T is not a generated message", m)
	}
	base := reflect.ValueOf(m).UnsafePointer()
	if base == nil {
		return nil, nil, fmt.Errorf("mesosjson: nil %T", m)
	}
	if p, ok := plans.Load(typ); ok {
		return p.(*plan), base, nil
	}
	fresh := make(map[reflect.Type]*plan)
	p, err := compile(typ, fresh)
	if err != nil {
		return nil, nil, err
	}
	for t, q := range fresh {
		plans.LoadOrStore(t, q)
	}
	return p, base, nil
}

// compile builds the plan of a pointer type and of every message type below it. Two goroutines may compile the same
// type at once; both results are complete and equal, so it does not matter which one is kept.
func compile(typ reflect.Type, fresh map[reflect.Type]*plan) (*plan, error) {
	if p, ok := fresh[typ]; ok {
		return p, nil
	}
	m, ok := reflect.Zero(typ).Interface().(proto.Message)
	if !ok || typ.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("mesosjson: %v is not a generated message", typ)
	}
	md := m.ProtoReflect().Descriptor()
	p := &plan{typ: typ.Elem(), byName: make(map[string]*field, md.Fields().Len())}
	fresh[typ] = p
	p.fields = make([]field, md.Fields().Len())
	p.probes = make([]probe, len(p.fields))
	for i := range p.fields {
		if err := compileField(&p.fields[i], md.Fields().Get(i), typ.Elem(), fresh); err != nil {
			return nil, err
		}
		f := &p.fields[i]
		f.owner = p
		p.byName[f.name] = f
		p.probes[i] = probe{off: uint32(f.off), skip: f.startsWithPointer() && !f.required && f.absent == nil}
		if f.required {
			p.required = append(p.required, f)
		}
	}
	return p, nil
}

func compileField(f *field, fd protoreflect.FieldDescriptor, typ reflect.Type, fresh map[reflect.Type]*plan) error {
	f.desc = fd
	f.name = string(fd.Name())
	f.key = append(AppendString(nil, f.name), ':')
	f.required = fd.Cardinality() == protoreflect.Required

	var sf reflect.StructField
	if oneof := fd.ContainingOneof(); oneof != nil && !oneof.IsSynthetic() {
		sf, f.wordNil = findField(typ, "protobuf_oneof", func(tag string) bool { return tag == string(oneof.Name()) })
		f.op = opReflect
	} else {
		number := strconv.Itoa(int(fd.Number()))
		sf, _ = findField(typ, "protobuf", func(tag string) bool { return slices.Contains(strings.Split(tag, ","), number) })
		if sf.Type != nil {
			f.op = opOf(fd, sf.Type)
		}
	}
	if sf.Type == nil {
		return fmt.Errorf("mesosjson: %v has no struct field for %s", typ, fd.FullName())
	}
	f.off = sf.Offset
	f.wordNil = f.wordNil || sf.Type.Kind() == reflect.Map

	if fd.Enum() != nil {
		f.enum = compileEnum(fd.Enum())
	}
	if f.op == opMessage || f.op == opMessages {
		elem := sf.Type
		if f.op == opMessages {
			elem = elem.Elem()
		}
		sub, err := compile(elem, fresh)
		if err != nil {
			return err
		}
		f.sub = sub
	}
	if opts, ok := fd.Options().(*descriptorpb.FieldOptions); fd.HasDefault() && !fd.IsList() && !(ok && opts.GetDeprecated()) && !f.required {
		f.absent = append(appendScalar(append([]byte(nil), f.key...), fd, fd.Default(), f.enum), ',')
	}
	return nil
}

func findField(typ reflect.Type, tag string, match func(string) bool) (reflect.StructField, bool) {
	for i := range typ.NumField() {
		if value, ok := typ.Field(i).Tag.Lookup(tag); ok && match(value) {
			return typ.Field(i), true
		}
	}
	return reflect.StructField{}, false
}

// opOf picks the direct way to a field, or opReflect when its Go type is not the plain proto2 shape.
func opOf(fd protoreflect.FieldDescriptor, typ reflect.Type) op {
	type shape struct{ single, list op }
	shapes := map[reflect.Kind]shape{
		reflect.String: {opString, opStrings}, reflect.Bool: {opBool, opBools},
		reflect.Int32: {opInt32, opInt32s}, reflect.Int64: {opInt64, opInt64s},
		reflect.Uint32: {opUint32, opUint32s}, reflect.Uint64: {opUint64, opUint64s},
		reflect.Float32: {opFloat, opFloats}, reflect.Float64: {opDouble, opDoubles},
	}
	isBytes := func(t reflect.Type) bool { return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 }
	isMessage := func(t reflect.Type) bool { return t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct }
	switch {
	case fd.IsMap():
		return opReflect
	case fd.IsList():
		elem := typ.Elem()
		switch {
		case isMessage(elem):
			return opMessages
		case isBytes(elem):
			return opBytesList
		case fd.Enum() != nil:
			return opEnums
		}
		if s, ok := shapes[elem.Kind()]; ok {
			return s.list
		}
	case isMessage(typ):
		return opMessage
	case isBytes(typ) && fd.HasPresence():
		return opBytes
	case typ.Kind() == reflect.Pointer && fd.Enum() != nil:
		return opEnum
	case typ.Kind() == reflect.Pointer:
		if s, ok := shapes[typ.Elem().Kind()]; ok {
			return s.single
		}
	}
	return opReflect
}

func compileEnum(ed protoreflect.EnumDescriptor) *enum {
	const dense = 1024
	e := &enum{number: make(map[string]int32, ed.Values().Len())}
	for i := range ed.Values().Len() {
		v := ed.Values().Get(i)
		n, name := int32(v.Number()), string(v.Name())
		e.number[name] = n
		if e.name(n) != nil {
			continue // an alias: the first name is the one that is written
		}
		quoted := AppendString(nil, name)
		if n < 0 || n >= dense {
			if e.others == nil {
				e.others = make(map[int32][]byte)
			}
			e.others[n] = quoted
			continue
		}
		for int(n) >= len(e.quoted) {
			e.quoted = append(e.quoted, nil)
		}
		e.quoted[n] = quoted
	}
	return e
}

// startsWithPointer reports whether a nil first word means that there is nothing to write, which is so for every shape
// but proto3's scalars.
func (f *field) startsWithPointer() bool { return f.op != opReflect || f.wordNil }

// isSet reports whether a field that lies directly in the struct is set. Every direct shape but a slice of elements
// starts with a pointer that is nil when the field is unset; slices start with their data pointer and are never required.
func (f *field) isSet(base unsafe.Pointer) bool {
	return *(*unsafe.Pointer)(unsafe.Add(base, f.off)) != nil
}
