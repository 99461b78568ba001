package resources

import (
	"strings"
	"testing"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

func operation(typ mesosv1.Offer_Operation_Type, list ...*mesosv1.Resource) *mesosv1.Offer_Operation {
	op := &mesosv1.Offer_Operation{Type: typ.Enum()}
	switch typ {
	case mesosv1.Offer_Operation_RESERVE:
		op.Reserve = &mesosv1.Offer_Operation_Reserve{Resources: list}
	case mesosv1.Offer_Operation_UNRESERVE:
		op.Unreserve = &mesosv1.Offer_Operation_Unreserve{Resources: list}
	case mesosv1.Offer_Operation_CREATE:
		op.Create = &mesosv1.Offer_Operation_Create{Volumes: list}
	case mesosv1.Offer_Operation_DESTROY:
		op.Destroy = &mesosv1.Offer_Operation_Destroy{Volumes: list}
	}
	return op
}

func reservedDisk(mb float64) *mesosv1.Resource {
	r := volume("x", mb, false)
	r.Disk = nil
	return r
}

func TestReserveCreateDestroyUnreserve(t *testing.T) {
	t.Parallel()
	start := parse(t, "cpus:2;disk:100")
	for _, shared := range []bool{false, true} {
		r := start
		for _, step := range []struct {
			op   *mesosv1.Offer_Operation
			want string
		}{
			{
				operation(mesosv1.Offer_Operation_RESERVE, reservedDisk(30)),
				"cpus:2; disk:70; disk(reservations: [(DYNAMIC,web,alice)]):30",
			},
			{
				operation(mesosv1.Offer_Operation_CREATE, volume("v", 10, shared)),
				"cpus:2; disk:70; disk(reservations: [(DYNAMIC,web,alice)]):20; disk(reservations: [(DYNAMIC,web,alice)])[v:data]SHARED:10",
			},
			{
				operation(mesosv1.Offer_Operation_DESTROY, volume("v", 10, shared)),
				"cpus:2; disk:70; disk(reservations: [(DYNAMIC,web,alice)]):30",
			},
			{operation(mesosv1.Offer_Operation_UNRESERVE, reservedDisk(30)), "cpus:2; disk:100"},
		} {
			var err error
			if r, err = r.ApplyOperation(step.op); err != nil {
				t.Fatal(err)
			}
			mark := ""
			if shared {
				mark = "<SHARED>"
			}
			if want := strings.ReplaceAll(step.want, "SHARED", mark); r.String() != want {
				t.Fatalf("after %s: %s, want %s", step.op.GetType(), r, want)
			}
		}
	}
}

func TestReserveFromSource(t *testing.T) {
	t.Parallel()
	dynamic := func(role string) *mesosv1.Resource_ReservationInfo {
		return &mesosv1.Resource_ReservationInfo{Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: &role}
	}
	cpus := func(stack ...*mesosv1.Resource_ReservationInfo) *mesosv1.Resource {
		return &mesosv1.Resource{Name: ptr(CPUs), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: ptr(1.0)}, Reservations: stack}
	}
	r := from(t, cpus(dynamic("a")))
	op := operation(mesosv1.Offer_Operation_RESERVE, cpus(dynamic("b"), dynamic("b/c")))
	op.Reserve.Source = []*mesosv1.Resource{cpus(dynamic("a"))}
	got, err := r.ApplyOperation(op)
	if err != nil || got.String() != "cpus(reservations: [(DYNAMIC,b),(DYNAMIC,b/c)]):1" {
		t.Errorf("re-reserved: %s, %v", got, err)
	}
	op.Reserve.Source[0].Scalar.Value = ptr(2.0)
	if _, err := Conversions(op); err == nil {
		t.Error("a reservation of other resources than its source was accepted")
	}
}

func TestResizeVolumes(t *testing.T) {
	t.Parallel()
	r := from(t, volume("v", 10, false), reservedDisk(5))
	grow := &mesosv1.Offer_Operation{
		Type:       mesosv1.Offer_Operation_GROW_VOLUME.Enum(),
		GrowVolume: &mesosv1.Offer_Operation_GrowVolume{Volume: volume("v", 10, false), Addition: reservedDisk(3)},
	}
	got, err := r.ApplyOperation(grow)
	if err != nil || !got.Equal(from(t, volume("v", 13, false), reservedDisk(2))) {
		t.Fatalf("grown: %s, %v", got, err)
	}
	shrink := &mesosv1.Offer_Operation{
		Type:         mesosv1.Offer_Operation_SHRINK_VOLUME.Enum(),
		ShrinkVolume: &mesosv1.Offer_Operation_ShrinkVolume{Volume: volume("v", 13, false), Subtract: &mesosv1.Value_Scalar{Value: ptr(6.0)}},
	}
	if got, err = got.ApplyOperation(shrink); err != nil || !got.Equal(from(t, volume("v", 7, false), reservedDisk(8))) {
		t.Fatalf("shrunk: %s, %v", got, err)
	}
	grow.GrowVolume.Addition = &mesosv1.Resource{Name: ptr(Disk), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: ptr(3.0)}}
	if _, err := Conversions(grow); err == nil {
		t.Error("a volume was grown by disk of another reservation")
	}
	shrink.ShrinkVolume.Subtract.Value = ptr(13.0)
	if _, err := Conversions(shrink); err == nil {
		t.Error("a volume was shrunk to nothing")
	}
	shrink.ShrinkVolume.Volume = volume("v", 13, true)
	if _, err := Conversions(shrink); err == nil {
		t.Error("a shared volume was resized")
	}
}

func TestOperationsRefuse(t *testing.T) {
	t.Parallel()
	r := parse(t, "cpus:1;disk:10;disk(web):10")
	static := parse(t, "disk(web):10").Proto()[0]
	noPath := volume("v", 1, false)
	noPath.Disk.Volume = nil
	for want, op := range map[string]*mesosv1.Offer_Operation{
		"does not contain":                           operation(mesosv1.Offer_Operation_RESERVE, reservedDisk(30)),
		"names no resources":                         operation(mesosv1.Offer_Operation_RESERVE),
		"not dynamically reserved":                   operation(mesosv1.Offer_Operation_UNRESERVE, static),
		"destroy it before":                          operation(mesosv1.Offer_Operation_UNRESERVE, volume("v", 1, false)),
		"not a persistent volume":                    operation(mesosv1.Offer_Operation_CREATE, reservedDisk(1)),
		"has no `volume`":                            operation(mesosv1.Offer_Operation_CREATE, noPath),
		"is empty":                                   operation(mesosv1.Offer_Operation_RESERVE, reservedDisk(0)),
		"needs a resource provider":                  {Type: mesosv1.Offer_Operation_CREATE_DISK.Enum()},
		"unknown operation type":                     {},
		"volume: resource 0 (): empty":               {Type: mesosv1.Offer_Operation_GROW_VOLUME.Enum(), GrowVolume: &mesosv1.Offer_Operation_GrowVolume{Volume: &mesosv1.Resource{}}},
		"volume: resource 0 (): resource is missing": {Type: mesosv1.Offer_Operation_SHRINK_VOLUME.Enum()},
	} {
		if _, err := r.ApplyOperation(op); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", op.GetType(), err, want)
		}
	}
	if got, err := r.ApplyOperation(&mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_LAUNCH.Enum()}); err != nil || !got.Equal(r) {
		t.Errorf("LAUNCH converts: %s, %v", got, err)
	}
}

func TestDestroyOfSharedVolumeInUse(t *testing.T) {
	t.Parallel()
	one := from(t, volume("v", 10, true))
	op := operation(mesosv1.Offer_Operation_DESTROY, volume("v", 10, true))
	if _, err := one.Add(one).ApplyOperation(op); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a volume with two copies was destroyed: %v", err)
	}
	if _, err := one.ApplyOperation(op); err != nil {
		t.Error(err)
	}
}
