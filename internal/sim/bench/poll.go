package bench

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// PollOptions are those of clients that read one address again and again.
type PollOptions struct {
	URL       string
	Clients   int
	Every     time.Duration // from the start of one request to that of the next; at once when an answer takes longer
	ReadyFile string
}

// Poll runs such clients until ctx is done. They take compressed answers and do not unpack them: on the machines of real clients
// that would take nothing from the master. It is ready when each has read one answer.
func Poll(ctx context.Context, o PollOptions, ready func() error) error {
	if o.Clients <= 0 || o.Every <= 0 {
		return fmt.Errorf("%d clients that poll every %v", o.Clients, o.Every)
	}
	var wg, first sync.WaitGroup
	failed := make(chan error, o.Clients)
	for i := range o.Clients {
		wg.Add(1)
		first.Add(1)
		go func() {
			defer wg.Done()
			var once sync.Once
			defer once.Do(first.Done)
			// The clients take turns.
			if wait(ctx, time.Duration(i)*o.Every/time.Duration(o.Clients)) != nil {
				return
			}
			tick := time.NewTicker(o.Every)
			defer tick.Stop()
			for {
				if _, _, err := fetch(ctx, o.URL, true); err != nil {
					if ctx.Err() == nil {
						failed <- err
					}
					return
				}
				once.Do(first.Done)
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	first.Wait()
	err := ready()
	wg.Wait()
	select {
	case failure := <-failed:
		return failure
	default:
		return err
	}
}
