package resources

import (
	"errors"
	"fmt"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// Conversion is what an operation does to resources: Consumed is replaced by Converted.
type Conversion struct {
	Consumed, Converted Resources
	// consumesAll marks the destruction of volumes: of a shared one no copy may be left.
	consumesAll bool
}

// Apply returns r after the conversion, or an error when r does not hold what is consumed.
func (r Resources) Apply(c Conversion) (Resources, error) {
	left, ok := r.Subtract(c.Consumed)
	if !ok {
		return Resources{}, fmt.Errorf("%s does not contain %s", r, c.Consumed)
	}
	if c.consumesAll && left.containsAnyCopy(c.Consumed) {
		return Resources{}, fmt.Errorf("shared volume %s is still in use", c.Consumed)
	}
	return left.Add(c.Converted), nil
}

// containsAnyCopy reports whether any shared entry of o has a copy left in r, allocated or not.
func (r Resources) containsAnyCopy(o Resources) bool {
	for i := range o.entries {
		for j := range r.entries {
			if o.entries[i].kind.shared && compareKinds(o.entries[i].kind, r.entries[j].kind) == 0 {
				return true
			}
		}
	}
	return false
}

// ApplyAll applies conversions in order.
func (r Resources) ApplyAll(cs []Conversion) (Resources, error) {
	for _, c := range cs {
		var err error
		if r, err = r.Apply(c); err != nil {
			return Resources{}, err
		}
	}
	return r, nil
}

// ApplyOperation applies what an offer operation does to resources: RESERVE, UNRESERVE, CREATE, DESTROY, GROW_VOLUME,
// SHRINK_VOLUME. LAUNCH and LAUNCH_GROUP convert nothing; CREATE_DISK and DESTROY_DISK need a resource provider and are errors.
func (r Resources) ApplyOperation(op *mesosv1.Offer_Operation) (Resources, error) {
	cs, err := Conversions(op)
	if err != nil {
		return Resources{}, err
	}
	return r.ApplyAll(cs)
}

// Conversions returns what an operation does to resources, in order.
func Conversions(op *mesosv1.Offer_Operation) ([]Conversion, error) {
	switch op.GetType() {
	case mesosv1.Offer_Operation_LAUNCH, mesosv1.Offer_Operation_LAUNCH_GROUP:
		return nil, nil
	case mesosv1.Offer_Operation_RESERVE:
		return reserveConversions(op.GetReserve())
	case mesosv1.Offer_Operation_UNRESERVE:
		return eachResource(op.GetUnreserve().GetResources(), func(r Resources) (Conversion, error) {
			for x := range r.All() {
				if !x.IsDynamicallyReserved() {
					return Conversion{}, fmt.Errorf("%s is not dynamically reserved", r)
				}
				if x.IsPersistentVolume() {
					return Conversion{}, fmt.Errorf("%s is a persistent volume: destroy it before it is unreserved", r)
				}
			}
			return Conversion{Consumed: r, Converted: r.PopReservation()}, nil
		})
	case mesosv1.Offer_Operation_CREATE:
		return eachResource(op.GetCreate().GetVolumes(), func(r Resources) (Conversion, error) {
			if err := requireVolume(r); err != nil {
				return Conversion{}, err
			}
			return Conversion{Consumed: r.withoutPersistence(), Converted: r}, nil
		})
	case mesosv1.Offer_Operation_DESTROY:
		return eachResource(op.GetDestroy().GetVolumes(), func(r Resources) (Conversion, error) {
			if err := requireVolume(r); err != nil {
				return Conversion{}, err
			}
			return Conversion{Consumed: r, Converted: r.withoutPersistence(), consumesAll: true}, nil
		})
	case mesosv1.Offer_Operation_GROW_VOLUME:
		return growConversion(op.GetGrowVolume())
	case mesosv1.Offer_Operation_SHRINK_VOLUME:
		return shrinkConversion(op.GetShrinkVolume())
	case mesosv1.Offer_Operation_CREATE_DISK, mesosv1.Offer_Operation_DESTROY_DISK:
		return nil, fmt.Errorf("%s needs a resource provider, and there is none", op.GetType())
	}
	return nil, fmt.Errorf("unknown operation type %s", op.GetType())
}

func eachResource(list []*mesosv1.Resource, f func(Resources) (Conversion, error)) ([]Conversion, error) {
	if len(list) == 0 {
		return nil, errors.New("the operation names no resources")
	}
	if err := Validate(list); err != nil {
		return nil, err
	}
	out := make([]Conversion, 0, len(list))
	for _, p := range list {
		r, err := FromProto([]*mesosv1.Resource{p})
		if err != nil {
			return nil, err
		}
		if r.IsEmpty() {
			return nil, fmt.Errorf("resource '%s' of the operation is empty", p.GetName())
		}
		c, err := f(r)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func reserveConversions(op *mesosv1.Offer_Operation_Reserve) ([]Conversion, error) {
	if len(op.GetSource()) > 0 {
		source, err := FromProto(op.GetSource())
		if err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
		target, err := FromProto(op.GetResources())
		if err != nil {
			return nil, err
		}
		if !source.ToUnreserved().Unallocate().Equal(target.ToUnreserved().Unallocate()) {
			return nil, errors.New("`source` and `resources` of a reservation must differ in nothing but their reservations")
		}
		return []Conversion{{Consumed: source, Converted: target}}, nil
	}
	return eachResource(op.GetResources(), func(r Resources) (Conversion, error) {
		for x := range r.All() {
			if !x.IsDynamicallyReserved() {
				return Conversion{}, fmt.Errorf("%s is not dynamically reserved", r)
			}
			if x.IsPersistentVolume() {
				return Conversion{}, fmt.Errorf("%s is a persistent volume, which can't be reserved", r)
			}
		}
		return Conversion{Consumed: r.PopReservation(), Converted: r}, nil
	})
}

func requireVolume(r Resources) error {
	for x := range r.All() {
		if !x.IsPersistentVolume() {
			return fmt.Errorf("%s is not a persistent volume", r)
		}
		if x.Disk().GetVolume() == nil {
			return fmt.Errorf("persistent volume %s has no `volume`", r)
		}
	}
	return nil
}

// withoutPersistence returns the disk that a volume is made of: no persistence, no volume, not shared; its source stays.
func (r Resources) withoutPersistence() Resources {
	return r.rekind(func(k kind) kind {
		k.shared = false
		if k.disk == nil {
			return k
		}
		if k.disk.Source == nil {
			k.disk = nil
			return k
		}
		k.disk = &mesosv1.Resource_DiskInfo{Source: k.disk.Source}
		return k
	})
}

func growConversion(op *mesosv1.Offer_Operation_GrowVolume) ([]Conversion, error) {
	volume, err := resizable(op.GetVolume())
	if err != nil {
		return nil, err
	}
	addition, err := FromProto([]*mesosv1.Resource{op.GetAddition()})
	if err != nil {
		return nil, fmt.Errorf("addition: %w", err)
	}
	if addition.IsEmpty() {
		return nil, errors.New("the addition to a volume must be greater than zero")
	}
	if !sameButAmount(volume.withoutPersistence(), addition) {
		return nil, fmt.Errorf("%s can't be grown by %s: they are not of the same disk", volume, addition)
	}
	grown := volume.resized(volume.entries[0].scalar + addition.entries[0].scalar)
	return []Conversion{{Consumed: volume.Add(addition), Converted: grown}}, nil
}

func shrinkConversion(op *mesosv1.Offer_Operation_ShrinkVolume) ([]Conversion, error) {
	volume, err := resizable(op.GetVolume())
	if err != nil {
		return nil, err
	}
	amount, err := AmountOf(op.GetSubtract().GetValue())
	if err != nil {
		return nil, fmt.Errorf("subtract: %w", err)
	}
	if amount <= 0 || amount >= volume.entries[0].scalar {
		return nil, errors.New("a volume can be shrunk by more than zero and less than its size")
	}
	freed := volume.withoutPersistence().resized(amount)
	shrunk := volume.resized(volume.entries[0].scalar - amount)
	return []Conversion{{Consumed: volume, Converted: shrunk.Add(freed)}}, nil
}

// resizable reads the volume of GROW_VOLUME and SHRINK_VOLUME: persistent, not shared, on the root disk or a PATH disk.
func resizable(p *mesosv1.Resource) (Resources, error) {
	r, err := FromProto([]*mesosv1.Resource{p})
	if err != nil {
		return Resources{}, fmt.Errorf("volume: %w", err)
	}
	if len(r.entries) != 1 {
		return Resources{}, errors.New("the volume is empty")
	}
	if err := requireVolume(r); err != nil {
		return Resources{}, err
	}
	e := &r.entries[0]
	switch t := e.kind.disk.GetSource().GetType(); {
	case e.kind.shared:
		return Resources{}, errors.New("a shared persistent volume can't be resized")
	case e.kind.disk.Source != nil && t != mesosv1.Resource_DiskInfo_Source_PATH:
		return Resources{}, fmt.Errorf("a persistent volume on a %s disk can't be resized", t)
	}
	return r, nil
}

func sameButAmount(a, b Resources) bool {
	return len(a.entries) == 1 && len(b.entries) == 1 && !b.entries[0].kind.whole && compare(&a.entries[0], &b.entries[0]) == 0
}

// resized returns the only entry of r with another amount.
func (r Resources) resized(a Amount) Resources {
	e := r.entries[0]
	e.scalar = a
	if e.kind.whole {
		e.kind = e.kind.withValue(a, e.list)
	}
	return Resources{[]entry{e}}
}

// Unallocated returns the same conversion of resources without allocation: what an operation does to an agent's total.
func (c Conversion) Unallocated() Conversion {
	c.Consumed, c.Converted = c.Consumed.Unallocate(), c.Converted.Unallocate()
	return c
}
