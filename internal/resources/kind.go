package resources

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

type valueType uint8

const (
	typeScalar valueType = iota
	typeRanges
	typeSet
)

// kind is everything that tells one resource from another except its value and allocation role. A kind is made once and
// never changes, so entries share it by pointer; two kinds with the same key are the same.
type kind struct {
	name      string
	rank      uint8 // order of names: the well-known ones first
	typ       valueType
	revocable bool
	shared    bool
	whole     bool // can't be divided or merged: held as copies of one value, which is then part of the key

	reservations []*mesosv1.Resource_ReservationInfo // the stack, outermost first; never changed
	disk         *mesosv1.Resource_DiskInfo          // never changed
	provider     string
	hasProvider  bool

	key string // encodes all the fields above but the name; "" for plain unreserved scalars
}

// Names whose place in order and arithmetic is fixed.
const (
	CPUs  = "cpus"
	GPUs  = "gpus"
	Mem   = "mem"
	Disk  = "disk"
	Ports = "ports"
)

func rankOf(name string) uint8 {
	switch name {
	case CPUs:
		return 0
	case GPUs:
		return 1
	case Mem:
		return 2
	case Disk:
		return 3
	case Ports:
		return 4
	}
	return 5
}

// The kinds of nearly every entry of nearly every cluster; sharing them makes comparison a pointer's.
var (
	plainCPUs  = newKind(kind{name: CPUs})
	plainGPUs  = newKind(kind{name: GPUs})
	plainMem   = newKind(kind{name: Mem})
	plainDisk  = newKind(kind{name: Disk})
	plainPorts = newKind(kind{name: Ports, typ: typeRanges})
)

func plainKind(name string, typ valueType) *kind {
	if typ == typeScalar {
		switch name {
		case CPUs:
			return plainCPUs
		case GPUs:
			return plainGPUs
		case Mem:
			return plainMem
		case Disk:
			return plainDisk
		}
	}
	if typ == typeRanges && name == Ports {
		return plainPorts
	}
	return newKind(kind{name: name, typ: typ})
}

// newKind completes a kind. For a whole one the value is added to the key by withValue.
func newKind(k kind) *kind {
	k.rank = rankOf(k.name)
	k.whole = k.shared || indivisible(k.disk)
	k.key = k.encode()
	return &k
}

// indivisible says which disks can't be split: persistent volumes, MOUNT and BLOCK disks, RAW disks that have an id
// (facts: Mesos resources.cpp, addable and subtractable).
func indivisible(d *mesosv1.Resource_DiskInfo) bool {
	if d == nil {
		return false
	}
	if d.Persistence != nil {
		return true
	}
	switch d.GetSource().GetType() {
	case mesosv1.Resource_DiskInfo_Source_MOUNT, mesosv1.Resource_DiskInfo_Source_BLOCK:
		return true
	case mesosv1.Resource_DiskInfo_Source_RAW:
		return d.Source.Id != nil
	}
	return false
}

// withValue returns the kind of a whole entry of this value: whole entries are equal only when their values are.
func (k *kind) withValue(v Amount, l *list) *kind {
	c := *k
	b := []byte(k.encode())
	b = binary.AppendUvarint(b, uint64(v))
	if l != nil {
		b = append(append(b, l.ranges.String()...), formatSet(l.set)...)
	}
	c.key = string(b)
	return &c
}

func (k *kind) encode() string {
	if k.typ == typeScalar && !k.revocable && !k.shared && len(k.reservations) == 0 && k.disk == nil && !k.hasProvider {
		return ""
	}
	var flags byte
	for i, set := range []bool{k.revocable, k.shared, k.disk != nil, k.hasProvider} {
		if set {
			flags |= 1 << i
		}
	}
	b := []byte{byte(k.typ), flags, byte(min(len(k.reservations), math.MaxUint8))}
	for _, r := range k.reservations {
		b = append(b, byte(r.GetType()))
		b = appendString(b, r.GetRole())
		b = appendOptional(b, r.Principal)
		b = appendLabels(b, r.Labels)
	}
	if k.hasProvider {
		b = appendString(b, k.provider)
	}
	if k.disk != nil {
		b = appendDisk(b, k.disk)
	}
	return string(b)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendOptional(b []byte, s *string) []byte {
	if s == nil {
		return append(b, 0)
	}
	return appendString(append(b, 1), *s)
}

// appendLabels encodes labels without regard to their order, as Mesos compares them.
func appendLabels(b []byte, l *mesosv1.Labels) []byte {
	if l == nil {
		return append(b, 0)
	}
	parts := make([]string, 0, len(l.Labels))
	for _, label := range l.Labels {
		parts = append(parts, string(appendOptional(appendString(nil, label.GetKey()), label.Value)))
	}
	slices.Sort(parts)
	return appendString(append(b, 1), strings.Join(parts, ""))
}

// appendDisk leaves out the volume, which says how the disk is used and not what it is, and the principal of the
// persistence: Mesos' comparison ignores both.
func appendDisk(b []byte, d *mesosv1.Resource_DiskInfo) []byte {
	if p := d.Persistence; p != nil {
		b = appendString(append(b, 1), p.GetId())
	} else {
		b = append(b, 0)
	}
	s := d.Source
	if s == nil {
		return append(b, 0)
	}
	b = append(b, 1, byte(s.GetType()))
	b = appendOptional(b, s.Id)
	b = appendOptional(b, s.Profile)
	b = appendOptional(b, s.Vendor)
	b = appendLabels(b, s.Metadata)
	if s.Path != nil {
		b = appendOptional(append(b, 1), s.Path.Root)
	} else {
		b = append(b, 0)
	}
	if s.Mount != nil {
		return appendOptional(append(b, 1), s.Mount.Root)
	}
	return append(b, 0)
}

// compareKinds orders kinds: well-known names first, then by name, then plain before special.
func compareKinds(a, b *kind) int {
	if a == b {
		return 0
	}
	if a.rank != b.rank {
		return cmp.Compare(a.rank, b.rank)
	}
	if a.rank == 5 {
		if c := strings.Compare(a.name, b.name); c != 0 {
			return c
		}
	}
	return strings.Compare(a.key, b.key)
}

// role returns the role that the resource is reserved to, the innermost of the stack, or "" when unreserved.
func (k *kind) role() string {
	if len(k.reservations) == 0 {
		return ""
	}
	return k.reservations[len(k.reservations)-1].GetRole()
}

func (k *kind) persistent() bool { return k.disk != nil && k.disk.Persistence != nil }
