package core

import (
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/allocator"
)

// Explain asks what keeps offers from a framework. The answer is an Explanation.
type Explain struct {
	Token     Token
	Framework ids.Framework
}

// KillTask is an operator's wish to end a task, past its framework. The framework hears of it by the task's updates, as if it had
// asked for it itself. The answer is a Reply: 202, or 404 when there is no such task.
type KillTask struct {
	Token     Token
	Framework ids.Framework
	Task      *mesosv1.TaskID
	Policy    *mesosv1.KillPolicy // nil: the task's own
}

// Explanation answers Explain. Known is false when there is no such framework.
type Explanation struct {
	Token Token
	Known bool
	Roles []allocator.RoleExplanation
}

func (*Explain) isEvent()      {}
func (*KillTask) isEvent()     {}
func (*Explanation) isEffect() {}

func (s *State) explain(e *Explain) {
	x := &Explanation{Token: e.Token, Known: s.frameworks[e.Framework] != nil}
	if x.Known {
		x.Roles = s.alloc.Explain(e.Framework)
	}
	s.emit(x)
}

func (s *State) killTask(e *KillTask) {
	f := s.frameworks[e.Framework]
	if f == nil || f.tasks[ids.Task(e.Task.GetValue())] == nil {
		s.reply(e.Token, 404, "No such task")
		return
	}
	s.kill(f, &schedulerv1.Call_Kill{TaskId: e.Task, KillPolicy: e.Policy})
	s.reply(e.Token, 202, "")
}
