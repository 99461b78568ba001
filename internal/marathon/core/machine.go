package core

import (
	"container/heap"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/tidwall/btree"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// Options are the settings of the machine. Durations of zero mean never, except where said.
type Options struct {
	Spec spec.Settings

	MaxInstancesPerOffer  int
	MaxRunningDeployments int
	MaxVersions           int           // kept of each spec
	LaunchConfirmTimeout  time.Duration // from accepting an offer to the first status
	LaunchTimeout         time.Duration // from there to running
	KillRetry             time.Duration // between two kills of a task that doesn't end
	DeclineDuration       time.Duration // for offers that nothing is wanted from
	ReviveInterval        time.Duration // at least between two revives
	ReconcileInterval     time.Duration
	MaintenanceDrain      time.Duration // offers of agents whose maintenance begins sooner are declined
	EnvPrefix             string        // of HOST and PORT* variables
	Executor              string        // default executor path
	User                  string        // default user of tasks
	Principal             string        // of reservations
	Deadline              time.Duration // of every deployment whose specs name none
	Policy                spec.Policy   // at that deadline
	TaskKillingState      bool
	RestrictGPUs          bool // agents with GPUs only run what asks for some
}

// Revision is a definition as it was from Version on; Spec is nil when it was removed then.
type Revision struct {
	Version spec.Version
	Spec    *spec.Spec
}

// specState is what the machine keeps for each spec that exists or still has instances.
type specState struct {
	scheduled map[string]bool // ids of instances that wait for an offer
	since     spec.Version    // when the first of them began to wait
	stats     *OfferStats
	delays    map[spec.Version]*delay // by the time of the configuration
}

// Machine is the state and its step function. It is used by one goroutine.
type Machine struct {
	opt  Options
	seed [32]byte
	ids  uint64

	now         time.Time
	lastVersion spec.Version
	out         []Effect

	root        *spec.Root
	revisions   btree.Map[string, *Revision]
	instances   btree.Map[string, *Instance]
	failures    btree.Map[string, *TaskFailure]
	specs       map[string]*specState
	waiting     map[string]bool // specs with scheduled instances
	debts       debts
	outcomes    []*Outcome    // of the last deployments, oldest first
	deployments []*deployment // in the order of their start
	locks       map[string]*deployment
	dirty       map[string]bool
	tombs       []string // specs that were removed, oldest first, whose history is still kept
	timers      timers

	connected   bool
	frameworkID string
	master      string
	homeRegion  string
	suppressed  bool
	asking      bool
	unheard     map[string]bool // tasks that nothing was heard of since the subscription
	askWait     time.Duration
	revivedAt   time.Time
	reviveDue   bool
	reviveAt    time.Time // when it is looked at next whether offers are to be asked for
	roles       []string
	patterns    patterns
	deployEpoch int // grows with every change of a deployment that readers see
}

// New makes an empty machine. seed decides all ids and random choices.
func New(opt Options, seed [32]byte, now time.Time) *Machine {
	m := &Machine{opt: opt, seed: seed, specs: map[string]*specState{}, waiting: map[string]bool{}, debts: debts{}, locks: map[string]*deployment{}, dirty: map[string]bool{}, now: now, suppressed: true}
	m.root = spec.NewRoot(&m.opt.Spec, spec.VersionOf(now))
	m.roles = []string{opt.Spec.Role}
	if opt.ReconcileInterval > 0 {
		m.after(opt.ReconcileInterval, timerReconcile, "")
	}
	return m
}

// random gives 32 bytes that nobody gets twice.
func (m *Machine) random() [32]byte {
	var b [40]byte
	copy(b[:], m.seed[:])
	binary.BigEndian.PutUint64(b[32:], m.ids)
	m.ids++
	return sha256.Sum256(b[:])
}

func (m *Machine) intn(n int) int {
	if n <= 1 {
		return 0
	}
	r := m.random()
	return int(binary.BigEndian.Uint64(r[:8]) % uint64(n))
}

// uuid is a version 4 UUID.
func (m *Machine) uuid() string {
	b := m.random()
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// version is a new point in time that no earlier call gave.
func (m *Machine) version() spec.Version {
	m.lastVersion = max(m.lastVersion+1, spec.VersionOf(m.now))
	return m.lastVersion
}

// stamp is now, for what is no identity.
func (m *Machine) stamp() spec.Version { return spec.VersionOf(m.now) }

func (m *Machine) emit(e Effect) { m.out = append(m.out, e) }

func (m *Machine) publish(kind string, fields any) {
	m.emit(Publish{Notice{Type: kind, At: m.stamp(), Fields: fields}})
}

// Step takes what happened at a time and returns what is to be done. The time never goes back: an earlier one counts as
// the latest seen.
func (m *Machine) Step(now time.Time, events ...Event) []Effect {
	if now.After(m.now) {
		m.now = now
	}
	m.out = nil
	m.fire()
	for _, e := range events {
		m.handle(e)
	}
	m.settle()
	m.revive()
	return m.out
}

func (m *Machine) handle(e Event) {
	switch e := e.(type) {
	case Registered:
		m.registered(e)
	case Disconnected:
		m.connected = false
		m.publish("scheduler_disconnected_event", struct{}{})
	case FrameworkRemoved:
		m.frameworkRemoved()
	case Offers:
		m.offers(e.Offers)
	case Status:
		m.status(e.Status)
	case HealthResult:
		m.healthResult(e)
	case ReadinessResult:
		m.readinessResult(e)
	case QueryResult:
		m.queryResult(e)
	case Tick:
	case CallFailed:
		if !m.asking {
			m.asking = true
			m.after(callFailedPause, timerAsk, "")
		}
	case Update:
		m.update(e)
	case KillInstances:
		m.killInstances(e)
	case CancelDeployment:
		m.cancelDeployment(e)
	case ResumeDeployment:
		m.resumeDeployment(e)
	case ResetDelay:
		m.resetDelayEvent(e)
	case Inspect:
		m.emit(Reply{Token: e.Token, Value: e.Look(m, m.now)})
	default:
		panic(fmt.Sprintf("unknown event %T", e))
	}
}

// settle converges every spec that something happened to, until nothing changes any more, and moves deployments on.
func (m *Machine) settle() {
	for len(m.dirty) > 0 {
		ids := make([]string, 0, len(m.dirty))
		for id := range m.dirty {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		clear(m.dirty)
		for _, id := range ids {
			m.converge(id)
		}
	}
}

func (m *Machine) touch(specID string) { m.dirty[specID] = true }

// state is the book-keeping of a spec, made on first use.
func (m *Machine) state(specID string) *specState {
	s := m.specs[specID]
	if s == nil {
		s = &specState{scheduled: map[string]bool{}}
		m.specs[specID] = s
	}
	return s
}

// putInstance makes i the current state of its instance, stores it and remembers what has to be looked at.
func (m *Machine) putInstance(i *Instance) {
	m.index(i)
	b, err := json.Marshal(i)
	if err != nil {
		panic(fmt.Sprintf("instance %s can't be encoded: %v", i.ID, err))
	}
	m.emit(Put{Key: instancePrefix + i.ID, Value: b})
	m.touch(i.SpecID)
}

// index makes i the current state in memory.
func (m *Machine) index(i *Instance) {
	m.instances.Set(i.key(), i)
	s := m.state(i.SpecID)
	if i.Condition == Scheduled && i.Goal == GoalRunning {
		if len(s.scheduled) == 0 {
			s.since = m.stamp()
		}
		if !s.scheduled[i.ID] {
			m.reviveDue = true
		}
		s.scheduled[i.ID] = true
		m.waiting[i.SpecID] = true
	} else {
		m.unschedule(s, i)
	}
}

func (m *Machine) unschedule(s *specState, i *Instance) {
	delete(s.scheduled, i.ID)
	if len(s.scheduled) == 0 {
		delete(m.waiting, i.SpecID)
	}
}

// forget removes an instance for good.
func (m *Machine) forget(i *Instance) {
	m.instances.Delete(i.key())
	if i.Reserved {
		m.owe(i)
	}
	m.unschedule(m.state(i.SpecID), i)
	m.emit(Delete{Key: instancePrefix + i.ID})
	m.emit(Unprobe{Instance: i.ID})
	m.touch(i.SpecID)
}

// of lists the instances of a spec in the order of their ids.
func (m *Machine) of(specID string) []*Instance {
	return InstancesOf(&m.instances, specID)
}

// InstancesOf lists the instances of a spec in a table.
func InstancesOf(table *btree.Map[string, *Instance], specID string) []*Instance {
	var out []*Instance
	prefix := specID + "\x00"
	table.Ascend(prefix, func(_ string, i *Instance) bool {
		if i.SpecID != specID {
			return false
		}
		out = append(out, i)
		return true
	})
	return out
}

func (m *Machine) instance(id string) *Instance {
	specID, inst, _, err := ParseTaskID(id + "._app.1")
	if err != nil || inst != id {
		return nil
	}
	i, _ := m.instances.Get(InstanceKey(specID, id))
	return i
}

// specOf is the definition that an instance runs; nil when it is not known any more.
func (m *Machine) specOf(i *Instance) *spec.Spec {
	if s := m.root.Get(i.SpecID); s != nil && s.Version == i.Version {
		return s
	}
	r, _ := m.revisions.Get(revisionKey(i.SpecID, i.Version))
	if r == nil {
		return nil
	}
	return r.Spec
}

// current reports whether an instance already is what the target wants.
func (m *Machine) current(i *Instance, target *spec.Spec) bool {
	return i.Version >= target.ConfigAt || !target.Replaces(m.specOf(i))
}

// timer wakes something at a time. Those that turn out to be too early or needless do nothing.
type timer struct {
	at   time.Time
	what timerKind
	id   string
}

type timerKind int

const (
	timerInstance timerKind = iota
	timerDeployment
	timerRevive
	timerReconcile
	timerAsk
	timerUnheard
)

// callFailedPause is how long after a failed call the master is asked what it knows.
const callFailedPause = 2 * time.Second

type timers []timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(x any)        { *t = append(*t, x.(timer)) }
func (t *timers) Pop() any {
	old := *t
	x := old[len(old)-1]
	*t = old[:len(old)-1]
	return x
}

func (m *Machine) after(d time.Duration, what timerKind, id string) {
	heap.Push(&m.timers, timer{at: m.now.Add(d), what: what, id: id})
}

// Next is when Step has to be called again even if nothing happens; the zero time means never.
func (m *Machine) Next() time.Time {
	if len(m.timers) == 0 {
		return time.Time{}
	}
	return m.timers[0].at
}

func (m *Machine) fire() {
	for len(m.timers) > 0 && !m.timers[0].at.After(m.now) {
		t := heap.Pop(&m.timers).(timer)
		switch t.what {
		case timerInstance:
			if i := m.instance(t.id); i != nil {
				m.instanceTimer(i)
			}
		case timerDeployment:
			if d := m.deployment(t.id); d != nil {
				m.deploymentTimer(d)
			}
		case timerRevive:
			m.reviveDue = true
		case timerReconcile:
			m.reconcile()
			if m.opt.ReconcileInterval > 0 {
				m.after(m.opt.ReconcileInterval, timerReconcile, "")
			}
		case timerUnheard:
			m.askUnheard()
		case timerAsk:
			m.asking = false
			m.reviveDue, m.suppressed = true, false
			m.reconcile()
		}
	}
}
