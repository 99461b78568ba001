package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/dockertest"
)

// runDocker sends a task in Docker's tests' image; change makes it what a case is about.
func (s *site) runDocker(id, command string, change func(task *mesosv1.TaskInfo, info *mesosv1.ContainerInfo)) {
	s.t.Helper()
	task := customTask(id, "")
	task.Executor = nil
	task.Resources = []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 64)}
	task.Command = &mesosv1.CommandInfo{Value: proto.String(command)}
	task.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_DOCKER.Enum(), Docker: &mesosv1.ContainerInfo_DockerInfo{
		Image: proto.String("box:1"), Network: mesosv1.ContainerInfo_DockerInfo_BRIDGE.Enum(),
	}}
	if change != nil {
		change(task, task.Container)
	}
	if !s.master.try(&linkv1.Message{Kind: &linkv1.Message_RunTask{RunTask: &linkv1.RunTask{Framework: testFramework(), Task: task}}}) {
		s.t.Fatal("no link")
	}
}

// stdout waits for what a task writes.
func (s *site) stdout(id, want string) {
	s.t.Helper()
	s.eventually("the output of "+id, func() error {
		out, err := os.ReadFile(s.dir + "/work/slaves/m-S0/frameworks/m-0000/executors/" + id + "/runs/latest/stdout")
		if err != nil || !strings.Contains(string(out), want) {
			return fmt.Errorf("%q %w", out, err)
		}
		return nil
	})
}

// TestProcessKeepsPolicyWithDocker: what an agent's policy refuses fails with a status that says why, and nothing of it is made;
// what it allows is given. The whole way: task, agent process, Engine, status.
func TestProcessKeepsPolicyWithDocker(t *testing.T) {
	t.Parallel()
	e := dockertest.Start(t, dockertest.Options{Bridge: true})
	e.Import("box:1", nil)
	e.Docker("network", "create", "shop")
	data := t.TempDir()
	for d := data; len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
	allowed, outside := filepath.Join(data, "allowed"), filepath.Join(data, "outside")
	for _, d := range []string{allowed, outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "f"), []byte("of "+filepath.Base(d)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(allowed, "link")); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, "--containerizers=docker,mesos", "--docker_socket="+e.Socket, "--docker_remove_delay=0ns", "--refuse_privileged", "--refuse_host_network", "--allowed_host_volumes="+allowed)
	s.linked()

	type change = func(task *mesosv1.TaskInfo, info *mesosv1.ContainerInfo)
	par := func(key, value string) change {
		return func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
			info.Docker.Parameters = []*mesosv1.Parameter{{Key: &key, Value: &value}}
		}
	}
	vol := func(host string) change {
		return func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
			info.Volumes = []*mesosv1.Volume{{ContainerPath: proto.String("/v"), HostPath: &host, Mode: mesosv1.Volume_RW.Enum()}}
		}
	}
	network := func(n mesosv1.ContainerInfo_DockerInfo_Network, name string) change {
		return func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
			info.Docker.Network = n.Enum()
			if name != "" {
				info.NetworkInfos = []*mesosv1.NetworkInfo{{Name: &name}}
			}
		}
	}
	linux := func(l *mesosv1.LinuxInfo) change {
		return func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) { info.LinuxInfo = l }
	}
	capability := func(c mesosv1.CapabilityInfo_Capability) change {
		return linux(&mesosv1.LinuxInfo{BoundingCapabilities: &mesosv1.CapabilityInfo{Capabilities: []mesosv1.CapabilityInfo_Capability{c}}})
	}
	refused := map[string]struct {
		change change
		says   string
	}{
		"privileged":       {func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) { info.Docker.Privileged = proto.Bool(true) }, "privileged containers (--refuse_privileged)"},
		"privileged-param": {par("privileged", "true"), "(--refuse_privileged)"},
		"pid-param":        {par("pid", "host"), "(--refuse_privileged)"},
		"cap-param":        {par("cap-add", "SYS_ADMIN"), "(--refuse_privileged)"},
		"device-param":     {par("device", "/dev/kmsg"), "(--refuse_privileged)"},
		"capability":       {capability(mesosv1.CapabilityInfo_SYS_ADMIN), "SYS_ADMIN"},
		"pid-namespace":    {linux(&mesosv1.LinuxInfo{SharePidNamespace: proto.Bool(true)}), "PID namespace (--refuse_privileged)"},
		"ipc-namespace":    {linux(&mesosv1.LinuxInfo{IpcMode: mesosv1.LinuxInfo_SHARE_PARENT.Enum()}), "IPC namespace (--refuse_privileged)"},
		"seccomp":          {linux(&mesosv1.LinuxInfo{Seccomp: &mesosv1.SeccompInfo{Unconfined: proto.Bool(true)}}), "seccomp profile (--refuse_privileged)"},
		"host-network":     {network(mesosv1.ContainerInfo_DockerInfo_HOST, ""), "(--refuse_host_network)"},
		"host-by-name":     {network(mesosv1.ContainerInfo_DockerInfo_USER, "host"), "(--refuse_host_network)"},
		"anothers-network": {network(mesosv1.ContainerInfo_DockerInfo_USER, "container:x"), "(--refuse_host_network)"},
		"host-param":       {par("net", "host"), "(--refuse_host_network)"},
		"volume":           {vol(outside), "(--allowed_host_volumes: " + allowed + ")"},
		"volume-made":      {vol(data + "/new"), "(--allowed_host_volumes: " + allowed + ")"},
		"volume-dots":      {vol(allowed + "/../outside"), "(--allowed_host_volumes: " + allowed + ")"},
		"volume-link":      {vol(allowed + "/link"), "a link leads out of " + allowed},
		"volume-param":     {par("volume", outside+":/v"), "(--allowed_host_volumes: " + allowed + ")"},
		"mount-param":      {par("mount", "type=bind,source="+outside+",target=/v"), "(--allowed_host_volumes: " + allowed + ")"},
		"volumes-from":     {par("volumes-from", "x"), "(--allowed_host_volumes)"},
		"driver-options": {func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
			info.Volumes = []*mesosv1.Volume{{ContainerPath: proto.String("/v"), Mode: mesosv1.Volume_RW.Enum(), Source: &mesosv1.Volume_Source{
				Type: mesosv1.Volume_Source_DOCKER_VOLUME.Enum(), DockerVolume: &mesosv1.Volume_Source_DockerVolume{
					Driver: proto.String("local"), Name: proto.String("sly"), DriverOptions: &mesosv1.Parameters{Parameter: []*mesosv1.Parameter{
						{Key: proto.String("type"), Value: proto.String("none")}, {Key: proto.String("device"), Value: &outside}, {Key: proto.String("o"), Value: proto.String("bind")},
					}},
				},
			}}}
		}, "driver's options (--allowed_host_volumes)"},
	}
	for id, c := range refused {
		s.runDocker(id, "sleep 1000", c.change)
	}
	for id, c := range refused {
		st := s.await(id, mesosv1.TaskState_TASK_FAILED)
		if st.GetReason() != mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED || !strings.Contains(st.GetMessage(), c.says) {
			t.Errorf("%s: %v %q, want %q in it", id, st.GetReason(), st.GetMessage(), c.says)
		}
	}
	if made := e.Docker("ps", "-aq") + e.Docker("volume", "ls", "-q"); made != "" {
		t.Errorf("something was made for what was refused: %q", made)
	}
	if there, _ := os.ReadDir(data); len(there) != 2 {
		t.Errorf("a directory was made for what was refused: %v", there)
	}

	status := "cat /v/f; grep CapBnd /proc/self/status; ip addr; sleep 1000"
	s.runDocker("allowed", status, vol(allowed))
	s.runDocker("allowed-param", status, par("volume", allowed+":/v:ro"))
	s.runDocker("allowed-network", "hostname; sleep 1000", func(task *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
		network(mesosv1.ContainerInfo_DockerInfo_USER, "shop")(task, info)
		info.Docker.Parameters = []*mesosv1.Parameter{{Key: proto.String("hostname"), Value: proto.String("given")}}
	})
	s.runDocker("allowed-capability", "grep CapBnd /proc/self/status; sleep 1000", capability(mesosv1.CapabilityInfo_CHOWN))
	for id, want := range map[string]string{"allowed": "of allowed", "allowed-param": "of allowed", "allowed-network": "given", "allowed-capability": "CapBnd:\t0000000000000001"} {
		s.await(id, running)
		s.stdout(id, want)
	}
	if networks := e.Docker("network", "inspect", "-f", "{{len .Containers}}", "shop"); networks != "1" {
		t.Errorf("%s containers are in the network shop", networks)
	}
	for _, id := range []string{"allowed", "allowed-param", "allowed-network", "allowed-capability"} {
		s.kill(id)
		s.await(id, mesosv1.TaskState_TASK_KILLED)
	}
	s.eventually("nothing is left in Docker", func() error {
		if left := e.Docker("ps", "-aq"); left != "" {
			return fmt.Errorf("left: %q", left)
		}
		return nil
	})
}
