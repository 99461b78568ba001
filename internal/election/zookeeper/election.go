package zookeeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/orchestrator/orchestrator/internal/election"
	"github.com/orchestrator/orchestrator/internal/zk"
)

// Config says where candidates meet.
type Config struct {
	election.ZooKeeper
	// SessionTimeout is how long a dead leader blocks its successors. Default 10s, as in Mesos.
	SessionTimeout time.Duration
}

// Deps are the election's effects; the zero value is the real world.
type Deps struct {
	Log *slog.Logger
	ZK  zk.Deps
}

// Election is a contender and a detector on one path. Its detector starts with New.
type Election struct {
	cfg   Config
	log   *slog.Logger
	c     *zk.Client
	acl   []zk.ACL
	board election.Board

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when the candidates or the connection may have changed
	ctx     context.Context
	stop    context.CancelFunc
	done    chan struct{}
}

var (
	_ election.Contender = (*Election)(nil)
	_ election.Detector  = (*Election)(nil)
)

// New connects in the background and starts to look for the leader.
func New(cfg Config, deps Deps) (*Election, error) {
	if err := zk.ValidatePath(cfg.Path); err != nil {
		return nil, fmt.Errorf("election path: %w", err)
	}
	if cfg.SessionTimeout <= 0 {
		cfg.SessionTimeout = 10 * time.Second
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	deps.ZK.Log = deps.Log
	e := &Election{cfg: cfg, log: deps.Log, acl: zk.OpenACL(), changed: make(chan struct{}), done: make(chan struct{})}
	zcfg := zk.Config{Servers: cfg.Servers, SessionTimeout: cfg.SessionTimeout, Renew: true, OnState: func(zk.State) { e.notify() }}
	if cfg.User != "" {
		zcfg.Auth = []zk.Auth{{Scheme: "digest", Data: []byte(cfg.User + ":" + cfg.Password)}}
		e.acl = append(zk.CreatorACL(), zk.ReadACL()...)
	}
	var err error
	if e.c, err = zk.New(zcfg, deps.ZK); err != nil {
		return nil, err
	}
	e.ctx, e.stop = context.WithCancel(context.Background())
	go e.watch()
	return e, nil
}

// Close stops detection and ends the session. A candidate must have stopped contending before.
func (e *Election) Close() {
	e.stop()
	<-e.done
	e.c.Close()
}

// Detect implements election.Detector.
func (e *Election) Detect(ctx context.Context, previous *election.Leader) (*election.Leader, error) {
	return e.board.Detect(ctx, previous)
}

func (e *Election) notify() {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *Election) changes() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

// member is a candidate's node.
type member struct {
	name   string
	label  string
	number int64
}

// first is the candidate that leads: the one with the smallest number.
func first(names []string) (member, bool) {
	var best member
	found := false
	for _, n := range names {
		if label, number, ok := candidate(n); ok && (!found || number < best.number) {
			best, found = member{n, label, number}, true
		}
	}
	return best, found
}

// watch keeps the board: the children's watch wakes it, the leader's node is read after each change.
func (e *Election) watch() {
	defer close(e.done)
	armed := false
	var mu sync.Mutex
	var last string
	for e.ctx.Err() == nil {
		changed := e.changes()
		mu.Lock()
		op := zk.Children(e.cfg.Path)
		if !armed {
			armed = true
			op = op.Watched(zk.NewWatch(func(zk.Event) {
				mu.Lock()
				armed = false
				mu.Unlock()
				e.notify()
			}))
		}
		mu.Unlock()
		leader, name, err := e.look(op)
		switch {
		case errors.Is(err, zk.ErrNoNode):
			// The path is not there yet, or the leader went between two reads. The watch on children was not set.
			mu.Lock()
			armed = false
			mu.Unlock()
			e.board.Set(nil)
			e.pause(changed, 500*time.Millisecond)
			continue
		case err != nil:
			if op.Watch != nil {
				mu.Lock()
				armed = false
				mu.Unlock()
			}
			if e.ctx.Err() == nil && !errors.Is(err, zk.ErrConnectionLoss) && !errors.Is(err, zk.ErrSessionExpired) {
				e.log.Warn("the leader cannot be read", "path", e.cfg.Path, "error", err)
			}
			e.pause(changed, time.Second)
			continue
		}
		if name != last {
			last = name
			if leader != nil {
				e.log.Info("leader detected", "node", name, "address", leader.Address)
			} else {
				e.log.Info("no leader", "path", e.cfg.Path)
			}
		}
		e.board.Set(leader)
		select {
		case <-changed:
		case <-e.ctx.Done():
		}
	}
}

func (e *Election) pause(changed <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-e.ctx.Done():
	}
}

func (e *Election) look(children zk.Op) (*election.Leader, string, error) {
	r, err := e.c.Do(e.ctx, children)
	if err != nil {
		return nil, "", err
	}
	m, ok := first(r.Children)
	if !ok {
		return nil, "", nil
	}
	data, st, err := e.c.Get(e.ctx, zk.Join(e.cfg.Path, m.name))
	if errors.Is(err, zk.ErrNoNode) {
		return nil, "", zk.ErrConnectionLoss // it went between the two reads: look again, say nothing
	}
	if err != nil {
		return nil, "", err
	}
	leader, err := decodeInfo(m.label, data)
	if err != nil {
		return nil, "", fmt.Errorf("node %s: %w", m.name, err)
	}
	leader.ID = fmt.Sprintf("%s@%x", m.name, st.Czxid)
	return leader, m.name, nil
}

// Contend implements election.Contender.
func (e *Election) Contend(ctx context.Context, self election.Leader, lead func(context.Context, uint64) error) error {
	label, data, err := encodeInfo(self)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		node, epoch, err := e.enter(ctx, label, data)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if fatal(err) {
				return fmt.Errorf("contending for leadership under %s: %w", e.cfg.Path, err)
			}
			e.wait(ctx, nil, 200*time.Millisecond)
			continue
		}
		e.log.Info("contending", "node", node)
		err = e.term(ctx, node, epoch, lead)
		e.leave(node)
		if err != nil {
			return err
		}
	}
	return nil
}

// fatal reports errors that trying again does not mend.
func fatal(err error) bool {
	for _, f := range []zk.Error{zk.ErrNoAuth, zk.ErrAuthFailed, zk.ErrInvalidACL, zk.ErrClosed, zk.ErrTooLarge, zk.ErrBadArguments} {
		if errors.Is(err, f) {
			return true
		}
	}
	return false
}

// wait waits for a change, at most d.
func (e *Election) wait(ctx context.Context, changed <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-ctx.Done():
	}
}

// enter makes this candidate's node. When the answer to the create is lost, it looks for a node of this session; more than
// one (an earlier lost answer) is cleaned up.
func (e *Election) enter(ctx context.Context, label string, data []byte) (path string, epoch uint64, err error) {
	if err := e.c.MakePath(ctx, e.cfg.Path, e.acl); err != nil {
		return "", 0, err
	}
	if err := e.c.Sync(ctx); err != nil {
		return "", 0, err
	}
	if err := e.removeOwn(ctx); err != nil {
		return "", 0, err
	}
	path, err = e.c.Create(ctx, e.cfg.Path+"/"+label, data, e.acl, zk.EphemeralSequential)
	if err != nil {
		return "", 0, err // a node that was made all the same is removed by the next attempt, or goes with the session
	}
	ok, st, err := e.c.Exists(ctx, path)
	if err != nil {
		return "", 0, err
	}
	if !ok || st.EphemeralOwner != e.c.Session().ID {
		return "", 0, zk.ErrSessionExpired
	}
	return path, uint64(st.Czxid), nil
}

// removeOwn deletes nodes that this session has left: an old candidacy must not lead again.
func (e *Election) removeOwn(ctx context.Context) error {
	names, _, err := e.c.Children(ctx, e.cfg.Path)
	if err != nil {
		return err
	}
	session := e.c.Session().ID
	for _, n := range names {
		if _, _, ok := candidate(n); !ok {
			continue
		}
		path := zk.Join(e.cfg.Path, n)
		ok, st, err := e.c.Exists(ctx, path)
		if err != nil {
			return err
		}
		if ok && st.EphemeralOwner == session {
			if err := e.c.Delete(ctx, path, zk.AnyVersion); err != nil && !errors.Is(err, zk.ErrNoNode) {
				return err
			}
		}
	}
	return nil
}

// leave removes the node at once when ZooKeeper can be reached, so that a successor need not wait for the session.
func (e *Election) leave(path string) {
	ctx, cancel := context.WithTimeout(e.ctx, time.Second)
	defer cancel()
	if err := e.c.Delete(ctx, path, zk.AnyVersion); err != nil && !errors.Is(err, zk.ErrNoNode) {
		e.log.Debug("candidacy not withdrawn: it goes with the session", "node", path, "error", err)
	}
}

// term waits until the node leads and then calls lead, until leadership is lost or may be lost. An error is lead's own.
func (e *Election) term(ctx context.Context, path string, epoch uint64, lead func(context.Context, uint64) error) error {
	var leading chan error
	var cancel context.CancelFunc
	stop := func() error {
		if leading == nil {
			return nil
		}
		cancel()
		if err := <-leading; !errors.Is(err, context.Canceled) {
			return err
		}
		return nil // it says that it was stopped, which is known
	}
	session := e.c.Session().ID
	for {
		changed := e.changes()
		// The session is certain for this long; a tenth of it is left for stopping.
		timeout := e.c.Timeout()
		certain := func() time.Duration { return time.Until(e.c.AliveUntil()) - timeout/10 }
		left := certain()
		if ctx.Err() != nil || left <= 0 || e.c.Session().ID != session {
			if ctx.Err() == nil && leading != nil {
				e.log.Warn("leadership given up: ZooKeeper does not answer and the session may be lost", "node", path)
			}
			return stop()
		}
		state, err := e.standing(ctx, path, min(left, timeout/4))
		switch {
		case state == lost:
			if leading != nil {
				e.log.Warn("leadership lost: the candidacy is gone", "node", path)
			}
			return stop()
		case state == ahead && leading == nil:
			e.log.Info("elected", "node", path, "epoch", epoch)
			var term context.Context
			term, cancel = context.WithCancel(ctx)
			defer cancel()
			leading = make(chan error, 1)
			go func() { leading <- lead(term, epoch) }()
		case err != nil && fatal(err):
			_ = stop()
			return err
		}
		// While following, only changes matter; but the clock of the session runs for a leader, and for a follower whose
		// node may have gone.
		t := time.NewTimer(min(certain(), timeout/4))
		select {
		case err := <-leading:
			t.Stop()
			if ctx.Err() != nil && errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		case <-changed:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

type standing int

const (
	unknown standing = iota
	follower
	ahead
	lost
)

// standing asks where the candidacy is in the line.
func (e *Election) standing(ctx context.Context, path string, d time.Duration) (standing, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	names, _, err := e.c.Children(ctx, e.cfg.Path)
	if errors.Is(err, zk.ErrNoNode) {
		return lost, nil
	}
	if err != nil {
		return unknown, err
	}
	mine := zk.Name(path)
	found := false
	for _, n := range names {
		found = found || n == mine
	}
	if !found {
		return lost, nil
	}
	if m, _ := first(names); m.name != mine {
		return follower, nil
	}
	return ahead, nil
}
