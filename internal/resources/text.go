package resources

import (
	"strconv"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// String prints Mesos' text form, entries joined by "; ", for messages and logs:
// cpus(allocated: web)(reservations: [(DYNAMIC,web,alice)]):4; ports:[31000-32000].
func (r Resources) String() string {
	if len(r.entries) == 0 {
		return "{}"
	}
	var b strings.Builder
	for i := range r.entries {
		if i > 0 {
			b.WriteString("; ")
		}
		r.entries[i].format(&b)
	}
	return b.String()
}

func (e *entry) format(b *strings.Builder) {
	k := e.kind
	b.WriteString(k.name)
	if e.alloc != "" {
		b.WriteString("(allocated: " + e.alloc + ")")
	}
	if len(k.reservations) > 0 {
		b.WriteString("(reservations: [")
		for i, r := range k.reservations {
			if i > 0 {
				b.WriteByte(',')
			}
			formatReservation(b, r)
		}
		b.WriteString("])")
	}
	if k.disk != nil {
		formatDisk(b, k.disk)
	}
	if k.revocable {
		b.WriteString("{REV}")
	}
	if k.shared {
		b.WriteString("<SHARED>")
	}
	b.WriteByte(':')
	b.WriteString(e.valueText())
	if k.whole && e.copies > 1 {
		b.WriteString("<" + strconv.FormatInt(e.copies, 10) + ">")
	}
}

func (e *entry) valueText() string {
	switch e.kind.typ {
	case typeScalar:
		return e.scalar.String()
	case typeRanges:
		return e.list.ranges.String()
	default:
		return formatSet(e.list.set)
	}
}

func formatReservation(b *strings.Builder, r *mesosv1.Resource_ReservationInfo) {
	b.WriteByte('(')
	b.WriteString(r.GetType().String())
	b.WriteByte(',')
	b.WriteString(r.GetRole())
	if r.Principal != nil {
		b.WriteString("," + r.GetPrincipal())
	}
	if r.Labels != nil {
		b.WriteString(",{")
		for i, l := range r.Labels.Labels {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(l.GetKey())
			if l.Value != nil {
				b.WriteString(": " + l.GetValue())
			}
		}
		b.WriteByte('}')
	}
	b.WriteByte(')')
}

func formatDisk(b *strings.Builder, d *mesosv1.Resource_DiskInfo) {
	b.WriteByte('[')
	if s := d.Source; s != nil {
		b.WriteString(s.GetType().String())
		if s.Id != nil || s.Profile != nil {
			b.WriteString("(" + s.GetVendor() + "," + s.GetId() + "," + s.GetProfile() + ")")
		}
		if root := s.GetPath().GetRoot() + s.GetMount().GetRoot(); root != "" {
			b.WriteString(":" + root)
		}
		if d.Persistence != nil {
			b.WriteByte(',')
		}
	}
	if p := d.Persistence; p != nil {
		b.WriteString(p.GetId())
	}
	if v := d.Volume; v != nil {
		b.WriteString(":" + v.GetContainerPath())
	}
	b.WriteByte(']')
}
