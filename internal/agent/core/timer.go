package core

import (
	"container/heap"
	"time"
)

// timer is something that happens at a time unless it is stopped before. Timers with one time fire in the order in which
// they were set.
type timer struct {
	at    time.Time
	seq   uint64
	index int // in the heap; -1 when it is not there
	fire  func()
}

type timers []*timer

func (h timers) Len() int { return len(h) }

func (h timers) Less(i, j int) bool {
	if h[i].at.Equal(h[j].at) {
		return h[i].seq < h[j].seq
	}
	return h[i].at.Before(h[j].at)
}

func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *timers) Push(x any) {
	t := x.(*timer)
	t.index = len(*h)
	*h = append(*h, t)
}

func (h *timers) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	t.index = -1
	return t
}

// after sets a timer.
func (c *Core) after(d time.Duration, fire func()) *timer {
	c.timerSeq++
	t := &timer{at: c.now.Add(d), seq: c.timerSeq, fire: fire}
	heap.Push(&c.timers, t)
	return t
}

// stop forgets a timer; nil and fired ones are fine.
func (c *Core) stop(t *timer) {
	if t != nil && t.index >= 0 {
		heap.Remove(&c.timers, t.index)
	}
}

// runTimers fires what is due.
func (c *Core) runTimers() {
	for len(c.timers) > 0 && !c.timers[0].at.After(c.now) {
		t := heap.Pop(&c.timers).(*timer)
		t.fire()
	}
}

// Next is the time of the earliest timer: when a Tick is due.
func (c *Core) Next() (time.Time, bool) {
	if len(c.timers) == 0 {
		return time.Time{}, false
	}
	return c.timers[0].at, true
}
