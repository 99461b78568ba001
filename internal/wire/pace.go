package wire

import (
	"runtime"
	"time"
)

// Pace spreads work that is long but not urgent (a large answer for many clients) over time, so that what is urgent never finds all processors
// taken by it: after each piece it lets go of the processor, and when Rest says so it rests that many times as long as the piece took.
// The zero value only lets go. It is used by one goroutine.
type Pace struct {
	// Rest is asked after each piece how long to rest, in times of what the piece took. Without it there is no rest.
	Rest func() float64
	// Longest bounds each rest; 0 is no bound.
	Longest time.Duration

	began time.Time // of the piece
	owed  time.Duration
	slept time.Duration
}

// shortestRest is what a rest is put off for until it has come together: shorter ones cost more than they give.
const shortestRest = 500 * time.Microsecond

// Begin says that a piece begins. Without it the first one is taken for no time.
func (p *Pace) Begin() { p.began = time.Now() }

// Step is called between two pieces.
func (p *Pace) Step() {
	if p.Rest == nil {
		runtime.Gosched()
		return
	}
	now := time.Now()
	if rest := p.Rest(); rest > 0 && !p.began.IsZero() {
		p.owed += time.Duration(float64(now.Sub(p.began)) * rest)
	}
	if p.Longest > 0 {
		p.owed = min(p.owed, p.Longest)
	}
	if p.owed < shortestRest {
		runtime.Gosched()
		p.began = time.Now()
		return
	}
	time.Sleep(p.owed)
	p.began = time.Now()
	took := p.began.Sub(now)
	p.slept += took
	p.owed -= took // it may have been longer than asked for: the next is shorter
}

// Rested is how long all rests were together.
func (p *Pace) Rested() time.Duration { return p.slept }
