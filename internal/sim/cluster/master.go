package cluster

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/master/allocator"
	"github.com/orchestrator/orchestrator/internal/master/core"
)

// registry is the durable store of the masters: what was committed survives every crash.
type registry struct{ records map[string][]byte }

func (r *registry) init() { r.records = map[string][]byte{} }

func (r *registry) read() core.Registry {
	keys := make([]string, 0, len(r.records))
	for k := range r.records {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out := make(core.Registry, 0, len(keys))
	for _, k := range keys {
		out = append(out, core.Record{Key: k, Value: r.records[k]})
	}
	return out
}

func (r *registry) commit(s *core.Store) {
	for _, d := range s.Deletes {
		delete(r.records, d)
	}
	for _, p := range s.Puts {
		r.records[p.Key] = p.Value
	}
}

// master is the leading master, or nobody while there is none.
type master struct {
	w       *World
	state   *core.State
	terms   int
	wake    time.Time
	links   map[core.ConnID]*link
	streams map[core.StreamID]*scheduler
	conns   core.ConnID
	writes  []*core.Store // on their way to the disk, in order
	writing bool
	skew    time.Duration // how far this master's clock is ahead
}

func (m *master) up() bool { return m.state != nil }

// start elects a new leader, which knows what the registry holds.
func (m *master) start() {
	if m.up() {
		return
	}
	m.terms++
	cfg := core.Config{
		Master: &mesosv1.MasterInfo{
			Id: proto.String(fmt.Sprintf("m%d", m.terms)), Ip: proto.Uint32(1), Port: proto.Uint32(5050), Hostname: proto.String("master"),
		},
		Seed: m.w.rng.Uint64(), AgentPingTimeout: 15 * time.Second, MaxAgentPingTimeouts: 5, AgentReregisterTimeout: 3 * time.Minute,
		OfferTimeout: time.Minute, MaxCompletedFrameworks: 50, MaxCompletedTasksPerFramework: 100, MaxUnreachableTasksPerFrame: 100000,
		RootSubmissions: true, OfferConstraintsMaxProgramSize: 100,
		Allocator: allocator.Options{MinAllocatable: allocator.DefaultMinAllocatable(), FilterGPU: true, AllocationInterval: time.Second},
	}
	state, err := core.New(cfg, m.w.registry.read(), m.clock())
	if err != nil {
		m.w.fail("a new leader can't read the registry: %v", err)
		return
	}
	m.state = state
	m.links = map[core.ConnID]*link{}
	m.streams = map[core.StreamID]*scheduler{}
	m.writes, m.writing = nil, false
	m.w.note("master m%d leads", m.terms)
	m.flush()
}

// crash ends the leader: connections break, and of the writes under way some first ones reach the disk.
func (m *master) crash() {
	if !m.up() {
		return
	}
	m.w.note("master m%d crashes, %d writes under way", m.terms, len(m.writes))
	for _, wr := range m.writes[:m.w.rng.IntN(len(m.writes)+1)] {
		m.w.registry.commit(wr)
	}
	m.state = nil
	for _, id := range sortedConns(m.links) {
		m.links[id].breakUp()
	}
	for _, s := range m.w.scheds {
		s.streamLost()
	}
	m.links, m.streams, m.writes = nil, nil, nil
}

func sortedConns(links map[core.ConnID]*link) []core.ConnID {
	ids := make([]core.ConnID, 0, len(links))
	for id := range links {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (m *master) clock() time.Time { return m.w.now.Add(m.skew) }

func (m *master) step(ev core.Event) {
	if m.up() {
		m.state.Step(m.clock(), ev)
		m.flush()
	}
}

// flush carries effects out, until there are none.
func (m *master) flush() {
	if !m.up() {
		return
	}
	for _, e := range m.state.Flush(m.clock()) {
		switch e := e.(type) {
		case *core.SendEvent:
			m.w.checkOffered(e.Event)
			if s := m.streams[e.Stream]; s != nil {
				s.deliver(e.Stream, e.Event)
			}
		case *core.CloseStream:
			if s := m.streams[e.Stream]; s != nil {
				delete(m.streams, e.Stream)
				s.closed(e.Stream)
			}
		case *core.SendAgent:
			if l := m.links[e.Conn]; l != nil {
				l.toAgent(e.Message)
			}
		case *core.SendAck:
			if l := m.links[e.Conn]; l != nil {
				l.toAgent(e.Message())
			}
		case *core.CloseAgent:
			if l := m.links[e.Conn]; l != nil {
				delete(m.links, e.Conn)
				l.closeFromMaster()
			}
		case *core.Store:
			m.writes = append(m.writes, e)
			m.write()
		case *core.Log:
			m.w.note("master: %s %v", e.Message, e.Attrs)
			if e.Level >= slog.LevelError {
				m.w.fail("the master logs an error: %s %v", e.Message, e.Attrs)
			}
		}
	}
	m.arm()
}

// write commits one transaction after the other.
func (m *master) write() {
	if m.writing || len(m.writes) == 0 {
		return
	}
	m.writing = true
	term := m.terms
	m.w.after(m.w.between(200*time.Microsecond, 10*time.Millisecond), func() {
		if !m.up() || m.terms != term {
			return
		}
		m.writing = false
		wr := m.writes[0]
		m.writes = m.writes[1:]
		m.w.registry.commit(wr)
		m.step(&core.StoreDone{Token: wr.Token})
		if m.up() {
			m.write()
		}
	})
}

// arm wakes the leader when its next timer is due.
func (m *master) arm() {
	at, ok := m.state.NextTimer()
	if !ok {
		return
	}
	at = at.Add(-m.skew)
	if at.Before(m.w.now) {
		at = m.w.now
	}
	if m.wake.After(m.w.now) && !at.Before(m.wake) {
		return // it wakes earlier already
	}
	m.wake = at
	m.w.at(at, func() {
		if m.wake.Equal(at) {
			m.wake = time.Time{}
		}
		m.flush()
	})
}

// connect is an agent's new connection; nil while nobody leads.
func (m *master) connect(a *agent) *link {
	if !m.up() {
		return nil
	}
	m.conns++
	l := &link{w: m.w, id: m.conns, agent: a, term: m.terms}
	m.links[l.id] = l
	return l
}

// link is one connection between an agent and a leader: ordered, and reliable until it breaks.
type link struct {
	w     *World
	id    core.ConnID
	agent *agent
	term  int

	broken     bool // nothing passes any more
	silent     bool // nothing passes, and nobody has noticed yet
	agentKnows bool
	lastUp     time.Time // when the last message arrives
	lastDown   time.Time
}

func (l *link) toMaster(msg *linkv1.Message) {
	if l.broken || l.silent {
		return
	}
	at := l.w.now.Add(l.w.hop())
	if at.Before(l.lastUp) {
		at = l.lastUp
	}
	l.lastUp = at
	l.w.at(at, func() {
		if m := l.w.master; !l.broken && !l.silent && m.up() && m.terms == l.term {
			m.step(&core.AgentMessage{Conn: l.id, Message: msg})
		}
	})
}

func (l *link) toAgent(msg *linkv1.Message) {
	if l.broken || l.silent {
		return
	}
	at := l.w.now.Add(l.w.hop())
	if at.Before(l.lastDown) {
		at = l.lastDown
	}
	l.lastDown = at
	l.w.at(at, func() {
		if !l.silent && !l.agentKnows && l.agent.link == l {
			l.agent.fromMaster(msg)
		}
	})
}

// closeFromMaster: what was sent still arrives, then the end.
func (l *link) closeFromMaster() {
	at := l.w.now.Add(l.w.hop())
	if at.Before(l.lastDown) {
		at = l.lastDown
	}
	l.lastDown = at
	l.w.at(at, func() { l.agentSees() })
}

func (l *link) agentSees() {
	if l.agentKnows || l.silent {
		return
	}
	l.agentKnows = true
	l.broken = true
	if l.agent.link == l {
		l.agent.linkDown()
	}
}

// breakUp resets the connection: both sides notice, each in its own time.
func (l *link) breakUp() {
	if l.broken {
		return
	}
	l.broken = true
	l.silent = false
	l.w.after(l.w.hop(), func() {
		if !l.agentKnows {
			l.agentKnows = true
			if l.agent.link == l {
				l.agent.linkDown()
			}
		}
	})
	l.masterNotices(l.w.hop())
}

func (l *link) masterNotices(in time.Duration) {
	l.w.after(in, func() {
		if m := l.w.master; m.up() && m.terms == l.term && m.links[l.id] == l {
			delete(m.links, l.id)
			m.step(&core.AgentDisconnected{Conn: l.id})
		}
	})
}

// goSilent: the network swallows everything, and only timeouts can tell.
func (l *link) goSilent() { l.silent = true }
