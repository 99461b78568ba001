package wire

import (
	"strconv"
	"sync"

	"google.golang.org/protobuf/proto"
)

// Event is one message on its way to any number of streams. It is encoded at most once per content type, by the first
// stream that writes it, and the bytes are shared. The message must not be changed once it is in an Event.
type Event struct {
	encode func(dst []byte, ct ContentType) ([]byte, error)
	size   int
	once   [2]sync.Once
	record [2][]byte
	err    [2]error
}

// NewEvent makes an event of a message.
func NewEvent(m proto.Message) *Event {
	var size int
	if vt, ok := m.(vtMarshaler); ok {
		size = vt.SizeVT()
	} else {
		size = proto.Size(m)
	}
	return &Event{size: size, encode: func(dst []byte, ct ContentType) ([]byte, error) { return ct.Append(dst, m) }}
}

// NewRawEvent makes an event whose body encode appends to dst: for bodies assembled from fragments that are encoded
// already. size estimates the body in bytes; it counts against the limit of a stream's queue. encode is called at most
// once per content type, from any goroutine.
func NewRawEvent(size int, encode func(dst []byte, ct ContentType) ([]byte, error)) *Event {
	return &Event{size: size, encode: encode}
}

// Record returns the event as a whole RecordIO record. The bytes are shared: they must not be changed.
func (e *Event) Record(ct ContentType) ([]byte, error) {
	i := ct - JSON
	e.once[i].Do(func() {
		// The body is written behind room for the longest header, then the header right before it.
		const room = maxHeader + 1
		extra := e.size
		if ct == JSON {
			extra *= 2
		}
		buf, err := e.encode(make([]byte, room, room+extra+64), ct)
		if err != nil {
			e.err[i] = err
			return
		}
		header := append(strconv.AppendInt(make([]byte, 0, room), int64(len(buf)-room), 10), '\n')
		start := room - len(header)
		copy(buf[start:], header)
		e.record[i] = buf[start:len(buf):len(buf)]
	})
	return e.record[i], e.err[i]
}

// Size is what the event counts for in a stream's queue, in bytes.
func (e *Event) Size() int { return e.size }
