package scopereaders

import (
	"strconv"
	"strings"
	"time"

	"github.com/weaveworks/scope/probe/docker"
	"github.com/weaveworks/scope/probe/host"
	"github.com/weaveworks/scope/probe/kubernetes"
	"github.com/weaveworks/scope/probe/process"
	"github.com/weaveworks/scope/report"
)

// at is when the estate is looked at.
var at = time.UnixMilli(1795400000000).UTC()

// metric is a metric as Scope's probes report it.
func metric(value, limit float64) report.Metric {
	return report.MakeMetric([]report.Sample{{Timestamp: at.Add(-time.Second), Value: value}}).WithMax(limit)
}

// The ids of the estate's containers.
const (
	web   = "1111111111111111111111111111111111111111111111111111111111111111"
	db    = "2222222222222222222222222222222222222222222222222222222222222222"
	old   = "3333333333333333333333333333333333333333333333333333333333333333"
	scope = "4444444444444444444444444444444444444444444444444444444444444444"
	evil  = "5555555555555555555555555555555555555555555555555555555555555555"
)

// estate is the report of the estate that internal/monitor/scope/read/golden_test.go makes too: two hosts, five containers, one of
// which is in a pod, processes in and outside of them, and connections between them and with the Internet.
func estate() report.Report {
	r := report.MakeReport()
	r.TS = at
	r.Host = r.Host.WithMetadataTemplates(host.MetadataTemplates).WithMetricTemplates(host.MetricTemplates)
	r.Process = r.Process.WithMetadataTemplates(process.MetadataTemplates).WithMetricTemplates(process.MetricTemplates)
	r.Container = r.Container.WithMetadataTemplates(docker.ContainerMetadataTemplates).WithMetricTemplates(docker.ContainerMetricTemplates).WithTableTemplates(docker.ContainerTableTemplates)
	r.ContainerImage = r.ContainerImage.WithMetadataTemplates(docker.ContainerImageMetadataTemplates).WithTableTemplates(docker.ContainerImageTableTemplates)
	r.Pod = r.Pod.WithMetadataTemplates(kubernetes.PodMetadataTemplates).WithMetricTemplates(kubernetes.PodMetricTemplates).WithTableTemplates(kubernetes.TableTemplates)
	r.Service = r.Service.WithMetadataTemplates(kubernetes.ServiceMetadataTemplates).WithMetricTemplates(kubernetes.ServiceMetricTemplates).WithTableTemplates(kubernetes.TableTemplates)
	r.Deployment = r.Deployment.WithMetadataTemplates(kubernetes.DeploymentMetadataTemplates).WithMetricTemplates(kubernetes.DeploymentMetricTemplates).WithTableTemplates(kubernetes.TableTemplates)

	latest := func(id string, pairs ...string) report.Node {
		n := report.MakeNode(id)
		for i := 0; i+1 < len(pairs); i += 2 {
			n = n.WithLatest(pairs[i], at, pairs[i+1])
		}
		return n
	}
	for name, address := range map[string]string{"vm1": "10.0.0.1/24", "vm2.example.com": "10.0.0.2/24"} {
		id := report.MakeHostNodeID(name)
		r.Host.AddNode(latest(id, report.HostNodeID, id, host.HostName, name, host.KernelVersion, "6.1.0", host.OS, "linux", host.Uptime, "86400").
			WithSet(host.LocalNetworks, report.MakeStringSet(address)).
			WithMetrics(report.Metrics{host.CPUUsage: metric(12.34, 100), host.MemoryUsage: metric(4e9, 16e9), host.Load1: metric(0.5, 0.5)}))
	}

	// Scope's images have ids of their own, by which it names them in some places. Here the id is the name, which is what we have.
	image := func(name string) string {
		if parts := strings.SplitN(name, "/", 3); len(parts) == 3 {
			name = parts[1] + "/" + parts[2]
		}
		name, _, _ = strings.Cut(name, ":")
		return name
	}
	container := func(id, hostname, name, img, state string, more ...string) report.Node {
		hostID := report.MakeHostNodeID(hostname)
		n := latest(report.MakeContainerNodeID(id), append([]string{
			report.HostNodeID, hostID, docker.ContainerID, id, docker.ContainerName, name, docker.ContainerHostname, id[:12],
			docker.ContainerCommand, "/bin/" + name, docker.ContainerState, state, docker.ImageID, image(img),
			docker.ContainerCreated, at.Add(-48 * time.Hour).Format(time.RFC3339Nano),
		}, more...)...).
			WithParent(report.Host, hostID).WithParent(report.ContainerImage, report.MakeContainerImageNodeID(image(img))).
			WithSet(docker.ContainerIPs, report.MakeStringSet("172.17.0."+id[:1])).
			WithMetrics(report.Metrics{docker.CPUTotalUsage: metric(1.25, 100), docker.MemoryUsage: metric(64e6, 16e9)})
		i := latest(report.MakeContainerImageNodeID(image(img)), docker.ImageID, image(img), docker.ImageName, img, report.HostNodeID, hostID).WithParent(report.Host, hostID)
		i = i.WithLatest(docker.ImageName, at, docker.ImageNameWithoutTag(img)).WithLatest(docker.ImageTag, at, docker.ImageNameTag(img))
		if was, ok := r.ContainerImage.Nodes[i.ID]; ok {
			i = i.Merge(was)
		}
		r.ContainerImage.Nodes[i.ID] = i
		return n
	}
	up := []string{docker.ContainerStateHuman, "Up 2 hours", docker.ContainerUptime, "7200", docker.ContainerRestartCount, "1"}
	label := func(key, value string) []string { return []string{docker.LabelPrefix + key, value} }
	r.Container.AddNode(container(web, "vm1", "web", "nginx:1.25", "running", append(up, label("io.kubernetes.pod.namespace", "shop")...)...).
		WithParent(report.Pod, report.MakePodNodeID("uid-1")).
		WithSet(docker.ContainerPorts, report.MakeStringSet("10.0.0.1:8080->80/tcp")))
	r.Container.AddNode(container(db, "vm2.example.com", "db", "registry.local:5000/team/postgres:16", "running", append(up, label("tier", "back")...)...))
	r.Container.AddNode(container(old, "vm1", "old", "busybox:1.36", "exited", docker.ContainerStateHuman, "Exited (3) 5 minutes ago"))
	r.Container.AddNode(container(scope, "vm2.example.com", "weavescope", "weaveworks/scope:1.13.2", "running", up...))
	r.Container.AddNode(container(evil, "vm1", `<img src=x onerror="alert('1')">`, "evil:latest", "running", append(up, label("note", "</script>\u2028 & ü")...)...))

	ns := []string{kubernetes.Namespace, "shop", kubernetes.Created, at.Add(-72 * time.Hour).Format(time.RFC3339Nano)}
	r.Namespace.AddNode(latest(report.MakeNamespaceNodeID("ns-1"), kubernetes.Name, "shop"))
	r.Pod.AddNode(latest(report.MakePodNodeID("uid-1"), append(ns, kubernetes.Name, "web-1", kubernetes.State, "Running", kubernetes.IP, "10.244.0.7", kubernetes.RestartCount, "1")...).
		WithParent(report.Deployment, report.MakeDeploymentNodeID("shop/web")).WithParent(report.Service, report.MakeServiceNodeID("shop/web")).
		WithParent(report.Host, report.MakeHostNodeID("vm1")))
	r.Deployment.AddNode(latest(report.MakeDeploymentNodeID("shop/web"), append(ns, kubernetes.Name, "web", kubernetes.NodeType, "Deployment", kubernetes.DesiredReplicas, "1")...))
	r.Service.AddNode(latest(report.MakeServiceNodeID("shop/web"), append(ns, kubernetes.Name, "web", kubernetes.IP, "10.96.0.9", kubernetes.Type, "ClusterIP")...))

	proc := func(hostname string, pid int, name, in string) {
		hostID := report.MakeHostNodeID(hostname)
		n := latest(report.MakeProcessNodeID(hostname, strconv.Itoa(pid)), report.HostNodeID, hostID, process.PID, strconv.Itoa(pid), process.Name, name,
			process.Cmdline, name+" --serve", process.PPID, "1", process.Threads, "4").
			WithParent(report.Host, hostID).
			WithMetrics(report.Metrics{process.CPUUsage: metric(0.5, 100), process.MemoryUsage: metric(5e6, 16e9), process.OpenFilesCount: metric(9, 9)})
		if in != "" {
			c := r.Container.Nodes[report.MakeContainerNodeID(in)]
			containerName, _ := c.Latest.Lookup(docker.ContainerName)
			imageID, _ := c.Latest.Lookup(docker.ImageID)
			n = n.WithLatest(docker.ContainerID, at, in).WithLatest(docker.ContainerName, at, containerName).WithParent(report.Container, report.MakeContainerNodeID(in)).
				WithParent(report.ContainerImage, report.MakeContainerImageNodeID(imageID))
		}
		r.Process.AddNode(n)
	}
	proc("vm1", 10, "nginx", web)
	proc("vm1", 11, "nginx", web)
	proc("vm2.example.com", 20, "postgres", db)
	proc("vm1", 30, "curl", "")
	proc("vm2.example.com", 40, "sshd", "")
	proc("vm2.example.com", 50, "idle", "")

	// Endpoints: those of the estate have a host and a process.
	endpoint := func(hostname string, pid int, address string, port int, to ...string) {
		r.Endpoint.AddNode(latest(report.MakeEndpointNodeID("", "", address, strconv.Itoa(port)), report.HostNodeID, report.MakeHostNodeID(hostname), process.PID, strconv.Itoa(pid)).WithAdjacent(to...))
	}
	outside := func(address string, port int, to ...string) string {
		id := report.MakeEndpointNodeID("", "", address, strconv.Itoa(port))
		r.Endpoint.AddNode(report.MakeNode(id).WithAdjacent(to...))
		return id
	}
	id := func(address string, port int) string {
		return report.MakeEndpointNodeID("", "", address, strconv.Itoa(port))
	}
	endpoint("vm2.example.com", 20, "10.0.0.2", 5432)
	endpoint("vm1", 10, "10.0.0.1", 40001, id("10.0.0.2", 5432))
	endpoint("vm1", 10, "10.0.0.1", 40002, id("10.0.0.2", 5432))
	endpoint("vm1", 11, "10.0.0.1", 80)
	outside("198.51.100.7", 33001, id("10.0.0.1", 80))
	endpoint("vm1", 30, "10.0.0.1", 40003, outside("203.0.113.9", 443))
	endpoint("vm1", 30, "10.0.0.1", 40004, id("10.0.0.2", 5432))
	endpoint("vm2.example.com", 40, "10.0.0.2", 22)
	outside("198.51.100.8", 33002, id("10.0.0.2", 22))

	// Probes tag each node with its topology before they send it.
	r.WalkNamedTopologies(func(name string, t *report.Topology) {
		for id, n := range t.Nodes {
			t.Nodes[id] = n.WithTopology(name)
		}
	})
	return r
}
