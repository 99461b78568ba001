package native

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/confine"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/image/imagetest"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// fakeGPUs makes device files as NVIDIA's driver does, of GPUs that are not there: to open one is denied (EPERM) or, where it is
// allowed, finds no device (ENXIO).
func fakeGPUs(t *testing.T, minors ...uint32) string {
	t.Helper()
	dir := t.TempDir()
	node := func(name string, major, minor uint32) {
		if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR|0o666, int(unix.Mkdev(major, minor))); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range minors {
		node(fmt.Sprint("nvidia", m), nvidiaMajor, m)
	}
	node("nvidiactl", nvidiaMajor, nvidiaControl)
	node("nvidia-uvm", 509, 0)
	node("nvidia7x", nvidiaMajor, 7) // no GPU by its name
	node("nvidia9", 1, 3)            // no GPU by its numbers
	node("nvidia8", nvidiaMajor, 9)  // neither
	if err := os.WriteFile(filepath.Join(dir, "nvidia6"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for d := dir; len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
	return dir
}

// TestFakeGPUs: who asks for GPUs gets so many of them alone, in an image also their files, and they are free after it; a change of
// resources and a new agent process keep that.
func TestFakeGPUs(t *testing.T) {
	t.Parallel()
	runtimes(t, func(t *testing.T, h *host, oci string) {
		dev := fakeGPUs(t, 0, 1, 2, 11)
		r := imagetest.Serve(t)
		img := boxImage(t, r, "box", v1.Config{})
		change := func(c *Config) {
			c.OCIRuntime, c.Isolation, c.GPUs = oci, "filesystem/linux,cgroups/cpu,cgroups/mem,gpu/nvidia,namespaces/pid", GPUConfig{Dir: dev, Only: []uint32{11, 1, 0}}
		}
		d := h.start(nil, change)
		defer func() { d.end() }()
		try := func(dir string) string {
			return "cd " + dir + `; for i in nvidia0 nvidia1 nvidia2 nvidia11 nvidiactl; do
			if ! test -e $i; then echo $i none; elif (: < $i) 2>&1 | grep -qi "no such device"; then echo $i yes; else echo $i no; fi; done; cd -; sleep 1000`
		}
		has := func(cfg containerizer.Config, want string) {
			t.Helper()
			got := ""
			eventually(t, "the container has looked", func() bool {
				got = read(t, cfg.Directory, "stdout")
				return strings.Count(got, "nvidia") >= 5
			})
			if got = strings.Join(strings.Fields(got)[:10], " "); got != want {
				t.Errorf("%s: %s, want %s (%s)", cfg.ID, got, want, read(t, cfg.Directory, "stderr"))
			}
		}
		ask := func(cfg containerizer.Config, n float64) containerizer.Config {
			cfg.Resources = append(cfg.Resources, scalar("gpus", n))
			return cfg
		}
		one := ask(d.plain("one", try("/dev")), 1)
		one.Container = inImage(img)
		d.launch(one)
		has(one, "nvidia0 yes nvidia1 none nvidia2 none nvidia11 none nvidiactl yes")
		none := d.plain("none", try("/dev"))
		none.Container = inImage(img)
		d.launch(none)
		has(none, "nvidia0 none nvidia1 none nvidia2 none nvidia11 none nvidiactl none")
		two := ask(d.plain("two", try(dev)), 1)
		d.launch(two)
		has(two, "nvidia0 no nvidia1 yes nvidia2 no nvidia11 no nvidiactl yes")
		if list, told := d.devices("two"); told && (!strings.Contains(list, "c 195:1 rwm") || strings.Contains(list, "c 195:0 ") || strings.Contains(list, "a *:*")) {
			t.Errorf("devices.list: %s", list)
		}
		if err := d.Launch(t.Context(), ask(d.plain("greedy", "true"), 2)); err == nil || !strings.Contains(err.Error(), "2 GPUs are asked for and 1 are free of 3 (0, 1, 11)") {
			t.Errorf("too many: %v", err)
		}
		if err := d.Launch(t.Context(), ask(d.plain("half", "true"), 0.5)); err == nil || !strings.Contains(err.Error(), "whole number") {
			t.Errorf("half of one: %v", err)
		}
		// More, then less.
		if err := d.Update(t.Context(), "two", append(two.Resources, scalar("gpus", 1)), nil); err != nil {
			t.Fatal(err)
		}
		if list, told := d.devices("two"); told && (!strings.Contains(list, "c 195:1 rwm") || !strings.Contains(list, "c 195:11 rwm") || !strings.Contains(list, "c 1:3 rwm")) {
			t.Errorf("devices.list after more: %s", list)
		}
		nested := d.plain("two.n", try(dev))
		d.launch(nested)
		has(nested, "nvidia0 no nvidia1 yes nvidia2 no nvidia11 yes nvidiactl yes")
		if err := d.Update(t.Context(), "two", append(two.Resources, scalar("gpus", 2)), nil); err == nil || !strings.Contains(err.Error(), "are free") {
			t.Errorf("an update to too many: %v", err)
		}

		d.stop()
		two.Resources = append(two.Resources, scalar("gpus", 1))
		d = h.start([]containerizer.Config{one, two, none}, change)
		if err := d.Launch(t.Context(), ask(d.plain("late", "true"), 1)); err == nil || !strings.Contains(err.Error(), "0 are free") {
			t.Errorf("after a restart: %v", err)
		}
		two.Resources = two.Resources[:len(two.Resources)-2]
		if err := d.Update(t.Context(), "two", two.Resources, nil); err != nil {
			t.Fatal(err)
		}
		if list, told := d.devices("two"); told && (strings.Contains(list, "c 195:") || !strings.Contains(list, "c 1:3 rwm")) {
			t.Errorf("devices.list after all were given back: %s", list)
		}
		three := ask(d.plain("three", try("/dev")), 2)
		three.Container = inImage(img)
		d.launch(three)
		has(three, "nvidia0 none nvidia1 yes nvidia2 none nvidia11 yes nvidiactl yes")
		d.end()
		if d.mu.Lock(); len(d.gpus.taken) > 0 {
			t.Errorf("GPUs are still taken: %v", d.gpus.taken)
		}
		d.mu.Unlock()
	})
}

// TestAllowedDevicesInImages: --allowed_devices are files in an image's /dev.
func TestAllowedDevicesInImages(t *testing.T) {
	t.Parallel()
	runtimes(t, func(t *testing.T, h *host, oci string) {
		r := imagetest.Serve(t)
		d := h.start(nil, func(c *Config) {
			c.OCIRuntime, c.Isolation = oci, "filesystem/linux,cgroups/cpu,cgroups/mem,linux/devices,linux/capabilities,namespaces/pid"
			c.Confine.Devices = []confine.Device{{Path: "/dev/kmsg", Access: "r"}, {Path: "/dev/null", Access: "rw"}}
		})
		defer d.end()
		cfg := d.plain("dev", "stat -c '%t:%T %F' /dev/kmsg; : < /dev/kmsg && echo open; (: > /dev/kmsg) 2>/dev/null || echo not to write; echo > /dev/null && echo null")
		cfg.Container = inImage(boxImage(t, r, "box", v1.Config{}))
		cfg.Container.LinuxInfo = &mesosv1.LinuxInfo{EffectiveCapabilities: capabilitySet("SYSLOG")}
		if _, out, errs := d.ran(cfg); out != "1:b character special file\nopen\nnot to write\nnull\n" {
			t.Errorf("%q %s", out, errs)
		}
	})
}

// TestFindFakeGPUs: what counts as a GPU, and what is said where there is none.
func TestFindFakeGPUs(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	dev := fakeGPUs(t, 0, 3)
	if got, err := FindGPUs(GPUConfig{Dir: dev}); err != nil || !slices.Equal(got, []uint32{0, 3}) {
		t.Errorf("%v %v", got, err)
	}
	if _, err := FindGPUs(GPUConfig{Dir: dev, Only: []uint32{2}}); err == nil || !strings.Contains(err.Error(), "GPU 2 of --nvidia_gpu_devices is not on this host") {
		t.Errorf("%v", err)
	}
	if _, err := FindGPUs(GPUConfig{Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "this host has no NVIDIA GPU") {
		t.Errorf("%v", err)
	}
	if err := os.Remove(filepath.Join(dev, "nvidiactl")); err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	cfg := Config{
		WorkDir: filepath.Join(h.dir, "work"), RuntimeDir: filepath.Join(h.dir, "run"), Helper: helperPath, Cgroups: cgroup.Config{Root: h.root},
		Isolation: "gpu/nvidia", GPUs: GPUConfig{Dir: dev},
	}
	if _, err := New(cfg, Deps{}); err == nil || !strings.Contains(err.Error(), "control device is missing") {
		t.Errorf("%v", err)
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/" + h.root); len(left) > 0 {
		t.Errorf("who is refused leaves %v", left)
	}
	d := h.start(nil)
	defer d.end()
	ask := d.plain("ask", "true")
	ask.Resources = append(ask.Resources, scalar("gpus", 1))
	ask.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum()}
	if err := d.Launch(t.Context(), ask); err == nil || !strings.Contains(err.Error(), "gpus need the isolation gpu/nvidia") {
		t.Errorf("%v", err)
	}
}
