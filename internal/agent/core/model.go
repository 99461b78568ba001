package core

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	checkpointv1 "github.com/orchestrator/orchestrator/api/checkpoint/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// framework is one framework that has, or had, executors here.
type framework struct {
	id             ids.Framework
	info           *mesosv1.FrameworkInfo
	partitionAware bool
	terminating    bool
	executors      map[ids.Executor]*executor
	// tasks are those of all executors that are not completed.
	tasks     map[ids.Task]*task
	completed ring[*executorView]
	dirty     bool
}

// executor is one run of an executor.
type executor struct {
	fw         *framework
	run        Run
	info       *mesosv1.ExecutorInfo
	kind       containerizer.Kind
	user       string
	directory  string
	phase      ExecutorPhase
	registered bool // has ever subscribed
	launched   bool // its container has started
	recovered  bool // comes from an earlier process and has not subscribed to this one
	conn       uint64
	status     *mesosv1.ContainerStatus
	// tasks are the queued, the delivered, and the terminated ones that await acknowledgement.
	tasks map[ids.Task]*task
	// queue holds what waits for the executor, in order; a group is delivered at once.
	queue [][]*task
	// delivered counts tasks that were ever sent to it.
	delivered int
	// own and used are the executor's resources, and with those of its living tasks.
	own, used resources.Resources
	// limited counts the living tasks that have limits of their own.
	limited int
	// verdict overrides what the end of the container would mean for its tasks.
	verdict   *verdict
	timer     *timer
	completed ring[*taskView]
	dirty     bool
}

// verdict says why the agent itself ended a container.
type verdict struct {
	state   *mesosv1.TaskState
	reason  mesosv1.TaskStatus_Reason
	message string
}

// task is a task that the agent answers for. One without an executor (ghost) only carries an update: the task never ran.
type task struct {
	id    ids.Task
	fw    ids.Framework
	ex    *executor
	info  *mesosv1.TaskInfo // nil for some ghosts
	group string
	size  int // of the group
	phase TaskPhase
	state mesosv1.TaskState
	res   resources.Resources
	// statuses are those that /state shows: consecutive ones with one state are represented by the last.
	statuses []*mesosv1.TaskStatus
	// pending are the updates that are not acknowledged; the first is in flight.
	pending []*mesosv1.TaskStatus
	// seen are the uuids taken last: an executor may send an update again.
	seen ring[string]
	// records counts what task.updates holds.
	records int
	// kill is a kill that must reach the executor again when it comes back.
	kill    *killing
	timer   *timer
	backoff time.Duration
	view    *taskView
}

type killing struct {
	policy *mesosv1.KillPolicy
}

func (t *task) terminal() bool { return t.phase == TaskTerminated || t.phase == TaskCompleted }

// checkpoint says whether the executor's run is on disk: Mesos' FrameworkInfo.checkpoint.
func (e *executor) checkpoint() bool { return e.fw.info.GetCheckpoint() }

// generated reports whether the agent made up the executor for a task with a command.
func (e *executor) generated() bool { return e.kind == containerizer.CommandTask }

func (e *executor) ids() (*mesosv1.FrameworkID, *mesosv1.ExecutorID) {
	return frameworkID(e.run.Framework), executorID(e.run.Executor)
}

func frameworkID(id ids.Framework) *mesosv1.FrameworkID {
	v := string(id)
	return &mesosv1.FrameworkID{Value: &v}
}

func executorID(id ids.Executor) *mesosv1.ExecutorID {
	v := string(id)
	return &mesosv1.ExecutorID{Value: &v}
}

func taskID(id ids.Task) *mesosv1.TaskID {
	v := string(id)
	return &mesosv1.TaskID{Value: &v}
}

func containerID(id ids.Container) *mesosv1.ContainerID {
	v := string(id)
	return &mesosv1.ContainerID{Value: &v}
}

func has(info *mesosv1.FrameworkInfo, c mesosv1.FrameworkInfo_Capability_Type) bool {
	for _, x := range info.GetCapabilities() {
		if x.GetType() == c {
			return true
		}
	}
	return false
}

// dropped is the state of a task that never ran, for frameworks that know it (facts 1.9).
func dropped(partitionAware bool) mesosv1.TaskState {
	if partitionAware {
		return mesosv1.TaskState_TASK_DROPPED
	}
	return mesosv1.TaskState_TASK_LOST
}

// ring remembers the last few of what is added.
type ring[T any] struct {
	items []T
	next  int
}

func (r *ring[T]) add(v T, limit int) {
	switch {
	case limit <= 0:
	case len(r.items) < limit:
		r.items = append(r.items, v)
	default:
		r.items[r.next%limit] = v
		r.next = (r.next + 1) % limit
	}
}

// all gives the items, oldest first.
func (r *ring[T]) all() []T {
	out := make([]T, 0, len(r.items))
	out = append(out, r.items[r.next:]...)
	return append(out, r.items[:r.next]...)
}

func taskRecord(t *task) *checkpointv1.Task {
	rec := &checkpointv1.Task{Info: t.info}
	if t.group != "" {
		size := int32(t.size)
		rec.Group, rec.GroupSize = &t.group, &size
	}
	return rec
}

// inOrder walks a map by its keys: the same history must give the same effects.
func inOrder[K cmp.Ordered, V any](m map[K]V) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if v, ok := m[k]; ok && !yield(k, v) { // what the body deleted is not visited
				return
			}
		}
	}
}

func compareGhosts(a, b ghostKey) int {
	if n := strings.Compare(string(a.framework), string(b.framework)); n != 0 {
		return n
	}
	return strings.Compare(string(a.task), string(b.task))
}
