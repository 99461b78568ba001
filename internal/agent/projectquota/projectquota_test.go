package projectquota

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/realpart"
)

// quotas opens the file system of the test's directory, which has to have quotas: package vmtest runs these tests on some.
func quotas(t *testing.T, ranges ...Range) (s *Store, dir string) {
	t.Helper()
	dir = t.TempDir()
	for p := dir; len(p) > len(os.TempDir()); p = filepath.Dir(p) {
		_ = os.Chmod(p, 0o755)
	}
	s, err := Open(dir, ranges)
	if err != nil {
		realpart.OtherKernel(t, "%v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s, dir
}

func mkdir(t *testing.T, path ...string) string {
	t.Helper()
	d := filepath.Join(path...)
	if err := os.MkdirAll(d, 0o777); err != nil {
		t.Fatal(err)
	}
	_ = os.Chmod(d, 0o777)
	return d
}

func own(t *testing.T, s *Store, dir string, limit uint64) uint32 {
	t.Helper()
	id, err := s.Own(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// write writes KBs as a user without rights; ext4 lets root write on. It gives what dd said.
func write(t *testing.T, file string, kb string) string {
	t.Helper()
	cmd := exec.Command("dd", "if=/dev/zero", "of="+file, "bs=1k", "count="+kb, "conv=fsync")
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, _ := cmd.CombinedOutput()
	return string(out)
}

func TestQuota(t *testing.T) {
	s, dir := quotas(t, Range{70000, 70001}, Range{70010, 70010})
	a := mkdir(t, dir, "a")
	// What is there already comes along; links and pipes can't.
	mkdir(t, a, "deep", "er")
	if err := errors.Join(os.WriteFile(filepath.Join(a, "deep", "f"), make([]byte, 100<<10), 0o644), os.Symlink("/etc", filepath.Join(a, "link")), syscall.Mkfifo(filepath.Join(a, "pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	id := own(t, s, a, 512<<10)
	if id != 70000 {
		t.Errorf("project %d", id)
	}
	for _, d := range []string{a, filepath.Join(a, "deep"), filepath.Join(a, "deep", "er"), mkdir(t, a, "later", "on")} {
		if got, err := Project(d); err != nil || got != id {
			t.Errorf("%s belongs to %d, %v", d, got, err)
		}
	}
	if got, err := Project(dir); err != nil || got != 0 {
		t.Errorf("the directory above belongs to %d, %v", got, err)
	}
	if out := write(t, filepath.Join(a, "big"), "600"); !strings.Contains(out, "Disk quota exceeded") && !strings.Contains(out, "No space left") {
		t.Errorf("600 KB were written beside 100 of 512: %s", out)
	}
	used, limit, err := s.Usage(id)
	if err != nil || limit != 512<<10 || used < 400<<10 || used > limit {
		t.Errorf("used %d of %d, %v", used, limit, err)
	}
	// A greater limit, and none.
	for _, c := range []struct {
		limit uint64
		kb    string
	}{{1 << 20, "700"}, {0, "3000"}} {
		if err := s.Limit(id, c.limit); err != nil {
			t.Fatal(err)
		}
		if out := write(t, filepath.Join(a, "big"), c.kb); strings.Contains(out, "xceeded") {
			t.Errorf("limit %d, %s KB: %s", c.limit, c.kb, out)
		}
	}
	if used, limit, err := s.Usage(id); err != nil || limit != 0 || used < 3000<<10 {
		t.Errorf("used %d of %d, %v", used, limit, err)
	}
}

// TestNumbers: a number is somebody's for as long as a file bears it, whichever process looks, and no longer.
func TestNumbers(t *testing.T) {
	s, dir := quotas(t, Range{71000, 71001}, Range{71010, 71010})
	a, b, c, d := mkdir(t, dir, "a"), mkdir(t, dir, "b"), mkdir(t, dir, "c"), mkdir(t, dir, "d")
	if got := []uint32{own(t, s, a, 1<<20), own(t, s, b, 2<<20), own(t, s, a, 4<<20)}; got[0] != 71000 || got[1] != 71001 || got[2] != got[0] {
		t.Errorf("projects %v", got)
	}
	if _, limit, err := s.Usage(71000); err != nil || limit != 4<<20 {
		t.Errorf("limit %d, %v", limit, err)
	}
	// Another process, which knows nothing but the file system.
	again, err := Open(dir, s.ranges)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if id := own(t, again, c, 0); id != 71010 {
		t.Errorf("project %d", id)
	}
	if id := own(t, again, b, 3<<20); id != 71001 {
		t.Errorf("it has become project %d", id)
	}
	if _, err := again.Own(d, 0); !errors.Is(err, ErrNone) {
		t.Errorf("a fourth of three: %v", err)
	}
	if got, err := Project(d); err != nil || got != 0 {
		t.Errorf("it belongs to %d, %v", got, err)
	}
	if err := os.RemoveAll(b); err != nil {
		t.Fatal(err)
	}
	// XFS takes deleted files off the account a moment later.
	id, err := again.Own(d, 0)
	for deadline := time.Now().Add(time.Minute); errors.Is(err, ErrNone) && time.Now().Before(deadline); id, err = again.Own(d, 0) {
		time.Sleep(time.Millisecond)
	}
	if err != nil || id != 71001 {
		t.Errorf("project %d, %v", id, err)
	}
	if _, limit, err := again.Usage(71001); err != nil || limit != 0 {
		t.Errorf("it has its predecessor's limit %d, %v", limit, err)
	}
}

// TestCutOff: a number that an assignment which did not come to its end has left on some files is not the directory's, nor given to
// anybody else, and the next assignment begins anew.
func TestCutOff(t *testing.T) {
	s, dir := quotas(t, Range{72000, 72001})
	a, b := mkdir(t, dir, "a"), mkdir(t, dir, "b")
	early := mkdir(t, a, "early")
	mkdir(t, a, "late")
	if err := s.Assign(early, 72000); err != nil {
		t.Fatal(err)
	}
	if id := own(t, s, a, 1<<20); id != 72001 {
		t.Errorf("project %d", id)
	}
	for _, d := range []string{a, early, filepath.Join(a, "late")} {
		if got, err := Project(d); err != nil || got != 72001 {
			t.Errorf("%s belongs to %d, %v", d, got, err)
		}
	}
	if id := own(t, s, b, 1<<20); id != 72000 { // nothing bears it any more
		t.Errorf("project %d", id)
	}
}

// TestRefused runs everywhere.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, r := range [][]Range{nil, {{0, 5}}, {{6, 5}}, {{1, 1<<32 - 1}}} {
		if _, err := Open(t.TempDir(), r); err == nil || !strings.Contains(err.Error(), "project numbers") {
			t.Errorf("%v: %v", r, err)
		}
	}
	if _, err := Open("/proc", []Range{{1, 2}}); err == nil || !strings.Contains(err.Error(), "prjquota") {
		t.Errorf("/proc: %v", err)
	}
	if _, err := Open("/nonsense", []Range{{1, 2}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
