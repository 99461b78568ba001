package core

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	quotav1 "github.com/orchestrator/orchestrator/api/mesos/v1/quota"
	registryv1 "github.com/orchestrator/orchestrator/api/registry/v1"
	"github.com/orchestrator/orchestrator/internal/master/allocator"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// quotaOf converts a configuration for the allocator. An empty one is no quota: nil.
func quotaOf(c *quotav1.QuotaConfig) (*allocator.Quota, error) {
	g, err := resources.QuantitiesOfScalars(c.GetGuarantees())
	if err != nil {
		return nil, fmt.Errorf("invalid guarantees: %w", err)
	}
	l, err := resources.LimitsOfScalars(c.GetLimits())
	if err != nil {
		return nil, fmt.Errorf("invalid limits: %w", err)
	}
	if g.IsEmpty() && len(c.GetLimits()) == 0 {
		return nil, nil
	}
	return &allocator.Quota{Guarantees: g, Limits: l}, nil
}

// setQuota makes a validated configuration true.
func (s *State) setQuota(c *quotav1.QuotaConfig) {
	q, err := quotaOf(c)
	if err != nil {
		return // validated where it came in
	}
	if q == nil {
		delete(s.quotas, c.GetRole())
	} else {
		s.quotas[c.GetRole()] = c
	}
	s.check(s.alloc.SetQuota(c.GetRole(), q), "quota")
}

func validateQuota(c *quotav1.QuotaConfig) error {
	role := c.GetRole()
	if err := resources.ValidateRole(role); err != nil {
		return fmt.Errorf("Invalid 'QuotaConfig.role': %w", err)
	}
	if role == "*" {
		return errors.New("Invalid 'QuotaConfig.role': setting quota for the default '*' role is not supported")
	}
	if strings.Contains(role, "/") {
		return errors.New("Invalid 'QuotaConfig.role': quota is supported for top-level roles only")
	}
	q, err := quotaOf(c)
	if err != nil {
		return fmt.Errorf("Invalid QuotaConfig for role '%s': %w", role, err)
	}
	if q == nil {
		return nil
	}
	for name, l := range c.GetLimits() {
		if math.IsNaN(l.GetValue()) || l.GetValue() < 0 {
			return fmt.Errorf("Invalid QuotaConfig for role '%s': the limit of %s must be a non-negative number", role, name)
		}
		if g, ok := c.GetGuarantees()[name]; ok && g.GetValue() > l.GetValue() {
			return fmt.Errorf("Invalid QuotaConfig for role '%s': the guarantee of %s (%v) exceeds its limit (%v)", role, name, g.GetValue(), l.GetValue())
		}
	}
	return nil
}

// updateQuota handles UPDATE_QUOTA: all configurations or none.
func (s *State) updateQuota(e *OperatorCall) {
	c := e.Call.GetUpdateQuota()
	s.applyQuota(e, c.GetQuotaConfigs(), c.GetForce())
}

func (s *State) applyQuota(e *OperatorCall, configs []*quotav1.QuotaConfig, force bool) {
	if len(configs) == 0 {
		s.reply(e.Token, 400, "'UpdateQuota.quota_configs' must not be empty")
		return
	}
	seen := map[string]bool{}
	for _, c := range configs {
		if err := validateQuota(c); err != nil {
			s.reply(e.Token, 400, "%s", err)
			return
		}
		if seen[c.GetRole()] {
			s.reply(e.Token, 400, "The quota of role '%s' is given twice", c.GetRole())
			return
		}
		seen[c.GetRole()] = true
		if !s.authorized(e.Principal, ActionUpdateQuota, c.GetRole()) {
			s.reply(e.Token, 403, "not authorized to update the quota of role '%s'", c.GetRole())
			return
		}
	}
	if !force {
		if err := s.checkQuotaFits(configs); err != nil {
			s.reply(e.Token, 400, "%s", err)
			return
		}
	}
	var puts []Record
	var deletes []string
	for _, c := range configs {
		if q, _ := quotaOf(c); q == nil {
			deletes = append(deletes, "quota/"+c.GetRole())
		} else {
			puts = append(puts, record("quota/"+c.GetRole(), &registryv1.Quota{Config: c}))
		}
	}
	s.store(puts, deletes, func(err error) {
		if err != nil {
			s.storeFailed(e.Token, err)
			return
		}
		for _, c := range configs {
			s.setQuota(c)
			// What is offered may be above the new limit: it is offered again within it.
			s.rescindRole(c.GetRole())
		}
		s.reply(e.Token, 200, "")
	})
}

// checkQuotaFits refuses guarantees that the cluster can't give, and limits below what is consumed already (facts 5).
func (s *State) checkQuotaFits(configs []*quotav1.QuotaConfig) error {
	guaranteed := map[string]float64{}
	changed := map[string]bool{}
	for _, c := range configs {
		changed[c.GetRole()] = true
		for n, g := range c.GetGuarantees() {
			guaranteed[n] += g.GetValue()
		}
	}
	for role, c := range s.quotas {
		if changed[role] {
			continue
		}
		for n, g := range c.GetGuarantees() {
			guaranteed[n] += g.GetValue()
		}
	}
	var capacity resources.Quantities
	for _, a := range s.agents {
		capacity = capacity.Add(a.total.NonRevocable().Quantities())
	}
	for n, g := range guaranteed {
		if have := capacity.Get(n).Float(); g > have {
			return fmt.Errorf("Invalid QuotaConfig: total quota guarantees of %s (%v) exceed cluster capacity (%v); use 'force' to set it all the same", n, g, have)
		}
	}
	for _, c := range configs {
		consumed := s.consumed(c.GetRole())
		for n, l := range c.GetLimits() {
			if have := consumed.Get(n).Float(); have > l.GetValue() {
				return fmt.Errorf("Invalid QuotaConfig: role '%s' already consumes %v %s, more than the limit of %v; use 'force' to set it all the same", c.GetRole(), have, n, l.GetValue())
			}
		}
	}
	return nil
}

// consumed is what counts against a role's limit: what is reserved for it and the roles below it, used or not, and what
// they use of the rest (facts 5). It walks the cluster, which only a change of quota does.
func (s *State) consumed(role string) resources.Quantities {
	var sum resources.Quantities
	ofRole := func(res resources.Resources) resources.Resources {
		return res.NonRevocable().Unreserved().Filter(func(r resources.Resource) bool {
			return resources.IsRoleOrDescendant(r.AllocationRole(), role)
		})
	}
	for _, a := range s.agents {
		sum = sum.Add(a.total.Filter(func(r resources.Resource) bool {
			return r.IsReserved() && resources.IsRoleOrDescendant(r.Role(), role)
		}).Quantities())
		for t := range a.tasks {
			sum = sum.Add(ofRole(t.held()).Quantities())
		}
		for _, execs := range a.executors {
			for _, x := range execs {
				sum = sum.Add(ofRole(x.res).Quantities())
			}
		}
	}
	return sum
}

// rescindRole takes back the offers of a role and of those below it.
func (s *State) rescindRole(role string) {
	for _, o := range sortedOffers(s.offers) {
		if resources.IsRoleOrDescendant(o.role, role) {
			s.rescind(o)
		}
	}
}

// setQuotaDeprecated handles SET_QUOTA: guarantee and limit are the same, and the role must not have quota.
func (s *State) setQuotaDeprecated(e *OperatorCall) {
	r := e.Call.GetSetQuota().GetQuotaRequest()
	if s.quotas[r.GetRole()] != nil {
		s.reply(e.Token, 400, "Quota cannot be set for role '%s' which already has quota", r.GetRole())
		return
	}
	c := &quotav1.QuotaConfig{Role: r.Role, Guarantees: map[string]*mesosv1.Value_Scalar{}, Limits: map[string]*mesosv1.Value_Scalar{}}
	for _, g := range r.GetGuarantee() {
		if g.GetType() != mesosv1.Value_SCALAR {
			s.reply(e.Token, 400, "Quota is supported for scalar resources only, not for '%s'", g.GetName())
			return
		}
		if _, dup := c.Guarantees[g.GetName()]; dup {
			s.reply(e.Token, 400, "Duplicate resource '%s' in the quota request", g.GetName())
			return
		}
		c.Guarantees[g.GetName()] = g.GetScalar()
		c.Limits[g.GetName()] = g.GetScalar()
	}
	s.applyQuota(e, []*quotav1.QuotaConfig{c}, r.GetForce())
}

func (s *State) removeQuotaDeprecated(e *OperatorCall) {
	role := e.Call.GetRemoveQuota().GetRole()
	if s.quotas[role] == nil {
		s.reply(e.Token, 400, "Failed to remove quota: role '%s' has no quota set", role)
		return
	}
	s.applyQuota(e, []*quotav1.QuotaConfig{{Role: proto.String(role)}}, true)
}

// updateWeights handles UPDATE_WEIGHTS.
func (s *State) updateWeights(e *OperatorCall) {
	infos := e.Call.GetUpdateWeights().GetWeightInfos()
	var puts []Record
	for _, w := range infos {
		role := w.GetRole()
		if err := resources.ValidateRole(role); err != nil {
			s.reply(e.Token, 400, "Invalid role '%s': %v", role, err)
			return
		}
		if v := w.GetWeight(); math.IsNaN(v) || math.IsInf(v, 0) || v <= 0 {
			s.reply(e.Token, 400, "Invalid weight '%v' for role '%s': it must be positive", v, role)
			return
		}
		if !s.authorized(e.Principal, ActionUpdateWeights, role) {
			s.reply(e.Token, 403, "not authorized to update the weight of role '%s'", role)
			return
		}
		puts = append(puts, record("weights/"+role, &registryv1.Weight{Role: proto.String(role), Weight: proto.Float64(w.GetWeight())}))
	}
	if len(puts) == 0 {
		s.reply(e.Token, 200, "")
		return
	}
	s.store(puts, nil, func(err error) {
		if err != nil {
			s.storeFailed(e.Token, err)
			return
		}
		for _, w := range infos {
			s.weights[w.GetRole()] = w.GetWeight()
			s.check(s.alloc.SetWeight(w.GetRole(), w.GetWeight()), "a weight")
			s.rescindRole(w.GetRole())
		}
		s.reply(e.Token, 200, "")
	})
}
