package marathonclients

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	marathon "github.com/gambol99/go-marathon"
)

// startZooKeeper runs Debian's ZooKeeper alone until the test ends.
func startZooKeeper(t *testing.T) (address string) {
	t.Helper()
	const jars = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar"
	if _, err := os.Stat("/usr/share/java/zookeeper.jar"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("needs Debian's zookeeper package (test/deps.sh installs it)")
		}
		t.Skip("needs Debian's zookeeper package (test/deps.sh installs it)")
	}
	address, err := heldAddress()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(address)
	dir := t.TempDir()
	cfg := filepath.Join(dir, "zoo.cfg")
	if err := os.WriteFile(cfg, fmt.Appendf(nil, "tickTime=500\ndataDir=%s\nclientPort=%s\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n", dir, port), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("java", "-Xmx128m", "-cp", jars, "org.apache.zookeeper.server.quorum.QuorumPeerMain", cfg)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	await(t, "ZooKeeper is there", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return address
}

// member is one of several processes of the services.
type member struct {
	url  string
	kill func()
}

// startMember starts one at an address that stays its own while it is down.
func startMember(t *testing.T, master, zk string) *member {
	t.Helper()
	address, err := heldAddress()
	if err != nil {
		t.Fatal(err)
	}
	return startMemberAt(t, master, zk, "http://"+address)
}

func startMemberAt(t *testing.T, master, zk, url string) *member {
	t.Helper()
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready.json")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Getenv("ORCHESTRATOR_BIN"), "marathon", "--master", strings.TrimPrefix(master, "http://"), "--zk", "zk://"+zk+"/services", "--zk_session_timeout", "6000",
		"--framework_name", "members", "--http_address", "127.0.0.1", "--http_port", port, "--ready-file", ready)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m := &member{kill: func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }}
	t.Cleanup(func() {
		m.kill()
		if out, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("%s logged:\n%s", m.url, tail(out, 3000))
		}
		_ = log.Close()
	})
	var r struct{ Marathon string }
	await(t, "the member is ready", func() bool {
		b, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(b, &r) == nil && r.Marathon != ""
	})
	m.url = r.Marathon
	return m
}

// TestGoMarathonWithSeveralMembers gives go-marathon the addresses of two members, which keep their state in ZooKeeper, and kills
// whichever leads, twice. The client goes on with the other; no task is lost or started twice, and a deployment that was under
// way ends.
func TestGoMarathonWithSeveralMembers(t *testing.T) {
	c := startCluster(t, all)
	zk := startZooKeeper(t)
	members := []*member{startMember(t, c.Master, zk), startMember(t, c.Master, zk)}
	cfg := marathon.NewDefaultConfig()
	cfg.URL = members[0].url + "," + strings.TrimPrefix(members[1].url, "http://")
	cfg.PollingWaitTime = 50 * time.Millisecond
	client, err := marathon.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	app := marathon.NewDockerApplication()
	app.Container = nil
	app.Name("/ha").CPU(0.1).Memory(32).Count(3).Command("sleep 1000")
	if _, err = client.CreateApplication(app); err != nil {
		t.Fatal(err)
	}
	if err := client.WaitOnApplication("/ha", patience); err != nil {
		t.Fatal(err)
	}
	ids := func() (out []string) {
		tasks, err := client.Tasks("/ha")
		if err != nil {
			return nil
		}
		for _, x := range tasks.Tasks {
			if x.State == "TASK_RUNNING" {
				out = append(out, x.ID)
			}
		}
		slices.Sort(out)
		return out
	}
	var before []string
	await(t, "3 tasks run", func() bool { before = ids(); return len(before) == 3 })
	for n := 4; n <= 5; n++ {
		dep, err := client.ScaleApplicationInstances("/ha", n, true)
		if err != nil {
			t.Fatal(err)
		}
		leader, err := client.Leader()
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(members, func(m *member) bool { return m.url == "http://"+leader })
		if at < 0 {
			t.Fatalf("%s leads, which is none of the members", leader)
		}
		members[at].kill()
		// Calls fail until the other has been elected, as with Marathon.
		await(t, "the other member leads", func() bool { l, err := client.Leader(); return err == nil && l != leader })
		await(t, "the deployment has ended", func() bool {
			d, err := client.Deployments()
			return err == nil && !slices.ContainsFunc(d, func(d *marathon.Deployment) bool { return d.ID == dep.DeploymentID })
		})
		await(t, fmt.Sprintf("%d tasks run", n), func() bool { return len(ids()) == n })
		after := ids()
		for _, id := range before {
			if !slices.Contains(after, id) {
				t.Errorf("task %s is gone after the fail-over: %v", id, after)
			}
		}
		before = after
		// The killed one comes back at the same place in the list: a client is told of no new address.
		members[at] = startMemberAt(t, c.Master, zk, members[at].url)
	}
	if _, err := client.DeleteApplication("/ha", true); err != nil {
		t.Fatal(err)
	}
	await(t, "nothing runs", func() bool {
		var s struct {
			Frameworks []struct {
				Name  string
				Tasks []any
			}
		}
		resp, err := http.Get(c.Master + "/state")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		if json.NewDecoder(resp.Body).Decode(&s) != nil {
			return false
		}
		for _, f := range s.Frameworks {
			if f.Name == "members" {
				return len(f.Tasks) == 0
			}
		}
		return false
	})
}
