package cgroup

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// SetDevices replaces the rules of the only devices that a group may use, which it has had since it was made.
func (g *Group) SetDevices(rules []string) error {
	if !g.m.Has("devices") {
		return errors.New("the devices of a group are not limited")
	}
	if g.dir == "" {
		return g.setDevices1(rules)
	}
	dir, err := os.Open(g.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	old, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: ebpf.AttachCGroupDevice})
	if err != nil {
		return fmt.Errorf("find the device whitelist: %w", err)
	}
	// All that are attached must allow: with both there is at no moment more than one of them allows.
	if err := g.limitDevices2(rules); err != nil {
		return err
	}
	for _, p := range old.Programs {
		prog, err := ebpf.NewProgramFromID(p.ID)
		if err != nil {
			return fmt.Errorf("open the old device whitelist: %w", err)
		}
		err = link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(dir.Fd()), Program: prog, Attach: ebpf.AttachCGroupDevice})
		prog.Close()
		if err != nil {
			return fmt.Errorf("detach the old device whitelist: %w", err)
		}
	}
	return nil
}

// setDevices1 allows what is new and denies what is no more: the rest stays allowed all the time.
func (g *Group) setDevices1(rules []string) error {
	dir := g.dirs["devices"]
	for _, r := range rules {
		if err := write(dir, "devices.allow", r); err != nil {
			return fmt.Errorf("allow device %q: %w", r, err)
		}
	}
	for _, f := range lines(dir, "devices.list") {
		if have := strings.Join(f, " "); !slices.Contains(rules, have) {
			if err := write(dir, "devices.deny", have); err != nil {
				return fmt.Errorf("deny device %q: %w", have, err)
			}
		}
	}
	return nil
}
