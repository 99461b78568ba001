package remains

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup/cgrouptest"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// groups makes a control group of a name in every hierarchy. They go with the test.
func groups(t *testing.T, name string) (dirs []string) {
	t.Helper()
	realpart.Root(t)
	t.Cleanup(func() { cgrouptest.Remove(t, name) })
	tops, err := cgroup.Hierarchies()
	if err != nil || len(tops) == 0 {
		t.Fatalf("no control groups: %v", err)
	}
	for _, top := range tops {
		dir := filepath.Join(top, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		// A group without processors takes no process.
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			for _, d := range []string{filepath.Dir(dir), dir} {
				if b, err := os.ReadFile(filepath.Join(filepath.Dir(d), f)); err == nil {
					_ = os.WriteFile(filepath.Join(d, f), b, 0)
				}
			}
		}
		dirs = append(dirs, dir)
	}
	return dirs
}

// run starts a process in control groups, and reaps it.
func run(t *testing.T, dirs []string, argv ...string) (pid int, gone <-chan struct{}) {
	t.Helper()
	cmd := exec.Command("/bin/sh")
	cmd.Args = argv
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	// Only now it may start others, which are in the groups then.
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() { defer close(over); _ = cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-over })
	return cmd.Process.Pid, over
}

// What a process does: nothing, without another, which would be left when the test has killed it; or have others.
const (
	asleep  = "while read go; do :; done"
	forking = "read go; while :; do sleep 1000; done"
)

// TestEnd: what is of the container goes, in whatever form its groups are named, frozen, forking and nested; what only looks so
// stays.
func TestEnd(t *testing.T) {
	t.Parallel()
	for name, form := range map[string]string{"cgroupfs": "%", "systemd": "docker-%.scope"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id, other := newID(), newID()
			named := func(id string) string { return strings.ReplaceAll(form, "%", id) }
			dirs := groups(t, named(id))
			_, gone := run(t, dirs, "sh", "-c", forking)
			_, goneToo := run(t, groups(t, named(id)+"/inner"), "sh", "-c", forking)
			_, shim := run(t, nil, "/usr/bin/containerd-shim-runc-v2", "-c", asleep, "-namespace", "moby", "-id", id, "-address", "/x")
			for _, dir := range dirs {
				_ = os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("FROZEN"), 0)
				_ = os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("1"), 0)
			}
			theirs := groups(t, named(other))
			run(t, theirs, "sh", "-c", asleep)
			stay := []int{}
			for _, argv := range [][]string{
				{"docker", "-c", asleep, "logs", "-id", id},
				{"/usr/bin/containerd-shim-runc-v2", "-c", asleep, "-id", other, "-address", id},
			} {
				pid, _ := run(t, nil, argv...)
				stay = append(stay, pid)
			}
			all, err := Look()
			if err != nil {
				t.Fatal(err)
			}
			f := all[id]
			if len(f.Processes) < 2 || len(f.Shims) != 1 || len(f.Groups) != len(dirs) {
				t.Errorf("found %+v", f)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			var h Host
			did, err := h.End(ctx, id, name == "systemd")
			if err != nil {
				t.Fatal(err)
			}
			for what, over := range map[string]<-chan struct{}{"the process": gone, "the one in a nested group": goneToo, "the shim": shim} {
				select {
				case <-over:
				case <-ctx.Done():
					t.Errorf("%s is left", what)
				}
			}
			if len(did.Processes) < 2 || !slices.Equal(did.Shims, f.Shims) || len(did.Groups) < len(dirs) {
				t.Errorf("ended %+v of %+v", did, f)
			}
			if all, err = Look(); err != nil || !all[id].Nothing() {
				t.Errorf("left: %+v %v", all[id], err)
			}
			if len(all[other].Processes) == 0 || len(all[other].Groups) != len(theirs) || len(all[other].Shims) != 1 {
				t.Errorf("another container has only %+v left", all[other])
			}
			for _, pid := range stay {
				if syscall.Kill(pid, 0) != nil || ended(pid) {
					t.Errorf("process %d is not the container's and was ended", pid)
				}
			}
			if did, err = h.End(ctx, id, name == "systemd"); err != nil || !did.Nothing() {
				t.Errorf("a second time: %+v %v", did, err)
			}
		})
	}
}

func TestIDIn(t *testing.T) {
	t.Parallel()
	id := newID()
	for name, want := range map[string]string{
		id: id, "docker-" + id + ".scope": id, "libpod-conmon-" + id + ".scope": "", id + ".scope": "",
		id[1:]: "", id + "0": "", "docker-" + id: "", id + ".slice": "", "": "", ".scope": "", "init.scope": "", "Z" + id[1:]: "",
	} {
		if got := idIn(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

// BenchmarkLook is what it costs to look through this host.
func BenchmarkLook(b *testing.B) {
	for b.Loop() {
		if _, err := Look(); err != nil {
			b.Fatal(err)
		}
	}
}
