package core

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// failer is what *testing.T and *rapid.T have in common.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// cluster is a simulated Mesos with a machine on top: agents offer what they have, tasks start and end after a while, and
// what the machine stores is kept so that it can be started again from it. Time is simulated. It checks the machine's
// invariants after every step.
type cluster struct {
	t           failer
	rng         *rand.Rand
	opt         Options
	m           *Machine
	now         time.Time
	records     map[string][]byte
	agents      []*simAgent
	tasks       map[string]*simTask
	ended       map[string]mesosv1.TaskState // tasks whose end was not acknowledged yet
	ever        map[string]bool              // task ids that were used
	offers      map[string]*simOffer
	queue       []delivery
	nOffer      int
	suppressed  bool                 // the master makes no offers
	refused     map[string]time.Time // agents whose offers are not wanted until then
	down        bool                 // the master is away
	silent      bool                 // it answers no explicit reconciliation
	loseAccepts bool
	vanish      int                 // percent of the offers that are gone when they are accepted
	volumes     map[string][]string // of instances that have run
	notices     []Notice
	replies     []Reply
	probes      map[string]bool

	startDelay, killDelay, failAfter func() time.Duration
	unhealthy                        func(version spec.Version) bool // what probes find
	before                           map[string]bool                 // healthy instances before the step
	checkBounds                      bool
	epoch                            int // deliveries of an earlier life of the machine's process are lost
}

type simAgent struct {
	id, host, zone string
	total          resources.Resources
	offered        bool
	unreachable    bool
}

type simTask struct {
	id, agent string
	info      *mesosv1.TaskInfo
	state     mesosv1.TaskState
	killed    bool
	uuid      int
	res       resources.Resources
}

type simOffer struct {
	agent *simAgent
	msg   *mesosv1.Offer
}

type delivery struct {
	at    time.Time
	seq   int
	do    func() []Event
	epoch int
}

func newCluster(t failer, seed uint64, agents int) *cluster {
	c := &cluster{
		t: t, rng: rand.New(rand.NewPCG(seed, 7)), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), records: map[string][]byte{}, tasks: map[string]*simTask{},
		ever: map[string]bool{}, offers: map[string]*simOffer{}, probes: map[string]bool{}, refused: map[string]time.Time{}, volumes: map[string][]string{}, ended: map[string]mesosv1.TaskState{},
	}
	c.opt = Options{
		Spec: spec.Settings{Role: "*", PortMin: 10000, PortMax: 20000}, MaxInstancesPerOffer: 5, MaxRunningDeployments: 100, MaxVersions: 50,
		LaunchConfirmTimeout: 5 * time.Minute, LaunchTimeout: 5 * time.Minute, KillRetry: 30 * time.Second, DeclineDuration: 2 * time.Minute,
		ReviveInterval: 100 * time.Millisecond, ReconcileInterval: 10 * time.Minute,
	}
	for i := range agents {
		c.agents = append(c.agents, &simAgent{id: fmt.Sprintf("agent-%d", i), host: fmt.Sprintf("host%d", i), zone: fmt.Sprintf("z%d", i%3), total: resources.MustParse("cpus:16;mem:16384;disk:100000;ports:[31000-32000]")})
	}
	c.startDelay = func() time.Duration { return time.Duration(c.rng.IntN(3000)) * time.Millisecond }
	c.killDelay = c.startDelay
	c.unhealthy = func(spec.Version) bool { return false }
	c.restart()
	return c
}

// restart starts the machine from what was stored, as after a crash.
func (c *cluster) restart() {
	c.epoch++
	clear(c.probes)
	c.m = New(c.opt, [32]byte{byte(c.epoch), byte(c.rng.IntN(256)), byte(c.rng.IntN(256))}, c.now)
	var recs []Record
	for _, k := range slices.Sorted(maps.Keys(c.records)) {
		recs = append(recs, Record{k, c.records[k]})
	}
	out, err := c.m.Load(c.now, recs)
	if err != nil {
		c.t.Fatalf("loading: %v", err)
	}
	c.carryOut(out)
	for id := range c.offers {
		c.rescind(id)
	}
	c.suppressed = false // as a new subscription does
	clear(c.refused)
	fw := c.m.FrameworkID()
	if fw == "" {
		fw = "fw-1"
	}
	c.later(time.Millisecond, func() []Event { return []Event{Registered{FrameworkID: fw, Master: "m:5050"}} })
}

func (c *cluster) later(d time.Duration, do func() []Event) {
	c.queue = append(c.queue, delivery{c.now.Add(d), len(c.queue) + c.nOffer*1000, do, c.epoch})
}

// always is delivered whatever becomes of the machine: things that happen on agents.
func (c *cluster) always(d time.Duration, do func() []Event) {
	c.later(d, do)
	c.queue[len(c.queue)-1].epoch = -1
}

func (c *cluster) step(events ...Event) {
	c.before = c.healthyInstances()
	bounds := c.boundsBefore()
	out := c.m.Step(c.now, events...)
	c.carryOut(out)
	c.checkInvariants(bounds)
}

func (c *cluster) healthyInstances() map[string]bool {
	out := map[string]bool{}
	c.m.instances.Scan(func(_ string, i *Instance) bool {
		if c.m.healthy(i) {
			out[i.ID] = true
		}
		return true
	})
	return out
}

type specBounds struct{ healthy, total int }

func (c *cluster) boundsBefore() map[string]specBounds {
	out := map[string]specBounds{}
	c.m.instances.Scan(func(_ string, i *Instance) bool {
		b := out[i.SpecID]
		if c.m.healthy(i) {
			b.healthy++
		}
		if i.launched() {
			b.total++
		}
		out[i.SpecID] = b
		return true
	})
	return out
}

// checkInvariants holds a rolling replacement to its own arithmetic, and the machine to its promises.
func (c *cluster) checkInvariants(before map[string]specBounds) {
	c.t.Helper()
	after := c.boundsBefore()
	for _, d := range c.m.deployments {
		for _, a := range d.Current() {
			target := c.m.root.Get(a.ID)
			if a.Kind != Restart || target == nil || !d.pending[a.ID] || target.Strategy().Steps != nil {
				continue
			}
			fewest, most := bounds(target.Upgrade(), target.Instances())
			if target.Resident() && fewest == most {
				fewest--
			}
			if fewest == most {
				most++
			}
			killed := 0
			for id := range c.before {
				if i := c.m.instance(id); i != nil && i.SpecID == a.ID && i.KillAt != 0 && i.KillAt == c.m.stamp() {
					killed++
				}
			}
			if after[a.ID].healthy < min(fewest, before[a.ID].healthy) && killed > 0 && c.checkBounds {
				c.dump()
				c.t.Fatalf("%s: %d healthy before the step, %d after it, never fewer than %d allowed", a.ID, before[a.ID].healthy, after[a.ID].healthy, fewest)
			}
			if after[a.ID].total > max(most, before[a.ID].total) && c.checkBounds {
				c.dump()
				c.t.Fatalf("%s: %d instances, at most %d allowed (%d before)", a.ID, after[a.ID].total, most, before[a.ID].total)
			}
		}
	}
	c.checkAwake()
	locked := map[string]string{}
	for _, d := range c.m.deployments {
		for _, id := range slices.Concat(d.AffectedApps, d.AffectedPods) {
			if locked[id] != "" {
				c.t.Fatalf("%s is touched by two deployments", id)
			}
			locked[id] = d.ID
		}
	}
}

// checkAwake: while something waits and the master makes no offers, a timer is set that asks for some when the launch delay is
// over. Without one nothing would ever happen.
func (c *cluster) checkAwake() {
	c.t.Helper()
	if !c.suppressed || !c.m.connected || c.down {
		return
	}
	for _, id := range sortedKeys(c.m.waiting) {
		s := c.m.root.Get(id)
		if s == nil {
			continue
		}
		at := c.now.Add(c.m.startLeft(s) + c.opt.ReviveInterval)
		if !slices.ContainsFunc(c.m.timers, func(t timer) bool { return t.what == timerRevive && !t.at.After(at) }) {
			c.dump()
			c.t.Fatalf("%s waits, the master makes no offers, and nothing will ask for any", id)
		}
	}
}

func (c *cluster) carryOut(out []Effect) {
	for _, e := range out {
		switch e := e.(type) {
		case Put:
			c.records[e.Key] = e.Value
		case Delete:
			delete(c.records, e.Key)
		case Publish:
			c.notices = append(c.notices, e.Notice)
		case Reply:
			c.replies = append(c.replies, e)
		case Probe:
			c.probe(e)
		case CheckReadiness:
			c.later(time.Second, func() []Event {
				return []Event{ReadinessResult{Instance: e.Instance, Task: e.Task, Readiness: Readiness{Name: e.Check.Name, Ready: true, Status: 200}}}
			})
		case Call:
			if !c.down {
				c.call(e.Call)
			}
		}
	}
}

func (c *cluster) probe(p Probe) {
	key := p.Instance + p.Task
	if c.probes[key] {
		return
	}
	c.probes[key] = true
	var again func() []Event
	again = func() []Event {
		i := c.m.instance(p.Instance)
		if i == nil || i.Condition != Running || i.Tasks[0].ID != p.Task {
			delete(c.probes, key)
			return nil
		}
		c.later(time.Duration(max(1, p.Check.IntervalSeconds))*time.Second, again)
		return []Event{HealthResult{Instance: p.Instance, Task: p.Task, Index: p.Index, Alive: !c.unhealthy(i.Version), Cause: "500"}}
	}
	c.later(time.Second, again)
}

func (c *cluster) rescind(id string) {
	if o := c.offers[id]; o != nil {
		o.agent.offered = false
		delete(c.offers, id)
	}
}

// refuse takes an offer back and makes no other of its agent for as long as the filters say.
func (c *cluster) refuse(id string, f *mesosv1.Filters) {
	if o := c.offers[id]; o != nil {
		c.rescind(id)
		c.refused[o.agent.id] = c.now.Add(time.Duration(f.GetRefuseSeconds() * float64(time.Second)))
	}
}

func (c *cluster) call(call *scheduler.Call) {
	switch call.GetType() {
	case scheduler.Call_REVIVE:
		c.suppressed = false
		clear(c.refused)
	case scheduler.Call_SUPPRESS:
		c.suppressed = true
	case scheduler.Call_DECLINE:
		for _, id := range call.Decline.OfferIds {
			c.refuse(id.GetValue(), call.Decline.Filters)
		}
	case scheduler.Call_ACCEPT:
		if c.vanish > 0 && c.rng.IntN(100) < c.vanish {
			c.rescind(call.Accept.OfferIds[0].GetValue()) // it was taken back while the call was on its way
		}
		if !c.loseAccepts {
			c.accept(call.Accept)
		}
	case scheduler.Call_ACKNOWLEDGE:
		if id := call.Acknowledge.TaskId.GetValue(); c.tasks[id] == nil {
			delete(c.ended, id)
		}
	case scheduler.Call_KILL:
		t := c.tasks[call.Kill.TaskId.GetValue()]
		if t == nil {
			id := call.Kill.TaskId
			c.later(time.Millisecond, func() []Event {
				return []Event{Status{&mesosv1.TaskStatus{TaskId: id, State: new(mesosv1.TaskState_TASK_UNKNOWN)}}}
			})
			return
		}
		if t.killed {
			return
		}
		t.killed = true
		c.always(c.killDelay(), func() []Event { return c.end(t, mesosv1.TaskState_TASK_KILLED) })
	case scheduler.Call_RECONCILE:
		for _, r := range call.Reconcile.Tasks {
			if c.silent {
				break
			}
			id := r.TaskId
			c.later(time.Millisecond, func() []Event {
				state, ended := c.ended[id.GetValue()]
				if !ended {
					state = mesosv1.TaskState_TASK_UNKNOWN
				}
				if t := c.tasks[id.GetValue()]; t != nil {
					state = t.state
				}
				return []Event{Status{&mesosv1.TaskStatus{TaskId: id, State: &state, Reason: new(mesosv1.TaskStatus_REASON_RECONCILIATION)}}}
			})
		}
		if len(call.Reconcile.Tasks) == 0 {
			for _, id := range slices.Sorted(maps.Keys(c.tasks)) {
				t := c.tasks[id]
				c.later(time.Millisecond, func() []Event {
					if c.tasks[id] == nil {
						return nil
					}
					return []Event{Status{&mesosv1.TaskStatus{TaskId: &mesosv1.TaskID{Value: &id}, AgentId: &mesosv1.AgentID{Value: &t.agent}, State: new(t.state)}}}
				})
			}
		}
	}
}

func (c *cluster) accept(a *scheduler.Call_Accept) {
	o := c.offers[a.OfferIds[0].GetValue()]
	var infos []*mesosv1.TaskInfo
	for _, op := range a.Operations {
		infos = append(infos, op.GetLaunch().GetTaskInfos()...)
		infos = append(infos, op.GetLaunchGroup().GetTaskGroup().GetTasks()...)
	}
	if o == nil {
		for _, ti := range infos {
			c.later(time.Millisecond, func() []Event {
				return []Event{Status{&mesosv1.TaskStatus{TaskId: ti.TaskId, State: new(mesosv1.TaskState_TASK_DROPPED), Reason: new(mesosv1.TaskStatus_REASON_INVALID_OFFERS)}}}
			})
		}
		return
	}
	c.refuse(a.OfferIds[0].GetValue(), a.Filters)
	for _, op := range a.Operations {
		if op.Launch != nil || op.LaunchGroup != nil {
			continue
		}
		total, err := o.agent.total.ApplyOperation(op)
		if err != nil {
			c.t.Fatalf("%v on %s: %v", op.GetType(), o.agent.id, err)
		}
		o.agent.total = total
	}
	for _, ti := range infos {
		id := ti.TaskId.GetValue()
		if c.ever[id] {
			c.t.Fatalf("task id %s was used twice", id)
		}
		c.ever[id] = true
		_, inst, _, err := ParseTaskID(id)
		if err != nil {
			c.t.Fatalf("%v", err)
		}
		rec := string(c.records[instancePrefix+inst])
		if !strings.Contains(rec, id) {
			c.t.Fatalf("task %s is launched but its instance is not stored", id)
		}
		t := &simTask{id: id, agent: o.agent.id, info: ti, state: mesosv1.TaskState_TASK_STAGING}
		var wrong error
		if t.res, wrong = resources.FromProto(ti.Resources); wrong != nil {
			c.t.Fatalf("%s: %v", id, wrong)
		}
		if free := c.free(o.agent); !free.Contains(t.res) {
			c.t.Fatalf("%s takes %v of %s, where only %v is free", id, t.res, o.agent.id, free)
		}
		c.tasks[id] = t
		c.always(c.startDelay(), func() []Event {
			if c.tasks[id] == nil || t.killed {
				return nil
			}
			t.state = mesosv1.TaskState_TASK_RUNNING
			c.checkVolumes(inst, t)
			if c.failAfter != nil {
				if d := c.failAfter(); d > 0 {
					c.always(d, func() []Event { return c.end(t, mesosv1.TaskState_TASK_FAILED) })
				}
			}
			return []Event{c.statusOf(t)}
		})
	}
}

// checkVolumes: an instance that has run always comes back to the volumes that it had.
func (c *cluster) checkVolumes(instance string, t *simTask) {
	var ids []string
	for _, r := range t.res.PersistentVolumes().Proto() {
		ids = append(ids, r.GetDisk().GetPersistence().GetId())
	}
	slices.Sort(ids)
	if before, ok := c.volumes[instance]; ok && !slices.Equal(before, ids) {
		c.t.Fatalf("%s ran on %v, now %v", instance, before, ids)
	}
	c.volumes[instance] = ids
}

func (c *cluster) end(t *simTask, state mesosv1.TaskState) []Event {
	if c.tasks[t.id] == nil {
		return nil
	}
	t.state, c.ended[t.id] = state, state
	delete(c.tasks, t.id)
	return []Event{c.statusOf(t)}
}

func (c *cluster) statusOf(t *simTask) Event {
	t.uuid++
	return Status{&mesosv1.TaskStatus{TaskId: &mesosv1.TaskID{Value: new(t.id)}, AgentId: &mesosv1.AgentID{Value: new(t.agent)}, State: new(t.state), Uuid: []byte(fmt.Sprintf("%016d", t.uuid))}}
}

// free is what no task uses of an agent.
func (c *cluster) free(a *simAgent) resources.Resources {
	free := a.total
	for _, id := range sortedKeys(c.tasks) {
		if t := c.tasks[id]; t.agent == a.id {
			free = free.Minus(t.res)
		}
	}
	return free
}

// offerAll makes an offer of what is free on each agent.
func (c *cluster) offerAll() {
	if c.suppressed || !c.m.connected || c.down {
		return
	}
	var list []*mesosv1.Offer
	for _, a := range c.agents {
		if a.offered || a.unreachable || c.refused[a.id].After(c.now) {
			continue
		}
		free, err := c.free(a).ProtoPreRefinement()
		if err != nil {
			c.t.Fatalf("%v", err)
		}
		c.nOffer++
		id := fmt.Sprintf("o%d", c.nOffer)
		o := &mesosv1.Offer{
			Id: &mesosv1.OfferID{Value: &id}, AgentId: &mesosv1.AgentID{Value: new(a.id)}, Hostname: new(a.host),
			Attributes: []*mesosv1.Attribute{{Name: new("zone"), Type: new(mesosv1.Value_TEXT), Text: &mesosv1.Value_Text{Value: new(a.zone)}}},
			Resources:  free,
		}
		a.offered = true
		c.offers[id] = &simOffer{a, o}
		list = append(list, o)
	}
	if len(list) > 0 {
		c.step(Offers{list})
	}
}

// run lets time pass until the condition holds; it fails when it doesn't within the limit.
func (c *cluster) run(limit time.Duration, what string, until func() bool) {
	c.t.Helper()
	end := c.now.Add(limit)
	for !until() {
		if c.now.After(end) {
			c.dump()
			c.t.Fatalf("after %v: not %s", limit, what)
		}
		c.tick()
	}
}

// settle lets a span of time pass.
func (c *cluster) settle(d time.Duration) {
	end := c.now.Add(d)
	for c.now.Before(end) {
		c.tick()
	}
}

func (c *cluster) tick() {
	c.offerAll()
	slices.SortStableFunc(c.queue, func(a, b delivery) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.seq, b.seq)) })
	next := c.now.Add(time.Second)
	if len(c.queue) > 0 && c.queue[0].at.Before(next) {
		next = c.queue[0].at
	}
	if n := c.m.Next(); !n.IsZero() && n.Before(next) {
		next = n
	}
	if next.After(c.now) {
		c.now = next
	}
	var events []Event
	for len(c.queue) > 0 && !c.queue[0].at.After(c.now) {
		d := c.queue[0]
		c.queue = c.queue[1:]
		if d.epoch >= 0 && d.epoch != c.epoch {
			continue
		}
		events = append(events, d.do()...)
	}
	if c.down || !c.m.connected {
		events = slices.DeleteFunc(events, func(e Event) bool {
			s, ok := e.(Status)
			if ok && len(s.Status.Uuid) > 0 {
				// The agent sends it again until it is acknowledged.
				c.always(500*time.Millisecond, func() []Event { return []Event{e} })
			}
			return ok
		})
	}
	c.step(events...)
}

func (c *cluster) dump() {
	for _, d := range c.m.deployments {
		c.t.Logf("deployment %s step %d/%d pending %v paused %q", d.ID, d.CurrentStep, len(d.Steps), d.pending, d.Paused)
	}
	c.m.instances.Scan(func(_ string, i *Instance) bool {
		h := "?"
		if i.Healthy != nil {
			h = fmt.Sprint(*i.Healthy)
		}
		c.t.Logf("%s v%d %s %s inc %d kill %d healthy %s", i.ID, i.Version, i.Goal, i.Condition, i.Incarnation, i.KillAt, h)
		return true
	})
	for _, q := range c.m.Queue() {
		c.t.Logf("queue %s %d left %v %s", q.Spec.ID, q.Count, q.TimeLeft, q.Blocked)
	}
}

// apply puts definitions, as one update.
func (c *cluster) apply(force bool, bodies ...string) (*Result, error) {
	c.t.Helper()
	return c.update(Update{Force: force, Mutate: func(root *spec.Root, now spec.Version, _ spec.History) error {
		for _, b := range bodies {
			v, err := spec.Decode([]byte(b))
			if err != nil {
				return err
			}
			if _, pod := v.(spec.Object)["containers"]; pod {
				p, err := spec.ReadPod(v, "/", root.Settings())
				if err != nil {
					return err
				}
				if err := root.Put(spec.OfPod(p), now, false); err != nil {
					return err
				}
				continue
			}
			a, err := spec.ReadApp(v, "", "/", root.Settings())
			if err != nil {
				return err
			}
			if err := root.Put(spec.OfApp(a), now, false); err != nil {
				return err
			}
		}
		return nil
	}})
}

func (c *cluster) update(u Update) (*Result, error) {
	c.replies = nil
	c.step(u)
	for _, r := range c.replies {
		if res, ok := r.Value.(*Result); ok {
			return res, r.Err
		}
	}
	c.t.Fatalf("no reply")
	return nil, nil
}

func (c *cluster) must(bodies ...string) *Result {
	c.t.Helper()
	r, err := c.apply(false, bodies...)
	if err != nil {
		c.t.Fatalf("refused: %v", err)
	}
	return r
}

func (c *cluster) idle() bool { return len(c.m.deployments) == 0 }

// stable: every spec has exactly its instances, all healthy and of the wanted definition, and the agents run nothing else.
func (c *cluster) stable() bool {
	if !c.idle() {
		return false
	}
	want, have := 0, 0
	ok := true
	for s := range c.m.root.Specs("/") {
		tasks := 1
		if s.Pod != nil {
			tasks = len(s.Pod.Containers)
		}
		want += s.Instances() * tasks
		good := 0
		for _, i := range c.m.of(s.ID) {
			if i.Goal == GoalStopped && i.Condition.Terminal() {
				continue
			}
			if !c.m.healthy(i) || !c.m.current(i, s) {
				ok = false
			}
			good++
		}
		ok = ok && good == s.Instances()
	}
	for _, t := range c.tasks {
		if t.state == mesosv1.TaskState_TASK_RUNNING {
			have++
		}
	}
	return ok && have == want && len(c.tasks) == want
}

func testCluster(t *testing.T, agents int) *cluster {
	t.Helper()
	return newCluster(t, 1, agents)
}
