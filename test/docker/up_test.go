package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/dockertest"
)

// cluster is one `orchestrator up`.
type cluster struct {
	t        *testing.T
	binary   string
	dir      string
	socket   string
	cmd      *exec.Cmd
	log      bytes.Buffer
	Master   string
	Marathon string
}

func (c *cluster) start() {
	c.t.Helper()
	ready := filepath.Join(c.dir, "ready")
	_ = os.Remove(ready)
	c.cmd = exec.Command(c.binary, "up", "--data-dir", filepath.Join(c.dir, "data"), "--master-port=0", "--agent-port=0", "--marathon-port=0", "--monitor-port=0",
		"--docker-socket="+c.socket, "--resources=cpus:4;mem:2048;ports:[31000-31999]", "--ready-file", ready)
	c.cmd.Stdout, c.cmd.Stderr = &c.log, &c.log
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.until("everything is up", func() bool {
		b, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(b, c) == nil && c.Marathon != ""
	})
}

func (c *cluster) stop(s os.Signal) {
	_ = c.cmd.Process.Signal(s)
	_ = c.cmd.Wait()
}

func (c *cluster) until(what string, f func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(4 * time.Minute); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("not within 4 minutes: %s", what)
		}
	}
}

// run runs the command line and gives its output and exit code.
func (c *cluster) run(args ...string) (string, int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.binary, args...)
	cmd.Env = append(os.Environ(), "ORCHESTRATOR_MASTER="+strings.TrimPrefix(c.Master, "http://"))
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

func (c *cluster) get(url string) string {
	resp, err := http.Get(url)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

// TestUp is a user's first hour with images: a command in one, a service with a health check, a program beside it, a restart of
// everything under it, and its end.
func TestUp(t *testing.T) {
	t.Parallel()
	e := dockertest.Start(t, dockertest.Options{Bridge: true})
	e.Import("box:1", nil)
	dir := t.TempDir()
	c := &cluster{t: t, binary: filepath.Join(dir, "orchestrator"), dir: dir, socket: e.Socket}
	build := exec.Command("go", "build", "-o", c.binary, "github.com/orchestrator/orchestrator/cmd/orchestrator")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v %s", err, out)
	}
	c.start()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("up said: %s", c.log.String())
		}
	})
	if out, code := c.run("execute", "--quiet", "--containerizer=docker", "--docker_image=box:1", "--command", "echo from $(cat /etc/passwd | head -n 1); exit 3"); code != 3 || !strings.Contains(out, "from root:x:0:0") {
		t.Errorf("execute: %d %q", code, out)
	}
	if out, code := c.run("execute", "--quiet", "--containerizer=docker", "--docker_image=box:1", "--", "echo", "a b", "c"); code != 0 || out != "a b c\n" {
		t.Errorf("execute: %d %q", code, out)
	}
	if out, code := c.run("execute", "--containerizer=docker", "--docker_image=no/such@bad", "--command", "true"); code == 0 || !strings.Contains(out, "no/such@bad") {
		t.Errorf("execute of a missing image: %d %q", code, out)
	}
	app := `{"id":"/web","cmd":"mkdir /www; echo hello > /www/index.html; httpd -f -p 8080 -h /www","cpus":0.1,"mem":32,"instances":1,
		"container":{"type":"DOCKER","docker":{"image":"box:1","network":"BRIDGE","portMappings":[{"containerPort":8080,"hostPort":0,"protocol":"tcp"}]}},
		"healthChecks":[{"protocol":"MESOS_HTTP","path":"/","portIndex":0,"gracePeriodSeconds":300,"intervalSeconds":1,"timeoutSeconds":20}]}`
	resp, err := http.Post(c.Marathon+"/v2/apps", "application/json", strings.NewReader(app))
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("POST /v2/apps: %d %s", resp.StatusCode, text)
	}
	healthy := func() bool { return strings.Contains(c.get(c.Marathon+"/v2/apps//web"), `"tasksHealthy":1`) }
	c.until("the service is healthy", healthy)
	var tasks struct {
		Tasks []struct{ ID string }
	}
	if err := json.Unmarshal([]byte(c.get(c.Marathon+"/v2/apps//web/tasks")), &tasks); err != nil || len(tasks.Tasks) != 1 {
		t.Fatalf("tasks: %v %v", tasks, err)
	}
	task := tasks.Tasks[0].ID
	look := func() {
		t.Helper()
		if out, code := c.run("task", "exec", task, "--", "cat", "/www/index.html"); code != 0 || out != "hello\n" {
			t.Errorf("task exec: %d %q", code, out)
		}
	}
	look()
	before := e.Docker("ps", "-q")
	for _, s := range []os.Signal{syscall.SIGKILL, os.Interrupt} {
		c.stop(s)
		c.start()
		c.until("the service is healthy again", healthy)
		look()
	}
	if after := e.Docker("ps", "-q"); after != before || after == "" {
		t.Errorf("containers before %q, after %q: a restart must leave them alone", before, after)
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodDelete, c.Marathon+"/v2/apps//web?force=true", nil)
	if resp, err := http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	} else {
		resp.Body.Close()
	}
	c.until("the service's container has ended", func() bool { return e.Docker("ps", "-q") == "" })
	c.stop(os.Interrupt)
	if left := e.Processes(); len(left) > 0 {
		t.Errorf("processes left: %q", left)
	}
}
