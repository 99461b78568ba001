package native

import (
	"errors"
	"fmt"
	"os"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/projectquota"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// The isolator disk/xfs. A root container's sandbox is a project of the file system's, and so is what it and those that are nested in
// it write into their images; every persistent volume is one of its own. The directories bear the numbers and the kernel keeps the
// accounts: there is nothing to be recovered, and a number is free again when what bore it has been deleted.

// beyond is how much more than its quota a container can write that ends for it, as in Mesos: it must be seen to have done so.
const beyond = 10 << 20

// enforcesQuota reports whether quotas limit; otherwise they only measure.
func (c *Containerizer) enforcesQuota() bool { return c.iso.quota != nil && c.cfg.EnforceDiskQuota }

// hardLimit is what the file system is told of a quota; 0: no limit.
func (c *Containerizer) hardLimit(quota uint64) uint64 {
	switch {
	case quota == 0 || quota > 1<<62 || !c.enforcesQuota():
		return 0
	case c.cfg.KillOverQuota:
		return quota + beyond
	}
	return quota
}

// takeQuota makes the sandbox of a root container a project, before anything is in it.
func (c *Containerizer) takeQuota(ct *container) error {
	if _, nested := containerizer.Parent(ct.cfg.ID); nested || c.iso.quota == nil {
		return nil
	}
	if _, err := c.iso.quota.Own(ct.cfg.Directory, c.hardLimit(diskQuota(ct.cfg.Resources))); err != nil {
		return fmt.Errorf("the sandbox's disk quota: %w", err)
	}
	return nil
}

// shareQuota puts a directory on the account of a container's sandbox.
func (c *Containerizer) shareQuota(ct *container, dir string) error {
	if c.iso.quota == nil {
		return nil
	}
	sandbox := ct.cfg.Directory
	if root := ids.Container(parts(ct.cfg.ID)[0]); root != ct.cfg.ID {
		up, err := c.find(root)
		if err != nil {
			return err
		}
		sandbox = up.cfg.Directory
	}
	id, err := projectquota.Project(sandbox)
	if err == nil && id != 0 {
		err = c.iso.quota.Assign(dir, id)
	}
	if err != nil {
		return fmt.Errorf("the disk quota of what is written into the image: %w", err)
	}
	return nil
}

// isQuotaVolume: the persistent volume lies in a directory of its own that can be limited. A MOUNT disk is a file system of its own.
func (c *Containerizer) isQuotaVolume(r *mesosv1.Resource) bool {
	return c.iso.quota != nil && r.GetDisk().GetPersistence() != nil && r.GetDisk().GetSource().GetType() != mesosv1.Resource_DiskInfo_Source_MOUNT
}

// limitVolumes makes each persistent volume a project as large as its resource says.
func (c *Containerizer) limitVolumes(res []*mesosv1.Resource, who *credentials) error {
	for _, r := range res {
		if !c.isQuotaVolume(r) {
			continue
		}
		dir := c.persistentPath(r)
		err := makeSource(spec.Mount{Source: dir}, who)
		if err == nil && !c.iso.quota.Holds(dir) {
			err = fmt.Errorf("%s is not on the file system of the work directory: quotas can't be given there", dir)
		}
		if err == nil {
			_, err = c.iso.quota.Own(dir, c.hardLimit(megabytes(r.GetScalar().GetValue())))
		}
		if err != nil {
			return fmt.Errorf("disk quota of persistent volume %q: %w", r.GetDisk().GetPersistence().GetId(), err)
		}
	}
	return nil
}

// renewQuota follows a change of a running container's resources.
func (c *Containerizer) renewQuota(ct *container, res []*mesosv1.Resource) error {
	if c.iso.quota == nil {
		return nil
	}
	who, err := c.lookUp(ct.cfg.User)
	if err != nil {
		return err
	}
	if err := c.limitVolumes(res, who); err != nil {
		return err
	}
	return c.takeQuota(ct)
}

// quotaUsage adds what the file system says to a container's statistics. What can't be read is left out.
func (c *Containerizer) quotaUsage(ct *container, res []*mesosv1.Resource, s *mesosv1.ResourceStatistics) {
	if used, err := c.projectUsage(ct.cfg.Directory); err == nil {
		s.DiskUsedBytes = &used
		if quota := diskQuota(res); quota > 0 {
			s.DiskLimitBytes = &quota
		}
	}
	for _, r := range res {
		if !c.isQuotaVolume(r) {
			continue
		}
		if used, err := c.projectUsage(c.persistentPath(r)); err == nil {
			s.DiskStatistics = append(s.DiskStatistics, &mesosv1.DiskStatistics{
				Source: r.GetDisk().GetSource(), Persistence: r.GetDisk().GetPersistence(), UsedBytes: &used, LimitBytes: ptr(megabytes(r.GetScalar().GetValue())),
			})
		}
	}
}

// errNoProject says that a directory is nobody's, as one of before the isolator was switched on.
var errNoProject = errors.New("the directory belongs to no project")

func (c *Containerizer) projectUsage(dir string) (uint64, error) {
	id, err := projectquota.Project(dir)
	if err != nil {
		return 0, err
	}
	if id == 0 {
		return 0, errNoProject
	}
	used, _, err := c.iso.quota.Usage(id)
	return used, err
}

// watchQuota ends a container that uses more disk than it has.
func (c *Containerizer) watchQuota(ct *container) {
	c.mu.Lock()
	res := ct.cfg.Resources
	c.mu.Unlock()
	over := func(dir string, quota uint64) bool {
		used, err := c.projectUsage(dir)
		switch {
		case err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, errNoProject):
			c.log.Warn("disk usage can't be read", "container_id", ct.cfg.ID, "directory", dir, "error", err)
		case err == nil && quota > 0 && used > quota:
			c.limitDisk(ct, used, quota)
			return true
		}
		return false
	}
	if over(ct.cfg.Directory, diskQuota(res)) {
		return
	}
	for _, r := range res {
		if c.isQuotaVolume(r) && over(c.persistentPath(r), megabytes(r.GetScalar().GetValue())) {
			return
		}
	}
}
