package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	containerdv1 "github.com/orchestrator/orchestrator/api/containerd/v1"
	criv1 "github.com/orchestrator/orchestrator/api/cri/v1"
)

// Container is what a runtime tells of one container.
type Container struct {
	Namespace string // containerd's; "" from CRI
	ID        string
	Name      string
	Image     string
	State     string // running, paused, created, exited
	ExitCode  int
	Restarts  int
	CreatedMs int64
	EndedMs   int64
	Pid       int
	Hostname  string
	Command   string
	Cgroup    string // as the runtime was told: a path, or slice:prefix:name
	MemLimit  int64
	CPUs      float64
	Labels    map[string]string
	Env       []string
	Sandbox   bool // holds a pod's namespaces and does nothing itself
	Kube      bool // CRI knows it: its runtime stops it for Kubernetes, and writes its log
	// Stdout and Stderr say where containerd was told to put the output: a pipe's path, or a URI.
	Stdout, Stderr string
}

// States of a container.
const (
	Running = "running"
	Paused  = "paused"
	Created = "created"
	Exited  = "exited"
)

// Max is how many containers of one runtime are read.
const Max = 5000

// Client reads from one socket. Whether a containerd or another runtime of Kubernetes is behind it shows in its answers.
type Client struct {
	conn          *conn
	native, kubes bool // what has answered
}

// Dial prepares a client; it connects when it is used.
func Dial(socket string) *Client { return &Client{conn: dial(socket)} }

// Close gives the connection up.
func (c *Client) Close() { c.conn.close() }

// Speaks says what the server answered to at the last List: containerd's API, CRI, or both.
func (c *Client) Speaks() string {
	switch {
	case c.native && c.kubes:
		return "containerd, CRI"
	case c.native:
		return "containerd"
	case c.kubes:
		return "CRI"
	}
	return ""
}

// Watches reports whether the server tells when containers change; otherwise it has to be asked now and then.
func (c *Client) Watches() bool { return c.native }

// List reads all containers.
func (c *Client) List(ctx context.Context) ([]*Container, error) {
	var spaces containerdv1.ListNamespacesResponse
	err := c.conn.call(ctx, "/containerd.services.namespaces.v1.Namespaces/List", "", &containerdv1.Empty{}, &spaces)
	c.native = err == nil
	if err != nil && !unimplemented(err) {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var out []*Container
	for _, space := range spaces.Namespaces {
		list, err := c.namespace(ctx, space.Name, Max-len(out))
		if err != nil {
			return nil, fmt.Errorf("list containers of namespace %s: %w", space.Name, err)
		}
		out = append(out, list...)
	}
	list, err := c.cri(ctx)
	c.kubes = err == nil
	if err != nil && !unimplemented(err) && !c.native {
		return nil, fmt.Errorf("list Kubernetes' containers: %w", err)
	}
	if !c.native && !c.kubes {
		return nil, errors.New("neither containerd's API nor CRI (runtime.v1) answers")
	}
	return merge(out, list), nil
}

// Watch calls changed whenever a container or task of any namespace has changed, until ctx ends or the stream does.
func (c *Client) Watch(ctx context.Context, changed func()) error {
	return c.conn.stream(ctx, "/containerd.services.events.v1.Events/Subscribe", "", &containerdv1.Empty{}, func(data []byte) error {
		var e containerdv1.Envelope
		if err := proto.Unmarshal(data, &e); err != nil {
			return err
		}
		if strings.HasPrefix(e.Topic, "/tasks/") && !strings.HasPrefix(e.Topic, "/tasks/exec") || strings.HasPrefix(e.Topic, "/containers/") || strings.HasPrefix(e.Topic, "/namespaces/") {
			changed()
		}
		return nil
	})
}

var errEnough = errors.New("enough")

func (c *Client) namespace(ctx context.Context, name string, limit int) ([]*Container, error) {
	var tasks containerdv1.ListTasksResponse
	if err := c.conn.call(ctx, "/containerd.services.tasks.v1.Tasks/List", name, &containerdv1.Empty{}, &tasks); err != nil {
		return nil, err
	}
	running := map[string]*containerdv1.Process{}
	for _, t := range tasks.Tasks {
		id := t.ContainerId
		if id == "" { // older ones say it here
			id = t.Id
		}
		running[id] = t
	}
	var out []*Container
	err := c.conn.stream(ctx, "/containerd.services.containers.v1.Containers/ListStream", name, &containerdv1.Empty{}, func(data []byte) error {
		if len(out) >= limit {
			return errEnough
		}
		var m containerdv1.ListContainerMessage
		if err := proto.Unmarshal(data, &m); err != nil {
			return err
		}
		if m.Container != nil {
			out = append(out, describe(name, m.Container, running[m.Container.Id]))
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return out, err
}

// spec is what is read of an OCI runtime's specification.
type spec struct {
	Hostname string
	Process  struct {
		Args, Env []string
	}
	Linux struct {
		CgroupsPath string
		Resources   struct {
			Memory struct{ Limit int64 }
			CPU    struct {
				Quota  int64
				Period uint64
			}
		}
	}
}

func describe(namespace string, in *containerdv1.Container, task *containerdv1.Process) *Container {
	c := &Container{Namespace: namespace, ID: in.Id, Image: in.Image, Labels: maps.Clone(in.Labels), State: Created}
	if in.CreatedAt != nil {
		c.CreatedMs = in.CreatedAt.AsTime().UnixMilli()
	}
	var s spec
	if in.Spec != nil && json.Unmarshal(in.Spec.Value, &s) == nil {
		c.Hostname, c.Command, c.Env, c.Cgroup = s.Hostname, strings.Join(s.Process.Args, " "), s.Process.Env, s.Linux.CgroupsPath
		c.MemLimit = max(0, s.Linux.Resources.Memory.Limit)
		if cpu := s.Linux.Resources.CPU; cpu.Quota > 0 && cpu.Period > 0 {
			c.CPUs = float64(cpu.Quota) / float64(cpu.Period)
		}
	}
	c.Name = firstOf(c.Labels, "nerdctl/name", "io.kubernetes.container.name", "com.docker.compose.service")
	c.Sandbox = c.Labels["io.cri-containerd.kind"] == "sandbox"
	if task == nil {
		return c
	}
	c.Pid, c.Stdout, c.Stderr = int(task.Pid), task.Stdout, task.Stderr
	switch task.Status {
	case containerdv1.Status_RUNNING:
		c.State = Running
	case containerdv1.Status_PAUSED, containerdv1.Status_PAUSING:
		c.State = Paused
	case containerdv1.Status_STOPPED:
		c.State, c.ExitCode, c.Pid = Exited, int(task.ExitStatus), 0
		if task.ExitedAt != nil {
			c.EndedMs = task.ExitedAt.AsTime().UnixMilli()
		}
	}
	return c
}

func firstOf(labels map[string]string, keys ...string) string {
	for _, k := range keys {
		if v := labels[k]; v != "" {
			return v
		}
	}
	return ""
}

// cri lists what the runtime tells Kubernetes.
func (c *Client) cri(ctx context.Context) ([]*Container, error) {
	var list criv1.ListContainersResponse
	if err := c.conn.call(ctx, "/runtime.v1.RuntimeService/ListContainers", "", &criv1.Empty{}, &list); err != nil {
		return nil, err
	}
	var pods criv1.ListPodSandboxResponse
	if err := c.conn.call(ctx, "/runtime.v1.RuntimeService/ListPodSandbox", "", &criv1.Empty{}, &pods); err != nil {
		return nil, err
	}
	var out []*Container
	sandboxes := map[string]*criv1.PodSandbox{}
	for _, p := range pods.Items[:min(len(pods.Items), Max)] {
		sandboxes[p.Id] = p
		s := &Container{ID: p.Id, Name: "POD", Sandbox: true, Kube: true, State: Running, CreatedMs: p.CreatedAt / 1e6, Labels: podLabels(p.Labels, p)}
		if p.State != criv1.PodSandboxState_SANDBOX_READY {
			s.State = Exited
		}
		out = append(out, s)
	}
	for _, k := range list.Containers[:min(len(list.Containers), Max)] {
		m := &Container{ID: k.Id, Kube: true, Name: k.GetMetadata().GetName(), Restarts: int(k.GetMetadata().GetAttempt()), CreatedMs: k.CreatedAt / 1e6, State: Created}
		m.Image = k.GetImage().GetUserSpecifiedImage()
		if m.Image == "" {
			m.Image = k.GetImage().GetImage()
		}
		switch k.State {
		case criv1.ContainerState_CONTAINER_RUNNING:
			m.State = Running
		case criv1.ContainerState_CONTAINER_EXITED:
			m.State = Exited
		}
		m.Labels = podLabels(k.Labels, sandboxes[k.PodSandboxId])
		if m.Labels["io.kubernetes.container.name"] == "" && m.Name != "" {
			m.Labels["io.kubernetes.container.name"] = m.Name
		}
		out = append(out, m)
	}
	return out, nil
}

// podLabels adds what the sandbox knows of the pod.
func podLabels(own map[string]string, p *criv1.PodSandbox) map[string]string {
	labels := maps.Clone(own)
	if labels == nil {
		labels = map[string]string{}
	}
	for key, value := range map[string]string{
		"io.kubernetes.pod.name": p.GetMetadata().GetName(), "io.kubernetes.pod.uid": p.GetMetadata().GetUid(),
		"io.kubernetes.pod.namespace": p.GetMetadata().GetNamespace(),
	} {
		if labels[key] == "" && value != "" {
			labels[key] = value
		}
	}
	return labels
}

// merge adds to what containerd says what CRI knows besides: which start this is, the image's name where containerd's is only
// a digest, the pod of a container whose labels do not say it.
func merge(native, kubes []*Container) []*Container {
	byID := make(map[string]*Container, len(native))
	for _, c := range native {
		if c.Namespace == "k8s.io" {
			byID[c.ID] = c
		}
	}
	for _, k := range kubes {
		c := byID[k.ID]
		if c == nil {
			native = append(native, k)
			continue
		}
		c.Restarts, c.Kube = k.Restarts, true
		if c.State == Created { // has no task: only CRI tells whether it had one
			c.State = k.State
		}
		if c.Name == "" {
			c.Name = k.Name
		}
		if strings.HasPrefix(c.Image, "sha256:") && k.Image != "" {
			c.Image = k.Image
		}
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		for key, v := range k.Labels {
			if c.Labels[key] == "" {
				c.Labels[key] = v
			}
		}
	}
	slices.SortStableFunc(native, func(a, b *Container) int { return strings.Compare(a.ID, b.ID) })
	return native[:min(len(native), Max)]
}
