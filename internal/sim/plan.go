package sim

import (
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// plan is what a task will do.
type plan struct {
	at    int64 // Unix nanoseconds
	agent int   // index in the shard
	task  *task
	state mesosv1.TaskState // that it will move to
}

// planHeap is a heap of plans, the earliest first. One alarm serves a whole connection's agents: a timer for each task would
// cost more than the rest of it.
type planHeap []plan

func (h *planHeap) push(p plan) {
	*h = append(*h, p)
	list := *h
	i := len(list) - 1
	for i > 0 {
		up := (i - 1) / 2
		if list[up].at <= list[i].at {
			break
		}
		list[up], list[i] = list[i], list[up]
		i = up
	}
}

func (h *planHeap) pop() plan {
	list := *h
	first := list[0]
	last := len(list) - 1
	list[0], list[last] = list[last], plan{}
	list = list[:last]
	*h = list
	for i := 0; ; {
		down := 2*i + 1
		if down >= last {
			return first
		}
		if down+1 < last && list[down+1].at < list[down].at {
			down++
		}
		if list[i].at <= list[down].at {
			return first
		}
		list[i], list[down] = list[down], list[i]
		i = down
	}
}

// plan notes what a task will do. s.mu is held.
func (s *shard) plan(p plan) {
	s.plans.push(p)
	if s.plans[0].task == p.task {
		s.setAlarm()
	}
}

func (s *shard) setAlarm() {
	d := time.Duration(s.plans[0].at - now())
	if s.alarm == nil {
		s.alarm = time.AfterFunc(d, s.carryOut)
		return
	}
	s.alarm.Reset(d)
}

// carryOut moves the tasks whose time has come, unless they have ended meanwhile.
func (s *shard) carryOut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at := now(); len(s.plans) > 0 && s.plans[0].at <= at; {
		p := s.plans.pop()
		if s.agents[p.agent].tasks[string(valueOf(p.task.id))] == p.task && !terminal(p.task.state) {
			s.advance(p.agent, p.task, p.state)
		}
	}
	if len(s.plans) > 0 {
		s.setAlarm()
	}
}
