package monitoring

import (
	"bufio"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/probe"
	"github.com/orchestrator/orchestrator/internal/probe/kubetest"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

func (r *rig) kubeProbe(h *emptyHost, config string, change func(*probe.Config)) func() {
	cfg := probe.Config{
		Hostname: pluginHost, PluginsDir: "off", DockerSocket: "off", RuntimeSockets: []string{}, NetSource: "none", Conntrack: "off", CPULimit: 400, MaxProcesses: 1,
		Kubernetes: probe.KubernetesOn, KubeConfig: config, ProcRoot: h.proc,
	}
	if change != nil {
		change(&cfg)
	}
	return r.probe(cfg)
}

// emptyHost is a PID namespace with one process in it: all that a probe sees that reads its /proc. The pods of what else runs on this machine, a kubelet or
// another test, are none of its business.
type emptyHost struct {
	proc string
	pid  int    // of the process, here
	end  func() // kills it
}

func newEmptyHost(t *testing.T) *emptyHost {
	t.Helper()
	cmd := exec.Command("sh", "-c", "mount -t proc proc /proc && echo mounted && exec sleep 600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		realpart.Missing(t, "no PID namespace can be made: %v", err)
	}
	end := func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(end)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return &emptyHost{fmt.Sprintf("/proc/%d/root/proc", cmd.Process.Pid), cmd.Process.Pid, end}
}

type kubeDoc struct {
	Label, State string
	Health       int
	Reasons      []struct{ Code, Text string }
	Parents      []struct{ ID string }
	Children     []struct {
		Kind  string
		Items []struct{ ID string }
	}
	Metadata []struct{ ID, Value string }
	Labels   map[string]string
}

func (r *rig) kubeDoc(id string) (d kubeDoc) {
	if a := r.call("GET", "/api/v1/nodes/"+url.PathEscape(id), adminToken, ""); a.status == 200 {
		a.into(r.t, &d)
	}
	return d
}

func (d *kubeDoc) parents() (out []string) {
	for _, p := range d.Parents {
		out = append(out, p.ID)
	}
	slices.Sort(out)
	return out
}

func (d *kubeDoc) attr(id string) string {
	for _, m := range d.Metadata {
		if m.ID == id {
			return m.Value
		}
	}
	return ""
}

func (d *kubeDoc) reason(code string) string {
	for _, x := range d.Reasons {
		if x.Code == code {
			return x.Text
		}
	}
	return ""
}

func (r *rig) collector(name string) string {
	var out struct {
		Probes []struct {
			Collectors []struct{ Name, State, Message string }
		}
	}
	r.get("/api/v1/probes", &out)
	for _, p := range out.Probes {
		for _, c := range p.Collectors {
			if c.Name == name {
				return c.State + ": " + c.Message
			}
		}
	}
	return ""
}

func (r *rig) labels(view string) []string {
	var f struct{ Nodes struct{ ID, Label []string } }
	r.get("/api/v1/topology?group=none&opt.state=all&opt.pseudo=hide&view="+view, &f)
	slices.Sort(f.Nodes.Label)
	return f.Nodes.Label
}

// kubePlan is a session of a probe that may do what the documentation asks for.
func kubePlan(t *testing.T, name string) kubetest.Plan {
	return kubetest.Plan{Name: name, Rules: kubetest.Documented(t, "../../docs/monitoring.md"), Prepare: fillShop}
}

const shopPodCount = 6

func TestKubernetesIsShownAsItIs(t *testing.T) {
	t.Parallel()
	kubePlan(t, "estate").Run(t, func(t *testing.T, s *kubetest.Session) {
		r := newRig(t, nil)
		r.kubeProbe(newEmptyHost(t), s.Kubeconfig(t.TempDir(), "probe"), nil)
		r.eventually("all of the cluster", func() bool {
			return strings.HasPrefix(r.collector("kubernetes"), "ok: ") && r.entities("pod") == shopPodCount
		})
		pod := func(name string) string { return "pod;" + s.UID(podsPath, name) }
		r.checkShop(pod)
		for path, wants := range map[string]bool{"/apis/apps/v1/replicasets": true, "/api/v1/namespaces": true, "/apis/batch/v1/jobs": true, podsPath: false} {
			if got := s.Count(path, false, "as=PartialObjectMetadataList") > 0; got != wants {
				t.Errorf("only the metadata of %s: %v", path, got)
			}
		}

		// Changes arrive by the watch, without another list.
		lists := s.Count(podsPath, false, "")
		one, two, lone := pod("web-abc-1"), pod("web-abc-2"), pod("lone-1")
		s.Step("changes", func(c *kubetest.Cluster) {
			c.Do("PATCH", shopServices+"/other", `{"spec":{"selector":{"app":"web"}}}`)
			status(c, "web-abc-1", `{"phase":"Failed","reason":"Evicted","message":"The node was low on resource: memory."}`)
			c.Do("DELETE", shopPods+"/web-abc-2?gracePeriodSeconds=0", "")
			c.Do("DELETE", shopPods+"/lone-1", "") // nothing ends it, for there is no kubelet
			c.Do("PATCH", "/api/v1/nodes/worker-1", `{"spec":{"unschedulable":true}}`)
			c.Do("PATCH", "/api/v1/nodes/worker-1/status", `{"status":{"conditions":[{"type":"Ready","status":"Unknown","reason":"NodeStatusUnknown","message":"Kubelet stopped posting node status."}]}}`)
			c.Do("PATCH", apps+"deployments/web/scale", `{"spec":{"replicas":1}}`)
		})
		r.eventually("the changes", func() bool {
			d := r.kubeDoc(one)
			return d.State == "failed" && d.reason("failed") == "failed: The node was low on resource: memory." && slices.Contains(d.parents(), "service;shop;other") &&
				r.entities("pod") == shopPodCount-1 && r.kubeDoc(two).Label == "" && r.kubeDoc(lone).State == "terminating"
		})
		r.eventually("the node's", func() bool {
			d := r.kubeDoc("node;worker-1")
			return d.State == "not ready" && d.Health == 3 && d.attr("unschedulable") == "true" && d.reason("node_not_ready") == "not ready: Kubelet stopped posting node status."
		})
		r.eventually("the deployment's", func() bool {
			d := r.kubeDoc("controller;shop;deployment;web")
			return d.attr("desired") == "1" && d.Health == 1
		})
		if n := s.Count(podsPath, false, ""); n != lists {
			t.Errorf("pods were listed %d times again", n-lists)
		}

		// The API server is killed in the middle of all watches. It comes back with less history than before; nothing is lost.
		s.Step("killed", func(c *kubetest.Cluster) {
			c.Restart(true)
			c.Do("DELETE", shopPods+"/lone-1?gracePeriodSeconds=0", "")
			c.Make(shopPods, shopPod("web-abc-9", `"labels":{"app":"web"}`, `"nodeName":"worker-1"`, `{"phase":"Running","podIP":"10.9.8.10"}`))
		})
		r.eventually("what changed after the restart", func() bool {
			return r.kubeDoc(lone).Label == "" && slices.Contains(r.labels("pods"), "web-abc-9") && strings.HasPrefix(r.collector("kubernetes"), "ok: ")
		})

		// What may not be read is said; the rest goes on.
		rules := kubetest.Documented(t, "../../docs/monitoring.md")
		less := strings.Replace(rules, `"daemonsets",`, "", 1)
		if less == rules {
			t.Fatalf("no daemon sets in %s", rules)
		}
		s.Step("less may be read", func(c *kubetest.Cluster) {
			c.Role("probe", less)
			c.Allowed(s.Token("probe"), "/apis/apps/v1/daemonsets", 403)
			c.Restart(false) // a watch that goes on is not asked again
			c.Make(shopPods, shopPod("web-abc-10", `"labels":{"app":"web"}`, `"nodeName":"worker-1"`, `{"phase":"Running"}`))
		})
		r.eventually("the refusal", func() bool {
			text := r.collector("kubernetes")
			return strings.HasPrefix(text, `degraded: daemonsets: daemonsets.apps is forbidden: User "system:serviceaccount:default:probe" cannot `) &&
				strings.Contains(text, `resource "daemonsets" in API group "apps" at the cluster scope`) && !strings.Contains(text, "; ")
		})
		r.eventually("a new pod all the same", func() bool { return slices.Contains(r.labels("pods"), "web-abc-10") })
		if d := r.kubeDoc("controller;shop;daemonset;logger"); d.Label != "logger" {
			t.Errorf("what was known before is gone: %+v", d)
		}
		s.Step("all may be read", func(c *kubetest.Cluster) { c.Role("probe", rules) })
		r.eventually("an end of the refusal", func() bool { return strings.HasPrefix(r.collector("kubernetes"), "ok: ") })
	})
}

// checkShop compares what the monitor tells with what fillShop made.
func (r *rig) checkShop(pod func(string) string) {
	t := r.t
	t.Helper()
	d := r.kubeDoc(pod("web-abc-1"))
	want := []string{"controller;shop;deployment;web", "host;" + pluginHost, "namespace;shop", "node;worker-1", "service;shop;web"}
	if d.Label != "web-abc-1" || d.State != "running" || d.Health != 1 || !slices.Equal(d.parents(), want) || d.attr("addrs") != "10.9.8.7 fd00::7" ||
		d.attr("restarts") != "2" || d.attr("ready") != "1 of 1" || d.attr("qos") != "BestEffort" || d.Labels["app"] != "web" {
		t.Errorf("%+v", d)
	}
	d = r.kubeDoc(pod("web-abc-2"))
	if d.State != "restarting" || d.Health != 3 || len(d.Reasons) != 2 || !strings.HasPrefix(d.reason("waiting"), "web: CrashLoopBackOff back-off 5m0s") || d.reason("oom_killed") == "" {
		t.Errorf("%+v", d)
	}
	d = r.kubeDoc(pod("report-1-x"))
	if d.State != "pending" || d.Health != 2 || !slices.Contains(d.parents(), "controller;shop;cronjob;report") || d.reason("unschedulable") != "no node takes it: 0/1 nodes are available" {
		t.Errorf("%+v", d)
	}
	if d = r.kubeDoc(pod("lone-1")); !slices.Contains(d.parents(), "controller;shop;replicaset;lone") {
		t.Errorf("%+v", d)
	}
	if d = r.kubeDoc(pod("proxy")); d.attr("addrs") != "" || !slices.Contains(d.parents(), "namespace;kube-system") {
		t.Errorf("%+v", d)
	}
	if d = r.kubeDoc(pod("done")); d.State != "succeeded" || d.Health > 1 {
		t.Errorf("%+v", d)
	}
	if d = r.kubeDoc("controller;shop;deployment;web"); d.Health != 2 || d.attr("desired") != "3" || d.attr("ready") != "1" || d.Labels["app"] != "web" {
		t.Errorf("%+v", d)
	}
	if d = r.kubeDoc("controller;shop;statefulset;db"); d.Health != 3 || d.reason("none_ready") != "none of 1 is ready" {
		t.Errorf("%+v", d)
	}
	if d = r.kubeDoc("controller;shop;daemonset;logger"); d.Health != 1 || d.attr("desired") != "2" {
		t.Errorf("%+v", d)
	}
	if d = r.kubeDoc("controller;shop;cronjob;report"); d.attr("schedule") != "0 3 * * *" || d.attr("suspended") != "" {
		t.Errorf("%+v", d)
	}
	if d = r.kubeDoc("controller;shop;cronjob;paused"); d.attr("suspended") != "true" {
		t.Errorf("%+v", d)
	}
	if d = r.kubeDoc("node;worker-1"); d.Health != 2 || !slices.Equal(d.parents(), []string{"host;" + pluginHost}) || d.attr("kubelet") != "v1.31.0" ||
		d.attr("runtime") != "containerd://1.7.20" || d.attr("node_internalip") != "192.0.2.7" || d.reason("node_pressure") != "MemoryPressure: little memory is left" {
		t.Errorf("%+v", d)
	}
	if d = r.kubeDoc("service;shop;web"); d.attr("service_ports") != "80>http/tcp (node port 30080), 8081>18081/udp (node port 30081)" || d.attr("service_type") != "NodePort" || !strings.HasPrefix(d.attr("cluster_ip"), "10.96.") {
		t.Errorf("%+v", d)
	}
	if d = r.kubeDoc("namespace;shop"); d.Labels["team"] != "checkout" {
		t.Errorf("%+v", d)
	}
	for view, want := range map[string][]string{
		"pods": {"done", "lone-1", "proxy", "report-1-x", "web-abc-1", "web-abc-2"}, "controllers": {"db", "logger", "lone", "paused", "report", "web"},
		"services": {"headless", "kubernetes", "other", "web"},
	} {
		if got := r.labels(view); !slices.Equal(got, want) {
			t.Errorf("view %s: %q", view, got)
		}
	}
}

// kubelet makes a control group as the kubelet does and moves the host's process into it.
func (h *emptyHost) kubelet(t *testing.T, parts ...string) {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
		root = filepath.Join(root, "unified")
	}
	dir := root
	for _, p := range parts {
		dir = filepath.Join(dir, p)
		err := os.Mkdir(dir, 0o755)
		if err != nil && !os.IsExist(err) {
			realpart.Missing(t, "no control group can be made: %v", err)
		}
		if err == nil {
			at := dir
			t.Cleanup(func() {
				h.end()
				err := os.Remove(at)
				for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); err = os.Remove(at) {
					time.Sleep(time.Millisecond) // the kernel takes a moment to empty it
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(h.pid)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The container is found by its cgroup alone, by whatever runtime; its pod is Kubernetes' word.
func TestContainersAreJoinedWithKubernetesPods(t *testing.T) {
	t.Parallel()
	kubePlan(t, "join").Run(t, func(t *testing.T, s *kubetest.Session) {
		id := strings.Repeat("ab", 32)
		r, host := newRig(t, nil), newEmptyHost(t)
		r.kubeProbe(host, s.Kubeconfig(t.TempDir(), "probe"), nil)
		r.eventually("the pods", func() bool { return r.entities("pod") == shopPodCount })
		uid := s.UID(podsPath, "web-abc-1")
		host.kubelet(t, "kubepods-"+strings.ReplaceAll(s.Version, ".", "-"), "pod"+uid, id)
		container := "container;" + pluginHost + ";" + id[:12]
		r.eventually("the container below its pod", func() bool {
			d := r.kubeDoc("pod;" + uid)
			return slices.ContainsFunc(d.Children, func(c struct {
				Kind  string
				Items []struct{ ID string }
			},
			) bool {
				return c.Kind == "container" && len(c.Items) == 1 && c.Items[0].ID == container
			})
		})
		found := func(q string) bool {
			var out struct{ Results []struct{ ID string } }
			r.get("/api/v1/search?q="+url.QueryEscape("kind:container "+q), &out)
			return len(out.Results) == 1 && out.Results[0].ID == container
		}
		r.eventually("its service, controller and namespace", func() bool { return found("service:web controller:deployment;web namespace:shop") })
		// A service that takes the pod in later takes its containers in too.
		s.Step("another service", func(c *kubetest.Cluster) { c.Do("PATCH", shopServices+"/other", `{"spec":{"selector":{"app":"web"}}}`) })
		r.eventually("the second service", func() bool { return found("service:other") })
	})
}

func TestOneProbeOfAKubernetesClusterWatches(t *testing.T) {
	t.Parallel()
	plan := kubePlan(t, "lease")
	plan.Accounts = []string{"first", "second"}
	plan.Run(t, func(t *testing.T, s *kubetest.Session) {
		r, host, dir := newRig(t, nil), newEmptyHost(t), t.TempDir()
		start := func(name string) func() {
			return r.kubeProbe(host, s.Kubeconfig(dir, name), func(c *probe.Config) { c.Kubernetes, c.ID, c.Hostname = probe.KubernetesLease, name, name })
		}
		says := func(name string) (state string) {
			var out struct {
				Probes []struct {
					ID         string
					Collectors []struct{ Name, State, Message string }
				}
			}
			r.get("/api/v1/probes", &out)
			for _, p := range out.Probes {
				for _, c := range p.Collectors {
					if p.ID == name && c.Name == "kubernetes" {
						state = c.State + ": " + c.Message
					}
				}
			}
			return state
		}
		stop := start("first")
		r.eventually("the pods", func() bool { return r.entities("pod") == shopPodCount })
		start("second")
		r.eventually("the second's word", func() bool { return says("second") == "ok: the probe first watches this cluster" })
		if n := s.Count(podsPath, true, ""); n != 1 {
			t.Errorf("%d watches of the pods", n)
		}
		// One that ends gives the lease back: the other takes over at once, and the pods are there again.
		s.Step("the first ends", nil)
		stop()
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%d watches; first %q, second %q", s.Count(podsPath, true, ""), says("first"), says("second"))
			}
		})
		r.eventually("the second's watch", func() bool { return s.Count(podsPath, true, "") == 2 })
		pod := "/api/v1/nodes/" + url.PathEscape("pod;"+s.UID(podsPath, "web-abc-1"))
		r.eventually("the pods from the second", func() bool {
			var d struct{ Probe struct{ ID, State string } }
			a := r.call("GET", pod, adminToken, "")
			if a.status != 200 {
				return false
			}
			a.into(t, &d)
			return d.Probe.ID == "second" && d.Probe.State == "connected"
		})
	})
}
