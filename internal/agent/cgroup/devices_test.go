package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/orchestrator/orchestrator/internal/realpart"
	"golang.org/x/sys/unix"
)

// TestDeviceProgram attaches the program of v2 to a real group and opens devices in it.
func TestDeviceProgram(t *testing.T) {
	t.Parallel()
	base := unifiedMount(t)
	dir := t.TempDir()
	for name, rdev := range map[string]uint64{"kmsg": unix.Mkdev(1, 11), "zero": unix.Mkdev(1, 5)} {
		if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR|0o666, int(rdev)); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range []struct {
		rules []string
		want  string
	}{
		{nil, "kmsg:no zero:no write:no mknod:no "},
		{[]string{"c 1:5 r"}, "kmsg:no zero:yes write:no mknod:no "},
		{[]string{"b *:* rwm", "c 1:5 rw", "c *:* m"}, "kmsg:no zero:yes write:yes mknod:yes "},
		{[]string{"c 1:* rwm"}, "kmsg:yes zero:yes write:yes mknod:yes "},
		{[]string{"a *:* rwm"}, "kmsg:yes zero:yes write:yes mknod:yes "},
	} {
		g := &Group{m: &Manager{}, dir: filepath.Join(base, fmt.Sprintf("orchestrator-test-dev-%d-%d", os.Getpid(), i))}
		if err := os.Mkdir(g.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(g.dir); err != nil {
				t.Error(err)
			}
		})
		if err := g.limitDevices2(append([]string{"c 1:3 rw"}, c.rules...)); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("sh", "-c", fmt.Sprintf(`echo $$ > %[1]s/cgroup.procs; cd %[2]s
say() { if sh -c "$2" 2>/dev/null; then printf "$1:yes "; else printf "$1:no "; fi; }
say kmsg ': < kmsg'; say zero ': < zero'; say write ': > zero'; say mknod 'rm -f x; mknod x c 1 3'`, g.dir, dir)).Output()
		if err != nil || string(out) != c.want {
			t.Errorf("%v: %q, want %q (%v)", c.rules, out, c.want, err)
		}
	}
	for _, bad := range []string{"", "c", "x 1:3 r", "c 1 r", "c a:3 r", "c 1:3 q", "c 1:3 r x", "c -1:3 r"} {
		if _, err := deviceProgram([]string{bad}); err == nil || !strings.Contains(err.Error(), "device rule") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := (&Group{dir: filepath.Join(dir, "none")}).limitDevices2(nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a group that is not there: %v", err)
	}
}

// unifiedMount is where a unified hierarchy is mounted, with controllers or without.
func unifiedMount(t *testing.T) (base string) {
	t.Helper()
	realpart.Root(t)
	for _, d := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(d, "cgroup.procs")); err == nil {
			base = d
		}
	}
	if base == "" {
		realpart.OtherKernel(t, "no unified hierarchy is mounted")
	}
	return base
}
