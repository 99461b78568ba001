package zksync

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/learner"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/txn"
)

// Endpoint is one ensemble.
type Endpoint struct {
	Servers []string // client ports
	Quorum  []string // quorum ports; found through the client port when empty (3.5+)
	Auth    []zk.Auth
	SASL    *zk.SASLDigest
	// TLS is spoken with client ports, QuorumTLS with quorum ports, when set.
	TLS, QuorumTLS *tls.Config
}

// client is how a client of the ensemble is configured.
func (ep *Endpoint) client() zk.Config {
	return zk.Config{Servers: ep.Servers, Auth: ep.Auth, SASL: ep.SASL, TLS: ep.TLS, Renew: true}
}

// learner is how its quorum ports are reached.
func (ep *Endpoint) learner(d learner.Deps) learner.Deps {
	if ep.QuorumTLS != nil {
		d.TLS = ep.QuorumTLS
	}
	return d
}

// Config says what to keep equal.
type Config struct {
	Name           string // of this link; several links into one target need different names. Default "default".
	Source, Target Endpoint
	Scope          Scope
	// Elections, of a Pair, are the parents of election contenders (ephemeral sequential nodes) that may come on both sides.
	Elections []string
	// Overwrite permits a target that holds something already and has no state of this link: it is made equal to the
	// source, and what the source does not have is deleted.
	Overwrite bool
	// Watches follows the source by watches through its client port, because its quorum port can't be reached. It is weaker:
	// several changes of a node may become one, multis fall apart, kinds are not told, ACLs follow with FullRead.
	Watches bool
	// FullRead is how often everything is read with Watches, which finds ACLs that were changed. Default 30s.
	FullRead time.Duration
	// SessionTimeout of the target's session: how long a dead engine blocks its standby. Default 6s.
	SessionTimeout time.Duration
	// MaxRequest is the target's jute.maxbuffer. Default 1,048,575.
	MaxRequest int
	// QueueBytes bounds what may wait for a slow target. Default 256 MB.
	QueueBytes int
}

// Deps are the engine's effects; the zero value is the real world.
type Deps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Audit, when set, gets every action: what was decided and done, by which engine, one record each.
	Audit   *slog.Logger
	ZK      zk.Deps
	Learner learner.Deps
}

// Phase is what an engine is doing.
type Phase string

// Phases of an engine.
const (
	PhaseConnecting Phase = "connecting"
	PhaseStandby    Phase = "standby"
	PhaseSeeding    Phase = "seeding" // or reconciling after an interruption
	PhaseLive       Phase = "live"
	PhaseStopped    Phase = "stopped"
)

// Conflict is a place where the target was not as the source's history made it.
type Conflict struct {
	Time   time.Time `json:"time"`
	Path   string    `json:"path"` // in the target
	Op     string    `json:"op"`
	Error  string    `json:"error"`
	Target string    `json:"target"` // what the target held
	Source string    `json:"source"` // what the source had, which won unless the policy says otherwise
	// Policy of a pair that the conflict was settled by; Pending while a person has to decide.
	Policy  Policy `json:"policy,omitempty"`
	Pending bool   `json:"pending,omitempty"`
}

// Status is what an engine says about itself. It is not changed once it was handed out.
type Status struct {
	Phase       Phase   `json:"phase"`
	Engine      string  `json:"engine"`
	Position    string  `json:"position"` // the source's last transaction that is in the target
	Seen        string  `json:"seen"`     // the source's last transaction that was read
	QueueEvents int     `json:"queue_events"`
	QueueBytes  int     `json:"queue_bytes"`
	LagMS       float64 `json:"lag_ms"` // read from the source → answered by the target, of the last batch
	// BehindMS is the age of the oldest change that was read and is not in the target; 0 when all are.
	BehindMS float64 `json:"behind_ms"`
	// SourceQuorum and TargetQuorum say that the ensembles have a leader that serves us.
	SourceQuorum bool      `json:"source_quorum"`
	TargetQuorum bool      `json:"target_quorum"`
	Txns         int64     `json:"transactions"`
	Ops          int64     `json:"operations"`
	Batches      int64     `json:"batches"`
	Nodes        int       `json:"nodes"`
	Digests      int64     `json:"digests_equal"`
	DigestsBad   int64     `json:"digests_different"`
	Conflicts    int64     `json:"conflicts"`
	Reconciles   int64     `json:"reconciles"`
	SourceError  string    `json:"source_error,omitempty"`
	Error        string    `json:"error,omitempty"`
	Since        time.Time `json:"since"` // of the phase
	oldest       time.Time // when the oldest change was read that is not in the target
}

// Engine is one link from a source to a target.
type Engine struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	id      string
	root    string // of this link's own nodes in the target
	metrics *metrics
	// onApplied, when set, is told of every batch that took effect.
	onApplied func(*batch)

	ready     chan struct{}
	readyOnce sync.Once
	status    atomic.Pointer[Status]
	mu        sync.Mutex
	conflicts []Conflict // the last maxConflicts

	client    atomic.Pointer[zk.Client] // c, for others than Run's goroutine
	following atomic.Pointer[follower]  // f, likewise

	// Owned by Run's goroutine.
	c        *zk.Client
	f        *follower
	backlog  []event // taken from the follower and not worked on yet
	shadow   *tree.Tree
	exact    bool // the shadow is equal to the source at its zxid
	w        *writer
	ahead    map[string]int32
	st       Status
	planned  int64 // the position that everything planned will reach
	position int64 // the position that the target has
	begun    bool
	seeded   bool
	phase    Phase
	commands chan command
	asked    chan struct{}   // somebody may want everything looked at
	held     map[string]bool // nodes whose conflict a person decides
	noteLate string          // the subtree that was flipped: what differs there is a late write
	answer   chan error      // of the command that asked for a look at everything
	// onChange, when set, is told of every change in the source before it is replayed.
	onChange func(op *txn.Op, x *txn.Txn, node *tree.Node)
	sessions sync.Map // the sessions that this engine has had in the target
}

// command is something that the engine's goroutine does between two transactions, while the stream is live.
type command struct {
	do   func(ctx context.Context) error
	done chan error
}

// errWhole makes the engine look at everything again.
var errWhole = errors.New("the scope has changed")

// do runs f on the engine's goroutine. An error other than errWhole is the caller's; a mismatch is mended first.
func (e *Engine) do(ctx context.Context, f func(ctx context.Context) error) error {
	c := command{f, make(chan error, 1)}
	select {
	case e.commands <- c:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

const maxConflicts = 1000

// New checks the configuration.
func New(cfg Config, deps Deps) (*Engine, error) {
	var err error
	if cfg.Scope, err = cfg.Scope.normal(); err != nil {
		return nil, err
	}
	cfg.Name = cmp.Or(cfg.Name, "default")
	if err := zk.ValidatePath("/" + cfg.Name); err != nil || strings.Contains(cfg.Name, "/") {
		return nil, fmt.Errorf("name %q of the link: want one path element", cfg.Name)
	}
	if len(cfg.Source.Servers)+len(cfg.Source.Quorum) == 0 || len(cfg.Target.Servers) == 0 {
		return nil, errors.New("both --source and --target must be given")
	}
	cfg.SessionTimeout = cmp.Or(cfg.SessionTimeout, 6*time.Second)
	cfg.FullRead = cmp.Or(cfg.FullRead, 30*time.Second)
	cfg.MaxRequest = cmp.Or(cfg.MaxRequest, 0xfffff)
	cfg.QueueBytes = cmp.Or(cfg.QueueBytes, 256<<20)
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	host, _ := os.Hostname()
	e := &Engine{
		cfg: cfg, deps: deps, log: deps.Log.With("link", cfg.Name), id: fmt.Sprintf("%s-%d-%x", host, os.Getpid(), time.Now().UnixNano()),
		root: stateRoot + "/" + cfg.Name, ready: make(chan struct{}), ahead: map[string]int32{}, held: map[string]bool{}, commands: make(chan command), asked: make(chan struct{}, 1), planned: freshStart, position: freshStart,
	}
	e.metrics = newMetrics(deps.Metrics, e)
	e.st = Status{Engine: e.id}
	e.setPhase(PhaseConnecting)
	return e, nil
}

// Ready is closed when the target has been seeded and the stream is live.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// Status is the engine's state now. What the connections and the queue say is current also while the engine waits for the target.
func (e *Engine) Status() Status {
	st := *e.status.Load()
	if c := e.client.Load(); c != nil {
		st.TargetQuorum = c.State() == zk.StateConnected
	}
	oldest := st.oldest
	if f := e.following.Load(); f != nil && st.Phase != PhaseStandby {
		events, bytes, err := f.depth()
		st.SourceQuorum = err == nil && f.isLive()
		if err != nil {
			st.SourceError = err.Error()
		}
		if at := f.oldest(); st.Phase != PhaseStopped && events > 0 {
			st.QueueEvents, st.QueueBytes = events, bytes
			if oldest.IsZero() || at.Before(oldest) && !at.IsZero() {
				oldest = at
			}
		}
	}
	if !oldest.IsZero() && st.Phase != PhaseStopped {
		st.BehindMS = float64(time.Since(oldest).Microseconds()) / 1000
	}
	return st
}

// Conflicts are the last conflicts, oldest first.
func (e *Engine) Conflicts() []Conflict {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]Conflict(nil), e.conflicts...)
}

func zxidText(z int64) string {
	if z == freshStart {
		return ""
	}
	return fmt.Sprintf("0x%x", z)
}

// audit records an action.
func (e *Engine) audit(action string, attrs ...any) {
	if e.deps.Audit != nil {
		e.deps.Audit.Info(action, append([]any{"link", e.cfg.Name, "engine", e.id}, attrs...)...)
	}
}

// publish makes what the owner knows visible.
func (e *Engine) publish() {
	st := e.st
	st.Phase = e.phase
	st.Position = zxidText(e.position)
	if e.shadow != nil {
		st.Seen, st.Nodes = zxidText(e.shadow.Zxid()), e.shadow.Len()
	}
	if e.f != nil {
		var err error
		st.QueueEvents, st.QueueBytes, err = e.f.depth()
		if err != nil {
			st.SourceError = err.Error()
		}
	}
	st.oldest = e.oldest()
	e.status.Store(&st)
}

// oldest is when the oldest change that is not in the target was read; zero when all are.
func (e *Engine) oldest() time.Time {
	if e.w != nil {
		for _, b := range e.w.sent {
			if !b.arrived.IsZero() {
				return b.arrived
			}
		}
		if !e.w.current.arrived.IsZero() {
			return e.w.current.arrived
		}
	}
	for i := range e.backlog {
		if !e.backlog[i].arrived.IsZero() {
			return e.backlog[i].arrived
		}
	}
	return time.Time{} // what the follower still has, Status asks for
}

func (e *Engine) setPhase(p Phase) {
	if e.phase != p {
		e.phase, e.st.Since = p, time.Now()
		e.log.Info("phase", "phase", string(p), "position", zxidText(e.position))
		e.audit("phase", "phase", string(p), "position", zxidText(e.position))
	}
	e.publish()
}

// Run keeps the target equal until ctx ends (then nil, at a batch's edge) or something needs a person.
func (e *Engine) Run(ctx context.Context) (err error) {
	defer func() {
		if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))) {
			err = nil
		}
		if err != nil {
			e.st.Error = err.Error()
			e.audit("stopped", "error", err.Error())
		}
		e.setPhase(PhaseStopped)
	}()
	e.deps.ZK.Log = e.log
	target := e.cfg.Target.client()
	target.SessionTimeout, target.MaxRequest = e.cfg.SessionTimeout, e.cfg.MaxRequest
	target.OnState = func(s zk.State) {
		if s == zk.StateConnected {
			if c := e.client.Load(); c != nil {
				e.sessions.Store(c.Session().ID, true)
			}
		}
	}
	if e.c, err = zk.New(target, e.deps.ZK); err != nil {
		return err
	}
	defer e.c.Close()
	e.client.Store(e.c)
	if err := e.c.WaitConnected(ctx); err != nil {
		return fmt.Errorf("target: %w", identity(err, "target"))
	}
	e.sessions.Store(e.c.Session().ID, true)
	if err := e.discover(ctx); err != nil {
		return err
	}
	fctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	e.f = newFollower(e.cfg.Source.Quorum, e.cfg.Source.learner(e.deps.Learner), learnerID(e.id), e.cfg.QueueBytes, e.log)
	e.following.Store(e.f)
	if e.cfg.Watches {
		from := e.cfg.Source.client()
		from.SessionTimeout = e.cfg.SessionTimeout
		src, err := zk.New(from, e.deps.ZK)
		if err != nil {
			return err
		}
		defer src.Close()
		wg.Go(func() { newWatcher(e.f, src, e.cfg.Scope.Source, e.cfg.FullRead).run(fctx) })
	} else {
		wg.Go(func() { e.f.run(fctx) })
	}

	for {
		if err := e.lock(ctx); err != nil {
			return err
		}
		err := e.active(ctx)
		if !errors.Is(err, errFenced) {
			return err
		}
		e.log.Warn("superseded", "error", err)
		e.setPhase(PhaseStandby)
	}
}

// identity adds what a person can do about an error that says that a side does not accept who we are.
func identity(err error, side string) error {
	switch {
	case errors.Is(err, zk.ErrAuthFailed):
		return fmt.Errorf("%w; correct --%s-sasl or --%s-auth", err, side, side)
	case errors.Is(err, zk.ErrNoAuth):
		return fmt.Errorf("%w; the %s must permit it: --%s-auth digest:super:PASSWORD", err, side, side)
	}
	return err
}

// idleFollow keeps a standby hot: it replays up to where the active engine is, and keeps the rest, so that it can continue with
// the very next transaction.
func (e *Engine) idleFollow(ctx context.Context) {
	rec, _, err := e.readState(ctx)
	if err != nil {
		return
	}
	e.advance(rec.position())
	e.publish()
}

// next is the oldest event that was not worked on.
func (e *Engine) next() (event, bool) {
	if len(e.backlog) == 0 {
		e.backlog = e.f.take()
	}
	if len(e.backlog) == 0 {
		return event{}, false
	}
	return e.backlog[0], true
}

// pop takes next off the backlog.
func (e *Engine) pop() {
	e.backlog[0] = event{}
	e.backlog = e.backlog[1:]
}

// advance replays what the target has already.
func (e *Engine) advance(position int64) {
	for {
		ev, ok := e.next()
		if !ok || ev.refused != nil || e.exact && ev.txn != nil && ev.txn.Zxid > position {
			return
		}
		e.pop()
		e.replay(ev, nil)
	}
}

func (e *Engine) useWriter(path string, version int32) {
	e.w = newWriter(e.c, path, version, e.cfg.MaxRequest, e.encode, e.applied)
}

// applied notes what a batch has done.
func (e *Engine) applied(b *batch) {
	e.st.Batches++
	e.position = max(e.position, b.zxid)
	e.st.Ops += int64(len(b.ops))
	e.st.Txns += int64(b.txns)
	if !b.arrived.IsZero() {
		lag := time.Since(b.arrived)
		e.st.LagMS = float64(lag.Microseconds()) / 1000
		e.metrics.lag.Observe(lag.Seconds())
	}
	e.metrics.ops.Add(float64(len(b.ops)))
	e.metrics.batches.Inc()
	if e.onApplied != nil {
		e.onApplied(b)
	}
}

// active does the engine's work while it is the first in line. A snapshot that replaces the shadow leads to a reconcile of
// everything; what did not go as planned, to a reconcile of the nodes concerned.
func (e *Engine) active(ctx context.Context) error {
	if err := e.claim(ctx); err != nil {
		return err
	}
	whole := true
	// A watcher's readings have no order that another engine's would share.
	if e.seeded && e.exact && !e.cfg.Watches && e.shadow.Zxid() <= e.position {
		e.advance(e.position)
		// Hot: the shadow is where the target is, so the stream just goes on.
		whole = e.shadow.Zxid() > e.position
	}
	for {
		if whole {
			e.setPhase(PhaseSeeding)
			if err := e.awaitShadow(ctx); err != nil {
				return err
			}
			if err := e.reconcileAll(ctx); err != nil {
				return err
			}
			if err := e.repairDone(ctx); err != nil {
				return err
			}
		}
		e.setPhase(PhaseLive)
		e.readyOnce.Do(func() { close(e.ready) })
		if e.answer != nil {
			e.answer <- nil
			e.answer = nil
		}
		err := e.stream(ctx)
		var m *mismatch
		switch {
		case errors.Is(err, errNewShadow), errors.Is(err, errWhole):
			whole = true
		case errors.As(err, &m):
			if whole, err = e.repair(ctx, m); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// awaitShadow replays until the shadow is exact.
func (e *Engine) awaitShadow(ctx context.Context) error {
	for {
		for {
			ev, ok := e.next()
			if !ok {
				break
			}
			e.pop()
			if ev.refused != nil {
				return ev.refused
			}
			e.replay(ev, nil)
		}
		e.publish()
		if e.exact {
			return nil
		}
		t := time.NewTimer(time.Second)
		select {
		case <-e.f.wake:
		case <-t.C: // shows why there is no connection
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		t.Stop()
	}
}

// replay takes one event into the shadow; before is called ahead of every change.
func (e *Engine) replay(ev event, before func(*txn.Op)) {
	switch {
	case ev.snapshot != nil:
		e.shadow, e.exact = ev.snapshot, false
	case ev.live:
		e.exact = e.shadow != nil
	case ev.patch != nil && e.shadow != nil:
		e.applyPatch(ev)
	case ev.txn != nil && e.shadow != nil:
		e.shadow.ApplyEach(ev.txn, before)
		if !e.exact {
			return
		}
		switch equal, known := e.shadow.Verify(ev.txn); {
		case known && equal:
			e.st.Digests++
		case known:
			e.st.DigestsBad++
			e.metrics.digestsBad.Inc()
			if e.st.DigestsBad == 1 {
				e.log.Error("the shadow differs from the source's own digest: run zk verify, and restart the engine to read the source anew", "zxid", zxidText(ev.txn.Zxid))
			}
		}
	}
}

// errNewShadow says that the source sent a snapshot: what happened in between is not known one by one.
var errNewShadow = errors.New("the source sent a snapshot")

// stream plans and writes until something else has to be done.
func (e *Engine) stream(ctx context.Context) error {
	publish := time.NewTicker(200 * time.Millisecond)
	defer publish.Stop()
	e.watchRepair()
	for {
		for {
			ev, ok := e.next()
			if !ok {
				break
			}
			if ev.snapshot != nil {
				if err := e.w.drain(ctx); err != nil {
					return err
				}
				return errNewShadow
			}
			e.pop()
			if ev.refused != nil {
				return errors.Join(e.w.drain(ctx), ev.refused)
			}
			work := e.plan
			if ev.patch != nil {
				work = e.patched
			}
			if err := work(ctx, ev); err != nil {
				return err
			}
			if e.w.idle() && len(e.backlog) == 0 {
				break
			}
		}
		if e.w.idle() && e.w.dirty() {
			if err := e.w.flush(ctx); err != nil {
				return err
			}
		}
		select {
		case <-e.f.wake:
		case o := <-e.w.results:
			if err := e.w.finish(ctx, o); err != nil {
				return err
			}
		case <-publish.C:
			e.publish()
		case <-e.asked:
			if ok, err := e.repairAsked(ctx); err != nil {
				return err
			} else if ok {
				e.audit("repair asked for")
				return errWhole
			}
		case c := <-e.commands:
			err := c.do(ctx)
			if errors.Is(err, errWhole) {
				e.answer = c.done
				return err
			}
			var m *mismatch
			if errors.As(err, &m) { // what was planned before is mended, then the command is run again
				go func() {
					select {
					case e.commands <- c:
					case <-ctx.Done():
						c.done <- context.Cause(ctx)
					}
				}()
				return err
			}
			c.done <- err
		case <-ctx.Done():
			// At a batch's edge: what was read is written, if the target answers soon.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
			defer cancel()
			if err := e.w.drain(last); err != nil {
				e.log.Warn("stopped before the last batch was answered: it is continued at the next start", "error", err)
			}
			return context.Cause(ctx)
		}
	}
}
