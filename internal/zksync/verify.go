package zksync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk/learner"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/txn"
)

// Proof is the outcome of a comparison.
type Proof struct {
	// Barrier is the source's transaction at which the two were compared, when the target said how far it was; 0 when two
	// snapshots were compared as they came.
	Barrier     int64             `json:"-"`
	BarrierText string            `json:"barrier,omitempty"`
	Nodes       int               `json:"nodes"` // of the source, all of them
	Exact       bool              `json:"exact"` // both sides came through quorum ports: one moment, all kinds
	Differences []tree.Difference `json:"differences"`
}

// errNotLinked says that the target holds no state of the link.
var errNotLinked = errors.New("the target was not seeded by this link")

// recorder holds the source's tree at the moment of joining, and what came after it.
type recorder struct {
	mu    sync.Mutex
	t     *tree.Tree
	live  bool
	after []*txn.Txn
}

func (r *recorder) Begin(t *tree.Tree) error {
	if t == nil {
		return errors.New("the leader sent no snapshot")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.t = t
	return nil
}

func (r *recorder) Txn(x *txn.Txn) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.live {
		r.t.Apply(x)
		return nil
	}
	r.after = append(r.after, x)
	return nil
}

func (r *recorder) Live() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live = true
	return nil
}
func (r *recorder) Idle() error { return nil }

// last is the last transaction heard of, once the tree is exact.
func (r *recorder) last() (int64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.live {
		return 0, false
	}
	if n := len(r.after); n > 0 {
		return r.after[n-1].Zxid, true
	}
	return r.t.Zxid(), true
}

// Verify compares source and target of a link at a barrier, under whatever load: the target's snapshot itself says which of the
// source's transactions it has, and the source is replayed to exactly that one. Both quorum ports must be reachable.
func Verify(ctx context.Context, source, target Side, scope Scope, name string, limit int) (Proof, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &recorder{}
	failed := make(chan error, 1)
	go func() {
		failed <- learner.Run(ctx, learner.Config{Addrs: source.Quorum, Last: freshStart, ServerID: 1<<40 + 2}, source.Learner, r)
	}()
	wait := func(d time.Duration) error {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case err := <-failed:
			return fmt.Errorf("source: %w", err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for {
		if _, live := r.last(); live {
			break
		}
		if err := wait(10 * time.Millisecond); err != nil {
			return Proof{}, err
		}
	}
	for try := 0; ; try++ {
		vb, err := Side{Quorum: target.Quorum, Learner: target.Learner}.Read(ctx, scope.Target)
		if err != nil {
			return Proof{}, fmt.Errorf("target: %w", err)
		}
		node := vb.Tree.Get(stateRoot + "/" + name + "/state")
		var rec record
		if node == nil || json.Unmarshal(node.Data, &rec) != nil || !rec.Seeded {
			return Proof{}, errNotLinked
		}
		position := rec.position()
		r.mu.Lock()
		base := r.t.Zxid()
		r.mu.Unlock()
		if position < base && !kept(vb.Tree, name) {
			// Nobody will bring the target to where the comparison began: they are compared as they are.
			return Proof{}, errNotLinked
		}
		if position < base {
			if err := wait(100 * time.Millisecond); err != nil { // the target has yet to reach where the comparison began
				return Proof{}, err
			}
			continue
		}
		for {
			if z, _ := r.last(); z >= position {
				break
			}
			if err := wait(10 * time.Millisecond); err != nil {
				return Proof{}, err
			}
		}
		r.mu.Lock()
		for len(r.after) > 0 && r.after[0].Zxid <= position {
			r.t.Apply(r.after[0])
			r.after = r.after[1:]
		}
		diffs, err := Diff(View{r.t, true}, vb, rec.Scope, limit)
		proof := Proof{Barrier: position, BarrierText: zxidText(position), Nodes: r.t.Len(), Exact: true, Differences: diffs}
		r.mu.Unlock()
		if err != nil {
			return Proof{}, err
		}
		// An ACL is set outside the multi that moves the position, so it may be seen a moment early.
		early := len(diffs) > 0 && try < 5
		for _, d := range diffs {
			early = early && (d.What == "acl" || d.What == "aversion")
		}
		if !early {
			return proof, nil
		}
		if err := wait(100 * time.Millisecond); err != nil {
			return Proof{}, err
		}
	}
}

// kept reports whether an engine keeps the link.
func kept(target *tree.Tree, name string) bool {
	n := target.Get(stateRoot + "/" + name + "/engines")
	return n != nil && n.NumChildren() > 0
}

// linked asks whether the target may hold a link's state, before whole ensembles are read to look for it.
func linked(ctx context.Context, target Side, name string) bool {
	if target.Client == nil {
		return true
	}
	ok, _, err := target.Client.Exists(ctx, stateRoot+"/"+name+"/state")
	return ok || err != nil
}

// Compare compares two ensembles: at a barrier when the target is fed by the link, otherwise as they are.
func Compare(ctx context.Context, source, target Side, scope Scope, name string, limit int) (Proof, error) {
	scope, err := scope.normal()
	if err != nil {
		return Proof{}, err
	}
	if len(source.Quorum) > 0 && len(target.Quorum) > 0 && linked(ctx, target, name) {
		p, err := Verify(ctx, source, target, scope, name, limit)
		if !errors.Is(err, errNotLinked) {
			return p, err
		}
	}
	va, err := source.Read(ctx, scope.Source)
	if err != nil {
		return Proof{}, fmt.Errorf("first ensemble: %w", err)
	}
	vb, err := target.Read(ctx, scope.Target)
	if err != nil {
		return Proof{}, fmt.Errorf("second ensemble: %w", err)
	}
	diffs, err := Diff(va, vb, scope, limit)
	return Proof{Nodes: va.Tree.Len(), Exact: va.Exact && vb.Exact, Differences: diffs}, err
}
