package topology

import (
	"strconv"
	"strings"
)

// Kinds of entities. The kind of an entity is also the part of its id before the first ';'.
const (
	KindHost       = "host"
	KindContainer  = "container"
	KindProcess    = "process"
	KindImage      = "image"
	KindPod        = "pod"
	KindNode       = "node" // Kubernetes' word for a host
	KindController = "controller"
	KindService    = "service"
	KindNamespace  = "namespace"
	KindTask       = "task"
	KindApp        = "app"
	KindFramework  = "framework"
	KindAgent      = "agent"
	KindLabel      = "label"
	KindGroup      = "group"
	KindInternet   = "internet"
	KindUnmanaged  = "unmanaged"
	KindUncontain  = "uncontained"
	KindUnknown    = "unknown"
)

// States of containers and other things that start and stop.
const (
	StateRunning    = "running"
	StatePaused     = "paused"
	StateRestarting = "restarting"
	StateCreated    = "created"
	StateExited     = "exited"
	StateDead       = "dead"
)

// Names of attributes that joins and views rely on. Labels of a container are attributes with the prefix AttrLabel.
const (
	AttrLabel       = "label."
	AttrAddrs       = "addrs" // of a host or container: addresses separated by spaces
	AttrImage       = "image"
	AttrContainerID = "container_id"
	AttrRuntime     = "runtime"
	AttrName        = "name"
	AttrHostname    = "hostname"
	AttrPID         = "pid"
	AttrPPID        = "ppid"
	AttrCmdline     = "cmdline"
	AttrSystem      = "system" // "1": infrastructure, hidden by default
	AttrHostNetwork = "host_network"
	AttrCPUs        = "cpus"
	AttrTask        = "task"
	AttrApp         = "app"
)

var shapes = map[string]string{
	KindHost: "circle", KindContainer: "hexagon", KindProcess: "square", KindImage: "hexagon", KindPod: "heptagon", KindNode: "circle",
	KindController: "pentagon", KindService: "heptagon", KindNamespace: "sheet", KindTask: "hexagon", KindApp: "octagon",
	KindFramework: "triangle", KindAgent: "circle", KindLabel: "sheet", KindGroup: "hexagon", KindInternet: "cloud",
	KindUnmanaged: "circle", KindUncontain: "square", KindUnknown: "circle",
}

// Shape is the outline with which a kind is drawn.
func Shape(kind string) string {
	if s, ok := shapes[kind]; ok {
		return s
	}
	return "circle"
}

// KindOf gives the kind that an entity id begins with.
func KindOf(id string) string {
	kind, _, _ := strings.Cut(id, ";")
	return kind
}

// HostID names a host by its host name.
func HostID(hostname string) string { return KindHost + ";" + hostname }

// ContainerID names a container of a host. Long hexadecimal ids are cut to 12 characters, as the runtimes' tools show them.
func ContainerID(hostname, id string) string {
	return KindContainer + ";" + hostname + ";" + ShortID(id)
}

// ShortID cuts a long hexadecimal container id to 12 characters and leaves every other id alone.
func ShortID(id string) string {
	if len(id) < 32 {
		return id
	}
	for i := 0; i < len(id); i++ {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return id
		}
	}
	return id[:12]
}

// ProcessID names a process by its pid and its start time in clock ticks since boot, so that a reused pid is a new process.
func ProcessID(hostname string, pid int, start uint64) string {
	return KindProcess + ";" + hostname + ";" + strconv.Itoa(pid) + ";" + strconv.FormatUint(start, 10)
}

// ID joins a kind and a name, for entities that are not bound to one host (images, pods, apps…).
func ID(kind string, parts ...string) string { return kind + ";" + strings.Join(parts, ";") }
