package monitoring

import (
	"fmt"
	"strings"

	"github.com/orchestrator/orchestrator/internal/probe/kubetest"
)

// Where the shop's objects are.
const (
	podsPath     = "/api/v1/pods"
	servicesPath = "/api/v1/services"
	apps         = "/apis/apps/v1/namespaces/shop/"
	shopPods     = "/api/v1/namespaces/shop/pods"
	shopServices = "/api/v1/namespaces/shop/services"
)

// owned is how a controller marks what it makes.
func owned(version, kind, name, uid string) string {
	return fmt.Sprintf(`"ownerReferences":[{"apiVersion":%q,"kind":%q,"name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}]`, version, kind, name, uid)
}

// shopPod is a pod as the API server gets it from a controller and then from the kubelet. meta and spec are further fields.
func shopPod(name, meta, spec, status string) string {
	return fmt.Sprintf(`{"metadata":{"name":%q,%s},"spec":{"containers":[{"name":"web","image":"nginx:1.27","ports":[{"name":"http","containerPort":8080}]}],%s},"status":%s}`, name, meta, spec, status)
}

func containerStatus(name, rest string) string {
	return fmt.Sprintf(`{"name":%q,"image":"nginx:1.27","imageID":"sha256:00",%s}`, name, rest)
}

const webTemplate = `{"metadata":{"labels":{"app":%q}},"spec":{"restartPolicy":%q,"containers":[{"name":"web","image":"nginx:1.27"}]}}`

// fillShop makes a small estate: what a person writes, and what the controllers and the kubelet would write then.
func fillShop(c *kubetest.Cluster) {
	c.Make("/api/v1/namespaces", `{"metadata":{"name":"shop","labels":{"team":"checkout"}}}`)
	c.Make("/api/v1/nodes", `{"metadata":{"name":"worker-1","labels":{"kubernetes.io/hostname":"`+pluginHost+`"}},"status":{
		"addresses":[{"type":"InternalIP","address":"192.0.2.7"},{"type":"Hostname","address":"worker-1"}],
		"nodeInfo":{"kubeletVersion":"v1.31.0","containerRuntimeVersion":"containerd://1.7.20","machineID":"m","systemUUID":"u","bootID":"b","kernelVersion":"6.1","osImage":"Debian","kubeProxyVersion":"v1.31.0","operatingSystem":"linux","architecture":"amd64"},
		"conditions":[{"type":"Ready","status":"True","reason":"KubeletReady","message":"kubelet is posting ready status"},{"type":"MemoryPressure","status":"True","reason":"KubeletHasInsufficientMemory","message":"little memory is left"}]}}`)
	template := func(app, restart string) string { return fmt.Sprintf(webTemplate, app, restart) }
	selector := func(app string) string { return `"selector":{"matchLabels":{"app":"` + app + `"}}` }

	c.Make(apps+"deployments", `{"metadata":{"name":"web","labels":{"app":"web","secret-of":"nobody"}},"spec":{"replicas":3,`+selector("web")+`,"template":`+template("web", "Always")+`},
		"status":{"observedGeneration":1,"replicas":3,"updatedReplicas":3,"readyReplicas":1,"availableReplicas":1,"unavailableReplicas":2}}`)
	web := owned("apps/v1", "Deployment", "web", c.UID(apps+"deployments/web"))
	for name, replicas := range map[string]int{"web-abc": 3, "web-old": 0} {
		c.Make(apps+"replicasets", fmt.Sprintf(`{"metadata":{"name":%q,"labels":{"app":"web"},%s},"spec":{"replicas":%d,%s,"template":%s}}`, name, web, replicas, selector("web"), template("web", "Always")))
	}
	// One that a person made by hand stands for itself.
	c.Make(apps+"replicasets", `{"metadata":{"name":"lone"},"spec":{"replicas":1,`+selector("lone")+`,"template":`+template("lone", "Always")+`}}`)
	c.Make(apps+"daemonsets", `{"metadata":{"name":"logger"},"spec":{`+selector("logger")+`,"template":`+template("logger", "Always")+`},
		"status":{"observedGeneration":1,"desiredNumberScheduled":2,"currentNumberScheduled":2,"numberMisscheduled":0,"numberReady":2,"numberAvailable":2,"updatedNumberScheduled":2}}`)
	c.Make(apps+"statefulsets", `{"metadata":{"name":"db"},"spec":{"serviceName":"db","replicas":1,`+selector("db")+`,"template":`+template("db", "Always")+`}}`)

	cron := "/apis/batch/v1/namespaces/shop/cronjobs"
	if !c.Has(cron) {
		cron = strings.Replace(cron, "v1", "v1beta1", 1)
	}
	job := `{"template":` + template("report", "Never") + `}`
	c.Make(cron, `{"metadata":{"name":"report"},"spec":{"schedule":"0 3 * * *","jobTemplate":{"spec":`+job+`}}}`)
	c.Make(cron, `{"metadata":{"name":"paused"},"spec":{"schedule":"@hourly","suspend":true,"jobTemplate":{"spec":`+job+`}}}`)
	c.Make("/apis/batch/v1/namespaces/shop/jobs", `{"metadata":{"name":"report-1",`+owned("batch/v1", "CronJob", "report", c.UID(cron+"/report"))+`},"spec":`+job+`}`)

	c.Make(shopServices, `{"metadata":{"name":"web"},"spec":{"type":"NodePort","selector":{"app":"web"},"ports":[{"name":"http","port":80,"targetPort":"http","nodePort":30080},{"name":"raw","port":8081,"targetPort":18081,"protocol":"UDP","nodePort":30081}]}}`)
	c.Make(shopServices, `{"metadata":{"name":"other"},"spec":{"selector":{"app":"other"},"ports":[{"port":80}]}}`)
	c.Make(shopServices, `{"metadata":{"name":"headless"},"spec":{"clusterIP":"None"}}`)

	abc := `"labels":{"app":"web"},` + owned("apps/v1", "ReplicaSet", "web-abc", c.UID(apps+"replicasets/web-abc"))
	at := `"nodeName":"worker-1"`
	c.Make(shopPods, shopPod("web-abc-1", abc, at, `{"phase":"Running","podIP":"10.9.8.7","podIPs":[{"ip":"10.9.8.7"},{"ip":"fd00::7"}],"hostIP":"192.0.2.7","startTime":"2026-01-02T03:04:06Z",
		"conditions":[{"type":"PodScheduled","status":"True"},{"type":"Ready","status":"True"}],
		"containerStatuses":[`+containerStatus("web", `"ready":true,"started":true,"restartCount":2,"state":{"running":{"startedAt":"2026-01-02T03:04:07Z"}}`)+`]}`))
	c.Make(shopPods, shopPod("web-abc-2", abc, at, `{"phase":"Running","podIP":"10.9.8.8","startTime":"2026-01-02T03:04:06Z","containerStatuses":[`+containerStatus("web",
		`"ready":false,"started":false,"restartCount":40,"state":{"waiting":{"reason":"CrashLoopBackOff","message":"back-off 5m0s restarting failed container"}},
		"lastState":{"terminated":{"exitCode":137,"reason":"OOMKilled","startedAt":"2026-01-02T03:04:07Z","finishedAt":"2026-01-02T03:04:09Z","containerID":"containerd://00"}}`)+`]}`))
	c.Make(shopPods, shopPod("report-1-x", owned("batch/v1", "Job", "report-1", c.UID("/apis/batch/v1/namespaces/shop/jobs/report-1")), `"restartPolicy":"Never"`,
		`{"conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"0/1 nodes are available"}]}`))
	c.Make(shopPods, shopPod("lone-1", `"labels":{"app":"lone"},`+owned("apps/v1", "ReplicaSet", "lone", c.UID(apps+"replicasets/lone")), at, `{"phase":"Running","podIP":"10.9.8.9"}`))
	c.Make("/api/v1/namespaces/kube-system/pods", shopPod("proxy", `"labels":{}`, `"hostNetwork":true,`+at, `{"phase":"Running","podIP":"192.0.2.7","hostIP":"192.0.2.7"}`))
	c.Make(shopPods, shopPod("done", `"labels":{}`, `"restartPolicy":"Never",`+at, `{"phase":"Succeeded"}`))
}

// status writes a pod's status anew, as the kubelet does.
func status(c *kubetest.Cluster, pod, text string) {
	c.Do("PATCH", shopPods+"/"+pod+"/status", `{"status":`+text+`}`)
}
