package containerd

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	criv1 "github.com/orchestrator/orchestrator/api/cri/v1"
	"github.com/orchestrator/orchestrator/internal/probe/containerd/containerdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// message writes fields as protobuf: a string, a number, or a message of such.
func message(fields ...any) (out []byte) {
	for i := 0; i < len(fields); i += 2 {
		n := protowire.Number(fields[i].(int))
		switch v := fields[i+1].(type) {
		case string:
			out = protowire.AppendString(protowire.AppendTag(out, n, protowire.BytesType), v)
		case int:
			out = protowire.AppendVarint(protowire.AppendTag(out, n, protowire.VarintType), uint64(v))
		case []byte:
			out = protowire.AppendBytes(protowire.AppendTag(out, n, protowire.BytesType), v)
		}
	}
	return out
}

// ask calls a method of CRI that the probe has no use for, and gives the string in field 1 of the answer.
func ask(t *testing.T, c *Client, method string, request []byte) string {
	t.Helper()
	in, out := &criv1.Empty{}, &criv1.Empty{}
	in.ProtoReflect().SetUnknown(request)
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	if err := c.conn.call(ctx, "/runtime.v1.RuntimeService/"+method, "", in, out); err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	answer := out.ProtoReflect().GetUnknown()
	if len(answer) == 0 {
		return ""
	}
	_, _, n := protowire.ConsumeTag(answer)
	s, _ := protowire.ConsumeString(answer[n:])
	return s
}

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
	case <-time.After(30 * time.Second):
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
	labels := func(pairs ...string) (out []byte) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, message(1, pairs[i], 2, pairs[i+1])...)
		}
		return out
	}
	const uid = "6d1f0c3e-1111-4222-8333-944455556666"
	node := message(1, 2, 2, 1) // the node's network, the container's own processes
	pod := message(1, message(1, "web-abc", 2, uid, 3, "shop", 4, 0), 6, labels("io.kubernetes.pod.uid", uid),
		8, message(1, r.Cgroup, 2, message(1, node)))
	sandbox := ask(t, c, "RunPodSandbox", message(1, pod))
	config := message(1, message(1, "web", 2, 3), 2, message(1, "test.invalid/shop:7"), 9, labels("io.kubernetes.container.name", "web"), 15, message(2, message(3, node)))
	id := ask(t, c, "CreateContainer", message(1, sandbox, 2, config, 3, pod))
	ask(t, c, "StartContainer", message(1, id))
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
	ask(t, c, "StopContainer", message(1, id, 2, 0))
	if k := byName(list(), id); k == nil || k.State != Exited {
		t.Errorf("stopped: %+v", k)
	}
	ask(t, c, "StopPodSandbox", message(1, sandbox))
	ask(t, c, "RemovePodSandbox", message(1, sandbox))
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
