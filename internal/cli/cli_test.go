package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/orchestrator/orchestrator/internal/heldport"
)

// result is what a command line gave.
type result struct {
	code           int
	stdout, stderr string
}

// orchestrate runs a command line in this process.
func orchestrate(args ...string) result {
	var stdout, stderr bytes.Buffer
	code := Main(args, strings.NewReader(""), &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

func (r result) want(t *testing.T, code int, stdout ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d\n%s%s", r.code, code, r.stdout, r.stderr)
	}
	for _, s := range stdout {
		if !strings.Contains(r.stdout, s) {
			t.Errorf("output lacks %q:\n%s%s", s, r.stdout, r.stderr)
		}
	}
}

func (r result) wantErr(t *testing.T, code int, stderr string) {
	t.Helper()
	if r.code != code || !strings.Contains(r.stderr, stderr) {
		t.Errorf("exit code %d, want %d with %q:\n%s%s", r.code, code, stderr, r.stdout, r.stderr)
	}
}

// TestCommands drives a real master with a fake agent through the commands of an operator.
func TestCommands(t *testing.T) {
	t.Parallel()
	address := startMaster(t)
	at := "--master=" + address
	orchestrate("node", "ls", at).want(t, 0, "ID  HOST")
	orchestrate("quota", "set", "web", "--guarantee", "cpus:1", at).wantErr(t, 1, "exceed cluster capacity")
	startFakeAgent(t, address)

	orchestrate("node", "ls", at).want(t, 0, "fake.test", "active", "0/4", "0/4096")
	var nodes struct {
		Agents []struct {
			AgentInfo struct{ ID struct{ Value string } } `json:"agent_info"`
		}
	}
	if err := json.Unmarshal([]byte(orchestrate("node", "ls", "-o", "json", at).stdout), &nodes); err != nil || len(nodes.Agents) != 1 {
		t.Fatalf("%v, %+v", err, nodes)
	}
	id := nodes.Agents[0].AgentInfo.ID.Value
	orchestrate("node", "inspect", "fake.test", at).want(t, 0, id, "rack=r1")
	orchestrate("node", "inspect", id[:20], "--output=json", at).want(t, 0, `"hostname": "fake.test"`)
	orchestrate("node", "inspect", "other", at).wantErr(t, 1, `no node "other"`)
	orchestrate("node", "prune", "fake.test", at).want(t, 0, "3 old sandboxes deleted on fake.test")
	orchestrate("node", "prune", "fake.test", "--older-than", "1days", at).want(t, 0, "1 old sandboxes deleted")
	orchestrate("node", "prune", "fake.test", "--older-than", "soon", at).wantErr(t, 2, `"soon" is not a duration`)

	orchestrate("quota", "set", "web", "--guarantee", "cpus:1;mem:64", "--limit", "cpus:2", at).want(t, 0, "quota of role web is set")
	orchestrate("quota", "ls", at).want(t, 0, "web", "cpus:1;mem:64", "cpus:2")
	orchestrate("role", "weight", "web", "2.5", at).want(t, 0, "weight 2.5")
	orchestrate("role", "ls", at).want(t, 0, "web", "2.5")
	orchestrate("quota", "rm", "web", at).want(t, 0, "removed")
	if out := orchestrate("quota", "ls", "-o", "json", at).stdout; out != "[]\n" {
		t.Errorf("quota is left: %s", out)
	}

	// A task that runs on, under a framework that this test ends.
	done := make(chan result, 1)
	go func() {
		done <- orchestrate("execute", "--name", "sleeper", "--command", "sleep 1000", at)
	}()
	var out string
	poll(t, "the task to run", func() bool {
		out = orchestrate("task", "ls", "--state", "running", at).stdout
		return strings.Contains(out, "sleeper.")
	})
	task := ""
	for _, f := range strings.Fields(out) {
		if strings.HasPrefix(f, "sleeper.") {
			task = f
		}
	}
	orchestrate("task", "ls", "--node", "elsewhere", "-o", "json", at).want(t, 0, "[]")
	orchestrate("task", "inspect", task, at).want(t, 0, `"TASK_RUNNING"`)
	orchestrate("task", "why", "sleeper", at).want(t, 0, "is running", "executor")
	orchestrate("task", "logs", "sleeper", at).want(t, 0, "sleep 1000 ran as "+task)
	if r := orchestrate("task", "logs", "sleeper", at); r.stderr != orchestrate("task", "logs", "--stderr", "sleeper", at).stdout || r.stderr == "" || r.stdout != orchestrate("task", "logs", "--stdout", "sleeper", at).stdout {
		t.Errorf("without a flag both are shown: %q and %q", r.stdout, r.stderr)
	}
	if r := orchestrate("task", "logs", "--stderr", "--tail", "4", "sleeper", at); r.stdout != task[len(task)-4:] {
		t.Errorf("the last four bytes of stderr are %q", r.stdout)
	}
	orchestrate("task", "logs", "--file", "none", "sleeper", at).wantErr(t, 1, "the node has no")
	orchestrate("framework", "ls", at).want(t, 0, "sleeper", "active")
	orchestrate("framework", "inspect", "sleeper", at).want(t, 0, `"name": "sleeper"`)
	orchestrate("framework", "why", "sleeper", at).want(t, 0, "role *:", "suppressed offers")
	orchestrate("framework", "why", "sleeper", "-o", "json", at).want(t, 0, `"suppressed": true`)
	orchestrate("framework", "teardown", "sleeper", at).wantErr(t, 2, "--yes")
	orchestrate("task", "kill", "nothing", at).wantErr(t, 1, `no task "nothing"`)
	orchestrate("task", "kill", "sleeper", "--grace", "soon", at).wantErr(t, 1, "not a duration")

	orchestrate("node", "drain", "fake.test", at).want(t, 0, "is drained")
	orchestrate("node", "ls", at).want(t, 0, "drained")
	select {
	case r := <-done:
		r.wantErr(t, 1, "killed")
	case <-time.After(2 * time.Minute):
		t.Fatal("execute did not end with its task")
	}
	// The master accepts the end of a framework (202) before it has come.
	poll(t, "the framework to be completed", func() bool { return strings.Contains(orchestrate("framework", "ls", "--all", at).stdout, "completed") })
	orchestrate("task", "ls", "--all", at).want(t, 0, "killed")
	orchestrate("node", "undrain", id, at).want(t, 0, "takes tasks again")
	orchestrate("node", "undrain", id, at).wantErr(t, 1, "not deactivated")
	orchestrate("node", "gone", "fake.test", at).wantErr(t, 2, "--yes")
	orchestrate("node", "gone", "fake.test", "--yes", at).want(t, 0, "is gone")
	poll(t, "the node to be gone", func() bool { return !strings.Contains(orchestrate("node", "ls", at).stdout, "fake.test") })
}

func TestExecute(t *testing.T) {
	t.Parallel()
	address := startMaster(t)
	startFakeAgent(t, address)
	at := "--master=" + address

	r := orchestrate("execute", "--instances", "60", "--command", "echo", at)
	r.want(t, 0)
	if n := strings.Count(r.stdout, "echo ran as execute."); n != 60 { // 4 cpus take 40 at a time
		t.Errorf("%d lines of 60:\n%s%s", n, r.stdout, r.stderr)
	}
	r = orchestrate("execute", "--instances", "3", "--quiet", "--command", "exit 3", at)
	r.want(t, 3)
	if strings.Count(r.stdout, "exit 3 ran as") != 3 || strings.Count(r.stderr, "noise of") != 3 || strings.Contains(r.stderr, "subscribed") {
		t.Errorf("output is %q, %q", r.stdout, r.stderr)
	}
	orchestrate("execute", "--quiet", at, "--", "/bin/true", "x").want(t, 0, "/bin/true ran as")
	orchestrate("execute", "--kill-after", "300ms", "--command", "sleep 9", at).wantErr(t, 1, "still running after 300ms")
	poll(t, "no framework to be left", func() bool {
		return !strings.Contains(orchestrate("framework", "ls", at).stdout, "execute")
	})

	// A task that an operator kills past its framework.
	killed := make(chan result, 1)
	go func() { killed <- orchestrate("execute", "--name", "victim", "--command", "sleep 9", at) }()
	poll(t, "the task to be killed", func() bool { return orchestrate("task", "kill", "victim", "--grace=1secs", at).code == 0 })
	select {
	case r := <-killed:
		r.wantErr(t, 1, "killed")
	case <-time.After(2 * time.Minute):
		t.Fatal("execute did not end with its task")
	}

	for want, args := range map[string][]string{
		"give --command":      {"execute"},
		"not both":            {"execute", "--command", "x", "--", "y"},
		"--instances":         {"execute", "--command", "x", "--instances", "0"},
		"--name":              {"execute", "--command", "x", "--name", "a/b"},
		"--resources":         {"execute", "--command", "x", "--resources", "cpus:-1"},
		"--role":              {"execute", "--command", "x", "--role", "a//b"},
		"--env":               {"execute", "--command", "x", "--env", "novalue"},
		"--kill-after":        {"execute", "--command", "x", "--kill-after", "soon"},
		`"xml"`:               {"node", "ls", "--output", "xml"},
		`did you mean "name"`: {"execute", "--nane", "x"},
		"unknown command":     {"nodes"},
		"accepts 1 arg":       {"node", "drain"},
		"is not name:amount":  {"quota", "set", "web", "--limit", "cpus"},
		"positive number":     {"role", "weight", "web", "0"},
	} {
		orchestrate(append(args, at)...).wantErr(t, 2, want)
	}
	orchestrate("node", "sl").wantErr(t, 2, `did you mean "ls"`)
	orchestrate("node", "ls", "--master=127.0.0.1:1").wantErr(t, 1, "ORCHESTRATOR_MASTER")
}

func TestConfigCommands(t *testing.T) {
	t.Parallel()
	orchestrate("config", "check", "master", "--agent_ping_timeout=5secs").want(t, 0, "agent_ping_timeout", "flag         5secs")
	orchestrate("config", "check", "master", "--prot=1").wantErr(t, 2, `did you mean "port"?`)
	orchestrate("config", "check", "master", "--port=99999").wantErr(t, 2, "port: 99999 is not between 0 and 65535")
	orchestrate("config", "check", "mister").wantErr(t, 2, "master")
	orchestrate("config", "check").wantErr(t, 2, "name the component")
	orchestrate("config", "check", "agent").wantErr(t, 2, "master: it is not given")
	orchestrate("config", "check", "agent", "--master=m:5050").want(t, 0, "m:5050")
	orchestrate("agent").wantErr(t, 2, "master: it is not given")
	orchestrate("config", "reference", "master").want(t, 0, "| `--agent_ping_timeout`, `--slave_ping_timeout` | duration | `15secs` |")
}

var update = flag.Bool("update", false, "write docs/reference anew")

// TestReferenceIsUpToDate: docs/reference/<component>-flags.md is what the settings' own tags say.
func TestReferenceIsUpToDate(t *testing.T) {
	t.Parallel()
	for _, name := range componentNames() {
		table := orchestrate("config", "reference", name)
		table.want(t, 0)
		text := "# Settings of orchestrator " + name + "\n\nGenerated by `go test ./internal/cli -update`. `-` and `_` are the same in flag names; a value `file:///path` is read from that\nfile; flags win over the environment, the environment over the file given with `--config`, that over the default.\n\n" + table.stdout
		path := filepath.Join("..", "..", "docs", "reference", name+"-flags.md")
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(have) != text {
			t.Errorf("%s is not what the settings say: go test ./internal/cli -update writes it anew", path)
		}
	}
}

// TestMasterCommand runs the daemon as a command, with a ready file, and stops it.
func TestMasterCommand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready.json")
	var stderr bytes.Buffer
	root := newRoot()
	root.SetArgs([]string{"master", "--ip=127.0.0.1", "--port=0", "--work-dir=" + filepath.Join(dir, "work"), "--ready-file=" + ready, "--log-format=json"})
	root.SetErr(&stderr)
	ctx, cancel := cancellable(t)
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	var addresses struct {
		Master string
		PID    int
	}
	poll(t, "the ready file", func() bool {
		data, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(data, &addresses) == nil
	})
	if addresses.PID != os.Getpid() || !strings.HasPrefix(addresses.Master, "http://127.0.0.1:") {
		t.Errorf("ready file says %+v", addresses)
	}
	orchestrate("node", "ls", "--master="+strings.TrimPrefix(addresses.Master, "http://")).want(t, 0, "HOST")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the master ended with %v", err)
	}
	var line struct{ Msg string }
	if first, _, _ := strings.Cut(stderr.String(), "\n"); json.Unmarshal([]byte(first), &line) != nil || line.Msg != "master started" {
		t.Errorf("log begins with %s", stderr.String())
	}
}

// TestEveryCommandHelps: each command has a short text, and its flags bind.
func TestEveryCommandHelps(t *testing.T) {
	t.Parallel()
	var walk func(*cobra.Command)
	n := 0
	walk = func(c *cobra.Command) {
		n++
		names := map[string]bool{}
		for _, below := range c.Commands() {
			if names[below.Name()] {
				t.Errorf("%s is there twice", below.CommandPath())
			}
			names[below.Name()] = true
		}
		if c.Short == "" && c.Name() != "help" {
			t.Errorf("%s has no short text", c.CommandPath())
		}
		for _, below := range c.Commands() {
			walk(below)
		}
	}
	walk(newRoot())
	if n < 20 {
		t.Errorf("only %d commands", n)
	}
	orchestrate("completion", "bash").want(t, 0, "bash completion")
}

func TestPick(t *testing.T) {
	t.Parallel()
	items := []string{"abc", "abd", "x"}
	names := func(s string) (string, []string) { return s, []string{"name-" + s} }
	for name, want := range map[string]string{"abc": "abc", "x": "x", "name-abd": "abd"} {
		if got, err := pick("thing", name, items, names); err != nil || got != want {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	if _, err := pick("thing", "ab", items, names); err == nil || !strings.Contains(err.Error(), "means 2 things (abc, abd)") {
		t.Error(err)
	}
	if _, err := pick("thing", "zz\x1b[2J", items, names); err == nil || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("%q", err)
	}
}

// TestWrongUsage: what is typed wrongly ends with 2 and says what would be right.
func TestWrongUsage(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"app rm":                    "usage: orchestrator app rm ID",
		"node ls extra":             "usage: orchestrator node ls",
		"task exec":                 "name a task",
		"task exec web.1":           "orchestrator task exec -it web.1 -- sh",
		"task exec web.1 --":        "name the program to run beside web.1",
		"app run":                   "say what to run: a FILE",
		"app run no-such-file.json": `there is no file "no-such-file.json"`,
		"help nope":                 `no command "nope"`,
		"help app nope":             `no command "app nope"`,
		"completion fishy":          `unknown command "fishy" for "orchestrator completion" (did you mean "fish"?)`,
		"tsk ls":                    "task",
		"--bogus":                   "unknown flag: --bogus",
	} {
		orchestrate(strings.Fields(line)...).wantErr(t, 2, want)
	}
	orchestrate("help", "app", "run").want(t, 0, "Run what a Marathon JSON file describes")
	orchestrate("help").want(t, 0, "Available Commands")
	orchestrate("--version").want(t, 0, orchestrate("version").stdout)
}

// TestNotACluster: what listens at the address is something else, or nothing.
func TestNotACluster(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	address := strings.TrimPrefix(other.URL, "http://")
	orchestrate("node", "ls", "--master", address).wantErr(t, 1, "is no master")
	orchestrate("app", "ls", "--marathon", address).wantErr(t, 1, "no Marathon may be there")
	r := orchestrate("execute", "--command", "true", "--master", heldport.Address(t))
	r.wantErr(t, 1, "is one running there?")
	if n := strings.Count(r.stderr, "is one running there?"); n != 1 {
		t.Errorf("it is asked %d times whether a master runs there:\n%s", n, r.stderr)
	}
}

// TestAppRunTakesAFile: the file goes to the API as it is, named with and without --file. What answers only notes the requests.
func TestAppRunTakesAFile(t *testing.T) {
	t.Parallel()
	bodies := make(chan string, 3)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- r.Method + " " + r.URL.Path + " " + string(body)
		_, _ = io.WriteString(w, `{"deployments":[{"id":"d1"}]}`)
	}))
	defer s.Close()
	const app = `{"id": "/web",  "cmd": "sleep 1"}`
	file := filepath.Join(t.TempDir(), "web.json")
	if err := os.WriteFile(file, []byte(app), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{file}, {"--file", file}} {
		orchestrate(append([]string{"app", "run", "--detach", "--marathon", s.URL}, args...)...).want(t, 0, "d1")
		if got := <-bodies; got != "POST /v2/apps "+app {
			t.Errorf("%q sends %s", args, got)
		}
	}
	orchestrate("app", "run", "--file", file, "sleep 1", "--marathon", s.URL).wantErr(t, 2, "not both")
}

func TestProgramOf(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"web.1 ps aux": "ps aux", "web.1 -- ps aux": "ps aux", "web.1 -- -- x": "-- x", "web.1 env -- x": "env -- x", "web.1": "", "web.1 --": "",
	} {
		if got := strings.Join(programOf(strings.Fields(line)), " "); got != want {
			t.Errorf("%q runs %q, want %q", line, got, want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for status, want := range map[int32]int{0: 0, 3 << 8: 3, 9: 137, 255 << 8: 255} {
		err := exitResult{status: status, known: true}.error()
		var code exitCode
		if errors.As(err, &code) {
			if got := int(code); got != want {
				t.Errorf("wait status %#x gives %d, want %d", status, got, want)
			}
		} else if want != 0 || err != nil {
			t.Errorf("wait status %#x gives %v", status, err)
		}
	}
}

// poll waits until the condition holds.
func poll(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !condition(); {
		if time.Now().After(deadline) {
			t.Fatal(fmt.Errorf("waited for %s in vain", what))
		}
		<-time.After(20 * time.Millisecond)
	}
}
