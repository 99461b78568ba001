package core

import (
	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// message handles MESSAGE: best effort to an executor.
func (s *State) message(f *framework, c *schedulerv1.Call_Message) {
	a := s.agents[ids.Agent(c.GetAgentId().GetValue())]
	if a == nil || !a.connected() {
		s.counters.InvalidMessages++
		return
	}
	s.counters.ValidMessages++
	s.sendAgent(a, &linkv1.Message{Kind: &linkv1.Message_FrameworkMessage{FrameworkMessage: &linkv1.FrameworkMessage{
		FrameworkId: f.info.GetId(), ExecutorId: c.GetExecutorId(), Data: c.GetData(),
	}}})
}

// shutdownExecutor handles SHUTDOWN.
func (s *State) shutdownExecutor(f *framework, c *schedulerv1.Call_Shutdown) {
	a := s.agents[ids.Agent(c.GetAgentId().GetValue())]
	if a == nil {
		return
	}
	s.sendAgent(a, &linkv1.Message{Kind: &linkv1.Message_ShutdownExecutor{ShutdownExecutor: &linkv1.ShutdownExecutor{
		FrameworkId: f.info.GetId(), ExecutorId: c.GetExecutorId(),
	}}})
}
