package monitoring

import (
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/monitor"
	"github.com/orchestrator/orchestrator/internal/probe"
)

// BenchmarkMonitor plays MONITOR_BENCH_HOSTS hosts (default 200; the goal is stated for 1,000) of ten containers and fifty
// connections each, and measures what a page feels: the time to the first whole picture of all containers, and from asking a
// container to stop until the page has been told.
func BenchmarkMonitor(b *testing.B) {
	hosts := 200
	if n, err := strconv.Atoi(os.Getenv("MONITOR_BENCH_HOSTS")); err == nil && n > 0 {
		hosts = n
	}
	for name, run := range map[string]func(*rig, *[]time.Duration, int){"first-frame": firstFrame, "stop-seen": stopSeen} {
		b.Run(fmt.Sprintf("%s/hosts=%d", name, hosts), func(b *testing.B) {
			r := newRig(b, func(c *monitor.Config) { c.Listen = "127.0.0.1:0" })
			r.probe(probe.Config{Simulate: &probe.Simulation{Hosts: hosts}})
			r.eventually("all containers", func() bool { return r.entities("container") == 10*hosts })
			var took []time.Duration
			n := 0
			b.ResetTimer()
			for b.Loop() {
				run(r, &took, n)
				n++
			}
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "p95-ms")
		})
	}
}

func firstFrame(r *rig, took *[]time.Duration, _ int) {
	began := time.Now()
	conn, _, err := r.socket("/api/v1/live", adminToken)
	if err != nil {
		r.t.Fatal(err)
	}
	r.send(conn, `{"type":"subscribe","sub":1,"view":"containers","options":{"group":"none","metric":"cpu"}}`)
	if f := r.read(conn); f.Type != "frame" || len(f.Nodes.ID) < 100 {
		r.t.Fatalf("%s of %d nodes", f.Type, len(f.Nodes.ID))
	}
	*took = append(*took, time.Since(began))
	conn.CloseNow()
}

func stopSeen(r *rig, took *[]time.Duration, n int) {
	conn, _, err := r.socket("/api/v1/live", adminToken)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.CloseNow()
	r.send(conn, `{"type":"subscribe","sub":1,"view":"containers","options":{"group":"none","opts":{"state":"all"}}}`)
	f := r.read(conn)
	id := ""
	for i := range f.Nodes.ID {
		if f.Nodes.State[i] == "running" {
			id = f.Nodes.ID[i]
			break
		}
	}
	if id == "" {
		r.t.Fatal("every container has been stopped: ask for fewer with -benchtime")
	}
	began := time.Now()
	answered := make(chan answer, 1)
	go func() {
		answered <- r.call("POST", "/api/v1/nodes/"+url.PathEscape(id)+"/controls/stop", adminToken, "")
	}()
	for {
		d := r.read(conn)
		for i := range d.Nodes.ID {
			if d.Type == "diff" && d.Nodes.ID[i] == id && d.Nodes.State[i] == "exited" {
				*took = append(*took, time.Since(began))
				<-answered
				return
			}
		}
	}
}
