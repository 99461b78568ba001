package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"testing"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

// loadImage makes an image of the host's static shell, or of its own with its libraries.
func loadImage(t *testing.T, socket string) {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf(`set -e
mkdir -p %[1]s/bin %[1]s/etc %[1]s/tmp
for b in sh sleep cat ls echo env; do
  p=$(command -v $b) || continue
  [ "${p#/}" = "$p" ] && p=/bin/$b
  cp -L "$p" %[1]s/bin/$b
  for l in $(ldd "$p" 2>/dev/null | grep -o '/[^ ]*'); do mkdir -p "%[1]s$(dirname $l)"; cp -L "$l" "%[1]s$l"; done
done
echo inside > %[1]s/etc/marker
ln -s /etc/passwd %[1]s/tmp/abs
ln -s ../../../../../../etc/shadow %[1]s/tmp/rel
tar -C %[1]s -c . | docker -H unix://%[2]s import - probe-test:1 >/dev/null`, dir, socket)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("make an image: %v: %s", err, out)
	}
}

func TestDocker(t *testing.T) {
	socket := dockertest.Start(t, dockertest.Options{}).Socket
	loadImage(t, socket)
	docker := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("docker", append([]string{"-H", "unix://" + socket}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("docker %v: %s", args, out)
		}
		return strings.TrimSpace(string(out))
	}
	cfg := Config{Monitors: []string{"127.0.0.1:1"}, Hostname: "dockerhost", DockerSocket: socket, RuntimeSockets: []string{}, NetSource: "none", Conntrack: "off"}
	p, err := New(cfg, Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	watching := make(chan struct{})
	go func() { defer close(watching); p.docker.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-watching
		p.docker.api.http.CloseIdleConnections()
		p.ns.close()
	})
	id := docker("run", "-d", "--net=none", "--name", "talker", "--label", "app=web", "--label", "api_token=hunter2", "-e", "DB_PASSWORD=hunter2", "-e", "MARATHON_APP_ID=/shop/web",
		"probe-test:1", "sh", "-c", "echo one; echo two >&2; sleep 1000 & wait")
	node := topology.ContainerID("dockerhost", id)
	state := func(want string) *probev1.Entity {
		t.Helper()
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			lookNow(p)
			if e := p.hub.entity(node); e != nil && e.State == want && (want != "running" || attr(e, "image") != "") {
				return e
			}
			time.Sleep(25 * time.Millisecond)
		}
		t.Fatalf("%s is not %s: %v", node, want, p.hub.entity(node))
		return nil
	}
	e := state("running")
	if e.Label != "talker" || attr(e, "image") != "probe-test:1" || attr(e, "label.app") != "web" || attr(e, topology.AttrApp) != "/shop/web" || attr(e, "label.api_token") != topology.Mask {
		t.Errorf("%v", e)
	}
	serve := func(verb string, args map[string]string, argv ...string) (string, *probev1.Response) {
		t.Helper()
		return request(t, p, verb, node, args, argv)
	}
	if out, resp := serve("logs", map[string]string{"tail": "10"}); resp.Code != "" || !strings.Contains(out, " one\n") || !strings.Contains(out, " two\n") {
		t.Errorf("logs: %q %v", out, resp)
	}
	if out, resp := serve("exec", nil, "cat", "/etc/marker"); resp.Code != "" || strings.TrimSpace(out) != "inside" || !strings.Contains(string(resp.Body), `"code":0`) {
		t.Errorf("exec: %q %v", out, resp)
	}
	if _, resp := serve("exec", nil, "sh", "-c", "exit 7"); !strings.Contains(string(resp.Body), `"code":7`) {
		t.Errorf("exit code: %v", resp)
	}
	if out, resp := serve("file", map[string]string{"path": "/etc/marker"}); resp.Code != "" || out != "inside\n" {
		t.Errorf("file: %q %v", out, resp)
	}
	// Links out of the container lead to nothing: the host has these files, the container does not.
	for _, path := range []string{"/tmp/abs", "/tmp/rel", "/../../../etc/passwd", "/proc/1/root/../etc/shadow", "/dev/zero", "/etc"} {
		if out, resp := serve("file", map[string]string{"path": path}); resp.Code == "" {
			t.Errorf("file %s: %q", path, out[:min(len(out), 100)])
		}
	}
	_, resp := serve("files", map[string]string{"path": "/etc"})
	var dir struct{ Entries []fileEntry }
	if err := json.Unmarshal(resp.Body, &dir); err != nil || !strings.Contains(string(resp.Body), `"marker"`) {
		t.Errorf("files: %v", resp)
	}
	for _, verb := range []string{"env", "inspect"} {
		if _, resp := serve(verb, nil); resp.Code != "" || strings.Contains(string(resp.Body), "hunter2") || !strings.Contains(string(resp.Body), "DB_PASSWORD") {
			t.Errorf("%s: %v", verb, resp)
		}
	}
	if _, resp := serve("pause", nil); resp.Code != "" {
		t.Errorf("pause: %v", resp)
	}
	state("paused")
	if _, resp := serve("unpause", nil); resp.Code != "" {
		t.Errorf("unpause: %v", resp)
	}
	state("running")
	if _, resp := serve("kill", nil); resp.Code != "" {
		t.Errorf("kill: %v", resp)
	}
	e = state("exited")
	if e.ExitCode != 137 || len(e.Reasons) == 0 {
		t.Errorf("after kill: %v", e)
	}
	if _, resp := serve("start", nil); resp.Code != "" {
		t.Errorf("start: %v", resp)
	}
	state("running")
	docker("rm", "-f", "talker")
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		lookNow(p)
		if p.hub.entity(node) == nil {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Error("removed, and still there")
}

// request does what a monitor's request does, and gives what came through its pipe.
func request(t *testing.T, p *Probe, verb, node string, args map[string]string, argv []string) (string, *probev1.Response) {
	t.Helper()
	var there, here *pipe.Mux
	there = pipe.NewMux(func(m *probev1.Pipe) error { here.Handle(m); return nil })
	here = pipe.NewMux(func(m *probev1.Pipe) error { there.Handle(m); return nil })
	a, b := there.Open(1), here.Open(1)
	req := &probev1.Request{Verb: verb, Node: node, Argv: argv}
	for k, v := range args {
		req.Args = append(req.Args, &probev1.Attr{Key: k, Value: v})
	}
	done := make(chan *probev1.Response, 1)
	go func() {
		resp := p.serve(t.Context(), req, a)
		a.Close()
		done <- resp
	}()
	var out strings.Builder
	for {
		_, data, err := b.Recv(t.Context())
		if err != nil {
			break
		}
		out.Write(data)
	}
	return out.String(), <-done
}
