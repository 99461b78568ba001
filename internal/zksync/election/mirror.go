package election

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
)

// Config says which groups have contenders on both sides.
type Config struct {
	// ID names this engine, Root is where it keeps its fences and records, on both sides (the record is the target's).
	ID, Root string
	// Groups are the paths of the contenders' parents, the same on both sides.
	Groups         []string
	Source, Target zk.Config
	// Headroom is by how much the junior side's numbers are kept ahead. Default 1,000.
	Headroom int32
	// Patience is how long one request may take before everything is begun again. Default 5s.
	Patience time.Duration
}

// Deps are the engine's effects; the zero value is the real world.
type Deps struct {
	Log *slog.Logger
	ZK  zk.Deps
	// Audit, when set, is told of everything that is done.
	Audit func(action, path, detail string)
}

// Group is what a group's state is. It is not changed once it was handed out.
type Group struct {
	Path       string `json:"path"`
	Senior     string `json:"senior"` // "" while nobody contends
	Leader     string `json:"leader"` // the senior side's first contender
	Contenders [2]int `json:"contenders"`
	Headroom   int32  `json:"headroom"` // by how much the junior side's numbers are ahead
	Error      string `json:"error,omitempty"`
}

// Engine mirrors contenders between two ensembles.
type Engine struct {
	cfg   Config
	deps  Deps
	log   *slog.Logger
	ready chan struct{}
	st    atomic.Pointer[[]Group]

	// Owned by Run's goroutine.
	c       [2]*zk.Client
	fence   [2]int32 // versions of the fences that we have raised
	record  record
	groups  []Group
	changed chan struct{}
	isReady bool
}

// record is the target's fence node's content.
type record struct {
	Engine string          `json:"engine"`
	Senior map[string]Side `json:"senior"`
}

// errFenced says that another engine has taken over.
var errFenced = errors.New("another engine has taken over the elections")

// errAgain says that the view was old: look again.
var errAgain = errors.New("the view was old")

// New checks the configuration.
func New(cfg Config, deps Deps) (*Engine, error) {
	for _, g := range cfg.Groups {
		if err := zk.ValidatePath(g); err != nil || g == "/" {
			return nil, fmt.Errorf("election %q: want the path of the contenders' parent: %w", g, err)
		}
	}
	cfg.Headroom = cmp.Or(cfg.Headroom, 1000)
	cfg.Patience = cmp.Or(cfg.Patience, 5*time.Second)
	cfg.Source.Renew, cfg.Target.Renew = true, true
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Audit == nil {
		deps.Audit = func(string, string, string) {}
	}
	e := &Engine{cfg: cfg, deps: deps, log: deps.Log, ready: make(chan struct{}), changed: make(chan struct{}, 1)}
	for _, g := range cfg.Groups {
		e.groups = append(e.groups, Group{Path: g})
	}
	e.publish()
	return e, nil
}

// Ready is closed when every group was looked at and is as it should be.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// Status is the groups' state now.
func (e *Engine) Status() []Group { return *e.st.Load() }

func (e *Engine) publish() {
	g := slices.Clone(e.groups)
	e.st.Store(&g)
}

// Run mirrors until ctx ends (then nil) or a group needs a person.
func (e *Engine) Run(ctx context.Context) error {
	for i, cfg := range []zk.Config{e.cfg.Source, e.cfg.Target} {
		c, err := zk.New(cfg, e.deps.ZK)
		if err != nil {
			return err
		}
		defer c.Close()
		e.c[i] = c
	}
	last := ""
	for ctx.Err() == nil {
		err := e.turn(ctx)
		var stop *Conflict
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &stop):
			return err
		case err != nil && err.Error() != last:
			last = err.Error()
			e.log.Warn("election mirrors wait", "error", err)
		}
		for i := range e.groups {
			e.groups[i].Error = err.Error()
		}
		e.publish()
		e.wait(ctx, 300*time.Millisecond)
	}
	return nil
}

// Conflict says that a group has contenders on both sides that know nothing of each other.
type Conflict struct {
	Group, Contender string
	Side             Side
}

func (c *Conflict) Error() string {
	return fmt.Sprintf("election %s: contender %s on the %s side was there before the other side's were shown to it, so both sides may have a leader: stop the contenders of one side, start this again, then start them", c.Group, c.Contender, c.Side)
}

func (e *Engine) wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-e.changed:
	case <-t.C:
	case <-ctx.Done():
	}
}

func (e *Engine) do(ctx context.Context, s Side, op zk.Op) (zk.Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, e.cfg.Patience, fmt.Errorf("the %s did not answer within %v", s, e.cfg.Patience))
	defer cancel()
	return e.c[s].Do(ctx, op)
}

// turn is one term of this engine: it waits in line, raises the fences, and works until something goes wrong.
func (e *Engine) turn(ctx context.Context) error {
	for s := range e.c {
		if err := e.c[s].MakePath(ctx, e.cfg.Root+"/engines", zk.OpenACL()); err != nil {
			return fmt.Errorf("making the engine's nodes in the %v: %w", Side(s), err)
		}
	}
	if err := e.line(ctx); err != nil {
		return err
	}
	if err := e.claim(ctx); err != nil {
		return err
	}
	for _, g := range e.cfg.Groups {
		if err := e.root(ctx, g); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		for i := range e.groups {
			if err := e.group(ctx, &e.groups[i]); err != nil {
				return err
			}
		}
		e.publish()
		if !e.isReady {
			e.isReady = true
			close(e.ready)
		}
		e.wait(ctx, time.Second)
	}
	return nil
}

// line waits until no other engine is before this one. That is a courtesy; the fences are what protects.
func (e *Engine) line(ctx context.Context) error {
	dir := e.cfg.Root + "/engines"
	c := e.c[Target]
	mine := ""
	for {
		names, _, err := c.Children(ctx, dir)
		if err != nil {
			return err
		}
		slices.Sort(names)
		for _, n := range names {
			data, st, err := c.Get(ctx, dir+"/"+n)
			if err == nil && string(data) == e.cfg.ID && st.EphemeralOwner == c.Session().ID {
				mine = n
			}
		}
		switch {
		case mine != "" && names[0] == mine:
			return nil
		case mine == "" || !slices.Contains(names, mine):
			mine = ""
			if _, err := c.Create(ctx, dir+"/e-", []byte(e.cfg.ID), zk.OpenACL(), zk.EphemeralSequential); err != nil {
				return err
			}
			continue
		}
		e.wait(ctx, 500*time.Millisecond)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func (e *Engine) fencePath() string { return e.cfg.Root + "/fence" }

// claim raises the fences of both sides, makes sure that no other engine has done the same in between, and reads the record.
func (e *Engine) claim(ctx context.Context) error {
	path := e.fencePath()
	for s := range e.c {
		for {
			r, err := e.do(ctx, Side(s), zk.Get(path))
			if errors.Is(err, zk.ErrNoNode) {
				if _, err = e.do(ctx, Side(s), zk.Create(path, []byte("{}"), zk.OpenACL(), zk.Persistent)); err == nil || errors.Is(err, zk.ErrNodeExists) {
					continue
				}
			}
			if err != nil {
				return err
			}
			rec := record{}
			if err := json.Unmarshal(r.Data, &rec); err != nil {
				return fmt.Errorf("%s in the %v is not ours: %w", path, Side(s), err)
			}
			rec.Engine = e.cfg.ID
			if r, err = e.do(ctx, Side(s), zk.Set(path, encode(rec), r.Stat.Version)); errors.Is(err, zk.ErrBadVersion) {
				continue
			}
			if err != nil {
				return err
			}
			e.fence[s], e.record = r.Stat.Version, rec // the target's comes last
			break
		}
	}
	if e.record.Senior == nil {
		e.record.Senior = map[string]Side{}
	}
	_, err := e.do(ctx, Source, zk.Set(path, encode(record{Engine: e.cfg.ID}), e.fence[Source]))
	if err != nil {
		return fenced(err)
	}
	e.fence[Source]++
	return nil
}

func encode(r record) []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and numbers cannot fail
	}
	return b
}

// fenced tells whether the fence's version was what a write failed at.
func fenced(err error) error {
	var m *zk.MultiError
	if errors.As(err, &m) && m.Index > 0 {
		if errors.Is(m.Err, zk.ErrNoNode) || errors.Is(m.Err, zk.ErrNodeExists) || errors.Is(m.Err, zk.ErrBadVersion) {
			return errAgain
		}
		return err
	}
	if errors.Is(err, zk.ErrBadVersion) || errors.Is(err, zk.ErrNoNode) {
		return fmt.Errorf("%w: %w", errFenced, err)
	}
	return err
}

// root makes a group's node on the side that does not have it. It is never removed: who watches it would not survive that.
func (e *Engine) root(ctx context.Context, path string) error {
	var have [2]bool
	for s := range e.c {
		_, err := e.do(ctx, Side(s), zk.Exists(path))
		if err != nil && !errors.Is(err, zk.ErrNoNode) {
			return err
		}
		have[s] = err == nil
	}
	for s := range e.c {
		if have[s] {
			continue
		}
		data, acl := []byte(nil), zk.OpenACL()
		if have[1-s] {
			r, err := e.do(ctx, Side(1-s), zk.Get(path))
			if err != nil {
				return err
			}
			a, err := e.do(ctx, Side(1-s), zk.GetACL(path))
			if err != nil {
				return err
			}
			data, acl = r.Data, a.ACL
		}
		if err := e.c[s].MakePath(ctx, zk.Parent(path), zk.OpenACL()); err != nil {
			return err
		}
		if _, err := e.do(ctx, Side(s), zk.Create(path, data, acl, zk.Persistent)); err != nil && !errors.Is(err, zk.ErrNodeExists) {
			return err
		}
	}
	return nil
}

// look reads a group on one side, all that was committed before included.
func (e *Engine) look(ctx context.Context, s Side, path string) (*View, error) {
	if _, err := e.do(ctx, s, zk.Sync(path)); err != nil {
		return nil, err
	}
	r, err := e.do(ctx, s, zk.Children(path).Watched(zk.NewWatch(func(zk.Event) {
		select {
		case e.changed <- struct{}{}:
		default:
		}
	})))
	if err != nil {
		return nil, err
	}
	v := &View{Counter: (r.Stat.Cversion + r.Stat.NumChildren) / 2}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Patience)
	defer cancel()
	w := e.c[s].NewWindow(100)
	for _, name := range r.Children {
		n, ok := number(name)
		if !ok {
			continue
		}
		err := w.Send(ctx, zk.Exists(zk.Join(path, name)), func(r zk.Result, err error) error {
			if errors.Is(err, zk.ErrNoNode) {
				return nil
			}
			if err == nil { // one callback at a time
				v.Children = append(v.Children, Child{name, n, zk.KindOf(r.Stat.EphemeralOwner) == zk.KindEphemeral, r.Stat.Version, r.Stat.Czxid})
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if err := w.Wait(ctx); err != nil {
		return nil, err
	}
	slices.SortFunc(v.Children, func(a, b Child) int { return cmp.Compare(a.Number, b.Number) })
	return v, nil
}

// group does what a group needs, a step at a time, each on a fresh view.
func (e *Engine) group(ctx context.Context, g *Group) error {
	for {
		var views [2]*View
		for s := range e.c {
			v, err := e.look(ctx, Side(s), g.Path)
			if err != nil {
				return err
			}
			views[s] = v
		}
		senior, known := e.record.Senior[g.Path]
		step := Plan(State{known, senior}, views, e.cfg.Headroom)
		e.describe(g, views, senior, known)
		switch step.Kind {
		case None, Wait:
			return nil
		case Refuse:
			return &Conflict{g.Path, step.Name, step.Side}
		}
		err := e.carryOut(ctx, g.Path, step, views[step.Side])
		if err != nil && !errors.Is(err, errAgain) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func (e *Engine) describe(g *Group, views [2]*View, senior Side, known bool) {
	g.Error, g.Senior, g.Leader, g.Headroom = "", "", "", 0
	for s, v := range views {
		g.Contenders[s] = 0
		for _, c := range v.Children {
			if c.Own {
				g.Contenders[s]++
			}
		}
	}
	if !known {
		return
	}
	g.Senior, g.Headroom = senior.String(), views[senior.Other()].Counter-views[senior].Counter
	if c := views[senior].first(true); c != nil {
		g.Leader = c.Name
	}
}

// pushPairs is how many children are made and removed in one transaction.
const pushPairs = 200

func (e *Engine) carryOut(ctx context.Context, group string, step Step, view *View) error {
	path := zk.Join(group, step.Name)
	if step.Name == "" {
		path = group
	}
	var ops []zk.Op
	switch step.Kind {
	case Mirror, Update:
		r, err := e.do(ctx, step.Side.Other(), zk.Get(path))
		if errors.Is(err, zk.ErrNoNode) {
			return errAgain
		}
		if err != nil {
			return err
		}
		if step.Kind == Mirror {
			a, err := e.do(ctx, step.Side.Other(), zk.GetACL(path))
			if errors.Is(err, zk.ErrNoNode) {
				return errAgain
			}
			if err != nil {
				return err
			}
			ops = append(ops, zk.Create(path, r.Data, a.ACL, zk.Persistent))
			break
		}
		// A set for each of the contender's, so that the mirror's version says how far it is.
		for v := view.find(step.Name).Version; v < r.Stat.Version && len(ops) < pushPairs; v++ {
			ops = append(ops, zk.Set(path, r.Data, v))
		}
	case Remove:
		ops = append(ops, zk.Delete(path, zk.AnyVersion))
	case Push:
		child := zk.Join(group, "zksync-counter")
		for n := min(step.To-view.Counter, pushPairs); n > 0; n-- {
			ops = append(ops, zk.Create(child, nil, zk.OpenACL(), zk.Persistent), zk.Delete(child, zk.AnyVersion))
		}
	case Senior:
		rec := record{Engine: e.cfg.ID, Senior: map[string]Side{group: step.Side}}
		for k, v := range e.record.Senior {
			if k != group {
				rec.Senior[k] = v
			}
		}
		r, err := e.do(ctx, Target, zk.Set(e.fencePath(), encode(rec), e.fence[Target]))
		if err != nil {
			return fenced(err)
		}
		e.fence[Target], e.record = r.Stat.Version, rec
		e.log.Info("election: side became senior", "group", group, "senior", step.Side.String())
		e.deps.Audit("election senior", group, step.Side.String())
		return nil
	}
	if _, err := e.do(ctx, step.Side, zk.Multi(append([]zk.Op{zk.Check(e.fencePath(), e.fence[step.Side])}, ops...)...)); err != nil {
		return fenced(err)
	}
	what := map[Kind]string{Mirror: "mirrored", Update: "updated", Remove: "mirror removed", Push: "counter pushed"}[step.Kind]
	e.log.Info("election: "+what, "path", path, "side", step.Side.String())
	e.deps.Audit("election "+what, path, step.Side.String())
	return nil
}
