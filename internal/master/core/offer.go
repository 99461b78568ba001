package core

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/allocator"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// offer is an outstanding offer: what it holds is nobody else's until it is answered, rescinded or has timed out.
type offer struct {
	id        ids.Offer
	framework *framework
	agent     *agent
	role      string
	res       resources.Resources // allocated to role
	page      *OfferPage
	// Outstanding offers are a list in the order they were made, which is the order in which they time out.
	older, newer *offer
}

type inverseOffer struct {
	id        ids.Offer
	framework *framework
	agent     *agent
	proto     *mesosv1.InverseOffer
}

type inverseKey struct {
	agent     ids.Agent
	framework ids.Framework
}

func formatFrameworkID(master string, n int) string {
	d := strconv.Itoa(n)
	if len(d) < 4 {
		d = "0000"[len(d):] + d
	}
	return master + "-" + d
}

// newOfferID draws from the one counter of offers and inverse offers (facts 1.2).
func (s *State) newOfferID() ids.Offer {
	id := s.cfg.Master.GetId() + "-O" + strconv.FormatUint(s.nextOffer, 10)
	s.nextOffer++
	return ids.Offer(id)
}

// allocate asks the allocator for what can be offered now and sends one OFFERS event per framework.
func (s *State) allocate() {
	offers, inverse := s.alloc.Allocate(s.now, s.draw())
	if len(offers) > 0 || len(inverse) > 0 {
		s.counters.AllocationRuns++
	}
	batches := map[*framework][]*mesosv1.Offer{}
	var order []*framework
	for i := range offers {
		al := &offers[i]
		f, a := s.frameworks[al.Framework], s.agents[al.Agent]
		if f == nil || a == nil || !f.active || !a.active() {
			s.check(s.alloc.Recover(al.Framework, al.Agent, al.Resources, nil, s.now), "an offer to nobody")
			continue
		}
		o := s.makeOffer(f, a, al.Role, al.Resources)
		if batches[f] == nil {
			order = append(order, f)
		}
		batches[f] = append(batches[f], o.page.Offer)
	}
	for _, f := range order {
		f.counters.OffersSent += uint64(len(batches[f]))
		s.counters.OffersSent += uint64(len(batches[f]))
		s.send(f, &schedulerv1.Event{Type: schedulerv1.Event_OFFERS.Enum(), Offers: &schedulerv1.Event_Offers{Offers: batches[f]}})
	}
	s.sendInverseOffers(inverse)
}

func (s *State) makeOffer(f *framework, a *agent, role string, res resources.Resources) *offer {
	o := &offer{id: s.newOfferID(), framework: f, agent: a, role: role, res: res}
	shown := res
	if !f.caps.multiRole {
		shown = res.Unallocate()
	}
	var list []*mesosv1.Resource
	if f.caps.refinement {
		list = shown.Proto()
	} else {
		// The allocator offers no refined reservation to such a framework, so this can't fail.
		list, _ = shown.ProtoPreRefinement()
	}
	p := &mesosv1.Offer{
		Id:             &mesosv1.OfferID{Value: proto.String(string(o.id))},
		FrameworkId:    f.info.GetId(),
		AgentId:        a.info.GetId(),
		Hostname:       a.info.Hostname,
		Url:            a.url,
		Domain:         a.info.Domain,
		Resources:      list,
		Attributes:     a.info.Attributes,
		Unavailability: a.unavailability,
	}
	if f.caps.multiRole {
		p.AllocationInfo = &mesosv1.Resource_AllocationInfo{Role: proto.String(role)}
	}
	for _, eid := range slices.Sorted(maps.Keys(f.executors[a.id])) {
		p.ExecutorIds = append(p.ExecutorIds, &mesosv1.ExecutorID{Value: proto.String(string(eid))})
	}
	o.page = &OfferPage{ID: o.id, Framework: f.id, Agent: a.id, Role: role, Resources: res, Offer: p, Time: s.now}
	s.offers[o.id] = o
	f.offers[o.id] = o
	a.offers[o.id] = o
	if s.newest == nil {
		s.oldest = o
	} else {
		s.newest.newer, o.older = o, s.newest
	}
	s.newest = o
	s.touchFramework(f)
	s.touchAgent(a)
	return o
}

// agentURL is where the agent's API is (offer.url).
func agentURL(a *agent) *mesosv1.URL {
	host, port, _ := cutPort(a.address)
	addr := &mesosv1.Address{Hostname: a.info.Hostname, Port: proto.Int32(int32(port))}
	if host != "" {
		addr.Ip = proto.String(host)
	}
	return &mesosv1.URL{Scheme: proto.String("http"), Address: addr, Path: proto.String("/slave(1)")}
}

// cutPort splits "ip:port".
func cutPort(address string) (host string, port int, ok bool) {
	i := strings.LastIndexByte(address, ':')
	if i < 0 {
		return address, 0, false
	}
	port, err := strconv.Atoi(address[i+1:])
	return strings.Trim(address[:i], "[]"), port, err == nil
}

// forgetOffer takes an offer off the books; what it held is the caller's.
func (s *State) forgetOffer(o *offer) {
	if o.older != nil {
		o.older.newer = o.newer
	} else {
		s.oldest = o.newer
	}
	if o.newer != nil {
		o.newer.older = o.older
	} else {
		s.newest = o.older
	}
	o.older, o.newer = nil, nil
	delete(s.offers, o.id)
	delete(o.framework.offers, o.id)
	delete(o.agent.offers, o.id)
	s.touchFramework(o.framework)
	s.touchAgent(o.agent)
}

// rescind takes an offer back: its resources are free, and the framework is told.
func (s *State) rescind(o *offer) {
	s.forgetOffer(o)
	s.free(o.framework, o.agent, o.res, nil)
	o.framework.counters.OffersRescinded++
	s.send(o.framework, &schedulerv1.Event{
		Type:    schedulerv1.Event_RESCIND.Enum(),
		Rescind: &schedulerv1.Event_Rescind{OfferId: o.page.Offer.GetId()},
	})
}

func (s *State) rescindInverse(o *inverseOffer, tell bool) {
	delete(s.inverse, o.id)
	delete(o.framework.inverse, o.id)
	delete(o.agent.inverse, o.id)
	s.touchFramework(o.framework)
	if tell {
		s.send(o.framework, &schedulerv1.Event{
			Type:                schedulerv1.Event_RESCIND_INVERSE_OFFER.Enum(),
			RescindInverseOffer: &schedulerv1.Event_RescindInverseOffer{InverseOfferId: o.proto.GetId()},
		})
	}
}

// rescindAgentOffers takes back every offer and inverse offer of an agent.
func (s *State) rescindAgentOffers(a *agent) {
	for _, o := range sortedOffers(a.offers) {
		s.rescind(o)
	}
	s.rescindAgentInverse(a)
}

func (s *State) rescindAgentInverse(a *agent) {
	for _, id := range slices.SortedFunc(maps.Keys(a.inverse), compareOfferIDs) {
		s.rescindInverse(a.inverse[id], true)
	}
}

// dropOffers takes back every offer of a framework; tell sends RESCIND.
func (s *State) dropOffers(f *framework, tell bool) {
	for _, o := range sortedOffers(f.offers) {
		if tell {
			s.rescind(o)
			continue
		}
		s.forgetOffer(o)
		f.counters.OffersRescinded++
		s.free(f, o.agent, o.res, nil)
	}
	for _, id := range slices.SortedFunc(maps.Keys(f.inverse), compareOfferIDs) {
		s.rescindInverse(f.inverse[id], tell)
	}
}

// expireOffers rescinds what was not answered in time.
func (s *State) expireOffers() {
	for s.cfg.OfferTimeout > 0 && s.oldest != nil && !s.oldest.page.Time.Add(s.cfg.OfferTimeout).After(s.now) {
		s.rescind(s.oldest)
	}
}

// compareOfferIDs orders offers as they were made: shorter numbers are older.
func compareOfferIDs(a, b ids.Offer) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(string(a), string(b))
}

func sortedOffers(m map[ids.Offer]*offer) []*offer {
	return slices.SortedFunc(maps.Values(m), func(a, b *offer) int { return compareOfferIDs(a.id, b.id) })
}

// decline handles DECLINE; unknown offers are ignored.
func (s *State) decline(f *framework, c *schedulerv1.Call_Decline) {
	for _, id := range c.GetOfferIds() {
		o := f.offers[ids.Offer(id.GetValue())]
		if o == nil {
			continue
		}
		s.forgetOffer(o)
		f.counters.OffersDeclined++
		refusal := allocator.RefusalOf(c.GetFilters())
		if refusal == nil {
			// No filter; but it would be the same offer again, as fast as the wire carries it. Mesos makes it at its next round.
			refusal = &allocator.Refusal{For: time.Nanosecond}
		}
		s.free(f, o.agent, o.res, refusal)
	}
}

func (s *State) sendInverseOffers(list []allocator.InverseOffer) {
	batches := map[*framework][]*mesosv1.InverseOffer{}
	var order []*framework
	for _, al := range list {
		f, a := s.frameworks[al.Framework], s.agents[al.Agent]
		if f == nil || a == nil || a.unavailability == nil {
			continue
		}
		o := &inverseOffer{id: s.newOfferID(), framework: f, agent: a}
		o.proto = &mesosv1.InverseOffer{
			Id:             &mesosv1.OfferID{Value: proto.String(string(o.id))},
			Url:            a.url,
			FrameworkId:    f.info.GetId(),
			AgentId:        a.info.GetId(),
			Unavailability: a.unavailability,
		}
		s.inverse[o.id] = o
		f.inverse[o.id] = o
		a.inverse[o.id] = o
		s.touchFramework(f)
		if batches[f] == nil {
			order = append(order, f)
		}
		batches[f] = append(batches[f], o.proto)
	}
	for _, f := range order {
		s.send(f, &schedulerv1.Event{
			Type:          schedulerv1.Event_INVERSE_OFFERS.Enum(),
			InverseOffers: &schedulerv1.Event_InverseOffers{InverseOffers: batches[f]},
		})
	}
}

// answerInverse handles ACCEPT_INVERSE_OFFERS and DECLINE_INVERSE_OFFERS: the answer is recorded for the operator.
func (s *State) answerInverse(f *framework, list []*mesosv1.OfferID, filters *mesosv1.Filters, accepted bool) {
	for _, id := range list {
		o := f.inverse[ids.Offer(id.GetValue())]
		if o == nil {
			continue
		}
		s.rescindInverse(o, false)
		s.inverseInfos[inverseKey{o.agent.id, f.id}] = InverseStatus{Agent: o.agent.id, Framework: f.id, Accepted: accepted, Time: s.now}
		s.alloc.RespondInverse(f.id, o.agent.id, &accepted, allocator.RefusalOf(filters), s.now)
	}
}
