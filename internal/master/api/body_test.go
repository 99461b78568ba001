package api

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// However many ask for an answer, one is made at a time, nobody gets one older than what was asked for, and nobody waits for
// more than the one being made and the next.
func TestAnswersAreSharedByThoseWhoWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &stateCache{}
		var made, making atomic.Int32
		ask := func(version uint64) {
			start := time.Now()
			body := c.body("state", version, func() []byte {
				if making.Add(1) > 1 {
					t.Error("two answers are made at once")
				}
				defer making.Add(-1)
				made.Add(1)
				time.Sleep(time.Second) // virtual time
				return fmt.Appendf(nil, "%d", version)
			})
			var got uint64
			if _, err := fmt.Sscan(string(body), &got); err != nil || got < version {
				t.Errorf("asked for version %d, got %s", version, body)
			}
			if waited := time.Since(start); waited > 2*time.Second {
				t.Errorf("version %d took %v", version, waited)
			}
		}
		go ask(1)
		time.Sleep(100 * time.Millisecond)
		for i := range 50 {
			go ask(uint64(2 + i%7))
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		if n := made.Load(); n != 2 {
			t.Errorf("%d answers were made for 51 requests", n)
		}
		ask(5)
		if n := made.Load(); n != 2 {
			t.Error("an answer that was there was made again")
		}
		ask(9)
		if n := made.Load(); n != 3 {
			t.Errorf("%d answers were made", n)
		}
	})
}
