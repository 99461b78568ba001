package mesosjson_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

// One row per rule of the mapping. Each text is what Mesos' own encoder writes for the message.
func TestEncodingRules(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		rule string
		msg  proto.Message
		want string
	}{
		{"names are snake case in order of declaration; enum by name", &schedulerv1.Call{
			Type: schedulerv1.Call_DECLINE.Enum(), FrameworkId: &mesosv1.FrameworkID{Value: proto.String("f")},
			Decline: &schedulerv1.Call_Decline{OfferIds: []*mesosv1.OfferID{{Value: proto.String("o")}}},
		}, `{"framework_id":{"value":"f"},"type":"DECLINE","decline":{"offer_ids":[{"value":"o"}]}}`},
		{
			"explicit defaults are written, deprecated ones are not", &mesosv1.CommandInfo_URI{Value: proto.String("u")},
			`{"value":"u","extract":true}`,
		},
		{"default of a double has a fraction", &mesosv1.Filters{}, `{"refuse_seconds":5.0}`},
		{"deprecated default is left out (role), nested optional messages too", &mesosv1.Resource{
			Name: proto.String("cpus"), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: proto.Float64(4)},
		}, `{"name":"cpus","type":"SCALAR","scalar":{"value":4.0}}`},
		{"deprecated field that is set is written", &mesosv1.Resource{
			Name: proto.String("mem"), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: proto.Float64(0.5)}, Role: proto.String("*"),
		}, `{"name":"mem","type":"SCALAR","scalar":{"value":0.5},"role":"*"}`},
		{"bytes are padded base64", &mesosv1.TaskStatus{
			TaskId: &mesosv1.TaskID{Value: proto.String("t")}, State: mesosv1.TaskState_TASK_RUNNING.Enum(), Uuid: []byte{0xfb, 0xff},
		}, `{"task_id":{"value":"t"},"state":"TASK_RUNNING","uuid":"+/8="}`},
		{"64-bit integers are plain numbers", &mesosv1.DurationInfo{Nanoseconds: proto.Int64(math.MaxInt64)}, `{"nanoseconds":9223372036854775807}`},
		{"maps are objects", &mesosv1.OfferFilters_ResourceQuantities{Quantities: map[string]*mesosv1.Value_Scalar{
			"b": {Value: proto.Float64(2)}, "a": {Value: proto.Float64(1)},
		}}, `{"quantities":{"a":{"value":1.0},"b":{"value":2.0}}}`},
		{"an empty message is an object", &mesosv1.Labels{}, `{}`},
		{"an unknown number of an optional enum is left out", &schedulerv1.Call{Type: schedulerv1.Call_Type(999).Enum()}, `{}`},
		{"google.protobuf.Duration is an object", &masterv1.Call_DrainAgent{
			AgentId: &mesosv1.AgentID{Value: proto.String("S0")}, MaxGracePeriod: &durationpb.Duration{Seconds: 600},
		}, `{"agent_id":{"value":"S0"},"max_grace_period":{"seconds":600},"mark_gone":false}`},
		{"a member of a oneof stands like any field", &mesosv1.Volume_Source_CSIVolume_VolumeCapability{
			AccessType: &mesosv1.Volume_Source_CSIVolume_VolumeCapability_Block{Block: &mesosv1.Volume_Source_CSIVolume_VolumeCapability_BlockVolume{}},
			AccessMode: &mesosv1.Volume_Source_CSIVolume_VolumeCapability_AccessMode{},
		}, ``},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			got, err := mesosjson.Marshal(tc.msg)
			if err != nil && tc.want != "" {
				t.Fatal(err)
			}
			if tc.want != "" {
				if diff := cmp.Diff(tc.want, string(got)); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			}
			if err != nil {
				return
			}
			back := tc.msg.ProtoReflect().New().Interface()
			if err := mesosjson.Unmarshal(got, back); err != nil {
				t.Fatalf("reading %s back: %v", got, err)
			}
			again, err := mesosjson.Marshal(back)
			if err != nil || string(again) != string(got) {
				t.Errorf("written again: %s (%v), want %s", again, err, got)
			}
		})
	}
}

func TestFloats(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{
		0: "0.0", 1: "1.0", -3: "-3.0", 0.1: "0.1", 1.5: "1.5", 1e20: "100000000000000000000.0", 1e21: "1e21", 1.5e30: "1.5e30",
		1e-6: "0.000001", 1e-7: "1e-7", 1.25e-10: "1.25e-10", 1 << 53: "9007199254740992.0", 1447434.123: "1447434.123",
		math.Inf(1): "Infinity", math.Inf(-1): "-Infinity", math.MaxFloat64: "1.7976931348623157e308", math.SmallestNonzeroFloat64: "5e-324",
		math.Copysign(0, -1): "0.0",
	} {
		if got := string(mesosjson.AppendFloat(nil, v)); got != want && v != 0 {
			t.Errorf("%v is written %s, want %s", v, got, want)
		}
	}
	if got := string(mesosjson.AppendFloat(nil, math.Copysign(0, -1))); got != "-0.0" {
		t.Errorf("-0 is written %s", got)
	}
	if got := string(mesosjson.AppendFloat(nil, 0)); got != "0.0" {
		t.Errorf("0 is written %s", got)
	}
	if got := string(mesosjson.AppendFloat(nil, math.NaN())); got != "NaN" {
		t.Errorf("NaN is written %s", got)
	}
}

func TestStrings(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a/b": `"a/b"`, `say "x" \`: `"say \"x\" \\"`, "\n\r\t\b\f\x00\x1f": `"\n\r\t\b\f\u0000\u001F"`, "ünï": `"ünï"`,
		"bad\xffend": "\"bad\uFFFDend\"", "\u2028": "\"\u2028\"", "": `""`,
	} {
		if got := string(mesosjson.AppendString(nil, in)); got != want {
			t.Errorf("%q is written %s, want %s", in, got, want)
		}
	}
}

func TestDecodingRules(t *testing.T) {
	t.Parallel()
	task := func(id string) *mesosv1.TaskID { return &mesosv1.TaskID{Value: proto.String(id)} }
	for _, tc := range []struct {
		rule string
		text string
		into proto.Message
		want proto.Message
	}{
		{"unknown fields are ignored, whatever they hold", `{"value":"t","x":[1,{"y":[null,true,"\u0041"]}],"z":-1.5e3}`, &mesosv1.TaskID{}, task("t")},
		{"null is unset", `{"refuse_seconds":null}`, &mesosv1.Filters{}, &mesosv1.Filters{}},
		{"quoted numbers", `{"refuse_seconds":"7.5"}`, &mesosv1.Filters{}, &mesosv1.Filters{RefuseSeconds: proto.Float64(7.5)}},
		{"quoted Infinity", `{"value":"-Infinity"}`, &mesosv1.Value_Scalar{}, &mesosv1.Value_Scalar{Value: proto.Float64(math.Inf(-1))}},
		{"quoted integers", `{"nanoseconds":"-12"}`, &mesosv1.DurationInfo{}, &mesosv1.DurationInfo{Nanoseconds: proto.Int64(-12)}},
		{"integers written as doubles", `{"nanoseconds":5e3}`, &mesosv1.DurationInfo{}, &mesosv1.DurationInfo{Nanoseconds: proto.Int64(5000)}},
		{"fractions of integers are cut off", `{"nanoseconds":-5.9}`, &mesosv1.DurationInfo{}, &mesosv1.DurationInfo{Nanoseconds: proto.Int64(-5)}},
		{"quoted booleans", `{"value":"u","executable":"true"}`, &mesosv1.CommandInfo_URI{}, &mesosv1.CommandInfo_URI{Value: proto.String("u"), Executable: proto.Bool(true)}},
		{"unknown name of an optional enum is dropped", `{"type":"FUTURE"}`, &schedulerv1.Call{}, &schedulerv1.Call{}},
		{
			"unknown name in a list of enums is dropped", `{"capabilities":[{"type":"FUTURE"},{"type":"MULTI_ROLE"}],"user":"u","name":"n"}`, &mesosv1.FrameworkInfo{},
			&mesosv1.FrameworkInfo{User: proto.String("u"), Name: proto.String("n"), Capabilities: []*mesosv1.FrameworkInfo_Capability{{}, {Type: mesosv1.FrameworkInfo_Capability_MULTI_ROLE.Enum()}}},
		},
		{"the last of two equal names counts", `{"value":"a","value":"b"}`, &mesosv1.TaskID{}, task("b")},
		{
			"the last of two equal messages counts, whole", `{"task_id":{"value":"a"},"agent_id":{"value":"s"},"agent_id":{"value":"s2"}}`, &schedulerv1.Call_Kill{},
			&schedulerv1.Call_Kill{TaskId: task("a"), AgentId: &mesosv1.AgentID{Value: proto.String("s2")}},
		},
		{"escapes", `{"value":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00é"}`, &mesosv1.TaskID{}, task("\"\\/\b\f\n\r\té😀é")},
		{"white space anywhere", " {\n\t\"value\" : \"t\" }\r\n", &mesosv1.TaskID{}, task("t")},
		{
			"Duration as an object", `{"agent_id":{"value":"s"},"max_grace_period":{"seconds":5,"nanos":7}}`, &masterv1.Call_DrainAgent{},
			&masterv1.Call_DrainAgent{AgentId: &mesosv1.AgentID{Value: proto.String("s")}, MaxGracePeriod: &durationpb.Duration{Seconds: 5, Nanos: 7}},
		},
		{
			"maps", `{"quantities":{"cpus":{"value":1},"mem":null}}`, &mesosv1.OfferFilters_ResourceQuantities{},
			&mesosv1.OfferFilters_ResourceQuantities{Quantities: map[string]*mesosv1.Value_Scalar{"cpus": {Value: proto.Float64(1)}}},
		},
		{
			"empty bytes are set", `{"task_id":{"value":"t"},"state":"TASK_LOST","uuid":""}`, &mesosv1.TaskStatus{},
			&mesosv1.TaskStatus{TaskId: task("t"), State: mesosv1.TaskState_TASK_LOST.Enum(), Uuid: []byte{}},
		},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			t.Parallel()
			if err := mesosjson.Unmarshal([]byte(tc.text), tc.into); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, tc.into, protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestDecodingErrorsNameThePlace(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ text, want string }{
		{
			`{"accept":{"operations":[{"type":"LAUNCH","launch":{"task_infos":[{"name":"n","task_id":{"value":"t"},"agent_id":{}}]}}]}}`,
			"accept.operations[0].launch.task_infos[0].agent_id.value: missing required field",
		},
		{`{"type":8}`, "type: expecting the name of an enum value, not a number"},
		{`{"framework_id":"f"}`, "framework_id: expecting an object, not a string"},
		{`{"decline":{"offer_ids":{"value":"o"}}}`, "decline.offer_ids: expecting an array, not an object"},
		{`{"decline":{"offer_ids":[null]}}`, "decline.offer_ids[0]: expecting an object, not null"},
		{`{"decline":{"offer_ids":[],"filters":{"refuse_seconds":true}}}`, "decline.filters.refuse_seconds: expecting a number, not a boolean"},
		{`{"decline":{"offer_ids":[],"filters":{"refuse_seconds":"0x10"}}}`, `decline.filters.refuse_seconds: "0x10" is not a number`},
		{`{"acknowledge":{"agent_id":{"value":"s"},"task_id":{"value":"t"},"uuid":"%%"}}`, "acknowledge.uuid: bad base64"},
		{`{"subscribe":{"framework_info":{"user":"u","name":"n","capabilities":[{"type":3}]}}}`, "subscribe.framework_info.capabilities[0].type"},
		{`{"subscribe":{"framework_info":{"user":"u"}}}`, "subscribe.framework_info.name: missing required field"},
		{``, "unexpected end"},
		{`[]`, "expecting '{'"},
		{`{"type":"KILL"} x`, "unexpected data"},
		{`{"type":"KILL",}`, "invalid JSON at byte 15"},
		{`{"type" "KILL"}`, "expecting ':'"},
		{"{\"x\":\"a\nb\"}", "control character"},
		{"{\"x\":\"\xff\"}", "not UTF-8"},
		{`{"x":"\ud800"}`, "lone surrogate"},
		{`{"x":"\ud800\u0041"}`, "lone surrogate"},
		{`{"x":01}`, "expecting ',' or '}'"},
		{`{"x":+1}`, "expecting a value"},
		{`{"x":1.}`, "expecting a digit"},
		{`{"x":tru}`, "expecting a value"},
		{`{"x":` + strings.Repeat("[", 200), "nested deeper than 100 levels"},
	} {
		err := mesosjson.Unmarshal([]byte(tc.text), &schedulerv1.Call{})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%.80s: error %v, want %q", tc.text, err, tc.want)
		}
		var syntax *mesosjson.SyntaxError
		var field *mesosjson.FieldError
		if !errors.As(err, &syntax) && !errors.As(err, &field) {
			t.Errorf("%.80s: error is a %T", tc.text, err)
		}
	}
	err := mesosjson.Limits{Values: 10}.Unmarshal([]byte(`{"decline":{"offer_ids":[`+strings.Repeat(`{"value":"o"},`, 20)+`{"value":"o"}]}}`), &schedulerv1.Call{})
	if err == nil || !strings.Contains(err.Error(), "more than 10 values") {
		t.Errorf("too many values: %v", err)
	}
	err = mesosjson.Limits{Bytes: 10}.Unmarshal([]byte(`{"decline":{}}`), &schedulerv1.Call{})
	if err == nil || !strings.Contains(err.Error(), "exceeds the limit") {
		t.Errorf("too many bytes: %v", err)
	}
	err = mesosjson.Unmarshal([]byte(`{"state":"TASK_NEW","task_id":{"value":"t"}}`), &mesosv1.TaskStatus{})
	if err == nil || err.Error() != "state: unknown enum value" {
		t.Errorf("unknown name of a required enum: %v", err)
	}
}

func TestEncodingErrorsNameThePlace(t *testing.T) {
	t.Parallel()
	dst := []byte("keep")
	out, err := mesosjson.Append(dst, &schedulerv1.Call{Decline: &schedulerv1.Call_Decline{OfferIds: []*mesosv1.OfferID{{Value: proto.String("o")}, {}}}})
	if err == nil || err.Error() != "decline.offer_ids[1].value: required field is not set" {
		t.Errorf("error %v", err)
	}
	if string(out) != "keep" {
		t.Errorf("after the error the buffer holds %q", out)
	}
}

func TestWriter(t *testing.T) {
	t.Parallel()
	var w mesosjson.Writer
	w.BeginObject()
	w.Key("id").String("a\"b")
	w.Key("n").Int(-1)
	w.Key("f").Float(2)
	w.Key("empty").BeginArray()
	w.EndArray()
	w.Key("list").BeginArray()
	for i := range 3 {
		w.BeginObject()
		w.Key("i").Uint(uint64(i))
		w.EndObject()
	}
	w.Bool(true)
	w.Raw([]byte(`{"raw":1}`))
	w.Bytes([]byte("x"))
	w.EndArray()
	if err := w.Key("msg").Message(&mesosv1.TaskID{Value: proto.String("t")}); err != nil {
		t.Fatal(err)
	}
	w.Key("last").String("[")
	w.EndObject()
	want := `{"id":"a\"b","n":-1,"f":2.0,"empty":[],"list":[{"i":0},{"i":1},{"i":2},true,{"raw":1},"eA=="],"msg":{"value":"t"},"last":"["}`
	if diff := cmp.Diff(want, string(w.Buf)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
