package wire

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestPace(t *testing.T) {
	t.Parallel()
	times := func(n float64) func() float64 { return func() float64 { return n } }
	synctest.Test(t, func(t *testing.T) {
		for what, c := range map[string]struct {
			pace        Pace
			piece, want time.Duration // of a hundred pieces, all that they rest
		}{
			"none":                  {Pace{}, time.Millisecond, 0},
			"three times":           {Pace{Rest: times(3)}, time.Millisecond, 300 * time.Millisecond},
			"short ones together":   {Pace{Rest: times(1)}, 10 * time.Microsecond, time.Millisecond},
			"no longer than agreed": {Pace{Rest: times(3), Longest: time.Millisecond}, 10 * time.Millisecond, 100 * time.Millisecond},
		} {
			p, start := c.pace, time.Now()
			p.Begin()
			for range 100 {
				time.Sleep(c.piece)
				p.Step()
			}
			rested := time.Since(start) - 100*c.piece
			if rested != c.want || p.Rested() != rested {
				t.Errorf("%s: rested %v, says %v, want %v", what, rested, p.Rested(), c.want)
			}
		}
	})
}

// slowWriter takes a time for each write.
type slowWriter struct {
	httptest.ResponseRecorder
	takes time.Duration
	most  int
}

func (s *slowWriter) Write(b []byte) (int, error) {
	s.most = max(s.most, len(b))
	time.Sleep(s.takes)
	return s.ResponseRecorder.Write(b)
}

// A large body goes whole and in pieces. One alone is not delayed; many take a quarter of a processor together, and one that reads slowly is not made
// slower by much.
func TestLargeBodiesAreSentAtAPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := bytes.Repeat([]byte("0123456789abcdef"), 2<<20/16)
		pieces := time.Duration(len(body) / largePiece)
		send := func(takes time.Duration) (time.Duration, *slowWriter) {
			start, w := time.Now(), &slowWriter{takes: takes}
			w.Body = &bytes.Buffer{}
			NewBody(body).Respond(w, httptest.NewRequest(http.MethodGet, "/state", nil))
			if !bytes.Equal(w.Body.Bytes(), body) || w.Code != http.StatusOK || w.Header().Get("Content-Length") == "" {
				t.Errorf("%d bytes of %d came, %d %v", w.Body.Len(), len(body), w.Code, w.Header())
			}
			if w.most > largePiece {
				t.Errorf("a piece of %d bytes", w.most)
			}
			return time.Since(start), w
		}
		if took, _ := send(100 * time.Microsecond); took != pieces*100*time.Microsecond {
			t.Errorf("one alone took %v", took)
		}
		var wg sync.WaitGroup
		start := time.Now()
		for range 10 {
			wg.Go(func() { send(100 * time.Microsecond) })
		}
		wg.Wait()
		if took, work := time.Since(start), 10*pieces*100*time.Microsecond; took < 3*work || took > 5*work {
			t.Errorf("ten took %v for %v of work", took, work)
		}
		wg.Go(func() { send(time.Microsecond) })
		slow := 100 * time.Millisecond
		wg.Go(func() {
			if took, _ := send(slow); took > pieces*(slow+largeRest) {
				t.Errorf("a slow one took %v", took)
			}
		})
		wg.Wait()
	})
}
