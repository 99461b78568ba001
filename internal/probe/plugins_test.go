package probe

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
)

func testWatch(t *testing.T) *pluginWatch {
	t.Helper()
	dir, err := os.MkdirTemp("", "plugins")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return newPluginWatch(dir, "probe-1", "vm1", time.Second, func() {})
}

// A link that takes a socket's place between the look and the connection must not lead anywhere else on the host.
func TestALinkInASocketsPlaceLeadsNowhere(t *testing.T) {
	t.Parallel()
	w, other := testWatch(t), testWatch(t)
	l, err := net.Listen("unix", filepath.Join(other.dir, "secret.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if c, err := other.dial(t.Context(), "secret.sock"); err != nil {
		t.Fatal(err)
	} else {
		c.Close()
	}
	if err := os.Symlink(l.Addr().String(), filepath.Join(w.dir, "a.sock")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other.dir, filepath.Join(w.dir, "sub")); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"a.sock", "sub/secret.sock", "../" + filepath.Base(other.dir) + "/secret.sock"} {
		if c, err := w.dial(t.Context(), at); err == nil {
			c.Close()
			t.Errorf("%s was connected to", at)
		}
	}
}

// Whatever plugins bring, the round stays within what monitors take: a delta that is not would cut the probe off.
func TestRoundsWithManyPluginsAreTaken(t *testing.T) {
	t.Parallel()
	w := testWatch(t)
	codec := topology.NewCodec()
	for _, name := range strings.Fields("a b c d e") {
		node := `{"latest":{`
		for i := range 300 {
			node += `"row` + strings.Repeat("x", i%90) + string(rune('a'+i%26)) + string(rune('a'+i/26)) + `":{"value":"` + strings.Repeat("ü", 3000) + `"},`
		}
		node = strings.TrimSuffix(node, ",") + `},"latestControls":{`
		controls, metrics, templates := "", "", ""
		for i := range 300 {
			id := "c" + string(rune('a'+i%26)) + string(rune('a'+i/26))
			node += `"` + id + `":{},`
			controls += `"` + id + `":{"human":"` + strings.Repeat("h", 2000) + `"},`
			metrics += `"` + id + `":{"samples":[{"value":1}]},`
			templates += `"` + id + `":{"label":"` + strings.Repeat("l", 2000) + `"},`
		}
		node = strings.TrimSuffix(node, ",") + `},"metrics":{` + strings.TrimSuffix(metrics, ",") + `}}`
		text := `{"Host":{"nodes":{"vm1;<host>":` + node + `},"controls":{` + strings.TrimSuffix(controls, ",") + `},"metadata_templates":{` +
			strings.TrimSuffix(templates, ",") + `},"table_templates":{"t":{"prefix":"row"}}}}`
		in, err := decodePlugin([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		p := w.open(name + ".sock")
		if err := p.hold(&w.memory, w.translate(name, in, len(text), true)); err != nil {
			t.Fatal(err)
		}
		p.at = time.Now()
		w.plugins[p.path] = p
	}
	h := newHub(codec)
	r := &round{at: 1, entities: []*probev1.Entity{{Id: "host;vm1", Kind: topology.KindHost, Label: "vm1", Controls: []string{"host-exec"}, Attrs: []*probev1.Attr{{Key: "cpus", Value: "2"}}}}}
	w.decorate(r, time.Now(), true)
	if err := h.apply(r); err != nil {
		t.Fatal(err)
	}
	_, data, err := h.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	f, err := codec.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	e := f.Delta.Entities[0]
	if e.Attrs[0].Key != "cpus" || e.Controls[0] != "host-exec" || len(e.Attrs) != topology.MaxAttrs || len(e.Controls) != topology.MaxControls || len(f.Delta.Templates) != maxPluginShown {
		t.Errorf("%d attributes, %d controls, %d templates", len(e.Attrs), len(e.Controls), len(f.Delta.Templates))
	}
	b := newBatch(h, 1, false)
	w.measure(b, time.Now(), func(string) uint32 { return e.Ref })
	if data, err = codec.Encode(nil, &probev1.Frame{Metrics: b.m}); err != nil {
		t.Fatal(err)
	}
	if _, err := codec.Decode(data); err != nil || len(b.m.Refs) == 0 {
		t.Errorf("%d samples: %v", len(b.m.Refs), err)
	}
	if w.memory.Load() <= 0 {
		t.Error("nothing is accounted for")
	}
	for _, p := range w.plugins {
		p.drop(&w.memory)
	}
	if n := w.memory.Load(); n != 0 {
		t.Errorf("%d bytes are accounted for after all is dropped", n)
	}
}

func TestPluginsTogetherHaveALimit(t *testing.T) {
	t.Parallel()
	w := testWatch(t)
	held := 0
	for i := range 8 {
		p := w.open("p" + string(rune('a'+i)) + ".sock")
		if p.hold(&w.memory, &pluginFound{size: maxPluginReply}) == nil {
			held++
		}
	}
	if held != maxPluginMemory/maxPluginReply {
		t.Errorf("%d reports of %d bytes are held", held, maxPluginReply)
	}
}

func FuzzPluginReply(f *testing.F) {
	f.Add([]byte(`{"Host":{"nodes":{"vm1;<host>":{"latest":{"a":{"value":"b"}},"metrics":{"m":{"samples":[{"date":"2016-11-17T08:53:03Z","value":1}]}},"latestControls":{"c":{"value":{"dead":false}}}}},
		"controls":{"c":{"human":"C"}},"metadata_templates":{"a":{"from":"latest"}},"table_templates":{"t":{"prefix":"x","columns":[{"id":"i"}]}}},"Process":{"nodes":{"vm1;12":{}}},"Plugins":[{"id":"p"}]}`))
	f.Add([]byte(`{"Host":{"nodes":{"vm1;<host>":{"controls":[],"sets":{"a":["b"]},"latest":{"active_controls":{"value":";;"}}}}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		w := &pluginWatch{hosts: []string{"vm1"}}
		in, err := decodePlugin(b)
		if err != nil {
			return
		}
		_, _ = handshake(in, "p")
		found := w.translate("p", in, len(b), true)
		found = found.with(found)
		for key, n := range found.nodes {
			if kind := topology.KindOf(key); kind != topology.KindHost && kind != topology.KindContainer && kind != topology.KindProcess && kind != topology.KindPod {
				t.Fatalf("a node of kind %q", kind)
			}
			if len(n.attrs) > maxPluginAttrs || len(n.controls) > maxPluginControls || len(n.metrics) > maxPluginMetrics {
				t.Fatalf("beyond the limits: %d %d %d", len(n.attrs), len(n.controls), len(n.metrics))
			}
			for _, a := range n.attrs {
				if !strings.HasPrefix(a.Key, "p.") || len(a.Key) > topology.MaxAttrKey {
					t.Fatalf("attribute %q", a.Key)
				}
			}
			for _, c := range n.controls {
				if !strings.HasPrefix(c, "p~") {
					t.Fatalf("control %q", c)
				}
			}
		}
	})
}
