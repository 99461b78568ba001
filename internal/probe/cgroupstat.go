package probe

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// cgroupRoots says where the controllers' hierarchies are mounted: version 1, version 2, or both.
type cgroupRoots struct {
	v2 string            // "" when there is none
	v1 map[string]string // controller to mount point
}

// findCgroupRoots reads the mount table.
func findCgroupRoots(procRoot string) (cgroupRoots, error) {
	r := cgroupRoots{v1: map[string]string{}}
	b, err := os.ReadFile(filepath.Join(procRoot, "self/mounts"))
	if err != nil {
		return r, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		switch f[2] {
		case "cgroup2":
			if r.v2 == "" {
				r.v2 = f[1]
			}
		case "cgroup":
			for opt := range strings.SplitSeq(f[3], ",") {
				switch opt {
				case "cpu", "cpuacct", "memory", "blkio", "pids":
					if r.v1[opt] == "" {
						r.v1[opt] = f[1]
					}
				}
			}
		}
	}
	return r, nil
}

// cgroupSample is one reading of a container's cgroups. Counters grow; a negative value means: not known.
type cgroupSample struct {
	at                  int64 // ms
	cpuNanos            float64
	periods, throttled  float64
	mem, memLimit       float64
	diskRead, diskWrite float64
	pids                float64
	oomKills            float64
	netRx, netTx        float64
	cpuLimit            float64 // cores, 0: none
}

// measure reads what the container's cgroups say.
func (r cgroupRoots) measure(paths map[string]string, ref containerRef) cgroupSample {
	s := cgroupSample{cpuNanos: -1, mem: -1, pids: -1, diskRead: -1, diskWrite: -1, periods: -1, oomKills: -1, netRx: -1, netTx: -1}
	if dir, ok := r.dirV1("cpuacct", paths, ref); ok {
		if v, ok := readNumber(dir + "/cpuacct.usage"); ok {
			s.cpuNanos = v
		}
	}
	if dir, ok := r.dirV1("cpu", paths, ref); ok {
		stat := readKeys(dir + "/cpu.stat")
		if v, ok := stat["nr_periods"]; ok {
			s.periods, s.throttled = v, stat["nr_throttled"]
		}
		if quota, ok := readNumber(dir + "/cpu.cfs_quota_us"); ok && quota > 0 {
			if period, ok := readNumber(dir + "/cpu.cfs_period_us"); ok && period > 0 {
				s.cpuLimit = quota / period
			}
		}
	}
	if dir, ok := r.dirV1("memory", paths, ref); ok {
		if v, ok := readNumber(dir + "/memory.usage_in_bytes"); ok {
			stat := readKeys(dir + "/memory.stat")
			s.mem = max(0, v-stat["total_inactive_file"])
			if limit, ok := readNumber(dir + "/memory.limit_in_bytes"); ok && limit < 1<<60 {
				s.memLimit = limit
			}
			s.oomKills = readKeys(dir + "/memory.oom_control")["oom_kill"]
		}
	}
	if dir, ok := r.dirV1("blkio", paths, ref); ok {
		if s.diskRead, s.diskWrite = readBlkio(dir + "/blkio.throttle.io_service_bytes_recursive"); s.diskRead < 0 {
			s.diskRead, s.diskWrite = readBlkio(dir + "/blkio.throttle.io_service_bytes")
		}
	}
	if dir, ok := r.dirV1("pids", paths, ref); ok {
		if v, ok := readNumber(dir + "/pids.current"); ok {
			s.pids = v
		}
	}
	if r.v2 == "" || paths[""] == "" || paths[""] == "/" {
		return s
	}
	r.measureV2(filepath.Join(r.v2, cutPath(paths[""], ref)), &s)
	return s
}

// measureV2 fills in what version 2 knows and version 1 did not say.
func (r cgroupRoots) measureV2(dir string, s *cgroupSample) {
	stat := readKeys(dir + "/cpu.stat")
	if v, ok := stat["usage_usec"]; ok && s.cpuNanos < 0 {
		s.cpuNanos = v * 1000
	}
	if v, ok := stat["nr_periods"]; ok && s.periods < 0 {
		s.periods, s.throttled = v, stat["nr_throttled"]
	}
	if b, err := readSmall(dir + "/cpu.max"); err == nil && s.cpuLimit == 0 {
		if f := strings.Fields(string(b)); len(f) == 2 {
			quota, err1 := strconv.ParseFloat(f[0], 64)
			period, err2 := strconv.ParseFloat(f[1], 64)
			if err1 == nil && err2 == nil && period > 0 {
				s.cpuLimit = quota / period
			}
		}
	}
	if v, ok := readNumber(dir + "/memory.current"); ok && s.mem < 0 {
		s.mem = max(0, v-readKeys(dir + "/memory.stat")["inactive_file"])
		if limit, ok := readNumber(dir + "/memory.max"); ok {
			s.memLimit = limit
		}
		s.oomKills = readKeys(dir + "/memory.events")["oom_kill"]
	}
	if v, ok := readNumber(dir + "/pids.current"); ok && s.pids < 0 {
		s.pids = v
	}
	if b, err := readSmall(dir + "/io.stat"); err == nil && s.diskRead < 0 {
		s.diskRead, s.diskWrite = 0, 0
		for f := range strings.FieldsSeq(string(b)) {
			key, value, _ := strings.Cut(f, "=")
			n, _ := strconv.ParseFloat(value, 64)
			switch key {
			case "rbytes":
				s.diskRead += n
			case "wbytes":
				s.diskWrite += n
			}
		}
	}
}

func (r cgroupRoots) dirV1(controller string, paths map[string]string, ref containerRef) (string, bool) {
	mount, path := r.v1[controller], paths[controller]
	if mount == "" || path == "" || path == "/" {
		return "", false
	}
	return filepath.Join(mount, cutPath(path, ref)), true
}

func readNumber(path string) (float64, bool) {
	b, err := readSmall(path)
	if err != nil {
		return 0, false
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
	return v, err == nil
}

// readKeys reads a file of lines "key number".
func readKeys(path string) map[string]float64 {
	b, err := readSmall(path)
	if err != nil {
		return nil
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(strings.TrimSpace(value), 64); ok && err == nil {
			out[key] = v
		}
	}
	return out
}

// readBlkio sums "8:0 Read 4096" over the devices. Without a line for any device it does not know: kernels since 6.x count only
// where somebody has set a limit, and say "Total 0" elsewhere whatever is read and written.
func readBlkio(path string) (read, write float64) {
	b, err := readSmall(path)
	if err != nil {
		return -1, -1
	}
	known := false
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		known = true
		n, _ := strconv.ParseFloat(f[2], 64)
		switch f[1] {
		case "Read":
			read += n
		case "Write":
			write += n
		}
	}
	if !known {
		return -1, -1
	}
	return read, write
}

// readNetDev sums the bytes of the interfaces that keep accepts, from a file like /proc/net/dev.
func readNetDev(path string, keep func(name string) bool) (rx, tx float64, ok bool) {
	b, err := readSmall(path)
	if err != nil {
		return -1, -1, false
	}
	for line := range strings.Lines(string(b)) {
		name, rest, found := strings.Cut(line, ":")
		if !found || !keep(strings.TrimSpace(name)) {
			continue
		}
		f := strings.Fields(rest)
		if len(f) < 9 {
			continue
		}
		r, _ := strconv.ParseFloat(f[0], 64)
		t, _ := strconv.ParseFloat(f[8], 64)
		rx, tx = rx+r, tx+t
	}
	return rx, tx, true
}
