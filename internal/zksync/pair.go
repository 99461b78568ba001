package zksync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/txn"
	"github.com/orchestrator/orchestrator/internal/zksync/election"
)

// Home is the side where a subtree is written to; the other side holds a copy.
type Home string

// The two sides of a pair.
const (
	HomeSource Home = "source"
	HomeTarget Home = "target"
)

// Policy says what becomes of a write to the copy by somebody else.
type Policy string

// Policies. What is not decided by them is mended: the copy becomes as its home is.
const (
	PolicyHome   Policy = "home"   // the home's state wins
	PolicySource Policy = "source" // the source side's state wins, also over a home in the target
	PolicyLast   Policy = "last"   // the later of the two writes wins, by the servers' clocks
	PolicyManual Policy = "manual" // the node is left as it is until a person decides
)

// Pair keeps two ensembles equal in both directions: every subtree has a home side, and one engine for each direction keeps the
// other side's copy equal to it. The two directions never meet in one node, so nothing loops and nothing is merged. Homes are
// kept in the target, and flipped one subtree at a time.
type Pair struct {
	// Forward keeps the target's copies equal, Back the source's.
	Forward, Back *Engine
	policy        Policy
	// elections mirrors the contenders of both sides; nil when no group was named.
	elections *election.Engine

	mu    sync.Mutex
	flip  sync.Mutex
	homes map[string]Home // subtrees that differ from what is above them; "" is not used
	held  map[string]bool
	path  string // of the homes' record, in the target
	work  chan foreign
}

// foreign is a write to a copy that neither engine made.
type foreign struct {
	engine *Engine // the one that feeds the copy
	path   string  // the same on both sides
	op     zk.OpCode
	data   []byte
	time   int64
	copy   string // what the copy held after it
}

// NewPair makes a pair from one configuration; its source side is written to as well. Both sides have the same paths. homes
// is used when none are recorded yet.
func NewPair(cfg Config, deps Deps, homes map[string]Home, policy Policy) (*Pair, error) {
	scope, err := cfg.Scope.normal()
	if err != nil {
		return nil, err
	}
	if scope.Source != scope.Target {
		return nil, errors.New("both directions at once need the same path on both sides")
	}
	if cfg.Watches {
		return nil, errors.New("both directions at once need the quorum ports of both sides: watches do not tell who wrote")
	}
	switch policy {
	case "":
		policy = PolicyHome
	case PolicyHome, PolicySource, PolicyLast, PolicyManual:
	default:
		return nil, fmt.Errorf("conflict policy %q: want home, source, last or manual", policy)
	}
	for p, h := range homes {
		if !scope.Has(p) || h != HomeSource && h != HomeTarget {
			return nil, fmt.Errorf("home of %q is %q: want a path within %s, and source or target", p, h, scope.Source)
		}
		if h == HomeTarget && p == scope.Source {
			return nil, fmt.Errorf("the home of all of %s is the target: exchange --source and --target instead", p)
		}
	}
	p := &Pair{policy: policy, homes: maps.Clone(homes), held: map[string]bool{}, work: make(chan foreign, 10_000)}
	if p.homes == nil {
		p.homes = map[string]Home{}
	}
	for _, g := range cfg.Elections {
		if !scope.Has(g) {
			return nil, fmt.Errorf("election %s is not within what is kept equal, %s", g, scope.Source)
		}
	}
	// The groups' contenders are mirrored in both directions at once, so the two engines leave them alone.
	cfg.Scope.Elections = cfg.Elections
	if p.Forward, err = New(cfg, deps); err != nil {
		return nil, err
	}
	p.path = p.Forward.root + "/homes"
	if len(cfg.Elections) > 0 {
		side := func(ep Endpoint) zk.Config {
			c := ep.client()
			c.SessionTimeout = p.Forward.cfg.SessionTimeout
			return c
		}
		p.elections, err = election.New(election.Config{
			ID: p.Forward.id, Root: p.Forward.root + "/elections", Groups: cfg.Elections, Source: side(cfg.Source), Target: side(cfg.Target),
		}, election.Deps{
			Log: p.Forward.log, ZK: deps.ZK,
			Audit: func(action, path, detail string) { p.Forward.audit(action, "path", path, "side", detail) },
		})
		if err != nil {
			return nil, err
		}
	}
	back := cfg
	back.Source, back.Target = cfg.Target, cfg.Source
	back.Name = p.Forward.cfg.Name + "-back"
	back.Overwrite = true // which side is right is what homes say
	back.Scope.Only = []string{}
	if p.Back, err = New(back, deps); err != nil {
		return nil, err
	}
	p.Forward.onChange = func(op *txn.Op, x *txn.Txn, n *tree.Node) { p.observe(p.Back, op, x, n) }
	p.Back.onChange = func(op *txn.Op, x *txn.Txn, n *tree.Node) { p.observe(p.Forward, op, x, n) }
	return p, nil
}

// targetHomes are the subtrees whose home is the target.
func targetHomes(homes map[string]Home) []string {
	out := []string{}
	for p, h := range homes {
		if h == HomeTarget {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

// Homes are the subtrees whose home differs from the default, which is the source.
func (p *Pair) Homes() map[string]Home {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.homes)
}

// Run runs both directions until ctx ends or one cannot go on.
func (p *Pair) Run(ctx context.Context) error {
	c, err := zk.New(p.Forward.cfg.Target.client(), p.Forward.deps.ZK)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := p.load(ctx, c); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("homes of the subtrees: %w", err)
	}
	away := targetHomes(p.homes)
	p.Forward.cfg.Scope.Exclude = append(slices.Clone(p.Forward.cfg.Scope.Exclude), away...)
	p.Back.cfg.Scope.Only = away
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.Forward.Run(gctx) })
	g.Go(func() error { return p.Back.Run(gctx) })
	g.Go(func() error { return p.decide(gctx) })
	if p.elections != nil {
		g.Go(func() error {
			// What it makes in the target must not be taken for a stranger's by the first look at it.
			for _, e := range []*Engine{p.Forward, p.Back} {
				select {
				case <-e.Ready():
				case <-gctx.Done():
					return nil
				}
			}
			return p.elections.Run(gctx)
		})
	}
	err = g.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Ready waits until both directions are live.
func (p *Pair) Ready(ctx context.Context) error {
	waits := []<-chan struct{}{p.Forward.Ready(), p.Back.Ready()}
	if p.elections != nil {
		waits = append(waits, p.elections.Ready())
	}
	for _, ready := range waits {
		select {
		case <-ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Elections are the groups whose contenders are mirrored.
func (p *Pair) Elections() []election.Group {
	if p.elections == nil {
		return nil
	}
	return p.elections.Status()
}

// load reads the recorded homes, or records those that were given.
func (p *Pair) load(ctx context.Context, c *zk.Client) error {
	return retry(ctx, func() error {
		data, _, err := c.Get(ctx, p.path)
		if errors.Is(err, zk.ErrNoNode) {
			b, err := json.Marshal(p.homes)
			if err != nil {
				return err
			}
			if err := c.MakePath(ctx, zk.Parent(p.path), zk.OpenACL()); err != nil {
				return err
			}
			_, err = c.Create(ctx, p.path, b, zk.OpenACL(), zk.Persistent)
			if errors.Is(err, zk.ErrNodeExists) {
				return zk.ErrThrottled // look again
			}
			return err
		}
		if err != nil {
			return err
		}
		recorded := map[string]Home{}
		if err := json.Unmarshal(data, &recorded); err != nil {
			return fmt.Errorf("%s: %w", p.path, err)
		}
		p.homes = recorded
		return nil
	})
}

// settled returns a position of an engine's source that covers everything committed there before the call.
func settled(ctx context.Context, source *zk.Client) (int64, error) {
	var z int64
	err := retry(ctx, func() error {
		if err := source.Sync(ctx); err != nil {
			return err
		}
		r, err := source.Do(ctx, zk.Exists("/"))
		z = r.Zxid
		return err
	})
	return z, err
}

// Flip moves the home of a subtree to the other side. Whoever writes there must have paused, or must write to the new home when
// this returns: a write to the old home after the barrier is a conflict, recorded and overwritten. It is refused while sessions
// of the old home hold ephemeral nodes in the subtree, because sessions do not move.
func (p *Pair) Flip(ctx context.Context, path string, to Home) error {
	p.flip.Lock()
	defer p.flip.Unlock()
	donor, recipient := p.Forward, p.Back
	if to == HomeSource {
		donor, recipient = recipient, donor
	} else if to != HomeTarget {
		return fmt.Errorf("home %q: want source or target", to)
	}
	root := p.Forward.cfg.Scope.Source
	p.mu.Lock()
	homes := maps.Clone(p.homes)
	p.mu.Unlock()
	if !zk.Within(path, root) || path == root {
		return fmt.Errorf("%s does not lie below %s", path, root)
	}
	for q := range homes {
		if q != path && (zk.Within(q, path) || zk.Within(path, q)) {
			return fmt.Errorf("%s has a home of its own, which overlaps %s: flip that one first", q, path)
		}
	}
	if now := homes[path]; now == to || now == "" && to == HomeSource {
		return nil
	}
	// Everything that was written to the old home so far goes to the new one before the donor lets go. The recipient's client
	// is connected to the donor's source.
	barrier, err := settled(ctx, recipient.client.Load())
	if err != nil {
		return err
	}
	err = donor.do(ctx, func(ctx context.Context) error {
		if err := donor.reach(ctx, barrier); err != nil {
			return err
		}
		for n := range donor.shadow.Walk(path) {
			if n.Kind() == zk.KindEphemeral {
				return fmt.Errorf("%s belongs to a session of the old home (0x%x): let it end first, sessions do not move", n.Path, uint64(n.Owner))
			}
		}
		s := &donor.cfg.Scope
		if to == HomeTarget {
			s.Exclude = append(slices.Clone(s.Exclude), path)
		} else {
			s.Only = slices.DeleteFunc(slices.Clone(s.Only), func(q string) bool { return q == path })
		}
		donor.w.current.zxid = donor.shadow.Zxid()
		return donor.w.drain(ctx) // the state node names the new scope
	})
	if err != nil {
		return fmt.Errorf("flipping %s: %w", path, err)
	}
	if to == HomeTarget {
		homes[path] = to
	} else {
		delete(homes, path)
	}
	b, err := json.Marshal(homes)
	if err != nil {
		return err
	}
	// From here on the flip is done, whatever happens: engines that start anew read it.
	if err := retry(ctx, func() error { _, err := p.Forward.client.Load().Set(ctx, p.path, b, zk.AnyVersion); return err }); err != nil {
		return fmt.Errorf("flipping %s: recording it: %w", path, err)
	}
	p.mu.Lock()
	p.homes = homes
	p.mu.Unlock()
	p.Forward.audit("home flipped", "path", path, "home", string(to), "barrier", zxidText(barrier))
	if barrier, err = settled(ctx, donor.client.Load()); err != nil {
		return err
	}
	return recipient.do(ctx, func(ctx context.Context) error {
		if err := recipient.reach(ctx, barrier); err != nil {
			return err
		}
		s := &recipient.cfg.Scope
		if to == HomeTarget {
			s.Only = append(slices.Clone(s.Only), path)
		} else {
			s.Exclude = slices.DeleteFunc(slices.Clone(s.Exclude), func(q string) bool { return q == path })
		}
		recipient.noteLate = path
		return errWhole
	})
}

// reach works on until everything up to a position of the source is in the target.
func (e *Engine) reach(ctx context.Context, position int64) error {
	for e.shadow.Zxid() < position {
		ev, ok := e.next()
		if !ok {
			select {
			case <-e.f.wake:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			continue
		}
		if ev.snapshot != nil {
			return errors.New("the source was interrupted; try again")
		}
		e.pop()
		if err := e.plan(ctx, ev); err != nil {
			return err
		}
	}
	return e.w.drain(ctx)
}

// observe is told of every change on one side; fed is the engine that writes copies there.
func (p *Pair) observe(fed *Engine, op *txn.Op, x *txn.Txn, n *tree.Node) {
	if op.Type == zk.OpCheck || op.Type == zk.OpErrorResult || op.Path == "/" {
		return
	}
	if _, ours := fed.sessions.Load(x.ClientID); ours {
		return
	}
	p.mu.Lock()
	copied := p.copied(fed, op.Path)
	p.mu.Unlock()
	if !copied {
		return
	}
	f := foreign{engine: fed, path: op.Path, op: op.Type, data: op.Data, time: x.Time}
	switch {
	case op.Type == zk.OpDelete || op.Type == zk.OpDeleteContainer:
		f.copy = "absent"
		if n != nil && n.Kind() != zk.KindPersistent {
			return // the side's own reaper, or a session's end
		}
	case op.Type == zk.OpSet:
		f.copy = fmt.Sprintf("version %d, %d bytes: %.200q", op.Version, len(op.Data), op.Data)
	default:
		f.copy = fmt.Sprintf("version 0, %d bytes: %.200q", len(op.Data), op.Data)
	}
	select {
	case p.work <- f:
	default: // more than can be decided one by one: the mismatch of the next write there, or verify, will find it
		fed.log.Error("too many writes to copies: run zk verify", "path", op.Path)
	}
}

// copied reports whether a path's copy is on the side that this engine writes to.
func (p *Pair) copied(fed *Engine, path string) bool {
	if !zk.Within(path, p.Forward.cfg.Scope.Source) || zk.Within(path, "/zookeeper") || zk.Within(path, stateRoot) {
		return false
	}
	atTarget := false
	for q, h := range p.homes {
		if zk.Within(path, q) {
			atTarget = h == HomeTarget
		}
	}
	return atTarget == (fed == p.Back)
}

// decide applies the policy to writes to copies.
func (p *Pair) decide(ctx context.Context) error {
	for {
		select {
		case f := <-p.work:
			if err := p.apply(ctx, f); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				f.engine.log.Warn("conflict not settled", "path", f.path, "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *Pair) other(e *Engine) *Engine {
	if e == p.Forward {
		return p.Back
	}
	return p.Forward
}

func (p *Pair) apply(ctx context.Context, f foreign) error {
	home := p.other(f.engine) // writes to where f.engine reads from: the path's home
	take := false
	err := f.engine.do(ctx, func(ctx context.Context) error {
		if err := f.engine.w.drain(ctx); err != nil {
			return err
		}
		n := f.engine.shadow.Get(f.path)
		c := Conflict{Path: f.path, Op: f.op.String(), Error: "written in the copy by another session", Source: "absent", Target: f.copy, Policy: p.policy}
		if n != nil {
			c.Source = summary(n)
		}
		switch p.policy {
		case PolicyManual:
			c.Pending = true
			f.engine.held[f.path] = true
			f.engine.record(c)
			return nil
		case PolicySource:
			take = f.engine == p.Back // the copy is the source side's
		case PolicyLast:
			take = n == nil || f.time > max(n.Mtime, n.Ctime)
		}
		f.engine.record(c)
		if take {
			return nil
		}
		return f.engine.mend(ctx, f.path)
	})
	if err != nil || !take {
		return err
	}
	if err := write(ctx, home.client.Load(), f); err != nil {
		return err
	}
	return f.engine.do(ctx, func(ctx context.Context) error { return f.engine.w.drain(ctx) })
}

// write does in a path's home what was done in its copy.
func write(ctx context.Context, c *zk.Client, f foreign) error {
	return retry(ctx, func() error {
		var err error
		switch {
		case f.op == zk.OpDelete || f.op == zk.OpDeleteContainer:
			err = c.Delete(ctx, f.path, zk.AnyVersion)
		case f.op == zk.OpSet:
			_, err = c.Set(ctx, f.path, f.data, zk.AnyVersion)
		case f.op == zk.OpSetACL:
			return nil
		default:
			_, err = c.Create(ctx, f.path, f.data, zk.OpenACL(), zk.Persistent)
		}
		if err != nil && repairable(err) {
			return nil // the home has moved on: what it holds comes to the copy
		}
		return err
	})
}

// mend makes one node of the target as the shadow has it.
func (e *Engine) mend(ctx context.Context, path string) error {
	for range 20 {
		r := e.reconciler(View{})
		list, err := look(ctx, e.c, r, []string{path})
		if err != nil {
			return err
		}
		err = r.some(ctx, list, e.shadow.Zxid())
		var m *mismatch
		if !errors.As(err, &m) {
			return err
		}
	}
	return fmt.Errorf("%s cannot be mended: it is written to all the time", path)
}

// Resolve decides a conflict that policy manual has left: keep the home's state, or the copy's.
func (p *Pair) Resolve(ctx context.Context, path, keep string) error {
	if keep != "home" && keep != "copy" {
		return fmt.Errorf("keep %q: want home or copy", keep)
	}
	p.mu.Lock()
	fed := p.Forward
	if !p.copied(fed, path) {
		fed = p.Back
	}
	p.mu.Unlock()
	home := p.other(fed)
	fed.audit("conflict resolved", "path", path, "keep", keep)
	if keep == "copy" {
		data, st, err := fed.client.Load().Get(ctx, path)
		f := foreign{path: path, op: zk.OpSet, data: data}
		if errors.Is(err, zk.ErrNoNode) {
			f.op, err = zk.OpDelete, nil
		}
		if err != nil {
			return err
		}
		_ = st
		if ok, _, err := home.client.Load().Exists(ctx, path); err != nil {
			return err
		} else if !ok && f.op == zk.OpSet {
			f.op = zk.OpCreate
		}
		if err := write(ctx, home.client.Load(), f); err != nil {
			return err
		}
		barrier, err := settled(ctx, home.client.Load())
		if err != nil {
			return err
		}
		if err := fed.do(ctx, func(ctx context.Context) error { return fed.reach(ctx, barrier) }); err != nil {
			return err
		}
	}
	return fed.do(ctx, func(ctx context.Context) error {
		if !fed.held[path] {
			return fmt.Errorf("%s has no conflict that waits for a decision", path)
		}
		if err := fed.w.drain(ctx); err != nil {
			return err
		}
		delete(fed.held, path)
		fed.mu.Lock()
		for i := range fed.conflicts {
			if fed.conflicts[i].Path == path {
				fed.conflicts[i].Pending = false
			}
		}
		fed.mu.Unlock()
		return fed.mend(ctx, path)
	})
}
