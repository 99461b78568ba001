package native

import (
	"strings"
	"syscall"
	"testing"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

func sysSignal(n int) syscall.Signal { return syscall.Signal(n) }

func TestPlainContainer(t *testing.T) {
	t.Parallel()
	d := newHost(t).start(nil)
	defer d.end()
	d.launch(d.plain("c1", "echo out; echo err >&2; pwd; exit 7"))
	term := d.wait("c1")
	if term.WaitStatus == nil || syscall.WaitStatus(*term.WaitStatus).ExitStatus() != 7 {
		t.Errorf("termination %+v, want exit status 7", term)
	}
	dir := d.sandbox("c1")
	if got := read(t, dir, "stdout"); got != "out\n"+dir+"\n" {
		t.Errorf("stdout %q", got)
	}
	if got := read(t, dir, "stderr"); got != "err\n" {
		t.Errorf("stderr %q", got)
	}
}

func TestCommandTask(t *testing.T) {
	t.Parallel()
	d := newHost(t).start(nil)
	defer d.end()
	d.launch(d.task("t1", &mesosv1.TaskInfo{Command: shell("echo $GREETING; exit 0")}))
	u := d.untilState("t1", mesosv1.TaskState_TASK_FINISHED)
	if got := d.states("t1"); got != "STARTING RUNNING FINISHED" {
		t.Errorf("states %s", got)
	}
	if u.GetMessage() != "Command exited with status 0" {
		t.Errorf("message %q", u.GetMessage())
	}
	d.wait("t1")

	d.launch(d.task("t2", &mesosv1.TaskInfo{Command: shell("exit 3")}))
	if u := d.untilState("t2", mesosv1.TaskState_TASK_FAILED); u.GetMessage() != "Command exited with status 3" {
		t.Errorf("message %q", u.GetMessage())
	}

	d.launch(d.task("t3", &mesosv1.TaskInfo{Command: shell("sleep 1000 & sleep 1000")}))
	d.untilState("t3", mesosv1.TaskState_TASK_RUNNING)
	d.kill("t3", -1)
	u = d.untilState("t3", mesosv1.TaskState_TASK_KILLED)
	if !strings.HasPrefix(u.GetMessage(), "Command terminated with signal Terminated") { // not by the one that follows when its grace is over
		t.Errorf("message %q", u.GetMessage())
	}
	d.wait("t3")
}
