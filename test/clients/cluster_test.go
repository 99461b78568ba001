// Package clients runs tools that people have around Mesos and Marathon, which nobody here wrote, unmodified against one cluster:
// ZooKeeper, two masters, an agent and the services, each a process of its own, as they are run in earnest.
package clients

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
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

// The parts listen on different addresses of the loopback interface, so that an answer which mixes them up is noticed.
const (
	agentIP    = "127.0.0.2"
	marathonIP = "127.0.0.5"
)

var masterIPs = [2]string{"127.0.0.3", "127.0.0.4"}

// house is the cluster that all tests of this package use.
var house cluster

type cluster struct {
	dir      string
	zk       string // host:port
	masters  [2]*process
	agent    *process
	marathon *process
	running  []*process
}

// process is a program that runs until its end is awaited.
type process struct {
	name, url string
	cmd       *exec.Cmd
	log       string
	done      chan struct{}
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	bin := os.Getenv("ORCHESTRATOR_BIN")
	if bin == "" {
		fmt.Println("ORCHESTRATOR_BIN is not set: run `make test-clients`, which builds the binary first")
		return 1
	}
	dir, err := os.MkdirTemp("", "clients")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	house.dir = dir
	err = house.start(bin)
	defer func() {
		if code != 0 {
			house.describe()
		}
		if err := house.stop(); err != nil {
			fmt.Println("the cluster has not ended well:", err)
			code = 1
		}
	}()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return m.Run()
}

func (c *cluster) start(bin string) error {
	if err := c.startZooKeeper(); err != nil {
		return err
	}
	meet := "zk://" + c.zk + "/mesos"
	for i, ip := range masterIPs {
		name := fmt.Sprintf("master%d", i)
		p, err := c.launch(bin, name, "master", "--zk", meet, "--zk_session_timeout", "6secs", "--work_dir", filepath.Join(c.dir, name+".d"),
			"--ip", ip, "--port", "0", "--hostname_lookup=false")
		if err != nil {
			return err
		}
		c.masters[i] = p
	}
	var err error
	c.agent, err = c.launch(bin, "agent", "agent", "--master", meet, "--work_dir", filepath.Join(c.dir, "agent.d"), "--runtime_dir", filepath.Join(c.dir, "agent.run"),
		"--ip", agentIP, "--port", "0", "--hostname_lookup=false", "--resources", "cpus:8;mem:8192;disk:10000;ports:[31000-32000]")
	if err != nil {
		return err
	}
	c.marathon, err = c.launch(bin, "marathon", "marathon", "--master", meet, "--zk", "zk://"+c.zk+"/marathon", "--zk_session_timeout", "6000",
		"--http_address", marathonIP, "--http_port", "0")
	if err != nil {
		return err
	}
	return until("the services are registered and the agent is there", func() bool {
		var s state
		return fetch(c.leader().url+"/state", &s) == nil && len(s.Slaves) == 1 && len(s.Frameworks) == 1
	})
}

func (c *cluster) startZooKeeper() error {
	const jars = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar"
	var err error
	if c.zk, err = heldAddress(); err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(c.zk)
	data, cfg := filepath.Join(c.dir, "zookeeper"), filepath.Join(c.dir, "zoo.cfg")
	if err := os.WriteFile(cfg, fmt.Appendf(nil, "tickTime=500\ndataDir=%s\nclientPort=%s\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n", data, port), 0o600); err != nil {
		return err
	}
	p, err := c.spawn("zookeeper", exec.Command("java", "-Xmx128m", "-cp", jars, "org.apache.zookeeper.server.quorum.QuorumPeerMain", cfg))
	if err != nil {
		return fmt.Errorf("ZooKeeper (test/deps.sh installs it): %w", err)
	}
	return p.until("ZooKeeper is there", func() bool {
		conn, err := net.Dial("tcp", c.zk)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// launch starts a component of ours and waits for its ready file.
func (c *cluster) launch(bin, name string, args ...string) (*process, error) {
	ready := filepath.Join(c.dir, name+".ready")
	_ = os.Remove(ready)
	p, err := c.spawn(name, exec.Command(bin, append(args, "--ready-file", ready)...))
	if err != nil {
		return nil, err
	}
	return p, p.until(name+" is ready", func() bool {
		var r struct {
			Master, Marathon, Monitor string
			Agents                    []string
		}
		b, err := os.ReadFile(ready)
		if err != nil || json.Unmarshal(b, &r) != nil {
			return false
		}
		p.url = strings.Join(append(r.Agents, r.Master, r.Marathon, r.Monitor), "")
		return p.url != ""
	})
}

// spawn starts a program whose end stop() sees to; its output goes to a file.
func (c *cluster) spawn(name string, cmd *exec.Cmd) (*process, error) {
	p := &process{name: name, cmd: cmd, log: filepath.Join(c.dir, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = cmd.Wait(); close(p.done) }()
	c.running = append(c.running, p)
	return p, nil
}

// stop ends every service and framework, waits until no task runs, and then ends the processes: tasks outlive the cluster.
func (c *cluster) stop() error {
	var errs []error
	if c.marathon != nil {
		req, _ := http.NewRequest(http.MethodDelete, c.marathon.url+"/v2/groups?force=true", nil)
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
		}
		errs = append(errs, until("no service is left", func() bool {
			var d []any
			return fetch(c.marathon.url+"/v2/deployments", &d) == nil && len(d) == 0
		}))
	}
	if c.agent != nil {
		errs = append(errs, until("no task runs", func() bool {
			var s state
			if fetch(c.leader().url+"/state", &s) != nil {
				return false
			}
			left := 0
			for _, f := range s.Frameworks {
				if left += len(f.Tasks); f.Name == "marathon" {
					continue
				}
				if resp, err := client.PostForm(c.leader().url+"/teardown", url.Values{"frameworkId": {f.ID}}); err == nil {
					resp.Body.Close()
				}
			}
			return left == 0
		}))
	}
	for i := len(c.running) - 1; i >= 0; i-- {
		c.running[i].end()
	}
	return errors.Join(errs...)
}

func (c *cluster) describe() {
	for _, p := range c.running {
		b, _ := os.ReadFile(p.log)
		fmt.Printf("== %s (%s) said:\n%s\n", p.name, p.url, tail(b))
	}
}

// leader is the master that leads, or the first one while none does.
func (c *cluster) leader() *process {
	for _, m := range c.masters {
		if m != nil && m.leads(new(state)) {
			return m
		}
	}
	return c.masters[0]
}

// leads tells whether a master answers for the cluster itself, and what.
func (p *process) leads(s *state) bool {
	resp, err := staying.Get(p.url + "/state")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK && json.NewDecoder(resp.Body).Decode(s) == nil
}

// end asks a process to stop, and kills it when it does not within a time.
func (p *process) end() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

func (p *process) until(what string, cond func() bool) error {
	ended := false
	err := until(what, func() bool {
		select {
		case <-p.done:
			ended = true
			return true
		default:
			return cond()
		}
	})
	if b, _ := os.ReadFile(p.log); ended || err != nil {
		return fmt.Errorf("%s: %w; it said:\n%s", p.name, errors.Join(err, map[bool]error{true: errors.New("it has ended")}[ended]), tail(b))
	}
	return nil
}

// state is what these tests read of a master's /state.
type state struct {
	Leader     string `json:"leader"`
	Slaves     []struct{ ID string }
	Frameworks []struct {
		ID, Name string
		Active   bool
		Tasks    []task
	}
}

type task struct {
	ID, Name, State string
	SlaveID         string `json:"slave_id"`
	Resources       struct{ Ports string }
}

var (
	client  = &http.Client{Timeout: time.Minute}
	staying = &http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
)

// fetch reads JSON.
func fetch(address string, into any) error {
	resp, err := client.Get(address)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", address, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// runApp gives the services an app and waits until all of it runs.
func runApp(t *testing.T, id, definition string) {
	t.Helper()
	resp, err := client.Post(house.marathon.url+"/v2/apps", "application/json", strings.NewReader(definition))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusCreated {
		t.Fatalf("%s: %s", resp.Status, b)
	}
	t.Cleanup(func() {
		req, _ := http.NewRequest(http.MethodDelete, house.marathon.url+"/v2/apps/"+id+"?force=true", nil)
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
		}
	})
	await(t, id+" runs", func() bool {
		var a struct {
			App struct{ Instances, TasksRunning int }
		}
		return fetch(house.marathon.url+"/v2/apps/"+id, &a) == nil && a.App.TasksRunning == a.App.Instances
	})
}

func tail(b []byte) []byte {
	if len(b) > 4000 {
		return b[len(b)-4000:]
	}
	return b
}

// patience is how long what must happen may take: only a broken build needs as long, however busy the machine is.
const patience = 3 * time.Minute

// until polls until the condition holds.
func until(what string, cond func() bool) error {
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline:
			return fmt.Errorf("not within %v: %s", patience, what)
		case <-tick.C:
		}
	}
	return nil
}

func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	if err := until(what, cond); err != nil {
		t.Fatal(err)
	}
}
