package master

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/resources"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/link"
)

func testConfig(t *testing.T) Config {
	t.Helper()
	cfg, err := load(t, "--ip=127.0.0.1", "--port=0", "--work_dir="+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return *cfg
}

// start runs a master until the test ends or stop is called.
func start(t *testing.T, cfg Config) (m *Master, stop func()) {
	t.Helper()
	m, err := New(cfg, Deps{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("master ended with %v", err)
		}
		done <- nil
	}
	t.Cleanup(stop)
	select {
	case <-m.Ready():
	case err := <-done:
		t.Fatalf("master ended early: %v", err)
	case <-time.After(2 * time.Minute):
		t.Fatal("master is not ready")
	}
	return m, stop
}

// fakeAgent runs every task it is given: RUNNING, and FINISHED once that is acknowledged. It stands for an agent on the real link.
type fakeAgent struct {
	conn *link.Conn
	id   chan string
	acks chan string
}

func dialFakeAgent(t *testing.T, address string) *fakeAgent {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	conn, err := link.Dial(ctx, link.DialConfig{Address: address})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	a := &fakeAgent{conn: conn, id: make(chan string, 1), acks: make(chan string, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = conn.Run(ctx, func(_ uint64, msgs []*linkv1.Message, _ bool) error {
			for _, m := range msgs {
				a.handle(m)
			}
			return nil
		})
	}()
	t.Cleanup(func() { cancel(); conn.Close(); <-done })
	conn.Send(0, &linkv1.Message{Kind: &linkv1.Message_Register{Register: &linkv1.Register{
		Info:    &mesosv1.AgentInfo{Hostname: proto.String("host"), Resources: resources.MustParse("cpus:4;mem:1024").Proto()},
		Address: proto.String("127.0.0.1:5051"), Version: proto.String("1.11.0"),
		Capabilities: []*mesosv1.AgentInfo_Capability{
			{Type: mesosv1.AgentInfo_Capability_MULTI_ROLE.Enum()},
			{Type: mesosv1.AgentInfo_Capability_HIERARCHICAL_ROLE.Enum()},
			{Type: mesosv1.AgentInfo_Capability_RESERVATION_REFINEMENT.Enum()},
		},
	}}})
	return a
}

func (a *fakeAgent) handle(m *linkv1.Message) {
	update := func(f *mesosv1.FrameworkID, t *mesosv1.TaskID, agent *mesosv1.AgentID, s mesosv1.TaskState, uuid string) {
		a.conn.Send(0, &linkv1.Message{Kind: &linkv1.Message_Update{Update: &linkv1.StatusUpdate{FrameworkId: f, Status: &mesosv1.TaskStatus{
			TaskId: t, State: s.Enum(), AgentId: agent, Uuid: []byte(uuid), Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(),
		}}}})
	}
	switch k := m.GetKind().(type) {
	case *linkv1.Message_Registered:
		a.id <- k.Registered.GetAgentId().GetValue()
	case *linkv1.Message_RunTask:
		t := k.RunTask.GetTask()
		update(k.RunTask.GetFramework().GetId(), t.GetTaskId(), t.GetAgentId(), mesosv1.TaskState_TASK_RUNNING, "0123456789abcdef")
	case *linkv1.Message_UpdateAck:
		a.acks <- k.UpdateAck.GetTaskId().GetValue() + " " + string(k.UpdateAck.GetUuid())
	case *linkv1.Message_Ping:
		a.conn.Send(0, &linkv1.Message{Kind: &linkv1.Message_Pong{Pong: &linkv1.Pong{Sequence: k.Ping.Sequence}}})
	}
}

func TestTaskOverTheWireToAFakeAgent(t *testing.T) {
	t.Parallel()
	for _, ct := range []wire.ContentType{wire.JSON, wire.Protobuf} {
		t.Run(ct.String(), func(t *testing.T) {
			t.Parallel()
			m, _ := start(t, testConfig(t))
			a := dialFakeAgent(t, m.Address())
			<-a.id
			client, err := wire.NewClient(wire.ClientConfig{Masters: []string{m.Address()}, Path: "/api/v1/scheduler", ContentType: ct})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			var fid *mesosv1.FrameworkID
			var seen []string
			send := func(c *schedulerv1.Call) {
				c.FrameworkId = fid
				if err := client.Call(ctx, c); err != nil {
					t.Errorf("%s: %v", c.GetType(), err)
				}
			}
			err = wire.Subscribe(ctx, client, wire.Subscription[schedulerv1.Event]{
				Call: func() proto.Message {
					return &schedulerv1.Call{Type: schedulerv1.Call_SUBSCRIBE.Enum(), Subscribe: &schedulerv1.Call_Subscribe{
						FrameworkInfo: &mesosv1.FrameworkInfo{User: proto.String("root"), Name: proto.String("test")},
					}}
				},
				Event: func(_ context.Context, e *schedulerv1.Event) error {
					seen = append(seen, e.GetType().String())
					switch e.GetType() {
					case schedulerv1.Event_SUBSCRIBED:
						fid = e.GetSubscribed().GetFrameworkId()
					case schedulerv1.Event_OFFERS:
						o := e.GetOffers().GetOffers()[0]
						send(&schedulerv1.Call{Type: schedulerv1.Call_ACCEPT.Enum(), Accept: &schedulerv1.Call_Accept{
							OfferIds: []*mesosv1.OfferID{o.GetId()},
							Operations: []*mesosv1.Offer_Operation{{Type: mesosv1.Offer_Operation_LAUNCH.Enum(), Launch: &mesosv1.Offer_Operation_Launch{
								TaskInfos: []*mesosv1.TaskInfo{{
									Name: proto.String("t"), TaskId: &mesosv1.TaskID{Value: proto.String("t1")}, AgentId: o.GetAgentId(),
									Resources: resources.MustParse("cpus:1;mem:64").Proto(), Command: &mesosv1.CommandInfo{Value: proto.String("true")},
								}},
							}}},
							Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(1000)},
						}})
					case schedulerv1.Event_UPDATE:
						st := e.GetUpdate().GetStatus()
						send(&schedulerv1.Call{Type: schedulerv1.Call_ACKNOWLEDGE.Enum(), Acknowledge: &schedulerv1.Call_Acknowledge{
							AgentId: st.GetAgentId(), TaskId: st.GetTaskId(), Uuid: st.GetUuid(),
						}})
						cancel()
					}
					return nil
				},
			})
			if ctx.Err() != context.Canceled {
				t.Fatalf("saw %v, ended with %v", seen, err)
			}
			select {
			case got := <-a.acks:
				if got != "t1 0123456789abcdef" {
					t.Errorf("agent got acknowledgement %q", got)
				}
			case <-time.After(time.Minute):
				t.Error("the acknowledgement did not reach the agent")
			}
			if want := "SUBSCRIBED HEARTBEAT"; !strings.HasPrefix(strings.Join(seen, " "), want) {
				t.Errorf("stream began with %v, want %s", seen, want)
			}
		})
	}
}

func TestRestartKeepsFrameworksAndAgents(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	m, stop := start(t, cfg)
	a := dialFakeAgent(t, m.Address())
	id := <-a.id
	stop()
	m, _ = start(t, cfg)
	resp, err := http.Get("http://" + m.Address() + "/slaves")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct {
		Recovered []struct {
			ID string `json:"id"`
		} `json:"recovered_slaves"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if len(got.Recovered) != 1 || got.Recovered[0].ID != id {
		t.Errorf("recovered %v, want %s", got.Recovered, id)
	}
}

func TestErrorsOfTheConfigurationComeFromNew(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	m, _ := start(t, cfg)
	var port int
	if _, err := fmt.Sscanf(m.Address(), "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	second := testConfig(t)
	second.Port = port
	if _, err := New(second, Deps{}); err == nil || !strings.Contains(err.Error(), "--port") {
		t.Errorf("a port in use gives %v", err)
	}
	third := testConfig(t)
	third.WorkDir = cfg.WorkDir
	if _, err := New(third, Deps{}); err == nil {
		t.Error("two masters opened one registry")
	}
}
