package native

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/protobuf/reflect/protoreflect"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/image/imagetest"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// notHere are messages whose own fields are another containerizer's, or which are refused or passed on as a whole.
var notHere = []protoreflect.Name{"DockerInfo", "Appc", "DockerVolume", "CSIVolume", "Labels", "Credential"}

// fieldsOf lists all fields below a message.
func fieldsOf(d protoreflect.MessageDescriptor, out map[protoreflect.FullName]bool) {
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		if out[f.FullName()] {
			continue
		}
		out[f.FullName()] = true
		if m := f.Message(); m != nil && !slices.Contains(notHere, m.Name()) {
			fieldsOf(m, out)
		}
	}
}

// setIn removes the fields that are set in a message.
func setIn(m protoreflect.Message, out map[protoreflect.FullName]bool) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		delete(out, f.FullName())
		switch {
		case f.Message() == nil || slices.Contains(notHere, f.Message().Name()):
		case f.IsList():
			for i := range v.List().Len() {
				setIn(v.List().Get(i).Message(), out)
			}
		default:
			setIn(v.Message(), out)
		}
		return true
	})
}

// field is a row: what is asked for, and what a container with an image sees of it.
type field struct {
	name   string
	info   *mesosv1.ContainerInfo // the image is put in
	nested bool
	run    string
	says   string // a pattern of all that it says
	err    string // else: how it is refused
	after  func(t *testing.T, id string)
}

func volumes(v ...*mesosv1.Volume) *mesosv1.ContainerInfo {
	for _, x := range v {
		if x.ContainerPath == nil {
			x.ContainerPath = ptr("/v")
		}
		if x.Mode == nil {
			x.Mode = mesosv1.Volume_RW.Enum()
		}
	}
	return &mesosv1.ContainerInfo{Volumes: v}
}

func from(kind mesosv1.Volume_Source_Type, s *mesosv1.Volume_Source) *mesosv1.Volume {
	s.Type = &kind
	return &mesosv1.Volume{Source: s}
}

func fieldRows(r *imagetest.Registry, data, shared, record string) []field {
	li := func(l *mesosv1.LinuxInfo) *mesosv1.ContainerInfo { return &mesosv1.ContainerInfo{LinuxInfo: l} }
	secret := func(s *mesosv1.Secret) *mesosv1.ContainerInfo {
		return volumes(from(mesosv1.Volume_Source_SECRET, &mesosv1.Volume_Source{Secret: s}))
	}
	hostPath := func(mode *mesosv1.MountPropagation) *mesosv1.ContainerInfo {
		return volumes(from(mesosv1.Volume_Source_HOST_PATH, &mesosv1.Volume_Source{HostPath: &mesosv1.Volume_Source_HostPath{Path: &shared, MountPropagation: mode}}))
	}
	sandbox := func(k mesosv1.Volume_Source_SandboxPath_Type) *mesosv1.ContainerInfo {
		return volumes(from(mesosv1.Volume_Source_SANDBOX_PATH, &mesosv1.Volume_Source{SandboxPath: &mesosv1.Volume_Source_SandboxPath{Type: &k, Path: ptr("sub/dir")}}))
	}
	propagation := func(m mesosv1.MountPropagation_Mode) *mesosv1.MountPropagation {
		return &mesosv1.MountPropagation{Mode: &m}
	}
	image := dockerImage(data)
	image.Cached = ptr(false)
	image.Docker.Config = &mesosv1.Secret{Type: mesosv1.Secret_VALUE.Enum(), Value: &mesosv1.Secret_Value{Data: []byte(`{"auths":{}}`)}}
	image.Docker.Credential = &mesosv1.Credential{Principal: ptr("p")}
	net := &mesosv1.NetworkInfo{
		Name: ptr("net"), Groups: []string{"group-a"}, Labels: &mesosv1.Labels{Labels: []*mesosv1.Label{{Key: ptr("label-a"), Value: ptr("x")}}},
		IpAddresses: []*mesosv1.NetworkInfo_IPAddress{{Protocol: mesosv1.NetworkInfo_IPv4.Enum(), IpAddress: ptr("10.213.7.77")}},
	}
	ports := &mesosv1.NetworkInfo{Name: ptr("ported"), PortMappings: []*mesosv1.NetworkInfo_PortMapping{{HostPort: ptr(uint32(31500)), ContainerPort: ptr(uint32(81)), Protocol: ptr("udp")}}}
	return []field{
		{name: "mesos.image", info: &mesosv1.ContainerInfo{Mesos: &mesosv1.ContainerInfo_MesosInfo{Image: image}}, run: "cat /d", says: "data"},
		{name: "image APPC", info: &mesosv1.ContainerInfo{Mesos: &mesosv1.ContainerInfo_MesosInfo{Image: &mesosv1.Image{Type: mesosv1.Image_APPC.Enum(), Appc: &mesosv1.Image_Appc{Name: ptr("x")}}}}, err: "APPC"},
		{name: "docker parameters", info: &mesosv1.ContainerInfo{Docker: &mesosv1.ContainerInfo_DockerInfo{Image: ptr(""), Parameters: []*mesosv1.Parameter{{Key: ptr("read-only"), Value: ptr("true")}}}}, run: "touch /x 2>/dev/null || echo no", says: "no"},
		{name: "hostname", info: &mesosv1.ContainerInfo{Hostname: ptr("own.example")}, run: "hostname", says: "own.example"},
		{name: "tty_info", info: &mesosv1.ContainerInfo{TtyInfo: &mesosv1.TTYInfo{WindowSize: &mesosv1.TTYInfo_WindowSize{Rows: ptr(uint32(33)), Columns: ptr(uint32(77))}}}, run: "tty; stty size", says: `/dev/(pts/0|console) 33 77`},
		{name: "rlimit_info", info: &mesosv1.ContainerInfo{RlimitInfo: &mesosv1.RLimitInfo{Rlimits: []*mesosv1.RLimitInfo_RLimit{{Type: mesosv1.RLimitInfo_RLimit_RLMT_NOFILE.Enum(), Soft: ptr(uint64(123)), Hard: ptr(uint64(456))}}}}, run: "grep 'open files' /proc/self/limits", says: "Max open files 123 456 files"},

		{name: "effective_capabilities", info: li(&mesosv1.LinuxInfo{EffectiveCapabilities: capabilitySet("NET_RAW")}), run: "grep CapEff /proc/self/status", says: "CapEff: 0000000000002000"},
		{name: "bounding_capabilities", info: li(&mesosv1.LinuxInfo{BoundingCapabilities: capabilitySet("CHOWN")}), run: "grep CapBnd /proc/self/status", says: "CapBnd: 0000000000000001"},
		{name: "capability_info", info: li(&mesosv1.LinuxInfo{CapabilityInfo: capabilitySet("NET_RAW")}), run: "grep CapEff /proc/self/status", says: "CapEff: 0000000000002000"},
		{name: "share_pid_namespace", info: li(&mesosv1.LinuxInfo{SharePidNamespace: ptr(true)}), run: fmt.Sprintf("tr '\\0' '\\n' < /proc/%d/cmdline | head -n 1", os.Getpid()), says: regexp.QuoteMeta(os.Args[0])},
		{name: "share_pid_namespace nested", nested: true, info: li(&mesosv1.LinuxInfo{SharePidNamespace: ptr(true)}), err: "its own PID namespace"},
		{name: "seccomp.profile_name", info: li(&mesosv1.LinuxInfo{Seccomp: &mesosv1.SeccompInfo{ProfileName: ptr("default")}}), run: "grep '^Seccomp:' /proc/self/status", says: "Seccomp: 2"},
		{name: "seccomp.unconfined", info: li(&mesosv1.LinuxInfo{Seccomp: &mesosv1.SeccompInfo{Unconfined: ptr(true)}}), run: "grep '^Seccomp:' /proc/self/status", says: "Seccomp: 0"},
		{name: "ipc_mode, shm_size", info: li(&mesosv1.LinuxInfo{IpcMode: mesosv1.LinuxInfo_PRIVATE.Enum(), ShmSize: ptr(uint32(3))}), run: "grep ' /dev/shm ' /proc/self/mountinfo | tail -n 1 | grep -o size=.*k", says: "size=3072k"},
		{name: "share_cgroups false", nested: true, info: li(&mesosv1.LinuxInfo{ShareCgroups: ptr(false)}), run: "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max", says: "41943040"},
		{name: "share_cgroups true", nested: true, info: li(&mesosv1.LinuxInfo{ShareCgroups: ptr(true)}), run: "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max", says: "67108864"},

		{name: "volume host_path", info: volumes(&mesosv1.Volume{HostPath: &shared}), run: "touch /v/w && cat /v/f", says: "host"},
		{name: "volume mode RO, container_path in the sandbox", info: volumes(&mesosv1.Volume{HostPath: &shared, ContainerPath: ptr("deep/v"), Mode: mesosv1.Volume_RO.Enum()}), run: "cat deep/v/f; touch deep/v/x 2>/dev/null || echo no", says: "host no"},
		{name: "volume image", info: volumes(&mesosv1.Volume{Image: dockerImage(data)}), run: "cat /v/d; rm /v/d && echo mine", says: "data mine"},
		{name: "HOST_PATH, propagation", info: hostPath(propagation(mesosv1.MountPropagation_HOST_TO_CONTAINER)), run: "grep ' /v ' /proc/self/mountinfo | grep -o master", says: "master"},
		{name: "HOST_PATH, bidirectional", info: hostPath(propagation(mesosv1.MountPropagation_BIDIRECTIONAL)), err: "bidirectional"},
		{name: "SANDBOX_PATH SELF", info: sandbox(mesosv1.Volume_Source_SandboxPath_SELF), run: "touch /v/x; ls sub/dir", says: "x"},
		{name: "SANDBOX_PATH PARENT", nested: true, info: sandbox(mesosv1.Volume_Source_SandboxPath_PARENT), run: "cat /v/of-parent", says: "parent's"},
		{name: "SECRET", info: secret(&mesosv1.Secret{Type: mesosv1.Secret_VALUE.Enum(), Value: &mesosv1.Secret_Value{Data: []byte("canary")}}), run: "cat /v; echo; stat -c '%a %u' /v; grep ' /v ' /proc/self/mountinfo | grep -o tmpfs | head -n 1", says: "canary 400 0 tmpfs"},
		{name: "SECRET by reference", info: secret(&mesosv1.Secret{Type: mesosv1.Secret_REFERENCE.Enum(), Reference: &mesosv1.Secret_Reference{Name: ptr("n"), Key: ptr("k")}}), err: "no resolver"},
		{name: "DOCKER_VOLUME", info: volumes(from(mesosv1.Volume_Source_DOCKER_VOLUME, &mesosv1.Volume_Source{DockerVolume: &mesosv1.Volume_Source_DockerVolume{Name: ptr("x")}})), err: "DOCKER_VOLUME are not given"},
		{name: "CSI_VOLUME", info: volumes(from(mesosv1.Volume_Source_CSI_VOLUME, &mesosv1.Volume_Source{CsiVolume: &mesosv1.Volume_Source_CSIVolume{PluginName: ptr("x")}})), err: "CSI_VOLUME are not given"},

		{name: "network_infos", info: &mesosv1.ContainerInfo{NetworkInfos: []*mesosv1.NetworkInfo{net}}, run: "ip -4 -o addr show eth0 | grep -o '10.213.7.[0-9]*/'", says: `10\.213\.7\.\d+/`, after: func(t *testing.T, _ string) {
			for _, want := range []string{`"group-a"`, `"label-a"`, `"10.213.7.77"`} {
				if said := read(t, record+".ADD"); !strings.Contains(said, want) {
					t.Errorf("the plugin was not told %s: %s", want, said)
				}
			}
		}},
		{name: "port_mappings", info: &mesosv1.ContainerInfo{NetworkInfos: []*mesosv1.NetworkInfo{ports}}, run: "echo up", says: "up", after: func(t *testing.T, _ string) {
			if said := read(t, record+".ADD"); !strings.Contains(said, `"hostPort":31500`) || !strings.Contains(said, `"udp"`) {
				t.Errorf("the plugin was not told of the port: %s", said)
			}
		}},
	}
}

// TestEveryField: each field of ContainerInfo, and of what it consists of, is asked for in a container that the helper, crun or runc
// makes, and is seen in it or refused with a reason. A field that no row sets is a failure: there is no silence about one.
func TestEveryField(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	for _, oci := range []string{"", "crun", "runc"} {
		t.Run("by "+oci, func(t *testing.T) { everyField(t, ociPath(t, oci)) })
	}
}

func everyField(t *testing.T, oci string) {
	h := newHost(t)
	n := newNetworks(t, h)
	record := filepath.Join(h.dir, "told")
	n.fake(t, "recorder", fmt.Sprintf("cat > %s.$CNI_COMMAND; echo '{\"cniVersion\":\"0.4.0\"}'\n", record))
	bridge := fmt.Sprintf(`{"type":"bridge","bridge":"tbr0","isGateway":true,"ipam":{"type":"host-local","dataDir":%q,"subnet":"10.213.7.0/24"}}`, n.ipam)
	n.add(t, "net.conflist", `{"cniVersion":"0.4.0","name":"net","plugins":[`+bridge+`,{"type":"recorder"}]}`)
	n.add(t, "ported.conflist", `{"cniVersion":"0.4.0","name":"ported","plugins":[`+bridge+`,{"type":"recorder","capabilities":{"portMappings":true}}]}`)
	r := imagetest.Serve(t)
	box := boxImage(t, r, "box", v1.Config{})
	data := boxImage(t, r, "data", v1.Config{}, []imagetest.File{{Name: "d", Body: "data\n"}})
	shared := filepath.Join(h.dir, "shared")
	if err := errors.Join(
		os.Mkdir(shared, 0o755), syscall.Mount("tmpfs", shared, "tmpfs", 0, ""), syscall.Mount("", shared, "", syscall.MS_SHARED, ""),
		os.WriteFile(filepath.Join(shared, "f"), []byte("host\n"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(shared, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d := h.start(nil, n.config(h), func(c *Config) {
		c.OCIRuntime = oci
		c.Isolation = "filesystem/linux,namespaces/pid,namespaces/ipc,cgroups/cpu,cgroups/mem,linux/capabilities,linux/seccomp,volume/host_path,volume/secret,network/cni"
	})
	defer d.end()
	up := d.plain("up", "sleep 1000")
	if err := errors.Join(os.MkdirAll(filepath.Join(up.Directory, "sub/dir"), 0o755), os.WriteFile(filepath.Join(up.Directory, "sub/dir/of-parent"), []byte("parent's\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	d.launch(up)
	missing := make(map[protoreflect.FullName]bool)
	fieldsOf((*mesosv1.ContainerInfo)(nil).ProtoReflect().Descriptor(), missing)
	for i, row := range fieldRows(r, data, shared, record) {
		id := ids.Container(fmt.Sprint("f", i))
		if row.nested {
			id = "up." + id
		}
		cfg := d.plain(id, row.run)
		cfg.Environment = []string{"MESOS_SANDBOX=" + sandboxInRoot}
		cfg.Container = row.info
		cfg.Container.Type = mesosv1.ContainerInfo_MESOS.Enum()
		setIn(cfg.Container.ProtoReflect(), missing)
		if cfg.Container.Mesos == nil {
			cfg.Container.Mesos = inImage(box).Mesos
		}
		if row.nested {
			cfg.Resources = []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 40)}
		}
		for _, n := range cfg.Container.NetworkInfos {
			for _, p := range n.PortMappings {
				cfg.Resources = append(cfg.Resources, ports(uint64(p.GetHostPort()), uint64(p.GetHostPort())))
			}
		}
		if row.err != "" {
			var refused *containerizer.LaunchError
			if err := d.Launch(t.Context(), cfg); err == nil || !errors.As(err, &refused) || !strings.Contains(err.Error(), row.err) {
				t.Errorf("%s: %v, want %q", row.name, err, row.err)
			}
			continue
		}
		_, out, errs := d.ran(cfg)
		if got := strings.Join(strings.Fields(out), " "); !regexp.MustCompile("^(" + row.says + ")$").MatchString(got) {
			t.Errorf("%s: %q, want %q (%s)", row.name, got, row.says, errs)
		}
		if row.after != nil {
			row.after(t, string(id))
		}
	}
	for f := range missing {
		t.Errorf("field %s is in no row", f)
	}
	d.end()
}
