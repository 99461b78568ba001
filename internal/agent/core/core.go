package core

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// Core is the agent's state. It belongs to one goroutine.
type Core struct {
	cfg   Config
	key   [32]byte
	draws uint64

	now     time.Time
	effects []Effect
	timers  timers

	timerSeq uint64

	phase      Phase
	session    uint64 // of the link
	info       *mesosv1.AgentInfo
	id         ids.Agent
	master     *mesosv1.MasterInfo
	started    time.Time
	registered time.Time

	total      resources.Resources
	configured []*mesosv1.Resource // what the flags say
	revocable  []*mesosv1.Resource // what the estimator says
	version    []byte              // of the resources
	operations map[string]*operation
	opOrder    []string
	destroyed  []*mesosv1.Resource
	drain      *drain

	frameworks map[ids.Framework]*framework
	completed  ring[*frameworkView]
	runs       map[ids.Container]*executor
	conns      map[uint64]*executor
	// ghosts carry updates of tasks that have no executor here.
	ghosts map[ghostKey]*task
	// waiting are the recovered executors that have not come back.
	waiting      map[ids.Container]*executor
	answerTimer  *timer
	leaving      bool // SIGUSR1: unregister at the end
	exitReason   string
	cleanup      bool
	counters     Counters
	phases       map[ExecutorPhase]int
	views        cached
	cachedView   *View
	anythingSeen bool // dirty since cachedView
}

type ghostKey struct {
	framework ids.Framework
	task      ids.Task
}

// New makes a core that waits for Boot.
func New(cfg Config) *Core {
	return &Core{
		cfg: cfg, frameworks: map[ids.Framework]*framework{}, runs: map[ids.Container]*executor{},
		conns: map[uint64]*executor{}, ghosts: map[ghostKey]*task{}, waiting: map[ids.Container]*executor{},
		operations: map[string]*operation{}, phases: map[ExecutorPhase]int{}, anythingSeen: true,
	}
}

// Step takes an event and gives what follows from it. The slice is valid until the next Step.
func (c *Core) Step(now time.Time, ev Event) []Effect {
	clear(c.effects)
	c.effects = c.effects[:0]
	if now.After(c.now) { // a clock that jumps back must not make timers wait for it
		c.now = now
	}
	switch ev := ev.(type) {
	case Look: // changes nothing
		c.emit(Show{Request: ev.Request, View: c.View()})
		return c.effects
	case Boot:
		c.boot(ev)
	case Tick:
	case LinkUp:
		c.session = ev.Session
		c.linkUp()
	case LinkDown:
		c.linkDown()
	case FromMaster:
		c.fromMaster(ev.Message)
	case Subscribe:
		c.subscribe(ev)
	case ExecutorCall:
		c.executorCall(ev)
	case ExecutorGone:
		c.executorGone(ev.Conn)
	case Launched:
		c.launchedContainer(ev)
	case Ended:
		c.endedContainer(ev)
	case UpdateFailed:
		c.limitFailed(ev)
	case Reconfigure:
		c.reconfigure(ev)
	case Oversubscribe:
		c.oversubscribe(ev)
	case Collected:
		c.collected(ev)
	case Leave:
		c.leave(ev.Message)
	}
	c.anythingSeen = true
	c.runTimers()
	return c.effects
}

// Phase is where the agent stands.
func (c *Core) Phase() Phase { return c.phase }

// AgentID is the agent's id, or empty before its first registration.
func (c *Core) AgentID() ids.Agent { return c.id }

func (c *Core) emit(e Effect) { c.effects = append(c.effects, e) }

func (c *Core) note(level NoteLevel, message string, args ...any) {
	c.emit(Note{Level: level, Message: message, Args: args})
}

func (c *Core) toMaster(m *linkv1.Message) { c.emit(ToMaster{Session: c.session, Message: m}) }

func (c *Core) relink(reason string) { c.emit(Relink{Session: c.session, Reason: reason}) }

// draw makes a uuid. The same key and history give the same ones.
func (c *Core) draw() [16]byte {
	c.draws++
	var buf [40]byte
	copy(buf[:], c.key[:])
	binary.BigEndian.PutUint64(buf[32:], c.draws)
	sum := sha256.Sum256(buf[:])
	var u [16]byte
	copy(u[:], sum[:])
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

func (c *Core) drawUUID() []byte {
	u := c.draw()
	return u[:]
}

func (c *Core) drawText() string {
	u := c.draw()
	var b [36]byte
	hex.Encode(b[:], u[:4])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	hex.Encode(b[9:], u[4:6])
	hex.Encode(b[14:], u[6:8])
	hex.Encode(b[19:], u[8:10])
	hex.Encode(b[24:], u[10:])
	return string(b[:])
}

// moveTo changes the agent's phase. A move that the table forbids is a fault that must not take the daemon down.
func (c *Core) moveTo(p Phase) {
	if !mayMove(phaseMoves, c.phase, p) {
		c.note(Error, "impossible move", "err", moveError("the agent", c.phase, p))
		return
	}
	c.phase = p
}

func (c *Core) moveExecutor(e *executor, p ExecutorPhase) {
	if !mayMove(executorMoves, e.phase, p) {
		c.note(Error, "impossible move", "err", moveError("executor "+string(e.run.Executor), e.phase, p))
		return
	}
	c.phases[e.phase]--
	e.phase = p
	c.phases[e.phase]++
	c.touch(e)
}

func (c *Core) moveTask(t *task, p TaskPhase) {
	if !mayMove(taskMoves, t.phase, p) {
		c.note(Error, "impossible move", "err", moveError("task "+string(t.id), t.phase, p))
		return
	}
	t.phase = p
	if t.ex != nil {
		t.view = nil
		c.touch(t.ex)
	}
}

// touch marks what a View must build anew.
func (c *Core) touch(e *executor) {
	e.dirty = true
	e.fw.dirty = true
}

// timestamp is the time as Mesos' statuses have it.
func (c *Core) timestamp() *float64 {
	v := float64(c.now.UnixMicro()) / 1e6
	return &v
}

func invalid(format string, args ...any) string { return fmt.Sprintf(format, args...) }
