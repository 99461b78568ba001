package native

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup/cgrouptest"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/containertest"
	"github.com/orchestrator/orchestrator/internal/agent/execlink"
	"github.com/orchestrator/orchestrator/internal/agent/fetcher"
	"github.com/orchestrator/orchestrator/internal/agent/image"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// helperEnv names a helper that has been built already.
const helperEnv = "ORCHESTRATOR_TEST_HELPER"

// helperPath is the real helper, built once for all tests of this package.
var helperPath string

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(victimEnv) != "" {
		victim()
		return
	}
	if helperPath = os.Getenv(helperEnv); helperPath != "" {
		os.Exit(m.Run()) // as another user, who can't build
	}
	dir, err := os.MkdirTemp("", "native-test-")
	if err != nil {
		panic(err)
	}
	_ = os.Chmod(dir, 0o755) // other users' processes execute the helper
	helperPath = filepath.Join(dir, "executor")
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", helperPath, "github.com/orchestrator/orchestrator/cmd/executor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the helper: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// patience is how long what takes d on a machine with nothing else to do may take here: others use it as well, and package vmtest's is mostly emulated.
func patience(d time.Duration) time.Duration {
	if os.Getenv(realpart.InVM) != "" {
		return 6 * d
	}
	return 4 * d
}

// eventually polls a condition.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	within := patience(30 * time.Second)
	deadline := time.Now().Add(within)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// host is a work directory on which one agent process after the other lives.
type host struct {
	t    testing.TB
	dir  string
	root string // cgroup root
}

func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir()}
	h.root = "orchestrator-test-" + strings.ReplaceAll(filepath.Base(filepath.Dir(h.dir))+filepath.Base(h.dir), "/", "-") + fmt.Sprint(os.Getpid())
	// The test's directory is the user's alone; tasks of other users must get through it.
	for d := h.dir; len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
	if os.Geteuid() == 0 {
		t.Cleanup(func() { cgrouptest.Gone(t, h.root) })
	}
	return h
}

// daemon is what of an agent the containerizer needs: the containerizer, the link, and a handler that records.
type daemon struct {
	*Containerizer
	h    *host
	link *testAgent
	stop func()
}

// start starts an agent process's part; it recovers what known says.
func (h *host) start(known []containerizer.Config, change ...func(*Config)) *daemon {
	h.t.Helper()
	cfg := Config{
		WorkDir: filepath.Join(h.dir, "work"), RuntimeDir: filepath.Join(h.dir, "run"), LinkSocket: filepath.Join(h.dir, "run", "exec.sock"),
		Helper: helperPath, Cgroups: cgroup.Config{Root: h.root},
	}
	for _, f := range change {
		f(&cfg)
	}
	if err := os.MkdirAll(cfg.WorkDir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	f, err := fetcher.New(fetcher.Config{CacheDir: filepath.Join(h.dir, "cache")}, fetcher.Deps{})
	if err != nil {
		h.t.Fatal(err)
	}
	deps := Deps{Fetcher: f}
	if os.Geteuid() == 0 {
		if deps.Images, err = image.Open(image.Config{Dir: filepath.Join(h.dir, "store")}, image.Deps{}); err != nil {
			h.t.Fatal(err)
		}
	}
	c, err := New(cfg, deps)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := c.Recover(h.t.Context(), known); err != nil {
		h.t.Fatal(err)
	}
	d := &daemon{Containerizer: c, h: h, link: &testAgent{c: c, launch: make(map[ids.Container][]*executorv1.Event), streams: make(map[ids.Container]execlink.Stream), changed: make(chan struct{})}}
	d.stop = containertest.Link(h.t, cfg.LinkSocket, d.link, c.Token, c.Close)
	return d
}

// end destroys everything and stops.
func (d *daemon) end() {
	d.h.t.Helper()
	for _, i := range d.Containers() {
		if !strings.Contains(string(i.ID), ".") && !i.Ended {
			_ = d.Destroy(context.Background(), i.ID)
			d.wait(i.ID)
		}
	}
	d.stop()
}

func (d *daemon) wait(id ids.Container) containerizer.Termination {
	d.h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience(30*time.Second))
	defer cancel()
	t, err := d.Wait(ctx, id)
	if err != nil {
		d.h.t.Fatalf("wait for %s: %v", id, err)
	}
	return t
}

// sandbox makes a container's sandbox.
func (d *daemon) sandbox(id ids.Container) string {
	d.h.t.Helper()
	p := filepath.Join(d.h.dir, "work", "sandboxes", strings.ReplaceAll(string(id), ".", "/containers/"))
	if err := os.MkdirAll(p, 0o755); err != nil {
		d.h.t.Fatal(err)
	}
	return p
}

func shell(cmd string) *mesosv1.CommandInfo {
	return &mesosv1.CommandInfo{Value: ptr(cmd), Shell: ptr(true)}
}

func scalar(name string, v float64) *mesosv1.Resource {
	return &mesosv1.Resource{Name: ptr(name), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: ptr(v)}}
}

// standalone is a plain container.
func (d *daemon) plain(id ids.Container, cmd string) containerizer.Config {
	kind := containerizer.Standalone
	if strings.Contains(string(id), ".") {
		kind = containerizer.Nested
	}
	return containerizer.Config{
		ID: id, Kind: kind, Directory: d.sandbox(id), Command: shell(cmd),
		Resources: []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 64)},
	}
}

// task is a command task; its executor is told to launch it when it subscribes.
func (d *daemon) task(id ids.Container, ti *mesosv1.TaskInfo) containerizer.Config {
	ti.TaskId = &mesosv1.TaskID{Value: ptr(string(id))}
	ti.Name, ti.AgentId = ptr("task"), &mesosv1.AgentID{Value: ptr("a")}
	d.link.mu.Lock()
	d.link.launch[id] = []*executorv1.Event{{Type: executorv1.Event_LAUNCH.Enum(), Launch: &executorv1.Event_Launch{Task: ti}}}
	d.link.mu.Unlock()
	return containerizer.Config{
		ID: id, Kind: containerizer.CommandTask, FrameworkID: "f", ExecutorID: ids.Executor(id), Directory: d.sandbox(id),
		Command: ti.Command, Task: ti, Container: ti.Container, Checkpoint: true,
		Resources: []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 64)},
	}
}

func (d *daemon) launch(cfg containerizer.Config) {
	d.h.t.Helper()
	if err := d.Launch(context.Background(), cfg); err != nil {
		d.h.t.Fatalf("launch %s: %v", cfg.ID, err)
	}
}

// testAgent is the agent's part of the link: it acknowledges every update, sends what a test wants launched, and starts
// nested containers as it is asked to.
type testAgent struct {
	c *Containerizer

	mu      sync.Mutex
	launch  map[ids.Container][]*executorv1.Event
	updates []*mesosv1.TaskStatus
	subs    []*executorv1.Call
	streams map[ids.Container]execlink.Stream
	changed chan struct{} // closed and replaced at every change
	noAck   bool
	kills   []string
}

func (a *testAgent) touch() {
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *testAgent) Subscribe(_ context.Context, p execlink.Peer, call *executorv1.Call, s execlink.Stream) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.subs = append(a.subs, call)
	a.streams[p.ContainerID] = s
	s.Send(&executorv1.Event{Type: executorv1.Event_SUBSCRIBED.Enum(), Subscribed: &executorv1.Event_Subscribed{
		ContainerId:   protoID(p.ContainerID),
		FrameworkInfo: &mesosv1.FrameworkInfo{Checkpoint: ptr(true)},
	}})
	for _, u := range call.GetSubscribe().GetUnacknowledgedUpdates() {
		a.took(p, s, u.GetStatus())
	}
	for _, e := range a.launch[p.ContainerID] {
		s.Send(e)
	}
	delete(a.launch, p.ContainerID)
	a.touch()
	return nil
}

func (a *testAgent) took(p execlink.Peer, s execlink.Stream, st *mesosv1.TaskStatus) {
	a.updates = append(a.updates, st)
	if !a.noAck && s != nil {
		s.Send(&executorv1.Event{Type: executorv1.Event_ACKNOWLEDGED.Enum(), Acknowledged: &executorv1.Event_Acknowledged{TaskId: st.TaskId, Uuid: st.Uuid}})
	}
}

func (a *testAgent) Call(_ context.Context, p execlink.Peer, call *executorv1.Call) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.took(p, a.streams[p.ContainerID], call.GetUpdate().GetStatus())
	a.touch()
	return nil
}

func (a *testAgent) LaunchNested(ctx context.Context, p execlink.Peer, l execlink.NestedLaunch) error {
	up, err := a.c.find(p.ContainerID)
	if err != nil {
		return err
	}
	leaf := string(l.ContainerID[strings.LastIndexByte(string(l.ContainerID), '.')+1:])
	cfg := containerizer.Config{
		ID: l.ContainerID, Kind: containerizer.Nested, FrameworkID: p.FrameworkID, ExecutorID: p.ExecutorID,
		Directory: filepath.Join(up.cfg.Directory, "containers", leaf),
	}
	if l.Task != nil {
		cfg.Command, cfg.Container, cfg.Task, cfg.Resources = l.Task.Command, l.Task.Container, l.Task, l.Task.Resources
	} else {
		cfg.Kind, cfg.Command, cfg.Directory = containerizer.Check, l.Command, up.cfg.Directory
	}
	if err := os.MkdirAll(cfg.Directory, 0o755); err != nil {
		return err
	}
	return a.c.Launch(ctx, cfg)
}

func (a *testAgent) WaitNested(ctx context.Context, _ execlink.Peer, id ids.Container) (*agentv1.Response_WaitContainer, error) {
	t, err := a.c.Wait(ctx, id)
	if err != nil {
		return nil, err
	}
	r := &agentv1.Response_WaitContainer{ExitStatus: t.WaitStatus, State: t.State, Reason: t.Reason, Limitation: t.Limitation}
	if t.Message != "" {
		r.Message = &t.Message
	}
	return r, nil
}

func (a *testAgent) KillNested(ctx context.Context, _ execlink.Peer, id ids.Container, sig int) error {
	a.mu.Lock()
	a.kills = append(a.kills, fmt.Sprint(id, " ", sig))
	a.mu.Unlock()
	if sig == 9 {
		return a.c.Destroy(ctx, id)
	}
	return a.c.Signal(id, sysSignal(sig))
}

func (a *testAgent) RemoveNested(ctx context.Context, _ execlink.Peer, id ids.Container) error {
	return a.c.Remove(ctx, id)
}

// send sends an event to an executor.
func (d *daemon) send(id ids.Container, e *executorv1.Event) {
	d.h.t.Helper()
	d.link.mu.Lock()
	s := d.link.streams[id]
	d.link.mu.Unlock()
	if s == nil || !s.Send(e) {
		d.h.t.Fatalf("executor of %s is not connected", id)
	}
}

func (d *daemon) kill(id ids.Container, grace time.Duration) {
	d.h.t.Helper()
	k := &executorv1.Event_Kill{TaskId: &mesosv1.TaskID{Value: ptr(string(id))}}
	if grace >= 0 {
		k.KillPolicy = &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: ptr(int64(grace))}}
	}
	d.send(id, &executorv1.Event{Type: executorv1.Event_KILL.Enum(), Kill: k})
}

// until waits for an update of a task that fits, and gives it.
func (d *daemon) until(task string, what string, fits func(*mesosv1.TaskStatus) bool) *mesosv1.TaskStatus {
	d.h.t.Helper()
	deadline := time.After(patience(30 * time.Second))
	for {
		d.link.mu.Lock()
		for _, u := range d.link.updates {
			if u.GetTaskId().GetValue() == task && fits(u) {
				d.link.mu.Unlock()
				return u
			}
		}
		changed := d.link.changed
		d.link.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			d.h.t.Fatalf("task %s: no update in time: %s; got %s", task, what, d.states(task))
		}
	}
}

func (d *daemon) untilState(task string, s mesosv1.TaskState) *mesosv1.TaskStatus {
	d.h.t.Helper()
	return d.until(task, s.String(), func(u *mesosv1.TaskStatus) bool { return u.GetState() == s })
}

// states lists the states that were told of a task.
func (d *daemon) states(task string) string {
	d.link.mu.Lock()
	defer d.link.mu.Unlock()
	var out []string
	for _, u := range d.link.updates {
		if u.GetTaskId().GetValue() == task {
			out = append(out, strings.TrimPrefix(u.GetState().String(), "TASK_"))
		}
	}
	return strings.Join(out, " ")
}

func read(t testing.TB, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// ociPath finds an OCI runtime; empty gives the helper.
func ociPath(t testing.TB, name string) string {
	t.Helper()
	if name == "" {
		return ""
	}
	return realpart.Program(t, name, name)
}
