package resources

import (
	"fmt"
	"slices"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// MaxEntries bounds the messages in one list of resources.
const MaxEntries = 16384

// FromProto makes a value of messages in either form (reservations, or role and reservation) after validating them. A shared
// resource that is listed several times becomes as many copies. The messages are not kept.
func FromProto(list []*mesosv1.Resource) (Resources, error) {
	if len(list) > MaxEntries {
		return Resources{}, fmt.Errorf("%d resources are more than the limit of %d", len(list), MaxEntries)
	}
	if len(list) == 0 {
		return Resources{}, nil
	}
	entries := make([]entry, 0, len(list))
	for i, p := range list {
		e, err := fromProto(p)
		if err != nil {
			return Resources{}, fmt.Errorf("resource %d (%s): %w", i, p.GetName(), err)
		}
		entries = append(entries, e)
	}
	if err := checkNoOverlap(entries); err != nil {
		return Resources{}, err
	}
	return Resources{canonical(entries)}, nil
}

// FromProtoTrusted is FromProto for messages that an earlier FromProto has seen, such as those of our own registry: what
// can't be understood is left out.
func FromProtoTrusted(list []*mesosv1.Resource) Resources {
	entries := make([]entry, 0, len(list))
	for _, p := range list {
		if e, err := fromProto(p); err == nil {
			entries = append(entries, e)
		}
	}
	return Resources{canonical(entries)}
}

// Validate checks a list of messages as FromProto does.
func Validate(list []*mesosv1.Resource) error {
	_, err := FromProto(list)
	return err
}

// checkNoOverlap refuses the same port or set item twice under one identity, which a sum would hide.
func checkNoOverlap(entries []entry) error {
	n := 0
	for i := range entries {
		if k := entries[i].kind; k.typ != typeScalar && !k.whole {
			n++
		}
	}
	if n < 2 {
		return nil
	}
	lists := make([]*entry, 0, n)
	for i := range entries {
		if k := entries[i].kind; k.typ != typeScalar && !k.whole {
			lists = append(lists, &entries[i])
		}
	}
	slices.SortFunc(lists, compare)
	var sum entry
	for i, e := range lists {
		if i == 0 || compare(lists[i-1], e) != 0 {
			sum = *e
			continue
		}
		before := sum
		sum = sum.plus(e)
		if sum.list.size() != before.list.size()+e.list.size() {
			return fmt.Errorf("resources named '%s' overlap", e.kind.name)
		}
	}
	return nil
}

// size counts the integers or items.
func (l *list) size() uint64 { return l.ranges.Count() + uint64(len(l.set)) }

func fromProto(p *mesosv1.Resource) (entry, error) {
	var e entry
	if err := validate(p); err != nil {
		return e, err
	}
	stack, err := reservationsOf(p)
	if err != nil {
		return e, err
	}
	e.alloc = p.GetAllocationInfo().GetRole()
	typ := typeScalar
	switch p.GetType() {
	case mesosv1.Value_SCALAR:
		if e.scalar, err = AmountOf(p.GetScalar().GetValue()); err != nil {
			return e, err
		}
	case mesosv1.Value_RANGES:
		typ = typeRanges
		if n := len(p.GetRanges().GetRange()); n > maxRanges {
			return e, fmt.Errorf("%d ranges are more than the limit of %d", n, maxRanges)
		}
		in := make([]Range, 0, len(p.GetRanges().GetRange()))
		for _, r := range p.GetRanges().GetRange() {
			in = append(in, Range{r.GetBegin(), r.GetEnd()})
		}
		ranges, err := newRanges(in)
		if err != nil {
			return e, err
		}
		e.list = &list{ranges: ranges}
	case mesosv1.Value_SET:
		typ = typeSet
		set := slices.Clone(p.GetSet().GetItem())
		slices.Sort(set)
		for i := range set {
			if i > 0 && set[i] == set[i-1] {
				return e, fmt.Errorf("duplicate element '%s' in set", set[i])
			}
		}
		e.list = &list{set: set}
	}
	if len(stack) == 0 && p.Disk == nil && p.Revocable == nil && p.Shared == nil && p.ProviderId == nil {
		e.kind = plainKind(p.GetName(), typ)
		return e, nil
	}
	k := kind{
		name: p.GetName(), typ: typ, revocable: p.Revocable != nil, shared: p.Shared != nil,
		reservations: stack,
	}
	if p.Disk != nil {
		k.disk = p.Disk.CloneVT()
	}
	if p.ProviderId != nil {
		k.provider, k.hasProvider = p.ProviderId.GetValue(), true
	}
	e.kind = newKind(k)
	return e.settleNew(), nil
}

// settleNew is settle for an entry that holds nothing yet: an empty whole resource stays without copies, and so is dropped.
func (e entry) settleNew() entry {
	if e.kind.whole && e.scalar == 0 && (e.list == nil || len(e.list.ranges) == 0 && len(e.list.set) == 0) {
		return e
	}
	return e.settle()
}

// reservationsOf reads the reservations of a message in either form as a stack of its own.
func reservationsOf(p *mesosv1.Resource) ([]*mesosv1.Resource_ReservationInfo, error) {
	if len(p.Reservations) > 0 {
		out := make([]*mesosv1.Resource_ReservationInfo, len(p.Reservations))
		for i, r := range p.Reservations {
			out[i] = r.CloneVT()
		}
		return out, nil
	}
	role := p.GetRole()
	if role == AnyRole {
		return nil, nil
	}
	r := &mesosv1.Resource_ReservationInfo{Role: &role}
	if d := p.Reservation; d != nil {
		r.Type = mesosv1.Resource_ReservationInfo_DYNAMIC.Enum()
		r.Principal = d.Principal
		r.Labels = d.Labels.CloneVT()
	} else {
		r.Type = mesosv1.Resource_ReservationInfo_STATIC.Enum()
	}
	return []*mesosv1.Resource_ReservationInfo{r}, nil
}

// Proto returns new messages in post-refinement form: `reservations` set, `role` and `reservation` not. A resource held in
// copies is told once for each copy, except shared ones, which are told once.
func (r Resources) Proto() []*mesosv1.Resource {
	out := make([]*mesosv1.Resource, 0, len(r.entries))
	for i := range r.entries {
		e := &r.entries[i]
		n := int64(1)
		if e.kind.whole && !e.kind.shared {
			n = e.copies
		}
		for range n {
			out = append(out, e.proto())
		}
	}
	return out
}

func (e *entry) proto() *mesosv1.Resource {
	k := e.kind
	name := k.name
	p := &mesosv1.Resource{Name: &name}
	switch k.typ {
	case typeScalar:
		v := e.scalar.Float()
		p.Type = mesosv1.Value_SCALAR.Enum()
		p.Scalar = &mesosv1.Value_Scalar{Value: &v}
	case typeRanges:
		p.Type = mesosv1.Value_RANGES.Enum()
		p.Ranges = &mesosv1.Value_Ranges{Range: make([]*mesosv1.Value_Range, 0, len(e.list.ranges))}
		for _, r := range e.list.ranges {
			p.Ranges.Range = append(p.Ranges.Range, &mesosv1.Value_Range{Begin: &r.Begin, End: &r.End})
		}
	case typeSet:
		p.Type = mesosv1.Value_SET.Enum()
		p.Set = &mesosv1.Value_Set{Item: slices.Clone(e.list.set)}
	}
	if k.hasProvider {
		v := k.provider
		p.ProviderId = &mesosv1.ResourceProviderID{Value: &v}
	}
	if e.alloc != "" {
		v := e.alloc
		p.AllocationInfo = &mesosv1.Resource_AllocationInfo{Role: &v}
	}
	for _, r := range k.reservations {
		p.Reservations = append(p.Reservations, r.CloneVT())
	}
	if k.disk != nil {
		p.Disk = k.disk.CloneVT()
	}
	if k.revocable {
		p.Revocable = &mesosv1.Resource_RevocableInfo{}
	}
	if k.shared {
		p.Shared = &mesosv1.Resource_SharedInfo{}
	}
	return p
}

// ProtoPreRefinement returns new messages in the form for frameworks and agents without RESERVATION_REFINEMENT: `role`
// always set and `reservation` for dynamic reservations. Refined reservations can't be told so and are an error.
func (r Resources) ProtoPreRefinement() ([]*mesosv1.Resource, error) {
	out := r.Proto()
	for _, p := range out {
		switch len(p.Reservations) {
		case 0:
			role := AnyRole
			p.Role = &role
		case 1:
			res := p.Reservations[0]
			role := res.GetRole()
			p.Role = &role
			if res.GetType() == mesosv1.Resource_ReservationInfo_DYNAMIC {
				p.Reservation = &mesosv1.Resource_ReservationInfo{Principal: res.Principal, Labels: res.Labels}
			}
			p.Reservations = nil
		default:
			return nil, fmt.Errorf("%s has a refined reservation, which can't be told to a peer without RESERVATION_REFINEMENT", p.GetName())
		}
	}
	return out, nil
}

// ProtoForEndpoints returns new messages in the form of Mesos' HTTP endpoints (`*_full` fields of /slaves): `reservations`
// and, where the old form can tell it, `role` and `reservation` too (facts: convertResourceFormat, ENDPOINT).
func (r Resources) ProtoForEndpoints() []*mesosv1.Resource {
	out := r.Proto()
	for _, p := range out {
		switch len(p.Reservations) {
		case 0:
			role := AnyRole
			p.Role = &role
		case 1:
			res := p.Reservations[0]
			role := res.GetRole()
			p.Role = &role
			if res.GetType() == mesosv1.Resource_ReservationInfo_DYNAMIC {
				p.Reservation = &mesosv1.Resource_ReservationInfo{Principal: res.Principal, Labels: res.Labels.CloneVT()}
			}
		}
	}
	return out
}
