package monitoring

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/orchestrator/orchestrator/internal/probe"
)

const (
	podUID   = "6d1f0c3e-0000-4000-8000-00000000000a"
	crashUID = "6d1f0c3e-0000-4000-8000-00000000000b"
	podsPath = "/api/v1/pods"
)

func podJSON(uid, name, labels, owner, status string) string {
	return fmt.Sprintf(`{"metadata":{"uid":%q,"name":%q,"namespace":"shop","labels":%s,"creationTimestamp":"2026-01-02T03:04:05Z",
		"ownerReferences":[{"kind":"ReplicaSet","name":%q,"uid":"rs-1","controller":true}]},
		"spec":{"nodeName":"worker-1","containers":[{"name":"web","image":"nginx"}]},"status":%s}`, uid, name, labels, owner, status)
}

const running = `{"phase":"Running","podIP":"10.9.8.7","startTime":"2026-01-02T03:04:06Z","qosClass":"Burstable","containerStatuses":[{"name":"web","ready":true,"restartCount":2}]}`

// shop fills the cluster with a small one.
func (f *fakeKubernetes) shop() {
	f.put("/api/v1/namespaces", `{"metadata":{"uid":"ns-1","name":"shop","labels":{"team":"checkout"}}}`)
	f.put("/api/v1/nodes", `{"metadata":{"uid":"n-1","name":"worker-1","labels":{"kubernetes.io/hostname":"`+pluginHost+`"}},"spec":{},
		"status":{"conditions":[{"type":"Ready","status":"True"},{"type":"MemoryPressure","status":"True","message":"little memory is left"}],"nodeInfo":{"kubeletVersion":"v1.31.0"}}}`)
	f.put("/apis/apps/v1/deployments", `{"metadata":{"uid":"d-1","name":"web","namespace":"shop","labels":{"app":"web"}},"spec":{"replicas":3,"selector":{"matchLabels":{"app":"web"}}},"status":{"readyReplicas":1}}`)
	f.put("/apis/apps/v1/replicasets", `{"metadata":{"uid":"rs-1","name":"web-abc","namespace":"shop","ownerReferences":[{"kind":"Deployment","name":"web","uid":"d-1","controller":true}]},"spec":{"replicas":3}}`)
	f.put("/apis/apps/v1/replicasets", `{"metadata":{"uid":"rs-0","name":"web-old","namespace":"shop","ownerReferences":[{"kind":"Deployment","name":"web","uid":"d-1","controller":true}]}}`)
	f.put("/apis/apps/v1/daemonsets", `{"metadata":{"uid":"ds-1","name":"logger","namespace":"shop"},"spec":{},"status":{"desiredNumberScheduled":2,"numberReady":2}}`)
	f.put("/apis/apps/v1/statefulsets", `{"metadata":{"uid":"ss-1","name":"db","namespace":"shop"},"spec":{"replicas":1},"status":{}}`)
	f.put("/apis/batch/v1beta1/cronjobs", `{"metadata":{"uid":"cj-1","name":"report","namespace":"shop"},"spec":{"schedule":"0 3 * * *"}}`)
	f.put("/apis/batch/v1/jobs", `{"metadata":{"uid":"j-1","name":"report-1","namespace":"shop","ownerReferences":[{"kind":"CronJob","name":"report","uid":"cj-1","controller":true}]}}`)
	f.put("/api/v1/services", `{"metadata":{"uid":"s-1","name":"web","namespace":"shop"},"spec":{"selector":{"app":"web"},"clusterIP":"10.0.0.1","type":"NodePort","ports":[{"port":80,"targetPort":"http","protocol":"TCP","nodePort":30080}]}}`)
	f.put("/api/v1/services", `{"metadata":{"uid":"s-2","name":"other","namespace":"shop"},"spec":{"selector":{"app":"other"}}}`)
	f.put("/api/v1/services", `{"metadata":{"uid":"s-3","name":"headless","namespace":"shop"},"spec":{}}`)
	f.put(podsPath, podJSON(podUID, "web-abc-1", `{"app":"web"}`, "web-abc", running))
	f.put(podsPath, podJSON(crashUID, "web-abc-2", `{"app":"web"}`, "web-abc",
		`{"phase":"Running","containerStatuses":[{"name":"web","ready":false,"restartCount":40,"state":{"waiting":{"reason":"CrashLoopBackOff","message":"back-off 5m0s"}},"lastState":{"terminated":{"reason":"OOMKilled"}}}]}`))
	f.put(podsPath, `{"metadata":{"uid":"6d1f0c3e-0000-4000-8000-00000000000c","name":"report-1-x","namespace":"shop","ownerReferences":[{"kind":"Job","name":"report-1","uid":"j-1","controller":true}]},
		"spec":{},"status":{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"0/1 nodes are available"}]}}`)
	f.missing["/apis/batch/v1/cronjobs"] = true // an older cluster
}

func (r *rig) kubeProbe(config string, change func(*probe.Config)) func() {
	cfg := probe.Config{
		Hostname: pluginHost, PluginsDir: "off", DockerSocket: "off", NetSource: "none", Conntrack: "off", CPULimit: 400, MaxProcesses: 1,
		Kubernetes: probe.KubernetesOn, KubeConfig: config,
	}
	if change != nil {
		change(&cfg)
	}
	return r.probe(cfg)
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

func TestKubernetesFromAFakeServersWrittenAnswers(t *testing.T) {
	t.Parallel()
	r, f := newRig(t, nil), newFakeKubernetes(t)
	f.shop()
	r.kubeProbe(f.kubeconfig(t.TempDir()), nil)
	r.eventually("all of the cluster", func() bool { return strings.HasPrefix(r.collector("kubernetes"), "ok: ") && r.entities("pod") == 3 })

	pod := r.kubeDoc("pod;" + podUID)
	want := []string{"controller;shop;deployment;web", "host;" + pluginHost, "namespace;shop", "node;worker-1", "service;shop;web"}
	if pod.Label != "web-abc-1" || pod.State != "running" || pod.Health != 1 || !slices.Equal(pod.parents(), want) || pod.attr("addrs") != "10.9.8.7" || pod.attr("restarts") != "2" || pod.Labels["app"] != "web" {
		t.Errorf("%+v", pod)
	}
	crash := r.kubeDoc("pod;" + crashUID)
	if crash.State != "restarting" || crash.Health != 3 || len(crash.Reasons) != 2 || !strings.Contains(crash.Reasons[0].Text, "web: CrashLoopBackOff back-off") {
		t.Errorf("%+v", crash)
	}
	pending := r.kubeDoc("pod;6d1f0c3e-0000-4000-8000-00000000000c")
	if pending.Health != 2 || !slices.Contains(pending.parents(), "controller;shop;cronjob;report") {
		t.Errorf("%+v", pending)
	}
	if d := r.kubeDoc("controller;shop;deployment;web"); d.Health != 2 || d.attr("desired") != "3" || d.attr("ready") != "1" {
		t.Errorf("%+v", d)
	}
	if d := r.kubeDoc("controller;shop;statefulset;db"); d.Health != 3 {
		t.Errorf("%+v", d)
	}
	if d := r.kubeDoc("controller;shop;daemonset;logger"); d.Health != 1 {
		t.Errorf("%+v", d)
	}
	if d := r.kubeDoc("controller;shop;cronjob;report"); d.attr("schedule") != "0 3 * * *" {
		t.Errorf("the older version's cron jobs: %+v", d)
	}
	if d := r.kubeDoc("node;worker-1"); d.Health != 2 || !slices.Equal(d.parents(), []string{"host;" + pluginHost}) || d.attr("kubelet") != "v1.31.0" {
		t.Errorf("%+v", d)
	}
	if d := r.kubeDoc("service;shop;web"); d.attr("service_ports") != "80>http/tcp (node port 30080)" {
		t.Errorf("%+v", d)
	}
	if d := r.kubeDoc("namespace;shop"); d.Labels["team"] != "checkout" {
		t.Errorf("%+v", d)
	}
	for view, want := range map[string][]string{
		"pods": {"report-1-x", "web-abc-1", "web-abc-2"}, "controllers": {"db", "logger", "report", "web"}, "services": {"headless", "other", "web"},
	} {
		if got := r.labels(view); !slices.Equal(got, want) {
			t.Errorf("view %s: %q", view, got)
		}
	}
	for path, wants := range map[string]bool{"/apis/apps/v1/replicasets": true, "/api/v1/namespaces": true, "/apis/batch/v1/jobs": true, podsPath: false} {
		if got := f.count("metadata "+path) > 0; got != wants {
			t.Errorf("only the metadata of %s: %v", path, got)
		}
	}

	// Changes arrive by the watch, without another list.
	lists := f.count("list " + podsPath)
	f.put("/api/v1/services", `{"metadata":{"uid":"s-2","name":"other","namespace":"shop"},"spec":{"selector":{"app":"web"}}}`)
	f.put(podsPath, podJSON(podUID, "web-abc-1", `{"app":"web"}`, "web-abc", strings.Replace(running, "Running", "Failed", 1)))
	f.remove(podsPath, crashUID)
	r.eventually("the changes", func() bool {
		d := r.kubeDoc("pod;" + podUID)
		return d.State == "failed" && d.Health == 3 && slices.Contains(d.parents(), "service;shop;other") && r.entities("pod") == 2
	})
	if n := f.count("list " + podsPath); n != lists {
		t.Errorf("pods were listed %d times again", n-lists)
	}
	// A history that is gone: everything is listed again, and nothing is lost.
	f.mu.Lock()
	delete(f.objects[podsPath], podUID)
	f.mu.Unlock()
	f.forget()
	r.eventually("the pod that went unseen", func() bool { return r.entities("pod") == 1 && f.count("list "+podsPath) > lists })

	// What may not be read is said; the rest goes on.
	f.mu.Lock()
	f.denied["/apis/apps/v1/daemonsets"] = true
	f.mu.Unlock()
	f.forget()
	r.eventually("the refusal", func() bool {
		return strings.HasPrefix(r.collector("kubernetes"), "degraded: daemonsets: /apis/apps/v1/daemonsets is forbidden")
	})
	f.put(podsPath, podJSON(podUID, "web-abc-9", `{}`, "web-abc", running))
	r.eventually("a new pod all the same", func() bool { return r.kubeDoc("pod;"+podUID).Label == "web-abc-9" })
}

// cgroup makes a control group as the kubelet does and runs a process in it.
func kubeletCgroup(t *testing.T, parts ...string) {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
		root = filepath.Join(root, "unified")
	}
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	dir := root
	for _, p := range parts {
		dir = filepath.Join(dir, p)
		err := os.Mkdir(dir, 0o755)
		if err != nil && !os.IsExist(err) {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skipf("no control group can be made: %v", err)
		}
		if err == nil {
			at := dir
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				if err := os.Remove(at); err != nil {
					t.Error(err)
				}
			})
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The container is found by its cgroup alone, by whatever runtime; its pod is Kubernetes' word, from a fake server.
func TestContainersAreJoinedWithThePodsOfAFakeKubernetes(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("ab", 32)
	kubeletCgroup(t, "kubepods-test", "pod"+podUID, id)
	r, f := newRig(t, nil), newFakeKubernetes(t)
	f.shop()
	r.kubeProbe(f.kubeconfig(t.TempDir()), nil)
	container := "container;" + pluginHost + ";" + id[:12]
	r.eventually("the container below its pod", func() bool {
		d := r.kubeDoc("pod;" + podUID)
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
	if got := r.labels("pods"); !slices.Equal(got, []string{"report-1-x", "web-abc-1", "web-abc-2"}) {
		t.Errorf("view pods: %q", got)
	}
	// A service that takes the pod in later takes its containers in too.
	f.put("/api/v1/services", `{"metadata":{"uid":"s-2","name":"other","namespace":"shop"},"spec":{"selector":{"app":"web"}}}`)
	r.eventually("the second service", func() bool { return found("service:other") })
}

func TestOneProbeOfAFakeClusterWatches(t *testing.T) {
	t.Parallel()
	r, f := newRig(t, nil), newFakeKubernetes(t)
	f.shop()
	config := f.kubeconfig(t.TempDir())
	path := "/apis/coordination.k8s.io/v1/namespaces/monitoring/leases/orchestrator-probe"
	stop := map[string]func(){}
	for _, name := range []string{"first", "second"} {
		stop[name] = r.kubeProbe(config, func(c *probe.Config) { c.Kubernetes, c.ID, c.Hostname = probe.KubernetesLease, name, name })
	}
	r.eventually("the pods", func() bool { return r.entities("pod") == 3 })
	holder := f.holder(path)
	if stop[holder] == nil {
		t.Fatalf("the lease is held by %q", holder)
	}
	f.mu.Lock()
	n := f.watching[podsPath]
	f.mu.Unlock()
	if n != 1 {
		t.Errorf("%d probes watch the pods", n)
	}
	// One that ends gives the lease back: the other takes over at once, and the pods are there again.
	stop[holder]()
	r.eventually("another holder", func() bool { h := f.holder(path); return h != holder && stop[h] != nil })
	r.eventually("its watch", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.watching[podsPath] == 1
	})
	r.eventually("the pods from the other probe", func() bool {
		var d struct{ Probe struct{ ID, State string } }
		a := r.call("GET", "/api/v1/nodes/"+url.PathEscape("pod;"+podUID), adminToken, "")
		if a.status != 200 {
			return false
		}
		a.into(t, &d)
		return d.Probe.ID == f.holder(path) && d.Probe.State == "connected"
	})
}
