package probe

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/probe/containerd"
	"github.com/orchestrator/orchestrator/internal/probe/containerd/containerdtest"
	"github.com/orchestrator/orchestrator/internal/topology"
)

func state(want string) func(*probev1.Entity) bool {
	return func(e *probev1.Entity) bool { return e != nil && e.State == want }
}

// texts takes the times off the lines of a log, and makes sure that there are some.
func texts(t *testing.T, out string) (lines []string) {
	t.Helper()
	for line := range strings.Lines(out) {
		at, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if when, err := time.Parse(time.RFC3339Nano, at); err != nil || time.Since(when) > time.Hour {
			t.Errorf("%q has no time before it: %v", line, err)
		}
		lines = append(lines, text)
	}
	return lines
}

// TestContainerdDoesWhatItIsAsked has containers of containerd itself stopped, paused and read.
func TestContainerdDoesWhatItIsAsked(t *testing.T) {
	r := containerdtest.Start(t)
	p := watchRuntime(t, r.Socket)
	root, ns, dir := r.Root(), r.Name("jobs"), t.TempDir()
	run := func(name, script string, more ...string) string {
		t.Helper()
		r.Ctr(append(append([]string{"-n", ns, "run", "-d", "--rootfs", "--cgroup", r.Cgroup + "/" + name}, more...), root, name, "/bin/sh", "-c", script)...)
		id := topology.ContainerID("ctr", ns+"/"+name)
		until(t, p, id, "running", state(topology.StateRunning))
		return id
	}
	do := func(verb, id string, args map[string]string) *probev1.Response {
		t.Helper()
		_, resp := request(t, p, verb, id, args, nil)
		return resp
	}
	// It ends a moment after its last words: containerd's shim does not always write those down that come with the end.
	const polite = `trap "echo bye >&2; sleep 0.3; exit 3" TERM; echo hello; while :; do sleep 0.1; done`
	web := run("web", polite, "--log-uri", "file://"+filepath.Join(dir, "web.log"))
	e := until(t, p, web, "offering", func(e *probev1.Entity) bool { return slices.Contains(e.Controls, "exec") })
	for _, c := range []string{"logs", "stop", "pause", "kill", "exec"} {
		if n := strings.Count(" "+strings.Join(e.Controls, " ")+" ", " "+c+" "); n != 1 {
			t.Errorf("%s is offered %d times: %v", c, n, e.Controls)
		}
	}
	if resp := do("pause", web, nil); resp.Code != "" {
		t.Errorf("pause: %v", resp)
	}
	e = until(t, p, web, "paused", state(topology.StatePaused))
	if !slices.Contains(e.Controls, "unpause") || slices.Contains(e.Controls, "stop") {
		t.Errorf("paused: %v", e.Controls)
	}
	if resp := do("unpause", web, nil); resp.Code != "" {
		t.Errorf("unpause: %v", resp)
	}
	until(t, p, web, "running again", state(topology.StateRunning))
	for _, verb := range []string{"start", "restart"} {
		if resp := do(verb, web, nil); resp.Code != "conflict" || !strings.Contains(resp.Message, "once") || resp.Hint == "" {
			t.Errorf("%s: %v", verb, resp)
		}
	}
	for _, timeout := range []string{"soon", "-1", "51"} {
		if resp := do("stop", web, map[string]string{"timeout": timeout}); resp.Code != "bad_request" {
			t.Errorf("within %s s: %v", timeout, resp)
		}
	}
	// A probe that was told not to refuses, whatever the monitor says.
	p.cfg.Policy = []string{PolicyExec}
	for _, verb := range []string{"stop", "pause", "logs"} {
		if _, resp := request(t, p, verb, web, nil, nil); resp.Code != "forbidden" {
			t.Errorf("%s against the policy: %v", verb, resp)
		}
	}
	if got := p.runtimeControls(&containerInfo{state: topology.StateRunning, by: &runtimeRef{kube: true}}); len(got) != 0 {
		t.Errorf("offered against the policy: %v", got)
	}
	p.cfg.Policy = []string{PolicyExec, PolicyLogs, PolicyLifecycle}
	// Who follows its log hears its last words, and that it has ended.
	type answer struct {
		out  string
		resp *probev1.Response
	}
	followed := make(chan answer, 1)
	go func() {
		out, resp := request(t, p, "logs", web, map[string]string{"follow": "1"}, nil)
		followed <- answer{out, resp}
	}()
	if resp := do("stop", web, nil); resp.Code != "" || !strings.Contains(string(resp.Body), "stopped in") {
		t.Errorf("stop: %v", resp)
	}
	if e := until(t, p, web, "exited", state(topology.StateExited)); e.ExitCode != 3 || !slices.Contains(e.Controls, "logs") || slices.Contains(e.Controls, "stop") {
		t.Errorf("stopped: %v", e)
	}
	a := <-followed
	if got := texts(t, a.out); a.resp.Code != "" || !slices.Equal(got, []string{"hello", "bye"}) {
		t.Errorf("followed: %q %v", got, a.resp)
	}
	if out, resp := request(t, p, "logs", web, map[string]string{"tail": "1"}, nil); resp.Code != "" || !slices.Equal(texts(t, out), []string{"bye"}) {
		t.Errorf("afterwards: %q %v", out, resp)
	}

	// One that does not listen is killed; one without a log says why there is none.
	deaf := run("deaf", `trap "" TERM; while :; do sleep 0.1; done`)
	if e := p.hub.entity(deaf); slices.Contains(e.Controls, "logs") {
		t.Errorf("a log is offered that nobody keeps: %v", e.Controls)
	}
	if resp := do("logs", deaf, nil); resp.Code != "conflict" || !strings.Contains(resp.Message, "keeps none") {
		t.Errorf("no log: %v", resp)
	}
	if resp := do("stop", deaf, map[string]string{"timeout": "1"}); resp.Code != "" || !strings.Contains(string(resp.Body), "killed") {
		t.Errorf("stop of one that does not listen: %v", resp)
	}
	if e := until(t, p, deaf, "exited", state(topology.StateExited)); e.ExitCode != 137 {
		t.Errorf("killed: %v", e)
	}

	// A file as nerdctl writes it: nerdctl itself is in no package here.
	kept := filepath.Join(dir, "1935db59", "containers", ns, "shop")
	if err := os.MkdirAll(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(kept, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now().UTC().Format(time.RFC3339Nano)
	write("shop-json.log", `{"log":"sold\n","stream":"stdout","time":"`+now+`"}`+"\n"+`{"log":"out\n","stream":"stderr","time":"`+now+`"}`+"\n")
	shop := run("shop", "sleep 1000", "--label", "nerdctl/state-dir="+kept)
	if out, resp := request(t, p, "logs", shop, map[string]string{"stream": "stderr"}, nil); resp.Code != "" || !slices.Equal(texts(t, out), []string{"out"}) {
		t.Errorf("nerdctl's: %q %v", out, resp)
	}
	for config, want := range map[string]string{
		`{"driver":"json-file","opts":{}}`: "", `{"driver":"journald"}`: "journald", `{"driver":"json-file","opts":{"log-path":"/etc/shadow"}}`: "/etc/shadow", `{`: "no JSON",
	} {
		write("log-config.json", config)
		if resp := do("logs", shop, nil); (want == "") != (resp.Code == "") || !strings.Contains(resp.Message, want) {
			t.Errorf("%s: %v", config, resp)
		}
	}
	write("log-config.json", "{}")
	if err := os.Remove(filepath.Join(kept, "shop-json.log")); err != nil {
		t.Fatal(err)
	}
	if resp := do("logs", shop, nil); resp.Code != "not_found" || resp.Hint == "" {
		t.Errorf("not there: %v", resp)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(kept, "shop-json.log")); err != nil {
		t.Fatal(err)
	}
	if out, resp := request(t, p, "logs", shop, nil, nil); resp.Code == "" || out != "" {
		t.Errorf("a link in the log's place: %q %v", out, resp)
	}
}

// Labels come from images and pods too: what they name is not read as nerdctl's directory unless it is where nerdctl has it.
func TestWhatALabelMayName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in    containerd.Container
		whose bool
		dir   string
	}{
		{containerd.Container{Namespace: "default", ID: "a1", Labels: map[string]string{"nerdctl/state-dir": "/var/lib/nerdctl/19/containers/default/a1/"}}, true, "/var/lib/nerdctl/19/containers/default/a1"},
		{containerd.Container{Namespace: "default", ID: "a1", Labels: map[string]string{"nerdctl/state-dir": "/etc"}}, true, ""},
		{containerd.Container{Namespace: "default", ID: "a1", Labels: map[string]string{"nerdctl/state-dir": "/x/containers/default/a2"}}, true, ""},
		{containerd.Container{Namespace: "default", ID: "a1", Labels: map[string]string{"nerdctl/state-dir": "containers/default/a1"}}, true, ""},
		{containerd.Container{Namespace: "k8s.io", ID: "a1", Kube: true, Labels: map[string]string{"nerdctl/state-dir": "/x/containers/k8s.io/a1"}}, true, ""},
		{containerd.Container{Namespace: "moby", ID: "a1"}, false, ""},
		{containerd.Container{Namespace: "k8s.io", ID: "a1", Kube: true, Sandbox: true}, false, ""},
	} {
		if r := newRuntimeRef(nil, &c.in); (r != nil) != c.whose || r != nil && r.stateDir != c.dir {
			t.Errorf("%+v: %+v", c.in, r)
		}
	}
}

// TestCRIDoesWhatItIsAsked has a pod's container stopped and read, across the rotation of its log.
func TestCRIDoesWhatItIsAsked(t *testing.T) {
	r := containerdtest.Start(t)
	p := watchRuntime(t, r.Socket)
	r.Import("k8s.io", containerdtest.Pause, "sleep", "100001")
	r.Import("k8s.io", "test.invalid/shop:7", "sleep", "100000")
	const long = 40_000 // the runtime cuts a line at 16 KB: it comes in pieces
	logs := t.TempDir()
	sandbox, id := r.StartPod(containerdtest.Pod{
		UID: "6d1f0c3e-1111-4222-8333-944455556666", Name: "web-abc", Namespace: "shop", Container: "web", Image: "test.invalid/shop:7", LogDirectory: logs, LogPath: "web/0.log",
		Command: []string{"/bin/sh", "-c", `trap "echo bye; exit 0" TERM; echo hello; echo oops >&2; head -c 40000 /dev/zero | tr "\0" x; echo; while :; do sleep 0.1; done`},
	})
	web, pod := topology.ContainerID("ctr", id), topology.ContainerID("ctr", sandbox)
	// Its process may be seen before the runtime has told of it.
	e := until(t, p, web, "running, and the runtime's", func(e *probev1.Entity) bool {
		return e != nil && e.State == topology.StateRunning && slices.Contains(e.Controls, "logs")
	})
	if !slices.Contains(e.Controls, "stop") || slices.Contains(e.Controls, "pause") {
		t.Errorf("offered: %v", e.Controls)
	}
	until(t, p, pod, "running", state(topology.StateRunning))
	if _, resp := request(t, p, "stop", pod, nil, nil); resp.Code != "conflict" {
		t.Errorf("what holds the pod's namespaces is stopped by itself: %v", resp)
	}
	read := func(args map[string]string) []string {
		t.Helper()
		out, resp := request(t, p, "logs", web, args, nil)
		if resp.Code != "" {
			t.Fatalf("logs: %v", resp)
		}
		return texts(t, out)
	}
	var all []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); { // until it has said all that it says at first
		if all = read(nil); len(all) == 3 {
			break
		}
		time.Sleep(25 * time.Millisecond)
	}
	slices.SortFunc(all, func(a, b string) int { return len(a) - len(b) }) // the two streams have no common order
	if len(all) != 3 || all[0] == all[1] || len(all[2]) != long {
		t.Fatalf("%d lines: %.60q", len(all), all)
	}
	if got := read(map[string]string{"stream": "stderr"}); !slices.Equal(got, []string{"oops"}) {
		t.Errorf("%.60q", got)
	}
	if raw, err := os.ReadFile(filepath.Join(logs, "web/0.log")); err != nil || strings.Count(string(raw), " stdout P ") < 2 {
		t.Errorf("the runtime has not written the long line in pieces: this test proves less than it says (%v)", err)
	}
	// The log is rotated as the kubelet does it, while somebody reads; then the container is stopped.
	followed := make(chan string, 1)
	now := strconv.FormatInt(time.Now().UnixMilli(), 10) // that it has begun to read can't be seen: what comes from now on is what is asked for
	go func() {
		out, _ := request(t, p, "logs", web, map[string]string{"follow": "1", "since": now}, nil)
		followed <- out
	}()
	if err := os.Rename(filepath.Join(logs, "web/0.log"), filepath.Join(logs, "web/0.log.20261126-120000")); err != nil {
		t.Fatal(err)
	}
	r.CRI("ReopenContainerLog", containerdtest.Message(1, id))
	if _, resp := request(t, p, "stop", web, nil, nil); resp.Code != "" || !strings.Contains(string(resp.Body), "stopped in") {
		t.Errorf("stop: %v", resp)
	}
	if e := until(t, p, web, "exited", state(topology.StateExited)); !slices.Contains(e.Controls, "logs") || slices.Contains(e.Controls, "stop") || e.ExitCode != 0 {
		t.Errorf("stopped: %v", e)
	}
	if got := texts(t, <-followed); !slices.Equal(got, []string{"bye"}) {
		t.Errorf("followed across the rotation: %q", got)
	}
	if got := read(nil); len(got) != 4 || got[3] != "bye" {
		t.Errorf("of both files: %.60q", got)
	}
	if _, resp := request(t, p, "start", web, nil, nil); resp.Code != "conflict" {
		t.Errorf("start: %v", resp)
	}
	r.CRI("StopPodSandbox", containerdtest.Message(1, sandbox))
	r.CRI("RemovePodSandbox", containerdtest.Message(1, sandbox))
	until(t, p, web, "gone", func(e *probev1.Entity) bool { return e == nil })
	if _, resp := request(t, p, "logs", web, nil, nil); resp.Code != "not_found" {
		t.Errorf("of one that was removed: %v", resp)
	}
}
