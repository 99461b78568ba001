package core

import (
	"math"
	"regexp"
	"strconv"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// place is what constraints look at: an agent as an offer describes it.
type place struct {
	host, region, zone string
	attributes         map[string]string
}

func placeOf(o *mesosv1.Offer) place {
	p := place{host: o.GetHostname(), attributes: map[string]string{}}
	if fd := o.GetDomain().GetFaultDomain(); fd != nil {
		p.region, p.zone = fd.GetRegion().GetName(), fd.GetZone().GetName()
	}
	for _, a := range o.GetAttributes() {
		p.attributes[a.GetName()] = renderAttribute(a)
	}
	return p
}

// renderAttribute is an attribute's value as text: scalars in decimal with at most three digits, ranges and sets in Mesos'
// text form.
func renderAttribute(a *mesosv1.Attribute) string {
	switch a.GetType() {
	case mesosv1.Value_SCALAR:
		return decimal(a.GetScalar().GetValue())
	case mesosv1.Value_RANGES:
		var parts []string
		for _, r := range a.GetRanges().GetRange() {
			parts = append(parts, strconv.FormatUint(r.GetBegin(), 10)+"-"+strconv.FormatUint(r.GetEnd(), 10))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case mesosv1.Value_SET:
		return "{" + strings.Join(a.GetSet().GetItem(), ",") + "}"
	}
	return a.GetText().GetValue()
}

func decimal(f float64) string {
	return strconv.FormatFloat(math.Round(f*1000)/1000, 'f', -1, 64)
}

// lookup gives the value of a constraint's field.
func (p place) lookup(field string) (string, bool) {
	switch field {
	case "hostname", "@hostname":
		return p.host, true
	case "@region":
		return p.region, p.region != ""
	case "@zone":
		return p.zone, p.zone != ""
	}
	v, ok := p.attributes[field]
	return v, ok
}

// field is the value of a constraint's field where an instance is.
func (i *Instance) field(name string) string {
	v, _ := place{i.Host, i.Region, i.Zone, i.Attributes}.lookup(name)
	return v
}

// meets reports whether an instance may be placed under a constraint, given those placed already.
func meets(p place, constraint []string, placed []*Instance, target int, patterns *patterns) bool {
	field, op, value := constraint[0], constraint[1], ""
	if len(constraint) > 2 {
		value = constraint[2]
	}
	v, ok := p.lookup(field)
	if !ok {
		return op == "UNLIKE"
	}
	switch op {
	case "UNIQUE":
		for _, i := range placed {
			if i.field(field) == v {
				return false
			}
		}
		return true
	case "CLUSTER":
		if value != "" {
			return v == value
		}
		return len(placed) == 0 || placed[0].field(field) == v
	case "GROUP_BY":
		return groupBy(v, value, groupCounts(placed, field), target)
	case "MAX_PER":
		most, err := strconv.Atoi(value)
		return err == nil && groupCounts(placed, field)[v] < most
	case "LIKE", "UNLIKE":
		re := patterns.get(value)
		return re != nil && re.MatchString(v) == (op == "LIKE")
	case "IS":
		if v == value {
			return true
		}
		want, err := strconv.ParseFloat(value, 64)
		have, herr := strconv.ParseFloat(v, 64)
		return err == nil && herr == nil && decimal(want) == decimal(have)
	}
	return false
}

func groupCounts(placed []*Instance, field string) map[string]int {
	counts := map[string]int{}
	for _, i := range placed {
		counts[i.field(field)]++
	}
	return counts
}

// groupBy spreads instances. Without a number (or with "inf") it is Marathon's algorithm up to 1.9: a group without
// instance is fine, another only when no seen group has fewer. With a number of groups it is that of 1.10: each group may
// hold its whole share at once, so that a nearly full cluster can be filled group by group.
func groupBy(v, value string, counts map[string]int, target int) bool {
	n, err := strconv.Atoi(value)
	if err != nil || n <= 0 {
		have, seen := counts[v]
		if !seen {
			return true
		}
		for _, c := range counts {
			if c < have {
				return false
			}
		}
		return true
	}
	base, rest := target/n, target%n
	used := 0
	for _, c := range counts {
		used += max(0, c-base)
	}
	have, seen := counts[v]
	if !seen {
		return len(counts) < n
	}
	return have < base || have == base && used < rest
}

// patterns keeps compiled expressions. They were validated when the definition was accepted.
type patterns struct{ compiled map[string]*regexp.Regexp }

// maxPatterns bounds the cache; it starts anew when it is full.
const maxPatterns = 4096

func (p *patterns) get(expr string) *regexp.Regexp {
	if re, ok := p.compiled[expr]; ok {
		return re
	}
	if p.compiled == nil || len(p.compiled) >= maxPatterns {
		p.compiled = map[string]*regexp.Regexp{}
	}
	re, err := regexp.Compile("^(?:" + expr + ")$")
	if err != nil {
		re = nil
	}
	p.compiled[expr] = re
	return re
}
