package marathonclients

import (
	"fmt"
	"testing"
)

// podStatus is what is looked at of a pod's status.
type podStatus struct {
	Status    string
	Instances []struct {
		ID         string
		Status     string
		Containers []struct {
			Name, Status string
			Endpoints    []struct{ AllocatedHostPort int }
		}
	}
}

// TestPods takes a pod of two containers, one of which its agent probes, through its life. go-marathon v0.7.1 has nothing for pods,
// so this asks with plain HTTP.
func TestPods(t *testing.T) {
	c := startCluster(t, all)
	if s := call(t, "HEAD", c.Marathon+"/v2/pods", "", nil); s != 200 {
		t.Fatalf("HEAD: %d", s)
	}
	pod := func(version, n int) string {
		return fmt.Sprintf(`{"id":"/team/pair","scaling":{"kind":"fixed","instances":%d},"environment":{"V":"%d"},"containers":[
			{"name":"web","exec":{"command":{"shell":"exec python3 -m http.server --bind 127.0.0.1 $ENDPOINT_HTTP"}},"resources":{"cpus":0.1,"mem":32},
			 "endpoints":[{"name":"http","hostPort":0}],"healthCheck":{"tcp":{"endpoint":"http"},"intervalSeconds":2,"timeoutSeconds":10,"gracePeriodSeconds":300,"delaySeconds":0}},
			{"name":"side","exec":{"command":{"shell":"exec sleep 1000"}},"resources":{"cpus":0.1,"mem":32}}]}`, n, version)
	}
	if s := call(t, "POST", c.Marathon+"/v2/pods", pod(1, 2), nil); s != 201 {
		t.Fatalf("create: %d", s)
	}
	var last podStatus
	stable := func(n int) func() bool {
		return func() bool {
			var deployments []any
			last = podStatus{}
			call(t, "GET", c.Marathon+"/v2/pods/team/pair::status", "", &last)
			call(t, "GET", c.Marathon+"/v2/deployments", "", &deployments)
			if last.Status != "STABLE" || len(last.Instances) != n || len(deployments) != 0 {
				return false
			}
			for _, i := range last.Instances {
				if i.Status != "STABLE" || len(i.Containers) != 2 {
					return false
				}
			}
			return true
		}
	}
	await(t, "2 are stable", stable(2))
	first := last.Instances[0].ID
	for _, k := range last.Instances[0].Containers {
		if k.Name == "web" && (len(k.Endpoints) != 1 || k.Endpoints[0].AllocatedHostPort == 0) {
			t.Errorf("container %+v", k)
		}
	}
	if s := call(t, "PUT", c.Marathon+"/v2/pods/team/pair", pod(1, 3), nil); s != 200 {
		t.Fatalf("scale: %d", s)
	}
	await(t, "3 are stable", stable(3))
	if s := call(t, "PUT", c.Marathon+"/v2/pods/team/pair", pod(2, 3), nil); s != 200 {
		t.Fatalf("update: %d", s)
	}
	await(t, "3 of the new version are stable", stable(3))
	for _, i := range last.Instances {
		if i.ID == first {
			t.Error("an instance of the old version is left")
		}
	}
	var versions []string
	call(t, "GET", c.Marathon+"/v2/pods/team/pair::versions", "", &versions)
	if len(versions) != 3 {
		t.Errorf("versions %v", versions)
	}
	victim := last.Instances[0].ID
	if s := call(t, "DELETE", c.Marathon+"/v2/pods/team/pair::instances/"+victim+"?wipe=true", "", nil); s != 200 {
		t.Fatalf("kill: %d", s)
	}
	await(t, "another took its place", func() bool {
		if !stable(3)() {
			return false
		}
		for _, i := range last.Instances {
			if i.ID == victim {
				return false
			}
		}
		return true
	})
	if s := call(t, "DELETE", c.Marathon+"/v2/pods/team/pair", "", nil); s != 202 {
		t.Fatalf("delete: %d", s)
	}
	await(t, "it is gone", func() bool {
		var deployments []any
		call(t, "GET", c.Marathon+"/v2/deployments", "", &deployments)
		return len(deployments) == 0 && call(t, "GET", c.Marathon+"/v2/pods/team/pair::status", "", nil) == 404
	})
}
