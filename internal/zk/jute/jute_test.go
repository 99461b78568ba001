package jute

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	var b []byte
	b = AppendInt(b, -7)
	b = AppendLong(b, 1<<40)
	b = AppendBool(b, true)
	b = AppendBuffer(b, nil)
	b = AppendBuffer(b, []byte{})
	b = AppendBuffer(b, []byte("x"))
	b = AppendString(b, "päth")
	b = AppendStrings(b, []string{"a", ""})

	d := NewDecoder(b)
	if v := d.Int(); v != -7 {
		t.Errorf("int %d", v)
	}
	if v := d.Long(); v != 1<<40 {
		t.Errorf("long %d", v)
	}
	if !d.Bool() {
		t.Error("bool")
	}
	if v := d.Buffer(); v != nil {
		t.Errorf("null buffer became %v", v)
	}
	if v := d.Buffer(); v == nil || len(v) != 0 {
		t.Errorf("empty buffer became %v", v)
	}
	if v := d.Buffer(); string(v) != "x" {
		t.Errorf("buffer %q", v)
	}
	if v := d.String(); v != "päth" {
		t.Errorf("string %q", v)
	}
	if diff := cmp.Diff([]string{"a", ""}, d.Strings()); diff != "" {
		t.Error(diff)
	}
	if d.Err() != nil || d.Len() != 0 {
		t.Errorf("err %v, %d bytes left", d.Err(), d.Len())
	}

	s := NewStream(bytes.NewReader(b), 100)
	if s.Int() != -7 || s.Long() != 1<<40 || s.Byte() != 1 || s.Buffer() != nil || s.Buffer() == nil || s.String() != "x" ||
		s.String() != "päth" || s.Count(10) != 2 || s.Err() != nil {
		t.Errorf("stream differs, err %v", s.Err())
	}
}

func TestHostileLengths(t *testing.T) {
	t.Parallel()
	for name, b := range map[string][]byte{
		"short":      {0, 0},
		"huge":       {0x7f, 0xff, 0xff, 0xff, 1},
		"negative":   {0xff, 0xff, 0xff, 0xfe},
		"negative 2": {0x80, 0, 0, 0},
	} {
		d := NewDecoder(b)
		if v := d.Strings(); v != nil || d.Err() == nil {
			t.Errorf("%s: vector %v, err %v", name, v, d.Err())
		}
		d = NewDecoder(b)
		if v := d.Buffer(); v != nil || d.Err() == nil {
			t.Errorf("%s: buffer %v, err %v", name, v, d.Err())
		}
		s := NewStream(bytes.NewReader(b), 1<<10)
		if v := s.Buffer(); v != nil || s.Err() == nil {
			t.Errorf("%s: stream buffer %v, err %v", name, v, s.Err())
		}
	}
	// The first error stays.
	s := NewStream(strings.NewReader(""), 1)
	s.Int()
	first := s.Err()
	s.Buffer()
	if first == nil || !errors.Is(s.Err(), first) {
		t.Errorf("first error %v, then %v", first, s.Err())
	}
}

// Strings of every size, at every place of the buffer, from readers that give what they like.
func TestStreamStrings(t *testing.T) {
	t.Parallel()
	var b []byte
	var want []string
	for i := range 300 {
		s := strings.Repeat("x", []int{0, 1, 100, 4091, 4092, 4093, 4096, 5000, 70_000}[i%9]+i)
		want, b = append(want, s), AppendString(b, s)
	}
	for name, r := range map[string]io.Reader{"whole": bytes.NewReader(b), "byte by byte": iotest.OneByteReader(bytes.NewReader(b)), "halves": iotest.HalfReader(bytes.NewReader(b))} {
		s := NewStream(r, 100_000)
		for i := range want {
			if got := s.String(); got != want[i] {
				t.Fatalf("%s: string %d has %d bytes, want %d (%v)", name, i, len(got), len(want[i]), s.Err())
			}
		}
		if s.Err() != nil || s.Offset() != int64(len(b)) {
			t.Errorf("%s: offset %d of %d, %v", name, s.Offset(), len(b), s.Err())
		}
		if s.String() != "" || !errors.Is(s.Err(), io.EOF) {
			t.Errorf("%s: behind the end: %v", name, s.Err())
		}
	}
	if s := NewStream(bytes.NewReader(AppendString(nil, "too long")), 4); s.String() != "" || s.Err() == nil {
		t.Error("a string above the limit was read")
	}
	if s := NewStream(bytes.NewReader(AppendString(nil, "cut")[:5]), 100); s.String() != "" || s.Err() == nil {
		t.Error("half a string was read")
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 1, 'a', 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		d := NewDecoder(b)
		_ = d.Strings()
		_ = d.Buffer()
		_ = d.Bool()
		_ = d.Long()
		if d.Len() > len(b) {
			t.Fatal("more left than there was")
		}
		s := NewStream(bytes.NewReader(b), 1<<16)
		for range s.Count(100) {
			_ = s.Buffer()
		}
	})
}
