package api

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/orchestrator/orchestrator/internal/wire"
)

// However many ask for an answer, one is made at a time, nobody gets one older than what was asked for, and nobody waits for
// more than the one being made, the rest after it and the next.
func TestAnswersAreSharedByThoseWhoWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c sharedAnswer
		var made, making atomic.Int32
		var longest atomic.Int64 // ns
		ask := func(version uint64) {
			start := time.Now()
			body := c.get(version, false, func(buf []byte, _ *wire.Pace) []byte {
				if making.Add(1) > 1 {
					t.Error("two answers are made at once")
				}
				defer making.Add(-1)
				made.Add(1)
				time.Sleep(time.Second) // virtual time
				return fmt.Appendf(buf, "%d", version)
			})
			defer body.release()
			var got uint64
			if _, err := fmt.Sscan(string(body.JSON), &got); err != nil || got < version {
				t.Errorf("asked for version %d, got %s", version, body.JSON)
			}
			waited := int64(time.Since(start))
			for was := longest.Load(); waited > was && !longest.CompareAndSwap(was, waited); was = longest.Load() {
			}
		}
		go ask(1)
		time.Sleep(100 * time.Millisecond)
		for i := range 50 {
			go ask(uint64(2 + i%7))
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		if n := made.Load(); n != 2 {
			t.Errorf("%d answers were made for 51 requests", n)
		}
		// Nobody had asked together with the first, so no rest lay behind it.
		if waited := time.Duration(longest.Load()); waited > 2*time.Second {
			t.Errorf("somebody waited %v", waited)
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

// Whoever asks again and again alone never waits for a rest; many take a quarter of the time.
func TestMakingAnswersTakesAQuarterOfTheTimeOfMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c sharedAnswer
		var version atomic.Uint64
		var answers atomic.Int32
		ask := func() time.Duration {
			start := time.Now()
			c.get(version.Add(1), false, func(buf []byte, _ *wire.Pace) []byte {
				time.Sleep(100 * time.Millisecond)
				answers.Add(1)
				return buf
			}).release()
			return time.Since(start)
		}
		for range 10 {
			if took := ask(); took != 100*time.Millisecond {
				t.Fatalf("one client waited %v", took)
			}
		}
		answers.Store(0)
		end := time.Now().Add(20 * time.Second)
		for i := range 20 {
			go func() {
				time.Sleep(time.Duration(i) * 7 * time.Millisecond)
				for time.Now().Before(end) {
					if took := ask(); took > 5*100*time.Millisecond {
						t.Errorf("one of many waited %v", took)
					}
				}
			}()
		}
		time.Sleep(21 * time.Second)
		if busy := time.Duration(answers.Load()) * 100 * time.Millisecond; busy < 4*time.Second || busy > 6*time.Second {
			t.Errorf("answers were made for %v of 20 s", busy)
		}
	})
}

// What is made in pieces rests between them, so that it takes no more than a quarter of a processor at any time, and owes no rest at its end.
func TestAnswersOfManyAreMadeAtAPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c sharedAnswer
		const pieces = 50
		busiest, made := time.Duration(0), 0
		piecewise := func(buf []byte, pace *wire.Pace) []byte {
			made++
			var ends []time.Time
			for range pieces {
				time.Sleep(time.Millisecond) // work
				ends = append(ends, time.Now())
				pace.Step()
			}
			if made > 1 { // that of many
				for i := range ends[10:] {
					busiest = max(busiest, 100*10*time.Millisecond/ends[i+10].Sub(ends[i]))
				}
			}
			return buf
		}
		start := time.Now()
		c.get(1, false, piecewise).release()
		if took := time.Since(start); took != pieces*time.Millisecond {
			t.Errorf("one client waited %v", took)
		}
		for version := range uint64(4) {
			var done atomic.Int32
			for range 20 {
				go func() { c.get(10+version, false, piecewise).release(); done.Add(1) }()
			}
			time.Sleep(time.Second)
			if n := done.Load(); n != 20 {
				t.Fatalf("%d of 20 have got theirs", n)
			}
		}
		if made != 5 || busiest < 20 || busiest > 30 {
			t.Errorf("%d were made; at the busiest they took %d %% of a processor", made, busiest)
		}
		if wait := time.Until(c.rested); wait > 0 {
			t.Errorf("%v are owed after all pieces have rested", wait)
		}
	})
}

// A buffer is used again only when nobody sends it any more.
func TestBuffersOfAnswersInUseAreLeftAlone(t *testing.T) {
	t.Parallel()
	var c sharedAnswer
	get := func(version uint64) *heldBody {
		return c.get(version, false, func(buf []byte, _ *wire.Pace) []byte { return fmt.Appendf(buf, "version %d", version) })
	}
	slow := get(1)
	get(2).release()
	get(3).release()
	get(4).release()
	if string(slow.JSON) != "version 1" {
		t.Errorf("an answer that is being sent became %q", slow.JSON)
	}
	slow.release()
	buf := &slow.JSON[0]
	if b := get(5); &b.JSON[0] != buf {
		t.Log("another buffer was used, which is no fault")
	}
	if c.spare == nil {
		t.Error("no buffer is kept for the next answer")
	}
}
