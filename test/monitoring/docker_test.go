package monitoring

import (
	"context"
	"encoding/json"
	"net/url"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/probe"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// TestAContainerThatFloodsAndAnEngineThatDies: the log of a container that prints as fast as it can is followed by one page
// that reads and one that does not; nobody else waits for it, and memory stays bounded. Then dockerd is killed: what runs is
// shown to run, and when dockerd is back it is followed again.
func TestAContainerThatFloodsAndAnEngineThatDies(t *testing.T) {
	e := dockertest.Start(t, dockertest.Options{LiveRestore: true})
	e.Import("box:1", nil)
	docker := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("docker", append([]string{"-H", "unix://" + e.Socket}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("docker %s: %s", strings.Join(args, " "), out)
		}
		return strings.TrimSpace(string(out))
	}
	flood := docker("run", "-d", "--net=none", "--log-opt=max-size=8m", "--log-opt=max-file=2", "--name=flood", "box:1", "yes", strings.Repeat("all work and no play ", 40))
	quiet := docker("run", "-d", "--net=none", "--name=quiet", "box:1", "sleep", "1000")
	r := newRig(t, nil)
	r.probe(probe.Config{Hostname: "flooded", DockerSocket: e.Socket, RuntimeSockets: []string{}, NetSource: "none", Conntrack: "off", PluginsDir: "off"})
	floodID, quietID := topology.ContainerID("flooded", flood), topology.ContainerID("flooded", quiet)
	r.eventually("both containers", func() bool { return r.state(floodID) == "running" && r.state(quietID) == "running" })

	follow := func() *websocket.Conn {
		t.Helper()
		conn, _, err := r.socket("/api/v1/logs?follow=1&tail=10&id="+url.QueryEscape(floodID), adminToken)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	asleep, awake := follow(), follow()
	read := func(conn *websocket.Conn) (bytes int, lines int, dropped int) {
		t.Helper()
		ctx, stop := context.WithTimeout(t.Context(), patience)
		defer stop()
		_, data, err := conn.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var m struct {
			Type  string
			N     int
			Lines []struct{ M string }
		}
		if json.Unmarshal(data, &m) == nil && m.Type == "dropped" {
			dropped = m.N
		}
		return len(data), len(m.Lines), dropped
	}
	bytes, lines, dropped := 0, 0, 0
	for bytes < 20<<20 {
		b, l, d := read(awake)
		bytes, lines, dropped = bytes+b, lines+l, dropped+d
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	t.Logf("read %d MB, %d lines, %d said to be dropped; heap of probe and monitor %d MB", bytes>>20, lines, dropped, mem.HeapInuse>>20)
	if lines == 0 || mem.HeapInuse > 300<<20 {
		t.Errorf("%d lines, %d MB of heap", lines, mem.HeapInuse>>20)
	}
	// Others are served meanwhile, by the same probe.
	if a := r.call("GET", "/api/v1/nodes/"+url.PathEscape(quietID)+"/processes", adminToken, ""); a.status != 200 || !strings.Contains(string(a.body), "sleep") {
		t.Errorf("the other's processes: %d %s", a.status, a.body)
	}
	if a := r.call("POST", "/api/v1/nodes/"+url.PathEscape(quietID)+"/controls/pause", adminToken, ""); a.status != 200 {
		t.Errorf("pause: %d %s", a.status, a.body)
	}
	r.eventually("the other is seen paused", func() bool { return r.state(quietID) == "paused" })
	if a := r.call("POST", "/api/v1/nodes/"+url.PathEscape(quietID)+"/controls/unpause", adminToken, ""); a.status != 200 {
		t.Errorf("unpause: %d %s", a.status, a.body)
	}
	// The page that slept gets something when it wakes.
	if b, _, _ := read(asleep); b == 0 {
		t.Error("nothing for the page that slept")
	}
	asleep.CloseNow()
	awake.CloseNow()
	docker("rm", "-f", "flood")
	r.eventually("the flood is gone", func() bool { return r.state(floodID) == "" })

	collector := func() string {
		var list struct {
			Probes []struct {
				Collectors []struct{ Name, State string }
			}
		}
		r.get("/api/v1/probes", &list)
		for _, p := range list.Probes {
			for _, c := range p.Collectors {
				if c.Name == "docker" {
					return c.State
				}
			}
		}
		return ""
	}
	r.eventually("unpaused", func() bool { return r.state(quietID) == "running" })
	e.Kill()
	r.eventually("the Engine is missed", func() bool { return collector() != "ok" })
	if s := r.state(quietID); s != "running" {
		t.Errorf("dockerd is dead, its container is not: %q", s)
	}
	e.Run()
	r.eventually("the Engine is followed again", func() bool { return collector() == "ok" })
	docker("stop", "-t", "0", "quiet")
	r.eventually("a stop is seen", func() bool { return r.state(quietID) == "exited" })
}
