package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/election"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/link"
	"github.com/orchestrator/orchestrator/internal/wire/memnet"

	"github.com/spf13/pflag"
)

// fakeContainerizer holds containers in memory: no process runs. What an executor would do, a test does.
type fakeContainerizer struct {
	mu         sync.Mutex
	containers map[ids.Container]*fakeContainer
	launched   chan containerizer.Config
	refuse     func(containerizer.Config) error
	updates    []map[string]float64
}

type fakeContainer struct {
	cfg    containerizer.Config
	ended  chan struct{}
	end    containerizer.Termination
	output chan *agentv1.ProcessIO
	input  []*agentv1.ProcessIO
}

func newFakeContainerizer() *fakeContainerizer {
	return &fakeContainerizer{containers: map[ids.Container]*fakeContainer{}, launched: make(chan containerizer.Config, 1000)}
}

func (f *fakeContainerizer) Recover(_ context.Context, known []containerizer.Config) ([]ids.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	keep := map[ids.Container]bool{}
	for _, c := range known {
		keep[c.ID] = true
	}
	var orphans []ids.Container
	for id := range f.containers {
		if !keep[rootOf(id)] && f.containers[id].cfg.Kind != containerizer.Standalone {
			delete(f.containers, id)
			orphans = append(orphans, id)
		}
	}
	return orphans, nil
}

func (f *fakeContainerizer) Supports(c containerizer.Config) error {
	if c.Container.GetMesos().GetImage() != nil {
		return errors.New("images are not given here")
	}
	return nil
}

func (f *fakeContainerizer) Launch(_ context.Context, c containerizer.Config) error {
	if f.refuse != nil {
		if err := f.refuse(c); err != nil {
			return err
		}
	}
	f.mu.Lock()
	f.containers[c.ID] = &fakeContainer{cfg: c, ended: make(chan struct{}), output: make(chan *agentv1.ProcessIO, 100)}
	f.mu.Unlock()
	f.launched <- c
	return nil
}

func (f *fakeContainerizer) get(id ids.Container) (*fakeContainer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.containers[id]; c != nil {
		return c, nil
	}
	return nil, containerizer.ErrNotFound
}

func (f *fakeContainerizer) Wait(ctx context.Context, id ids.Container) (containerizer.Termination, error) {
	c, err := f.get(id)
	if err != nil {
		return containerizer.Termination{}, err
	}
	select {
	case <-c.ended:
		return c.end, nil
	case <-ctx.Done():
		return containerizer.Termination{}, ctx.Err()
	}
}

func (f *fakeContainerizer) Update(_ context.Context, id ids.Container, _ []*mesosv1.Resource, limits map[string]float64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.updates = append(f.updates, limits)
	return nil
}

func (f *fakeContainerizer) Signal(id ids.Container, _ syscall.Signal) error {
	return f.finish(id, 9)
}

// finish ends a container.
func (f *fakeContainerizer) finish(id ids.Container, status int32) error {
	c, err := f.get(id)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-c.ended:
	default:
		c.end.WaitStatus = &status
		close(c.ended)
		close(c.output)
	}
	return nil
}

func (f *fakeContainerizer) Destroy(_ context.Context, id ids.Container) error {
	return f.finish(id, 9)
}

func (f *fakeContainerizer) Remove(_ context.Context, id ids.Container) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.containers, id)
	return nil
}

func (f *fakeContainerizer) Usage(id ids.Container) (*mesosv1.ResourceStatistics, error) {
	_, err := f.get(id)
	return &mesosv1.ResourceStatistics{Timestamp: proto.Float64(1), CpusLimit: proto.Float64(1.1), MemRssBytes: proto.Uint64(4096)}, err
}

func (f *fakeContainerizer) Status(id ids.Container) (*mesosv1.ContainerStatus, error) {
	_, err := f.get(id)
	return &mesosv1.ContainerStatus{ContainerId: containerMessage(id), ExecutorPid: proto.Uint32(4242)}, err
}

func (f *fakeContainerizer) Attach(_ context.Context, id ids.Container) (containerizer.Attachment, error) {
	c, err := f.get(id)
	if err != nil {
		return nil, err
	}
	if c.cfg.Kind != containerizer.Session && c.cfg.Container.GetTtyInfo() == nil {
		return nil, containerizer.ErrNotAttachable
	}
	return &fakeAttachment{f: f, c: c, closed: make(chan struct{})}, nil
}

func (f *fakeContainerizer) Containers() []containerizer.Info {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []containerizer.Info
	for _, c := range f.containers {
		ended := false
		select {
		case <-c.ended:
			ended = true
		default:
		}
		if ended && !isNested(c.cfg.ID) && c.cfg.Kind != containerizer.Standalone {
			continue
		}
		out = append(out, containerizer.Info{Config: c.cfg, Ended: ended})
	}
	return out
}

type fakeAttachment struct {
	f      *fakeContainerizer
	c      *fakeContainer
	once   sync.Once
	closed chan struct{}
}

func (a *fakeAttachment) Recv() (*agentv1.ProcessIO, error) {
	select {
	case rec, ok := <-a.c.output:
		if !ok {
			return nil, io.EOF
		}
		return rec, nil
	case <-a.closed:
		return nil, io.ErrClosedPipe
	}
}

func (a *fakeAttachment) Send(p *agentv1.ProcessIO) error {
	a.f.mu.Lock()
	a.c.input = append(a.c.input, p)
	a.f.mu.Unlock()
	if p.GetData() != nil && len(p.GetData().GetData()) == 0 { // end of input: the program ends
		return a.f.finish(a.c.cfg.ID, 0)
	}
	a.c.output <- &agentv1.ProcessIO{Type: agentv1.ProcessIO_DATA.Enum(), Data: &agentv1.ProcessIO_Data{
		Type: agentv1.ProcessIO_Data_STDOUT.Enum(), Data: []byte(strings.ToUpper(string(p.GetData().GetData()))),
	}}
	return nil
}

func (a *fakeAttachment) Close() error {
	a.once.Do(func() { close(a.closed) })
	return nil
}

// fakeMaster is the master's end of the agent link: it registers every agent and keeps what it hears. A test says the
// rest.
type fakeMaster struct {
	t        testing.TB
	listener net.Listener
	heard    chan *linkv1.Message
	mu       sync.Mutex
	conn     *link.Conn
	registry func(*linkv1.Message) *linkv1.Message // what a registration is answered with, when it is not the usual
	server   *http.Server
}

func newFakeMaster(t testing.TB, l net.Listener) *fakeMaster {
	m := &fakeMaster{t: t, listener: l, heard: make(chan *linkv1.Message, 100_000)}
	m.server = &http.Server{Handler: m}
	go m.server.Serve(m.listener)
	t.Cleanup(m.stop)
	return m
}

func (m *fakeMaster) stop() {
	m.server.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		m.conn.Abort(errors.New("the master stops"))
	}
}

func (m *fakeMaster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, err := link.Accept(w, r, link.Config{})
	if err != nil {
		return
	}
	m.mu.Lock()
	m.conn = conn
	m.mu.Unlock()
	go conn.Run(context.Background(), func(_ uint64, msgs []*linkv1.Message, _ bool) error {
		for _, msg := range msgs {
			reg := msg.GetRegister()
			if re := msg.GetReregister(); re != nil {
				reg = re.GetAgent()
			}
			if reg != nil {
				answer := &linkv1.Message{Kind: &linkv1.Message_Registered{Registered: &linkv1.Registered{
					AgentId: &mesosv1.AgentID{Value: proto.String("m-S0")}, Reregistered: proto.Bool(msg.GetReregister() != nil),
					Master: &mesosv1.MasterInfo{Id: proto.String("m"), Ip: proto.Uint32(1), Port: proto.Uint32(5050), Hostname: proto.String("master.example")},
				}}}
				m.mu.Lock()
				registry := m.registry
				m.mu.Unlock()
				if registry != nil {
					answer = registry(msg)
				}
				conn.Send(0, answer)
			}
			m.heard <- msg.CloneVT()
		}
		return nil
	})
}

func (m *fakeMaster) send(msg *linkv1.Message) {
	if !m.try(msg) {
		m.t.Error("the master has no link to the agent")
	}
}

// answer sets what registrations are answered with.
func (m *fakeMaster) answer(registry func(*linkv1.Message) *linkv1.Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.registry = registry
}

// try sends a message if there is a link.
func (m *fakeMaster) try(msg *linkv1.Message) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.conn != nil && m.conn.Send(0, msg)
}

// expect waits for a message that the test is looking for and drops those before it.
func (m *fakeMaster) expect(what string, match func(*linkv1.Message) bool) *linkv1.Message {
	m.t.Helper()
	deadline := time.After(5 * time.Minute) // of the bubble's time
	for {
		select {
		case msg := <-m.heard:
			if match(msg) {
				return msg
			}
		case <-deadline:
			m.t.Fatalf("the master never heard %s", what)
		}
	}
}

// update waits for an update about a task in a state, and acknowledges it like every one before it.
func (m *fakeMaster) update(task string, state mesosv1.TaskState) *mesosv1.TaskStatus {
	m.t.Helper()
	msg := m.expect(fmt.Sprintf("that %s is %v", task, state), func(msg *linkv1.Message) bool {
		u := msg.GetUpdate()
		if u == nil {
			return false
		}
		m.send(&linkv1.Message{Kind: &linkv1.Message_UpdateAck{UpdateAck: &linkv1.UpdateAck{FrameworkId: u.GetFrameworkId(), TaskId: u.GetStatus().GetTaskId(), Uuid: u.GetStatus().GetUuid()}}})
		return u.GetStatus().GetTaskId().GetValue() == task && u.GetStatus().GetState() == state
	})
	return msg.GetUpdate().GetStatus()
}

// harness is an agent with a fake containerizer and a fake master, on a network in memory.
type harness struct {
	t      testing.TB
	dir    string
	boxes  *fakeContainerizer
	master *fakeMaster
	board  *election.Board
	agent  *Agent
	api    *memnet.Listener
	stop   func()
	result chan error
	change func(*Config, *Deps)
	nets   map[string]*memnet.Listener
	boot   string
}

func newHarness(t testing.TB, change func(*Config, *Deps)) *harness {
	h := &harness{t: t, dir: t.TempDir(), boxes: newFakeContainerizer(), board: &election.Board{}, change: change, nets: map[string]*memnet.Listener{}, boot: "boot-1"}
	h.master = h.addMaster("master1:5050")
	h.board.Set(&election.Leader{ID: "1", Address: "master1:5050"})
	h.start()
	t.Cleanup(func() {
		if h.stop != nil {
			h.stop()
		}
	})
	return h
}

func (h *harness) addMaster(address string) *fakeMaster {
	l := memnet.Listen(address)
	m := newFakeMaster(h.t, l)
	h.nets[address] = l
	return m
}

// testConfig is the default configuration as the flags would make it.
func testConfig(t testing.TB, change func(*Config)) Config {
	var cfg Config
	fs := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	set := config.Bind(fs, &cfg, BindOptions())
	cfg.Master = election.Target{Addresses: []string{"unused:1"}}
	if change != nil {
		change(&cfg)
	}
	if err := set.Load(func(string) (string, bool) { return "", false }); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&cfg)
	}
	return cfg
}

// start starts the agent process, so to speak.
func (h *harness) start() {
	h.t.Helper()
	cfg := testConfig(h.t, func(c *Config) {
		c.Master = election.Target{Addresses: []string{"unused:1"}}
		c.WorkDir, c.RuntimeDir, c.Hostname, c.SwitchUser = h.dir+"/work", h.dir+"/run", "agent.example", false
		c.Attributes = "rack:r1;size:3"
	})
	h.api = memnet.Listen("10.0.0.7:5051")
	deps := Deps{
		Log: slog.New(slog.NewTextHandler(testWriter{h.t}, &slog.HandlerOptions{Level: slog.LevelWarn})), Detector: h.board, Listener: h.api, Containerizer: h.boxes, BootID: h.boot,
		Host: &[3]float64{8, 9216, 105_120}, Flags: map[string]string{"work_dir": "somewhere"},
		Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
			l := h.nets[address]
			if l == nil {
				return nil, fmt.Errorf("no route to %s", address)
			}
			return l.Dial(ctx)
		},
	}
	if h.change != nil {
		h.change(&cfg, &deps)
	}
	a, err := New(cfg, deps)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.agent, h.result = a, make(chan error, 1)
	go func() { h.result <- a.Run(ctx) }()
	stopped := false
	h.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-h.result; err != nil && !errors.Is(err, ErrLeft) {
			h.t.Errorf("Run: %v", err)
		}
	}
}

// restart is the next process on the same host.
func (h *harness) restart() {
	h.t.Helper()
	h.stop()
	h.start()
}

func (h *harness) registered() {
	h.t.Helper()
	select {
	case <-h.agent.Registered():
	case <-time.After(5 * time.Minute):
		h.t.Fatal("the agent does not register")
	}
}

// http is a client of the agent's API.
func (h *harness) http() *http.Transport {
	return wire.NewTransport(func(ctx context.Context, _, _ string) (net.Conn, error) { return h.api.Dial(ctx) })
}

func (h *harness) run(task *mesosv1.TaskInfo) containerizer.Config {
	h.t.Helper()
	h.master.send(&linkv1.Message{Kind: &linkv1.Message_RunTask{RunTask: &linkv1.RunTask{Framework: testFramework(), Task: task}}})
	select {
	case c := <-h.boxes.launched:
		if _, bubble := h.t.(*testing.T); bubble {
			synctest.Wait() // the agent knows what its containerizer says of it: a real executor takes longer than that to say anything
		}
		return c
	case <-time.After(5 * time.Minute):
		h.t.Fatal("nothing was launched")
		panic("unreachable")
	}
}

func testFramework() *mesosv1.FrameworkInfo {
	return &mesosv1.FrameworkInfo{
		User: proto.String("root"), Name: proto.String("test"), Id: &mesosv1.FrameworkID{Value: proto.String("m-0000")}, Checkpoint: proto.Bool(true),
		Role: proto.String("*"), Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_PARTITION_AWARE.Enum()}},
	}
}

func scalar(name string, v float64) *mesosv1.Resource {
	return &mesosv1.Resource{Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v}, AllocationInfo: &mesosv1.Resource_AllocationInfo{Role: proto.String("*")}}
}

func customTask(id, executor string) *mesosv1.TaskInfo {
	return &mesosv1.TaskInfo{
		Name: proto.String("task " + id), TaskId: &mesosv1.TaskID{Value: &id}, AgentId: &mesosv1.AgentID{Value: proto.String("m-S0")},
		Resources: []*mesosv1.Resource{scalar("cpus", 1), scalar("mem", 64)},
		Executor: &mesosv1.ExecutorInfo{
			ExecutorId: &mesosv1.ExecutorID{Value: &executor}, FrameworkId: &mesosv1.FrameworkID{Value: proto.String("m-0000")},
			Command:   &mesosv1.CommandInfo{Value: proto.String("./executor"), Environment: &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{{Name: proto.String("OWN"), Value: proto.String("x")}}}},
			Resources: []*mesosv1.Resource{scalar("cpus", 0.5), scalar("mem", 32)}, ShutdownGracePeriod: &mesosv1.DurationInfo{Nanoseconds: proto.Int64(7e9)},
		},
	}
}

// executor is a custom executor that speaks the v1 API over HTTP.
type executor struct {
	t      testing.TB
	id     string
	client *wire.Client
	events *wire.EventReader
	cancel context.CancelFunc
	n      int
}

func (h *harness) executor(id string, ct wire.ContentType, unacked ...*mesosv1.TaskStatus) *executor {
	h.t.Helper()
	c, err := wire.NewClient(wire.ClientConfig{Masters: []string{"agent:5051"}, Path: "/slave(1)/api/v1/executor", ContentType: ct, Transport: h.http()})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	x := &executor{t: h.t, id: id, client: c, cancel: cancel}
	call := x.call(executorv1.Call_SUBSCRIBE)
	call.Subscribe = &executorv1.Call_Subscribe{}
	for _, s := range unacked {
		call.Subscribe.UnacknowledgedUpdates = append(call.Subscribe.UnacknowledgedUpdates, &executorv1.Call_Update{Status: s})
	}
	if x.events, err = c.Open(ctx, call); err != nil {
		cancel()
		h.t.Fatalf("subscribe executor %s: %v", id, err)
	}
	h.t.Cleanup(x.close)
	return x
}

func (x *executor) close() {
	x.events.Close()
	x.cancel()
	x.client.Close()
}

func (x *executor) call(t executorv1.Call_Type) *executorv1.Call {
	return &executorv1.Call{ExecutorId: &mesosv1.ExecutorID{Value: &x.id}, FrameworkId: &mesosv1.FrameworkID{Value: proto.String("m-0000")}, Type: t.Enum()}
}

// expect reads the next event and demands its type.
func (x *executor) expect(t executorv1.Event_Type) *executorv1.Event {
	x.t.Helper()
	e := &executorv1.Event{}
	if err := x.events.Next(e); err != nil {
		x.t.Fatalf("waiting for %v: %v", t, err)
	}
	if e.GetType() != t {
		x.t.Fatalf("got %v, want %v", e, t)
	}
	return e
}

func (x *executor) status(task string, state mesosv1.TaskState) *mesosv1.TaskStatus {
	x.n++
	return &mesosv1.TaskStatus{TaskId: &mesosv1.TaskID{Value: &task}, State: &state, Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(), Uuid: fmt.Appendf(nil, "%-10.10s%06d", x.id, x.n)}
}

func (x *executor) update(s *mesosv1.TaskStatus) error {
	call := x.call(executorv1.Call_UPDATE)
	call.Update = &executorv1.Call_Update{Status: s}
	return x.client.Call(context.Background(), call)
}

// testWriter sends the log to the test's.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	if os.Getenv("AGENT_TEST_LOG") != "" {
		os.Stderr.Write(p)
	}
	return len(p), nil
}

func pathOf(p string) config.Path { return config.Path(p) }

func isReregister(m *linkv1.Message) bool { return m.GetReregister() != nil }
