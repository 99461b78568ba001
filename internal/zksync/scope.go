package zksync

import (
	"fmt"
	"slices"
	"strings"

	"github.com/orchestrator/orchestrator/internal/zk"
)

// Scope says which paths are kept equal, and where they lie in the target.
type Scope struct {
	Source  string   // the subtree in the source; "/" for all
	Target  string   // where it lies in the target; "" for the same path
	Exclude []string // subtrees of the source that are left out
	// Only, when it is not nil, are the only subtrees that are kept equal: what the other direction has given up.
	Only []string
	// Elections are groups of a Pair's elections: left out too, but there on both sides.
	Elections []string `json:",omitempty"`
}

// stateRoot holds the engines' own nodes in the target. It is never replicated, in either direction.
const stateRoot = "/zksync"

func (s Scope) normal() (Scope, error) {
	if s.Source == "" {
		s.Source = "/"
	}
	if s.Target == "" {
		s.Target = s.Source
	}
	for _, p := range slices.Concat([]string{s.Source, s.Target}, s.Exclude, s.Only, s.Elections) {
		if err := zk.ValidatePath(p); err != nil {
			return s, fmt.Errorf("path to synchronize: %w", err)
		}
	}
	if zk.Within(s.Source, "/zookeeper") || zk.Within(s.Target, "/zookeeper") || zk.Within(s.Target, stateRoot) {
		return s, fmt.Errorf("path to synchronize: /zookeeper and %s belong to the ensemble and to the engine", stateRoot)
	}
	return s, nil
}

// Has reports whether a path of the source is kept equal.
func (s Scope) Has(path string) bool {
	if !zk.Within(path, s.Source) || zk.Within(path, "/zookeeper") || zk.Within(path, stateRoot) {
		return false
	}
	if s.Only != nil && !slices.ContainsFunc(s.Only, func(x string) bool { return zk.Within(path, x) }) {
		return false
	}
	if slices.ContainsFunc(s.Elections, func(x string) bool { return zk.Within(path, x) }) {
		return false
	}
	return !slices.ContainsFunc(s.Exclude, func(x string) bool { return zk.Within(path, x) })
}

// comes reports whether a path of the source is in the target, or will be: its creation there counts in its parent.
func (s Scope) comes(path string) bool { return slices.Contains(s.Elections, path) || s.Has(path) }

// ToTarget maps a path of the source.
func (s Scope) ToTarget(path string) string { return reroot(path, s.Source, s.Target) }

// ToSource maps a path of the target; it must lie below Target.
func (s Scope) ToSource(path string) string { return reroot(path, s.Target, s.Source) }

func reroot(path, from, to string) string {
	if from == to {
		return path
	}
	rel := strings.TrimPrefix(path, from)
	if from == "/" {
		rel = strings.TrimSuffix(path, "/")
	}
	if rel == "" {
		return to
	}
	if to == "/" {
		return rel
	}
	return to + rel
}
