package native

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
)

// TestUnifiedHierarchy runs containers in a real cgroup v2 hierarchy, be it one without controllers beside v1: they are
// born into their group, killed by it, and it goes with them. Limits are TestFakeV2's where v2 has no controllers.
func TestUnifiedHierarchy(t *testing.T) {
	t.Parallel()
	needRoot(t)
	mnt := ""
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		if f := strings.Fields(string(line)); len(f) > 5 && strings.Contains(string(line), " - cgroup2 ") {
			mnt = f[4]
		}
	}
	if mnt == "" {
		t.Skip("no cgroup v2 hierarchy is mounted here")
	}
	h := newHost(t)
	d := h.start(nil)
	defer d.end()
	m, err := cgroup.New(&cgroup.Host{V2: mnt}, cgroup.Config{Root: h.root})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Open(".").Remove() }()
	d.groups.Close()
	d.groups = m
	d.launch(d.plain("u", "(setsid sh -c 'trap \"\" TERM; sleep 1000' &); sleep 1000"))
	procs := read(t, mnt, h.root, "u", "leaf", "cgroup.procs")
	if n := len(strings.Fields(procs)); n < 2 {
		t.Errorf("%d processes in the group's leaf", n)
	}
	// The helper is stopped: only force is left.
	ct, _ := d.find("u")
	if err := ct.helper.Signal(sysSignal(19)); err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(t.Context(), "u"); err != nil {
		t.Fatal(err)
	}
	d.wait("u")
	if left := marked(d.mark("u")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := os.Stat(filepath.Join(mnt, h.root, "u")); err == nil {
		t.Error("the group is left")
	}
}
