package wire

import (
	"errors"
	"fmt"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Limits of a message from outside.
const (
	maxDepth = 100 // messages within messages
	// A message may hold this many messages, and one more for each so many bytes. That bounds what a decoder allocates: an
	// empty submessage takes two bytes on the wire and hundreds in memory. The state of a whole cluster has one in about 18.
	maxMessages     = 1_000_000
	bytesPerMessage = 16
	// smallMessage is the size below which counting can't matter.
	smallMessage = 64 << 10
)

var (
	errTooDeep  = fmt.Errorf("messages are nested deeper than %d levels", maxDepth)
	errTooMany  = errors.New("message holds too many messages for its size")
	errNotProto = errors.New("not a protobuf message")
)

// shape is what the check needs of a message type: its message fields, and which of them can reach a recursive type.
type shape struct {
	fields    map[protowire.Number]*shape
	recursive bool // this type can contain itself, directly or not, or contains a type that can
}

// shapes caches shapes by full name of the message type; it grows by one entry per type in the binary.
var shapes sync.Map // protoreflect.FullName -> *shape

// CheckProtobuf looks at an encoded message before it is decoded: not nested too deep, not too many messages in it. It costs
// next to nothing for small messages of types that cannot contain themselves.
func CheckProtobuf(data []byte, m proto.Message) error {
	sh := shapeOf(m.ProtoReflect().Descriptor())
	large := len(data) > smallMessage
	if !large && !sh.recursive {
		return nil
	}
	left := maxMessages + len(data)/bytesPerMessage
	return sh.check(data, maxDepth, &left, large)
}

func (sh *shape) check(data []byte, depth int, left *int, large bool) error {
	if depth == 0 {
		return errTooDeep
	}
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return errNotProto
		}
		data = data[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, data); n < 0 {
				return errNotProto
			}
			data = data[n:]
			continue
		}
		body, n := protowire.ConsumeBytes(data)
		if n < 0 {
			return errNotProto
		}
		data = data[n:]
		if sub := sh.fields[num]; sub != nil && (large || sub.recursive) {
			if *left--; *left < 0 {
				return errTooMany
			}
			if err := sub.check(body, depth-1, left, large); err != nil {
				return err
			}
		}
	}
	return nil
}

func shapeOf(md protoreflect.MessageDescriptor) *shape {
	if sh, ok := shapes.Load(md.FullName()); ok {
		return sh.(*shape)
	}
	fresh := make(map[protoreflect.FullName]*shape)
	sh := buildShape(md, fresh)
	for _, s := range fresh {
		s.recursive = s.reachesCycle(make(map[*shape]int))
	}
	for name, s := range fresh {
		shapes.LoadOrStore(name, s)
	}
	return sh
}

func buildShape(md protoreflect.MessageDescriptor, fresh map[protoreflect.FullName]*shape) *shape {
	if sh, ok := fresh[md.FullName()]; ok {
		return sh
	}
	sh := &shape{fields: make(map[protowire.Number]*shape)}
	fresh[md.FullName()] = sh
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		if sub := fd.Message(); sub != nil {
			sh.fields[fd.Number()] = buildShape(sub, fresh)
		}
	}
	return sh
}

// reachesCycle walks depth first; state 1 is on the path, 2 is done.
func (sh *shape) reachesCycle(state map[*shape]int) bool {
	switch state[sh] {
	case 1:
		return true
	case 2:
		return false
	}
	state[sh] = 1
	for _, sub := range sh.fields {
		if sub.reachesCycle(state) {
			return true
		}
	}
	state[sh] = 2
	return false
}
