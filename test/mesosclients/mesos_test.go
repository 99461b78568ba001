// Package mesosclients runs mesos-go v0.0.11's example programs, which nobody here wrote, unmodified against `orchestrator up`.
package mesosclients

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// msh looks for agents at this port, whatever their offers say.
const agentPort = "5051"

var (
	programs string // directory of mesos-go's programs
	cluster  struct{ Master, Host string }
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	bin := os.Getenv("ORCHESTRATOR_BIN")
	if bin == "" {
		fmt.Println("ORCHESTRATOR_BIN is not set: run `make test-clients`, which builds the binary first")
		return 1
	}
	dir, err := os.MkdirTemp("", "mesosclients")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	programs = dir
	for _, p := range []string{"example-scheduler", "example-executor", "msh"} {
		if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, p), "github.com/mesos/mesos-go/api/v1/cmd/"+p).CombinedOutput(); err != nil {
			fmt.Printf("building %s: %v\n%s", p, err, out)
			return 1
		}
	}
	ready := filepath.Join(dir, "ready.json")
	log, err := os.Create(filepath.Join(dir, "up.out"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	up := exec.Command(bin, "up", "--data-dir", filepath.Join(dir, "data"), "--master-port", "0", "--agent-port", agentPort, "--marathon-port", "0", "--monitor-port", "0",
		"--resources", "cpus:8;mem:8192;disk:10000;ports:[31000-32000]", "--ready-file", ready)
	up.Stdout, up.Stderr = log, log
	if err := up.Start(); err != nil {
		fmt.Println(err)
		return 1
	}
	defer func() {
		if err := teardown(bin); err != nil {
			fmt.Println(err)
			code = 1
		}
		_ = up.Process.Signal(syscall.SIGTERM)
		_ = up.Wait()
	}()
	var addresses struct{ Master string }
	deadline := time.Now().Add(3 * time.Minute)
	for {
		if b, err := os.ReadFile(ready); err == nil && json.Unmarshal(b, &addresses) == nil {
			break
		}
		if time.Now().After(deadline) {
			out, _ := os.ReadFile(log.Name())
			fmt.Printf("orchestrator up is not ready:\n%s", out)
			return 1
		}
		time.Sleep(50 * time.Millisecond) // polls a file of another process, with a deadline
	}
	u, err := url.Parse(addresses.Master)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	cluster.Master, cluster.Host = addresses.Master, u.Host
	return m.Run()
}

// teardown ends the frameworks, which would keep their executors for a quarter of an hour after the cluster's end, and waits
// until nothing is left of these.
func teardown(bin string) error {
	command := func(args ...string) ([]byte, error) {
		out, err := exec.Command(bin, append(args, "--master", cluster.Host)...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("orchestrator %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return out, err
	}
	out, err := command("framework", "ls", "-o", "json")
	if err != nil {
		return err
	}
	var list struct {
		Frameworks []struct {
			Info struct {
				ID struct{ Value string }
			} `json:"framework_info"`
		}
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return fmt.Errorf("framework ls: %w: %s", err, out)
	}
	for _, f := range list.Frameworks {
		if _, err := command("framework", "teardown", f.Info.ID.Value, "--yes"); err != nil {
			return err
		}
	}
	var containers []struct {
		ID string `json:"container_id"`
	}
	for deadline := time.Now().Add(3 * time.Minute); ; {
		resp, err := http.Get("http://127.0.0.1:" + agentPort + "/containers")
		if err != nil {
			return err
		}
		err = json.NewDecoder(resp.Body).Decode(&containers)
		resp.Body.Close()
		switch {
		case err != nil:
			return err
		case len(containers) == 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("the frameworks have ended, their containers have not: %v", containers)
		}
		time.Sleep(50 * time.Millisecond) // polls another process, with a deadline
	}
}

// output runs a program to its end and gives what it printed.
func output(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var buf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buf, &buf
	cmd.Env = append(os.Environ(), "TERM=xterm")
	timer := time.AfterFunc(10*time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Run()
	return buf.String(), err
}

func tail(s string) string {
	if len(s) > 3000 {
		s = "…" + s[len(s)-3000:]
	}
	return s
}

func TestExampleSchedulerWithItsOwnExecutor(t *testing.T) {
	for _, codec := range []string{"json", "protobuf"} {
		t.Run(codec, func(t *testing.T) {
			out, _ := output(t, filepath.Join(programs, "example-scheduler"), "-url", cluster.Master+"/api/v1/scheduler", "-codec", codec,
				"-tasks", "200", "-cpu", "0.1", "-memory", "32", "-executor", filepath.Join(programs, "example-executor"), "-exec.image", "",
				"-server.address", "127.0.0.1", "-metrics.port", "0", "-verbose")
			// It ends with its context cancelled and exit code 1 when all of its tasks have finished.
			if !strings.Contains(out, "mission accomplished, terminating") {
				t.Fatalf("200 tasks did not finish:\n%s", tail(out))
			}
		})
	}
}

func TestShellRunsACommandWithTheCommandExecutor(t *testing.T) {
	out, err := output(t, filepath.Join(programs, "msh"), "-master", cluster.Host, "--", "true")
	if err != nil || !strings.Contains(out, "TASK_FINISHED") {
		t.Fatalf("%v\n%s", err, tail(out))
	}
	out, err = output(t, filepath.Join(programs, "msh"), "-master", cluster.Host, "--", "false")
	if err == nil {
		t.Errorf("a command that fails makes msh exit with 0:\n%s", tail(out))
	}
}

func TestShellRunsACommandWithATerminal(t *testing.T) {
	// script(1) gives msh the terminal that it wants. msh attaches once the task runs: the command must live as long.
	command := fmt.Sprintf("%s -silent -master %s -tty -interactive -- sh -c 'sleep 5; test -t 0 && test -t 1 && tty && echo in a $TERM terminal'",
		filepath.Join(programs, "msh"), cluster.Host)
	out, err := output(t, "script", "-qec", command, "/dev/null")
	if err != nil || !strings.Contains(out, "/dev/pts/") || !strings.Contains(out, "in a xterm terminal") {
		t.Fatalf("%v\n%q", err, tail(out))
	}
}
