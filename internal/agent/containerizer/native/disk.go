package native

import (
	"context"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
)

// diskWatcher measures sandboxes one after the other, so that the host's disks see one reader however many containers
// there are.
type diskWatcher struct{ c *Containerizer }

func newDiskWatcher(c *Containerizer) *diskWatcher { return &diskWatcher{c} }

func (d *diskWatcher) run(ctx context.Context) {
	// Without that flag a file system with quotas needs nobody to watch it.
	if !d.c.iso.disk && (d.c.iso.quota == nil || !d.c.enforcesQuota() || !d.c.cfg.KillOverQuota) {
		return
	}
	t := time.NewTicker(d.c.cfg.DiskInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			d.round(ctx)
		}
	}
}

func (d *diskWatcher) round(ctx context.Context) {
	c := d.c
	c.mu.Lock()
	var cts []*container
	for id, ct := range c.containers {
		// A nested container's sandbox lies in its parent's and counts there.
		if _, nested := containerizer.Parent(id); !nested && ct.phase == running {
			cts = append(cts, ct)
		}
	}
	c.mu.Unlock()
	for _, ct := range cts {
		if c.iso.quota != nil {
			c.watchQuota(ct)
			continue
		}
		used, err := diskUsage(ctx, ct.cfg.Directory)
		if err != nil {
			continue // stopping, or the sandbox has just gone
		}
		used += c.scratchUsage(ctx, ct)
		c.mu.Lock()
		ct.diskUsed = used
		quota := diskQuota(ct.cfg.Resources)
		c.mu.Unlock()
		if c.cfg.EnforceDiskQuota && quota > 0 && used > quota {
			c.limitDisk(ct, used, quota)
		}
	}
}

// diskQuota is the disk that a container was given for its sandbox, in bytes: not that of persistent volumes.
func diskQuota(res []*mesosv1.Resource) uint64 {
	var mb float64
	for _, r := range res {
		if r.GetName() == "disk" && r.GetDisk().GetPersistence() == nil && r.GetDisk().GetSource() == nil {
			mb += r.GetScalar().GetValue()
		}
	}
	return megabytes(mb)
}

// diskUsage adds up what is allocated below dir on dir's own file system, hard links once.
func diskUsage(ctx context.Context, dir string) (uint64, error) {
	type inode struct{ dev, ino uint64 }
	linked := make(map[inode]bool)
	var total uint64
	var dev uint64
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if p == dir {
				return err
			}
			return nil // removed meanwhile
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if p == dir {
			dev = st.Dev
		}
		if st.Dev != dev {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if st.Nlink > 1 && !e.IsDir() {
			k := inode{st.Dev, st.Ino}
			if linked[k] {
				return nil
			}
			linked[k] = true
		}
		total += uint64(st.Blocks) * 512
		return nil
	})
	return total, err
}

// scratchUsage is what a container and those that are nested in it have written into their images.
func (c *Containerizer) scratchUsage(ctx context.Context, ct *container) (total uint64) {
	var dirs []string
	c.mu.Lock()
	for id, n := range c.containers {
		if len(n.layers) > 0 && n.phase != gone && (n == ct || strings.HasPrefix(string(id), string(ct.cfg.ID)+".")) {
			dirs = append(dirs, c.scratch(n, ""))
		}
	}
	c.mu.Unlock()
	for _, d := range dirs {
		if used, err := diskUsage(ctx, d); err == nil { // else it has just gone
			total += used
		}
	}
	return total
}
