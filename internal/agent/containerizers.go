package agent

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/native"
	"github.com/orchestrator/orchestrator/internal/agent/execlink"
	"github.com/orchestrator/orchestrator/internal/agent/fetcher"
	"github.com/orchestrator/orchestrator/internal/agent/network"
)

// openContainerizers makes the containerizers of --containerizers, and opens the socket that their helpers speak on.
func (a *Agent) openContainerizers() error {
	c := &a.cfg
	cache := c.FetcherCacheDir
	if cache == "" {
		cache = filepath.Join(c.WorkDir, "fetch")
	}
	fetch, err := fetcher.New(
		fetcher.Config{FrameworksHome: string(c.FrameworksHome), CacheDir: cache, CacheBytes: int64(c.FetcherCacheSize), StallTimeout: c.FetcherStall},
		fetcher.Deps{Log: a.log, Registry: a.deps.Metrics.Registerer()},
	)
	if err != nil {
		return fmt.Errorf("open the fetcher: %w", err)
	}
	host, err := c.confinement()
	if err != nil {
		return err
	}
	ports, err := c.ports()
	if err != nil {
		return err
	}
	projects, err := c.projects()
	if err != nil {
		return err
	}
	users, err := c.userRange()
	if err != nil {
		return err
	}
	gpus, err := c.gpus()
	if err != nil {
		return err
	}
	policy := c.policy()
	runtime, err := c.ociRuntime()
	if err != nil {
		return err
	}
	if a.images, err = a.openImages(); err != nil {
		return err
	}
	deps := native.Deps{Log: a.log, Registry: a.deps.Metrics.Registerer(), Fetcher: fetch, HostVolume: policy.HostVolume}
	if a.images != nil {
		deps.Images = a.images
		a.extra = append(a.extra, func(ctx context.Context) error { a.images.Run(ctx); return nil })
	}
	socket := filepath.Join(c.RuntimeDir, "helpers.sock")
	n, err := native.New(
		native.Config{
			WorkDir: c.WorkDir, RuntimeDir: c.RuntimeDir, LinkSocket: socket, Isolation: c.Isolation,
			Cgroups: cgroup.Config{Root: c.CgroupsRoot, EnableCFS: c.CgroupsCFS, LimitSwap: c.CgroupsSwap, PIDs: c.PidsLimit, CPUs: c.CPUSetCPUs, Mems: c.CPUSetMems},
			Confine: host, SeccompDir: string(c.SeccompDir), Networks: c.networks(), Ports: ports, Users: users, GPUs: gpus,
			NoSwitchUser: !c.SwitchUser, LogMaxBytes: int64(c.LogMax), LogKeep: c.LogKeep, RecoveryTimeout: c.RecoveryTimeout,
			ShutdownGrace: c.ShutdownGrace, EnforceDiskQuota: c.EnforceDiskQuota, DiskInterval: c.DiskInterval, OCIRuntime: runtime,
			Projects: projects, KillOverQuota: c.XFSKill,
		},
		deps,
	)
	if err != nil {
		return fmt.Errorf("open the mesos containerizer: %w", err)
	}
	a.closers = append(a.closers, n.Close)
	boxes, known, err := a.compose(n, n.Token, fetch, socket)
	if err != nil {
		return err
	}
	if a.helpers, err = execlink.New(execlink.Config{Path: socket}, execlink.Deps{
		Log: a.log, Handler: helperHandler{a}, Token: known, NotFound: containerizer.ErrNotFound,
	}); err != nil {
		return fmt.Errorf("listen for helpers: %w", err)
	}
	a.deps.Containerizer = boxes
	a.extra = append(a.extra, func(ctx context.Context) error { return a.helpers.Run(ctx) })
	for name, why := range a.isolationOf(n) {
		a.log.Info("isolation is off", "isolation", name, "reason", why)
	}
	return nil
}

// networks are the settings of container networks; nil: there are none.
func (c *Config) networks() *network.Config {
	if c.CNIConfigDir == "" {
		return nil
	}
	state := c.RuntimeDir
	if c.CNIRootPersist {
		state = c.WorkDir
	}
	return &network.Config{
		ConfigDir: string(c.CNIConfigDir), PluginDirs: filepath.SplitList(c.CNIPluginsDir), StateDir: filepath.Join(state, "network"), Durable: c.CNIRootPersist,
		Timeout: c.CNITimeout,
	}
}

// isolationOf says what containers here do not get, and why.
func (a *Agent) isolationOf(c containerizer.Containerizer) map[string]string {
	if p, ok := c.(policed); ok {
		c = p.Containerizer
	}
	if x, ok := c.(interface {
		Isolation() ([]string, map[string]string)
	}); ok {
		_, off := x.Isolation()
		return off
	}
	return nil
}
