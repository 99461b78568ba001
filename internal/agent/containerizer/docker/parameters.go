package docker

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/blkiodev"
	dcontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
)

// parameter applies one DockerInfo.parameters as `docker run --key=value` would.
func (p *plan) parameter(key, value string) error {
	key = strings.TrimLeft(key, "-")
	if long, ok := shortParameters[key]; ok {
		key = long
	}
	if why, ok := refusedParameters[key]; ok {
		return errors.New(why)
	}
	set, ok := parameters[key]
	if !ok {
		known := slices.Sorted(maps.Keys(parameters))
		return fmt.Errorf("it is not known here; known are %s", strings.Join(known, ", "))
	}
	return set(p, value)
}

var shortParameters = map[string]string{
	"c": "cpu-shares", "e": "env", "h": "hostname", "l": "label", "m": "memory", "p": "publish", "P": "publish-all", "t": "tty", "i": "interactive",
	"u": "user", "v": "volume", "w": "workdir", "network": "net", "network-alias": "net-alias", "dns-option": "dns-opt",
}

// refusedParameters are known and can't be given: what they do is the agent's own business.
var refusedParameters = map[string]string{
	"name":         "the agent names its containers",
	"restart":      "the framework decides whether a task runs again",
	"rm":           "the agent removes its containers (--docker_remove_delay)",
	"detach":       "the agent watches its containers",
	"d":            "the agent watches its containers",
	"attach":       "output goes into the sandbox",
	"a":            "output goes into the sandbox",
	"interactive":  "use tty_info, and attach through the agent's API",
	"tty":          "use tty_info",
	"cidfile":      "the agent knows its containers by their labels",
	"pull":         "use force_pull_image",
	"env-file":     "the variables belong into command.environment",
	"label-file":   "use label for each",
	"detach-keys":  "nobody detaches by keys",
	"sig-proxy":    "signals go through the agent's API",
	"platform":     "the image must be the host's",
	"stop-timeout": "use kill_policy.grace_period",
}

type setter func(p *plan, v string) error

func str(f func(p *plan) *string) setter {
	return func(p *plan, v string) error { *f(p) = v; return nil }
}

func list(f func(p *plan) *[]string) setter {
	return func(p *plan, v string) error { *f(p) = append(*f(p), v); return nil }
}

func boolean(f func(p *plan) *bool) setter {
	return func(p *plan, v string) error {
		b, err := truth(v)
		*f(p) = b
		return err
	}
}

// truth reads a flag's value; a flag without one is on.
func truth(v string) (bool, error) {
	if v == "" {
		return true, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("%q is neither true nor false", v)
	}
	return b, nil
}

func integer(f func(p *plan) *int64) setter {
	return func(p *plan, v string) (err error) {
		*f(p), err = strconv.ParseInt(v, 10, 64)
		return err
	}
}

func bytesOf(f func(p *plan) *int64) setter {
	return func(p *plan, v string) (err error) {
		if v == "-1" {
			*f(p) = -1
			return nil
		}
		*f(p), err = units.RAMInBytes(v)
		return err
	}
}

func pairs(f func(p *plan) *map[string]string, sep string) setter {
	return func(p *plan, v string) error {
		k, val, _ := strings.Cut(v, sep)
		if k == "" {
			return fmt.Errorf("%q has no name", v)
		}
		m := f(p)
		if *m == nil {
			*m = map[string]string{}
		}
		(*m)[k] = val
		return nil
	}
}

func throttle(f func(p *plan) *[]*blkiodev.ThrottleDevice, inBytes bool) setter {
	return func(p *plan, v string) error {
		dev, rate, ok := strings.Cut(v, ":")
		if !ok || !path.IsAbs(dev) {
			return fmt.Errorf("%q is not of the form /dev/name:rate", v)
		}
		var n int64
		var err error
		if inBytes {
			n, err = units.RAMInBytes(rate)
		} else {
			n, err = strconv.ParseInt(rate, 10, 64)
		}
		if err != nil || n < 0 {
			return fmt.Errorf("%q is no rate", rate)
		}
		*f(p) = append(*f(p), &blkiodev.ThrottleDevice{Path: dev, Rate: uint64(n)})
		return nil
	}
}

func (p *plan) healthcheck() *dcontainer.HealthConfig {
	if p.config().Healthcheck == nil {
		p.config().Healthcheck = &dcontainer.HealthConfig{}
	}
	return p.config().Healthcheck
}

func span(f func(p *plan) *time.Duration) setter {
	return func(p *plan, v string) (err error) { *f(p), err = time.ParseDuration(v); return err }
}

// parameters are the flags of `docker run` that can be given.
var parameters = map[string]setter{
	"add-host":        list(func(p *plan) *[]string { return &p.host().ExtraHosts }),
	"cap-add":         list(func(p *plan) *[]string { return &p.host().CapAdd }),
	"cap-drop":        list(func(p *plan) *[]string { return &p.host().CapDrop }),
	"dns-opt":         list(func(p *plan) *[]string { return &p.host().DNSOptions }),
	"dns-search":      list(func(p *plan) *[]string { return &p.host().DNSSearch }),
	"group-add":       list(func(p *plan) *[]string { return &p.host().GroupAdd }),
	"security-opt":    list(func(p *plan) *[]string { return &p.host().SecurityOpt }),
	"volumes-from":    list(func(p *plan) *[]string { return &p.host().VolumesFrom }),
	"link":            list(func(p *plan) *[]string { return &p.host().Links }),
	"net-alias":       list(func(p *plan) *[]string { return &p.endpoint().Aliases }),
	"cgroup-parent":   str(func(p *plan) *string { return &p.host().CgroupParent }),
	"cpuset-cpus":     str(func(p *plan) *string { return &p.host().CpusetCpus }),
	"cpuset-mems":     str(func(p *plan) *string { return &p.host().CpusetMems }),
	"domainname":      str(func(p *plan) *string { return &p.config().Domainname }),
	"hostname":        str(func(p *plan) *string { return &p.config().Hostname }),
	"runtime":         str(func(p *plan) *string { return &p.host().Runtime }),
	"stop-signal":     str(func(p *plan) *string { return &p.config().StopSignal }),
	"user":            str(func(p *plan) *string { return &p.config().User }),
	"volume-driver":   str(func(p *plan) *string { return &p.host().VolumeDriver }),
	"workdir":         str(func(p *plan) *string { return &p.config().WorkingDir }),
	"cgroupns":        func(p *plan, v string) error { p.host().CgroupnsMode = dcontainer.CgroupnsMode(v); return nil },
	"ipc":             func(p *plan, v string) error { p.host().IpcMode = dcontainer.IpcMode(v); return nil },
	"isolation":       func(p *plan, v string) error { p.host().Isolation = dcontainer.Isolation(v); return nil },
	"log-driver":      func(p *plan, v string) error { p.host().LogConfig.Type = v; return nil },
	"pid":             func(p *plan, v string) error { p.host().PidMode = dcontainer.PidMode(v); return nil },
	"userns":          func(p *plan, v string) error { p.host().UsernsMode = dcontainer.UsernsMode(v); return nil },
	"uts":             func(p *plan, v string) error { p.host().UTSMode = dcontainer.UTSMode(v); return nil },
	"privileged":      boolean(func(p *plan) *bool { return &p.host().Privileged }),
	"publish-all":     boolean(func(p *plan) *bool { return &p.host().PublishAllPorts }),
	"read-only":       boolean(func(p *plan) *bool { return &p.host().ReadonlyRootfs }),
	"cpu-period":      integer(func(p *plan) *int64 { return &p.host().CPUPeriod }),
	"cpu-quota":       integer(func(p *plan) *int64 { return &p.host().CPUQuota }),
	"cpu-rt-period":   integer(func(p *plan) *int64 { return &p.host().CPURealtimePeriod }),
	"cpu-rt-runtime":  integer(func(p *plan) *int64 { return &p.host().CPURealtimeRuntime }),
	"cpu-shares":      integer(func(p *plan) *int64 { return &p.host().CPUShares }),
	"memory-swap":     bytesOf(func(p *plan) *int64 { return &p.host().MemorySwap }),
	"shm-size":        bytesOf(func(p *plan) *int64 { return &p.host().ShmSize }),
	"memory":          bytesOf(func(p *plan) *int64 { return &p.host().Memory }),
	"label":           pairs(func(p *plan) *map[string]string { return &p.config().Labels }, "="),
	"log-opt":         pairs(func(p *plan) *map[string]string { return &p.host().LogConfig.Config }, "="),
	"storage-opt":     pairs(func(p *plan) *map[string]string { return &p.host().StorageOpt }, "="),
	"sysctl":          pairs(func(p *plan) *map[string]string { return &p.host().Sysctls }, "="),
	"annotation":      pairs(func(p *plan) *map[string]string { return &p.host().Annotations }, "="),
	"tmpfs":           pairs(func(p *plan) *map[string]string { return &p.host().Tmpfs }, ":"),
	"health-interval": span(func(p *plan) *time.Duration { return &p.healthcheck().Interval }),
	"health-timeout":  span(func(p *plan) *time.Duration { return &p.healthcheck().Timeout }),
	"health-start-period": span(func(p *plan) *time.Duration {
		return &p.healthcheck().StartPeriod
	}),
	"device-read-bps":   throttle(func(p *plan) *[]*blkiodev.ThrottleDevice { return &p.host().BlkioDeviceReadBps }, true),
	"device-write-bps":  throttle(func(p *plan) *[]*blkiodev.ThrottleDevice { return &p.host().BlkioDeviceWriteBps }, true),
	"device-read-iops":  throttle(func(p *plan) *[]*blkiodev.ThrottleDevice { return &p.host().BlkioDeviceReadIOps }, false),
	"device-write-iops": throttle(func(p *plan) *[]*blkiodev.ThrottleDevice { return &p.host().BlkioDeviceWriteIOps }, false),
	"device-cgroup-rule": list(func(p *plan) *[]string {
		return &p.host().DeviceCgroupRules
	}),
	"memory-reservation": bytesOf(func(p *plan) *int64 { return &p.host().MemoryReservation }),
	"net": func(p *plan, v string) error {
		p.host().NetworkMode = dcontainer.NetworkMode(v)
		return nil
	},
	"env": func(p *plan, v string) error {
		name, _, ok := strings.Cut(v, "=")
		if name == "" || !ok {
			return fmt.Errorf("%q is not of the form NAME=value: nothing is taken from the agent's own environment", v)
		}
		p.config().Env = append(slices.DeleteFunc(p.config().Env, func(kv string) bool { return strings.HasPrefix(kv, name+"=") }), v)
		return nil
	},
	"entrypoint": func(p *plan, v string) error {
		p.config().Entrypoint = []string{v}
		return nil
	},
	"cpus": func(p *plan, v string) error {
		n, err := strconv.ParseFloat(v, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is no number of cpus", v)
		}
		p.host().NanoCPUs, p.host().CPUPeriod, p.host().CPUQuota = int64(n*1e9), 0, 0
		return nil
	},
	"blkio-weight": func(p *plan, v string) error {
		n, err := strconv.ParseUint(v, 10, 16)
		p.host().BlkioWeight = uint16(n)
		return err
	},
	"dns": func(p *plan, v string) error {
		ip, err := netip.ParseAddr(v)
		p.host().DNS = append(p.host().DNS, ip)
		return err
	},
	"ip":  (*plan).addressOf,
	"ip6": (*plan).addressOf,
	"mac-address": func(p *plan, v string) error {
		return p.endpoint().MacAddress.UnmarshalText([]byte(v))
	},
	"init": func(p *plan, v string) error {
		b, err := truth(v)
		p.host().Init = &b
		return err
	},
	"oom-kill-disable": func(p *plan, v string) error {
		b, err := truth(v)
		p.host().OomKillDisable = &b
		return err
	},
	"oom-score-adj": func(p *plan, v string) (err error) {
		p.host().OomScoreAdj, err = strconv.Atoi(v)
		return err
	},
	"memory-swappiness": func(p *plan, v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		p.host().MemorySwappiness = &n
		return err
	},
	"pids-limit": func(p *plan, v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		p.host().PidsLimit = &n
		return err
	},
	"ulimit": func(p *plan, v string) error {
		u, err := units.ParseUlimit(v)
		p.host().Ulimits = append(p.host().Ulimits, u)
		return err
	},
	"device": func(p *plan, v string) error {
		f := strings.Split(v, ":")
		d := dcontainer.DeviceMapping{PathOnHost: f[0], PathInContainer: f[0], CgroupPermissions: "rwm"}
		switch {
		case len(f) > 3 || !path.IsAbs(f[0]):
			return fmt.Errorf("%q is not of the form /dev/host:/dev/container:rwm", v)
		case len(f) == 2 && !path.IsAbs(f[1]):
			d.CgroupPermissions = f[1]
		case len(f) >= 2:
			d.PathInContainer = f[1]
		}
		if len(f) == 3 {
			d.CgroupPermissions = f[2]
		}
		p.host().Devices = append(p.host().Devices, d)
		return nil
	},
	"gpus": func(p *plan, v string) error {
		r := dcontainer.DeviceRequest{Capabilities: [][]string{{"gpu"}}}
		switch n, err := strconv.Atoi(strings.TrimPrefix(v, "count=")); {
		case v == "all" || v == "":
			r.Count = -1
		case err == nil:
			r.Count = n
		case strings.HasPrefix(strings.Trim(v, `"`), "device="):
			r.DeviceIDs = strings.Split(strings.TrimPrefix(strings.Trim(v, `"`), "device="), ",")
		default:
			return fmt.Errorf("%q is none of all, a number, device=…", v)
		}
		p.host().DeviceRequests = append(p.host().DeviceRequests, r)
		return nil
	},
	"health-cmd": func(p *plan, v string) error {
		p.healthcheck().Test = []string{"CMD-SHELL", v}
		return nil
	},
	"health-retries": func(p *plan, v string) (err error) {
		p.healthcheck().Retries, err = strconv.Atoi(v)
		return err
	},
	"no-healthcheck": func(p *plan, v string) error {
		b, err := truth(v)
		if b {
			p.healthcheck().Test = []string{"NONE"}
		}
		return err
	},
	"expose": func(p *plan, v string) error {
		ports, err := network.ParsePortRange(v)
		if err != nil {
			return err
		}
		for port := range ports.All() {
			p.expose(port)
		}
		return nil
	},
	"publish": (*plan).publishText,
	"volume":  (*plan).volumeText,
	"mount":   (*plan).mountText,
}

func (p *plan) addressOf(v string) error {
	ip, err := netip.ParseAddr(v)
	if err != nil {
		return err
	}
	p.address(ip)
	return nil
}

// publishText reads [[ip:]hostPort:]containerPort[/proto].
func (p *plan) publishText(v string) error {
	text, proto, ok := strings.Cut(v, "/")
	if !ok {
		proto = "tcp"
	}
	i := strings.LastIndexByte(text, ':')
	port, err := network.ParsePort(text[i+1:] + "/" + proto)
	if err != nil {
		return err
	}
	host, ip := "", netip.Addr{}
	if i >= 0 {
		host = text[:i]
		if j := strings.LastIndexByte(host, ':'); j >= 0 {
			if ip, err = netip.ParseAddr(strings.Trim(host[:j], "[]")); err != nil {
				return err
			}
			host = host[j+1:]
		}
	}
	if host != "" {
		if _, err := strconv.ParseUint(host, 10, 16); err != nil {
			return fmt.Errorf("host port %q is no number; ranges are not given", host)
		}
	}
	p.publish(port, ip, host)
	return nil
}

// volumeText reads [source:]target[:options].
func (p *plan) volumeText(v string) error {
	f := strings.Split(v, ":")
	switch {
	case len(f) == 1 && path.IsAbs(f[0]):
		p.anonymous(f[0], false)
		return nil
	case len(f) == 2 || len(f) == 3:
		if !path.IsAbs(f[1]) || f[0] == "" {
			return fmt.Errorf("%q is not of the form source:/target:options", v)
		}
		p.host().Binds = append(p.host().Binds, v)
		return nil
	}
	return fmt.Errorf("%q is not of the form source:/target:options", v)
}

// mountText reads type=…,source=…,target=…,readonly.
func (p *plan) mountText(v string) error {
	m := mount.Mount{Type: mount.TypeVolume}
	for part := range strings.SplitSeq(v, ",") {
		k, val, _ := strings.Cut(part, "=")
		var err error
		switch k {
		case "type":
			m.Type = mount.Type(val)
		case "source", "src":
			m.Source = val
		case "target", "dst", "destination":
			m.Target = val
		case "readonly", "ro":
			m.ReadOnly, err = truth(val)
		case "bind-propagation":
			m.BindOptions = &mount.BindOptions{Propagation: mount.Propagation(val)}
		case "tmpfs-size":
			if m.TmpfsOptions == nil {
				m.TmpfsOptions = &mount.TmpfsOptions{}
			}
			m.TmpfsOptions.SizeBytes, err = units.RAMInBytes(val)
		case "volume-driver":
			m.VolumeOptions = &mount.VolumeOptions{DriverConfig: &mount.Driver{Name: val}}
		default:
			err = fmt.Errorf("the option %q of a mount is not known here", k)
		}
		if err != nil {
			return err
		}
	}
	if !path.IsAbs(m.Target) {
		return errors.New("a mount needs an absolute target")
	}
	p.host().Mounts = append(p.host().Mounts, m)
	return nil
}
