package confine

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
)

func ptr[T any](v T) *T { return &v }

func caps(names ...string) *mesosv1.CapabilityInfo {
	m := &mesosv1.CapabilityInfo{}
	for _, n := range names {
		m.Capabilities = append(m.Capabilities, mesosv1.CapabilityInfo_Capability(mesosv1.CapabilityInfo_Capability_value[n]))
	}
	return m
}

func set(t *testing.T, names ...string) []Capability {
	t.Helper()
	s, err := setOf(caps(names...))
	if err != nil || len(s) != len(names) {
		t.Fatalf("%v: %v", names, err)
	}
	return s
}

func on(names ...string) map[string]bool {
	m := map[string]bool{}
	for _, n := range names {
		m[n] = true
	}
	return m
}

// TestOf has a case per field of LinuxInfo, ContainerInfo and the flags that decide about them.
func TestOf(t *testing.T) {
	t.Parallel()
	all := func(change ...func(*Host)) *Host {
		h := &Host{Root: true, Mounts: true, Isolators: on(IsolateCapabilities, IsolateSeccomp, IsolatePID, IsolateIPC, IsolateCNI)}
		for _, f := range change {
			f(h)
		}
		return h
	}
	image := &mesosv1.ContainerInfo_MesosInfo{Image: &mesosv1.Image{}}
	netRaw, both := set(t, "NET_RAW"), set(t, "NET_RAW", "SYS_ADMIN")
	nested := &containerizer.Config{Container: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{EffectiveCapabilities: caps("NET_RAW")}}}
	for name, c := range map[string]struct {
		host   *Host
		info   *mesosv1.ContainerInfo
		kind   containerizer.Kind
		parent *containerizer.Config
		want   Settings
		err    string
	}{
		"nothing said": {host: all(), want: Settings{PID: New, IPC: New}},
		"not root, nothing said": {
			host: &Host{Isolators: on()}, want: Settings{},
		},
		"an image never has all": {
			host: &Host{Root: true, Mounts: true, Isolators: on()}, info: &mesosv1.ContainerInfo{Mesos: image},
			want: Settings{Capabilities: &Capabilities{Bounding: dockerDefault}, MaskedPaths: maskedPaths, ReadOnlyPaths: readOnlyPaths},
		},
		"an image can't trace": {
			host: all(), info: &mesosv1.ContainerInfo{Mesos: image, LinuxInfo: &mesosv1.LinuxInfo{EffectiveCapabilities: caps("SYS_PTRACE")}},
			err: "SYS_PTRACE",
		},
		"a user namespace": {
			host: all(func(h *Host) { h.Isolators[IsolateUser] = true }), want: Settings{PID: New, IPC: New, Users: New},
		},
		"no user namespace": {
			host: all(func(h *Host) { h.Isolators[IsolateUser] = true }),
			info: &mesosv1.ContainerInfo{Docker: &mesosv1.ContainerInfo_DockerInfo{Parameters: []*mesosv1.Parameter{{Key: proto.String("userns"), Value: proto.String("host")}}}},
			want: Settings{PID: New, IPC: New},
		},
		"an image has what Docker gives": {
			host: all(), info: &mesosv1.ContainerInfo{Mesos: image},
			want: Settings{
				PID: New, IPC: New, Capabilities: &Capabilities{Bounding: dockerDefault}, Seccomp: DefaultProfile, Shm: &Shm{},
				MaskedPaths: maskedPaths, ReadOnlyPaths: readOnlyPaths,
			},
		},
		"effective alone bounds": {
			host: all(), info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{EffectiveCapabilities: caps("NET_RAW")}},
			want: Settings{PID: New, IPC: New, Capabilities: &Capabilities{netRaw, netRaw}},
		},
		"effective by its old name": {
			host: all(), info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{CapabilityInfo: caps("NET_RAW")}},
			want: Settings{PID: New, IPC: New, Capabilities: &Capabilities{netRaw, netRaw}},
		},
		"an empty set drops everything": {
			host: all(), info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{EffectiveCapabilities: caps()}},
			want: Settings{PID: New, IPC: New, Capabilities: &Capabilities{[]Capability{}, []Capability{}}},
		},
		"bounding alone": {
			host: all(), info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{BoundingCapabilities: caps("NET_RAW")}},
			want: Settings{PID: New, IPC: New, Capabilities: &Capabilities{nil, netRaw}},
		},
		"both, from the flags": {
			host: all(func(h *Host) { h.Effective, h.Bounding = caps("NET_RAW"), caps("NET_RAW", "SYS_ADMIN") }),
			want: Settings{PID: New, IPC: New, Capabilities: &Capabilities{netRaw, both}},
		},
		"effective beyond the task's bounding": {
			host: all(), info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{EffectiveCapabilities: caps("CHOWN"), BoundingCapabilities: caps("NET_RAW")}},
			err: "CAP_CHOWN is not among the bounding capabilities (CAP_NET_RAW)",
		},
		"beyond the agent's bounding": {
			host: all(func(h *Host) { h.Bounding = caps("CHOWN") }),
			info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{EffectiveCapabilities: caps("NET_RAW")}},
			err:  "CAP_NET_RAW is not among the agent's bounding capabilities",
		},
		"capabilities without the isolator": {
			host: all(func(h *Host) { delete(h.Isolators, IsolateCapabilities) }),
			info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{EffectiveCapabilities: caps("NET_RAW")}},
			err:  "needs the isolation linux/capabilities",
		},
		"seccomp by name": {
			host: all(), info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{Seccomp: &mesosv1.SeccompInfo{ProfileName: ptr("p.json")}}},
			want: Settings{PID: New, IPC: New, Seccomp: "p.json"},
		},
		"seccomp from the flag": {
			host: all(func(h *Host) { h.SeccompProfile = "d.json" }), want: Settings{PID: New, IPC: New, Seccomp: "d.json"},
		},
		"seccomp unconfined": {
			host: all(func(h *Host) { h.SeccompProfile = "d.json" }),
			info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{Seccomp: &mesosv1.SeccompInfo{Unconfined: ptr(true)}}},
			want: Settings{PID: New, IPC: New},
		},
		"seccomp both ways": {
			host: all(), info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{Seccomp: &mesosv1.SeccompInfo{Unconfined: ptr(true), ProfileName: ptr("x")}}},
			err: "unconfined",
		},
		"share_pid_namespace": {
			host: all(), info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{SharePidNamespace: ptr(true)}}, want: Settings{IPC: New},
		},
		"share_pid_namespace of the agent, refused": {
			host: all(func(h *Host) { h.NoAgentPID = true }), info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{SharePidNamespace: ptr(true)}},
			err: "--disallow_sharing_agent_pid_namespace",
		},
		"share_pid_namespace of a parent": {
			host: all(func(h *Host) { h.NoAgentPID = true }), kind: containerizer.Nested, parent: nested,
			info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{SharePidNamespace: ptr(true)}},
			want: Settings{PID: Parents, IPC: Parents, UTS: Parents, Network: Parents, Users: Parents},
		},
		"ipc PRIVATE with a size": {
			host: all(), info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{IpcMode: mesosv1.LinuxInfo_PRIVATE.Enum(), ShmSize: ptr(uint32(7))}},
			want: Settings{PID: New, IPC: New, Shm: &Shm{SizeMB: 7}},
		},
		"ipc PRIVATE with the flag's size": {
			host: all(func(h *Host) { h.ShmSize = 9 }), info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{IpcMode: mesosv1.LinuxInfo_PRIVATE.Enum()}},
			want: Settings{PID: New, IPC: New, Shm: &Shm{SizeMB: 9}},
		},
		"ipc SHARE_PARENT": {
			host: all(), info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{IpcMode: mesosv1.LinuxInfo_SHARE_PARENT.Enum(), ShmSize: ptr(uint32(7))}},
			want: Settings{PID: New},
		},
		"ipc SHARE_PARENT of the agent, refused": {
			host: all(func(h *Host) { h.NoAgentIPC = true }),
			info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{IpcMode: mesosv1.LinuxInfo_SHARE_PARENT.Enum()}},
			err:  "--disallow_sharing_agent_ipc_namespace",
		},
		"ipc unsaid where the agent keeps its own": {
			host: all(func(h *Host) { h.NoAgentIPC = true; delete(h.Isolators, IsolateIPC) }), want: Settings{PID: New, IPC: New, Shm: &Shm{}},
		},
		"ipc PRIVATE, not root": {
			host: &Host{Isolators: on()}, info: &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{IpcMode: mesosv1.LinuxInfo_PRIVATE.Enum()}},
			err: "runs as root",
		},
		"hostname": {host: all(), info: &mesosv1.ContainerInfo{Hostname: ptr("h")}, want: Settings{PID: New, IPC: New, UTS: New, Hostname: "h"}},
		"hostname, not root": {
			host: &Host{Isolators: on()}, info: &mesosv1.ContainerInfo{Hostname: ptr("h")}, err: "runs as root",
		},
		"a network": {
			host: all(func(h *Host) { h.DNS = &DefaultDNS{Mesos: []NetworkDNS{{DNS: DNS{Search: []string{"x"}}}}} }),
			info: &mesosv1.ContainerInfo{NetworkInfos: []*mesosv1.NetworkInfo{{Name: ptr("n")}}},
			want: Settings{PID: New, IPC: New, UTS: New, Network: New, Networks: []*mesosv1.NetworkInfo{{Name: ptr("n")}}, DNS: &DNS{Search: []string{"x"}}},
		},
		"the host's network by no name": {
			host: all(), info: &mesosv1.ContainerInfo{NetworkInfos: []*mesosv1.NetworkInfo{{}}}, want: Settings{PID: New, IPC: New},
		},
		"port mappings without a network": {
			host: all(), info: &mesosv1.ContainerInfo{NetworkInfos: []*mesosv1.NetworkInfo{{PortMappings: []*mesosv1.NetworkInfo_PortMapping{{}}}}},
			err: "port mappings need a container network",
		},
		"a network of a nested container": {
			host: all(), kind: containerizer.Nested, parent: nested,
			info: &mesosv1.ContainerInfo{NetworkInfos: []*mesosv1.NetworkInfo{{Name: ptr("n")}}}, err: "shares its parent's network",
		},
		"a network without the isolator": {
			host: all(func(h *Host) { delete(h.Isolators, IsolateCNI); h.Off = map[string]string{IsolateCNI: "no plugins"} }),
			info: &mesosv1.ContainerInfo{NetworkInfos: []*mesosv1.NetworkInfo{{Name: ptr("n")}}}, err: "network/cni: no plugins",
		},
		"a session has its parent's settings": {
			host: all(), kind: containerizer.Session, parent: nested, info: &mesosv1.ContainerInfo{},
			want: Settings{PID: Parents, IPC: Parents, UTS: Parents, Network: Parents, Users: Parents, Capabilities: &Capabilities{netRaw, netRaw}},
		},
		"no new privileges": {
			host: all(func(h *Host) { h.Isolators[IsolateNNP] = true }), want: Settings{PID: New, IPC: New, NoNewPrivs: true},
		},
		"rlimits": {
			host: all(), info: &mesosv1.ContainerInfo{RlimitInfo: &mesosv1.RLimitInfo{Rlimits: []*mesosv1.RLimitInfo_RLimit{
				{Type: mesosv1.RLimitInfo_RLimit_RLMT_NOFILE.Enum(), Soft: ptr(uint64(1)), Hard: ptr(uint64(2))},
			}}},
			want: Settings{PID: New, IPC: New, Rlimits: []Rlimit{{7, 1, 2}}},
		},
		"devices": {
			host: all(func(h *Host) {
				h.Isolators[IsolateDevices] = true
				h.Devices = []Device{{Path: "/dev/fuse", Access: "rw"}}
			}),
			want: Settings{PID: New, IPC: New, LimitDevices: true, Devices: []Device{{Path: "/dev/fuse", Access: "rw"}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Of(c.host, &containerizer.Config{Container: c.info, Kind: c.kind}, c.parent)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want one with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(&c.want, got, cmp.Comparer(func(a, b *mesosv1.NetworkInfo) bool { return a.EqualVT(b) })); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestRlimitsBad(t *testing.T) {
	t.Parallel()
	one := func(r ...*mesosv1.RLimitInfo_RLimit) *mesosv1.ContainerInfo {
		return &mesosv1.ContainerInfo{RlimitInfo: &mesosv1.RLimitInfo{Rlimits: r}}
	}
	as := mesosv1.RLimitInfo_RLimit_RLMT_AS.Enum()
	for want, info := range map[string]*mesosv1.ContainerInfo{
		"not known":       one(&mesosv1.RLimitInfo_RLimit{}),
		"both be set":     one(&mesosv1.RLimitInfo_RLimit{Type: as, Soft: ptr(uint64(1))}),
		"above the hard":  one(&mesosv1.RLimitInfo_RLimit{Type: as, Soft: ptr(uint64(2)), Hard: ptr(uint64(1))}),
		"it is set twice": one(&mesosv1.RLimitInfo_RLimit{Type: as}, &mesosv1.RLimitInfo_RLimit{Type: as}),
	} {
		if _, err := rlimits(info); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if got := (Rlimit{Resource: 7}).Name(); got != "RLIMIT_NOFILE" {
		t.Error(got)
	}
}

func TestDNSOf(t *testing.T) {
	t.Parallel()
	d, err := DNSOf(`{"mesos":[{"network_mode":"CNI","dns":{"nameservers":["8.8.8.8"]}},{"network_mode":"CNI","network_name":"a","dns":{"search":["x","y"],"options":["timeout:3"]}}]}`)
	if err != nil {
		t.Fatal(err)
	}
	if got := d.For("a").Text(); got != "search x y\noptions timeout:3\n" {
		t.Errorf("%q", got)
	}
	if got := d.For("b").Text(); got != "nameserver 8.8.8.8\n" {
		t.Errorf("%q", got)
	}
	for _, bad := range []string{`{"mesos":[{"network_mode":"HOST"}]}`, `{"x":1}`, `{"mesos":[{"network_mode":"CNI","dns":{"nameservers":["a b"]}}]}`, `{"mesos":[{"network_mode":"CNI","dns":{"search":["a\nnameserver b"]}}]}`} {
		if _, err := DNSOf(bad); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

func TestDevicesOf(t *testing.T) {
	t.Parallel()
	access := &mesosv1.DeviceAccess_Access{Read: ptr(true), Mknod: ptr(true)}
	of := func(path string, a *mesosv1.DeviceAccess_Access) *mesosv1.DeviceWhitelist {
		return &mesosv1.DeviceWhitelist{AllowedDevices: []*mesosv1.DeviceAccess{{Device: &mesosv1.Device{Path: &path}, Access: a}}}
	}
	got, err := DevicesOf(of("/dev/fuse", access))
	if err != nil || len(got) != 1 || got[0] != (Device{Path: "/dev/fuse", Access: "rm"}) {
		t.Errorf("%+v %v", got, err)
	}
	for _, m := range []*mesosv1.DeviceWhitelist{of("/dev/../etc/passwd", access), of("/etc", access), of("/dev/fuse", nil)} {
		if _, err := DevicesOf(m); err == nil {
			t.Errorf("%v: no error", m)
		}
	}
	if r := (Device{Type: 'c', Major: 1, Minor: -1, Access: "rw"}).Rule(); r != "c 1:* rw" {
		t.Error(r)
	}
}
