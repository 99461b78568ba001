package monitoring

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/realpart"
)

// BenchmarkProbe is the goal of the probe: what it costs on a host of PROBE_BENCH_CONTAINERS containers (default 50) of 20 processes
// each, 1,000 by default, as a program of its own that tells a monitor of all of them, for PROBE_BENCH_SECONDS (default 60). Each container has control
// groups, a network namespace, and a client that opens a connection to the container's web server every second, by a program it starts for it. The containers are
// made by hand: no runtime's own processes are counted.
func BenchmarkProbe(b *testing.B) {
	realpart.Root(b)
	setting := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
			return n
		}
		return otherwise
	}
	containers, length := setting("PROBE_BENCH_CONTAINERS", 50), time.Duration(setting("PROBE_BENCH_SECONDS", 60))*time.Second
	for i := range containers {
		contain(b, i)
	}
	s := newSoak(b)
	s.startMonitor()
	p := s.program("probe", "probe", "--monitors="+s.address, "--token=between", "--hostname=measured", "--max-processes=5000", "--docker-socket=off", "--runtime-sockets=off", "--plugins-dir=off")
	s.until("all containers and processes", func() bool {
		return s.entities("container") >= containers && s.entities("process") >= 19*containers
	})
	<-time.After(15 * time.Second) // the first look at everything is over
	first := p.sample(b, 0)
	for b.Loop() {
		<-time.After(length)
	}
	last := p.sample(b, length)
	b.ReportMetric(100*(last.cpu-first.cpu)/b.Elapsed().Seconds(), "%-of-a-core")
	b.ReportMetric(last.rss/1e6, "MB")
	b.ReportMetric(float64(s.entities("process")), "processes")
	b.ReportMetric(float64(s.entities("container")), "containers")
}

// contain starts one container of 20 processes. It ends with the benchmark.
func contain(b *testing.B, n int) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %d", os.Getpid(), n))
	cmd := exec.Command("busybox", "sh", "-c", `read go; busybox ip link set lo up; busybox httpd -f -p 127.0.0.1:80 -h / &
i=0; while [ $i -lt 16 ]; do sleep 3600 & i=$((i+1)); done
(while sleep 1; do busybox wget -q -O /dev/null http://127.0.0.1/etc/hostname 2>/dev/null; done) & wait`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	procs, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil { // one hierarchy alone
		procs = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	procs = slices.DeleteFunc(procs, func(p string) bool { return filepath.Base(filepath.Dir(p)) == "cpuset" }) // wants processors named
	var dirs []string
	b.Cleanup(func() {
		_ = cmd.Process.Kill() // the first of its PID namespace: all others go with it
		_ = cmd.Wait()
		for _, dir := range dirs {
			for range 1000 { // the kernel takes a moment to empty it
				if os.Remove(dir) == nil {
					break
				}
				<-time.After(time.Millisecond)
			}
			_ = os.Remove(filepath.Dir(dir))
		}
	})
	for _, p := range procs {
		dir := filepath.Join(filepath.Dir(p), "probe-bench", hex.EncodeToString(sum[:]))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		dirs = append(dirs, dir)
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := io.WriteString(in, "go\n"); err != nil {
		b.Fatal(err)
	}
}
