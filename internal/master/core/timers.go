package core

import (
	"container/heap"
	"time"
)

// timer runs fn once its time has come, unless it was stopped. Timers of the same moment run in the order they were set.
type timer struct {
	when    time.Time
	seq     uint64
	fn      func()
	index   int
	stopped bool
}

type timerHeap []*timer

func (h timerHeap) Len() int { return len(h) }
func (h timerHeap) Less(i, j int) bool {
	if h[i].when.Equal(h[j].when) {
		return h[i].seq < h[j].seq
	}
	return h[i].when.Before(h[j].when)
}

func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *timerHeap) Push(x any) {
	t := x.(*timer)
	t.index = len(*h)
	*h = append(*h, t)
}

func (h *timerHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	t.index = -1
	return t
}

// at sets a timer. Time moves only between Steps, so fn never runs inside the call that set it.
func (s *State) at(when time.Time, fn func()) *timer {
	s.timerSeq++
	t := &timer{when: when, seq: s.timerSeq, fn: fn}
	heap.Push(&s.timers, t)
	return t
}

func (s *State) after(d time.Duration, fn func()) *timer { return s.at(s.now.Add(d), fn) }

// stop takes a timer back; nil and stopped timers are fine.
func (s *State) stop(t *timer) {
	if t == nil || t.stopped {
		return
	}
	t.stopped = true
	if t.index >= 0 {
		heap.Remove(&s.timers, t.index)
	}
}

// runTimers runs what is due at s.now.
func (s *State) runTimers() {
	for len(s.timers) > 0 && !s.timers[0].when.After(s.now) {
		t := heap.Pop(&s.timers).(*timer)
		t.stopped = true
		t.fn()
	}
}
