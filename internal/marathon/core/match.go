package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// placement is an instance that found its place on an offer.
type placement struct {
	inst  *Instance
	ops   []*mesosv1.Offer_Operation // before the launch: reservations and volumes
	task  *mesosv1.TaskInfo          // of an app
	group *mesosv1.Offer_Operation   // of a pod
}

// slot is an offer while instances are placed on it.
type slot struct {
	offer  *mesosv1.Offer
	where  place
	purse  *purse
	ops    []*mesosv1.Offer_Operation
	tasks  []*mesosv1.TaskInfo
	groups []*mesosv1.Offer_Operation
	placed int
}

// offers places waiting instances on what is offered and declines the rest. It goes round the offers until nothing more
// fits, because a spec that spreads its instances takes one place of each offer at a time.
func (m *Machine) offers(list []*mesosv1.Offer) {
	slots := make([]*slot, len(list))
	for k, o := range list {
		p := newPurse(o, m.frameworkID)
		slots[k] = &slot{offer: o, where: placeOf(o), purse: p, ops: m.strayReservations(o, p)}
	}
	for round := 0; ; round++ {
		more := false
		for _, s := range slots {
			if m.fill(s, round == 0) {
				more = true
			}
		}
		if !more {
			break
		}
	}
	var declined []*mesosv1.OfferID
	for _, s := range slots {
		if !m.accept(s) {
			declined = append(declined, s.offer.GetId())
		}
	}
	if len(declined) > 0 {
		kind := scheduler.Call_DECLINE
		m.emit(Call{&scheduler.Call{Type: &kind, Decline: &scheduler.Call_Decline{OfferIds: declined, Filters: m.filters()}}})
	}
}

// filters says for how long what was not taken need not be offered again. While something waits that is short, because what
// was refused for one instance may do for the next.
func (m *Machine) filters() *mesosv1.Filters {
	seconds := m.opt.DeclineDuration.Seconds()
	if len(m.waiting) > 0 || len(m.debts) > 0 {
		seconds = min(seconds, 5)
	}
	return &mesosv1.Filters{RefuseSeconds: &seconds}
}

// maxTried bounds the specs that are tried on one offer, so that thousands that nothing fits don't make every offer slow.
const maxTried = 300

// fill places what it can on one offer. It reports whether another round may place more.
func (m *Machine) fill(sl *slot, first bool) (more bool) {
	o := sl.offer
	full := func() bool { return m.opt.MaxInstancesPerOffer > 0 && sl.placed >= m.opt.MaxInstancesPerOffer }
	for n, id := range m.queueOrder() {
		if n == maxTried || full() {
			break
		}
		st, target := m.specs[id], m.root.Get(id)
		if target == nil || m.startLeft(target) > 0 {
			continue
		}
		spread := slices.ContainsFunc(target.Constraints(), func(c []string) bool { return c[1] == "GROUP_BY" })
		if !first && !spread {
			continue
		}
		for _, instID := range m.turn(id, o.GetAgentId().GetValue()) {
			if full() {
				break
			}
			i := m.instance(instID)
			s := m.toStart(i, target)
			if m.delayLeft(s) > 0 {
				continue
			}
			try := sl.purse.clone()
			pl, why, detail := m.match(i, s, o, sl.where, try)
			if pl == nil {
				if first {
					st.refused(UnusedOffer{OfferID: o.GetId().GetValue(), AgentID: o.GetAgentId().GetValue(), Host: o.GetHostname(), Reasons: why, Detail: detail, At: m.stamp()})
				}
				if i.Reserved {
					continue
				}
				break // its siblings want the same
			}
			sl.purse = try
			sl.placed++
			st.used(m.stamp())
			m.putInstance(pl.inst)
			m.changed(pl.inst)
			m.after(m.opt.LaunchConfirmTimeout, timerInstance, pl.inst.ID)
			sl.ops = append(sl.ops, pl.ops...)
			if pl.task != nil {
				sl.tasks = append(sl.tasks, pl.task)
			}
			if pl.group != nil {
				sl.groups = append(sl.groups, pl.group)
			}
			if spread {
				more = true
				break
			}
		}
	}
	return more
}

// accept sends what was placed on an offer; false when that is nothing.
func (m *Machine) accept(s *slot) bool {
	ops := s.ops
	if len(s.tasks) > 0 {
		kind := mesosv1.Offer_Operation_LAUNCH
		ops = append(ops, &mesosv1.Offer_Operation{Type: &kind, Launch: &mesosv1.Offer_Operation_Launch{TaskInfos: s.tasks}})
	}
	ops = append(ops, s.groups...)
	if len(ops) == 0 {
		return false
	}
	kind := scheduler.Call_ACCEPT
	m.emit(Call{&scheduler.Call{Type: &kind, Accept: &scheduler.Call_Accept{OfferIds: []*mesosv1.OfferID{s.offer.GetId()}, Operations: ops, Filters: m.filters()}}})
	return true
}

// queueOrder lists waiting specs, from another one each time, so that none is always the last to see an offer.
func (m *Machine) queueOrder() []string {
	ids := sortedKeys(m.waiting)
	if len(ids) < 2 {
		return ids
	}
	n := m.intn(len(ids))
	return append(ids[n:], ids[:n]...)
}

// turn lists a spec's waiting instances, those whose volumes are on this agent first, and leaves out those whose volumes are
// elsewhere.
func (m *Machine) turn(specID, agent string) []string {
	var here, free []string
	for _, id := range sortedKeys(m.specs[specID].scheduled) {
		switch i := m.instance(id); {
		case i == nil:
		case !i.Reserved:
			free = append(free, id)
		case i.AgentID == agent:
			here = append(here, id)
		}
	}
	return append(here, free...)
}

// match tries to place one instance. On success the purse has paid for it.
func (m *Machine) match(i *Instance, s *spec.Spec, o *mesosv1.Offer, where place, p *purse) (*placement, []Reason, string) {
	if role := o.GetAllocationInfo().GetRole(); role != "" && role != s.Role() {
		return nil, []Reason{UnfulfilledRole}, fmt.Sprintf("the offer is for role %s, %s has role %s", role, s.ID, s.Role())
	}
	roles := s.AcceptedRoles()
	if len(roles) == 0 {
		roles = []string{"*", s.Role()}
	}
	if c := m.violated(i, s, where); c != nil {
		v, _ := where.lookup(c[0])
		return nil, []Reason{UnfulfilledConstraint}, fmt.Sprintf("constraint %s: the agent has %q", strings.Join(c, ":"), v)
	}
	if m.opt.MaintenanceDrain >= 0 && o.GetUnavailability() != nil {
		start := o.GetUnavailability().GetStart().GetNanoseconds()
		if start <= m.now.Add(m.opt.MaintenanceDrain).UnixNano() {
			return nil, []Reason{AgentMaintenance}, "the agent is about to be maintained"
		}
	}
	c := *i
	c.AgentID, c.Host = o.GetAgentId().GetValue(), o.GetHostname()
	c.Region, c.Zone, c.Attributes = where.region, where.zone, where.attributes
	c.Condition, c.Since, c.StagedAt, c.ActiveSince = Provisioned, m.stamp(), m.stamp(), 0
	c.Role = s.Role()

	var own []*mesosv1.Resource
	if s.Resident() && i.Reserved {
		if own = p.owned(i.ID); len(own) == 0 {
			return nil, []Reason{NoReservation}, "the offer does not contain the instance's volumes"
		}
	}
	b := &builder{m: m, spec: s, inst: &c, offer: o, purse: p, roles: roles, own: own}
	pl, why, detail := b.build()
	if len(why) == 0 && m.opt.RestrictGPUs && p.gpus && s.Total().GPUs == 0 {
		return nil, []Reason{ScarceResources}, "agents with GPUs only run what asks for some"
	}
	if len(why) > 0 {
		return nil, why, detail
	}
	return pl, nil, ""
}

// violated gives the first constraint that forbids the place, or nil.
func (m *Machine) violated(i *Instance, s *spec.Spec, where place) []string {
	constraints := s.Constraints()
	regional := false
	for _, c := range constraints {
		regional = regional || c[0] == "@region" || c[0] == "@zone"
	}
	if !regional && m.homeRegion != "" && where.region != "" && where.region != m.homeRegion {
		return []string{"@region", "IS", m.homeRegion}
	}
	if len(constraints) == 0 || i.Reserved {
		return nil
	}
	target := m.root.Get(s.ID)
	var placed []*Instance
	for _, o := range m.of(s.ID) {
		if o.ID != i.ID && o.launched() && o.Condition != UnreachableInactive && o.Goal == GoalRunning && (target == nil || m.current(o, target)) {
			placed = append(placed, o)
		}
	}
	for _, c := range constraints {
		if !meets(where, c, placed, s.Instances(), &m.patterns) {
			return c
		}
	}
	return nil
}
