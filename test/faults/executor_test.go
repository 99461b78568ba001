package faults

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/realpart"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// truthEnv names the directory in which tasks and executors write down what they did.
const truthEnv = "CHAOS_TRUTH"

func TestMain(m *testing.M) {
	if dir := os.Getenv(truthEnv); dir != "" {
		os.Exit(executor(dir))
	}
	code := m.Run()
	if path, err := program(); err == nil {
		os.Remove(path)
	}
	os.Exit(code)
}

func needRoot(t *testing.T) {
	t.Helper()
	realpart.NotShort(t)
	realpart.Root(t)
}

// script is what a task of the custom executor does; it travels in TaskInfo.data.
type script struct {
	Run   time.Duration // until it ends by itself; 0: it is killed
	Steps int           // further RUNNING updates on the way
	Fail  bool
}

// customExecutor is an executor as its author would write it: it keeps tasks and updates until they are acknowledged, and
// tells them again whenever it subscribes.
type customExecutor struct {
	dir     string
	client  *wire.Client
	ids     struct{ executor, framework string }
	tasks   map[string]*runningTask
	unacked []*executorv1.Call_Update
	steps   chan func()
	linked  bool
}

type runningTask struct {
	info *mesosv1.TaskInfo
	n    int // of its next update
	over bool
}

func executor(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	client, err := wire.NewClient(wire.ClientConfig{Masters: []string{os.Getenv("MESOS_AGENT_ENDPOINT")}, Path: "/api/v1/executor"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	x := &customExecutor{dir: dir, client: client, tasks: map[string]*runningTask{}, steps: make(chan func(), 1000)}
	x.ids.executor, x.ids.framework = os.Getenv("MESOS_EXECUTOR_ID"), os.Getenv("MESOS_FRAMEWORK_ID")
	events := make(chan *executorv1.Event)
	go x.read(ctx, events)
	for {
		select {
		case <-ctx.Done():
			return 0
		case f := <-x.steps:
			f()
		case e := <-events:
			if e.GetType() == executorv1.Event_SHUTDOWN {
				return 0
			}
			x.handle(e)
		}
	}
}

func (x *customExecutor) call(t executorv1.Call_Type) *executorv1.Call {
	return &executorv1.Call{
		Type: t.Enum(), ExecutorId: &mesosv1.ExecutorID{Value: &x.ids.executor}, FrameworkId: &mesosv1.FrameworkID{Value: &x.ids.framework},
	}
}

// read subscribes again and again.
func (x *customExecutor) read(ctx context.Context, events chan<- *executorv1.Event) {
	for ctx.Err() == nil {
		call := make(chan *executorv1.Call)
		x.steps <- func() {
			c := x.call(executorv1.Call_SUBSCRIBE)
			c.Subscribe = &executorv1.Call_Subscribe{UnacknowledgedUpdates: x.unacked}
			for _, t := range x.tasks {
				c.Subscribe.UnacknowledgedTasks = append(c.Subscribe.UnacknowledgedTasks, t.info)
			}
			call <- proto.Clone(c).(*executorv1.Call)
		}
		r, err := x.client.Open(ctx, <-call)
		if err != nil {
			time.Sleep(50 * time.Millisecond) // the agent is away: a poll
			continue
		}
		for {
			e := &executorv1.Event{}
			if err := r.Next(e); err != nil {
				break
			}
			events <- e
		}
		r.Close()
		x.steps <- func() { x.linked = false }
	}
}

// note writes down what happened to a task, in one piece.
func (x *customExecutor) note(task, text string) {
	f, err := os.OpenFile(x.dir+"/"+task, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer f.Close()
	fmt.Fprintln(f, text)
}

func (x *customExecutor) handle(e *executorv1.Event) {
	switch e.GetType() {
	case executorv1.Event_SUBSCRIBED:
		x.linked = true
		for _, u := range x.unacked { // those that were made while nobody listened
			x.send(u)
		}
	case executorv1.Event_LAUNCH:
		x.launch(e.GetLaunch().GetTask())
	case executorv1.Event_KILL:
		x.end(e.GetKill().GetTaskId().GetValue(), mesosv1.TaskState_TASK_KILLED)
	case executorv1.Event_ACKNOWLEDGED:
		id := e.GetAcknowledged().GetTaskId().GetValue()
		for i, u := range x.unacked {
			if string(u.GetStatus().GetUuid()) == string(e.GetAcknowledged().GetUuid()) {
				x.note(id, "acknowledged "+string(u.GetStatus().GetData()))
				x.unacked = append(x.unacked[:i:i], x.unacked[i+1:]...)
				break
			}
		}
		if t := x.tasks[id]; t != nil && t.over {
			delete(x.tasks, id)
		} else if t != nil {
			t.info = proto.Clone(t.info).(*mesosv1.TaskInfo)
		}
	}
}

func (x *customExecutor) launch(info *mesosv1.TaskInfo) {
	id := info.GetTaskId().GetValue()
	if x.tasks[id] != nil {
		x.note(id, "launched twice")
		return
	}
	x.note(id, "start")
	t := &runningTask{info: info}
	x.tasks[id] = t
	var s script
	if err := json.Unmarshal(info.GetData(), &s); err != nil {
		x.note(id, "no script: "+err.Error())
		return
	}
	x.update(t, mesosv1.TaskState_TASK_RUNNING)
	for i := range s.Steps {
		time.AfterFunc(s.Run*time.Duration(i+1)/time.Duration(s.Steps+1), func() {
			x.steps <- func() {
				if !t.over {
					x.update(t, mesosv1.TaskState_TASK_RUNNING)
				}
			}
		})
	}
	if s.Run > 0 {
		state := mesosv1.TaskState_TASK_FINISHED
		if s.Fail {
			state = mesosv1.TaskState_TASK_FAILED
		}
		time.AfterFunc(s.Run, func() { x.steps <- func() { x.end(id, state) } })
	}
}

func (x *customExecutor) end(id string, state mesosv1.TaskState) {
	if t := x.tasks[id]; t != nil && !t.over {
		t.over = true
		x.note(id, "end "+state.String())
		x.update(t, state)
	}
}

func (x *customExecutor) update(t *runningTask, state mesosv1.TaskState) {
	uuid := make([]byte, 16)
	_, _ = rand.Read(uuid)
	u := &executorv1.Call_Update{Status: &mesosv1.TaskStatus{
		TaskId: t.info.GetTaskId(), State: &state, Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(), Uuid: uuid, Data: fmt.Append(nil, t.n),
	}}
	t.n++
	x.unacked = append(x.unacked, u)
	if x.linked {
		x.send(u)
	}
}

// send is not repeated: the next subscription tells what was lost.
func (x *customExecutor) send(u *executorv1.Call_Update) {
	c := x.call(executorv1.Call_UPDATE)
	c.Update = u
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := x.client.Call(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, "update:", err)
	}
}
