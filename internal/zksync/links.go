package zksync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
)

// Link is a link as its target knows it.
type Link struct {
	Name     string    `json:"name"`
	Source   string    `json:"source"`
	Scope    Scope     `json:"scope"`
	Seeded   bool      `json:"seeded"`
	Position string    `json:"position"`
	Written  time.Time `json:"written"` // when the position was last moved, by the target's clock
	Engines  []string  `json:"engines"` // in line; the first is active
}

// Links lists the links that feed an ensemble.
func Links(ctx context.Context, c *zk.Client) ([]Link, error) {
	out := []Link{}
	names, _, err := c.Children(ctx, stateRoot)
	if errors.Is(err, zk.ErrNoNode) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		l := Link{Name: name, Engines: []string{}}
		data, st, err := c.Get(ctx, stateRoot+"/"+name+"/state")
		switch {
		case errors.Is(err, zk.ErrNoNode): // an engine is about to start
		case err != nil:
			return nil, err
		default:
			var rec record
			if err := json.Unmarshal(data, &rec); err != nil {
				return nil, fmt.Errorf("link %s: %w", name, err)
			}
			l.Source, l.Scope, l.Seeded, l.Position, l.Written = rec.Source, rec.Scope, rec.Seeded, rec.Position, time.UnixMilli(st.Mtime)
		}
		dir := stateRoot + "/" + name + "/engines"
		engines, _, err := c.Children(ctx, dir)
		if err != nil && !errors.Is(err, zk.ErrNoNode) {
			return nil, err
		}
		slices.Sort(engines)
		for _, e := range engines {
			if id, _, err := c.Get(ctx, dir+"/"+e); err == nil {
				l.Engines = append(l.Engines, string(id))
			}
		}
		out = append(out, l)
	}
	return out, nil
}
