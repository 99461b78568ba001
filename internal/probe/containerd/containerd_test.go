package containerd

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	criv1 "github.com/orchestrator/orchestrator/api/cri/v1"
	"github.com/orchestrator/orchestrator/internal/leakcheck"
	"github.com/orchestrator/orchestrator/internal/probe/containerd/containerdtest"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

func byName(list []*Container, name string) *Container {
	for _, c := range list {
		if c.Name == name || c.ID == name {
			return c
		}
	}
	return nil
}

// TestRealContainerd reads containers of three namespaces, a pod among them, as a real containerd and its CRI tell them.
func TestRealContainerd(t *testing.T) {
	r := containerdtest.Start(t)
	c := Dial(r.Socket)
	t.Cleanup(c.Close)
	list := func() []*Container {
		t.Helper()
		got, err := c.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := list(); len(got) != 0 || c.Speaks() != "containerd, CRI" || !c.Watches() {
		t.Fatalf("%d containers before there is one, and it speaks %q", len(got), c.Speaks())
	}
	changed := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- c.Watch(ctx, func() { changed <- struct{}{} }) }()

	root, chosen := r.Root(), r.Name("chosen")
	r.Ctr("run", "-d", "--rootfs", "--label", "app=web", "--env", "MARATHON_APP_ID=/shop/web", "--memory-limit", "67108864",
		"--cgroup", r.Cgroup+"/chosen", root, chosen, "/bin/sleep", "1000")
	r.Ctr("-n", "second", "container", "create", "--rootfs", root, "asleep", "/bin/sleep", "1000")
	select {
	case <-changed:
	case <-time.After(3 * time.Minute):
		t.Error("the start of a container is no event")
	}
	got := list()
	one := byName(got, chosen)
	if one == nil || one.Namespace != "default" || one.State != Running || one.Pid <= 1 || one.Labels["app"] != "web" || one.MemLimit != 64<<20 || one.CreatedMs == 0 ||
		one.Command != "/bin/sleep 1000" || one.Cgroup != r.Cgroup+"/chosen" || !strings.Contains(strings.Join(one.Env, " "), "MARATHON_APP_ID=/shop/web") {
		t.Errorf("%+v", one)
	}
	if two := byName(got, "asleep"); two == nil || two.Namespace != "second" || two.State != Created || two.Pid != 0 {
		t.Errorf("%+v", two)
	}
	r.Ctr("tasks", "pause", chosen)
	if one = byName(list(), chosen); one.State != Paused {
		t.Errorf("paused: %+v", one)
	}
	r.Ctr("tasks", "resume", chosen)

	// A pod as the kubelet makes it, with the host's network.
	r.Import("k8s.io", containerdtest.Pause, "sleep", "100001")
	r.Import("k8s.io", "test.invalid/shop:7", "sleep", "100000")
	const uid = "6d1f0c3e-1111-4222-8333-944455556666"
	logs := t.TempDir()
	sandbox, id := r.StartPod(containerdtest.Pod{
		UID: uid, Name: "web-abc", Namespace: "shop", Container: "web", Image: "test.invalid/shop:7", Attempt: 3, LogDirectory: logs, LogPath: "web/3.log",
	})
	got = list()
	web, pause := byName(got, id), byName(got, sandbox)
	if web == nil || web.Name != "web" || web.Namespace != "k8s.io" || web.State != Running || web.Restarts != 3 || web.Image != "test.invalid/shop:7" ||
		web.Labels["io.kubernetes.pod.uid"] != uid || web.Labels["io.kubernetes.pod.name"] != "web-abc" || web.Labels["io.kubernetes.pod.namespace"] != "shop" || web.Sandbox {
		t.Errorf("%+v", web)
	}
	if pause == nil || !pause.Sandbox || pause.State != Running {
		t.Errorf("%+v", pause)
	}
	// What a runtime that has nothing but CRI would tell.
	alone, err := c.cri(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if k := byName(alone, id); k == nil || k.State != Running || k.Restarts != 3 || k.Image != "test.invalid/shop:7" || k.Labels["io.kubernetes.pod.uid"] != uid || k.CreatedMs == 0 {
		t.Errorf("%+v", k)
	}
	// What can be asked of it.
	if path, err := c.LogPath(t.Context(), id); err != nil || path != filepath.Join(logs, "web/3.log") {
		t.Errorf("its log: %q %v", path, err)
	}
	if _, err := c.LogPath(t.Context(), "none"); !Gone(err) {
		t.Errorf("the log of no container: %v", err)
	}
	if !web.Kube || !pause.Kube || one.Kube {
		t.Errorf("known to Kubernetes: %v %v %v", web.Kube, pause.Kube, one.Kube)
	}
	// The first process of a container does not die of SIGTERM unless it asks for it.
	if killed, err := c.Stop(t.Context(), "default", chosen, 100*time.Millisecond); err != nil || !killed {
		t.Errorf("stop: killed %v, %v", killed, err)
	}
	if one = byName(list(), chosen); one.State != Exited || one.ExitCode != 137 {
		t.Errorf("stopped: %+v", one)
	}
	if _, err := c.Stop(t.Context(), "default", "none", time.Second); !Gone(err) {
		t.Errorf("stop of no container: %v", err)
	}
	if err := c.StopKube(t.Context(), id, 0); err != nil {
		t.Error(err)
	}
	if k := byName(list(), id); k == nil || k.State != Exited {
		t.Errorf("stopped: %+v", k)
	}
	r.CRI("StopPodSandbox", containerdtest.Message(1, sandbox))
	r.CRI("RemovePodSandbox", containerdtest.Message(1, sandbox))
	if got := list(); byName(got, sandbox) != nil || byName(got, id) != nil {
		t.Error("the pod is removed, and still listed")
	}
	cancel()
	if err := <-watched; err == nil {
		t.Error("a stream that was ended says nothing")
	}
	r.Stop()
	if _, err := c.List(t.Context()); err == nil {
		t.Error("nobody answers, and that is no error")
	}
}

func TestTheTwoInterfacesAreMerged(t *testing.T) {
	t.Parallel()
	native := []*Container{
		{Namespace: "k8s.io", ID: "b", Image: "sha256:77", State: Running},
		{Namespace: "default", ID: "a", Image: "x"},
	}
	got := merge(native, []*Container{
		{ID: "b", Name: "web", Image: "shop:7", Restarts: 2, Labels: map[string]string{"io.kubernetes.pod.uid": "u"}},
		{ID: "c", Name: "only CRI"},
		{ID: "a", Name: "a pod's container of the same id as another namespace's"},
	})
	if len(got) != 4 {
		t.Fatalf("%d containers", len(got))
	}
	if b := byName(got, "b"); b.Name != "web" || b.Image != "shop:7" || b.Restarts != 2 || b.Labels["io.kubernetes.pod.uid"] != "u" || b.State != Running {
		t.Errorf("%+v", b)
	}
	if got[0].Restarts != 0 || proto.Size(&criv1.Empty{}) != 0 {
		t.Errorf("%+v", got[0])
	}
}
