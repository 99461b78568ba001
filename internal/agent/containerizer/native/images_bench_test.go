package native

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/image/imagetest"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// BenchmarkStartImage is GOALS row 8 with an image that is there: own cgroup, mount and PID namespaces, until the process
// runs; "loopback" has a network namespace too. The peers are bare `crun run` and `runc run` on the same files, with the
// namespaces of their default configuration (network included), until the program has ended: their own ending is short.
func BenchmarkStartImage(b *testing.B) {
	for _, oci := range []string{"", "crun", "runc"} {
		for _, network := range []string{"", "loopback"} {
			name := oci
			if name == "" {
				name = "helper"
			}
			if network != "" {
				name += "-loopback"
			}
			b.Run(name, func(b *testing.B) {
				if !inOwnNetwork(b) {
					return
				}
				h := newHost(b)
				img := boxImage(b, imagetest.Serve(b), "box", v1.Config{Cmd: []string{"/bin/true"}})
				n := newNetworks(b, h)
				n.add(b, "lo.json", `{"cniVersion":"0.4.0","name":"loopback","type":"loopback"}`)
				d := h.start(nil, n.config(h), inMemory(b), func(c *Config) { c.OCIRuntime = ociPath(b, oci) })
				defer d.end()
				var start, total []time.Duration
				run := func(i int) {
					cfg := d.plain(ids.Container(fmt.Sprintf("i%d", i)), "")
					cfg.Command = nil
					cfg.Container = inImage(img)
					if network != "" {
						cfg.Container.NetworkInfos = []*mesosv1.NetworkInfo{{Name: &network}}
					}
					t := time.Now()
					d.launch(cfg)
					start = append(start, time.Since(t))
					d.wait(cfg.ID)
					total = append(total, time.Since(t))
				}
				run(0) // fetches
				start, total = nil, nil
				cpu, i := cpuSeconds(), 0
				for b.Loop() {
					i++
					run(i)
				}
				b.ReportMetric((cpuSeconds()-cpu)*1000/float64(i), "cpu-ms/container")
				percentiles(b, "start", start)
				percentiles(b, "start-to-gone", total)
			})
		}
	}
	for _, oci := range []string{"crun", "runc"} {
		b.Run("peer-"+oci, func(b *testing.B) { peerRun(b, ociPath(b, oci)) })
	}
}

// peerRun measures a bare OCI runtime.
func peerRun(b *testing.B, program string) {
	realpart.Root(b)
	bundle := b.TempDir()
	d := newHost(b).start(nil)
	img, err := d.images.Get(b.Context(), boxImage(b, imagetest.Serve(b), "box", v1.Config{}), nil, false)
	if err != nil {
		b.Fatal(err)
	}
	defer d.end()
	defer img.Release()
	cmd := exec.Command(program, "spec", "--bundle", bundle)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("spec: %v %s", err, out)
	}
	var s specs.Spec
	if err := json.Unmarshal([]byte(read(b, bundle, "config.json")), &s); err != nil {
		b.Fatal(err)
	}
	s.Process.Terminal, s.Process.Args, s.Root.Path = false, []string{"/bin/true"}, img.Layers[0]
	text, err := json.Marshal(s)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600); err != nil {
		b.Fatal(err)
	}
	// A thread with mounts of its own, where cgroups v2 beside v1 are hidden from crun. It ends with the benchmark.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		b.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		b.Fatal(err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/unified"); err == nil {
		if err := unix.Mount("none", "/sys/fs/cgroup/unified", "tmpfs", 0, ""); err != nil {
			b.Fatal(err)
		}
	}
	var ds []time.Duration
	cpu, i := cpuSeconds(), 0
	for b.Loop() {
		i++
		t := time.Now()
		cmd := exec.Command(program, "--root", filepath.Join(bundle, "state"), "run", "--bundle", bundle, fmt.Sprintf("orchestrator-bench-%d-%d", os.Getpid(), i))
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("run: %v %s", err, out)
		}
		ds = append(ds, time.Since(t))
	}
	b.ReportMetric((cpuSeconds()-cpu)*1000/float64(i), "cpu-ms/container")
	percentiles(b, "run", ds)
}

// BenchmarkStartRateImage is GOALS row 9 with an image: command tasks started and ended per second, eight at a time.
func BenchmarkStartRateImage(b *testing.B) {
	realpart.Root(b)
	d := newHost(b).start(nil, inMemory(b))
	defer d.end()
	img := boxImage(b, imagetest.Serve(b), "box", v1.Config{})
	held, err := d.images.Get(b.Context(), img, nil, false)
	if err != nil {
		b.Fatal(err)
	}
	defer held.Release()
	eightAtATime(b, d, func(n int64) containerizer.Config {
		return d.task(ids.Container(fmt.Sprintf("r%d-%d", b.N, n)), &mesosv1.TaskInfo{Command: &mesosv1.CommandInfo{Shell: ptr(false), Value: ptr("/bin/true")}, Container: inImage(img)})
	})
}
