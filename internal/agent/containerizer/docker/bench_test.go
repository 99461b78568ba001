package docker

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/client"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// BenchmarkStart is GOALS row 10: from the launch of a task until it runs, beside the same API calls made by hand (look for the
// image, create, attach, start, inspect) and plain `docker run -d`, alternating on the same Engine. Our time on top is the
// median of the differences of the pairs: what else the machine does hits both alike.
func BenchmarkStart(b *testing.B) {
	h := newHost(b, dockertest.Options{})
	d := h.start(nil, inMemory(b))
	defer d.end()
	var ours, toRunning, plain, program []time.Duration
	i := 0
	for b.Loop() {
		i++
		launch, running, hand, image := pair(b, d, ids.Container(fmt.Sprintf("b%d", i)), "exec sleep 1000")
		ours, toRunning, plain = append(ours, launch), append(toRunning, running), append(plain, hand)
		if _, err := d.api.ContainerRemove(b.Context(), "plain", client.ContainerRemoveOptions{Force: true}); err != nil {
			b.Fatal(err)
		}

		begin := time.Now()
		h.e.Docker("run", "-d", "--name", "program", "--net", "host", image, "sleep", "1000")
		program = append(program, time.Since(begin))
		h.e.Docker("rm", "-f", "program")
	}
	onTop := func(ds []time.Duration) float64 {
		out := make([]time.Duration, len(ds))
		for i := range ds {
			out[i] = ds[i] - plain[i]
		}
		return medianMS(out)
	}
	b.ReportMetric(onTop(ours), "on-top-ms")
	b.ReportMetric(onTop(toRunning), "on-top-running-ms")
	b.ReportMetric(medianMS(ours), "launch-p50-ms")
	b.ReportMetric(medianMS(toRunning), "running-p50-ms")
	b.ReportMetric(medianMS(plain), "engine-p50-ms")
	b.ReportMetric(medianMS(program), "docker-run-p50-ms")
}

// pair launches a task until it runs, ends it, and asks by hand for the same container.
func pair(b *testing.B, d *daemon, id ids.Container, command string) (launch, toRunning, hand time.Duration, image string) {
	cfg := d.task(id, &mesosv1.TaskInfo{Command: shell(command)})
	begin := time.Now()
	d.launch(cfg)
	launch = time.Since(begin)
	d.untilState(id, mesosv1.TaskState_TASK_RUNNING)
	toRunning = time.Since(begin)
	_ = d.Destroy(context.Background(), id)
	d.wait(id)
	p, err := d.plan(&cfg)
	if err != nil {
		b.Fatal(err)
	}
	begin = time.Now()
	if err := byHand(b.Context(), d, p); err != nil {
		b.Fatal(err)
	}
	return launch, toRunning, time.Since(begin), p.image
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

// byHand is what `docker run -d` asks of the Engine.
func byHand(ctx context.Context, d *daemon, p *plan) error {
	if _, err := d.api.ImageInspect(ctx, p.image); err != nil {
		return err
	}
	opts := p.options
	opts.Name = "plain"
	notOurs := *opts.Config // what has our labels and is not known is removed by us
	notOurs.Labels = nil
	opts.Config = &notOurs
	if _, err := d.api.ContainerCreate(ctx, opts); err != nil {
		return err
	}
	at, err := d.api.ContainerAttach(ctx, "plain", client.ContainerAttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		return err
	}
	defer at.Close()
	if _, err := d.api.ContainerStart(ctx, "plain", client.ContainerStartOptions{}); err != nil {
		return err
	}
	_, err = d.api.ContainerInspect(ctx, "plain", client.ContainerInspectOptions{})
	return err
}

func medianMS(ds []time.Duration) float64 {
	ds = slices.Clone(ds)
	slices.Sort(ds)
	return float64(ds[len(ds)/2]) / float64(time.Millisecond)
}
