package native

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/image"
	"github.com/orchestrator/orchestrator/internal/agent/image/imagetest"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// fileSystem mounts a new file system of a kind for the time of the test. Where the kernel has no such thing, or no loop devices, the test is
// skipped: package vmtest's has.
func fileSystem(t *testing.T, kind string) string {
	t.Helper()
	kinds, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	_, loop := os.Stat("/dev/loop-control")
	if loop != nil || !strings.Contains(string(kinds), "\t"+kind+"\n") {
		realpart.OtherKernel(t, "the kernel has no %s or no loop devices", kind)
	}
	at := filepath.Join(t.TempDir(), kind)
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{"-t", kind, kind, at}
	switch kind {
	case "tmpfs", "ramfs":
	case "overlay":
		args = []string{"-t", kind, "-o", "lowerdir=/etc,upperdir=" + overlayDir(t, "upper") + ",workdir=" + overlayDir(t, "work"), kind, at}
	default:
		file := filepath.Join(t.TempDir(), "image")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(320 << 20); err != nil { // the least that XFS takes; none of it is written
			t.Fatal(err)
		}
		f.Close()
		mkfs := map[string][]string{"ext4": {"-q", "-F", file}, "xfs": {"-q", file}, "btrfs": {"-q", file}}[kind]
		if out, err := exec.Command("mkfs."+kind, mkfs...).CombinedOutput(); err != nil {
			t.Fatalf("mkfs.%s: %v %s", kind, err, out)
		}
		args = []string{"-t", kind, "-o", "loop", file, at}
	}
	if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
		t.Fatalf("mount %v: %v %s", args, err, out)
	}
	t.Cleanup(func() {
		err := unix.Unmount(at, 0)
		for deadline := time.Now().Add(30 * time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); err = unix.Unmount(at, 0) {
			time.Sleep(20 * time.Millisecond) // another test's container was given a copy of it at its start: nothing tells when it has let go
		}
		if err != nil {
			t.Errorf("unmount %s: %v", at, err)
			_ = unix.Unmount(at, unix.MNT_DETACH)
		}
	})
	return at
}

// overlayDir is a directory that an overlay is written to: not on one that is an overlay itself.
func overlayDir(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "orchestrator-test-"+name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// kernelIs reports whether the kernel is of that version or a later one.
func kernelIs(t *testing.T, major, minor int) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var have [2]int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &have[0], &have[1]); err != nil {
		t.Fatal(err)
	}
	return have[0] > major || have[0] == major && have[1] >= minor
}

// TestUserNamespaceFileSystems: on every file system that can show files under other ids, sandbox, image, volumes from images and persistent
// volumes belong to the container's users, and on the disk to those that they would belong to without; on any other it is said, before a
// process runs in the host's users.
func TestUserNamespaceFileSystems(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	shows, hides := []string{"ext4", "xfs", "btrfs"}, []string{"ramfs", "overlay"}
	if kernelIs(t, 6, 3) {
		shows = append(shows, "tmpfs")
	} else {
		hides = append(hides, "tmpfs")
	}
	for _, kind := range shows {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			at := fileSystem(t, kind)
			h := newHost(t)
			h.dir = filepath.Join(at, "host")
			r := imagetest.Serve(t)
			img := boxImage(t, r, "box", v1.Config{})
			d := h.start(nil, inUsers)
			defer d.end()
			cfg := d.plain("plain", "touch mine pers/mine && stat -c %u:%g . mine pers pers/mine && tr -s ' ' </proc/self/uid_map")
			cfg.Resources = append(cfg.Resources, persistent("p", "pers"))
			want := fmt.Sprintf("0:0\n0:0\n0:0\n0:0\n 0 %d 65536\n", testUsers.First)
			if _, out, errs := d.ran(cfg); out != want {
				t.Errorf("without an image: %q %s, want %q", out, errs, want)
			}
			cfg = d.plain("image", "touch /made mine pers/again vol/new && stat -c %u:%g / /made /bin/busybox mine pers/mine pers/again vol/etc/passwd vol/new")
			cfg.Resources = append(cfg.Resources, persistent("p", "pers"))
			cfg.Container = inImage(img)
			cfg.Container.Volumes = []*mesosv1.Volume{{ContainerPath: ptr("vol"), Mode: mesosv1.Volume_RW.Enum(), Image: dockerImage(img)}}
			if _, out, errs := d.ran(cfg); out != strings.Repeat("0:0\n", 8) {
				t.Errorf("with an image: %q %s", out, errs)
			}
			for _, file := range []string{filepath.Join(d.sandbox("plain"), "mine"), filepath.Join(h.dir, "work/volumes/roles/r/p/mine"), filepath.Join(h.dir, "work/volumes/roles/r/p/again")} {
				if got := owner(t, file); got != "0:0" {
					t.Errorf("%s belongs to %s on the disk", file, got)
				}
			}
			d.end()
			leftovers(t, h)
		})
	}
	const says = "can't show files under other ids"
	for _, kind := range hides {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			at := fileSystem(t, kind)
			h := newHost(t)
			cfg := Config{WorkDir: filepath.Join(at, "work"), RuntimeDir: filepath.Join(h.dir, "run"), Helper: helperPath, Cgroups: cgroup.Config{Root: h.root}}
			inUsers(&cfg)
			refused := func(what string, images Images) {
				t.Helper()
				if x, err := New(cfg, Deps{Images: images}); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), at) {
					t.Errorf("%s on %s: %v", what, kind, err)
					if err == nil {
						x.Close()
					}
				}
			}
			refused("the work directory", nil)
			cfg.WorkDir = filepath.Join(h.dir, "work")
			store, err := image.Open(image.Config{Dir: filepath.Join(at, "store")}, image.Deps{})
			if err != nil {
				t.Fatal(err)
			}
			refused("the images", store)
			// A disk of its own is known when a volume of it is used.
			d := h.start(nil, inUsers)
			defer d.end()
			vol := persistent("p", "pers")
			vol.Disk.Source = &mesosv1.Resource_DiskInfo_Source{Type: mesosv1.Resource_DiskInfo_Source_MOUNT.Enum(), Mount: &mesosv1.Resource_DiskInfo_Source_Mount{Root: &at}}
			img := boxImage(t, imagetest.Serve(t), "box", v1.Config{})
			for _, name := range []string{"plain", "image"} {
				task := d.plain(ids.Container("v-"+name), "touch pers/x; sleep 1000")
				task.Resources = append(task.Resources, vol)
				if name == "image" {
					task.Container = inImage(img)
				}
				if err := d.Launch(t.Context(), task); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "pers") {
					t.Errorf("a volume on %s, %s: %v", kind, name, err)
				}
				if _, err := os.Stat(filepath.Join(at, "x")); err == nil {
					t.Errorf("%s: the task ran all the same", name)
				}
			}
			d.end()
			leftovers(t, h)
		})
	}
}
