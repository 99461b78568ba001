package scope

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// pack writes a value as Scope's encoder does: text and times are raw bytes, names of members text.
func pack(b []byte, v any) []byte {
	raw := func(s []byte) []byte {
		switch {
		case len(s) < 32:
			b = append(b, 0xa0|byte(len(s)))
		case len(s) < 1<<16:
			b = binary.BigEndian.AppendUint16(append(b, 0xda), uint16(len(s)))
		default:
			b = binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(len(s)))
		}
		return append(b, s...)
	}
	switch v := v.(type) {
	case nil:
		return append(b, 0xc0)
	case bool:
		if v {
			return append(b, 0xc3)
		}
		return append(b, 0xc2)
	case int:
		if v >= 0 && v < 128 {
			return append(b, byte(v))
		}
		return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(v))
	case float64:
		return binary.BigEndian.AppendUint64(append(b, 0xcb), math.Float64bits(v))
	case string:
		return raw([]byte(v))
	case time.Time:
		t, err := v.MarshalBinary()
		if err != nil {
			panic(err)
		}
		return raw(t)
	case []any:
		b = binary.BigEndian.AppendUint16(append(b, 0xdc), uint16(len(v)))
		for _, e := range v {
			b = pack(b, e)
		}
		return b
	case map[string]any:
		b = binary.BigEndian.AppendUint16(append(b, 0xde), uint16(len(v)))
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			b = pack(pack(b, k), v[k])
		}
		return b
	}
	panic(v)
}

var noon = time.Date(2026, 11, 26, 12, 0, 0, 5, time.UTC)

func sample() map[string]any {
	latest := func(v string) any { return map[string]any{"timestamp": noon, "value": v} }
	return map[string]any{
		"TS": noon, "ID": "7", "Window": 3_000_000_000, "Shortcut": false, "Sampling": map[string]any{"Count": 0, "Total": 0},
		"DNS": map[string]any{"10.0.0.2": map[string]any{"forward": []any{"db"}, "reverse": nil}}, "nodes": nil,
		"Plugins": []any{map[string]any{"id": "p", "label": "P", "interfaces": []any{"reporter"}, "api_version": "1"}},
		"Overlay": map[string]any{"nodes": map[string]any{"#x": map[string]any{"latest": nil}}},
		"Endpoint": map[string]any{"nodes": map[string]any{
			";10.0.0.1;4242": map[string]any{"id": ";10.0.0.1;4242", "topology": "endpoint", "adjacency": []any{";10.0.0.2;80"}, "latest": map[string]any{"pid": latest("7")}, "children": nil},
			";10.0.0.2;80":   map[string]any{"adjacency": nil, "sets": nil},
		}},
		"Host": map[string]any{
			"shape": "circle", "label": "host", "label_plural": "hosts",
			"nodes": map[string]any{"vm;<host>": map[string]any{
				"latest": map[string]any{"host_name": latest("vm"), "active_controls": latest("host_exec;host_look")},
				"sets":   map[string]any{"local_networks": []any{"10.0.0.1/24"}},
				"parents": map[string]any{
					"host": []any{"vm;<host>"},
				},
				"metrics": map[string]any{"load1": map[string]any{"samples": []any{map[string]any{"date": noon, "value": 0.5}}, "min": 0, "max": 1.5}},
			}},
			"controls":           map[string]any{"host_exec": map[string]any{"id": "host_exec", "human": "Exec shell", "icon": "i", "rank": 3, "confirmation": "sure?"}},
			"metadata_templates": map[string]any{"host_name": map[string]any{"id": "host_name", "label": "Hostname", "from": "latest", "priority": 11.0, "truncate": 5, "dataType": "number"}},
			"metric_templates":   map[string]any{"load1": map[string]any{"id": "load1", "label": "Load", "format": "percent", "group": "load", "priority": 1}},
			"table_templates": map[string]any{"t": map[string]any{
				"id": "t", "label": "T", "prefix": "t_", "type": "property-list", "fixedRows": map[string]any{"k": "K"}, "columns": []any{map[string]any{"id": "c", "label": "C", "dataType": ""}},
			}},
		},
	}
}

func want() *Report {
	l := func(v string) Latest { return Latest{noon, v} }
	return &Report{
		TS: noon, ID: "7", Window: 3 * time.Second, DNS: map[string]DNSRecord{"10.0.0.2": {Forward: []string{"db"}}},
		Plugins: []PluginSpec{{ID: "p", Label: "P", Interfaces: []string{"reporter"}, APIVersion: "1"}},
		Topologies: map[string]*Topology{
			Endpoint: {Nodes: map[string]*Node{
				";10.0.0.1;4242": {ID: ";10.0.0.1;4242", Topology: "endpoint", Adjacency: []string{";10.0.0.2;80"}, Latest: map[string]Latest{"pid": l("7")}},
				";10.0.0.2;80":   {ID: ";10.0.0.2;80"},
			}},
			Host: {
				Shape: "circle", Label: "host", LabelPlural: "hosts",
				Nodes: map[string]*Node{"vm;<host>": {
					ID: "vm;<host>", Latest: map[string]Latest{"host_name": l("vm"), "active_controls": l("host_exec;host_look")},
					Sets: map[string][]string{"local_networks": {"10.0.0.1/24"}}, Parents: map[string][]string{"host": {"vm;<host>"}},
					Metrics: map[string]Metric{"load1": {Samples: []Sample{{noon, 0.5}}, Max: 1.5}},
				}},
				Controls:          map[string]Control{"host_exec": {ID: "host_exec", Human: "Exec shell", Icon: "i", Rank: 3, Confirmation: "sure?"}},
				MetadataTemplates: map[string]MetadataTemplate{"host_name": {ID: "host_name", Label: "Hostname", From: "latest", Priority: 11, Truncate: 5, Datatype: "number"}},
				MetricTemplates:   map[string]MetricTemplate{"load1": {ID: "load1", Label: "Load", Format: "percent", Group: "load", Priority: 1}},
				TableTemplates: map[string]TableTemplate{"t": {
					ID: "t", Label: "T", Prefix: "t_", Type: "property-list", FixedRows: map[string]string{"k": "K"}, Columns: []Column{{ID: "c", Label: "C"}},
				}},
			},
		},
	}
}

func TestBothWaysOfWritingAreRead(t *testing.T) {
	t.Parallel()
	got, err := DecodeMsgpack(pack(nil, sample()), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want(), got); d != "" {
		t.Error(d)
	}
	text, err := json.Marshal(sample())
	if err != nil {
		t.Fatal(err)
	}
	if got, err = DecodeJSON(text, DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want(), got); d != "" {
		t.Error(d)
	}
	if !got.Full() {
		t.Error("not a full report")
	}
	// What is written is what is read.
	if text, err = json.Marshal(got); err != nil {
		t.Fatal(err)
	}
	if got, err = DecodeJSON(text, DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	for _, name := range Names() { // all are written
		if x := got.Topologies[name]; x != nil && x.Shape == "" && x.Nodes == nil {
			delete(got.Topologies, name)
		}
	}
	if d := cmp.Diff(want(), got); d != "" {
		t.Error(d)
	}
}

func TestOldFormsOfControlsAndCounters(t *testing.T) {
	t.Parallel()
	for in, offered := range map[string][]string{
		`{"host":{"nodes":{"a":{"latestControls":{"x":{"timestamp":"2026-11-26T12:00:00Z","value":{"dead":false}},"y":{"value":{"dead":true}}}}}}}`: {"x"},
		`{"Host":{"nodes":{"a":{"controls":{"timestamp":"2026-11-26T12:00:00Z","controls":["b","a","a"]}}}}}`:                                       {"a", "b"},
		`{"Host":{"nodes":{"a":{"latest":{"active_controls":{"value":"z"}},"controls":{"controls":["b"]}}}}}`:                                       {"b", "z"},
		`{"Host":{"nodes":{"a":{"counters":{"n":3}}}}}`:                                                                                             {},
	} {
		r, err := DecodeJSON([]byte(in), DefaultLimits())
		if err != nil {
			t.Fatal(in, err)
		}
		n := r.Topologies[Host].Nodes["a"]
		if got := n.Offered(); !slices.Equal(got, offered) {
			t.Errorf("%s: %q", in, got)
		}
		if strings.Contains(in, "counters") && n.Value("count_n") != "3" {
			t.Errorf("%+v", n)
		}
		if r.Full() {
			t.Error("full without shapes")
		}
	}
}

func TestTimesInEveryForm(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_800_000_000, 0).UTC()
	for name, b := range map[string][]byte{
		"as text":        pack(nil, "2027-01-15T08:00:00Z"),
		"32 bits":        {0xd6, 0xff, 0x6b, 0x49, 0xd2, 0x00},
		"64 bits":        append([]byte{0xd7, 0xff}, binary.BigEndian.AppendUint64(nil, uint64(at.Unix()))...),
		"96 bits":        append([]byte{0xc7, 12, 0xff, 0, 0, 0, 0}, binary.BigEndian.AppendUint64(nil, uint64(at.Unix()))...),
		"Go's own bytes": pack(nil, at),
	} {
		m := &msgpack{in: b, limits: DefaultLimits()}
		if got, err := m.when(); err != nil || !got.Equal(at) {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
}

// deep is a value within as many arrays.
func deep(n int) []byte {
	return append(bytes.Repeat([]byte{0x91}, n), 0xc0)
}

func TestWhatIsOutOfBoundsIsRefused(t *testing.T) {
	t.Parallel()
	small := Limits{Depth: 8, Values: 100, Text: 20, Nodes: 3}
	object := func(key string, value []byte) []byte { return append(pack([]byte{0x81}, key), value...) }
	nodes := func(n int) map[string]any {
		list := map[string]any{}
		for i := range n {
			list[string(rune('a'+i))] = nil
		}
		return map[string]any{"Host": map[string]any{"nodes": list}}
	}
	for name, x := range map[string]struct {
		in    []byte
		limit bool
	}{
		"deep, where nobody looks":                 {object("x", deep(9)), true},
		"a name too long":                          {object(strings.Repeat("x", 21), []byte{0xc0}), true},
		"text too long":                            {object("ID", pack(nil, strings.Repeat("x", 21))), true},
		"too many values":                          {object("x", append([]byte{0xdc, 0, 101}, make([]byte, 101)...)), true},
		"too many nodes":                           {pack(nil, nodes(4)), true},
		"an array that claims more than follows":   {object("x", []byte{0xdd, 0xff, 0xff, 0xff, 0xff}), false},
		"an object that claims more than follows":  {object("Host", []byte{0xdf, 0xff, 0xff, 0xff, 0xff}), false},
		"text that claims more than follows":       {object("x", []byte{0xdb, 0xff, 0xff, 0xff, 0xff}), false},
		"an extension that claims more":            {object("TS", []byte{0xc9, 0xff, 0xff, 0xff, 0xff, 0xff}), false},
		"nothing":                                  {nil, false},
		"no object":                                {[]byte{0x93, 1, 2, 3}, false},
		"a byte that begins nothing":               {[]byte{0xc1}, false},
		"something after the report":               {append(pack(nil, nodes(1)), 0xc0), false},
		"a time that is none":                      {object("TS", pack(nil, "\x01\x02")), false},
		"a topology that is text":                  {object("Host", pack(nil, "x")), false},
		"a name that is an object":                 {[]byte{0x81, 0x80, 0xc0}, false},
		"nodes that are an array":                  {pack(nil, map[string]any{"Host": map[string]any{"nodes": []any{1}}}), false},
		"metrics that are text":                    {pack(nil, map[string]any{"Host": map[string]any{"nodes": map[string]any{"a": map[string]any{"metrics": map[string]any{"m": map[string]any{"max": "x"}}}}}}), false},
		"random bytes":                             {[]byte("\x8f\x13\x37\xde\xad\xbe\xef\x00\x11\x22"), false},
		"truncated where the report is at its end": {pack(nil, nodes(2))[:20], false},
	} {
		if _, err := DecodeMsgpack(x.in, small); err == nil || TooLarge(err) != x.limit {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, x := range map[string]struct {
		in    string
		limit bool
	}{
		"deep":         {`{"x":` + strings.Repeat("[", 9) + strings.Repeat("]", 9) + `}`, true},
		"text":         {`{"ID":"` + strings.Repeat("x", 21) + `"}`, true},
		"a name":       {`{"` + strings.Repeat("x", 21) + `":1}`, true},
		"values":       {`{"x":[` + strings.Repeat("1,", 100) + `1]}`, true},
		"nodes":        {`{"Host":{"nodes":{"a":{},"b":{},"c":{},"d":{}}}}`, true},
		"cut off":      {`{"Host":{"nodes":`, false},
		"more follows": {`{"ID":"x"}{}`, false},
		"no object":    {`[1]`, false},
		"wrong types":  {`{"Host":{"nodes":[1]}}`, false},
		"nothing":      {``, false},
	} {
		if _, err := DecodeJSON([]byte(x.in), small); err == nil || TooLarge(err) != x.limit {
			t.Errorf("JSON, %s: %v", name, err)
		}
	}
}

// Every beginning of a report is refused: nothing of a report that was cut off is taken for the whole.
func TestTruncatedReportsAreRefused(t *testing.T) {
	t.Parallel()
	whole := pack(nil, sample())
	for n := range whole {
		if _, err := DecodeMsgpack(whole[:n], DefaultLimits()); err == nil {
			t.Fatalf("%d bytes of %d were taken", n, len(whole))
		}
	}
}

func FuzzMsgpack(f *testing.F) {
	f.Add(pack(nil, sample()))
	f.Add(deep(100))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzed(t, b, DecodeMsgpack) })
}

func FuzzJSON(f *testing.F) {
	text, err := json.Marshal(sample())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, b []byte) { fuzzed(t, b, DecodeJSON) })
}

func fuzzed(t *testing.T, b []byte, decode func([]byte, Limits) (*Report, error)) {
	l := Limits{Depth: 16, Values: 10_000, Text: 1000, Nodes: 100}
	r, err := decode(b, l)
	if err != nil {
		return
	}
	nodes := 0
	for _, topology := range r.Topologies {
		nodes += len(topology.Nodes)
		for id, n := range topology.Nodes {
			if n.ID != id || len(id) > l.Text {
				t.Fatalf("%q: %+v", id, n)
			}
		}
	}
	if nodes > l.Nodes {
		t.Fatal(nodes)
	}
	if _, err := json.Marshal(r); err != nil && !strings.Contains(err.Error(), "unsupported value") { // NaN
		t.Fatal(err)
	}
}
