package core

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// debt is a reservation on an agent that no instance has any more. It is given back when it is offered. Mesos doesn't tell whether
// that succeeded, so offers are asked for until one of the same agent comes without it. A debt is a record, because a process
// that starts with nothing to launch would otherwise never look at an offer.
type debt struct {
	Role  string       `json:"role"`
	Since spec.Version `json:"since"`
	tried time.Time    // when it was given back last
}

// debts by agent and instance.
type debts map[string]map[string]*debt

func debtKey(agent, instance string) string { return debtPrefix + agent + "/" + instance }

const (
	// debtKept is how long offers are asked for because of a debt: its agent may never come back.
	debtKept = 10 * time.Minute
	// debtSettling is how long after giving back an offer may still come that was made before.
	debtSettling = time.Second
)

// owe notes that what an instance has reserved is to be given back.
func (m *Machine) owe(i *Instance) {
	if m.debts[i.AgentID] == nil {
		m.debts[i.AgentID] = map[string]*debt{}
	}
	d := &debt{Role: i.Role, Since: m.stamp()}
	m.debts[i.AgentID][i.ID] = d
	b, err := json.Marshal(d)
	if err != nil {
		panic(fmt.Sprintf("the debt of %s can't be encoded: %v", i.ID, err))
	}
	m.emit(Put{Key: debtKey(i.AgentID, i.ID), Value: b})
	m.reviveDue = true
}

func (m *Machine) loadDebt(r Record) error {
	agent, instance, ok := strings.Cut(strings.TrimPrefix(r.Key, debtPrefix), "/")
	d := new(debt)
	if err := json.Unmarshal(r.Value, d); err != nil || !ok {
		return fmt.Errorf("record %s can't be understood: %w", r.Key, err)
	}
	if m.debts[agent] == nil {
		m.debts[agent] = map[string]*debt{}
	}
	m.debts[agent][instance] = d
	return nil
}

func (m *Machine) forgive(agent, instance string) {
	delete(m.debts[agent], instance)
	if len(m.debts[agent]) == 0 {
		delete(m.debts, agent)
	}
	m.emit(Delete{Key: debtKey(agent, instance)})
}

// expireDebts gives up on what was not offered for too long.
func (m *Machine) expireDebts() {
	for _, agent := range sortedKeys(m.debts) {
		for _, instance := range sortedKeys(m.debts[agent]) {
			if m.now.Sub(m.debts[agent][instance].Since.Time()) > debtKept {
				m.forgive(agent, instance)
			}
		}
	}
}

// strayReservations gives back what this framework reserved and no instance owns any more.
func (m *Machine) strayReservations(o *mesosv1.Offer, p *purse) []*mesosv1.Offer_Operation {
	agent, role := o.GetAgentId().GetValue(), o.GetAllocationInfo().GetRole()
	byOwner := map[string][]*mesosv1.Resource{}
	for k := range p.lots {
		l := &p.lots[k]
		if !l.ours {
			continue
		}
		if i := m.instance(l.owner); i != nil && i.Reserved && i.AgentID == agent {
			continue
		}
		l.left = 0
		byOwner[l.owner] = append(byOwner[l.owner], l.res)
	}
	for _, instance := range sortedKeys(m.debts[agent]) {
		d := m.debts[agent][instance]
		switch {
		case role != "" && role != d.Role:
		case byOwner[instance] != nil:
			d.tried = m.now
		case !d.tried.IsZero() && m.now.Sub(d.tried) >= debtSettling:
			m.forgive(agent, instance)
		}
	}
	var ops []*mesosv1.Offer_Operation
	for _, owner := range sortedKeys(byOwner) {
		var volumes, plain []*mesosv1.Resource
		for _, r := range byOwner[owner] {
			if r.GetDisk().GetPersistence() != nil {
				volumes = append(volumes, r)
				c := r.CloneVT()
				c.Disk.Persistence, c.Disk.Volume = nil, nil
				if c.Disk.Source == nil {
					c.Disk = nil
				}
				plain = append(plain, c)
				continue
			}
			plain = append(plain, r)
		}
		if len(volumes) > 0 {
			kind := mesosv1.Offer_Operation_DESTROY
			ops = append(ops, &mesosv1.Offer_Operation{Type: &kind, Destroy: &mesosv1.Offer_Operation_Destroy{Volumes: volumes}})
		}
		kind := mesosv1.Offer_Operation_UNRESERVE
		ops = append(ops, &mesosv1.Offer_Operation{Type: &kind, Unreserve: &mesosv1.Offer_Operation_Unreserve{Resources: plain}})
	}
	return ops
}
