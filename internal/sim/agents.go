package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/link"
)

// AgentsConfig describes simulated agents. Zero fields stand for the defaults.
type AgentsConfig struct {
	Master        string  // "host:port" of any master; redirects to the leader are followed
	Count         int     // agents; default 1
	PerConnection int     // agents on one connection; default 1
	CPUs, Mem     float64 // of each agent; defaults 8 and 16384
	Disk          float64 // default 102400
	Ports         bool    // also offer ports 31000-32000
	Script        Script
	Seed          uint64
	First         int // number of the first agent, which its name is made of
	// Dialling is how many connections may be in the making at once; default 64.
	Dialling int
	Dial     func(ctx context.Context, network, address string) (net.Conn, error) // nil: TCP
	Log      *slog.Logger
}

// AgentStats counts what the agents did.
type AgentStats struct {
	Registered atomic.Int64 // agents that are registered now
	Refused    atomic.Int64
	Tasks      atomic.Int64 // tasks that arrived
	Live       atomic.Int64 // tasks that have not ended, or whose end is not acknowledged
	Updates    atomic.Int64 // status updates sent
	Acks       atomic.Int64
	Pings      atomic.Int64
	Lost       atomic.Int64 // connections that were lost
}

// Agents is a set of simulated agents.
type Agents struct {
	cfg    AgentsConfig
	shards []*shard
	ready  chan struct{}
	once   sync.Once
	slots  chan struct{}

	// Stats may be read at any time.
	Stats AgentStats
}

// NewAgents checks the configuration.
func NewAgents(cfg AgentsConfig) (*Agents, error) {
	if cfg.Master == "" {
		return nil, errors.New("simulated agents need the address of a master")
	}
	if cfg.Count <= 0 {
		cfg.Count = 1
	}
	if cfg.PerConnection <= 0 {
		cfg.PerConnection = 1
	}
	if cfg.CPUs <= 0 {
		cfg.CPUs = 8
	}
	if cfg.Mem <= 0 {
		cfg.Mem = 16384
	}
	if cfg.Disk <= 0 {
		cfg.Disk = 102400
	}
	if cfg.Dialling <= 0 {
		cfg.Dialling = 64
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	a := &Agents{cfg: cfg, ready: make(chan struct{}), slots: make(chan struct{}, cfg.Dialling)}
	for from := 0; from < cfg.Count; from += cfg.PerConnection {
		n := min(cfg.PerConnection, cfg.Count-from)
		s := &shard{all: a, first: cfg.First + from, agents: make([]agent, n)}
		s.rng = rand.New(rand.NewPCG(cfg.Seed, uint64(s.first)))
		a.shards = append(a.shards, s)
	}
	return a, nil
}

// Ready is closed when all agents have been registered.
func (a *Agents) Ready() <-chan struct{} { return a.ready }

// Run keeps the agents connected until ctx is done.
func (a *Agents) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, s := range a.shards {
		wg.Add(1)
		go func() {
			defer wg.Done()
			s.run(ctx)
		}()
	}
	wg.Wait()
	for _, s := range a.shards {
		s.stop()
	}
	return context.Cause(ctx)
}

func (a *Agents) registered(delta int64) {
	if a.Stats.Registered.Add(delta) == int64(a.cfg.Count) {
		a.once.Do(func() { close(a.ready) })
	}
}

// shard is the agents of one connection. mu guards everything below it, also against the timers of tasks.
type shard struct {
	all   *Agents
	first int

	mu         sync.Mutex
	rng        *rand.Rand
	conn       *link.Conn
	agents     []agent
	frameworks map[string]*framework
	plans      planHeap
	alarm      *time.Timer // for the earliest plan
	scratch    []byte
}

// agent is all there is of a simulated agent.
type agent struct {
	id         string
	registered bool
	gone       bool // refused for good
	tasks      map[string]*task
}

// framework is what agents remember of a framework, once for all agents of a connection: an encoded FrameworkID and
// FrameworkInfo.
type framework struct{ id, info []byte }

// task is a simulated task. Updates wait for each other's acknowledgement, as an agent's status update manager has it.
type task struct {
	framework *framework
	info      []byte // an encoded TaskInfo
	id        []byte // of it, an encoded TaskID
	arrived   int64
	state     mesosv1.TaskState // newest
	sent      mesosv1.TaskState // of the update that awaits its acknowledgement
	uuid      [16]byte          // of that update
	waiting   bool              // for an acknowledgement
}

func (s *shard) run(ctx context.Context) {
	address := s.all.cfg.Master
	wait := 50 * time.Millisecond
	for ctx.Err() == nil {
		conn, err := s.dial(ctx, address)
		if err == nil {
			wait = 50 * time.Millisecond
			err = s.serve(ctx, conn)
			s.all.Stats.Lost.Add(1)
		}
		if ctx.Err() != nil {
			return
		}
		var redirect *link.RedirectError
		if errors.As(err, &redirect) {
			address = redirect.Leader
		} else {
			address = s.all.cfg.Master
		}
		s.all.cfg.Log.Debug("simulated agents disconnected", "first", s.first, "error", err)
		s.mu.Lock()
		pause := wait/2 + time.Duration(s.rng.Int64N(int64(wait)))
		s.mu.Unlock()
		wait = min(2*wait, 5*time.Second)
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// stop ends what the tasks have planned.
func (s *shard) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plans = nil
	if s.alarm != nil {
		s.alarm.Stop()
	}
}

func (s *shard) dial(ctx context.Context, address string) (*link.Conn, error) {
	select {
	case s.all.slots <- struct{}{}:
		defer func() { <-s.all.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return link.Dial(ctx, link.DialConfig{Address: address, Dial: s.all.cfg.Dial, Timeout: 30 * time.Second})
}

func (s *shard) serve(ctx context.Context, conn *link.Conn) error {
	s.mu.Lock()
	s.conn = conn
	for i := range s.agents {
		s.register(i)
	}
	s.mu.Unlock()
	err := conn.RunRaw(ctx, s.handle)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = nil
	for i := range s.agents {
		s.setRegistered(i, false)
	}
	return err
}

func (s *shard) setRegistered(i int, yes bool) {
	if s.agents[i].registered == yes {
		return
	}
	s.agents[i].registered = yes
	if yes {
		s.all.registered(1)
	} else {
		s.all.registered(-1)
	}
}

// channel of an agent: an agent that is alone on its connection is channel 0.
func (s *shard) channel(i int) uint64 {
	if len(s.agents) == 1 {
		return 0
	}
	return uint64(i) + 1
}

func (s *shard) indexOf(channel uint64) (int, bool) {
	i := int(channel)
	if len(s.agents) > 1 {
		i--
	}
	return i, i >= 0 && i < len(s.agents)
}

func (s *shard) send(i int, m *linkv1.Message) {
	if s.conn != nil {
		s.conn.Send(s.channel(i), m)
	}
}

func (s *shard) hostname(i int) string { return fmt.Sprintf("sim-%06d", s.first+i) }

func (s *shard) register(i int) {
	a := &s.agents[i]
	if a.gone {
		return
	}
	cfg := &s.all.cfg
	resources := []*mesosv1.Resource{scalar("cpus", cfg.CPUs), scalar("mem", cfg.Mem), scalar("disk", cfg.Disk)}
	if cfg.Ports {
		resources = append(resources, &mesosv1.Resource{
			Name: proto.String("ports"), Type: mesosv1.Value_RANGES.Enum(),
			Ranges: &mesosv1.Value_Ranges{Range: []*mesosv1.Value_Range{{Begin: proto.Uint64(31000), End: proto.Uint64(32000)}}},
		})
	}
	reg := &linkv1.Register{
		Info: &mesosv1.AgentInfo{Hostname: proto.String(s.hostname(i)), Port: proto.Int32(5051), Resources: resources},
		// The version is that of the Mesos API that agents of this kind speak.
		Version: proto.String("1.11.0"), Address: proto.String("127.0.0.1:5051"), TotalResources: resources,
	}
	for _, c := range []mesosv1.AgentInfo_Capability_Type{
		mesosv1.AgentInfo_Capability_MULTI_ROLE, mesosv1.AgentInfo_Capability_HIERARCHICAL_ROLE, mesosv1.AgentInfo_Capability_RESERVATION_REFINEMENT,
	} {
		reg.Capabilities = append(reg.Capabilities, &mesosv1.AgentInfo_Capability{Type: c.Enum()})
	}
	if a.id == "" {
		s.send(i, &linkv1.Message{Kind: &linkv1.Message_Register{Register: reg}})
		return
	}
	reg.Info.Id = &mesosv1.AgentID{Value: proto.String(a.id)}
	again := &linkv1.Reregister{Agent: reg}
	seen := make(map[*framework]*mesosv1.FrameworkInfo)
	for _, t := range a.tasks {
		info := new(mesosv1.TaskInfo)
		if err := info.UnmarshalVT(t.info); err != nil {
			s.all.cfg.Log.Error("a task cannot be decoded", "error", err)
			continue
		}
		f := seen[t.framework]
		if f == nil {
			f = new(mesosv1.FrameworkInfo)
			if err := f.UnmarshalVT(t.framework.info); err != nil {
				s.all.cfg.Log.Error("a framework cannot be decoded", "error", err)
				continue
			}
			seen[t.framework] = f
			again.Frameworks = append(again.Frameworks, f)
		}
		report := &mesosv1.Task{
			Name: info.Name, TaskId: info.TaskId, FrameworkId: f.Id, AgentId: reg.Info.Id, State: t.state.Enum(), Resources: info.Resources,
		}
		if t.waiting {
			report.StatusUpdateState, report.StatusUpdateUuid = t.sent.Enum(), t.uuid[:]
			report.Statuses = []*mesosv1.TaskStatus{{TaskId: info.TaskId, State: t.sent.Enum(), AgentId: reg.Info.Id, Uuid: t.uuid[:]}}
		} else {
			report.Statuses = []*mesosv1.TaskStatus{{TaskId: info.TaskId, State: t.state.Enum(), AgentId: reg.Info.Id}}
		}
		again.Tasks = append(again.Tasks, report)
	}
	s.send(i, &linkv1.Message{Kind: &linkv1.Message_Reregister{Reregister: again}})
}

func scalar(name string, v float64) *mesosv1.Resource {
	return &mesosv1.Resource{Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v}}
}

// handle takes what the master sends.
func (s *shard) handle(channel uint64, bodies [][]byte, closed bool) error {
	arrived := now()
	s.mu.Lock()
	defer s.mu.Unlock()
	i, known := s.indexOf(channel)
	if !known {
		return fmt.Errorf("message on channel %d, which has no agent", channel)
	}
	for _, body := range bodies {
		if err := s.message(i, body, arrived); err != nil {
			return err
		}
	}
	if closed {
		s.setRegistered(i, false)
		s.register(i)
	}
	return nil
}

// Numbers of fields of link.v1.Message, for what comes with every task.
const (
	messageRunTask      = 22
	messageRunTaskGroup = 23
	messageUpdateAck    = 27
)

func (s *shard) message(i int, body []byte, arrived int64) error {
	handled := false
	ok := fields(body, func(num protowire.Number, _ uint64, b []byte) bool {
		switch num {
		case messageRunTask:
			s.runTask(i, field(b, 1), field(b, 2), arrived)
		case messageRunTaskGroup:
			info := field(b, 1)
			fields(field(b, 3), func(num protowire.Number, _ uint64, b []byte) bool {
				if num == 1 {
					s.runTask(i, info, b, arrived)
				}
				return true
			})
		case messageUpdateAck:
			s.acknowledged(i, valueOf(field(b, 2)), field(b, 3))
		default:
			return true
		}
		handled = true
		return true
	})
	if !ok {
		return errors.New("a message of the master is malformed")
	}
	if handled {
		return nil
	}
	m := new(linkv1.Message)
	if err := wire.UnmarshalProtobuf(body, m); err != nil {
		return fmt.Errorf("decoding a message: %w", err)
	}
	s.control(i, m)
	return nil
}

// control handles the messages that do not come with every task.
func (s *shard) control(i int, m *linkv1.Message) {
	a := &s.agents[i]
	switch k := m.Kind.(type) {
	case *linkv1.Message_Ping:
		s.all.Stats.Pings.Add(1)
		s.send(i, &linkv1.Message{Kind: &linkv1.Message_Pong{Pong: &linkv1.Pong{Sequence: k.Ping.Sequence}}})
		if !k.Ping.GetConnected() && a.registered {
			s.setRegistered(i, false)
			s.register(i)
		}
	case *linkv1.Message_Registered:
		a.id = k.Registered.GetAgentId().GetValue()
		s.setRegistered(i, true)
		for _, ended := range k.Registered.GetEndedFrameworks() {
			s.endFramework(i, ended.GetValue())
		}
		for _, expected := range k.Registered.GetExpectedTasks() {
			s.answerExpected(i, expected)
		}
		// Updates that were on their way when the connection was lost are sent again.
		for _, t := range a.tasks {
			if t.waiting {
				s.sendUpdate(i, t)
			}
		}
	case *linkv1.Message_Refused:
		s.all.Stats.Refused.Add(1)
		s.setRegistered(i, false)
		if a.gone = k.Refused.GetShutdown(); !a.gone {
			conn := s.conn
			time.AfterFunc(time.Second, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.conn == conn && !a.registered {
					s.register(i)
				}
			})
		}
	case *linkv1.Message_KillTask:
		if t := a.tasks[k.KillTask.GetTaskId().GetValue()]; t != nil && !terminal(t.state) {
			s.advance(i, t, mesosv1.TaskState_TASK_KILLED)
		}
	case *linkv1.Message_ShutdownFramework:
		s.endFramework(i, k.ShutdownFramework.GetFrameworkId().GetValue())
	case *linkv1.Message_UpdateFramework:
		if f := s.frameworks[k.UpdateFramework.GetFramework().GetId().GetValue()]; f != nil {
			if info, err := k.UpdateFramework.GetFramework().MarshalVT(); err == nil {
				f.info = info
			}
		}
	case *linkv1.Message_Shutdown:
		a.gone = true
		s.setRegistered(i, false)
	}
}

// frameworkOf gives the framework of an encoded FrameworkInfo.
func (s *shard) frameworkOf(info []byte) *framework {
	const id = 3 // FrameworkInfo.id
	value := valueOf(field(info, id))
	f := s.frameworks[string(value)]
	if f == nil {
		if s.frameworks == nil {
			s.frameworks = make(map[string]*framework)
		}
		info = bytes.Clone(info)
		f = &framework{id: field(info, id), info: info}
		s.frameworks[string(value)] = f
	}
	return f
}

// runTask takes an encoded FrameworkInfo and TaskInfo.
func (s *shard) runTask(i int, framework, info []byte, arrived int64) {
	a := &s.agents[i]
	const id = 2 // TaskInfo.task_id
	value := valueOf(field(info, id))
	if a.tasks[string(value)] != nil {
		return
	}
	if a.tasks == nil {
		a.tasks = make(map[string]*task)
	}
	info = bytes.Clone(info)
	t := &task{framework: s.frameworkOf(framework), info: info, id: field(info, id), arrived: arrived, state: mesosv1.TaskState_TASK_STAGING}
	a.tasks[string(value)] = t
	s.all.Stats.Tasks.Add(1)
	s.all.Stats.Live.Add(1)
	s.after(i, t, s.all.cfg.Script.Start.pick(s.rng), mesosv1.TaskState_TASK_RUNNING)
}

// after moves a task to a state later, or at once.
func (s *shard) after(i int, t *task, d time.Duration, state mesosv1.TaskState) {
	if d <= 0 {
		s.advance(i, t, state)
		return
	}
	s.plan(plan{at: now() + int64(d), agent: i, task: t, state: state})
}

func (s *shard) advance(i int, t *task, state mesosv1.TaskState) {
	t.state = state
	if !t.waiting {
		s.nextUpdate(i, t)
	}
	script := &s.all.cfg.Script
	if state != mesosv1.TaskState_TASK_RUNNING || script.Run.Max <= 0 {
		return
	}
	end := mesosv1.TaskState_TASK_FINISHED
	if script.Failing > 0 && s.rng.Float64() < script.Failing {
		end = mesosv1.TaskState_TASK_FAILED
	}
	s.after(i, t, script.Run.pick(s.rng), end)
}

// nextUpdate sends the newest state under a new uuid.
func (s *shard) nextUpdate(i int, t *task) {
	t.sent, t.waiting = t.state, true
	for j := 0; j < len(t.uuid); j += 8 {
		v := s.rng.Uint64()
		for b := range 8 {
			t.uuid[j+b] = byte(v >> (8 * b))
		}
	}
	t.uuid[6], t.uuid[8] = t.uuid[6]&0x0f|0x40, t.uuid[8]&0x3f|0x80
	s.sendUpdate(i, t)
}

func (s *shard) sendUpdate(i int, t *task) {
	if !s.agents[i].registered {
		return // it is sent once the agent is registered again
	}
	sent := now()
	s.all.Stats.Updates.Add(1)
	if s.conn != nil {
		s.scratch = updateMessage(s.scratch[:0], t, s.agents[i].id, float64(sent)/1e9, Stamps{t.arrived, sent})
		s.conn.SendRaw(s.channel(i), s.scratch)
	}
}

func (s *shard) acknowledged(i int, id, uuid []byte) {
	a := &s.agents[i]
	t := a.tasks[string(id)]
	if t == nil || !t.waiting || string(uuid) != string(t.uuid[:]) {
		return
	}
	s.all.Stats.Acks.Add(1)
	t.waiting = false
	switch {
	case t.state != t.sent:
		s.nextUpdate(i, t)
	case terminal(t.state):
		s.forget(a, t)
	}
}

func (s *shard) forget(a *agent, t *task) {
	delete(a.tasks, string(valueOf(t.id)))
	s.all.Stats.Live.Add(-1)
}

func (s *shard) endFramework(i int, id string) {
	a := &s.agents[i]
	for _, t := range a.tasks {
		if string(valueOf(t.framework.id)) == id {
			s.forget(a, t)
		}
	}
}

// answerExpected reports a task that the master expects and this agent never saw.
func (s *shard) answerExpected(i int, expected *linkv1.ExpectedTask) {
	if s.agents[i].tasks[expected.GetTaskId().GetValue()] != nil {
		return
	}
	s.send(i, &linkv1.Message{Kind: &linkv1.Message_Update{Update: &linkv1.StatusUpdate{
		FrameworkId: expected.GetFrameworkId(), LatestState: mesosv1.TaskState_TASK_DROPPED.Enum(),
		Status: &mesosv1.TaskStatus{
			TaskId: expected.GetTaskId(), State: mesosv1.TaskState_TASK_DROPPED.Enum(), Source: mesosv1.TaskStatus_SOURCE_AGENT.Enum(),
			AgentId: &mesosv1.AgentID{Value: &s.agents[i].id},
			Message: proto.String("the agent does not know the task " + strconv.Quote(expected.GetTaskId().GetValue())),
		},
	}}})
}

func terminal(s mesosv1.TaskState) bool {
	switch s {
	case mesosv1.TaskState_TASK_FINISHED, mesosv1.TaskState_TASK_FAILED, mesosv1.TaskState_TASK_KILLED, mesosv1.TaskState_TASK_LOST,
		mesosv1.TaskState_TASK_ERROR, mesosv1.TaskState_TASK_DROPPED, mesosv1.TaskState_TASK_GONE, mesosv1.TaskState_TASK_GONE_BY_OPERATOR:
		return true
	}
	return false
}
