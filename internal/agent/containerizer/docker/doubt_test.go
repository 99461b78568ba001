package docker

import (
	"maps"
	"os/exec"
	"strings"
	"testing"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// TestEngineForgets kills an Engine in the middle of a start: when its runtime has made the container's first process, and when it
// has started the program. The container goes on under containerd's shim, and to the Engine, when it is back, it was never started.
// Nothing of it is left, whoever had it started and whoever learns of it; and a stranger's runs on.
func TestEngineForgets(t *testing.T) {
	t.Parallel()
	h := newHost(t, dockertest.Options{LiveRestore: true, Bridge: true})
	h.e.Docker("run", "-d", "--name", "stranger", box, "sleep", "1000")
	d := h.start(nil)
	before := h.held(d)
	// held is a task whose start stands still where the test says.
	held := func(id ids.Container) containerizer.Config {
		info := dockerInfo(bridge)
		info.Docker.Parameters = []*mesosv1.Parameter{param("runtime", dockertest.HeldRuntime)}
		return d.task(id, &mesosv1.TaskInfo{Command: shell("sleep 1000 & sleep 1000"), Container: info})
	}
	// forget has the Engine forget the start that stands still.
	forget := func() {
		h.e.WaitHeld()
		h.e.Kill()
		h.e.Release()
	}
	// lost checks that the Engine takes for ended, or does not have, what runs.
	lost := func(name string) {
		t.Helper()
		if out, err := dockerOut(h, "inspect", "-f", "{{.State.Running}}", name); err == nil && strings.TrimSpace(out) != "false" || len(h.e.Processes()) < before["processes"]+2 {
			t.Fatalf("the Engine knows of it (%q), or nothing runs: this test proves nothing", out)
		}
	}
	nothing := func(what string) {
		t.Helper()
		var now map[string]int
		eventually(t, what+": nothing is left", func() bool { now = h.held(d); now["held"] = before["held"]; return maps.Equal(now, before) })
	}
	for _, step := range []string{"create", "start"} {
		h.e.Hold(step)
		done := make(chan error, 1)
		go func() { done <- d.Launch(t.Context(), held(ids.Container("in-"+step))) }()
		forget()
		eventually(t, "what was started is killed without the Engine", func() bool { return h.programs() == 1 })
		h.e.Run()
		if err := <-done; err == nil || !strings.Contains(err.Error(), "start the container") {
			t.Errorf("%v", err)
		}
		nothing("a start that was cut in its " + step)
	}
	// Started once more by a stranger.
	d.launch(held("again"))
	h.e.Hold("start")
	restart := exec.Command("docker", "-H", "unix://"+h.e.Socket, "restart", "-t", "0", namePrefix+"again")
	if err := restart.Start(); err != nil {
		t.Fatal(err)
	}
	forget()
	_ = restart.Wait()
	h.e.Run()
	d.wait("again")
	nothing("a restart that was cut")
	// Started for an agent process that was killed then. All that is known of it is the ledger.
	for _, known := range []bool{true, false} {
		d.stop()
		h.e.Docker("create", "--name", namePrefix+"old", "--runtime", dockertest.HeldRuntime, "--label", labelAgent+"="+d.mark, "--label", labelContainer+"=old", box, "sleep", "1000")
		id := h.e.Docker("inspect", "-f", "{{.Id}}", namePrefix+"old")
		if err := d.ledger.add(id, "old"); err != nil {
			t.Fatal(err)
		}
		// Not in its start: of that the Engine may hear from the shim when it is back.
		h.e.Hold("create")
		start := exec.Command("docker", "-H", "unix://"+h.e.Socket, "start", id)
		if err := start.Start(); err != nil {
			t.Fatal(err)
		}
		forget()
		_ = start.Wait()
		h.e.Run()
		lost(id)
		if !known {
			h.e.Docker("rm", "-f", id) // which the Engine thinks it has done
			lost(id)
		}
		d = h.start(nil)
		nothing("an earlier agent's")
	}
	entries, err := d.ledger.all()
	eventually(t, "the ledger is empty", func() bool { entries, err = d.ledger.all(); return err == nil && len(entries) == 0 })
	if s := h.e.Docker("inspect", "-f", "{{.State.Running}}", "stranger"); s != "true" {
		t.Errorf("the stranger's container runs: %s", s)
	}
	d.end()
	h.e.Docker("rm", "-f", "stranger")
}
