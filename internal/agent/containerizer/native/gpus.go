package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/confine"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// GPUConfig is about the isolator gpu/nvidia.
type GPUConfig struct {
	// Dir has the device files; empty: /dev.
	Dir string
	// Only are the numbers of the GPUs that may be used [nvidia_gpu_devices]; nil: all.
	Only []uint32
}

// The numbers of NVIDIA's devices: a GPU is /dev/nvidia<minor>.
const (
	nvidiaMajor   = 195
	nvidiaControl = 255
)

// FindGPUs lists the host's NVIDIA GPUs by the device files that the driver has made, each with the number in its name. The
// driver's own library (NVML) is not asked: its order may differ.
func FindGPUs(cfg GPUConfig) ([]uint32, error) {
	files, err := filepath.Glob(filepath.Join(cfg.dir(), "nvidia[0-9]*"))
	if err != nil {
		return nil, err
	}
	var found []uint32
	for _, f := range files {
		n, err := strconv.ParseUint(strings.TrimPrefix(filepath.Base(f), "nvidia"), 10, 32)
		if err != nil || n >= nvidiaControl {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(f, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || unix.Major(st.Rdev) != nvidiaMajor || unix.Minor(st.Rdev) != uint32(n) {
			continue
		}
		found = append(found, uint32(n))
	}
	slices.Sort(found)
	for _, n := range cfg.Only {
		if !slices.Contains(found, n) {
			return nil, fmt.Errorf("GPU %d of --nvidia_gpu_devices is not on this host: there is no device %s of NVIDIA's (found: %s)", n, filepath.Join(cfg.dir(), fmt.Sprint("nvidia", n)), gpuText(found))
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("this host has no NVIDIA GPU: there is no %s of NVIDIA's driver; load the driver (nvidia-modprobe) first", filepath.Join(cfg.dir(), "nvidia0"))
	}
	if cfg.Only != nil {
		found = slices.Compact(slices.Sorted(slices.Values(cfg.Only)))
	}
	return found, nil
}

func (g GPUConfig) dir() string {
	if g.Dir == "" {
		return "/dev"
	}
	return g.Dir
}

func gpuText(list []uint32) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ", "), "[]")
}

// gpuPool says whose each GPU is. The containerizer's lock guards it.
type gpuPool struct {
	cfg    GPUConfig
	all    []uint32
	taken  map[uint32]bool
	shared []confine.Device // what every user of a GPU needs beside it
}

func newGPUPool(cfg GPUConfig) (*gpuPool, error) {
	all, err := FindGPUs(cfg)
	if err != nil {
		return nil, err
	}
	p := &gpuPool{cfg: cfg, all: all, taken: make(map[uint32]bool)}
	for _, d := range []struct {
		name   string
		needed bool
	}{{"nvidiactl", true}, {"nvidia-uvm", false}, {"nvidia-uvm-tools", false}} {
		path := filepath.Join(cfg.dir(), d.name)
		if _, err := os.Stat(path); err == nil {
			p.shared = append(p.shared, confine.Device{Path: path, Access: "rwm"})
		} else if d.needed {
			return nil, fmt.Errorf("the driver's control device is missing: %w", err)
		}
	}
	return p, nil
}

// change makes a container's GPUs n: it gets more, or gives some back. What it has is in order.
func (p *gpuPool) change(has []uint32, n int) ([]uint32, error) {
	if n <= len(has) {
		for _, g := range has[n:] {
			delete(p.taken, g)
		}
		return has[:n:n], nil
	}
	var free []uint32
	for _, g := range p.all {
		if !p.taken[g] {
			free = append(free, g)
		}
	}
	if more := n - len(has); more > len(free) {
		return has, fmt.Errorf("%d GPUs are asked for and %d are free of %d (%s)", more, len(free), len(p.all), gpuText(p.all))
	}
	got := slices.Concat(has, free[:n-len(has)])
	for _, g := range got {
		p.taken[g] = true
	}
	slices.Sort(got)
	return got, nil
}

// devices are what a container with these GPUs may use.
func (p *gpuPool) devices(has []uint32) []confine.Device {
	if len(has) == 0 {
		return nil
	}
	out := slices.Clone(p.shared)
	for _, g := range has {
		out = append(out, confine.Device{Path: filepath.Join(p.cfg.dir(), fmt.Sprint("nvidia", g)), Access: "rwm"})
	}
	return out
}

// gpusOf is how many GPUs are among resources.
func gpusOf(res []*mesosv1.Resource) (n float64) {
	for _, r := range res {
		if r.GetName() == "gpus" {
			n += r.GetScalar().GetValue()
		}
	}
	return n
}

// checkGPUs says whether a container can have what it asks for at all.
func (c *Containerizer) checkGPUs(res []*mesosv1.Resource) error {
	switch n := gpusOf(res); {
	case n <= 0:
		return nil
	case c.gpus == nil:
		return errors.New("gpus need the isolation gpu/nvidia, which is not among the agent's isolators: name it in --isolation on a host with NVIDIA's driver")
	case n != float64(int(n)):
		return fmt.Errorf("gpus: %g is no whole number", n)
	}
	return nil
}

// giveGPUs gives a root container its GPUs; what is nested in it shares them.
func (c *Containerizer) giveGPUs(ct *container) error {
	if _, nested := containerizer.Parent(ct.cfg.ID); nested || c.gpus == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	got, err := c.gpus.change(ct.gpus, int(gpusOf(ct.cfg.Resources)))
	ct.gpus = got
	return err
}

// freeGPUs takes a container's GPUs back. The lock is held.
func (c *Containerizer) freeGPUs(ct *container) {
	if c.gpus != nil && !ct.stuck {
		for _, g := range ct.gpus {
			delete(c.gpus.taken, g)
		}
	}
	ct.gpus = nil
}

// gpusFor are the GPU devices of a container: its root container's.
func (c *Containerizer) gpusFor(ct *container) []confine.Device {
	if c.gpus == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, nested := containerizer.Parent(ct.cfg.ID); nested {
		if ct = c.containers[ids.Container(parts(ct.cfg.ID)[0])]; ct == nil {
			return nil
		}
	}
	return c.gpus.devices(ct.gpus)
}

// updateGPUs follows a change of a running root container's resources.
func (c *Containerizer) updateGPUs(ctx context.Context, ct *container) error {
	if c.gpus == nil || !ct.ownGroup || ct.group == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	if err := c.giveGPUs(ct); err != nil {
		return err
	}
	settings, err := c.settingsOf(&ct.cfg, nil)
	if err != nil {
		return err
	}
	devices, err := lookAt(append(slices.Clone(settings.Devices), c.gpusFor(ct)...))
	if err != nil {
		return err
	}
	return ct.group.SetDevices(rulesOf(devices))
}

// lookAt finds the numbers of devices by their files.
func lookAt(list []confine.Device) ([]confine.Device, error) {
	out := slices.Clone(list)
	for i := range out {
		d := &out[i]
		var st unix.Stat_t
		if err := unix.Stat(d.Path, &st); err != nil {
			return nil, fmt.Errorf("device %s: %w", d.Path, err)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFCHR:
			d.Type = 'c'
		case unix.S_IFBLK:
			d.Type = 'b'
		default:
			return nil, fmt.Errorf("device %s: it is no device", d.Path)
		}
		d.Major, d.Minor, d.Mode = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)), st.Mode&0o777
	}
	return out, nil
}

// rulesOf are the kernel's rules of the only devices that may be used: the harmless ones and these.
func rulesOf(devices []confine.Device) []string {
	var out []string
	for _, d := range append(confine.HarmlessDevices(), devices...) {
		out = append(out, d.Rule())
	}
	return out
}

// nodes are the device files that an image's /dev has beside the harmless ones.
func (c *Containerizer) nodes(devices []confine.Device) []spec.Device {
	var out []spec.Device
	for _, d := range devices {
		name := strings.TrimPrefix(d.Path, "/dev/")
		if c.gpus != nil {
			name = strings.TrimPrefix(name, c.gpus.cfg.dir()+"/")
		}
		out = append(out, spec.Device{Name: name, Block: d.Type == 'b', Major: uint32(d.Major), Minor: uint32(d.Minor), Mode: d.Mode})
	}
	return out
}
