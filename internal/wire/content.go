package wire

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

// ContentType is one of the two encodings of a message. The zero value is neither.
type ContentType uint8

// The encodings of the v1 APIs.
const (
	JSON     ContentType = 1 // application/json, Mesos' own mapping
	Protobuf ContentType = 2 // application/x-protobuf
)

// Media types of the v1 APIs.
const (
	MediaJSON     = "application/json"
	MediaProtobuf = "application/x-protobuf"
	MediaRecordIO = "application/recordio"
)

// String returns the media type.
func (ct ContentType) String() string {
	switch ct {
	case JSON:
		return MediaJSON
	case Protobuf:
		return MediaProtobuf
	}
	return "ContentType(" + strconv.Itoa(int(ct)) + ")"
}

// ParseContentType knows a media type. Like Mesos it compares the whole string: parameters such as a charset don't pass.
func ParseContentType(s string) (ContentType, bool) {
	switch s {
	case MediaJSON:
		return JSON, true
	case MediaProtobuf:
		return Protobuf, true
	}
	return 0, false
}

// vtMarshaler is what protoc-gen-go-vtproto adds to a message.
type vtMarshaler interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
}

type vtUnmarshaler interface {
	UnmarshalVT([]byte) error
}

// Marshal encodes a message.
func (ct ContentType) Marshal(m proto.Message) ([]byte, error) {
	return ct.Append(nil, m)
}

// Append encodes a message at the end of dst. After an error dst is returned as it was.
func (ct ContentType) Append(dst []byte, m proto.Message) ([]byte, error) {
	switch ct {
	case JSON:
		return mesosjson.Append(dst, m)
	case Protobuf:
		vt, ok := m.(vtMarshaler)
		if !ok {
			out, err := proto.MarshalOptions{}.MarshalAppend(dst, m)
			if err != nil {
				return dst, err
			}
			return out, nil
		}
		size := vt.SizeVT()
		out := grow(dst, size)
		if _, err := vt.MarshalToSizedBufferVT(out[len(dst):]); err != nil {
			return dst, err
		}
		return out, nil
	}
	return dst, fmt.Errorf("cannot encode as %v", ct)
}

// grow extends b by n bytes whose contents don't matter.
func grow(b []byte, n int) []byte {
	if need := len(b) + n; need <= cap(b) {
		return b[:need]
	}
	out := make([]byte, len(b)+n, max(len(b)+n, 2*cap(b)))
	copy(out, b)
	return out
}

// Unmarshal decodes data into m, within the package's limits of depth and count. m keeps no reference to data.
func (ct ContentType) Unmarshal(data []byte, m proto.Message) error {
	switch ct {
	case JSON:
		return mesosjson.Unmarshal(data, m)
	case Protobuf:
		return UnmarshalProtobuf(data, m)
	}
	return fmt.Errorf("cannot decode %v", ct)
}

// UnmarshalProtobuf decodes an encoded message from outside. The generated decoders neither limit their recursion nor
// what they allocate, so the shape of the bytes is checked first (see CheckProtobuf).
func UnmarshalProtobuf(data []byte, m proto.Message) error {
	if err := CheckProtobuf(data, m); err != nil {
		return err
	}
	if vt, ok := m.(vtUnmarshaler); ok {
		return vt.UnmarshalVT(data)
	}
	return proto.UnmarshalOptions{RecursionLimit: maxDepth, Merge: true}.Unmarshal(data, m)
}

// Negotiate picks the content type of an answer from the request's Accept header: JSON whenever it is acceptable, else
// protobuf. ok is false when neither is. A missing header accepts everything; q=0 excludes a type.
func Negotiate(r *http.Request) (ct ContentType, ok bool) {
	return negotiate(r.Header.Values("Accept"))
}

func negotiate(accept []string) (ContentType, bool) {
	header := strings.Join(accept, ",")
	switch {
	case strings.TrimSpace(header) == "" || header == MediaJSON:
		return JSON, true
	case header == MediaProtobuf:
		return Protobuf, true
	case accepts(header, MediaJSON):
		return JSON, true
	case accepts(header, MediaProtobuf):
		return Protobuf, true
	}
	return 0, false
}

// Accepts reports whether the header's media ranges allow the type. The most specific range decides.
func accepts(header, media string) bool {
	group := media[:strings.IndexByte(media, '/')] + "/*"
	allowed, best := false, 0
	for item := range strings.SplitSeq(header, ",") {
		name, params, _ := strings.Cut(item, ";")
		rank := 0
		switch name = strings.TrimSpace(name); {
		case strings.EqualFold(name, media):
			rank = 3
		case strings.EqualFold(name, group):
			rank = 2
		case name == "*/*":
			rank = 1
		}
		if rank > best {
			best, allowed = rank, !zeroQuality(params)
		}
	}
	return allowed
}

func zeroQuality(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return err == nil && q <= 0
		}
	}
	return false
}
