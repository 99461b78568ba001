package allocator

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// histories is how many random histories the property test runs; ALLOCATOR_HISTORIES overrides it.
const histories = "1200"

func TestMain(m *testing.M) {
	flag.Parse()
	n := histories
	if s := os.Getenv("ALLOCATOR_HISTORIES"); s != "" {
		n = s
	}
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		_ = flag.Set("rapid.checks", n)
	}
	os.Exit(m.Run())
}

// TestIncrementalEqualsFullPass drives the allocator and the oracle with the same random history and demands the same offers
// and inverse offers from every cycle.
func TestIncrementalEqualsFullPass(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		h := newHistory(rt)
		for i := range rapid.IntRange(1, 4).Draw(rt, "agents at first") {
			h.addAgent(ids.Agent(agentIDs[i]))
		}
		for i := range rapid.IntRange(1, 4).Draw(rt, "frameworks at first") {
			h.addFramework(ids.Framework(frameworkIDs[i]))
		}
		for range rapid.IntRange(10, 60).Draw(rt, "steps") {
			h.step()
		}
		h.allocate()
		h.allocate()
		// Nobody waits for ever, nor a second for the next to be admitted.
		for i := 0; h.a.patient.n > 0 && !h.a.paused; i++ {
			next, ok := h.a.NextTimer()
			if !ok || i > 1000 {
				rt.Fatalf("%d agents wait for ever", h.a.patient.n)
			}
			if next.After(h.now) {
				if next.Sub(h.now) > time.Second {
					rt.Fatalf("%d agents wait for %v", h.a.patient.n, next.Sub(h.now))
				}
				h.now = next
			}
			h.allocate()
		}
	})
}

type history struct {
	t      *rapid.T
	a      *Allocator
	o      *oracle
	now    time.Time
	volume int
	log    []string
}

var (
	agentIDs     = []string{"s0", "s1", "s2", "s3", "s4"}
	frameworkIDs = []string{"f0", "f1", "f2", "f3", "f4"}
	roleNames    = []string{"*", "a", "a/x", "a/x/y", "a/w", "b", "b/z", "c"}
	topRoles     = []string{"*", "a", "b", "c"}
)

func regionNamed(name string) *mesosv1.DomainInfo {
	if name == "" {
		return nil
	}
	return &mesosv1.DomainInfo{FaultDomain: &mesosv1.DomainInfo_FaultDomain{
		Region: &mesosv1.DomainInfo_FaultDomain_RegionInfo{Name: &name},
		Zone:   &mesosv1.DomainInfo_FaultDomain_ZoneInfo{Name: &name},
	}}
}

func newHistory(t *rapid.T) *history {
	opts := Options{FilterGPU: rapid.Bool().Draw(t, "filterGPU"), AllocationInterval: time.Second}
	if rapid.Bool().Draw(t, "minimum") {
		opts.MinAllocatable = DefaultMinAllocatable()
	}
	if rapid.Bool().Draw(t, "excluded") {
		opts.FairSharingExcluded = []string{"gpus"}
	}
	opts.RefusedPerSecond = rapid.IntRange(0, 2).Draw(t, "budget for what was refused")
	opts.Domain = regionNamed(rapid.SampledFrom([]string{"", "r1"}).Draw(t, "region"))
	h := &history{t: t, a: New(opts), o: newOracle(opts), now: t0}
	h.o.waits = func(id ids.Agent) bool { return h.a.agents[id].waits }
	return h
}

func (h *history) draw(list []string, label string) string {
	return rapid.SampledFrom(list).Draw(h.t, label)
}

func (h *history) some(list []string, label string) []string {
	var out []string
	for _, x := range list {
		if rapid.IntRange(0, 2).Draw(h.t, label) == 0 {
			out = append(out, x)
		}
	}
	return out
}

func (h *history) chance(of int, label string) bool {
	return rapid.IntRange(1, of).Draw(h.t, label) == 1
}

func (h *history) note(format string, args ...any) {
	h.log = append(h.log, fmt.Sprintf(format, args...))
}

// total draws an agent's resources: plain, reserved statically, dynamically and refined, revocable, disks and volumes.
func (h *history) total() resources.Resources {
	parts := []string{
		fmt.Sprintf("cpus:%g", float64(rapid.IntRange(0, 8).Draw(h.t, "cpus"))/2),
		fmt.Sprintf("mem:%d", 16*rapid.IntRange(0, 8).Draw(h.t, "mem")),
	}
	if h.chance(3, "ports?") {
		parts = append(parts, "ports:[31000-31003]")
	}
	if h.chance(5, "gpus?") {
		parts = append(parts, "gpus:2")
	}
	if h.chance(5, "custom?") {
		parts = append(parts, fmt.Sprintf("bandwidth:%d", rapid.IntRange(1, 9).Draw(h.t, "bandwidth")))
	}
	if h.chance(3, "disk?") {
		parts = append(parts, fmt.Sprintf("disk:%d", rapid.IntRange(1, 64).Draw(h.t, "disk")))
	}
	for h.chance(3, "static?") {
		parts = append(parts, fmt.Sprintf("cpus(%s):1;mem(%[1]s):16;disk(%[1]s):20", h.draw(roleNames[1:], "static")))
	}
	r := resources.MustParse(strings.Join(parts, ";"))
	if h.chance(5, "refined?") {
		r = r.Add(reserve(resources.MustParse("cpus:1;mem:32"), "a", "a/x"))
	}
	if h.chance(5, "revocable?") {
		one, name, typ := 1.0, "cpus", mesosv1.Value_SCALAR
		rev, err := resources.FromProto([]*mesosv1.Resource{{
			Name: &name, Type: &typ, Scalar: &mesosv1.Value_Scalar{Value: &one}, Revocable: &mesosv1.Resource_RevocableInfo{},
		}})
		if err != nil {
			h.t.Fatal(err)
		}
		r = r.Add(rev)
	}
	for h.chance(3, "volume?") {
		r = r.Add(h.newVolume(h.draw(roleNames[1:], "volume role"), h.chance(2, "shared?")))
	}
	return r
}

func reserve(r resources.Resources, roles ...string) resources.Resources {
	for _, role := range roles {
		r = r.PushReservation(&mesosv1.Resource_ReservationInfo{
			Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: &role,
		})
	}
	return r
}

func (h *history) newVolume(role string, shared bool) resources.Resources {
	h.volume++
	p := reserve(resources.MustParse("disk:10"), role).Proto()[0]
	id, path := fmt.Sprintf("v%d", h.volume), "data"
	p.Disk = &mesosv1.Resource_DiskInfo{
		Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: &id},
		Volume:      &mesosv1.Volume{ContainerPath: &path, Mode: mesosv1.Volume_RW.Enum()},
	}
	if shared {
		p.Shared = &mesosv1.Resource_SharedInfo{}
	}
	r, err := resources.FromProto([]*mesosv1.Resource{p})
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// part draws a part of resources.
func (h *history) part(r resources.Resources) resources.Resources {
	if h.chance(2, "all?") {
		return r
	}
	picked := map[string]bool{}
	for x := range r.All() {
		picked[x.Identity()+"\x00"+x.AllocationRole()] = h.chance(2, "entry?")
	}
	r = r.Filter(func(x resources.Resource) bool { return picked[x.Identity()+"\x00"+x.AllocationRole()] })
	if h.chance(2, "half?") {
		r = r.Shrink(func(string) resources.Amount { return 500 })
	}
	return r
}

func (h *history) agentInfo() AgentInfo {
	info := AgentInfo{Hostname: h.draw([]string{"h1", "h2"}, "hostname"), Total: h.total(), Capabilities: modern}
	if h.chance(6, "old?") {
		info.Capabilities = AgentCapabilities{MultiRole: h.chance(2, "multi role?"), HierarchicalRole: h.chance(2, "hierarchical?")}
	}
	if h.chance(3, "domain?") {
		info.Domain = regionNamed(h.draw([]string{"r1", "r2"}, "domain"))
	}
	if h.chance(2, "attribute?") {
		name, text := "rack", h.draw([]string{"k1", "k2"}, "rack")
		info.Attributes = []*mesosv1.Attribute{{Name: &name, Type: mesosv1.Value_TEXT.Enum(), Text: &mesosv1.Value_Text{Value: &text}}}
	}
	if h.chance(6, "maintenance?") {
		info.Unavailability = h.unavailability()
	}
	return info
}

func (h *history) unavailability() *mesosv1.Unavailability {
	if h.chance(3, "none?") {
		return nil
	}
	at := rapid.Int64Range(1, 3).Draw(h.t, "start")
	return &mesosv1.Unavailability{Start: &mesosv1.TimeInfo{Nanoseconds: &at}}
}

func (h *history) frameworkInfo() FrameworkInfo {
	info := FrameworkInfo{Roles: h.some(roleNames, "role?")}
	if len(info.Roles) == 0 {
		info.Roles = []string{h.draw(roleNames, "role")}
	}
	info.Suppressed = slices.DeleteFunc(slices.Clone(info.Roles), func(string) bool { return !h.chance(5, "suppressed?") })
	c := &info.Capabilities
	for _, b := range []*bool{&c.Revocable, &c.GPU, &c.Shared, &c.MultiRole, &c.ReservationRefinement, &c.RegionAware} {
		*b = !h.chance(5, "capability missing?")
	}
	if h.chance(4, "own minimum?") {
		q, err := resources.NewQuantities(map[string]float64{"cpus": 1.5})
		if err != nil {
			h.t.Fatal(err)
		}
		alternatives := []resources.Quantities{q}
		if h.chance(2, "no minimum?") {
			alternatives = nil
		}
		info.MinAllocatable = map[string][]resources.Quantities{h.draw(info.Roles, "minimum role"): alternatives}
	}
	if h.chance(4, "constraints?") {
		info.Constraints = h.constraints(h.draw(info.Roles, "constrained role"))
	}
	return info
}

func (h *history) constraints(role string) *Constraints {
	value := h.draw([]string{"k1", "k2"}, "rack")
	p := &schedulerv1.OfferConstraints{RoleConstraints: map[string]*schedulerv1.OfferConstraints_RoleConstraints{role: {
		Groups: []*schedulerv1.OfferConstraints_RoleConstraints_Group{{AttributeConstraints: []*schedulerv1.AttributeConstraint{{
			Selector:  &schedulerv1.AttributeConstraint_Selector{Selector: &schedulerv1.AttributeConstraint_Selector_AttributeName{AttributeName: "rack"}},
			Predicate: &schedulerv1.AttributeConstraint_Predicate{Predicate: &schedulerv1.AttributeConstraint_Predicate_TextEquals_{TextEquals: &schedulerv1.AttributeConstraint_Predicate_TextEquals{Value: &value}}},
		}}}},
	}}}
	c, err := CompileConstraints(p, DefaultConstraintLimits())
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

func (h *history) quantities(label string) resources.Quantities {
	m := map[string]float64{}
	if h.chance(2, label+" cpus?") {
		m["cpus"] = float64(rapid.IntRange(1, 10).Draw(h.t, label+" cpus"))
	}
	if h.chance(2, label+" mem?") {
		m["mem"] = float64(16 * rapid.IntRange(1, 10).Draw(h.t, label+" mem"))
	}
	if h.chance(6, label+" disk?") {
		m["disk"] = float64(rapid.IntRange(1, 40).Draw(h.t, label+" disk"))
	}
	q, err := resources.NewQuantities(m)
	if err != nil {
		h.t.Fatal(err)
	}
	return q
}

// using draws something in use: a client on an agent and what it has there.
func (h *history) using() (c oracleClient, agent ids.Agent, res resources.Resources, ok bool) {
	type use struct {
		agent  ids.Agent
		client oracleClient
	}
	var all []use
	for id, ag := range h.o.agents {
		for c := range ag.used {
			all = append(all, use{id, c})
		}
	}
	if len(all) == 0 {
		return c, agent, res, false
	}
	slices.SortFunc(all, func(x, y use) int {
		return strings.Compare(fmt.Sprint(x.agent, x.client.fw, x.client.role), fmt.Sprint(y.agent, y.client.fw, y.client.role))
	})
	u := all[rapid.IntRange(0, len(all)-1).Draw(h.t, "use")]
	return u.client, u.agent, h.o.agents[u.agent].used[u.client], true
}

func (h *history) allocate() {
	seed := rapid.Uint64Range(0, 1<<20).Draw(h.t, "seed")
	got, gotInverse := h.a.Allocate(h.now, seed)
	want, wantInverse := h.o.Allocate(h.now, seed)
	h.note("allocate seed %d:\n%s", seed, indent(show(want)))
	if show(got) != show(want) || showInverse(gotInverse) != showInverse(wantInverse) {
		h.t.Fatalf("history:\n%s\nincremental:\n%s%s\nfull pass:\n%s%s", strings.Join(h.log, "\n"),
			indent(show(got)), showInverse(gotInverse), indent(show(want)), showInverse(wantInverse))
	}
	for i, o := range got {
		for _, p := range got[:i] {
			if o.Framework == p.Framework && o.Role == p.Role && o.Agent == p.Agent {
				h.t.Fatalf("two offers for %s %s on %s in a cycle", o.Framework, o.Role, o.Agent)
			}
		}
		if role, ok := o.Resources.SoleAllocation(); !ok || role != o.Role {
			h.t.Fatalf("offer of role %s holds %s", o.Role, o.Resources)
		}
	}
}

func indent(s string) string { return "    " + strings.ReplaceAll(s, "\n", "\n    ") }

func showInverse(list []InverseOffer) string {
	var lines []string
	for _, x := range list {
		lines = append(lines, fmt.Sprintf("inverse %s %s %d", x.Framework, x.Agent, x.Unavailability.GetStart().GetNanoseconds()))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// step draws one event and tells it to both.
func (h *history) step() {
	agent, framework := ids.Agent(h.draw(agentIDs, "agent")), ids.Framework(h.draw(frameworkIDs, "framework"))
	switch kind := rapid.IntRange(0, 40).Draw(h.t, "event"); kind {
	case 0:
		h.addAgent(agent)
	case 1:
		total := h.total()
		if ag := h.o.agents[agent]; ag != nil && h.chance(4, "same total?") {
			total = ag.info.Total
		}
		h.note("total of %s becomes %s", agent, total)
		_ = h.a.SetTotal(agent, total)
		h.o.SetTotal(agent, total)
	case 2:
		h.note("remove agent %s", agent)
		h.a.RemoveAgent(agent)
		h.o.RemoveAgent(agent)
	case 3:
		active := rapid.Bool().Draw(h.t, "active")
		h.note("agent %s active %v", agent, active)
		h.a.SetAgentActive(agent, active)
		if ag := h.o.agents[agent]; ag != nil {
			ag.active = active
		}
	case 4:
		u := h.unavailability()
		h.note("unavailability of %s: %v", agent, u)
		h.a.SetUnavailability(agent, u)
		h.o.SetUnavailability(agent, AgentInfo{Unavailability: u})
	case 5:
		h.addFramework(framework)
	case 6:
		info := h.frameworkInfo()
		h.note("update framework %s %+v", framework, info)
		_ = h.a.UpdateFramework(framework, info)
		h.o.UpdateFramework(framework, info)
	case 7:
		h.note("remove framework %s", framework)
		h.a.RemoveFramework(framework)
		h.o.RemoveFramework(framework)
	case 8:
		active := rapid.Bool().Draw(h.t, "active")
		h.note("framework %s active %v", framework, active)
		h.a.SetFrameworkActive(framework, active)
		h.o.SetFrameworkActive(framework, active)
	case 9:
		roles := h.some(roleNames, "suppress?")
		h.note("suppress %s %v", framework, roles)
		h.a.Suppress(framework, roles)
		h.o.Suppress(framework, roles)
	case 10, 11:
		roles := h.some(roleNames, "revive?")
		h.note("revive %s %v", framework, roles)
		h.a.Revive(framework, roles)
		h.o.Revive(framework, roles)
	case 12:
		h.allocated(framework, agent)
	case 13, 14:
		h.operate()
	case 15:
		h.setQuota()
	case 16:
		role, weight := h.draw(roleNames, "weighted"), rapid.SampledFrom([]float64{0.5, 1, 2, 3.3}).Draw(h.t, "weight")
		h.note("weight of %s %v", role, weight)
		if err := h.a.SetWeight(role, weight); err != nil {
			h.t.Fatal(err)
		}
		h.o.weights[role] = weight
		h.o.tidy()
	case 17:
		h.setWhitelist()
	case 18:
		h.respondInverse(framework, agent)
	case 19:
		paused := h.chance(2, "paused?")
		h.note("paused %v", paused)
		h.a.SetPaused(paused)
		h.o.paused = paused
	case 20, 21, 22, 23, 24:
		h.now = h.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(h.t, "tenths")) * 100 * time.Millisecond)
		h.note("it is %v", h.now.Sub(t0))
		h.allocate()
	case 25, 26, 27, 28, 29, 30, 31, 32, 33:
		h.recover()
	default:
		h.allocate()
	}
}

func (h *history) addFramework(framework ids.Framework) {
	info, active := h.frameworkInfo(), !h.chance(6, "inactive?")
	h.note("add framework %s %+v active %v", framework, info, active)
	if err := h.a.AddFramework(framework, info, active); err != nil {
		h.t.Fatal(err)
	}
	h.o.AddFramework(framework, info, active)
}

func (h *history) addAgent(id ids.Agent) {
	info := h.agentInfo()
	used := map[ids.Framework]resources.Resources{}
	if h.chance(4, "used?") {
		fw := ids.Framework(h.draw(frameworkIDs, "user"))
		role := h.draw(roleNames, "used role")
		used[fw] = h.part(info.Total.AllocatableTo(role)).Allocate(role)
		if used[fw].IsEmpty() {
			clear(used)
		}
	}
	h.note("add agent %s %+v used %v", id, info, used)
	h.a.AddAgent(id, info, used)
	h.o.AddAgent(id, info, used)
	h.o.SetUnavailability(id, info)
}

func (h *history) refusal() *Refusal {
	if h.chance(3, "no filter?") {
		return nil
	}
	return &Refusal{For: time.Duration(rapid.IntRange(1, 80).Draw(h.t, "refuse")) * 100 * time.Millisecond}
}

func (h *history) recover() {
	c, agent, res, ok := h.using()
	if !ok {
		return
	}
	res = h.part(res)
	if res.IsEmpty() {
		return
	}
	r := h.refusal()
	h.note("recover %s %s %s refusal %v", c.fw, agent, res, r)
	if err := h.a.Recover(c.fw, agent, res, r, h.now); err != nil {
		h.t.Fatal(err)
	}
	h.o.Recover(c.fw, agent, res, r, h.now)
}

func (h *history) allocated(framework ids.Framework, agent ids.Agent) {
	ag := h.o.agents[agent]
	if ag == nil {
		return
	}
	role := h.draw(roleNames, "allocated role")
	res := h.part(h.o.free(ag).AllocatableTo(role)).Allocate(role)
	if h.chance(8, "too much?") {
		res = res.Add(resources.MustParse("cpus:2").Allocate(role))
	}
	if res.IsEmpty() {
		return
	}
	h.note("allocated %s %s %s", framework, agent, res)
	if err := h.a.Allocated(framework, agent, res); err != nil {
		h.t.Fatal(err)
	}
	h.o.Allocated(framework, agent, res)
}

// conversion draws an operation on some resources, allocated or not.
func (h *history) conversion(res resources.Resources, role string) (c resources.Conversion, ok bool) {
	var entries []resources.Resource
	for x := range res.All() {
		entries = append(entries, x)
	}
	if len(entries) == 0 {
		return c, false
	}
	x := entries[rapid.IntRange(0, len(entries)-1).Draw(h.t, "entry")]
	one := x.Resources().OneCopy()
	alloc := x.AllocationRole()
	switch {
	case x.IsPersistentVolume():
		op := &mesosv1.Offer_Operation{
			Type:    mesosv1.Offer_Operation_DESTROY.Enum(),
			Destroy: &mesosv1.Offer_Operation_Destroy{Volumes: one.Proto()},
		}
		cs, err := resources.Conversions(op)
		return cs[0], err == nil
	case x.IsDynamicallyReserved() && x.Name() == "disk" && h.chance(2, "create?"):
		v := h.newVolume(x.Role(), h.chance(2, "shared?")).Allocate(alloc)
		op := &mesosv1.Offer_Operation{
			Type:   mesosv1.Offer_Operation_CREATE.Enum(),
			Create: &mesosv1.Offer_Operation_Create{Volumes: v.Proto()},
		}
		cs, err := resources.Conversions(op)
		return cs[0], err == nil
	case x.IsDynamicallyReserved():
		return resources.Conversion{Consumed: one, Converted: one.PopReservation()}, true
	case x.IsRevocable() || x.IsReserved() || role == "*" || role == "":
		return c, false
	default:
		return resources.Conversion{Consumed: one, Converted: reserve(one, role)}, true
	}
}

func (h *history) operate() {
	if h.chance(3, "operator?") {
		agent := ids.Agent(h.draw(agentIDs, "agent"))
		ag := h.o.agents[agent]
		if ag == nil {
			return
		}
		c, ok := h.conversion(h.o.free(ag), h.draw(roleNames, "reserve for"))
		if !ok {
			return
		}
		h.note("operator on %s: %s -> %s", agent, c.Consumed, c.Converted)
		err := h.a.UpdateAvailable(agent, []resources.Conversion{c})
		if ok := h.o.UpdateAvailable(agent, []resources.Conversion{c}); ok != (err == nil) {
			h.t.Fatalf("%s\noperation: incremental %v, full pass %v", strings.Join(h.log, "\n"), err, ok)
		}
		return
	}
	use, agent, res, ok := h.using()
	if !ok {
		return
	}
	c, ok := h.conversion(res, use.role)
	if !ok {
		return
	}
	h.note("operation of %s on %s: %s -> %s", use.fw, agent, c.Consumed, c.Converted)
	err := h.a.UpdateAllocation(use.fw, agent, res, []resources.Conversion{c})
	if ok := h.o.UpdateAllocation(use.fw, agent, res, []resources.Conversion{c}); ok != (err == nil) {
		h.t.Fatalf("%s\noperation: incremental %v, full pass %v", strings.Join(h.log, "\n"), err, ok)
	}
}

func (h *history) setQuota() {
	role := h.draw(topRoles, "quota role")
	if h.chance(4, "remove?") {
		h.note("no quota for %s", role)
		if err := h.a.SetQuota(role, nil); err != nil {
			h.t.Fatal(err)
		}
		delete(h.o.quotas, role)
		h.o.tidy()
		return
	}
	q := Quota{Guarantees: h.quantities("guarantee"), Limits: h.quantities("limit")}
	h.note("quota of %s: %s limit %s", role, q.Guarantees, q.Limits)
	if err := h.a.SetQuota(role, &q); err != nil {
		h.t.Fatal(err)
	}
	h.o.quotas[role] = q
	if q.Guarantees.IsEmpty() && q.Limits.IsEmpty() {
		delete(h.o.quotas, role)
	}
	h.o.tidy()
}

func (h *history) setWhitelist() {
	var list []string
	if !h.chance(2, "all hosts?") {
		list = h.some([]string{"h1", "h2"}, "host?")
		if list == nil {
			list = []string{}
		}
	}
	h.note("whitelist %v (nil %v)", list, list == nil)
	h.a.SetWhitelist(list)
	h.o.whitelist = nil
	if list != nil {
		h.o.whitelist = map[string]bool{}
		for _, x := range list {
			h.o.whitelist[x] = true
		}
	}
}

func (h *history) respondInverse(framework ids.Framework, agent ids.Agent) {
	r, accepted := h.refusal(), rapid.Bool().Draw(h.t, "accepted")
	h.note("inverse answer of %s on %s: %v %v", framework, agent, accepted, r)
	h.a.RespondInverse(framework, agent, &accepted, r, h.now)
	h.o.RespondInverse(framework, agent, r, h.now)
}
