package zksync

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

func envInt(name string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return def
}

// fill makes n nodes of 100 bytes, a thousand to a directory.
func fill(b testing.TB, e *zktest.Ensemble, n int) {
	b.Helper()
	c := e.Client(b, zk.Config{SessionTimeout: 30 * time.Second})
	data := make([]byte, 100)
	w := c.NewWindow(4)
	for d := 0; d*1000 < n; d++ {
		ops := []zk.Op{zk.Create(fmt.Sprintf("/d%d", d), nil, zk.OpenACL(), zk.Persistent)}
		for i := range min(1000, n-d*1000) {
			ops = append(ops, zk.Create(fmt.Sprintf("/d%d/n%d", d, i), data, zk.OpenACL(), zk.Persistent))
		}
		if err := w.Send(b.Context(), zk.Multi(ops...), nil); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Wait(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// cpuTime is the processor time so far of this process and of two servers.
func cpuTime(a, b *zktest.Node) (self, source, target time.Duration) {
	var ru syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano()), a.CPU(), b.CPU()
}

// BenchmarkLag is the goal of synchronization: ZK_NODES nodes, ZK_RATE sets a second for ZK_SECONDS, open loop, ZK_MULTI of them in a
// transaction (1: a server on one core takes no more than about 14,000 single ones a second). It reports the seed's time, the lag from the
// moment a transaction was read from the source to the target's answer, and the engine's heap.
func BenchmarkLag(b *testing.B) {
	nodes, rate, seconds, multi := envInt("ZK_NODES", 100_000), envInt("ZK_RATE", 10_000), envInt("ZK_SECONDS", 5), max(envInt("ZK_MULTI", 1), 1)
	heap := max(512, nodes/1000*2)
	src := zktest.Start(b, zktest.Options{HeapMB: heap, JVM: []string{"-XX:TieredStopAtLevel=4"}})
	dst := zktest.Start(b, zktest.Options{HeapMB: heap, JVM: []string{"-XX:TieredStopAtLevel=4"}})
	fill(b, src, nodes)
	cfg := config(src, dst)
	e, err := New(cfg, Deps{})
	if err != nil {
		b.Fatal(err)
	}
	var mu sync.Mutex
	var lags []time.Duration
	e.onApplied = func(bt *batch) {
		if !bt.arrived.IsZero() {
			mu.Lock()
			lags = append(lags, time.Since(bt.arrived))
			mu.Unlock()
		}
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	go func() { _ = e.Run(b.Context()) }()
	<-e.Ready()
	seeded := time.Since(began)
	runtime.GC()
	runtime.ReadMemStats(&after)
	c := src.Client(b, zk.Config{SessionTimeout: 30 * time.Second})
	w := c.NewWindow(50_000)
	data := make([]byte, 100)
	mu.Lock()
	lags = nil
	mu.Unlock()
	self0, src0, dst0 := cpuTime(src.Nodes[0], dst.Nodes[0])
	b.ResetTimer()
	start := time.Now()
	sent := 0
	for sent+multi <= rate*seconds {
		due := int(time.Since(start).Seconds() * float64(rate))
		for sent+multi <= min(due, rate*seconds) {
			ops := make([]zk.Op, multi)
			for i := range ops {
				ops[i] = zk.Set(fmt.Sprintf("/d%d/n%d", sent%max(nodes/1000, 1), sent%997), data, zk.AnyVersion)
				sent++
			}
			op := ops[0]
			if multi > 1 {
				op = zk.Multi(ops...)
			}
			if err := w.Send(b.Context(), op, nil); err != nil {
				b.Fatal(err)
			}
		}
		time.Sleep(time.Millisecond) // open loop: the pace of the load
	}
	if err := w.Wait(b.Context()); err != nil {
		b.Fatal(err)
	}
	took := time.Since(start)
	zktest.Eventually(b, time.Minute, "the target has all", func() bool { return e.Status().Txns >= int64(sent/multi) })
	behind := time.Since(start) - took
	b.StopTimer()
	self1, src1, dst1 := cpuTime(src.Nodes[0], dst.Nodes[0])
	wall := time.Since(start).Seconds()
	// Processor time for each second: of this process (engine and load), and of the servers. Their sum says what the machine had left.
	b.ReportMetric((self1-self0).Seconds()/wall, "cpu-engine+load")
	b.ReportMetric((src1-src0).Seconds()/wall, "cpu-source")
	b.ReportMetric((dst1-dst0).Seconds()/wall, "cpu-target")
	// For each update, in millionths of a second, with the load that this process makes.
	b.ReportMetric((self1-self0).Seconds()*1e6/float64(sent), "cpu-us/update")
	b.ReportMetric(float64(e.Status().Ops)/float64(e.Status().Batches), "ops/batch")
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(lags)
	q := func(f float64) float64 {
		return float64(lags[min(int(f*float64(len(lags))), len(lags)-1)].Microseconds()) / 1000
	}
	b.ReportMetric(float64(sent)/took.Seconds(), "sets/s")
	b.ReportMetric(q(.5), "lag-p50-ms")
	b.ReportMetric(q(.95), "lag-p95-ms")
	b.ReportMetric(q(.99), "lag-p99-ms")
	b.ReportMetric(behind.Seconds()*1000, "behind-ms")
	b.ReportMetric(seeded.Seconds(), "seed-s")
	b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/1e6, "heap-MB")
	b.ReportMetric(0, "ns/op")
}
