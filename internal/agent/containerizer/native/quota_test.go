package native

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/image/imagetest"
	"github.com/orchestrator/orchestrator/internal/agent/projectquota"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// withQuota chooses the isolator disk/xfs. The tests' directory must be on a file system with quotas: package vmtest runs them so.
func withQuota(t *testing.T, kill bool) func(*Config) {
	t.Helper()
	realpart.Root(t)
	ranges := []projectquota.Range{{First: 5000, Last: 5015}}
	s, err := projectquota.Open(t.TempDir(), ranges)
	if err != nil {
		realpart.OtherKernel(t, "%v", err)
	}
	s.Close()
	return func(c *Config) {
		c.Isolation = "cgroups/cpu,cgroups/mem,namespaces/pid,filesystem/linux,disk/xfs"
		c.Projects, c.EnforceDiskQuota, c.KillOverQuota, c.DiskInterval = ranges, true, kill, 20*time.Millisecond
	}
}

func volumeOf(id string, mb float64) *mesosv1.Resource {
	r := scalar("disk", mb)
	r.Reservations = []*mesosv1.Resource_ReservationInfo{{Role: ptr("r")}}
	r.Disk = &mesosv1.Resource_DiskInfo{
		Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: ptr(id)},
		Volume:      &mesosv1.Volume{ContainerPath: ptr("data"), Mode: mesosv1.Volume_RW.Enum()},
	}
	return r
}

// TestQuota: a container and its volume write as much as they have and no more, are measured, and keep their accounts over a
// restart of the agent.
func TestQuota(t *testing.T) {
	quota := withQuota(t, false)
	h := newHost(t)
	d := h.start(nil, quota)
	cfg := d.plain("q", "head -c 9000000 /dev/zero >data/big || echo the volume is full; head -c 9000000 /dev/zero >big; sleep 1000")
	cfg.User = "nobody"
	if err := os.Chown(cfg.Directory, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	cfg.Resources = append(cfg.Resources, scalar("disk", 2), scalar("disk", 1), volumeOf("v", 1))
	d.launch(cfg)
	eventually(t, "the sandbox is full", func() bool {
		u, err := d.Usage("q")
		return err == nil && u.GetDiskUsedBytes() > 3<<20-128<<10
	})
	if out := read(t, cfg.Directory, "stdout"); out != "the volume is full\n" {
		t.Errorf("stdout %q", out)
	}
	check := func(d *daemon, limit uint64) {
		t.Helper()
		u, err := d.Usage("q")
		if err != nil || u.GetDiskLimitBytes() != limit || u.GetDiskUsedBytes() < 2<<20 || u.GetDiskUsedBytes() > 3<<20 {
			t.Errorf("usage %v %v", u, err)
		}
		if s := u.GetDiskStatistics(); len(s) != 1 || s[0].GetPersistence().GetId() != "v" || s[0].GetLimitBytes() != 1<<20 || s[0].GetUsedBytes() < 900<<10 || s[0].GetUsedBytes() > 1<<20 {
			t.Errorf("volumes %v", s)
		}
	}
	check(d, 3<<20)
	id, err := projectquota.Project(cfg.Directory)
	if err != nil || id < 5000 || id > 5015 {
		t.Fatalf("project %d, %v", id, err)
	}
	d.stop()
	d = h.start(nil, quota)
	defer d.end()
	check(d, 3<<20)
	// More is given while it runs.
	if err := d.Update(t.Context(), "q", append(cfg.Resources[:2:2], scalar("disk", 5), volumeOf("v", 1)), nil); err != nil {
		t.Fatal(err)
	}
	check(d, 5<<20)
	// A second container has a project of its own; the first one's is free when its sandbox has been deleted, and not before.
	other := d.plain("other", "sleep 1000")
	d.launch(other)
	second, err := projectquota.Project(other.Directory)
	if err != nil || second == id || second == 0 {
		t.Errorf("the second project is %d, the first %d, %v", second, id, err)
	}
	if err := d.Destroy(t.Context(), "q"); err != nil {
		t.Fatal(err)
	}
	d.wait("q")
	if used, _, err := d.iso.quota.Usage(id); err != nil || used == 0 {
		t.Errorf("an ended container's sandbox uses %d, %v", used, err)
	}
	if err := os.RemoveAll(cfg.Directory); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a deleted sandbox uses nothing", func() bool {
		used, _, err := d.iso.quota.Usage(id)
		return err == nil && used == 0
	})
}

// TestQuotaOfImage: what is written into an image, also by a nested container, is on the account of the sandbox.
func TestQuotaOfImage(t *testing.T) {
	h := newHost(t)
	d := h.start(nil, withQuota(t, false))
	defer d.end()
	r := imagetest.Serve(t)
	cfg := d.plain("img", "head -c 9000000 /dev/zero >/big || echo full; sleep 1000")
	cfg.Container = inImage(boxImage(t, r, "box", v1.Config{}))
	cfg.Resources = append(cfg.Resources, scalar("disk", 2))
	d.launch(cfg)
	eventually(t, "the root is full", func() bool {
		u, err := d.Usage("img")
		return err == nil && u.GetDiskUsedBytes() > 2<<20-128<<10
	})
	up := filepath.Join(d.scratch(&container{cfg: cfg}, ""), "root")
	own, err := projectquota.Project(cfg.Directory)
	if err != nil || own == 0 {
		t.Fatalf("project %d, %v", own, err)
	}
	if got, err := projectquota.Project(up); err != nil || got != own {
		t.Errorf("what is written into the image belongs to %d, %v; the sandbox to %d", got, err, own)
	}
	if used, err := diskUsage(t.Context(), up); err != nil || used > 2<<20 || used < 1<<20 {
		t.Errorf("%d bytes were written into the image, %v", used, err)
	}
}

// TestQuotaKills: with --xfs_kill_containers a container that uses more than it has ends, and its status says why.
func TestQuotaKills(t *testing.T) {
	d := newHost(t).start(nil, withQuota(t, true))
	defer d.end()
	endsForItsDisk(d)
}

// TestQuotaRefused: where the file system keeps no accounts the agent says so, and what would give some.
func TestQuotaRefused(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	cfg := Config{WorkDir: "/proc/self", RuntimeDir: filepath.Join(t.TempDir(), "run"), Helper: helperPath, Isolation: "disk/xfs", Projects: []projectquota.Range{{First: 1, Last: 2}}}
	if _, err := New(cfg, Deps{}); err == nil || !strings.Contains(err.Error(), "disk/xfs") || !strings.Contains(err.Error(), "prjquota") {
		t.Errorf("no project quotas: %v", err)
	}
	cfg.Isolation = "disk/xfs,disk/du"
	if _, err := New(cfg, Deps{}); err == nil || !strings.Contains(err.Error(), "name one of them") {
		t.Errorf("two isolators of disks: %v", err)
	}
}
