package core

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/tidwall/btree"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	maintenancev1 "github.com/orchestrator/orchestrator/api/mesos/v1/maintenance"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	quotav1 "github.com/orchestrator/orchestrator/api/mesos/v1/quota"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	registryv1 "github.com/orchestrator/orchestrator/api/registry/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/allocator"
)

// Config is what the state machine needs to know of the flags.
type Config struct {
	Master    *mesosv1.MasterInfo // id, address, version, capabilities, domain
	StartTime time.Time           // of the process
	Seed      uint64              // of the allocator's order and of operation uuids
	// FirstOffer numbers the first offer. Terms of one master share its id, so that each must count from elsewhere: an
	// answer to an offer of an earlier term must not fit one of this.
	FirstOffer uint64

	AgentPingTimeout     time.Duration // between pings; 15 s
	MaxAgentPingTimeouts int           // missed in a row before the agent is unreachable; 5
	// AgentRemovalInterval is the least time between two agents that become unreachable; 0: none. An agent that waits for its
	// turn and answers meanwhile stays.
	AgentRemovalInterval   time.Duration
	AgentReregisterTimeout time.Duration // after election, for agents in the registry; 10 min
	OfferTimeout           time.Duration // 0: offers never time out

	MaxCompletedFrameworks         int // 50
	MaxCompletedTasksPerFramework  int // 1000
	MaxUnreachableTasksPerFrame    int // 1000
	RegistryMaxAgentAge            time.Duration
	RegistryMaxAgentCount          int
	RegistryGCInterval             time.Duration
	RecoveryAgentRemovalLimit      float64 // fraction of registry agents that may go unreachable after election; 1
	RequireAgentDomain             bool
	RootSubmissions                bool
	RoleWhitelist                  map[string]bool // nil allows all
	OfferConstraintsMaxProgramSize int

	Allocator  allocator.Options
	Authorizer Authorizer // nil allows all
}

// Action is what a principal wants to do; the names are those of Mesos' ACLs.
type Action string

// Actions that the core asks about. Objects: a role, a user or a principal.
const (
	ActionRegisterFramework Action = "register_frameworks" // object: role
	ActionRunTask           Action = "run_tasks"           // object: user
	ActionTeardownFramework Action = "teardown_frameworks" // object: principal of the framework
	ActionReserve           Action = "reserve_resources"   // object: role
	ActionUnreserve         Action = "unreserve_resources" // object: principal of the reservation
	ActionCreateVolume      Action = "create_volumes"      // object: role
	ActionDestroyVolume     Action = "destroy_volumes"     // object: principal of the volume
	ActionResizeVolume      Action = "resize_volumes"      // object: role
	ActionUpdateQuota       Action = "update_quotas"       // object: role
	ActionUpdateWeights     Action = "update_weights"      // object: role
)

// Authorizer answers at once and always the same for the same arguments until it is reloaded.
type Authorizer interface {
	Authorized(principal string, action Action, object string) bool
}

// State is the master's whole state while it leads. It has one owner; see the package's documentation.
type State struct {
	cfg Config
	// announced is the master's description as schedulers get it.
	announced *mesosv1.MasterInfo
	now       time.Time
	elected   time.Time
	draws     uint64 // state of the generator; see draw
	alloc     *allocator.Allocator

	out      []Effect
	timers   timerHeap
	timerSeq uint64

	storing   map[Token]func(error)
	nextToken Token

	frameworks    map[ids.Framework]*framework
	streams       map[StreamID]*framework
	subscribing   map[StreamID]*subscription
	ended         map[ids.Framework]*registryv1.Framework // tombstones, and why an id can't come back
	completed     []*FrameworkPage
	nextFramework int
	nextRemoval   time.Time // when the next agent may become unreachable

	agents      map[ids.Agent]*agent
	conns       map[ConnID]*conn
	addresses   map[string]*agent // by "ip:port"
	recovered   map[ids.Agent]*registryv1.Agent
	unreachable map[ids.Agent]*registryv1.Agent
	gone        map[ids.Agent]*registryv1.Agent
	nextAgent   int

	offers       map[ids.Offer]*offer
	inverse      map[ids.Offer]*inverseOffer
	oldest       *offer // of the outstanding ones
	newest       *offer
	nextOffer    uint64
	inverseInfos map[inverseKey]InverseStatus

	weights  map[string]float64
	quotas   map[string]*quotav1.QuotaConfig
	schedule *maintenancev1.Schedule
	machines map[machineKey]*mesosv1.MachineInfo

	awaited int // agents that must come back before offers resume; see pauseForQuota

	operators bool // at least one operator stream is open, so that events are worth making

	counters Counters
	pages    pages
}

// Registry is what was read from the store before this leader began: keys as registry.proto lays them out.
type Registry []Record

// New makes the state of a leader that was elected now. The effects of recovery wait for the first Flush.
func New(cfg Config, registry Registry, now time.Time) (*State, error) {
	s := &State{
		cfg:          cfg,
		announced:    announcedMaster(cfg.Master),
		now:          now,
		elected:      now,
		nextOffer:    cfg.FirstOffer,
		draws:        cfg.Seed,
		alloc:        allocator.New(cfg.Allocator),
		storing:      map[Token]func(error){},
		frameworks:   map[ids.Framework]*framework{},
		streams:      map[StreamID]*framework{},
		subscribing:  map[StreamID]*subscription{},
		ended:        map[ids.Framework]*registryv1.Framework{},
		agents:       map[ids.Agent]*agent{},
		conns:        map[ConnID]*conn{},
		addresses:    map[string]*agent{},
		recovered:    map[ids.Agent]*registryv1.Agent{},
		unreachable:  map[ids.Agent]*registryv1.Agent{},
		gone:         map[ids.Agent]*registryv1.Agent{},
		offers:       map[ids.Offer]*offer{},
		inverse:      map[ids.Offer]*inverseOffer{},
		inverseInfos: map[inverseKey]InverseStatus{},
		weights:      map[string]float64{},
		quotas:       map[string]*quotav1.QuotaConfig{},
		machines:     map[machineKey]*mesosv1.MachineInfo{},
		schedule:     &maintenancev1.Schedule{},
		counters: Counters{
			MessagesByCall:      map[string]uint64{},
			TasksByState:        map[mesosv1.TaskState]uint64{},
			TasksBySourceReason: map[TaskCause]uint64{},
			OperationsByType:    map[string]uint64{},
		},
	}
	s.pages.init()
	if err := s.recover(registry); err != nil {
		return nil, err
	}
	return s, nil
}

// Step handles one event. Its effects wait for the next Flush.
func (s *State) Step(now time.Time, ev Event) {
	s.advance(now)
	switch e := ev.(type) {
	case *Acknowledge:
		if f := s.calling(e.Stream, e.Framework, schedulerv1.Call_ACKNOWLEDGE); f != nil {
			s.acknowledge(f, e.Agent, e.Task, e.UUID[:])
		}
	case *SchedulerCall:
		s.schedulerCall(e)
	case *AgentMessage:
		s.agentMessage(e)
	case *StoreDone:
		if done, ok := s.storing[e.Token]; ok {
			delete(s.storing, e.Token)
			done(e.Err)
		}
	case *SchedulerSubscribe:
		s.subscribe(e)
	case *SchedulerDisconnected:
		s.schedulerDisconnected(e.Stream)
	case *AgentDisconnected:
		s.agentDisconnected(e.Conn)
	case *OperatorCall:
		s.operatorCall(e)
	case *OperatorSubscribe:
		s.operators = true
		s.emit(&StartOperator{Stream: e.Stream, Snapshot: s.Publish()})
	case *Whitelist:
		s.alloc.SetWhitelist(e.Hostnames)
	case *Explain:
		s.explain(e)
	case *KillTask:
		s.killTask(e)
	}
}

// Flush runs the timers that are due, makes the offers that the events since the last Flush allow, and hands over all
// effects. The slice belongs to the caller.
func (s *State) Flush(now time.Time) []Effect {
	s.advance(now)
	s.runTimers()
	s.expireOffers()
	s.allocate()
	out := s.out
	s.out = nil
	return out
}

// NextTimer says when Flush must be called even if nothing happens.
func (s *State) NextTimer() (time.Time, bool) {
	var next time.Time
	earlier := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	if len(s.timers) > 0 {
		earlier(s.timers[0].when)
	}
	if s.cfg.OfferTimeout > 0 && s.oldest != nil {
		earlier(s.oldest.page.Time.Add(s.cfg.OfferTimeout))
	}
	if t, ok := s.alloc.NextTimer(); ok {
		if t.IsZero() {
			t = s.now // agents wait to be visited
		}
		earlier(t)
	}
	return next, !next.IsZero()
}

// advance moves the time; it never goes back, whatever the clock of the host does.
func (s *State) advance(now time.Time) {
	if now.After(s.now) {
		s.now = now
	}
}

func (s *State) emit(e Effect) { s.out = append(s.out, e) }

func (s *State) log(level slog.Level, message string, attrs ...any) {
	s.emit(&Log{Level: level, Message: message, Attrs: attrs})
}

// store writes to the registry and calls done when it is durable or has failed. Until then the caller's state must say
// that the change is under way.
func (s *State) store(puts []Record, deletes []string, done func(error)) {
	s.nextToken++
	s.storing[s.nextToken] = done
	s.emit(&Store{Token: s.nextToken, Puts: puts, Deletes: deletes})
}

// storeQuietly writes what the registry should follow but nobody waits for. A failure means that the store is lost, which the
// owner of the store acts upon (it steps down).
func (s *State) storeQuietly(puts []Record, deletes []string) {
	s.store(puts, deletes, func(err error) {
		if err != nil {
			s.log(slog.LevelWarn, "registry write lost", "error", err)
		}
	})
}

func record(key string, m proto.Message) Record {
	b, err := proto.MarshalOptions{Deterministic: true, AllowPartial: true}.Marshal(m)
	if err != nil {
		// Only invalid UTF-8 gets here, and that is refused where messages come in.
		panic(fmt.Sprintf("core: record %s: %v", key, err))
	}
	return Record{Key: key, Value: b}
}

// reply answers a call; a zero token wants no answer.
func (s *State) reply(t Token, status int, format string, args ...any) {
	if t == 0 {
		return
	}
	msg := format
	if len(args) > 0 {
		msg = fmt.Sprintf(format, args...)
	}
	s.emit(&Reply{Token: t, Status: status, Message: msg})
}

func (s *State) operatorEvent(e *masterv1.Event) {
	if s.operators {
		s.emit(&SendOperator{Event: e})
	}
}

func (s *State) authorized(principal string, action Action, object string) bool {
	return s.cfg.Authorizer == nil || s.cfg.Authorizer.Authorized(principal, action, object)
}

// draw is the next number of a splitmix64 generator: all that looks random here comes from the seed.
func (s *State) draw() uint64 {
	s.draws += 0x9e3779b97f4a7c15
	z := s.draws
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// newUUID makes a version 4 UUID from the seeded generator.
func (s *State) newUUID() []byte {
	var b [16]byte
	for i := range 2 {
		v := s.draw()
		for j := range 8 {
			b[i*8+j] = byte(v >> (8 * j))
		}
	}
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return b[:]
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// pages are the published pages and which of them are stale.
type pages struct {
	version         uint64
	frameworks      btree.Map[ids.Framework, *FrameworkPage]
	agents          btree.Map[ids.Agent, *AgentPage]
	recovered       btree.Map[ids.Agent, *mesosv1.AgentInfo]
	unreachable     btree.Map[ids.Agent, time.Time]
	gone            btree.Map[ids.Agent, time.Time]
	dirtyFrameworks map[*framework]struct{}
	dirtyAgents     map[*agent]struct{}
}

func (p *pages) init() {
	p.dirtyFrameworks = map[*framework]struct{}{}
	p.dirtyAgents = map[*agent]struct{}{}
}
