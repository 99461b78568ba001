package topology

import (
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
)

func sample() *probev1.Frame {
	return &probev1.Frame{
		Hello: &probev1.Hello{ProbeId: "vm1", Instance: "a", Hostname: "vm1", Policy: []string{"logs"}},
		Delta: &probev1.Delta{
			Seq: 3, Snapshot: true,
			Entities: []*probev1.Entity{{
				Ref: 1, Id: "host;vm1", Kind: "host", Label: "vm1", Attrs: []*probev1.Attr{{Key: "addrs", Value: "10.0.0.1"}},
				Reasons: []*probev1.Reason{{Code: "x", Severity: 2, Text: "y"}},
			}},
			Edges:     []*probev1.Edge{{Ref: 1, Src: 1, RemoteAddr: []byte{10, 0, 0, 2}, Port: 80, Conns: 3, Tx: 1.5, Seen: 1}},
			Listeners: []*probev1.Listener{{Ref: 1, Entity: 1, Port: 22}},
		},
		Metrics: &probev1.Metrics{AtMs: 5, Names: []string{"cpu"}, Refs: []uint32{1}, NameIndex: []uint32{0}, Values: []float32{2.5}},
	}
}

func TestCodecRoundTrip(t *testing.T) {
	t.Parallel()
	c := NewCodec()
	small := sample()
	large := sample()
	large.Delta.Entities[0].Attrs[0].Value = strings.Repeat("10.0.0.1 ", 300)
	for _, f := range []*probev1.Frame{{}, small, large} {
		b, err := c.Encode(nil, f)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(f, got, protocmp.Transform()); d != "" {
			t.Error(d)
		}
	}
}

func TestDecodeRefusesWhatIsOutOfBounds(t *testing.T) {
	t.Parallel()
	c := NewCodec()
	for name, change := range map[string]func(*probev1.Frame){
		"entity without ref":     func(f *probev1.Frame) { f.Delta.Entities[0].Ref = 0 },
		"id not of its kind":     func(f *probev1.Frame) { f.Delta.Entities[0].Kind = "container" },
		"edge of nobody":         func(f *probev1.Frame) { f.Delta.Edges[0].Src = 0 },
		"edge to no address":     func(f *probev1.Frame) { f.Delta.Edges[0].RemoteAddr = []byte{1} },
		"port":                   func(f *probev1.Frame) { f.Delta.Edges[0].Port = 70000 },
		"listener of nobody":     func(f *probev1.Frame) { f.Delta.Listeners[0].Entity = 0 },
		"metric without a name":  func(f *probev1.Frame) { f.Metrics.NameIndex[0] = 1 },
		"metrics of two lengths": func(f *probev1.Frame) { f.Metrics.Values = nil },
		"hello without an id":    func(f *probev1.Frame) { f.Hello.ProbeId = "" },
		"too many attributes":    func(f *probev1.Frame) { f.Delta.Entities[0].Attrs = make([]*probev1.Attr, MaxAttrs+1) },
	} {
		t.Run(name, func(t *testing.T) {
			f := sample()
			change(f)
			for i, a := range f.Delta.Entities[0].Attrs {
				if a == nil {
					f.Delta.Entities[0].Attrs[i] = &probev1.Attr{}
				}
			}
			b, err := c.Encode(nil, f)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Decode(b); err == nil {
				t.Error("taken")
			}
		})
	}
	for name, b := range map[string][]byte{"empty": nil, "unknown mark": {9, 1}, "not zstd": {1, 1, 2, 3}, "not a frame": {0, 255}} {
		if _, err := c.Decode(b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	bomb := c.enc.EncodeAll(make([]byte, MaxFrame+1), []byte{markZstd})
	if _, err := c.Decode(bomb); err == nil {
		t.Error("a compressed bomb was taken")
	}
}

// What JSON has no number for would make answers that hold it fail as a whole, and with them pages.
func TestWhatIsNoNumberIsNone(t *testing.T) {
	t.Parallel()
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1e300} {
		f := sample()
		f.Hello.Policy = []string{"exec\x1b[31m", strings.Repeat("x", 10_000)}
		f.Delta.Templates = []*probev1.Template{{Id: "p.a", Metric: true, Max: v, Priority: v}, {Id: "p.b", Metric: true, Max: 100, Priority: 3}}
		if err := Check(f); err != nil {
			t.Fatal(err)
		}
		if x := f.Delta.Templates; x[0].Max != 0 || x[0].Priority != 0 || x[1].Max != 100 || x[1].Priority != 3 {
			t.Errorf("%v became %v", v, x)
		}
		if p := f.Hello.Policy; p[0] != "exec\ufffd[31m" || len(p[1]) > 64 {
			t.Errorf("policy %.200q", p)
		}
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		in    string
		limit int
		want  string
	}{
		{"abc", 3, "abc"},
		{"abcd", 3, "abc"},
		{"aé", 2, "a"},
		{"a\xff", 10, "a\uFFFD"},
		{"a\x00b", 10, "ab"},
		{"<b>\x1b[31m", 20, "<b>\uFFFD[31m"},
		{"\u009b31m\a\x7f", 20, "\uFFFD31m\uFFFD\uFFFD"},
		{"a\tb\r\nc", 20, "a\tb\r\nc"},
		{"\x1b\x1b", 4, "\uFFFD"},
	} {
		if got := Clean(x.in, x.limit); got != x.want {
			t.Errorf("Clean(%q, %d) = %q, want %q", x.in, x.limit, got, x.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	c := NewCodec()
	b, _ := c.Encode(nil, sample())
	f.Add(b)
	f.Add(append([]byte{0}, b[1:]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := c.Decode(b)
		if err != nil {
			return
		}
		if d := fr.Delta; d != nil {
			for _, e := range d.Entities {
				if e.Ref == 0 || !utf8.ValidString(e.Label) || len(e.Label) > MaxLabel || KindOf(e.Id) != e.Kind {
					t.Fatalf("%+v", e)
				}
			}
			for _, e := range d.Edges {
				if math.IsNaN(float64(e.Tx)) {
					t.Fatal("NaN")
				}
			}
		}
		if _, err := c.Encode(nil, fr); err != nil {
			t.Fatal(err)
		}
	})
}

func TestIDs(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0a", 32)
	if got, want := ContainerID("h", long), "container;h;0a0a0a0a0a0a"; got != want {
		t.Error(got)
	}
	if got, want := ContainerID("h", "marathon-web.1"), "container;h;marathon-web.1"; got != want {
		t.Error(got)
	}
	if KindOf("process;h;1;2") != "process" || KindOf("internet") != "internet" {
		t.Error("KindOf")
	}
}

// Buffers are used again: what was decoded must not lie in them.
func TestWhatWasDecodedStays(t *testing.T) {
	t.Parallel()
	c := NewCodec()
	encode := func(letter string) []byte {
		data, err := c.Encode(nil, &probev1.Frame{Delta: &probev1.Delta{Seq: 1, Entities: []*probev1.Entity{{Ref: 1, Id: "host;" + strings.Repeat(letter, 400), Kind: "host"}}, Edges: []*probev1.Edge{{Ref: 2, Src: 1, RemoteAddr: []byte(strings.Repeat(letter, 4))}}}})
		if err != nil {
			t.Fatal(err)
		}
		if data[0] != markZstd {
			t.Fatal("not compressed: nothing is tested")
		}
		return data
	}
	a, err := c.Decode(encode("a"))
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := c.Decode(encode("b")); err != nil {
			t.Fatal(err)
		}
	}
	if id, addr := a.Delta.Entities[0].Id, string(a.Delta.Edges[0].RemoteAddr); id != "host;"+strings.Repeat("a", 400) || addr != "aaaa" {
		t.Errorf("%.20s %s", id, addr)
	}
}
