package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/orchestrator/orchestrator/internal/agent/confine"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/seccomp"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// settingsOf computes what a container gets.
func (c *Containerizer) settingsOf(cfg *containerizer.Config, up *container) (*confine.Settings, error) {
	var parent *containerizer.Config
	if up != nil {
		parent = &up.cfg
	}
	return confine.Of(&c.iso.host, cfg, parent)
}

// confineProcess puts what a process may do into its paper.
func (c *Containerizer) confineProcess(p *spec.Process, s *confine.Settings) error {
	p.NoNewPrivs = s.NoNewPrivs
	for _, r := range s.Rlimits {
		p.Rlimits = append(p.Rlimits, spec.Rlimit(r))
	}
	if k := s.Capabilities; k != nil {
		p.Capabilities = &spec.Capabilities{Bounding: confine.Mask(k.Bounding)}
		if k.Effective != nil {
			p.Capabilities.Effective = ptr(confine.Mask(k.Effective))
		}
	}
	if s.Seccomp == "" {
		return nil
	}
	var bounding []confine.Capability
	if s.Capabilities != nil {
		bounding = s.Capabilities.Bounding
	}
	profile, err := seccomp.Store{Dir: c.cfg.SeccompDir}.Load(s.Seccomp, bounding)
	if err != nil {
		return err
	}
	prog, err := seccomp.Compile(profile)
	if err != nil {
		return fmt.Errorf("seccomp profile %q: %w", s.Seccomp, err)
	}
	p.Seccomp = seccomp.Bytes(prog)
	return nil
}

// join puts a container that has networks of its own into them.
func (c *Containerizer) join(ctx context.Context, ct *container, s *confine.Settings) error {
	if s.Network != confine.New {
		return nil
	}
	defer c.stage(ct, "network")()
	for _, n := range s.Networks {
		for _, m := range n.GetPortMappings() {
			if !given(ct.cfg.Resources, uint64(m.GetHostPort())) {
				return fmt.Errorf("port mapping %d:%d: the host's port is not among the ports that the container was given", m.GetHostPort(), m.GetContainerPort())
			}
		}
	}
	c.mu.Lock()
	ct.network = true
	c.mu.Unlock()
	j, err := c.networks.Attach(ctx, string(ct.cfg.ID), s.Networks)
	if err != nil {
		return err
	}
	c.mu.Lock()
	ct.joined = j
	c.mu.Unlock()
	return nil
}

// leave takes an ended container out of its networks. What does not work is done later: the container has ended all the same.
func (c *Containerizer) leave(ct *container) {
	c.mu.Lock()
	in := ct.network
	c.mu.Unlock()
	if !in {
		return
	}
	if c.networks == nil {
		c.log.Error("a container's network can't be deleted: container networks are not configured any more; configure them and restart the agent", "container_id", ct.cfg.ID)
		return
	}
	if err := c.networks.Detach(context.WithoutCancel(c.ctx), string(ct.cfg.ID)); err != nil {
		c.log.Error("a container's network can't be deleted yet", "container_id", ct.cfg.ID, "error", err)
	}
}

// networkOf finds the container whose network a container is in: itself or one that it is nested in; nil: the host's.
// The lock is held.
func (c *Containerizer) networkOf(id ids.Container) *container {
	for {
		if ct := c.containers[id]; ct != nil && ct.joined != nil {
			return ct
		}
		up, ok := containerizer.Parent(id)
		if !ok {
			return nil
		}
		id = up
	}
}

// networkFiles are what programs look up names in, for a container in networks of its own: hosts, hostname and, where a
// network or the agent says something, resolv.conf. They lie in the runtime directory and are seen by the container alone.
func (c *Containerizer) networkFiles(ct *container, s *confine.Settings) ([]spec.Mount, error) {
	var hosts strings.Builder
	hosts.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	for _, a := range ct.joined.Addresses() {
		hosts.WriteString(a + " " + s.Hostname + "\n")
	}
	files := map[string]string{"hosts": hosts.String(), "hostname": s.Hostname + "\n"}
	dns := confine.DNS{Nameservers: ct.joined.Nameservers, Search: ct.joined.Search, Options: ct.joined.Options}
	if len(dns.Nameservers) == 0 && s.DNS != nil {
		dns = *s.DNS
	}
	if text := dns.Text(); text != "" {
		files["resolv.conf"] = text
	}
	var out []spec.Mount
	for name, text := range files {
		target := filepath.Join("/etc", name)
		if _, err := os.Stat(target); errors.Is(err, os.ErrNotExist) {
			continue // the host has none: there is nothing to put it over
		}
		path := filepath.Join(ct.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("write the container's %s: %w", name, err)
		}
		out = append(out, spec.Mount{Type: "bind", Source: path, Target: target})
	}
	return out, nil
}

// networkEnvironment says where the container is rather than where the agent is.
func networkEnvironment(env []string, address string) []string {
	out := make([]string, 0, len(env)+2)
	for _, kv := range env {
		if !strings.HasPrefix(kv, "MESOS_CONTAINER_IP=") && !strings.HasPrefix(kv, "LIBPROCESS_IP=") {
			out = append(out, kv)
		}
	}
	return append(out, "MESOS_CONTAINER_IP="+address, "LIBPROCESS_IP=0.0.0.0")
}

// namespaces says which namespaces the helper is born into and which its processes join. It gives whether they join their
// parent's mount namespace.
func (c *Containerizer) namespaces(ct, up *container, s *confine.Settings, p *spec.Spec) (joinsMount bool, err error) {
	inside := ct.cfg.Kind == containerizer.Session || ct.cfg.Kind == containerizer.Check
	p.NewPID = s.PID == confine.New
	if up == nil || !c.iso.root {
		return false, nil
	}
	var upSpec spec.Spec
	if err := spec.Read(up.dir, spec.LaunchFile, &upSpec); err != nil {
		return false, fmt.Errorf("read the parent's launch paper: %w", err)
	}
	join := func(kind string) bool {
		if !differs(up.helper.PID, kind) {
			return false
		}
		p.Join = append(p.Join, spec.Namespace{Kind: kind, Path: "/proc/" + strconv.Itoa(up.helper.PID) + "/ns/" + kind})
		return true
	}
	for _, k := range []struct {
		kind string
		is   confine.Namespace
	}{{"ipc", s.IPC}, {"uts", s.UTS}, {"net", s.Network}} {
		if k.is == confine.Parents {
			join(k.kind)
		}
	}
	if s.PID == confine.Parents && (inside || upSpec.NewPID) {
		join("pid")
		joinsMount = join("mnt")
	}
	if inside || joinsMount {
		c.joinUsers(ct, up, &upSpec, p)
	}
	return joinsMount, nil
}
