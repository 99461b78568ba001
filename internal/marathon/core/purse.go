package core

import (
	"math"
	"slices"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// Labels on the reservations that this framework makes, by which it finds them again (Marathon's names).
const (
	labelFramework = "marathon_framework_id"
	labelInstance  = "marathon_task_id"
)

// purse is what is left of an offer while instances are placed on it. Amounts are thousandths, as Mesos computes.
type purse struct {
	lots []lot
	gpus bool // the agent has some
}

// lot is one resource of the offer.
type lot struct {
	res    *mesosv1.Resource
	name   string
	role   string // for which it is reserved, "*" for none
	owner  string // the instance whose reservation it is
	ours   bool   // reserved by this framework
	volume bool   // a persistent volume: taken whole
	disk   string // path or mount: a disk of its own, only for persistent volumes; "" for the agent's root disk and all else
	left   int64
	ranges [][2]uint64
}

func milli(f float64) int64 { return int64(math.Round(f * 1000)) }

func newPurse(offer *mesosv1.Offer, frameworkID string) *purse {
	p := &purse{}
	for _, r := range offer.GetResources() {
		l := lot{res: r, name: r.GetName(), role: "*"}
		var labels *mesosv1.Labels
		if n := len(r.GetReservations()); n > 0 {
			last := r.Reservations[n-1]
			l.role, labels = last.GetRole(), last.GetLabels()
		} else {
			if role := r.GetRole(); role != "" {
				l.role = role
			}
			labels = r.GetReservation().GetLabels()
		}
		framework := ""
		for _, x := range labels.GetLabels() {
			switch x.GetKey() {
			case labelFramework:
				framework = x.GetValue()
			case labelInstance:
				l.owner = x.GetValue()
			}
		}
		l.ours = framework != "" && framework == frameworkID && l.owner != ""
		if !l.ours {
			l.owner = ""
		}
		l.volume = r.GetDisk().GetPersistence() != nil
		if r.GetRevocable() != nil {
			continue
		}
		switch source := r.GetDisk().GetSource(); {
		case source == nil:
		case source.GetType() == mesosv1.Resource_DiskInfo_Source_PATH:
			l.disk = "path"
		case source.GetType() == mesosv1.Resource_DiskInfo_Source_MOUNT:
			l.disk = "mount"
		default:
			continue // raw and block disks would have to be formatted first
		}
		if l.name == "gpus" && r.GetScalar().GetValue() > 0 {
			p.gpus = true
		}
		switch r.GetType() {
		case mesosv1.Value_SCALAR:
			l.left = milli(r.GetScalar().GetValue())
		case mesosv1.Value_RANGES:
			for _, x := range r.GetRanges().GetRange() {
				if x.GetBegin() <= x.GetEnd() {
					l.ranges = append(l.ranges, [2]uint64{x.GetBegin(), x.GetEnd()})
				}
			}
		default:
			continue
		}
		p.lots = append(p.lots, l)
	}
	return p
}

// clone is an independent purse, to try something on.
func (p *purse) clone() *purse {
	c := &purse{lots: slices.Clone(p.lots), gpus: p.gpus}
	for i := range c.lots {
		c.lots[i].ranges = slices.Clone(c.lots[i].ranges)
	}
	return c
}

// free reports whether a lot may be used for what has no reservation of its own.
func (l *lot) free(roles []string) bool {
	return !l.ours && !l.volume && l.disk == "" && slices.Contains(roles, l.role)
}

// order gives the indices of usable lots of a name, reserved ones first.
func (p *purse) order(name string, roles []string) []int {
	var reserved, open []int
	for i := range p.lots {
		if l := &p.lots[i]; l.name == name && l.free(roles) {
			if l.role == "*" {
				open = append(open, i)
			} else {
				reserved = append(reserved, i)
			}
		}
	}
	return append(reserved, open...)
}

// scalar takes an amount, or nothing and false.
func (p *purse) scalar(name string, amount float64, roles []string) ([]*mesosv1.Resource, bool) {
	need := milli(amount)
	if need <= 0 {
		return nil, true
	}
	var out []*mesosv1.Resource
	for _, i := range p.order(name, roles) {
		l := &p.lots[i]
		n := min(need, l.left)
		if n <= 0 {
			continue
		}
		l.left -= n
		need -= n
		v := float64(n) / 1000
		out = append(out, withScalar(l.res, v))
		if need == 0 {
			return out, true
		}
	}
	return nil, false
}

// room takes what a persistent volume needs from one unreserved disk of its type: a part of a root or path disk, a mount disk
// whole, the smallest that does. It is nothing and false when no disk does.
func (p *purse) room(v *spec.PersistentVolume, patterns *patterns) (*mesosv1.Resource, bool) {
	best := -1
	for i := range p.lots {
		l := &p.lots[i]
		source := l.res.GetDisk().GetSource()
		kind := l.disk
		if kind == "" {
			kind = "root"
		}
		if l.name != "disk" || l.ours || l.volume || l.role != "*" || kind != v.Type || l.left < milli(float64(v.Size)) {
			continue
		}
		if v.ProfileName != "" && source.GetProfile() != v.ProfileName {
			continue
		}
		if v.MaxSize != nil && l.left > milli(float64(*v.MaxSize)) {
			continue
		}
		path := source.GetPath().GetRoot()
		if kind == "mount" {
			path = source.GetMount().GetRoot()
		}
		if slices.ContainsFunc(v.Constraints, func(c []string) bool {
			re := patterns.get(c[2])
			return re == nil || re.MatchString(path) != (c[1] == "LIKE")
		}) {
			continue
		}
		if best < 0 || l.left < p.lots[best].left {
			best = i
		}
	}
	if best < 0 {
		return nil, false
	}
	l := &p.lots[best]
	take := milli(float64(v.Size))
	if l.disk == "mount" {
		take = l.left
	}
	l.left -= take
	return withScalar(l.res, float64(take)/1000), true
}

func withScalar(r *mesosv1.Resource, v float64) *mesosv1.Resource {
	c := r.CloneVT()
	c.Scalar = &mesosv1.Value_Scalar{Value: &v}
	return c
}

// owned takes everything that is reserved for an instance: its scalars and volumes.
func (p *purse) owned(instance string) []*mesosv1.Resource {
	var out []*mesosv1.Resource
	for i := range p.lots {
		if l := &p.lots[i]; l.owner == instance && l.left > 0 {
			l.left = 0
			out = append(out, l.res)
		}
	}
	return out
}

// port takes one port: want, or any when want is 0, beginning to look at a random place so that a port that was just given
// up isn't the next to be used.
func (p *purse) port(want int, roles []string, random func(int) int) (port int, lotIndex int, ok bool) {
	order := p.order("ports", roles)
	if want != 0 {
		for _, i := range order {
			if p.lots[i].takePort(uint64(want)) {
				return want, i, true
			}
		}
		return 0, 0, false
	}
	for _, i := range order {
		l := &p.lots[i]
		total := uint64(0)
		for _, r := range l.ranges {
			total += r[1] - r[0] + 1
		}
		if total == 0 {
			continue
		}
		skip := uint64(random(int(min(total, math.MaxInt32))))
		for _, r := range l.ranges {
			n := r[1] - r[0] + 1
			if skip < n {
				got := r[0] + skip
				l.takePort(got)
				return int(got), i, true
			}
			skip -= n
		}
	}
	return 0, 0, false
}

func (l *lot) takePort(port uint64) bool {
	for k, r := range l.ranges {
		if port < r[0] || port > r[1] {
			continue
		}
		var parts [][2]uint64
		if port > r[0] {
			parts = append(parts, [2]uint64{r[0], port - 1})
		}
		if port < r[1] {
			parts = append(parts, [2]uint64{port + 1, r[1]})
		}
		l.ranges = slices.Replace(l.ranges, k, k+1, parts...)
		return true
	}
	return false
}

// portResources are the taken ports as resources, by the lots they come from.
func (p *purse) portResources(ports []int, lots []int) []*mesosv1.Resource {
	var out []*mesosv1.Resource
	for i := range p.lots {
		var of []uint64
		for k, l := range lots {
			if l == i {
				of = append(of, uint64(ports[k]))
			}
		}
		if len(of) == 0 {
			continue
		}
		slices.Sort(of)
		var ranges []*mesosv1.Value_Range
		for _, x := range of {
			if n := len(ranges); n > 0 && ranges[n-1].GetEnd()+1 == x {
				*ranges[n-1].End = x
				continue
			}
			b, e := x, x
			ranges = append(ranges, &mesosv1.Value_Range{Begin: &b, End: &e})
		}
		c := p.lots[i].res.CloneVT()
		c.Ranges = &mesosv1.Value_Ranges{Range: ranges}
		out = append(out, c)
	}
	return out
}
