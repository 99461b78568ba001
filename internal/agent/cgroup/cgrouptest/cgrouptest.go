// Package cgrouptest tidies up after tests that make control groups: what is left of one is found in every hierarchy, whatever
// the test thinks that it has made. Tests call it.
package cgrouptest

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
)

// patience is how long processes may take to leave a group, which the kernel does after their end.
const patience = 30 * time.Second

// Remove removes a control group with all below it from every hierarchy, and fails the test when there are processes in it.
func Remove(t testing.TB, name string) {
	t.Helper()
	tops, err := cgroup.Hierarchies()
	if err != nil {
		t.Error(err)
	}
	for _, top := range tops {
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			err := remove(filepath.Join(top, name))
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("a control group is left: %v", err)
				break
			}
		}
	}
}

// Gone fails the test when containers' groups are left in the root of an agent's, ends what is in them, and removes them with the root.
func Gone(t testing.TB, root string) {
	t.Helper()
	tops, err := cgroup.Hierarchies()
	if err != nil {
		t.Error(err)
	}
	for _, top := range tops {
		dirs := below(filepath.Join(top, root))
		if len(dirs) > 1 {
			t.Errorf("control groups left: %v", dirs[1:])
		}
		for _, dir := range dirs {
			b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
	}
	Remove(t, root)
}

// below lists a group and those below it, the outermost first.
func below(group string) (dirs []string) {
	_ = filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	return dirs
}

// remove removes the innermost first.
func remove(group string) (err error) {
	for _, dir := range slices.Backward(below(group)) {
		if e := os.Remove(dir); e != nil && !os.IsNotExist(e) {
			err = e
		}
	}
	return err
}
