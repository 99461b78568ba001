package probe

import (
	"regexp"
	"strings"
)

// containerRef names a container as its cgroup path tells: which runtime made it and under which id.
type containerRef struct {
	runtime string
	id      string
	pod     string // the uid of its Kubernetes pod
	cgroup  string // its directory as its runtime named it, when the name alone tells nothing
}

// parseCgroups reads /proc/PID/cgroup: controller to path, "" for version 2, "name=systemd" for named hierarchies.
func parseCgroups(s string) map[string]string {
	out := make(map[string]string, 4)
	for line := range strings.Lines(s) {
		parts := strings.SplitN(strings.TrimRight(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		// Inside a cgroup namespace the paths of others begin with /.. steps.
		path := parts[2]
		for strings.HasPrefix(path, "/../") {
			path = path[3:]
		}
		if len(path) > 4096 || strings.Contains(path, "/../") {
			continue
		}
		for c := range strings.SplitSeq(parts[1], ",") {
			out[c] = path
		}
	}
	return out
}

const hex64 = `[0-9a-f]{64}`

// The patterns of container cgroups, matched against one component of a path at a time, with the path before it.
var (
	reScope  = regexp.MustCompile(`^(docker|cri-containerd|crio|libpod|podman|containerd|nerdctl|cri-o)-(` + hex64 + `)(?:\.scope)?$`)
	reColon  = regexp.MustCompile(`^(?:.*:)?(cri-containerd|containerd|docker|crio|nerdctl):(` + hex64 + `)$`)
	reHex    = regexp.MustCompile(`^` + hex64 + `$`)
	rePodUID = regexp.MustCompile(`pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})`)
	reUUID   = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
)

// containerOf finds the innermost container in the cgroup paths of a process.
func containerOf(cgroups map[string]string) containerRef {
	for _, controller := range []string{"", "name=systemd", "memory", "pids", "cpu", "cpuacct", "freezer", "devices", "blkio"} {
		if path, ok := cgroups[controller]; ok && len(path) > 1 {
			if ref := containerInPath(path); ref.id != "" {
				return ref
			}
		}
	}
	return containerRef{}
}

// containerInPath finds the innermost container in one cgroup path.
func containerInPath(path string) (ref containerRef) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	mesos := ""
	for i, part := range parts {
		before := ""
		if i > 0 {
			before = parts[i-1]
		}
		switch {
		case reScope.MatchString(part):
			m := reScope.FindStringSubmatch(part)
			ref.runtime, ref.id = runtimeName(m[1]), m[2]
		case reColon.MatchString(part):
			m := reColon.FindStringSubmatch(part)
			ref.runtime, ref.id = runtimeName(m[1]), m[2]
		case reHex.MatchString(part):
			ref.id = part
			switch {
			case before == "docker", before == "libpod_parent", before == "actions_job":
				ref.runtime = runtimeName(before)
			case strings.HasPrefix(path, "/kubepods"):
				ref.runtime = "kubernetes"
			case ref.runtime == "":
				ref.runtime = "oci"
			}
		case (before == "mesos" || strings.HasPrefix(before, "orchestrator")) && reUUID.MatchString(part):
			// The Mesos containerizer: <root>/<container id>, nested ones below that again in a directory "mesos".
			if mesos != "" {
				mesos += "."
			}
			mesos += part
			ref.runtime, ref.id = "mesos", mesos
		case strings.HasPrefix(part, "lxc.payload."):
			ref.runtime, ref.id = "lxc", strings.TrimPrefix(part, "lxc.payload.")
		case before == "lxc" && i == 1:
			ref.runtime, ref.id = "lxc", part
		case strings.HasPrefix(part, "machine-") && strings.HasSuffix(part, ".scope"):
			ref.runtime, ref.id = "nspawn", strings.TrimSuffix(strings.TrimPrefix(part, "machine-"), ".scope")
		}
	}
	if ref.id != "" {
		if m := rePodUID.FindStringSubmatch(path); m != nil {
			ref.pod = strings.ReplaceAll(m[1], "_", "-")
		}
	}
	return ref
}

func runtimeName(s string) string {
	switch s {
	case "cri-containerd", "nerdctl":
		return "containerd"
	case "crio", "cri-o":
		return "cri-o"
	case "libpod", "libpod_parent":
		return "podman"
	case "actions_job":
		return "docker"
	}
	return s
}

// cutPath gives the part of a cgroup path up to and with the container's own directory, so that what the container makes
// below it is counted with it.
func cutPath(path string, ref containerRef) string {
	if ref.cgroup != "" {
		return ref.cgroup
	}
	last := ref.id
	if i := strings.LastIndexByte(last, '.'); ref.runtime == "mesos" && i >= 0 {
		last = last[i+1:]
	}
	i := strings.LastIndex(path, last)
	if i < 0 {
		return path
	}
	if j := strings.IndexByte(path[i:], '/'); j >= 0 {
		return path[:i+j]
	}
	return path
}
