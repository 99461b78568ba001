package probe

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/topology"
)

// hostStat measures the host. It is used by one goroutine.
type hostStat struct {
	proc, sys  string
	last       hostSample
	cores      int
	interfaces map[string]bool // whether an interface's traffic leaves the host
}

type hostSample struct {
	at              int64
	busy, total     float64 // clock ticks
	rx, tx          float64
	read, write     float64
	haveNet, haveIO bool
}

func newHostStat(proc, sys string) *hostStat {
	return &hostStat{proc: proc, sys: sys, cores: runtime.NumCPU(), interfaces: map[string]bool{}}
}

// measure gives the host's metrics; rates need an earlier call.
func (h *hostStat) measure(at int64) map[string]float64 {
	out := map[string]float64{}
	s := hostSample{at: at}
	if b, err := readSmall(h.proc + "/stat"); err == nil {
		cores := 0
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "cpu ") {
				for i, f := range strings.Fields(line)[1:] {
					n, _ := strconv.ParseFloat(f, 64)
					if i >= 8 { // guest time is in user time already
						break
					}
					s.total += n
					if i != 3 && i != 4 { // idle, iowait
						s.busy += n
					}
				}
			} else if strings.HasPrefix(line, "cpu") {
				cores++
			}
		}
		if cores > 0 {
			h.cores = cores
		}
	}
	if b, err := readSmall(h.proc + "/meminfo"); err == nil {
		mem := map[string]float64{}
		for line := range strings.Lines(string(b)) {
			key, rest, _ := strings.Cut(line, ":")
			f := strings.Fields(rest)
			if len(f) > 0 {
				n, _ := strconv.ParseFloat(f[0], 64)
				mem[key] = n * 1024
			}
		}
		if total := mem["MemTotal"]; total > 0 {
			out[topology.MetricMem] = total - mem["MemAvailable"]
			out[topology.MetricMemUsed] = 100 * (total - mem["MemAvailable"]) / total
		}
	}
	if b, err := readSmall(h.proc + "/loadavg"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 0 {
			if v, err := strconv.ParseFloat(f[0], 64); err == nil {
				out[topology.MetricLoad1] = v
			}
		}
	}
	if b, err := readSmall(h.proc + "/sys/fs/file-nr"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 0 {
			if v, err := strconv.ParseFloat(f[0], 64); err == nil {
				out[topology.MetricFds] = v
			}
		}
	}
	var fs unix.Statfs_t
	if unix.Statfs("/", &fs) == nil && fs.Blocks > 0 {
		out[topology.MetricDiskUsed] = 100 * float64(fs.Blocks-fs.Bfree) / float64(fs.Blocks-fs.Bfree+fs.Bavail)
	}
	// Of the host's own network, which a probe in a container of its own does not share.
	if s.rx, s.tx, s.haveNet = readNetDev(h.proc+"/1/net/dev", h.leaves); !s.haveNet {
		s.rx, s.tx, s.haveNet = readNetDev(h.proc+"/net/dev", h.leaves)
	}
	s.read, s.write, s.haveIO = h.disks()
	if l := h.last; l.at > 0 && at > l.at {
		seconds := float64(at-l.at) / 1000
		if s.total > l.total {
			busy := max(0, s.busy-l.busy) / (s.total - l.total)
			out[topology.MetricCPU] = 100 * busy
			out[topology.MetricCPUCores] = busy * float64(h.cores)
		}
		if s.haveNet && l.haveNet {
			out[topology.MetricNetRx], out[topology.MetricNetTx] = max(0, s.rx-l.rx)/seconds, max(0, s.tx-l.tx)/seconds
		}
		if s.haveIO && l.haveIO {
			out[topology.MetricDiskRead], out[topology.MetricDiskWrite] = max(0, s.read-l.read)/seconds, max(0, s.write-l.write)/seconds
		}
	}
	h.last = s
	return out
}

// leaves reports whether an interface carries traffic out of the host: those of hardware do; when the name of none tells,
// everything but loopback and the ends of containers' links.
func (h *hostStat) leaves(name string) bool {
	if v, ok := h.interfaces[name]; ok {
		return v
	}
	_, err := os.Stat(filepath.Join(h.sys, "class/net", name, "device"))
	v := err == nil
	if !v {
		v = name != "lo"
		for _, p := range []string{"veth", "docker", "br-", "virbr", "cni", "flannel", "cali", "lxc", "dummy", "tunl", "ifb"} {
			v = v && !strings.HasPrefix(name, p)
		}
	}
	if len(h.interfaces) > 4096 {
		clear(h.interfaces)
	}
	h.interfaces[name] = v
	return v
}

// disks sums what whole disks have read and written. What is made of other disks (md, device mapper, bcache) or of memory would
// count the same bytes twice, or none that a disk ever saw.
func (h *hostStat) disks() (read, write float64, ok bool) {
	b, err := readSmall(h.proc + "/diskstats")
	if err != nil {
		return 0, 0, false
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 10 || strings.HasPrefix(f[2], "loop") || strings.HasPrefix(f[2], "ram") || strings.HasPrefix(f[2], "zram") || strings.HasPrefix(f[2], "dm-") || strings.HasPrefix(f[2], "md") {
			continue
		}
		if _, err := os.Stat(filepath.Join(h.sys, "block", f[2])); err != nil {
			continue // a partition
		}
		if below, err := os.ReadDir(filepath.Join(h.sys, "block", f[2], "slaves")); err == nil && len(below) > 0 {
			continue
		}
		r, _ := strconv.ParseFloat(f[5], 64)
		w, _ := strconv.ParseFloat(f[9], 64)
		read, write = read+r*512, write+w*512
	}
	return read, write, true
}
