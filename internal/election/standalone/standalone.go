// Package standalone is leadership without a contest: a single process always leads, and the leader is at an address that
// everybody was told.
package standalone

import (
	"context"

	"github.com/orchestrator/orchestrator/internal/election"
)

// Election is the contender and the detector of a single process. Its zero value is ready.
type Election struct {
	board election.Board
}

var (
	_ election.Contender = (*Election)(nil)
	_ election.Detector  = (*Election)(nil)
)

// Contend implements election.Contender: self leads from now until ctx ends or lead returns.
func (e *Election) Contend(ctx context.Context, self election.Leader, lead func(context.Context, uint64) error) error {
	e.board.Set(&self)
	defer e.board.Set(nil)
	for ctx.Err() == nil {
		term, cancel := context.WithCancel(ctx)
		err := lead(term, 0)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// Detect implements election.Detector: the process itself, while it contends.
func (e *Election) Detect(ctx context.Context, previous *election.Leader) (*election.Leader, error) {
	return e.board.Detect(ctx, previous)
}

// At is a detector for a fixed address: the leader is there, or whoever is there redirects to it.
func At(address string) election.Detector {
	board := &election.Board{}
	board.Set(&election.Leader{Address: address})
	return board
}
