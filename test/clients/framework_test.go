package clients

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/samuel/go-zookeeper/zk"
)

// framework is npm/framework.js, which runs on mesos-framework.
type framework struct {
	*process
	t     *testing.T
	name  string
	input io.WriteCloser
}

type event struct {
	Event, Framework, Stream, Master, Task, Agent, State, Reason, Message string
}

// startFramework runs it until the test ends. It is told of one master and of ZooKeeper, where it keeps its id and its tasks.
func startFramework(t *testing.T, name, master string) *framework {
	t.Helper()
	script := nodeScript(t, "framework.js")
	address, port, _ := net.SplitHostPort(strings.TrimPrefix(master, "http://"))
	cmd := exec.Command("node", "--no-deprecation", script, address, port, house.zk, name)
	cmd.Dir = t.TempDir() // its logs
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := house.spawn(fmt.Sprintf("framework%d", len(house.running)), cmd)
	if err != nil {
		t.Fatal(err)
	}
	f := &framework{p, t, name, input}
	t.Cleanup(func() {
		f.kill()
		if b, _ := os.ReadFile(p.log); t.Failed() {
			t.Logf("the framework said:\n%s", tail(b))
		}
	})
	return f
}

// nodeScript gives the path of one of ours in npm, after a look for what it needs.
func nodeScript(t *testing.T, name string) string {
	t.Helper()
	if _, err := os.Stat("npm/node_modules/.installed"); err != nil {
		t.Fatal("npm's packages are missing: run test/deps.sh")
	}
	script, err := filepath.Abs(filepath.Join("npm", name))
	if err != nil {
		t.Fatal(err)
	}
	return script
}

func (f *framework) kill() {
	_ = f.cmd.Process.Kill()
	<-f.done
}

func (f *framework) say(line string) {
	f.t.Helper()
	if _, err := io.WriteString(f.input, line+"\n"); err != nil {
		f.t.Fatal(err)
	}
}

// events are those so far that are as asked for.
func (f *framework) events(like func(event) bool) (out []event) {
	b, _ := os.ReadFile(f.log)
	for line := range strings.Lines(string(b)) {
		var e event
		if _, text, ok := strings.Cut(line, "EVENT "); ok && json.Unmarshal([]byte(text), &e) == nil && like(e) {
			out = append(out, e)
		}
	}
	return out
}

// expect waits for n events of a kind.
func (f *framework) expect(n int, what string, like func(event) bool) []event {
	f.t.Helper()
	var got []event
	if err := f.until(fmt.Sprintf("%d × %s", n, what), func() bool { got = f.events(like); return len(got) >= n }); err != nil {
		f.t.Fatal(err)
	}
	return got
}

// tasks are those of its long-running tasks that the leader has.
func (f *framework) tasks() (running []string, active bool) {
	var s state
	_ = fetch(house.leader().url+"/state", &s)
	for _, x := range s.Frameworks {
		if x.Name != f.name {
			continue
		}
		active = x.Active
		for _, y := range x.Tasks {
			if y.State == "TASK_RUNNING" && strings.Contains(y.ID, "sleeper") {
				running = append(running, y.ID)
			}
		}
	}
	slices.Sort(running)
	return running, active
}

func subscribed(e event) bool { return e.Event == "subscribed" }

func updated(state string) func(event) bool {
	return func(e event) bool { return e.Event == "update" && e.State == state }
}

// TestNodeFrameworkSurvives runs a framework of mesos-framework 0.5.3, Node's own implementation of the v1 scheduler API, through
// its life: led to the leader by a follower, killed and started again with its id and tasks from ZooKeeper, moved to another master.
func TestNodeFrameworkSurvives(t *testing.T) {
	leader := house.leader()
	follower := house.masters[0]
	if follower == leader {
		follower = house.masters[1]
	}
	name := fmt.Sprintf("node-%d", time.Now().UnixNano())
	f := startFramework(t, name, follower.url)
	first := f.expect(1, "subscribed", subscribed)[0]
	if first.Master != host(leader.url) || first.Stream == "" || first.Framework == "" {
		t.Errorf("it is subscribed as %+v, while %s leads", first, leader.url)
	}
	f.expect(1, "TASK_FINISHED", updated("TASK_FINISHED"))
	running := f.expect(2, "TASK_RUNNING", func(e event) bool { return updated("TASK_RUNNING")(e) && strings.Contains(e.Task, "sleeper") })
	var tasks []string
	await(t, "two tasks run", func() bool { tasks, _ = f.tasks(); return len(tasks) == 2 })
	// What an offer says of its agent's address has reached the tasks.
	await(t, "the tasks know where they are", func() bool {
		files, _ := filepath.Glob(filepath.Join(house.dir, "agent.d/slaves/*/frameworks", first.Framework, "executors/*/runs/latest/where"))
		for _, file := range files {
			if b, _ := os.ReadFile(file); strings.TrimSpace(string(b)) != agentIP {
				return false
			}
		}
		return len(files) == 2
	})

	// It writes that down without haste, and forgets a task that it has not written down as running.
	keeper, _, err := zk.Connect([]string{house.zk}, 10*time.Second, zk.WithLogInfo(false))
	if err != nil {
		t.Fatal(err)
	}
	defer keeper.Close()
	await(t, "ZooKeeper has its id and its tasks", func() bool {
		at := "/dcos-service-" + name
		id, _, err := keeper.Get(at + "/framework-id")
		for _, x := range tasks {
			if b, _, failed := keeper.Get(at + "/tasks/" + x); failed != nil || !strings.Contains(string(b), `"state":"TASK_RUNNING"`) {
				return false
			}
		}
		return err == nil && string(id) == first.Framework
	})

	f.kill()
	await(t, "the master has noticed", func() bool { _, active := f.tasks(); return !active })
	f = startFramework(t, name, leader.url)
	again := f.expect(1, "subscribed", subscribed)[0]
	if again.Framework != first.Framework || again.Stream == first.Stream {
		t.Errorf("the framework came back as %+v, it was %+v", again, first)
	}
	reconciled := func(e event) bool { return updated("TASK_RUNNING")(e) && e.Reason == "REASON_RECONCILIATION" }
	// It asks for each task it knows and for all of them: two answers each.
	if got := f.expect(4, "reconciliation", reconciled); !slices.Contains(tasks, got[0].Task) {
		t.Errorf("reconciliation speaks of %+v, the tasks are %v", got, tasks)
	}

	// The leader is halted until another leads: when it goes on, it has lost its office and sends its frameworks to the other.
	_ = leader.cmd.Process.Signal(syscall.SIGSTOP)
	err = until("the follower leads", func() bool {
		var s state
		return follower.leads(&s) && len(s.Slaves) == 1
	})
	_ = leader.cmd.Process.Signal(syscall.SIGCONT)
	if err != nil {
		t.Fatal(err)
	}
	moved := f.expect(1, "subscribed at the new leader", func(e event) bool { return subscribed(e) && e.Master == host(follower.url) })[0]
	if moved.Framework != first.Framework {
		t.Errorf("the framework is %s with the new leader, it was %s", moved.Framework, first.Framework)
	}
	await(t, "the new leader knows the framework and its tasks", func() bool {
		// On a busy machine this client sometimes starts a task once more after it has come back.
		now, active := f.tasks()
		return active && !slices.ContainsFunc(tasks, func(id string) bool { return !slices.Contains(now, id) })
	})
	before := len(f.events(reconciled))
	f.say("reconcile")
	f.expect(before+2, "reconciliation with the new leader", reconciled)

	f.say("kill " + running[0].Task + " " + running[0].Agent)
	f.expect(1, "TASK_KILLED", func(e event) bool { return updated("TASK_KILLED")(e) && e.Task == running[0].Task })
	await(t, "the other task is left", func() bool {
		now, _ := f.tasks()
		for _, id := range tasks {
			if killed := id == running[0].Task; slices.Contains(now, id) == killed {
				return false
			}
		}
		return true
	})
	f.say("teardown")
	f.expect(1, "sent_teardown", func(e event) bool { return e.Event == "sent_teardown" })
	await(t, "the framework is gone", func() bool {
		now, active := f.tasks()
		return len(now) == 0 && !active
	})
	for _, e := range f.events(func(e event) bool { return e.Event == "error" }) {
		// Calls that a master which leads no more sends on are lost with this client.
		accepted := !strings.Contains(e.Message, "not accepted") || strings.Contains(e.Message, "'307'")
		if strings.Contains(e.Message, "parse") || strings.Contains(e.Message, "linebreak") || !accepted {
			t.Errorf("an answer of ours was not understood: %s", e.Message)
		}
	}
}
