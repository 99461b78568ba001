package probe

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// kubeKind is a kind of objects that is watched.
type kubeKind struct {
	name     string   // as in a role's resources
	paths    []string // the newest first: the next is tried where the server does not have it
	metadata bool     // its metadata is all that is needed
	limit    int
}

// kubeKinds lists what is watched. ReplicaSets, of which a cluster keeps many old ones, and Jobs only lead from a pod to what
// made them: their metadata will do.
func kubeKinds() []kubeKind {
	return []kubeKind{
		{"pods", []string{"/api/v1/pods"}, false, 20_000},
		{"services", []string{"/api/v1/services"}, false, 5000},
		{"nodes", []string{"/api/v1/nodes"}, false, 5000},
		{"namespaces", []string{"/api/v1/namespaces"}, true, 5000},
		{"deployments", []string{"/apis/apps/v1/deployments"}, false, 10_000},
		{"daemonsets", []string{"/apis/apps/v1/daemonsets"}, false, 5000},
		{"statefulsets", []string{"/apis/apps/v1/statefulsets"}, false, 5000},
		{"replicasets", []string{"/apis/apps/v1/replicasets"}, true, 50_000},
		{"jobs", []string{"/apis/batch/v1/jobs"}, true, 20_000},
		{"cronjobs", []string{"/apis/batch/v1/cronjobs", "/apis/batch/v1beta1/cronjobs"}, false, 5000},
	}
}

type kubeOwner struct {
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
	Controller bool   `json:"controller"`
}

// kubeObject is what is read of any object: each kind has some of it.
type kubeObject struct {
	Metadata struct {
		UID       string            `json:"uid"`
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
		Created   time.Time         `json:"creationTimestamp"`
		Deleted   *time.Time        `json:"deletionTimestamp"`
		Owners    []kubeOwner       `json:"ownerReferences"`
	} `json:"metadata"`
	Spec struct {
		NodeName      string          `json:"nodeName"`
		HostNetwork   bool            `json:"hostNetwork"`
		Replicas      *int            `json:"replicas"`
		Selector      json.RawMessage `json:"selector"` // of services a map, of controllers more
		ClusterIP     string          `json:"clusterIP"`
		Type          string          `json:"type"`
		Schedule      string          `json:"schedule"`
		Suspend       bool            `json:"suspend"`
		Unschedulable bool            `json:"unschedulable"`
		Ports         []struct {
			Name       string `json:"name"`
			Port       int    `json:"port"`
			TargetPort any    `json:"targetPort"`
			Protocol   string `json:"protocol"`
			NodePort   int    `json:"nodePort"`
		} `json:"ports"`
	} `json:"spec"`
	Status struct {
		Phase     string    `json:"phase"`
		Reason    string    `json:"reason"`
		Message   string    `json:"message"`
		PodIP     string    `json:"podIP"`
		QOS       string    `json:"qosClass"`
		StartTime time.Time `json:"startTime"`
		PodIPs    []struct {
			IP string `json:"ip"`
		} `json:"podIPs"`
		Conditions []struct {
			Type    string `json:"type"`
			Status  string `json:"status"`
			Reason  string `json:"reason"`
			Message string `json:"message"`
		} `json:"conditions"`
		Containers []kubeContainer `json:"containerStatuses"`
		Init       []kubeContainer `json:"initContainerStatuses"`
		Addresses  []struct {
			Type    string `json:"type"`
			Address string `json:"address"`
		} `json:"addresses"`
		NodeInfo struct {
			Kubelet string `json:"kubeletVersion"`
			Runtime string `json:"containerRuntimeVersion"`
		} `json:"nodeInfo"`
		Ready   int `json:"readyReplicas"`
		Number  int `json:"numberReady"`            // of daemon sets
		Desired int `json:"desiredNumberScheduled"` // of daemon sets
	} `json:"status"`
}

type kubeContainer struct {
	Name     string `json:"name"`
	Ready    bool   `json:"ready"`
	Restarts int    `json:"restartCount"`
	State    struct {
		Waiting *struct {
			Reason  string `json:"reason"`
			Message string `json:"message"`
		} `json:"waiting"`
	} `json:"state"`
	Last struct {
		Terminated *struct {
			Reason string `json:"reason"`
		} `json:"terminated"`
	} `json:"lastState"`
}

// decodeKube reads an object. What has no name that can stand in an id is left out.
func decodeKube(raw json.RawMessage) (*kubeObject, error) {
	o := &kubeObject{}
	if err := json.Unmarshal(raw, o); err != nil {
		return nil, fmt.Errorf("an object can't be read: %w", err)
	}
	m := &o.Metadata
	if m.UID == "" || m.Name == "" || strings.Contains(m.UID+m.Name+m.Namespace, ";") || len(m.UID) > 64 || len(m.Name)+len(m.Namespace) > 400 {
		return nil, nil //nolint:nilnil // not an error of the watch
	}
	return o, nil
}

func (o *kubeObject) owner() *kubeOwner {
	for i := range o.Metadata.Owners {
		if o.Metadata.Owners[i].Controller {
			return &o.Metadata.Owners[i]
		}
	}
	return nil
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func reason(code string, severity uint32, text string) *probev1.Reason {
	return &probev1.Reason{Code: code, Severity: severity, Text: topology.Printable(text, topology.MaxLabel)}
}

// kubeCluster is a consistent look at all objects, by kind and uid.
type kubeCluster map[string]map[string]*kubeObject

func controllerID(namespace, kind, name string) string {
	return topology.ID(topology.KindController, namespace, strings.ToLower(kind), name)
}

// maker follows owners from a pod to what a person made: pod, replica set, deployment.
func (c kubeCluster) maker(o *kubeObject) string {
	own := o.owner()
	if own == nil || strings.Contains(own.Kind+own.Name, ";") {
		return ""
	}
	between := map[string]string{"ReplicaSet": "replicasets", "Job": "jobs"}
	for range 4 {
		next := c[between[own.Kind]][own.UID]
		if next == nil || next.owner() == nil || strings.Contains(next.owner().Kind+next.owner().Name, ";") {
			break
		}
		own = next.owner()
	}
	return controllerID(o.Metadata.Namespace, own.Kind, own.Name)
}

// entities makes the cluster into what the map shows.
func (c kubeCluster) entities() []*probev1.Entity {
	var out []*probev1.Entity
	hosts := map[string]string{}
	for _, o := range c["nodes"] {
		e := nodeEntity(o)
		hosts[o.Metadata.Name] = e.Parents[0]
		out = append(out, e)
	}
	type selected struct {
		id   string
		want map[string]string
	}
	services := map[string][]selected{}
	for _, o := range c["services"] {
		e := serviceEntity(o)
		out = append(out, e)
		var want map[string]string
		if json.Unmarshal(o.Spec.Selector, &want) == nil && len(want) > 0 {
			services[o.Metadata.Namespace] = append(services[o.Metadata.Namespace], selected{e.Id, want})
		}
	}
	for _, list := range services {
		slices.SortFunc(list, func(a, b selected) int { return strings.Compare(a.id, b.id) })
	}
	for _, o := range c["namespaces"] {
		e := &probev1.Entity{Id: topology.ID(topology.KindNamespace, o.Metadata.Name), Kind: topology.KindNamespace, Label: o.Metadata.Name, StartedMs: millis(o.Metadata.Created)}
		e.Attrs = labelled(nil, o)
		out = append(out, e)
	}
	makers := map[string]bool{}
	for _, o := range c["pods"] {
		e := podEntity(o)
		if id := c.maker(o); id != "" {
			e.Parents = append(e.Parents, id)
			makers[id] = true
		}
		if node := o.Spec.NodeName; node != "" && !strings.Contains(node, ";") {
			e.Parents = append(e.Parents, topology.ID(topology.KindNode, node), cmp.Or(hosts[node], topology.HostID(node)))
		}
		for _, s := range services[o.Metadata.Namespace] {
			if len(e.Parents) < topology.MaxParents && matches(s.want, o.Metadata.Labels) {
				e.Parents = append(e.Parents, s.id)
			}
		}
		out = append(out, e)
	}
	for _, kind := range []string{"deployments", "daemonsets", "statefulsets", "cronjobs"} {
		for _, o := range c[kind] {
			out = append(out, controllerEntity(strings.TrimSuffix(kind, "s"), o))
		}
	}
	for kind, list := range map[string]map[string]*kubeObject{"replicaset": c["replicasets"], "job": c["jobs"]} {
		for _, o := range list {
			// Only what stands for itself and has pods: old revisions are many.
			if id := controllerID(o.Metadata.Namespace, kind, o.Metadata.Name); o.owner() == nil && makers[id] {
				out = append(out, controllerEntity(kind, o))
			}
		}
	}
	slices.SortFunc(out, func(a, b *probev1.Entity) int { return strings.Compare(a.Id, b.Id) })
	return out
}

func matches(want, have map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func labelled(a attrs, o *kubeObject) attrs {
	for _, k := range slices.Sorted(maps.Keys(o.Metadata.Labels)) {
		v := o.Metadata.Labels[k]
		if topology.SecretKey(k) {
			v = topology.Mask
		}
		a.add(topology.AttrLabel+topology.Clean(k, 200), v)
	}
	return a
}

func nodeEntity(o *kubeObject) *probev1.Entity {
	host := cmp.Or(o.Metadata.Labels["kubernetes.io/hostname"], o.Metadata.Name)
	e := &probev1.Entity{
		Id: topology.ID(topology.KindNode, o.Metadata.Name), Kind: topology.KindNode, Label: o.Metadata.Name, StartedMs: millis(o.Metadata.Created),
		Parents: []string{topology.HostID(host)}, State: "ready",
	}
	for _, c := range o.Status.Conditions {
		switch {
		case c.Type == "Ready" && c.Status != "True":
			e.State = "not ready"
			e.Reasons = append(e.Reasons, reason("node_not_ready", 3, "not ready: "+cmp.Or(c.Message, c.Reason)))
		case strings.HasSuffix(c.Type, "Pressure") && c.Status == "True":
			e.Reasons = append(e.Reasons, reason("node_pressure", 2, c.Type+": "+cmp.Or(c.Message, c.Reason)))
		}
	}
	var a attrs
	if o.Spec.Unschedulable {
		a.add("unschedulable", "true")
	}
	a.add("kubelet", o.Status.NodeInfo.Kubelet)
	a.add(topology.AttrRuntime, o.Status.NodeInfo.Runtime)
	for _, x := range o.Status.Addresses {
		a.add("node_"+strings.ToLower(x.Type), x.Address)
	}
	e.Attrs = labelled(a, o)
	return e
}

func serviceEntity(o *kubeObject) *probev1.Entity {
	ns := o.Metadata.Namespace
	e := &probev1.Entity{
		Id: topology.ID(topology.KindService, ns, o.Metadata.Name), Kind: topology.KindService, Label: o.Metadata.Name, StartedMs: millis(o.Metadata.Created),
		Parents: []string{topology.ID(topology.KindNamespace, ns)},
	}
	var a attrs
	a.add("namespace", ns)
	a.add("service_type", o.Spec.Type)
	a.add("cluster_ip", o.Spec.ClusterIP)
	var ports []string
	for _, p := range o.Spec.Ports[:min(len(o.Spec.Ports), 50)] {
		s := fmt.Sprintf("%d>%v/%s", p.Port, p.TargetPort, strings.ToLower(cmp.Or(p.Protocol, "TCP")))
		if p.NodePort != 0 {
			s += fmt.Sprintf(" (node port %d)", p.NodePort)
		}
		ports = append(ports, s)
	}
	a.add("service_ports", strings.Join(ports, ", "))
	e.Attrs = labelled(a, o)
	return e
}

func controllerEntity(kind string, o *kubeObject) *probev1.Entity {
	ns := o.Metadata.Namespace
	e := &probev1.Entity{
		Id: controllerID(ns, kind, o.Metadata.Name), Kind: topology.KindController, Label: o.Metadata.Name, StartedMs: millis(o.Metadata.Created),
		Parents: []string{topology.ID(topology.KindNamespace, ns)},
	}
	var a attrs
	a.add("namespace", ns)
	a.add("controller", kind)
	want, ready := -1, o.Status.Ready
	switch {
	case kind == "daemonset":
		want, ready = o.Status.Desired, o.Status.Number
	case o.Spec.Replicas != nil && (kind == "deployment" || kind == "statefulset"):
		want = *o.Spec.Replicas
	}
	if want >= 0 {
		a.add("desired", strconv.Itoa(want))
		a.add("ready", strconv.Itoa(ready))
		switch {
		case ready == 0 && want > 0:
			e.Reasons = append(e.Reasons, reason("none_ready", 3, fmt.Sprintf("none of %d is ready", want)))
		case ready < want:
			e.Reasons = append(e.Reasons, reason("not_all_ready", 2, fmt.Sprintf("%d of %d are ready", ready, want)))
		}
	}
	a.add("schedule", o.Spec.Schedule)
	if o.Spec.Suspend {
		a.add("suspended", "true")
	}
	e.Attrs = labelled(a, o)
	return e
}

func podEntity(o *kubeObject) *probev1.Entity {
	ns := o.Metadata.Namespace
	e := &probev1.Entity{
		Id: topology.ID(topology.KindPod, o.Metadata.UID), Kind: topology.KindPod, Label: o.Metadata.Name, StartedMs: millis(o.Status.StartTime),
		Parents: []string{topology.ID(topology.KindNamespace, ns)}, State: strings.ToLower(o.Status.Phase),
	}
	var a attrs
	a.add("namespace", ns)
	a.add("pod_name", o.Metadata.Name)
	a.add("node", o.Spec.NodeName)
	a.add("qos", o.Status.QOS)
	if o.Spec.HostNetwork {
		a.add(topology.AttrHostNetwork, "1") // its address is its host's
	} else {
		addrs := []string{o.Status.PodIP}
		for _, x := range o.Status.PodIPs {
			if x.IP != o.Status.PodIP {
				addrs = append(addrs, x.IP)
			}
		}
		a.add(topology.AttrAddrs, strings.Join(addrs[:min(len(addrs), 8)], " "))
	}
	if ns == "kube-system" {
		a.add(topology.AttrSystem, "1")
	}
	restarts, ready := 0, 0
	for _, c := range append(slices.Clone(o.Status.Init), o.Status.Containers...) {
		restarts += c.Restarts
		if w := c.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" && w.Reason != "" {
			if w.Reason == "CrashLoopBackOff" {
				e.State = topology.StateRestarting
			}
			e.Reasons = append(e.Reasons, reason("waiting", 3, c.Name+": "+w.Reason+" "+w.Message))
		}
		if t := c.Last.Terminated; t != nil && t.Reason == "OOMKilled" {
			e.Reasons = append(e.Reasons, reason("oom_killed", 2, c.Name+" was killed: out of memory"))
		}
	}
	for _, c := range o.Status.Containers {
		if c.Ready {
			ready++
		}
	}
	for _, c := range o.Status.Conditions {
		if c.Type == "PodScheduled" && c.Status == "False" {
			e.Reasons = append(e.Reasons, reason("unschedulable", 2, "no node takes it: "+cmp.Or(c.Message, c.Reason)))
		}
	}
	if o.Status.Phase == "Failed" {
		e.Reasons = append(e.Reasons, reason("failed", 3, "failed: "+cmp.Or(o.Status.Message, o.Status.Reason, "a container ended with an error")))
	}
	if o.Metadata.Deleted != nil {
		e.State = "terminating"
	}
	e.Reasons = e.Reasons[:min(len(e.Reasons), 10)]
	a.int("restarts", int64(restarts))
	if n := len(o.Status.Containers); n > 0 {
		a.add("ready", fmt.Sprintf("%d of %d", ready, n))
	}
	e.Attrs = labelled(a, o)
	return e
}
