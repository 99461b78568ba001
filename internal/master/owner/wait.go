package owner

import (
	"context"
	"errors"
	"time"

	"github.com/orchestrator/orchestrator/internal/master/core"
)

var errTooManyChannels = errors.New("too many agents on one connection")

// Post queues an event and waits for room until ctx ends. An error means that the event was not and will not be handled.
func (o *Owner) Post(ctx context.Context, e core.Event) error {
	err := o.TryPost(e)
	if !errors.Is(err, ErrBusy) {
		return err
	}
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-o.done:
			return ErrStopped
		case <-t.C:
			if err := o.TryPost(e); !errors.Is(err, ErrBusy) {
				return err
			}
		}
	}
}

// PostFor is Post with a time in which there must be room.
func (o *Owner) PostFor(d time.Duration, e core.Event) error {
	err := o.TryPost(e)
	if !errors.Is(err, ErrBusy) {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), d, ErrBusy)
	defer cancel()
	return o.Post(ctx, e)
}
