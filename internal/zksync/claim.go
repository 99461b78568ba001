package zksync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/learner"
)

// How an engine comes to be the one that writes: it finds the quorum ports, waits for its turn, and takes the position over.

// learnerID is a server id for the follower that no person gives to a server and no other engine has.
func learnerID(engine string) int64 {
	h := int64(0)
	for _, c := range []byte(engine) {
		h = (h*131 + int64(c)) & 0xffffffff
	}
	return 1<<40 + 16 + h
}

// discover finds the quorum ports that were not given.
func (e *Engine) discover(ctx context.Context) error {
	if len(e.cfg.Source.Quorum) == 0 && !e.cfg.Watches {
		c, err := zk.New(e.cfg.Source.client(), e.deps.ZK)
		if err != nil {
			return err
		}
		defer c.Close()
		if e.cfg.Source.Quorum, err = learner.Discover(ctx, c); err != nil {
			if errors.Is(err, zk.ErrAuthFailed) || errors.Is(err, zk.ErrNoAuth) {
				return fmt.Errorf("source: %w; or give its quorum ports by --source-quorum", identity(err, "source"))
			}
			return fmt.Errorf("source: %w; where its quorum port can't be reached, --watches follows it through its client port", err)
		}
	}
	if len(e.cfg.Target.Quorum) == 0 {
		// Without it the target is read node by node: slower, and kinds are not compared.
		addrs, err := learner.Discover(ctx, e.c)
		if err != nil {
			e.log.Info("target's quorum port unknown", "error", err)
			return nil
		}
		for _, a := range addrs {
			if conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", a); err == nil {
				conn.Close()
				e.cfg.Target.Quorum = addrs
				return nil
			}
		}
	}
	return nil
}

// lock waits until this engine is the first in line. That is a courtesy between engines: what protects the target is the state
// node's version.
func (e *Engine) lock(ctx context.Context) error {
	dir := e.root + "/engines"
	if err := retry(ctx, func() error { return e.c.MakePath(ctx, dir, zk.OpenACL()) }); err != nil {
		return fmt.Errorf("making the engine's nodes in the target (it needs to write below %s): %w", stateRoot, identity(err, "target"))
	}
	mine := ""
	for {
		if mine != "" {
			ok, st, err := e.c.Exists(ctx, mine)
			if err != nil && !transient(err) {
				return err
			}
			if err == nil && (!ok || st.EphemeralOwner != e.c.Session().ID) {
				mine = ""
			}
		}
		if mine == "" {
			err := retry(ctx, func() (err error) {
				if err := e.removeOwn(ctx, dir); err != nil {
					return err
				}
				mine, err = e.c.Create(ctx, dir+"/e-", []byte(e.id), zk.OpenACL(), zk.EphemeralSequential)
				return err
			})
			if err != nil {
				return err
			}
		}
		changed := make(chan struct{}, 1)
		r, err := e.c.Do(ctx, zk.Children(dir).Watched(zk.NewWatch(func(zk.Event) {
			select {
			case changed <- struct{}{}:
			default:
			}
		})))
		if err != nil && !transient(err) {
			return err
		}
		if err == nil {
			first := true
			for _, n := range r.Children {
				first = first && n >= zk.Name(mine)
			}
			if first {
				return nil
			}
			e.setPhase(PhaseStandby)
		}
		t := time.NewTimer(time.Second)
		select {
		case <-changed:
		case <-t.C:
			e.idleFollow(ctx)
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		t.Stop()
	}
}

func (e *Engine) removeOwn(ctx context.Context, dir string) error {
	names, _, err := e.c.Children(ctx, dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if data, st, err := e.c.Get(ctx, dir+"/"+n); err == nil && (string(data) == e.id || st.EphemeralOwner == e.c.Session().ID) {
			if err := e.c.Delete(ctx, dir+"/"+n, zk.AnyVersion); err != nil && !errors.Is(err, zk.ErrNoNode) {
				return err
			}
		}
	}
	return nil
}

// record is the state node's content.
type record struct {
	Position string `json:"position"`
	Engine   string `json:"engine"`
	Source   string `json:"source"`
	Scope    Scope  `json:"scope"`
	// Begun says that the target was ours to write to when the seed began: what a killed engine has left there is no stranger's.
	Begun  bool `json:"begun"`
	Seeded bool `json:"seeded"`
}

func (r record) position() int64 {
	z, err := strconv.ParseInt(r.Position, 0, 64)
	if err != nil {
		return freshStart
	}
	return z
}

func (e *Engine) readState(ctx context.Context) (record, int32, error) {
	var rec record
	data, st, err := e.c.Get(ctx, e.root+"/state")
	if err != nil {
		return rec, 0, err
	}
	if err := json.Unmarshal(data, &rec); err != nil {
		return rec, 0, fmt.Errorf("the state node %s/state in the target is not ours: %w; remove it, or choose another --name", e.root, err)
	}
	return rec, st.Version, nil
}

func (e *Engine) encode(zxid int64) []byte {
	e.planned = max(e.planned, zxid)
	b, err := json.Marshal(record{zxidText(e.planned), e.id, strings.Join(e.cfg.Source.Servers, ","), e.cfg.Scope, e.begun, e.seeded})
	if err != nil {
		panic(err) // strings and booleans cannot fail
	}
	return b
}

// claim takes the state node over.
func (e *Engine) claim(ctx context.Context) error {
	path := e.root + "/state"
	err := retry(ctx, func() error {
		if err := e.c.Sync(ctx); err != nil {
			return err
		}
		rec, version, err := e.readState(ctx)
		if errors.Is(err, zk.ErrNoNode) {
			_, err = e.c.Create(ctx, path, e.encode(0), zk.OpenACL(), zk.Persistent)
			if errors.Is(err, zk.ErrNodeExists) {
				return zk.ErrThrottled // look again
			}
			e.useWriter(path, 0)
			return err
		}
		if err != nil {
			return err
		}
		if rec.Seeded && (rec.Scope.Source != e.cfg.Scope.Source || rec.Scope.Target != e.cfg.Scope.Target) && !e.cfg.Overwrite {
			return fmt.Errorf("this link kept %s equal to the source's %s before, now %s and %s are asked for: use another --name, or --overwrite",
				rec.Scope.Target, rec.Scope.Source, e.cfg.Scope.Target, e.cfg.Scope.Source)
		}
		e.begun, e.seeded, e.planned, e.position = rec.Begun, rec.Seeded, rec.position(), rec.position()
		// The new version fences every earlier engine: its batches expect the old one. And once it is written, the position
		// that was read is final.
		st, err := e.c.Set(ctx, path, e.encode(0), version)
		if errors.Is(err, zk.ErrBadVersion) {
			return zk.ErrThrottled
		}
		if err == nil {
			e.useWriter(path, st.Version)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("claiming the link in the target: %w", err)
	}
	e.audit("claimed", "position", zxidText(e.position), "scope", e.cfg.Scope)
	return nil
}
