package core

import (
	"time"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// Reason is why an offer was not taken, in Marathon's words.
type Reason string

// The reasons, in the order in which an offer is looked at.
const (
	UnfulfilledRole       Reason = "UnfulfilledRole"
	UnfulfilledConstraint Reason = "UnfulfilledConstraint"
	NoReservation         Reason = "NoCorrespondingReservationFound"
	AgentMaintenance      Reason = "AgentMaintenance"
	InsufficientCPUs      Reason = "InsufficientCpus"
	InsufficientMemory    Reason = "InsufficientMemory"
	InsufficientDisk      Reason = "InsufficientDisk"
	InsufficientGPUs      Reason = "InsufficientGpus"
	InsufficientPorts     Reason = "InsufficientPorts"
	ScarceResources       Reason = "DeclinedScarceResources"
)

// reasons lists them all in that order.
var reasons = []Reason{UnfulfilledRole, UnfulfilledConstraint, NoReservation, AgentMaintenance, InsufficientCPUs, InsufficientMemory, InsufficientDisk, InsufficientGPUs, InsufficientPorts, ScarceResources}

// maxUnused bounds the refused offers that are remembered for a spec: the last of each agent.
const maxUnused = 500

// UnusedOffer is an offer that an instance was not placed on.
type UnusedOffer struct {
	OfferID, AgentID, Host string
	Detail                 string // of the first reason: the constraint, or what lacks
	Reasons                []Reason
	At                     spec.Version
}

// OfferStats is what became of the offers that a spec's waiting instances saw since the first of them began to wait.
type OfferStats struct {
	Processed, Unused    int
	LastUnused, LastUsed spec.Version
	Attempt              map[Reason]int
	last                 map[string]UnusedOffer // by agent
}

func (st *specState) refused(u UnusedOffer) {
	if st.stats == nil {
		st.stats = &OfferStats{Attempt: map[Reason]int{}, last: map[string]UnusedOffer{}}
	}
	s := st.stats
	s.Processed++
	s.Unused++
	s.LastUnused = u.At
	if len(u.Reasons) > 0 {
		s.Attempt[u.Reasons[0]]++
	}
	if _, ok := s.last[u.AgentID]; ok || len(s.last) < maxUnused {
		s.last[u.AgentID] = u
	}
}

func (st *specState) used(at spec.Version) {
	if st.stats == nil {
		st.stats = &OfferStats{Attempt: map[Reason]int{}, last: map[string]UnusedOffer{}}
	}
	st.stats.Processed++
	st.stats.LastUsed = at
}

// Rejects is one row of the funnel.
type Rejects struct {
	Reason    Reason `json:"reason"`
	Declined  int    `json:"declined"`
	Processed int    `json:"processed"`
}

func funnel(counts map[Reason]int, processed int) []Rejects {
	out := make([]Rejects, 0, len(reasons))
	for _, r := range reasons {
		out = append(out, Rejects{Reason: r, Declined: counts[r], Processed: processed})
		processed -= counts[r]
	}
	return out
}

// QueueItem is what the launch queue shows of a spec.
type QueueItem struct {
	Spec        *spec.Spec
	Count       int
	TimeLeft    time.Duration
	Since       spec.Version
	Stats       OfferStats
	LastOffers  []Rejects
	LastAttempt []Rejects
	Unused      []UnusedOffer
	Blocked     string // why nothing is even tried, if so
}

// Queue lists the specs with instances that wait for an offer.
func (m *Machine) Queue() []QueueItem {
	var out []QueueItem
	for _, id := range sortedKeys(m.waiting) {
		if q, ok := m.QueueItem(id); ok {
			out = append(out, q)
		}
	}
	return out
}

// QueueItem is the entry of one spec.
func (m *Machine) QueueItem(id string) (QueueItem, bool) {
	st, s := m.specs[id], m.root.Get(id)
	if st == nil || s == nil || len(st.scheduled) == 0 {
		return QueueItem{}, false
	}
	q := QueueItem{Spec: s, Count: len(st.scheduled), TimeLeft: m.startLeft(s), Since: st.since}
	switch {
	case !m.connected:
		q.Blocked = "there is no connection to a Mesos master"
	case q.TimeLeft > 0:
		q.Blocked = "earlier instances failed: the next start waits"
	}
	counts := map[Reason]int{}
	if st.stats != nil {
		q.Stats = *st.stats
		for _, agent := range sortedKeys(st.stats.last) {
			u := st.stats.last[agent]
			q.Unused = append(q.Unused, u)
			if len(u.Reasons) > 0 {
				counts[u.Reasons[0]]++
			}
		}
	}
	q.LastOffers = funnel(counts, len(q.Unused))
	q.LastAttempt = funnel(q.Stats.Attempt, q.Stats.Processed)
	return q, true
}
