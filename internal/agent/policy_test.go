package agent

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
)

func TestPolicy(t *testing.T) {
	t.Parallel()
	str := func(s string) *string { return &s }
	yes := true
	docker := func(d *mesosv1.ContainerInfo_DockerInfo) *mesosv1.ContainerInfo {
		return &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_DOCKER.Enum(), Docker: d}
	}
	param := func(k, v string) *mesosv1.ContainerInfo {
		return docker(&mesosv1.ContainerInfo_DockerInfo{
			Network: mesosv1.ContainerInfo_DockerInfo_BRIDGE.Enum(), Parameters: []*mesosv1.Parameter{{Key: &k, Value: &v}},
		})
	}
	host := func(p string) *mesosv1.ContainerInfo {
		return &mesosv1.ContainerInfo{Volumes: []*mesosv1.Volume{{ContainerPath: str("x"), HostPath: &p}}}
	}
	source := func(p string) *mesosv1.ContainerInfo {
		return &mesosv1.ContainerInfo{Volumes: []*mesosv1.Volume{{ContainerPath: str("x"), Source: &mesosv1.Volume_Source{
			Type: mesosv1.Volume_Source_HOST_PATH.Enum(), HostPath: &mesosv1.Volume_Source_HostPath{Path: &p},
		}}}}
	}
	li := func(l *mesosv1.LinuxInfo) *mesosv1.ContainerInfo { return &mesosv1.ContainerInfo{LinuxInfo: l} }
	user := func(name string) *mesosv1.ContainerInfo {
		c := docker(&mesosv1.ContainerInfo_DockerInfo{Network: mesosv1.ContainerInfo_DockerInfo_USER.Enum()})
		c.NetworkInfos = []*mesosv1.NetworkInfo{{Name: &name}}
		return c
	}
	dockerVolume := func(options ...string) *mesosv1.ContainerInfo {
		v := &mesosv1.Volume_Source_DockerVolume{Name: str("v"), Driver: str("local"), DriverOptions: &mesosv1.Parameters{}}
		for _, o := range options {
			v.DriverOptions.Parameter = append(v.DriverOptions.Parameter, &mesosv1.Parameter{Key: &o, Value: str("/etc")})
		}
		return &mesosv1.ContainerInfo{Volumes: []*mesosv1.Volume{{ContainerPath: str("x"), Source: &mesosv1.Volume_Source{
			Type: mesosv1.Volume_Source_DOCKER_VOLUME.Enum(), DockerVolume: v,
		}}}}
	}
	capability := func(c mesosv1.CapabilityInfo_Capability) *mesosv1.ContainerInfo {
		info := docker(&mesosv1.ContainerInfo_DockerInfo{})
		info.LinuxInfo = &mesosv1.LinuxInfo{BoundingCapabilities: &mesosv1.CapabilityInfo{Capabilities: []mesosv1.CapabilityInfo_Capability{c}}}
		return info
	}
	named := &mesosv1.ContainerInfo{NetworkInfos: []*mesosv1.NetworkInfo{{Name: str("n")}}}
	volumes, network, privileged := Policy{HostVolumes: []string{"/srv/data", "/opt"}}, Policy{NoHostNetwork: true}, Policy{NoPrivileged: true}
	for _, c := range []struct {
		name   string
		policy Policy
		info   *mesosv1.ContainerInfo
		nested bool
		err    string // empty: allowed
	}{
		{name: "default allows all", info: host("/etc")},
		{name: "default allows privileged", info: docker(&mesosv1.ContainerInfo_DockerInfo{Privileged: &yes})},
		{name: "default allows parameters", info: param("pid", "host")},
		{name: "below a prefix", policy: volumes, info: host("/srv/data/x")},
		{name: "the prefix itself", policy: volumes, info: source("/opt")},
		{name: "a sandbox path", policy: volumes, info: host("relative")},
		{name: "beside a prefix", policy: volumes, info: host("/srv/data2"), err: "refuses volumes from /srv/data2"},
		{name: "out of a prefix", policy: volumes, info: source("/opt/../etc"), err: "refuses volumes from /etc"},
		{name: "none at all", policy: Policy{HostVolumes: []string{}}, info: host("/opt"), err: "none"},
		{name: "-v", policy: volumes, info: param("volume", "/etc:/x:ro"), err: "/etc"},
		{name: "-v below", policy: volumes, info: param("v", "/opt/a:/x")},
		{name: "-v by name", policy: volumes, info: param("v", "name:/x")},
		{name: "--mount", policy: volumes, info: param("mount", "type=bind,source=/etc,target=/x"), err: "/etc"},
		{name: "--mount src", policy: volumes, info: param("--mount", "src=/etc,type=bind,target=/x"), err: "/etc"},
		{name: "--mount with a driver", policy: volumes, info: param("mount", "type=volume,volume-opt=device=/etc,dst=/x"), err: "driver"},
		{name: "--mount tmpfs", policy: volumes, info: param("mount", "type=tmpfs,dst=/x")},
		{name: "--volumes-from", policy: volumes, info: param("volumes-from", "x"), err: "other containers"},
		{name: "host network of docker", policy: network, info: docker(&mesosv1.ContainerInfo_DockerInfo{}), err: "host's network"},
		{name: "bridge of docker", policy: network, info: docker(&mesosv1.ContainerInfo_DockerInfo{Network: mesosv1.ContainerInfo_DockerInfo_BRIDGE.Enum()})},
		{name: "--net=host", policy: network, info: param("net", "host"), err: "host's network"},
		{name: "no container at all", policy: network, err: "host's network"},
		{name: "a network by name", policy: network, info: named},
		{name: "a nested container", policy: network, nested: true},
		{name: "the network host by name", policy: network, info: user("host"), err: "host's network"},
		{name: "another container's network by name", policy: network, info: user("container:x"), err: "host's network"},
		{name: "a network of Docker's by name", policy: network, info: user("shop")},
		{name: "a volume of Docker's", policy: volumes, info: dockerVolume()},
		{name: "a volume of Docker's with options", policy: volumes, info: dockerVolume("device"), err: "driver's options"},
		{name: "capability", policy: privileged, info: capability(mesosv1.CapabilityInfo_SYS_ADMIN), err: "SYS_ADMIN"},
		{name: "capability that Docker gives anyway", policy: privileged, info: capability(mesosv1.CapabilityInfo_CHOWN)},
		{name: "--annotation", policy: privileged, info: param("annotation", "run.oci.hooks.stdout=/etc/x"), err: "isolation"},
		{name: "privileged", policy: privileged, info: docker(&mesosv1.ContainerInfo_DockerInfo{Privileged: &yes}), err: "privileged"},
		{name: "host pid", policy: privileged, info: li(&mesosv1.LinuxInfo{SharePidNamespace: &yes}), err: "PID"},
		{name: "host ipc", policy: privileged, info: li(&mesosv1.LinuxInfo{IpcMode: mesosv1.LinuxInfo_SHARE_PARENT.Enum()}), err: "IPC"},
		{name: "parent's pid", policy: privileged, info: li(&mesosv1.LinuxInfo{SharePidNamespace: &yes}), nested: true},
		{name: "unconfined", policy: privileged, info: li(&mesosv1.LinuxInfo{Seccomp: &mesosv1.SeccompInfo{Unconfined: &yes}}), err: "seccomp"},
		{name: "host users", policy: privileged, info: &mesosv1.ContainerInfo{
			Type: mesosv1.ContainerInfo_MESOS.Enum(), Docker: &mesosv1.ContainerInfo_DockerInfo{Parameters: []*mesosv1.Parameter{{Key: proto.String("userns"), Value: proto.String("host")}}},
		}, err: "users"},
		{name: "--pid", policy: privileged, info: param("pid", "host"), err: "isolation"},
		{name: "--cap-add", policy: privileged, info: param("cap-add", "ALL"), err: "isolation"},
		{name: "--security-opt", policy: privileged, info: param("security-opt", "seccomp=unconfined"), err: "isolation"},
		{name: "--security-opt nnp", policy: privileged, info: param("security-opt", "no-new-privileges")},
		{name: "--label", policy: privileged, info: param("label", "a=b")},
	} {
		err := c.policy.Check(c.info, c.nested)
		switch {
		case c.err == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: %v, want an error with %q", c.name, err, c.err)
		}
	}
	if root, rel, err := volumes.HostVolume("/srv/data/a/b"); root != "/srv/data" || rel != "a/b" || err != nil {
		t.Errorf("%q %q %v", root, rel, err)
	}
}

// TestSecretReferencesAreRefused: a program that runs without a variable it needs says something else than what is wrong.
func TestSecretReferencesAreRefused(t *testing.T) {
	t.Parallel()
	str := func(s string) *string { return &s }
	env := func(s *mesosv1.Secret) *mesosv1.CommandInfo {
		return &mesosv1.CommandInfo{Environment: &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{{Name: str("TOKEN"), Type: mesosv1.Environment_Variable_SECRET.Enum(), Secret: s}}}}
	}
	reference := env(&mesosv1.Secret{Type: mesosv1.Secret_REFERENCE.Enum(), Reference: &mesosv1.Secret_Reference{Name: str("vault")}})
	value := env(&mesosv1.Secret{Type: mesosv1.Secret_VALUE.Enum(), Value: &mesosv1.Secret_Value{Data: []byte("s3")}})
	for name, c := range map[string]*containerizer.Config{
		"command": {Command: reference}, "task": {Task: &mesosv1.TaskInfo{Command: reference}}, "executor": {Executor: &mesosv1.ExecutorInfo{Command: reference}},
		"NUL": {Command: env(&mesosv1.Secret{Type: mesosv1.Secret_VALUE.Enum(), Value: &mesosv1.Secret_Value{Data: []byte("a\x00b")}})},
	} {
		if err := (policed{}).check(c); err == nil || !strings.Contains(err.Error(), "environment variable TOKEN") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (policed{}).check(&containerizer.Config{Command: value}); err != nil {
		t.Error(err)
	}
	e := &environment{}
	e.add(value.Environment)
	if got := strings.Join(e.list(), " "); got != "TOKEN=s3" {
		t.Errorf("environment %q", got)
	}
}
