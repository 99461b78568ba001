package docker

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup/cgrouptest"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/containertest"
	"github.com/orchestrator/orchestrator/internal/agent/execlink"
	"github.com/orchestrator/orchestrator/internal/agent/fetcher"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// helperPath is the real helper, built once for all tests of this package.
var helperPath string

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(agentEnv) != "" {
		os.Exit(agentProcess())
	}
	dir, err := os.MkdirTemp("", "docker-test-")
	if err != nil {
		panic(err)
	}
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

// box is the image of the tests.
const box = "box:1"

// patience is how long what must happen may take: only a broken build needs as long, however busy the machine is.
const patience = 4 * time.Minute

// eventually polls a condition.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// host is a work directory and an Engine on which one agent process after the other lives.
type host struct {
	t      testing.TB
	e      *dockertest.Engine
	dir    string
	cg     string
	bridge bool       // the Engine has networks
	link   *fakeAgent // of the next agent process; nil: one that knows nothing
}

func newHost(t testing.TB, opts dockertest.Options) *host {
	t.Helper()
	e := dockertest.Start(t, opts)
	e.Import(box, nil)
	h := hostOn(t, e)
	h.bridge = opts.Bridge
	return h
}

func hostOn(t testing.TB, e *dockertest.Engine) *host {
	t.Helper()
	h := &host{t: t, e: e, dir: t.TempDir(), cg: dockertest.Name("orchestrator-docker-test-")}
	for d := h.dir; len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
	t.Cleanup(func() { cgrouptest.Gone(t, h.cg) })
	return h
}

func (h *host) config(change ...func(*Config)) Config {
	cfg := Config{
		Socket: h.e.Socket, WorkDir: filepath.Join(h.dir, "work"), RuntimeDir: filepath.Join(h.dir, "run"), LinkSocket: filepath.Join(h.dir, "run", "exec.sock"),
		Helper: helperPath, Cgroups: cgroup.Config{Root: h.cg}, PullStall: 30 * time.Second, LateLook: time.Second,
	}
	for _, f := range change {
		f(&cfg)
	}
	return cfg
}

// daemon is what of an agent the containerizer needs: the containerizer, the link, and a handler that records.
type daemon struct {
	*Containerizer
	h       *host
	link    *fakeAgent
	orphans []ids.Container
	stop    func()
}

// start starts an agent process's part; it recovers what known says.
func (h *host) start(known []containerizer.Config, change ...func(*Config)) *daemon {
	h.t.Helper()
	cfg := h.config(change...)
	for _, d := range []string{cfg.WorkDir, cfg.RuntimeDir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	f, err := fetcher.New(fetcher.Config{CacheDir: filepath.Join(h.dir, "cache")}, fetcher.Deps{})
	if err != nil {
		h.t.Fatal(err)
	}
	c, err := New(cfg, Deps{Fetcher: f})
	if err != nil {
		h.t.Fatal(err)
	}
	orphans, err := c.Recover(h.t.Context(), known)
	if err != nil {
		h.t.Fatal(err)
	}
	d := &daemon{Containerizer: c, h: h, orphans: orphans, link: h.link}
	if d.link == nil {
		d.link = newFakeAgent()
	}
	d.stop = containertest.Link(h.t, cfg.LinkSocket, d.link, c.Token, c.Close)
	return d
}

// destroyAll ends everything that runs.
func (d *daemon) destroyAll() {
	d.h.t.Helper()
	for _, i := range d.Containers() {
		if i.Ended || errors.Is(d.Destroy(context.Background(), i.ID), containerizer.ErrNotFound) {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, err := d.Wait(ctx, i.ID)
		cancel()
		if err != nil && !errors.Is(err, containerizer.ErrNotFound) { // one that nobody will ask about is forgotten with its end
			d.h.t.Fatalf("wait for %s: %v", i.ID, err)
		}
	}
}

// end destroys everything and stops.
func (d *daemon) end() {
	d.h.t.Helper()
	d.destroyAll()
	d.stop()
}

func (d *daemon) wait(id ids.Container) containerizer.Termination {
	d.h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	t, err := d.Wait(ctx, id)
	if err != nil {
		d.h.t.Fatalf("wait for %s: %v", id, err)
	}
	return t
}

func (d *daemon) sandbox(id ids.Container) string {
	d.h.t.Helper()
	p := filepath.Join(d.h.dir, "work", "sandboxes", string(id))
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

func ports(from, to uint64) *mesosv1.Resource {
	return &mesosv1.Resource{Name: ptr("ports"), Type: mesosv1.Value_RANGES.Enum(), Ranges: &mesosv1.Value_Ranges{
		Range: []*mesosv1.Value_Range{{Begin: ptr(from), End: ptr(to)}},
	}}
}

// dockerInfo is a container of the tests' image.
func dockerInfo(network mesosv1.ContainerInfo_DockerInfo_Network) *mesosv1.ContainerInfo {
	return &mesosv1.ContainerInfo{
		Type:   mesosv1.ContainerInfo_DOCKER.Enum(),
		Docker: &mesosv1.ContainerInfo_DockerInfo{Image: ptr(box), Network: network.Enum()},
	}
}

// hostNet is the plain container of the tests.
func hostNet() *mesosv1.ContainerInfo { return dockerInfo(mesosv1.ContainerInfo_DockerInfo_HOST) }

// task is a command task; its executor is told to launch it when it subscribes.
func (d *daemon) task(id ids.Container, ti *mesosv1.TaskInfo) containerizer.Config {
	ti.TaskId = &mesosv1.TaskID{Value: ptr(string(id))}
	ti.Name, ti.AgentId = ptr("task"), &mesosv1.AgentID{Value: ptr("a")}
	if ti.Container == nil {
		ti.Container = hostNet()
	}
	if ti.Resources == nil {
		ti.Resources = []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 64)}
	}
	d.link.mu.Lock()
	d.link.launch[id] = []*executorv1.Event{{Type: executorv1.Event_LAUNCH.Enum(), Launch: &executorv1.Event_Launch{Task: ti}}}
	d.link.mu.Unlock()
	cfg := containerizer.Config{
		ID: id, Kind: containerizer.CommandTask, FrameworkID: "f", ExecutorID: ids.Executor(id), Directory: d.sandbox(id),
		Command: ti.Command, Task: ti, Container: ti.Container, Checkpoint: true, Resources: append(ti.Resources, scalar("cpus", 0.1), scalar("mem", 32)),
		Environment: []string{"PATH=/host/path", "MESOS_SANDBOX=/mnt/mesos/sandbox", "MESOS_AGENT_ENDPOINT=1.2.3.4:5051"}, Labels: map[string]string{"MESOS_TASK_ID": string(id)},
	}
	for _, v := range ti.Command.GetEnvironment().GetVariables() {
		if v.GetType() != mesosv1.Environment_Variable_SECRET {
			cfg.Environment = append(cfg.Environment, v.GetName()+"="+v.GetValue())
		}
	}
	return cfg
}

// executor is a custom executor's container, as far as the containerizer knows.
func (d *daemon) executor(id ids.Container, cmd string) containerizer.Config {
	return containerizer.Config{
		ID: id, Kind: containerizer.CustomExecutor, FrameworkID: "f", ExecutorID: ids.Executor(id), Directory: d.sandbox(id), Command: shell(cmd),
		Container: hostNet(), Checkpoint: true, Resources: []*mesosv1.Resource{scalar("cpus", 0.5), scalar("mem", 64)},
		Environment: []string{"PATH=/host/path", "MESOS_SANDBOX=/mnt/mesos/sandbox", "MESOS_AGENT_ENDPOINT=1.2.3.4:5051"},
	}
}

func (d *daemon) launch(cfg containerizer.Config) {
	d.h.t.Helper()
	if err := d.Launch(context.Background(), cfg); err != nil {
		d.h.t.Fatalf("launch %s: %v", cfg.ID, err)
	}
}

// inspect is the Engine's account of a container.
func (d *daemon) inspect(id ids.Container) dcontainer.InspectResponse {
	d.h.t.Helper()
	r, err := d.api.ContainerInspect(context.Background(), namePrefix+string(id), client.ContainerInspectOptions{})
	if err != nil {
		d.h.t.Fatalf("inspect %s: %v", id, err)
	}
	return r.Container
}

// helperPID is the process that stands beside a container.
func (d *daemon) helperPID(id ids.Container) int {
	d.h.t.Helper()
	var p struct{ PID int }
	if err := spec.Read(d.dir(id), spec.PIDFile, &p); err != nil || p.PID == 0 {
		d.h.t.Fatalf("the helper of %s: %v", id, err)
	}
	return p.PID
}

// fakeAgent is the agent's part of the link: it acknowledges every update and sends what a test wants launched.
type fakeAgent struct {
	mu      sync.Mutex
	launch  map[ids.Container][]*executorv1.Event
	updates []*mesosv1.TaskStatus
	streams map[ids.Container]execlink.Stream
	changed chan struct{}       // closed and replaced at every change
	told    func(ids.Container) // if not nil, learns of whose task there was an update
}

func newFakeAgent() *fakeAgent {
	return &fakeAgent{launch: map[ids.Container][]*executorv1.Event{}, streams: map[ids.Container]execlink.Stream{}, changed: make(chan struct{})}
}

func (a *fakeAgent) touch() {
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *fakeAgent) Subscribe(_ context.Context, p execlink.Peer, call *executorv1.Call, s execlink.Stream) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.streams[p.ContainerID] = s
	s.Send(&executorv1.Event{Type: executorv1.Event_SUBSCRIBED.Enum(), Subscribed: &executorv1.Event_Subscribed{
		ContainerId: &mesosv1.ContainerID{Value: ptr(string(p.ContainerID))}, FrameworkInfo: &mesosv1.FrameworkInfo{
			Checkpoint: ptr(true), Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_TASK_KILLING_STATE.Enum()}},
		},
	}})
	if len(call.GetSubscribe().GetUnacknowledgedTasks()) > 0 {
		delete(a.launch, p.ContainerID) // it has its task
	}
	for _, u := range call.GetSubscribe().GetUnacknowledgedUpdates() {
		a.took(p.ContainerID, s, u.GetStatus())
	}
	for _, e := range a.launch[p.ContainerID] {
		s.Send(e)
	}
	delete(a.launch, p.ContainerID)
	a.touch()
	return nil
}

func (a *fakeAgent) took(id ids.Container, s execlink.Stream, st *mesosv1.TaskStatus) {
	a.updates = append(a.updates, st)
	if a.told != nil {
		a.told(id)
	}
	if s != nil {
		s.Send(&executorv1.Event{Type: executorv1.Event_ACKNOWLEDGED.Enum(), Acknowledged: &executorv1.Event_Acknowledged{TaskId: st.TaskId, Uuid: st.Uuid}})
	}
}

func (a *fakeAgent) Call(_ context.Context, p execlink.Peer, call *executorv1.Call) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.took(p.ContainerID, a.streams[p.ContainerID], call.GetUpdate().GetStatus())
	a.touch()
	return nil
}

var errNoNested = fmt.Errorf("no nested containers here: %w", containerizer.ErrNotFound)

func (a *fakeAgent) LaunchNested(context.Context, execlink.Peer, execlink.NestedLaunch) error {
	return errNoNested
}

func (a *fakeAgent) WaitNested(context.Context, execlink.Peer, ids.Container) (*agentv1.Response_WaitContainer, error) {
	return nil, errNoNested
}

func (a *fakeAgent) KillNested(context.Context, execlink.Peer, ids.Container, int) error {
	return errNoNested
}

func (a *fakeAgent) RemoveNested(context.Context, execlink.Peer, ids.Container) error {
	return errNoNested
}

func (d *daemon) kill(id ids.Container, grace time.Duration) {
	d.h.t.Helper()
	k := &executorv1.Event_Kill{TaskId: &mesosv1.TaskID{Value: ptr(string(id))}}
	if grace >= 0 {
		k.KillPolicy = &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: ptr(int64(grace))}}
	}
	d.link.mu.Lock()
	s := d.link.streams[id]
	d.link.mu.Unlock()
	if s == nil || !s.Send(&executorv1.Event{Type: executorv1.Event_KILL.Enum(), Kill: k}) {
		d.h.t.Fatalf("executor of %s is not connected", id)
	}
}

// until waits for an update of a task that fits, and gives it.
func (d *daemon) until(task ids.Container, what string, fits func(*mesosv1.TaskStatus) bool) *mesosv1.TaskStatus {
	d.h.t.Helper()
	deadline := time.After(patience)
	for {
		d.link.mu.Lock()
		for _, u := range d.link.updates {
			if u.GetTaskId().GetValue() == string(task) && fits(u) {
				d.link.mu.Unlock()
				return u
			}
		}
		changed := d.link.changed
		d.link.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			log, _ := os.ReadFile(filepath.Join(d.dir(task), spec.LogFile))
			d.h.t.Fatalf("task %s: no update in time: %s; got %s; its helper said %q", task, what, d.states(task), log)
		}
	}
}

func (d *daemon) untilState(task ids.Container, s mesosv1.TaskState) *mesosv1.TaskStatus {
	d.h.t.Helper()
	return d.until(task, s.String(), func(u *mesosv1.TaskStatus) bool { return u.GetState() == s })
}

// states lists the states that were told of a task.
func (d *daemon) states(task ids.Container) string {
	d.link.mu.Lock()
	defer d.link.mu.Unlock()
	var out []string
	for _, u := range d.link.updates {
		if u.GetTaskId().GetValue() == string(task) {
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

func asJSON(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// dockerOut runs the docker program, which may fail.
func dockerOut(h *host, args ...string) (string, error) {
	out, err := exec.Command("docker", append([]string{"-H", "unix://" + h.e.Socket}, args...)...).CombinedOutput()
	return string(out), err
}
