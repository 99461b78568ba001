package native

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/confine"
	"github.com/orchestrator/orchestrator/internal/agent/projectquota"
)

// isolation is what containers here get.
type isolation struct {
	on  []string
	off map[string]string // what could be on elsewhere, and why it is not here

	host confine.Host // what package confine has to know of it

	root    bool // may switch users, mount and enter namespaces
	cgroups bool
	pid     bool // a PID namespace each
	mount   bool // a mount namespace where volumes or a PID namespace ask for it
	disk    bool
	quota   *projectquota.Store // of disk/xfs; nil: disk use is not the file system's business
}

// The two ways to know what a container has on disk: to add it up, or to let the file system keep account.
const (
	isolateDisk  = "disk/du"
	isolateQuota = "disk/xfs"
)

// isolatePorts looks at who listens on which port.
const isolatePorts = "network/ports"

// groupController names the control group controller that an isolator needs.
var groupController = map[string]string{
	"cgroups/cpu": "cpu", "cgroups/mem": "memory", "cgroups/pids": "pids", "cgroups/devices": "devices", "cgroups/blkio": "blkio",
	"cgroups/cpuset": "cpuset",
}

// aliases are Mesos' short names.
var aliases = map[string][]string{
	"process":    {"posix/cpu", "posix/mem"},
	"cgroups":    {"cgroups/cpu", "cgroups/mem"},
	"posix/disk": {"disk/du"},
	// Which devices a container may use is enforced by control groups.
	"linux/devices":    {"linux/devices", "cgroups/devices"},
	confine.IsolateGPU: {confine.IsolateGPU, "cgroups/devices"},
}

// known are the isolators of Mesos that this containerizer gives. The value says whether it takes root.
var known = map[string]bool{
	"posix/cpu": false, "posix/mem": false, "posix/rlimits": false, "filesystem/posix": false, "filesystem/linux": true,
	"cgroups/all": true, "cgroups/cpu": true, "cgroups/mem": true, "cgroups/pids": true, "namespaces/pid": true,
	"namespaces/ipc": true, isolateDisk: false, isolateQuota: true, "volume/sandbox_path": false, "volume/host_path": true, "linux/nnp": false,
	"environment_secret": false, "linux/capabilities": true, "linux/seccomp": true, "linux/devices": true, "cgroups/devices": true,
	"cgroups/blkio": true, "cgroups/cpuset": true, "network/cni": true, isolatePorts: true, "volume/secret": true,
	confine.IsolateUser: true, confine.IsolateGPU: true,
}

// chooseIsolation turns the flag into what will be done. Without the flag it takes the best that the host gives and says
// what is missing; with it, what is asked for and can't be given is an error.
func chooseIsolation(cfg Config, images Images) (isolation, *cgroup.Manager, error) {
	iso := isolation{off: make(map[string]string), root: os.Geteuid() == 0}
	auto := strings.TrimSpace(cfg.Isolation) == ""
	want := []string{
		"cgroups/cpu", "cgroups/mem", "cgroups/pids", "namespaces/pid", "filesystem/linux", "volume/host_path",
		"volume/sandbox_path", "posix/rlimits", "disk/du", "linux/capabilities", "linux/seccomp", "network/cni", "volume/secret",
	}
	if !auto {
		want = nil
		for _, f := range strings.Split(cfg.Isolation, ",") {
			f = strings.TrimSpace(f)
			if a, ok := aliases[f]; ok {
				want = append(want, a...)
				continue
			}
			if _, ok := known[f]; !ok {
				return iso, nil, fmt.Errorf("isolation %q is not known here; known are: %s", f, strings.Join(sortedKeys(known), ", "))
			}
			want = append(want, f)
		}
		want = append(want, "volume/sandbox_path", "posix/rlimits") // always on, as in Mesos
	}
	if slices.Contains(want, isolateDisk) && slices.Contains(want, isolateQuota) {
		return iso, nil, fmt.Errorf("isolation: %s and %s are two ways to the same end: name one of them", isolateDisk, isolateQuota)
	}
	var groups *cgroup.Manager
	var groupsErr error
	needGroups := slices.ContainsFunc(want, func(s string) bool { return strings.HasPrefix(s, "cgroups/") })
	if needGroups {
		if !iso.root {
			groupsErr = fmt.Errorf("the agent does not run as root")
		} else {
			var h *cgroup.Host
			if h, groupsErr = cgroup.Detect(); groupsErr == nil {
				for _, w := range sortedKeys(groupController) {
					controller := groupController[w]
					if slices.Contains(want, "cgroups/all") && !slices.Contains(want, w) && h.Has(controller) {
						want = append(want, w)
					}
					if slices.Contains(want, w) {
						cfg.Cgroups.Controllers = append(cfg.Cgroups.Controllers, controller)
					}
				}
				groups, groupsErr = cgroup.New(h, cfg.Cgroups)
			}
		}
	}
	for _, w := range want {
		var why error
		switch {
		case w == confine.IsolateCNI && cfg.Networks == nil:
			why = fmt.Errorf("no container networks are configured (--network_cni_config_dir, --network_cni_plugins_dir)")
			if auto {
				iso.off[w] = why.Error()
				continue // nobody misses what nobody configured
			}
		case w == isolatePorts && !needGroups:
			why = fmt.Errorf("it finds a container's processes by its control group: name a cgroups isolator as well")
		case w == confine.IsolateSeccomp && unix.Prctl(unix.PR_GET_SECCOMP, 0, 0, 0, 0) != nil:
			why = fmt.Errorf("the kernel has no seccomp")
		case w == confine.IsolateUser && iso.root:
			why = probeUsers(cfg, images)
		case strings.HasPrefix(w, "cgroups/"):
			why = groupsErr
			if c := groupController[w]; why == nil && c != "" && !groups.Has(c) {
				why = fmt.Errorf("the host has no cgroup controller %s", c)
			}
		case known[w] && !iso.root:
			why = fmt.Errorf("the agent does not run as root")
		case w == isolateQuota:
			iso.quota, why = projectquota.Open(cfg.WorkDir, cfg.Projects)
		}
		if why != nil {
			if !auto {
				return iso, groups, fmt.Errorf("isolation %s: %w; leave it out of the isolation flag or leave the flag out", w, why)
			}
			iso.off[w] = why.Error()
			continue
		}
		if !slices.Contains(iso.on, w) {
			iso.on = append(iso.on, w)
		}
		switch w {
		case "namespaces/pid":
			iso.pid = true
		case isolateDisk:
			iso.disk = true
		}
	}
	iso.cgroups = groups != nil
	iso.mount = iso.root && (auto || slices.Contains(iso.on, "filesystem/linux") || slices.Contains(iso.on, confine.IsolateUser) || iso.pid)
	if !iso.root {
		iso.off["switch_user"] = "the agent does not run as root: all tasks run as its own user"
	}
	slices.Sort(iso.on)
	iso.host = cfg.Confine
	iso.host.Root, iso.host.Mounts, iso.host.Off = iso.root, iso.mount, iso.off
	iso.host.Isolators = make(map[string]bool, len(iso.on))
	for _, on := range iso.on {
		iso.host.Isolators[on] = true
	}
	return iso, groups, nil
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
