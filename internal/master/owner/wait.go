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
			return ctx.Err()
		case <-o.done:
			return ErrStopped
		case <-t.C:
			if err := o.TryPost(e); !errors.Is(err, ErrBusy) {
				return err
			}
		}
	}
}
