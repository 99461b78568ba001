package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tidwall/btree"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	maintenancev1 "github.com/orchestrator/orchestrator/api/mesos/v1/maintenance"
	quotav1 "github.com/orchestrator/orchestrator/api/mesos/v1/quota"
	"github.com/orchestrator/orchestrator/internal/election"
	"github.com/orchestrator/orchestrator/internal/files"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/metrics"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// fakeOwner shows a fixed state and records the events that it is given; onPost may answer them.
type fakeOwner struct {
	mu         sync.Mutex
	leadership Leadership
	snap       *core.Snapshot
	posted     []core.Event
	onPost     func(core.Event)
	full       bool
}

func (o *fakeOwner) Leadership() Leadership {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.leadership
}

func (o *fakeOwner) Snapshot() *core.Snapshot {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.snap
}

func (o *fakeOwner) Post(_ context.Context, ev core.Event) error {
	o.mu.Lock()
	if o.full {
		o.mu.Unlock()
		return errors.New("the queue is full")
	}
	o.posted = append(o.posted, ev)
	f := o.onPost
	o.mu.Unlock()
	if f != nil {
		f(ev)
	}
	return nil
}

func (o *fakeOwner) PostFor(_ time.Duration, ev core.Event) error {
	return o.Post(context.Background(), ev)
}

func (o *fakeOwner) events() []core.Event {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]core.Event(nil), o.posted...)
}

var testTime = time.Date(2026, 11, 23, 12, 0, 0, 500_000_000, time.UTC)

func at(seconds int) time.Time { return testTime.Add(time.Duration(seconds) * time.Second) }

func allocated(text, role string) []*mesosv1.Resource {
	return resources.MustParse(text).Allocate(role).Proto()
}

func testTask(id, agent string, state mesosv1.TaskState) *core.TaskPage {
	return core.NewTaskPage(testTaskProto(id, agent, state), nil)
}

func testTaskProto(id, agent string, state mesosv1.TaskState) *mesosv1.Task {
	return &mesosv1.Task{
		Name: proto.String("sleeper " + id), TaskId: &mesosv1.TaskID{Value: proto.String(id)},
		FrameworkId: &mesosv1.FrameworkID{Value: proto.String("m-0000")}, AgentId: &mesosv1.AgentID{Value: proto.String(agent)},
		State: state.Enum(), Resources: allocated("cpus:0.1;mem:32;ports:[31000-31001, 31005-31005]", "web"),
		Statuses: []*mesosv1.TaskStatus{{
			TaskId: &mesosv1.TaskID{Value: proto.String(id)}, State: state.Enum(), Timestamp: proto.Float64(seconds(at(len(id)))),
			Healthy: proto.Bool(true), ContainerStatus: &mesosv1.ContainerStatus{
				ContainerId:  &mesosv1.ContainerID{Value: proto.String("c-" + id)},
				NetworkInfos: []*mesosv1.NetworkInfo{{IpAddresses: []*mesosv1.NetworkInfo_IPAddress{{IpAddress: proto.String("10.0.0.2")}}}},
			},
		}},
	}
}

// testSnapshot is a small cluster in which every field of the legacy shapes occurs.
func testSnapshot() *core.Snapshot {
	master := &mesosv1.MasterInfo{
		Id: proto.String("m"), Ip: proto.Uint32(16777343), Port: proto.Uint32(5050), Hostname: proto.String("master.test"),
		Pid: proto.String("master@127.0.0.1:5050"), Version: proto.String("1.11.0"),
		Address:      &mesosv1.Address{Hostname: proto.String("master.test"), Ip: proto.String("127.0.0.1"), Port: proto.Int32(5050)},
		Capabilities: []*mesosv1.MasterInfo_Capability{{Type: mesosv1.MasterInfo_Capability_QUOTA_V2.Enum()}},
		Domain: &mesosv1.DomainInfo{FaultDomain: &mesosv1.DomainInfo_FaultDomain{
			Region: &mesosv1.DomainInfo_FaultDomain_RegionInfo{Name: proto.String("eu")},
			Zone:   &mesosv1.DomainInfo_FaultDomain_ZoneInfo{Name: proto.String("a")},
		}},
	}
	agentInfo := func(id, host string) *mesosv1.AgentInfo {
		return &mesosv1.AgentInfo{
			Id: &mesosv1.AgentID{Value: proto.String(id)}, Hostname: proto.String(host), Port: proto.Int32(5051),
			Attributes: []*mesosv1.Attribute{
				{Name: proto.String("rack"), Type: mesosv1.Value_TEXT.Enum(), Text: &mesosv1.Value_Text{Value: proto.String("r1")}},
				{Name: proto.String("level"), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: proto.Float64(3)}},
			},
		}
	}
	total := resources.MustParse("cpus:4;mem:1024;disk:1000;ports:[31000-32000];cpus(web):2;gpus:1;zones:{a,b}")
	offered := resources.MustParse("cpus:1;mem:64").Allocate("web")
	o := &core.OfferPage{ID: "m-O1", Framework: "m-0000", Agent: "m-S0", Role: "web", Resources: offered, Time: at(9), Offer: &mesosv1.Offer{
		Id: &mesosv1.OfferID{Value: proto.String("m-O1")}, FrameworkId: &mesosv1.FrameworkID{Value: proto.String("m-0000")},
		AgentId: &mesosv1.AgentID{Value: proto.String("m-S0")}, Hostname: proto.String("agent.test"), Resources: offered.Proto(),
	}}
	agent := &core.AgentPage{
		ID: "m-S0", Info: agentInfo("m-S0", "agent.test"), Address: "127.0.0.1:5051", Version: "1.11.0", Total: total, Connected: true,
		Capabilities:   []mesosv1.AgentInfo_Capability_Type{mesosv1.AgentInfo_Capability_MULTI_ROLE, mesosv1.AgentInfo_Capability_AGENT_DRAINING},
		Active:         true,
		RegisteredTime: at(1), ReregisteredTime: at(2), Offers: []*core.OfferPage{o}, Tasks: 2,
		Drain: &mesosv1.DrainInfo{State: mesosv1.DrainState_DRAINING.Enum(), Config: &mesosv1.DrainConfig{
			MarkGone: proto.Bool(true), MaxGracePeriod: &mesosv1.DurationInfo{Nanoseconds: proto.Int64(5e9)},
		}},
		DrainStartTime: at(3),
	}
	full := testTaskProto("t1", "m-S0", mesosv1.TaskState_TASK_RUNNING)
	full.User = proto.String("alice")
	full.Labels = &mesosv1.Labels{Labels: []*mesosv1.Label{{Key: proto.String("k"), Value: proto.String("v")}, {Key: proto.String("bare")}}}
	full.Discovery = &mesosv1.DiscoveryInfo{Visibility: mesosv1.DiscoveryInfo_CLUSTER.Enum(), Name: proto.String("web")}
	full.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum()}
	full.Limits = map[string]*mesosv1.Value_Scalar{"cpus": {Value: proto.Float64(1)}}
	live := &btree.Map[ids.Task, *core.TaskPage]{}
	live.Set("t1", core.NewTaskPage(full, nil))
	live.Set("t2", testTask("t2", "m-S0", mesosv1.TaskState_TASK_STAGING))
	lost := &btree.Map[ids.Task, *core.TaskPage]{}
	lost.Set("t03", testTask("t03", "m-S9", mesosv1.TaskState_TASK_UNREACHABLE))
	fw := &core.FrameworkPage{
		ID: "m-0000", Roles: []string{"web"}, Principal: "ops", Active: true, Connected: true, RegisteredTime: at(4), ReregisteredTime: at(5),
		Info: &mesosv1.FrameworkInfo{
			User: proto.String("root"), Name: proto.String("fw/one"), Id: &mesosv1.FrameworkID{Value: proto.String("m-0000")}, Roles: []string{"web"},
			FailoverTimeout: proto.Float64(60), Checkpoint: proto.Bool(true), Hostname: proto.String("sched.test"), WebuiUrl: proto.String("http://sched.test/"),
			Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_MULTI_ROLE.Enum()}},
			Labels:       &mesosv1.Labels{Labels: []*mesosv1.Label{{Key: proto.String("team"), Value: proto.String("a")}}},
		},
		Tasks: live, UnreachableTasks: lost, CompletedTasks: []*core.TaskPage{testTask("t0004", "m-S0", mesosv1.TaskState_TASK_FINISHED)},
		Executors: []core.ExecutorPage{{Agent: "m-S0", Info: &mesosv1.ExecutorInfo{
			ExecutorId: &mesosv1.ExecutorID{Value: proto.String("x")}, Name: proto.String("exec"), Type: mesosv1.ExecutorInfo_CUSTOM.Enum(),
			Command:   &mesosv1.CommandInfo{Shell: proto.Bool(true), Value: proto.String("./run"), Uris: []*mesosv1.CommandInfo_URI{{Value: proto.String("http://x/y"), Executable: proto.Bool(true)}}},
			Resources: allocated("cpus:0.1;mem:32", "web"),
		}}},
		Offers:   []*core.OfferPage{o},
		Counters: core.FrameworkCounters{Calls: map[string]uint64{"ACCEPT": 3}, OffersSent: 5},
	}
	agents, frameworks := &btree.Map[ids.Agent, *core.AgentPage]{}, &btree.Map[ids.Framework, *core.FrameworkPage]{}
	agents.Set("m-S0", agent)
	frameworks.Set("m-0000", fw)
	recovered, unreachable, gone := &btree.Map[ids.Agent, *mesosv1.AgentInfo]{}, &btree.Map[ids.Agent, time.Time]{}, &btree.Map[ids.Agent, time.Time]{}
	recovered.Set("m-S1", agentInfo("m-S1", "back.test"))
	unreachable.Set("m-S9", at(8))
	gone.Set("m-S8", at(7))
	machine := &mesosv1.MachineID{Hostname: proto.String("agent.test")}
	return &core.Snapshot{
		Version: 1, Time: at(10), Master: master, StartTime: at(-100), ElectedTime: at(-99), Frameworks: frameworks, Agents: agents,
		CompletedFrameworks: []*core.FrameworkPage{{
			ID: "m-0001", Info: &mesosv1.FrameworkInfo{User: proto.String("bob"), Name: proto.String("done"), Role: proto.String("*")}, Roles: []string{"*"},
			RegisteredTime: at(1), UnregisteredTime: at(6), Tasks: &btree.Map[ids.Task, *core.TaskPage]{}, UnreachableTasks: &btree.Map[ids.Task, *core.TaskPage]{},
		}},
		RecoveredAgents: recovered, UnreachableAgents: unreachable, GoneAgents: gone, Weights: map[string]float64{"web": 2.5},
		Quotas: map[string]*quotav1.QuotaConfig{"web": {
			Role: proto.String("web"), Guarantees: map[string]*mesosv1.Value_Scalar{"cpus": {Value: proto.Float64(1)}},
			Limits: map[string]*mesosv1.Value_Scalar{"cpus": {Value: proto.Float64(8)}, "mem": {Value: proto.Float64(4096)}},
		}},
		Schedule: &maintenancev1.Schedule{Windows: []*maintenancev1.Window{{
			MachineIds:     []*mesosv1.MachineID{machine},
			Unavailability: &mesosv1.Unavailability{Start: &mesosv1.TimeInfo{Nanoseconds: proto.Int64(1e18)}},
		}}},
		Machines: []*mesosv1.MachineInfo{
			{Id: machine, Mode: mesosv1.MachineInfo_DRAINING.Enum()},
			{Id: &mesosv1.MachineID{Hostname: proto.String("off.test"), Ip: proto.String("10.0.0.9")}, Mode: mesosv1.MachineInfo_DOWN.Enum()},
		},
		InverseInfo: []core.InverseStatus{{Agent: "m-S0", Framework: "m-0000", Accepted: true, Time: at(9)}},
		Counters: core.Counters{
			MessagesByCall: map[string]uint64{"kill_task": 2}, TasksByState: map[mesosv1.TaskState]uint64{mesosv1.TaskState_TASK_FINISHED: 7},
			TasksBySourceReason: map[core.TaskCause]uint64{{
				State: mesosv1.TaskState_TASK_FAILED, Source: mesosv1.TaskStatus_SOURCE_EXECUTOR, Reason: mesosv1.TaskStatus_REASON_COMMAND_EXECUTOR_FAILED,
			}: 1},
			OperationsByType: map[string]uint64{"RESERVE": 1}, AgentRegistrations: 3, ValidUpdates: 11,
		},
	}
}

type testServer struct {
	*Server
	owner *fakeOwner
	http  http.Handler
}

func newTestServer(t testing.TB, change func(*Options)) *testServer {
	t.Helper()
	owner := &fakeOwner{leadership: Leadership{Leading: true, Recovered: true}, snap: testSnapshot()}
	opts := Options{
		Owner: owner, Log: slog.New(slog.DiscardHandler), Metrics: metrics.New(), Files: files.New(), Self: owner.snap.Master,
		StartTime: at(-100), Flags: map[string]string{"work_dir": "/w", "port": "5050"}, Cluster: "test", LogDir: "/logs",
		MaxSchedulers: 10, MaxOperators: 2, Now: func() time.Time { return at(10) }, CallTimeout: 10 * time.Second, PublishFrameworkMetrics: true,
	}
	if change != nil {
		change(&opts)
	}
	owner.leadership.Leader = &election.Leader{ID: "m", Address: "master.test:5050", Info: owner.snap.Master}
	s := New(opts)
	return &testServer{Server: s, owner: owner, http: s.Handler()}
}

// do makes a request; headers are "Name: value".
func (s *testServer) do(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	rec := httptest.NewRecorder()
	s.http.ServeHTTP(rec, req)
	return rec
}
