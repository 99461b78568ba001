package report

import (
	"strconv"
	"strings"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/scope"
)

// controllerKinds are Scope's topologies of controllers: how parents name them, and how Kubernetes does. Older probes report replica
// sets as well, between a pod and its deployment.
var controllerKinds = []struct{ topology, parent, kind string }{
	{scope.Deployment, "deployment", "deployment"},
	{scope.DaemonSet, "daemon_set", "daemonset"},
	{scope.StatefulSet, "stateful_set", "statefulset"},
	{scope.CronJob, "cron_job", "cronjob"},
	{scope.ReplicaSet, "replica_set", "replicaset"},
	{scope.Job, "job", "job"},
}

// kubernetes begins the entity of an object. ok is false when it has no name that can stand in an id, or is deleted.
func (p *picture) kubernetes(n *scope.Node, kind string) (e *probev1.Entity, namespace, name string, ok bool) {
	namespace, name = n.Value("kubernetes_namespace"), n.Value("kubernetes_name")
	if n.Value("kubernetes_state") == stateDeleted {
		return nil, "", "", false
	}
	if hostName(name) == "" || namespace != "" && hostName(namespace) == "" {
		p.left.Named++
		return nil, "", "", false
	}
	e = &probev1.Entity{Kind: kind, Label: name}
	if namespace != "" {
		e.Parents = append(e.Parents, topology.ID(topology.KindNamespace, namespace))
	}
	if at, err := time.Parse(time.RFC3339Nano, n.Value("kubernetes_created")); err == nil {
		e.StartedMs = at.UnixMilli()
	}
	return e, namespace, name, true
}

func (p *picture) namespace(n *scope.Node, shown *scope.Shown) {
	e, _, name, ok := p.kubernetes(n, topology.KindNamespace)
	if !ok {
		return
	}
	e.Id, e.Parents = topology.ID(topology.KindNamespace, name), nil
	var a attrs
	a.labels(n, "kubernetes_labels_")
	p.put(e, n, shown, a)
}

func (p *picture) controller(kind string, n *scope.Node, shown *scope.Shown) {
	e, namespace, name, ok := p.kubernetes(n, topology.KindController)
	if !ok || namespace == "" {
		return
	}
	e.Id = topology.ID(topology.KindController, namespace, kind, name)
	var a attrs
	a.add("namespace", namespace)
	a.add("controller", kind)
	a.labels(n, "kubernetes_labels_")
	p.names[n.ID] = e.Id
	p.put(e, n, shown, a)
}

func (p *picture) service(n *scope.Node, shown *scope.Shown) {
	e, namespace, name, ok := p.kubernetes(n, topology.KindService)
	if !ok || namespace == "" {
		return
	}
	e.Id = topology.ID(topology.KindService, namespace, name)
	var a attrs
	a.add("namespace", namespace)
	a.add("cluster_ip", n.Value("kubernetes_ip"))
	a.labels(n, "kubernetes_labels_")
	p.names[n.ID] = e.Id
	p.put(e, n, shown, a)
}

func (p *picture) pod(n *scope.Node, shown *scope.Shown) {
	e, namespace, name, ok := p.kubernetes(n, topology.KindPod)
	uid := scope.Tagged(n.ID, "pod")
	if !ok || hostName(uid) == "" {
		return
	}
	e.Id, e.State = topology.ID(topology.KindPod, uid), strings.ToLower(topology.Printable(n.Value("kubernetes_state"), 32))
	for _, ids := range n.Parents {
		for _, id := range ids {
			if x := p.names[id]; x != "" {
				e.Parents = append(e.Parents, x)
			}
			if h := hostName(scope.Tagged(id, "host")); h != "" {
				e.Parents = append(e.Parents, topology.HostID(h))
			}
		}
	}
	var a attrs
	a.add("namespace", namespace)
	a.add("pod_name", name)
	if n.Value("kubernetes_is_in_host_network") == "true" {
		a.add(topology.AttrHostNetwork, "1") // its address is its host's
	} else {
		a.add(topology.AttrAddrs, n.Value("kubernetes_ip"))
	}
	if namespace == "kube-system" {
		a.add(topology.AttrSystem, "1")
	}
	if r, err := strconv.Atoi(n.Value("kubernetes_restart_count")); err == nil && r > 0 {
		a.add("restarts", strconv.Itoa(r))
	}
	a.labels(n, "kubernetes_labels_")
	p.put(e, n, shown, a)
}
