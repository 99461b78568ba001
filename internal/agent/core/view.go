package core

import (
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// View is what the agent knows at one moment. It is never changed: what did not change since the last View is shared
// with it.
type View struct {
	Phase      Phase
	Info       *mesosv1.AgentInfo
	Master     *mesosv1.MasterInfo
	Started    time.Time
	Registered time.Time // zero before the first registration of this process
	Total      resources.Resources
	Used       resources.Resources
	Revocable  []*mesosv1.Resource
	Operations []*mesosv1.Operation
	Drain      *mesosv1.DrainConfig
	DrainStart time.Time
	Frameworks []*FrameworkView
	Completed  []*FrameworkView
	Counters   Counters
	// Executors counts executors by phase, Tasks tasks by state; ended ones that are forgotten are not in it.
	Executors map[ExecutorPhase]int
	Tasks     map[mesosv1.TaskState]int
}

// FrameworkView is a framework.
type FrameworkView = frameworkView

type frameworkView struct {
	Info        *mesosv1.FrameworkInfo
	Terminating bool
	Executors   []*ExecutorView
	Completed   []*ExecutorView
}

// ExecutorView is a run of an executor.
type ExecutorView = executorView

type executorView struct {
	Run       Run
	Info      *mesosv1.ExecutorInfo
	Kind      containerizer.Kind
	Generated bool
	Phase     ExecutorPhase
	Connected bool
	Directory string
	Resources resources.Resources
	// Tasks are those that are not completed.
	Tasks     []*TaskView
	Completed []*TaskView
}

// TaskView is a task.
type TaskView = taskView

type taskView struct {
	Phase TaskPhase
	Task  *mesosv1.Task
	Info  *mesosv1.TaskInfo
}

// Counters count since the start of the process.
type Counters struct {
	ValidUpdates, InvalidUpdates, UpdateRetries, StaleAcknowledgements uint64
	ExecutorMessages, DroppedMessages, InvalidCalls, LaunchErrors      uint64
	// Terminal counts tasks by the state in which they ended.
	Terminal [16]uint64
}

// dirtyCache is kept beside the live objects.
type cached struct {
	fw map[ids.Framework]*frameworkView
	ex map[ids.Container]*executorView
}

// View builds what changed since the last one.
func (c *Core) View() *View {
	if c.cachedView != nil && !c.anythingSeen {
		return c.cachedView
	}
	v := &View{
		Phase: c.phase, Info: c.info, Master: c.master, Started: c.started, Registered: c.registered, Total: c.total,
		Revocable: c.revocable, Operations: c.operationList(), Completed: c.completed.all(), Counters: c.counters,
		Executors: map[ExecutorPhase]int{}, Tasks: map[mesosv1.TaskState]int{},
	}
	if c.drain != nil {
		v.Drain, v.DrainStart = c.drain.config, c.drain.started
	}
	if c.views.fw == nil {
		c.views = cached{fw: map[ids.Framework]*frameworkView{}, ex: map[ids.Container]*executorView{}}
	}
	for id := range c.views.fw {
		if c.frameworks[id] == nil {
			delete(c.views.fw, id)
		}
	}
	for id := range c.views.ex {
		if c.runs[id] == nil {
			delete(c.views.ex, id)
		}
	}
	for id, fw := range inOrder(c.frameworks) {
		if fw.dirty || c.views.fw[id] == nil {
			c.views.fw[id] = c.viewFramework(fw)
			fw.dirty = false
		}
		v.Frameworks = append(v.Frameworks, c.views.fw[id])
		for _, e := range fw.executors {
			v.Executors[e.phase]++
			if e.phase != ExecutorTerminated {
				v.Used = v.Used.Add(e.used)
			}
			for _, t := range e.tasks {
				v.Tasks[t.state]++
			}
		}
	}
	c.cachedView, c.anythingSeen = v, false
	return v
}

func (c *Core) viewFramework(fw *framework) *frameworkView {
	v := &frameworkView{Info: fw.info, Terminating: fw.terminating, Completed: fw.completed.all()}
	for _, e := range inOrder(fw.executors) {
		if e.dirty || c.views.ex[e.run.Container] == nil {
			if c.views.ex != nil {
				c.views.ex[e.run.Container] = c.viewExecutor(e)
				e.dirty = false
			} else {
				v.Executors = append(v.Executors, c.viewExecutor(e))
				continue
			}
		}
		v.Executors = append(v.Executors, c.views.ex[e.run.Container])
	}
	return v
}

func (c *Core) viewExecutor(e *executor) *executorView {
	v := &executorView{
		Run: e.run, Info: e.info, Kind: e.kind, Generated: e.generated(), Phase: e.phase, Connected: e.conn != 0,
		Directory: e.directory, Resources: e.used, Completed: e.completed.all(),
	}
	for _, t := range inOrder(e.tasks) {
		if t.view == nil {
			t.view = c.viewTask(t)
		}
		v.Tasks = append(v.Tasks, t.view)
	}
	return v
}

func (c *Core) viewTask(t *task) *taskView {
	return &taskView{Phase: t.phase, Task: t.proto(), Info: t.info}
}

// proto is the task as Mesos' messages have it.
func (t *task) proto() *mesosv1.Task {
	state := t.state
	p := &mesosv1.Task{
		Name: new(t.info.GetName()), TaskId: taskID(t.id), FrameworkId: frameworkID(t.fw), AgentId: t.info.GetAgentId(),
		State: &state, Resources: t.info.GetResources(), Statuses: t.statuses, Labels: t.info.GetLabels(),
		Discovery: t.info.GetDiscovery(), Container: t.info.GetContainer(), HealthCheck: t.info.GetHealthCheck(),
		KillPolicy: t.info.GetKillPolicy(), Limits: t.info.GetLimits(),
	}
	if t.ex != nil {
		if !t.ex.generated() {
			p.ExecutorId = executorID(t.ex.run.Executor)
		}
		if t.ex.user != "" {
			p.User = &t.ex.user
		}
	}
	if len(t.pending) > 0 {
		p.StatusUpdateState, p.StatusUpdateUuid = t.pending[0].State, t.pending[0].GetUuid()
	}
	return p
}
