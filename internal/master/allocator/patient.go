package allocator

import "time"

// patient are agents on which there is something that was refused, to be offered to the next framework, or again to one whose filter has ended.
// What frameworks without work refuse goes from hand to hand: with a hundred of them, each free resource is offered a hundred times before
// their filters end, which on ten thousand agents is more than any master can do, and what waits behind it is what somebody needs. So there is a
// budget for it, which a cluster at work does not notice: so many agents a second, in rounds, and never fewer than all of them (Mesos
// offers on each agent once in an allocation interval, whatever there is). Whatever else makes an agent worth a visit (a task's end, a
// framework that wants offers again, a change of quota or of the agent) does not wait, and takes along what waits.
type patient struct {
	round  []int32   // slots of those whose turn it is, in random order; those whose agent does not wait any more are passed over
	next   []int32   // of those who have come since: the next round
	n      int       // agents that wait
	budget int64     // what is left of it, see token
	at     time.Time // of the last refill
}

// Bounds of the budget.
const (
	// token is what it costs to admit one agent, so that each nanosecond adds the number that a second admits.
	token = int64(time.Second)
	// patientAtOnce is how many are admitted to one cycle, which others wait for.
	patientAtOnce = 256
	// patientBurst is the part of a second's budget that can be saved up.
	patientBurst = 8
	// patientPace is the part of a second at least that lies between two cycles for patient agents alone.
	patientPace = 100
)

// refusedPerSecond is the budget, 0 for none.
func (a *Allocator) refusedPerSecond() int64 {
	if a.opts.RefusedPerSecond == 0 {
		return 0
	}
	return int64(max(a.opts.RefusedPerSecond, len(a.agents)))
}

// markPatient has an agent visited when its turn comes.
func (a *Allocator) markPatient(ag *agent) {
	switch {
	case a.opts.RefusedPerSecond == 0:
		a.markDirty(ag)
	case !ag.dirty && !ag.waits:
		ag.waits = true
		a.patient.n++
		a.patient.next = append(a.patient.next, ag.slot)
	}
}

// leave says that an agent does not wait any more.
func (p *patient) leave(ag *agent) {
	if ag.waits {
		ag.waits = false
		p.n--
	}
}

// refill adds what has come together since the last time.
func (p *patient) refill(now time.Time, perSecond int64) {
	if !now.After(p.at) {
		return
	}
	burst := max(token, perSecond*token/patientBurst)
	if p.at.IsZero() {
		p.budget = burst
	} else {
		p.budget = min(burst, p.budget+int64(min(now.Sub(p.at), time.Second))*perSecond)
	}
	p.at = now
}

// due is when the next ones may be admitted; the zero time is now.
func (p *patient) due(perSecond int64) time.Time {
	if p.budget >= token {
		return time.Time{}
	}
	wanted := max(1, min(int64(p.n), perSecond/patientPace)) * token
	return p.at.Add(time.Duration((wanted - p.budget + perSecond - 1) / perSecond))
}

// admitPatient makes those dirty whose turn it is: all when a client is fresh, because it sees everything at once. Within a round the order is
// random, or frameworks and agents that take turns in step would meet the same ones for ever.
func (a *Allocator) admitPatient(all bool, seed uint64) {
	p := &a.patient
	for admitted := 0; len(p.round)+len(p.next) > 0 && (all || admitted < patientAtOnce && p.budget >= token); {
		last := len(p.round) - 1
		if last < 0 {
			p.round, p.next = p.next, p.round
			for i := range p.round {
				seed = mix(seed)
				j := i + int(seed%uint64(len(p.round)-i))
				p.round[i], p.round[j] = p.round[j], p.round[i]
			}
			continue
		}
		ag := a.slots[p.round[last]]
		p.round = p.round[:last]
		if ag == nil || !ag.waits {
			continue
		}
		a.markDirty(ag)
		if !all {
			admitted++
			p.budget -= token
		}
	}
}
