package scope

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Limits of one report. What is larger is refused.
type Limits struct {
	Depth  int // of values within values
	Values int // scalars, and members and elements, over the whole report: they are what takes memory
	Text   int // bytes of one text
	Nodes  int // over all topologies
}

// DefaultLimits are for the report of one host.
func DefaultLimits() Limits {
	return Limits{Depth: 32, Values: 1_500_000, Text: 64 << 10, Nodes: 100_000}
}

// source is one of the two ways in which reports are written. Every method takes one value; null is no value of its type.
type source interface {
	// object calls member with each name; member takes the value.
	object(member func(key string) error) error
	// loose is object for where something else may stand, which is skipped.
	loose(member func(key string) error) error
	array(element func() error) error
	// text takes text, or a number or truth that somebody wrote without quotes.
	text() (string, error)
	number() (float64, error)
	truth() (bool, error)
	when() (time.Time, error)
	skip() error
}

var errLimit = errors.New("more than is taken")

func limitError(what string, limit int) error {
	return fmt.Errorf("%s: at most %d: %w", what, limit, errLimit)
}

// TooLarge reports whether decoding failed because of a limit.
func TooLarge(err error) bool { return errors.Is(err, errLimit) }

// DecodeMsgpack reads a report as Scope's probes write it.
func DecodeMsgpack(b []byte, l Limits) (*Report, error) {
	m := &msgpack{in: b, limits: l}
	r, err := decode(m, l)
	if err != nil {
		return nil, fmt.Errorf("msgpack, near byte %d of %d: %w", m.at, len(b), err)
	}
	if m.at != len(b) {
		return nil, fmt.Errorf("msgpack: %d bytes follow the report", len(b)-m.at)
	}
	return r, nil
}

// DecodeJSON reads a report that is written as JSON.
func DecodeJSON(b []byte, l Limits) (*Report, error) {
	j := newJSONSource(b, l)
	r, err := decode(j, l)
	if err == nil {
		err = j.end()
	}
	if err != nil {
		return nil, fmt.Errorf("JSON, near byte %d of %d: %w", j.dec.InputOffset(), len(b), err)
	}
	return r, nil
}

// decoder reads the types; in is the way in which they are written.
type decoder struct {
	in     source
	nodes  int
	limits Limits
}

func decode(in source, l Limits) (*Report, error) {
	d := &decoder{in: in, limits: l}
	r := &Report{Topologies: map[string]*Topology{}}
	err := in.object(func(key string) (err error) {
		if name, ok := canonical(key); ok {
			r.Topologies[name], err = d.topology()
			return err
		}
		switch strings.ToLower(key) {
		case "ts":
			r.TS, err = in.when()
		case "dns":
			r.DNS, err = entries(in, d.dns)
		case "nodes": // so called by probes of version 1.11.6
			var dns map[string]DNSRecord
			if dns, err = entries(in, d.dns); len(dns) > 0 && len(r.DNS) == 0 {
				r.DNS = dns
			}
		case "plugins":
			r.Plugins, err = elements(in, d.plugin)
		case "window":
			var n float64
			n, err = in.number()
			r.Window = time.Duration(n)
		case "shortcut":
			r.Shortcut, err = in.truth()
		case "id":
			r.ID, err = in.text()
		default:
			err = in.skip()
		}
		return err
	})
	return r, err
}

// entries reads an object as a map.
func entries[T any](in source, value func() (T, error)) (map[string]T, error) {
	var out map[string]T
	err := in.object(func(key string) error {
		v, err := value()
		if err != nil {
			return err
		}
		if out == nil {
			out = map[string]T{}
		}
		out[key] = v
		return nil
	})
	return out, err
}

// elements reads an array as a list.
func elements[T any](in source, value func() (T, error)) ([]T, error) {
	var out []T
	err := in.array(func() error {
		v, err := value()
		if err == nil {
			out = append(out, v)
		}
		return err
	})
	return out, err
}

func (d *decoder) texts() ([]string, error) { return elements(d.in, d.in.text) }

func (d *decoder) topology() (*Topology, error) {
	t := &Topology{}
	err := d.in.object(func(key string) (err error) {
		switch strings.ToLower(key) {
		case "shape":
			t.Shape, err = d.in.text()
		case "tag":
			t.Tag, err = d.in.text()
		case "label":
			t.Label, err = d.in.text()
		case "label_plural":
			t.LabelPlural, err = d.in.text()
		case "nodes":
			t.Nodes, err = entries(d.in, d.node)
		case "controls":
			t.Controls, err = entries(d.in, d.control)
		case "metadata_templates":
			t.MetadataTemplates, err = entries(d.in, d.metadataTemplate)
		case "metric_templates":
			t.MetricTemplates, err = entries(d.in, d.metricTemplate)
		case "table_templates":
			t.TableTemplates, err = entries(d.in, d.tableTemplate)
		default:
			err = d.in.skip()
		}
		return err
	})
	for id, n := range t.Nodes {
		n.ID = id // which an unchanged node's own may be left out
	}
	return t, err
}

func (d *decoder) node() (*Node, error) {
	if d.nodes++; d.nodes > d.limits.Nodes {
		return nil, limitError("nodes", d.limits.Nodes)
	}
	n := &Node{}
	var live []string
	var told bool
	var at time.Time
	counters := map[string]float64{}
	err := d.in.object(func(key string) (err error) {
		switch strings.ToLower(key) {
		case "topology":
			n.Topology, err = d.in.text()
		case "sets":
			n.Sets, err = entries(d.in, d.texts)
		case "adjacency":
			n.Adjacency, err = d.texts()
		case "latest":
			n.Latest, err = entries(d.in, d.latest)
		case "metrics":
			n.Metrics, err = entries(d.in, d.metric)
		case "parents":
			n.Parents, err = entries(d.in, d.texts)
		case "latestcontrols": // of versions before 1.11
			told = true
			err = d.in.object(func(id string) error {
				dead, when, err := d.latestControl()
				if !dead {
					live = append(live, id)
				}
				if when.After(at) {
					at = when
				}
				return err
			})
		case "controls": // an older form still, {"timestamp":…, "controls":[ids]}; what is no object offers nothing
			told = true
			err = d.in.loose(func(key string) (err error) {
				switch strings.ToLower(key) {
				case "controls":
					var ids []string
					ids, err = d.texts()
					live = append(live, ids...)
				case "timestamp":
					at, err = d.in.when()
				default:
					err = d.in.skip()
				}
				return err
			})
		case "counters":
			counters, err = entries(d.in, d.in.number)
		default:
			err = d.in.skip()
		}
		return err
	})
	if n.Latest == nil && (told || len(counters) > 0) {
		n.Latest = map[string]Latest{}
	}
	if told { // a sender may speak both ways
		newer := n.Latest[ActiveControls]
		if newer.Timestamp.After(at) {
			at = newer.Timestamp
		}
		n.Latest[ActiveControls] = Latest{at, strings.Join(append(live, n.Offered()...), ";")}
	}
	for k, v := range counters {
		n.Latest[CounterPrefix+k] = Latest{Value: strconv.FormatFloat(v, 'f', -1, 64)}
	}
	return n, err
}

func (d *decoder) latest() (l Latest, err error) {
	err = d.in.object(func(key string) (err error) {
		switch strings.ToLower(key) {
		case "timestamp":
			l.Timestamp, err = d.in.when()
		case "value":
			l.Value, err = d.in.text()
		default:
			err = d.in.skip()
		}
		return err
	})
	return l, err
}

func (d *decoder) latestControl() (dead bool, at time.Time, err error) {
	err = d.in.object(func(key string) (err error) {
		switch strings.ToLower(key) {
		case "timestamp":
			at, err = d.in.when()
		case "value":
			err = d.in.object(func(key string) (err error) {
				if key == "dead" {
					dead, err = d.in.truth()
				} else {
					err = d.in.skip()
				}
				return err
			})
		default:
			err = d.in.skip()
		}
		return err
	})
	return dead, at, err
}

func (d *decoder) metric() (m Metric, err error) {
	err = d.in.object(func(key string) (err error) {
		switch strings.ToLower(key) {
		case "samples":
			m.Samples, err = elements(d.in, d.sample)
		case "min":
			m.Min, err = d.in.number()
		case "max":
			m.Max, err = d.in.number()
		default:
			err = d.in.skip()
		}
		return err
	})
	return m, err
}

func (d *decoder) sample() (s Sample, err error) {
	err = d.in.object(func(key string) (err error) {
		switch strings.ToLower(key) {
		case "date":
			s.Timestamp, err = d.in.when()
		case "value":
			s.Value, err = d.in.number()
		default:
			err = d.in.skip()
		}
		return err
	})
	return s, err
}

// fields reads an object into the places that are named.
func (d *decoder) fields(texts map[string]*string, numbers map[string]*float64, others map[string]func() error) error {
	return d.in.object(func(key string) (err error) {
		key = strings.ToLower(key)
		switch {
		case texts[key] != nil:
			*texts[key], err = d.in.text()
		case numbers[key] != nil:
			*numbers[key], err = d.in.number()
		case others[key] != nil:
			err = others[key]()
		default:
			err = d.in.skip()
		}
		return err
	})
}

func (d *decoder) control() (c Control, err error) {
	err = d.fields(map[string]*string{"id": &c.ID, "human": &c.Human, "icon": &c.Icon, "confirmation": &c.Confirmation}, map[string]*float64{"rank": &c.Rank}, nil)
	return c, err
}

func (d *decoder) metadataTemplate() (t MetadataTemplate, err error) {
	err = d.fields(map[string]*string{"id": &t.ID, "label": &t.Label, "datatype": &t.Datatype, "from": &t.From}, map[string]*float64{"truncate": &t.Truncate, "priority": &t.Priority}, nil)
	return t, err
}

func (d *decoder) metricTemplate() (t MetricTemplate, err error) {
	err = d.fields(map[string]*string{"id": &t.ID, "label": &t.Label, "format": &t.Format, "group": &t.Group}, map[string]*float64{"priority": &t.Priority}, nil)
	return t, err
}

func (d *decoder) tableTemplate() (t TableTemplate, err error) {
	err = d.fields(map[string]*string{"id": &t.ID, "label": &t.Label, "prefix": &t.Prefix, "type": &t.Type}, nil, map[string]func() error{
		"columns":   func() (err error) { t.Columns, err = elements(d.in, d.column); return err },
		"fixedrows": func() (err error) { t.FixedRows, err = entries(d.in, d.in.text); return err },
	})
	return t, err
}

func (d *decoder) column() (c Column, err error) {
	err = d.fields(map[string]*string{"id": &c.ID, "label": &c.Label, "datatype": &c.DataType}, nil, nil)
	return c, err
}

func (d *decoder) dns() (r DNSRecord, err error) {
	err = d.fields(nil, nil, map[string]func() error{
		"forward": func() (err error) { r.Forward, err = d.texts(); return err },
		"reverse": func() (err error) { r.Reverse, err = d.texts(); return err },
	})
	return r, err
}

func (d *decoder) plugin() (p PluginSpec, err error) {
	err = d.fields(map[string]*string{"id": &p.ID, "label": &p.Label, "description": &p.Description, "api_version": &p.APIVersion, "status": &p.Status}, nil, map[string]func() error{
		"interfaces": func() (err error) { p.Interfaces, err = d.texts(); return err },
	})
	return p, err
}
