package native

import (
	"encoding/json"
	"fmt"
	"os"
	"path"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/orchestrator/orchestrator/internal/agent/confine"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/seccomp"
)

// rlimitNames are the OCI names of the kernel's numbers.
var rlimitNames = []string{
	"RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CORE", "RLIMIT_RSS", "RLIMIT_NPROC", "RLIMIT_NOFILE",
	"RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_LOCKS", "RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME",
}

// ociConfig is what an OCI runtime is told of a container: the same settings that the helper would carry out itself. Of
// namespaces there is only the mount namespace: the others, and the cgroups, are those that the runtime is started in.
func (c *Containerizer) ociConfig(settings *confine.Settings, p *spec.Process, root *spec.Root) (json.RawMessage, error) {
	s := specs.Spec{
		Version: "1.0.2", // what Debian's runtimes know; nothing of later versions is used
		Root:    &specs.Root{Readonly: root.ReadOnly},
		Process: &specs.Process{NoNewPrivileges: p.NoNewPrivs, OOMScoreAdj: p.OOMScoreAdj},
		Linux: &specs.Linux{
			Namespaces:  []specs.LinuxNamespace{{Type: specs.MountNamespace}},
			MaskedPaths: settings.MaskedPaths, ReadonlyPaths: settings.ReadOnlyPaths,
			RootfsPropagation: "rslave",
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "nodev", "noexec"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "nodev", "noexec", "ro"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=64k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "nodev", "noexec", "mode=1777"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "nodev", "noexec"}},
		},
	}
	if root.ReadOnly {
		for target, mode := range map[string]string{"/tmp": "mode=1777", "/run": "mode=755"} {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: target, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", mode}})
		}
	}
	for _, d := range root.Devices {
		kind := "c"
		if d.Block {
			kind = "b"
		}
		s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{
			Path: path.Join("/dev", d.Name), Type: kind, Major: int64(d.Major), Minor: int64(d.Minor), FileMode: ptr(os.FileMode(d.Mode)),
		})
	}
	for _, r := range p.Rlimits {
		if r.Resource < 0 || r.Resource >= len(rlimitNames) {
			return nil, fmt.Errorf("rlimit %d is not known to OCI runtimes", r.Resource)
		}
		s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{Type: rlimitNames[r.Resource], Soft: r.Soft, Hard: r.Hard})
	}
	if k := settings.Capabilities; k != nil {
		// Without an effective set root has what the bounding set allows, and other users nothing: execve sees to that.
		may := confine.Names(k.Bounding)
		caps := &specs.LinuxCapabilities{Bounding: may, Effective: may, Permitted: may, Inheritable: []string{}, Ambient: []string{}}
		if k.Effective != nil {
			// Whoever the user is: ambient. A configuration has no way to give root less than its bounding set.
			is := confine.Names(k.Effective)
			caps = &specs.LinuxCapabilities{Bounding: is, Effective: is, Permitted: is, Inheritable: is, Ambient: is}
		}
		s.Process.Capabilities = caps
	}
	if settings.Seccomp != "" {
		var bounding []confine.Capability
		if settings.Capabilities != nil {
			bounding = settings.Capabilities.Bounding
		}
		profile, err := seccomp.Store{Dir: c.cfg.SeccompDir}.Load(settings.Seccomp, bounding)
		if err != nil {
			return nil, err
		}
		s.Linux.Seccomp = profile
	}
	return json.Marshal(&s)
}
