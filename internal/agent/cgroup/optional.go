package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// setOptional sets what a fresh group has of the controllers that not every agent asks for.
func (g *Group) setOptional(l Limits) error {
	if g.m.Has("cpuset") {
		if err := g.pin(); err != nil {
			return err
		}
	}
	if l.Devices == nil || !g.m.Has("devices") {
		return nil
	}
	if g.dir != "" {
		return g.limitDevices2(l.Devices)
	}
	d := g.dirs["devices"]
	if err := write(d, "devices.deny", "a"); err != nil {
		return fmt.Errorf("deny all devices: %w", err)
	}
	for _, r := range l.Devices {
		if err := write(d, "devices.allow", r); err != nil {
			return fmt.Errorf("allow device %q: %w", r, err)
		}
	}
	return nil
}

// pin gives a group its processors and memory nodes. In v1 a group has none until it is told, in v2 its parent's.
func (g *Group) pin() error {
	if g.dir != "" {
		for file, v := range map[string]string{"cpuset.cpus": g.m.cfg.CPUs, "cpuset.mems": g.m.cfg.Mems} {
			if v == "" {
				continue
			}
			if err := write(g.dir, file, v); err != nil {
				return fmt.Errorf("pin to %s %q: %w", file, v, err)
			}
		}
		return nil
	}
	// The group of a nested container has intermediate directories above it, which need theirs too.
	at := filepath.Join(g.m.host.V1["cpuset"], g.m.cfg.Root)
	rel, err := filepath.Rel(at, g.dirs["cpuset"])
	if err != nil {
		return err
	}
	for _, part := range strings.Split(rel, "/") {
		up := at
		at = filepath.Join(at, part)
		if err := g.m.pin(at, up); err != nil {
			return err
		}
	}
	return nil
}

// pin gives a v1 group what is configured, else what its parent has.
func (m *Manager) pin(dir, up string) error {
	for file, v := range map[string]string{"cpuset.cpus": m.cfg.CPUs, "cpuset.mems": m.cfg.Mems} {
		if b, err := os.ReadFile(filepath.Join(dir, file)); err == nil && strings.TrimSpace(string(b)) != "" {
			continue // another agent below the same root, or an earlier process
		}
		if v == "" {
			b, err := os.ReadFile(filepath.Join(up, file))
			if err != nil {
				return fmt.Errorf("pin: %w", err)
			}
			v = strings.TrimSpace(string(b))
		}
		if err := write(dir, file, v); err != nil {
			return fmt.Errorf("pin to %s %q: %w", file, v, err)
		}
	}
	return nil
}
