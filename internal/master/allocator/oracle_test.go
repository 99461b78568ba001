package allocator

import (
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// oracle is the slow, obvious allocator: it keeps nothing but facts, and every cycle passes over all agents and all clients,
// working everything out anew. What it offers is by definition right; the property test holds the real one to it.
type oracle struct {
	opts       Options
	agents     map[ids.Agent]*oracleAgent
	frameworks map[ids.Framework]*oracleFramework
	quotas     map[string]Quota
	weights    map[string]float64
	whitelist  map[string]bool
	counts     map[string]int // how often something was allocated, by node of the tree
	paused     bool
	// waits are agents that the real one does not visit in this cycle. It has a budget for those, which is not the oracle's business.
	waits func(ids.Agent) bool
}

type oracleAgent struct {
	id     ids.Agent
	info   AgentInfo
	active bool
	used   map[oracleClient]resources.Resources

	outstanding map[ids.Framework]bool
	refusals    []oracleRefusal
	inverse     map[ids.Framework]int64 // filters of inverse offers
}

type oracleClient struct {
	fw   ids.Framework
	role string
}

type oracleRefusal struct {
	client oracleClient
	res    resources.Resources
	until  int64
}

type oracleFramework struct {
	info       FrameworkInfo
	active     bool
	suppressed map[string]bool
}

func newOracle(opts Options) *oracle {
	return &oracle{
		opts: opts, agents: map[ids.Agent]*oracleAgent{}, frameworks: map[ids.Framework]*oracleFramework{},
		quotas: map[string]Quota{}, weights: map[string]float64{}, counts: map[string]int{},
	}
}

// The facts.

func (o *oracle) AddAgent(id ids.Agent, info AgentInfo, used map[ids.Framework]resources.Resources) {
	o.RemoveAgent(id)
	info.Total = info.Total.Unallocate().OneCopy()
	ag := &oracleAgent{
		id: id, info: info, active: true, used: map[oracleClient]resources.Resources{},
		outstanding: map[ids.Framework]bool{}, inverse: map[ids.Framework]int64{},
	}
	o.agents[id] = ag
	for fw, res := range used {
		o.use(ag, fw, res)
	}
	o.tidy()
}

func (o *oracle) use(ag *oracleAgent, fw ids.Framework, res resources.Resources) {
	for role, part := range res.Allocations() {
		c := oracleClient{fw, role}
		ag.used[c] = ag.used[c].Add(part)
		o.count(c)
	}
}

// count notes that something was allocated to a client, at all nodes from it to the root.
func (o *oracle) count(c oracleClient) {
	o.counts[c.role+"\x00"+string(c.fw)]++
	o.counts[c.role+"/."]++
	for role := c.role; ; {
		o.counts[role]++
		i := strings.LastIndexByte(role, '/')
		if i < 0 {
			return
		}
		role = role[:i]
	}
}

func (o *oracle) RemoveAgent(id ids.Agent) { delete(o.agents, id); o.tidy() }

func (o *oracle) SetTotal(id ids.Agent, total resources.Resources) {
	if ag := o.agents[id]; ag != nil && !ag.info.Total.Equal(total.OneCopy()) {
		ag.info.Total = total.Unallocate().OneCopy()
		ag.refusals = nil
		clear(ag.inverse)
	}
	o.tidy()
}

func (o *oracle) SetUnavailability(id ids.Agent, info AgentInfo) {
	ag := o.agents[id]
	if ag == nil {
		return
	}
	before := ag.info.Unavailability
	ag.info.Unavailability = info.Unavailability
	if before == nil || info.Unavailability == nil || !sameUnavailability(before, info.Unavailability) {
		clear(ag.outstanding)
	}
}

func (o *oracle) AddFramework(id ids.Framework, info FrameworkInfo, active bool) {
	f := o.frameworks[id]
	if f == nil {
		f = &oracleFramework{suppressed: map[string]bool{}}
		o.frameworks[id] = f
	}
	f.active = active
	o.UpdateFramework(id, info)
}

func (o *oracle) UpdateFramework(id ids.Framework, info FrameworkInfo) {
	f := o.frameworks[id]
	if f == nil {
		return
	}
	for _, role := range f.info.Roles {
		if !slices.Contains(info.Roles, role) || f.suppressed[role] && !slices.Contains(info.Suppressed, role) {
			o.dropRefusals(oracleClient{id, role})
		}
	}
	f.info = info
	f.suppressed = map[string]bool{}
	for _, role := range info.Suppressed {
		f.suppressed[role] = true
	}
	o.tidy()
}

func (o *oracle) dropRefusals(c oracleClient) {
	for _, ag := range o.agents {
		ag.refusals = slices.DeleteFunc(ag.refusals, func(r oracleRefusal) bool { return r.client == c })
	}
}

func (o *oracle) dropInverse(id ids.Framework) {
	for _, ag := range o.agents {
		delete(ag.inverse, id)
	}
}

func (o *oracle) RemoveFramework(id ids.Framework) {
	if f := o.frameworks[id]; f != nil {
		for _, role := range f.info.Roles {
			o.dropRefusals(oracleClient{id, role})
		}
		o.dropInverse(id)
		for _, ag := range o.agents {
			delete(ag.outstanding, id)
		}
		delete(o.frameworks, id)
	}
	o.tidy()
}

func (o *oracle) SetFrameworkActive(id ids.Framework, active bool) {
	f := o.frameworks[id]
	if f == nil || f.active == active {
		return
	}
	f.active = active
	if !active {
		o.dropInverse(id)
		for _, role := range f.info.Roles {
			o.dropRefusals(oracleClient{id, role})
		}
	}
}

func (o *oracle) Suppress(id ids.Framework, roles []string) {
	f := o.frameworks[id]
	if f == nil {
		return
	}
	for _, role := range f.info.Roles {
		if len(roles) == 0 || slices.Contains(roles, role) {
			f.suppressed[role] = true
		}
	}
}

func (o *oracle) Revive(id ids.Framework, roles []string) {
	f := o.frameworks[id]
	if f == nil {
		return
	}
	o.dropInverse(id)
	for _, role := range f.info.Roles {
		if len(roles) == 0 || slices.Contains(roles, role) {
			f.suppressed[role] = false
			o.dropRefusals(oracleClient{id, role})
		}
	}
}

func (o *oracle) Recover(fw ids.Framework, id ids.Agent, res resources.Resources, refusal *Refusal, now time.Time) {
	ag := o.agents[id]
	if ag == nil {
		return
	}
	for role, part := range res.Allocations() {
		c := oracleClient{fw, role}
		left := ag.used[c].Minus(part)
		taken := ag.used[c].Minus(left)
		ag.used[c] = left
		if left.IsEmpty() {
			delete(ag.used, c)
		}
		f := o.frameworks[fw]
		if refusal == nil || refusal.For <= 0 || f == nil || !slices.Contains(f.info.Roles, role) || taken.IsEmpty() {
			continue
		}
		life := max(refusal.For, o.opts.AllocationInterval)
		ag.refusals = append(ag.refusals, oracleRefusal{c, taken.Unallocate().OneCopy(), tickAt(now.Add(life))})
	}
	o.tidy()
}

func (o *oracle) Allocated(fw ids.Framework, id ids.Agent, res resources.Resources) {
	if ag := o.agents[id]; ag != nil {
		o.use(ag, fw, res)
	}
}

func (o *oracle) UpdateAllocation(fw ids.Framework, id ids.Agent, offered resources.Resources, cs []resources.Conversion) bool {
	ag := o.agents[id]
	role, _ := offered.SoleAllocation()
	c := oracleClient{fw, role}
	if ag == nil || !ag.used[c].Contains(offered) {
		return false
	}
	converted, err := offered.ApplyAll(cs)
	if err != nil {
		return false
	}
	total := ag.info.Total
	for _, x := range cs {
		if total, err = total.Apply(x.Unallocated()); err != nil {
			return false
		}
	}
	ag.used[c] = ag.used[c].Minus(offered).Add(converted)
	ag.info.Total = total.OneCopy()
	o.tidy()
	return true
}

func (o *oracle) UpdateAvailable(id ids.Agent, cs []resources.Conversion) bool {
	ag := o.agents[id]
	if ag == nil {
		return false
	}
	if _, err := o.free(ag).ApplyAll(cs); err != nil {
		return false
	}
	total, err := ag.info.Total.ApplyAll(cs)
	if err != nil {
		return false
	}
	ag.info.Total = total
	o.tidy()
	return true
}

// tidy forgets what is told of things that are gone, above all the counts of nodes: roles without clients, children, reservations, quota and weight.
func (o *oracle) tidy() {
	live := map[string]bool{}
	addRole := func(role string) {
		for live[role] = true; strings.Contains(role, "/"); live[role] = true {
			role = role[:strings.LastIndexByte(role, '/')]
		}
	}
	addClient := func(c oracleClient) {
		live[c.role+"\x00"+string(c.fw)] = true
		live[c.role+"/."] = true
		addRole(c.role)
	}
	for id, f := range o.frameworks {
		for _, role := range f.info.Roles {
			addClient(oracleClient{id, role})
		}
	}
	for _, ag := range o.agents {
		for c := range ag.used {
			addClient(c)
		}
		for role, res := range ag.info.Total.Reservations() {
			if !res.Scalars().IsEmpty() {
				addRole(role)
			}
		}
	}
	for role := range o.quotas {
		addRole(role)
	}
	for role, w := range o.weights {
		if w != 1 {
			addRole(role)
		}
	}
	for _, ag := range o.agents { // a framework that nothing is known of any more has no filters either
		maps.DeleteFunc(ag.inverse, func(fw ids.Framework, _ int64) bool { return o.frameworks[fw] == nil && !o.usesAnything(fw) })
	}
	maps.DeleteFunc(o.counts, func(node string, _ int) bool { return !live[node] })
}

// The derived.

func (o *oracle) free(ag *oracleAgent) resources.Resources {
	free := ag.info.Total
	for _, res := range ag.used {
		free = free.Minus(res.NonShared().Unallocate())
	}
	return free
}

func (o *oracle) offerable(ag *oracleAgent) bool {
	return ag.active && (o.whitelist == nil || o.whitelist[ag.info.Hostname])
}

func topOf(role string) string { top, _, _ := strings.Cut(role, "/"); return top }

func isPlain(x resources.Resource) bool { return x.IsScalar() && !x.IsReserved() && !x.IsRevocable() }

func (o *oracle) consumed(top string) resources.Quantities {
	var sum resources.Quantities
	for _, ag := range o.agents {
		for role, res := range ag.info.Total.Reservations() {
			if topOf(role) == top {
				sum = sum.Add(res.Quantities())
			}
		}
		for c, res := range ag.used {
			if topOf(c.role) == top {
				sum = sum.Add(res.Filter(isPlain).Quantities())
			}
		}
	}
	return sum
}

func (o *oracle) unmet(top string) resources.Quantities {
	q, ok := o.quotas[top]
	if !ok {
		return resources.Quantities{}
	}
	return q.Guarantees.Sub(o.consumed(top))
}

// surplus is how much of a name is free beyond what guarantees require.
func (o *oracle) surplus(name string) resources.Amount {
	var required, headroom resources.Amount
	for top := range o.quotas {
		required += o.unmet(top).Get(name)
	}
	if required == 0 {
		return resources.Unlimited
	}
	for _, ag := range o.agents {
		if o.offerable(ag) {
			headroom += o.free(ag).Filter(isPlain).Quantity(name)
		}
	}
	return max(headroom-required, 0)
}

func (o *oracle) room(top, name string) resources.Amount {
	q, ok := o.quotas[top]
	if !ok {
		return resources.Unlimited
	}
	limit, ok := q.Limits.Lookup(name)
	if !ok {
		return resources.Unlimited
	}
	return max(limit-o.consumed(top).Get(name), 0)
}

// share is the dominant share of everything used by clients for which in holds.
func (o *oracle) share(in func(oracleClient) bool) float64 {
	sums, totals := map[string]resources.Amount{}, map[string]resources.Amount{}
	for _, ag := range o.agents {
		for name, amount := range ag.info.Total.Quantities().All() {
			totals[name] += amount
		}
		shared := map[string]bool{}
		for c, res := range ag.used {
			if !in(c) {
				continue
			}
			for name, amount := range res.NonShared().Quantities().All() {
				sums[name] += amount
			}
			for x := range res.Shared().All() {
				if !shared[x.Identity()] {
					shared[x.Identity()] = true
					sums[x.Name()] += x.Amount()
				}
			}
		}
	}
	var s float64
	for name, amount := range sums {
		if total := totals[name]; total > 0 && !slices.Contains(o.opts.FairSharingExcluded, name) {
			s = max(s, float64(amount)/float64(total))
		}
	}
	return s
}

type oracleNode struct {
	key      float64
	count    int
	name     string
	client   oracleClient
	children []oracleNode
}

// ordered returns the clients that take offers in the order of fairness.
func (o *oracle) ordered() []oracleClient {
	var clients []oracleClient
	for id, f := range o.frameworks {
		for _, role := range f.info.Roles {
			if f.active && !f.suppressed[role] {
				clients = append(clients, oracleClient{id, role})
			}
		}
	}
	var out []oracleClient
	var walk func(nodes []oracleNode)
	walk = func(nodes []oracleNode) {
		slices.SortFunc(nodes, func(a, b oracleNode) int {
			switch {
			case a.key != b.key && a.key < b.key, a.key == b.key && a.count < b.count,
				a.key == b.key && a.count == b.count && a.name < b.name:
				return -1
			default:
				return 1
			}
		})
		for _, n := range nodes {
			if n.children == nil {
				out = append(out, n.client)
			}
			walk(n.children)
		}
	}
	walk(o.below("", clients))
	return out
}

// below returns the nodes under a role ("" for the root), with those clients that take offers.
func (o *oracle) below(role string, clients []oracleClient) []oracleNode {
	var nodes []oracleNode
	seen := map[string]bool{}
	var own []oracleNode
	for _, c := range clients {
		if c.role == role {
			own = append(own, oracleNode{
				key:   o.share(func(x oracleClient) bool { return x == c }),
				count: o.counts[c.role+"\x00"+string(c.fw)], name: string(c.fw), client: c,
			})
			continue
		}
		rest := c.role
		if role != "" {
			if !strings.HasPrefix(c.role, role+"/") {
				continue
			}
			rest = c.role[len(role)+1:]
		}
		name, _, _ := strings.Cut(rest, "/")
		child := strings.TrimPrefix(role+"/"+name, "/")
		if seen[child] {
			continue
		}
		seen[child] = true
		weight := 1.0
		if w, ok := o.weights[child]; ok {
			weight = w
		}
		nodes = append(nodes, oracleNode{
			key:   o.share(func(x oracleClient) bool { return resources.IsRoleOrDescendant(x.role, child) }) / weight,
			count: o.counts[child], name: name, children: o.below(child, clients),
		})
	}
	if own != nil {
		nodes = append(nodes, oracleNode{
			key: o.share(func(x oracleClient) bool { return x.role == role }), count: o.counts[role+"/."], name: ".", children: own,
		})
	}
	return nodes
}

func (o *oracle) Allocate(now time.Time, seed uint64) ([]Offer, []InverseOffer) {
	floor := now.UnixNano() / int64(tick)
	for _, ag := range o.agents {
		ag.refusals = slices.DeleteFunc(ag.refusals, func(r oracleRefusal) bool { return r.until <= floor })
		maps.DeleteFunc(ag.inverse, func(_ ids.Framework, until int64) bool { return until <= floor })
	}
	if o.paused {
		return nil, nil
	}
	offers := map[ids.Agent]map[oracleClient]resources.Resources{}
	shared := map[ids.Agent]map[string]bool{}
	for id := range o.agents {
		offers[id], shared[id] = map[oracleClient]resources.Resources{}, map[string]bool{}
	}
	stageOne := false
	for _, c := range o.ordered() {
		stageOne = stageOne || !o.unmet(topOf(c.role)).IsEmpty()
	}
	if stageOne && o.anythingToVisit() {
		o.pass(1, seed, offers, shared)
		seed = mix(seed)
	}
	o.pass(2, seed, offers, shared)
	var out []Offer
	for id, byClient := range offers {
		for c, res := range byClient {
			out = append(out, Offer{Framework: c.fw, Role: c.role, Agent: id, Resources: res})
		}
	}
	return out, o.inverseOffers()
}

// anythingToVisit reports whether any agent can be offered at all.
func (o *oracle) anythingToVisit() bool {
	for _, ag := range o.agents {
		if o.offerable(ag) && !o.free(ag).NonShared().IsEmpty() {
			return true
		}
	}
	return false
}

func (o *oracle) pass(stage int, seed uint64, offers map[ids.Agent]map[oracleClient]resources.Resources, shared map[ids.Agent]map[string]bool) {
	order := slices.Collect(maps.Values(o.agents))
	key := func(ag *oracleAgent) uint32 {
		h := fnv.New64a()
		_, _ = h.Write([]byte(ag.id))
		return uint32(mix(seed^h.Sum64()) >> 32)
	}
	slices.SortFunc(order, func(a, b *oracleAgent) int {
		if key(a) < key(b) {
			return -1
		}
		return 1
	})
	for _, ag := range order {
		if !o.offerable(ag) || o.waits != nil && o.waits(ag.id) {
			continue
		}
		var counted []oracleClient
		for _, c := range o.ordered() {
			res := o.propose(ag, c, stage, shared[ag.id])
			if res.IsEmpty() {
				continue
			}
			allocated := res.Allocate(c.role)
			ag.used[c] = ag.used[c].Add(allocated)
			offers[ag.id][c] = offers[ag.id][c].Add(allocated)
			counted = append(counted, c)
			for x := range res.Shared().All() {
				shared[ag.id][x.Identity()] = true
			}
		}
		for _, c := range counted {
			o.count(c)
		}
	}
}

func (o *oracle) propose(ag *oracleAgent, c oracleClient, stage int, shared map[string]bool) resources.Resources {
	f := o.frameworks[c.fw]
	can := f.info.Capabilities
	var none resources.Resources
	switch home, away := regionOf(o.opts.Domain), regionOf(ag.info.Domain); {
	case o.opts.FilterGPU && ag.info.Total.Scalar(resources.GPUs) > 0 && !can.GPU,
		home.known && away.known && home.name != away.name && !can.RegionAware,
		can.MultiRole && !ag.info.Capabilities.MultiRole,
		strings.Contains(c.role, "/") && !ag.info.Capabilities.HierarchicalRole,
		f.info.Constraints.forRole(c.role) != nil && !f.info.Constraints.forRole(c.role).matches(&ag.info):
		return none
	}
	res := o.free(ag).AllocatableTo(c.role).Filter(func(x resources.Resource) bool {
		return (can.ReservationRefinement || !x.HasRefinedReservation()) && (can.Revocable || !x.IsRevocable()) &&
			(!x.IsShared() || can.Shared && !shared[x.Identity()])
	})
	plain := res.Filter(isPlain)
	top := topOf(c.role)
	budget := func(name string) resources.Amount { return min(o.room(top, name), o.surplus(name)) }
	if stage == 1 {
		unmet := o.unmet(top)
		progress := false
		for name, amount := range unmet.All() {
			progress = progress || amount > 0 && plain.Quantity(name) > 0
		}
		if !progress {
			return none
		}
		budget = func(name string) resources.Amount {
			given := min(unmet.Get(name), plain.Quantity(name))
			room, surplus := o.room(top, name), o.surplus(name)
			if room != resources.Unlimited {
				room = max(room-given, 0)
			}
			if more := min(room, surplus); more != resources.Unlimited {
				return given + more
			}
			return resources.Unlimited
		}
	}
	res = res.Shrink(budget)
	if res.NonShared().IsEmpty() {
		return none
	}
	minimum := o.opts.MinAllocatable
	if own, ok := f.info.MinAllocatable[c.role]; ok {
		minimum = own
	}
	if len(minimum) > 0 && !slices.ContainsFunc(minimum, func(q resources.Quantities) bool { return res.NonShared().ContainsQuantities(q) }) {
		return none
	}
	for _, r := range ag.refusals {
		if r.client == c && r.res.Contains(res) {
			return none
		}
	}
	return res
}

func (o *oracle) RespondInverse(fw ids.Framework, id ids.Agent, refusal *Refusal, now time.Time) {
	ag := o.agents[id]
	if ag == nil || ag.info.Unavailability == nil {
		return
	}
	delete(ag.outstanding, fw)
	life := o.opts.AllocationInterval
	if refusal != nil {
		life = max(life, refusal.For)
	}
	if life > 0 && (o.frameworks[fw] != nil || o.usesAnything(fw)) {
		ag.inverse[fw] = tickAt(now.Add(life))
	}
}

func (o *oracle) usesAnything(fw ids.Framework) bool {
	for _, ag := range o.agents {
		for c := range ag.used {
			if c.fw == fw {
				return true
			}
		}
	}
	return false
}

func (o *oracle) inverseOffers() []InverseOffer {
	var out []InverseOffer
	for id, ag := range o.agents {
		if ag.info.Unavailability == nil {
			continue
		}
		for fw, f := range o.frameworks {
			uses := false
			for c := range ag.used {
				uses = uses || c.fw == fw
			}
			if _, refused := ag.inverse[fw]; uses && f.active && !refused && !ag.outstanding[fw] {
				ag.outstanding[fw] = true
				out = append(out, InverseOffer{Framework: fw, Agent: id, Unavailability: ag.info.Unavailability})
			}
		}
	}
	return out
}
