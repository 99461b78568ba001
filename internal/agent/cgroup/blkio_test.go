package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// TestUsageIO reads what both versions of control groups say of block I/O, from files as a kernel writes them.
func TestUsageIO(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"blkio.throttle.io_service_bytes": "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 1\n8:0 Async 2\n8:0 Discard 3\n8:0 Total 12288\n254:16 Read 1\nTotal 12289\n",
		"blkio.throttle.io_serviced":      "8:0 Read 1\n8:0 Write 2\n",
		"io.stat":                         "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=3 dios=4\n\n253:0 \n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cfg := Config{Controllers: []string{"blkio"}}
	for name, c := range map[string]struct {
		group *Group
		want  string
	}{
		"v1": {
			&Group{m: &Manager{host: Host{V1: map[string]string{"blkio": dir}}, cfg: cfg}, dirs: map[string]string{"blkio": dir}},
			"254:16 bytes READ=1 ops | 8:0 bytes READ=4096 WRITE=8192 SYNC=1 ASYNC=2 DISCARD=3 TOTAL=12288 ops READ=1 WRITE=2",
		},
		"v2": {
			&Group{m: &Manager{host: Host{V2: dir, V2Controllers: []string{"io"}}, cfg: cfg}, dir: dir},
			"253:0 bytes ops | 8:0 bytes READ=4096 WRITE=8192 DISCARD=3 ops READ=1 WRITE=2 DISCARD=4",
		},
		"not asked for": {&Group{m: &Manager{host: Host{V2: dir, V2Controllers: []string{"io"}}}, dir: dir}, ""},
	} {
		s := &mesosv1.ResourceStatistics{}
		c.group.usageIO(s)
		var devices []string
		for _, d := range s.GetBlkioStatistics().GetThrottling() {
			values := func(list []*mesosv1.CgroupInfo_Blkio_Value) (out string) {
				for _, v := range list {
					out += " " + v.GetOp().String() + "=" + number(v.GetValue())
				}
				return out
			}
			devices = append(devices, number(d.GetDevice().GetMajorNumber())+":"+number(d.GetDevice().GetMinorNumber())+" bytes"+values(d.IoServiceBytes)+" ops"+values(d.IoServiced))
		}
		if got := strings.Join(devices, " | "); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }
