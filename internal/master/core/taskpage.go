package core

import (
	"bytes"
	"iter"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// TaskPage is a task as it was at one moment: what mesos.v1.Task holds. It is never changed.
//
// A master holds hundreds of thousands of tasks, and almost nobody asks for almost all of them. As messages they would take
// several kilobytes each in dozens of objects, which the collector visits again and again. So what can't change is kept once
// for all moments of a task, and once for all tasks that are alike (in general those of one app); what does change is kept
// encoded. Proto makes the message when somebody wants it.
type TaskPage struct {
	task        *taskIdentity
	state       mesosv1.TaskState
	updateState mesosv1.TaskState // status_update_state
	updateUUID  [16]byte
	flags       taskFlags
	lastState   mesosv1.TaskState // of the newest status
	lastAt      int               // where the newest status begins in statuses
	// statuses are encoded TaskStatuses, each with its length before it, without task_id, and a byte that says whether
	// agent_id is the task's, in which case it is not there either.
	statuses []byte
}

const (
	otherAgent = 0
	ownAgent   = 1
)

type taskFlags uint8

const (
	hasUpdateState taskFlags = 1 << iota
	hasUpdateUUID
)

// taskIdentity is what tells a task from others that are alike.
type taskIdentity struct {
	id        ids.Task
	name      string
	framework ids.Framework
	agent     ids.Agent
	shape     *taskShape
}

// taskShape is what tasks that are alike have in common.
type taskShape struct {
	resources resources.Resources
	rest      []byte // an encoded Task's fields that are neither elsewhere here nor in a TaskPage
}

// Numbers of the fields of Task and TaskStatus that are not kept as they come.
const (
	taskName, taskTaskID, taskFrameworkID, taskAgentID     protowire.Number = 1, 2, 3, 5
	taskState                                              protowire.Number = 6
	taskExecutorID, taskUser                               protowire.Number = 4, 14
	statusTaskID, statusData, statusMessage, statusAgentID protowire.Number = 1, 3, 4, 5
	idValue                                                protowire.Number = 1
)

// NewTaskPage makes the page of a task, sharing what is the same with like, the page of another task, which may be nil.
func NewTaskPage(p *mesosv1.Task, like *TaskPage) *TaskPage {
	return newTaskPage(p, resources.FromProtoTrusted(p.GetResources()), like)
}

// newTaskPage is NewTaskPage for who knows the task's resources already.
func newTaskPage(p *mesosv1.Task, res resources.Resources, like *TaskPage) *TaskPage {
	t := &TaskPage{
		task: &taskIdentity{
			id: ids.Task(p.GetTaskId().GetValue()), name: p.GetName(), framework: ids.Framework(p.GetFrameworkId().GetValue()),
			agent: ids.Agent(p.GetAgentId().GetValue()), shape: shapeOf(p, res, like),
		},
		state: p.GetState(),
	}
	if like != nil {
		if t.task.framework == like.task.framework {
			t.task.framework = like.task.framework // one string
		}
		if t.task.name == like.task.name {
			t.task.name = like.task.name
		}
	}
	if t.task.name == string(t.task.id) {
		t.task.name = string(t.task.id)
	}
	for _, s := range p.GetStatuses() {
		t.addStatus(s)
	}
	if p.StatusUpdateState != nil {
		t.updateState, t.flags = p.GetStatusUpdateState(), t.flags|hasUpdateState
	}
	t.setUUID(p.GetStatusUpdateUuid())
	return t
}

// shapeOf gives like's shape if it fits.
func shapeOf(p *mesosv1.Task, res resources.Resources, like *TaskPage) *taskShape {
	rest := &mesosv1.Task{
		Name: proto.String(""), TaskId: &mesosv1.TaskID{Value: proto.String("")}, FrameworkId: &mesosv1.FrameworkID{Value: proto.String("")},
		AgentId: &mesosv1.AgentID{Value: proto.String("")}, State: mesosv1.TaskState_TASK_STAGING.Enum(), // what a message must have
		ExecutorId: p.ExecutorId, Labels: p.Labels, Discovery: p.Discovery, Container: p.Container, HealthCheck: p.HealthCheck,
		KillPolicy: p.KillPolicy, User: p.User, Limits: p.Limits,
	}
	var room [256]byte
	encoded := sized(room[:], rest.SizeVT())
	if _, err := rest.MarshalToSizedBufferVT(encoded); err != nil {
		encoded = nil // only of an incomplete message, and those are refused where they come in
	}
	encoded = filterFields(encoded[:0], encoded, func(num protowire.Number, _ []byte) bool {
		switch num {
		case taskName, taskTaskID, taskFrameworkID, taskAgentID, taskState:
			return false
		}
		return true
	})
	if like != nil && bytes.Equal(like.task.shape.rest, encoded) && like.task.shape.resources.Equal(res) && !res.HasPersistentVolumes() {
		return like.task.shape
	}
	return &taskShape{resources: res, rest: bytes.Clone(encoded)}
}

// sized gives room for size bytes, which is on the stack unless they are more.
func sized(room []byte, size int) []byte {
	if size <= len(room) {
		return room[:size]
	}
	return make([]byte, size)
}

// filterFields appends the fields of a message, encoded here, that keep wants; dst may be the memory that msg lies in, at or before its
// start. body is a length-delimited field's content.
func filterFields(dst, msg []byte, keep func(num protowire.Number, body []byte) bool) []byte {
	for len(msg) > 0 {
		num, typ, tag := protowire.ConsumeTag(msg)
		if tag < 0 {
			return dst
		}
		n := protowire.ConsumeFieldValue(num, typ, msg[tag:])
		if n < 0 {
			return dst
		}
		var body []byte
		if typ == protowire.BytesType {
			body, _ = protowire.ConsumeBytes(msg[tag:])
		}
		if keep(num, body) {
			dst = append(dst, msg[:tag+n]...)
		}
		msg = msg[tag+n:]
	}
	return dst
}

// with is the page after a status: the newest state moves to latest unless the task had ended.
func (t *TaskPage) with(status *mesosv1.TaskStatus, latest mesosv1.TaskState) *TaskPage {
	next := *t
	if !terminal(t.state) {
		next.state = latest
	}
	if status.Uuid != nil {
		next.updateState = status.GetState()
		next.flags |= hasUpdateState
		next.setUUID(status.GetUuid())
	}
	next.addStatus(status)
	return &next
}

// withState is the page in another state.
func (t *TaskPage) withState(state mesosv1.TaskState) *TaskPage {
	next := *t
	next.state = state
	return &next
}

func (t *TaskPage) setUUID(uuid []byte) {
	if len(uuid) == len(t.updateUUID) {
		copy(t.updateUUID[:], uuid)
		t.flags |= hasUpdateUUID
	}
}

// maxStatusMessage bounds, in bytes, what is kept of a status' message. Mesos keeps it whole, and a master's memory is then the executors' affair.
const maxStatusMessage = 1024

// addStatus appends to the history, which keeps one status for each state in a row, without the bulky parts.
func (t *TaskPage) addStatus(status *mesosv1.TaskStatus) {
	var room [512]byte
	encoded := sized(room[:], status.SizeVT())
	if _, err := status.MarshalToSizedBufferVT(encoded); err != nil {
		return // see shapeOf
	}
	agent := byte(otherAgent)
	kept := filterFields(encoded[:0], encoded, func(num protowire.Number, body []byte) bool {
		switch num {
		case statusTaskID, statusData:
			return false
		case statusMessage:
			return len(body) <= maxStatusMessage
		case statusAgentID:
			if string(firstString(body)) != string(t.task.agent) {
				return true
			}
			agent = ownAgent
			return false
		}
		return true
	})
	if m := status.GetMessage(); len(m) > maxStatusMessage {
		kept = protowire.AppendTag(kept, statusMessage, protowire.BytesType)
		kept = protowire.AppendString(kept, strings.ToValidUTF8(m[:maxStatusMessage-len("…")], "")+"…")
	}
	end := len(t.statuses)
	if end > 0 && t.lastState == status.GetState() {
		end = t.lastAt
	}
	all := make([]byte, 0, end+protowire.SizeBytes(1+len(kept)))
	all = protowire.AppendVarint(append(all, t.statuses[:end]...), uint64(1+len(kept)))
	t.statuses = append(append(all, agent), kept...)
	t.lastAt, t.lastState = end, status.GetState()
}

// firstString is field 1 of an id.
func firstString(id []byte) []byte {
	if num, typ, n := protowire.ConsumeTag(id); n > 0 && num == idValue && typ == protowire.BytesType {
		value, _ := protowire.ConsumeBytes(id[n:])
		return value
	}
	return nil
}

// ID is the task's id.
func (t *TaskPage) ID() ids.Task { return t.task.id }

// Framework is the task's framework.
func (t *TaskPage) Framework() ids.Framework { return t.task.framework }

// Agent is where the task is.
func (t *TaskPage) Agent() ids.Agent { return t.task.agent }

// State is the newest state.
func (t *TaskPage) State() mesosv1.TaskState { return t.state }

// Resources are what the task was launched with, whether it still holds them or not.
func (t *TaskPage) Resources() resources.Resources { return t.task.shape.resources }

// User is the account that the task runs as.
func (t *TaskPage) User() string { return string(t.shapeField(taskUser)) }

// shapeField is the content of a length-delimited field of the shape; nil when it is missing.
func (t *TaskPage) shapeField(want protowire.Number) (found []byte) {
	filterFields(nil, t.task.shape.rest, func(num protowire.Number, body []byte) bool {
		if num == want {
			found = body
		}
		return false
	})
	return found
}

func (t *TaskPage) taskID() *mesosv1.TaskID {
	return &mesosv1.TaskID{Value: proto.String(string(t.task.id))}
}

func (t *TaskPage) frameworkID() *mesosv1.FrameworkID {
	return &mesosv1.FrameworkID{Value: proto.String(string(t.task.framework))}
}

func (t *TaskPage) agentID() *mesosv1.AgentID {
	return &mesosv1.AgentID{Value: proto.String(string(t.task.agent))}
}

func (t *TaskPage) executorID() *mesosv1.ExecutorID {
	id := t.shapeField(taskExecutorID)
	if id == nil {
		return nil
	}
	return &mesosv1.ExecutorID{Value: proto.String(string(firstString(id)))}
}

// updated reports whether an update of the agent awaits its acknowledgement or was acknowledged last, and its state and uuid.
func (t *TaskPage) updated() (state mesosv1.TaskState, uuid []byte, ok bool) {
	if t.flags&hasUpdateUUID != 0 {
		uuid = t.updateUUID[:]
	}
	return t.updateState, uuid, t.flags&hasUpdateState != 0
}

// lastStatus is the newest status; the task's state alone when it has none.
func (t *TaskPage) lastStatus() *mesosv1.TaskStatus {
	if len(t.statuses) == 0 {
		return &mesosv1.TaskStatus{TaskId: t.taskID(), State: t.state.Enum(), AgentId: t.agentID()}
	}
	kept, _ := protowire.ConsumeBytes(t.statuses[t.lastAt:])
	return t.decodeStatus(kept)
}

// FirstTimestamp is the time of the oldest status that is kept, in Unix seconds; false when there is none.
func (t *TaskPage) FirstTimestamp() (float64, bool) {
	if len(t.statuses) == 0 {
		return 0, false
	}
	kept, _ := protowire.ConsumeBytes(t.statuses)
	return t.decodeStatus(kept).GetTimestamp(), true
}

func (t *TaskPage) decodeStatus(kept []byte) *mesosv1.TaskStatus {
	// The decoder wants the id that every status must have.
	id := t.taskID()
	b := make([]byte, 0, len(kept)+len(t.task.id)+16)
	b = protowire.AppendVarint(protowire.AppendTag(b, statusTaskID, protowire.BytesType), uint64(id.SizeVT()))
	b = protowire.AppendString(protowire.AppendTag(b, idValue, protowire.BytesType), string(t.task.id))
	s := new(mesosv1.TaskStatus)
	_ = s.UnmarshalVT(append(b, kept[1:]...)) // it was encoded here
	if kept[0] == ownAgent {
		s.AgentId = t.agentID()
	}
	return s
}

// Name is the task's name.
func (t *TaskPage) Name() string { return t.task.name }

// Statuses yields the history, oldest first.
func (t *TaskPage) Statuses() iter.Seq[*mesosv1.TaskStatus] {
	return func(yield func(*mesosv1.TaskStatus) bool) {
		for b := t.statuses; len(b) > 0; {
			kept, n := protowire.ConsumeBytes(b)
			if n < 0 || !yield(t.decodeStatus(kept)) {
				return
			}
			b = b[n:]
		}
	}
}

// TaskShape is what a task has in common with others that are alike. Equal shapes of two tasks are the same; the zero value is
// no task's.
type TaskShape struct{ shape *taskShape }

// Shape is the task's shape.
func (t *TaskPage) Shape() TaskShape { return TaskShape{t.task.shape} }

// Proto makes a message that has only what the shape says: resources, executor, user, labels, container and the like.
func (s TaskShape) Proto() *mesosv1.Task {
	p := new(mesosv1.Task)
	b := make([]byte, 0, len(s.shape.rest)+32)
	// What the decoder wants a message to have.
	b = protowire.AppendString(protowire.AppendTag(b, taskName, protowire.BytesType), "")
	for _, num := range []protowire.Number{taskTaskID, taskFrameworkID, taskAgentID} {
		b = protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), emptyID)
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, taskState, protowire.VarintType), 0)
	_ = p.UnmarshalVT(append(b, s.shape.rest...)) // it was encoded here
	p.Name, p.TaskId, p.FrameworkId, p.AgentId, p.State = nil, nil, nil, nil, nil
	p.Resources = s.shape.resources.Proto()
	return p
}

// Proto makes the message.
func (t *TaskPage) Proto() *mesosv1.Task {
	p := t.Shape().Proto()
	p.Name, p.State = proto.String(t.task.name), t.state.Enum()
	p.TaskId, p.FrameworkId, p.AgentId = t.taskID(), t.frameworkID(), t.agentID()
	p.Statuses = slices.Collect(t.Statuses())
	if state, uuid, ok := t.updated(); ok {
		p.StatusUpdateState = state.Enum()
		p.StatusUpdateUuid = uuid
	}
	return p
}

// emptyID is an encoded id with an empty value.
var emptyID = []byte{byte(idValue<<3) | byte(protowire.BytesType), 0}
