package view

import (
	"strconv"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// Doc lets a query look at an entity. At is 0 for now, or a time of the last hour.
type Doc struct {
	E  *estate.Entity
	At int64
}

// Texts gives what a bare word searches: label, minor, id and the values of labels.
func (d Doc) Texts(yield func(string) bool) {
	e := d.E
	if !yield(e.Label) || !yield(e.ID) || e.Kind != topology.KindHost && !yield(e.Hostname()) {
		return
	}
	for i := range e.Attrs {
		a := &e.Attrs[i]
		if (strings.HasPrefix(a.Key, topology.AttrLabel) || a.Key == topology.AttrImage || a.Key == topology.AttrCmdline) && !yield(a.Value) {
			return
		}
	}
}

// Field gives the values of a field.
func (d Doc) Field(name string, yield func(string) bool) {
	e := d.E
	switch name {
	case "kind":
		yield(e.Kind)
	case "id":
		yield(e.ID)
	case "label", "name":
		yield(e.Label)
	case "state":
		if e.State != "" {
			yield(e.State)
		}
	case "health":
		yield(e.Health.String())
	case "reason":
		for _, r := range e.Reasons {
			if !yield(r.Code) || !yield(r.Text) {
				return
			}
		}
	case "host":
		if h := e.Hostname(); h != "" {
			yield(h)
		}
	case "image", "app", "task", "framework", "pod", "service", "agent", "controller", "namespace", "container":
		for _, id := range e.ParentIDs(name) {
			_, rest, _ := strings.Cut(id, ";")
			if !yield(rest) {
				return
			}
		}
		if v := e.Attr(name); v != "" {
			yield(v)
		}
		if name == "pod" {
			if v := e.Attr("pod_name"); v != "" {
				yield(v)
			}
		}
	case "ip":
		for a := range strings.FieldsSeq(e.Attr(topology.AttrAddrs)) {
			if !yield(a) {
				return
			}
		}
	case "port":
		ports(e, portDepth, yield)
	default:
		if v := e.Attr(name); v != "" {
			yield(v)
			return
		}
		for i := range e.Attrs {
			a := &e.Attrs[i]
			if len(a.Key) == len(name)+len(topology.AttrLabel) && strings.HasPrefix(a.Key, topology.AttrLabel) && strings.EqualFold(a.Key[len(topology.AttrLabel):], name) {
				yield(a.Value)
				return
			}
			if len(a.Key) == len(name) && strings.EqualFold(a.Key, name) {
				yield(a.Value)
				return
			}
		}
	}
}

// byEdges are the fields whose values are an entity's connections.
var byEdges = []string{"port", "rtt"}

// portDepth is how far inside ports are looked for: a pod's containers and their processes.
const portDepth = 2

// ports gives the ports on which an entity is called, or what is in it: of a container those are its processes'.
func ports(e *estate.Entity, depth int, yield func(string) bool) (more bool) {
	more = true
	e.Edges(func(b *estate.Edge) bool {
		more = b.Dst != e || yield(strconv.Itoa(int(b.Port)))
		return more
	})
	if more && depth > 0 {
		e.Children(func(c *estate.Entity) bool {
			more = ports(c, depth-1, yield)
			return more
		})
	}
	return more
}

// Number gives a metric, the entity's age, or an attribute that is a number.
func (d Doc) Number(name string) (float64, bool) {
	e := d.E
	if d.At == 0 {
		if v, ok := e.Number(name); ok {
			return v, true
		}
	} else if v, ok := e.NumberAt(name, d.At); ok {
		return v, true
	}
	switch name {
	case "uptime", "age":
		if e.StartedMs == 0 {
			return 0, false
		}
		now := d.At
		if now == 0 {
			now = time.Now().UnixMilli()
		}
		return float64(now - e.StartedMs), true
	case "rtt":
		worst, found := 0.0, false
		e.Edges(func(b *estate.Edge) bool {
			if b.RTTMicros > 0 {
				worst, found = max(worst, float64(b.RTTMicros)/1000), true
			}
			return true
		})
		return worst, found
	}
	v := e.Attr(name)
	if v == "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(v, 64)
	return n, err == nil
}
