package scope

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
)

// msgpack reads values of the form that msgpack's specification names. Scope's encoder writes text and times as "raw" (now
// called str), the latter as the 15 bytes of time.MarshalBinary; bin and the timestamp extension are taken as well.
type msgpack struct {
	in     []byte
	at     int
	depth  int
	values int
	limits Limits
}

func (m *msgpack) take(n int) ([]byte, error) {
	if n < 0 || n > len(m.in)-m.at {
		return nil, io.ErrUnexpectedEOF
	}
	b := m.in[m.at : m.at+n]
	m.at += n
	return b, nil
}

func (m *msgpack) uint(n int) (uint64, error) {
	b, err := m.take(n)
	if err != nil {
		return 0, err
	}
	var v uint64
	for _, c := range b {
		v = v<<8 | uint64(c)
	}
	return v, nil
}

// kind of a value, after its first bytes were read.
type kind uint8

const (
	kindNil kind = iota
	kindBool
	kindInt
	kindFloat
	kindText // or bytes
	kindArray
	kindMap
	kindExt
)

func (k kind) String() string {
	return [...]string{"null", "a truth", "a number", "a number", "text", "an array", "an object", "an extension"}[k]
}

// head is a value's first bytes: of containers and text, how long they are; of scalars, the value.
type head struct {
	kind kind
	n    int
	num  float64
	ext  byte
}

func (m *msgpack) head() (head, error) {
	if m.values++; m.values > m.limits.Values {
		return head{}, limitError("values", m.limits.Values)
	}
	b, err := m.take(1)
	if err != nil {
		return head{}, err
	}
	c := b[0]
	switch {
	case c <= 0x7f:
		return head{kind: kindInt, num: float64(c)}, nil
	case c <= 0x8f:
		return head{kind: kindMap, n: int(c & 0x0f)}, nil
	case c <= 0x9f:
		return head{kind: kindArray, n: int(c & 0x0f)}, nil
	case c <= 0xbf:
		return head{kind: kindText, n: int(c & 0x1f)}, nil
	case c >= 0xe0:
		return head{kind: kindInt, num: float64(int8(c))}, nil
	}
	switch c {
	case 0xc0:
		return head{kind: kindNil}, nil
	case 0xc2, 0xc3:
		return head{kind: kindBool, num: float64(c & 1)}, nil
	case 0xc4, 0xc5, 0xc6: // bin
		return m.sized(kindText, 1<<(c-0xc4))
	case 0xd9, 0xda, 0xdb: // str
		return m.sized(kindText, 1<<(c-0xd9))
	case 0xdc, 0xdd:
		return m.sized(kindArray, 2<<(c-0xdc))
	case 0xde, 0xdf:
		return m.sized(kindMap, 2<<(c-0xde))
	case 0xca:
		v, err := m.uint(4)
		return head{kind: kindFloat, num: float64(math.Float32frombits(uint32(v)))}, err
	case 0xcb:
		v, err := m.uint(8)
		return head{kind: kindFloat, num: math.Float64frombits(v)}, err
	case 0xcc, 0xcd, 0xce, 0xcf:
		v, err := m.uint(1 << (c - 0xcc))
		return head{kind: kindInt, num: float64(v)}, err
	case 0xd0, 0xd1, 0xd2, 0xd3:
		size := 1 << (c - 0xd0)
		v, err := m.uint(size)
		shift := 64 - 8*size
		return head{kind: kindInt, num: float64(int64(v<<shift) >> shift)}, err
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8: // an extension of a fixed size
		ext, err := m.uint(1)
		return head{kind: kindExt, n: 1 << (c - 0xd4), ext: byte(ext)}, err
	case 0xc7, 0xc8, 0xc9:
		n, err := m.uint(1 << (c - 0xc7))
		if err != nil {
			return head{}, err
		}
		ext, err := m.uint(1)
		return head{kind: kindExt, n: int(n), ext: byte(ext)}, err
	}
	return head{}, fmt.Errorf("0x%02x begins no value", c)
}

func (m *msgpack) sized(k kind, bytes int) (head, error) {
	n, err := m.uint(bytes)
	return head{kind: k, n: int(n)}, err
}

func (m *msgpack) enter(n int) error {
	if n > len(m.in)-m.at {
		return io.ErrUnexpectedEOF // each member has a byte at least: nothing is reserved for what can't follow
	}
	if m.depth++; m.depth > m.limits.Depth {
		return limitError("depth", m.limits.Depth)
	}
	return nil
}

func (m *msgpack) object(member func(string) error) error {
	h, err := m.head()
	if err != nil || h.kind == kindNil {
		return err
	}
	if h.kind != kindMap {
		return fmt.Errorf("%s where an object is expected", h.kind)
	}
	return m.members(h, member)
}

func (m *msgpack) loose(member func(string) error) error {
	h, err := m.head()
	if err != nil {
		return err
	}
	if h.kind != kindMap {
		return m.rest(h)
	}
	return m.members(h, member)
}

func (m *msgpack) members(h head, member func(string) error) error {
	if err := m.enter(h.n); err != nil {
		return err
	}
	for range h.n {
		key, err := m.text()
		if err != nil {
			return err
		}
		if err := member(key); err != nil {
			return err
		}
	}
	m.depth--
	return nil
}

func (m *msgpack) array(element func() error) error {
	h, err := m.head()
	if err != nil || h.kind == kindNil {
		return err
	}
	if h.kind != kindArray {
		return fmt.Errorf("%s where an array is expected", h.kind)
	}
	if err := m.enter(h.n); err != nil {
		return err
	}
	for range h.n {
		if err := element(); err != nil {
			return err
		}
	}
	m.depth--
	return nil
}

func (m *msgpack) text() (string, error) {
	h, err := m.head()
	if err != nil {
		return "", err
	}
	switch h.kind {
	case kindNil:
		return "", nil
	case kindText:
		if h.n > m.limits.Text {
			return "", limitError("bytes of text", m.limits.Text)
		}
		b, err := m.take(h.n)
		return string(b), err
	case kindBool:
		return strconv.FormatBool(h.num != 0), nil
	case kindInt, kindFloat:
		return strconv.FormatFloat(h.num, 'f', -1, 64), nil
	default:
		return "", fmt.Errorf("%s where text is expected", h.kind)
	}
}

func (m *msgpack) number() (float64, error) {
	h, err := m.head()
	if err != nil {
		return 0, err
	}
	switch h.kind {
	case kindNil, kindInt, kindFloat:
		return h.num, nil
	default:
		return 0, fmt.Errorf("%s where a number is expected", h.kind)
	}
}

func (m *msgpack) truth() (bool, error) {
	h, err := m.head()
	if err != nil {
		return false, err
	}
	if h.kind != kindBool && h.kind != kindNil {
		return false, fmt.Errorf("%s where true or false is expected", h.kind)
	}
	return h.num != 0, nil
}

func (m *msgpack) when() (time.Time, error) {
	h, err := m.head()
	if err != nil || h.kind == kindNil {
		return time.Time{}, err
	}
	b, err := m.take(h.n)
	if err != nil {
		return time.Time{}, err
	}
	var t time.Time
	switch {
	case h.kind == kindExt && h.ext == 0xff && h.n == 4:
		t = time.Unix(int64(binary.BigEndian.Uint32(b)), 0)
	case h.kind == kindExt && h.ext == 0xff && h.n == 8:
		v := binary.BigEndian.Uint64(b)
		t = time.Unix(int64(v&(1<<34-1)), int64(v>>34))
	case h.kind == kindExt && h.ext == 0xff && h.n == 12:
		t = time.Unix(int64(binary.BigEndian.Uint64(b[4:])), int64(binary.BigEndian.Uint32(b)))
	case h.kind == kindText && h.n == 0:
		return time.Time{}, nil
	case h.kind == kindText && b[0] < ' ':
		err = t.UnmarshalBinary(b)
	case h.kind == kindText:
		err = t.UnmarshalText(b)
	default:
		err = fmt.Errorf("%s where a time is expected", h.kind)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read a time: %w", err)
	}
	return sane(t), nil
}

// sane makes times that calendars do not have none.
func sane(t time.Time) time.Time {
	if y := t.Year(); y < 1 || y > 9999 {
		return time.Time{}
	}
	return t.UTC()
}

func (m *msgpack) skip() error {
	h, err := m.head()
	if err != nil {
		return err
	}
	return m.rest(h)
}

// rest skips what belongs to a head.
func (m *msgpack) rest(h head) error {
	switch h.kind {
	case kindText, kindExt:
		_, err := m.take(h.n)
		return err
	case kindArray, kindMap:
		n := h.n
		if h.kind == kindMap {
			if n > math.MaxInt32 {
				return errors.New("an object of impossible size")
			}
			n *= 2
		}
		if err := m.enter(n); err != nil {
			return err
		}
		for range n {
			if err := m.skip(); err != nil {
				return err
			}
		}
		m.depth--
	}
	return nil
}
