package resources

import (
	"testing"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// FuzzParse: whatever a flag holds, Parse gives an error or resources that come back from their messages unchanged.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"cpus:4;mem(web):1024;ports(web):[31000-32000,5-6];zones:{a,b}", "cpus:1e9", "x:[0-18446744073709551615]", "a(b:1", ";;",
		`[{"name":"disk","type":"SCALAR","scalar":{"value":2},"disk":{"source":{"type":"MOUNT"}}}]`,
		`[{"name":"disk","type":"SCALAR","scalar":{"value":2},"reservations":[{"type":"DYNAMIC","role":"a"}],"disk":{"persistence":{"id":"v"}},"shared":{}}]`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s, "*")
		if err != nil {
			return
		}
		checkValue(t, r)
	})
}

// FuzzFromProto: whatever a message holds, FromProto gives an error or resources whose arithmetic holds.
func FuzzFromProto(f *testing.F) {
	for _, s := range []string{"cpus:4;mem(web):1024;ports:[31000-32000]", "disk(a):1;x:{a}"} {
		for _, p := range MustParse(s).Proto() {
			raw, err := p.MarshalVT()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(raw, raw)
		}
	}
	raw, err := volume("v", 3, true).MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, raw)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		p, q := &mesosv1.Resource{}, &mesosv1.Resource{}
		if p.UnmarshalVT(a) != nil || q.UnmarshalVT(b) != nil {
			return
		}
		r, err := FromProto([]*mesosv1.Resource{p})
		if err != nil {
			return
		}
		checkValue(t, r)
		if s, err := FromProto([]*mesosv1.Resource{q}); err == nil {
			if !r.Add(s).Contains(s) || !r.Add(s).Equal(s.Add(r)) {
				t.Fatalf("%s + %s = %s", r, s, r.Add(s))
			}
			for _, typ := range []mesosv1.Offer_Operation_Type{
				mesosv1.Offer_Operation_RESERVE, mesosv1.Offer_Operation_UNRESERVE,
				mesosv1.Offer_Operation_CREATE, mesosv1.Offer_Operation_DESTROY,
			} {
				if got, err := r.Add(s).ApplyOperation(operation(typ, p)); err == nil {
					if q := got.Quantities(); !q.Equal(r.Add(s).Quantities()) && !p.ProtoReflect().Has(p.ProtoReflect().Descriptor().Fields().ByName("shared")) {
						t.Fatalf("%s of %s changed sums from %s to %s", typ, r, r.Add(s).Quantities(), q)
					}
				}
			}
		}
	})
}

func checkValue(t *testing.T, r Resources) {
	t.Helper()
	_ = r.String()
	_ = r.ModelValues()
	back, err := FromProto(r.Proto())
	if err != nil || !back.Equal(r.OneCopy()) {
		t.Fatalf("%s came back as %s, %v", r, back, err)
	}
	if left, ok := r.Subtract(r); !ok || !left.IsEmpty() {
		t.Fatalf("%s - itself = %s", r, left)
	}
	_ = r.ToUnreserved().Quantities()
	_ = r.PopReservation()
}
