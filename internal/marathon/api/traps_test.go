package api

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/marathon/core"
)

// The traps that Marathon's clients fall into, one test for each, named and numbered as in the list that compatibility is held to.
// Trap 10, the frames of the event stream, is in the package events and in TestEventStream and TestStandbyPassesRequestsOn of
// package marathon; only its refusals are here. Trap 16, the grammar of task ids, is also in core's TestTaskIDs, and trap 23,
// what counts as a failure, in TestUnhealthyInstanceIsKilledAfterMaxPlusOne.
func TestTraps(t *testing.T) {
	t.Parallel()
	for _, trap := range []struct {
		name string
		test func(b *trapBench)
	}{
		{"01 only DELETE of an app forces by default", (*trapBench).forceDefaults},
		{"02 two shapes of 409", (*trapBench).conflicts},
		{"03 POST gives the app, PUT the deployment", (*trapBench).createdOrDeployed},
		{"04 bare arrays and wrapped ones", (*trapBench).arrays},
		{"05 empty answers with a header", (*trapBench).emptyAnswers},
		{"06 an unchanged PUT has a deployment", (*trapBench).unchanged},
		{"07 partial means top level; read, change, write", (*trapBench).partial},
		{"08 keys that are there even when empty", (*trapBench).emptyKeys},
		{"09 embed has synonyms and is repeated", (*trapBench).embeds},
		{"10 the event stream needs its Accept", (*trapBench).eventsAccept},
		{"11 slack paths", (*trapBench).paths},
		{"12 never 5xx for what is not there", (*trapBench).notThere},
		{"13 the leader with and without scheme", (*trapBench).leaderForms},
		{"14 scheduled hidden, provisioned staging, no result before the first probe", (*trapBench).statesBeforeRunning},
		{"15 readiness results name the task", (*trapBench).readinessTask},
		{"16 task ids and executor ids", (*trapBench).taskIDs},
		{"17 discovery reversed, ports split by protocol", (*trapBench).discovery},
		{"18 service ports are assigned once", (*trapBench).servicePorts},
		{"19 healthy without checks counts nothing and ends deployments", (*trapBench).healthyWithoutChecks},
		{"20 labels restart, instances don't", (*trapBench).whatRestarts},
		{"21 apps of a group are replaced, pods are not", (*trapBench).groupPut},
		{"22 versions are milliseconds, newest first", (*trapBench).versions},
		{"23 finished backs off, killed doesn't", (*trapBench).backoff},
		{"24 400 and 422, details as text and as list", (*trapBench).details},
		{"25 text lines end with a tab", (*trapBench).textLines},
		{"26 what old clients read", (*trapBench).oldClients},
	} {
		t.Run(strings.ReplaceAll(trap.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			trap.test(&trapBench{newBench(t)})
		})
	}
}

type trapBench struct{ *bench }

// get reads a JSON answer.
func (b *trapBench) get(path string, v any) {
	b.t.Helper()
	if err := json.Unmarshal([]byte(b.must(200, "GET", path, "")), v); err != nil {
		b.t.Fatalf("%s: %v", path, err)
	}
}

func (b *trapBench) app(path string) map[string]any {
	b.t.Helper()
	var x struct{ App map[string]any }
	b.get(path, &x)
	return x.App
}

func (b *trapBench) check(ok bool, format string, args ...any) {
	b.t.Helper()
	if !ok {
		b.t.Errorf(format, args...)
	}
}

// start brings what waits up, and deployments to their ends.
func (b *trapBench) start() {
	for range 5 {
		b.offer(100)
		b.run()
		if len(b.snap.Deployments) == 0 {
			return
		}
	}
}

// healthy lets every check of an app's instances find them alive.
func (b *trapBench) healthy(id string) {
	for _, i := range b.snap.Instances(id) {
		b.step(core.HealthResult{Instance: i.ID, Task: i.Tasks[0].ID, Alive: true})
	}
}

// launched are the tasks that were launched and not yet run.
func (b *trapBench) launched() []*mesosv1.TaskInfo {
	var out []*mesosv1.TaskInfo
	for _, c := range b.calls {
		for _, op := range c.GetAccept().GetOperations() {
			out = append(out, op.GetLaunch().GetTaskInfos()...)
		}
	}
	return out
}

func (b *trapBench) forceDefaults() {
	b.must(201, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1"}`)
	b.must(201, "POST", "/v2/pods", trapPod)
	b.must(409, "PUT", "/v2/apps/a", `{"instances":2}`)
	b.must(409, "PUT", "/v2/apps", `[{"id":"a","instances":2}]`)
	b.must(409, "PATCH", "/v2/apps/a", `{"instances":2}`)
	b.must(409, "POST", "/v2/apps/a/restart", "")
	b.must(409, "PUT", "/v2/groups", `{"apps":[]}`)
	b.must(409, "DELETE", "/v2/groups", "")
	b.must(409, "DELETE", "/v2/pods/pod", "")
	b.must(409, "DELETE", "/v2/apps/a?force=false", "")
	b.must(200, "DELETE", "/v2/apps/a", "")
}

const trapPod = `{"id":"/pod","containers":[{"name":"c","exec":{"command":{"shell":"sleep 1"}},"resources":{"cpus":0.1,"mem":32}}]}`

func (b *trapBench) conflicts() {
	b.must(201, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1"}`)
	for body, locked := range map[string]bool{b.must(409, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1"}`): false, b.must(409, "PUT", "/v2/apps/a", `{"cpus":2}`): true} {
		var x map[string]any
		if err := json.Unmarshal([]byte(body), &x); err != nil {
			b.t.Fatal(err)
		}
		_, has := x["deployments"]
		b.check(has == locked, "locked %v: %s", locked, body)
	}
}

func (b *trapBench) createdOrDeployed() {
	w := b.do("POST", "/v2/apps", `{"id":"a","cmd":"sleep 1"}`)
	var created struct {
		ID           string
		Deployments  []struct{ ID string }
		DeploymentID string
	}
	b.check(w.Code == 201 && json.Unmarshal(w.Body.Bytes(), &created) == nil && created.ID == "/a" && len(created.Deployments) == 1 && created.DeploymentID == "", "POST: %d %s", w.Code, w.Body)
	b.check(w.Header().Get("Marathon-Deployment-Id") == created.Deployments[0].ID && strings.HasSuffix(w.Header().Get("Location"), "/a"), "header %v", w.Header())
	b.start()
	for _, body := range []string{b.must(200, "PUT", "/v2/apps/a", `{"cpus":2}`), b.must(201, "PUT", "/v2/apps/new", `{"cmd":"sleep 1"}`)} {
		var d struct{ DeploymentID, Version, ID string }
		b.check(json.Unmarshal([]byte(body), &d) == nil && d.DeploymentID != "" && d.Version != "" && d.ID == "", "PUT: %s", body)
	}
}

func (b *trapBench) arrays() {
	b.must(201, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1"}`)
	b.must(201, "POST", "/v2/pods", trapPod)
	for _, p := range []string{"/v2/deployments", "/v2/groups/versions", "/v2/pods", "/v2/pods/::status", "/v2/pods/pod::versions"} {
		body := b.must(200, "GET", p, "")
		b.check(body[0] == '[', "%s gives %s", p, body)
	}
	for p, key := range map[string]string{"/v2/apps": "apps", "/v2/tasks": "tasks", "/v2/queue": "queue", "/v2/apps/a/versions": "versions", "/v2/apps/a/tasks": "tasks", "/v2/apps/*": "*"} {
		var x map[string]json.RawMessage
		b.get(p, &x)
		b.check(len(x) == 1 && x[key] != nil && x[key][0] == '[', "%s gives %v", p, x)
	}
	var one map[string]any
	b.get("/v2/apps/a/versions/"+b.snap.Root.Get("/a").Version.String(), &one)
	b.check(one["id"] == "/a", "a version is wrapped: %v", one)
}

func (b *trapBench) emptyAnswers() {
	b.must(201, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1"}`)
	w := b.do("DELETE", "/v2/deployments/"+b.snap.Deployments[0].ID+"?force=true", "")
	b.check(w.Code == 202 && w.Body.Len() == 0, "cancel: %d %q", w.Code, w.Body)
	b.must(201, "POST", "/v2/pods", trapPod)
	w = b.do("DELETE", "/v2/pods/pod?force=true", "")
	id := w.Header().Get("Marathon-Deployment-Id")
	b.check(w.Code == 202 && w.Body.Len() == 0 && id != "" && strings.HasSuffix(w.Header().Get("Location"), "/v2/deployments/"+id), "pod: %d %q %v", w.Code, w.Body, w.Header())
}

func (b *trapBench) unchanged() {
	b.must(201, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1"}`)
	b.start()
	version := b.snap.Root.Get("/a").Version
	var d struct{ DeploymentID string }
	_ = json.Unmarshal([]byte(b.must(200, "PUT", "/v2/apps/a", `{"cmd":"sleep 1"}`)), &d)
	b.check(d.DeploymentID != "" && len(b.snap.Deployments) == 0 && b.snap.Root.Get("/a").Version == version, "deployment %q, %d run", d.DeploymentID, len(b.snap.Deployments))
	b.check(slices.ContainsFunc(b.notices, func(n core.Notice) bool {
		e, ok := n.Fields.(core.DeploymentEnd)
		return ok && n.Type == "deployment_success" && e.ID == d.DeploymentID
	}), "its success was not published")
}

func (b *trapBench) partial() {
	b.must(201, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1","env":{"A":"1","B":"2"},"labels":{"l":"1"},"upgradeStrategy":{"minimumHealthCapacity":0.5,"maximumOverCapacity":0.2}}`)
	b.start()
	first := b.app("/v2/apps/a")
	b.must(200, "PUT", "/v2/apps/a", `{"env":{"A":"3"}}`)
	b.start()
	a := b.app("/v2/apps/a")
	env, _ := a["env"].(map[string]any)
	b.check(len(env) == 1 && env["A"] == "3" && a["cmd"] == "sleep 1", "maps are replaced, not merged: %v", a)
	// What was read goes back as it is, but for the version.
	version := a["version"]
	back, _ := json.Marshal(a)
	b.must(422, "PUT", "/v2/apps/a", string(back))
	delete(a, "version")
	back, _ = json.Marshal(a)
	b.must(200, "PUT", "/v2/apps/a", string(back))
	b.check(b.app("/v2/apps/a")["version"] == version, "what was read and sent back counts as a change")
	// Only a version goes back to it; with partialUpdate=false it means nothing.
	b.must(200, "PUT", "/v2/apps/a", `{"version":"`+first["version"].(string)+`"}`)
	b.start()
	env, _ = b.app("/v2/apps/a")["env"].(map[string]any)
	b.check(env["A"] == "1" && env["B"] == "2", "not back: %v", env)
	b.must(200, "PUT", "/v2/apps/a?partialUpdate=false", `{"cmd":"sleep 2","version":"2001-01-01T00:00:00.000Z"}`)
	a = b.app("/v2/apps/a")
	b.check(a["env"] == nil && a["cmd"] == "sleep 2" && len(a["labels"].(map[string]any)) == 0, "not replaced whole: %v", a)
}

func (b *trapBench) emptyKeys() {
	b.must(201, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1","instances":0}`)
	keys := strings.Fields("id labels instances version deployments tasksStaged tasksRunning tasksHealthy tasksUnhealthy backoffFactor backoffSeconds cpus disk executor maxLaunchDelaySeconds mem gpus networks requirePorts upgradeStrategy unreachableStrategy killSelection role")
	one := b.app("/v2/apps/a")
	var list struct{ Apps []map[string]any }
	b.get("/v2/apps?embed=apps.tasks", &list)
	for what, a := range map[string]map[string]any{"single": one, "list": list.Apps[0]} {
		for _, k := range append(keys, "tasks") {
			_, ok := a[k]
			b.check(ok, "%s: no %q", what, k)
		}
	}
	for _, k := range strings.Fields("args constraints dependencies env fetch healthChecks readinessChecks secrets acceptedResourceRoles uris ipAddress") {
		_, ok := one[k]
		b.check(!ok, "%q is there although it is empty or old", k)
	}
}

func (b *trapBench) embeds() {
	b.must(201, "POST", "/v2/apps", `{"id":"/g/a","cmd":"sleep 1","readinessChecks":[{"portName":"http"}],"portDefinitions":[{"name":"http"}]}`)
	b.start()
	for _, prefix := range []string{"", "apps.", "app.", "group.apps."} {
		var list struct{ Apps []map[string]any }
		b.get("/v2/apps?embed="+prefix+"tasks&embed="+prefix+"taskStats&embed=nonsense&embed="+prefix+"lastTaskFailure", &list)
		for _, k := range []string{"tasks", "tasksStats"} {
			_, ok := list.Apps[0][k]
			b.check(ok, "embed=%s…: no %q", prefix, k)
		}
	}
	var g struct {
		Apps   []any
		Groups []any
	}
	b.get("/v2/groups?embed=group.apps", &g)
	b.check(len(g.Groups) == 0, "an embed did not replace the default ones: %v", g)
}

func (b *trapBench) eventsAccept() {
	w := b.do("GET", "/v2/events", "", "Accept", "application/json")
	b.check(w.Code == 405 || w.Code == 406, "%d", w.Code)
}

func (b *trapBench) paths() {
	b.must(201, "POST", "/v2/apps/", `{"id":"a","cmd":"sleep 1"}`)
	b.must(201, "POST", "/v2/apps", `{"id":"/a-group/tasks-of/x","cmd":"sleep 1"}`)
	b.must(201, "POST", "/v2/pods", trapPod)
	for _, p := range []string{
		"/v2/apps/a", "/v2/apps//a", "/v2/apps/a/", "/service/marathon/v2/apps/a", "/v2/apps/%2Fa", "/v2/apps/a-group/tasks-of/x/tasks", "/v2/apps//a-group/tasks-of/x/versions",
		"/v2/apps/a-group%2Ftasks-of%2Fx", "/v2/groups//a-group/tasks-of", "/v2/groups/a-group/versions", "/v2/pods//pod::status", "/v2/pods/pod::versions", "/v2/apps/a-group/*", "/v2/apps/a-group/*/tasks",
	} {
		b.must(200, "GET", p, "")
	}
	b.must(200, "POST", "/v2/apps/a-group/tasks-of/x/restart?force=true", "")
	for _, id := range []string{"/g/restart", "/g/tasks", "/g/versions", "/g/."} {
		if w := b.do("POST", "/v2/apps", `{"id":"`+id+`","cmd":"sleep 1"}`); w.Code != 422 {
			b.t.Errorf("%s: %d %s", id, w.Code, w.Body)
		}
	}
}

func (b *trapBench) notThere() {
	b.must(201, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1"}`)
	for _, p := range []string{
		"/v2/apps/zz", "/v2/apps/zz/tasks", "/v2/apps/a/versions/2001-01-01T00:00:00.000Z", "/v2/groups/zz", "/v2/groups/zz/versions", "/v2/pods/zz", "/v2/pods/zz::status", "/v2/pods/zz::versions", "/nope", "/v2/artifacts/x",
		"/v2/schemas", "/v2/plugins/x/y", "/v2", "/v2/apps/a::nothing",
	} {
		b.must(404, "GET", p, "")
	}
	for _, p := range []string{"/v2/apps/zz", "/v2/deployments/zz", "/v2/queue/zz/delay", "/v2/groups/zz", "/v2/apps/a/tasks/a.instance-x", "/v2/pods/zz", "/v2/pods/zz::instances/x"} {
		b.must(404, "DELETE", p, "")
	}
	b.must(405, "POST", "/ping", "")
	// Without a leader there is 502, and the pages that need none still answer.
	b.gone = true
	b.must(502, "GET", "/v2/apps", "")
	b.must(200, "GET", "/ping", "")
	b.leader = ""
	b.must(404, "GET", "/v2/leader", "")
}

func (b *trapBench) leaderForms() {
	var l, i struct{ Leader string }
	b.get("/v2/leader", &l)
	b.get("/v2/info", &i)
	b.check(l.Leader == "leader:8080" && i.Leader == "leader:8080", "%q %q", l.Leader, i.Leader)
	h := b.do("GET", "/v2/apps", "").Header().Get("X-Marathon-Leader")
	b.check(h == "http://leader:8080", "header %q", h)
}

func (b *trapBench) statesBeforeRunning() {
	b.must(201, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1","healthChecks":[{"path":"/"}]}`)
	a := b.app("/v2/apps/a")
	b.check(len(a["tasks"].([]any)) == 0 && a["tasksStaged"] == 0.0, "a scheduled instance is listed: %v", a["tasks"])
	b.offer(10)
	task := func() map[string]any { return b.app("/v2/apps/a")["tasks"].([]any)[0].(map[string]any) }
	b.check(task()["state"] == "TASK_STAGING" && b.app("/v2/apps/a")["tasksStaged"] == 1.0, "provisioned: %v", task())
	b.run()
	_, has := task()["healthCheckResults"]
	b.check(task()["state"] == "TASK_RUNNING" && !has, "before the first probe: %v", task())
	b.healthy("/a")
	r, _ := task()["healthCheckResults"].([]any)
	b.check(len(r) == 1 && r[0].(map[string]any)["alive"] == true, "after it: %v", task())
}

func (b *trapBench) readinessTask() {
	b.must(201, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1","readinessChecks":[{"portName":"http"}],"portDefinitions":[{"name":"http"}]}`)
	b.start()
	i := b.snap.Instances("/a")[0]
	b.step(core.ReadinessResult{Instance: i.ID, Task: i.Tasks[0].ID, Readiness: core.Readiness{Name: "readinessCheck", Status: 503}})
	a := b.app("/v2/apps/a?embed=app.readiness")
	r, _ := a["readinessCheckResults"].([]any)
	if len(r) != 1 {
		b.t.Fatalf("results %v", a["readinessCheckResults"])
	}
	id := a["tasks"].([]any)[0].(map[string]any)["id"]
	b.check(r[0].(map[string]any)["taskId"] == id && r[0].(map[string]any)["ready"] == false, "%v, task %v", r, id)
}

func (b *trapBench) taskIDs() {
	b.must(201, "POST", "/v2/apps", `{"id":"/a/b-c","cmd":"sleep 1"}`)
	b.must(201, "POST", "/v2/apps", `{"id":"/own","cmd":"sleep 1","executor":"/bin/exec"}`)
	b.offer(10)
	for _, ti := range b.launched() {
		id := ti.GetTaskId().GetValue()
		switch {
		case strings.HasPrefix(id, "own."):
			b.check(ti.GetExecutor().GetExecutorId().GetValue() == "marathon-"+id, "executor %q of %s", ti.GetExecutor().GetExecutorId().GetValue(), id)
		default:
			// Without an executor the agent's command executor has the task's id.
			b.check(regexp.MustCompile(`^a_b-c\.instance-[0-9a-f-]{36}\._app\.1$`).MatchString(id) && ti.Executor == nil, "task %q executor %v", id, ti.Executor)
		}
	}
	b.check(len(b.launched()) == 2, "%d launched", len(b.launched()))
}

func (b *trapBench) discovery() {
	b.must(201, "POST", "/v2/apps", `{"id":"/a/b/c","cmd":"sleep 1","portDefinitions":[{"name":"dns","protocol":"udp,tcp","labels":{"VIP_0":"x:1"}},{"name":"web"}]}`)
	b.offer(10)
	ti := b.launched()[0]
	b.check(ti.GetName() == "c.b.a" && ti.GetDiscovery().GetName() == "c.b.a" && ti.GetDiscovery().GetVisibility() == mesosv1.DiscoveryInfo_FRAMEWORK, "%v", ti.GetDiscovery())
	var got []string
	for _, p := range ti.GetDiscovery().GetPorts().GetPorts() {
		got = append(got, p.GetName()+"/"+p.GetProtocol())
	}
	slices.Sort(got)
	b.check(slices.Equal(got, []string{"dns/tcp", "dns/udp", "web/tcp"}), "ports %v", got)
}

func (b *trapBench) servicePorts() {
	b.must(201, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1","portDefinitions":[{},{}]}`)
	b.must(201, "POST", "/v2/apps", `{"id":"b","cmd":"sleep 1","portDefinitions":[{"port":0}]}`)
	ports := func(id string) (out []float64) {
		for _, p := range b.app("/v2/apps/" + id)["portDefinitions"].([]any) {
			out = append(out, p.(map[string]any)["port"].(float64))
		}
		return out
	}
	b.check(slices.Equal(ports("a"), []float64{10000, 10001}) && slices.Equal(ports("b"), []float64{10002}), "%v %v", ports("a"), ports("b"))
	b.start()
	b.must(200, "PUT", "/v2/apps/a?force=true", `{"cmd":"sleep 2","portDefinitions":[{"port":0},{"port":0},{"port":0}]}`)
	b.must(200, "PUT", "/v2/apps/b?force=true&partialUpdate=false", `{"cmd":"sleep 2","portDefinitions":[{"port":0}]}`)
	b.check(slices.Equal(ports("a"), []float64{10000, 10001, 10003}) && slices.Equal(ports("b"), []float64{10002}), "after an update %v %v", ports("a"), ports("b"))
}

func (b *trapBench) healthyWithoutChecks() {
	b.must(201, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1"}`)
	b.start()
	a := b.app("/v2/apps/a")
	b.check(a["tasksRunning"] == 1.0 && a["tasksHealthy"] == 0.0 && a["tasksUnhealthy"] == 0.0 && len(b.snap.Deployments) == 0, "%v, %d deployments", a, len(b.snap.Deployments))
}

func (b *trapBench) whatRestarts() {
	b.must(201, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1"}`)
	b.start()
	first := b.snap.Instances("/a")[0]
	info := func() map[string]any { return b.app("/v2/apps/a")["versionInfo"].(map[string]any) }
	before := info()
	b.must(200, "PUT", "/v2/apps/a", `{"instances":2}`)
	b.start()
	i := b.snap.Instance(first.ID)
	b.check(i != nil && i.Tasks[0].ID == first.Tasks[0].ID, "scaling restarted it")
	b.check(info()["lastConfigChangeAt"] == before["lastConfigChangeAt"] && info()["lastScalingAt"] != before["lastScalingAt"], "%v then %v", before, info())
	b.must(200, "PUT", "/v2/apps/a", `{"labels":{"x":"y"}}`)
	b.start()
	b.run()
	b.check(b.snap.Instance(first.ID) == nil && len(b.snap.Instances("/a")) == 2, "a label did not restart it")
	b.check(info()["lastConfigChangeAt"] == info()["lastScalingAt"] && info()["lastConfigChangeAt"] != before["lastConfigChangeAt"], "%v", info())
}

func (b *trapBench) groupPut() {
	b.must(200, "PUT", "/v2/groups/g", `{"apps":[{"id":"one","cmd":"sleep 1"},{"id":"two","cmd":"sleep 1"}],"groups":[{"id":"sub","apps":[{"id":"x","cmd":"sleep 1"}]}]}`)
	b.must(201, "POST", "/v2/pods?force=true", strings.Replace(trapPod, "/pod", "/g/pod", 1))
	b.must(200, "PUT", "/v2/groups/g?force=true", `{"apps":[{"id":"one","cmd":"sleep 1"}]}`)
	b.must(404, "GET", "/v2/apps/g/two", "")
	for _, p := range []string{"/v2/apps/g/one", "/v2/apps/g/sub/x", "/v2/pods/g/pod"} {
		b.must(200, "GET", p, "")
	}
}

func (b *trapBench) versions() {
	b.must(201, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1","instances":0}`)
	for _, n := range []string{"2", "3"} {
		b.must(200, "PUT", "/v2/apps/a?force=true", `{"cmd":"sleep `+n+`"}`)
	}
	var v struct{ Versions []string }
	b.get("/v2/apps/a/versions", &v)
	b.check(len(v.Versions) == 3 && slices.IsSortedFunc(v.Versions, func(x, y string) int { return strings.Compare(y, x) }), "%v", v.Versions)
	for _, x := range v.Versions {
		b.check(regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`).MatchString(x), "%q", x)
		b.must(200, "GET", "/v2/apps/a/versions/"+x, "")
	}
	// Two changes within one millisecond are two versions.
	b.now = b.now.Add(-time.Hour)
	b.must(200, "PUT", "/v2/apps/a?force=true", `{"cmd":"sleep 4"}`)
	b.get("/v2/apps/a/versions", &v)
	b.check(len(v.Versions) == 4 && v.Versions[0] > v.Versions[1], "%v", v.Versions)
}

func (b *trapBench) backoff() {
	b.must(201, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1","backoffSeconds":60}`)
	b.start()
	end := func(state mesosv1.TaskState) float64 {
		i := b.snap.Instances("/a")[0]
		b.step(core.Status{Status: &mesosv1.TaskStatus{TaskId: &mesosv1.TaskID{Value: new(i.Tasks[0].ID)}, State: &state}})
		var q struct {
			Queue []struct {
				Delay struct{ TimeLeftSeconds float64 }
			}
		}
		b.get("/v2/queue", &q)
		if len(q.Queue) != 1 {
			b.t.Fatalf("queue %+v", q)
		}
		return q.Queue[0].Delay.TimeLeftSeconds
	}
	b.check(end(mesosv1.TaskState_TASK_KILLED) == 0, "killed backs off")
	b.start()
	b.check(end(mesosv1.TaskState_TASK_FINISHED) > 50, "finished does not back off")
	b.must(204, "DELETE", "/v2/queue/a/delay", "")
	b.start()
	b.check(end(mesosv1.TaskState_TASK_FAILED) > 50, "failed does not back off")
}

func (b *trapBench) details() {
	for _, tc := range []struct {
		body   string
		status int
		list   bool
	}{
		{`{"id":`, 400, false},
		{`{"id":7}`, 422, true},
		{`{"cmd":"sleep 1"}`, 422, true},
		{`{"id":"/UPPER","cmd":"sleep 1"}`, 422, true},
		{`{"id":"/x","cmd":"sleep 1","upgradeStrategy":{"minimumHealthCapacity":7}}`, 422, true},
	} {
		var e struct {
			Message string
			Details any
		}
		if err := json.Unmarshal([]byte(b.must(tc.status, "POST", "/v2/apps", tc.body)), &e); err != nil {
			b.t.Fatal(err)
		}
		_, text := e.Details.(string)
		list, _ := e.Details.([]any)
		b.check(e.Message != "" && text != tc.list && (len(list) > 0) == tc.list, "%s: %+v", tc.body, e)
	}
}

func (b *trapBench) textLines() {
	b.must(201, "POST", "/v2/apps", `{"id":"/g/a","cmd":"sleep 1","instances":2}`)
	b.must(201, "POST", "/v2/apps", `{"id":"/none","cmd":"sleep 1","portDefinitions":[]}`)
	b.start()
	for _, p := range []string{"/v2/tasks", "/v2/apps/g/a/tasks"} {
		w := b.do("GET", p, "", "Accept", "text/plain")
		first, _, _ := strings.Cut(w.Body.String(), "\n")
		b.check(w.Code == 200 && strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") && regexp.MustCompile(`^g_a\t10000\t(node1\.example:\d+\t){2}$`).MatchString(first), "%s: %d %q", p, w.Code, w.Body)
	}
	b.check(strings.Contains(b.do("GET", "/v2/tasks", "", "Accept", "text/plain").Body.String(), "none\t \tnode1.example\t\n"), "an app without ports")
	w := b.do("GET", "/v2/tasks", "", "Accept", "text/plain, */*")
	b.check(strings.HasPrefix(w.Header().Get("Content-Type"), "application/json"), "*/* gives %q", w.Header().Get("Content-Type"))
}

func (b *trapBench) oldClients() {
	b.must(201, "POST", "/v2/apps", `{"id":"a","cmd":"sleep 1","ports":[0,8080],"uris":["http://x.example/a.tgz"]}`)
	a := b.app("/v2/apps/a")
	ports, _ := a["ports"].([]any)
	fetch, _ := a["fetch"].([]any)
	b.check(len(ports) == 2 && ports[1] == 8080.0 && len(fetch) == 1 && fetch[0].(map[string]any)["extract"] == true, "%v", a)
	var e struct{ EventType, CallbackURL string }
	_ = json.Unmarshal([]byte(b.must(200, "POST", "/v2/eventSubscriptions?callbackUrl=http://127.0.0.1:1/x", "")), &e)
	b.check(e.EventType == "subscribe_event" && e.CallbackURL == "http://127.0.0.1:1/x", "%+v", e)
	var l struct{ CallbackURLs []string }
	b.get("/v2/eventSubscriptions", &l)
	b.check(len(l.CallbackURLs) == 1, "%+v", l)
	b.must(200, "DELETE", "/v2/eventSubscriptions?callbackUrl=http://127.0.0.1:1/x", "")
}

// TestBadRequests: what is too large, circular or contradictory is refused with the right status.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if body := b.must(422, "PUT", "/v2/apps", `[{"id":"/p","cmd":"sleep 1","dependencies":["/q"]},{"id":"/q","cmd":"sleep 1","dependencies":["/p"]}]`); !strings.Contains(body, "cyclic") {
		t.Errorf("a circle gives %s", body)
	}
	b.must(404, "PATCH", "/v2/apps", `[{"id":"/nobody","instances":1}]`)
	b.must(400, "POST", "/v2/tasks/delete?scale=true&wipe=true", `{"ids":[]}`)
	b.must(413, "POST", "/v2/apps", `{"id":"`+strings.Repeat("x", 2<<20)+`"}`)
	b.must(400, "POST", "/v2/apps", strings.Repeat("[", 500_000))
	// An implicitly made group exists, and can't be created again; an app can't have its id.
	b.must(201, "POST", "/v2/apps", `{"id":"/g/h/x","cmd":"sleep 1","instances":0}`)
	b.must(409, "POST", "/v2/groups", `{"id":"/g"}`)
	b.must(422, "POST", "/v2/apps", `{"id":"/g/h","cmd":"sleep 1"}`)
	b.must(422, "PUT", "/v2/groups/g", `{"version":"2001-01-01T00:00:00.000Z"}`)
	// Thousands of constraints are taken or refused, but at once.
	many := strings.TrimSuffix(strings.Repeat(`["hostname","UNLIKE","x.*"],`, 5000), ",")
	w := b.do("POST", "/v2/apps", `{"id":"/many","cmd":"sleep 1","constraints":[`+many+`]}`)
	if w.Code != 201 && w.Code != 422 {
		t.Errorf("5,000 constraints: %d %.200s", w.Code, w.Body)
	}
	b.offer(10)
	// HEAD of pods tells clients that they are supported.
	if w := b.do("HEAD", "/v2/pods", ""); w.Code != http.StatusOK {
		t.Errorf("HEAD /v2/pods: %d", w.Code)
	}
}

// TestFirstLine: a reason is one line.
func TestFirstLine(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"Memory limit exceeded: Requested: 72MB\n\nMEMORY STATISTICS: \ncache 0\n": "Memory limit exceeded: Requested: 72MB",
		"\nlate": "late", "one": "one", "": "",
	} {
		if got := firstLine(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
