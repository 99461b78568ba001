package marathonclients

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	marathon "github.com/gambol99/go-marathon"
)

const all = "cpus:64;mem:32000;disk:100000;ports:[31000-31999]"

// TestGoMarathon drives go-marathon v0.7.1 through everything that it can do, with a first member in its list that is dead.
func TestGoMarathon(t *testing.T) {
	c := startCluster(t, all)
	cfg := marathon.NewDefaultConfig()
	cfg.URL = "http://127.0.0.1:1," + strings.TrimPrefix(c.Marathon, "http://")
	cfg.EventsTransport = marathon.EventsTransportSSE
	cfg.PollingWaitTime = 50 * time.Millisecond
	client, err := marathon.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	if ok, err := client.Ping(); err != nil || !ok {
		t.Fatalf("ping: %v %v", ok, err)
	}
	var info *marathon.Info
	await(t, "the framework is subscribed", func() bool {
		info, err = client.Info()
		return err == nil && info.FrameworkID != ""
	})
	if info.Name != "marathon" || !strings.HasPrefix(info.Version, "1.11.") || info.Leader == "" {
		t.Errorf("info %+v", info)
	}
	leader, err := client.Leader()
	must("leader", err)
	if strings.Contains(leader, "://") {
		t.Errorf("leader %q has a scheme", leader)
	}
	events, err := client.AddEventsListener(marathon.EventIDApplications | marathon.EventIDDeploymentSuccess | marathon.EventIDStatusUpdate)
	must("events", err)

	app := marathon.NewDockerApplication()
	app.Container = nil
	app.Name("/shop/web").CPU(0.1).Memory(32).Count(2).Command("sleep 1000").AddEnv("A", "1").AddLabel("tier", "web")
	_, err = client.CreateApplication(app)
	must("create", err)
	must("wait for the app", client.WaitOnApplication("/shop/web", patience))
	await(t, "the app is ok", func() bool { ok, err := client.ApplicationOK("/shop/web"); return err == nil && ok })
	sawUpdate, sawSuccess := false, false
	for limit := time.After(patience); !sawUpdate || !sawSuccess; {
		select {
		case e := <-events:
			switch e.Event.(type) {
			case *marathon.EventStatusUpdate:
				sawUpdate = true
			case *marathon.EventDeploymentSuccess:
				sawSuccess = true
			}
		case <-limit:
			t.Fatalf("no status update (%v) or deployment success (%v) came", sawUpdate, sawSuccess)
		}
	}
	client.RemoveEventsListener(events)

	_, err = client.CreateApplication(app)
	var api *marathon.APIError
	if !errors.As(err, &api) || api.ErrCode != marathon.ErrCodeDuplicateID {
		t.Errorf("a duplicate gives %v", err)
	}
	bad := marathon.NewDockerApplication()
	bad.Container = nil
	_, err = client.CreateApplication(bad.Name("/UPPER").Command("sleep 1"))
	if !errors.As(err, &api) || api.ErrCode != marathon.ErrCodeInvalidBean {
		t.Errorf("an invalid app gives %v", err)
	}
	if _, err = client.Application("/nobody"); !errors.As(err, &api) || api.ErrCode != marathon.ErrCodeNotFound {
		t.Errorf("an unknown app gives %v", err)
	}

	got, err := client.Application("/shop/web")
	must("get", err)
	if *got.Instances != 2 || len(got.Tasks) != 2 || got.TasksRunning != 2 || (*got.Env)["A"] != "1" {
		t.Errorf("app %+v", got)
	}
	list, err := client.Applications(url.Values{"label": {"tier==web"}, "embed": {"apps.tasks"}})
	must("list", err)
	if len(list.Apps) != 1 || len(list.Apps[0].Tasks) != 2 {
		t.Errorf("list %+v", list)
	}
	dep, err := client.ScaleApplicationInstances("/shop/web", 4, false)
	must("scale", err)
	must("wait for the scaling", client.WaitOnDeployment(dep.DeploymentID, patience))
	first, err := client.ApplicationVersions("/shop/web")
	must("versions", err)
	got.AddEnv("A", "2")
	got.Count(4)
	got.Version, got.VersionInfo = "", nil
	dep, err = client.UpdateApplication(got, false)
	must("update", err)
	must("wait for the update", client.WaitOnDeployment(dep.DeploymentID, patience))
	dep, err = client.SetApplicationVersion("/shop/web", &marathon.ApplicationVersion{Version: first.Versions[len(first.Versions)-1]})
	must("go back", err)
	must("wait for going back", client.WaitOnDeployment(dep.DeploymentID, patience))
	if got, err = client.Application("/shop/web"); err != nil || (*got.Env)["A"] != "1" {
		t.Errorf("after going back: %+v %v", got, err)
	}
	dep, err = client.RestartApplication("/shop/web", false)
	must("restart", err)
	must("wait for the restart", client.WaitOnDeployment(dep.DeploymentID, patience))

	tasks, err := client.Tasks("/shop/web")
	must("tasks", err)
	if len(tasks.Tasks) == 0 || len(tasks.Tasks[0].Ports) != 1 || tasks.Tasks[0].State != "TASK_RUNNING" {
		t.Fatalf("tasks %+v", tasks)
	}
	killed, err := client.KillTask(tasks.Tasks[0].ID, &marathon.KillTaskOpts{})
	must("kill", err)
	if killed.ID != tasks.Tasks[0].ID {
		t.Errorf("killed %+v", killed)
	}
	allTasks, err := client.AllTasks(&marathon.AllTasksOpts{Status: "running"})
	must("all tasks", err)
	if len(allTasks.Tasks) == 0 {
		t.Error("no running task is listed")
	}

	group := marathon.NewApplicationGroup("/team")
	one := marathon.NewDockerApplication()
	one.Container = nil
	one.Name("/team/one").CPU(0.1).Memory(32).Count(1).Command("sleep 1000")
	group.App(one)
	must("create the group", client.CreateGroup(group))
	must("wait for the group", client.WaitOnGroup("/team", patience))
	if ok, err := client.HasGroup("/team"); err != nil || !ok {
		t.Errorf("has group: %v %v", ok, err)
	}
	groups, err := client.Groups()
	must("groups", err)
	if len(groups.Groups) != 2 {
		t.Errorf("groups %+v", groups)
	}

	huge := marathon.NewDockerApplication()
	huge.Container = nil
	_, err = client.CreateApplication(huge.Name("/huge").CPU(100000).Memory(32).Count(1).Command("sleep 1000"))
	must("create what fits nowhere", err)
	queue, err := client.Queue()
	must("queue", err)
	if len(queue.Items) != 1 || queue.Items[0].Application.ID != "/huge" || queue.Items[0].Count != 1 {
		t.Errorf("queue %+v", queue)
	}
	deployments, err := client.Deployments()
	must("deployments", err)
	if len(deployments) != 1 || len(deployments[0].CurrentActions) == 0 {
		t.Fatalf("deployments %+v", deployments)
	}
	if _, err = client.ScaleApplicationInstances("/huge", 2, false); !errors.As(err, &api) || api.ErrCode != marathon.ErrCodeAppLocked {
		t.Errorf("a locked app gives %v", err)
	}
	_, err = client.DeleteDeployment(deployments[0].ID, true)
	must("cancel", err)
	// This version of go-marathon ignores force when it cancels, so the deployment was undone.
	if _, err = client.Application("/huge"); !errors.As(err, &api) || api.ErrCode != marathon.ErrCodeNotFound {
		t.Errorf("what was undone is still there: %v", err)
	}
	_, err = client.DeleteApplication("/shop/web", true)
	must("delete", err)
	_, err = client.DeleteGroup("/team", true)
	must("delete the group", err)
	await(t, "nothing runs", func() bool {
		d, err := client.Deployments()
		a, aerr := client.AllTasks(&marathon.AllTasksOpts{})
		return err == nil && aerr == nil && len(d) == 0 && len(a.Tasks) == 0
	})
}
