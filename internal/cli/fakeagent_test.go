package cli

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/files"
	"github.com/orchestrator/orchestrator/internal/master"
	"github.com/orchestrator/orchestrator/internal/resources"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/link"

	"github.com/spf13/pflag"
)

// startMaster runs a real master on a free port and returns its address.
func startMaster(t *testing.T) string {
	t.Helper()
	var cfg master.Config
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	set := config.Bind(fs, &cfg, master.BindOptions())
	if err := fs.Parse([]string{"--ip=127.0.0.1", "--port=0", "--registry=in_memory"}); err != nil {
		t.Fatal(err)
	}
	if err := set.Load(func(string) (string, bool) { return "", false }); err != nil {
		t.Fatal(err)
	}
	m, err := master.New(cfg, master.Deps{Log: slog.New(slog.DiscardHandler), Flags: set.Values()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("master: %v", err)
		}
	})
	<-m.Ready()
	return m.Address()
}

// fakeAgent speaks the real link and serves real /files, but runs no process: what a task "prints" is its command, and its exit code the
// number after "exit" in it. It stands for an agent where only the commands are tested.
type fakeAgent struct {
	t     *testing.T
	conn  *link.Conn
	files *files.Files
	dir   string
	http  *httptest.Server

	mu      sync.Mutex
	id      *mesosv1.AgentID
	running map[string]*linkv1.RunTask
}

func startFakeAgent(t *testing.T, masterAddress string) *fakeAgent {
	t.Helper()
	a := &fakeAgent{t: t, files: files.New(), dir: t.TempDir(), running: map[string]*linkv1.RunTask{}}
	mux := http.NewServeMux()
	mux.Handle("/files/", a.files.Handler("/files"))
	mux.HandleFunc("POST /sandboxes/prune", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `{"deleted":%d,"failed":0}`, map[string]int{"0secs": 3, "1days": 1}[r.FormValue("older_than")])
	})
	mux.HandleFunc("POST /api/v1", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }) // PRUNE_IMAGES
	a.http = httptest.NewServer(wire.Authenticated(wire.Permissive{}, "agent", mux))
	t.Cleanup(a.http.Close)
	conn, err := link.Dial(t.Context(), link.DialConfig{Address: masterAddress})
	if err != nil {
		t.Fatal(err)
	}
	a.conn = conn
	registered := make(chan struct{})
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(ended)
		_ = conn.Run(ctx, func(_ uint64, msgs []*linkv1.Message, _ bool) error {
			for _, m := range msgs {
				a.handle(m, registered)
			}
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		conn.Close()
		<-ended
	})
	conn.Send(0, &linkv1.Message{Kind: &linkv1.Message_Register{Register: &linkv1.Register{
		Info: &mesosv1.AgentInfo{
			Hostname: proto.String("fake.test"), Port: proto.Int32(5051), Resources: resources.MustParse("cpus:4;mem:4096;disk:1000").Proto(),
			Attributes: []*mesosv1.Attribute{{Name: proto.String("rack"), Type: mesosv1.Value_TEXT.Enum(), Text: &mesosv1.Value_Text{Value: proto.String("r1")}}},
		},
		Version: proto.String("1.11.0"), Address: proto.String(a.http.Listener.Addr().String()),
		Capabilities: []*mesosv1.AgentInfo_Capability{
			{Type: mesosv1.AgentInfo_Capability_MULTI_ROLE.Enum()},
			{Type: mesosv1.AgentInfo_Capability_HIERARCHICAL_ROLE.Enum()},
			{Type: mesosv1.AgentInfo_Capability_RESERVATION_REFINEMENT.Enum()},
			{Type: mesosv1.AgentInfo_Capability_AGENT_DRAINING.Enum()},
		},
	}}})
	select {
	case <-registered:
	case <-time.After(2 * time.Minute):
		t.Fatal("the agent was not registered")
	}
	return a
}

func (a *fakeAgent) handle(m *linkv1.Message, registered chan struct{}) {
	switch k := m.GetKind().(type) {
	case *linkv1.Message_Registered:
		a.mu.Lock()
		a.id = k.Registered.GetAgentId()
		a.mu.Unlock()
		close(registered)
	case *linkv1.Message_Ping:
		a.conn.Send(0, &linkv1.Message{Kind: &linkv1.Message_Pong{Pong: &linkv1.Pong{Sequence: k.Ping.Sequence}}})
	case *linkv1.Message_RunTask:
		a.run(k.RunTask)
	case *linkv1.Message_KillTask:
		a.mu.Lock()
		task := a.running[k.KillTask.GetTaskId().GetValue()]
		a.mu.Unlock()
		if task != nil {
			a.update(task, mesosv1.TaskState_TASK_KILLED, "")
		}
	case *linkv1.Message_Drain:
		a.mu.Lock()
		var all []*linkv1.RunTask
		for _, task := range a.running {
			all = append(all, task)
		}
		a.mu.Unlock()
		for _, task := range all {
			a.update(task, mesosv1.TaskState_TASK_KILLED, "draining")
		}
	}
}

// run writes what the task prints and reports it as running; tasks whose command has "sleep" go on.
func (a *fakeAgent) run(task *linkv1.RunTask) {
	id := task.GetTask().GetTaskId().GetValue()
	command := task.GetTask().GetCommand().GetValue()
	box := filepath.Join(a.dir, id)
	if err := os.MkdirAll(box, 0o755); err != nil {
		a.t.Error(err)
	}
	for name, text := range map[string]string{"stdout": command + " ran as " + id + "\n", "stderr": "noise of " + id} {
		if err := os.WriteFile(filepath.Join(box, name), []byte(text), 0o644); err != nil {
			a.t.Error(err)
		}
	}
	a.files.Attach(box, "/frameworks/"+task.GetFramework().GetId().GetValue()+"/executors/"+id+"/runs/latest", nil)
	a.mu.Lock()
	a.running[id] = task
	a.mu.Unlock()
	a.update(task, mesosv1.TaskState_TASK_RUNNING, "")
	var code int
	switch _, rest, fails := strings.Cut(command, "exit "); {
	case strings.Contains(command, "sleep"):
	case fails:
		if _, err := fmt.Sscan(rest, &code); err != nil {
			a.t.Error(err)
		}
		a.update(task, mesosv1.TaskState_TASK_FAILED, fmt.Sprintf("Command exited with status %d", code))
	default:
		a.update(task, mesosv1.TaskState_TASK_FINISHED, "Command exited with status 0")
	}
}

func (a *fakeAgent) update(task *linkv1.RunTask, state mesosv1.TaskState, message string) {
	id := uuid.New()
	if state != mesosv1.TaskState_TASK_RUNNING {
		a.mu.Lock()
		delete(a.running, task.GetTask().GetTaskId().GetValue())
		a.mu.Unlock()
	}
	st := &mesosv1.TaskStatus{
		TaskId: task.GetTask().GetTaskId(), AgentId: a.id, State: state.Enum(), Uuid: id[:], Message: proto.String(message),
		Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(), Timestamp: proto.Float64(float64(time.Now().UnixNano()) / 1e9),
		ContainerStatus: &mesosv1.ContainerStatus{ContainerId: &mesosv1.ContainerID{Value: proto.String("c-" + task.GetTask().GetTaskId().GetValue())}},
	}
	a.conn.Send(0, &linkv1.Message{Kind: &linkv1.Message_Update{Update: &linkv1.StatusUpdate{
		FrameworkId: task.GetFramework().GetId(), Status: st, LatestState: state.Enum(),
	}}})
}

// cancellable is a context that the test ends itself.
func cancellable(t *testing.T) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx, cancel
}
