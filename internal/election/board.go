package election

import (
	"context"
	"sync"
)

// Board is a Detector that is told who leads. Implementations write what they learn on it; any number may read. Its zero
// value knows no leader.
type Board struct {
	mu      sync.Mutex
	leader  *Leader
	changed chan struct{} // closed and replaced at each change
}

// Set writes the leader on the board; nil: there is none.
func (b *Board) Set(leader *Leader) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if Same(b.leader, leader) {
		return
	}
	b.leader = leader
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// Leader is the leader that is known now, nil when there is none.
func (b *Board) Leader() *Leader {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.leader
}

// Detect implements Detector.
func (b *Board) Detect(ctx context.Context, previous *Leader) (*Leader, error) {
	for {
		b.mu.Lock()
		if !Same(b.leader, previous) {
			leader := b.leader
			b.mu.Unlock()
			return leader, nil
		}
		if b.changed == nil {
			b.changed = make(chan struct{})
		}
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
