package probe

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/probe/containerd"
	"github.com/orchestrator/orchestrator/internal/probe/containerd/containerdtest"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// watchRuntime makes a probe that follows one runtime's socket.
func watchRuntime(t *testing.T, socket string) *Probe {
	t.Helper()
	p, err := New(Config{Monitors: []string{"127.0.0.1:1"}, Hostname: "ctr", DockerSocket: "off", RuntimeSockets: []string{socket}, NetSource: "none", Conntrack: "off"},
		Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); p.others[0].run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; p.ns.close() })
	return p
}

// until looks again and again until the entity is as wanted.
func until(t *testing.T, p *Probe, id, what string, ok func(*probev1.Entity) bool) *probev1.Entity {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		lookNow(p)
		if e := p.hub.entity(id); ok(e) {
			return e
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("%s is not %s: %v; collector: %+v", id, what, p.hub.entity(id), *p.others[0].state.Load())
	return nil
}

// TestContainerdTellsNames has a container whose id no pattern finds in a path: only containerd itself can tell of it.
func TestContainerdTellsNames(t *testing.T) {
	r := containerdtest.Start(t)
	p := watchRuntime(t, r.Socket)
	root, ns := r.Root(), r.Name("jobs")
	r.Ctr("-n", ns, "run", "-d", "--rootfs", "--label", "app=web", "--label", "api_token=hunter2", "--env", "MARATHON_APP_ID=/shop/web", "--env", "DB_PASSWORD=hunter2",
		"--cgroup", r.Cgroup+"/web-1", root, "web-1", "/bin/sh", "-c", "sleep 1000 & wait")
	id := topology.ContainerID("ctr", ns+"/web-1")
	running := func(e *probev1.Entity) bool {
		return e != nil && e.State == topology.StateRunning && e.StartedMs+int64(len(e.Controls)) > 0
	}
	e := until(t, p, id, "running", running)
	if e.Label != "web-1" || attr(e, topology.AttrRuntime) != "containerd" || attr(e, "label.app") != "web" || attr(e, "label.api_token") != topology.Mask ||
		attr(e, topology.AttrApp) != "/shop/web" || strings.Contains(e.String(), "hunter2") {
		t.Errorf("%v", e)
	}
	// Both its processes are in it, and it is measured as any other.
	until(t, p, id, "two processes", func(*probev1.Entity) bool {
		b := p.pic.boxes[ns+"/web-1"]
		return b != nil && len(b.procs) == 2
	})
	b := p.pic.boxes[ns+"/web-1"]
	if s := p.roots.measure(b.first.cgroups().paths, b.ref); s.cpuNanos < 0 || s.mem <= 0 || s.pids != 2 {
		t.Errorf("measured: %+v", s)
	}
	// A shell goes through the kernel, which needs nothing of containerd.
	if out, resp := request(t, p, "exec", id, nil, []string{"/bin/echo", "inside"}); resp.Code != "" || strings.TrimSpace(out) != "inside" {
		t.Errorf("exec: %q %v", out, resp)
	}
	// containerd is restarted: what is known stays, and is followed again.
	r.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if s := p.others[0].state.Load().state; s != "ok" {
			break
		}
		time.Sleep(25 * time.Millisecond)
	}
	lookNow(p)
	if e := p.hub.entity(id); !running(e) || e.Label != "web-1" {
		t.Errorf("while containerd is away: %v", e)
	}
	r.Run()
	if _, resp := request(t, p, "kill", id, nil, nil); resp.Code != "" {
		t.Errorf("kill: %v", resp)
	}
	e = until(t, p, id, "exited", func(e *probev1.Entity) bool { return e != nil && e.State == topology.StateExited })
	if e.ExitCode != 137 || len(e.Reasons) == 0 {
		t.Errorf("killed: %v", e)
	}
	r.Ctr("-n", ns, "tasks", "rm", "web-1")
	r.Ctr("-n", ns, "containers", "rm", "web-1")
	until(t, p, id, "gone", func(e *probev1.Entity) bool { return e == nil })
}

// A runtime that is not there, may not be opened or is none at all costs its own names, and says so.
func TestRuntimesThatDoNotTell(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for socket, want := range map[string]collectorState{
		filepath.Join(dir, "none.sock"): {"off", "no socket at " + filepath.Join(dir, "none.sock")},
		filepath.Join(dir, "file.sock"): {"failed", "connection refused"},
	} {
		p := watchRuntime(t, socket)
		w := p.others[0]
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			if w.state.Load().message != "not looked yet" {
				break
			}
			time.Sleep(25 * time.Millisecond)
		}
		if s := *w.state.Load(); s.state != want.state || !strings.Contains(s.message, want.message) {
			t.Errorf("%s: %+v", socket, s)
		}
	}
}

func TestRuntimeInfo(t *testing.T) {
	t.Parallel()
	hex := strings.Repeat("ab", 32)
	for _, c := range []struct {
		in         containerd.Container
		id, cgroup string
		name       string
	}{
		{containerd.Container{Namespace: "k8s.io", ID: hex, Name: "web", Cgroup: "/kubepods/x"}, hex, "", "web"},
		{containerd.Container{Namespace: "default", ID: "c1", Cgroup: "/default/c1"}, "c1", "/default/c1", "c1"},
		{containerd.Container{Namespace: "jobs", ID: "c1", Cgroup: "/jobs//c1/"}, "jobs/c1", "/jobs/c1", "c1"},
		{containerd.Container{Namespace: "jobs", ID: "c1", Cgroup: "system.slice:jobs:c1"}, "jobs/c1", "", "c1"},
		{containerd.Container{Namespace: "jobs", ID: "c1", Cgroup: "/"}, "jobs/c1", "", "c1"},
	} {
		got := runtimeInfo(&c.in, "containerd")
		if got.ref.id != c.id || got.ref.cgroup != c.cgroup || got.name != c.name {
			t.Errorf("%+v: %+v", c.in, got.ref)
		}
	}
	named := map[string]containerRef{"/jobs/c1": {id: "c1"}}
	for path, want := range map[string]string{"/jobs/c1": "c1", "/jobs/c1/inner/more": "c1", "/jobs/c10": "", "/jobs": "", "/": "", "": ""} {
		if got := inNamed(map[string]string{"": path}, named); got.id != want {
			t.Errorf("%s is in %q", path, got.id)
		}
	}
}

// The list is what podman 4.3.1 wrote (vfs driver); the second entry has what CRI-O adds, the third what neither would write.
func TestPodmansContainersAreNamedByTheirStore(t *testing.T) {
	t.Parallel()
	const id = "f6e2fb2c2948221f1263aefe6388bb7e11631fb4e14ff1778751f3c3ba633010"
	other := strings.Repeat("0b", 32)
	dir := t.TempDir()
	file := filepath.Join(dir, "vfs-containers", "containers.json")
	write := func(text string, at time.Time) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	write(`[{"id":"`+id+`","names":["web"],"image":"9e1a04","layer":"0b4653","metadata":"{\"image-name\":\"localhost/shop:7\",\"image-id\":\"9e1a04\",\"name\":\"web\",\"created-at\":1795681746}","created":"2026-11-26T08:29:06.507898887Z","flags":{"MountLabel":"","ProcessLabel":""}},
		{"id":"`+other+`","names":["k8s_db_db-0_shop_uid_0"],"metadata":"{\"pod-name\":\"k8s_db-0_shop_uid_0\",\"image-name\":\"db:1\",\"uid\":\"uid\"}"},
		{"id":"x","metadata":"not JSON"}]`, now)
	s := newStoredNames(dir)
	got := s.of(containerInPath("/libpod_parent/libpod-"+id), now)
	if got == nil || got.name != "web" || got.image != "localhost/shop:7" || got.ref.runtime != "podman" || got.createdMs != 1795681746507 || got.engine {
		t.Fatalf("%+v", got)
	}
	if got := s.of(containerInPath("/machine.slice/crio-"+other+".scope"), now); got == nil || got.name != "k8s_db_db-0_shop_uid_0" || got.image != "db:1" || got.ref.runtime != "cri-o" {
		t.Errorf("%+v", got)
	}
	// What is half written is read when it is whole, and what is gone is forgotten.
	write(`[{"id":"`, now.Add(time.Second))
	if got := s.of(containerRef{id: id}, now.Add(time.Minute)); got != nil {
		t.Errorf("%+v", got)
	}
	write(`[{"id":"`+id+`","names":["new"]}]`, now.Add(2*time.Second))
	if got := s.of(containerRef{id: id}, now.Add(2*time.Minute)); got == nil || got.name != "new" {
		t.Errorf("%+v", got)
	}
	if got := newStoredNames(filepath.Join(dir, "none")).of(containerRef{id: id}, now); got != nil {
		t.Errorf("%+v", got)
	}
}
