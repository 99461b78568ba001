package topology

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
)

// Limits of one frame. What is larger is refused (counts) or cut (text).
const (
	MaxFrame     = 32 << 20 // bytes, decompressed
	MaxEntities  = 100_000
	MaxEdges     = 200_000
	MaxSamples   = 1_000_000
	MaxLabel     = 512
	MaxID        = 512
	MaxAttrs     = 256
	MaxAttrKey   = 256
	MaxAttrValue = 4096
	MaxParents   = 32
	MaxControls  = 64

	MaxMetricNames = 1000
	MaxPipeData    = 1 << 20
)

// compressAbove is the size from which compression pays: smaller frames are mostly numbers and cost more CPU than they save.
const compressAbove = 400

// How a message's frame is written: its first byte.
const (
	markPlain = 0
	markZstd  = 1
)

// Codec encodes and decodes frames. It is safe for concurrent use, and one per process is enough: the compressor's tables
// are shared by all connections.
type Codec struct {
	enc     *zstd.Encoder
	dec     *zstd.Decoder
	buffers sync.Pool // *[]byte, of what is only on its way from or to a message
}

// keptBuffer is the largest buffer that is used again.
const keptBuffer = 256 << 10

// buffer gives an empty buffer, and a function that takes back what has become of it.
func (c *Codec) buffer() ([]byte, func([]byte)) {
	p, _ := c.buffers.Get().(*[]byte)
	if p == nil {
		p = new([]byte)
	}
	return (*p)[:0], func(b []byte) {
		if cap(b) <= keptBuffer {
			*p = b
			c.buffers.Put(p)
		}
	}
}

// NewCodec makes a codec that decodes at most two messages at a time.
func NewCodec() *Codec {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // constant options
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(MaxFrame), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(err)
	}
	return &Codec{enc: enc, dec: dec}
}

// Encode appends the frame, written as one message, to buf.
func (c *Codec) Encode(buf []byte, f *probev1.Frame) ([]byte, error) {
	raw, err := f.MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("encode frame: %w", err)
	}
	if len(raw) < compressAbove {
		return append(append(buf, markPlain), raw...), nil
	}
	return c.enc.EncodeAll(raw, append(buf, markZstd)), nil
}

// Decode reads a message and checks it against the limits of this package. Text is cut and made valid, everything else that
// is out of bounds is an error.
func (c *Codec) Decode(msg []byte) (*probev1.Frame, error) {
	if len(msg) == 0 {
		return nil, errors.New("empty message")
	}
	raw := msg[1:]
	switch msg[0] {
	case markPlain:
	case markZstd:
		buf, done := c.buffer()
		var err error
		if raw, err = c.dec.DecodeAll(raw, buf); err != nil {
			return nil, fmt.Errorf("decompress frame: %w", err)
		}
		defer func() { done(raw) }() // what is decoded holds copies
	default:
		return nil, fmt.Errorf("unknown encoding %d: the other side is of a newer version", msg[0])
	}
	if len(raw) > MaxFrame {
		return nil, fmt.Errorf("frame of %d bytes: at most %d are taken", len(raw), MaxFrame)
	}
	f := &probev1.Frame{}
	if err := f.UnmarshalVT(raw); err != nil {
		return nil, fmt.Errorf("decode frame: %w", err)
	}
	if err := Check(f); err != nil {
		return nil, err
	}
	return f, nil
}

// Check cuts text, makes it valid, and refuses everything else that is out of bounds: Decode does so with what it reads.
func Check(f *probev1.Frame) error {
	if h := f.Hello; h != nil {
		h.ProbeId, h.Hostname, h.Instance, h.Version = Clean(h.ProbeId, MaxLabel), Clean(h.Hostname, MaxLabel), Clean(h.Instance, MaxLabel), Clean(h.Version, MaxLabel)
		if h.ProbeId == "" || h.Hostname == "" || h.Instance == "" {
			return errors.New("hello without probe id, host name or instance")
		}
		if len(h.Policy) > 64 {
			return errors.New("hello with too long a policy")
		}
		for i, p := range h.Policy {
			h.Policy[i] = Clean(p, 64)
		}
	}
	if d := f.Delta; d != nil {
		if err := checkDelta(d); err != nil {
			return err
		}
	}
	if m := f.Metrics; m != nil {
		if len(m.Refs) > MaxSamples || len(m.Refs) != len(m.Values) || len(m.Refs) != len(m.NameIndex) || len(m.Names) > MaxMetricNames {
			return fmt.Errorf("metrics: %d refs, %d names, %d values", len(m.Refs), len(m.NameIndex), len(m.Values))
		}
		for i, n := range m.NameIndex {
			if int(n) >= len(m.Names) {
				return fmt.Errorf("metrics: name %d of %d", n, len(m.Names))
			}
			if !finite(m.Values[i]) {
				m.Values[i] = 0
			}
		}
		for i, n := range m.Names {
			m.Names[i] = Clean(n, MaxAttrKey)
		}
	}
	if s := f.Status; s != nil {
		if len(s.Collectors) > 100 || len(s.Plugins) > 100 {
			return errors.New("status with too many collectors")
		}
		if !finite(s.CpuPercent) {
			s.CpuPercent = 0
		}
		for _, c := range append(s.Collectors[:len(s.Collectors):len(s.Collectors)], s.Plugins...) {
			c.Name, c.State, c.Message, c.Label = Clean(c.Name, MaxLabel), Clean(c.State, 32), Clean(c.Message, MaxLabel), Clean(c.Label, MaxLabel)
			c.Description = Clean(c.Description, MaxLabel)
			c.Interfaces = c.Interfaces[:min(len(c.Interfaces), 10)]
			for i, v := range c.Interfaces {
				c.Interfaces[i] = Clean(v, 32)
			}
		}
	}
	for _, r := range f.Responses {
		r.Code, r.Message, r.Hint = Clean(r.Code, 64), Clean(r.Message, 2048), Clean(r.Hint, 2048)
	}
	for _, p := range f.Pipes {
		if len(p.Data) > MaxPipeData {
			return fmt.Errorf("pipe data of %d bytes", len(p.Data))
		}
	}
	return nil
}

func checkDelta(d *probev1.Delta) error {
	switch {
	case len(d.Entities) > MaxEntities:
		return fmt.Errorf("delta with %d entities: at most %d are taken", len(d.Entities), MaxEntities)
	case len(d.Edges) > MaxEdges:
		return fmt.Errorf("delta with %d edges: at most %d are taken", len(d.Edges), MaxEdges)
	case len(d.Listeners) > MaxEntities:
		return fmt.Errorf("delta with %d listeners: at most %d are taken", len(d.Listeners), MaxEntities)
	case len(d.Templates) > 1000:
		return fmt.Errorf("delta with %d templates: at most 1000 are taken", len(d.Templates))
	}
	for _, e := range d.Entities {
		if err := checkEntity(e); err != nil {
			return err
		}
	}
	for _, e := range d.Edges {
		if e.Ref == 0 || e.Port > 65535 || e.Src == 0 && e.Dst == 0 {
			return fmt.Errorf("edge %d: src %d dst %d port %d", e.Ref, e.Src, e.Dst, e.Port)
		}
		if (e.Src == 0 || e.Dst == 0) && len(e.RemoteAddr) != 4 && len(e.RemoteAddr) != 16 {
			return fmt.Errorf("edge %d: remote address of %d bytes", e.Ref, len(e.RemoteAddr))
		}
		for _, v := range []*float32{&e.NewRate, &e.FailRate, &e.Tx, &e.Rx, &e.Retrans} {
			if !finite(*v) || *v < 0 {
				*v = 0
			}
		}
	}
	for _, l := range d.Listeners {
		if n := len(l.Addr); l.Ref == 0 || l.Entity == 0 || l.Port > 65535 || n != 0 && n != 4 && n != 16 {
			return fmt.Errorf("listener %d: entity %d port %d address of %d bytes", l.Ref, l.Entity, l.Port, n)
		}
	}
	for _, t := range d.Templates {
		t.Id, t.Label, t.Format = Clean(t.Id, MaxAttrKey), Clean(t.Label, MaxLabel), Clean(t.Format, 32)
		if t.Id == "" || len(t.Columns) > 64 {
			return fmt.Errorf("template %q with %d columns", t.Id, len(t.Columns))
		}
		for _, v := range []*float64{&t.Max, &t.Priority} {
			if !(math.Abs(*v) < 1e30) {
				*v = 0
			}
		}
		for _, c := range t.Columns {
			c.Id, c.Label = Clean(c.Id, MaxAttrKey), Clean(c.Label, MaxLabel)
		}
	}
	return nil
}

func checkEntity(e *probev1.Entity) error {
	e.Id, e.Kind = Clean(e.Id, MaxID), Clean(e.Kind, 32)
	if e.Ref == 0 || e.Id == "" || e.Kind == "" || KindOf(e.Id) != e.Kind {
		return fmt.Errorf("entity %d: id %q is not of kind %q", e.Ref, e.Id, e.Kind)
	}
	if len(e.Parents) > MaxParents || len(e.Attrs) > MaxAttrs || len(e.Controls) > MaxControls || len(e.Reasons) > 32 {
		return fmt.Errorf("entity %s: %d parents, %d attributes, %d controls", e.Id, len(e.Parents), len(e.Attrs), len(e.Controls))
	}
	e.Label, e.State = Clean(e.Label, MaxLabel), Clean(e.State, 32)
	for i, p := range e.Parents {
		e.Parents[i] = Clean(p, MaxID)
	}
	for _, a := range e.Attrs {
		a.Key, a.Value = Clean(a.Key, MaxAttrKey), Clean(a.Value, MaxAttrValue)
	}
	for i, c := range e.Controls {
		e.Controls[i] = Clean(c, 128)
	}
	for _, r := range e.Reasons {
		r.Code, r.Text = Clean(r.Code, 64), Clean(r.Text, MaxLabel)
		r.Severity = min(r.Severity, 3)
	}
	return nil
}

// finite also refuses what no measurement gives, so that sums of many stay finite.
func finite(v float32) bool {
	f := float64(v)
	return !math.IsNaN(f) && math.Abs(f) < 1e30
}

// Clean makes text valid UTF-8 of at most limit bytes. NUL is left out, and the characters that command terminals (escapes,
// bells, their 8-bit forms) become U+FFFD: names end up in terminals too. It cuts between characters.
func Clean(s string, limit int) string {
	if len(s) <= limit && utf8.ValidString(s) && !strings.ContainsFunc(s, commands) {
		return s
	}
	var b strings.Builder
	for _, r := range s { // gives U+FFFD for every byte that is not UTF-8
		if r == 0 {
			continue
		}
		if commands(r) {
			r = utf8.RuneError
		}
		if b.Len()+utf8.RuneLen(r) > limit {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}

// commands reports whether a character does something to a terminal other than to appear or to begin a new line.
func commands(r rune) bool {
	return r < ' ' && r != '\n' && r != '\t' && r != '\r' || r >= 0x7f && r < 0xa0
}

// Printable is Clean for what comes from strangers: it also replaces new lines and tabs, and the characters that turn the
// direction of writing, with which a name can be made to look like another.
func Printable(s string, limit int) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return unicode.ReplacementChar
		}
		return r
	}, Clean(s, limit))
}
