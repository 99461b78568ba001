package allocator

import (
	"math"
	"slices"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// Options are fixed for the life of an allocator.
type Options struct {
	// MinAllocatable are alternatives: resources that satisfy none are not offered (--min_allocatable_resources). Empty: no
	// minimum. Frameworks override it per role.
	MinAllocatable []resources.Quantities
	// FairSharingExcluded are scalar names that don't count in shares (--fair_sharing_excluded_resource_names).
	FairSharingExcluded []string
	// FilterGPU keeps agents that have gpus from frameworks without GPU_RESOURCES (--filter_gpu_resources).
	FilterGPU bool
	// Domain is the master's: agents in another region go to frameworks with REGION_AWARE only.
	Domain *mesosv1.DomainInfo
	// AllocationInterval is the least life of an offer filter (--allocation_interval).
	AllocationInterval time.Duration
	// MaxOffersPerCycle bounds the offers of one Allocate, 0 for no bound; what is left over is offered in the next.
	MaxOffersPerCycle int
	// RefusedPerSecond is on how many agents at least, in a second, what frameworks refused is offered to the next one; on every agent once a
	// second if there are more. 0: all at once. See patient.
	RefusedPerSecond int
}

// DefaultMinAllocatable is Mesos' default of --min_allocatable_resources: cpus:0.01|mem:32.
func DefaultMinAllocatable() []resources.Quantities {
	cpus, _ := resources.NewQuantities(map[string]float64{resources.CPUs: 0.01})
	mem, _ := resources.NewQuantities(map[string]float64{resources.Mem: 32})
	return []resources.Quantities{cpus, mem}
}

// Offer is what one framework is offered on one agent for one role.
type Offer struct {
	Framework ids.Framework
	Role      string
	Agent     ids.Agent
	Resources resources.Resources // allocated to Role
}

// InverseOffer asks a framework to leave an agent that becomes unavailable.
type InverseOffer struct {
	Framework      ids.Framework
	Agent          ids.Agent
	Unavailability *mesosv1.Unavailability
}

// Allocator is the whole state. Make one with New.
type Allocator struct {
	opts       Options
	names      names
	minGlobal  []minimum
	home       region
	agents     map[ids.Agent]*agent
	slots      []*agent // agents by dense id, nil where free
	hashes     []uint64 // of the agents' ids, by dense id: they decide, with the seed of a cycle, the order of visits
	freeSlots  []int32
	frameworks map[ids.Framework]*framework
	roles      map[string]*role
	clients    []client
	freeClient []int32
	clientNode []int32 // tree node by client id
	tree       tree

	eligible    bitmap // clients that take offers: framework active, role subscribed and not suppressed
	nEligible   int
	compatible  [classes]bitmap // clients that may be offered agents of a class
	constrained bitmap          // clients with offer constraints
	ownMinimum  bitmap          // clients whose minimum is not the global one
	revocable   bitmap          // clients that can use revocable resources
	exhausted   bitmap          // clients whose role's limit leaves no room for the global minimum
	fresh       bitmap          // clients that became able to take offers since the last cycle
	whitelist   map[string]bool // nil: every hostname
	paused      bool
	generation  uint32

	dirty    []int32 // agents to visit
	patient  patient
	held     int // agents held back for quota
	quota    quotaState
	expiries expiries
	refusals int // offer filters in force
	inverse  inverseState
	cycle    cycleState
}

// New makes an empty allocator.
func New(opts Options) *Allocator {
	a := &Allocator{
		opts: opts, names: newNames(), home: regionOf(opts.Domain), tree: newTree(),
		agents: map[ids.Agent]*agent{}, frameworks: map[ids.Framework]*framework{}, roles: map[string]*role{},
	}
	a.minGlobal = a.minimums(opts.MinAllocatable)
	for _, name := range opts.FairSharingExcluded {
		i := a.names.of(name)
		for len(a.tree.excluded) <= i {
			a.tree.excluded = append(a.tree.excluded, false)
		}
		a.tree.excluded[i] = true
	}
	a.expiries.init()
	return a
}

// nextGen returns a number that no agent or client had before, by which timers tell whom they are about.
func (a *Allocator) nextGen() uint32 { a.generation++; return a.generation }

// SetPaused stops and starts offers, as the master does while it waits for agents after a failover. Everything else goes on.
func (a *Allocator) SetPaused(paused bool) { a.paused = paused }

// SetWhitelist names the hosts whose agents may be offered; nil means all.
func (a *Allocator) SetWhitelist(hostnames []string) {
	if hostnames == nil {
		a.whitelist = nil
	} else {
		a.whitelist = make(map[string]bool, len(hostnames))
		for _, h := range hostnames {
			a.whitelist[h] = true
		}
	}
	for _, ag := range a.slots {
		if ag != nil {
			a.updateOfferable(ag)
		}
	}
}

// minimum is one alternative of what is worth offering.
type minimum []struct {
	index  int
	amount resources.Amount
}

func (a *Allocator) minimums(alternatives []resources.Quantities) []minimum {
	out := make([]minimum, 0, len(alternatives))
	for _, q := range alternatives {
		var m minimum
		for name, amount := range q.All() {
			m = append(m, struct {
				index  int
				amount resources.Amount
			}{a.names.of(name), amount})
		}
		out = append(out, m)
	}
	return out
}

// satisfied reports whether sums reach any of the alternatives; no alternatives are always satisfied.
func satisfied(alternatives []minimum, sums vec) bool {
	if len(alternatives) == 0 {
		return true
	}
	return slices.ContainsFunc(alternatives, func(m minimum) bool {
		for _, x := range m {
			if sums.at(x.index) < x.amount {
				return false
			}
		}
		return true
	})
}

// Refusal is a filter that a framework asks for when it leaves resources unused.
type Refusal struct{ For time.Duration }

const (
	defaultRefusal = 5 * time.Second
	maxRefusal     = 365 * 24 * time.Hour
)

// RefusalOf reads the filters of ACCEPT, DECLINE and their inverse twins: none given means 5 seconds, 0 no filter (nil), what
// is negative or no number 5 seconds, and nothing lasts longer than 365 days (facts 1.7).
func RefusalOf(f *mesosv1.Filters) *Refusal {
	if f == nil || f.RefuseSeconds == nil {
		return &Refusal{For: defaultRefusal}
	}
	switch s := f.GetRefuseSeconds(); {
	case math.IsNaN(s) || s < 0:
		return &Refusal{For: defaultRefusal}
	case s > maxRefusal.Seconds():
		return &Refusal{For: maxRefusal}
	case s == 0:
		return nil
	default:
		return &Refusal{For: time.Duration(s * float64(time.Second))}
	}
}
