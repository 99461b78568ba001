package mesosjson_test

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"pgregory.net/rapid"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

var update = flag.Bool("update", false, "write the golden files anew")

// apis are the messages that travel as JSON, and the link's, which has oneofs everywhere.
var apis = []proto.Message{
	&schedulerv1.Call{}, &schedulerv1.Event{}, &executorv1.Call{}, &executorv1.Event{},
	&masterv1.Call{}, &masterv1.Response{}, &masterv1.Event{}, &agentv1.Call{}, &agentv1.Response{}, &agentv1.ProcessIO{},
	&linkv1.Frame{},
}

// filler fills messages through protoreflect, so that it shares no code with the codec.
type filler struct {
	intN  func(n int) int
	depth int
	all   bool // every field, one element a list
}

func (f filler) fill(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		required := fd.Cardinality() == protoreflect.Required
		if !required && (f.depth <= 0 || !f.all && f.intN(3) > 0) {
			continue
		}
		if oneof := fd.ContainingOneof(); oneof != nil && f.all && oneof.Fields().Get(0) != fd {
			continue
		}
		sub := f
		sub.depth--
		n := 1
		if !f.all {
			n = f.intN(3)
		}
		switch {
		case fd.IsList():
			for range n {
				list := m.Mutable(fd).List()
				v := list.NewElement()
				if fd.Message() != nil {
					sub.fill(v.Message())
				} else {
					v = f.scalar(fd)
				}
				list.Append(v)
			}
		case fd.IsMap():
			for range n {
				entries := m.Mutable(fd).Map()
				v := entries.NewValue()
				if fd.MapValue().Message() != nil {
					sub.fill(v.Message())
				} else {
					v = f.scalar(fd.MapValue())
				}
				entries.Set(f.scalar(fd.MapKey()).MapKey(), v)
			}
		case fd.Message() != nil:
			sub.fill(m.Mutable(fd).Message())
		default:
			m.Set(fd, f.scalar(fd))
		}
	}
}

func pick[T any](f filler, values ...T) T {
	if f.all {
		return values[0]
	}
	return values[f.intN(len(values))]
}

func (f filler) scalar(fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(pick(f, true, false))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(pick(f, "text", "", "a\"b\\c/d\n\x01", "ünïcödé 😀", "x y"))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(pick(f, []byte{0xfb, 0xef, 0xff, 1}, []byte{}, []byte("data")))
	case protoreflect.EnumKind:
		values := fd.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(f.intN(values.Len())).Number())
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(pick(f, int32(5051), 0, -1, math.MinInt32, math.MaxInt32))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(pick(f, int64(1<<60), 0, -1, math.MinInt64, math.MaxInt64))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(pick(f, uint32(16777343), 0, math.MaxUint32))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(pick(f, uint64(31000), 0, math.MaxUint64))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(pick(f, float32(0.25), 0, -3))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(pick(f, 4.0, 0, -0.1, 1e-9, 1.5e300, 1e15, 123456.789))
	}
	panic("no such kind on this wire: " + fd.Kind().String())
}

// oracle is the mapping once more, slow and plain.
func oracle(m protoreflect.Message) string {
	var members []string
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		deprecated := fd.Options().(*descriptorpb.FieldOptions).GetDeprecated()
		if !m.Has(fd) && (fd.IsList() || fd.IsMap() || !fd.HasDefault() || deprecated) {
			continue
		}
		v := m.Get(fd)
		var text string
		switch {
		case fd.IsList():
			var elems []string
			for j := range v.List().Len() {
				elems = append(elems, oracleValue(fd, v.List().Get(j)))
			}
			text = "[" + strings.Join(elems, ",") + "]"
		case fd.IsMap():
			entries := make(map[string]string)
			for k, e := range v.Map().Range {
				entries[k.String()] = oracleValue(fd.MapValue(), e)
			}
			var elems []string
			for k, e := range entries {
				elems = append(elems, oracleString(k)+":"+e)
			}
			slices.Sort(elems)
			text = "{" + strings.Join(elems, ",") + "}"
		default:
			text = oracleValue(fd, v)
		}
		members = append(members, `"`+string(fd.Name())+`":`+text)
	}
	return "{" + strings.Join(members, ",") + "}"
}

func oracleString(s string) string {
	text := `"`
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			text += `\` + string(r)
		case r == '\n':
			text += `\n`
		case r < 0x20:
			text += fmt.Sprintf(`\u%04X`, r)
		default:
			text += string(r)
		}
	}
	return text + `"`
}

func oracleValue(fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		return oracle(v.Message())
	case protoreflect.EnumKind:
		return `"` + string(fd.Enum().Values().ByNumber(v.Enum()).Name()) + `"`
	case protoreflect.StringKind:
		return oracleString(v.String())
	case protoreflect.BytesKind:
		return `"` + base64.StdEncoding.EncodeToString(v.Bytes()) + `"`
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		text, _ := json.Marshal(v.Float()) // shortest form too, but with other exponents and no fraction
		s := strings.NewReplacer("e+", "e", "e-0", "e-", "e0", "e").Replace(string(text))
		if !strings.ContainsAny(s, ".e") {
			s += ".0"
		}
		return s
	}
	return fmt.Sprint(v.Interface())
}

func TestAgreesWithThePlainMapping(t *testing.T) {
	t.Parallel()
	for _, api := range apis {
		t.Run(string(api.ProtoReflect().Descriptor().FullName()), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
				m := api.ProtoReflect().New()
				filler{intN: rng.IntN, depth: rapid.IntRange(0, 7).Draw(t, "depth")}.fill(m)
				got, err := mesosjson.Marshal(m.Interface())
				if err != nil {
					t.Fatal(err)
				}
				if want := oracle(m); string(got) != want {
					t.Fatalf("written\n%s\nwant\n%s", got, want)
				}
				if !json.Valid(got) {
					t.Fatalf("not JSON: %s", got)
				}
				back := m.New()
				if err := mesosjson.Unmarshal(got, back.Interface()); err != nil {
					t.Fatalf("reading back %s: %v", got, err)
				}
				// Reading sets the defaults that were written; setting them in the original makes the two comparable.
				again, err := mesosjson.Marshal(back.Interface())
				if err != nil || string(again) != string(got) {
					t.Fatalf("written again\n%s\nwant\n%s (%v)", again, got, err)
				}
			})
		})
	}
}

// Every field of every API, once: the text a client sees.
func TestGolden(t *testing.T) {
	t.Parallel()
	for _, api := range apis {
		name := string(api.ProtoReflect().Descriptor().FullName())
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(1, 1))
			m := api.ProtoReflect().New()
			filler{intN: rng.IntN, depth: 5, all: true}.fill(m)
			got, err := mesosjson.Marshal(m.Interface())
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.ReplaceAll(string(want), ",", ",\n"), strings.ReplaceAll(string(got)+"\n", ",", ",\n")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			back := m.New().Interface()
			if err := mesosjson.Unmarshal(want, back); err != nil {
				t.Fatal(err)
			}
			if again, err := mesosjson.Marshal(back); err != nil || string(again) != string(got) {
				t.Errorf("read and written again:\n%s", cmp.Diff(string(got), string(again)))
			}
		})
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, api := range apis {
		rng := rand.New(rand.NewPCG(1, 1))
		m := api.ProtoReflect().New()
		filler{intN: rng.IntN, depth: 2, all: true}.fill(m)
		text, err := mesosjson.Marshal(m.Interface())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"type":"KILL","kill":{"task_id":{"value":"\ud83d\ude00"}},"x":[{"y":-1.5E+3}]}`))
	f.Add([]byte(strings.Repeat(`{"a":[`, 200)))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, api := range apis {
			m := api.ProtoReflect().New().Interface()
			if mesosjson.Unmarshal(data, m) != nil {
				continue
			}
			text, err := mesosjson.Marshal(m)
			if err != nil {
				t.Fatalf("read from %q but cannot be written: %v", data, err)
			}
			back := api.ProtoReflect().New().Interface()
			if err := mesosjson.Unmarshal(text, back); err != nil {
				t.Fatalf("%s, written from %q, cannot be read: %v", text, data, err)
			}
			again, err := mesosjson.Marshal(back)
			if err != nil || string(again) != string(text) {
				t.Fatalf("round trip of %q: %s, then %s (%v)", data, text, again, err)
			}
		}
	})
}
