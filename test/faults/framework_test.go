package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/wire"
)

func ptr[T any](v T) *T { return &v }

const (
	finished = mesosv1.TaskState_TASK_FINISHED
	failed   = mesosv1.TaskState_TASK_FAILED
	killed   = mesosv1.TaskState_TASK_KILLED
)

// terminal counts TASK_UNKNOWN as an end: nobody knows the task, because its agent was killed before it had heard its own id and
// has come back as another, and the word that the task is gone went down with a stream.
func terminal(s mesosv1.TaskState) bool {
	switch s {
	case mesosv1.TaskState_TASK_STAGING, mesosv1.TaskState_TASK_STARTING, mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskState_TASK_KILLING,
		mesosv1.TaskState_TASK_UNREACHABLE:
		return false
	}
	return true
}

// task is what the framework knows of one; it survives the framework's own failures, as a database would.
type task struct {
	id, executor string
	custom, pod  bool
	script       script
	want         mesosv1.TaskState

	launched time.Time // the ACCEPT was sent
	agent    string
	updates  []*mesosv1.TaskStatus // those with a uuid, each once, in the order of their first delivery
	end      *mesosv1.TaskStatus
	killAt   time.Time
}

// framework launches all of its tasks, acknowledges, reconciles, and fails over when it is told to.
type framework struct {
	c       *cluster
	ct      wire.ContentType
	moments chan string // what it just did; faults wait for it

	mu       sync.Mutex
	rand     *rand.Rand
	id       string
	tasks    []*task
	byID     map[string]*task
	failover context.CancelFunc
	problems []string
	trace    []string
}

func newFramework(c *cluster, r *rand.Rand, n int) *framework {
	f := &framework{c: c, rand: r, ct: wire.Protobuf, moments: make(chan string, 1000), byID: map[string]*task{}}
	if r.IntN(2) == 0 {
		f.ct = wire.JSON
	}
	for i := range n {
		t := &task{id: fmt.Sprintf("t%d", i), want: finished, script: script{Run: time.Duration(1+r.IntN(2500)) * time.Millisecond, Steps: r.IntN(3)}}
		switch r.IntN(4) {
		case 0:
			t.script.Fail, t.want = true, failed
		case 1:
			t.script.Run, t.script.Steps, t.want = 0, 0, killed
		}
		switch r.IntN(5) {
		case 0, 1:
			t.custom, t.executor = true, fmt.Sprintf("custom%d", r.IntN(2))
		case 2:
			t.pod, t.executor = true, "pod"+t.id
		default:
			t.executor = t.id
		}
		f.tasks = append(f.tasks, t)
		f.byID[t.id] = t
	}
	return f
}

func (f *framework) problem(format string, args ...any) {
	f.problems = append(f.problems, fmt.Sprintf(format, args...))
}

func (f *framework) note(format string, args ...any) {
	f.trace = append(f.trace, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
}

func (f *framework) moment(what string) {
	select {
	case f.moments <- what:
	default:
	}
}

// run subscribes until ctx ends.
func (f *framework) run(ctx context.Context) {
	for ctx.Err() == nil {
		life, cancel := context.WithCancel(ctx)
		f.mu.Lock()
		f.failover = cancel
		f.mu.Unlock()
		if err := f.live(life); err != nil && ctx.Err() == nil {
			time.Sleep(30 * time.Millisecond) // the master is away: a poll
		}
		cancel()
	}
}

func (f *framework) info() *mesosv1.FrameworkInfo {
	info := &mesosv1.FrameworkInfo{
		User: ptr("root"), Name: ptr("chaos"), Roles: []string{"chaos"}, Checkpoint: ptr(true), FailoverTimeout: ptr(3600.0),
		Capabilities: []*mesosv1.FrameworkInfo_Capability{
			{Type: mesosv1.FrameworkInfo_Capability_PARTITION_AWARE.Enum()}, {Type: mesosv1.FrameworkInfo_Capability_MULTI_ROLE.Enum()},
		},
	}
	if f.id != "" {
		info.Id = &mesosv1.FrameworkID{Value: ptr(f.id)}
	}
	return info
}

// live is one life of the framework's process.
func (f *framework) live(ctx context.Context) error {
	client, err := wire.NewClient(wire.ClientConfig{Masters: []string{f.c.master.address}, Path: "/api/v1/scheduler", ContentType: f.ct, CallTimeout: 30 * time.Second})
	if err != nil {
		return err
	}
	defer client.Close()
	f.mu.Lock()
	call := &schedulerv1.Call{Type: schedulerv1.Call_SUBSCRIBE.Enum(), Subscribe: &schedulerv1.Call_Subscribe{FrameworkInfo: f.info()}}
	call.FrameworkId = call.GetSubscribe().GetFrameworkInfo().GetId()
	f.mu.Unlock()
	f.moment("subscribe")
	r, err := client.Open(ctx, call)
	if err != nil {
		return err
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, r.Close)
	defer stop()
	ticking, done := context.WithCancel(ctx)
	defer done()
	for {
		e := &schedulerv1.Event{}
		if err := r.Next(e); err != nil {
			return err
		}
		switch e.GetType() {
		case schedulerv1.Event_SUBSCRIBED:
			f.mu.Lock()
			f.id = e.GetSubscribed().GetFrameworkId().GetValue()
			f.note("subscribed as %s", f.id)
			f.mu.Unlock()
			f.moment("subscribed")
			go f.tick(ticking, client)
		case schedulerv1.Event_OFFERS:
			for _, o := range e.GetOffers().GetOffers() {
				f.offer(ctx, client, o)
			}
		case schedulerv1.Event_UPDATE:
			if !f.update(ctx, client, e.GetUpdate().GetStatus()) {
				return nil
			}
		case schedulerv1.Event_ERROR:
			f.mu.Lock()
			f.problem("the master says: %s", e.GetError().GetMessage())
			f.mu.Unlock()
			return fmt.Errorf("error event")
		}
	}
}

func (f *framework) call(ctx context.Context, client *wire.Client, c *schedulerv1.Call) {
	f.mu.Lock()
	c.FrameworkId = &mesosv1.FrameworkID{Value: ptr(f.id)}
	f.mu.Unlock()
	if err := client.Call(ctx, c); err != nil && ctx.Err() == nil {
		f.mu.Lock()
		f.note("%v: %v", c.GetType(), err)
		f.mu.Unlock()
	}
}

// tick reconciles and kills, every now and then.
func (f *framework) tick(ctx context.Context, client *wire.Client) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(200 * time.Millisecond):
		}
		f.mu.Lock()
		c := &schedulerv1.Call{Type: schedulerv1.Call_RECONCILE.Enum(), Reconcile: &schedulerv1.Call_Reconcile{}}
		var kills []*task
		for _, t := range f.tasks {
			// What was sent on a connection that broke may arrive a moment later, on a busy machine a long one; before that nobody can ask for it.
			if t.end != nil || t.launched.IsZero() || time.Since(t.launched) < 5*time.Second {
				continue
			}
			c.Reconcile.Tasks = append(c.Reconcile.Tasks, &schedulerv1.Call_Reconcile_Task{
				TaskId: &mesosv1.TaskID{Value: ptr(t.id)}, AgentId: &mesosv1.AgentID{Value: ptr(t.agent)},
			})
		}
		for _, t := range f.tasks {
			if t.end == nil && t.want == killed && !t.killAt.IsZero() && time.Now().After(t.killAt) {
				kills = append(kills, t)
				t.killAt = time.Now().Add(time.Second)
			}
		}
		f.mu.Unlock()
		if len(c.GetReconcile().GetTasks()) > 0 {
			f.call(ctx, client, c)
		}
		for _, t := range kills {
			f.call(ctx, client, &schedulerv1.Call{Type: schedulerv1.Call_KILL.Enum(), Kill: &schedulerv1.Call_Kill{
				TaskId: &mesosv1.TaskID{Value: ptr(t.id)}, AgentId: &mesosv1.AgentID{Value: ptr(t.agent)},
			}})
			f.moment("kill")
		}
	}
}

func scalar(name string, v float64) *mesosv1.Resource {
	return &mesosv1.Resource{Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v}}
}

func small() []*mesosv1.Resource { return []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 64)} }

// offer launches some of the tasks that wait.
func (f *framework) offer(ctx context.Context, client *wire.Client, o *mesosv1.Offer) {
	f.mu.Lock()
	var ops []*mesosv1.Offer_Operation
	room := 1 + f.rand.IntN(5)
	for _, r := range o.GetResources() {
		if r.GetName() == "cpus" && r.GetScalar().GetValue() < 2 {
			room = 0 // what a task gave back
		}
	}
	for _, t := range f.tasks {
		if !t.launched.IsZero() || room == 0 {
			continue
		}
		room--
		t.launched, t.agent = time.Now(), o.GetAgentId().GetValue()
		f.note("%s is launched with offer %s", t.id, o.GetId().GetValue())
		ops = append(ops, f.launch(t, o))
	}
	f.mu.Unlock()
	c := &schedulerv1.Call{Type: schedulerv1.Call_DECLINE.Enum(), Decline: &schedulerv1.Call_Decline{
		OfferIds: []*mesosv1.OfferID{o.GetId()}, Filters: &mesosv1.Filters{RefuseSeconds: ptr(1.0)},
	}}
	if len(ops) > 0 {
		c = &schedulerv1.Call{Type: schedulerv1.Call_ACCEPT.Enum(), Accept: &schedulerv1.Call_Accept{
			OfferIds: []*mesosv1.OfferID{o.GetId()}, Operations: ops, Filters: &mesosv1.Filters{RefuseSeconds: ptr(0.0)},
		}}
		f.moment("accept")
	}
	f.call(ctx, client, c)
	if len(ops) > 0 {
		f.moment("accepted")
	}
}

func (f *framework) launch(t *task, o *mesosv1.Offer) *mesosv1.Offer_Operation {
	truth := f.c.truth() + "/" + t.id
	command := fmt.Sprintf("echo start >> %s; sleep %.3f; echo end %v >> %s; exit %d", truth, t.script.Run.Seconds(), t.want, truth, map[bool]int{true: 3}[t.script.Fail])
	if t.script.Run == 0 {
		command = fmt.Sprintf("echo start >> %s; exec sleep 1000", truth)
	}
	info := &mesosv1.TaskInfo{
		Name: ptr(t.id), TaskId: &mesosv1.TaskID{Value: ptr(t.id)}, AgentId: o.GetAgentId(), Resources: small(),
		Command: &mesosv1.CommandInfo{Value: &command},
	}
	switch {
	case t.custom:
		data, _ := json.Marshal(t.script)
		info.Command, info.Data = nil, data
		info.Executor = &mesosv1.ExecutorInfo{
			Type: mesosv1.ExecutorInfo_CUSTOM.Enum(), ExecutorId: &mesosv1.ExecutorID{Value: ptr(t.executor)}, FrameworkId: &mesosv1.FrameworkID{Value: ptr(f.id)},
			Resources: small(),
			Command: &mesosv1.CommandInfo{Value: ptr("exec " + os.Args[0]), Environment: &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{
				{Name: ptr(truthEnv), Value: ptr(f.c.truth())},
			}}},
		}
	case t.pod:
		return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_LAUNCH_GROUP.Enum(), LaunchGroup: &mesosv1.Offer_Operation_LaunchGroup{
			Executor: &mesosv1.ExecutorInfo{
				Type: mesosv1.ExecutorInfo_DEFAULT.Enum(), ExecutorId: &mesosv1.ExecutorID{Value: ptr(t.executor)}, FrameworkId: &mesosv1.FrameworkID{Value: ptr(f.id)},
				Resources: append(small(), scalar("disk", 32)),
			},
			TaskGroup: &mesosv1.TaskGroupInfo{Tasks: []*mesosv1.TaskInfo{info}},
		}}
	}
	return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_LAUNCH.Enum(), Launch: &mesosv1.Offer_Operation_Launch{TaskInfos: []*mesosv1.TaskInfo{info}}}
}

// update writes an update down and acknowledges it, or dies in between; false: this life is over.
func (f *framework) update(ctx context.Context, client *wire.Client, s *mesosv1.TaskStatus) bool {
	f.moment("update")
	f.mu.Lock()
	t := f.byID[s.GetTaskId().GetValue()]
	if t == nil {
		f.problem("an update of a task that nobody launched: %v", s)
		f.mu.Unlock()
		return true
	}
	fate := f.rand.IntN(30)
	if fate == 0 {
		f.note("dies before it has written %s %v", t.id, s.GetState())
		f.mu.Unlock()
		return false
	}
	f.record(t, s)
	f.mu.Unlock()
	if len(s.GetUuid()) == 0 {
		return true
	}
	if fate == 1 {
		return false // written and not acknowledged
	}
	f.moment("acknowledge")
	f.call(ctx, client, &schedulerv1.Call{Type: schedulerv1.Call_ACKNOWLEDGE.Enum(), Acknowledge: &schedulerv1.Call_Acknowledge{
		AgentId: s.GetAgentId(), TaskId: s.GetTaskId(), Uuid: s.GetUuid(),
	}})
	f.moment("acknowledged")
	return true
}

func (f *framework) record(t *task, s *mesosv1.TaskStatus) {
	f.note("%s %v %v %v %x %q", t.id, s.GetState(), s.GetSource(), s.GetReason(), s.GetUuid(), s.GetMessage())
	if uuid := s.GetUuid(); len(uuid) > 0 {
		for _, u := range t.updates {
			if string(u.GetUuid()) == string(uuid) {
				return // once more, as it must be when the acknowledgement was lost
			}
		}
		for _, u := range t.updates {
			if t.custom && len(s.GetData()) > 0 && string(u.GetData()) == string(s.GetData()) || !t.custom && u.GetState() == s.GetState() {
				f.problem("%s: the update %v %s came again under a new uuid", t.id, s.GetState(), s.GetData())
			}
		}
		if t.end != nil && len(t.end.GetUuid()) > 0 {
			f.problem("%s: %v comes after its end %v", t.id, s.GetState(), t.end.GetState())
		}
		t.updates = append(t.updates, s)
	}
	if t.end != nil && len(t.end.GetUuid()) > 0 && s.GetReason() == mesosv1.TaskStatus_REASON_RECONCILIATION {
		return // it was asked for before the end was acknowledged; the task is forgotten now
	}
	if t.end != nil && t.end.GetState() != s.GetState() && (terminal(s.GetState()) || len(t.end.GetUuid()) == 0) {
		f.problem("%s: it has ended as %v (%v), and then it is %v (%v)", t.id, t.end.GetState(), t.end.GetReason(), s.GetState(), s.GetReason())
	}
	if terminal(s.GetState()) && (t.end == nil || len(t.end.GetUuid()) == 0) {
		t.end = s
	}
	if s.GetState() == mesosv1.TaskState_TASK_RUNNING && t.want == killed && t.killAt.IsZero() {
		t.killAt = time.Now().Add(time.Duration(f.rand.IntN(1500)) * time.Millisecond)
	}
}

// open names the tasks that have not ended.
func (f *framework) open() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, t := range f.tasks {
		if t.end == nil {
			last := "nothing was heard of it"
			if n := len(t.updates); n > 0 {
				last = t.updates[n-1].GetState().String()
			}
			names = append(names, t.id+": "+last)
		}
	}
	if len(names) > 0 {
		return fmt.Errorf("tasks have not ended: %s", strings.Join(names, ", "))
	}
	return nil
}

// teardown ends the framework at the master.
func (f *framework) teardown(ctx context.Context) error {
	client, err := wire.NewClient(wire.ClientConfig{Masters: []string{f.c.master.address}, Path: "/api/v1/scheduler"})
	if err != nil {
		return err
	}
	defer client.Close()
	f.mu.Lock()
	call := &schedulerv1.Call{Type: schedulerv1.Call_SUBSCRIBE.Enum(), Subscribe: &schedulerv1.Call_Subscribe{FrameworkInfo: f.info(), SuppressedRoles: []string{"chaos"}}}
	call.FrameworkId = call.GetSubscribe().GetFrameworkInfo().GetId()
	f.mu.Unlock()
	r, err := client.Open(ctx, call)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.Next(&schedulerv1.Event{}); err != nil { // SUBSCRIBED: before it no call counts
		return err
	}
	return client.Call(ctx, &schedulerv1.Call{Type: schedulerv1.Call_TEARDOWN.Enum(), FrameworkId: call.GetFrameworkId()})
}
