package zksync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
)

// A request to look at everything is a node beside the link's state: whoever keeps the link does it and removes the node.

func (e *Engine) repairPath() string { return e.root + "/repair" }

// watchRepair makes asked tell when somebody asks.
func (e *Engine) watchRepair() {
	w := zk.NewWatch(func(zk.Event) { e.ask() })
	err := e.c.Send(zk.Exists(e.repairPath()).Watched(w), func(_ zk.Result, err error) {
		if err == nil || !errors.Is(err, zk.ErrNoNode) {
			e.ask()
		}
	})
	if err != nil {
		e.ask()
	}
}

func (e *Engine) ask() {
	select {
	case e.asked <- struct{}{}:
	default:
	}
}

// repairAsked reports whether a request is there, and watches for the next one.
func (e *Engine) repairAsked(ctx context.Context) (bool, error) {
	ok := false
	err := retry(ctx, func() (err error) { ok, _, err = e.c.Exists(ctx, e.repairPath()); return err })
	if err == nil && !ok {
		e.watchRepair()
	}
	return ok, err
}

// repairDone removes the request that was there before everything was looked at.
func (e *Engine) repairDone(ctx context.Context) error {
	err := retry(ctx, func() error { return e.c.Delete(ctx, e.repairPath(), zk.AnyVersion) })
	if errors.Is(err, zk.ErrNoNode) {
		return nil
	}
	if err == nil {
		e.audit("repaired", "path", e.cfg.Scope.Target)
	}
	return err
}

// Repair makes the target equal to the source once. When engines keep the link, the active one is asked to and this waits for it;
// otherwise an engine of its own does it and ends. A link that was never there is not left behind.
func Repair(ctx context.Context, cfg Config, deps Deps) error {
	e, err := New(cfg, deps)
	if err != nil {
		return err
	}
	c, err := zk.New(cfg.Target.client(), deps.ZK)
	if err != nil {
		return err
	}
	defer c.Close()
	engines, _, err := c.Children(ctx, e.root+"/engines")
	if err != nil && !errors.Is(err, zk.ErrNoNode) {
		return err
	}
	if len(engines) > 0 {
		return askRepair(ctx, c, e)
	}
	data, _, err := c.Get(ctx, e.root+"/state")
	known := err == nil
	if err != nil && !errors.Is(err, zk.ErrNoNode) {
		return err
	}
	if known { // what the link keeps equal is not changed by a repair
		var rec record
		if err := json.Unmarshal(data, &rec); err != nil {
			return fmt.Errorf("the state node %s/state in the target is not ours: %w; choose another --name", e.root, err)
		}
		e.cfg.Scope = rec.Scope
	}
	rctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- e.Run(rctx) }()
	select {
	case <-e.Ready():
		stop()
		err = <-done
	case err = <-done:
	}
	if err != nil || known {
		return err
	}
	for _, p := range []string{"/engines", "/state", ""} {
		if err := c.Delete(ctx, e.root+p, zk.AnyVersion); err != nil && !errors.Is(err, zk.ErrNoNode) {
			return fmt.Errorf("removing the link that the repair has made: %w", err)
		}
	}
	return nil
}

func askRepair(ctx context.Context, c *zk.Client, e *Engine) error {
	if _, err := c.Create(ctx, e.repairPath(), []byte(e.id), zk.OpenACL(), zk.Persistent); err != nil && !errors.Is(err, zk.ErrNodeExists) {
		return fmt.Errorf("asking the engine that keeps the link %s: %w", e.cfg.Name, err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, _, err := c.Exists(ctx, e.repairPath())
		if err == nil && !ok {
			return nil
		}
		if err != nil && !transient(err) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the engine that keeps the link %s did not answer: %w", e.cfg.Name, context.Cause(ctx))
		}
	}
}
