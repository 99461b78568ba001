package allocator

import (
	"slices"
	"time"

	"github.com/orchestrator/orchestrator/internal/resources"
)

// refusalSet is one set of resources on an agent and the clients that refused it. Frameworks refuse what they are offered,
// so many refuse the very same set, and one comparison on a visit decides about all of them.
type refusalSet struct {
	id      uint32
	res     resources.Resources // unallocated
	clients bitmap
	again   map[int32]int // refusals of a client beyond its first
	n       int           // refusals in force
}

// maxRefusalSets bounds the distinct sets on one agent; the oldest is forgotten early.
const maxRefusalSets = 256

// tick is the grain of filters' ends: they are rounded up to it, which keeps the number of timers small.
const tick = 10 * time.Millisecond

// expiries is a queue of what ends when: a heap of ticks, and for each tick a list. What is no longer in force when its time
// comes is recognised by generation numbers, so nothing has to be searched for when filters are dropped.
type expiries struct {
	ticks   []int64 // binary heap
	buckets map[int64][]expiry
	n       int // timers in the lists, in force or not
	kept    int // how many the last compaction left
}

type expiry struct {
	agent     int32
	agentGen  uint32
	client    int32 // or -1: an inverse offer's filter, of the framework with clientGen
	clientGen uint32
	set       uint32
}

func (e *expiries) init() { e.buckets = map[int64][]expiry{} }

// at returns the tick at or after a time.
func tickAt(t time.Time) int64 {
	n := t.UnixNano()
	k := n / int64(tick)
	if n%int64(tick) > 0 {
		k++
	}
	return k
}

func (e *expiries) add(k int64, x expiry) {
	b, ok := e.buckets[k]
	if !ok {
		e.ticks = append(e.ticks, k)
		for i := len(e.ticks) - 1; i > 0 && e.ticks[i] < e.ticks[(i-1)/2]; i = (i - 1) / 2 {
			e.ticks[i], e.ticks[(i-1)/2] = e.ticks[(i-1)/2], e.ticks[i]
		}
	}
	e.buckets[k] = append(b, x)
	e.n++
}

// compact drops the timers that are about nothing any more, once they are the greater part: a framework that refuses for a
// year and revives, over and over, must not pile them up.
func (a *Allocator) compact() {
	const slack = 4096
	e := &a.expiries
	if e.n <= 2*max(a.refusals, e.kept)+slack {
		return
	}
	frameworks := make(map[uint32]*framework, len(a.frameworks))
	for _, f := range a.frameworks {
		frameworks[f.gen] = f
	}
	old := *e
	*e = expiries{}
	e.init()
	for k, list := range old.buckets {
		for _, x := range list {
			keep := a.inForce(x)
			if f := frameworks[x.clientGen]; x.client < 0 && f != nil {
				r, ok := f.inverseRefused[x.agent]
				keep = ok && r.agentGen == x.agentGen && r.until == k
			}
			if keep {
				e.add(k, x)
			}
		}
	}
	e.kept = e.n
}

// pop returns the next list whose time has come.
func (e *expiries) pop(now time.Time) ([]expiry, bool) {
	if len(e.ticks) == 0 || e.ticks[0] > now.UnixNano()/int64(tick) {
		return nil, false
	}
	k := e.ticks[0]
	last := len(e.ticks) - 1
	e.ticks[0] = e.ticks[last]
	e.ticks = e.ticks[:last]
	for i := 0; ; {
		c := 2*i + 1
		if c >= last {
			break
		}
		if c+1 < last && e.ticks[c+1] < e.ticks[c] {
			c++
		}
		if e.ticks[i] <= e.ticks[c] {
			break
		}
		e.ticks[i], e.ticks[c] = e.ticks[c], e.ticks[i]
		i = c
	}
	list := e.buckets[k]
	delete(e.buckets, k)
	e.n -= len(list)
	return list, true
}

// NextTimer returns when Allocate should be called next though nothing else happens: the end of a filter, the time for the next patient agents, or
// the zero time ("now") when agents are to be visited at once. false: no timer.
func (a *Allocator) NextTimer() (time.Time, bool) {
	if len(a.dirty) > 0 && !a.paused {
		return time.Time{}, true
	}
	next, ok := time.Time{}, false
	if a.patient.n > 0 && !a.paused {
		if next, ok = a.patient.due(a.refusedPerSecond()), true; next.IsZero() {
			return next, true
		}
	}
	if len(a.expiries.ticks) > 0 {
		if end := time.Unix(0, a.expiries.ticks[0]*int64(tick)); !ok || end.Before(next) {
			next, ok = end, true
		}
	}
	return next, ok
}

// refuse installs a filter.
func (a *Allocator) refuse(ag *agent, c int32, res resources.Resources, refusal Refusal, now time.Time) {
	if refusal.For <= 0 {
		return
	}
	until := tickAt(now.Add(min(max(refusal.For, a.opts.AllocationInterval), maxRefusal)))
	var s *refusalSet
	for i := range ag.refused {
		if x := &ag.refused[i]; x.res.Same(res) || x.res.Equal(res) {
			s = x
			break
		}
	}
	if s == nil {
		if len(ag.refused) >= maxRefusalSets {
			a.dropSet(ag, 0)
		}
		ag.nextSet++
		ag.refused = append(ag.refused, refusalSet{id: ag.nextSet, res: res})
		s = &ag.refused[len(ag.refused)-1]
	}
	if s.clients.has(c) {
		if s.again == nil {
			s.again = map[int32]int{}
		}
		s.again[c]++
	} else {
		s.clients.set(c)
	}
	s.n++
	a.clients[c].refusals++
	a.refusals++
	a.expiries.add(until, expiry{ag.slot, ag.gen, c, a.clients[c].gen, s.id})
	a.compact()
}

// dropSet forgets all refusals of one set.
func (a *Allocator) dropSet(ag *agent, i int) {
	s := &ag.refused[i]
	a.refusals -= s.n
	for _, c := range s.clients.appendAnd(nil, nil) {
		a.clients[c].refusals -= 1 + s.again[c]
		ag.rejected.unset(c)
	}
	ag.refused = slices.Delete(ag.refused, i, i+1)
	a.markPatient(ag)
}

// dropRefusalsOn forgets all filters on an agent.
func (a *Allocator) dropRefusalsOn(ag *agent) {
	for len(ag.refused) > 0 {
		a.dropSet(ag, len(ag.refused)-1)
	}
	ag.gen = a.nextGen()
	if ag.maint != nil {
		a.inverse.dirty = true // filters of inverse offers ended as well
	}
}

// dropRefusalsOf forgets all filters of a client. Callers make it fresh when it takes offers.
func (a *Allocator) dropRefusalsOf(c int32) {
	cl := &a.clients[c]
	cl.gen = a.nextGen()
	for slot := 0; cl.refusals > 0 && slot < len(a.slots); slot++ {
		ag := a.slots[slot]
		if ag == nil {
			continue
		}
		for i := len(ag.refused) - 1; i >= 0; i-- {
			s := &ag.refused[i]
			if !s.clients.has(c) {
				continue
			}
			gone := 1 + s.again[c]
			s.clients.unset(c)
			delete(s.again, c)
			s.n -= gone
			cl.refusals -= gone
			a.refusals -= gone
			if s.n == 0 {
				ag.refused = slices.Delete(ag.refused, i, i+1)
			}
		}
		ag.rejected.unset(c)
	}
}

// expire ends the filters whose time has come.
func (a *Allocator) expire(now time.Time) {
	for {
		list, ok := a.expiries.pop(now)
		if !ok {
			return
		}
		for _, x := range list {
			if x.client < 0 {
				a.inverse.dirty = true // which ones ended is told by their times
				continue
			}
			ag := a.slots[x.agent]
			if ag == nil || ag.gen != x.agentGen || a.clients[x.client].gen != x.clientGen {
				continue
			}
			for i := range ag.refused {
				if s := &ag.refused[i]; s.id == x.set {
					a.endRefusal(ag, i, x.client)
					break
				}
			}
		}
	}
}

func (a *Allocator) endRefusal(ag *agent, i int, c int32) {
	s := &ag.refused[i]
	a.clients[c].refusals--
	a.refusals--
	s.n--
	if s.again[c] > 0 {
		s.again[c]--
		return
	}
	s.clients.unset(c)
	if s.n == 0 {
		ag.refused = slices.Delete(ag.refused, i, i+1)
	}
	ag.rejected.unset(c)
	a.markPatient(ag)
}

// refuses reports whether a filter of the client covers what it would be offered.
func (ag *agent) refuses(c int32, offer resources.Resources) bool {
	for i := range ag.refused {
		if s := &ag.refused[i]; s.clients.has(c) && s.res.Contains(offer) {
			return true
		}
	}
	return false
}
