package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	checkpointv1 "github.com/orchestrator/orchestrator/api/checkpoint/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentcore "github.com/orchestrator/orchestrator/internal/agent/core"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// disk is what an agent has made durable.
type disk struct {
	info       *mesosv1.AgentInfo
	resources  *checkpointv1.Resources
	drain      *mesosv1.DrainConfig
	frameworks map[ids.Framework]*mesosv1.FrameworkInfo
	runs       map[agentcore.Run]*savedRun
}

type savedRun struct {
	executor              *checkpointv1.Executor
	registered, completed bool
	tasks                 map[ids.Task]*savedTask
}

type savedTask struct {
	task    *checkpointv1.Task
	updates []*checkpointv1.Update
}

func newDisk() *disk {
	return &disk{frameworks: map[ids.Framework]*mesosv1.FrameworkInfo{}, runs: map[agentcore.Run]*savedRun{}}
}

func (d *disk) write(p agentcore.Persistent) {
	switch e := p.(type) {
	case agentcore.SaveAgent:
		d.info = e.Info
	case agentcore.ForgetAgent:
		*d = *newDisk()
	case agentcore.SaveResources:
		d.resources = e.Resources
	case agentcore.SaveDrain:
		d.drain = e.Config
	case agentcore.SaveFramework:
		d.frameworks[ids.Framework(e.Info.GetId().GetValue())] = e.Info
	case agentcore.SaveExecutor:
		d.runs[e.Run] = &savedRun{executor: e.Executor, tasks: map[ids.Task]*savedTask{}}
	case agentcore.SaveRegistered:
		d.runs[e.Run].registered = true
	case agentcore.SaveCompleted:
		d.runs[e.Run].completed = true
	case agentcore.SaveTask:
		d.runs[e.Run].tasks[ids.Task(e.Task.GetInfo().GetTaskId().GetValue())] = &savedTask{task: e.Task}
	case agentcore.ForgetRun:
		delete(d.runs, e.Run)
		if !e.FrameworkInUse {
			delete(d.frameworks, e.Run.Framework)
		}
	case agentcore.AppendUpdate:
		t := d.runs[e.Run].tasks[e.Task]
		t.updates = append(t.updates, e.Update)
	case agentcore.RewriteUpdates:
		d.runs[e.Run].tasks[e.Task].updates = e.Updates
	default:
		panic(fmt.Sprintf("cluster: the disk does not know %T", p))
	}
}

// boot is what the next process of the agent finds.
func (d *disk) boot(key [32]byte, info *mesosv1.AgentInfo, alive func(ids.Container) bool) agentcore.Boot {
	b := agentcore.Boot{Key: key, Info: info, Total: info.GetResources(), Drain: d.drain}
	if d.info == nil {
		return b
	}
	b.Info = d.info
	if d.resources != nil {
		b.Total, b.Operations, b.Destroyed = d.resources.GetTotal(), d.resources.GetOperations(), d.resources.GetDestroyed()
	}
	for _, id := range slices.Sorted(maps.Keys(d.frameworks)) {
		bf := agentcore.BootFramework{Info: d.frameworks[id]}
		for _, r := range slices.SortedFunc(maps.Keys(d.runs), func(a, b agentcore.Run) int {
			return strings.Compare(string(a.Container), string(b.Container))
		}) {
			if r.Framework != id {
				continue
			}
			saved := d.runs[r]
			br := agentcore.BootRun{
				Container: r.Container, Executor: saved.executor, Registered: saved.registered, Completed: saved.completed, Alive: alive(r.Container),
			}
			for _, tid := range slices.Sorted(maps.Keys(saved.tasks)) {
				br.Tasks = append(br.Tasks, agentcore.BootTask{Task: saved.tasks[tid].task, Updates: saved.tasks[tid].updates})
			}
			bf.Runs = append(bf.Runs, br)
		}
		b.Frameworks = append(b.Frameworks, bf)
	}
	return b
}
