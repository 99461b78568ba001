package election

import (
	"context"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// Leader is a leader as others see it. It is not changed after it was handed out.
type Leader struct {
	// ID differs between any two terms, so that a leader that came back is seen to be a new one. Empty when detection is by
	// a fixed address.
	ID string
	// Address is "host:port" of the leader's HTTP endpoint.
	Address string
	// Info is what a master announces about itself; nil where only the address is known.
	Info *mesosv1.MasterInfo
}

// Contender contends for leadership.
type Contender interface {
	// Contend announces self and contends until ctx ends, then returns nil. Each time it is elected it calls lead, whose
	// context ends when leadership is lost. When lead returns before that, leadership is given up; an error that lead
	// returns ends Contend with that error. Other errors mean that contending is impossible (wrong address, access denied).
	Contend(ctx context.Context, self Leader, lead func(ctx context.Context, epoch uint64) error) error
}

// Detector finds the leader.
type Detector interface {
	// Detect waits until the leader is another than previous (compared by Same; nil means that none is known) and returns
	// it, nil when there is none now. It returns at once when previous is out of date, so a loop that hands back what it
	// got misses no leader for long. The error is ctx's.
	Detect(ctx context.Context, previous *Leader) (*Leader, error)
}

// Same reports whether two observations are of the same leader's same term.
func Same(a, b *Leader) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.ID == b.ID && a.Address == b.Address
}
