package read

import (
	"cmp"
	"net/netip"
	"strings"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/monitor/view"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// Ids of nodes that stand for what is outside, as Scope forms them.
const (
	incomingInternet = "in-theinternet"
	outgoingInternet = "out-theinternet"
	uncontained      = "pseudo:uncontained:"
	unmanaged        = "pseudo:unmanaged:"
)

// Names of the topologies of Scope's reports, which ids and details are made of. Those of what Scope does not know are ours.
const (
	topoPseudo     = "pseudo"
	topoProcess    = "process"
	topoContainer  = "container"
	topoImage      = "container_image"
	topoPod        = "pod"
	topoService    = "service"
	topoHost       = "host"
	topoDeployment = "deployment"
)

// tagged is how Scope names nearly everything: `name;<tag>`.
func tagged(name, tag string) string { return name + ";<" + tag + ">" }

// bare is an id of ours without its kind.
func bare(id string) string {
	_, rest, _ := strings.Cut(id, ";")
	return rest
}

// controllerTopologies are the names in Scope's reports of what Kubernetes calls controllers, and the tags of their ids.
var controllerTopologies = map[string]struct{ topology, tag, title string }{
	"deployment":  {topoDeployment, "deployment", "Deployment"},
	"daemonset":   {"daemon_set", "daemonset", "DaemonSet"},
	"statefulset": {"stateful_set", "statefulset", "StatefulSet"},
	"cronjob":     {"cron_job", "cronjob", "CronJob"},
	"job":         {"job", "job", "Job"},
	"replicaset":  {"replica_set", "replica_set", "ReplicaSet"},
}

// splitController takes apart an id of the form controller;namespace;kind;name.
func splitController(id string) (namespace, kind, name string) {
	namespace, rest, _ := strings.Cut(bare(id), ";")
	kind, name, _ = strings.Cut(rest, ";")
	return namespace, kind, name
}

// splitService takes apart an id of the form service;namespace;name.
func splitService(id string) (namespace, name string) {
	namespace, name, _ = strings.Cut(bare(id), ";")
	return namespace, name
}

// entityID gives Scope's id and topology for an entity, or for the id of one that is not known itself. e may be nil.
func entityID(id string, e *estate.Entity) (string, string) {
	switch kind := topology.KindOf(id); kind {
	case topology.KindHost:
		return tagged(bare(id), "host"), topoHost
	case topology.KindContainer:
		host, short, _ := strings.Cut(bare(id), ";")
		full := short
		if e != nil {
			full = cmp.Or(e.Attr(topology.AttrContainerID), short)
		}
		if !unique(full) {
			// Scope's ids of containers do not name the host: what may be there twice gets it.
			full = host + "-" + full
		}
		return tagged(full, "container"), topoContainer
	case topology.KindProcess:
		host, rest, _ := strings.Cut(bare(id), ";")
		pid, _, _ := strings.Cut(rest, ";")
		return host + ";" + pid, topoProcess
	case topology.KindImage:
		name, _ := splitImage(bare(id))
		return tagged(name, "container_image"), topoImage
	case topology.KindPod:
		return tagged(bare(id), "pod"), topoPod
	case topology.KindController:
		namespace, kind, name := splitController(id)
		c, ok := controllerTopologies[kind]
		if !ok {
			c = controllerTopologies["deployment"]
		}
		return tagged(namespace+"/"+name, c.tag), c.topology
	case topology.KindService:
		namespace, name := splitService(id)
		return tagged(namespace+"/"+name, "service"), topoService
	default:
		return tagged(bare(id), kind), kind
	}
}

// unique reports whether a container's id is one that no other host has: a hexadecimal one as runtimes draw them, or a long one.
func unique(id string) bool {
	if len(id) < 12 {
		return false
	}
	for i := 0; i < len(id) && len(id) < 32; i++ {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// splitImage takes the registry off an image's name and divides what is left into name and tag, as Scope does.
func splitImage(image string) (name, tag string) {
	if parts := strings.SplitN(image, "/", 3); len(parts) == 3 {
		image = parts[1] + "/" + parts[2]
	}
	name, tag, _ = strings.Cut(image, ":")
	return name, tag
}

// nodeID gives Scope's id and topology for a node of a picture. The Internet has two ids: out says which is meant. It is ""
// for what Scope shows nowhere: ends of connections that nothing is known of.
func nodeID(t *desc, n view.Node, own *estate.Entity, out bool) (string, string) {
	if n.Pseudo {
		rest := bare(n.ID)
		switch n.Kind {
		case topology.KindInternet:
			if out {
				return outgoingInternet, topoPseudo
			}
			return incomingInternet, topoPseudo
		case topology.KindUncontain:
			if t.kind == topology.KindContainer || t.kind == topology.KindImage {
				return uncontained + rest, topoPseudo
			}
			return unmanaged + rest, topoPseudo
		case topology.KindUnmanaged:
			if _, err := netip.ParseAddr(rest); err == nil || rest == "other" {
				return ";" + rest + ";", topoPseudo // an endpoint: scope;address;port
			}
			return unmanaged + rest, topoPseudo
		}
		return "", ""
	}
	if n.Group && topology.KindOf(n.ID) == topology.KindGroup {
		if t.kind == topology.KindProcess {
			return n.Label, "group:process:name"
		}
		return n.Label, "group:container:docker_container_hostname"
	}
	return entityID(n.ID, own)
}
