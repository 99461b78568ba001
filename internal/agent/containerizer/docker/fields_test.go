package docker

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// seen is a running container as the Engine and the kernel show it.
type seen struct {
	t   *testing.T
	h   *host
	d   *daemon
	cfg containerizer.Config
	dcontainer.InspectResponse
}

// proc reads a file of the container's first process.
func (s *seen) proc(name string) string {
	return read(s.t, "/proc", strconv.Itoa(s.State.Pid), name)
}

// file reads a file as the container sees it.
func (s *seen) file(path string) string {
	return read(s.t, "/proc", strconv.Itoa(s.State.Pid), "root", path)
}

// group reads a value of the container's control group (v1), or the v2 one of the same meaning.
func (s *seen) group(controller, v1, v2 string) string {
	if b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, s.h.e.CgroupParent, s.ID, v1)); err == nil {
		return strings.TrimSpace(string(b))
	}
	return strings.TrimSpace(read(s.t, "/sys/fs/cgroup", s.h.e.CgroupParent, s.ID, v2))
}

func (s *seen) want(what, got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func (s *seen) has(what, got, part string) {
	s.t.Helper()
	if !strings.Contains(got, part) {
		s.t.Errorf("%s: %q is not in %q", what, part, got)
	}
}

func (s *seen) ns(kind string) string {
	l, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", s.State.Pid, kind))
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

func ownNS(t *testing.T, kind string) string {
	l, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func param(key, value string) *mesosv1.Parameter {
	return &mesosv1.Parameter{Key: &key, Value: &value}
}

func secret(data string) *mesosv1.Secret {
	return &mesosv1.Secret{Type: mesosv1.Secret_VALUE.Enum(), Value: &mesosv1.Secret_Value{Data: []byte(data)}}
}

func rlimit(typ mesosv1.RLimitInfo_RLimit_Type, soft, hard uint64) *mesosv1.RLimitInfo {
	return &mesosv1.RLimitInfo{Rlimits: []*mesosv1.RLimitInfo_RLimit{{Type: &typ, Soft: &soft, Hard: &hard}}}
}

func capabilities(cs ...mesosv1.CapabilityInfo_Capability) *mesosv1.CapabilityInfo {
	return &mesosv1.CapabilityInfo{Capabilities: cs}
}

func volume(at string, mode mesosv1.Volume_Mode, hostPath string, src *mesosv1.Volume_Source) *mesosv1.Volume {
	v := &mesosv1.Volume{ContainerPath: &at, Mode: &mode, Source: src}
	if hostPath != "" {
		v.HostPath = &hostPath
	}
	return v
}

const (
	rw     = mesosv1.Volume_RW
	ro     = mesosv1.Volume_RO
	onHost = mesosv1.ContainerInfo_DockerInfo_HOST
	bridge = mesosv1.ContainerInfo_DockerInfo_BRIDGE
	none   = mesosv1.ContainerInfo_DockerInfo_NONE
	byName = mesosv1.ContainerInfo_DockerInfo_USER
)

// fieldRow is one field of a task, and what is to be seen of it.
type fieldRow struct {
	name string
	make func(ti *mesosv1.TaskInfo, info *mesosv1.ContainerInfo)
	see  func(s *seen)
}

// fieldRows has a row for every field of ContainerInfo, DockerInfo, Volume, and of the command and the resources. data is a
// directory of the host with a file f.
func fieldRows(h *host, d *daemon, data string) []fieldRow {
	dir := h.dir
	limit := func(v float64) *mesosv1.Value_Scalar { return &mesosv1.Value_Scalar{Value: &v} }
	docker := func(f func(d *mesosv1.ContainerInfo_DockerInfo)) func(*mesosv1.TaskInfo, *mesosv1.ContainerInfo) {
		return func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) { f(info.Docker) }
	}
	vol := func(v *mesosv1.Volume) func(*mesosv1.TaskInfo, *mesosv1.ContainerInfo) {
		return func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) { info.Volumes = append(info.Volumes, v) }
	}
	res := func(limits map[string]*mesosv1.Value_Scalar, rs ...*mesosv1.Resource) func(*mesosv1.TaskInfo, *mesosv1.ContainerInfo) {
		return func(ti *mesosv1.TaskInfo, _ *mesosv1.ContainerInfo) { ti.Resources, ti.Limits = rs, limits }
	}
	linux := func(l *mesosv1.LinuxInfo) func(*mesosv1.TaskInfo, *mesosv1.ContainerInfo) {
		return func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) { info.LinuxInfo = l }
	}
	holder := func() string {
		l := ""
		h.e.InNetwork(func() { l, _ = os.Readlink("/proc/thread-self/ns/net") })
		return l
	}
	return []fieldRow{
		{"docker.image", docker(func(*mesosv1.ContainerInfo_DockerInfo) {}), func(s *seen) {
			s.want("image", s.Config.Image, box)
			s.want("name", s.Name, "/mesos-"+string(s.cfg.ID))
			s.want("label", s.Config.Labels["MESOS_TASK_ID"], string(s.cfg.ID))
			s.want("mark", s.Config.Labels[labelAgent], d.mark)
			s.want("restart policy", string(s.HostConfig.RestartPolicy.Name), "")
		}},
		{"docker.network HOST", docker(func(d *mesosv1.ContainerInfo_DockerInfo) { d.Network = onHost.Enum() }), func(s *seen) {
			s.want("network namespace", s.ns("net"), holder())
		}},
		{"docker.network unset", docker(func(d *mesosv1.ContainerInfo_DockerInfo) { d.Network = nil }), func(s *seen) {
			s.want("network namespace", s.ns("net"), holder())
		}},
		{"docker.network BRIDGE", docker(func(d *mesosv1.ContainerInfo_DockerInfo) { d.Network = bridge.Enum() }), func(s *seen) {
			s.has("interfaces", s.proc("net/dev"), "eth0")
			st, _ := d.Status(s.cfg.ID)
			s.want("address", st.GetNetworkInfos()[0].GetIpAddresses()[0].GetIpAddress(), s.NetworkSettings.Networks["bridge"].IPAddress.String())
			u := d.untilState(s.cfg.ID, mesosv1.TaskState_TASK_RUNNING)
			s.want("label", u.GetLabels().GetLabels()[0].GetKey()+"="+u.GetLabels().GetLabels()[0].GetValue(), "Docker.NetworkSettings.IPAddress="+s.NetworkSettings.Networks["bridge"].IPAddress.String())
		}},
		{"docker.network NONE", docker(func(d *mesosv1.ContainerInfo_DockerInfo) { d.Network = none.Enum() }), func(s *seen) {
			if dev := s.proc("net/dev"); strings.Contains(dev, "eth0") || !strings.Contains(dev, "lo:") {
				s.t.Errorf("interfaces: %s", dev)
			}
		}},
		{"docker.network USER, network_infos.name", func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
			info.Docker.Network = byName.Enum()
			info.NetworkInfos = []*mesosv1.NetworkInfo{{Name: ptr("shop")}}
		}, func(s *seen) {
			if s.NetworkSettings.Networks["shop"] == nil {
				s.t.Errorf("%v", s.NetworkSettings.Networks)
			}
			st, _ := d.Status(s.cfg.ID)
			s.want("network", st.GetNetworkInfos()[0].GetName(), "shop")
		}},
		{"network_infos.ip_addresses", func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
			info.Docker.Network = byName.Enum()
			info.NetworkInfos = []*mesosv1.NetworkInfo{{Name: ptr("fixed"), IpAddresses: []*mesosv1.NetworkInfo_IPAddress{{Protocol: mesosv1.NetworkInfo_IPv4.Enum(), IpAddress: ptr("10.211.0.77")}}}}
		}, func(s *seen) { s.has("addresses", s.proc("net/fib_trie"), "10.211.0.77") }},
		{"docker.port_mappings", func(ti *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
			ti.Command = shell("mkdir /www; httpd -p 8080 -h /www; sleep 1000")
			ti.Resources = append(ti.Resources, ports(31000, 31005))
			info.Docker.Network = bridge.Enum()
			info.Docker.PortMappings = []*mesosv1.ContainerInfo_DockerInfo_PortMapping{
				{HostPort: ptr(uint32(31000)), ContainerPort: ptr(uint32(8080))},
				{HostPort: ptr(uint32(31001)), ContainerPort: ptr(uint32(53)), Protocol: ptr("UDP")},
			}
		}, func(s *seen) {
			s.has("ports", asJSON(s.HostConfig.PortBindings), `"53/udp":[{"HostIp":"","HostPort":"31001"}]`)
			eventually(s.t, "the port answers", func() bool {
				var err error
				h.e.InNetwork(func() {
					var c net.Conn
					if c, err = net.DialTimeout("tcp", "127.0.0.1:31000", time.Second); err == nil {
						c.Close()
					}
				})
				return err == nil
			})
		}},
		{"docker.volume_driver", func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
			info.Docker.VolumeDriver = ptr("local")
			info.Volumes = []*mesosv1.Volume{volume("/vol", rw, "named-by-driver", nil)}
		}, func(s *seen) { s.has("mounts", asJSON(s.Mounts), `"Name":"named-by-driver"`) }},
		{"hostname", func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
			info.Docker.Network, info.Hostname = bridge.Enum(), ptr("shop.example")
		}, func(s *seen) { s.want("hostname", strings.TrimSpace(s.file("/etc/hostname")), "shop.example") }},
		{"volumes: the sandbox", func(ti *mesosv1.TaskInfo, _ *mesosv1.ContainerInfo) {
			ti.Command = shell("echo hi > /mnt/mesos/sandbox/f; sleep 1000")
		}, func(s *seen) {
			eventually(s.t, "the file is in the sandbox", func() bool {
				b, err := os.ReadFile(filepath.Join(s.cfg.Directory, "f"))
				return err == nil && string(b) == "hi\n"
			})
		}},
		{"volume.host_path", vol(volume("/data", rw, data, nil)), func(s *seen) { s.want("file", s.file("/data/f"), "of the host") }},
		{"volume.host_path is made", vol(volume("/made", rw, filepath.Join(h.dir, "not-there-yet"), nil)), func(s *seen) {
			if _, err := os.Stat(filepath.Join(h.dir, "not-there-yet")); err != nil {
				s.t.Error(err)
			}
		}},
		{"volume.host_path with a colon", vol(volume("/a:b", ro, data, nil)), func(s *seen) { s.want("file", s.file("/a:b/f"), "of the host") }},
		{"volume.mode RO", vol(volume("/data", ro, data, nil)), func(s *seen) { s.has("mounts", s.proc("mountinfo"), " /data ro,") }},
		{"volume.host_path below the sandbox", vol(volume("/cache", rw, "some/cache", nil)), func(s *seen) {
			if err := os.WriteFile(filepath.Join(s.cfg.Directory, "some/cache/x"), []byte("1"), 0o644); err != nil {
				s.t.Fatal(err)
			}
			s.want("file", s.file("/cache/x"), "1")
		}},
		{"volume.container_path in the sandbox", vol(volume("in/here", ro, data, nil)), func(s *seen) {
			s.want("file", s.file("/mnt/mesos/sandbox/in/here/f"), "of the host")
		}},
		{"volume without a source", vol(volume("/anonymous", rw, "", nil)), func(s *seen) { s.has("mounts", asJSON(s.Mounts), `"Destination":"/anonymous"`) }},
		{"volume.source HOST_PATH", vol(volume("/data", rw, "", &mesosv1.Volume_Source{
			Type: mesosv1.Volume_Source_HOST_PATH.Enum(), HostPath: &mesosv1.Volume_Source_HostPath{Path: &data},
		})), func(s *seen) { s.want("file", s.file("/data/f"), "of the host") }},
		{"volume.source SANDBOX_PATH", vol(volume("/own", rw, "", &mesosv1.Volume_Source{
			Type: mesosv1.Volume_Source_SANDBOX_PATH.Enum(), SandboxPath: &mesosv1.Volume_Source_SandboxPath{Type: mesosv1.Volume_Source_SandboxPath_SELF.Enum(), Path: ptr("p")},
		})), func(s *seen) { s.has("binds", asJSON(s.HostConfig.Binds), s.cfg.Directory+"/p:/own") }},
		{"volume.source DOCKER_VOLUME", vol(volume("/vol", ro, "", &mesosv1.Volume_Source{
			Type: mesosv1.Volume_Source_DOCKER_VOLUME.Enum(), DockerVolume: &mesosv1.Volume_Source_DockerVolume{
				Driver: ptr("local"), Name: ptr("with-options"),
				DriverOptions: &mesosv1.Parameters{Parameter: []*mesosv1.Parameter{param("type", "tmpfs"), param("device", "tmpfs")}},
			},
		})), func(s *seen) {
			s.has("mountinfo", s.proc("mountinfo"), " /vol ro,")
			s.has("options", h.e.Docker("volume", "inspect", "with-options"), `"type": "tmpfs"`)
		}},
		{"volume.source SECRET", vol(volume("/run/secret", ro, "", &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_SECRET.Enum(), Secret: secret("hunter2")})), func(s *seen) {
			s.want("file", s.file("/run/secret"), "hunter2")
			if strings.Contains(h.e.Docker("inspect", "mesos-"+string(s.cfg.ID)), "hunter2") {
				s.t.Error("docker inspect shows the secret")
			}
		}},
		{"persistent volume", func(ti *mesosv1.TaskInfo, _ *mesosv1.ContainerInfo) {
			r := scalar("disk", 10)
			r.Reservations = []*mesosv1.Resource_ReservationInfo{{Type: mesosv1.Resource_ReservationInfo_STATIC.Enum(), Role: ptr("a/b")}}
			r.Disk = &mesosv1.Resource_DiskInfo{Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: ptr("p1")}, Volume: volume("kept", rw, "", nil)}
			ti.Resources = append(ti.Resources, r)
			ti.Command = shell("echo 1 > /mnt/mesos/sandbox/kept/x; sleep 1000")
		}, func(s *seen) {
			eventually(s.t, "it is in the volume", func() bool {
				_, err := os.Stat(filepath.Join(h.dir, "work/volumes/roles/a b/p1/x"))
				return err == nil
			})
		}},
		{"persistent volume, shared and grown", func(ti *mesosv1.TaskInfo, _ *mesosv1.ContainerInfo) {
			// What another task, with a smaller share of the same volume, has written.
			kept := filepath.Join(dir, "work/volumes/roles/r/p2")
			if h.e != nil {
				if err := errors.Join(os.MkdirAll(kept, 0o755), os.WriteFile(filepath.Join(kept, "x"), []byte("before"), 0o644)); err != nil {
					h.t.Fatal(err)
				}
			}
			r := scalar("disk", 20)
			r.Reservations = []*mesosv1.Resource_ReservationInfo{{Type: mesosv1.Resource_ReservationInfo_STATIC.Enum(), Role: ptr("r")}}
			r.Shared = &mesosv1.Resource_SharedInfo{}
			r.Disk = &mesosv1.Resource_DiskInfo{Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: ptr("p2")}, Volume: volume("/kept", ro, "", nil)}
			ti.Resources = append(ti.Resources, r)
		}, func(s *seen) {
			s.want("file", s.file("/kept/x"), "before")
			s.has("mounts", s.proc("mountinfo"), " /kept ro,")
		}},
		{"persistent volumes on disks of their own", func(ti *mesosv1.TaskInfo, _ *mesosv1.ContainerInfo) {
			on := func(id, at string, src *mesosv1.Resource_DiskInfo_Source) {
				r := scalar("disk", 10)
				r.Reservations = []*mesosv1.Resource_ReservationInfo{{Type: mesosv1.Resource_ReservationInfo_STATIC.Enum(), Role: ptr("r")}}
				r.Disk = &mesosv1.Resource_DiskInfo{Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: ptr(id)}, Volume: volume(at, rw, "", nil), Source: src}
				ti.Resources = append(ti.Resources, r)
			}
			on("p3", "mounted", &mesosv1.Resource_DiskInfo_Source{Type: mesosv1.Resource_DiskInfo_Source_MOUNT.Enum(), Mount: &mesosv1.Resource_DiskInfo_Source_Mount{Root: ptr(filepath.Join(dir, "disk1"))}})
			on("p4", "beside", &mesosv1.Resource_DiskInfo_Source{Type: mesosv1.Resource_DiskInfo_Source_PATH.Enum(), Path: &mesosv1.Resource_DiskInfo_Source_Path{Root: ptr(filepath.Join(dir, "disk2"))}})
			ti.Command = shell("echo 1 > /mnt/mesos/sandbox/mounted/x; echo 2 > /mnt/mesos/sandbox/beside/x; sleep 1000")
		}, func(s *seen) {
			eventually(s.t, "it is on the disks", func() bool {
				one, _ := os.ReadFile(filepath.Join(dir, "disk1/x"))
				two, _ := os.ReadFile(filepath.Join(dir, "disk2/volumes/roles/r/p4/x"))
				return string(one) == "1\n" && string(two) == "2\n"
			})
		}},
		{"rlimit_info", func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
			info.RlimitInfo = rlimit(mesosv1.RLimitInfo_RLimit_RLMT_NOFILE, 123, 456)
		}, func(s *seen) {
			s.has("limits", strings.Join(strings.Fields(s.proc("limits")), " "), "Max open files 123 456")
		}},
		{"linux_info.bounding_capabilities", linux(&mesosv1.LinuxInfo{BoundingCapabilities: capabilities(mesosv1.CapabilityInfo_NET_BIND_SERVICE)}), func(s *seen) {
			s.has("capabilities", s.proc("status"), "CapBnd:\t0000000000000400")
		}},
		{"linux_info.effective_capabilities", linux(&mesosv1.LinuxInfo{EffectiveCapabilities: capabilities(mesosv1.CapabilityInfo_NET_ADMIN)}), func(s *seen) {
			s.has("capabilities", s.proc("status"), "CapEff:\t0000000000001000")
		}},
		{"linux_info.effective_capabilities, bounding_capabilities", linux(&mesosv1.LinuxInfo{
			EffectiveCapabilities: capabilities(mesosv1.CapabilityInfo_CHOWN, mesosv1.CapabilityInfo_KILL), BoundingCapabilities: capabilities(mesosv1.CapabilityInfo_KILL, mesosv1.CapabilityInfo_CHOWN),
		}), func(s *seen) { s.has("capabilities", s.proc("status"), "CapEff:\t0000000000000021") }},
		{"linux_info.capability_info", linux(&mesosv1.LinuxInfo{CapabilityInfo: capabilities(mesosv1.CapabilityInfo_CHOWN)}), func(s *seen) {
			s.has("capabilities", s.proc("status"), "CapEff:\t0000000000000001")
		}},
		{"linux_info shm_size", func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
			info.LinuxInfo = &mesosv1.LinuxInfo{IpcMode: mesosv1.LinuxInfo_PRIVATE.Enum(), ShmSize: ptr(uint32(7))}
		}, func(s *seen) { s.has("mounts", s.proc("mountinfo"), "size=7168k") }},
		{"linux_info share_pid_namespace", func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
			info.LinuxInfo = &mesosv1.LinuxInfo{SharePidNamespace: ptr(true)}
		}, func(s *seen) { s.want("pid namespace", s.ns("pid"), ownNS(s.t, "pid")) }},
		{"linux_info ipc_mode, seccomp", func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
			info.LinuxInfo = &mesosv1.LinuxInfo{IpcMode: mesosv1.LinuxInfo_SHARE_PARENT.Enum(), Seccomp: &mesosv1.SeccompInfo{Unconfined: ptr(true)}}
		}, func(s *seen) {
			s.want("ipc namespace", s.ns("ipc"), ownNS(s.t, "ipc"))
			s.has("seccomp", s.proc("status"), "Seccomp:\t0")
		}},
		{"tty_info", func(_ *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) { info.TtyInfo = &mesosv1.TTYInfo{} }, func(s *seen) {
			s.want("tty", fmt.Sprint(s.Config.Tty, s.Config.OpenStdin), "true true")
		}},
		{"tty_info.window_size", func(ti *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
			info.TtyInfo = &mesosv1.TTYInfo{WindowSize: &mesosv1.TTYInfo_WindowSize{Rows: ptr(uint32(33)), Columns: ptr(uint32(77))}}
			ti.Command = shell(`until [ "$(stty size)" = "33 77" ]; do sleep 0.05; done; touch /mnt/mesos/sandbox/fits; sleep 1000`)
		}, func(s *seen) {
			eventually(s.t, "the terminal has the size", func() bool { _, err := os.Stat(filepath.Join(s.cfg.Directory, "fits")); return err == nil })
		}},
		{"command: value and arguments", func(ti *mesosv1.TaskInfo, _ *mesosv1.ContainerInfo) {
			ti.Command = &mesosv1.CommandInfo{Shell: ptr(false), Value: ptr("sleep"), Arguments: []string{"1000"}}
		}, func(s *seen) { s.want("argv", s.proc("cmdline"), "sleep\x001000\x00") }},
		{"command: the image's own", func(ti *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
			ti.Command, info.Docker.Image = &mesosv1.CommandInfo{Shell: ptr(false)}, ptr("entry:1")
		}, func(s *seen) {
			eventually(s.t, "the entry point has run", func() bool { return strings.HasPrefix(s.proc("cmdline"), "/bin/sleep\x001000") })
			env := s.proc("environ")
			s.has("environment", env, "FROM_ENTRYPOINT=1")
			s.has("environment", env, "PATH=/image/path:/bin") // not the host's
		}},
		{"command: the image's entry point with arguments", func(ti *mesosv1.TaskInfo, info *mesosv1.ContainerInfo) {
			ti.Command, info.Docker.Image = &mesosv1.CommandInfo{Shell: ptr(false), Arguments: []string{"X=1", "/bin/sleep", "999"}}, ptr("entry:1")
		}, func(s *seen) {
			eventually(s.t, "the entry point has run", func() bool { return strings.HasPrefix(s.proc("cmdline"), "/bin/sleep\x00999") })
			s.has("environment", s.proc("environ"), "X=1")
		}},
		{"command.environment", func(ti *mesosv1.TaskInfo, _ *mesosv1.ContainerInfo) {
			ti.Command.Environment = &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{
				{Name: ptr("A"), Value: ptr("b=c d")},
				{Name: ptr("TOKEN"), Type: mesosv1.Environment_Variable_SECRET.Enum(), Secret: secret("hunter2")},
			}}
		}, func(s *seen) {
			env := s.proc("environ")
			for _, kv := range []string{"A=b=c d", "TOKEN=hunter2", "MESOS_SANDBOX=/mnt/mesos/sandbox", "MESOS_CONTAINER_NAME=mesos-" + string(s.cfg.ID)} {
				s.has("environment", env, kv+"\x00")
			}
			if strings.Contains(env, "MESOS_AGENT_ENDPOINT") || strings.Contains(env, "/host/path") {
				s.t.Errorf("a task's container has what is an executor's or the host's: %q", env)
			}
			if strings.Contains(string(d.untilState(s.cfg.ID, mesosv1.TaskState_TASK_RUNNING).GetData()), "hunter2") {
				s.t.Error("TASK_RUNNING tells the secret")
			}
		}},
		{"resources", res(nil, scalar("cpus", 0.5), scalar("mem", 64)), func(s *seen) {
			s.want("cpu shares", s.group("cpu", "cpu.shares", "cpu.weight"), map[bool]string{true: "512", false: "20"}[dirExists("/sys/fs/cgroup/cpu")])
			s.want("memory", s.group("memory", "memory.limit_in_bytes", "memory.max"), "67108864")
			s.want("quota", s.group("cpu", "cpu.cfs_quota_us", "cpu.max"), map[bool]string{true: "-1", false: "max 100000"}[dirExists("/sys/fs/cgroup/cpu")])
		}},
		{"resources: at least", res(nil, scalar("cpus", 0.0001), scalar("mem", 1)), func(s *seen) {
			s.want("memory", s.group("memory", "memory.limit_in_bytes", "memory.max"), "33554432")
			s.want("cpu shares", fmt.Sprint(s.HostConfig.CPUShares), "2")
		}},
		{"limits", res(map[string]*mesosv1.Value_Scalar{"cpus": limit(1.5), "mem": limit(128)}, scalar("cpus", 0.5), scalar("mem", 64)), func(s *seen) {
			s.want("quota", s.group("cpu", "cpu.cfs_quota_us", "cpu.max"), map[bool]string{true: "150000", false: "150000 100000"}[dirExists("/sys/fs/cgroup/cpu")])
			s.want("memory", s.group("memory", "memory.limit_in_bytes", "memory.max"), "134217728")
			s.want("soft limit", s.group("memory", "memory.soft_limit_in_bytes", "memory.low"), "67108864")
		}},
		{"limits: infinite", res(map[string]*mesosv1.Value_Scalar{"cpus": limit(math.Inf(1)), "mem": limit(math.Inf(1))}, scalar("cpus", 0.5), scalar("mem", 64)), func(s *seen) {
			s.want("memory", fmt.Sprint(s.HostConfig.Memory, s.HostConfig.MemoryReservation, s.HostConfig.CPUQuota), "0 67108864 0")
		}},
	}
}

// TestFields reads every field back from the Engine and from the kernel.
func TestFields(t *testing.T) {
	t.Parallel()
	h := newHost(t, dockertest.Options{Bridge: true})
	h.e.Import("entry:1", nil, "ENTRYPOINT [\"/bin/env\", \"FROM_ENTRYPOINT=1\"]", "CMD [\"/bin/sleep\", \"1000\"]", "ENV PATH=/image/path:/bin", "USER nobody")
	h.e.Docker("network", "create", "shop")
	h.e.Docker("network", "create", "--subnet=10.211.0.0/24", "fixed")
	data := filepath.Join(h.dir, "data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "f"), []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := h.start(nil)
	rows := fieldRows(h, d, data)
	t.Run("rows", func(t *testing.T) {
		slots := make(chan struct{}, 6)
		for i, r := range rows {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				slots <- struct{}{}
				defer func() { <-slots }()
				id := ids.Container(fmt.Sprintf("row%d", i))
				ti := &mesosv1.TaskInfo{Command: shell("sleep 1000"), Container: hostNet(), Resources: []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 32)}}
				r.make(ti, ti.Container)
				cfg := d.task(id, ti)
				if err := d.Launch(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
				s := &seen{t, h, d, cfg, d.inspect(id)}
				// Docker says that it runs when its runtime is still about to become the command.
				eventually(t, "the command has been executed", func() bool { return !strings.Contains(s.proc("environ"), "_LIBCONTAINER_") })
				r.see(s)
				_ = d.Destroy(t.Context(), id)
				d.wait(id)
			})
		}
	})
	d.end()
	if left := h.e.Docker("ps", "-aq"); left != "" {
		t.Errorf("containers left: %s", left)
	}
}

func dirExists(p string) bool {
	fi, err := os.Stat(p)
	return err == nil && fi.IsDir()
}

// refusal makes something of a container that can't be given.
type refusal = func(cfg *containerizer.Config, info *mesosv1.ContainerInfo)

// refusals is what can't be given, by a part of the reason.
func refusals() map[string]refusal {
	par := func(key, value string) refusal {
		return func(_ *containerizer.Config, info *mesosv1.ContainerInfo) {
			info.Docker.Parameters = []*mesosv1.Parameter{param(key, value)}
		}
	}
	vol := func(v *mesosv1.Volume) refusal {
		return func(_ *containerizer.Config, info *mesosv1.ContainerInfo) { info.Volumes = []*mesosv1.Volume{v} }
	}
	mapping := func(n mesosv1.ContainerInfo_DockerInfo_Network, host, in uint32, proto string) refusal {
		return func(cfg *containerizer.Config, info *mesosv1.ContainerInfo) {
			cfg.Resources = []*mesosv1.Resource{ports(31000, 31001)}
			info.Docker.Network = n.Enum()
			info.Docker.PortMappings = []*mesosv1.ContainerInfo_DockerInfo_PortMapping{{HostPort: &host, ContainerPort: &in, Protocol: &proto}}
		}
	}
	return map[string]refusal{
		"containers of type DOCKER only": func(_ *containerizer.Config, info *mesosv1.ContainerInfo) {
			info.Type = mesosv1.ContainerInfo_MESOS.Enum()
		},
		"docker is not set":           func(_ *containerizer.Config, info *mesosv1.ContainerInfo) { info.Docker = nil },
		"image is empty":              func(_ *containerizer.Config, info *mesosv1.ContainerInfo) { info.Docker.Image = ptr(" ") },
		"task groups":                 func(cfg *containerizer.Config, _ *mesosv1.ContainerInfo) { cfg.Kind = containerizer.DefaultExecutor },
		"standalone containers":       func(cfg *containerizer.Config, _ *mesosv1.ContainerInfo) { cfg.Kind = containerizer.Standalone },
		"not HOST":                    mapping(onHost, 31000, 80, "tcp"),
		"not NONE":                    mapping(none, 31000, 80, "tcp"),
		"not among the task's ports":  mapping(bridge, 8080, 80, "tcp"),
		"known are tcp, udp and sctp": mapping(bridge, 31000, 80, "icmp"),
		"ports are 1 to 65535":        mapping(bridge, 31000, 70000, "tcp"),
		"exactly one network_infos":   func(_ *containerizer.Config, info *mesosv1.ContainerInfo) { info.Docker.Network = byName.Enum() },
		"GPUs": func(cfg *containerizer.Config, _ *mesosv1.ContainerInfo) {
			cfg.Resources = []*mesosv1.Resource{scalar("gpus", 1)}
		},
		"it is not known here":       par("frobnicate", "1"),
		"agent names its containers": par("name", "x"),
		"framework decides":          par("restart", "always"),
		"neither true nor false":     par("privileged", "perhaps"),
		"NAME=value":                 par("env", "HOME"),
		"no rate":                    par("device-write-bps", "/dev/sda:fast"),
		"ranges are not given":       par("publish", "80-90:80"),
		"absolute target":            par("mount", "type=tmpfs,target=x"),
		"source:/target":             par("volume", "a:b"),
		"container_path is empty":    vol(volume("", rw, "/x", nil)),
		"without '..'":               vol(volume("../../etc", rw, "/x", nil)),
		"both paths are relative":    vol(volume("a", rw, "b", nil)),
		"its source must be":         vol(volume("/a", rw, "../../../etc", nil)),
		"from images":                vol(&mesosv1.Volume{ContainerPath: ptr("/a"), Mode: rw.Enum(), Image: &mesosv1.Image{}}),
		"type CSI_VOLUME":            vol(volume("/a", rw, "", &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_CSI_VOLUME.Enum(), CsiVolume: &mesosv1.Volume_Source_CSIVolume{}})),
		"has no parent": vol(volume("/a", rw, "", &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_SANDBOX_PATH.Enum(), SandboxPath: &mesosv1.Volume_Source_SandboxPath{
			Type: mesosv1.Volume_Source_SandboxPath_PARENT.Enum(), Path: ptr("x"),
		}})),
		"no resolver of secrets": vol(volume("/a", rw, "", &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_SECRET.Enum(), Secret: &mesosv1.Secret{
			Type: mesosv1.Secret_REFERENCE.Enum(), Reference: &mesosv1.Secret_Reference{Name: ptr("db")},
		}})),
		"different effective and bounding": func(_ *containerizer.Config, info *mesosv1.ContainerInfo) {
			info.LinuxInfo = &mesosv1.LinuxInfo{EffectiveCapabilities: capabilities(mesosv1.CapabilityInfo_CHOWN), BoundingCapabilities: capabilities(mesosv1.CapabilityInfo_CHOWN, mesosv1.CapabilityInfo_KILL)}
		},
		"seccomp profiles by name": func(_ *containerizer.Config, info *mesosv1.ContainerInfo) {
			info.LinuxInfo = &mesosv1.LinuxInfo{Seccomp: &mesosv1.SeccompInfo{ProfileName: ptr("x")}}
		},
		"not one that Docker sets": func(_ *containerizer.Config, info *mesosv1.ContainerInfo) {
			info.RlimitInfo = rlimit(mesosv1.RLimitInfo_RLimit_RLMT_AS, 1, 1)
		},
	}
}

// TestRefused: what can't be given is refused with the reason, before anything is made.
func TestRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, err := New(Config{Socket: filepath.Join(dir, "no.sock"), WorkDir: dir, RuntimeDir: dir, LinkSocket: filepath.Join(dir, "l"), Helper: helperPath}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for why, f := range refusals() {
		cfg := containerizer.Config{ID: "r", Kind: containerizer.CommandTask, Directory: dir, Command: shell("true"), Container: hostNet()}
		f(&cfg, cfg.Container)
		err := c.Launch(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", why, err)
		}
	}
	// Nobody answers on the socket: the launch says so, and nothing of it is left.
	err = c.Launch(t.Context(), containerizer.Config{ID: "r", Kind: containerizer.CommandTask, Directory: dir, Command: shell("true"), Container: hostNet()})
	if err == nil || !strings.Contains(err.Error(), "does not answer on "+c.cfg.Socket) {
		t.Errorf("%v", err)
	}
	if len(c.Containers()) > 0 || dirExists(c.dir("r")) {
		t.Error("the failed launch left something")
	}
}
