package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// ioOps are Mesos' names of what the kernel counts, in v1 and v2.
var ioOps = map[string]mesosv1.CgroupInfo_Blkio_Operation{
	"Read": mesosv1.CgroupInfo_Blkio_READ, "Write": mesosv1.CgroupInfo_Blkio_WRITE, "Sync": mesosv1.CgroupInfo_Blkio_SYNC,
	"Async": mesosv1.CgroupInfo_Blkio_ASYNC, "Discard": mesosv1.CgroupInfo_Blkio_DISCARD, "Total": mesosv1.CgroupInfo_Blkio_TOTAL,
}

// usageIO counts block I/O, with the controller blkio (v1) or io (v2).
func (g *Group) usageIO(s *mesosv1.ResourceStatistics) {
	if !g.m.Has("blkio") {
		return
	}
	by := make(map[string]*mesosv1.CgroupInfo_Blkio_Throttling_Statistics)
	device := func(name string) *mesosv1.CgroupInfo_Blkio_Throttling_Statistics {
		if d := by[name]; d != nil {
			return d
		}
		major, minor, _ := strings.Cut(name, ":")
		ma, err1 := strconv.ParseUint(major, 10, 32)
		mi, err2 := strconv.ParseUint(minor, 10, 32)
		if err1 != nil || err2 != nil {
			return nil
		}
		d := &mesosv1.CgroupInfo_Blkio_Throttling_Statistics{Device: &mesosv1.Device_Number{MajorNumber: &ma, MinorNumber: &mi}}
		by[name] = d
		return d
	}
	value := func(op mesosv1.CgroupInfo_Blkio_Operation, text string) *mesosv1.CgroupInfo_Blkio_Value {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil
		}
		return &mesosv1.CgroupInfo_Blkio_Value{Op: &op, Value: &n}
	}
	if g.dir != "" {
		// "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6"
		for _, f := range lines(g.dir, "io.stat") {
			d := device(f[0])
			for _, kv := range f[1:] {
				k, v, _ := strings.Cut(kv, "=")
				bytes := strings.HasSuffix(k, "bytes")
				op, ok := map[string]mesosv1.CgroupInfo_Blkio_Operation{
					"rbytes": mesosv1.CgroupInfo_Blkio_READ, "rios": mesosv1.CgroupInfo_Blkio_READ, "wbytes": mesosv1.CgroupInfo_Blkio_WRITE,
					"wios": mesosv1.CgroupInfo_Blkio_WRITE, "dbytes": mesosv1.CgroupInfo_Blkio_DISCARD, "dios": mesosv1.CgroupInfo_Blkio_DISCARD,
				}[k]
				x := value(op, v)
				switch {
				case d == nil || !ok || x == nil:
				case bytes:
					d.IoServiceBytes = append(d.IoServiceBytes, x)
				default:
					d.IoServiced = append(d.IoServiced, x)
				}
			}
		}
	} else {
		// "8:0 Read 4096", and a line of the sum over all devices, which has no device.
		for file, bytes := range map[string]bool{"blkio.throttle.io_service_bytes": true, "blkio.throttle.io_serviced": false} {
			for _, f := range lines(g.dirs["blkio"], file) {
				op, ok := mesosv1.CgroupInfo_Blkio_Operation(0), false
				if len(f) == 3 {
					op, ok = ioOps[f[1]]
				}
				if !ok {
					continue
				}
				d, x := device(f[0]), value(op, f[2])
				switch {
				case d == nil || x == nil:
				case bytes:
					d.IoServiceBytes = append(d.IoServiceBytes, x)
				default:
					d.IoServiced = append(d.IoServiced, x)
				}
			}
		}
	}
	stats := &mesosv1.CgroupInfo_Blkio_Statistics{}
	names := make([]string, 0, len(by))
	for n := range by {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		stats.Throttling = append(stats.Throttling, by[n])
	}
	s.BlkioStatistics = stats
}

// lines gives the words of every line that has some.
func lines(dir, file string) [][]string {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil
	}
	var out [][]string
	for line := range strings.SplitSeq(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 0 {
			out = append(out, f)
		}
	}
	return out
}
