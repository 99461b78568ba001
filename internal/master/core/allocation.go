package core

import (
	"log/slog"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/master/allocator"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// What the allocator is told. It answers with an error when its books and the master's differ, which is a defect: it is
// logged, and both go on with what the allocator could do.

func (s *State) check(err error, what string) {
	if err != nil {
		s.log(slog.LevelError, "allocator disagrees", "about", what, "error", err)
	}
}

// free gives resources back; refuse installs a filter against them.
func (s *State) free(f *framework, a *agent, res resources.Resources, refuse *allocator.Refusal) {
	if !res.IsEmpty() {
		s.check(s.alloc.Recover(f.id, a.id, res, refuse, s.now), "recovered resources")
	}
}

// occupy accounts resources that are used outside of any offer.
func (s *State) occupy(f *framework, a *agent, res resources.Resources) {
	if !res.IsEmpty() {
		s.check(s.alloc.Allocated(f.id, a.id, res), "resources in use")
	}
}

func (f *framework) allocatorInfo(maxProgramSize int) allocator.FrameworkInfo {
	out := allocator.FrameworkInfo{
		Roles: f.roles,
		Capabilities: allocator.FrameworkCapabilities{
			Revocable: f.caps.revocable, GPU: f.caps.gpu, Shared: f.caps.shared, MultiRole: f.caps.multiRole,
			ReservationRefinement: f.caps.refinement, RegionAware: f.caps.regionAware,
		},
	}
	for _, r := range f.roles {
		if f.suppressed[r] {
			out.Suppressed = append(out.Suppressed, r)
		}
	}
	// Both were validated when they came in.
	out.Constraints, _ = allocator.CompileConstraints(f.constraints, allocator.ConstraintLimits{MaxProgramSize: maxProgramSize})
	for role, filter := range f.info.GetOfferFilters() {
		min := filter.GetMinAllocatableResources()
		if min == nil {
			continue
		}
		if out.MinAllocatable == nil {
			out.MinAllocatable = map[string][]resources.Quantities{}
		}
		list := []resources.Quantities{}
		for _, q := range min.GetQuantities() {
			if x, err := resources.QuantitiesOfScalars(q.GetQuantities()); err == nil {
				list = append(list, x)
			}
		}
		out.MinAllocatable[role] = list
	}
	return out
}

func validateConstraints(c *schedulerv1.OfferConstraints, maxProgramSize int) error {
	_, err := allocator.CompileConstraints(c, allocator.ConstraintLimits{MaxProgramSize: maxProgramSize})
	return err
}

func allocatorAgent(a *agent) allocator.AgentInfo {
	return allocator.AgentInfo{
		Hostname:   a.info.GetHostname(),
		Attributes: a.info.GetAttributes(),
		Domain:     a.info.GetDomain(),
		Capabilities: allocator.AgentCapabilities{
			MultiRole:             a.has(mesosv1.AgentInfo_Capability_MULTI_ROLE),
			HierarchicalRole:      a.has(mesosv1.AgentInfo_Capability_HIERARCHICAL_ROLE),
			ReservationRefinement: a.has(mesosv1.AgentInfo_Capability_RESERVATION_REFINEMENT),
		},
		Total:          a.total,
		Unavailability: a.unavailability,
	}
}

// updateAllocatorAgent tells the allocator what an agent is like now.
func (s *State) updateAllocatorAgent(a *agent) {
	s.check(s.alloc.UpdateAgent(a.id, allocatorAgent(a)), "an agent's total")
}

// pauseForQuota holds offers back after an election while quota is set and many agents are missing: their use would not be
// counted (facts 5). It ends when four in five are back, or when their time is over.
func (s *State) pauseForQuota() {
	if len(s.quotas) == 0 || len(s.recovered) == 0 {
		return
	}
	s.awaited = (len(s.recovered)*4 + 4) / 5
	s.alloc.SetPaused(true)
	s.after(s.cfg.AgentReregisterTimeout, s.resumeOffers)
}

func (s *State) agentCameBack() {
	if s.awaited > 0 {
		s.awaited--
		if s.awaited == 0 {
			s.resumeOffers()
		}
	}
}

func (s *State) resumeOffers() {
	s.awaited = 0
	s.alloc.SetPaused(false)
}
