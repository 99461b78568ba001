package native

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// percentiles reports P50 and P99 of durations in milliseconds.
func percentiles(b *testing.B, name string, ds []time.Duration) {
	slices.Sort(ds)
	at := func(p float64) float64 {
		return float64(ds[min(int(p*float64(len(ds))), len(ds)-1)]) / float64(time.Millisecond)
	}
	b.ReportMetric(at(.50), name+"-p50-ms")
	b.ReportMetric(at(.99), name+"-p99-ms")
}

// runs numbers the calls of benchmarks that go test repeats in one process, whose containers need names of their own.
var runs atomic.Int64

// cpuSeconds is what this process and those that it has waited for have used.
func cpuSeconds() float64 {
	var total float64
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var ru syscall.Rusage
		if syscall.Getrusage(who, &ru) == nil {
			total += float64(ru.Utime.Nano()+ru.Stime.Nano()) / 1e9
		}
	}
	return total
}

// inMemory puts the runtime directory where it is by default, on a file system in memory (/run).
func inMemory(b *testing.B) func(*Config) {
	dir, err := os.MkdirTemp("/dev/shm", "orchestrator-bench-")
	if err != nil {
		realpart.Missing(b, "no file system in memory: %v", err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return func(c *Config) { c.RuntimeDir, c.LinkSocket = dir, filepath.Join(dir, "exec.sock") }
}

// BenchmarkStart is GOALS row 8 without an image: until the process runs, in its own cgroup and mount and PID namespaces.
func BenchmarkStart(b *testing.B) {
	realpart.Root(b)
	d := newHost(b).start(nil, inMemory(b))
	defer d.end()
	var start, total []time.Duration
	i := 0
	for b.Loop() {
		i++
		cfg := d.plain(ids.Container(fmt.Sprintf("b%d", i)), "")
		cfg.Command = &mesosv1.CommandInfo{Shell: ptr(false), Value: ptr("/bin/true")}
		t := time.Now()
		d.launch(cfg)
		start = append(start, time.Since(t))
		d.wait(cfg.ID)
		total = append(total, time.Since(t))
	}
	percentiles(b, "start", start)
	percentiles(b, "start-to-gone", total)
}

// BenchmarkStartRate is GOALS row 9: command tasks started and ended per second, their executors' whole story included.
func BenchmarkStartRate(b *testing.B) {
	realpart.Root(b)
	d := newHost(b).start(nil, inMemory(b))
	defer d.end()
	for _, kind := range []string{"plain", "task"} {
		b.Run(kind, func(b *testing.B) {
			run := runs.Add(1)
			eightAtATime(b, d, func(n int64) containerizer.Config {
				id := ids.Container(fmt.Sprintf("%s%d-%d", kind, run, n))
				cfg := d.plain(id, "")
				cfg.Command = &mesosv1.CommandInfo{Shell: ptr(false), Value: ptr("/bin/true")}
				if kind == "task" {
					cfg = d.task(id, &mesosv1.TaskInfo{Command: cfg.Command})
				}
				return cfg
			})
		})
	}
}

// eightAtATime launches containers and waits for their ends, eight at a time, and tells how many that were in a second.
func eightAtATime(b *testing.B, d *daemon, describe func(n int64) containerizer.Config) {
	var next atomic.Int64
	cpu := cpuSeconds()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				n := next.Add(1)
				if n > int64(b.N) {
					return
				}
				cfg := describe(n)
				if err := d.Launch(context.Background(), cfg); err != nil {
					b.Error(err)
					return
				}
				if _, err := d.Wait(context.Background(), cfg.ID); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "containers/s")
	b.ReportMetric((cpuSeconds()-cpu)*1000/float64(b.N), "cpu-ms/container")
}

// BenchmarkStartOwnNetwork is GOALS row 8: own cgroup, mount, PID and network namespaces, until the process runs. "loopback" is a
// network of nothing else; "bridge" has an address on a bridge, by Debian's plugins.
func BenchmarkStartOwnNetwork(b *testing.B) {
	for _, name := range []string{"loopback", "bridge"} {
		b.Run(name, func(b *testing.B) {
			if !inOwnNetwork(b) {
				return
			}
			h := newHost(b)
			n := newNetworks(b, h)
			n.add(b, "lo.json", `{"cniVersion":"0.4.0","name":"loopback","type":"loopback"}`)
			n.add(b, "bridge.json", fmt.Sprintf(`{"cniVersion":"0.4.0","name":"bridge","type":"bridge","bridge":"tbr0","isGateway":true,
				"ipam":{"type":"host-local","dataDir":%q,"subnet":"10.213.0.0/16"}}`, n.ipam))
			d := h.start(nil, n.config(h), inMemory(b))
			defer d.end()
			var start, total []time.Duration
			cpu, i := cpuSeconds(), 0
			for b.Loop() {
				i++
				cfg := d.plain(ids.Container(fmt.Sprintf("n%d", i)), "")
				cfg.Command = &mesosv1.CommandInfo{Shell: ptr(false), Value: ptr("/bin/true")}
				cfg.Container = inNetwork(&mesosv1.NetworkInfo{Name: &name})
				t := time.Now()
				d.launch(cfg)
				start = append(start, time.Since(t))
				d.wait(cfg.ID)
				total = append(total, time.Since(t))
			}
			b.ReportMetric((cpuSeconds()-cpu)*1000/float64(i), "cpu-ms/container")
			percentiles(b, "start", start)
			percentiles(b, "start-to-gone", total)
		})
	}
}
