package remains

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestOneLookForMany: those who ask while somebody looks share one look, which begins after they have asked.
func TestOneLookForMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var looks, now atomic.Int64
		h := Host{see: func() (map[string]Found, error) {
			n := looks.Add(1)
			seen := now.Load()
			time.Sleep(time.Second)
			return map[string]Found{"now": {Processes: []int{int(seen)}}}, fmt.Errorf("look %d", n)
		}}
		var wg sync.WaitGroup
		ask := func() {
			wg.Go(func() {
				asked := now.Add(1)
				found, err := h.Look()
				if got := int64(found["now"].Processes[0]); got < asked || err == nil {
					t.Errorf("asked at %d and told of %d (%v)", asked, got, err)
				}
			})
		}
		ask()
		synctest.Wait() // it looks
		for range 50 {
			ask()
		}
		time.Sleep(1500 * time.Millisecond) // in the second look
		for range 50 {
			ask()
		}
		wg.Wait()
		if looks.Load() != 3 {
			t.Errorf("%d looks for three times of asking", looks.Load())
		}
		ask()
		wg.Wait()
		if looks.Load() != 4 {
			t.Errorf("%d looks: one that is over was used once more", looks.Load())
		}
	})
}

// TestEndCannotLook: an error reaches everyone.
func TestEndCannotLook(t *testing.T) {
	t.Parallel()
	broken := errors.New("no /proc")
	h := Host{see: func() (map[string]Found, error) { return nil, broken }}
	if _, err := h.End(t.Context(), newID(), false); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if _, err := h.Kill(newID()); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

// BenchmarkEnd is what a start of an agent costs that must be certain of fifty containers which have ended.
func BenchmarkEnd(b *testing.B) {
	for name, one := range map[string]bool{"shared": true, "each": false} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				var shared Host
				var wg sync.WaitGroup
				for range 50 {
					h := &shared
					if !one {
						h = new(Host)
					}
					wg.Go(func() {
						if _, err := h.End(context.Background(), newID(), false); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
			}
		})
	}
}
