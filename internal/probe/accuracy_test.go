package probe

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/topology"
)

// The accuracy tests put known loads on a container, and demand that what the probe measures agrees within 2 % with what the
// kernel says of the same load by another way: the process's own resource usage, its own I/O counters, netlink's counters.

// counts is what a dweller reads of itself.
type counts struct {
	CPU          float64 // seconds, getrusage
	Wrote        float64 // /proc/self/io
	NetRx, NetTx float64 // rtnetlink
}

// mapping is memory that a dweller holds until it ends.
type mapping []byte

func (m mapping) Close() error { return unix.Munmap(m) }

// load is what a dweller does for the accuracy tests.
func load(o order) (io.Closer, error) {
	switch o.Op {
	case "burn": // N ms of processor time
		var from, now unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &from); err != nil {
			return nil, err
		}
		for {
			for range 100_000 {
			}
			if err := unix.Getrusage(unix.RUSAGE_THREAD, &now); err != nil {
				return nil, err
			}
			if cpuOf(&now)-cpuOf(&from) > float64(o.N)/1000 {
				return nil, nil
			}
		}
	case "hold": // N MB, touched
		b, err := unix.Mmap(-1, 0, o.N<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return nil, err
		}
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		return mapping(b), nil
	case "open": // N files
		for range o.N {
			if _, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
				return nil, err
			}
		}
	case "sleepers": // N processes in the same group, with four open files each
		null, err := os.Open("/dev/null")
		if err != nil {
			return nil, err
		}
		for range o.N {
			if _, err := os.StartProcess("/bin/sleep", []string{"sleep", "100"}, &os.ProcAttr{Files: []*os.File{null, null, null, null}}); err != nil {
				return nil, err
			}
		}
		return null, nil
	case "stream": // N MB to somebody
		c, err := net.DialTimeout(o.Network, o.Addr, patience)
		if err != nil {
			return nil, err
		}
		block := make([]byte, 1<<20)
		for range o.N {
			if _, err := c.Write(block); err != nil {
				return nil, err
			}
		}
		return nil, c.Close()
	case "read": // N MB from the disk itself
		fd, err := unix.Open(o.Name, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		raw := make([]byte, 1<<20+4096)
		skip := int(4096 - uintptr(unsafe.Pointer(&raw[0]))%4096)
		for range o.N {
			if n, err := unix.Read(fd, raw[skip:skip+1<<20]); err != nil || n != 1<<20 {
				return nil, fmt.Errorf("%d bytes were read: %w", n, err)
			}
		}
	case "write": // N MB to the disk itself
		fd, err := unix.Open(o.Name, unix.O_WRONLY|unix.O_CREAT|unix.O_DIRECT|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		raw := make([]byte, 1<<20+4096)
		skip := int(4096 - uintptr(unsafe.Pointer(&raw[0]))%4096)
		for range o.N {
			if _, err := unix.Write(fd, raw[skip:skip+1<<20]); err != nil {
				return nil, err
			}
		}
		return nil, unix.Fsync(fd)
	case "count":
		var c counts
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			return nil, err
		}
		c.CPU = cpuOf(&u)
		b, err := os.ReadFile("/proc/self/io")
		if err != nil {
			return nil, err
		}
		_, rest, _ := strings.Cut(string(b), "\nwrite_bytes: ")
		c.Wrote, _ = strconv.ParseFloat(strings.Fields(rest)[0], 64)
		if l, err := netlink.LinkByName("eth0"); err == nil {
			c.NetRx, c.NetTx = float64(l.Attrs().Statistics.RxBytes), float64(l.Attrs().Statistics.TxBytes)
		}
		text, _ := json.Marshal(c)
		return nil, errors.New(string(text)) // what is told comes as what went wrong does
	}
	return nil, nil
}

func cpuOf(u *unix.Rusage) float64 {
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// count asks a dweller what the kernel tells it of itself.
func (d *dweller) count() (c counts) {
	d.t.Helper()
	b, _ := json.Marshal(order{Op: "count"})
	if _, err := d.in.Write(append(b, '\n')); err != nil || !d.out.Scan() {
		d.t.Fatal("the process has ended")
	}
	var text string
	if err := errors.Join(json.Unmarshal(d.out.Bytes(), &text), json.Unmarshal([]byte(text), &c)); err != nil {
		d.t.Fatalf("%s: %v", d.out.Bytes(), err)
	}
	return c
}

// confine puts a dweller into a control group of every controller, as a runtime does.
func (d *dweller) confine() (dirs map[string]string) {
	d.t.Helper()
	roots, err := findCgroupRoots("/proc")
	if err != nil {
		d.t.Fatal(err)
	}
	dirs = map[string]string{}
	for controller, root := range roots.v1 {
		dir := filepath.Join(root, "probe-test", d.id)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			d.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(d.pid)), 0o644); err != nil {
			d.t.Fatal(err)
		}
		dirs[controller] = dir
		d.t.Cleanup(func() {
			for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
				if err := os.Remove(dir); err == nil || os.IsNotExist(err) {
					break
				}
				// Its children outlive it: they end with its group.
				b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
				for _, pid := range strings.Fields(string(b)) {
					if n, err := strconv.Atoi(pid); err == nil {
						_ = unix.Kill(n, unix.SIGKILL)
					}
				}
				time.Sleep(10 * time.Millisecond)
			}
			_ = os.Remove(filepath.Dir(dir))
		})
	}
	return dirs
}

// measured reads all metrics of an entity in one round.
func (p *Probe) measured(t *testing.T, at int64, fill func(b *batch)) map[string]float64 {
	t.Helper()
	b := newBatch(p.hub, at, false)
	fill(b)
	out := map[string]float64{}
	for i, n := range b.m.NameIndex {
		out[b.m.Names[n]] = float64(b.m.Values[i])
	}
	return out
}

func within(t *testing.T, what string, got, want, percent float64) {
	t.Helper()
	if math.Abs(got-want) > math.Abs(want)*percent/100 {
		t.Errorf("%s: the probe says %.6g, the kernel %.6g: off by %.2f %%", what, got, want, 100*(got-want)/want)
		return
	}
	t.Logf("%s: %.6g against %.6g", what, got, want)
}

func TestFiguresAgreeWithTheKernel(t *testing.T) {
	needRoot(t)
	hub, d, peer := settle(t, "hub"), settle(t, "loaded"), settle(t, "peer")
	hub.do(order{Op: "bridge", Name: "br0"})
	hub.do(order{Op: "up", Name: "br0"})
	for i, x := range []*dweller{d, peer} {
		hub.do(order{Op: "link", Name: fmt.Sprintf("v%d", i), Peer: x.pid})
		x.do(order{Op: "up", Name: "eth0", Addr: fmt.Sprintf("10.79.0.%d/24", i+1)})
	}
	peer.do(order{Op: "listen", Network: "tcp4", Addr: ":8000"})
	groups := d.confine()
	p := newTestProbe(t, nil)
	p.next.metrics = time.Now().Add(time.Hour) // no reading between those of the test
	container := topology.ContainerID("testhost", d.id)
	at := time.Now().UnixMilli()
	const second = 1000
	box := func() *box {
		t.Helper()
		lookNow(p)
		b := p.pic.boxes[d.id]
		if b == nil {
			t.Fatal("the container is not found")
		}
		return b
	}
	// Each reading is one second after the last by the probe's clock, so that rates are what has happened in between.
	read := func() map[string]float64 {
		t.Helper()
		b := box()
		at += second
		return p.measured(t, at, func(m *batch) { p.measureContainer(m, m.ref(container), b, at) })
	}
	// What the kernel has counted is read before and after the probe reads it: where it is the same, it is what the probe has read.
	still := func(kernel func() (counted [2]float64, done bool)) map[string]float64 {
		t.Helper()
		base, from := p.samples[d.id], at
		for range 200 {
			p.samples[d.id], at = base, from
			before, done := kernel()
			got := read()
			if after, _ := kernel(); done && after == before {
				return got
			}
		}
		t.Fatal("nothing ever stands still")
		return nil
	}
	tick := func() map[string]float64 { // of the process: by the table's own clock
		t.Helper()
		last := p.table.last
		if err := p.table.scan(time.UnixMilli(last + second)); err != nil {
			t.Fatal(err)
		}
		p.table.measureIO(time.UnixMilli(p.table.last))
		proc := p.table.byPid[d.pid]
		return p.measured(t, at, func(m *batch) { p.measureProcess(m, m.ref(p.processID(proc)), proc) })
	}
	box()
	tick()
	read()
	beforeFds := read()[topology.MetricFds]
	processFds := tick()[topology.MetricFds]

	// CPU: 2 s of it. The kernel rounds a process's to ticks of 10 ms.
	was := d.count()
	read()
	tick()
	d.do(order{Op: "burn", N: 2000})
	now := d.count()
	within(t, "CPU of the process", tick()[topology.MetricCPUCores], now.CPU-was.CPU, 2)
	got := read()
	within(t, "CPU of the container", got[topology.MetricCPUCores], now.CPU-was.CPU, 2)
	within(t, "CPU as a share of the host", got[topology.MetricCPU], 100*got[topology.MetricCPUCores]/float64(p.host.cores), 0.1)

	// Memory.
	memory, processMemory := read()[topology.MetricMem], tick()[topology.MetricMem]
	d.do(order{Op: "hold", N: 128})
	within(t, "memory of the container", read()[topology.MetricMem]-memory, 128<<20, 2)
	within(t, "memory of the process", tick()[topology.MetricMem]-processMemory, 128<<20, 2)

	// Network: both ways of a stream, headers and acknowledgements with it.
	was = d.count()
	read()
	d.do(order{Op: "stream", Network: "tcp4", Addr: "10.79.0.2:8000", N: 64})
	got = still(func() ([2]float64, bool) { // what is sent is still on its way
		now = d.count()
		return [2]float64{now.NetRx, now.NetTx}, now.NetTx-was.NetTx >= 64<<20
	})
	within(t, "bytes sent by the container", got[topology.MetricNetTx], now.NetTx-was.NetTx, 2)
	within(t, "bytes received by the container", got[topology.MetricNetRx], now.NetRx-was.NetRx, 2)
	if got[topology.MetricNetTx] < 64<<20 {
		t.Errorf("%.0f bytes sent of 64 MB", got[topology.MetricNetTx])
	}

	// Files and processes.
	d.do(order{Op: "open", N: 300})
	within(t, "files of the container", read()[topology.MetricFds]-beforeFds, 300, 2)
	within(t, "files of the process", tick()[topology.MetricFds]-processFds, 300, 2)
	pids := read()[topology.MetricPids]
	d.do(order{Op: "sleepers", N: 100})
	got = read()
	within(t, "pids of the container", got[topology.MetricPids]-pids, 100, 2)
	// Of all its processes, however many they are.
	open := 0.0
	for _, proc := range box().procs {
		names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", proc.pid))
		if err != nil {
			t.Fatal(err)
		}
		open += float64(len(names))
	}
	if open < 700 {
		t.Fatalf("%.0f files of 100 processes with four each and one with 300", open)
	}
	within(t, "files of the container with its processes", got[topology.MetricFds], open, 2)

	// Disk, where there is one below: a file in memory writes nothing.
	file := filepath.Join(t.TempDir(), "written")
	was = d.count()
	read()
	tick()
	d.do(order{Op: "write", Name: file, N: 32})
	now = d.count()
	if wrote := now.Wrote - was.Wrote; wrote >= 32<<20 {
		within(t, "bytes written by the process", tick()[topology.MetricDiskWrite], wrote, 2)
		// The container's are those of its group, or of its processes where the kernel counts none for groups.
		within(t, "bytes written by the container", read()[topology.MetricDiskWrite], wrote, 2)
	} else {
		t.Logf("the file system of %s writes to no disk", file)
	}

	// Throttling: a fifth of a core, and somebody who wants a whole one.
	quota, ok := groups["cpu"]
	if !ok {
		t.Log("no version 1 hierarchy with cpu: throttling is not forced here")
		return
	}
	for name, v := range map[string]string{"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "20000"} {
		if err := os.WriteFile(filepath.Join(quota, name), []byte(v), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// How often is up to the scheduler: on a busy machine others hold it back first. A group that does nothing is in no period.
	var held [2]float64 // how often, in how many periods
	counted := func() ([2]float64, bool) {
		keys := readKeys(filepath.Join(quota, "cpu.stat"))
		held = [2]float64{keys["nr_throttled"], keys["nr_periods"]}
		return held, true
	}
	still(counted)
	before := held
	d.do(order{Op: "burn", N: 600})
	got = still(counted)
	if held[0] == before[0] {
		t.Fatalf("the kernel has not held it back: %v, then %v", before, held)
	}
	within(t, "periods in which the container was held back", got[topology.MetricThrottled], 100*(held[0]-before[0])/(held[1]-before[1]), 0.001)
}

// TestHostFiguresAgreeWithTheKernel compares the host's with other ways to ask the same kernel.
func TestHostFiguresAgreeWithTheKernel(t *testing.T) {
	t.Parallel()
	p := newTestProbe(t, nil)
	// What the kernel has not used of the processors, in seconds. What waits for a disk is idle to it in one file and not in the other.
	unused := func() float64 {
		stat, err := os.ReadFile("/proc/stat")
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile("/proc/uptime")
		if err != nil {
			t.Fatal(err)
		}
		idle, _ := strconv.ParseFloat(strings.Fields(string(b))[1], 64)
		waits, _ := strconv.ParseFloat(strings.Fields(string(stat))[5], 64)
		return idle + waits/100
	}
	// In a time within that which the probe measures, and in one around it: how long they are, and how much of the processors was used.
	type moment struct{ at, unused float64 }
	now := func() moment {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
			t.Fatal(err)
		}
		return moment{float64(ts.Nano()) / 1e9, unused()}
	}
	var cores float64
	used := func(from, to moment) float64 { return (to.at-from.at)*cores - (to.unused - from.unused) }
	at := time.Now().UnixMilli()
	before := now()
	p.host.measure(at)
	from := now()
	end := time.Now().Add(2 * time.Second)
	for time.Now().Before(end) { // a load, as much as this machine has to give
	}
	to := now()
	m := p.host.measure(at + 2000)
	after := now()
	cores = float64(p.host.cores)
	least, most := 100*used(from, to)/((after.at-before.at)*cores), 100*used(before, after)/((to.at-from.at)*cores)
	// All of them are rounded to ticks.
	if got := m[topology.MetricCPU]; got < least-5 || got > most+5 {
		t.Errorf("CPU: the probe says %.1f %%, the kernel between %.1f and %.1f %%", got, least, most)
	}
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		t.Fatal(err)
	}
	within(t, "memory of the host", m[topology.MetricMem]/(m[topology.MetricMemUsed]/100), float64(si.Totalram)*float64(si.Unit), 2)
	// It changes every five seconds, on a busy machine by more than one.
	load := func() float64 {
		if err := unix.Sysinfo(&si); err != nil {
			t.Fatal(err)
		}
		return float64(si.Loads[0]) / 65536
	}
	for range 200 {
		was := load()
		m = p.host.measure(time.Now().UnixMilli())
		if is := load(); is == was {
			if got := m[topology.MetricLoad1]; math.Abs(got-is) > 0.02 {
				t.Errorf("load: the probe says %v, the kernel %v", got, is)
			}
			break
		}
	}
	if m[topology.MetricFds] < 10 {
		t.Errorf("%v files are open on this host", m[topology.MetricFds])
	}
}

// between demands that what the probe says lies, within some percent, between what the kernel says of a time within that which
// the probe has measured, and of one around it: what others do on this machine meanwhile is in all three.
func between(t *testing.T, what string, got, inner, outer, percent float64) {
	t.Helper()
	if got < inner*(1-percent/100) || got > outer*(1+percent/100) {
		t.Errorf("%s: the probe says %.6g, the kernel between %.6g and %.6g", what, got, inner, outer)
		return
	}
	t.Logf("%s: %.6g against %.6g to %.6g", what, got, inner, outer)
}

// sectors sums what /sys says that the disks of this machine have read and written, in bytes.
func sectors(t *testing.T) (read, wrote float64) {
	t.Helper()
	list, err := os.ReadDir("/sys/block")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		if below, _ := os.ReadDir("/sys/block/" + d.Name() + "/slaves"); len(below) > 0 || strings.HasPrefix(d.Name(), "loop") || strings.Contains(d.Name(), "ram") {
			continue
		}
		b, err := os.ReadFile("/sys/block/" + d.Name() + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		f := strings.Fields(string(b))
		r, _ := strconv.ParseFloat(f[2], 64)
		w, _ := strconv.ParseFloat(f[6], 64)
		read, wrote = read+512*r, wrote+512*w
	}
	return read, wrote
}

// TestHostDisksAgreeWithTheKernel writes and reads known amounts past the page cache.
func TestHostDisksAgreeWithTheKernel(t *testing.T) {
	p := newTestProbe(t, nil)
	file := filepath.Join(t.TempDir(), "load")
	at := time.Now().UnixMilli()
	for _, op := range []string{"write", "read"} {
		const mb = 128
		r0, w0 := sectors(t)
		p.host.measure(at)
		r1, w1 := sectors(t)
		if _, err := load(order{Op: op, Name: file, N: mb}); err != nil {
			t.Fatal(err)
		}
		r2, w2 := sectors(t)
		at += 1000
		got := p.host.measure(at)
		r3, w3 := sectors(t)
		between(t, "bytes read from the host's disks while a file is "+op, got[topology.MetricDiskRead], r2-r1, r3-r0, 2)
		between(t, "bytes written to the host's disks while a file is "+op, got[topology.MetricDiskWrite], w2-w1, w3-w0, 2)
		seen := map[string]float64{"write": w2 - w1, "read": r2 - r1}[op]
		if seen < mb<<20 {
			t.Logf("of %d MB %.0f reached a disk: the directory of temporary files is in memory, or on another machine", mb, seen/(1<<20))
		}
	}
}

// TestHostTrafficAgreesWithTheKernel has a host of its own kind: a network namespace, whose traffic with another one is known.
func TestHostTrafficAgreesWithTheKernel(t *testing.T) {
	needRoot(t)
	hub, host, peer := settle(t, "traffic-hub"), settle(t, "traffic-host"), settle(t, "traffic-peer")
	hub.do(order{Op: "bridge", Name: "br0"})
	hub.do(order{Op: "up", Name: "br0"})
	for i, x := range []*dweller{host, peer} {
		hub.do(order{Op: "link", Name: fmt.Sprintf("v%d", i), Peer: x.pid})
		x.do(order{Op: "up", Name: "eth0", Addr: fmt.Sprintf("10.81.0.%d/24", i+1)})
		x.do(order{Op: "up", Name: "lo"})
		x.do(order{Op: "listen", Network: "tcp4", Addr: ":8000"})
	}
	// The kernel's own files, with the namespace's process in the place of the host's first.
	proc := t.TempDir()
	for link, to := range map[string]string{"1": fmt.Sprintf("/proc/%d", host.pid), "stat": "/proc/stat", "meminfo": "/proc/meminfo", "diskstats": "/proc/diskstats"} {
		if err := os.Symlink(to, filepath.Join(proc, link)); err != nil {
			t.Fatal(err)
		}
	}
	h := newHostStat(proc, "/sys")
	at := time.Now().UnixMilli()
	h.measure(at)
	was := host.count()
	host.do(order{Op: "stream", Network: "tcp4", Addr: "10.81.0.2:8000", N: 64})
	peer.do(order{Op: "stream", Network: "tcp4", Addr: "10.81.0.1:8000", N: 32})
	host.do(order{Op: "stream", Network: "tcp4", Addr: "127.0.0.1:8000", N: 16}) // leaves nobody's host
	// What is still in the peer's queue comes without being waited for.
	now := host.count()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if again := host.count(); again == now && now.NetRx-was.NetRx >= 32<<20 {
			break
		}
		now = host.count()
		time.Sleep(10 * time.Millisecond)
	}
	got := h.measure(at + 1000)
	within(t, "bytes sent by the host", got[topology.MetricNetTx], now.NetTx-was.NetTx, 2)
	within(t, "bytes received by the host", got[topology.MetricNetRx], now.NetRx-was.NetRx, 2)
	if got[topology.MetricNetTx] < 64<<20 || got[topology.MetricNetTx] > 75<<20 || got[topology.MetricNetRx] < 32<<20 || got[topology.MetricNetRx] > 40<<20 {
		t.Errorf("sent %.0f and received %.0f bytes: 64 and 32 MB, and what carries them", got[topology.MetricNetTx], got[topology.MetricNetRx])
	}
}

// TestHostProcessesAndFilesAgreeWithTheKernel starts a known number of processes, and opens a known number of files.
func TestHostProcessesAndFilesAgreeWithTheKernel(t *testing.T) {
	needRoot(t)
	p := newTestProbe(t, nil)
	listed := func() map[int]bool {
		t.Helper()
		dir, err := os.Open("/proc")
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		names, err := dir.Readdirnames(-1)
		if err != nil {
			t.Fatal(err)
		}
		list := map[int]bool{}
		for _, name := range names {
			if pid, err := strconv.Atoi(name); err == nil {
				list[pid] = true
			}
		}
		return list
	}
	handles := func() float64 {
		t.Helper()
		b, err := os.ReadFile("/proc/sys/fs/file-nr")
		if err != nil {
			t.Fatal(err)
		}
		v, _ := strconv.ParseFloat(strings.Fields(string(b))[0], 64)
		return v
	}
	deadline := time.Now().Add(patience)
	// As it is sent to monitors, for the whole host.
	measured := func() map[string]float64 {
		t.Helper()
		known := maps.Clone(p.table.byPid)
		before := listed()
		if err := p.table.scan(time.Now()); err != nil {
			t.Fatal(err)
		}
		after := listed()
		// Others open and close files meanwhile: where the kernel says nearly the same before and after, that is what the probe has read.
		var got map[string]float64
		var files float64
		for still := false; !still; {
			files = handles()
			got = p.host.measure(time.Now().UnixMilli())
			if still = math.Abs(handles()-files) <= files/100; !still && time.Now().After(deadline) {
				t.Fatal("the number of open files never stands still")
			}
		}
		got[topology.MetricPids] = float64(len(p.table.byPid))
		// Those that were there all the time are known, however many others come and go meanwhile, and none that had gone before.
		for pid := range before {
			if after[pid] && p.table.byPid[pid] == nil {
				t.Errorf("process %d of the host is not known", pid)
			}
		}
		unseen := 0
		for pid, proc := range p.table.byPid {
			if before[pid] || after[pid] {
				continue
			}
			unseen++ // came and went in between
			if known[pid] == proc {
				t.Errorf("process %d of the host is known, and has gone", pid)
			}
		}
		t.Logf("processes of the host: %.0f, of which %d came and went; %d before, %d after", got[topology.MetricPids], unseen, len(before), len(after))
		within(t, "open files of the host", got[topology.MetricFds], files, 2)
		return got
	}
	// A neighbour that opens or closes thousands at this very moment does not do so each time.
	for try := range 5 {
		was := measured()
		d := settle(t, fmt.Sprint("crowd ", try))
		d.confine()
		d.do(order{Op: "sleepers", N: 200})
		d.do(order{Op: "open", N: 10_000})
		now := measured()
		crowd := 0
		for _, proc := range p.table.byPid {
			if proc.ppid == d.pid {
				crowd++
			}
		}
		if crowd != 200 {
			t.Errorf("%d of 200 processes are known", crowd)
		}
		more := now[topology.MetricFds] - was[topology.MetricFds]
		if more >= 9_000 && more <= 13_000 {
			return
		}
		t.Logf("%.0f more open files, of which 10,000 are known", more)
	}
	t.Error("the open files are not among those of the host")
}
