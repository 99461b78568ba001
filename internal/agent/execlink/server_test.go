package execlink

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/execlink/message"
	"github.com/orchestrator/orchestrator/internal/agent/unixsock"
	"github.com/orchestrator/orchestrator/internal/ids"
)

var errUnknown = errors.New("unknown container")

// recorder is a handler that writes down what it is told.
type recorder struct {
	mu     sync.Mutex
	subs   chan Stream
	calls  chan *executorv1.Call
	nested []string
	refuse error
}

func (r *recorder) Subscribe(_ context.Context, _ Peer, call *executorv1.Call, s Stream) error {
	if r.refuse != nil {
		return r.refuse
	}
	r.calls <- call
	r.subs <- s
	return nil
}

func (r *recorder) Call(_ context.Context, _ Peer, call *executorv1.Call) error {
	r.calls <- call
	return nil
}

func (r *recorder) note(s string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nested = append(r.nested, s)
	return nil
}

func (r *recorder) LaunchNested(_ context.Context, _ Peer, l NestedLaunch) error {
	return r.note("launch " + string(l.ContainerID) + " " + l.Command.GetValue())
}

func (r *recorder) WaitNested(context.Context, Peer, ids.Container) (*agentv1.Response_WaitContainer, error) {
	return nil, errUnknown
}

func (r *recorder) KillNested(_ context.Context, _ Peer, id ids.Container, _ int) error {
	return r.note("kill " + string(id))
}

func (r *recorder) RemoveNested(_ context.Context, _ Peer, id ids.Container) error {
	return r.note("remove " + string(id))
}

func newServer(t *testing.T, r *recorder) (path string) {
	t.Helper()
	r.subs, r.calls = make(chan Stream, 10), make(chan *executorv1.Call, 10)
	path = filepath.Join(t.TempDir(), "exec.sock")
	s, err := New(Config{Path: path}, Deps{Handler: r, NotFound: errUnknown, Token: func(id ids.Container) (Peer, string, bool) {
		return Peer{ContainerID: id, FrameworkID: "f", ExecutorID: "e"}, "secret", id == "c"
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

func dial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := unixsock.Dial(path, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	return c
}

func say(t *testing.T, c *net.UnixConn, up message.Up) {
	t.Helper()
	if err := message.Write(c, up); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, c *net.UnixConn) message.Down {
	t.Helper()
	var d message.Down
	if err := message.Read(c, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestSubscribeUpdateAcknowledge(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	c := dial(t, newServer(t, r))
	healthy := true
	u := message.Update{
		TaskID: "t", State: "TASK_RUNNING", Reason: "REASON_TASK_CHECK_STATUS_UPDATED", Message: "m", UUID: []byte("0123456789abcdef"),
		Timestamp: 1.5, Healthy: &healthy, Check: &message.CheckStatus{Type: "TCP"},
	}
	say(t, c, message.Up{Subscribe: &message.Subscribe{ContainerID: "c", FrameworkID: "liar", ExecutorID: "liar", Token: "secret", Updates: []message.Update{u}}})
	status := &mesosv1.TaskStatus{
		TaskId: &mesosv1.TaskID{Value: ptr("t")}, State: mesosv1.TaskState_TASK_RUNNING.Enum(), Message: ptr("m"),
		Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(), Reason: mesosv1.TaskStatus_REASON_TASK_CHECK_STATUS_UPDATED.Enum(), Timestamp: ptr(1.5),
		ExecutorId: &mesosv1.ExecutorID{Value: ptr("e")}, Uuid: u.UUID, Healthy: &healthy,
		CheckStatus: &mesosv1.CheckStatusInfo{Type: mesosv1.CheckInfo_TCP.Enum(), Tcp: &mesosv1.CheckStatusInfo_Tcp{}},
	}
	call := func(typ executorv1.Call_Type) *executorv1.Call {
		return &executorv1.Call{Type: typ.Enum(), ExecutorId: &mesosv1.ExecutorID{Value: ptr("e")}, FrameworkId: &mesosv1.FrameworkID{Value: ptr("f")}}
	}
	want := call(executorv1.Call_SUBSCRIBE)
	want.Subscribe = &executorv1.Call_Subscribe{UnacknowledgedUpdates: []*executorv1.Call_Update{{Status: status}}}
	if d := cmp.Diff(want, <-r.calls, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	say(t, c, message.Up{Update: &u})
	want = call(executorv1.Call_UPDATE)
	want.Update = &executorv1.Call_Update{Status: status}
	if d := cmp.Diff(want, <-r.calls, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	s := <-r.subs
	s.Send(&executorv1.Event{Type: executorv1.Event_ACKNOWLEDGED.Enum(), Acknowledged: &executorv1.Event_Acknowledged{TaskId: status.TaskId, Uuid: u.UUID}})
	if d := hear(t, c); d.Acknowledged == nil || d.Acknowledged.TaskID != "t" || string(d.Acknowledged.UUID) != string(u.UUID) {
		t.Errorf("%+v", d)
	}
	s.Send(&executorv1.Event{Type: executorv1.Event_KILL.Enum(), Kill: &executorv1.Event_Kill{
		TaskId:     status.TaskId,
		KillPolicy: &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: ptr(int64(time.Minute))}},
	}})
	if d := hear(t, c); d.Kill == nil || *d.Kill.Grace != time.Minute {
		t.Errorf("%+v", d)
	}
	s.Send(&executorv1.Event{Type: executorv1.Event_SHUTDOWN.Enum()})
	s.Close()
	if d := hear(t, c); !d.Shutdown {
		t.Errorf("%+v", d)
	}
	if err := message.Read(c, &message.Down{}); !errors.Is(err, io.EOF) {
		t.Errorf("after Close: %v", err)
	}
	<-s.Done()
	if s.Send(&executorv1.Event{Type: executorv1.Event_SHUTDOWN.Enum()}) {
		t.Error("sent to one who has gone")
	}
}

func TestStrangersAreTurnedAway(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	path := newServer(t, r)
	for name, sub := range map[string]*message.Subscribe{
		"wrong token":       {ContainerID: "c", Token: "guess"},
		"no token":          {ContainerID: "c"},
		"another container": {ContainerID: "d", Token: "secret"},
	} {
		c := dial(t, path)
		say(t, c, message.Up{Subscribe: sub})
		if d := hear(t, c); !d.Shutdown {
			t.Errorf("%s: %+v", name, d)
		}
		if err := message.Read(c, &message.Down{}); err == nil {
			t.Errorf("%s: still connected", name)
		}
	}
	c := dial(t, path)
	say(t, c, message.Up{Update: &message.Update{}})
	if err := message.Read(c, &message.Down{}); err == nil {
		t.Error("an update before the subscription was taken")
	}
	for name, u := range map[string]message.Update{
		"state":  {TaskID: "t", State: "TASK_DANCING", UUID: make([]byte, 16)},
		"uuid":   {TaskID: "t", State: "TASK_RUNNING", UUID: []byte("short")},
		"reason": {TaskID: "t", State: "TASK_RUNNING", UUID: make([]byte, 16), Reason: "because"},
	} {
		c := dial(t, path)
		say(t, c, message.Up{Subscribe: &message.Subscribe{ContainerID: "c", Token: "secret"}})
		<-r.calls
		say(t, c, message.Up{Update: &u})
		if d := hear(t, c); d.Error == "" {
			t.Errorf("%s: %+v", name, d)
		}
	}
	r2 := &recorder{refuse: errors.New("not you")}
	c = dial(t, newServer(t, r2))
	say(t, c, message.Up{Subscribe: &message.Subscribe{ContainerID: "c", Token: "secret"}})
	if d := hear(t, c); d.Error != "not you" {
		t.Errorf("%+v", d)
	}
}

func TestNestedStayBelowTheirParent(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	c := dial(t, newServer(t, r))
	say(t, c, message.Up{Subscribe: &message.Subscribe{ContainerID: "c", Token: "secret"}})
	cmd := &message.Command{Shell: true, Value: "true", Env: []string{"A=b=c"}}
	say(t, c, message.Up{Launch: &message.NestedLaunch{Request: 1, ContainerID: "c.x", Command: cmd}})
	if d := hear(t, c); d.Result == nil || d.Result.Error != "" || d.Result.Request != 1 {
		t.Errorf("%+v", d.Result)
	}
	for _, id := range []string{"", "c", "c.", "d.x", "cc.x", "x.c.y"} {
		say(t, c, message.Up{Kill: &message.NestedKill{Request: 2, ContainerID: id}})
		if d := hear(t, c); d.Result == nil || !strings.Contains(d.Result.Error, "is not below") {
			t.Errorf("%q: %+v", id, d.Result)
		}
	}
	say(t, c, message.Up{Wait: &message.NestedWait{Request: 3, ContainerID: "c.y"}})
	if d := hear(t, c); d.Result == nil || !d.Result.NotFound {
		t.Errorf("%+v", d.Result)
	}
	say(t, c, message.Up{Launch: &message.NestedLaunch{Request: 4, ContainerID: "c.z"}})
	if d := hear(t, c); d.Result == nil || d.Result.Error == "" {
		t.Errorf("neither task nor command: %+v", d.Result)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.nested) != 1 || r.nested[0] != "launch c.x true" {
		t.Errorf("%q", r.nested)
	}
}

func TestOneWhoDoesNotReadIsCutOff(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	c := dial(t, newServer(t, r))
	say(t, c, message.Up{Subscribe: &message.Subscribe{ContainerID: "c", Token: "secret"}})
	s := <-r.subs
	big := &executorv1.Event{Type: executorv1.Event_ERROR.Enum(), Error: &executorv1.Event_Error{Message: ptr(strings.Repeat("x", 64<<10))}}
	for n := 0; s.Send(big); n++ {
		if n > 10*queueLength {
			t.Fatal("the queue has no bound")
		}
	}
	<-s.Done()
}

func TestTaskOf(t *testing.T) {
	t.Parallel()
	ti := &mesosv1.TaskInfo{
		Name: ptr("n"), TaskId: &mesosv1.TaskID{Value: ptr("t")}, AgentId: &mesosv1.AgentID{Value: ptr("a")},
		Command: &mesosv1.CommandInfo{Value: ptr("run"), Environment: &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{{Name: ptr("K"), Value: ptr("V")}, {Name: ptr("S"), Type: mesosv1.Environment_Variable_SECRET.Enum()}, {
			Name: ptr("P"), Type: mesosv1.Environment_Variable_SECRET.Enum(), Secret: &mesosv1.Secret{Type: mesosv1.Secret_VALUE.Enum(), Value: &mesosv1.Secret_Value{Data: []byte("word")}},
		}}}},
		KillPolicy:        &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: ptr(int64(-5))}},
		MaxCompletionTime: &mesosv1.DurationInfo{Nanoseconds: ptr(int64(time.Hour))},
		HealthCheck:       &mesosv1.HealthCheck{Http: &mesosv1.HealthCheck_HTTPCheckInfo{Port: ptr(uint32(80)), Scheme: ptr("https"), Path: ptr("/h")}},
		Check:             &mesosv1.CheckInfo{Type: mesosv1.CheckInfo_TCP.Enum(), Tcp: &mesosv1.CheckInfo_Tcp{Port: ptr(uint32(81))}, IntervalSeconds: ptr(-1.0)},
	}
	got, err := TaskOf(ti)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := ti.MarshalVT()
	want := message.Task{
		ID: "t", Raw: raw, Command: &message.Command{Shell: true, Value: "run", Env: []string{"K=V", "P=word"}},
		KillGrace: ptr(time.Duration(0)), MaxCompletion: ptr(time.Hour),
		Health: &message.Check{Type: "HTTP", Scheme: "https", Port: 80, Path: "/h", Delay: 15 * time.Second, Interval: 10 * time.Second, Timeout: 20 * time.Second, Failures: 3, Grace: 10 * time.Second},
		Check:  &message.Check{Type: "TCP", Port: 81, Delay: 15 * time.Second, Timeout: 20 * time.Second},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
