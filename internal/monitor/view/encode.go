package view

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// The wire form is docs/reference/monitor-api.md 3.1: columns, written by hand because a picture of ten thousand nodes is
// written often and must not cost more than the drawing of it.

const hexDigits = "0123456789abcdef"

// appendString writes a JSON string. What could end a script element, and what JavaScript takes for line ends, is escaped.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= 0x20 && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&' && c != 0x7f {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || r == '\u2028' || r == '\u2029' {
			b = append(b, s[start:i]...)
			b = append(b, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
			start = i + size
		}
		i += size
	}
	return append(append(b, s[start:]...), '"')
}

// appendNumber writes four digits of a number, or null.
func appendNumber(b []byte, v float32) []byte {
	f := float64(v)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(b, "null"...)
	}
	if f == math.Trunc(f) && math.Abs(f) < 1e15 {
		return strconv.AppendInt(b, int64(f), 10)
	}
	if math.Abs(f) >= 1000 && math.Abs(f) < 1e15 {
		return strconv.AppendInt(b, int64(math.Round(f)), 10)
	}
	return strconv.AppendFloat(b, f, 'g', 4, 64)
}

// column writes `"name":[…],`.
func column[T any](b []byte, name string, list []T, each func([]byte, T) []byte) []byte {
	b = append(append(append(b, '"'), name...), `":[`...)
	for i, x := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = each(b, x)
	}
	return append(b, ']', ',')
}

func appendUint(b []byte, n uint32) []byte { return strconv.AppendUint(b, uint64(n), 10) }

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, '1')
	}
	return append(b, '0')
}

func appendNodes(b []byte, list []*node) []byte {
	b = append(b, '{')
	b = column(b, "h", list, func(b []byte, n *node) []byte { return appendUint(b, n.h) })
	b = column(b, "id", list, func(b []byte, n *node) []byte { return appendString(b, n.id) })
	b = column(b, "label", list, func(b []byte, n *node) []byte { return appendString(b, n.row.label) })
	b = column(b, "minor", list, func(b []byte, n *node) []byte { return appendString(b, n.row.minor) })
	b = column(b, "kind", list, func(b []byte, n *node) []byte { return appendString(b, n.row.kind) })
	b = column(b, "shape", list, func(b []byte, n *node) []byte { return appendString(b, n.row.shape) })
	b = column(b, "n", list, func(b []byte, n *node) []byte { return strconv.AppendInt(b, int64(n.row.n), 10) })
	b = column(b, "state", list, func(b []byte, n *node) []byte { return appendString(b, n.row.state) })
	b = column(b, "health", list, func(b []byte, n *node) []byte { return appendUint(b, uint32(n.row.health)) })
	b = column(b, "reason", list, func(b []byte, n *node) []byte { return appendString(b, n.row.reason) })
	b = column(b, "box", list, func(b []byte, n *node) []byte { return appendUint(b, n.row.box) })
	b = column(b, "x", list, func(b []byte, n *node) []byte { return strconv.AppendInt(b, int64(n.x), 10) })
	b = column(b, "y", list, func(b []byte, n *node) []byte { return strconv.AppendInt(b, int64(n.y), 10) })
	b = column(b, "m", list, func(b []byte, n *node) []byte { return appendNumber(b, n.m) })
	b = column(b, "z", list, func(b []byte, n *node) []byte { return appendNumber(b, n.z) })
	b = column(b, "pseudo", list, func(b []byte, n *node) []byte { return appendBool(b, n.row.pseudo) })
	b = column(b, "hit", list, func(b []byte, n *node) []byte { return appendBool(b, n.row.hit) })
	b[len(b)-1] = '}'
	return b
}

func appendEdges(b []byte, list []*edge) []byte {
	b = append(b, '{')
	b = column(b, "h", list, func(b []byte, x *edge) []byte { return appendUint(b, x.h) })
	b = column(b, "s", list, func(b []byte, x *edge) []byte { return appendUint(b, x.src.h) })
	b = column(b, "d", list, func(b []byte, x *edge) []byte { return appendUint(b, x.dst.h) })
	b = column(b, "n", list, func(b []byte, x *edge) []byte { return appendUint(b, x.last.n) })
	b = column(b, "port", list, func(b []byte, x *edge) []byte { return appendUint(b, uint32(x.last.port)) })
	b = column(b, "proto", list, func(b []byte, x *edge) []byte { return appendString(b, protoNames[x.last.proto]) })
	b = column(b, "tx", list, func(b []byte, x *edge) []byte { return appendNumber(b, x.last.tx) })
	b = column(b, "rx", list, func(b []byte, x *edge) []byte { return appendNumber(b, x.last.rx) })
	b = column(b, "fail", list, func(b []byte, x *edge) []byte { return appendNumber(b, x.last.fail) })
	b = column(b, "rtt", list, func(b []byte, x *edge) []byte {
		if x.last.rtt < 0 {
			return append(b, "null"...)
		}
		return appendNumber(b, x.last.rtt)
	})
	b = column(b, "ev", list, func(b []byte, x *edge) []byte { return appendString(b, evidenceNames[x.last.ev]) })
	b[len(b)-1] = '}'
	return b
}

func appendBoxes(b []byte, list []*box) []byte {
	b = append(b, '[')
	for i, x := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendUint(append(b, `{"h":`...), x.h), `,"id":`...)
		b = append(appendString(b, x.id), `,"label":`...)
		b = append(appendString(b, x.label), `,"n":`...)
		b = strconv.AppendInt(b, int64(x.n), 10)
		for _, f := range []struct {
			name string
			v    int32
		}{{"x", x.x}, {"y", x.y}, {"w", x.w}, {"h_", x.l}} {
			b = append(append(append(b, `,"`...), f.name...), `":`...)
			b = strconv.AppendInt(b, int64(f.v), 10)
		}
		b = append(appendUint(append(b, `,"health":`...), uint32(x.health)), '}')
	}
	return append(b, ']')
}

func (t Totals) append(b []byte) []byte {
	b = append(b, '{')
	for _, f := range []struct {
		name string
		n    int
	}{{"nodes", t.Nodes}, {"edges", t.Edges}, {"hidden_nodes", t.HiddenNodes}, {"hidden_edges", t.HiddenEdges}, {"ok", t.OK}, {"warn", t.Warn}, {"crit", t.Crit}, {"stale", t.Stale}} {
		b = append(append(append(b, '"'), f.name...), `":`...)
		b = append(strconv.AppendInt(b, int64(f.n), 10), ',')
	}
	b[len(b)-1] = '}'
	return b
}

// Emit tells what has changed since the last time, as the body of a diff message: everything after `"sub":…,`. It is nil
// when nothing has, or when the picture is a raw one. The revision is one more than before.
func (v *View) Emit(atMs int64) []byte {
	d := v.step()
	if d.Empty() && !v.anew {
		return nil
	}
	v.anew = false
	v.rev++
	if v.p.Raw {
		return nil
	}
	b := make([]byte, 0, 256+200*len(d.nodes)+100*len(d.edges)+12*len(d.values))
	b = append(strconv.AppendUint(append(b, `"rev":`...), v.rev, 10), `,"at":`...)
	b = strconv.AppendInt(b, atMs, 10)
	if len(d.nodes) > 0 {
		b = appendNodes(append(b, `,"nodes":`...), d.nodes)
	}
	if len(d.edges) > 0 {
		b = appendEdges(append(b, `,"edges":`...), d.edges)
	}
	if len(d.gone)+len(d.goneE) > 0 {
		b = append(b, `,"gone":{`...)
		b = column(b, "nodes", d.gone, appendUint)
		b = column(b, "edges", d.goneE, appendUint)
		b[len(b)-1] = '}'
	}
	if len(d.values) > 0 {
		b = append(b, `,"values":{`...)
		b = column(b, "h", d.values, func(b []byte, n *node) []byte { return appendUint(b, n.h) })
		b = column(b, "m", d.values, func(b []byte, n *node) []byte { return appendNumber(b, n.m) })
		b = column(b, "z", d.values, func(b []byte, n *node) []byte { return appendNumber(b, n.z) })
		b[len(b)-1] = '}'
	}
	if len(d.moved) > 0 {
		b = append(b, `,"moved":{`...)
		b = column(b, "h", d.moved, func(b []byte, n *node) []byte { return appendUint(b, n.h) })
		b = column(b, "x", d.moved, func(b []byte, n *node) []byte { return strconv.AppendInt(b, int64(n.x), 10) })
		b = column(b, "y", d.moved, func(b []byte, n *node) []byte { return strconv.AppendInt(b, int64(n.y), 10) })
		b[len(b)-1] = '}'
	}
	if d.boxes != nil {
		b = append(append(b, `,"boxes":`...), d.boxes...)
	}
	b = d.totals.append(append(b, `,"totals":`...))
	return append(b, '}')
}

// Frame gives the whole picture as of the last Emit, as the body of a frame message: everything after `"sub":…,`.
func (v *View) Frame(atMs int64) []byte {
	nodes := make([]*node, 0, len(v.nodes))
	for _, n := range v.nodes {
		if n.shown {
			nodes = append(nodes, n)
		}
	}
	edges := make([]*edge, 0, len(v.edges))
	for _, x := range v.edges {
		if x.shown {
			edges = append(edges, x)
		}
	}
	slices.SortFunc(nodes, func(a, b *node) int { return cmp.Compare(a.h, b.h) })
	slices.SortFunc(edges, func(a, b *edge) int { return cmp.Compare(a.h, b.h) })
	edges = edges[:min(len(edges), maxEdges)]
	b := make([]byte, 0, 512+200*len(nodes)+90*len(edges))
	b = appendString(append(b, `"view":`...), v.p.View)
	b = strconv.AppendUint(append(b, `,"rev":`...), v.rev, 10)
	b = strconv.AppendInt(append(b, `,"at":`...), atMs, 10)
	if v.at == 0 {
		b = append(b, `,"live":true`...)
	} else {
		b = append(b, `,"live":false`...)
	}
	b = appendString(append(b, `,"group":`...), v.group)
	b = appendString(append(b, `,"layout":`...), v.arranged)
	b = appendString(append(b, `,"metric":`...), v.p.Metric)
	b = appendString(append(b, `,"size":`...), v.p.Size)
	var shown map[*node]bool
	if v.p.Focus != "" {
		shown = map[*node]bool{}
	}
	b = v.totals(shown).append(append(b, `,"totals":`...))
	b = appendNodes(append(b, `,"nodes":`...), nodes)
	b = appendEdges(append(b, `,"edges":`...), edges)
	boxes := v.lastBoxes
	if boxes == "" {
		boxes = "[]"
	}
	b = append(append(b, `,"boxes":`...), boxes...)
	return append(b, '}')
}

// Rev is the revision of the last Emit.
func (v *View) Rev() uint64 { return v.rev }

// Reset makes the next revisions go on from one, for a view that was built again.
func (v *View) Reset(rev uint64) { v.rev = rev }
