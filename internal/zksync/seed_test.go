package zksync

import (
	"runtime"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

// BenchmarkSeed is the goal of seeding: ZK_NODES nodes of 100 bytes in the source, an empty target, until the stream is live. Beside the
// time it reports the processor seconds of the three processes, which compare on a busy machine where times do not. ZK_RTT_MS puts the target that far away.
func BenchmarkSeed(b *testing.B) {
	nodes := envInt("ZK_NODES", 100_000)
	heap := max(512, nodes/1000*2)
	src := zktest.Start(b, zktest.Options{HeapMB: heap, JVM: []string{"-XX:TieredStopAtLevel=4"}})
	dst := zktest.Start(b, zktest.Options{HeapMB: heap, JVM: []string{"-XX:TieredStopAtLevel=4"}})
	fill(b, src, nodes)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	self, source, target := cpuTime(src.Nodes[0], dst.Nodes[0])
	b.ResetTimer()
	began := time.Now()
	cfg := config(src, dst)
	if ms := envInt("ZK_RTT_MS", 0); ms > 0 { // the target is far away
		p := zktest.NewProxy(b, dst.Nodes[0].Client)
		p.Delay(time.Duration(ms) * time.Millisecond / 2)
		cfg.Target.Servers = []string{p.Addr()}
	}
	e, stop := start(b, cfg)
	<-e.Ready()
	took := time.Since(began)
	b.StopTimer()
	self1, source1, target1 := cpuTime(src.Nodes[0], dst.Nodes[0])
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(took.Seconds(), "seed-s")
	b.ReportMetric((self1 - self).Seconds(), "cpu-engine-s")
	b.ReportMetric((source1 - source).Seconds(), "cpu-source-s")
	b.ReportMetric((target1 - target).Seconds(), "cpu-target-s")
	b.ReportMetric(float64(e.Status().Ops)/float64(e.Status().Batches), "ops/batch")
	b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/1e6, "heap-MB")
	b.ReportMetric(0, "ns/op")
	if err := stop(); err != nil {
		b.Error(err)
	}
}
