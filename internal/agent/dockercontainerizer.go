package agent

import (
	"fmt"
	"slices"

	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/composing"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/docker"
	"github.com/orchestrator/orchestrator/internal/agent/execlink"
	"github.com/orchestrator/orchestrator/internal/agent/fetcher"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// tokens says who a helper is: execlink's question.
type tokens func(ids.Container) (execlink.Peer, string, bool)

// compose adds the docker containerizer, when it is asked for, to the native one, in the order of --containerizers.
func (a *Agent) compose(native containerizer.Containerizer, known tokens, fetch *fetcher.Fetcher, socket string) (containerizer.Containerizer, tokens, error) {
	c := &a.cfg
	if !slices.Contains(c.Containerizers, "docker") {
		return native, known, nil
	}
	auth, err := c.authConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("--docker_config: %w", err)
	}
	gc, err := c.dockerImages()
	if err != nil {
		return nil, nil, fmt.Errorf("--image_gc_config: %w", err)
	}
	policy := c.policy()
	d, err := docker.New(docker.Config{
		Socket: c.DockerSocket, WorkDir: c.WorkDir, RuntimeDir: c.RuntimeDir, LinkSocket: socket, RemoveDelay: c.DockerRemove,
		StopTimeout: c.DockerStop, KeepOrphans: !c.DockerOrphans, Auth: auth,
		Cgroups:      cgroup.Config{Root: c.CgroupsRoot, EnableCFS: c.CgroupsCFS, LimitSwap: c.CgroupsSwap, PIDs: c.PidsLimit},
		NoSwitchUser: !c.SwitchUser, LogMaxBytes: int64(c.LogMax), LogKeep: c.LogKeep, RecoveryTimeout: c.RecoveryTimeout,
		ShutdownGrace: c.ShutdownGrace, PullStall: c.FetcherStall, Images: gc,
	}, docker.Deps{Log: a.log, Registry: a.deps.Metrics.Registerer(), Fetcher: fetch, HostVolume: policy.HostVolume})
	if err != nil {
		return nil, nil, fmt.Errorf("open the docker containerizer: %w", err)
	}
	a.closers = append(a.closers, d.Close)
	var members []composing.Member
	for _, name := range c.Containerizers {
		if name == "docker" {
			members = append(members, composing.Member{Name: name, Containerizer: d, Claims: docker.Claims})
		} else {
			members = append(members, composing.Member{
				Name: name, Containerizer: native, Claims: func(x containerizer.Config) bool { return !docker.Claims(x) },
			})
		}
	}
	return composing.New(members...), func(id ids.Container) (execlink.Peer, string, bool) {
		if p, t, ok := known(id); ok {
			return p, t, ok
		}
		return d.Token(id)
	}, nil
}
