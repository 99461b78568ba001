package mesosjson_test

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

func scalar(name string, v float64) *mesosv1.Resource {
	return &mesosv1.Resource{
		Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v},
		AllocationInfo: &mesosv1.Resource_AllocationInfo{Role: proto.String("services/web")},
	}
}

// offers is an OFFERS event as a middling cluster sends it: per offer four kinds of resources and a few attributes.
func offers(n int) *schedulerv1.Event {
	ev := &schedulerv1.Event{Type: schedulerv1.Event_OFFERS.Enum(), Offers: &schedulerv1.Event_Offers{}}
	const master = "6c8e4a1e-3f4f-4f0c-9a0e-5b0f0c7a9d11"
	text := func(name, value string) *mesosv1.Attribute {
		return &mesosv1.Attribute{Name: &name, Type: mesosv1.Value_TEXT.Enum(), Text: &mesosv1.Value_Text{Value: &value}}
	}
	for i := range n {
		host := fmt.Sprintf("agent-%04d.example.com", i)
		ports := scalar("ports", 0)
		ports.Type, ports.Scalar = mesosv1.Value_RANGES.Enum(), nil
		ports.Ranges = &mesosv1.Value_Ranges{Range: []*mesosv1.Value_Range{
			{Begin: proto.Uint64(31000), End: proto.Uint64(31099)}, {Begin: proto.Uint64(31102), End: proto.Uint64(32000)},
		}}
		ev.Offers.Offers = append(ev.Offers.Offers, &mesosv1.Offer{
			Id:          &mesosv1.OfferID{Value: proto.String(fmt.Sprintf("%s-O%d", master, 1000+i))},
			FrameworkId: &mesosv1.FrameworkID{Value: proto.String(master + "-0000")},
			AgentId:     &mesosv1.AgentID{Value: proto.String(fmt.Sprintf("%s-S%d", master, i))},
			Hostname:    &host,
			Url: &mesosv1.URL{Scheme: proto.String("http"), Path: proto.String("/slave(1)"), Address: &mesosv1.Address{
				Hostname: &host, Ip: proto.String("10.0.12.34"), Port: proto.Int32(5051),
			}},
			AllocationInfo: &mesosv1.Resource_AllocationInfo{Role: proto.String("services/web")},
			Resources:      []*mesosv1.Resource{scalar("cpus", 15.5), scalar("mem", 63488), scalar("disk", 204800), ports},
			Attributes:     []*mesosv1.Attribute{text("rack", "r12"), text("zone", "eu-west-1b")},
		})
	}
	return ev
}

func BenchmarkAppendOffers100(b *testing.B) {
	ev := offers(100)
	buf, err := mesosjson.Append(nil, ev)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = mesosjson.Append(buf[:0], ev)
	}
}

func BenchmarkUnmarshalOffers100(b *testing.B) {
	text, err := mesosjson.Marshal(offers(100))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if err := mesosjson.Unmarshal(text, new(schedulerv1.Event)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnmarshalAcknowledge(b *testing.B) {
	text := []byte(`{"framework_id":{"value":"6c8e4a1e-3f4f-4f0c-9a0e-5b0f0c7a9d11-0000"},"type":"ACKNOWLEDGE","acknowledge":` +
		`{"agent_id":{"value":"6c8e4a1e-3f4f-4f0c-9a0e-5b0f0c7a9d11-S17"},"task_id":{"value":"web.0f3c1f6e"},"uuid":"AAECAwQFBgcICQoLDA0ODw=="}}`)
	b.ReportAllocs()
	for b.Loop() {
		if err := mesosjson.Unmarshal(text, new(schedulerv1.Call)); err != nil {
			b.Fatal(err)
		}
	}
}
