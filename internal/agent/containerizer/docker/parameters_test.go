package docker

import (
	"strings"
	"testing"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/dockertest"
)

// parameterRows are flags of `docker run` with what they make of the Engine's description. alone: not together with the
// others in one container, or not on every kernel.
var parameterRows = []struct {
	key, value, in string
	alone          bool
}{
	{"add-host", "db:1.2.3.4", `"ExtraHosts":["db:1.2.3.4"]`, false},
	{"blkio-weight", "300", `"BlkioWeight":300`, true},
	{"cap-add", "NET_ADMIN", `NET_ADMIN"]`, false},
	{"cap-drop", "CHOWN", `CHOWN"]`, false},
	{"cpu-shares", "77", `"CpuShares":77`, false},
	{"cpus", "0.5", `"NanoCpus":500000000`, false}, // of one: Docker refuses more than the machine has
	{"cpuset-cpus", "0", `"CpusetCpus":"0"`, false},
	{"device", "/dev/null:/dev/nil:r", `"PathInContainer":"/dev/nil","CgroupPermissions":"r"`, false},
	{"device-read-bps", "/dev/loop0:1mb", `"Rate":1048576`, true},
	{"dns", "9.9.9.9", `"Dns":["9.9.9.9"]`, false},
	{"dns-option", "ndots:2", `"DnsOptions":["ndots:2"]`, false},
	{"dns-search", "example.org", `"DnsSearch":["example.org"]`, false},
	{"--env", "EXTRA=x y", `"EXTRA=x y"`, false},
	{"entrypoint", "/bin/sh", `"Entrypoint":["/bin/sh"]`, false},
	{"expose", "81-82/udp", `"82/udp":{}`, false},
	{"group-add", "12", `"GroupAdd":["12"]`, false},
	{"health-cmd", "true", `"Test":["CMD-SHELL","true"]`, true},
	{"hostname", "via-parameter", `"Hostname":"via-parameter"`, false},
	{"init", "", `"Init":true`, false},
	{"ipc", "shareable", `"IpcMode":"shareable"`, false},
	{"label", "team=shop", `"team":"shop"`, false},
	{"log-driver", "local", `"Type":"local"`, false},
	{"log-opt", "max-size=1m", `"max-size":"1m"`, false},
	{"memory-swappiness", "10", `"MemorySwappiness":10`, false},
	{"mount", "type=tmpfs,target=/scratch,tmpfs-size=1m", `"Destination":"/scratch"`, false},
	{"no-healthcheck", "true", `"Test":["NONE"]`, false},
	{"oom-score-adj", "500", `"OomScoreAdj":500`, false},
	{"pid", "host", `"PidMode":"host"`, true},
	{"pids-limit", "50", `"PidsLimit":50`, false},
	{"read-only", "true", `"ReadonlyRootfs":true`, true},
	{"security-opt", "no-new-privileges", `"SecurityOpt":["no-new-privileges"]`, false},
	{"shm-size", "8m", `"ShmSize":8388608`, false},
	{"stop-signal", "SIGINT", `"StopSignal":"SIGINT"`, false},
	{"sysctl", "net.core.somaxconn=99", `"net.core.somaxconn":"99"`, false},
	{"tmpfs", "/fast:size=1m", `"/fast":"size=1m"`, false},
	{"ulimit", "nofile=55:66", `"Name":"nofile","Hard":66,"Soft":55`, false},
	{"u", "65534", `"User":"65534"`, false},
	{"v", "/tmp:/viaparam:ro", `/viaparam:ro"`, false},
	{"workdir", "/etc", `"WorkingDir":"/etc"`, false},
	{"annotation", "a=b", `"Annotations":{"a":"b"}`, true},
	{"cgroup-parent", "/x", `"CgroupParent":"/x"`, true},
	{"cgroupns", "private", `"CgroupnsMode":"private"`, true},
	{"cpu-period", "50000", `"CpuPeriod":50000`, true},
	{"cpu-quota", "20000", `"CpuQuota":20000`, true},
	{"cpu-rt-period", "1", `"CpuRealtimePeriod":1`, true},
	{"cpu-rt-runtime", "1", `"CpuRealtimeRuntime":1`, true},
	{"cpuset-mems", "0", `"CpusetMems":"0"`, true},
	{"device-cgroup-rule", "c 1:3 r", `"DeviceCgroupRules":["c 1:3 r"]`, true},
	{"device-read-iops", "/dev/x:7", `"BlkioDeviceReadIOps":[{"Path":"/dev/x","Rate":7}]`, true},
	{"device-write-bps", "/dev/x:7k", `"BlkioDeviceWriteBps":[{"Path":"/dev/x","Rate":7168}]`, true},
	{"device-write-iops", "/dev/x:7", `"BlkioDeviceWriteIOps":[{"Path":"/dev/x","Rate":7}]`, true},
	{"domainname", "example.org", `"Domainname":"example.org"`, true},
	{"gpus", "all", `"Count":-1`, true},
	{"gpus", "device=0,1", `"DeviceIDs":["0","1"]`, true},
	{"health-interval", "5s", `"Interval":5000000000`, true},
	{"health-retries", "4", `"Retries":4`, true},
	{"health-start-period", "5s", `"StartPeriod":5000000000`, true},
	{"health-timeout", "5s", `"Timeout":5000000000`, true},
	{"ip", "10.1.2.3", `"IPv4Address":"10.1.2.3"`, true},
	{"ip6", "fd00::1", `"IPv6Address":"fd00::1"`, true},
	{"isolation", "default", `"Isolation":"default"`, true},
	{"link", "db:db", `"Links":["db:db"]`, true},
	{"mac-address", "02:00:00:00:00:01", `"02:00:00:00:00:01"`, true},
	{"memory", "99m", `"Memory":103809024`, true},
	{"memory-reservation", "16m", `"MemoryReservation":16777216`, true},
	{"memory-swap", "-1", `"MemorySwap":-1`, true},
	{"net", "other", `"NetworkMode":"other"`, true},
	{"net-alias", "web", `"Aliases":["web"]`, true},
	{"oom-kill-disable", "true", `"OomKillDisable":true`, true},
	{"privileged", "", `"Privileged":true`, true},
	{"publish", "127.0.0.1:81:80/udp", `"80/udp":[{"HostIp":"127.0.0.1","HostPort":"81"}]`, true},
	{"publish-all", "", `"PublishAllPorts":true`, true},
	{"runtime", "runsc", `"Runtime":"runsc"`, true},
	{"storage-opt", "size=1G", `"StorageOpt":{"size":"1G"}`, true},
	{"userns", "host", `"UsernsMode":"host"`, true},
	{"uts", "host", `"UTSMode":"host"`, true},
	{"volume", "/x", `"Target":"/x"`, true},
	{"volume-driver", "local", `"VolumeDriver":"local"`, true},
	{"volumes-from", "other", `"VolumesFrom":["other"]`, true},
}

// plannedRows are fields that not every kernel and Engine gives: what is seen is what the Engine is told.
var plannedRows = []struct {
	make func(info *mesosv1.ContainerInfo)
	in   string
}{
	{func(info *mesosv1.ContainerInfo) { info.Docker.Privileged = ptr(true) }, `"Privileged":true`},
	{func(info *mesosv1.ContainerInfo) {
		info.Volumes = []*mesosv1.Volume{volume("/d", ro, "", &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_HOST_PATH.Enum(), HostPath: &mesosv1.Volume_Source_HostPath{
			Path: ptr("/x"), MountPropagation: &mesosv1.MountPropagation{Mode: mesosv1.MountPropagation_HOST_TO_CONTAINER.Enum()},
		}})}
	}, `"/x:/d:ro,rslave"`},
	{func(info *mesosv1.ContainerInfo) {
		info.Volumes = []*mesosv1.Volume{volume("/d", rw, "", &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_HOST_PATH.Enum(), HostPath: &mesosv1.Volume_Source_HostPath{
			Path: ptr("/x"), MountPropagation: &mesosv1.MountPropagation{Mode: mesosv1.MountPropagation_BIDIRECTIONAL.Enum()},
		}})}
	}, `"/x:/d:rshared"`},
}

// TestParameters: every flag is known, and means what it means to `docker run`.
func TestParameters(t *testing.T) {
	t.Parallel()
	h := newHost(t, dockertest.Options{Bridge: true})
	d := h.start(nil)
	defer d.end()
	rows := parameterRows
	covered := map[string]bool{}
	ti := &mesosv1.TaskInfo{Command: shell("sleep 1000"), Container: dockerInfo(bridge)}
	for _, p := range rows {
		key := strings.TrimLeft(p.key, "-")
		if long := shortParameters[key]; long != "" {
			key = long
		}
		covered[key] = true
		cfg := containerizer.Config{ID: "p", Kind: containerizer.CommandTask, Directory: h.dir, Command: shell("true"), Container: dockerInfo(bridge)}
		cfg.Container.Docker.Parameters = []*mesosv1.Parameter{param(p.key, p.value)}
		got, err := d.plan(&cfg)
		if err != nil {
			t.Errorf("%s=%s: %v", p.key, p.value, err)
			continue
		}
		if text := asJSON(got.options); !strings.Contains(text, p.in) && !strings.Contains(p.in, "Destination") {
			t.Errorf("%s=%s: %s is not in %s", p.key, p.value, p.in, text)
		}
		if !p.alone {
			ti.Container.Docker.Parameters = append(ti.Container.Docker.Parameters, param(p.key, p.value))
		}
	}
	for key := range parameters {
		if !covered[key] {
			t.Errorf("the parameter %s has no row", key)
		}
	}
	d.launch(d.task("all", ti))
	text := asJSON(d.inspect("all"))
	for _, p := range rows {
		if !p.alone && !strings.Contains(text, p.in) {
			t.Errorf("%s=%s: %s is not in what Docker has made: %s", p.key, p.value, p.in, text)
		}
	}
	for _, f := range plannedRows {
		cfg := containerizer.Config{ID: "p", Kind: containerizer.CommandTask, Directory: h.dir, Command: shell("true"), Container: dockerInfo(bridge)}
		f.make(cfg.Container)
		if got, err := d.plan(&cfg); err != nil || !strings.Contains(asJSON(got.options), f.in) {
			t.Errorf("%s: %v", f.in, err)
		}
	}
}
