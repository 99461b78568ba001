package read

import (
	"slices"
	"strings"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// What Scope takes for infrastructure by its name or image, besides what our probes do.
var (
	systemNames  = []string{"weavescope", "weavedns", "weave", "weaveproxy", "weaveexec", "ecs-agent"}
	systemImages = []string{
		"swarm", "weaveworks/scope", "weaveworks/weavedns", "weaveworks/weave", "weaveworks/weaveproxy", "weaveworks/weaveexec", "amazon/amazon-ecs-agent",
		"openshift/origin-pod",
	}
	pauseImages = []string{"google_containers/pause", "k8s.gcr.io/pause", "eks/pause"}
)

// isSystem reports whether a container is one of Scope's "System containers".
func isSystem(e *estate.Entity) bool {
	if e.Attr(topology.AttrSystem) == "1" || slices.Contains(systemNames, e.Attr(topology.AttrName)) {
		return true
	}
	full := e.Attr(topology.AttrImage)
	if name, _ := splitImage(full); slices.Contains(systemImages, name) {
		return true
	}
	return slices.ContainsFunc(pauseImages, func(p string) bool { return strings.Contains(full, p) }) ||
		e.Attr(topology.AttrLabel+"works.weave.role") == "system" || e.Attr(topology.AttrLabel+"io.kubernetes.pod.namespace") == "kube-system"
}

func asInt(yes bool) int {
	if yes {
		return 1
	}
	return 0
}
